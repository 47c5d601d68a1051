package rule_test

import (
	"fmt"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"nightshift.dev/pkg/rule"
)

// bounded checks what holds for every score: its value is from 0 to 100 and
// the rounded sum of its factors, and no factor gives more than its most.
func bounded(t *rapid.T, s rule.Score) {
	var sum float64
	for _, f := range s.Factors {
		if f.Name == "" || f.Value == "" {
			t.Fatalf("a factor without name or value: %+v", f)
		}
		if f.Max >= 0 && (f.Points < 0 || f.Points > f.Max) || f.Max < 0 && f.Points > 0 {
			t.Fatalf("%s gives %v of %v", f.Name, f.Points, f.Max)
		}
		sum += f.Points
	}
	if s.Value < 0 || s.Value > 100 || math.Abs(sum-float64(s.Value)) > 0.501 && s.Factors[0].Name != "evaluated" {
		t.Fatalf("the value is %d, the points make %v", s.Value, sum)
	}
	if s.Factors[0].Name == "evaluated" && int(math.Floor(sum+1e-6)) != s.Value {
		t.Fatalf("the value is %d, the points make %v", s.Value, sum)
	}
}

func wasteFacts(t *rapid.T) rule.WasteFacts {
	f := rule.WasteFacts{
		Confidence: rule.Confidence(rapid.IntRange(0, 3).Draw(t, "confidence")), Wasted: rapid.IntRange(-1, 4000).Draw(t, "days"),
		BothIdle: rapid.Bool().Draw(t, "both"),
	}
	if rapid.Bool().Draw(t, "known") {
		f.Cost = rule.Cost{Known: true, High: rapid.Float64Range(0, 1e6).Draw(t, "cost")}
	}
	return f
}

func riskFacts(t *rapid.T) rule.RiskFacts {
	return rule.RiskFacts{
		Severity: rule.Severity(rapid.IntRange(0, 5).Draw(t, "severity")), Exposure: rule.Exposure(rapid.IntRange(0, 3).Draw(t, "exposure")),
		Environment: rapid.SampledFrom([]string{"", " ", "prod", "LIVE", "Production", "dev", "staging", "=x"}).Draw(t, "environment"),
		Age:         rapid.IntRange(-1, 4000).Draw(t, "age"),
	}
}

func TestWasteScoreRisesWithEachFactor(t *testing.T) {
	t.Parallel()
	confidences := []rule.Confidence{0, rule.LowerBound, rule.Derived, rule.Observed}
	rapid.Check(t, func(t *rapid.T) {
		f := wasteFacts(t)
		s := rule.WasteScore(f)
		bounded(t, s)
		more := f
		switch rapid.IntRange(0, 3).Draw(t, "which") {
		case 0:
			more.Cost = rule.Cost{Known: true, High: f.Cost.High + rapid.Float64Range(0, 1e4).Draw(t, "dearer")}
		case 1:
			for i, c := range confidences[:3] {
				if f.Confidence == c {
					more.Confidence = confidences[i+1]
				}
			}
		case 2:
			more.Wasted += rapid.IntRange(0, 500).Draw(t, "longer")
		case 3:
			more.BothIdle = true
		}
		if got := rule.WasteScore(more); got.Value < s.Value {
			t.Fatalf("%+v has %d, and %+v only %d", f, s.Value, more, got.Value)
		}
	})
}

func TestRiskScoreRisesWithEachFactor(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := riskFacts(t)
		s := rule.RiskScore(f)
		bounded(t, s)
		more := f
		switch rapid.IntRange(0, 3).Draw(t, "which") {
		case 0:
			more.Severity = min(rule.Critical, f.Severity+1)
		case 1:
			more.Exposure = min(rule.Reachable, f.Exposure+1)
		case 2:
			more.Environment = rapid.SampledFrom([]string{"prod", "PRODUCTION", " Live "}).Draw(t, "production")
		case 3:
			more.Age += rapid.IntRange(0, 500).Draw(t, "older")
		}
		if got := rule.RiskScore(more); got.Value < s.Value {
			t.Fatalf("%+v has %d, and %+v only %d", f, s.Value, more, got.Value)
		}
	})
}

func TestPostureScoreFallsWithEachViolation(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		f := rule.PostureFacts{Violations: map[rule.Severity]int64{}}
		for _, s := range rule.Severities() {
			f.Violations[s] = int64(rapid.IntRange(0, 500).Draw(t, s.String()))
			f.Evaluated += f.Violations[s]
		}
		compliant := int64(rapid.IntRange(1, 100000).Draw(t, "compliant"))
		violations := f.Evaluated
		f.Evaluated += compliant
		s, ok := rule.PostureScore(f)
		if !ok {
			t.Fatal("no score, though something was evaluated")
		}
		bounded(t, s)
		if (s.Value == 100) != (violations == 0) {
			t.Fatalf("%+v has %d", f, s.Value)
		}
		worse := rule.PostureFacts{Evaluated: f.Evaluated, Violations: map[rule.Severity]int64{}}
		for k, n := range f.Violations {
			worse.Violations[k] = n
		}
		worse.Violations[rapid.SampledFrom(rule.Severities()).Draw(t, "one more")]++
		if got, _ := rule.PostureScore(worse); got.Value > s.Value {
			t.Fatalf("%+v has %d, and with one violation more %d", f, s.Value, got.Value)
		}
		better := f
		better.Evaluated++
		if got, _ := rule.PostureScore(better); got.Value < s.Value {
			t.Fatalf("%+v has %d, and with one more compliant %d", f, s.Value, got.Value)
		}
	})
	if _, ok := rule.PostureScore(rule.PostureFacts{}); ok {
		t.Error("an account that nothing is known of has a score")
	}
}

func TestUnknownIsSaidToBe(t *testing.T) {
	t.Parallel()
	s := rule.WasteScore(rule.WasteFacts{Confidence: rule.Observed, Wasted: -1})
	if s.Factors[0].Value != "unknown" || s.Factors[0].Points != 0 || s.Factors[2].Value != "unknown" || s.Value != 20 {
		t.Errorf("%+v", s)
	}
	at := time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		since time.Time
		want  int
	}{{time.Time{}, -1}, {at, 0}, {at.Add(time.Hour), 0}, {at.Add(-47 * time.Hour), 1}, {at.Add(-48 * time.Hour), 2}} {
		if got := rule.Days(c.since, at); got != c.want {
			t.Errorf("from %s to %s there are %d days, want %d", c.since, at, got, c.want)
		}
	}
	for _, e := range []string{"prod", "Prod", "PRODUCTION", "live ", "Live"} {
		if !rule.Production(e) {
			t.Errorf("%q is not taken for production", e)
		}
	}
	for _, e := range []string{"", "preprod", "non-production", "delivery"} {
		if rule.Production(e) {
			t.Errorf("%q is taken for production", e)
		}
	}
}

// The worked examples of docs/scores.md are computed here. When a formula
// changes on purpose, the lines to put there are in the failure.
func TestWorkedExamples(t *testing.T) {
	t.Parallel()
	usd := func(v float64) rule.Cost { return rule.Cost{Known: true, Low: v, High: v} }
	var lines []string
	add := func(what string, s rule.Score) {
		var values, points []string
		for _, f := range s.Factors {
			values = append(values, f.Value)
			points = append(points, strings.ReplaceAll(fmt.Sprintf("%g", f.Points), "-", "−"))
		}
		lines = append(lines, fmt.Sprintf("| %s | %s | %s | **%d** |", what, strings.Join(values, ", "), strings.ReplaceAll(strings.Join(points, " + "), "+ −", "− "), s.Value))
	}
	add("idle m5.large, both metrics, 7 days", rule.WasteScore(rule.WasteFacts{Cost: usd(70.08), Confidence: rule.Observed, Wasted: 7, BothIdle: true}))
	add("volume of $60 unattached 44 days, by its last datapoint", rule.WasteScore(rule.WasteFacts{Cost: usd(60), Confidence: rule.Derived, Wasted: 44}))
	add("instance stopped for a year, first seen so by us", rule.WasteScore(rule.WasteFacts{Cost: usd(1200), Confidence: rule.LowerBound, Wasted: 365}))
	add("volume in a region without prices", rule.WasteScore(rule.WasteFacts{Confidence: rule.Observed, Wasted: 20}))
	add("SSH open to the world on a public production server", rule.RiskScore(rule.RiskFacts{Severity: rule.Critical, Exposure: rule.Reachable, Environment: "Production", Age: 3}))
	add("the same group, attached to nothing, untagged", rule.RiskScore(rule.RiskFacts{Severity: rule.High, Exposure: rule.Limited, Age: 3}))
	add("unencrypted volume in dev, a year old", rule.RiskScore(rule.RiskFacts{Severity: rule.Medium, Environment: "dev", Age: 365}))
	for _, p := range []struct {
		what string
		rule.PostureFacts
	}{
		{"1 CRITICAL and 20 LOW among 200", rule.PostureFacts{Evaluated: 200, Violations: map[rule.Severity]int64{rule.Critical: 1, rule.Low: 20}}},
		{"1 INFO among 100000", rule.PostureFacts{Evaluated: 100000, Violations: map[rule.Severity]int64{rule.Info: 1}}},
		{"no violation among 40", rule.PostureFacts{Evaluated: 40}},
	} {
		s, _ := rule.PostureScore(p.PostureFacts)
		add(p.what, s)
	}
	b, err := os.ReadFile("../../docs/scores.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range lines {
		if !strings.Contains(string(b), line+"\n") {
			t.Errorf("docs/scores.md does not say\n%s", line)
		}
	}
}
