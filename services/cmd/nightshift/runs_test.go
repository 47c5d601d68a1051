package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
)

func (f *fake) CancelRun(_ context.Context, r *runv1.CancelRunRequest) (*runv1.CancelRunResponse, error) {
	f.got(r)
	return &runv1.CancelRunResponse{Run: &runv1.Run{Id: r.GetId(), Kind: "waste", State: runv1.RunState_RUN_STATE_CANCELLED, Error: "cancelled by " + r.GetRequestedBy()}}, nil
}

func (f *fake) RetryRun(_ context.Context, r *runv1.RetryRunRequest) (*runv1.RetryRunResponse, error) {
	f.got(r)
	return &runv1.RetryRunResponse{Run: &runv1.Run{Id: "waste-scan/retry-1", Kind: "waste", State: runv1.RunState_RUN_STATE_RUNNING, RetryOf: r.GetId()}}, nil
}

// WatchEntries sends entries and breaks off, then sends some of them again with
// a new one, then waits.
func (f *fake) WatchEntries(r *systemlogv1.WatchEntriesRequest, s grpc.ServerStreamingServer[systemlogv1.WatchEntriesResponse]) error {
	f.got(r)
	f.mu.Lock()
	f.watches++
	n := f.watches
	f.mu.Unlock()
	entry := func(id int64) *systemlogv1.Entry {
		return &systemlogv1.Entry{Id: id, Time: timestamppb.New(at.AsTime().Add(time.Duration(id) * time.Second)), Level: systemlogv1.Level_LEVEL_INFO, Message: "entry " + strings.Repeat("x", int(id))}
	}
	switch n {
	case 1:
		_ = s.Send(&systemlogv1.WatchEntriesResponse{})
		_ = s.Send(&systemlogv1.WatchEntriesResponse{Entries: []*systemlogv1.Entry{entry(1), entry(2)}})
		return errs.New(errs.Unavailable, "GOING", "the service stops")
	case 2:
		_ = s.Send(&systemlogv1.WatchEntriesResponse{Entries: []*systemlogv1.Entry{entry(2), entry(3)}})
	}
	<-s.Context().Done()
	return s.Context().Err()
}

func TestRunsThatWereEnded(t *testing.T) {
	t.Parallel()
	for state, says := range map[runv1.RunState]string{
		runv1.RunState_RUN_STATE_CANCELLED: "was cancelled: for a reason",
		runv1.RunState_RUN_STATE_SKIPPED:   "was skipped: for a reason",
	} {
		_, env := serve(t, state)
		if r := execute(t, env, "runs", "watch"); r.code != exitError || !strings.Contains(r.err, says) {
			t.Errorf("%s: code %d, stderr %s", state, r.code, r.err)
		}
	}
}

func TestCancelAndRetry(t *testing.T) {
	t.Parallel()
	f, env := serve(t, runv1.RunState_RUN_STATE_FAILED)
	f.run.Kind = "waste"
	r := execute(t, env, "runs", "cancel", "waste-scan/x", "--reason", "wrong day")
	if got := f.requests[0].(*runv1.CancelRunRequest); r.code != exitOK || got.GetReason() != "wrong day" || got.GetRequestedBy() == "" || !strings.Contains(r.out, "CANCELLED") {
		t.Errorf("code %d, asked for %v, said %s%s", r.code, got, r.out, r.err)
	}
	f.requests = nil
	r = execute(t, env, "runs", "retry", "waste-scan/x", "--scope", "123456789012/eu-west-1", "--request-id", "again")
	got := f.requests[0].(*runv1.RetryRunRequest)
	want := &scanv1.Scope{Service: "waste", Account: "123456789012", Region: "eu-west-1"}
	if r.code != exitOK || len(got.GetScopes()) != 1 || got.GetScopes()[0].String() != want.String() || got.GetRequestId() != "again" ||
		!strings.Contains(r.out, "waste-scan/retry-1") {
		t.Errorf("code %d, asked for %v, said %s%s", r.code, got, r.out, r.err)
	}
	if r = execute(t, env, "runs", "retry", "waste-scan/x", "--scope", "eu-west-1"); r.code != exitUsage || !strings.Contains(r.err, "ACCOUNT/REGION") {
		t.Errorf("code %d: %s", r.code, r.err)
	}
}

func TestLogsFollowGoesOnWhereItWas(t *testing.T) {
	t.Parallel()
	f, env := serve(t, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var out, errOut safeBuffer
	c := &cli{
		out: &out, err: &errOut, now: time.Now, size: func() (int, int) { return 0, 50 },
		lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok },
	}
	done := make(chan int, 1)
	go func() { done <- c.run(ctx, []string{"logs", "--follow", "--text", "entry", "-o", "jsonl"}) }()
	for strings.Count(out.String(), "\n") < 3 && ctx.Err() == nil {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
	cancel()
	if code := <-done; code != exitOK || strings.Count(out.String(), `"id":2`) != 1 || strings.Count(out.String(), "\n") != 3 {
		t.Fatalf("code %d, out %s, err %s", code, out.String(), errOut.String())
	}
	first, second := f.requests[0].(*systemlogv1.WatchEntriesRequest), f.requests[1].(*systemlogv1.WatchEntriesRequest)
	if first.GetFilter() != `message : "entry"` || first.GetSinceTime() != nil || second.GetSinceTime() == nil {
		t.Errorf("it asked for %v and then for %v", first, second)
	}
	for _, args := range [][]string{{"logs", "-f", "--limit", "3"}, {"logs", "-f", "--since", "2h"}, {"logs", "--until", "noon"}} {
		if r := execute(t, env, args...); r.code != exitUsage {
			t.Errorf("%v: code %d: %s", args, r.code, r.err)
		}
	}
}
