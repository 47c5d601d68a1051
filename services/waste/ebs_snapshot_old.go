package waste

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.Snapshot]{
	Meta: rule.Meta{
		ID:           "ebs-snapshot-old",
		Version:      1,
		Category:     rule.Waste,
		ResourceType: "AWS::EC2::Snapshot",
		Title:        "EBS snapshot that is old and that nothing manages",
		Why: "Snapshots made by hand or by scripts outlive their purpose: before an upgrade, for an image that was deregistered, of a volume " +
			"that is gone. Nothing expires them, and every block they alone hold is billed. They also keep old data, and its secrets, " +
			"longer than anybody decided to.",
		Fix: "Delete it if nobody needs that state any more, and let Data Lifecycle Manager or AWS Backup make snapshots that expire. What " +
			"must be kept for long is cheaper in the archive tier. Of the last remaining backup of a volume that no longer exists, think " +
			"twice: archive it.",
		Severity: severityText + " INFO for the last remaining backup of a volume that no longer exists.",
		Params: []rule.Param{{
			Name: "min_days", Description: "Age from which on a snapshot is reported.", Unit: "days",
			Default: 90, Min: 1, Max: 3650,
		}},
		Citations: []string{
			"https://docs.aws.amazon.com/ebs/latest/userguide/ebs-snapshots.html",
			"https://docs.aws.amazon.com/ebs/latest/userguide/ebs-deleting-snapshot.html",
			"https://docs.aws.amazon.com/ebs/latest/userguide/snapshot-archive.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Snapshot.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeImages.html",
			"https://docs.aws.amazon.com/ebs/latest/userguide/snapshot-lifecycle.html",
			"https://aws.amazon.com/ebs/pricing/",
		},
	},
	Kind: inventory.Snapshots,
	Facts: []scan.Need[inventory.Snapshot]{
		// All images are one listing, however many snapshots ask.
		{Fact: inventory.SnapshotImages, When: func(in scan.In, s inventory.Snapshot) bool {
			_, undecided := snapshotByListing(in, s)
			return undecided
		}},
		{Fact: inventory.SnapshotVolume, When: func(in scan.In, s inventory.Snapshot) bool {
			_, undecided := snapshotByImages(in, s)
			return undecided
		}},
		{Fact: inventory.SnapshotOthers, When: func(in scan.In, s inventory.Snapshot) bool {
			_, undecided := snapshotByImages(in, s)
			return undecided && s.VolumeExists.Known && !s.VolumeExists.Value
		}},
	},
	Judge: judgeSnapshot,
	Examples: []scan.Example[inventory.Snapshot]{
		{
			Name:     "taken by hand 200 days ago; its volume is in use, of which 40 GiB were written",
			Resource: snapshotExample(fullSize(40), volumeThere),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–2.00", Since: example("2026-02-13 12:00"),
				Confidence: rule.Observed, Source: describeSnapshots, Says: []string{"Begun on 2026-02-13 12:00 UTC"},
			},
		},
		{
			Name:     "AWS does not tell its full size: at most that of its volume",
			Resource: snapshotExample(volumeThere),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–5.00", Since: example("2026-02-13 12:00")},
		},
		{
			Name:     "in the archive tier, which has a rate of its own",
			Resource: snapshotExample(volumeThere, func(s *inventory.Snapshot) { s.Tier = "archive" }),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–1.25", Since: example("2026-02-13 12:00")},
		},
		{
			Name:     "exactly 90 days: the threshold is inclusive",
			Resource: snapshotExample(begun("2026-06-03 12:00"), volumeThere),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–5.00", Since: example("2026-06-03 12:00")},
		},
		{
			Name:     "a minute short of 90 days",
			Resource: snapshotExample(begun("2026-06-03 12:01")),
			Want:     scan.Want{Outcome: rule.Compliant, Source: describeSnapshots},
		},
		{
			Name:     "the only completed snapshot of a volume that no longer exists: the last remaining backup",
			Resource: snapshotExample(volumeGone, others(false)),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Info, Cost: "0.00–5.00", Since: example("2026-02-13 12:00"),
				Says: []string{"last remaining backup", "archive"},
			},
		},
		{
			Name:     "one of several of a volume that no longer exists",
			Resource: snapshotExample(volumeGone, others(true)),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–5.00", Since: example("2026-02-13 12:00"),
				Says: []string{"keep the newest"},
			},
		},
		{
			Name:     "a copy, whose volume nobody knows",
			Resource: snapshotExample(func(s *inventory.Snapshot) { s.VolumeID = "vol-ffffffff" }),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–5.00", Since: example("2026-02-13 12:00"), Says: []string{"copy"},
			},
		},
		{
			Name:     "made for an image that was deregistered: nothing uses it",
			Resource: snapshotExample(volumeThere, described("Created by CreateImage(i-0123456789abcdef0) for ami-0123456789abcdef0")),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "0.00–5.00", Since: example("2026-02-13 12:00")},
		},
		{
			Name:     "used by an image of ours, if only a deprecated or disabled one",
			Resource: snapshotExample(usedBy("ami-0123456789abcdef0")),
			Want:     scan.Want{Outcome: rule.NotApplicable, Source: describeImages, Says: []string{"ami-0123456789abcdef0"}},
		},
		{
			Name:     "managed by AWS Backup, by its tag",
			Resource: snapshotExample(snapshotTag("aws:backup:source-resource", "arn:aws:ec2:us-east-1:123456789012:volume/vol-0123456789abcdef0")),
			Want:     scan.Want{Outcome: rule.NotApplicable, Says: []string{"AWS Backup"}},
		},
		{
			Name:     "managed by AWS Backup, by its description",
			Resource: snapshotExample(described("This snapshot is created by the AWS Backup service.")),
			Want:     scan.Want{Outcome: rule.NotApplicable, Says: []string{"AWS Backup"}},
		},
		{
			Name:     "managed by Data Lifecycle Manager",
			Resource: snapshotExample(snapshotTag("aws:dlm:lifecycle-policy-id", "policy-0123456789abcdef0")),
			Want:     scan.Want{Outcome: rule.NotApplicable, Says: []string{"Data Lifecycle Manager"}},
		},
		{
			Name:     "managed by Data Lifecycle Manager, by its other tag",
			Resource: snapshotExample(snapshotTag("dlm:managed", "true")),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "not completed",
			Resource: snapshotExample(func(s *inventory.Snapshot) { s.State = "error" }),
			Want:     scan.Want{Outcome: rule.NotApplicable, Says: []string{"error"}},
		},
		{
			Name:     "images may not be read: one of them could need it",
			Resource: snapshotExample(volumeThere, imagesDenied),
			Want:     scan.Want{Outcome: rule.Error, Says: []string{"ec2:DescribeImages is denied"}},
		},
		{
			Name:     "young, whatever is unknown",
			Resource: snapshotExample(begun("2026-08-01 12:00"), imagesDenied),
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name: "volumes may not be read: it could be the last remaining backup",
			Resource: snapshotExample(func(s *inventory.Snapshot) {
				s.VolumeExists = rule.Fact[bool]{
					Failed: true, Source: describeVolumes, Why: "ec2:DescribeVolumes is denied (UnauthorizedOperation): no identity-based policy allows it",
				}
			}),
			Want: scan.Want{Outcome: rule.Error, Says: []string{"ec2:DescribeVolumes is denied"}},
		},
		{
			Name:     "AWS left out when it was begun",
			Resource: snapshotExample(volumeThere, func(s *inventory.Snapshot) { s.Created = time.Time{} }),
			Want:     scan.Want{Outcome: rule.InsufficientData},
		},
		{
			Name:     "a region without prices: the cost is unknown, not nothing",
			Resource: snapshotExample(volumeThere),
			Region:   "xx-nowhere-1",
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown", Since: example("2026-02-13 12:00")},
		},
		{
			Name:     "no size is told, and so no cost",
			Resource: snapshotExample(volumeThere, func(s *inventory.Snapshot) { s.SizeGiB = 0 }),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown", Since: example("2026-02-13 12:00")},
		},
		{
			Name:     "a year as the deployment's threshold",
			Resource: snapshotExample(volumeThere),
			Params:   map[string]string{"min_days": "365"},
			Want:     scan.Want{Outcome: rule.Compliant},
		},
	},
})

const (
	describeSnapshots = "ec2:DescribeSnapshots"
	describeImages    = "ec2:DescribeImages"
)

// snapshotExample is a completed snapshot of a volume of 100 GiB, taken 200
// days ago, that no image uses.
func snapshotExample(with ...func(*inventory.Snapshot)) inventory.Snapshot {
	const id = "snap-0123456789abcdef0"
	return apply(inventory.Snapshot{
		Resource: inventory.Resource{
			ARN: "arn:aws:ec2:us-east-1::snapshot/" + id, ID: id, Type: "AWS::EC2::Snapshot",
			Account: "123456789012", Region: "us-east-1", Created: example("2026-02-13 12:00"),
		},
		State: "completed", VolumeID: "vol-0123456789abcdef0", SizeGiB: 100, Tier: "standard", Description: "before upgrade",
		Images: rule.Known[[]string](nil, describeImages, scan.ExampleTime),
	}, with)
}

func begun(at string) func(*inventory.Snapshot) {
	return func(s *inventory.Snapshot) { s.Created = example(at) }
}

func described(as string) func(*inventory.Snapshot) {
	return func(s *inventory.Snapshot) { s.Description = as }
}

func fullSize(gib int64) func(*inventory.Snapshot) {
	return func(s *inventory.Snapshot) { s.FullBytes = gib << 30 }
}

func snapshotTag(key, value string) func(*inventory.Snapshot) {
	return func(s *inventory.Snapshot) { s.Tags = map[string]string{key: value} }
}

func usedBy(images ...string) func(*inventory.Snapshot) {
	return func(s *inventory.Snapshot) { s.Images = rule.Known(images, describeImages, scan.ExampleTime) }
}

func imagesDenied(s *inventory.Snapshot) {
	s.Images = rule.Fact[[]string]{
		Failed: true, Source: describeImages, Why: "ec2:DescribeImages is denied (UnauthorizedOperation): no identity-based policy allows it",
	}
}

func volumeThere(s *inventory.Snapshot) {
	s.VolumeExists = rule.Known(true, describeVolumes, scan.ExampleTime)
}

func volumeGone(s *inventory.Snapshot) {
	s.VolumeExists = rule.Known(false, describeVolumes, scan.ExampleTime)
}

func others(left bool) func(*inventory.Snapshot) {
	return func(s *inventory.Snapshot) { s.OthersLeft = rule.Known(left, describeSnapshots, scan.ExampleTime) }
}

// snapshotByListing judges by what the listing tells; undecided tells that an
// image of ours may still need it.
func snapshotByListing(in scan.In, s inventory.Snapshot) (_ rule.Verdict, undecided bool) {
	if s.State != "completed" {
		return notApplicable(in, "It is "+cmp.Or(s.State, "in no known state")+", not completed.", "state", s.State, describeSnapshots), false
	}
	if source, ok := s.Tags["aws:backup:source-resource"]; ok {
		return notApplicable(in, "AWS Backup manages it.", "source_resource", source, "tag:aws:backup:source-resource"), false
	}
	if strings.Contains(s.Description, "AWS Backup service") {
		return notApplicable(in, "AWS Backup manages it.", "description", s.Description, describeSnapshots), false
	}
	for _, key := range []string{"aws:dlm:lifecycle-policy-id", "dlm:managed"} {
		if value, ok := s.Tags[key]; ok {
			return notApplicable(in, "Data Lifecycle Manager manages it.", "lifecycle_policy", value, "tag:"+key), false
		}
	}
	return rule.Verdict{}, true
}

// snapshotByImages judges by the images and the age, too; undecided tells that
// it is old and nothing uses it.
func snapshotByImages(in scan.In, s inventory.Snapshot) (v rule.Verdict, undecided bool) {
	if v, undecided = snapshotByListing(in, s); !undecided {
		return v, false
	}
	if n := len(s.Images.Value); s.Images.Known && n > 0 {
		reason := "Image " + s.Images.Value[0] + " is made of it."
		if n > 1 {
			reason = fmt.Sprintf("Image %s and %d more are made of it.", s.Images.Value[0], n-1)
		}
		return rule.Verdict{
			Outcome: rule.NotApplicable, Reason: reason,
			Evidence: []rule.Evidence{{
				Name: "images", Value: s.Images.Value, Source: s.Images.Source, At: s.Images.At, Confidence: rule.Observed,
			}},
		}, false
	}
	min := in.Params.Int("min_days")
	if s.Created.IsZero() {
		return rule.Verdict{
			Outcome: rule.InsufficientData, Reason: "AWS does not tell when it was begun.",
			Evidence: []rule.Evidence{{
				Name: "age", Value: "unknown", Threshold: min, Unit: "days", Source: describeSnapshots, At: in.At, Confidence: rule.Observed,
			}},
		}, false
	}
	if in.Ago(s.Created) < scan.Days(min) {
		return rule.Verdict{
			Outcome: rule.Compliant, Reason: fmt.Sprintf("Begun on %s, which is less than %d days ago.", when(s.Created), min),
			Evidence: []rule.Evidence{snapshotAge(in, s)},
		}, false
	}
	if !s.Images.Known {
		return snapshotUnread(s.Images.Failed, "images", "Whether an image of ours is made of it is unknown: ", s.Images.Why, describeImages, in), false
	}
	return rule.Verdict{}, true
}

func judgeSnapshot(in scan.In, s inventory.Snapshot) rule.Verdict {
	v, undecided := snapshotByImages(in, s)
	if !undecided {
		return v
	}
	cost := snapshotCost(in, s)
	v = rule.Verdict{
		Outcome: rule.Violation, Severity: severity(cost), Cost: cost, Owner: owner(s.Tags), Since: s.Created,
		Reason:         fmt.Sprintf("Begun on %s, which is %d days ago or more; no image of ours is made of it, and nothing manages it.", when(s.Created), in.Params.Int("min_days")),
		Recommendation: "If nobody needs that state of the volume any more, delete it; if it must be kept for long, archive it.",
	}
	volume := rule.Evidence{Name: "volume", Value: s.VolumeID, Source: describeVolumes, At: s.VolumeExists.At, Confidence: rule.Observed}
	switch {
	case s.Volume() == "":
		volume.Source, volume.At, volume.Note = describeSnapshots, in.At, "a copy: its volume is unknown"
		v.Reason += " It is a copy, and whether its volume exists is unknown."
	case !s.VolumeExists.Known:
		return snapshotUnread(s.VolumeExists.Failed, "volume", "It may be the last remaining backup, for whether its volume exists is unknown: ",
			s.VolumeExists.Why, describeVolumes, in)
	case s.VolumeExists.Value:
		volume.Note = "it exists"
	case !s.OthersLeft.Known:
		return snapshotUnread(s.OthersLeft.Failed, "other_snapshots", "It may be the last remaining backup of a volume that no longer exists: ",
			s.OthersLeft.Why, describeSnapshots, in)
	case s.OthersLeft.Value:
		volume.Note = "it no longer exists; other snapshots of it do"
		v.Recommendation = "Its volume no longer exists: keep the newest of its snapshots for as long as its data may be needed, better in the archive " +
			"tier, and delete the others."
	default:
		volume.Note = "it no longer exists, and neither does another completed snapshot of it"
		v.Severity = rule.Info
		v.Reason += " It is the last remaining backup of " + s.VolumeID + ", which no longer exists."
		v.Recommendation = "Do not delete it unless its owner says so: archive it, which costs a quarter."
		if s.Tier == "archive" {
			v.Recommendation = "Do not delete it unless its owner says so."
		}
	}
	size := rule.Evidence{
		Name: "size", Value: s.SizeGiB, Unit: "GiB", Source: describeSnapshots, At: in.At, Confidence: rule.Observed,
		Note: "of the volume; AWS does not tell how much of it was written",
	}
	if s.FullBytes > 0 {
		size.Value, size.Note = float64(s.FullBytes)/(1<<30), "all blocks written to the volume; those that other snapshots hold, too, cost nothing more"
	}
	v.Evidence = []rule.Evidence{snapshotAge(in, s), volume, size, {
		Name: "tier", Value: tierOf(s), Source: describeSnapshots, At: in.At, Confidence: rule.Observed,
	}}
	return v
}

func snapshotAge(in scan.In, s inventory.Snapshot) rule.Evidence {
	return rule.Evidence{
		Name: "age", Value: days(in, s.Created), Threshold: in.Params.Int("min_days"), Unit: "days",
		Source: describeSnapshots, At: in.At, Confidence: rule.Observed,
	}
}

// snapshotUnread is the verdict when something is not known without which
// nobody should delete anything.
func snapshotUnread(failed bool, name, reason, why, source string, in scan.In) rule.Verdict {
	v := rule.Verdict{
		Outcome: rule.InsufficientData, Reason: reason + orNotRead(why) + ".",
		Evidence: []rule.Evidence{{
			Name: name, Value: "unknown", Source: source, At: in.At, Confidence: rule.Observed, Note: orNotRead(why),
		}},
	}
	if failed {
		v.Outcome = rule.Error
	}
	return v
}

func tierOf(s inventory.Snapshot) string {
	if s.Tier == "" {
		return "standard"
	}
	return s.Tier
}

// snapshotCost is from nothing, when all its blocks are others', too, to all
// that was written to the volume. A size that nobody tells is unknown.
func snapshotCost(in scan.In, s inventory.Snapshot) rule.Cost {
	gib := float64(s.SizeGiB)
	if full := float64(s.FullBytes) / (1 << 30); s.FullBytes > 0 && (full < gib || gib <= 0) {
		gib = full
	}
	if gib <= 0 {
		return rule.Cost{}
	}
	return in.Price.Snapshot(gib, s.Tier)
}
