package rule

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// Score is a figure from 0 to 100 with all that went into it. docs/scores.md
// has the formulas with worked examples.
type Score struct {
	// Value is the sum of the points of its factors, rounded.
	Value int
	// Factors in the order of the formula.
	Factors []Factor
}

// Factor is one part of a score.
type Factor struct {
	// Name in snake_case.
	Name string
	// Value is what it was computed from, as text.
	Value string
	// Points are what it adds, to one decimal, from 0 to Max; what takes away
	// is negative, down to Max.
	Points, Max float64
}

// The most that each factor of a waste score gives; together 100.
const (
	maxCost       = 50
	maxConfidence = 20
	maxWasted     = 20
	maxBothIdle   = 10
)

// And of a risk score.
const (
	maxSeverity    = 40
	maxExposure    = 30
	maxEnvironment = 20
	maxAge         = 10
)

const (
	// fullCost is the monthly cost in USD from which on a finding gets all the
	// points for cost. They rise with its logarithm: ten times the money is a
	// third of the points more.
	fullCost = 1000
	// fullDays is the age in days from which on age adds no more.
	fullDays = 90
)

// WasteFacts are what a waste score is computed from.
type WasteFacts struct {
	// Cost is the monthly cost; its upper bound counts. An unknown one gives
	// no points and says so.
	Cost Cost
	// Confidence of the deciding evidence; 0 when there is none.
	Confidence Confidence
	// Wasted is how long it has been wasted, in whole days; negative when
	// unknown.
	Wasted int
	// BothIdle says that an instance is idle in CPU and in memory.
	BothIdle bool
}

// WasteScore tells how much a waste finding is worth one's time.
func WasteScore(f WasteFacts) Score {
	cost := Factor{Name: "monthly_cost", Value: "unknown", Max: maxCost}
	if f.Cost.Known {
		high := max(f.Cost.High, 0)
		cost.Value = fmt.Sprintf("$%.2f", high)
		cost.Points = tenths(maxCost * min(1, math.Log10(1+high)/math.Log10(1+fullCost)))
	}
	confidence := Factor{Name: "confidence", Value: f.Confidence.String(), Max: maxConfidence}
	switch f.Confidence {
	case Observed:
		confidence.Points = maxConfidence
	case Derived:
		confidence.Points = 15
	case LowerBound:
		confidence.Points = 10
	}
	both := Factor{Name: "idle_in_cpu_and_memory", Value: strconv.FormatBool(f.BothIdle), Max: maxBothIdle}
	if f.BothIdle {
		both.Points = maxBothIdle
	}
	return sum(cost, confidence, aged("days_wasted", f.Wasted, maxWasted), both)
}

// Exposure says who can get at a resource, rising.
type Exposure int

// The exposures.
const (
	// NotExposed: the finding is not about who gets in.
	NotExposed Exposure = iota
	// Limited: open to a part of the internet, or attached to nothing, or
	// public with no port open.
	Limited
	// Open: open to the world as far as the rules go; not shown to be
	// reachable.
	Open
	// Reachable: open to the world, attached, and with a public address or a
	// way in.
	Reachable
)

var exposures = []string{"NONE", "LIMITED", "OPEN", "REACHABLE"}

// String returns the upper-case name.
func (e Exposure) String() string { return name(exposures, int(e)) }

// RiskFacts are what a risk score is computed from.
type RiskFacts struct {
	Severity Severity
	Exposure Exposure
	// Environment is the value of the Environment tag; empty without one.
	Environment string
	// Age of the finding in whole days; negative when unknown.
	Age int
}

// RiskScore tells how urgent a security finding is.
func RiskScore(f RiskFacts) Score {
	severity := Factor{Name: "severity", Value: f.Severity.String(), Max: maxSeverity}
	switch f.Severity {
	case Critical:
		severity.Points = maxSeverity
	case High:
		severity.Points = 30
	case Medium:
		severity.Points = 20
	case Low:
		severity.Points = 10
	case Info:
		severity.Points = 2
	}
	exposure := Factor{Name: "exposure", Value: f.Exposure.String(), Max: maxExposure}
	switch f.Exposure {
	case Reachable:
		exposure.Points = maxExposure
	case Open:
		exposure.Points = 20
	case Limited:
		exposure.Points = 10
	}
	environment := Factor{Name: "environment", Value: strings.TrimSpace(f.Environment), Points: 5, Max: maxEnvironment}
	switch {
	case environment.Value == "":
		// It may well be production.
		environment.Value, environment.Points = "unknown", 10
	case Production(environment.Value):
		environment.Points = maxEnvironment
	}
	return sum(severity, exposure, environment, aged("age_days", f.Age, maxAge))
}

// Production tells whether the value of an Environment tag names production:
// prod, production or live, in any case.
func Production(environment string) bool {
	switch strings.ToLower(strings.TrimSpace(environment)) {
	case "prod", "production", "live":
		return true
	}
	return false
}

// PostureFacts are what the posture score of an account is computed from.
type PostureFacts struct {
	// Evaluated are the verdicts VIOLATION and COMPLIANT of all rules; what
	// could not be judged is not among them.
	Evaluated int64
	// Violations by severity, each among Evaluated.
	Violations map[Severity]int64
}

// postureWeights say how much of a resource's worth a violation takes.
var postureWeights = map[Severity]float64{Critical: 1, High: 0.7, Medium: 0.4, Low: 0.15, Info: 0.05}

// PostureScore tells how well an account is kept: 100 without a violation. ok
// is false when nothing was evaluated, for then there is no score. What a
// severity takes away is rounded up to a tenth, and the score down, so that
// only an account without violations has 100.
func PostureScore(f PostureFacts) (s Score, ok bool) {
	of := f.Evaluated
	if of <= 0 {
		return Score{}, false
	}
	s.Factors = []Factor{{Name: "evaluated", Value: strconv.FormatInt(of, 10), Points: 100, Max: 100}}
	left := 1000 // in tenths
	for i := len(Severities()) - 1; i >= 0; i-- {
		sev := Severities()[i]
		n, weight := f.Violations[sev], postureWeights[sev]
		if n <= 0 {
			continue
		}
		take := min(left, int(math.Ceil(1000*weight*float64(n)/float64(of)-1e-9)))
		left -= take
		s.Factors = append(s.Factors, Factor{
			Name: strings.ToLower(sev.String()), Value: fmt.Sprintf("%d of %d × %v", n, of, weight),
			Points: -float64(take) / 10, Max: -100 * weight,
		})
	}
	s.Value = left / 10
	return s, true
}

// Days are the whole days from since to at; -1 when since is not known, 0 when
// it is later.
func Days(since, at time.Time) int {
	if since.IsZero() {
		return -1
	}
	return max(0, int(at.Sub(since)/(24*time.Hour)))
}

// aged gives points for days, all of them from fullDays on.
func aged(name string, days int, most float64) Factor {
	if days < 0 {
		return Factor{Name: name, Value: "unknown", Max: most}
	}
	return Factor{Name: name, Value: strconv.Itoa(days), Points: tenths(most * min(1, float64(days)/fullDays)), Max: most}
}

func sum(factors ...Factor) Score {
	var points float64
	for _, f := range factors {
		points += f.Points
	}
	return Score{Value: int(math.Round(tenths(points))), Factors: factors}
}

func tenths(v float64) float64 { return math.Round(v*10) / 10 }
