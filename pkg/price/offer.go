package price

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Query is what to ask AWS's price list for.
type Query struct {
	// Service code, such as AmazonEC2.
	Service string
	// Attributes that the products must have.
	Attributes map[string]string
}

// Queries returns what makes up a region's prices: ask for each and give every
// product to an Offer.
func Queries(region string) []Query {
	var all []Query
	for _, q := range []map[string]string{
		{"productFamily": "Compute Instance", "operatingSystem": "Linux", "tenancy": "Shared", "preInstalledSw": "NA", "capacitystatus": "Used"},
		{"productFamily": "Storage"},
		{"productFamily": "System Operation", "group": "EBS IOPS"},
		{"productFamily": "Provisioned Throughput"},
		{"productFamily": "Storage Snapshot"},
	} {
		q["regionCode"], q["locationType"] = region, "AWS Region"
		all = append(all, Query{"AmazonEC2", q})
	}
	return append(all, Query{"AmazonVPC", map[string]string{"group": "VPCPublicIPv4Address", "regionCode": region}})
}

// Offer is a region's prices while they are gathered from AWS's price list.
type Offer struct {
	region, date string
	usd          map[string]float64 // by what is priced
	doubtful     map[string]string  // why what is priced has no price
}

// NewOffer is an offer without prices yet.
func NewOffer(region string) *Offer {
	return &Offer{region: region, usd: map[string]float64{}, doubtful: map[string]string{}}
}

// product is a product of the price list, as far as it matters here.
type product struct {
	Product struct {
		ProductFamily string            `json:"productFamily"`
		Attributes    map[string]string `json:"attributes"`
	} `json:"product"`
	PublicationDate string `json:"publicationDate"`
	Terms           struct {
		OnDemand map[string]struct {
			EffectiveDate   string `json:"effectiveDate"`
			PriceDimensions map[string]struct {
				Unit         string            `json:"unit"`
				BeginRange   string            `json:"beginRange"`
				EndRange     string            `json:"endRange"`
				PricePerUnit map[string]string `json:"pricePerUnit"`
			} `json:"priceDimensions"`
		} `json:"OnDemand"`
	} `json:"terms"`
}

// Add takes a product. What it does not know, or what is of another region, is
// passed over; what does not have one clear price leaves the thing it prices
// without any. The error says that it is no product at all.
func (o *Offer) Add(text string) error {
	var p product
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return fmt.Errorf("price: a product of the price list does not decode: %w", err)
	}
	a := p.Product.Attributes
	if a["regionCode"] != o.region || a["locationType"] != "" && a["locationType"] != "AWS Region" {
		return nil
	}
	what, unit := slot(p.Product.ProductFamily, a)
	if what == "" {
		return nil
	}
	usd, date, err := p.price(unit)
	switch old, twice := o.usd[what]; {
	case err != nil:
		o.doubtful[what] = err.Error()
	case twice && old != usd:
		o.doubtful[what] = fmt.Sprintf("two prices, %v and %v", old, usd)
	default:
		o.usd[what], o.date = usd, max(o.date, date)
	}
	return nil
}

// ofRegion is what a usage type begins with outside us-east-1, and for some
// services there, too.
var ofRegion = regexp.MustCompile(`^[A-Z0-9]{2,5}-`)

// slot names what a product prices, and the unit it must be priced in; "" is
// for what does not matter here.
func slot(family string, a map[string]string) (what, unit string) {
	usage := ofRegion.ReplaceAllString(a["usagetype"], "")
	kind := a["volumeApiName"]
	// The usage types name io1 by what it was once called, and standard not at all.
	tail := map[string][]string{"io1": {".io1", ".piops"}, "standard": {".standard", ""}}[kind]
	if tail == nil {
		tail = []string{"." + kind}
	}
	rest, priced := strings.CutPrefix(usage, "EBS:VolumeUsage")
	iops, provisioned := strings.CutPrefix(usage, "EBS:VolumeP-IOPS")
	switch {
	case family == "Storage" && kind != "" && priced && slices.Contains(tail, rest):
		return "gib " + kind, "GB-Mo"
	case family == "System Operation" && a["group"] == "EBS IOPS" && kind != "" && provisioned:
		if kind == "io2" && (iops == ".io2.tier2" || iops == ".io2.tier3") {
			return "iops" + iops, "IOPS-Mo"
		}
		if slices.Contains(tail, iops) {
			return "iops ." + kind, "IOPS-Mo"
		}
	case family == "Provisioned Throughput" && kind == "gp3" && usage == "EBS:VolumeP-Throughput.gp3":
		return "throughput", "GiBps-mo"
	case family == "Storage Snapshot" && usage == "EBS:SnapshotUsage":
		return "snapshot standard", "GB-Mo"
	case family == "Storage Snapshot" && usage == "EBS:SnapshotArchiveStorage":
		return "snapshot archive", "GB-Mo"
	case a["group"] == "VPCPublicIPv4Address" && (usage == "PublicIPv4:InUseAddress" || usage == "PublicIPv4:IdleAddress"):
		return usage, "Hrs"
	case family == "Compute Instance" && a["instanceType"] != "" && a["operatingSystem"] == "Linux" && a["tenancy"] == "Shared" &&
		a["preInstalledSw"] == "NA" && a["capacitystatus"] == "Used" && (a["marketoption"] == "" || a["marketoption"] == "OnDemand") &&
		usage == "BoxUsage:"+a["instanceType"]:
		return "instance " + a["instanceType"], "Hrs"
	}
	return "", ""
}

// price is the product's one price for any amount, in USD a unit, and the day
// it was published.
func (p *product) price(unit string) (usd float64, date string, err error) {
	if len(p.Terms.OnDemand) != 1 {
		return 0, "", fmt.Errorf("%d offers on demand, not one", len(p.Terms.OnDemand))
	}
	for _, term := range p.Terms.OnDemand {
		if len(term.PriceDimensions) != 1 {
			return 0, "", fmt.Errorf("%d prices, not one for any amount", len(term.PriceDimensions))
		}
		for _, d := range term.PriceDimensions {
			if !strings.EqualFold(d.Unit, unit) {
				return 0, "", fmt.Errorf("unit %q is not %s", d.Unit, unit)
			}
			if d.BeginRange != "0" || d.EndRange != "Inf" {
				return 0, "", fmt.Errorf("the price is for %q to %q, not for any amount", d.BeginRange, d.EndRange)
			}
			usd, err = strconv.ParseFloat(d.PricePerUnit["USD"], 64)
			if err != nil || !(usd > 0 && usd < 1e6) {
				return 0, "", fmt.Errorf("%q is no price in USD", d.PricePerUnit["USD"])
			}
		}
		date = p.PublicationDate
		if date == "" {
			date = term.EffectiveDate
		}
	}
	day, err := time.Parse(time.RFC3339, date)
	if err != nil {
		return 0, "", fmt.Errorf("published on %q, which is no date", date)
	}
	return usd, day.UTC().Format(time.DateOnly), nil
}

// OfferSource names the source of prices from AWS's Pricing API.
const OfferSource = "AWS Pricing API"

// Region returns the prices that are complete, and what has none for its
// products are not clear, as "what: why", sorted. A volume type whose IOPS or
// throughput have no price has none at all: it would be too cheap. The error
// says that nothing has a price.
func (o *Offer) Region() (Region, []string, error) {
	var unclear []string
	for _, what := range slices.Sorted(maps.Keys(o.doubtful)) {
		unclear = append(unclear, what+": "+o.doubtful[what])
	}
	get := func(what string) (float64, bool) {
		usd, ok := o.usd[what]
		return usd, ok && o.doubtful[what] == ""
	}
	l := list{Volumes: map[string]volume{}, Snapshots: map[string]float64{}, InstanceHour: map[string]float64{}}
	for _, kind := range []string{"gp2", "gp3", "io1", "io2", "st1", "sc1", "standard"} {
		gib, ok := get("gib " + kind)
		v := volume{GiB: gib}
		step1 := func(what string, above int, per float64) (s []step) {
			usd, known := get(what)
			ok = ok && known
			return []step{{above, math.Round(usd/per*1e9) / 1e9}}
		}
		// From where on they are priced is in no attribute, but in EBS's documentation.
		switch kind {
		case "gp3":
			v.IOPS, v.Throughput = step1("iops .gp3", 3000, 1), step1("throughput", 125, 1024)
		case "io1":
			v.IOPS = step1("iops .io1", 0, 1)
		case "io2":
			v.IOPS = slices.Concat(step1("iops .io2", 0, 1), step1("iops.io2.tier2", 32000, 1), step1("iops.io2.tier3", 64000, 1))
		}
		if ok {
			l.Volumes[kind] = v
		}
	}
	for _, tier := range []string{"standard", "archive"} {
		if usd, ok := get("snapshot " + tier); ok {
			l.Snapshots[tier] = usd
		}
	}
	used, ok1 := get("PublicIPv4:InUseAddress")
	idle, ok2 := get("PublicIPv4:IdleAddress")
	switch {
	case ok1 && ok2 && used == idle:
		l.PublicIPv4Hour = &used
	case ok1 && ok2:
		unclear = append(unclear, "PublicIPv4: an address in use and an idle one cost differently")
	}
	for what := range o.usd {
		if kind, ok := strings.CutPrefix(what, "instance "); ok {
			if usd, ok := get(what); ok {
				l.InstanceHour[kind] = usd
			}
		}
	}
	if len(l.Volumes)+len(l.Snapshots)+len(l.InstanceHour) == 0 && l.PublicIPv4Hour == nil {
		return Region{}, unclear, fmt.Errorf("price: the price list has nothing for region %q", o.region)
	}
	l.Source, l.Date = OfferSource, o.date
	return Region{source: l.Source, date: l.Date, list: l}, unclear, l.check()
}

// Update puts regions, by name, into the price file at path, in the place of
// those it has, and makes the file when there is none. Whoever reads it finds
// the old or the new.
func Update(path string, regions map[string]Region) error {
	f := file{Source: OfferSource, Regions: map[string]list{}}
	switch b, err := os.ReadFile(path); {
	case err == nil:
		if _, err := parse(b); err != nil {
			return fmt.Errorf("price: file %s: %w", path, err)
		}
		if err := json.Unmarshal(b, &f); err != nil {
			return fmt.Errorf("price: file %s: %w", path, err)
		}
		if f.Regions == nil {
			f.Regions = map[string]list{}
		}
	case !errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("price: %w", err)
	}
	for name, r := range regions {
		r.list.Source, r.list.Date = r.source, r.date
		f.Regions[name] = r.list
		if f.Date == "" {
			f.Date = r.date
		}
	}
	b, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return fmt.Errorf("price: %w", err)
	}
	b = append(b, '\n')
	if _, err := parse(b); err != nil {
		return fmt.Errorf("price: %w", err)
	}
	next, err := os.CreateTemp(filepath.Dir(path), ".prices-*")
	if err != nil {
		return fmt.Errorf("price: %w", err)
	}
	defer os.Remove(next.Name())
	_, err = next.Write(b)
	if err = errors.Join(err, next.Chmod(0o644), next.Sync(), next.Close()); err != nil {
		return fmt.Errorf("price: %w", err)
	}
	if err := os.Rename(next.Name(), path); err != nil {
		return fmt.Errorf("price: %w", err)
	}
	return nil
}

// Item is one price of a region.
type Item struct {
	// Name of what is priced, such as "volume gp3".
	Name string
	// USD a Unit.
	USD  float64
	Unit string
}

// Source names the price list; Date is its day. Both are empty for a region
// without prices.
func (r Region) Source() string { return r.source }

// Date is the price list's day as YYYY-MM-DD.
func (r Region) Date() string { return r.date }

// Items returns all prices: volumes, snapshots, addresses, instances.
func (r Region) Items() []Item {
	var all []Item
	for _, kind := range slices.Sorted(maps.Keys(r.list.Volumes)) {
		v := r.list.Volumes[kind]
		all = append(all, Item{"volume " + kind, v.GiB, "GiB-month"})
		for _, s := range v.IOPS {
			all = append(all, Item{fmt.Sprintf("volume %s, IOPS above %d", kind, s.Above), s.Each, "IOPS-month"})
		}
		for _, s := range v.Throughput {
			all = append(all, Item{fmt.Sprintf("volume %s, MiB/s above %d", kind, s.Above), s.Each, "MiB/s-month"})
		}
	}
	for _, tier := range slices.Sorted(maps.Keys(r.list.Snapshots)) {
		all = append(all, Item{"snapshot " + tier, r.list.Snapshots[tier], "GiB-month"})
	}
	if r.list.PublicIPv4Hour != nil {
		all = append(all, Item{"public IPv4 address", *r.list.PublicIPv4Hour, "hour"})
	}
	for _, kind := range slices.Sorted(maps.Keys(r.list.InstanceHour)) {
		all = append(all, Item{"instance " + kind, r.list.InstanceHour[kind], "hour"})
	}
	return all
}
