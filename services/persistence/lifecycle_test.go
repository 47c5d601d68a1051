package persistence

import (
	"fmt"
	"strings"
	"testing"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

func TestLifecycle(t *testing.T) {
	t.Parallel()
	type step struct {
		status scanv1.CoverageStatus
		saw    []*scanv1.Observation
	}
	outcome := func(n int, o rulev1.Outcome, set ...func(*scanv1.Observation)) []*scanv1.Observation {
		return []*scanv1.Observation{volume(here, "vol-1", o, at(n), set...)}
	}
	const (
		bad     = rulev1.Outcome_OUTCOME_VIOLATION
		good    = rulev1.Outcome_OUTCOME_COMPLIANT
		exempt  = rulev1.Outcome_OUTCOME_NOT_APPLICABLE
		unknown = rulev1.Outcome_OUTCOME_INSUFFICIENT_DATA
		failed  = rulev1.Outcome_OUTCOME_ERROR
	)
	severe := func(o *scanv1.Observation) { o.Verdict.Severity = rulev1.Severity_SEVERITY_HIGH }
	cost := func(low, high float64) func(*scanv1.Observation) {
		return func(o *scanv1.Observation) { o.Verdict.MonthlyCost = &rulev1.MonthlyCost{Low: low, High: high} }
	}
	unpriced := func(o *scanv1.Observation) { o.Verdict.MonthlyCost = nil }
	version := func(o *scanv1.Observation) { o.RuleVersion = 2 }
	days := func(o *scanv1.Observation) { o.Parameters = map[string]string{"days": "7"} }
	tagged := func(o *scanv1.Observation) { o.Resource.Tags = map[string]string{"Owner": "ops", "team": "a"} }
	for name, c := range map[string]struct {
		steps []step
		want  string // kinds of transitions, with ! for POLICY_CHANGED
	}{
		"opened once":                     {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, bad)}, {complete, outcome(2, bad)}}, "OPENED"},
		"compliant never opens":           {[]step{{complete, outcome(0, good)}, {complete, outcome(1, exempt)}}, ""},
		"unknown never opens":             {[]step{{complete, outcome(0, unknown)}, {complete, outcome(1, failed)}}, ""},
		"compliant resolves":              {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, good)}}, "OPENED RESOLVED"},
		"compliant resolves when partial": {[]step{{complete, outcome(0, bad)}, {partial, outcome(1, good)}}, "OPENED RESOLVED"},
		"not applicable resolves":         {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, exempt)}}, "OPENED RESOLVED"},
		"resolved once":                   {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, good)}, {complete, outcome(2, good)}, {complete, nil}, {complete, nil}, {complete, nil}}, "OPENED RESOLVED"},
		"unknown and error do nothing":    {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, unknown)}, {complete, outcome(2, failed)}, {complete, outcome(3, unknown)}}, "OPENED"},
		"comes back":                      {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, good)}, {complete, outcome(2, bad)}, {complete, outcome(3, good)}, {complete, outcome(4, bad)}}, "OPENED RESOLVED REOPENED RESOLVED REOPENED"},
		"absent once is not gone":         {[]step{{complete, outcome(0, bad)}, {complete, nil}, {complete, outcome(2, bad)}, {complete, nil}}, "OPENED"},
		"absent twice is gone":            {[]step{{complete, outcome(0, bad)}, {complete, nil}, {complete, nil}}, "OPENED RESOLVED"},
		"partial proves nothing":          {[]step{{complete, outcome(0, bad)}, {partial, nil}, {partial, nil}, {denied, nil}, {denied, nil}}, "OPENED"},
		"partial in between resets":       {[]step{{complete, outcome(0, bad)}, {complete, nil}, {partial, nil}, {complete, nil}}, "OPENED"},
		"denied in between resets":        {[]step{{complete, outcome(0, bad)}, {complete, nil}, {denied, nil}, {complete, nil}, {complete, nil}}, "OPENED RESOLVED"},
		"seen as unknown is not absent":   {[]step{{complete, outcome(0, bad)}, {complete, nil}, {complete, outcome(2, unknown)}, {complete, nil}}, "OPENED"},
		"gone and back":                   {[]step{{complete, outcome(0, bad)}, {complete, nil}, {complete, nil}, {complete, outcome(3, bad)}, {complete, nil}, {complete, nil}}, "OPENED RESOLVED REOPENED RESOLVED"},
		"severity":                        {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, bad, severe)}, {complete, outcome(2, bad, severe)}}, "OPENED CHANGED"},
		"cost by a cent":                  {[]step{{complete, outcome(0, bad, cost(1, 2))}, {complete, outcome(1, bad, cost(1, 2.01))}}, "OPENED CHANGED"},
		"cost by less than a cent":        {[]step{{complete, outcome(0, bad, cost(1, 2))}, {complete, outcome(1, bad, cost(1.001, 2.004))}}, "OPENED"},
		"cost becomes known":              {[]step{{complete, outcome(0, bad, unpriced)}, {complete, outcome(1, bad, unpriced)}, {complete, outcome(2, bad)}, {complete, outcome(3, bad, unpriced)}}, "OPENED CHANGED CHANGED"},
		"rule version is policy":          {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, bad, version, severe)}}, "OPENED CHANGED!"},
		"parameters are policy":           {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, bad, days)}}, "OPENED CHANGED!"},
		"policy resolves":                 {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, good, days)}}, "OPENED RESOLVED!"},
		"policy reopens":                  {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, good, days)}, {complete, outcome(2, bad)}}, "OPENED RESOLVED! REOPENED!"},
		"policy and the resource is scan": {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, bad, days, tagged)}}, "OPENED CHANGED"},
		"tags are no transition":          {[]step{{complete, outcome(0, bad)}, {complete, outcome(1, bad, tagged)}}, "OPENED"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := service(t)
			id := volume(here, "vol-1", bad, at(0)).GetFindingId()
			for n, st := range c.steps {
				scanOnce(t, s, n, st.status, st.saw...)
			}
			var got []string
			if c.want != "" {
				for _, tr := range transitions(t, s, id) {
					kind := strings.TrimPrefix(tr.GetKind().String(), "TRANSITION_KIND_")
					if tr.GetCause() == findingv1.Cause_CAUSE_POLICY_CHANGED {
						kind += "!"
					}
					got = append(got, kind)
				}
			} else if _, err := s.GetFinding(t.Context(), &findingv1.GetFindingRequest{Id: id}); err == nil {
				t.Error("there is a finding")
			}
			if strings.Join(got, " ") != c.want {
				t.Errorf("transitions %v, want %s", got, c.want)
			}
			var events int
			if err := s.bun.NewRaw("SELECT count(*) FROM outbox WHERE transition IS NOT NULL").Scan(t.Context(), &events); err != nil || events != len(got) {
				t.Errorf("%d events for %d transitions (%v)", events, len(got), err)
			}
		})
	}
}

func TestRunOfOneScope(t *testing.T) {
	t.Parallel()
	s := service(t)
	run := scanOnce(t, s, 0, complete, violation("vol-1", at(0)), violation("vol-2", at(0)))
	if run.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED || run.GetFindings().GetOpened() != 2 || run.GetScopes().GetSucceeded() != 1 {
		t.Errorf("run is %v", run)
	}
	run = scanOnce(t, s, 1, partial, violation("vol-1", at(1)))
	if run.GetState() != runv1.RunState_RUN_STATE_PARTIAL || run.GetFindings().GetUnchanged() != 1 || !strings.Contains(run.GetError(), "throttled") {
		t.Errorf("run is %v", run)
	}
}

// A rule that judges several types has a tally for each; a type that was not
// listed proves nothing about its findings, whatever became of the others.
func TestAbsenceIsByRuleAndType(t *testing.T) {
	t.Parallel()
	types := []string{"AWS::EC2::Snapshot", volumeType, "AWS::EC2::EIP"}
	s := service(t)
	untagged := func(n int) (out []*scanv1.Observation) {
		for _, kind := range types {
			out = append(out, violation(kind, at(n), func(o *scanv1.Observation) {
				o.RuleId, o.Resource.Type = "required-tags", kind
				o.FindingId = idOf(here, o.RuleId, o.Resource.Arn)
			}))
		}
		return out
	}
	for n := range 3 {
		id := fmt.Sprintf("waste-scan/%d", n)
		startRun(t, s, id, here)
		m := &findingv1.FindingsObserved{RunId: id, Scope: here, Execution: "1.1", Sequence: 1}
		if n == 0 {
			m.Observations = untagged(n)
		}
		observe(t, s, m)
		finishScope(t, s, finished(id, "1.1", 1, at(n), complete, func(f *scanv1.ScopeFinished) {
			f.Coverage, f.Tallies = nil, nil
			for i, kind := range types {
				c := &scanv1.Coverage{ResourceType: kind, Status: complete}
				if i == 0 {
					c.Status, c.Error = denied, "UnauthorizedOperation"
				}
				f.Coverage = append(f.Coverage, c)
				f.Tallies = append(f.Tallies, &scanv1.Tally{RuleId: "required-tags", RuleVersion: 1, ResourceType: kind, Violations: int64(i)})
			}
		}))
	}
	for i, o := range untagged(0) {
		want := findingv1.State_STATE_RESOLVED
		if i == 0 {
			want = findingv1.State_STATE_OPEN
		}
		if f := getFinding(t, s, o.GetFindingId()); f.GetState() != want {
			t.Errorf("finding on %s is %s, want %s", types[i], f.GetState(), want)
		}
	}
	resp, err := s.ListRunScopes(t.Context(), &runv1.ListRunScopesRequest{RunId: "waste-scan/2"})
	if err != nil {
		t.Fatal(err)
	}
	if tallies := resp.GetScopes()[0].GetTallies(); len(tallies) != len(types) {
		t.Errorf("tallies are %v, want one for each of %v", tallies, types)
	}
}
