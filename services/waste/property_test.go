package waste

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// The contract of every rule, held on resources and facts nobody would think
// of.

// past draws a time at or before the scan, now and then near a threshold.
func past(t *rapid.T, name string, at time.Time) time.Time {
	back := rapid.OneOf(
		rapid.Int64Range(0, int64(700*scan.Day/time.Second)),
		rapid.Int64Range(0, int64(2*scan.Day/time.Second)),
		rapid.Map(rapid.IntRange(-3, 3), func(s int) int64 { return int64(30*scan.Day/time.Second) + int64(s) }),
		rapid.Map(rapid.IntRange(-3, 3), func(s int) int64 { return int64(14*scan.Day/time.Second) + int64(s) }),
		rapid.Map(rapid.IntRange(-3, 3), func(s int) int64 { return int64(inventory.MetricRetention/time.Second) + int64(s) }),
	).Draw(t, name)
	return at.Add(-time.Duration(back) * time.Second)
}

func maybe[T any](t *rapid.T, name string, draw func() T) (v T) {
	if rapid.Bool().Draw(t, name) {
		return draw()
	}
	return v
}

// fact draws a fact in any of its states, those that make no sense included.
func fact[T any](t *rapid.T, name string, draw func() T) rule.Fact[T] {
	at := example("2026-09-01 12:00")
	switch rapid.IntRange(0, 4).Draw(t, name) {
	case 0:
		return rule.Fact[T]{}
	case 1:
		return rule.Fact[T]{Failed: true, Why: rapid.String().Draw(t, name+" why"), Source: "aws:Call"}
	case 2:
		return rule.Fact[T]{Why: rapid.String().Draw(t, name+" why"), Source: "aws:Call", At: at}
	default:
		return rule.Known(draw(), "aws:Call", at)
	}
}

func drawIn(t *rapid.T, m rule.Meta) scan.In {
	in := scan.In{
		At: example("2026-09-01 12:00").Add(time.Duration(rapid.IntRange(0, 100_000).Draw(t, "at")) * time.Second), Params: m.Defaults(),
		Account: "123456789012", Region: rapid.SampledFrom([]string{"us-east-1", "xx-nowhere-1"}).Draw(t, "region"),
	}
	in.Price = maybe(t, "priced", func() price.Region { return prices.Region(in.Region) })
	in.Params["min_days"] = rapid.OneOf(rapid.Just(14), rapid.Just(30), rapid.IntRange(1, 600)).Draw(t, "min_days")
	in.Sighting = maybe(t, "sighted", func() rule.Sighting {
		s := rule.Sighting{FirstSeen: past(t, "first seen", in.At)}
		s.Before = maybe(t, "before", func() time.Time { return past(t, "before at", s.FirstSeen) })
		return s
	})
	return in
}

func drawDatapoint(t *rapid.T, name string, at time.Time) rule.Fact[inventory.LastDatapoint] {
	return fact(t, name, func() inventory.LastDatapoint {
		l := inventory.LastDatapoint{From: at.Add(-inventory.MetricRetention).Truncate(time.Hour)}
		l.Hour = maybe(t, name+" there", func() time.Time { return past(t, name+" hour", at).Truncate(time.Hour) })
		return l
	})
}

func drawTags(t *rapid.T) map[string]string {
	return rapid.MapOfN(rapid.OneOf(rapid.SampledFrom([]string{
		"aws:autoscaling:groupName", "kubernetes.io/created-for/pvc/name", "kubernetes.io/cluster/a", "kubernetes.io/cluster/b", "Owner",
		"eks:cluster-name", "aws:cloudformation:stack-name",
	}), rapid.String()), rapid.String(), 0, 4).Draw(t, "tags")
}

func drawVolume(t *rapid.T, at time.Time) inventory.Volume {
	id := fmt.Sprintf("vol-%d", rapid.IntRange(0, 5).Draw(t, "volume id"))
	v := inventory.Volume{
		Resource: inventory.Resource{ARN: exampleARN("volume/" + id), ID: id, Type: "AWS::EC2::Volume", Tags: drawTags(t)},
		State: rapid.OneOf(rapid.Just("available"), rapid.SampledFrom([]string{"in-use", "creating", "deleting", "deleted", "error", "", "?"})).
			Draw(t, "state"),
		VolumeType: rapid.SampledFrom([]string{"gp2", "gp3", "io1", "io2", "st1", "sc1", "standard", "gp9", ""}).Draw(t, "type"),
		SizeGiB:    rapid.IntRange(-1, 20000).Draw(t, "size"), IOPS: rapid.IntRange(-1, 90000).Draw(t, "iops"),
		ThroughputMiBps: rapid.IntRange(-1, 2000).Draw(t, "throughput"),
		LastRead:        drawDatapoint(t, "last read", at), HasSnapshot: fact(t, "snapshot", func() bool { return rapid.Bool().Draw(t, "has one") }),
	}
	v.Created = maybe(t, "created", func() time.Time { return past(t, "created at", at) })
	return v
}

func drawInstance(t *rapid.T, at time.Time) inventory.Instance {
	i := inventory.Instance{
		Resource: inventory.Resource{ARN: exampleARN("instance/i-1"), ID: "i-1", Type: "AWS::EC2::Instance", Tags: drawTags(t)},
		State: rapid.OneOf(rapid.Just("stopped"), rapid.SampledFrom([]string{"running", "pending", "stopping", "shutting-down", "terminated", ""})).
			Draw(t, "state"),
		LastCPU: drawDatapoint(t, "last cpu", at),
		Volumes: fact(t, "volumes", func() []inventory.Volume {
			vs := make([]inventory.Volume, rapid.IntRange(0, 3).Draw(t, "volumes"))
			for n := range vs {
				vs[n] = drawVolume(t, at)
			}
			return vs
		}),
		Addresses: fact(t, "addresses", func() []inventory.Address {
			return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) inventory.Address {
				return inventory.Address{
					IP:           fmt.Sprintf("198.51.100.%d", rapid.IntRange(1, 9).Draw(t, "ip")),
					AllocationID: rapid.SampledFrom([]string{"", "eipalloc-1", "eipalloc-2"}).Draw(t, "allocation"), Own: rapid.Bool().Draw(t, "own"),
				}
			}), 0, 3).Draw(t, "addresses")
		}),
	}
	i.Launched = maybe(t, "launched", func() time.Time { return past(t, "launched at", at) })
	stop := past(t, "reason at", at).Format(time.DateTime)
	i.TransitionReason = rapid.OneOf(
		rapid.SampledFrom([]string{"", "User initiated (" + stop + " GMT)", "Server.Odd (why) (" + stop + " GMT)", "User initiated (9999-99-99 99:99:99 GMT)"}),
		rapid.String(),
	).Draw(t, "reason")
	for n := range rapid.IntRange(0, 3).Draw(t, "devices") {
		i.Devices = append(i.Devices, inventory.Device{VolumeID: fmt.Sprintf("vol-%d", n), DeleteOnTermination: rapid.Bool().Draw(t, "goes too")})
	}
	return i
}

// subject is a rule under test, on one drawn resource.
type subject[T any] struct {
	draw  func(t *rapid.T, at time.Time) T
	judge func(scan.In, T) rule.Verdict
	// asks tells whether the metric is asked for.
	asks func(scan.In, T) bool
	// known tells whether anything is known of the time the state began.
	known func(scan.In, T) bool
	// shuffle returns the same resource with its lists in another order.
	shuffle func(T, *rand.Rand) T
	// metric replaces the metric's fact.
	metric func(T, rule.Fact[inventory.LastDatapoint]) T
}

func meta(id string) rule.Meta {
	ms := Rules.Metas()
	return ms[slices.IndexFunc(ms, func(m rule.Meta) bool { return m.ID == id })]
}

func properties[T any](t *testing.T, id string, s subject[T]) {
	t.Helper()
	m := meta(id)
	property := func(name string, check func(t *rapid.T, in scan.In, r T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				in := drawIn(t, m)
				check(t, in, s.draw(t, in.At))
			})
		})
	}
	property("keeps the contract", func(t *rapid.T, in scan.In, r T) {
		v := s.judge(in, r)
		if err := scan.WellFormed(v); err != nil {
			t.Fatal(err)
		}
		if len(v.Evidence) == 0 {
			t.Fatal("no evidence")
		}
		if v.Outcome == rule.InsufficientData && !v.DecidableAt.After(in.At) {
			t.Fatalf("decidable since %s, and it did not decide at %s", v.DecidableAt, in.At)
		}
		if v.Since.After(in.At) {
			t.Fatalf("since %s, in the future", v.Since)
		}
	})
	property("is pure", func(t *rapid.T, in scan.In, r T) {
		before := fmt.Sprintf("%#v %#v", in, r)
		a, b := s.judge(in, r), s.judge(in, r)
		if fmt.Sprintf("%#v", a) != fmt.Sprintf("%#v", b) {
			t.Fatalf("twice the same, and %#v is not %#v", a, b)
		}
		if fmt.Sprintf("%#v %#v", in, r) != before {
			t.Fatal("it changed its input")
		}
	})
	property("flags nothing on unknown evidence", func(t *rapid.T, in scan.In, r T) {
		if v := s.judge(in, r); v.Outcome == rule.Violation && !s.known(in, r) {
			t.Fatalf("%s on nothing known: %s", v.Outcome, v.Reason)
		}
	})
	property("does not depend on the order of lists", func(t *rapid.T, in scan.In, r T) {
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		a, b := s.judge(in, r), s.judge(in, s.shuffle(r, rng))
		if fmt.Sprintf("%#v", a) != fmt.Sprintf("%#v", b) {
			t.Fatalf("%#v\nis not\n%#v", a, b)
		}
	})
	property("a violation does not mend itself with time", func(t *rapid.T, in scan.In, r T) {
		v := s.judge(in, r)
		in.At = in.At.Add(time.Duration(rapid.Int64Range(0, int64(400*scan.Day)).Draw(t, "later")))
		w := s.judge(in, r)
		if v.Outcome == rule.Violation && w.Outcome != rule.Violation {
			t.Fatalf("%s, and later %s: %s", v.Reason, w.Outcome, w.Reason)
		}
		if v.Outcome == rule.NotApplicable && w.Outcome != rule.NotApplicable {
			t.Fatalf("not applicable, and later %s: %s", w.Outcome, w.Reason)
		}
	})
	property("a stricter threshold flags no more", func(t *rapid.T, in scan.In, r T) {
		before := s.judge(in, r)
		in.Params = maps.Clone(in.Params)
		in.Params["min_days"] = in.Params.Int("min_days") + rapid.IntRange(1, 500).Draw(t, "more")
		if v := s.judge(in, r); v.Outcome == rule.Violation && before.Outcome != rule.Violation {
			t.Fatalf("%s (%s), and with a longer threshold %s (%s)", before.Outcome, before.Reason, v.Outcome, v.Reason)
		}
	})
	property("what is undecidable is decided when it says", func(t *rapid.T, in scan.In, r T) {
		v := s.judge(in, r)
		if v.Outcome != rule.InsufficientData {
			return
		}
		// What the promise stands on is remembered from this scan at the latest.
		seen := v.DecidableAt.Add(-scan.Days(in.Params.Int("min_days")))
		if !in.Sighting.FirstSeen.Equal(seen) {
			in.Sighting = rule.Sighting{FirstSeen: seen}
		}
		in.At = v.DecidableAt
		if w := s.judge(in, r); w.Outcome == rule.InsufficientData {
			t.Fatalf("promised for %s, and then %s", v.DecidableAt, w.Reason)
		}
	})
	property("a metric that is not asked for does not matter", func(t *rapid.T, in scan.In, r T) {
		none := s.metric(r, rule.Fact[inventory.LastDatapoint]{})
		if s.asks(in, none) {
			return
		}
		a, b := s.judge(in, none), s.judge(in, s.metric(r, drawDatapoint(t, "other", in.At)))
		if a.Outcome != b.Outcome || a.Severity != b.Severity || !a.Since.Equal(b.Since) || a.Reason != b.Reason {
			t.Fatalf("%s (%s) without, %s (%s) with", a.Outcome, a.Reason, b.Outcome, b.Reason)
		}
	})
	property("says the same in every scan", func(t *rapid.T, in scan.In, r T) {
		// When our own observation is not enough alone, a metric can make it
		// more precise until it is.
		in.Sighting.Before = time.Time{}
		v := s.judge(in, r)
		if v.Outcome != rule.Violation {
			return
		}
		in.At = in.At.Add(time.Duration(rapid.IntRange(1, 3600).Draw(t, "later")) * time.Second)
		w := s.judge(in, r)
		if !w.Since.Equal(v.Since) || w.Cost != v.Cost || w.Severity != v.Severity || w.Recommendation != v.Recommendation || w.Owner != v.Owner {
			t.Fatalf("%#v\nis not\n%#v", v, w)
		}
	})
}

func TestStoppedProperties(t *testing.T) {
	t.Parallel()
	properties(t, "ec2-stopped", subject[inventory.Instance]{
		draw: drawInstance, judge: judgeStopped,
		asks: func(in scan.In, i inventory.Instance) bool { _, undecided := stoppedByListing(in, i); return undecided },
		known: func(in scan.In, i inventory.Instance) bool {
			_, dated := i.TransitionTime()
			return i.State == "stopped" && (dated || i.LastCPU.Known || !in.Sighting.FirstSeen.IsZero())
		},
		shuffle: func(i inventory.Instance, rng *rand.Rand) inventory.Instance {
			i.Volumes.Value, i.Addresses.Value, i.Devices = slices.Clone(i.Volumes.Value), slices.Clone(i.Addresses.Value), slices.Clone(i.Devices)
			rng.Shuffle(len(i.Volumes.Value), func(a, b int) {
				i.Volumes.Value[a], i.Volumes.Value[b] = i.Volumes.Value[b], i.Volumes.Value[a]
			})
			rng.Shuffle(len(i.Addresses.Value), func(a, b int) {
				i.Addresses.Value[a], i.Addresses.Value[b] = i.Addresses.Value[b], i.Addresses.Value[a]
			})
			rng.Shuffle(len(i.Devices), func(a, b int) { i.Devices[a], i.Devices[b] = i.Devices[b], i.Devices[a] })
			return i
		},
		metric: func(i inventory.Instance, f rule.Fact[inventory.LastDatapoint]) inventory.Instance {
			i.LastCPU = f
			return i
		},
	})
}

func TestUnattachedProperties(t *testing.T) {
	t.Parallel()
	properties(t, "ebs-unattached", subject[inventory.Volume]{
		draw: drawVolume, judge: judgeUnattached,
		asks: func(in scan.In, v inventory.Volume) bool {
			_, undecided := unattachedByListing(in, v)
			return undecided
		},
		known: func(in scan.In, v inventory.Volume) bool {
			return v.State == "available" && (v.LastRead.Known || !in.Sighting.FirstSeen.IsZero())
		},
		shuffle: func(v inventory.Volume, _ *rand.Rand) inventory.Volume { return v },
		metric: func(v inventory.Volume, f rule.Fact[inventory.LastDatapoint]) inventory.Volume {
			v.LastRead = f
			return v
		},
	})
}
