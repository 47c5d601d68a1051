package simaws

import (
	"slices"
	"strconv"
	"strings"
)

var routeTableListing = &listing[RouteTable]{
	what: "routeTableId", set: "routeTableSet", ids: "RouteTableId",
	prefix: "rtb-", notFound: "InvalidRouteTableID.NotFound", missing: "The routeTable ID '%s' does not exist", malformed: "InvalidRouteTableId.Malformed",
	limit: 100, exact: true, either: true,
	rows: func(c *call) []RouteTable { return c.region.RouteTables },
	id:   func(t *RouteTable) string { return t.ID },
	tags: func(t *RouteTable) []Tag { return t.Tags },
	fields: map[string]func([]string, *call, *RouteTable) []string{
		"association.main": func(d []string, _ *call, t *RouteTable) []string {
			if t.Main {
				d = append(d, "true")
			}
			if len(t.Subnets) > 0 {
				d = append(d, "false")
			}
			return d
		},
		"association.route-table-association-id": func(d []string, _ *call, t *RouteTable) []string { return append(d, t.associations()...) },
		"association.route-table-id": func(d []string, _ *call, t *RouteTable) []string {
			if len(t.associations()) > 0 {
				d = append(d, t.ID)
			}
			return d
		},
		"association.subnet-id":             func(d []string, _ *call, t *RouteTable) []string { return append(d, t.Subnets...) },
		"owner-id":                          func(d []string, c *call, _ *RouteTable) []string { return append(d, c.account.ID) },
		"route-table-id":                    func(d []string, _ *call, t *RouteTable) []string { return append(d, t.ID) },
		"route.destination-cidr-block":      eachRoute(func(r *Route) string { return r.in("destinationCidrBlock") }),
		"route.destination-ipv6-cidr-block": eachRoute(func(r *Route) string { return r.in("destinationIpv6CidrBlock") }),
		"route.destination-prefix-list-id":  eachRoute(func(r *Route) string { return r.in("destinationPrefixListId") }),
		"route.egress-only-internet-gateway-id": eachRoute(func(r *Route) string {
			return r.through("egressOnlyInternetGatewayId")
		}),
		"route.gateway-id":                eachRoute(func(r *Route) string { return r.through("gatewayId") }),
		"route.nat-gateway-id":            eachRoute(func(r *Route) string { return r.through("natGatewayId") }),
		"route.transit-gateway-id":        eachRoute(func(r *Route) string { return r.through("transitGatewayId") }),
		"route.vpc-peering-connection-id": eachRoute(func(r *Route) string { return r.through("vpcPeeringConnectionId") }),
		"route.origin":                    eachRoute((*Route).origin),
		"route.state":                     eachRoute((*Route).state),
		"vpc-id":                          func(d []string, _ *call, t *RouteTable) []string { return append(d, t.VPC) },
	},
	write: func(c *call, x *xmlWriter, page []*RouteTable) {
		for _, t := range page {
			x.open("item")
			x.str("routeTableId", t.ID)
			x.str("vpcId", t.VPC)
			x.str("ownerId", c.account.ID)
			x.open("routeSet")
			for i := range t.Routes {
				r := &t.Routes[i]
				x.open("item")
				x.str(r.family(), r.Destination)
				x.str(r.way(), r.Target)
				x.str("state", r.state())
				x.str("origin", r.origin())
				x.close("item")
			}
			x.close("routeSet")
			x.open("associationSet")
			for i, id := range t.associations() {
				x.open("item")
				x.str("routeTableAssociationId", id)
				x.str("routeTableId", t.ID)
				if i < len(t.Subnets) {
					x.str("subnetId", t.Subnets[i])
				}
				x.str("main", strconv.FormatBool(i == len(t.Subnets)))
				x.raw("<associationState><state>associated</state></associationState>")
				x.close("item")
			}
			x.close("associationSet")
			x.raw("<propagatingVgwSet/>")
			x.tags(t.Tags)
			x.close("item")
		}
	},
}

// associations are the ids of the table's associations: one for each subnet, and behind them that of the main table.
func (t *RouteTable) associations() []string {
	var ids []string
	for _, s := range t.Subnets {
		ids = append(ids, derived("rtbassoc-", t.ID+s))
	}
	if t.Main {
		ids = append(ids, derived("rtbassoc-", t.ID))
	}
	return ids
}

func eachRoute(value func(*Route) string) func([]string, *call, *RouteTable) []string {
	return func(d []string, _ *call, t *RouteTable) []string {
		for i := range t.Routes {
			d = appendSet(d, value(&t.Routes[i]))
		}
		return d
	}
}

// family is the element of a route's destination, way that of its target.
func (r *Route) family() string {
	switch {
	case strings.HasPrefix(r.Destination, "pl-"):
		return "destinationPrefixListId"
	case strings.Contains(r.Destination, ":"):
		return "destinationIpv6CidrBlock"
	}
	return "destinationCidrBlock"
}

var ways = []struct{ prefix, element string }{
	{"eigw-", "egressOnlyInternetGatewayId"}, {"nat-", "natGatewayId"}, {"tgw-", "transitGatewayId"}, {"pcx-", "vpcPeeringConnectionId"}, {"eni-", "networkInterfaceId"},
}

func (r *Route) way() string {
	if i := slices.IndexFunc(ways, func(w struct{ prefix, element string }) bool { return strings.HasPrefix(r.Target, w.prefix) }); i >= 0 {
		return ways[i].element
	}
	return "gatewayId" // internet gateways, VPC endpoints, and local
}

func (r *Route) in(family string) string {
	if r.family() == family {
		return r.Destination
	}
	return ""
}

func (r *Route) through(way string) string {
	if r.way() == way {
		return r.Target
	}
	return ""
}

func (r *Route) state() string {
	if r.Blackhole {
		return "blackhole"
	}
	return "active"
}

func (r *Route) origin() string {
	if r.Target == "local" {
		return "CreateRouteTable"
	}
	return "CreateRoute"
}
