package auth_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// issuer is an identity provider.
type issuer struct {
	url   string
	asked atomic.Int64 // for keys
	away  atomic.Bool

	mu  sync.Mutex
	key jose.JSONWebKey // signs now
}

var generate = sync.OnceValue(func() []*rsa.PrivateKey {
	var keys []*rsa.PrivateKey
	for range 2 {
		k, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			panic(err)
		}
		keys = append(keys, k)
	}
	return keys
})

func startIssuer(t *testing.T) *issuer {
	t.Helper()
	i := &issuer{}
	i.sign(jose.JSONWebKey{Key: generate()[0], KeyID: "first", Algorithm: "RS256", Use: "sig"})
	mux := http.NewServeMux()
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		if i.away.Load() {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		// Also what a careless provider would list.
		fmt.Fprintf(w, `{"issuer": %q, "jwks_uri": %q, "authorization_endpoint": "x", "id_token_signing_alg_values_supported": ["RS256", "HS256", "none"]}`, i.url, i.url+"/keys")
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		i.asked.Add(1)
		i.mu.Lock()
		defer i.mu.Unlock()
		_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{i.key.Public()}})
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	i.url = s.URL
	return i
}

func (i *issuer) sign(k jose.JSONWebKey) { i.mu.Lock(); defer i.mu.Unlock(); i.key = k }

// token is one that is signed as claims say; a nil claim is left out.
func (i *issuer) token(t *testing.T, set map[string]any) string {
	t.Helper()
	i.mu.Lock()
	defer i.mu.Unlock()
	return signed(t, i.key.Algorithm, i.key, i.claims(set))
}

func (i *issuer) claims(set map[string]any) map[string]any {
	claims := map[string]any{
		"iss": i.url, "aud": "nightshift", "sub": "248289761001", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(),
		"email": "maria@example.com", "email_verified": true, "groups": []string{"sre"},
	}
	maps.Copy(claims, set)
	maps.DeleteFunc(claims, func(_ string, v any) bool { return v == nil })
	return claims
}

func signed(t *testing.T, algorithm string, key any, claims map[string]any) string {
	t.Helper()
	s, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.SignatureAlgorithm(algorithm), Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := json.Marshal(claims)
	jws, err := s.Sign(b)
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func verifier(t *testing.T, i *issuer, roles string, now func() time.Time) *auth.Verifier {
	t.Helper()
	o, err := auth.NewOIDC(auth.OIDCConfig{Issuer: i.url, Audience: "nightshift", Roles: roles}, now)
	if err != nil {
		t.Fatal(err)
	}
	return auth.NewVerifier(nil, o, now)
}

func TestOIDC(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	v := verifier(t, i, "groups:sre=admin", time.Now)
	p, err := v.Verify(t.Context(), i.token(t, nil))
	if err != nil || p.Kind != auditv1.PrincipalKind_PRINCIPAL_KIND_OIDC || p.Name != "maria@example.com" || p.ID != "248289761001" || p.Role != authv1.Role_ROLE_ADMIN || p.Accounts != nil || p.Expire.IsZero() {
		t.Fatalf("%+v, %v", p, err)
	}
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good := i.token(t, nil)
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none","typ":"JWT"}`))
	admin, _ := json.Marshal(i.claims(map[string]any{"sub": "evil"}))
	public, _ := i.key.Public().MarshalJSON()
	for what, bad := range map[string]struct{ token, reason string }{
		"expired":              {i.token(t, map[string]any{"exp": time.Now().Add(-time.Second).Unix()}), "TOKEN_EXPIRED"},
		"without an end":       {i.token(t, map[string]any{"exp": nil}), "TOKEN_EXPIRED"},
		"not yet":              {i.token(t, map[string]any{"nbf": time.Now().Add(time.Hour).Unix()}), "TOKEN_INVALID"},
		"another audience":     {i.token(t, map[string]any{"aud": "grafana"}), "TOKEN_INVALID"},
		"without audience":     {i.token(t, map[string]any{"aud": nil}), "TOKEN_INVALID"},
		"another issuer":       {i.token(t, map[string]any{"iss": "https://login.example.com"}), "TOKEN_INVALID"},
		"another key":          {signed(t, "RS256", jose.JSONWebKey{Key: generate()[1], KeyID: "first"}, i.claims(nil)), "TOKEN_INVALID"},
		"another kind of key":  {signed(t, "ES256", jose.JSONWebKey{Key: ec, KeyID: "first"}, i.claims(nil)), "TOKEN_INVALID"},
		"alg none":             {none + "." + parts[1] + ".", "TOKEN_INVALID"},
		"alg none, signed":     {none + "." + parts[1] + "." + parts[2], "TOKEN_INVALID"},
		"the public key as HS": {signed(t, "HS256", public, i.claims(nil)), "TOKEN_INVALID"},
		"other claims":         {parts[0] + "." + base64.RawURLEncoding.EncodeToString(admin) + "." + parts[2], "TOKEN_INVALID"},
		"no signature":         {parts[0] + "." + parts[1] + ".", "TOKEN_INVALID"},
		"nonsense":             {"a.b.c", "TOKEN_INVALID"},
		"too long":             {"a." + strings.Repeat("b", 20<<10) + ".c", "TOKEN_INVALID"},
	} {
		_, err := v.Verify(t.Context(), bad.token)
		if errs.Reason(err) != bad.reason {
			t.Errorf("%s: %v (%s)", what, err, errs.Reason(err))
		}
		if err != nil && strings.Contains(err.Error(), parts[2]) {
			t.Errorf("%s: the error has the signature in it", what)
		}
	}
}

// The provider changes its key, which is found out by the first token with the
// new one; what was signed with the old one is good no longer.
func TestOIDCRotation(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	v := verifier(t, i, "groups:sre=admin", time.Now)
	old := i.token(t, nil)
	for range 10 {
		if _, err := v.Verify(t.Context(), old); err != nil {
			t.Fatal(err)
		}
	}
	if n := i.asked.Load(); n != 1 {
		t.Errorf("asked for keys %d times", n)
	}
	i.sign(jose.JSONWebKey{Key: generate()[1], KeyID: "second", Algorithm: "RS256", Use: "sig"})
	if _, err := v.Verify(t.Context(), i.token(t, nil)); err != nil {
		t.Fatal(err)
	}
	// The library hands new keys out a moment before it forgets the old ones.
	for began := time.Now(); ; {
		_, err := v.Verify(t.Context(), old)
		if errs.Reason(err) == "TOKEN_INVALID" {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatalf("signed with the key of before: %v", err)
		}
	}
	// Made up key ids are no way to have the provider flooded.
	for n := range 100 {
		_, _ = v.Verify(t.Context(), signed(t, "RS256", jose.JSONWebKey{Key: generate()[0], KeyID: fmt.Sprint("made up ", n)}, i.claims(nil)))
	}
	if n := i.asked.Load(); n > 20 {
		t.Errorf("asked for keys %d times", n)
	}
}

// A provider that is away when the service starts is asked again later.
func TestOIDCProviderAway(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	i.away.Store(true)
	var ahead atomic.Int64
	v := verifier(t, i, "groups:sre=admin", func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
	token := i.token(t, nil)
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, errs.Unavailable) || errs.Reason(err) != "TOKEN_UNVERIFIED" {
		t.Errorf("%v", err)
	}
	i.away.Store(false)
	if _, err := v.Verify(t.Context(), token); !errors.Is(err, errs.Unavailable) {
		t.Errorf("asked again at once: %v", err)
	}
	ahead.Store(int64(6 * time.Second))
	if _, err := v.Verify(t.Context(), token); err != nil {
		t.Error(err)
	}
}

func TestOIDCRoles(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	const one, two, three = "111111111111", "222222222222", "333333333333"
	v := verifier(t, i, "groups:sre=admin, groups:web=viewer@"+one+"+"+two+", groups:data=viewer@"+three+", groups:all=viewer, groups:web-ops=operator@"+one+
		", realm_access.roles:boss=admin, cognito:groups:x=viewer, https://example.com/role:y=operator, staff:true=viewer", time.Now)
	for _, c := range []struct {
		claims   map[string]any
		role     authv1.Role
		accounts []string
		name     string
	}{
		{map[string]any{"groups": []string{"sre", "web"}}, 3, nil, "maria@example.com"},
		{map[string]any{"groups": []string{"web", "other"}}, 1, []string{one, two}, "maria@example.com"},
		{map[string]any{"groups": []string{"web", "data"}}, 1, []string{one, two, three}, "maria@example.com"},
		{map[string]any{"groups": []string{"web", "all"}}, 1, nil, "maria@example.com"},
		{map[string]any{"groups": []string{"all", "web-ops"}}, 2, []string{one}, "maria@example.com"},
		{map[string]any{"groups": "sre"}, 3, nil, "maria@example.com"},
		{map[string]any{"groups": []any{"SRE", 1, nil, map[string]any{"sre": "sre"}}}, 0, nil, "maria@example.com"},
		{map[string]any{"groups": nil, "realm_access": map[string]any{"roles": []string{"boss"}}}, 3, nil, "maria@example.com"},
		{map[string]any{"groups": nil, "cognito:groups": []string{"x"}}, 1, nil, "maria@example.com"},
		{map[string]any{"groups": nil, "https://example.com/role": "y"}, 2, nil, "maria@example.com"},
		{map[string]any{"groups": nil, "staff": true}, 1, nil, "maria@example.com"},
		{map[string]any{"email_verified": false}, 3, nil, "248289761001"},
		{map[string]any{"email_verified": nil, "preferred_username": "maria\x1b[31m\n"}, 3, nil, "maria[31m"},
		{map[string]any{"email_verified": nil, "preferred_username": " \x01\n"}, 3, nil, "248289761001"},
		{map[string]any{"email": "\x01"}, 3, nil, "248289761001"},
		{map[string]any{"groups": nil}, 0, nil, "maria@example.com"},
	} {
		p, err := v.Verify(t.Context(), i.token(t, c.claims))
		if err != nil || p.Role != c.role || !(len(p.Accounts) == 0 && len(c.accounts) == 0 || reflect.DeepEqual(p.Accounts, c.accounts)) || p.Name != c.name {
			t.Errorf("%v: %+v, %v", c.claims, p, err)
		}
	}
}

// What nobody can be called to account for is not done.
func TestOIDCNobodyIsNameless(t *testing.T) {
	t.Parallel()
	i := startIssuer(t)
	v := verifier(t, i, "groups:sre=admin", time.Now)
	for _, sub := range []any{nil, "", "\x00"} {
		if p, err := v.Verify(t.Context(), i.token(t, map[string]any{"sub": sub})); errs.Reason(err) != "TOKEN_INVALID" {
			t.Errorf("the subject %q: %+v, %v", sub, p, err)
		}
	}
	if p, err := v.Verify(t.Context(), i.token(t, map[string]any{"sub": strings.Repeat("x", 10_000)})); err != nil || len(p.ID) != 200 {
		t.Errorf("a long subject: %d, %v", len(p.ID), err)
	}
}

func TestOIDCConfiguration(t *testing.T) {
	t.Parallel()
	if o, err := auth.NewOIDC(auth.OIDCConfig{}, time.Now); o != nil || err != nil {
		t.Errorf("%v, %v", o, err)
	}
	const issuer, roles = "https://login.example.com", "groups:sre=admin"
	for field, c := range map[string][]auth.OIDCConfig{
		"NIGHTSHIFT_OIDC_ISSUER":   {{"login.example.com", "x", roles}, {"http://login.example.com", "x", roles}, {"", "x", roles}, {"https://", "x", roles}, {"http://localhost.example.com", "x", roles}},
		"NIGHTSHIFT_OIDC_AUDIENCE": {{issuer, "", roles}},
		"NIGHTSHIFT_OIDC_ROLES": {{issuer, "x", ""}, {issuer, "x", "sre=admin"}, {issuer, "x", "groups:sre"}, {issuer, "x", "groups:sre=root"}, {issuer, "x", "groups:sre=viewer@"},
			{issuer, "x", "groups:sre=viewer@1"}, {issuer, "x", ":sre=viewer"}, {issuer, "x", "groups:=viewer"}, {issuer, "x", "groups:sre=unspecified"}},
	} {
		for _, one := range c {
			_, err := auth.NewOIDC(one, time.Now)
			if e := (*errs.Error)(nil); !errors.As(err, &e) || len(e.Violations()) != 1 || e.Violations()[0].Field != field {
				t.Errorf("%+v: %v; want %s", one, err, field)
			}
		}
	}
}
