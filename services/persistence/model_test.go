package persistence

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
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
	"nightshift.dev/pkg/errs"
)

// The model is what persistence is to do with messages, said as plainly as
// possible: one message at a time, one finding at a time, in maps.
type model struct {
	brake     brake
	held      map[string]*modelHeld
	released  map[string]bool
	changes   map[string]*runChange // by run
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
	ack               string // who, and with ! until a time
	assignee          string
	steps             []string
}

type modelHeld struct {
	run, scope, kind string
	when             time.Time
	o                *scanv1.Observation // nil: absent
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

// observed takes what one transaction takes: the brake looks at all of it.
func (m *model) observed(group []*findingv1.FindingsObserved) {
	var fresh []*findingv1.FindingsObserved
	for _, b := range group {
		s := m.scopes[b.GetRunId()+scopeName(b.GetScope())]
		if s.ended != 0 || s.batches[b.GetExecution()][b.GetSequence()] != nil {
			continue
		}
		if s.batches[b.GetExecution()] == nil {
			s.batches[b.GetExecution()] = map[int32]*findingv1.FindingsObserved{}
		}
		s.batches[b.GetExecution()][b.GetSequence()] = b
		fresh = append(fresh, b)
	}
	wishes := map[string]*runChange{}
	for _, b := range fresh {
		w := wishes[b.GetRunId()]
		if w == nil {
			w = &runChange{}
			wishes[b.GetRunId()] = w
		}
		for _, o := range b.GetObservations() {
			if h, bad := m.held[o.GetFindingId()], violates(o); h != nil && !o.GetObservedAt().AsTime().Before(h.when) && (bad && h.kind == "RESOLVED" || complies(o) && h.kind != "RESOLVED") {
				delete(m.held, o.GetFindingId())
			}
			switch kind := m.wants(o); {
			case m.held[o.GetFindingId()] != nil:
			case kind == "OPENED" || kind == "REOPENED":
				if m.whole(scopeName(b.GetScope()), o) {
					w.Opened++
				}
			case kind == "RESOLVED":
				w.Resolved++
			}
		}
	}
	stopped := map[string][2]bool{}
	for run, w := range wishes {
		stopped[run] = [2]bool{w.Opened > 0 && m.stops(run, w.Opened, true), w.Resolved > 0 && m.stops(run, w.Resolved, false)}
	}
	finishing := map[string]*scanv1.ScopeFinished{}
	for _, b := range fresh {
		scope := scopeName(b.GetScope())
		s := m.scopes[b.GetRunId()+scope]
		for _, o := range b.GetObservations() {
			m.judge(&s.counts, b.GetRunId(), scope, o, stopped[b.GetRunId()])
		}
		if f := s.finishes[b.GetExecution()]; f != nil {
			finishing[b.GetRunId()+scope] = f
		}
	}
	for _, name := range slices.Sorted(maps.Keys(finishing)) {
		m.finish(m.scopes[name], finishing[name])
	}
}

// whole says whether everything of the resource's type was seen before.
func (m *model) whole(scope string, o *scanv1.Observation) bool {
	l := m.listings[scope+o.GetResource().GetType()]
	return l != nil && !l.complete.IsZero()
}

// stops says whether n more are too many.
func (m *model) stops(run string, n int64, opens bool) bool {
	c := m.change(run)
	total, before := int64(len(m.findings)), c.Resolved-c.Made-c.Returned
	for _, f := range m.findings {
		if f.open {
			before++
		}
	}
	if opens {
		n += c.Opened
	} else {
		n += c.Resolved
	}
	return m.brake.share > 0 && !m.released[run] && total > c.Made && n > m.brake.count && float64(n) > m.brake.share*float64(before)
}

func (m *model) change(run string) *runChange {
	if m.changes[run] == nil {
		m.changes[run] = &runChange{}
	}
	return m.changes[run]
}

func violates(o *scanv1.Observation) bool {
	return o.GetVerdict().GetOutcome() == rulev1.Outcome_OUTCOME_VIOLATION
}

func complies(o *scanv1.Observation) bool {
	return o.GetVerdict().GetOutcome() == rulev1.Outcome_OUTCOME_COMPLIANT || o.GetVerdict().GetOutcome() == rulev1.Outcome_OUTCOME_NOT_APPLICABLE
}

// wants is the transition that an observation leads to.
func (m *model) wants(o *scanv1.Observation) string {
	f := m.findings[o.GetFindingId()]
	switch {
	case f == nil && violates(o):
		return "OPENED"
	case f == nil, o.GetObservedAt().AsTime().Before(f.checked):
		return ""
	case violates(o) && !f.open:
		return "REOPENED"
	case violates(o) && (policyOf(o) != f.policy || o.GetVerdict().GetSeverity() != f.severity || o.GetVerdict().GetMonthlyCost().GetHigh() != f.cents):
		return "CHANGED"
	case complies(o) && f.open:
		return "RESOLVED"
	}
	return ""
}

func policyOf(o *scanv1.Observation) string { return fmt.Sprint(o.GetRuleVersion(), o.GetParameters()) }

func (m *model) judge(counts *runv1.FindingCounts, run, scope string, o *scanv1.Observation, stopped [2]bool) {
	f, when, v := m.findings[o.GetFindingId()], o.GetObservedAt().AsTime(), o.GetVerdict()
	policy := policyOf(o)
	cents := v.GetMonthlyCost().GetHigh()
	kind, bad, h, whole := m.wants(o), violates(o), m.held[o.GetFindingId()], m.whole(scope, o)
	hold := (kind == "OPENED" || kind == "REOPENED") && whole && (h != nil || stopped[0]) || kind == "RESOLVED" && (h != nil || stopped[1])
	switch {
	case hold && h == nil:
		m.held[o.GetFindingId()] = &modelHeld{run, scope, kind, when, o}
	case hold && !when.Before(h.when):
		h.kind, h.when, h.o = kind, when, o
	}
	c := m.change(run)
	if f == nil {
		if !bad || hold {
			return
		}
		f = &modelFinding{scope: scope, rule: o.GetRuleId(), kind: o.GetResource().GetType(), open: true, severity: v.GetSeverity(), cents: cents,
			policy: policy, lastSeen: when, checked: when, checkedRun: run, lastRun: run, steps: []string{"OPENED"}}
		m.findings[o.GetFindingId()] = f
		counts.Opened++
		c.Made++
		if whole {
			c.Opened++
		}
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
	if bad {
		f.lastSeen, f.lastRun = when, run
	}
	switch {
	case hold:
		return
	case kind == "REOPENED":
		f.open = true
		f.reopened++
		counts.Reopened++
		c.Returned++
		if whole {
			c.Opened++
		}
	case kind == "CHANGED":
		if !strings.HasSuffix(f.ack, "!") {
			f.ack = ""
		}
		counts.Changed++
	case kind == "RESOLVED":
		f.open, f.ack = false, ""
		f.policy = policy
		counts.Resolved++
		c.Resolved++
	case bad && !again:
		counts.Unchanged++
	}
	if kind != "" {
		f.steps = append(f.steps, kind+cause)
	}
	if bad {
		f.severity, f.cents, f.policy = v.GetSeverity(), cents, policy
	}
}

// settleHeld releases or discards what is held of a run and returns how much
// that was.
func (m *model) settleHeld(run string, release bool) (n int64) {
	for _, id := range slices.Sorted(maps.Keys(m.held)) {
		h := m.held[id]
		if h.run != run {
			continue
		}
		n++
		delete(m.held, id)
		f := m.findings[id]
		switch {
		case release && h.o != nil:
			m.released[run] = true
			o := proto.CloneOf(h.o)
			if f != nil && f.checked.After(h.when) {
				o.ObservedAt = timestamppb.New(f.checked)
			}
			m.judge(&runv1.FindingCounts{}, run, h.scope, o, [2]bool{})
		case release:
			m.released[run] = true
			if f.open && f.absent > 0 {
				f.open, f.ack = false, ""
				f.steps = append(f.steps, "RESOLVED")
				m.change(run).Resolved++
			}
			f.checked, f.checkedRun, f.absent = h.when, run, 0
		case h.o == nil:
			f.absent = 0
		}
	}
	return n
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
	var gone []string
	for _, id := range slices.Sorted(maps.Keys(m.findings)) {
		g := m.findings[id]
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
		case m.held[id] == nil:
			gone = append(gone, id)
		}
	}
	if len(gone) > 0 && m.stops(f.GetRunId(), int64(len(gone)), false) {
		for _, id := range gone {
			m.held[id] = &modelHeld{f.GetRunId(), scope, "RESOLVED", scan, nil}
		}
		gone = nil
	}
	for _, id := range gone {
		g := m.findings[id]
		g.open, g.ack, g.absent, g.checked, g.checkedRun = false, "", 0, scan, f.GetRunId()
		g.steps = append(g.steps, "RESOLVED")
		s.counts.Resolved++
		m.change(f.GetRunId()).Resolved++
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
	dsn := devtest.DB(t, migrated)
	a, _ := replica(t, dsn)
	b, _ := replica(t, dsn)
	replicas := []*Service{a, b}
	var round atomic.Int64
	rapid.Check(t, func(rt *rapid.T) {
		account := fmt.Sprintf("%012d", round.Add(1)) // each round has the database for itself
		m := &model{brake: rapid.SampledFrom([]brake{{}, {0.5, 1}, {0.3, 2}}).Draw(rt, "brake"), held: map[string]*modelHeld{}, released: map[string]bool{}, changes: map[string]*runChange{},
			findings: map[string]*modelFinding{}, scopes: map[string]*modelScope{}, listings: map[string]*modelListing{}, sightings: map[string]*modelSighting{}}
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

		a.brake, b.brake = m.brake, m.brake
		for len(deliveries) > 0 {
			if rapid.IntRange(0, 3).Draw(rt, "somebody") == 0 {
				m.somebody(rt, t, replicas[rapid.IntRange(0, 1).Draw(rt, "replica")], runs)
			}
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
			// As the service takes them: of each scope, one execution at a time.
			var waiting []*observed
			for _, o := range batch {
				w, err := s.lookThrough(t.Context(), o.Body)
				if err != nil {
					rt.Fatal(err)
				}
				waiting = append(waiting, w)
			}
			for len(waiting) > 0 {
				n := chunk(waiting)
				var group []*findingv1.FindingsObserved
				for _, o := range batch[:n] {
					group = append(group, o.Body)
				}
				m.observed(group)
				waiting, batch = waiting[n:], batch[n:]
			}
		}
		m.compare(rt, t, a, account, runs)
	})
}

// somebody does something to a finding, or to what is held.
func (m *model) somebody(rt *rapid.T, t *testing.T, s *Service, runs []string) {
	if rapid.IntRange(0, 3).Draw(rt, "held") == 0 {
		run := rapid.SampledFrom(runs).Draw(rt, "run")
		release := rapid.Bool().Draw(rt, "release")
		rt.Logf("settle %s: release %v", run, release)
		var n int64
		var err error
		if release {
			var resp *findingv1.ReleaseHoldResponse
			resp, err = s.ReleaseHold(t.Context(), &findingv1.ReleaseHoldRequest{RunId: run, Actor: "ana"})
			n = resp.GetReleased() + resp.GetOutdated()
		} else {
			var resp *findingv1.DiscardHoldResponse
			resp, err = s.DiscardHold(t.Context(), &findingv1.DiscardHoldRequest{RunId: run, Actor: "ana"})
			n = resp.GetDiscarded()
		}
		want := m.settleHeld(run, release)
		if n != want || (err == nil) != (want > 0) || err != nil && !errors.Is(err, errs.NotFound) {
			rt.Fatalf("settled %d, want %d (%v)", n, want, err)
		}
		return
	}
	if len(m.findings) == 0 {
		return
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(m.findings))).Draw(rt, "finding")
	f := m.findings[id]
	req := &findingv1.BatchUpdateFindingsRequest{Findings: []*findingv1.FindingRef{{Id: id}}, Actor: "ana"}
	refused := false
	switch rapid.IntRange(0, 4).Draw(rt, "action") {
	case 0, 1:
		ack, by := &findingv1.Acknowledge{}, "ana"
		if rapid.Bool().Draw(rt, "until") {
			ack.ExpireTime, by = timestamppb.New(time.Now().Add(time.Hour)), "ana!"
		}
		req.Action = &findingv1.BatchUpdateFindingsRequest_Acknowledge{Acknowledge: ack}
		if refused = !f.open; !refused {
			f.ack = by
			f.steps = append(f.steps, "ACKNOWLEDGED")
		}
	case 2:
		req.Action = &findingv1.BatchUpdateFindingsRequest_Unacknowledge{Unacknowledge: &findingv1.Unacknowledge{}}
		if f.ack != "" {
			f.ack = ""
			f.steps = append(f.steps, "UNACKNOWLEDGED")
		}
	case 3:
		to := rapid.SampledFrom([]string{"", "bob", "eve"}).Draw(rt, "assignee")
		req.Action = &findingv1.BatchUpdateFindingsRequest_Assign{Assign: &findingv1.Assign{Assignee: to}}
		if f.assignee != to {
			f.assignee = to
			f.steps = append(f.steps, "ASSIGNED")
		}
	default:
		req.Action = &findingv1.BatchUpdateFindingsRequest_Comment{Comment: &findingv1.Comment{Text: "hm"}}
		f.steps = append(f.steps, "COMMENTED")
	}
	resp, err := s.BatchUpdateFindings(t.Context(), req)
	if err != nil {
		rt.Fatal(err)
	}
	if r := resp.GetResults()[0]; (r.GetError() != nil) != refused {
		rt.Fatalf("%v of %s was answered %v, want it refused: %v", req.GetAction(), id, r.GetError(), refused)
	}
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
			checkedRun: row.CheckedRunID, lastRun: row.LastRunID, absent: int(row.AbsentRuns), reopened: int(row.ReopenCount), assignee: row.Assignee}
		if ack, err := storedAck(row.Ack); err != nil {
			rt.Fatal(err)
		} else if got.ack = ack.GetBy(); row.AckUntil != nil {
			got.ack += "!"
		}
		if owner := cmp.Or(row.Assignee, "ops"); row.Owner != owner {
			rt.Errorf("%s belongs to %s, want %s", row.ID, row.Owner, owner)
		}
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
	var held []*heldRow
	if err := s.bun.NewSelect().Model(&held).Where("h.account = ?", account).Scan(t.Context()); err != nil {
		rt.Fatal(err)
	}
	if len(held) != len(m.held) {
		rt.Errorf("%d are held, want %d", len(held), len(m.held))
	}
	for _, h := range held {
		want := m.held[h.FindingID]
		if want == nil || h.RunID != want.run || strings.TrimPrefix(h.Kind.String(), "TRANSITION_KIND_") != want.kind || !h.Time.Equal(want.when) || (h.Observation == nil) != (want.o == nil) {
			rt.Errorf("held is %+v, want %+v", h, want)
		}
	}
	m.compareSums(rt, t, s, account)
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

// compareSums holds sums and days against the findings.
func (m *model) compareSums(rt *rapid.T, t *testing.T, s *Service, account string) {
	var wrong []string
	err := s.bun.NewRaw(`
		SELECT coalesce(a.key, b.key) FROM (
			SELECT concat_ws(' ', account, region, service, rule_id, category, state, severity, owner, acknowledged) AS key, findings, unpriced, cost_low, cost_high FROM finding_sums WHERE account = ?0 AND findings <> 0
		) a FULL JOIN (
			SELECT concat_ws(' ', account, region, service, rule_id, category, state, severity, owner, (ack IS NOT NULL)::int) AS key,
				count(*) AS findings, count(*) FILTER (WHERE cost_high IS NULL) AS unpriced, sum(millionths(cost_low)) AS cost_low, sum(millionths(cost_high)) AS cost_high
			FROM findings WHERE account = ?0 GROUP BY 1
		) b ON a.key = b.key
		WHERE (a.findings, a.unpriced, a.cost_low, a.cost_high) IS DISTINCT FROM (b.findings, b.unpriced, b.cost_low, b.cost_high)`, account).Scan(t.Context(), &wrong)
	if err != nil || len(wrong) > 0 {
		rt.Errorf("sums are not those of the findings: %v (%v)", wrong, err)
	}
	resp, err := s.ListFindingDays(t.Context(), &findingv1.ListFindingDaysRequest{StartDate: "2025-12-01", EndDate: "2026-12-31", Filter: `account = "` + account + `"`})
	if err != nil {
		rt.Fatal(err)
	}
	var open, resolved int64
	var cost, saved float64
	for _, d := range resp.GetDays() {
		resolved += d.GetResolved()
		saved += d.GetSavedHigh()
	}
	last := resp.GetDays()[len(resp.GetDays())-1]
	var ends int64
	for _, f := range m.findings {
		if f.open {
			open++
			cost += f.cents
		}
		for _, step := range f.steps {
			if strings.HasPrefix(step, "RESOLVED") {
				ends++
			}
		}
	}
	if last.GetOpen() != open || math.Abs(last.GetMonthlyCostHigh()-cost) > 0.001 || resolved != ends || (saved > 0) != (ends > 0) {
		rt.Errorf("the last day is %v after %d resolved that saved %v, want %d open that cost %v, %d resolved", last, resolved, saved, open, cost, ends)
	}
}
