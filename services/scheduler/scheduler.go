// Package scheduler keeps the definitions of jobs and fires them, each planned
// time once, with any number of replicas and no leader among them.
//
// It needs the bus and nothing else, so that schedules go on while the
// database is away. It must not import another service.
package scheduler

import (
	"context"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"

	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
)

// Definition is the scheduler in the list of services.
var Definition = app.Definition{
	Name:    "scheduler",
	Summary: "keeps jobs and fires them on their schedules",
	Port:    7301,
	New: func(ctx context.Context, env *app.Env) (app.Service, error) {
		return New(ctx, env.Log, env.Bus, wallClock(env.Now, env.Bus.ServerTime))
	},
}

// bucket holds the definitions, by job name.
const bucket = "NIGHTSHIFT_JOBS"

// Service is the job API and the firing of one replica.
type Service struct {
	jobv1.UnimplementedJobServiceServer
	deadletterv1.UnimplementedDeadLetterServiceServer

	log   *slog.Logger
	bus   *bus.Bus
	jobs  *bus.KV[*jobv1.Job]
	clock *corrected

	ready chan struct{} // closed once all definitions and all logs are known
	wake  chan struct{} // holds one token: the earliest due time may have changed

	seed maphash.Seed // of this replica's order among states that are due at once

	mu     sync.Mutex
	states map[string]*state // by job name
	queue  queue             // states with something due, earliest first
}

// New opens the store of definitions.
func New(ctx context.Context, log *slog.Logger, b *bus.Bus, c clock) (*Service, error) {
	s := &Service{
		log: log, bus: b, clock: &corrected{clock: c, log: log},
		ready: make(chan struct{}), wake: make(chan struct{}, 1),
		seed: maphash.MakeSeed(), states: map[string]*state{},
	}
	var err error
	s.jobs, err = bus.OpenKV[*jobv1.Job](ctx, b, bucket)
	return s, err
}

// Register adds the APIs.
func (s *Service) Register(r grpc.ServiceRegistrar) {
	jobv1.RegisterJobServiceServer(r, s)
	deadletterv1.RegisterDeadLetterServiceServer(r, s)
}

// Run follows definitions and logs, fires, and registers the default jobs,
// until ctx ends.
func (s *Service) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	var current sync.WaitGroup
	current.Add(2)
	defined, logged := sync.OnceFunc(current.Done), sync.OnceFunc(current.Done)
	g.Go(func() error {
		return s.follow(ctx, "definitions", func() error { return s.jobs.Watch(ctx, s.onDefinition, defined) })
	})
	g.Go(func() error {
		return s.follow(ctx, "log", func() error { return bus.Watch(ctx, s.bus, s.onRecord, logged) })
	})
	all := make(chan struct{})
	go func() { current.Wait(); close(all) }()
	g.Go(func() error {
		// Unblocks the waiting group when the watches never become current.
		defer func() { defined(); logged() }()
		select {
		case <-all:
			// A clock that is ahead would fire early.
			s.clock.correct(ctx)
			close(s.ready)
			g.Go(func() error { return s.clock.follow(ctx) })
			return s.fire(ctx)
		case <-ctx.Done():
			return nil
		}
	})
	g.Go(func() error { return s.registerDefaults(ctx) })
	return g.Wait()
}

// follow keeps a watch going over what breaks it off.
func (s *Service) follow(ctx context.Context, what string, watch func() error) error {
	for {
		err := watch()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // what breaks off at a stop is no error
		}
		s.log.Warn("watching was interrupted and begins again", "of", what, "error", err)
		select {
		case <-time.After(time.Second):
		case <-ctx.Done():
			return nil
		}
	}
}
