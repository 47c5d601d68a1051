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
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/access"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// maxSteps is how many changes of state an onboarding remembers.
const maxSteps = 100

// The states of onboardings and accounts that are spoken of most.
const (
	onboardingPending   = accountv1.OnboardingState_ONBOARDING_STATE_PENDING
	onboardingVerifying = accountv1.OnboardingState_ONBOARDING_STATE_VERIFYING
	onboardingCompleted = accountv1.OnboardingState_ONBOARDING_STATE_COMPLETED
	onboardingFailed    = accountv1.OnboardingState_ONBOARDING_STATE_FAILED
	onboardingCancelled = accountv1.OnboardingState_ONBOARDING_STATE_CANCELLED
	accountPending      = accountv1.AccountState_ACCOUNT_STATE_PENDING
	accountActive       = accountv1.AccountState_ACCOUNT_STATE_ACTIVE
)

// onboarding is a row of onboardings: the proto, and what it is found by.
type onboarding struct {
	bun.BaseModel `bun:"table:onboardings,alias:o"`

	ID         string                     `bun:",pk"`
	Account    string                     `bun:""`
	State      accountv1.OnboardingState  `bun:""`
	Source     accountv1.OnboardingSource `bun:""`
	CreateTime time.Time                  `bun:""`
	UpdateTime time.Time                  `bun:""`
	Detail     []byte                     `bun:""`

	it *accountv1.Onboarding
}

var onboardingFields = fields{
	"id":          {column: "o.id", kind: kindText},
	"account":     {column: "o.account", kind: kindText},
	"state":       {column: "o.state", kind: kindEnum, values: enumValues(accountv1.OnboardingState(0))},
	"source":      {column: "o.source", kind: kindEnum, values: enumValues(accountv1.OnboardingSource(0))},
	"create_time": {column: "o.create_time", kind: kindTime},
	"update_time": {column: "o.update_time", kind: kindTime},
}

var onboardingOrder = order[*onboarding]{
	{expr: "o.create_time", desc: true, key: timeKey(func(o *onboarding) time.Time { return o.CreateTime })},
	{expr: "o.id", key: textKey(func(o *onboarding) string { return o.ID })},
}

// open reads the proto out of the row.
func (o *onboarding) open() error {
	o.it = &accountv1.Onboarding{}
	return proto.Unmarshal(o.Detail, o.it)
}

// enter changes the state.
func (o *onboarding) enter(state accountv1.OnboardingState, now time.Time, attempt int32, why string) {
	now = latest(micros(now), o.UpdateTime)
	o.State, o.UpdateTime = state, now
	o.it.State, o.it.UpdateTime, o.it.Error = state, timestamppb.New(now), why
	if state == onboardingCompleted || state == onboardingCancelled {
		o.it.EndTime = timestamppb.New(now)
	}
	if len(o.it.Steps) >= maxSteps {
		o.it.Steps = slices.Delete(o.it.Steps, 1, len(o.it.Steps)-maxSteps+2)
	}
	o.it.Steps = append(o.it.Steps, &accountv1.OnboardingStep{State: state, Time: timestamppb.New(now), Attempt: attempt, Error: why})
}

// holds takes over how the account is now.
func (o *onboarding) holds(a *account) {
	o.it.Account = a.proto()
	trusted := o.it.TemplateParameters[access.TrustedPrincipal]
	o.it.TemplateParameters = map[string]string{access.ExternalID: a.ExternalID}
	_, role, _ := strings.Cut(a.RoleARN, ":role/")
	o.it.TemplateParameters[access.RolePath], o.it.TemplateParameters[access.RoleName] = access.SplitRole(role)
	if trusted != "" {
		o.it.TemplateParameters[access.TrustedPrincipal] = trusted
	}
}

func (o *onboarding) save(ctx context.Context, tx *transaction) (err error) {
	if o.Detail, err = proto.Marshal(o.it); err != nil {
		return err
	}
	_, err = tx.NewUpdate().Model(o).WherePK().Exec(ctx)
	return err
}

// note says in the system log what has become of an onboarding.
func (o *onboarding) note(tx *transaction, level systemlogv1.Level, event, message string) {
	tx.note(entry{
		Level: level, Event: event, Service: "persistence", Account: o.Account, Message: message,
		Attributes: map[string]string{"onboarding_id": o.ID, "attempts": strconv.Itoa(int(o.it.GetAttempts())), "role_arn": o.it.GetAccount().GetRoleArn(), "error": o.it.GetError()},
	})
}

// beginOnboarding begins that of an account just registered.
func (tx *transaction) beginOnboarding(ctx context.Context, a *account, source accountv1.OnboardingSource, trusted string) (*onboarding, error) {
	var id [8]byte
	_, _ = rand.Read(id[:]) // never fails
	o := &onboarding{ID: hex.EncodeToString(id[:]), Account: a.ID, Source: source, CreateTime: micros(tx.now)}
	o.it = &accountv1.Onboarding{Id: o.ID, Source: source, CreateTime: timestamppb.New(o.CreateTime), TemplateParameters: map[string]string{access.TrustedPrincipal: trusted}}
	o.holds(a)
	o.enter(onboardingPending, tx.now, 0, "")
	var err error
	if o.Detail, err = proto.Marshal(o.it); err != nil {
		return nil, err
	}
	if _, err := tx.NewInsert().Model(o).Exec(ctx); err != nil {
		return nil, err
	}
	o.note(tx, systemlogv1.Level_LEVEL_INFO, "onboarding_started", fmt.Sprintf("Account %s is being onboarded: its role %s has to be made and verified.", a.ID, a.RoleARN))
	return o, nil
}

// lastOnboarding is the newest of an account, or nil; the lock on the account
// is the lock on it.
func lastOnboarding(ctx context.Context, q *bun.SelectQuery, id string) (*onboarding, error) {
	o := &onboarding{}
	err := q.Model(o).Where("o.account = ?", id).Order("o.create_time DESC", "o.id").Limit(1).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return o, o.open()
}

// underWay says whether there is an onboarding and it has not ended.
func (o *onboarding) underWay() bool {
	return o != nil && o.State != onboardingCompleted && o.State != onboardingCancelled
}

// accountChanged keeps the onboarding that is under way to the account.
func (tx *transaction) accountChanged(ctx context.Context, a *account) error {
	o, err := lastOnboarding(ctx, tx.NewSelect(), a.ID)
	if err != nil || !o.underWay() {
		return err
	}
	o.holds(a)
	return o.save(ctx, tx)
}

// cancelOnboarding ends the one that is under way: the account is gone.
func (tx *transaction) cancelOnboarding(ctx context.Context, a *account) error {
	o, err := lastOnboarding(ctx, tx.NewSelect(), a.ID)
	if err != nil || !o.underWay() {
		return err
	}
	o.enter(onboardingCancelled, tx.now, 0, "the account was deleted")
	o.note(tx, systemlogv1.Level_LEVEL_INFO, "onboarding_cancelled", fmt.Sprintf("The onboarding of account %s ended with its deletion.", a.ID))
	return o.save(ctx, tx)
}

// pendingAccount is the account that is asked for, to be registered as
// PENDING. roleName stands in for a role that is not named.
func pendingAccount(p *accountv1.Account, roleName string) (*account, error) {
	p = proto.CloneOf(p)
	p.State = 0
	if p.GetRoleArn() == "" {
		arn, err := access.RoleARN(cmp.Or(p.GetPartition(), "aws"), p.GetId(), roleName)
		if err != nil {
			return nil, errs.New(errs.InvalidArgument, "BAD_ROLE", "the account cannot be kept").Field("role_name", "%s", err)
		}
		p.RoleArn = arn
	}
	a := &account{ID: p.GetId()}
	if err := a.set(p, accountPaths); err != nil {
		return nil, err
	}
	a.State = accountPending
	return a, nil
}

// CreateOnboarding implements OnboardingService.
func (s *Service) CreateOnboarding(ctx context.Context, req *accountv1.CreateOnboardingRequest) (*accountv1.CreateOnboardingResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	a, err := pendingAccount(req.GetAccount(), req.GetRoleName())
	if err != nil {
		return nil, err
	}
	resp := &accountv1.CreateOnboardingResponse{}
	err = s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		if resp.Created, err = tx.register(ctx, a); err != nil {
			return err
		}
		if resp.Created {
			o, err := tx.beginOnboarding(ctx, a, accountv1.OnboardingSource_ONBOARDING_SOURCE_REQUEST, req.GetTrustedPrincipal())
			if err != nil {
				return err
			}
			resp.Onboarding = o.it
			return nil
		}
		present, err := readAccount(ctx, tx.NewSelect().For("UPDATE"), a.ID)
		if err != nil {
			return err
		}
		o, err := lastOnboarding(ctx, tx.NewSelect(), a.ID)
		if err != nil {
			return err
		}
		if o == nil || o.State == onboardingCancelled || o.CreateTime.Before(present.CreateTime) { // or of the account's earlier life
			return errs.New(errs.AlreadyExists, "ACCOUNT_EXISTS", "account %s is registered already, without onboarding; verify it instead", a.ID)
		}
		if err := present.same(req); err != nil {
			return err
		}
		if t := req.GetTrustedPrincipal(); o.underWay() && t != "" && t != o.it.GetTemplateParameters()[access.TrustedPrincipal] {
			o.it.TemplateParameters[access.TrustedPrincipal] = t
			if err := o.save(ctx, tx); err != nil {
				return err
			}
		}
		resp.Onboarding = o.it
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// same refuses a request that asks for something else than the account there
// is. What it leaves open is no difference.
func (a *account) same(req *accountv1.CreateOnboardingRequest) error {
	p := req.GetAccount()
	e := errs.New(errs.AlreadyExists, "ACCOUNT_DIFFERS", "account %s is registered already, and differently; update it instead", a.ID)
	differ := func(field, want, have string) {
		if want != "" && want != have {
			e = e.Field(field, "is %q, and registered is %q", want, have)
		}
	}
	differ("account.name", p.GetName(), a.Name)
	differ("account.owner", p.GetOwner(), a.Owner)
	differ("account.partition", p.GetPartition(), a.Partition)
	role := p.GetRoleArn()
	if role == "" && req.GetRoleName() != "" {
		role, _ = access.RoleARN(a.Partition, a.ID, req.GetRoleName())
	}
	differ("account.role_arn", role, a.RoleARN)
	if id := p.GetExternalId(); id != "" && id != a.ExternalID {
		e = e.Field("account.external_id", "is not the one that is registered")
	}
	if r := p.GetRegions(); len(r) > 0 && !slices.Equal(slices.Sorted(slices.Values(r)), slices.Sorted(slices.Values(a.Regions))) {
		differ("account.regions", strings.Join(r, " "), cmp.Or(strings.Join(a.Regions, " "), "all"))
	}
	for k, v := range p.GetLabels() {
		if have, ok := a.Labels[k]; !ok || have != v {
			e = e.Field("account.labels", "has %q as %q, and registered is %q", k, v, have)
		}
	}
	if len(e.Violations()) > 0 {
		return e
	}
	return nil
}

// GetOnboarding implements OnboardingService.
func (s *Service) GetOnboarding(ctx context.Context, req *accountv1.GetOnboardingRequest) (*accountv1.GetOnboardingResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	o := &onboarding{}
	err = only(ctx, "o.account", db.NewSelect().Model(o)).Where("o.id = ?", req.GetId()).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errs.New(errs.NotFound, "ONBOARDING_NOT_FOUND", "there is no onboarding %s", req.GetId())
	}
	if err == nil {
		err = o.open()
	}
	if err != nil {
		return nil, fault(err)
	}
	return &accountv1.GetOnboardingResponse{Onboarding: o.it}, nil
}

// ListOnboardings implements OnboardingService.
func (s *Service) ListOnboardings(ctx context.Context, req *accountv1.ListOnboardingsRequest) (*accountv1.ListOnboardingsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := onboardingFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, onboardingOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"onboardings", req.GetFilter()},
		func() *bun.SelectQuery {
			return where.apply(only(ctx, "o.account", db.NewSelect().Model((*onboarding)(nil))))
		})
	if err != nil {
		return nil, err
	}
	resp := &accountv1.ListOnboardingsResponse{NextPageToken: next}
	for _, o := range rows {
		if err := o.open(); err != nil {
			return nil, err
		}
		resp.Onboardings = append(resp.Onboardings, o.it)
	}
	return resp, nil
}

// ImportAccounts implements OnboardingService.
func (s *Service) ImportAccounts(ctx context.Context, req *accountv1.ImportAccountsRequest) (*accountv1.ImportAccountsResponse, error) {
	if err := refuseNUL(&accountv1.ImportAccountsRequest{ExternalId: req.GetExternalId(), TrustedPrincipal: req.GetTrustedPrincipal()}, ""); err != nil {
		return nil, err
	}
	resp := &accountv1.ImportAccountsResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		// A transaction that is tried again begins anew.
		resp.Results, resp.ExternalId = nil, req.GetExternalId()
		registered, err := tx.registered(ctx, req.GetAccounts())
		if err != nil {
			return err
		}
		if resp.ExternalId == "" {
			if resp.ExternalId, err = tx.lastImported(ctx); err != nil {
				return err
			}
			if resp.ExternalId == "" && !req.GetValidateOnly() {
				resp.ExternalId = newExternalID()
			}
		}
		for _, p := range req.GetAccounts() {
			r, err := tx.importAccount(ctx, p, req, resp.ExternalId, registered)
			if err != nil {
				return err
			}
			resp.Results = append(resp.Results, r)
		}
		if !slices.ContainsFunc(resp.Results, func(r *accountv1.ImportResult) bool {
			return r.GetOutcome() == accountv1.ImportOutcome_IMPORT_OUTCOME_CREATED
		}) {
			resp.ExternalId = ""
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// importAccount registers one account, or says why not. The error is one of
// the database.
func (tx *transaction) importAccount(ctx context.Context, p *accountv1.Account, req *accountv1.ImportAccountsRequest, externalID string, seen map[string]bool) (*accountv1.ImportResult, error) {
	r := &accountv1.ImportResult{Account: strings.ToValidUTF8(p.GetId(), "\uFFFD"), Outcome: accountv1.ImportOutcome_IMPORT_OUTCOME_REFUSED}
	if seen[p.GetId()] {
		r.Outcome = accountv1.ImportOutcome_IMPORT_OUTCOME_UNTOUCHED
		return r, nil
	}
	err := refuseNUL(p, "account")
	if err == nil {
		err = app.Validate(p)
	}
	var a *account
	if err == nil {
		p = proto.CloneOf(p)
		p.ExternalId = cmp.Or(p.GetExternalId(), externalID)
		a, err = pendingAccount(p, "")
	}
	if err != nil {
		r.Error = err.Error()
		return r, nil
	}
	seen[a.ID] = true
	r.Outcome = accountv1.ImportOutcome_IMPORT_OUTCOME_CREATED
	if req.GetValidateOnly() {
		return r, nil
	}
	added, err := tx.register(ctx, a)
	if err != nil {
		return nil, err
	}
	if !added { // by somebody else, since this import began
		r.Outcome = accountv1.ImportOutcome_IMPORT_OUTCOME_UNTOUCHED
		return r, nil
	}
	o, err := tx.beginOnboarding(ctx, a, accountv1.OnboardingSource_ONBOARDING_SOURCE_ORGANIZATION, req.GetTrustedPrincipal())
	if err != nil {
		return nil, err
	}
	r.Onboarding = o.it
	return r, nil
}

// registered says which of the accounts there are already.
func (tx *transaction) registered(ctx context.Context, accounts []*accountv1.Account) (map[string]bool, error) {
	ids := make([]string, 0, len(accounts))
	for _, p := range accounts {
		if !strings.ContainsRune(p.GetId(), 0) {
			ids = append(ids, p.GetId())
		}
	}
	var have []string
	if err := tx.NewSelect().Model((*account)(nil)).Column("id").Where("a.id = ANY(?)", pgdialect.Array(ids)).Scan(ctx, &have); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for _, id := range have {
		seen[id] = true
	}
	return seen, nil
}

// lastImported is the external id of the account imported last, or "".
func (tx *transaction) lastImported(ctx context.Context) (id string, err error) {
	err = tx.NewSelect().Model((*onboarding)(nil)).ColumnExpr("a.external_id").Join("JOIN accounts AS a ON a.id = o.account").
		Where("o.source = ?", accountv1.OnboardingSource_ONBOARDING_SOURCE_ORGANIZATION).Where("a.external_id <> ''").
		Order("o.create_time DESC", "o.id").Limit(1).Scan(ctx, &id)
	if errors.Is(err, sql.ErrNoRows) {
		err = nil
	}
	return id, err
}

// StartVerification implements OnboardingService.
func (s *Service) StartVerification(ctx context.Context, req *accountv1.StartVerificationRequest) (*accountv1.StartVerificationResponse, error) {
	resp := &accountv1.StartVerificationResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		a, err := readAccount(ctx, tx.NewSelect().For("UPDATE"), req.GetAccount())
		if err != nil {
			return err
		}
		resp.Account, resp.Attempt = a.proto(), 0
		o, err := lastOnboarding(ctx, tx.NewSelect(), a.ID)
		if err != nil || !o.underWay() {
			return err
		}
		o.it.Attempts++
		o.enter(onboardingVerifying, tx.now, o.it.Attempts, "")
		resp.Attempt = o.it.Attempts
		return o.save(ctx, tx)
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// FinishVerification implements OnboardingService.
func (s *Service) FinishVerification(ctx context.Context, req *accountv1.FinishVerificationRequest) (*accountv1.FinishVerificationResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	v := req.GetVerification()
	if want := outcomeOf(v.GetChecks()); v.GetOutcome() != want {
		return nil, errs.New(errs.InvalidArgument, "BAD_VERIFICATION", "the verification cannot be kept").
			Field("verification.outcome", "is %s, and the checks say %s", v.GetOutcome(), want)
	}
	resp := &accountv1.FinishVerificationResponse{}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		a, err := readAccount(ctx, tx.NewSelect().For("UPDATE"), v.GetAccount())
		if err != nil {
			return err
		}
		o, err := lastOnboarding(ctx, tx.NewSelect(), a.ID)
		if err != nil {
			return err
		}
		if req.GetAttempt() > 0 && o != nil && o.State != onboardingVerifying && o.it.GetAttempts() == req.GetAttempt() && proto.Equal(o.it.GetVerification(), v) {
			resp.Account, resp.Onboarding = a.proto(), o.it // said before
			return nil
		}
		if err := a.match(req.GetEtag()); err != nil {
			return err
		}
		switch {
		case !o.underWay():
			o = nil
			if req.GetAttempt() != 0 {
				return errs.New(errs.Aborted, "STALE_ATTEMPT", "the onboarding of account %s has ended; verify it again", a.ID)
			}
		case o.State != onboardingVerifying || o.it.GetAttempts() != req.GetAttempt():
			return errs.New(errs.Aborted, "STALE_ATTEMPT", "another verification of account %s has begun since; its result counts", a.ID)
		}
		if err := tx.verified(ctx, a, o, v); err != nil {
			return err
		}
		if resp.Account = a.proto(); o != nil {
			resp.Onboarding = o.it
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

// verified takes in what a verification found. o is nil when no onboarding is
// under way.
func (tx *transaction) verified(ctx context.Context, a *account, o *onboarding, v *accountv1.Verification) error {
	passed := v.GetOutcome() == accountv1.VerificationOutcome_VERIFICATION_OUTCOME_PASSED
	why := ""
	if passed {
		now := micros(tx.now)
		a.VerifyTime = &now
		if a.State == accountPending {
			a.State = accountActive
			a.UpdateTime = latest(now, a.UpdateTime.Add(time.Microsecond))
		}
		if _, err := tx.NewUpdate().Model(a).WherePK().Exec(ctx); err != nil {
			return err
		}
	} else {
		why = troubles(v.GetChecks())
	}
	if o == nil {
		tx.noteVerified(a, v, why)
		return nil
	}
	o.holds(a)
	o.it.Verification = v
	if passed {
		o.enter(onboardingCompleted, tx.now, o.it.GetAttempts(), "")
		o.note(tx, systemlogv1.Level_LEVEL_INFO, "onboarding_completed", fmt.Sprintf("Account %s is onboarded: runs look at it from now on.", a.ID))
		return o.save(ctx, tx)
	}
	// Whoever waits for a role tries again and again: what was said once is enough.
	news := o.lastError() != why
	o.enter(onboardingFailed, tx.now, o.it.GetAttempts(), why)
	if news {
		o.note(tx, systemlogv1.Level_LEVEL_WARN, "onboarding_failed", fmt.Sprintf("The onboarding of account %s waits: %s.", a.ID, why))
	}
	return o.save(ctx, tx)
}

// lastError is why the last attempt that ended did not pass, or "".
func (o *onboarding) lastError() string {
	for _, st := range slices.Backward(o.it.GetSteps()) {
		if st.GetState() == onboardingFailed {
			return st.GetError()
		}
	}
	return ""
}

// noteVerified says in the system log what a verification found that belongs to
// no onboarding.
func (tx *transaction) noteVerified(a *account, v *accountv1.Verification, why string) {
	e := entry{
		Level: systemlogv1.Level_LEVEL_INFO, Event: "account_verified", Service: "health", Account: a.ID,
		Message:    fmt.Sprintf("Account %s was verified: its role, external id, regions and permissions are as they should be.", a.ID),
		Attributes: map[string]string{"outcome": strings.TrimPrefix(v.GetOutcome().String(), "VERIFICATION_OUTCOME_"), "missing": strings.Join(missing(v.GetChecks()), ",")},
	}
	if why != "" {
		e.Level, e.Event, e.Message = systemlogv1.Level_LEVEL_WARN, "account_verification_failed", fmt.Sprintf("Account %s cannot be scanned as it should: %s.", a.ID, why)
	}
	tx.note(e)
}

// outcomeOf sums up checks as VerificationOutcome says.
func outcomeOf(checks []*accountv1.Check) accountv1.VerificationOutcome {
	out := accountv1.VerificationOutcome_VERIFICATION_OUTCOME_PASSED
	for _, c := range checks {
		switch c.GetStatus() {
		case accountv1.CheckStatus_CHECK_STATUS_DENIED, accountv1.CheckStatus_CHECK_STATUS_WRONG:
			return accountv1.VerificationOutcome_VERIFICATION_OUTCOME_FAILED
		case accountv1.CheckStatus_CHECK_STATUS_UNKNOWN:
			out = accountv1.VerificationOutcome_VERIFICATION_OUTCOME_UNKNOWN
		}
	}
	return out
}

// missing are the IAM actions that the role lacks. That the role cannot be
// assumed is for many reasons, and no action of it.
func missing(checks []*accountv1.Check) []string {
	var out []string
	for _, c := range checks {
		if c.GetKind() != accountv1.CheckKind_CHECK_KIND_PERMISSION || c.GetStatus() != accountv1.CheckStatus_CHECK_STATUS_DENIED {
			continue
		}
		if m := cmp.Or(c.GetMissing(), c.GetSubject()); !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	slices.Sort(out)
	return out
}

// troubles says in one sentence, without its full stop, what is wrong.
func troubles(checks []*accountv1.Check) string {
	var parts []string
	if m := missing(checks); len(m) > 0 {
		parts = append(parts, "missing "+strings.Join(m, ", "))
	}
	unknown := 0
	for _, c := range checks {
		switch {
		case c.GetStatus() == accountv1.CheckStatus_CHECK_STATUS_UNKNOWN:
			unknown++
		case c.GetStatus() == accountv1.CheckStatus_CHECK_STATUS_WRONG,
			c.GetStatus() == accountv1.CheckStatus_CHECK_STATUS_DENIED && c.GetKind() != accountv1.CheckKind_CHECK_KIND_PERMISSION:
			if len(parts) < 10 {
				parts = append(parts, strings.TrimSuffix(clean(c.GetDetail()), "."))
			}
		}
	}
	if unknown > 0 {
		parts = append(parts, count(unknown, "check")+" without an answer")
	}
	return strings.Join(parts, "; ")
}
