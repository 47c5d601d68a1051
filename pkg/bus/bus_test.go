package bus

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
)

// patience bounds every wait of these tests: reaching it is a failure.
const patience = 20 * time.Second

func startServer(t testing.TB, dir string, opts ...func(*server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{DontListen: true, JetStream: true, StoreDir: dir, NoSigs: true, NoLog: true}
	for _, f := range opts {
		f(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(patience) {
		t.Fatal("server is not ready")
	}
	return s
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func connect(t testing.TB, s *server.Server, service string, opts ...nats.Option) *Bus {
	t.Helper()
	b, err := Connect(t.Context(), Config{
		Service: service, Options: append([]nats.Option{nats.InProcessServer(s)}, opts...), Grace: 50 * time.Millisecond,
		Log: quiet(),
	})
	if err != nil {
		t.Fatal(err)
	}
	b.backoff = func(attempt int) time.Duration { return time.Duration(attempt) * 2 * time.Millisecond }
	t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
	return b
}

func newBus(t testing.TB, service string) *Bus {
	t.Helper()
	return connect(t, startServer(t, t.TempDir()), service)
}

// run runs the bus until the test ends or the returned function is called.
func run(t testing.TB, b *Bus) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func wait[T any](t testing.TB, c <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		panic("unreachable")
	}
}

// eventually polls what only the server knows.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
		sleep(t.Context(), 5*time.Millisecond)
	}
}

func requested(run, account string) *scanv1.ScopeRequested {
	return &scanv1.ScopeRequested{RunId: run, Scope: &scanv1.Scope{Service: "waste", Account: account, Region: "eu-west-1"}}
}

func mustPublish(t testing.TB, b *Bus, m proto.Message) {
	t.Helper()
	if err := b.Publish(t.Context(), m); err != nil {
		t.Fatal(err)
	}
}

func TestPublishReachesHandler(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	got := make(chan *Message[*scanv1.ScopeRequested], 10)
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error { got <- m; return nil }, Filter("waste"))
	run(t, b)
	want := requested("r/1", "111122223333")
	mustPublish(t, b, want)
	mustPublish(t, b, &scanv1.ScopeRequested{RunId: "r/1", Scope: &scanv1.Scope{Service: "security", Account: "1", Region: "r"}})
	mustPublish(t, b, want) // the same fact: known by its id
	mustPublish(t, b, requested("r/2", "111122223333"))
	m := wait(t, got, "the first message")
	if !proto.Equal(m.Body, want) {
		t.Errorf("body %v, want %v", m.Body, want)
	}
	if m.Subject != "nightshift.scan.v1.ScopeRequested.waste.111122223333.eu-west-1" {
		t.Errorf("subject %s", m.Subject)
	}
	if m.ID != "ScopeRequested/r/1/waste/111122223333/eu-west-1" {
		t.Errorf("id %s", m.ID)
	}
	if m.Deliveries != 1 || m.Attempt != 1 || m.Sequence != 1 || time.Since(m.Time) > time.Minute {
		t.Errorf("deliveries %d, attempt %d, sequence %d, time %v", m.Deliveries, m.Attempt, m.Sequence, m.Time)
	}
	if m := wait(t, got, "the second message"); m.Body.GetRunId() != "r/2" {
		t.Errorf("then came %v", m.Body)
	}
}

func TestCloudEventsHeaders(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	b := connect(t, s, "waste")
	mustPublish(t, b, requested("r\r\nX-Evil: 1", "1.2 >"))
	raw, err := mustStream(t, b, "NIGHTSHIFT_SCAN").GetMsg(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if raw.Subject != "nightshift.scan.v1.ScopeRequested.waste.1=2E2=20=3E.eu-west-1" {
		t.Errorf("subject %s", raw.Subject)
	}
	want := map[string]string{
		"content-type": "application/protobuf", "ce-specversion": "1.0", "ce-source": "//nightshift.dev/waste",
		"ce-type": "nightshift.scan.v1.ScopeRequested", "ce-subject": "waste/1.2 >/eu-west-1",
		"ce-id": "ScopeRequested/r=0D=0AX-Evil=3A=201/waste/1=2E2=20=3E/eu-west-1", "X-Evil": "",
	}
	for k, v := range want {
		if got := raw.Header.Get(k); got != v {
			t.Errorf("%s: %q, want %q", k, got, v)
		}
	}
	if raw.Header.Get("Nats-Msg-Id") != raw.Header.Get("ce-id") {
		t.Error("the message id is not the event's id")
	}
	if _, err := time.Parse(time.RFC3339Nano, raw.Header.Get("ce-time")); err != nil {
		t.Error(err)
	}
}

func mustStream(t testing.TB, b *Bus, name string) jetstream.Stream {
	t.Helper()
	s, err := b.js.Stream(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestErrorIsTriedAgainThenDeadLettered(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	var attempts []int
	done := make(chan struct{})
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error {
		if m.Body.GetRunId() == "good" {
			close(done)
			return nil
		}
		attempts = append(attempts, m.Attempt)
		switch len(attempts) {
		case 2:
			return fmt.Errorf("database away: %w", Later(time.Millisecond))
		case 3:
			panic("ouch")
		}
		return errors.New("no luck")
	}, MaxAttempts(3))
	run(t, b)
	mustPublish(t, b, requested("bad", "1"))
	eventually(t, "there is a dead letter", func() bool { return len(deadLetters(t, b)) == 1 })
	mustPublish(t, b, requested("good", "1"))
	wait(t, done, "the message after it")
	if want := []int{1, 2, 2, 3}; !slices.Equal(attempts, want) {
		t.Errorf("attempts %v, want %v", attempts, want)
	}
	d := deadLetters(t, b)[0]
	if d.GetConsumer() != "waste-ScopeRequested" || d.GetAttempts() != 3 || !strings.Contains(d.GetReason(), "no luck") ||
		d.GetSubject() != "nightshift.scan.v1.ScopeRequested.waste.1.eu-west-1" || d.GetMessageId() != "ScopeRequested/bad/waste/1/eu-west-1" {
		t.Errorf("dead letter %v", d)
	}
}

func TestConflict(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	planned := timestamppb.New(time.Unix(1e9, 0))
	buses := []*Bus{connect(t, s, "scheduler"), connect(t, s, "scheduler"), connect(t, s, "scheduler")}
	last := uint64(0)
	for round := range 30 {
		var wins atomic.Int32
		var seq atomic.Uint64
		var wg sync.WaitGroup
		for i := range 12 {
			wg.Go(func() {
				m := &jobv1.JobTriggered{Job: "j", Kind: "k", ArmedTime: planned, JobEtag: fmt.Sprint(round, i)}
				if i%2 == 0 {
					m.JobEtag = fmt.Sprint(round) // the same message as others
				}
				n, err := buses[i%3].Append(t.Context(), m, last)
				switch {
				case err == nil:
					wins.Add(1)
					seq.Store(n)
				case !errors.Is(err, ErrConflict) || !errors.Is(err, errs.Aborted):
					t.Errorf("round %d: %v", round, err)
				}
			})
		}
		wg.Wait()
		if wins.Load() != 1 {
			t.Fatalf("round %d: %d appended", round, wins.Load())
		}
		m, err := Last[*jobv1.JobTriggered](t.Context(), buses[0], "k", "j")
		if err != nil || m.Sequence != seq.Load() {
			t.Fatalf("round %d: last is %v, %v; want %d", round, m, err, seq.Load())
		}
		last = seq.Load()
	}
}

func TestRestartKeepsEverything(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "store")
	s := startServer(t, dir)
	b := connect(t, s, "waste")
	release := make(chan struct{})
	got := make(chan string, 100)
	On(b, func(ctx context.Context, m *Message[*scanv1.ScopeRequested]) error {
		got <- m.Body.GetRunId()
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	stop := run(t, b)
	mustPublish(t, b, requested("a", "1"))
	mustPublish(t, b, requested("b", "1"))
	if id := wait(t, got, "the first"); id != "a" {
		t.Fatalf("%s came first", id)
	}
	stop() // cuts the handler off after the grace, and hands the message back
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	s.Shutdown()
	s.WaitForShutdown()

	b = connect(t, startServer(t, dir), "waste")
	b.ackWait = 300 * time.Millisecond // the server forgets over a restart that a message was handed back
	type seen struct {
		run     string
		attempt int
	}
	again := make(chan seen, 10)
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error {
		again <- seen{m.Body.GetRunId(), m.Attempt}
		return nil
	})
	run(t, b)
	all := []seen{wait(t, again, "a"), wait(t, again, "b")}
	for _, want := range []seen{{"a", 1}, {"b", 1}} {
		if !slices.Contains(all, want) {
			t.Errorf("after the restart came %v", all)
		}
	}
}

func TestRunFinishedFilters(t *testing.T) {
	t.Parallel()
	e := eventFor[*runv1.RunFinished]()
	m := &runv1.RunFinished{Run: &runv1.Run{Id: "j/1", Job: "j", Kind: "waste", State: runv1.RunState_RUN_STATE_FAILED}}
	if got := e.Subject(m); got != "nightshift.run.v1.RunFinished.waste.failed.j" {
		t.Error(got)
	}
	for want, values := range map[string][]string{
		"nightshift.run.v1.RunFinished.>":                {},
		"nightshift.run.v1.RunFinished.waste.>":          {"waste"},
		"nightshift.run.v1.RunFinished.waste.failed.a-b": {"waste", "failed", "a-b"},
	} {
		if got := e.Filter(values...); got != want {
			t.Errorf("filter %s, want %s", got, want)
		}
	}
}
