package persistence

import (
	"cmp"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"go.einride.tech/aip/filtering"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	exemptionv1 "nightshift.dev/gen/nightshift/exemption/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/filter"
	"nightshift.dev/pkg/page"
)

const (
	// longestExemption is how far ahead an exemption may end. Nobody remembers
	// for longer why it was made.
	longestExemption = 2 * 366 * 24 * time.Hour
	// expiryPoll is how often exemptions are looked at that may have ended.
	expiryPoll = 15 * time.Second
	// exemptChunk is how many findings are gone through at a time when
	// exemptions change.
	exemptChunk = 1000
)

// exemption is a row of exemptions.
type exemption struct {
	bun.BaseModel `bun:"table:exemptions,alias:x"`

	ID         string    `bun:",pk"`
	Filter     string    `bun:""`
	By         string    `bun:"by"`
	Reason     string    `bun:""`
	ExpireTime time.Time `bun:""`
	CreateTime time.Time `bun:""`
	Expired    bool      `bun:""`
	Revision   int64     `bun:""`

	where *predicate
}

// exemptionFields are what an exemption can be limited by: what a finding is
// about. How bad it is and when it was seen is left out, since that differs
// from scan to scan.
var exemptionFields = func() fields {
	fs := fields{}
	for _, name := range []string{"rule_id", "category", "account", "region", "resource_id", "resource_arn", "resource_type", "resource_name", "owner", "tags"} {
		fs[name] = findingFields[name]
	}
	return fs
}()

// parse understands the filter.
func (x *exemption) parse() (err error) {
	if x.where, err = exemptionFields.parse(x.Filter); err != nil {
		return err
	}
	if x.where == nil || !restricts(x.where.Filter, false) {
		return badFilter(`restricts nothing; name at least a rule, account, region, resource, owner or tag that it is for, such as rule_id = "ec2-public" AND account = "123456789012"`)
	}
	return nil
}

// restricts says whether the filter, or its contrary, holds only for what has
// a value that it names. A category by itself is no restriction.
func restricts(f *filter.Filter, not bool) bool {
	some := func(o *filter.Filter) bool { return restricts(o, not) }
	switch f.Op {
	case filter.Not:
		return restricts(f.Operands[0], !not)
	case filter.And, filter.Or:
		if (f.Op == filter.And) != not {
			return slices.ContainsFunc(f.Operands, some)
		}
		return !slices.ContainsFunc(f.Operands, func(o *filter.Filter) bool { return !some(o) })
	case filtering.FunctionEquals, filtering.FunctionNotEquals:
		return (f.Op == filtering.FunctionNotEquals) == not && f.Name != "category" && (f.Value != "" || f.Kind == filter.Map)
	case filter.Contains:
		return !not && f.Value != ""
	case filter.Present:
		return !not && f.Kind == filter.Map
	}
	return false
}

// matches says whether the exemption is for the finding.
func (x *exemption) matches(f *finding) bool {
	return x.where.match(func(name string) any {
		if key, ok := strings.CutPrefix(name, "tags."); ok {
			if v, ok := f.Tags[key]; ok {
				return v
			}
			return nil
		}
		switch name {
		case "rule_id":
			return f.RuleID
		case "category":
			return int64(f.Category)
		case "account":
			return f.Account
		case "region":
			return f.Region
		case "resource_id":
			return f.ResourceID
		case "resource_arn":
			return f.ResourceARN
		case "resource_type":
			return f.ResourceType
		case "resource_name":
			return f.ResourceName
		default:
			return f.Owner
		}
	})
}

// overlay is the exemption as a finding shows it.
func (x *exemption) overlay() *rulev1.Exemption {
	return &rulev1.Exemption{Id: x.ID, By: x.By, Reason: x.Reason, ExpireTime: timestamppb.New(x.ExpireTime)}
}

func storedExemption(b []byte) (*rulev1.Exemption, error) {
	if b == nil {
		return nil, nil
	}
	e := &rulev1.Exemption{}
	return e, proto.Unmarshal(b, e)
}

// exempt sets the exemption in force for the finding: of those that match and
// the one that the resource itself declares, the one that ends last.
func (f *finding) exempt(running []*exemption) error {
	declared, err := storedExemption(f.Declared)
	if err != nil {
		return err
	}
	var best *exemption
	for _, x := range running {
		if (best == nil || cmp.Or(best.ExpireTime.Compare(x.ExpireTime), strings.Compare(x.ID, best.ID)) < 0) && x.matches(f) {
			best = x
		}
	}
	f.Exemption, f.ExemptionID = nil, ""
	if declared != nil {
		f.Exemption = f.Declared
		end := timeOf(declared.GetExpireTime())
		if best == nil || end == nil || !end.Before(best.ExpireTime) {
			return nil
		}
	}
	if best == nil {
		return nil
	}
	f.ExemptionID = best.ID
	f.Exemption, err = proto.Marshal(best.overlay())
	return err
}

// runningExemptions are those that have not ended.
func (tx *transaction) runningExemptions(ctx context.Context) ([]*exemption, error) {
	var running []*exemption
	if err := tx.NewSelect().Model(&running).Where("NOT x.expired").Where("x.expire_time > ?", tx.now).Order("x.id").Scan(ctx); err != nil {
		return nil, err
	}
	for _, x := range running {
		if err := x.parse(); err != nil {
			return nil, fmt.Errorf("exemption %s: %w", x.ID, err)
		}
	}
	return running, nil
}

// lockExemptions keeps everyone else from changing exemptions and findings.
func (tx *transaction) lockExemptions(ctx context.Context) error {
	_, err := tx.NewRaw("SELECT pg_advisory_xact_lock(?)", exemptionLock).Exec(ctx)
	return err
}

// applyExemptions decides anew what is exempt of all that x matches or was in
// force for, x having been made, changed or ended, and returns how many
// findings it has exempted and reopened. Where one exemption takes over from
// another nothing has happened to the finding.
func (tx *transaction) applyExemptions(ctx context.Context, x *exemption, cause findingv1.Cause) (exempted, reopened int64, err error) {
	if _, err := tx.NewRaw("SET LOCAL statement_timeout = '5min'").Exec(ctx); err != nil {
		return 0, 0, err
	}
	running, err := tx.runningExemptions(ctx)
	if err != nil {
		return 0, 0, err
	}
	where, args := x.where.sql(nil)
	for after := ""; ; {
		var rows []*finding
		err := selectFindings(tx).Where("f.state <> 2").Where("f.id > ?", after).
			WhereGroup(" AND ", func(q *bun.SelectQuery) *bun.SelectQuery {
				return q.Where("f.exemption_id = ?", x.ID).WhereOr(where, args...)
			}).Order("f.id").Limit(exemptChunk).Scan(ctx, &rows)
		if err != nil || len(rows) == 0 {
			return exempted, reopened, err
		}
		after = rows[len(rows)-1].ID
		groups := map[string][]string{} // ids by the exemption now in force
		winner := map[string]*finding{}
		for _, f := range rows {
			was := f.Exemption
			kind, err := tx.decideExemption(f, running, cause)
			if err != nil {
				return 0, 0, err
			}
			switch kind {
			case findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED:
				exempted++
			case findingv1.TransitionKind_TRANSITION_KIND_REOPENED:
				reopened++
			}
			if string(was) != string(f.Exemption) {
				groups[string(f.Exemption)] = append(groups[string(f.Exemption)], f.ID)
				winner[string(f.Exemption)] = f
			}
		}
		for key, ids := range groups {
			f := winner[key]
			q := tx.NewUpdate().Model((*finding)(nil)).Set("revision = f.revision + 1").Set("exemption_id = ?", f.ExemptionID).Where("f.id = ANY(?)", pgdialect.Array(ids))
			if f.Exemption == nil {
				q = q.Set("exemption = NULL").Set("state = 3").Set("reopen_count = f.reopen_count + 1")
			} else {
				q = q.Set("exemption = ?", f.Exemption).Set("state = 4")
			}
			if _, err := q.Exec(ctx); err != nil {
				return 0, 0, err
			}
		}
	}
}

// decideExemption decides anew whether a finding that is not resolved is
// exempt, and says so where that has changed. Its revision is that of the row:
// it is counted up here only.
func (tx *transaction) decideExemption(f *finding, running []*exemption, cause findingv1.Cause) (kind findingv1.TransitionKind, err error) {
	if f.State == findingv1.State_STATE_RESOLVED {
		return 0, nil
	}
	was, from := f.Exemption, f.State
	if err := f.exempt(running); err != nil || string(was) == string(f.Exemption) {
		return 0, err
	}
	f.Revision++
	switch {
	case was == nil:
		kind, f.State = findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED, findingv1.State_STATE_EXEMPT
	case f.Exemption == nil:
		kind, f.State = findingv1.TransitionKind_TRANSITION_KIND_REOPENED, findingv1.State_STATE_REOPENED
		f.ReopenCount++
	default:
		return 0, nil
	}
	return kind, tx.exemptionChanged(f, kind, cause, from, was)
}

// exemptionChanged says that a finding has become exempt or is so no longer.
func (tx *transaction) exemptionChanged(f *finding, kind findingv1.TransitionKind, cause findingv1.Cause, from findingv1.State, was []byte) error {
	p, err := f.proto()
	if err != nil {
		return err
	}
	e := p.GetExemption()
	reason := "Exempt: " + e.GetReason()
	if e == nil {
		if e, err = storedExemption(was); err != nil {
			return err
		}
		reason = "Its exemption was revoked."
		if cause == findingv1.Cause_CAUSE_EXEMPTION_EXPIRED {
			reason = "Its exemption expired."
		}
	}
	tx.changes = append(tx.changes, change{p, &findingv1.Transition{
		FindingId: f.ID, Kind: kind, Cause: cause, Actor: tx.actor, Time: timestamppb.New(tx.now), FromState: from, ToState: f.State,
		FromSeverity: f.Severity, ToSeverity: f.Severity, FromCost: p.GetMonthlyCost(), ToCost: p.GetMonthlyCost(), Reason: reason, Exemption: e,
	}})
	return nil
}

func (x *exemption) proto(findings int64) *exemptionv1.Exemption {
	return &exemptionv1.Exemption{
		Id: x.ID, Filter: x.Filter, By: x.By, Reason: x.Reason, ExpireTime: timestamppb.New(x.ExpireTime), CreateTime: timestamppb.New(x.CreateTime),
		Etag: strconv.FormatInt(x.Revision, 16), Findings: findings, Expired: x.Expired,
	}
}

// show is the exemption as the API shows it.
func (x *exemption) show(ctx context.Context, db bun.IDB) (*exemptionv1.Exemption, error) {
	n, err := db.NewSelect().Model((*finding)(nil)).Where("f.exemption_id = ?", x.ID).Count(ctx)
	return x.proto(int64(n)), fault(err)
}

// tellAudit says what an exemption was before a change.
func (x *exemption) tellAudit(ctx context.Context, db bun.IDB) error {
	was, err := x.show(ctx, db)
	app.Before(ctx, was)
	return err
}

// set takes over the fields named as in the proto.
func (x *exemption) set(p *exemptionv1.Exemption, paths []string, now time.Time) error {
	bad := errs.New(errs.InvalidArgument, "BAD_EXEMPTION", "the exemption cannot be kept")
	for _, path := range paths {
		switch path {
		case "by":
			if x.By = strings.TrimSpace(p.GetBy()); x.By == "" {
				return bad.Field("exemption.by", "is empty; say who accepts it")
			}
		case "reason":
			if x.Reason = strings.TrimSpace(p.GetReason()); x.Reason == "" {
				return bad.Field("exemption.reason", "is empty; say why, for whoever asks")
			}
		case "expire_time":
			end := timeOf(p.GetExpireTime())
			switch {
			case end == nil:
				return bad.Field("exemption.expire_time", "is missing or no time; say when it ends")
			case !end.After(now):
				return bad.Field("exemption.expire_time", "is %s, which is past; it must be in the future", end.Format(time.RFC3339))
			case end.After(now.Add(longestExemption)):
				return bad.Field("exemption.expire_time", "is %s; it must be within two years", end.Format(time.RFC3339))
			}
			x.ExpireTime = *end
		default:
			return errs.New(errs.InvalidArgument, "BAD_UPDATE_MASK", "the exemption cannot be updated").
				Field("update_mask", "%q cannot be changed; use some of %s, or make another exemption", path, strings.Join(exemptionPaths, ", "))
		}
	}
	return nil
}

var exemptionPaths = []string{"by", "reason", "expire_time"}

// note says in the system log what became of an exemption.
func (x *exemption) note(tx *transaction, event, what string, exempted, reopened int64) {
	message := fmt.Sprintf("Exemption %s of %s (%s) %s.", x.ID, x.By, x.Filter, what)
	if exempted+reopened > 0 {
		message = strings.TrimSuffix(message, ".") + fmt.Sprintf(": %d exempted, %d reopened.", exempted, reopened)
	}
	tx.note(entry{
		Level: systemlogv1.Level_LEVEL_INFO, Event: event, Service: "persistence", Message: message,
		Attributes: map[string]string{"exemption_id": x.ID, "by": x.By, "filter": x.Filter, "reason": x.Reason, "expire_time": x.ExpireTime.Format(time.RFC3339),
			"exempted": strconv.FormatInt(exempted, 10), "reopened": strconv.FormatInt(reopened, 10)},
	})
}

// errDry undoes a transaction that was only a try.
var errDry = errors.New("only a try")

// CreateExemption implements ExemptionService.
func (s *Service) CreateExemption(ctx context.Context, req *exemptionv1.CreateExemptionRequest) (*exemptionv1.CreateExemptionResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	x := &exemption{ID: hex.EncodeToString(random[:]), Filter: strings.TrimSpace(req.GetExemption().GetFilter()), Revision: 1}
	if err := x.parse(); err != nil {
		return nil, err
	}
	who := auth.From(ctx)
	if !x.within(who) {
		return nil, errs.New(errs.PermissionDenied, "ACCOUNT_OUT_OF_SCOPE", "the exemption is not for accounts of the caller alone, who may see only %s; its filter needs one, such as account = %q",
			strings.Join(who.Accounts, ", "), who.Accounts[0])
	}
	asked := proto.CloneOf(req.GetExemption())
	asked.By = auth.Actor(ctx, asked.GetBy())
	resp := &exemptionv1.CreateExemptionResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		x.CreateTime = micros(tx.now)
		if err := x.set(asked, exemptionPaths, tx.now); err != nil {
			return err
		}
		if err := tx.lockExemptions(ctx); err != nil {
			return err
		}
		if _, err := tx.NewInsert().Model(x).Exec(ctx); err != nil {
			return err
		}
		tx.actor = auth.Actor(ctx, x.By)
		exempted, reopened, err := tx.applyExemptions(ctx, x, findingv1.Cause_CAUSE_USER)
		if err != nil {
			return err
		}
		if resp.Exemption, err = x.show(ctx, tx); err != nil {
			return err
		}
		if req.GetValidateOnly() {
			resp.Exemption.Id, resp.Exemption.Etag = "", ""
			return errDry
		}
		x.note(tx, "exemption_created", "was made, until "+x.ExpireTime.Format(time.RFC3339), exempted, reopened)
		return nil
	})
	if err != nil && !errors.Is(err, errDry) {
		return nil, err
	}
	return resp, nil
}

// readExemption reads an exemption, and understands its filter.
func readExemption(ctx context.Context, q *bun.SelectQuery, id string) (*exemption, error) {
	x := &exemption{}
	err := q.Model(x).Where("x.id = ?", id).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errs.New(errs.NotFound, "EXEMPTION_NOT_FOUND", "there is no exemption %s", id)
	}
	if err != nil {
		return nil, fault(err)
	}
	if err := x.parse(); err != nil {
		return nil, err
	}
	if !x.within(auth.From(ctx)) {
		return nil, errs.New(errs.NotFound, "EXEMPTION_NOT_FOUND", "there is no exemption %s", id)
	}
	return x, nil
}

// GetExemption implements ExemptionService.
func (s *Service) GetExemption(ctx context.Context, req *exemptionv1.GetExemptionRequest) (*exemptionv1.GetExemptionResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	x, err := readExemption(ctx, db.NewSelect(), req.GetId())
	if err != nil {
		return nil, err
	}
	p, err := x.show(ctx, db)
	if err != nil {
		return nil, err
	}
	return &exemptionv1.GetExemptionResponse{Exemption: p}, nil
}

var exemptionOrder = order[*exemption]{
	{expr: "x.expire_time", key: timeKey(func(x *exemption) time.Time { return x.ExpireTime })},
	{expr: "x.id", key: textKey(func(x *exemption) string { return x.ID })},
}

// ListExemptions implements ExemptionService.
func (s *Service) ListExemptions(ctx context.Context, req *exemptionv1.ListExemptionsRequest) (*exemptionv1.ListExemptionsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, exemptionOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"exemptions", strconv.FormatBool(req.GetShowExpired())},
		func() *bun.SelectQuery {
			q := db.NewSelect().Model((*exemption)(nil))
			if !req.GetShowExpired() {
				q = q.Where("NOT x.expired")
			}
			return q
		})
	if err != nil {
		return nil, err
	}
	ids := make([]string, len(rows))
	for i, x := range rows {
		ids[i] = x.ID
	}
	var counts []struct {
		ExemptionID string
		Count       int64
	}
	err = db.NewRaw("SELECT exemption_id, count(*) AS count FROM findings WHERE exemption_id <> '' AND exemption_id = ANY(?) GROUP BY exemption_id", pgdialect.Array(ids)).Scan(ctx, &counts)
	if err != nil {
		return nil, fault(err)
	}
	findings := map[string]int64{}
	for _, c := range counts {
		findings[c.ExemptionID] = c.Count
	}
	resp, who := &exemptionv1.ListExemptionsResponse{NextPageToken: next}, auth.From(ctx)
	for _, x := range rows {
		if len(who.Accounts) > 0 { // a page may have fewer, as that of findings
			if err := x.parse(); err != nil {
				return nil, err
			}
			if !x.within(who) {
				continue
			}
		}
		resp.Exemptions = append(resp.Exemptions, x.proto(findings[x.ID]))
	}
	return resp, nil
}

// match refuses an etag that is not the present one. An empty one matches.
func (x *exemption) match(etag string) error {
	if present := x.proto(0).GetEtag(); etag != "" && etag != present {
		return errs.New(errs.Aborted, "STALE_ETAG", "exemption %s has changed since it was read: its etag is %s now; read it again", x.ID, present)
	}
	return nil
}

// UpdateExemption implements ExemptionService.
func (s *Service) UpdateExemption(ctx context.Context, req *exemptionv1.UpdateExemptionRequest) (*exemptionv1.UpdateExemptionResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	paths := req.GetUpdateMask().GetPaths()
	if len(paths) == 0 {
		paths = exemptionPaths
	}
	asked := proto.CloneOf(req.GetExemption())
	asked.By = auth.Actor(ctx, asked.GetBy())
	resp := &exemptionv1.UpdateExemptionResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		if err := tx.lockExemptions(ctx); err != nil {
			return err
		}
		x, err := readExemption(ctx, tx.NewSelect(), req.GetExemption().GetId())
		if err != nil {
			return err
		}
		if err := x.match(req.GetExemption().GetEtag()); err != nil {
			return err
		}
		if x.Expired || !x.ExpireTime.After(tx.now) {
			return errs.New(errs.FailedPrecondition, "EXEMPTION_EXPIRED", "exemption %s ended on %s; make another", x.ID, x.ExpireTime.Format(time.RFC3339))
		}
		if err := x.tellAudit(ctx, tx); err != nil {
			return err
		}
		if err := x.set(asked, paths, tx.now); err != nil {
			return err
		}
		x.Revision++
		if _, err := tx.NewUpdate().Model(x).WherePK().Exec(ctx); err != nil {
			return err
		}
		tx.actor = auth.Actor(ctx, x.By)
		exempted, reopened, err := tx.applyExemptions(ctx, x, findingv1.Cause_CAUSE_USER)
		if err != nil {
			return err
		}
		x.note(tx, "exemption_updated", "was changed, and ends on "+x.ExpireTime.Format(time.RFC3339), exempted, reopened)
		resp.Exemption, err = x.show(ctx, tx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// DeleteExemption implements ExemptionService.
func (s *Service) DeleteExemption(ctx context.Context, req *exemptionv1.DeleteExemptionRequest) (*exemptionv1.DeleteExemptionResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		if err := tx.lockExemptions(ctx); err != nil {
			return err
		}
		x, err := readExemption(ctx, tx.NewSelect(), req.GetId())
		if err != nil {
			return err
		}
		if err := x.match(req.GetEtag()); err != nil {
			return err
		}
		if err := x.tellAudit(ctx, tx); err != nil {
			return err
		}
		if _, err := tx.NewDelete().Model(x).WherePK().Exec(ctx); err != nil {
			return err
		}
		tx.actor = auth.Actor(ctx, "")
		exempted, reopened, err := tx.applyExemptions(ctx, x, findingv1.Cause_CAUSE_USER)
		if err != nil {
			return err
		}
		x.note(tx, "exemption_deleted", "was revoked", exempted, reopened)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &exemptionv1.DeleteExemptionResponse{}, nil
}

// endExemptions ends exemptions when their time has come, until ctx ends. All
// replicas do; of each exemption it is one.
func (s *Service) endExemptions(ctx context.Context) {
	s.every(ctx, expiryPoll, "end exemptions", s.endExemptionsOnce)
}

// endExemptionsOnce ends those whose time has come, each by itself.
func (s *Service) endExemptionsOnce(ctx context.Context) error {
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	var ids []string
	if err := db.NewSelect().Model((*exemption)(nil)).Column("id").Where("NOT x.expired").Where("x.expire_time <= ?", s.now().UTC()).Order("x.expire_time", "x.id").Scan(ctx, &ids); err != nil {
		return fault(err)
	}
	for _, id := range ids {
		err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
			if err := tx.lockExemptions(ctx); err != nil {
				return err
			}
			x, err := readExemption(ctx, tx.NewSelect(), id)
			if errors.Is(err, errs.NotFound) {
				return nil
			}
			if err != nil || x.Expired || x.ExpireTime.After(tx.now) {
				return err
			}
			x.Expired = true
			x.Revision++
			if _, err := tx.NewUpdate().Model(x).WherePK().Exec(ctx); err != nil {
				return err
			}
			exempted, reopened, err := tx.applyExemptions(ctx, x, findingv1.Cause_CAUSE_EXEMPTION_EXPIRED)
			if err != nil {
				return err
			}
			x.note(tx, "exemption_expired", "expired", exempted, reopened)
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
