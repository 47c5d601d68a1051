package chaos

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/simaws"
)

// small is an estate of which a scan takes a second or two.
var small = simaws.Options{Seed: 11, Accounts: 2, Regions: 2, Resources: 400}

// Postgres goes away for a while, then NATS, then both. Schedules go on without Postgres; everything goes on by itself
// afterwards, and nothing is lost.
func TestAway(t *testing.T) {
	if !*full {
		t.Parallel()
	}
	s := deploy(t, options{estate: small, syncAlways: true})
	ctx, cancel := context.WithTimeout(t.Context(), either(15*time.Minute, 5*time.Minute))
	defer cancel()
	away := either(time.Minute, 8*time.Second)
	schedule, step := s.every(ctx, 2*time.Second)
	tally, stop := s.follow(ctx, "waste")
	defer stop()
	if err := s.retry(ctx, func(ctx context.Context) error {
		_, err := s.jobs.CreateJob(ctx, &jobv1.CreateJobRequest{Job: &jobv1.Job{
			Name: "tick", Kind: "waste", Schedule: schedule, Parameters: map[string]string{"regions": "us-east-1", "rules": "ebs-unattached"},
			Misfire:       &jobv1.Misfire{Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL, Deadline: durationpb.New(time.Hour)},
			OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW,
		}})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	begun := time.Now()
	ids := []string{s.both(ctx, t, "first")[0]}
	absences := []struct {
		name    string
		victims []victim
		fires   bool
	}{
		{"postgres", []victim{s.pg}, true},
		{"nats", []victim{s.nats[0]}, false},
		{"both", []victim{s.pg, s.nats[0]}, false},
	}
	if !*full {
		absences = absences[2:]
	}
	for _, w := range absences {
		from := time.Now()
		for _, v := range w.victims {
			if err := v.kill(); err != nil {
				t.Fatal(err)
			}
		}
		var mu sync.Mutex
		var asked sync.WaitGroup
		// While NATS is away nobody can ask, and whoever tries goes on trying.
		for _, job := range []string{"waste-scan", "security-scan"} {
			asked.Go(func() {
				id, err := s.run(ctx, job, "during-"+w.name)
				if err != nil {
					t.Errorf("run %s: %v", job, err)
				}
				mu.Lock()
				defer mu.Unlock()
				ids = append(ids, id)
			})
		}
		sleep(ctx, away)
		if fired := tally.between(from.Add(step), time.Now().Add(-step)); w.fires && fired < int(away/step)-3 {
			t.Errorf("the schedule fired %d times while %s was away for %v", fired, w.name, away)
		} else {
			t.Logf("%s away for %v: the schedule of %v fired %d times meanwhile", w.name, away, step, fired)
		}
		back := time.Now()
		for _, v := range w.victims {
			if err := v.start(); err != nil {
				t.Fatal(err)
			}
		}
		asked.Wait()
		fresh := s.both(ctx, t, "after-"+w.name)
		ids = append(ids, fresh...)
		for _, id := range ids {
			s.end(ctx, id)
		}
		t.Logf("%s back: every run, before and after, had ended %v later", w.name, time.Since(back).Round(time.Millisecond))
	}
	if err := s.retry(ctx, func(ctx context.Context) error {
		_, err := s.jobs.PauseJob(ctx, &jobv1.PauseJobRequest{Name: "tick", Reason: "the test ends"})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	s.verify(ctx, ids)
	s.wantEnds(ctx, tally, begun)
}

// both asks for a run of each kind.
func (s *stack) both(ctx context.Context, t *testing.T, request string) (ids []string) {
	t.Helper()
	for _, job := range []string{"waste-scan", "security-scan"} {
		id, err := s.run(ctx, job, request)
		if err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	return ids
}

// between counts what was planned between two times and is stored by now.
func (f *tally) between(from, to time.Time) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, x := range f.all {
		if x.planned.After(from) && x.planned.Before(to) {
			n++
		}
	}
	return n
}

// wantEnds: every time that fired has one run, which has ended.
func (s *stack) wantEnds(ctx context.Context, f *tally, since time.Time) {
	t := s.t
	t.Helper()
	f.mu.Lock()
	fired := map[string]bool{}
	for _, x := range f.all {
		id := fmt.Sprintf("%s/%s", x.job, x.planned.UTC().Format(time.RFC3339))
		if fired[id] {
			t.Errorf("%s fired twice", id)
		}
		fired[id] = true
	}
	f.mu.Unlock()
	wait, cancel := context.WithTimeout(ctx, stuckAfter)
	defer cancel()
	for {
		var open []string
		states := map[string]int{}
		ended := map[string]bool{}
		token := ""
		for {
			var page *runv1.ListRunsResponse
			if err := s.retry(ctx, func(ctx context.Context) (err error) {
				page, err = s.runs.ListRuns(ctx, &runv1.ListRunsRequest{PageSize: 500, PageToken: token})
				return err
			}); err != nil {
				t.Fatal(err)
			}
			for _, r := range page.GetRuns() {
				if r.GetEndTime() != nil {
					ended[r.GetId()] = true
					states[word(r.GetState())]++
				}
			}
			if token = page.GetNextPageToken(); token == "" {
				break
			}
		}
		for id := range fired {
			if !ended[id] {
				open = append(open, id)
			}
		}
		if len(open) == 0 {
			t.Logf("the schedules fired %d times in %v, and all of these runs have ended; of all runs: %v", len(fired), time.Since(since).Round(time.Second), states)
			for state, n := range states {
				if state != "SUCCEEDED" {
					t.Errorf("%d runs ended %s", n, state)
				}
			}
			return
		}
		if !sleep(wait, time.Second) {
			slices.Sort(open)
			t.Errorf("%d of %d runs that fired have not ended: %s", len(open), len(fired), strings.Join(open[:min(5, len(open))], ", "))
			return
		}
	}
}

// The networks between the services, NATS and Postgres become slow, silent and broken, one after the other.
func TestCuts(t *testing.T) {
	if !*full {
		t.Parallel()
	}
	s := deploy(t, options{estate: small, cuts: true})
	ctx, cancel := context.WithTimeout(t.Context(), either(12*time.Minute, 5*time.Minute))
	defer cancel()
	ill, well := context.WithTimeout(ctx, either(2*time.Minute, 10*time.Second))
	defer well()
	var did map[string]int
	var hurting sync.WaitGroup
	hurting.Go(func() { did = s.suffer(ill, either(20*time.Second, 4*time.Second)) })
	ids := s.scan(ctx, ill)
	hurting.Wait()
	begun := time.Now()
	ids = append(ids, s.both(ctx, t, "afterwards")...)
	for _, id := range ids {
		s.end(ctx, id)
	}
	t.Logf("the networks were %v", sorted(did))
	t.Logf("afterwards a scan of each kind took %v", time.Since(begun).Round(time.Millisecond))
	s.verify(ctx, ids)
}

func sorted(n map[string]int) string {
	var out []string
	for _, k := range slices.Sorted(maps.Keys(n)) {
		out = append(out, fmt.Sprintf("%s ×%d", k, n[k]))
	}
	return strings.Join(out, ", ")
}

// A worker that hangs in the middle of its scopes loses them to the other within 90 s; what it says when it wakes up counts
// for nothing.
func TestHang(t *testing.T) {
	if !*full {
		t.Skip("in a full run only: it takes as long as it takes to miss somebody")
	}
	s := deploy(t, options{estate: simaws.Options{Seed: 11, Accounts: 3, Regions: 3, Resources: 400}, logLevel: "debug"})
	ctx, cancel := context.WithTimeout(t.Context(), 6*time.Minute)
	defer cancel()
	s.faults(simaws.Fault{Kind: "latency", Delay: simaws.Duration(400 * time.Millisecond)})
	id, err := s.run(ctx, "waste-scan", "hang")
	if err != nil {
		t.Fatal(err)
	}
	// Both replicas take scopes, as many as they may: nine are more than the four of one.
	s.await(ctx, "scopes at work on both", func() error {
		resp, err := s.runs.GetRun(ctx, &runv1.GetRunRequest{Id: id})
		if err == nil && resp.GetRun().GetScopes().GetRunning() < 6 {
			err = errs.New(errs.Unavailable, "SOON", "%v", resp.GetRun().GetScopes())
		}
		return err
	})
	hung := s.replicas["waste"][0]
	begun := time.Now()
	if err := hung.freeze(); err != nil {
		t.Fatal(err)
	}
	s.faults()
	r := s.end(ctx, id)
	took := time.Since(begun)
	const hangs = 100 * time.Second
	t.Logf("a worker hung for %v: the run ended %s after %v", hangs, word(r.GetState()), took.Round(time.Millisecond))
	if took > recovery {
		t.Errorf("the scopes of the worker that hangs were done after %v", took)
	}
	sleep(ctx, hangs-took)
	if err := hung.thaw(); err != nil {
		t.Fatal(err)
	}
	other, err := s.run(ctx, "security-scan", "hang")
	if err != nil {
		t.Fatal(err)
	}
	again, err := s.run(ctx, "waste-scan", "hung")
	if err != nil {
		t.Fatal(err)
	}
	s.verify(ctx, []string{id, other, again})
}
