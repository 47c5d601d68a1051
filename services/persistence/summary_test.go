package persistence

import (
	"fmt"
	"math"
	"testing"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
)

var allFacets = []findingv1.Facet{
	findingv1.Facet_FACET_STATE, findingv1.Facet_FACET_SEVERITY, findingv1.Facet_FACET_RULE, findingv1.Facet_FACET_ACCOUNT,
	findingv1.Facet_FACET_REGION, findingv1.Facet_FACET_OWNER, findingv1.Facet_FACET_CATEGORY,
}

// Sums answer as the findings do, and findings are counted as they are listed.
func TestSummaries(t *testing.T) {
	t.Parallel()
	s := estate(t)
	update(t, s, acknowledge(nil, "vol-05", "vol-06"))
	update(t, s, assign("bob", "vol-07"))
	for _, filter := range []string{
		"", `state = "OPEN"`, `severity >= "HIGH"`, `owner = "bob"`, `owner = ""`, `acknowledged = true`, `NOT acknowledged = true`, `rule_id = "x"`, `category = "WASTE" AND state != "RESOLVED"`,
		`account = "111122223333" AND region:"eu"`, `monthly_cost > 5`, `last_seen > "2026-01-01T00:30:00Z"`, `tags.Owner = "ops"`, `resource_id:"1"`, `monthly_cost_low < 2`, `reopen_count = 0`, `assignee:*`, `orphan_time:*`, `NOT orphan_time > "2000-01-01T00:00:00Z"`, `last_run_id = "waste-scan/1" OR orphan_time:*`,
	} {
		var want findingv1.Totals
		facets := map[string]int64{}
		resp, err := s.ListFindings(t.Context(), &findingv1.ListFindingsRequest{Filter: filter, PageSize: 1000})
		if err != nil {
			t.Fatalf("%s: %v", filter, err)
		}
		for _, f := range resp.GetFindings() {
			want.Findings++
			want.MonthlyCostLow += f.GetMonthlyCost().GetLow()
			want.MonthlyCostHigh += f.GetMonthlyCost().GetHigh()
			if f.GetMonthlyCost() == nil && f.GetCategory() == rulev1.Category_CATEGORY_WASTE {
				want.UnknownCosts++
			}
			for _, facet := range allFacets {
				value := map[findingv1.Facet]string{
					findingv1.Facet_FACET_STATE: f.GetState().String()[len("STATE_"):], findingv1.Facet_FACET_SEVERITY: f.GetSeverity().String()[len("SEVERITY_"):],
					findingv1.Facet_FACET_RULE: f.GetRuleId(), findingv1.Facet_FACET_ACCOUNT: f.GetResource().GetAccount(), findingv1.Facet_FACET_REGION: f.GetResource().GetRegion(),
					findingv1.Facet_FACET_OWNER: f.GetOwner(), findingv1.Facet_FACET_CATEGORY: f.GetCategory().String()[len("CATEGORY_"):],
				}[facet]
				facets[facet.String()+" "+value]++
			}
		}
		// Whatever the filter, once by the sums if they can and once by the findings.
		for _, f := range []string{filter, "(" + filter + `) AND id >= ""`} {
			if filter == "" && f != "" {
				f = `id >= ""`
			}
			got, err := s.SummarizeFindings(t.Context(), &findingv1.SummarizeFindingsRequest{Filter: f, Facets: allFacets})
			if err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			g := got.GetTotals()
			if g.GetFindings() != want.Findings || g.GetUnknownCosts() != want.UnknownCosts || math.Abs(g.GetMonthlyCostLow()-want.MonthlyCostLow) > 1e-6 || math.Abs(g.GetMonthlyCostHigh()-want.MonthlyCostHigh) > 1e-6 {
				t.Errorf("%s: totals %v, want %v", f, g, &want)
			}
			n := 0
			for i, c := range got.GetFacets() {
				if c.GetFacet() != allFacets[i] || c.GetMoreValues() != 0 {
					t.Errorf("%s: facet %d is %v", f, i, c)
				}
				for k, v := range c.GetValues() {
					n++
					if v.GetTotals().GetFindings() != facets[c.GetFacet().String()+" "+v.GetValue()] {
						t.Errorf("%s: %s of %s is %v", f, v.GetValue(), c.GetFacet(), v.GetTotals())
					}
					if k > 0 && v.GetTotals().GetFindings() > c.GetValues()[k-1].GetTotals().GetFindings() {
						t.Errorf("%s: %s is out of order", f, c)
					}
				}
			}
			if n != len(facets) {
				t.Errorf("%s: %d values, want %d", f, n, len(facets))
			}
		}
	}
	got, err := s.SummarizeFindings(t.Context(), &findingv1.SummarizeFindingsRequest{Facets: []findingv1.Facet{findingv1.Facet_FACET_SEVERITY}, FacetSize: 2})
	if c := got.GetFacets()[0]; err != nil || len(c.GetValues()) != 2 || c.GetMoreValues() != 3 {
		t.Errorf("facet of two values: %v (%v)", got, err)
	}
	empty, err := service(t).SummarizeFindings(t.Context(), &findingv1.SummarizeFindingsRequest{Facets: allFacets})
	if err != nil || empty.GetTotals() == nil || empty.GetTotals().GetFindings() != 0 || len(empty.GetFacets()) != len(allFacets) {
		t.Errorf("nothing is %v (%v)", empty, err)
	}
}

func TestDays(t *testing.T) {
	t.Parallel()
	const (
		bad  = rulev1.Outcome_OUTCOME_VIOLATION
		good = rulev1.Outcome_OUTCOME_COMPLIANT
	)
	s, clk := clocked(t)
	cost := func(low, high float64) func(*scanv1.Observation) {
		return func(o *scanv1.Observation) { o.Verdict.MonthlyCost = &rulev1.MonthlyCost{Low: low, High: high} }
	}
	unpriced := func(o *scanv1.Observation) { o.Verdict.MonthlyCost = nil }
	saw := func(day int, o ...*scanv1.Observation) {
		clk.set(at(24 * day))
		scanOnce(t, s, 24*day, complete, o...)
	}
	v := func(day int, name string, outcome rulev1.Outcome, set ...func(*scanv1.Observation)) *scanv1.Observation {
		return volume(here, name, outcome, at(24*day), set...)
	}
	saw(0, v(0, "a", bad, cost(10, 20)), v(0, "b", bad, cost(1, 1.5)), v(0, "c", bad, unpriced))
	saw(2, v(2, "a", bad, cost(30, 40)), v(2, "b", good), v(2, "c", bad, unpriced))
	saw(3, v(3, "a", good), v(3, "b", bad, cost(2, 2)), v(3, "c", good))
	accept(t, s, `resource_id = "b"`, 24*90)
	clk.set(at(24 * 5))
	resp, err := s.ListFindingDays(t.Context(), &findingv1.ListFindingDaysRequest{StartDate: "2025-12-31"})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"2025-12-31 0 0-0 +0 ~0 -0 x0 saved 0-0,0 lost 0-0",
		"2026-01-01 3 11-21.5 +3 ~0 -0 x0 saved 0-0,0 lost 0-0",
		"2026-01-02 3 11-21.5 +0 ~0 -0 x0 saved 0-0,0 lost 0-0",
		"2026-01-03 2 30-40 +0 ~0 -1 x0 saved 1-1.5,0 lost 0-0",
		"2026-01-04 0 0-0 +0 ~1 -2 x1 saved 30-40,1 lost 2-2",
		"2026-01-05 0 0-0 +0 ~0 -0 x0 saved 0-0,0 lost 0-0",
		"2026-01-06 0 0-0 +0 ~0 -0 x0 saved 0-0,0 lost 0-0",
	}
	for i, d := range resp.GetDays() {
		got := fmt.Sprintf("%s %d %v-%v +%d ~%d -%d x%d saved %v-%v,%d lost %v-%v", d.GetDate(), d.GetOpen(), d.GetMonthlyCostLow(), d.GetMonthlyCostHigh(), d.GetOpened(), d.GetReopened(), d.GetResolved(), d.GetExempted(),
			d.GetSavedLow(), d.GetSavedHigh(), d.GetSavedUnknown(), d.GetLostLow(), d.GetLostHigh())
		if i >= len(want) || got != want[i] {
			t.Errorf("day %d is %s, want %s", i, got, want[min(i, len(want)-1)])
		}
	}
	// What was before counts, whatever day is asked for.
	resp, err = s.ListFindingDays(t.Context(), &findingv1.ListFindingDaysRequest{StartDate: "2026-01-02", EndDate: "2026-01-02", Filter: `rule_id = "ebs-unattached" AND category = "WASTE"`})
	if err != nil || len(resp.GetDays()) != 1 || resp.GetDays()[0].GetOpen() != 3 {
		t.Errorf("%v (%v)", resp, err)
	}
	if resp, err = s.ListFindingDays(t.Context(), &findingv1.ListFindingDaysRequest{}); err != nil || len(resp.GetDays()) != 30 {
		t.Errorf("%d days, want 30 (%v)", len(resp.GetDays()), err)
	}
}
