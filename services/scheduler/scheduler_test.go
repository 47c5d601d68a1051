package scheduler

import (
	"context"
	"fmt"
	"hash/maphash"
	"log/slog"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/devstack/devtest"
)

// patience bounds every wait of these tests: reaching it is a failure.
const patience = 30 * time.Second

// start of the tests' time, a Monday.
var monday = time.Date(2026, 3, 2, 0, 0, 0, 0, time.UTC)

// world is time as the test moves it.
type world struct {
	mu      sync.Mutex
	now     time.Time
	waiting map[chan time.Time]time.Time
}

func newWorld(now time.Time) *world {
	return &world{now: now, waiting: map[chan time.Time]time.Time{}}
}

// clock is a replica's clock, wrong by skew.
func (w *world) clock(skew time.Duration) clock {
	return clock{
		now: func() time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			return w.now.Add(skew)
		},
		at: func(t time.Time) <-chan time.Time {
			w.mu.Lock()
			defer w.mu.Unlock()
			c := make(chan time.Time, 1)
			if t = t.Add(-skew); t.After(w.now) {
				w.waiting[c] = t
			} else {
				c <- w.now
			}
			return c
		},
	}
}

func (w *world) set(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = now
	for c, t := range w.waiting {
		if !t.After(now) {
			c <- now
			delete(w.waiting, c)
		}
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func connect(t testing.TB, nats *devstack.NATSServer, service string) *bus.Bus {
	t.Helper()
	b, err := bus.Connect(t.Context(), bus.Config{Service: service, Options: nats.Options(), Log: quiet(), Grace: 10 * time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
	return b
}

// replica is a scheduler that runs until stop is called.
type replica struct {
	*Service
	stop func()
}

func start(t testing.TB, b *bus.Bus, c clock) *replica {
	t.Helper()
	s, err := New(t.Context(), quiet(), b, c)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r := &replica{Service: s, stop: sync.OnceFunc(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Run: %v", err)
			}
		case <-time.After(patience):
			t.Error("Run does not end")
		}
	})}
	t.Cleanup(r.stop)
	return r
}

// handle makes kinds known: a service with a durable consumer for each. What
// it is asked for comes out of the channel.
func handle(t testing.TB, nats *devstack.NATSServer, kinds ...string) <-chan *jobv1.Trigger {
	t.Helper()
	asked := make(chan *jobv1.Trigger, 10000)
	for _, kind := range kinds {
		b := connect(t, nats, kind)
		bus.On(b, func(_ context.Context, m *bus.Message[*jobv1.JobTriggered]) error {
			if m.Body.GetTrigger() != nil {
				asked <- m.Body.GetTrigger()
			}
			return nil
		}, bus.Filter(kind))
		bus.On(b, func(_ context.Context, m *bus.Message[*jobv1.JobRequested]) error {
			asked <- m.Body.GetTrigger()
			return nil
		}, bus.Filter(kind))
		ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
		t.Cleanup(cancel)
		go func() { _ = b.Run(ctx) }()
		eventually(t, "kind "+kind+" is known", func() bool {
			known, err := bus.Handled[*jobv1.JobTriggered](t.Context(), b)
			return err == nil && slices.Contains(known, kind)
		})
	}
	return asked
}

// eventually polls what no channel tells.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.After(patience)
	for !ok() {
		select {
		case <-deadline:
			t.Fatalf("waited in vain until %s", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

func await(t testing.TB, c <-chan *jobv1.Trigger, what string) *jobv1.Trigger {
	t.Helper()
	select {
	case v := <-c:
		return v
	case <-time.After(patience):
		t.Fatalf("waited in vain for %s", what)
		return nil
	}
}

// awaitMoving is await in a world that moves on a little, up to 30 s, for what
// is tried again after a while.
func awaitMoving(t testing.TB, w *world, c <-chan *jobv1.Trigger, what string) *jobv1.Trigger {
	t.Helper()
	for range 30 {
		select {
		case v := <-c:
			return v
		case <-time.After(time.Second):
			w.mu.Lock()
			now := w.now
			w.mu.Unlock()
			w.set(now.Add(time.Second))
		}
	}
	t.Fatalf("waited in vain for %s", what)
	return nil
}

func create(t testing.TB, r *replica, name, kind, schedule string) *jobv1.Job {
	t.Helper()
	resp, err := r.CreateJob(t.Context(), &jobv1.CreateJobRequest{Job: &jobv1.Job{Name: name, Kind: kind, Schedule: schedule}})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetJob()
}

// Every planned time fires once, in order, whatever the clocks of the replicas
// say and whichever of them come and go.
func TestEachPlannedTimeFiresOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		seed           uint64
		replicas, mins int
	}{{1, 2, 600}, {2, 3, 600}, {3, 3, 600}} {
		t.Run(fmt.Sprintf("%d replicas, seed %d", test.replicas, test.seed), func(t *testing.T) {
			t.Parallel()
			rnd := rand.New(rand.NewPCG(test.seed, 0))
			nats := devtest.NATS(t)
			asked := handle(t, nats, "test")
			w := newWorld(monday.Add(10 * time.Second))
			skews := []time.Duration{-1500 * time.Millisecond, 1500 * time.Millisecond, 0}[:test.replicas]
			replicas := make([]*replica, test.replicas)
			buses := make([]*bus.Bus, test.replicas)
			for i, skew := range skews {
				buses[i] = connect(t, nats, "scheduler")
				replicas[i] = start(t, buses[i], w.clock(skew))
			}
			schedules := map[string]string{
				"every": "* * * * *", "odd": "1-59/2 * * * *", "seven": "*/7 * * * *", "hourly": "30 * * * *", "never-today": "0 0 1 1 *",
			}
			for name, schedule := range schedules {
				create(t, replicas[rnd.IntN(test.replicas)], name, "test", schedule)
			}
			// What fired, as the handler gets it.
			fired := map[string][]time.Time{}
			total := 0
			for minute := 1; minute <= test.mins; minute++ {
				// Replicas come and go, and one is always there.
				if i := rnd.IntN(test.replicas); rnd.IntN(4) == 0 {
					alive := 0
					for _, r := range replicas {
						if r != nil {
							alive++
						}
					}
					switch {
					case replicas[i] == nil:
						replicas[i] = start(t, buses[i], w.clock(skews[i]))
					case alive > 1:
						replicas[i].stop()
						replicas[i] = nil
					}
				}
				now := monday.Add(time.Duration(minute) * time.Minute)
				want := 0
				for _, schedule := range schedules {
					if matches(schedule, now) {
						want++
					}
				}
				// Through the moments at which only some clocks have reached the minute.
				w.set(now.Add(-1500 * time.Millisecond))
				w.set(now)
				w.set(now.Add(1500 * time.Millisecond))
				for range want {
					got := awaitMoving(t, w, asked, fmt.Sprintf("the fires of %v", now))
					fired[got.GetJob()] = append(fired[got.GetJob()], got.GetPlannedTime().AsTime())
					if want := runID(got.GetJob(), got.GetPlannedTime().AsTime()); got.GetRunId() != want {
						t.Errorf("run id %s, want %s", got.GetRunId(), want)
					}
					total++
				}
			}
			for _, r := range replicas {
				if r != nil {
					r.stop()
				}
			}
			select {
			case got := <-asked:
				t.Errorf("one more: %v", got)
			default:
			}
			for name, schedule := range schedules {
				i := 0
				for minute := 1; minute <= test.mins; minute++ {
					now := monday.Add(time.Duration(minute) * time.Minute)
					if !matches(schedule, now) {
						continue
					}
					if i >= len(fired[name]) || !fired[name][i].Equal(now) {
						t.Fatalf("%s: number %d is %v, want %v", name, i, fired[name][min(i, len(fired[name])-1):][:1], now)
					}
					i++
				}
				if i != len(fired[name]) {
					t.Errorf("%s fired %d times, want %d", name, len(fired[name]), i)
				}
			}
			// And the log itself says the same, whatever consumers make of it.
			audit := connect(t, nats, "audit")
			for name := range schedules {
				last, err := bus.Last[*jobv1.JobTriggered](t.Context(), audit, "test", name)
				if err != nil {
					t.Fatal(err)
				}
				if n := len(fired[name]); n > 0 && !last.Body.GetTrigger().GetPlannedTime().AsTime().Equal(fired[name][n-1]) {
					t.Errorf("%s: last record is %v", name, last.Body)
				}
			}
			t.Logf("%d fires", total)
		})
	}
}

// A change is in force everywhere once the call returns.
func TestChangesTakeHoldOnAllReplicas(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	asked := handle(t, nats, "test")
	w := newWorld(monday.Add(10 * time.Second))
	a := start(t, connect(t, nats, "scheduler"), w.clock(time.Second))
	b := start(t, connect(t, nats, "scheduler"), w.clock(-time.Second))
	create(t, a, "job", "test", "* * * * *")
	create(t, a, "clockwork", "test", "*/10 * * * *") // says when a time is over
	at := func(minute int) time.Time { return monday.Add(time.Duration(minute) * time.Minute) }
	// upTo lets time pass, to the next multiple of ten minutes, and returns what job fired for.
	minute := 0
	upTo := func(last int) (fired []int) {
		t.Helper()
		for minute < last {
			minute++
			w.set(at(minute).Add(time.Second))
			if minute%10 != 0 {
				// Let the schedule have each minute: only the latest of those past is made up for.
				eventually(t, "nothing is due", func() bool { return idle(a, w) && idle(b, w) })
			}
		}
		for {
			got := await(t, asked, "clockwork")
			if got.GetJob() == "clockwork" {
				break
			}
			fired = append(fired, int(got.GetPlannedTime().AsTime().Sub(monday)/time.Minute))
		}
		eventually(t, "nothing is due", func() bool { return idle(a, w) && idle(b, w) })
		for {
			select {
			case got := <-asked:
				fired = append(fired, int(got.GetPlannedTime().AsTime().Sub(monday)/time.Minute))
				continue
			default:
			}
			return fired
		}
	}
	check := func(what string, got []int, from, to, step int) {
		t.Helper()
		slices.Sort(got)
		var want []int
		for m := from; m <= to; m += step {
			want = append(want, m)
		}
		// A fire may still be on its way to the handler when clockwork's is there.
		for len(got) < len(want) {
			got = append(got, int(await(t, asked, what).GetPlannedTime().AsTime().Sub(monday)/time.Minute))
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: fired %v, want %v", what, got, want)
		}
	}
	check("as created", upTo(10), 1, 10, 1)

	if _, err := b.PauseJob(t.Context(), &jobv1.PauseJobRequest{Name: "job", Reason: "quiet"}); err != nil {
		t.Fatal(err)
	}
	check("paused", upTo(20), 1, 0, 1)

	// What was missed while it was paused is not made up for.
	if _, err := a.ResumeJob(t.Context(), &jobv1.ResumeJobRequest{Name: "job"}); err != nil {
		t.Fatal(err)
	}
	check("resumed", upTo(30), 21, 30, 1)

	if _, err := b.UpdateJob(t.Context(), &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "job", Schedule: "*/5 * * * *"}}); err != nil {
		t.Fatal(err)
	}
	check("with another schedule", upTo(40), 35, 40, 5)
	got, err := a.GetJob(t.Context(), &jobv1.GetJobRequest{Name: "job"})
	if err != nil {
		t.Fatal(err)
	}
	if last, next := got.GetJob().GetLastFireTime().AsTime(), got.GetJob().GetNextFireTime().AsTime(); !last.Equal(at(40)) || !next.Equal(at(45)) {
		t.Errorf("last fire %v, next fire %v", last, next)
	}

	// A change that leaves the schedule alone does not move the next planned time, and does not make up for anything.
	w.set(at(44).Add(59 * time.Second))
	if _, err := a.UpdateJob(t.Context(), &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "job", Schedule: "*/5 * * * *", Description: "x"}}); err != nil {
		t.Fatal(err)
	}
	minute = 44
	check("with another description", upTo(50), 45, 50, 5)

	if _, err := b.DeleteJob(t.Context(), &jobv1.DeleteJobRequest{Name: "job"}); err != nil {
		t.Fatal(err)
	}
	check("deleted", upTo(60), 1, 0, 1)

	create(t, a, "job", "test", "* * * * *")
	check("created anew", upTo(70), 61, 70, 1)
}

// idle reports that a replica has done all that is due.
func idle(r *replica, w *world) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.clock.time()
	for _, st := range r.states {
		if _, unfenced := st.unfenced(); unfenced || st.busy || !st.due.IsZero() && !st.due.After(now) {
			return false
		}
	}
	return true
}

func TestRestart(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "nats")
	w := newWorld(monday.Add(10 * time.Second))
	// life is the whole installation, up for as long as do takes.
	life := func(now time.Time, do func(r *replica, asked <-chan *jobv1.Trigger)) {
		t.Helper()
		w.set(now)
		nats, err := devstack.NATS(devstack.NATSOptions{Dir: dir, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		defer nats.Stop()
		asked := handle(t, nats, "test")
		r := start(t, connect(t, nats, "scheduler"), w.clock(0))
		defer r.stop()
		if err := r.awaitReady(t.Context()); err != nil {
			t.Fatal(err)
		}
		eventually(t, "nothing is due", func() bool { return idle(r, w) })
		do(r, asked)
	}
	expect := func(asked <-chan *jobv1.Trigger, planned time.Time) {
		t.Helper()
		if got := await(t, asked, planned.String()).GetPlannedTime().AsTime(); !got.Equal(planned) {
			t.Errorf("fired for %v, want %v", got, planned)
		}
	}
	none := func(asked <-chan *jobv1.Trigger) {
		t.Helper()
		select {
		case got := <-asked:
			t.Errorf("fired %v", got)
		default:
		}
	}
	hour := func(h float64) time.Time { return monday.Add(time.Duration(h * float64(time.Hour))) }
	life(hour(0.5), func(r *replica, asked <-chan *jobv1.Trigger) {
		create(t, r, "hourly", "test", "0 * * * *")
		w.set(hour(1))
		expect(asked, hour(1))
	})
	// The log goes on where it was: nothing is fired again.
	life(hour(1.9), func(r *replica, asked <-chan *jobv1.Trigger) {
		none(asked)
		w.set(hour(2))
		expect(asked, hour(2))
	})
	// Of what was missed, the latest is made up for, once.
	life(hour(6.1), func(r *replica, asked <-chan *jobv1.Trigger) {
		expect(asked, hour(6))
		none(asked)
		if _, err := r.UpdateJob(t.Context(), &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "hourly", Schedule: "0 0 * * *"}}); err != nil {
			t.Fatal(err)
		}
	})
	life(hour(6.2), func(_ *replica, asked <-chan *jobv1.Trigger) { none(asked) })
	// It is not made up for when it is older than the start deadline.
	life(hour(24+12.1), func(_ *replica, asked <-chan *jobv1.Trigger) {
		none(asked)
		w.set(hour(48))
		expect(asked, hour(48))
	})
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	w := newWorld(monday.Add(10 * time.Second))
	b := connect(t, nats, "scheduler")
	r := start(t, b, w.clock(0))
	list := func() []*jobv1.Job {
		t.Helper()
		resp, err := r.ListJobs(t.Context(), &jobv1.ListJobsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		return resp.GetJobs()
	}
	if jobs := list(); len(jobs) != 0 {
		t.Fatalf("there are jobs that nobody handles: %v", jobs)
	}
	handle(t, nats, "waste")
	eventually(t, "the default is registered", func() bool { return len(list()) == 1 })
	if j := list()[0]; j.GetName() != "waste-scan" || j.GetKind() != "waste" || j.GetSchedule() != "0 */6 * * *" || j.GetCreateTime() == nil {
		t.Errorf("default job %v", j)
	}
	// The others follow when their services come.
	for _, d := range defaults[1:] {
		handle(t, nats, d.GetKind())
	}
	eventually(t, "all defaults are registered", func() bool { return len(list()) == len(defaults) })
	waste := func() *jobv1.Job {
		jobs := list()
		if i := slices.IndexFunc(jobs, func(j *jobv1.Job) bool { return j.GetName() == "waste-scan" }); i >= 0 {
			return jobs[i]
		}
		return nil
	}
	// A change survives a restart, and so does a deletion.
	if _, err := r.UpdateJob(t.Context(), &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "waste-scan", Schedule: "7 * * * *"}}); err != nil {
		t.Fatal(err)
	}
	again := func() *replica {
		r.stop()
		s, err := New(t.Context(), quiet(), b, w.clock(0))
		if err != nil {
			t.Fatal(err)
		}
		if err := s.registerDefaults(t.Context()); err != nil { // returns when there is nothing left to register
			t.Fatal(err)
		}
		return start(t, b, w.clock(0))
	}
	r = again()
	if waste().GetSchedule() != "7 * * * *" || len(list()) != len(defaults) {
		t.Errorf("after a restart: %v", list())
	}
	if _, err := r.DeleteJob(t.Context(), &jobv1.DeleteJobRequest{Name: "waste-scan"}); err != nil {
		t.Fatal(err)
	}
	r = again()
	if waste() != nil || len(list()) != len(defaults)-1 {
		t.Errorf("a deleted default is back, or another is gone: %v", list())
	}
	// Whoever wants it back creates it.
	create(t, r, "waste-scan", "waste", "0 0 * * *")
}

// Ten thousand jobs are ten thousand entries of one queue and nothing else.
func TestManyJobsAreOneQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(monday.Add(10 * time.Second))
	s := &Service{log: quiet(), clock: &corrected{clock: w.clock(0)}, wake: make(chan struct{}, 1), seed: maphash.MakeSeed(), states: map[string]*state{}}
	const n = 10_000
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		job := &jobv1.Job{Name: fmt.Sprint("job-", i), Kind: "waste", Schedule: fmt.Sprintf("%d %d * * *", rnd.IntN(60), rnd.IntN(24))}
		s.onDefinition(&bus.Entry[*jobv1.Job]{Key: job.GetName(), Value: job, Revision: uint64(i + 1)})
		s.learn(&jobv1.JobTriggered{Job: job.GetName(), Kind: "waste", JobEtag: fmt.Sprint(i + 1)}, uint64(i+1))
	}
	if len(s.queue) != n {
		t.Fatalf("%d jobs are waiting", len(s.queue))
	}
	for i, st := range s.queue {
		if st.index != i || i > 0 && s.queue[(i-1)/2].due.After(st.due) {
			t.Fatalf("the queue is out of order at %d", i)
		}
	}
	for i := range n {
		s.onDefinition(&bus.Entry[*jobv1.Job]{Key: fmt.Sprint("job-", i), Deleted: true, Revision: n + uint64(i)})
	}
	// What is left is to close their logs.
	for _, st := range s.queue {
		if m, after := s.next(st, monday); m.GetTrigger() != nil || after == 0 {
			t.Fatalf("%v after %d", m, after)
		}
	}
}

func TestRunNameIsReadable(t *testing.T) {
	t.Parallel()
	if id := runID("waste-scan", monday.In(time.FixedZone("x", 7200))); id != "waste-scan/2026-03-02T00:00:00Z" || strings.Contains(id, " ") {
		t.Error(id)
	}
}
