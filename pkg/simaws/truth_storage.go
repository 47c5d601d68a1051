package simaws

import (
	"strings"
	"time"
)

const (
	snapshotFor = 90 * day
	// grace is how long tag and encryption rules leave a new resource alone.
	grace = time.Hour
)

// ebsSnapshotOld judges the account's own snapshots of a region.
func ebsSnapshotOld(r *Region, now time.Time, yield yield) {
	used := map[string]bool{} // by an image of ours that still exists, whatever its state
	for i := range r.Images {
		if img := &r.Images[i]; img.Owner == "" && img.listed() {
			for _, s := range img.Snapshots {
				used[s] = true
			}
		}
	}
	kept := map[string]int{} // completed snapshots by volume
	for i := range r.Snapshots {
		if s := &r.Snapshots[i]; s.Owner == "" && s.state() == "completed" {
			kept[s.Volume]++
		}
	}
	for i := range r.Snapshots {
		if s := &r.Snapshots[i]; s.Owner == "" {
			yield("snapshot", s.ID, s.Case, r.snapshotVerdict(s, now, used[s.ID], kept[s.Volume] == 1))
		}
	}
}

func (r *Region) snapshotVerdict(s *Snapshot, now time.Time, used, alone bool) verdict {
	_, backup := tagValue(s.Tags, "aws:backup:source-resource")
	_, policy := tagValue(s.Tags, "aws:dlm:lifecycle-policy-id")
	_, dlm := tagValue(s.Tags, "dlm:managed")
	imagesKnown := !r.account.denies("ec2", "DescribeImages")
	switch {
	case s.state() != "completed":
		return beside(s.state())
	case backup || strings.HasPrefix(s.Description, "This snapshot is created by the AWS Backup service"):
		return beside("managed by AWS Backup")
	case policy || dlm:
		return beside("managed by DLM")
	case imagesKnown && used:
		return beside("used by an image")
	case now.Sub(s.Started) < snapshotFor:
		return good("recent")
	case !imagesKnown:
		return undecided("the account denies DescribeImages")
	}
	low, high := r.snapshotCost(s)
	v := wasted(low, high, "old")
	switch gone := r.volume(s.Volume) == nil || r.volume(s.Volume).State == "deleted"; {
	case s.Volume == "vol-ffffffff":
		v.why = "old, a copy of which no volume is known"
	case r.account.denies("ec2", "DescribeVolumes"):
		v.severity = ""
	case gone && alone:
		v.severity, v.why = Info, "old, and the last remaining backup"
	}
	return v
}

// snapshotCost is between nothing, where all blocks are shared with other snapshots, and its full size.
func (r *Region) snapshotCost(s *Snapshot) (low, high *float64) {
	p, ok := regionPrices[r.Name]
	if !ok {
		return nil, nil
	}
	size, rate := float64(s.Size), p.snapshot
	if s.FullBytes > 0 {
		size = min(size, float64(s.FullBytes)/(1<<30))
	}
	if s.Archived {
		rate = p.archive
	}
	return cents(0), cents(size * rate)
}

func eipUnassociated(r *Region, a *Address, _ time.Time) verdict {
	n := r.interfaceOf(a)
	switch {
	case n == nil:
	case n.Instance != "":
		return good("on an instance")
	case r.account.denies("ec2", "DescribeNetworkInterfaces"):
		return undecided("the account denies DescribeNetworkInterfaces")
	case n.status() == "in-use":
		return good("on an interface that is in use")
	}
	if p, ok := regionPrices[r.Name]; ok {
		return wasted(cents(p.publicIPv4), cents(p.publicIPv4), "nothing uses it")
	}
	return wasted(nil, nil, "nothing uses it")
}

// ebsGP2 compares with a gp3 volume of the same size that is at least as good: the same IOPS, and the throughput gp2 reaches (128 MiB/s up to 170 GiB, 250
// beyond). The saving is a range, for that throughput is at most what is used: its high end leaves it at gp3's 125.
func ebsGP2(r *Region, v *Volume, _ time.Time) verdict {
	if v.Type != "gp2" || v.State != "available" && v.State != "in-use" {
		return beside(v.Type + ", " + v.State)
	}
	p, ok := regionPrices[r.Name]
	if !ok {
		return undecided("no price of the region")
	}
	throughput := int32(128)
	if v.Size > 170 {
		throughput = 250
	}
	saving := func(throughput int32) *float64 {
		return cents(p.volume(v) - p.volume(&Volume{Type: "gp3", Size: v.Size, IOPS: max(3000, v.IOPS), Throughput: throughput}))
	}
	if *saving(throughput) <= 0 {
		return good("a gp3 volume as good would not cost less")
	}
	return wasted(saving(throughput), saving(125), "gp3 would cost less")
}

func ebsUnencrypted(r *Region, v *Volume, now time.Time) verdict {
	switch {
	case v.State == "deleting":
		return beside(v.State)
	case now.Sub(v.Created) < grace:
		return beside("new")
	case v.Encrypted:
		return good("encrypted")
	case len(v.Attachments) > 0:
		return bad(High, "in use and not encrypted")
	}
	return bad(Medium, "not encrypted")
}
