package scheduler

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"nightshift.dev/pkg/errs"
)

// matcher is what an expression means, said as plainly as possible: a reading
// of the wall clock is planned when all fields hold its value. It reads
// numbers, lists, ranges, also over the end, and steps.
type matcher struct {
	sets   [6][60]bool // second to day of week
	hourly bool        // every hour is planned
}

func newMatcher(expr string) *matcher {
	lows, highs := []int{0, 0, 0, 1, 1, 0}, []int{59, 59, 23, 31, 12, 7}
	m := &matcher{hourly: true}
	parts := strings.Fields(expr)
	if len(parts) == 5 {
		parts = append([]string{"0"}, parts...)
	}
	for i, field := range parts {
		for part := range strings.SplitSeq(field, ",") {
			part, step, stepped := strings.Cut(part, "/")
			low, high, by := lows[i], highs[i], 1
			if part != "*" {
				from, to, ranged := strings.Cut(part, "-")
				low, _ = strconv.Atoi(from)
				switch {
				case ranged:
					high, _ = strconv.Atoi(to)
				case !stepped:
					high = low
				}
			}
			if stepped {
				by, _ = strconv.Atoi(step)
			}
			count := highs[i] - lows[i] + 1
			if i == 5 {
				count = 7
			}
			if high < low {
				high += count
			}
			for v := low; v <= high; v += by {
				m.sets[i][(v-lows[i])%count+lows[i]] = true
			}
		}
	}
	for _, planned := range m.sets[2][:24] {
		m.hourly = m.hourly && planned
	}
	return m
}

func (m *matcher) matches(reading time.Time) bool {
	return m.sets[0][reading.Second()] && m.sets[1][reading.Minute()] && m.sets[2][reading.Hour()] && m.sets[3][reading.Day()] &&
		m.sets[4][reading.Month()] && m.sets[5][reading.Weekday()]
}

func matches(expr string, t time.Time) bool { return newMatcher(expr).matches(t) }

// planned walks through [from, to) as time passes there, having watched the
// clock since begin, and looks at the clock
// at every change of the minute it shows, and whenever it is set. What the clock
// shows for the first time, or leaps over, is planned when it matches; with
// every hour planned, it is what the clock shows now. Seconds are not looked at.
func (m *matcher) planned(zone *time.Location, begin, from, to time.Time) []time.Time {
	reading := func(t time.Time) time.Time {
		_, offset := t.In(zone).Zone()
		return t.Add(time.Duration(offset) * time.Second).UTC()
	}
	var out []time.Time
	high := reading(begin)
	for t := begin; t.Before(to); {
		now := reading(t)
		found := m.hourly && m.matches(now)
		if !m.hourly && now.After(high) {
			for r := high.Truncate(time.Minute).Add(time.Minute); !r.After(now) && !found; r = r.Add(time.Minute) {
				found = m.matches(r)
			}
		}
		if found && !t.Before(from) {
			out = append(out, t)
		}
		if now.After(high) {
			high = now
		}
		step := t.Add(now.Truncate(time.Minute).Add(time.Minute).Sub(now))
		if _, set := t.In(zone).ZoneBounds(); set.After(t) && set.Before(step) {
			step = set.UTC()
		}
		t = step
	}
	return out
}

// transitions are the times at which a zone's clock is set, from 1840 to 2039.
func transitions(zone *time.Location) []time.Time {
	var out []time.Time
	for t := time.Date(1840, 1, 1, 0, 0, 0, 0, time.UTC); ; {
		_, end := t.In(zone).ZoneBounds()
		if end.IsZero() || end.Year() > 2039 {
			return out
		}
		if !end.After(t) { // on 31 December of leap years package time is wrong
			t = t.Add(15 * time.Minute)
			continue
		}
		t = end.UTC()
		_, before := t.Add(-time.Second).In(zone).Zone()
		if _, after := t.In(zone).Zone(); before != after {
			out = append(out, t)
		}
	}
}

// random makes an expression of which something is likely to be planned near a
// reading.
func random(rnd *rand.Rand, near time.Time) string {
	field := func(low, high, near int) string {
		if near < low {
			near = high
		}
		one := func() string {
			switch a, b := low+rnd.IntN(high-low+1), low+rnd.IntN(high-low+1); rnd.IntN(8) {
			case 0, 1:
				return "*"
			case 2:
				return fmt.Sprintf("*/%d", 1+rnd.IntN(high-low))
			case 3:
				return fmt.Sprintf("%d-%d", a, b)
			case 4:
				a, b = min(a, high-3), min(max(a, b), high-3)
				return fmt.Sprintf("%d-%d/%d", min(a, b), max(a, b)+3, 1+rnd.IntN(3))
			case 5, 6:
				return strconv.Itoa(near)
			default:
				return strconv.Itoa(a)
			}
		}
		out := one()
		for rnd.IntN(4) == 0 {
			out += "," + one()
		}
		return out
	}
	any := func(low, high, near int) string {
		if rnd.IntN(3) > 0 {
			return "*"
		}
		return field(low, high, near)
	}
	return strings.Join([]string{
		field(0, 59, near.Minute()), field(0, 23, near.Hour()), any(1, 31, near.Day()), any(1, 12, int(near.Month())), any(0, 6, int(near.Weekday())),
	}, " ")
}

// Around every time at which the clock of any zone is set, what is planned is
// what somebody would find who watches that clock. With CI set it is every such
// time of every zone and 10,000 expressions, otherwise a fixed sample of an
// eighth; NIGHTSHIFT_SEED draws others.
func TestPlannedTimesInEveryZone(t *testing.T) {
	t.Parallel()
	seed, _ := strconv.ParseUint(os.Getenv("NIGHTSHIFT_SEED"), 10, 64)
	share := 8
	if os.Getenv("CI") != "" {
		share = 1
	}
	expressions := 10_000 / share
	// Zones of the same clock count once.
	type sets struct {
		zone  zone
		times []time.Time
	}
	var all []sets
	known := map[string]bool{}
	for name := range strings.FieldsSeq(zoneNames) {
		x := sets{zone: must(loadZone(name, ""))}
		x.times = transitions(x.zone.Location)
		key := strings.Builder{}
		for _, at := range append(x.times, monday) {
			_, offset := at.In(x.zone.Location).Zone()
			fmt.Fprint(&key, at.Unix(), offset, " ")
		}
		if !known[key.String()] {
			known[key.String()] = true
			all = append(all, x)
		}
	}
	if len(all) < 300 {
		t.Fatalf("%d zones", len(all))
	}
	type one struct {
		schedule schedule
		expr     string
		matcher  *matcher
	}
	rnd := rand.New(rand.NewPCG(seed, 0))
	var tried []one
	windows, seen := 0, 0
	for _, x := range all {
		for i, at := range append([]time.Time{time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)}, x.times...) {
			if rnd.IntN(share) > 0 {
				continue
			}
			windows++
			_, before := at.Add(-time.Second).In(x.zone.Location).Zone()
			_, after := at.In(x.zone.Location).Zone()
			jump := time.Duration(after-before) * time.Second
			var o one
			if len(tried) < expressions {
				near := at.Add(time.Duration(before)*time.Second + time.Duration(rnd.Int64N(int64(jump.Abs())+1)) - max(0, -jump)).UTC()
				var err error
				for o.expr = random(rnd, near); ; o.expr = random(rnd, near) {
					if o.schedule, err = parseSchedule(o.expr, "", ""); err == nil {
						break
					}
					if !strings.Contains(err.Error(), "never comes") {
						t.Fatal(err)
					}
				}
				o.matcher = newMatcher(o.expr)
				tried = append(tried, o)
			} else {
				o = tried[rnd.IntN(len(tried))]
			}
			o.schedule.zone = x.zone
			margin := time.Hour + jump.Abs()
			from, to := at.Add(-margin), at.Add(margin)
			begin := from
			if i > 1 && from.Sub(x.times[i-2]) < 50*time.Hour {
				begin = x.times[i-2].Add(-50 * time.Hour)
			}
			want := o.matcher.planned(x.zone.Location, begin.Add(-time.Minute).Truncate(time.Minute), from, to)
			var got, back []time.Time
			for p := o.schedule.next(from.Add(-1)); !p.IsZero() && p.Before(to); p = o.schedule.next(p) {
				got = append(got, p)
			}
			for p := o.schedule.prev(to); !p.IsZero() && !p.Before(from); p = o.schedule.prev(p) {
				back = append(back, p)
			}
			slices.Reverse(back)
			if !slices.Equal(got, want) || !slices.Equal(back, want) {
				t.Fatalf("%q in %s around %v (clock is set by %v):\nnext says %v\nprev says %v\n    want  %v", o.expr, x.zone, at, jump, got, back, want)
			}
			seen += len(want)
		}
	}
	t.Logf("%d zones, %d windows, %d expressions, %d planned times", len(all), windows, len(tried), seen)
	if len(tried) < expressions || seen < windows {
		t.Error("that is too little")
	}
}

// The list of zones is that of the time package.
func TestZoneNames(t *testing.T) {
	t.Parallel()
	names := strings.Fields(zoneNames)
	if !slices.IsSorted(names) || len(names) < 590 {
		t.Errorf("%d zones, or not in order", len(names))
	}
	for _, name := range names {
		if _, err := loadZone(name, ""); err != nil {
			t.Error(err)
		}
	}
}

// The cases people ask about.
func TestClocksThatAreSet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		zone, expr, after string
		want              []string
	}{
		// Berlin goes from 02:00 to 03:00 at 01:00 UTC.
		{"Europe/Berlin", "30 2 * * *", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:30:00Z"}},
		{"Europe/Berlin", "*/15 2 * * *", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-30T00:00:00Z"}},
		{"Europe/Berlin", "0,30 2,3 * * *", "2026-03-28T12:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-29T01:30:00Z", "2026-03-30T00:00:00Z"}},
		{"Europe/Berlin", "30 * * * *", "2026-03-29T00:00:00Z", []string{"2026-03-29T00:30:00Z", "2026-03-29T01:30:00Z", "2026-03-29T02:30:00Z"}},
		// And back from 03:00 to 02:00 at 01:00 UTC.
		{"Europe/Berlin", "30 2 * * *", "2026-10-24T12:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-26T01:30:00Z"}},
		{"Europe/Berlin", "30 2 * * *", "2026-10-25T00:30:00Z", []string{"2026-10-26T01:30:00Z"}},
		{"Europe/Berlin", "30 * * * *", "2026-10-25T00:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"}},
		{"Europe/Berlin", "30 0-23 * * *", "2026-10-25T00:00:00Z", []string{"2026-10-25T00:30:00Z", "2026-10-25T01:30:00Z", "2026-10-25T02:30:00Z"}},
		{"Europe/Berlin", "0 */2 * * *", "2026-10-24T22:30:00Z", []string{"2026-10-25T00:00:00Z", "2026-10-25T03:00:00Z"}},
		{"Europe/Berlin", "15 30 2 29 3 *", "2026-01-01T00:00:00Z", []string{"2026-03-29T01:00:00Z", "2027-03-29T00:30:15Z"}},
		// Lord Howe goes by half an hour, from 02:00 to 02:30 and back.
		{"Australia/Lord_Howe", "15 2 * * *", "2026-10-02T16:00:00Z", []string{"2026-10-03T15:30:00Z", "2026-10-04T15:15:00Z"}},
		{"Australia/Lord_Howe", "45 1 * * *", "2026-04-04T12:00:00Z", []string{"2026-04-04T14:45:00Z", "2026-04-05T15:15:00Z"}},
		{"Australia/Lord_Howe", "45 * * * *", "2026-04-04T14:00:00Z", []string{"2026-04-04T14:45:00Z", "2026-04-04T15:15:00Z", "2026-04-04T16:15:00Z"}},
		// São Paulo had no midnight on such days, Samoa no 30 December 2011.
		{"America/Sao_Paulo", "0 0 * * *", "2018-11-03T12:00:00Z", []string{"2018-11-04T03:00:00Z", "2018-11-05T02:00:00Z"}},
		{"Pacific/Apia", "0 9 * * *", "2011-12-29T12:00:00Z", []string{"2011-12-29T19:00:00Z", "2011-12-30T10:00:00Z", "2011-12-30T19:00:00Z"}},
		{"Pacific/Apia", "0 0 30 12 *", "2011-12-29T12:00:00Z", []string{"2011-12-30T10:00:00Z", "2012-12-29T10:00:00Z"}},
		// Kwajalein had no 21 August 1993, and 30 September 1969 for nearly two days.
		{"Pacific/Kwajalein", "0 12 * * *", "1993-08-20T12:00:00Z", []string{"1993-08-21T00:00:00Z", "1993-08-21T12:00:00Z", "1993-08-22T00:00:00Z"}},
		// Troll goes by two hours.
		{"Antarctica/Troll", "30 1 * * *", "2026-03-29T00:00:00Z", []string{"2026-03-29T01:00:00Z", "2026-03-29T23:30:00Z"}},
		// Package time says of this day that its span has ended before it began.
		{"Europe/Berlin", "0 2 * * *", "2040-12-30T12:00:00Z", []string{"2040-12-31T01:00:00Z", "2041-01-01T01:00:00Z"}},
		{"America/New_York", "0 * * * *", "2028-12-31T22:30:00Z", []string{"2028-12-31T23:00:00Z", "2029-01-01T00:00:00Z"}},
		// An interval knows no zone.
		{"Europe/Berlin", "@every 90m", "2026-03-29T00:00:00Z", []string{"2026-03-29T01:30:00Z", "2026-03-29T03:00:00Z"}},
		{"", "@every 7s", "1969-12-31T23:59:50Z", []string{"1969-12-31T23:59:53Z", "1970-01-01T00:00:00Z", "1970-01-01T00:00:07Z"}},
		{"Asia/Tokyo", "@daily", "2026-03-02T00:00:00Z", []string{"2026-03-02T15:00:00Z"}},
		{"", "@hourly", "2026-03-02T00:00:00Z", []string{"2026-03-02T01:00:00Z"}},
		{"", "*/20 * * * * *", "2026-03-02T00:00:00Z", []string{"2026-03-02T00:00:20Z", "2026-03-02T00:00:40Z", "2026-03-02T00:01:00Z"}},
	} {
		s, err := parseSchedule(test.expr, test.zone, "")
		if err != nil {
			t.Errorf("%q in %s: %v", test.expr, test.zone, err)
			continue
		}
		at := must(time.Parse(time.RFC3339, test.after))
		var got []string
		for range test.want {
			at = s.next(at)
			got = append(got, at.Format(time.RFC3339))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%q in %s: %v, want %v", test.expr, test.zone, got, test.want)
		}
		for i := len(got) - 2; i >= 0; i-- {
			if at = s.prev(at); at.Format(time.RFC3339) != got[i] {
				t.Errorf("%q in %s: before %s comes %v, want %s", test.expr, test.zone, got[i+1], at, got[i])
			}
		}
	}
}

func genField(low, high int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		part := func() string {
			switch a := rapid.IntRange(low, high).Draw(t, "a"); rapid.IntRange(0, 5).Draw(t, "form") {
			case 0, 1:
				return "*"
			case 2:
				return fmt.Sprintf("*/%d", rapid.IntRange(1, high-low).Draw(t, "step"))
			case 3:
				return fmt.Sprintf("%d-%d", a, rapid.IntRange(low, high).Draw(t, "b"))
			default:
				return strconv.Itoa(a)
			}
		}
		parts := []string{part()}
		for rapid.IntRange(0, 3).Draw(t, "more") == 0 {
			parts = append(parts, part())
		}
		return strings.Join(parts, ",")
	})
}

var genSchedule = rapid.Custom(func(t *rapid.T) string {
	out := []string{
		genField(0, 59).Draw(t, "minute"), genField(0, 23).Draw(t, "hour"), genField(1, 31).Draw(t, "day"),
		genField(1, 12).Draw(t, "month"), genField(0, 6).Draw(t, "weekday"),
	}
	if rapid.IntRange(0, 3).Draw(t, "seconds") == 0 {
		out = append([]string{genField(0, 59).Draw(t, "second")}, out...)
	}
	return strings.Join(out, " ")
})

var genTime = rapid.Custom(func(t *rapid.T) time.Time {
	return time.Unix(0, rapid.Int64Range(monday.UnixNano(), monday.AddDate(8, 0, 0).UnixNano()).Draw(t, "time")).UTC()
})

// In UTC, next is the first second that matches, and prev the last.
func TestNextAndPrevAreTheNearest(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		expr, from := genSchedule.Draw(t, "schedule"), genTime.Draw(t, "from")
		s, err := parseSchedule(expr, "", "")
		if err != nil {
			if !strings.Contains(err.Error(), "never comes") {
				t.Fatalf("%q: %v", expr, err)
			}
			return
		}
		m := newMatcher(expr)
		const horizon = 60 * 24 * time.Hour
		// Minutes that have no second that matches are passed over.
		minute := func(at time.Time) bool {
			for second, ok := range m.sets[0] {
				if ok {
					return m.matches(at.Truncate(time.Minute).Add(time.Duration(second) * time.Second))
				}
			}
			return false
		}
		var after, before time.Time
		for at := from.Truncate(time.Second).Add(time.Second); at.Sub(from) < horizon; {
			if minute(at) {
				if m.matches(at) {
					after = at
					break
				}
				at = at.Add(time.Second)
			} else {
				at = at.Truncate(time.Minute).Add(time.Minute)
			}
		}
		for at := from.Add(-1).Truncate(time.Second); from.Sub(at) < horizon; {
			if minute(at) {
				if m.matches(at) {
					before = at
					break
				}
				at = at.Add(-time.Second)
			} else {
				at = at.Truncate(time.Minute).Add(-time.Second)
			}
		}
		if got := s.next(from); !got.Equal(after) && (!after.IsZero() || got.Sub(from) < horizon) {
			t.Fatalf("%q after %v: %v, want %v", expr, from, got, after)
		}
		if got := s.prev(from); !got.Equal(before) && (!before.IsZero() || !got.IsZero() && from.Sub(got) < horizon) {
			t.Fatalf("%q before %v: %v, want %v", expr, from, got, before)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestScheduleErrorsPointAtTheField(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ expr, zone, field, want string }{
		{"", "", "schedule", "is empty"},
		{"   ", "", "schedule", "is empty"},
		{"* * * *", "", "schedule", "has 4 fields"},
		{"0 0 * * * * *", "", "schedule", "has 7 fields"},
		{"61 * * * *", "", "schedule", `minute "61"`},
		{"61 * * * * *", "", "schedule", `second "61"`},
		{"* 24 * * *", "", "schedule", `hour "24"`},
		{"* * 32 * *", "", "schedule", `day of month "32"`},
		{"* * 0 * *", "", "schedule", `day of month "0"`},
		{"* * * 13 *", "", "schedule", `month "13"`},
		{"* * * * 8", "", "schedule", `day of week "8"`},
		{"* * * * MON#1", "", "schedule", `day of week "MON#1"`},
		{"* * L * *", "", "schedule", `day of month "L"`},
		{"H * * * *", "", "schedule", `minute "H"`},
		{"a * * * *", "", "schedule", `minute "a"`},
		{"*/0 * * * *", "", "schedule", `minute "*/0"`},
		{"*/99 * * * *", "", "schedule", `minute "*/99"`},
		{"-1 * * * *", "", "schedule", `minute "-1"`},
		{"@reboot", "", "schedule", `"@reboot" is not known; want @yearly`},
		{"@daily 5", "", "schedule", `"@daily 5" is not known`},
		{"@every", "", "schedule", `takes one duration; want whole seconds from 1s`},
		{"@every 1h 30m", "", "schedule", "takes one duration"},
		{"@every fortnight", "", "schedule", `"fortnight" cannot be read`},
		{"@every 1500ms", "", "schedule", "is 1.5s; want whole seconds"},
		{"@every 0s", "", "schedule", "is 0s; want whole seconds"},
		{"@every -5m", "", "schedule", "is -5m0s; want whole seconds"},
		{"TZ=Asia/Tokyo 0 0 * * *", "", "schedule", `leave out "TZ=Asia/Tokyo" and set job.time_zone`},
		{"CRON_TZ=UTC 0 0 * * *", "", "schedule", "set job.time_zone"},
		{"0 0 30 2 *", "", "schedule", "never comes"},
		{"0 0 31 4,6,9,11 *", "Europe/Berlin", "schedule", "never comes"},
		{"0 * 30 2 *", "Europe/Berlin", "schedule", "never comes"},
		{"* * * * *", "berlin", "time_zone", `is "berlin"; want an IANA name such as Europe/Berlin`},
		{"* * * * *", "Europe/Zurrich", "time_zone", "such as Europe/Zurich"},
		{"* * * * *", "america/new york", "time_zone", "such as America/New_York"},
		{"* * * * *", "Local", "time_zone", "or nothing for UTC"},
		{"* * * * *", "right/UTC", "time_zone", "IANA name"},
		{"* * * * *", "../../etc/passwd", "time_zone", "IANA name"},
		{"* * * * *", "UTC+2", "time_zone", "IANA name"},
	} {
		_, err := parseSchedule(test.expr, test.zone, "job.")
		var e *errs.Error
		if !errors.As(err, &e) || !errors.Is(err, errs.InvalidArgument) || len(e.Violations()) != 1 || e.Violations()[0].Field != "job."+test.field ||
			!strings.Contains(e.Violations()[0].Description, test.want) {
			t.Errorf("%q in %q: %v; want a violation of job.%s that says %s", test.expr, test.zone, err, test.field, test.want)
		}
	}
	for _, expr := range []string{
		"0 */6 * * *", "  0  0 * * *  ", "0 3 1-7 * MON", "0 0 29 2 1", "*/5 8-18 * JAN-MAR,dec mon-fri", "0 0 * * 7", "0 0 ? * *", "30 0 22-2 * * *",
		"@yearly", "@annually", "@Monthly", "@weekly", "@daily", "@midnight", "@hourly", "@every 1s", "@every 1h30m", " @EVERY  90m ",
	} {
		if _, err := parseSchedule(expr, "Europe/Berlin", ""); err != nil {
			t.Errorf("%q: %v", expr, err)
		}
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, s := range []string{"0 */6 * * *", "@daily", "@every 5m", "TZ=UTC * * * * *", "1-59/2 22-2 1,15 JAN-DEC sun", "* * * * * *", "\x00", "0 0 29 2 1", "0 0 0 * * 1 2"} {
		f.Add(s, "")
		f.Add(s, "Pacific/Apia")
	}
	f.Add("* * * * *", "../zone")
	f.Fuzz(func(t *testing.T, expr, zone string) {
		if len(expr) > 200 || len(zone) > 64 {
			return
		}
		s, err := parseSchedule(expr, zone, "job.")
		if err != nil {
			var e *errs.Error
			if !errors.As(err, &e) || !errors.Is(err, errs.InvalidArgument) || len(e.Violations()) != 1 || !strings.HasPrefix(e.Violations()[0].Field, "job.") {
				t.Fatalf("%q in %q: %v", expr, zone, err)
			}
			return
		}
		at := monday
		for range 3 {
			next := s.next(at)
			if next.IsZero() {
				return
			}
			if !next.After(at) || next.Nanosecond() != 0 || next.Location() != time.UTC {
				t.Fatalf("%q in %q after %v: %v", expr, zone, at, next)
			}
			if back := s.prev(next.Add(1)); !back.Equal(next) {
				t.Fatalf("%q in %q before %v: %v", expr, zone, next.Add(1), back)
			}
			at = next
		}
	})
}

func BenchmarkNext(b *testing.B) {
	for _, test := range []struct{ name, expr, zone string }{
		{"every", "@every 90m", ""}, {"six-hours", "0 */6 * * *", ""}, {"six-hours-Berlin", "0 */6 * * *", "Europe/Berlin"},
		{"hourly-Berlin", "7 * * * *", "Europe/Berlin"}, {"seconds", "*/10 * * * * *", ""}, {"first-Monday-Berlin", "0 3 1-7 * MON", "Europe/Berlin"},
		{"leap-Monday-Berlin", "0 3 29 2 MON", "Europe/Berlin"}, {"leap-Monday-hourly-Berlin", "0 * 29 2 MON", "Europe/Berlin"},
	} {
		s := must(parseSchedule(test.expr, test.zone, ""))
		b.Run(test.name, func(b *testing.B) {
			t := monday
			for b.Loop() {
				if t = s.next(t); t.IsZero() || t.Year() > 2300 {
					t = monday
				}
			}
		})
		b.Run(test.name+"-back", func(b *testing.B) {
			t := monday
			for b.Loop() {
				if t = s.prev(t); t.IsZero() || t.Year() < 1990 {
					t = monday
				}
			}
		})
	}
}
