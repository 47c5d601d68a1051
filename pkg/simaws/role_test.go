package simaws_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"nightshift.dev/pkg/simaws"
)

// A role that is put into an account demands what it says: its external id,
// one of a pattern, or none at all.
func TestRolesDemandExternalIDs(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1, Accounts: 2}, simaws.Config{})
	target := w.estate.Accounts[1]
	assume := func(id *string) error {
		_, err := w.sts().AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String(target.RoleARN("audit/Reader")), RoleSessionName: aws.String("run"), ExternalId: id})
		return err
	}
	wantCode(t, assume(aws.String("ours")), "AccessDenied")
	for _, tc := range []struct {
		demands             string
		none, ours, another bool
	}{
		{"ours", false, true, false},
		{"*", false, true, true},
		{"our?", false, true, false},
		{"", true, true, true},
	} {
		if err := w.estate.PutRole(target.ID, simaws.Role{Name: "audit/Reader", ExternalID: tc.demands}, now); err != nil {
			t.Fatal(err)
		}
		for _, x := range []struct {
			id   *string
			want bool
		}{{nil, tc.none}, {aws.String("ours"), tc.ours}, {aws.String("another"), tc.another}} {
			if err := assume(x.id); (err == nil) != x.want {
				t.Errorf("a role that demands %q is given %q: %v", tc.demands, aws.ToString(x.id), err)
			}
		}
	}
	if err := w.estate.PutRole("000000000000", simaws.Role{Name: "x"}, now); err == nil {
		t.Error("a role was put into an account that is not there")
	}
	if err := w.estate.PutRole(target.ID, simaws.Role{Name: "x", Policy: &simaws.Policy{}}, now); err == nil {
		t.Error("a role was put with a policy that cannot be")
	}
}

// Every call that can be tried dry says whether it may be made, and makes none.
func TestDryRun(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1}, simaws.Config{})
	a := w.estate.Accounts[1]
	if err := w.estate.PutRole(a.ID, simaws.Role{Name: "Nothing", Policy: &simaws.Policy{Version: "2012-10-17", Statement: []simaws.Statement{{Effect: "Allow", Action: simaws.Words{"s3:*"}, Resource: simaws.Words{"*"}}}}}, now); err != nil {
		t.Fatal(err)
	}
	out, err := w.sts().AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String(a.RoleARN("Nothing")), RoleSessionName: aws.String("run")})
	if err != nil {
		t.Fatal(err)
	}
	denied := w.as(a, "us-east-1")
	denied.Credentials = credentials.NewStaticCredentialsProvider(*out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
	for want, cfg := range map[string]aws.Config{"DryRunOperation": w.as(a, "us-east-1"), "UnauthorizedOperation": denied} {
		c := ec2.NewFromConfig(cfg)
		for name, call := range map[string]func() error{
			"regions": func() error {
				_, err := c.DescribeRegions(t.Context(), &ec2.DescribeRegionsInput{DryRun: aws.Bool(true)})
				return err
			},
			"volumes": func() error {
				_, err := c.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{DryRun: aws.Bool(true)})
				return err
			},
			"encryption": func() error {
				_, err := c.GetEbsEncryptionByDefault(t.Context(), &ec2.GetEbsEncryptionByDefaultInput{DryRun: aws.Bool(true)})
				return err
			},
			"entries of a list that is not there": func() error {
				_, err := c.GetManagedPrefixListEntries(t.Context(), &ec2.GetManagedPrefixListEntriesInput{DryRun: aws.Bool(true), PrefixListId: aws.String("pl-00000000000000000")})
				return err
			},
		} {
			if err := call(); code(err) != want {
				t.Errorf("%s: %v, want %s", name, err, want)
			}
		}
	}
}
