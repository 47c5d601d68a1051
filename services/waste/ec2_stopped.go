package waste

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.Instance]{
	Meta: rule.Meta{
		ID:           "ec2-stopped",
		Version:      1,
		Category:     rule.Waste,
		ResourceType: "AWS::EC2::Instance",
		Title:        "EC2 instance stopped for a long time",
		Why: "A stopped instance costs no compute, and everything else it holds goes on: its EBS volumes are billed by the " +
			"provisioned gigabyte, its Elastic IP addresses by the hour. Nobody has missed it for weeks, it gets no patches, and it " +
			"comes back with every hole of the day it was stopped.",
		Fix: "Ask its owner. If nobody needs it, make an image or snapshots of its volumes where the data must be kept, terminate " +
			"it, delete the volumes that termination leaves behind and release its Elastic IP addresses. If it must stay, keep a " +
			"snapshot instead of the volumes: it costs about half, and a tenth in the archive tier.",
		Severity: severityText,
		Params: []rule.Param{{
			Name: "min_days", Description: "Days an instance must have been stopped to be reported.", Unit: "days",
			Default: 30, Min: 1, Max: 3650,
		}},
		Citations: []string{
			"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Stop_Start.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Instance.html",
			"https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html#metrics-retention",
			"https://docs.aws.amazon.com/autoscaling/ec2/userguide/ec2-auto-scaling-warm-pools.html",
			"https://aws.amazon.com/ebs/pricing/",
			"https://aws.amazon.com/vpc/pricing/",
		},
	},
	Kind: inventory.Instances,
	Facts: []scan.Need[inventory.Instance]{
		{Fact: inventory.InstanceLastCPU, When: func(in scan.In, i inventory.Instance) bool {
			_, undecided := stoppedByListing(in, i)
			return undecided
		}},
		{Fact: inventory.InstanceVolumes, When: isStopped},
		{Fact: inventory.InstanceAddresses, When: isStopped},
	},
	// A start ends what was seen before, also one between two scans: the state
	// to remember is that of this stop.
	Follow: func(i inventory.Instance) (string, bool) {
		return "stopped after the start of " + i.Launched.UTC().Format(time.RFC3339), i.State == "stopped"
	},
	Judge: judgeStopped,
	Parts: stoppedParts,
	Examples: []scan.Example[inventory.Instance]{
		{
			Name:     "a user stopped it 45 days ago; it keeps 100 GB of gp3 and an Elastic IP",
			Resource: stoppedExample("User initiated (2026-07-18 12:00:00 GMT)", withVolumes(gp3(100)), withAddresses("198.51.100.7")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Cost: "11.65", Since: example("2026-07-18 12:00"),
				Confidence: rule.Observed, Source: "ec2:DescribeInstances", Says: []string{"Stopped since 2026-07-18 12:00 UTC"},
			},
		},
		{
			Name:     "exactly 30 days: the threshold is inclusive",
			Resource: stoppedExample("User initiated (2026-08-02 12:00:00 GMT)", withVolumes(gp3(8)), withAddresses()),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "0.64", Since: example("2026-08-02 12:00")},
		},
		{
			Name:     "one second short of 30 days",
			Resource: stoppedExample("User initiated (2026-08-02 12:00:01 GMT)"),
			Want:     scan.Want{Outcome: rule.Compliant, Since: time.Time{}},
		},
		{
			Name:     "hibernated counts as stopped",
			Resource: stoppedExample("User initiated (2026-06-01 08:00:00 GMT)", withVolumes(gp3(1500)), withAddresses(), hibernated),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.High, Cost: "120.00", Since: example("2026-06-01 08:00")},
		},
		{
			Name:     "no root volume and no address: it costs nothing, and still lies around",
			Resource: stoppedExample("User initiated (2026-06-01 08:00:00 GMT)", withVolumes(), withAddresses()),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00", Since: example("2026-06-01 08:00")},
		},
		{
			Name: "the reason has no date; the last CPU datapoint tells",
			Resource: stoppedExample("Server.ScheduledStop: Stopped due to scheduled retirement", withVolumes(gp3(100)), withAddresses(),
				lastCPU("2026-07-01 09:00")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Since: example("2026-07-01 10:00"),
				Confidence: rule.Derived, Source: "cloudwatch:GetMetricData",
			},
		},
		{
			Name:     "other parenthesised text is no date",
			Resource: stoppedExample("Server.SpotInstanceShutdown (capacity-not-available)", lastCPU("2026-08-20 09:00")),
			Want:     scan.Want{Outcome: rule.Compliant, Confidence: rule.Derived},
		},
		{
			Name:     "the date is of a stop before the last start: it tells nothing",
			Resource: stoppedExample("User initiated (2024-01-02 03:04:05 GMT)", lastCPU("2026-08-20 09:00")),
			Want:     scan.Want{Outcome: rule.Compliant, Confidence: rule.Derived},
		},
		{
			Name: "we saw it running and then stopped: that beats the reason",
			Resource: stoppedExample("User initiated (2026-06-01 08:00:00 GMT)", withVolumes(gp3(10)), withAddresses(),
				lastCPU("2026-06-01 07:00")),
			Sighting: rule.Sighting{Before: example("2026-07-20 00:00"), FirstSeen: example("2026-07-20 06:00")},
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.80", Since: example("2026-07-20 06:00"),
				Confidence: rule.Observed, Source: observation,
			},
		},
		{
			Name:     "we saw it stop between two scans far apart, and the reason says when exactly",
			Resource: stoppedExample("User initiated (2026-07-28 10:00:00 GMT)", withVolumes(gp3(10)), withAddresses()),
			Sighting: rule.Sighting{Before: example("2026-07-20 00:00"), FirstSeen: example("2026-08-20 06:00")},
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.80", Since: example("2026-07-28 10:00"),
				Confidence: rule.Observed, Source: observation,
			},
		},
		{
			Name: "we saw it stop between two scans far apart, and its CPU metric says when",
			Resource: stoppedExample("User initiated (2026-05-20 10:00:00 GMT)", lastCPU("2026-07-25 09:00"), withVolumes(gp3(10)),
				withAddresses()),
			Sighting: rule.Sighting{Before: example("2026-07-20 00:00"), FirstSeen: example("2026-08-20 06:00")},
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.80", Since: example("2026-07-25 10:00"),
				Confidence: rule.Derived, Source: observation,
			},
		},
		{
			Name:     "we saw it stop between two scans far apart, and nothing says when",
			Resource: stoppedExample("", noCPU),
			Sighting: rule.Sighting{Before: example("2026-07-20 00:00"), FirstSeen: example("2026-08-20 06:00")},
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-09-19 06:00")},
		},
		{
			Name:     "a sighting older than the last start is void",
			Resource: stoppedExample("", lastCPU("2026-08-20 09:00")),
			Sighting: rule.Sighting{FirstSeen: example("2024-01-01 06:00")},
			Want:     scan.Want{Outcome: rule.Compliant, Confidence: rule.Derived},
		},
		{
			Name:     "started 10 days ago: it cannot have been stopped for 30, whatever is unknown",
			Resource: stoppedExample("", launched("2026-08-22 12:00")),
			Want:     scan.Want{Outcome: rule.Compliant, Source: "ec2:DescribeInstances"},
		},
		{
			Name:     "the last start left no CPU datapoint, an earlier run did: it was over at once",
			Resource: stoppedExample("Server.InternalError: Internal error on launch", lastCPU("2026-04-01 09:00"), withVolumes(gp3(10)), withAddresses()),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.80", Since: example("2026-05-01 10:00"), Confidence: rule.Derived,
			},
		},
		{
			Name:     "no CPU datapoint in the whole retention, and started before it",
			Resource: stoppedExample("", launched("2024-03-01 00:00"), noCPU, withVolumes(gp3(500)), withAddresses()),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Cost: "40.00", Confidence: rule.LowerBound,
				Says: []string{"455 days"},
			},
		},
		{
			Name:     "no CPU datapoint, started within the retention: the last start is not the stop",
			Resource: stoppedExample("", launched("2026-01-01 00:00"), noCPU),
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-10-01 12:00")},
		},
		{
			Name:     "started exactly 30 days ago and no CPU datapoint: long enough ago to be unknown",
			Resource: stoppedExample("", launched("2026-08-02 12:00"), noCPU),
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-10-01 12:00")},
		},
		{
			Name:     "nothing tells, and the only sighting is older than the last start",
			Resource: stoppedExample("", noCPU),
			Sighting: rule.Sighting{FirstSeen: example("2026-04-01 12:00")},
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-10-01 12:00")},
		},
		{
			Name:     "nothing tells, and we first saw it stopped 31 days ago: a lower bound that is enough",
			Resource: stoppedExample("", launched("2026-01-01 00:00"), noCPU, withVolumes(gp3(100)), withAddresses()),
			Sighting: rule.Sighting{FirstSeen: example("2026-08-01 12:00")},
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Since: example("2026-08-01 12:00"),
				Confidence: rule.LowerBound, Source: observation, Says: []string{"or earlier"},
			},
		},
		{
			Name:     "nothing tells, and we first saw it stopped 5 days ago",
			Resource: stoppedExample("", launched("2026-01-01 00:00"), noCPU),
			Sighting: rule.Sighting{FirstSeen: example("2026-08-27 12:00")},
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-09-26 12:00")},
		},
		{
			Name:     "CloudWatch refused to answer",
			Resource: stoppedExample("", cpuDenied),
			Want:     scan.Want{Outcome: rule.Error, Says: []string{"cloudwatch:GetMetricData"}},
		},
		{
			Name:     "a member of an Auto Scaling group's warm pool",
			Resource: stoppedExample("User initiated (2026-06-01 08:00:00 GMT)", tagged("aws:autoscaling:groupName", "web")),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "running",
			Resource: stoppedExample("", inState("running")),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "terminated",
			Resource: stoppedExample("User initiated (2026-06-01 08:00:00 GMT)", inState("terminated")),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "a volume of a type without a known price: the cost is unknown, not less",
			Resource: stoppedExample("User initiated (2026-06-01 08:00:00 GMT)", withVolumes(gp3(100), volumeOf("gp9", 100)), withAddresses()),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown", Since: example("2026-06-01 08:00")},
		},
		{
			Name:     "an address the account brought to AWS costs nothing",
			Resource: stoppedExample("User initiated (2026-06-01 08:00:00 GMT)", withVolumes(gp3(100)), withAddresses("198.51.100.7"), ownAddresses),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Since: example("2026-06-01 08:00")},
		},
		{
			Name: "managed by a stack, which is who to ask",
			Resource: stoppedExample("User initiated (2026-06-01 08:00:00 GMT)", withVolumes(), withAddresses(),
				tagged("aws:cloudformation:stack-name", "billing")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00", Since: example("2026-06-01 08:00"),
				Owner: "CloudFormation stack billing",
			},
		},
		{
			Name:     "60 days as the deployment's threshold",
			Resource: stoppedExample("User initiated (2026-07-18 12:00:00 GMT)"),
			Params:   map[string]string{"min_days": "60"},
			Want:     scan.Want{Outcome: rule.Compliant},
		},
	},
})

const describeInstances = "ec2:DescribeInstances"

// isStopped tells that the cost matters.
func isStopped(in scan.In, i inventory.Instance) bool {
	return judgeStopped(in, i).Outcome == rule.Violation
}

// stoppedByListing judges by what the listing and earlier scans tell, the
// first two rungs of the ladder; undecided tells that it is not enough.
func stoppedByListing(in scan.In, i inventory.Instance) (v rule.Verdict, undecided bool) {
	if i.State != "stopped" {
		return notApplicable(in, "It is "+i.State+", not stopped.", "state", i.State, describeInstances), false
	}
	if group, member := i.Tags["aws:autoscaling:groupName"]; member {
		return notApplicable(in, "A stopped member of an Auto Scaling group waits in its warm pool.",
			"auto_scaling_group", group, "tag:aws:autoscaling:groupName"), false
	}
	min := scan.Days(in.Params.Int("min_days"))
	if !i.Launched.IsZero() && in.Ago(i.Launched) < min {
		return rule.Verdict{
			Outcome: rule.Compliant,
			Reason:  "Started on " + when(i.Launched) + ", and cannot have been stopped for longer.",
			Evidence: []rule.Evidence{{
				Name: "days_since_start", Value: days(in, i.Launched), Threshold: in.Params.Int("min_days"), Unit: "days",
				Source: describeInstances, At: in.At, Confidence: rule.Observed, Note: "the last start bounds the stop from above",
			}},
		}, false
	}
	// A date before the last start is of an earlier stop; one in the future is
	// no date. An hour is more than clocks differ.
	t, dated := i.TransitionTime()
	dated = dated && !t.Before(i.Launched) && in.Ago(t) > -time.Hour
	date := lasting{
		earliest: t, latest: t, source: describeInstances, at: in.At, confidence: rule.Observed, note: "from StateTransitionReason",
	}
	if s := stoppedSighting(in, i); !s.Before.IsZero() {
		l := sighted(in, s)
		if dated {
			if exact, agrees := l.narrowed(date); agrees {
				return stoppedFor(in, i, exact), false
			}
		}
		if l.decides(in, min) {
			return stoppedFor(in, i, l), false
		}
		return rule.Verdict{}, true
	}
	if dated {
		return stoppedFor(in, i, date), false
	}
	return rule.Verdict{}, true
}

// stoppedSighting is what earlier scans remember, unless it was started since.
func stoppedSighting(in scan.In, i inventory.Instance) rule.Sighting {
	if in.Sighting.FirstSeen.Before(i.Launched) || in.Ago(in.Sighting.FirstSeen) < 0 {
		return rule.Sighting{}
	}
	return in.Sighting
}

func judgeStopped(in scan.In, i inventory.Instance) rule.Verdict {
	v, undecided := stoppedByListing(in, i)
	if !undecided {
		return v
	}
	min := scan.Days(in.Params.Int("min_days"))
	s := stoppedSighting(in, i)
	missing := "its CPU metric was not read"
	switch l, told := stoppedByCPU(in, i); {
	case told && s.Before.IsZero():
		return stoppedFor(in, i, l)
	case told:
		if both, agrees := sighted(in, s).narrowed(l); agrees {
			return stoppedFor(in, i, both)
		}
		missing = "its CPU metric contradicts what earlier scans saw"
	case i.LastCPU.Known:
		missing = "it has no CPU datapoint since its last start"
	case i.LastCPU.Why != "":
		missing = i.LastCPU.Why
	}
	if l := firstSeen(in, s); !s.FirstSeen.IsZero() && l.decides(in, min) {
		return stoppedFor(in, i, l)
	}
	if i.LastCPU.Failed {
		return rule.Verdict{
			Outcome: rule.Error, Reason: "Its CPU metric, which tells when it last ran, could not be read: " + i.LastCPU.Why,
			Evidence: []rule.Evidence{{
				Name: "last_cpu_datapoint", Value: "unreadable", Source: i.LastCPU.Source, At: in.At, Confidence: rule.Observed,
				Note: i.LastCPU.Why,
			}},
		}
	}
	return undecidable(in, min, s, "Nothing tells when it was stopped: AWS gives no date, and "+missing+".",
		rule.Evidence{Name: "last_start", Value: i.Launched, Source: describeInstances, At: in.At, Confidence: rule.Observed})
}

// stoppedByCPU is what the CPU metric tells, the third rung.
func stoppedByCPU(in scan.In, i inventory.Instance) (_ lasting, told bool) {
	cpu := i.LastCPU
	switch {
	case !cpu.Known:
		return lasting{}, false
	case !cpu.Value.None():
		l := silence(cpu)
		// A running instance has CPU datapoints: a start that left none was
		// over within the hour.
		if start := i.Launched.Truncate(time.Hour); l.earliest.Before(start) {
			l.earliest, l.latest = start, start.Add(time.Hour)
			l.note += "; the start on " + when(i.Launched) + " left none"
		}
		return l, true
	case !i.Launched.IsZero() && i.Launched.Before(cpu.Value.From):
		l := lasting{
			latest: cpu.Value.From, source: cpu.Source, at: cpu.At, confidence: rule.LowerBound,
			note: "started on " + when(i.Launched) + ", and a running instance has CPU datapoints",
		}
		return l, l.decides(in, scan.Days(in.Params.Int("min_days")))
	}
	return lasting{}, false
}

// undecidable is the verdict when no source answers. It becomes decidable once
// we have seen the state for long enough ourselves.
func undecidable(in scan.In, min time.Duration, s rule.Sighting, reason string, known rule.Evidence) rule.Verdict {
	seen := s.FirstSeen
	if seen.IsZero() {
		seen = in.At
	}
	return rule.Verdict{
		Outcome: rule.InsufficientData, Reason: reason, DecidableAt: seen.Add(min),
		Evidence: []rule.Evidence{
			{
				Name: "first_seen", Value: seen, Source: observation, At: in.At, Confidence: rule.LowerBound,
				Note: "decidable by our own observation on " + when(seen.Add(min)),
			},
			known,
		},
	}
}

// stoppedFor is the verdict once it is known how long it has been stopped.
func stoppedFor(in scan.In, i inventory.Instance, l lasting) rule.Verdict {
	min := in.Params.Int("min_days")
	evidence := []rule.Evidence{{
		Name: "days_stopped", Value: days(in, l.latest), Threshold: min, Unit: "days",
		Source: l.source, At: l.at, Confidence: l.confidence, Note: l.note,
	}}
	since := "Stopped since " + when(l.latest)
	switch {
	case l.confidence == rule.LowerBound && l.source != observation:
		since = fmt.Sprintf("Stopped for %d days or more: CloudWatch keeps no datapoint of it", days(in, l.latest))
	case l.confidence == rule.LowerBound:
		since += " or earlier"
	}
	if in.Ago(l.latest) < scan.Days(min) {
		return rule.Verdict{
			Outcome: rule.Compliant, Reason: fmt.Sprintf("%s, which is less than %d days.", since, min), Evidence: evidence,
		}
	}
	cost := sumParts(in, i)
	v := rule.Verdict{
		Outcome: rule.Violation, Severity: severity(cost), Cost: cost, Owner: owner(i.Tags),
		Reason:   since + ".",
		Evidence: append(evidence, stoppedHoldings(in, i)...),
	}
	// What lies at the end of CloudWatch's retention moves with every scan.
	if l.confidence != rule.LowerBound || l.source == observation {
		v.Since = l.latest
	}
	v.Recommendation = "Ask whether it is still needed; if not, keep an image of what must be kept and terminate it."
	if n := len(i.Addresses.Value); n > 0 {
		v.Recommendation += " Termination does not release its Elastic IP addresses: release them."
	}
	if keep := kept(i); len(keep) > 0 {
		v.Recommendation += " Termination leaves " + strings.Join(keep, ", ") + " behind: delete them too."
	}
	return v
}

// kept are the ids of volumes that outlive the instance.
func kept(i inventory.Instance) []string {
	var ids []string
	for _, d := range i.Devices {
		if !d.DeleteOnTermination && d.VolumeID != "" {
			ids = append(ids, d.VolumeID)
		}
	}
	slices.Sort(ids)
	return ids
}

// stoppedParts are what a stopped instance goes on costing: its volumes and
// its public addresses. A part whose cost is unknown is there as such.
func stoppedParts(in scan.In, i inventory.Instance) []scan.Part {
	var parts []scan.Part
	for _, v := range i.Volumes.Value {
		parts = append(parts, scan.Part{ARN: v.ARN, Cost: in.Price.Volume(v.VolumeType, v.SizeGiB, v.IOPS, v.ThroughputMiBps)})
	}
	for _, a := range i.Addresses.Value {
		// AWS does not charge for addresses the account brought along.
		if !a.Own {
			prefix := strings.TrimSuffix(i.ARN, "instance/"+i.ID)
			parts = append(parts, scan.Part{ARN: prefix + "elastic-ip/" + cmp.Or(a.AllocationID, a.IP), Cost: in.Price.PublicIPv4(1)})
		}
	}
	// AWS's order is not stable, and a sum of floats is not the same in
	// another order.
	slices.SortFunc(parts, func(a, b scan.Part) int {
		return cmp.Or(cmp.Compare(a.ARN, b.ARN), cmp.Compare(a.Cost.High, b.Cost.High))
	})
	return parts
}

// sumParts is what all parts cost; unknown when any is, or when it is not
// known what there is.
func sumParts(in scan.In, i inventory.Instance) rule.Cost {
	if !i.Volumes.Known || !i.Addresses.Known {
		return rule.Cost{}
	}
	sum := in.Price.Nothing()
	for _, p := range stoppedParts(in, i) {
		sum = sum.Plus(p.Cost)
	}
	return sum
}

// stoppedHoldings shows what the cost is made of, in an order of its own.
func stoppedHoldings(in scan.In, i inventory.Instance) []rule.Evidence {
	volumes := rule.Evidence{Name: "attached_volumes", Source: "ec2:DescribeVolumes", At: i.Volumes.At, Confidence: rule.Observed}
	if i.Volumes.Known {
		list := make([]string, len(i.Volumes.Value))
		for n, v := range i.Volumes.Value {
			list[n] = fmt.Sprintf("%s %s %d GiB", v.ID, v.VolumeType, v.SizeGiB)
			if !in.Price.Volume(v.VolumeType, v.SizeGiB, v.IOPS, v.ThroughputMiBps).Known {
				list[n] += " (price unknown)"
			}
		}
		slices.Sort(list)
		volumes.Value = list
	} else {
		volumes.Note = "unknown, and so is the cost: " + orNotRead(i.Volumes.Why)
	}
	addresses := rule.Evidence{Name: "public_ipv4", Source: "ec2:DescribeAddresses", At: i.Addresses.At, Confidence: rule.Observed}
	if i.Addresses.Known {
		list := make([]string, len(i.Addresses.Value))
		for n, a := range i.Addresses.Value {
			list[n] = a.IP
			if a.Own {
				list[n] += " (brought to AWS, free)"
			}
		}
		slices.Sort(list)
		addresses.Value = list
	} else {
		addresses.Note = "unknown, and so is the cost: " + orNotRead(i.Addresses.Why)
	}
	return []rule.Evidence{volumes, addresses}
}

func orNotRead(why string) string {
	if why == "" {
		return "not read"
	}
	return why
}
