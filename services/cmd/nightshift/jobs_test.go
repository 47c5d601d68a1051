package main

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
)

func fullJob() *jobv1.Job {
	two := int32(2)
	return &jobv1.Job{
		Name: "everything", Kind: "waste", Schedule: "0 6 * * 1-5", TimeZone: "Europe/Berlin", Jitter: durationpb.New(10 * time.Minute),
		StartTime: at, EndTime: timestamppb.New(at.AsTime().AddDate(1, 0, 0)), Description: hostile, NextFireTime: at, Etag: "7",
		Misfire:       &jobv1.Misfire{Policy: jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL, Limit: 9, Deadline: durationpb.New(time.Hour)},
		OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ONE, Backoff: &jobv1.Backoff{Initial: durationpb.New(2 * time.Second)},
		MaxRetries: &two, Timeout: durationpb.New(time.Minute), RunTimeout: durationpb.New(2 * time.Hour), NotifyPolicy: jobv1.NotifyPolicy_NOTIFY_POLICY_NEVER,
		Parameters: map[string]string{"regions": "eu-west-1"}, Labels: map[string]string{"team": "platform"},
	}
}

func (f *fake) BackfillJob(_ context.Context, r *jobv1.BackfillJobRequest) (*jobv1.BackfillJobResponse, error) {
	f.got(r)
	return &jobv1.BackfillJobResponse{RunIds: []string{r.GetName() + "/backfill-1", r.GetName() + "/backfill-2"}}, nil
}

func TestJobFlags(t *testing.T) {
	t.Parallel()
	f, env := serve(t, runv1.RunState_RUN_STATE_SUCCEEDED)
	flags := []string{
		"--schedule", "0 6 * * 1-5", "--time-zone", "Europe/Berlin", "--jitter", "10m", "--start", "2026-09-01T12:30:00Z", "--end", "2027-09-01T14:30:00+02:00",
		"--misfire", "run-all", "--misfire-limit", "9", "--misfire-deadline", "1h", "--overlap", "queue-one", "--backoff", "2s", "--max-retries", "2",
		"--scope-timeout", "1m", "--run-timeout", "2h", "--notify", "never", "--param", "regions=eu-west-1", "--label", "team=platform",
	}
	want := fullJob()
	want.Description, want.NextFireTime, want.Etag = "", nil, ""
	if r := execute(t, env, append([]string{"jobs", "create", "everything", "--kind", "waste"}, flags...)...); r.code != 0 {
		t.Fatal(r.err)
	}
	if got := f.requests[0].(*jobv1.CreateJobRequest).GetJob(); !proto.Equal(got, want) {
		t.Errorf("asked for %v, want %v", got, want)
	}
	f.requests = nil
	if r := execute(t, env, append([]string{"jobs", "update", "everything"}, flags...)...); r.code != 0 {
		t.Fatal(r.err)
	}
	fields := strings.Join(f.requests[0].(*jobv1.UpdateJobRequest).GetUpdateMask().GetPaths(), " ")
	if want := "schedule time_zone jitter start_time end_time misfire overlap_policy parameters max_retries backoff timeout run_timeout notify_policy labels"; fields != want {
		t.Errorf("changes %s, want %s", fields, want)
	}

	// A part of a policy leaves the rest of it, and is not written over somebody else's change.
	f.requests = nil
	if r := execute(t, env, "jobs", "update", "everything", "--misfire-limit", "3", "--max-backoff", "1h", "--end", ""); r.code != 0 {
		t.Fatal(r.err)
	}
	u := f.requests[0].(*jobv1.UpdateJobRequest)
	if j := u.GetJob(); j.GetMisfire().GetLimit() != 3 || j.GetMisfire().GetPolicy() != jobv1.MisfirePolicy_MISFIRE_POLICY_RUN_ALL || j.GetMisfire().GetDeadline().AsDuration() != time.Hour ||
		j.GetBackoff().GetInitial().AsDuration() != 2*time.Second || j.GetBackoff().GetMax().AsDuration() != time.Hour || j.GetEtag() != "7" || j.GetEndTime() != nil ||
		!slices.Equal(u.GetUpdateMask().GetPaths(), []string{"end_time", "misfire", "backoff"}) {
		t.Errorf("asked for %v", u)
	}

	for args, want := range map[string]string{
		"jobs update x --misfire never":                           "--misfire \"never\" is not one of run-once, run-all, skip",
		"jobs update x --overlap queue":                           "skip, queue-one, queue-all, cancel-running, allow",
		"jobs update x --notify always":                           "on-failure, on-partial, never",
		"jobs update x --start tomorrow":                          "--start \"tomorrow\" is no day",
		"jobs run x --overlap unspecified":                        "is not one of",
		"jobs backfill x --from 2026-01-01":                       "needs --from and --to",
		"jobs backfill x --from 2026-01-01 --to 12:00":            "--to \"12:00\" is no day",
		"jobs next everything --time-zone Asia/Tokyo":             "--time-zone goes with --schedule",
		"jobs backfill x --from 2026-01-01 --to 2026-01-02 --o b": "unknown flag",
	} {
		if r := execute(t, env, strings.Fields(args)...); r.code != exitUsage || !strings.Contains(r.err, want) {
			t.Errorf("nightshift %s: code %d, %s; want it to say %s", args, r.code, r.err, want)
		}
	}
}

func TestJobShowsItsPolicies(t *testing.T) {
	t.Parallel()
	_, env := serve(t, 0)
	r := execute(t, env, "jobs", "get", "everything")
	for _, want := range []string{
		"0 6 * * 1-5 (Europe/Berlin)", "10m", "2026-09-01 12:30 UTC, 2026-09-01 14:30 CEST in Europe/Berlin", "run-all, at most 9, up to 1h late",
		"queue-one", "from 2s", "2h", "never", "team=platform",
	} {
		if !strings.Contains(r.out, want) {
			t.Errorf("%s is missing in\n%s", want, r.out)
		}
	}
	if r := execute(t, env, "jobs", "list"); !strings.Contains(r.out, "Zone") || !strings.Contains(r.out, "UTC") {
		t.Errorf("the list does not tell the zone:\n%s", r.out)
	}
}

func TestJobsNextShowsLocalTime(t *testing.T) {
	t.Parallel()
	f, env := serve(t, 0)
	r := execute(t, env, "jobs", "next", "--schedule", "30 14 * * *", "--time-zone", "Europe/Berlin")
	if !strings.Contains(r.out, "Fires (Europe/Berlin)") || !strings.Contains(r.out, "Tue 2026-09-01 14:30 CEST") || !strings.Contains(r.out, "Tue 2026-09-01 12:30") {
		t.Errorf("%s%s", r.out, r.err)
	}
	if got := f.requests[0].(*jobv1.ListNextFiresRequest); got.GetTimeZone() != "Europe/Berlin" || got.GetSchedule() != "30 14 * * *" {
		t.Errorf("asked for %v", got)
	}
	r = execute(t, env, "jobs", "next", "--schedule", "30 14 * * *", "--time-zone", "Europe/Berlin", "-o", "jsonl")
	if want := `{"fire_time":"2026-09-01T12:30:00Z","local_time":"2026-09-01T14:30:00+02:00"}` + "\n"; r.out != want {
		t.Errorf("%s, want %s", r.out, want)
	}
}

func TestJobRequests(t *testing.T) {
	t.Parallel()
	f, env := serve(t, 0)
	execute(t, env, "jobs", "list", "--kind", "waste", "--label", "team=platform", "--label", "on-call")
	if got := f.requests[0].(*jobv1.ListJobsRequest); got.GetKind() != "waste" || len(got.GetLabels()) != 2 || got.GetLabels()["team"] != "platform" {
		t.Errorf("asked for %v", got)
	}
	f.requests = nil
	execute(t, env, "jobs", "run", "waste-scan", "--overlap", "cancel-running")
	if got := f.requests[0].(*jobv1.RunJobRequest); got.GetOverlapPolicy() != jobv1.OverlapPolicy_OVERLAP_POLICY_CANCEL_RUNNING {
		t.Errorf("asked for %v", got)
	}
	f.requests = nil
	r := execute(t, env, "jobs", "backfill", "waste-scan", "--from", "2026-09-01", "--to", "2026-09-02", "--dry-run", "--overlap", "allow", "--param", "rules=x", "--request-id", "again", "-o", "jsonl")
	want := &jobv1.BackfillJobRequest{
		Name: "waste-scan", StartTime: timestamppb.New(time.Date(2026, 9, 1, 0, 0, 0, 0, time.UTC)), EndTime: timestamppb.New(time.Date(2026, 9, 2, 23, 59, 59, 0, time.UTC)),
		OverlapPolicy: jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW, Parameters: map[string]string{"rules": "x"}, RequestId: "again", RequestedBy: requester(), DryRun: true,
	}
	if got := f.requests[0].(*jobv1.BackfillJobRequest); !proto.Equal(got, want) {
		t.Errorf("asked for %v, want %v", got, want)
	}
	if !strings.Contains(r.err, "these would be 2 runs") || r.out != `{"run_id":"waste-scan/backfill-1"}`+"\n"+`{"run_id":"waste-scan/backfill-2"}`+"\n" {
		t.Errorf("out %s, err %s", r.out, r.err)
	}
}
