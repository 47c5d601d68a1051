package notification

import (
	"fmt"
	"slices"
	"time"
	_ "time/tzdata" // an image may have no zones of its own

	notificationv1 "nightshift.dev/gen/nightshift/notification/v1"
)

// What the wall clock shows decides: of an hour that a zone skips nothing is
// quiet, and an hour that it has twice is quiet twice.

// quiet are quiet hours that have been understood.
type quiet struct {
	days       [7]bool // on which it begins, by time.Weekday
	start, end int     // minutes of the day; an end not after the start is on the next day
	zone       *time.Location
}

// minutes reads "08:30" as minutes of the day.
func minutes(clock string) (int, error) {
	t, err := time.Parse("15:04", clock)
	return t.Hour()*60 + t.Minute(), err
}

func newQuiet(q *notificationv1.QuietHours) (out quiet, err error) {
	if out.start, err = minutes(q.GetStart()); err != nil {
		return out, err
	}
	if out.end, err = minutes(q.GetEnd()); err != nil {
		return out, err
	}
	for day := range out.days {
		out.days[day] = len(q.GetWeekdays()) == 0
	}
	for _, day := range q.GetWeekdays() { // 7 is Sunday, which is 0 in Go
		out.days[(day%7+7)%7] = true
	}
	out.zone, err = time.LoadLocation(q.GetTimeZone()) // "" is UTC
	return out, err
}

// at says whether it is quiet.
func (q quiet) at(t time.Time) bool {
	t = t.In(q.zone)
	minute, day := t.Hour()*60+t.Minute(), t.Weekday()
	if q.start < q.end {
		return q.days[day] && minute >= q.start && minute < q.end
	}
	return q.days[day] && minute >= q.start || q.days[(day+6)%7] && minute < q.end
}

// ends are the times up to ten days after t at which it can end.
func (q quiet) ends(t time.Time) []time.Time {
	var out []time.Time
	local := t.In(q.zone)
	for day := -1; day <= 10; day++ {
		out = append(out, moments(local.Year(), local.Month(), local.Day()+day, q.end, q.zone)...)
	}
	return out
}

// moments are the times that may be that minute of a day on a wall clock, or
// the first behind it: two when the zone has the minute twice, the changes of
// the zone around it included.
func moments(year int, month time.Month, day, minute int, zone *time.Location) []time.Time {
	guess := time.Date(year, month, day, 0, minute, 0, 0, zone)
	begin, end := guess.ZoneBounds()
	out := []time.Time{guess}
	for _, change := range []time.Time{begin, end} {
		if change.IsZero() {
			continue
		}
		out = append(out, change)
		for _, side := range []time.Time{change.Add(-time.Second), change} {
			_, offset := side.Zone()
			out = append(out, time.Date(year, month, day, 0, minute, 0, 0, time.FixedZone("", offset)))
		}
	}
	return out
}

// quietUntil is the end of quiet hours at t: the first moment after it that
// none of them covers. A zero time says that it is not quiet. Where it is
// always quiet the end is a week away.
func quietUntil(all []quiet, t time.Time) time.Time {
	at := func(t time.Time) bool { return slices.ContainsFunc(all, func(q quiet) bool { return q.at(t) }) }
	if !at(t) {
		return time.Time{}
	}
	var ends []time.Time
	for _, q := range all {
		ends = append(ends, q.ends(t)...)
	}
	slices.SortFunc(ends, time.Time.Compare)
	for _, end := range ends {
		if end.After(t) && !at(end) {
			return end.UTC()
		}
	}
	return t.Add(7 * 24 * time.Hour)
}

// digest is when a digest is told.
type digest struct {
	weekday int // 1 to 7; 0: daily
	minute  int
	zone    *time.Location
	text    string
}

func newDigest(d *notificationv1.Digest) (*digest, error) {
	if d == nil {
		return nil, nil
	}
	out := &digest{weekday: int(d.GetWeekday())}
	var err error
	if out.minute, err = minutes(d.GetTime()); err != nil {
		return nil, err
	}
	if out.zone, err = time.LoadLocation(d.GetTimeZone()); err != nil {
		return nil, err
	}
	out.text = fmt.Sprintf("daily digest at %s %s", d.GetTime(), out.zone)
	if out.weekday > 0 {
		out.text = fmt.Sprintf("weekly digest on %s at %s %s", time.Weekday(out.weekday%7), d.GetTime(), out.zone)
	}
	return out, nil
}

// next is the first time after t: on each of its days the first moment at
// which the clock shows that minute, or a later one where it skips it.
func (d *digest) next(t time.Time) time.Time {
	local := t.In(d.zone)
	for ahead := -1; ; ahead++ {
		day := time.Date(local.Year(), local.Month(), local.Day()+ahead, 12, 0, 0, 0, time.UTC)
		if d.weekday > 0 && int(day.Weekday()) != d.weekday%7 {
			continue
		}
		candidates := moments(day.Year(), day.Month(), day.Day(), d.minute, d.zone)
		slices.SortFunc(candidates, time.Time.Compare)
		for _, c := range candidates {
			wall := c.In(d.zone)
			if wall.Day() == day.Day() && wall.Month() == day.Month() && wall.Hour()*60+wall.Minute() >= d.minute {
				if c.After(t) {
					return c.UTC()
				}
				break // today's is over, also where the minute comes again
			}
		}
		if ahead > 800 { // no zone skips a weekday for two years
			return t.Add(24 * time.Hour)
		}
	}
}
