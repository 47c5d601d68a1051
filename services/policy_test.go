package services_test

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services"
)

// The generated policy is what every rule needs and nothing more: under it a
// scan of everything sees everything, and calls every action it allows.
func TestThePolicyIsExact(t *testing.T) {
	t.Parallel()
	const path = "../deploy/iam/nightshift-readonly.json"
	policy, err := simaws.LoadPolicy(path)
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Statement []struct{ Action []string } }
	if err := json.Unmarshal([]byte(read(t, path)), &document); err != nil {
		t.Fatal(err)
	}
	allowed := map[string]bool{}
	for _, s := range document.Statement {
		for _, a := range s.Action {
			allowed[a] = false
		}
	}

	e := simaws.Generate(simaws.Options{Seed: 5, Accounts: 1, Regions: 2, Resources: 800})
	server := simaws.New(e, simaws.Config{Policy: policy, NoQuotas: true})
	endpoint := httptest.NewServer(server)
	t.Cleanup(endpoint.Close)
	cloud, err := aws.New(t.Context(), aws.Config{
		Region: "us-east-1", Endpoint: endpoint.URL, AccessKeyID: simaws.DemoAccessKey, SecretAccessKey: simaws.FakeSecret, QuotaShare: 1,
	})
	if err != nil {
		t.Fatal(err)
	}
	a := e.Accounts[0]
	target := aws.Target{Account: a.ID, RoleARN: a.RoleARN(simaws.ReadOnlyRole), ExternalID: a.Roles[0].ExternalID}
	regions, err := cloud.Regions(t.Context(), target)
	if err != nil {
		t.Fatal(err)
	}
	var targets []scan.Target
	for _, r := range regions {
		targets = append(targets, scan.Target{Target: target, Region: r})
	}
	judged := 0
	for _, rules := range services.Rules {
		err := scan.Run(t.Context(), cloud, targets, rules, scan.Options{}, scan.Sink{
			Judged: func(j *scan.Judgement) error {
				judged++
				if j.Verdict.Outcome == rule.Error && strings.Contains(j.Verdict.Reason, "UnauthorizedOperation") {
					t.Errorf("%s %s: %s", j.Rule.ID, j.Resource.ARN, j.Verdict.Reason)
				}
				return nil
			},
			Finished: func(r *scanv1.ScopeResult) {
				for _, c := range r.GetCoverage() {
					if c.GetStatus() != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE {
						t.Errorf("%s %s: %s %s", r.GetScope().GetRegion(), c.GetResourceType(), c.GetStatus(), c.GetError())
					}
				}
			},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if judged < 1000 {
		t.Errorf("only %d verdicts", judged)
	}
	for _, call := range server.Stats() {
		if call.Action == "AssumeRole" || call.Action == "GetCallerIdentity" {
			continue // of whoever assumes the role; and allowed to everybody
		}
		name := call.Service + ":" + call.Action
		if _, ok := allowed[name]; !ok {
			t.Errorf("%s is called and not in the policy", name)
		}
		allowed[name] = true
	}
	for _, name := range slices.Sorted(maps.Keys(allowed)) {
		if !allowed[name] && name != "sts:GetCallerIdentity" {
			t.Errorf("%s is in the policy and never called", name)
		}
	}
}
