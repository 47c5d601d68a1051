package chaos

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/simaws"
)

// recovery is how long work may stand still after something died.
const recovery = 90 * time.Second

// Scans of an estate go on while every process is killed, frozen and restarted at random.
func TestScans(t *testing.T) {
	if !*full {
		t.Parallel()
	}
	s := deploy(t, options{estate: either(
		simaws.Options{Seed: 11, Accounts: 6, Regions: 4, Resources: 2000},
		simaws.Options{Seed: 11, Accounts: 2, Regions: 2, Resources: 400},
	)})
	ctx, cancel := context.WithTimeout(t.Context(), either(25*time.Minute, 5*time.Minute))
	defer cancel()
	d := newDriver(t, 4, either(2500*time.Millisecond, 2*time.Second), s.victims()...)
	striking, over := context.WithCancel(ctx)
	var strikes []strike
	go func() { strikes = d.run(ctx, *kills); over() }()
	runs := s.scan(ctx, striking)
	<-striking.Done()
	s.verify(ctx, runs)
	s.recoveries(ctx, strikes)
}

// scan asks for scans of both kinds, one after the other, until asked is done, waits for their ends, and returns their ids.
func (s *stack) scan(ctx, asked context.Context) []string {
	var mu sync.Mutex
	var ids []string
	var all sync.WaitGroup
	for _, job := range []string{"waste-scan", "security-scan"} {
		all.Go(func() {
			for n := 0; n == 0 || asked.Err() == nil; n++ {
				id, err := s.run(ctx, job, fmt.Sprintf("chaos-%d", n))
				if err != nil {
					s.t.Errorf("run %s: %v", job, err)
					return
				}
				mu.Lock()
				ids = append(ids, id)
				mu.Unlock()
				if r := s.end(ctx, id); r == nil {
					return
				}
			}
		})
	}
	all.Wait()
	return ids
}

// run asks for a run, which may take patience.
func (s *stack) run(ctx context.Context, job, request string) (id string, err error) {
	err = s.retry(ctx, func(ctx context.Context) error {
		resp, err := s.jobs.RunJob(ctx, &jobv1.RunJobRequest{
			Name: job, RequestId: request, RequestedBy: "chaos", OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ALL,
		})
		id = resp.GetRunId()
		return err
	})
	return id, err
}

// stuckAfter is when a run that does not end counts as stuck.
const stuckAfter = 6 * time.Minute

// end waits for the end of a run; nil when there is none.
func (s *stack) end(ctx context.Context, id string) *runv1.Run {
	wait, cancel := context.WithTimeout(ctx, stuckAfter)
	defer cancel()
	var last *runv1.Run
	for {
		var r *runv1.Run
		err := s.retry(wait, func(ctx context.Context) error {
			resp, err := s.runs.GetRun(ctx, &runv1.GetRunRequest{Id: id})
			r = resp.GetRun()
			return err
		})
		if r.GetEndTime() != nil {
			return r
		}
		if err != nil && !errors.Is(err, errs.NotFound) && wait.Err() == nil { // not yet: its trigger waits
			s.t.Errorf("run %s: %v", id, err)
			return nil
		}
		if r != nil {
			last = r
		}
		if !sleep(wait, 100*time.Millisecond) {
			s.t.Errorf("run %s is stuck: %s", id, s.describe(context.WithoutCancel(ctx), id, last))
			return nil
		}
	}
}

// describe says what a run waits for.
func (s *stack) describe(ctx context.Context, id string, r *runv1.Run) string {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	var b strings.Builder
	fmt.Fprintf(&b, "%v", r)
	resp, err := s.runs.ListRunScopes(ctx, &runv1.ListRunScopesRequest{RunId: id, PageSize: 1000})
	if err != nil {
		fmt.Fprintf(&b, "; scopes: %v", err)
	}
	for _, sc := range resp.GetScopes() {
		if sc.GetEndTime() == nil {
			fmt.Fprintf(&b, "\n  %v: %v, attempts %d, failures %d, begun %v", sc.GetScope(), sc.GetState(), sc.GetAttempts(), sc.GetFailures(), sc.GetStartTime().AsTime())
		}
	}
	return b.String()
}

// verify holds what there is at the end against what must be: every run has ended, well; every finding of the estate is
// there, once; and of each, what was told was told once.
func (s *stack) verify(ctx context.Context, ids []string) {
	t := s.t
	t.Helper()
	states := map[string]int{}
	for _, id := range ids {
		r := s.end(ctx, id)
		if r == nil {
			continue
		}
		states[word(r.GetState())]++
		if r.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED {
			t.Errorf("run %s ended %s: %s %v", id, word(r.GetState()), r.GetError(), s.failures(ctx, id))
		}
	}
	found := s.wantTruth(ctx)
	t.Logf("%d runs %v; %d findings; lifecycle events %v", len(ids), states, len(found.ids), s.wantTold(ctx, found))
}

func word(s runv1.RunState) string { return strings.TrimPrefix(s.String(), "RUN_STATE_") }

// failures are the errors of a run's scopes.
func (s *stack) failures(ctx context.Context, id string) []string {
	resp, err := s.runs.ListRunScopes(ctx, &runv1.ListRunScopesRequest{RunId: id, PageSize: 1000})
	if err != nil {
		return []string{err.Error()}
	}
	var out []string
	for _, sc := range resp.GetScopes() {
		if sc.GetError() != "" {
			out = append(out, fmt.Sprintf("%v (attempt %d, failure %d): %s", sc.GetScope(), sc.GetAttempts(), sc.GetFailures(), sc.GetError()))
		}
	}
	return out
}

// found is what was found.
type found struct {
	ids     map[string]string // rule and resource, by finding id
	turning map[string]bool   // what became or ceased to be true meanwhile
}

// wantTruth compares the findings that are not resolved with what the estate holds.
func (s *stack) wantTruth(ctx context.Context, without ...string) found {
	t := s.t
	t.Helper()
	want, rules, turning := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, tr := range s.estate.TruthAt(time.Now()) {
		rules[tr.RuleID] = true
		if !slices.Contains(without, tr.Account) {
			want[tr.RuleID+" "+tr.ARN] = tr.Outcome == simaws.Violation
		}
	}
	for _, tr := range s.estate.TruthAt(s.begun) {
		key := tr.RuleID + " " + tr.ARN
		turning[key] = want[key] != (tr.Outcome == simaws.Violation)
	}
	maps.DeleteFunc(want, func(key string, violation bool) bool { return !violation || turning[key] })
	if len(want) < 10 {
		t.Fatalf("the estate has only %d violations", len(want))
	}
	f := found{ids: map[string]string{}, turning: turning}
	got, token := map[string]bool{}, ""
	for {
		var page *findingv1.ListFindingsResponse
		if err := s.retry(ctx, func(ctx context.Context) (err error) {
			page, err = s.finds.ListFindings(ctx, &findingv1.ListFindingsRequest{PageSize: 500, PageToken: token, Filter: `state != "RESOLVED"`})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		for _, x := range page.GetFindings() {
			key := x.GetRuleId() + " " + x.GetResource().GetArn()
			f.ids[x.GetId()] = key
			if !rules[x.GetRuleId()] {
				continue // a rule that the estates do not know yet
			}
			if got[key] {
				t.Errorf("%s was found twice", key)
			}
			got[key] = true
			if !want[key] && !turning[key] {
				t.Errorf("%s was found and is none: %s", key, x.GetReason())
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	lost := 0
	for key := range want {
		if !got[key] {
			if lost++; lost <= 5 {
				t.Errorf("%s was not found", key)
			}
		}
	}
	if lost > 0 {
		t.Errorf("%d findings lost of %d", lost, len(want))
	}
	return f
}

// told is an event that follows a finding.
type told interface {
	proto.Message
	GetFinding() *findingv1.Finding
	GetTransition() *findingv1.Transition
}

// wantTold reads what was told of findings: each once, the beginning of each finding, and none resolved or reopened, since nothing in
// the estate changed. It waits for what is still in the outbox.
func (s *stack) wantTold(ctx context.Context, f found) map[string]int {
	t := s.t
	t.Helper()
	opened := map[string]int{} // or exempt from the first
	wait, cancel := context.WithTimeout(ctx, recovery)
	defer cancel()
	var records []record
	for {
		records = records[:0]
		for _, event := range []string{"FindingOpened", "FindingChanged", "FindingResolved", "FindingReopened", "FindingExempted"} {
			records = append(records, s.read(ctx, "NIGHTSHIFT_FINDING", "nightshift.finding.v1."+event+".>")...)
		}
		clear(opened)
		for _, r := range records {
			m := r.body.(told)
			if m.GetTransition().GetFromState() == findingv1.State_STATE_UNSPECIFIED {
				opened[m.GetFinding().GetId()]++
			}
		}
		missing := 0
		for id := range f.ids {
			if opened[id] == 0 {
				missing++
			}
		}
		if missing == 0 {
			break
		}
		if !sleep(wait, time.Second) {
			t.Errorf("of %d findings nothing was told", missing)
			break
		}
	}
	events := map[string]int{}
	explained := 0
	ids, etags := map[string]uint64{}, map[string]uint64{}
	for _, r := range records {
		name := string(r.body.ProtoReflect().Descriptor().Name())
		events[name]++
		m := r.body.(told)
		key := m.GetFinding().GetRuleId() + " " + m.GetFinding().GetResource().GetArn()
		if before, twice := ids[r.id]; twice {
			t.Errorf("%s was stored as %d and again as %d", r.id, before, r.sequence)
		}
		ids[r.id] = r.sequence
		version := m.GetFinding().GetId() + "/" + m.GetFinding().GetEtag()
		if before, twice := etags[version]; twice {
			t.Errorf("version %s of %s was told as %d and again as %d (%s)", m.GetFinding().GetEtag(), key, before, r.sequence, name)
		}
		etags[version] = r.sequence
		if (name == "FindingResolved" || name == "FindingReopened") && !f.turning[key] {
			if explained == 0 {
				explained++
				t.Logf("the history of %s:\n%s", key, s.history(ctx, m.GetFinding()))
			}
			t.Errorf("%s of %s by %s, and nothing changed: %s", name, key, m.GetTransition().GetRunId(), m.GetTransition().GetReason())
		}
	}
	for id, n := range opened {
		if n > 1 {
			t.Errorf("finding %s (%s) began %d times", id, f.ids[id], n)
		}
	}
	return events
}

// history is what scans of a finding's scope said, in the order in which it was stored, for whoever has to find out why.
func (s *stack) history(ctx context.Context, f *findingv1.Finding) string {
	records := s.read(ctx, "NIGHTSHIFT_FINDING", "nightshift.finding.v1.>")
	records = append(records, s.read(ctx, "NIGHTSHIFT_SCAN", "nightshift.scan.v1.ScopeFinished.>")...)
	slices.SortFunc(records, func(a, b record) int { return a.time.Compare(b.time) })
	var b strings.Builder
	clock := func(t interface{ AsTime() time.Time }) string { return t.AsTime().Format("15:04:05.000000") }
	for _, r := range records {
		switch m := r.body.(type) {
		case *findingv1.FindingsObserved:
			if m.GetScope().GetAccount() != f.GetResource().GetAccount() || m.GetScope().GetRegion() != f.GetResource().GetRegion() {
				continue
			}
			for _, o := range m.GetObservations() {
				if o.GetRuleId() == f.GetRuleId() && o.GetResource().GetArn() == f.GetResource().GetArn() {
					fmt.Fprintf(&b, "%s %s execution %s batch %d of %d: observed at %s, %v\n", r.time.Format("15:04:05.000"), m.GetRunId(), m.GetExecution(), m.GetSequence(), len(m.GetObservations()), clock(o.GetObservedAt()), o.GetVerdict().GetOutcome())
				}
			}
		case *scanv1.ScopeFinished:
			if m.GetScope().GetAccount() == f.GetResource().GetAccount() && m.GetScope().GetRegion() == f.GetResource().GetRegion() {
				fmt.Fprintf(&b, "%s %s execution %s ended: begun %s, %d batches, error %q, %v\n", r.time.Format("15:04:05.000"), m.GetRunId(), m.GetExecution(), clock(m.GetStartTime()), m.GetBatches(), m.GetError(), m.GetCoverage())
			}
		case told:
			if m.GetFinding().GetId() == f.GetId() {
				fmt.Fprintf(&b, "%s %s: %v to %v\n", r.time.Format("15:04:05.000"), m.GetTransition().GetRunId(), m.GetTransition().GetKind(), m.GetTransition().GetToState())
			}
		}
	}
	return b.String()
}

// recoveries measures, for each strike and each run that was at work then, how long it took until the run went on.
func (s *stack) recoveries(ctx context.Context, strikes []strike) {
	t := s.t
	t.Helper()
	byRun := map[string][]time.Time{}
	executions := map[string]map[string]bool{} // by scope of a run
	for stream, subject := range map[string]string{
		"NIGHTSHIFT_RUN": "nightshift.run.v1.>", "NIGHTSHIFT_SCAN": "nightshift.scan.v1.>", "NIGHTSHIFT_FINDING": "nightshift.finding.v1.FindingsObserved.>",
	} {
		for _, r := range s.read(ctx, stream, subject) {
			if run := runOf(r.body); run != "" {
				byRun[run] = append(byRun[run], r.time)
				if x, ok := r.body.(*findingv1.FindingsObserved); ok {
					k := run + fmt.Sprint(x.GetScope())
					if executions[k] == nil {
						executions[k] = map[string]bool{}
					}
					executions[k][x.GetExecution()] = true
				}
			}
		}
	}
	again := 0
	for _, x := range executions {
		again += len(x) - 1
	}
	var all durations
	worst := ""
	for run, times := range byRun {
		slices.SortFunc(times, time.Time.Compare)
		for _, x := range strikes {
			if x.at.Before(times[0]) || !x.at.Before(times[len(times)-1]) {
				continue
			}
			i, _ := slices.BinarySearchFunc(times, x.at, time.Time.Compare)
			took := times[i].Sub(x.at)
			if len(all) == 0 || took > maxOf(all) {
				worst = fmt.Sprintf("%s, after %s", run, x)
			}
			all = append(all, took)
		}
	}
	t.Logf("%d strikes %v; recovery of the runs at work: %v; worst: %s; executions that were begun again after they had published: %d",
		len(strikes), count(strikes), all, worst, again)
	if *full && maxOf(all) > recovery {
		t.Errorf("work stood still for %v: %s", maxOf(all), worst)
	}
}
