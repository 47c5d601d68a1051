package main

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// register is a persistence that keeps tokens and notes how it was called.
type register struct {
	authv1.UnimplementedAuthServiceServer
	mu     sync.Mutex
	bearer []string // of each call; empty: none
	asked  *authv1.Token
}

const aSecret = "nst_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func (r *register) called(ctx context.Context) {
	md, _ := metadata.FromIncomingContext(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.bearer = append(r.bearer, strings.TrimPrefix(strings.Join(md.Get("authorization"), ","), "Bearer "))
}

func (r *register) last() string { r.mu.Lock(); defer r.mu.Unlock(); return r.bearer[len(r.bearer)-1] }

func aToken() *authv1.Token {
	return &authv1.Token{Id: "0123456789abcdef", Name: hostile, Role: authv1.Role_ROLE_OPERATOR, Accounts: []string{"123456789012"}, CreatedBy: "maria", CreateTime: at, ExpireTime: at}
}

func (r *register) CreateToken(ctx context.Context, req *authv1.CreateTokenRequest) (*authv1.CreateTokenResponse, error) {
	r.called(ctx)
	r.asked = req.GetToken()
	if req.GetToken().GetName() == "taboo" {
		return nil, errs.New(errs.PermissionDenied, "TOKEN_TOO_POWERFUL", "no").GRPCStatus().Err()
	}
	return &authv1.CreateTokenResponse{Token: aToken(), Secret: aSecret}, nil
}

func (r *register) ListTokens(ctx context.Context, _ *authv1.ListTokensRequest) (*authv1.ListTokensResponse, error) {
	r.called(ctx)
	return &authv1.ListTokensResponse{Tokens: []*authv1.Token{aToken()}}, nil
}

func (r *register) RevokeToken(ctx context.Context, req *authv1.RevokeTokenRequest) (*authv1.RevokeTokenResponse, error) {
	r.called(ctx)
	if req.GetId() != aToken().GetId() {
		return nil, errs.New(errs.NotFound, "TOKEN_NOT_FOUND", "there is no token %s", req.GetId()).GRPCStatus().Err()
	}
	return &authv1.RevokeTokenResponse{Token: aToken()}, nil
}

func (r *register) WhoAmI(ctx context.Context, _ *authv1.WhoAmIRequest) (*authv1.WhoAmIResponse, error) {
	r.called(ctx)
	if r.last() == "bad" {
		return nil, errs.New(errs.Unauthenticated, "TOKEN_INVALID", "the token is not valid").GRPCStatus().Err()
	}
	return &authv1.WhoAmIResponse{Kind: "token", Name: "maria", Id: "1", Role: authv1.Role_ROLE_OPERATOR, Accounts: []string{"123456789012"}, ExpireTime: at}, nil
}

// serveTokens starts one and returns what leads there.
func serveTokens(t *testing.T, config *tls.Config) (*register, map[string]string) {
	t.Helper()
	r := &register{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var opts []grpc.ServerOption
	if config != nil {
		opts = append(opts, grpc.Creds(credentials.NewTLS(config)))
	}
	s := grpc.NewServer(opts...)
	authv1.RegisterAuthServiceServer(s, r)
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	return r, map[string]string{app.AddrVar("persistence"): l.Addr().String()}
}

func TestTokensCommands(t *testing.T) {
	t.Parallel()
	r, env := serveTokens(t, nil)
	// The secret alone is on stdout, what it is beside it.
	got := execute(t, env, "tokens", "create", "ci", "--role", "operator", "--account", "123456789012", "--until", "30d")
	if got.code != 0 || got.out != aSecret+"\n" || !strings.Contains(got.err, "0123456789abcdef") || strings.Contains(got.err, aSecret) {
		t.Errorf("%+v", got)
	}
	if k := r.asked; k.GetName() != "ci" || k.GetRole() != authv1.Role_ROLE_OPERATOR || len(k.GetAccounts()) != 1 || k.GetExpireTime().AsTime().Before(time.Now().Add(29*24*time.Hour)) {
		t.Errorf("asked for %v", k)
	}
	if execute(t, env, "tokens", "create", "ci"); r.asked.GetRole() != authv1.Role_ROLE_VIEWER || r.asked.GetExpireTime() != nil {
		t.Errorf("asked for %v", r.asked)
	}
	var as struct{ Secret, ID, Role string }
	if got := execute(t, env, "tokens", "create", "ci", "-o", "json"); json.Unmarshal([]byte(got.out), &as) != nil || as.Secret != aSecret || as.ID != "0123456789abcdef" || as.Role != "OPERATOR" {
		t.Errorf("%+v", got)
	}
	// In a file only its owner can read it, and none that is there is written over.
	path := filepath.Join(t.TempDir(), "ci.token")
	got = execute(t, env, "tokens", "create", "ci", "--out", path)
	if i, err := os.Stat(path); got.code != 0 || got.out != "" || strings.Contains(got.err, aSecret) || err != nil || i.Mode().Perm() != 0o600 {
		t.Errorf("%+v, %v", got, err)
	}
	if b, _ := os.ReadFile(path); string(b) != aSecret+"\n" {
		t.Errorf("%q", b)
	}
	calls := len(r.bearer)
	if got := execute(t, env, "tokens", "create", "ci", "--out", path); got.code != exitError || len(r.bearer) != calls {
		t.Errorf("over a file: %+v", got)
	}
	other := filepath.Join(t.TempDir(), "taboo.token")
	if got := execute(t, env, "tokens", "create", "taboo", "--out", other); got.code != exitError {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(other); err == nil {
		t.Error("an empty file is left")
	}
	if got := execute(t, env, "tokens", "list"); got.code != 0 || strings.Contains(got.out, "\x1b") || !strings.Contains(got.out, "operator") || strings.Contains(got.out, "nst_") {
		t.Errorf("%+v", got)
	}
	if got := execute(t, env, "tokens", "revoke", "0123456789abcdef"); got.code != 0 || strings.Contains(got.err, "\x1b") {
		t.Errorf("%+v", got)
	}
	if got := execute(t, env, "tokens", "revoke", "0000000000000000"); got.code != exitError || !strings.Contains(got.err, "tokens list") {
		t.Errorf("%+v", got)
	}
	if got := execute(t, env, "whoami"); got.code != 0 || !strings.Contains(got.out, "maria") || !strings.Contains(got.out, "operator") {
		t.Errorf("%+v", got)
	}
	for _, args := range [][]string{{"tokens", "create"}, {"tokens", "create", "x", "--role", "root"}, {"tokens", "create", "x", "--until", "soon"}, {"tokens", "revoke"}} {
		if got := execute(t, env, args...); got.code != exitUsage {
			t.Errorf("%v: %+v", args, got)
		}
	}
}

// The token is the first of those that somebody names, that of "up", and that
// of the configuration directory. It goes to no other machine in plain text.
func TestWhichToken(t *testing.T) {
	t.Parallel()
	r, env := serveTokens(t, nil)
	data, home := t.TempDir(), t.TempDir()
	write := func(dir, text string) string {
		t.Helper()
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, tokenFile)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if err := writeJSON(filepath.Join(data, endpointsFile), endpoints{Services: map[string]string{"persistence": env[app.AddrVar("persistence")]}}); err != nil {
		t.Fatal(err)
	}
	named := write(t.TempDir(), "named\n")
	write(data, "of-up\n")
	write(filepath.Join(home, ".config", "nightshift"), "kept")
	write(filepath.Join(home, "xdg", "nightshift"), " xdg \r\n")
	with := func(more map[string]string) map[string]string {
		all := maps.Clone(env)
		maps.Copy(all, more)
		return all
	}
	for _, c := range []struct {
		env  map[string]string
		args []string
		want string
	}{
		{nil, nil, ""},
		{map[string]string{"HOME": home}, nil, "kept"},
		{map[string]string{"HOME": home, "XDG_CONFIG_HOME": filepath.Join(home, "xdg")}, nil, "xdg"},
		{map[string]string{"HOME": home, "NIGHTSHIFT_DATA_DIR": data}, nil, "of-up"},
		{map[string]string{"HOME": home}, []string{"--data-dir", data}, "of-up"},
		{map[string]string{"NIGHTSHIFT_DATA_DIR": data, "NIGHTSHIFT_TOKEN_FILE": named}, nil, "named"},
		{map[string]string{"NIGHTSHIFT_TOKEN_FILE": "/nothing"}, []string{"--token-file", named}, "named"},
		{map[string]string{"NIGHTSHIFT_TOKEN_FILE": named, "NIGHTSHIFT_TOKEN": "said"}, nil, "said"},
	} {
		if got := execute(t, with(c.env), append([]string{"whoami"}, c.args...)...); got.code != 0 || r.last() != c.want {
			t.Errorf("%v %v: sent %q, want %q: %s", c.env, c.args, r.last(), c.want, got.err)
		}
	}
	calls := len(r.bearer)
	for _, c := range []struct {
		env  map[string]string
		args []string
		code int
		says string
	}{
		{map[string]string{"NIGHTSHIFT_TOKEN_FILE": "/nothing"}, nil, exitUsage, "/nothing"},
		{map[string]string{"NIGHTSHIFT_TOKEN": "two words"}, nil, exitUsage, "NIGHTSHIFT_TOKEN holds no token"},
		{map[string]string{"NIGHTSHIFT_TOKEN": "said"}, []string{"--addr", "persistence=192.0.2.1:7306", "--timeout", "1s"}, exitUsage, "plain text"},
		{map[string]string{"NIGHTSHIFT_TLS_DIR": "/nothing"}, nil, exitUsage, "ca.crt"},
	} {
		if got := execute(t, with(c.env), append([]string{"whoami"}, c.args...)...); got.code != c.code || !strings.Contains(got.err, c.says) || strings.Contains(got.err, "two words") {
			t.Errorf("%v %v: %+v", c.env, c.args, got)
		}
	}
	if len(r.bearer) != calls {
		t.Error("somebody was called")
	}
	if got := execute(t, with(map[string]string{"NIGHTSHIFT_TOKEN": "bad"}), "whoami"); got.code != exitError || !strings.Contains(got.err, "The token is from NIGHTSHIFT_TOKEN.") {
		t.Errorf("%+v", got)
	}
}

// What "deploy certs" writes is what services and the CLI use, and a second
// time changes nothing.
func TestDeployCerts(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "certs")
	got := execute(t, nil, "deploy", "certs", "--out", dir, "--name", "nats", "-o", "jsonl")
	if got.code != 0 || strings.Count(got.out, "\n") != len(serviceNames())+2 || strings.Count(got.out, `"written":true`) != len(serviceNames())+2 {
		t.Fatalf("%+v", got)
	}
	before, err := os.ReadFile(filepath.Join(dir, "persistence", "tls.key"))
	if err != nil {
		t.Fatal(err)
	}
	if got := execute(t, nil, "deploy", "certs", "--out", dir, "-o", "jsonl"); got.code != 0 || strings.Contains(got.out, `"written":true`) {
		t.Errorf("again: %+v", got)
	}
	if after, err := os.ReadFile(filepath.Join(dir, "persistence", "tls.key")); err != nil || string(after) != string(before) {
		t.Errorf("the key has changed: %v", err)
	}
	own, err := auth.LoadTLS(filepath.Join(dir, "persistence"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	r, env := serveTokens(t, own.Server())
	env["NIGHTSHIFT_TLS_DIR"], env["NIGHTSHIFT_TOKEN"] = filepath.Join(dir, auth.Operator), "said"
	if got := execute(t, env, "whoami"); got.code != 0 || r.last() != "said" {
		t.Errorf("%+v", got)
	}
	delete(env, "NIGHTSHIFT_TLS_DIR")
	if got := execute(t, env, "whoami", "--tls-dir", dir); got.code != 0 { // with ca.crt alone
		t.Errorf("%+v", got)
	}
	if got := execute(t, env, "whoami", "--tls-dir", filepath.Join(dir, "waste"), "--timeout", "5s"); got.code != 0 {
		t.Errorf("%+v", got)
	}
	for _, args := range [][]string{{"--lifetime", "0s"}, {"--name", "No"}, {"--name", "a/b"}, {"x"}} {
		if got := execute(t, nil, append([]string{"deploy", "certs", "--out", dir}, args...)...); got.code != exitUsage {
			t.Errorf("%v: %+v", args, got)
		}
	}
}
