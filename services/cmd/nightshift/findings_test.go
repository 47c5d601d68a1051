package main

import (
	"context"
	"strings"
	"testing"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
)

func (f *fake) BatchUpdateFindings(_ context.Context, r *findingv1.BatchUpdateFindingsRequest) (*findingv1.BatchUpdateFindingsResponse, error) {
	f.got(r)
	resp := &findingv1.BatchUpdateFindingsResponse{}
	for _, ref := range r.GetFindings() {
		result := &findingv1.FindingResult{Id: ref.GetId(), Error: &findingv1.FindingError{Code: 5, Reason: "FINDING_NOT_FOUND", Message: hostile}}
		for _, x := range findingFixtures() {
			if x.GetId() == ref.GetId() {
				result.Finding, result.Error = x, nil
			}
		}
		resp.Results = append(resp.Results, result)
	}
	return resp, nil
}

func (f *fake) SummarizeFindings(_ context.Context, r *findingv1.SummarizeFindingsRequest) (*findingv1.SummarizeFindingsResponse, error) {
	f.got(r)
	t := &findingv1.Totals{Findings: 1234, MonthlyCostLow: 40, MonthlyCostHigh: 60.5, UnknownCosts: 3}
	resp := &findingv1.SummarizeFindingsResponse{Totals: t}
	for _, facet := range r.GetFacets() {
		resp.Facets = append(resp.Facets, &findingv1.FacetCounts{Facet: facet, MoreValues: 7, Values: []*findingv1.FacetValue{{Value: hostile, Totals: t}, {Totals: t}}})
	}
	return resp, nil
}

func (f *fake) ListFindingDays(_ context.Context, r *findingv1.ListFindingDaysRequest) (*findingv1.ListFindingDaysResponse, error) {
	f.got(r)
	return &findingv1.ListFindingDaysResponse{Days: []*findingv1.FindingDay{
		{Date: "2026-08-30"},
		{Date: "2026-08-31", Open: 1234, MonthlyCostLow: 1, MonthlyCostHigh: 2},
		{Date: "2026-09-01", Open: 1233, Resolved: 1, SavedLow: 40, SavedHigh: 60, LostLow: 1, LostHigh: 1},
	}}, nil
}

func (f *fake) ListHolds(context.Context, *findingv1.ListHoldsRequest) (*findingv1.ListHoldsResponse, error) {
	return &findingv1.ListHoldsResponse{Holds: []*findingv1.Hold{{RunId: "waste-scan/1", Service: "waste", Account: "123456789012", Time: at, Opens: 31, FindingsBefore: 40}}}, nil
}

func (f *fake) ListHeldTransitions(context.Context, *findingv1.ListHeldTransitionsRequest) (*findingv1.ListHeldTransitionsResponse, error) {
	return &findingv1.ListHeldTransitionsResponse{Transitions: []*findingv1.HeldTransition{
		{FindingId: strings.Repeat("d4", 16), Kind: findingv1.TransitionKind_TRANSITION_KIND_OPENED, Time: at, ResourceArn: hostile, Reason: hostile}}}, nil
}

func (f *fake) ReleaseHold(_ context.Context, r *findingv1.ReleaseHoldRequest) (*findingv1.ReleaseHoldResponse, error) {
	f.got(r)
	return &findingv1.ReleaseHoldResponse{Released: 30, Outdated: 1}, nil
}

func (f *fake) DiscardHold(_ context.Context, r *findingv1.DiscardHoldRequest) (*findingv1.DiscardHoldResponse, error) {
	f.got(r)
	return &findingv1.DiscardHoldResponse{Discarded: 31}, nil
}

func TestFindingsAreChangedAsTheFlagsSay(t *testing.T) {
	t.Parallel()
	f, env := serve(t, 0)
	a, b := strings.Repeat("a1", 16), strings.Repeat("b2", 16)
	batch := func(args ...string) (*findingv1.BatchUpdateFindingsRequest, result) {
		f.requests = nil
		r := execute(t, env, append([]string{"findings"}, args...)...)
		for _, req := range f.requests {
			if req, ok := req.(*findingv1.BatchUpdateFindingsRequest); ok {
				return req, r
			}
		}
		return nil, r
	}
	req, r := batch("ack", b, strings.ToUpper(a), a, "--note", "known", "--until", "2027-03-31", "--by", "ana")
	if r.code != 0 || len(req.GetFindings()) != 2 || req.GetAcknowledge().GetNote() != "known" || req.GetAcknowledge().GetExpireTime() == nil || req.GetActor() != "ana" || len(req.GetRequestId()) != 32 || !strings.Contains(r.err, "acknowledged: 2 findings") {
		t.Errorf("code %d, asked for %v\n%s", r.code, req, r.err)
	}
	if req, r = batch("ack", a); r.code != 0 || req.GetAcknowledge().GetExpireTime() != nil || req.GetActor() == "" {
		t.Errorf("code %d, asked for %v\n%s", r.code, req, r.err)
	}
	if req, r = batch("unack", "--acknowledged", "yes", "--rule", "x"); r.code != 0 || req.GetUnacknowledge() == nil || len(req.GetFindings()) != 3 {
		t.Errorf("code %d, asked for %v\n%s", r.code, req, r.err)
	}
	if got := f.requests[0].(*findingv1.ListFindingsRequest); got.GetFilter() != `state != "RESOLVED" AND ((rule_id = "x") AND acknowledged = true)` || got.GetReadMask().GetPaths()[0] != "id" {
		t.Errorf("chose by %v", got)
	}
	if req, r = batch("assign", a, "--to", "ops"); r.code != 0 || req.GetAssign().GetAssignee() != "ops" {
		t.Errorf("code %d, asked for %v\n%s", r.code, req, r.err)
	}
	if req, r = batch("assign", a, "--to-nobody"); r.code != 0 || req.GetAssign() == nil || req.GetAssign().GetAssignee() != "" {
		t.Errorf("code %d, asked for %v\n%s", r.code, req, r.err)
	}
	if req, r = batch("comment", a, "-m", "hm"); r.code != 0 || req.GetComment().GetText() != "hm" {
		t.Errorf("code %d, asked for %v\n%s", r.code, req, r.err)
	}
	if _, r = batch("comment", a, strings.Repeat("0", 32), "-m", "hm"); r.code != 1 || !strings.Contains(r.err, "1 finding could not be changed") || !strings.Contains(r.out, "gnp.exe") {
		t.Errorf("code %d: %s\n%s", r.code, r.err, r.out)
	}
	for _, args := range [][]string{
		{"ack"}, {"ack", a, "--rule", "x"}, {"ack", "x"}, {"ack", a, "--until", "soon"}, {"assign", a}, {"assign", a, "--to", "x", "--to-nobody"}, {"comment", a}, {"comment", a, "-m", " "},
		{"list", "--acknowledged", "maybe"}, {"facets", "--by", "colour"}, {"trend", "--since", "9d", "--until", "soon"}, {"release"}, {"discard"},
	} {
		if req, r := batch(args...); r.code != 2 && r.code != 1 || req != nil {
			t.Errorf("%v: code %d, asked for %v", args, r.code, req)
		}
	}
}

func TestFindingsAreSummedAsTheFlagsSay(t *testing.T) {
	t.Parallel()
	f, env := serve(t, 0)
	r := execute(t, env, "findings", "facets", "--by", "owner,STATE", "--top", "5", "--state", "all", "--assignee", "bob", "--acknowledged", "no")
	s := f.requests[0].(*findingv1.SummarizeFindingsRequest)
	if r.code != 0 || len(s.GetFacets()) != 2 || s.GetFacets()[0] != findingv1.Facet_FACET_OWNER || s.GetFacets()[1] != findingv1.Facet_FACET_STATE || s.GetFacetSize() != 5 || s.GetFilter() != `(assignee = "bob") AND acknowledged = false` {
		t.Errorf("code %d, asked for %v\n%s", r.code, s, r.err)
	}
	if r := execute(t, env, "findings", "totals"); r.code != 0 || !strings.Contains(r.out, "$40.00–60.50") || !strings.Contains(r.out, "1,234") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	f.requests = nil
	r = execute(t, env, "findings", "savings", "--since", "2d", "--until", "2026-09-01", "--category", "waste", "--rule", "x")
	d := f.requests[0].(*findingv1.ListFindingDaysRequest)
	if r.code != 0 || d.GetStartDate() != "2026-08-31" || d.GetEndDate() != "2026-09-01" || d.GetFilter() != `(rule_id = "x") AND category = "WASTE"` {
		t.Errorf("code %d, asked for %v\n%s", r.code, d, r.err)
	}
	if strings.Contains(r.out, "2026-08-31") || !strings.Contains(r.out, "$40.00–60.00") || !strings.Contains(r.err, "saved $40.00–60.00 a month") {
		t.Errorf("savings are %s%s", r.out, r.err)
	}
	f.requests = nil
	if r := execute(t, env, "findings", "trend", "--since", "2026-08-31"); r.code != 0 || strings.Contains(r.out, "2026-08-30") || !strings.Contains(r.out, "2026-08-31") || f.requests[0].(*findingv1.ListFindingDaysRequest).GetStartDate() != "2026-08-31" {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
	f.requests = nil
	if r := execute(t, env, "findings", "release", "waste-scan/1", "--account", "1", "--by", "ana"); r.code != 0 || !strings.Contains(r.out, "released 30 transitions") || f.requests[0].(*findingv1.ReleaseHoldRequest).GetActor() != "ana" {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
}

// What comes from outside cannot hurt a terminal, in any format of any command.
func TestFindingCommandsAreClean(t *testing.T) {
	t.Parallel()
	_, env := serve(t, 0)
	id := strings.Repeat("a1", 16)
	for _, args := range [][]string{
		{"facets"}, {"totals"}, {"trend"}, {"savings"}, {"held"}, {"held", "waste-scan/1"}, {"release", "waste-scan/1"}, {"discard", "waste-scan/1"}, {"history", id},
		{"ack", id, strings.Repeat("0", 32)}, {"comment", id, "-m", hostile},
	} {
		for _, format := range formats {
			r := terminal(t.Context(), 80, env, append([]string{"findings", "-o", format}, args...)...)
			if r.code > 1 || r.out == "" {
				t.Errorf("%v -o %s: code %d, %s%s", args, format, r.code, r.out, r.err)
			}
			for _, c := range r.out + r.err {
				if c != '\n' && c != 0x1b && dangerous(c) || c == 0x1b && format != formatTable {
					t.Errorf("%v -o %s: prints %q", args, format, c)
				}
			}
			if strings.Contains(r.out+r.err, "\x1b[31mred") {
				t.Errorf("%v -o %s: obeys", args, format)
			}
		}
	}
}
