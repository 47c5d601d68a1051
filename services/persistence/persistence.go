// Package persistence owns Postgres: findings, runs and their scopes,
// coverage, exemptions, the system log and the accounts. Everyone else calls it or reads
// its events.
//
// The Service struct is the gRPC server of all its APIs; the methods hold the
// logic and the SQL, one file per resource. Whatever is to be said about a
// change goes into the outbox in the transaction that makes it, and the relay
// publishes it afterwards. Consumers of messages act the same on a message
// that comes twice, late, or out of order.
//
// It is the only package that imports bun, pgx and goose. It must not import
// nats or another service.
package persistence

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/uptrace/bun"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	exemptionv1 "nightshift.dev/gen/nightshift/exemption/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	inventoryv1 "nightshift.dev/gen/nightshift/inventory/v1"
	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/errs"
)

// Config says where Postgres is and how much of it to use.
type Config struct {
	DatabaseURL string  `env:"DATABASE_URL,required" help:"Postgres to keep everything in, as a URL or DSN, such as postgres://user:password@host/nightshift."`
	MigrateURL  string  `env:"NIGHTSHIFT_MIGRATE_DATABASE_URL" help:"The same Postgres as a role that may change the schema, used at the start and not after. Unset: DATABASE_URL does both."`
	Connections int32   `env:"NIGHTSHIFT_DATABASE_CONNECTIONS" envDefault:"10" help:"Most connections to Postgres one process opens, beside the one it listens on. At least 4."`
	BrakeShare  float64 `env:"NIGHTSHIFT_BRAKE_SHARE" envDefault:"0.5" help:"Share of an account's findings that a run may open or resolve before the rest is held until somebody releases it; 0 lets every run do as it likes."`
	BrakeCount  int64   `env:"NIGHTSHIFT_BRAKE_COUNT" envDefault:"20" help:"Findings that a run may open or resolve in an account whatever their share."`
}

// Definition is the service in the list of services.
var Definition = app.Definition{
	Name:    "persistence",
	Summary: "keeps findings, runs, accounts and the system log in Postgres",
	Port:    7306,
	Config:  Config{},
	New: func(_ context.Context, env *app.Env) (app.Service, error) {
		var cfg Config
		if err := config.Load(&cfg, env.Lookup); err != nil {
			return nil, err
		}
		return New(cfg, env.Log, env.Bus, env.Now)
	},
}

// Service keeps what the product knows. It serves while Postgres is away:
// calls are then UNAVAILABLE and messages wait on the bus.
type Service struct {
	accountv1.UnimplementedAccountServiceServer
	accountv1.UnimplementedOnboardingServiceServer
	auditv1.UnimplementedAuditServiceServer
	authv1.UnimplementedAuthServiceServer
	exemptionv1.UnimplementedExemptionServiceServer
	findingv1.UnimplementedFindingServiceServer
	healthv1.UnimplementedHealthStateServiceServer
	inventoryv1.UnimplementedInventoryServiceServer
	notificationv1.UnimplementedNotificationConfigServiceServer
	notificationv1.UnimplementedNotificationQueueServiceServer
	retentionv1.UnimplementedRetentionServiceServer
	runv1.UnimplementedRunServiceServer
	scanv1.UnimplementedScopeStateServiceServer
	systemlogv1.UnimplementedSystemLogServiceServer

	log    *slog.Logger
	now    func() time.Time
	bus    publisher
	pool   *pgxpool.Pool
	owner  *pgx.ConnConfig // who changes the schema
	bun    *bun.DB
	wakeup *wakeup
	brake  brake

	ready    chan struct{} // closed once the schema is in place
	stopping chan struct{} // closed when Run is asked to stop: ends what watches
	stop     sync.Once
}

// publisher is what the relay needs of the bus; tests crash it.
type publisher interface {
	PublishAll(ctx context.Context, messages []bus.Outgoing) error
}

// New opens the service. It does not wait for Postgres: Run does, and brings
// the schema up to date. It fails when the configuration cannot be used.
func New(cfg Config, log *slog.Logger, b *bus.Bus, now func() time.Time) (*Service, error) {
	s, err := open(cfg, log, b, now)
	if err != nil {
		return nil, err
	}
	bus.OnBatch(b, ingestMessages, s.onFindingsObserved, bus.Concurrency(2))
	bus.On(b, s.onScopeFinished)
	bus.OnBatch(b, auditMessages, s.onAuditRecorded, bus.MaxAttempts(bus.Unlimited))
	return s, nil
}

func open(cfg Config, log *slog.Logger, p publisher, now func() time.Time) (*Service, error) {
	if cfg.Connections < 4 {
		return nil, errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used").
			Field("NIGHTSHIFT_DATABASE_CONNECTIONS", "is %d; must be at least 4", cfg.Connections)
	}
	if !finite(cfg.BrakeShare) || cfg.BrakeShare < 0 || cfg.BrakeCount < 0 {
		return nil, errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used").
			Field("NIGHTSHIFT_BRAKE_SHARE", "is %v with a count of %d; neither may be below 0", cfg.BrakeShare, cfg.BrakeCount)
	}
	s := &Service{log: log, now: now, bus: p, wakeup: newWakeup(), brake: brake{cfg.BrakeShare, cfg.BrakeCount}, ready: make(chan struct{}), stopping: make(chan struct{})}
	if err := s.connect(cfg); err != nil {
		return nil, err
	}
	return s, nil
}

// Register adds the APIs.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	accountv1.RegisterAccountServiceServer(r, s)
	accountv1.RegisterOnboardingServiceServer(r, s)
	auditv1.RegisterAuditServiceServer(r, s)
	authv1.RegisterAuthServiceServer(r, s)
	exemptionv1.RegisterExemptionServiceServer(r, s)
	findingv1.RegisterFindingServiceServer(r, s)
	healthv1.RegisterHealthStateServiceServer(r, s)
	inventoryv1.RegisterInventoryServiceServer(r, s)
	notificationv1.RegisterNotificationConfigServiceServer(r, s)
	notificationv1.RegisterNotificationQueueServiceServer(r, s)
	retentionv1.RegisterRetentionServiceServer(r, s)
	runv1.RegisterRunServiceServer(r, s)
	scanv1.RegisterScopeStateServiceServer(r, s)
	systemlogv1.RegisterSystemLogServiceServer(r, s)
}

// Run brings the schema up to date, waiting for Postgres as long as it takes,
// then relays the outbox and listens for changes until ctx ends. An error
// means that the database can be reached but not be used.
func (s *Service) Run(ctx context.Context) error {
	defer s.stop.Do(func() { close(s.stopping) })
	if err := s.prepare(ctx); err != nil || ctx.Err() != nil {
		return err
	}
	close(s.ready)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { s.listen(ctx); return nil })
	g.Go(func() error { s.relay(ctx); return nil })
	g.Go(func() error { s.keepPartitions(ctx); return nil })
	g.Go(func() error { s.endExemptions(ctx); return nil })
	g.Go(func() error { s.reap(ctx); return nil })
	g.Go(func() error { s.tendFindings(ctx); return nil })
	g.Go(func() error {
		<-ctx.Done()
		s.stop.Do(func() { close(s.stopping) })
		return nil
	})
	return g.Wait()
}

// Close closes the connections to Postgres. Handlers and calls must be done.
func (s *Service) Close() error {
	err := s.bun.Close()
	s.pool.Close()
	return err
}
