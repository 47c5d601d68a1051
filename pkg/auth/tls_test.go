package auth_test

import (
	"crypto/tls"
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

func load(t *testing.T, dir string) *auth.TLS {
	t.Helper()
	c, err := auth.LoadTLS(dir, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func issue(t *testing.T, ca *auth.CA, name string, now time.Time, life time.Duration) {
	t.Helper()
	if _, _, err := ca.Issue(name, []string{"localhost", "127.0.0.1"}, now, life); err != nil {
		t.Fatal(err)
	}
}

// shake connects a client to a server and returns who the server sees.
func shake(t *testing.T, server, client *tls.Config) (auth.Principal, error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	type seen struct {
		p   auth.Principal
		err error
	}
	served := make(chan seen, 1)
	go func() {
		c, err := l.Accept()
		if err != nil {
			served <- seen{err: err}
			return
		}
		defer c.Close()
		s := tls.Server(c, server)
		if err := s.Handshake(); err != nil {
			served <- seen{err: err}
			return
		}
		p, err := auth.PeerOf(s.ConnectionState(), time.Now())
		_, _ = s.Write([]byte("x"))
		served <- seen{p, err}
	}()
	client = client.Clone()
	client.ServerName = "localhost"
	c, err := tls.Dial("tcp", l.Addr().String(), client)
	if err == nil {
		_, err = c.Read(make([]byte, 1))
		c.Close()
	}
	s := <-served
	if err == nil {
		err = s.err
	}
	return s.p, err
}

func TestServicesKnowEachOther(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Now()
	ca, made, err := auth.OpenCA(dir, now, 24*time.Hour)
	if err != nil || !made {
		t.Fatal(err)
	}
	for _, name := range []string{"persistence", "waste", auth.Operator} {
		issue(t, ca, name, now, time.Hour)
	}
	persistence, waste, operator := load(t, filepath.Join(dir, "persistence")), load(t, filepath.Join(dir, "waste")), load(t, filepath.Join(dir, auth.Operator))
	p, err := shake(t, persistence.Server(), waste.Client("persistence"))
	if err != nil || p.Name != "waste" || p.Role != 0 {
		t.Errorf("%+v, %v", p, err)
	}
	if p, err = shake(t, persistence.Server(), operator.Client("")); err != nil || p.Name != auth.Operator || p.Role != authv1.Role_ROLE_ADMIN {
		t.Errorf("%+v, %v", p, err)
	}
	if _, err = shake(t, persistence.Server(), waste.Client("scheduler")); err == nil || !strings.Contains(err.Error(), "it is persistence that answers, not scheduler") {
		t.Errorf("another service answers: %v", err)
	}
	// The authority's directory has no certificate of its own to show.
	if _, err = shake(t, persistence.Server(), load(t, dir).Client("persistence")); !errors.Is(err, errs.Unauthenticated) || errs.Reason(err) != "TOKEN_MISSING" {
		t.Errorf("nobody: %v", err)
	}
	old := waste.Client("persistence")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, err = shake(t, persistence.Server(), old); err == nil {
		t.Error("TLS 1.2 was taken")
	}
	for _, name := range []string{"persistence", "waste"} {
		for file, mode := range map[string]fs.FileMode{"tls.key": 0o600, "tls.crt": 0o644, "ca.crt": 0o644} {
			if i, err := os.Stat(filepath.Join(dir, name, file)); err != nil || i.Mode().Perm() != mode {
				t.Errorf("%s/%s has mode %v, %v", name, file, i.Mode(), err)
			}
		}
	}
	if i, err := os.Stat(filepath.Join(dir, "ca.key")); err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("ca.key has mode %v, %v", i.Mode(), err)
	}
}

// What changes in the files counts from the next connection on; what cannot be
// used does not.
func TestCertificatesAreReadAgain(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Now()
	ca, _, err := auth.OpenCA(dir, now, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	issue(t, ca, "persistence", now, time.Hour)
	issue(t, ca, "waste", now, time.Hour)
	persistence, waste := load(t, filepath.Join(dir, "persistence")), load(t, filepath.Join(dir, "waste"))
	server, client := persistence.Server(), waste.Client("persistence")
	p, err := shake(t, server, client)
	if err != nil {
		t.Fatal(err)
	}
	first := p.Expire
	// Not yet in its last third.
	if _, written, err := ca.Issue("waste", []string{"localhost"}, now.Add(30*time.Minute), time.Hour); err != nil || written {
		t.Errorf("written %v, %v", written, err)
	}
	if _, written, err := ca.Issue("waste", []string{"localhost"}, now.Add(45*time.Minute), 2*time.Hour); err != nil || !written {
		t.Errorf("written %v, %v", written, err)
	}
	if p, err = shake(t, server, client); err == nil && !p.Expire.After(first) {
		t.Errorf("the old certificate is still shown, which ends %s", p.Expire)
	}
	// A host that is missing is a reason, too.
	if _, written, err := ca.Issue("persistence", []string{"nightshift.internal"}, now, time.Hour); err != nil || !written {
		t.Errorf("written %v, %v", written, err)
	}
	for _, broken := range []string{"", "nonsense"} {
		if err := os.WriteFile(filepath.Join(dir, "waste", "tls.crt"), []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		if waste.Name() != "waste" {
			t.Errorf("it is %q now", waste.Name())
		}
	}
	// Another authority: who has not heard of it is a stranger.
	other := t.TempDir()
	ca2, _, err := auth.OpenCA(other, now, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	issue(t, ca2, "persistence", now, time.Hour)
	for _, f := range []string{"tls.key", "tls.crt", "ca.crt"} {
		b, err := os.ReadFile(filepath.Join(other, "persistence", f))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "persistence", f), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := shake(t, server, client); err == nil {
		t.Error("a stranger was believed")
	}
	if _, err := shake(t, server, load(t, filepath.Join(other, "persistence")).Client("persistence")); err != nil {
		t.Error(err)
	}
}

func TestCertificatesThatCannotBeUsed(t *testing.T) {
	t.Parallel()
	dir, now := t.TempDir(), time.Now()
	if _, err := auth.LoadTLS(dir, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "ca.crt") {
		t.Errorf("an empty directory: %v", err)
	}
	ca, _, err := auth.OpenCA(dir, now, 24*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	issue(t, ca, "waste", now, time.Hour)
	if err := os.Remove(filepath.Join(dir, "waste", "tls.key")); err != nil {
		t.Fatal(err)
	}
	if _, err := auth.LoadTLS(filepath.Join(dir, "waste"), slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "tls.key") {
		t.Errorf("without a key: %v", err)
	}
	// An authority goes on, or says what is missing; it is never made anew over another.
	if _, made, err := auth.OpenCA(dir, now, time.Hour); err != nil || made {
		t.Errorf("made %v, %v", made, err)
	}
	if _, _, err := auth.OpenCA(dir, now.Add(25*time.Hour), time.Hour); err == nil || !strings.Contains(err.Error(), "has expired") {
		t.Errorf("an old authority: %v", err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.key")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := auth.OpenCA(dir, now, time.Hour); err == nil || !strings.Contains(err.Error(), "not both") {
		t.Errorf("without its key: %v", err)
	}
}
