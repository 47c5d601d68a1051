package inventory

import (
	"context"
	"math"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

// UsageDays is how many days a Usage looks back. By the hour that is 168
// points a series, and one answer of CloudWatch holds them for the 500 series
// of a call.
const UsageDays = 7

// Usage is what a metric says of the last days: rolling windows of 24 hours
// that end at the scan's full hour, the newest first.
type Usage [UsageDays]UsageDay

// UsageDay is what a metric says of 24 hours. A missing hour is missing, not
// zero.
type UsageDay struct {
	// From is when the 24 hours began: a full hour.
	From time.Time
	// Hours is how many of the 24 have a datapoint.
	Hours int
	// Average is the mean of the hourly averages, Maximum the highest of the
	// hourly maxima, both in the metric's unit; 0 when there is no datapoint,
	// and Maximum also when it was not asked for.
	Average, Maximum float64
	// Busiest is the start of the hour with the maximum.
	Busiest time.Time
}

// hours are hourly figures, oldest first; NaN where there is none.
type hours [UsageDays * 24]float64

func newHours() *hours {
	var h hours
	for i := range h {
		h[i] = math.NaN()
	}
	return &h
}

// add takes the points of a series that are within the window from from on. Of
// several figures for an hour the highest counts.
func (h *hours) add(from time.Time, s *series) {
	for i, t := range s.times {
		if t.Before(from) || i >= len(s.values) || math.IsNaN(s.values[i]) || math.IsInf(s.values[i], 0) {
			continue
		}
		if n := int(t.Sub(from) / time.Hour); n < len(h) && !(s.values[i] <= h[n]) {
			h[n] = s.values[i]
		}
	}
}

// usage sums hours up by day.
func usage(from time.Time, averages, maxima *hours) (u Usage) {
	for d := range u {
		first := (UsageDays - 1 - d) * 24
		day := UsageDay{From: from.Add(time.Duration(first) * time.Hour)}
		sum := 0.0
		for n := first; n < first+24; n++ {
			if v := averages[n]; !math.IsNaN(v) {
				sum += v
				day.Hours++
			}
			if v := maxima[n]; v > day.Maximum {
				day.Maximum, day.Busiest = v, from.Add(time.Duration(n)*time.Hour)
			}
		}
		if day.Hours > 0 {
			// A float's noise must not decide at a threshold.
			day.Average = math.Round(sum/float64(day.Hours)*1e9) / 1e9
		}
		u[d] = day
	}
	return u
}

// gauge is one series of a resource.
type gauge struct {
	id string
	question
}

const (
	average = "Average"
	maximum = "Maximum"
)

// readUsage asks for series by the hour, 500 in a call, and sums them up by
// resource. Several series of a resource count as one, the highest figure of
// each hour; one that cannot be read fails the resource. Gauges of the same
// metric must be neighbours: two statistics of a metric are billed as one when
// the same call asks for them.
func readUsage(ctx context.Context, s *aws.Session, at time.Time, gauges []gauge) (map[string]rule.Fact[Usage], error) {
	end := at.UTC().Truncate(time.Hour)
	from := end.Add(-UsageDays * 24 * time.Hour)
	type reading struct {
		averages, maxima *hours
		err              error
	}
	var mu sync.Mutex
	readings := map[string]*reading{}
	err := inParallel(ctx, slices.Collect(slices.Chunk(gauges, metricQueries)), func(ctx context.Context, some []gauge) {
		qs := make([]question, len(some))
		for i := range some {
			qs[i] = some[i].question
		}
		got := collect(ctx, s, from, end, time.Hour, qs)
		mu.Lock()
		defer mu.Unlock()
		for i, g := range some {
			r := readings[g.id]
			if r == nil {
				r = &reading{averages: newHours(), maxima: newHours()}
				readings[g.id] = r
			}
			switch {
			case got[i].err != nil:
				r.err = got[i].err
			case g.statistic == maximum:
				r.maxima.add(from, got[i])
			default:
				r.averages.add(from, got[i])
			}
		}
	})
	if err != nil {
		return nil, err
	}
	facts := make(map[string]rule.Fact[Usage], len(readings))
	for id, r := range readings {
		if r.err != nil {
			facts[id] = rule.Failed[Usage](metricSource, r.err)
		} else {
			facts[id] = rule.Known(usage(from, r.averages, r.maxima), metricSource, at)
		}
	}
	return facts, nil
}

// InstanceCPU fills Instance.CPU: one billed metric for an instance, 250
// instances in a call. Ask only for those whose verdict hangs on it.
var InstanceCPU = Fact[Instance]{
	Name:    "cpu_usage",
	Actions: []string{metricSource},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Instance) error {
		ids := unique(rs, func(i *Instance) string { return i.ID })
		gauges := make([]gauge, 0, 2*len(ids))
		for _, id := range ids {
			for _, statistic := range []string{average, maximum} {
				gauges = append(gauges, gauge{id, question{
					namespace: "AWS/EC2", name: "CPUUtilization", statistic: statistic,
					dimensions: []types.Dimension{{Name: new("InstanceId"), Value: &id}},
				}})
			}
		}
		facts, err := readUsage(ctx, s, at, gauges)
		if err != nil {
			return err
		}
		for _, i := range rs {
			i.CPU = facts[i.ID]
		}
		return nil
	},
}

const (
	listMetrics    = "cloudwatch:ListMetrics"
	agentNamespace = "CWAgent"
	dimensionID    = "InstanceId"
)

// The CloudWatch agent's names for used memory, on Linux and on Windows.
var memoryMetrics = []string{"mem_used_percent", "Memory % Committed Bytes In Use"}

// agentSeries are the memory series that agents publish, by instance: the
// metric's name, then its dimensions' names and values, joined by NUL.
type agentSeries map[string][]string

type sessionAgents struct{ lookup[agentSeries] }

// InstanceMemory fills Instance.Memory. Which dimensions an agent publishes
// depends on its configuration, and a metric is found only by all of them: they
// are discovered once in a session, 500 in a call. CloudWatch lists no metric
// that was silent for two weeks.
var InstanceMemory = Fact[Instance]{
	Name:    "memory_usage",
	Actions: []string{metricSource, listMetrics},
	Fill: func(ctx context.Context, s *aws.Session, at time.Time, rs []*Instance) error {
		all := aws.Kept[sessionAgents](s).get(ctx, listMetrics, at, []string{s.Region},
			func(ctx context.Context, _ []string) (map[string]rule.Fact[agentSeries], error) {
				found, err := discoverAgents(ctx, s)
				if err != nil {
					return nil, err
				}
				return known(map[string]agentSeries{s.Region: found}, listMetrics, at), nil
			})[s.Region]
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var gauges []gauge
		if all.Known {
			for _, id := range unique(rs, func(i *Instance) string { return i.ID }) {
				for _, joined := range all.Value[id] {
					gauges = append(gauges, gauge{id, agentQuestion(joined)})
				}
			}
		}
		facts, err := readUsage(ctx, s, at, gauges)
		if err != nil {
			return err
		}
		for _, i := range rs {
			f, ok := facts[i.ID]
			switch {
			case ok:
			case all.Known:
				f = rule.Fact[Usage]{Source: listMetrics, At: at, Why: "no CloudWatch agent has published it in the last two weeks"}
			default:
				f = rule.Fact[Usage]{Failed: all.Failed, Why: all.Why, Source: all.Source, At: all.At}
			}
			i.Memory = f
		}
		return nil
	},
}

// discoverAgents lists the memory series of all instances.
func discoverAgents(ctx context.Context, s *aws.Session) (agentSeries, error) {
	found := agentSeries{}
	for _, name := range memoryMetrics {
		pages := cloudwatch.NewListMetricsPaginator(s.CloudWatch(), &cloudwatch.ListMetricsInput{
			Namespace: new(agentNamespace), MetricName: &name, Dimensions: []types.DimensionFilter{{Name: new(dimensionID)}},
		})
		err := stream(ctx, listMetrics, pages.HasMorePages, func() (*string, error) {
			out, err := pages.NextPage(ctx)
			if err != nil {
				return nil, aws.Explain(err)
			}
			for i := range out.Metrics {
				id, joined := "", []string{name}
				for _, d := range out.Metrics[i].Dimensions {
					if val(d.Name) == dimensionID {
						id = val(d.Value)
					}
					joined = append(joined, val(d.Name), val(d.Value))
				}
				if text := strings.Join(joined, "\x00"); id != "" && !slices.Contains(found[id], text) {
					found[id] = append(found[id], text)
				}
			}
			return out.NextToken, nil
		})
		if err != nil {
			return nil, err
		}
	}
	return found, nil
}

func agentQuestion(joined string) question {
	part := strings.Split(joined, "\x00")
	q := question{namespace: agentNamespace, name: part[0], statistic: average}
	for i := 1; i+1 < len(part); i += 2 {
		q.dimensions = append(q.dimensions, types.Dimension{Name: &part[i], Value: &part[i+1]})
	}
	return q
}
