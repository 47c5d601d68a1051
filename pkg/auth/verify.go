package auth

import (
	"context"
	"crypto/sha256"
	"errors"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"
	"golang.org/x/time/rate"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/errs"
)

const (
	// tokenFresh is how long what was found about a token is believed: a token
	// that is revoked works no longer than that.
	tokenFresh = 15 * time.Second
	// tokenStale is how long a token that was good stays good while persistence
	// does not answer.
	tokenStale = 5 * time.Minute
	// tokenUnknown is how long a token is remembered that there is none of. It
	// can become none later: tokens are made up by the server.
	tokenUnknown = 5 * time.Minute
	// tokensKept bounds how many tokens are remembered, and how many that there
	// are none of.
	tokensKept = 10_000
	// lookupTimeout bounds one question to persistence, and patience how long
	// one who was good waits for it.
	lookupTimeout = 5 * time.Second
	patience      = 2 * time.Second
)

// Verifier tells who the bearers of tokens are. What it has found out it
// remembers for a while, so that neither many calls nor a flood of wrong tokens
// become as many questions.
type Verifier struct {
	lookup func(ctx context.Context, hash []byte) (*authv1.Token, error)
	oidc   *OIDC
	now    func() time.Time
	limit  *rate.Limiter // of questions about tokens that nobody has seen
	flight singleflight.Group

	mu      sync.Mutex
	known   map[[sha256.Size]byte]*known
	unknown map[[sha256.Size]byte]time.Time // until when
}

// known is what is known of a token.
type known struct {
	token   *authv1.Token
	checked time.Time // when persistence said so
	next    time.Time // when to ask again
}

// NewVerifier makes a verifier. lookup finds a token by its hash, NOT_FOUND
// when there is none; oidc may be nil.
func NewVerifier(lookup func(ctx context.Context, hash []byte) (*authv1.Token, error), oidc *OIDC, now func() time.Time) *Verifier {
	return &Verifier{
		lookup: lookup, oidc: oidc, now: now, limit: rate.NewLimiter(50, 200),
		known: map[[sha256.Size]byte]*known{}, unknown: map[[sha256.Size]byte]time.Time{},
	}
}

// Verify tells who bears a token. The error is UNAUTHENTICATED with a reason,
// RESOURCE_EXHAUSTED in a flood of unknown tokens, and UNAVAILABLE when it
// cannot be found out; none holds the token.
func (v *Verifier) Verify(ctx context.Context, bearer string) (Principal, error) {
	switch {
	case strings.HasPrefix(bearer, TokenPrefix):
		if !IsToken(bearer) {
			return Principal{}, unauthenticated("TOKEN_INVALID", "the token is not valid: it was cut off, mistyped or made up")
		}
		return v.token(ctx, sha256.Sum256([]byte(bearer)))
	case v.oidc != nil && strings.Count(bearer, ".") == 2:
		return v.oidc.verify(ctx, bearer)
	case strings.Count(bearer, ".") == 2:
		return Principal{}, unauthenticated("TOKEN_INVALID", "the token is that of an identity provider, and none is set up: NIGHTSHIFT_OIDC_ISSUER names it")
	default:
		return Principal{}, unauthenticated("TOKEN_INVALID", "the token is not valid: tokens of Nightshift begin with %s", TokenPrefix)
	}
}

func (v *Verifier) token(ctx context.Context, hash [sha256.Size]byte) (Principal, error) {
	now := v.now()
	v.mu.Lock()
	k, bad := v.known[hash], now.Before(v.unknown[hash])
	v.mu.Unlock()
	switch {
	case bad:
		return Principal{}, noSuchToken()
	case k != nil && now.Before(k.next):
		return judge(k.token, now)
	case k == nil && !v.limit.AllowN(now, 1):
		return Principal{}, errs.New(errs.ResourceExhausted, "TOO_MANY_TOKENS", "too many tokens that nobody has seen before; try again in a second").RetryAfter(time.Second)
	}
	wait := lookupTimeout
	if k != nil {
		wait = patience
	}
	found := v.flight.DoChan(string(hash[:]), func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), wait)
		defer cancel()
		return v.ask(ctx, hash, k)
	})
	select {
	case r := <-found:
		if r.Err != nil {
			return Principal{}, r.Err
		}
		return judge(r.Val.(*authv1.Token), v.now())
	case <-ctx.Done():
		return Principal{}, ctx.Err()
	}
}

// ask asks persistence and remembers the answer.
func (v *Verifier) ask(ctx context.Context, hash [sha256.Size]byte, was *known) (*authv1.Token, error) {
	t, err := v.lookup(ctx, hash[:])
	now := v.now()
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case err == nil:
		bound(v.known, func(k *known) bool { return now.Sub(k.checked) > tokenStale })
		v.known[hash] = &known{token: t, checked: now, next: now.Add(tokenFresh)}
		return t, nil
	case errors.Is(err, errs.NotFound):
		delete(v.known, hash)
		bound(v.unknown, func(until time.Time) bool { return !now.Before(until) })
		v.unknown[hash] = now.Add(tokenUnknown)
		return nil, noSuchToken()
	case was != nil && now.Sub(was.checked) < tokenStale:
		v.known[hash] = &known{token: was.token, checked: was.checked, next: now.Add(tokenFresh / 3)}
		return was.token, nil
	default:
		return nil, errs.New(errs.Unavailable, "TOKEN_UNVERIFIED", "the token cannot be verified now: persistence does not answer").RetryAfter(time.Second).Wrap(err)
	}
}

// bound makes room in a map that is full: what is old goes, and when nothing
// is, anything.
func bound[V any](m map[[sha256.Size]byte]V, old func(V) bool) {
	if len(m) < tokensKept {
		return
	}
	for k, v := range m {
		if old(v) {
			delete(m, k)
		}
	}
	for k := range m {
		if len(m) < tokensKept {
			return
		}
		delete(m, k)
	}
}

// judge is who bears a token at a moment. One that has ended is still
// somebody's, who may nothing: the audit log wants to know.
func judge(t *authv1.Token, now time.Time) (Principal, error) {
	ended := Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: t.GetName(), ID: t.GetId()}
	switch {
	case t.GetRevokeTime() != nil:
		return ended, unauthenticated("TOKEN_REVOKED", "the token was revoked on %s; ask an admin for another", t.GetRevokeTime().AsTime().Format(time.DateOnly))
	case t.GetExpireTime() == nil || !now.Before(t.GetExpireTime().AsTime()):
		return ended, unauthenticated("TOKEN_EXPIRED", "the token has expired on %s; ask an admin for another", t.GetExpireTime().AsTime().Format(time.DateOnly))
	}
	return Principal{
		Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN, Name: t.GetName(), ID: t.GetId(), Role: t.GetRole(), Accounts: t.GetAccounts(), Expire: t.GetExpireTime().AsTime(),
	}, nil
}

func noSuchToken() error {
	return unauthenticated("TOKEN_INVALID", "the token is not valid: there is none like it")
}

func unauthenticated(reason, format string, args ...any) *errs.Error {
	return errs.New(errs.Unauthenticated, reason, format, args...)
}

// Missing is the error of a call that says nothing of who calls.
func Missing() error {
	return unauthenticated("TOKEN_MISSING", `who calls is not known: send "authorization: Bearer <token>", or a certificate of a service`)
}
