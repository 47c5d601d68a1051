package notify

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
)

func TestShoutrrrReachesVendorsAlone(t *testing.T) {
	t.Parallel()
	closed := &attempt{Sender: sender(t, Config{}, nil)}
	open := &attempt{Sender: sender(t, Config{AllowPrivate: true}, nil)}
	for _, tt := range []struct {
		urls          string
		public, allow bool
	}{
		{"telegram://token@telegram?chats=1 discord://token@id pushover://:token@user ntfy://ntfy.sh/topic ntfy://u:p@ntfy.sh/topic opsgenie://api.eu.opsgenie.com/key zulip://bot:key@acme.zulipchat.com googlechat://chat.googleapis.com/v1/spaces/x", true, true},
		{"generic://127.0.0.1 generic+https://example.com ntfy://127.0.0.1/topic ntfy://ntfy.sh:8080/topic ntfy://ntfy.sh.evil.example/t opsgenie://127.0.0.1/key zulip://b:k@acme.zulipchat.com.evil.example", false, true},
		{"matrix://u:p@10.0.0.1 gotify://host/token mattermost://host/token rocketchat://host/t/c signal://host/x bark://:k@host googlechat://evil.example/v1/spaces/x discord+https://127.0.0.1/x", false, true},
		{"logger:// smtp://mail.example.com slack://x teams://x pagerduty://x", false, false},
	} {
		for text := range strings.FieldsSeq(tt.urls) {
			u, err := url.Parse(text)
			if err != nil {
				t.Fatal(err)
			}
			if why := closed.allowed(u); (why == "") != tt.public {
				t.Errorf("%s: %q", text, why)
			}
			if why := open.allowed(u); (why == "") != tt.allow {
				t.Errorf("%s, with private addresses: %q", text, why)
			}
		}
	}
}

func TestShoutrrr(t *testing.T) {
	t.Parallel()
	type seen struct{ title, body, auth string }
	got := make(chan seen, 2)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		got <- seen{r.Header.Get("Title"), string(b), r.Header.Get("Authorization")}
		if strings.HasSuffix(r.URL.Path, "bad") {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"error": "no, cAnArY99"}`)
			return
		}
		_, _ = io.WriteString(w, "{}")
	})
	hang := serve(t, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	host := strings.TrimPrefix(srv.URL, "http://")
	secrets := map[string]string{
		"GOOD": "ntfy://bot:cAnArY99@" + host + "/topic?scheme=http", "BAD": "ntfy://bot:cAnArY99@" + host + "/bad?scheme=http",
		"HANG": "ntfy://bot:cAnArY99@" + strings.TrimPrefix(hang.URL, "http://") + "/topic?scheme=http", "NONE": "nosuch://cAnArY99", "NOT": "cAnArY99",
		"BROKEN": "ntfy://bot:cAnArY99@" + host + "/topic?scheme=http&nosuch=cAnArY99",
	}
	s := sender(t, Config{AllowPrivate: true}, secrets)
	if d := send(t, s, envelope(shoutrrrTo("env:NIGHTSHIFT_SECRET_GOOD"), one("@everyone <card-vault>"))); d != "ntfy took it" {
		t.Errorf("detail %q", d)
	}
	if m := <-got; m.auth == "" || !strings.Contains(m.title, "vol-1") || !strings.Contains(m.body, "@\u2060everyone ‹card-vault›") || !strings.Contains(m.body, "$40.00–60.00 a month") {
		t.Errorf("%+v", m)
	}
	for _, name := range []string{"BAD", "NONE", "NOT", "BROKEN"} {
		if f := failure(t, s, envelope(shoutrrrTo("env:NIGHTSHIFT_SECRET_"+name), one("x"))); f.Permanent || !f.Receiver || strings.Contains(f.Detail, "cAnArY99") {
			t.Errorf("%s: %+v", name, f)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := s.Send(ctx, envelope(shoutrrrTo("env:NIGHTSHIFT_SECRET_HANG"), one("x")))
	var f *Failure
	if !errors.As(err, &f) || f.Permanent || !f.Receiver || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("hangs: %+v", err)
	}
	hang.CloseClientConnections()
	for _, host := range []string{"169.254.169.254", "[::ffff:169.254.169.254]", "0.0.0.0"} {
		secrets["META"] = "generic://" + host + "/latest?disabletls=yes"
		if f := failure(t, s, envelope(shoutrrrTo("env:NIGHTSHIFT_SECRET_META"), one("x"))); !f.Permanent || !strings.Contains(f.Detail, "not allowed") {
			t.Errorf("%s: %+v", host, f)
		}
	}
	if f := failure(t, sender(t, Config{}, secrets), envelope(shoutrrrTo("env:NIGHTSHIFT_SECRET_GOOD"), one("x"))); !f.Permanent || !f.Receiver {
		t.Errorf("a private address: %+v", f)
	}
}
