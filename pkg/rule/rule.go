// Package rule holds the words every detection rule is written in: what a rule
// says of itself (Meta), what it may conclude (Verdict) and the numbers it must
// show for it (Evidence).
//
// It exists so that a rule, the engine that runs it, the API that explains it
// and the pages that document it all read the same value. It is pure: standard
// library only, no I/O, no clock. Time is an input.
package rule

import (
	"fmt"
	"time"
)

// Category says which service owns a rule.
type Category int

// The categories. The zero value is not one.
const (
	Waste Category = iota + 1
	Security
)

// Outcome is what a rule concludes about one resource. The zero value is not
// an outcome; a Verdict without one is an error of the rule.
type Outcome int

// The five outcomes. InsufficientData and Error neither open nor close a
// finding.
const (
	// Violation means the evidence shows what the rule looks for.
	Violation Outcome = iota + 1
	// Compliant means the evidence disproves it.
	Compliant
	// NotApplicable means the resource is not what the rule is about.
	NotApplicable
	// InsufficientData means the evidence is not there; Reason says what is
	// missing and DecidableAt, where it can be computed, when it will be.
	InsufficientData
	// Error means the evidence could not be read: denied, or failing after
	// retries.
	Error
)

// Severity orders violations. The zero value means none.
type Severity int

// The severities, in rising order.
const (
	Info Severity = iota + 1
	Low
	Medium
	High
	Critical
)

// Down returns the severity one level lower, not below floor.
func (s Severity) Down(floor Severity) Severity {
	if s-1 < floor {
		return floor
	}
	return s - 1
}

// Confidence says how a piece of evidence was come by.
type Confidence int

// The confidences.
const (
	// Observed: read from the API or seen by ourselves.
	Observed Confidence = iota + 1
	// Derived: follows from what was read, by a documented rule.
	Derived
	// LowerBound: the true value is at least this.
	LowerBound
)

var (
	categories  = []string{"", "WASTE", "SECURITY"}
	outcomes    = []string{"", "VIOLATION", "COMPLIANT", "NOT_APPLICABLE", "INSUFFICIENT_DATA", "ERROR"}
	severities  = []string{"", "INFO", "LOW", "MEDIUM", "HIGH", "CRITICAL"}
	confidences = []string{"", "OBSERVED", "DERIVED", "LOWER_BOUND"}
)

func name(names []string, i int) string {
	if i < 0 || i >= len(names) || names[i] == "" {
		return "UNSPECIFIED"
	}
	return names[i]
}

// String returns the upper-case name, as in the API without its prefix.
func (c Category) String() string { return name(categories, int(c)) }

// String returns the upper-case name, as in the API without its prefix.
func (o Outcome) String() string { return name(outcomes, int(o)) }

// String returns the upper-case name, as in the API without its prefix.
func (s Severity) String() string { return name(severities, int(s)) }

// String returns the upper-case name, as in the API without its prefix.
func (c Confidence) String() string { return name(confidences, int(c)) }

// MarshalText gives the names in JSON and YAML.
func (c Category) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// MarshalText gives the names in JSON and YAML.
func (o Outcome) MarshalText() ([]byte, error) { return []byte(o.String()), nil }

// MarshalText gives the names in JSON and YAML.
func (s Severity) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// MarshalText gives the names in JSON and YAML.
func (c Confidence) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// Severities returns all severities in rising order.
func Severities() []Severity { return []Severity{Info, Low, Medium, High, Critical} }

// Outcomes returns all outcomes.
func Outcomes() []Outcome {
	return []Outcome{Violation, Compliant, NotApplicable, InsufficientData, Error}
}

// ParseSeverity reads a severity's name in any case.
func ParseSeverity(s string) (Severity, error) {
	for i, n := range severities {
		if i > 0 && equalFold(n, s) {
			return Severity(i), nil
		}
	}
	return 0, fmt.Errorf("severity %q is not one of INFO, LOW, MEDIUM, HIGH, CRITICAL", s)
}

func equalFold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		x, y := a[i], b[i]
		if 'a' <= y && y <= 'z' {
			y -= 'a' - 'A'
		}
		if x != y {
			return false
		}
	}
	return true
}

// Meta is what a rule says of itself. The rule index, the documentation page,
// the API and the CLI are made from it.
type Meta struct {
	// ID is the rule's name for ever: lower-case words joined by hyphens. It
	// is part of a finding's identity.
	ID string
	// Version rises whenever the same facts could get another verdict. From 1.
	Version  int
	Category Category
	// ResourceType is the CloudFormation type name of what the rule judges,
	// such as AWS::EC2::Volume.
	ResourceType string
	// Title is one line, without a full stop.
	Title string
	// Why says why it matters; Fix how to mend it; both are prose.
	Why, Fix string
	// Severity says in a sentence how the severity of a violation is chosen.
	Severity string
	// Params are the figures that can be set, with their defaults.
	Params []Param
	// Citations are web addresses of the facts the rule stands on.
	Citations []string
}

// Verdict is a rule's conclusion about one resource at one time.
type Verdict struct {
	Outcome Outcome
	// Severity is set for a violation, and zero otherwise.
	Severity Severity
	// Reason is one sentence a person understands without the evidence.
	Reason string
	// Since is when the violation began, as far as the evidence tells; zero
	// when it does not.
	Since time.Time
	// DecidableAt is the first time at which an InsufficientData verdict can
	// become decidable; zero when that cannot be computed.
	DecidableAt time.Time
	// Cost is what the violation costs a month. Its zero value is unknown.
	Cost Cost
	// Evidence holds the numbers that decided, the deciding one first.
	Evidence []Evidence
	// Recommendation says what to do about this resource, where the rule's
	// general fix can be made more precise.
	Recommendation string
	// Owner is who the resource itself names as its owner beside the Owner
	// tag, such as a Kubernetes claim or an Auto Scaling group.
	Owner string
	// Exempt says that the resource itself declares the violation wanted. It
	// stays a violation. The zero value is no exemption.
	Exempt Exemption
}

// Exemption says that a violation is known and accepted.
type Exemption struct {
	// By is who exempts it, such as tag:public-allowed; empty for nobody.
	By string
	// Why is the reason given.
	Why string
	// Until is when it ends, exclusive; zero for never.
	Until time.Time
}

// Cost is a monthly figure in US dollars, as a range. The zero value is an
// unknown cost; unknown is never 0.
type Cost struct {
	// Known tells an unknown cost from one of $0.
	Known bool
	// Low and High bound the figure, in USD for a month of 730 hours, Low ≤
	// High.
	Low, High float64
	// Basis is how it was priced: LIST (public list price, no discounts).
	Basis string
	// Source names the price list, Date its day (YYYY-MM-DD).
	Source, Date string
}

// Plus adds two costs. The sum of anything and an unknown cost is unknown.
func (c Cost) Plus(d Cost) Cost {
	if !c.Known || !d.Known {
		return Cost{}
	}
	c.Low += d.Low
	c.High += d.High
	if d.Date < c.Date || c.Date == "" {
		c.Source, c.Date = d.Source, d.Date
	}
	if c.Basis == "" {
		c.Basis = d.Basis
	}
	return c
}

// Evidence is one number or fact that decided a verdict.
type Evidence struct {
	// Name of what was measured, in snake_case, such as days_stopped.
	Name string
	// Value and Threshold are a string, bool, int, float64, time.Time or
	// []string. Threshold is nil where there is none.
	Value, Threshold any
	// Unit of both, such as days, percent, GiB.
	Unit string
	// Statistic and window, for metrics.
	Statistic              string
	WindowStart, WindowEnd time.Time
	// Datapoints there were and would be in a complete series; 0 where it is
	// not a series.
	PointsSeen, PointsExpected int
	// Source is the API call, tag or observation it came from, such as
	// ec2:DescribeInstances; At is when it was read.
	Source     string
	At         time.Time
	Confidence Confidence
	// Note adds what a reader should know, such as why a better source did
	// not answer.
	Note string
}

// Fact is something that an API had to tell about a resource: known, unknown
// (nobody could know), or failed (it could not be read). The zero value is a
// fact that was not asked for.
type Fact[T any] struct {
	// Value is set when Known.
	Value T
	Known bool
	// Failed means that reading it was denied or kept failing.
	Failed bool
	// Why says what is missing or what failed.
	Why string
	// Source is the API call; At when it answered.
	Source string
	At     time.Time
}

// Known is a fact that was read.
func Known[T any](v T, source string, at time.Time) Fact[T] {
	return Fact[T]{Value: v, Known: true, Source: source, At: at}
}

// Failed is a fact that could not be read.
func Failed[T any](source string, err error) Fact[T] {
	return Fact[T]{Failed: true, Why: err.Error(), Source: source}
}

// Sighting is what earlier scans remember of a resource in its present state.
// The zero value means they remember nothing.
type Sighting struct {
	// FirstSeen is when a scan first saw the resource in this state without
	// a scan since that saw it in another.
	FirstSeen time.Time
	// Before is when the last complete listing before FirstSeen did not show
	// the resource in this state: the transition lies between the two. Zero
	// when there was no such listing, and FirstSeen is only a lower bound.
	Before time.Time
}
