package waste

import (
	"cmp"
	"fmt"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.Volume]{
	Meta: rule.Meta{
		ID:           "ebs-gp2-to-gp3",
		Version:      1,
		Category:     rule.Waste,
		ResourceType: "AWS::EC2::Volume",
		Title:        "gp2 volume that would be cheaper as gp3",
		Why: "gp3 costs a fifth less a gigabyte than gp2 and comes with 3,000 IOPS and 125 MiB/s whatever its size. With what a gp2 volume " +
			"of the same size reaches at best bought on top, most volumes are still cheaper, and their performance no longer hangs on " +
			"burst credits. Only very small volumes and those of about 170 to 250 GiB are not.",
		Fix: "Modify the volume to gp3 with the IOPS and throughput that the recommendation names; this needs no downtime. Change the " +
			"template, storage class or launch configuration that makes such volumes, too. One that does not need the throughput of gp2 is " +
			"cheaper still with gp3's own 125 MiB/s: the upper end of the saving.",
		Severity: "By the upper end of the monthly saving: under $10 LOW, under $100 MEDIUM, from $100 HIGH.",
		Params: []rule.Param{{
			Name: "min_saving", Description: "Least saving a month, at the same performance, from which on a volume is reported.", Unit: "USD",
			Default: 0.01, Min: 0.01, Max: 100_000,
		}},
		Citations: []string{
			"https://docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html",
			"https://docs.aws.amazon.com/ebs/latest/userguide/ebs-modify-volume.html",
			"https://docs.aws.amazon.com/prescriptive-guidance/latest/optimize-costs-microsoft-workloads/ebs-migrate-gp2-gp3.html",
			"https://aws.amazon.com/ebs/pricing/",
		},
	},
	Kind:  inventory.Volumes,
	Judge: judgeGP2,
	Examples: []scan.Example[inventory.Volume]{
		{
			Name:     "100 GiB: 10.00 as gp2, 8.12 as gp3 with 128 MiB/s",
			Resource: gp2Example(100),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "1.88–2.00", Confidence: rule.Derived,
				Says: []string{"$10.00", "$8.12", "3,000 IOPS and 128 MiB/s"},
			},
		},
		{
			Name:     "500 GiB in use: 50.00 as gp2, 45.00 as gp3 with 250 MiB/s",
			Resource: gp2Example(500, volumeState("in-use")),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "5.00–10.00", Says: []string{"3,000 IOPS and 250 MiB/s"}},
		},
		{
			Name:     "1,000 GiB reach 3,000 IOPS, which gp3 has",
			Resource: gp2Example(1000),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "15.00–20.00", Says: []string{"3,000 IOPS"}},
		},
		{
			Name:     "2,000 GiB reach 6,000 IOPS, which gp3 charges for above 3,000",
			Resource: gp2Example(2000),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Cost: "20.00–25.00", Says: []string{"6,000 IOPS and 250 MiB/s"}},
		},
		{
			Name:     "16,384 GiB reach no more than 16,000 IOPS",
			Resource: gp2Example(16384),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.High, Cost: "257.68–262.68", Says: []string{"16,000 IOPS"}},
		},
		{
			Name:     "170 GiB is the largest with 128 MiB/s",
			Resource: gp2Example(170),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "3.28–3.40", Says: []string{"128 MiB/s"}},
		},
		{
			Name:     "200 GiB burst to 250 MiB/s, and that much throughput makes gp3 dearer",
			Resource: gp2Example(200),
			Want:     scan.Want{Outcome: rule.Compliant, Says: []string{"$20.00", "$21.00"}},
		},
		{
			Name:     "250 GiB cost the same either way",
			Resource: gp2Example(250),
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "5 GiB: three MiB/s more than gp3 has cost more than the gigabytes save",
			Resource: gp2Example(5),
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "saves less than the deployment cares for",
			Resource: gp2Example(100),
			Params:   map[string]string{"min_saving": "5"},
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "a region without prices: nobody knows which is cheaper",
			Resource: gp2Example(500),
			Region:   "xx-nowhere-1",
			Want:     scan.Want{Outcome: rule.InsufficientData},
		},
		{
			Name:     "in a Local Zone, which has prices of its own and may have no gp3",
			Resource: gp2Example(500, func(v *inventory.Volume) { v.Zone = "us-east-1-bos-1a" }),
			Want:     scan.Want{Outcome: rule.InsufficientData, Says: []string{"us-east-1-bos-1a"}},
		},
		{
			Name:     "AWS left out its size",
			Resource: gp2Example(0),
			Want:     scan.Want{Outcome: rule.InsufficientData},
		},
		{
			Name: "on an Outpost, whose storage is paid for as a whole",
			Resource: gp2Example(500, func(v *inventory.Volume) {
				v.Outpost = "arn:aws:outposts:us-east-1:123456789012:outpost/op-0123456789abcdef0"
			}),
			Want: scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "gp3 already",
			Resource: volumeExample(provisioned(500, 3000, 125)),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "being deleted",
			Resource: gp2Example(500, volumeState("deleting")),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
	},
})

// gp2Example is a gp2 volume of so many GiB.
func gp2Example(size int, with ...func(*inventory.Volume)) inventory.Volume {
	v := volumeExample()
	v.VolumeType, v.SizeGiB, v.IOPS, v.ThroughputMiBps = "gp2", size, min(max(3*size, 100), 16000), 0
	return apply(v, with)
}

// gp3Like is what a gp3 volume needs to do all that a gp2 volume of the size
// can do, burst included. From the EBS User Guide: gp2 has 3 IOPS a GiB, at
// least 100 and at most 16,000, and bursts to 3,000; up to 170 GiB it reaches
// 128 MiB/s, above 250. gp3 has no less than 3,000 IOPS and 125 MiB/s.
func gp3Like(sizeGiB int) (iops, throughputMiBps int) {
	iops, throughputMiBps = max(3000, min(3*sizeGiB, 16000)), 250
	if sizeGiB <= 170 {
		throughputMiBps = 128
	}
	return iops, throughputMiBps
}

func judgeGP2(in scan.In, v inventory.Volume) rule.Verdict {
	switch {
	case v.State != "available" && v.State != "in-use":
		return notApplicable(in, "It is "+cmp.Or(v.State, "in no known state")+".", "state", v.State, describeVolumes)
	case v.VolumeType != "gp2":
		return notApplicable(in, "It is of type "+cmp.Or(v.VolumeType, "unknown")+", not gp2.", "volume_type", v.VolumeType, describeVolumes)
	case v.Outpost != "":
		return notApplicable(in, "It is on an Outpost, whose storage is paid for as a whole.", "outpost", v.Outpost, describeVolumes)
	}
	size := rule.Evidence{
		Name: "size", Value: v.SizeGiB, Unit: "GiB", Source: describeVolumes, At: in.At, Confidence: rule.Observed,
	}
	unknown := func(reason string) rule.Verdict {
		return rule.Verdict{Outcome: rule.InsufficientData, Reason: reason, Evidence: []rule.Evidence{size}}
	}
	switch {
	case v.SizeGiB < 1:
		return unknown("AWS does not tell its size.")
	case !inRegion(in, v.Zone):
		return unknown("It is in " + v.Zone + ", which has prices of its own, and they are not known.")
	}
	iops, throughput := gp3Like(v.SizeGiB)
	now, then := in.Price.Volume("gp2", v.SizeGiB, 0, 0), in.Price.Volume("gp3", v.SizeGiB, iops, throughput)
	if !now.Known || !then.Known {
		return unknown("The prices of gp2 and gp3 in " + in.Region + " are not known.")
	}
	// With gp3's own throughput where that is enough, it saves the most.
	most := in.Price.Volume("gp3", v.SizeGiB, iops, 0)
	saving := now
	saving.Low, saving.High = float64(micros(now.High)-micros(then.High))/1e6, float64(micros(now.High)-micros(most.High))/1e6

	like := thousands(iops) + " IOPS and " + thousands(throughput) + " MiB/s"
	compared := fmt.Sprintf("It costs $%.2f a month, and $%.2f as gp3 with %s", now.High, then.High, like)
	evidence := []rule.Evidence{
		{
			Name: "monthly_saving", Value: saving.Low, Threshold: in.Params.Float("min_saving"), Unit: "USD",
			Source: priceList, At: in.At, Confidence: rule.Derived, Note: now.Source + " of " + now.Date,
		},
		size,
		{
			Name: "gp3_equivalent", Value: like, Source: priceList, At: in.At, Confidence: rule.Derived,
			Note: "the most that gp2 of this size reaches, burst included",
		},
	}
	if micros(saving.Low) < micros(in.Params.Float("min_saving")) {
		return rule.Verdict{Outcome: rule.Compliant, Reason: compared + ".", Evidence: evidence}
	}
	return rule.Verdict{
		Outcome: rule.Violation, Severity: severity(saving), Cost: saving, Owner: owner(v.Tags), Evidence: evidence,
		Reason:         compared + fmt.Sprintf(": a saving of $%.2f, or $%.2f where gp3's own 125 MiB/s are enough.", saving.Low, saving.High),
		Recommendation: "Modify it to gp3 with " + like + ", or 125 MiB/s where that is enough; this needs no downtime.",
	}
}
