package simaws

import (
	"bytes"
	"os"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Every scenario is in every estate of 200 resources, and the truth about its subject is what the scenario was made for, at any seed and time.
func TestScenarios(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		o := Options{
			Seed: rapid.Uint64().Draw(rt, "seed"), Accounts: rapid.IntRange(1, 12).Draw(rt, "accounts"), Regions: rapid.IntRange(1, 6).Draw(rt, "regions"),
			Resources: rapid.IntRange(200, 600).Draw(rt, "resources"), Now: time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(rt, "now"), 0).UTC(),
		}
		e := Generate(o)
		if e.Resources() != o.Resources {
			rt.Fatalf("%d resources, want %d", e.Resources(), o.Resources)
		}
		want := map[string]string{}
		for _, s := range scenarios {
			want[s.name] = s.outcome
		}
		want["in use by a stopped instance"] = NotApplicable
		subject := map[string]string{}
		for _, a := range e.Accounts {
			for _, r := range a.Regions {
				for _, in := range r.Instances {
					subject[in.ID] = in.Case
				}
				for _, v := range r.Volumes {
					subject[v.ID] = v.Case
				}
			}
		}
		// The truth must hold for as long as a demo may run after the estate was made.
		for _, later := range []time.Duration{0, 2 * time.Hour} {
			seen := map[string]bool{}
			for _, truth := range e.TruthAt(e.Now.Add(later)) {
				name := subject[truth.ResourceID]
				if name == "" {
					if truth.Outcome != NotApplicable {
						rt.Fatalf("an ordinary %s is %s: %s", truth.ResourceID, truth.Outcome, truth.Why)
					}
					continue
				}
				seen[name] = true
				if truth.Outcome != want[name] {
					rt.Fatalf("%q is %s (%s), want %s", name, truth.Outcome, truth.Why, want[name])
				}
				if truth.Outcome != Violation && (truth.MonthlyCostLow != nil || truth.MonthlyCostHigh != nil) {
					rt.Fatalf("%q is %s and costs", name, truth.Outcome)
				}
			}
			for _, s := range scenarios {
				if s.name != "" && !seen[s.name] {
					rt.Fatalf("no resource shows %q", s.name)
				}
			}
		}
	})
}

// Of each rule there is a good, a bad, an unknown and a not-applicable case.
func TestScenariosCoverOutcomes(t *testing.T) {
	t.Parallel()
	got := map[string]map[string]int{}
	for _, truth := range Generate(Options{Resources: 200}).Truth() {
		if got[truth.RuleID] == nil {
			got[truth.RuleID] = map[string]int{}
		}
		got[truth.RuleID][truth.Outcome]++
	}
	for _, rule := range truthRules {
		for _, o := range []string{Violation, Compliant, NotApplicable, Errored} {
			if got[rule.id][o] == 0 {
				t.Errorf("%s: no %s", rule.id, o)
			}
		}
	}
	// ebs-unattached has none: without points a volume is unattached since its creation.
	if got["ec2-stopped"][InsufficientData] == 0 {
		t.Error("ec2-stopped: no INSUFFICIENT_DATA")
	}
}

// The published checks of the price list.
func TestPinnedCosts(t *testing.T) {
	t.Parallel()
	e := Generate(Options{Seed: 11})
	want := map[string]float64{
		"stopped long ago with 100 GB gp3 and an Elastic IP: 11.65 in us-east-1":          11.65,
		"500 GB gp3 with 6,000 IOPS and 250 MiB/s, detached long ago: 60.00 in us-east-1": 60,
		"io2 in its third price tier, detached long ago":                                  400*.125 + 32000*.065 + 32000*.0455 + 6000*.032,
		"io1, detached long ago": 200*.125 + 4000*.065,
		"stopped long ago, its volumes were taken away: costs nothing": 0,
	}
	for _, truth := range e.Truth() {
		for name, cost := range want {
			if len(truth.Why) >= len(name) && truth.Why[:len(name)] == name && (truth.MonthlyCostLow == nil || *truth.MonthlyCostLow != cost) {
				if truth.MonthlyCostLow == nil && regionPrices[truth.Region] == (prices{}) {
					continue
				}
				t.Errorf("%s costs %v, want %v", name, truth.MonthlyCostLow, cost)
			}
		}
	}
	volume := func(v Volume) float64 { return virginia.volume(&v) }
	for _, tc := range []struct{ got, want float64 }{
		{volume(disk("gp2", 100)), 10}, {volume(disk("gp3", 100)), 8}, {volume(disk("st1", 1000)), 45}, {volume(disk("sc1", 1000)), 15}, {volume(disk("standard", 100)), 5},
		{volume(Volume{Type: "gp3", Size: 10, IOPS: 3000, Throughput: 125}), .8}, {volume(Volume{Type: "io2", Size: 8, IOPS: 32000}), 1 + 2080},
	} {
		if *cents(tc.got) != *cents(tc.want) {
			t.Errorf("costs %v, want %v", tc.got, tc.want)
		}
	}
	total := 0.0
	for _, truth := range e.Truth() {
		if truth.MonthlyCostHigh != nil {
			total += *truth.MonthlyCostHigh
		}
	}
	if total < 2000 || total > 20000 {
		t.Errorf("the demo wastes $%.2f a month; a story needs some thousands", total)
	}
}

func TestDeterminism(t *testing.T) {
	t.Parallel()
	o := Options{Seed: 42, Now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)}
	text := func(o Options) []byte {
		var b bytes.Buffer
		if err := Generate(o).Write(&b); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	if !bytes.Equal(text(o), text(o)) {
		t.Error("the same options gave two estates")
	}
	p := o
	p.Seed++
	if bytes.Equal(text(o), text(p)) {
		t.Error("two seeds gave one estate")
	}
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	e := Generate(Options{Seed: 6, Resources: 300, Now: time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC)})
	e.Faults = []Fault{{Kind: "latency", Delay: Duration(250 * time.Millisecond), Region: "eu-west-1"}, {Kind: "throttle", Share: 0.25}}
	var want bytes.Buffer
	if err := e.Write(&want); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"/estate.json", "/estate.yaml"} {
		path := t.TempDir() + name
		if err := e.Save(path); err != nil {
			t.Fatal(err)
		}
		back, err := Load(path)
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		if err := back.Write(&got); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(want.Bytes(), got.Bytes()) {
			t.Errorf("%s: came back different", name)
		}
		equal := func(a, b Truth) bool {
			return a.ARN == b.ARN && a.Outcome == b.Outcome && a.Why == b.Why && (a.MonthlyCostLow == nil) == (b.MonthlyCostLow == nil) && (a.MonthlyCostLow == nil || *a.MonthlyCostLow == *b.MonthlyCostLow)
		}
		if !slices.EqualFunc(e.Truth(), back.Truth(), equal) {
			t.Errorf("%s: the truth changed on the way", name)
		}
	}
}

// A file that could not work says what is wrong.
func TestLoadErrors(t *testing.T) {
	t.Parallel()
	account := func(region string) string {
		return `{"version":1,"now":"2026-01-01T00:00:00Z","accounts":[{"id":"111122223333","access_key":"A","regions":[` + region + `]}]}`
	}
	for text, want := range map[string]string{
		`{"version":2}`: "version 2 is not known",
		`{"version":1}`: "now is missing",
		`{"version":1,"now":"2026-01-01T00:00:00Z"}`:                                                                                    "accounts is empty",
		`{"version":1,"now":"2026-01-01T00:00:00Z","accounts":[{"id":"1"}]}`:                                                            "not twelve digits",
		`{"version":1,"now":"2026-01-01T00:00:00Z","accounts":[{"id":"111122223333"}]}`:                                                 "access_key",
		`{"version":1,"nonsense":true}`:                                                                                                 "nonsense",
		account(`{"name":"us-east-1","instances":[{"id":"i-1","state":"tired"}]}`):                                                      "tired",
		account(`{"name":"us-east-1","volumes":[{"id":"vol-1","attachments":[{"instance":"i-9"}]}]}`):                                   "not an instance of the region",
		account(`{"name":"us-east-1","volumes":[{"id":"vol-1"},{"id":"vol-1"}]}`):                                                       "used twice",
		`{"version":1,"now":"2026-01-01T00:00:00Z","faults":[{"kind":"gremlins"}],"accounts":[{"id":"111122223333","access_key":"A"}]}`: "gremlins",
		"version: [": "neither JSON nor YAML",
	} {
		path := t.TempDir() + "/estate"
		writeFile(t, path, text)
		if _, err := Load(path); err == nil || !bytes.Contains([]byte(err.Error()), []byte(want)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	if _, err := Load(t.TempDir() + "/nothing"); err == nil {
		t.Error("a file that is not there was loaded")
	}
}

func writeFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}
