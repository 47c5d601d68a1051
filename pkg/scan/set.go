package scan

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"regexp"
	"slices"
	"strings"
	"time"

	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
)

// Set is the rules of one service. Rules are added while packages are
// initialized; after that a Set is only read.
type Set struct {
	category rule.Category
	rules    []*entry
}

// NewSet returns an empty set for the rules of one category.
func NewSet(c rule.Category) *Set { return &Set{category: c} }

// Service is the name of the service whose rules these are: waste, security.
func (s *Set) Service() string { return strings.ToLower(s.category.String()) }

// Addable is a Rule of any resource type, or one rule Across several.
type Addable interface {
	// entry checks the rule and erases its type. What a rule says of itself is
	// shared when it is one kind's part of a rule across several.
	entry(shared *rule.Meta) (*entry, error)
}

// Across is one rule that judges several kinds of resource, such as one about
// tags: one id, one documentation and one set of parameters, and for each kind
// a Rule whose Meta is left empty. The ResourceType is made from the kinds'.
type Across struct {
	rule.Meta
	Rules []Addable
}

// Add registers a rule, from the rule's own file:
//
//	var _ = Rules.Add(scan.Rule[inventory.Volume]{…})
//
// It panics when the rule is not complete, for that is a mistake in the
// program which no input can cause. The result only makes the line above
// possible.
func (s *Set) Add(r Addable) struct{} {
	e, err := r.entry(nil)
	if err == nil {
		err = s.fits(e)
	}
	if err != nil {
		panic(fmt.Sprintf("scan: rule %q: %v", e.meta.ID, err))
	}
	s.rules = append(s.rules, e)
	slices.SortFunc(s.rules, func(a, b *entry) int { return cmp.Compare(a.meta.ID, b.meta.ID) })
	return struct{}{}
}

func (s *Set) fits(e *entry) error {
	if e.meta.Category != s.category {
		return fmt.Errorf("its category is %s in a set of %s rules", e.meta.Category, s.category)
	}
	for _, o := range s.rules {
		if o.meta.ID == e.meta.ID {
			return errors.New("the set has a rule of this id")
		}
		for _, p := range e.parts {
			for _, q := range o.parts {
				if p.resourceType == q.resourceType && !p.newGroup().takes(q) {
					return fmt.Errorf("rule %s judges %s as another Go type", o.meta.ID, q.resourceType)
				}
			}
		}
	}
	return nil
}

// Metas returns what the rules say of themselves, ordered by id.
func (s *Set) Metas() []rule.Meta {
	out := make([]rule.Meta, len(s.rules))
	for i, e := range s.rules {
		out[i] = e.meta
	}
	return out
}

// Actions returns the IAM actions that a rule's listing and facts need,
// sorted; those of all rules when id is empty.
func (s *Set) Actions(id string) []string {
	all := map[string]bool{}
	for _, e := range s.rules {
		if id == "" || e.meta.ID == id {
			for _, a := range e.actions {
				all[a] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(all))
}

// Examples returns the examples of one rule with the verdicts it gives.
func (s *Set) Examples(id string) []Outcome {
	for _, e := range s.rules {
		if e.meta.ID == id {
			return e.examples()
		}
	}
	return nil
}

// pick returns the rules of the ids, all of them when there are none.
func (s *Set) pick(ids []string) ([]*entry, error) {
	if len(ids) == 0 {
		return s.rules, nil
	}
	var out []*entry
	for _, e := range s.rules {
		if slices.Contains(ids, e.meta.ID) {
			out = append(out, e)
		}
	}
	for _, id := range ids {
		if !slices.ContainsFunc(out, func(e *entry) bool { return e.meta.ID == id }) {
			return nil, errs.New(errs.InvalidArgument, "RULE_UNKNOWN", "no such rule").
				Field("rules", "%q is not a rule of %s; it has %s", id, s.Service(), strings.Join(s.ids(), ", "))
		}
	}
	return out, nil
}

func (s *Set) ids() []string {
	ids := make([]string, len(s.rules))
	for i, e := range s.rules {
		ids[i] = e.meta.ID
	}
	return ids
}

// Outcome is an example and what its rule made of it.
type Outcome struct {
	// Name and Want of the example.
	Name string
	Want Want
	// Verdict the rule gives.
	Verdict rule.Verdict
	// Err says how the verdict differs from what is wanted, or how judging
	// twice differs; nil when it is right.
	Err error
}

// entry is a rule with its resource types erased.
type entry struct {
	meta     rule.Meta
	actions  []string
	facts    []string
	examples func() []Outcome
	parts    []*part // one for each kind
}

// part is what an entry does with one kind of resource.
type part struct {
	resourceType string
	newGroup     func() group
	typed        any // *Rule[T]
}

func (a Across) entry(shared *rule.Meta) (*entry, error) {
	e := &entry{meta: a.Meta}
	var (
		wrong    []error
		types    []string
		examples []func() []Outcome
	)
	if shared != nil {
		wrong = append(wrong, errors.New("it is across kinds within a rule across kinds"))
	}
	if len(a.Rules) == 0 || a.ResourceType != "" {
		wrong = append(wrong, errors.New("it has no rules, or a resource type beside those of its rules"))
	}
	for _, r := range a.Rules {
		one, err := r.entry(&a.Meta)
		if err != nil {
			wrong = append(wrong, err)
		}
		for _, p := range one.parts {
			if slices.Contains(types, p.resourceType) {
				wrong = append(wrong, fmt.Errorf("it judges %s twice", p.resourceType))
			}
			types = append(types, p.resourceType)
		}
		e.parts = append(e.parts, one.parts...)
		e.actions = append(e.actions, one.actions...)
		e.facts = append(e.facts, one.facts...)
		examples = append(examples, one.examples)
	}
	e.meta.ResourceType = strings.Join(types, ", ")
	slices.Sort(e.actions)
	e.actions = slices.Compact(e.actions)
	e.examples = func() []Outcome {
		var all []Outcome
		for _, x := range examples {
			all = append(all, x()...)
		}
		return all
	}
	return e, errors.Join(wrong...)
}

func (r Rule[T]) entry(shared *rule.Meta) (*entry, error) {
	var wrong []error
	if shared != nil {
		if r.ID != "" {
			wrong = append(wrong, fmt.Errorf("its part for %s has an id of its own, %q", r.Kind.Type, r.ID))
		}
		r.Meta = *shared
		r.ResourceType = r.Kind.Type
	}
	e := &entry{meta: r.Meta}
	e.parts = []*part{{
		resourceType: r.ResourceType, typed: &r, newGroup: func() group { return &kindGroup[T]{kind: r.Kind} },
	}}
	e.examples = r.judgeExamples
	actions := slices.Clone(r.Kind.Actions)
	for _, n := range r.Facts {
		e.facts = append(e.facts, n.Fact.Name)
		actions = append(actions, n.Fact.Actions...)
		if !snake.MatchString(n.Fact.Name) || n.Fact.Fill == nil {
			wrong = append(wrong, fmt.Errorf("fact %q has no name in snake_case or no Fill", n.Fact.Name))
		}
	}
	slices.Sort(actions)
	e.actions = slices.Compact(actions)
	if r.Judge == nil || r.Kind.List == nil || r.Kind.Of == nil {
		wrong = append(wrong, errors.New("it has no Judge, or its kind no List or Of"))
	}
	if r.ResourceType != r.Kind.Type {
		wrong = append(wrong, fmt.Errorf("its resource type %q is not its kind's, %q", r.ResourceType, r.Kind.Type))
	}
	if len(r.Examples) == 0 {
		wrong = append(wrong, errors.New("it has no examples"))
	}
	return e, errors.Join(append(wrong, checkMeta(r.Meta))...)
}

var (
	kebab  = regexp.MustCompile(`^[a-z][a-z0-9]*(-[a-z0-9]+)*$`)
	snake  = regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	cfType = regexp.MustCompile(`^AWS::[A-Za-z0-9]+::[A-Za-z0-9]+$`)
)

func checkMeta(m rule.Meta) error {
	var wrong []error
	not := func(bad bool, format string, args ...any) {
		if bad {
			wrong = append(wrong, fmt.Errorf(format, args...))
		}
	}
	not(!kebab.MatchString(m.ID) || len(m.ID) > 63, "its id is not lower-case words joined by hyphens, 63 characters at most")
	not(m.Version < 1, "its version is not 1 or more")
	not(!cfType.MatchString(m.ResourceType), "its resource type %q is not like AWS::EC2::Volume", m.ResourceType)
	not(m.Title == "" || strings.HasSuffix(m.Title, ".") || strings.Contains(m.Title, "\n"), "its title is not one line without a full stop")
	not(m.Why == "" || m.Fix == "" || m.Severity == "", "why, fix or severity is missing")
	not(len(m.Citations) == 0, "it cites nothing")
	for _, c := range m.Citations {
		not(!strings.HasPrefix(c, "https://"), "citation %q is not an https address", c)
	}
	names := map[string]bool{}
	for _, p := range m.Params {
		not(!snake.MatchString(p.Name) || names[p.Name], "parameter %q is not in snake_case, or is there twice", p.Name)
		not(p.Description == "", "parameter %s has no description", p.Name)
		names[p.Name] = true
		switch p.Default.(type) {
		case int, float64, bool, string, []string:
			if err := p.Check(p.Default); err != nil {
				wrong = append(wrong, fmt.Errorf("default: %w", err))
			}
		default:
			not(true, "parameter %s has a default of type %T", p.Name, p.Default)
		}
	}
	return errors.Join(wrong...)
}

// examplePrices prices the examples; the table that ships cannot fail to load,
// which its own test holds.
func examplePrices(region string) price.Region {
	t, err := price.Load("")
	if err != nil {
		return price.Region{}
	}
	return t.Region(cmp.Or(region, "us-east-1"))
}

// judgeExamples judges each example as the engine would, twice.
func (r Rule[T]) judgeExamples() []Outcome {
	out := make([]Outcome, len(r.Examples))
	for i, x := range r.Examples {
		o := Outcome{Name: x.Name, Want: x.Want}
		params, err := r.With(x.Params)
		in := In{
			At: x.At, Params: params, Account: "123456789012", Region: cmp.Or(x.Region, "us-east-1"),
			Price: examplePrices(x.Region), Sighting: x.Sighting,
		}
		if in.At.IsZero() {
			in.At = ExampleTime
		}
		if err == nil {
			o.Verdict, err = judge(&r, in, x.Resource)
			again, _ := judge(&r, in, x.Resource)
			if fmt.Sprintf("%#v", o.Verdict) != fmt.Sprintf("%#v", again) {
				err = errors.Join(err, errors.New("judging it twice gives two verdicts"))
			}
		}
		cost := CostText(o.Verdict)
		if r.Category == rule.Security && !o.Verdict.Cost.Known {
			cost = "" // exposure has no price
		}
		o.Err = errors.Join(err, x.Want.differs(o.Verdict, cost))
		out[i] = o
	}
	return out
}

// differs says how v, and its cost as text, is not what is wanted.
func (w Want) differs(v rule.Verdict, cost string) error {
	var wrong []error
	not := func(name string, want, got any) {
		if want != got {
			wrong = append(wrong, fmt.Errorf("%s is %v, want %v", name, got, want))
		}
	}
	not("outcome", w.Outcome, v.Outcome)
	not("severity", w.Severity, v.Severity)
	not("cost", w.Cost, cost)
	not("since", stamp(w.Since), stamp(v.Since))
	not("decidable at", stamp(w.DecidableAt), stamp(v.DecidableAt))
	not("owner", w.Owner, v.Owner)
	if w.Confidence != 0 || w.Source != "" {
		if len(v.Evidence) == 0 {
			wrong = append(wrong, errors.New("there is no evidence"))
		} else {
			if w.Confidence != 0 {
				not("confidence", w.Confidence, v.Evidence[0].Confidence)
			}
			if w.Source != "" {
				not("source", w.Source, v.Evidence[0].Source)
			}
		}
	}
	for _, s := range w.Says {
		if !strings.Contains(v.Reason, s) && !strings.Contains(v.Recommendation, s) {
			wrong = append(wrong, fmt.Errorf("neither the reason (%s) nor the recommendation (%s) says %q", v.Reason, v.Recommendation, s))
		}
	}
	return errors.Join(wrong...)
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "unset"
	}
	return t.UTC().Format(time.RFC3339)
}

// CostText is a verdict's monthly cost for people, in USD: 11.65, 0.00–25.00,
// unknown, or nothing when it is no violation.
func CostText(v rule.Verdict) string {
	switch {
	case v.Outcome != rule.Violation:
		return ""
	case !v.Cost.Known:
		return "unknown"
	case cents(v.Cost.Low) == cents(v.Cost.High):
		return fmt.Sprintf("%.2f", v.Cost.High)
	}
	return fmt.Sprintf("%.2f–%.2f", v.Cost.Low, v.Cost.High)
}

func cents(usd float64) float64 { return math.Round(usd * 100) }

// needs is the same fact wanted by several rules.
type needs[T any] struct {
	fact inventory.Fact[T]
	of   []*T
}
