package persistence

import (
	"cmp"
	"context"
	"encoding/binary"
	"hash/fnv"
	"maps"
	"math"
	"slices"
	"strconv"
	"time"

	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
	"nightshift.dev/pkg/report"
)

// finding is a row of findings with its row of checks.
type finding struct {
	bun.BaseModel `bun:"table:findings,alias:f"`

	ID           string          `bun:",pk"`
	Service      string          `bun:""`
	Account      string          `bun:""`
	Region       string          `bun:""`
	RuleID       string          `bun:""`
	RuleVersion  int32           `bun:""`
	Category     rulev1.Category `bun:""`
	State        findingv1.State `bun:""`
	Severity     rulev1.Severity `bun:""`
	ResourceARN  string          `bun:"resource_arn"`
	ResourceID   string          `bun:""`
	ResourceType string          `bun:""`
	ResourceName string          `bun:""`
	Title        string          `bun:""`
	Owner        string          `bun:""`
	// ResourceOwner is who answers as the resource says, Assignee as a person says.
	ResourceOwner string            `bun:""`
	Assignee      string            `bun:""`
	Ack           []byte            `bun:""`
	AckUntil      *time.Time        `bun:""`
	CostLow       *float64          `bun:""`
	CostHigh      *float64          `bun:""`
	Cost          []byte            `bun:""`
	Parameters    map[string]string `bun:"type:jsonb"`
	Tags          map[string]string `bun:"type:jsonb"`
	Declared      []byte            `bun:""`
	Exemption     []byte            `bun:""`
	ExemptionID   string            `bun:""`
	Detail        []byte            `bun:""`
	ResourceHash  int64             `bun:""`
	Fingerprint   int64             `bun:""`
	Since         *time.Time        `bun:""`
	FirstSeen     time.Time         `bun:""`
	EvidenceTime  time.Time         `bun:""`
	ResolveTime   *time.Time        `bun:""`
	ReopenCount   int32             `bun:""`
	Revision      int64             `bun:""`

	// Of checks.
	LastSeen     time.Time `bun:",scanonly"`
	LastRunID    string    `bun:",scanonly"`
	CheckedTime  time.Time `bun:",scanonly"`
	CheckedRunID string    `bun:",scanonly"`
	AbsentRuns   int16     `bun:",scanonly"`

	// Of orphans, where it is one.
	OrphanTime   *time.Time              `bun:",scanonly"`
	OrphanReason *findingv1.OrphanReason `bun:",scanonly"`
}

// selectFindings reads findings as f, with their checks as c and as orphans as o.
func selectFindings(db bun.IDB) *bun.SelectQuery {
	return db.NewSelect().Model((*finding)(nil)).ColumnExpr("f.*, c.*, o.time AS orphan_time, o.reason AS orphan_reason").
		Join("JOIN checks AS c ON c.id = f.id").Join("LEFT JOIN orphans AS o ON o.finding_id = f.id")
}

// newFinding is the finding that an observed violation opens, without cost
// and detail: see fill.
func newFinding(runID string, scope *scanv1.Scope, o *scanv1.Observation) *finding {
	v, r, seen := o.GetVerdict(), o.GetResource(), micros(o.GetObservedAt().AsTime())
	f := &finding{
		ID: o.GetFindingId(), Service: clean(scope.GetService()), Account: clean(scope.GetAccount()), Region: clean(scope.GetRegion()),
		RuleID: clean(o.GetRuleId()), RuleVersion: o.GetRuleVersion(), Category: o.GetCategory(),
		State: findingv1.State_STATE_OPEN, Severity: v.GetSeverity(),
		ResourceARN: clean(r.GetArn()), ResourceID: clean(r.GetId()), ResourceType: clean(r.GetType()), ResourceName: clean(r.GetName()),
		Title: clean(o.GetTitle()), Owner: clean(ownerOf(o)), ResourceOwner: clean(ownerOf(o)), Parameters: map[string]string{}, Since: timeOf(v.GetSince()), Revision: 1,
		FirstSeen: seen, EvidenceTime: seen, LastSeen: seen, LastRunID: runID, CheckedTime: seen, CheckedRunID: runID,
	}
	for k, p := range o.GetParameters() {
		f.Parameters[clean(k)] = clean(p)
	}
	if c := costOf(v); c != nil {
		f.CostLow, f.CostHigh = &c.Low, &c.High
	}
	f.ResourceHash, f.Fingerprint = hashes(f, o)
	return f
}

// fill adds what only a finding that is written needs.
func (f *finding) fill(o *scanv1.Observation) (err error) {
	if c := costOf(o.GetVerdict()); c != nil {
		if f.Cost, err = proto.Marshal(c); err != nil {
			return err
		}
	}
	f.Detail, err = proto.Marshal(f.detail(o))
	return err
}

// cleanTags are a resource's tags as the database can hold them. Of two keys
// that become one the last wins.
func cleanTags(tags map[string]string) map[string]string {
	out := make(map[string]string, len(tags))
	for _, k := range slices.Sorted(maps.Keys(tags)) {
		out[clean(k)] = clean(tags[k])
	}
	return out
}

// detail is what an observation says that has no column of its own.
func (f *finding) detail(o *scanv1.Observation) *findingv1.Finding {
	v, r := o.GetVerdict(), o.GetResource()
	if r.GetAccount() == "" || r.GetRegion() == "" {
		r = proto.CloneOf(r)
		r.Account, r.Region = cmp.Or(r.GetAccount(), f.Account), cmp.Or(r.GetRegion(), f.Region)
	}
	return &findingv1.Finding{Resource: r, Reason: v.GetReason(), Recommendation: v.GetRecommendation(), Evidence: v.GetEvidence()}
}

// costOf is a verdict's cost, or nil when it is unknown.
func costOf(v *rulev1.Verdict) *rulev1.MonthlyCost {
	if c := v.GetMonthlyCost(); c != nil && finite(c.GetLow()) && finite(c.GetHigh()) {
		return c
	}
	return nil
}

// ownerOf is who answers for the resource: its Owner tag, or what the
// resource names otherwise.
func ownerOf(o *scanv1.Observation) string {
	if owner := o.GetResource().GetTags()["Owner"]; owner != "" {
		return owner
	}
	return o.GetVerdict().GetOwner()
}

// hashes are that of the resource, and that of everything that tells one
// state of a finding from another. The figures of the evidence and the
// sentence about them are left out: many count days and differ each time.
func hashes(f *finding, o *scanv1.Observation) (resource, fingerprint int64) {
	h := fnv.New64a()
	var scratch []byte
	add := func(m proto.Message) {
		scratch, _ = proto.MarshalOptions{Deterministic: true}.MarshalAppend(scratch[:0], m)
		h.Write(scratch)
		h.Write([]byte{0})
	}
	add(o.GetResource())
	resource = int64(h.Sum64())
	add(o.GetVerdict().GetExemption())
	text := func(s string) {
		h.Write(binary.AppendUvarint(nil, uint64(len(s))))
		h.Write([]byte(s))
	}
	v := o.GetVerdict()
	text(o.GetTitle())
	text(o.GetCategory().String())
	text(f.ResourceOwner)
	text(v.GetRecommendation())
	if f.Since != nil {
		text(f.Since.Format(time.RFC3339))
	}
	for _, e := range v.GetEvidence() {
		text(e.GetName())
		text(e.GetUnit())
		text(e.GetStatistic())
		text(e.GetSource())
		text(e.GetConfidence().String())
		add(e.GetThreshold())
	}
	return resource, int64(h.Sum64())
}

func finite(f float64) bool { return !math.IsNaN(f) && !math.IsInf(f, 0) }

// proto is the finding as the API shows it.
func (f *finding) proto() (*findingv1.Finding, error) {
	detail := &findingv1.Finding{}
	if err := proto.Unmarshal(f.Detail, detail); err != nil {
		return nil, err
	}
	cost, err := storedCost(f.Cost)
	if err != nil {
		return nil, err
	}
	if detail.Exemption, err = storedExemption(f.Exemption); err != nil {
		return nil, err
	}
	detail.Acknowledgement, err = storedAck(f.Ack)
	return f.show(detail, cost), err
}

// show completes a detail with the columns.
func (f *finding) show(p *findingv1.Finding, cost *rulev1.MonthlyCost) *findingv1.Finding {
	p.Id, p.RuleId, p.RuleVersion, p.Category, p.Title = f.ID, f.RuleID, f.RuleVersion, f.Category, f.Title
	p.State, p.Severity, p.Owner, p.Assignee, p.MonthlyCost, p.Parameters = f.State, f.Severity, f.Owner, f.Assignee, cost, f.Parameters
	p.FirstSeen, p.LastSeen, p.EvidenceTime = timestamppb.New(f.FirstSeen), timestamppb.New(f.LastSeen), timestamppb.New(f.EvidenceTime)
	p.Since, p.ResolveTime = timestamp(f.Since), timestamp(f.ResolveTime)
	if p.OrphanTime = timestamp(f.OrphanTime); f.OrphanReason != nil {
		p.OrphanReason = *f.OrphanReason
	}
	p.LastRunId, p.ReopenCount, p.Etag = f.LastRunID, f.ReopenCount, f.etag()
	return p
}

func (f *finding) etag() string { return strconv.FormatInt(f.Revision, 16) }

func storedCost(b []byte) (*rulev1.MonthlyCost, error) {
	if b == nil {
		return nil, nil
	}
	c := &rulev1.MonthlyCost{}
	return c, proto.Unmarshal(b, c)
}

// resolvedOrNever is when a finding was resolved, as the index on it has it.
const resolvedOrNever = "coalesce(f.resolve_time, '0001-01-01 00:00:00+00')"

var findingFields = fields{
	"id":               {column: "f.id", kind: kindText},
	"rule_id":          {column: "f.rule_id", kind: kindText},
	"category":         {column: "f.category", kind: kindEnum, values: enumValues(rulev1.Category(0))},
	"state":            {column: "f.state", kind: kindEnum, values: enumValues(findingv1.State(0))},
	"severity":         {column: "f.severity", kind: kindRank, values: enumValues(rulev1.Severity(0))},
	"account":          {column: "f.account", kind: kindText},
	"region":           {column: "f.region", kind: kindText},
	"resource_id":      {column: "f.resource_id", kind: kindText},
	"resource_arn":     {column: "f.resource_arn", kind: kindText},
	"resource_type":    {column: "f.resource_type", kind: kindText},
	"resource_name":    {column: "f.resource_name", kind: kindText},
	"owner":            {column: "f.owner", kind: kindText},
	"assignee":         {column: "f.assignee", kind: kindText},
	"acknowledged":     {column: "(f.ack IS NOT NULL)::int", kind: kindEnum, values: map[string]int64{"FALSE": 0, "TRUE": 1}, implied: map[int64]string{1: "f.ack IS NOT NULL"}},
	"title":            {column: "f.title", kind: kindText},
	"last_run_id":      {column: "c.last_run_id", kind: kindText},
	"monthly_cost":     {column: "f.cost_high", kind: kindNumber, above: "coalesce(f.cost_high, 'Infinity')", below: "coalesce(f.cost_high, '-Infinity')"},
	"monthly_cost_low": {column: "f.cost_low", kind: kindNumber},
	"reopen_count":     {column: "f.reopen_count", kind: kindInteger},
	"first_seen":       {column: "f.first_seen", kind: kindTime},
	"last_seen":        {column: "c.last_seen", kind: kindTime},
	"since":            {column: "f.since", kind: kindTime},
	"resolve_time":     {column: "f.resolve_time", kind: kindTime, below: resolvedOrNever},
	"orphan_time":      {column: "o.time", kind: kindTime},
	"tags":             {column: "f.tags", kind: kindMap},
}

// findingOrders are what findings can be sorted by. Unknown costs come last,
// whether costs rise or fall.
var findingOrders = sortable[*finding]{
	"id":         both("id", "f.id", textKey(func(f *finding) string { return f.ID })),
	"rule_id":    both("rule_id", "f.rule_id", textKey(func(f *finding) string { return f.RuleID })),
	"account":    both("account", "f.account", textKey(func(f *finding) string { return f.Account })),
	"region":     both("region", "f.region", textKey(func(f *finding) string { return f.Region })),
	"owner":      both("owner", "f.owner", textKey(func(f *finding) string { return f.Owner })),
	"state":      both("state", "f.state", intKey(func(f *finding) int64 { return int64(f.State) })),
	"severity":   both("severity", "f.severity", intKey(func(f *finding) int64 { return int64(f.Severity) })),
	"first_seen": both("first_seen", "f.first_seen", timeKey(func(f *finding) time.Time { return f.FirstSeen })),
	"last_seen":  both("last_seen", "c.last_seen", timeKey(func(f *finding) time.Time { return f.LastSeen })),
	"resolve_time": func() [2]term[*finding] {
		terms := both("resolve_time", resolvedOrNever, timeKey(func(f *finding) time.Time { return cmp.Or(f.ResolveTime, &time.Time{}).UTC() }))
		terms[0].crowd = time.Time{}
		return terms
	}(),
	"monthly_cost": {
		{name: "monthly_cost", expr: "coalesce(f.cost_high, 'Infinity')", key: floatKey(func(f *finding) float64 { return f.costOr(math.Inf(1)) })},
		{name: "monthly_cost", expr: "coalesce(f.cost_high, '-Infinity')", desc: true, key: floatKey(func(f *finding) float64 { return f.costOr(math.Inf(-1)) })},
	},
}

func (f *finding) costOr(unknown float64) float64 {
	if f.CostHigh == nil {
		return unknown
	}
	return *f.CostHigh
}

// GetFinding implements FindingService.
func (s *Service) GetFinding(ctx context.Context, req *findingv1.GetFindingRequest) (*findingv1.GetFindingResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	mask, err := readMask(req.GetReadMask())
	if err != nil {
		return nil, err
	}
	var rows []*finding
	if err := only(ctx, "f.account", selectFindings(db)).Where("f.id = ?", req.GetId()).Scan(ctx, &rows); err != nil {
		return nil, fault(err)
	}
	if len(rows) == 0 {
		return nil, errs.New(errs.NotFound, "FINDING_NOT_FOUND", "there is no finding %s", req.GetId())
	}
	p, err := rows[0].proto()
	if err != nil {
		return nil, err
	}
	p.Score = report.Proto(report.ScoreOf(p, s.now()))
	mask.prune(p)
	return &findingv1.GetFindingResponse{Finding: p}, nil
}

// pageBytes bounds a page of findings: a client receives no message above
// 4 MiB, and a thousand findings with fifty tags each would be one. Such a page
// has fewer findings than were asked for, and a token.
const pageBytes = 3 << 20

// ListFindings implements FindingService.
func (s *Service) ListFindings(ctx context.Context, req *findingv1.ListFindingsRequest) (*findingv1.ListFindingsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := findingFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	o, err := findingOrders.parse(req.GetOrderBy(), "first_seen desc", "id")
	if err != nil {
		return nil, err
	}
	never := func(states ...findingv1.State) bool {
		return !slices.ContainsFunc(states, func(st findingv1.State) bool { return !where.never("state", int64(st)) })
	}
	switch {
	case never(findingv1.State_STATE_RESOLVED):
		// They all have the same place in it, which an index that begins with the others would have to be read up to.
		o = slices.DeleteFunc(o, func(t term[*finding]) bool { return t.name == "resolve_time" })
	case never(findingv1.State_STATE_OPEN, findingv1.State_STATE_REOPENED, findingv1.State_STATE_EXEMPT):
		o[0].crowd = nil
	}
	mask, err := readMask(req.GetReadMask())
	if err != nil {
		return nil, err
	}
	bind := []string{"findings", req.GetFilter(), req.GetOrderBy()}
	rows, next, err := list(ctx, o, req.GetPageToken(), page.Size(req.GetPageSize()), bind,
		func() *bun.SelectQuery { return where.apply(only(ctx, "f.account", selectFindings(db))) })
	if err != nil {
		return nil, err
	}
	resp, bytes, now := &findingv1.ListFindingsResponse{NextPageToken: next}, 0, s.now()
	for i, row := range rows {
		p, err := row.proto()
		if err != nil {
			return nil, err
		}
		p.Score = report.Proto(report.ScoreOf(p, now))
		mask.prune(p)
		if bytes += proto.Size(p); bytes > pageBytes && i > 0 {
			resp.NextPageToken = page.Token(o.place(rows[i-1]), bind...)
			break
		}
		resp.Findings = append(resp.Findings, p)
	}
	return resp, nil
}

// transition is a row of transitions.
type transition struct {
	bun.BaseModel `bun:"table:transitions,alias:t"`

	Seq   int64  `bun:""`
	Event []byte `bun:""`
}

// decode reads the event. All lifecycle events have the same fields.
func (t *transition) decode() (change, error) {
	var e findingv1.FindingOpened
	err := proto.Unmarshal(t.Event, &e)
	return change{e.GetFinding(), e.GetTransition()}, err
}

var transitionOrder = order[*transition]{{expr: "t.seq", key: intKey(func(t *transition) int64 { return t.Seq })}}

// ListTransitions implements FindingService.
func (s *Service) ListTransitions(ctx context.Context, req *findingv1.ListTransitionsRequest) (*findingv1.ListTransitionsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	bind := []string{"transitions", req.GetFindingId()}
	rows, next, err := list(ctx, transitionOrder, req.GetPageToken(), page.Size(req.GetPageSize()), bind, func() *bun.SelectQuery {
		return db.NewSelect().Model((*transition)(nil)).Where("t.finding_id = ?", req.GetFindingId())
	})
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 || len(auth.From(ctx).Accounts) > 0 {
		// No finding is without a first transition.
		if _, err := s.GetFinding(ctx, &findingv1.GetFindingRequest{Id: req.GetFindingId()}); err != nil {
			return nil, err
		}
	}
	resp, bytes := &findingv1.ListTransitionsResponse{NextPageToken: next}, 0
	for i, row := range rows {
		c, err := row.decode()
		if err != nil {
			return nil, err
		}
		if bytes += proto.Size(c.transition); bytes > pageBytes && i > 0 {
			resp.NextPageToken = page.Token(transitionOrder.place(rows[i-1]), bind...)
			break
		}
		resp.Transitions = append(resp.Transitions, c.transition)
	}
	return resp, nil
}
