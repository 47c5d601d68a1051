package persistence

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// run is a row of runs.
type run struct {
	bun.BaseModel `bun:"table:runs,alias:r"`

	ID          string            `bun:",pk"`
	Job         string            `bun:""`
	Kind        string            `bun:""`
	State       runv1.RunState    `bun:""`
	Cause       jobv1.Cause       `bun:""`
	RequestedBy string            `bun:""`
	PlannedTime *time.Time        `bun:""`
	StartTime   time.Time         `bun:""`
	EndTime     *time.Time        `bun:""`
	Parameters  map[string]string `bun:"type:jsonb"`
	MaxRetries  int32             `bun:""`
	TimeoutMS   *int64            `bun:"timeout_ms"`
	Planned     bool              `bun:""`
	Error       string            `bun:""`
	Figures     []byte            `bun:""`
}

var runFields = fields{
	"id":           {column: "r.id", kind: kindText},
	"job":          {column: "r.job", kind: kindText},
	"kind":         {column: "r.kind", kind: kindText},
	"state":        {column: "r.state", kind: kindEnum, values: enumValues(runv1.RunState(0))},
	"cause":        {column: "r.cause", kind: kindEnum, values: enumValues(jobv1.Cause(0))},
	"planned_time": {column: "r.planned_time", kind: kindTime},
	"start_time":   {column: "r.start_time", kind: kindTime},
	"end_time":     {column: "r.end_time", kind: kindTime},
}

var runOrder = order[*run]{
	{expr: "r.start_time", desc: true, key: timeKey(func(r *run) time.Time { return r.StartTime })},
	{expr: "r.id", key: textKey(func(r *run) string { return r.ID })},
}

// proto is the run as the API shows it, with figures as in a Run.
func (r *run) proto(figures *runv1.Run) *runv1.Run {
	return &runv1.Run{
		Id: r.ID, Job: r.Job, Kind: r.Kind, State: r.State, Cause: r.Cause, RequestedBy: r.RequestedBy,
		PlannedTime: timestamp(r.PlannedTime), StartTime: timestamppb.New(r.StartTime), EndTime: timestamp(r.EndTime),
		Parameters: r.Parameters, Error: r.Error,
		Scopes: figures.GetScopes(), Progress: figures.GetProgress(), Findings: figures.GetFindings(),
	}
}

// figures are the sums over a run's scopes.
type figures struct {
	RunID string

	Total, Pending, Running, Succeeded, Partial, Failed int32

	Resources, Verdicts, Violations           int64
	MonthlyCost                               float64
	Calls, Retries, Throttles, BilledMetrics  int64
	BilledCost                                float64
	Opened, Changed, Resolved, Reopened, Same int64
	Exempted                                  int64
}

func (f *figures) proto() *runv1.Run {
	return &runv1.Run{
		Scopes: &runv1.ScopeCounts{Total: f.Total, Pending: f.Pending, Running: f.Running, Succeeded: f.Succeeded, Partial: f.Partial, Failed: f.Failed},
		Progress: &scanv1.Progress{Resources: f.Resources, Verdicts: f.Verdicts, Violations: f.Violations, MonthlyCost: f.MonthlyCost,
			Meter: &scanv1.Meter{Calls: f.Calls, Retries: f.Retries, Throttles: f.Throttles, BilledMetrics: f.BilledMetrics, BilledCost: f.BilledCost}},
		Findings: &runv1.FindingCounts{Opened: f.Opened, Changed: f.Changed, Resolved: f.Resolved, Reopened: f.Reopened, Unchanged: f.Same, Exempted: f.Exempted},
	}
}

// readRuns are the runs as the API shows them. Those of runs that have ended
// were summed up when they did.
func readRuns(ctx context.Context, db bun.IDB, rows []*run) ([]*runv1.Run, error) {
	var ids []string
	known := map[string]*runv1.Run{}
	for _, r := range rows {
		if r.Figures == nil {
			ids = append(ids, r.ID)
			known[r.ID] = (&figures{}).proto()
			continue
		}
		known[r.ID] = &runv1.Run{}
		if err := proto.Unmarshal(r.Figures, known[r.ID]); err != nil {
			return nil, err
		}
	}
	if len(ids) > 0 {
		var sums []*figures
		err := db.NewRaw(`
			SELECT run_id, count(*) AS total, count(*) FILTER (WHERE state = 1) AS pending, count(*) FILTER (WHERE state = 2) AS running,
				count(*) FILTER (WHERE state = 3) AS succeeded, count(*) FILTER (WHERE state = 4) AS partial, count(*) FILTER (WHERE state = 5) AS failed,
				sum(resources)::bigint AS resources, sum(verdicts)::bigint AS verdicts, sum(violations)::bigint AS violations, sum(monthly_cost) AS monthly_cost,
				sum(calls)::bigint AS calls, sum(retries)::bigint AS retries, sum(throttles)::bigint AS throttles,
				sum(billed_metrics)::bigint AS billed_metrics, sum(billed_cost) AS billed_cost,
				sum(opened)::bigint AS opened, sum(changed)::bigint AS changed, sum(resolved)::bigint AS resolved,
				sum(reopened)::bigint AS reopened, sum(unchanged)::bigint AS same, sum(exempted)::bigint AS exempted
			FROM run_scopes WHERE run_id IN (?) GROUP BY run_id`, bun.List(ids)).Scan(ctx, &sums)
		if err != nil {
			return nil, fault(err)
		}
		for _, f := range sums {
			known[f.RunID] = f.proto()
		}
	}
	runs := make([]*runv1.Run, len(rows))
	for i, r := range rows {
		runs[i] = r.proto(known[r.ID])
	}
	return runs, nil
}

// readRun returns one run as it is stored and as the API shows it.
func readRun(ctx context.Context, db bun.IDB, q *bun.SelectQuery, id string) (*run, *runv1.Run, error) {
	r := &run{}
	if strings.ContainsRune(id, 0) { // no run has such an id, and bun would leave the NUL out
		return nil, nil, errs.New(errs.NotFound, "RUN_NOT_FOUND", "there is no run %q", id)
	}
	err := q.Model(r).Where("r.id = ?", id).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil, errs.New(errs.NotFound, "RUN_NOT_FOUND", "there is no run %s", id)
	}
	if err != nil {
		return nil, nil, fault(err)
	}
	runs, err := readRuns(ctx, db, []*run{r})
	if err != nil {
		return nil, nil, err
	}
	return r, runs[0], nil
}

// StartRun implements RunService.
func (s *Service) StartRun(ctx context.Context, req *runv1.StartRunRequest) (*runv1.StartRunResponse, error) {
	t := req.GetTrigger()
	if err := cmp.Or(refuseNUL(req, ""), checkTrigger(t)); err != nil {
		return nil, err
	}
	resp := &runv1.StartRunResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		r := &run{
			ID: t.GetRunId(), Job: t.GetJob(), Kind: t.GetKind(), State: runv1.RunState_RUN_STATE_RUNNING, Cause: t.GetCause(),
			RequestedBy: t.GetRequestedBy(), PlannedTime: timeOf(t.GetPlannedTime()), StartTime: micros(tx.now),
			Parameters: t.GetParameters(), MaxRetries: t.GetMaxRetries(),
		}
		if r.Parameters == nil {
			r.Parameters = map[string]string{}
		}
		if t.GetTimeout() != nil {
			ms := t.GetTimeout().AsDuration().Milliseconds()
			r.TimeoutMS = &ms
		}
		result, err := tx.NewInsert().Model(r).On("CONFLICT DO NOTHING").Exec(ctx)
		if err != nil {
			return err
		}
		started, err := result.RowsAffected()
		if err != nil {
			return err
		}
		if r, resp.Run, err = readRun(ctx, tx, tx.NewSelect(), t.GetRunId()); err != nil {
			return err
		}
		resp.Planned = r.Planned
		if started == 0 {
			return nil
		}
		attributes := map[string]string{"cause": strings.ToLower(strings.TrimPrefix(r.Cause.String(), "CAUSE_"))}
		message := fmt.Sprintf("Run %s of job %s started", r.ID, r.Job)
		if r.PlannedTime != nil {
			attributes["planned_time"] = r.PlannedTime.Format(time.RFC3339)
		}
		if r.Cause == jobv1.Cause_CAUSE_MANUAL {
			message += " because somebody asked"
			if r.RequestedBy != "" {
				message = fmt.Sprintf("Run %s of job %s started because %s asked", r.ID, r.Job, r.RequestedBy)
				attributes["requested_by"] = r.RequestedBy
			}
		} else {
			message += " on its schedule"
		}
		tx.note(entry{Level: systemlogv1.Level_LEVEL_INFO, Event: "run_started", Message: message + ".", Service: r.Kind, Job: r.Job, RunID: r.ID, Attributes: attributes})
		tx.publish(&runv1.RunStarted{Run: resp.Run})
		tx.wake(topicRun + r.ID)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func checkTrigger(t *jobv1.Trigger) error {
	e := errs.New(errs.InvalidArgument, "BAD_TRIGGER", "the run cannot start")
	if n := len(t.GetRunId()); n == 0 || n > 200 {
		e.Field("trigger.run_id", "has %d bytes; must have 1 to 200", n)
	}
	if t.GetJob() == "" {
		e.Field("trigger.job", "is empty; must name the job")
	}
	if t.GetKind() == "" {
		e.Field("trigger.kind", "is empty; must name the service that handles the job")
	}
	if t.GetPlannedTime() != nil && !t.GetPlannedTime().IsValid() {
		e.Field("trigger.planned_time", "is no time between the years 1 and 9999")
	}
	if t.GetTimeout() != nil && !t.GetTimeout().IsValid() {
		e.Field("trigger.timeout", "is no duration")
	}
	if len(e.Violations()) > 0 {
		return e
	}
	return nil
}

// PlanRun implements RunService.
func (s *Service) PlanRun(ctx context.Context, req *runv1.PlanRunRequest) (*runv1.PlanRunResponse, error) {
	if err := cmp.Or(refuseNUL(req, ""), checkPlan(req)); err != nil {
		return nil, err
	}
	resp := &runv1.PlanRunResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) (err error) {
		var r *run
		if r, resp.Run, err = readRun(ctx, tx, tx.NewSelect().For("UPDATE"), req.GetRunId()); err != nil {
			return err
		}
		if r.Planned || r.State != runv1.RunState_RUN_STATE_RUNNING {
			return nil
		}
		if err := tx.insertScopes(ctx, r, req.GetScopes()); err != nil {
			return err
		}
		r.Planned = true
		if _, err := tx.NewUpdate().Model(r).Column("planned").WherePK().Exec(ctx); err != nil {
			return err
		}
		tx.wake(topicRun + r.ID)
		accounts := map[string]bool{}
		for _, p := range req.GetScopes() {
			accounts[p.GetScope().GetAccount()] = true
		}
		tx.note(entry{
			Level: systemlogv1.Level_LEVEL_INFO, Event: "run_planned", Service: r.Kind, Job: r.Job, RunID: r.ID,
			Message:    fmt.Sprintf("Run %s looks at %s in %s.", r.ID, count(len(req.GetScopes()), "scope"), count(len(accounts), "account")),
			Attributes: map[string]string{"scopes": strconv.Itoa(len(req.GetScopes())), "accounts": strconv.Itoa(len(accounts))},
		})
		if len(req.GetScopes()) == 0 {
			r.Error = "there was nothing to scan: no active account, or none with a region; register an account and its regions"
		}
		if err := tx.finishRun(ctx, r); err != nil {
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

func checkPlan(req *runv1.PlanRunRequest) error {
	seen := map[scopeKey]int{}
	for i, p := range req.GetScopes() {
		k := keyOf("", p.GetScope())
		if first, twice := seen[k]; twice {
			return errs.New(errs.InvalidArgument, "BAD_PLAN", "the run cannot be planned").
				Field(fmt.Sprintf("scopes[%d].scope", i), "is the same as scopes[%d].scope; name each scope once", first)
		}
		seen[k] = i
	}
	return nil
}

// insertScopes writes a run's scopes and asks for those to be scanned.
func (tx *transaction) insertScopes(ctx context.Context, r *run, planned []*runv1.PlannedScope) error {
	var (
		scopes   []*runScope
		coverage []*coverageRow
	)
	for _, p := range planned {
		k := keyOf(r.ID, p.GetScope())
		row := &runScope{scopeKey: k, State: runv1.ScopeState_SCOPE_STATE_PENDING}
		scopes = append(scopes, row)
		if c := p.GetFailure(); c != nil {
			now := micros(tx.now)
			row.State, row.EndTime, row.Error = runv1.ScopeState_SCOPE_STATE_FAILED, &now, cmp.Or(c.GetError(), "the account could not be entered")
			coverage = append(coverage, coverageOf(k, c))
			tx.noteScope(r.Job, row)
			continue
		}
		m := &scanv1.ScopeRequested{
			RunId: r.ID, Scope: p.GetScope(), Parameters: r.Parameters, RoleArn: p.GetRoleArn(), ExternalId: p.GetExternalId(),
			Partition: p.GetPartition(), MaxRetries: r.MaxRetries,
		}
		if r.TimeoutMS != nil {
			m.Timeout = durationpb.New(time.Duration(*r.TimeoutMS) * time.Millisecond)
		}
		tx.publish(m)
	}
	for chunk := range slices.Chunk(scopes, 1000) {
		if _, err := tx.NewInsert().Model(&chunk).Exec(ctx); err != nil {
			return err
		}
	}
	for chunk := range slices.Chunk(coverage, 1000) {
		if _, err := tx.NewInsert().Model(&chunk).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// FailRun implements RunService.
func (s *Service) FailRun(ctx context.Context, req *runv1.FailRunRequest) (*runv1.FailRunResponse, error) {
	resp := &runv1.FailRunResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) (err error) {
		var r *run
		if r, resp.Run, err = readRun(ctx, tx, tx.NewSelect().For("UPDATE"), req.GetRunId()); err != nil {
			return err
		}
		if r.State != runv1.RunState_RUN_STATE_RUNNING {
			return nil
		}
		if r.Planned {
			return errs.New(errs.FailedPrecondition, "RUN_PLANNED", "run %s has its scopes; how it ends follows from them", r.ID)
		}
		r.Error = clean(req.GetError())
		if resp.Run, err = tx.endRun(ctx, r, resp.Run, runv1.RunState_RUN_STATE_FAILED); err != nil {
			return err
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// finishRun ends a run if its last scope has ended. The run's row is locked.
func (tx *transaction) finishRun(ctx context.Context, r *run) error {
	var waiting bool
	err := tx.NewRaw("SELECT EXISTS (SELECT FROM run_scopes WHERE run_id = ? AND state < 3)", r.ID).Scan(ctx, &waiting)
	if err != nil || waiting || !r.Planned || r.State != runv1.RunState_RUN_STATE_RUNNING {
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
	}
	_, err = tx.endRun(ctx, r, runs[0], state)
	return err
}

// endRun ends a run with what was found, and says so.
func (tx *transaction) endRun(ctx context.Context, r *run, sums *runv1.Run, state runv1.RunState) (*runv1.Run, error) {
	end := latest(micros(tx.now), r.StartTime)
	r.State, r.EndTime = state, &end
	var err error
	r.Figures, err = proto.Marshal(&runv1.Run{Scopes: sums.GetScopes(), Progress: sums.GetProgress(), Findings: sums.GetFindings()})
	if err != nil {
		return nil, err
	}
	if _, err := tx.NewUpdate().Model(r).Column("state", "end_time", "error", "figures").WherePK().Exec(ctx); err != nil {
		return nil, err
	}
	ended := r.proto(sums)
	var errors int64
	if err := tx.NewRaw("SELECT coalesce(sum(errors), 0)::bigint FROM tallies WHERE run_id = ?", r.ID).Scan(ctx, &errors); err != nil {
		return nil, err
	}
	f, took := ended.GetFindings(), end.Sub(r.StartTime).Round(time.Millisecond)
	e := entry{
		Level: systemlogv1.Level_LEVEL_INFO, Event: "run_finished", Service: r.Kind, Job: r.Job, RunID: r.ID,
		Message: fmt.Sprintf("Run %s finished in %s: %d opened, %d changed, %d resolved, %d reopened, %d exempted, %d unchanged.",
			r.ID, took, f.GetOpened(), f.GetChanged(), f.GetResolved(), f.GetReopened(), f.GetExempted(), f.GetUnchanged()),
		Attributes: map[string]string{
			"state":     strings.ToLower(strings.TrimPrefix(state.String(), "RUN_STATE_")),
			"evaluated": strconv.FormatInt(ended.GetProgress().GetVerdicts(), 10), "errors": strconv.FormatInt(errors, 10),
			"opened": strconv.FormatInt(f.GetOpened(), 10), "changed": strconv.FormatInt(f.GetChanged(), 10),
			"resolved": strconv.FormatInt(f.GetResolved(), 10), "reopened": strconv.FormatInt(f.GetReopened(), 10),
			"exempted": strconv.FormatInt(f.GetExempted(), 10), "unchanged": strconv.FormatInt(f.GetUnchanged(), 10), "duration": took.String(),
			"scopes": strconv.Itoa(int(ended.GetScopes().GetTotal())), "failed_scopes": strconv.Itoa(int(ended.GetScopes().GetFailed())),
		},
	}
	switch state {
	case runv1.RunState_RUN_STATE_PARTIAL:
		e.Level = systemlogv1.Level_LEVEL_WARN
		e.Message = strings.TrimSuffix(e.Message, ".") + "; " + r.Error + "."
		e.Attributes["error"] = r.Error
	case runv1.RunState_RUN_STATE_FAILED:
		e.Level, e.Event = systemlogv1.Level_LEVEL_ERROR, "run_failed"
		e.Message = fmt.Sprintf("Run %s failed after %s: %s.", r.ID, took, r.Error)
		e.Attributes["error"] = r.Error
	}
	tx.note(e)
	tx.publish(&runv1.RunFinished{Run: ended})
	tx.wake(topicRun + r.ID)
	return ended, nil
}

// count is a number with its noun.
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return strconv.Itoa(n) + " " + noun + "s"
}

// GetRun implements RunService.
func (s *Service) GetRun(ctx context.Context, req *runv1.GetRunRequest) (*runv1.GetRunResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	_, r, err := readRun(ctx, db, db.NewSelect(), req.GetId())
	if err != nil {
		return nil, err
	}
	return &runv1.GetRunResponse{Run: r}, nil
}

// ListRuns implements RunService.
func (s *Service) ListRuns(ctx context.Context, req *runv1.ListRunsRequest) (*runv1.ListRunsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := runFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, runOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"runs", req.GetFilter()},
		func() *bun.SelectQuery { return where.apply(db.NewSelect().Model((*run)(nil))) })
	if err != nil {
		return nil, err
	}
	runs, err := readRuns(ctx, db, rows)
	if err != nil {
		return nil, err
	}
	return &runv1.ListRunsResponse{Runs: runs, NextPageToken: next}, nil
}

// watchPace is the least time between two looks at a run that is watched: its
// scopes change with every batch.
const watchPace = 200 * time.Millisecond

// scopesPerMessage bounds a response of WatchRun well below what a client
// takes in one message.
const scopesPerMessage = 500

// WatchRun implements RunService.
func (s *Service) WatchRun(req *runv1.WatchRunRequest, stream runv1.RunService_WatchRunServer) error {
	if err := refuseNUL(req, ""); err != nil {
		return err
	}
	ctx := stream.Context()
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	wake, cancel := s.wakeup.subscribe(topicRun + req.GetId())
	defer cancel()
	poll := time.NewTicker(5 * time.Second)
	defer poll.Stop()
	sent := map[scopeKey]string{}
	var sentRun string
	for {
		// Of one moment, so that the last response has the end of every scope.
		var (
			r      *runv1.Run
			scopes []*runv1.RunScope
		)
		err := db.RunInTx(ctx, &sql.TxOptions{Isolation: sql.LevelRepeatableRead, ReadOnly: true}, func(ctx context.Context, tx bun.Tx) (err error) {
			if _, r, err = readRun(ctx, tx, tx.NewSelect(), req.GetId()); err != nil {
				return err
			}
			var rows []*runScope
			if err := tx.NewSelect().Model(&rows).Where("rs.run_id = ?", req.GetId()).Order("account", "region", "service").Scan(ctx); err != nil {
				return err
			}
			changed := rows[:0]
			for _, row := range rows {
				if v := row.version(); sent[row.scopeKey] != v {
					sent[row.scopeKey] = v
					changed = append(changed, row)
				}
			}
			scopes, err = readScopes(ctx, tx, changed)
			return err
		})
		if err != nil && !errors.Is(err, errs.NotFound) {
			return fault(err)
		}
		if err == nil {
			b, err := proto.MarshalOptions{Deterministic: true}.Marshal(r)
			if err != nil {
				return err
			}
			if len(scopes) > 0 || string(b) != sentRun {
				sentRun = string(b)
				for first := true; first || len(scopes) > 0; first = false {
					n := min(len(scopes), scopesPerMessage)
					if err := stream.Send(&runv1.WatchRunResponse{Run: r, Scopes: scopes[:n]}); err != nil {
						return err
					}
					scopes = scopes[n:]
				}
			}
			if r.GetState() != runv1.RunState_RUN_STATE_RUNNING {
				return nil
			}
		}
		pace := time.NewTimer(watchPace)
		select {
		case <-pace.C:
		case <-ctx.Done():
			pace.Stop()
			return ctx.Err()
		case <-s.stopping:
			pace.Stop()
			return stopped()
		}
		select {
		case <-wake:
		case <-poll.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-s.stopping:
			return stopped()
		}
	}
}

// stopped ends what watches when the service stops.
func stopped() error {
	return errs.New(errs.Unavailable, "STOPPING", "the service is stopping; watch again").RetryAfter(time.Second)
}
