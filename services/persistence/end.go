package persistence

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// maxConsecutive is how far an alert counts back.
const maxConsecutive = 100

// FailRun implements RunService.
func (s *Service) FailRun(ctx context.Context, req *runv1.FailRunRequest) (*runv1.FailRunResponse, error) {
	resp := &runv1.FailRunResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		r, shown, err := tx.lockRun(ctx, req.GetRunId())
		if err != nil {
			return err
		}
		resp.Run = shown
		if r.State != runv1.RunState_RUN_STATE_RUNNING {
			return nil
		}
		if r.Planned {
			return errs.New(errs.FailedPrecondition, "RUN_PLANNED", "run %s has its scopes; how it ends follows from them", r.ID)
		}
		r.Error = clean(req.GetError())
		resp.Run, err = tx.endRun(ctx, r, shown, runv1.RunState_RUN_STATE_FAILED)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// CancelRun implements RunService.
func (s *Service) CancelRun(ctx context.Context, req *runv1.CancelRunRequest) (*runv1.CancelRunResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	by := cmp.Or(auth.Actor(ctx, req.GetRequestedBy()), "somebody")
	resp := &runv1.CancelRunResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		if err := tx.lockScopesOf(ctx, req.GetId()); err != nil {
			return err
		}
		r, shown, err := tx.lockRun(ctx, req.GetId())
		if err != nil {
			return err
		}
		switch {
		case r.State == runv1.RunState_RUN_STATE_CANCELLED:
			resp.Run = shown
			return nil
		case r.ended():
			return errs.New(errs.FailedPrecondition, "RUN_ENDED", "run %s has ended already: it is %s", r.ID, strings.TrimPrefix(r.State.String(), "RUN_STATE_"))
		}
		app.Before(ctx, shown)
		if err := tx.cancelRun(ctx, r.ID, by, req.GetReason()); err != nil {
			return err
		}
		_, resp.Run, err = readRun(ctx, tx, tx.NewSelect(), r.ID)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// cancelRun ends a run that has not ended, with its scopes. The rows of its
// scopes and its job are locked.
func (tx *transaction) cancelRun(ctx context.Context, id, by, reason string) error {
	r, _, err := readRun(ctx, tx, tx.NewSelect(), id)
	if err != nil {
		return err
	}
	r.CancelledBy, r.Error = by, "cancelled by "+by
	if reason != "" {
		r.Error += ": " + reason
	}
	return tx.abortRun(ctx, r, runv1.RunState_RUN_STATE_CANCELLED, runv1.ScopeState_SCOPE_STATE_CANCELLED)
}

// abortRun ends a run and those of its scopes that have not ended, for the
// reason in the run's error. The rows of its scopes and its job are locked.
func (tx *transaction) abortRun(ctx context.Context, r *run, state runv1.RunState, scopes runv1.ScopeState) error {
	// All are locked already, but for those of a plan that was made in between, which nobody waits for. Should somebody have
	// one of these, the transaction begins anew: waiting here would be against the order of locks.
	var n int
	err := tx.NewRaw("SELECT count(*) FROM (SELECT FROM run_scopes WHERE run_id = ? AND state < 3 FOR UPDATE NOWAIT) s", r.ID).Scan(ctx, &n)
	if err != nil {
		return err
	}
	if n > 0 {
		_, err := tx.NewRaw(`
			UPDATE run_scopes SET state = ?0, end_time = ?1, retry_time = NULL,
				error = CASE error WHEN '' THEN ?2 ELSE ?2 || '; its last attempt: ' || error END
			WHERE run_id = ?3 AND state < 3`, scopes, micros(tx.now), r.Error, r.ID).Exec(ctx)
		if err != nil {
			return err
		}
		if err := tx.forget(ctx, func(q bun.QueryBuilder) bun.QueryBuilder { return q.Where("run_id = ?", r.ID) }); err != nil {
			return err
		}
	}
	sums, err := readRuns(ctx, tx, []*run{r})
	if err != nil {
		return err
	}
	_, err = tx.endRun(ctx, r, sums[0], state)
	return err
}

// lockScopesOf locks the rows of all scopes of runs that have not ended.
func (tx *transaction) lockScopesOf(ctx context.Context, ids ...string) error {
	if len(ids) == 0 {
		return nil
	}
	_, err := tx.NewRaw("SELECT FROM run_scopes WHERE run_id IN (?) AND state < 3 ORDER BY run_id, account, region, service FOR UPDATE", bun.List(ids)).Exec(ctx)
	return err
}

// failScope ends a scope that no execution will. Its row is locked.
func (tx *transaction) failScope(ctx context.Context, row *runScope, why string) error {
	end := micros(tx.now)
	row.State, row.EndTime, row.RetryTime = runv1.ScopeState_SCOPE_STATE_FAILED, &end, nil
	if row.Error != "" {
		why += "; its last attempt: " + row.Error
	}
	row.Error = why
	if err := tx.saveScope(ctx, row); err != nil {
		return err
	}
	c := coverageOf(row.scopeKey, &scanv1.Coverage{ResourceType: "*", Status: scanv1.CoverageStatus_COVERAGE_STATUS_FAILED, Error: why})
	if _, err := tx.NewInsert().Model(c).On("CONFLICT DO NOTHING").Exec(ctx); err != nil {
		return err
	}
	if err := tx.forget(ctx, row.where); err != nil {
		return err
	}
	return tx.finishRuns(ctx, []*runScope{row})
}

// finishRuns goes on after scopes have ended: with the runs they were the last of.
func (tx *transaction) finishRuns(ctx context.Context, ended []*runScope) error {
	var ids []string
	for _, row := range ended {
		if !slices.Contains(ids, row.RunID) {
			ids = append(ids, row.RunID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	runs, err := tx.lockRuns(ctx, ids...)
	if err != nil {
		return err
	}
	for _, r := range runs {
		for _, row := range ended {
			if row.RunID == r.ID && row.State != runv1.ScopeState_SCOPE_STATE_SUCCEEDED {
				tx.noteScope(r.Job, row)
			}
		}
		if err := tx.finishRun(ctx, r); err != nil {
			return err
		}
	}
	return nil
}

// finishRun ends a run if its last scope has ended. Its job is locked.
func (tx *transaction) finishRun(ctx context.Context, r *run) error {
	if !r.Planned || r.State != runv1.RunState_RUN_STATE_RUNNING {
		return nil
	}
	var waiting bool
	err := tx.NewRaw("SELECT EXISTS (SELECT FROM run_scopes WHERE run_id = ? AND state < 3)", r.ID).Scan(ctx, &waiting)
	if err != nil || waiting {
		return err
	}
	runs, err := readRuns(ctx, tx, []*run{r})
	if err != nil {
		return err
	}
	scopes := runs[0].GetScopes()
	state := runv1.RunState_RUN_STATE_PARTIAL
	switch scopes.GetTotal() {
	case scopes.GetFailed(): // also when there was none
		state = runv1.RunState_RUN_STATE_FAILED
	case scopes.GetSucceeded():
		state = runv1.RunState_RUN_STATE_SUCCEEDED
	}
	if n := scopes.GetFailed() + scopes.GetPartial(); n > 0 {
		var first runScope
		err := tx.NewSelect().Model(&first).Where("rs.run_id = ? AND rs.state > 3", r.ID).Order("state DESC", "account", "region").Limit(1).Scan(ctx)
		if err != nil {
			return err
		}
		r.Error = fmt.Sprintf("%d of %s could not be seen in full; %s/%s: %s", n, count(int(scopes.GetTotal()), "scope"), first.Account, first.Region, first.Error)
		if first.account() == "" { // not of an account: there is no seeing in it
			r.Error = fmt.Sprintf("%d of %s failed; %s: %s", n, count(int(scopes.GetTotal()), "scope"), cmp.Or(first.region(), r.Job), first.Error)
		}
	}
	_, err = tx.endRun(ctx, r, runs[0], state)
	return err
}

// endRun ends a run with what was found, says so, and lets the next one of its
// job begin. The job is locked.
func (tx *transaction) endRun(ctx context.Context, r *run, sums *runv1.Run, state runv1.RunState) (*runv1.Run, error) {
	end := latest(micros(tx.now), r.StartTime)
	r.State, r.EndTime = state, &end
	var err error
	r.Figures, err = proto.Marshal(&runv1.Run{Scopes: sums.GetScopes(), Progress: sums.GetProgress(), Findings: sums.GetFindings(), HeartbeatTime: sums.GetHeartbeatTime()})
	if err != nil {
		return nil, err
	}
	if _, err := tx.NewUpdate().Model(r).Column("state", "end_time", "error", "cancelled_by", "figures").WherePK().Exec(ctx); err != nil {
		return nil, err
	}
	ended := r.proto(sums)
	if err := tx.noteEnd(ctx, r, ended); err != nil {
		return nil, err
	}
	tx.publish(&runv1.RunFinished{Run: ended})
	if err := tx.alert(ctx, r, ended); err != nil {
		return nil, err
	}
	tx.wake(topicRun + r.ID)
	return ended, tx.release(ctx, r.Job, r.ID)
}

// noteEnd says in the system log how a run ended.
func (tx *transaction) noteEnd(ctx context.Context, r *run, ended *runv1.Run) error {
	var unsure struct{ Errors, Skipped int64 }
	err := tx.NewRaw("SELECT coalesce(sum(errors), 0)::bigint AS errors, coalesce(sum(insufficient_data), 0)::bigint AS skipped FROM tallies WHERE run_id = ?", r.ID).Scan(ctx, &unsure)
	if err != nil {
		return err
	}
	f, sc, p, took := ended.GetFindings(), ended.GetScopes(), ended.GetProgress(), r.EndTime.Sub(r.StartTime).Round(time.Millisecond)
	e := entry{Level: systemlogv1.Level_LEVEL_INFO, Event: "run_finished", Service: r.Kind, Job: r.Job, RunID: r.ID, Attributes: r.attributes()}
	e.Attributes["state"], e.Attributes["duration"] = word(r.State, "RUN_STATE_"), took.String()
	for name, n := range map[string]int64{
		"evaluated": p.GetVerdicts(), "errors": unsure.Errors, "skipped": unsure.Skipped,
		"opened": f.GetOpened(), "updated": f.GetChanged(), "resolved": f.GetResolved(), "reopened": f.GetReopened(),
		"exempted": f.GetExempted(), "unchanged": f.GetUnchanged(),
		"scopes": int64(sc.GetTotal()), "failed_scopes": int64(sc.GetFailed()),
		"calls": p.GetMeter().GetCalls(), "throttles": p.GetMeter().GetThrottles(),
	} {
		e.Attributes[name] = strconv.FormatInt(n, 10)
	}
	for name, n := range p.GetCounts() { // what is counted has names of its own
		if _, taken := e.Attributes[name]; !taken {
			e.Attributes[name] = strconv.FormatInt(n, 10)
		}
	}
	e.Message = fmt.Sprintf("Run %s finished in %s: %d opened, %d changed, %d resolved, %d reopened, %d exempted, %d unchanged",
		r.ID, took, f.GetOpened(), f.GetChanged(), f.GetResolved(), f.GetReopened(), f.GetExempted(), f.GetUnchanged())
	if r.Error != "" {
		e.Attributes["error"] = r.Error
	}
	switch r.State {
	case runv1.RunState_RUN_STATE_PARTIAL:
		e.Level = systemlogv1.Level_LEVEL_WARN
		e.Message += "; " + r.Error
	case runv1.RunState_RUN_STATE_FAILED:
		e.Level, e.Event = systemlogv1.Level_LEVEL_ERROR, "run_failed"
		e.Message = fmt.Sprintf("Run %s failed after %s: %s", r.ID, took, r.Error)
	case runv1.RunState_RUN_STATE_CANCELLED:
		e.Level, e.Event = systemlogv1.Level_LEVEL_WARN, "run_cancelled"
		e.Message = fmt.Sprintf("Run %s was %s", r.ID, r.Error)
		e.Attributes["cancelled_by"] = r.CancelledBy
	case runv1.RunState_RUN_STATE_SKIPPED:
		e.Event = "run_skipped"
		e.Message = fmt.Sprintf("Run %s was skipped: %s", r.ID, r.Error)
	}
	e.Message += "."
	tx.note(e)
	return nil
}

// alert raises an alert if the run ended in a way its job wants somebody to
// hear of.
func (tx *transaction) alert(ctx context.Context, r *run, ended *runv1.Run) error {
	t, err := r.trigger()
	if err != nil {
		return err
	}
	bad := []runv1.RunState{runv1.RunState_RUN_STATE_FAILED}
	switch t.GetNotifyPolicy() {
	case jobv1.NotifyPolicy_NOTIFY_POLICY_NEVER:
		return nil
	case jobv1.NotifyPolicy_NOTIFY_POLICY_ON_PARTIAL:
		bad = append(bad, runv1.RunState_RUN_STATE_PARTIAL)
	}
	if !slices.Contains(bad, r.State) {
		return nil
	}
	// Runs that were skipped or cancelled say nothing about how the job does.
	var before []runv1.RunState
	err = tx.NewSelect().Model((*run)(nil)).Column("state").Where("r.job = ?", r.Job).Where("r.state IN (2, 3, 4)").Where("r.id <> ?", r.ID).
		Order("r.start_time DESC", "r.id").Limit(maxConsecutive-1).Scan(ctx, &before)
	if err != nil {
		return err
	}
	n := slices.IndexFunc(before, func(s runv1.RunState) bool { return !slices.Contains(bad, s) })
	if n < 0 {
		n = len(before)
	}
	tx.publish(&runv1.RunAlertRaised{Run: ended, Consecutive: int32(n) + 1})
	return nil
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}
