package simaws

import (
	"slices"
	"strings"
)

// optInRegions exist but are not opted in to, unless the estate says so.
var optInRegions = []string{"af-south-1", "ap-east-1", "eu-south-1", "il-central-1", "me-south-1"}

type regionRow struct{ name, optIn string }

func describeRegions(c *call, x *xmlWriter) (*answer, error) {
	var rows []regionRow
	for _, r := range c.account.Regions {
		optIn := r.OptIn
		if optIn == "" {
			optIn = OptInNotRequired
		}
		rows = append(rows, regionRow{r.Name, optIn})
	}
	for _, name := range optInRegions {
		if c.account.Region(name) == nil {
			rows = append(rows, regionRow{name, OptInNone})
		}
	}
	names := c.form.list("RegionName")
	for _, n := range names {
		if !slices.ContainsFunc(rows, func(r regionRow) bool { return r.name == n }) {
			return nil, fail(400, "InvalidParameterValue", "Invalid region provided: %s", n)
		}
	}
	all := c.form.get("AllRegions") == "true"
	l := &listing[regionRow]{
		set: "regionInfo",
		rows: func(*call) []regionRow {
			return slices.DeleteFunc(rows, func(r regionRow) bool {
				return len(names) > 0 && !slices.Contains(names, r.name) || len(names) == 0 && !all && r.optIn == OptInNone
			})
		},
		fields: map[string]func([]string, *call, *regionRow) []string{
			"region-name":   func(d []string, _ *call, r *regionRow) []string { return append(d, r.name) },
			"opt-in-status": func(d []string, _ *call, r *regionRow) []string { return append(d, r.optIn) },
			"endpoint":      func(d []string, _ *call, r *regionRow) []string { return append(d, "ec2."+r.name+".amazonaws.com") },
		},
		tags: func(*regionRow) []Tag { return nil },
		write: func(_ *call, x *xmlWriter, page []*regionRow) {
			for _, r := range page {
				x.open("item")
				x.str("regionName", r.name)
				x.str("regionEndpoint", "ec2."+r.name+".amazonaws.com")
				x.str("optInStatus", r.optIn)
				x.close("item")
			}
		},
	}
	return l.describe(c, x)
}

type zoneRow struct {
	name      string
	disrupted bool
}

// zones of a region: three, a to c, and any other the estate's resources are in.
func (c *call) zones() []zoneRow {
	names := []string{c.region.Name + "a", c.region.Name + "b", c.region.Name + "c"}
	for i := range c.region.Volumes {
		if z := c.region.Volumes[i].Zone; !slices.Contains(names, z) && strings.HasPrefix(z, c.region.Name) {
			names = append(names, z)
		}
	}
	slices.Sort(names)
	rows := make([]zoneRow, len(names))
	for i, n := range names {
		_, bad := c.s.faults.disrupted(n, c.account.ID)
		rows[i] = zoneRow{n, bad}
	}
	return rows
}

func (z *zoneRow) state() string {
	if z.disrupted {
		return "impaired"
	}
	return "available"
}

func describeAvailabilityZones(c *call, x *xmlWriter) (*answer, error) {
	rows := c.zones()
	for _, n := range c.form.list("ZoneName") {
		if !slices.ContainsFunc(rows, func(z zoneRow) bool { return z.name == n }) {
			return nil, fail(400, "InvalidParameterValue", "Invalid availability zone: [%s]", n)
		}
	}
	if names := c.form.list("ZoneName"); len(names) > 0 {
		rows = slices.DeleteFunc(rows, func(z zoneRow) bool { return !slices.Contains(names, z.name) })
	}
	l := &listing[zoneRow]{
		set:  "availabilityZoneInfo",
		rows: func(*call) []zoneRow { return rows },
		tags: func(*zoneRow) []Tag { return nil },
		fields: map[string]func([]string, *call, *zoneRow) []string{
			"zone-name":     func(d []string, _ *call, z *zoneRow) []string { return append(d, z.name) },
			"zone-id":       func(d []string, _ *call, z *zoneRow) []string { return append(d, zoneID(z.name)) },
			"state":         func(d []string, _ *call, z *zoneRow) []string { return append(d, z.state()) },
			"region-name":   func(d []string, c *call, _ *zoneRow) []string { return append(d, c.region.Name) },
			"zone-type":     func(d []string, _ *call, _ *zoneRow) []string { return append(d, "availability-zone") },
			"opt-in-status": func(d []string, _ *call, _ *zoneRow) []string { return append(d, OptInNotRequired) },
		},
		write: func(c *call, x *xmlWriter, page []*zoneRow) {
			for _, z := range page {
				x.open("item")
				x.str("optInStatus", OptInNotRequired)
				x.open("messageSet")
				if z.disrupted {
					x.open("item")
					x.str("message", "We are investigating connectivity issues in this Availability Zone.")
					x.close("item")
				}
				x.close("messageSet")
				x.str("zoneState", z.state())
				x.str("regionName", c.region.Name)
				x.str("zoneName", z.name)
				x.str("zoneId", zoneID(z.name))
				x.str("groupName", c.region.Name)
				x.str("networkBorderGroup", c.region.Name)
				x.str("zoneType", "availability-zone")
				x.close("item")
			}
		},
	}
	return l.describe(c, x)
}
