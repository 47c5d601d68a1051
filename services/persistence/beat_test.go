package persistence

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/errs"
)

func startScope(t testing.TB, s *Service, run string, sc *scanv1.Scope, execution string) *runv1.StartScopeResponse {
	t.Helper()
	resp, err := s.StartScope(t.Context(), &runv1.StartScopeRequest{RunId: run, Scope: sc, Execution: execution})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func beatScope(t testing.TB, s *Service, run string, sc *scanv1.Scope, execution string, p *scanv1.Progress) bool {
	t.Helper()
	resp, err := s.BeatScope(t.Context(), &runv1.BeatScopeRequest{RunId: run, Scope: sc, Execution: execution, Progress: p})
	if err != nil {
		t.Fatal(err)
	}
	return resp.GetWanted()
}

func retryScope(t testing.TB, s *Service, run string, sc *scanv1.Scope, execution string) *runv1.RetryScopeResponse {
	t.Helper()
	resp, err := s.RetryScope(t.Context(), &runv1.RetryScopeRequest{RunId: run, Scope: sc, Execution: execution, Error: "throttled by " + execution})
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func scopeOf(t testing.TB, s *Service, run string) *runv1.RunScope {
	t.Helper()
	list, err := s.ListRunScopes(t.Context(), &runv1.ListRunScopesRequest{RunId: run})
	if err != nil || len(list.GetScopes()) == 0 {
		t.Fatal(list, err)
	}
	return list.GetScopes()[0]
}

func TestStartScope(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	if _, err := s.StartScope(t.Context(), &runv1.StartScopeRequest{RunId: "job/1", Scope: here, Execution: "1.1"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a scope that is none: %v", err)
	}
	startRun(t, s, "job/1", here)
	for _, step := range []struct {
		after     time.Duration
		execution string
		delay     time.Duration
		attempt   int32
	}{
		{0, "1.1", 0, 1},
		{0, "1.1", 0, 1}, // asked again
		{5 * time.Second, "1.2", 10 * time.Second, 1},
		{9 * time.Second, "1.2", time.Second, 1},
		{time.Second, "1.2", 0, 2}, // 1.1 has been silent for 15 s
	} {
		c.advance(step.after)
		if got := startScope(t, s, "job/1", here, step.execution); !got.GetWanted() || got.GetRetryDelay().AsDuration() != step.delay || got.GetAttempt() != step.attempt {
			t.Errorf("%s: %v, want %v", step.execution, got, step)
		}
	}
	if sc := scopeOf(t, s, "job/1"); sc.GetAttempts() != 2 || sc.GetState() != runv1.ScopeState_SCOPE_STATE_RUNNING || !sc.GetStartTime().AsTime().Equal(epoch) {
		t.Errorf("scope is %v", sc)
	}
	finishScope(t, s, finished("job/1", "1.2", 0, at(0), complete))
	if startScope(t, s, "job/1", here, "1.3").GetWanted() {
		t.Error("a scope that has ended is wanted")
	}
}

// A scope that kills whatever takes it ends.
func TestScopeThatKillsItsWorkers(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	startRun(t, s, "job/1", here)
	for n := 1; n <= maxLost; n++ {
		if got := startScope(t, s, "job/1", here, fmt.Sprint("1.", n)); !got.GetWanted() || got.GetAttempt() != int32(n) {
			t.Fatalf("execution %d: %v", n, got)
		}
		c.advance(30 * time.Second)
	}
	if got := startScope(t, s, "job/1", here, "1.11"); got.GetWanted() {
		t.Error("the eleventh execution is wanted")
	}
	if sc := scopeOf(t, s, "job/1"); sc.GetState() != runv1.ScopeState_SCOPE_STATE_FAILED || !strings.Contains(sc.GetError(), "died or hung 10 times") || sc.GetCoverage()[0].GetResourceType() != "*" {
		t.Errorf("scope is %v", sc)
	}
	if run := getRun(t, s, "job/1"); run.GetState() != runv1.RunState_RUN_STATE_FAILED {
		t.Errorf("run is %v", run)
	}
}

func TestBeatScope(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	ctx := t.Context()
	if _, err := s.BeatScope(ctx, &runv1.BeatScopeRequest{RunId: "job/1", Scope: here, Execution: "1.1"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a scope that is none: %v", err)
	}
	startRun(t, s, "job/1", here)
	if beatScope(t, s, "job/1", here, "1.1", nil) {
		t.Error("an execution that has not begun is wanted")
	}
	startScope(t, s, "job/1", here, "1.1")
	c.advance(3 * time.Second)
	for _, p := range []*scanv1.Progress{
		{Resources: 7, Verdicts: 3, MonthlyCost: 1.5, Meter: &scanv1.Meter{Calls: 2, BilledCost: 0.25}, Counts: map[string]int64{"deleted": 4}},
		{Resources: 5, Verdicts: 4, MonthlyCost: 1, Counts: map[string]int64{"deleted": 3, "kept": 1}}, // late
		nil,
		{Resources: -1, Verdicts: 1 << 62, Counts: map[string]int64{"kept": -5, strings.Repeat("x", maxCountName+1): 1}}, // nonsense
	} {
		if !beatScope(t, s, "job/1", here, "1.1", p) {
			t.Error("an execution at work is not wanted")
		}
	}
	want := &scanv1.Progress{Resources: 7, Verdicts: maxFigure, MonthlyCost: 1.5, Meter: &scanv1.Meter{Calls: 2, BilledCost: 0.25}, Counts: map[string]int64{"deleted": 4, "kept": 1}}
	run, sc := getRun(t, s, "job/1"), scopeOf(t, s, "job/1")
	if !proto.Equal(run.GetProgress(), want) || !proto.Equal(sc.GetProgress(), want) {
		t.Errorf("progress of the run %v, of the scope %v, want %v", run.GetProgress(), sc.GetProgress(), want)
	}
	if at := epoch.Add(3 * time.Second); !run.GetHeartbeatTime().AsTime().Equal(at) || !sc.GetHeartbeatTime().AsTime().Equal(at) {
		t.Errorf("heartbeat of the run %v, of the scope %v, want %v", run.GetHeartbeatTime().AsTime(), sc.GetHeartbeatTime().AsTime(), at)
	}
	// Another execution begins anew, and what the first says does not count any more.
	c.advance(time.Minute)
	startScope(t, s, "job/1", here, "1.2")
	if beatScope(t, s, "job/1", here, "1.1", &scanv1.Progress{Resources: 99}) {
		t.Error("an execution that another took over from is wanted")
	}
	observe(t, s, &findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: "1.1", Sequence: 1, Progress: &scanv1.Progress{Resources: 88}})
	observe(t, s, &findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: "1.2", Sequence: 1, Progress: &scanv1.Progress{Resources: 2}})
	if p := scopeOf(t, s, "job/1").GetProgress(); p.GetResources() != 2 || len(p.GetCounts()) > 0 || p.GetMeter().GetCalls() != 2 {
		t.Errorf("progress of the second execution is %v", p)
	}
	// While the row is locked a beat is neither late nor lost.
	tx, err := s.bun.BeginTx(ctx, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("SELECT FROM run_scopes FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	if !beatScope(t, s, "job/1", here, "1.2", nil) || beatScope(t, s, "job/1", here, "1.1", nil) {
		t.Error("beats of a locked scope are answered wrong")
	}
	tx.Rollback()
	finishScope(t, s, finished("job/1", "1.2", 1, at(0), complete, func(f *scanv1.ScopeFinished) { f.Progress.Counts = map[string]int64{"deleted": 9} }))
	if beatScope(t, s, "job/1", here, "1.2", nil) {
		t.Error("an execution of a scope that has ended is wanted")
	}
	if run := getRun(t, s, "job/1"); run.GetProgress().GetCounts()["deleted"] != 9 || run.GetHeartbeatTime() == nil {
		t.Errorf("the run ended as %v", run)
	}
}

func TestRetryScope(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	req := trigger("job/1")
	req.Trigger.Backoff = &jobv1.Backoff{Initial: durationpb.New(10 * time.Second), Max: durationpb.New(20 * time.Second)}
	if _, err := s.StartRun(t.Context(), req); err != nil {
		t.Fatal(err)
	}
	plan(t, s, "job/1", here)
	startScope(t, s, "job/1", here, "1.1")
	if retryScope(t, s, "job/1", here, "0.9").GetRetry() {
		t.Error("an execution that is not at work may try again")
	}
	first := retryScope(t, s, "job/1", here, "1.1")
	if d := first.GetRetryDelay().AsDuration(); !first.GetRetry() || d < 8*time.Second || d > 12*time.Second {
		t.Errorf("the first failure: %v", first)
	}
	sc := scopeOf(t, s, "job/1")
	if sc.GetState() != runv1.ScopeState_SCOPE_STATE_PENDING || sc.GetFailures() != 1 || sc.GetError() != "throttled by 1.1" || !sc.GetRetryTime().AsTime().Equal(epoch.Add(first.GetRetryDelay().AsDuration())) {
		t.Errorf("after the first failure: %v", sc)
	}
	c.advance(time.Second)
	if again := retryScope(t, s, "job/1", here, "1.1"); !again.GetRetry() || again.GetRetryDelay().AsDuration() != first.GetRetryDelay().AsDuration()-time.Second {
		t.Errorf("asked again: %v", again)
	}
	if beatScope(t, s, "job/1", here, "1.1", nil) {
		t.Error("an execution that gave its scope back is wanted")
	}
	startScope(t, s, "job/1", here, "1.2") // at once: nobody is at work
	if d := retryScope(t, s, "job/1", here, "1.2").GetRetryDelay().AsDuration(); d < 16*time.Second || d > 24*time.Second {
		t.Errorf("the second failure waits for %s", d)
	}
	startScope(t, s, "job/1", here, "1.3")
	for range 2 {
		if got := retryScope(t, s, "job/1", here, "1.3"); got.GetRetry() {
			t.Errorf("the third failure of two allowed: %v", got)
		}
	}
	if got := strings.Join(logged(t, s), " "); got != "run_started run_planned scope_retried scope_retried" {
		t.Errorf("log %s", got)
	}
	finishScope(t, s, finished("job/1", "1.3", 0, at(0), complete, func(f *scanv1.ScopeFinished) { f.Error = "throttled for good" }))
	if sc := scopeOf(t, s, "job/1"); sc.GetState() != runv1.ScopeState_SCOPE_STATE_FAILED || sc.GetFailures() != 2 || sc.GetRetryTime() != nil {
		t.Errorf("at the end: %v", sc)
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	b := &jobv1.Backoff{Initial: durationpb.New(2 * time.Second), Max: durationpb.New(time.Minute)}
	for _, c := range []struct {
		b        *jobv1.Backoff
		failures int32
		spread   float64
		want     time.Duration
	}{
		{nil, 1, 0, time.Second}, {nil, 2, 0, 4 * time.Second}, {nil, 5, 0, 256 * time.Second}, {nil, 6, 0, 5 * time.Minute}, {nil, 1000, 0, 5 * time.Minute},
		{b, 1, 0, 2 * time.Second}, {b, 3, 0, 32 * time.Second}, {b, 4, 0, time.Minute},
		{b, 1, -1, 1600 * time.Millisecond}, {b, 1, 1, 2400 * time.Millisecond}, {b, 9, 1, 72 * time.Second},
	} {
		if got := backoff(c.b, c.failures, c.spread); got != c.want {
			t.Errorf("%v after %d: %s, want %s", c.b, c.failures, got, c.want)
		}
	}
}

// BenchmarkBeatScope gives signs of life a second, of 500 scopes at once whose
// figures change with each. Every 3 s there are 167 a second.
func BenchmarkBeatScope(b *testing.B) {
	s, _ := durable(b)
	scopes := make([]*scanv1.Scope, 500)
	for i := range scopes {
		scopes[i] = &scanv1.Scope{Service: "waste", Account: fmt.Sprintf("%012d", i), Region: "eu-west-1"}
	}
	startRun(b, s, "job/1", scopes...)
	for _, sc := range scopes {
		startScope(b, s, "job/1", sc, "1.1")
	}
	var n atomic.Int64
	for b.Loop() {
		var all sync.WaitGroup
		start := time.Now()
		for _, sc := range scopes {
			all.Go(func() {
				p := &scanv1.Progress{Resources: n.Add(1), Verdicts: n.Load(), Meter: &scanv1.Meter{Calls: n.Load()}}
				if !beatScope(b, s, "job/1", sc, "1.1", p) {
					b.Error("not wanted")
				}
			})
		}
		all.Wait()
		b.ReportMetric(float64(len(scopes))/time.Since(start).Seconds(), "beats/s")
	}
	var size int64
	if err := s.bun.NewRaw("SELECT n_tup_hot_upd * 100 / greatest(n_tup_upd, 1) FROM pg_stat_user_tables WHERE relname = 'run_scopes'").Scan(b.Context(), &size); err != nil {
		b.Fatal(err)
	}
	b.ReportMetric(float64(size), "%hot")
	b.ReportMetric(0, "ns/op")
}

// A kind of job that scans nothing has scopes of no account, and says that it
// did its work by one row of coverage.
func TestScopesThatScanNothing(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	part := func(name string) *scanv1.Scope { return &scanv1.Scope{Service: "janitor", Account: "-", Region: name} }
	done := func(run, name, failure string) {
		f := &scanv1.ScopeFinished{RunId: run, Scope: part(name), Execution: "1.1", StartTime: timestamppb.New(at(0)), Error: failure,
			Progress: &scanv1.Progress{Counts: map[string]int64{"deleted": 2}}}
		if failure == "" {
			f.Coverage = []*scanv1.Coverage{{ResourceType: "*", Status: complete}}
		}
		finishScope(t, s, f)
	}
	begin(t, s, "clean/1", allow, func(t *jobv1.Trigger) { t.Job, t.Kind = "clean", "janitor" })
	plan(t, s, "clean/1", part("logs"), part("tmp"))
	done("clean/1", "logs", "")
	done("clean/1", "tmp", "")
	if r := getRun(t, s, "clean/1"); r.GetState() != succeeded || r.GetProgress().GetCounts()["deleted"] != 4 {
		t.Errorf("run is %v", r)
	}
	begin(t, s, "clean/2", allow, func(t *jobv1.Trigger) { t.Job, t.Kind = "clean", "janitor" })
	plan(t, s, "clean/2", part("-"))
	done("clean/2", "-", "disk full")
	if r := getRun(t, s, "clean/2"); r.GetState() != failed || r.GetError() != "1 of 1 scope failed; clean: disk full" {
		t.Errorf("run is %v", r)
	}
	if e := entriesOf(t, s, "scope_failed"); len(e) != 1 || e[0].GetAccount() != "" || e[0].GetMessage() != "The work failed: disk full." {
		t.Errorf("log %v", e)
	}
}
