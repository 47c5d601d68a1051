package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/protobuf/proto"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
)

func TestBatch(t *testing.T) {
	t.Parallel()
	b := newBus(t, "persistence")
	var mu sync.Mutex
	handled := map[int32]int{}
	var alone, most int
	var failed bool
	done := make(chan struct{})
	OnBatch(b, 10, func(_ context.Context, batch []*Message[*findingv1.FindingsObserved]) []error {
		mu.Lock()
		defer mu.Unlock()
		most = max(most, len(batch))
		// The first batch fails as a whole, because of one: the rest must get through.
		for _, m := range batch {
			if m.Body.GetSequence() == 3 {
				failed = true
				panic("three")
			}
		}
		verdicts := make([]error, len(batch))
		for i, m := range batch {
			if m.Attempt > 1 {
				alone = max(alone, len(batch))
			}
			if m.Body.GetSequence() == 7 && m.Attempt == 1 {
				verdicts[i] = errors.New("seven")
				continue
			}
			handled[m.Body.GetSequence()]++
			if len(handled) == 29 {
				close(done)
			}
		}
		return verdicts
	}, MaxAttempts(2))
	for i := range int32(30) {
		mustPublish(t, b, &findingv1.FindingsObserved{RunId: "r", Scope: requested("r", "1").GetScope(), Execution: "1.1", Sequence: i})
	}
	run(t, b)
	wait(t, done, "29 messages")
	d := awaitDeadLetters(t, b, 1)[0]
	mu.Lock()
	defer mu.Unlock()
	if !strings.Contains(d.GetMessageId(), "/1.1/3") || !failed {
		t.Errorf("dead letter %v", d)
	}
	for i := range int32(30) {
		if want := 1; i != 3 && handled[i] != want {
			t.Errorf("message %d was handled %d times", i, handled[i])
		}
	}
	if alone != 1 || most != 10 {
		t.Errorf("batches of up to %d, and up to %d beside one that failed", most, alone)
	}
}

func TestBatchVerdictsMustFit(t *testing.T) {
	t.Parallel()
	b := newBus(t, "persistence")
	OnBatch(b, 10, func(context.Context, []*Message[*scanv1.ScopeFinished]) []error { return nil }, MaxAttempts(1))
	run(t, b)
	mustPublish(t, b, &scanv1.ScopeFinished{RunId: "r"})
	if d := awaitDeadLetters(t, b, 1)[0]; !strings.Contains(d.GetReason(), "0 verdicts on 1 messages") {
		t.Error(d)
	}
}

// A handler that is at work when the bus is told to stop finishes.
func TestStopWaitsForHandlers(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	b := connect(t, s, "waste")
	b.cfg.Grace = patience
	begun, finish := make(chan struct{}), make(chan struct{})
	var finished atomic.Bool
	On(b, func(ctx context.Context, m *Message[*scanv1.ScopeRequested]) error {
		close(begun)
		<-finish
		if ctx.Err() != nil {
			t.Error("the context ended before the grace did")
		}
		// It can still publish.
		if err := b.Publish(ctx, &scanv1.ScopeFinished{RunId: m.Body.GetRunId(), Scope: m.Body.GetScope()}); err != nil {
			t.Error(err)
		}
		finished.Store(true)
		return nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- b.Run(ctx) }()
	mustPublish(t, b, requested("r", "1"))
	wait(t, begun, "the handler")
	cancel()
	select {
	case <-done:
		t.Fatal("Run ended before the handler")
	default:
	}
	close(finish)
	if err := wait(t, done, "Run"); err != nil || !finished.Load() {
		t.Errorf("Run: %v, handler finished: %v", err, finished.Load())
	}
	if err := b.Close(t.Context()); err != nil {
		t.Error(err)
	}
	// Nothing is left to do.
	b = connect(t, s, "waste")
	info, err := b.js.Consumer(t.Context(), "NIGHTSHIFT_SCAN", "waste-ScopeRequested")
	if err != nil {
		t.Fatal(err)
	}
	if i := info.CachedInfo(); i.NumAckPending != 0 || i.NumPending != 0 {
		t.Errorf("%d unacknowledged, %d pending", i.NumAckPending, i.NumPending)
	}
}

// A handler that does not come to an end is told so, and its message is given
// to another replica at once, uncounted.
func TestStopCutsHandlersOff(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	first, second := connect(t, s, "waste"), connect(t, s, "waste")
	begun := make(chan struct{})
	On(first, func(ctx context.Context, _ *Message[*scanv1.ScopeRequested]) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}, MaxAttempts(1))
	stop := run(t, first)
	mustPublish(t, first, requested("r", "1"))
	wait(t, begun, "the handler")
	got := make(chan *Message[*scanv1.ScopeRequested], 1)
	On(second, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error { got <- m; return nil }, MaxAttempts(1))
	run(t, second)
	stop()
	if m := wait(t, got, "the other replica"); m.Attempt != 1 || m.Deliveries != 2 {
		t.Errorf("attempt %d, delivery %d", m.Attempt, m.Deliveries)
	}
	if err := first.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestCloseCutsOffWhatExceedsItsTime(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	b.cfg.Grace = time.Hour
	begun := make(chan struct{})
	On(b, func(ctx context.Context, _ *Message[*scanv1.ScopeRequested]) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	})
	done := make(chan error, 1)
	go func() { done <- b.Run(t.Context()) }()
	mustPublish(t, b, requested("r", "1"))
	wait(t, begun, "the handler")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if err := b.Close(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Close: %v", err)
	}
	if err := wait(t, done, "Run"); err != nil {
		t.Error(err)
	}
}

// A message is held while its handler runs, however long that takes.
func TestLongHandlerKeepsItsMessage(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	b.ackWait, b.heartbeat = 300*time.Millisecond, 50*time.Millisecond
	var calls atomic.Int32
	done := make(chan struct{})
	On(b, func(ctx context.Context, _ *Message[*scanv1.ScopeRequested]) error {
		calls.Add(1)
		sleep(ctx, 5*b.ackWait)
		close(done)
		return nil
	}, Concurrency(3))
	run(t, b)
	mustPublish(t, b, requested("r", "1"))
	wait(t, done, "the handler")
	if calls.Load() != 1 {
		t.Errorf("called %d times", calls.Load())
	}
}

// All replicas together handle no more than MaxPending, one replica no more
// than Concurrency, and what one has no hand for goes to another.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	var busy, most atomic.Int32
	release := make(chan struct{})
	entered := make(chan int, 100)
	for i := range 2 {
		b := connect(t, s, "waste")
		On(b, func(context.Context, *Message[*scanv1.ScopeRequested]) error {
			n := busy.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			entered <- i
			<-release
			busy.Add(-1)
			return nil
		}, Concurrency(2), MaxPending(3))
		run(t, b)
		if i == 0 {
			for j := range 10 {
				mustPublish(t, b, requested(fmt.Sprint(j), "1"))
			}
		}
	}
	count := map[int]int{}
	for range 3 {
		count[wait(t, entered, "three handlers")]++
	}
	if count[0] > 2 || count[1] > 2 {
		t.Errorf("handlers per replica: %v", count)
	}
	close(release)
	for range 7 {
		wait(t, entered, "the rest")
	}
	if most.Load() > 3 {
		t.Errorf("%d at once", most.Load())
	}
}

// Who handles messages as the same group shares them, whatever service it is,
// and one service can handle the same messages as several groups.
func TestGroup(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	one, two := connect(t, s, "one"), connect(t, s, "two")
	got := make(chan string, 100)
	handle := func(who string) func(context.Context, *Message[*scanv1.ScopeRequested]) error {
		return func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error {
			got <- who + " " + m.Body.GetRunId()
			return nil
		}
	}
	On(one, handle("waste"), Group("waste"))
	On(two, handle("waste"), Group("waste"))
	On(two, handle("audit"), Group("audit"))
	run(t, one)
	run(t, two)
	seen := map[string]bool{}
	for n := range 10 {
		mustPublish(t, one, requested(fmt.Sprint(n), "1"))
	}
	for range 20 {
		if m := wait(t, got, "a message"); seen[m] {
			t.Errorf("%s came twice", m)
		} else {
			seen[m] = true
		}
	}
	if _, err := mustStream(t, one, "NIGHTSHIFT_SCAN").Consumer(t.Context(), "waste-ScopeRequested"); err != nil {
		t.Error(err)
	}
}

func TestLaterIsNotAnAttempt(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	got := make(chan *Message[*scanv1.ScopeRequested], 100)
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error {
		got <- m
		if m.Deliveries <= 6 {
			return fmt.Errorf("the database is away: %w", Later(time.Millisecond))
		}
		return errors.New("no")
	}, MaxAttempts(2))
	run(t, b)
	mustPublish(t, b, requested("r", "1"))
	if d := awaitDeadLetters(t, b, 1)[0]; d.GetAttempts() != 2 {
		t.Errorf("dead letter %v", d)
	}
	var attempts []int
	for range 8 {
		attempts = append(attempts, wait(t, got, "a delivery").Attempt)
	}
	if want := []int{1, 1, 1, 1, 1, 1, 1, 2}; !slices.Equal(attempts, want) {
		t.Errorf("attempts %v, want %v", attempts, want)
	}
}

// A longer retry delay in the error is respected.
func TestRetryDelayOfAnError(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	var times []time.Time
	done := make(chan struct{})
	On(b, func(context.Context, *Message[*scanv1.ScopeRequested]) error {
		if times = append(times, time.Now()); len(times) == 2 {
			close(done)
			return nil
		}
		return errs.New(errs.Unavailable, "BUSY", "busy").RetryAfter(200 * time.Millisecond)
	})
	run(t, b)
	mustPublish(t, b, requested("r", "1"))
	wait(t, done, "the second attempt")
	if d := times[1].Sub(times[0]); d < 200*time.Millisecond {
		t.Errorf("came back after %v", d)
	}
}

func TestBackoffGrowsAndIsBounded(t *testing.T) {
	t.Parallel()
	want := []time.Duration{time.Second, time.Second, 4 * time.Second, 16 * time.Second, 64 * time.Second, 256 * time.Second, 5 * time.Minute, 5 * time.Minute}
	for attempt, w := range want {
		if got := backoff(attempt); got != w {
			t.Errorf("attempt %d: %v, want %v", attempt, got, w)
		}
	}
	if got := backoff(1 << 40); got != 5*time.Minute {
		t.Error(got)
	}
	for range 1000 {
		if d := jitter(10 * time.Second); d < 8*time.Second || d > 12*time.Second {
			t.Fatal(d)
		}
	}
}

func TestTraceReachesTheHandler(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	got := make(chan trace.SpanContext, 10)
	On(b, func(ctx context.Context, _ *Message[*scanv1.ScopeRequested]) error {
		got <- trace.SpanContextFromContext(ctx)
		return nil
	})
	run(t, b)
	sc := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{1}, SpanID: trace.SpanID{2}, TraceFlags: trace.FlagsSampled})
	ctx := trace.ContextWithSpanContext(t.Context(), sc)
	if err := b.Publish(ctx, requested("a", "1")); err != nil {
		t.Fatal(err)
	}
	if h := wait(t, got, "the message"); h.TraceID() != sc.TraceID() || !h.IsSampled() {
		t.Errorf("the handler is in trace %v", h.TraceID())
	}
	// The same by way of an outbox.
	if err := b.PublishAll(t.Context(), []Outgoing{{Message: requested("b", "1"), Trace: Trace(ctx), Time: time.Unix(1e9, 0)}}); err != nil {
		t.Fatal(err)
	}
	if h := wait(t, got, "the message of the outbox"); h.TraceID() != sc.TraceID() {
		t.Errorf("the handler is in trace %v", h.TraceID())
	}
	raw, err := mustStream(t, b, "NIGHTSHIFT_SCAN").GetMsg(t.Context(), 2)
	if err != nil || raw.Header.Get("ce-time") != "2001-09-09T01:46:40Z" {
		t.Errorf("%v, %v", raw.Header, err)
	}
	if Trace(t.Context()) != "" {
		t.Error("a trace without one")
	}
}

func TestPublishAll(t *testing.T) {
	t.Parallel()
	b := newBus(t, "persistence")
	var all []proto.Message
	for i := range 500 {
		all = append(all, requested("r", fmt.Sprint(i)))
	}
	for range 2 { // the second time changes nothing
		if err := b.PublishEach(t.Context(), all...); err != nil {
			t.Fatal(err)
		}
	}
	if n := mustStream(t, b, "NIGHTSHIFT_SCAN").CachedInfo().State.Msgs; n != 500 {
		t.Errorf("%d messages", n)
	}
	if err := b.PublishEach(t.Context()); err != nil {
		t.Errorf("nothing to publish: %v", err)
	}
}

func TestPublishThatCannotWork(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), func(o *server.Options) {
		o.DontListen, o.Host, o.Port = false, "127.0.0.1", server.RANDOM_PORT
		o.MaxPayload = 16 << 10
		o.Users = []*server.User{
			{Username: "all", Password: "x"},
			{Username: "limited", Password: "x", Permissions: &server.Permissions{
				Publish:   &server.SubjectPermission{Deny: []string{"nightshift.scan.v1.ScopeRequested.>", "$KV.B.secret"}},
				Subscribe: &server.SubjectPermission{Allow: []string{">"}},
			}},
		}
	})
	b := connect(t, s, "waste", nats.UserInfo("limited", "x"))
	begin := time.Now()
	err := b.Publish(t.Context(), requested("r", "1"))
	if !errors.Is(err, errs.PermissionDenied) || !strings.Contains(err.Error(), "nightshift.scan.v1.ScopeRequested.waste.1.eu-west-1") {
		t.Errorf("a refused publish: %v", err)
	}
	if d := time.Since(begin); d > 4*time.Second {
		t.Errorf("it took %v to say so", d)
	}
	if _, err := b.Append(t.Context(), requested("r", "1"), 0); !errors.Is(err, errs.PermissionDenied) {
		t.Errorf("a refused append: %v", err)
	}
	if err := b.Publish(t.Context(), &scanv1.ScopeFinished{RunId: "r", Error: strings.Repeat("x", 20<<10)}); !errors.Is(err, errs.ResourceExhausted) {
		t.Errorf("a large message: %v", err)
	}
	if err := b.Publish(t.Context(), &scanv1.ScopeFinished{RunId: "\xff"}); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("a broken string: %v", err)
	}
	kv, err := OpenKV[*jobv1.Job](t.Context(), b, "B")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kv.Create(t.Context(), "secret", &jobv1.Job{}); !errors.Is(err, errs.PermissionDenied) {
		t.Errorf("a refused key: %v", err)
	}
	if _, err := kv.Create(t.Context(), "open", &jobv1.Job{}); err != nil {
		t.Errorf("beside the refused key: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.Publish(ctx, &scanv1.ScopeFinished{}); !errors.Is(err, context.Canceled) {
		t.Errorf("a publish whose caller is gone: %v", err)
	}
	if _, err := Connect(t.Context(), Config{URL: s.ClientURL(), Service: "x", Options: []nats.Option{nats.UserInfo("all", "wrong")}, Log: quiet()}); err == nil || !strings.Contains(err.Error(), "Authorization") {
		t.Errorf("a wrong password: %v", err)
	}
}

func TestConnectRefusesBadConfiguration(t *testing.T) {
	t.Parallel()
	for want, cfg := range map[string]Config{
		"service name":      {Service: "a b"},
		"want 0 to 5":       {Service: "a", Replicas: 7},
		"address 2":         {Service: "a", URL: "nats://x:1,nats://u:secret@h:port:1 %zz"},
		"context deadline ": {Service: "a", URL: "nats://127.0.0.1:1"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		cfg.Log = quiet()
		_, err := Connect(ctx, cfg)
		cancel()
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v; want it to say %s", cfg.Service, err, want)
		}
	}
}

func TestReconcileStreams(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	nc, err := nats.Connect("", nats.InProcessServer(s))
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	// A stream of an older version: it is brought up to date with its messages.
	if _, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "NIGHTSHIFT_SCAN", Subjects: []string{"nightshift.scan.v1.>", "extra.>"}, MaxAge: time.Hour}); err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "nightshift.scan.v1.X", nil); err != nil {
		t.Fatal(err)
	}
	b := connect(t, s, "waste")
	info := mustStream(t, b, "NIGHTSHIFT_SCAN").CachedInfo()
	if c := info.Config; c.MaxAge != 7*day || c.MaxBytes != 256*mib || info.State.Msgs != 1 ||
		!slices.Equal(c.Subjects, []string{"nightshift.scan.v1.>", "extra.>", "nightshift.replay.NIGHTSHIFT_SCAN.>"}) {
		t.Errorf("stream %+v with %d messages", c, info.State.Msgs)
	}
	job := mustStream(t, b, "NIGHTSHIFT_JOB").CachedInfo().Config
	if !job.DenyDelete || !job.DenyPurge || job.MaxAge != 0 || job.MaxBytes != -1 || job.MaxMsgsPerSubject != jobRecords || job.Retention != jetstream.LimitsPolicy || job.Storage != jetstream.FileStorage {
		t.Errorf("the log of jobs can forget: %+v", job)
	}

	// One that would have to be made anew is refused, and left as it is.
	other := startServer(t, t.TempDir())
	nc2, err := nats.Connect("", nats.InProcessServer(other))
	if err != nil {
		t.Fatal(err)
	}
	defer nc2.Close()
	js2, err := jetstream.New(nc2)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js2.CreateStream(t.Context(), jetstream.StreamConfig{Name: "NIGHTSHIFT_RUN", Subjects: []string{"nightshift.run.v1.>"}, Retention: jetstream.WorkQueuePolicy, Storage: jetstream.MemoryStorage}); err != nil {
		t.Fatal(err)
	}
	_, err = Connect(t.Context(), Config{Service: "waste", Options: []nats.Option{nats.InProcessServer(other)}, Log: b.log})
	if !errors.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "NIGHTSHIFT_RUN") || !strings.Contains(err.Error(), "storage is Memory") || !strings.Contains(err.Error(), "retention is WorkQueue") {
		t.Errorf("an incompatible stream: %v", err)
	}
	kept, err := js2.Stream(t.Context(), "NIGHTSHIFT_RUN")
	if err != nil || kept.CachedInfo().Config.Storage != jetstream.MemoryStorage {
		t.Errorf("it was touched: %v", err)
	}
}

func TestReconcileConsumers(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	b := connect(t, s, "waste")
	nothing := func(context.Context, *Message[*scanv1.ScopeRequested]) error { return nil }
	On(b, nothing, MaxPending(7))
	c := b.consumers[0]
	if err := c.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	created := c.durable.CachedInfo().Created
	// A newer version, with another filter.
	next := connect(t, s, "waste")
	On(next, nothing, Filter("waste"))
	if err := next.consumers[0].reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	info, err := next.consumers[0].durable.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if cfg := info.Config; cfg.MaxAckPending != 1000 || !info.Created.Equal(created) || cfg.MaxDeliver != -1 ||
		!slices.Equal(cfg.FilterSubjects, []string{"nightshift.scan.v1.ScopeRequested.waste.>", "nightshift.replay.NIGHTSHIFT_SCAN.waste-ScopeRequested"}) {
		t.Errorf("consumer %+v, created %v, was %v", cfg, info.Created, created)
	}
	// A new trigger consumer begins with what comes; others with what there is.
	On(b, func(context.Context, *Message[*jobv1.JobTriggered]) error { return nil })
	if p := b.consumers[1].config().DeliverPolicy; p != jetstream.DeliverNewPolicy {
		t.Error(p)
	}
	if p := b.consumers[0].config().DeliverPolicy; p != jetstream.DeliverAllPolicy {
		t.Error(p)
	}
	// One that would lose its place is refused.
	if _, err := b.js.CreateConsumer(t.Context(), "NIGHTSHIFT_JOB", jetstream.ConsumerConfig{Durable: "waste-JobTriggered", AckPolicy: jetstream.AckExplicitPolicy}); err != nil {
		t.Fatal(err)
	}
	if err := b.Run(t.Context()); !errors.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "waste-JobTriggered") {
		t.Errorf("an incompatible consumer: %v", err)
	}
}

func TestDeletedConsumerIsAnError(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	got := make(chan string, 1)
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error { got <- m.ID; return nil })
	done := make(chan error, 1)
	go func() { done <- b.Run(t.Context()) }()
	mustPublish(t, b, requested("r", "1"))
	wait(t, got, "a message")
	if err := b.js.DeleteConsumer(t.Context(), "NIGHTSHIFT_SCAN", "waste-ScopeRequested"); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, done, "Run"); !errors.Is(err, errs.FailedPrecondition) || !strings.Contains(err.Error(), "was deleted") {
		t.Errorf("Run: %v", err)
	}
}

func TestRegistrationMistakesPanic(t *testing.T) {
	t.Parallel()
	b := newBus(t, "waste")
	h := func(context.Context, *Message[*scanv1.ScopeRequested]) error { return nil }
	panics := func(what string, do func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s does not panic", what)
			}
		}()
		do()
	}
	panics("an event that is none", func() { On(b, func(context.Context, *Message[*jobv1.Job]) error { return nil }) })
	panics("too many tokens", func() { On(b, h, Filter("a", "b", "c", "d")) })
	panics("no workers", func() { On(b, h, Concurrency(0)) })
	On(b, h)
	panics("a second handler", func() { On(b, h) })
	run(t, b)
	eventually(t, "the bus runs", func() bool { b.mu.Lock(); defer b.mu.Unlock(); return b.running != nil })
	panics("a handler after Run", func() { On(b, func(context.Context, *Message[*scanv1.ScopeFinished]) error { return nil }) })
	if err := b.Run(t.Context()); !errors.Is(err, errs.FailedPrecondition) {
		t.Errorf("a second Run: %v", err)
	}
}

// The server goes away and comes back: what is published meanwhile is stored
// once it is there, and handlers and watches go on.
func TestServerRestart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	listen := func(port int) func(*server.Options) {
		return func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "127.0.0.1", port }
	}
	s := startServer(t, dir, listen(server.RANDOM_PORT))
	b, err := Connect(t.Context(), Config{URL: s.ClientURL(), Service: "waste", Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
	got := make(chan string, 10)
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error {
		got <- m.Body.GetRunId()
		return nil
	})
	run(t, b)
	watched := make(chan string, 10)
	current := make(chan struct{})
	go func() {
		_ = Watch(t.Context(), b, func(m *Message[*scanv1.ScopeRequested]) { watched <- m.Body.GetRunId() }, func() { close(current) })
	}()
	wait(t, current, "the watch")
	mustPublish(t, b, requested("before", "1"))
	for _, c := range []chan string{got, watched} {
		if id := wait(t, c, "the message before"); id != "before" {
			t.Errorf("got %s", id)
		}
	}
	url := s.ClientURL()
	var port int
	if _, err := fmt.Sscanf(url[strings.LastIndex(url, ":")+1:], "%d", &port); err != nil {
		t.Fatal(err)
	}
	s.Shutdown()
	s.WaitForShutdown()
	eventually(t, "the connection is lost", func() bool { return !b.nc.IsConnected() })
	published := make(chan error, 1)
	go func() { published <- b.Publish(t.Context(), requested("after", "1")) }()
	startServer(t, dir, listen(port))
	if err := wait(t, published, "the publish"); err != nil {
		t.Fatal(err)
	}
	for _, c := range []chan string{got, watched} {
		if id := wait(t, c, "the message after"); id != "after" {
			t.Errorf("got %s", id)
		}
	}
}

func TestStopWhileTheServerIsGone(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	b := connect(t, s, "waste")
	got := make(chan string, 1)
	On(b, func(_ context.Context, m *Message[*scanv1.ScopeRequested]) error { got <- m.ID; return nil })
	stop := run(t, b)
	mustPublish(t, b, requested("r", "1"))
	wait(t, got, "a message")
	s.Shutdown()
	s.WaitForShutdown()
	begin := time.Now()
	stop()
	_ = b.Close(t.Context())
	if d := time.Since(begin); d > 5*time.Second {
		t.Errorf("it took %v", d)
	}
}

func TestHandled(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir())
	b := connect(t, s, "scheduler")
	kinds := func() []string {
		t.Helper()
		k, err := Handled[*jobv1.JobTriggered](t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	if k := kinds(); len(k) != 0 {
		t.Errorf("of no consumers: %v", k)
	}
	h := func(context.Context, *Message[*jobv1.JobTriggered]) error { return nil }
	for service, filter := range map[string][]string{"waste": {"waste"}, "odd": {"o.d d"}, "audit": {}, "one": {"waste", "waste-scan"}} {
		c := connect(t, s, service)
		On(c, h, Filter(filter...))
		On(c, func(context.Context, *Message[*jobv1.JobRequested]) error { return nil }, Filter("requested"))
		for _, c := range c.consumers {
			if err := c.reconcile(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if k := kinds(); !slices.Equal(k, []string{"o.d d", "waste"}) {
		t.Errorf("handled: %q", k)
	}
}

func TestWatchAndLast(t *testing.T) {
	t.Parallel()
	b := newBus(t, "scheduler")
	armed := func(job, etag string) *jobv1.JobTriggered {
		return &jobv1.JobTriggered{Kind: "k", Job: job, JobEtag: etag}
	}
	for _, m := range []*jobv1.JobTriggered{armed("a", "1"), armed("b", "1"), armed("a", "2")} {
		mustPublish(t, b, m)
	}
	if _, err := b.js.Publish(t.Context(), "nightshift.job.v1.JobTriggered.k.broken", []byte{0xff}); err != nil {
		t.Fatal(err)
	}
	mustPublish(t, b, &jobv1.JobRequested{Trigger: &jobv1.Trigger{RunId: "x"}}) // not of the type
	events := make(chan string, 10)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- Watch(ctx, b, func(m *Message[*jobv1.JobTriggered]) { events <- m.Body.GetJob() + m.Body.GetJobEtag() }, func() { events <- "current" })
	}()
	var got []string
	for range 3 {
		got = append(got, wait(t, events, "the last of each"))
	}
	mustPublish(t, b, armed("c", "1"))
	got = append(got, wait(t, events, "a new one"))
	if want := []string{"b1", "a2", "current", "c1"}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	cancel()
	if err := wait(t, done, "Watch"); err != nil {
		t.Error(err)
	}
	if m, err := Last[*jobv1.JobTriggered](t.Context(), b, "k", "none"); m != nil || err != nil {
		t.Errorf("of no messages: %v, %v", m, err)
	}
	if m, err := Last[*jobv1.JobTriggered](t.Context(), b, "k", "a"); err != nil || m.Body.GetJobEtag() != "2" || m.Sequence != 3 {
		t.Errorf("%v, %v", m, err)
	}
	if _, err := Last[*jobv1.JobTriggered](t.Context(), b, "k", "broken"); err == nil || !strings.Contains(err.Error(), "message 4") {
		t.Errorf("of a broken message: %v", err)
	}
	if _, err := Last[*jobv1.JobTriggered](t.Context(), b, "k"); err == nil {
		t.Error("too few tokens")
	}
}
