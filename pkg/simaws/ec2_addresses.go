package simaws

import "slices"

var addressListing = &listing[Address]{
	what: "allocationId", set: "addressesSet", ids: "AllocationId",
	prefix: "eipalloc-", notFound: "InvalidAllocationID.NotFound", missing: "The allocation ID '%s' does not exist", malformed: "InvalidParameterValue",
	rows: func(c *call) []Address { return c.region.Addresses },
	hidden: func(c *call, a *Address) bool {
		ips := c.form.list("PublicIp")
		return len(ips) > 0 && !slices.Contains(ips, a.PublicIP)
	},
	id:   func(a *Address) string { return a.Allocation },
	tags: func(a *Address) []Tag { return a.Tags },
	fields: map[string]func([]string, *call, *Address) []string{
		"allocation-id":        func(d []string, _ *call, a *Address) []string { return append(d, a.Allocation) },
		"association-id":       func(d []string, _ *call, a *Address) []string { return appendSet(d, a.association()) },
		"domain":               func(d []string, _ *call, _ *Address) []string { return append(d, "vpc") },
		"instance-id":          func(d []string, _ *call, a *Address) []string { return appendSet(d, a.Instance) },
		"network-border-group": func(d []string, c *call, _ *Address) []string { return append(d, c.region.Name) },
		"network-interface-id": func(d []string, c *call, a *Address) []string {
			if n := c.region.interfaceOf(a); n != nil {
				d = append(d, n.ID)
			}
			return d
		},
		"network-interface-owner-id": func(d []string, c *call, a *Address) []string {
			if a.association() == "" {
				return d
			}
			return append(d, c.account.ID)
		},
		"private-ip-address": func(d []string, c *call, a *Address) []string { return appendSet(d, c.region.privateOf(a)) },
		"public-ip":          func(d []string, _ *call, a *Address) []string { return append(d, a.PublicIP) },
	},
	write: func(c *call, x *xmlWriter, page []*Address) {
		for _, a := range page {
			x.open("item")
			x.str("publicIp", a.PublicIP)
			x.str("allocationId", a.Allocation)
			x.str("domain", "vpc")
			if as := a.association(); as != "" {
				x.opt("instanceId", a.Instance)
				x.str("associationId", as)
				x.str("networkInterfaceId", c.region.interfaceOf(a).ID)
				x.str("networkInterfaceOwnerId", c.account.ID)
				x.str("privateIpAddress", c.region.privateOf(a))
			}
			x.tags(a.Tags)
			x.str("publicIpv4Pool", "amazon")
			x.str("networkBorderGroup", c.region.Name)
			x.close("item")
		}
	},
}

func appendSet(d []string, v string) []string {
	if v != "" {
		d = append(d, v)
	}
	return d
}

func (a *Address) association() string {
	if a.Instance == "" && a.Interface == "" {
		return ""
	}
	return derived("eipassoc-", a.Allocation)
}
