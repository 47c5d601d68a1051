package cleanup

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"

	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	"nightshift.dev/pkg/job"
)

const (
	// batchRows is how many rows one transaction removes.
	batchRows = 5000
	// Between two transactions it waits for as long as the first took, within
	// these bounds: others have Postgres at least half of the time.
	shortestPause = 10 * time.Millisecond
	longestPause  = 2 * time.Second
	// callTimeout bounds one call to persistence, which may have to go through
	// everything of a kind.
	callTimeout = 2 * time.Minute
)

// do cleans up one target. However often it is broken off and begun again, it
// ends in the same state: each batch is a transaction, and what is left is found
// anew.
func (s *Service) do(ctx context.Context, t *job.Task) error {
	o, err := s.options(t.Parameters)
	if err != nil {
		return err
	}
	for i := range o.rules {
		if r := &o.rules[i]; t.IsPart(r.name) {
			return s.clean(ctx, t, r, o.dry)
		}
	}
	return job.Permanent(fmt.Errorf("%q is no target", t.Scope.GetRegion()))
}

func (s *Service) clean(ctx context.Context, t *job.Task, r *rule, dry bool) error {
	report := &retentionv1.ReportRetentionRequest{Job: t.Job, RunId: t.Run, Target: r.target, DryRun: dry}
	// The night's cut-off, and the same when it is begun again.
	now := s.now()
	if p := t.PlannedTime; !p.IsZero() && p.Before(now) && now.Sub(p) < 24*time.Hour {
		now = p
	}
	report.BeforeTime = r.before(now)
	// A sign of life, for counting may take a while.
	alive, stop := context.WithCancel(ctx)
	defer stop()
	go heartbeat(alive, t)
	done := "deleted"
	if r.unit == "" {
		done = "marked"
	}
	preview, err := call(ctx, s.retention.PreviewRetention, &retentionv1.PreviewRetentionRequest{Target: r.target, BeforeTime: report.GetBeforeTime(), Keep: r.keepNewest()})
	if err != nil {
		return job.Await(err)
	}
	report.Retained = preview.GetPreview().GetRetained()
	for _, k := range report.GetRetained() {
		t.Count("kept", k.GetCount())
	}
	if dry {
		report.Count = preview.GetPreview().GetCount()
		t.Count("would_be_"+done, report.GetCount())
		return s.report(ctx, report)
	}
	for more := true; more; {
		begun := time.Now()
		resp, err := call(ctx, s.retention.ApplyRetention, &retentionv1.ApplyRetentionRequest{Target: r.target, BeforeTime: report.GetBeforeTime(), Keep: r.keepNewest(), Limit: batchRows})
		if err != nil {
			// What has been done until now is said all the same.
			if report.GetRows() > 0 {
				if err := s.report(context.WithoutCancel(ctx), report); err != nil {
					t.Log.WarnContext(ctx, "what was removed cannot be said in the system log", "error", err)
				}
			}
			return job.Await(err)
		}
		report.Count += resp.GetCount()
		report.Rows += resp.GetRows()
		report.Partitions += resp.GetPartitions()
		report.Reclaimed += resp.GetReclaimed()
		report.Batches++
		t.Count(done, resp.GetCount())
		t.Count("rows", resp.GetRows())
		t.Count("batches", 1)
		if resp.GetReclaimed() > 0 {
			t.Count("reclaimed", resp.GetReclaimed())
		}
		if more = resp.GetMore(); !more {
			break
		}
		pause := time.NewTimer(min(max(time.Since(begun), shortestPause), longestPause))
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
	return s.report(ctx, report)
}

// report says in the system log what was done.
func (s *Service) report(ctx context.Context, r *retentionv1.ReportRetentionRequest) error {
	_, err := call(ctx, s.retention.ReportRetention, r)
	return job.Await(err)
}

// call makes one call to persistence with a deadline.
func call[Q, R any](ctx context.Context, f func(context.Context, Q, ...grpc.CallOption) (R, error), req Q) (R, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return f(ctx, req)
}

// heartbeat gives signs of life until ctx ends.
func heartbeat(ctx context.Context, t *job.Task) {
	tick := time.NewTicker(10 * time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			t.Heartbeat()
		}
	}
}
