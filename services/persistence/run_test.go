package persistence

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
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

func trigger(id string) *runv1.StartRunRequest {
	return &runv1.StartRunRequest{Trigger: &jobv1.Trigger{
		RunId: id, Job: "waste-scan", Kind: "waste", Cause: jobv1.Cause_CAUSE_MANUAL, RequestedBy: "ann", PlannedTime: timestamppb.New(epoch),
		Parameters: map[string]string{"rules": "ebs-unattached"}, MaxRetries: 2, Timeout: durationpb.New(90 * time.Second),
	}}
}

func logged(t testing.TB, s *Service) (events []string) {
	t.Helper()
	resp, err := s.ListEntries(t.Context(), &systemlogv1.ListEntriesRequest{PageSize: 1000})
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range resp.GetEntries() {
		events = append(events, e.GetEvent())
	}
	slices.Reverse(events)
	return events
}

// waiting are the short names of the messages in the outbox.
func waiting(t testing.TB, s *Service) (names []string) {
	t.Helper()
	if err := s.bun.NewRaw("SELECT message FROM outbox ORDER BY id").Scan(t.Context(), &names); err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		names[i] = n[strings.LastIndex(n, ".")+1:]
	}
	return names
}

func TestStartRun(t *testing.T) {
	t.Parallel()
	s := service(t)
	var g errgroup.Group
	answers := make([]*runv1.StartRunResponse, 8)
	for i := range answers {
		g.Go(func() (err error) { answers[i], err = s.StartRun(t.Context(), trigger("job/1")); return err })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for _, a := range answers {
		if !proto.Equal(a, answers[0]) || a.GetRun().GetState() != runv1.RunState_RUN_STATE_RUNNING || a.GetPlanned() {
			t.Errorf("answer %v, another is %v", a, answers[0])
		}
	}
	if got := strings.Join(waiting(t, s), " "); got != "RunStarted" {
		t.Errorf("events %s", got)
	}
	if got := strings.Join(logged(t, s), " "); got != "run_started" {
		t.Errorf("log %s", got)
	}
	for name, spoil := range map[string]func(*jobv1.Trigger){
		"trigger.run_id":       func(t *jobv1.Trigger) { t.RunId = strings.Repeat("x", 201) },
		"trigger.job":          func(t *jobv1.Trigger) { t.Job = "" },
		"trigger.kind":         func(t *jobv1.Trigger) { t.Kind = "" },
		"trigger.requested_by": func(t *jobv1.Trigger) { t.RequestedBy = "a\x00b" },
		"trigger.parameters":   func(t *jobv1.Trigger) { t.Parameters = map[string]string{"a\x00": "b"} },
		"trigger.planned_time": func(t *jobv1.Trigger) { t.PlannedTime.Nanos = -1 },
	} {
		req := trigger("job/2")
		spoil(req.GetTrigger())
		_, err := s.StartRun(t.Context(), req)
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != name {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPlanRun(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	if _, err := s.PlanRun(ctx, &runv1.PlanRunRequest{RunId: "job/1"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("planning a run that never started: %v", err)
	}
	if _, err := s.StartRun(ctx, trigger("job/1")); err != nil {
		t.Fatal(err)
	}
	there := &scanv1.Scope{Service: "waste", Account: "444455556666", Region: "-"}
	req := &runv1.PlanRunRequest{RunId: "job/1", Scopes: []*runv1.PlannedScope{
		{Scope: here, RoleArn: "arn:aws:iam::111122223333:role/r", ExternalId: "x", Partition: "aws"},
		{Scope: there, Failure: &scanv1.Coverage{ResourceType: "*", Status: denied, Error: "may not assume the role"}},
	}}
	twice := &runv1.PlanRunRequest{RunId: "job/1", Scopes: append(slices.Clone(req.GetScopes()), req.GetScopes()[0])}
	if _, err := s.PlanRun(ctx, twice); !errors.Is(err, errs.InvalidArgument) || !strings.Contains(err.Error(), "scopes[2].scope") {
		t.Errorf("a scope named twice: %v", err)
	}
	for range 2 {
		resp, err := s.PlanRun(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		if want := (&runv1.ScopeCounts{Total: 2, Pending: 1, Failed: 1}); !proto.Equal(resp.GetRun().GetScopes(), want) {
			t.Errorf("scopes %v, want %v", resp.GetRun().GetScopes(), want)
		}
	}
	if a, err := s.StartRun(ctx, trigger("job/1")); err != nil || !a.GetPlanned() {
		t.Errorf("after planning: %v, %v", a, err)
	}
	if got := strings.Join(waiting(t, s), " "); got != "RunStarted ScopeRequested" {
		t.Errorf("events %s", got)
	}
	if got := strings.Join(logged(t, s), " "); got != "run_started scope_failed run_planned" {
		t.Errorf("log %s", got)
	}
	var body []byte
	if err := s.bun.NewRaw("SELECT body FROM outbox WHERE message LIKE '%ScopeRequested'").Scan(ctx, &body); err != nil {
		t.Fatal(err)
	}
	var requested scanv1.ScopeRequested
	want := &scanv1.ScopeRequested{RunId: "job/1", Scope: here, RoleArn: "arn:aws:iam::111122223333:role/r", ExternalId: "x", Partition: "aws",
		Parameters: map[string]string{"rules": "ebs-unattached"}, MaxRetries: 2, Timeout: durationpb.New(90 * time.Second),
		Job: "waste-scan", PlannedTime: timestamppb.New(epoch)}
	if err := proto.Unmarshal(body, &requested); err != nil || !proto.Equal(&requested, want) {
		t.Errorf("requested %v, want %v (%v)", &requested, want, err)
	}
	observe(t, s, &findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: "1.1", Sequence: 1})
	finishScope(t, s, finished("job/1", "1.1", 1, at(0), complete))
	run := getRun(t, s, "job/1")
	if run.GetState() != runv1.RunState_RUN_STATE_PARTIAL || !strings.Contains(run.GetError(), "444455556666/-: may not assume the role") {
		t.Errorf("run ended as %v", run)
	}
	list, err := s.ListRunScopes(ctx, &runv1.ListRunScopesRequest{RunId: "job/1"})
	if err != nil || len(list.GetScopes()) != 2 || len(list.GetScopes()[0].GetTallies()) != 1 || list.GetScopes()[1].GetCoverage()[0].GetStatus() != denied {
		t.Errorf("scopes %v, %v", list, err)
	}
}

func TestRunsWithNothingToScan(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	for name, c := range map[string]struct {
		scopes []*runv1.PlannedScope
		want   string
	}{
		"none":   {nil, "nothing to scan"},
		"failed": {[]*runv1.PlannedScope{{Scope: here, Failure: &scanv1.Coverage{ResourceType: "*", Status: denied, Error: "no role"}}}, "no role"},
	} {
		if _, err := s.StartRun(ctx, trigger(name)); err != nil {
			t.Fatal(err)
		}
		resp, err := s.PlanRun(ctx, &runv1.PlanRunRequest{RunId: name, Scopes: c.scopes})
		if err != nil {
			t.Fatal(err)
		}
		if r := resp.GetRun(); r.GetState() != runv1.RunState_RUN_STATE_FAILED || !strings.Contains(r.GetError(), c.want) || r.GetEndTime() == nil {
			t.Errorf("%s: run is %v", name, r)
		}
	}
}

func TestFailRun(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	if _, err := s.FailRun(ctx, &runv1.FailRunRequest{RunId: "a\x00b", Error: "x"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("a run that is none: %v", err)
	}
	if _, err := s.StartRun(ctx, trigger("job/1")); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		resp, err := s.FailRun(ctx, &runv1.FailRunRequest{RunId: "job/1", Error: "no credentials\x00"})
		if err != nil || resp.GetRun().GetState() != runv1.RunState_RUN_STATE_FAILED || !strings.HasPrefix(resp.GetRun().GetError(), "no credentials") {
			t.Errorf("%v, %v", resp, err)
		}
	}
	if resp, err := s.PlanRun(ctx, &runv1.PlanRunRequest{RunId: "job/1", Scopes: []*runv1.PlannedScope{{Scope: here}}}); err != nil || resp.GetRun().GetScopes().GetTotal() != 0 {
		t.Errorf("planning a failed run: %v, %v", resp, err)
	}
	if got := strings.Join(waiting(t, s), " "); got != "RunStarted RunFinished RunAlertRaised" {
		t.Errorf("events %s", got)
	}
	startRun(t, s, "job/2", here)
	if _, err := s.FailRun(ctx, &runv1.FailRunRequest{RunId: "job/2", Error: "x"}); !errors.Is(err, errs.FailedPrecondition) {
		t.Errorf("failing a planned run: %v", err)
	}
}

// The last scopes of a run end at the same moment, in different replicas.
func TestLastScopesEndAtOnce(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	a, _ := replica(t, dsn)
	b, _ := replica(t, dsn)
	for r := range 10 {
		id := fmt.Sprintf("job/%d", r)
		other := &scanv1.Scope{Service: "waste", Account: "444455556666", Region: "eu-west-1"}
		startRun(t, a, id, here, other)
		var g errgroup.Group
		for _, s := range []*Service{a, b} {
			g.Go(func() error {
				sc := here
				if s == b {
					sc = other
				}
				return s.onScopeFinished(t.Context(), message(finished(id, "1.1", 0, at(r), complete, func(f *scanv1.ScopeFinished) { f.Scope = sc })))
			})
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		if run := getRun(t, a, id); run.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED {
			t.Fatalf("%s is %v", id, run)
		}
	}
	var ends int
	if err := a.bun.NewRaw("SELECT count(*) FROM outbox WHERE message LIKE '%RunFinished'").Scan(t.Context(), &ends); err != nil || ends != 10 {
		t.Errorf("%d ends of 10 runs (%v)", ends, err)
	}
}

func TestListRuns(t *testing.T) {
	t.Parallel()
	s := service(t)
	for n := range 5 {
		scanOnce(t, s, n, []scanv1.CoverageStatus{complete, partial}[n%2], violation("vol-1", at(n)))
	}
	startRun(t, s, "going", here)
	var ids []string
	token := ""
	for {
		resp, err := s.ListRuns(t.Context(), &runv1.ListRunsRequest{PageSize: 2, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range resp.GetRuns() {
			ids = append(ids, r.GetId())
			if want := getRun(t, s, r.GetId()); !proto.Equal(r, want) {
				t.Errorf("listed as %v, got as %v", r, want)
			}
		}
		if token = resp.GetNextPageToken(); token == "" {
			break
		}
	}
	if got := strings.Join(ids, " "); got != "going waste-scan/4 waste-scan/3 waste-scan/2 waste-scan/1 waste-scan/0" {
		t.Errorf("runs %s", got)
	}
	resp, err := s.ListRuns(t.Context(), &runv1.ListRunsRequest{Filter: `state = "PARTIAL" AND job = "waste-scan"`})
	if err != nil || len(resp.GetRuns()) != 2 {
		t.Errorf("%v, %v", resp, err)
	}
}

// following is a stream that hands over what is sent.
type following[T any] struct {
	streamed[T]
	c chan *T
}

func (s *following[T]) Send(m *T) error {
	select {
	case s.c <- m:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}

func TestWatchRun(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go s.listen(ctx)
	stream := &following[runv1.WatchRunResponse]{streamed[runv1.WatchRunResponse]{ctx: ctx}, make(chan *runv1.WatchRunResponse)}
	ended := make(chan error, 1)
	go func() { ended <- s.WatchRun(&runv1.WatchRunRequest{Id: "job/1"}, stream) }() // before there is such a run
	other := &scanv1.Scope{Service: "waste", Account: "444455556666", Region: "eu-west-1"}
	startRun(t, s, "job/1", here, other)
	scopes := map[string]*runv1.RunScope{}
	until := func(what string, done func(*runv1.Run) bool) {
		t.Helper()
		for {
			select {
			case m := <-stream.c:
				for _, sc := range m.GetScopes() {
					scopes[sc.GetScope().GetAccount()] = sc
				}
				if done(m.GetRun()) {
					return
				}
			case err := <-ended:
				t.Fatalf("the watch ended before %s: %v", what, err)
			}
		}
	}
	until("planned", func(r *runv1.Run) bool { return r.GetScopes().GetPending() == 2 })
	if _, err := s.StartScope(ctx, &runv1.StartScopeRequest{RunId: "job/1", Scope: here, Execution: "1.1"}); err != nil {
		t.Fatal(err)
	}
	until("running", func(r *runv1.Run) bool { return r.GetScopes().GetRunning() == 1 })
	observe(t, s, &findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: "1.1", Sequence: 1, Progress: &scanv1.Progress{Resources: 7}, Observations: []*scanv1.Observation{violation("v", at(0))}})
	until("progress", func(r *runv1.Run) bool { return r.GetProgress().GetResources() == 7 })
	finishScope(t, s, finished("job/1", "1.1", 1, at(0), complete))
	finishScope(t, s, finished("job/1", "1.1", 0, at(0), complete, func(f *scanv1.ScopeFinished) { f.Scope = other }))
	until("the end", func(r *runv1.Run) bool { return r.GetState() == runv1.RunState_RUN_STATE_SUCCEEDED })
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for account, sc := range scopes {
		if sc.GetState() != runv1.ScopeState_SCOPE_STATE_SUCCEEDED {
			t.Errorf("%s was last said to be %s", account, sc.GetState())
		}
	}
}
