package simaws_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/schemas"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"github.com/aws/smithy-go/transport/http/protocol/awsquery"
	"pgregory.net/rapid"

	"nightshift.dev/pkg/simaws"
)

const day = 24 * time.Hour

func queryProtocol(o *cloudwatch.Options) {
	o.Protocol = awsquery.New(schemas.GraniteServiceVersion20100801)
}

// protocols are the client's two ways to speak.
var protocols = map[string]func(*cloudwatch.Options){"cbor": func(*cloudwatch.Options) {}, "query": queryProtocol}

func query(id, namespace, name, stat string, period int32, dims ...string) types.MetricDataQuery {
	m := &types.Metric{Namespace: &namespace, MetricName: &name}
	for i := 0; i < len(dims); i += 2 {
		m.Dimensions = append(m.Dimensions, types.Dimension{Name: &dims[i], Value: &dims[i+1]})
	}
	return types.MetricDataQuery{Id: &id, MetricStat: &types.MetricStat{Metric: m, Period: &period, Stat: &stat}}
}

// cpu is the simplest question: one instance's CPU.
func cpu(t *testing.T, c *cloudwatch.Client, instance, stat string, from, to time.Time, period time.Duration) (ts []time.Time, vs []float64) {
	t.Helper()
	res := getAll(t, c, cloudwatch.GetMetricDataInput{StartTime: &from, EndTime: &to, ScanBy: types.ScanByTimestampAscending,
		MetricDataQueries: []types.MetricDataQuery{query("q", "AWS/EC2", "CPUUtilization", stat, int32(period.Seconds()), "InstanceId", instance)}})
	return res["q"].Timestamps, res["q"].Values
}

// getAll follows the pages and joins each series.
func getAll(t *testing.T, c *cloudwatch.Client, in cloudwatch.GetMetricDataInput) map[string]types.MetricDataResult {
	t.Helper()
	out := map[string]types.MetricDataResult{}
	for p := cloudwatch.NewGetMetricDataPaginator(c, &in); p.HasMorePages(); {
		page, err := p.NextPage(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, r := range page.MetricDataResults {
			if len(r.Timestamps) != len(r.Values) {
				t.Fatalf("%d timestamps, %d values", len(r.Timestamps), len(r.Values))
			}
			n += len(r.Values)
			r.Timestamps, r.Values = append(out[*r.Id].Timestamps, r.Timestamps...), append(out[*r.Id].Values, r.Values...)
			out[*r.Id] = r
		}
		limit := 100_800
		if in.MaxDatapoints != nil {
			limit = int(*in.MaxDatapoints)
		}
		if n > limit {
			t.Fatalf("%d datapoints in a page, limit %d", n, limit)
		}
	}
	return out
}

// tiny is an estate written by hand: one instance of each kind that matters to metrics.
func tiny() *simaws.Estate {
	ago := func(days float64) time.Time { return now.Add(-time.Duration(days * float64(day))) }
	return loaded(&simaws.Region{
		Name: "us-east-1",
		Instances: []simaws.Instance{
			{ID: "i-running", Type: "m5.large", State: "running", Zone: "us-east-1a", Created: ago(600), Launched: ago(600), Detailed: true, Agent: "id+type"},
			{ID: "i-basic", Type: "m5.large", State: "running", Zone: "us-east-1a", Created: ago(20), Launched: ago(20), Load: "idle"},
			{ID: "i-stopped", Type: "m5.large", State: "stopped", Zone: "us-east-1b", Created: ago(100), Launched: ago(50), Stopped: ago(40), Runs: []simaws.Span{{From: ago(100), To: ago(80)}}},
			{ID: "i-recent", Type: "m5.large", State: "stopped", Zone: "us-east-1b", Created: ago(100), Launched: ago(100), Stopped: ago(10)},
		},
		Volumes: []simaws.Volume{
			{ID: "vol-used", Type: "gp3", State: "in-use", Zone: "us-east-1a", Size: 10, Created: ago(600), Attachments: []simaws.Attachment{{Instance: "i-running", Device: "/dev/xvda", At: ago(600)}}},
			{ID: "vol-still", Type: "gp3", State: "in-use", Zone: "us-east-1b", Size: 10, Created: ago(100), Attachments: []simaws.Attachment{{Instance: "i-stopped", Device: "/dev/xvda", At: ago(90)}}},
			{ID: "vol-free", Type: "gp3", State: "available", Zone: "us-east-1b", Size: 10, Created: ago(100), Detached: ago(30), History: []simaws.Span{{From: ago(60), To: ago(30)}}},
			{ID: "vol-never", Type: "gp3", State: "available", Zone: "us-east-1b", Size: 10, Created: ago(100)},
			{ID: "vol-multi", Type: "io2", State: "in-use", Zone: "us-east-1a", Size: 10, IOPS: 1000, MultiAttach: true, Created: ago(100), Attachments: []simaws.Attachment{
				{Instance: "i-running", Device: "/dev/sdf", At: ago(30)}, {Instance: "i-basic", Device: "/dev/sdf", At: ago(15)}}},
			{ID: "vol-forbidden", Type: "gp3", State: "available", Zone: "us-east-1b", Size: 10, Created: ago(100), History: []simaws.Span{{From: ago(60), To: ago(30)}}, MetricStatus: "Forbidden"},
			{ID: "vol-partial", Type: "gp3", State: "available", Zone: "us-east-1b", Size: 10, Created: ago(100), History: []simaws.Span{{From: ago(60), To: ago(30)}}, MetricStatus: "PartialData"},
		},
	})
}

// loaded is an estate of one account around a region written by hand.
func loaded(r *simaws.Region) *simaws.Estate {
	e := &simaws.Estate{Version: 1, Now: now, Organization: "o-handmade00", Accounts: []*simaws.Account{{ID: "111122223333", Name: "only", AccessKey: simaws.DemoAccessKey, Regions: []*simaws.Region{r},
		Roles: []simaws.Role{{Name: simaws.ReadOnlyRole, ExternalID: "secret-word"}, {Name: simaws.AdminRole}}}}}
	if err := e.Validate(); err != nil {
		panic(err)
	}
	return e
}

func TestSeriesFollowTheResource(t *testing.T) {
	t.Parallel()
	w := serve(t, tiny(), simaws.Config{NoQuotas: true})
	for name, option := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := w.cloudwatch(w.management(), "us-east-1", option)
			ago := func(days float64) time.Time { return now.Add(-time.Duration(days * float64(day))) }
			for _, tc := range []struct {
				namespace, metric, dim, id string
				first, last                float64 // days ago of the first and the last daily point; 0, 0 for none
			}{
				{"AWS/EC2", "CPUUtilization", "InstanceId", "i-running", 455, 1},
				{"AWS/EC2", "CPUUtilization", "InstanceId", "i-basic", 20, 1},
				{"AWS/EC2", "CPUUtilization", "InstanceId", "i-stopped", 100, 41},
				{"AWS/EC2", "CPUUtilization", "InstanceId", "i-nothing", 0, 0},
				{"AWS/EC2", "NoSuchMetric", "InstanceId", "i-running", 0, 0},
				{"AWS/EBS", "VolumeReadOps", "VolumeId", "vol-used", 455, 1},
				{"AWS/EBS", "VolumeReadOps", "VolumeId", "vol-still", 90, 41},
				{"AWS/EBS", "VolumeIdleTime", "VolumeId", "vol-free", 60, 31},
				{"AWS/EBS", "VolumeReadOps", "VolumeId", "vol-never", 0, 0},
				{"AWS/EBS", "VolumeReadOps", "VolumeId", "vol-multi", 30, 1},
				{"AWS/EBS", "VolumeIdleTime", "VolumeId", "vol-multi", 0, 0},
				{"CWAgent", "mem_used_percent", "InstanceId", "i-running", 0, 0}, // published with InstanceType, too
			} {
				from := ago(500)
				res := getAll(t, c, cloudwatch.GetMetricDataInput{StartTime: &from, EndTime: aws.Time(now), ScanBy: types.ScanByTimestampAscending,
					MetricDataQueries: []types.MetricDataQuery{query("q", tc.namespace, tc.metric, "Sum", 86400, tc.dim, tc.id)}})["q"]
				if res.StatusCode != types.StatusCodeComplete {
					t.Errorf("%s of %s: %s", tc.metric, tc.id, res.StatusCode)
				}
				if tc.first == 0 {
					if len(res.Timestamps) > 0 {
						t.Errorf("%s of %s: %d points, want none", tc.metric, tc.id, len(res.Timestamps))
					}
					continue
				}
				if len(res.Timestamps) == 0 || !res.Timestamps[0].Equal(ago(tc.first)) || !res.Timestamps[len(res.Timestamps)-1].Equal(ago(tc.last)) {
					t.Errorf("%s of %s: points %v, want from %v to %v days ago", tc.metric, tc.id, res.Timestamps, tc.first, tc.last)
				}
			}
			memory := getAll(t, c, cloudwatch.GetMetricDataInput{StartTime: aws.Time(ago(2)), EndTime: aws.Time(now), MetricDataQueries: []types.MetricDataQuery{
				query("both", "CWAgent", "mem_used_percent", "Average", 3600, "InstanceType", "m5.large", "InstanceId", "i-running")}})["both"]
			if len(memory.Values) != 48 {
				t.Errorf("memory with its exact dimensions, in another order: %d points, want 48", len(memory.Values))
			}
		})
	}
}

// Both protocols give the same series, and so do pages of any size.
func TestProtocolsAndPagesAgree(t *testing.T) {
	t.Parallel()
	w := serve(t, tiny(), simaws.Config{NoQuotas: true})
	cbor, form := w.cloudwatch(w.management(), "us-east-1"), w.cloudwatch(w.management(), "us-east-1", queryProtocol)
	rapid.Check(t, func(rt *rapid.T) {
		in := cloudwatch.GetMetricDataInput{
			StartTime: aws.Time(now.Add(-rapid.SampledFrom([]time.Duration{time.Hour, 3 * time.Hour, 9 * time.Hour}).Draw(rt, "window")).Add(-time.Duration(rapid.IntRange(0, 3600).Draw(rt, "off")) * time.Second)),
			EndTime:   aws.Time(now),
			ScanBy:    rapid.SampledFrom([]types.ScanBy{"", types.ScanByTimestampAscending, types.ScanByTimestampDescending}).Draw(rt, "scan"),
		}
		for i, id := range []string{"i-running", "i-basic", "i-stopped"} {
			in.MetricDataQueries = append(in.MetricDataQueries, query(fmt.Sprintf("m%d", i), "AWS/EC2", "CPUUtilization",
				rapid.SampledFrom([]string{"Average", "Sum", "Minimum", "Maximum", "SampleCount"}).Draw(rt, "stat"), rapid.SampledFrom([]int32{60, 300, 900, 3600}).Draw(rt, "period"), "InstanceId", id))
		}
		want := getAll(t, cbor, in)
		in.MaxDatapoints = aws.Int32(rapid.Int32Range(23, 2000).Draw(rt, "page"))
		for name, got := range map[string]map[string]types.MetricDataResult{"query": getAll(t, form, in), "cbor": getAll(t, cbor, in)} {
			for id, x := range want {
				if !slices.Equal(x.Values, got[id].Values) || !slices.EqualFunc(x.Timestamps, got[id].Timestamps, time.Time.Equal) || got[id].StatusCode != types.StatusCodeComplete {
					rt.Fatalf("%s in pages of %d: series %s has %d points, want %d", name, *in.MaxDatapoints, id, len(got[id].Values), len(x.Values))
				}
			}
		}
		for _, r := range want {
			if !slices.IsSortedFunc(r.Timestamps, func(a, b time.Time) int {
				if in.ScanBy == types.ScanByTimestampAscending {
					return a.Compare(b)
				}
				return b.Compare(a)
			}) {
				rt.Fatalf("not in the order of %q", in.ScanBy)
			}
		}
	})
}

// A longer period says the same as the shorter ones inside it: counts and sums add up, extremes are extremes.
func TestStatisticsAddUp(t *testing.T) {
	t.Parallel()
	w := serve(t, tiny(), simaws.Config{NoQuotas: true})
	c := w.cloudwatch(w.management(), "us-east-1")
	rapid.Check(t, func(rt *rapid.T) {
		id := rapid.SampledFrom([]string{"i-running", "i-basic", "i-recent"}).Draw(rt, "id")
		from := now.Add(-time.Duration(rapid.IntRange(1, 13).Draw(rt, "days")) * day).Add(time.Duration(rapid.IntRange(0, 287).Draw(rt, "slot")) * 5 * time.Minute)
		long := rapid.SampledFrom([]time.Duration{time.Hour, 6 * time.Hour, day}).Draw(rt, "long")
		short := rapid.SampledFrom([]time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute}).Draw(rt, "short")
		if id != "i-running" && short == time.Minute {
			short = 5 * time.Minute
		}
		one := func(stat string, period time.Duration) []float64 {
			_, v := cpu(t, c, id, stat, from, from.Add(long), period)
			return v
		}
		parts := one("Sum", short)
		if len(parts) == 0 {
			if len(one("Sum", long)) > 0 {
				rt.Fatal("the whole has points, its parts have none")
			}
			return
		}
		sum, count := 0.0, 0.0
		for _, v := range parts {
			sum += v
		}
		for _, v := range one("SampleCount", short) {
			count += v
		}
		near := func(what string, got, want float64) {
			if math.Abs(got-want) > 1e-6*math.Max(1, math.Abs(want)) {
				rt.Fatalf("%s over %v is %v, its parts of %v say %v", what, long, got, short, want)
			}
		}
		near("Sum", one("Sum", long)[0], sum)
		near("SampleCount", one("SampleCount", long)[0], count)
		near("Average", one("Average", long)[0], sum/count)
		near("Maximum", one("Maximum", long)[0], slices.Max(one("Maximum", short)))
		near("Minimum", one("Minimum", long)[0], slices.Min(one("Minimum", short)))
		if lo := one("Minimum", long)[0]; lo < 0 {
			rt.Fatalf("negative minimum %v", lo)
		}
	})
}

func TestRetention(t *testing.T) {
	t.Parallel()
	w := serve(t, tiny(), simaws.Config{NoQuotas: true})
	c := w.cloudwatch(w.management(), "us-east-1")
	for _, tc := range []struct {
		period time.Duration
		ago    int // days
		want   bool
	}{
		{time.Minute, 14, true}, {time.Minute, 16, false}, {5 * time.Minute, 16, true}, {5 * time.Minute, 62, true}, {5 * time.Minute, 64, false},
		{time.Hour, 64, true}, {time.Hour, 454, true}, {time.Hour, 457, false}, {day, 457, false},
	} {
		from := now.Add(-time.Duration(tc.ago) * day)
		if ts, _ := cpu(t, c, "i-running", "Average", from, from.Add(day), tc.period); (len(ts) > 0) != tc.want {
			t.Errorf("%v points of %d days ago: %d", tc.period, tc.ago, len(ts))
		}
	}
	// Basic monitoring has a point every five minutes, also when asked by the minute.
	if ts, _ := cpu(t, c, "i-basic", "Average", now.Add(-time.Hour), now, time.Minute); len(ts) != 12 {
		t.Errorf("basic monitoring: %d points an hour, want 12", len(ts))
	}
	if ts, _ := cpu(t, c, "i-running", "Average", now.Add(-time.Hour), now, time.Minute); len(ts) != 60 {
		t.Errorf("detailed monitoring: %d points an hour, want 60", len(ts))
	}
	// The start is rounded down and the periods count from it.
	if ts, _ := cpu(t, c, "i-running", "Average", now.Add(-2*time.Hour-30*time.Second), now, time.Hour); len(ts) != 3 || !ts[0].Equal(now.Add(-2*time.Hour-time.Minute)) {
		t.Errorf("start not rounded to the minute: %v", ts)
	}
	if ts, _ := cpu(t, c, "i-running", "Average", now.Add(-70*day).Add(17*time.Minute), now.Add(-69*day), time.Hour); len(ts) != 24 || !ts[0].Equal(now.Add(-70*day)) {
		t.Errorf("start not rounded to the hour: %v", ts)
	}
}

// 201 points for each of 500 queries fill a response; one more begins a second page.
func TestDefaultPage(t *testing.T) {
	t.Parallel()
	w := serve(t, tiny(), simaws.Config{NoQuotas: true})
	c := w.cloudwatch(w.management(), "us-east-1")
	in := &cloudwatch.GetMetricDataInput{StartTime: aws.Time(now.Add(-201 * time.Hour)), EndTime: aws.Time(now)}
	for i := range 500 {
		in.MetricDataQueries = append(in.MetricDataQueries, query(fmt.Sprintf("m%d", i), "AWS/EC2", "CPUUtilization", "Average", 3600, "InstanceId", "i-running"))
	}
	res, err := c.GetMetricData(t.Context(), in)
	if err != nil || res.NextToken != nil || len(res.MetricDataResults) != 500 {
		t.Fatalf("201 points × 500: %v, next %v", err, res.NextToken)
	}
	in.StartTime = aws.Time(now.Add(-202 * time.Hour))
	if res, err = c.GetMetricData(t.Context(), in); err != nil || res.NextToken == nil {
		t.Fatalf("202 points × 500 fit in one page: %v", err)
	}
	last := res.MetricDataResults[len(res.MetricDataResults)-1]
	if last.StatusCode != types.StatusCodePartialData || len(last.Values) == 0 || len(last.Values) == 202 {
		t.Errorf("the cut series is %s with %d points", last.StatusCode, len(last.Values))
	}
	for id, r := range getAll(t, c, *in) {
		if len(r.Values) != 202 || r.StatusCode != types.StatusCodeComplete {
			t.Errorf("%s: %d points, %s", id, len(r.Values), r.StatusCode)
		}
	}
}

func TestSeriesStatus(t *testing.T) {
	t.Parallel()
	w := serve(t, tiny(), simaws.Config{NoQuotas: true})
	for name, option := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := w.cloudwatch(w.management(), "us-east-1", option)
			foreign := query("foreign", "AWS/EC2", "CPUUtilization", "Sum", 3600, "InstanceId", "i-running")
			foreign.AccountId = aws.String("999999999999")
			hidden := query("hidden", "AWS/EC2", "CPUUtilization", "Sum", 3600, "InstanceId", "i-running")
			hidden.ReturnData = aws.Bool(false)
			res := getAll(t, c, cloudwatch.GetMetricDataInput{StartTime: aws.Time(now.Add(-60 * day)), EndTime: aws.Time(now), MetricDataQueries: []types.MetricDataQuery{
				query("forbidden", "AWS/EBS", "VolumeReadOps", "Sum", 3600, "VolumeId", "vol-forbidden"),
				query("partial", "AWS/EBS", "VolumeReadOps", "Sum", 3600, "VolumeId", "vol-partial"),
				query("fine", "AWS/EBS", "VolumeReadOps", "Sum", 3600, "VolumeId", "vol-free"),
				query("unknown", "My/Own", "Thing", "Sum", 3600), foreign, hidden,
			}})
			for id, want := range map[string]types.StatusCode{"forbidden": types.StatusCodeForbidden, "partial": types.StatusCodePartialData, "fine": types.StatusCodeComplete, "unknown": types.StatusCodeComplete, "foreign": types.StatusCodeForbidden} {
				if res[id].StatusCode != want {
					t.Errorf("%s: %s, want %s", id, res[id].StatusCode, want)
				}
			}
			if _, ok := res["hidden"]; ok || len(res["fine"].Values) != 30*24 || len(res["forbidden"].Values) != 0 || len(res["partial"].Values) == 0 || len(res["forbidden"].Messages) == 0 {
				t.Errorf("results %v", res)
			}
		})
	}
}

// plain undoes the client's habit of naming an error by its shape in one protocol and by its Query code in the other.
func plain(err error) string {
	return strings.NewReplacer("MissingRequiredParameterException", "MissingParameter", "ValidationException", "ValidationError",
		"InvalidParameterValueException", "InvalidParameterValue").Replace(code(err))
}

func TestMetricErrors(t *testing.T) {
	t.Parallel()
	w := serve(t, tiny(), simaws.Config{NoQuotas: true})
	for name, option := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := w.cloudwatch(w.management(), "us-east-1", option)
			good := func() types.MetricDataQuery {
				return query("q", "AWS/EC2", "CPUUtilization", "Average", 3600, "InstanceId", "i-running")
			}
			call := func(from, to time.Time, change func(*cloudwatch.GetMetricDataInput)) error {
				in := &cloudwatch.GetMetricDataInput{StartTime: &from, EndTime: &to, MetricDataQueries: []types.MetricDataQuery{good()}}
				change(in)
				_, err := c.GetMetricData(t.Context(), in)
				return err
			}
			hour := func(change func(*cloudwatch.GetMetricDataInput)) error { return call(now.Add(-time.Hour), now, change) }
			for _, tc := range []struct {
				name string
				err  error
				want string
			}{
				{"fine", hour(func(*cloudwatch.GetMetricDataInput) {}), "<nil>"},
				{"no queries", hour(func(in *cloudwatch.GetMetricDataInput) { in.MetricDataQueries = []types.MetricDataQuery{} }), "MissingParameter"},
				{"501 queries", hour(func(in *cloudwatch.GetMetricDataInput) {
					in.MetricDataQueries = slices.Repeat(in.MetricDataQueries, 501)
				}), "ValidationError"},
				{"end before start", call(now, now.Add(-time.Hour), func(*cloudwatch.GetMetricDataInput) {}), "ValidationError"},
				{"same id twice", hour(func(in *cloudwatch.GetMetricDataInput) {
					in.MetricDataQueries = append(in.MetricDataQueries, good())
				}), "ValidationError"},
				{"bad id", hour(func(in *cloudwatch.GetMetricDataInput) { in.MetricDataQueries[0].Id = aws.String("Upper") }), "ValidationError"},
				{"period", hour(func(in *cloudwatch.GetMetricDataInput) { in.MetricDataQueries[0].MetricStat.Period = aws.Int32(90) }), "ValidationError"},
				{"statistic", hour(func(in *cloudwatch.GetMetricDataInput) { in.MetricDataQueries[0].MetricStat.Stat = aws.String("Mode") }), "ValidationError"},
				{"expression", hour(func(in *cloudwatch.GetMetricDataInput) {
					in.MetricDataQueries[0] = types.MetricDataQuery{Id: aws.String("e"), Expression: aws.String("1+1")}
				}), "ValidationError"},
				{"token", hour(func(in *cloudwatch.GetMetricDataInput) { in.NextToken = aws.String("zzz") }), "InvalidNextToken"},
			} {
				if got := plain(tc.err); got != tc.want {
					t.Errorf("%s: %s, want %s (%v)", tc.name, got, tc.want, tc.err)
				}
			}
			_, err := c.ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{NextToken: aws.String("zzz")})
			wantCode(t, err, "InvalidNextToken")
			_, err = c.ListMetrics(t.Context(), &cloudwatch.ListMetricsInput{RecentlyActive: "PT9H"})
			if got := plain(err); got != "InvalidParameterValue" {
				t.Errorf("recently active: %v", err)
			}
			_, err = c.ListDashboards(t.Context(), &cloudwatch.ListDashboardsInput{})
			if got := code(err); got != "InvalidAction" && got != "UnknownOperationException" {
				t.Errorf("unknown action: %v", err)
			}
		})
	}
}

func TestListMetrics(t *testing.T) {
	t.Parallel()
	w := start(t, simaws.Options{Seed: 4, Resources: 700, Accounts: 1, Regions: 1}, simaws.Config{NoQuotas: true})
	list := func(t *testing.T, c *cloudwatch.Client, in cloudwatch.ListMetricsInput) map[string]bool {
		out := map[string]bool{}
		for p := cloudwatch.NewListMetricsPaginator(c, &in); p.HasMorePages(); {
			page, err := p.NextPage(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if len(page.Metrics) > 500 || p.HasMorePages() && len(page.Metrics) != 500 {
				t.Fatalf("page of %d metrics", len(page.Metrics))
			}
			for _, m := range page.Metrics {
				key := *m.Namespace + " " + *m.MetricName
				for _, d := range m.Dimensions {
					key += " " + *d.Name + "=" + *d.Value
				}
				if out[key] {
					t.Fatalf("%s twice", key)
				}
				out[key] = true
			}
		}
		return out
	}
	r := w.management().Regions[0]
	for name, option := range protocols {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := w.cloudwatch(w.management(), "us-east-1", option)
			all := list(t, c, cloudwatch.ListMetricsInput{})
			cpus := list(t, c, cloudwatch.ListMetricsInput{Namespace: aws.String("AWS/EC2"), MetricName: aws.String("CPUUtilization")})
			recent := list(t, c, cloudwatch.ListMetricsInput{Namespace: aws.String("AWS/EC2"), MetricName: aws.String("CPUUtilization"), RecentlyActive: types.RecentlyActivePt3h})
			agents := list(t, c, cloudwatch.ListMetricsInput{Namespace: aws.String("CWAgent"), Dimensions: []types.DimensionFilter{{Name: aws.String("InstanceId")}}})
			shapes := map[int]bool{}
			wantAgents := 0
			for i := range r.Instances {
				in := &r.Instances[i]
				ended := in.Stopped
				if ended.IsZero() {
					ended = now
				}
				seen := now.Sub(ended) < 14*day-time.Hour && ended.Sub(in.Launched) > 15*time.Minute
				key := "AWS/EC2 CPUUtilization InstanceId=" + in.ID
				if in.Agent != "" && seen && (in.Reporting.To.IsZero() || now.Sub(in.Reporting.To) < 14*day) {
					wantAgents++
				}
				if len(in.Gaps) > 0 || now.Sub(in.Launched) < 15*time.Minute {
					continue
				}
				if cpus[key] != seen || all[key] != seen {
					t.Errorf("%s, stopped %v: listed %v, want %v", in.Case, in.Stopped, cpus[key], seen)
				}
				if want := seen && now.Sub(ended) < 3*time.Hour; recent[key] != want {
					t.Errorf("%s: recently active %v, want %v", in.Case, recent[key], want)
				}
			}
			for k := range agents {
				shapes[strings.Count(k, "=")] = true
			}
			if len(agents) != wantAgents || len(shapes) < 3 {
				t.Errorf("%d memory metrics in %d shapes, want %d in at least 3", len(agents), len(shapes), wantAgents)
			}
			one := list(t, c, cloudwatch.ListMetricsInput{Dimensions: []types.DimensionFilter{{Name: aws.String("VolumeId"), Value: &r.Volumes[0].ID}}})
			for k := range one {
				if !strings.Contains(k, "VolumeId="+r.Volumes[0].ID) {
					t.Errorf("filtered by volume, got %s", k)
				}
			}
		})
	}
}
