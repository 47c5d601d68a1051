package scheduler

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/errs"
)

// timetable is all that decides when a job fires: its schedule within its
// bounds, how much later than planned, and what becomes of planned times that
// passed while nothing could fire.
type timetable struct {
	schedule
	start, end time.Time     // no planned time lies before or after; zero: no bound
	offset     time.Duration // from planned to firing
	limit      int           // how many planned times that have passed fire, the newest
	deadline   time.Duration // how late a planned time may still fire
}

// Defaults of a job's misfire policy.
const (
	defaultMisfireLimit    = 100
	defaultMisfireDeadline = 12 * time.Hour
	// skipDeadline makes lateness of misfires: what comes later than this is skipped.
	skipDeadline = time.Minute
)

// parseTimetable reads what a job says of its times. Errors name fields after
// the prefix.
func parseTimetable(j *jobv1.Job, prefix string) (timetable, error) {
	s, err := parseSchedule(j.GetSchedule(), j.GetTimeZone(), prefix)
	if err != nil {
		return timetable{}, err
	}
	t := timetable{schedule: s, limit: 1, deadline: defaultMisfireDeadline, offset: jitter(j.GetName(), j.GetJitter().AsDuration())}
	for _, bound := range []struct {
		name string
		from *timestamppb.Timestamp
		to   *time.Time
	}{{"start_time", j.GetStartTime(), &t.start}, {"end_time", j.GetEndTime(), &t.end}} {
		if bound.from == nil {
			continue
		}
		if err := bound.from.CheckValid(); err != nil {
			return timetable{}, errs.New(errs.InvalidArgument, "BAD_TIME", "the time cannot be used").Field(prefix+bound.name, "%v", err)
		}
		*bound.to = bound.from.AsTime()
	}
	if !t.end.IsZero() && t.end.Before(t.start) {
		return timetable{}, errs.New(errs.InvalidArgument, "BAD_TIME_RANGE", "the job ends before it starts").
			Field(prefix+"end_time", "is %s, before start_time %s; want a later one, or none", t.end.Format(time.RFC3339), t.start.Format(time.RFC3339))
	}
	switch j.GetMisfire().GetPolicy() {
	case jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL:
		if t.limit = int(j.GetMisfire().GetLimit()); t.limit <= 0 {
			t.limit = defaultMisfireLimit
		}
	case jobv1.MisfirePolicy_MISFIRE_POLICY_SKIP:
		t.deadline = skipDeadline
	}
	if d := j.GetMisfire().GetDeadline(); d != nil {
		t.deadline = d.AsDuration()
	}
	return t, nil
}

// jitter is a job's part of the most it may fire late, in [0, most): the same
// at every replica and every time, and spread evenly over jobs.
func jitter(job string, most time.Duration) time.Duration {
	if most <= 0 {
		return 0
	}
	sum := sha256.Sum256([]byte(job))
	part, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:]), uint64(most))
	return time.Duration(part)
}

// next is the first planned time after t within the bounds, or zero.
func (t timetable) next(after time.Time) time.Time {
	if after.Before(t.start) {
		after = t.start.Add(-1)
	}
	p := t.schedule.next(after)
	if !t.end.IsZero() && p.After(t.end) {
		return time.Time{}
	}
	return p
}

// prev is the last planned time before t within the bounds, or zero.
func (t timetable) prev(before time.Time) time.Time {
	if !t.end.IsZero() && before.After(t.end) {
		before = t.end.Add(1)
	}
	p := t.schedule.prev(before)
	if p.Before(t.start) {
		return time.Time{}
	}
	return p
}

// plan decides what a job that last fired, or was armed, at base does next: it
// fires for the returned planned time, at that time and the offset. Of several
// that have passed and are not too late, the newest fire, as many as the limit
// says, the oldest of them first.
//
// It looks back from now, so that the length of an outage costs nothing. The
// second result are all that have passed and are to fire, to be handed in as
// known the next time, so that to go through them is not to search them anew
// each time.
func (t timetable) plan(known []time.Time, base, now time.Time) (time.Time, []time.Time) {
	now = now.Add(-t.offset)
	if oldest := now.Add(-t.deadline - 1); base.Before(oldest) {
		base = oldest
	}
	first := t.next(base)
	if first.IsZero() || first.After(now) {
		return first, nil
	}
	if t.limit == 1 {
		return t.prev(now.Add(1)), nil
	}
	passed, _ := slices.BinarySearchFunc(known, base.Add(1), time.Time.Compare)
	known = known[passed:]
	if len(known) > 0 && !known[len(known)-1].After(now) {
		if newer := t.next(known[len(known)-1]); newer.IsZero() || newer.After(now) {
			return known[0], known
		}
	}
	known = nil
	for p := t.prev(now.Add(1)); p.After(base) && len(known) < t.limit; p = t.prev(p) {
		known = append(known, p)
	}
	slices.Reverse(known)
	return known[0], known
}

// mostMissed is how far missed times are counted.
const mostMissed = 1000

// missed tells the planned times between base and the one that fires; nil when
// there are none.
func (t timetable) missed(base, fires time.Time) *jobv1.MissedTimes {
	p := t.next(base)
	if p.IsZero() || !p.Before(fires) {
		return nil
	}
	m := &jobv1.MissedTimes{FirstTime: timestamppb.New(p), LastTime: timestamppb.New(t.prev(fires))}
	for ; p.Before(fires) && m.Count < mostMissed; p = t.next(p) {
		m.Count++
	}
	return m
}

// runID names the run of a planned time.
func runID(job string, planned time.Time) string {
	return fmt.Sprintf("%s/%s", job, planned.UTC().Format(time.RFC3339))
}
