package inventory

import (
	"cmp"
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

// Daily is what a metric says of days of UTC. A missing hour is missing, not
// zero.
type Daily struct {
	// From is the start of the first day; Days are it and those that follow.
	From time.Time
	Days []DayFigures
	// Source is the API, the namespace and the metric.
	Source string
}

// DayFigures is what a metric says of one day of UTC.
type DayFigures struct {
	// Hours is how many of the day's 24 have a datapoint. The figures mean
	// something when it is above 0.
	Hours int
	// Average is the mean of the hourly averages, P95 the 95th percentile of
	// them by nearest rank, Maximum the highest of the hourly maxima, all in
	// the metric's unit.
	Average, P95, Maximum float64
}

// Use is what an instance used, day by day, each known, unknown or failed.
type Use struct {
	// CPU is CPUUtilization in percent of all its virtual CPUs.
	CPU rule.Fact[Daily]
	// Memory is used memory in percent, as a CloudWatch agent says; unknown
	// without one.
	Memory rule.Fact[Daily]
}

// DailyUseActions are the IAM actions that DailyUse needs.
var DailyUseActions = []string{metricSource, listMetrics}

const (
	cpuSource    = metricSource + " AWS/EC2 CPUUtilization"
	memorySource = metricSource + " " + agentNamespace + " "
)

// DailyUse reads what instances used from a day on, each from its own, until
// the day of until, which is left out. from says the start of the first day of
// an instance; one that is not before until is not asked for, and not in the
// answer. For a day 250 instances are one call, for a month 70, and as many again
// have their memory read where there are agents; one metric is billed for each
// instance and for each series of its agent.
//
// refused is the error of a call that failed as a whole, such as one that is
// denied, beside the metrics that failed by themselves; what it asked for has
// failed. err is the context's.
func DailyUse(ctx context.Context, s *aws.Session, at, until time.Time, rs []*Instance, from func(*Instance) time.Time) (uses map[string]Use, refused, err error) {
	wanted := slices.DeleteFunc(slices.Clone(rs), func(i *Instance) bool { return !from(i).Before(until) })
	// Neighbours begin on the same day: a call asks for what its earliest one
	// needs.
	slices.SortStableFunc(wanted, func(a, b *Instance) int { return cmp.Or(from(a).Compare(from(b)), cmp.Compare(a.ID, b.ID)) })

	agents := aws.Kept[sessionAgents](s).get(ctx, listMetrics, at, []string{s.Region},
		func(ctx context.Context, _ []string) (map[string]rule.Fact[agentSeries], error) {
			found, err := discoverAgents(ctx, s)
			if err != nil {
				return nil, err
			}
			return known(map[string]agentSeries{s.Region: found}, listMetrics, at), nil
		})[s.Region]
	if ctx.Err() != nil {
		return nil, nil, context.Cause(ctx)
	}
	if agents.Failed {
		refused = errors.New(agents.Why)
	}
	var cpu, memory []dailyGauge
	source := map[string]string{}
	for _, i := range wanted {
		cpu = append(cpu, dailyGauge{i.ID, from(i), question{
			namespace: "AWS/EC2", name: "CPUUtilization", dimensions: []types.Dimension{{Name: new(dimensionID), Value: &i.ID}},
		}})
		if agents.Known {
			for _, joined := range agents.Value[i.ID] {
				q := agentQuestion(joined)
				memory = append(memory, dailyGauge{i.ID, from(i), q})
				source[i.ID] = memorySource + q.name
			}
		}
	}
	cpuDays, failed, err := readDaily(ctx, s, at, until, cpu, func(string) string { return cpuSource })
	if err != nil {
		return nil, nil, err
	}
	if failed != nil {
		refused = failed
	}
	memoryDays, failed, err := readDaily(ctx, s, at, until, memory, func(id string) string { return source[id] })
	if err != nil {
		return nil, nil, err
	}
	if refused == nil {
		refused = failed
	}
	uses = make(map[string]Use, len(wanted))
	for _, i := range wanted {
		u := Use{CPU: cpuDays[i.ID]}
		var ok bool
		switch u.Memory, ok = memoryDays[i.ID]; {
		case ok:
		case agents.Known:
			u.Memory = rule.Fact[Daily]{Source: listMetrics, At: at, Why: "no CloudWatch agent has published it in the last two weeks"}
		default:
			u.Memory = rule.Fact[Daily]{Failed: agents.Failed, Why: agents.Why, Source: agents.Source, At: agents.At}
		}
		uses[i.ID] = u
	}
	return uses, refused, nil
}

// dailyGauge is one series of a resource, wanted from a day on.
type dailyGauge struct {
	id   string
	from time.Time
	question
}

// readDaily asks for averages and maxima by the hour and sums them up by
// resource and day. Several series of a resource count as one, the highest
// figure of each hour; one that cannot be read fails the resource.
func readDaily(ctx context.Context, s *aws.Session, at, until time.Time, gauges []dailyGauge, source func(id string) string) (facts map[string]rule.Fact[Daily], refused, err error) {
	type reading struct {
		from             time.Time
		averages, maxima map[int64]float64 // by the hour's start, unix seconds
		err              error
	}
	var mu sync.Mutex
	readings := map[string]*reading{}
	err = inParallel(ctx, calls(gauges, until), func(ctx context.Context, some []dailyGauge) {
		from := some[0].from // the earliest
		qs := make([]question, 0, 2*len(some))
		for _, g := range some {
			for _, statistic := range []string{average, maximum} {
				q := g.question
				q.statistic = statistic
				qs = append(qs, q)
			}
		}
		got := collect(ctx, s, from, until, time.Hour, qs)
		mu.Lock()
		defer mu.Unlock()
		for n, g := range some {
			r := readings[g.id]
			if r == nil {
				r = &reading{from: g.from, averages: map[int64]float64{}, maxima: map[int64]float64{}}
				readings[g.id] = r
			}
			for _, failed := range []error{got[2*n].err, got[2*n+1].err} {
				if failed == nil {
					continue
				}
				r.err = failed
				if errors.As(failed, new(*aws.Error)) {
					refused = failed
				}
			}
			highest(r.averages, g.from, until, got[2*n])
			highest(r.maxima, g.from, until, got[2*n+1])
		}
	})
	if err != nil {
		return nil, nil, err
	}
	facts = make(map[string]rule.Fact[Daily], len(readings))
	for id, r := range readings {
		if r.err != nil {
			facts[id] = rule.Failed[Daily](source(id), r.err)
			continue
		}
		facts[id] = rule.Known(Daily{From: r.from, Days: days(r.from, until, r.averages, r.maxima), Source: source(id)}, source(id), at)
	}
	return facts, refused, nil
}

// answerPoints is how many datapoints one answer of GetMetricData holds.
const answerPoints = 100_800

// calls divides gauges, the earliest first, so that all that a call asks for fits
// into one answer: each further page would be billed as if asked anew. The two
// statistics of a metric are billed as one when one call asks.
func calls(gauges []dailyGauge, until time.Time) (out [][]dailyGauge) {
	for len(gauges) > 0 {
		hours := max(int(until.Sub(gauges[0].from)/time.Hour), 1)
		n := min(max(min(metricQueries, answerPoints/hours)/2, 1), len(gauges))
		out, gauges = append(out, gauges[:n]), gauges[n:]
	}
	return out
}

// highest takes the points of a series within [from, until); of several figures
// for an hour the highest counts.
func highest(into map[int64]float64, from, until time.Time, s *series) {
	for i, t := range s.times {
		if t.Before(from) || !t.Before(until) || i >= len(s.values) || math.IsNaN(s.values[i]) || math.IsInf(s.values[i], 0) {
			continue
		}
		hour := t.UTC().Truncate(time.Hour).Unix()
		if v, ok := into[hour]; !ok || s.values[i] > v {
			into[hour] = s.values[i]
		}
	}
}

// days sums hours up by day of UTC.
func days(from, until time.Time, averages, maxima map[int64]float64) []DayFigures {
	var out []DayFigures
	for day := from; day.Before(until); day = day.AddDate(0, 0, 1) {
		var (
			f   DayFigures
			all []float64
			sum float64
		)
		for h := range int64(24) {
			v, ok := averages[day.Unix()+h*3600]
			if !ok {
				continue
			}
			all = append(all, v)
			sum += v
			if m, ok := maxima[day.Unix()+h*3600]; ok {
				v = max(v, m)
			}
			if len(all) == 1 || v > f.Maximum {
				f.Maximum = v
			}
		}
		if f.Hours = len(all); f.Hours > 0 {
			slices.Sort(all)
			f.Average = tidy(sum / float64(len(all)))
			f.P95, f.Maximum = tidy(all[(95*len(all)+99)/100-1]), tidy(f.Maximum)
		}
		out = append(out, f)
	}
	return out
}

// tidy takes a float's noise away.
func tidy(v float64) float64 { return math.Round(v*1e6) / 1e6 }
