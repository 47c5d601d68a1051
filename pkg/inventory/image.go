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
	describeImages        = "ec2:DescribeImages"
	describeImageMetadata = "ec2:DescribeInstanceImageMetadata"
)

// Image is an Amazon machine image (AMI).
//
// Created is zero when AWS does not tell, or not in a way that can be read.
type Image struct {
	Resource
	// ImageName is the image's own name, which is not a tag.
	ImageName string
	// State is pending, available, invalid, deregistered, transient, failed,
	// error or disabled; empty when AWS left it out.
	State string
	// Owner is the account that made it; OwnerAlias is amazon, aws-marketplace
	// or aws-backup-vault for those, and empty otherwise.
	Owner, OwnerAlias string
	// Deprecated is from when on it is deprecated, which may be in the future;
	// zero for never.
	Deprecated time.Time
}

// Images lists the account's own images, the deprecated and the disabled ones
// included.
var Images = Kind[Image]{
	Type:    "AWS::EC2::Image",
	Actions: []string{describeImages},
	Of:      func(i *Image) *Resource { return &i.Resource },
	List: func(ctx context.Context, s *aws.Session, page func([]Image) error) error {
		return listImages(ctx, s, &ec2.DescribeImagesInput{Owners: []string{"self"}}, page)
	},
}

func listImages(ctx context.Context, s *aws.Session, in *ec2.DescribeImagesInput, page func([]Image) error) error {
	in.MaxResults, in.IncludeDeprecated, in.IncludeDisabled = new(int32(1000)), new(true), new(true)
	pages := ec2.NewDescribeImagesPaginator(s.EC2(), in)
	return stream(ctx, describeImages, pages.HasMorePages, func() (*string, error) {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, aws.Explain(err)
		}
		is := make([]Image, len(out.Images))
		for k := range out.Images {
			if is[k], err = newImage(s, &out.Images[k]); err != nil {
				return nil, err
			}
		}
		return out.NextToken, page(is)
	})
}

func newImage(s *aws.Session, in *types.Image) (Image, error) {
	id := val(in.ImageId)
	if id == "" {
		return Image{}, aws.Malformed(describeImages, "an image without an id")
	}
	i := imageOf(s, id)
	i.Tags = tags(in.Tags)
	i.ImageName, i.State, i.Owner, i.OwnerAlias = val(in.Name), string(in.State), val(in.OwnerId), val(in.ImageOwnerAlias)
	i.Created, _ = parseTime(val(in.CreationDate))
	i.Deprecated, _ = parseTime(val(in.DeprecationTime))
	return i, nil
}

// imageOf is an image of which nothing but its id is known. The name of an
// image has no account in it.
func imageOf(s *aws.Session, id string) Image {
	return Image{Resource: Resource{
		ARN: "arn:" + s.Partition + ":ec2:" + s.Region + "::image/" + id, ID: id, Type: "AWS::EC2::Image", Account: s.Account, Region: s.Region,
	}}
}

type (
	sessionImages        struct{ lookup[Image] }
	sessionImageMetadata struct{ lookup[Image] }
)

// InstanceImage fills Instance.Image. Each image is asked for once in a
// session, 200 in a call.
var InstanceImage = Fact[Instance]{
	Name:    "image",
	Actions: []string{describeImages},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Instance) error {
		images := aws.Kept[sessionImages](s).get(ctx, describeImages, at, imageIDs(rs),
			func(ctx context.Context, ids []string) (map[string]rule.Fact[Image], error) {
				found := map[string]Image{}
				// Asked for by filter: an unknown id given by name would refuse
				// all.
				err := listImages(ctx, s, &ec2.DescribeImagesInput{Filters: filter("image-id", ids)}, func(is []Image) error {
					for _, i := range is {
						found[i.ID] = i
					}
					return nil
				})
				return known(found, describeImages, at), err
			})
		for _, i := range rs {
			i.Image = images[i.ImageID]
		}
		return context.Cause(ctx)
	},
}

// metadataRounds is how many instances are asked for one image, each in a call
// of its own: one may be gone by then.
const metadataRounds = 3

// InstanceImageMetadata fills Instance.ImageMetadata. What AWS tells of an
// image is the same for all its instances: each image is asked for once in a
// session, by an instance that runs it, 200 in a call.
var InstanceImageMetadata = Fact[Instance]{
	Name:    "image_metadata",
	Actions: []string{describeImageMetadata},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Instance) error {
		byImage := map[string][]string{}
		for _, i := range rs {
			byImage[i.ImageID] = append(byImage[i.ImageID], i.ID)
		}
		images := aws.Kept[sessionImageMetadata](s).get(ctx, describeImageMetadata, at, imageIDs(rs),
			func(ctx context.Context, ids []string) (map[string]rule.Fact[Image], error) {
				found := map[string]Image{}
				for round := range metadataRounds {
					var ask []string
					for _, id := range ids {
						if _, ok := found[id]; !ok && round < len(byImage[id]) {
							ask = append(ask, byImage[id][round])
						}
					}
					if len(ask) == 0 {
						break
					}
					if err := readImageMetadata(ctx, s, ask, found); err != nil {
						return known(found, describeImageMetadata, at), err
					}
				}
				return known(found, describeImageMetadata, at), nil
			})
		for _, i := range rs {
			i.ImageMetadata = images[i.ImageID]
		}
		return context.Cause(ctx)
	},
}

func imageIDs(rs []*Instance) []string {
	var ids []string
	for _, id := range unique(rs, func(i *Instance) string { return i.ImageID }) {
		if id != "" {
			ids = append(ids, id)
		}
	}
	return ids
}

// readImageMetadata adds what instances show of their images to found.
func readImageMetadata(ctx context.Context, s *aws.Session, instances []string, found map[string]Image) error {
	pages := ec2.NewDescribeInstanceImageMetadataPaginator(s.EC2(), &ec2.DescribeInstanceImageMetadataInput{
		MaxResults: new(int32(1000)), Filters: filter("instance-id", instances),
	})
	return stream(ctx, describeImageMetadata, pages.HasMorePages, func() (*string, error) {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, aws.Explain(err)
		}
		for _, in := range out.InstanceImageMetadata {
			m := in.ImageMetadata
			if m == nil || val(m.ImageId) == "" {
				continue
			}
			i := imageOf(s, *m.ImageId)
			i.ImageName, i.State, i.Owner, i.OwnerAlias = val(m.Name), string(m.State), val(m.OwnerId), val(m.ImageOwnerAlias)
			i.Created, _ = parseTime(val(m.CreationDate))
			i.Deprecated, _ = parseTime(val(m.DeprecationTime))
			found[i.ID] = i
		}
		return out.NextToken, nil
	})
}
