package app

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"strings"
	"time"

	"buf.build/go/protovalidate"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/errs"
)

// callTimeout bounds a call that came without a deadline, on either side of
// the wire. Streams are not bounded: watching lasts.
const callTimeout = 30 * time.Second

// edge is where calls enter a service: it asks who calls and whether he may,
// checks what is asked for, bounds calls, survives them and logs them, once.
type edge struct {
	log  *slog.Logger
	gate *gate
}

func (e edge) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (resp any, err error) {
	start := time.Now()
	defer func() { err = e.done(ctx, info.FullMethod, start, recover(), err) }()
	_ = grpc.SetHeader(ctx, metadata.Pairs(versionHeader, Version))
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, callTimeout)
		defer cancel()
	}
	ctx, in, err := e.gate.enter(ctx, info.FullMethod)
	if err != nil {
		return nil, err
	}
	if err := e.gate.read(ctx, in, req); err != nil {
		return nil, err
	}
	err = e.audited(ctx, in, func(ctx context.Context) (err error) {
		if err := Validate(req); err != nil {
			return err
		}
		if resp, err = next(ctx, req); err == nil {
			answered(ctx, resp)
			resp = shown(in.principal, resp)
		}
		return err
	})
	return resp, err
}

// shown is an answer as the caller may see it: secrets are for services and
// admins.
func shown(caller auth.Principal, answer any) any {
	m, ok := answer.(proto.Message)
	if !ok || caller.SeesSecrets() {
		return answer
	}
	return withoutSecrets(m)
}

// audited does what a call asks for and tells the audit log before and
// afterwards, when it changes something.
func (e edge) audited(ctx context.Context, in *entrance, do func(ctx context.Context) error) (err error) {
	if !in.changes() {
		return e.gate.left(ctx, in, do(ctx))
	}
	ctx, end, err := e.gate.audit.begin(ctx, in.call)
	if err != nil {
		return err
	}
	ended := false
	defer func() {
		if !ended { // it panics, and goes on to
			end(internal(nil))
		}
	}()
	err = do(ctx)
	ended = true
	end(clientError(ctx, err))
	return err
}

func (e edge) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, next grpc.StreamHandler) (err error) {
	start := time.Now()
	defer func() { err = e.done(ss.Context(), info.FullMethod, start, recover(), err) }()
	ctx, in, err := e.gate.enter(ss.Context(), info.FullMethod)
	if err != nil {
		return err
	}
	ctx, cancel := e.gate.watch(ctx, in)
	defer cancel()
	err = e.gate.left(ctx, in, next(srv, &letIn{ServerStream: ss, ctx: ctx, gate: e.gate, in: in}))
	if cause := context.Cause(ctx); errors.Is(cause, errs.Unauthenticated) {
		return cause
	}
	return err
}

// letIn is a stream whose caller is known. Every message that the client sends
// is checked.
type letIn struct {
	grpc.ServerStream
	ctx  context.Context
	gate *gate
	in   *entrance
}

func (l *letIn) Context() context.Context { return l.ctx }

func (l *letIn) SendMsg(m any) error { return l.ServerStream.SendMsg(shown(l.in.principal, m)) }

func (l *letIn) RecvMsg(m any) error {
	if err := l.ServerStream.RecvMsg(m); err != nil {
		return err
	}
	if err := l.gate.read(l.ctx, l.in, m); err != nil {
		return err
	}
	return Validate(m)
}

// unknown answers calls of methods that there are not; whoever may not call
// anything has been turned away before.
func unknown(any, grpc.ServerStream) error {
	return errs.New(errs.Unimplemented, "METHOD_UNKNOWN", "there is no such method here")
}

// versionHeader tells who asks which build answers.
const versionHeader = "nightshift-version"

// VersionOf is the build that answered a unary call with this header, or "".
func VersionOf(header metadata.MD) string {
	if v := header.Get(versionHeader); len(v) > 0 {
		return v[0]
	}
	return ""
}

// done turns what a handler did into what its client is told, and logs it.
func (e edge) done(ctx context.Context, method string, start time.Time, panicked any, err error) error {
	log := e.log.With("method", strings.TrimPrefix(method, "/"), "seconds", time.Since(start).Seconds())
	if panicked != nil {
		log.ErrorContext(ctx, "call panicked", "panic", fmt.Sprint(panicked), "stack", string(debug.Stack()))
		return internal(nil)
	}
	told := clientError(ctx, err)
	switch code := status.Code(told); code {
	case codes.OK:
		log.DebugContext(ctx, "call")
	case codes.Internal, codes.Unknown, codes.DataLoss:
		log.ErrorContext(ctx, "call failed", "error", err, "id", incident(told))
	case codes.Unavailable, codes.DeadlineExceeded, codes.ResourceExhausted:
		log.WarnContext(ctx, "call failed", "code", code.String(), "error", err)
	default:
		log.DebugContext(ctx, "call refused", "code", code.String(), "error", err)
	}
	return told
}

// clientError is what a client may know of an error: errors that were made for
// clients as they are, ends of contexts as such, anything else as INTERNAL
// with a number to find it in the log.
func clientError(ctx context.Context, err error) error {
	var e *errs.Error
	switch {
	case err == nil:
		return nil
	case errors.As(err, &e):
		if e.Kind() == errs.Internal || e.Kind() == errs.Kind(codes.Unknown) {
			return internal(err)
		}
		return e
	case errors.Is(err, context.DeadlineExceeded) || errors.Is(ctx.Err(), context.DeadlineExceeded):
		return errs.New(errs.DeadlineExceeded, "DEADLINE_EXCEEDED", "the call took longer than its deadline")
	case errors.Is(err, context.Canceled) || ctx.Err() != nil:
		return errs.New(errs.Canceled, "CANCELED", "the call was given up by its caller")
	case errors.Is(err, io.EOF):
		return nil
	}
	if st, ok := status.FromError(err); ok && st.Code() != codes.Unknown {
		return err
	}
	return internal(err)
}

func internal(cause error) error {
	id := rand.Text()[:12]
	return errs.New(errs.Internal, "INTERNAL", "something went wrong in this service; its log has the details under id %s", id).
		Meta("id", id).Wrap(cause)
}

// incident returns the number internal gave an error.
func incident(err error) string {
	var e *errs.Error
	if !errors.As(err, &e) {
		return ""
	}
	return e.MetaValue("id")
}

// Validate holds a message to the constraints in its proto. The error is
// INVALID_ARGUMENT with a violation per field.
func Validate(m any) error {
	msg, ok := m.(proto.Message)
	if !ok {
		return nil
	}
	if err := readable(msg); err != nil {
		return err
	}
	err := protovalidate.Validate(msg)
	if err == nil {
		return nil
	}
	var bad *protovalidate.ValidationError
	if !errors.As(err, &bad) {
		return fmt.Errorf("constraints of %s: %w", msg.ProtoReflect().Descriptor().FullName(), err)
	}
	out := errs.New(errs.InvalidArgument, "INVALID_REQUEST", "the request is not valid")
	for _, v := range bad.Violations {
		field := protovalidate.FieldPathString(v.Proto.GetField())
		if field == "" {
			field = string(msg.ProtoReflect().Descriptor().Name())
		}
		text := v.Proto.GetMessage()
		if text == "" {
			text = "violates " + v.Proto.GetRuleId()
		}
		out = out.Field(field, "%s", text)
	}
	return out
}

// ClientOptions are what every client of ours dials with: errors come back as
// those of errs, calls have a deadline, traces go along, connections are kept
// alive.
func ClientOptions() []grpc.DialOption {
	return []grpc.DialOption{
		// Or every connection first asks DNS for a TXT record with a configuration, and where only inside names resolve, as
		// in an internal container network, waits ten seconds for no answer.
		grpc.WithDisableServiceConfig(),
		// A name that stands for several replicas is all of them.
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`),
		grpc.WithStatsHandler(clientTelemetry()),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
		grpc.WithChainUnaryInterceptor(func(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			if _, ok := ctx.Deadline(); !ok {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, callTimeout)
				defer cancel()
			}
			return errs.FromStatus(invoke(ctx, method, req, reply, cc, opts...))
		}),
		grpc.WithChainStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, cc *grpc.ClientConn, method string, streamer grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			s, err := streamer(ctx, desc, cc, method, opts...)
			if err != nil {
				return nil, errs.FromStatus(err)
			}
			return clientStream{s}, nil
		}),
	}
}

type clientStream struct{ grpc.ClientStream }

func (c clientStream) RecvMsg(m any) error {
	err := c.ClientStream.RecvMsg(m)
	if errors.Is(err, io.EOF) {
		return err // the clean end, compared by identity everywhere
	}
	return errs.FromStatus(err)
}
