package scheduler

import (
	"fmt"
	"strings"
	"time"

	"github.com/netresearch/go-cron"

	"nightshift.dev/pkg/errs"
)

// schedule is a set of planned times, given by a cron expression of five
// fields over the UTC clock. A time is planned when all five match: day of
// month and day of week too are both asked, unlike in some other crons, where
// either is enough. Since UTC has no summer time, no hour is missing or twice.
type schedule struct{ cron cron.Schedule }

// fields of an expression, in order, with what may stand there.
var fields = [5]struct{ name, want string }{
	{"minute", "0-59"},
	{"hour", "0-23"},
	{"day of month", "1-31"},
	{"month", "1-12 or JAN-DEC"},
	{"day of week", "0-7 or SUN-SAT, where 0 and 7 are Sunday"},
}

// shorthands are often tried; the answer says what they stand for.
var shorthands = map[string]string{
	"@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *", "@monthly": "0 0 1 * *", "@weekly": "0 0 * * 0",
	"@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@hourly": "0 * * * *",
}

// parser looks far enough ahead for every expression that ever fires: 29
// February falls on a given weekday at least once in 40 years.
var parser = cron.MustNewParser(cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow).WithMaxSearchYears(40)

// parseSchedule reads a cron expression. The error names field, which is where
// the request has the expression, and says what would be right.
func parseSchedule(expr, field string) (schedule, error) {
	bad := func(format string, args ...any) (schedule, error) {
		return schedule{}, errs.New(errs.InvalidArgument, "BAD_SCHEDULE", "the schedule cannot be read").Field(field, format, args...)
	}
	parts := strings.Fields(expr)
	switch {
	case len(parts) == 0:
		return bad(`is empty; want five fields such as "0 */6 * * *"`)
	case strings.HasPrefix(parts[0], "@"):
		if same := shorthands[strings.ToLower(parts[0])]; same != "" {
			return bad("%q is not supported; write %q", expr, same)
		}
		return bad(`%q is not supported; want five fields such as "0 */6 * * *"`, expr)
	case strings.Contains(parts[0], "TZ="):
		return bad("a time zone is not supported: schedules are in UTC; leave out %q", parts[0])
	case len(parts) != len(fields):
		return bad(`has %d fields; want five, minute, hour, day of month, month and day of week, such as "0 */6 * * *"`, len(parts))
	}
	for i, part := range parts {
		alone := []string{"*", "*", "*", "*", "*"}
		alone[i] = part
		if _, err := parser.Parse(strings.Join(alone, " ")); err != nil {
			return bad("%s %q is not valid: %v; want %s, *, or lists, ranges and steps of these such as 1,5 or 1-5 or */2", fields[i].name, part, err, fields[i].want)
		}
	}
	c, err := parser.Parse(strings.Join(parts, " "))
	if err != nil {
		return bad("%v", err)
	}
	s := schedule{c}
	if s.next(time.Now()).IsZero() {
		return bad("%q never comes: no such day exists", expr)
	}
	return s, nil
}

// next is the first planned time after t, or zero when there is none.
func (s schedule) next(t time.Time) time.Time { return s.cron.Next(t.UTC()) }

// startDeadline is how late a planned time is still acted on. A job whose
// planned times passed while nothing could fire runs once, for the latest of
// them, if that is no older than this; otherwise it waits for its next one.
const startDeadline = 12 * time.Hour

// plan decides what a job that last fired, or was armed, at base does next:
// at the returned time it fires for that time. Of several that are past, only
// the latest is acted on.
func (s schedule) plan(base, now time.Time) time.Time {
	if oldest := now.Add(-startDeadline - time.Nanosecond); base.Before(oldest) {
		base = oldest
	}
	p := s.next(base)
	for !p.IsZero() {
		after := s.next(p)
		if after.IsZero() || after.After(now) {
			break
		}
		p = after
	}
	return p
}

// runID names the run of a planned time.
func runID(job string, planned time.Time) string {
	return fmt.Sprintf("%s/%s", job, planned.UTC().Format(time.RFC3339))
}
