package persistence

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/uptrace/bun"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
)

// The reaper is the last resort: it ends what takes too long and asks again for
// what was asked for and never happened. Whatever it asks for was asked for
// before, and asking again is always safe.
const (
	// reapEvery is how often it looks.
	reapEvery = 15 * time.Second
	// reapBatch is how many runs, or scopes, one look takes of a kind.
	reapBatch = 200
	// unplannedFor is how long a run waits for its plan before it is released
	// again; after each release it is that much longer, up to maxUnplanned.
	unplannedFor = 2 * time.Minute
	maxUnplanned = 30 * time.Minute
	// silentFor is how long nothing is heard of a scope before it is requested
	// again. It is longer than the stream remembers the message of before.
	silentFor = 15 * time.Minute
)

// reap looks after runs that are stuck, until ctx ends. All replicas do; of
// each run it is one.
func (s *Service) reap(ctx context.Context) {
	s.every(ctx, reapEvery, "look after runs that are stuck", s.reapOnce)
}

// every does things now and again and again, until ctx ends. One that fails is
// said, and is done the next time.
func (s *Service) every(ctx context.Context, interval time.Duration, what string, do ...func(context.Context) error) {
	poll := time.NewTimer(0)
	defer poll.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-poll.C:
		}
		for _, do := range do {
			if err := do(ctx); err != nil && ctx.Err() == nil {
				s.log.WarnContext(ctx, "cannot "+what+"; trying again", "error", err)
			}
		}
		poll.Reset(interval)
	}
}

// reapOnce looks once.
func (s *Service) reapOnce(ctx context.Context) error {
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	now := micros(s.now())
	var failures []error
	for _, step := range []struct {
		query func() *bun.SelectQuery
		do    func(*transaction, context.Context, *run) error
		// scopes says that the rows of the run's scopes are to be locked.
		scopes bool
	}{
		{func() *bun.SelectQuery {
			return db.NewSelect().Where("r.state = 1").Where("r.start_time + make_interval(secs => r.run_timeout_ms / 1000.0) <= ?", now)
		}, (*transaction).timeOut, true},
		{func() *bun.SelectQuery {
			return db.NewSelect().Where("r.state = 1 AND NOT r.planned").Where("coalesce(r.release_time, r.start_time) + least(greatest(r.releases, 1) * make_interval(secs => ?), make_interval(secs => ?)) <= ?",
				unplannedFor.Seconds(), maxUnplanned.Seconds(), now)
		}, (*transaction).releaseAgain, false},
		{func() *bun.SelectQuery {
			return db.NewSelect().Where("r.state = 5 AND NOT EXISTS (SELECT FROM runs o WHERE o.job = r.job AND o.state = 1)")
		}, func(tx *transaction, ctx context.Context, r *run) error { return tx.release(ctx, r.Job, "") }, false},
	} {
		var ids []string
		if err := step.query().Model((*run)(nil)).Column("id").Order("r.start_time", "r.id").Limit(reapBatch).Scan(ctx, &ids); err != nil {
			return errors.Join(append(failures, fault(err))...)
		}
		for _, id := range ids {
			err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
				if step.scopes {
					if err := tx.lockScopesOf(ctx, id); err != nil {
						return err
					}
				}
				r, _, err := tx.lockRun(ctx, id)
				if err != nil {
					return err
				}
				return step.do(tx, ctx, r)
			})
			if err != nil { // which is no reason to leave the others stuck
				failures = append(failures, fmt.Errorf("run %s: %w", id, err))
			}
		}
	}
	return errors.Join(append(failures, s.requestSilent(ctx))...)
}

// timeOut ends a run that took too long.
func (tx *transaction) timeOut(ctx context.Context, r *run) error {
	timeout := time.Duration(r.RunTimeoutMS) * time.Millisecond
	if r.State != runv1.RunState_RUN_STATE_RUNNING || tx.now.Sub(r.StartTime) < timeout {
		return nil
	}
	r.Error = fmt.Sprintf("it took longer than the %s a run of the job may take", timeout)
	return tx.abortRun(ctx, r, runv1.RunState_RUN_STATE_FAILED, runv1.ScopeState_SCOPE_STATE_FAILED)
}

// releaseAgain asks once more for the plan of a run.
func (tx *transaction) releaseAgain(ctx context.Context, r *run) error {
	since := r.StartTime
	if r.ReleaseTime != nil {
		since = *r.ReleaseTime
	}
	wait := min(unplannedFor*time.Duration(max(r.Releases, 1)), maxUnplanned)
	if r.State != runv1.RunState_RUN_STATE_RUNNING || r.Planned || tx.now.Sub(since) < wait {
		return nil
	}
	a := r.attributes()
	a["waited"] = tx.now.Sub(since).Round(time.Second).String()
	return tx.requestRun(ctx, r, entry{
		Level: systemlogv1.Level_LEVEL_WARN, Attributes: a,
		Message: fmt.Sprintf("Run %s has not been planned for %s: its worker is lost, or there is none of service %s. The run is offered again.", r.ID, a["waited"], r.Kind),
	})
}

// requestSilent asks again for scopes of which nothing has been heard for long:
// those with a worker, and those that wait though nothing of their run is at
// work. Of a run that is at work, others simply wait their turn.
func (s *Service) requestSilent(ctx context.Context) error {
	return s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		long := micros(tx.now).Add(-silentFor)
		var rows []*runScope
		// Whoever is at a scope just now knows better: nothing here waits for a lock.
		err := tx.NewSelect().Model(&rows).Where("rs.state < 3").
			Where("greatest(rs.heartbeat_time, rs.request_time, rs.retry_time, (SELECT r.start_time FROM runs r WHERE r.id = rs.run_id)) <= ?", long).
			Where("rs.state = 2 OR NOT EXISTS (SELECT FROM run_scopes o WHERE o.run_id = rs.run_id AND o.heartbeat_time > ?)", long).
			Order("rs.run_id", "rs.account", "rs.region", "rs.service").Limit(reapBatch).For("UPDATE OF rs SKIP LOCKED").Scan(ctx)
		if err != nil {
			return err
		}
		runs := map[string]*run{}
		again := map[string]int{}
		for _, row := range rows {
			r := runs[row.RunID]
			if r == nil {
				if r, _, err = readRun(ctx, tx, tx.NewSelect(), row.RunID); err != nil {
					return err
				}
				runs[r.ID] = r
			}
			tx.requestScope(r, row)
			if err := tx.saveScope(ctx, row); err != nil {
				return err
			}
			again[r.ID]++
		}
		for _, id := range slices.Sorted(maps.Keys(again)) {
			r, n := runs[id], again[id]
			tx.note(entry{
				Level: systemlogv1.Level_LEVEL_WARN, Event: "scopes_requested_again", Service: r.Kind, Job: r.Job, RunID: id,
				Message:    fmt.Sprintf("Nothing was heard of %s of run %s for %s: the workers are asked again.", count(n, "scope"), id, silentFor),
				Attributes: map[string]string{"scopes": strconv.Itoa(n)},
			})
		}
		return nil
	})
}
