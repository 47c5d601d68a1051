package waste

import (
	"fmt"
	"strings"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.Volume]{
	Meta: rule.Meta{
		ID:           "ebs-unattached",
		Version:      1,
		Category:     rule.Waste,
		ResourceType: "AWS::EC2::Volume",
		Title:        "EBS volume attached to nothing",
		Why: "A volume is billed by its provisioned size, IOPS and throughput whether or not anything is attached to it. Volumes are " +
			"left behind by terminated instances, failed deployments and deleted Kubernetes claims, and nothing in AWS ever removes them.",
		Fix: "Ask its owner. Take a snapshot if the data may be needed again, then delete the volume. A volume of a Kubernetes claim is " +
			"deleted through Kubernetes, which otherwise holds on to a PersistentVolume that no longer exists.",
		Severity: severityText,
		Params: []rule.Param{{
			Name: "min_days", Description: "Days a volume must have been unattached to be reported.", Unit: "days",
			Default: 14, Min: 1, Max: 3650,
		}},
		Citations: []string{
			"https://docs.aws.amazon.com/ebs/latest/userguide/ebs-describing-volumes.html",
			"https://docs.aws.amazon.com/ebs/latest/userguide/using_cloudwatch_ebs.html",
			"https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/cloudwatch_concepts.html#metrics-retention",
			"https://aws.amazon.com/ebs/pricing/",
		},
	},
	Kind: inventory.Volumes,
	Facts: []scan.Need[inventory.Volume]{
		{Fact: inventory.VolumeLastRead, When: func(in scan.In, v inventory.Volume) bool {
			_, undecided := unattachedByListing(in, v)
			return undecided
		}},
		{Fact: inventory.VolumeHasSnapshot, When: func(in scan.In, v inventory.Volume) bool {
			return judgeUnattached(in, v).Outcome == rule.Violation
		}},
	},
	Follow: func(v inventory.Volume) (string, bool) { return v.State, v.State == "available" },
	Judge:  judgeUnattached,
	Examples: []scan.Example[inventory.Volume]{
		{
			Name:     "last in use 31 days ago, 500 GB of gp3 at 6,000 IOPS and 250 MiB/s, snapshot at hand",
			Resource: volumeExample(lastRead("2026-08-01 11:00"), provisioned(500, 6000, 250), backedUp(true)),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Cost: "60.00", Since: example("2026-08-01 12:00"),
				Confidence: rule.Derived, Source: "cloudwatch:GetMetricData",
				Says: []string{"Unattached since 2026-08-01 12:00 UTC", "a snapshot of it exists"},
			},
		},
		{
			Name:     "exactly 14 days since the last hour it was in use: the threshold is inclusive",
			Resource: volumeExample(lastRead("2026-08-18 11:00"), provisioned(100, 3000, 125), backedUp(true)),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Since: example("2026-08-18 12:00")},
		},
		{
			Name:     "$10.00 a month is MEDIUM",
			Resource: volumeExample(lastRead("2026-08-01 11:00"), provisioned(125, 3000, 125), backedUp(true)),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "10.00", Since: example("2026-08-01 12:00")},
		},
		{
			Name:     "$100.00 a month is HIGH",
			Resource: volumeExample(lastRead("2026-08-01 11:00"), provisioned(1250, 3000, 125), backedUp(true)),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.High, Cost: "100.00", Since: example("2026-08-01 12:00")},
		},
		{
			Name:     "last in use 13 days ago",
			Resource: volumeExample(lastRead("2026-08-19 11:00")),
			Want:     scan.Want{Outcome: rule.Compliant, Confidence: rule.Derived},
		},
		{
			Name:     "no snapshot: this is the only copy",
			Resource: volumeExample(lastRead("2026-08-01 11:00"), provisioned(100, 3000, 125), backedUp(false)),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Since: example("2026-08-01 12:00"),
				Says: []string{"this is the only copy"},
			},
		},
		{
			Name:     "never in use since it was created 45 days ago",
			Resource: volumeExample(neverRead, created("2026-07-18 12:00"), provisioned(100, 3000, 125), backedUp(false)),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Since: example("2026-07-18 12:00"), Confidence: rule.Derived,
			},
		},
		{
			Name:     "not in use in the whole retention: that long, and not since its creation",
			Resource: volumeExample(neverRead, created("2022-01-01 00:00"), provisioned(100, 3000, 125), backedUp(true)),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Confidence: rule.Derived, Says: []string{"455 days"},
			},
		},
		{
			Name:     "created 5 days ago: it cannot have been unattached for 14, whatever is unknown",
			Resource: volumeExample(created("2026-08-27 12:00")),
			Want:     scan.Want{Outcome: rule.Compliant, Source: "ec2:DescribeVolumes"},
		},
		{
			Name:     "we saw it attached 10 days ago: silence before that was its instance being stopped",
			Resource: volumeExample(lastRead("2026-05-01 11:00")),
			Sighting: rule.Sighting{Before: example("2026-08-22 06:00"), FirstSeen: example("2026-08-22 12:00")},
			Want:     scan.Want{Outcome: rule.Compliant, Confidence: rule.Observed, Source: observation},
		},
		{
			Name:     "we saw it detached 20 days ago",
			Resource: volumeExample(lastRead("2026-05-01 11:00"), provisioned(100, 3000, 125), backedUp(true)),
			Sighting: rule.Sighting{Before: example("2026-08-12 06:00"), FirstSeen: example("2026-08-12 12:00")},
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Since: example("2026-08-12 12:00"),
				Confidence: rule.Observed, Source: observation,
			},
		},
		{
			Name:     "we saw it detached between two scans far apart; the metric says when it was in use last",
			Resource: volumeExample(lastRead("2026-08-15 11:00"), provisioned(100, 3000, 125), backedUp(true)),
			Sighting: rule.Sighting{Before: example("2026-08-10 06:00"), FirstSeen: example("2026-08-25 06:00")},
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Since: example("2026-08-15 12:00"),
				Confidence: rule.Derived, Source: observation,
			},
		},
		{
			Name:     "a datapoint newer than the sighting: it was attached in between",
			Resource: volumeExample(lastRead("2026-08-25 11:00")),
			Sighting: rule.Sighting{Before: example("2026-08-12 06:00"), FirstSeen: example("2026-08-12 12:00")},
			Want:     scan.Want{Outcome: rule.Compliant, Confidence: rule.Derived},
		},
		{
			Name:     "the metric does not tell, and we first saw it unattached 14 days ago: a lower bound that is enough",
			Resource: volumeExample(unknownRead, provisioned(100, 3000, 125), backedUp(true)),
			Sighting: rule.Sighting{FirstSeen: example("2026-08-18 12:00")},
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "8.00", Since: example("2026-08-18 12:00"),
				Confidence: rule.LowerBound, Source: observation, Says: []string{"or earlier"},
			},
		},
		{
			Name:     "the metric does not tell, and this is the first scan",
			Resource: volumeExample(unknownRead),
			Want:     scan.Want{Outcome: rule.InsufficientData, DecidableAt: example("2026-09-15 12:00")},
		},
		{
			Name:     "CloudWatch refused to answer",
			Resource: volumeExample(readDenied),
			Want:     scan.Want{Outcome: rule.Error, Says: []string{"cloudwatch:GetMetricData"}},
		},
		{
			Name: "made for a Kubernetes claim, which is who to ask",
			Resource: volumeExample(lastRead("2026-08-01 11:00"), provisioned(20, 3000, 125), backedUp(false), volumeTags(map[string]string{
				"kubernetes.io/created-for/pvc/namespace": "shop", "kubernetes.io/created-for/pvc/name": "data-db-0",
				"ebs.csi.aws.com/cluster": "true",
			})),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "1.60", Since: example("2026-08-01 12:00"),
				Owner: "Kubernetes claim shop/data-db-0", Says: []string{"through Kubernetes"},
			},
		},
		{
			Name:     "a region without prices: the cost is unknown, not nothing",
			Resource: volumeExample(lastRead("2026-08-01 11:00"), provisioned(500, 3000, 125), backedUp(true)),
			Region:   "xx-nowhere-1",
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown", Since: example("2026-08-01 12:00")},
		},
		{
			Name:     "in use, if only by a stopped instance",
			Resource: volumeExample(volumeState("in-use"), lastRead("2026-05-01 11:00")),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "being deleted",
			Resource: volumeExample(volumeState("deleting"), lastRead("2026-05-01 11:00")),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "30 days as the deployment's threshold",
			Resource: volumeExample(lastRead("2026-08-10 11:00")),
			Params:   map[string]string{"min_days": "30"},
			Want:     scan.Want{Outcome: rule.Compliant},
		},
	},
})

const describeVolumes = "ec2:DescribeVolumes"

// unattachedByListing judges by what the listing tells; undecided tells that
// it is not enough.
func unattachedByListing(in scan.In, v inventory.Volume) (_ rule.Verdict, undecided bool) {
	if v.State != "available" {
		return notApplicable(in, "It is "+v.State+", not available.", "state", v.State, describeVolumes), false
	}
	if !v.Created.IsZero() && in.Ago(v.Created) < scan.Days(in.Params.Int("min_days")) {
		return rule.Verdict{
			Outcome: rule.Compliant,
			Reason:  "Created on " + when(v.Created) + ", and cannot have been unattached for longer.",
			Evidence: []rule.Evidence{{
				Name: "days_since_creation", Value: days(in, v.Created), Threshold: in.Params.Int("min_days"), Unit: "days",
				Source: describeVolumes, At: in.At, Confidence: rule.Observed,
			}},
		}, false
	}
	return rule.Verdict{}, true
}

// unattachedSighting is what earlier scans remember, unless it was in use
// since: between two scans a volume can be attached and detached again, which
// only its metric shows.
func unattachedSighting(in scan.In, v inventory.Volume) rule.Sighting {
	s := in.Sighting
	if s.FirstSeen.Before(v.Created) || in.Ago(s.FirstSeen) < 0 || v.LastRead.Known && !v.LastRead.Value.Hour.Before(s.FirstSeen) {
		return rule.Sighting{}
	}
	return s
}

func judgeUnattached(in scan.In, v inventory.Volume) rule.Verdict {
	if verdict, undecided := unattachedByListing(in, v); !undecided {
		return verdict
	}
	min := scan.Days(in.Params.Int("min_days"))
	s := unattachedSighting(in, v)
	if l := sighted(in, s); !s.Before.IsZero() && l.decides(in, min) {
		return unattachedFor(in, v, l)
	}
	missing := "its I/O metric was not read"
	switch l, told := unattachedByMetric(in, v); {
	case told && s.Before.IsZero():
		return unattachedFor(in, v, l)
	case told:
		if both, agrees := sighted(in, s).narrowed(l); agrees {
			return unattachedFor(in, v, both)
		}
		missing = "its I/O metric contradicts what earlier scans saw"
	case v.LastRead.Known:
		missing = "it has no I/O datapoint in CloudWatch's whole retention"
	case v.LastRead.Why != "":
		missing = v.LastRead.Why
	}
	if l := firstSeen(in, s); !s.FirstSeen.IsZero() && l.decides(in, min) {
		return unattachedFor(in, v, l)
	}
	if v.LastRead.Failed {
		return rule.Verdict{
			Outcome: rule.Error, Reason: "Its I/O metric, which tells when it was last in use, could not be read: " + v.LastRead.Why,
			Evidence: []rule.Evidence{{
				Name: "last_read_datapoint", Value: "unreadable", Source: v.LastRead.Source, At: in.At, Confidence: rule.Observed,
				Note: v.LastRead.Why,
			}},
		}
	}
	return undecidable(in, min, s, "Nothing tells since when it is unattached: AWS gives no date, and "+missing+".",
		rule.Evidence{Name: "created", Value: v.Created, Source: describeVolumes, At: in.At, Confidence: rule.Observed})
}

// unattachedByMetric is what the I/O metric tells, and where there never was a
// datapoint the creation time.
func unattachedByMetric(in scan.In, v inventory.Volume) (_ lasting, told bool) {
	read := v.LastRead
	switch {
	case !read.Known:
		return lasting{}, false
	case !read.Value.None():
		l := silence(read)
		l.note += "; EBS publishes while the volume is attached to a running instance"
		return l, true
	case v.Created.IsZero():
		return lasting{}, false
	}
	l := lasting{
		earliest: v.Created, latest: v.Created, source: read.Source, at: read.At, confidence: rule.Derived,
		note: "no I/O datapoint since its creation: it was never attached to a running instance",
	}
	if v.Created.Before(read.Value.From) {
		l.latest, l.note = read.Value.From, "no I/O datapoint in CloudWatch's whole retention"
	}
	return l, l.decides(in, scan.Days(in.Params.Int("min_days")))
}

// unattachedFor is the verdict once it is known how long it has been
// unattached.
func unattachedFor(in scan.In, v inventory.Volume, l lasting) rule.Verdict {
	min := in.Params.Int("min_days")
	evidence := []rule.Evidence{{
		Name: "days_unattached", Value: days(in, l.latest), Threshold: min, Unit: "days",
		Source: l.source, At: l.at, Confidence: l.confidence, Note: l.note,
	}}
	// What lies at the end of CloudWatch's retention moves with every scan.
	moves := v.LastRead.Known && v.LastRead.Value.None() && l.latest.Equal(v.LastRead.Value.From) && l.source != observation
	since := "Unattached since " + when(l.latest)
	switch {
	case moves:
		since = fmt.Sprintf("Unattached for %d days or more: CloudWatch keeps no datapoint of it", days(in, l.latest))
	case l.confidence == rule.LowerBound:
		since += " or earlier"
	}
	if in.Ago(l.latest) < scan.Days(min) {
		return rule.Verdict{
			Outcome: rule.Compliant, Reason: fmt.Sprintf("%s, which is less than %d days.", since, min), Evidence: evidence,
		}
	}
	cost := in.Price.Volume(v.VolumeType, v.SizeGiB, v.IOPS, v.ThroughputMiBps)
	out := rule.Verdict{
		Outcome: rule.Violation, Severity: severity(cost), Cost: cost, Owner: owner(v.Tags), Reason: since + ".",
	}
	if !moves {
		out.Since = l.latest
	}
	snapshot := rule.Evidence{
		Name: "has_snapshot", Source: "ec2:DescribeSnapshots", At: v.HasSnapshot.At, Confidence: rule.Observed,
	}
	remove := "delete it"
	if strings.HasPrefix(out.Owner, "Kubernetes") {
		remove = "delete it through Kubernetes"
	}
	switch {
	case v.HasSnapshot.Known && v.HasSnapshot.Value:
		snapshot.Value = true
		out.Recommendation = "If nobody needs it, " + remove + "; a snapshot of it exists: check that it is recent enough."
	case v.HasSnapshot.Known:
		snapshot.Value = false
		out.Reason += " It has no snapshot: this is the only copy."
		out.Recommendation = "Take a snapshot first, for this is the only copy of the data; then, if nobody needs it, " + remove + "."
	default:
		snapshot.Note = "unknown: " + orNotRead(v.HasSnapshot.Why)
		out.Recommendation = "Take a snapshot first, for it is unknown whether there is one; then, if nobody needs it, " + remove + "."
	}
	out.Evidence = append(evidence, snapshot, rule.Evidence{
		Name: "volume", Value: fmt.Sprintf("%s %d GiB, %d IOPS, %d MiB/s", v.VolumeType, v.SizeGiB, v.IOPS, v.ThroughputMiBps),
		Source: describeVolumes, At: in.At, Confidence: rule.Observed,
	})
	return out
}
