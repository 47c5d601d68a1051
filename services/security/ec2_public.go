package security

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.Instance]{
	Meta: rule.Meta{
		ID:           "ec2-public",
		Version:      1,
		Category:     rule.Security,
		ResourceType: "AWS::EC2::Instance",
		Title:        "EC2 instance with a public address that nobody has allowed",
		Why: "An instance with a public IPv4 or a global IPv6 address is one security group rule away from the internet, and with " +
			"an open rule it is on it. Most instances need no address of their own: they are reached through a load balancer and " +
			"reach out through a NAT gateway.",
		Fix: "Put the instance behind a load balancer or into a private subnet, release its Elastic IP addresses and switch off " +
			"automatic public addresses of the subnet. If it must be public, say so: tag it public-allowed with the value true, yes, " +
			"1 or on, or with until-YYYY-MM-DD for as long as it must. The tag does not cover an open security group.",
		Severity: "MEDIUM. HIGH when a sensitive port is open to the whole internet through the security groups of the interface that " +
			"has the public address. CRITICAL when besides that the instance runs and the interface's subnet routes to an internet " +
			"gateway, for the address family in which the port is open.",
		Params: portParams,
		Citations: []string{
			"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/using-instance-addressing.html",
			"https://docs.aws.amazon.com/vpc/latest/userguide/VPC_Internet_Gateway.html",
			"https://docs.aws.amazon.com/vpc/latest/userguide/RouteTables.html",
			"https://docs.aws.amazon.com/securityhub/latest/userguide/ec2-controls.html#ec2-9",
		},
	},
	Kind: inventory.Instances,
	Facts: []scan.Need[inventory.Instance]{
		{Fact: inventory.InstanceGroups, When: func(_ scan.In, i inventory.Instance) bool {
			return !gone(i.State) && len(publicInterfaces(i)) > 0
		}},
		{Fact: inventory.InstanceRoutes, When: func(in scan.In, i inventory.Instance) bool {
			if gone(i.State) || i.State != "running" {
				return false
			}
			for _, n := range publicInterfaces(i) {
				if open, _ := openWorld(in, i, n); len(open) > 0 {
					return true
				}
			}
			return false
		}},
	},
	Judge:    judgePublic,
	Examples: publicExamples,
})

// publicInterfaces are the interfaces that have a public address.
func publicInterfaces(i inventory.Instance) []inventory.Interface {
	var public []inventory.Interface
	for _, n := range i.Interfaces {
		if n.Public() {
			public = append(public, n)
		}
	}
	return public
}

// unreadableAddresses says why an instance may have a public address that
// cannot be seen; empty when it cannot have one.
func unreadableAddresses(i inventory.Instance) string {
	if len(i.Interfaces) == 0 {
		return "the answer shows no network interface of it"
	}
	for _, n := range i.Interfaces {
		for _, ip := range n.IPv6 {
			if _, err := netip.ParseAddr(ip); err != nil {
				return fmt.Sprintf("%q is no address", ip)
			}
		}
	}
	return ""
}

// openWorld are the sensitive ports that the whole internet may reach through
// the groups of an interface, which let in what any of them does; unknown says
// why there may be more.
func openWorld(in scan.In, i inventory.Instance, n inventory.Interface) (open []exposed, unknown []string) {
	var peers []peer
	for _, id := range slices.Compact(slices.Sorted(slices.Values(n.GroupIDs))) {
		g := i.Groups[id]
		if !g.Known {
			unknown = append(unknown, "security group "+id+" is "+unread(g))
			continue
		}
		peers = append(peers, peersOf(g.Value)...)
	}
	open, more := exposedPorts(in.Params, peers)
	open = slices.DeleteFunc(open, func(x exposed) bool { return x.worst() < world })
	return open, append(unknown, more...)
}

// reach is how an interface can be reached from the internet.
type reach struct {
	inventory.Interface
	open     []exposed
	unknown  []string
	route    rule.Fact[inventory.Routes]
	severity rule.Severity
	// through is the internet gateway by which an open port is reached.
	through string
}

func reachOf(in scan.In, i inventory.Instance, n inventory.Interface) reach {
	r := reach{Interface: n, severity: rule.Medium, route: i.Routes[n.SubnetID]}
	r.open, r.unknown = openWorld(in, i, n)
	if len(r.open) == 0 {
		return r
	}
	r.severity = rule.High
	if i.State != "running" || !r.route.Known {
		return r
	}
	for _, x := range r.open {
		switch {
		case x.levels[ipv4] == world && len(n.PublicIPv4) > 0 && r.route.Value.GatewayIPv4 != "":
			r.severity, r.through = rule.Critical, r.route.Value.GatewayIPv4
		case x.levels[ipv6] == world && len(n.GlobalIPv6()) > 0 && r.route.Value.GatewayIPv6 != "":
			r.severity, r.through = rule.Critical, r.route.Value.GatewayIPv6
		}
	}
	return r
}

func judgePublic(in scan.In, i inventory.Instance) rule.Verdict {
	if gone(i.State) {
		return one(in, rule.NotApplicable, "It is terminated or being terminated.", "state", i.State, describeInstances)
	}
	public := publicInterfaces(i)
	if why := unreadableAddresses(i); len(public) == 0 && why != "" {
		return one(in, rule.InsufficientData, "It cannot be told whether it has a public address: "+why+".", "unreadable_addresses", why, describeInstances)
	}
	if len(public) == 0 {
		return one(in, rule.Compliant, "It has no public address.", "public_addresses", []string{}, describeInstances)
	}

	var (
		addresses []string
		worst     reach
		all       []reach
	)
	for _, n := range public {
		for _, p := range n.PublicIPv4 {
			addresses = append(addresses, p.IP)
		}
		addresses = append(addresses, n.GlobalIPv6()...)
		r := reachOf(in, i, n)
		if r.severity > worst.severity {
			worst = r
		}
		all = append(all, r)
	}
	slices.Sort(addresses)
	addresses = slices.Compact(addresses)

	v := rule.Verdict{
		Outcome: rule.Violation, Severity: worst.severity, Owner: owner(i.Tags),
		Evidence: []rule.Evidence{{
			Name: "public_addresses", Value: addresses, Source: describeInstances, At: in.At, Confidence: rule.Observed,
		}},
	}
	v.Reason = "It has the public address " + addresses[0]
	if more := len(addresses) - 1; more > 0 {
		v.Reason += fmt.Sprintf(" and %d more", more)
	}
	if len(worst.open) > 0 {
		v.Reason += ", and " + worst.open[0].label() + " is open to " + worst.open[0].whom()
		if worst.through != "" {
			v.Reason += ", which gets in by " + worst.through
		}
	}
	v.Reason += "."
	x, says := exemption(in, i.Tags)
	if says != "" {
		v.Reason += " " + says
		e := rule.Evidence{
			Name: "public_allowed", Source: describeInstances, At: in.At, Confidence: rule.Observed, Note: says,
		}
		if value, ok := i.Tags[publicAllowed]; ok {
			e.Value = value
		}
		v.Evidence = append(v.Evidence, e)
	}
	v.Evidence = append(v.Evidence, rule.Evidence{Name: "state", Value: i.State, Source: describeInstances, At: in.At, Confidence: rule.Observed})
	for _, r := range all {
		v.Evidence = append(v.Evidence, r.evidence(in, i)...)
	}
	v.Recommendation = "Take its public address away, or tag it " + publicAllowed + " if it must be public."
	if x != (rule.Exemption{}) {
		v.Exempt = x
		v.Recommendation = "It is allowed to be public; check now and then that it still must be."
	}
	if len(worst.open) > 0 {
		v.Recommendation += " Close " + worst.open[0].label() + " first."
	}
	return v
}

// evidence shows what decided about an interface.
func (r reach) evidence(in scan.In, i inventory.Instance) []rule.Evidence {
	groups := rule.Evidence{
		Name: "open_ports", Source: describeGroups, At: in.At, Confidence: rule.Observed,
		Note: r.ID + ", through " + strings.Join(r.GroupIDs, ", "),
	}
	open := []string{}
	for _, x := range r.open {
		open = append(open, x.label()+" to "+x.whom())
	}
	groups.Value = open
	if len(r.unknown) > 0 {
		groups.Note += "; there may be more: " + strings.Join(r.unknown, "; ")
	}
	if len(r.open) == 0 || i.State != "running" {
		return []rule.Evidence{groups}
	}
	route := rule.Evidence{
		Name: "internet_gateway", Source: describeRouteTables, At: atOr(in, r.route), Confidence: rule.Observed, Note: r.ID + ", subnet " + r.SubnetID,
	}
	if !r.route.Known {
		route.Note += " is " + unread(r.route)
		return []rule.Evidence{groups, route}
	}
	t := r.route.Value
	route.Value = gateways(t)
	route.Note += " by its own route table " + t.Table
	if t.Main {
		route.Note = strings.Replace(route.Note, "its own", "its VPC's main", 1)
		route.Confidence = rule.Derived
	}
	return []rule.Evidence{groups, route}
}

func gateways(r inventory.Routes) string {
	switch {
	case r.GatewayIPv4 == "" && r.GatewayIPv6 == "":
		return "none"
	case r.GatewayIPv4 == "":
		return r.GatewayIPv6 + " (IPv6)"
	case r.GatewayIPv6 == "":
		return r.GatewayIPv4 + " (IPv4)"
	}
	return r.GatewayIPv4 + " (IPv4), " + r.GatewayIPv6 + " (IPv6)"
}

var publicExamples = []scan.Example[inventory.Instance]{
	{
		Name:     "a public IPv4 address, and nothing sensitive open",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a", ingress("tcp", 443, 443, "0.0.0.0/0"))),
		Want: scan.Want{
			Outcome: rule.Violation, Severity: rule.Medium, Confidence: rule.Observed, Source: describeInstances,
			Says: []string{"It has the public address 198.51.100.7."},
		},
	},
	{
		Name:     "SSH is open to the world, and the subnet routes to an internet gateway",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a", ingress("tcp", 22, 22, "0.0.0.0/0")), routed("subnet-a", toInternet)),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{
			"tcp/22 (SSH) is open to the whole internet (IPv4), which gets in by igw-a", "Close tcp/22 (SSH) first.",
		}},
	},
	{
		Name:     "SSH is open to the world, but the subnet does not route to an internet gateway",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a", ingress("tcp", 22, 22, "0.0.0.0/0")), routed("subnet-a", toNowhere)),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.High},
	},
	{
		Name: "the subnet has no route table of its own: its VPC's main one counts",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a", ingress("tcp", 22, 22, "0.0.0.0/0")),
			routed("subnet-a", inventory.Routes{Table: "rtb-main", Main: true, GatewayIPv4: "igw-a"})),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "stopped with an Elastic IP: public, if not reachable now",
		Resource: instanceExample(address("198.51.100.7"), inState("stopped"), group("sg-a", ingress("tcp", 22, 22, "0.0.0.0/0")),
			routed("subnet-a", toInternet)),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.High},
	},
	{
		Name:     "a global IPv6 address is public",
		Resource: instanceExample(address("2600:1f18::10"), group("sg-a", ingress("tcp", 443, 443, "::/0"))),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"2600:1f18::10"}},
	},
	{
		Name:     "a private IPv6 address is not",
		Resource: instanceExample(address("fd00::10")),
		Want:     scan.Want{Outcome: rule.Compliant},
	},
	{
		Name:     "IPv6 is open, and IPv6 is routed",
		Resource: instanceExample(address("2600:1f18::10"), group("sg-a", ingress("tcp", 3389, 3389, "::/0")), routed("subnet-a", toInternet)),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"tcp/3389 (RDP)"}},
	},
	{
		Name:     "IPv6 is open and routed, the public address is IPv4: nobody gets in that way",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a", ingress("tcp", 22, 22, "::/0")), routed("subnet-a", toInternet)),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.High},
	},
	{
		Name:     "only a secondary interface is public",
		Resource: instanceExample(secondInterface("subnet-b", "sg-b", "198.51.100.9"), group("sg-b")),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"198.51.100.9"}},
	},
	{
		Name: "the open group is on the private interface, the public one is on another: the public one decides",
		Resource: instanceExample(secondInterface("subnet-b", "sg-b", "198.51.100.9"), group("sg-a", ingress("tcp", 22, 22, "0.0.0.0/0")),
			group("sg-b", ingress("tcp", 443, 443, "0.0.0.0/0")), routed("subnet-b", toInternet)),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Medium},
	},
	{
		Name: "the worst of two public interfaces counts",
		Resource: instanceExample(address("198.51.100.7"), secondInterface("subnet-b", "sg-b", "198.51.100.9"),
			group("sg-a"), group("sg-b", ingress("tcp", 6379, 6379, "0.0.0.0/0")), routed("subnet-a", toNowhere), routed("subnet-b", toInternet)),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"198.51.100.7 and 1 more", "Redis"}},
	},
	{
		Name: "two groups of an interface let half of the internet in each",
		Resource: instanceExample(address("198.51.100.7"), func(i *inventory.Instance) { i.Interfaces[0].GroupIDs = []string{"sg-a", "sg-b"} },
			group("sg-a", ingress("tcp", 22, 22, "0.0.0.0/1")), group("sg-b", ingress("tcp", 22, 22, "128.0.0.0/1")), routed("subnet-a", toInternet)),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name:     "wide open is not open to the world",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a", ingress("tcp", 22, 22, "11.0.0.0/8")), routed("subnet-a", toInternet)),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium},
	},
	{
		Name:     "tagged public-allowed: a violation that is exempt",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a"), instanceTags("public-allowed", "Yes")),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"exempts it", "It is allowed to be public"}},
	},
	{
		Name:     "tagged public-allowed through today",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a"), instanceTags("public-allowed", "until-2026-09-01")),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"exempts it", "It is allowed to be public"}},
	},
	{
		Name:     "tagged public-allowed through yesterday",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a"), instanceTags("public-allowed", "until-2026-08-31")),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"any more: it did through 2026-08-31", "Take its public address away"}},
	},
	{
		Name:     "tagged public-allowed until a day that is none",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a"), instanceTags("public-allowed", "until-2026-13-01")),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"Take its public address away"}},
	},
	{
		Name:     "tagged public-allowed=false",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a"), instanceTags("public-allowed", "false")),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"Take its public address away"}},
	},
	{
		Name:     "tagged Public-Allowed=true: the key's case matters",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a"), instanceTags("Public-Allowed", "true")),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"Take its public address away"}},
	},
	{
		Name:     "its security groups cannot be read: public all the same",
		Resource: instanceExample(address("198.51.100.7"), groupFact("sg-a", denied[inventory.SecurityGroup](describeGroups))),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Medium},
	},
	{
		Name: "its route table cannot be read: reachable or not is unknown",
		Resource: instanceExample(address("198.51.100.7"), group("sg-a", ingress("tcp", 22, 22, "0.0.0.0/0")),
			routeFact("subnet-a", denied[inventory.Routes](describeRouteTables))),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.High},
	},
	{
		Name:     "AWS shows no network interface, which every instance has",
		Resource: instanceExample(func(i *inventory.Instance) { i.Interfaces = nil }),
		Want:     scan.Want{Outcome: rule.InsufficientData},
	},
	{
		Name:     "an IPv6 address that is none",
		Resource: instanceExample(func(i *inventory.Instance) { i.Interfaces[0].IPv6 = []string{"2600:1f18::/128"} }),
		Want:     scan.Want{Outcome: rule.InsufficientData},
	},
	{
		Name:     "no public address",
		Resource: instanceExample(group("sg-a", ingress("tcp", 22, 22, "0.0.0.0/0")), routed("subnet-a", toInternet)),
		Want:     scan.Want{Outcome: rule.Compliant},
	},
	{
		Name:     "terminated",
		Resource: instanceExample(address("198.51.100.7"), inState("terminated")),
		Want:     scan.Want{Outcome: rule.NotApplicable},
	},
	{
		Name:     "being terminated",
		Resource: instanceExample(address("198.51.100.7"), inState("shutting-down")),
		Want:     scan.Want{Outcome: rule.NotApplicable},
	},
}
