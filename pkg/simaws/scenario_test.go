package simaws

import (
	"bytes"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Every scenario is in every estate of 500 resources, and the truth about its subject is what the scenario was made for, at any seed and time.
func TestScenarios(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		o := Options{
			Seed: rapid.Uint64().Draw(rt, "seed"), Accounts: rapid.IntRange(1, 12).Draw(rt, "accounts"), Regions: rapid.IntRange(1, 6).Draw(rt, "regions"),
			Resources: rapid.IntRange(500, 900).Draw(rt, "resources"), Now: time.Unix(rapid.Int64Range(1_700_000_000, 1_900_000_000).Draw(rt, "now"), 0).UTC(),
		}
		e := Generate(o)
		if e.Resources() != o.Resources {
			rt.Fatalf("%d resources, want %d", e.Resources(), o.Resources)
		}
		type expectation struct {
			scenario
			outcome string
		}
		want := map[string]expectation{}
		for _, s := range scenarios {
			want[s.rule+" "+s.name] = expectation{s, s.outcome}
			for rule, o := range s.also {
				s := s
				s.severity = ""
				want[rule+" "+s.name] = expectation{s, o}
			}
		}
		subject := situations(e)
		// The truth must hold for as long as a demo may run after the estate was made.
		for _, later := range []time.Duration{0, 2 * time.Hour} {
			seen := map[string]bool{}
			for _, truth := range e.TruthAt(e.Now.Add(later)) {
				name := subject[truth.ResourceID]
				if name == "in use by a stopped instance" {
					name = ""
				}
				if name == "" && (truth.RuleID == "ec2-stopped" || truth.RuleID == "ebs-unattached") && truth.Outcome != NotApplicable {
					rt.Fatalf("%s: an ordinary %s is %s: %s", truth.RuleID, truth.ResourceID, truth.Outcome, truth.Why)
				}
				if truth.Outcome != Violation && (truth.MonthlyCostLow != nil || truth.MonthlyCostHigh != nil || truth.Severity != "" || truth.Exempt) {
					rt.Fatalf("%s: %q is %s, and has a cost, severity or exemption", truth.RuleID, name, truth.Outcome)
				}
				x, ok := want[truth.RuleID+" "+name]
				if name == "" || !ok || x.fleeting && later > 0 {
					continue
				}
				seen[name] = true
				if truth.Outcome != x.outcome || x.severity != "" && truth.Severity != x.severity || x.outcome == Violation && truth.Exempt != x.exempt {
					rt.Fatalf("%s: %q is %s %s %v (%s), want %s %s %v", truth.RuleID, name, truth.Outcome, truth.Severity, truth.Exempt, truth.Why, x.outcome, x.severity, x.exempt)
				}
			}
			for _, s := range scenarios {
				if s.name != "" && !seen[s.name] && (later == 0 || !s.fleeting) {
					rt.Fatalf("no resource shows %q", s.name)
				}
			}
		}
	})
}

// situations are the cases of an estate's resources, by id.
func situations(e *Estate) map[string]string {
	out := map[string]string{}
	for _, a := range e.Accounts {
		for _, r := range a.Regions {
			for _, x := range r.Instances {
				out[x.ID] = x.Case
			}
			for _, x := range r.Volumes {
				out[x.ID] = x.Case
			}
			for _, x := range r.Snapshots {
				out[x.ID] = x.Case
			}
			for _, x := range r.Addresses {
				out[x.Allocation] = x.Case
			}
			for _, x := range r.Groups {
				out[x.ID] = x.Case
			}
			for _, x := range r.Images {
				out[x.ID] = x.Case
			}
		}
	}
	return out
}

// No two scenarios are told apart by nothing, and all fit into the smallest estate that promises them.
func TestScenariosAreApart(t *testing.T) {
	t.Parallel()
	seen, size := map[string]bool{}, 0
	for _, s := range scenarios {
		if size += s.size; s.name == "" {
			size -= s.size
			continue
		}
		if seen[s.name] {
			t.Errorf("%q is there twice", s.name)
		}
		seen[s.name] = true
	}
	largest := 0
	for _, s := range ordinary {
		largest = max(largest, s.size)
	}
	if size+largest*len(ordinary) > 500 {
		t.Errorf("the scenarios take %d resources, and up to %d more for the ordinary ones", size, largest*len(ordinary))
	}
}

// Of each rule there is a good, a bad, an unknown and a not-applicable case, where the rule knows such.
func TestScenariosCoverOutcomes(t *testing.T) {
	t.Parallel()
	got := map[string]map[string]int{}
	for _, truth := range Generate(Options{Resources: 500}).Truth() {
		if got[truth.RuleID] == nil {
			got[truth.RuleID] = map[string]int{}
		}
		got[truth.RuleID][truth.Outcome]++
	}
	for rule, outcomes := range map[string][]string{
		"ec2-stopped":            {Violation, Compliant, NotApplicable, InsufficientData, Errored},
		"ebs-unattached":         {Violation, Compliant, NotApplicable, Errored}, // without points a volume is unattached since its creation
		"ec2-idle-cpu":           {Violation, Compliant, NotApplicable, InsufficientData, Errored},
		"ec2-idle-memory":        {Violation, Compliant, NotApplicable, InsufficientData, Errored},
		"ebs-snapshot-old":       {Violation, Compliant, NotApplicable}, // unknown takes a denied call
		"eip-unassociated":       {Violation, Compliant},                // likewise
		"ebs-gp2-to-gp3":         {Violation, NotApplicable, InsufficientData},
		"ebs-unencrypted":        {Violation, Compliant, NotApplicable},
		"ec2-public":             {Violation, Compliant, NotApplicable},
		"sg-open-sensitive-port": {Violation, Compliant, InsufficientData},
		"ami-outdated":           {Violation, Compliant, NotApplicable, InsufficientData},
		"required-tags":          {Violation, Compliant, NotApplicable},
	} {
		for _, o := range outcomes {
			if got[rule][o] == 0 {
				t.Errorf("%s: no %s", rule, o)
			}
		}
		delete(got, rule)
	}
	if len(got) > 0 {
		t.Errorf("rules without expectations: %v", got)
	}
}

// The published checks of the price list.
func TestPinnedCosts(t *testing.T) {
	t.Parallel()
	e := Generate(Options{Seed: 11, Resources: 500})
	want := map[string]float64{
		"stopped long ago with 100 GB gp3 and an Elastic IP: 11.65 in us-east-1":          11.65,
		"500 GB gp3 with 6,000 IOPS and 250 MiB/s, detached long ago: 60.00 in us-east-1": 60,
		"io2 in its third price tier, detached long ago":                                  400*.125 + 32000*.065 + 32000*.0455 + 6000*.032,
		"io1, detached long ago": 200*.125 + 4000*.065,
		"stopped long ago, its volumes were taken away: costs nothing":  0,
		"an idle m5.large: 70.08 in us-east-1":                          70.08,
		"old, 100 GB full of 40: up to 2.00 in us-east-1":               2,
		"old, full of more than the volume holds: priced by the volume": 25,
		"old, its full size is not told: priced by the volume":          25,
		"an Elastic IP nothing uses: 3.65 in us-east-1":                 3.65,
		"gp2 of 100 GB: saves 1.88 to 2.00 in us-east-1":                2,
		"gp2 of 500 GB: saves 5.00 to 10.00 in us-east-1":               10,
		"gp2 of 2,000 GB, whose 6,000 IOPS gp3 has to buy":              200 - 160 - 15,
		"gp2 of 6,000 GB at its most IOPS":                              600 - 480 - 65,
	}
	for _, truth := range e.Truth() {
		for name, cost := range want {
			if _, priced := regionPrices[truth.Region]; !priced || !strings.HasPrefix(truth.Why, name) {
				continue
			}
			if truth.MonthlyCostHigh == nil || *truth.MonthlyCostHigh != cost {
				t.Errorf("%s costs %v, want %v", name, truth.MonthlyCostHigh, cost)
			}
			if low, ok := map[string]float64{"gp2 of 100": 1.88, "gp2 of 500": 5, "gp2 of 2,0": 20, "gp2 of 6,0": 50}[name[:10]]; ok && *truth.MonthlyCostLow != low {
				t.Errorf("%s saves %v at least, want %v", name, *truth.MonthlyCostLow, low)
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
	if total < 2000 || total > 30000 {
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
