// Package notification is the service that tells people. It takes the events
// of findings, runs and components, decides by the routes who hears of them,
// and hands messages to receivers until they have taken them.
//
// What waits to be told is in a queue that persistence keeps, so that any
// number of replicas share the work and one that dies loses nothing. It must
// not import another service, or SQL; the protocols of receivers are in
// pkg/notify.
package notification

import (
	"context"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/notify"
)

// Config is what the service reads from its environment.
type Config struct {
	notify.Config
	OwnerDomains []string `env:"NIGHTSHIFT_NOTIFY_OWNER_DOMAINS" help:"Domains to which owners that are mail addresses are written, such as example.com, separated by commas. Owners come from tags: whoever may tag can name one. Default: all."`
}

// Definition is the service as the list of services knows it.
var Definition = app.Definition{
	Name:    "notification",
	Summary: "tells people what happens, by routes, through chat, mail, pagers and webhooks",
	Port:    7307,
	Config:  Config{},
	New: func(_ context.Context, env *app.Env) (app.Service, error) {
		var c Config
		if err := config.Load(&c, env.Lookup); err != nil {
			return nil, err
		}
		return New(c, env)
	},
}

// Service is the notification service. Any number of replicas share the work.
type Service struct {
	notificationv1.UnimplementedNotificationServiceServer

	cfg      Config
	log      *slog.Logger
	now      func() time.Time
	send     func(context.Context, notify.Envelope) (string, error)
	config   notificationv1.NotificationConfigServiceClient
	queue    notificationv1.NotificationQueueServiceClient
	findings findingv1.FindingServiceClient

	policies policies
	patience time.Duration // how long an attempt may take
	made     chan struct{} // deliveries were made, or one has ended
}

// New builds the service. It fails when the configuration cannot be used.
func New(c Config, env *app.Env) (*Service, error) {
	bad := errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used")
	for i, d := range c.OwnerDomains {
		c.OwnerDomains[i] = strings.TrimSpace(d)
		if !isAddress("a@" + c.OwnerDomains[i]) {
			bad = bad.Field("NIGHTSHIFT_NOTIFY_OWNER_DOMAINS", "%q is no domain, such as example.com", d)
		}
	}
	if len(bad.Violations()) > 0 {
		return nil, bad
	}
	c.Version = app.Version
	sender, err := notify.New(c.Config, env.Lookup)
	if err != nil {
		return nil, err
	}
	persistence := env.Dial("persistence")
	s := &Service{
		cfg: c, log: env.Log, now: env.Now, send: sender.Send,
		config:   notificationv1.NewNotificationConfigServiceClient(persistence),
		queue:    notificationv1.NewNotificationQueueServiceClient(persistence),
		findings: findingv1.NewFindingServiceClient(persistence),
		patience: attemptTime, made: make(chan struct{}, 1),
	}
	s.consume(env.Bus)
	return s, nil
}

// Register implements app.Service.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	notificationv1.RegisterNotificationServiceServer(r, s)
}

// Run flushes groups and tries deliveries until ctx ends. What is in hand then
// is finished.
func (s *Service) Run(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { s.loop(ctx, "flushing", nil, s.flush); return nil })
	g.Go(func() error { s.loop(ctx, "delivering", s.made, s.deliver); return nil })
	return g.Wait()
}

// idle is how long a loop rests when nothing is due: what another replica adds
// is seen by then.
const idle = 2 * time.Second

// loop does something again and again: when woken, when the next is due, and
// when it has rested.
func (s *Service) loop(ctx context.Context, what string, wake <-chan struct{}, do func(context.Context) (next time.Time, err error)) {
	failed := false
	for ctx.Err() == nil {
		next, err := do(ctx)
		switch {
		case err != nil && ctx.Err() == nil && !failed:
			s.log.Warn(what+" is interrupted, and goes on when it can", "error", err)
		case err == nil && failed:
			s.log.Info(what + " goes on")
		}
		if failed = err != nil; failed {
			s.rest(ctx, nil, time.Time{})
			continue
		}
		s.rest(ctx, wake, next)
	}
}

// rest waits until woken, until something is due, and not for long.
func (s *Service) rest(ctx context.Context, wake <-chan struct{}, due time.Time) {
	rest := idle
	if !due.IsZero() {
		rest = min(rest, max(due.Sub(s.now()), 10*time.Millisecond))
	}
	t := time.NewTimer(rest)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-wake:
	case <-t.C:
	}
}

// wake tells the deliveries' loop that there may be something to do.
func (s *Service) wake() {
	select {
	case s.made <- struct{}{}:
	default:
	}
}
