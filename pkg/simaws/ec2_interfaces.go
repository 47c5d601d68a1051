package simaws

import (
	"fmt"
	"strconv"
	"time"
)

var interfaceListing = &listing[Interface]{
	what: "networkInterfaceId", set: "networkInterfaceSet", ids: "NetworkInterfaceId",
	prefix: "eni-", notFound: "InvalidNetworkInterfaceID.NotFound", missing: "The networkInterface ID '%s' does not exist", malformed: "InvalidNetworkInterfaceId.Malformed",
	limit: 1000, exact: true, either: true,
	rows:   func(c *call) []Interface { return c.region.Interfaces },
	hidden: func(_ *call, n *Interface) bool { return n.Deleted },
	id:     func(n *Interface) string { return n.ID },
	find:   func(c *call, id string) *Interface { return c.region.networkInterface(id) },
	tags:   func(n *Interface) []Tag { return n.Tags },
	fields: map[string]func([]string, *call, *Interface) []string{
		"addresses.association.public-ip": func(d []string, c *call, n *Interface) []string {
			for _, ip := range c.region.privateIPs(n) {
				d = appendSet(d, c.region.association(n, ip).ip)
			}
			return d
		},
		"addresses.private-ip-address": func(d []string, c *call, n *Interface) []string { return append(d, c.region.privateIPs(n)...) },
		"association.allocation-id":    associated(func(a association) string { return a.allocation }),
		"association.association-id":   associated(func(a association) string { return a.id }),
		"association.ip-owner-id":      associated(func(a association) string { return a.owner }),
		"association.public-ip":        associated(func(a association) string { return a.ip }),
		"attachment.attachment-id":     attached(func(_ *call, n *Interface) string { return n.attachmentID() }),
		"attachment.device-index":      attached(func(_ *call, n *Interface) string { return itoa(n.Device) }),
		"attachment.instance-id":       attached(func(_ *call, n *Interface) string { return n.Instance }),
		"attachment.instance-owner-id": attached(func(c *call, n *Interface) string { return n.attacher(c) }),
		"attachment.status":            attached(func(*call, *Interface) string { return "attached" }),
		"availability-zone":            func(d []string, c *call, n *Interface) []string { return append(d, c.region.subnet(n.Subnet).Zone) },
		"availability-zone-id": func(d []string, c *call, n *Interface) []string {
			return append(d, zoneID(c.region.subnet(n.Subnet).Zone))
		},
		"description":                 func(d []string, _ *call, n *Interface) []string { return append(d, n.Description) },
		"group-id":                    func(d []string, _ *call, n *Interface) []string { return append(d, n.Groups...) },
		"interface-type":              func(d []string, _ *call, n *Interface) []string { return append(d, n.kind()) },
		"ipv6-addresses.ipv6-address": func(d []string, _ *call, n *Interface) []string { return append(d, n.IPv6...) },
		"mac-address":                 func(d []string, _ *call, n *Interface) []string { return append(d, n.mac()) },
		"network-interface-id":        func(d []string, _ *call, n *Interface) []string { return append(d, n.ID) },
		"owner-id":                    func(d []string, c *call, _ *Interface) []string { return append(d, c.account.ID) },
		"private-dns-name": func(d []string, c *call, n *Interface) []string {
			return append(d, privateDNS(c.region.Name, c.region.primaryIP(n)))
		},
		"private-ip-address": func(d []string, c *call, n *Interface) []string { return append(d, c.region.privateIPs(n)...) },
		"requester-id":       func(d []string, _ *call, n *Interface) []string { return appendSet(d, n.Service) },
		"requester-managed": func(d []string, _ *call, n *Interface) []string {
			return append(d, strconv.FormatBool(n.Service != ""))
		},
		"source-dest-check": func(d []string, _ *call, n *Interface) []string {
			return append(d, strconv.FormatBool(n.Service == ""))
		},
		"status":    func(d []string, _ *call, n *Interface) []string { return append(d, n.status()) },
		"subnet-id": func(d []string, _ *call, n *Interface) []string { return append(d, n.Subnet) },
		"vpc-id":    func(d []string, c *call, n *Interface) []string { return append(d, c.region.subnet(n.Subnet).VPC) },
	},
	write: func(c *call, x *xmlWriter, page []*Interface) {
		for _, n := range page {
			s := c.region.subnet(n.Subnet)
			x.open("item")
			x.str("availabilityZone", s.Zone)
			x.str("availabilityZoneId", zoneID(s.Zone))
			x.opt("requesterId", n.Service)
			x.bool("requesterManaged", n.Service != "")
			writeInterface(c, x, n)
			x.tags(n.Tags)
			x.close("item")
		}
	},
}

func associated(value func(association) string) func([]string, *call, *Interface) []string {
	return func(d []string, c *call, n *Interface) []string {
		return appendSet(d, value(c.region.association(n, c.region.primaryIP(n))))
	}
}

func attached(value func(*call, *Interface) string) func([]string, *call, *Interface) []string {
	return func(d []string, c *call, n *Interface) []string {
		if n.status() == "available" {
			return d
		}
		return appendSet(d, value(c, n))
	}
}

func (n *Interface) attachmentID() string { return derived("eni-attach-", n.ID+n.Instance+n.Service) }

func (n *Interface) attacher(c *call) string {
	if n.Service != "" {
		return n.Service
	}
	return c.account.ID
}

func (n *Interface) mac() string {
	h := hashString(n.ID)
	return fmt.Sprintf("0a:%02x:%02x:%02x:%02x:%02x", h>>32&255, h>>24&255, h>>16&255, h>>8&255, h&255)
}

// privateIPs are the interface's private IPv4 addresses, the primary one first.
func (r *Region) privateIPs(n *Interface) []string {
	return append([]string{r.primaryIP(n)}, n.Secondary...)
}

// association is a public IPv4 address on a private one; empty without ip. Only an Elastic IP has ids.
type association struct{ ip, owner, allocation, id string }

func (r *Region) association(n *Interface, private string) association {
	if a := r.elastic(n, private); a != nil {
		return association{a.PublicIP, r.account.ID, a.Allocation, a.association()}
	}
	if private == r.primaryIP(n) {
		if ip := r.assigned(n); ip != "" {
			return association{ip: ip, owner: "amazon"}
		}
	}
	return association{}
}

// writeInterface writes what DescribeInstances and DescribeNetworkInterfaces both say of an interface.
func writeInterface(c *call, x *xmlWriter, n *Interface) {
	r := c.region
	s := r.subnet(n.Subnet)
	elastic := c.action != "DescribeInstances" // which leaves the ids of the association out
	associate := func(private string) {
		a := r.association(n, private)
		if a.ip == "" {
			return
		}
		x.open("association")
		x.str("publicIp", a.ip)
		x.str("publicDnsName", publicDNS(r.Name, a.ip))
		x.str("ipOwnerId", a.owner)
		if elastic {
			x.opt("allocationId", a.allocation)
			x.opt("associationId", a.id)
		}
		x.close("association")
	}
	primary := r.primaryIP(n)
	x.str("networkInterfaceId", n.ID)
	x.str("subnetId", n.Subnet)
	x.str("vpcId", s.VPC)
	x.str("description", n.Description)
	x.str("ownerId", c.account.ID)
	x.str("status", n.status())
	x.str("macAddress", n.mac())
	x.str("privateIpAddress", primary)
	x.str("privateDnsName", privateDNS(r.Name, primary))
	x.bool("sourceDestCheck", n.Service == "")
	writeGroups(r, x, n)
	if n.status() == "in-use" {
		x.open("attachment")
		x.str("attachmentId", n.attachmentID())
		if elastic {
			x.opt("instanceId", n.Instance)
			x.str("instanceOwnerId", n.attacher(c))
		}
		x.int("deviceIndex", int64(n.Device))
		x.str("status", "attached")
		if at := r.attachedAt(n); !at.IsZero() {
			x.time("attachTime", at)
		}
		x.bool("deleteOnTermination", n.Instance != "" && n.Device == 0)
		x.raw("<networkCardIndex>0</networkCardIndex>")
		x.close("attachment")
	}
	associate(primary)
	x.open("privateIpAddressesSet")
	for i, ip := range r.privateIPs(n) {
		x.open("item")
		x.str("privateIpAddress", ip)
		x.str("privateDnsName", privateDNS(r.Name, ip))
		x.bool("primary", i == 0)
		associate(ip)
		x.close("item")
	}
	x.close("privateIpAddressesSet")
	x.open("ipv6AddressesSet")
	for _, ip := range n.IPv6 {
		x.open("item")
		x.str("ipv6Address", ip)
		x.bool("isPrimaryIpv6", false)
		x.close("item")
	}
	x.close("ipv6AddressesSet")
	x.str("interfaceType", n.kind())
}

func writeGroups(r *Region, x *xmlWriter, n *Interface) {
	x.open("groupSet")
	for _, id := range n.Groups {
		x.open("item")
		x.str("groupId", id)
		if g := r.group(id); g != nil {
			x.str("groupName", g.Name)
		}
		x.close("item")
	}
	x.close("groupSet")
}

func (r *Region) attachedAt(n *Interface) (at time.Time) {
	if in := r.instance(n.Instance); in != nil && n.Attached.IsZero() {
		return in.Created
	}
	return n.Attached
}
