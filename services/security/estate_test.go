package security

import (
	"fmt"
	"net/http/httptest"
	"testing"
	"time"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
	"nightshift.dev/pkg/simaws"
)

// What a scan finds is what is true, resource by resource: nothing missed,
// nothing made up, with its severity and its exemption.
func TestTruth(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{1, 2, 3, 5, 8, 13} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			estate := simaws.Generate(simaws.Options{Seed: seed, Resources: 1500, Now: scan.ExampleTime})
			h := httptest.NewServer(simaws.New(estate, simaws.Config{NoQuotas: true, Clock: func() time.Time { return scan.ExampleTime }}))
			t.Cleanup(h.Close)
			cloud, err := aws.New(t.Context(), aws.Config{
				Region: "us-east-1", Endpoint: h.URL, AccessKeyID: simaws.DemoAccessKey, SecretAccessKey: simaws.FakeSecret, QuotaShare: 1,
				Backoff: func(int) time.Duration { return 0 },
			})
			if err != nil {
				t.Fatal(err)
			}
			var targets []scan.Target
			for _, a := range estate.Accounts {
				if a.State != "" {
					continue
				}
				for _, r := range a.Regions {
					targets = append(targets, scan.Target{Region: r.Name, Target: aws.Target{
						Account: a.ID, Partition: "aws", RoleARN: a.RoleARN(simaws.ReadOnlyRole), ExternalID: a.Roles[0].ExternalID,
					}})
				}
			}
			verdicts := map[string]rule.Verdict{}
			err = scan.Run(t.Context(), cloud, targets, Rules, scan.Options{At: scan.ExampleTime}, scan.Sink{
				Judged: func(j *scan.Judgement) error {
					key := j.Rule.ID + " " + j.Scope.Account + " " + j.Scope.Region + " " + j.Resource.ARN
					if _, twice := verdicts[key]; twice {
						t.Errorf("%s is judged twice", key)
					}
					verdicts[key] = j.Verdict
					return nil
				},
				Finished: func(r *scanv1.ScopeResult) {
					for _, c := range r.Coverage {
						if c.Status != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE {
							t.Errorf("%s is %s: %s", c.ResourceType, c.Status, c.Error)
						}
					}
				},
			})
			if err != nil {
				t.Fatal(err)
			}
			ours := map[string]int{}
			for _, m := range Rules.Metas() {
				ours[m.ID] = 0
			}
			checked := 0
			for _, want := range estate.Truth() {
				if _, ok := ours[want.RuleID]; !ok {
					continue
				}
				checked++
				if want.Outcome == simaws.Violation {
					ours[want.RuleID]++
				}
				key := want.RuleID + " " + want.Account + " " + want.Region + " " + want.ARN
				v, ok := verdicts[key]
				switch {
				case !ok:
					t.Errorf("%s: no verdict; the truth is %s (%s)", key, want.Outcome, want.Why)
				case v.Outcome.String() != want.Outcome:
					t.Errorf("%s: %s (%s); the truth is %s (%s)", key, v.Outcome, v.Reason, want.Outcome, want.Why)
				case want.Severity != "" && v.Severity.String() != want.Severity:
					t.Errorf("%s: %s (%s); the truth is %s (%s)", key, v.Severity, v.Reason, want.Severity, want.Why)
				case (v.Exempt != rule.Exemption{}) != want.Exempt:
					t.Errorf("%s: exempt %+v; the truth is %v (%s)", key, v.Exempt, want.Exempt, want.Why)
				}
			}
			if checked != len(verdicts) {
				t.Errorf("%d verdicts, %d of them on what there is", len(verdicts), checked)
			}
			for id, n := range ours {
				if n == 0 {
					t.Errorf("nothing violates %s: nothing was tested", id)
				}
			}
		})
	}
}
