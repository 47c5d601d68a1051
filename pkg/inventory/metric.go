package inventory

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/cloudwatch"
	"github.com/aws/aws-sdk-go-v2/service/cloudwatch/types"
	"golang.org/x/sync/errgroup"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
)

// MetricRetention is how long CloudWatch keeps hourly datapoints.
const MetricRetention = 455 * 24 * time.Hour

// LastDatapoint is when a metric last had a datapoint.
type LastDatapoint struct {
	// Hour is the start of the hour the newest datapoint is in: what published
	// it was alive in that hour, and silent from the next full hour. Zero when
	// there is no datapoint in the whole search.
	Hour time.Time
	// From is where the search began: the start of CloudWatch's retention of
	// hourly points, or up to three days later.
	From time.Time
}

// None tells that there was no datapoint since From.
func (l LastDatapoint) None() bool { return l.Hour.IsZero() }

// Metric names a metric with one dimension, whose value names the resource.
type Metric struct {
	Namespace, Name, Dimension string
	// Statistic such as Average, Maximum or Sum.
	Statistic string
}

// of are the questions for the resources of these ids.
func (m Metric) of(ids []string) []question {
	qs := make([]question, len(ids))
	for i, id := range ids {
		qs[i] = question{
			namespace: m.Namespace, name: m.Name, statistic: m.Statistic,
			dimensions: []types.Dimension{{Name: &m.Dimension, Value: &id}},
		}
	}
	return qs
}

// question is one series to ask for: a statistic of a metric with exactly
// these dimensions.
type question struct {
	namespace, name, statistic string
	dimensions                 []types.Dimension
}

const (
	metricSource = "cloudwatch:GetMetricData"
	// metricQueries is how many metrics one call may ask for.
	metricQueries = 500
	// The retention in periods of three days is 153 points a metric, and eight
	// days in hours are 192: below 201, all 500 metrics of a call fit into one
	// answer.
	coarse     = 72 * time.Hour
	fineWindow = 8 * 24 * time.Hour
	// metricCalls is how many calls are under way at once for one page of
	// resources: waiting for AWS, not for its quota, is what takes time.
	metricCalls = 4
	// metricRounds is how often a series is asked for that comes back partial
	// or failed inside CloudWatch.
	metricRounds = 4
)

// lastDatapoints finds the newest hour with a datapoint for each resource. A
// first pass finds the three days it is in, a second one the hour: two billed
// metrics for a resource at most, and two calls for 500 resources at best.
func lastDatapoints[T any](ctx context.Context, s *aws.Session, at time.Time, m Metric, rs []*T,
	id func(*T) string, set func(*T, rule.Fact[LastDatapoint])) error {
	end := at.UTC().Truncate(time.Hour).Add(time.Hour)
	// The first period that is whole, since the epoch: so AWS's periods are
	// ours, and what lies before is not claimed to be known.
	from := at.UTC().Add(-MetricRetention).Truncate(coarse).Add(coarse)
	ids := unique(rs, id)

	facts := make(map[string]rule.Fact[LastDatapoint], len(ids))
	var mu sync.Mutex
	record := func(id string, f rule.Fact[LastDatapoint]) {
		mu.Lock()
		defer mu.Unlock()
		facts[id] = f
	}
	newest := make(map[string]time.Time, len(ids))
	err := inParallel(ctx, slices.Collect(slices.Chunk(ids, metricQueries)), func(ctx context.Context, ids []string) {
		for i, r := range collect(ctx, s, from, end, coarse, m.of(ids)) {
			id := ids[i]
			last, ok := r.newest(from, end)
			switch {
			case r.err != nil:
				record(id, rule.Failed[LastDatapoint](metricSource, r.err))
			case !ok:
				record(id, rule.Known(LastDatapoint{From: from}, metricSource, at))
			default:
				mu.Lock()
				newest[id] = last
				mu.Unlock()
			}
		}
	})
	if err != nil {
		return err
	}
	err = inParallel(ctx, windows(newest), func(ctx context.Context, w window) {
		stop := w.from.Add(fineWindow)
		if end.Before(stop) {
			stop = end
		}
		for i, r := range collect(ctx, s, w.from, stop, time.Hour, m.of(w.ids)) {
			id := w.ids[i]
			last, ok := r.newest(w.from, stop)
			switch {
			case r.err != nil:
				record(id, rule.Failed[LastDatapoint](metricSource, r.err))
			case !ok:
				record(id, rule.Fact[LastDatapoint]{Source: metricSource, At: at, Why: fmt.Sprintf(
					"%s has datapoints in the three days from %s, but none by the hour", m.Name, newest[id].Format(time.RFC3339))})
			default:
				record(id, rule.Known(LastDatapoint{Hour: last.Truncate(time.Hour), From: from}, metricSource, at))
			}
		}
	})
	if err != nil {
		return err
	}
	for _, r := range rs {
		set(r, facts[id(r)])
	}
	return nil
}

// window is a stretch of fineWindow that holds the coarse period of each of
// its metrics.
type window struct {
	from time.Time
	ids  []string
}

// windows packs coarse periods into as few windows as there need be.
func windows(newest map[string]time.Time) []window {
	type at struct {
		id string
		t  time.Time
	}
	all := make([]at, 0, len(newest))
	for id, t := range newest {
		all = append(all, at{id, t})
	}
	slices.SortFunc(all, func(a, b at) int { return cmp.Or(a.t.Compare(b.t), cmp.Compare(a.id, b.id)) })
	var ws []window
	for _, a := range all {
		last := len(ws) - 1
		if last < 0 || len(ws[last].ids) == metricQueries || a.t.Add(coarse).After(ws[last].from.Add(fineWindow)) {
			ws = append(ws, window{from: a.t})
			last++
		}
		ws[last].ids = append(ws[last].ids, a.id)
	}
	return ws
}

// series is what CloudWatch answered for one metric.
type series struct {
	times  []time.Time
	values []float64
	status types.StatusCode
	err    error
}

// newest returns the newest datapoint within [from, to).
func (s *series) newest(from, to time.Time) (last time.Time, ok bool) {
	for _, t := range s.times {
		if !t.Before(from) && t.Before(to) && (!ok || t.After(last)) {
			last, ok = t.UTC(), true
		}
	}
	return last, ok
}

// collect asks for up to 500 series in one call, follows its pages and asks
// again for those that came back incomplete. The answer has an entry for each
// question, in their order: a complete series, or an error.
func collect(ctx context.Context, s *aws.Session, from, to time.Time, period time.Duration, qs []question) []*series {
	done := make([]*series, len(qs))
	ask := make([]int, len(qs)) // the questions still open
	for i := range ask {
		ask[i] = i
	}
	for round := 1; len(ask) > 0; round++ {
		var again []int
		got, err := askFor(ctx, s, from, to, period, qs, ask)
		for n, i := range ask {
			r := got[n]
			switch {
			case r != nil && r.status == types.StatusCodeComplete:
			case r != nil && r.status == types.StatusCodeForbidden:
				r = &series{err: errors.New(metricSource + " is forbidden for this metric")}
			case err != nil:
				r = &series{err: err}
			case round < metricRounds:
				again = append(again, i)
				continue
			case r == nil:
				r = &series{err: errors.New(metricSource + " left this metric out of its answer")}
			default:
				r = &series{err: fmt.Errorf("%s answered %q for this metric, %d times", metricSource, r.status, round)}
			}
			done[i] = r
		}
		if ask = again; len(ask) > 0 {
			if err := s.Pause(ctx, round); err != nil {
				for _, i := range ask {
					done[i] = &series{err: err}
				}
				return done
			}
		}
	}
	return done
}

// askFor makes one call for some of the questions and follows its pages. What
// was complete before an error counts; what AWS left out is nil.
func askFor(ctx context.Context, s *aws.Session, from, to time.Time, period time.Duration, qs []question, some []int) ([]*series, error) {
	in := &cloudwatch.GetMetricDataInput{
		StartTime: &from, EndTime: &to, ScanBy: types.ScanByTimestampDescending,
		MetricDataQueries: make([]types.MetricDataQuery, len(some)),
	}
	for n, i := range some {
		q := &qs[i]
		in.MetricDataQueries[n] = types.MetricDataQuery{
			Id: new("m" + strconv.Itoa(n)),
			MetricStat: &types.MetricStat{
				Metric: &types.Metric{Namespace: &q.namespace, MetricName: &q.name, Dimensions: q.dimensions},
				Period: new(int32(period / time.Second)),
				Stat:   &q.statistic,
			},
		}
	}
	got := make([]*series, len(some))
	pages := cloudwatch.NewGetMetricDataPaginator(s.CloudWatch(), in)
	err := stream(ctx, metricSource, pages.HasMorePages, func() (*string, error) {
		out, err := pages.NextPage(ctx)
		if err != nil {
			return nil, aws.Explain(err)
		}
		for i := range out.MetricDataResults {
			r := &out.MetricDataResults[i]
			n, err := strconv.Atoi(trimM(val(r.Id)))
			if err != nil || n < 0 || n >= len(some) {
				continue
			}
			t := got[n]
			if t == nil {
				t = &series{}
				got[n] = t
			}
			// A series can go on over several pages; the last tells whether it
			// is complete.
			t.times = append(t.times, r.Timestamps...)
			t.values = append(t.values, r.Values...)
			t.status = r.StatusCode
		}
		return out.NextToken, nil
	})
	return got, err
}

func trimM(s string) string {
	if len(s) > 1 && s[0] == 'm' {
		return s[1:]
	}
	return "-1"
}

// inParallel calls do for each piece, a few at a time. The error is the
// context's.
func inParallel[P any](ctx context.Context, pieces []P, do func(context.Context, P)) error {
	var g errgroup.Group
	g.SetLimit(metricCalls)
	for _, p := range pieces {
		if ctx.Err() != nil {
			break
		}
		g.Go(func() error {
			do(ctx, p)
			return nil
		})
	}
	_ = g.Wait()
	return context.Cause(ctx)
}
