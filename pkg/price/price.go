// Package price knows AWS's list prices: what a volume, an address, a snapshot
// or an instance costs a month before discounts.
//
// It exists so that every rule prices the same thing the same way, from one
// dated table that ships in the binary and that a file can extend. A price
// that is not in the table is unknown, never 0. It is pure apart from reading
// that file, and must not know AWS's API or any resource type.
package price

import (
	"bytes"
	"cmp"
	_ "embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"slices"
	"time"

	"nightshift.dev/pkg/rule"
)

// HoursPerMonth is AWS's month.
const HoursPerMonth = 730

// Basis of every price here: the public list price, without discounts.
const Basis = "LIST"

//go:embed table.json
var embedded []byte

// Table holds price lists by region. It is never changed after it was made.
type Table struct{ regions map[string]Region }

// Region is one region's price list. The zero value knows no price.
type Region struct {
	source, date string
	list         list
}

// file is a price file.
type file struct {
	// Source names the price list; Date is its day, or the first of the month
	// it was published in, as YYYY-MM-DD.
	Source  string          `json:"source"`
	Date    string          `json:"date"`
	Regions map[string]list `json:"regions"`
}

// list is a region's prices in USD. What is left out is unknown.
type list struct {
	// Source and Date of this region alone, in the place of the file's.
	Source string `json:"source,omitempty"`
	Date   string `json:"date,omitempty"`
	// Volumes by type.
	Volumes map[string]volume `json:"volumes,omitempty"`
	// Snapshots by tier, a GiB and month: standard, archive.
	Snapshots map[string]float64 `json:"snapshots,omitempty"`
	// PublicIPv4Hour is an address's hour, in use or idle.
	PublicIPv4Hour *float64 `json:"public_ipv4_hour,omitempty"`
	// InstanceHour by instance type: on demand, Linux, shared tenancy.
	InstanceHour map[string]float64 `json:"instance_hour,omitempty"`
}

// volume is the price of a volume type, a month.
type volume struct {
	GiB float64 `json:"gib"`
	// IOPS is the price of each provisioned IOPS; Throughput of each MiB/s.
	IOPS       []step `json:"iops,omitempty"`
	Throughput []step `json:"throughput,omitempty"`
}

// step is the price of each unit above a number and up to the next step.
type step struct {
	Above int     `json:"above"`
	Each  float64 `json:"each"`
}

// Load returns the table that ships in the binary, with the regions of the
// price file at path in the place of its own. An empty path means no file. A
// price file has the form of table.json beside this file's source; the error
// says where it is wrong.
func Load(path string) (*Table, error) {
	t, err := parse(embedded)
	if err != nil {
		return nil, fmt.Errorf("price: embedded table: %w", err)
	}
	if path == "" {
		return t, nil
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("price: %w", err)
	}
	own, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("price: file %s: %w", path, err)
	}
	maps.Copy(t.regions, own.regions)
	return t, nil
}

func parse(b []byte) (*Table, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	var f file
	if err := d.Decode(&f); err != nil {
		return nil, err
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("there is more after the end of the table")
	}
	if f.Source == "" {
		return nil, errors.New("source is missing: name the price list")
	}
	if _, err := time.Parse(time.DateOnly, f.Date); err != nil {
		return nil, fmt.Errorf("date %q is not like 2026-07-01", f.Date)
	}
	t := &Table{regions: make(map[string]Region, len(f.Regions))}
	for name, l := range f.Regions {
		if err := l.check(); err != nil {
			return nil, fmt.Errorf("region %q: %w", name, err)
		}
		t.regions[name] = Region{source: cmp.Or(l.Source, f.Source), date: cmp.Or(l.Date, f.Date), list: l}
	}
	return t, nil
}

// check refuses what would price something wrong in silence.
func (l list) check() error {
	good := func(what string, usd float64) error {
		if !(usd >= 0 && usd < 1e6) {
			return fmt.Errorf("the price of %s, %v, is not between 0 and 1,000,000", what, usd)
		}
		return nil
	}
	var errs []error
	if _, err := time.Parse(time.DateOnly, l.Date); l.Date != "" && err != nil {
		errs = append(errs, fmt.Errorf("date %q is not like 2026-07-01", l.Date))
	}
	for name, v := range l.Volumes {
		errs = append(errs, good("volume type "+name, v.GiB))
		for _, steps := range [][]step{v.IOPS, v.Throughput} {
			for i, s := range steps {
				errs = append(errs, good("a step of volume type "+name, s.Each))
				if s.Above < 0 || i > 0 && s.Above <= steps[i-1].Above {
					errs = append(errs, fmt.Errorf("the steps of volume type %s do not rise", name))
				}
			}
		}
	}
	for name, usd := range l.Snapshots {
		errs = append(errs, good("snapshot tier "+name, usd))
	}
	for name, usd := range l.InstanceHour {
		errs = append(errs, good("instance type "+name, usd))
	}
	if l.PublicIPv4Hour != nil {
		errs = append(errs, good("a public IPv4 address", *l.PublicIPv4Hour))
	}
	return errors.Join(errs...)
}

// Regions returns the names of the regions that have prices, sorted.
func (t *Table) Regions() []string { return slices.Sorted(maps.Keys(t.regions)) }

// Region returns a region's price list; for an unknown region, one that knows
// no price.
func (t *Table) Region(name string) Region { return t.regions[name] }

// Volume is a volume's price a month, by its type, size, provisioned IOPS and
// provisioned throughput. IOPS and throughput of 0 mean what comes with the
// type. It is unknown for a type or region not in the table, a size below 1,
// and a type priced by IOPS whose IOPS are not known.
func (r Region) Volume(volumeType string, sizeGiB, iops, throughputMiBps int) rule.Cost {
	v, ok := r.list.Volumes[volumeType]
	if !ok || sizeGiB < 1 || iops < 0 || throughputMiBps < 0 {
		return rule.Cost{}
	}
	if iops == 0 && len(v.IOPS) > 0 && v.IOPS[0].Above == 0 {
		return rule.Cost{}
	}
	return r.cost(float64(sizeGiB)*v.GiB + stepped(v.IOPS, iops) + stepped(v.Throughput, throughputMiBps))
}

// stepped is the price of n units, each at the price of the step it is in.
func stepped(steps []step, n int) float64 {
	usd := 0.0
	for i, s := range steps {
		top := n
		if i+1 < len(steps) {
			top = min(n, steps[i+1].Above)
		}
		usd += float64(max(0, top-s.Above)) * s.Each
	}
	return usd
}

// PublicIPv4 is the price of n public IPv4 addresses a month, in use or not.
func (r Region) PublicIPv4(n int) rule.Cost {
	if r.list.PublicIPv4Hour == nil || n < 0 {
		return rule.Cost{}
	}
	return r.cost(float64(n) * *r.list.PublicIPv4Hour * HoursPerMonth)
}

// Instance is the price of running an instance for a month: on demand, Linux,
// shared tenancy. Whoever asks for another platform or tenancy must say
// unknown instead.
func (r Region) Instance(instanceType string) rule.Cost {
	usd, ok := r.list.InstanceHour[instanceType]
	if !ok {
		return rule.Cost{}
	}
	return r.cost(usd * HoursPerMonth)
}

// Snapshot is the price of a snapshot a month: from 0, for its blocks may be
// shared with others, to all of its size. The tier is standard or archive;
// empty means standard.
func (r Region) Snapshot(sizeGiB float64, tier string) rule.Cost {
	if tier == "" {
		tier = "standard"
	}
	usd, ok := r.list.Snapshots[tier]
	if !ok || !(sizeGiB >= 0 && sizeGiB < 1e9) {
		return rule.Cost{}
	}
	c := r.cost(sizeGiB * usd)
	c.Low = 0
	return c
}

// Nothing is the known cost of nothing: what a sum begins with.
func (r Region) Nothing() rule.Cost {
	if r.date == "" {
		return rule.Cost{}
	}
	return r.cost(0)
}

// cost rounds to a millionth of a dollar: well below a cent, so that sums of
// many resources keep theirs, and well above a float's noise.
func (r Region) cost(usd float64) rule.Cost {
	usd = math.Round(usd*1e6) / 1e6
	return rule.Cost{Known: true, Low: usd, High: usd, Basis: Basis, Source: r.source, Date: r.date}
}
