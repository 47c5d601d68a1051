package scan

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
)

// thing is a resource that only tests know.
type thing struct {
	inventory.Resource
	State        string
	First, Later rule.Fact[int]
}

// things is a kind that lists n pages of size things each, then fails with
// err if there is one.
func things(pages, size int, err error) inventory.Kind[thing] {
	return inventory.Kind[thing]{
		Type: "AWS::Test::Thing", Actions: []string{"test:DescribeThings"},
		Of: func(t *thing) *inventory.Resource { return &t.Resource },
		List: func(_ context.Context, s *aws.Session, page func([]thing) error) error {
			for p := range pages {
				ts := make([]thing, size)
				for i := range ts {
					id := fmt.Sprintf("t-%d-%d", p, i)
					ts[i] = thing{
						Resource: inventory.Resource{ARN: s.ARN("test", id), ID: id, Type: "AWS::Test::Thing", Account: s.Account, Region: s.Region},
						State:    "loose",
					}
				}
				if err := page(ts); err != nil {
					return err
				}
			}
			return err
		},
	}
}

// aRule is a complete rule on a kind, as a beginning for tests.
func aRule(id string, k inventory.Kind[thing]) Rule[thing] {
	return Rule[thing]{
		Meta: rule.Meta{
			ID: id, Version: 1, Category: rule.Waste, ResourceType: k.Type, Title: "Title", Why: "Why.", Fix: "Fix.", Severity: "Severity.",
			Citations: []string{"https://example.com/"},
			Params:    []rule.Param{{Name: "min_days", Description: "Days.", Unit: "days", Default: 7, Min: 1, Max: 99}},
		},
		Kind:     k,
		Judge:    func(In, thing) rule.Verdict { return violation(1) },
		Examples: []Example[thing]{{Name: "any", Want: Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "1.00"}}},
	}
}

func violation(usd float64) rule.Verdict {
	return rule.Verdict{
		Outcome: rule.Violation, Severity: rule.Low, Reason: "Because.", Cost: rule.Cost{Known: true, Low: usd, High: usd, Basis: "LIST"},
		Evidence: []rule.Evidence{{Name: "why", Value: 1, Source: "test:DescribeThings", Confidence: rule.Observed}},
	}
}

func compliant() rule.Verdict { return rule.Verdict{Outcome: rule.Compliant, Reason: "All is well."} }

func setOf(rules ...Addable) *Set {
	s := NewSet(rule.Waste)
	for _, r := range rules {
		s.Add(r)
	}
	return s
}

var testTime = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// scanSet scans one scope of a set of test rules.
func scanSet(t *testing.T, ctx context.Context, set *Set, o Options, remember func(arn, state string) rule.Sighting, sink Sink) (*scanv1.ScopeResult, error) {
	t.Helper()
	o.At = testTime
	s, err := newScanner(nil, set, o)
	if err != nil {
		t.Fatal(err)
	}
	return s.scan(ctx, Target{Target: aws.Target{Account: "123456789012"}, Region: "us-east-1"}, remember, sink)
}

func TestListingAndFactsAreShared(t *testing.T) {
	t.Parallel()
	var listings, firsts, laters atomic.Int32
	k := things(3, 10, nil)
	list := k.List
	k.List = func(ctx context.Context, s *aws.Session, page func([]thing) error) error {
		listings.Add(1)
		return list(ctx, s, page)
	}
	first := inventory.Fact[thing]{Name: "first", Actions: []string{"test:GetFirst"}, Fill: func(_ context.Context, _ *aws.Session, at time.Time, rs []*thing) error {
		firsts.Add(int32(len(rs)))
		for _, r := range rs {
			r.First = rule.Known(int(r.ID[len(r.ID)-1]-'0'), "test:GetFirst", at)
		}
		return nil
	}}
	later := inventory.Fact[thing]{Name: "later", Actions: []string{"test:GetLater"}, Fill: func(_ context.Context, _ *aws.Session, at time.Time, rs []*thing) error {
		laters.Add(int32(len(rs)))
		for _, r := range rs {
			r.Later = rule.Known(r.First.Value*2, "test:GetLater", at)
		}
		return nil
	}}
	even := func(_ In, t thing) bool { return (t.ID[len(t.ID)-1]-'0')%2 == 0 }
	small := func(_ In, t thing) bool { return t.ID[len(t.ID)-1] < '5' }
	a := aRule("rule-a", k)
	a.Facts = []Need[thing]{{Fact: first, When: even}, {Fact: later, When: func(_ In, t thing) bool { return t.First.Known && t.First.Value >= 6 }}}
	b := aRule("rule-b", k)
	b.Facts = []Need[thing]{{Fact: first, When: small}}
	c := aRule("rule-c", k)
	c.Judge = func(_ In, t thing) rule.Verdict {
		if t.Later.Known && t.Later.Value != t.First.Value*2 {
			t.First = rule.Fact[int]{}
		}
		return compliant()
	}
	set := setOf(a, b, c)
	n := 0
	r, err := scanSet(t, t.Context(), set, Options{}, nil, Sink{Judged: func(*Judgement) error { n++; return nil }})
	if err != nil {
		t.Fatal(err)
	}
	if listings.Load() != 1 {
		t.Errorf("listed %d times for three rules of one kind", listings.Load())
	}
	// 0 2 4 6 8 and 0 1 2 3 4 of each page, then 6 and 8.
	if firsts.Load() != 3*7 || laters.Load() != 3*2 {
		t.Errorf("asked for %d and %d facts, want 21 and 6", firsts.Load(), laters.Load())
	}
	if n != 90 || r.Progress.Verdicts != 90 || r.Progress.Violations != 60 || r.Progress.Resources != 30 {
		t.Errorf("%d verdicts, progress %v", n, r.Progress)
	}
	if got := set.Actions(""); !slices.Equal(got, []string{"test:DescribeThings", "test:GetFirst", "test:GetLater"}) {
		t.Errorf("actions are %v", got)
	}
	if c := r.Coverage[0]; c.Status != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE || c.Pages != 3 || c.Resources != 30 {
		t.Errorf("coverage is %v", c)
	}
}

func TestRuleThatFails(t *testing.T) {
	t.Parallel()
	bad := errors.New("boom")
	only := func(id string) func(thing) bool { return func(t thing) bool { return t.ID == id } }
	hit := only("t-0-3")
	with := func(change func(*Rule[thing])) Rule[thing] {
		r := aRule("rule-bad", things(2, 5, nil))
		change(&r)
		return r
	}
	judge := func(v rule.Verdict) func(*Rule[thing]) {
		return func(r *Rule[thing]) {
			r.Judge = func(_ In, t thing) rule.Verdict {
				if hit(t) {
					return v
				}
				return violation(1)
			}
		}
	}
	change := func(f func(*rule.Verdict)) rule.Verdict { v := violation(1); f(&v); return v }
	for name, r := range map[string]Rule[thing]{
		"panics": with(func(r *Rule[thing]) {
			r.Judge = func(_ In, t thing) rule.Verdict {
				if hit(t) {
					panic(bad)
				}
				return violation(1)
			}
		}),
		"panics in When": with(func(r *Rule[thing]) {
			r.Facts = []Need[thing]{{
				Fact: inventory.Fact[thing]{Name: "f", Fill: func(context.Context, *aws.Session, time.Time, []*thing) error { return nil }},
				When: func(_ In, t thing) bool {
					if hit(t) {
						panic(bad)
					}
					return true
				},
			}}
		}),
		"panics in Follow": with(func(r *Rule[thing]) {
			r.Follow = func(t thing) (string, bool) {
				if hit(t) {
					panic(bad)
				}
				return "", false
			}
		}),
		"panics in Parts": with(func(r *Rule[thing]) {
			r.Parts = func(_ In, t thing) []Part {
				if hit(t) {
					panic(bad)
				}
				return nil
			}
		}),
		"no outcome":               with(judge(rule.Verdict{Reason: "?"})),
		"no reason":                with(judge(rule.Verdict{Outcome: rule.Compliant})),
		"violation, no severity":   with(judge(change(func(v *rule.Verdict) { v.Severity = 0 }))),
		"violation, no evidence":   with(judge(change(func(v *rule.Verdict) { v.Evidence = nil }))),
		"evidence, no source":      with(judge(change(func(v *rule.Verdict) { v.Evidence[0].Source = "" }))),
		"severity, no violation":   with(judge(rule.Verdict{Outcome: rule.Compliant, Reason: "?", Severity: rule.Low})),
		"cost, no violation":       with(judge(rule.Verdict{Outcome: rule.Compliant, Reason: "?", Cost: rule.Cost{Known: true}})),
		"cost upside down":         with(judge(change(func(v *rule.Verdict) { v.Cost.Low = 2 }))),
		"negative cost":            with(judge(change(func(v *rule.Verdict) { v.Cost.Low = -1 }))),
		"decidable, but decided":   with(judge(change(func(v *rule.Verdict) { v.DecidableAt = testTime }))),
		"an outcome out of bounds": with(judge(rule.Verdict{Outcome: 99, Reason: "?"})),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var log bytes.Buffer
			var mu sync.Mutex
			got := map[string]rule.Verdict{}
			res, err := scanSet(t, t.Context(), setOf(r), Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, nil, Sink{Judged: func(j *Judgement) error {
				mu.Lock()
				defer mu.Unlock()
				got[j.Resource.ID] = j.Verdict
				return nil
			}})
			if err != nil {
				t.Fatal(err)
			}
			for id, v := range got {
				want := rule.Violation
				if id == "t-0-3" {
					want = rule.Error
				}
				if v.Outcome != want {
					t.Errorf("%s is %s, want %s", id, v.Outcome, want)
				}
			}
			if len(got) != 10 || res.Tallies[0].Errors != 1 || res.Tallies[0].Violations != 9 {
				t.Errorf("%d verdicts, tally %v", len(got), res.Tallies[0])
			}
			if res.Coverage[0].Status != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE {
				t.Errorf("coverage is %v", res.Coverage[0])
			}
			if !strings.Contains(log.String(), "rule-bad") {
				t.Errorf("the log does not name the rule: %q", log.String())
			}
		})
	}
}

func TestBrokenRuleIsLoggedOnce(t *testing.T) {
	t.Parallel()
	r := aRule("rule-bad", things(3, 50, nil))
	r.Judge = func(In, thing) rule.Verdict { panic("always") }
	var log bytes.Buffer
	if _, err := scanSet(t, t.Context(), setOf(r), Options{Log: slog.New(slog.NewTextHandler(&log, nil))}, nil, Sink{}); err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(log.String(), "level=ERROR"); n != 1 {
		t.Errorf("logged %d times", n)
	}
}

func TestCoverage(t *testing.T) {
	t.Parallel()
	awsErr := func(c aws.Class) error { return &aws.Error{Class: c} }
	for name, c := range map[string]struct {
		pages  int
		err    error
		status scanv1.CoverageStatus
		whole  bool // the scope failed as a whole
	}{
		"complete":                     {2, nil, scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE, false},
		"complete and empty":           {0, nil, scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE, false},
		"denied at once":               {0, awsErr(aws.Denied), scanv1.CoverageStatus_COVERAGE_STATUS_DENIED, true},
		"credentials refused":          {0, awsErr(aws.Credentials), scanv1.CoverageStatus_COVERAGE_STATUS_DENIED, true},
		"region disabled":              {0, awsErr(aws.RegionDisabled), scanv1.CoverageStatus_COVERAGE_STATUS_REGION_DISABLED, true},
		"unreachable":                  {0, awsErr(aws.Unreachable), scanv1.CoverageStatus_COVERAGE_STATUS_FAILED, true},
		"throttled after two pages":    {2, awsErr(aws.Throttled), scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL, false},
		"denied after one page":        {1, awsErr(aws.Denied), scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL, false},
		"an error of nobody's":         {0, errors.New("odd"), scanv1.CoverageStatus_COVERAGE_STATUS_FAILED, true},
		"unreachable after four pages": {4, awsErr(aws.Unreachable), scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n := 0
			r, err := scanSet(t, t.Context(), setOf(aRule("rule-a", things(c.pages, 7, c.err))), Options{}, nil, Sink{Judged: func(*Judgement) error { n++; return nil }})
			got := r.Coverage[0]
			if got.Status != c.status || int(got.Pages) != c.pages || int(got.Resources) != c.pages*7 || n != c.pages*7 {
				t.Errorf("coverage is %v, %d verdicts", got, n)
			}
			if (err != nil) != c.whole || (r.Error != "") != c.whole {
				t.Errorf("the scope's error is %v and %q", err, r.Error)
			}
			if c.err != nil && c.whole && !errors.Is(err, c.err) {
				t.Errorf("the error %v does not hold its cause", err)
			}
		})
	}
}

// otherThings is another kind, so that one can fail and the other not.
func otherThings(err error) Rule[thing] {
	k := things(2, 3, err)
	k.Type = "AWS::Test::Other"
	return aRule("rule-other", k)
}

func TestKindsFailAlone(t *testing.T) {
	t.Parallel()
	broken := things(0, 0, nil)
	broken.List = func(context.Context, *aws.Session, func([]thing) error) error { panic("listing") }
	r, err := scanSet(t, t.Context(), setOf(aRule("rule-a", broken), otherThings(nil)), Options{}, nil, Sink{})
	if err != nil {
		t.Fatal(err)
	}
	if c := r.Coverage[0]; c.Status != scanv1.CoverageStatus_COVERAGE_STATUS_FAILED || !strings.Contains(c.Error, "internal error") {
		t.Errorf("coverage of the broken kind is %v", c)
	}
	if c := r.Coverage[1]; c.Status != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE || c.Resources != 6 {
		t.Errorf("coverage of the other kind is %v", c)
	}
	if r.Error != "" {
		t.Errorf("the scope as a whole says %q", r.Error)
	}
}

func TestFactPanicLosesNothingInSilence(t *testing.T) {
	t.Parallel()
	r := aRule("rule-a", things(2, 3, nil))
	r.Facts = []Need[thing]{{Fact: inventory.Fact[thing]{Name: "f", Fill: func(context.Context, *aws.Session, time.Time, []*thing) error { panic("fact") }}}}
	got, err := scanSet(t, t.Context(), setOf(r), Options{}, nil, Sink{})
	if err == nil || got.Coverage[0].Status != scanv1.CoverageStatus_COVERAGE_STATUS_FAILED || got.Coverage[0].Resources != 0 {
		t.Errorf("error %v, coverage %v", err, got.Coverage[0])
	}
}

func TestCancelled(t *testing.T) {
	t.Parallel()
	limit := errs.New(errs.DeadlineExceeded, "TIME_LIMIT", "not done within the 1m0s allowed")
	ctx, cancel := context.WithCancelCause(t.Context())
	k := things(2, 3, nil)
	list := k.List
	k.List = func(ctx context.Context, s *aws.Session, page func([]thing) error) error {
		if err := list(ctx, s, page); err != nil {
			return err
		}
		cancel(limit)
		<-ctx.Done()
		return context.Cause(ctx)
	}
	r, _ := scanSet(t, ctx, setOf(aRule("rule-a", k)), Options{}, nil, Sink{})
	c := r.Coverage[0]
	if c.Status == scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE || !strings.Contains(c.Error, "1m0s") {
		t.Errorf("coverage is %v", c)
	}
}

func TestSinkErrorEndsTheScan(t *testing.T) {
	t.Parallel()
	full := errors.New("disk full")
	endless := things(0, 0, nil)
	endless.List = func(_ context.Context, _ *aws.Session, page func([]thing) error) error {
		for {
			if err := page(make([]thing, 1)); err != nil {
				return err
			}
		}
	}
	_, err := scanSet(t, t.Context(), setOf(aRule("rule-a", endless), otherThings(nil)), Options{}, nil, Sink{Judged: func(*Judgement) error { return full }})
	if !errors.Is(err, full) {
		t.Errorf("error is %v", err)
	}
	err = Run(t.Context(), nil, []Target{{Region: "us-east-1"}, {Region: "us-east-2"}}, setOf(aRule("rule-a", endless)), Options{}, Sink{Judged: func(*Judgement) error { return full }})
	if !errors.Is(err, full) {
		t.Errorf("error of Run is %v", err)
	}
}

// However long a listing is, only few pages are held.
func TestPagesInFlightAreBounded(t *testing.T) {
	t.Parallel()
	var held, most, handed atomic.Int32
	k := things(0, 0, nil)
	k.List = func(_ context.Context, _ *aws.Session, page func([]thing) error) error {
		for range 200 {
			n := held.Add(1)
			for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
			}
			if err := page(make([]thing, 10)); err != nil {
				return err
			}
			handed.Add(1)
		}
		return nil
	}
	r := aRule("rule-a", k)
	if _, err := scanSet(t, t.Context(), setOf(r), Options{}, nil, Sink{Progress: func(*scanv1.Scope, *scanv1.Progress) { held.Add(-1) }}); err != nil {
		t.Fatal(err)
	}
	// One more is in the lister's hands.
	if most.Load() > pagesInFlight+1 || handed.Load() != 200 {
		t.Errorf("%d pages were held at once, want at most %d; %d handed over", most.Load(), pagesInFlight+1, handed.Load())
	}
}

func TestSightings(t *testing.T) {
	t.Parallel()
	k := things(1, 3, nil)
	follows := aRule("rule-follows", k)
	follows.Follow = func(t thing) (string, bool) { return t.State, t.ID != "t-0-1" }
	follows.Judge = func(in In, t thing) rule.Verdict {
		v := violation(0)
		v.Since = in.Sighting.FirstSeen
		return v
	}
	same := aRule("rule-same", k)
	same.Follow = follows.Follow
	other := aRule("rule-other", k)
	seen := testTime.Add(-time.Hour)
	remember := func(arn, state string) rule.Sighting {
		if strings.HasSuffix(arn, "t-0-2") && state == "loose" {
			return rule.Sighting{FirstSeen: seen}
		}
		return rule.Sighting{}
	}
	var sighted []string
	since := map[string]time.Time{}
	sink := Sink{
		Judged: func(j *Judgement) error {
			if j.Rule.ID == "rule-follows" {
				since[j.Resource.ID] = j.Verdict.Since
			}
			return nil
		},
		Sighted: func(s *scanv1.Sighting) error {
			sighted = append(sighted, s.Arn+" "+s.State+" "+s.ResourceType)
			return nil
		},
	}
	set := setOf(follows, same, other)
	if _, err := scanSet(t, t.Context(), set, Options{}, remember, sink); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"arn:aws:test:us-east-1:123456789012:t-0-0 loose AWS::Test::Thing",
		"arn:aws:test:us-east-1:123456789012:t-0-2 loose AWS::Test::Thing",
	}
	if !slices.Equal(sighted, want) {
		t.Errorf("sighted %v", sighted)
	}
	if !since["t-0-2"].Equal(seen) || !since["t-0-0"].IsZero() {
		t.Errorf("since is %v", since)
	}
	// What is remembered must not depend on which rules a run chose.
	sighted = nil
	if _, err := scanSet(t, t.Context(), set, Options{Rules: []string{"rule-other"}}, remember, sink); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(sighted, want) {
		t.Errorf("with another rule alone sighted %v", sighted)
	}
}

// The total counts no resource twice, and does not depend on the order of
// verdicts.
func TestMoneyIsCountedOnce(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		type say struct {
			arn string
			usd float64
		}
		says := rapid.SliceOf(rapid.Custom(func(t *rapid.T) say {
			return say{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "arn"), float64(rapid.IntRange(0, 1000).Draw(t, "usd"))}
		})).Draw(t, "says")
		total := func(says []say) (sum float64) {
			s := &scope{tallies: map[string]*scanv1.Tally{"r": {}}, progress: &scanv1.Progress{}, counted: map[uint64]float64{}}
			last := 0.0
			for _, x := range says {
				cost := rule.Cost{Known: true, High: x.usd}
				s.count(&Judgement{Rule: &rule.Meta{ID: "r"}, Verdict: rule.Verdict{Outcome: rule.Violation, Cost: cost}}, []Part{{ARN: x.arn, Cost: cost}, {ARN: "unknown"}})
				if s.progress.MonthlyCost < last {
					t.Fatal("the total fell")
				}
				last = s.progress.MonthlyCost
			}
			return last
		}
		most := map[string]float64{}
		for _, x := range says {
			most[x.arn] = max(most[x.arn], x.usd)
		}
		want := most["a"] + most["b"] + most["c"]
		if got := total(says); got != want {
			t.Fatalf("total is %v, want %v", got, want)
		}
		slices.Reverse(says)
		if got := total(says); got != want {
			t.Fatalf("the other way round the total is %v, want %v", got, want)
		}
	})
}

func TestRunRefusesUnknownRules(t *testing.T) {
	t.Parallel()
	err := Run(t.Context(), nil, nil, setOf(aRule("rule-a", things(0, 0, nil))), Options{Rules: []string{"rule-a", "rule-z"}}, Sink{})
	if err == nil || !strings.Contains(err.Error(), `"rule-z"`) || !strings.Contains(err.Error(), "rule-a") {
		t.Errorf("error is %v", err)
	}
}

func TestScopesFailAlone(t *testing.T) {
	t.Parallel()
	k := things(1, 2, nil)
	list := k.List
	k.List = func(ctx context.Context, s *aws.Session, page func([]thing) error) error {
		if s.Region == "us-east-2" {
			return &aws.Error{Class: aws.RegionDisabled}
		}
		return list(ctx, s, page)
	}
	got := map[string]string{}
	err := Run(t.Context(), nil, []Target{{Region: "us-east-1"}, {Region: "us-east-2"}, {Region: "us-west-2"}}, setOf(aRule("rule-a", k)), Options{}, Sink{
		Finished: func(r *scanv1.ScopeResult) { got[r.Scope.Region] = r.Coverage[0].Status.String() },
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != 3 || got["us-east-2"] != "COVERAGE_STATUS_REGION_DISABLED" || got["us-west-2"] != "COVERAGE_STATUS_COMPLETE" {
		t.Errorf("coverage is %v", got)
	}
}

// What is held does not grow with what is scanned: 400 MB of resources pass
// through a few pages. It is not parallel, for other tests' memory would count.
func TestMemoryIsBounded(t *testing.T) { //nolint:paralleltest // measures the heap
	const pages, size, each = 400, 500, 2 << 10
	k := things(0, 0, nil)
	k.List = func(_ context.Context, s *aws.Session, page func([]thing) error) error {
		for p := range pages {
			ts := make([]thing, size)
			for i := range ts {
				ts[i].ARN = fmt.Sprintf("%s-%d-%d", s.ARN("test", "t"), p, i)
				ts[i].Tags = map[string]string{"Name": string(make([]byte, each))}
			}
			if err := page(ts); err != nil {
				return err
			}
		}
		return nil
	}
	r := aRule("rule-a", k)
	r.Judge = func(In, thing) rule.Verdict { return compliant() }
	var before, now runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var most uint64
	n := 0
	_, err := scanSet(t, t.Context(), setOf(r), Options{}, nil, Sink{Progress: func(*scanv1.Scope, *scanv1.Progress) {
		if n++; n%40 == 0 {
			runtime.GC()
			runtime.ReadMemStats(&now)
			most = max(most, now.HeapAlloc)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	// A page is 1 MB; a few are in flight, and garbage is made while counting.
	if grown := (int64(most) - int64(before.HeapAlloc)) >> 20; grown > 4*(pagesInFlight+1) {
		t.Errorf("the heap grew by %d MB", grown)
	}
}

// BenchmarkScan is the engine alone: no AWS, one rule, nothing in violation.
func BenchmarkScan(b *testing.B) {
	r := aRule("rule-a", things(200, 500, nil))
	r.Judge = func(In, thing) rule.Verdict { return compliant() }
	set := setOf(r)
	s, err := newScanner(nil, set, Options{At: testTime})
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.scan(b.Context(), Target{Region: "us-east-1"}, nil, Sink{}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)*100_000/b.Elapsed().Seconds(), "resources/s")
}
