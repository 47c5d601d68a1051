package auth

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/time/rate"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/errs"
)

// OIDCConfig names an identity provider, and says what its people may do.
type OIDCConfig struct {
	Issuer   string `env:"NIGHTSHIFT_OIDC_ISSUER" help:"URL of an OpenID Connect provider whose tokens are taken, too, such as https://login.example.com/realms/main. Default: none."`
	Audience string `env:"NIGHTSHIFT_OIDC_AUDIENCE" help:"Audience that its tokens must be for; must be set with the issuer."`
	Roles    string `env:"NIGHTSHIFT_OIDC_ROLES" help:"Who gets which role by a claim, such as groups:sre=admin, separated by commas; groups:web=viewer@123456789012+210987654321 only for these accounts."`
}

// OIDC verifies tokens of an identity provider.
type OIDC struct {
	cfg   OIDCConfig
	roles []claimRole
	now   func() time.Time
	http  *http.Client

	mu       sync.Mutex
	verifier *oidc.IDTokenVerifier // nil until the provider was found
	retry    time.Time             // not before this
}

// claimRole gives a role to those whose claim has a value.
type claimRole struct {
	claim, value string
	role         authv1.Role
	accounts     []string
}

// algorithms are those with which only the provider can sign: "none", and
// those where whoever can verify can sign, are not among them.
var algorithms = []string{
	oidc.RS256, oidc.RS384, oidc.RS512, oidc.PS256, oidc.PS384, oidc.PS512, oidc.ES256, oidc.ES384, oidc.ES512, oidc.EdDSA,
}

const (
	// tokenBytes bounds a token of an identity provider.
	tokenBytes = 16 << 10
	// providerRetry is how long after a failure the provider is left alone.
	providerRetry = 5 * time.Second
)

// NewOIDC reads the configuration, and returns nil when none is set. The
// provider is asked when the first token comes.
func NewOIDC(cfg OIDCConfig, now func() time.Time) (*OIDC, error) {
	if cfg == (OIDCConfig{}) {
		return nil, nil
	}
	bad := errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used")
	u, err := url.Parse(cfg.Issuer)
	if err != nil || u.Host == "" || u.Scheme != "https" && !(u.Scheme == "http" && IsLoopback(u.Host)) {
		return nil, bad.Field("NIGHTSHIFT_OIDC_ISSUER", "is no https URL")
	}
	if cfg.Audience == "" {
		return nil, bad.Field("NIGHTSHIFT_OIDC_AUDIENCE", "must be set with the issuer: a token for somebody else must not open this")
	}
	o := &OIDC{cfg: cfg, now: now}
	if o.roles, err = parseRoles(cfg.Roles); err != nil {
		return nil, bad.Field("NIGHTSHIFT_OIDC_ROLES", "%v", err)
	}
	// A token with a key id that is not known makes go-oidc ask for new keys;
	// a flood of them must not become a flood to the provider.
	o.http = &http.Client{Timeout: 5 * time.Second, Transport: &limited{rate.NewLimiter(1, 5), http.DefaultTransport}}
	return o, nil
}

// tooMany says that the provider was asked for its keys a moment ago.
const tooMany = "too many questions to the identity provider"

// limited is a transport that refuses what comes too fast.
type limited struct {
	limit *rate.Limiter
	next  http.RoundTripper
}

func (l *limited) RoundTrip(r *http.Request) (*http.Response, error) {
	if !l.limit.Allow() {
		return nil, errors.New(tooMany)
	}
	return l.next.RoundTrip(r)
}

func parseRoles(text string) ([]claimRole, error) {
	var out []claimRole
	for part := range strings.SplitSeq(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		bad := errors.New("has an entry that is not like groups:sre=admin or groups:web=viewer@123456789012+210987654321")
		who, what, ok := cutLast(part, "=")
		claim, value, ok2 := cutLast(who, ":")
		if !ok || !ok2 || claim == "" || value == "" {
			return nil, bad
		}
		name, accounts, some := strings.Cut(what, "@")
		role, known := ParseRole(name)
		if !known {
			return nil, errors.New("names a role that there is not; there are viewer, operator and admin")
		}
		c := claimRole{claim: claim, value: value, role: role}
		if some {
			c.accounts = strings.Split(accounts, "+")
		}
		for _, a := range c.accounts {
			if len(a) != 12 || strings.Trim(a, "0123456789") != "" {
				return nil, bad
			}
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, errors.New("must be set with the issuer: it says who may do what")
	}
	return out, nil
}

// cutLast cuts around the last separator: claims such as cognito:groups have
// it in their names.
func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}

// verify tells who a token of the provider is about.
func (o *OIDC) verify(ctx context.Context, raw string) (Principal, error) {
	if len(raw) > tokenBytes {
		return Principal{}, unauthenticated("TOKEN_INVALID", "the token is longer than %d bytes", tokenBytes)
	}
	v, err := o.provider(ctx)
	if err != nil {
		return Principal{}, err
	}
	token, err := v.Verify(ctx, raw)
	var expired *oidc.TokenExpiredError
	switch {
	case err == nil:
	case errors.As(err, &expired):
		return Principal{}, unauthenticated("TOKEN_EXPIRED", "the token has expired at %s; log in again", expired.Expiry.UTC().Format(time.RFC3339))
	case strings.Contains(err.Error(), "fetching keys") && !strings.Contains(err.Error(), tooMany): // go-oidc keeps no types
		return Principal{}, o.away(err)
	default:
		return Principal{}, unauthenticated("TOKEN_INVALID", "the token is not valid: it must be signed by %s and be for %q", o.cfg.Issuer, o.cfg.Audience).Wrap(err)
	}
	claims := map[string]any{}
	if err := token.Claims(&claims); err != nil {
		return Principal{}, unauthenticated("TOKEN_INVALID", "the token's claims cannot be read").Wrap(err)
	}
	id := clip(token.Subject)
	if id == "" {
		return Principal{}, unauthenticated("TOKEN_INVALID", "the token does not say whom it is about: it has no sub")
	}
	p := Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_OIDC, ID: id, Name: nameIn(claims, id), Expire: token.Expiry}
	p.Role, p.Accounts = o.rights(claims)
	return p, nil
}

// nameIn is what people call somebody: a verified address, or what the
// provider lets him be known by, or else the subject.
func nameIn(claims map[string]any, subject string) string {
	if verified, _ := claims["email_verified"].(bool); verified {
		email, _ := claims["email"].(string)
		if email = clip(email); email != "" {
			return email
		}
	}
	name, _ := claims["preferred_username"].(string)
	return cmp.Or(clip(name), subject)
}

// clip makes a name of a token harmless: it goes into logs and tables.
func clip(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(s, ""))
	if r := []rune(s); len(r) > 200 {
		s = string(r[:200])
	}
	return strings.TrimSpace(s)
}

// rights are the highest role that the claims give, in the accounts of all
// entries that give it.
func (o *OIDC) rights(claims map[string]any) (authv1.Role, []string) {
	var (
		role     authv1.Role
		accounts []string
		all      bool
	)
	for _, c := range o.roles {
		if c.role < role || !has(claims, c.claim, c.value) {
			continue
		}
		if c.role > role {
			role, accounts, all = c.role, nil, false
		}
		all = all || len(c.accounts) == 0
		accounts = append(accounts, c.accounts...)
	}
	if all {
		return role, nil
	}
	slices.Sort(accounts)
	return role, slices.Compact(accounts)
}

// has tells whether a claim is a value or holds it in a list. Claims that are
// objects are entered with dots, as in realm_access.roles.
func has(claims map[string]any, claim, value string) bool {
	v, ok := claims[claim]
	if !ok {
		first, rest, dotted := strings.Cut(claim, ".")
		inner, object := claims[first].(map[string]any)
		return dotted && object && has(inner, rest, value)
	}
	switch v := v.(type) {
	case string:
		return v == value
	case []any:
		return slices.Contains(v, any(value))
	case bool, float64, json.Number:
		text, _ := json.Marshal(v)
		return string(text) == value
	}
	return false
}

// provider finds the provider's keys, once.
func (o *OIDC) provider(ctx context.Context) (*oidc.IDTokenVerifier, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.verifier != nil {
		return o.verifier, nil
	}
	if o.now().Before(o.retry) {
		return nil, o.away(errors.New("it did not answer a moment ago"))
	}
	// The keys are fetched with the context of the discovery, for as long as the process lives.
	p, err := oidc.NewProvider(oidc.ClientContext(context.WithoutCancel(ctx), o.http), o.cfg.Issuer)
	if err != nil {
		o.retry = o.now().Add(providerRetry)
		return nil, o.away(err)
	}
	o.verifier = p.Verifier(&oidc.Config{ClientID: o.cfg.Audience, SupportedSigningAlgs: algorithms, Now: o.now})
	return o.verifier, nil
}

func (o *OIDC) away(cause error) error {
	return errs.New(errs.Unavailable, "TOKEN_UNVERIFIED", "the token cannot be verified now: the identity provider %s does not answer", o.cfg.Issuer).RetryAfter(providerRetry).Wrap(cause)
}

// IsLoopback tells whether a host, with or without a port, is this machine
// for sure.
func IsLoopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = strings.Trim(address, "[]")
	}
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
