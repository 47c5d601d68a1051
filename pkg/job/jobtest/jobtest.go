// Package jobtest stands in for persistence in tests of what handles jobs: it
// keeps runs in memory as RunService says that they are kept, as far as a worker
// can tell.
//
// It is for tests only, and keeps neither findings nor policies of jobs.
package jobtest

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

// Runs is a RunService in memory.
type Runs struct {
	runv1.UnimplementedRunServiceServer

	bus *bus.Bus

	mu   sync.Mutex
	down error
	runs map[string]*run
}

type run struct {
	trigger *jobv1.Trigger
	state   runv1.RunState
	planned bool
	error   string
	scopes  []*Scope
	wanted  []*scanv1.Scope // of a retry
}

// Scope is a scope of a run as it is kept.
type Scope struct {
	// Planned is what it was planned as.
	Planned *runv1.PlannedScope
	// State, Attempts, Failures and Error are those of a RunScope.
	State              runv1.ScopeState
	Attempts, Failures int
	Error              string
	// Execution is the one at work, or the last.
	Execution string
	// Progress is what the last beat told, Beats how many there were.
	Progress *scanv1.Progress
	Beats    int
	// Ends are all ScopeFinished that came, in their order; the first counts.
	Ends []*scanv1.ScopeFinished

	beat time.Time
}

// New keeps runs. It asks for scopes, and hears of their ends, on the bus, which
// is that of a service persistence and is run by the test.
func New(b *bus.Bus) *Runs {
	r := &Runs{bus: b, runs: map[string]*run{}}
	bus.On(b, r.onScopeFinished)
	return r
}

// Connect serves the runs, and what else of persistence more adds, and returns
// a connection to it.
func (r *Runs) Connect(t testing.TB, more ...func(grpc.ServiceRegistrar)) grpc.ClientConnInterface {
	t.Helper()
	return Serve(t, append(more, func(s grpc.ServiceRegistrar) { runv1.RegisterRunServiceServer(s, r) })...)
}

// Serve serves APIs in memory until the test ends, and returns a connection to
// them.
func Serve(t testing.TB, register ...func(grpc.ServiceRegistrar)) grpc.ClientConnInterface {
	t.Helper()
	listener := bufconn.Listen(1 << 20)
	server := grpc.NewServer()
	for _, f := range register {
		f(server)
	}
	conn, err := grpc.NewClient("passthrough:///memory", append(app.ClientOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return listener.DialContext(ctx) }))...)
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	t.Cleanup(func() {
		_ = conn.Close()
		server.Stop()
		<-served
	})
	return conn
}

// Down makes every call fail with err, until it is called with nil.
func (r *Runs) Down(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.down = err
}

// Scopes are copies of a run's scopes, in their order.
func (r *Runs) Scopes(id string) []Scope {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []Scope
	if x := r.runs[id]; x != nil {
		for _, s := range x.scopes {
			c := *s
			c.Ends = slices.Clone(s.Ends)
			out = append(out, c)
		}
	}
	return out
}

// Run is a run, nil when there is none.
func (r *Runs) Run(id string) *runv1.Run {
	r.mu.Lock()
	defer r.mu.Unlock()
	if x := r.runs[id]; x != nil {
		return x.proto()
	}
	return nil
}

func (x *run) proto() *runv1.Run {
	return &runv1.Run{
		Id: x.trigger.GetRunId(), Job: x.trigger.GetJob(), Kind: x.trigger.GetKind(), State: x.state, Cause: x.trigger.GetCause(),
		RetryOf: x.trigger.GetRetryOf(), Error: x.error,
	}
}

func (r *Runs) get(id string) (*run, error) {
	if r.down != nil {
		return nil, r.down
	}
	if r.runs[id] == nil {
		return nil, errs.New(errs.NotFound, "RUN_NOT_FOUND", "there is no run %s", id)
	}
	return r.runs[id], nil
}

func (r *Runs) scope(id string, s *scanv1.Scope) (*run, *Scope, error) {
	x, err := r.get(id)
	if err != nil {
		return nil, nil, err
	}
	i := slices.IndexFunc(x.scopes, func(o *Scope) bool { return proto.Equal(o.Planned.GetScope(), s) })
	if i < 0 {
		return nil, nil, errs.New(errs.NotFound, "SCOPE_NOT_FOUND", "run %s has no scope %v", id, s)
	}
	return x, x.scopes[i], nil
}

// StartRun implements RunService.
func (r *Runs) StartRun(_ context.Context, req *runv1.StartRunRequest) (*runv1.StartRunResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.down != nil {
		return nil, r.down
	}
	x := r.runs[req.GetTrigger().GetRunId()]
	if x == nil {
		x = &run{trigger: req.GetTrigger(), state: runv1.RunState_RUN_STATE_RUNNING}
		r.runs[req.GetTrigger().GetRunId()] = x
	}
	return &runv1.StartRunResponse{Run: x.proto(), Planned: x.planned}, nil
}

// PlanRun implements RunService.
func (r *Runs) PlanRun(ctx context.Context, req *runv1.PlanRunRequest) (*runv1.PlanRunResponse, error) {
	if err := app.Validate(req); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.get(req.GetRunId())
	if err != nil {
		return nil, err
	}
	if x.planned || x.state != runv1.RunState_RUN_STATE_RUNNING {
		return &runv1.PlanRunResponse{Run: x.proto()}, nil
	}
	x.planned = true
	for _, p := range req.GetScopes() {
		if x.wanted != nil && !slices.ContainsFunc(x.wanted, func(w *scanv1.Scope) bool { return proto.Equal(w, p.GetScope()) }) {
			continue
		}
		s := &Scope{Planned: p, State: runv1.ScopeState_SCOPE_STATE_PENDING}
		x.scopes = append(x.scopes, s)
		if f := p.GetFailure(); f != nil {
			s.State, s.Error = runv1.ScopeState_SCOPE_STATE_FAILED, f.GetError()
			continue
		}
		if err := r.bus.Publish(ctx, &scanv1.ScopeRequested{
			RunId: req.GetRunId(), Scope: p.GetScope(), Parameters: x.trigger.GetParameters(), RoleArn: p.GetRoleArn(), ExternalId: p.GetExternalId(),
			Partition: p.GetPartition(), MaxRetries: x.trigger.GetMaxRetries(), Timeout: x.trigger.GetTimeout(), Job: x.trigger.GetJob(),
			PlannedTime: x.trigger.GetPlannedTime(),
		}); err != nil {
			return nil, err
		}
	}
	x.sum()
	return &runv1.PlanRunResponse{Run: x.proto()}, nil
}

// FailRun implements RunService.
func (r *Runs) FailRun(_ context.Context, req *runv1.FailRunRequest) (*runv1.FailRunResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.get(req.GetRunId())
	if err != nil {
		return nil, err
	}
	if x.state == runv1.RunState_RUN_STATE_RUNNING {
		x.state, x.error = runv1.RunState_RUN_STATE_FAILED, req.GetError()
	}
	return &runv1.FailRunResponse{Run: x.proto()}, nil
}

// busyFor is how long an execution counts as alive after a sign of life.
const busyFor = 15 * time.Second

// StartScope implements RunService.
func (r *Runs) StartScope(_ context.Context, req *runv1.StartScopeRequest) (*runv1.StartScopeResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, s, err := r.scope(req.GetRunId(), req.GetScope())
	if err != nil {
		return nil, err
	}
	if s.ended() {
		return &runv1.StartScopeResponse{}, nil
	}
	if left := busyFor - time.Since(s.beat); s.Execution != req.GetExecution() && left > 0 {
		return &runv1.StartScopeResponse{Wanted: true, RetryDelay: durationpb.New(left)}, nil
	}
	if s.Attempts-s.Failures > 10 {
		s.State, s.Error = runv1.ScopeState_SCOPE_STATE_FAILED, "its workers died or hung 10 times"
		x.sum()
		return &runv1.StartScopeResponse{}, nil
	}
	s.Execution, s.beat, s.State = req.GetExecution(), time.Now(), runv1.ScopeState_SCOPE_STATE_RUNNING
	s.Attempts++
	return &runv1.StartScopeResponse{Wanted: true, Attempt: int32(s.Attempts)}, nil
}

// BeatScope implements RunService.
func (r *Runs) BeatScope(_ context.Context, req *runv1.BeatScopeRequest) (*runv1.BeatScopeResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, s, err := r.scope(req.GetRunId(), req.GetScope())
	if err != nil {
		return nil, err
	}
	if s.ended() || s.Execution != req.GetExecution() {
		return &runv1.BeatScopeResponse{}, nil
	}
	s.beat, s.Progress = time.Now(), req.GetProgress()
	s.Beats++
	return &runv1.BeatScopeResponse{Wanted: true}, nil
}

// RetryScope implements RunService.
func (r *Runs) RetryScope(_ context.Context, req *runv1.RetryScopeRequest) (*runv1.RetryScopeResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, s, err := r.scope(req.GetRunId(), req.GetScope())
	if err != nil {
		return nil, err
	}
	if s.ended() || s.Execution != req.GetExecution() {
		return &runv1.RetryScopeResponse{}, nil
	}
	s.Failures++
	s.Error = req.GetError()
	if s.Failures > int(x.trigger.GetMaxRetries()) {
		return &runv1.RetryScopeResponse{}, nil
	}
	s.State, s.beat = runv1.ScopeState_SCOPE_STATE_PENDING, time.Time{}
	delay := cmp.Or(x.trigger.GetBackoff().GetInitial().AsDuration(), time.Second)
	for range s.Failures - 1 {
		delay *= 4
	}
	return &runv1.RetryScopeResponse{Retry: true, RetryDelay: durationpb.New(delay)}, nil
}

// CancelRun implements RunService.
func (r *Runs) CancelRun(_ context.Context, req *runv1.CancelRunRequest) (*runv1.CancelRunResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.get(req.GetId())
	if err != nil {
		return nil, err
	}
	x.state = runv1.RunState_RUN_STATE_CANCELLED
	for _, s := range x.scopes {
		if !s.ended() {
			s.State = runv1.ScopeState_SCOPE_STATE_CANCELLED
		}
	}
	return &runv1.CancelRunResponse{Run: x.proto()}, nil
}

// RetryRun implements RunService.
func (r *Runs) RetryRun(ctx context.Context, req *runv1.RetryRunRequest) (*runv1.RetryRunResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.get(req.GetId())
	if err != nil {
		return nil, err
	}
	again := proto.CloneOf(x.trigger)
	again.RunId, again.Cause, again.RetryOf = x.trigger.GetJob()+"/retry-"+req.GetRequestId(), jobv1.Cause_CAUSE_RETRY, req.GetId()
	if y := r.runs[again.GetRunId()]; y != nil {
		return &runv1.RetryRunResponse{Run: y.proto()}, nil
	}
	var wanted []*scanv1.Scope
	for _, s := range x.scopes {
		asked := len(req.GetScopes()) == 0 || slices.ContainsFunc(req.GetScopes(), func(o *scanv1.Scope) bool { return proto.Equal(o, s.Planned.GetScope()) })
		if asked && s.State != runv1.ScopeState_SCOPE_STATE_SUCCEEDED {
			wanted = append(wanted, s.Planned.GetScope())
		}
	}
	if x.state == runv1.RunState_RUN_STATE_RUNNING || len(wanted) == 0 {
		return nil, errs.New(errs.FailedPrecondition, "NOT_RETRIED", "run %s is %s, and %d scopes of it are to do", req.GetId(), x.state, len(wanted))
	}
	y := &run{trigger: again, state: runv1.RunState_RUN_STATE_RUNNING, wanted: wanted}
	r.runs[again.GetRunId()] = y
	return &runv1.RetryRunResponse{Run: y.proto()}, r.bus.Publish(ctx, &runv1.RunReleased{Trigger: again, Release: 1})
}

// GetRun implements RunService.
func (r *Runs) GetRun(_ context.Context, req *runv1.GetRunRequest) (*runv1.GetRunResponse, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x, err := r.get(req.GetId())
	if err != nil {
		return nil, err
	}
	return &runv1.GetRunResponse{Run: x.proto()}, nil
}

func (r *Runs) onScopeFinished(_ context.Context, m *bus.Message[*scanv1.ScopeFinished]) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.end(m.Body)
	return nil
}

func (r *Runs) end(f *scanv1.ScopeFinished) {
	x := r.runs[f.GetRunId()]
	if x == nil {
		return
	}
	for _, s := range x.scopes {
		if !proto.Equal(s.Planned.GetScope(), f.GetScope()) {
			continue
		}
		s.Ends = append(s.Ends, f)
		if s.ended() {
			return
		}
		s.Error, s.Progress = f.GetError(), f.GetProgress()
		complete := !slices.ContainsFunc(f.GetCoverage(), func(c *scanv1.Coverage) bool {
			return c.GetStatus() != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE
		})
		switch {
		case f.GetError() != "":
			s.State = runv1.ScopeState_SCOPE_STATE_FAILED
		case !complete:
			s.State = runv1.ScopeState_SCOPE_STATE_PARTIAL
		default:
			s.State = runv1.ScopeState_SCOPE_STATE_SUCCEEDED
		}
		x.sum()
	}
}

func (s *Scope) ended() bool { return s.State > runv1.ScopeState_SCOPE_STATE_RUNNING }

// sum ends a run whose scopes have ended.
func (x *run) sum() {
	if x.state != runv1.RunState_RUN_STATE_RUNNING || slices.ContainsFunc(x.scopes, func(s *Scope) bool { return !s.ended() }) {
		return
	}
	states := map[runv1.ScopeState]int{}
	for _, s := range x.scopes {
		states[s.State]++
	}
	switch n := len(x.scopes); {
	case n > 0 && states[runv1.ScopeState_SCOPE_STATE_SUCCEEDED] == n:
		x.state = runv1.RunState_RUN_STATE_SUCCEEDED
	case states[runv1.ScopeState_SCOPE_STATE_FAILED] == n:
		x.state, x.error = runv1.RunState_RUN_STATE_FAILED, fmt.Sprintf("%d scopes failed", n)
	default:
		x.state = runv1.RunState_RUN_STATE_PARTIAL
	}
}
