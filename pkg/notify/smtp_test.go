package notify

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	"net/mail"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
)

// postOffice is a mail server that does as it is told.
type postOffice struct {
	tls      *tls.Config
	implicit bool
	starttls bool
	auth     string            // mechanisms; "": none
	user     string            // user and password, as in PLAIN
	answers  map[string]string // by command and argument, such as "RCPT a@example.com" or "DATA" or "."; "hang" and "drop", too
	addr     string

	mu    sync.Mutex
	mails []delivered
	said  []string // commands, in order
}

type delivered struct {
	from string
	to   []string
	raw  []byte
	tls  bool
}

func (p *postOffice) open(t *testing.T) *postOffice {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	t.Cleanup(func() { cancel(); _ = l.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer conn.Close()
				defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
				p.talk(ctx, conn)
			})
		}
	})
	return p
}

func (p *postOffice) talk(ctx context.Context, conn net.Conn) {
	secure := false
	if p.implicit {
		conn, secure = tls.Server(conn, p.tls), true
	}
	r := bufio.NewReader(conn)
	reply := func(lines ...string) {
		for i, l := range lines {
			if i < len(lines)-1 {
				l = l[:3] + "-" + l[4:]
			}
			_, _ = io.WriteString(conn, l+"\r\n")
		}
	}
	// told does what the test has told for a step, and reports whether it did.
	told := func(step string) (done, end bool) {
		switch a := p.answers[step]; a {
		case "":
			return false, false
		case "hang":
			// Until the client hangs up.
			_, _ = io.Copy(io.Discard, r)
			return true, true
		case "drop":
			return true, true
		case "babble":
			for ctx.Err() == nil {
				if _, err := io.WriteString(conn, "250-"+strings.Repeat("x", 4096)+"\r\n"); err != nil {
					return true, true
				}
			}
			return true, true
		default:
			reply(strings.Split(a, "\n")...)
			return true, strings.HasPrefix(a, "421")
		}
	}
	if done, end := told("greeting"); end {
		return
	} else if !done {
		reply("220 mail.example.com ESMTP")
	}
	var m delivered
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return
		}
		line = strings.TrimRight(line, "\r\n")
		verb, arg, _ := strings.Cut(line, " ")
		verb = strings.ToUpper(verb)
		p.mu.Lock()
		p.said = append(p.said, verb)
		p.mu.Unlock()
		if from, ok := strings.CutPrefix(arg, "FROM:<"); ok {
			arg, _, _ = strings.Cut(from, ">")
		} else if to, ok := strings.CutPrefix(arg, "TO:<"); ok {
			arg, _, _ = strings.Cut(to, ">")
		}
		step := verb
		if verb == "RCPT" {
			step += " " + arg
		}
		if done, end := told(step); end {
			return
		} else if done {
			continue
		}
		switch verb {
		case "EHLO":
			lines := []string{"250 mail.example.com", "250 8BITMIME"}
			if p.starttls && !secure {
				lines = append(lines, "250 STARTTLS")
			}
			if p.auth != "" {
				lines = append(lines, "250 AUTH "+p.auth)
			}
			reply(lines...)
		case "STARTTLS":
			reply("220 go ahead")
			conn, secure = tls.Server(conn, p.tls), true
			r = bufio.NewReader(conn)
		case "AUTH":
			var given string
			switch mechanism, initial, _ := strings.Cut(arg, " "); mechanism {
			case "PLAIN":
				b, _ := base64.StdEncoding.DecodeString(initial)
				given = strings.TrimPrefix(string(b), "\x00")
			case "LOGIN":
				var parts []string
				for _, ask := range []string{"Username:", "Password:"} {
					reply("334 " + base64.StdEncoding.EncodeToString([]byte(ask)))
					l, _ := r.ReadString('\n')
					b, _ := base64.StdEncoding.DecodeString(strings.TrimSpace(l))
					parts = append(parts, string(b))
				}
				given = strings.Join(parts, "\x00")
			}
			if given == p.user {
				reply("235 welcome")
			} else {
				reply("535 5.7.8 wrong: " + given) // as a server should not
			}
		case "MAIL":
			m = delivered{from: arg, tls: secure}
			reply("250 ok")
		case "RCPT":
			m.to = append(m.to, arg)
			reply("250 ok")
		case "DATA":
			reply("354 go on")
			for {
				l, err := r.ReadString('\n')
				if err != nil {
					return
				}
				if l == ".\r\n" {
					break
				}
				m.raw = append(m.raw, strings.TrimPrefix(l, ".")...)
			}
			if done, end := told("."); end {
				return
			} else if done {
				continue
			}
			p.mu.Lock()
			p.mails = append(p.mails, m)
			p.mu.Unlock()
			reply("250 queued")
		case "QUIT":
			reply("221 bye")
			return
		default:
			reply("250 ok")
		}
	}
}

func (p *postOffice) got() []delivered {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.mails)
}

// certificate is that of httptest, which is for 127.0.0.1 and example.com.
func certificate(t *testing.T) (server, client *tls.Config) {
	t.Helper()
	srv := httptest.NewTLSServer(http.NotFoundHandler())
	t.Cleanup(srv.Close)
	return &tls.Config{Certificates: srv.TLS.Certificates}, srv.Client().Transport.(*http.Transport).TLSClientConfig
}

const mailFrom = "Nightshift <nightshift@example.com>"

func TestMail(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := certificate(t)
	for name, tt := range map[string]struct {
		office *postOffice
		url    string // with %s for the address
		tls    bool
	}{
		"plain on loopback":  {&postOffice{}, "smtp://%s", false},
		"STARTTLS, PLAIN":    {&postOffice{starttls: true, auth: "LOGIN PLAIN", user: "bot\x00p@ss word"}, "smtp://bot:p%%40ss%%20word@%s", true},
		"STARTTLS, LOGIN":    {&postOffice{starttls: true, auth: "LOGIN XOAUTH2", user: "bot@example.com\x00secret"}, "smtp://bot%%40example.com:secret@%s", true},
		"TLS from the start": {&postOffice{implicit: true, auth: "PLAIN", user: "bot\x00secret"}, "smtps://bot:secret@%s", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.office.tls = serverTLS
			p := tt.office.open(t)
			s := sender(t, Config{SMTP: fmt.Sprintf(tt.url, p.addr), From: mailFrom}, nil)
			s.tls.RootCAs = clientTLS.RootCAs
			e := envelope(mailTo("finops@example.com", "maria.santos@example.com"), samples()["many"])
			if d := send(t, s, e); !strings.Contains(d, "2 of 2") {
				t.Errorf("detail %q", d)
			}
			mails := p.got()
			if len(mails) != 1 || mails[0].from != "nightshift@example.com" || len(mails[0].to) != 2 || mails[0].tls != tt.tls {
				t.Fatalf("%+v", mails)
			}
			want, err := (&attempt{Sender: s, Envelope: e}).mail([]string{"finops@example.com", "maria.santos@example.com"})
			if err != nil {
				t.Fatal(err)
			}
			// The writer ends the last line, as a mail has to.
			if got := mails[0].raw; !bytes.Equal(bytes.TrimSpace(got), bytes.TrimSpace(want)) {
				t.Errorf("another mail arrived:\n%s", got)
			}
		})
	}
}

// read takes a mail apart as a mail program does.
func read(t testing.TB, raw []byte) (h mail.Header, text, html string) {
	t.Helper()
	m, err := mail.ReadMessage(bytes.NewReader(raw))
	if err != nil {
		t.Fatalf("%v in\n%s", err, raw)
	}
	media, params, err := mime.ParseMediaType(m.Header.Get("Content-Type"))
	if err != nil || media != "multipart/alternative" {
		t.Fatalf("%s, %v", media, err)
	}
	var parts []string
	for r := multipart.NewReader(m.Body, params["boundary"]); ; {
		// Raw, since NextPart would decode by itself and hide what it decodes.
		p, err := r.NextRawPart()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(quotedprintable.NewReader(p))
		if err != nil {
			t.Fatal(err)
		}
		parts = append(parts, p.Header.Get("Content-Type"), string(b))
	}
	if len(parts) != 4 || parts[0] != "text/plain; charset=utf-8" || parts[2] != "text/html; charset=utf-8" {
		t.Fatalf("%q", parts)
	}
	return m.Header, parts[1], parts[3]
}

func TestMailHeaders(t *testing.T) {
	t.Parallel()
	s := sender(t, Config{From: "Nachtschicht Büro <nightshift@example.com>"}, nil)
	mailOf := func(name, key string) (mail.Header, []byte) {
		e := envelope(nil, harmless(one(name)))
		e.IdempotencyKey = key
		raw, err := (&attempt{Sender: s, Envelope: e}).mail([]string{"a@example.com"})
		if err != nil {
			t.Fatal(err)
		}
		h, text, html := read(t, raw)
		if !strings.Contains(text, "feed0001") || !strings.Contains(html, "feed0001") {
			t.Error("text and HTML do not say the same")
		}
		for l := range bytes.SplitSeq(raw, []byte("\r\n")) {
			if len(l) > 998 || bytes.ContainsAny(l, "\r\n") || bytes.ContainsFunc(l, func(r rune) bool { return r > 126 }) {
				t.Errorf("a line that is not fit for SMTP: %q", l)
			}
		}
		return h, raw
	}
	first, raw := mailOf("card-vault", "1")
	second, _ := mailOf(strings.Repeat("日本語", 60), "2")
	if _, again := mailOf("card-vault", "1"); !bytes.Equal(raw, again) {
		t.Error("a second attempt writes another mail")
	}
	if first.Get("Message-Id") == second.Get("Message-Id") || first.Get("References") != second.Get("References") || first.Get("References") == "" {
		t.Errorf("%v\n%v", first, second)
	}
	for k, want := range map[string]string{
		"Subject": "[Nightshift] HIGH: EBS volume is attached to nothing: vol-1 (card-vault)", "To": "<a@example.com>", "Auto-Submitted": "auto-generated",
		"List-Id": "Nightshift <nightshift.example.com>", "Date": "Tue, 31 Mar 2026 12:00:00 +0000", "In-Reply-To": first.Get("References"), "Mime-Version": "1.0",
	} {
		if got := first.Get(k); got != want {
			t.Errorf("%s: %q", k, got)
		}
	}
	subject, err := new(mime.WordDecoder).DecodeHeader(second.Get("Subject"))
	if err != nil || !strings.Contains(subject, "日本語日本語") {
		t.Errorf("%q, %v", subject, err)
	}
	if from, err := first.AddressList("From"); err != nil || from[0].Name != "Nachtschicht Büro" {
		t.Errorf("%v, %v", from, err)
	}
}

func TestMailServersThatMisbehave(t *testing.T) {
	t.Parallel()
	serverTLS, clientTLS := certificate(t)
	to := []string{"a@example.com", "b@example.com", "c@example.com"}
	type want struct {
		permanent, receiver bool
		detail              string
	}
	for name, tt := range map[string]struct {
		office  *postOffice
		url     string
		attempt int
		ok      string // the detail when it arrives
		mails   int
		want    want
	}{
		"421 greeting":        {office: &postOffice{answers: map[string]string{"greeting": "421 busy"}}, want: want{false, true, "greeting: 421 busy"}},
		"554 greeting":        {office: &postOffice{answers: map[string]string{"greeting": "554 not you"}}, want: want{false, true, "greeting: 554 not you"}},
		"hangs at once":       {office: &postOffice{answers: map[string]string{"greeting": "hang"}}, want: want{false, true, "no answer in time"}},
		"drops at once":       {office: &postOffice{answers: map[string]string{"greeting": "drop"}}, want: want{false, true, "greeting: the connection was closed"}},
		"speaks HTTP":         {office: &postOffice{answers: map[string]string{"greeting": "HTTP/1.1 400 Bad Request"}}, want: want{false, true, "greeting: "}},
		"never stops":         {office: &postOffice{answers: map[string]string{"EHLO": "babble", "HELO": "babble"}}, want: want{false, true, "says too much"}},
		"wrong password":      {office: &postOffice{starttls: true, auth: "PLAIN", user: "bot\x00right"}, url: "smtp://bot:cAnArY99@%s", want: want{false, true, "AUTH: 535 5.7.8 wrong: "}},
		"no mechanism":        {office: &postOffice{starttls: true, auth: "XOAUTH2"}, url: "smtp://bot:cAnArY99@%s", want: want{false, true, "neither PLAIN nor LOGIN"}},
		"450 sender":          {office: &postOffice{answers: map[string]string{"MAIL": "450 later"}}, want: want{false, true, "MAIL FROM: 450 later"}},
		"550 sender":          {office: &postOffice{answers: map[string]string{"MAIL": "550 no"}}, want: want{true, true, "MAIL FROM: 550 no"}},
		"421 mailbox":         {office: &postOffice{answers: map[string]string{"RCPT b@example.com": "421 shutting down"}}, want: want{false, true, "RCPT TO: 421"}},
		"550 one mailbox":     {office: &postOffice{answers: map[string]string{"RCPT b@example.com": "550 no such user\n550 really"}}, ok: "taken for 2 of 3 mailboxes; refused b@example.com: 550 no such user really", mails: 1},
		"550 all mailboxes":   {office: &postOffice{answers: map[string]string{"RCPT a@example.com": "550 x", "RCPT b@example.com": "551 y", "RCPT c@example.com": "550 z"}}, want: want{true, true, "refused a@example.com: 550 x; b@example.com: 551 y"}},
		"greylisted":          {office: &postOffice{answers: map[string]string{"RCPT b@example.com": "450 later"}}, attempt: patience, want: want{false, true, "RCPT TO b@example.com: 450 later"}},
		"greylisted for long": {office: &postOffice{answers: map[string]string{"RCPT b@example.com": "450 later"}}, attempt: patience + 1, ok: "taken for 2 of 3 mailboxes; refused b@example.com: 450 later", mails: 1},
		"all greylisted":      {office: &postOffice{answers: map[string]string{"RCPT a@example.com": "450 x", "RCPT b@example.com": "550 y", "RCPT c@example.com": "450 z"}}, attempt: 9, want: want{false, true, "RCPT TO a@example.com: 450 x"}},
		"554 no data":         {office: &postOffice{answers: map[string]string{"DATA": "554 no valid recipients"}}, want: want{true, false, "DATA: 554"}},
		"451 message":         {office: &postOffice{answers: map[string]string{".": "451 scanner is down"}}, want: want{false, false, "DATA: 451"}},
		"552 message":         {office: &postOffice{answers: map[string]string{".": "552 too large"}}, want: want{true, false, "DATA: 552 too large"}},
		"hangs mid-DATA":      {office: &postOffice{answers: map[string]string{".": "hang"}}, want: want{false, true, "no answer in time"}},
		"drops mid-DATA":      {office: &postOffice{answers: map[string]string{".": "drop"}}, want: want{false, true, "DATA: the connection was closed"}},
		"drops after DATA":    {office: &postOffice{answers: map[string]string{"QUIT": "drop"}}, ok: "3 of 3", mails: 1},
		"STARTTLS refused":    {office: &postOffice{starttls: true, answers: map[string]string{"STARTTLS": "454 not now"}}, want: want{false, true, "STARTTLS: 454"}},
		"untrusted":           {office: &postOffice{starttls: true}, url: "smtp://%s?untrusted", want: want{false, true, "certificate is not trusted"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tt.office.tls = serverTLS
			p := tt.office.open(t)
			url := tt.url
			if url == "" {
				url = "smtp://%s"
			}
			url, untrusted := strings.CutSuffix(url, "?untrusted")
			s := sender(t, Config{SMTP: fmt.Sprintf(url, p.addr), From: mailFrom}, nil)
			if !untrusted {
				s.tls.RootCAs = clientTLS.RootCAs
			}
			e := envelope(mailTo(to...), one("card-vault"))
			e.Attempt = max(1, tt.attempt)
			limit := 10 * time.Second
			if strings.HasPrefix(name, "hangs") {
				limit = 150 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			detail, err := s.Send(ctx, e)
			if tt.ok != "" {
				if err != nil || !strings.Contains(detail, tt.ok) {
					t.Errorf("%q, %v", detail, err)
				}
			} else {
				var f *Failure
				if !errors.As(err, &f) {
					t.Fatalf("%q, %v", detail, err)
				}
				if got := (want{f.Permanent, f.Receiver, tt.want.detail}); got != tt.want || !strings.Contains(f.Detail, tt.want.detail) {
					t.Errorf("%+v", f)
				}
				if strings.Contains(f.Detail, "cAnArY99") {
					t.Errorf("the password is told: %s", f.Detail)
				}
			}
			if n := len(p.got()); n != tt.mails {
				t.Errorf("%d mails", n)
			}
		})
	}
}

// distant is a connection to another machine, as far as anybody can tell.
type distant struct{ net.Conn }

func (distant) RemoteAddr() net.Addr { return &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25} }

// Without TLS no password leaves, and no mail beyond this machine.
func TestMailNeedsTLS(t *testing.T) {
	t.Parallel()
	p := (&postOffice{auth: "PLAIN", user: "bot\x00secret"}).open(t)
	from := func(url string) *Sender {
		s := sender(t, Config{SMTP: url, From: mailFrom}, nil)
		dial := s.dial
		s.dial = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			return distant{conn}, err
		}
		return s
	}
	for url, want := range map[string]string{
		"smtp://" + p.addr:                              "offers no STARTTLS",
		"smtp://bot:secret@" + p.addr:                   "offers no STARTTLS",
		"smtp://bot:secret@" + p.addr + "?tls=optional": "no password is sent",
	} {
		if f := failure(t, from(url), envelope(mailTo("a@example.com"), one("x"))); f.Permanent || !f.Receiver || !strings.Contains(f.Detail, want) {
			t.Errorf("%s: %+v", url, f)
		}
	}
	send(t, from("smtp://"+p.addr+"?tls=optional"), envelope(mailTo("a@example.com"), one("x")))
	p.mu.Lock()
	defer p.mu.Unlock()
	if slices.Contains(p.said, "AUTH") || len(p.mails) != 1 {
		t.Errorf("%v, %d mails", p.said, len(p.mails))
	}
}

func TestMailServerByReference(t *testing.T) {
	t.Parallel()
	p := (&postOffice{}).open(t)
	secrets := map[string]string{"MAIL": "smtp://" + p.addr}
	s := sender(t, Config{SMTP: "env:NIGHTSHIFT_SECRET_MAIL", From: mailFrom}, secrets)
	send(t, s, envelope(mailTo("a@example.com"), one("x")))
	secrets["MAIL"] = "http://cAnArY99"
	if f := failure(t, s, envelope(mailTo("a@example.com"), one("x"))); !f.Receiver || f.Permanent || strings.Contains(f.Detail, "cAnArY99") {
		t.Errorf("%+v", f)
	}
	if f := failure(t, sender(t, Config{}, nil), envelope(mailTo("a@example.com"), one("x"))); !strings.Contains(f.Detail, "NIGHTSHIFT_SMTP_URL") {
		t.Errorf("%+v", f)
	}
	for _, bad := range []string{"a@example.com\r\nBcc: b@example.com", "A <a@example.com>", "a@example.com, b@example.com", "a", ""} {
		r := mailTo("ok@example.com", bad)
		if f := failure(t, s, envelope(proto.CloneOf(r), one("x"))); !f.Permanent || !f.Receiver {
			t.Errorf("%q: %+v", bad, f)
		}
	}
}
