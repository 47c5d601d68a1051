package main

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	cleanupv1 "nightshift.dev/gen/nightshift/cleanup/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	"nightshift.dev/pkg/errs"
)

// janitor stands in for cleanup and the scheduler.
type janitor struct {
	cleanupv1.UnimplementedCleanupServiceServer
	jobv1.UnimplementedJobServiceServer

	run     *jobv1.RunJobRequest
	preview *cleanupv1.PreviewCleanupRequest
}

func (j *janitor) GetJob(_ context.Context, r *jobv1.GetJobRequest) (*jobv1.GetJobResponse, error) {
	if r.GetName() != "nightly" {
		return nil, errs.New(errs.NotFound, "JOB_NOT_FOUND", "there is no job %q", r.GetName())
	}
	return &jobv1.GetJobResponse{Job: &jobv1.Job{Name: "nightly", Parameters: map[string]string{"runs_days": "7", "system_log_days": "5", "targets": "runs,outbox"}}}, nil
}

func (j *janitor) ListCleanupRules(_ context.Context, r *cleanupv1.ListCleanupRulesRequest) (*cleanupv1.ListCleanupRulesResponse, error) {
	if r.GetParameters()["runs_days"] == "never" {
		return nil, errs.New(errs.InvalidArgument, "BAD_PARAMETERS", "the cleanup cannot be done so").Field(`parameters["runs_days"]`, "is never")
	}
	return &cleanupv1.ListCleanupRulesResponse{Rules: []*cleanupv1.Rule{
		{Target: retentionv1.Target_TARGET_RUNS, Name: "runs", Description: "Runs.", Age: durationpb.New(90 * 24 * time.Hour), Keep: 20, Parameters: []string{"runs_days", "runs_keep"}},
		{Target: retentionv1.Target_TARGET_ONBOARDINGS, Name: "onboardings", Description: "Onboardings.", Age: durationpb.New(24 * time.Hour), Parameters: []string{"onboardings_hours"}},
	}}, nil
}

func (j *janitor) PreviewCleanup(_ context.Context, r *cleanupv1.PreviewCleanupRequest) (*cleanupv1.PreviewCleanupResponse, error) {
	j.preview = r
	out := &cleanupv1.PreviewCleanupResponse{Targets: []*cleanupv1.PreviewedTarget{{
		Rule: &cleanupv1.Rule{Name: "runs"},
		Preview: &retentionv1.Preview{Target: retentionv1.Target_TARGET_RUNS, BeforeTime: at, Count: 1234, OldestTime: at,
			Retained: []*retentionv1.Retained{{Reason: "they have not ended", Count: 2}}},
	}}}
	if r.GetParameters()["targets"] == "" {
		out.Targets = append(out.Targets, &cleanupv1.PreviewedTarget{Rule: &cleanupv1.Rule{Name: "outbox"}, Error: "too slow"})
	}
	return out, nil
}

func (j *janitor) RunJob(_ context.Context, r *jobv1.RunJobRequest) (*jobv1.RunJobResponse, error) {
	j.run = r
	return &jobv1.RunJobResponse{RunId: "cleanup/manual-1"}, nil
}

func TestCleanup(t *testing.T) {
	t.Parallel()
	j := &janitor{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	cleanupv1.RegisterCleanupServiceServer(s, j)
	jobv1.RegisterJobServiceServer(s, j)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	env := map[string]string{"NIGHTSHIFT_CLEANUP_ADDR": l.Addr().String(), "NIGHTSHIFT_SCHEDULER_ADDR": l.Addr().String()}
	for _, c := range []struct {
		args string
		code int
		want []string
	}{
		{"cleanup rules", 0, []string{"90 days", "the newest 20 of each job", "24 hours", "runs_keep"}},
		{"cleanup rules -o csv", 0, []string{"name,age,keep,parameters,description", "runs,2160h,20,runs_days runs_keep,Runs."}},
		{"cleanup rules --param runs_days=never", 2, []string{"runs_days", "is never"}},
		{"cleanup preview", 1, []string{"1,234", "2 because they have not ended", "too slow", "1 target could not be counted"}},
		{"cleanup preview --target runs -o csv", 0, []string{"runs,1234,2026-09-01T12:30:00Z"}},
		{"cleanup preview --target runs --param targets=outbox", 2, []string{"not both"}},
		{"cleanup preview --job weekly", 1, []string{"there is no job"}},
		{"cleanup preview --job nightly --target runs --param runs_days=3", 0, []string{"1,234"}},
		{"cleanup run --param runs_days=never", 2, []string{"is never"}},
		{"cleanup run --target runs,outbox --param runs_days=30 --dry-run", 0, []string{"cleanup/manual-1"}},
	} {
		r := execute(t, env, strings.Fields(c.args)...)
		if r.code != c.code {
			t.Errorf("%s: exit %d, want %d\n%s%s", c.args, r.code, c.code, r.out, r.err)
		}
		for _, want := range c.want {
			if !strings.Contains(r.out+r.err, want) {
				t.Errorf("%s: no %q in\n%s%s", c.args, want, r.out, r.err)
			}
		}
	}
	if p := j.run.GetParameters(); j.run.GetName() != "cleanup" || p["targets"] != "runs,outbox" || p["dry_run"] != "true" || p["runs_days"] != "30" {
		t.Errorf("ran %v", j.run)
	}
	// The job's own, and over them those given.
	if p := j.preview.GetParameters(); p["runs_days"] != "3" || p["system_log_days"] != "5" || p["targets"] != "runs" {
		t.Errorf("previewed %v", p)
	}
}
