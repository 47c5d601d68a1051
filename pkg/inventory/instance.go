package inventory

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

// Instance is an EC2 instance, in any state.
//
// Created is the earliest time known: the earlier of its launch and its root
// volume's attachment, for a start sets the launch time anew.
type Instance struct {
	Resource
	// State is pending, running, shutting-down, terminated, stopping or
	// stopped.
	State string
	// TransitionReason is why it came into this state, as AWS words it, such
	// as "User initiated (2026-01-02 03:04:05 GMT)"; often empty. See
	// TransitionTime.
	TransitionReason string
	// StateReason is AWS's code and message for the last change of state, such
	// as "Client.UserInitiatedShutdown" and a sentence; both may be empty.
	StateReasonCode, StateReason string
	// Launched is when it was last started.
	Launched time.Time
	// InstanceType such as m5.large; Architecture such as arm64.
	InstanceType, Architecture string
	// Platform is what the licence is for, such as Linux/UNIX or Windows.
	Platform string
	// Lifecycle is spot, scheduled, capacity-block, or empty for on-demand.
	Lifecycle string
	// Tenancy is default, dedicated or host.
	Tenancy string
	// Hibernation tells whether stopping may hibernate it.
	Hibernation              bool
	ImageID, SubnetID, VPCID string
	// GroupIDs are the security groups of its primary interface.
	GroupIDs []string
	// Interfaces are its network interfaces, the primary among them.
	Interfaces []Interface
	// RootDevice is the name of the device it boots from, such as /dev/xvda.
	RootDevice string
	// Devices are the EBS volumes attached to it.
	Devices []Device

	// Volumes are the attached EBS volumes in full: fact InstanceVolumes.
	Volumes rule.Fact[[]Volume]
	// LastCPU is its newest CPUUtilization datapoint, which tells when it last
	// ran: fact InstanceLastCPU.
	LastCPU rule.Fact[LastDatapoint]
	// CPU is CPUUtilization of the last days, in percent: fact InstanceCPU.
	CPU rule.Fact[Usage]
	// Memory is what the CloudWatch agent says of its memory in the last days,
	// in percent; unknown without an agent: fact InstanceMemory.
	Memory rule.Fact[Usage]
	// Addresses are the public IPv4 addresses it holds, running or not: fact
	// InstanceAddresses.
	Addresses rule.Fact[[]Address]
	// Groups are the security groups of its public interfaces, by id: fact
	// InstanceGroups.
	Groups map[string]rule.Fact[SecurityGroup]
	// Routes are what holds for the subnets of its public interfaces, by the
	// subnet's id: fact InstanceRoutes.
	Routes map[string]rule.Fact[Routes]
	// Image is what it was launched from, as far as the account sees the image;
	// unknown when it does not: fact InstanceImage.
	Image rule.Fact[Image]
	// ImageMetadata is what AWS tells of the image to those who run it, whether
	// they see it or not: fact InstanceImageMetadata.
	ImageMetadata rule.Fact[Image]
}

// Interface is a network interface of an instance.
type Interface struct {
	ID, SubnetID, VPCID string
	// Index on its network card; 0 is the primary.
	Index    int
	GroupIDs []string
	// PrivateIPv4 are its private addresses, the primary first.
	PrivateIPv4 []string
	// PublicIPv4 are the public addresses associated with them.
	PublicIPv4 []PublicIPv4
	IPv6       []string
}

// PublicIPv4 is a public address as an interface shows it.
type PublicIPv4 struct {
	IP string
	// Elastic tells an account's own Elastic IP, which stays while the
	// instance is stopped, from an address of Amazon's pool, which does not.
	Elastic bool
}

// Device is an EBS volume attached to an instance, as the instance shows it.
type Device struct {
	// Name such as /dev/sdf.
	Name, VolumeID string
	// Status is attaching, attached, detaching, detached or busy.
	Status string
	// Attached is zero when AWS does not tell.
	Attached            time.Time
	DeleteOnTermination bool
}

// AutoScalingGroup returns the name of the group it is a member of, or "".
func (i *Instance) AutoScalingGroup() string { return i.Tags["aws:autoscaling:groupName"] }

// PublicIPv4s returns the public IPv4 addresses on its interfaces, each once.
func (i *Instance) PublicIPv4s() []PublicIPv4 {
	var all []PublicIPv4
	for _, n := range i.Interfaces {
		for _, p := range n.PublicIPv4 {
			if !slices.ContainsFunc(all, func(q PublicIPv4) bool { return q.IP == p.IP }) {
				all = append(all, p)
			}
		}
	}
	return all
}

// TransitionTime returns the time in TransitionReason, and whether there is
// one: other text, or none, is normal.
func (i *Instance) TransitionTime() (time.Time, bool) { return parseTransition(i.TransitionReason) }

// parseTransition reads the time in "User initiated (2026-01-02 03:04:05
// GMT)". Text such as "User initiated shutdown" or "Server.SpotInstance…
// (capacity)" has none.
func parseTransition(s string) (time.Time, bool) {
	for {
		open := strings.IndexByte(s, '(')
		if open < 0 {
			return time.Time{}, false
		}
		s = s[open+1:]
		end := strings.IndexByte(s, ')')
		if end < 0 {
			return time.Time{}, false
		}
		text := strings.TrimSpace(s[:end])
		zone := strings.LastIndexByte(text, ' ')
		if zone < 0 || text[zone+1:] != "GMT" && text[zone+1:] != "UTC" {
			continue
		}
		// EC2 did not exist before 2006: a smaller year is no time of it.
		if t, err := time.Parse(time.DateTime, text[:zone]); err == nil && t.Year() >= 2006 {
			return t, true
		}
	}
}

// Instances lists EC2 instances in every state, the terminated ones included
// for as long as AWS shows them.
var Instances = Kind[Instance]{
	Type:    "AWS::EC2::Instance",
	Actions: []string{"ec2:DescribeInstances"},
	Of:      func(i *Instance) *Resource { return &i.Resource },
	List: func(ctx context.Context, s *aws.Session, page func([]Instance) error) error {
		pages := ec2.NewDescribeInstancesPaginator(s.EC2(), &ec2.DescribeInstancesInput{MaxResults: new(int32(1000))})
		return stream(ctx, "ec2:DescribeInstances", pages.HasMorePages,
			func() (*string, error) {
				out, err := pages.NextPage(ctx)
				if err != nil {
					return nil, aws.Explain(err)
				}
				n := 0
				for i := range out.Reservations {
					n += len(out.Reservations[i].Instances)
				}
				rs := make([]Instance, 0, n)
				for i := range out.Reservations {
					for j := range out.Reservations[i].Instances {
						r, err := newInstance(s, &out.Reservations[i].Instances[j])
						if err != nil {
							return nil, err
						}
						rs = append(rs, r)
					}
				}
				return out.NextToken, page(rs)
			})
	},
}

func newInstance(s *aws.Session, in *types.Instance) (Instance, error) {
	id := val(in.InstanceId)
	if id == "" {
		return Instance{}, aws.Malformed("ec2:DescribeInstances", "an instance without an id")
	}
	i := Instance{
		Resource: Resource{
			ARN: s.ARN("ec2", "instance/"+id), ID: id, Type: "AWS::EC2::Instance",
			Account: s.Account, Region: s.Region, Tags: tags(in.Tags), Created: utc(in.LaunchTime),
		},
		TransitionReason: val(in.StateTransitionReason),
		Launched:         utc(in.LaunchTime),
		InstanceType:     string(in.InstanceType),
		Architecture:     string(in.Architecture),
		Platform:         platform(in),
		Lifecycle:        string(in.InstanceLifecycle),
		ImageID:          val(in.ImageId),
		SubnetID:         val(in.SubnetId),
		VPCID:            val(in.VpcId),
		GroupIDs:         groupIDs(in.SecurityGroups),
		RootDevice:       val(in.RootDeviceName),
	}
	if in.State != nil {
		i.State = string(in.State.Name)
	}
	if in.StateReason != nil {
		i.StateReasonCode, i.StateReason = val(in.StateReason.Code), val(in.StateReason.Message)
	}
	if in.Placement != nil {
		i.Zone, i.Tenancy = val(in.Placement.AvailabilityZone), string(in.Placement.Tenancy)
	}
	if in.HibernationOptions != nil {
		i.Hibernation = val(in.HibernationOptions.Configured)
	}
	for k := range in.NetworkInterfaces {
		i.Interfaces = append(i.Interfaces, newInterface(&in.NetworkInterfaces[k]))
	}
	i.primaryAddresses(in)
	for _, m := range in.BlockDeviceMappings {
		if m.Ebs == nil {
			continue
		}
		d := Device{
			Name: val(m.DeviceName), VolumeID: val(m.Ebs.VolumeId), Status: string(m.Ebs.Status),
			Attached: utc(m.Ebs.AttachTime), DeleteOnTermination: val(m.Ebs.DeleteOnTermination),
		}
		if d.Name == i.RootDevice && !d.Attached.IsZero() && (i.Created.IsZero() || d.Attached.Before(i.Created)) {
			i.Created = d.Attached
		}
		i.Devices = append(i.Devices, d)
	}
	return i, nil
}

// platform is what the licence is for. Older endpoints tell only Windows from
// the rest.
func platform(in *types.Instance) string {
	if p := val(in.PlatformDetails); p != "" || in.Platform != types.PlatformValuesWindows {
		return p
	}
	return "Windows"
}

func newInterface(in *types.InstanceNetworkInterface) Interface {
	n := Interface{
		ID: val(in.NetworkInterfaceId), SubnetID: val(in.SubnetId), VPCID: val(in.VpcId), GroupIDs: groupIDs(in.Groups),
	}
	if in.Attachment != nil {
		n.Index = int(val(in.Attachment.DeviceIndex))
	}
	public := func(a *types.InstanceNetworkInterfaceAssociation) {
		// A carrier or customer-owned address is not on the internet's list
		// price.
		if a == nil || val(a.PublicIp) == "" || slices.ContainsFunc(n.PublicIPv4, func(p PublicIPv4) bool { return p.IP == *a.PublicIp }) {
			return
		}
		owner := val(a.IpOwnerId)
		n.PublicIPv4 = append(n.PublicIPv4, PublicIPv4{IP: *a.PublicIp, Elastic: owner != "" && owner != "amazon"})
	}
	public(in.Association)
	for _, p := range in.PrivateIpAddresses {
		if ip := val(p.PrivateIpAddress); ip != "" {
			if val(p.Primary) {
				n.PrivateIPv4 = slices.Insert(n.PrivateIPv4, 0, ip)
			} else {
				n.PrivateIPv4 = append(n.PrivateIPv4, ip)
			}
		}
		public(p.Association)
	}
	if ip := val(in.PrivateIpAddress); ip != "" && !slices.Contains(n.PrivateIPv4, ip) {
		n.PrivateIPv4 = slices.Insert(n.PrivateIPv4, 0, ip)
	}
	for _, a := range in.Ipv6Addresses {
		if ip := val(a.Ipv6Address); ip != "" {
			n.IPv6 = append(n.IPv6, ip)
		}
	}
	return n
}

// InstanceVolumes fills Instance.Volumes with the volumes attached to each: one
// call for 200 instances, and more when they have more than 500 volumes.
var InstanceVolumes = Fact[Instance]{
	Name:    "attached_volumes",
	Actions: []string{"ec2:DescribeVolumes"},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Instance) error {
		const source = "ec2:DescribeVolumes"
		return batches(ctx, rs, filterValues, func(i *Instance) string { return i.ID }, func(ctx context.Context, ids []string, rs []*Instance) {
			attached := make(map[string][]Volume, len(ids))
			seen := map[string]bool{}
			err := listVolumes(ctx, s, filter("attachment.instance-id", ids), func(vs []Volume) error {
				for _, v := range vs {
					seen[v.ID] = true
					for _, a := range v.Attachments {
						if a.InstanceID != "" {
							attached[a.InstanceID] = append(attached[a.InstanceID], v)
						}
					}
				}
				return nil
			})
			for _, i := range rs {
				if err != nil {
					i.Volumes = rule.Failed[[]Volume](source, err)
					continue
				}
				i.Volumes = rule.Known(attached[i.ID], source, at)
				// The two calls are not one view: a volume the instance shows
				// and the listing does not would be money left out.
				for _, d := range i.Devices {
					if d.VolumeID != "" && d.Status != "detached" && d.Status != "detaching" && !seen[d.VolumeID] {
						i.Volumes = rule.Fact[[]Volume]{Source: source, At: at, Why: "volume " + d.VolumeID + " is attached but was not listed"}
					}
				}
			}
		})
	},
}

// InstanceLastCPU fills Instance.LastCPU. It bills up to two metrics for each
// instance: ask only for those whose verdict hangs on it.
var InstanceLastCPU = Fact[Instance]{
	Name:    "last_cpu_datapoint",
	Actions: []string{"cloudwatch:GetMetricData"},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Instance) error {
		return lastDatapoints(ctx, s, at, Metric{Namespace: "AWS/EC2", Name: "CPUUtilization", Dimension: "InstanceId", Statistic: "Average"}, rs,
			func(i *Instance) string { return i.ID },
			func(i *Instance, f rule.Fact[LastDatapoint]) { i.LastCPU = f })
	},
}
