package persistence

import (
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
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/page"
)

const (
	// tokenLife is how long a token lives unless told, and longestToken how long
	// it may.
	tokenLife    = 90 * 24 * time.Hour
	longestToken = 366 * 24 * time.Hour
)

// token is a row of auth_tokens.
type token struct {
	bun.BaseModel `bun:"table:auth_tokens,alias:k"`

	ID           string      `bun:",pk"`
	Hash         []byte      `bun:""`
	Name         string      `bun:""`
	Role         authv1.Role `bun:""`
	Accounts     []string    `bun:",array"`
	CreatedBy    string      `bun:""`
	CreateTime   time.Time   `bun:""`
	ExpireTime   time.Time   `bun:""`
	LastUsedTime *time.Time  `bun:""`
	RevokeTime   *time.Time  `bun:""`
	RevokedBy    string      `bun:""`
}

var tokenOrder = order[*token]{
	{expr: "k.create_time", desc: true, key: timeKey(func(k *token) time.Time { return k.CreateTime })},
	{expr: "k.id", key: textKey(func(k *token) string { return k.ID })},
}

func (k *token) proto() *authv1.Token {
	return &authv1.Token{
		Id: k.ID, Name: k.Name, Role: k.Role, Accounts: k.Accounts, CreatedBy: k.CreatedBy, CreateTime: timestamppb.New(k.CreateTime),
		ExpireTime: timestamppb.New(k.ExpireTime), LastUsedTime: timestamp(k.LastUsedTime), RevokeTime: timestamp(k.RevokeTime), RevokedBy: k.RevokedBy,
	}
}

// within tells whether the token has no more rights than somebody.
func (k *token) within(p auth.Principal) bool {
	return k.Role <= p.Role && (len(p.Accounts) == 0 || len(k.Accounts) > 0 && !slices.ContainsFunc(k.Accounts, func(a string) bool { return !p.Sees(a) }))
}

// CreateToken implements AuthService.
func (s *Service) CreateToken(ctx context.Context, req *authv1.CreateTokenRequest) (*authv1.CreateTokenResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	var random [8]byte
	_, _ = rand.Read(random[:]) // never fails
	secret, t, who := auth.NewToken(), req.GetToken(), caller(ctx)
	k := &token{
		ID: hex.EncodeToString(random[:]), Hash: auth.HashToken(secret), Name: strings.TrimSpace(t.GetName()), Role: t.GetRole(),
		Accounts: slices.Sorted(slices.Values(t.GetAccounts())), CreatedBy: nameOfCaller(who),
	}
	if k.Accounts == nil {
		k.Accounts = []string{}
	}
	bad := errs.New(errs.InvalidArgument, "BAD_TOKEN", "the token cannot be made")
	if k.Name == "" {
		return nil, bad.Field("token.name", "is empty; say who is to bear it")
	}
	if !k.within(who) {
		return nil, errs.New(errs.PermissionDenied, "TOKEN_TOO_POWERFUL", "the token would have more rights than its creator, who has the role %s%s", auth.RoleName(who.Role), onlyIn(who.Accounts))
	}
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		k.CreateTime = micros(tx.now)
		k.ExpireTime = k.CreateTime.Add(tokenLife)
		if t.GetExpireTime() != nil {
			end := timeOf(t.GetExpireTime())
			switch {
			case end == nil:
				return bad.Field("token.expire_time", "is no time")
			case !end.After(tx.now):
				return bad.Field("token.expire_time", "is %s, which is past; it must be in the future", end.Format(time.RFC3339))
			case end.After(tx.now.Add(longestToken)):
				return bad.Field("token.expire_time", "is %s; it must be within a year", end.Format(time.RFC3339))
			}
			k.ExpireTime = *end
		}
		if _, err := tx.NewInsert().Model(k).Exec(ctx); err != nil {
			return err
		}
		app.After(ctx, k.proto())
		k.note(tx, "token_created", fmt.Sprintf("%s made the token %q with the role %s%s.", k.CreatedBy, k.Name, auth.RoleName(k.Role), onlyIn(k.Accounts)))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &authv1.CreateTokenResponse{Token: k.proto(), Secret: secret}, nil
}

// caller is who calls. Where nobody is asked who he is, everybody is an admin.
func caller(ctx context.Context) auth.Principal {
	p := auth.From(ctx)
	if p.Kind == auditv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS {
		p.Role = authv1.Role_ROLE_ADMIN
	}
	return p
}

func nameOfCaller(p auth.Principal) string {
	if p.Name == "" {
		return "somebody"
	}
	return clean(p.Name)
}

func onlyIn(accounts []string) string {
	if len(accounts) == 0 {
		return ""
	}
	return " in " + strings.Join(accounts, ", ") + " only"
}

// note says in the system log what became of a token. Neither its secret nor
// its hash is in it.
func (k *token) note(tx *transaction, event, message string) {
	tx.note(entry{
		Level: systemlogv1.Level_LEVEL_INFO, Event: event, Service: "persistence", Message: message,
		Attributes: map[string]string{"token_id": k.ID, "name": k.Name, "role": auth.RoleName(k.Role), "accounts": strings.Join(k.Accounts, ","), "expire_time": k.ExpireTime.Format(time.RFC3339)},
	})
}

// ListTokens implements AuthService.
func (s *Service) ListTokens(ctx context.Context, req *authv1.ListTokensRequest) (*authv1.ListTokensResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	who := caller(ctx)
	rows, next, err := list(ctx, tokenOrder, req.GetPageToken(), page.Size(req.GetPageSize()), []string{"tokens", strconv.FormatBool(req.GetShowEnded())},
		func() *bun.SelectQuery {
			q := db.NewSelect().Model((*token)(nil))
			if !req.GetShowEnded() {
				q = q.Where("k.revoke_time IS NULL").Where("k.expire_time > ?", s.now().UTC())
			}
			if len(who.Accounts) > 0 {
				q = q.Where("k.accounts <> '{}'").Where("k.accounts <@ ?", pgdialect.Array(who.Accounts))
			}
			return q
		})
	if err != nil {
		return nil, err
	}
	resp := &authv1.ListTokensResponse{NextPageToken: next}
	for _, k := range rows {
		resp.Tokens = append(resp.Tokens, k.proto())
	}
	return resp, nil
}

// RevokeToken implements AuthService.
func (s *Service) RevokeToken(ctx context.Context, req *authv1.RevokeTokenRequest) (*authv1.RevokeTokenResponse, error) {
	if err := refuseNUL(req, ""); err != nil {
		return nil, err
	}
	k, who := &token{}, caller(ctx)
	err := s.inTx(ctx, func(ctx context.Context, tx *transaction) error {
		*k = token{}
		err := tx.NewSelect().Model(k).Where("k.id = ?", req.GetId()).For("UPDATE").Scan(ctx)
		if errors.Is(err, sql.ErrNoRows) || err == nil && !k.within(who) {
			return errs.New(errs.NotFound, "TOKEN_NOT_FOUND", "there is no token %s", req.GetId())
		}
		if err != nil || k.RevokeTime != nil {
			return err
		}
		app.Before(ctx, k.proto())
		k.RevokeTime, k.RevokedBy = new(micros(tx.now)), nameOfCaller(who)
		if _, err := tx.NewUpdate().Model(k).Column("revoke_time", "revoked_by").WherePK().Exec(ctx); err != nil {
			return err
		}
		app.After(ctx, k.proto())
		k.note(tx, "token_revoked", fmt.Sprintf("%s revoked the token %q.", k.RevokedBy, k.Name))
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &authv1.RevokeTokenResponse{Token: k.proto()}, nil
}

// WhoAmI implements AuthService.
func (s *Service) WhoAmI(ctx context.Context, _ *authv1.WhoAmIRequest) (*authv1.WhoAmIResponse, error) {
	p := caller(ctx)
	resp := &authv1.WhoAmIResponse{
		Kind: strings.ToLower(strings.TrimPrefix(p.Kind.String(), "PRINCIPAL_KIND_")), Name: p.Name, Id: p.ID, Role: p.Role, Accounts: p.Accounts,
	}
	if !p.Expire.IsZero() {
		resp.ExpireTime = timestamppb.New(p.Expire)
	}
	return resp, nil
}

// Authenticate implements AuthService.
func (s *Service) Authenticate(ctx context.Context, req *authv1.AuthenticateRequest) (*authv1.AuthenticateResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	k := &token{}
	err = db.NewSelect().Model(k).Where("k.hash = ?", req.GetHash()).Scan(ctx)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, errs.New(errs.NotFound, "TOKEN_NOT_FOUND", "there is no such token")
	}
	if err != nil {
		return nil, fault(err)
	}
	now := micros(s.now())
	if k.RevokeTime == nil && now.Before(k.ExpireTime) && (k.LastUsedTime == nil || now.Sub(*k.LastUsedTime) >= time.Minute) {
		k.LastUsedTime = &now
		// Nice to know, and no reason to turn anybody away.
		if _, err := db.NewUpdate().Model(k).Column("last_used_time").WherePK().Exec(ctx); err != nil {
			s.log.WarnContext(ctx, "cannot note when a token was used", "token", k.ID, "error", err)
		}
	}
	return &authv1.AuthenticateResponse{Token: k.proto()}, nil
}
