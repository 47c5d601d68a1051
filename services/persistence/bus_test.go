package persistence

import (
	"context"
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
)

// Two replicas as they run in production, on a real bus; one is stopped in the
// middle and another comes. Subscribers hear of every finding once.
func TestOverTheBus(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	nats := devtest.NATS(t)
	connect := func(service string) *bus.Bus {
		t.Helper()
		b, err := bus.Connect(ctx, bus.Config{URL: nats.URL(), Options: nats.Options(), Service: service, Log: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	dsn := devtest.DB(t, migrated)
	start := func() (s *Service, stop func()) {
		t.Helper()
		b := connect("persistence")
		s, err := New(Config{DatabaseURL: as(RoleApp, dsn), Connections: 6}, quiet(), b, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		running, halt := context.WithCancel(ctx)
		var g errgroup.Group
		g.Go(func() error { return s.Run(running) })
		g.Go(func() error { return b.Run(running) })
		return s, func() {
			halt()
			if err := g.Wait(); err != nil {
				t.Error(err)
			}
			if err := b.Close(ctx); err != nil {
				t.Error(err)
			}
			s.Close()
		}
	}
	heard := map[string]int{}
	subscriber := connect("watcher")
	opened := make(chan *findingv1.FindingOpened, 1000)
	ended := make(chan *runv1.RunFinished, 10)
	requested := make(chan *scanv1.ScopeRequested, 100)
	bus.On(subscriber, func(_ context.Context, m *bus.Message[*findingv1.FindingOpened]) error { opened <- m.Body; return nil })
	bus.On(subscriber, func(_ context.Context, m *bus.Message[*runv1.RunFinished]) error { ended <- m.Body; return nil })
	bus.On(subscriber, func(_ context.Context, m *bus.Message[*scanv1.ScopeRequested]) error { requested <- m.Body; return nil })
	listening, halt := context.WithCancel(ctx)
	var g errgroup.Group
	g.Go(func() error { return subscriber.Run(listening) })
	defer func() { halt(); g.Wait(); subscriber.Close(ctx) }()

	first, stopFirst := start()
	_, stopSecond := start()
	const scopes, batches, volumes = 3, 8, 25
	var planned []*scanv1.Scope
	for n := range scopes {
		planned = append(planned, &scanv1.Scope{Service: "waste", Account: fmt.Sprintf("%012d", n), Region: "eu-west-1"})
	}
	startRun(t, first, "job/1", planned...)
	worker := connect("waste")
	defer worker.Close(ctx)
	for range scopes {
		sc := (<-requested).GetScope()
		if err := worker.Publish(ctx, finished("job/1", "1.1", batches, at(0), complete, func(f *scanv1.ScopeFinished) { f.Scope = sc })); err != nil {
			t.Fatal(err)
		}
		for b := range batches {
			m := &findingv1.FindingsObserved{RunId: "job/1", Scope: sc, Execution: "1.1", Sequence: int32(b + 1)}
			for v := range volumes {
				m.Observations = append(m.Observations, volume(sc, fmt.Sprintf("vol-%d", b*volumes+v), 1, at(0)))
			}
			if err := worker.Publish(ctx, m); err != nil {
				t.Fatal(err)
			}
		}
		if stopSecond != nil {
			stopSecond()
			stopSecond = nil
		}
	}
	_, stopThird := start()
	defer stopThird()
	defer stopFirst()
	select {
	case m := <-ended:
		if m.GetRun().GetState() != runv1.RunState_RUN_STATE_SUCCEEDED || m.GetRun().GetFindings().GetOpened() != scopes*batches*volumes {
			t.Errorf("the run ended as %v", m.GetRun())
		}
	case <-ctx.Done():
		t.Fatal("the run did not end")
	}
	for len(heard) < scopes*batches*volumes {
		select {
		case m := <-opened:
			heard[m.GetFinding().GetId()]++
		case <-ctx.Done():
			t.Fatalf("heard of %d findings", len(heard))
		}
	}
	for id, n := range heard {
		if n != 1 {
			t.Errorf("heard %d times that %s opened", n, id)
		}
	}
}
