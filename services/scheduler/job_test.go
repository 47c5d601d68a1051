package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// fresh is a scheduler whose world knows the kind test.
func fresh(t *testing.T) (*replica, <-chan *jobv1.Trigger) {
	t.Helper()
	nats := devtest.NATS(t)
	asked := handle(t, nats, "test")
	return start(t, connect(t, nats, "scheduler"), newWorld(monday.Add(10*time.Second)).clock(0)), asked
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	r, _ := fresh(t)
	ctx := t.Context()
	create(t, r, "there", "test", "0 0 * * *")
	ok := func() *jobv1.Job { return &jobv1.Job{Name: "new", Kind: "test", Schedule: "0 0 * * *"} }
	with := func(edit func(*jobv1.Job)) *jobv1.Job { j := ok(); edit(j); return j }
	for name, test := range map[string]struct {
		do    func() error
		kind  errs.Kind
		field string // with a violation of this field
		says  string
	}{
		"create without name": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) { j.Name = "" })})
			return err
		}, errs.InvalidArgument, "job.name", "waste-scan"},
		"create without schedule": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) { j.Schedule = "" })})
			return err
		}, errs.InvalidArgument, "job.schedule", "five fields"},
		"create with unknown zone": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) { j.TimeZone = "Berlin" })})
			return err
		}, errs.InvalidArgument, "job.time_zone", "such as Europe/Berlin"},
		"create that ends before it starts": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) {
				j.StartTime, j.EndTime = timestamppb.New(monday.Add(time.Hour)), timestamppb.New(monday)
			})})
			return err
		}, errs.InvalidArgument, "job.end_time", "before start_time 2026-03-02T01:00:00Z"},
		"create that starts at no time": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) { j.StartTime = &timestamppb.Timestamp{Nanos: -1} })})
			return err
		}, errs.InvalidArgument, "job.start_time", "nanos"},
		"create with a longest wait below the first": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) {
				j.Backoff = &jobv1.Backoff{Initial: durationpb.New(time.Minute), Max: durationpb.New(time.Second)}
			})})
			return err
		}, errs.InvalidArgument, "job.backoff.max", "is 1s and initial is 1m0s"},
		"update to an end before the start": {func() error {
			_, err := r.UpdateJob(ctx, &jobv1.UpdateJobRequest{
				Job:        &jobv1.Job{Name: "there", StartTime: timestamppb.New(monday), EndTime: timestamppb.New(monday.Add(-time.Hour))},
				UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"start_time", "end_time"}},
			})
			return err
		}, errs.InvalidArgument, "job.end_time", "before start_time"},
		"update to an unknown zone": {func() error {
			_, err := r.UpdateJob(ctx, &jobv1.UpdateJobRequest{
				Job: &jobv1.Job{Name: "there", TimeZone: "Mars/Olympus"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"time_zone"}},
			})
			return err
		}, errs.InvalidArgument, "job.time_zone", "Mars/Olympus"},
		"preview in an unknown zone": {func() error {
			_, err := r.ListNextFires(ctx, &jobv1.ListNextFiresRequest{Schedule: "* * * * *", TimeZone: "Tokio"})
			return err
		}, errs.InvalidArgument, "time_zone", "Tokio"},
		"preview of a job in another zone": {func() error {
			_, err := r.ListNextFires(ctx, &jobv1.ListNextFiresRequest{Name: "there", TimeZone: "Asia/Tokyo"})
			return err
		}, errs.InvalidArgument, "time_zone", "leave it out"},
		"backfill of what is not there": {func() error {
			_, err := r.BackfillJob(ctx, &jobv1.BackfillJobRequest{Name: "new", StartTime: timestamppb.New(monday), EndTime: timestamppb.New(monday)})
			return err
		}, errs.NotFound, "", `"new"`},
		"backfill that ends before it starts": {func() error {
			_, err := r.BackfillJob(ctx, &jobv1.BackfillJobRequest{Name: "there", StartTime: timestamppb.New(monday), EndTime: timestamppb.New(monday.Add(-time.Hour))})
			return err
		}, errs.InvalidArgument, "end_time", "before start_time"},
		"backfill of the future": {func() error {
			_, err := r.BackfillJob(ctx, &jobv1.BackfillJobRequest{Name: "there", StartTime: timestamppb.New(monday), EndTime: timestamppb.New(monday.Add(time.Hour))})
			return err
		}, errs.InvalidArgument, "end_time", "yet to come: it is 2026-03-02T00:00:10Z now"},
		"backfill of nothing": {func() error {
			_, err := r.BackfillJob(ctx, &jobv1.BackfillJobRequest{Name: "there", StartTime: timestamppb.New(monday.Add(-5 * time.Hour)), EndTime: timestamppb.New(monday.Add(-4 * time.Hour))})
			return err
		}, errs.InvalidArgument, "start_time", "the next one after it is 2026-03-02T00:00:00Z"},
		"backfill of too much": {func() error {
			_, err := r.BackfillJob(ctx, &jobv1.BackfillJobRequest{Name: "there", StartTime: timestamppb.New(monday.AddDate(-5, 0, 0)), EndTime: timestamppb.New(monday)})
			return err
		}, errs.InvalidArgument, "end_time", "more than 1000 planned times; the first 1000 end at 2023-11-26T00:00:00Z"},
		"backfill from no time": {func() error {
			_, err := r.BackfillJob(ctx, &jobv1.BackfillJobRequest{Name: "there", EndTime: timestamppb.New(monday)})
			return err
		}, errs.InvalidArgument, "start_time", "nil"},
		"create with bad schedule": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) { j.Schedule = "0 25 * * *" })})
			return err
		}, errs.InvalidArgument, "job.schedule", `hour "25"`},
		"create with unknown kind": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) { j.Kind = "toast" })})
			return err
		}, errs.InvalidArgument, "job.kind", `is "toast"; known kinds: test`},
		"create without kind": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) { j.Kind = "" })})
			return err
		}, errs.InvalidArgument, "job.kind", "known kinds: test"},
		"create what exists": {func() error {
			_, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: with(func(j *jobv1.Job) { j.Name = "there" })})
			return err
		}, errs.AlreadyExists, "", `"there"`},
		"get what is not there": {func() error {
			_, err := r.GetJob(ctx, &jobv1.GetJobRequest{Name: "no.such > job"})
			return err
		}, errs.NotFound, "", `"no.such > job"`},
		"update what is not there": {func() error {
			_, err := r.UpdateJob(ctx, &jobv1.UpdateJobRequest{Job: ok()})
			return err
		}, errs.NotFound, "", `"new"`},
		"update with bad schedule": {func() error {
			_, err := r.UpdateJob(ctx, &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "there", Schedule: "@hurly"}})
			return err
		}, errs.InvalidArgument, "job.schedule", "@hourly"},
		"update of a fixed field": {func() error {
			_, err := r.UpdateJob(ctx, &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "there"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"paused"}}})
			return err
		}, errs.InvalidArgument, "update_mask", "backoff, description, end_time"},
		"update of the kind": {func() error {
			_, err := r.UpdateJob(ctx, &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "there", Kind: "other", Schedule: "0 0 * * *"}})
			return err
		}, errs.InvalidArgument, "job.kind", `the job's is "test"`},
		"update with stale etag": {func() error {
			_, err := r.UpdateJob(ctx, &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "there", Schedule: "0 0 * * *", Etag: "77"}})
			return err
		}, errs.Aborted, "", "read it and decide again"},
		"delete with stale etag": {func() error {
			_, err := r.DeleteJob(ctx, &jobv1.DeleteJobRequest{Name: "there", Etag: "77"})
			return err
		}, errs.Aborted, "", "read it and decide again"},
		"delete what is not there": {func() error {
			_, err := r.DeleteJob(ctx, &jobv1.DeleteJobRequest{Name: "new"})
			return err
		}, errs.NotFound, "", `"new"`},
		"pause what is not there": {func() error {
			_, err := r.PauseJob(ctx, &jobv1.PauseJobRequest{Name: "new"})
			return err
		}, errs.NotFound, "", `"new"`},
		"resume what is not there": {func() error {
			_, err := r.ResumeJob(ctx, &jobv1.ResumeJobRequest{Name: "new"})
			return err
		}, errs.NotFound, "", `"new"`},
		"run what is not there": {func() error {
			_, err := r.RunJob(ctx, &jobv1.RunJobRequest{Name: "new"})
			return err
		}, errs.NotFound, "", `"new"`},
		"preview of nothing": {func() error {
			_, err := r.ListNextFires(ctx, &jobv1.ListNextFiresRequest{})
			return err
		}, errs.InvalidArgument, "", "exactly one"},
		"preview of both": {func() error {
			_, err := r.ListNextFires(ctx, &jobv1.ListNextFiresRequest{Name: "there", Schedule: "* * * * *"})
			return err
		}, errs.InvalidArgument, "", "exactly one"},
		"preview of a bad schedule": {func() error {
			_, err := r.ListNextFires(ctx, &jobv1.ListNextFiresRequest{Schedule: "*"})
			return err
		}, errs.InvalidArgument, "schedule", "1 fields"},
		"preview after no time": {func() error {
			_, err := r.ListNextFires(ctx, &jobv1.ListNextFiresRequest{Schedule: "* * * * *", AfterTime: &timestamppb.Timestamp{Nanos: -1}})
			return err
		}, errs.InvalidArgument, "after_time", "nanos"},
		"list with a foreign token": {func() error {
			_, err := r.ListJobs(ctx, &jobv1.ListJobsRequest{PageToken: "x"})
			return err
		}, errs.InvalidArgument, "page_token", "token"},
		"dead letters with a foreign token": {func() error {
			_, err := r.ListDeadLetters(ctx, &deadletterv1.ListDeadLettersRequest{PageToken: "x"})
			return err
		}, errs.InvalidArgument, "page_token", "token"},
		"no such dead letter": {func() error {
			_, err := r.GetDeadLetter(ctx, &deadletterv1.GetDeadLetterRequest{Id: 5})
			return err
		}, errs.NotFound, "", "5"},
		"replay of no dead letter": {func() error {
			_, err := r.ReplayDeadLetter(ctx, &deadletterv1.ReplayDeadLetterRequest{Id: 5})
			return err
		}, errs.NotFound, "", "5"},
		"delete of no dead letter": {func() error {
			_, err := r.DeleteDeadLetter(ctx, &deadletterv1.DeleteDeadLetterRequest{Id: 5})
			return err
		}, errs.NotFound, "", "5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := test.do()
			var e *errs.Error
			if !errors.Is(err, test.kind) || !errors.As(err, &e) {
				t.Fatalf("%v; want %v", err, test.kind)
			}
			if !strings.Contains(err.Error(), test.says) {
				t.Errorf("%v; want it to say %s", err, test.says)
			}
			if v := e.Violations(); (test.field != "") != (len(v) == 1) || len(v) == 1 && v[0].Field != test.field {
				t.Errorf("violations %v; want one of %q", v, test.field)
			}
		})
	}
}

func TestJobLife(t *testing.T) {
	t.Parallel()
	r, asked := fresh(t)
	ctx := t.Context()
	five := int32(5)
	in := &jobv1.Job{
		Name: "j", Kind: "test", Schedule: " 0  4 * * * ", Description: "d", Parameters: map[string]string{"rules": "a", "regions": "b"},
		MaxRetries: &five, Timeout: durationpb.New(time.Minute), Labels: map[string]string{"l": "v"},
		// What the scheduler sets is not taken from callers.
		Paused: true, PauseReason: "x", Etag: "9", CreateTime: timestamppb.Now(), LastFireTime: timestamppb.Now(), ScheduleTime: timestamppb.Now(),
	}
	resp, err := r.CreateJob(ctx, &jobv1.CreateJobRequest{Job: in})
	if err != nil {
		t.Fatal(err)
	}
	now := timestamppb.New(monday.Add(10 * time.Second))
	want := &jobv1.Job{
		Name: "j", Kind: "test", Schedule: "0 4 * * *", Description: "d", Parameters: map[string]string{"rules": "a", "regions": "b"},
		MaxRetries: &five, Timeout: durationpb.New(time.Minute), Labels: map[string]string{"l": "v"},
		Etag: resp.GetJob().GetEtag(), CreateTime: now, UpdateTime: now, ScheduleTime: now, NextFireTime: timestamppb.New(monday.Add(4 * time.Hour)),
	}
	same := func(what string, got *jobv1.Job) {
		t.Helper()
		if !proto.Equal(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
		g, err := r.GetJob(ctx, &jobv1.GetJobRequest{Name: "j"})
		if err != nil {
			t.Fatal(err)
		}
		if !proto.Equal(g.GetJob(), want) {
			t.Errorf("%s: get gives %v, want %v", what, g.GetJob(), want)
		}
	}
	if want.GetEtag() == "" || want.GetEtag() == "9" {
		t.Errorf("etag %q", want.GetEtag())
	}
	same("create", resp.GetJob())

	u, err := r.UpdateJob(ctx, &jobv1.UpdateJobRequest{
		Job:        &jobv1.Job{Name: "j", Description: "other", Etag: want.GetEtag(), Schedule: "not looked at"},
		UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description", "max_retries"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	if u.GetJob().GetEtag() == want.GetEtag() {
		t.Error("the etag did not change")
	}
	want.Description, want.MaxRetries, want.Etag = "other", nil, u.GetJob().GetEtag()
	same("update of two fields", u.GetJob())

	// A change that changes nothing leaves the etag.
	u, err = r.UpdateJob(ctx, &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "j", Description: "other"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}}})
	if err != nil {
		t.Fatal(err)
	}
	same("update to the same", u.GetJob())

	p, err := r.PauseJob(ctx, &jobv1.PauseJobRequest{Name: "j", Reason: "why"})
	if err != nil {
		t.Fatal(err)
	}
	want.Paused, want.PauseReason, want.NextFireTime, want.Etag = true, "why", nil, p.GetJob().GetEtag()
	same("pause", p.GetJob())
	p, err = r.PauseJob(ctx, &jobv1.PauseJobRequest{Name: "j", Reason: "because"})
	if err != nil {
		t.Fatal(err)
	}
	want.PauseReason, want.Etag = "because", p.GetJob().GetEtag()
	same("pause again", p.GetJob())

	// A paused job runs when asked, once for each request id.
	for range 2 {
		run, err := r.RunJob(ctx, &jobv1.RunJobRequest{Name: "j", RequestId: "abc", RequestedBy: "me", Parameters: map[string]string{"rules": "z", "x": "y"}})
		if err != nil {
			t.Fatal(err)
		}
		if run.GetRunId() != "j/manual-abc" {
			t.Errorf("run id %s", run.GetRunId())
		}
	}
	got := await(t, asked, "the manual run")
	if w := (&jobv1.Trigger{
		RunId: "j/manual-abc", Job: "j", Kind: "test", Cause: jobv1.Cause_CAUSE_MANUAL, RequestedBy: "me", PlannedTime: now, FireTime: now,
		Parameters: map[string]string{"rules": "z", "regions": "b", "x": "y"}, MaxRetries: 3, Timeout: durationpb.New(time.Minute),
		OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_SKIP, NotifyPolicy: jobv1.NotifyPolicy_NOTIFY_POLICY_ON_FAILURE,
		RunTimeout: durationpb.New(24 * time.Hour), Backoff: &jobv1.Backoff{Initial: durationpb.New(time.Second), Max: durationpb.New(5 * time.Minute)},
	}); !proto.Equal(got, w) {
		t.Errorf("trigger %v, want %v", got, w)
	}
	seen := map[string]bool{}
	for range 2 {
		run, err := r.RunJob(ctx, &jobv1.RunJobRequest{Name: "j"})
		if err != nil {
			t.Fatal(err)
		}
		if id := await(t, asked, "a manual run").GetRunId(); id != run.GetRunId() || seen[id] {
			t.Errorf("run %s came as %s", run.GetRunId(), id)
		}
		seen[run.GetRunId()] = true
	}

	res, err := r.ResumeJob(ctx, &jobv1.ResumeJobRequest{Name: "j"})
	if err != nil {
		t.Fatal(err)
	}
	want.Paused, want.PauseReason, want.Etag, want.NextFireTime = false, "", res.GetJob().GetEtag(), timestamppb.New(monday.Add(4*time.Hour))
	same("resume", res.GetJob())

	if _, err := r.DeleteJob(ctx, &jobv1.DeleteJobRequest{Name: "j", Etag: want.GetEtag()}); err != nil {
		t.Fatal(err)
	}
	if _, err := r.GetJob(ctx, &jobv1.GetJobRequest{Name: "j"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("after its deletion: %v", err)
	}
	again := create(t, r, "j", "test", "0 4 * * *")
	if again.GetEtag() == want.GetEtag() || again.GetDescription() != "" {
		t.Errorf("created anew: %v", again)
	}
}

func TestNextFires(t *testing.T) {
	t.Parallel()
	r, _ := fresh(t)
	create(t, r, "j", "test", "0 */6 * * *")
	for _, test := range []struct {
		req  *jobv1.ListNextFiresRequest
		want []string
	}{
		{&jobv1.ListNextFiresRequest{Name: "j", Count: 2}, []string{"2026-03-02T06:00:00Z", "2026-03-02T12:00:00Z"}},
		{&jobv1.ListNextFiresRequest{Name: "j", Count: 2, AfterTime: timestamppb.New(monday.Add(6 * time.Hour))}, []string{"2026-03-02T12:00:00Z", "2026-03-02T18:00:00Z"}},
		{&jobv1.ListNextFiresRequest{Schedule: "0 3 1-7 * MON"}, []string{"2026-03-02T03:00:00Z", "2026-04-06T03:00:00Z", "2026-05-04T03:00:00Z", "2026-06-01T03:00:00Z", "2026-07-06T03:00:00Z"}},
		{&jobv1.ListNextFiresRequest{Schedule: "0 0 29 2 *", Count: 2}, []string{"2028-02-29T00:00:00Z", "2032-02-29T00:00:00Z"}},
		{&jobv1.ListNextFiresRequest{Schedule: "0 0 1 1 *", AfterTime: timestamppb.New(time.Date(9998, 6, 1, 0, 0, 0, 0, time.UTC))}, []string{"9999-01-01T00:00:00Z"}},
	} {
		resp, err := r.ListNextFires(t.Context(), test.req)
		if err != nil {
			t.Errorf("%v: %v", test.req, err)
			continue
		}
		var got []string
		for _, f := range resp.GetFireTimes() {
			got = append(got, f.AsTime().Format(time.RFC3339))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%v: %v, want %v", test.req, got, test.want)
		}
	}
	resp, err := r.ListNextFires(t.Context(), &jobv1.ListNextFiresRequest{Schedule: "* * * * *", Count: 100})
	if err != nil || len(resp.GetFireTimes()) != 100 {
		t.Errorf("%d times, %v", len(resp.GetFireTimes()), err)
	}
}

func TestListJobsPages(t *testing.T) {
	t.Parallel()
	r, _ := fresh(t)
	var want []string
	for i := range 7 {
		name := fmt.Sprint("job-", i)
		want = append(want, name)
		create(t, r, name, "test", "0 0 * * *")
	}
	var got []string
	req := &jobv1.ListJobsRequest{PageSize: 3}
	for pages := 1; ; pages++ {
		resp, err := r.ListJobs(t.Context(), req)
		if err != nil {
			t.Fatal(err)
		}
		for _, j := range resp.GetJobs() {
			got = append(got, j.GetName())
			if j.GetEtag() == "" || j.GetNextFireTime() == nil {
				t.Errorf("%v", j)
			}
		}
		if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
			if pages != 3 {
				t.Errorf("%d pages", pages)
			}
			break
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

// Of those who create one job at once, one does; of those who change it at
// once, all do, unless they insist on an etag.
func TestConcurrentChanges(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	handle(t, nats, "test")
	w := newWorld(monday.Add(10 * time.Second))
	var rs []*replica
	for range 2 {
		rs = append(rs, start(t, connect(t, nats, "scheduler"), w.clock(0)))
	}
	const n = 12
	var created, updated, aborted atomic.Int32
	each := func(do func(i int, r *replica)) {
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() { do(i, rs[i%2]) })
		}
		wg.Wait()
	}
	each(func(_ int, r *replica) {
		_, err := r.CreateJob(t.Context(), &jobv1.CreateJobRequest{Job: &jobv1.Job{Name: "j", Kind: "test", Schedule: "0 0 * * *"}})
		switch {
		case err == nil:
			created.Add(1)
		case !errors.Is(err, errs.AlreadyExists):
			t.Error(err)
		}
	})
	if created.Load() != 1 {
		t.Errorf("created %d times", created.Load())
	}
	each(func(i int, r *replica) {
		mask := []string{"description", "labels"}[i%2]
		_, err := r.UpdateJob(t.Context(), &jobv1.UpdateJobRequest{
			Job:        &jobv1.Job{Name: "j", Description: fmt.Sprint(i), Labels: map[string]string{"l": fmt.Sprint(i)}},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{mask}},
		})
		if err != nil {
			t.Error(err)
		}
	})
	got, err := rs[0].GetJob(t.Context(), &jobv1.GetJobRequest{Name: "j"})
	if err != nil {
		t.Fatal(err)
	}
	if got.GetJob().GetDescription() == "" || got.GetJob().GetLabels()["l"] == "" {
		t.Errorf("a change was lost: %v", got)
	}
	each(func(i int, r *replica) {
		_, err := r.UpdateJob(t.Context(), &jobv1.UpdateJobRequest{
			Job:        &jobv1.Job{Name: "j", Description: fmt.Sprint("etag ", i), Etag: got.GetJob().GetEtag()},
			UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"description"}},
		})
		switch {
		case err == nil:
			updated.Add(1)
		case errors.Is(err, errs.Aborted):
			aborted.Add(1)
		default:
			t.Error(err)
		}
	})
	if updated.Load() != 1 || aborted.Load() != n-1 {
		t.Errorf("%d updated and %d were told to look again", updated.Load(), aborted.Load())
	}
}

func TestDeadLetterService(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	r := start(t, connect(t, nats, "scheduler"), newWorld(monday).clock(0))
	b := connect(t, nats, "test")
	var poison atomic.Bool
	poison.Store(true)
	handled := make(chan string, 10)
	bus.On(b, func(_ context.Context, m *bus.Message[*jobv1.JobRequested]) error {
		if poison.Load() {
			return bus.Drop(errors.New("poison"))
		}
		handled <- m.Body.GetTrigger().GetRunId()
		return nil
	}, bus.Filter("test"))
	go func() { _ = b.Run(t.Context()) }()
	eventually(t, "the consumer is there", func() bool {
		kinds, err := bus.Handled[*jobv1.JobRequested](t.Context(), b)
		return err == nil && len(kinds) == 1
	})
	const n = 5
	for i := range n {
		if err := b.Publish(t.Context(), &jobv1.JobRequested{Trigger: &jobv1.Trigger{RunId: fmt.Sprint("j/", i), Job: "j", Kind: "test"}}); err != nil {
			t.Fatal(err)
		}
	}
	var all []*deadletterv1.DeadLetter
	eventually(t, "all are dead letters", func() bool {
		all = nil
		req := &deadletterv1.ListDeadLettersRequest{PageSize: 2, Consumer: "test-JobRequested"}
		for {
			resp, err := r.ListDeadLetters(t.Context(), req)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, resp.GetDeadLetters()...)
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				return len(all) == n
			}
		}
	})
	if resp, err := r.ListDeadLetters(t.Context(), &deadletterv1.ListDeadLettersRequest{Consumer: "other"}); err != nil || len(resp.GetDeadLetters()) != 0 {
		t.Errorf("of another consumer: %v, %v", resp, err)
	}
	got, err := r.GetDeadLetter(t.Context(), &deadletterv1.GetDeadLetterRequest{Id: all[1].GetId()})
	if err != nil {
		t.Fatal(err)
	}
	if d := got.GetDeadLetter(); d.GetReason() != "poison" || d.GetAttempts() != 1 || !strings.Contains(d.GetPayloadJson(), `"j/1"`) || len(d.GetPayload()) == 0 {
		t.Errorf("dead letter %v", d)
	}
	poison.Store(false)
	if _, err := r.ReplayDeadLetter(t.Context(), &deadletterv1.ReplayDeadLetterRequest{Id: all[1].GetId()}); err != nil {
		t.Fatal(err)
	}
	select {
	case id := <-handled:
		if id != "j/1" {
			t.Errorf("replayed %s", id)
		}
	case <-time.After(patience):
		t.Fatal("the replay does not come")
	}
	if _, err := r.DeleteDeadLetter(t.Context(), &deadletterv1.DeleteDeadLetterRequest{Id: all[2].GetId()}); err != nil {
		t.Fatal(err)
	}
	for _, gone := range []uint64{all[1].GetId(), all[2].GetId()} {
		if _, err := r.GetDeadLetter(t.Context(), &deadletterv1.GetDeadLetterRequest{Id: gone}); !errors.Is(err, errs.NotFound) {
			t.Errorf("%d is still there: %v", gone, err)
		}
	}
}
