package inventory

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

// Volume is an EBS volume, attached or not.
type Volume struct {
	Resource
	// State is creating, available, in-use, deleting, deleted or error.
	State string
	// VolumeType is gp2, gp3, io1, io2, st1, sc1 or standard.
	VolumeType string
	SizeGiB    int
	// IOPS and ThroughputMiBps are what it was given; 0 for types that have
	// none. Throughput is gp3's alone.
	IOPS, ThroughputMiBps int
	// MultiAttach tells that it can be attached to several instances.
	MultiAttach bool
	Attachments []Attachment
	// SnapshotID is what it was made from; empty for an empty volume.
	SnapshotID string
	Encrypted  bool
	// EncryptionUnknown tells that AWS left out whether it is encrypted.
	EncryptionUnknown bool
	// KMSKey is the ARN of the key; empty when not encrypted.
	KMSKey string
	// Outpost is the ARN of the Outpost it is on; empty for none.
	Outpost string

	// LastRead is its newest VolumeReadOps datapoint, which tells when it was
	// last attached to a running instance: fact VolumeLastRead.
	LastRead rule.Fact[LastDatapoint]
	// HasSnapshot tells whether a completed snapshot of it exists in its
	// account and region: fact VolumeHasSnapshot.
	HasSnapshot rule.Fact[bool]
	// EncryptionByDefault tells whether new volumes of its region are
	// encrypted whoever makes them: fact VolumeEncryptionByDefault.
	EncryptionByDefault rule.Fact[bool]
}

// Attachment is a volume's tie to an instance.
type Attachment struct {
	InstanceID string
	// Device name such as /dev/sdf.
	Device string
	// State is attaching, attached, detaching, detached or busy.
	State string
	// At is when it was attached; zero when AWS does not tell.
	At                  time.Time
	DeleteOnTermination bool
}

// Volumes lists EBS volumes in every state.
var Volumes = Kind[Volume]{
	Type:    "AWS::EC2::Volume",
	Actions: []string{"ec2:DescribeVolumes"},
	Of:      func(v *Volume) *Resource { return &v.Resource },
	List: func(ctx context.Context, s *aws.Session, page func([]Volume) error) error {
		return listVolumes(ctx, s, nil, page)
	},
}

func listVolumes(ctx context.Context, s *aws.Session, filters []types.Filter, page func([]Volume) error) error {
	pages := ec2.NewDescribeVolumesPaginator(s.EC2(), &ec2.DescribeVolumesInput{MaxResults: new(int32(500)), Filters: filters})
	return stream(ctx, "ec2:DescribeVolumes", pages.HasMorePages,
		func() (*string, error) {
			out, err := pages.NextPage(ctx)
			if err != nil {
				return nil, aws.Explain(err)
			}
			rs := make([]Volume, len(out.Volumes))
			for i := range out.Volumes {
				if rs[i], err = newVolume(s, &out.Volumes[i]); err != nil {
					return nil, err
				}
			}
			return out.NextToken, page(rs)
		})
}

func newVolume(s *aws.Session, in *types.Volume) (Volume, error) {
	id := val(in.VolumeId)
	if id == "" {
		return Volume{}, aws.Malformed("ec2:DescribeVolumes", "a volume without an id")
	}
	v := Volume{
		Resource: Resource{
			ARN: s.ARN("ec2", "volume/"+id), ID: id, Type: "AWS::EC2::Volume",
			Account: s.Account, Region: s.Region, Zone: val(in.AvailabilityZone), Tags: tags(in.Tags), Created: utc(in.CreateTime),
		},
		State:           string(in.State),
		VolumeType:      string(in.VolumeType),
		SizeGiB:         int(val(in.Size)),
		IOPS:            int(val(in.Iops)),
		ThroughputMiBps: int(val(in.Throughput)),
		MultiAttach:     val(in.MultiAttachEnabled),
		SnapshotID:      val(in.SnapshotId),
		Encrypted:       val(in.Encrypted),
		KMSKey:          val(in.KmsKeyId),
		Outpost:         val(in.OutpostArn),

		EncryptionUnknown: in.Encrypted == nil,
	}
	for _, a := range in.Attachments {
		v.Attachments = append(v.Attachments, Attachment{
			InstanceID: val(a.InstanceId), Device: val(a.Device), State: string(a.State),
			At: utc(a.AttachTime), DeleteOnTermination: val(a.DeleteOnTermination),
		})
	}
	return v, nil
}

// VolumeLastRead fills Volume.LastRead. VolumeReadOps is asked for because
// Multi-Attach volumes publish no VolumeIdleTime. It bills up to two metrics
// for each volume: ask only for those whose verdict hangs on it.
var VolumeLastRead = Fact[Volume]{
	Name:    "last_read_datapoint",
	Actions: []string{"cloudwatch:GetMetricData"},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Volume) error {
		return lastDatapoints(ctx, s, at, Metric{Namespace: "AWS/EBS", Name: "VolumeReadOps", Dimension: "VolumeId", Statistic: "Sum"}, rs,
			func(v *Volume) string { return v.ID },
			func(v *Volume, f rule.Fact[LastDatapoint]) { v.LastRead = f })
	},
}

// VolumeHasSnapshot fills Volume.HasSnapshot: one call for 200 volumes, and
// more pages only until each has shown one.
var VolumeHasSnapshot = Fact[Volume]{
	Name:    "has_snapshot",
	Actions: []string{"ec2:DescribeSnapshots"},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Volume) error {
		const source = "ec2:DescribeSnapshots"
		return batches(ctx, rs, filterValues, func(v *Volume) string { return v.ID }, func(ctx context.Context, ids []string, rs []*Volume) {
			found := make(map[string]bool, len(ids))
			pages := ec2.NewDescribeSnapshotsPaginator(s.EC2(), &ec2.DescribeSnapshotsInput{
				OwnerIds:   []string{"self"},
				MaxResults: new(int32(1000)),
				Filters:    append(filter("volume-id", ids), filter("status", []string{string(types.SnapshotStateCompleted)})...),
			})
			err := stream(ctx, source, func() bool { return len(found) < len(ids) && pages.HasMorePages() }, func() (*string, error) {
				out, err := pages.NextPage(ctx)
				if err != nil {
					return nil, aws.Explain(err)
				}
				for i := range out.Snapshots {
					if id := val(out.Snapshots[i].VolumeId); id != "" {
						found[id] = true
					}
				}
				return out.NextToken, nil
			})
			for _, v := range rs {
				switch {
				// One found is found, whatever happened later.
				case found[v.ID] || err == nil:
					v.HasSnapshot = rule.Known(found[v.ID], source, at)
				default:
					v.HasSnapshot = rule.Failed[bool](source, err)
				}
			}
		})
	},
}
