package inventory

import (
	"context"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

const describeRouteTables = "ec2:DescribeRouteTables"

// Routes is what a subnet's effective route table says about the internet.
type Routes struct {
	// Table is the route table's id.
	Table string
	// Main tells that the subnet has no table of its own and the VPC's main
	// one holds.
	Main bool
	// GatewayIPv4 and GatewayIPv6 are the internet gateway that an active
	// route of the family leads to; empty for none.
	GatewayIPv4, GatewayIPv6 string
}

// regionRoutes is every effective route table of a region.
type regionRoutes struct {
	bySubnet map[string]Routes
	// main by VPC.
	main map[string]Routes
}

// of returns what holds for a subnet of a VPC.
func (r regionRoutes) of(subnet, vpc string) (Routes, bool) {
	if own, ok := r.bySubnet[subnet]; ok {
		return own, true
	}
	main, ok := r.main[vpc]
	return main, ok
}

type sessionRoutes struct{ lookup[regionRoutes] }

// InstanceRoutes fills Instance.Routes for those of its interfaces that have a
// public address. The region's route tables are read once in a session.
var InstanceRoutes = Fact[Instance]{
	Name:    "routes",
	Actions: []string{describeRouteTables},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Instance) error {
		all := aws.Kept[sessionRoutes](s).get(ctx, describeRouteTables, at, []string{s.Region},
			func(ctx context.Context, _ []string) (map[string]rule.Fact[regionRoutes], error) {
				r, err := readRoutes(ctx, s)
				if err != nil {
					return nil, err
				}
				return known(map[string]regionRoutes{s.Region: r}, describeRouteTables, at), nil
			})[s.Region]
		for _, i := range rs {
			i.Routes = map[string]rule.Fact[Routes]{}
			for _, n := range i.Interfaces {
				if !n.Public() {
					continue
				}
				f := rule.Fact[Routes]{Failed: all.Failed, Why: all.Why, Source: all.Source, At: all.At}
				if all.Known {
					if f.Value, f.Known = all.Value.of(n.SubnetID, n.VPCID); !f.Known {
						f.Why = "neither subnet " + n.SubnetID + " nor its VPC shows a route table"
					}
				}
				i.Routes[n.SubnetID] = f
			}
		}
		return context.Cause(ctx)
	},
}

func readRoutes(ctx context.Context, s *aws.Session) (regionRoutes, error) {
	r := regionRoutes{bySubnet: map[string]Routes{}, main: map[string]Routes{}}
	pages := ec2.NewDescribeRouteTablesPaginator(s.EC2(), &ec2.DescribeRouteTablesInput{MaxResults: new(int32(100))})
	err := stream(ctx, describeRouteTables, pages.HasMorePages, func() (*string, error) {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, aws.Explain(err)
		}
		for i := range out.RouteTables {
			r.add(&out.RouteTables[i])
		}
		return out.NextToken, nil
	})
	return r, err
}

func (r *regionRoutes) add(in *types.RouteTable) {
	t := Routes{Table: val(in.RouteTableId)}
	for _, route := range in.Routes {
		gateway := val(route.GatewayId)
		// A blackhole's target is gone.
		if !strings.HasPrefix(gateway, "igw-") || route.State == types.RouteStateBlackhole {
			continue
		}
		// A destination that is a prefix list can be of either family.
		list := val(route.DestinationPrefixListId) != ""
		if val(route.DestinationCidrBlock) != "" || list {
			t.GatewayIPv4 = gateway
		}
		if val(route.DestinationIpv6CidrBlock) != "" || list {
			t.GatewayIPv6 = gateway
		}
	}
	for _, a := range in.Associations {
		if a.AssociationState != nil {
			switch a.AssociationState.State {
			case types.RouteTableAssociationStateCodeDisassociated, types.RouteTableAssociationStateCodeFailed:
				continue
			default: // it holds, or is about to or until now
			}
		}
		if subnet := val(a.SubnetId); subnet != "" {
			r.bySubnet[subnet] = t
		}
		if vpc := val(in.VpcId); vpc != "" && val(a.Main) {
			main := t
			main.Main = true
			r.main[vpc] = main
		}
	}
}
