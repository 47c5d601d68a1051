package persistence

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

const (
	skip     = jobv1.OverlapPolicy_OVERLAP_POLICY_SKIP
	queueOne = jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ONE
	queueAll = jobv1.OverlapPolicy_OVERLAP_POLICY_QUEUE_ALL
	replace  = jobv1.OverlapPolicy_OVERLAP_POLICY_CANCEL_RUNNING
	allow    = jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW

	running   = runv1.RunState_RUN_STATE_RUNNING
	queued    = runv1.RunState_RUN_STATE_QUEUED
	skipped   = runv1.RunState_RUN_STATE_SKIPPED
	cancelled = runv1.RunState_RUN_STATE_CANCELLED
	failed    = runv1.RunState_RUN_STATE_FAILED
	succeeded = runv1.RunState_RUN_STATE_SUCCEEDED
)

// begin starts a run of a job with an overlap policy.
func begin(t testing.TB, s *Service, id string, policy jobv1.OverlapPolicy, set ...func(*jobv1.Trigger)) *runv1.Run {
	t.Helper()
	req := trigger(id)
	req.Trigger.OverlapPolicy = policy
	for _, f := range set {
		f(req.GetTrigger())
	}
	resp, err := s.StartRun(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetRun()
}

func cancel(t testing.TB, s *Service, id string) *runv1.Run {
	t.Helper()
	resp, err := s.CancelRun(t.Context(), &runv1.CancelRunRequest{Id: id, RequestedBy: "ann", Reason: "wrong accounts"})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetRun()
}

// outgoing are the bodies of the messages of one kind in the outbox.
func outgoing[T any, M interface {
	*T
	proto.Message
}](t testing.TB, s *Service) (messages []M) {
	t.Helper()
	var bodies [][]byte
	name := M(new(T)).ProtoReflect().Descriptor().FullName()
	if err := s.bun.NewRaw("SELECT body FROM outbox WHERE message = ? ORDER BY id", name).Scan(t.Context(), &bodies); err != nil {
		t.Fatal(err)
	}
	for _, b := range bodies {
		m := M(new(T))
		if err := proto.Unmarshal(b, m); err != nil {
			t.Fatal(err)
		}
		messages = append(messages, m)
	}
	return messages
}

// entriesOf are those of an event in the system log, oldest first.
func entriesOf(t testing.TB, s *Service, event string) []*systemlogv1.Entry {
	t.Helper()
	resp, err := s.ListEntries(t.Context(), &systemlogv1.ListEntriesRequest{PageSize: 1000, Filter: fmt.Sprintf("event = %q", event)})
	if err != nil {
		t.Fatal(err)
	}
	slices.Reverse(resp.Entries)
	return resp.GetEntries()
}

func TestOverlap(t *testing.T) {
	t.Parallel()
	states := map[string][]*run{
		"idle":      nil,
		"at work":   {{ID: "a", State: running}},
		"two":       {{ID: "a", State: running}, {ID: "b", State: running}},
		"and waits": {{ID: "a", State: running}, {ID: "q", State: queued}},
		"many wait": {{ID: "a", State: running}, {ID: "q", State: queued}, {ID: "r", State: queued}},
	}
	for _, c := range []struct {
		policy jobv1.OverlapPolicy
		state  string
		want   runv1.RunState
		why    string
	}{
		{0, "idle", running, ""}, {0, "at work", running, ""}, {0, "two", running, ""}, {0, "and waits", running, ""}, {0, "many wait", running, ""},
		{skip, "idle", running, ""}, {skip, "at work", skipped, "a is still at work"}, {skip, "two", skipped, "a is still at work"},
		{skip, "and waits", skipped, "a is still at work"}, {skip, "many wait", skipped, "a is still at work"},
		{queueOne, "idle", running, ""}, {queueOne, "at work", queued, "waits for a"}, {queueOne, "two", queued, "waits for a"},
		{queueOne, "and waits", skipped, "a is still at work, and q waits for it already"}, {queueOne, "many wait", skipped, "a is still at work, and q waits for it already"},
		{queueAll, "idle", running, ""}, {queueAll, "at work", queued, "waits for a"}, {queueAll, "two", queued, "waits for a"},
		{queueAll, "and waits", queued, "waits for a"}, {queueAll, "many wait", queued, "waits for a"},
		{replace, "idle", running, ""}, {replace, "at work", running, ""}, {replace, "two", running, ""}, {replace, "and waits", running, ""}, {replace, "many wait", running, ""},
		{allow, "idle", running, ""}, {allow, "at work", running, ""}, {allow, "two", running, ""}, {allow, "and waits", running, ""}, {allow, "many wait", running, ""},
	} {
		if got, why := overlap(c.policy, states[c.state]); got != c.want || why != c.why {
			t.Errorf("%s while %s: %s because %q, want %s because %q", c.policy, c.state, got, why, c.want, c.why)
		}
	}
}

func TestSkippedRun(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	begin(t, s, "waste-scan/1", skip)
	c.advance(time.Hour)
	for range 2 {
		r := begin(t, s, "waste-scan/2", skip)
		if r.GetState() != skipped || r.GetError() != "waste-scan/1 is still at work" || !r.GetStartTime().AsTime().Equal(at(1)) || !r.GetEndTime().AsTime().Equal(at(1)) {
			t.Errorf("run is %v", r)
		}
	}
	// Another job is none of its business.
	if r := begin(t, s, "other/1", skip, func(t *jobv1.Trigger) { t.Job = "other" }); r.GetState() != running {
		t.Errorf("run of another job is %v", r)
	}
	if got := strings.Join(waiting(t, s), " "); got != "RunStarted RunFinished RunStarted" {
		t.Errorf("events %s", got)
	}
	if ends := outgoing[runv1.RunFinished](t, s); ends[0].GetRun().GetState() != skipped {
		t.Errorf("end %v", ends[0])
	}
	e := entriesOf(t, s, "run_skipped")
	if len(e) != 1 || e[0].GetLevel() != systemlogv1.Level_LEVEL_INFO || e[0].GetMessage() != "Run waste-scan/2 was skipped: waste-scan/1 is still at work." || e[0].GetAttributes()["requested_by"] != "ann" {
		t.Errorf("log %v", e)
	}
}

// Runs that wait begin in the order of their planned times, one after the other.
func TestQueue(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	planned := func(n int) func(*jobv1.Trigger) {
		return func(t *jobv1.Trigger) { t.PlannedTime = timestamppb.New(at(n)) }
	}
	begin(t, s, "waste-scan/1", queueAll)
	begin(t, s, "waste-scan/3", queueAll, planned(3))
	begin(t, s, "waste-scan/2", queueAll, planned(2))
	if r := begin(t, s, "waste-scan/4", queueAll, planned(4)); r.GetState() != queued || r.GetError() != "waits for waste-scan/1" || r.GetEndTime() != nil {
		t.Errorf("a run that waits is %v", r)
	}
	if r := cancel(t, s, "waste-scan/3"); r.GetState() != cancelled || r.GetCancelledBy() != "ann" || r.GetError() != "cancelled by ann: wrong accounts" {
		t.Errorf("a run that was cancelled while it waited is %v", r)
	}
	if r, err := s.PlanRun(t.Context(), &runv1.PlanRunRequest{RunId: "waste-scan/2", Scopes: []*runv1.PlannedScope{{Scope: here}}}); err != nil || r.GetRun().GetState() != queued || r.GetRun().GetScopes().GetTotal() != 0 {
		t.Errorf("planning a run that waits: %v, %v", r, err)
	}
	c.advance(10 * time.Hour)
	plan(t, s, "waste-scan/1", here)
	finishScope(t, s, finished("waste-scan/1", "1.1", 0, at(0), complete))
	r := begin(t, s, "waste-scan/2", queueAll, planned(2)) // as the worker asks that gets RunReleased
	if r.GetState() != running || r.GetError() != "" || !r.GetStartTime().AsTime().Equal(at(10)) {
		t.Errorf("the next run is %v", r)
	}
	if r := getRun(t, s, "waste-scan/4"); r.GetState() != queued {
		t.Errorf("the one after it is %v", r)
	}
	if _, err := s.FailRun(t.Context(), &runv1.FailRunRequest{RunId: "waste-scan/2", Error: "x"}); err != nil {
		t.Fatal(err)
	}
	if r := getRun(t, s, "waste-scan/4"); r.GetState() != running {
		t.Errorf("after that, the last is %v", r)
	}
	released := outgoing[runv1.RunReleased](t, s)
	if len(released) != 2 || released[0].GetTrigger().GetRunId() != "waste-scan/2" || released[0].GetTrigger().GetParameters()["rules"] != "ebs-unattached" || released[0].GetRelease() != 1 {
		t.Errorf("released %v", released)
	}
	if n := len(outgoing[runv1.RunStarted](t, s)); n != 3 {
		t.Errorf("%d runs started, want 3", n)
	}
	e := entriesOf(t, s, "run_released")
	if len(e) != 2 || e[0].GetAttributes()["after"] != "waste-scan/1" || e[0].GetAttributes()["waited"] != "10h0m0s" {
		t.Errorf("log %v", e)
	}
}

func TestCancelRunning(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	begin(t, s, "waste-scan/1", skip)
	plan(t, s, "waste-scan/1", here)
	startScope(t, s, "waste-scan/1", here, "1.1")
	begin(t, s, "waste-scan/2", queueAll)
	if r := begin(t, s, "waste-scan/3", replace); r.GetState() != running {
		t.Errorf("run is %v", r)
	}
	if r := getRun(t, s, "waste-scan/1"); r.GetState() != cancelled || r.GetCancelledBy() != "overlap policy: waste-scan/3" || r.GetScopes().GetCancelled() != 1 {
		t.Errorf("the run before is %v", r)
	}
	if r := getRun(t, s, "waste-scan/2"); r.GetState() != queued {
		t.Errorf("the run that waits is %v", r)
	}
	if beatScope(t, s, "waste-scan/1", here, "1.1", nil) {
		t.Error("a cancelled scope is wanted")
	}
}

func TestCancelRun(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	ctx := t.Context()
	if _, err := s.CancelRun(ctx, &runv1.CancelRunRequest{Id: "none"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a run that is none: %v", err)
	}
	done := &scanv1.Scope{Service: "waste", Account: "111122223333", Region: "eu-central-1"}
	waits := &scanv1.Scope{Service: "waste", Account: "111122223333", Region: "us-east-1"}
	startRun(t, s, "job/1", done, here, waits)
	startScope(t, s, "job/1", here, "1.1")
	finishScope(t, s, finished("job/1", "1.1", 0, at(0), complete, func(f *scanv1.ScopeFinished) { f.Scope = done }))
	observe(t, s, &findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: "1.1", Sequence: 1, Observations: []*scanv1.Observation{violation("v1", at(0))}})
	finishScope(t, s, finished("job/1", "1.1", 2, at(0), complete)) // waits for the second batch
	c.advance(time.Minute)
	for range 2 {
		r := cancel(t, s, "job/1")
		if want := (&runv1.ScopeCounts{Total: 3, Succeeded: 1, Cancelled: 2}); r.GetState() != cancelled || !proto.Equal(r.GetScopes(), want) || r.GetFindings().GetOpened() != 1 {
			t.Errorf("run is %v, want scopes %v and a finding", r, want)
		}
	}
	if startScope(t, s, "job/1", waits, "2.1").GetWanted() || beatScope(t, s, "job/1", here, "1.1", nil) || retryScope(t, s, "job/1", here, "1.1").GetRetry() {
		t.Error("a cancelled scope is wanted")
	}
	// What comes late is ignored, and leaves nothing behind.
	observe(t, s, &findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: "1.1", Sequence: 2, Observations: []*scanv1.Observation{violation("v2", at(0))}})
	finishScope(t, s, finished("job/1", "1.1", 2, at(0), complete))
	var kept int
	if err := s.bun.NewRaw("SELECT (SELECT count(*) FROM batches) + (SELECT count(*) FROM finishes)").Scan(ctx, &kept); err != nil || kept != 0 {
		t.Errorf("%d rows are left of the cancelled scope (%v)", kept, err)
	}
	if r := getRun(t, s, "job/1"); r.GetState() != cancelled || r.GetFindings().GetOpened() != 1 {
		t.Errorf("afterwards the run is %v", r)
	}
	if e := entriesOf(t, s, "run_cancelled"); len(e) != 1 || e[0].GetAttributes()["cancelled_by"] != "ann" || e[0].GetMessage() != "Run job/1 was cancelled by ann: wrong accounts." {
		t.Errorf("log %v", e)
	}
	if n := len(outgoing[runv1.RunFinished](t, s)); n != 1 {
		t.Errorf("%d ends", n)
	}
	scanOnce(t, s, 2, complete)
	if _, err := s.CancelRun(ctx, &runv1.CancelRunRequest{Id: "waste-scan/2"}); !errors.Is(err, errs.FailedPrecondition) {
		t.Errorf("cancelling a run that has succeeded: %v", err)
	}
}

func TestMissedRuns(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	missed := func(n int32) func(*jobv1.Trigger) {
		return func(t *jobv1.Trigger) {
			t.Missed = &jobv1.MissedTimes{FirstTime: timestamppb.New(at(0)), LastTime: timestamppb.New(at(3)), Count: n}
		}
	}
	for range 2 {
		begin(t, s, "waste-scan/1", skip, missed(4))
	}
	begin(t, s, "waste-scan/2", skip, missed(1))
	begin(t, s, "waste-scan/3", skip)
	e := entriesOf(t, s, "run_missed")
	if len(e) != 2 || e[0].GetLevel() != systemlogv1.Level_LEVEL_WARN || e[0].GetAttributes()["missed"] != "4" ||
		e[0].GetMessage() != "Job waste-scan did not run at 4 planned times from 2026-01-01T00:00:00Z to 2026-01-01T03:00:00Z: nothing could fire." {
		t.Errorf("log %v", e)
	}
}

func TestAlerts(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	never, onFailure, onPartial := jobv1.NotifyPolicy_NOTIFY_POLICY_NEVER, jobv1.NotifyPolicy_NOTIFY_POLICY_ON_FAILURE, jobv1.NotifyPolicy_NOTIFY_POLICY_ON_PARTIAL
	for n, step := range []struct {
		policy jobv1.NotifyPolicy
		ends   runv1.RunState
		want   int32 // consecutive; 0 for no alert
	}{
		{0, failed, 1}, {onFailure, failed, 2}, {onFailure, cancelled, 0}, {onFailure, failed, 3}, {never, failed, 0},
		{onFailure, runv1.RunState_RUN_STATE_PARTIAL, 0}, {onPartial, runv1.RunState_RUN_STATE_PARTIAL, 6}, {onFailure, failed, 1},
		{onPartial, succeeded, 0}, {onPartial, failed, 1},
	} {
		c.advance(time.Hour)
		id := fmt.Sprintf("waste-scan/%d", n)
		begin(t, s, id, skip, func(t *jobv1.Trigger) { t.NotifyPolicy = step.policy })
		plan(t, s, id, here)
		before := len(outgoing[runv1.RunAlertRaised](t, s))
		switch step.ends {
		case cancelled:
			cancel(t, s, id)
		case failed:
			finishScope(t, s, finished(id, "1.1", 0, at(n), denied))
		case succeeded:
			finishScope(t, s, finished(id, "1.1", 0, at(n), complete))
		default:
			finishScope(t, s, finished(id, "1.1", 0, at(n), partial))
		}
		alerts := outgoing[runv1.RunAlertRaised](t, s)
		var got int32
		if len(alerts) > before {
			got = alerts[len(alerts)-1].GetConsecutive()
		}
		if got != step.want {
			t.Errorf("step %d, %v: consecutive %d, want %d", n, step, got, step.want)
		}
	}
}

func TestRunFinishedEntry(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	startRun(t, s, "job/1", here)
	observe(t, s, &findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: "1.1", Sequence: 1, Observations: []*scanv1.Observation{violation("v", at(0))}})
	c.advance(90 * time.Second)
	finishScope(t, s, finished("job/1", "1.1", 1, at(0), complete, func(f *scanv1.ScopeFinished) {
		f.Tallies[0].InsufficientData, f.Tallies[0].Errors, f.Meter.Throttles = 5, 2, 7
		f.Progress.Counts = map[string]int64{"deleted": 4, "opened": 99}
	}))
	want := map[string]string{"cause": "schedule", "state": "succeeded", "evaluated": "1", "opened": "1", "updated": "0", "resolved": "0", "reopened": "0", "exempted": "0",
		"unchanged": "0", "errors": "2", "skipped": "5", "duration": "1m30s", "scopes": "1", "failed_scopes": "0", "calls": "3", "throttles": "7", "deleted": "4"}
	if e := entriesOf(t, s, "run_finished"); len(e) != 1 || fmt.Sprint(e[0].GetAttributes()) != fmt.Sprint(want) {
		t.Errorf("log %v, want %v", e, want)
	}
}

// counting is a log that counts warnings.
type counting struct {
	slog.Handler
	mu   sync.Mutex
	said []string
}

func (c *counting) Enabled(context.Context, slog.Level) bool { return true }
func (c *counting) Handle(_ context.Context, r slog.Record) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	text := r.Message
	r.Attrs(func(a slog.Attr) bool { text += " " + a.String(); return true })
	c.said = append(c.said, text)
	return nil
}

// Fifty triggers of a job at once, at two replicas: one begins.
func TestStartRunAtOnce(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	a, _ := replica(t, dsn)
	b, _ := replica(t, dsn)
	for policy, want := range map[jobv1.OverlapPolicy]map[runv1.RunState]int{
		skip:     {running: 1, skipped: 49},
		queueOne: {running: 1, queued: 1, skipped: 48},
		queueAll: {running: 1, queued: 49},
		replace:  {running: 1, cancelled: 49},
		allow:    {running: 50},
	} {
		var g errgroup.Group
		for i := range 50 {
			s := []*Service{a, b}[i%2]
			g.Go(func() error {
				req := trigger(fmt.Sprintf("%d/%d", policy, i))
				req.Trigger.Job, req.Trigger.OverlapPolicy = policy.String(), policy
				_, err := s.StartRun(t.Context(), req)
				return err
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		var rows []struct {
			State runv1.RunState
			N     int
		}
		if err := a.bun.NewRaw("SELECT state, count(*) AS n FROM runs WHERE job = ? GROUP BY state", policy.String()).Scan(t.Context(), &rows); err != nil {
			t.Fatal(err)
		}
		got := map[runv1.RunState]int{}
		for _, r := range rows {
			got[r.State] = r.N
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%s: %v, want %v", policy, got, want)
		}
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	startRun(t, s, "job/1", here)
	ctx := t.Context()
	start := func(spoil func(*jobv1.Trigger)) func() error {
		return func() error {
			req := trigger("job/2")
			spoil(req.GetTrigger())
			_, err := s.StartRun(ctx, req)
			return err
		}
	}
	nul := &scanv1.Scope{Service: "waste", Account: "1\x00", Region: "-"}
	names := map[string]int64{}
	for i := range maxCounts + 1 {
		names[fmt.Sprint(i)] = 1
	}
	for field, call := range map[string]func() error{
		"trigger.run_id":            start(func(t *jobv1.Trigger) { t.RunId = "" }),
		"trigger.job":               start(func(t *jobv1.Trigger) { t.Job = strings.Repeat("x", 64) }),
		"trigger.kind":              start(func(t *jobv1.Trigger) { t.Kind = strings.Repeat("x", 64) }),
		"trigger.cause":             start(func(t *jobv1.Trigger) { t.Cause = 70000 }),
		"trigger.overlap_policy":    start(func(t *jobv1.Trigger) { t.OverlapPolicy = 9 }),
		"trigger.notify_policy":     start(func(t *jobv1.Trigger) { t.NotifyPolicy = -1 }),
		"trigger.timeout":           start(func(t *jobv1.Trigger) { t.Timeout = &durationpb.Duration{Seconds: -1} }),
		"trigger.run_timeout":       start(func(t *jobv1.Trigger) { t.RunTimeout = &durationpb.Duration{Seconds: 1, Nanos: -1} }),
		"trigger.backoff.initial":   start(func(t *jobv1.Trigger) { t.Backoff = &jobv1.Backoff{Initial: durationpb.New(-1)} }),
		"trigger.backoff.max":       start(func(t *jobv1.Trigger) { t.Backoff = &jobv1.Backoff{Max: durationpb.New(-1)} }),
		"trigger.max_retries":       start(func(t *jobv1.Trigger) { t.MaxRetries = -1 }),
		"trigger.missed.count":      start(func(t *jobv1.Trigger) { t.Missed = &jobv1.MissedTimes{Count: -1} }),
		"trigger.missed.first_time": start(func(t *jobv1.Trigger) { t.Missed = &jobv1.MissedTimes{Count: 1} }),
		"trigger.retry_of":          start(func(t *jobv1.Trigger) { t.RetryOf = "a\x00" }),
		"scopes[0].failure.status": func() error {
			_, err := s.PlanRun(ctx, &runv1.PlanRunRequest{RunId: "job/1", Scopes: []*runv1.PlannedScope{{Scope: here, Failure: &scanv1.Coverage{Status: 70000}}}})
			return err
		},
		"scope.account": func() error {
			_, err := s.StartScope(ctx, &runv1.StartScopeRequest{RunId: "job/1", Scope: nul, Execution: "1.1"})
			return err
		},
		"execution": func() error {
			_, err := s.BeatScope(ctx, &runv1.BeatScopeRequest{RunId: "job/1", Scope: here, Execution: "\x00"})
			return err
		},
		"progress.counts": func() error {
			_, err := s.BeatScope(ctx, &runv1.BeatScopeRequest{RunId: "job/1", Scope: here, Execution: "1.1", Progress: &scanv1.Progress{Counts: names}})
			return err
		},
		"error": func() error {
			_, err := s.RetryScope(ctx, &runv1.RetryScopeRequest{RunId: "job/1", Scope: here, Execution: "1.1", Error: "\x00"})
			return err
		},
		"reason": func() error {
			_, err := s.CancelRun(ctx, &runv1.CancelRunRequest{Id: "job/1", Reason: "\x00"})
			return err
		},
		"request_id": func() error {
			_, err := s.RetryRun(ctx, &runv1.RetryRunRequest{Id: "job/1", RequestId: "\x00"})
			return err
		},
		"filter": func() error {
			_, err := s.ListRuns(ctx, &runv1.ListRunsRequest{Filter: "retry = 1"})
			return err
		},
		"since_time": func() error {
			return s.WatchEntries(&systemlogv1.WatchEntriesRequest{SinceTime: timestamppb.New(epoch.Add(-2 * time.Hour))}, &following[systemlogv1.WatchEntriesResponse]{streamed: streamed[systemlogv1.WatchEntriesResponse]{ctx: ctx}})
		},
	} {
		err := call()
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || len(e.Violations()) == 0 || e.Violations()[0].Field != field {
			t.Errorf("%s: %v", field, err)
		}
	}
}
