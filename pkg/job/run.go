package job

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

// onTrigger starts a run, and plans it when persistence says that it is its
// turn. Doing it twice is doing it once.
func (w *worker) onTrigger(ctx context.Context, t *jobv1.Trigger, attempt int, sequence uint64, replayed bool) error {
	if t == nil { // an armed record fires nothing
		return nil
	}
	started, err := call(ctx, w.runs.StartRun, &runv1.StartRunRequest{Trigger: t})
	if err != nil {
		return await(fmt.Errorf("start run %s: %w", t.GetRunId(), err))
	}
	if started.GetRun().GetState() != runv1.RunState_RUN_STATE_RUNNING || started.GetPlanned() {
		if replayed && started.GetRun().GetState() == runv1.RunState_RUN_STATE_FAILED {
			return w.replay(ctx, sequence, &runv1.RetryRunRequest{Id: t.GetRunId()})
		}
		return nil
	}
	if attempt > int(t.GetMaxRetries())+maxDeaths {
		return w.failRun(ctx, t, fmt.Errorf("the workers that planned it died or hung %d times", maxDeaths), true)
	}
	scopes, err := w.plan(ctx, t)
	switch {
	case err == nil:
	case ctx.Err() != nil: // the process is stopping; another will do it
		return context.Cause(ctx)
	case errors.As(err, new(awaited)):
		return later(awaitDelay(), fmt.Errorf("plan run %s: %w", t.GetRunId(), err))
	case !w.mayPass(err):
		return w.failRun(ctx, t, err, false)
	case attempt > int(t.GetMaxRetries()):
		return w.failRun(ctx, t, err, true)
	default:
		return errs.New(errs.Aborted, "PLAN_FAILED", "run %s could not be planned", t.GetRunId()).RetryAfter(delay(t.GetBackoff(), attempt)).Wrap(err)
	}
	if _, err := call(ctx, w.runs.PlanRun, &runv1.PlanRunRequest{RunId: t.GetRunId(), Scopes: scopes}); err != nil {
		if errors.Is(err, errs.InvalidArgument) {
			return w.failRun(ctx, t, fmt.Errorf("the plan is refused: %w", err), false)
		}
		return await(fmt.Errorf("plan run %s: %w", t.GetRunId(), err))
	}
	return nil
}

// plan asks the kind for its plan.
func (w *worker) plan(ctx context.Context, t *jobv1.Trigger) ([]*runv1.PlannedScope, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, planTimeout, timeLimit(planTimeout))
	defer cancel()
	var scopes []*runv1.PlannedScope
	err, _ := guarded(ctx, func() time.Duration { return abandonAfter }, func(ctx context.Context) error {
		var err error
		scopes, err = w.kind.Plan(ctx, t)
		return err
	})
	if bug := (*panicked)(nil); errors.As(err, &bug) {
		w.log.ErrorContext(ctx, "planning panicked", "run", t.GetRunId(), "panic", bug.value, "stack", string(bug.stack))
	}
	if err != nil {
		return nil, err
	}
	for _, s := range scopes {
		if s.GetScope() != nil && s.GetScope().GetService() == "" {
			s.Scope.Service = w.kind.Name
		}
	}
	return scopes, nil
}

// failRun ends a run that cannot be planned; dead when its trigger is to be a
// dead letter.
func (w *worker) failRun(ctx context.Context, t *jobv1.Trigger, why error, dead bool) error {
	if _, err := call(ctx, w.runs.FailRun, &runv1.FailRunRequest{RunId: t.GetRunId(), Error: text(why)}); err != nil {
		return await(fmt.Errorf("fail run %s: %w", t.GetRunId(), err))
	}
	if dead {
		return bus.Drop(why)
	}
	return nil
}

// replay begins a run that does what a replayed dead letter is about, whose own
// run has ended.
func (w *worker) replay(ctx context.Context, sequence uint64, req *runv1.RetryRunRequest) error {
	req.RequestId, req.RequestedBy = fmt.Sprintf("replay-%d", sequence), "replay of a dead letter"
	_, err := call(ctx, w.runs.RetryRun, req)
	if !errors.Is(err, errs.FailedPrecondition) {
		if err != nil {
			return await(fmt.Errorf("retry run %s: %w", req.GetId(), err))
		}
		return nil
	}
	// Its other scopes are at work, or nothing of it is left to do.
	run, getErr := call(ctx, w.runs.GetRun, &runv1.GetRunRequest{Id: req.GetId()})
	if getErr != nil {
		return await(fmt.Errorf("read run %s: %w", req.GetId(), getErr))
	}
	if s := run.GetRun().GetState(); s == runv1.RunState_RUN_STATE_RUNNING || s == runv1.RunState_RUN_STATE_QUEUED {
		return later(30*time.Second, err)
	}
	w.log.WarnContext(ctx, "a replayed dead letter has nothing left to do", "run", req.GetId(), "error", err)
	return nil
}

// delay is how long to wait before attempt n+1.
func delay(b *jobv1.Backoff, n int) time.Duration {
	initial, most := time.Second, 5*time.Minute
	if d := b.GetInitial().AsDuration(); d > 0 {
		initial = d
	}
	if d := b.GetMax().AsDuration(); d > 0 {
		most = d
	}
	d := initial
	for range n - 1 {
		if d = min(4*d, most); d == most {
			break
		}
	}
	d = min(d, most)
	return d - d/5 + rand.N(2*d/5+1)
}
