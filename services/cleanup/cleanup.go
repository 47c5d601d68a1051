// Package cleanup is the service that says how long what is kept for. It owns
// the rules and the job that applies them; how a thing is removed, and what must
// stay because something needs it, is up to persistence, which it asks.
//
// It must not import another service, or SQL.
package cleanup

import (
	"context"
	"log/slog"
	"time"

	"google.golang.org/grpc"

	cleanupv1 "nightshift.dev/gen/nightshift/cleanup/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/job"
)

// Config is what the service reads from its environment.
type Config struct {
	Params string `env:"NIGHTSHIFT_CLEANUP_PARAMS" help:"Parameters of the rules of cleanup, such as system_log_days=30, separated by commas; \"nightshift cleanup rules\" lists them. Parameters of a job or a run go before these. Default: the rules' own."`
}

// Definition is the service as the list of services knows it.
var Definition = app.Definition{
	Name:    "cleanup",
	Summary: "removes what has been kept for its time",
	Port:    7304,
	Config:  Config{},
	New: func(_ context.Context, env *app.Env) (app.Service, error) {
		var c Config
		if err := config.Load(&c, env.Lookup); err != nil {
			return nil, err
		}
		return New(c, env)
	},
}

// Service previews cleanups and does them.
type Service struct {
	cleanupv1.UnimplementedCleanupServiceServer
	app.Handlers

	log       *slog.Logger
	now       func() time.Time
	retention retentionv1.RetentionServiceClient
	params    map[string]string // of the environment
}

// New builds the service. It fails when the configuration cannot be used.
func New(c Config, env *app.Env) (*Service, error) {
	params, err := environment(c.Params)
	if err != nil {
		return nil, err
	}
	s := &Service{log: env.Log, now: env.Now, retention: retentionv1.NewRetentionServiceClient(env.Dial("persistence")), params: params}
	job.Handle(env, job.Kind{
		Name: "cleanup",
		// One after the other: that somebody waits for Postgres because of this is to be rare.
		Concurrency: 1,
		// One scope per target, so that one that fails holds up none.
		Plan: func(_ context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
			o, err := s.options(t.GetParameters())
			if err != nil {
				return nil, err
			}
			var plan []*runv1.PlannedScope
			for _, r := range o.rules {
				plan = append(plan, job.Part(r.name))
			}
			return plan, nil
		},
		Do: s.do,
	})
	return s, nil
}

// Register adds the API.
func (s *Service) Register(r grpc.ServiceRegistrar) { cleanupv1.RegisterCleanupServiceServer(r, s) }
