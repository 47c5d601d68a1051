package inventory

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

// Address is a public IPv4 address that an instance holds.
type Address struct {
	IP string
	// AllocationID such as eipalloc-0abc; empty for an address of Amazon's
	// pool.
	AllocationID string
	// InterfaceID is where it sits; empty where AWS does not tell.
	InterfaceID string
	// Own tells an address of a pool the account brought to AWS, for which
	// AWS charges nothing.
	Own bool
}

// InstanceAddresses fills Instance.Addresses with what the instance's
// interfaces show and the Elastic IPs associated with it, which stay
// associated, and are charged, while it is stopped. One call for 200
// instances.
var InstanceAddresses = Fact[Instance]{
	Name:    "public_addresses",
	Actions: []string{"ec2:DescribeAddresses"},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Instance) error {
		const source = "ec2:DescribeAddresses"
		return batches(ctx, rs, filterValues, func(i *Instance) string { return i.ID }, func(ctx context.Context, ids []string, rs []*Instance) {
			byInstance := make(map[string][]Address, len(ids))
			out, err := s.EC2().DescribeAddresses(ctx, &ec2.DescribeAddressesInput{Filters: filter("instance-id", ids)})
			if err != nil {
				err = aws.Explain(err)
				for _, i := range rs {
					i.Addresses = rule.Failed[[]Address](source, err)
				}
				return
			}
			for _, a := range out.Addresses {
				if ip, id := val(a.PublicIp), val(a.InstanceId); ip != "" && id != "" {
					byInstance[id] = append(byInstance[id], Address{
						IP: ip, AllocationID: val(a.AllocationId), InterfaceID: val(a.NetworkInterfaceId),
						Own: ownPool(val(a.PublicIpv4Pool)),
					})
				}
			}
			for _, i := range rs {
				all := byInstance[i.ID]
				elastic := map[string]bool{}
				for _, a := range all {
					elastic[a.IP] = true
				}
				for _, n := range i.Interfaces {
					for _, p := range n.PublicIPv4 {
						if !elastic[p.IP] {
							elastic[p.IP] = true
							all = append(all, Address{IP: p.IP, InterfaceID: n.ID})
						}
					}
				}
				i.Addresses = rule.Known(all, source, at)
			}
		})
	},
}
