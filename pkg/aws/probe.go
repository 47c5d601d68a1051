package aws

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	sdkarn "github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/organizations"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
)

// TryRole assumes the target's role with its external id, or with none, and
// throws the credentials away. Nothing is taken from what was assumed before.
// The error is an *Error.
func (c *Cloud) TryRole(ctx context.Context, t Target) error {
	in := &sts.AssumeRoleInput{RoleArn: &t.RoleARN, RoleSessionName: sdk.String(sessionName(t.SessionName)), DurationSeconds: sdk.Int32(900)}
	if t.ExternalID != "" {
		in.ExternalId = &t.ExternalID
	}
	_, err := sts.NewFromConfig(c.config(c.cfg.Region, "", c.cfg.Credentials, c.home)).AssumeRole(ctx, in)
	return Explain(err)
}

// Home is the region in which STS is asked, and an account for its regions.
func (c *Cloud) Home() string { return c.cfg.Region }

// Identity asks STS whose the session's credentials are. It needs no
// permission. The error is an *Error.
func (s *Session) Identity(ctx context.Context) (Caller, error) {
	out, err := sts.NewFromConfig(s.cfg).GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	if err != nil {
		return Caller{}, Explain(err)
	}
	return caller(out)
}

func caller(out *sts.GetCallerIdentityOutput) (Caller, error) {
	a, err := sdkarn.Parse(sdk.ToString(out.Arn))
	if err != nil || sdk.ToString(out.Account) == "" {
		return Caller{}, Malformed("sts:GetCallerIdentity", "no account")
	}
	return Caller{Account: *out.Account, Partition: a.Partition, ARN: *out.Arn}, nil
}

// Principal is what a trust policy has to name so that the caller may assume
// a role: the user, or the role behind a session. Of a session of IAM Identity
// Center it is the whole account, since the ARN of a session does not tell
// the path of its role, and those have one.
func (c Caller) Principal() string {
	a, err := sdkarn.Parse(c.ARN)
	if err != nil {
		return c.Account
	}
	if rest, ok := strings.CutPrefix(a.Resource, "assumed-role/"); ok && a.Service == "sts" {
		name, _, _ := strings.Cut(rest, "/")
		if !strings.HasPrefix(name, "AWSReservedSSO_") {
			return "arn:" + a.Partition + ":iam::" + a.AccountID + ":role/" + name
		}
	} else if strings.HasPrefix(a.Resource, "user/") && a.Service == "iam" {
		return c.ARN
	}
	return "arn:" + c.Partition + ":iam::" + c.Account + ":root"
}

// EnabledRegions returns the names of the session's account's regions that can
// be used, sorted. The error is an *Error.
func (s *Session) EnabledRegions(ctx context.Context) ([]string, error) { return s.regions(ctx) }

// Probes are the IAM actions that Probe can try, sorted.
func Probes() []string { return slices.Sorted(maps.Keys(probes)) }

// Probe tries whether an action is allowed, with the cheapest call there is: a
// dry run of EC2, which reads nothing, or a page of one of CloudWatch. Of these
// GetMetricData is billed, as one metric: a thousandth of a cent. Nil means allowed;
// the error is an *Error.
func (s *Session) Probe(ctx context.Context, action string) error {
	probe := probes[action]
	if probe == nil {
		return &Error{Class: Failed, Action: action, msg: "there is no cheap call known to try " + action}
	}
	err := probe(ctx, s)
	if strings.HasPrefix(action, "ec2:") {
		if err == nil {
			// A dry run never succeeds. An emulator that ignores it has done the call, which is as good.
			return nil
		}
		// Who may not is told so before what is asked for is looked up.
		var api smithy.APIError
		if errors.As(err, &api) && (api.ErrorCode() == "DryRunOperation" || strings.HasSuffix(api.ErrorCode(), ".NotFound")) {
			return nil
		}
	}
	return Explain(err)
}

// dry is the probe of an EC2 action, from its method.
func dry[In, Out any](call func(*ec2.Client, context.Context, *In, ...func(*ec2.Options)) (*Out, error), in *In) func(context.Context, *Session) error {
	return func(ctx context.Context, s *Session) error {
		_, err := call(s.EC2(), ctx, in)
		return err
	}
}

var yes = sdk.Bool(true)

// probes are how actions are tried. An action that rules begin to need needs
// a line here; a test of the services says so.
var probes = map[string]func(context.Context, *Session) error{
	"ec2:DescribeAddresses":             dry((*ec2.Client).DescribeAddresses, &ec2.DescribeAddressesInput{DryRun: yes}),
	"ec2:DescribeImages":                dry((*ec2.Client).DescribeImages, &ec2.DescribeImagesInput{DryRun: yes}),
	"ec2:DescribeInstanceImageMetadata": dry((*ec2.Client).DescribeInstanceImageMetadata, &ec2.DescribeInstanceImageMetadataInput{DryRun: yes}),
	"ec2:DescribeInstances":             dry((*ec2.Client).DescribeInstances, &ec2.DescribeInstancesInput{DryRun: yes}),
	"ec2:DescribeManagedPrefixLists":    dry((*ec2.Client).DescribeManagedPrefixLists, &ec2.DescribeManagedPrefixListsInput{DryRun: yes}),
	"ec2:DescribeNetworkInterfaces":     dry((*ec2.Client).DescribeNetworkInterfaces, &ec2.DescribeNetworkInterfacesInput{DryRun: yes}),
	"ec2:DescribeRegions":               dry((*ec2.Client).DescribeRegions, &ec2.DescribeRegionsInput{DryRun: yes}),
	"ec2:DescribeRouteTables":           dry((*ec2.Client).DescribeRouteTables, &ec2.DescribeRouteTablesInput{DryRun: yes}),
	"ec2:DescribeSecurityGroupRules":    dry((*ec2.Client).DescribeSecurityGroupRules, &ec2.DescribeSecurityGroupRulesInput{DryRun: yes}),
	"ec2:DescribeSecurityGroups":        dry((*ec2.Client).DescribeSecurityGroups, &ec2.DescribeSecurityGroupsInput{DryRun: yes}),
	"ec2:DescribeSnapshots":             dry((*ec2.Client).DescribeSnapshots, &ec2.DescribeSnapshotsInput{DryRun: yes}),
	"ec2:DescribeVolumes":               dry((*ec2.Client).DescribeVolumes, &ec2.DescribeVolumesInput{DryRun: yes}),
	"ec2:GetEbsEncryptionByDefault":     dry((*ec2.Client).GetEbsEncryptionByDefault, &ec2.GetEbsEncryptionByDefaultInput{DryRun: yes}),
	"ec2:GetManagedPrefixListEntries": dry((*ec2.Client).GetManagedPrefixListEntries,
		&ec2.GetManagedPrefixListEntriesInput{DryRun: yes, PrefixListId: sdk.String("pl-00000000000000000")}),

	"cloudwatch:ListMetrics": func(ctx context.Context, s *Session) error {
		_, err := s.CloudWatch().ListMetrics(ctx, &cloudwatch.ListMetricsInput{Namespace: sdk.String("AWS/EC2"), MetricName: sdk.String("NightshiftProbe")})
		return err
	},
	"cloudwatch:GetMetricData": func(ctx context.Context, s *Session) error {
		end := time.Now().Truncate(time.Hour)
		_, err := s.CloudWatch().GetMetricData(ctx, &cloudwatch.GetMetricDataInput{
			StartTime: sdk.Time(end.Add(-time.Hour)), EndTime: sdk.Time(end),
			MetricDataQueries: []cwtypes.MetricDataQuery{{Id: sdk.String("probe"), MetricStat: &cwtypes.MetricStat{
				Metric: &cwtypes.Metric{Namespace: sdk.String("AWS/EC2"), MetricName: sdk.String("NightshiftProbe")},
				Period: sdk.Int32(3600), Stat: sdk.String("Sum"),
			}}},
		})
		return err
	},

	"sts:GetCallerIdentity": func(ctx context.Context, s *Session) error {
		_, err := s.Identity(ctx)
		return err
	},
}

// OrganizationPage lists at most 20 accounts of the organization, beginning
// after the page that gave the token; empty for the first. next is empty on
// the last. The error is an *Error.
func (c *Cloud) OrganizationPage(ctx context.Context, size int32, token string) (page []OrganizationAccount, next string, err error) {
	in := &organizations.ListAccountsInput{}
	if size > 0 && size < 20 {
		in.MaxResults = &size
	}
	if token != "" {
		in.NextToken = &token
	}
	out, err := organizations.NewFromConfig(c.config(c.cfg.Region, "", c.cfg.Credentials, c.home)).ListAccounts(ctx, in)
	if err != nil {
		return nil, "", Explain(err)
	}
	for _, a := range out.Accounts {
		page = append(page, organizationAccount(a))
	}
	if next = sdk.ToString(out.NextToken); next != "" && next == token {
		return nil, "", Malformed("organizations:ListAccounts", "the same page token twice")
	}
	return page, next, nil
}
