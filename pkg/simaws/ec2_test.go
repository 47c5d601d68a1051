package simaws_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
	"pgregory.net/rapid"

	"nightshift.dev/pkg/simaws"
)

// code is the AWS error code of an error; the error's text when there is none.
func code(err error) string {
	if api, ok := errors.AsType[smithy.APIError](err); ok {
		return api.ErrorCode()
	}
	return fmt.Sprint(err)
}

// wantCode fails unless the error has the code.
func wantCode(t *testing.T, err error, want string) {
	t.Helper()
	if got := code(err); got != want {
		t.Errorf("error %q, want %q (%v)", got, want, err)
	}
}

// status is the HTTP status behind an SDK error.
func status(err error) int {
	var r interface{ HTTPStatusCode() int }
	if errors.As(err, &r) {
		return r.HTTPStatusCode()
	}
	return 0
}

func allInstances(t *testing.T, c *ec2.Client, in ec2.DescribeInstancesInput) (out []types.Instance) {
	t.Helper()
	for p := ec2.NewDescribeInstancesPaginator(c, &in); p.HasMorePages(); {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, r := range page.Reservations {
			out = append(out, r.Instances...)
			n += len(r.Instances)
		}
		if in.MaxResults != nil && n > int(*in.MaxResults) {
			t.Fatalf("page of %d instances, asked for %d", n, *in.MaxResults)
		}
	}
	return out
}

func allVolumes(t *testing.T, c *ec2.Client, in ec2.DescribeVolumesInput) (out []types.Volume) {
	t.Helper()
	for p := ec2.NewDescribeVolumesPaginator(c, &in); p.HasMorePages(); {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if in.MaxResults != nil && len(page.Volumes) > int(*in.MaxResults) {
			t.Fatalf("page of %d volumes, asked for %d", len(page.Volumes), *in.MaxResults)
		}
		out = append(out, page.Volumes...)
	}
	return out
}

func allSnapshots(t *testing.T, c *ec2.Client, in ec2.DescribeSnapshotsInput) (out []types.Snapshot) {
	t.Helper()
	for p := ec2.NewDescribeSnapshotsPaginator(c, &in); p.HasMorePages(); {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, page.Snapshots...)
	}
	return out
}

func TestRegions(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Regions: 4}, simaws.Config{})
	w.management().Regions[3].OptIn = simaws.OptInDone
	w.estate.Accounts[1].Regions[3].OptIn = simaws.OptInNone
	c := w.ec2(w.management(), "us-east-1")
	names := func(in *ec2.DescribeRegionsInput, c *ec2.Client) (out []string) {
		res, err := c.DescribeRegions(t.Context(), in)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range res.Regions {
			out = append(out, *r.RegionName+" "+*r.OptInStatus)
		}
		return out
	}
	want := []string{"us-east-1 opt-in-not-required", "us-west-2 opt-in-not-required", "eu-west-1 opt-in-not-required", "eu-central-1 opted-in"}
	if got := names(&ec2.DescribeRegionsInput{}, c); !slices.Equal(got, want) {
		t.Errorf("regions %v, want %v", got, want)
	}
	if got := names(&ec2.DescribeRegionsInput{AllRegions: aws.Bool(true)}, c); !slices.Contains(got, "me-south-1 not-opted-in") || len(got) != 9 {
		t.Errorf("all regions %v", got)
	}
	f := []types.Filter{{Name: aws.String("opt-in-status"), Values: []string{"opted-*"}}}
	if got := names(&ec2.DescribeRegionsInput{Filters: f}, c); len(got) != 1 {
		t.Errorf("opted in %v", got)
	}
	other := w.ec2(w.estate.Accounts[1], "us-east-1")
	if got := names(&ec2.DescribeRegionsInput{}, other); len(got) != 3 {
		t.Errorf("regions of the account that did not opt in: %v", got)
	}
	_, err := w.ec2(w.estate.Accounts[1], "eu-central-1").DescribeVolumes(t.Context(), nil)
	wantCode(t, err, "OptInRequired")
	_, err = w.ec2(w.management(), "af-south-1").DescribeVolumes(t.Context(), nil)
	wantCode(t, err, "OptInRequired")
	_, err = w.ec2(w.management(), "mars-north-1").DescribeVolumes(t.Context(), nil)
	wantCode(t, err, "AuthFailure")
	_, err = c.DescribeRegions(t.Context(), &ec2.DescribeRegionsInput{RegionNames: []string{"mars-north-1"}})
	wantCode(t, err, "InvalidParameterValue")
}

// Everything the estate holds comes out of the SDK as it is, in every region of every account.
func TestListingsEqualEstate(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 3, Resources: 600}, simaws.Config{NoQuotas: true})
	eip := 0
	w.eachRegion(func(a *simaws.Account, r *simaws.Region) {
		c := w.ec2(a, r.Name)
		instances := allInstances(t, c, ec2.DescribeInstancesInput{})
		if len(instances) != len(r.Instances) {
			t.Fatalf("%d instances, want %d", len(instances), len(r.Instances))
		}
		disks := map[string]int{}
		for i := range r.Instances {
			want, got := &r.Instances[i], &instances[i]
			if *got.InstanceId != want.ID || string(got.State.Name) != want.State || aws.ToString(got.StateTransitionReason) != want.Reason || !got.LaunchTime.Equal(want.Launched) ||
				string(got.InstanceType) != want.Type || *got.Placement.AvailabilityZone != want.Zone || (got.InstanceLifecycle == "spot") != want.Spot ||
				*got.HibernationOptions.Configured != want.Hibernation || *got.ImageId != want.Image || *got.UsageOperationUpdateTime != want.Created {
				t.Errorf("instance %+v came as %+v", want, got)
			}
			if want.ReasonCode != "" && *got.StateReason.Code != want.ReasonCode {
				t.Errorf("instance %s: reason %s, want %s", want.ID, *got.StateReason.Code, want.ReasonCode)
			}
			sameTags(t, want.ID, want.Tags, got.Tags)
			for _, d := range got.BlockDeviceMappings {
				disks[*got.InstanceId+*d.Ebs.VolumeId]++
			}
			if want.State == "terminated" && (len(got.NetworkInterfaces) > 0 || got.PrivateIpAddress != nil || len(got.BlockDeviceMappings) > 0) {
				t.Errorf("terminated %s still has an interface or disk", want.ID)
			}
		}
		volumes := allVolumes(t, c, ec2.DescribeVolumesInput{})
		if len(volumes) != len(r.Volumes) {
			t.Fatalf("%d volumes, want %d", len(volumes), len(r.Volumes))
		}
		for i := range r.Volumes {
			want, got := &r.Volumes[i], &volumes[i]
			if *got.VolumeId != want.ID || string(got.State) != want.State || *got.Size != want.Size || aws.ToInt32(got.Iops) != want.IOPS || aws.ToInt32(got.Throughput) != want.Throughput ||
				string(got.VolumeType) != want.Type || !got.CreateTime.Equal(want.Created) || *got.Encrypted != want.Encrypted || *got.MultiAttachEnabled != want.MultiAttach ||
				*got.AvailabilityZone != want.Zone || len(got.Attachments) != len(want.Attachments) {
				t.Errorf("volume %+v came as %+v", want, got)
			}
			for _, at := range got.Attachments {
				if disks[*at.InstanceId+*at.VolumeId]--; disks[*at.InstanceId+*at.VolumeId] != 0 {
					t.Errorf("volume %s says it is attached to %s, which does not say so", *at.VolumeId, *at.InstanceId)
				}
			}
			sameTags(t, want.ID, want.Tags, got.Tags)
		}
		own := allSnapshots(t, c, ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}})
		if all := allSnapshots(t, c, ec2.DescribeSnapshotsInput{}); len(all) != len(r.Snapshots) || len(own) != len(all)-2 {
			t.Errorf("%d snapshots, %d of them own; the estate has %d", len(all), len(own), len(r.Snapshots))
		}
		for _, s := range own {
			if *s.OwnerId != a.ID {
				t.Errorf("snapshot %s is of %s", *s.SnapshotId, *s.OwnerId)
			}
		}
		addresses, err := c.DescribeAddresses(t.Context(), &ec2.DescribeAddressesInput{})
		if err != nil || len(addresses.Addresses) != len(r.Addresses) {
			t.Fatalf("%d addresses, want %d: %v", len(addresses.Addresses), len(r.Addresses), err)
		}
		public := map[string]string{} // address by interface and private address
		for _, in := range instances {
			for _, n := range in.NetworkInterfaces {
				for _, ip := range n.PrivateIpAddresses {
					if ip.Association != nil && *ip.Association.IpOwnerId == a.ID {
						public[*n.NetworkInterfaceId+" "+*ip.PrivateIpAddress] = *ip.Association.PublicIp
					}
				}
			}
		}
		for _, ad := range addresses.Addresses {
			if ad.InstanceId == nil {
				if (ad.AssociationId == nil) != (ad.NetworkInterfaceId == nil) {
					t.Errorf("address %s is half associated", *ad.PublicIp)
				}
				continue
			}
			eip++
			key := *ad.NetworkInterfaceId + " " + *ad.PrivateIpAddress
			if public[key] != *ad.PublicIp {
				t.Errorf("%s has %q on its instance's interface, and is %s", key, public[key], *ad.PublicIp)
			}
			delete(public, key)
		}
		if len(public) > 0 {
			t.Errorf("Elastic IPs on instances only: %v", public)
		}
	})
	if eip == 0 {
		t.Error("no Elastic IP is on an instance")
	}
}

func sameTags(t *testing.T, id string, want []simaws.Tag, got []types.Tag) {
	t.Helper()
	have := map[string]string{}
	for _, g := range got {
		have[*g.Key] = aws.ToString(g.Value)
	}
	if len(have) != len(want) {
		t.Errorf("%s has tags %v, want %v", id, have, want)
	}
	for _, w := range want {
		if v, ok := have[w.Key]; !ok || v != w.Value {
			t.Errorf("%s: tag %q is %q, want %q", id, w.Key, v, w.Value)
		}
	}
}

// Paging gives each resource exactly once, whatever the page size.
func TestPagingExactlyOnce(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 5, Resources: 80, Accounts: 1, Regions: 1}, simaws.Config{NoQuotas: true})
	c, r := w.ec2(w.management(), "us-east-1"), w.management().Regions[0]
	rapid.Check(t, func(rt *rapid.T) {
		size := aws.Int32(rapid.Int32Range(5, 1000).Draw(rt, "size"))
		zone := types.Filter{Name: aws.String("availability-zone"), Values: []string{rapid.SampledFrom([]string{"*", "*a", "us-east-1b"}).Draw(rt, "zone")}}
		inZone := func(z string) bool {
			p := zone.Values[0]
			return p == "*" || strings.HasSuffix(z, strings.TrimPrefix(p, "*"))
		}
		var got, want []string
		for _, v := range allVolumes(t, c, ec2.DescribeVolumesInput{MaxResults: size, Filters: []types.Filter{zone}}) {
			got = append(got, *v.VolumeId)
		}
		for _, in := range allInstances(t, c, ec2.DescribeInstancesInput{MaxResults: size, Filters: []types.Filter{zone}}) {
			got = append(got, *in.InstanceId)
		}
		for _, s := range allSnapshots(t, c, ec2.DescribeSnapshotsInput{MaxResults: size}) {
			got = append(got, *s.SnapshotId)
		}
		for i := range r.Volumes {
			if inZone(r.Volumes[i].Zone) {
				want = append(want, r.Volumes[i].ID)
			}
		}
		for i := range r.Instances {
			if inZone(r.Instances[i].Zone) {
				want = append(want, r.Instances[i].ID)
			}
		}
		for i := range r.Snapshots {
			want = append(want, r.Snapshots[i].ID)
		}
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			rt.Fatalf("page size %d: %d resources, want %d", *size, len(got), len(want))
		}
	})
}

func TestPageLimits(t *testing.T) {
	t.Parallel()
	r := &simaws.Region{Name: "us-east-1"}
	for i := range 1001 {
		r.Instances = append(r.Instances, simaws.Instance{ID: fmt.Sprintf("i-%d", i), State: "running", Type: "t3.micro", Zone: "us-east-1a", Created: now, Launched: now})
		r.Volumes = append(r.Volumes, simaws.Volume{ID: fmt.Sprintf("vol-%d", i), State: "available", Type: "gp3", Zone: "us-east-1a", Created: now})
		r.Snapshots = append(r.Snapshots, simaws.Snapshot{ID: fmt.Sprintf("snap-%d", i), Volume: "vol-0", Started: now})
	}
	w := serve(t, loaded(r), simaws.Config{NoQuotas: true})
	c := w.ec2(w.management(), "us-east-1")
	in, err := c.DescribeInstances(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, r := range in.Reservations {
		n += len(r.Instances)
	}
	if n != 1000 || in.NextToken == nil {
		t.Errorf("unpaged: %d instances, token %v", n, in.NextToken)
	}
	if v, err := c.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(5000)}); err != nil || len(v.Volumes) != 500 || v.NextToken == nil {
		t.Errorf("volumes above the limit: %v", err)
	}
	if s, err := c.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{MaxResults: aws.Int32(5000)}); err != nil || len(s.Snapshots) != 1000 || s.NextToken == nil {
		t.Errorf("snapshots above the limit: %v", err)
	}
}

func TestEC2Errors(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 2}, simaws.Config{NoQuotas: true})
	c := w.ec2(w.management(), "us-east-1")
	id := w.management().Regions[0].Instances[0].ID
	page, err := c.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{MaxResults: aws.Int32(5)})
	if err != nil {
		t.Fatal(err)
	}
	instances := func(in ec2.DescribeInstancesInput) error {
		_, err := c.DescribeInstances(t.Context(), &in)
		return err
	}
	volumes := func(in ec2.DescribeVolumesInput) error {
		_, err := c.DescribeVolumes(t.Context(), &in)
		return err
	}
	filter := func(name string, values ...string) []types.Filter {
		return []types.Filter{{Name: &name, Values: values}}
	}
	for _, tc := range []struct {
		name string
		err  error
		want string
	}{
		{"unknown instance", instances(ec2.DescribeInstancesInput{InstanceIds: []string{id, "i-0123456789abcdef0"}}), "InvalidInstanceID.NotFound"},
		{"malformed instance", instances(ec2.DescribeInstancesInput{InstanceIds: []string{"vol-1"}}), "InvalidInstanceID.Malformed"},
		{"ids and page", instances(ec2.DescribeInstancesInput{InstanceIds: []string{id}, MaxResults: aws.Int32(10)}), "InvalidParameterCombination"},
		{"page too small", instances(ec2.DescribeInstancesInput{MaxResults: aws.Int32(4)}), "InvalidParameterValue"},
		{"page too large", instances(ec2.DescribeInstancesInput{MaxResults: aws.Int32(1001)}), "InvalidParameterValue"},
		{"token", instances(ec2.DescribeInstancesInput{NextToken: aws.String("AAAA")}), "InvalidParameterValue"},
		{"token of another action", instances(ec2.DescribeInstancesInput{NextToken: page.NextToken}), "InvalidParameterValue"},
		{"token of another filter", volumes(ec2.DescribeVolumesInput{NextToken: page.NextToken, Filters: filter("status", "available")}), "InvalidParameterValue"},
		{"filter", instances(ec2.DescribeInstancesInput{Filters: filter("no-such", "x")}), "InvalidParameterValue"},
		{"filter without value", instances(ec2.DescribeInstancesInput{Filters: filter("vpc-id")}), "InvalidParameterValue"},
		{"filter with 201 values", instances(ec2.DescribeInstancesInput{Filters: filter("vpc-id", slices.Repeat([]string{"x"}, 201)...)}), "FilterLimitExceeded"},
		{"dry run", instances(ec2.DescribeInstancesInput{DryRun: aws.Bool(true)}), "DryRunOperation"},
		{"unknown volume", volumes(ec2.DescribeVolumesInput{VolumeIds: []string{"vol-0123456789abcdef0"}}), "InvalidVolume.NotFound"},
		{"malformed volume", volumes(ec2.DescribeVolumesInput{VolumeIds: []string{"i-1"}}), "InvalidParameterValue"},
	} {
		if got := code(tc.err); got != tc.want || status(tc.err) < 400 {
			t.Errorf("%s: %s (%d), want %s", tc.name, got, status(tc.err), tc.want)
		}
	}
	_, err = c.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{SnapshotIds: []string{"snap-0123456789abcdef0"}})
	wantCode(t, err, "InvalidSnapshot.NotFound")
	_, err = c.DescribeAddresses(t.Context(), &ec2.DescribeAddressesInput{AllocationIds: []string{"eipalloc-0123456789abcdef0"}})
	wantCode(t, err, "InvalidAllocationID.NotFound")
	_, err = c.DescribeHosts(t.Context(), &ec2.DescribeHostsInput{})
	wantCode(t, err, "InvalidAction")
	if res, err := c.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{InstanceIds: []string{id, id}}); err != nil || len(res.Reservations) != 1 {
		t.Errorf("the same id twice: %v", err)
	}
}

// A filter finds what a brute-force reading of AWS's description finds: all filters, any of each one's values, * and ? as wildcards.
func TestFiltersAgreeWithBruteForce(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 9, Resources: 220, Accounts: 1, Regions: 1}, simaws.Config{NoQuotas: true})
	c := w.ec2(w.management(), "us-east-1")
	volumes, instances := allVolumes(t, c, ec2.DescribeVolumesInput{}), allInstances(t, c, ec2.DescribeInstancesInput{})
	stamp := func(tm *time.Time) string { return tm.UTC().Format("2006-01-02T15:04:05.000Z") }
	volumeFields := map[string]func(v types.Volume) []string{
		"status":               func(v types.Volume) []string { return []string{string(v.State)} },
		"volume-type":          func(v types.Volume) []string { return []string{string(v.VolumeType)} },
		"volume-id":            func(v types.Volume) []string { return []string{*v.VolumeId} },
		"size":                 func(v types.Volume) []string { return []string{fmt.Sprint(*v.Size)} },
		"encrypted":            func(v types.Volume) []string { return []string{fmt.Sprint(*v.Encrypted)} },
		"multi-attach-enabled": func(v types.Volume) []string { return []string{fmt.Sprint(*v.MultiAttachEnabled)} },
		"availability-zone":    func(v types.Volume) []string { return []string{*v.AvailabilityZone} },
		"create-time":          func(v types.Volume) []string { return []string{stamp(v.CreateTime)} },
		"snapshot-id":          func(v types.Volume) []string { return []string{*v.SnapshotId} },
		"attachment.instance-id": func(v types.Volume) (out []string) {
			for _, a := range v.Attachments {
				out = append(out, *a.InstanceId)
			}
			return out
		},
		"attachment.delete-on-termination": func(v types.Volume) (out []string) {
			for _, a := range v.Attachments {
				out = append(out, fmt.Sprint(*a.DeleteOnTermination))
			}
			return out
		},
		"tag-key":         func(v types.Volume) []string { return tagParts(v.Tags, "", true) },
		"tag:Owner":       func(v types.Volume) []string { return tagParts(v.Tags, "Owner", false) },
		"tag:Environment": func(v types.Volume) []string { return tagParts(v.Tags, "Environment", false) },
		"tag:Name":        func(v types.Volume) []string { return tagParts(v.Tags, "Name", false) },
	}
	instanceFields := map[string]func(in types.Instance) []string{
		"instance-state-name": func(in types.Instance) []string { return []string{string(in.State.Name)} },
		"instance-state-code": func(in types.Instance) []string { return []string{fmt.Sprint(*in.State.Code)} },
		"instance-type":       func(in types.Instance) []string { return []string{string(in.InstanceType)} },
		"instance-id":         func(in types.Instance) []string { return []string{*in.InstanceId} },
		"launch-time":         func(in types.Instance) []string { return []string{stamp(in.LaunchTime)} },
		"reason":              func(in types.Instance) []string { return []string{aws.ToString(in.StateTransitionReason)} },
		"architecture":        func(in types.Instance) []string { return []string{string(in.Architecture)} },
		"instance-lifecycle":  func(in types.Instance) []string { return nonEmpty(string(in.InstanceLifecycle)) },
		"ip-address":          func(in types.Instance) []string { return nonEmpty(aws.ToString(in.PublicIpAddress)) },
		"vpc-id":              func(in types.Instance) []string { return []string{aws.ToString(in.VpcId)} },
		"tag-key":             func(in types.Instance) []string { return tagParts(in.Tags, "", true) },
		"tag:aws:autoscaling:groupName": func(in types.Instance) []string {
			return tagParts(in.Tags, "aws:autoscaling:groupName", false)
		},
		"block-device-mapping.volume-id": func(in types.Instance) (out []string) {
			for _, d := range in.BlockDeviceMappings {
				out = append(out, *d.Ebs.VolumeId)
			}
			return out
		},
	}
	delete(instanceFields, "vpc-id") // terminated instances answer none; AWS still filters by it
	rapid.Check(t, func(rt *rapid.T) {
		filters, keep := drawFilters(rt, volumes, volumeFields)
		got := allVolumes(t, c, ec2.DescribeVolumesInput{Filters: filters})
		if want := slices.DeleteFunc(slices.Clone(volumes), func(v types.Volume) bool { return !keep(v) }); !slices.EqualFunc(got, want, func(a, b types.Volume) bool { return *a.VolumeId == *b.VolumeId }) {
			rt.Fatalf("%d volumes, want %d for %v", len(got), len(want), describe(filters))
		}
	})
	rapid.Check(t, func(rt *rapid.T) {
		filters, keep := drawFilters(rt, instances, instanceFields)
		got := allInstances(t, c, ec2.DescribeInstancesInput{Filters: filters})
		if want := slices.DeleteFunc(slices.Clone(instances), func(v types.Instance) bool { return !keep(v) }); !slices.EqualFunc(got, want, func(a, b types.Instance) bool { return *a.InstanceId == *b.InstanceId }) {
			rt.Fatalf("%d instances, want %d for %v", len(got), len(want), describe(filters))
		}
	})
}

func nonEmpty(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

func describe(filters []types.Filter) (out []string) {
	for _, f := range filters {
		out = append(out, fmt.Sprintf("%s=%q", *f.Name, f.Values))
	}
	return out
}

func tagParts(tags []types.Tag, key string, keys bool) (out []string) {
	for _, t := range tags {
		if keys {
			out = append(out, *t.Key)
		} else if *t.Key == key {
			out = append(out, aws.ToString(t.Value))
		}
	}
	return out
}

// drawFilters draws filters whose values come from the rows, sometimes with wildcards in them, and the predicate they mean.
func drawFilters[T any](rt *rapid.T, rows []T, fields map[string]func(T) []string) ([]types.Filter, func(T) bool) {
	names := make([]string, 0, len(fields))
	for n := range fields {
		names = append(names, n)
	}
	slices.Sort(names)
	var filters []types.Filter
	var tests []func(T) bool
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 3, rapid.ID).Draw(rt, "names") {
		var values []string
		var res []*regexp.Regexp
		for range rapid.IntRange(1, 3).Draw(rt, "values") {
			v := "nothing-has-this"
			if have := fields[name](rapid.SampledFrom(rows).Draw(rt, "row")); len(have) > 0 {
				v = rapid.SampledFrom(have).Draw(rt, "value")
			}
			literal := []rune(v)
			pattern, re := "", ""
			for i := 0; i < len(literal); i++ {
				switch rapid.IntRange(0, 9).Draw(rt, "wild") {
				case 0:
					pattern, re = pattern+"?", re+"."
				case 1:
					skip := rapid.IntRange(0, 4).Draw(rt, "skip")
					pattern, re = pattern+"*", re+".*"
					i += skip
				default:
					if strings.ContainsRune(`*?\`, literal[i]) {
						pattern += `\`
					}
					pattern, re = pattern+string(literal[i]), re+regexp.QuoteMeta(string(literal[i]))
				}
			}
			if rapid.Bool().Draw(rt, "exact") {
				pattern, re = strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`).Replace(v), regexp.QuoteMeta(v)
			}
			values, res = append(values, pattern), append(res, regexp.MustCompile(`(?s)^`+re+`$`))
		}
		filters = append(filters, types.Filter{Name: aws.String(name), Values: values})
		tests = append(tests, func(row T) bool {
			return slices.ContainsFunc(fields[name](row), func(v string) bool {
				return slices.ContainsFunc(res, func(re *regexp.Regexp) bool { return re.MatchString(v) })
			})
		})
	}
	return filters, func(row T) bool {
		return !slices.ContainsFunc(tests, func(f func(T) bool) bool { return !f(row) })
	}
}

// Tools that send GET requests, with the signature in the header or in the URL, are answered alike.
func TestGetAndPresigned(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{}, simaws.Config{})
	credential := w.management().AccessKey + "/20260803/us-east-1/ec2/aws4_request"
	q := url.Values{"Action": {"DescribeAvailabilityZones"}, "Version": {"2016-11-15"}}
	get := func(q url.Values, header string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, w.server.URL()+"/?"+q.Encode(), nil)
		if err != nil {
			t.Fatal(err)
		}
		if header != "" {
			req.Header.Set("Authorization", header)
		}
		res, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = res.Body.Close() }()
		body, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		if err := xml.Unmarshal(body, new(struct{ XMLName xml.Name })); err != nil {
			t.Errorf("not XML: %v", err)
		}
		return res.StatusCode, string(body)
	}
	if code, body := get(q, "AWS4-HMAC-SHA256 Credential="+credential+", SignedHeaders=host, Signature=00"); code != 200 || !strings.Contains(body, "us-east-1c") {
		t.Errorf("signed header: %d %s", code, body)
	}
	if code, body := get(q, ""); code != 403 || !strings.Contains(body, "<Code>MissingAuthenticationToken</Code>") {
		t.Errorf("unsigned: %d %s", code, body)
	}
	q.Set("X-Amz-Credential", credential)
	if code, body := get(q, ""); code != 200 || !strings.Contains(body, "us-east-1c") {
		t.Errorf("presigned: %d %s", code, body)
	}
}
