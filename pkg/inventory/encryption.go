package inventory

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

const encryptionByDefault = "ec2:GetEbsEncryptionByDefault"

type sessionEncryption struct{ lookup[bool] }

// VolumeEncryptionByDefault fills Volume.EncryptionByDefault: one call in a
// session.
var VolumeEncryptionByDefault = Fact[Volume]{
	Name:    "encryption_by_default",
	Actions: []string{encryptionByDefault},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Volume) error {
		f := aws.Kept[sessionEncryption](s).get(ctx, encryptionByDefault, at, []string{s.Region},
			func(ctx context.Context, _ []string) (map[string]rule.Fact[bool], error) {
				out, err := s.EC2().GetEbsEncryptionByDefault(ctx, &ec2.GetEbsEncryptionByDefaultInput{})
				if err != nil {
					return nil, aws.Explain(err)
				}
				if out.EbsEncryptionByDefault == nil {
					return nil, nil
				}
				return known(map[string]bool{s.Region: *out.EbsEncryptionByDefault}, encryptionByDefault, at), nil
			})[s.Region]
		for _, v := range rs {
			v.EncryptionByDefault = f
		}
		return context.Cause(ctx)
	},
}
