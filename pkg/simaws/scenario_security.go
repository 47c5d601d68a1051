package simaws

import (
	"fmt"
	"strings"
	"time"
)

var unencryptedScenarios = []scenario{
	{name: "not encrypted, attached to nothing", outcome: Violation, severity: Medium, weight: 2, size: 1, play: loosely(disk("gp3", 100), plainText)},
	{name: "not encrypted, in use by a running instance", outcome: Violation, severity: High, weight: 4, size: 2, play: rooted("running", plainText)},
	{name: "not encrypted, attached to a stopped instance", outcome: Violation, severity: High, weight: 1, size: 2, play: rooted("stopped", plainText)},
	{name: "encrypted, in use", outcome: Compliant, size: 2, play: rooted("running", sealed)},
	{name: "encrypted, attached to nothing", outcome: Compliant, size: 1, play: loosely(disk("gp3", 100), sealed)},
	{name: "not encrypted, minutes old", outcome: NotApplicable, fleeting: true, size: 1, play: loosely(disk("gp3", 100), plainText, born(10*time.Minute))},
	{name: "boundary: not encrypted, exactly an hour old", outcome: Violation, severity: Medium, size: 1, play: loosely(disk("gp3", 100), plainText, born(grace))},
	{name: "not encrypted, being deleted", outcome: NotApplicable, size: 1, play: loosely(disk("gp3", 100), plainText, func(_ *generator, v *Volume) { v.State = "deleting" })},
}

// rooted is a server whose root volume is the subject.
func rooted(state string, change func(*generator, *Volume)) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		in := Instance{Tags: g.tags(p)}
		if state == "stopped" {
			stopped(0.5, 20, dated)(g, &in)
			in.Case = "stopped recently, dated"
		}
		v := &p.Volumes[g.launchOne(p, in)]
		v.Case = name
		change(g, v)
	}
}

// launchOne launches with one root volume and gives its index.
func (g *generator) launchOne(p *place, in Instance) int { return g.launch(p, in, g.root()) }

// served is what a public scenario changes: the instance, and its first interface.
type served struct {
	*generator
	p    *place
	in   *Instance
	nic  *Interface
	name string
}

// public is a scenario around an instance and its interfaces: a private server, whose group lets nobody in that matters.
func public(change func(s served)) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		in := Instance{Case: name, Tags: g.tags(p)}
		g.launchOne(p, in)
		s := served{g, p, &p.Instances[len(p.Instances)-1], &p.Interfaces[len(p.Interfaces)-1], name}
		s.nic.Groups = []string{s.guard("public", permit{"tcp", 443, 443, "0.0.0.0/0"}, permit{"tcp", 443, 443, "::/0"})}
		change(s)
	}
}

// guard makes a group of the scenario's own.
func (s served) guard(kind string, permits ...permit) string {
	return s.group(s.p, kind, fmt.Sprintf("%s-%s", pick(s.generator, "web", "api", "edge", "jump"), s.id("")[10:]), ownedTags(), permits...)
}

func ownedTags() []Tag {
	return []Tag{{"Owner", "ines.garcia@larkspur.example"}, {"Environment", "production"}, {"CostCenter", "CC-1200"}}
}

// in puts the first interface into a subnet of that kind, with a group that has those permits.
func (s served) place(kind string, permits ...permit) {
	s.nic.Subnet = s.p.subnetID(kind, s.in.Zone)
	if len(permits) > 0 {
		s.nic.Groups = []string{s.guard(kind, permits...)}
	}
}

// assign gives it a public address of the subnet.
func (s served) assign() { s.in.PublicIP = s.publicIP() }

// elastic puts an Elastic IP on a private address of an interface.
func (s served) elastic(n *Interface, private string) {
	s.address(s.p, false, s.in.Tags)
	a := &s.p.Addresses[len(s.p.Addresses)-1]
	a.Instance, a.Interface, a.Private = s.in.ID, n.ID, private
}

// second gives it a second interface in a subnet of that kind.
func (s served) second(kind string, permits ...permit) *Interface {
	s.p.Interfaces = append(s.p.Interfaces, Interface{ID: s.id("eni-"), Subnet: s.p.subnetID(kind, s.in.Zone), Groups: []string{s.guard(kind, permits...)}, Instance: s.in.ID, Device: 1, Attached: s.in.Launched})
	return &s.p.Interfaces[len(s.p.Interfaces)-1]
}

func (s served) stop() {
	stopped(0.5, 20, dated)(s.generator, s.in)
	s.in.Runs, s.in.Created = nil, s.in.Launched
}

func (s served) address6(prefix string) {
	s.nic.IPv6 = append(s.nic.IPv6, fmt.Sprintf("%s:%x:%x::%x", prefix, s.rng.IntN(1<<16), s.rng.IntN(1<<16), 1+s.rng.IntN(1<<16-1)))
}

// wearing is a public server with that tag.
func wearing(key, value string) func(*generator, *place, string) {
	return public(func(s served) {
		s.place("public")
		s.assign()
		s.in.Tags = with(s.in.Tags, Tag{key, strings.NewReplacer("TOMORROW", s.now.Add(day).Format(time.DateOnly), "YESTERDAY", s.now.Add(-day).Format(time.DateOnly)).Replace(value)})
	})
}

var (
	ssh  = permit{"tcp", 22, 22, "0.0.0.0/0"}
	ssh6 = permit{"tcp", 22, 22, "::/0"}
)

var publicScenarios = []scenario{
	{name: "no public address", outcome: Compliant, size: 2, play: public(func(served) {})},
	{name: "public by the subnet's address", outcome: Violation, severity: Medium, weight: 2, size: 2, play: public(func(s served) {
		s.place("public")
		s.assign()
	})},
	{name: "public by an Elastic IP", outcome: Violation, severity: Medium, size: 3, play: public(func(s served) {
		s.place("public")
		s.elastic(s.nic, "")
	})},
	{name: "public by an Elastic IP on a secondary address", outcome: Violation, severity: Medium, size: 3, play: public(func(s served) {
		s.place("public")
		s.nic.Secondary = []string{"10.127.3.4", "10.127.3.5"}
		s.elastic(s.nic, "10.127.3.5")
	})},
	{name: "public by its second interface, whose group is closed; the first one's is open", outcome: Violation, severity: Medium, size: 3, play: public(func(s served) {
		s.place("private", ssh)
		s.elastic(s.second("public", permit{"tcp", 443, 443, "0.0.0.0/0"}), "")
	})},
	{name: "public by its second interface, whose group is open and which is routed", outcome: Violation, severity: Critical, size: 3, play: public(func(s served) {
		s.elastic(s.second("public", ssh), "")
	})},
	{name: "public by a global IPv6 address", outcome: Violation, severity: Medium, weight: 1, size: 2, play: public(func(s served) {
		s.place("public")
		s.address6("2600:1f18")
	})},
	{name: "a private IPv6 address only", outcome: Compliant, size: 2, play: public(func(s served) { s.address6("fd00:ec2") })},
	{name: "public by IPv6, open, with no more than an egress-only gateway", outcome: Violation, severity: High, size: 2, play: public(func(s served) {
		s.place("egress", ssh, ssh6)
		s.address6("2600:1f18")
	})},
	{name: "public by IPv6, open and routed", outcome: Violation, severity: Critical, size: 2, play: public(func(s served) {
		s.place("public", ssh, ssh6)
		s.address6("2600:1f18")
	})},
	{name: "public, SSH open to the world, routed, running", outcome: Violation, severity: Critical, weight: 2, size: 2, play: public(func(s served) {
		s.place("public", ssh)
		s.assign()
	})},
	{name: "public, SSH open to the world, routed, stopped", outcome: Violation, severity: High, size: 3, play: public(func(s served) {
		s.place("public", ssh)
		s.stop()
		s.elastic(s.nic, "")
	})},
	{name: "public and open, its subnet falls back to its VPC's main table: a NAT gateway", outcome: Violation, severity: High, size: 3, play: public(func(s served) {
		s.place("private", ssh)
		s.elastic(s.nic, "")
	})},
	{name: "public and open, its subnet falls back to its VPC's main table: an internet gateway", outcome: Violation, severity: Critical, size: 3, play: public(func(s served) {
		s.place("legacy", ssh)
		s.elastic(s.nic, "")
	})},
	{name: "public and open, its subnet's own table has no gateway, its VPC's main table has", outcome: Violation, severity: High, size: 3, play: public(func(s served) {
		s.place("legacy-private", ssh)
		s.elastic(s.nic, "")
	})},
	{name: "public and open, the internet gateway of its route is gone", outcome: Violation, severity: High, size: 3, play: public(func(s served) {
		s.place("stranded", ssh)
		s.elastic(s.nic, "")
	})},
	{name: "public, a web alternate open to the world", outcome: Violation, severity: Critical, size: 2, play: public(func(s served) {
		s.place("public", permit{"tcp", 8080, 8080, "0.0.0.0/0"})
		s.assign()
	})},
	{name: "public, SSH open to a /8 only", outcome: Violation, severity: Medium, size: 2, play: public(func(s served) {
		s.place("public", permit{"tcp", 22, 22, "52.0.0.0/8"})
		s.assign()
	})},
	{name: "public and allowed to be, but its group is open: the exemption does not cover the group", outcome: Violation, severity: Critical, exempt: true, size: 2, play: public(func(s served) {
		s.place("public", ssh)
		s.assign()
		s.in.Tags = with(s.in.Tags, Tag{"public-allowed", "true"})
	})},
	{name: "allowed to be public, but not public", outcome: Compliant, size: 2, play: public(func(s served) { s.in.Tags = with(s.in.Tags, Tag{"public-allowed", "true"}) })},
	{name: "public, allowed by true", outcome: Violation, severity: Medium, exempt: true, weight: 1, size: 2, play: wearing("public-allowed", "true")},
	{name: "public, allowed by Yes", outcome: Violation, severity: Medium, exempt: true, size: 2, play: wearing("public-allowed", "Yes")},
	{name: "public, allowed by 1", outcome: Violation, severity: Medium, exempt: true, size: 2, play: wearing("public-allowed", "1")},
	{name: "public, allowed by ON", outcome: Violation, severity: Medium, exempt: true, size: 2, play: wearing("public-allowed", "ON")},
	{name: "public, allowed until tomorrow", outcome: Violation, severity: Medium, exempt: true, fleeting: true, size: 2, play: wearing("public-allowed", "until-TOMORROW")},
	{name: "public, allowed until yesterday", outcome: Violation, severity: Medium, size: 2, play: wearing("public-allowed", "until-YESTERDAY")},
	{name: "public, allowed until a date that does not exist", outcome: Violation, severity: Medium, size: 2, play: wearing("public-allowed", "until-2099-02-30")},
	{name: "public, public-allowed is false", outcome: Violation, severity: Medium, size: 2, play: wearing("public-allowed", "false")},
	{name: "public, public-allowed is no", outcome: Violation, severity: Medium, size: 2, play: wearing("public-allowed", "no")},
	{name: "public, public-allowed is 0", outcome: Violation, severity: Medium, size: 2, play: wearing("public-allowed", "0")},
	{name: "public, public-allowed is empty", outcome: Violation, severity: Medium, size: 2, play: wearing("public-allowed", "")},
	{name: "public, public-allowed is some other word", outcome: Violation, severity: Medium, size: 2, play: wearing("public-allowed", "approved")},
	{name: "public, the tag's key is in another case", outcome: Violation, severity: Medium, size: 2, play: wearing("Public-Allowed", "true")},
}

// open is a scenario around one security group, with an interface of a load balancer that uses it.
func open(permits ...permit) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		unused(permits...)(g, p, name)
		id := p.Groups[len(p.Groups)-1].ID
		p.Interfaces = append(p.Interfaces, Interface{ID: g.id("eni-"), Subnet: p.subnetID("private", g.zone(p)), Groups: []string{id}, Service: "amazon-elb",
			Description: "ELB app/" + p.Groups[len(p.Groups)-1].Name + "/" + g.id("")[1:]})
	}
}

// unused is the same without an interface.
func unused(permits ...permit) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		g.group(p, "public", fmt.Sprintf("%s-%s", pick(g, "legacy", "vendor", "migration", "test", "admin", "lab"), g.id("")[11:]), ownedTags(), permits...)
		p.Groups[len(p.Groups)-1].Case = name
	}
}

// allButOne are the ranges that make up IPv4 without 8.8.8.8.
func allButOne() (out []permit) {
	const skip = 8<<24 | 8<<16 | 8<<8 | 8
	for bits := 1; bits <= 32; bits++ {
		other := uint32(skip)>>(32-bits)<<(32-bits) ^ 1<<(32-bits)
		out = append(out, permit{"tcp", 22, 22, fmt.Sprintf("%d.%d.%d.%d/%d", other>>24, other>>16&255, other>>8&255, other&255, bits)})
	}
	return out
}

func each(protocol string, from, to int32, peers ...string) (out []permit) {
	for _, p := range peers {
		out = append(out, permit{protocol, from, to, p})
	}
	return out
}

var groupScenarios = []scenario{
	// The question: is tcp 22 open to the world?
	{name: "tcp 22 from 0.0.0.0/0", outcome: Violation, severity: Critical, weight: 1, play: open(ssh)},
	{name: "tcp 20-25 from ::/0", outcome: Violation, severity: Critical, play: open(permit{"tcp", 20, 25, "::/0"})},
	{name: "every protocol from 0.0.0.0/0", outcome: Violation, severity: Critical, play: open(permit{"-1", -1, -1, "0.0.0.0/0"})},
	{name: "tcp 22 from both halves of IPv4", outcome: Violation, severity: Critical, play: open(each("tcp", 22, 22, "0.0.0.0/1", "128.0.0.0/1")...)},
	{name: "tcp 22 from a prefix list that holds 0.0.0.0/0", outcome: Violation, severity: Critical, play: open(permit{"tcp", 22, 22, "list 0.0.0.0/0"})},
	{name: "tcp 1-65535 from 0.0.0.0/0", outcome: Violation, severity: Critical, play: open(permit{"tcp", 1, 65535, "0.0.0.0/0"})},
	{name: "protocol 6, 22, from 0.0.0.0/0", outcome: Violation, severity: Critical, play: open(permit{"6", 22, 22, "0.0.0.0/0"})},
	{name: "udp 22 from 0.0.0.0/0", outcome: Compliant, play: open(permit{"udp", 22, 22, "0.0.0.0/0"})},
	{name: "icmp type 0-40 from 0.0.0.0/0", outcome: Compliant, play: open(permit{"icmp", 0, 40, "0.0.0.0/0"})},
	{name: "every protocol from the group itself", outcome: Compliant, play: open(permit{"-1", -1, -1, "self"})},
	{name: "tcp 0-65535 from 10.0.0.0/8", outcome: Compliant, play: open(permit{"tcp", 0, 65535, "10.0.0.0/8"})},
	{name: "tcp 22 from 10.0.0.0/8", outcome: Compliant, play: open(permit{"tcp", 22, 22, "10.0.0.0/8"})},

	// Ports.
	{name: "tcp 80 and 443 from everywhere", outcome: Compliant, weight: 4, play: open(append(each("tcp", 443, 443, "0.0.0.0/0", "::/0"), each("tcp", 80, 80, "0.0.0.0/0", "::/0")...)...)},
	{name: "tcp without ports from 0.0.0.0/0: all of them", outcome: Violation, severity: Critical, play: open(permit{"tcp", missing, missing, "0.0.0.0/0"})},
	{name: "tcp -1 from 0.0.0.0/0: all of them", outcome: Violation, severity: Critical, play: open(permit{"tcp", -1, -1, "0.0.0.0/0"})},
	{name: "tcp 23 from 0.0.0.0/0: clear text", outcome: Violation, severity: High, play: open(permit{"tcp", 23, 23, "0.0.0.0/0"})},
	{name: "tcp 8080 from 0.0.0.0/0: a web alternate", outcome: Violation, severity: Medium, weight: 1, play: open(permit{"tcp", 8080, 8080, "0.0.0.0/0"})},
	{name: "tcp 8080 and 3306 from 0.0.0.0/0: the worst port counts", outcome: Violation, severity: Critical, play: open(permit{"tcp", 8080, 8080, "0.0.0.0/0"}, permit{"tcp", 3306, 3306, "0.0.0.0/0"})},
	{name: "tcp 5902 from 0.0.0.0/0: inside a range of sensitive ports", outcome: Violation, severity: Critical, play: open(permit{"tcp", 5902, 5902, "0.0.0.0/0"})},
	{name: "tcp 27016-27020 from ::/0: around a range of sensitive ports", outcome: Violation, severity: Critical, play: open(permit{"tcp", 27016, 27020, "::/0"})},
	{name: "udp 11211 from 0.0.0.0/0", outcome: Violation, severity: Critical, play: open(permit{"udp", 11211, 11211, "0.0.0.0/0"})},
	{name: "udp 161 from 0.0.0.0/0", outcome: Violation, severity: High, play: open(permit{"udp", 161, 161, "0.0.0.0/0"})},
	{name: "protocol 17, 69, from 0.0.0.0/0", outcome: Violation, severity: High, play: open(permit{"17", 69, 69, "0.0.0.0/0"})},
	{name: "tcp 161 from 0.0.0.0/0: SNMP is udp", outcome: Compliant, play: open(permit{"tcp", 161, 161, "0.0.0.0/0"})},
	{name: "protocol 50 from 0.0.0.0/0", outcome: Compliant, play: open(permit{"50", missing, missing, "0.0.0.0/0"})},
	{name: "icmpv6 from ::/0", outcome: Compliant, play: open(permit{"icmpv6", -1, -1, "::/0"})},
	{name: "no ingress at all", outcome: Compliant, weight: 1, play: open()},

	// Peers.
	{name: "tcp 22 from halves of IPv4 in rules with different ports", outcome: Violation, severity: Critical, play: open(permit{"tcp", 10, 22, "0.0.0.0/1"}, permit{"tcp", 22, 30, "128.0.0.0/1"})},
	{name: "tcp 10-21 and 22-30 from one half of IPv4 each: no port has both", outcome: Violation, severity: Medium, play: open(permit{"tcp", 10, 21, "0.0.0.0/1"}, permit{"tcp", 22, 30, "128.0.0.0/1"})},
	{name: "tcp 22 from one half, every protocol from the other", outcome: Violation, severity: Critical, play: open(permit{"tcp", 22, 22, "0.0.0.0/1"}, permit{"-1", -1, -1, "128.0.0.0/1"})},
	{name: "tcp 22 from half of IPv4 and half of IPv6: halves of different things", outcome: Violation, severity: Medium, play: open(permit{"tcp", 22, 22, "0.0.0.0/1"}, permit{"tcp", 22, 22, "2000::/4"})},
	{name: "tcp 22 from a prefix list and a rule that complete each other", outcome: Violation, severity: Critical, play: open(permit{"tcp", 22, 22, "list 0.0.0.0/2 64.0.0.0/2"}, permit{"tcp", 22, 22, "128.0.0.0/1"})},
	{name: "tcp 22 from a shared prefix list that holds ::/0", outcome: Violation, severity: Critical, play: open(permit{"tcp", 22, 22, "shared-list ::/0"})},
	{name: "tcp 22 from everything public, the private ranges left out", outcome: Violation, severity: Critical, play: open(each("tcp", 22, 22,
		"0.0.0.0/5", "8.0.0.0/7", "11.0.0.0/8", "12.0.0.0/6", "16.0.0.0/4", "32.0.0.0/3", "64.0.0.0/2", "128.0.0.0/1")...)},
	{name: "tcp 22 from 2000::/3: all that is public of IPv6", outcome: Violation, severity: Critical, play: open(permit{"tcp", 22, 22, "2000::/3"})},
	{name: "tcp 22 from everywhere but one address: wide, not the world", outcome: Violation, severity: Medium, play: open(allButOne()...)},
	{name: "tcp 22 from 52.0.0.0/8: wide", outcome: Violation, severity: Medium, play: open(permit{"tcp", 22, 22, "52.0.0.0/8"})},
	{name: "tcp 22 from two halves of a /8: wide together", outcome: Violation, severity: Medium, play: open(each("tcp", 22, 22, "52.0.0.0/9", "52.128.0.0/9")...)},
	{name: "tcp 22 from a /9: not wide", outcome: Compliant, play: open(permit{"tcp", 22, 22, "52.0.0.0/9"})},
	{name: "tcp 22 from an IPv6 /32: wide", outcome: Violation, severity: Medium, play: open(permit{"tcp", 22, 22, "2600:1f00::/32"})},
	{name: "tcp 22 from an IPv6 /33: not wide", outcome: Compliant, play: open(permit{"tcp", 22, 22, "2600:1f00::/33"})},
	{name: "tcp 22 from fc00::/7: private", outcome: Compliant, play: open(permit{"tcp", 22, 22, "fc00::/7"})},
	{name: "tcp 22 from every private range", outcome: Compliant, weight: 1, play: open(each("tcp", 22, 22, "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")...)},
	{name: "tcp 22 from another group", outcome: Compliant, weight: 1, play: open(permit{"tcp", 22, 22, "group"})},
	{name: "tcp 22 from an office address", outcome: Compliant, weight: 2, play: open(permit{"tcp", 22, 22, "198.35.26.96/32"})},
	{name: "tcp 22 from a prefix list whose earlier version held 0.0.0.0/0", outcome: Compliant, play: open(permit{"tcp", 22, 22, "old-list 0.0.0.0/0"})},
	{name: "tcp 22 from a prefix list that AWS manages", outcome: Compliant, play: open(permit{"tcp", 22, 22, "aws-list"})},
	{name: "tcp 22 from a prefix list that is shared no more", outcome: InsufficientData, play: open(permit{"tcp", 22, 22, "hidden-list 0.0.0.0/0"})},
	{name: "tcp 22 from a prefix list whose entries are denied", outcome: InsufficientData, play: open(permit{"tcp", 22, 22, "sealed-list 10.0.0.0/8"})},
	{name: "tcp 22 from 0.0.0.0/0 and from a prefix list that is shared no more: decided all the same", outcome: Violation, severity: Critical, play: open(ssh, permit{"tcp", 22, 22, "hidden-list"})},
	{name: "tcp 443 from a prefix list that is shared no more: decides nothing", outcome: Compliant, play: open(permit{"tcp", 443, 443, "hidden-list"})},

	// Nothing uses the group.
	{name: "tcp 22 from 0.0.0.0/0, unused", outcome: Violation, severity: High, weight: 1, play: unused(ssh)},
	{name: "tcp 21 from 0.0.0.0/0, unused", outcome: Violation, severity: Medium, play: unused(permit{"tcp", 21, 21, "0.0.0.0/0"})},
	{name: "tcp 8888 from 0.0.0.0/0, unused", outcome: Violation, severity: Low, play: unused(permit{"tcp", 8888, 8888, "0.0.0.0/0"})},
	{name: "tcp 22 from 10.0.0.0/8, unused", outcome: Compliant, play: unused(permit{"tcp", 22, 22, "10.0.0.0/8"})},
}

// booted is a scenario around an instance of an image of its own.
func booted(change func(g *generator, in *Instance, img *Image)) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		in := Instance{Case: name, Tags: g.tags(p)}
		img := Image{ID: g.id("ami-"), Name: "golden-" + g.id("")[10:], Owner: g.otherAccount(), Created: g.ago(20, 100), Tags: nil}
		change(g, &in, &img)
		in.Image = img.ID
		if img.Owner == "" {
			img.Tags = ownedTags()
		}
		p.Images = append(p.Images, img)
		if in.State == "terminated" {
			g.launch(p, in)
		} else {
			g.launchOne(p, in)
		}
	}
}

func aged(from, to float64) func(*generator, *Instance, *Image) {
	return func(g *generator, _ *Instance, img *Image) { img.Created = g.ago(from, to) }
}

var imageScenarios = []scenario{
	{name: "a recent image", outcome: Compliant, size: 2, play: booted(aged(20, 100))},
	{name: "an old image", outcome: Violation, severity: Low, weight: 2, size: 2, play: booted(aged(200, 700))},
	{name: "boundary: an image of exactly 180 days", outcome: Violation, severity: Low, size: 2, play: booted(func(g *generator, _ *Instance, img *Image) { img.Created = g.now.Add(-imageFor) })},
	{name: "boundary: an image four hours short of 180 days", outcome: Compliant, size: 2, play: booted(func(g *generator, _ *Instance, img *Image) { img.Created = g.now.Add(4*time.Hour - imageFor) })},
	{name: "an old image of a stopped instance", outcome: Violation, severity: Low, size: 2, play: booted(func(g *generator, in *Instance, img *Image) {
		img.Created = g.ago(300, 700)
		stopped(0.5, 20, dated)(g, in)
	})},
	{name: "an old image of a terminated instance", outcome: NotApplicable, size: 1, play: booted(func(g *generator, i *Instance, img *Image) {
		img.Created = g.ago(300, 700)
		in("terminated")(g, i)
	})},
	{name: "a recent image that is deprecated", outcome: Violation, severity: Medium, weight: 1, size: 2, play: booted(func(g *generator, _ *Instance, img *Image) { img.Deprecated = g.ago(2, 15) })},
	{name: "a recent image that will be deprecated", outcome: Compliant, size: 2, play: booted(func(g *generator, _ *Instance, img *Image) { img.Deprecated = g.ago(-60, -30) })},
	{name: "an old image that is deprecated, too", outcome: Violation, severity: Medium, size: 2, play: booted(func(g *generator, _ *Instance, img *Image) {
		img.Created, img.Deprecated = g.ago(300, 700), g.ago(20, 100)
	})},
	{name: "our own image, disabled", outcome: Violation, severity: Medium, size: 2, play: booted(func(_ *generator, _ *Instance, img *Image) { img.Owner, img.State = "", "disabled" })},
	{name: "our own image, deregistered", outcome: Violation, severity: Medium, weight: 1, size: 2, play: booted(func(_ *generator, _ *Instance, img *Image) { img.Owner, img.State = "", "deregistered" })},
	{name: "another's image, old and deregistered", outcome: Violation, severity: Medium, size: 2, play: booted(func(g *generator, _ *Instance, img *Image) {
		img.Created, img.State = g.ago(300, 700), "deregistered"
	})},
	{name: "an image that is not visible, its metadata tells it is recent", outcome: Compliant, size: 2, play: booted(func(_ *generator, _ *Instance, img *Image) { img.Hidden = true })},
	{name: "an image that is not visible, its metadata tells it is old", outcome: Violation, severity: Low, size: 2, play: booted(func(g *generator, _ *Instance, img *Image) { img.Hidden, img.Created = true, g.ago(300, 700) })},
	{name: "an image that is not visible, its metadata is empty", outcome: InsufficientData, size: 2, play: booted(func(_ *generator, _ *Instance, img *Image) { img.Hidden, img.Nameless = true, true })},
}

var fullTags = []Tag{{"Owner", "maria.santos@larkspur.example"}, {"Environment", "production"}, {"CostCenter", "CC-4100"}}

// without are the required tags but one, and more.
func without(key string, more ...Tag) []Tag {
	var out []Tag
	for _, t := range fullTags {
		if t.Key != key {
			out = append(out, t)
		}
	}
	return append(out, more...)
}

func dressed(tags []Tag) func(*generator, *Instance) {
	return func(g *generator, in *Instance) { in.Tags, in.Launched = tags, g.ago(9, 200) }
}

func colored(tags []Tag) func(*generator, *Volume) {
	return func(_ *generator, v *Volume) { v.Tags = tags }
}

// picture is one of the account's own images, with nothing behind it.
func picture(tags []Tag, ago time.Duration) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		p.Images = append(p.Images, Image{ID: g.id("ami-"), Name: "appliance-" + g.id("")[10:], Created: g.now.Add(-ago), Tags: tags, Case: name})
	}
}

func guarded(tags []Tag) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		open(permit{"tcp", 443, 443, "10.0.0.0/8"})(g, p, name)
		p.Groups[len(p.Groups)-1].Tags = tags
	}
}

func reserved(tags []Tag) func(*generator, *place, string) {
	return func(g *generator, p *place, name string) {
		g.address(p, false, tags)
		p.Addresses[len(p.Addresses)-1].Case = name
	}
}

var tagScenarios = []scenario{
	{name: "an instance with every tag", outcome: Compliant, size: 2, play: machine(dressed(fullTags))},
	{name: "an instance without Owner", outcome: Violation, severity: Low, size: 2, play: machine(dressed(without("Owner", Tag{"Name", "stray"})))},
	{name: "an instance without any tag", outcome: Violation, severity: Low, size: 2, play: machine(dressed([]Tag{}))},
	{name: "an instance whose Owner is empty", outcome: Violation, severity: Low, size: 2, play: machine(dressed(without("Owner", Tag{"Owner", ""})))},
	{name: "an instance whose CostCenter is blank", outcome: Violation, severity: Low, size: 2, play: machine(dressed(without("CostCenter", Tag{"CostCenter", " \t "})))},
	{name: "an instance with owner for Owner: case matters", outcome: Violation, severity: Low, size: 2, play: machine(dressed(without("Owner", Tag{"owner", "maria.santos@larkspur.example"})))},
	{name: "an instance with Cost-Center for CostCenter", outcome: Violation, severity: Low, size: 2, play: machine(dressed(without("CostCenter", Tag{"Cost-Center", "CC-4100"})))},
	{name: "an instance without tags, launched minutes ago", outcome: NotApplicable, fleeting: true, size: 2, play: machine(func(g *generator, in *Instance) {
		in.Tags, in.Launched = []Tag{}, g.now.Add(-10*time.Minute)
		in.Created = in.Launched
	})},
	{name: "an instance without tags, started again minutes ago: its root volume tells it is old", outcome: Violation, severity: Low, size: 2, play: machine(func(g *generator, in *Instance) {
		in.Tags, in.Launched = []Tag{}, g.now.Add(-10*time.Minute)
		in.Created = g.ago(50, 100)
		in.Runs = []Span{{in.Created, g.ago(2, 20)}}
	})},
	{name: "a terminated instance without tags", outcome: NotApplicable, size: 1, play: machine(func(g *generator, i *Instance) {
		in("terminated")(g, i)
		i.Tags = []Tag{}
	})},
	{name: "a volume with every tag", outcome: Compliant, size: 1, play: loosely(disk("gp3", 100), colored(fullTags))},
	{name: "a volume without Environment", outcome: Violation, severity: Low, size: 1, play: loosely(disk("gp3", 100), colored(without("Environment")))},
	{name: "a volume without tags, minutes old", outcome: NotApplicable, fleeting: true, size: 1, play: loosely(disk("gp3", 100), colored([]Tag{}), born(10*time.Minute))},
	{name: "a volume without tags, being deleted", outcome: NotApplicable, size: 1, play: loosely(disk("gp3", 100), colored([]Tag{}), func(_ *generator, v *Volume) { v.State = "deleting" })},
	{name: "a snapshot with every tag", outcome: Compliant, size: 2, play: saved(true, 2, 80, noting(func(s *Snapshot) { s.Tags = fullTags }))},
	{name: "a snapshot without CostCenter", outcome: Violation, severity: Low, size: 2, play: saved(true, 2, 80, noting(func(s *Snapshot) { s.Tags = without("CostCenter") }))},
	{name: "a snapshot without tags, minutes old", outcome: NotApplicable, fleeting: true, size: 2, play: saved(true, 2, 3, func(g *generator, _ *place, s *Snapshot) {
		s.Tags, s.Started = nil, g.now.Add(-10*time.Minute)
	})},
	{name: "a security group with every tag", outcome: Compliant, play: guarded(fullTags)},
	{name: "a security group without any tag", outcome: Violation, severity: Low, play: guarded(nil)},
	{name: "an image with every tag", outcome: Compliant, play: picture(fullTags, 30*day)},
	{name: "an image without Owner", outcome: Violation, severity: Low, play: picture(without("Owner"), 30*day)},
	{name: "an image without tags, minutes old", outcome: NotApplicable, fleeting: true, play: picture(nil, 10*time.Minute)},
	{name: "an address with every tag", outcome: Compliant, size: 1, play: reserved(fullTags)},
	{name: "an address without Environment", outcome: Violation, severity: Low, size: 1, play: reserved(without("Environment"))},
}
