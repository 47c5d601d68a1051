package waste

import (
	"fmt"
	"maps"
	"math"
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

// The contract of the rules that look at use, age and price, held on resources
// and facts nobody would think of.

// contract is a rule under test.
type contract[T any] struct {
	draw  func(t *rapid.T, at time.Time) T
	judge func(scan.In, T) rule.Verdict
	// known tells whether what a violation stands on is known.
	known func(scan.In, T) bool
	// shuffle returns the same resource with its lists in another order; nil
	// for one without.
	shuffle func(T, *rand.Rand) T
	// strict makes the parameters of a kind stricter: flagging less.
	strict func(t *rapid.T, p rule.Params)
}

func (c contract[T]) hold(t *testing.T, id string) {
	t.Helper()
	m := meta(id)
	property := func(name string, check func(t *rapid.T, in scan.In, r T)) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				in := scan.In{
					At:     example("2026-09-01 12:00").Add(time.Duration(rapid.IntRange(0, 100_000).Draw(t, "at")) * time.Second),
					Params: m.Defaults(), Account: "123456789012",
					Region: rapid.SampledFrom([]string{"us-east-1", "xx-nowhere-1"}).Draw(t, "region"),
				}
				in.Price = maybe(t, "priced", func() price.Region { return prices.Region(in.Region) })
				in.Sighting = maybe(t, "sighted", func() rule.Sighting { return rule.Sighting{FirstSeen: past(t, "first seen", in.At)} })
				if rapid.Bool().Draw(t, "other parameters") {
					c.strict(t, in.Params)
				}
				check(t, in, c.draw(t, in.At))
			})
		})
	}
	property("keeps the contract", func(t *rapid.T, in scan.In, r T) {
		v := c.judge(in, r)
		if err := scan.WellFormed(v); err != nil {
			t.Fatal(err)
		}
		if len(v.Evidence) == 0 {
			t.Fatal("no evidence")
		}
		if !v.DecidableAt.IsZero() && !v.DecidableAt.After(in.At) {
			t.Fatalf("decidable since %s, and it did not decide at %s", v.DecidableAt, in.At)
		}
		if v.Since.After(in.At) {
			t.Fatalf("since %s, in the future", v.Since)
		}
		if !in.Price.Nothing().Known && v.Cost.Known {
			t.Fatalf("costs %v without a price", v.Cost)
		}
	})
	property("is pure", func(t *rapid.T, in scan.In, r T) {
		before := fmt.Sprintf("%#v %#v", in, r)
		a, b := c.judge(in, r), c.judge(in, r)
		if fmt.Sprintf("%#v", a) != fmt.Sprintf("%#v", b) {
			t.Fatalf("twice the same, and %#v is not %#v", a, b)
		}
		if fmt.Sprintf("%#v %#v", in, r) != before {
			t.Fatal("it changed its input")
		}
	})
	property("flags nothing on unknown evidence", func(t *rapid.T, in scan.In, r T) {
		if v := c.judge(in, r); v.Outcome == rule.Violation && !c.known(in, r) {
			t.Fatalf("%s on nothing known: %s", v.Outcome, v.Reason)
		}
	})
	property("stricter parameters flag no more", func(t *rapid.T, in scan.In, r T) {
		before := c.judge(in, r)
		strict := in
		strict.Params = maps.Clone(in.Params)
		c.strict(t, strict.Params)
		if v := c.judge(strict, r); v.Outcome == rule.Violation && before.Outcome != rule.Violation {
			t.Fatalf("%s (%s) with %v, and %s (%s) with %v", before.Outcome, before.Reason, in.Params, v.Outcome, v.Reason, strict.Params)
		}
	})
	property("says the same in every scan", func(t *rapid.T, in scan.In, r T) {
		v := c.judge(in, r)
		if v.Outcome != rule.Violation {
			return
		}
		in.At = in.At.Add(time.Duration(rapid.IntRange(1, 3600).Draw(t, "later")) * time.Second)
		w := c.judge(in, r)
		if w.Outcome != v.Outcome || !w.Since.Equal(v.Since) || w.Cost != v.Cost || w.Severity != v.Severity || w.Reason != v.Reason ||
			w.Recommendation != v.Recommendation || w.Owner != v.Owner {
			t.Fatalf("%#v\nis not\n%#v", v, w)
		}
	})
	if c.shuffle != nil {
		property("does not depend on the order of lists", func(t *rapid.T, in scan.In, r T) {
			a, b := c.judge(in, r), c.judge(in, c.shuffle(r, rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))))
			if a.Outcome != b.Outcome || a.Severity != b.Severity || a.Cost != b.Cost || a.Owner != b.Owner {
				t.Fatalf("%#v\nis not\n%#v", a, b)
			}
		})
	}
}

// stricter lowers or raises one number parameter within its bounds.
func stricter(t *rapid.T, p rule.Params, name string, lower bool) {
	switch v := p[name].(type) {
	case float64:
		if f := rapid.Float64Range(0.1, 1).Draw(t, name); lower {
			p[name] = max(v*f, 0.1)
		} else {
			p[name] = v / f
		}
	case int:
		if n := rapid.IntRange(0, 500).Draw(t, name); lower {
			p[name] = max(v-n, 1)
		} else {
			p[name] = v + n
		}
	}
}

func drawUsage(t *rapid.T, name string, at time.Time) rule.Fact[inventory.Usage] {
	return fact(t, name, func() inventory.Usage {
		var u inventory.Usage
		busy := rapid.IntRange(0, 3).Draw(t, name+" busy") == 0
		for d := range u {
			u[d] = inventory.UsageDay{From: at.Truncate(time.Hour).Add(-scan.Days(d + 1)), Hours: 24}
			if rapid.IntRange(0, 20).Draw(t, name+" gap") == 0 {
				u[d].Hours = rapid.IntRange(0, 24).Draw(t, name+" hours")
			}
			u[d].Average = rapid.Float64Range(0, 4.9).Draw(t, name+" average")
			if busy && rapid.Bool().Draw(t, name+" busy day") {
				u[d].Average = rapid.Float64Range(0, 100).Draw(t, name+" busy average")
			}
			u[d].Maximum = u[d].Average + rapid.Float64Range(0, 16).Draw(t, name+" more")
			u[d].Busiest = u[d].From.Add(5 * time.Hour)
		}
		return u
	})
}

func drawRunning(t *rapid.T, at time.Time) inventory.Instance {
	i := runningExample(
		inState(rapid.OneOf(rapid.Just("running"), rapid.SampledFrom([]string{"stopped", "terminated", "pending", ""})).Draw(t, "state")),
		ofType(rapid.OneOf(rapid.Just("m5.large"), rapid.SampledFrom([]string{"g5.xlarge", "t3.nano", "x9.huge", ""})).Draw(t, "type")))
	i.Launched, i.Created, i.Tags = time.Time{}, time.Time{}, drawTags(t)
	if rapid.IntRange(0, 9).Draw(t, "launched") > 0 {
		i.Launched = rapid.OneOf(
			rapid.Just(at.Add(-scan.Days(30))), rapid.Just(at.Add(-scan.Days(7))), rapid.Just(at.Add(-scan.Days(7)+time.Second)),
			rapid.Map(rapid.IntRange(-10, 400), func(h int) time.Time { return at.Add(-time.Duration(h) * time.Hour) }),
		).Draw(t, "launched at")
		i.Created = i.Launched
	}
	i.Lifecycle = rapid.SampledFrom([]string{"", "", "spot"}).Draw(t, "lifecycle")
	i.Platform = rapid.SampledFrom([]string{"Linux/UNIX", "", "Windows"}).Draw(t, "platform")
	i.Tenancy = rapid.SampledFrom([]string{"default", "", "host"}).Draw(t, "tenancy")
	i.CPU, i.Memory = drawUsage(t, "cpu", at), drawUsage(t, "memory", at)
	return i
}

func TestIdleCPUProperties(t *testing.T) {
	t.Parallel()
	contract[inventory.Instance]{
		draw: drawRunning, judge: judgeIdleCPU,
		known: func(in scan.In, i inventory.Instance) bool {
			return i.State == "running" && i.CPU.Known && !i.Launched.IsZero() && i.InstanceType != "" && !isAccelerated(i.InstanceType)
		},
		strict: func(t *rapid.T, p rule.Params) {
			stricter(t, p, "threshold", true)
			stricter(t, p, "burst", true)
		},
	}.hold(t, "ec2-idle-cpu")
}

func TestIdleMemoryProperties(t *testing.T) {
	t.Parallel()
	contract[inventory.Instance]{
		draw: drawRunning, judge: judgeIdleMemory,
		known: func(in scan.In, i inventory.Instance) bool {
			return i.State == "running" && i.Memory.Known && !i.Launched.IsZero()
		},
		strict: func(t *rapid.T, p rule.Params) { stricter(t, p, "threshold", true) },
	}.hold(t, "ec2-idle-memory")
}

// More use never makes an instance idle, and a violation has every day below
// the threshold.
func TestIdleIsMonotone(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := scan.In{At: scan.ExampleTime, Params: meta("ec2-idle-cpu").Defaults(), Region: "us-east-1", Price: prices.Region("us-east-1")}
		i := drawRunning(t, in.At)
		before := judgeIdleCPU(in, i)
		if before.Outcome == rule.Violation {
			hours := 0
			for _, d := range i.CPU.Value {
				if hours += d.Hours; d.Average >= idleCPU || d.Maximum >= idleBurst {
					t.Fatalf("idle with %+v", d)
				}
			}
			if hours < 152 || in.Ago(i.Launched) < scan.Days(7) {
				t.Fatalf("idle with %d hours, started %s", hours, i.Launched)
			}
		}
		d := &i.CPU.Value[rapid.IntRange(0, 6).Draw(t, "day")]
		d.Average += rapid.Float64Range(0, 50).Draw(t, "more average")
		d.Maximum += rapid.Float64Range(0, 50).Draw(t, "more maximum")
		after := judgeIdleCPU(in, i)
		if after.Outcome == rule.Violation && before.Outcome != rule.Violation || before.Outcome == rule.Compliant && after.Outcome != rule.Compliant {
			t.Fatalf("%s (%s), and with more use %s (%s)", before.Outcome, before.Reason, after.Outcome, after.Reason)
		}
	})
}

func TestSnapshotProperties(t *testing.T) {
	t.Parallel()
	contract[inventory.Snapshot]{
		judge: judgeSnapshot,
		draw: func(t *rapid.T, at time.Time) inventory.Snapshot {
			s := snapshotExample()
			s.State = rapid.OneOf(rapid.Just("completed"), rapid.SampledFrom([]string{"pending", "error", "recoverable", ""})).Draw(t, "state")
			s.VolumeID = rapid.SampledFrom([]string{"vol-1", "vol-ffffffff", ""}).Draw(t, "volume")
			s.SizeGiB, s.FullBytes = rapid.IntRange(-1, 20000).Draw(t, "size"), rapid.Int64Range(-1, 1<<46).Draw(t, "full")
			s.Tier = rapid.SampledFrom([]string{"", "standard", "archive", "lukewarm"}).Draw(t, "tier")
			s.Description = rapid.OneOf(rapid.Just(""), rapid.Just("This snapshot is created by the AWS Backup service."), rapid.String()).Draw(t, "description")
			s.Tags = drawTags(t)
			s.Created = maybe(t, "created", func() time.Time { return past(t, "created at", at) })
			s.Images = fact(t, "images", func() []string {
				return rapid.SliceOfN(rapid.SampledFrom([]string{"ami-1", "ami-2", "ami-3"}), 0, 3).Draw(t, "used by")
			})
			s.VolumeExists = fact(t, "exists", func() bool { return rapid.Bool().Draw(t, "there") })
			s.OthersLeft = fact(t, "others", func() bool { return rapid.Bool().Draw(t, "left") })
			return s
		},
		known: func(in scan.In, s inventory.Snapshot) bool {
			return s.State == "completed" && s.Images.Known && len(s.Images.Value) == 0 && !s.Created.IsZero() &&
				(s.Volume() == "" || s.VolumeExists.Known && (s.VolumeExists.Value || s.OthersLeft.Known))
		},
		strict: func(t *rapid.T, p rule.Params) { stricter(t, p, "min_days", false) },
		shuffle: func(s inventory.Snapshot, rng *rand.Rand) inventory.Snapshot {
			s.Images.Value = slices.Clone(s.Images.Value)
			rng.Shuffle(len(s.Images.Value), func(a, b int) { s.Images.Value[a], s.Images.Value[b] = s.Images.Value[b], s.Images.Value[a] })
			return s
		},
	}.hold(t, "ebs-snapshot-old")
}

func TestAddressProperties(t *testing.T) {
	t.Parallel()
	contract[inventory.ElasticIP]{
		judge: judgeAddress,
		draw: func(t *rapid.T, at time.Time) inventory.ElasticIP {
			e := addressExample()
			text := func(name, some string) string {
				return rapid.SampledFrom([]string{"", "", some}).Draw(t, name)
			}
			e.AssociationID, e.InstanceID, e.InterfaceID = text("association", "eipassoc-1"), text("instance", "i-1"), text("interface", "eni-1")
			e.ManagedBy, e.Own, e.Tags = text("service", "alb"), rapid.IntRange(0, 5).Draw(t, "own") == 0, drawTags(t)
			e.IP = rapid.SampledFrom([]string{"203.0.113.25", "203.0.113.25", ""}).Draw(t, "ip")
			e.Interface = fact(t, "interface fact", func() inventory.NetworkInterface {
				return inventory.NetworkInterface{ID: "eni-1", Status: rapid.SampledFrom([]string{"available", "in-use", "detaching", ""}).Draw(t, "status")}
			})
			return e
		},
		known: func(in scan.In, e inventory.ElasticIP) bool {
			return e.IP != "" && !e.Own && e.ManagedBy == "" && e.InstanceID == "" &&
				(!e.Associated() || e.InterfaceID != "" && e.Interface.Known && e.Interface.Value.Status == "available")
		},
		strict: func(*rapid.T, rule.Params) {},
	}.hold(t, "eip-unassociated")
}

func TestGP2Properties(t *testing.T) {
	t.Parallel()
	contract[inventory.Volume]{
		judge: judgeGP2,
		draw: func(t *rapid.T, at time.Time) inventory.Volume {
			v := drawVolume(t, at)
			if rapid.IntRange(0, 3).Draw(t, "gp2") > 0 {
				v.VolumeType = "gp2"
			}
			v.Zone = rapid.SampledFrom([]string{"us-east-1a", "", "us-east-1-bos-1a"}).Draw(t, "zone")
			v.Outpost = rapid.SampledFrom([]string{"", "", "arn:aws:outposts:us-east-1:123456789012:outpost/op-0"}).Draw(t, "outpost")
			return v
		},
		known: func(in scan.In, v inventory.Volume) bool {
			return v.VolumeType == "gp2" && v.SizeGiB > 0 && v.Outpost == "" && in.Price.Nothing().Known
		},
		strict: func(t *rapid.T, p rule.Params) { stricter(t, p, "min_saving", false) },
	}.hold(t, "ebs-gp2-to-gp3")
}

// Whatever its size: what is called cheaper is cheaper, with no less of
// anything, by what the price list says.
func TestGP2IsNeverDearer(t *testing.T) {
	t.Parallel()
	r := prices.Region("us-east-1")
	in := scan.In{At: scan.ExampleTime, Params: meta("ebs-gp2-to-gp3").Defaults(), Region: "us-east-1", Price: r}
	found := 0
	for size := 1; size <= 16384; size++ {
		v := judgeGP2(in, gp2Example(size))
		iops, throughput := gp3Like(size)
		if want := min(max(3*size, 100), 16000); iops < want || iops < 3000 || throughput < 128 || size >= 334 && throughput < 250 {
			t.Fatalf("%d GiB: %d IOPS and %d MiB/s are less than gp2 has", size, iops, throughput)
		}
		saves := float64(size)*(0.10-0.08) - 0.005*float64(iops-3000) - 0.04*float64(throughput-125)
		switch v.Outcome {
		case rule.Violation:
			found++
			if saves < 0.0099 || math.Abs(v.Cost.Low-saves) > 1e-5 || v.Cost.High < v.Cost.Low {
				t.Fatalf("%d GiB: %+v, and it saves %.4f", size, v.Cost, saves)
			}
		case rule.Compliant:
			if saves > 0.0101 {
				t.Fatalf("%d GiB: %s (%s), and it saves %.4f", size, v.Outcome, v.Reason, saves)
			}
		default:
			t.Fatalf("%d GiB: %s (%s)", size, v.Outcome, v.Reason)
		}
	}
	if found < 16000 {
		t.Errorf("%d sizes are cheaper", found)
	}
}
