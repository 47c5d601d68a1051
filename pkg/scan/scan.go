// Package scan is the engine that the scanning services are made of. It takes
// one account and region — a scope — through listing, facts, judgement and
// observation, and it is the service around that: planning runs, taking scopes
// from the bus, publishing what was observed.
//
// It exists so that a rule is one value in one file and nothing else: the
// engine asks AWS once for all rules of a kind, a page at a time, asks for
// facts in bulk and only where they can still change a verdict, and says of
// every listing how much of it was seen. The rules themselves live in the
// services; this package must not import any of them.
package scan

import (
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
)

// Rule is a detection rule for one kind of resource, with its documentation
// and its examples: the value from which its judgement, its tests, its page
// and its answer in the API are made.
type Rule[T any] struct {
	rule.Meta
	// Kind is what it judges.
	Kind inventory.Kind[T]
	// Facts are what it needs to know beyond the listing, in the order in
	// which to ask: a later one may depend on what an earlier one told.
	Facts []Need[T]
	// Follow tells the state of a resource whose beginning the rule wants
	// remembered from scan to scan, such as stopped; ok is false for one in
	// no such state. Nil follows nothing.
	Follow func(t T) (state string, ok bool)
	// Judge concludes. It is pure: it reads nothing but its arguments, which
	// it does not change.
	Judge func(in In, t T) rule.Verdict
	// Parts splits the cost of a violation by the resources that cause it, so
	// that money is not counted twice when several rules see the same
	// resource. Nil means that all of it is the resource's own.
	Parts func(in In, t T) []Part
	// Examples are good, bad and unknown cases.
	Examples []Example[T]
}

// Need is a fact that a rule can need.
type Need[T any] struct {
	Fact inventory.Fact[T]
	// When tells whether the fact can still change what is said of t: every
	// fact costs calls, and some cost money. Nil means always. It is pure.
	When func(in In, t T) bool
}

// In is what a judgement may know beside the resource.
type In struct {
	// At is the scan's time, in UTC. A rule knows no other clock.
	At time.Time
	// Params are the rule's parameters in force for the account.
	Params rule.Params
	// Account is the 12-digit number of the account, Region its region.
	Account, Region string
	// Price is the region's price list.
	Price price.Region
	// Sighting is what earlier scans remember of the resource in the state
	// that Follow tells.
	Sighting rule.Sighting
}

// Ago returns how long before the scan t was; negative for a later one.
func (in In) Ago(t time.Time) time.Duration { return in.At.Sub(t) }

// Part is the share of a cost that one resource causes.
type Part struct {
	// ARN names the resource.
	ARN  string
	Cost rule.Cost
}

// Day is what a rule means by a day: 24 hours.
const Day = 24 * time.Hour

// Days is n days.
func Days(n int) time.Duration { return time.Duration(n) * Day }

// ExampleTime is the scan's time in examples that do not say another.
var ExampleTime = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

// Example is one case and the verdict it must get.
type Example[T any] struct {
	// Name is the case in a few words.
	Name string
	// Resource with its facts.
	Resource T
	// At is the scan's time; zero means ExampleTime.
	At time.Time
	// Region prices the example; empty means us-east-1.
	Region string
	// Params are parameters that differ from their defaults, as text.
	Params map[string]string
	// Sighting is what earlier scans remember.
	Sighting rule.Sighting
	Want     Want
}

// Want is what an example's verdict must be.
type Want struct {
	Outcome  rule.Outcome
	Severity rule.Severity
	// Cost is the monthly cost in USD to the cent: "11.65", "0.00–25.00",
	// "unknown" for a violation of unknown cost, empty for no violation.
	Cost string
	// Since and DecidableAt as in the verdict.
	Since, DecidableAt time.Time
	// Owner as in the verdict.
	Owner string
	// Confidence is that of the deciding evidence; zero leaves it open.
	Confidence rule.Confidence
	// Source is that of the deciding evidence; empty leaves it open.
	Source string
	// Says are words that the reason or the recommendation must hold.
	Says []string
}
