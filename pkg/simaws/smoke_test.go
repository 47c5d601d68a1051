package simaws_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwt "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/organizations"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"nightshift.dev/pkg/simaws"
)

func TestSmoke(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 1}, simaws.Config{})
	c := w.ec2(w.management(), "us-east-1")
	rs, err := c.DescribeRegions(t.Context(), &ec2.DescribeRegionsInput{})
	t.Log(len(rs.Regions), err)
	is, err := c.DescribeInstances(t.Context(), &ec2.DescribeInstancesInput{})
	t.Log(len(is.Reservations), err)
	vs, err := c.DescribeVolumes(t.Context(), &ec2.DescribeVolumesInput{})
	t.Log(len(vs.Volumes), err)
	ss, err := c.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"}})
	t.Log(len(ss.Snapshots), err)
	as, err := c.DescribeAddresses(t.Context(), &ec2.DescribeAddressesInput{})
	t.Log(len(as.Addresses), err)
	zs, err := c.DescribeAvailabilityZones(t.Context(), &ec2.DescribeAvailabilityZonesInput{})
	t.Log(len(zs.AvailabilityZones), err)
	id, err := w.sts().GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	t.Log(aws.ToString(id.Arn), err)
	ar, err := w.sts().AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: aws.String(w.estate.Accounts[1].RoleARN(simaws.ReadOnlyRole)), RoleSessionName: aws.String("run"), ExternalId: aws.String(w.estate.Accounts[1].Roles[0].ExternalID)})
	t.Log(ar, err)
	oa, err := w.organizations().ListAccounts(t.Context(), &organizations.ListAccountsInput{})
	t.Log(oa, err)
	cw := w.cloudwatch(w.management(), "us-east-1")
	lm, err := cw.ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{})
	t.Log(len(lm.Metrics), err)
	gm, err := cw.GetMetricData(t.Context(), &cloudwatch.GetMetricDataInput{StartTime: aws.Time(now.AddDate(0, 0, -7)), EndTime: aws.Time(now), MetricDataQueries: []cwt.MetricDataQuery{{Id: aws.String("a"), MetricStat: &cwt.MetricStat{Metric: &lm.Metrics[0], Period: aws.Int32(86400), Stat: aws.String("Average")}}}})
	t.Log(gm.MetricDataResults, err)
	outcomes := map[string]int{}
	cost := 0.0
	for _, x := range w.estate.Truth() {
		outcomes[x.RuleID+x.Outcome]++
		if x.MonthlyCostLow != nil {
			cost += *x.MonthlyCostLow
		}
	}
	t.Log(outcomes, cost)
}
