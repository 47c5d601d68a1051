package persistence

import (
	"errors"
	"fmt"
	"testing"
	"time"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
)

// braked is a service with forty open findings that stops at half of them.
func braked(t testing.TB) (*Service, *clock) {
	t.Helper()
	s, c := clocked(t)
	s.brake = brake{0.5, 20}
	scanOnce(t, s, 0, complete, many(0, 40, 0, rulev1.Outcome_OUTCOME_VIOLATION)...)
	if n := holds(t, s); len(n) != 0 {
		t.Fatalf("the first scan of an account is held: %v", n)
	}
	return s, c
}

func many(from, to, hour int, outcome rulev1.Outcome) (out []*scanv1.Observation) {
	for i := from; i < to; i++ {
		out = append(out, volume(here, fmt.Sprintf("vol-%d", i), outcome, at(hour)))
	}
	return out
}

func holds(t testing.TB, s *Service) []*findingv1.Hold {
	t.Helper()
	resp, err := s.ListHolds(t.Context(), &findingv1.ListHoldsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetHolds()
}

func TestBrake(t *testing.T) {
	t.Parallel()
	const (
		bad     = rulev1.Outcome_OUTCOME_VIOLATION
		good    = rulev1.Outcome_OUTCOME_COMPLIANT
		unknown = rulev1.Outcome_OUTCOME_INSUFFICIENT_DATA
	)
	open := `state = "OPEN" OR state = "REOPENED"`
	scan := func(n int, o ...*scanv1.Observation) func(t *testing.T, s *Service) {
		return func(t *testing.T, s *Service) { scanOnce(t, s, n, partial, o...) }
	}
	// A listing that shows all there is.
	listed := func(n int, o ...*scanv1.Observation) func(t *testing.T, s *Service) {
		return func(t *testing.T, s *Service) { scanOnce(t, s, n, complete, o...) }
	}
	release := func(n int) func(t *testing.T, s *Service) {
		return func(t *testing.T, s *Service) {
			if _, err := s.ReleaseHold(t.Context(), &findingv1.ReleaseHoldRequest{RunId: fmt.Sprintf("waste-scan/%d", n), Actor: "ana"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	discard := func(n int) func(t *testing.T, s *Service) {
		return func(t *testing.T, s *Service) {
			if _, err := s.DiscardHold(t.Context(), &findingv1.DiscardHoldRequest{RunId: fmt.Sprintf("waste-scan/%d", n), Actor: "ana"}); err != nil {
				t.Fatal(err)
			}
		}
	}
	type steps []func(t *testing.T, s *Service)
	for name, c := range map[string]struct {
		steps steps
		open  int
		held  int64
	}{
		"a few open":                      {steps{scan(1, many(0, 60, 1, bad)...)}, 60, 0},
		"too many open":                   {steps{scan(1, many(0, 61, 1, bad)...)}, 40, 21},
		"they stay held":                  {steps{scan(1, many(0, 61, 1, bad)...), scan(2, many(0, 61, 2, bad)...), scan(3, many(0, 61, 3, bad)...)}, 40, 21},
		"others open beside them":         {steps{scan(1, many(0, 61, 1, bad)...), scan(2, many(0, 70, 2, bad)...)}, 49, 21},
		"released":                        {steps{scan(1, many(0, 61, 1, bad)...), release(1)}, 61, 0},
		"discarded, and held again":       {steps{scan(1, many(0, 61, 1, bad)...), discard(1), scan(2, many(0, 61, 2, bad)...)}, 40, 21},
		"discarded, and not seen again":   {steps{scan(1, many(0, 61, 1, bad)...), discard(1), scan(2, many(0, 40, 2, bad)...)}, 40, 0},
		"a later scan says the contrary":  {steps{scan(1, many(0, 61, 1, bad)...), scan(2, many(40, 61, 2, good)...)}, 40, 0},
		"a few resolve":                   {steps{scan(1, many(0, 20, 1, good)...)}, 20, 0},
		"too many resolve":                {steps{scan(1, many(0, 21, 1, good)...)}, 40, 21},
		"too many resolve, released":      {steps{scan(1, many(0, 21, 1, good)...), release(1)}, 19, 0},
		"resolved, unknown, released":     {steps{scan(1, many(0, 21, 1, good)...), scan(2, many(0, 21, 2, unknown)...), release(1)}, 19, 0},
		"they are there after all":        {steps{scan(1, many(0, 21, 1, good)...), scan(2, many(0, 40, 2, bad)...)}, 40, 0},
		"too many come back":              {steps{scan(1, many(0, 21, 1, good)...), release(1), scan(2, many(0, 21, 2, bad)...)}, 19, 21},
		"too many come back, released":    {steps{scan(1, many(0, 21, 1, good)...), release(1), scan(2, many(0, 21, 2, bad)...), release(2)}, 40, 0},
		"too many are gone":               {steps{listed(1, many(0, 10, 1, bad)...), listed(2, many(0, 10, 2, bad)...), listed(3, many(0, 10, 3, bad)...)}, 40, 30},
		"too many are gone, released":     {steps{listed(1, many(0, 10, 1, bad)...), listed(2, many(0, 10, 2, bad)...), release(2)}, 10, 0},
		"gone, discarded, begins anew":    {steps{listed(1), listed(2), discard(2), listed(3)}, 40, 0},
		"gone, discarded, gone once more": {steps{listed(1), listed(2), discard(2), listed(3), listed(4)}, 40, 40},
		"gone, and there after all":       {steps{listed(1), listed(2), listed(3, many(0, 40, 3, bad)...), listed(4)}, 40, 0},
		"gone, and an older look comes late": {steps{listed(1), listed(5), func(t *testing.T, s *Service) {
			o := many(0, 1, 3, bad)
			o[0].Verdict.Severity = rulev1.Severity_SEVERITY_CRITICAL // so that it changes
			scanOnce(t, s, 3, partial, o...)
		}}, 40, 40},
		"a few are gone":     {steps{listed(1, many(0, 20, 1, bad)...), listed(2, many(0, 20, 2, bad)...)}, 20, 0},
		"exemptions are not": {steps{func(t *testing.T, s *Service) { accept(t, s, `resource_id:"vol"`, 90) }, scan(1, many(0, 90, 1, bad)...)}, 0, 0},
		"nor is their end": {steps{func(t *testing.T, s *Service) { accept(t, s, `resource_id:"vol"`, 90) }, func(t *testing.T, s *Service) {
			s.now = func() time.Time { return at(91) }
		}, scan(92, many(0, 40, 92, bad)...)}, 40, 0},
		"held, then exempt": {steps{scan(1, many(0, 61, 1, bad)...), func(t *testing.T, s *Service) { accept(t, s, `resource_id = "vol-50"`, 90) }, scan(2, many(0, 61, 2, bad)...)}, 40, 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := braked(t)
			for _, step := range c.steps {
				step(t, s)
			}
			ids, err := found(t, s, open)
			if err != nil || len(ids) != c.open {
				t.Errorf("%d findings are open, want %d (%v)", len(ids), c.open, err)
			}
			var held int64
			for _, h := range holds(t, s) {
				held += h.GetOpens() + h.GetReopens() + h.GetResolves()
				resp, err := s.ListHeldTransitions(t.Context(), &findingv1.ListHeldTransitionsRequest{RunId: h.GetRunId(), PageSize: 7})
				if err != nil || len(resp.GetTransitions()) == 0 || resp.GetTransitions()[0].GetRuleId() == "" || resp.GetTransitions()[0].GetReason() == "" {
					t.Errorf("held of %s: %v (%v)", h.GetRunId(), resp, err)
				}
			}
			if held != c.held {
				t.Errorf("%d transitions are held, want %d", held, c.held)
			}
			all, err := found(t, s, "")
			if err != nil {
				t.Fatal(err)
			}
			for _, id := range all {
				checkSteps(t, s, getFinding(t, s, id))
			}
		})
	}
}

// What no scan has seen whole before is found for the first time, however much
// is known elsewhere in the account: after a first scan that was cut off, in a
// region that is new, of a resource type that was denied so far. None of it
// counts against the run.
func TestBrakeLetsFirstLooksPass(t *testing.T) {
	t.Parallel()
	const bad = rulev1.Outcome_OUTCOME_VIOLATION
	s, _ := clocked(t)
	s.brake = brake{0.5, 20}
	scanOnce(t, s, 0, partial, many(0, 40, 0, bad)...)
	scanOnce(t, s, 1, complete, many(0, 100, 1, bad)...)

	west := &scanv1.Scope{Service: "waste", Account: here.GetAccount(), Region: "us-west-2"}
	startRun(t, s, "waste-scan/2", here, west)
	of := func(sc *scanv1.Scope, from, to int) *findingv1.FindingsObserved {
		m := &findingv1.FindingsObserved{RunId: "waste-scan/2", Scope: sc, Execution: "1.1", Sequence: 1}
		for i := from; i < to; i++ {
			m.Observations = append(m.Observations, volume(sc, fmt.Sprintf("vol-%d", i), bad, at(2)))
		}
		return m
	}
	observe(t, s, of(west, 500, 600))
	observe(t, s, of(here, 100, 101))
	if ids, err := found(t, s, ""); err != nil || len(ids) != 100+100+1 || len(holds(t, s)) != 0 {
		t.Errorf("%d findings, and %v is held (%v)", len(ids), holds(t, s), err)
	}
	// Where everything was seen before, it is too much.
	startRun(t, s, "waste-scan/3", here)
	m := of(here, 200, 350)
	m.RunId = "waste-scan/3"
	observe(t, s, m)
	if h := holds(t, s); len(h) != 1 || h[0].GetOpens() != 150 {
		t.Errorf("held: %v", h)
	}
}

// A run is stopped across the regions of an account, and says so once; another
// account goes on.
func TestBrakeIsByAccount(t *testing.T) {
	t.Parallel()
	s, _ := braked(t)
	west := &scanv1.Scope{Service: "waste", Account: here.GetAccount(), Region: "us-west-2"}
	other := &scanv1.Scope{Service: "waste", Account: "999900001111", Region: "us-west-2"}
	mustExec(t, s, "INSERT INTO listings SELECT service, account, 'us-west-2', resource_type, scan_time, complete_time FROM listings")
	startRun(t, s, "waste-scan/1", here, west, other)
	for _, sc := range []*scanv1.Scope{here, west, other, west} {
		m := &findingv1.FindingsObserved{RunId: "waste-scan/1", Scope: sc, Execution: "1.1", Sequence: 1}
		for i := 100; i < 115; i++ {
			m.Observations = append(m.Observations, volume(sc, fmt.Sprintf("vol-%d", i), rulev1.Outcome_OUTCOME_VIOLATION, at(1)))
		}
		observe(t, s, m) // the last of them twice
	}
	if ids, err := found(t, s, ""); err != nil || len(ids) != 40+15+15 {
		t.Errorf("%d findings, want the old, those of one region and those of the other account (%v)", len(ids), err)
	}
	h := holds(t, s)
	if len(h) != 1 || h[0].GetOpens() != 15 || h[0].GetFindingsBefore() != 40 || h[0].GetAccount() != here.GetAccount() {
		t.Fatalf("held: %v", h)
	}
	var events int
	if err := s.bun.NewRaw("SELECT count(*) FROM outbox WHERE message = 'nightshift.finding.v1.FindingsHeld'").Scan(t.Context(), &events); err != nil || events != 1 {
		t.Errorf("%d events (%v)", events, err)
	}
	log, err := s.ListEntries(t.Context(), &systemlogv1.ListEntriesRequest{Filter: `event = "findings_held"`})
	if err != nil || len(log.GetEntries()) != 1 || log.GetEntries()[0].GetLevel() != systemlogv1.Level_LEVEL_WARN {
		t.Errorf("system log has %v (%v)", log, err)
	}

	// Whoever releases a run releases what it finds afterwards, and is named.
	resp, err := s.ReleaseHold(t.Context(), &findingv1.ReleaseHoldRequest{RunId: "waste-scan/1", Actor: "ana", Account: here.GetAccount()})
	if err != nil || resp.GetReleased() != 15 || resp.GetOutdated() != 0 {
		t.Fatalf("released %v (%v)", resp, err)
	}
	id := volume(west, "vol-100", rulev1.Outcome_OUTCOME_VIOLATION, at(1)).GetFindingId()
	if tr := transitions(t, s, id); len(tr) != 1 || tr[0].GetActor() != "ana" || tr[0].GetRunId() != "waste-scan/1" {
		t.Errorf("its life is %v", tr)
	}
	m := &findingv1.FindingsObserved{RunId: "waste-scan/1", Scope: west, Execution: "1.1", Sequence: 2}
	for i := 200; i < 250; i++ {
		m.Observations = append(m.Observations, volume(west, fmt.Sprintf("vol-%d", i), rulev1.Outcome_OUTCOME_VIOLATION, at(1)))
	}
	observe(t, s, m)
	if h := holds(t, s); len(h) != 0 {
		t.Errorf("a released run is held again: %v", h)
	}
	log, err = s.ListEntries(t.Context(), &systemlogv1.ListEntriesRequest{Filter: `event = "findings_released"`})
	if err != nil || len(log.GetEntries()) != 1 {
		t.Errorf("system log has %v (%v)", log, err)
	}
	for _, run := range []string{"waste-scan/1", "none"} {
		if _, err := s.ReleaseHold(t.Context(), &findingv1.ReleaseHoldRequest{RunId: run, Actor: "ana"}); !errors.Is(err, errs.NotFound) {
			t.Errorf("released what is not held: %v", err)
		}
		if _, err := s.DiscardHold(t.Context(), &findingv1.DiscardHoldRequest{RunId: run, Actor: "ana"}); !errors.Is(err, errs.NotFound) {
			t.Errorf("discarded what is not held: %v", err)
		}
		if _, err := s.ListHeldTransitions(t.Context(), &findingv1.ListHeldTransitionsRequest{RunId: run}); !errors.Is(err, errs.NotFound) {
			t.Errorf("listed what is not held: %v", err)
		}
	}
}

// Services do not stop each other: the first scan of another service finds
// whatever there is.
func TestBrakeIsByService(t *testing.T) {
	t.Parallel()
	s, _ := braked(t)
	security := &scanv1.Scope{Service: "security", Account: here.GetAccount(), Region: here.GetRegion()}
	startRun(t, s, "security-scan/1", security)
	m := &findingv1.FindingsObserved{RunId: "security-scan/1", Scope: security, Execution: "1.1", Sequence: 1}
	for i := range 300 {
		m.Observations = append(m.Observations, violation(fmt.Sprintf("vol-%d", i), at(1), func(o *scanv1.Observation) {
			o.RuleId, o.Category = "ebs-unencrypted", rulev1.Category_CATEGORY_SECURITY
			o.FindingId = idOf(security, o.RuleId, o.Resource.Arn)
		}))
	}
	observe(t, s, m)
	if h := holds(t, s); len(h) != 0 {
		t.Errorf("held: %v", h)
	}
}
