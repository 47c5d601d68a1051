package simaws_test

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	cwtypes "github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"nightshift.dev/pkg/simaws"
)

// What the endpoint shows leads to the truth: a reader who has nothing but the wire, and takes the ladders of the rules literally, comes to the same outcome
// for every resource.
func TestEvidenceLeadsToTruth(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := start(t, simaws.Options{Seed: seed, Resources: 500}, simaws.Config{NoQuotas: true})
			want := map[string]string{}
			for _, truth := range w.estate.Truth() {
				if truth.RuleID != "ec2-stopped" && truth.RuleID != "ebs-unattached" {
					continue
				}
				want[truth.RuleID+" "+truth.ResourceID] = truth.Outcome + " (" + truth.Why + ")"
			}
			n := 0
			w.eachRegion(func(a *simaws.Account, r *simaws.Region) {
				for k, got := range readWire(t, w, a, r.Name) {
					if n++; len(want[k]) < len(got) || want[k][:len(got)] != got {
						t.Errorf("%s: the wire says %s, the truth %s", k, got, want[k])
					}
				}
			})
			if n != len(want) {
				t.Errorf("%d verdicts, the truth has %d", n, len(want))
			}
		})
	}
}

var anyDate = regexp.MustCompile(`\((\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) GMT\)`)

func readWire(t *testing.T, w *world, a *simaws.Account, region string) map[string]string {
	e, m := w.ec2(a, region), w.cloudwatch(a, region)
	out := map[string]string{}
	type open struct {
		key       string
		threshold time.Duration
		none      func() string // the verdict when there is no point
	}
	var asked []open
	in := cloudwatch.GetMetricDataInput{StartTime: aws.Time(now.Add(-455 * day)), EndTime: aws.Time(now)}
	since := func(at time.Time, threshold time.Duration) string {
		if now.Sub(at) >= threshold {
			return "VIOLATION"
		}
		return "COMPLIANT"
	}
	for _, i := range allInstances(t, e, ec2.DescribeInstancesInput{}) {
		key := "ec2-stopped " + *i.InstanceId
		if i.State.Name != types.InstanceStateNameStopped || len(tagParts(i.Tags, "aws:autoscaling:groupName", false)) > 0 {
			out[key] = "NOT_APPLICABLE"
			continue
		}
		if d := anyDate.FindStringSubmatch(*i.StateTransitionReason); d != nil {
			if at, err := time.Parse(time.DateTime, d[1]); err == nil {
				out[key] = since(at, 30*day)
				continue
			}
		}
		if now.Sub(*i.LaunchTime) < 30*day {
			out[key] = "COMPLIANT"
			continue
		}
		asked = append(asked, open{key, 30 * day, func() string {
			if now.Sub(*i.LaunchTime) > 455*day {
				return "VIOLATION"
			}
			return "INSUFFICIENT_DATA"
		}})
		in.MetricDataQueries = append(in.MetricDataQueries, query(fmt.Sprintf("m%d", len(asked)), "AWS/EC2", "CPUUtilization", "Maximum", 3600, "InstanceId", *i.InstanceId))
	}
	for _, v := range allVolumes(t, e, ec2.DescribeVolumesInput{}) {
		key := "ebs-unattached " + *v.VolumeId
		if v.State != types.VolumeStateAvailable {
			out[key] = "NOT_APPLICABLE"
			continue
		}
		asked = append(asked, open{key, 14 * day, func() string { return since(*v.CreateTime, 14*day) }})
		in.MetricDataQueries = append(in.MetricDataQueries, query(fmt.Sprintf("m%d", len(asked)), "AWS/EBS", "VolumeReadOps", "Sum", 3600, "VolumeId", *v.VolumeId))
	}
	if len(asked) == 0 {
		return out
	}
	res := getAll(t, m, in)
	for i, o := range asked {
		switch r := res[fmt.Sprintf("m%d", i+1)]; {
		case r.StatusCode != cwtypes.StatusCodeComplete:
			out[o.key] = "ERROR"
		case len(r.Timestamps) == 0:
			out[o.key] = o.none()
		default: // newest first; a point stands for the hour that follows it
			out[o.key] = since(r.Timestamps[0].Add(time.Hour), o.threshold)
		}
	}
	return out
}

// A policy that refuses a call shows in the truth.
func TestTruthOfDeniedAccounts(t *testing.T) {
	t.Parallel()
	e := simaws.Generate(simaws.Options{Seed: 8, Accounts: 3, Now: now})
	e.Accounts[1].Denied = []string{"cloudwatch:Get*"}
	e.Accounts[2].Denied = []string{"ec2:DescribeVolumes"}
	w := serve(t, e, simaws.Config{})
	_, err := w.cloudwatch(e.Accounts[1], "us-east-1").GetMetricData(t.Context(), &cloudwatch.GetMetricDataInput{StartTime: &now, EndTime: &now, MetricDataQueries: []cwtypes.MetricDataQuery{}})
	wantCode(t, err, "AccessDenied")
	_, err = w.ec2(e.Accounts[2], "us-east-1").DescribeVolumes(t.Context(), nil)
	wantCode(t, err, "UnauthorizedOperation")
	errored := 0
	for _, truth := range e.Truth() {
		switch {
		case truth.Account == e.Accounts[2].ID && truth.ResourceType == "AWS::EC2::Volume":
			t.Errorf("a verdict on %s, which cannot be listed", truth.ResourceID)
		case truth.Account == e.Accounts[2].ID && truth.RuleID == "ec2-stopped" && truth.MonthlyCostLow != nil:
			t.Errorf("a price for %s, whose volumes cannot be listed", truth.ResourceID)
		case truth.Account == e.Accounts[1].ID && truth.Outcome == simaws.Errored:
			errored++
		}
	}
	if errored < 3 {
		t.Errorf("%d errors in the account without metrics", errored)
	}
}
