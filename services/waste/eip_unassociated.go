package waste

import (
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

var _ = Rules.Add(scan.Rule[inventory.ElasticIP]{
	Meta: rule.Meta{
		ID:           "eip-unassociated",
		Version:      1,
		Category:     rule.Waste,
		ResourceType: "AWS::EC2::EIP",
		Title:        "Elastic IP address that serves nothing",
		Why: "Every public IPv4 address is billed by the hour, in use or not. Elastic IP addresses stay when their instance, NAT gateway or " +
			"interface goes, and nothing in AWS releases them. They also count against the region's quota, and a DNS record that still " +
			"points at one is handed to a stranger with it one day.",
		Fix: "Look for DNS records, allow lists and partners that know the address. If nobody does, release it; a released address is " +
			"rarely to be had again. If its interface is a leftover, delete that, too.",
		Severity: severityText,
		Citations: []string{
			"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/elastic-ip-addresses-eip.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_Address.html",
			"https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-byoip.html",
			"https://aws.amazon.com/vpc/pricing/",
		},
	},
	Kind: inventory.ElasticIPs,
	Facts: []scan.Need[inventory.ElasticIP]{{
		Fact: inventory.ElasticIPInterface,
		When: func(in scan.In, e inventory.ElasticIP) bool {
			_, undecided := addressByListing(in, e)
			return undecided
		},
	}},
	Judge: judgeAddress,
	Examples: []scan.Example[inventory.ElasticIP]{
		{
			Name:     "associated with nothing",
			Resource: addressExample(),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "3.65", Confidence: rule.Observed, Source: "ec2:DescribeAddresses",
				Says: []string{"203.0.113.25", "associated with nothing"},
			},
		},
		{
			Name:     "on an interface that is attached to nothing",
			Resource: addressExample(onInterface("available")),
			Want: scan.Want{
				Outcome: rule.Violation, Severity: rule.Low, Cost: "3.65", Source: "ec2:DescribeNetworkInterfaces",
				Says: []string{"eni-0123456789abcdef0", "delete"},
			},
		},
		{
			Name:     "on the interface of a NAT gateway, a load balancer or an instance",
			Resource: addressExample(onInterface("in-use")),
			Want:     scan.Want{Outcome: rule.Compliant, Source: "ec2:DescribeNetworkInterfaces"},
		},
		{
			Name: "on an instance, if only a stopped one: ec2-stopped counts it",
			Resource: addressExample(onInterface("in-use"), func(e *inventory.ElasticIP) {
				e.InstanceID, e.Interface = "i-0123456789abcdef0", rule.Fact[inventory.NetworkInterface]{}
			}),
			Want: scan.Want{Outcome: rule.Compliant, Source: "ec2:DescribeAddresses"},
		},
		{
			Name: "on an interface that AWS does not show",
			Resource: addressExample(onInterface("in-use"), func(e *inventory.ElasticIP) {
				e.Interface = rule.Fact[inventory.NetworkInterface]{
					Source: describeInterfaces, At: scan.ExampleTime, Why: "ec2:DescribeNetworkInterfaces does not show eni-0123456789abcdef0",
				}
			}),
			Want: scan.Want{Outcome: rule.InsufficientData, Says: []string{"does not show eni-0123456789abcdef0"}},
		},
		{
			Name: "on an interface that may not be read",
			Resource: addressExample(onInterface("in-use"), func(e *inventory.ElasticIP) {
				e.Interface = rule.Fact[inventory.NetworkInterface]{
					Failed: true, Source: describeInterfaces, Why: "ec2:DescribeNetworkInterfaces is denied (UnauthorizedOperation): no identity-based policy allows it",
				}
			}),
			Want: scan.Want{Outcome: rule.Error, Says: []string{"is denied"}},
		},
		{
			Name:     "of a pool the account brought to AWS, which charges nothing for it",
			Resource: addressExample(func(e *inventory.ElasticIP) { e.Own = true }),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "held by an AWS service, which releases it itself",
			Resource: addressExample(func(e *inventory.ElasticIP) { e.ManagedBy = "alb" }),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "of a carrier's network, and not public",
			Resource: addressExample(func(e *inventory.ElasticIP) { e.IP = "" }),
			Want:     scan.Want{Outcome: rule.NotApplicable},
		},
		{
			Name:     "a region without prices: the cost is unknown, not nothing",
			Resource: addressExample(),
			Region:   "xx-nowhere-1",
			Want:     scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "unknown"},
		},
		{
			Name: "made by a stack, which is who to ask",
			Resource: addressExample(func(e *inventory.ElasticIP) {
				e.Tags = map[string]string{"aws:cloudformation:stack-name": "edge"}
			}),
			Want: scan.Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "3.65", Owner: "CloudFormation stack edge"},
		},
	},
})

const (
	describeAddresses  = "ec2:DescribeAddresses"
	describeInterfaces = "ec2:DescribeNetworkInterfaces"
)

// addressExample is an Elastic IP that is associated with nothing.
func addressExample(with ...func(*inventory.ElasticIP)) inventory.ElasticIP {
	const id = "eipalloc-0123456789abcdef0"
	return apply(inventory.ElasticIP{
		Resource: inventory.Resource{
			ARN: exampleARN("elastic-ip/" + id), ID: id, Type: "AWS::EC2::EIP", Account: "123456789012", Region: "us-east-1",
		},
		IP: "203.0.113.25",
	}, with)
}

// onInterface puts it on an interface of that status.
func onInterface(status string) func(*inventory.ElasticIP) {
	return func(e *inventory.ElasticIP) {
		e.AssociationID, e.InterfaceID = "eipassoc-0123456789abcdef0", "eni-0123456789abcdef0"
		e.Interface = rule.Known(inventory.NetworkInterface{ID: e.InterfaceID, Status: status}, describeInterfaces, scan.ExampleTime)
	}
}

// addressByListing judges by what the listing tells; undecided tells that it
// hangs on the interface.
func addressByListing(in scan.In, e inventory.ElasticIP) (_ rule.Verdict, undecided bool) {
	switch {
	case e.IP == "":
		return notApplicable(in, "It is not a public address.", "public_ip", e.IP, describeAddresses), false
	case e.Own:
		return notApplicable(in, "It is of a pool that the account brought to AWS, which charges nothing for it.", "own_pool", true, describeAddresses), false
	case e.ManagedBy != "":
		return notApplicable(in, "The service "+e.ManagedBy+" holds it, and releases it itself.", "managed_by", e.ManagedBy, describeAddresses), false
	case e.InstanceID != "":
		return rule.Verdict{
			Outcome: rule.Compliant, Reason: "It is associated with instance " + e.InstanceID + ".",
			Evidence: []rule.Evidence{{
				Name: "instance", Value: e.InstanceID, Source: describeAddresses, At: in.At, Confidence: rule.Observed,
			}},
		}, false
	case e.InterfaceID != "":
		return rule.Verdict{}, true
	case e.AssociationID != "":
		return rule.Verdict{
			Outcome: rule.InsufficientData, Reason: "It is associated, and AWS does not tell with what.",
			Evidence: []rule.Evidence{{
				Name: "association", Value: e.AssociationID, Source: describeAddresses, At: in.At, Confidence: rule.Observed,
			}},
		}, false
	}
	return wasted(in, e, "associated with nothing", rule.Evidence{
		Name: "associated", Value: false, Source: describeAddresses, At: in.At, Confidence: rule.Observed,
	}), false
}

func judgeAddress(in scan.In, e inventory.ElasticIP) rule.Verdict {
	v, undecided := addressByListing(in, e)
	if !undecided {
		return v
	}
	on := e.Interface
	evidence := rule.Evidence{
		Name: "interface_status", Value: on.Value.Status, Source: describeInterfaces, At: on.At, Confidence: rule.Observed,
		Note: "of " + e.InterfaceID,
	}
	switch {
	case on.Known && on.Value.Status == "available":
		v = wasted(in, e, "on "+e.InterfaceID+", which is attached to nothing", evidence)
		v.Recommendation += " Then delete the interface."
		return v
	case on.Known && on.Value.Status != "":
		return rule.Verdict{
			Outcome: rule.Compliant, Reason: "It is on " + e.InterfaceID + ", which is " + on.Value.Status + ".", Evidence: []rule.Evidence{evidence},
		}
	}
	out := rule.Verdict{Outcome: rule.InsufficientData}
	if on.Failed {
		out.Outcome = rule.Error
	}
	why := orNotRead(on.Why)
	out.Reason = "Whether its interface " + e.InterfaceID + " is attached to anything is unknown: " + why + "."
	evidence.Value, evidence.Note = "unknown", why
	out.Evidence = []rule.Evidence{evidence}
	return out
}

// wasted is the verdict on an address that serves nothing. AWS does not tell
// since when.
func wasted(in scan.In, e inventory.ElasticIP, what string, evidence rule.Evidence) rule.Verdict {
	cost := in.Price.PublicIPv4(1)
	return rule.Verdict{
		Outcome: rule.Violation, Severity: severity(cost), Cost: cost, Owner: owner(e.Tags),
		Reason:         e.IP + " is " + what + ".",
		Recommendation: "If nothing knows the address any more, such as a DNS record or an allow list, release it.",
		Evidence: []rule.Evidence{evidence, {
			Name: "address", Value: e.IP, Source: describeAddresses, At: in.At, Confidence: rule.Observed,
		}},
	}
}
