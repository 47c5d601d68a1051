package price_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/rule"
)

func table(t testing.TB) *price.Table {
	t.Helper()
	p, err := price.Load("")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestVolume(t *testing.T) {
	t.Parallel()
	r := table(t).Region("us-east-1")
	for name, test := range map[string]struct {
		got  rule.Cost
		want float64
	}{
		"gp2":                         {r.Volume("gp2", 100, 300, 0), 10},
		"gp3 as it comes":             {r.Volume("gp3", 100, 3000, 125), 8},
		"gp3 without figures":         {r.Volume("gp3", 100, 0, 0), 8},
		"gp3 at 6,000 and 250":        {r.Volume("gp3", 500, 6000, 250), 60},
		"gp3, one more of each":       {r.Volume("gp3", 1, 3001, 126), 0.08 + 0.005 + 0.04},
		"io1":                         {r.Volume("io1", 100, 1000, 0), 12.5 + 65},
		"io2 in the first tier":       {r.Volume("io2", 100, 32000, 0), 12.5 + 2080},
		"io2 in the second":           {r.Volume("io2", 100, 64000, 0), 12.5 + 2080 + 1456},
		"io2 in the third":            {r.Volume("io2", 100, 64001, 0), 12.5 + 2080 + 1456 + 0.032},
		"st1":                         {r.Volume("st1", 500, 0, 0), 22.5},
		"sc1":                         {r.Volume("sc1", 125, 0, 0), 1.875},
		"standard":                    {r.Volume("standard", 10, 0, 0), 0.5},
		"an address":                  {r.PublicIPv4(1), 3.65},
		"no address":                  {r.PublicIPv4(0), 0},
		"idle m5.large":               {r.Instance("m5.large"), 70.08},
		"stopped, 100 GB gp3, one IP": {r.Nothing().Plus(r.Volume("gp3", 100, 3000, 125)).Plus(r.PublicIPv4(1)), 11.65},
	} {
		if !test.got.Known || test.got.Low != test.got.High || math.Abs(test.got.High-test.want) > 1e-9 {
			t.Errorf("%s: got %+v, want %v", name, test.got, test.want)
		}
		if c := test.got; c.Basis != "LIST" || c.Source == "" || c.Date != "2026-07-01" {
			t.Errorf("%s: priced by %q from %q of %q", name, c.Basis, c.Source, c.Date)
		}
	}
}

// Three sums worked out by hand, in cents.
func TestCents(t *testing.T) {
	t.Parallel()
	r := table(t).Region("us-east-1")
	for want, got := range map[string]rule.Cost{
		"60.00": r.Volume("gp3", 500, 6000, 250),
		"70.08": r.Instance("m5.large"),
		"11.65": r.Volume("gp3", 100, 3000, 125).Plus(r.PublicIPv4(1)),
	} {
		if s := fmt.Sprintf("%.2f", got.High); !got.Known || s != want {
			t.Errorf("got %s, want %s", s, want)
		}
	}
}

func TestSnapshot(t *testing.T) {
	t.Parallel()
	r := table(t).Region("us-east-1")
	for tier, want := range map[string]float64{"": 5, "standard": 5, "archive": 1.25} {
		if c := r.Snapshot(100, tier); !c.Known || c.Low != 0 || c.High != want {
			t.Errorf("tier %q: %+v, want 0 to %v", tier, c, want)
		}
	}
	if c := r.Snapshot(0.5, ""); c.High != 0.025 {
		t.Errorf("half a GiB: %+v, want 0.025", c)
	}
}

// What is not in the table is unknown, and so is every sum with it.
func TestUnknown(t *testing.T) {
	t.Parallel()
	p := table(t)
	r, elsewhere := p.Region("us-east-1"), p.Region("eu-central-1")
	for name, c := range map[string]rule.Cost{
		"volume elsewhere":    elsewhere.Volume("gp3", 100, 0, 0),
		"address elsewhere":   elsewhere.PublicIPv4(1),
		"instance elsewhere":  elsewhere.Instance("m5.large"),
		"snapshot elsewhere":  elsewhere.Snapshot(1, ""),
		"nothing elsewhere":   elsewhere.Nothing(),
		"no such region":      p.Region("").PublicIPv4(1),
		"no such type":        r.Volume("gp9", 100, 0, 0),
		"no size":             r.Volume("gp3", 0, 3000, 125),
		"negative":            r.Volume("gp3", 1, -1, 0),
		"io1 without IOPS":    r.Volume("io1", 100, 0, 0),
		"io2 without IOPS":    r.Volume("io2", 100, 0, 0),
		"instance type":       r.Instance("m99.large"),
		"tier":                r.Snapshot(1, "lukewarm"),
		"a negative snapshot": r.Snapshot(-0.5, ""),
		"no number of GiB":    r.Snapshot(math.NaN(), ""),
		"negative addresses":  r.PublicIPv4(-1),
		"a sum":               r.PublicIPv4(1).Plus(elsewhere.PublicIPv4(1)),
	} {
		if c != (rule.Cost{}) {
			t.Errorf("%s: %+v, want unknown", name, c)
		}
	}
	if got := p.Regions(); !slices.Equal(got, []string{"us-east-1"}) {
		t.Errorf("regions %v", got)
	}
}

// More of anything never costs less, and no price is negative or not a number.
func TestMoreNeverCostsLess(t *testing.T) {
	t.Parallel()
	r := table(t).Region("us-east-1")
	rapid.Check(t, func(t *rapid.T) {
		kind := rapid.SampledFrom([]string{"gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"}).Draw(t, "type")
		size, iops, mib := rapid.IntRange(1, 65536).Draw(t, "size"), rapid.IntRange(1, 300000).Draw(t, "iops"), rapid.IntRange(0, 4000).Draw(t, "throughput")
		a := r.Volume(kind, size, iops, mib)
		b := r.Volume(kind, size+rapid.IntRange(0, 100).Draw(t, "more size"), iops+rapid.IntRange(0, 70000).Draw(t, "more iops"), mib+rapid.IntRange(0, 100).Draw(t, "more throughput"))
		if !a.Known || !b.Known || !(a.High > 0) || b.High < a.High || a.Low != a.High {
			t.Errorf("%+v, then %+v", a, b)
		}
		if micro := a.High * 1e6; math.Abs(micro-math.Round(micro)) > 1e-2 {
			t.Errorf("%v is not rounded to a millionth", a.High)
		}
	})
}

func TestLoadFile(t *testing.T) {
	t.Parallel()
	file := func(content string) string {
		path := filepath.Join(t.TempDir(), "prices.json")
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	p, err := price.Load(file(`{"source": "ours", "date": "2026-09-30", "regions": {
		"eu-central-1": {"volumes": {"gp3": {"gib": 0.0952}}},
		"us-east-1": {"public_ipv4_hour": 0.004}}}`))
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Region("eu-central-1").Volume("gp3", 100, 0, 0); !c.Known || c.High != 9.52 || c.Source != "ours" || c.Date != "2026-09-30" {
		t.Errorf("the file's region: %+v", c)
	}
	if c := p.Region("us-east-1").PublicIPv4(1); c.High != 2.92 {
		t.Errorf("the file's own price: %+v", c)
	}
	if c := p.Region("us-east-1").Instance("m5.large"); c.Known {
		t.Errorf("a region of the file has prices of the table: %+v", c)
	}
	if c := table(t).Region("us-east-1").PublicIPv4(1); c.High != 3.65 {
		t.Errorf("the table was changed: %+v", c)
	}

	for content, says := range map[string]string{
		`{`:                               "unexpected EOF",
		`{"source":"s"} {}`:               "more after the end",
		`{"regons": {}}`:                  "regons",
		`{"date": "2026-07-01"}`:          "source is missing",
		`{"source": "s", "date": "July"}`: `date "July"`,
		`{"source": "s", "date": "2026-07-01", "regions": {"r": {"public_ipv4_hour": -1}}}`:                                                                     `region "r": the price of a public IPv4 address, -1`,
		`{"source": "s", "date": "2026-07-01", "regions": {"r": {"instance_hour": {"m5.large": 1e9}}}}`:                                                         "m5.large",
		`{"source": "s", "date": "2026-07-01", "regions": {"r": {"volumes": {"io2": {"gib": 1, "iops": [{"above": 5, "each": 1}, {"above": 5, "each": 1}]}}}}}`: "do not rise",
	} {
		path := file(content)
		if _, err := price.Load(path); err == nil || !strings.Contains(err.Error(), says) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want %q and the file's name", content, err, says)
		}
	}
	if _, err := price.Load(filepath.Join(t.TempDir(), "none.json")); err == nil {
		t.Error("a missing file is no error")
	}
}
