package app

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/tap"
	"google.golang.org/protobuf/proto"

	auditv1 "nightshift.dev/gen/nightshift/audit/v1"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// gate lets calls in: it finds out who calls and whether he may. Every call
// that it turns away it tells the audit log.
type gate struct {
	security Security
	methods  auth.Methods // of the server, set before it serves
	verifier *auth.Verifier
	audit    *auditor
	now      func() time.Time
}

// entrance is a call that is being let in.
type entrance struct {
	call
	rights *auth.Method // nil: there is no such method
	// again asks anew whether its token or certificate is good; nil: it has none.
	again  func(ctx context.Context) error
	denied bool // and the audit log has heard of it
}

// enter finds out who calls, and whether he may call this method at all. The
// context that it returns knows who calls.
func (g *gate) enter(ctx context.Context, fullMethod string) (context.Context, *entrance, error) {
	e := &entrance{call: call{principal: nobody, method: strings.TrimPrefix(fullMethod, "/"), peer: "memory"}}
	md, _ := metadata.FromIncomingContext(ctx)
	e.agent = strings.Join(md.Get("user-agent"), " ")
	e.rights = g.methods[e.method]
	if p, ok := peer.FromContext(ctx); ok {
		if _, memory := p.AuthInfo.(memoryInfo); !memory {
			e.peer = p.Addr.String()
		}
		who, err := g.who(ctx, p, md, e)
		switch {
		case err == nil:
			e.principal = who
		case e.rights == nil || !e.rights.Public:
			if who.ID != "" { // a token that has ended is still somebody's
				e.principal = who
			}
			return ctx, e, g.deny(ctx, e, err)
		}
	}
	switch {
	case e.rights == nil:
		return ctx, e, g.deny(ctx, e, errs.New(errs.Unimplemented, "METHOD_UNKNOWN", "there is no method %q here", clipped(e.method)))
	case g.security.open() && (e.rights.Access != nil || e.rights.Public):
	default:
		if err := e.rights.Allow(e.principal); err != nil {
			return ctx, e, g.deny(ctx, e, err)
		}
	}
	return auth.With(ctx, e.principal), e, nil
}

// read looks at the request of a call that was let in.
func (g *gate) read(ctx context.Context, e *entrance, req any) error {
	e.request, _ = req.(proto.Message)
	if e.request == nil || g.security.open() {
		return nil
	}
	if err := e.rights.AllowRequest(e.principal, e.request); err != nil {
		return g.deny(ctx, e, err)
	}
	return nil
}

// deny tells the audit log that a call was turned away. An error that says
// that something is out of order is none of the caller's.
func (g *gate) deny(ctx context.Context, e *entrance, err error) error {
	e.denied = true
	for _, denial := range []errs.Kind{errs.Unauthenticated, errs.PermissionDenied, errs.Unimplemented} {
		if errors.Is(err, denial) { // also when the caller has not waited for it
			g.audit.denied(ctx, e.call, err)
		}
	}
	return err
}

// left tells the audit log of a call that its handler turned away, such as one
// for another's account. Of what changes something the log has the end anyway.
func (g *gate) left(ctx context.Context, e *entrance, err error) error {
	if e.denied || e.changes() {
		return err
	}
	switch errs.Reason(err) {
	case "ACCOUNT_OUT_OF_SCOPE", "ROLE_TOO_LOW":
		return g.deny(ctx, e, err)
	}
	return err
}

// changes says that the call is to be in the audit log: it changes something
// for a person or a program, not for a service that does its work.
func (e *entrance) changes() bool {
	work := e.principal.Kind == auditv1.PrincipalKind_PRINCIPAL_KIND_SERVICE && e.principal.Role == 0
	return e.rights.Access.GetChanges() && !work
}

// nobody is who calls without saying who he is.
var nobody = auth.Principal{Kind: auditv1.PrincipalKind_PRINCIPAL_KIND_ANONYMOUS}

// who finds out who calls: by the token of the call, or else by the
// certificate of the connection.
func (g *gate) who(ctx context.Context, p *peer.Peer, md metadata.MD, e *entrance) (auth.Principal, error) {
	if m, ok := p.AuthInfo.(memoryInfo); ok {
		return m.caller, nil
	}
	if g.security.open() {
		return anonymous(), nil
	}
	if sent := md.Get("authorization"); len(sent) > 0 {
		scheme, token, _ := strings.Cut(sent[0], " ")
		switch {
		case len(sent) > 1 || !strings.EqualFold(scheme, "bearer") || token == "":
			return nobody, errs.New(errs.Unauthenticated, "TOKEN_INVALID", `the authorization is not like "Bearer <token>"`)
		case g.security.TLS == nil && !auth.IsLoopback(p.Addr.String()):
			return nobody, errs.New(errs.Unauthenticated, "TOKEN_IN_PLAIN_TEXT", "a token came over the network without TLS, where others can read it; revoke it, and use TLS")
		}
		token = strings.TrimSpace(token)
		e.again = func(ctx context.Context) error { _, err := g.verifier.Verify(ctx, token); return err }
		return g.verifier.Verify(ctx, token)
	}
	if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
		e.again = func(context.Context) error { _, err := auth.PeerOf(info.State, g.now()); return err }
		return auth.PeerOf(info.State, g.now())
	}
	return nobody, auth.Missing()
}

// tapped refuses what is no name of a method before anything is made of it:
// gRPC answers such calls by itself, and nobody would hear of them. It must not
// block.
func (g *gate) tapped(ctx context.Context, info *tap.Info) (context.Context, error) {
	name, slash := strings.CutPrefix(info.FullMethodName, "/")
	if slash && strings.Contains(name, "/") {
		return ctx, nil
	}
	e := &entrance{call: call{principal: nobody, method: info.FullMethodName, agent: strings.Join(info.Header.Get("user-agent"), " "), peer: "memory"}}
	err := error(errs.New(errs.Unimplemented, "METHOD_UNKNOWN", "%q is no name of a method", clipped(info.FullMethodName)))
	if p, ok := peer.FromContext(ctx); ok && !g.security.open() {
		e.peer = p.Addr.String()
		// Whoever sent a token could be somebody, which cannot be found out here.
		switch who, missing := g.who(ctx, &peer.Peer{Addr: p.Addr, AuthInfo: p.AuthInfo}, nil, e); {
		case missing == nil:
			e.principal = who
		case len(info.Header.Get("authorization")) == 0:
			err = missing
		}
	}
	go g.audit.denied(context.WithoutCancel(ctx), e.call, err)
	return ctx, err
}

// clipped bounds what a stranger made up.
func clipped(s string) string {
	if r := []rune(strings.ToValidUTF8(s, "\uFFFD")); len(r) > 100 {
		return string(r[:100]) + "…"
	}
	return strings.ToValidUTF8(s, "\uFFFD")
}

// lookAgain is how often a call that lasts is asked again who makes it.
const lookAgain = 15 * time.Second

// watch ends ctx when the token or the certificate of a call that lasts is good
// no longer. The end of its connection waits for such a call.
func (g *gate) watch(ctx context.Context, e *entrance) (context.Context, context.CancelFunc) {
	if e.again == nil {
		return ctx, func() {}
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		tick := time.NewTicker(lookAgain)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			if err := e.again(ctx); errors.Is(err, errs.Unauthenticated) {
				cancel(err)
				return
			}
		}
	}()
	return ctx, func() { cancel(nil) }
}
