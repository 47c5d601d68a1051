package job_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/nats-io/nats-server/v2/server/ats"
	"github.com/nats-io/nats.go"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/job"
	"nightshift.dev/pkg/job/jobtest"
)

// The tests run in bubbles of time: half a minute until a message comes again
// takes milliseconds. The server's clock must tick outside of them.
func TestMain(m *testing.M) {
	ats.Register()
	code := m.Run()
	ats.Unregister()
	os.Exit(code)
}

// stage is persistence, a bus, and as many workers as a test wants.
type stage struct {
	*jobtest.Runs
	t    *testing.T
	nats *devstack.NATSServer
	bus  *bus.Bus
	conn grpc.ClientConnInterface
}

func bubble(t *testing.T, f func(t *testing.T, s *stage)) {
	t.Helper()
	// The NATS client keeps timers in a sync.Pool, and a timer of one bubble is of no use in another. So the bubbles come one
	// after the other, and two collections empty the pool.
	runtime.GC()
	runtime.GC()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{t: t, nats: devtest.NATS(t)}
		s.bus = s.connect("persistence")
		s.Runs = jobtest.New(s.bus)
		s.conn = s.Connect(t)
		s.run(s.bus)
		f(t, s)
	})
}

func (s *stage) connect(service string, opts ...nats.Option) *bus.Bus {
	s.t.Helper()
	b, err := bus.Connect(s.t.Context(), bus.Config{
		Service: service, Options: append(s.nats.Options(), opts...), Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = b.Close(context.WithoutCancel(s.t.Context())) })
	return b
}

// run runs a bus until the test ends or the returned function is called.
func (s *stage) run(b *bus.Bus) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.t.Context()))
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(stop)
	time.Sleep(time.Second) // in the bubble: until its consumers are made
	return stop
}

// worker starts a replica of a service that handles the kind.
func (s *stage) worker(k job.Kind, opts ...nats.Option) (stop func()) {
	b := s.connect("worker", opts...)
	job.Handle(&app.Env{Bus: b, Log: slog.New(slog.DiscardHandler), Dial: func(string) grpc.ClientConnInterface { return s.conn }}, k)
	return s.run(b)
}

const id = "nightly/manual-1"

func trigger() *jobv1.Trigger {
	return &jobv1.Trigger{
		RunId: id, Job: "nightly", Kind: "tidy", Cause: jobv1.Cause_CAUSE_MANUAL, PlannedTime: timestamppb.Now(),
		Parameters: map[string]string{"parts": "a,b,c"}, MaxRetries: 2, Timeout: durationpb.New(2 * time.Minute),
		Backoff: &jobv1.Backoff{Initial: durationpb.New(7 * time.Second)},
	}
}

// ask asks for a run.
func (s *stage) ask(t *jobv1.Trigger) {
	s.t.Helper()
	if err := s.bus.Publish(s.t.Context(), &jobv1.JobRequested{Trigger: t}); err != nil {
		s.t.Fatal(err)
	}
}

// await waits, in the bubble's time, until the run has ended.
func (s *stage) await(id string) *runv1.Run {
	s.t.Helper()
	s.until(time.Hour, "run "+id+" has ended", func() bool {
		r := s.Run(id)
		return r != nil && r.GetState() != runv1.RunState_RUN_STATE_RUNNING
	})
	return s.Run(id)
}

func (s *stage) until(most time.Duration, what string, ok func() bool) {
	s.t.Helper()
	for begin := time.Now(); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Since(begin) > most {
			s.t.Fatalf("waited in vain until %s: %+v", what, s.Scopes(id))
		}
	}
}

func (s *stage) deadLetters() []*deadletterv1.DeadLetter {
	s.t.Helper()
	dead, err := s.bus.DeadLetters().List(s.t.Context(), "", 0, 100)
	if err != nil {
		s.t.Fatal(err)
	}
	return dead
}

// settled waits until no message of the kind is under way any more: those that
// should not come again have had all the time to.
func (s *stage) settled() { time.Sleep(3 * time.Minute) }

// parts plans a scope for each part in the parameter.
func parts(_ context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
	var plan []*runv1.PlannedScope
	for p := range strings.SplitSeq(t.GetParameters()["parts"], ",") {
		plan = append(plan, job.Part(p))
	}
	return plan, nil
}

func TestRunIsDoneOnce(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		var did sync.Map
		k := job.Kind{Name: "tidy", Plan: parts, Do: func(_ context.Context, task *job.Task) error {
			n, _ := did.LoadOrStore(task.Scope.GetRegion(), new(atomic.Int32))
			n.(*atomic.Int32).Add(1)
			if task.Run != id || task.Job != "nightly" || task.Parameters["parts"] != "a,b,c" || task.Attempt != 1 || task.PlannedTime.IsZero() || task.Execution == "" {
				t.Errorf("task is %+v", task)
			}
			task.Count("deleted", 2)
			task.Count("deleted", 3)
			return nil
		}}
		s.worker(k)
		s.worker(k)
		tr := trigger()
		for range 3 {
			s.ask(tr)
		}
		if _, err := s.bus.Append(t.Context(), &jobv1.JobTriggered{Kind: "tidy", Job: "nightly", Trigger: tr}, 0); err != nil {
			t.Fatal(err)
		}
		if err := s.bus.Publish(t.Context(), &runv1.RunReleased{Trigger: tr, Release: 1}); err != nil {
			t.Fatal(err)
		}
		if r := s.await(id); r.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED {
			t.Errorf("run is %v", r)
		}
		s.settled()
		for _, sc := range s.Scopes(id) {
			n, _ := did.Load(sc.Planned.GetScope().GetRegion())
			if len(sc.Ends) != 1 || n.(*atomic.Int32).Load() != 1 {
				t.Fatalf("%v was done %v times and ended with %v", sc.Planned, n, sc.Ends)
			}
			e := sc.Ends[0]
			if e.GetProgress().GetCounts()["deleted"] != 5 || e.GetCoverage()[0].GetStatus() != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE ||
				e.GetStartTime() == nil || e.GetEndTime() == nil || e.GetScope().GetService() != "tidy" {
				t.Errorf("ended with %v", e)
			}
		}
		if kinds, err := bus.Handled[*jobv1.JobTriggered](t.Context(), s.bus); err != nil || !slices.Equal(kinds, []string{"tidy"}) {
			t.Errorf("kinds that are handled: %v, %v", kinds, err)
		}
	})
}

// A kind without a plan is one scope, and a process can handle several kinds.
func TestKindsBesideEachOther(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		b := s.connect("worker")
		env := &app.Env{Bus: b, Dial: func(string) grpc.ClientConnInterface { return s.conn }}
		for _, name := range []string{"tidy", "other"} {
			job.Handle(env, job.Kind{Name: name, Do: func(_ context.Context, task *job.Task) error {
				task.Count(name, 1)
				return nil
			}})
		}
		s.run(b)
		other := trigger()
		other.RunId, other.Kind = "other/manual-1", "other"
		s.ask(trigger())
		s.ask(other)
		for name, run := range map[string]string{"tidy": id, "other": "other/manual-1"} {
			s.await(run)
			sc := s.Scopes(run)
			if len(sc) != 1 || sc[0].Planned.GetScope().GetRegion() != "-" || sc[0].Planned.GetScope().GetAccount() != "-" || sc[0].Progress.GetCounts()[name] != 1 {
				t.Errorf("%s: scopes are %+v", name, sc)
			}
		}
	})
}

// While a scope is at work persistence hears of it and sees its figures, and a
// cancelled run stops within 5 seconds and says nothing more.
func TestBeatAndCancel(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		stopped := make(chan time.Time, 1)
		s.worker(job.Kind{Name: "tidy", Do: func(ctx context.Context, task *job.Task) error {
			for n := 0; ; n++ {
				select {
				case <-ctx.Done():
					stopped <- time.Now()
					return nil // even a success is left unsaid
				case <-time.After(time.Second):
					task.Count("seconds", 1)
				}
			}
		}})
		s.ask(trigger())
		s.until(time.Minute, "the figures are seen", func() bool {
			sc := s.Scopes(id)
			return len(sc) == 1 && sc[0].Progress.GetCounts()["seconds"] >= 15
		})
		if b := s.Scopes(id)[0].Beats; b < 5 || b > 7 {
			t.Errorf("%d signs of life in 17 s", b)
		}
		begin := time.Now()
		if _, err := s.CancelRun(t.Context(), &runv1.CancelRunRequest{Id: id}); err != nil {
			t.Fatal(err)
		}
		if d := (<-stopped).Sub(begin); d > 5*time.Second {
			t.Errorf("stopped after %v", d)
		}
		s.settled()
		if sc := s.Scopes(id)[0]; len(sc.Ends) != 0 || sc.Attempts != 1 || len(s.deadLetters()) != 0 {
			t.Errorf("afterwards: %+v, dead letters %v", sc, s.deadLetters())
		}
	})
}

// A handler that hangs and ignores its context is left alone, and the scope
// goes to another worker.
func TestStall(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		hang := make(chan struct{})
		t.Cleanup(func() { close(hang) })
		begin := time.Now()
		s.worker(job.Kind{Name: "tidy", Concurrency: 1, Do: func(_ context.Context, task *job.Task) error {
			if task.Attempt == 1 {
				<-hang
			}
			return nil
		}})
		s.ask(trigger())
		s.await(id)
		if sc := s.Scopes(id)[0]; sc.State != runv1.ScopeState_SCOPE_STATE_SUCCEEDED || sc.Attempts != 2 || sc.Failures != 0 || len(sc.Ends) != 1 {
			t.Errorf("scope is %+v", sc)
		}
		// A minute, the beat after it, 2 s to return, 15 s until another counts as dead.
		if d := time.Since(begin); d < time.Minute || d > 95*time.Second {
			t.Errorf("took %v", d)
		}
	})
}

// Who shows life, however slowly, is left at work.
func TestSlowIsNotHung(t *testing.T) {
	for name, alive := range map[string]func(*job.Task){
		"heartbeat": (*job.Task).Heartbeat,
		"count":     func(t *job.Task) { t.Count("n", 1) },
		"progress":  func(t *job.Task) { t.Progress(&scanv1.Progress{Resources: 1}) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *stage) {
				s.worker(job.Kind{Name: "tidy", Do: func(ctx context.Context, task *job.Task) error {
					for range 4 {
						select {
						case <-time.After(50 * time.Second):
							alive(task)
						case <-ctx.Done():
							return ctx.Err()
						}
					}
					return nil
				}})
				slow := trigger()
				slow.Timeout = nil // half an hour
				s.ask(slow)
				s.await(id)
				if sc := s.Scopes(id)[0]; sc.State != runv1.ScopeState_SCOPE_STATE_SUCCEEDED || sc.Attempts != 1 {
					t.Errorf("scope is %+v", sc)
				}
			})
		})
	}
}

// What may pass is tried again after the waits of the job; at the end the scope
// has failed and its request is a dead letter.
func TestRetries(t *testing.T) {
	for name, c := range map[string]struct {
		do       func(ctx context.Context, task *job.Task) error
		attempts int
		says     string
	}{
		"an error":       {func(context.Context, *job.Task) error { return errors.New("the disk is full\x00\xff") }, 3, "the disk is full"},
		"a panic":        {func(context.Context, *job.Task) error { panic("oh") }, 3, "internal error"},
		"the time limit": {func(ctx context.Context, t *job.Task) error { return alive(ctx, t) }, 3, "within the 2m0s allowed"},
		"time ignored": {func(ctx context.Context, t *job.Task) error {
			_ = alive(ctx, t)
			time.Sleep(time.Minute)
			return nil
		}, 3, "within the 2m0s allowed"},
		"permanent":  {func(context.Context, *job.Task) error { return job.Permanent(errors.New("no such host")) }, 1, "no such host"},
		"the caller": {func(context.Context, *job.Task) error { return errs.New(errs.NotFound, "X", "no such thing") }, 1, "no such thing"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *stage) {
				var begun []time.Time
				s.worker(job.Kind{Name: "tidy", Do: func(ctx context.Context, task *job.Task) error {
					begun = append(begun, time.Now())
					return c.do(ctx, task)
				}})
				s.ask(trigger())
				r := s.await(id)
				s.settled()
				sc := s.Scopes(id)[0]
				if r.GetState() != runv1.RunState_RUN_STATE_FAILED || sc.Attempts != c.attempts || len(begun) != c.attempts || len(sc.Ends) != 1 || !strings.Contains(sc.Error, c.says) {
					t.Fatalf("run is %v, scope %+v", r, sc)
				}
				dead := s.deadLetters()
				if c.attempts == 1 {
					if len(dead) != 0 {
						t.Errorf("dead letters are %v", dead)
					}
					return
				}
				if len(dead) != 1 || dead[0].GetConsumer() != "tidy-ScopeRequested" {
					t.Errorf("dead letters are %v", dead)
				}
				if name == "an error" {
					if a, b := begun[1].Sub(begun[0]), begun[2].Sub(begun[1]); a < 7*time.Second || a > 8*time.Second || b < 28*time.Second || b > 29*time.Second {
						t.Errorf("waited %v, then %v", a, b)
					}
				}
			})
		})
	}
}

// alive shows life until its context ends.
func alive(ctx context.Context, t *job.Task) error {
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
			t.Heartbeat()
		}
	}
}

func TestSecondAttemptSucceeds(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		s.worker(job.Kind{Name: "tidy", Do: func(_ context.Context, task *job.Task) error {
			task.Count("done", 1)
			if task.Attempt == 1 {
				return errors.New("connection refused")
			}
			return nil
		}})
		s.ask(trigger())
		s.await(id)
		if sc := s.Scopes(id)[0]; sc.State != runv1.ScopeState_SCOPE_STATE_SUCCEEDED || sc.Failures != 1 || sc.Ends[0].GetProgress().GetCounts()["done"] != 1 || len(s.deadLetters()) != 0 {
			t.Errorf("scope is %+v", sc)
		}
	})
}

// mortal is a worker whose connections can be cut, as when its process is
// killed or frozen.
type mortal struct {
	server interface {
		InProcessConn() (net.Conn, error)
	}
	mu    sync.Mutex
	conns []net.Conn
	dead  bool
}

func (m *mortal) InProcessConn() (net.Conn, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return nil, errors.New("killed")
	}
	c, err := m.server.InProcessConn()
	m.conns = append(m.conns, c)
	return c, err
}

func (m *mortal) kill() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = true
	for _, c := range m.conns {
		_ = c.Close()
	}
}

func (m *mortal) revive() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.dead = false
}

// inProcess finds the server behind the options of a devstack server.
func inProcess(t *testing.T, s *devstack.NATSServer) nats.InProcessConnProvider {
	var o nats.Options
	for _, f := range s.Options() {
		if err := f(&o); err != nil {
			t.Fatal(err)
		}
	}
	return o.InProcessServer
}

// A worker that is killed leaves its scope to another within half a minute and
// a bit. When it was only frozen and wakes later, it says nothing and takes
// nothing from the other.
func TestKilledWorkerAndItsGhost(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		victim := &mortal{server: inProcess(t, s.nats)}
		began, wake := make(chan struct{}), make(chan struct{})
		ghost := make(chan error, 1)
		conn := &cuttable{ClientConnInterface: s.conn}
		b := s.connect("worker", nats.InProcessServer(victim))
		job.Handle(&app.Env{Bus: b, Log: slog.New(slog.DiscardHandler), Dial: func(string) grpc.ClientConnInterface { return conn }}, job.Kind{
			Name: "tidy", Do: func(ctx context.Context, _ *job.Task) error {
				close(began)
				<-wake
				ghost <- context.Cause(ctx)
				return errors.New("everything it held is gone")
			},
		})
		stopGhost := s.run(b)
		s.ask(trigger())
		<-began
		victim.kill()
		conn.cut.Store(true)
		died := time.Now()

		second := make(chan struct{})
		stop := s.worker(job.Kind{Name: "tidy", Do: func(ctx context.Context, task *job.Task) error {
			if task.Attempt != 2 {
				t.Errorf("attempt %d", task.Attempt)
			}
			close(second)
			return alive(ctx, task)
		}})
		<-second
		if d := time.Since(died); d > 50*time.Second {
			t.Errorf("taken over after %v", d)
		}
		victim.revive()
		time.Sleep(10 * time.Second) // until it is connected
		conn.cut.Store(false)
		close(wake)
		<-ghost
		time.Sleep(10 * time.Second)
		if sc := s.Scopes(id)[0]; len(sc.Ends) != 0 || sc.Failures != 0 || sc.State != runv1.ScopeState_SCOPE_STATE_RUNNING {
			t.Errorf("the ghost said something: %+v", sc)
		}
		// The request still belongs to the second: when that stops, a third gets it.
		stopGhost()
		stop()
		s.worker(job.Kind{Name: "tidy", Do: func(context.Context, *job.Task) error { return nil }})
		s.await(id)
		s.settled()
		if sc := s.Scopes(id)[0]; len(sc.Ends) != 1 || sc.State != runv1.ScopeState_SCOPE_STATE_SUCCEEDED || sc.Attempts != 3 || len(s.deadLetters()) != 0 {
			t.Errorf("at the end: %+v", sc)
		}
	})
}

// cuttable is a connection whose calls can be made to fail.
type cuttable struct {
	grpc.ClientConnInterface
	cut atomic.Bool
}

func (c *cuttable) Invoke(ctx context.Context, method string, args, reply any, opts ...grpc.CallOption) error {
	if c.cut.Load() {
		return errs.New(errs.Unavailable, "CUT", "the network is cut")
	}
	return c.ClientConnInterface.Invoke(ctx, method, args, reply, opts...)
}

// A worker whose process stops gives its scope back, and finishes what it can
// finish in time.
func TestStopGivesBack(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		began := make(chan struct{}, 1)
		stop := s.worker(job.Kind{Name: "tidy", Do: func(ctx context.Context, _ *job.Task) error {
			began <- struct{}{}
			<-ctx.Done()
			return ctx.Err()
		}})
		s.ask(trigger())
		<-began
		stop()
		stopped := time.Now()
		s.worker(job.Kind{Name: "tidy", Do: func(context.Context, *job.Task) error { return nil }})
		s.await(id)
		if sc := s.Scopes(id)[0]; sc.State != runv1.ScopeState_SCOPE_STATE_SUCCEEDED || sc.Attempts != 2 || sc.Failures != 0 || time.Since(stopped) > 20*time.Second {
			t.Errorf("after %v: %+v", time.Since(stopped), sc)
		}
	})
}

// While persistence is away work waits, however long, and that is no failure.
func TestPersistenceAway(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		var did atomic.Int32
		s.worker(job.Kind{Name: "tidy", Plan: parts, Do: func(_ context.Context, task *job.Task) error {
			if did.Add(1) == 1 { // it goes away while a scope is at work
				s.Down(errs.New(errs.Unavailable, "DOWN", "the database is away"))
				return errors.New("for a reason that may pass")
			}
			return nil
		}})
		s.Down(errs.New(errs.Unavailable, "DOWN", "the database is away"))
		s.ask(trigger())
		time.Sleep(10 * time.Minute)
		s.Down(nil)
		s.until(time.Minute, "one scope is at work", func() bool { return did.Load() > 0 })
		time.Sleep(10 * time.Minute)
		s.Down(nil)
		if r := s.await(id); r.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED || len(s.deadLetters()) != 0 {
			t.Errorf("run is %v, dead letters %v", r, s.deadLetters())
		}
		for _, sc := range s.Scopes(id) {
			if len(sc.Ends) != 1 || sc.Failures != 0 {
				t.Errorf("scope is %+v", sc)
			}
		}
	})
}

// So does work that says itself that it waits for another service.
func TestAwait(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		away := job.Await(fmt.Errorf("ask: %w", errs.New(errs.Unavailable, "DOWN", "it is away")))
		var plans atomic.Int32
		s.worker(job.Kind{Name: "tidy",
			Plan: func(ctx context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
				if plans.Add(1) < 50 {
					return nil, away
				}
				return parts(ctx, t)
			},
			Do: func(_ context.Context, task *job.Task) error {
				if task.Attempt < 5 {
					return away
				}
				return nil
			}})
		s.ask(trigger())
		if r := s.await(id); r.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED {
			t.Errorf("run is %v: %+v", r, s.Scopes(id))
		}
		for _, sc := range s.Scopes(id) {
			if sc.Failures != 0 || sc.Attempts != 5 {
				t.Errorf("scope is %+v", sc)
			}
		}
	})
}

// A replayed request of a scope that has ended is a new run that does it again,
// once, however often it is replayed.
func TestReplay(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		var mended atomic.Bool
		s.worker(job.Kind{Name: "tidy", Plan: parts, Do: func(_ context.Context, task *job.Task) error {
			if task.IsPart("b") && !mended.Load() {
				return errors.New("broken")
			}
			return nil
		}})
		s.ask(trigger())
		if r := s.await(id); r.GetState() != runv1.RunState_RUN_STATE_PARTIAL {
			t.Fatalf("run is %v", r)
		}
		mended.Store(true)
		s.until(time.Minute, "there is a dead letter", func() bool { return len(s.deadLetters()) == 1 })
		if err := s.bus.DeadLetters().Replay(t.Context(), s.deadLetters()[0].GetId()); err != nil {
			t.Fatal(err)
		}
		again := func() *runv1.Run {
			for n := range 100 {
				if r := s.Run(fmt.Sprintf("nightly/retry-replay-%d", n)); r != nil {
					return r
				}
			}
			return nil
		}
		s.until(time.Minute, "there is a new run", func() bool { return again() != nil })
		r := s.await(again().GetId())
		if sc := s.Scopes(r.GetId()); r.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED || r.GetRetryOf() != id || len(sc) != 1 || sc[0].Planned.GetScope().GetRegion() != "b" {
			t.Errorf("the new run is %v: %+v", r, sc)
		}
		s.settled()
		if len(s.deadLetters()) != 0 || s.Run(id).GetState() != runv1.RunState_RUN_STATE_PARTIAL {
			t.Errorf("afterwards: %v, dead letters %v", s.Run(id), s.deadLetters())
		}
	})
}

// What nobody can read, and what kills every plan, does not hold up the next.
func TestPoison(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		s.worker(job.Kind{Name: "tidy", Plan: func(ctx context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
			if t.GetRunId() == "nightly/manual-poison" {
				panic("poison")
			}
			return parts(ctx, t)
		}, Do: func(context.Context, *job.Task) error { return nil }})
		nc, err := nats.Connect("", s.nats.Options()...)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		if err := nc.Publish("nightshift.scan.v1.ScopeRequested.tidy.=2D.x", []byte("\xff\xff\xff")); err != nil {
			t.Fatal(err)
		}
		poison := trigger()
		poison.RunId = "nightly/manual-poison"
		s.ask(poison)
		s.ask(trigger())
		if r := s.await(id); r.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED {
			t.Errorf("run is %v", r)
		}
		if r := s.await(poison.GetRunId()); r.GetState() != runv1.RunState_RUN_STATE_FAILED || !strings.Contains(r.GetError(), "internal error") {
			t.Errorf("the poisoned run is %v", r)
		}
		s.until(time.Minute, "both are dead letters", func() bool { return len(s.deadLetters()) == 2 })
	})
}

func TestPlanThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		plan  func() ([]*runv1.PlannedScope, error)
		plans int32
		says  string
	}{
		"permanent": {func() ([]*runv1.PlannedScope, error) { return nil, errs.New(errs.InvalidArgument, "X", "no such host") }, 1, "no such host"},
		"passing":   {func() ([]*runv1.PlannedScope, error) { return nil, errors.New("no route") }, 3, "no route"},
		"refused": {func() ([]*runv1.PlannedScope, error) {
			return []*runv1.PlannedScope{{Scope: &scanv1.Scope{Account: "x"}}}, nil
		}, 1, "refused"},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T, s *stage) {
				var plans atomic.Int32
				s.worker(job.Kind{Name: "tidy", Do: func(context.Context, *job.Task) error { return nil },
					Plan: func(context.Context, *jobv1.Trigger) ([]*runv1.PlannedScope, error) { plans.Add(1); return c.plan() }})
				s.ask(trigger())
				if r := s.await(id); r.GetState() != runv1.RunState_RUN_STATE_FAILED || !strings.Contains(r.GetError(), c.says) {
					t.Errorf("run is %v", r)
				}
				s.settled()
				if plans.Load() != c.plans || len(s.deadLetters()) != int(min(c.plans-1, 1)) {
					t.Errorf("planned %d times, dead letters %v", plans.Load(), s.deadLetters())
				}
			})
		})
	}
}

// One slow scope does not hold up others.
func TestSlowScope(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		slow := make(chan struct{})
		s.worker(job.Kind{Name: "tidy", Plan: parts, Concurrency: 2, Do: func(ctx context.Context, task *job.Task) error {
			if task.IsPart("a") {
				for {
					select {
					case <-slow:
						return nil
					case <-time.After(time.Second):
						task.Heartbeat()
					}
				}
			}
			return nil
		}})
		s.ask(trigger())
		s.until(10*time.Second, "the others have ended", func() bool {
			ended := 0
			for _, sc := range s.Scopes(id) {
				ended += len(sc.Ends)
			}
			return ended == 2
		})
		close(slow)
		s.await(id)
	})
}

// A handler that tells itself what could be done is believed: what it saw
// before its time was over counts.
func TestOwnEnd(t *testing.T) {
	bubble(t, func(t *testing.T, s *stage) {
		s.worker(job.Kind{Name: "tidy", Do: func(ctx context.Context, task *job.Task) error {
			err := alive(ctx, task)
			task.End.Batches = 3
			task.End.Coverage = []*scanv1.Coverage{{ResourceType: "T", Status: scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL}}
			return err
		}})
		s.ask(trigger())
		r := s.await(id)
		if sc := s.Scopes(id)[0]; r.GetState() != runv1.RunState_RUN_STATE_PARTIAL || sc.Attempts != 3 || sc.Ends[0].GetBatches() != 3 || sc.Ends[0].GetError() != "" || len(s.deadLetters()) != 0 {
			t.Errorf("run is %v, scope %+v", r, sc)
		}
	})
}
