package simaws

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// scenario is a situation an estate is made of: at least one of each in every estate of 500 resources, then more by weight. Its subject carries the name as
// its Case, and outcome is what the rule must say about it; the truth is told without it, and a test holds the two equal.
type scenario struct {
	name    string
	rule    string
	outcome string
	// severity of a violation, where the rule decides it and not the price.
	severity string
	exempt   bool
	// also is what further rules must say about the subject.
	also map[string]string
	// fleeting: only true at the estate's own moment.
	fleeting bool
	weight   int
	size     int  // resources it makes at most
	pinned   bool // the first one stands in us-east-1 of the management account
	play     func(g *generator, p *place, name string)
}

// machine is a scenario around one instance: it changes a prepared instance, and may give disks other than one ordinary root volume.
func machine(change func(g *generator, in *Instance), disks ...Volume) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		in := Instance{Case: name}
		change(g, &in)
		d := disks
		if len(d) == 0 && in.State != "terminated" {
			d = []Volume{g.root()}
		}
		g.launch(p, in, d...)
	}
}

// stop stops the instance at that time after it ran for up to so many days.
func (in *Instance) stop(g *generator, at time.Time, ran float64) {
	in.State, in.Stopped, in.Launched = "stopped", at, g.before(at, 1, ran)
	in.ReasonCode = "Client.UserInitiatedShutdown"
}

func dated(at time.Time) string { return "User initiated (" + at.Format(time.DateTime) + " GMT)" }

// stopped makes a change for machine: stopped between so many days ago, with a reason that may have a date.
func stopped(from, to float64, reason func(time.Time) string) func(*generator, *Instance) {
	return func(g *generator, in *Instance) {
		in.stop(g, g.ago(from, to), 300)
		in.Reason = reason(in.Stopped)
	}
}

func text(s string) func(time.Time) string { return func(time.Time) string { return s } }

// flash makes a change for machine: started between so many days ago and gone again before it left a single CPU point.
func flash(from, to float64) func(*generator, *Instance) {
	return func(g *generator, in *Instance) {
		in.Launched = g.ago(from, to)
		in.Created = in.Launched
		in.State, in.Stopped = "stopped", in.Launched.Add(45*time.Second) // less than a minute: no point with detailed monitoring either
		in.Reason, in.ReasonCode = "Server.InternalError: Internal error on launch", "Server.InternalError"
	}
}

func in(state string) func(*generator, *Instance) {
	return func(g *generator, in *Instance) {
		in.State = state
		switch state {
		case "pending":
			in.Launched = g.now.Add(-30 * time.Second)
			in.Created = in.Launched
		case "stopping", "shutting-down", "terminated":
			in.Launched = g.ago(40, 200)
			in.Stopped = g.now.Add(-3 * time.Minute)
			in.Reason, in.ReasonCode = dated(in.Stopped), "Client.UserInitiatedShutdown"
		}
	}
}

// loose is a scenario around one volume that is attached to nothing: used is when it was attached to a running instance, as days ago from..to; both 0: never.
func loose(created [2]float64, used [2]float64, change func(g *generator, v *Volume)) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		v := g.data()
		v.Case, v.Created = name, g.ago(created[0], created[1])
		if used != [2]float64{} {
			v.Detached = g.ago(used[0], used[1])
			if v.Created.After(v.Detached) {
				v.Created = g.before(v.Detached, 5, 100)
			}
			from := v.Created.Add(time.Duration(g.rng.Float64() * 0.5 * float64(v.Detached.Sub(v.Created)))).Truncate(time.Second)
			v.History = []Span{{from, v.Detached}}
		}
		if change != nil {
			change(g, &v)
		}
		g.volume(p, v)
	}
}

func never(from, to float64, change func(*generator, *Volume)) func(*generator, *place, string) {
	return loose([2]float64{from, to}, [2]float64{}, change)
}

func detached(from, to float64, change func(*generator, *Volume)) func(*generator, *place, string) {
	return loose([2]float64{to + 20, to + 500}, [2]float64{from, to}, change)
}

// as gives the volume another type and size and keeps everything else.
func as(d Volume) func(*generator, *Volume) {
	return func(_ *generator, v *Volume) {
		v.Type, v.Size, v.IOPS, v.Throughput = d.Type, d.Size, d.IOPS, d.Throughput
	}
}

// claim makes it a Kubernetes volume.
func claim(g *generator, v *Volume) {
	app := pick(g, "postgres", "kafka", "prometheus", "redis", "elasticsearch")
	n := g.rng.IntN(3)
	v.Type, v.Size, v.IOPS, v.Throughput = "gp3", pick[int32](g, 10, 50, 100, 200), 3000, 125
	name := "pvc-" + g.id("")
	v.Tags = []Tag{
		{"Name", "eks-main-dynamic-" + name}, {"CSIVolumeName", name}, {"KubernetesCluster", "eks-main"}, {"ebs.csi.aws.com/cluster", "true"},
		{"kubernetes.io/cluster/eks-main", "owned"}, {"kubernetes.io/created-for/pv/name", name},
		{"kubernetes.io/created-for/pvc/name", fmt.Sprintf("data-%s-%d", app, n)}, {"kubernetes.io/created-for/pvc/namespace", pick(g, "default", "observability", "payments")},
	}
	if g.chance(85) {
		v.Tags = append(v.Tags, Tag{"Owner", "priya.nair@larkspur.example"}, Tag{"Environment", "production"}, Tag{"CostCenter", "CC-1000"})
	}
}

// shared makes it a Multi-Attach volume.
func shared(g *generator, v *Volume) {
	d := disk("io2", pick[int32](g, 100, 200))
	v.Type, v.Size, v.IOPS, v.Throughput, v.MultiAttach = d.Type, d.Size, d.IOPS, 0, true
}

func provisioned(kind string, size, iops, throughput int32) Volume {
	return Volume{Type: kind, Size: size, IOPS: iops, Throughput: throughput}
}

func group(g *generator, in *Instance) {
	in.Tags = []Tag{{"Name", "checkout-web"}, {"Owner", "aiko.tanaka@larkspur.example"}, {"Environment", "production"}, {"CostCenter", "CC-4110"},
		{"aws:autoscaling:groupName", "checkout-web-asg"}, {"aws:ec2launchtemplate:id", derived("lt-", "checkout")}}
}

var scenarios = slices.Concat(ordinary,
	of("ec2-stopped", stoppedScenarios), of("ebs-unattached", unattachedScenarios),
	of("ec2-idle-cpu", idleScenarios), of("ec2-idle-memory", memoryScenarios),
	of("ebs-snapshot-old", snapshotScenarios), of("eip-unassociated", addressScenarios), of("ebs-gp2-to-gp3", gp2Scenarios), of("ebs-unencrypted", unencryptedScenarios),
	of("ec2-public", publicScenarios), of("sg-open-sensitive-port", groupScenarios), of("ami-outdated", imageScenarios), of("required-tags", tagScenarios))

func of(rule string, list []scenario) []scenario {
	for i := range list {
		list[i].rule = rule
	}
	return list
}

// concerned are the rules each situation is about.
var concerned = sync.OnceValue(func() map[string][]string {
	out := map[string][]string{}
	for _, s := range scenarios {
		if s.name != "" {
			out[s.name] = append(slices.Collect(maps.Keys(s.also)), s.rule)
		}
	}
	return out
})

// concerns tells whether a situation is about the rule. One made by hand is about every rule.
func concerns(name, rule string) bool {
	rules, known := concerned()[name]
	return !known || slices.Contains(rules, rule)
}

// ordinary is what most of an estate is.
var ordinary = []scenario{
	{name: "", weight: 900, size: 12, play: playServer},
	{name: "", weight: 60, size: 8, play: playGroup},
	{name: "", weight: 60, size: 4, play: playNode},
	{name: "", weight: 300, size: 1, play: func(g *generator, p *place, _ string) { g.snapshot(p, Snapshot{}) }},
	{name: "", weight: 10, size: 1, play: func(g *generator, p *place, _ string) { g.address(p, false, g.tags(p)) }},
	{name: "", weight: 4, size: 5, play: playShared},
}

var stoppedScenarios = []scenario{
	// The reason has the date.
	{name: "stopped long ago, dated", outcome: Violation, weight: 20, size: 2, play: machine(stopped(33, 400, dated))},
	{name: "stopped longer ago than metrics are kept, dated", outcome: Violation, weight: 3, size: 2, play: machine(stopped(470, 700, dated))},
	{name: "stopped recently, dated", outcome: Compliant, weight: 14, size: 2, play: machine(stopped(0.2, 28, dated))},
	{name: "launched long ago, stopped days ago, dated: the launch time says nothing", outcome: Compliant, weight: 4, size: 2, play: machine(func(g *generator, in *Instance) {
		in.stop(g, g.ago(1, 5), 2)
		in.Launched, in.Reason = g.ago(500, 900), dated(in.Stopped)
		in.Created = in.Launched
	})},
	{name: "boundary: stopped exactly 30 days ago, dated", outcome: Violation, size: 2, play: machine(func(g *generator, in *Instance) {
		in.stop(g, g.now.Add(-stoppedFor), 100)
		in.Reason = dated(in.Stopped)
	})},
	{name: "boundary: four hours short of 30 days, dated", outcome: Compliant, size: 2, play: machine(func(g *generator, in *Instance) {
		in.stop(g, g.now.Add(4*time.Hour-stoppedFor), 100)
		in.Reason = dated(in.Stopped)
	})},
	{name: "started and stopped several times, dated", outcome: Violation, weight: 4, size: 2, play: machine(func(g *generator, in *Instance) {
		in.stop(g, g.ago(40, 90), 20)
		in.Reason = dated(in.Stopped)
		in.Created = g.before(in.Launched, 150, 200)
		for from := in.Created; ; {
			to := from.Add(time.Duration(10+g.rng.IntN(20)) * day)
			if to.After(in.Launched) {
				break
			}
			in.Runs = append(in.Runs, Span{from, to})
			from = to.Add(3 * day)
		}
	})},
	{name: "hibernated long ago, dated", outcome: Violation, weight: 3, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(35, 200, dated)(g, in)
		in.Hibernation, in.ReasonCode = true, "Client.UserInitiatedHibernate"
	})},
	{name: "hibernated recently, dated", outcome: Compliant, weight: 3, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(0.5, 20, dated)(g, in)
		in.Hibernation, in.ReasonCode = true, "Client.UserInitiatedHibernate"
	})},

	// The reason has no date, CPU points decide.
	{name: "stopped long ago, no reason given", outcome: Violation, weight: 8, size: 2, play: machine(stopped(33, 400, text("")))},
	{name: "stopped recently, no reason given", outcome: Compliant, weight: 6, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(0.5, 28, text(""))(g, in)
		in.Launched = g.before(in.Stopped, 60, 400)
	})},
	{name: "stopped long ago, other text in the parentheses", outcome: Violation, weight: 4, size: 2, play: machine(stopped(33, 300, text("User initiated (requested by change CHG-2207)")))},
	{name: "stopped recently, other text in the parentheses", outcome: Compliant, weight: 4, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(0.5, 28, text("User initiated (requested by change CHG-2207)"))(g, in)
		in.Launched = g.before(in.Stopped, 60, 400)
	})},
	{name: "stopped long ago, a date that does not exist", outcome: Violation, size: 2, play: machine(stopped(33, 300, text("User initiated (2026-02-30 03:04:05 GMT)")))},
	{name: "stopped recently from inside, no date", outcome: Compliant, weight: 3, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(0.5, 28, text(""))(g, in)
		in.Launched, in.ReasonCode = g.before(in.Stopped, 60, 400), "Client.InstanceInitiatedShutdown"
	})},
	{name: "stopped long ago by a retirement, Server.ScheduledStop", outcome: Violation, weight: 3, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(33, 300, text("Server.ScheduledStop: Stopped due to scheduled retirement"))(g, in)
		in.ReasonCode = "Server.ScheduledStop"
	})},
	{name: "stopped recently by a retirement, Server.ScheduledStop", outcome: Compliant, weight: 2, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(1, 20, text("Server.ScheduledStop: Stopped due to scheduled retirement"))(g, in)
		in.Launched, in.ReasonCode = g.before(in.Stopped, 60, 400), "Server.ScheduledStop"
	})},
	{name: "spot instance stopped long ago, Server.SpotInstanceShutdown", outcome: Violation, weight: 3, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(33, 300, text("Server.SpotInstanceShutdown: Instance stopped due to an interruption"))(g, in)
		in.Spot, in.ReasonCode = true, "Server.SpotInstanceShutdown"
	})},
	{name: "spot instance stopped recently, Server.SpotInstanceShutdown", outcome: Compliant, weight: 2, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(1, 20, text("Server.SpotInstanceShutdown: Instance stopped due to an interruption"))(g, in)
		in.Spot, in.ReasonCode, in.Launched = true, "Server.SpotInstanceShutdown", g.before(in.Stopped, 60, 400)
	})},
	{name: "silent since before metrics are kept, started before that, no date", outcome: Violation, weight: 3, size: 2, play: machine(func(g *generator, in *Instance) {
		in.stop(g, g.ago(480, 600), 100)
	})},
	{name: "an earlier run left CPU points, the last one failed at once", outcome: Violation, weight: 1, size: 2, play: machine(func(g *generator, in *Instance) {
		flash(50, 80)(g, in)
		in.Created = g.before(in.Launched, 150, 200)
		in.Runs = []Span{{in.Created, in.Created.Add(60 * day)}}
	})},
	{name: "failed at once on launch, no date, not a single CPU point", outcome: InsufficientData, weight: 3, size: 2, play: machine(flash(40, 400))},
	{name: "failed at once on launch, but started less than 30 days ago", outcome: Compliant, weight: 2, size: 2, play: machine(flash(2, 27))},
	{name: "stopped, no date, its metrics are forbidden", outcome: Errored, size: 2, play: machine(func(g *generator, in *Instance) {
		in.stop(g, g.ago(35, 90), 200)
		in.MetricStatus = "Forbidden"
	})},
	{name: "stopped, no date, its metrics keep failing", outcome: Errored, size: 2, play: machine(func(g *generator, in *Instance) {
		in.stop(g, g.ago(35, 90), 200)
		in.MetricStatus = "InternalError"
	})},
	{name: "stopped long ago, dated, its metrics are forbidden but not needed", outcome: Violation, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(35, 90, dated)(g, in)
		in.MetricStatus = "Forbidden"
	})},

	// Not what the rule is about.
	{name: "warm-pool member, stopped long ago", outcome: NotApplicable, weight: 5, size: 2, play: machine(func(g *generator, in *Instance) {
		stopped(35, 200, dated)(g, in)
		group(g, in)
	})},
	{name: "pending", outcome: NotApplicable, weight: 2, size: 2, play: machine(in("pending"))},
	{name: "stopping", outcome: NotApplicable, weight: 2, size: 2, play: machine(in("stopping"))},
	{name: "shutting down", outcome: NotApplicable, weight: 2, size: 2, play: machine(in("shutting-down"))},
	{name: "terminated", outcome: NotApplicable, weight: 6, size: 1, play: machine(in("terminated"))},
	{name: "running again after it stood still for months", outcome: NotApplicable, weight: 3, size: 2, play: machine(func(g *generator, in *Instance) {
		in.Launched = g.ago(8, 12)
		in.Created = g.ago(300, 400)
		in.Runs = []Span{{in.Created, g.ago(100, 200)}}
	})},

	// What it goes on costing.
	{name: "stopped long ago with 100 GB gp3 and an Elastic IP: 11.65 in us-east-1", outcome: Violation, size: 3, pinned: true, play: func(g *generator, p *place, name string) {
		in := Instance{Case: name}
		stopped(40, 90, dated)(g, &in)
		g.launch(p, in, disk("gp3", 100))
		g.address(p, true, p.Instances[len(p.Instances)-1].Tags)
	}},
	{name: "stopped long ago with several volumes and two Elastic IPs", outcome: Violation, weight: 2, size: 6, play: func(g *generator, p *place, name string) {
		in := Instance{Case: name, Type: "r6i.large"}
		stopped(40, 200, dated)(g, &in)
		first := g.launch(p, in, g.root(), provisioned("io2", 400, 12000, 0), provisioned("gp3", 1000, 6000, 500))
		p.Volumes[first+1].Case = "in use by a stopped instance"
		tags := p.Instances[len(p.Instances)-1].Tags
		g.address(p, true, tags)
		g.address(p, true, tags) // one private address holds one
		n, second := &p.Interfaces[len(p.Interfaces)-1], &p.Addresses[len(p.Addresses)-1]
		n.Secondary = []string{"10.126.0.9"}
		second.Interface, second.Private = n.ID, n.Secondary[0]
	}},
	{name: "stopped long ago, its volumes were taken away: costs nothing", outcome: Violation, size: 1, play: func(g *generator, p *place, name string) {
		in := Instance{Case: name}
		stopped(40, 90, dated)(g, &in)
		g.launch(p, in)
	}},
	{name: "stopped long ago, tags that hurt whoever prints them", outcome: Violation, weight: 2, size: 2, play: func(g *generator, p *place, name string) {
		in := Instance{Case: name, Tags: with(g.tags(p), Tag{"Name", pick(g, hostile...)}, Tag{"Owner", pick(g, hostile...)}, Tag{"__proto__", pick(g, hostile...)})}
		stopped(40, 90, dated)(g, &in)
		g.launch(p, in, g.root())
	}},
}

var unattachedScenarios = []scenario{
	// I/O points tell when it was in use last.
	{name: "detached long ago", outcome: Violation, weight: 20, size: 1, play: detached(17, 400, nil)},
	{name: "detached recently", outcome: Compliant, weight: 10, size: 1, play: detached(0.3, 12, nil)},
	{name: "detached just now", outcome: Compliant, weight: 3, size: 1, play: loose([2]float64{100, 300}, [2]float64{0.01, 0.05}, nil)},
	{name: "created long ago, detached days ago: the creation time says nothing", outcome: Compliant, weight: 4, size: 1, play: loose([2]float64{600, 900}, [2]float64{1, 9}, nil)},
	{name: "attached once for forty minutes, long ago", outcome: Violation, weight: 2, size: 1, play: loose([2]float64{350, 400}, [2]float64{100, 300}, func(g *generator, v *Volume) {
		v.History = []Span{{v.Detached.Add(-40 * time.Minute), v.Detached}}
	})},
	{name: "attached but never read until recently: points of zero are points", outcome: Compliant, weight: 2, size: 1, play: detached(1, 10, func(g *generator, v *Volume) {
		for v.ID = g.id("vol-"); hashString(v.ID)&3 != 0; {
			v.ID = g.id("vol-")
		}
	})},
	{name: "its instance was stopped long before it was detached", outcome: Violation, weight: 2, size: 1, play: loose([2]float64{300, 500}, [2]float64{60, 90}, func(g *generator, v *Volume) {
		v.Detached = g.ago(20, 40)
	})},
	{name: "detached longer ago than metrics are kept", outcome: Violation, weight: 3, size: 1, play: loose([2]float64{700, 900}, [2]float64{470, 600}, nil)},
	{name: "shared by Multi-Attach until long ago: no VolumeIdleTime", outcome: Violation, weight: 1, size: 1, play: detached(20, 200, shared)},
	{name: "shared by Multi-Attach until recently: no VolumeIdleTime", outcome: Compliant, weight: 1, size: 1, play: detached(1, 10, shared)},
	{name: "of a Kubernetes claim, released long ago", outcome: Violation, weight: 10, size: 1, play: detached(20, 200, claim)},
	{name: "of a Kubernetes claim, released recently", outcome: Compliant, weight: 5, size: 1, play: detached(0.5, 10, claim)},
	{name: "500 GB gp3 with 6,000 IOPS and 250 MiB/s, detached long ago: 60.00 in us-east-1", outcome: Violation, size: 1, pinned: true, play: detached(30, 90, as(provisioned("gp3", 500, 6000, 250)))},
	{name: "io2 in its third price tier, detached long ago", outcome: Violation, size: 1, pinned: true, play: detached(30, 90, as(provisioned("io2", 400, 70000, 0)))},
	{name: "io1, detached long ago", outcome: Violation, size: 1, pinned: true, play: detached(30, 90, as(provisioned("io1", 200, 4000, 0)))},
	{name: "gp2, detached long ago", outcome: Violation, size: 1, play: detached(30, 90, as(disk("gp2", 500)))},
	{name: "st1, detached long ago", outcome: Violation, size: 1, play: detached(30, 90, as(disk("st1", 2000)))},
	{name: "sc1, detached long ago", outcome: Violation, size: 1, play: detached(30, 90, as(disk("sc1", 4000)))},
	{name: "standard, detached long ago", outcome: Violation, size: 1, play: detached(30, 90, as(disk("standard", 40)))},
	{name: "detached long ago, and backed up", outcome: Violation, weight: 4, size: 4, play: func(g *generator, p *place, name string) {
		detached(60, 200, nil)(g, p, name)
		g.backup(p, len(p.Volumes)-1, 3)
	}},
	{name: "detached long ago, tags that hurt whoever prints them", outcome: Violation, weight: 2, size: 1, play: detached(20, 200, func(g *generator, v *Volume) {
		v.Tags = []Tag{{"Name", pick(g, hostile...)}, {"Owner", pick(g, hostile...)}, {"Environment", "production"}, {"constructor", pick(g, hostile...)}}
	})},

	// Never a point.
	{name: "never attached, created long ago", outcome: Violation, weight: 8, size: 1, play: never(17, 400, nil)},
	{name: "never attached, created recently", outcome: Compliant, weight: 5, size: 1, play: never(0.1, 12, nil)},
	{name: "never attached, older than metrics are kept", outcome: Violation, weight: 3, size: 1, play: never(480, 900, nil)},
	{name: "attached to a stopped instance only, so without a point", outcome: Violation, weight: 2, size: 1, play: never(60, 200, func(g *generator, v *Volume) { v.Detached = g.ago(20, 50) })},
	{name: "boundary: never attached, created exactly 14 days ago", outcome: Violation, size: 1, play: never(20, 30, func(g *generator, v *Volume) { v.Created = g.now.Add(-unattachedFor) })},
	{name: "boundary: never attached, four hours short of 14 days", outcome: Compliant, size: 1, play: never(20, 30, func(g *generator, v *Volume) { v.Created = g.now.Add(4*time.Hour - unattachedFor) })},
	{name: "unattached, its metrics are forbidden", outcome: Errored, size: 1, play: detached(20, 90, func(_ *generator, v *Volume) { v.MetricStatus = "Forbidden" })},
	{name: "unattached, its metrics keep failing", outcome: Errored, size: 1, play: detached(20, 90, func(_ *generator, v *Volume) { v.MetricStatus = "InternalError" })},

	// Not what the rule is about.
	{name: "being created", outcome: NotApplicable, weight: 1, size: 1, play: never(0, 0.0005, func(_ *generator, v *Volume) { v.State = "creating" })},
	{name: "being deleted", outcome: NotApplicable, weight: 1, size: 1, play: detached(20, 90, func(_ *generator, v *Volume) { v.State = "deleting" })},
	{name: "in error", outcome: NotApplicable, weight: 1, size: 1, play: never(20, 90, func(_ *generator, v *Volume) { v.State = "error" })},
}

// playServer is an ordinary server: root, maybe data disks, backups and an Elastic IP.
func playServer(g *generator, p *place, _ string) {
	tags := g.tags(p)
	disks := []Volume{g.root()}
	for range g.rng.IntN(3) {
		disks = append(disks, g.data())
	}
	in := Instance{Tags: tags, Windows: g.chance(8)}
	if g.chance(2) {
		in.Type = pick(g, "g4dn.xlarge", "g5.xlarge", "p3.2xlarge")
	}
	if g.chance(5) {
		in.Spot = true
	}
	first := g.launch(p, in, disks...)
	if g.chance(4) && p.Instances[len(p.Instances)-1].PublicIP == "" {
		g.address(p, true, tags)
	}
	for i := range disks {
		if g.chance(45) {
			g.backup(p, first+i, 1+g.rng.IntN(2))
		}
	}
}

// playGroup is an Auto Scaling group's members, launched together in one reservation.
func playGroup(g *generator, p *place, _ string) {
	launched, reservation, zone := g.ago(2.1, 60), g.id("r-"), g.zone(p)
	for range 2 + g.rng.IntN(3) {
		in := Instance{Reservation: reservation, Launched: launched, Created: launched, Zone: zone, Type: "c6i.large", Load: "office"}
		group(g, &in)
		g.launch(p, in, disk("gp3", 20))
	}
}

// playNode is a Kubernetes node with claims on it.
func playNode(g *generator, p *place, _ string) {
	launched := g.ago(2.1, 30)
	in := Instance{Launched: launched, Created: launched, Type: "m6i.xlarge", Spot: g.chance(50), Load: "busy", Tags: []Tag{{"Name", "eks-main-node"}, {"eks:cluster-name", "eks-main"},
		{"kubernetes.io/cluster/eks-main", "owned"}, {"karpenter.sh/nodepool", pick(g, "default", "memory")}, {"Owner", "priya.nair@larkspur.example"}, {"Environment", p.environment}, {"CostCenter", "CC-1000"}}}
	disks := []Volume{disk("gp3", 50)}
	for range 1 + g.rng.IntN(2) {
		v := g.data()
		claim(g, &v)
		v.Created = g.before(launched, 1, 200)
		v.History = []Span{{v.Created, launched}} // on the nodes before
		disks = append(disks, v)
	}
	g.launch(p, in, disks...)
}

// playShared is a Multi-Attach volume in use by two instances.
func playShared(g *generator, p *place, _ string) {
	launched, zone := g.ago(20, 200), g.zone(p)
	in := Instance{Launched: launched, Created: launched, Zone: zone, Type: "r6i.xlarge", Tags: g.tags(p)}
	v := g.data()
	shared(g, &v)
	first := g.launch(p, in, g.root(), v) + 1
	g.launch(p, in, g.root())
	p.Volumes[first].Attachments = append(p.Volumes[first].Attachments, Attachment{Instance: p.Instances[len(p.Instances)-1].ID, Device: "/dev/sdf", At: launched})
}
