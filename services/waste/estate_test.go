package waste

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
	"nightshift.dev/pkg/simaws"
)

// world is an estate being served, and a cloud that looks at it.
type world struct {
	now     atomic.Pointer[time.Time]
	estate  *simaws.Estate
	server  *simaws.Server
	cloud   *aws.Cloud
	targets []scan.Target
}

var estateNow = time.Date(2026, 9, 1, 12, 0, 0, 0, time.UTC)

func serve(t testing.TB, o simaws.Options, c simaws.Config) *world {
	t.Helper()
	o.Now = estateNow
	w := &world{estate: simaws.Generate(o)}
	w.now.Store(&estateNow)
	c.Clock = func() time.Time { return *w.now.Load() }
	c.NoQuotas = true
	w.server = simaws.New(w.estate, c)
	ctx, stop := context.WithCancel(context.Background())
	done, err := w.server.Listen(ctx, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	w.cloud, err = aws.New(ctx, aws.Config{
		Region: "us-east-1", Endpoint: w.server.URL(), AccessKeyID: simaws.DemoAccessKey, SecretAccessKey: simaws.FakeSecret,
		QuotaShare: 1, Backoff: func(int) time.Duration { return time.Millisecond },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range w.estate.Accounts {
		if a.State != "" {
			continue
		}
		for _, r := range a.Regions {
			w.targets = append(w.targets, scan.Target{
				Target: aws.Target{
					Account: a.ID, Partition: "aws", RoleARN: a.RoleARN(simaws.ReadOnlyRole), ExternalID: a.Roles[0].ExternalID,
				},
				Region: r.Name,
			})
		}
	}
	return w
}

var prices = func() *price.Table {
	t, err := price.Load("")
	if err != nil {
		panic(err)
	}
	return t
}()

// seen is what a scan told.
type seen struct {
	verdicts map[string]rule.Verdict // by rule and ARN
	times    map[string]int
	results  map[string]*scanv1.ScopeResult // by account and region
}

func place(account, region string) string { return account + " " + region }

// coverage is the coverage of a type in a scope.
func (s seen) coverage(account, region, resourceType string) *scanv1.Coverage {
	r := s.results[place(account, region)]
	for _, c := range r.GetCoverage() {
		if c.ResourceType == resourceType || c.ResourceType == "*" {
			return c
		}
	}
	return nil
}

func (w *world) scan(t testing.TB, rules ...string) seen {
	t.Helper()
	s := seen{verdicts: map[string]rule.Verdict{}, times: map[string]int{}, results: map[string]*scanv1.ScopeResult{}}
	err := scan.Run(t.Context(), w.cloud, w.targets, Rules, scan.Options{At: *w.now.Load(), Rules: rules}, scan.Sink{
		Judged: func(j *scan.Judgement) error {
			key := j.Rule.ID + " " + j.Resource.ARN
			s.verdicts[key] = j.Verdict
			s.times[key]++
			return nil
		},
		Finished: func(r *scanv1.ScopeResult) { s.results[place(r.Scope.Account, r.Scope.Region)] = r },
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// truth is what is true of this service's rules.
func (w *world) truth() []simaws.Truth {
	return slices.DeleteFunc(w.estate.Truth(), func(truth simaws.Truth) bool {
		return !slices.ContainsFunc(Rules.Metas(), func(m rule.Meta) bool { return m.ID == truth.RuleID })
	})
}

// compare holds the verdicts against the truth of the scopes that keep lets
// through, and returns how many agreed.
func (w *world) compare(t testing.TB, s seen, keep func(simaws.Truth) bool) int {
	t.Helper()
	n := 0
	for _, truth := range w.truth() {
		if keep != nil && !keep(truth) {
			continue
		}
		key := truth.RuleID + " " + truth.ARN
		v, ok := s.verdicts[key]
		switch {
		case !ok:
			t.Errorf("%s: no verdict; the truth is %s (%s)", key, truth.Outcome, truth.Why)
		case s.times[key] != 1:
			t.Errorf("%s: judged %d times", key, s.times[key])
		case v.Outcome.String() != truth.Outcome:
			t.Errorf("%s: %s (%s); the truth is %s (%s)", key, v.Outcome, v.Reason, truth.Outcome, truth.Why)
		case !sameCost(v, truth):
			t.Errorf("%s: costs %s; the truth is %v (%s)", key, scan.CostText(v), money(truth.MonthlyCostHigh), truth.Why)
		default:
			n++
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	return n
}

// sameCost compares to the cent. The truth says nothing of regions it has no
// prices of; the cost is unknown in regions our table has none of.
func sameCost(v rule.Verdict, truth simaws.Truth) bool {
	if v.Outcome != rule.Violation {
		return true
	}
	if !slices.Contains(prices.Regions(), truth.Region) {
		return !v.Cost.Known
	}
	if truth.MonthlyCostHigh == nil {
		return true
	}
	same := func(a, b float64) bool { return math.Abs(a-b) < 0.005 }
	return v.Cost.Known && same(v.Cost.Low, *truth.MonthlyCostLow) && same(v.Cost.High, *truth.MonthlyCostHigh)
}

func money(usd *float64) string {
	if usd == nil {
		return "unknown"
	}
	return fmt.Sprintf("%.4f", *usd)
}

// TestTruth holds what a first scan finds to what is true, resource by
// resource: nothing missed, nothing made up.
func TestTruth(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{1, 2, 3, 5, 8, 13, 21, 34, 55, 89, 144, 233} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			w := serve(t, simaws.Options{Seed: seed, Resources: 1200}, simaws.Config{})
			s := w.scan(t)
			told := map[string]bool{} // rules the truth knows
			for _, truth := range w.truth() {
				told[truth.RuleID] = true
			}
			if !told["ec2-stopped"] || !told["ebs-unattached"] {
				t.Fatalf("the truth is about %v", told)
			}
			n := w.compare(t, s, nil)
			for key := range s.verdicts {
				if id, _, _ := strings.Cut(key, " "); told[id] {
					n--
				}
			}
			if n != 0 {
				t.Errorf("%d verdicts on what there is not", -n)
			}
			for _, r := range s.results {
				for _, c := range r.Coverage {
					if c.Status != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE {
						t.Errorf("%s %s: %s is %s: %s", r.Scope.Account, r.Scope.Region, c.ResourceType, c.Status, c.Error)
					}
				}
			}
			if len(s.results) != len(w.targets) {
				t.Errorf("%d results for %d targets", len(s.results), len(w.targets))
			}
		})
	}
}

// BenchmarkLargeEstate scans one account and region of 100,000 resources over
// the wire, with AWS's quotas off and ours at all of AWS's: calls, throttles
// and the time are the engine's and the limiter's.
func BenchmarkLargeEstate(b *testing.B) {
	w := serve(b, simaws.Options{Seed: 1, Accounts: 1, Regions: 1, Resources: 100_000}, simaws.Config{})
	b.ResetTimer()
	var resources, calls int64
	for b.Loop() {
		for _, r := range w.scan(b).results {
			resources += r.GetProgress().GetResources()
			calls += r.GetProgress().GetMeter().GetCalls()
		}
	}
	b.ReportMetric(float64(resources)/b.Elapsed().Seconds(), "resources/s")
	b.ReportMetric(float64(calls)/float64(b.N), "calls/scan")
}
