package simaws

import "time"

// week makes a change for machine: it has run for weeks, with that load.
func week(load string, more ...func(*generator, *Instance)) func(*generator, *Instance) {
	return func(g *generator, in *Instance) {
		in.Launched, in.Load = g.ago(9, 200), load
		in.Created = in.Launched
		if in.Type == "" {
			in.Type = pick(g, instanceTypes...)
		}
		for _, m := range more {
			m(g, in)
		}
	}
}

// age makes it start that many days ago.
func age(from, to float64) func(*generator, *Instance) {
	return func(g *generator, in *Instance) {
		in.Launched = g.ago(from, to)
		in.Created = in.Launched
	}
}

func typed(kind string) func(*generator, *Instance) {
	return func(_ *generator, in *Instance) { in.Type = kind }
}

// silent leaves its CPU metrics out for some hours of the last week.
func silent(hours int) func(*generator, *Instance) {
	return func(g *generator, in *Instance) {
		to := g.now.Truncate(time.Hour).Add(-50 * time.Hour)
		in.Gaps = []Span{{to.Add(-time.Duration(hours) * time.Hour), to}}
	}
}

func answering(status string) func(*generator, *Instance) {
	return func(_ *generator, in *Instance) { in.MetricStatus, in.Agent = status, "id" }
}

// memory gives it an agent with those dimensions, and memory of that shape.
func memory(agent, shape string) func(*generator, *Instance) {
	return func(_ *generator, in *Instance) { in.Agent, in.Memory = agent, shape }
}

// reporting is when the agent ran, in days ago; to 0: still.
func reporting(from, to float64) func(*generator, *Instance) {
	return func(g *generator, in *Instance) {
		in.Reporting.From = g.ago(from, from+0.1)
		if to > 0 {
			in.Reporting.To = g.ago(to, to+0.1)
		}
	}
}

// labeled adds tags to those of an ordinary server.
func labeled(tags ...Tag) func(*generator, *Instance) {
	return func(g *generator, in *Instance) {
		in.Tags = append([]Tag{{"Name", "worker"}, {"Owner", "sam.doyle@larkspur.example"}, {"Environment", "production"}, {"CostCenter", "CC-1000"}}, tags...)
	}
}

var idleScenarios = []scenario{
	{name: "idle for weeks", outcome: Violation, weight: 10, size: 2, play: machine(week("idle"))},
	{name: "an idle m5.large: 70.08 in us-east-1", outcome: Violation, severity: Medium, size: 2, pinned: true, play: machine(week("idle", typed("m5.large")))},
	{name: "idle, an hour a night comes close to a burst", outcome: Violation, weight: 2, size: 2, play: machine(week("peak18"))},
	{name: "boundary: an hour a night with a maximum of exactly 20 %", outcome: Compliant, size: 2, play: machine(week("peak20"))},
	{name: "a night job: idle by the average, 100 % for a while", outcome: Compliant, weight: 4, size: 2, play: machine(week("bursty"))},
	{name: "one day of seven in use: the week's mean is idle", outcome: Compliant, weight: 3, size: 2, play: machine(week("oneday"))},
	{name: "boundary: 5 % day by day", outcome: Compliant, size: 2, play: machine(week("flat5"))},
	{name: "in use by day", outcome: Compliant, weight: 4, size: 2, play: machine(week("office"))},
	{name: "idle, started days ago", outcome: InsufficientData, weight: 3, size: 2, play: machine(week("idle", age(3, 6)))},
	{name: "boundary: idle, started exactly seven days ago", outcome: Violation, size: 2, play: machine(week("idle", func(g *generator, in *Instance) {
		in.Launched = g.now.Add(-idleFor)
		in.Created = in.Launched
	}))},
	{name: "launched long ago, started again days ago, idle: the last start counts", outcome: InsufficientData, size: 2, play: machine(week("idle", age(3, 6), func(g *generator, in *Instance) {
		in.Created = g.before(in.Launched, 100, 200)
		in.Runs = []Span{{in.Created, g.before(in.Launched, 1, 5)}}
	}))},
	{name: "started days ago and in use: a disproof beats missing data", outcome: Compliant, weight: 2, size: 2, play: machine(week("busy", age(3, 6)))},
	{name: "idle, four hours without points", outcome: Violation, size: 2, play: machine(week("idle", silent(4)))},
	{name: "idle, two days without points", outcome: InsufficientData, weight: 1, size: 2, play: machine(week("idle", silent(48)))},
	{name: "idle, a single hour with points in the week", outcome: InsufficientData, size: 2, play: machine(week("idle", func(g *generator, in *Instance) {
		end := g.now.Truncate(time.Hour)
		in.Gaps = []Span{{end.Add(-9 * day), end.Add(-30 * time.Hour)}, {end.Add(-29 * time.Hour), end.Add(day)}}
	}))},
	{name: "in use, two days without points: a disproof beats missing data", outcome: Compliant, size: 2, play: machine(week("busy", silent(48)))},
	{name: "no point at all, though it runs: missing is not zero", outcome: InsufficientData, size: 2, play: machine(week("idle", func(g *generator, in *Instance) {
		in.Gaps = []Span{{in.Created, g.now.Add(day)}}
	}))},
	{name: "a GPU machine without CPU load", outcome: InsufficientData, weight: 2, size: 2, play: machine(week("idle", typed("g4dn.xlarge")))},
	{name: "a GPU machine with CPU load", outcome: InsufficientData, size: 2, play: machine(week("busy", typed("p3.2xlarge")))},
	{name: "an inference accelerator without CPU load", outcome: InsufficientData, size: 2, play: machine(week("idle", typed("inf2.xlarge")))},
	{name: "idle, in a type the price list does not know", outcome: Violation, size: 2, play: machine(week("idle", typed("x2idn.16xlarge")))},
	{name: "idle, Windows", outcome: Violation, size: 2, play: machine(week("idle", func(_ *generator, in *Instance) { in.Windows = true }))},
	{name: "idle, a spot instance", outcome: Violation, size: 2, play: machine(week("idle", func(_ *generator, in *Instance) { in.Spot = true }))},
	{name: "idle, a member of an Auto Scaling group", outcome: Violation, weight: 1, size: 2, play: machine(week("idle", group))},
	{name: "idle, a node of an EKS cluster", outcome: Violation, size: 2, play: machine(week("idle", labeled(Tag{"eks:cluster-name", "eks-main"}, Tag{"aws:autoscaling:groupName", "eks-main-workers"})))},
	{name: "idle, a Karpenter node", outcome: Violation, size: 2, play: machine(week("idle", labeled(Tag{"karpenter.sh/nodepool", "default"})))},
	{name: "idle, of an EMR cluster", outcome: Violation, size: 2, play: machine(week("idle", labeled(Tag{"aws:elasticmapreduce:job-flow-id", "j-2AXXXXXXGAPLF"}, Tag{"aws:elasticmapreduce:instance-group-role", "CORE"})))},
	{name: "idle, of an Elastic Beanstalk environment", outcome: Violation, size: 2, play: machine(week("idle", labeled(Tag{"elasticbeanstalk:environment-name", "landing-prod"})))},
	{name: "idle, of an ECS cluster", outcome: Violation, size: 2, play: machine(week("idle", labeled(Tag{"aws:ecs:clusterName", "batch"})))},
	{name: "running, its metrics are forbidden", outcome: Errored, also: map[string]string{"ec2-idle-memory": Errored}, size: 2, play: machine(week("idle", answering("Forbidden")))},
	{name: "running, its metrics keep failing", outcome: Errored, also: map[string]string{"ec2-idle-memory": Errored}, size: 2, play: machine(week("idle", answering("InternalError")))},
	{name: "running, its metrics stay partial", outcome: Errored, also: map[string]string{"ec2-idle-memory": Errored}, size: 2, play: machine(week("idle", answering("PartialData")))},
}

var memoryScenarios = []scenario{
	{name: "CPU in use, memory free for weeks: right-sizing", outcome: Violation, severity: Low, weight: 4, size: 2, play: machine(week("busy", memory("id", "low")))},
	{name: "CPU idle and memory free: m5.large", outcome: Violation, severity: Medium, also: map[string]string{"ec2-idle-cpu": Violation}, size: 2, pinned: true, play: machine(week("idle", typed("m5.large"), memory("id", "low")))},
	{name: "CPU idle, memory in use", outcome: Compliant, also: map[string]string{"ec2-idle-cpu": Violation}, weight: 2, size: 2, play: machine(week("idle", memory("id", "")))},
	{name: "CPU idle, no agent", outcome: InsufficientData, also: map[string]string{"ec2-idle-cpu": Violation}, weight: 2, size: 2, play: machine(week("idle"))},
	{name: "memory free but for an hour a night: no burst guard for memory", outcome: Violation, severity: Low, size: 2, play: machine(week("busy", memory("id", "peaks")))},
	{name: "memory in use on one day of seven", outcome: Compliant, size: 2, play: machine(week("busy", memory("id", "oneday")))},
	{name: "boundary: 10 % of memory day by day", outcome: Compliant, size: 2, play: machine(week("busy", memory("id", "flat10")))},
	{name: "memory free, the agent adds the instance type", outcome: Violation, severity: Low, size: 2, play: machine(week("busy", memory("id+type", "low")))},
	{name: "memory free, the agent adds image and type", outcome: Violation, severity: Low, size: 2, play: machine(week("busy", memory("id+image+type", "low")))},
	{name: "memory free, the agent adds the Auto Scaling group", outcome: Violation, severity: Low, size: 2, play: machine(week("busy", group, memory("asg", "low")))},
	{name: "memory free, Windows", outcome: Violation, severity: Low, size: 2, play: machine(week("busy", memory("id", "low"), func(_ *generator, in *Instance) { in.Windows = true }))},
	{name: "memory free, on a GPU machine", outcome: Violation, severity: Low, also: map[string]string{"ec2-idle-cpu": InsufficientData}, size: 2, play: machine(week("idle", typed("g5.xlarge"), memory("id", "low")))},
	{name: "memory free, the agent runs since days ago", outcome: InsufficientData, size: 2, play: machine(week("busy", memory("id", "low"), reporting(3, 0)))},
	{name: "memory in use, the agent runs since days ago: a disproof beats missing data", outcome: Compliant, size: 2, play: machine(week("busy", memory("id", ""), reporting(3, 0)))},
	{name: "memory free, the agent fell silent days ago", outcome: InsufficientData, size: 2, play: machine(week("busy", age(40, 90), memory("id", "low"), reporting(30, 3)))},
	{name: "memory free, the agent fell silent weeks ago: its metric is listed no more", outcome: InsufficientData, size: 2, play: machine(week("busy", age(40, 90), memory("id", "low"), reporting(30, 20)))},
}

// saved is a scenario around one snapshot: of a volume that is there, or with keep false of one long gone.
func saved(keep bool, from, to float64, change func(g *generator, p *place, s *Snapshot)) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		v := Volume{ID: g.id("vol-"), Size: pick[int32](g, 20, 50, 100, 500), Type: "gp3", IOPS: 3000, Throughput: 125, Tags: g.tags(p)}
		if keep {
			v.Created = g.ago(to+10, to+300)
			v.Detached = g.ago(1, 9) // its own story is an ordinary one: detached recently
			v.Case, v.History = "detached recently", []Span{{v.Created, v.Detached}}
			g.volume(p, v)
		}
		s := Snapshot{Case: name, Volume: v.ID, Size: v.Size, Started: g.ago(from, to), Description: "before upgrade", Tags: v.Tags}
		if change != nil {
			change(g, p, &s)
		}
		g.snapshot(p, s)
	}
}

// pair is like saved of a volume long gone, with a second snapshot that change makes of the first.
func pair(from, to float64, change func(g *generator, s *Snapshot)) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		saved(false, from, to, nil)(g, p, name)
		s := p.Snapshots[len(p.Snapshots)-1]
		s.ID, s.Case, s.Started = "", "", s.Started.Add(5*day)
		change(g, &s)
		g.snapshot(p, s)
	}
}

func noting(change func(s *Snapshot)) func(*generator, *place, *Snapshot) {
	return func(_ *generator, _ *place, s *Snapshot) { change(s) }
}

// imaged makes the snapshot the disk of one of the account's own images.
func imaged(state string, deprecated bool) func(*generator, *place, *Snapshot) {
	return func(g *generator, p *place, s *Snapshot) {
		s.ID = g.id("snap-")
		img := Image{ID: g.id("ami-"), Name: pick(g, "golden-web", "golden-batch", "appliance") + "-" + g.id("")[10:], State: state, Created: s.Started.Add(-time.Minute), Snapshots: []string{s.ID},
			Tags: s.Tags}
		if deprecated {
			img.Deprecated = g.ago(20, 60)
		}
		s.Description = "Created by CreateImage for " + img.ID
		p.Images = append(p.Images, img)
	}
}

var snapshotScenarios = []scenario{
	{name: "an old snapshot of a volume that is in use", outcome: Violation, weight: 8, size: 2, play: saved(true, 95, 700, nil)},
	{name: "a recent snapshot", outcome: Compliant, weight: 4, size: 2, play: saved(true, 2, 80, nil)},
	{name: "boundary: a snapshot of exactly 90 days", outcome: Violation, size: 2, play: saved(true, 95, 100, func(g *generator, _ *place, s *Snapshot) { s.Started = g.now.Add(-snapshotFor) })},
	{name: "boundary: a snapshot four hours short of 90 days", outcome: Compliant, size: 2, play: saved(true, 95, 100, func(g *generator, _ *place, s *Snapshot) { s.Started = g.now.Add(4*time.Hour - snapshotFor) })},
	{name: "old, the only one of a volume that is gone", outcome: Violation, severity: Info, weight: 6, size: 1, play: saved(false, 95, 700, nil)},
	{name: "old, of a volume that is gone, another one remains", outcome: Violation, size: 2, play: pair(120, 400, func(*generator, *Snapshot) {})},
	{name: "old, of a volume that is gone, a recent one remains", outcome: Violation, size: 2, play: pair(120, 400, func(g *generator, s *Snapshot) { s.Started = g.ago(2, 60) })},
	{name: "old, of a volume that is gone, the other one failed", outcome: Violation, severity: Info, size: 2, play: pair(120, 400, func(_ *generator, s *Snapshot) { s.State = "error" })},
	{name: "an old copy: its volume is vol-ffffffff", outcome: Violation, weight: 2, size: 1, play: saved(false, 95, 700, noting(func(s *Snapshot) {
		s.Volume, s.Description = "vol-ffffffff", "Copied from another region"
	}))},
	{name: "old, in the archive tier", outcome: Violation, weight: 1, size: 2, play: saved(true, 95, 700, noting(func(s *Snapshot) { s.Archived = true }))},
	{name: "old, 100 GB full of 40: up to 2.00 in us-east-1", outcome: Violation, severity: Low, size: 2, pinned: true, play: saved(true, 95, 700, noting(func(s *Snapshot) {
		s.Size, s.FullBytes = 100, 40<<30
	}))},
	{name: "old, full of more than the volume holds: priced by the volume", outcome: Violation, size: 2, pinned: true, play: saved(true, 95, 700, noting(func(s *Snapshot) {
		s.Size, s.FullBytes = 500, 900<<30
	}))},
	{name: "old, its full size is not told: priced by the volume", outcome: Violation, severity: Medium, size: 2, pinned: true, play: saved(true, 95, 700, noting(func(s *Snapshot) {
		s.Size, s.FullBytes = 500, untold
	}))},
	{name: "old, managed by AWS Backup", outcome: NotApplicable, weight: 1, size: 2, play: saved(true, 95, 300, func(_ *generator, p *place, s *Snapshot) {
		s.Tags = with(s.Tags, Tag{"aws:backup:source-resource", p.arn("volume", s.Volume)})
	})},
	{name: "old, managed by AWS Backup by its description", outcome: NotApplicable, size: 2, play: saved(true, 95, 300, noting(func(s *Snapshot) { s.Description = "This snapshot is created by the AWS Backup service." }))},
	{name: "old, managed by a DLM policy", outcome: NotApplicable, weight: 1, size: 2, play: saved(true, 95, 300, noting(func(s *Snapshot) {
		s.Tags = with(s.Tags, Tag{"aws:dlm:lifecycle-policy-id", "policy-0123456789abcdef0"})
	}))},
	{name: "old, marked as managed by DLM", outcome: NotApplicable, size: 2, play: saved(true, 95, 300, noting(func(s *Snapshot) { s.Tags = with(s.Tags, Tag{"dlm:managed", "true"}) }))},
	{name: "old, disk of an image", outcome: NotApplicable, weight: 2, size: 1, play: saved(false, 95, 700, imaged("", false))},
	{name: "old, disk of a deprecated image", outcome: NotApplicable, weight: 1, size: 1, play: saved(false, 95, 700, imaged("", true))},
	{name: "old, disk of a disabled image", outcome: NotApplicable, size: 1, play: saved(false, 95, 700, imaged("disabled", false))},
	{name: "old, disk of an image that was deregistered", outcome: Violation, severity: Info, size: 1, play: saved(false, 95, 700, imaged("deregistered", false))},
	{name: "old and failed", outcome: NotApplicable, size: 2, play: saved(true, 95, 300, noting(func(s *Snapshot) { s.State = "error" }))},
	{name: "old and still pending", outcome: NotApplicable, size: 2, play: saved(true, 95, 100, noting(func(s *Snapshot) { s.State = "pending" }))},
}

// serviced puts an interface into the place that belongs to a service, or to nobody, with an Elastic IP on it.
func serviced(service, kind, description string) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		tags := g.tags(p)
		n := Interface{ID: g.id("eni-"), Subnet: p.subnetID("public", g.zone(p)), Groups: g.groupOf(p, tags), Service: service, Type: kind, Description: description}
		if kind == "nat_gateway" {
			n.Groups = nil // it has none
		}
		p.Interfaces = append(p.Interfaces, n)
		g.address(p, false, tags)
		a := &p.Addresses[len(p.Addresses)-1]
		a.Interface, a.Case = n.ID, name
	}
}

func spare(g *generator, p *place, name string) {
	g.address(p, false, g.tags(p))
	p.Addresses[len(p.Addresses)-1].Case = name
}

var addressScenarios = []scenario{
	{name: "an Elastic IP nothing uses", outcome: Violation, weight: 4, size: 1, play: spare},
	{name: "an Elastic IP nothing uses: 3.65 in us-east-1", outcome: Violation, severity: Low, size: 1, pinned: true, play: spare},
	{name: "an Elastic IP on an interface that is attached to nothing", outcome: Violation, weight: 1, size: 1, play: serviced("", "", "spare of the old gateway")},
	{name: "an Elastic IP on a NAT gateway", outcome: Compliant, weight: 2, size: 1, play: serviced("amazon-aws", "nat_gateway", "Interface for NAT Gateway nat-0123456789abcdef0")},
	{name: "an Elastic IP on a load balancer", outcome: Compliant, weight: 1, size: 1, play: serviced("amazon-elb", "network_load_balancer", "ELB net/front/50dc6c495c0c9188")},
	{name: "an Elastic IP on a running instance", outcome: Compliant, size: 3, play: holding(func(*generator, *Instance) {})},
	{name: "an Elastic IP on a stopped instance: costs, but in the instance's name", outcome: Compliant, size: 3, play: holding(stopped(40, 90, dated))},
}

// holding is a server with an Elastic IP; the address is the subject.
func holding(change func(*generator, *Instance)) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		in := Instance{Tags: g.tags(p), Case: "stopped long ago, dated"} // what it is, when it is stopped
		if change(g, &in); in.State == "" {
			in.Case = "public by an Elastic IP"
		}
		g.launch(p, in, g.root())
		g.address(p, true, in.Tags)
		p.Addresses[len(p.Addresses)-1].Case = name
	}
}

// loosely is a volume that was detached recently, as as makes it.
func loosely(d Volume, more ...func(*generator, *Volume)) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		detached(0.5, 10, as(d))(g, p, name)
		for _, m := range more {
			m(g, &p.Volumes[len(p.Volumes)-1])
		}
	}
}

func plainText(_ *generator, v *Volume) { v.Encrypted = false }

func sealed(_ *generator, v *Volume) { v.Encrypted = true }

func born(ago time.Duration) func(*generator, *Volume) {
	return func(g *generator, v *Volume) {
		v.Created, v.History, v.Detached = g.now.Add(-ago), nil, time.Time{}
	}
}

var gp2Scenarios = []scenario{
	{name: "gp2 of 100 GB: saves 1.88 to 2.00 in us-east-1", outcome: Violation, severity: Low, size: 1, pinned: true, play: loosely(disk("gp2", 100))},
	{name: "gp2 of 500 GB: saves 5.00 to 10.00 in us-east-1", outcome: Violation, size: 1, pinned: true, play: loosely(disk("gp2", 500))},
	{name: "gp2 of 2,000 GB, whose 6,000 IOPS gp3 has to buy", outcome: Violation, size: 1, pinned: true, play: loosely(disk("gp2", 2000))},
	{name: "gp2 of 6,000 GB at its most IOPS", outcome: Violation, severity: Medium, size: 1, pinned: true, play: loosely(disk("gp2", 6000))},
	{name: "gp2 of 250 GB: the throughput eats up what the storage saves", outcome: Compliant, size: 1, pinned: true, play: loosely(disk("gp2", 250))},
	{name: "gp2 of 8 GB: saves 0.04 to 0.16 in us-east-1", outcome: Violation, severity: Low, size: 1, pinned: true, play: loosely(disk("gp2", 8))},
	{name: "gp2 of 5 GB: its 128 MiB/s cost more than the storage saves", outcome: Compliant, size: 1, pinned: true, play: loosely(disk("gp2", 5))},
	{name: "gp3 already", outcome: NotApplicable, size: 1, play: loosely(disk("gp3", 100))},
	{name: "io1 is no gp2", outcome: NotApplicable, size: 1, play: loosely(disk("io1", 100))},
	{name: "gp2, being deleted", outcome: NotApplicable, size: 1, play: loosely(disk("gp2", 100), func(_ *generator, v *Volume) { v.State = "deleting" })},
}
