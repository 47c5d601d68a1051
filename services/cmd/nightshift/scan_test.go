package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/scan"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services/waste"
)

// simulate serves an estate and returns the variables that lead there.
func simulate(t *testing.T, e *simaws.Estate, c simaws.Config) (*simaws.Server, map[string]string) {
	t.Helper()
	c.NoQuotas = true
	s := simaws.New(e, c)
	h := httptest.NewServer(s)
	t.Cleanup(h.Close)
	return s, map[string]string{
		"NIGHTSHIFT_AWS_ENDPOINT": h.URL, "NIGHTSHIFT_AWS_ACCESS_KEY_ID": simaws.DemoAccessKey, "NIGHTSHIFT_AWS_SECRET_ACCESS_KEY": simaws.FakeSecret,
		"NIGHTSHIFT_AWS_QUOTA_SHARE": "1", // nobody else uses them
	}
}

// verdict is a line of a scan: the keys that are the contract.
type verdict struct {
	RuleID       string `json:"rule_id"`
	Outcome      string `json:"outcome"`
	Account      string `json:"account"`
	Region       string `json:"region"`
	ResourceType string `json:"resource_type"`
	ResourceID   string `json:"resource_id"`
	ARN          string `json:"arn"`
	Severity     *string
	MonthlyCost  *struct {
		Low, High *float64
		Basis     *string
	} `json:"monthly_cost"`
	Evidence []struct {
		Name, Source string
		Value        any
	} `json:"evidence"`
	Reason    string `json:"reason"`
	Exemption *struct {
		By string
	} `json:"exemption"`
}

func verdicts(t *testing.T, out string) []verdict {
	t.Helper()
	var all []verdict
	for line := range strings.Lines(out) {
		var keys map[string]json.RawMessage
		if err := json.Unmarshal([]byte(line), &keys); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if !strings.HasPrefix(line, `{"rule_id":`) {
			t.Errorf("the keys are not in order: %s", line)
		}
		for _, k := range []string{"rule_id", "outcome", "account", "region", "resource_type", "resource_id", "arn", "severity", "monthly_cost", "evidence", "reason"} {
			if _, ok := keys[k]; !ok {
				t.Errorf("key %s is missing: %s", k, line)
			}
		}
		var v verdict
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, v)
	}
	return all
}

// whole are the flags that look at a whole simulated organization.
var whole = []string{"scan", "--organization", "--role-name", simaws.AdminRole, "-o", "jsonl"}

// The one-shot finds exactly what the estate's ground truth says.
func TestScanFindsTheTruth(t *testing.T) {
	t.Parallel()
	for _, seed := range []uint64{1, 2, 7, 42, 4711, 99999} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			t.Parallel()
			e := simaws.Generate(simaws.Options{Seed: seed, Resources: 600, Accounts: 3, Regions: 4})
			_, env := simulate(t, e, simaws.Config{})
			all := execute(t, env, append(slices.Clone(whole), "--all-outcomes")...)
			only := execute(t, env, whole...)
			if all.code != 0 || only.code != 0 {
				t.Fatalf("codes %d and %d: %s%s", all.code, only.code, all.err, only.err)
			}
			compareWithTruth(t, truth(e), verdicts(t, all.out))
			violations := verdicts(t, only.out)
			want := slices.DeleteFunc(truth(e), func(x simaws.Truth) bool { return x.Outcome != simaws.Violation })
			compareWithTruth(t, want, violations)
		})
	}
}

// truth is the right answer now of every rule that is linked.
func truth(e *simaws.Estate) []simaws.Truth {
	return slices.DeleteFunc(e.TruthAt(time.Now()), func(x simaws.Truth) bool {
		return !slices.ContainsFunc(sets, func(s *scan.Set) bool {
			return slices.ContainsFunc(s.Metas(), func(m rule.Meta) bool { return m.ID == x.RuleID })
		})
	})
}

func compareWithTruth(t *testing.T, truth []simaws.Truth, got []verdict) {
	t.Helper()
	seen := map[string]verdict{}
	for _, v := range got {
		if !slices.ContainsFunc(truth, func(x simaws.Truth) bool { return x.RuleID == v.RuleID }) {
			continue // a rule that the estates do not know yet
		}
		key := v.RuleID + " " + v.ARN
		if _, twice := seen[key]; twice {
			t.Errorf("%s: two verdicts", key)
		}
		seen[key] = v
	}
	for _, want := range truth {
		key := want.RuleID + " " + want.ARN
		v, ok := seen[key]
		delete(seen, key)
		switch {
		case !ok:
			t.Errorf("%s: missed; %s because %s", key, want.Outcome, want.Why)
			continue
		case v.Outcome != want.Outcome || v.Account != want.Account || v.Region != want.Region || v.ResourceID != want.ResourceID || v.ResourceType != want.ResourceType:
			t.Errorf("%s: %s %s %s, want %s because %s", key, v.Outcome, v.Account, v.Region, want.Outcome, want.Why)
		case v.Reason == "":
			t.Errorf("%s: no reason", key)
		case (v.Severity != nil) != (want.Outcome == simaws.Violation):
			t.Errorf("%s: severity %v of %s", key, v.Severity, v.Outcome)
		case want.Outcome == simaws.Violation && (len(v.Evidence) == 0 || v.Evidence[0].Name == "" || v.Evidence[0].Source == ""):
			t.Errorf("%s: evidence %v", key, v.Evidence)
		case want.MonthlyCostHigh != nil:
			if v.MonthlyCost == nil || math.Abs(*v.MonthlyCost.High-*want.MonthlyCostHigh) > 0.005 || math.Abs(*v.MonthlyCost.Low-*want.MonthlyCostLow) > 0.005 || *v.MonthlyCost.Basis == "" {
				t.Errorf("%s: cost %+v, want %v", key, v.MonthlyCost, *want.MonthlyCostHigh)
			}
		}
		if exempt := v.Exemption != nil && v.Exemption.By != ""; exempt != want.Exempt {
			t.Errorf("%s: exemption %v, want %v because %s", key, v.Exemption, want.Exempt, want.Why)
		}
		if v.Outcome != simaws.Violation && v.MonthlyCost != nil {
			t.Errorf("%s: %s costs %+v", key, v.Outcome, v.MonthlyCost)
		}
	}
	for key, v := range seen {
		t.Errorf("%s: %s, and the truth knows nothing of it", key, v.Outcome)
	}
}

func TestScanOutputs(t *testing.T) {
	t.Parallel()
	e := simaws.Generate(simaws.Options{Seed: 7, Resources: 400})
	own := e.Accounts[0].ID
	other := e.Accounts[1]
	_, env := simulate(t, e, simaws.Config{})
	count := func(account, region string) (n int) {
		for _, x := range truth(e) {
			if x.Outcome == simaws.Violation && (account == "" || x.Account == account) && (region == "" || x.Region == region) {
				n++
			}
		}
		return n
	}
	wasted := 0
	for _, x := range truth(e) {
		if x.Outcome == simaws.Violation && x.Account == own && slices.ContainsFunc(waste.Rules.Metas(), func(m rule.Meta) bool { return m.ID == x.RuleID }) {
			wasted++
		}
	}
	known := func(lines string) (n int) { // of rules that the estates know
		for line := range strings.Lines(lines) {
			if slices.ContainsFunc(truth(e), func(x simaws.Truth) bool { return strings.HasPrefix(line, `{"rule_id":"`+x.RuleID+`"`) }) {
				n++
			}
		}
		return n
	}
	external := ""
	for _, r := range other.Roles {
		external += r.ExternalID
	}
	for _, x := range []struct {
		args string
		want int
		code int
		says string
	}{
		{"scan -o jsonl", count(own, ""), 0, "1 account and 3 regions"},
		{"scan waste -o jsonl --accounts " + own, wasted, 0, ""},
		{"scan -o jsonl --regions us-east-1,us-east-1", count(own, "us-east-1"), 0, "1 account and 1 region"},
		{"scan -o jsonl --role-arn " + other.RoleARN(simaws.ReadOnlyRole) + " --external-id " + external, count(other.ID, ""), 0, ""},
		{"scan -o jsonl --organization --role-name " + simaws.AdminRole + " --accounts " + other.ID, count(other.ID, ""), 0, ""},
		{"scan -o jsonl --accounts " + other.ID + " --role-name " + simaws.AdminRole + " --regions us-east-1", count(other.ID, "us-east-1"), 0, ""},
		{"scan -o jsonl --organization --role-name " + simaws.AdminRole + " --fail-on high", count("", ""), exitFindings, "HIGH or above"},
		{"scan waste -o jsonl --fail-on critical", wasted, 0, ""},
		{"scan security -o jsonl --fail-on critical", count(own, "") - wasted, exitFindings, "CRITICAL or above"},
		{"scan -o jsonl --rules ebs-unattached,ec2-stopped --param ebs-unattached.min_days=3000 --param ec2-stopped.min_days=3000", 0, 0, "nothing found"},
		{"scan -o jsonl --param ebs-unattached.min_days=x", 0, exitUsage, "is not an integer"},
		{"scan -o jsonl --accounts " + other.ID, 0, exitUsage, "--role-name"},
		{"scan -o jsonl --role-arn nonsense", 0, exitUsage, "is not like arn:aws:iam::"},
		{"scan -o jsonl --role-arn " + other.RoleARN(simaws.ReadOnlyRole) + " --external-id wrong", 0, exitError, "no account could be entered"},
		{"scan -o jsonl --organization --role-name " + simaws.AdminRole + " --accounts 000000000001", 0, exitError, "not an ACTIVE account"},
	} {
		r := execute(t, env, strings.Fields(x.args)...)
		if got := known(r.out); got != x.want || r.code != x.code || !strings.Contains(r.err, x.says) {
			t.Errorf("nightshift %s: %d lines, want %d; code %d, want %d; stderr, which must say %q:\n%s", x.args, got, x.want, r.code, x.code, x.says, r.err)
		}
	}

	// A table has the most expensive first, and a summary beside it.
	r := execute(t, env, "scan", "--organization", "--role-name", simaws.AdminRole)
	lines := strings.Split(r.out, "\n")
	if !strings.HasPrefix(strings.Join(strings.Fields(lines[0]), " "), "Severity Monthly Rule ") || !strings.HasPrefix(lines[2], "HIGH") || !strings.Contains(r.err, "a month") || !strings.Contains(r.err, "calls") {
		t.Errorf("%s%s", r.out, r.err)
	}
	if r := execute(t, env, "scan", "--rules", "ebs-unattached", "-o", "csv"); !strings.HasPrefix(r.out, "outcome,severity,monthly_cost_low,monthly_cost_high,rule_id,resource_id,") || strings.Contains(r.out, "ec2-stopped") {
		t.Errorf("%s%s", r.out, r.err)
	}
}

// What cannot be seen is said, and never looks like a clean account.
func TestScanOfWhatCannotBeSeen(t *testing.T) {
	t.Parallel()
	estate := func(change func(e *simaws.Estate)) map[string]string {
		e := simaws.Generate(simaws.Options{Seed: 7, Resources: 400})
		change(e)
		_, env := simulate(t, e, simaws.Config{})
		return env
	}
	regions := []string{"--regions", "us-east-1"}
	for _, x := range []struct {
		what string
		env  map[string]string
		args []string
		code int
		says string
	}{
		{"volumes denied", estate(func(e *simaws.Estate) { e.Accounts[0].Denied = []string{"ec2:DescribeVolumes"} }), nil, exitPartial, "us-east-1  AWS::EC2::Volume: ec2:DescribeVolumes is denied"},
		{"findings come before gaps", estate(func(e *simaws.Estate) { e.Accounts[0].Denied = []string{"ec2:DescribeInstances"} }), []string{"--fail-on", "low"}, exitFindings, "not seen:"},
		{"everything denied", estate(func(e *simaws.Estate) { e.Accounts[0].Denied = []string{"ec2:*"} }), regions, exitError, "nothing could be seen"},
		{"regions denied", estate(func(e *simaws.Estate) { e.Accounts[0].Denied = []string{"ec2:DescribeRegions"} }), nil, exitError, "--regions"},
		{"a region that is not enabled", estate(func(e *simaws.Estate) { e.Accounts[0].Regions[1].OptIn = simaws.OptInNone }),
			[]string{"--regions", "us-east-1,us-west-2"}, exitPartial, "not enabled"},
		{"an account of the organization that cannot be entered", estate(func(e *simaws.Estate) { e.Accounts[1].Roles = nil }),
			[]string{"--organization", "--role-name", simaws.AdminRole}, exitPartial, "everything: sts:AssumeRole is denied"},
		{"wrong credentials", func() map[string]string {
			env := estate(func(*simaws.Estate) {})
			env["NIGHTSHIFT_AWS_ACCESS_KEY_ID"] = "AKIANOBODYSKEY000000"
			return env
		}(), nil, exitError, "aws sso login"},
		{"half a configuration", map[string]string{"NIGHTSHIFT_AWS_ACCESS_KEY_ID": "x"}, nil, exitError, "go together"},
	} {
		r := execute(t, x.env, append([]string{"scan", "-o", "jsonl"}, x.args...)...)
		if r.code != x.code || !strings.Contains(r.err, x.says) {
			t.Errorf("%s: code %d, want %d; stderr, which must say %q:\n%s", x.what, r.code, x.code, x.says, r.err)
		}
	}
}

// Ctrl-C and --timeout end a scan soon, with what was found so far.
func TestScanIsInterrupted(t *testing.T) {
	t.Parallel()
	e := simaws.Generate(simaws.Options{Seed: 7, Resources: 400})
	slow := simaws.Config{Faults: []simaws.Fault{{Kind: "latency", Region: "us-west-2", Delay: simaws.Duration(time.Hour)}}}
	_, env := simulate(t, e, slow)
	args := append(slices.Clone(whole), "--regions", "us-east-1,us-west-2")
	t.Run("Ctrl-C", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var out, errs safeBuffer
		var pressed time.Time
		press := sync.OnceFunc(func() { pressed = time.Now(); cancel() })
		c := &cli{
			err: &errs, now: time.Now, size: func() (int, int) { return 80, 24 }, lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
			out: writerFunc(func(b []byte) (int, error) { defer press(); return out.Write(b) }), // with the first verdict
		}
		code := c.run(ctx, args)
		if took := time.Since(pressed); took > 5*time.Second {
			t.Errorf("it took %s to end", took)
		}
		if code != exitPartial || len(verdicts(t, out.String())) == 0 || !strings.Contains(errs.String(), "interrupted") || !strings.Contains(errs.String(), "not scanned to the end") {
			t.Errorf("code %d, out %q, err %s", code, out.String(), errs.String())
		}
	})
	t.Run("--timeout", func(t *testing.T) {
		t.Parallel()
		r := execute(t, env, append(slices.Clone(args), "--timeout", "4s")...)
		if r.code != exitPartial || !strings.Contains(r.err, "not done within --timeout") || !strings.Contains(r.err, "not scanned to the end") {
			t.Errorf("code %d, %s", r.code, r.err)
		}
	})
}
