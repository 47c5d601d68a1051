package security

import (
	"fmt"
	"slices"
	"strings"
	"unicode"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Across{
	Meta: rule.Meta{
		ID:       "required-tags",
		Version:  1,
		Category: rule.Security,
		Title:    "Resource lacks a required tag",
		Why: "When something is open, expensive or broken, the first question is whose it is. A resource without an owner is nobody's: " +
			"no alarm about it reaches anybody, nobody dares to delete it, and its cost lands in the common pot.",
		Fix: "Tag it: Owner with a team or an address that reads mail, Environment with production, staging or the like, CostCenter with " +
			"what finance knows. Keys are case-sensitive. Let the tooling do it from then on: default tags in Terraform, tags of " +
			"CloudFormation stacks and launch templates, and a tag policy of the organization.",
		Severity: "LOW, however many tags are missing.",
		Params: []rule.Param{
			{
				Name: "keys", Description: "Keys of the tags that a resource must have, with a value that is not blank.",
				Default: []string{"Owner", "Environment", "CostCenter"},
				Valid: func(key string) error {
					if len([]rune(key)) > 128 {
						return fmt.Errorf("has more than the 128 characters that AWS allows in a key")
					}
					return nil
				},
			},
			graceParam,
		},
		Citations: []string{
			"https://docs.aws.amazon.com/tag-editor/latest/userguide/best-practices-and-strats.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/Using_Tags.html",
			"https://docs.aws.amazon.com/config/latest/developerguide/required-tags.html",
		},
	},
	Rules: []scan.Addable{
		scan.Rule[inventory.Instance]{
			Kind: inventory.Instances,
			Judge: func(in scan.In, i inventory.Instance) rule.Verdict {
				if gone(i.State) {
					return one(in, rule.NotApplicable, "It is terminated or being terminated.", "state", i.State, describeInstances)
				}
				return judgeTags(in, i.Resource, describeInstances)
			},
			Examples: []scan.Example[inventory.Instance]{
				{
					Name:     "an instance with all three tags",
					Resource: instanceExample(instanceTags("Owner", "shop", "Environment", "production", "CostCenter", "4711")),
					Want:     scan.Want{Outcome: rule.Compliant},
				},
				{
					Name:     "an instance without any tag: one finding, three pieces",
					Resource: instanceExample(),
					Want: scan.Want{
						Outcome: rule.Violation, Severity: rule.Low, Source: describeInstances, Confidence: rule.Observed,
						Says: []string{"It lacks the tags Owner, Environment and CostCenter."},
					},
				},
				{
					Name:     "an instance whose owner is in lower case, which is another key",
					Resource: instanceExample(instanceTags("owner", "shop", "Environment", "production", "CostCenter", "4711")),
					Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Says: []string{"It lacks the tag Owner.", "owner is not Owner"}},
				},
				{
					Name:     "an instance with cost-center, which is close",
					Resource: instanceExample(instanceTags("Owner", "shop", "Environment", "production", "cost-center", "4711")),
					Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Says: []string{"cost-center is not CostCenter"}},
				},
				{
					Name:     "an instance whose owner is empty",
					Resource: instanceExample(instanceTags("Owner", "", "Environment", "production", "CostCenter", "4711")),
					Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Says: []string{"Owner is blank"}},
				},
				{
					Name:     "an instance whose owner is blank",
					Resource: instanceExample(instanceTags("Owner", " \t\u00a0", "Environment", "production", "CostCenter", "4711")),
					Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Says: []string{"Owner is blank"}},
				},
				{
					Name:     "an instance launched 59 minutes ago: in its grace period",
					Resource: instanceExample(createdInstance("2026-09-01 11:01")),
					Want:     scan.Want{Outcome: rule.NotApplicable},
				},
				{
					Name:     "an instance launched exactly 60 minutes ago",
					Resource: instanceExample(createdInstance("2026-09-01 11:00")),
					Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low},
				},
				{
					Name: "an instance started again a minute ago, its root volume is from May: the earliest time counts",
					Resource: instanceExample(func(i *inventory.Instance) {
						i.Created, i.Launched = example("2026-05-01 09:00"), example("2026-09-01 11:59")
					}),
					Want: scan.Want{Outcome: rule.Violation, Severity: rule.Low},
				},
				{
					Name:     "a terminated instance",
					Resource: instanceExample(inState("terminated")),
					Want:     scan.Want{Outcome: rule.NotApplicable},
				},
				{
					Name:     "an instance of a deployment that asks for a team alone",
					Resource: instanceExample(instanceTags("team", "shop")),
					Params:   map[string]string{"keys": "team"},
					Want:     scan.Want{Outcome: rule.Compliant},
				},
				{
					Name:     "an instance of a deployment that asks for nothing",
					Resource: instanceExample(),
					Params:   map[string]string{"keys": ""},
					Want:     scan.Want{Outcome: rule.NotApplicable},
				},
			},
		},
		scan.Rule[inventory.Volume]{
			Kind: inventory.Volumes,
			Judge: func(in scan.In, v inventory.Volume) rule.Verdict {
				if v.State == "deleting" || v.State == "deleted" {
					return one(in, rule.NotApplicable, "It is deleted or being deleted.", "state", v.State, describeVolumes)
				}
				return judgeTags(in, v.Resource, describeVolumes)
			},
			Examples: []scan.Example[inventory.Volume]{
				{
					Name:     "a volume without tags",
					Resource: volumeExample(),
					Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Source: describeVolumes},
				},
				{
					Name:     "a volume that is being deleted",
					Resource: volumeExample(func(v *inventory.Volume) { v.State = "deleting" }),
					Want:     scan.Want{Outcome: rule.NotApplicable},
				},
				{
					Name:     "a volume made ten minutes ago",
					Resource: volumeExample(createdAt("2026-09-01 11:50")),
					Want:     scan.Want{Outcome: rule.NotApplicable},
				},
			},
		},
		scan.Rule[inventory.Snapshot]{
			Kind: inventory.Snapshots,
			Judge: func(in scan.In, s inventory.Snapshot) rule.Verdict {
				return judgeTags(in, s.Resource, describeSnapshots)
			},
			Examples: []scan.Example[inventory.Snapshot]{
				{
					Name: "a snapshot without tags",
					Resource: inventory.Snapshot{
						Resource: exampleResource("AWS::EC2::Snapshot", "snapshot", "snap-0123456789abcdef0", "2026-02-03 04:05"), State: "completed",
					},
					Want: scan.Want{Outcome: rule.Violation, Severity: rule.Low, Source: describeSnapshots},
				},
			},
		},
		scan.Rule[inventory.SecurityGroup]{
			Kind: inventory.SecurityGroups,
			Judge: func(in scan.In, g inventory.SecurityGroup) rule.Verdict {
				// AWS makes it with the VPC, and nobody can delete it.
				if g.GroupName == "default" {
					return one(in, rule.NotApplicable, "It is the default group of its VPC.", "group_name", g.GroupName, describeGroups)
				}
				if g.GroupName == "" {
					return one(in, rule.InsufficientData, "AWS does not tell its name, and so not whether it is a default group.", "group_name", "not told", describeGroups)
				}
				return judgeTags(in, g.Resource, describeGroups)
			},
			Examples: []scan.Example[inventory.SecurityGroup]{
				{
					Name:     "a security group without tags: groups have no creation time, and no grace",
					Resource: groupExample(),
					Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Source: describeGroups},
				},
				{
					Name:     "the default group of a VPC",
					Resource: groupExample(func(g *inventory.SecurityGroup) { g.GroupName = "default" }),
					Want:     scan.Want{Outcome: rule.NotApplicable},
				},
				{
					Name:     "a group called Default, which is not the default one",
					Resource: groupExample(func(g *inventory.SecurityGroup) { g.GroupName = "Default" }),
					Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low},
				},
				{
					Name: "a security group whose name AWS leaves out: it may be a default one",
					Resource: groupExample(func(g *inventory.SecurityGroup) {
						g.GroupName = ""
					}),
					Want: scan.Want{Outcome: rule.InsufficientData},
				},
			},
		},
		scan.Rule[inventory.Image]{
			Kind:  inventory.Images,
			Judge: func(in scan.In, i inventory.Image) rule.Verdict { return judgeTags(in, i.Resource, describeImages) },
			Examples: []scan.Example[inventory.Image]{
				{
					Name:     "an image of the account's own without tags",
					Resource: imageValue("ami-0123456789abcdef0", "2026-02-03 04:05", "", "available"),
					Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Source: describeImages},
				},
			},
		},
		scan.Rule[inventory.ElasticIP]{
			Kind: inventory.ElasticIPs,
			Judge: func(in scan.In, e inventory.ElasticIP) rule.Verdict {
				return judgeTags(in, e.Resource, describeAddresses)
			},
			Examples: []scan.Example[inventory.ElasticIP]{
				{
					Name: "an Elastic IP address without tags: addresses have no creation time, and no grace",
					Resource: inventory.ElasticIP{
						Resource: exampleResource("AWS::EC2::EIP", "elastic-ip", "eipalloc-0123456789abcdef0", ""), IP: "198.51.100.7",
					},
					Want: scan.Want{Outcome: rule.Violation, Severity: rule.Low, Source: describeAddresses},
				},
			},
		},
	},
})

func createdInstance(at string) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.Created, i.Launched = example(at), example(at) }
}

// judgeTags judges the tags that came with a resource's listing, which is the
// source.
func judgeTags(in scan.In, r inventory.Resource, source string) rule.Verdict {
	if v, yes := young(in, r.Created, source); yes {
		return v
	}
	keys := in.Params.List("keys")
	if len(keys) == 0 {
		return one(in, rule.NotApplicable, "No tags are required.", "required_tags", keys, source)
	}
	var missing, hints []string
	for _, key := range keys {
		value, ok := r.Tags[key]
		switch {
		case ok && !blank(value):
			continue
		case ok:
			hints = append(hints, key+" is blank")
		}
		missing = append(missing, key)
		for _, k := range nearMisses(r.Tags, key) {
			hints = append(hints, k+" is not "+key)
		}
	}
	if len(missing) == 0 {
		return one(in, rule.Compliant, "It has all required tags.", "missing_tags", []string{}, source)
	}
	v := one(in, rule.Violation, "It lacks "+tagWord(len(missing))+enumerate(missing)+".", "missing_tags", missing, source)
	v.Evidence[0].Threshold = slices.Clone(keys)
	v.Severity, v.Owner = rule.Low, owner(r.Tags)
	v.Recommendation = "Tag it with " + enumerate(missing) + "."
	if len(hints) > 0 {
		v.Evidence = append(v.Evidence, rule.Evidence{Name: "near_misses", Value: hints, Source: source, At: in.At, Confidence: rule.Observed})
		v.Recommendation += " Mind that " + strings.Join(hints, ", ") + "."
	}
	return v
}

func tagWord(n int) string {
	if n == 1 {
		return "the tag "
	}
	return "the tags "
}

func blank(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !unicode.IsSpace(r) && !unicode.Is(unicode.Cf, r) && r != 0 }) < 0
}

// nearMisses are the keys that were probably meant to be key: of another case,
// or with other blanks, hyphens and the like.
func nearMisses(tags map[string]string, key string) []string {
	var near []string
	for k := range tags {
		if k != key && plain(k) == plain(key) {
			near = append(near, k)
		}
	}
	slices.Sort(near)
	return near
}

func plain(key string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsLetter(r) || unicode.IsDigit(r) {
			return unicode.ToLower(r)
		}
		return -1
	}, key)
}

// enumerate joins names as a sentence does.
func enumerate(names []string) string {
	if n := len(names); n > 1 {
		return strings.Join(names[:n-1], ", ") + " and " + names[n-1]
	}
	return strings.Join(names, "")
}
