package security

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.SecurityGroup]{
	Meta: rule.Meta{
		ID:           "sg-open-sensitive-port",
		Version:      1,
		Category:     rule.Security,
		ResourceType: "AWS::EC2::SecurityGroup",
		Title:        "Security group opens a sensitive port to the internet",
		Why: "Whatever listens behind the group can be reached by anybody. Machines that search the internet for open " +
			"administration, database and orchestrator ports find a new one within minutes, and then it takes one weak password " +
			"or one unpatched hole. What counts is whom all inbound rules let in together: two halves of the internet are all of it.",
		Fix: "Remove the offending rules, or narrow them to the addresses that need the port. Reach machines through Systems " +
			"Manager Session Manager, EC2 Instance Connect Endpoint or a VPN instead of open SSH and RDP, and let databases in " +
			"from the security groups of their clients.",
		Severity: "By the worst port that is open to the whole internet: administration, databases and orchestrators CRITICAL, " +
			"clear-text and legacy protocols HIGH, alternate web ports MEDIUM. Open to a wide part of it only, a /8 of IPv4 or a " +
			"/32 of IPv6 or more, MEDIUM. One level less, not below LOW, when no network interface has the group.",
		Params: portParams,
		Citations: []string{
			"https://docs.aws.amazon.com/vpc/latest/userguide/security-group-rules.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_IpPermission.html",
			"https://docs.aws.amazon.com/vpc/latest/userguide/managed-prefix-lists.html",
			"https://docs.aws.amazon.com/securityhub/latest/userguide/ec2-controls.html#ec2-19",
			"https://www.iana.org/assignments/iana-ipv4-special-registry/iana-ipv4-special-registry.xhtml",
			"https://www.iana.org/assignments/ipv6-unicast-address-assignments/ipv6-unicast-address-assignments.xhtml",
		},
	},
	Kind: inventory.SecurityGroups,
	Facts: []scan.Need[inventory.SecurityGroup]{
		{Fact: inventory.SecurityGroupPrefixLists, When: func(_ scan.In, g inventory.SecurityGroup) bool {
			return slices.ContainsFunc(g.Ingress, func(p inventory.Permission) bool { return len(p.PrefixLists) > 0 })
		}},
		{Fact: inventory.SecurityGroupRules, When: opensSensitive},
		{Fact: inventory.SecurityGroupInterfaces, When: opensSensitive},
	},
	Judge:    judgeGroup,
	Examples: groupExamples,
})

func opensSensitive(in scan.In, g inventory.SecurityGroup) bool {
	return judgeGroup(in, g).Outcome == rule.Violation
}

// exposed is a sensitive port that is open.
type exposed struct {
	opening
	severity rule.Severity
}

// exposedPorts are the sensitive ports that peers may reach, the worst first,
// and why there may be more.
func exposedPorts(p rule.Params, peers []peer) (open []exposed, unknown []string) {
	if len(peers) == 0 {
		return nil, nil
	}
	e := newExposure(peers)
	for _, s := range sensitivePorts(p) {
		for _, o := range e.of(s.ports) {
			for _, why := range o.unknown {
				if !slices.Contains(unknown, why) {
					unknown = append(unknown, why)
				}
			}
			x := exposed{o, s.severity}
			switch o.worst() {
			case world:
			case wide:
				x.severity = min(x.severity, rule.Medium)
			default:
				continue
			}
			// A port of two lists is told once, by the worse.
			if !slices.ContainsFunc(open, func(y exposed) bool { return y.ports == x.ports }) {
				open = append(open, x)
			}
		}
	}
	slices.SortFunc(open, func(a, b exposed) int {
		return cmp.Or(cmp.Compare(b.severity, a.severity), cmp.Compare(b.worst(), a.worst()), cmp.Compare(a.protocol, b.protocol),
			cmp.Compare(a.from, b.from), cmp.Compare(a.to, b.to))
	})
	slices.Sort(unknown)
	return open, unknown
}

func judgeGroup(in scan.In, g inventory.SecurityGroup) rule.Verdict {
	open, unknown := exposedPorts(in.Params, peersOf(g))
	if len(open) == 0 && len(unknown) > 0 {
		return rule.Verdict{
			Outcome: rule.InsufficientData,
			Reason:  "It cannot be told whether a sensitive port is open: " + strings.Join(unknown, "; ") + ".",
			Evidence: []rule.Evidence{{
				Name: "unreadable_rules", Value: unknown, Source: describeGroups, At: in.At, Confidence: rule.Observed,
			}},
		}
	}
	if len(open) == 0 {
		return one(in, rule.Compliant, "No sensitive port is open to the internet.", "open_sensitive_ports", 0, describeGroups)
	}

	v := rule.Verdict{Outcome: rule.Violation, Severity: open[0].severity, Owner: owner(g.Tags)}
	v.Reason = open[0].label() + " is open to " + open[0].whom() + "."
	if more := len(open) - 1; more > 0 {
		v.Reason = fmt.Sprintf("%s is open to %s, and so %s.", open[0].label(), open[0].whom(), count(more, "is 1 more sensitive port", "are %d more sensitive ports"))
	}
	for _, o := range open {
		v.Evidence = append(v.Evidence, o.evidence(in))
	}
	ids := offendingRules(g, open)
	v.Evidence = append(v.Evidence, rulesEvidence(in, g, open))
	v.Evidence = append(v.Evidence, behind(in, g)...)
	if len(unknown) > 0 {
		v.Evidence = append(v.Evidence, rule.Evidence{
			Name: "unreadable_rules", Value: unknown, Source: describeGroups, At: in.At, Confidence: rule.Observed,
			Note: "it may be open to more than is shown here",
		})
	}
	v.Recommendation = "Narrow or remove the rules that let " + open[0].whom() + " in"
	if len(ids) > 0 && len(ids) <= 5 {
		v.Recommendation += ": " + strings.Join(ids, ", ")
	}
	v.Recommendation += "."
	if g.Interfaces.Known && len(g.Interfaces.Value) == 0 {
		v.Severity = v.Severity.Down(rule.Low)
		v.Reason += " No network interface has the group."
		v.Recommendation += " Nothing has the group: if nobody needs it, delete it."
	}
	return v
}

// count words a number of things.
func count(n int, single, many string) string {
	if n == 1 {
		return single
	}
	return fmt.Sprintf(many, n)
}

// evidence is one piece for one open port, or a run of them.
func (x exposed) evidence(in scan.In) rule.Evidence {
	e := rule.Evidence{
		Name: "open_port", Value: x.label() + " to " + x.whom(), Source: describeGroups, At: in.At, Confidence: rule.Observed,
		Note: x.severity.String() + ", by " + x.sources(),
	}
	if len(x.peers) > 1 {
		e.Confidence = rule.Derived
	}
	return e
}

// maxSources bounds how many sources one piece of evidence names; all rules are
// in offending_rules.
const maxSources = 5

// sources are who is let in, each once.
func (o opening) sources() string {
	var names []string
	for _, p := range o.peers {
		if !slices.Contains(names, p.source) {
			names = append(names, p.source)
		}
	}
	slices.Sort(names)
	if len(names) > maxSources {
		names = append(names[:maxSources], fmt.Sprintf("%d more", len(names)-maxSources))
	}
	return strings.Join(names, ", ")
}

// offenders are the peers that open ports, each once.
func offendersOf(open []exposed) []peer {
	var all []peer
	for _, o := range open {
		for _, p := range o.peers {
			if !slices.ContainsFunc(all, func(q peer) bool { return q.group == p.group && q.ports == p.ports && q.source == p.source }) {
				all = append(all, p)
			}
		}
	}
	return all
}

// is tells whether a rule is the one that lets the peer in.
func (p peer) is(r inventory.SecurityGroupRule) bool {
	at, err := parsePorts(r.Ports)
	if err != nil || at != p.ports {
		return false
	}
	if r.PrefixList != "" || r.CIDR == "" {
		return r.PrefixList == p.source && p.source != ""
	}
	a, errA := parseCIDR(r.CIDR)
	b, errB := parseCIDR(p.source)
	return errA == nil && errB == nil && a == b
}

// offendingRules are the ids of the rules that open ports, where they are
// known.
func offendingRules(g inventory.SecurityGroup, open []exposed) []string {
	var ids []string
	for _, p := range offendersOf(open) {
		for _, r := range g.Rules.Value {
			if r.ID != "" && p.is(r) && !slices.Contains(ids, r.ID) {
				ids = append(ids, r.ID)
			}
		}
	}
	slices.Sort(ids)
	return ids
}

// rulesEvidence names the rules that open ports.
func rulesEvidence(in scan.In, g inventory.SecurityGroup, open []exposed) rule.Evidence {
	var list []string
	for _, p := range offendersOf(open) {
		text := p.ports.text() + " from " + p.source
		var ids []string
		for _, r := range g.Rules.Value {
			if r.ID != "" && p.is(r) {
				ids = append(ids, r.ID)
			}
		}
		slices.Sort(ids)
		if len(ids) > 0 {
			text = strings.Join(ids, ", ") + ": " + text
		}
		list = append(list, text)
	}
	slices.Sort(list)
	e := rule.Evidence{Name: "offending_rules", Value: list, Source: describeGroupRules, At: atOr(in, g.Rules), Confidence: rule.Observed}
	if !g.Rules.Known {
		e.Source, e.Note = describeGroups, "their ids are "+unread(g.Rules)
	}
	return e
}

// text is the ports of a rule for people.
func (p ports) text() string {
	switch {
	case p.protocol == allProtocols:
		return "all traffic"
	case p.from == 0 && p.to == highestPort:
		return map[int]string{tcp: "all tcp", udp: "all udp"}[p.protocol]
	case p.protocol == udp:
		return "udp " + strings.TrimSuffix(p.String(), "/udp")
	default:
		return "tcp " + p.String()
	}
}

// behind shows the interfaces and instances that have the group.
func behind(in scan.In, g inventory.SecurityGroup) []rule.Evidence {
	e := rule.Evidence{Name: "network_interfaces", Source: describeInterfaces, At: atOr(in, g.Interfaces), Confidence: rule.Observed}
	if !g.Interfaces.Known {
		e.Note = unread(g.Interfaces) + "; taken as attached"
		return []rule.Evidence{e}
	}
	interfaces, instances := []string{}, []string{}
	for _, n := range g.Interfaces.Value {
		text := n.ID
		if n.InterfaceType != "" && n.InterfaceType != "interface" {
			text += " " + n.InterfaceType
		}
		if n.InstanceID != "" {
			text += " of " + n.InstanceID
			instances = append(instances, n.InstanceID)
		}
		if public := slices.Concat(n.PublicIPv4, n.IPv6); len(public) > 0 {
			text += " at " + strings.Join(public, ", ")
		}
		interfaces = append(interfaces, text)
	}
	slices.Sort(interfaces)
	slices.Sort(instances)
	e.Value = interfaces
	return []rule.Evidence{e, {
		Name: "instances", Value: slices.Compact(instances), Source: describeInterfaces, At: e.At, Confidence: rule.Observed,
	}}
}

// groupExamples are the rows of the table that the rule is held to, and the
// traps beside them.
var groupExamples = []scan.Example[inventory.SecurityGroup]{
	{
		Name: "tcp 22 from 0.0.0.0/0", Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/0")),
		Want: scan.Want{
			Outcome: rule.Violation, Severity: rule.Critical, Source: describeGroups, Confidence: rule.Observed,
			Says: []string{"tcp/22 (SSH) is open to the whole internet (IPv4).", "sgr-a"},
		},
	},
	{
		Name: "tcp 20–25 from ::/0", Resource: groupExample(ingress("tcp", 20, 25, "::/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{
			"tcp/22 (SSH) is open to the whole internet (IPv6), and so are 4 more sensitive ports.",
		}},
	},
	{
		Name: "all protocols from 0.0.0.0/0", Resource: groupExample(allTraffic("0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"more sensitive ports"}},
	},
	{
		Name: "tcp 22 from both halves, 0.0.0.0/1 and 128.0.0.0/1", Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/1"), ingress("tcp", 22, 22, "128.0.0.0/1")),
		Want: scan.Want{
			Outcome: rule.Violation, Severity: rule.Critical, Confidence: rule.Derived, Says: []string{"sgr-a", "sgr-b"},
		},
	},
	{
		Name:     "tcp 22 from a prefix list that holds 0.0.0.0/0",
		Resource: groupExample(ingress("tcp", 22, 22, "pl-0123456789abcdef0"), prefixList("pl-0123456789abcdef0", "10.0.0.0/8", "0.0.0.0/0")),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"sgr-a"}},
	},
	{
		Name: "tcp 1–65535 from 0.0.0.0/0", Resource: groupExample(ingress("tcp", 1, 65535, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "protocol 6, port 22, from 0.0.0.0/0", Resource: groupExample(ingress("6", 22, 22, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"tcp/22"}},
	},
	{
		Name: "udp 22 from 0.0.0.0/0", Resource: groupExample(ingress("udp", 22, 22, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "icmp, type 0–40, from 0.0.0.0/0: types are no ports", Resource: groupExample(ingress("icmp", 0, 40, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "the default group: all protocols from itself", Resource: groupExample(allTraffic("sg-0123456789abcdef0")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "tcp 0–65535 from 10.0.0.0/8", Resource: groupExample(ingress("tcp", 0, 65535, "10.0.0.0/8")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "tcp 22 from 10.0.0.0/8", Resource: groupExample(ingress("tcp", 22, 22, "10.0.0.0/8")),
		Want: scan.Want{Outcome: rule.Compliant},
	},

	// Others like them.
	{
		Name: "all protocols with ports given: AWS takes no notice of the ports", Resource: groupExample(ingress("-1", 80, 80, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "tcp without ports", Resource: groupExample(permission(inventory.Ports{Protocol: "tcp"}, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "tcp -1 to -1", Resource: groupExample(ingress("tcp", -1, -1, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "TCP in capitals", Resource: groupExample(ingress("TCP", 3389, 3389, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"tcp/3389 (RDP)"}},
	},
	{
		Name: "icmpv6 as number 58, from ::/0", Resource: groupExample(ingress("58", -1, -1, "::/0")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "protocol 50 (ESP) from 0.0.0.0/0 has no ports", Resource: groupExample(permission(inventory.Ports{Protocol: "50"}, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "tcp 443 from 0.0.0.0/0: meant to be open", Resource: groupExample(ingress("tcp", 443, 443, "0.0.0.0/0", "::/0")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "tcp 20–21 from 0.0.0.0/0 ends before 22", Resource: groupExample(ingress("tcp", 20, 21, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.High, Says: []string{"tcp/20 (FTP data)", "1 more"}},
	},
	{
		Name: "the halves are of different ports: neither is open to all", Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/1"), ingress("tcp", 23, 23, "128.0.0.0/1")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"a wide part"}},
	},
	{
		Name: "the halves overlap at 22 only", Resource: groupExample(ingress("tcp", 1, 22, "0.0.0.0/1"), ingress("tcp", 22, 99, "128.0.0.0/1")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"tcp/22 (SSH) is open to the whole internet"}},
	},
	{
		Name: "a half by address range, the other by prefix list",
		Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/1", "pl-0123456789abcdef0"),
			prefixList("pl-0123456789abcdef0", "128.0.0.0/2", "192.0.0.0/2")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "all of the internet but the private ranges is all of the internet",
		Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/5", "8.0.0.0/7", "11.0.0.0/8", "12.0.0.0/6", "16.0.0.0/4", "32.0.0.0/3", "64.0.0.0/2",
			"128.0.0.0/3", "160.0.0.0/5", "168.0.0.0/6", "172.0.0.0/12", "172.32.0.0/11", "172.64.0.0/10", "172.128.0.0/9", "173.0.0.0/8", "174.0.0.0/7",
			"176.0.0.0/4", "192.0.0.0/9", "192.128.0.0/11", "192.160.0.0/13", "192.169.0.0/16", "192.170.0.0/15", "192.172.0.0/14", "192.176.0.0/12",
			"192.192.0.0/10", "193.0.0.0/8", "194.0.0.0/7", "196.0.0.0/6", "200.0.0.0/5", "208.0.0.0/4")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "2000::/3 is all of IPv6 that is routed", Resource: groupExample(ingress("tcp", 22, 22, "2000::/3")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "fc00::/7 is private", Resource: groupExample(allTraffic("fc00::/7", "fe80::/10")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "a /8 of public addresses is wide", Resource: groupExample(ingress("tcp", 22, 22, "11.0.0.0/8")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"a wide part of the internet (IPv4)"}},
	},
	{
		Name: "two /9 that are a /8 together are as wide", Resource: groupExample(ingress("tcp", 22, 22, "11.0.0.0/9"), ingress("tcp", 0, 1000, "12.0.0.0/9")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Confidence: rule.Derived},
	},
	{
		Name: "a /9 is not wide", Resource: groupExample(ingress("tcp", 22, 22, "11.0.0.0/9")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "a /32 of IPv6 is wide", Resource: groupExample(ingress("tcp", 22, 22, "2600:1f00::/32")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Medium, Says: []string{"(IPv6)"}},
	},
	{
		Name: "a /33 of IPv6 is not", Resource: groupExample(ingress("tcp", 22, 22, "2600:1f00::/33")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "an office", Resource: groupExample(ingress("tcp", 22, 22, "8.8.8.8/32")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "the office's rule is not to blame for the world's", Resource: groupExample(ingress("tcp", 22, 22, "8.8.8.8/32"), ingress("tcp", 22, 22, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"in: sgr-b."}},
	},
	{
		Name: "CloudFront's prefix list, which AWS keeps, is not the world",
		Resource: groupExample(ingress("tcp", 8080, 8080, "pl-3b927c52"),
			awsPrefixList("pl-3b927c52", "com.amazonaws.global.cloudfront.origin-facing")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name:     "a prefix list that cannot be read",
		Resource: groupExample(ingress("tcp", 22, 22, "pl-0123456789abcdef0"), listFact("pl-0123456789abcdef0", denied[inventory.PrefixList]("ec2:GetManagedPrefixListEntries"))),
		Want:     scan.Want{Outcome: rule.InsufficientData, Says: []string{"pl-0123456789abcdef0", "ec2:GetManagedPrefixListEntries"}},
	},
	{
		Name:     "a prefix list that cannot be read, for a port that is not sensitive",
		Resource: groupExample(ingress("tcp", 443, 443, "pl-0123456789abcdef0"), listFact("pl-0123456789abcdef0", denied[inventory.PrefixList]("ec2:GetManagedPrefixListEntries"))),
		Want:     scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "a prefix list that cannot be read, where the other peers decide",
		Resource: groupExample(ingress("tcp", 22, 22, "pl-0123456789abcdef0", "0.0.0.0/0"),
			listFact("pl-0123456789abcdef0", denied[inventory.PrefixList]("ec2:GetManagedPrefixListEntries"))),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"sgr-b"}},
	},
	{
		Name: "an address range that is none", Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/99")),
		Want: scan.Want{Outcome: rule.InsufficientData, Says: []string{`"0.0.0.0/99" is no address range`}},
	},
	{
		Name: "a protocol that is none, from the world: it may be about any port", Resource: groupExample(ingress("", 22, 22, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.InsufficientData},
	},
	{
		Name: "a protocol that is none, from a private network: whatever it is, it is not open", Resource: groupExample(ingress("", 22, 22, "10.0.0.0/8")),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name: "no interface has the group: one level less", Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/0"), unattached),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.High, Says: []string{"No network interface has the group.", "delete it"}},
	},
	{
		Name: "an alternate web port", Resource: groupExample(ingress("tcp", 8080, 8080, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Medium},
	},
	{
		Name: "an alternate web port of a group that nothing has", Resource: groupExample(ingress("tcp", 8080, 8080, "0.0.0.0/0"), unattached),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Low},
	},
	{
		Name: "it cannot be read who has the group: taken as attached",
		Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/0"), func(g *inventory.SecurityGroup) {
			g.Interfaces = denied[[]inventory.NetworkInterface](describeInterfaces)
		}),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "its rules' ids cannot be read: as open as with them",
		Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/0"), func(g *inventory.SecurityGroup) {
			g.Rules = denied[[]inventory.SecurityGroupRule](describeGroupRules)
		}),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical},
	},
	{
		Name: "SNMP is udp 161", Resource: groupExample(ingress("17", 161, 161, "0.0.0.0/0"), ingress("tcp", 161, 161, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.High, Says: []string{"udp/161 (SNMP) is open to the whole internet (IPv4)."}},
	},
	{
		Name: "Memcached listens on both protocols", Resource: groupExample(ingress("udp", 11211, 11211, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"udp/11211 (Memcached)"}},
	},
	{
		Name: "one port of a range of sensitive ones", Resource: groupExample(ingress("tcp", 27018, 27018, "0.0.0.0/0")),
		Want: scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Says: []string{"tcp/27018"}},
	},
	{
		Name: "no rules at all", Resource: groupExample(),
		Want: scan.Want{Outcome: rule.Compliant},
	},
	{
		Name:     "made by a stack, which is who to ask",
		Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/0"), groupTags(map[string]string{"aws:cloudformation:stack-name": "billing"})),
		Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Critical, Owner: "CloudFormation stack billing"},
	},
	{
		Name: "a deployment's own ports", Resource: groupExample(ingress("tcp", 22, 22, "0.0.0.0/0"), ingress("tcp", 9999, 9999, "0.0.0.0/0")),
		Params: map[string]string{"critical_ports": "", "high_ports": "9990-10000, 53/udp"},
		Want:   scan.Want{Outcome: rule.Violation, Severity: rule.High, Says: []string{"tcp/9999 is open"}},
	},
}
