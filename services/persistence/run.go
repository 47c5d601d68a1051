package persistence

import (
	"context"
	"database/sql"
	"errors"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
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

	// Trigger is as it came; nil in runs of versions that kept none.
	Trigger      []byte     `bun:""`
	RunTimeoutMS int64      `bun:"run_timeout_ms"`
	RetryOf      string     `bun:""`
	CancelledBy  string     `bun:""`
	Wanted       []byte     `bun:""`
	Releases     int32      `bun:""`
	ReleaseTime  *time.Time `bun:""`
}

var runFields = fields{
	"id":           {column: "r.id", kind: kindText},
	"job":          {column: "r.job", kind: kindText},
	"kind":         {column: "r.kind", kind: kindText},
	"state":        {column: "r.state", kind: kindEnum, values: enumValues(runv1.RunState(0))},
	"cause":        {column: "r.cause", kind: kindEnum, values: enumValues(jobv1.Cause(0))},
	"requested_by": {column: "r.requested_by", kind: kindText},
	"retry_of":     {column: "r.retry_of", kind: kindText},
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
		RetryOf: r.RetryOf, CancelledBy: r.CancelledBy, HeartbeatTime: figures.GetHeartbeatTime(),
		Scopes: figures.GetScopes(), Progress: figures.GetProgress(), Findings: figures.GetFindings(),
	}
}

// figures are the sums over a run's scopes.
type figures struct {
	RunID string

	Total, Pending, Running, Succeeded, Partial, Failed, Cancelled int32

	Resources, Verdicts, Violations           int64
	MonthlyCost                               float64
	Calls, Retries, Throttles, BilledMetrics  int64
	BilledCost                                float64
	Opened, Changed, Resolved, Reopened, Same int64
	Exempted                                  int64
	Counts                                    map[string]int64
	HeartbeatTime                             *time.Time
}

func (f *figures) proto() *runv1.Run {
	return &runv1.Run{
		Scopes: &runv1.ScopeCounts{Total: f.Total, Pending: f.Pending, Running: f.Running, Succeeded: f.Succeeded, Partial: f.Partial, Failed: f.Failed, Cancelled: f.Cancelled},
		Progress: &scanv1.Progress{Resources: f.Resources, Verdicts: f.Verdicts, Violations: f.Violations, MonthlyCost: f.MonthlyCost, Counts: f.Counts,
			Meter: &scanv1.Meter{Calls: f.Calls, Retries: f.Retries, Throttles: f.Throttles, BilledMetrics: f.BilledMetrics, BilledCost: f.BilledCost}},
		Findings:      &runv1.FindingCounts{Opened: f.Opened, Changed: f.Changed, Resolved: f.Resolved, Reopened: f.Reopened, Unchanged: f.Same, Exempted: f.Exempted},
		HeartbeatTime: timestamp(f.HeartbeatTime),
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
				count(*) FILTER (WHERE state = 6) AS cancelled, max(heartbeat_time) AS heartbeat_time,
				sum(resources)::bigint AS resources, sum(verdicts)::bigint AS verdicts, sum(violations)::bigint AS violations, sum(monthly_cost) AS monthly_cost,
				sum(calls)::bigint AS calls, sum(retries)::bigint AS retries, sum(throttles)::bigint AS throttles,
				sum(billed_metrics)::bigint AS billed_metrics, sum(billed_cost) AS billed_cost,
				sum(opened)::bigint AS opened, sum(changed)::bigint AS changed, sum(resolved)::bigint AS resolved,
				sum(reopened)::bigint AS reopened, sum(unchanged)::bigint AS same, sum(exempted)::bigint AS exempted,
				(SELECT jsonb_object_agg(name, n) FROM (
					SELECT c.key AS name, sum(c.value::bigint) AS n FROM run_scopes o, jsonb_each_text(o.counts) c WHERE o.run_id = rs.run_id GROUP BY c.key
				) s) AS counts
			FROM run_scopes rs WHERE run_id IN (?) GROUP BY run_id`, bun.List(ids)).Scan(ctx, &sums)
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

// trigger is what the run was asked for by.
func (r *run) trigger() (*jobv1.Trigger, error) {
	t := &jobv1.Trigger{}
	if r.Trigger != nil {
		return t, proto.Unmarshal(r.Trigger, t)
	}
	t = &jobv1.Trigger{RunId: r.ID, Job: r.Job, Kind: r.Kind, Cause: r.Cause, RequestedBy: r.RequestedBy, PlannedTime: timestamp(r.PlannedTime),
		Parameters: r.Parameters, MaxRetries: r.MaxRetries}
	if r.TimeoutMS != nil {
		t.Timeout = durationpb.New(time.Duration(*r.TimeoutMS) * time.Millisecond)
	}
	return t, nil
}

// ended says that the run is over.
func (r *run) ended() bool {
	return r.State != runv1.RunState_RUN_STATE_RUNNING && r.State != runv1.RunState_RUN_STATE_QUEUED
}

// lockRuns takes the locks of the jobs of runs and reads the runs, in the order
// of ids. From here on nobody else changes any run of these jobs. Ids of no run
// are left out.
func (tx *transaction) lockRuns(ctx context.Context, ids ...string) ([]*run, error) {
	var jobs []string
	if err := tx.NewSelect().Model((*run)(nil)).Distinct().Column("job").Where("r.id IN (?)", bun.List(ids)).Scan(ctx, &jobs); err != nil || len(jobs) == 0 {
		return nil, err
	}
	if err := tx.lockJobs(ctx, jobs...); err != nil {
		return nil, err
	}
	var rows []*run
	err := tx.NewSelect().Model(&rows).Where("r.id IN (?)", bun.List(ids)).Order("r.id").Scan(ctx)
	return rows, err
}

// lockRun is lockRuns of one, which must be there.
func (tx *transaction) lockRun(ctx context.Context, id string) (*run, *runv1.Run, error) {
	if !strings.ContainsRune(id, 0) {
		if _, err := tx.lockRuns(ctx, id); err != nil {
			return nil, nil, err
		}
	}
	return readRun(ctx, tx, tx.NewSelect(), id)
}

// lockJobs takes the locks of jobs, in rising order.
func (tx *transaction) lockJobs(ctx context.Context, jobs ...string) error {
	locks := make([]int64, len(jobs))
	for i, job := range jobs {
		locks[i] = lockOf("job", job)
	}
	return tx.lock(ctx, locks)
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
