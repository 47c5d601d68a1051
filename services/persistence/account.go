package persistence

import (
	"cmp"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/uptrace/bun"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

// account is a row of accounts.
type account struct {
	bun.BaseModel `bun:"table:accounts,alias:a"`

	ID         string                 `bun:",pk"`
	Name       string                 `bun:""`
	Partition  string                 `bun:""`
	RoleARN    string                 `bun:"role_arn"`
	ExternalID string                 `bun:""`
	Regions    []string               `bun:",array"`
	Owner      string                 `bun:""`
	Labels     map[string]string      `bun:"type:jsonb"`
	State      accountv1.AccountState `bun:""`
	CreateTime time.Time              `bun:""`
	UpdateTime time.Time              `bun:""`
	VerifyTime *time.Time             `bun:""`
}

var accountFields = fields{
	"id":    {column: "a.id", kind: kindText},
	"name":  {column: "a.name", kind: kindText},
	"owner": {column: "a.owner", kind: kindText},
	"state": {column: "a.state", kind: kindEnum, values: enumValues(accountv1.AccountState(0))},
}

var accountOrder = order[*account]{{expr: "a.id", key: textKey(func(a *account) string { return a.ID })}}

func (a *account) proto() *accountv1.Account {
	p := &accountv1.Account{
		Id: a.ID, Name: a.Name, Partition: a.Partition, RoleArn: a.RoleARN, ExternalId: a.ExternalID, Regions: a.Regions,
		Owner: a.Owner, Labels: a.Labels, State: a.State,
		CreateTime: timestamppb.New(a.CreateTime), UpdateTime: timestamppb.New(a.UpdateTime),
	}
	// Of everything there is: no two states of an account have the same.
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(p)
	if err != nil {
		panic("persistence: an account from the database cannot be marshalled: " + err.Error()) // all its text is UTF-8
	}
	sum := sha256.Sum256(b)
	p.Etag = hex.EncodeToString(sum[:8])
	// Not part of the etag: a verification changes nothing that somebody could have set.
	p.VerifyTime = timestamp(a.VerifyTime)
	return p
}

// set takes over the fields named as in the proto, and decides what is left to
// the server.
func (a *account) set(p *accountv1.Account, paths []string) error {
	was := *a
	for _, path := range paths {
		switch path {
		case "name":
			a.Name = p.GetName()
		case "partition":
			a.Partition = p.GetPartition()
		case "role_arn":
			a.RoleARN = p.GetRoleArn()
		case "external_id":
			a.ExternalID = p.GetExternalId()
		case "regions":
			a.Regions = p.GetRegions()
		case "owner":
			a.Owner = p.GetOwner()
		case "labels":
			a.Labels = p.GetLabels()
		case "state":
			if err := a.setState(p.GetState()); err != nil {
				return err
			}
		default:
			return errs.New(errs.InvalidArgument, "BAD_UPDATE_MASK", "the account cannot be updated").
				Field("update_mask", "%q cannot be changed; use some of %s", path, strings.Join(accountPaths, ", "))
		}
	}
	if a.Regions == nil {
		a.Regions = []string{}
	}
	if a.Labels == nil {
		a.Labels = map[string]string{}
	}
	if err := a.fitRole(a.RoleARN != was.RoleARN || a.Partition != was.Partition); err != nil {
		return err
	}
	if a.RoleARN != "" && a.ExternalID == "" {
		// Of all fields at once, an empty one is left to the server, and the role demands what it has demanded.
		another := slices.Contains(paths, "external_id") && len(paths) < len(accountPaths)
		if a.ExternalID = was.ExternalID; another || a.RoleARN != was.RoleARN {
			a.ExternalID = newExternalID()
		}
	}
	if a.RoleARN != was.RoleARN || a.ExternalID != was.ExternalID {
		a.VerifyTime = nil
	}
	return nil
}

// setState changes the state as a person does.
func (a *account) setState(to accountv1.AccountState) error {
	const pending = accountv1.AccountState_ACCOUNT_STATE_PENDING
	switch {
	case to == pending && a.State != pending:
		return errs.New(errs.InvalidArgument, "BAD_STATE", "the account cannot be kept").
			Field("account.state", "cannot be set to PENDING; an onboarding does so")
	case to == pending, to == accountv1.AccountState_ACCOUNT_STATE_UNSPECIFIED && a.State == pending:
		return nil
	case a.State == pending:
		return errs.New(errs.FailedPrecondition, "ACCOUNT_PENDING",
			"account %s is being onboarded: it becomes ACTIVE when a verification passes; verify it, or delete it", a.ID)
	case to == accountv1.AccountState_ACCOUNT_STATE_UNSPECIFIED:
		to = accountv1.AccountState_ACCOUNT_STATE_ACTIVE
	}
	a.State = to
	return nil
}

// fitRole fills the partition in from the role, and refuses a role that can
// never be assumed for this account.
func (a *account) fitRole(changed bool) error {
	if a.RoleARN == "" {
		a.Partition = cmp.Or(a.Partition, "aws")
		return nil
	}
	bad := errs.New(errs.InvalidArgument, "BAD_ROLE", "the account cannot be kept")
	part := strings.SplitN(a.RoleARN, ":", 6) // arn:PARTITION:iam::ACCOUNT:role/NAME
	if len(part) < 6 {
		return bad.Field("account.role_arn", "is not like arn:aws:iam::123456789012:role/NightshiftReadOnly")
	}
	if a.Partition == "" && slices.Contains([]string{"aws", "aws-cn", "aws-us-gov"}, part[1]) {
		a.Partition = part[1]
	}
	switch {
	case !changed: // one of old is not the fault of whoever changes something else
	case part[4] != a.ID:
		return bad.Field("account.role_arn", "is a role of account %s; it must be one of account %s itself", part[4], a.ID)
	case part[1] != a.Partition:
		return bad.Field("account.role_arn", "is of partition %s, and the account of %s", part[1], cmp.Or(a.Partition, "none that is known"))
	}
	return nil
}

// newExternalID returns an external id that nobody can guess: 26 letters and
// digits of crypto/rand, which are 130 bits.
func newExternalID() string { return "ns-" + strings.ToLower(rand.Text()) }

var accountPaths = []string{"name", "partition", "role_arn", "external_id", "regions", "owner", "labels", "state"}

// CreateAccount implements AccountService.
func (s *Service) CreateAccount(ctx context.Context, req *accountv1.CreateAccountRequest) (*accountv1.CreateAccountResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	a := &account{ID: req.GetAccount().GetId()}
	if err := a.set(req.GetAccount(), accountPaths); err != nil {
		return nil, err
	}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		added, err := tx.register(ctx, a)
		if err == nil && !added {
			return errs.New(errs.AlreadyExists, "ACCOUNT_EXISTS", "account %s is registered already; update it instead", a.ID)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	return &accountv1.CreateAccountResponse{Account: a.proto()}, nil
}

// register adds an account, and returns false when its number is taken.
func (tx *transaction) register(ctx context.Context, a *account) (bool, error) {
	a.CreateTime, a.UpdateTime = micros(tx.now), micros(tx.now)
	r, err := tx.NewInsert().Model(a).On("CONFLICT DO NOTHING").Exec(ctx)
	if err != nil {
		return false, err
	}
	if n, err := r.RowsAffected(); err != nil || n == 0 {
		return false, err
	}
	tx.noteAccount(a, "account_registered", "Account %s was registered.")
	return true, nil
}

// noteAccount says in the system log what has become of an account. Its
// external id stays out of it.
func (tx *transaction) noteAccount(a *account, event, format string) {
	tx.note(entry{
		Level: systemlogv1.Level_LEVEL_INFO, Event: event, Service: "persistence", Account: a.ID, Message: fmt.Sprintf(format, a.ID),
		Attributes: map[string]string{"name": a.Name, "owner": a.Owner, "role_arn": a.RoleARN, "state": strings.TrimPrefix(a.State.String(), "ACCOUNT_STATE_")},
	})
}

// GetAccount implements AccountService.
func (s *Service) GetAccount(ctx context.Context, req *accountv1.GetAccountRequest) (*accountv1.GetAccountResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	a, err := readAccount(ctx, db.NewSelect(), req.GetId())
	if err != nil {
		return nil, err
	}
	return &accountv1.GetAccountResponse{Account: a.proto()}, nil
}

func readAccount(ctx context.Context, q *bun.SelectQuery, id string) (*account, error) {
	a := &account{}
	err := q.Model(a).Where("a.id = ?", id).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errs.New(errs.NotFound, "ACCOUNT_NOT_FOUND", "account %s is not registered", id)
	}
	return a, fault(err)
}

// ListAccounts implements AccountService.
func (s *Service) ListAccounts(ctx context.Context, req *accountv1.ListAccountsRequest) (*accountv1.ListAccountsResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	where, err := accountFields.parse(req.GetFilter())
	if err != nil {
		return nil, err
	}
	rows, next, err := list(ctx, accountOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"accounts", req.GetFilter()},
		func() *bun.SelectQuery { return where.apply(only(ctx, "a.id", db.NewSelect().Model((*account)(nil)))) })
	if err != nil {
		return nil, err
	}
	resp := &accountv1.ListAccountsResponse{NextPageToken: next}
	for _, a := range rows {
		resp.Accounts = append(resp.Accounts, a.proto())
	}
	return resp, nil
}

// UpdateAccount implements AccountService.
func (s *Service) UpdateAccount(ctx context.Context, req *accountv1.UpdateAccountRequest) (*accountv1.UpdateAccountResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	paths := req.GetUpdateMask().GetPaths()
	if len(paths) == 0 {
		paths = accountPaths
	}
	var a *account
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) (err error) {
		if a, err = readAccount(ctx, tx.NewSelect().For("UPDATE"), req.GetAccount().GetId()); err != nil {
			return err
		}
		if err := a.match(req.GetAccount().GetEtag()); err != nil {
			return err
		}
		was := *a
		app.Before(ctx, a.proto())
		if err := a.set(req.GetAccount(), paths); err != nil {
			return err
		}
		// Later than before even when the clock is not, so that no old etag comes back.
		a.UpdateTime = latest(micros(tx.now), a.UpdateTime.Add(time.Microsecond))
		if _, err = tx.NewUpdate().Model(a).WherePK().Exec(ctx); err != nil {
			return err
		}
		switch {
		case a.State == was.State:
		case a.State == accountv1.AccountState_ACCOUNT_STATE_SUSPENDED:
			tx.noteAccount(a, "account_suspended", "Account %s was suspended: runs leave it out.")
		default:
			tx.noteAccount(a, "account_resumed", "Account %s was resumed: runs look at it again.")
		}
		return tx.accountChanged(ctx, a)
	})
	if err != nil {
		return nil, err
	}
	return &accountv1.UpdateAccountResponse{Account: a.proto()}, nil
}

// match refuses an etag that is not the present one. An empty one matches.
func (a *account) match(etag string) error {
	if present := a.proto().GetEtag(); etag != "" && etag != present {
		return errs.New(errs.Aborted, "STALE_ETAG", "account %s has changed since it was read: its etag is %s now; read it again", a.ID, present)
	}
	return nil
}

// DeleteAccount implements AccountService.
func (s *Service) DeleteAccount(ctx context.Context, req *accountv1.DeleteAccountRequest) (*accountv1.DeleteAccountResponse, error) {
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		a, err := readAccount(ctx, tx.NewSelect().For("UPDATE"), req.GetId())
		if err != nil {
			return err
		}
		if err := a.match(req.GetEtag()); err != nil {
			return err
		}
		app.Before(ctx, a.proto())
		if _, err = tx.NewDelete().Model(a).WherePK().Exec(ctx); err != nil {
			return err
		}
		tx.noteAccount(a, "account_deleted", "Account %s was deleted: runs leave it out, its findings stay.")
		return tx.cancelOnboarding(ctx, a)
	})
	if err != nil {
		return nil, err
	}
	return &accountv1.DeleteAccountResponse{}, nil
}
