package simaws

import (
	"cmp"
	"slices"
	"strconv"
)

var groupListing = &listing[Group]{
	what: "groupId", set: "securityGroupInfo", ids: "GroupId",
	prefix: "sg-", notFound: "InvalidGroup.NotFound", missing: "The security group '%s' does not exist", malformed: "InvalidGroupId.Malformed",
	limit: 1000, exact: true,
	rows: func(c *call) []Group { return c.region.Groups },
	hidden: func(c *call, g *Group) bool {
		names := c.form.list("GroupName")
		return len(names) > 0 && !slices.Contains(names, g.Name)
	},
	id:   func(g *Group) string { return g.ID },
	find: func(c *call, id string) *Group { return c.region.group(id) },
	tags: func(g *Group) []Tag { return g.Tags },
	fields: map[string]func([]string, *call, *Group) []string{
		"description":                         func(d []string, _ *call, g *Group) []string { return append(d, g.Description) },
		"group-id":                            func(d []string, _ *call, g *Group) []string { return append(d, g.ID) },
		"group-name":                          func(d []string, _ *call, g *Group) []string { return append(d, g.Name) },
		"owner-id":                            func(d []string, c *call, _ *Group) []string { return append(d, c.account.ID) },
		"vpc-id":                              func(d []string, _ *call, g *Group) []string { return append(d, g.VPC) },
		"ip-permission.cidr":                  eachRule(false, func(r *GroupRule) string { return r.CIDR }),
		"ip-permission.ipv6-cidr":             eachRule(false, func(r *GroupRule) string { return r.CIDR6 }),
		"ip-permission.prefix-list-id":        eachRule(false, func(r *GroupRule) string { return r.PrefixList }),
		"ip-permission.group-id":              eachRule(false, func(r *GroupRule) string { return r.Group }),
		"ip-permission.protocol":              eachRule(false, func(r *GroupRule) string { return r.Protocol }),
		"ip-permission.from-port":             eachRule(false, func(r *GroupRule) string { return portText(r, r.From) }),
		"ip-permission.to-port":               eachRule(false, func(r *GroupRule) string { return portText(r, r.To) }),
		"egress.ip-permission.cidr":           eachRule(true, func(r *GroupRule) string { return r.CIDR }),
		"egress.ip-permission.ipv6-cidr":      eachRule(true, func(r *GroupRule) string { return r.CIDR6 }),
		"egress.ip-permission.prefix-list-id": eachRule(true, func(r *GroupRule) string { return r.PrefixList }),
		"egress.ip-permission.group-id":       eachRule(true, func(r *GroupRule) string { return r.Group }),
		"egress.ip-permission.protocol":       eachRule(true, func(r *GroupRule) string { return r.Protocol }),
		"egress.ip-permission.from-port":      eachRule(true, func(r *GroupRule) string { return portText(r, r.From) }),
		"egress.ip-permission.to-port":        eachRule(true, func(r *GroupRule) string { return portText(r, r.To) }),
	},
	write: func(c *call, x *xmlWriter, page []*Group) {
		for _, g := range page {
			x.open("item")
			x.str("ownerId", c.account.ID)
			x.str("groupId", g.ID)
			x.str("groupName", g.Name)
			x.str("groupDescription", g.Description)
			x.str("vpcId", g.VPC)
			x.str("securityGroupArn", c.region.arn("security-group", g.ID))
			writePermissions(c, x, "ipPermissions", g.Ingress)
			writePermissions(c, x, "ipPermissionsEgress", g.Egress)
			x.tags(g.Tags)
			x.close("item")
		}
	},
}

func eachRule(egress bool, value func(*GroupRule) string) func([]string, *call, *Group) []string {
	return func(d []string, _ *call, g *Group) []string {
		rules := g.Ingress
		if egress {
			rules = g.Egress
		}
		for i := range rules {
			d = appendSet(d, value(&rules[i]))
		}
		return d
	}
}

// portText is a port as the group shows it: a rule for all protocols has none.
func portText(r *GroupRule, port *int32) string {
	if port == nil || r.Protocol == "-1" {
		return ""
	}
	return itoa(*port)
}

// writePermissions puts rules of the same protocol and ports together, each with all its peers, as EC2 does.
func writePermissions(c *call, x *xmlWriter, set string, rules []GroupRule) {
	same := func(a, b *GroupRule) bool {
		return a.Protocol == b.Protocol && portText(a, a.From) == portText(b, b.From) && portText(a, a.To) == portText(b, b.To)
	}
	x.open(set)
	for i := range rules {
		first := &rules[i]
		if slices.ContainsFunc(rules[:i], func(r GroupRule) bool { return same(&r, first) }) {
			continue
		}
		x.open("item")
		x.str("ipProtocol", first.Protocol)
		x.opt("fromPort", portText(first, first.From))
		x.opt("toPort", portText(first, first.To))
		peers := func(set, tag string, value func(*GroupRule) string, more func(*GroupRule)) {
			x.open(set)
			for k := range rules[i:] {
				r := &rules[i+k]
				if v := value(r); v != "" && same(r, first) {
					x.open("item")
					x.str(tag, v)
					x.opt("description", r.Description)
					more(r)
					x.close("item")
				}
			}
			x.close(set)
		}
		none := func(*GroupRule) {}
		peers("groups", "groupId", func(r *GroupRule) string { return r.Group }, func(*GroupRule) { x.str("userId", c.account.ID) })
		peers("ipRanges", "cidrIp", func(r *GroupRule) string { return r.CIDR }, none)
		peers("ipv6Ranges", "cidrIpv6", func(r *GroupRule) string { return r.CIDR6 }, none)
		peers("prefixListIds", "prefixListId", func(r *GroupRule) string { return r.PrefixList }, none)
		x.close("item")
	}
	x.close(set)
}

type ruleRow struct {
	*GroupRule
	group  *Group
	egress bool
}

var ruleListing = &listing[ruleRow]{
	what: "securityGroupRuleId", set: "securityGroupRuleSet", ids: "SecurityGroupRuleId",
	prefix: "sgr-", notFound: "InvalidSecurityGroupRuleId.NotFound", missing: "The security group rule ID '%s' does not exist", malformed: "InvalidSecurityGroupRuleId.Malformed",
	limit: 1000, exact: true,
	rows: func(c *call) []ruleRow {
		var rows []ruleRow
		for i := range c.region.Groups {
			g := &c.region.Groups[i]
			for k := range g.Ingress {
				rows = append(rows, ruleRow{&g.Ingress[k], g, false})
			}
			for k := range g.Egress {
				rows = append(rows, ruleRow{&g.Egress[k], g, true})
			}
		}
		return rows
	},
	id:   func(r *ruleRow) string { return r.ID },
	tags: func(*ruleRow) []Tag { return nil },
	fields: map[string]func([]string, *call, *ruleRow) []string{
		"group-id":               func(d []string, _ *call, r *ruleRow) []string { return append(d, r.group.ID) },
		"security-group-rule-id": func(d []string, _ *call, r *ruleRow) []string { return append(d, r.ID) },
	},
	write: func(c *call, x *xmlWriter, page []*ruleRow) {
		for _, r := range page {
			x.open("item")
			x.str("securityGroupRuleId", r.ID)
			x.str("groupId", r.group.ID)
			x.str("groupOwnerId", c.account.ID)
			x.bool("isEgress", r.egress)
			x.str("ipProtocol", r.Protocol)
			x.str("fromPort", cmp.Or(portText(r.GroupRule, r.From), "-1"))
			x.str("toPort", cmp.Or(portText(r.GroupRule, r.To), "-1"))
			x.opt("cidrIpv4", r.CIDR)
			x.opt("cidrIpv6", r.CIDR6)
			x.opt("prefixListId", r.PrefixList)
			if r.Group != "" {
				x.open("referencedGroupInfo")
				x.str("groupId", r.Group)
				x.str("userId", c.account.ID)
				x.close("referencedGroupInfo")
			}
			x.opt("description", r.Description)
			x.str("securityGroupRuleArn", c.region.arn("security-group-rule", r.ID))
			x.close("item")
		}
	},
}

var prefixListListing = &listing[PrefixList]{
	what: "prefixListId", set: "prefixListSet", ids: "PrefixListId",
	prefix: "pl-", notFound: "InvalidPrefixListID.NotFound", missing: "The prefix list ID '%s' does not exist", malformed: "InvalidPrefixListId.Malformed",
	limit: 100, least: 1, exact: true,
	rows:   func(c *call) []PrefixList { return c.region.PrefixLists },
	hidden: func(_ *call, l *PrefixList) bool { return l.Hidden },
	id:     func(l *PrefixList) string { return l.ID },
	tags:   func(l *PrefixList) []Tag { return l.Tags },
	fields: map[string]func([]string, *call, *PrefixList) []string{
		"owner-id":         func(d []string, c *call, l *PrefixList) []string { return append(d, l.owner(c)) },
		"prefix-list-id":   func(d []string, _ *call, l *PrefixList) []string { return append(d, l.ID) },
		"prefix-list-name": func(d []string, _ *call, l *PrefixList) []string { return append(d, l.Name) },
	},
	write: func(c *call, x *xmlWriter, page []*PrefixList) {
		for _, l := range page {
			x.open("item")
			x.str("prefixListId", l.ID)
			x.str("addressFamily", l.Family)
			x.str("prefixListName", l.Name)
			x.str("ownerId", l.owner(c))
			if l.Owner == ownerAWS {
				x.str("prefixListArn", "arn:aws:ec2:"+c.region.Name+":aws:prefix-list/"+l.ID)
				x.str("state", "create-complete")
			} else {
				x.str("prefixListArn", "arn:aws:ec2:"+c.region.Name+":"+l.owner(c)+":prefix-list/"+l.ID)
				x.str("state", "modify-complete")
				x.int("maxEntries", int64(len(l.entries())+10))
				x.int("version", int64(len(l.Versions)))
			}
			x.tags(l.Tags)
			x.close("item")
		}
	},
}

const ownerAWS = "AWS"

func (l *PrefixList) owner(c *call) string {
	if l.Owner == "" {
		return c.account.ID
	}
	return l.Owner
}

func getManagedPrefixListEntries(c *call, x *xmlWriter) (*answer, error) {
	id := c.form.get("PrefixListId")
	if id == "" {
		return nil, fail(400, "MissingParameter", "The request must contain the parameter PrefixListId")
	}
	if err := dryRun(c); err != nil {
		return nil, err
	}
	rows, err := prefixListListing.byID(c, []string{id}, nil)
	if err != nil {
		return nil, err
	}
	list := rows[0]
	if list.Unreadable {
		return nil, c.refused(true)
	}
	entries := list.entries()
	if text := c.form.get("TargetVersion"); text != "" {
		v, err := strconv.Atoi(text)
		if err != nil || v < 1 || v > len(list.Versions) {
			return nil, fail(400, "InvalidPrefixListVersion", "The prefix list version '%s' does not exist for prefix list '%s'.", text, id)
		}
		entries = list.Versions[v-1]
	}
	l := &listing[string]{
		set: "entrySet", limit: 100, least: 1, exact: true,
		rows: func(*call) []string { return entries },
		tags: func(*string) []Tag { return nil },
		write: func(_ *call, x *xmlWriter, page []*string) {
			for _, cidr := range page {
				x.open("item")
				x.str("cidr", *cidr)
				x.close("item")
			}
		},
	}
	return l.describe(c, x)
}
