package main

import (
	"math"
	"path/filepath"
	"strings"
	"testing"

	"nightshift.dev/pkg/price"
	"nightshift.dev/pkg/simaws"
)

// What is fetched is what the price list says: us-east-1 as it is built in,
// the others by the factors of the simulated list.
func TestPricesUpdate(t *testing.T) {
	t.Parallel()
	_, env := simulate(t, simaws.Generate(simaws.Options{Seed: 7, Resources: 20}), simaws.Config{})
	path := filepath.Join(t.TempDir(), "prices.json")
	for _, regions := range []string{"us-west-2,eu-west-1", "us-east-1"} {
		if r := execute(t, env, "prices", "update", "--regions", regions, "--out", path); r.code != 0 || strings.Contains(r.err, "left out") {
			t.Fatalf("code %d: %s", r.code, r.err)
		}
	}
	builtIn, err := price.Load("")
	if err != nil {
		t.Fatal(err)
	}
	got, err := price.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	want := builtIn.Region("us-east-1").Items()
	for region, factor := range map[string]float64{"us-east-1": 1, "us-west-2": 1.07, "eu-west-1": 1.13} {
		r := got.Region(region)
		items := r.Items()
		if len(items) != len(want) || r.Source() != price.OfferSource || r.Date() != "2026-07-01" {
			t.Fatalf("%s: %d prices of %s from %q, want %d", region, len(items), r.Date(), r.Source(), len(want))
		}
		for i, w := range want {
			if g := items[i]; g.Name != w.Name || g.Unit != w.Unit || math.Abs(g.USD-w.USD*factor) > 1e-8 {
				t.Errorf("%s: got %+v, want %+v times %v", region, g, w, factor)
			}
		}
	}
	env["NIGHTSHIFT_PRICE_FILE"] = path
	r := execute(t, env, "prices", "show", "--region", "eu-west-1", "-o", "csv")
	if !strings.Contains(r.out, "eu-west-1,volume gp3,0.0904,GiB-month,AWS Pricing API,2026-07-01") || strings.Contains(r.out, "us-east-1") {
		t.Errorf("code %d: %s%s", r.code, r.out, r.err)
	}
}

func TestPricesUpdateFails(t *testing.T) {
	t.Parallel()
	e := simaws.Generate(simaws.Options{Seed: 7, Resources: 20})
	_, env := simulate(t, e, simaws.Config{})
	path := filepath.Join(t.TempDir(), "prices.json")
	if r := execute(t, env, "prices", "update", "--regions", "eu-west-9", "--out", path); r.code != exitError || !strings.Contains(r.err, "eu-west-9") {
		t.Errorf("no such region: code %d: %s", r.code, r.err)
	}
	e.Accounts[0].Denied = []string{"pricing:*"}
	_, env = simulate(t, e, simaws.Config{})
	if r := execute(t, env, "prices", "update", "--regions", "eu-west-1", "--out", path); r.code != exitError || !strings.Contains(r.err, "pricing:GetProducts is denied") {
		t.Errorf("denied: code %d: %s", r.code, r.err)
	}
	if _, err := price.Load(path); err == nil {
		t.Error("a failed update wrote a file")
	}
}
