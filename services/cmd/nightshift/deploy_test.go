package main

import (
	"context"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nightshift.dev/pkg/bus"
)

func TestDeployNATS(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "nats")
	run := func(args ...string) (files map[string]string, said result) {
		t.Helper()
		said = terminal(context.Background(), 0, nil, append([]string{"deploy", "nats", "--out", dir}, args...)...)
		files = map[string]string{}
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			b, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				t.Fatal(err)
			}
			files[e.Name()] = string(b)
			if info, err := e.Info(); err != nil || strings.HasSuffix(e.Name(), ".env") && info.Mode().Perm() != 0o600 {
				t.Errorf("%s: mode %v, %v", e.Name(), info.Mode(), err)
			}
		}
		return files, said
	}
	first, said := run("--server", "nats://a:4222,nats://b:4222")
	if said.code != 0 || len(first) != len(bus.Users())+1 {
		t.Fatalf("%+v, %d files", said, len(first))
	}
	for name, content := range first {
		user, isEnv := strings.CutSuffix(name, ".env")
		if !isEnv {
			continue
		}
		if !strings.HasPrefix(content, "NATS_URL=nats://"+user+":") || strings.Count(content, "nats://"+user+":") != 2 || !strings.HasSuffix(content, "@b:4222\n") {
			t.Errorf("%s: %s", name, content)
		}
		_, rest, _ := strings.Cut(content, user+":")
		secret, _, _ := strings.Cut(rest, "@")
		if len(secret) < 22 || strings.Contains(first[natsConfig], secret) || strings.Contains(said.out+said.err, secret) {
			t.Errorf("the secret of %s is short, or told", user)
		}
	}
	second, said := run("--server", "nats://a:4222,nats://b:4222", "--rotate", "waste")
	for name := range first {
		if kept := first[name] == second[name]; strings.HasSuffix(name, ".env") && kept == (name == "waste.env") {
			t.Errorf("%s was kept: %v; %+v", name, kept, said)
		}
	}
	for _, bad := range [][]string{{"--rotate", "nobody"}, {"--server", "http://x"}, {"--server", "nats://u:secret@x:4222"}, {"--server", ""}, {"extra"}} {
		if _, said := run(bad...); said.code != exitUsage || strings.Contains(said.err, "secret") {
			t.Errorf("%v: %+v", bad, said)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "waste.env"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, said := run(); said.code == 0 || !strings.Contains(said.err, "waste.env") {
		t.Errorf("a file of somebody else: %+v", said)
	}
}

// Beside the certificates each user's file is in a directory of its own.
func TestDeployNATSWithCerts(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	run := func() map[string]string {
		t.Helper()
		if said := terminal(context.Background(), 0, nil, "deploy", "nats", "--out", dir, "--with-certs", "--server", "tls://nats:4222"); said.code != 0 {
			t.Fatalf("%+v", said)
		}
		files := map[string]string{}
		for _, u := range bus.Users() {
			of := u.Name
			if of == bus.UserAdmin {
				of = "operator"
			}
			b, err := os.ReadFile(filepath.Join(dir, of, "nats.env"))
			if err != nil || !strings.HasPrefix(string(b), "NATS_URL=tls://"+u.Name+":") {
				t.Errorf("%s: %s, %v", u.Name, b, err)
			}
			files[u.Name] = string(b)
		}
		return files
	}
	first := run()
	if again := run(); !maps.Equal(first, again) {
		t.Error("passwords were not kept")
	}
	if _, err := os.Stat(filepath.Join(dir, "nats", natsConfig)); err != nil {
		t.Error(err)
	}
	if top, err := filepath.Glob(filepath.Join(dir, "*.*")); err != nil || len(top) > 0 {
		t.Errorf("also in the directory of all: %v, %v", top, err)
	}
}
