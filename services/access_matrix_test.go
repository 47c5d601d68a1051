package services_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	"google.golang.org/protobuf/types/known/timestamppb"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services"
	"nightshift.dev/services/persistence"
)

const (
	ownAccount   = "111111111111" // of callers who may see one
	otherAccount = "222222222222"
)

// guarded is all services in one process, on TLS, as strangers see them.
type guarded struct {
	host    *app.Host
	stop    func() // and wait until all is said
	bus     bus.Config
	set     map[string]string // variables
	denials atomic.Int64
	certs   string
	clock   atomic.Int64 // how far it is ahead
	tokens  map[string]string
	methods map[string][]*auth.Method // by the service that serves them
}

// startGuarded starts everything, and makes tokens of all kinds.
func startGuarded(t *testing.T) *guarded {
	t.Helper()
	g := &guarded{certs: t.TempDir(), tokens: map[string]string{}, methods: map[string][]*auth.Method{}}
	ca, _, err := auth.OpenCA(g.certs, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	names := []string{auth.Operator, "intruder"}
	for _, def := range services.All {
		names = append(names, def.Name)
	}
	for _, name := range names {
		if _, _, err := ca.Issue(name, nil, time.Now(), time.Hour); err != nil {
			t.Fatal(err)
		}
	}
	cloud := httptest.NewServer(simaws.New(simaws.Generate(simaws.Options{Seed: 1, Accounts: 1, Regions: 1, Resources: 10}), simaws.Config{}))
	t.Cleanup(cloud.Close)
	g.bus = bus.Config{Options: devtest.NATS(t).Options(), Log: slog.New(slog.DiscardHandler)}
	set := map[string]string{
		"DATABASE_URL": devtest.DB(t, persistence.Migrate), "NIGHTSHIFT_AWS_ENDPOINT": cloud.URL,
		"NIGHTSHIFT_AWS_ACCESS_KEY_ID": simaws.DemoAccessKey, "NIGHTSHIFT_AWS_SECRET_ACCESS_KEY": simaws.FakeSecret,
	}
	g.set = set
	g.start(t, services.All...)

	api := authv1.NewAuthServiceClient(g.host.Dial("persistence"))
	create := func(name string, role authv1.Role, life time.Duration, accounts ...string) string {
		t.Helper()
		r, err := api.CreateToken(t.Context(), &authv1.CreateTokenRequest{Token: &authv1.Token{
			Name: name, Role: role, Accounts: accounts, ExpireTime: timestamppb.New(time.Now().Add(life)),
		}})
		if err != nil {
			t.Fatal(err)
		}
		g.tokens[name] = r.GetSecret()
		return r.GetToken().GetId()
	}
	for role := authv1.Role_ROLE_VIEWER; role <= authv1.Role_ROLE_ADMIN; role++ {
		create(auth.RoleName(role), role, 24*time.Hour)
		create(auth.RoleName(role)+" of one account", role, 24*time.Hour, ownAccount)
	}
	create("expired", authv1.Role_ROLE_ADMIN, 10*time.Minute)
	if _, err := api.RevokeToken(t.Context(), &authv1.RevokeTokenRequest{Id: create("revoked", authv1.Role_ROLE_ADMIN, time.Hour)}); err != nil {
		t.Fatal(err)
	}
	g.tokens["never given"] = auth.NewToken()
	g.tokens["garbage"] = "garbage"
	g.clock.Store(int64(20 * time.Minute))

	for _, def := range services.All {
		g.methods[def.Name] = g.served(t, def.Name)
	}
	return g
}

// start starts services until stop, or the end of the test.
func (g *guarded) start(t *testing.T, defs ...app.Definition) {
	t.Helper()
	host, err := app.Start(t.Context(), app.Options{
		Definitions: defs, Listen: func(string) string { return "127.0.0.1:0" },
		Bus: g.bus, Log: g.bus.Log, Security: app.Security{TLS: g.tls(t, "persistence")},
		Lookup: func(name string) (string, bool) { v, ok := g.set[name]; return v, ok },
		Now:    func() time.Time { return time.Now().Add(time.Duration(g.clock.Load())) }, StopTimeout: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- host.Run(ctx) }()
	g.host = host
	g.stop = sync.OnceFunc(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the host ended with %v", err)
		}
	})
	t.Cleanup(g.stop)
}

func (g *guarded) tls(t *testing.T, name string) *auth.TLS {
	t.Helper()
	c, err := auth.LoadTLS(filepath.Join(g.certs, name), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// dial connects over the network, with the certificate of somebody or, with an
// empty name, none.
func (g *guarded) dial(t *testing.T, service, as string) *grpc.ClientConn {
	t.Helper()
	config := g.tls(t, "persistence").Client("persistence")
	config.GetClientCertificate = nil
	if as != "" {
		config = g.tls(t, as).Client("persistence")
	}
	c, err := grpc.NewClient(g.host.Addr(service), append(app.ClientOptions(), grpc.WithTransportCredentials(credentials.NewTLS(config)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func bear(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+token)
}

// served asks a server what it serves.
func (g *guarded) served(t *testing.T, service string) []*auth.Method {
	t.Helper()
	s, err := reflectionv1.NewServerReflectionClient(g.dial(t, service, "")).ServerReflectionInfo(bear(t.Context(), g.tokens["viewer"]))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	r, err := s.Recv()
	if err != nil {
		t.Fatal(err)
	}
	_ = s.CloseSend()
	info := map[string]grpc.ServiceInfo{}
	for _, one := range r.GetListServicesResponse().GetService() {
		d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(one.GetName()))
		if err != nil {
			t.Fatal(err)
		}
		var i grpc.ServiceInfo
		for n := range d.(protoreflect.ServiceDescriptor).Methods().Len() {
			m := d.(protoreflect.ServiceDescriptor).Methods().Get(n)
			i.Methods = append(i.Methods, grpc.MethodInfo{Name: string(m.Name()), IsClientStream: m.IsStreamingClient(), IsServerStream: m.IsStreamingServer()})
		}
		info[one.GetName()] = i
	}
	var out []*auth.Method
	for _, m := range auth.MethodsOf(info) {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b *auth.Method) int { return strings.Compare(a.Name, b.Name) })
	return out
}

// request makes an empty request of a method that names an account where it
// can.
func request(t *testing.T, m *auth.Method, account string) (req, resp proto.Message) {
	t.Helper()
	d, err := protoregistry.GlobalFiles.FindDescriptorByName(protoreflect.FullName(strings.ReplaceAll(m.Name, "/", ".")))
	if err != nil {
		t.Fatal(err)
	}
	md := d.(protoreflect.MethodDescriptor)
	message := func(d protoreflect.MessageDescriptor) proto.Message {
		mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
		if err != nil {
			t.Fatal(err)
		}
		return mt.New().Interface()
	}
	req, resp = message(md.Input()), message(md.Output())
	if field := m.Access.GetAccountField(); field != "" && account != "" {
		at := req.ProtoReflect()
		path := strings.Split(field, ".")
		for _, name := range path[:len(path)-1] {
			at = at.Mutable(at.Descriptor().Fields().ByName(protoreflect.Name(name))).Message()
		}
		at.Set(at.Descriptor().Fields().ByName(protoreflect.Name(path[len(path)-1])), protoreflect.ValueOfString(account))
	}
	return req, resp
}

// call makes a call and returns how it ended, or that it goes on.
func call(ctx context.Context, c *grpc.ClientConn, name string, req, resp proto.Message) error {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	s, err := c.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true, ClientStreams: true}, name)
	if err != nil {
		return err
	}
	if err := s.SendMsg(req); err != nil {
		return s.RecvMsg(resp)
	}
	_ = s.CloseSend()
	return s.RecvMsg(resp)
}

// Every method of every server says who may call it.
func TestEveryMethodSaysWhoMayCallIt(t *testing.T) {
	t.Parallel()
	protoregistry.GlobalFiles.RangeFiles(func(f protoreflect.FileDescriptor) bool {
		if !strings.HasPrefix(string(f.Package()), "nightshift.") {
			return true
		}
		for i := range f.Services().Len() {
			s := f.Services().Get(i)
			info := grpc.ServiceInfo{}
			for k := range s.Methods().Len() {
				info.Methods = append(info.Methods, grpc.MethodInfo{Name: string(s.Methods().Get(k).Name())})
			}
			for name, m := range auth.MethodsOf(map[string]grpc.ServiceInfo{string(s.FullName()): info}) {
				a := m.Access
				_, method, _ := strings.Cut(name, "/")
				md := s.Methods().ByName(protoreflect.Name(method))
				switch {
				case a == nil:
					t.Errorf("%s has no option (nightshift.auth.v1.access): nobody could call it", name)
				case a.GetRole() == 0 && len(a.GetServices()) == 0:
					t.Errorf("%s lets nobody call it", name)
				case a.GetRole() == 0 && (a.GetChanges() || a.GetAccountScope() != 0):
					t.Errorf("%s is for services alone: changes and account_scope are about people and programs", name)
				case (a.GetAccountScope() == authv1.AccountScope_ACCOUNT_SCOPE_FIELD) != (a.GetAccountField() != ""):
					t.Errorf("%s: account_field goes with ACCOUNT_SCOPE_FIELD", name)
				case a.GetChanges() && a.GetRole() == authv1.Role_ROLE_VIEWER:
					t.Errorf("%s changes something, and viewers may call it", name)
				case a.GetChanges() && (md.IsStreamingServer() || md.IsStreamingClient()):
					t.Errorf("%s changes something and is a stream, of which the audit log hears nothing", name)
				}
				if a.GetAccountField() != "" {
					request(t, m, otherAccount) // fails where there is no such field
				}
				for _, service := range a.GetServices() {
					if service != "*" && app.DefaultAddr(service) == app.DefaultAddr("nobody") {
						t.Errorf("%s is for a service %q that there is not", name, service)
					}
				}
			}
		}
		return true
	})
}

// Each method of each server, called by everybody who may not, and by those
// who may. Every denial is in the audit log.
func TestAccessMatrix(t *testing.T) {
	t.Parallel()
	g := startGuarded(t)
	t.Run("calls", g.everything)
	// What was only counted is told when a service stops.
	g.stop()
	g.start(t, persistence.Definition)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	want, got := g.denials.Load(), g.denied(t)
	for ; got < want; got = g.denied(t) {
		await(ctx, t, fmt.Sprintf("%d denials in the audit log; there are %d", want, got))
	}
	if got != want || want < 1000 {
		t.Errorf("%d denials are in the audit log, of %d", got, want)
	}
}

// denied counts the denials in the audit log.
func (g *guarded) denied(t *testing.T) (sum int64) {
	t.Helper()
	api := auditv1.NewAuditServiceClient(g.host.Dial("persistence"))
	for token := ""; ; {
		r, err := api.ListAuditEntries(t.Context(), &auditv1.ListAuditEntriesRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range r.GetEntries() {
			if e.GetRecord().GetPhase() == auditv1.Phase_PHASE_DENIED {
				sum += e.GetRecord().GetCount()
			}
		}
		if token = r.GetNextPageToken(); token == "" {
			return sum
		}
	}
}

func (g *guarded) everything(t *testing.T) {
	var calls, methods atomic.Int64
	t.Run("other authorities", g.otherAuthorities)
	for _, def := range services.All {
		t.Run(def.Name, func(t *testing.T) {
			t.Parallel()
			stranger := g.dial(t, def.Name, "")
			certified := map[string]*grpc.ClientConn{"intruder": g.dial(t, def.Name, "intruder"), auth.Operator: g.dial(t, def.Name, auth.Operator)}
			for _, peer := range services.All {
				certified[peer.Name] = g.dial(t, def.Name, peer.Name)
			}
			for _, m := range g.methods[def.Name] {
				methods.Add(1)
				try := func(who string, c *grpc.ClientConn, token, account, reason string) {
					t.Helper()
					calls.Add(1)
					req, resp := request(t, m, account)
					err := call(bear(t.Context(), token), c, "/"+m.Name, req, resp)
					kind := errs.PermissionDenied
					if strings.HasPrefix(reason, "TOKEN_") {
						kind = errs.Unauthenticated
					}
					refused := errors.Is(err, errs.Unauthenticated) || errors.Is(err, errs.PermissionDenied)
					if refused {
						g.denials.Add(1)
					}
					switch {
					case m.Public || reason == "":
						if refused {
							t.Errorf("%s by %s: %v (%s); he may", m.Name, who, err, errs.Reason(err))
						}
					case !errors.Is(err, kind) || errs.Reason(err) != reason:
						t.Errorf("%s by %s: %v (%s); want %s %s", m.Name, who, err, errs.Reason(err), kind, reason)
					case token != "" && strings.Contains(err.Error(), token) && token != "garbage":
						t.Errorf("%s by %s: the error has the token in it", m.Name, who)
					}
				}
				try("nobody", stranger, "", "", "TOKEN_MISSING")
				try("garbage", stranger, g.tokens["garbage"], "", "TOKEN_INVALID")
				try("a token that was never given", stranger, g.tokens["never given"], "", "TOKEN_INVALID")
				try("an expired token", stranger, g.tokens["expired"], "", "TOKEN_EXPIRED")
				try("a revoked token", stranger, g.tokens["revoked"], "", "TOKEN_REVOKED")

				need := m.Access.GetRole()
				for role := authv1.Role_ROLE_VIEWER; role <= authv1.Role_ROLE_ADMIN; role++ {
					name, some := auth.RoleName(role), auth.RoleName(role)+" of one account"
					if need == 0 || role < need {
						try(name, stranger, g.tokens[name], "", "ROLE_TOO_LOW")
						try(some, stranger, g.tokens[some], ownAccount, "ROLE_TOO_LOW")
						continue
					}
					try(name, stranger, g.tokens[name], "", "")
					switch m.Access.GetAccountScope() {
					case authv1.AccountScope_ACCOUNT_SCOPE_UNSPECIFIED:
						try(some, stranger, g.tokens[some], "", "ACCOUNT_OUT_OF_SCOPE")
					case authv1.AccountScope_ACCOUNT_SCOPE_FIELD:
						try(some+", about another", stranger, g.tokens[some], otherAccount, "ACCOUNT_OUT_OF_SCOPE")
						try(some+", about all", stranger, g.tokens[some], "", "ACCOUNT_OUT_OF_SCOPE")
						try(some+", about it", stranger, g.tokens[some], ownAccount, "")
					default:
						try(some, stranger, g.tokens[some], "", "")
					}
				}
				for name, c := range certified {
					reason := "SERVICE_NOT_ALLOWED"
					if listed := m.Access.GetServices(); slices.Contains(listed, name) || slices.Contains(listed, "*") || name == auth.Operator && need != 0 {
						reason = ""
					}
					try("the certificate of "+name, c, "", "", reason)
				}
				// A token says more than the certificate it comes with.
				try("an operator's certificate with a revoked token", certified[auth.Operator], g.tokens["revoked"], "", "TOKEN_REVOKED")
			}

			// What there is not, and what is no name of a method.
			empty := &authv1.WhoAmIRequest{}
			for _, name := range []string{
				"/nightshift.nothing.v1.NothingService/Nothing", "/nightshift.auth.v1.AuthService/Nothing", "/a/b/c",
				strings.TrimPrefix(g.methods[def.Name][0].Name, "/"), g.methods[def.Name][len(g.methods[def.Name])-1].Name, "nothing", "/nothing", "//",
			} {
				g.denials.Add(3)
				if err := call(t.Context(), stranger, name, empty, empty); !errors.Is(err, errs.Unauthenticated) || errs.Reason(err) != "TOKEN_MISSING" {
					t.Errorf("%q by nobody: %v (%s)", name, err, errs.Reason(err))
				}
				for _, who := range []string{"viewer", "admin"} {
					if err := call(bear(t.Context(), g.tokens[who]), stranger, name, empty, empty); !errors.Is(err, errs.Unimplemented) || errs.Reason(err) != "METHOD_UNKNOWN" {
						t.Errorf("%q by %s: %v (%s)", name, who, err, errs.Reason(err))
					}
				}
			}
		})
	}
	t.Cleanup(func() { t.Logf("%d calls of %d methods", calls.Load(), methods.Load()) })
}

// Whoever has a certificate of another authority does not come in at all.
func (g *guarded) otherAuthorities(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ca, _, err := auth.OpenCA(dir, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := ca.Issue(auth.Operator, nil, time.Now(), time.Hour); err != nil {
		t.Fatal(err)
	}
	foreign, err := auth.LoadTLS(filepath.Join(dir, auth.Operator), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	whoami := func(config credentials.TransportCredentials) error {
		c, err := grpc.NewClient(g.host.Addr("persistence"), append(app.ClientOptions(), grpc.WithTransportCredentials(config))...)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_, err = authv1.NewAuthServiceClient(c).WhoAmI(t.Context(), &authv1.WhoAmIRequest{})
		return err
	}
	// The client trusts the server, and the server not the client.
	trusting := g.tls(t, "persistence").Client("persistence")
	trusting.GetClientCertificate = foreign.Client("").GetClientCertificate
	if err := whoami(credentials.NewTLS(trusting)); err == nil {
		t.Error("a certificate of another authority was taken")
	}
	// And the other way round.
	if err := whoami(credentials.NewTLS(foreign.Client("persistence"))); err == nil {
		t.Error("a server of another authority was believed")
	}
	// Another service than the one that was called answers.
	if err := whoami(credentials.NewTLS(g.tls(t, auth.Operator).Client("scheduler"))); err == nil || !strings.Contains(fmt.Sprint(err), "persistence that answers, not scheduler") {
		t.Errorf("another service answered: %v", err)
	}
	if err := whoami(credentials.NewTLS(g.tls(t, auth.Operator).Client("persistence"))); err != nil {
		t.Error(err)
	}
}
