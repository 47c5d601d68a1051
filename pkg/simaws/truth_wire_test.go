package simaws_test

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/simaws"
)

// region is everything the wire tells of one account and region.
type region struct {
	t         *testing.T
	instances []types.Instance
	volumes   []types.Volume
	snapshots []types.Snapshot
	addresses []types.Address
	images    map[string]types.Image
	metadata  map[string]types.ImageMetadata // by instance
	groups    []types.SecurityGroup
	nics      []types.NetworkInterface
	tables    []types.RouteTable
	lists     map[string][]string // entries by prefix list; nil: AWS's own
	sealed    map[string]bool
	points    map[string]cwtypes.MetricDataResult // by instance and "cpu", "peak" or "memory"
}

type pager[O any] interface {
	HasMorePages() bool
	NextPage(ctx context.Context, o ...func(*ec2.Options)) (*O, error)
}

func collect[O, T any](t *testing.T, p pager[O], of func(*O) []T) (out []T) {
	t.Helper()
	for p.HasMorePages() {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, of(page)...)
	}
	return out
}

func readRegion(t *testing.T, w *world, a *simaws.Account, name string) *region {
	t.Helper()
	c, cw := w.ec2(a, name), w.cloudwatch(a, name)
	r := &region{t: t, instances: allInstances(t, c, ec2.DescribeInstancesInput{}), volumes: allVolumes(t, c, ec2.DescribeVolumesInput{}),
		snapshots: allSnapshots(t, c, ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}}),
		images:    map[string]types.Image{}, metadata: map[string]types.ImageMetadata{}, lists: map[string][]string{}, sealed: map[string]bool{}, points: map[string]cwtypes.MetricDataResult{}}
	out, err := c.DescribeAddresses(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	r.addresses = out.Addresses
	yes := aws.Bool(true)
	for _, i := range collect(t, ec2.NewDescribeImagesPaginator(c, &ec2.DescribeImagesInput{IncludeDeprecated: yes, IncludeDisabled: yes}), func(o *ec2.DescribeImagesOutput) []types.Image { return o.Images }) {
		r.images[*i.ImageId] = i
	}
	for _, m := range collect(t, ec2.NewDescribeInstanceImageMetadataPaginator(c, &ec2.DescribeInstanceImageMetadataInput{}), func(o *ec2.DescribeInstanceImageMetadataOutput) []types.InstanceImageMetadata {
		return o.InstanceImageMetadata
	}) {
		r.metadata[*m.InstanceId] = *m.ImageMetadata
	}
	r.groups = collect(t, ec2.NewDescribeSecurityGroupsPaginator(c, &ec2.DescribeSecurityGroupsInput{MaxResults: aws.Int32(9)}), func(o *ec2.DescribeSecurityGroupsOutput) []types.SecurityGroup { return o.SecurityGroups })
	r.nics = collect(t, ec2.NewDescribeNetworkInterfacesPaginator(c, &ec2.DescribeNetworkInterfacesInput{}), func(o *ec2.DescribeNetworkInterfacesOutput) []types.NetworkInterface { return o.NetworkInterfaces })
	r.tables = collect(t, ec2.NewDescribeRouteTablesPaginator(c, &ec2.DescribeRouteTablesInput{MaxResults: aws.Int32(5)}), func(o *ec2.DescribeRouteTablesOutput) []types.RouteTable { return o.RouteTables })
	for _, l := range collect(t, ec2.NewDescribeManagedPrefixListsPaginator(c, &ec2.DescribeManagedPrefixListsInput{MaxResults: aws.Int32(1)}), func(o *ec2.DescribeManagedPrefixListsOutput) []types.ManagedPrefixList { return o.PrefixLists }) {
		if *l.OwnerId == "AWS" {
			r.lists[*l.PrefixListId] = nil
			continue
		}
		out, err := c.GetManagedPrefixListEntries(t.Context(), &ec2.GetManagedPrefixListEntriesInput{PrefixListId: l.PrefixListId, TargetVersion: l.Version})
		if err != nil {
			wantCode(t, err, "UnauthorizedOperation")
			r.sealed[*l.PrefixListId] = true
			continue
		}
		r.lists[*l.PrefixListId] = []string{}
		for _, e := range out.Entries {
			r.lists[*l.PrefixListId] = append(r.lists[*l.PrefixListId], *e.Cidr)
		}
	}
	in := cloudwatch.GetMetricDataInput{StartTime: aws.Time(now.Add(-7 * day)), EndTime: aws.Time(now)}
	keys := map[string]string{}
	ask := func(key, namespace, metric, stat string, dims ...string) {
		id := fmt.Sprintf("m%d", len(keys))
		keys[id] = key
		in.MetricDataQueries = append(in.MetricDataQueries, query(id, namespace, metric, stat, 3600, dims...))
	}
	for _, i := range r.instances {
		if i.State.Name == "running" {
			ask(*i.InstanceId+" cpu", "AWS/EC2", "CPUUtilization", "Average", "InstanceId", *i.InstanceId)
			ask(*i.InstanceId+" peak", "AWS/EC2", "CPUUtilization", "Maximum", "InstanceId", *i.InstanceId)
		}
	}
	for _, m := range []string{"mem_used_percent", "Memory % Committed Bytes In Use"} {
		for p := cloudwatch.NewListMetricsPaginator(cw, &cloudwatch.ListMetricsInput{Namespace: aws.String("CWAgent"), MetricName: aws.String(m)}); p.HasMorePages(); {
			page, err := p.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			for _, found := range page.Metrics {
				var dims []string
				id := ""
				for _, d := range found.Dimensions {
					dims = append(dims, *d.Name, *d.Value)
					if *d.Name == "InstanceId" {
						id = *d.Value
					}
				}
				ask(id+" memory", "CWAgent", m, "Average", dims...)
			}
		}
	}
	if len(keys) > 0 {
		for id, res := range getAll(t, cw, in) {
			r.points[keys[id]] = res
		}
	}
	return r
}

type opinion struct {
	outcome, severity string
	exempt            bool
}

func say(outcome string) opinion { return opinion{outcome: outcome} }

var accelerator = regexp.MustCompile(`^(p|g|inf|trn|dl|vt)\d`)

// idle takes the rule literally on hourly averages: seven days that end now.
func (r *region) idle(in *types.Instance, series string, limit float64) opinion {
	res, ok := r.points[*in.InstanceId+" "+series]
	switch {
	case in.State.Name != "running":
		return say("NOT_APPLICABLE")
	case series == "cpu" && accelerator.MatchString(string(in.InstanceType)):
		return say("INSUFFICIENT_DATA")
	case !ok:
		return say("INSUFFICIENT_DATA")
	case res.StatusCode != cwtypes.StatusCodeComplete:
		return say("ERROR")
	}
	sum, n := [7]float64{}, [7]int{}
	for i, at := range res.Timestamps {
		d := int(now.Sub(at)-1) / int(day)
		sum[d] += res.Values[i]
		n[d]++
	}
	for d := range n {
		if n[d] == 24 && sum[d]/24 >= limit {
			return say("COMPLIANT")
		}
	}
	if series == "cpu" {
		for _, v := range r.points[*in.InstanceId+" peak"].Values {
			if v >= 20 {
				return say("COMPLIANT")
			}
		}
	}
	if now.Sub(*in.LaunchTime) < 7*day || len(res.Timestamps) < 152 { // 90 % of 168
		return say("INSUFFICIENT_DATA")
	}
	return say("VIOLATION")
}

// share counts the public addresses of a prefix that the peers cover, by halving it; IPv6 in units of a /64.
func share(peers []netip.Prefix, p netip.Prefix) uint64 {
	unit := 32
	if p.Addr().Is6() {
		unit = 64
	}
	inside, touched := false, false
	for _, q := range peers {
		touched = touched || q.Overlaps(p)
		inside = inside || q.Overlaps(p) && q.Bits() <= p.Bits()
	}
	public := true
	for _, text := range notPublic {
		if q := netip.MustParsePrefix(text); q.Overlaps(p) {
			if q.Bits() <= p.Bits() {
				return 0
			}
			public = false
		}
	}
	switch {
	case !touched || p.Bits() > unit:
		return 0
	case inside && public:
		return 1 << (unit - p.Bits())
	case p.Bits() == unit:
		return 0
	}
	a := netip.PrefixFrom(p.Addr(), p.Bits()+1)
	raw := p.Addr().AsSlice()
	raw[p.Bits()/8] |= 128 >> (p.Bits() % 8)
	addr, _ := netip.AddrFromSlice(raw)
	return share(peers, a) + share(peers, netip.PrefixFrom(addr, p.Bits()+1))
}

var notPublic = []string{"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/3"}

var everything = map[bool]netip.Prefix{false: netip.MustParsePrefix("0.0.0.0/0"), true: netip.MustParsePrefix("2000::/3")}

var whole = map[bool]uint64{false: share([]netip.Prefix{everything[false]}, everything[false]), true: 1 << 61}

var levels = []string{"", "INFO", "LOW", "MEDIUM", "HIGH", "CRITICAL"}

var portLevels = map[string]string{
	"CRITICAL": "t22 t1433 t1434 t1521 t2375 t2376 t2379 t2380 t2483 t2484 t3306 t3389 t5432 t5900 t5901 t5902 t5903 t5984 t5985 t5986 t6379 t6443 t7199 t9042 t9160 t9200 t9300 t10250 t11211 u11211 t27017 t27018 t27019 t50070",
	"HIGH":     "t20 t21 t23 t25 u69 t110 t111 t135 t139 t143 u161 t389 t445 t636 t873 t2049 t2181 t4333 t5500 t5601 t9092 t15672",
	"MEDIUM":   "t3000 t5000 t8080 t8088 t8888",
}

// exposed tells how bad the worst open port is, whether any is open to the whole world, and whether something could not be read.
func (r *region) exposed(g *types.SecurityGroup) (level int, world, unknown bool) {
	memo := map[string][3]bool{}
	for severity, ports := range portLevels {
		for _, port := range strings.Fields(ports) {
			n, _ := strconv.Atoi(port[1:])
			var peers []netip.Prefix
			blind, key := false, ""
			for i, p := range g.IpPermissions {
				names := map[byte][]string{'t': {"tcp", "6", "-1"}, 'u': {"udp", "17", "-1"}}[port[0]]
				from, to := aws.ToInt32(p.FromPort), aws.ToInt32(p.ToPort)
				if p.FromPort == nil || from == -1 || *p.IpProtocol == "-1" {
					from, to = 0, 65535
				}
				if !slices.Contains(names, *p.IpProtocol) || int(from) > n || n > int(to) {
					continue
				}
				key += fmt.Sprint(i, " ")
				for _, x := range p.IpRanges {
					peers = append(peers, netip.MustParsePrefix(*x.CidrIp))
				}
				for _, x := range p.Ipv6Ranges {
					peers = append(peers, netip.MustParsePrefix(*x.CidrIpv6))
				}
				for _, x := range p.PrefixListIds {
					entries, ok := r.lists[*x.PrefixListId]
					blind = blind || !ok
					for _, e := range entries {
						peers = append(peers, netip.MustParsePrefix(e))
					}
				}
			}
			got, ok := memo[key]
			if !ok {
				for six, all := range everything {
					s := share(slices.DeleteFunc(slices.Clone(peers), func(p netip.Prefix) bool { return p.Addr().Is6() != six }), all)
					got[0] = got[0] || s == whole[six]
					got[1] = got[1] || s >= map[bool]uint64{false: 1 << 24, true: 1 << 32}[six]
				}
				got[2] = blind
				memo[key] = got
			}
			switch {
			case got[0]:
				world, level = true, max(level, slices.Index(levels, severity))
			case got[1]:
				level = max(level, slices.Index(levels, "MEDIUM"))
			}
			unknown = unknown || got[2]
		}
	}
	return level, world, unknown
}

func (r *region) group(g *types.SecurityGroup) opinion {
	level, _, unknown := r.exposed(g)
	used := slices.ContainsFunc(r.nics, func(n types.NetworkInterface) bool {
		return slices.ContainsFunc(n.Groups, func(x types.GroupIdentifier) bool { return *x.GroupId == *g.GroupId })
	})
	switch {
	case level == 0 && unknown:
		return say("INSUFFICIENT_DATA")
	case level == 0:
		return say("COMPLIANT")
	case !used:
		level = max(level-1, slices.Index(levels, "LOW"))
	}
	return opinion{"VIOLATION", levels[level], false}
}

func (r *region) public(in *types.Instance) opinion {
	if in.State.Name == "terminated" || in.State.Name == "shutting-down" {
		return say("NOT_APPLICABLE")
	}
	worst := 0
	for _, n := range in.NetworkInterfaces {
		public := slices.ContainsFunc(n.PrivateIpAddresses, func(p types.InstancePrivateIpAddress) bool { return p.Association != nil }) ||
			slices.ContainsFunc(n.Ipv6Addresses, func(p types.InstanceIpv6Address) bool {
				return netip.MustParseAddr(*p.Ipv6Address).As16()[0]>>5 == 1
			})
		if !public {
			continue
		}
		level := slices.Index(levels, "MEDIUM")
		for _, id := range n.Groups {
			i := slices.IndexFunc(r.groups, func(g types.SecurityGroup) bool { return *g.GroupId == *id.GroupId })
			if _, world, _ := r.exposed(&r.groups[i]); world {
				if level = slices.Index(levels, "HIGH"); in.State.Name == "running" && r.routed(*n.SubnetId, *n.VpcId) {
					level = slices.Index(levels, "CRITICAL")
				}
			}
		}
		worst = max(worst, level)
	}
	if worst == 0 {
		return say("COMPLIANT")
	}
	o := opinion{outcome: "VIOLATION", severity: levels[worst]}
	for _, tag := range in.Tags {
		if *tag.Key == "public-allowed" {
			v := strings.ToLower(*tag.Value)
			until, err := time.Parse("until-2006-01-02", v)
			o.exempt = v == "true" || v == "yes" || v == "1" || v == "on" || err == nil && now.Format(time.DateOnly) <= until.Format(time.DateOnly)
		}
	}
	return o
}

func (r *region) routed(subnet, vpc string) bool {
	var table *types.RouteTable
	for i := range r.tables {
		for _, a := range r.tables[i].Associations {
			if aws.ToString(a.SubnetId) == subnet || table == nil && aws.ToBool(a.Main) && *r.tables[i].VpcId == vpc {
				table = &r.tables[i]
			}
		}
	}
	return table != nil && slices.ContainsFunc(table.Routes, func(x types.Route) bool {
		return strings.HasPrefix(aws.ToString(x.GatewayId), "igw-") && x.State == types.RouteStateActive
	})
}

func (r *region) image(in *types.Instance) opinion {
	if in.State.Name == "terminated" || in.State.Name == "shutting-down" {
		return say("NOT_APPLICABLE")
	}
	m := r.metadata[*in.InstanceId]
	if seen, ok := r.images[*in.ImageId]; ok {
		m = types.ImageMetadata{CreationDate: seen.CreationDate, DeprecationTime: seen.DeprecationTime, State: seen.State}
	}
	if m.CreationDate == nil {
		return say("INSUFFICIENT_DATA")
	}
	created, err := time.Parse(time.RFC3339, *m.CreationDate)
	if err != nil {
		r.t.Error(err)
	}
	if m.DeprecationTime != nil {
		if at, err := time.Parse(time.RFC3339, *m.DeprecationTime); err != nil || !at.After(now) {
			return opinion{"VIOLATION", "MEDIUM", false}
		}
	}
	switch {
	case m.State == "disabled" || m.State == "deregistered":
		return opinion{"VIOLATION", "MEDIUM", false}
	case now.Sub(created) >= 180*day:
		return opinion{"VIOLATION", "LOW", false}
	}
	return say("COMPLIANT")
}

func (r *region) snapshot(s *types.Snapshot) opinion {
	managed := slices.ContainsFunc(s.Tags, func(t types.Tag) bool {
		return *t.Key == "aws:backup:source-resource" || *t.Key == "aws:dlm:lifecycle-policy-id" || *t.Key == "dlm:managed"
	})
	for _, i := range r.images {
		for _, d := range i.BlockDeviceMappings {
			managed = managed || d.Ebs != nil && *d.Ebs.SnapshotId == *s.SnapshotId && *i.OwnerId == *s.OwnerId
		}
	}
	others := 0
	for _, o := range r.snapshots {
		if *o.VolumeId == *s.VolumeId && o.State == "completed" {
			others++
		}
	}
	switch {
	case managed || s.State != "completed" || strings.Contains(*s.Description, "AWS Backup service"):
		return say("NOT_APPLICABLE")
	case now.Sub(*s.StartTime) < 90*day:
		return say("COMPLIANT")
	case others == 1 && *s.VolumeId != "vol-ffffffff" && !slices.ContainsFunc(r.volumes, func(v types.Volume) bool { return *v.VolumeId == *s.VolumeId }):
		return opinion{"VIOLATION", "INFO", false}
	}
	return opinion{"VIOLATION", "by its cost", false}
}

func (r *region) tagged(tags []types.Tag, since time.Time) opinion {
	if now.Sub(since) < time.Hour {
		return say("NOT_APPLICABLE")
	}
	for _, key := range []string{"Owner", "Environment", "CostCenter"} {
		if !slices.ContainsFunc(tags, func(t types.Tag) bool { return *t.Key == key && strings.TrimSpace(aws.ToString(t.Value)) != "" }) {
			return opinion{"VIOLATION", "LOW", false}
		}
	}
	return say("COMPLIANT")
}

// opinions judges everything by the rules' text.
func (r *region) opinions(priced bool) map[string]opinion {
	out := map[string]opinion{}
	for i := range r.instances {
		in := &r.instances[i]
		id := *in.InstanceId
		out["ec2-idle-cpu "+id], out["ec2-idle-memory "+id] = r.idle(in, "cpu", 5), r.idle(in, "memory", 10)
		out["ec2-public "+id], out["ami-outdated "+id] = r.public(in), r.image(in)
		since := *in.LaunchTime
		for _, d := range in.BlockDeviceMappings {
			if *d.DeviceName == *in.RootDeviceName && d.Ebs.AttachTime.Before(since) {
				since = *d.Ebs.AttachTime
			}
		}
		out["required-tags "+id] = r.tagged(in.Tags, since)
		if in.State.Name == "terminated" || in.State.Name == "shutting-down" {
			out["required-tags "+id] = say("NOT_APPLICABLE")
		}
	}
	for _, v := range r.volumes {
		id := *v.VolumeId
		out["required-tags "+id], out["ebs-unencrypted "+id], out["ebs-gp2-to-gp3 "+id] = r.tagged(v.Tags, *v.CreateTime), say("COMPLIANT"), say("NOT_APPLICABLE")
		switch {
		case now.Sub(*v.CreateTime) < time.Hour:
			out["ebs-unencrypted "+id] = say("NOT_APPLICABLE")
		case !*v.Encrypted:
			out["ebs-unencrypted "+id] = opinion{"VIOLATION", map[bool]string{true: "HIGH", false: "MEDIUM"}[len(v.Attachments) > 0], false}
		}
		if v.State == "deleting" {
			out["required-tags "+id], out["ebs-unencrypted "+id] = say("NOT_APPLICABLE"), say("NOT_APPLICABLE")
		}
		if v.VolumeType == "gp2" && (v.State == "in-use" || v.State == "available") {
			size, throughput := float64(*v.Size), 3.0
			if *v.Size > 170 {
				throughput = 125
			}
			switch {
			case !priced:
				out["ebs-gp2-to-gp3 "+id] = say("INSUFFICIENT_DATA")
			case size*.10 < size*.08+float64(max(0, *v.Iops-3000))*.005+throughput*.04+1e-9:
				out["ebs-gp2-to-gp3 "+id] = say("COMPLIANT")
			default:
				out["ebs-gp2-to-gp3 "+id] = opinion{"VIOLATION", "by its cost", false}
			}
		}
	}
	for i := range r.snapshots {
		s := &r.snapshots[i]
		out["ebs-snapshot-old "+*s.SnapshotId], out["required-tags "+*s.SnapshotId] = r.snapshot(s), r.tagged(s.Tags, *s.StartTime)
	}
	for i := range r.groups {
		g := &r.groups[i]
		out["sg-open-sensitive-port "+*g.GroupId], out["required-tags "+*g.GroupId] = r.group(g), r.tagged(g.Tags, time.Time{})
		if *g.GroupName == "default" {
			out["required-tags "+*g.GroupId] = say("NOT_APPLICABLE")
		}
	}
	for _, a := range r.addresses {
		id := *a.AllocationId
		out["required-tags "+id], out["eip-unassociated "+id] = r.tagged(a.Tags, time.Time{}), opinion{"VIOLATION", "by its cost", false}
		i := slices.IndexFunc(r.nics, func(n types.NetworkInterface) bool {
			return *n.NetworkInterfaceId == aws.ToString(a.NetworkInterfaceId)
		})
		if i >= 0 && r.nics[i].Status == "in-use" {
			out["eip-unassociated "+id] = say("COMPLIANT")
		}
	}
	for id, i := range r.images {
		if slices.ContainsFunc(r.snapshots, func(s types.Snapshot) bool { return *s.OwnerId == *i.OwnerId }) {
			created, _ := time.Parse(time.RFC3339, *i.CreationDate)
			out["required-tags "+id] = r.tagged(i.Tags, created)
		}
	}
	return out
}

// The truth of the further rules is what a reader finds who has nothing but the wire, and takes the rules' text literally.
func TestWireLeadsToTruth(t *testing.T) {
	t.Parallel()
	for seed := range uint64(2) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := start(t, simaws.Options{Seed: seed + 40, Resources: 700, Accounts: 2, Regions: 2}, simaws.Config{NoQuotas: true})
			want := map[string]simaws.Truth{}
			for _, truth := range w.estate.Truth() {
				if truth.RuleID != "ec2-stopped" && truth.RuleID != "ebs-unattached" {
					want[truth.RuleID+" "+truth.ResourceID] = truth
				}
			}
			w.eachRegion(func(a *simaws.Account, at *simaws.Region) {
				for key, got := range readRegion(t, w, a, at.Name).opinions(at.Name == "us-east-1") {
					truth, ok := want[key]
					delete(want, key)
					if !ok || truth.Outcome != got.outcome || truth.Exempt != got.exempt || got.outcome == "VIOLATION" && got.severity != "" && got.severity != "by its cost" && got.severity != truth.Severity {
						t.Errorf("%s: the wire says %+v, the truth %s %s %v (%s)", key, got, truth.Outcome, truth.Severity, truth.Exempt, truth.Why)
					}
				}
			})
			for key, truth := range want {
				t.Errorf("%s: nothing on the wire; the truth is %s (%s)", key, truth.Outcome, truth.Why)
			}
		})
	}
}
