package persistence

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
)

// The model is what persistence is to do with messages, said as plainly as
// possible: one message at a time, one finding at a time, in maps.
type model struct {
	findings  map[string]*modelFinding
	scopes    map[string]*modelScope // run and scope
	listings  map[string]*modelListing
	sightings map[string]*modelSighting
}

type modelFinding struct {
	scope, rule, kind string
	open              bool
	severity          rulev1.Severity
	cents             float64
	policy            string
	lastSeen, checked time.Time
	checkedRun        string
	lastRun           string
	absent, reopened  int
	steps             []string
}

type modelScope struct {
	ended    runv1.ScopeState
	batches  map[string]map[int32]*findingv1.FindingsObserved // by execution
	finishes map[string]*scanv1.ScopeFinished
	counts   runv1.FindingCounts
}

type modelListing struct{ scan, complete time.Time }

type modelSighting struct {
	scope, kind         string
	first, before, scan time.Time
}

func (m *model) observed(b *findingv1.FindingsObserved) {
	scope := scopeName(b.GetScope())
	s := m.scopes[b.GetRunId()+scope]
	if s.ended != 0 || s.batches[b.GetExecution()][b.GetSequence()] != nil {
		return
	}
	if s.batches[b.GetExecution()] == nil {
		s.batches[b.GetExecution()] = map[int32]*findingv1.FindingsObserved{}
	}
	s.batches[b.GetExecution()][b.GetSequence()] = b
	for _, o := range b.GetObservations() {
		m.judge(s, b.GetRunId(), scope, o)
	}
	if f := s.finishes[b.GetExecution()]; f != nil {
		m.finish(s, f)
	}
}

func (m *model) judge(s *modelScope, run, scope string, o *scanv1.Observation) {
	f, when, v := m.findings[o.GetFindingId()], o.GetObservedAt().AsTime(), o.GetVerdict()
	policy := fmt.Sprint(o.GetRuleVersion(), o.GetParameters())
	cents := v.GetMonthlyCost().GetHigh()
	bad := v.GetOutcome() == rulev1.Outcome_OUTCOME_VIOLATION
	if f == nil {
		if !bad {
			return
		}
		f = &modelFinding{scope: scope, rule: o.GetRuleId(), kind: o.GetResource().GetType(), open: true, severity: v.GetSeverity(), cents: cents,
			policy: policy, lastSeen: when, checked: when, checkedRun: run, lastRun: run, steps: []string{"OPENED"}}
		m.findings[o.GetFindingId()] = f
		s.counts.Opened++
		return
	}
	if when.Before(f.checked) {
		return
	}
	cause := ""
	if policy != f.policy {
		cause = "!"
	}
	again := f.lastRun == run
	f.checked, f.checkedRun, f.absent = when, run, 0
	switch {
	case bad && !f.open:
		f.open = true
		f.reopened++
		f.steps = append(f.steps, "REOPENED"+cause)
		s.counts.Reopened++
	case bad && (policy != f.policy || v.GetSeverity() != f.severity || cents != f.cents):
		f.steps = append(f.steps, "CHANGED"+cause)
		s.counts.Changed++
	case bad && !again:
		s.counts.Unchanged++
	case f.open && (v.GetOutcome() == rulev1.Outcome_OUTCOME_COMPLIANT || v.GetOutcome() == rulev1.Outcome_OUTCOME_NOT_APPLICABLE):
		f.open = false
		f.policy = policy
		f.steps = append(f.steps, "RESOLVED"+cause)
		s.counts.Resolved++
	}
	if bad {
		f.lastSeen, f.lastRun, f.severity, f.cents, f.policy = when, run, v.GetSeverity(), cents, policy
	}
}

func (m *model) finished(f *scanv1.ScopeFinished) {
	s := m.scopes[f.GetRunId()+scopeName(f.GetScope())]
	if s.ended == 0 {
		s.finishes[f.GetExecution()] = f
		m.finish(s, f)
	}
}

func (m *model) finish(s *modelScope, f *scanv1.ScopeFinished) {
	scope, scan := scopeName(f.GetScope()), f.GetStartTime().AsTime()
	for i := range f.GetBatches() {
		if s.batches[f.GetExecution()][i+1] == nil {
			return
		}
	}
	all, some := true, false
	complete, listed, stale := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, c := range f.GetCoverage() {
		ok := c.GetStatus() == scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE
		all = all && ok
		some = some || ok || c.GetStatus() == scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL
		complete[c.GetResourceType()] = ok && f.GetError() == ""
		listed[c.GetResourceType()] = true
	}
	for name, l := range m.listings {
		if kind, here := strings.CutPrefix(name, scope); here {
			stale[kind] = l.scan.After(scan)
		}
	}
	s.ended = runv1.ScopeState_SCOPE_STATE_FAILED
	switch {
	case f.GetError() != "" || !some:
	case all:
		s.ended = runv1.ScopeState_SCOPE_STATE_SUCCEEDED
	default:
		s.ended = runv1.ScopeState_SCOPE_STATE_PARTIAL
	}
	rules := map[string]bool{}
	for _, t := range f.GetTallies() {
		rules[t.GetRuleId()+t.GetResourceType()] = true
	}
	for _, g := range m.findings {
		switch {
		case g.scope != scope:
		case f.GetError() != "":
			g.absent = 0
		case !rules[g.rule+g.kind] || stale[g.kind]:
		case !complete[g.kind]:
			g.absent = 0
		case !g.open || g.checkedRun == f.GetRunId() || g.checked.After(scan):
		case g.absent == 0:
			g.absent = 1
		default:
			g.open, g.absent, g.checked, g.checkedRun = false, 0, scan, f.GetRunId()
			g.steps = append(g.steps, "RESOLVED")
			s.counts.Resolved++
		}
	}
	seen := map[string]*modelSighting{}
	for _, b := range s.batches[f.GetExecution()] {
		for _, g := range b.GetSightings() {
			if !stale[g.GetResourceType()] {
				seen[scope+g.GetArn()+" "+g.GetState()] = &modelSighting{scope: scope, kind: g.GetResourceType(), first: scan, scan: scan}
			}
		}
	}
	for name, known := range m.sightings {
		arn, _, _ := strings.Cut(name, " ")
		otherwise := slices.ContainsFunc(slices.Collect(maps.Keys(seen)), func(n string) bool { return strings.HasPrefix(n, arn+" ") })
		if seen[name] == nil && otherwise && known.scan.Before(scan) {
			delete(m.sightings, name)
		}
	}
	for name, g := range seen {
		if known := m.sightings[name]; known != nil {
			if scan.After(known.scan) {
				known.scan = scan
			}
			continue
		}
		if l := m.listings[scope+g.kind]; l != nil {
			g.before = l.complete
		}
		m.sightings[name] = g
	}
	for name, known := range m.sightings {
		if known.scope == scope && complete[known.kind] && !stale[known.kind] && known.scan.Before(scan) {
			delete(m.sightings, name)
		}
	}
	for kind := range listed {
		if stale[kind] {
			continue
		}
		l := m.listings[scope+kind]
		if l == nil {
			l = &modelListing{}
			m.listings[scope+kind] = l
		}
		l.scan = scan
		if complete[kind] {
			l.complete = scan
		}
	}
}

func scopeName(s *scanv1.Scope) string { return s.GetAccount() + "/" + s.GetRegion() + "/" }

// TestModel has replicas take a random history: overlapping runs, scopes that
// are scanned several times over, batches and ends in any order, twice, or
// after the scope has ended, one by one and many at once.
func TestModel(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, Migrate)
	a, _ := replica(t, dsn)
	b, _ := replica(t, dsn)
	replicas := []*Service{a, b}
	var round atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		account := fmt.Sprintf("%012d", round.Add(1)) // each round has the database for itself
		m := &model{findings: map[string]*modelFinding{}, scopes: map[string]*modelScope{}, listings: map[string]*modelListing{}, sightings: map[string]*modelSighting{}}
		regions := []string{"eu-west-1", "us-east-1"}[:rapid.IntRange(1, 2).Draw(rt, "regions")]
		var history []proto.Message
		var runs []string
		for r := range rapid.IntRange(1, 6).Draw(rt, "runs") {
			id := fmt.Sprintf("job/%s-%d", account, r)
			runs = append(runs, id)
			var scopes []*scanv1.Scope
			for _, region := range regions {
				sc := &scanv1.Scope{Service: "waste", Account: account, Region: region}
				scopes = append(scopes, sc)
				m.scopes[id+scopeName(sc)] = &modelScope{batches: map[string]map[int32]*findingv1.FindingsObserved{}, finishes: map[string]*scanv1.ScopeFinished{}}
				for x := range rapid.IntRange(1, 3).Draw(rt, "executions") {
					history = append(history, execution(rt, id, sc, fmt.Sprintf("%d.%d", r, x), at(10*r+rapid.IntRange(0, 12).Draw(rt, "hour")))...)
				}
			}
			startRun(t, replicas[r%2], id, scopes...)
		}
		// Mostly in order, with some far from their place, and some twice.
		type delivery struct {
			m     proto.Message
			place int
		}
		var deliveries []delivery
		for i, msg := range history {
			for range rapid.SampledFrom([]int{1, 1, 1, 2}).Draw(rt, "copies") {
				deliveries = append(deliveries, delivery{msg, i + rapid.SampledFrom([]int{0, 0, 1, -1, 3, -3, 10, -10}).Draw(rt, "moved")})
			}
		}
		slices.SortStableFunc(deliveries, func(a, b delivery) int { return cmp.Compare(a.place, b.place) })

		for len(deliveries) > 0 {
			s := replicas[rapid.IntRange(0, 1).Draw(rt, "replica")]
			if f, ok := deliveries[0].m.(*scanv1.ScopeFinished); ok {
				deliveries = deliveries[1:]
				rt.Logf("finished %s %s at %v: %d batches, %v", f.GetRunId(), f.GetExecution(), f.GetStartTime().AsTime(), f.GetBatches(), f.GetCoverage())
				if err := s.onScopeFinished(t.Context(), message(f)); err != nil {
					rt.Fatal(err)
				}
				m.finished(f)
				continue
			}
			n := 0
			most := rapid.IntRange(1, 8).Draw(rt, "fetched")
			var batch []*bus.Message[*findingv1.FindingsObserved]
			for n < len(deliveries) && n < most {
				o, ok := deliveries[n].m.(*findingv1.FindingsObserved)
				if !ok {
					break
				}
				rt.Logf("batch %s %s %d: %d, %v", o.GetRunId(), o.GetExecution(), o.GetSequence(), len(o.GetObservations()), o.GetSightings())
				batch = append(batch, message(o))
				n++
			}
			deliveries = deliveries[n:]
			for _, err := range s.onFindingsObserved(t.Context(), batch) {
				if err != nil {
					rt.Fatal(err)
				}
			}
			for _, o := range batch {
				m.observed(o.Body)
			}
		}
		m.compare(rt, t, a, account, runs)
	})
}

// execution draws what one execution of a scope says.
func execution(rt *rapid.T, run string, sc *scanv1.Scope, name string, when time.Time) []proto.Message {
	types := []string{volumeType, "AWS::EC2::Instance"}
	batches := rapid.IntRange(0, 3).Draw(rt, "batches")
	var out []*findingv1.FindingsObserved
	for i := range batches {
		out = append(out, &findingv1.FindingsObserved{RunId: run, Scope: sc, Execution: name, Sequence: int32(i + 1)})
	}
	for i := range 5 {
		if batches == 0 || rapid.IntRange(0, 3).Draw(rt, "listed") == 0 {
			continue
		}
		o := volume(sc, fmt.Sprintf("vol-%d", i), rulev1.Outcome_OUTCOME_VIOLATION, when)
		o.Resource.Type = types[i%2]
		o.RuleId = []string{"ebs-unattached", "ec2-stopped"}[i%2]
		if outcome := rapid.SampledFrom([]rulev1.Outcome{1, 1, 1, 2, 3, 4, 5}).Draw(rt, "outcome"); outcome != rulev1.Outcome_OUTCOME_VIOLATION {
			o.Verdict = &rulev1.Verdict{Outcome: outcome}
		} else {
			o.Verdict.Severity = rapid.SampledFrom([]rulev1.Severity{2, 2, 2, 4}).Draw(rt, "severity")
			o.Verdict.MonthlyCost.High = rapid.SampledFrom([]float64{8, 8, 8, 9.5}).Draw(rt, "cost")
		}
		o.RuleVersion = rapid.SampledFrom([]int32{1, 1, 1, 1, 2}).Draw(rt, "version")
		b := out[rapid.IntRange(0, batches-1).Draw(rt, "batch")]
		b.Observations = append(b.Observations, o)
		if rapid.Bool().Draw(rt, "sighted") {
			b.Sightings = append(b.Sightings, &scanv1.Sighting{Arn: o.Resource.Arn, ResourceType: o.Resource.Type, State: rapid.SampledFrom([]string{"available", "stopped"}).Draw(rt, "state")})
		}
	}
	f := &scanv1.ScopeFinished{RunId: run, Scope: sc, Execution: name, Batches: int32(batches), StartTime: timestamppb.New(when), EndTime: timestamppb.New(when)}
	for _, kind := range types {
		if status := rapid.SampledFrom([]scanv1.CoverageStatus{0, 1, 1, 1, 1, 2, 3, 5}).Draw(rt, "coverage"); status != 0 {
			f.Coverage = append(f.Coverage, &scanv1.Coverage{ResourceType: kind, Status: status})
		}
	}
	for i, rule := range []string{"ebs-unattached", "ec2-stopped"} {
		if rapid.IntRange(0, 5).Draw(rt, "ran") > 0 {
			f.Tallies = append(f.Tallies, &scanv1.Tally{RuleId: rule, ResourceType: types[i]})
		}
	}
	if rapid.IntRange(0, 9).Draw(rt, "broke") == 0 {
		f.Error = "role refused"
	}
	var messages []proto.Message
	for _, o := range out {
		messages = append(messages, o)
	}
	if rapid.IntRange(0, 5).Draw(rt, "died") > 0 { // or else its end was never said
		messages = append(messages, f)
	}
	return messages
}

func (m *model) compare(rt *rapid.T, t *testing.T, s *Service, account string, runs []string) {
	var rows []*finding
	if err := selectFindings(s.bun).Where("f.account = ?", account).Scan(t.Context(), &rows); err != nil {
		rt.Fatal(err)
	}
	if len(rows) != len(m.findings) {
		rt.Fatalf("there are %d findings, want %d", len(rows), len(m.findings))
	}
	for _, row := range rows {
		want := m.findings[row.ID]
		got := &modelFinding{scope: want.scope, rule: row.RuleID, kind: row.ResourceType, open: row.State != findingv1.State_STATE_RESOLVED, severity: row.Severity,
			cents: *row.CostHigh, policy: fmt.Sprint(row.RuleVersion, row.Parameters), lastSeen: row.LastSeen.UTC(), checked: row.CheckedTime.UTC(),
			checkedRun: row.CheckedRunID, lastRun: row.LastRunID, absent: int(row.AbsentRuns), reopened: int(row.ReopenCount)}
		for _, tr := range transitions(t, s, row.ID) {
			step := strings.TrimPrefix(tr.GetKind().String(), "TRANSITION_KIND_")
			if tr.GetCause() == findingv1.Cause_CAUSE_POLICY_CHANGED {
				step += "!"
			}
			got.steps = append(got.steps, step)
		}
		if g, w := fmt.Sprintf("%+v", *got), fmt.Sprintf("%+v", *want); g != w {
			rt.Errorf("finding %s is\n%s, want\n%s", row.ID, g, w)
		}
	}
	for _, id := range runs {
		run := getRun(t, s, id)
		resp, err := s.ListRunScopes(t.Context(), &runv1.ListRunScopesRequest{RunId: id})
		if err != nil {
			rt.Fatal(err)
		}
		var over, succeeded, failed int
		for _, sc := range resp.GetScopes() {
			want := m.scopes[id+scopeName(sc.GetScope())]
			if !proto.Equal(sc.GetFindings(), &want.counts) {
				rt.Errorf("%s in %s did %v, want %v", sc.GetScope(), id, sc.GetFindings(), &want.counts)
			}
			state := sc.GetState()
			if state < runv1.ScopeState_SCOPE_STATE_SUCCEEDED {
				state = 0
			}
			if state != want.ended {
				rt.Errorf("%s in %s is %s, want %s", sc.GetScope(), id, state, want.ended)
			}
			switch want.ended {
			case 0:
				continue
			case runv1.ScopeState_SCOPE_STATE_SUCCEEDED:
				succeeded++
			case runv1.ScopeState_SCOPE_STATE_FAILED:
				failed++
			}
			over++
		}
		want := runv1.RunState_RUN_STATE_RUNNING
		switch n := len(resp.GetScopes()); {
		case over < n:
		case succeeded == n:
			want = runv1.RunState_RUN_STATE_SUCCEEDED
		case failed == n:
			want = runv1.RunState_RUN_STATE_FAILED
		default:
			want = runv1.RunState_RUN_STATE_PARTIAL
		}
		if run.GetState() != want {
			rt.Errorf("%s is %s, want %s", id, run.GetState(), want)
		}
	}
	var sightings []*sighting
	if err := s.bun.NewSelect().Model(&sightings).Where("s.account = ?", account).Scan(t.Context()); err != nil {
		rt.Fatal(err)
	}
	if len(sightings) != len(m.sightings) {
		rt.Errorf("there are %d sightings, want %d", len(sightings), len(m.sightings))
		for k, v := range m.sightings {
			rt.Logf("want %s: %+v", k, *v)
		}
	}
	for _, g := range sightings {
		scope := scopeName(&scanv1.Scope{Account: g.Account, Region: g.Region})
		want := m.sightings[scope+g.ARN+" "+g.State]
		if want == nil {
			rt.Errorf("sighting of %s %s should be forgotten", g.ARN, g.State)
			continue
		}
		var before time.Time
		if g.Before != nil {
			before = g.Before.UTC()
		}
		if !g.FirstSeen.Equal(want.first) || !before.Equal(want.before) || !g.ScanTime.Equal(want.scan) {
			rt.Errorf("sighting of %s %s is %v %v %v, want %v", g.ARN, g.State, g.FirstSeen, before, g.ScanTime, want)
		}
	}
	var events int
	want := 0
	for _, f := range m.findings {
		want += len(f.steps)
	}
	err := s.bun.NewRaw(`SELECT count(*) FROM outbox o JOIN transitions t ON t.seq = o.transition JOIN findings f ON f.id = t.finding_id WHERE f.account = ?`, account).Scan(t.Context(), &events)
	if err != nil || events != want {
		rt.Errorf("%d events, want %d (%v)", events, want, err)
	}
}
