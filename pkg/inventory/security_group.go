package inventory

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

const (
	describeGroups = "ec2:DescribeSecurityGroups"
	describeRules  = "ec2:DescribeSecurityGroupRules"
)

// SecurityGroup is a security group of a VPC. AWS does not tell when it was
// created.
type SecurityGroup struct {
	Resource
	// GroupName is default for the group that comes with a VPC, and for no
	// other.
	GroupName, Description, VPCID string
	// Ingress are its inbound permissions.
	Ingress []Permission

	// Rules are its inbound rules with their ids, which Ingress does not tell:
	// fact SecurityGroupRules.
	Rules rule.Fact[[]SecurityGroupRule]
	// PrefixLists are the prefix lists Ingress refers to, by id: fact
	// SecurityGroupPrefixLists.
	PrefixLists map[string]rule.Fact[PrefixList]
	// Interfaces are the network interfaces that have the group: fact
	// SecurityGroupInterfaces.
	Interfaces rule.Fact[[]NetworkInterface]
}

// Ports are a protocol and its ports, as AWS writes them.
type Ports struct {
	// Protocol is tcp, udp, icmp, icmpv6, a number, or -1 for all; empty when
	// AWS left it out.
	Protocol string
	// From and To are the first and the last port, or an ICMP type and code;
	// nil when AWS left them out, -1 for all.
	From, To *int
}

// Permission lets traffic to some ports in from some peers.
type Permission struct {
	Ports
	// CIDRs are the address ranges, IPv4 and IPv6, as AWS writes them.
	CIDRs []string
	// PrefixLists are the ids of prefix lists, Groups of other groups.
	PrefixLists, Groups []string
}

// SecurityGroupRule is one inbound rule: some ports from one peer.
type SecurityGroupRule struct {
	// ID such as sgr-0abc.
	ID string
	Ports
	// CIDR, PrefixList or Group is the peer, as AWS writes it; the others are
	// empty.
	CIDR, PrefixList, Group string
}

// SecurityGroups lists the account's security groups. One that another account
// shares with it is that account's.
var SecurityGroups = Kind[SecurityGroup]{
	Type:    "AWS::EC2::SecurityGroup",
	Actions: []string{describeGroups},
	Of:      func(g *SecurityGroup) *Resource { return &g.Resource },
	List: func(ctx context.Context, s *aws.Session, page func([]SecurityGroup) error) error {
		return listSecurityGroups(ctx, s, nil, func(in []SecurityGroup) error {
			own := make([]SecurityGroup, 0, len(in))
			for _, g := range in {
				if g.Account == s.Account {
					own = append(own, g)
				}
			}
			return page(own)
		})
	},
}

func listSecurityGroups(ctx context.Context, s *aws.Session, filters []types.Filter, page func([]SecurityGroup) error) error {
	pages := ec2.NewDescribeSecurityGroupsPaginator(s.EC2(), &ec2.DescribeSecurityGroupsInput{MaxResults: new(int32(1000)), Filters: filters})
	return stream(ctx, describeGroups, pages.HasMorePages, func() (*string, error) {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, aws.Explain(err)
		}
		gs := make([]SecurityGroup, len(out.SecurityGroups))
		for i := range out.SecurityGroups {
			if gs[i], err = newSecurityGroup(s, &out.SecurityGroups[i]); err != nil {
				return nil, err
			}
		}
		return out.NextToken, page(gs)
	})
}

func newSecurityGroup(s *aws.Session, in *types.SecurityGroup) (SecurityGroup, error) {
	id := val(in.GroupId)
	if id == "" {
		return SecurityGroup{}, aws.Malformed(describeGroups, "a security group without an id")
	}
	g := SecurityGroup{
		Resource: Resource{
			ARN: s.ARN("ec2", "security-group/"+id), ID: id, Type: "AWS::EC2::SecurityGroup",
			Account: s.Account, Region: s.Region, Tags: tags(in.Tags),
		},
		GroupName: val(in.GroupName), Description: val(in.Description), VPCID: val(in.VpcId),
	}
	if owner := val(in.OwnerId); owner != "" && owner != s.Account {
		g.Account = owner
		g.ARN = "arn:" + s.Partition + ":ec2:" + s.Region + ":" + owner + ":security-group/" + id
	}
	for _, in := range in.IpPermissions {
		p := Permission{Ports: newPorts(in.IpProtocol, in.FromPort, in.ToPort)}
		for _, r := range in.IpRanges {
			p.CIDRs = append(p.CIDRs, val(r.CidrIp))
		}
		for _, r := range in.Ipv6Ranges {
			p.CIDRs = append(p.CIDRs, val(r.CidrIpv6))
		}
		for _, r := range in.PrefixListIds {
			p.PrefixLists = append(p.PrefixLists, val(r.PrefixListId))
		}
		for _, r := range in.UserIdGroupPairs {
			p.Groups = append(p.Groups, val(r.GroupId))
		}
		g.Ingress = append(g.Ingress, p)
	}
	return g, nil
}

func newPorts(protocol *string, from, to *int32) Ports {
	p := Ports{Protocol: val(protocol)}
	if from != nil {
		p.From = new(int(*from))
	}
	if to != nil {
		p.To = new(int(*to))
	}
	return p
}

// SecurityGroupRules fills SecurityGroup.Rules: one call for 200 groups, and
// more when they have more than 1,000 rules.
var SecurityGroupRules = Fact[SecurityGroup]{
	Name:    "rule_ids",
	Actions: []string{describeRules},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*SecurityGroup) error {
		return batches(ctx, rs, filterValues, func(g *SecurityGroup) string { return g.ID }, func(ctx context.Context, ids []string, rs []*SecurityGroup) {
			found := make(map[string][]SecurityGroupRule, len(ids))
			pages := ec2.NewDescribeSecurityGroupRulesPaginator(s.EC2(), &ec2.DescribeSecurityGroupRulesInput{
				MaxResults: new(int32(1000)), Filters: filter("group-id", ids),
			})
			err := stream(ctx, describeRules, pages.HasMorePages, func() (*string, error) {
				out, err := pages.NextPage(ctx)
				if err != nil {
					return nil, aws.Explain(err)
				}
				for _, in := range out.SecurityGroupRules {
					group := val(in.GroupId)
					if group == "" || val(in.IsEgress) {
						continue
					}
					r := SecurityGroupRule{ID: val(in.SecurityGroupRuleId), Ports: newPorts(in.IpProtocol, in.FromPort, in.ToPort), PrefixList: val(in.PrefixListId)}
					if r.CIDR = val(in.CidrIpv4); r.CIDR == "" {
						r.CIDR = val(in.CidrIpv6)
					}
					if in.ReferencedGroupInfo != nil {
						r.Group = val(in.ReferencedGroupInfo.GroupId)
					}
					found[group] = append(found[group], r)
				}
				return out.NextToken, nil
			})
			for _, g := range rs {
				if err != nil {
					g.Rules = rule.Failed[[]SecurityGroupRule](describeRules, err)
				} else {
					g.Rules = rule.Known(found[g.ID], describeRules, at)
				}
			}
		})
	},
}

// SecurityGroupPrefixLists fills SecurityGroup.PrefixLists. Each list is read
// once in a session.
var SecurityGroupPrefixLists = Fact[SecurityGroup]{
	Name:    "prefix_lists",
	Actions: []string{describePrefixLists, prefixListEntries},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*SecurityGroup) error {
		return fillPrefixLists(ctx, s, at, rs)
	},
}

func fillPrefixLists(ctx context.Context, s *aws.Session, at time.Time, rs []*SecurityGroup) error {
	var ids []string
	for _, g := range rs {
		ids = append(ids, g.prefixLists()...)
	}
	lists := prefixLists(ctx, s, at, ids)
	for _, g := range rs {
		g.PrefixLists = map[string]rule.Fact[PrefixList]{}
		for _, id := range g.prefixLists() {
			g.PrefixLists[id] = lists[id]
		}
	}
	return context.Cause(ctx)
}

// prefixLists are the ids of the prefix lists it refers to.
func (g *SecurityGroup) prefixLists() []string {
	var ids []string
	for _, p := range g.Ingress {
		for _, id := range p.PrefixLists {
			if id != "" {
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// SecurityGroupInterfaces fills SecurityGroup.Interfaces: one call for 200
// groups, and more when they have more than 1,000 interfaces.
var SecurityGroupInterfaces = Fact[SecurityGroup]{
	Name:    "network_interfaces",
	Actions: []string{describeInterfaces},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*SecurityGroup) error {
		return batches(ctx, rs, filterValues, func(g *SecurityGroup) string { return g.ID }, func(ctx context.Context, ids []string, rs []*SecurityGroup) {
			found := make(map[string][]NetworkInterface, len(ids))
			err := listNetworkInterfaces(ctx, s, filter("group-id", ids), func(ns []NetworkInterface) {
				for _, n := range ns {
					for _, id := range n.GroupIDs {
						found[id] = append(found[id], n)
					}
				}
			})
			for _, g := range rs {
				if err != nil {
					g.Interfaces = rule.Failed[[]NetworkInterface](describeInterfaces, err)
				} else {
					g.Interfaces = rule.Known(found[g.ID], describeInterfaces, at)
				}
			}
		})
	},
}

// sessionGroups are the groups that instances of a session have.
type sessionGroups struct{ lookup[SecurityGroup] }

// InstanceGroups fills Instance.Groups with the groups on those of its
// interfaces that have a public address, their prefix lists included. Each
// group and list is read once in a session.
var InstanceGroups = Fact[Instance]{
	Name:    "security_groups",
	Actions: []string{describeGroups, describePrefixLists, prefixListEntries},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Instance) error {
		var ids []string
		for _, i := range rs {
			for _, n := range i.Interfaces {
				if n.Public() {
					ids = append(ids, n.GroupIDs...)
				}
			}
		}
		groups := aws.Kept[sessionGroups](s).get(ctx, describeGroups, at, ids,
			func(ctx context.Context, ids []string) (map[string]rule.Fact[SecurityGroup], error) {
				found := map[string]SecurityGroup{}
				err := listSecurityGroups(ctx, s, filter("group-id", ids), func(gs []SecurityGroup) error {
					of := make([]*SecurityGroup, len(gs))
					for k := range gs {
						of[k] = &gs[k]
					}
					if err := fillPrefixLists(ctx, s, at, of); err != nil {
						return err
					}
					for _, g := range gs {
						found[g.ID] = g
					}
					return nil
				})
				return known(found, describeGroups, at), err
			})
		for _, i := range rs {
			i.Groups = map[string]rule.Fact[SecurityGroup]{}
			for _, n := range i.Interfaces {
				if n.Public() {
					for _, id := range n.GroupIDs {
						i.Groups[id] = groups[id]
					}
				}
			}
		}
		return context.Cause(ctx)
	},
}
