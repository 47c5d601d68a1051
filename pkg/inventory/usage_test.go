package inventory_test

import (
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	"pgregory.net/rapid"

	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/simaws"
)

// valued is one series' answer with these points.
func valued(id, status string, points map[time.Time]float64) metricResult {
	r := metricResult{ID: id, StatusCode: status}
	for t, v := range points {
		r.Timestamps = append(r.Timestamps, cbor.Tag{Number: 1, Content: float64(t.Unix())})
		r.Values = append(r.Values, v)
	}
	return r
}

// flat is a point of v for each hour of the window asked for.
func flat(in metricRequest, v float64) map[time.Time]float64 {
	points := map[time.Time]float64{}
	for t := in.StartTime.UTC(); t.Before(in.EndTime); t = t.Add(time.Hour) {
		points[t] = v
	}
	return points
}

// The shape of the questions is what they cost: 250 instances in a call, by the
// hour, two statistics of a metric in the same call and so billed as one.
func TestUsageQuestions(t *testing.T) {
	t.Parallel()
	w := newWire(t)
	w.metrics = func(in metricRequest) (out metricAnswer) {
		for _, q := range in.MetricDataQueries {
			v := 3.0
			if q.MetricStat.Stat == "Maximum" {
				v = 12
			}
			out.MetricDataResults = append(out.MetricDataResults, valued(q.ID, "Complete", flat(in, v)))
		}
		return out
	}
	is := instances(600)
	is = append(is, is[0])
	fill(t, w.Session, inventory.InstanceCPU, is)
	if len(w.asked) != 3 {
		t.Errorf("%d calls for 600 instances, want 3", len(w.asked))
	}
	for _, in := range w.asked {
		stats := map[string][]string{}
		for _, q := range in.MetricDataQueries {
			m := q.MetricStat.Metric
			if m.Namespace != "AWS/EC2" || m.MetricName != "CPUUtilization" || q.MetricStat.Period != 3600 || len(m.Dimensions) != 1 || m.Dimensions[0].Name != "InstanceId" {
				t.Fatalf("asked for %+v", q)
			}
			stats[m.Dimensions[0].Value] = append(stats[m.Dimensions[0].Value], q.MetricStat.Stat)
		}
		for id, s := range stats {
			if slices.Sort(s); !slices.Equal(s, []string{"Average", "Maximum"}) {
				t.Errorf("%s: %v in one call", id, s)
			}
		}
		if len(in.MetricDataQueries) > 500 || in.EndTime.Sub(in.StartTime) != 7*24*time.Hour || !in.EndTime.Equal(now.Truncate(time.Hour)) {
			t.Errorf("%d queries of %v to %v", len(in.MetricDataQueries), in.StartTime, in.EndTime)
		}
	}
	if n := w.Meter.Snapshot().BilledMetrics; n != 600 {
		t.Errorf("billed %d metrics for 600 instances", n)
	}
	for _, i := range is {
		u := i.CPU
		if !u.Known || u.Source != "cloudwatch:GetMetricData" || !u.At.Equal(now) {
			t.Fatalf("%s: %+v", i.ID, u)
		}
		for d, day := range u.Value {
			if day.Hours != 24 || day.Average != 3 || day.Maximum != 12 || !day.From.Equal(now.Truncate(time.Hour).Add(-time.Duration(d+1)*24*time.Hour)) {
				t.Fatalf("%s, day %d: %+v", i.ID, d, day)
			}
		}
	}
}

// Whatever hours there are, a day's figures are those of its own hours.
func TestUsageDays(t *testing.T) {
	t.Parallel()
	end := now.Truncate(time.Hour)
	first := end.Add(-inventory.UsageDays * 24 * time.Hour)
	w := newWire(t)
	rapid.Check(t, func(rt *rapid.T) {
		averages, maxima := map[time.Time]float64{}, map[time.Time]float64{}
		for n := range 7*24 + 8 { // some before and some after the window
			if rapid.IntRange(0, 5).Draw(rt, "there") > 0 {
				at := first.Add(time.Duration(n-4) * time.Hour)
				averages[at] = float64(rapid.IntRange(0, 1000).Draw(rt, "average")) / 10
				maxima[at] = averages[at] + float64(rapid.IntRange(0, 100).Draw(rt, "more"))
			}
		}
		w.metrics = func(in metricRequest) (out metricAnswer) {
			for _, q := range in.MetricDataQueries {
				points := averages
				if q.MetricStat.Stat == "Maximum" {
					points = maxima
				}
				out.MetricDataResults = append(out.MetricDataResults, valued(q.ID, "Complete", points))
			}
			return out
		}
		is := instances(1)
		fill(t, w.Session, inventory.InstanceCPU, is)
		if !is[0].CPU.Known {
			rt.Fatalf("%+v", is[0].CPU)
		}
		for _, day := range is[0].CPU.Value {
			n, sum, high := 0, 0.0, 0.0
			for at, v := range averages {
				if !at.Before(day.From) && at.Before(day.From.Add(24*time.Hour)) {
					n, sum, high = n+1, sum+v, max(high, maxima[at])
				}
			}
			if day.Hours != n || n > 0 && math.Abs(day.Average-sum/float64(n)) > 1e-6 || day.Maximum != high {
				rt.Errorf("%+v, want %d hours, %v and %v", day, n, sum/float64(n), high)
			}
			if high > 0 && maxima[day.Busiest] != high {
				rt.Errorf("busiest at %v with %v, not %v", day.Busiest, maxima[day.Busiest], high)
			}
		}
	})
}

// One series that cannot be read fails its instance and no other.
func TestUsageAnswers(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		answer func(n int, in metricRequest, id, stat string) (metricResult, string)
		failed string
		hours  int
	}{
		"maxima forbidden": {func(_ int, in metricRequest, id, stat string) (metricResult, string) {
			if stat == "Maximum" {
				return result(id, "Forbidden"), ""
			}
			return valued(id, "Complete", flat(in, 1)), ""
		}, "forbidden", 0},
		"averages fail for ever": {func(_ int, in metricRequest, id, stat string) (metricResult, string) {
			if stat == "Average" {
				return result(id, "InternalError"), ""
			}
			return valued(id, "Complete", flat(in, 1)), ""
		}, "InternalError", 0},
		"partial once": {func(n int, in metricRequest, id, _ string) (metricResult, string) {
			if n == 0 {
				return valued(id, "PartialData", nil), ""
			}
			return valued(id, "Complete", flat(in, 1)), ""
		}, "", 168},
		"partial for ever": {func(_ int, in metricRequest, id, _ string) (metricResult, string) {
			return valued(id, "PartialData", flat(in, 1)), ""
		}, "PartialData", 0},
		"over two pages": {func(_ int, in metricRequest, id, _ string) (metricResult, string) {
			points := flat(in, 1)
			for at := range points {
				if at.Before(now.Add(-48*time.Hour)) == (in.NextToken == "") {
					delete(points, at)
				}
			}
			if in.NextToken == "" {
				return valued(id, "PartialData", points), "more"
			}
			return valued(id, "Complete", points), ""
		}, "", 168},
		"no points": {func(_ int, _ metricRequest, id, _ string) (metricResult, string) {
			return valued(id, "Complete", nil), ""
		}, "", 0},
		"no numbers": {func(_ int, in metricRequest, id, _ string) (metricResult, string) {
			return valued(id, "Complete", flat(in, math.NaN())), ""
		}, "", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWire(t)
			w.metrics = func(in metricRequest) (out metricAnswer) {
				for _, q := range in.MetricDataQueries {
					if q.MetricStat.Metric.Dimensions[0].Value == "i-1" { // a neighbour, always well
						out.MetricDataResults = append(out.MetricDataResults, valued(q.ID, "Complete", flat(in, 2)))
						continue
					}
					r, token := test.answer(len(w.asked)-1, in, q.ID, q.MetricStat.Stat)
					out.MetricDataResults, out.NextToken = append(out.MetricDataResults, r), token
				}
				return out
			}
			is := instances(2)
			fill(t, w.Session, inventory.InstanceCPU, is)
			f, hours := is[0].CPU, 0
			for _, d := range f.Value {
				hours += d.Hours
			}
			if f.Failed != (test.failed != "") || !strings.Contains(f.Why, test.failed) || f.Known == f.Failed || f.Known && hours != test.hours {
				t.Errorf("%d hours of %+v", hours, f)
			}
			if n := is[1].CPU; !n.Known || n.Value[0].Average != 2 || n.Value[6].Hours != 24 {
				t.Errorf("the neighbour: %+v", n)
			}
		})
	}
}

func dimensions(pairs ...string) (ds []map[string]string) {
	for i := 0; i < len(pairs); i += 2 {
		ds = append(ds, map[string]string{"Name": pairs[i], "Value": pairs[i+1]})
	}
	return ds
}

// An agent's series are found whatever their dimensions, over all pages, once
// in a session, and asked for by exactly those.
func TestMemoryIsDiscovered(t *testing.T) {
	t.Parallel()
	const linux, windows = "mem_used_percent", "Memory % Committed Bytes In Use"
	w := newWire(t)
	calls := 0
	w.listed = func(in listRequest) listAnswer {
		calls++
		if in.Namespace != "CWAgent" || len(in.Dimensions) != 1 || in.Dimensions[0]["Name"] != "InstanceId" {
			t.Errorf("listed %+v", in)
		}
		metric := func(ds ...string) listedMetric { return listedMetric{in.Namespace, in.MetricName, dimensions(ds...)} }
		switch {
		case in.MetricName == windows:
			return listAnswer{Metrics: []listedMetric{metric("InstanceId", "i-3", "objectname", "Memory")}}
		case in.MetricName == linux && in.NextToken == "":
			return listAnswer{[]listedMetric{metric("InstanceId", "i-0"), metric("ImageId", "ami-1", "InstanceId", "i-1", "InstanceType", "m5.large")}, "more"}
		case in.MetricName == linux:
			// The agent of i-1 was configured anew within the last two weeks.
			return listAnswer{Metrics: []listedMetric{metric("InstanceId", "i-1"), metric("InstanceId", "i-99"), metric("AutoScalingGroupName", "web")}}
		}
		t.Errorf("listed %q", in.MetricName)
		return listAnswer{}
	}
	half := now.Add(-80 * time.Hour).Truncate(time.Hour)
	w.metrics = func(in metricRequest) (out metricAnswer) {
		for _, q := range in.MetricDataQueries {
			m := q.MetricStat.Metric
			if m.Namespace != "CWAgent" || q.MetricStat.Stat != "Average" {
				t.Errorf("asked for %+v", q)
			}
			points := flat(in, 4)
			switch ds := fmt.Sprint(m.MetricName, m.Dimensions); ds {
			case linux + "[{InstanceId i-0}]", windows + "[{InstanceId i-3} {objectname Memory}]":
			case linux + "[{ImageId ami-1} {InstanceId i-1} {InstanceType m5.large}]":
				for at := range points {
					if !at.Before(half) {
						delete(points, at)
					}
				}
			case linux + "[{InstanceId i-1}]":
				for at := range points {
					if points[at] = 40; at.Before(half) {
						delete(points, at)
					}
				}
			default:
				t.Errorf("asked for %s", ds)
			}
			out.MetricDataResults = append(out.MetricDataResults, valued(q.ID, "Complete", points))
		}
		return out
	}
	is := instances(5)
	fill(t, w.Session, inventory.InstanceMemory, is[:3])
	fill(t, w.Session, inventory.InstanceMemory, is[3:])
	if calls != 3 {
		t.Errorf("listed with %d calls, want 3 in a session", calls)
	}
	hours := func(i *inventory.Instance) (n int) {
		for _, d := range i.Memory.Value {
			n += d.Hours
		}
		return n
	}
	for _, n := range []int{0, 1, 3} {
		if !is[n].Memory.Known || hours(is[n]) != 168 || is[n].Memory.Value[6].Average != 4 {
			t.Errorf("%s: %+v", is[n].ID, is[n].Memory)
		}
	}
	if d := is[1].Memory.Value[0]; d.Average != 40 {
		t.Errorf("both series of i-1 count: %+v", d)
	}
	for _, n := range []int{2, 4} {
		if f := is[n].Memory; f.Known || f.Failed || !strings.Contains(f.Why, "no CloudWatch agent") || f.Source != "cloudwatch:ListMetrics" {
			t.Errorf("%s: %+v", is[n].ID, f)
		}
	}
}

// On an estate: who has an agent is known, and who may not be read is failed,
// not unknown.
func TestMemoryOfAnEstate(t *testing.T) {
	t.Parallel()
	s := open(t, simaws.Options{Seed: 21, Resources: 1500, Accounts: 1, Regions: 1})
	is, _ := list(t, s.Session, inventory.Instances)
	is = slices.DeleteFunc(is, func(i *inventory.Instance) bool { return i.State != "running" })
	fill(t, s.Session, inventory.InstanceMemory, is)
	byID := map[string]simaws.Instance{}
	for _, i := range s.region.Instances {
		byID[i.ID] = i
	}
	with := map[string]int{}
	for _, i := range is {
		w := byID[i.ID]
		switch f := i.Memory; {
		case w.MetricStatus != "" || now.Sub(w.Launched) < time.Hour:
		case w.Agent == "" && (f.Known || f.Failed):
			t.Errorf("%s has no agent: %+v", i.ID, f)
		case w.Agent != "" && f.Failed:
			t.Errorf("%s: %+v", i.ID, f)
		case f.Known:
			with[w.Agent]++
		}
	}
	if len(with) < 3 {
		t.Errorf("agents %v: hardly anything was tested", with)
	}

	for name, fault := range map[string]simaws.Fault{
		"ListMetrics":   {Kind: "deny", Action: "ListMetrics"},
		"GetMetricData": {Kind: "deny", Action: "GetMetricData"},
	} {
		s := open(t, simaws.Options{Seed: 21, Resources: 1500, Accounts: 1, Regions: 1})
		if err := s.server.SetFaults(fault); err != nil {
			t.Fatal(err)
		}
		fill(t, s.Session, inventory.InstanceMemory, is)
		failed := 0
		for _, i := range is {
			if i.Memory.Failed {
				failed++
				if !strings.Contains(i.Memory.Why, name+" is denied") {
					t.Errorf("%s: %+v", i.ID, i.Memory)
				}
			}
			if i.Memory.Known {
				t.Errorf("%s: %+v without %s", i.ID, i.Memory, name)
			}
		}
		if failed == 0 || name == "ListMetrics" && failed != len(is) {
			t.Errorf("%s: %d of %d failed", name, failed, len(is))
		}
	}
}
