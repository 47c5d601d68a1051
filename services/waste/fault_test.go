package waste

import (
	"strings"
	"testing"
	"time"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/simaws"
)

const (
	complete = scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE
	partial  = scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL
	denied   = scanv1.CoverageStatus_COVERAGE_STATUS_DENIED
)

// nothingLost holds that every resource that is there has a verdict, or that
// the coverage of its type says why it may not.
func (w *world) nothingLost(t testing.TB, s seen) {
	t.Helper()
	judged := map[string]map[string]bool{} // ARNs by place and type
	told := map[string]bool{}              // types the truth knows
	for _, truth := range w.truth() {
		told[truth.ResourceType] = true
		c := s.coverage(truth.Account, truth.Region, truth.ResourceType)
		if c == nil {
			t.Fatalf("%s %s: no coverage of %s", truth.Account, truth.Region, truth.ResourceType)
		}
		if _, ok := s.verdicts[truth.RuleID+" "+truth.ARN]; ok {
			key := place(truth.Account, truth.Region) + truth.ResourceType
			if judged[key] == nil {
				judged[key] = map[string]bool{}
			}
			judged[key][truth.ARN] = true
			continue
		}
		if c.Status == complete || c.Error == "" {
			t.Errorf("%s has no verdict, and the coverage of its type is %v", truth.ARN, c)
		}
	}
	for key, r := range s.results {
		for _, c := range r.Coverage {
			if n := len(judged[key+c.ResourceType]); told[c.ResourceType] && int64(n) != c.Resources {
				t.Errorf("%s: %d of %s judged, and the coverage says %d", key, n, c.ResourceType, c.Resources)
			}
		}
	}
}

// What can be retried changes nothing.
func TestFaultsThatPass(t *testing.T) {
	t.Parallel()
	for name, faults := range map[string][]simaws.Fault{
		"30 % of calls are throttled": {{Kind: "throttle", Share: 0.3}},
		"a tenth of calls fail":       {{Kind: "error", Share: 0.1, Status: 503}},
		"connections break":           {{Kind: "reset", Share: 0.1}},
		"answers are cut short":       {{Kind: "truncate", Share: 0.1}},
		"series fail now and then":    {{Kind: "metric", Share: 0.1}},
		"series are partial at times": {{Kind: "metric", Share: 0.1, MetricStatus: "PartialData"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := serve(t, simaws.Options{Seed: 7, Resources: 800}, simaws.Config{Faults: faults})
			s := w.scan(t)
			w.compare(t, s, nil)
			for key, r := range s.results {
				for _, c := range r.Coverage {
					if c.Status != complete {
						t.Errorf("%s: %v", key, c)
					}
				}
			}
		})
	}
}

func TestThrottlesAreMetered(t *testing.T) {
	t.Parallel()
	w := serve(t, simaws.Options{Seed: 7}, simaws.Config{Faults: []simaws.Fault{{Kind: "throttle", Share: 0.3}}})
	var calls, throttles, metrics int64
	for _, r := range w.scan(t).results {
		m := r.GetProgress().GetMeter()
		calls, throttles, metrics = calls+m.GetCalls(), throttles+m.GetThrottles(), metrics+m.GetBilledMetrics()
	}
	if calls == 0 || throttles == 0 || metrics == 0 || throttles >= calls {
		t.Errorf("%d calls, %d throttles, %d metrics", calls, throttles, metrics)
	}
}

// Without CloudWatch what the listing decides is decided, and the rest is an
// error that names what is missing.
func TestMetricsDenied(t *testing.T) {
	t.Parallel()
	w := serve(t, simaws.Options{Seed: 11, Resources: 800}, simaws.Config{Faults: []simaws.Fault{{Kind: "deny", Action: "GetMetricData"}}})
	s := w.scan(t)
	w.nothingLost(t, s)
	failed := 0
	agreed := w.compare(t, s, func(truth simaws.Truth) bool {
		v := s.verdicts[truth.RuleID+" "+truth.ARN]
		if v.Outcome != rule.Error {
			return true
		}
		failed++
		if !strings.Contains(v.Reason, "cloudwatch:GetMetricData") {
			t.Errorf("%s: %s", truth.ARN, v.Reason)
		}
		return false
	})
	if failed == 0 || agreed == 0 {
		t.Errorf("%d errors, %d agreed", failed, agreed)
	}
}

// An account where one listing is denied is judged as far as it can be; the
// others are not touched.
func TestListingDenied(t *testing.T) {
	t.Parallel()
	w := serve(t, simaws.Options{Seed: 12, Resources: 800}, simaws.Config{})
	victim := w.estate.Accounts[1].ID
	if err := w.server.SetFaults(simaws.Fault{Kind: "deny", Action: "DescribeVolumes", Account: victim}); err != nil {
		t.Fatal(err)
	}
	s := w.scan(t)
	w.nothingLost(t, s)
	w.compare(t, s, func(truth simaws.Truth) bool { return truth.Account != victim })
	for _, r := range w.estate.Accounts[1].Regions {
		if c := s.coverage(victim, r.Name, "AWS::EC2::Volume"); c.Status != denied || c.Resources != 0 || !strings.Contains(c.Error, "ec2:DescribeVolumes") {
			t.Errorf("%s: coverage of volumes is %v", r.Name, c)
		}
		if c := s.coverage(victim, r.Name, "AWS::EC2::Instance"); c.Status != complete {
			t.Errorf("%s: coverage of instances is %v", r.Name, c)
		}
	}
	unknown := 0
	for _, truth := range w.truth() {
		if truth.Account != victim || truth.RuleID != "ec2-stopped" {
			continue
		}
		v := s.verdicts[truth.RuleID+" "+truth.ARN]
		if v.Outcome.String() != truth.Outcome {
			t.Errorf("%s is %s, the truth is %s", truth.ARN, v.Outcome, truth.Outcome)
		}
		if v.Cost.Known {
			t.Errorf("%s costs %v, and its volumes could not be read", truth.ARN, v.Cost)
		}
		if v.Outcome == rule.Violation {
			unknown++
		}
	}
	if unknown == 0 {
		t.Error("no stopped instance in the account: the test shows nothing")
	}
}

func TestAccountDenied(t *testing.T) {
	t.Parallel()
	w := serve(t, simaws.Options{Seed: 13}, simaws.Config{})
	victim := w.estate.Accounts[2].ID
	for i := range w.targets {
		if w.targets[i].Account == victim {
			w.targets[i].ExternalID = "not-the-one"
		}
	}
	s := w.scan(t)
	w.nothingLost(t, s)
	w.compare(t, s, func(truth simaws.Truth) bool { return truth.Account != victim })
	for _, r := range w.estate.Accounts[2].Regions {
		c := s.coverage(victim, r.Name, "AWS::EC2::Volume")
		if c == nil || c.ResourceType != "*" || c.Status != denied || !strings.Contains(c.Error, "sts:AssumeRole") {
			t.Errorf("%s: coverage is %v", r.Name, c)
		}
	}
}

// A region that is lost in the middle of a listing: what was seen is judged,
// and the coverage says that there is more.
func TestRegionLostBetweenPages(t *testing.T) {
	t.Parallel()
	w := serve(t, simaws.Options{Seed: 14, Accounts: 1, Regions: 2, Resources: 6000}, simaws.Config{Faults: []simaws.Fault{
		{Kind: "reset", Action: "DescribeVolumes", Region: "us-east-1", After: 2},
	}})
	s := w.scan(t, "ebs-unattached")
	account := w.estate.Accounts[0].ID
	w.compare(t, s, func(truth simaws.Truth) bool {
		_, ok := s.verdicts[truth.RuleID+" "+truth.ARN]
		return truth.RuleID == "ebs-unattached" && (ok || truth.Region != "us-east-1")
	})
	c := s.coverage(account, "us-east-1", "AWS::EC2::Volume")
	if c.Status != partial || c.Pages != 2 || c.Resources != 1000 || !strings.Contains(c.Error, "ec2:DescribeVolumes") {
		t.Errorf("coverage is %v", c)
	}
	if c := s.coverage(account, "us-west-2", "AWS::EC2::Volume"); c.Status != complete {
		t.Errorf("coverage of the other region is %v", c)
	}
}

// Scanning an unchanged estate again says the same of every violation.
func TestSayingTheSameTwice(t *testing.T) {
	t.Parallel()
	w := serve(t, simaws.Options{Seed: 15, Resources: 800}, simaws.Config{})
	first := w.scan(t)
	later := estateNow.Add(5 * time.Hour)
	w.now.Store(&later)
	second := w.scan(t)
	n := 0
	for key, v := range first.verdicts {
		if v.Outcome != rule.Violation {
			continue
		}
		n++
		u := second.verdicts[key]
		if u.Outcome != v.Outcome || u.Reason != v.Reason || !u.Since.Equal(v.Since) || u.Severity != v.Severity || u.Cost != v.Cost ||
			u.Recommendation != v.Recommendation || u.Owner != v.Owner {
			t.Errorf("%s: %s\nthen: %s", key, v.Reason, u.Reason)
		}
	}
	if n == 0 {
		t.Error("no violation: the test shows nothing")
	}
}
