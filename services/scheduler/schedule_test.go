package scheduler

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"nightshift.dev/pkg/errs"
)

// matcher is what a schedule means, said as plainly as possible: a minute is
// planned when all five fields hold its value. It reads numbers, lists, ranges
// and steps.
func matcher(expr string) func(time.Time) bool {
	lows, highs := []int{0, 0, 1, 1, 0}, []int{59, 23, 31, 12, 6}
	var sets [5][60]bool
	for i, field := range strings.Fields(expr) {
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
			for v := low; v <= high; v += by {
				sets[i][v] = true
			}
		}
	}
	return func(t time.Time) bool {
		return sets[0][t.Minute()] && sets[1][t.Hour()] && sets[2][t.Day()] && sets[3][t.Month()] && sets[4][t.Weekday()]
	}
}

func matches(expr string, t time.Time) bool { return matcher(expr)(t) }

func genField(low, high int) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		part := func() string {
			switch a := rapid.IntRange(low, high).Draw(t, "a"); rapid.IntRange(0, 5).Draw(t, "form") {
			case 0, 1:
				return "*"
			case 2:
				return fmt.Sprintf("*/%d", rapid.IntRange(1, high-low).Draw(t, "step"))
			case 3:
				b := rapid.IntRange(a, high).Draw(t, "b")
				return fmt.Sprintf("%d-%d", a, b)
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
	return strings.Join([]string{
		genField(0, 59).Draw(t, "minute"), genField(0, 23).Draw(t, "hour"), genField(1, 31).Draw(t, "day"),
		genField(1, 12).Draw(t, "month"), genField(0, 6).Draw(t, "weekday"),
	}, " ")
})

var genTime = rapid.Custom(func(t *rapid.T) time.Time {
	return time.Unix(0, rapid.Int64Range(monday.UnixNano(), monday.AddDate(8, 0, 0).UnixNano()).Draw(t, "time")).UTC()
})

func TestNextIsTheFirstMinuteThatMatches(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		expr, from := genSchedule.Draw(t, "schedule"), genTime.Draw(t, "from")
		s, err := parseSchedule(expr, "schedule")
		if err != nil {
			if !strings.Contains(err.Error(), "never comes") {
				t.Fatalf("%q: %v", expr, err)
			}
			s = schedule{must(parser.Parse(expr))}
		}
		planned := matcher(expr)
		const horizon = 60 * 24 * time.Hour
		var want time.Time
		for m := from.Truncate(time.Minute).Add(time.Minute); m.Sub(from) < horizon; m = m.Add(time.Minute) {
			if planned(m) {
				want = m
				break
			}
		}
		got := s.next(from)
		if want.IsZero() {
			if !got.IsZero() && got.Sub(from) < horizon {
				t.Fatalf("%q after %v: %v, which does not match", expr, from, got)
			}
			return
		}
		if !got.Equal(want) {
			t.Fatalf("%q after %v: %v, want %v", expr, from, got, want)
		}
	})
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// plan is next, as long as nothing was missed; of what was missed it is the
// latest, unless that is too old.
func TestPlan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		expr := genSchedule.Draw(t, "schedule")
		s, err := parseSchedule(expr, "schedule")
		if err != nil {
			return
		}
		base := genTime.Draw(t, "base")
		now := base.Add(time.Duration(rapid.Int64Range(0, int64(3*startDeadline)).Draw(t, "late")))
		planned := matcher(expr)
		got := s.plan(base, now)
		var want time.Time
		for m := now.Truncate(time.Minute); m.After(base) && now.Sub(m) <= startDeadline; m = m.Add(-time.Minute) {
			if planned(m) {
				want = m
				break
			}
		}
		if want.IsZero() {
			want = s.next(now)
		}
		if !got.Equal(want) {
			t.Fatalf("%q, base %v, now %v: %v, want %v", expr, base, now, got, want)
		}
	})
}

func TestScheduleErrorsPointAtTheField(t *testing.T) {
	t.Parallel()
	for expr, want := range map[string]string{
		"":                        "is empty",
		"   ":                     "is empty",
		"* * * *":                 "has 4 fields",
		"0 0 * * * *":             "has 6 fields",
		"61 * * * *":              `minute "61"`,
		"* 24 * * *":              `hour "24"`,
		"* * 32 * *":              `day of month "32"`,
		"* * 0 * *":               `day of month "0"`,
		"* * * 13 *":              `month "13"`,
		"* * * * 8":               `day of week "8"`,
		"* * * * MON#1":           `day of week "MON#1"`,
		"* * L * *":               `day of month "L"`,
		"H * * * *":               `minute "H"`,
		"a * * * *":               `minute "a"`,
		"*/0 * * * *":             `minute "*/0"`,
		"*/99 * * * *":            `minute "*/99"`,
		"-1 * * * *":              `minute "-1"`,
		"@daily":                  `write "0 0 * * *"`,
		"@every 5m":               "not supported",
		"TZ=Asia/Tokyo 0 0 * * *": "schedules are in UTC",
		"CRON_TZ=UTC 0 0 * * *":   "schedules are in UTC",
		"0 0 30 2 *":              "never comes",
		"0 0 31 4,6,9,11 *":       "never comes",
	} {
		_, err := parseSchedule(expr, "job.schedule")
		var e *errs.Error
		if !errors.As(err, &e) || !errors.Is(err, errs.InvalidArgument) || len(e.Violations()) != 1 || e.Violations()[0].Field != "job.schedule" ||
			!strings.Contains(e.Violations()[0].Description, want) {
			t.Errorf("%q: %v; want a violation of job.schedule that says %s", expr, err, want)
		}
	}
	for _, expr := range []string{"0 */6 * * *", "  0  0 * * *  ", "0 3 1-7 * MON", "0 0 29 2 1", "*/5 8-18 * JAN-MAR,dec mon-fri", "0 0 * * 7", "0 0 ? * *"} {
		if _, err := parseSchedule(expr, "schedule"); err != nil {
			t.Errorf("%q: %v", expr, err)
		}
	}
}

func FuzzParseSchedule(f *testing.F) {
	for _, s := range []string{"0 */6 * * *", "@daily", "TZ=UTC * * * * *", "1-59/2 22-2 1,15 JAN-DEC sun", "* * * * * *", "\x00", "0 0 29 2 1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, expr string) {
		if len(expr) > 200 {
			return
		}
		s, err := parseSchedule(expr, "schedule")
		if err != nil {
			if !errors.Is(err, errs.InvalidArgument) {
				t.Fatalf("%q: %v", expr, err)
			}
			return
		}
		at := monday
		for range 3 {
			next := s.next(at)
			if next.IsZero() {
				return
			}
			if !next.After(at) || next.Second() != 0 || next.Nanosecond() != 0 || next.Location() != time.UTC {
				t.Fatalf("%q after %v: %v", expr, at, next)
			}
			at = next
		}
	})
}
