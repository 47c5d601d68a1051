package notify

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/smtp"
	"net/textproto"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
)

const (
	// patience is how many attempts a mail waits for mailboxes that are
	// refused for now, before the others get it without them.
	patience = 4
	// mostSMTP bounds what is read of a mail server in one attempt, in bytes.
	mostSMTP = 1 << 20
)

// server is the mail server of the configuration.
type server struct {
	host, port     string
	implicit       bool // TLS from the first byte
	optional       bool // STARTTLS may be missing
	user, password string
}

// mailServer reads a URL. Its error says what is wrong with it and does not
// repeat it.
func mailServer(raw string) (server, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return server{}, errors.New("is no URL")
	}
	s := server{host: u.Hostname(), port: u.Port(), user: u.User.Username()}
	s.password, _ = u.User.Password()
	switch u.Scheme {
	case "smtp":
		s.port = cmp.Or(s.port, "587")
	case "smtps":
		s.port, s.implicit = cmp.Or(s.port, "465"), true
	default:
		return server{}, errors.New("must begin with smtp:// or smtps://")
	}
	switch v := u.Query()["tls"]; {
	case slices.Equal(v, []string{"optional"}):
		s.optional = true
	case len(v) > 0 || len(u.Query()) > 0:
		return server{}, errors.New("takes tls=optional and nothing else after the question mark")
	}
	if s.host == "" || strings.Trim(u.Path, "/") != "" {
		return server{}, errors.New("must be of the form smtp://user:password@host:port")
	}
	return s, nil
}

// deliver speaks SMTP.
//
// A mailbox that is refused for good is named in the detail, and the others
// get the mail. One that is refused for now, as by greylisting, holds the mail
// back for all, since the next attempt would reach the others twice; after
// some attempts they get it without it.
func (a *attempt) deliver(ctx context.Context, to []string, raw []byte) (string, error) {
	if a.cfg.SMTP == "" {
		return "", &Failure{Receiver: true, Detail: "there is no mail server: NIGHTSHIFT_SMTP_URL is not set"}
	}
	address := a.cfg.SMTP
	if reference.MatchString(address) {
		var err error
		if address, err = a.secret(address); err != nil {
			return "", err
		}
	}
	srv, err := mailServer(address)
	if err != nil {
		return "", &Failure{Receiver: true, Detail: a.detail("NIGHTSHIFT_SMTP_URL %v", err)}
	}
	if srv.password != "" {
		a.hide(srv.password)
		a.hide("\x00" + srv.user + "\x00" + srv.password)
	}
	where := net.JoinHostPort(srv.host, srv.port)
	// fail makes the failure of a step. What a server refuses for good is
	// permanent where the step is about the message and its mailboxes.
	fail := func(step string, err error, final, receiver bool) error {
		var answer *textproto.Error
		switch {
		case ctx.Err() != nil:
			return a.ended(ctx, where)
		case errors.As(err, &answer):
			return &Failure{
				Permanent: final && answer.Code >= 500, Receiver: receiver || answer.Code == 421,
				Detail: a.detail("%s: %s: %d %s", where, step, answer.Code, answer.Msg),
			}
		}
		return &Failure{Receiver: true, Detail: a.detail("%s: %s: %s", where, step, reason(err))}
	}

	conn, err := a.dial(ctx, "tcp", where)
	if err != nil {
		return "", fail("connecting", err, false, true)
	}
	defer conn.Close()
	// The dialogue knows no context: when it ends, so does the connection.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	peer, _ := conn.RemoteAddr().(*net.TCPAddr)
	loopback := peer != nil && peer.IP.IsLoopback()

	secure := a.tls.Clone()
	secure.ServerName = srv.host
	var talk net.Conn = &bounded{Conn: conn, left: mostSMTP}
	if srv.implicit {
		talk = tls.Client(talk, secure)
	}
	c, err := smtp.NewClient(talk, srv.host)
	if err != nil {
		return "", fail("greeting", err, false, true)
	}
	if err := c.Hello(hostname()); err != nil {
		return "", fail("EHLO", err, false, true)
	}
	if !srv.implicit {
		if ok, _ := c.Extension("STARTTLS"); ok {
			if err := c.StartTLS(secure); err != nil {
				return "", fail("STARTTLS", err, false, true)
			}
		} else if !loopback && !srv.optional {
			return "", &Failure{Receiver: true, Detail: a.detail("%s offers no STARTTLS; ?tls=optional in NIGHTSHIFT_SMTP_URL does without", where)}
		}
	}
	if srv.user != "" {
		if _, ok := c.TLSConnectionState(); !ok && !loopback {
			return "", &Failure{Receiver: true, Detail: a.detail("%s: no password is sent over a connection without TLS", where)}
		}
		_, mechanisms := c.Extension("AUTH")
		if err := c.Auth(&login{srv.user, srv.password, strings.Fields(strings.ToUpper(mechanisms)), 0}); err != nil {
			return "", fail("AUTH", err, false, true)
		}
	}

	if err := c.Mail(a.from.Address); err != nil {
		return "", fail("MAIL FROM", err, true, true)
	}
	var refusals []string
	var first error // that is not for good
	accepted := 0
	for _, t := range to {
		err := c.Rcpt(t)
		var answer *textproto.Error
		switch {
		case err == nil:
			accepted++
			continue
		case !errors.As(err, &answer) || answer.Code == 421:
			return "", fail("RCPT TO", err, false, true)
		case answer.Code < 500 && first == nil:
			first = fail("RCPT TO "+t, err, false, true)
		case answer.Code >= 500 && accepted == 0 && first == nil && len(to) == 1:
			return "", fail("RCPT TO "+t, err, true, true)
		}
		refusals = append(refusals, fmt.Sprintf("%s: %d %s", t, answer.Code, answer.Msg))
	}
	switch {
	case first != nil && (accepted == 0 || a.Attempt <= patience):
		_ = c.Quit()
		return "", first
	case accepted == 0:
		_ = c.Quit()
		return "", &Failure{Permanent: true, Receiver: true, Detail: a.detail("%s: refused %s", where, strings.Join(refusals, "; "))}
	}
	w, err := c.Data()
	if err != nil {
		return "", fail("DATA", err, true, false)
	}
	if _, err := w.Write(raw); err != nil {
		return "", fail("DATA", err, true, false)
	}
	if err := w.Close(); err != nil {
		return "", fail("DATA", err, true, false)
	}
	_ = c.Quit() // it has the mail
	if len(refusals) > 0 {
		return a.detail("taken for %d of %d mailboxes; refused %s", accepted, len(to), strings.Join(refusals, "; ")), nil
	}
	return a.detail("%s took it for %d of %d mailboxes", where, accepted, len(to)), nil
}

var hostPattern = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9.-]{0,200}[A-Za-z0-9])?$`)

// hostname is what we call ourselves.
func hostname() string {
	if h, err := os.Hostname(); err == nil && hostPattern.MatchString(h) {
		return h
	}
	return "localhost"
}

// login is AUTH by PLAIN, or LOGIN where that is all there is. Whether the
// connection is fit for it was decided before.
type login struct {
	user, password string
	mechanisms     []string
	step           int
}

func (l *login) Start(*smtp.ServerInfo) (string, []byte, error) {
	switch {
	case slices.Contains(l.mechanisms, "PLAIN"):
		return "PLAIN", []byte("\x00" + l.user + "\x00" + l.password), nil
	case slices.Contains(l.mechanisms, "LOGIN"):
		return "LOGIN", nil, nil
	}
	return "", nil, errors.New("the server offers neither PLAIN nor LOGIN")
}

func (l *login) Next(_ []byte, more bool) ([]byte, error) {
	if !more {
		return nil, nil
	}
	l.step++
	switch {
	case slices.Contains(l.mechanisms, "PLAIN") || l.step > 2:
		return nil, errors.New("the server asks for more than there is to say")
	case l.step == 1:
		return []byte(l.user), nil
	}
	return []byte(l.password), nil
}

// bounded is a connection that a server cannot talk to us over for ever.
type bounded struct {
	net.Conn
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errors.New("the server says too much")
	}
	n, err := b.Conn.Read(p[:min(len(p), b.left)])
	b.left -= n
	return n, err
}
