// Package health is the service that knows how things are: what the instances
// of every account use of their CPU and memory, day by day, and whether the
// parts of the installation and the accounts are well.
//
// It looks every minute, whatever else is broken, and answers from what it has
// seen itself while persistence is away. It must not import another service.
package health

import (
	"context"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	inventoryv1 "nightshift.dev/gen/nightshift/inventory/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/job"
	"nightshift.dev/pkg/scan"
)

// Kind is what jobs of this service name as their kind.
const Kind = "health"

// Config is what the service reads from its environment.
type Config struct {
	Services []string      `env:"NIGHTSHIFT_HEALTH_SERVICES" envDefault:"persistence,scheduler,waste,security,cleanup,health,notification" help:"Services whose health is looked at, separated by commas; each is looked for where its NIGHTSHIFT_<SERVICE>_ADDR says."`
	Interval time.Duration `env:"NIGHTSHIFT_HEALTH_INTERVAL" envDefault:"1m" help:"How often everything is looked at: 5s to 1h. Twice in a row something must fail to be DOWN."`
	Stale    time.Duration `env:"NIGHTSHIFT_HEALTH_STALE" envDefault:"13h" help:"Age of the last complete scan at which an account is DEGRADED. Twice the longest interval between scans, and a little more, is a good choice."`
	scan.CloudConfig
}

// Definition is the service as the list of services knows it.
var Definition = app.Definition{
	Name:    "health",
	Summary: "looks after the inventory with its daily metrics, and at the health of all parts",
	Port:    7305,
	Config:  Config{},
	New: func(ctx context.Context, env *app.Env) (app.Service, error) {
		var c Config
		if err := config.Load(&c, env.Lookup); err != nil {
			return nil, err
		}
		return New(ctx, c, env)
	},
}

// Service is the health service. Any number of replicas share the work of its
// jobs; each looks at the components, and of several looks at the same time one
// is recorded.
type Service struct {
	healthv1.UnimplementedHealthServiceServer

	cfg       Config
	log       *slog.Logger
	now       func() time.Time
	dial      func(service string) grpc.ClientConnInterface
	lookup    func(name string) (string, bool)
	resolve   func(ctx context.Context, host string) ([]string, error)
	bus       *bus.Bus
	cloud     *aws.Cloud
	accounts  accountv1.AccountServiceClient
	inventory inventoryv1.InventoryServiceClient
	states    healthv1.HealthStateServiceClient
	verifier  *verifier

	looking sync.Mutex // one look at a time

	mu       sync.Mutex
	book     book
	recorded bool // the last look is in the database
}

// New builds the service.
func New(ctx context.Context, c Config, env *app.Env) (*Service, error) {
	bad := errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used")
	if c.Interval < 5*time.Second || c.Interval > time.Hour {
		bad = bad.Field("NIGHTSHIFT_HEALTH_INTERVAL", "%s is not between 5s and 1h", c.Interval)
	}
	if c.Stale < time.Hour {
		bad = bad.Field("NIGHTSHIFT_HEALTH_STALE", "%s is less than 1h", c.Stale)
	}
	for _, s := range c.Services {
		if !serviceName.MatchString(s) {
			bad = bad.Field("NIGHTSHIFT_HEALTH_SERVICES", "%q is no name of a service", s)
		}
	}
	if len(bad.Violations()) > 0 {
		return nil, bad
	}
	slices.Sort(c.Services)
	c.Services = slices.Compact(c.Services)
	cloud, err := c.Cloud(ctx)
	if err != nil {
		return nil, err
	}
	persistence := env.Dial("persistence")
	s := &Service{
		cfg: c, log: env.Log, now: env.Now, dial: env.Dial, lookup: env.Lookup, resolve: net.DefaultResolver.LookupHost, bus: env.Bus, cloud: cloud, book: book{},
		accounts:  accountv1.NewAccountServiceClient(persistence),
		inventory: inventoryv1.NewInventoryServiceClient(persistence),
		states:    healthv1.NewHealthStateServiceClient(persistence),
		verifier:  newVerifier(cloud, persistence, env.Now),
	}
	job.Handle(env, job.Kind{Name: Kind, Plan: s.plan, Do: s.do})
	return s, nil
}

// Register implements app.Service.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	healthv1.RegisterHealthServiceServer(r, s)
	s.verifier.Register(r)
}

// Run looks at the components until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	s.look(ctx, s.now())
	for {
		// Replicas look at the same times, so that the first to tell of it is the one.
		now := s.now()
		next := now.Truncate(s.cfg.Interval).Add(s.cfg.Interval)
		t := time.NewTimer(next.Sub(now))
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
			s.look(ctx, next)
		}
	}
}
