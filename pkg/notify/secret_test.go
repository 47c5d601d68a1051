package notify

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestSecretsOfFiles(t *testing.T) {
	t.Parallel()
	dir, outside := t.TempDir(), t.TempDir()
	write := func(path, text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	link := func(target, name string) {
		t.Helper()
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	write(filepath.Join(dir, "good"), "  first\n")
	write(filepath.Join(outside, "secret"), "hidden")
	write(filepath.Join(dir, "empty"), " \n")
	write(filepath.Join(dir, "large"), strings.Repeat("x", mostSecret+1))
	link(filepath.Join(outside, "secret"), "absolute")
	link("../"+filepath.Base(outside)+"/secret", "relative")
	// As Kubernetes mounts a secret.
	if err := os.Mkdir(filepath.Join(dir, "..2026"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(filepath.Join(dir, "..2026", "token"), "mounted")
	link("..2026", "..data")
	link("..data/token", "token")

	s := sender(t, Config{SecretsDir: dir}, nil)
	for name, want := range map[string]string{"good": "first", "token": "mounted"} {
		if got, err := s.resolve("file:" + name); err != nil || got != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for _, name := range []string{
		"absent", "absolute", "relative", "empty", "large", "..data", "../" + filepath.Base(outside) + "/secret", "..2026/token", "/etc/hostname", "", ".", "good/", "good\x00", "good\n",
	} {
		got, err := s.resolve("file:" + name)
		if err == nil {
			t.Errorf("%q is read: %q", name, got)
		} else if strings.Contains(err.Error(), dir) || strings.Contains(err.Error(), "hidden") {
			t.Errorf("%q: says too much: %v", name, err)
		}
	}
	// A new value counts from the next use.
	write(filepath.Join(dir, "good"), "second")
	if got, err := s.resolve("file:good"); err != nil || got != "second" {
		t.Errorf("after the change: %q, %v", got, err)
	}
	if _, err := sender(t, Config{}, nil).resolve("file:good"); err == nil || !strings.Contains(err.Error(), "NIGHTSHIFT_SECRETS_DIR") {
		t.Errorf("without a directory: %v", err)
	}
}

func TestSecretsOfTheEnvironment(t *testing.T) {
	t.Parallel()
	s := sender(t, Config{}, map[string]string{"A": " x ", "EMPTY": "  "})
	if got, err := s.resolve("env:NIGHTSHIFT_SECRET_A"); err != nil || got != "x" {
		t.Errorf("%q, %v", got, err)
	}
	for _, ref := range []string{"env:NIGHTSHIFT_SECRET_B", "env:NIGHTSHIFT_SECRET_EMPTY", "env:PATH", "env:DATABASE_URL", "env:NIGHTSHIFT_SECRET_a", "NIGHTSHIFT_SECRET_A", "x", ""} {
		if got, err := s.resolve(ref); err == nil {
			t.Errorf("%s is read: %q", ref, got)
		}
	}
	// A secret that is not there yet is no reason to give a message up.
	f := failure(t, s, envelope(slackTo("env:NIGHTSHIFT_SECRET_B"), one("x")))
	if f.Permanent || !f.Receiver || !strings.Contains(f.Detail, "env:NIGHTSHIFT_SECRET_B") {
		t.Errorf("%+v", f)
	}
}

func TestDetailsAreHarmless(t *testing.T) {
	t.Parallel()
	a := &attempt{Sender: sender(t, Config{}, nil)}
	a.hide("https://hooks.example.com/services/T01/B02/cAnArY99?sig=s%2Fi+g&x=1")
	a.hide(`w/J"a&l`)
	a.hide("e") // must not eat what replaces the others
	for _, in := range []string{
		"Post \"https://hooks.example.com/services/T01/B02/cAnArY99?sig=s%2Fi+g&x=1\": refused", "no such hook /services/T01/B02/cAnArY99", "token cAnArY99", "sig s/i g",
		"base64 Y0FuQXJZOTk=", `{"error":"no token w/J\"a\u0026l"}`, `{"error":"no token w\/J\"a&l"}`, "sig=s%2fi+g",
	} {
		got := a.detail("%s", in)
		for _, bad := range []string{"cAnArY99", "s/i g", "Y0FuQXJZOTk=", "w/J", `w\/J`, "s%2fi+g"} {
			if strings.Contains(got, bad) {
				t.Errorf("%q became %q", in, got)
			}
		}
	}
	if got := a.detail("x\r\n\x1b[31m\u202ey %s", strings.Repeat("ä ", 600)); strings.ContainsAny(got, "\r\n\x1b\u202e") || len([]rune(got)) > 500 {
		t.Errorf("%q", got)
	}
}

func TestConfigurationsThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"NIGHTSHIFT_SMTP_FROM":             {From: "no address"},
		"NIGHTSHIFT_SMTP_FROM must be set": {SMTP: "smtp://mail.example.com"},
		"NIGHTSHIFT_SMTP_URL":              {SMTP: "https://user:cAnArY99@mail.example.com"},
		"NIGHTSHIFT_SECRETS_DIR":           {SecretsDir: "/does/not/exist"},
		"NIGHTSHIFT_NOTIFY_LINK":           {Link: "javascript:alert({id})"},
	} {
		_, err := New(cfg, nil)
		if err == nil || !strings.Contains(strings.ReplaceAll(err.Error(), ":", ""), name) || strings.Contains(err.Error(), "cAnArY99") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, url := range []string{"smtp://", "smtp://host/path", "smtp://host?tls=no", "smtp://host?x=1", "host:25", "smtp://a:b@", "smtp://host:x", "%"} {
		if _, err := mailServer(url); err == nil {
			t.Errorf("%s is a mail server", url)
		}
	}
	if s, err := mailServer("smtp://u%40x:p%3Aw@mail.example.com"); err != nil || s.user != "u@x" || s.password != "p:w" || s.port != "587" || s.implicit || s.optional {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := mailServer("smtps://[::1]:2465?tls=optional"); err != nil || s.host != "::1" || s.port != "2465" || !s.implicit {
		t.Errorf("%+v, %v", s, err)
	}
}
