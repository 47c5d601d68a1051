package persistence

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

const (
	// ingestMessages is how many messages are taken from the bus at a time.
	ingestMessages = 50
	// ingestRows is how many observations one transaction takes, unless a
	// single message has more.
	ingestRows = 5000
	// evidenceAge is how old the evidence of an unchanged finding gets before
	// it is written anew.
	evidenceAge = 24 * time.Hour
)

// batch is a row of batches.
type batch struct {
	bun.BaseModel `bun:"table:batches,alias:b"`
	scopeKey

	Execution string `bun:",pk"`
	Sequence  int32  `bun:",pk"`
	Refused   int32  `bun:""`
	Sightings []byte `bun:""`
}

// observed is a message on its way into the database.
type observed struct {
	index    int // in what the bus handed over
	row      batch
	scope    scopeKey // over all runs
	progress *scanv1.Progress
	found    []*observation
}

// observation is a verdict that has been looked through.
type observation struct {
	scope   scopeKey
	verdict *scanv1.Observation
	row     *finding
}

// onFindingsObserved takes batches of observations. It returns an error for
// each that is not in the database.
func (s *Service) onFindingsObserved(ctx context.Context, messages []*bus.Message[*findingv1.FindingsObserved]) []error {
	verdicts := make([]error, len(messages))
	var waiting []*observed
	for i, m := range messages {
		o, err := s.lookThrough(ctx, m.Body)
		if err != nil {
			verdicts[i] = verdict(err)
			continue
		}
		o.index = i
		waiting = append(waiting, o)
	}
	for len(waiting) > 0 {
		n := chunk(waiting)
		err := s.ingest(ctx, waiting[:n], verdicts)
		if err != nil && n > 1 && !errors.Is(err, errs.Unavailable) && ctx.Err() == nil {
			// One of them; the others need not wait for it.
			for i, o := range waiting[:n] {
				if err := s.ingest(ctx, waiting[i:i+1], verdicts); err != nil {
					verdicts[o.index] = verdict(err)
				}
			}
		} else if err != nil {
			for _, o := range waiting[:n] {
				verdicts[o.index] = verdict(err)
			}
		}
		waiting = waiting[n:]
	}
	return verdicts
}

// chunk is how many of the messages go into the next transaction: up to
// ingestRows observations, and of each scope those of one execution only, so
// that no finding is in it with two verdicts of which either counts.
func chunk(waiting []*observed) int {
	rows, executions := 0, map[scopeKey]string{}
	for i, o := range waiting {
		execution := o.row.RunID + "\x00" + o.row.Execution
		if other, ok := executions[o.scope]; i > 0 && (rows+len(o.found) > ingestRows || ok && other != execution) {
			return i
		}
		executions[o.scope] = execution
		rows += len(o.found)
	}
	return len(waiting)
}

var findingID = regexp.MustCompile(`^[0-9a-f]{32}$`)

// lookThrough makes rows of a message. An observation that cannot be used is
// counted and left out: the others are good, and the scope must be able to end.
func (s *Service) lookThrough(ctx context.Context, m *findingv1.FindingsObserved) (*observed, error) {
	if m.GetRunId() == "" || m.GetExecution() == "" || m.GetScope() == nil || m.GetSequence() < 1 {
		return nil, errs.New(errs.InvalidArgument, "BAD_FINDINGS_OBSERVED", "the message names no run, scope, execution or sequence from 1")
	}
	run := clean(m.GetRunId())
	o := &observed{scope: keyOf("", m.GetScope()), progress: m.GetProgress()}
	o.row = batch{scopeKey: keyOf(run, m.GetScope()), Execution: clean(m.GetExecution()), Sequence: m.GetSequence()}
	var err error
	if o.row.Sightings, err = sightingsOf(m); err != nil {
		return nil, err
	}
	byID := map[string]int{}
	for _, v := range m.GetObservations() {
		if why := unusable(v); why != "" {
			o.row.Refused++
			s.log.WarnContext(ctx, "an observation cannot be used", "run_id", run, "scope", o.scope.String(), "finding_id", v.GetFindingId(), "rule_id", v.GetRuleId(), "because", why)
			continue
		}
		found := &observation{scope: o.row.scopeKey, verdict: v, row: newFinding(run, m.GetScope(), v)}
		if i, twice := byID[v.GetFindingId()]; twice {
			o.found[i] = newer(o.found[i], found)
			continue
		}
		byID[v.GetFindingId()] = len(o.found)
		o.found = append(o.found, found)
	}
	return o, nil
}

// unusable says why an observation cannot be used, or nothing.
func unusable(o *scanv1.Observation) string {
	switch v := o.GetVerdict(); {
	case !findingID.MatchString(o.GetFindingId()):
		return "finding_id is not 32 hex digits"
	case o.GetRuleId() == "":
		return "rule_id is empty"
	case o.GetResource() == nil:
		return "it has no resource"
	case o.GetObservedAt() == nil || !o.GetObservedAt().IsValid():
		return "observed_at is missing or no time"
	case v.GetOutcome() < rulev1.Outcome_OUTCOME_VIOLATION || v.GetOutcome() > rulev1.Outcome_OUTCOME_ERROR:
		return "it has no outcome"
	case v.GetOutcome() == rulev1.Outcome_OUTCOME_VIOLATION && (v.GetSeverity() < rulev1.Severity_SEVERITY_INFO || v.GetSeverity() > rulev1.Severity_SEVERITY_CRITICAL):
		return "it is a violation without a severity"
	}
	return ""
}

func newer(a, b *observation) *observation {
	if b.row.CheckedTime.Before(a.row.CheckedTime) {
		return a
	}
	return b
}

// ingest takes messages in one transaction. Messages that can never be taken
// get their verdict in verdicts; an error means that none was taken.
func (s *Service) ingest(ctx context.Context, messages []*observed, verdicts []error) error {
	return s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		var keys []scopeKey
		for _, o := range messages {
			if !slices.Contains(keys, o.row.scopeKey) {
				keys = append(keys, o.row.scopeKey)
			}
		}
		slices.SortFunc(keys, compareKeys)
		if err := tx.lockScopes(ctx, keys); err != nil {
			return err
		}
		scopes, err := tx.runScopes(ctx, keys)
		if err != nil {
			return err
		}
		fresh, err := tx.insertBatches(ctx, messages, scopes, verdicts)
		if err != nil || len(fresh) == 0 {
			return err
		}
		byID, found := map[string]*observation{}, []*observation{}
		for _, o := range fresh {
			for _, f := range o.found {
				if other := byID[f.row.ID]; other == nil {
					byID[f.row.ID] = f
				} else {
					byID[f.row.ID] = newer(other, f)
				}
			}
		}
		for _, f := range byID {
			found = append(found, f)
		}
		slices.SortFunc(found, func(a, b *observation) int { return cmp.Compare(a.row.ID, b.row.ID) })
		if err := tx.merge(ctx, found, byID, scopes); err != nil {
			return err
		}
		touched := map[scopeKey]bool{}
		for _, o := range fresh {
			// An execution that another has taken over from still has verdicts to tell, but is not how far the scope is.
			if sc := scopes[o.row.scopeKey]; sc.Execution == "" || sc.Execution == o.row.Execution {
				sc.advance(o.progress)
			}
			touched[o.row.scopeKey] = true
			if o.row.Refused > 0 {
				tx.note(entry{
					Level: systemlogv1.Level_LEVEL_ERROR, Event: "observations_refused", Service: o.row.Service, RunID: o.row.RunID, Account: o.row.Account, Region: o.row.Region,
					Message: fmt.Sprintf("%s of batch %d of %s could not be used; the log of persistence says why.", count(int(o.row.Refused), "observation"), o.row.Sequence, o.row.scopeKey),
				})
			}
		}
		for _, k := range keys {
			if !touched[k] {
				delete(scopes, k)
			} else if err := tx.saveScope(ctx, scopes[k]); err != nil {
				return err
			}
		}
		return tx.finishScopes(ctx, scopes)
	})
}

// insertBatches writes down which batches came and returns those that had not
// come before, to a scope that has not ended.
func (tx *transaction) insertBatches(ctx context.Context, messages []*observed, scopes map[scopeKey]*runScope, verdicts []error) ([]*observed, error) {
	type id struct {
		scopeKey
		execution string
		sequence  int32
	}
	var rows []*batch
	byID := map[id]*observed{}
	for _, o := range messages {
		scope := scopes[o.row.scopeKey]
		if scope == nil {
			verdicts[o.index] = verdict(scopeNotFound(o.row.scopeKey))
			continue
		}
		k := id{o.row.scopeKey, o.row.Execution, o.row.Sequence}
		if scope.EndTime != nil || byID[k] != nil {
			continue
		}
		byID[k] = o
		rows = append(rows, &o.row)
	}
	if len(rows) == 0 {
		return nil, nil
	}
	var inserted []*batch
	err := tx.NewInsert().Model(&rows).On("CONFLICT DO NOTHING").Returning("run_id, service, account, region, execution, sequence").Scan(ctx, &inserted)
	if err != nil {
		return nil, err
	}
	fresh := make([]*observed, len(inserted))
	for i, b := range inserted {
		fresh[i] = byID[id{b.scopeKey, b.Execution, b.Sequence}]
	}
	return fresh, nil
}

// merge compares observations with the findings there are and writes what
// they change. found has each finding once, in the order of ids, and its
// scopes are locked: nobody else writes these findings.
//
// Verdicts that are older than the newest known of their finding are left
// alone. So are findings that never were and are no violation.
//
// What decides is copied into a table beside the findings and judged there,
// all at once; only findings that are new or changed are then sent in full.
func (tx *transaction) merge(ctx context.Context, found []*observation, byID map[string]*observation, scopes map[scopeKey]*runScope) error {
	if len(found) == 0 {
		return nil
	}
	for _, step := range []string{createStaged, createJudged, "SET LOCAL random_page_cost = 1.1"} {
		if _, err := tx.NewRaw(step).Exec(ctx); err != nil {
			return err
		}
	}
	err := tx.copyInto(ctx, "staged", []string{"id", "run_id", "account", "region", "service", "outcome", "rule_version", "severity", "cost_low", "cost_high", "parameters",
		"resource_hash", "fingerprint", "observed_at"}, len(found), func(i int) ([]any, error) {
		f, o := found[i].row, found[i].verdict
		parameters, err := json.Marshal(f.Parameters)
		return []any{f.ID, f.CheckedRunID, f.Account, f.Region, f.Service, int16(o.GetVerdict().GetOutcome()), f.RuleVersion, int16(f.Severity), f.CostLow, f.CostHigh, parameters,
			f.ResourceHash, f.Fingerprint, f.CheckedTime}, err
	})
	if err != nil {
		return err
	}
	if _, err := tx.NewRaw(judge, evidenceAge.Seconds()).Exec(ctx); err != nil {
		return err
	}
	var same []struct {
		scopeKey
		Count int64
	}
	err = tx.NewRaw(`
		SELECT s.run_id, s.service, s.account, s.region, count(*) AS count
		FROM judged j JOIN staged s USING (id) WHERE j.kind = 0 AND NOT j.again
		GROUP BY s.run_id, s.service, s.account, s.region`).Scan(ctx, &same)
	if err != nil {
		return err
	}
	for _, n := range same {
		scopes[n.scopeKey].Unchanged += n.Count
	}
	if _, err := tx.NewRaw(updateChecks).Exec(ctx); err != nil {
		return err
	}
	pending, err := tx.pendingHolds(ctx, byID)
	if err != nil {
		return err
	}
	var judged []*judgement
	err = tx.NewRaw("SELECT id, kind, cause, from_state, from_severity, from_cost, from_exemption, from_ack, from_ack_until, assignee FROM judged WHERE kind > 0 OR rewrite ORDER BY id").Scan(ctx, &judged)
	if err != nil {
		return err
	}
	if len(judged) == 0 {
		return nil
	}
	exemptions, err := tx.runningExemptions(ctx)
	if err != nil {
		return err
	}
	owners, err := tx.accountOwners(ctx, found)
	if err != nil {
		return err
	}
	for _, j := range judged {
		if j.Kind == findingv1.TransitionKind_TRANSITION_KIND_RESOLVED {
			continue
		}
		o := byID[j.ID]
		if err := j.settle(o, exemptions, owners[o.row.Account], tx.now); err != nil {
			return err
		}
	}
	if judged, err = tx.holdBack(ctx, judged, byID, pending); err != nil {
		return err
	}
	var opened, written, resolved []*observation
	for _, j := range judged {
		o := byID[j.ID]
		if j.Kind == findingv1.TransitionKind_TRANSITION_KIND_RESOLVED {
			resolved = append(resolved, o)
			continue
		}
		if j.FromState == nil {
			opened = append(opened, o)
		} else {
			written = append(written, o)
		}
	}
	if err := tx.openFindings(ctx, opened); err != nil {
		return err
	}
	if err := tx.writeFindings(ctx, written); err != nil {
		return err
	}
	if len(resolved) > 0 {
		if _, err := tx.NewRaw(resolveFindings).Exec(ctx); err != nil {
			return err
		}
	}
	return tx.collectChanges(ctx, judged, byID, scopes)
}

// The steps of a merge. Kinds are those of TransitionKind, 0 for none;
// outcomes 1 VIOLATION, 2 COMPLIANT, 3 NOT_APPLICABLE; states 2 RESOLVED,
// 3 REOPENED; cause 2 is POLICY_CHANGED. "again" is what this run has seen
// before, in another execution.
const (
	createStaged = `
		CREATE TEMP TABLE IF NOT EXISTS staged (
			id text COLLATE "C", run_id text COLLATE "C", account text COLLATE "C", region text COLLATE "C", service text COLLATE "C",
			outcome smallint, rule_version integer, severity smallint, cost_low double precision, cost_high double precision,
			parameters jsonb, resource_hash bigint, fingerprint bigint, observed_at timestamptz
		) ON COMMIT DELETE ROWS`
	createJudged = `
		CREATE TEMP TABLE IF NOT EXISTS judged (
			id text COLLATE "C", kind smallint, cause smallint, rewrite boolean, again boolean,
			from_state smallint, from_severity smallint, from_cost bytea, from_exemption bytea, from_ack bytea, from_ack_until timestamptz, assignee text COLLATE "C"
		) ON COMMIT DELETE ROWS`
	createWritten = `
		CREATE TEMP TABLE IF NOT EXISTS written (LIKE findings INCLUDING DEFAULTS) ON COMMIT DELETE ROWS`
	judge = `
		INSERT INTO judged
		SELECT s.id,
			CASE
				WHEN f.id IS NULL THEN 1
				WHEN s.outcome = 1 AND f.state = 2 THEN 4
				WHEN s.outcome = 1 AND (p.changed OR f.severity <> s.severity
					OR round(f.cost_low * 100) IS DISTINCT FROM round(s.cost_low * 100)
					OR round(f.cost_high * 100) IS DISTINCT FROM round(s.cost_high * 100)) THEN 2
				WHEN s.outcome IN (2, 3) AND f.state <> 2 THEN 3
				ELSE 0
			END,
			CASE WHEN p.changed AND f.resource_hash = s.resource_hash THEN 2 ELSE 1 END,
			s.outcome = 1 AND (f.fingerprint <> s.fingerprint OR s.observed_at - f.evidence_time >= make_interval(secs => ?)),
			s.outcome <> 1 OR c.last_run_id = s.run_id,
			f.state, f.severity, f.cost, f.exemption, f.ack, f.ack_until, coalesce(f.assignee, '')
		FROM staged s
		LEFT JOIN (findings f JOIN checks c ON c.id = f.id) ON f.id = s.id
		CROSS JOIN LATERAL (SELECT f.rule_version <> s.rule_version OR f.parameters <> s.parameters AS changed) p
		WHERE CASE WHEN f.id IS NULL THEN s.outcome = 1 ELSE c.checked_time <= s.observed_at END`
	updateChecks = `
		UPDATE checks c SET
			last_seen = CASE s.outcome WHEN 1 THEN s.observed_at ELSE c.last_seen END,
			last_run_id = CASE s.outcome WHEN 1 THEN s.run_id ELSE c.last_run_id END,
			checked_time = s.observed_at, checked_run_id = s.run_id, absent_runs = 0
		FROM staged s JOIN judged j USING (id) WHERE c.id = s.id AND j.kind <> 1`
	updateFindings = `
		UPDATE findings f SET
			rule_version = w.rule_version, category = w.category, severity = w.severity, resource_arn = w.resource_arn,
			resource_id = w.resource_id, resource_type = w.resource_type, resource_name = w.resource_name, title = w.title,
			owner = w.owner, resource_owner = w.resource_owner, ack = w.ack, ack_until = w.ack_until,
			cost_low = w.cost_low, cost_high = w.cost_high, cost = w.cost, parameters = w.parameters, detail = w.detail,
			resource_hash = w.resource_hash, fingerprint = w.fingerprint, since = w.since, evidence_time = w.evidence_time,
			tags = w.tags, declared = w.declared, exemption = w.exemption, exemption_id = w.exemption_id,
			state = w.state, resolve_time = NULL, reopen_count = f.reopen_count + w.reopen_count, revision = f.revision + 1
		FROM written w WHERE f.id = w.id`
	resolveFindings = `
		UPDATE findings f SET
			rule_version = s.rule_version, parameters = s.parameters, state = 2, resolve_time = s.observed_at,
			exemption = NULL, exemption_id = '', ack = NULL, ack_until = NULL, revision = f.revision + 1
		FROM staged s JOIN judged j USING (id) WHERE f.id = s.id AND j.kind = 3`
)

// findingColumns are what COPY fills of findings.
var findingColumns = []string{
	"id", "service", "account", "region", "rule_id", "rule_version", "category", "state", "severity",
	"resource_arn", "resource_id", "resource_type", "resource_name", "title", "owner", "cost_low", "cost_high", "cost",
	"parameters", "tags", "declared", "exemption", "exemption_id", "detail", "resource_hash", "fingerprint", "since", "first_seen", "evidence_time", "reopen_count", "revision",
	"resource_owner", "assignee", "ack", "ack_until",
}

func (f *finding) columns() ([]any, error) {
	parameters, err := json.Marshal(f.Parameters)
	if err != nil {
		return nil, err
	}
	tags, err := json.Marshal(f.Tags)
	return []any{
		f.ID, f.Service, f.Account, f.Region, f.RuleID, f.RuleVersion, int16(f.Category), int16(f.State), int16(f.Severity),
		f.ResourceARN, f.ResourceID, f.ResourceType, f.ResourceName, f.Title, f.Owner, f.CostLow, f.CostHigh, f.Cost,
		parameters, tags, f.Declared, f.Exemption, f.ExemptionID, f.Detail, f.ResourceHash, f.Fingerprint, f.Since, f.FirstSeen, f.EvidenceTime, f.ReopenCount, f.Revision,
		f.ResourceOwner, f.Assignee, f.Ack, f.AckUntil,
	}, err
}

func (tx *transaction) copyFindings(ctx context.Context, table string, found []*observation) error {
	return tx.copyInto(ctx, table, findingColumns, len(found), func(i int) ([]any, error) {
		if err := found[i].row.fill(found[i].verdict); err != nil {
			return nil, err
		}
		return found[i].row.columns()
	})
}

// openFindings writes findings that never were, straight to their place.
func (tx *transaction) openFindings(ctx context.Context, opened []*observation) error {
	if len(opened) == 0 {
		return nil
	}
	if err := tx.copyFindings(ctx, "findings", opened); err != nil {
		return err
	}
	return tx.copyInto(ctx, "checks", []string{"id", "last_seen", "last_run_id", "checked_time", "checked_run_id"}, len(opened), func(i int) ([]any, error) {
		f := opened[i].row
		return []any{f.ID, f.LastSeen, f.LastRunID, f.CheckedTime, f.CheckedRunID}, nil
	})
}

// writeFindings writes findings anew that changed, came back, or whose
// evidence is old.
func (tx *transaction) writeFindings(ctx context.Context, written []*observation) error {
	if len(written) == 0 {
		return nil
	}
	if _, err := tx.NewRaw(createWritten).Exec(ctx); err != nil {
		return err
	}
	if err := tx.copyFindings(ctx, "written", written); err != nil {
		return err
	}
	_, err := tx.NewRaw(updateFindings).Exec(ctx)
	return err
}

// judgement is a row of judged.
type judgement struct {
	ID           string
	Kind         findingv1.TransitionKind
	Cause        findingv1.Cause
	FromState    *findingv1.State
	FromSeverity *rulev1.Severity
	FromCost     []byte
	// FromExemption is the exemption that was in force.
	FromExemption []byte
	FromAck       []byte
	FromAckUntil  *time.Time
	Assignee      string
}

// settle decides whether the violation is exempt, and with it the state of the
// finding and the transition that leads there.
func (j *judgement) settle(o *observation, exemptions []*exemption, accountOwner string, now time.Time) (err error) {
	f := o.row
	f.Assignee = j.Assignee
	f.own(accountOwner)
	f.Tags = cleanTags(o.verdict.GetResource().GetTags())
	if declared := o.verdict.GetVerdict().GetExemption(); declared != nil {
		declared = proto.CloneOf(declared)
		declared.Id = ""
		if f.Declared, err = proto.Marshal(declared); err != nil {
			return err
		}
	}
	f.State, f.ReopenCount = findingv1.State_STATE_OPEN, 0 // whatever an attempt before this one made of it
	was := j.FromState != nil && *j.FromState == findingv1.State_STATE_EXEMPT
	if err := f.exempt(exemptions); err != nil {
		return err
	}
	switch {
	case f.Exemption != nil:
		f.State = findingv1.State_STATE_EXEMPT
		if !was {
			j.Kind = findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED
		}
	case was:
		j.Kind = findingv1.TransitionKind_TRANSITION_KIND_REOPENED
		f.State, f.ReopenCount = findingv1.State_STATE_REOPENED, 1
		ended, err := storedExemption(j.FromExemption)
		if err != nil {
			return err
		}
		// The resource's own ends by the time of the scan that no longer sees it.
		end := now
		if ended.GetId() == "" {
			end = f.CheckedTime
		}
		if t := timeOf(ended.GetExpireTime()); t != nil && !t.After(end) {
			j.Cause = findingv1.Cause_CAUSE_EXEMPTION_EXPIRED
		}
	case j.Kind == findingv1.TransitionKind_TRANSITION_KIND_REOPENED:
		f.State, f.ReopenCount = findingv1.State_STATE_REOPENED, 1
	case j.FromState != nil:
		f.State = *j.FromState
	}
	// What is acknowledged until it changes has changed.
	f.Ack, f.AckUntil = nil, nil
	if j.FromAckUntil != nil || j.Kind != findingv1.TransitionKind_TRANSITION_KIND_CHANGED {
		f.Ack, f.AckUntil = j.FromAck, j.FromAckUntil
	}
	return nil
}

// collectChanges counts what became of the findings and makes transitions.
func (tx *transaction) collectChanges(ctx context.Context, judged []*judgement, byID map[string]*observation, scopes map[scopeKey]*runScope) error {
	var (
		known []*finding
		ids   []string
	)
	for _, j := range judged {
		if j.FromState != nil && j.Kind != findingv1.TransitionKind_TRANSITION_KIND_UNSPECIFIED {
			ids = append(ids, j.ID)
		}
	}
	if len(ids) > 0 {
		if err := selectFindings(tx).Where("f.id = ANY(?)", pgdialect.Array(ids)).Scan(ctx, &known); err != nil {
			return err
		}
	}
	rows := make(map[string]*finding, len(known))
	for _, f := range known {
		rows[f.ID] = f
	}
	for _, j := range judged {
		o := byID[j.ID]
		scope, v := scopes[o.scope], o.verdict.GetVerdict()
		switch j.Kind {
		case findingv1.TransitionKind_TRANSITION_KIND_UNSPECIFIED: // only written anew
			continue
		case findingv1.TransitionKind_TRANSITION_KIND_OPENED:
			scope.Opened++
		case findingv1.TransitionKind_TRANSITION_KIND_CHANGED:
			scope.Changed++
		case findingv1.TransitionKind_TRANSITION_KIND_RESOLVED:
			scope.Resolved++
		case findingv1.TransitionKind_TRANSITION_KIND_REOPENED:
			scope.Reopened++
		case findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED:
			scope.Exempted++
		}
		row := rows[j.ID]
		if row == nil {
			row = o.row // as it was opened
		}
		f, err := row.proto()
		if err != nil {
			return err
		}
		exemption, err := storedExemption(j.FromExemption)
		if err != nil {
			return err
		}
		if f.GetExemption() != nil {
			exemption = f.GetExemption()
		}
		before, err := storedCost(j.FromCost)
		if err != nil {
			return err
		}
		t := &findingv1.Transition{
			FindingId: j.ID, Kind: j.Kind, Cause: j.Cause, Time: timestamppb.New(o.row.CheckedTime), RunId: o.scope.RunID,
			ToState: f.GetState(), ToSeverity: f.GetSeverity(), FromCost: before, ToCost: f.GetMonthlyCost(),
			Reason: v.GetReason(), Evidence: v.GetEvidence(), Exemption: exemption, Actor: tx.actor,
		}
		if f.GetAcknowledgement() == nil {
			if t.Acknowledgement, err = storedAck(j.FromAck); err != nil {
				return err
			}
		}
		if j.FromState != nil {
			t.FromState, t.FromSeverity = *j.FromState, *j.FromSeverity
		}
		tx.changes = append(tx.changes, change{f, t})
	}
	return nil
}
