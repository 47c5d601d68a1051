package report

import (
	"slices"
	"strings"
	"time"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/rule"
)

// Score is a score with its factors, as JSON.
type Score struct {
	Value   int      `json:"value"`
	Factors []Factor `json:"factors"`
}

// Factor is one part of a score.
type Factor struct {
	Name   string  `json:"name"`
	Value  string  `json:"value"`
	Points float64 `json:"points"`
	Max    float64 `json:"max_points"`
}

func shown(s rule.Score) *Score {
	out := &Score{Value: s.Value, Factors: []Factor{}}
	for _, f := range s.Factors {
		out.Factors = append(out.Factors, Factor(f))
	}
	return out
}

// ScoreOf returns the waste score or the risk score of a finding, by its
// category, at a time. It reads the finding and its evidence, nothing else.
func ScoreOf(f *findingv1.Finding, at time.Time) rule.Score {
	if f.GetCategory() == rulev1.Category_CATEGORY_SECURITY {
		began := at
		for _, t := range []*time.Time{moment(f.GetFirstSeen()), moment(f.GetSince())} {
			if t != nil && t.Before(began) {
				began = *t
			}
		}
		return rule.RiskScore(rule.RiskFacts{
			Severity: rule.Severity(f.GetSeverity()), Exposure: exposure(f),
			Environment: f.GetResource().GetTags()[environmentTag], Age: rule.Days(began, at),
		})
	}
	facts := rule.WasteFacts{Wasted: -1}
	if m := f.GetMonthlyCost(); m != nil {
		facts.Cost = rule.Cost{Known: true, Low: m.GetLow(), High: m.GetHigh()}
	}
	if e := f.GetEvidence(); len(e) > 0 {
		facts.Confidence = rule.Confidence(e[0].GetConfidence())
	}
	if f.GetSince() != nil {
		facts.Wasted = rule.Days(f.GetSince().AsTime(), at)
	}
	if by, ok := evidence(f, "idle_by"); ok {
		t := strings.ToLower(strings.Join(texts(by), " "))
		facts.BothIdle = strings.Contains(t, "cpu") && strings.Contains(t, "mem")
	}
	return rule.WasteScore(facts)
}

// Proto is a score as the API shows it.
func Proto(s rule.Score) *rulev1.Score {
	out := &rulev1.Score{Value: int32(s.Value)}
	for _, f := range s.Factors {
		out.Factors = append(out.Factors, &rulev1.Factor{Name: f.Name, Value: f.Value, Points: f.Points, MaxPoints: f.Max})
	}
	return out
}

func evidence(f *findingv1.Finding, name string) (*rulev1.Evidence, bool) {
	i := slices.IndexFunc(f.GetEvidence(), func(e *rulev1.Evidence) bool { return e.GetName() == name })
	if i < 0 {
		return nil, false
	}
	return f.GetEvidence()[i], true
}

// exposure reads from the evidence who can get at the resource.
func exposure(f *findingv1.Finding) rule.Exposure {
	var ports, world, public, route bool
	for _, e := range f.GetEvidence() {
		switch e.GetName() {
		case "open_port", "open_ports":
			for _, t := range texts(e) {
				ports = true
				world = world || strings.Contains(t, "the whole internet")
			}
		case "public_addresses":
			public = len(texts(e)) > 0
		case "internet_gateway":
			route = route || len(texts(e)) > 0
		}
	}
	if on, ok := evidence(f, "network_interfaces"); ok { // of a security group
		at := slices.ContainsFunc(texts(on), func(t string) bool { return strings.Contains(t, " at ") })
		switch attached := on.GetValue() == nil || on.GetValue().GetListValue() == nil || len(texts(on)) > 0; {
		case world && at:
			return rule.Reachable
		case world && attached:
			return rule.Open
		case ports:
			return rule.Limited
		}
		return rule.NotExposed
	}
	switch { // of an instance
	case world && public && route:
		return rule.Reachable
	case world:
		return rule.Open
	case public || ports:
		return rule.Limited
	}
	return rule.NotExposed
}
