package scheduler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
)

// What passed while nothing could fire is gone through as the policy says: the
// newest so many within the deadline, oldest first, and each trigger tells
// what lies between it and the one before.
func TestPlan(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		expr := genSchedule.Draw(t, "schedule")
		if rapid.Bool().Draw(t, "interval") {
			expr = fmt.Sprintf("@every %ds", rapid.IntRange(30, 20000).Draw(t, "every"))
		}
		job := &jobv1.Job{Name: rapid.StringMatching("[a-z]{1,8}").Draw(t, "name"), Schedule: expr, Misfire: &jobv1.Misfire{}}
		deadline, limit := 12*time.Hour, 1
		switch job.Misfire.Policy = jobv1.MisfirePolicy(rapid.IntRange(0, 3).Draw(t, "policy")); job.Misfire.Policy {
		case jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL:
			limit = 100
			if rapid.Bool().Draw(t, "limited") {
				limit = rapid.IntRange(1, 7).Draw(t, "limit")
				job.Misfire.Limit = int32(limit)
			}
		case jobv1.MisfirePolicy_MISFIRE_POLICY_SKIP:
			deadline = time.Minute
		}
		if rapid.Bool().Draw(t, "deadline") {
			deadline = time.Duration(rapid.IntRange(1, 100_000).Draw(t, "seconds")) * time.Second
			job.Misfire.Deadline = durationpb.New(deadline)
		}
		if rapid.Bool().Draw(t, "jittered") {
			job.Jitter = durationpb.New(time.Hour)
		}
		base := genTime.Draw(t, "base")
		if rapid.IntRange(0, 3).Draw(t, "starts") == 0 {
			job.StartTime = timestamppb.New(base.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "start")) * time.Hour))
		}
		if rapid.IntRange(0, 3).Draw(t, "ends") == 0 {
			job.EndTime = timestamppb.New(base.Add(time.Duration(rapid.IntRange(20, 40).Draw(t, "end")) * time.Hour))
		}
		times, err := parseTimetable(job, "")
		if err != nil {
			return
		}
		now := base.Add(time.Duration(rapid.Int64Range(0, int64(40*time.Hour)).Draw(t, "late")))
		// All that is planned, in a list, and what of it is to fire.
		var all []time.Time
		s := times.schedule
		for p := s.next(base); !p.IsZero() && len(all) < 6000; p = s.next(p) {
			if (job.StartTime == nil || !p.Before(job.GetStartTime().AsTime())) && (job.EndTime == nil || !p.After(job.GetEndTime().AsTime())) {
				all = append(all, p)
			}
			if p.Sub(base) > 40*time.Hour {
				break
			}
		}
		if len(all) == 6000 {
			return // every second or so: too many to list
		}
		var want []time.Time
		for _, p := range all {
			if fires := p.Add(times.offset); !fires.After(now) && now.Sub(fires) <= deadline {
				want = append(want, p)
			}
		}
		want = want[max(0, len(want)-limit):]
		// Twice, for what is known the second time is not searched again.
		var known []time.Time
		for _, w := range want {
			for range 2 {
				var got time.Time
				if got, known = times.plan(known, base, now); !got.Equal(w) {
					t.Fatalf("%v after %v at %v: %v, want %v", job, base, now, got, w)
				}
			}
			missed := times.missed(base, w)
			between := slices.DeleteFunc(slices.Clone(all), func(p time.Time) bool { return !p.After(base) || !p.Before(w) })
			switch {
			case len(between) == 0:
				if missed != nil {
					t.Fatalf("%v: missed %v", job, missed)
				}
			case !missed.GetFirstTime().AsTime().Equal(between[0]) || !missed.GetLastTime().AsTime().Equal(between[len(between)-1]) || int(missed.GetCount()) != min(len(between), 1000):
				t.Fatalf("%v: missed %v, want %d from %v to %v", job, missed, len(between), between[0], between[len(between)-1])
			}
			base = w
		}
		got, _ := times.plan(known, base, now)
		for _, p := range all {
			if p.After(base) && p.Add(times.offset).After(now) {
				if !got.Equal(p) {
					t.Fatalf("%v after %v at %v: %v, want %v", job, base, now, got, p)
				}
				return
			}
		}
		if !got.IsZero() && got.Sub(base) < 30*time.Hour && got.Before(now) {
			t.Fatalf("%v after %v at %v: %v, want none", job, base, now, got)
		}
	})
}

// The length of an outage costs nothing.
func TestPlanAfterALongOutageIsQuick(t *testing.T) {
	t.Parallel()
	times, err := parseTimetable(&jobv1.Job{Name: "j", Schedule: "* * * * * *", Misfire: &jobv1.Misfire{
		Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL, Limit: 1000, Deadline: durationpb.New(720 * time.Hour),
	}}, "")
	if err != nil {
		t.Fatal(err)
	}
	now := monday.AddDate(1, 0, 0)
	begin := time.Now()
	base, known := monday, []time.Time(nil)
	for i := range 1000 {
		var p time.Time
		if p, known = times.plan(known, base, now); !p.Equal(now.Add(time.Duration(i-999) * time.Second)) {
			t.Fatalf("number %d is %v", i, p)
		}
		if i == 0 {
			if m := times.missed(base, p); m.GetCount() != mostMissed || !m.GetLastTime().AsTime().Equal(p.Add(-time.Second)) {
				t.Fatalf("missed %v", m)
			}
		}
		base = p
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("took %v", took)
	}
}

// Jitter is the same each time, and spreads jobs over the whole of it.
func TestJitterSpreads(t *testing.T) {
	t.Parallel()
	const n, most = 10_000, time.Hour
	var tenths [10]int
	for i := range n {
		name := fmt.Sprintf("job-%d", i)
		j := jitter(name, most)
		if j < 0 || j >= most || j != jitter(name, most) {
			t.Fatalf("%s: %v", name, j)
		}
		tenths[j*10/most]++
	}
	for i, count := range tenths {
		if count < 900 || count > 1100 {
			t.Errorf("%d of %d jobs are in part %d", count, n, i)
		}
	}
	// It is the same in every version of Nightshift: a job does not move because of an update.
	if got := jitter("waste-scan", most).Truncate(time.Second); got != 56*time.Minute+30*time.Second || jitter("j", 0) != 0 {
		t.Errorf("waste-scan: %v", got)
	}
}
