package persistence

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// The brake: a run that would open or resolve so many of an account's findings
// that something must be wrong with it, not with the account, is stopped. What
// it did until then stays; what it would do after is written to held instead of
// findings, where it waits until somebody releases or discards it, or a later
// scan says the contrary. All of it happens in the transaction that takes a
// batch or ends a scope, under the scope's lock.
//
// What opens where no scan has seen everything before, of a resource type in an
// account and region, is found for the first time: there is nothing to compare
// it with, so it passes, and does not count.
//
// Each scope counts what a run did to it (run_changes). Scopes of one run and
// account that are at work at the same moment do not see each other's last
// transaction: the brake may take hold a batch late, never early.

// brake says when.
type brake struct {
	share float64 // of an account's findings of the service; 0: never
	count int64
}

// stops says whether n changes are too many where there were so many findings.
func (b brake) stops(n, before int64) bool {
	return b.share > 0 && n > b.count && float64(n) > b.share*float64(before)
}

// runChange is what was done to findings, as in run_changes.
type runChange struct{ Made, Returned, Opened, Resolved int64 }

// heldRow is a row of held.
type heldRow struct {
	bun.BaseModel `bun:"table:held,alias:h"`

	FindingID   string                   `bun:",pk"`
	RunID       string                   `bun:""`
	Service     string                   `bun:""`
	Account     string                   `bun:""`
	Region      string                   `bun:""`
	Kind        findingv1.TransitionKind `bun:""`
	Time        time.Time                `bun:""`
	Observation []byte                   `bun:""`
}

// accountKey is what the brake looks at by itself.
type accountKey struct{ RunID, Service, Account string }

func (k scopeKey) accountKey() accountKey { return accountKey{k.RunID, k.Service, k.Account} }

// traffic is what a run did in an account so far.
type traffic struct {
	Total, Unresolved                int64 // findings there are
	Made, Returned, Opened, Resolved int64 // by the run
	Released                         bool
}

// before is how many findings were not resolved when the run began.
func (t *traffic) before() int64 { return t.Unresolved - t.Made - t.Returned + t.Resolved }

// free says that the run may do as it likes: it is the first to find anything
// here, or somebody has released it.
func (t *traffic) free() bool { return t.Released || t.Total <= t.Made }

func (tx *transaction) traffic(ctx context.Context, k accountKey) (*traffic, error) {
	t := &traffic{}
	return t, tx.NewRaw(`
		SELECT f.total, f.unresolved, r.made, r.returned, r.opened, r.resolved,
			EXISTS (SELECT FROM holds WHERE run_id = ?0 AND service = ?1 AND account = ?2 AND released) AS released
		FROM (SELECT coalesce(sum(findings), 0)::bigint AS total, coalesce(sum(findings) FILTER (WHERE state <> 2), 0)::bigint AS unresolved
				FROM finding_sums WHERE account = ?2 AND service = ?1) f,
			(SELECT coalesce(sum(made), 0)::bigint AS made, coalesce(sum(returned), 0)::bigint AS returned,
				coalesce(sum(opened), 0)::bigint AS opened, coalesce(sum(resolved), 0)::bigint AS resolved
				FROM run_changes WHERE run_id = ?0 AND service = ?1 AND account = ?2) r`, k.RunID, k.Service, k.Account).Scan(ctx, t)
}

// countChanges adds to what a run did to a scope.
func (tx *transaction) countChanges(ctx context.Context, k scopeKey, c runChange) error {
	if c == (runChange{}) {
		return nil
	}
	_, err := tx.NewRaw(`
		INSERT INTO run_changes AS r (run_id, service, account, region, time, made, returned, opened, resolved) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)
		ON CONFLICT (run_id, service, account, region) DO UPDATE SET time = EXCLUDED.time, made = r.made + EXCLUDED.made,
			returned = r.returned + EXCLUDED.returned, opened = r.opened + EXCLUDED.opened, resolved = r.resolved + EXCLUDED.resolved`,
		k.RunID, k.Service, k.Account, k.Region, tx.now, c.Made, c.Returned, c.Opened, c.Resolved).Exec(ctx)
	return err
}

// pendingHolds returns what is held of the findings that were observed, by id,
// and forgets what the observations contradict.
func (tx *transaction) pendingHolds(ctx context.Context, byID map[string]*observation) (map[string]*heldRow, error) {
	var rows []*heldRow
	err := tx.NewRaw("SELECT h.finding_id, h.run_id, h.service, h.account, h.kind, h.time FROM held h JOIN staged s ON s.id = h.finding_id ORDER BY h.finding_id").Scan(ctx, &rows)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	pending := map[string]*heldRow{}
	var wrong []*heldRow
	for _, h := range rows {
		o := byID[h.FindingID]
		bad := o.verdict.GetVerdict().GetOutcome() == rulev1.Outcome_OUTCOME_VIOLATION
		good := o.verdict.GetVerdict().GetOutcome() == rulev1.Outcome_OUTCOME_COMPLIANT || o.verdict.GetVerdict().GetOutcome() == rulev1.Outcome_OUTCOME_NOT_APPLICABLE
		resolves := h.Kind == findingv1.TransitionKind_TRANSITION_KIND_RESOLVED
		if !o.row.CheckedTime.Before(h.Time) && (resolves && bad || !resolves && good) {
			wrong = append(wrong, h)
			continue
		}
		pending[h.FindingID] = h
	}
	return pending, tx.dropHeld(ctx, wrong)
}

// dropHeld removes rows of held, and the holds they were the last of unless the
// run was released.
func (tx *transaction) dropHeld(ctx context.Context, rows []*heldRow) error {
	if len(rows) == 0 {
		return nil
	}
	ids, keys := make([]string, len(rows)), map[accountKey]bool{}
	for i, h := range rows {
		ids[i] = h.FindingID
		keys[accountKey{h.RunID, h.Service, h.Account}] = true
	}
	if _, err := tx.NewRaw("DELETE FROM held WHERE finding_id = ANY(?)", pgdialect.Array(ids)).Exec(ctx); err != nil {
		return err
	}
	for _, k := range sortedKeys(keys) {
		_, err := tx.NewRaw(`
			DELETE FROM holds o WHERE run_id = ?0 AND service = ?1 AND account = ?2 AND NOT released
				AND NOT EXISTS (SELECT FROM held h WHERE h.run_id = ?0 AND h.service = ?1 AND h.account = ?2)`, k.RunID, k.Service, k.Account).Exec(ctx)
		if err != nil {
			return err
		}
	}
	return nil
}

func sortedKeys[V any](m map[accountKey]V) []accountKey {
	return slices.SortedFunc(maps.Keys(m), func(a, b accountKey) int {
		return cmp.Or(cmp.Compare(a.RunID, b.RunID), cmp.Compare(a.Service, b.Service), cmp.Compare(a.Account, b.Account))
	})
}

// seenWhole returns which resource types an earlier scan has listed completely,
// by the scope over all runs and the type.
func (tx *transaction) seenWhole(ctx context.Context, byID map[string]*observation) (map[scopeKey]map[string]bool, error) {
	whole := map[scopeKey]map[string]bool{}
	var services, accounts, regions []string
	for _, o := range byID {
		k := o.scope.anyRun()
		if whole[k] == nil {
			whole[k] = map[string]bool{}
			services, accounts, regions = append(services, k.Service), append(accounts, k.Account), append(regions, k.Region)
		}
	}
	var rows []*listing
	err := tx.NewSelect().Model(&rows).Where("l.complete_time IS NOT NULL").
		Where("(l.service, l.account, l.region) IN (SELECT * FROM unnest(?::text[], ?::text[], ?::text[]))",
			pgdialect.Array(services), pgdialect.Array(accounts), pgdialect.Array(regions)).Scan(ctx)
	for _, l := range rows {
		whole[scopeKey{Service: l.Service, Account: l.Account, Region: l.Region}][l.ResourceType] = true
	}
	return whole, err
}

func (k scopeKey) anyRun() scopeKey { k.RunID = ""; return k }

// holdBack takes out of what was judged what is to be held: what is held
// already, and all that opens, or all that resolves, of an account where it is
// too much. Exemptions, and what comes of them, are never held.
func (tx *transaction) holdBack(ctx context.Context, judged []*judgement, byID map[string]*observation, pending map[string]*heldRow) ([]*judgement, error) {
	type wish struct{ opens, resolves int64 }
	wishes := map[accountKey]*wish{}
	whole, err := tx.seenWhole(ctx, byID)
	if err != nil {
		return nil, err
	}
	opens := func(j *judgement) bool {
		o := byID[j.ID]
		return whole[o.scope.anyRun()][o.row.ResourceType] && (j.Kind == findingv1.TransitionKind_TRANSITION_KIND_OPENED ||
			j.Kind == findingv1.TransitionKind_TRANSITION_KIND_REOPENED && *j.FromState == findingv1.State_STATE_RESOLVED)
	}
	resolves := func(j *judgement) bool { return j.Kind == findingv1.TransitionKind_TRANSITION_KIND_RESOLVED }
	for _, j := range judged {
		k := byID[j.ID].scope.accountKey()
		if pending[j.ID] != nil || !opens(j) && !resolves(j) {
			continue
		}
		w := wishes[k]
		if w == nil {
			w = &wish{}
			wishes[k] = w
		}
		if opens(j) {
			w.opens++
		} else {
			w.resolves++
		}
	}
	type stop struct {
		opens, resolves bool
		before          int64
	}
	stops := map[accountKey]stop{}
	if tx.s.brake.share > 0 && !tx.unbraked {
		for _, k := range sortedKeys(wishes) {
			if w := wishes[k]; max(w.opens, w.resolves) > 0 {
				t, err := tx.traffic(ctx, k)
				if err != nil {
					return nil, err
				}
				if !t.free() {
					stops[k] = stop{w.opens > 0 && tx.s.brake.stops(t.Opened+w.opens, t.before()), w.resolves > 0 && tx.s.brake.stops(t.Resolved+w.resolves, t.before()), t.before()}
				}
			}
		}
	}
	var (
		rows []*heldRow
		over []*heldRow // were held and are not any more
		kept = judged[:0:0]
		held = map[accountKey]*findingv1.Hold{}
		done = map[scopeKey]runChange{}
	)
	for _, j := range judged {
		o := byID[j.ID]
		k, before := o.scope.accountKey(), pending[j.ID]
		hold := opens(j) && (before != nil || stops[k].opens) || resolves(j) && (before != nil || stops[k].resolves)
		if !hold || tx.unbraked {
			kept = append(kept, j)
			// A held opening is over with whatever it became, a held resolution with nothing but resolving: what an
			// observation older than the hold changes says nothing against it.
			if before != nil && j.Kind != findingv1.TransitionKind_TRANSITION_KIND_UNSPECIFIED &&
				(resolves(j) || before.Kind != findingv1.TransitionKind_TRANSITION_KIND_RESOLVED) {
				over = append(over, before)
			}
			c := done[o.scope]
			if j.FromState == nil {
				c.Made++
			} else if *j.FromState == findingv1.State_STATE_RESOLVED && j.Kind != findingv1.TransitionKind_TRANSITION_KIND_UNSPECIFIED {
				c.Returned++
			}
			if opens(j) {
				c.Opened++
			} else if resolves(j) {
				c.Resolved++
			}
			done[o.scope] = c
			continue
		}
		body, err := proto.Marshal(o.verdict)
		if err != nil {
			return nil, err
		}
		rows = append(rows, &heldRow{FindingID: j.ID, RunID: k.RunID, Service: k.Service, Account: k.Account, Region: o.scope.Region, Kind: j.Kind, Time: o.row.CheckedTime, Observation: body})
		if before == nil {
			h := held[k]
			if h == nil {
				h = &findingv1.Hold{RunId: k.RunID, Service: k.Service, Account: k.Account, Time: timestamppb.New(tx.now), FindingsBefore: stops[k].before}
				held[k] = h
			}
			switch j.Kind {
			case findingv1.TransitionKind_TRANSITION_KIND_OPENED:
				h.Opens++
			case findingv1.TransitionKind_TRANSITION_KIND_REOPENED:
				h.Reopens++
			default:
				h.Resolves++
			}
		}
	}
	if err := tx.dropHeld(ctx, over); err != nil {
		return nil, err
	}
	for k, c := range done {
		if err := tx.countChanges(ctx, k, c); err != nil {
			return nil, err
		}
	}
	if len(rows) == 0 {
		return kept, nil
	}
	ids := make([]string, len(rows))
	for i, h := range rows {
		ids[i] = h.FindingID
	}
	if _, err := tx.NewRaw("DELETE FROM judged WHERE id = ANY(?)", pgdialect.Array(ids)).Exec(ctx); err != nil {
		return nil, err
	}
	for _, k := range sortedKeys(held) {
		if err := tx.startHold(ctx, held[k]); err != nil {
			return nil, err
		}
	}
	_, err = tx.NewInsert().Model(&rows).On("CONFLICT (finding_id) DO UPDATE").Set("kind = EXCLUDED.kind").Set("time = EXCLUDED.time").Set("observation = EXCLUDED.observation").
		Where("h.time <= EXCLUDED.time").Exec(ctx)
	return kept, err
}

// startHold says, once, that a run is stopped.
func (tx *transaction) startHold(ctx context.Context, h *findingv1.Hold) error {
	r, err := tx.NewRaw("INSERT INTO holds (run_id, service, account, time, before) VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
		h.GetRunId(), h.GetService(), h.GetAccount(), tx.now, h.GetFindingsBefore()).Exec(ctx)
	if err != nil {
		return err
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return err
	}
	tx.publish(&findingv1.FindingsHeld{Hold: h})
	tx.note(entry{
		Level: systemlogv1.Level_LEVEL_WARN, Event: "findings_held", Service: h.GetService(), RunID: h.GetRunId(), Account: h.GetAccount(),
		Message: fmt.Sprintf("Run %s would change too many of the %s of account %s at once; what it found is held until somebody releases or discards it.",
			h.GetRunId(), count(int(h.GetFindingsBefore()), "finding"), h.GetAccount()),
		Attributes: map[string]string{"opens": strconv.FormatInt(h.GetOpens(), 10), "reopens": strconv.FormatInt(h.GetReopens(), 10),
			"resolves": strconv.FormatInt(h.GetResolves(), 10), "findings_before": strconv.FormatInt(h.GetFindingsBefore(), 10)},
	})
	return nil
}

// holdAbsent holds the findings of a scope that are about to be resolved
// because two listings in a row did not show their resources, where they are
// too many.
func (tx *transaction) holdAbsent(ctx context.Context, row *runScope, scan time.Time, listed *ruleTypes) error {
	if tx.s.brake.share == 0 {
		return nil
	}
	absent := func(what string) *bun.RawQuery {
		return tx.NewRaw(`
			SELECT `+what+` FROM findings f JOIN checks c ON c.id = f.id
			WHERE (f.account, f.region, f.service) = (?) AND ? AND f.state <> 2 AND c.checked_run_id <> ? AND c.checked_time <= ? AND c.absent_runs > 0
				AND NOT EXISTS (SELECT FROM held h WHERE h.finding_id = f.id)`, bun.List([]any{row.Account, row.Region, row.Service}), listed.of(), row.RunID, scan)
	}
	var n int64
	if err := absent("count(*)").Scan(ctx, &n); err != nil || n == 0 {
		return err
	}
	t, err := tx.traffic(ctx, row.accountKey())
	if err != nil || t.free() || !tx.s.brake.stops(t.Resolved+n, t.before()) {
		return err
	}
	err = tx.startHold(ctx, &findingv1.Hold{RunId: row.RunID, Service: row.Service, Account: row.Account, Time: timestamppb.New(tx.now), Resolves: n, FindingsBefore: t.before()})
	if err != nil {
		return err
	}
	var ids []string
	if err := absent("f.id").Scan(ctx, &ids); err != nil {
		return err
	}
	_, err = tx.NewRaw(`INSERT INTO held (finding_id, run_id, service, account, region, kind, time) SELECT id, ?, ?, ?, ?, 3, ? FROM unnest(?::text[]) AS id`,
		row.RunID, row.Service, row.Account, row.Region, scan, pgdialect.Array(ids)).Exec(ctx)
	return err
}

// goneFrom is what a finding was before it was gone.
type goneFrom struct {
	FromState     findingv1.State
	FromExemption []byte
	FromAck       []byte
}

// gone says that a finding was resolved because its resource is gone.
func (tx *transaction) gone(f *finding, from goneFrom, runID string, scan time.Time) error {
	p, err := f.proto()
	if err != nil {
		return err
	}
	ended, err := storedExemption(from.FromExemption)
	if err != nil {
		return err
	}
	ack, err := storedAck(from.FromAck)
	if err != nil {
		return err
	}
	tx.changes = append(tx.changes, change{p, &findingv1.Transition{
		FindingId: f.ID, Kind: findingv1.TransitionKind_TRANSITION_KIND_RESOLVED, Cause: findingv1.Cause_CAUSE_SCAN, Actor: tx.actor,
		Time: timestamppb.New(scan), RunId: runID, FromState: from.FromState, ToState: findingv1.State_STATE_RESOLVED,
		FromSeverity: f.Severity, ToSeverity: f.Severity, FromCost: p.GetMonthlyCost(), ToCost: p.GetMonthlyCost(), Exemption: ended, Acknowledgement: ack,
		Reason: "The resource is gone: two complete listings in a row did not show it; it was last seen " + f.LastSeen.Format(time.RFC3339) + ".",
		Evidence: []*rulev1.Evidence{{
			Name: "complete_listings_without_it", Value: structpb.NewNumberValue(2), Threshold: structpb.NewNumberValue(2),
			Source: f.ResourceType + " listing", ObservedAt: timestamppb.New(scan), Confidence: rulev1.Confidence_CONFIDENCE_OBSERVED,
		}},
	}})
	return nil
}

// holdRow is a row of holds with what is held.
type holdRow struct {
	bun.BaseModel `bun:"table:holds,alias:o"`

	RunID    string    `bun:",pk"`
	Service  string    `bun:",pk"`
	Account  string    `bun:",pk"`
	Time     time.Time `bun:""`
	Before   int64     `bun:""`
	Opens    int64     `bun:",scanonly"`
	Reopens  int64     `bun:",scanonly"`
	Resolves int64     `bun:",scanonly"`
}

var holdOrder = order[*holdRow]{
	{expr: "o.time", key: timeKey(func(o *holdRow) time.Time { return o.Time })},
	{expr: "o.run_id", key: textKey(func(o *holdRow) string { return o.RunID })},
	{expr: "o.service", key: textKey(func(o *holdRow) string { return o.Service })},
	{expr: "o.account", key: textKey(func(o *holdRow) string { return o.Account })},
}

// ListHolds implements FindingService.
func (s *Service) ListHolds(ctx context.Context, req *findingv1.ListHoldsRequest) (*findingv1.ListHoldsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, holdOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"holds"}, func() *bun.SelectQuery {
		return db.NewSelect().Model((*holdRow)(nil)).ColumnExpr("o.run_id, o.service, o.account, o.time, o.before, h.*").Join(`CROSS JOIN LATERAL (
			SELECT count(*) FILTER (WHERE kind = 1) AS opens, count(*) FILTER (WHERE kind = 4) AS reopens, count(*) FILTER (WHERE kind = 3) AS resolves
			FROM held h WHERE h.run_id = o.run_id AND h.service = o.service AND h.account = o.account) h`).
			Where("h.opens + h.reopens + h.resolves > 0")
	})
	if err != nil {
		return nil, err
	}
	resp := &findingv1.ListHoldsResponse{NextPageToken: next}
	for _, o := range rows {
		resp.Holds = append(resp.Holds, &findingv1.Hold{RunId: o.RunID, Service: o.Service, Account: o.Account, Time: timestamppb.New(o.Time),
			Opens: o.Opens, Reopens: o.Reopens, Resolves: o.Resolves, FindingsBefore: o.Before})
	}
	return resp, nil
}

var heldOrder = order[*heldRow]{{expr: "h.finding_id", key: textKey(func(h *heldRow) string { return h.FindingID })}}

// ListHeldTransitions implements FindingService.
func (s *Service) ListHeldTransitions(ctx context.Context, req *findingv1.ListHeldTransitionsRequest) (*findingv1.ListHeldTransitionsResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, heldOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"held", req.GetRunId()}, func() *bun.SelectQuery {
		return db.NewSelect().Model((*heldRow)(nil)).Where("h.run_id = ?", req.GetRunId())
	})
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errs.New(errs.NotFound, "HOLD_NOT_FOUND", "nothing of run %s is held", req.GetRunId())
	}
	var ids []string
	for _, h := range rows {
		ids = append(ids, h.FindingID)
	}
	var known []*finding
	if err := selectFindings(db).Where("f.id = ANY(?)", pgdialect.Array(ids)).Scan(ctx, &known); err != nil {
		return nil, fault(err)
	}
	byID := map[string]*finding{}
	for _, f := range known {
		byID[f.ID] = f
	}
	resp, bytes := &findingv1.ListHeldTransitionsResponse{NextPageToken: next}, 0
	for i, h := range rows {
		t := &findingv1.HeldTransition{FindingId: h.FindingID, Kind: h.Kind, Time: timestamppb.New(h.Time), Region: h.Region}
		if f := byID[h.FindingID]; f != nil {
			t.RuleId, t.ResourceArn, t.Severity = f.RuleID, f.ResourceARN, f.Severity
			t.Reason = "Two complete listings in a row did not show the resource."
			if t.MonthlyCost, err = storedCost(f.Cost); err != nil {
				return nil, err
			}
		}
		if h.Observation != nil {
			o := &scanv1.Observation{}
			if err := proto.Unmarshal(h.Observation, o); err != nil {
				return nil, err
			}
			t.RuleId, t.ResourceArn, t.Reason = o.GetRuleId(), o.GetResource().GetArn(), o.GetVerdict().GetReason()
			if h.Kind != findingv1.TransitionKind_TRANSITION_KIND_RESOLVED {
				t.Severity, t.MonthlyCost = o.GetVerdict().GetSeverity(), costOf(o.GetVerdict())
			}
		}
		if bytes += proto.Size(t); bytes > pageBytes && i > 0 {
			resp.NextPageToken = page.Token(heldOrder.place(rows[i-1]), "held", req.GetRunId())
			break
		}
		resp.Transitions = append(resp.Transitions, t)
	}
	return resp, nil
}

// eachHeld hands over what is held of a run, scope by scope and some thousand
// at a time, each in a transaction of its own under the scope's lock, in which
// the rows are removed. It returns how many rows that were, and how many
// transitions came of them. The last of the transactions notes what became of
// it, under the name of an event of the system log.
func (s *Service) eachHeld(ctx context.Context, runID, account, actor, event string, do func(ctx context.Context, tx *transaction, k scopeKey, rows []*heldRow) error) (total, changes int64, err error) {
	db, err := s.db(ctx)
	if err != nil {
		return 0, 0, err
	}
	restrict := func(q *bun.SelectQuery) *bun.SelectQuery {
		q = q.Model((*heldRow)(nil)).Where("h.run_id = ?", runID)
		if account != "" {
			q = q.Where("h.account = ?", account)
		}
		return q
	}
	keys := map[accountKey]bool{}
	for {
		var next []scopeKey
		if err := restrict(db.NewSelect()).Column("run_id", "service", "account", "region").Limit(1).Scan(ctx, &next); err != nil {
			return total, changes, fault(err)
		}
		if len(next) == 0 {
			break
		}
		k := next[0]
		var rows []*heldRow
		var changed int64
		err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
			tx.actor, rows = actor, nil
			if _, err := tx.NewRaw("SET LOCAL statement_timeout = '5min'").Exec(ctx); err != nil {
				return err
			}
			if err := tx.lockScopes(ctx, next); err != nil {
				return err
			}
			err := restrict(tx.NewSelect()).Where("h.service = ?", k.Service).Where("h.account = ?", k.Account).Where("h.region = ?", k.Region).
				Order("h.finding_id").Limit(ingestRows).Scan(ctx, &rows)
			if err != nil || len(rows) == 0 {
				return err
			}
			if err := tx.dropHeld(ctx, rows); err != nil {
				return err
			}
			if err := do(ctx, tx, k, rows); err != nil {
				return err
			}
			changed = int64(len(tx.changes))
			left, err := restrict(tx.NewSelect()).Limit(1).Count(ctx)
			if err == nil && left == 0 {
				keys[k.accountKey()] = true
				tx.noteHold(event, runID, sortedKeys(keys), total+int64(len(rows)))
			}
			return err
		})
		if err != nil {
			return total, changes, err
		}
		keys[k.accountKey()] = true
		total, changes = total+int64(len(rows)), changes+changed
	}
	if total == 0 {
		return 0, 0, errs.New(errs.NotFound, "HOLD_NOT_FOUND", "nothing of run %s is held", runID)
	}
	return total, changes, nil
}

// ReleaseHold implements FindingService.
func (s *Service) ReleaseHold(ctx context.Context, req *findingv1.ReleaseHoldRequest) (*findingv1.ReleaseHoldResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	actor, err := actorOf(ctx, req.GetActor())
	if err != nil {
		return nil, err
	}
	total, released, err := s.eachHeld(ctx, req.GetRunId(), req.GetAccount(), actor, "findings_released", func(ctx context.Context, tx *transaction, k scopeKey, rows []*heldRow) error {
		tx.unbraked = true
		// Whatever the run is still to find is released as well.
		_, err := tx.NewRaw("INSERT INTO holds (run_id, service, account, time, before, released) VALUES (?, ?, ?, ?, 0, true) ON CONFLICT (run_id, service, account) DO UPDATE SET released = true",
			k.RunID, k.Service, k.Account, tx.now).Exec(ctx)
		if err != nil {
			return err
		}
		return tx.replay(ctx, k, rows)
	})
	if err != nil {
		return nil, err
	}
	return &findingv1.ReleaseHoldResponse{Released: released, Outdated: total - released}, nil
}

// noteHold says in the system log what became of what was held.
func (tx *transaction) noteHold(event, runID string, keys []accountKey, n int64) {
	what := strings.TrimPrefix(event, "findings_")
	for _, k := range keys {
		tx.note(entry{
			Level: systemlogv1.Level_LEVEL_INFO, Event: event, Service: k.Service, RunID: runID, Account: k.Account,
			Message:    fmt.Sprintf("What was held of run %s in account %s was %s by %s.", runID, k.Account, what, tx.actor),
			Attributes: map[string]string{"actor": tx.actor, "transitions": strconv.FormatInt(n, 10), "accounts": strconv.Itoa(len(keys))},
		})
	}
}

// replay takes observations that were held, and resolves what was held because
// it is gone. The scope is locked.
func (tx *transaction) replay(ctx context.Context, k scopeKey, rows []*heldRow) error {
	var (
		found []*observation
		ids   []string
		gone  = map[time.Time][]string{}
		byID  = map[string]*observation{}
	)
	for _, h := range rows {
		if h.Observation == nil {
			gone[h.Time] = append(gone[h.Time], h.FindingID)
			continue
		}
		v := &scanv1.Observation{}
		if err := proto.Unmarshal(h.Observation, v); err != nil {
			return err
		}
		o := &observation{scope: k, verdict: v, row: newFinding(k.RunID, k.proto(), v)}
		found, ids, byID[h.FindingID] = append(found, o), append(ids, h.FindingID), o
	}
	// A verdict that decided nothing may have come meanwhile; it does not outdate what is released.
	var checked []struct {
		ID          string
		CheckedTime time.Time
	}
	if err := tx.NewRaw("SELECT id, checked_time FROM checks WHERE id = ANY(?)", pgdialect.Array(ids)).Scan(ctx, &checked); err != nil {
		return err
	}
	for _, c := range checked {
		byID[c.ID].row.CheckedTime = latest(byID[c.ID].row.CheckedTime, c.CheckedTime)
	}
	if err := tx.merge(ctx, found, byID, map[scopeKey]*runScope{k: {scopeKey: k}}); err != nil {
		return err
	}
	for scan, ids := range gone {
		var rows []*struct {
			finding
			goneFrom
		}
		err := tx.NewRaw(`
			UPDATE findings f SET state = 2, resolve_time = ?, exemption = NULL, exemption_id = '', ack = NULL, ack_until = NULL, revision = f.revision + 1
			FROM checks c JOIN findings o ON o.id = c.id
			WHERE c.id = f.id AND f.id = ANY(?) AND f.state <> 2 AND c.absent_runs > 0
			RETURNING f.*, c.last_seen, c.last_run_id, o.state AS from_state, o.exemption AS from_exemption, o.ack AS from_ack`, scan, pgdialect.Array(ids)).Scan(ctx, &rows)
		if err != nil {
			return err
		}
		if _, err := tx.NewRaw("UPDATE checks SET checked_time = ?, checked_run_id = ?, absent_runs = 0 WHERE id = ANY(?)", scan, k.RunID, pgdialect.Array(ids)).Exec(ctx); err != nil {
			return err
		}
		for _, f := range rows {
			if err := tx.gone(&f.finding, f.goneFrom, k.RunID, scan); err != nil {
				return err
			}
		}
		if err := tx.countChanges(ctx, k, runChange{Resolved: int64(len(rows))}); err != nil {
			return err
		}
	}
	return nil
}

// DiscardHold implements FindingService.
func (s *Service) DiscardHold(ctx context.Context, req *findingv1.DiscardHoldRequest) (*findingv1.DiscardHoldResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	actor, err := actorOf(ctx, req.GetActor())
	if err != nil {
		return nil, err
	}
	total, _, err := s.eachHeld(ctx, req.GetRunId(), req.GetAccount(), actor, "findings_discarded", func(ctx context.Context, tx *transaction, _ scopeKey, rows []*heldRow) error {
		var ids []string
		for _, h := range rows {
			if h.Observation == nil {
				ids = append(ids, h.FindingID)
			}
		}
		// Two complete listings are to miss them anew.
		_, err := tx.NewRaw("UPDATE checks SET absent_runs = 0 WHERE id = ANY(?)", pgdialect.Array(ids)).Exec(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return &findingv1.DiscardHoldResponse{Discarded: total}, nil
}
