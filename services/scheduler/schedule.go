package scheduler

import (
	"fmt"
	"math/bits"
	"strings"
	"time"

	"github.com/netresearch/go-cron"

	"nightshift.dev/pkg/errs"
)

// schedule is a set of planned times: a cron expression over the wall clock of
// a zone, or the multiples of an interval.
//
// A wall clock's reading is planned when all fields match: day of month and day
// of week too are both asked, unlike in some other crons, where either is
// enough. The expression is evaluated as if clocks were never set, and the zone
// says when a reading comes (see zone.reach). An hour of *, though, means every
// hour that passes: there every time is planned whose reading matches.
type schedule struct {
	cron   *cron.SpecSchedule // over readings; nil with an interval
	zone   zone
	hourly bool  // every hour matches
	every  int64 // seconds; 0 with an expression
}

// fields of an expression, in order, with what may stand there. The first may
// be left out.
var fields = [6]struct{ name, want string }{
	{"second", "0-59"},
	{"minute", "0-59"},
	{"hour", "0-23"},
	{"day of month", "1-31"},
	{"month", "1-12 or JAN-DEC"},
	{"day of week", "0-7 or SUN-SAT, where 0 and 7 are Sunday"},
}

// shorthands are names for common expressions.
var shorthands = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

var parser = cron.MustNewParser(cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow)

// searched is far enough for every expression that ever fires: 29 February
// falls on a given weekday at least once in 40 years.
const searched = 41 * 366 * day

const wantSchedule = `want five fields such as "0 */6 * * *", six with the second first, @daily and the like, or "@every 90m"`

// parseSchedule reads an expression and the zone it is meant in. The error
// names the field of the request that is wrong, which is schedule or time_zone
// after the prefix, and says what would be right.
func parseSchedule(expr, zoneName, prefix string) (schedule, error) {
	z, err := loadZone(zoneName, prefix+"time_zone")
	if err != nil {
		return schedule{}, err
	}
	bad := func(format string, args ...any) (schedule, error) {
		return schedule{}, errs.New(errs.InvalidArgument, "BAD_SCHEDULE", "the schedule cannot be read").Field(prefix+"schedule", format, args...)
	}
	parts := strings.Fields(expr)
	if len(parts) == 0 {
		return bad("is empty; " + wantSchedule)
	}
	switch first := strings.ToLower(parts[0]); {
	case first == "@every":
		every, problem := parseEvery(parts[1:])
		if problem != "" {
			return bad("%q: %s", expr, problem)
		}
		return schedule{every: every, zone: z}, nil
	case shorthands[first] != "" && len(parts) == 1:
		parts = strings.Fields(shorthands[first])
	case strings.HasPrefix(first, "@"):
		return bad("%q is not known; want @yearly, @monthly, @weekly, @daily, @hourly or \"@every 90m\", or five fields such as \"0 */6 * * *\"", expr)
	case strings.Contains(first, "tz="):
		return bad("a time zone does not belong here: leave out %q and set %stime_zone", parts[0], prefix)
	}
	switch len(parts) {
	case len(fields) - 1:
		parts = append([]string{"0"}, parts...)
	case len(fields):
	default:
		return bad("has %d fields; want five, minute, hour, day of month, month and day of week, such as \"0 */6 * * *\", or six with the second first", len(parts))
	}
	for i, part := range parts {
		alone := []string{"*", "*", "*", "*", "*", "*"}
		alone[i] = part
		if _, err := parser.Parse(strings.Join(alone, " ")); err != nil {
			return bad("%s %q is not valid: %v; want %s, *, or lists, ranges and steps of these such as 1,5 or 1-5 or */2", fields[i].name, part, err, fields[i].want)
		}
	}
	parsed, err := parser.Parse(strings.Join(parts, " "))
	if err != nil {
		return bad("%v", err)
	}
	const allHours = 1<<24 - 1
	c := parsed.(*cron.SpecSchedule)
	s := schedule{cron: c, zone: z, hourly: c.Hour&allHours == allHours}
	if s.next(time.Now()).IsZero() {
		return bad("%q never comes: no such day exists", expr)
	}
	return s, nil
}

// parseEvery reads what follows @every, as seconds.
func parseEvery(parts []string) (every int64, problem string) {
	const want = "want whole seconds from 1s, such as \"@every 90m\" or \"@every 1h30m\""
	if len(parts) != 1 {
		return 0, "@every takes one duration; " + want
	}
	d, err := time.ParseDuration(parts[0])
	switch {
	case err != nil:
		return 0, fmt.Sprintf("the duration %q cannot be read; %s", parts[0], want)
	case d < time.Second || d%time.Second != 0:
		return 0, fmt.Sprintf("the duration is %v; %s", d, want)
	}
	return int64(d / time.Second), ""
}

// The times that a Timestamp holds, and planned times with them.
var (
	earliest = time.Date(1, 1, 1, 0, 0, 0, 0, time.UTC).Unix()
	latest   = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC).Unix()
)

func planned(t int64) time.Time {
	if t < earliest || t > latest {
		return time.Time{}
	}
	return time.Unix(t, 0).UTC()
}

// next is the first planned time after t, or zero when there is none.
func (s schedule) next(after time.Time) time.Time {
	t := after.Unix()
	switch {
	case s.every > 0:
		return planned(t - mod(t, s.every) + s.every)
	case s.cron == nil:
		return time.Time{}
	case !s.hourly:
		reading, ok := s.nextReading(s.zone.shown(t))
		if !ok {
			return time.Time{}
		}
		return planned(s.zone.reach(reading))
	}
	for t++; ; {
		in := s.zone.at(t)
		reading, ok := s.nextReading(t + in.offset - 1)
		if !ok {
			return time.Time{}
		}
		if found := reading - in.offset; found < in.end {
			return planned(found)
		}
		// Beyond what a clock set back may repeat, nothing comes before this reading.
		if in.end-t > longestBack {
			in.end = max(in.end, reading-longestBack)
		}
		t = in.end
	}
}

// prev is the last planned time before t, or zero when there is none.
func (s schedule) prev(before time.Time) time.Time {
	t := before.Unix()
	if before.Nanosecond() == 0 {
		t--
	}
	switch {
	case s.every > 0:
		return planned(t - mod(t, s.every))
	case s.cron == nil:
		return time.Time{}
	case !s.hourly:
		reading, ok := s.prevReading(s.zone.shown(t) + 1)
		if !ok {
			return time.Time{}
		}
		return planned(s.zone.reach(reading))
	}
	for {
		in := s.zone.at(t)
		reading, ok := s.prevReading(t + in.offset + 1)
		if !ok {
			return time.Time{}
		}
		if found := reading - in.offset; found >= in.start {
			return planned(found)
		}
		if t-in.start > longestBack {
			in.start = min(in.start, reading+longestBack)
		}
		t = in.start - 1
	}
}

const day = 24 * 60 * 60

// nextReading is the first reading after one that matches the expression. The
// library's own search goes from minute to minute; this one goes from day to
// day and finds the time of day at once.
func (s schedule) nextReading(after int64) (int64, bool) {
	midnight, from := after+1-mod(after+1, day), mod(after+1, day)
	for end := midnight + searched; midnight < end && midnight < latest+farthest; from = 0 {
		date := time.Unix(midnight, 0).UTC()
		if !has(s.cron.Month, int(date.Month())) {
			midnight = time.Date(date.Year(), date.Month()+1, 1, 0, 0, 0, 0, time.UTC).Unix()
			continue
		}
		if has(s.cron.Dom, date.Day()) && has(s.cron.Dow, int(date.Weekday())) {
			if t, ok := s.timeFrom(from); ok {
				return midnight + t, true
			}
		}
		midnight += day
	}
	return 0, false
}

// prevReading is the last reading before one that matches the expression.
func (s schedule) prevReading(before int64) (int64, bool) {
	midnight, to := before-1-mod(before-1, day), mod(before-1, day)
	for end := midnight - searched; midnight > end && midnight > earliest-farthest; to = day - 1 {
		date := time.Unix(midnight, 0).UTC()
		if !has(s.cron.Month, int(date.Month())) {
			midnight = time.Date(date.Year(), date.Month(), 0, 0, 0, 0, 0, time.UTC).Unix()
			continue
		}
		if has(s.cron.Dom, date.Day()) && has(s.cron.Dow, int(date.Weekday())) {
			if t, ok := s.timeTo(to); ok {
				return midnight + t, true
			}
		}
		midnight -= day
	}
	return 0, false
}

// timeFrom is the first time of day at or after t, in seconds, that matches.
func (s schedule) timeFrom(t int64) (int64, bool) {
	hour, minute, second := int(t/3600), int(t/60%60), int(t%60)
	if h := first(s.cron.Hour, hour, 23); h != hour {
		hour, minute, second = h, 0, 0
	}
	if m := first(s.cron.Minute, minute, 59); m != minute && hour >= 0 {
		if minute, second = m, 0; m < 0 {
			hour, minute = first(s.cron.Hour, hour+1, 23), first(s.cron.Minute, 0, 59)
		}
	}
	if sec := first(s.cron.Second, second, 59); sec >= 0 || hour < 0 {
		second = sec
	} else {
		second = first(s.cron.Second, 0, 59)
		if minute = first(s.cron.Minute, minute+1, 59); minute < 0 {
			hour, minute = first(s.cron.Hour, hour+1, 23), first(s.cron.Minute, 0, 59)
		}
	}
	return int64(hour)*3600 + int64(minute)*60 + int64(second), hour >= 0
}

// timeTo is the last time of day at or before t, in seconds, that matches.
func (s schedule) timeTo(t int64) (int64, bool) {
	hour, minute, second := int(t/3600), int(t/60%60), int(t%60)
	if h := last(s.cron.Hour, hour); h != hour {
		hour, minute, second = h, 59, 59
	}
	if m := last(s.cron.Minute, minute); m != minute && hour >= 0 {
		if minute, second = m, 59; m < 0 {
			hour, minute = last(s.cron.Hour, hour-1), last(s.cron.Minute, 59)
		}
	}
	if sec := last(s.cron.Second, second); sec >= 0 || hour < 0 {
		second = sec
	} else {
		second = last(s.cron.Second, 59)
		if minute = last(s.cron.Minute, minute-1); minute < 0 {
			hour, minute = last(s.cron.Hour, hour-1), last(s.cron.Minute, 59)
		}
	}
	return int64(hour)*3600 + int64(minute)*60 + int64(second), hour >= 0
}

func has(set uint64, n int) bool { return set>>n&1 == 1 }

// first is the least member of a set from n to most, or -1.
func first(set uint64, n, most int) int {
	if set = set & (1<<(most+1) - 1) >> n << n; n > most || set == 0 {
		return -1
	}
	return bits.TrailingZeros64(set)
}

// last is the greatest member of a set up to n, or -1.
func last(set uint64, n int) int {
	if n < 0 {
		return -1
	}
	return bits.Len64(set&(1<<(n+1)-1)) - 1
}

// mod is the rest of a division, never negative.
func mod(a, b int64) int64 { return (a%b + b) % b }
