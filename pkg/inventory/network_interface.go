package inventory

import (
	"context"
	"net/netip"
	"slices"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/aws"
)

const describeInterfaces = "ec2:DescribeNetworkInterfaces"

// NetworkInterface is an elastic network interface, of an instance or of a
// service such as a load balancer.
type NetworkInterface struct {
	// ID such as eni-0abc; InterfaceType such as interface, lambda or
	// nat_gateway; Description as its maker wrote it.
	ID, InterfaceType, Description string
	// Status is available (attached to nothing), associated, attaching,
	// in-use or detaching.
	Status          string
	SubnetID, VPCID string
	// InstanceID is the instance it is attached to; empty for none.
	InstanceID string
	GroupIDs   []string
	// PublicIPv4 are the public addresses associated with it, IPv6 its own.
	PublicIPv4, IPv6 []string
}

func listNetworkInterfaces(ctx context.Context, s *aws.Session, filters []types.Filter, page func([]NetworkInterface)) error {
	pages := ec2.NewDescribeNetworkInterfacesPaginator(s.EC2(), &ec2.DescribeNetworkInterfacesInput{MaxResults: new(int32(1000)), Filters: filters})
	return stream(ctx, describeInterfaces, pages.HasMorePages, func() (*string, error) {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, aws.Explain(err)
		}
		ns := make([]NetworkInterface, len(out.NetworkInterfaces))
		for i := range out.NetworkInterfaces {
			if ns[i], err = newNetworkInterface(&out.NetworkInterfaces[i]); err != nil {
				return nil, err
			}
		}
		page(ns)
		return out.NextToken, nil
	})
}

func newNetworkInterface(in *types.NetworkInterface) (NetworkInterface, error) {
	n := NetworkInterface{
		ID: val(in.NetworkInterfaceId), InterfaceType: string(in.InterfaceType), Description: val(in.Description), Status: string(in.Status),
		SubnetID: val(in.SubnetId), VPCID: val(in.VpcId), GroupIDs: groupIDs(in.Groups),
	}
	if n.ID == "" {
		return n, aws.Malformed(describeInterfaces, "a network interface without an id")
	}
	if in.Attachment != nil {
		n.InstanceID = val(in.Attachment.InstanceId)
	}
	public := func(a *types.NetworkInterfaceAssociation) {
		if a != nil && val(a.PublicIp) != "" && !slices.Contains(n.PublicIPv4, *a.PublicIp) {
			n.PublicIPv4 = append(n.PublicIPv4, *a.PublicIp)
		}
	}
	public(in.Association)
	for _, p := range in.PrivateIpAddresses {
		public(p.Association)
	}
	for _, a := range in.Ipv6Addresses {
		if ip := val(a.Ipv6Address); ip != "" {
			n.IPv6 = append(n.IPv6, ip)
		}
	}
	return n, nil
}

// globalIPv6 is the part of IPv6 that is routed on the internet.
var globalIPv6 = netip.MustParsePrefix("2000::/3")

// Public tells whether the interface has an address of the internet.
func (n *Interface) Public() bool { return len(n.PublicIPv4) > 0 || len(n.GlobalIPv6()) > 0 }

// GlobalIPv6 returns its IPv6 addresses that are global unicast, which private
// ones (fd00::/8) and link-local ones are not.
func (n *Interface) GlobalIPv6() []string {
	var global []string
	for _, ip := range n.IPv6 {
		if a, err := netip.ParseAddr(ip); err == nil && globalIPv6.Contains(a) {
			global = append(global, ip)
		}
	}
	return global
}

// primaryAddresses takes over the addresses that an answer shows on the
// instance itself and on none of its interfaces. AWS shows them on both.
func (i *Instance) primaryAddresses(in *types.Instance) {
	private, public, global := val(in.PrivateIpAddress), val(in.PublicIpAddress), val(in.Ipv6Address)
	if len(i.Interfaces) == 0 {
		if private == "" && public == "" && global == "" {
			return
		}
		n := Interface{SubnetID: i.SubnetID, VPCID: i.VPCID, GroupIDs: i.GroupIDs}
		if private != "" {
			n.PrivateIPv4 = []string{private}
		}
		i.Interfaces = []Interface{n}
	}
	primary := &i.Interfaces[max(slices.IndexFunc(i.Interfaces, func(n Interface) bool { return n.Index == 0 }), 0)]
	if public != "" && !slices.ContainsFunc(i.PublicIPv4s(), func(p PublicIPv4) bool { return p.IP == public }) {
		primary.PublicIPv4 = append(primary.PublicIPv4, PublicIPv4{IP: public})
	}
	if global != "" && !slices.ContainsFunc(i.Interfaces, func(n Interface) bool { return slices.Contains(n.IPv6, global) }) {
		primary.IPv6 = append(primary.IPv6, global)
	}
}
