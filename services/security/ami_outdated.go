package security

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.Instance]{
	Meta: rule.Meta{
		ID:           "ami-outdated",
		Version:      1,
		Category:     rule.Security,
		ResourceType: "AWS::EC2::Instance",
		Title:        "EC2 instance runs on an outdated machine image",
		Why: "An instance has the holes of the day its image was made, and of every day since that nobody patched it. An image that its " +
			"maker has deprecated, disabled or deregistered is one that its maker no longer stands behind, and an instance of it " +
			"cannot be replaced by one like it.",
		Fix: "Build or choose a current image, launch from it and take the old instance away; for a group, change its launch template " +
			"and refresh the instances. Take the image's id from an SSM parameter instead of writing it down.",
		Severity: "LOW when the image is only old; MEDIUM when it is deprecated, disabled or deregistered. An image that the account " +
			"does not see is no violation by itself.",
		Params: []rule.Param{{
			Name: "max_age_days", Description: "Days after its creation from which on an image is old.", Unit: "days", Default: 180, Min: 1, Max: 3650,
		}},
		Citations: []string{
			"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ami-deprecate.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/disable-an-ami.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/deregister-ami.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DescribeInstanceImageMetadata.html",
			"https://docs.aws.amazon.com/securityhub/latest/userguide/ec2-controls.html",
		},
	},
	Kind: inventory.Instances,
	Facts: []scan.Need[inventory.Instance]{
		{Fact: inventory.InstanceImage, When: func(_ scan.In, i inventory.Instance) bool { return !gone(i.State) && i.ImageID != "" }},
		{Fact: inventory.InstanceImageMetadata, When: func(_ scan.In, i inventory.Instance) bool {
			return !gone(i.State) && i.ImageID != "" && (!i.Image.Known || i.Image.Value.Created.IsZero() || i.Image.Value.State == "")
		}},
	},
	Judge: judgeImage,
	Examples: []scan.Example[inventory.Instance]{
		{
			Name:     "the image is 200 days old",
			Resource: instanceExample(image("2026-02-13 12:00", "", "available")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Since: example("2026-08-12 12:00"), Confidence: rule.Observed,
				Source: describeImages, Says: []string{"is old (created 2026-02-13"},
			},
		},
		{
			Name:     "exactly 180 days: the threshold is inclusive",
			Resource: instanceExample(image("2026-03-05 12:00", "", "available")),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Since: example("2026-09-01 12:00")},
		},
		{
			Name:     "one minute short of 180 days",
			Resource: instanceExample(image("2026-03-05 12:01", "", "available")),
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "new, and to be deprecated next year",
			Resource: instanceExample(image("2026-08-01 12:00", "2027-08-01 12:00", "available")),
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "new and deprecated",
			Resource: instanceExample(image("2026-08-01 12:00", "2026-08-20 00:00", "available")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Since: example("2026-08-20 00:00"), Says: []string{"deprecated (since 2026-08-20"},
			},
		},
		{
			Name:     "old and deprecated: both are named, the worse decides",
			Resource: instanceExample(image("2025-01-01 00:00", "2026-01-01 00:00", "available")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Since: example("2025-06-30 00:00"), Says: []string{"is old", "deprecated"},
			},
		},
		{
			Name:     "disabled by its owner, who is us",
			Resource: instanceExample(image("2026-08-01 12:00", "", "disabled")),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"disabled"}},
		},
		{
			Name:     "deregistered: no longer seen, and the instances' metadata say so",
			Resource: instanceExample(noImage, metadata("2026-08-01 12:00", "", "deregistered")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Medium, Source: describeImageMetadata, Says: []string{"deregistered", "not visible"},
			},
		},
		{
			Name:     "deregistered, and its age unknown",
			Resource: instanceExample(noImage, metadata("", "", "deregistered")),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"deregistered"}},
		},
		{
			Name:     "a private image of another account that is not visible, and old by the metadata",
			Resource: instanceExample(noImage, metadata("2024-01-01 00:00", "", "available")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Since: example("2024-06-29 00:00"), Source: describeImageMetadata,
				Says: []string{"is old", "not visible"},
			},
		},
		{
			Name:     "not visible, and new by the metadata: not visible by itself is no violation",
			Resource: instanceExample(noImage, metadata("2026-08-01 12:00", "", "available")),
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "not visible, and the metadata do not tell its age: unknown, not ancient",
			Resource: instanceExample(noImage, metadata("", "", "")),
			Want:     scan.Want{Outcome: rule.InsufficientData},
		},
		{
			Name:     "not visible, and no metadata",
			Resource: instanceExample(noImage, noMetadata),
			Want:     scan.Want{Outcome: rule.InsufficientData, Says: []string{"not visible"}},
		},
		{
			Name: "the images cannot be read, the metadata can",
			Resource: instanceExample(func(i *inventory.Instance) { i.Image = denied[inventory.Image](describeImages) },
				metadata("2024-01-01 00:00", "", "available")),
			Want: scan.Want{Outcome: rule.Violation, Severity: rule.Low, Since: example("2024-06-29 00:00")},
		},
		{
			Name: "neither can be read",
			Resource: instanceExample(func(i *inventory.Instance) {
				i.Image, i.ImageMetadata = denied[inventory.Image](describeImages), denied[inventory.Image](describeImageMetadata)
			}),
			Want: scan.Want{Outcome: rule.Error, Says: []string{describeImages, describeImageMetadata}},
		},
		{
			Name: "not visible, and the metadata cannot be read",
			Resource: instanceExample(noImage, func(i *inventory.Instance) {
				i.ImageMetadata = denied[inventory.Image](describeImageMetadata)
			}),
			Want: scan.Want{Outcome: rule.Error, Says: []string{describeImageMetadata}},
		},
		{
			Name:     "a creation date that is none, and metadata that know better",
			Resource: instanceExample(image("", "", "available"), metadata("2026-08-01 12:00", "", "available")),
			Want:     scan.Want{Outcome: rule.Compliant},
		},
		{
			Name:     "stopped: judged like a running one",
			Resource: instanceExample(inState("stopped"), image("2026-02-13 12:00", "", "available")),
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Since: example("2026-08-12 12:00")},
		},
		{
			Name:     "terminated",
			Resource: instanceExample(inState("terminated"), image("2024-01-01 00:00", "", "available")),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "a member of an Auto Scaling group: its group is who to ask",
			Resource: instanceExample(image("2026-02-13 12:00", "", "available"), instanceTags("aws:autoscaling:groupName", "web")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Since: example("2026-08-12 12:00"), Owner: "Auto Scaling group web",
				Says: []string{"launch template"},
			},
		},
		{
			Name:     "90 days as the deployment's threshold",
			Resource: instanceExample(image("2026-05-01 12:00", "", "available")),
			Params:   map[string]string{"max_age_days": "90"},
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Since: example("2026-07-30 12:00")},
		},
	},
})

func judgeImage(in scan.In, i inventory.Instance) rule.Verdict {
	if gone(i.State) {
		return one(in, rule.NotApplicable, "It is terminated or being terminated.", "state", i.State, describeInstances)
	}
	if i.ImageID == "" {
		return one(in, rule.InsufficientData, "AWS does not tell what image it was launched from.", "image", "not told", describeInstances)
	}
	days := in.Params.Int("max_age_days")
	seen, meta := i.Image, i.ImageMetadata

	// What the account sees comes first; the metadata fill in what that leaves
	// open.
	source := rule.Evidence{Source: describeImages, At: atOr(in, seen)}
	facts := seen.Value
	if !seen.Known {
		facts, source = meta.Value, rule.Evidence{Source: describeImageMetadata, At: atOr(in, meta)}
	} else if facts.Created.IsZero() || facts.State == "" {
		if facts.Created.IsZero() && meta.Known {
			facts.Created, source = meta.Value.Created, rule.Evidence{Source: describeImageMetadata, At: atOr(in, meta)}
		}
		facts.State = cmp.Or(facts.State, meta.Value.State)
	}

	var (
		states, says []string
		since        time.Time
		severity     rule.Severity
	)
	is := func(state, detail string, level rule.Severity, from time.Time) {
		states = append(states, state)
		says = append(says, state+detail)
		severity = max(severity, level)
		if !from.IsZero() && (since.IsZero() || from.Before(since)) {
			since = from
		}
	}
	if c := facts.Created; !c.IsZero() && in.Ago(c) >= scan.Days(days) {
		is("old", fmt.Sprintf(" (created %s)", c.Format(time.DateOnly)), rule.Low, c.Add(scan.Days(days)))
	}
	if d := facts.Deprecated; !d.IsZero() && !d.After(in.At) {
		is("deprecated", fmt.Sprintf(" (since %s)", d.Format(time.DateOnly)), rule.Medium, d)
	}
	switch facts.State {
	case "disabled", "deregistered":
		is(facts.State, "", rule.Medium, time.Time{})
	}
	violation := len(states) > 0
	if !seen.Known && !seen.Failed && seen.Source != "" {
		is("not visible", "", severity, time.Time{})
	}

	v := rule.Verdict{}
	age := rule.Evidence{
		Name: "image_age", Threshold: days, Unit: "days", Source: source.Source, At: source.At, Confidence: rule.Observed,
	}
	if facts.Created.IsZero() {
		age.Note = "unknown: " + strings.Join(imageUnread(seen, meta), "; ")
	} else {
		age.Value = int(in.Ago(facts.Created) / scan.Day)
	}
	v.Evidence = []rule.Evidence{age, {
		Name: "image_states", Value: append([]string{}, states...), Source: source.Source, At: source.At, Confidence: rule.Observed,
	}, {
		Name: "image", Value: strings.TrimSpace(i.ImageID + " " + facts.ImageName), Source: describeInstances, At: in.At, Confidence: rule.Observed,
		Note: owned(facts),
	}}
	switch {
	case violation:
		v.Outcome, v.Severity, v.Since, v.Owner = rule.Violation, severity, since, owner(i.Tags)
		v.Reason = "Its image " + i.ImageID + " is " + strings.Join(says, ", ") + "."
		v.Recommendation = "Launch its successor from a current image and take it away."
		if i.AutoScalingGroup() != "" {
			v.Recommendation = "Put a current image into the launch template of its group and refresh the group's instances."
		}
	case facts.Created.IsZero() && (meta.Failed || seen.Failed && !meta.Known):
		v.Outcome = rule.Error
		v.Reason = "The age of its image " + i.ImageID + " could not be read: " + strings.Join(imageUnread(seen, meta), "; ") + "."
	case facts.Created.IsZero():
		v.Outcome = rule.InsufficientData
		v.Reason = "The age of its image " + i.ImageID + " is not known: " + strings.Join(imageUnread(seen, meta), "; ") + "."
		if len(says) > 0 {
			v.Reason = "The age of its image " + i.ImageID + ", which is not visible, is not known: " + strings.Join(imageUnread(seen, meta), "; ") + "."
		}
	default:
		v.Outcome = rule.Compliant
		v.Reason = fmt.Sprintf("Its image %s was created on %s, less than %d days ago.", i.ImageID, facts.Created.Format(time.DateOnly), days)
	}
	return v
}

// imageUnread says why the two sources do not tell of an image.
func imageUnread(seen, meta rule.Fact[inventory.Image]) []string {
	var why []string
	for _, f := range []struct {
		rule.Fact[inventory.Image]
		source string
	}{{seen, describeImages}, {meta, describeImageMetadata}} {
		switch {
		case f.Known:
			why = append(why, f.source+" shows no creation time")
		default:
			why = append(why, cmp.Or(f.Why, f.source+" was not asked"))
		}
	}
	return why
}

func owned(i inventory.Image) string {
	if o := cmp.Or(i.OwnerAlias, i.Owner); o != "" {
		return "owner " + o
	}
	return ""
}
