package bus

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
)

type scopes = Message[*scanv1.ScopeRequested]

// dial connects as somebody who is no service.
func dial(t testing.TB, s *server.Server, opts ...nats.Option) *Bus {
	t.Helper()
	b, err := Dial(t.Context(), Config{URL: s.ClientURL(), Service: "stranger", Options: opts, Grace: 50 * time.Millisecond, Log: quiet()})
	if err != nil {
		t.Fatal(err)
	}
	b.backoff = func(attempt int) time.Duration { return time.Duration(attempt) * 2 * time.Millisecond }
	t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
	return b
}

func listening(port int) func(*server.Options) {
	return func(o *server.Options) { o.DontListen, o.Host, o.Port = false, "127.0.0.1", port }
}

// subscribe subscribes until the test ends or the returned function is called.
func subscribe(t testing.TB, b *Bus, handler func(context.Context, *scopes) error, opts ...Option) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- Subscribe(ctx, b, handler, opts...) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Subscribe: %v", err)
		}
	})
	t.Cleanup(stop)
	return stop
}

// into has what comes sent to a channel, as its run.
func into(got chan<- string) func(context.Context, *scopes) error {
	return func(_ context.Context, m *scopes) error { got <- m.Body.GetRunId(); return nil }
}

func runs(t testing.TB, got <-chan string, n int) string {
	t.Helper()
	var all []string
	for range n {
		all = append(all, wait(t, got, "a message"))
	}
	return strings.Join(all, " ")
}

func TestSubscribeFromAPointInTime(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), listening(-1))
	b := connect(t, s, "persistence")
	var times []time.Time
	for i := range 5 {
		mustPublish(t, b, requested(fmt.Sprint(i), "1"))
		raw, err := mustStream(t, b, "NIGHTSHIFT_SCAN").GetMsg(t.Context(), uint64(i+1))
		if err != nil {
			t.Fatal(err)
		}
		times = append(times, raw.Time)
	}
	mine := dial(t, s)
	for name, test := range map[string]struct {
		opts []Option
		want string
	}{
		"all":                 {[]Option{All()}, "0 1 2 3 4 5"},
		"the time of one":     {[]Option{Since(times[2])}, "2 3 4 5"},
		"just after":          {[]Option{Since(times[2].Add(1))}, "3 4 5"},
		"long before":         {[]Option{Since(times[0].Add(-time.Hour))}, "0 1 2 3 4 5"},
		"after the last":      {[]Option{Since(times[4].Add(1))}, "5"},
		"all, durable":        {[]Option{All(), Durable("a")}, "0 1 2 3 4 5"},
		"the time of one, d.": {[]Option{Since(times[3]), Durable("b")}, "3 4 5"},
	} {
		t.Run(name, func(t *testing.T) {
			got := make(chan string, 100)
			subscribe(t, mine, into(got), test.opts...)
			want := strings.Fields(test.want)
			if had := runs(t, got, len(want)-1); had != strings.Join(want[:len(want)-1], " ") {
				t.Errorf("first came %s", had)
			}
			mustPublish(t, b, requested("5", "1")) // the same message for all: the first stores it
			if had := runs(t, got, 1); had != "5" {
				t.Errorf("then came %s", had)
			}
		})
	}
}

func TestSubscribeBeginsNow(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), listening(-1))
	b := connect(t, s, "persistence")
	mustPublish(t, b, requested("old", "1"))
	for i, opts := range [][]Option{{Filter("waste", "1")}, {Filter("waste", "1"), Durable("mine")}} {
		got := make(chan string, 100)
		stop := subscribe(t, dial(t, s), into(got), opts...)
		eventually(t, "the subscription is there", func() bool { return mustStreamInfo(t, b).State.Consumers == i+1 })
		mustPublish(t, b, requested(fmt.Sprint("other ", i), "2"))
		mustPublish(t, b, &scanv1.ScopeFinished{RunId: fmt.Sprint("no request ", i), Scope: requested("", "1").GetScope()})
		mustPublish(t, b, requested(fmt.Sprint("new ", i), "1"))
		if had := runs(t, got, 1); had != fmt.Sprint("new ", i) {
			t.Errorf("%s came", had)
		}
		stop()
	}
}

func mustStreamInfo(t testing.TB, b *Bus) *jetstream.StreamInfo {
	t.Helper()
	info, err := mustStream(t, b, "NIGHTSHIFT_SCAN").Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return info
}

// Whatever dies, nothing is lost, and who only follows sees each message once
// and in order.
func TestSubscribersSurvive(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir, listening(-1))
	_, port, _ := strings.Cut(strings.TrimPrefix(s.ClientURL(), "nats://"), ":")
	var at int
	if _, err := fmt.Sscan(port, &at); err != nil {
		t.Fatal(err)
	}
	publisher := dial(t, s)
	if err := publisher.reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	const all, each = 60, 10
	var mu sync.Mutex
	var followed []string
	handled := map[string]int{}
	followers, durables := make(chan struct{}, 1000), make(chan struct{}, 1000)
	subscribe(t, dial(t, s), func(_ context.Context, m *scopes) error {
		mu.Lock()
		defer mu.Unlock()
		followed = append(followed, m.Body.GetRunId())
		followers <- struct{}{}
		return nil
	})
	eventually(t, "the follower is there", func() bool { return mustStreamInfo(t, publisher).State.Consumers == 1 })
	durable := func() (stop func()) {
		b := dial(t, s)
		b.ackWait = 500 * time.Millisecond // a server that was killed does not know what was handed back
		return subscribe(t, b, func(ctx context.Context, m *scopes) error {
			if n := len(durables); n%7 == 3 && m.Attempt == 1 {
				<-ctx.Done() // killed in the middle of it
				return ctx.Err()
			}
			mu.Lock()
			defer mu.Unlock()
			if handled[m.ID]++; handled[m.ID] == 1 {
				durables <- struct{}{}
			}
			return nil
		}, Durable("mine"), All(), Concurrency(3))
	}
	stop := durable()
	for i := range all {
		if i%each == each-1 {
			stop()
			s.Shutdown()
			s.WaitForShutdown()
			s = startServer(t, dir, listening(at))
			stop = durable()
		}
		mustPublish(t, publisher, requested(fmt.Sprint(i), "1"))
	}
	for range all {
		wait(t, followers, "everything that follows")
	}
	// Those that hang wait to be cut off.
	eventually(t, "everything was handled", func() bool {
		if len(durables) == all {
			return true
		}
		stop()
		stop = durable()
		sleep(t.Context(), 100*time.Millisecond)
		return false
	})
	mu.Lock()
	defer mu.Unlock()
	for i, r := range followed {
		if r != fmt.Sprint(i) {
			t.Fatalf("in order came %v", followed)
		}
	}
}

// A message that cannot be read, or handled, holds nobody up for good.
func TestSubscribersPoison(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), listening(-1))
	b := connect(t, s, "persistence")
	mustPublish(t, b, requested("before", "1"))
	if _, err := b.js.Publish(t.Context(), "nightshift.scan.v1.ScopeRequested.waste.1.r", []byte{0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	for _, r := range []string{"fails", "panics", "dropped", "later", "after"} {
		mustPublish(t, b, requested(r, "1"))
	}
	for name, test := range map[string]struct {
		opts []Option
		want string
	}{
		"in order":       {[]Option{All()}, "before fails fails panics panics dropped later later after"},
		"durable":        {[]Option{All(), Durable("a")}, "before fails panics dropped later after"},
		"strictly so":    {[]Option{All(), Durable("b"), MaxPending(1)}, "before fails fails panics panics dropped later later after"},
		"two are enough": {[]Option{All(), MaxAttempts(2)}, "before fails fails panics panics dropped later later after"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := make(chan string, 100)
			seen := map[string]int{}
			subscribe(t, dial(t, s), func(_ context.Context, m *scopes) error {
				r := m.Body.GetRunId()
				seen[r]++
				got <- r
				if name == "two are enough" && (r == "fails" || r == "panics") {
					return errors.New("always")
				}
				switch {
				case r == "fails" && seen[r] == 1:
					return errors.New("no luck")
				case r == "panics" && seen[r] == 1:
					panic("ouch")
				case r == "dropped":
					return Drop(errors.New("never"))
				case r == "later" && seen[r] == 1:
					return Later(time.Millisecond)
				}
				return nil
			}, test.opts...)
			want := strings.Fields(test.want)
			if name != "durable" {
				if had := runs(t, got, len(want)); had != test.want {
					t.Errorf("came %s", had)
				}
				return
			}
			// What failed comes when it comes.
			had := strings.Fields(runs(t, got, len(want)+3))
			slices.Sort(had)
			if got := strings.Join(had, " "); got != "after before dropped fails fails later later panics panics" {
				t.Errorf("came %s", got)
			}
		})
	}
}

func TestSubscribeRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), listening(-1))
	b := connect(t, s, "persistence")
	mine := dial(t, s)
	for name, opts := range map[string][]Option{
		"too many tokens":     {Filter("a", "b", "c", "d")},
		"a name of ours":      {Durable("waste")},
		"no name":             {Durable("")},
		"a name with a dot":   {Durable("a.b")},
		"a star":              {Durable("*")},
		"two at once":         {Concurrency(2)},
		"no attempts":         {MaxAttempts(0)},
		"nothing in hand":     {Durable("a"), MaxPending(0)},
		"a group is for On":   {Group("a")},
		"negative concurrent": {Durable("a"), Concurrency(-1)},
	} {
		err := Subscribe(t.Context(), mine, func(context.Context, *scopes) error { return nil }, opts...)
		if !errors.Is(err, errs.InvalidArgument) || errs.Reason(err) != "BAD_SUBSCRIPTION" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := Forget[*scanv1.ScopeRequested](t.Context(), mine, "waste"); !errors.Is(err, errs.InvalidArgument) {
		t.Error(err)
	}
	if n := mustStreamInfo(t, b).State.Consumers; n != 0 {
		t.Errorf("%d consumers were made", n)
	}
}

// A durable subscription that was begun goes on where it was, whatever its
// options say by now; one that is forgotten begins anew.
func TestForget(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), listening(-1))
	b := connect(t, s, "persistence")
	mine := dial(t, s)
	mustPublish(t, b, requested("1", "1"))
	mustPublish(t, b, requested("2", "2"))
	got := make(chan string, 100)
	stop := subscribe(t, mine, into(got), Durable("mine"), All())
	if had := runs(t, got, 2); had != "1 2" {
		t.Errorf("came %s", had)
	}
	stop()
	mustPublish(t, b, requested("3", "1"))
	stop = subscribe(t, mine, into(got), Durable("mine"), Filter("waste", "1"))
	if had := runs(t, got, 1); had != "3" {
		t.Errorf("came %s", had)
	}
	stop()
	for range 2 {
		if err := Forget[*scanv1.ScopeRequested](t.Context(), mine, "mine"); err != nil {
			t.Error(err)
		}
	}
	subscribe(t, mine, into(got), Durable("mine"), All(), Filter("waste", "1"))
	if had := runs(t, got, 2); had != "1 3" {
		t.Errorf("came %s", had)
	}
}

// Who is there before Nightshift waits for it, and makes nothing.
func TestSubscribeWaitsForStreams(t *testing.T) {
	t.Parallel()
	s := startServer(t, t.TempDir(), listening(-1))
	got := make(chan string, 100)
	first, second := dial(t, s), dial(t, s)
	subscribe(t, first, into(got), All())
	subscribe(t, second, into(got), Durable("mine"), All())
	b := connect(t, s, "persistence")
	mustPublish(t, b, requested("1", "1"))
	mustPublish(t, b, &jobv1.JobRequested{})
	if had := runs(t, got, 2); had != "1 1" {
		t.Errorf("came %s", had)
	}
}
