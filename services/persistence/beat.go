package persistence

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"google.golang.org/protobuf/types/known/durationpb"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/errs"
)

const (
	// aliveFor is how long after its last sign of life an execution still
	// counts as at work. Workers give one every 3 s.
	aliveFor = 15 * time.Second
	// maxLost is how many executions of a scope may end without saying how.
	maxLost = 10
)

// lockScope reads and locks a scope's row. NOT_FOUND when there is none.
func (tx *transaction) lockScope(ctx context.Context, k scopeKey) (*runScope, error) {
	rows, err := tx.runScopes(ctx, []scopeKey{k})
	if err != nil {
		return nil, err
	}
	if rows[k] == nil {
		return nil, scopeNotFound(k)
	}
	return rows[k], nil
}

func scopeNotFound(k scopeKey) error {
	return errs.New(errs.NotFound, "SCOPE_NOT_FOUND", "run %s has no scope %s", k.RunID, k)
}

// StartScope implements RunService.
func (s *Service) StartScope(ctx context.Context, req *runv1.StartScopeRequest) (*runv1.StartScopeResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	var resp *runv1.StartScopeResponse
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		resp = &runv1.StartScopeResponse{}
		row, err := tx.lockScope(ctx, keyOf(req.GetRunId(), req.GetScope()))
		if err != nil || row.EndTime != nil { // and so has every scope of a run that is over
			return err
		}
		now := micros(tx.now)
		atWork := row.State == runv1.ScopeState_SCOPE_STATE_RUNNING
		resp.Wanted, resp.Attempt = true, row.Attempts
		switch {
		case atWork && row.Execution == req.GetExecution():
			return nil
		case atWork && row.HeartbeatTime != nil && now.Sub(*row.HeartbeatTime) < aliveFor:
			resp.RetryDelay = durationpb.New(min(row.HeartbeatTime.Add(aliveFor).Sub(now), aliveFor))
			return nil
		case row.Attempts-row.Failures >= maxLost:
			resp.Wanted = false
			return tx.failScope(ctx, row, fmt.Sprintf("the workers that had it died or hung %d times", maxLost))
		}
		row.begin()
		row.Execution, row.State, row.HeartbeatTime, row.RetryTime = req.GetExecution(), runv1.ScopeState_SCOPE_STATE_RUNNING, &now, nil
		row.Attempts++
		if row.StartTime == nil {
			row.StartTime = &now
		}
		resp.Attempt = row.Attempts
		return tx.saveScope(ctx, row)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// beat takes a sign of life in one statement, which waits for nobody: while a
// batch of the scope is taken in, its row is locked, and the next beat comes in
// 3 s. Nor does it wait for the disk: a beat that a crash of Postgres loses is
// missed by nobody. It is prepared, since it comes more often than all else
// together.
const beat = `
	WITH calm AS (SELECT set_config('synchronous_commit', 'off', true)),
	o AS (
		SELECT s.run_id, s.account, s.region, s.service, s.resources, s.verdicts, s.violations, s.monthly_cost, s.calls, s.retries, s.throttles, s.billed_metrics, s.counts
		FROM run_scopes s, calm
		WHERE s.run_id = $1 AND s.account = $2 AND s.region = $3 AND s.service = $4 AND s.execution = $5 AND s.state = 2
		FOR NO KEY UPDATE OF s SKIP LOCKED
	), beaten AS (
		UPDATE run_scopes s SET heartbeat_time = greatest(s.heartbeat_time, $6::timestamptz),
			resources = greatest(s.resources, $7::bigint), verdicts = greatest(s.verdicts, $8::bigint), violations = greatest(s.violations, $9::bigint),
			monthly_cost = greatest(s.monthly_cost, $10::float8), calls = greatest(s.calls, $11::bigint), retries = greatest(s.retries, $12::bigint),
			throttles = greatest(s.throttles, $13::bigint), billed_metrics = greatest(s.billed_metrics, $14::bigint), billed_cost = greatest(s.billed_cost, $15::float8),
			counts = CASE WHEN $16::jsonb = '{}' THEN s.counts ELSE (
				SELECT jsonb_object_agg(key, n) FROM (
					SELECT key, max(value::bigint) AS n FROM (SELECT * FROM jsonb_each_text(s.counts) UNION ALL SELECT * FROM jsonb_each_text($16::jsonb)) c GROUP BY key
				) m) END
		FROM o WHERE s.run_id = o.run_id AND s.account = o.account AND s.region = o.region AND s.service = o.service
		RETURNING (s.resources, s.verdicts, s.violations, s.monthly_cost, s.calls, s.retries, s.throttles, s.billed_metrics, s.counts)
			IS DISTINCT FROM (o.resources, o.verdicts, o.violations, o.monthly_cost, o.calls, o.retries, o.throttles, o.billed_metrics, o.counts) AS changed
	)
	SELECT CASE WHEN changed THEN pg_notify($17, $18)::text END FROM beaten`

// BeatScope implements RunService.
func (s *Service) BeatScope(ctx context.Context, req *runv1.BeatScopeRequest) (*runv1.BeatScopeResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	if n := len(req.GetProgress().GetCounts()); n > maxCounts {
		return nil, errs.New(errs.InvalidArgument, "BAD_PROGRESS", "the sign of life cannot be kept").Field("progress.counts", "has %d names; must have at most %d", n, maxCounts)
	}
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	k, p := keyOf(req.GetRunId(), req.GetScope()), sane(req.GetProgress())
	m, counts := p.GetMeter(), []byte("{}")
	if p.GetCounts() != nil {
		if counts, err = json.Marshal(p.GetCounts()); err != nil {
			return nil, err
		}
	}
	told, err := s.pool.Query(ctx, beat, pgx.QueryExecModeCacheStatement, k.RunID, k.Account, k.Region, k.Service, req.GetExecution(), micros(s.now()),
		p.GetResources(), p.GetVerdicts(), p.GetViolations(), p.GetMonthlyCost(), m.GetCalls(), m.GetRetries(), m.GetThrottles(), m.GetBilledMetrics(), m.GetBilledCost(),
		string(counts), notifyChannel, topicRun+k.RunID)
	if err != nil {
		return nil, fault(err)
	}
	taken := told.Next()
	told.Close()
	if err := told.Err(); err != nil {
		return nil, fault(err)
	}
	if taken {
		return &runv1.BeatScopeResponse{Wanted: true}, nil
	}
	// Not this execution's, or locked just now.
	var rows []*runScope
	if err := db.NewSelect().Model(&rows).Column("state", "execution").ApplyQueryBuilder(k.where).Scan(ctx); err != nil {
		return nil, fault(err)
	}
	if len(rows) == 0 {
		return nil, scopeNotFound(k)
	}
	return &runv1.BeatScopeResponse{Wanted: rows[0].State == runv1.ScopeState_SCOPE_STATE_RUNNING && rows[0].Execution == req.GetExecution()}, nil
}
