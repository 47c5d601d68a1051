package persistence

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// scopeKey names a scope of a run; with an empty RunID, the scope over all runs.
type scopeKey struct {
	RunID   string `bun:",pk"`
	Service string `bun:",pk"`
	Account string `bun:",pk"`
	Region  string `bun:",pk"`
}

func keyOf(runID string, s *scanv1.Scope) scopeKey {
	return scopeKey{runID, clean(s.GetService()), clean(s.GetAccount()), clean(s.GetRegion())}
}

func (k scopeKey) proto() *scanv1.Scope {
	return &scanv1.Scope{Service: k.Service, Account: k.Account, Region: k.Region}
}

func compareKeys(a, b scopeKey) int {
	return cmp.Or(cmp.Compare(a.RunID, b.RunID), cmp.Compare(a.Account, b.Account), cmp.Compare(a.Region, b.Region), cmp.Compare(a.Service, b.Service))
}

// where restricts a query to the scope of the run.
func (k scopeKey) where(q bun.QueryBuilder) bun.QueryBuilder {
	return q.Where("run_id = ?", k.RunID).Where("account = ?", k.Account).Where("region = ?", k.Region).Where("service = ?", k.Service)
}

// lock is the number of the advisory lock that whoever changes findings of
// the scope holds, in whatever run.
func (k scopeKey) lock() int64 {
	return lockOf("scope", k.Service, k.Account, k.Region)
}

// lockOf is the number of the advisory lock of what has these names.
func lockOf(names ...string) int64 {
	h := fnv.New64a()
	h.Write([]byte(strings.Join(names, "\x00")))
	return int64(h.Sum64())
}

// lock takes advisory locks in rising order.
func (tx *transaction) lock(ctx context.Context, locks []int64) error {
	slices.Sort(locks)
	_, err := tx.NewRaw("SELECT pg_advisory_xact_lock(l) FROM unnest(?::bigint[]) AS l", pgdialect.Array(slices.Compact(locks))).Exec(ctx)
	return err
}

// lockScopes takes the locks of scopes in rising order, so that replicas that
// want some of the same wait and do not deadlock. Exemptions stay as they are
// meanwhile.
func (tx *transaction) lockScopes(ctx context.Context, keys []scopeKey) error {
	if _, err := tx.NewRaw("SELECT pg_advisory_xact_lock_shared(?)", exemptionLock).Exec(ctx); err != nil {
		return err
	}
	locks := make([]int64, len(keys))
	for i, k := range keys {
		locks[i] = k.lock()
	}
	return tx.lock(ctx, locks)
}

// runScope is a row of run_scopes.
type runScope struct {
	bun.BaseModel `bun:"table:run_scopes,alias:rs"`
	scopeKey

	State         runv1.ScopeState `bun:""`
	Attempts      int32            `bun:""`
	Execution     string           `bun:""`
	StartTime     *time.Time       `bun:""`
	EndTime       *time.Time       `bun:""`
	Error         string           `bun:""`
	Resources     int64            `bun:""`
	Verdicts      int64            `bun:""`
	Violations    int64            `bun:""`
	MonthlyCost   float64          `bun:""`
	Calls         int64            `bun:""`
	Retries       int64            `bun:""`
	Throttles     int64            `bun:""`
	BilledMetrics int64            `bun:""`
	BilledCost    float64          `bun:""`
	Opened        int64            `bun:""`
	Changed       int64            `bun:""`
	Resolved      int64            `bun:""`
	Reopened      int64            `bun:""`
	Unchanged     int64            `bun:""`
	Exempted      int64            `bun:""`

	Failures      int32            `bun:""`
	HeartbeatTime *time.Time       `bun:""`
	RetryTime     *time.Time       `bun:""`
	RequestTime   *time.Time       `bun:""`
	Counts        map[string]int64 `bun:"type:jsonb"`
	RoleARN       string           `bun:"role_arn"`
	ExternalID    string           `bun:"external_id"`
	Partition     string           `bun:""`
}

// version differs between any two states of the row, but for signs of life
// that tell nothing else.
func (r *runScope) version() string {
	return fmt.Sprint(r.State, r.Attempts, r.Failures, r.RetryTime, r.Counts, r.Error, r.Resources, r.Verdicts, r.Violations, r.MonthlyCost, r.Calls, r.Retries, r.Throttles,
		r.BilledMetrics, r.Opened, r.Changed, r.Resolved, r.Reopened, r.Unchanged, r.Exempted)
}

// advance takes over progress. Within an execution it only rises, but it is
// told in any order.
func (r *runScope) advance(p *scanv1.Progress) {
	p = sane(p)
	m := p.GetMeter()
	r.Resources, r.Verdicts, r.Violations = max(r.Resources, p.GetResources()), max(r.Verdicts, p.GetVerdicts()), max(r.Violations, p.GetViolations())
	r.Calls, r.Retries, r.Throttles, r.BilledMetrics = max(r.Calls, m.GetCalls()), max(r.Retries, m.GetRetries()), max(r.Throttles, m.GetThrottles()), max(r.BilledMetrics, m.GetBilledMetrics())
	r.MonthlyCost, r.BilledCost = max(r.MonthlyCost, p.GetMonthlyCost()), max(r.BilledCost, m.GetBilledCost())
	for name, n := range p.GetCounts() {
		if r.Counts == nil {
			r.Counts = map[string]int64{}
		}
		r.Counts[name] = max(r.Counts[name], n)
	}
}

// begin takes back how far an execution has come that broke off: the next one
// begins anew. What it cost stays.
func (r *runScope) begin() {
	r.Resources, r.Verdicts, r.Violations, r.MonthlyCost, r.Counts = 0, 0, 0, 0, map[string]int64{}
}

const (
	// maxFigure is the most any figure of a scope says: sums over scopes must fit as well.
	maxFigure = 1e15
	// maxCounts is how many names a scope counts, and maxCountName how many bytes each has.
	maxCounts    = 100
	maxCountName = 100
)

// sane is progress with figures that can be summed and names that can be kept.
func sane(p *scanv1.Progress) *scanv1.Progress {
	whole := func(n int64) int64 { return min(max(n, 0), maxFigure) }
	money := func(f float64) float64 {
		if !finite(f) {
			return 0
		}
		return min(max(f, 0), maxFigure)
	}
	m := p.GetMeter()
	q := &scanv1.Progress{
		Resources: whole(p.GetResources()), Verdicts: whole(p.GetVerdicts()), Violations: whole(p.GetViolations()), MonthlyCost: money(p.GetMonthlyCost()),
		Meter: &scanv1.Meter{Calls: whole(m.GetCalls()), Retries: whole(m.GetRetries()), Throttles: whole(m.GetThrottles()),
			BilledMetrics: whole(m.GetBilledMetrics()), BilledCost: money(m.GetBilledCost())},
	}
	for _, name := range slices.Sorted(maps.Keys(p.GetCounts())) {
		if q.Counts == nil {
			q.Counts = map[string]int64{}
		}
		if len(q.Counts) < maxCounts && len(name) <= maxCountName {
			q.Counts[clean(name)] = whole(p.GetCounts()[name])
		}
	}
	return q
}

func (r *runScope) proto() *runv1.RunScope {
	return &runv1.RunScope{
		RunId: r.RunID, Scope: r.scopeKey.proto(), State: r.State, Attempts: r.Attempts,
		StartTime: timestamp(r.StartTime), EndTime: timestamp(r.EndTime), Error: r.Error,
		Failures: r.Failures, HeartbeatTime: timestamp(r.HeartbeatTime), RetryTime: timestamp(r.RetryTime),
		Progress: &scanv1.Progress{Resources: r.Resources, Verdicts: r.Verdicts, Violations: r.Violations, MonthlyCost: r.MonthlyCost, Counts: r.Counts,
			Meter: &scanv1.Meter{Calls: r.Calls, Retries: r.Retries, Throttles: r.Throttles, BilledMetrics: r.BilledMetrics, BilledCost: r.BilledCost}},
		Findings: &runv1.FindingCounts{Opened: r.Opened, Changed: r.Changed, Resolved: r.Resolved, Reopened: r.Reopened, Unchanged: r.Unchanged, Exempted: r.Exempted},
	}
}

// coverageRow is a row of coverage.
type coverageRow struct {
	bun.BaseModel `bun:"table:coverage,alias:c"`
	scopeKey

	ResourceType string                `bun:",pk"`
	Status       scanv1.CoverageStatus `bun:""`
	Pages        int32                 `bun:""`
	Resources    int64                 `bun:""`
	Error        string                `bun:""`
}

func coverageOf(k scopeKey, c *scanv1.Coverage) *coverageRow {
	return &coverageRow{scopeKey: k, ResourceType: clean(c.GetResourceType()), Status: c.GetStatus(), Pages: c.GetPages(), Resources: c.GetResources(), Error: clean(c.GetError())}
}

// tallyRow is a row of tallies.
type tallyRow struct {
	bun.BaseModel `bun:"table:tallies,alias:t"`
	scopeKey

	RuleID           string `bun:",pk"`
	RuleVersion      int32  `bun:""`
	ResourceType     string `bun:",pk"`
	Violations       int64  `bun:""`
	Compliant        int64  `bun:""`
	NotApplicable    int64  `bun:""`
	InsufficientData int64  `bun:""`
	Errors           int64  `bun:""`
}

// readScopes are scopes of one run as the API shows them, with coverage and
// tallies. rows are in their order.
func readScopes(ctx context.Context, db bun.IDB, rows []*runScope) ([]*runv1.RunScope, error) {
	if len(rows) == 0 {
		return nil, nil
	}
	scopes, byKey := make([]*runv1.RunScope, len(rows)), map[scopeKey]*runv1.RunScope{}
	for i, r := range rows {
		scopes[i] = r.proto()
		byKey[r.scopeKey] = scopes[i]
	}
	within := func(q *bun.SelectQuery) *bun.SelectQuery {
		return q.Where("run_id = ?", rows[0].RunID).Where("account BETWEEN ? AND ?", rows[0].Account, rows[len(rows)-1].Account)
	}
	var coverage []*coverageRow
	if err := within(db.NewSelect().Model(&coverage)).Order("resource_type").Scan(ctx); err != nil {
		return nil, fault(err)
	}
	for _, c := range coverage {
		if s := byKey[c.scopeKey]; s != nil {
			s.Coverage = append(s.Coverage, &scanv1.Coverage{ResourceType: c.ResourceType, Status: c.Status, Pages: c.Pages, Resources: c.Resources, Error: c.Error})
		}
	}
	var tallies []*tallyRow
	if err := within(db.NewSelect().Model(&tallies)).Order("rule_id", "resource_type").Scan(ctx); err != nil {
		return nil, fault(err)
	}
	for _, t := range tallies {
		if s := byKey[t.scopeKey]; s != nil {
			s.Tallies = append(s.Tallies, &scanv1.Tally{RuleId: t.RuleID, RuleVersion: t.RuleVersion, ResourceType: t.ResourceType,
				Violations: t.Violations, Compliant: t.Compliant, NotApplicable: t.NotApplicable, InsufficientData: t.InsufficientData, Errors: t.Errors})
		}
	}
	return scopes, nil
}

var scopeOrder = order[*runScope]{
	{expr: "rs.account", key: textKey(func(r *runScope) string { return r.Account })},
	{expr: "rs.region", key: textKey(func(r *runScope) string { return r.Region })},
	{expr: "rs.service", key: textKey(func(r *runScope) string { return r.Service })},
}

// ListRunScopes implements RunService.
func (s *Service) ListRunScopes(ctx context.Context, req *runv1.ListRunScopesRequest) (*runv1.ListRunScopesResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	if _, _, err := readRun(ctx, db, db.NewSelect(), req.GetRunId()); err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, scopeOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"scopes", req.GetRunId()},
		func() *bun.SelectQuery {
			return db.NewSelect().Model((*runScope)(nil)).Where("rs.run_id = ?", req.GetRunId())
		})
	if err != nil {
		return nil, err
	}
	scopes, err := readScopes(ctx, db, rows)
	if err != nil {
		return nil, err
	}
	return &runv1.ListRunScopesResponse{Scopes: scopes, NextPageToken: next}, nil
}

func (k scopeKey) String() string { return k.Service + "/" + k.Account + "/" + k.Region }

// runScopes reads and locks rows of run_scopes in their order.
func (tx *transaction) runScopes(ctx context.Context, keys []scopeKey) (map[scopeKey]*runScope, error) {
	var runs, services, accounts, regions []string
	for _, k := range keys {
		runs, services, accounts, regions = append(runs, k.RunID), append(services, k.Service), append(accounts, k.Account), append(regions, k.Region)
	}
	var rows []*runScope
	err := tx.NewSelect().Model(&rows).
		Where("(rs.run_id, rs.account, rs.region, rs.service) IN (SELECT * FROM unnest(?::text[], ?::text[], ?::text[], ?::text[]))",
			pgdialect.Array(runs), pgdialect.Array(accounts), pgdialect.Array(regions), pgdialect.Array(services)).
		Order("rs.run_id", "rs.account", "rs.region", "rs.service").For("UPDATE").Scan(ctx)
	if err != nil {
		return nil, err
	}
	byKey := make(map[scopeKey]*runScope, len(rows))
	for _, r := range rows {
		byKey[r.scopeKey] = r
	}
	return byKey, nil
}

// stateChunk is how many ids or sightings one message of ListScopeState holds.
const stateChunk = 2000

// ListScopeState implements ScopeStateService.
func (s *Service) ListScopeState(req *scanv1.ListScopeStateRequest, stream scanv1.ScopeStateService_ListScopeStateServer) error {
	if err := refuseNUL(req, ""); err != nil {
		return err
	}
	ctx := stream.Context()
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	k := keyOf("", req.GetScope())
	for after := ""; ; {
		var ids []string
		q := db.NewSelect().Model((*finding)(nil)).Column("id").
			Where("f.account = ?", k.Account).Where("f.region = ?", k.Region).Where("f.service = ?", k.Service).
			Where("f.state <> 2").Where("f.id > ?", after)
		if len(req.GetRules()) > 0 {
			q = q.Where("f.rule_id IN (?)", bun.List(req.GetRules()))
		}
		if err := q.Order("f.id").Limit(stateChunk).Scan(ctx, &ids); err != nil {
			return fault(err)
		}
		if len(ids) == 0 {
			break
		}
		if err := stream.Send(&scanv1.ListScopeStateResponse{OpenFindingIds: ids}); err != nil {
			return err
		}
		after = ids[len(ids)-1]
	}
	var arn, state string
	for {
		var rows []*sighting
		err := db.NewSelect().Model(&rows).Where("s.account = ?", k.Account).Where("s.region = ?", k.Region).Where("s.service = ?", k.Service).
			Where("(s.arn, s.state) > (?, ?)", arn, state).Order("s.arn", "s.state").Limit(stateChunk).Scan(ctx)
		if err != nil {
			return fault(err)
		}
		if len(rows) == 0 {
			return nil
		}
		resp := &scanv1.ListScopeStateResponse{}
		for _, r := range rows {
			resp.Sightings = append(resp.Sightings, &scanv1.Sighting{
				Arn: r.ARN, ResourceType: r.ResourceType, State: r.State, FirstSeen: timestamppb.New(r.FirstSeen), Before: timestamp(r.Before),
			})
		}
		if err := stream.Send(resp); err != nil {
			return err
		}
		last := rows[len(rows)-1]
		arn, state = last.ARN, last.State
	}
}

// onScopeFinished takes the end of an execution. It may come before the
// batches it counts, and then waits for them in the database.
func (s *Service) onScopeFinished(ctx context.Context, m *bus.Message[*scanv1.ScopeFinished]) error {
	f := m.Body
	if f.GetRunId() == "" || f.GetExecution() == "" || f.GetScope() == nil || f.GetBatches() < 0 {
		return bus.Drop(errs.New(errs.InvalidArgument, "BAD_SCOPE_FINISHED", "the message names no run, scope or execution, or a negative number of batches"))
	}
	if f.GetStartTime() == nil || !f.GetStartTime().IsValid() {
		return bus.Drop(errs.New(errs.InvalidArgument, "BAD_SCOPE_FINISHED", "start_time is missing or no time; it is the time of the scan"))
	}
	k := keyOf(clean(f.GetRunId()), f.GetScope())
	return verdict(s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		if err := tx.lockScopes(ctx, []scopeKey{k}); err != nil {
			return err
		}
		rows, err := tx.runScopes(ctx, []scopeKey{k})
		if err != nil {
			return err
		}
		row := rows[k]
		if row == nil {
			return scopeNotFound(k)
		}
		if row.EndTime != nil {
			return nil
		}
		body, err := proto.Marshal(f)
		if err != nil {
			return err
		}
		_, err = tx.NewInsert().Model(&finish{scopeKey: k, Execution: clean(f.GetExecution()), Batches: f.GetBatches(), Message: body}).
			On("CONFLICT DO NOTHING").Exec(ctx)
		if err != nil {
			return err
		}
		return tx.finishScopes(ctx, rows)
	}))
}

// verdict is what an error of the database means for a message: while the
// database is away the message waits, whatever cannot succeed is a dead letter,
// anything else is tried again.
func verdict(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errs.Unavailable):
		return fmt.Errorf("%w: %w", bus.Later(cmp.Or(errs.RetryDelay(err), time.Second)), err)
	case errors.Is(err, errs.NotFound), errors.Is(err, errs.InvalidArgument):
		return bus.Drop(err)
	}
	return err
}

// finish is a row of finishes.
type finish struct {
	bun.BaseModel `bun:"table:finishes,alias:fi"`
	scopeKey

	Execution string `bun:",pk"`
	Batches   int32  `bun:""`
	Message   []byte `bun:""`
	Refused   int64  `bun:",scanonly"` // observations that could not be used, in its batches
}

// finishScopes ends those of the scopes of which an execution has finished
// and all its batches are in, and then the runs they were the last of. The
// scopes are locked, and rows are all of them that the transaction touches.
func (tx *transaction) finishScopes(ctx context.Context, rows map[scopeKey]*runScope) error {
	var runs, services, accounts, regions []string
	for k := range rows {
		runs, services, accounts, regions = append(runs, k.RunID), append(services, k.Service), append(accounts, k.Account), append(regions, k.Region)
	}
	var finishes []*finish
	err := tx.NewRaw(`
		SELECT fi.*, b.refused
		FROM unnest(?::text[], ?::text[], ?::text[], ?::text[]) AS k (run_id, account, region, service)
		JOIN finishes fi USING (run_id, account, region, service)
		CROSS JOIN LATERAL (
			SELECT count(*) AS batches, coalesce(sum(refused), 0)::bigint AS refused FROM batches b
			WHERE b.run_id = fi.run_id AND b.account = fi.account AND b.region = fi.region AND b.service = fi.service
				AND b.execution = fi.execution AND b.sequence <= fi.batches
		) b
		WHERE b.batches = fi.batches
		ORDER BY fi.run_id, fi.account, fi.region, fi.service, fi.execution`,
		pgdialect.Array(runs), pgdialect.Array(accounts), pgdialect.Array(regions), pgdialect.Array(services)).Scan(ctx, &finishes)
	if err != nil || len(finishes) == 0 {
		return err
	}
	var ended []*runScope
	for _, f := range finishes {
		row := rows[f.scopeKey]
		if row.EndTime != nil {
			continue // by another execution
		}
		if err := tx.finishScope(ctx, row, f); err != nil {
			return err
		}
		ended = append(ended, row)
	}
	return tx.finishRuns(ctx, ended)
}

// finishScope ends a scope by what one execution of it says: it resolves what
// the execution proves gone and keeps its coverage.
func (tx *transaction) finishScope(ctx context.Context, row *runScope, f *finish) error {
	m := &scanv1.ScopeFinished{}
	if err := proto.Unmarshal(f.Message, m); err != nil {
		return err
	}
	scan := micros(m.GetStartTime().AsTime())

	// What was listed in full. Where an observation could not be used nobody knows what it was about: nothing is
	// absent for sure.
	complete, types := map[string]bool{}, map[string]*coverageRow{}
	for _, c := range m.GetCoverage() {
		types[clean(c.GetResourceType())] = coverageOf(f.scopeKey, c)
	}
	for name, c := range types {
		complete[name] = c.Status == scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE && f.Refused == 0 && m.GetError() == ""
	}
	rules := map[string]*tallyRow{} // by rule and type: a rule can judge several
	for _, t := range m.GetTallies() {
		rules[clean(t.GetRuleId())+"\x00"+clean(t.GetResourceType())] = &tallyRow{scopeKey: f.scopeKey, RuleID: clean(t.GetRuleId()), RuleVersion: t.GetRuleVersion(), ResourceType: clean(t.GetResourceType()),
			Violations: t.GetViolations(), Compliant: t.GetCompliant(), NotApplicable: t.GetNotApplicable(), InsufficientData: t.GetInsufficientData(), Errors: t.GetErrors()}
	}

	// Findings and sightings of many resources are gone through.
	if _, err := tx.NewRaw("SET LOCAL statement_timeout = '5min'").Exec(ctx); err != nil {
		return err
	}
	stale, err := tx.staleTypes(ctx, f.scopeKey, scan)
	if err != nil {
		return err
	}
	if err := tx.resolveAbsent(ctx, row, scan, rules, complete, stale, m.GetError() != ""); err != nil {
		return err
	}
	if err := tx.keepSightings(ctx, f, scan, complete, stale); err != nil {
		return err
	}
	if err := tx.recordListings(ctx, f.scopeKey, scan, complete, stale); err != nil {
		return err
	}

	row.State, row.Error = outcome(m, f.Refused)
	end := micros(tx.now)
	if t := timeOf(m.GetEndTime()); t != nil {
		end = *t
	}
	row.EndTime = &end
	if row.StartTime == nil {
		row.StartTime = &scan
	}
	row.RetryTime = nil
	if p := m.GetProgress(); p != nil {
		row.begin() // the figures of an execution that broke off give way to those of the one that counts
		row.advance(p)
	} else {
		row.MonthlyCost = 0
	}
	row.advance(&scanv1.Progress{Meter: m.GetMeter()})
	if err := tx.saveScope(ctx, row); err != nil {
		return err
	}
	if rows := values(types); len(rows) > 0 {
		if _, err := tx.NewInsert().Model(&rows).On("CONFLICT DO NOTHING").Exec(ctx); err != nil {
			return err
		}
	}
	if rows := values(rules); len(rows) > 0 {
		if _, err := tx.NewInsert().Model(&rows).On("CONFLICT DO NOTHING").Exec(ctx); err != nil {
			return err
		}
	}
	return tx.forget(ctx, f.where)
}

// forget removes what was kept for the ends of scopes.
func (tx *transaction) forget(ctx context.Context, where func(bun.QueryBuilder) bun.QueryBuilder) error {
	for _, model := range []any{(*batch)(nil), (*finish)(nil)} {
		if _, err := tx.NewDelete().Model(model).ApplyQueryBuilder(where).Exec(ctx); err != nil {
			return err
		}
	}
	return nil
}

// values are the values of a map in the order of its keys.
func values[V any](m map[string]V) []V {
	vs := make([]V, 0, len(m))
	for _, k := range slices.Sorted(maps.Keys(m)) {
		vs = append(vs, m[k])
	}
	return vs
}

// outcome is how a scope ended, and why it was not in full.
func outcome(m *scanv1.ScopeFinished, refused int64) (runv1.ScopeState, string) {
	if m.GetError() != "" {
		return runv1.ScopeState_SCOPE_STATE_FAILED, clean(m.GetError())
	}
	var errors []string
	seen, whole := false, len(m.GetCoverage()) > 0
	for _, c := range m.GetCoverage() {
		switch c.GetStatus() {
		case scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE:
			seen = true
			continue
		case scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL:
			seen = true
		}
		whole = false
		status := strings.ToLower(strings.TrimPrefix(c.GetStatus().String(), "COVERAGE_STATUS_"))
		errors = append(errors, fmt.Sprintf("%s %s: %s", clean(c.GetResourceType()), status, cmp.Or(clean(c.GetError()), "no reason given")))
	}
	if refused > 0 {
		whole = false
		errors = append(errors, count(int(refused), "observation")+" could not be used")
	}
	switch {
	case whole:
		return runv1.ScopeState_SCOPE_STATE_SUCCEEDED, ""
	case seen:
		return runv1.ScopeState_SCOPE_STATE_PARTIAL, strings.Join(errors, "; ")
	case len(errors) == 0:
		return runv1.ScopeState_SCOPE_STATE_FAILED, "the scan reported no coverage"
	default:
		return runv1.ScopeState_SCOPE_STATE_FAILED, strings.Join(errors, "; ")
	}
}

// saveScope writes a scope's row and wakes those who watch its run.
func (tx *transaction) saveScope(ctx context.Context, row *runScope) error {
	tx.wake(topicRun + row.RunID)
	_, err := tx.NewUpdate().Model(row).WherePK().Exec(ctx)
	return err
}

// noteScope says in the system log that a scope was not seen in full.
func (tx *transaction) noteScope(job string, row *runScope) {
	e := entry{
		Level: systemlogv1.Level_LEVEL_WARN, Event: "scope_partial", Service: row.Service, Job: job, RunID: row.RunID, Account: row.account(), Region: row.region(),
		Message:    fmt.Sprintf("%s could be done only in part: %s.", row.title(), row.Error),
		Attributes: map[string]string{"error": row.Error, "attempts": strconv.Itoa(int(row.Attempts)), "failures": strconv.Itoa(int(row.Failures))},
	}
	if row.State == runv1.ScopeState_SCOPE_STATE_FAILED {
		e.Level, e.Event = systemlogv1.Level_LEVEL_ERROR, "scope_failed"
		e.Message = fmt.Sprintf("%s failed: %s.", row.title(), row.Error)
	}
	tx.note(e)
}

// title names a scope in a sentence.
func (k scopeKey) title() string {
	switch account, region := k.account(), k.region(); {
	case account != "" && region != "":
		return "Account " + account + " in " + region
	case account != "":
		return "Account " + account
	case region != "":
		return "Part " + region
	}
	return "The work"
}

// account is the scope's account, or empty when it concerns none.
func (k scopeKey) account() string { return strings.TrimPrefix(k.Account, "-") }

// region is the scope's region or part, or empty when it has none.
func (k scopeKey) region() string {
	if k.Region == "-" {
		return ""
	}
	return k.Region
}
