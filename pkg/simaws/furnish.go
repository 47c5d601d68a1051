package simaws

import (
	"cmp"
	"strings"
)

// Subnets of a generated region, three of each kind. The main VPC's main route table leads to a NAT gateway and that of the legacy VPC to an internet
// gateway, so that it matters whose a subnet falls back to.
//
//	public          main VPC, own table: internet gateway for both families
//	private         main VPC, no table of its own
//	egress          main VPC, own table: NAT gateway, and an egress-only internet gateway for IPv6
//	stranded        main VPC, own table: its internet gateway is gone
//	legacy          legacy VPC, no table of its own
//	legacy-private  legacy VPC, own table without any gateway
var subnetKinds = []string{"public", "private", "egress", "stranded", "legacy", "legacy-private"}

func (p *place) subnetID(kind, zone string) string {
	return derived("subnet-", p.account.ID+kind+zone)
}

func (p *place) vpc(kind string) string {
	if strings.HasPrefix(kind, "legacy") {
		return derived("vpc-", p.account.ID+p.Name+"legacy")
	}
	return p.vpcID()
}

// furnish builds what is in a region before anybody launches anything.
func (g *generator) furnish(p *place) {
	p.EncryptionByDefault = g.chance(35)
	own := map[string][]string{}
	for _, kind := range subnetKinds {
		for _, zone := range []string{"a", "b", "c"} {
			s := Subnet{ID: p.subnetID(kind, p.Name+zone), VPC: p.vpc(kind), Zone: p.Name + zone}
			p.Subnets = append(p.Subnets, s)
			own[kind] = append(own[kind], s.ID)
		}
	}
	table := func(kind, name string, main bool, subnets []string, routes ...Route) {
		local := []Route{{Destination: "10.0.0.0/8", Target: "local"}}
		p.RouteTables = append(p.RouteTables, RouteTable{ID: g.id("rtb-"), VPC: p.vpc(kind), Main: main, Subnets: subnets, Routes: append(local, routes...), Tags: []Tag{{"Name", name}}})
	}
	igw, nat := g.id("igw-"), g.id("nat-")
	table("public", "main", true, nil, Route{Destination: "0.0.0.0/0", Target: nat})
	table("public", "public", false, own["public"], Route{Destination: "0.0.0.0/0", Target: igw}, Route{Destination: "::/0", Target: igw})
	table("public", "egress", false, own["egress"], Route{Destination: "0.0.0.0/0", Target: nat}, Route{Destination: "::/0", Target: g.id("eigw-")})
	table("public", "stranded", false, own["stranded"], Route{Destination: "0.0.0.0/0", Target: g.id("igw-"), Blackhole: true})
	old := g.id("igw-")
	table("legacy", "main", true, nil, Route{Destination: "0.0.0.0/0", Target: old}, Route{Destination: "::/0", Target: old})
	table("legacy", "private", false, own["legacy-private"], Route{Destination: "172.16.0.0/12", Target: g.id("pcx-")}, Route{Destination: "192.168.0.0/16", Target: g.id("tgw-")})

	for i, kind := range []string{"public", "legacy"} {
		id := derived("sg-", p.account.ID+p.Name+strings.Repeat("legacy", i))
		p.Groups = append(p.Groups, Group{ID: id, Name: "default", Description: "default VPC security group", VPC: p.vpc(kind),
			Ingress: []GroupRule{{ID: g.id("sgr-"), Protocol: "-1", Group: id}}, Egress: g.egress()})
	}
	for _, service := range []string{"s3", "dynamodb"} {
		p.PrefixLists = append(p.PrefixLists, PrefixList{ID: p.awsList(service), Name: "com.amazonaws." + p.Name + "." + service, Owner: ownerAWS, Family: "IPv4",
			Versions: [][]string{{"3.5.0.0/19", "18.34.0.0/19", "52.216.0.0/15", "54.231.0.0/16"}}})
	}
	image := func(i Image) string {
		i.ID, i.Public = g.id("ami-"), true
		p.Images = append(p.Images, i)
		return i.ID
	}
	p.images = []string{
		image(Image{Name: "al2023-ami-2023.8-x86_64", Owner: amazonOwner, Alias: "amazon", Created: g.ago(10, 60), Deprecated: g.ago(-90, -80)}),
		image(Image{Name: "al2023-ami-2023.7-x86_64", Owner: amazonOwner, Alias: "amazon", Created: g.ago(70, 160), Deprecated: g.ago(-30, -20)}),
		image(Image{Name: "ubuntu/images/hvm-ssd-gp3/ubuntu-noble-24.04-amd64-server", Owner: "099720109477", Created: g.ago(20, 150), Deprecated: g.ago(-700, -600)}),
	}
	p.windows = image(Image{Name: "Windows_Server-2022-English-Full-Base", Owner: "801119661308", Alias: "amazon", Windows: true, Created: g.ago(10, 50)})
	p.aged = image(Image{Name: "amzn2-ami-kernel-5.10-hvm-2.0-x86_64-gp2", Owner: amazonOwner, Alias: "amazon", Created: g.ago(250, 600)})
}

func (p *place) awsList(service string) string {
	return derived("pl-", p.Name+service)
}

func (g *generator) egress() []GroupRule {
	return []GroupRule{{ID: g.id("sgr-"), Protocol: "-1", CIDR: "0.0.0.0/0"}, {ID: g.id("sgr-"), Protocol: "-1", CIDR6: "::/0"}}
}

// group puts a security group into the place and gives its id. permits are its ingress.
func (g *generator) group(p *place, kind, name string, tags []Tag, permits ...permit) string {
	id := g.id("sg-")
	group := Group{ID: id, Name: name, Description: "Managed by the platform team", VPC: p.vpc(kind), Egress: g.egress(), Tags: tags}
	for _, x := range permits {
		group.Ingress = append(group.Ingress, g.rule(p, id, x))
	}
	p.Groups = append(p.Groups, group)
	return id
}

// groupOf is the group of the application that the tags name.
func (g *generator) groupOf(p *place, tags []Tag) []string {
	app, _ := tagValue(tags, "Application")
	app = cmp.Or(app, "shared")
	if ids, ok := p.groupsOf[app]; ok {
		return ids
	}
	t := &teams[g.rng.IntN(len(teams))]
	permits := []permit{{"tcp", 443, 443, "10.0.0.0/8"}, {"tcp", 8443, 8443, "self"}, {"icmp", -1, -1, "10.0.0.0/8"}}
	switch g.rng.IntN(4) {
	case 0:
		permits[0].peer = "0.0.0.0/0"
		permits = append(permits, permit{"tcp", 443, 443, "::/0"})
	case 1:
		permits = append(permits, permit{"tcp", 5432, 5432, "10.0.0.0/8"}, permit{"tcp", 443, 443, "aws-list"})
	}
	ids := []string{g.group(p, "public", app, []Tag{{"Name", app}, {"Application", app}, {"Environment", p.environment}, {"Owner", t.owners[0] + "@larkspur.example"}, {"CostCenter", t.costCenter}}, permits...)}
	p.groupsOf[app] = ids
	return ids
}

// permit is an ingress rule in short. A port of missing is left out. The peer is a range, or one of
//
//	self                    the group itself
//	group                   the VPC's default group
//	aws-list                a prefix list that AWS manages
//	list RANGE…             a prefix list of the account's own
//	shared-list RANGE…      one that another account shares
//	old-list RANGE…         one whose earlier version held the ranges, and whose present one holds 10.0.0.0/8
//	hidden-list, sealed-list  one that is shared no more; one whose entries are denied
type permit struct {
	protocol string
	from, to int32
	peer     string
}

const missing = -2

func (g *generator) rule(p *place, group string, x permit) GroupRule {
	r := GroupRule{ID: g.id("sgr-"), Protocol: x.protocol}
	if x.protocol != "-1" && x.from != missing {
		r.From, r.To = &x.from, &x.to
	}
	kind, ranges, isList := strings.Cut(x.peer, "list")
	switch {
	case x.peer == "self":
		r.Group = group
	case x.peer == "group":
		r.Group = derived("sg-", p.account.ID+p.Name)
	case x.peer == "aws-list":
		r.PrefixList = p.awsList("s3")
	case isList:
		entries := strings.Fields(ranges)
		l := PrefixList{ID: g.id("pl-"), Name: pick(g, "offices", "partners", "vpn", "branches"), Family: "IPv4", Versions: [][]string{entries}}
		if strings.Contains(ranges, ":") {
			l.Family = "IPv6"
		}
		switch kind {
		case "old-":
			l.Versions = append(l.Versions, []string{"10.0.0.0/8"})
		case "shared-":
			l.Owner = g.otherAccount()
		case "hidden-":
			l.Owner, l.Hidden = g.otherAccount(), true
		case "sealed-":
			l.Owner, l.Unreadable = g.otherAccount(), true
		}
		p.PrefixLists = append(p.PrefixLists, l)
		r.PrefixList = l.ID
	case strings.Contains(x.peer, ":"):
		r.CIDR6 = x.peer
	default:
		r.CIDR = x.peer
	}
	return r
}

// otherAccount is one outside the organization.
func (g *generator) otherAccount() string { return "0" + digits(g.rng.Uint64(), 11) }

func digits(n uint64, width int) string {
	b := make([]byte, width)
	for i := range b {
		b[i] = '0' + byte(n%10)
		n /= 10
	}
	return string(b)
}
