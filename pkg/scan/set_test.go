package scan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
)

func TestAddRefusesWhatIsNotComplete(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Rule[thing]){
		"id":               func(r *Rule[thing]) { r.ID = "Rule_A" },
		"version":          func(r *Rule[thing]) { r.Version = 0 },
		"category":         func(r *Rule[thing]) { r.Category = rule.Security },
		"resource type":    func(r *Rule[thing]) { r.ResourceType = "AWS::EC2::Volume" },
		"title":            func(r *Rule[thing]) { r.Title = "With a full stop." },
		"why":              func(r *Rule[thing]) { r.Why = "" },
		"fix":              func(r *Rule[thing]) { r.Fix = "" },
		"severity":         func(r *Rule[thing]) { r.Severity = "" },
		"citation":         func(r *Rule[thing]) { r.Citations = nil },
		"http citation":    func(r *Rule[thing]) { r.Citations = []string{"http://example.com"} },
		"parameter name":   func(r *Rule[thing]) { r.Params[0].Name = "minDays" },
		"parameter twice":  func(r *Rule[thing]) { r.Params = append(r.Params, r.Params[0]) },
		"parameter type":   func(r *Rule[thing]) { r.Params[0].Default = int64(7) },
		"parameter bounds": func(r *Rule[thing]) { r.Params[0].Default = 1000 },
		"parameter text":   func(r *Rule[thing]) { r.Params[0].Description = "" },
		"judge":            func(r *Rule[thing]) { r.Judge = nil },
		"list":             func(r *Rule[thing]) { r.Kind.List = nil },
		"examples":         func(r *Rule[thing]) { r.Examples = nil },
		"fact":             func(r *Rule[thing]) { r.Facts = []Need[thing]{{Fact: inventory.Fact[thing]{Name: "f"}}} },
		"same id":          func(r *Rule[thing]) { r.ID = "rule-first" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := setOf(aRule("rule-first", things(0, 0, nil)))
			r := aRule("rule-second", things(0, 0, nil))
			change(&r)
			defer func() {
				if recover() == nil {
					t.Error("it was added")
				}
			}()
			set.Add(r)
		})
	}
	type alien struct{ inventory.Resource }
	defer func() {
		if recover() == nil {
			t.Error("a rule that judges the type as another Go type was added")
		}
	}()
	set := setOf(aRule("rule-first", things(0, 0, nil)))
	r := aRule("rule-alien", things(0, 0, nil))
	set.Add(Rule[alien]{
		Meta: r.Meta, Kind: inventory.Kind[alien]{Type: r.Kind.Type, Of: func(a *alien) *inventory.Resource { return &a.Resource }},
		Judge: func(In, alien) rule.Verdict { return compliant() }, Examples: []Example[alien]{{}},
	})
}

func TestExamplesAreJudged(t *testing.T) {
	t.Parallel()
	r := aRule("rule-a", things(0, 0, nil))
	n := 0
	r.Judge = func(in In, t thing) rule.Verdict {
		switch t.ID {
		case "impure":
			n++
			v := violation(float64(n))
			return v
		case "params":
			return violation(float64(in.Params.Int("min_days")))
		case "panics":
			panic("example")
		}
		return violation(1)
	}
	named := func(id string) thing { return thing{Resource: inventory.Resource{ID: id}} }
	want := func(cost string) Want { return Want{Outcome: rule.Violation, Severity: rule.Low, Cost: cost} }
	r.Examples = []Example[thing]{
		{Name: "good", Want: want("1.00")},
		{Name: "wrong outcome", Want: Want{Outcome: rule.Compliant}},
		{Name: "wrong cost", Want: want("2.00")},
		{Name: "impure", Resource: named("impure"), Want: want("1.00")},
		{Name: "parameters", Resource: named("params"), Params: map[string]string{"min_days": "9"}, Want: want("9.00")},
		{Name: "bad parameters", Params: map[string]string{"max_days": "9"}, Want: want("1.00")},
		{Name: "panics", Resource: named("panics"), Want: Want{Outcome: rule.Error}},
		{Name: "says", Want: Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "1.00", Says: []string{"nothing of the kind"}}},
	}
	var good []string
	for _, x := range setOf(r).Examples("rule-a") {
		if x.Err == nil {
			good = append(good, x.Name)
		}
	}
	if !slices.Equal(good, []string{"good", "parameters"}) {
		t.Errorf("right are %v", good)
	}
}

func TestSettings(t *testing.T) {
	t.Parallel()
	list := aRule("rule-list", things(0, 0, nil))
	list.Params = append(list.Params, rule.Param{Name: "keys", Description: "Keys.", Default: []string{"a"}})
	set := setOf(aRule("rule-a", things(0, 0, nil)), list)
	const account, other = "123456789012", "210987654321"

	s, err := set.Settings(" rule-a.min_days = 45, 123456789012/rule-a.min_days=60 ,rule-list.keys=Owner, Cost Center,Environment,123456789012/rule-list.min_days=9")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		account, rule string
		days          int
	}{{"", "rule-a", 45}, {other, "rule-a", 45}, {account, "rule-a", 60}, {account, "rule-list", 9}, {other, "rule-list", 7}} {
		if got := s.For(c.account, c.rule).Int("min_days"); got != c.days {
			t.Errorf("%s in account %q: min_days is %d, want %d", c.rule, c.account, got, c.days)
		}
		// And so says the API.
		resp, err := (&Worker{set: set, settings: s}).GetRule(t.Context(), &rulev1.GetRuleRequest{Id: c.rule, Account: c.account})
		if got := resp.GetRule().GetParameters()[0].GetValue().GetNumberValue(); err != nil || got != float64(c.days) {
			t.Errorf("%s in account %q: the API says %g, want %d (%v)", c.rule, c.account, got, c.days, err)
		}
	}
	for _, a := range []string{account, other} {
		if got := s.For(a, "rule-list").List("keys"); !slices.Equal(got, []string{"Owner", "Cost Center", "Environment"}) {
			t.Errorf("keys in account %s are %q", a, got)
		}
	}

	for text, says := range map[string][]string{
		"rule-z.min_days=4":                      {"rule-z", "rule-a", "rule-list"},
		"rule-a.max_days=4":                      {"max_days", "min_days"},
		"rule-a.min_days=x":                      {"min_days", "an integer"},
		"rule-a.min_days=100":                    {"min_days", "1 to 99"},
		"123456789012/rule-a.min_days=0":         {"123456789012/rule-a", "1 to 99"},
		"min_days=4":                             {"min_days=4", "ec2-stopped.min_days=45"},
		"1234/rule-a.min_days=4":                 {"1234/rule-a.min_days=4"},
		"rule-a.min_days=4,rule-a.min_days=5":    {"twice"},
		"rule-a.min_days=4,5":                    {"an integer"},
		"rule-z.a=1,rule-a.min_days=x":           {"rule-z", "an integer"},
		"210987654321/rule-z.a=1":                {"rule-z"},
		"rule-a.min_days=4;rule-list.min_days=5": {"an integer"},
	} {
		_, err := set.Settings(text)
		if err == nil {
			t.Errorf("%q was taken", text)
			continue
		}
		for _, want := range says {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%q: the error %q does not say %q", text, err, want)
			}
		}
	}
}

func TestSettingsRoundTrip(t *testing.T) {
	t.Parallel()
	set := setOf(aRule("rule-a", things(0, 0, nil)), aRule("rule-b", things(0, 0, nil)))
	rapid.Check(t, func(t *rapid.T) {
		a, b, c := rapid.IntRange(1, 99).Draw(t, "a"), rapid.IntRange(1, 99).Draw(t, "b"), rapid.IntRange(1, 99).Draw(t, "c")
		parts := rapid.Permutation([]string{
			fmt.Sprintf("rule-a.min_days=%d", a), fmt.Sprintf("rule-b.min_days=%d", b), fmt.Sprintf("123456789012/rule-b.min_days=%d", c),
		}).Draw(t, "parts")
		s, err := set.Settings(strings.Join(parts, ","))
		if err != nil {
			t.Fatal(err)
		}
		if s.For("123456789012", "rule-a").Int("min_days") != a || s.For("", "rule-b").Int("min_days") != b || s.For("123456789012", "rule-b").Int("min_days") != c {
			t.Fatal("the order of settings matters")
		}
	})
}

func FuzzSettings(f *testing.F) {
	set := setOf(aRule("rule-a", things(0, 0, nil)))
	f.Add("rule-a.min_days=4")
	f.Add("123456789012/rule-a.min_days=4,,=,rule-a.min_days")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := set.Settings(text)
		if err != nil {
			return
		}
		if d := s.For("", "rule-a").Int("min_days"); d < 1 || d > 99 {
			t.Errorf("min_days is %d", d)
		}
	})
}

func TestDocsAndPolicy(t *testing.T) {
	t.Parallel()
	r := aRule("rule-a", things(0, 0, nil))
	r.Examples[0].Name = "a | b"
	pages := Docs(setOf(r))
	if len(pages) != 2 || !strings.Contains(pages["README.md"], "[rule-a](rule-a.md)") {
		t.Errorf("pages are %v", pages)
	}
	for _, want := range []string{"min_days", "1 to 99", "test:DescribeThings", `a \| b`, "VIOLATION, LOW", "$1.00", "<https://example.com/>"} {
		if !strings.Contains(pages["rule-a.md"], want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	p, err := Policy([]string{"sts:GetCallerIdentity", "test:DescribeThings"}, setOf(r))
	if err != nil || strings.Count(p, "test:DescribeThings") != 1 || !strings.Contains(p, "sts:GetCallerIdentity") {
		t.Errorf("policy is %s, %v", p, err)
	}
}
