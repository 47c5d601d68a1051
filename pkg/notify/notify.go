// Package notify gives a message the form of a medium and hands it over: Slack,
// Microsoft Teams, PagerDuty, mail, signed webhooks, Alertmanager, and what
// else the shoutrrr library reaches.
//
// It exists so that whoever decides what is told to whom and when, and tries
// again when it fails, knows nothing of protocols. An attempt is one call of
// Send; nothing is kept between two of them. Texts that came from AWS are made
// harmless here, once for all media and then for each of them, and no secret
// ever leaves the package except to the receiver it is for.
package notify

import (
	"cmp"
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"net/mail"
	"net/url"
	"os"
	"strings"
	"time"

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/plain"
)

// Config is what the notification service is told about its surroundings.
type Config struct {
	SecretsDir   string `env:"NIGHTSHIFT_SECRETS_DIR" help:"Directory with one file per secret of a receiver, which refers to it as file:<name>. Read at each use. Default: only env:NIGHTSHIFT_SECRET_<NAME>."`
	SMTP         string `env:"NIGHTSHIFT_SMTP_URL" help:"Mail server, such as smtp://user:password@mail.example.com:587 (STARTTLS, which may only be missing on loopback or with ?tls=optional) or smtps://mail.example.com; or a reference to that, env:NIGHTSHIFT_SECRET_<NAME> or file:<name>. Default: mail cannot be sent."`
	From         string `env:"NIGHTSHIFT_SMTP_FROM" help:"Sender of mails, such as Nightshift <nightshift@example.com>. Must be set with NIGHTSHIFT_SMTP_URL."`
	AllowPrivate bool   `env:"NIGHTSHIFT_NOTIFY_ALLOW_PRIVATE" envDefault:"false" help:"Receivers may be on loopback and private addresses, use plain http where https is asked for, and be reached through HTTPS_PROXY. Link-local addresses, such as those of cloud metadata, stay out of reach."`
	Link         string `env:"NIGHTSHIFT_NOTIFY_LINK" help:"Address of a finding for people, with {id} where its id belongs, such as https://nightshift.example.com/findings/{id}. Default: messages name the command that shows it."`

	// Version is what the build calls itself; receivers see it.
	Version string
}

// Envelope is one attempt: what goes to whom.
type Envelope struct {
	// Receiver says where it goes.
	Receiver *notificationv1.Receiver
	// Message is what is told. It is not changed.
	Message *notificationv1.Message
	// IdempotencyKey is the same for all attempts; receivers can tell
	// repetitions by it.
	IdempotencyKey string
	// DeliveryID is the delivery's id.
	DeliveryID string
	// Attempt counts from 1.
	Attempt int
	// Time is when the attempt begins.
	Time time.Time
}

// Failure says what a failed attempt means; errors.As finds it in what Send
// returns.
type Failure struct {
	// Permanent failures happen again however often it is tried.
	Permanent bool
	// Receiver failures say something about the receiver and not about this
	// message: they count for the breaker.
	Receiver bool
	// RetryAfter is how long the receiver asks to be left alone; 0 when it
	// does not say. At most a day.
	RetryAfter time.Duration
	// Detail is what went wrong, for people: no secrets, one line of at most
	// 500 characters.
	Detail string

	cause error // of a context, nothing else: other causes can hold secrets
}

// Error returns the detail.
func (f *Failure) Error() string { return f.Detail }

// Unwrap returns the error of the context that ended the attempt, or nil.
func (f *Failure) Unwrap() error { return f.cause }

// Sender hands messages over. It may be used by many goroutines at once.
type Sender struct {
	cfg    Config
	lookup func(string) (string, bool)
	from   *mail.Address
	tls    *tls.Config
	http   *http.Client
	dial   func(ctx context.Context, network, address string) (net.Conn, error) // to the mail server
	slots  chan struct{}                                                        // calls of shoutrrr on their way
}

// New returns a sender. lookup tells a variable's value and whether it is set,
// as os.LookupEnv does; it is asked at each use of a secret. The error names
// the variable that cannot be used, and not its value.
func New(cfg Config, lookup func(string) (string, bool)) (*Sender, error) {
	out := errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used")
	s := &Sender{
		cfg: cfg, lookup: lookup,
		tls:   &tls.Config{MinVersion: tls.VersionTLS12},
		dial:  (&net.Dialer{Timeout: 10 * time.Second}).DialContext,
		slots: make(chan struct{}, shoutrrrSlots),
	}
	s.http = s.client()
	var err error
	if cfg.SMTP != "" && cfg.From == "" {
		out = out.Field("NIGHTSHIFT_SMTP_FROM", "must be set with NIGHTSHIFT_SMTP_URL, such as Nightshift <nightshift@example.com>")
	}
	if s.from, err = mail.ParseAddress(cmp.Or(cfg.From, "nightshift@localhost")); err != nil || strings.ContainsFunc(cfg.From, plain.Unsafe) {
		out = out.Field("NIGHTSHIFT_SMTP_FROM", "is no address, such as Nightshift <nightshift@example.com>")
	}
	if cfg.SMTP != "" && !reference.MatchString(cfg.SMTP) {
		if _, err := mailServer(cfg.SMTP); err != nil {
			out = out.Field("NIGHTSHIFT_SMTP_URL", "%v", err)
		}
	}
	if cfg.SecretsDir != "" {
		if info, err := os.Stat(cfg.SecretsDir); err != nil || !info.IsDir() {
			out = out.Field("NIGHTSHIFT_SECRETS_DIR", "is no directory")
		}
	}
	if u, err := url.Parse(cfg.Link); cfg.Link != "" && (err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || !strings.Contains(cfg.Link, "{id}")) {
		out = out.Field("NIGHTSHIFT_NOTIFY_LINK", "must begin with https:// and hold {id}")
	}
	if len(out.Violations()) > 0 {
		return nil, out
	}
	return s, nil
}

// mostTime bounds an attempt when its context does not.
const mostTime = time.Minute

// Send makes one attempt. detail is what the receiver answered, without
// secrets; an error is a *Failure. Without a deadline in ctx an attempt ends
// after a minute.
func (s *Sender) Send(ctx context.Context, e Envelope) (detail string, err error) {
	ctx, cancel := context.WithTimeout(ctx, mostTime)
	defer cancel()
	e.Message = harmless(e.Message)
	if e.Time.IsZero() {
		e.Time = time.Now()
	}
	a := &attempt{Sender: s, Envelope: e}
	switch r := e.Receiver.GetMedium().(type) {
	case *notificationv1.Receiver_Slack:
		return a.slack(ctx, r.Slack)
	case *notificationv1.Receiver_Teams:
		return a.teams(ctx, r.Teams)
	case *notificationv1.Receiver_Pagerduty:
		return a.pagerDuty(ctx, r.Pagerduty)
	case *notificationv1.Receiver_Email:
		return a.email(ctx, r.Email)
	case *notificationv1.Receiver_Webhook:
		return a.webhook(ctx, r.Webhook)
	case *notificationv1.Receiver_Alertmanager:
		return a.alertmanager(ctx, r.Alertmanager)
	case *notificationv1.Receiver_Shoutrrr:
		return a.shoutrrr(ctx, r.Shoutrrr)
	}
	return "", &Failure{Permanent: true, Receiver: true, Detail: "this build knows no such medium"}
}
