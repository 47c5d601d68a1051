package health

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
)

// Short names for what is written often.
const (
	up       = healthv1.ComponentState_COMPONENT_STATE_UP
	degraded = healthv1.ComponentState_COMPONENT_STATE_DEGRADED
	unknown  = healthv1.ComponentState_COMPONENT_STATE_UNKNOWN
	down     = healthv1.ComponentState_COMPONENT_STATE_DOWN
)

// glance is what one look saw of one component.
type glance struct {
	name, title string
	kind        healthv1.ComponentKind
	state       healthv1.ComponentState
	reason      string
	attributes  map[string]string
}

// good tells whether the look learnt that the component works.
func (g *glance) good() bool { return g.state == up || g.state == degraded }

// next is the component after a look, with its change of state or nil. One bad
// look is no verdict: DOWN and UNKNOWN need two in a row, at least apart from
// each other and at most lapse, or the first of them is forgotten. What was
// never looked at before is UNKNOWN until then. A look that is not newer than
// the last changes nothing.
func next(before *healthv1.Component, g *glance, at time.Time, apart, lapse time.Duration) (*healthv1.Component, *healthv1.ComponentTransition) {
	if before != nil && !at.After(before.GetCheckTime().AsTime()) {
		return before, nil
	}
	after := &healthv1.Component{
		Name: g.name, Title: clip(g.title, 200), Kind: g.kind, State: before.GetState(), SinceTime: before.GetSinceTime(),
		Reason: clip(g.reason, 2000), CheckTime: timestamppb.New(at), Attributes: g.attributes,
	}
	to := after.GetState()
	switch failing := before.GetFailingTime(); {
	case g.good():
		to = g.state
	case before == nil:
		to, after.FailingTime = unknown, timestamppb.New(at)
	case failing == nil || at.Sub(before.GetCheckTime().AsTime()) > lapse:
		after.FailingTime = timestamppb.New(at)
	default:
		after.FailingTime = failing
		if at.Sub(failing.AsTime()) >= apart {
			to = g.state
		}
	}
	if to == after.GetState() {
		return after, nil
	}
	t := &healthv1.ComponentTransition{
		Component: g.name, FromState: after.GetState(), ToState: to, Time: timestamppb.New(at), Reason: after.GetReason(),
	}
	after.State, after.SinceTime = to, t.GetTime()
	return after, t
}

// book is what this replica knows of the components, by name.
type book map[string]*leaf

// leaf is a component, and what is not recorded of it yet.
type leaf struct {
	component *healthv1.Component
	unsaid    []*healthv1.ComponentTransition
}

// maxUnsaid bounds the changes that are remembered of a component while they
// cannot be recorded; the oldest go first.
const maxUnsaid = 100

// note takes a look down.
func (b book) note(g *glance, at time.Time, apart, lapse time.Duration) {
	p := b[g.name]
	if p == nil {
		p = &leaf{}
		b[g.name] = p
	}
	c, t := next(p.component, g, at, apart, lapse)
	p.component = c
	if t != nil {
		p.unsaid = append(p.unsaid, t)
		p.unsaid = p.unsaid[max(0, len(p.unsaid)-maxUnsaid):]
	}
}

// adopt takes over what is recorded, except where this replica has looked
// since.
func (b book) adopt(recorded []*healthv1.Component) {
	for _, c := range recorded {
		if p := b[c.GetName()]; p == nil || !p.component.GetCheckTime().AsTime().After(c.GetCheckTime().AsTime()) {
			b[c.GetName()] = &leaf{component: c}
		}
	}
}

// keep forgets the components that are not named.
func (b book) keep(names map[string]bool) {
	maps.DeleteFunc(b, func(name string, _ *leaf) bool { return !names[name] })
}

// looks are what is to be recorded of a look at these components.
func (b book) looks(names map[string]bool) []*healthv1.ComponentLook {
	var out []*healthv1.ComponentLook
	for _, name := range slices.Sorted(maps.Keys(names)) {
		if p := b[name]; p != nil {
			out = append(out, &healthv1.ComponentLook{Component: p.component, Transitions: slices.Clone(p.unsaid)})
		}
	}
	return out
}

// show is how the components are for whoever asks at a time, the worst first. One
// that nobody has looked at for so long is UNKNOWN, whatever it was.
func (b book) show(at time.Time, lapse time.Duration) []*healthv1.Component {
	var out []*healthv1.Component
	for _, p := range b {
		c := proto.CloneOf(p.component)
		if last := c.GetCheckTime().AsTime(); at.Sub(last) > lapse {
			c.Reason = clip("not looked at since "+last.UTC().Format(time.RFC3339)+", when it was "+word(c.GetState())+": "+c.GetReason(), 2000)
			c.State, c.SinceTime = unknown, c.GetCheckTime()
		}
		out = append(out, c)
	}
	slices.SortFunc(out, func(a, b *healthv1.Component) int {
		return cmp.Or(cmp.Compare(b.GetState(), a.GetState()), cmp.Compare(a.GetKind(), b.GetKind()), cmp.Compare(a.GetName(), b.GetName()))
	})
	return out
}
