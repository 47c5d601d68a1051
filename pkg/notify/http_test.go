package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
)

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// A server notices that a client is gone once it has read the body.
		body, _ := io.ReadAll(r.Body)
		r.Body = io.NopCloser(bytes.NewReader(body))
		h(w, r)
	}))
	t.Cleanup(srv.Close)
	return srv
}

// A receiver that verifies with the specification's own library takes what we
// sign, with each of the secrets that are in force, and nothing else.
func TestWebhookIsSigned(t *testing.T) {
	t.Parallel()
	other := "whsec_" + strings.Repeat("QUJD", 16)
	type seen struct {
		body   []byte
		header http.Header
	}
	got := make(chan seen, 1)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got <- seen{body, r.Header}
		w.WriteHeader(http.StatusNoContent)
	})
	s := sender(t, Config{AllowPrivate: true, Version: "1.2.3"}, map[string]string{"SIGN": other + " \t" + signingSecret + "\n"})
	e := envelope(webhookTo(srv.URL+"/hook?x=1", "env:NIGHTSHIFT_SECRET_SIGN"), one("card-vault"))
	e.Time = time.Now()
	if d := send(t, s, e); d != "HTTP 204 No Content" {
		t.Errorf("detail %q", d)
	}
	m := <-got
	for secret, want := range map[string]bool{other: true, signingSecret: true, "whsec_" + strings.Repeat("AAAA", 8): false} {
		wh, err := standardwebhooks.NewWebhook(secret)
		if err != nil {
			t.Fatal(err)
		}
		if err := wh.Verify(m.body, m.header); (err == nil) != want {
			t.Errorf("verified: %v", err)
		}
		if want && wh.Verify(append(m.body, ' '), m.header) == nil {
			t.Error("a changed body is verified")
		}
	}
	if id := m.header.Get("webhook-id"); id != e.IdempotencyKey {
		t.Errorf("id %q", id)
	}
	if ua := m.header.Get("User-Agent"); ua != "nightshift/1.2.3" {
		t.Errorf("user agent %q", ua)
	}
	var body struct {
		Type      string          `json:"type"`
		Timestamp time.Time       `json:"timestamp"`
		Data      json.RawMessage `json:"data"`
	}
	if err := json.Unmarshal(m.body, &body); err != nil || body.Type != "notification.news" || !body.Timestamp.Equal(noon) {
		t.Errorf("%+v, %v", body, err)
	}
	var back notificationv1.Message
	if err := protojson.Unmarshal(body.Data, &back); err != nil || !proto.Equal(&back, e.Message) {
		t.Errorf("the message did not survive: %v", err)
	}
}

// The example of the specification.
func TestSignatureOfTheSpecification(t *testing.T) {
	t.Parallel()
	h, ok := signed(signingSecret, "msg_p5jXN8AQM9LWM0D4loKWxJek", time.Unix(1614265330, 0), []byte(`{"test": 2432232314}`))
	if !ok || h.Get("Webhook-Signature") != "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=" {
		t.Errorf("%v", h)
	}
	for _, bad := range []string{"", " ", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_", "whsec_%", "whsec_AAAA", "whsec_" + strings.Repeat("AAAA", 22), signingSecret + " x"} {
		if _, ok := signed(bad, "a", noon, nil); ok {
			t.Errorf("%q signs", bad)
		}
	}
}

// What an answer means is the same for all receivers.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		status              int
		header, value, body string
		permanent, receiver bool
		wait                time.Duration
		detail              string
	}{
		{429, "Retry-After", "37", "slow down", false, true, 37 * time.Second, "HTTP 429 Too Many Requests: slow down"},
		{429, "Retry-After", "Tue, 31 Mar 2026 12:03:00 GMT", "", false, true, 2 * time.Minute, "HTTP 429"},
		{429, "Retry-After", "Tue, 31 Mar 2020 12:03:00 GMT", "", false, true, 0, "HTTP 429"},
		{429, "Retry-After", "99999999999", "", false, true, 24 * time.Hour, "HTTP 429"},
		{429, "Retry-After", "-5", "", false, true, 0, "HTTP 429"},
		{503, "Retry-After", "later", "", false, true, 0, "HTTP 503 Service Unavailable"},
		{500, "", "", "<b>oops</b>\x1b[2J", false, true, 0, "HTTP 500 Internal Server Error: <b>oops</b>\uFFFD[2J"},
		{502, "", "", "", false, true, 0, "HTTP 502"},
		{401, "", "", "", false, true, 0, "HTTP 401"},
		{403, "", "", "invalid_token", false, true, 0, "HTTP 403 Forbidden: invalid_token"},
		{404, "", "", "no_service", false, true, 0, "HTTP 404 Not Found: no_service"},
		{408, "", "", "", false, true, 0, "HTTP 408"},
		{410, "", "", "channel_is_archived", true, true, 0, "HTTP 410 Gone: channel_is_archived"},
		{400, "", "", "invalid_payload", true, false, 0, "HTTP 400 Bad Request: invalid_payload"},
		{413, "", "", "", true, false, 0, "HTTP 413"},
		{422, "", "", "", true, false, 0, "HTTP 422"},
		{302, "Location", "http://169.254.169.254/", "", true, true, 0, "HTTP 302: redirects are not followed"},
		{308, "Location", "/elsewhere", "", true, true, 0, "HTTP 308: redirects are not followed"},
		{799, "", "", "", false, true, 0, "HTTP 799"},
	} {
		t.Run(fmt.Sprintf("%d %s", tt.status, tt.value), func(t *testing.T) {
			t.Parallel()
			var hits atomic.Int32
			srv := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				hits.Add(1)
				if tt.header != "" {
					w.Header().Set(tt.header, tt.value)
				}
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.body)
			})
			s := sender(t, Config{AllowPrivate: true}, map[string]string{"URL": srv.URL})
			f := failure(t, s, envelope(slackTo("env:NIGHTSHIFT_SECRET_URL"), one("x")))
			if f.Permanent != tt.permanent || f.Receiver != tt.receiver || f.RetryAfter != tt.wait || !strings.HasPrefix(f.Detail, tt.detail) {
				t.Errorf("%+v", f)
			}
			if hits.Load() != 1 {
				t.Errorf("%d requests", hits.Load())
			}
		})
	}
}

func TestEndpointsThatMisbehave(t *testing.T) {
	t.Parallel()
	hang := func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }
	for name, tt := range map[string]struct {
		handler http.HandlerFunc
		time    time.Duration
		ok      bool
		detail  string
	}{
		"hangs": {hang, 50 * time.Millisecond, false, "no answer in time"},
		"never stops": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusInternalServerError)
			for chunk := []byte(strings.Repeat("x", 64<<10)); r.Context().Err() == nil; {
				if _, err := w.Write(chunk); err != nil {
					return
				}
			}
		}, time.Minute, false, "HTTP 500 Internal Server Error: xxx"},
		"trickles": {func(w http.ResponseWriter, r *http.Request) {
			w.WriteHeader(http.StatusOK)
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, time.Minute, true, "HTTP 200 OK"},
		"drops the connection": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_ = conn.Close()
			}
		}, time.Minute, false, "closed without an answer"},
		"speaks no HTTP": {func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "220 mail.example.com ESMTP\r\n")
				_ = conn.Close()
			}
		}, time.Minute, false, "malformed HTTP"},
		"says too much": {func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Large", strings.Repeat("x", 100<<10))
		}, time.Minute, false, "header"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			srv := serve(t, tt.handler)
			s := sender(t, Config{AllowPrivate: true}, map[string]string{"SIGN": signingSecret})
			ctx, cancel := context.WithTimeout(t.Context(), tt.time)
			defer cancel()
			detail, err := s.Send(ctx, envelope(webhookTo(srv.URL, "env:NIGHTSHIFT_SECRET_SIGN"), one("x")))
			var f *Failure
			switch {
			case tt.ok && (err != nil || !strings.Contains(detail, tt.detail)):
				t.Errorf("%q, %v", detail, err)
			case !tt.ok && (!errors.As(err, &f) || f.Permanent || !f.Receiver || !strings.Contains(f.Detail, tt.detail)):
				t.Errorf("%q, %+v", detail, err)
			}
		})
	}
}

// An attempt that is called off says nothing about the receiver.
func TestCalledOff(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	srv := serve(t, func(_ http.ResponseWriter, r *http.Request) {
		cancel()
		<-r.Context().Done()
	})
	s := sender(t, Config{AllowPrivate: true}, map[string]string{"SIGN": signingSecret})
	_, err := s.Send(ctx, envelope(webhookTo(srv.URL, "env:NIGHTSHIFT_SECRET_SIGN"), one("x")))
	var f *Failure
	if !errors.As(err, &f) || f.Receiver || f.Permanent || !errors.Is(err, context.Canceled) {
		t.Errorf("%+v", err)
	}
}

func TestCertificatesAreVerified(t *testing.T) {
	t.Parallel()
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			w.WriteHeader(http.StatusHTTPVersionNotSupported)
		}
	}))
	srv.EnableHTTP2 = true
	srv.Config.ErrorLog = quiet
	srv.StartTLS()
	t.Cleanup(srv.Close)
	old := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	old.TLS = &tls.Config{MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}
	old.Config.ErrorLog = quiet
	old.StartTLS()
	t.Cleanup(old.Close)
	secrets := map[string]string{"URL": srv.URL + "/services/cAnArY99", "OLD": old.URL, "NAME": strings.Replace(srv.URL, "127.0.0.1", "localhost", 1)}

	f := failure(t, sender(t, Config{AllowPrivate: true}, secrets), envelope(slackTo("env:NIGHTSHIFT_SECRET_URL"), one("x")))
	if f.Permanent || !f.Receiver || !strings.Contains(f.Detail, "certificate is not trusted") || strings.Contains(f.Detail, "cAnArY99") {
		t.Errorf("unknown authority: %+v", f)
	}
	trusting := sender(t, Config{AllowPrivate: true}, secrets)
	trusting.tls.RootCAs = srv.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	trusting.http = trusting.client()
	send(t, trusting, envelope(slackTo("env:NIGHTSHIFT_SECRET_URL"), one("x")))
	if f := failure(t, trusting, envelope(slackTo("env:NIGHTSHIFT_SECRET_NAME"), one("x"))); !strings.Contains(f.Detail, "not trusted") {
		t.Errorf("wrong name: %+v", f)
	}
	if f := failure(t, trusting, envelope(slackTo("env:NIGHTSHIFT_SECRET_OLD"), one("x"))); !f.Receiver || f.Permanent {
		t.Errorf("old TLS: %+v", f)
	}
}

func TestNobodyListens(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	s := sender(t, Config{AllowPrivate: true}, map[string]string{"URL": "http://" + addr + "/cAnArY99"})
	if f := failure(t, s, envelope(slackTo("env:NIGHTSHIFT_SECRET_URL"), one("x"))); f.Permanent || !f.Receiver || !strings.Contains(f.Detail, "refused") || strings.Contains(f.Detail, "cAnArY99") {
		t.Errorf("%+v", f)
	}
}

// Each medium sends what its service documents, where it documents it.
func TestRequests(t *testing.T) {
	t.Parallel()
	type seen struct {
		path, auth string
		body       map[string]any
		list       []any
	}
	got := make(chan seen, 10)
	srv := serve(t, func(w http.ResponseWriter, r *http.Request) {
		s := seen{path: r.Method + " " + r.URL.RequestURI(), auth: r.Header.Get("Authorization")}
		raw, _ := io.ReadAll(r.Body)
		if json.Unmarshal(raw, &s.body) != nil {
			_ = json.Unmarshal(raw, &s.list)
		}
		got <- s
		w.WriteHeader(http.StatusAccepted)
	})
	s := sender(t, Config{AllowPrivate: true}, map[string]string{"URL": srv.URL + "/services/T/B/x?sig=1", "KEY": "R0UT1NGKEY", "TOKEN": "t0ken"})
	all := samples()

	send(t, s, envelope(slackTo("env:NIGHTSHIFT_SECRET_URL"), all["many"]))
	if r := <-got; r.path != "POST /services/T/B/x?sig=1" || r.body["blocks"] == nil {
		t.Errorf("slack: %+v", r)
	}
	send(t, s, envelope(teamsTo("env:NIGHTSHIFT_SECRET_URL"), all["many"]))
	if r := <-got; r.body["type"] != "message" || r.body["attachments"] == nil {
		t.Errorf("teams: %+v", r)
	}
	for kind, actions := range map[string][]string{"many": {"trigger"}, "resolved": {"resolve"}, "reminder": {"trigger"}, "test": {"trigger", "resolve"}} {
		send(t, s, envelope(pagerTo("env:NIGHTSHIFT_SECRET_KEY", srv.URL), all[kind]))
		for _, action := range actions {
			r := <-got
			if r.path != "POST /v2/enqueue" || r.body["event_action"] != action || r.body["routing_key"] != "R0UT1NGKEY" || r.body["dedup_key"] != groupKey {
				t.Errorf("pagerduty, %s: %+v", kind, r)
			}
			if (r.body["payload"] != nil) != (action == "trigger") {
				t.Errorf("pagerduty, %s: payload %v", kind, r.body["payload"])
			}
		}
	}
	send(t, s, envelope(alertmanagerTo(srv.URL+"/prefix/", "env:NIGHTSHIFT_SECRET_TOKEN"), all["many"]))
	if r := <-got; r.path != "POST /prefix/api/v2/alerts" || r.auth != "Bearer t0ken" || len(r.list) != 8 {
		t.Errorf("alertmanager: %s, %q, %d alerts", r.path, r.auth, len(r.list))
	}
	send(t, s, envelope(alertmanagerTo(srv.URL, ""), all["test"]))
	if r := <-got; r.auth != "" || len(r.list) != 1 {
		t.Errorf("alertmanager: %+v", r)
	}
	if f := failure(t, s, envelope(&notificationv1.Receiver{Name: "x"}, all["news"])); !f.Permanent {
		t.Errorf("no medium: %+v", f)
	}
	send(t, s, envelope(slackTo("env:NIGHTSHIFT_SECRET_URL"), nil))
	<-got
}

// A component that is DOWN has no finding that is open, and is an incident.
func TestPagerDutyOfOtherEvents(t *testing.T) {
	t.Parallel()
	m := samples()["many"]
	m.Notices, m.OpenFindings = m.Notices[5:], 0
	a := &attempt{Sender: sender(t, Config{}, nil), Envelope: envelope(nil, m)}
	if es := a.pagerDutyEvents(a.content()); len(es) != 1 || es[0]["event_action"] != "trigger" {
		t.Errorf("DOWN: %v", es)
	}
	m.Notices[0].Component.State = 1 // UP
	if es := a.pagerDutyEvents(a.content()); len(es) != 1 || es[0]["event_action"] != "resolve" {
		t.Errorf("UP: %v", es)
	}
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	alerts := func(m *notificationv1.Message) map[string]alert {
		a := &attempt{Sender: sender(t, Config{}, nil), Envelope: envelope(nil, m)}
		out := map[string]alert{}
		for _, al := range a.alerts() {
			key := al.Labels["alertname"] + "/" + al.Labels["resource"] + "/" + al.Labels["severity"]
			if _, twice := out[key]; twice {
				t.Errorf("%s comes twice", key)
			}
			out[key] = al
			start, err1 := time.Parse(time.RFC3339Nano, al.StartsAt)
			end, err2 := time.Parse(time.RFC3339Nano, al.EndsAt)
			if err1 != nil || err2 != nil || end.Before(start) {
				t.Errorf("%s: from %s to %s", key, al.StartsAt, al.EndsAt)
			}
		}
		return out
	}
	ends := func(al alert) time.Time {
		end, err := time.Parse(time.RFC3339Nano, al.EndsAt)
		if err != nil {
			t.Fatalf("%+v", al)
		}
		return end
	}
	got := alerts(samples()["many"])
	if !ends(got["ebs-unattached/vol-1/high"]).Equal(noon.Add(alertLife)) {
		t.Error("an open finding ends early")
	}
	// The alert of the severity before ends, the one of the new severity goes on.
	if ends(got["ebs-unattached/vol-2/low"]).After(noon) || !ends(got["ebs-unattached/vol-2/medium"]).After(noon) {
		t.Error("a changed severity")
	}
	if ends(got["ebs-unattached/vol-3/low"]).After(noon) {
		t.Error("a resolved finding goes on")
	}
	// Of a finding that is told of twice, the newest state counts.
	m := one("x")
	again := proto.CloneOf(m.Notices[0])
	again.Event, again.Finding.State = "FindingResolved", 2
	again.Time.Seconds += 60
	m.Notices = append(m.Notices, again)
	if got := alerts(m); len(got) != 1 || ends(got["ebs-unattached/vol-1/high"]).After(noon) {
		t.Errorf("opened and resolved: %+v", got)
	}
}
