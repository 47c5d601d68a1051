package simaws_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"pgregory.net/rapid"

	"nightshift.dev/pkg/simaws"
)

func groupPages(o *ec2.DescribeSecurityGroupsOutput) []types.SecurityGroup { return o.SecurityGroups }
func rulePages(o *ec2.DescribeSecurityGroupRulesOutput) []types.SecurityGroupRule {
	return o.SecurityGroupRules
}
func nicPages(o *ec2.DescribeNetworkInterfacesOutput) []types.NetworkInterface {
	return o.NetworkInterfaces
}
func tablePages(o *ec2.DescribeRouteTablesOutput) []types.RouteTable { return o.RouteTables }
func listPages(o *ec2.DescribeManagedPrefixListsOutput) []types.ManagedPrefixList {
	return o.PrefixLists
}
func entryPages(o *ec2.GetManagedPrefixListEntriesOutput) []types.PrefixListEntry { return o.Entries }
func imagePages(o *ec2.DescribeImagesOutput) []types.Image                        { return o.Images }
func metadataPages(o *ec2.DescribeInstanceImageMetadataOutput) []types.InstanceImageMetadata {
	return o.InstanceImageMetadata
}

// The two ways to read a group's ingress tell the same, rule by rule, and what the estate holds.
func TestGroupsAndTheirRules(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 2, Resources: 600, Accounts: 1, Regions: 1}, simaws.Config{NoQuotas: true})
	c, r := w.ec2(w.management(), "us-east-1"), w.management().Regions[0]
	groups := collect(t, ec2.NewDescribeSecurityGroupsPaginator(c, &ec2.DescribeSecurityGroupsInput{MaxResults: aws.Int32(7)}), groupPages)
	if len(groups) != len(r.Groups) {
		t.Fatalf("%d groups, want %d", len(groups), len(r.Groups))
	}
	text := func(protocol string, from, to *int32, peer string) string {
		if protocol == "-1" || from == nil {
			from, to = aws.Int32(-1), aws.Int32(-1)
		}
		return fmt.Sprint(protocol, " ", *from, "-", *to, " ", peer)
	}
	single := map[string][]string{}
	for _, x := range collect(t, ec2.NewDescribeSecurityGroupRulesPaginator(c, &ec2.DescribeSecurityGroupRulesInput{MaxResults: aws.Int32(11)}), rulePages) {
		peer := aws.ToString(x.CidrIpv4) + aws.ToString(x.CidrIpv6) + aws.ToString(x.PrefixListId)
		if x.ReferencedGroupInfo != nil {
			peer += *x.ReferencedGroupInfo.GroupId
		}
		if !*x.IsEgress {
			single[*x.GroupId] = append(single[*x.GroupId], text(*x.IpProtocol, x.FromPort, x.ToPort, peer))
		}
	}
	for i, g := range groups {
		want := r.Groups[i]
		var together, stored []string
		for _, p := range g.IpPermissions {
			for _, x := range p.IpRanges {
				together = append(together, text(*p.IpProtocol, p.FromPort, p.ToPort, *x.CidrIp))
			}
			for _, x := range p.Ipv6Ranges {
				together = append(together, text(*p.IpProtocol, p.FromPort, p.ToPort, *x.CidrIpv6))
			}
			for _, x := range p.PrefixListIds {
				together = append(together, text(*p.IpProtocol, p.FromPort, p.ToPort, *x.PrefixListId))
			}
			for _, x := range p.UserIdGroupPairs {
				together = append(together, text(*p.IpProtocol, p.FromPort, p.ToPort, *x.GroupId))
			}
		}
		for _, x := range want.Ingress {
			stored = append(stored, text(x.Protocol, x.From, x.To, x.CIDR+x.CIDR6+x.PrefixList+x.Group))
		}
		apart := single[want.ID]
		for _, l := range [][]string{together, stored, apart} {
			slices.Sort(l)
		}
		if *g.GroupId != want.ID || *g.GroupName != want.Name || *g.VpcId != want.VPC || !slices.Equal(together, stored) || !slices.Equal(apart, stored) {
			t.Errorf("%s (%s): permissions %q, rules %q, the estate has %q", want.ID, want.Case, together, apart, stored)
		}
		sameTags(t, want.ID, want.Tags, g.Tags)
	}
}

// DescribeInstances and DescribeNetworkInterfaces agree about every interface.
func TestInterfacesAgree(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 3, Resources: 600, Accounts: 1, Regions: 1}, simaws.Config{NoQuotas: true})
	c := w.ec2(w.management(), "us-east-1")
	of := map[string]types.NetworkInterface{}
	unattached := 0
	for _, n := range collect(t, ec2.NewDescribeNetworkInterfacesPaginator(c, &ec2.DescribeNetworkInterfacesInput{MaxResults: aws.Int32(50)}), nicPages) {
		if n.Attachment == nil {
			unattached++
		} else if n.Attachment.InstanceId != nil {
			of[*n.NetworkInterfaceId] = n
		}
	}
	several, secondary, six := 0, 0, 0
	for _, in := range allInstances(t, c, ec2.DescribeInstancesInput{}) {
		if len(in.NetworkInterfaces) > 1 {
			several++
		}
		for _, n := range in.NetworkInterfaces {
			o := of[*n.NetworkInterfaceId]
			delete(of, *n.NetworkInterfaceId)
			same := o.Attachment != nil && *o.Attachment.InstanceId == *in.InstanceId && *o.SubnetId == *n.SubnetId && *o.VpcId == *n.VpcId && len(o.PrivateIpAddresses) == len(n.PrivateIpAddresses) &&
				len(o.Ipv6Addresses) == len(n.Ipv6Addresses) && *o.PrivateIpAddress == *n.PrivateIpAddress && *o.Attachment.DeviceIndex == *n.Attachment.DeviceIndex && len(o.Groups) == len(n.Groups)
			if !same {
				t.Fatalf("%s of %s differs", *n.NetworkInterfaceId, *in.InstanceId)
			}
			for i, p := range n.PrivateIpAddresses {
				q := o.PrivateIpAddresses[i]
				if (p.Association == nil) != (q.Association == nil) || p.Association != nil && *p.Association.PublicIp != *q.Association.PublicIp || *p.PrivateIpAddress != *q.PrivateIpAddress {
					t.Errorf("%s: address %s differs", *n.NetworkInterfaceId, *p.PrivateIpAddress)
				}
				if p.Association != nil && !*p.Primary {
					secondary++
				}
			}
			six += len(n.Ipv6Addresses)
		}
		if len(in.NetworkInterfaces) > 0 {
			first := in.NetworkInterfaces[0]
			if *first.SubnetId != *in.SubnetId || *first.PrivateIpAddress != *in.PrivateIpAddress || first.Association != nil && *first.Association.PublicIp != *in.PublicIpAddress {
				t.Errorf("%s does not have what its first interface has", *in.InstanceId)
			}
		}
	}
	if len(of) > 0 || unattached == 0 || several == 0 || secondary == 0 || six == 0 {
		t.Errorf("%d interfaces left over; %d unattached, %d instances with several, %d public secondary addresses, %d IPv6", len(of), unattached, several, secondary, six)
	}
}

// Whether an image is listed depends on who owns it and what is asked for; the metadata of instances answers for all.
func TestImageVisibility(t *testing.T) {
	t.Parallel()
	past, future := now.Add(-day), now.Add(day)
	r := &simaws.Region{Name: "us-east-1"}
	for _, i := range []simaws.Image{
		{ID: "ami-own"}, {ID: "ami-owndep", Deprecated: past}, {ID: "ami-owndis", State: "disabled"}, {ID: "ami-owngone", State: "deregistered"},
		{ID: "ami-pub", Owner: "137112412989", Alias: "amazon", Public: true}, {ID: "ami-pubdep", Owner: "137112412989", Alias: "amazon", Public: true, Deprecated: past},
		{ID: "ami-pubsoon", Owner: "137112412989", Public: true, Deprecated: future}, {ID: "ami-otherdis", Owner: "999999999999", State: "disabled"},
		{ID: "ami-hidden", Owner: "999999999999", Hidden: true}, {ID: "ami-nameless", Owner: "999999999999", Hidden: true, Nameless: true},
	} {
		i.Created = now.Add(-100 * day)
		r.Images = append(r.Images, i)
		r.Instances = append(r.Instances, simaws.Instance{ID: "i-of-" + i.ID, State: "running", Type: "t3.micro", Zone: "us-east-1a", Image: i.ID, Created: past, Launched: past})
	}
	w := serve(t, loaded(r), simaws.Config{NoQuotas: true})
	c := w.ec2(w.management(), "us-east-1")
	yes := aws.Bool(true)
	for want, in := range map[string]*ec2.DescribeImagesInput{
		"[ami-own ami-owndep ami-pub ami-pubsoon]":            {},
		"[ami-own ami-owndep ami-pub ami-pubdep ami-pubsoon]": {IncludeDeprecated: yes},
		"[ami-own ami-owndep ami-owndis]":                     {Owners: []string{"self"}, IncludeDeprecated: yes, IncludeDisabled: yes},
		"[ami-own ami-owndep]":                                {Owners: []string{"self"}},
		"[ami-pub]":                                           {Owners: []string{"amazon"}},
		"[ami-pubdep]":                                        {ImageIds: []string{"ami-pubdep"}},
		"[ami-own ami-owndep ami-owndis ami-pub ami-pubdep ami-pubsoon]": {IncludeDeprecated: yes, IncludeDisabled: yes},
	} {
		var got []string
		for _, i := range collect(t, ec2.NewDescribeImagesPaginator(c, in), imagePages) {
			got = append(got, *i.ImageId)
		}
		if fmt.Sprint(got) != want {
			t.Errorf("got %v, want %s", got, want)
		}
	}
	for _, id := range []string{"ami-owngone", "ami-hidden", "ami-otherdis", "ami-owndis", "ami-0123456789abcdef0"} {
		_, err := c.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{id}})
		wantCode(t, err, "InvalidAMIID.NotFound")
	}
	told := map[string]string{}
	for _, m := range collect(t, ec2.NewDescribeInstanceImageMetadataPaginator(c, &ec2.DescribeInstanceImageMetadataInput{MaxResults: aws.Int32(5)}), metadataPages) {
		told[*m.InstanceId] = string(m.ImageMetadata.State)
		if *m.InstanceId != "i-of-"+*m.ImageMetadata.ImageId {
			t.Errorf("%s has %s", *m.InstanceId, *m.ImageMetadata.ImageId)
		}
	}
	if len(told) != 10 || told["i-of-ami-owngone"] != "deregistered" || told["i-of-ami-hidden"] != "available" || told["i-of-ami-nameless"] != "" {
		t.Errorf("metadata says %v", told)
	}
}

// Paging gives each row exactly once and filters find what they mean, whatever the page size.
func TestNetworkPaging(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 4, Resources: 500, Accounts: 1, Regions: 1}, simaws.Config{NoQuotas: true})
	c, r := w.ec2(w.management(), "us-east-1"), w.management().Regions[0]
	big := simaws.PrefixList{}
	for _, l := range r.PrefixLists {
		if !l.Hidden && !l.Unreadable && l.Owner == "" {
			big = l
		}
	}
	rapid.Check(t, func(rt *rapid.T) {
		size := aws.Int32(rapid.Int32Range(5, 100).Draw(rt, "size"))
		g := rapid.SampledFrom(r.Groups).Draw(rt, "group")
		byGroup := []types.Filter{{Name: aws.String("group-id"), Values: []string{g.ID}}}
		visible := 0
		for _, l := range r.PrefixLists {
			if !l.Hidden {
				visible++
			}
		}
		rules, wearing := 0, 0
		for _, x := range r.Groups {
			rules += len(x.Ingress) + len(x.Egress)
		}
		for _, n := range r.Interfaces {
			if slices.Contains(n.Groups, g.ID) {
				wearing++
			}
		}
		unique := func(what string, ids []string, want int) {
			slices.Sort(ids)
			if n := len(slices.Compact(ids)); n != want || len(ids) != want {
				rt.Fatalf("%s: %d rows, %d of them different, want %d", what, len(ids), n, want)
			}
		}
		ids := func(n int, id func(int) *string) (out []string) {
			for i := range n {
				out = append(out, *id(i))
			}
			return out
		}
		gs := collect(t, ec2.NewDescribeSecurityGroupsPaginator(c, &ec2.DescribeSecurityGroupsInput{MaxResults: size}), groupPages)
		unique("groups", ids(len(gs), func(i int) *string { return gs[i].GroupId }), len(r.Groups))
		rs := collect(t, ec2.NewDescribeSecurityGroupRulesPaginator(c, &ec2.DescribeSecurityGroupRulesInput{MaxResults: size}), rulePages)
		unique("rules", ids(len(rs), func(i int) *string { return rs[i].SecurityGroupRuleId }), rules)
		rs = collect(t, ec2.NewDescribeSecurityGroupRulesPaginator(c, &ec2.DescribeSecurityGroupRulesInput{MaxResults: size, Filters: byGroup}), rulePages)
		unique("rules of a group", ids(len(rs), func(i int) *string { return rs[i].SecurityGroupRuleId }), len(g.Ingress)+len(g.Egress))
		ns := collect(t, ec2.NewDescribeNetworkInterfacesPaginator(c, &ec2.DescribeNetworkInterfacesInput{MaxResults: size, Filters: byGroup}), nicPages)
		unique("interfaces of a group", ids(len(ns), func(i int) *string { return ns[i].NetworkInterfaceId }), wearing)
		ts := collect(t, ec2.NewDescribeRouteTablesPaginator(c, &ec2.DescribeRouteTablesInput{MaxResults: aws.Int32(5)}), tablePages)
		unique("route tables", ids(len(ts), func(i int) *string { return ts[i].RouteTableId }), len(r.RouteTables))
		ls := collect(t, ec2.NewDescribeManagedPrefixListsPaginator(c, &ec2.DescribeManagedPrefixListsInput{MaxResults: aws.Int32(rapid.Int32Range(1, 9).Draw(rt, "few"))}), listPages)
		unique("prefix lists", ids(len(ls), func(i int) *string { return ls[i].PrefixListId }), visible)
		version := rapid.IntRange(1, len(big.Versions)).Draw(rt, "version")
		es := collect(t, ec2.NewGetManagedPrefixListEntriesPaginator(c, &ec2.GetManagedPrefixListEntriesInput{PrefixListId: &big.ID, TargetVersion: aws.Int64(int64(version)), MaxResults: aws.Int32(1)}), entryPages)
		unique("entries", ids(len(es), func(i int) *string { return es[i].Cidr }), len(big.Versions[version-1]))
		is := collect(t, ec2.NewDescribeInstanceImageMetadataPaginator(c, &ec2.DescribeInstanceImageMetadataInput{MaxResults: size}), metadataPages)
		unique("metadata", ids(len(is), func(i int) *string { return is[i].InstanceId }), len(r.Instances))
	})
	main := collect(t, ec2.NewDescribeRouteTablesPaginator(c, &ec2.DescribeRouteTablesInput{Filters: []types.Filter{{Name: aws.String("association.main"), Values: []string{"true"}}, {Name: aws.String("route.gateway-id"), Values: []string{"igw-*"}}}}), tablePages)
	if len(main) != 1 {
		t.Errorf("%d main route tables lead to an internet gateway, want the legacy VPC's", len(main))
	}
	out, err := c.GetEbsEncryptionByDefault(t.Context(), nil)
	if err != nil || *out.EbsEncryptionByDefault != r.EncryptionByDefault {
		t.Errorf("encryption by default: %+v, %v", out, err)
	}
}

func TestNetworkErrors(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 2, Resources: 500, Accounts: 1, Regions: 1}, simaws.Config{NoQuotas: true})
	c := w.ec2(w.management(), "us-east-1")
	one := func(s string) []string { return []string{s} }
	groups := func(in ec2.DescribeSecurityGroupsInput) error {
		_, err := c.DescribeSecurityGroups(t.Context(), &in)
		return err
	}
	rules := func(id string) error {
		_, err := c.DescribeSecurityGroupRules(t.Context(), &ec2.DescribeSecurityGroupRulesInput{SecurityGroupRuleIds: one(id)})
		return err
	}
	nics := func(in ec2.DescribeNetworkInterfacesInput) error {
		_, err := c.DescribeNetworkInterfaces(t.Context(), &in)
		return err
	}
	tables := func(id string) error {
		_, err := c.DescribeRouteTables(t.Context(), &ec2.DescribeRouteTablesInput{RouteTableIds: one(id)})
		return err
	}
	entries := func(id string, version int64) error {
		_, err := c.GetManagedPrefixListEntries(t.Context(), &ec2.GetManagedPrefixListEntriesInput{PrefixListId: &id, TargetVersion: &version})
		return err
	}
	var own, hidden, sealed string
	for _, l := range w.management().Regions[0].PrefixLists {
		switch {
		case l.Hidden:
			hidden = l.ID
		case l.Unreadable:
			sealed = l.ID
		case l.Owner == "":
			own = l.ID
		}
	}
	nic := w.management().Regions[0].Interfaces[0].ID
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"unknown group":           {groups(ec2.DescribeSecurityGroupsInput{GroupIds: one("sg-0123456789abcdef0")}), "InvalidGroup.NotFound"},
		"malformed group":         {groups(ec2.DescribeSecurityGroupsInput{GroupIds: one("i-1")}), "InvalidGroupId.Malformed"},
		"unknown filter":          {groups(ec2.DescribeSecurityGroupsInput{Filters: []types.Filter{{Name: aws.String("color"), Values: one("red")}}}), "InvalidParameterValue"},
		"page too large":          {groups(ec2.DescribeSecurityGroupsInput{MaxResults: aws.Int32(1001)}), "InvalidParameterValue"},
		"unknown rule":            {rules("sgr-0123456789abcdef0"), "InvalidSecurityGroupRuleId.NotFound"},
		"unknown interface":       {nics(ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: one("eni-0123456789abcdef0")}), "InvalidNetworkInterfaceID.NotFound"},
		"interface ids and page":  {nics(ec2.DescribeNetworkInterfacesInput{NetworkInterfaceIds: one(nic), MaxResults: aws.Int32(5)}), "InvalidParameterCombination"},
		"unknown table":           {tables("rtb-0123456789abcdef0"), "InvalidRouteTableID.NotFound"},
		"unknown list":            {entries("pl-0123456789abcdef0", 1), "InvalidPrefixListID.NotFound"},
		"list that is not shared": {entries(hidden, 1), "InvalidPrefixListID.NotFound"},
		"list that is denied":     {entries(sealed, 1), "UnauthorizedOperation"},
		"unknown version":         {entries(own, 99), "InvalidPrefixListVersion"},
	} {
		if got := code(tc.err); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

// A policy allows what it names and nothing else; a Deny beats it; each service says so in its own way.
func TestPolicies(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/policy.json"
	writeFile(t, path, []byte(`{"Version":"2012-10-17","Statement":[
		{"Sid":"Read","Effect":"Allow","Action":["ec2:Describe*","EC2:getebsencryptionbydefault","cloudwatch:GetMetricData"],"Resource":"*"},
		{"Effect":"Deny","Action":"ec2:DescribeSnapshots","Resource":["*"]}]}`))
	policy, err := simaws.LoadPolicy(path)
	if err != nil {
		t.Fatal(err)
	}
	e := simaws.Generate(simaws.Options{Seed: 1, Resources: 60, Now: now})
	e.Accounts[1].Roles[1].Policy = &simaws.Policy{Version: "2012-10-17", Statement: []simaws.Statement{{Effect: "Allow", Action: []string{"ec2:DescribeVolume?"}, Resource: []string{"*"}}}}
	e.Accounts[2].Policy = &simaws.Policy{Version: "2012-10-17", Statement: []simaws.Statement{{Effect: "Allow", Action: []string{"sts:*"}, Resource: []string{"*"}}}}
	w := serve(t, e, simaws.Config{Policy: policy, NoQuotas: true})
	as := func(role int) aws.Config {
		a := e.Accounts[1]
		out, err := w.sts().AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String(a.RoleARN(a.Roles[role].Name)), RoleSessionName: aws.String("run"), ExternalId: aws.String(a.Roles[0].ExternalID)})
		if err != nil {
			t.Fatal(err)
		}
		cfg := w.as(a, "us-east-1")
		cfg.Credentials = credentials.NewStaticCredentialsProvider(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
		return cfg
	}
	calls := func(cfg aws.Config) map[string]error {
		c, m := ec2.NewFromConfig(cfg), cloudwatch.NewFromConfig(cfg)
		out := map[string]error{}
		_, out["volumes"] = c.DescribeVolumes(t.Context(), nil)
		_, out["groups"] = c.DescribeSecurityGroups(t.Context(), nil)
		_, out["default"] = c.GetEbsEncryptionByDefault(t.Context(), nil)
		_, out["entries"] = c.GetManagedPrefixListEntries(t.Context(), &ec2.GetManagedPrefixListEntriesInput{PrefixListId: aws.String("pl-1")})
		_, out["snapshots"] = c.DescribeSnapshots(t.Context(), nil)
		_, out["metrics"] = m.ListMetrics(t.Context(), nil)
		_, out["identity"] = sts.NewFromConfig(cfg).GetCallerIdentity(t.Context(), nil)
		_, out["role"] = sts.NewFromConfig(cfg).AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String(e.Accounts[0].RoleARN(simaws.AdminRole)), RoleSessionName: aws.String("run")})
		return out
	}
	const no = "UnauthorizedOperation"
	for who, tc := range map[string]struct {
		cfg  aws.Config
		want map[string]string
	}{
		"the role under the server's policy": {as(0), map[string]string{"entries": no, "snapshots": no, "metrics": "AccessDenied", "role": "AccessDenied"}},
		"the role that has its own, too":     {as(1), map[string]string{"groups": no, "default": no, "entries": no, "snapshots": no, "metrics": "AccessDenied", "role": "AccessDenied"}},
		"the user that may only assume":      {w.as(e.Accounts[2], "us-east-1"), map[string]string{"volumes": no, "groups": no, "default": no, "entries": no, "snapshots": no, "metrics": "AccessDenied"}},
		"the user without a policy":          {w.as(e.Accounts[0], "us-east-1"), map[string]string{"entries": "InvalidPrefixListID.NotFound"}},
	} {
		for call, err := range calls(tc.cfg) {
			if want := tc.want[call]; want == "" && err != nil || want != "" && code(err) != want {
				t.Errorf("%s, %s: %v, want %q", who, call, err, want)
			}
		}
	}
	errs := calls(as(0))
	for call, want := range map[string]string{
		"snapshots": "You are not authorized to perform this operation. User: arn:aws:sts::" + e.Accounts[1].ID + ":assumed-role/NightshiftReadOnly/run is not authorized to perform: ec2:DescribeSnapshots with an explicit deny in an identity-based policy",
		"entries":   "is not authorized to perform: ec2:GetManagedPrefixListEntries because no identity-based policy allows the ec2:GetManagedPrefixListEntries action",
		"metrics":   "is not authorized to perform: cloudwatch:ListMetrics because no identity-based policy allows the cloudwatch:ListMetrics action",
		"role":      "is not authorized to perform: sts:AssumeRole on resource: " + e.Accounts[0].RoleARN(simaws.AdminRole),
	} {
		if !strings.Contains(errs[call].Error(), want) {
			t.Errorf("%s: %v, want %q", call, errs[call], want)
		}
	}

	for text, want := range map[string]string{
		`{"Version":"2008-10-17"}`: "2012-10-17",
		`{"Version":"2012-10-17","Statement":[{"Effect":"Perhaps","Action":"ec2:*","Resource":"*"}]}`:                                              "Allow or Deny",
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Resource":"*"}]}`:                                                                 "no action",
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"DescribeVolumes","Resource":"*"}]}`:                                      "not like",
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:*","Resource":"arn:aws:ec2:*:*:volume/*"}]}`:                         "resource",
		`{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"ec2:*","Resource":"*","Condition":{"Bool":{"aws:SecureTransport":1}}}]}`: "Condition",
	} {
		writeFile(t, path, []byte(text))
		if _, err := simaws.LoadPolicy(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// Who terminates an instance is left with its further interfaces, and with its addresses.
func TestTerminateLetsGo(t *testing.T) {
	t.Parallel()
	r := &simaws.Region{Name: "us-east-1",
		Instances:  []simaws.Instance{{ID: "i-1", State: "running", Type: "t3.micro", Zone: "us-east-1a", PublicIP: "3.3.3.3", Created: now.Add(-day), Launched: now.Add(-day)}},
		Subnets:    []simaws.Subnet{{ID: "subnet-1", VPC: "vpc-1", Zone: "us-east-1a"}},
		Interfaces: []simaws.Interface{{ID: "eni-1", Subnet: "subnet-1", Instance: "i-1"}, {ID: "eni-2", Subnet: "subnet-1", Instance: "i-1", Device: 1}},
		Addresses:  []simaws.Address{{Allocation: "eipalloc-1", PublicIP: "44.0.0.1", Instance: "i-1"}, {Allocation: "eipalloc-2", PublicIP: "44.0.0.2", Interface: "eni-2"}}}
	w := serve(t, loaded(r), simaws.Config{NoQuotas: true})
	c := w.ec2(w.management(), "us-east-1")
	public := func() string {
		return *allInstances(t, c, ec2.DescribeInstancesInput{})[0].PublicIpAddress
	}
	if ip := public(); ip != "44.0.0.1" {
		t.Errorf("its Elastic IP replaces the subnet's address; it shows %s", ip)
	}
	if err := w.estate.Terminate("i-1", now); err != nil {
		t.Fatal(err)
	}
	nics := collect(t, ec2.NewDescribeNetworkInterfacesPaginator(c, &ec2.DescribeNetworkInterfacesInput{}), nicPages)
	if len(nics) != 1 || *nics[0].NetworkInterfaceId != "eni-2" || nics[0].Status != "available" || *nics[0].Association.PublicIp != "44.0.0.2" {
		t.Errorf("interfaces: %+v", nics)
	}
	out, err := c.DescribeAddresses(t.Context(), nil)
	if err != nil || out.Addresses[0].AssociationId != nil || out.Addresses[1].InstanceId != nil || *out.Addresses[1].NetworkInterfaceId != "eni-2" {
		t.Errorf("addresses: %+v, %v", out, err)
	}
	for _, truth := range w.estate.Truth() {
		if truth.RuleID == "eip-unassociated" && truth.Outcome != simaws.Violation {
			t.Errorf("%s: %s", truth.ResourceID, truth.Outcome)
		}
	}
	if err := w.estate.Validate(); err != nil {
		t.Error(err)
	}
}
