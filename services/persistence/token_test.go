package persistence

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// bearing is a context of a call by the bearer of a token.
func bearing(ctx context.Context, role authv1.Role, accounts ...string) context.Context {
	return auth.With(ctx, auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: "maria", ID: "1", Role: role, Accounts: accounts})
}

func TestTokenLife(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	ctx := bearing(t.Context(), authv1.Role_ROLE_ADMIN)
	r, err := s.CreateToken(ctx, &authv1.CreateTokenRequest{Token: &authv1.Token{
		Name: " ci ", Role: authv1.Role_ROLE_OPERATOR, Accounts: []string{"222222222222", "111111111111"}, Id: "mine", CreatedBy: "me", RevokeTime: timestamppb.Now(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	k := r.GetToken()
	if !auth.IsToken(r.GetSecret()) || len(k.GetId()) != 16 || k.GetName() != "ci" || k.GetCreatedBy() != "maria" || k.GetRevokeTime() != nil || k.GetLastUsedTime() != nil ||
		!slices.Equal(k.GetAccounts(), []string{"111111111111", "222222222222"}) || !k.GetExpireTime().AsTime().Equal(c.now().Add(90*24*time.Hour)) {
		t.Errorf("%v", r)
	}
	find := func(secret string) (*authv1.Token, error) {
		r, err := s.Authenticate(t.Context(), &authv1.AuthenticateRequest{Hash: auth.HashToken(secret)})
		return r.GetToken(), err
	}
	if _, err := find(auth.NewToken()); !errors.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}
	got, err := find(r.GetSecret())
	if err != nil || got.GetId() != k.GetId() || !got.GetLastUsedTime().AsTime().Equal(c.now()) {
		t.Errorf("%v, %v", got, err)
	}
	// When it was used is kept to the minute.
	for _, step := range []time.Duration{59 * time.Second, time.Second} {
		c.advance(step)
		if got, err = find(r.GetSecret()); err != nil {
			t.Fatal(err)
		}
	}
	if !got.GetLastUsedTime().AsTime().Equal(c.now()) {
		t.Errorf("last used %v", got.GetLastUsedTime().AsTime())
	}

	revoked, err := s.RevokeToken(ctx, &authv1.RevokeTokenRequest{Id: k.GetId()})
	if err != nil || revoked.GetToken().GetRevokedBy() != "maria" || !revoked.GetToken().GetRevokeTime().AsTime().Equal(c.now()) {
		t.Errorf("%v, %v", revoked, err)
	}
	c.advance(time.Hour)
	again, err := s.RevokeToken(bearing(t.Context(), authv1.Role_ROLE_ADMIN), &authv1.RevokeTokenRequest{Id: k.GetId()})
	if err != nil || !proto.Equal(again, revoked) {
		t.Errorf("revoked again: %v, %v", again, err)
	}
	if got, err := find(r.GetSecret()); err != nil || got.GetRevokeTime() == nil {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := s.RevokeToken(ctx, &authv1.RevokeTokenRequest{Id: "0123456789abcdef"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("%v", err)
	}

	// Nothing that is kept or said makes a token of it.
	var dump string
	if err := s.bun.NewRaw("SELECT string_agg(t::text, ' ') FROM (SELECT k::text AS t FROM auth_tokens k UNION ALL SELECT l::text FROM system_log l) x").Scan(t.Context(), &dump); err != nil {
		t.Fatal(err)
	}
	if strings.Contains(dump, r.GetSecret()) || strings.Contains(dump, r.GetSecret()[4:36]) || !strings.Contains(dump, "token_created") || !strings.Contains(dump, "token_revoked") {
		t.Errorf("the database has %s", dump)
	}
}

func TestTokenLists(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	admin := bearing(t.Context(), authv1.Role_ROLE_ADMIN)
	for _, k := range []*authv1.Token{
		{Name: "a", Role: authv1.Role_ROLE_VIEWER}, {Name: "b", Role: authv1.Role_ROLE_VIEWER, ExpireTime: timestamppb.New(c.now().Add(time.Hour))},
		{Name: "c", Role: authv1.Role_ROLE_VIEWER, Accounts: []string{"111111111111"}}, {Name: "d", Role: authv1.Role_ROLE_VIEWER, Accounts: []string{"111111111111", "222222222222"}},
		{Name: "e", Role: authv1.Role_ROLE_VIEWER},
	} {
		r, err := s.CreateToken(admin, &authv1.CreateTokenRequest{Token: k})
		if err != nil {
			t.Fatal(err)
		}
		if k.GetName() == "e" {
			if _, err := s.RevokeToken(admin, &authv1.RevokeTokenRequest{Id: r.GetToken().GetId()}); err != nil {
				t.Fatal(err)
			}
		}
		c.advance(time.Minute)
	}
	c.advance(time.Hour)
	names := func(ctx context.Context, ended bool) string {
		t.Helper()
		var out string
		for token := ""; ; {
			r, err := s.ListTokens(ctx, &authv1.ListTokensRequest{PageSize: 2, PageToken: token, ShowEnded: ended})
			if err != nil {
				t.Fatal(err)
			}
			for _, k := range r.GetTokens() {
				out += k.GetName()
			}
			if token = r.GetNextPageToken(); token == "" {
				return out
			}
		}
	}
	for _, want := range []struct {
		ctx   context.Context
		ended bool
		names string
	}{
		{admin, false, "dca"}, {admin, true, "edcba"}, {t.Context(), false, "dca"},
		{bearing(t.Context(), authv1.Role_ROLE_ADMIN, "111111111111"), true, "c"},
		{bearing(t.Context(), authv1.Role_ROLE_ADMIN, "222222222222", "111111111111"), true, "dc"},
		{bearing(t.Context(), authv1.Role_ROLE_ADMIN, "333333333333"), true, ""},
	} {
		if got := names(want.ctx, want.ended); got != want.names {
			t.Errorf("%+v: %q, want %q", auth.From(want.ctx), got, want.names)
		}
	}
}

// Nobody makes a token that can do more than he, and nobody ends one that can.
func TestTokensAreNoWayUp(t *testing.T) {
	t.Parallel()
	s := service(t)
	const one, two = "111111111111", "222222222222"
	admin := bearing(t.Context(), authv1.Role_ROLE_ADMIN)
	big, err := s.CreateToken(admin, &authv1.CreateTokenRequest{Token: &authv1.Token{Name: "big", Role: authv1.Role_ROLE_ADMIN}})
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		ctx      context.Context
		role     authv1.Role
		accounts []string
		may      bool
	}{
		{admin, authv1.Role_ROLE_ADMIN, nil, true}, {admin, authv1.Role_ROLE_VIEWER, []string{one}, true}, {t.Context(), authv1.Role_ROLE_ADMIN, nil, true},
		{bearing(t.Context(), authv1.Role_ROLE_ADMIN, one), authv1.Role_ROLE_ADMIN, []string{one}, true}, {bearing(t.Context(), authv1.Role_ROLE_ADMIN, one), authv1.Role_ROLE_VIEWER, nil, false},
		{bearing(t.Context(), authv1.Role_ROLE_ADMIN, one), authv1.Role_ROLE_VIEWER, []string{two}, false}, {bearing(t.Context(), authv1.Role_ROLE_ADMIN, one), authv1.Role_ROLE_VIEWER, []string{one, two}, false},
		{bearing(t.Context(), authv1.Role_ROLE_OPERATOR), authv1.Role_ROLE_ADMIN, nil, false}, {bearing(t.Context(), authv1.Role_ROLE_VIEWER), authv1.Role_ROLE_OPERATOR, nil, false},
	} {
		_, err := s.CreateToken(c.ctx, &authv1.CreateTokenRequest{Token: &authv1.Token{Name: "x", Role: c.role, Accounts: c.accounts}})
		if (err == nil) != c.may || err != nil && (!errors.Is(err, errs.PermissionDenied) || errs.Reason(err) != "TOKEN_TOO_POWERFUL") {
			t.Errorf("%+v makes %s of %v: %v", auth.From(c.ctx), c.role, c.accounts, err)
		}
	}
	if _, err := s.RevokeToken(bearing(t.Context(), authv1.Role_ROLE_ADMIN, one), &authv1.RevokeTokenRequest{Id: big.GetToken().GetId()}); !errors.Is(err, errs.NotFound) {
		t.Errorf("an admin of one account ends one of all: %v", err)
	}
	for field, bad := range map[string]*authv1.Token{
		"token.expire_time": {Name: "x", Role: 1, ExpireTime: timestamppb.New(time.Now().Add(400 * 24 * time.Hour))}, "token.name": {Name: "  ", Role: 1},
	} {
		_, err := s.CreateToken(admin, &authv1.CreateTokenRequest{Token: bad})
		if e := (*errs.Error)(nil); !errors.As(err, &e) || len(e.Violations()) != 1 || e.Violations()[0].Field != field {
			t.Errorf("%v: %v; want %s", bad, err, field)
		}
	}
	if _, err := s.CreateToken(admin, &authv1.CreateTokenRequest{Token: &authv1.Token{Name: "x", Role: 1, ExpireTime: timestamppb.New(time.Now().Add(-time.Second))}}); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("%v", err)
	}
}

func TestWhoAmI(t *testing.T) {
	t.Parallel()
	s := &Service{}
	for _, c := range []struct {
		ctx  context.Context
		kind string
		role authv1.Role
	}{
		{t.Context(), "anonymous", authv1.Role_ROLE_ADMIN}, {bearing(t.Context(), authv1.Role_ROLE_VIEWER, "111111111111"), "token", authv1.Role_ROLE_VIEWER},
		{auth.With(t.Context(), auth.Service("waste")), "service", 0},
	} {
		r, err := s.WhoAmI(c.ctx, &authv1.WhoAmIRequest{})
		if err != nil || r.GetKind() != c.kind || r.GetRole() != c.role {
			t.Errorf("%v, %v", r, err)
		}
	}
}
