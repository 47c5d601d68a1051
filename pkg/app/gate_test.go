package app

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/protobuf/encoding/prototext"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

const (
	update1 = "/nightshift.job.v1.JobService/UpdateJob"
	get1    = "/nightshift.job.v1.JobService/GetJob"
)

// guard is an edge of a job service, with what it tells the audit log. find is
// what persistence knows of tokens.
func guard(t testing.TB, s Security, find func() *authv1.Token) (edge, *stored) {
	t.Helper()
	kept := &stored{}
	a := audited(t, kept)
	t.Cleanup(func() { a.close(context.Background()) })
	g := &gate{security: s, audit: a, now: time.Now, verifier: auth.NewVerifier(func(context.Context, []byte) (*authv1.Token, error) { return find(), nil }, nil, time.Now)}
	g.methods = auth.MethodsOf(map[string]grpc.ServiceInfo{"nightshift.job.v1.JobService": {Methods: []grpc.MethodInfo{{Name: "UpdateJob"}, {Name: "GetJob"}}}, "com.example.Other": {Methods: []grpc.MethodInfo{{Name: "Do"}}}})
	return edge{log: slog.New(slog.DiscardHandler), gate: g}, kept
}

func token(role authv1.Role) *authv1.Token {
	return &authv1.Token{Id: "1", Name: "ana", Role: role, ExpireTime: timestamppb.New(time.Now().Add(time.Hour))}
}

// from is the context of a call from an address, with a token.
func from(ctx context.Context, address, token string) context.Context {
	a, _ := net.ResolveTCPAddr("tcp", address)
	ctx = peer.NewContext(ctx, &peer.Peer{Addr: a})
	if token != "" {
		ctx = metadata.NewIncomingContext(ctx, metadata.Pairs("authorization", "Bearer "+token))
	}
	return ctx
}

// Who calls is asked first, then whether he may; the audit log hears of a
// change before the request is looked at, and of how it ended.
func TestTheOrderOfTheEdge(t *testing.T) {
	t.Parallel()
	good := auth.NewToken()
	for _, c := range []struct {
		name, token, job string
		role             authv1.Role
		reason, phases   string
		handled          bool
	}{
		{"nobody", "", "", 0, "TOKEN_MISSING", "denied", false},
		{"who may not", good, "", authv1.Role_ROLE_OPERATOR, "ROLE_TOO_LOW", "denied", false},
		{"a bad request", good, "", authv1.Role_ROLE_ADMIN, "INVALID_REQUEST", "attempted failed", false},
		{"a good one", good, "nightly", authv1.Role_ROLE_ADMIN, "", "attempted succeeded", true},
		{"one that fails", good, "missing", authv1.Role_ROLE_ADMIN, "JOB_NOT_FOUND", "attempted failed", true},
		{"one that panics", good, "panic", authv1.Role_ROLE_ADMIN, "INTERNAL", "attempted failed", true},
	} {
		e, kept := guard(t, Security{Tokens: true}, func() *authv1.Token { return token(c.role) })
		handled := false
		req := &jobv1.UpdateJobRequest{}
		if c.job != "" {
			req.Job = &jobv1.Job{Name: c.job, Kind: "waste", Schedule: "@daily"}
		}
		_, err := e.unary(from(t.Context(), "127.0.0.1:999", c.token), req, &grpc.UnaryServerInfo{FullMethod: update1}, func(ctx context.Context, _ any) (any, error) {
			handled = true
			if p := auth.From(ctx); p.Name != "ana" || p.Role != c.role {
				t.Errorf("%s: the handler is called by %+v", c.name, p)
			}
			switch c.job {
			case "missing":
				return nil, errs.New(errs.NotFound, "JOB_NOT_FOUND", "no such job")
			case "panic":
				panic("oh")
			}
			return &jobv1.UpdateJobResponse{}, nil
		})
		if errs.Reason(err) != c.reason || handled != c.handled {
			t.Errorf("%s: %v (%s), handled %v", c.name, err, errs.Reason(err), handled)
		}
		e.gate.audit.close(t.Context())
		if got := kept.phases(); got != c.phases {
			t.Errorf("%s: the audit log has %q, want %q", c.name, got, c.phases)
		}
		e.gate.audit.start()
	}
}

// Whoever tries a token that has ended is named in the audit log: it may have
// been stolen.
func TestAnEndedTokenIsNamed(t *testing.T) {
	t.Parallel()
	e, kept := guard(t, Security{Tokens: true}, func() *authv1.Token {
		revoked := token(authv1.Role_ROLE_ADMIN)
		revoked.RevokeTime = timestamppb.Now()
		return revoked
	})
	_, err := e.unary(from(t.Context(), "127.0.0.1:999", auth.NewToken()), &jobv1.GetJobRequest{Name: "x"}, &grpc.UnaryServerInfo{FullMethod: get1}, nil)
	if errs.Reason(err) != "TOKEN_REVOKED" {
		t.Error(err)
	}
	e.gate.audit.close(t.Context())
	if r := kept.records[0]; len(kept.records) != 1 || r.GetPrincipal().GetName() != "ana" || r.GetPrincipal().GetId() != "1" || r.GetPrincipal().GetRole() != 0 {
		t.Errorf("the audit log has %v", kept.records)
	}
	e.gate.audit.start()
}

// Nothing changes while the audit log cannot be written; reading goes on.
func TestNoChangeWithoutAudit(t *testing.T) {
	t.Parallel()
	e, kept := guard(t, Security{Tokens: true}, func() *authv1.Token { return token(authv1.Role_ROLE_ADMIN) })
	kept.setAway(true)
	defer kept.setAway(false)
	ctx := from(t.Context(), "127.0.0.1:999", auth.NewToken())
	handled := 0
	handler := func(context.Context, any) (any, error) { handled++; return nil, nil }
	_, err := e.unary(ctx, &jobv1.UpdateJobRequest{}, &grpc.UnaryServerInfo{FullMethod: update1}, handler)
	if errs.Reason(err) != "AUDIT_UNAVAILABLE" || handled != 0 {
		t.Errorf("%v, handled %d", err, handled)
	}
	if _, err := e.unary(ctx, &jobv1.GetJobRequest{Name: "x"}, &grpc.UnaryServerInfo{FullMethod: get1}, handler); err != nil || handled != 1 {
		t.Errorf("%v, handled %d", err, handled)
	}
}

func TestWhoCalls(t *testing.T) {
	t.Parallel()
	e, _ := guard(t, Security{Tokens: true}, func() *authv1.Token { return token(authv1.Role_ROLE_VIEWER) })
	good := auth.NewToken()
	for name, c := range map[string]struct {
		address string
		sent    []string
		reason  string
	}{
		"a token":               {"127.0.0.1:9", []string{"Bearer " + good}, ""},
		"over IPv6":             {"[::1]:9", []string{"bearer " + good}, ""},
		"from another machine":  {"10.1.2.3:9", []string{"Bearer " + good}, "TOKEN_IN_PLAIN_TEXT"},
		"none":                  {"127.0.0.1:9", nil, "TOKEN_MISSING"},
		"none, another machine": {"10.1.2.3:9", nil, "TOKEN_MISSING"},
		"two":                   {"127.0.0.1:9", []string{"Bearer " + good, "Bearer " + good}, "TOKEN_INVALID"},
		"no scheme":             {"127.0.0.1:9", []string{good}, "TOKEN_INVALID"},
		"another scheme":        {"127.0.0.1:9", []string{"Basic " + good}, "TOKEN_INVALID"},
		"empty":                 {"127.0.0.1:9", []string{""}, "TOKEN_INVALID"},
		"a scheme alone":        {"127.0.0.1:9", []string{"Bearer "}, "TOKEN_INVALID"},
	} {
		ctx := from(t.Context(), c.address, "")
		ctx = metadata.NewIncomingContext(ctx, metadata.MD{"authorization": c.sent})
		_, _, err := e.gate.enter(ctx, get1)
		if errs.Reason(err) != c.reason || err != nil && (!errors.Is(err, errs.Unauthenticated) || strings.Contains(err.Error(), good)) {
			t.Errorf("%s: %v (%s), want %s", name, err, errs.Reason(err), c.reason)
		}
	}
}

// A method whose proto says nothing is for nobody, also where nobody is asked
// who he is.
func TestAMethodWithoutAccess(t *testing.T) {
	t.Parallel()
	for name, s := range map[string]Security{"open": {}, "tokens": {Tokens: true}} {
		e, _ := guard(t, s, func() *authv1.Token { return token(authv1.Role_ROLE_ADMIN) })
		ctx := from(t.Context(), "127.0.0.1:9", auth.NewToken())
		if _, _, err := e.gate.enter(ctx, "/com.example.Other/Do"); errs.Reason(err) != "METHOD_WITHOUT_ACCESS" || !errors.Is(err, errs.PermissionDenied) {
			t.Errorf("%s: %v", name, err)
		}
		if _, _, err := e.gate.enter(ctx, "/com.example.Other/Else"); errs.Reason(err) != "METHOD_UNKNOWN" || !errors.Is(err, errs.Unimplemented) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Where nobody is asked, everybody is an admin, and services' own methods are open.
	e, _ := guard(t, Security{}, nil)
	ctx, in, err := e.gate.enter(from(t.Context(), "127.0.0.1:9", ""), update1)
	if p := auth.From(ctx); err != nil || !in.changes() || p.Kind != auditv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS || auth.Actor(ctx, "me") != "me" {
		t.Errorf("%+v, %v", auth.From(ctx), err)
	}
}

// What a handler denies, because only it knows what the call is about, is in the
// audit log like what the edge denies: once.
func TestAHandlerThatDeniesIsHeard(t *testing.T) {
	t.Parallel()
	other := auth.Principal{Accounts: []string{"111122223333"}}.Require("999988887777")
	for _, c := range []struct {
		name, method, phases string
		role                 authv1.Role
		err                  error
	}{
		{"another's account", get1, "denied", authv1.Role_ROLE_VIEWER, other},
		{"a low role", get1, "denied", authv1.Role_ROLE_VIEWER, auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_TOKEN}.RequireRole(authv1.Role_ROLE_ADMIN, "it")},
		{"a denial of AWS", get1, "", authv1.Role_ROLE_VIEWER, errs.New(errs.PermissionDenied, "AWS_DENIED", "no")},
		{"nothing found", get1, "", authv1.Role_ROLE_VIEWER, errs.New(errs.NotFound, "JOB_NOT_FOUND", "no")},
		{"a change", update1, "attempted failed", authv1.Role_ROLE_ADMIN, other},
	} {
		for _, streams := range []bool{false, true} {
			if streams && c.method == update1 {
				continue // no stream changes anything
			}
			e, kept := guard(t, Security{Tokens: true}, func() *authv1.Token { return token(c.role) })
			ctx := from(t.Context(), "127.0.0.1:9", auth.NewToken())
			var err error
			if streams {
				err = e.stream(nil, serverStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: c.method}, func(any, grpc.ServerStream) error { return c.err })
			} else {
				req := proto.Message(&jobv1.GetJobRequest{Name: "nightly"})
				if c.method == update1 {
					req = &jobv1.UpdateJobRequest{Job: &jobv1.Job{Name: "nightly", Kind: "waste", Schedule: "@daily"}}
				}
				_, err = e.unary(ctx, req, &grpc.UnaryServerInfo{FullMethod: c.method}, func(context.Context, any) (any, error) { return nil, c.err })
			}
			e.gate.audit.close(t.Context())
			if got := kept.phases(); got != c.phases || errs.Reason(err) != errs.Reason(c.err) {
				t.Errorf("%s, stream %v: the audit log has %q, want %q; %v", c.name, streams, got, c.phases, err)
			}
			e.gate.audit.start()
		}
	}
}

// Viewers and operators read everything but secrets; services and admins, who
// need and decide them, have them.
func TestSecretsAreForAdmins(t *testing.T) {
	t.Parallel()
	account := &accountv1.Account{Id: "111122223333", Owner: "ops", ExternalId: "hunter2"}
	answers := []proto.Message{
		&accountv1.GetAccountResponse{Account: account}, &accountv1.ListAccountsResponse{Accounts: []*accountv1.Account{account, account}},
		&accountv1.GetOnboardingResponse{Onboarding: &accountv1.Onboarding{Account: account, TemplateParameters: map[string]string{"ExternalId": "hunter2"}}},
	}
	method := map[string]grpc.ServiceInfo{"nightshift.account.v1.AccountService": {Methods: []grpc.MethodInfo{{Name: "ListAccounts"}}}}
	for role := authv1.Role_ROLE_VIEWER; role <= authv1.Role_ROLE_ADMIN; role++ {
		e, _ := guard(t, Security{Tokens: true}, func() *authv1.Token { return token(role) })
		e.gate.methods = auth.MethodsOf(method)
		const full = "/nightshift.account.v1.AccountService/ListAccounts"
		ctx := from(t.Context(), "127.0.0.1:9", auth.NewToken())
		for _, answer := range answers {
			resp, err := e.unary(ctx, &accountv1.ListAccountsRequest{}, &grpc.UnaryServerInfo{FullMethod: full}, func(context.Context, any) (any, error) { return answer, nil })
			if err != nil {
				t.Fatal(err)
			}
			sent := &sending{serverStream: serverStream{ctx: ctx}}
			if err := e.stream(nil, sent, &grpc.StreamServerInfo{FullMethod: full}, func(_ any, s grpc.ServerStream) error { return s.SendMsg(answer) }); err != nil {
				t.Fatal(err)
			}
			for _, m := range []any{resp, sent.last} {
				text := prototext.Format(m.(proto.Message))
				if strings.Contains(text, "hunter2") != (role == authv1.Role_ROLE_ADMIN) || !strings.Contains(text, "ops") {
					t.Errorf("a caller with %s is answered %s", role, text)
				}
			}
		}
		for _, p := range []auth.Principal{auth.Service("waste"), anonymous(), owner()} {
			if got := shown(p, answers[0]); got != answers[0] {
				t.Errorf("%+v is answered %v", p, got)
			}
		}
	}
	if account.GetExternalId() != "hunter2" {
		t.Error("what the handler holds was changed")
	}
}

// sending keeps what is sent last.
type sending struct {
	serverStream
	last any
}

func (s *sending) SendMsg(m any) error { s.last = m; return nil }

// serverStream is a stream as the server has it.
type serverStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s serverStream) Context() context.Context { return s.ctx }

// A call that lasts ends when its token is revoked, or expires.
func TestAWatchEndsWithItsToken(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(t *authv1.Token)
		within time.Duration
		reason string
	}{
		"revoked": {func(t *authv1.Token) { t.RevokeTime = timestamppb.Now() }, 30 * time.Second, "TOKEN_REVOKED"},
		"expires": {func(*authv1.Token) {}, time.Hour + lookAgain, "TOKEN_EXPIRED"},
	} {
		synctest.Test(t, func(t *testing.T) {
			first := token(authv1.Role_ROLE_VIEWER)
			var k atomic.Pointer[authv1.Token]
			k.Store(first)
			e, _ := guard(t, Security{Tokens: true}, k.Load)
			began := time.Now()
			err := e.stream(nil, serverStream{ctx: from(t.Context(), "127.0.0.1:9", auth.NewToken())}, &grpc.StreamServerInfo{FullMethod: get1}, func(_ any, s grpc.ServerStream) error {
				time.Sleep(time.Second)
				changed := &authv1.Token{Id: first.GetId(), Name: first.GetName(), Role: first.GetRole(), ExpireTime: first.GetExpireTime()}
				c.change(changed)
				k.Store(changed)
				<-s.Context().Done()
				return s.Context().Err()
			})
			if took := time.Since(began); errs.Reason(err) != c.reason || took > c.within+time.Second {
				t.Errorf("%s: %v after %s", name, err, took)
			}
		})
	}
}

// So does one that came with a certificate: its connection, which ends after a
// while, waits for calls in hand.
func TestAWatchEndsWithItsCertificate(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		leaf := &x509.Certificate{URIs: []*url.URL{{Scheme: "spiffe", Host: "nightshift", Path: "/operator"}}, NotAfter: time.Now().Add(time.Hour)}
		info := credentials.TLSInfo{State: tls.ConnectionState{VerifiedChains: [][]*x509.Certificate{{leaf}}}}
		e, _ := guard(t, Security{TLS: &auth.TLS{}}, nil)
		ctx, cancel := context.WithTimeout(peer.NewContext(t.Context(), &peer.Peer{Addr: &net.TCPAddr{}, AuthInfo: info}), 24*time.Hour)
		defer cancel()
		began := time.Now()
		err := e.stream(nil, serverStream{ctx: ctx}, &grpc.StreamServerInfo{FullMethod: get1}, func(_ any, s grpc.ServerStream) error {
			<-s.Context().Done()
			return s.Context().Err()
		})
		if took := time.Since(began); errs.Reason(err) != "CERTIFICATE_EXPIRED" || took < time.Hour || took > time.Hour+lookAgain {
			t.Errorf("%v after %s", err, took)
		}
	})
}

// Nothing listens where others can reach it, unless it is safe or somebody
// says so.
func TestWhereServicesListen(t *testing.T) {
	t.Parallel()
	any, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer any.Close()
	own, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for name, c := range map[string]struct {
		s   Security
		may bool
	}{
		"open": {Security{}, false}, "insecure": {Security{Insecure: true}, true}, "TLS": {Security{TLS: &auth.TLS{}}, true},
		"tokens": {Security{Tokens: true}, false}, "tokens in plain text": {Security{Tokens: true, Insecure: true}, false},
	} {
		err := c.s.mayListen("waste", any)
		if (err == nil) != c.may {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && (!strings.Contains(err.Error(), "NIGHTSHIFT_TLS_DIR") || !strings.Contains(err.Error(), "NIGHTSHIFT_INSECURE=true")) {
			t.Errorf("%s: the error says not what to do: %v", name, err)
		}
		if err := c.s.mayListen("waste", own); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	_, err = Start(t.Context(), Options{
		Definitions: []Definition{{Name: "waste"}}, Listen: func(string) string { return "0.0.0.0:0" }, Bus: bus.Config{URL: "nats://127.0.0.1:1"},
		Lookup: func(string) (string, bool) { return "", false }, Log: slog.New(slog.DiscardHandler),
	})
	if errs.Reason(err) != "INSECURE" {
		t.Errorf("it started: %v", err)
	}
}

func TestSecurityOfAProcess(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, _, err := auth.OpenCA(dir, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ca.Issue("waste", nil, time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.DiscardHandler)
	if s, err := (Config{TLSDir: dir + "/waste"}).Security("waste", log); err != nil || s.open() || s.ServiceTLS() == nil {
		t.Errorf("%+v, %v", s, err)
	}
	if s, err := (Config{}).Security("waste", log); err != nil || !s.open() || s.ServiceTLS() != nil {
		t.Errorf("%+v, %v", s, err)
	}
	provider := auth.OIDCConfig{Issuer: "https://login.example.com", Audience: "nightshift", Roles: "groups:sre=admin"}
	for want, c := range map[string]Config{
		`has the certificate of "waste", and this is persistence`: {TLSDir: dir + "/waste"},
		`has the certificate of "", and this is persistence`:      {TLSDir: dir},
		"cannot be used": {TLSDir: dir + "/nothing"},
		"must be set with NIGHTSHIFT_OIDC_ISSUER": {OIDCConfig: provider},
	} {
		if _, err := c.Security("persistence", log); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v; want %s", c, err, want)
		}
	}
}

// A token in a file is sent to services of this machine alone.
func TestATokenForOthers(t *testing.T) {
	t.Parallel()
	path := t.TempDir() + "/token"
	if err := os.WriteFile(path, []byte("x\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := (fileToken{path, "127.0.0.1:7306"}).GetRequestMetadata(t.Context()); err != nil || m["authorization"] != "Bearer x" {
		t.Errorf("%v, %v", m, err)
	}
	for _, f := range []fileToken{{path, "10.1.2.3:7306"}, {path, "persistence:7306"}, {path + "2", "127.0.0.1:7306"}} {
		if m, err := f.GetRequestMetadata(t.Context()); err == nil {
			t.Errorf("%+v: %v", f, m)
		}
	}
}
