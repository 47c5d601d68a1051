package inventory_test

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/inventory"
)

// filtered are the values of the first filter, and its name.
func filtered(form url.Values) (name string, values []string) {
	for n := 1; form.Has(fmt.Sprintf("Filter.1.Value.%d", n)); n++ {
		values = append(values, form.Get(fmt.Sprintf("Filter.1.Value.%d", n)))
	}
	return form.Get("Filter.1.Name"), values
}

func response(form url.Values, set, items, token string) string {
	a := form.Get("Action")
	if token != "" {
		token = "<nextToken>" + token + "</nextToken>"
	}
	return "<" + a + "Response><" + set + ">" + items + "</" + set + ">" + token + "</" + a + "Response>"
}

func TestSecurityGroups(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.ec2 = func(form url.Values) string {
		return response(form, "securityGroupInfo", `<item><ownerId>111122223333</ownerId><groupId>sg-1</groupId><groupName>web</groupName><groupDescription>d</groupDescription>
			<vpcId>vpc-1</vpcId><ipPermissions>
			<item><ipProtocol>tcp</ipProtocol><fromPort>22</fromPort><toPort>23</toPort><groups><item><groupId>sg-2</groupId></item></groups>
				<ipRanges><item><cidrIp>10.0.0.0/8</cidrIp></item><item><cidrIp>0.0.0.0/0</cidrIp></item></ipRanges>
				<ipv6Ranges><item><cidrIpv6>::/0</cidrIpv6></item></ipv6Ranges><prefixListIds><item><prefixListId>pl-1</prefixListId></item></prefixListIds></item>
			<item><ipProtocol>-1</ipProtocol></item></ipPermissions>
			<ipPermissionsEgress><item><ipProtocol>-1</ipProtocol></item></ipPermissionsEgress><tagSet><item><key>Owner</key><value>x</value></item></tagSet></item>
			<item><ownerId>999988887777</ownerId><groupId>sg-shared</groupId></item><item><groupId>sg-3</groupId></item>`, "")
	}
	gs, _ := list(t, w.Session, inventory.SecurityGroups)
	if len(gs) != 2 || gs[1].ID != "sg-3" {
		t.Fatalf("listed %+v", gs)
	}
	g := gs[0]
	if g.ARN != "arn:aws:ec2:us-east-1:111122223333:security-group/sg-1" || g.GroupName != "web" || g.VPCID != "vpc-1" || g.Tags["Owner"] != "x" || len(g.Ingress) != 2 {
		t.Fatalf("%+v", *g)
	}
	p, all := g.Ingress[0], g.Ingress[1]
	if p.Protocol != "tcp" || *p.From != 22 || *p.To != 23 || !slices.Equal(p.CIDRs, []string{"10.0.0.0/8", "0.0.0.0/0", "::/0"}) ||
		!slices.Equal(p.PrefixLists, []string{"pl-1"}) || !slices.Equal(p.Groups, []string{"sg-2"}) {
		t.Errorf("%+v", p)
	}
	if all.Protocol != "-1" || all.From != nil || all.To != nil {
		t.Errorf("%+v", all)
	}

	w.ec2 = func(form url.Values) string {
		return response(form, "securityGroupInfo", "<item><groupName>web</groupName></item>", "")
	}
	err := inventory.SecurityGroups.List(t.Context(), w.Session, func([]inventory.SecurityGroup) error { return nil })
	if aws.Classify(err) != aws.Failed || !strings.Contains(err.Error(), "without an id") {
		t.Errorf("a group without an id: %v", err)
	}
}

// A list is read in the version it has, all pages, once in a session; one that
// fails leaves the others alone, and AWS's own are not read at all.
func TestPrefixLists(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	entries := map[string]int{}
	w.ec2 = func(form url.Values) string {
		if form.Get("Action") == "DescribeManagedPrefixLists" {
			name, ids := filtered(form)
			if name != "prefix-list-id" || form.Has("PrefixListId.1") {
				t.Errorf("asked by %q, %v", name, form)
			}
			var b strings.Builder
			for _, id := range ids {
				owner := "111122223333"
				if id == "pl-aws" {
					owner = "AWS"
				}
				if id != "pl-none" {
					b.WriteString("<item><prefixListId>" + id + "</prefixListId><prefixListName>n-" + id + "</prefixListName><ownerId>" + owner + "</ownerId><version>4</version></item>")
				}
			}
			return response(form, "prefixListSet", b.String(), "")
		}
		id := form.Get("PrefixListId")
		entries[id]++
		if form.Get("TargetVersion") != "4" {
			t.Errorf("asked for version %q of %s", form.Get("TargetVersion"), id)
		}
		if id == "pl-bad" {
			return "<garbage"
		}
		if form.Get("NextToken") == "" {
			return response(form, "entrySet", "<item><cidr>10.0.0.0/8</cidr></item>", "more")
		}
		return response(form, "entrySet", "<item><cidr>11.0.0.0/8</cidr></item>", "")
	}
	group := func(lists ...string) *inventory.SecurityGroup {
		return &inventory.SecurityGroup{Ingress: []inventory.Permission{{PrefixLists: lists}, {PrefixLists: []string{""}}}}
	}
	gs := []*inventory.SecurityGroup{group("pl-1", "pl-aws"), group("pl-bad", "pl-1"), group("pl-none"), group()}
	fill(t, w.Session, inventory.SecurityGroupPrefixLists, gs)
	fill(t, w.Session, inventory.SecurityGroupPrefixLists, gs)
	for _, g := range gs[:2] {
		if f := g.PrefixLists["pl-1"]; !f.Known || f.Value.AWS || f.Value.Name != "n-pl-1" || !slices.Equal(f.Value.CIDRs, []string{"10.0.0.0/8", "11.0.0.0/8"}) {
			t.Errorf("pl-1: %+v", f)
		}
	}
	if f := gs[0].PrefixLists["pl-aws"]; !f.Known || !f.Value.AWS || f.Value.CIDRs != nil {
		t.Errorf("pl-aws: %+v", f)
	}
	if f := gs[1].PrefixLists["pl-bad"]; !f.Failed || !strings.Contains(f.Why, "ec2:GetManagedPrefixListEntries") {
		t.Errorf("pl-bad: %+v", f)
	}
	if f := gs[2].PrefixLists["pl-none"]; f.Known || f.Failed || !strings.Contains(f.Why, "pl-none") {
		t.Errorf("pl-none: %+v", f)
	}
	if len(gs[3].PrefixLists) != 0 || entries["pl-1"] != 2 || entries["pl-aws"] != 0 {
		t.Errorf("%v, %+v", entries, gs[3].PrefixLists)
	}
}

// public is an instance with a public address on one interface.
func public(id, subnet, vpc string, groups ...string) *inventory.Instance {
	return &inventory.Instance{
		Resource: inventory.Resource{ID: id},
		Interfaces: []inventory.Interface{
			{ID: "eni-0", SubnetID: "subnet-inside", VPCID: vpc, GroupIDs: []string{"sg-inside"}},
			{ID: "eni-1", Index: 1, SubnetID: subnet, VPCID: vpc, GroupIDs: groups, PublicIPv4: []inventory.PublicIPv4{{IP: "198.51.100.1"}}},
		},
	}
}

func TestRoutes(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	calls := 0
	w.ec2 = func(form url.Values) string {
		calls++
		if form.Get("NextToken") == "" {
			return response(form, "routeTableSet", `
				<item><routeTableId>rtb-main</routeTableId><vpcId>vpc-1</vpcId><routeSet><item><destinationIpv6CidrBlock>::/0</destinationIpv6CidrBlock><gatewayId>igw-6</gatewayId><state>active</state></item></routeSet>
					<associationSet><item><main>true</main></item></associationSet></item>
				<item><routeTableId>rtb-own</routeTableId><vpcId>vpc-1</vpcId><routeSet>
					<item><destinationCidrBlock>10.0.0.0/16</destinationCidrBlock><gatewayId>local</gatewayId><state>active</state></item>
					<item><destinationCidrBlock>0.0.0.0/0</destinationCidrBlock><gatewayId>igw-4</gatewayId><state>active</state></item></routeSet>
					<associationSet><item><subnetId>subnet-own</subnetId><associationState><state>associated</state></associationState></item>
					<item><subnetId>subnet-left</subnetId><associationState><state>disassociated</state></associationState></item>
					<item><gatewayId>igw-4</gatewayId></item></associationSet></item>`, "more")
		}
		return response(form, "routeTableSet", `
			<item><routeTableId>rtb-black</routeTableId><vpcId>vpc-1</vpcId><routeSet><item><destinationCidrBlock>0.0.0.0/0</destinationCidrBlock><gatewayId>igw-9</gatewayId><state>blackhole</state></item></routeSet>
				<associationSet><item><subnetId>subnet-black</subnetId></item></associationSet></item>
			<item><routeTableId>rtb-list</routeTableId><vpcId>vpc-1</vpcId><routeSet><item><destinationPrefixListId>pl-1</destinationPrefixListId><gatewayId>igw-7</gatewayId></item></routeSet>
				<associationSet><item><subnetId>subnet-list</subnetId></item></associationSet></item>
			<item><routeTableId>rtb-nat</routeTableId><vpcId>vpc-1</vpcId><routeSet><item><destinationCidrBlock>0.0.0.0/0</destinationCidrBlock><natGatewayId>nat-1</natGatewayId></item>
				<item><destinationIpv6CidrBlock>::/0</destinationIpv6CidrBlock><egressOnlyInternetGatewayId>eigw-1</egressOnlyInternetGatewayId></item></routeSet>
				<associationSet><item><subnetId>subnet-nat</subnetId></item></associationSet></item><item/>`, "")
	}
	want := map[string]inventory.Routes{
		"subnet-own":   {Table: "rtb-own", GatewayIPv4: "igw-4"},
		"subnet-left":  {Table: "rtb-main", Main: true, GatewayIPv6: "igw-6"},
		"subnet-any":   {Table: "rtb-main", Main: true, GatewayIPv6: "igw-6"},
		"subnet-black": {Table: "rtb-black"},
		"subnet-list":  {Table: "rtb-list", GatewayIPv4: "igw-7", GatewayIPv6: "igw-7"},
		"subnet-nat":   {Table: "rtb-nat"},
	}
	var is []*inventory.Instance
	for subnet := range want {
		is = append(is, public("i-"+subnet, subnet, "vpc-1"))
	}
	is = append(is, public("i-elsewhere", "subnet-elsewhere", "vpc-2"))
	fill(t, w.Session, inventory.InstanceRoutes, is)
	fill(t, w.Session, inventory.InstanceRoutes, is)
	for _, i := range is {
		subnet := strings.TrimPrefix(i.ID, "i-")
		subnet = map[bool]string{true: subnet, false: "subnet-elsewhere"}[subnet != "elsewhere"]
		f, ok := i.Routes[subnet]
		w, known := want[subnet]
		if !ok || f.Known != known || f.Value != w || !known && f.Why == "" {
			t.Errorf("%s: %+v, want %+v", subnet, f, w)
		}
		if _, ok := i.Routes["subnet-inside"]; ok {
			t.Errorf("%s: the route of its private interface was asked for", i.ID)
		}
	}
	if calls != 2 {
		t.Errorf("%d calls", calls)
	}
}

// The groups of public interfaces, each once, of another account too.
func TestInstanceGroups(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	asked := map[string]int{}
	w.ec2 = func(form url.Values) string {
		_, ids := filtered(form)
		var b strings.Builder
		for _, id := range ids {
			asked[id]++
			if id != "sg-none" {
				b.WriteString("<item><ownerId>999988887777</ownerId><groupId>" + id + "</groupId><groupName>" + id + "</groupName></item>")
			}
		}
		return response(form, "securityGroupInfo", b.String(), "")
	}
	is := []*inventory.Instance{public("i-1", "s", "v", "sg-1", "sg-2"), public("i-2", "s", "v", "sg-2", "sg-none")}
	fill(t, w.Session, inventory.InstanceGroups, is)
	fill(t, w.Session, inventory.InstanceGroups, is)
	if f := is[0].Groups["sg-1"]; !f.Known || f.Value.GroupName != "sg-1" || f.Value.Account != "999988887777" {
		t.Errorf("%+v", f)
	}
	if f := is[1].Groups["sg-none"]; f.Known || f.Failed {
		t.Errorf("%+v", f)
	}
	if len(is[0].Groups) != 2 || asked["sg-2"] != 1 || asked["sg-inside"] != 0 {
		t.Errorf("%v, %+v", asked, is[0].Groups)
	}
}

func TestPublicAddressesOfInterfaces(t *testing.T) {
	t.Parallel()
	for ip, want := range map[string]bool{"2600:1f18::1": true, "2001:db8::1": true, "fd00::1": false, "fe80::1": false, "::1": false, "x": false, "4000::1": false} {
		n := inventory.Interface{IPv6: []string{ip}}
		if n.Public() != want {
			t.Errorf("%s is public: %v", ip, n.Public())
		}
	}
}

// Addresses that only the instance itself shows are those of its primary
// interface, and those an interface shows are not told twice.
func TestAddressesOnTheInstanceItself(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	const top = "<privateIpAddress>10.0.0.1</privateIpAddress><ipAddress>198.51.100.1</ipAddress><ipv6Address>2600::1</ipv6Address>"
	item := func(id, more string) string {
		return "<item><instancesSet><item><instanceId>" + id + "</instanceId><subnetId>s</subnetId><vpcId>v</vpcId><groupSet><item><groupId>sg-1</groupId></item></groupSet>" + top + more + "</item></instancesSet></item>"
	}
	w.ec2 = func(form url.Values) string {
		return response(form, "reservationSet", item("i-bare", "")+
			item("i-full", `<networkInterfaceSet><item><networkInterfaceId>eni-2</networkInterfaceId><attachment><deviceIndex>1</deviceIndex></attachment></item>
				<item><networkInterfaceId>eni-1</networkInterfaceId><attachment><deviceIndex>0</deviceIndex></attachment><association><publicIp>198.51.100.1</publicIp></association>
				<ipv6AddressesSet><item><ipv6Address>2600::1</ipv6Address></item></ipv6AddressesSet></item></networkInterfaceSet>`)+
			item("i-half", `<networkInterfaceSet><item><networkInterfaceId>eni-2</networkInterfaceId><attachment><deviceIndex>1</deviceIndex></attachment></item>
				<item><networkInterfaceId>eni-1</networkInterfaceId><attachment><deviceIndex>0</deviceIndex></attachment></item></networkInterfaceSet>`), "")
	}
	is, _ := list(t, w.Session, inventory.Instances)
	for k, want := range []struct {
		interfaces, primary int
		eni                 string
	}{{1, 0, ""}, {2, 1, "eni-1"}, {2, 1, "eni-1"}} {
		i := is[k]
		if len(i.Interfaces) != want.interfaces {
			t.Errorf("%s has interfaces %+v", i.ID, i.Interfaces)
			continue
		}
		n := i.Interfaces[want.primary]
		if n.ID != want.eni || len(n.PublicIPv4) != 1 || n.PublicIPv4[0].IP != "198.51.100.1" || !slices.Equal(n.IPv6, []string{"2600::1"}) {
			t.Errorf("%s: %+v", i.ID, n)
		}
	}
	if n := is[0].Interfaces[0]; n.SubnetID != "s" || n.VPCID != "v" || !slices.Equal(n.GroupIDs, []string{"sg-1"}) || !slices.Equal(n.PrivateIPv4, []string{"10.0.0.1"}) {
		t.Errorf("%+v", n)
	}
}
