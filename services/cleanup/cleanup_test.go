package cleanup

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

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	cleanupv1 "nightshift.dev/gen/nightshift/cleanup/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	retentionv1 "nightshift.dev/gen/nightshift/retention/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/job/jobtest"
)

var noon = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// store stands in for persistence: it has so much of each target.
type store struct {
	retentionv1.UnimplementedRetentionServiceServer

	mu      sync.Mutex
	left    map[retentionv1.Target]int64
	applied []*retentionv1.ApplyRetentionRequest
	reports []*retentionv1.ReportRetentionRequest
	fail    map[retentionv1.Target]error
}

func (s *store) PreviewRetention(_ context.Context, r *retentionv1.PreviewRetentionRequest) (*retentionv1.PreviewRetentionResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.fail[r.GetTarget()]; err != nil {
		return nil, err
	}
	return &retentionv1.PreviewRetentionResponse{Preview: &retentionv1.Preview{Target: r.GetTarget(), BeforeTime: r.GetBeforeTime(), Count: s.left[r.GetTarget()],
		Retained: []*retentionv1.Retained{{Reason: "they are needed", Count: 3}}}}, nil
}

func (s *store) ApplyRetention(_ context.Context, r *retentionv1.ApplyRetentionRequest) (*retentionv1.ApplyRetentionResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.applied = append(s.applied, r)
	n := min(s.left[r.GetTarget()], int64(r.GetLimit()))
	s.left[r.GetTarget()] -= n
	return &retentionv1.ApplyRetentionResponse{Count: n, Rows: 2 * n, More: s.left[r.GetTarget()] > 0}, nil
}

func (s *store) ReportRetention(_ context.Context, r *retentionv1.ReportRetentionRequest) (*retentionv1.ReportRetentionResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reports = append(s.reports, r)
	return &retentionv1.ReportRetentionResponse{}, nil
}

func (s *store) calls() int { s.mu.Lock(); defer s.mu.Unlock(); return len(s.applied) }

// stage is the service on a real bus, with runs kept in memory.
func stage(t *testing.T, st *store) (*Service, *jobtest.Runs, func(id string, params map[string]string)) {
	t.Helper()
	nats := devtest.NATS(t)
	connect := func(service string) *bus.Bus {
		b, err := bus.Connect(t.Context(), bus.Config{Service: service, Options: nats.Options(), Log: slog.New(slog.DiscardHandler), Grace: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
		return b
	}
	worker, persistence := connect("cleanup"), connect("persistence")
	runs := jobtest.New(persistence)
	conn := runs.Connect(t, func(r grpc.ServiceRegistrar) { retentionv1.RegisterRetentionServiceServer(r, st) })
	s, err := New(Config{Params: "system_log_days = 30, runs_keep=7"}, &app.Env{
		Bus: worker, Log: slog.New(slog.DiscardHandler), Now: func() time.Time { return noon },
		Dial: func(string) grpc.ClientConnInterface { return conn },
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range []*bus.Bus{worker, persistence} {
		done := make(chan error, 1)
		ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		go func() { done <- b.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	until(t, "the kind is handled", func() bool {
		kinds, err := bus.Handled[*jobv1.JobRequested](t.Context(), persistence)
		return err == nil && len(kinds) == 1
	})
	return s, runs, func(id string, params map[string]string) {
		t.Helper()
		if err := persistence.Publish(t.Context(), &jobv1.JobRequested{Trigger: &jobv1.Trigger{
			RunId: id, Job: "cleanup", Kind: "cleanup", Parameters: params, PlannedTime: timestamppb.New(noon.Add(-10 * time.Hour)),
		}}); err != nil {
			t.Fatal(err)
		}
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// One target that fails holds up none, everything goes in batches, and each
// target is reported.
func TestRun(t *testing.T) {
	t.Parallel()
	st := &store{
		left: map[retentionv1.Target]int64{retentionv1.Target_TARGET_RUNS: 12_000, retentionv1.Target_TARGET_SYSTEM_LOG: 3, retentionv1.Target_TARGET_ORPHANS: 2},
		fail: map[retentionv1.Target]error{retentionv1.Target_TARGET_OUTBOX: errs.New(errs.FailedPrecondition, "BROKEN", "the outbox is broken")},
	}
	_, runs, start := stage(t, st)
	start("cleanup/1", map[string]string{"findings_days": "500"})
	until(t, "the run has ended", func() bool { return runs.Run("cleanup/1").GetState() == runv1.RunState_RUN_STATE_PARTIAL })
	scopes := runs.Scopes("cleanup/1")
	if len(scopes) != len(rules) {
		t.Fatalf("%d scopes", len(scopes))
	}
	for i, s := range scopes {
		name, counts := s.Planned.GetScope().GetRegion(), s.Progress.GetCounts()
		if name != rules[i].name {
			t.Errorf("scope %d is %s", i, name)
		}
		want := runv1.ScopeState_SCOPE_STATE_SUCCEEDED
		if name == "outbox" {
			want = runv1.ScopeState_SCOPE_STATE_FAILED
		}
		if s.State != want {
			t.Errorf("%s is %s: %s", name, s.State, s.Error)
		}
		if name == "runs" && (counts["deleted"] != 12_000 || counts["rows"] != 24_000 || counts["batches"] != 3 || counts["kept"] != 3) || name == "orphans" && counts["marked"] != 2 {
			t.Errorf("%s counts %v", name, counts)
		}
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	night := noon.Add(-10 * time.Hour) // the planned time, however late it begins
	for _, r := range st.applied {
		age, keep := 90, int32(0)
		switch r.GetTarget() {
		case retentionv1.Target_TARGET_ORPHANS:
			if r.GetBeforeTime() != nil {
				t.Errorf("%v", r)
			}
			continue
		case retentionv1.Target_TARGET_SYSTEM_LOG: // of the environment
			age = 30
		case retentionv1.Target_TARGET_RUNS:
			keep = 7
		case retentionv1.Target_TARGET_ONBOARDINGS:
			age = 1
		case retentionv1.Target_TARGET_FINDINGS: // of the run
			age = 500
		case retentionv1.Target_TARGET_METRICS, retentionv1.Target_TARGET_EXEMPTIONS, retentionv1.Target_TARGET_SILENCES:
			age = 400
		case retentionv1.Target_TARGET_NOTICES:
			age = 7
		}
		if !r.GetBeforeTime().AsTime().Equal(night.AddDate(0, 0, -age)) || r.GetKeep() != keep || r.GetLimit() != 5000 {
			t.Errorf("%v, want %d days and %d", r, age, keep)
		}
	}
	if len(st.reports) != len(rules)-1 {
		t.Errorf("%d reports", len(st.reports))
	}
	for _, r := range st.reports {
		if r.GetTarget() == retentionv1.Target_TARGET_RUNS && (r.GetCount() != 12_000 || r.GetBatches() != 3 || r.GetRunId() != "cleanup/1" || r.GetJob() != "cleanup" || len(r.GetRetained()) != 1) {
			t.Errorf("report %v", r)
		}
	}
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	st := &store{left: map[retentionv1.Target]int64{retentionv1.Target_TARGET_RUNS: 9}}
	_, runs, start := stage(t, st)
	start("cleanup/1", map[string]string{"dry_run": "true", "targets": "runs, system_log"})
	until(t, "the run has ended", func() bool { return runs.Run("cleanup/1").GetState() == runv1.RunState_RUN_STATE_SUCCEEDED })
	scopes := runs.Scopes("cleanup/1")
	if len(scopes) != 2 || scopes[1].Progress.GetCounts()["would_be_deleted"] != 9 || st.calls() != 0 {
		t.Errorf("%+v after %d calls", scopes, st.calls())
	}
	// Parameters that cannot be: the run says why, and nothing is done.
	start("cleanup/2", map[string]string{"run_days": "3"})
	until(t, "the run has failed", func() bool { return runs.Run("cleanup/2").GetState() == runv1.RunState_RUN_STATE_FAILED })
	if why := runs.Run("cleanup/2").GetError(); !strings.Contains(why, "run_days") || !strings.Contains(why, "runs_days") {
		t.Errorf("failed because %s", why)
	}
}

// A run that is cancelled stops between two batches.
func TestCancel(t *testing.T) {
	t.Parallel()
	st := &store{left: map[retentionv1.Target]int64{retentionv1.Target_TARGET_RUNS: 1 << 40}}
	_, runs, start := stage(t, st)
	start("cleanup/1", map[string]string{"targets": "runs"})
	until(t, "it is at work", func() bool { return st.calls() > 3 })
	if _, err := runs.CancelRun(t.Context(), &runv1.CancelRunRequest{Id: "cleanup/1"}); err != nil {
		t.Fatal(err)
	}
	begun, last, since := time.Now(), st.calls(), time.Now()
	until(t, "it has stopped", func() bool {
		if n := st.calls(); n != last {
			last, since = n, time.Now()
		}
		return time.Since(since) > time.Second
	})
	if took := since.Sub(begun); took > 5*time.Second {
		t.Errorf("it went on for %s", took)
	}
}

func TestPreview(t *testing.T) {
	t.Parallel()
	st := &store{left: map[retentionv1.Target]int64{retentionv1.Target_TARGET_RUNS: 9},
		fail: map[retentionv1.Target]error{retentionv1.Target_TARGET_OUTBOX: errs.New(errs.FailedPrecondition, "BROKEN", "the outbox is broken")}}
	s, _, _ := stage(t, st)
	resp, err := s.PreviewCleanup(t.Context(), &cleanupv1.PreviewCleanupRequest{Parameters: map[string]string{"targets": "runs,outbox"}})
	if err != nil || len(resp.GetTargets()) != 2 {
		t.Fatalf("%v: %v", resp, err)
	}
	if p := resp.GetTargets()[0]; p.GetPreview().GetCount() != 9 || p.GetRule().GetKeep() != 7 || p.GetError() != "" {
		t.Errorf("runs: %v", p)
	}
	if p := resp.GetTargets()[1]; p.GetPreview() != nil || !strings.Contains(p.GetError(), "broken") {
		t.Errorf("outbox: %v", p)
	}
	st.mu.Lock()
	st.fail[retentionv1.Target_TARGET_RUNS] = errs.New(errs.Unavailable, "AWAY", "away")
	st.mu.Unlock()
	if _, err := s.PreviewCleanup(t.Context(), &cleanupv1.PreviewCleanupRequest{}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("while persistence is away: %v", err)
	}
}

func TestParameters(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		params map[string]string
		field  string // of the violation; none when it can be
	}{
		"none":          {nil, ""},
		"all":           {map[string]string{"targets": "", "dry_run": "", "runs_days": " 1 ", "runs_keep": "0", "onboardings_hours": "2", "system_log_days": "3650"}, ""},
		"unknown":       {map[string]string{"log_days": "3"}, "log_days"},
		"empty name":    {map[string]string{"": "3"}, ""},
		"zero":          {map[string]string{"runs_days": "0"}, "runs_days"},
		"negative":      {map[string]string{"runs_days": "-1"}, "runs_days"},
		"too much":      {map[string]string{"runs_days": "3651"}, "runs_days"},
		"no number":     {map[string]string{"runs_days": "90d"}, "runs_days"},
		"overflow":      {map[string]string{"runs_days": "99999999999999999999"}, "runs_days"},
		"keep":          {map[string]string{"runs_keep": "10001"}, "runs_keep"},
		"an hour":       {map[string]string{"onboardings_hours": "1"}, "onboardings_hours"},
		"no bool":       {map[string]string{"dry_run": "perhaps"}, "dry_run"},
		"no target":     {map[string]string{"targets": "runs,,outbox"}, "targets"},
		"other target":  {map[string]string{"targets": "findings,everything"}, "targets"},
		"orphans' days": {map[string]string{"orphans_days": "3"}, "orphans_days"},
	} {
		_, err := apply(c.params, "parameters")
		want := fmt.Sprintf("parameters[%q]", c.field)
		if name == "empty name" {
			want = `parameters[""]`
		} else if c.field == "" {
			if err != nil {
				t.Errorf("%s: %v", name, err)
			}
			continue
		}
		if e := (*errs.Error)(nil); !errors.As(err, &e) || e.Kind() != errs.InvalidArgument || e.Violations()[0].Field != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	o, err := apply(map[string]string{"targets": "Outbox,system_log", "outbox_days": "7"}, "parameters")
	if err != nil || len(o.rules) != 2 || o.rules[0].name != "system-log" || o.rules[1].age != 7 {
		t.Errorf("%+v: %v", o, err)
	}
	if i := slices.IndexFunc(rules, func(r rule) bool { return r.name == "outbox" }); rules[i].age != 30 {
		t.Error("applying parameters changes the rules")
	}
	for _, text := range []string{"runs_days", "runs_days=x", "dry_run=true", "targets=runs", "a=b"} {
		if _, err := environment(text); !errors.Is(err, errs.InvalidArgument) {
			t.Errorf("NIGHTSHIFT_CLEANUP_PARAMS=%s: %v", text, err)
		}
	}
}

// There is a rule for every target, once, and its name can be a scope.
func TestRules(t *testing.T) {
	t.Parallel()
	seen := map[retentionv1.Target]bool{}
	for _, r := range rules {
		if seen[r.target] || r.text == "" || (r.unit == "") != (r.age == 0) {
			t.Errorf("rule %+v", r)
		}
		seen[r.target] = true
	}
	for n, name := range retentionv1.Target_name {
		if target := retentionv1.Target(n); target != 0 && !seen[target] {
			t.Errorf("%s has no rule", name)
		}
	}
}
