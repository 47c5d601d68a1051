package job

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

// onScopeRequested does one scope. What it did is said before the request is
// done with: a worker that dies on the way leaves the request to another, which
// begins another execution.
func (w *worker) onScopeRequested(ctx context.Context, m *bus.Message[*scanv1.ScopeRequested]) error {
	req, id := m.Body, fmt.Sprintf("%d.%d", m.Sequence, m.Deliveries)
	started, err := call(ctx, w.runs.StartScope, &runv1.StartScopeRequest{RunId: req.GetRunId(), Scope: req.GetScope(), Execution: id})
	if err != nil {
		return await(fmt.Errorf("start scope: %w", err))
	}
	if d := started.GetRetryDelay().AsDuration(); d > 0 {
		return later(d, errors.New("another worker is at it"))
	}
	if !started.GetWanted() {
		if m.Replayed {
			return w.replay(ctx, m.Sequence, &runv1.RetryRunRequest{Id: req.GetRunId(), Scopes: []*scanv1.Scope{req.GetScope()}})
		}
		return nil
	}
	x := &execution{worker: w, task: w.task(req, id, max(int(started.GetAttempt()), 1)), beaten: time.Now()}
	return x.run(ctx)
}

func (w *worker) task(req *scanv1.ScopeRequested, id string, attempt int) *Task {
	t := &Task{
		Run: req.GetRunId(), Job: req.GetJob(), Scope: req.GetScope(), Parameters: req.GetParameters(), Attempt: attempt, Execution: id,
		Log:     w.log.With("run", req.GetRunId(), "account", req.GetScope().GetAccount(), "region", req.GetScope().GetRegion(), "attempt", attempt),
		Request: req, End: &scanv1.ScopeFinished{},
		begun: w.now(), progress: &scanv1.Progress{}, counts: map[string]int64{}, life: time.Now(),
	}
	if p := req.GetPlannedTime(); p != nil {
		t.PlannedTime = p.AsTime()
	}
	return t
}

// execution is an attempt under way.
type execution struct {
	*worker
	task   *Task
	beaten time.Time // when persistence last said that it is wanted
}

// run does the task, says how it ended, and returns the verdict on its request.
func (x *execution) run(ctx context.Context) error {
	t, allowed := x.task, defaultTimeout
	if d := t.Request.GetTimeout().AsDuration(); d > 0 {
		allowed = d
	}
	limited, cancel := context.WithTimeoutCause(ctx, allowed, timeLimit(allowed))
	defer cancel()
	work, end := context.WithCancelCause(limited)
	beats := make(chan struct{})
	go func() { defer close(beats); x.beating(work, end) }()
	err, returned := guarded(work, func() time.Duration {
		if ctx.Err() != nil {
			return abandonAfter / 2
		}
		return abandonAfter
	}, func(ctx context.Context) error { return x.kind.Do(ctx, t) })
	cause := context.Cause(work)
	end(nil)
	<-beats

	if !returned {
		t.Log.ErrorContext(ctx, "the handler does not return and is left alone", "cause", cause)
	}
	if bug := (*panicked)(nil); errors.As(err, &bug) {
		t.Log.ErrorContext(ctx, "the handler panicked", "panic", bug.value, "stack", string(bug.stack))
	}
	switch {
	case errors.Is(cause, errUnwanted):
		return x.leave(ctx)
	case err != nil && errors.Is(cause, errStalled):
		t.Log.WarnContext(ctx, "the scope goes to another worker", "cause", cause, "after", stallAfter)
		return later(time.Second, cause)
	case err != nil && ctx.Err() != nil: // the process is stopping; another will do it
		return context.Cause(ctx)
	case err != nil && errs.Reason(cause) == reasonTimeout && errs.Reason(err) != reasonTimeout:
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
			err = cause
		} else {
			err = fmt.Errorf("%w: %w", cause, err)
		}
	case errors.As(err, new(awaited)):
		return later(awaitDelay(), err)
	}
	// What has been done is told even if the process is to stop just now.
	ctx = context.WithoutCancel(ctx)
	if time.Since(x.beaten) > lapseAfter && !x.wanted(ctx) {
		return x.leave(ctx)
	}
	if !returned { // it may still write to it
		x.task = x.task.without()
	}
	if !x.mayPass(err) {
		return x.finish(ctx, err)
	}
	return x.retry(ctx, err)
}

// leave says nothing of the scope. The request is not acknowledged, for if
// another has it by now that would take it from him: it comes back once more,
// and StartScope says what is left to do.
func (x *execution) leave(ctx context.Context) error {
	x.task.Log.InfoContext(ctx, "the scope is not wanted any more and was left")
	return later(time.Second, errUnwanted)
}

// beating tells persistence of the execution until ctx ends, and ends it when
// it is not wanted or hangs.
func (x *execution) beating(ctx context.Context, end context.CancelCauseFunc) {
	tick := time.NewTicker(beatEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if !x.wanted(ctx) {
			end(errUnwanted)
			return
		}
		if x.task.silent() > stallAfter {
			end(errStalled)
			return
		}
	}
}

// wanted is one beat. While persistence is away everything is.
func (x *execution) wanted(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, beatTimeout)
	defer cancel()
	resp, err := x.runs.BeatScope(ctx, &runv1.BeatScopeRequest{
		RunId: x.task.Run, Scope: x.task.Scope, Execution: x.task.Execution, Progress: x.task.snapshot(),
	})
	if err != nil {
		x.task.Log.DebugContext(ctx, "a sign of life did not arrive", "error", err)
		return true
	}
	x.beaten = time.Now()
	return resp.GetWanted()
}

// retry asks for another attempt, or ends the scope when there is none left.
func (x *execution) retry(ctx context.Context, failed error) error {
	t := x.task
	why := cmp.Or(t.End.GetError(), text(failed))
	resp, err := call(ctx, x.runs.RetryScope, &runv1.RetryScopeRequest{RunId: t.Run, Scope: t.Scope, Execution: t.Execution, Error: why})
	if err != nil {
		return await(fmt.Errorf("ask for another attempt: %w", err))
	}
	if resp.GetRetry() {
		d := resp.GetRetryDelay().AsDuration()
		t.Log.WarnContext(ctx, "an attempt failed and is made again", "in", d, "error", why)
		return later(d, failed)
	}
	// It is the last one, or the run has been cancelled meanwhile.
	run, err := call(ctx, x.runs.GetRun, &runv1.GetRunRequest{Id: t.Run})
	if err != nil {
		return await(fmt.Errorf("read run %s: %w", t.Run, err))
	}
	if run.GetRun().GetState() != runv1.RunState_RUN_STATE_RUNNING {
		return x.leave(ctx)
	}
	if err := x.finish(ctx, failed); err != nil || t.End.GetError() == "" {
		return err
	}
	return bus.Drop(failed)
}

// finish says that the scope has ended, for good.
func (x *execution) finish(ctx context.Context, failed error) error {
	t, f := x.task, x.task.End
	f.RunId, f.Scope, f.Execution = t.Run, t.Scope, t.Execution
	if f.StartTime == nil {
		f.StartTime = timestamppb.New(t.begun)
	}
	f.EndTime = timestamppb.New(x.now())
	if f.Progress == nil {
		f.Progress = t.snapshot()
	}
	if f.Meter == nil {
		f.Meter = f.Progress.GetMeter()
	}
	if len(f.Coverage) == 0 {
		if failed == nil {
			f.Coverage = []*scanv1.Coverage{{ResourceType: "*", Status: scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE}}
		} else {
			f.Error = cmp.Or(f.Error, text(failed))
		}
	}
	ctx, cancel := context.WithTimeout(ctx, rpcTimeout)
	defer cancel()
	if err := x.bus.Publish(ctx, f); err != nil {
		return later(awaitDelay(), fmt.Errorf("publish the end of the scope: %w", err))
	}
	return nil
}
