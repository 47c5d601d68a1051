package scheduler

import (
	_ "embed"
	"math"
	"strings"
	"sync"
	"time"
	_ "time/tzdata" // an image may have no zones of its own

	"nightshift.dev/pkg/errs"
)

// zone is a time zone, with two questions answered that package time leaves
// open: what comes of a wall clock's reading that does not exist, and of one
// that comes twice.
//
// Times are Unix seconds. A reading of the wall clock is a number as well: the
// Unix seconds at which a clock in UTC reads the same.
type zone struct {
	*time.Location
}

// span is a stretch of time, [start, end), with one offset: what is to be added
// to a time to get the reading.
type span struct{ start, end, offset int64 }

const (
	// farthest is more than any zone has ever been ahead of UTC.
	farthest = 16 * 60 * 60
	// longestBack is more than any clock was ever set back, in one go or two.
	longestBack = 48 * 60 * 60
)

func (z zone) at(t int64) span {
	if z.Location == time.UTC {
		return span{math.MinInt64, math.MaxInt64, 0}
	}
	local := time.Unix(t, 0).In(z.Location)
	_, offset := local.Zone()
	out := span{math.MinInt64, math.MaxInt64, int64(offset)}
	start, end := local.ZoneBounds()
	if !start.IsZero() {
		out.start = start.Unix()
	}
	if !end.IsZero() {
		// On 31 December of a leap year package time gives the beginning of that day where it goes by a rule (Go 1.26). Clocks
		// are set at full quarters of an hour there, if at all.
		const quarter = 15 * 60
		if out.end = end.Unix(); out.end <= t {
			out.end = t - mod(t, quarter) + quarter
		}
	}
	return out
}

// shown is the latest reading that the clock has shown by t. Where it was set
// back it showed later ones than it does.
func (z zone) shown(t int64) int64 {
	in := z.at(t)
	latest := t + in.offset
	for start := in.start; start > t-longestBack; start = in.start {
		in = z.at(start - 1)
		latest = max(latest, start-1+in.offset)
	}
	return latest
}

// reach is the first time at which the clock shows a reading, or a later one:
// of a reading that comes twice the first, of one that does not exist the end
// of the gap.
func (z zone) reach(reading int64) int64 {
	for in := z.at(reading - farthest); ; in = z.at(in.end) {
		if t := max(in.start, reading-in.offset); t < in.end {
			return t
		}
	}
}

// zones are the locations in use: jobs share them.
var zones sync.Map

// zoneNames are the IANA zones that are known, one a line, for enumerating and
// suggesting. What can be used is what package time can load.
//
//go:embed zone.txt
var zoneNames string

// loadZone finds a zone by its IANA name; empty is UTC. The error names field.
func loadZone(name, field string) (zone, error) {
	if name == "" || name == "UTC" {
		return zone{time.UTC}, nil
	}
	if l, ok := zones.Load(name); ok {
		return zone{l.(*time.Location)}, nil
	}
	l, err := time.LoadLocation(name)
	// "Local" would be another zone on every machine. The two directories are copies of all zones; one counts leap seconds.
	if err != nil || name == "Local" || strings.HasPrefix(name, "right/") || strings.HasPrefix(name, "posix/") {
		return zone{}, errs.New(errs.InvalidArgument, "UNKNOWN_TIME_ZONE", "there is no such time zone").
			Field(field, "is %q; want an IANA name such as %s, or nothing for UTC", name, similarZone(name))
	}
	zones.Store(name, l)
	return zone{l}, nil
}

// similarZone is the zone that was probably meant: one with the same place in
// it, else the one with the fewest letters to change.
func similarZone(name string) string {
	plain := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), " ", "_") }
	name = plain(name)
	place := name[strings.LastIndex(name, "/")+1:]
	best, least := "Europe/Berlin", len(name)/3+1
	for candidate := range strings.Lines(zoneNames) {
		candidate = strings.TrimSpace(candidate)
		c := plain(candidate)
		if c == name || c[strings.LastIndex(c, "/")+1:] == place && place != "" {
			return candidate
		}
		if d := distance(c, name); d < least {
			best, least = candidate, d
		}
	}
	return best
}

// distance is how many letters are to be changed, added or left out to make b
// of a.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			changed := diagonal
			if a[i] != b[j] {
				changed++
			}
			diagonal = row[j+1]
			row[j+1] = min(changed, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}
