package inventory

import (
	"context"
	"slices"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

const describeSnapshots = "ec2:DescribeSnapshots"

// Snapshot is an EBS snapshot that the account owns. Created is when it was
// begun.
type Snapshot struct {
	Resource
	// State is pending, completed, error, recoverable or recovering.
	State string
	// VolumeID is what it was taken of; see Volume.
	VolumeID string
	// SizeGiB is the size of that volume.
	SizeGiB int
	// FullBytes is how much of the volume was in use: what the snapshot holds
	// if it shares nothing with others. 0 when AWS does not tell.
	FullBytes int64
	// Tier is standard or archive; empty means standard.
	Tier        string
	Description string
	Encrypted   bool

	// Images are the ids of the account's own images that are made of it, the
	// deprecated and the disabled ones included, sorted: fact SnapshotImages.
	Images rule.Fact[[]string]
	// VolumeExists tells whether the volume is still there: fact
	// SnapshotVolume.
	VolumeExists rule.Fact[bool]
	// OthersLeft tells whether another completed snapshot of the same volume is
	// there: fact SnapshotOthers.
	OthersLeft rule.Fact[bool]
}

// Volume returns the id of the volume it was taken of; empty for a copy, whose
// volume id is arbitrary, such as vol-ffffffff.
func (s *Snapshot) Volume() string {
	if s.VolumeID == copiedVolume {
		return ""
	}
	return s.VolumeID
}

const copiedVolume = "vol-ffffffff"

// Snapshots lists the account's own snapshots in every state.
var Snapshots = Kind[Snapshot]{
	Type:    "AWS::EC2::Snapshot",
	Actions: []string{describeSnapshots},
	Of:      func(s *Snapshot) *Resource { return &s.Resource },
	List: func(ctx context.Context, s *aws.Session, page func([]Snapshot) error) error {
		return listSnapshots(ctx, s, nil, nil, page)
	},
}

// listSnapshots reads pages for as long as more says so; nil means to the end.
func listSnapshots(ctx context.Context, s *aws.Session, filters []types.Filter, more func() bool, page func([]Snapshot) error) error {
	pages := ec2.NewDescribeSnapshotsPaginator(s.EC2(), &ec2.DescribeSnapshotsInput{
		OwnerIds: []string{"self"}, MaxResults: new(int32(1000)), Filters: filters,
	})
	return stream(ctx, describeSnapshots, func() bool { return (more == nil || more()) && pages.HasMorePages() }, func() (*string, error) {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, aws.Explain(err)
		}
		rs := make([]Snapshot, len(out.Snapshots))
		for i := range out.Snapshots {
			if rs[i], err = newSnapshot(s, &out.Snapshots[i]); err != nil {
				return nil, err
			}
		}
		return out.NextToken, page(rs)
	})
}

func newSnapshot(s *aws.Session, in *types.Snapshot) (Snapshot, error) {
	id := val(in.SnapshotId)
	if id == "" {
		return Snapshot{}, aws.Malformed(describeSnapshots, "a snapshot without an id")
	}
	return Snapshot{
		Resource: Resource{
			// Like that of an image, the name of a snapshot has no account in
			// it.
			ARN: "arn:" + s.Partition + ":ec2:" + s.Region + "::snapshot/" + id, ID: id, Type: "AWS::EC2::Snapshot",
			Account: s.Account, Region: s.Region, Tags: tags(in.Tags), Created: utc(in.StartTime),
		},
		State:       string(in.State),
		VolumeID:    val(in.VolumeId),
		SizeGiB:     int(val(in.VolumeSize)),
		FullBytes:   val(in.FullSnapshotSizeInBytes),
		Tier:        string(in.StorageTier),
		Description: val(in.Description),
		Encrypted:   val(in.Encrypted),
	}, nil
}

// imagesBySnapshot are the ids of images by the snapshots they are made of.
type imagesBySnapshot map[string][]string

type sessionSnapshotImages struct{ lookup[imagesBySnapshot] }

// SnapshotImages fills Snapshot.Images. The account's own images are read once
// in a session, 1,000 in a call.
var SnapshotImages = Fact[Snapshot]{
	Name:    "images",
	Actions: []string{describeImages},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Snapshot) error {
		all := aws.Kept[sessionSnapshotImages](s).get(ctx, describeImages, at, []string{s.Region},
			func(ctx context.Context, _ []string) (map[string]rule.Fact[imagesBySnapshot], error) {
				by, err := readImagesBySnapshot(ctx, s)
				if err != nil {
					return nil, err
				}
				return known(map[string]imagesBySnapshot{s.Region: by}, describeImages, at), nil
			})[s.Region]
		for _, n := range rs {
			n.Images = rule.Fact[[]string]{Known: all.Known, Failed: all.Failed, Why: all.Why, Source: all.Source, At: all.At}
			if all.Known {
				n.Images.Value = all.Value[n.ID]
			}
		}
		return context.Cause(ctx)
	},
}

func readImagesBySnapshot(ctx context.Context, s *aws.Session) (imagesBySnapshot, error) {
	by := imagesBySnapshot{}
	pages := ec2.NewDescribeImagesPaginator(s.EC2(), &ec2.DescribeImagesInput{
		Owners: []string{"self"}, MaxResults: new(int32(1000)), IncludeDeprecated: new(true), IncludeDisabled: new(true),
	})
	err := stream(ctx, describeImages, pages.HasMorePages, func() (*string, error) {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, aws.Explain(err)
		}
		for i := range out.Images {
			id := val(out.Images[i].ImageId)
			if id == "" {
				return nil, aws.Malformed(describeImages, "an image without an id")
			}
			for _, m := range out.Images[i].BlockDeviceMappings {
				if m.Ebs == nil {
					continue
				}
				if of := val(m.Ebs.SnapshotId); of != "" && !slices.Contains(by[of], id) {
					by[of] = append(by[of], id)
				}
			}
		}
		return out.NextToken, nil
	})
	for _, ids := range by {
		slices.Sort(ids)
	}
	return by, err
}

// SnapshotVolume fills Snapshot.VolumeExists, 200 volumes in a call. A copy has
// no volume, and its fact is unknown.
var SnapshotVolume = Fact[Snapshot]{
	Name:    "volume_exists",
	Actions: []string{"ec2:DescribeVolumes"},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Snapshot) error {
		const source = "ec2:DescribeVolumes"
		return batches(ctx, ofVolumes(rs), filterValues, (*Snapshot).Volume, func(ctx context.Context, ids []string, rs []*Snapshot) {
			there := make(map[string]bool, len(ids))
			err := listVolumes(ctx, s, filter("volume-id", ids), func(vs []Volume) error {
				for _, v := range vs {
					there[v.ID] = v.State != "deleting" && v.State != "deleted"
				}
				return nil
			})
			for _, n := range rs {
				exists, shown := there[n.Volume()]
				switch {
				case shown || err == nil:
					n.VolumeExists = rule.Known(exists, source, at)
				default:
					n.VolumeExists = rule.Failed[bool](source, err)
				}
			}
		})
	},
}

// SnapshotOthers fills Snapshot.OthersLeft: one call for 200 volumes, and more
// pages only until each has shown two snapshots.
var SnapshotOthers = Fact[Snapshot]{
	Name:    "other_snapshots",
	Actions: []string{describeSnapshots},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Snapshot) error {
		return batches(ctx, ofVolumes(rs), filterValues, (*Snapshot).Volume, func(ctx context.Context, ids []string, rs []*Snapshot) {
			// Two of a volume are enough: one of them is another.
			found, enough := make(map[string][]string, len(ids)), 0
			err := listSnapshots(ctx, s, append(filter("volume-id", ids), filter("status", []string{string(types.SnapshotStateCompleted)})...),
				func() bool { return enough < len(ids) },
				func(page []Snapshot) error {
					for i := range page {
						of := page[i].VolumeID
						if n := len(found[of]); n < 2 && !slices.Contains(found[of], page[i].ID) {
							found[of] = append(found[of], page[i].ID)
							if n == 1 && slices.Contains(ids, of) {
								enough++
							}
						}
					}
					return nil
				})
			for _, n := range rs {
				others := slices.ContainsFunc(found[n.Volume()], func(id string) bool { return id != n.ID })
				switch {
				// One found is found, whatever happened later.
				case others || err == nil:
					n.OthersLeft = rule.Known(others, describeSnapshots, at)
				default:
					n.OthersLeft = rule.Failed[bool](describeSnapshots, err)
				}
			}
		})
	},
}

// ofVolumes are the snapshots whose volume is known.
func ofVolumes(rs []*Snapshot) []*Snapshot {
	return slices.DeleteFunc(slices.Clone(rs), func(n *Snapshot) bool { return n.Volume() == "" })
}
