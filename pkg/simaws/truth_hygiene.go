package simaws

import (
	"slices"
	"strings"
	"time"
)

const imageFor = 180 * day

func amiOutdated(r *Region, in *Instance, now time.Time) verdict {
	if in.State == "terminated" || in.State == "shutting-down" {
		return beside(in.State)
	}
	img := r.image(in.Image)
	listed := img != nil && img.listed() && !r.account.denies("ec2", "DescribeImages")
	told := img != nil && !img.Nameless && !r.account.denies("ec2", "DescribeInstanceImageMetadata")
	if !listed && !told {
		return undecided("the image cannot be seen, and its metadata is empty")
	}
	old := now.Sub(img.Created) >= imageFor
	var states []string
	for state, holds := range map[string]bool{"deprecated": img.deprecated(now), "disabled": img.state() == "disabled", "deregistered": img.state() == "deregistered"} {
		if holds {
			states = append(states, state)
		}
	}
	slices.Sort(states)
	switch {
	case len(states) > 0:
		return bad(Medium, "the image is "+strings.Join(states, " and "))
	case old:
		return bad(Low, "the image is old")
	}
	return good("a recent image")
}

var requiredTags = []string{"Owner", "Environment", "CostCenter"}

// tagged judges tags alone.
func tagged(tags []Tag) verdict {
	var missing []string
	for _, key := range requiredTags {
		if v, ok := tagValue(tags, key); !ok || strings.TrimSpace(v) == "" {
			missing = append(missing, key)
		}
	}
	if len(missing) > 0 {
		return bad(Low, "without "+strings.Join(missing, ", "))
	}
	return good("all there")
}

// taggedSince leaves what is new alone.
func taggedSince(tags []Tag, since, now time.Time) verdict {
	if now.Sub(since) < grace {
		return beside("new")
	}
	return tagged(tags)
}

// taggedInstance counts from the earliest time that can be known: the last start, or when the root volume was attached.
func taggedInstance(r *Region, in *Instance, now time.Time) verdict {
	if in.State == "terminated" || in.State == "shutting-down" {
		return beside(in.State)
	}
	since := in.Launched
	for _, d := range in.disks {
		for _, a := range r.Volumes[d].Attachments {
			if a.Instance == in.ID && a.Device == rootDevice && a.At.Before(since) {
				since = a.At
			}
		}
	}
	return taggedSince(in.Tags, since, now)
}

func taggedVolume(_ *Region, v *Volume, now time.Time) verdict {
	if v.State == "deleting" {
		return beside(v.State)
	}
	return taggedSince(v.Tags, v.Created, now)
}

func taggedSnapshots(r *Region, now time.Time, yield yield) {
	for i := range r.Snapshots {
		if s := &r.Snapshots[i]; s.Owner == "" {
			yield("snapshot", s.ID, s.Case, taggedSince(s.Tags, s.Started, now))
		}
	}
}

func taggedGroups(r *Region, _ time.Time, yield yield) {
	for i := range r.Groups {
		g := &r.Groups[i]
		v := tagged(g.Tags)
		if g.Name == "default" {
			v = beside("a VPC's default group")
		}
		yield("security-group", g.ID, g.Case, v)
	}
}

func taggedImages(r *Region, now time.Time, yield yield) {
	for i := range r.Images {
		if img := &r.Images[i]; img.Owner == "" && img.listed() {
			yield("image", img.ID, img.Case, taggedSince(img.Tags, img.Created, now))
		}
	}
}
