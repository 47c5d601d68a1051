package chaos

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/types/known/durationpb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/errs"
)

// Every planned time of every job fires once, whatever happens to the schedulers and however wrong their clocks are.
func TestFires(t *testing.T) {
	for _, mode := range []struct {
		name     string
		o        options
		rate     int // fires per second
		natsToo  bool
		duration time.Duration
	}{
		{"one server", options{nats: 1, schedulers: either(5, 3)}, either(1000, 60), false, *duration},
		{"three servers", options{nats: 3, syncAlways: true, schedulers: 3}, either(200, 20), false, *duration},
		{"three servers that die, too", options{nats: 3, syncAlways: true, schedulers: 3}, 200, true, *duration / 2},
	} {
		t.Run(mode.name, func(t *testing.T) {
			if mode.natsToo && !*full {
				t.Skip("in a full run only")
			}
			if !*full {
				t.Parallel()
			}
			mode.o.only, mode.o.logLevel = []string{"scheduler"}, "warn"
			mode.o.skew = []time.Duration{2 * time.Second, -2 * time.Second, 700 * time.Millisecond, -1300 * time.Millisecond, 0}
			s := deploy(t, mode.o)
			ctx, cancel := context.WithTimeout(t.Context(), mode.duration+4*time.Minute)
			defer cancel()
			s.fires(ctx, mode.rate, mode.duration, mode.natsToo)
		})
	}
}

// fire is one record of a job's log.
type fire struct {
	job      string
	planned  time.Time
	stored   time.Time
	sequence uint64
}

// tally collects what fires.
type tally struct {
	mu    sync.Mutex
	last  time.Time // latest planned time
	all   []fire
	known map[uint64]bool
}

// follow reads the log of all jobs of a kind until the returned function is called.
func (s *stack) follow(ctx context.Context, kind string) (*tally, func()) {
	s.t.Helper()
	f := &tally{known: map[uint64]bool{}}
	c, err := s.js.OrderedConsumer(ctx, "NIGHTSHIFT_JOB", jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{"nightshift.job.v1.JobTriggered." + kind + ".>"},
	})
	if err != nil {
		s.t.Fatal(err)
	}
	consuming, err := c.Consume(func(m jetstream.Msg) {
		meta, err := m.Metadata()
		if err != nil {
			return
		}
		body, err := decode(m.Subject(), m.Data())
		if err != nil {
			s.t.Errorf("record %d: %v", meta.Sequence.Stream, err)
			return
		}
		r := body.(*jobv1.JobTriggered)
		if r.GetTrigger() == nil {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		if f.known[meta.Sequence.Stream] {
			return // read again after a reconnect
		}
		f.known[meta.Sequence.Stream] = true
		planned := r.GetTrigger().GetPlannedTime().AsTime()
		if planned.After(f.last) {
			f.last = planned
		}
		f.all = append(f.all, fire{r.GetJob(), planned, meta.Timestamp, meta.Sequence.Stream})
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return f, consuming.Stop
}

// every is a schedule of that many seconds, or as near as this scheduler comes to it: then it is a minute.
func (s *stack) every(ctx context.Context, d time.Duration) (schedule string, step time.Duration) {
	s.t.Helper()
	schedule = "@every " + d.String()
	err := s.retry(ctx, func(ctx context.Context) error {
		_, err := s.jobs.ListNextFires(ctx, &jobv1.ListNextFiresRequest{Schedule: schedule})
		return err
	})
	if errors.Is(err, errs.InvalidArgument) {
		return "* * * * *", time.Minute
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return schedule, d
}

// retry makes a call again while what it needs is away.
func (s *stack) retry(ctx context.Context, call func(context.Context) error) error {
	for {
		try, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := call(try)
		cancel()
		passing := errors.Is(err, errs.Unavailable) || errors.Is(err, errs.DeadlineExceeded) || errors.Is(err, errs.Canceled) || errors.Is(err, errs.Internal)
		if !passing || !sleep(ctx, 200*time.Millisecond) {
			return err
		}
	}
}

// handled makes the scheduler believe that somebody handles a kind.
func (s *stack) handled(ctx context.Context, kind string) {
	s.t.Helper()
	s.await(ctx, "a consumer", func() error {
		_, err := s.js.CreateOrUpdateConsumer(ctx, "NIGHTSHIFT_JOB", jetstream.ConsumerConfig{
			Durable: kind + "-JobTriggered", FilterSubject: "nightshift.job.v1.JobTriggered." + kind + ".>",
			AckPolicy: jetstream.AckNonePolicy, DeliverPolicy: jetstream.DeliverNewPolicy,
		})
		return err
	})
}

func (s *stack) fires(ctx context.Context, rate int, lasting time.Duration, natsToo bool) {
	t := s.t
	s.handled(ctx, "chaos")
	schedule, step := s.every(ctx, time.Second)
	if step > lasting/5 {
		t.Skipf("the scheduler fires every %v at most", step)
	}
	jobs := rate * int(step/time.Second)
	tally, stop := s.follow(ctx, "chaos")
	defer stop()

	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(16)
	for i := range jobs {
		job := &jobv1.Job{
			Name: fmt.Sprintf("job-%d", i), Kind: "chaos", Schedule: schedule,
			Misfire: &jobv1.Misfire{Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL, Limit: 1000, Deadline: durationpb.New(time.Hour)},
		}
		g.Go(func() error {
			err := s.retry(gctx, func(ctx context.Context) error {
				_, err := s.jobs.CreateJob(ctx, &jobv1.CreateJobRequest{Job: job})
				return err
			})
			if errors.Is(err, errs.AlreadyExists) { // a call that was tried again
				return nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	from := time.Now().Truncate(step).Add(2 * step)

	d := newDriver(t, 1, either(5*time.Second, 3*time.Second), s.victims("scheduler")...)
	d.actions, d.longest = []string{actKill, actFreeze}, 5*time.Second
	firing, done := context.WithTimeout(ctx, lasting)
	defer done()
	var natsStrikes []strike
	var also sync.WaitGroup
	if natsToo {
		n := newDriver(t, 3, 15*time.Second)
		for _, p := range s.nats {
			n.victims = append(n.victims, p)
		}
		n.actions = []string{actKill, actKill, actStop}
		also.Go(func() { natsStrikes = n.run(firing, 1<<30) })
	}
	strikes := d.run(firing, 1<<30)
	also.Wait()

	// Everything is there again: what was planned until now is about to be stored, if it is not.
	to := time.Now().Truncate(step)
	want := jobs * int(to.Sub(from)/step+1)
	for {
		got := 0
		tally.mu.Lock()
		for _, f := range tally.all {
			if !f.planned.Before(from) && !f.planned.After(to) {
				got++
			}
		}
		tally.mu.Unlock()
		if got >= want {
			break
		}
		settle, cancel := context.WithDeadline(ctx, to.Add(90*time.Second))
		more := sleep(settle, 500*time.Millisecond)
		cancel()
		if !more {
			break
		}
	}
	tally.check(s, jobs, step, from, to, strikes, natsStrikes)
}

// check holds what fired against what was planned, and prints it.
func (f *tally) check(s *stack, jobs int, step time.Duration, from, to time.Time, strikes, natsStrikes []strike) {
	t := s.t
	f.mu.Lock()
	defer f.mu.Unlock()
	type key struct {
		job     string
		planned int64
	}
	seen := map[key]int{}
	first, last, perJob := map[string]time.Time{}, map[string]time.Time{}, map[string]int{}
	var late durations
	doubled := 0
	worst := fire{}
	for _, x := range f.all {
		k := key{x.job, x.planned.Unix()}
		if seen[k]++; seen[k] > 1 {
			if doubled++; doubled <= 5 {
				t.Errorf("%s fired for %s again, as record %d", x.job, x.planned.Format(time.RFC3339), x.sequence)
			}
			continue
		}
		perJob[x.job]++
		if at, ok := first[x.job]; !ok || x.planned.Before(at) {
			first[x.job] = x.planned
		}
		if x.planned.After(last[x.job]) {
			last[x.job] = x.planned
		}
		if x.planned.Before(from) || x.planned.After(to) {
			continue
		}
		l := x.stored.Sub(x.planned)
		if l > worst.stored.Sub(worst.planned) || worst.job == "" {
			worst = x
		}
		late = append(late, l)
	}
	missed := 0
	for i := range jobs {
		job := fmt.Sprintf("job-%d", i)
		begin, end := from, to
		if at, ok := first[job]; ok && at.Before(begin) {
			begin = at
		}
		if at := last[job]; at.After(end) {
			end = at
		}
		for p := begin; !p.After(end); p = p.Add(step) {
			if seen[key{job, p.Unix()}] == 0 {
				if missed++; missed <= 5 {
					t.Errorf("%s did not fire for %s (its first was %s, its last %s)", job, p.Format(time.RFC3339), first[job].Format(time.TimeOnly), last[job].Format(time.TimeOnly))
				}
			}
		}
	}
	if doubled > 0 || missed > 0 {
		t.Errorf("%d fires doubled, %d missed", doubled, missed)
	}
	var after, early durations
	var worstStrike string
	for _, x := range strikes {
		var longest time.Duration
		for _, f := range f.all {
			if f.stored.After(x.at) && f.stored.Before(x.at.Add(5*time.Second)) {
				longest = max(longest, f.stored.Sub(f.planned))
			}
		}
		if len(after) == 0 || longest > maxOf(after) {
			worstStrike = x.String()
		}
		after = append(after, longest)
	}
	for _, l := range late {
		if l < 0 {
			early = append(early, -l)
		}
	}
	t.Logf("fired %d times in %v (%.0f/s by %d jobs): %d doubled, %d missed", len(late), to.Sub(from)+step, float64(len(late))/(to.Sub(from)+step).Seconds(), jobs, doubled, missed)
	t.Logf("lateness: %v; early: %v", late, early)
	t.Logf("schedulers struck %d times %v; the latest fire within 5 s of a strike: %v; worst: %s", len(strikes), count(strikes), after, worstStrike)
	if len(natsStrikes) > 0 {
		t.Logf("NATS servers struck %d times %v", len(natsStrikes), count(natsStrikes))
	}
	if worst.job != "" {
		t.Logf("worst: %s planned for %s stored at %s", worst.job, worst.planned.Format("15:04:05"), worst.stored.UTC().Format("15:04:05.000"))
	}
}

func maxOf(d durations) time.Duration {
	var m time.Duration
	for _, x := range d {
		m = max(m, x)
	}
	return m
}
