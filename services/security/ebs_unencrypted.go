package security

import (
	"slices"
	"strings"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.Volume]{
	Meta: rule.Meta{
		ID:           "ebs-unencrypted",
		Version:      1,
		Category:     rule.Security,
		ResourceType: "AWS::EC2::Volume",
		Title:        "EBS volume is not encrypted",
		Why: "The data of an unencrypted volume can be read by whoever gets at a copy of it: a snapshot that is shared by mistake " +
			"opens at once, for there is no key that could be withheld. Encryption costs nothing and no speed, and most standards ask for it.",
		Fix: "A volume cannot be encrypted in place. Take a snapshot, copy it with encryption, make a volume from the copy and put it " +
			"in the old one's place; then delete the old volume and its snapshots. Switch on encryption by default in the region, so " +
			"that no new volume can be without.",
		Severity: "HIGH when the volume is attached to an instance, MEDIUM otherwise.",
		Params:   []rule.Param{graceParam},
		Citations: []string{
			"https://docs.aws.amazon.com/ebs/latest/userguide/ebs-encryption.html",
			"https://docs.aws.amazon.com/ebs/latest/userguide/encryption-by-default.html",
			"https://docs.aws.amazon.com/securityhub/latest/userguide/ec2-controls.html#ec2-3",
		},
	},
	Kind: inventory.Volumes,
	Facts: []scan.Need[inventory.Volume]{
		{Fact: inventory.VolumeEncryptionByDefault, When: func(in scan.In, v inventory.Volume) bool {
			return judgeUnencrypted(in, v).Outcome == rule.Violation
		}},
	},
	Judge: judgeUnencrypted,
	Examples: []scan.Example[inventory.Volume]{
		{
			Name:     "attached and not encrypted",
			Resource: volumeExample(attachedTo("i-0123456789abcdef0"), byDefault(false)),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.High, Confidence: rule.Observed, Source: describeVolumes,
				Says: []string{"attached to i-0123456789abcdef0", "Switch on encryption by default"},
			},
		},
		{
			Name:     "not encrypted, attached to nothing",
			Resource: volumeExample(byDefault(true)),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium},
		},
		{
			Name:     "it cannot be read whether the region encrypts by default: it is not encrypted all the same",
			Resource: volumeExample(func(v *inventory.Volume) { v.EncryptionByDefault = denied[bool]("ec2:GetEbsEncryptionByDefault") }),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium},
		},
		{
			Name: "encrypted with a key of the account",
			Resource: volumeExample(attachedTo("i-0123456789abcdef0"), func(v *inventory.Volume) {
				v.Encrypted, v.KMSKey = true, "arn:aws:kms:us-east-1:123456789012:key/5e0f"
			}),
			Want: scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "created 59 minutes ago: in its grace period",
			Resource: volumeExample(createdAt("2026-09-01 11:01")),
			Want:     scan.Want{Outcome: rule.NotApplicable, Says: []string{"less than 60 minutes"}},
		},
		{
			Name:     "created exactly 60 minutes ago: the grace period is over",
			Resource: volumeExample(createdAt("2026-09-01 11:00")),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium},
		},
		{
			Name:     "created tomorrow, says the answer: that is no age",
			Resource: volumeExample(createdAt("2026-09-02 12:00")),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium},
		},
		{
			Name:     "being deleted",
			Resource: volumeExample(func(v *inventory.Volume) { v.State = "deleting" }),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "AWS leaves out whether it is encrypted",
			Resource: volumeExample(func(v *inventory.Volume) { v.EncryptionUnknown = true }),
			Want:     scan.Want{Outcome: rule.InsufficientData},
		},
		{
			Name:     "a deployment without grace",
			Resource: volumeExample(createdAt("2026-09-01 11:59")),
			Params:   map[string]string{"grace_minutes": "0"},
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium},
		},
		{
			Name: "made for a Kubernetes claim, which is who to ask",
			Resource: volumeExample(func(v *inventory.Volume) {
				v.Tags = tagMap([]string{"kubernetes.io/created-for/pvc/namespace", "shop", "kubernetes.io/created-for/pvc/name", "data-db-0"})
			}),
			Want: scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Owner: "Kubernetes claim shop/data-db-0"},
		},
	},
})

func judgeUnencrypted(in scan.In, v inventory.Volume) rule.Verdict {
	if v.State == "deleting" || v.State == "deleted" {
		return one(in, rule.NotApplicable, "It is deleted or being deleted.", "state", v.State, describeVolumes)
	}
	if verdict, yes := young(in, v.Created, describeVolumes); yes {
		return verdict
	}
	if v.EncryptionUnknown {
		return one(in, rule.InsufficientData, "The answer does not say whether it is encrypted.", "encrypted", "not told", describeVolumes)
	}
	if v.Encrypted {
		return one(in, rule.Compliant, "It is encrypted.", "encrypted", true, describeVolumes)
	}

	out := one(in, rule.Violation, "It is not encrypted, and attached to nothing.", "encrypted", false, describeVolumes)
	out.Severity, out.Owner = rule.Medium, owner(v.Tags)
	instances := []string{}
	for _, a := range v.Attachments {
		if a.State != "detached" && a.InstanceID != "" {
			instances = append(instances, a.InstanceID)
		}
	}
	if slices.Sort(instances); len(instances) > 0 {
		out.Severity = rule.High
		out.Reason = "It is not encrypted, and attached to " + strings.Join(instances, ", ") + "."
	}
	region := rule.Evidence{
		Name: "encryption_by_default", Source: "ec2:GetEbsEncryptionByDefault", At: atOr(in, v.EncryptionByDefault), Confidence: rule.Observed,
	}
	out.Recommendation = "Replace it with an encrypted copy."
	switch f := v.EncryptionByDefault; {
	case !f.Known:
		region.Note = unread(f)
	case f.Value:
		region.Value, region.Note = true, "the region encrypts new volumes; this one is older or from elsewhere"
	default:
		region.Value = false
		out.Recommendation += " Switch on encryption by default in " + in.Region + ": new volumes are as open as this one."
	}
	out.Evidence = append(out.Evidence, rule.Evidence{
		Name: "attached_to", Value: instances, Source: describeVolumes, At: in.At, Confidence: rule.Observed,
	}, region)
	return out
}
