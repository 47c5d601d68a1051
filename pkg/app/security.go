package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// Security says how the services of a process know who calls. Without TLS and
// tokens they are open: everybody who reaches them may do everything.
type Security struct {
	// TLS, when set, is how they are reached and how they reach others. Callers
	// show the certificate of a service, or a token.
	TLS *auth.TLS
	// Tokens demands tokens of whoever calls over the network, also without TLS.
	Tokens bool
	// OIDC is an identity provider whose tokens are taken, too; nil: none.
	OIDC *auth.OIDC
	// TokenFile holds a token for the others on this machine, where they have no
	// TLS and ask for one; empty: none.
	TokenFile string
	// Insecure allows to listen beyond this machine without TLS.
	Insecure bool
}

// open says that nobody has to say who he is.
func (s Security) open() bool { return s.TLS == nil && !s.Tokens }

// Security reads what the process was told. service is whose certificate there
// must be.
func (c Config) Security(service string, log *slog.Logger) (s Security, err error) {
	s.Insecure, s.TokenFile = c.Insecure, c.TokenFile
	if s.OIDC, err = auth.NewOIDC(c.OIDCConfig, time.Now); err != nil {
		return s, err
	}
	bad := errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used")
	if c.TLSDir == "" {
		if s.OIDC != nil {
			return s, bad.Field("NIGHTSHIFT_TLS_DIR", "must be set with NIGHTSHIFT_OIDC_ISSUER: without TLS nobody is asked who he is")
		}
		return s, nil
	}
	if s.TLS, err = auth.LoadTLS(c.TLSDir, log); err != nil {
		return s, err
	}
	if name := s.TLS.Name(); name != service {
		return s, bad.Field("NIGHTSHIFT_TLS_DIR", "has the certificate of %q, and this is %s; \"nightshift deploy certs\" makes one for each service", name, service)
	}
	return s, nil
}

// ServiceTLS is how a service reaches another that is no gRPC server of
// Nightshift, such as NATS, with its certificate; nil without TLS.
func (s Security) ServiceTLS() *tls.Config {
	if s.TLS == nil {
		return nil
	}
	return s.TLS.Client("")
}

// mayListen refuses an address that others can reach, where nobody has to say
// who he is or everybody on the way could read it.
func (s Security) mayListen(service string, l net.Listener) error {
	if s.TLS != nil || s.Insecure && !s.Tokens || auth.IsLoopback(l.Addr().String()) {
		return nil
	}
	return errs.New(errs.FailedPrecondition, "INSECURE",
		"%s would listen at %s, where others can reach it, without TLS: set NIGHTSHIFT_TLS_DIR to the directory of its certificates "+
			"(\"nightshift deploy certs\" makes them), or NIGHTSHIFT_LISTEN to an address of this machine alone such as 127.0.0.1:7306; "+
			"NIGHTSHIFT_INSECURE=true says that the network is safe and everybody on it may do everything", service, l.Addr())
}

// owner is the process itself: who started it has all it holds anyway.
func owner() auth.Principal {
	p := auth.Service("nightshift")
	p.Role = authv1.Role_ROLE_ADMIN
	return p
}

// anonymous is whoever calls a service that is open.
func anonymous() auth.Principal {
	return auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS, Role: authv1.Role_ROLE_ADMIN}
}

// transport is how a connection to a service over the network is made.
func (s Security) transport(service string) credentials.TransportCredentials {
	if s.TLS == nil {
		return insecure.NewCredentials()
	}
	return credentials.NewTLS(s.TLS.Client(service))
}

// fileToken is sent with every call to a service without TLS on this machine.
type fileToken struct{ path, target string }

// GetRequestMetadata reads the file each time: there may be another token in it.
func (f fileToken) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	if !auth.IsLoopback(f.target) {
		return nil, status.Errorf(codes.Unauthenticated, "the token in NIGHTSHIFT_TOKEN_FILE is not sent to %s in plain text; use NIGHTSHIFT_TLS_DIR", f.target)
	}
	b, err := os.ReadFile(f.path)
	if err != nil {
		return nil, status.Errorf(codes.Unavailable, "NIGHTSHIFT_TOKEN_FILE: %v", err)
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(b))}, nil
}

func (fileToken) RequireTransportSecurity() bool { return false }

// ageLimit ends connections, so that certificates are shown anew. Clients
// connect again and notice nothing.
const ageLimit = 30 * time.Minute

// verifier asks persistence about tokens.
func (h *Host) verifier() *auth.Verifier {
	api := authv1.NewAuthServiceClient(h.dial(auth.Service(h.units[0].def.Name), "persistence"))
	return auth.NewVerifier(func(ctx context.Context, hash []byte) (*authv1.Token, error) {
		r, err := api.Authenticate(ctx, &authv1.AuthenticateRequest{Hash: hash}, grpc.WaitForReady(false))
		if err == nil && r.GetToken() == nil {
			err = fmt.Errorf("persistence answered without a token")
		}
		return r.GetToken(), err
	}, h.opts.Security.OIDC, h.opts.Now)
}
