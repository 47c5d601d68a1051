package health

import (
	"fmt"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	"nightshift.dev/pkg/aws"
)

var noon = time.Date(2026, 3, 2, 12, 0, 0, 0, time.UTC)

const (
	apart = 20 * time.Second
	lapse = 4 * time.Minute
)

func TestStatesOfAComponent(t *testing.T) {
	t.Parallel()
	type step struct {
		after time.Duration // since the step before
		sees  healthv1.ComponentState
		want  healthv1.ComponentState
	}
	const minute = time.Minute
	for name, steps := range map[string][]step{
		"what is well is well at once":                  {{0, up, up}, {minute, up, up}},
		"one failed look is no verdict":                 {{0, up, up}, {minute, down, up}, {minute, up, up}, {minute, down, up}, {minute, up, up}},
		"two in a row are":                              {{0, up, up}, {minute, down, up}, {minute, down, down}, {minute, down, down}, {minute, up, up}},
		"two at the same moment are one":                {{0, up, up}, {minute, down, up}, {time.Second, down, up}, {time.Second, down, up}, {minute, down, down}},
		"the first that fails is unknown until then":    {{0, down, unknown}, {minute, down, down}},
		"the first that fails and then is well":         {{0, down, unknown}, {minute, up, up}},
		"degraded at once, and well at once":            {{0, up, up}, {minute, degraded, degraded}, {minute, up, up}},
		"a degraded look is none that failed":           {{0, up, up}, {minute, down, up}, {minute, degraded, degraded}, {minute, down, degraded}, {minute, down, down}},
		"not to know counts as failed":                  {{0, up, up}, {minute, unknown, up}, {minute, unknown, unknown}, {minute, down, down}, {minute, unknown, unknown}},
		"the newest of two failed looks says how":       {{0, up, up}, {minute, unknown, up}, {minute, down, down}},
		"a failed look long ago is none before this":    {{0, up, up}, {minute, down, up}, {time.Hour, down, up}, {minute, down, down}},
		"what was down and not looked at for a while":   {{0, up, up}, {minute, down, up}, {minute, down, down}, {time.Hour, down, down}, {minute, up, up}},
		"a look that is not newer than the last":        {{0, up, up}, {minute, down, up}, {-time.Second, down, up}, {0, up, up}, {2 * minute, down, down}},
		"the same look again, as by another replica":    {{0, up, up}, {minute, down, up}, {0, down, up}, {0, down, up}},
		"one that is not looked at for long keeps well": {{0, up, up}, {time.Hour, up, up}},
	} {
		var c *healthv1.Component
		at := noon
		for i, s := range steps {
			at = at.Add(s.after)
			before := c
			var changed *healthv1.ComponentTransition
			c, changed = next(c, &glance{name: "nats", kind: healthv1.ComponentKind_COMPONENT_KIND_BUS, state: s.sees, reason: fmt.Sprint("step ", i)}, at, apart, lapse)
			if c.GetState() != s.want {
				t.Errorf("%s: step %d saw %s: %s, want %s", name, i, word(s.sees), word(c.GetState()), word(s.want))
			}
			if differs := before.GetState() != c.GetState(); differs != (changed != nil) {
				t.Errorf("%s: step %d: %s to %s, and the change is %v", name, i, word(before.GetState()), word(c.GetState()), changed)
			}
			if changed != nil && (changed.GetFromState() != before.GetState() || changed.GetToState() != c.GetState() || !changed.GetTime().AsTime().Equal(at) || !c.GetSinceTime().AsTime().Equal(at)) {
				t.Errorf("%s: step %d: %v for %v", name, i, changed, c)
			}
		}
	}
}

// Whatever is seen whenever: DOWN takes two failed looks in a row that are
// apart, a change is told exactly when there is one, and times only rise.
func TestStatesOfAnyComponent(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		var (
			c       *healthv1.Component
			at      = noon
			failing time.Time // the first of the failed looks in a row
			last    time.Time
			tail    healthv1.ComponentState
		)
		for range rapid.IntRange(1, 40).Draw(t, "looks") {
			at = at.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
			g := &glance{name: "x", kind: 1, state: rapid.SampledFrom([]healthv1.ComponentState{up, degraded, unknown, down}).Draw(t, "sees")}
			before := c
			var changed *healthv1.ComponentTransition
			c, changed = next(c, g, at, apart, lapse)
			if before != nil && !at.After(last) {
				if changed != nil || c != before {
					t.Fatalf("a look at the same time changed %v to %v", before, c)
				}
				continue
			}
			if g.good() || at.Sub(last) > lapse {
				failing = time.Time{}
			}
			if !g.good() && failing.IsZero() {
				failing = at
			}
			enough := !g.good() && before != nil && at.Sub(failing) >= apart
			last = at
			switch {
			case g.good() && c.GetState() != g.state:
				t.Fatalf("saw %s: %v", word(g.state), c)
			case enough && c.GetState() != g.state:
				t.Fatalf("failed since %s, and at %s: %v", failing, at, c)
			case !g.good() && !enough && before != nil && c.GetState() != before.GetState():
				t.Fatalf("one failed look made %s of %s", word(c.GetState()), word(before.GetState()))
			case before == nil && !g.good() && c.GetState() != unknown:
				t.Fatalf("the first look failed: %v", c)
			}
			if changed != nil {
				if changed.GetFromState() != tail || changed.GetToState() == tail {
					t.Fatalf("from %s to %s after %s", word(changed.GetFromState()), word(changed.GetToState()), word(tail))
				}
				tail = changed.GetToState()
			}
			if c.GetState() != tail || c.GetSinceTime().AsTime().After(c.GetCheckTime().AsTime()) {
				t.Fatalf("%v after a change to %s", c, word(tail))
			}
		}
	})
}

func TestABookRemembersWhatIsNotRecorded(t *testing.T) {
	t.Parallel()
	b := book{}
	look := func(n int, s healthv1.ComponentState) {
		b.note(&glance{name: "nats", kind: 2, state: s, reason: "r"}, noon.Add(time.Duration(n)*time.Minute), apart, lapse)
	}
	for n, s := range []healthv1.ComponentState{up, down, down, up} {
		look(n, s)
	}
	unsaid := b.looks(map[string]bool{"nats": true})[0].GetTransitions()
	if len(unsaid) != 3 || unsaid[1].GetToState() != down || unsaid[2].GetToState() != up {
		t.Errorf("unsaid: %v", unsaid)
	}
	// What is older than what was seen here is not taken over.
	b.adopt([]*healthv1.Component{{Name: "nats", State: down, CheckTime: timestamppb.New(noon)}})
	if b["nats"].component.GetState() != up || len(b["nats"].unsaid) != 3 {
		t.Errorf("an older record was taken over: %v", b["nats"])
	}
	b.adopt([]*healthv1.Component{{Name: "nats", State: degraded, CheckTime: timestamppb.New(noon.Add(3 * time.Minute))}})
	if b["nats"].component.GetState() != degraded || len(b["nats"].unsaid) != 0 {
		t.Errorf("a record of the same look was not taken over: %v", b["nats"])
	}
	for n := range 2 * maxUnsaid {
		look(10+n, []healthv1.ComponentState{up, degraded}[n%2])
	}
	if n := len(b["nats"].unsaid); n != maxUnsaid {
		t.Errorf("%d changes are remembered", n)
	}
	// What nobody looks at is not known.
	old := b.show(noon.Add(24*time.Hour), lapse)[0]
	if old.GetState() != unknown || b["nats"].component.GetState() == unknown {
		t.Errorf("after a day without a look: %v", old)
	}
}

func TestHowAnAccountIs(t *testing.T) {
	t.Parallel()
	ago := func(d time.Duration) *timestamppb.Timestamp { return timestamppb.New(noon.Add(-d)) }
	for name, x := range map[string]struct {
		scan    *healthv1.AccountScan
		entered error
		want    healthv1.ComponentState
	}{
		"fresh":                       {&healthv1.AccountScan{ScanTime: ago(0), CompleteTime: ago(time.Hour), Scopes: 4}, nil, up},
		"denied":                      {&healthv1.AccountScan{ScanTime: ago(0), CompleteTime: ago(time.Hour)}, &aws.Error{Class: aws.Denied}, down},
		"wrong credentials":           {&healthv1.AccountScan{}, &aws.Error{Class: aws.Credentials}, down},
		"AWS does not answer":         {&healthv1.AccountScan{ScanTime: ago(0), CompleteTime: ago(0)}, &aws.Error{Class: aws.Unreachable}, unknown},
		"throttled":                   {&healthv1.AccountScan{ScanTime: ago(0), CompleteTime: ago(0)}, &aws.Error{Class: aws.Throttled}, unknown},
		"never scanned":               {&healthv1.AccountScan{}, nil, unknown},
		"never completely":            {&healthv1.AccountScan{ScanTime: ago(0)}, nil, degraded},
		"never, for all fails":        {&healthv1.AccountScan{Scopes: 2, FailedScopes: 2, Error: "x"}, nil, down},
		"stale":                       {&healthv1.AccountScan{ScanTime: ago(0), CompleteTime: ago(14 * time.Hour)}, nil, degraded},
		"some regions fail":           {&healthv1.AccountScan{ScanTime: ago(0), CompleteTime: ago(time.Hour), Scopes: 4, FailedScopes: 1}, nil, degraded},
		"all fail since a short time": {&healthv1.AccountScan{ScanTime: ago(0), CompleteTime: ago(time.Hour), Scopes: 4, FailedScopes: 4}, nil, degraded},
	} {
		if got, why := judgeAccount(x.scan, x.entered, noon, 13*time.Hour); got != x.want || why == "" {
			t.Errorf("%s: %s because %q, want %s", name, word(got), why, word(x.want))
		}
	}
}
