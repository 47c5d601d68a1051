package security

import (
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// The words in which examples describe their resources. scan.ExampleTime is
// their present.

const exampleAccount = "123456789012"

// example is a time in an example.
func example(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		panic(err)
	}
	return t
}

// exampleResource is the common part of an example's resource.
func exampleResource(typ, kind, id, created string) inventory.Resource {
	r := inventory.Resource{
		ARN: "arn:aws:ec2:us-east-1:" + exampleAccount + ":" + kind + "/" + id, ID: id, Type: typ, Account: exampleAccount, Region: "us-east-1",
	}
	if created != "" {
		r.Created = example(created)
	}
	return r
}

func apply[T any](t T, with []func(*T)) T {
	for _, f := range with {
		f(&t)
	}
	return t
}

// known is a fact that was read.
func known[T any](v T, source string) rule.Fact[T] { return rule.Known(v, source, scan.ExampleTime) }

// denied is a fact that may not be read.
func denied[T any](source string) rule.Fact[T] {
	return rule.Fact[T]{Failed: true, Source: source, Why: source + " is denied (UnauthorizedOperation): no identity-based policy allows it"}
}

// groupExample is a security group that the interface of an instance has, as
// far as with does not say otherwise.
func groupExample(with ...func(*inventory.SecurityGroup)) inventory.SecurityGroup {
	return apply(inventory.SecurityGroup{
		Resource:  exampleResource("AWS::EC2::SecurityGroup", "security-group", "sg-0123456789abcdef0", ""),
		GroupName: "web", VPCID: "vpc-0123456789abcdef0",
		Interfaces: known([]inventory.NetworkInterface{{
			ID: "eni-0123456789abcdef0", InterfaceType: "interface", Status: "in-use", InstanceID: "i-0123456789abcdef0",
			GroupIDs: []string{"sg-0123456789abcdef0"}, PublicIPv4: []string{"198.51.100.7"},
		}}, describeInterfaces),
	}, with)
}

// ingress adds a permission, and the rules of it with ids sgr-a, sgr-b, …
func ingress(protocol string, from, to int, peers ...string) func(*inventory.SecurityGroup) {
	return permission(inventory.Ports{Protocol: protocol, From: &from, To: &to}, peers...)
}

// allTraffic adds a permission for every protocol, which AWS tells without
// ports.
func allTraffic(peers ...string) func(*inventory.SecurityGroup) {
	return permission(inventory.Ports{Protocol: "-1"}, peers...)
}

func permission(ports inventory.Ports, peers ...string) func(*inventory.SecurityGroup) {
	return func(g *inventory.SecurityGroup) {
		p := inventory.Permission{Ports: ports}
		for _, peer := range peers {
			r := inventory.SecurityGroupRule{ID: "sgr-" + string(rune('a'+len(g.Rules.Value))), Ports: ports}
			switch peer[:3] {
			case "pl-":
				r.PrefixList = peer
				p.PrefixLists = append(p.PrefixLists, peer)
			case "sg-":
				r.Group = peer
				p.Groups = append(p.Groups, peer)
			default:
				r.CIDR = peer
				p.CIDRs = append(p.CIDRs, peer)
			}
			g.Rules = known(append(g.Rules.Value, r), describeGroupRules)
		}
		g.Ingress = append(g.Ingress, p)
	}
}

func prefixList(id string, cidrs ...string) func(*inventory.SecurityGroup) {
	return listFact(id, known(inventory.PrefixList{ID: id, Name: "offices", Version: 3, CIDRs: cidrs}, describePrefixLists))
}

func awsPrefixList(id, name string) func(*inventory.SecurityGroup) {
	return listFact(id, known(inventory.PrefixList{ID: id, Name: name, AWS: true}, describePrefixLists))
}

func listFact(id string, f rule.Fact[inventory.PrefixList]) func(*inventory.SecurityGroup) {
	return func(g *inventory.SecurityGroup) {
		if g.PrefixLists == nil {
			g.PrefixLists = map[string]rule.Fact[inventory.PrefixList]{}
		}
		g.PrefixLists[id] = f
	}
}

func unattached(g *inventory.SecurityGroup) {
	g.Interfaces = known([]inventory.NetworkInterface{}, describeInterfaces)
}

func groupTags(tags map[string]string) func(*inventory.SecurityGroup) {
	return func(g *inventory.SecurityGroup) { g.Tags = tags }
}

// instanceExample is a running instance without a public address.
func instanceExample(with ...func(*inventory.Instance)) inventory.Instance {
	r := exampleResource("AWS::EC2::Instance", "instance", "i-0123456789abcdef0", "2026-05-01 09:00")
	r.Zone = "us-east-1a"
	return apply(inventory.Instance{
		Resource: r, State: "running", Launched: r.Created, InstanceType: "m5.large", ImageID: "ami-0123456789abcdef0",
		Interfaces: []inventory.Interface{{
			ID: "eni-0123456789abcdef0", SubnetID: "subnet-a", VPCID: "vpc-a", GroupIDs: []string{"sg-a"}, PrivateIPv4: []string{"10.0.0.10"},
		}},
	}, with)
}

func inState(state string) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.State = state }
}

func instanceTags(pairs ...string) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.Tags = tagMap(pairs) }
}

// tagMap makes tags of keys and values.
func tagMap(pairs []string) map[string]string {
	m := map[string]string{}
	for k := 0; k+1 < len(pairs); k += 2 {
		m[pairs[k]] = pairs[k+1]
	}
	return m
}

// address gives the primary interface a public address, IPv4 or IPv6.
func address(ips ...string) func(*inventory.Instance) {
	return func(i *inventory.Instance) { giveAddress(&i.Interfaces[0], ips) }
}

func giveAddress(n *inventory.Interface, ips []string) {
	for _, ip := range ips {
		if familyOf(mustAddr(ip)) == ipv4 {
			n.PublicIPv4 = append(n.PublicIPv4, inventory.PublicIPv4{IP: ip})
		} else {
			n.IPv6 = append(n.IPv6, ip)
		}
	}
}

// secondInterface adds an interface in another subnet with another group.
func secondInterface(subnet, group string, ips ...string) func(*inventory.Instance) {
	return func(i *inventory.Instance) {
		n := inventory.Interface{ID: "eni-second", Index: 1, SubnetID: subnet, VPCID: "vpc-a", GroupIDs: []string{group}}
		giveAddress(&n, ips)
		i.Interfaces = append(i.Interfaces, n)
	}
}

// group says what a group of the instance lets in.
func group(id string, with ...func(*inventory.SecurityGroup)) func(*inventory.Instance) {
	return func(i *inventory.Instance) {
		g := inventory.SecurityGroup{Resource: exampleResource("AWS::EC2::SecurityGroup", "security-group", id, "")}
		groupFact(id, known(apply(g, with), describeGroups))(i)
	}
}

func groupFact(id string, f rule.Fact[inventory.SecurityGroup]) func(*inventory.Instance) {
	return func(i *inventory.Instance) {
		if i.Groups == nil {
			i.Groups = map[string]rule.Fact[inventory.SecurityGroup]{}
		}
		i.Groups[id] = f
	}
}

// routed says where the route table of a subnet leads.
func routed(subnet string, r inventory.Routes) func(*inventory.Instance) {
	return routeFact(subnet, known(r, describeRouteTables))
}

func routeFact(subnet string, f rule.Fact[inventory.Routes]) func(*inventory.Instance) {
	return func(i *inventory.Instance) {
		if i.Routes == nil {
			i.Routes = map[string]rule.Fact[inventory.Routes]{}
		}
		i.Routes[subnet] = f
	}
}

var (
	toInternet = inventory.Routes{Table: "rtb-public", GatewayIPv4: "igw-a", GatewayIPv6: "igw-a"}
	toNowhere  = inventory.Routes{Table: "rtb-private"}
)

// volumeExample is an unencrypted volume, attached to nothing.
func volumeExample(with ...func(*inventory.Volume)) inventory.Volume {
	return apply(inventory.Volume{
		Resource: exampleResource("AWS::EC2::Volume", "volume", "vol-0123456789abcdef0", "2026-02-03 04:05"),
		State:    "available", VolumeType: "gp3", SizeGiB: 100,
	}, with)
}

func attachedTo(instance string) func(*inventory.Volume) {
	return func(v *inventory.Volume) {
		v.State = "in-use"
		v.Attachments = []inventory.Attachment{{InstanceID: instance, Device: "/dev/sdf", State: "attached", At: example("2026-02-03 04:06")}}
	}
}

func byDefault(on bool) func(*inventory.Volume) {
	return func(v *inventory.Volume) { v.EncryptionByDefault = known(on, "ec2:GetEbsEncryptionByDefault") }
}

func createdAt(at string) func(*inventory.Volume) {
	return func(v *inventory.Volume) { v.Created = example(at) }
}

// image says what the account sees of the image: created, deprecated (empty
// for never) and its state.
func image(created, deprecated, state string) func(*inventory.Instance) {
	return func(i *inventory.Instance) {
		i.Image = known(imageValue(i.ImageID, created, deprecated, state), describeImages)
	}
}

// noImage says that the account does not see the image.
func noImage(i *inventory.Instance) {
	i.Image = rule.Fact[inventory.Image]{Source: describeImages, At: scan.ExampleTime, Why: describeImages + " does not show " + i.ImageID}
}

func metadata(created, deprecated, state string) func(*inventory.Instance) {
	return func(i *inventory.Instance) {
		i.ImageMetadata = known(imageValue(i.ImageID, created, deprecated, state), describeImageMetadata)
	}
}

func noMetadata(i *inventory.Instance) {
	i.ImageMetadata = rule.Fact[inventory.Image]{Source: describeImageMetadata, At: scan.ExampleTime, Why: describeImageMetadata + " does not show " + i.ImageID}
}

func imageValue(id, created, deprecated, state string) inventory.Image {
	m := inventory.Image{
		Resource:  inventory.Resource{ARN: "arn:aws:ec2:us-east-1::image/" + id, ID: id, Type: "AWS::EC2::Image", Account: exampleAccount, Region: "us-east-1"},
		ImageName: "base-2026", State: state, Owner: exampleAccount,
	}
	if created != "" {
		m.Created = example(created)
	}
	if deprecated != "" {
		m.Deprecated = example(deprecated)
	}
	return m
}
