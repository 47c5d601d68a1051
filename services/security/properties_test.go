package security

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// anyInstance draws an instance whose facts are known, unknown or denied.
func anyInstance(t *rapid.T) inventory.Instance {
	i := instanceExample(inState(rapid.SampledFrom([]string{"running", "stopped", "pending", "stopping", "terminated", "shutting-down", ""}).Draw(t, "state")))
	i.Tags = anyTags(t)
	i.Interfaces = nil
	subnets, groups := []string{"subnet-a", "subnet-b"}, []string{"sg-a", "sg-b", "sg-c"}
	for n := range rapid.IntRange(0, 2).Draw(t, "interfaces") {
		x := inventory.Interface{
			ID: fmt.Sprint("eni-", n), SubnetID: rapid.SampledFrom(subnets).Draw(t, "subnet"), VPCID: "vpc-a",
			GroupIDs: rapid.SliceOfNDistinct(rapid.SampledFrom(groups), 0, 3, rapid.ID[string]).Draw(t, "groups"),
		}
		if rapid.Bool().Draw(t, "IPv4") {
			x.PublicIPv4 = []inventory.PublicIPv4{{IP: fmt.Sprintf("198.51.100.%d", n)}}
		}
		if rapid.Bool().Draw(t, "IPv6") {
			x.IPv6 = []string{rapid.SampledFrom([]string{"2600:1f18::1", "fd00::1", "odd"}).Draw(t, "address")}
		}
		i.Interfaces = append(i.Interfaces, x)
	}
	for _, id := range groups {
		switch rapid.IntRange(0, 4).Draw(t, "group "+id) {
		case 0: // never asked
		case 1:
			groupFact(id, denied[inventory.SecurityGroup](describeGroups))(&i)
		default:
			g := anyGroup(t)
			g.ID = id
			groupFact(id, known(g, describeGroups))(&i)
		}
	}
	for _, id := range subnets {
		switch rapid.IntRange(0, 3).Draw(t, "route of "+id) {
		case 0:
		case 1:
			routeFact(id, denied[inventory.Routes](describeRouteTables))(&i)
		default:
			routed(id, rapid.SampledFrom([]inventory.Routes{
				toInternet, toNowhere, {Table: "rtb-4", GatewayIPv4: "igw-a"}, {Table: "rtb-6", Main: true, GatewayIPv6: "igw-a"},
			}).Draw(t, "route"))(&i)
		}
	}
	i.Image, i.ImageMetadata = anyImage(t, describeImages), anyImage(t, describeImageMetadata)
	return i
}

func anyImage(t *rapid.T, source string) rule.Fact[inventory.Image] {
	switch rapid.IntRange(0, 4).Draw(t, source) {
	case 0:
		return rule.Fact[inventory.Image]{}
	case 1:
		return denied[inventory.Image](source)
	case 2:
		return rule.Fact[inventory.Image]{Source: source, At: scan.ExampleTime, Why: "not shown"}
	}
	times := rapid.SampledFrom([]string{"", "2020-01-01 00:00", "2026-08-01 00:00", "2030-01-01 00:00"})
	return known(imageValue("ami-0123456789abcdef0", times.Draw(t, "created"), times.Draw(t, "deprecated"),
		rapid.SampledFrom([]string{"", "available", "disabled", "deregistered", "pending", "odd"}).Draw(t, "image state")), source)
}

func anyTags(t *rapid.T) map[string]string {
	return rapid.MapOfN(
		rapid.SampledFrom([]string{"Owner", "owner", "Environment", "CostCenter", "cost-center", "public-allowed", "Public-Allowed", "Name", "aws:autoscaling:groupName", ""}),
		rapid.SampledFrom([]string{"", " ", "true", "FALSE", "until-2026-09-01", "until-2026-08-31", "until-x", "shop", "<script>", "\xff\x00"}), 0, 6,
	).Draw(t, "tags")
}

// sound is what every verdict must be.
func sound(t *rapid.T, v rule.Verdict) {
	switch {
	case v.Outcome < rule.Violation || v.Outcome > rule.Error, v.Reason == "", len(v.Evidence) == 0,
		(v.Outcome == rule.Violation) != (v.Severity != 0), v.Cost.Known, v.Outcome != rule.Violation && v.Exempt != rule.Exemption{}:
		t.Fatalf("%#v", v)
	}
	for _, e := range v.Evidence {
		if e.Name == "" || e.Source == "" || e.At.IsZero() || e.Confidence == 0 {
			t.Fatalf("evidence %#v of %#v", e, v)
		}
	}
}

// Whatever comes in, a rule gives a sound verdict, twice the same, and changes
// nothing of what it was given.
func TestRulesAreSoundAndPure(t *testing.T) {
	t.Parallel()
	public, images, tags := scanIn(defaults(t, "ec2-public")), scanIn(defaults(t, "ami-outdated")), scanIn(defaults(t, "required-tags"))
	groups, volumes := scanIn(defaults(t, "sg-open-sensitive-port")), scanIn(defaults(t, "ebs-unencrypted"))
	rapid.Check(t, func(t *rapid.T) {
		i, g := anyInstance(t), anyGroup(t)
		v := volumeExample(func(v *inventory.Volume) {
			v.State = rapid.SampledFrom([]string{"available", "in-use", "creating", "deleting", "error", ""}).Draw(t, "volume state")
			v.Encrypted, v.EncryptionUnknown = rapid.Bool().Draw(t, "encrypted"), rapid.Bool().Draw(t, "unknown")
			v.Created = rapid.SampledFrom([]time.Time{{}, scan.ExampleTime, scan.ExampleTime.Add(-time.Hour), scan.ExampleTime.Add(48 * time.Hour)}).Draw(t, "created")
			v.Tags = anyTags(t)
		})
		before := fmt.Sprintf("%#v%#v%#v", i, g, v)
		for _, judge := range []func() rule.Verdict{
			func() rule.Verdict { return judgePublic(public, i) },
			func() rule.Verdict { return judgeImage(images, i) },
			func() rule.Verdict { return judgeTags(tags, i.Resource, describeInstances) },
			func() rule.Verdict { return judgeGroup(groups, g) },
			func() rule.Verdict { return judgeUnencrypted(volumes, v) },
			func() rule.Verdict { return judgeTags(tags, v.Resource, describeVolumes) },
		} {
			first := judge()
			sound(t, first)
			if again := judge(); fmt.Sprintf("%#v", first) != fmt.Sprintf("%#v", again) {
				t.Fatalf("%#v\n%#v", first, again)
			}
		}
		if after := fmt.Sprintf("%#v%#v%#v", i, g, v); after != before {
			t.Fatalf("the rules changed what they were given:\n%s\n%s", before, after)
		}
	})
}

// A rule more in one of its groups never makes an instance less severe, and
// never changes whether it is public; neither does the order of anything.
func TestPublicInstances(t *testing.T) {
	t.Parallel()
	in := scanIn(defaults(t, "ec2-public"))
	rapid.Check(t, func(t *rapid.T) {
		i := anyInstance(t)
		before := judgePublic(in, i)

		more := i
		more.Groups = maps.Clone(i.Groups)
		for _, id := range slices.Sorted(maps.Keys(more.Groups)) {
			if f := more.Groups[id]; f.Known {
				f.Value.Ingress = append(slices.Clone(f.Value.Ingress), anyPermission(t))
				more.Groups[id] = f
			}
		}
		if after := judgePublic(in, more); after.Outcome != before.Outcome || after.Severity < before.Severity {
			t.Fatalf("%s %s before and %s %s after", before.Outcome, before.Severity, after.Outcome, after.Severity)
		}

		turned := i
		turned.Interfaces = slices.Clone(i.Interfaces)
		slices.Reverse(turned.Interfaces)
		if after := judgePublic(in, turned); after.Outcome != before.Outcome || after.Severity != before.Severity || after.Exempt != before.Exempt {
			t.Fatalf("%s %s before and %s %s after", before.Outcome, before.Severity, after.Outcome, after.Severity)
		}

		// Nothing unknown makes it worse: without any fact it is at most as bad.
		bare := i
		bare.Groups, bare.Routes = nil, nil
		if after := judgePublic(in, bare); after.Outcome != before.Outcome || after.Severity > before.Severity {
			t.Fatalf("%s %s with facts and %s %s without", before.Outcome, before.Severity, after.Outcome, after.Severity)
		}
	})
}

// What is not known of an image never makes it outdated.
func TestUnknownImagesAreNotOutdated(t *testing.T) {
	t.Parallel()
	in := scanIn(defaults(t, "ami-outdated"))
	rapid.Check(t, func(t *rapid.T) {
		i := anyInstance(t)
		v := judgeImage(in, i)
		i.Image = rapid.SampledFrom([]rule.Fact[inventory.Image]{{}, denied[inventory.Image](describeImages), {Source: describeImages, Why: "not shown"}}).Draw(t, "image")
		i.ImageMetadata = rapid.SampledFrom([]rule.Fact[inventory.Image]{{}, denied[inventory.Image](describeImageMetadata)}).Draw(t, "metadata")
		switch without := judgeImage(in, i); {
		case gone(i.State) != (without.Outcome == rule.NotApplicable), gone(i.State) != (v.Outcome == rule.NotApplicable):
			t.Fatalf("%s is %s", i.State, without.Outcome)
		case without.Outcome == rule.Violation || without.Outcome == rule.Compliant:
			t.Fatalf("%s without evidence", without.Outcome)
		}
	})
}

// A tag more is never a tag less.
func TestTagsOnlyHelp(t *testing.T) {
	t.Parallel()
	in := scanIn(defaults(t, "required-tags"))
	missing := func(v rule.Verdict) int {
		list, _ := v.Evidence[0].Value.([]string)
		return len(list)
	}
	rapid.Check(t, func(t *rapid.T) {
		r := instanceExample().Resource
		r.Tags = anyTags(t)
		before := judgeTags(in, r, describeInstances)
		key := rapid.SampledFrom([]string{"Owner", "Environment", "CostCenter", "owner", "x"}).Draw(t, "key")
		if strings.TrimSpace(r.Tags[key]) != "" {
			return
		}
		r.Tags = maps.Clone(r.Tags)
		r.Tags[key] = "a"
		if after := judgeTags(in, r, describeInstances); missing(after) > missing(before) || (missing(after) == 0) != (after.Outcome == rule.Compliant) {
			t.Fatalf("%d missing before, %d after, which is %s", missing(before), missing(after), after.Outcome)
		}
	})
}

func TestExemption(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 9, 1, 23, 59, 59, 0, time.UTC)
	for value, want := range map[string]bool{
		"true": true, "TRUE": true, "yes": true, "Yes": true, "1": true, "on": true, "On": true, "until-2026-09-01": true, "UNTIL-2026-09-02": true, "until-9999-12-31": true,
		"false": false, "no": false, "0": false, "off": false, "": false, " ": false, " true": false, "true ": false, "y": false, "t": false, "2": false,
		"until-2026-08-31": false, "until-2026-9-1": false, "until-2026-09-31": false, "until-": false, "until 2026-12-01": false, "2026-12-01": false, "until-2026-12-01T00:00:00Z": false,
	} {
		x, note := exemption(scan.In{At: at}, map[string]string{"public-allowed": value})
		if (x != rule.Exemption{}) != want || note == "" {
			t.Errorf("%q exempts: %+v (%s), want %v", value, x, note, want)
		}
	}
	for _, key := range []string{"Public-Allowed", "public_allowed", "public-allowed ", "publicallowed"} {
		if x, _ := exemption(scan.In{At: at}, map[string]string{key: "true"}); x != (rule.Exemption{}) {
			t.Errorf("key %q exempts: %+v", key, x)
		}
	}
	// Through that day, to its last second and no further.
	x, _ := exemption(scan.In{At: at}, map[string]string{"public-allowed": "until-2026-09-01"})
	if want := time.Date(2026, 9, 2, 0, 0, 0, 0, time.UTC); !x.Until.Equal(want) {
		t.Errorf("until %v, want %v", x.Until, want)
	}
	if x, _ := exemption(scan.In{At: x.Until}, map[string]string{"public-allowed": "until-2026-09-01"}); x != (rule.Exemption{}) {
		t.Errorf("it exempts on the next day: %+v", x)
	}
}

func FuzzExemption(f *testing.F) {
	for _, s := range []string{"true", "until-2026-09-01", "until-2026-02-29", "until-0001-01-01", "until--1", "ON", "İ"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, value string) {
		x, note := exemption(scan.In{At: scan.ExampleTime}, map[string]string{"public-allowed": value})
		if note == "" {
			t.Errorf("%q is taken without a word", value)
		}
		if !x.Until.IsZero() && !x.Until.After(scan.ExampleTime) {
			t.Errorf("%q exempts until %v, which is over", value, x.Until)
		}
	})
}

// BenchmarkJudgeGroups judges groups as accounts have them: a few rules each,
// one in ten open.
func BenchmarkJudgeGroups(b *testing.B) {
	in := scanIn(defaults(b, "sg-open-sensitive-port"))
	tight := groupExample(ingress("tcp", 443, 443, "0.0.0.0/0", "::/0"), ingress("tcp", 22, 22, "10.0.0.0/8", "8.8.8.8/32"), ingress("tcp", 5432, 5432, "sg-0123"), allTraffic("sg-0123"))
	open := groupExample(allTraffic("0.0.0.0/0"), ingress("tcp", 22, 22, "10.0.0.0/8"))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		if n%10 == 0 {
			judgeGroup(in, open)
		} else {
			judgeGroup(in, tight)
		}
	}
}
