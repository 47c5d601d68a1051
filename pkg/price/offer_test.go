package price_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"nightshift.dev/pkg/price"
)

// offered is a product as the price list has it; change may spoil it.
func offered(t testing.TB, family, unit, usd string, attributes map[string]string, change ...string) string {
	t.Helper()
	attributes["regionCode"] = "eu-west-1"
	type object = map[string]any
	b, err := json.Marshal(object{
		"product": object{"productFamily": family, "attributes": attributes}, "publicationDate": "2026-08-01T10:00:00Z",
		"terms": object{"OnDemand": object{"T": object{"effectiveDate": "2026-08-01T00:00:00Z", "priceDimensions": object{"D": object{
			"unit": unit, "beginRange": "0", "endRange": "Inf", "pricePerUnit": object{"USD": usd}}}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.NewReplacer(change...).Replace(string(b))
}

func volumeOf(kind, usage string) map[string]string {
	return map[string]string{"volumeApiName": kind, "usagetype": usage, "group": "EBS IOPS"}
}

// What has no clear price has none, and is named; the rest keeps its own.
func TestOffer(t *testing.T) {
	t.Parallel()
	gp2 := func(usd string, change ...string) string {
		return offered(t, "Storage", "GB-Mo", usd, volumeOf("gp2", "EU-EBS:VolumeUsage.gp2"), change...)
	}
	for name, test := range map[string]struct {
		products []string
		want     float64 // 100 GiB; 0: unknown
		unclear  string
	}{
		"one price":             {[]string{gp2("0.11")}, 11, ""},
		"twice the same":        {[]string{gp2("0.11"), gp2("0.1100000000")}, 11, ""},
		"two prices":            {[]string{gp2("0.11"), gp2("0.12")}, 0, "two prices"},
		"clear, then not":       {[]string{gp2("0.11"), gp2("")}, 0, "no price in USD"},
		"not, then clear":       {[]string{gp2(""), gp2("0.11")}, 0, "no price in USD"},
		"free":                  {[]string{gp2("0")}, 0, "no price in USD"},
		"negative":              {[]string{gp2("-1")}, 0, "no price in USD"},
		"not a number":          {[]string{gp2("NaN")}, 0, "no price in USD"},
		"in another currency":   {[]string{gp2("0.11", `"USD"`, `"CNY"`)}, 0, "no price in USD"},
		"in another unit":       {[]string{gp2("0.11", "GB-Mo", "GB-Hrs")}, 0, "GB-Hrs"},
		"from an amount on":     {[]string{gp2("0.11", `"beginRange":"0"`, `"beginRange":"10"`)}, 0, "not for any amount"},
		"without a date":        {[]string{gp2("0.11", "2026-08-01T10:00:00Z", "soon")}, 0, "soon"},
		"no offer":              {[]string{gp2("0.11", "OnDemand", "Reserved")}, 0, "0 offers"},
		"of another region":     {[]string{gp2("0.11", "eu-west-1", "eu-west-2")}, 0, ""},
		"another usage":         {[]string{gp2("0.11", "VolumeUsage.gp2", "VolumeUsage.gp2.outposts")}, 0, ""},
		"of a Local Zone's own": {[]string{gp2("0.11", `"regionCode"`, `"locationType":"AWS Local Zone","regionCode"`)}, 0, ""},
	} {
		o := price.NewOffer("eu-west-1")
		for _, p := range append(test.products, offered(t, "Storage Snapshot", "GB-Mo", "0.05", map[string]string{"usagetype": "EU-EBS:SnapshotUsage"})) {
			if err := o.Add(p); err != nil {
				t.Fatal(name, err)
			}
		}
		r, unclear, err := o.Region()
		if err != nil {
			t.Fatal(name, err)
		}
		if c := r.Volume("gp2", 100, 0, 0); c.High != test.want || c.Known != (test.want > 0) || c.Known && (c.Date != "2026-08-01" || c.Source != price.OfferSource) {
			t.Errorf("%s: %+v, want %v", name, c, test.want)
		}
		if got := strings.Join(unclear, "\n"); (got == "") != (test.unclear == "") || !strings.Contains(got, test.unclear) {
			t.Errorf("%s: unclear %q, want %q", name, got, test.unclear)
		}
		if c := r.Snapshot(100, ""); c.High != 5 {
			t.Errorf("%s: the snapshot's price is %+v", name, c)
		}
	}
	o := price.NewOffer("eu-west-1")
	if err := o.Add("{"); err == nil {
		t.Error("half a product is no error")
	}
	if _, _, err := o.Region(); err == nil || !strings.Contains(err.Error(), "eu-west-1") {
		t.Errorf("nothing is for sale: %v", err)
	}
}

// The usage types as the price list has them; a type whose IOPS have no price
// has none.
func TestOfferOfVolumes(t *testing.T) {
	t.Parallel()
	add := func(o *price.Offer, products ...string) price.Region {
		t.Helper()
		for _, p := range products {
			if err := o.Add(p); err != nil {
				t.Fatal(err)
			}
		}
		r, unclear, err := o.Region()
		if err != nil || len(unclear) > 0 {
			t.Fatal(err, unclear)
		}
		return r
	}
	o := price.NewOffer("eu-west-1")
	r := add(o, offered(t, "Storage", "GB-Mo", "0.05", volumeOf("standard", "EU-EBS:VolumeUsage")),
		offered(t, "Storage", "GB-Mo", "0.08", volumeOf("gp3", "EU-EBS:VolumeUsage.gp3")),
		offered(t, "System Operation", "IOPS-Mo", "0.005", volumeOf("gp3", "EU-EBS:VolumeP-IOPS.gp3")),
		offered(t, "Storage", "GB-Mo", "0.125", volumeOf("io1", "EU-EBS:VolumeUsage.piops")),
		offered(t, "Storage", "GB-Mo", "0.125", volumeOf("io2", "EU-EBS:VolumeUsage.io2")),
		offered(t, "System Operation", "IOPS-Mo", "0.065", volumeOf("io2", "EU-EBS:VolumeP-IOPS.io2")))
	if c := r.Volume("standard", 10, 0, 0); c.High != 0.5 {
		t.Errorf("standard: %+v", c)
	}
	for _, kind := range []string{"gp3", "io1", "io2"} {
		if c := r.Volume(kind, 10, 3000, 0); c.Known {
			t.Errorf("%s is priced without all of its parts: %+v", kind, c)
		}
	}
	r = add(o, offered(t, "Provisioned Throughput", "GiBps-mo", "40.96", volumeOf("gp3", "EU-EBS:VolumeP-Throughput.gp3")),
		offered(t, "System Operation", "IOPS-Mo", "0.065", volumeOf("io1", "EU-EBS:VolumeP-IOPS.piops")))
	if c := r.Volume("gp3", 500, 6000, 250); c.High != 60 {
		t.Errorf("gp3: %+v, want 60", c)
	}
	if c := r.Volume("io1", 100, 1000, 0); c.High != 77.5 {
		t.Errorf("io1: %+v, want 77.5", c)
	}
}

// An update keeps the other regions with their own source and date, and a file
// that is broken as it is.
func TestUpdate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "prices.json")
	if err := os.WriteFile(path, []byte(`{"source": "ours", "date": "2026-01-01", "regions": {"r": {"public_ipv4_hour": 0.004}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	o := price.NewOffer("eu-west-1")
	if err := o.Add(offered(t, "Storage", "GB-Mo", "0.11", volumeOf("gp2", "EU-EBS:VolumeUsage.gp2"))); err != nil {
		t.Fatal(err)
	}
	r, _, err := o.Region()
	if err != nil {
		t.Fatal(err)
	}
	if err := price.Update(path, map[string]price.Region{"eu-west-1": r}); err != nil {
		t.Fatal(err)
	}
	p, err := price.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if c := p.Region("r").PublicIPv4(1); c.High != 2.92 || c.Source != "ours" || c.Date != "2026-01-01" {
		t.Errorf("the region there was: %+v", c)
	}
	if c := p.Region("eu-west-1").Volume("gp2", 100, 0, 0); c.High != 11 || c.Source != price.OfferSource || c.Date != "2026-08-01" {
		t.Errorf("the new region: %+v", c)
	}
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := price.Update(path, map[string]price.Region{"eu-west-1": r}); err == nil {
		t.Error("a file that is none was replaced")
	}
	if b, _ := os.ReadFile(path); string(b) != "mine" {
		t.Errorf("the file is %q", b)
	}
}

func FuzzOffer(f *testing.F) {
	f.Add(offered(f, "Storage", "GB-Mo", "0.11", volumeOf("gp2", "EU-EBS:VolumeUsage.gp2")))
	f.Add(`{"product":null,"terms":{"OnDemand":{"a":null}}}`)
	f.Fuzz(func(t *testing.T, text string) {
		o := price.NewOffer("eu-west-1")
		if o.Add(text) != nil {
			return
		}
		if r, _, err := o.Region(); err == nil {
			if c := r.Volume("gp2", 1, 0, 0); c.Known && !(c.High >= 0 && c.High < 1e6) {
				t.Errorf("%+v", c)
			}
		}
	})
}
