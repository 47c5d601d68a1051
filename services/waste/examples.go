package waste

import (
	"maps"
	"time"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
)

// The words in which examples describe their resources. scan.ExampleTime is
// their present.

// example is a time in an example.
func example(s string) time.Time {
	t, err := time.Parse("2006-01-02 15:04", s)
	if err != nil {
		panic(err)
	}
	return t
}

func exampleARN(resource string) string { return "arn:aws:ec2:us-east-1:123456789012:" + resource }

func apply[T any](t T, with []func(*T)) T {
	for _, f := range with {
		f(&t)
	}
	return t
}

// stoppedExample is a stopped instance that was started in May 2026.
func stoppedExample(reason string, with ...func(*inventory.Instance)) inventory.Instance {
	return apply(inventory.Instance{
		Resource: inventory.Resource{
			ARN: exampleARN("instance/i-0123456789abcdef0"), ID: "i-0123456789abcdef0", Type: "AWS::EC2::Instance",
			Account: "123456789012", Region: "us-east-1", Zone: "us-east-1a", Created: example("2025-02-03 04:05"),
		},
		State: "stopped", TransitionReason: reason, Launched: example("2026-05-01 09:00"), InstanceType: "m5.large",
	}, with)
}

func inState(state string) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.State = state }
}

func launched(at string) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.Launched = example(at) }
}

func hibernated(i *inventory.Instance) {
	i.Hibernation, i.StateReasonCode = true, "Client.UserInitiatedHibernate"
}

func tagged(key, value string) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.Tags = map[string]string{key: value} }
}

func withVolumes(vs ...inventory.Volume) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.Volumes = rule.Known(vs, describeVolumes, scan.ExampleTime) }
}

func gp3(size int) inventory.Volume { return volumeOf("gp3", size) }

func volumeOf(volumeType string, size int) inventory.Volume {
	v := volumeExample(volumeState("in-use"))
	v.VolumeType, v.SizeGiB = volumeType, size
	return v
}

func withAddresses(ips ...string) func(*inventory.Instance) {
	return func(i *inventory.Instance) {
		var list []inventory.Address
		for _, ip := range ips {
			list = append(list, inventory.Address{IP: ip, AllocationID: "eipalloc-0123456789abcdef0"})
		}
		i.Addresses = rule.Known(list, "ec2:DescribeAddresses", scan.ExampleTime)
	}
}

func ownAddresses(i *inventory.Instance) {
	for n := range i.Addresses.Value {
		i.Addresses.Value[n].Own = true
	}
}

const getMetricData = "cloudwatch:GetMetricData"

var retention = scan.ExampleTime.Add(-inventory.MetricRetention)

func datapoint(hour string) rule.Fact[inventory.LastDatapoint] {
	return rule.Known(inventory.LastDatapoint{Hour: example(hour), From: retention}, getMetricData, scan.ExampleTime)
}

func noDatapoint() rule.Fact[inventory.LastDatapoint] {
	return rule.Known(inventory.LastDatapoint{From: retention}, getMetricData, scan.ExampleTime)
}

func deniedDatapoint() rule.Fact[inventory.LastDatapoint] {
	return rule.Fact[inventory.LastDatapoint]{
		Failed: true, Source: getMetricData, Why: "cloudwatch:GetMetricData is denied (AccessDenied): no identity-based policy allows it",
	}
}

func lastCPU(hour string) func(*inventory.Instance) {
	return func(i *inventory.Instance) { i.LastCPU = datapoint(hour) }
}

func noCPU(i *inventory.Instance) { i.LastCPU = noDatapoint() }

func cpuDenied(i *inventory.Instance) { i.LastCPU = deniedDatapoint() }

// volumeExample is an available volume that was created in February 2025.
func volumeExample(with ...func(*inventory.Volume)) inventory.Volume {
	return apply(inventory.Volume{
		Resource: inventory.Resource{
			ARN: exampleARN("volume/vol-0123456789abcdef0"), ID: "vol-0123456789abcdef0", Type: "AWS::EC2::Volume",
			Account: "123456789012", Region: "us-east-1", Zone: "us-east-1a", Created: example("2025-09-03 04:05"),
		},
		State: "available", VolumeType: "gp3", SizeGiB: 100, IOPS: 3000, ThroughputMiBps: 125,
	}, with)
}

func volumeState(state string) func(*inventory.Volume) {
	return func(v *inventory.Volume) { v.State = state }
}

func created(at string) func(*inventory.Volume) {
	return func(v *inventory.Volume) { v.Created = example(at) }
}

func provisioned(size, iops, throughput int) func(*inventory.Volume) {
	return func(v *inventory.Volume) { v.SizeGiB, v.IOPS, v.ThroughputMiBps = size, iops, throughput }
}

func volumeTags(tags map[string]string) func(*inventory.Volume) {
	return func(v *inventory.Volume) { v.Tags = maps.Clone(tags) }
}

func lastRead(hour string) func(*inventory.Volume) {
	return func(v *inventory.Volume) { v.LastRead = datapoint(hour) }
}

func neverRead(v *inventory.Volume) { v.LastRead = noDatapoint() }

func readDenied(v *inventory.Volume) { v.LastRead = deniedDatapoint() }

func unknownRead(v *inventory.Volume) {
	v.LastRead = rule.Fact[inventory.LastDatapoint]{
		Source: getMetricData, At: scan.ExampleTime, Why: "VolumeReadOps has datapoints in three days, but none by the hour",
	}
}

func backedUp(yes bool) func(*inventory.Volume) {
	return func(v *inventory.Volume) { v.HasSnapshot = rule.Known(yes, "ec2:DescribeSnapshots", scan.ExampleTime) }
}
