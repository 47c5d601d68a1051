package persistence

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// Every finding comes once, in order, whatever the order, the size of pages
// and what is added meanwhile.
func TestPaging(t *testing.T) {
	t.Parallel()
	s := estate(t)
	before, err := found(t, s, "")
	if err != nil {
		t.Fatal(err)
	}
	added := 0
	rapid.Check(t, func(rt *rapid.T) {
		terms := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"severity", "monthly_cost", "first_seen", "last_seen", "resolve_time", "rule_id", "account", "region", "state", "id"}), 0, 3, rapid.ID[string]).Draw(rt, "terms")
		for i := range terms {
			terms[i] += rapid.SampledFrom([]string{"", " asc", " desc"}).Draw(rt, "direction")
		}
		req := &findingv1.ListFindingsRequest{OrderBy: strings.Join(terms, ", "), PageSize: int32(rapid.IntRange(3, 40).Draw(rt, "size"))}
		if rapid.Bool().Draw(rt, "filtered") {
			req.Filter = `account = "111122223333"`
		}
		var all []*findingv1.Finding
		adds := rapid.IntRange(0, 3).Draw(rt, "adds")
		for {
			resp, err := s.ListFindings(t.Context(), req)
			if err != nil {
				rt.Fatal(err)
			}
			all = append(all, resp.GetFindings()...)
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				break
			}
			if len(resp.GetFindings()) != int(req.GetPageSize()) {
				rt.Fatalf("a page of %d, want %d", len(resp.GetFindings()), req.GetPageSize())
			}
			if adds--; adds == 0 {
				added++
				scanOnce(t, s, 100+added, partial, volume(here, fmt.Sprintf("new-%d", added), rulev1.Outcome_OUTCOME_VIOLATION, at(rapid.IntRange(-5, 5).Draw(rt, "when")), func(o *scanv1.Observation) {
					o.Verdict.Severity = rulev1.Severity(rapid.IntRange(1, 5).Draw(rt, "severity"))
					o.Verdict.MonthlyCost.High = rapid.Float64Range(0, 40).Draw(rt, "cost")
				}))
			}
		}
		seen := map[string]bool{}
		for _, f := range all {
			if seen[f.GetId()] {
				rt.Errorf("%s twice", f.GetId())
			}
			seen[f.GetId()] = true
		}
		for _, id := range before {
			if !seen[id] {
				rt.Errorf("%s missing", id)
			}
		}
		if !slices.IsSortedFunc(all, byOrder(req.GetOrderBy())) {
			rt.Errorf("not in the order %q", req.GetOrderBy())
		}
	})
}

// byOrder compares findings as order_by says, unknown costs last, and what is not
// resolved before what ever was.
func byOrder(orderBy string) func(a, b *findingv1.Finding) int {
	if orderBy == "" {
		orderBy = "first_seen desc"
	}
	return func(a, b *findingv1.Finding) int {
		for part := range strings.SplitSeq(orderBy, ",") {
			words := strings.Fields(part)
			c := 0
			value := func(f *findingv1.Finding) any {
				if words[0] == "resolve_time" {
					return f.GetResolveTime().GetSeconds()
				}
				return valueOf(f, words[0])
			}
			switch x := value(a).(type) {
			case nil:
				c = 1
				if value(b) == nil {
					continue
				}
				return c
			case int64:
				c = cmp.Compare(x, value(b).(int64))
			case float64:
				y, ok := value(b).(float64)
				if !ok {
					return -1
				}
				c = int(math.Copysign(math.Ceil(math.Abs(x-y)), x-y))
			default:
				c = strings.Compare(fmt.Sprint(x), fmt.Sprint(value(b)))
			}
			if len(words) > 1 && words[1] == "desc" {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return 0
	}
}

func TestBadPages(t *testing.T) {
	t.Parallel()
	s := estate(t)
	ctx := t.Context()
	first, err := s.ListFindings(ctx, &findingv1.ListFindingsRequest{PageSize: 5, Filter: "severity > INFO"})
	if err != nil {
		t.Fatal(err)
	}
	for name, req := range map[string]*findingv1.ListFindingsRequest{
		"another filter": {PageToken: first.GetNextPageToken(), Filter: "severity > LOW"},
		"another order":  {PageToken: first.GetNextPageToken(), Filter: "severity > INFO", OrderBy: "id"},
		"no token":       {PageToken: "x"},
		"wrong place":    {PageToken: page.Token([]string{"x"}, "findings", "", "")},
		"no place":       {PageToken: page.Token([]string{}, "findings", "", "")},
		"no time":        {PageToken: page.Token([]string{"9223372036854775807", "x"}, "findings", "", "")},
		"no number":      {PageToken: page.Token([]string{"NaN", "x"}, "findings", "", "monthly_cost"), OrderBy: "monthly_cost"},
		"no text":        {PageToken: page.Token([]string{"a\x00"}, "findings", "", "id"), OrderBy: "id"},
	} {
		_, err := s.ListFindings(ctx, req)
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != "page_token" {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, order := range []string{"colour", "id up", "id desc desc", "id,,severity", "severity, severity desc"} {
		_, err := s.ListFindings(ctx, &findingv1.ListFindingsRequest{OrderBy: order})
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != "order_by" {
			t.Errorf("%s: %v", order, err)
		}
	}
}

// A page never grows beyond what a client takes.
func TestPagesAreBoundedInBytes(t *testing.T) {
	t.Parallel()
	s := service(t)
	const n = 40
	var observations []*scanv1.Observation
	for i := range n {
		observations = append(observations, violation(fmt.Sprintf("vol-%d", i), at(0), func(o *scanv1.Observation) {
			o.Resource.Tags["big"] = strings.Repeat("x", 200_000)
		}))
	}
	scanOnce(t, s, 0, complete, observations...)
	req, total := &findingv1.ListFindingsRequest{PageSize: 1000}, 0
	for {
		resp, err := s.ListFindings(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		total += len(resp.GetFindings())
		if len(resp.GetFindings()) > 15 {
			t.Errorf("a page of %d findings of 200 kB", len(resp.GetFindings()))
		}
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if total != n {
		t.Errorf("%d findings, want %d", total, n)
	}
}

func TestTransitionsInPages(t *testing.T) {
	t.Parallel()
	s := service(t)
	id := violation("vol-1", at(0)).GetFindingId()
	for n := range 7 {
		scanOnce(t, s, n, complete, volume(here, "vol-1", rulev1.Outcome(n%2+1), at(n)))
	}
	req := &findingv1.ListTransitionsRequest{FindingId: id, PageSize: 3}
	var steps []*findingv1.Transition
	for {
		resp, err := s.ListTransitions(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		steps = append(steps, resp.GetTransitions()...)
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if len(steps) != 7 {
		t.Fatalf("%d transitions, want 7", len(steps))
	}
	for i := 1; i < len(steps); i++ {
		if a, b := steps[i-1], steps[i]; a.GetToState() != b.GetFromState() || !a.GetTime().AsTime().Before(b.GetTime().AsTime()) {
			t.Errorf("%v is followed by %v", a, b)
		}
	}
	if _, err := s.ListTransitions(t.Context(), &findingv1.ListTransitionsRequest{FindingId: strings.Repeat("0", 32)}); !errors.Is(err, errs.NotFound) {
		t.Errorf("transitions of no finding: %v", err)
	}
}
