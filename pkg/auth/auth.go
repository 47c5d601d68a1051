// Package auth says who calls, and what they may: the principal of a call, as
// far as handlers need it, and the rights that the protos state.
//
// It exists so that a handler asks one question, "may this caller see this
// account", and knows nothing of tokens and certificates. It must import
// nothing of ours but gen and errs.
package auth

import (
	"context"
	"slices"
	"strings"
	"time"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
)

// Principal is who calls.
type Principal struct {
	// Kind of caller.
	Kind auditv1.PrincipalKind
	// Name of the service, of the token, or what the identity provider says.
	Name string
	// ID of the token, or the subject at the identity provider.
	ID string
	// Role of people and programs.
	Role authv1.Role
	// Accounts it is limited to. Empty: all.
	Accounts []string
	// Expire is when its credentials end; zero: not known.
	Expire time.Time
}

// Service is a service of Nightshift, or whatever else has a certificate.
func Service(name string) Principal {
	return Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_SERVICE, Name: name}
}

// RoleName is a role as people write it, such as "viewer"; "none" for none.
func RoleName(r authv1.Role) string {
	if r == authv1.Role_ROLE_UNSPECIFIED {
		return "none"
	}
	return strings.ToLower(strings.TrimPrefix(r.String(), "ROLE_"))
}

// ParseRole is the role of a name, whether written as in RoleName or as in
// the proto.
func ParseRole(name string) (authv1.Role, bool) {
	r := authv1.Role(authv1.Role_value["ROLE_"+strings.TrimPrefix(strings.ToUpper(name), "ROLE_")])
	return r, r != authv1.Role_ROLE_UNSPECIFIED
}

// Proto is the principal as the audit log has it.
func (p Principal) Proto() *auditv1.Principal {
	return &auditv1.Principal{Kind: p.Kind, Name: p.Name, Id: p.ID, Role: p.Role, Accounts: p.Accounts}
}

// Sees tells whether the caller may see an account.
func (p Principal) Sees(account string) bool {
	return len(p.Accounts) == 0 || slices.Contains(p.Accounts, account)
}

// SeesSecrets tells whether the caller is shown what the protos mark as secret:
// services need it to work, and of people and programs admins decide it.
func (p Principal) SeesSecrets() bool {
	person := p.Kind == auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN || p.Kind == auditv1.PrincipalKind_PRINCIPAL_KIND_OIDC
	return !person || p.Role >= authv1.Role_ROLE_ADMIN
}

type key struct{}

// With returns a context of a call by p.
func With(ctx context.Context, p Principal) context.Context { return context.WithValue(ctx, key{}, p) }

// From is who calls. Outside of calls, as in tests of a handler, it is nobody
// known, who sees all accounts.
func From(ctx context.Context) Principal {
	if p, ok := ctx.Value(key{}).(Principal); ok {
		return p
	}
	return Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS}
}

// Actor is who a change is said to be made by: the caller, or, when nobody is
// known, who the request says. So nobody who is known acts in another's name.
func Actor(ctx context.Context, said string) string {
	switch p := From(ctx); p.Kind {
	case auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, auditv1.PrincipalKind_PRINCIPAL_KIND_OIDC:
		return p.Name
	default:
		return said
	}
}
