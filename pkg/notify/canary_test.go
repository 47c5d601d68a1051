package notify

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
)

// A secret is in no error, no detail and no log, whatever goes wrong, even
// when the receiver sends back all it was given. Not parallel, since it looks
// at what the whole process logs.
func TestSecretsAreNeverTold(t *testing.T) {
	var logged bytes.Buffer
	slog.SetDefault(slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))) // and that of package log

	const canary = "cAnArY99sEcReT"
	key := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(canary, 2)))
	echo := func(status int) *httptest.Server {
		return serve(t, func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Location", r.URL.String())
			w.WriteHeader(status)
			_, _ = io.WriteString(w, r.URL.String()+" "+r.Header.Get("Authorization")+" ")
			_, _ = io.Copy(w, r.Body)
		})
	}
	var endpoints []string
	for _, status := range []int{200, 302, 400, 401, 404, 429, 500} {
		endpoints = append(endpoints, echo(status).URL)
	}
	hang := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.Config.ErrorLog = quiet
	secure.StartTLS()
	t.Cleanup(secure.Close)
	endpoints = append(endpoints, hang.URL, secure.URL, "http://127.0.0.1:1", "http://nosuch.invalid", "http://169.254.169.254", "gopher://x", "http://[::1", "http://a b", "")

	serverTLS, _ := certificate(t)
	office := (&postOffice{tls: serverTLS, auth: "PLAIN", user: "other\x00other"}).open(t)
	dir := t.TempDir()
	var told []string
	for _, allow := range []bool{true, false} {
		for i, base := range endpoints {
			path := base + "/services/" + canary + "?sig=" + canary
			secrets := map[string]string{
				"URL": path, "KEY": canary, "SIGN": key, "SIGNBAD": "whsec_" + canary, "TOKEN": canary, "TOKENBAD": canary + "\r\nX-Y: z",
				"SHOUT":    "ntfy://" + canary + ":" + canary + "@" + strings.TrimPrefix(base, "http://") + "/" + canary + "?scheme=http",
				"GENERIC":  "generic://" + strings.TrimPrefix(base, "http://") + "/" + canary + "?disabletls=yes&@authorization=" + canary,
				"TELEGRAM": "telegram://" + canary + "@telegram?chats=%zz", "DISCORD": "discord://" + canary + "@?x=" + canary,
				"MAIL": "smtp://" + canary + ":" + canary + "@" + office.addr, "MAILBAD": "smtp://" + canary + ":" + canary + "@" + office.addr + "?x=" + canary,
			}
			if err := os.WriteFile(filepath.Join(dir, "url"), []byte(path), 0o600); err != nil {
				t.Fatal(err)
			}
			ref := func(name string) string { return "env:NIGHTSHIFT_SECRET_" + name }
			receivers := []*notificationv1.Receiver{
				slackTo(ref("URL")), slackTo("file:url"), slackTo(ref("KEY")), teamsTo(ref("URL")), pagerTo(ref("KEY"), base), pagerTo(ref("SIGN"), base),
				webhookTo(base, ref("SIGN")), webhookTo(base, ref("SIGNBAD")), alertmanagerTo(base, ref("TOKEN")), alertmanagerTo(base, ref("TOKENBAD")),
			}
			if base != hang.URL {
				for _, name := range []string{"SHOUT", "GENERIC", "TELEGRAM", "DISCORD", "KEY"} {
					receivers = append(receivers, shoutrrrTo(ref(name)))
				}
			}
			mails := []string{"MAIL", "MAILBAD", "KEY"}
			if i > 0 {
				mails = nil
			}
			try := func(cfg Config, r *notificationv1.Receiver) {
				cfg.SecretsDir, cfg.AllowPrivate, cfg.From = dir, allow, mailFrom
				s := sender(t, cfg, secrets)
				limit := 5 * time.Second
				if base == hang.URL {
					limit = 20 * time.Millisecond
				}
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				detail, err := s.Send(ctx, envelope(r, one("x")))
				told = append(told, fmt.Sprintf("%q: %s %v %+v %#v", base, detail, err, err, err))
			}
			for _, r := range receivers {
				try(Config{}, r)
			}
			for _, name := range mails {
				try(Config{SMTP: ref(name)}, mailTo("a@example.com"))
			}
		}
	}
	told = append(told, logged.String())
	if len(told) < 200 {
		t.Errorf("only %d attempts", len(told))
	}
	for _, s := range told {
		for _, secret := range []string{canary, key, base64.StdEncoding.EncodeToString([]byte(canary)), "cAnArY99", "\x00" + canary} {
			if strings.Contains(s, secret) {
				t.Errorf("told: %s", s)
			}
		}
	}
}
