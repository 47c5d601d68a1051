package app

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

func TestNATSFromAFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, _, err := auth.OpenCA(dir, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ca.Issue("waste", nil, time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	security, err := Config{TLSDir: filepath.Join(dir, "waste")}.Security("waste", slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "nats.env")
	for _, c := range []struct {
		content, url string
		tls          bool
	}{
		{"NATS_URL=tls://waste:secret@nats:4222\n", "tls://waste:secret@nats:4222", true},
		{"nats://waste:secret@a:4222,nats://waste:secret@b:4222", "nats://waste:secret@a:4222,nats://waste:secret@b:4222", false},
		{content: ""}, {content: "NATS_URL=\n"}, {content: "A=secret\nNATS_URL=nats://a:4222\n"},
	} {
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := NATS("nats://elsewhere:4222", path, security)
		if got.URL != c.url || (got.TLS != nil) != c.tls || (err == nil) != (c.url != "") {
			t.Errorf("%q: %+v, %v", c.content, got, err)
		}
		if err != nil && (errs.Reason(err) != "BAD_CONFIGURATION" || !strings.Contains(err.Error(), "NATS_URL_FILE") || strings.Contains(err.Error(), "secret")) {
			t.Errorf("%q: %v", c.content, err)
		}
	}
	if _, err := NATS("nats://elsewhere:4222", path+"2", security); err == nil || !strings.Contains(err.Error(), "NATS_URL_FILE") {
		t.Errorf("a file that is not there: %v", err)
	}
	if got, err := NATS("nats://elsewhere:4222", "", security); err != nil || got.URL != "nats://elsewhere:4222" || got.TLS != nil {
		t.Errorf("without a file: %+v, %v", got, err)
	}
}
