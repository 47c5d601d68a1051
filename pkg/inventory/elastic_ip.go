package inventory

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

const describeAddresses = "ec2:DescribeAddresses"

// ElasticIP is an Elastic IP address of the account.
type ElasticIP struct {
	Resource
	// IP is the public IPv4 address; empty for one of a carrier or of the
	// customer's own network, which is not on the internet.
	IP string
	// AssociationID, InstanceID and InterfaceID are empty when it is not
	// associated; InstanceID also when the interface is no instance's.
	AssociationID, InstanceID, InterfaceID string
	// InterfaceOwner is the account whose interface it is on.
	InterfaceOwner string
	// ManagedBy is the AWS service that holds it, such as alb or rds; empty
	// for none.
	ManagedBy string
	// Own tells an address of a pool the account brought to AWS, for which AWS
	// charges nothing.
	Own bool

	// Interface is the interface it is on: fact ElasticIPInterface.
	Interface rule.Fact[NetworkInterface]
}

// Associated tells whether it is associated with anything.
func (e *ElasticIP) Associated() bool {
	return e.AssociationID != "" || e.InstanceID != "" || e.InterfaceID != ""
}

// ElasticIPs lists the account's Elastic IP addresses, in one call: AWS knows
// no pages of them.
var ElasticIPs = Kind[ElasticIP]{
	Type:    "AWS::EC2::EIP",
	Actions: []string{describeAddresses},
	Of:      func(e *ElasticIP) *Resource { return &e.Resource },
	List: func(ctx context.Context, s *aws.Session, page func([]ElasticIP) error) error {
		out, err := s.EC2().DescribeAddresses(ctx, &ec2.DescribeAddressesInput{})
		if err != nil {
			return aws.Explain(err)
		}
		rs := make([]ElasticIP, len(out.Addresses))
		for i := range out.Addresses {
			if rs[i], err = newElasticIP(s, &out.Addresses[i]); err != nil {
				return err
			}
		}
		return page(rs)
	},
}

func newElasticIP(s *aws.Session, in *types.Address) (ElasticIP, error) {
	// An address of the time before VPCs has no allocation id.
	id := cmp.Or(val(in.AllocationId), val(in.PublicIp))
	if id == "" {
		return ElasticIP{}, aws.Malformed(describeAddresses, "an address without an id")
	}
	return ElasticIP{
		Resource: Resource{
			ARN: s.ARN("ec2", "elastic-ip/"+id), ID: id, Type: "AWS::EC2::EIP",
			Account: s.Account, Region: s.Region, Tags: tags(in.Tags),
		},
		IP:             val(in.PublicIp),
		AssociationID:  val(in.AssociationId),
		InstanceID:     val(in.InstanceId),
		InterfaceID:    val(in.NetworkInterfaceId),
		InterfaceOwner: val(in.NetworkInterfaceOwnerId),
		ManagedBy:      string(in.ServiceManaged),
		Own:            ownPool(val(in.PublicIpv4Pool)),
	}, nil
}

// ownPool tells the id of a pool that the account brought to AWS.
func ownPool(id string) bool { return strings.HasPrefix(id, "ipv4pool-") }

// ElasticIPInterface fills ElasticIP.Interface, 200 interfaces in a call.
var ElasticIPInterface = Fact[ElasticIP]{
	Name:    "interface",
	Actions: []string{describeInterfaces},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*ElasticIP) error {
		return batches(ctx, rs, filterValues, func(e *ElasticIP) string { return e.InterfaceID }, func(ctx context.Context, ids []string, rs []*ElasticIP) {
			found := make(map[string]NetworkInterface, len(ids))
			err := listNetworkInterfaces(ctx, s, filter("network-interface-id", ids), func(ns []NetworkInterface) {
				for _, n := range ns {
					found[n.ID] = n
				}
			})
			for _, e := range rs {
				n, ok := found[e.InterfaceID]
				switch {
				case ok:
					e.Interface = rule.Known(n, describeInterfaces, at)
				case err != nil:
					e.Interface = rule.Failed[NetworkInterface](describeInterfaces, err)
				default:
					e.Interface = rule.Fact[NetworkInterface]{
						Source: describeInterfaces, At: at, Why: describeInterfaces + " does not show " + e.InterfaceID,
					}
				}
			}
		})
	},
}
