package scheduler

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/devstack/devtest"
)

// The scheduler is down for an hour, and each job makes up for it as its
// policy says.
func TestAnHourWithoutScheduler(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	asked := handle(t, nats, "test")
	w := newWorld(monday.Add(10 * time.Second))
	b := connect(t, nats, "scheduler")
	r := start(t, b, w.clock(0))
	runAll := func(limit int32, deadline time.Duration) *jobv1.Misfire {
		m := &jobv1.Misfire{Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL, Limit: limit}
		if deadline > 0 {
			m.Deadline = durationpb.New(deadline)
		}
		return m
	}
	c := &collector{asked, map[string][]*jobv1.Trigger{}}
	type fire struct{ planned, missed, first, last int } // minutes
	var downs []int
	for m := 10; m <= 65; m += 5 {
		downs = append(downs, m)
	}
	all := func(from int) (out []fire) {
		for _, m := range downs {
			if m >= from {
				out = append(out, fire{planned: m})
			}
		}
		return out
	}
	for _, test := range []struct {
		name    string
		misfire *jobv1.Misfire
		want    []fire // at the restart
		then    fire   // at the next planned time
	}{
		{"unset", nil, []fire{{65, 11, 10, 60}}, fire{planned: 70}},
		{"once", &jobv1.Misfire{Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ONCE}, []fire{{65, 11, 10, 60}}, fire{planned: 70}},
		{"once-in-a-minute", &jobv1.Misfire{Deadline: durationpb.New(time.Minute)}, nil, fire{70, 12, 10, 65}},
		{"all", runAll(0, 0), all(0), fire{planned: 70}},
		{"all-three", runAll(3, 0), []fire{{55, 9, 10, 50}, {planned: 60}, {planned: 65}}, fire{planned: 70}},
		{"all-of-20-minutes", runAll(0, 20*time.Minute), []fire{{50, 8, 10, 45}, {planned: 55}, {planned: 60}, {planned: 65}}, fire{planned: 70}},
		{"skip", &jobv1.Misfire{Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_SKIP}, nil, fire{70, 12, 10, 65}},
		{"skip-in-an-hour", &jobv1.Misfire{Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_SKIP, Deadline: durationpb.New(time.Hour)}, []fire{{65, 11, 10, 60}}, fire{planned: 70}},
	} {
		job := &jobv1.Job{Name: test.name, Kind: "test", Schedule: "*/5 * * * *", Misfire: test.misfire}
		if _, err := r.CreateJob(t.Context(), &jobv1.CreateJobRequest{Job: job}); err != nil {
			t.Fatal(err)
		}
		defer func() { // in the end, what came is compared
			got := c.until(t, test.name, monday.Add(70*time.Minute))
			want := append(append([]fire{{planned: 5}}, test.want...), test.then)
			var have []fire
			minute := func(t *timestamppb.Timestamp) int { return int(t.AsTime().Sub(monday) / time.Minute) }
			for _, g := range got {
				f := fire{planned: minute(g.GetPlannedTime())}
				if m := g.GetMissed(); m != nil {
					f.missed, f.first, f.last = int(m.GetCount()), minute(m.GetFirstTime()), minute(m.GetLastTime())
				}
				have = append(have, f)
			}
			if !slices.Equal(have, want) {
				t.Errorf("%s: fired %v, want %v", test.name, have, want)
			}
		}()
	}
	// What a paused job leaves out is nothing it missed.
	create(t, r, "paused", "test", "*/5 * * * *")
	w.set(monday.Add(5 * time.Minute))
	eventually(t, "nothing is due", func() bool { return idle(r, w) })
	if _, err := r.PauseJob(t.Context(), &jobv1.PauseJobRequest{Name: "paused"}); err != nil {
		t.Fatal(err)
	}
	r.stop()

	w.set(monday.Add(67*time.Minute + 30*time.Second))
	r = start(t, b, w.clock(0))
	if err := r.awaitReady(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.ResumeJob(t.Context(), &jobv1.ResumeJobRequest{Name: "paused"}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "nothing is due", func() bool { return idle(r, w) })
	w.set(monday.Add(70 * time.Minute))
	eventually(t, "nothing is due", func() bool { return idle(r, w) })
	got := c.until(t, "paused", monday.Add(70*time.Minute))
	if len(got) != 2 || got[1].GetMissed() != nil || !got[1].GetPlannedTime().AsTime().Equal(monday.Add(70*time.Minute)) {
		t.Errorf("paused: %v", got)
	}
}

// collector sorts triggers by job.
type collector struct {
	asked <-chan *jobv1.Trigger
	byJob map[string][]*jobv1.Trigger
}

// until returns the triggers of a job in the order of their planned times,
// once the one planned for last is there.
func (c *collector) until(t *testing.T, job string, last time.Time) []*jobv1.Trigger {
	t.Helper()
	for {
		out := c.byJob[job]
		if len(out) > 0 && slices.ContainsFunc(out, func(x *jobv1.Trigger) bool { return x.GetPlannedTime().AsTime().Equal(last) }) && len(c.asked) == 0 {
			slices.SortFunc(out, func(a, b *jobv1.Trigger) int { return a.GetPlannedTime().AsTime().Compare(b.GetPlannedTime().AsTime()) })
			return out
		}
		x := await(t, c.asked, job)
		c.byJob[x.GetJob()] = append(c.byJob[x.GetJob()], x)
	}
}

// A job fires at its planned time and its part of the jitter, within its
// bounds; a change of any of these begins anew from then.
func TestJitterBoundsAndChanges(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	asked := handle(t, nats, "test")
	w := newWorld(monday.Add(10 * time.Second))
	r := start(t, connect(t, nats, "scheduler"), w.clock(0))
	at := func(minute int) time.Time { return monday.Add(time.Duration(minute) * time.Minute) }
	job := &jobv1.Job{
		Name: "j", Kind: "test", Schedule: "*/10 * * * *", Jitter: durationpb.New(5 * time.Minute),
		StartTime: timestamppb.New(at(20)), EndTime: timestamppb.New(at(40)),
	}
	if _, err := r.CreateJob(t.Context(), &jobv1.CreateJobRequest{Job: job}); err != nil {
		t.Fatal(err)
	}
	offset := jitter("j", 5*time.Minute)
	none := func(when string) {
		t.Helper()
		eventually(t, "nothing is due", func() bool { return idle(r, w) })
		select {
		case got := <-asked:
			t.Errorf("%s: fired %v", when, got)
		default:
		}
	}
	w.set(at(15))
	none("before the start")
	for _, planned := range []int{20, 30, 40} {
		w.set(at(planned).Add(offset - time.Millisecond))
		none("before the jitter is over")
		w.set(at(planned).Add(offset))
		got := await(t, asked, "a fire")
		if got.GetRunId() != runID("j", at(planned)) || !got.GetPlannedTime().AsTime().Equal(at(planned)) || !got.GetFireTime().AsTime().Equal(at(planned).Add(offset)) || got.GetMissed() != nil {
			t.Errorf("fired %v", got)
		}
	}
	w.set(at(60))
	none("after the end")
	// Whatever decides the times begins anew when it changes; the rest does not.
	for i, test := range []struct {
		field string
		job   *jobv1.Job
		anew  bool
	}{
		{"end_time", &jobv1.Job{}, true},
		{"start_time", &jobv1.Job{}, true},
		{"jitter", &jobv1.Job{}, true},
		{"time_zone", &jobv1.Job{TimeZone: "Asia/Kolkata"}, true},
		{"schedule", &jobv1.Job{Schedule: "@every 10m"}, true},
		{"misfire", &jobv1.Job{Misfire: &jobv1.Misfire{Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL}}, false},
		{"overlap_policy", &jobv1.Job{OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW}, false},
		{"backoff", &jobv1.Job{Backoff: &jobv1.Backoff{Initial: durationpb.New(time.Minute)}}, false},
		{"run_timeout", &jobv1.Job{RunTimeout: durationpb.New(time.Minute)}, false},
		{"notify_policy", &jobv1.Job{NotifyPolicy: jobv1.NotifyPolicy_NOTIFY_POLICY_NEVER}, false},
	} {
		now := at(60).Add(time.Duration(i+1) * time.Second)
		w.set(now)
		test.job.Name = "j"
		resp, err := r.UpdateJob(t.Context(), &jobv1.UpdateJobRequest{Job: test.job, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{test.field}}})
		if err != nil {
			t.Fatal(err)
		}
		if got := resp.GetJob().GetScheduleTime().AsTime().Equal(now); got != test.anew {
			t.Errorf("%s: schedule time %v at %v", test.field, resp.GetJob().GetScheduleTime().AsTime(), now)
		}
	}
	w.set(at(70))
	want := &jobv1.Trigger{
		RunId: runID("j", at(70)), Job: "j", Kind: "test", Cause: jobv1.Cause_CAUSE_SCHEDULE, PlannedTime: timestamppb.New(at(70)), FireTime: timestamppb.New(at(70)),
		MaxRetries: 3, Timeout: durationpb.New(30 * time.Minute), RunTimeout: durationpb.New(time.Minute), OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW,
		NotifyPolicy: jobv1.NotifyPolicy_NOTIFY_POLICY_NEVER, Backoff: &jobv1.Backoff{Initial: durationpb.New(time.Minute), Max: durationpb.New(5 * time.Minute)},
	}
	if got := await(t, asked, "a fire"); !proto.Equal(got, want) {
		t.Errorf("fired %v, want %v", got, want)
	}
}

func TestBackfill(t *testing.T) {
	t.Parallel()
	r, asked := fresh(t)
	job := &jobv1.Job{
		Name: "j", Kind: "test", Schedule: "30 2 * * *", TimeZone: "Europe/Berlin", Parameters: map[string]string{"a": "1", "b": "2"},
		OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_SKIP,
	}
	if _, err := r.CreateJob(t.Context(), &jobv1.CreateJobRequest{Job: job}); err != nil {
		t.Fatal(err)
	}
	// Both ends count, and the clocks of the zone are set on the second of three days.
	req := &jobv1.BackfillJobRequest{
		Name: "j", StartTime: timestamppb.New(time.Date(2025, 10, 25, 0, 30, 0, 0, time.UTC)), EndTime: timestamppb.New(time.Date(2025, 10, 27, 1, 30, 0, 0, time.UTC)),
		Parameters: map[string]string{"b": "3"}, RequestedBy: "me", DryRun: true,
	}
	want := []string{"j/backfill-2025-10-25T00:30:00Z", "j/backfill-2025-10-26T00:30:00Z", "j/backfill-2025-10-27T01:30:00Z"}
	for _, dry := range []bool{true, false, false} {
		req.DryRun = dry
		resp, err := r.BackfillJob(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(resp.GetRunIds(), want) {
			t.Errorf("runs %v, want %v", resp.GetRunIds(), want)
		}
	}
	req.RequestId, req.OverlapPolicy = "again", jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW
	resp, err := r.BackfillJob(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	again := []string{"j/backfill-again-2025-10-25T00:30:00Z", "j/backfill-again-2025-10-26T00:30:00Z", "j/backfill-again-2025-10-27T01:30:00Z"}
	if !slices.Equal(resp.GetRunIds(), again) {
		t.Errorf("runs %v, want %v", resp.GetRunIds(), again)
	}
	// The dry run asked for nothing, and the repetition for nothing more.
	byID := map[string]*jobv1.Trigger{}
	for range 6 {
		got := await(t, asked, "a run")
		if byID[got.GetRunId()] != nil {
			t.Errorf("%s came twice", got.GetRunId())
		}
		byID[got.GetRunId()] = got
	}
	for i, ids := range [][]string{want, again} {
		for _, id := range ids {
			got := byID[id]
			policy := []jobv1.OverlapPolicy{jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ALL, jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW}[i]
			if got.GetCause() != jobv1.Cause_CAUSE_BACKFILL || got.GetOverlapPolicy() != policy || got.GetRequestedBy() != "me" ||
				fmt.Sprint(got.GetParameters()) != "map[a:1 b:3]" || id[len(id)-20:] != got.GetPlannedTime().AsTime().Format(time.RFC3339) || len(id) > 200 {
				t.Errorf("%s: %v", id, got)
			}
		}
	}
}

func TestRunJobOverlap(t *testing.T) {
	t.Parallel()
	r, asked := fresh(t)
	job := &jobv1.Job{Name: "j", Kind: "test", Schedule: "0 0 1 1 *", OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ONE}
	if _, err := r.CreateJob(t.Context(), &jobv1.CreateJobRequest{Job: job}); err != nil {
		t.Fatal(err)
	}
	for policy, want := range map[jobv1.OverlapPolicy]jobv1.OverlapPolicy{
		0: jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ONE, jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW: jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW,
	} {
		if _, err := r.RunJob(t.Context(), &jobv1.RunJobRequest{Name: "j", OverlapPolicy: policy}); err != nil {
			t.Fatal(err)
		}
		if got := await(t, asked, "the run").GetOverlapPolicy(); got != want {
			t.Errorf("%v, want %v", got, want)
		}
	}
}

func TestListJobsFilters(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	handle(t, nats, "one", "two")
	r := start(t, connect(t, nats, "scheduler"), newWorld(monday).clock(0))
	for i, labels := range []map[string]string{{"team": "a"}, {"team": "b", "on-call": ""}, {"on-call": "yes"}, nil} {
		job := &jobv1.Job{Name: fmt.Sprint("job-", i), Kind: []string{"one", "two"}[i%2], Schedule: "@daily", Labels: labels}
		if _, err := r.CreateJob(t.Context(), &jobv1.CreateJobRequest{Job: job}); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		kind   string
		labels map[string]string
		want   string
	}{
		{"", nil, "[job-0 job-1 job-2 job-3]"}, {"one", nil, "[job-0 job-2]"}, {"three", nil, "[]"},
		{"", map[string]string{"team": ""}, "[job-0 job-1]"}, {"", map[string]string{"team": "b"}, "[job-1]"},
		{"", map[string]string{"on-call": ""}, "[job-1 job-2]"}, {"", map[string]string{"on-call": "", "team": "b"}, "[job-1]"},
		{"one", map[string]string{"team": "b"}, "[]"},
	} {
		req := &jobv1.ListJobsRequest{Kind: test.kind, Labels: test.labels, PageSize: 1}
		names := []string{}
		for {
			resp, err := r.ListJobs(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			for _, j := range resp.GetJobs() {
				names = append(names, j.GetName())
			}
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if fmt.Sprint(names) != test.want {
			t.Errorf("kind %q, labels %v: %v, want %s", test.kind, test.labels, names, test.want)
		}
	}
	// A token is good for its filter only.
	resp, err := r.ListJobs(t.Context(), &jobv1.ListJobsRequest{Kind: "one", PageSize: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.ListJobs(t.Context(), &jobv1.ListJobsRequest{Kind: "two", PageSize: 1, PageToken: resp.GetNextPageToken()}); err == nil {
		t.Error("the token of another filter is taken")
	}
}
