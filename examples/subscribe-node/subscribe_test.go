// Package node runs the example in Node.js against a real server.
package node

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"testing"
	"time"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
)

func TestNodeReplaysAndGoesOn(t *testing.T) {
	t.Parallel()
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("there is no node on the PATH: the example is not run")
	}
	if _, err := os.Stat("node_modules"); err != nil {
		t.Skip("examples/subscribe-node/node_modules is missing, run npm ci there: the example is not run")
	}
	server, err := devstack.NATS(devstack.NATSOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Stop)
	b, err := bus.Connect(t.Context(), bus.Config{URL: server.URL(), Service: "persistence"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = b.Close(t.Context()) })
	publish := func(rule string) {
		t.Helper()
		err := b.Publish(t.Context(), &findingv1.FindingOpened{
			Finding: &findingv1.Finding{
				Id: rule, RuleId: rule, Category: rulev1.Category_CATEGORY_WASTE, Severity: rulev1.Severity_SEVERITY_HIGH,
				Resource: &scanv1.Resource{Account: "111122223333", Region: "eu-west-1", Id: "vol-1", Name: "a \"name\"\nof 2 lines"},
			},
			Transition: &findingv1.Transition{RunId: "waste-scan/1"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	// run returns the rules of the first n events that the example prints.
	run := func(n int, args ...string) (rules []string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), node, append([]string{"subscribe.mjs", "FindingOpened.waste.high.>", "--count", fmt.Sprint(n)}, args...)...)
		cmd.Env = append(os.Environ(), "NATS_URL="+server.URL())
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for lines := bufio.NewScanner(out); lines.Scan(); {
			var e struct {
				ID      string
				Time    time.Time
				Finding struct {
					RuleID   string `json:"ruleId"`
					Severity string
					Resource struct{ Name string }
				}
			}
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatalf("%s: %v", lines.Bytes(), err)
			}
			if e.ID == "" || e.Finding.Severity != "SEVERITY_HIGH" || e.Finding.Resource.Name != "a \"name\"\nof 2 lines" || time.Since(e.Time).Abs() > time.Minute {
				t.Errorf("%s", lines.Bytes())
			}
			rules = append(rules, e.Finding.RuleID)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		return rules
	}
	equal := func(got []string, want ...string) {
		t.Helper()
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("it printed %v, want %v", got, want)
		}
	}
	publish("one")
	last, err := bus.Last[*findingv1.FindingOpened](t.Context(), b, "waste", "high", "111122223333", "eu-west-1", "one")
	if err != nil || last == nil {
		t.Fatal(last, err)
	}
	for time.Now().Truncate(time.Millisecond).Equal(last.Time.Truncate(time.Millisecond)) { // a Date has milliseconds
	}
	publish("two")
	since, err := bus.Last[*findingv1.FindingOpened](t.Context(), b, "waste", "high", "111122223333", "eu-west-1", "two")
	if err != nil || since == nil {
		t.Fatal(since, err)
	}
	equal(run(2, "--all"), "one", "two")
	equal(run(1, "--since", since.Time.Format(time.RFC3339Nano)), "two")
	equal(run(1, "--durable", "mine", "--all"), "one")
	publish("three")
	equal(run(2, "--durable", "mine"), "two", "three")
}
