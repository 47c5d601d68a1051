package persistence

import (
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	exemptionv1 "nightshift.dev/gen/nightshift/exemption/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// jobLife is what may happen to the runs of one job, in any order, and what must
// hold whatever happened.
type jobLife struct {
	t        *testing.T
	s        *Service
	c        *clock
	job      string
	policies map[string]jobv1.OverlapPolicy // of runs by id
	retries  map[string]bool
	ended    map[string]*runv1.Run
	runs     []string
	n        int
}

// places are the scopes of every plan.
var places = []*scanv1.Scope{here, {Service: "waste", Account: "111122223333", Region: "us-east-1"}, {Service: "waste", Account: "444455556666", Region: "-"}}

// any draws one of the runs, or one that is none.
func (l *jobLife) any(rt *rapid.T) string {
	if len(l.runs) == 0 {
		return l.job + "/none"
	}
	// The newest are of more interest.
	return l.runs[max(len(l.runs)-1-rapid.IntRange(0, 5).Draw(rt, "run"), 0)]
}

func (l *jobLife) place(rt *rapid.T) *scanv1.Scope {
	return rapid.SampledFrom(places).Draw(rt, "scope")
}

// expected fails on errors other than what a caller may do wrong.
func (l *jobLife) expected(rt *rapid.T, err error) bool {
	if err != nil && !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.FailedPrecondition) && !errors.Is(err, errs.InvalidArgument) {
		rt.Fatal(err)
	}
	return err == nil
}

func (l *jobLife) actions() map[string]func(*rapid.T) {
	ctx := l.t.Context()
	execution := func(rt *rapid.T) string { return fmt.Sprint("1.", rapid.IntRange(1, 4).Draw(rt, "execution")) }
	start := func(rt *rapid.T) {
		l.n++
		id := fmt.Sprintf("%s/%d", l.job, l.n)
		if len(l.runs) > 0 && rapid.IntRange(0, 4).Draw(rt, "again") == 0 {
			id = l.any(rt)
		}
		req := trigger(id)
		req.Trigger.Job, req.Trigger.OverlapPolicy = l.job, rapid.SampledFrom([]jobv1.OverlapPolicy{skip, skip, queueOne, queueOne, queueAll, replace, allow}).Draw(rt, "policy")
		req.Trigger.RunTimeout = durationpb.New(6 * time.Hour)
		resp, err := l.s.StartRun(ctx, req)
		if l.expected(rt, err) && !slices.Contains(l.runs, id) {
			l.runs = append(l.runs, id)
			l.policies[id] = req.GetTrigger().GetOverlapPolicy()
			if st := resp.GetRun().GetState(); st != running && st != queued && st != skipped {
				rt.Fatalf("%s began as %s", id, st)
			}
		}
	}
	startScope := func(rt *rapid.T) {
		_, err := l.s.StartScope(ctx, &runv1.StartScopeRequest{RunId: l.any(rt), Scope: l.place(rt), Execution: execution(rt)})
		l.expected(rt, err)
	}
	planRun := func(rt *rapid.T) {
		req := &runv1.PlanRunRequest{RunId: l.any(rt)}
		for _, p := range places {
			switch rapid.IntRange(0, 9).Draw(rt, "plan") {
			case 0:
			case 1:
				req.Scopes = append(req.Scopes, &runv1.PlannedScope{Scope: p, Failure: &scanv1.Coverage{ResourceType: "*", Status: denied, Error: "no role"}})
			default:
				req.Scopes = append(req.Scopes, &runv1.PlannedScope{Scope: p})
			}
		}
		_, err := l.s.PlanRun(ctx, req)
		l.expected(rt, err)
	}
	finish := func(rt *rapid.T) {
		status := rapid.SampledFrom([]scanv1.CoverageStatus{complete, complete, complete, partial, denied}).Draw(rt, "coverage")
		f := finished(l.any(rt), execution(rt), rapid.IntRange(0, 1).Draw(rt, "batches"), at(0), status, func(f *scanv1.ScopeFinished) { f.Scope = l.place(rt) })
		err := l.s.onScopeFinished(ctx, message(f))
		if err != nil && !errors.Is(err, errs.NotFound) {
			rt.Fatal(err)
		}
	}
	return map[string]func(*rapid.T){
		"start": start, "start2": start, "plan": planRun, "plan2": planRun, "startScope": startScope, "startScope2": startScope, "finish": finish, "finish2": finish,
		"beat": func(rt *rapid.T) {
			_, err := l.s.BeatScope(ctx, &runv1.BeatScopeRequest{RunId: l.any(rt), Scope: l.place(rt), Execution: execution(rt), Progress: &scanv1.Progress{Resources: 5}})
			l.expected(rt, err)
		},
		"retryScope": func(rt *rapid.T) {
			_, err := l.s.RetryScope(ctx, &runv1.RetryScopeRequest{RunId: l.any(rt), Scope: l.place(rt), Execution: execution(rt), Error: "throttled"})
			l.expected(rt, err)
		},
		"batch": func(rt *rapid.T) {
			b := &findingv1.FindingsObserved{RunId: l.any(rt), Scope: l.place(rt), Execution: execution(rt), Sequence: 1}
			for _, err := range l.s.onFindingsObserved(ctx, []*bus.Message[*findingv1.FindingsObserved]{message(b)}) {
				if err != nil && !errors.Is(err, errs.NotFound) {
					rt.Fatal(err)
				}
			}
		},
		"cancel": func(rt *rapid.T) {
			_, err := l.s.CancelRun(ctx, &runv1.CancelRunRequest{Id: l.any(rt)})
			l.expected(rt, err)
		},
		"fail": func(rt *rapid.T) {
			_, err := l.s.FailRun(ctx, &runv1.FailRunRequest{RunId: l.any(rt), Error: "cannot plan"})
			l.expected(rt, err)
		},
		"retryRun": func(rt *rapid.T) {
			req := &runv1.RetryRunRequest{Id: l.any(rt), RequestId: fmt.Sprint("r", rapid.IntRange(0, 9).Draw(rt, "request"))}
			if rapid.Bool().Draw(rt, "some") {
				req.Scopes = []*scanv1.Scope{l.place(rt)}
			}
			resp, err := l.s.RetryRun(ctx, req)
			if errors.Is(err, errs.AlreadyExists) {
				return
			}
			if id := resp.GetRun().GetId(); l.expected(rt, err) && !slices.Contains(l.runs, id) {
				l.runs, l.retries[id] = append(l.runs, id), true
			}
		},
		"reap": func(rt *rapid.T) {
			if err := l.s.reapOnce(ctx); err != nil {
				rt.Fatal(err)
			}
		},
		"time": func(rt *rapid.T) {
			l.c.advance(rapid.SampledFrom([]time.Duration{time.Second, 20 * time.Second, 3 * time.Minute, time.Hour}).Draw(rt, "passes"))
		},
		"": l.check,
	}
}

// check looks whether what must hold does.
func (l *jobLife) check(rt *rapid.T) {
	ctx := l.t.Context()
	resp, err := l.s.ListRuns(ctx, &runv1.ListRunsRequest{PageSize: 1000, Filter: fmt.Sprintf("job = %q", l.job)})
	if err != nil {
		rt.Fatal(err)
	}
	var exclusive, atWork, waiting, mayWait int
	for _, r := range resp.GetRuns() {
		id := r.GetId()
		switch r.GetState() {
		case running:
			atWork++
			if !l.retries[id] && l.policies[id] != allow {
				exclusive++
			}
		case queued:
			waiting++
			if l.policies[id] == queueAll {
				mayWait++
			}
		}
		over := r.GetState() != running && r.GetState() != queued
		if over != (r.GetEndTime() != nil) {
			rt.Fatalf("%v has ended, or not", r)
		}
		if was := l.ended[id]; was != nil && !proto.Equal(was, r) {
			rt.Fatalf("a run that had ended changed: it is\n%v, was\n%v", r, was)
		}
		sc := r.GetScopes()
		if n := sc.GetPending() + sc.GetRunning() + sc.GetSucceeded() + sc.GetPartial() + sc.GetFailed() + sc.GetCancelled(); n != sc.GetTotal() {
			rt.Fatalf("scopes do not add up: %v", r)
		}
		if over {
			l.ended[id] = r
			if sc.GetPending()+sc.GetRunning() > 0 {
				rt.Fatalf("a run ended before its scopes: %v", r)
			}
		} else if r.GetState() == running && sc.GetTotal() > 0 && sc.GetPending()+sc.GetRunning() == 0 {
			rt.Fatalf("a run goes on after its scopes: %v", r)
		}
	}
	if exclusive > 1 {
		rt.Fatalf("%d runs are at work that want to be alone", exclusive)
	}
	if waiting > 0 && atWork == 0 {
		rt.Fatalf("%d runs wait for nothing", waiting)
	}
	if waiting-mayWait > 1 {
		rt.Fatalf("%d runs wait of which one may", waiting-mayWait)
	}
}

// checkEnds looks whether each run's end was said once.
func (l *jobLife) checkEnds(rt *rapid.T) {
	ends := map[string]int{}
	for _, e := range outgoing[runv1.RunFinished](l.t, l.s) {
		if e.GetRun().GetJob() == l.job {
			ends[e.GetRun().GetId()]++
		}
	}
	for id, r := range l.ended {
		if ends[id] != 1 {
			rt.Fatalf("the end of %v was said %d times", r, ends[id])
		}
	}
	if len(ends) != len(l.ended) {
		rt.Fatalf("%d ends were said of %d", len(ends), len(l.ended))
	}
}

// Whatever happens to the runs of a job, and in whatever order, each comes to
// one end.
func TestLifeOfRuns(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	var jobs atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		if _, err := s.bun.ExecContext(t.Context(), "DELETE FROM outbox"); err != nil {
			rt.Fatal(err)
		}
		l := &jobLife{t: t, s: s, c: c, job: fmt.Sprintf("job-%d", jobs.Add(1)), policies: map[string]jobv1.OverlapPolicy{}, retries: map[string]bool{}, ended: map[string]*runv1.Run{}}
		rt.Repeat(l.actions())
		// With time alone, all of them end.
		for range len(l.runs) + 1 {
			c.advance(7 * time.Hour)
			if err := s.reapOnce(t.Context()); err != nil {
				rt.Fatal(err)
			}
			l.check(rt)
		}
		l.checkEnds(rt)
		if len(l.ended) != len(l.runs) {
			rt.Fatalf("of %d runs %d have ended", len(l.runs), len(l.ended))
		}
	})
}

// Two replicas do everything there is to the same runs at once. Nothing waits
// for itself in a circle, and nothing is left over.
func TestReplicasAtOnce(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	said := &counting{Handler: slog.DiscardHandler}
	var replicas []*Service
	for range 2 {
		s, _ := replica(t, dsn)
		s.log = slog.New(said)
		replicas = append(replicas, s)
	}
	ctx := t.Context()
	const workers, rounds = 8, 8
	regions := []string{"eu-west-1", "us-east-1"}
	scope := func(region string) *scanv1.Scope {
		return &scanv1.Scope{Service: "waste", Account: "111122223333", Region: region}
	}
	for round := range rounds {
		// Two runs of each of two jobs are at work, and everybody wants something of them.
		var ids []string
		for n := range 4 {
			id := fmt.Sprintf("job-%d/%d-%d", n%2, round, n)
			begin(t, replicas[0], id, allow, func(t *jobv1.Trigger) { t.Job, _, _ = strings.Cut(id, "/") })
			plan(t, replicas[0], id, scope(regions[0]), scope(regions[1]))
			ids = append(ids, id)
		}
		var g errgroup.Group
		for w := range workers {
			s, random := replicas[w%2], rand.New(rand.NewPCG(uint64(round), uint64(w)))
			g.Go(func() error {
				for range 6 {
					id, sc, execution := ids[random.IntN(4)], scope(regions[random.IntN(2)]), fmt.Sprint("1.", random.IntN(2))
					var err error
					switch random.IntN(12) {
					case 0:
						req := trigger(fmt.Sprintf("%s-%d-%d", id, w, random.IntN(100)))
						req.Trigger.Job, _, _ = strings.Cut(id, "/")
						req.Trigger.OverlapPolicy = replace
						_, err = s.StartRun(ctx, req)
					case 1:
						_, err = s.CancelRun(ctx, &runv1.CancelRunRequest{Id: id})
					case 2:
						_, err = s.StartScope(ctx, &runv1.StartScopeRequest{RunId: id, Scope: sc, Execution: execution})
					case 3:
						_, err = s.BeatScope(ctx, &runv1.BeatScopeRequest{RunId: id, Scope: sc, Execution: execution, Progress: &scanv1.Progress{Resources: 1}})
					case 4:
						_, err = s.RetryRun(ctx, &runv1.RetryRunRequest{Id: id})
					case 5:
						err = s.reapOnce(ctx)
					case 6:
						_, err = s.CreateExemption(ctx, exemptionRequest(fmt.Sprintf(`resource_id = "vol-%d"`, random.IntN(20))))
					case 7, 8, 9:
						err = s.onScopeFinished(ctx, message(finished(id, execution, 0, time.Now(), complete, func(f *scanv1.ScopeFinished) { f.Scope = sc })))
					default:
						var batch []*bus.Message[*findingv1.FindingsObserved]
						for range 4 { // of several runs and scopes
							sc := scope(regions[random.IntN(2)])
							m := &findingv1.FindingsObserved{RunId: ids[random.IntN(4)], Scope: sc, Execution: execution, Sequence: int32(random.IntN(3) + 1)}
							for v := range 20 {
								o := volume(sc, fmt.Sprint("vol-", v), rulev1.Outcome_OUTCOME_VIOLATION, time.Now())
								o.Verdict.Severity = rulev1.Severity(2 + random.IntN(3))
								m.Observations = append(m.Observations, o)
							}
							batch = append(batch, message(m))
						}
						for _, e := range s.onFindingsObserved(ctx, batch) {
							err = errors.Join(err, e)
						}
					}
					if err != nil && !errors.Is(err, errs.NotFound) && !errors.Is(err, errs.FailedPrecondition) {
						return err
					}
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		for _, id := range ids {
			cancelIfAny(t, replicas[0], id)
		}
	}
	var left int
	if err := replicas[0].bun.NewRaw("SELECT (SELECT count(*) FROM batches) + (SELECT count(*) FROM finishes)").Scan(ctx, &left); err != nil || left != 0 {
		t.Errorf("%d rows are left of scopes that have ended (%v)", left, err)
	}
	for _, line := range said.said {
		if strings.Contains(line, "40P01") {
			t.Error(line)
		}
	}
	t.Logf("%d transactions were tried again", len(said.said))
}

func cancelIfAny(t testing.TB, s *Service, id string) {
	t.Helper()
	if _, err := s.CancelRun(t.Context(), &runv1.CancelRunRequest{Id: id}); err != nil && !errors.Is(err, errs.FailedPrecondition) {
		t.Fatal(err)
	}
}

func exemptionRequest(filter string) *exemptionv1.CreateExemptionRequest {
	return &exemptionv1.CreateExemptionRequest{Exemption: &exemptionv1.Exemption{Filter: filter, Reason: "because", By: "ann", ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}}
}
