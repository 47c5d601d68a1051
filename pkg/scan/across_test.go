package scan

import (
	"context"
	"strings"
	"testing"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
)

type left struct{ inventory.Resource }
type right struct{ inventory.Resource }

func sideKind[T any](name string, of func(*T) *inventory.Resource, ids ...string) inventory.Kind[T] {
	return inventory.Kind[T]{
		Type: "AWS::Test::" + name, Actions: []string{"test:Describe" + name}, Of: of,
		List: func(_ context.Context, s *aws.Session, page func([]T) error) error {
			rs := make([]T, len(ids))
			for i, id := range ids {
				*of(&rs[i]) = inventory.Resource{ARN: "arn:" + id, ID: id, Type: "AWS::Test::" + name, Account: s.Account, Region: s.Region}
			}
			return page(rs)
		},
	}
}

func side[T any](name string, of func(*T) *inventory.Resource, ids ...string) Rule[T] {
	judge := func(_ In, t T) rule.Verdict {
		v := rule.Verdict{
			Outcome: rule.Compliant, Reason: "It is in order.",
			Evidence: []rule.Evidence{{Name: "id", Value: of(&t).ID, Source: "test:Describe", Confidence: rule.Observed}},
		}
		if strings.HasPrefix(of(&t).ID, "bad") {
			v.Outcome, v.Severity = rule.Violation, rule.Low
		}
		return v
	}
	return Rule[T]{
		Kind: sideKind(name, of, ids...), Judge: judge,
		Examples: []Example[T]{{Name: "any " + name, Want: Want{Outcome: rule.Compliant}}},
	}
}

var (
	leftSide  = side("Left", func(t *left) *inventory.Resource { return &t.Resource }, "bad-l", "good-l")
	rightSide = side("Right", func(t *right) *inventory.Resource { return &t.Resource }, "bad-r")
)

func acrossMeta(id string) rule.Meta {
	return rule.Meta{
		ID: id, Version: 1, Category: rule.Security, Title: "Title", Why: "Why.", Fix: "Fix.", Severity: "LOW.",
		Citations: []string{"https://example.com"},
	}
}

// One rule across two kinds is one rule to people and configuration, and two
// listings, coverages and tallies to the engine.
func TestRuleAcrossKinds(t *testing.T) {
	t.Parallel()
	set := NewSet(rule.Security)
	set.Add(Across{Meta: acrossMeta("both-sides"), Rules: []Addable{leftSide, rightSide}})
	alone := leftSide
	alone.Meta = acrossMeta("left-alone")
	alone.ResourceType = "AWS::Test::Left"
	set.Add(alone)

	metas := set.Metas()
	if len(metas) != 2 || metas[0].ID != "both-sides" || metas[0].ResourceType != "AWS::Test::Left, AWS::Test::Right" {
		t.Fatalf("%+v", metas)
	}
	if got := set.Actions("both-sides"); strings.Join(got, " ") != "test:DescribeLeft test:DescribeRight" {
		t.Errorf("actions %v", got)
	}
	if x := set.Examples("both-sides"); len(x) != 2 || x[0].Err != nil || x[1].Err != nil {
		t.Errorf("examples %+v", x)
	}

	type verdict struct{ rule, kind, id string }
	seen := map[verdict]rule.Outcome{}
	var result *scanv1.ScopeResult
	target := Target{Target: aws.Target{Account: "123456789012"}, Region: "us-east-1"}
	err := Run(t.Context(), nil, []Target{target}, set, Options{}, Sink{
		Judged: func(j *Judgement) error {
			seen[verdict{j.Rule.ID, j.Rule.ResourceType, j.Resource.ID}] = j.Verdict.Outcome
			return nil
		},
		Finished: func(r *scanv1.ScopeResult) { result = r },
	})
	if err != nil {
		t.Fatal(err)
	}
	for v, want := range map[verdict]rule.Outcome{
		{"both-sides", "AWS::Test::Left", "bad-l"}: rule.Violation, {"both-sides", "AWS::Test::Left", "good-l"}: rule.Compliant,
		{"both-sides", "AWS::Test::Right", "bad-r"}: rule.Violation, {"left-alone", "AWS::Test::Left", "bad-l"}: rule.Violation,
	} {
		if seen[v] != want {
			t.Errorf("%v is %v, want %v", v, seen[v], want)
		}
	}
	if len(result.Coverage) != 2 || len(result.Tallies) != 3 {
		t.Fatalf("%d coverages, %d tallies", len(result.Coverage), len(result.Tallies))
	}
	for _, x := range result.Tallies {
		if x.RuleId == "both-sides" && (x.Violations != 1 || x.Compliant != map[string]int64{"AWS::Test::Left": 1}[x.ResourceType]) {
			t.Errorf("tally %v", x)
		}
	}
}

func TestAcrossRefuses(t *testing.T) {
	t.Parallel()
	named := leftSide
	named.Meta = acrossMeta("own")
	typed := acrossMeta("both-sides")
	typed.ResourceType = "AWS::Test::Left"
	for name, test := range map[string]struct {
		Across
		says string
	}{
		"no rules":        {Across{Meta: acrossMeta("both-sides")}, "no rules"},
		"a type":          {Across{Meta: typed, Rules: []Addable{leftSide}}, "a resource type beside"},
		"a kind twice":    {Across{Meta: acrossMeta("both-sides"), Rules: []Addable{leftSide, leftSide}}, "AWS::Test::Left twice"},
		"an id of a part": {Across{Meta: acrossMeta("both-sides"), Rules: []Addable{named}}, "an id of its own"},
		"across across":   {Across{Meta: acrossMeta("both-sides"), Rules: []Addable{Across{Rules: []Addable{leftSide}}}}, "within a rule across kinds"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := test.entry(nil); err == nil || !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v, want %q", err, test.says)
			}
		})
	}
}
