// Package errs is the one error type of Nightshift. It survives the wire: what
// a handler returns on one side of an RPC satisfies the same errors.Is on the
// other, with its reason, its field violations and its retry delay.
//
// It exists so that nobody maps errors at every layer. It must not import
// anything else of ours.
package errs

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Domain is the ErrorInfo domain of every error this product makes.
const Domain = "nightshift.dev"

// Kind is a class of errors. It is itself an error, to be used as the target
// of errors.Is.
type Kind codes.Code

// The kinds, with the meaning of the gRPC codes of the same names.
const (
	InvalidArgument    = Kind(codes.InvalidArgument)
	NotFound           = Kind(codes.NotFound)
	AlreadyExists      = Kind(codes.AlreadyExists)
	Aborted            = Kind(codes.Aborted)
	FailedPrecondition = Kind(codes.FailedPrecondition)
	OutOfRange         = Kind(codes.OutOfRange)
	PermissionDenied   = Kind(codes.PermissionDenied)
	Unauthenticated    = Kind(codes.Unauthenticated)
	ResourceExhausted  = Kind(codes.ResourceExhausted)
	Unavailable        = Kind(codes.Unavailable)
	DeadlineExceeded   = Kind(codes.DeadlineExceeded)
	Canceled           = Kind(codes.Canceled)
	Unimplemented      = Kind(codes.Unimplemented)
	Internal           = Kind(codes.Internal)
)

// Error returns the kind's name.
func (k Kind) Error() string { return codes.Code(k).String() }

// Violation says what is wrong with one field of a request.
type Violation struct {
	// Field is the path of the field, such as job.schedule.
	Field string
	// Description says what is wrong and what would be right.
	Description string
}

// Error is an error with all that a caller, near or far, needs to act on it.
// Build it with New.
type Error struct {
	kind       Kind
	reason     string
	message    string
	meta       map[string]string
	violations []Violation
	retryAfter time.Duration
	cause      error
	// complete is set when message names the violations already, as that of
	// an error that came over the wire does.
	complete bool
}

// New returns an error of a kind. The reason is a constant for machines, in
// UPPER_SNAKE_CASE; the message is for people and reaches clients.
func New(kind Kind, reason, format string, args ...any) *Error {
	return &Error{kind: kind, reason: reason, message: fmt.Sprintf(format, args...)}
}

// Error returns the message, then each violation, then the cause.
func (e *Error) Error() string {
	s := e.public()
	if e.cause != nil {
		s += ": " + e.cause.Error()
	}
	return s
}

func (e *Error) public() string {
	if e.complete || len(e.violations) == 0 {
		return e.message
	}
	parts := make([]string, len(e.violations))
	for i, v := range e.violations {
		parts[i] = v.Field + ": " + v.Description
	}
	s := strings.Join(parts, "; ")
	if e.message != "" {
		s = e.message + ": " + s
	}
	return s
}

// Field adds what is wrong with one field and returns e.
func (e *Error) Field(path, format string, args ...any) *Error {
	e.violations = append(e.violations, Violation{Field: path, Description: fmt.Sprintf(format, args...)})
	return e
}

// Wrap keeps a cause for errors.Is, errors.As and the log, and returns e.
// Clients never see it.
func (e *Error) Wrap(cause error) *Error { e.cause = cause; return e }

// Meta adds a figure or name for machines and returns e.
func (e *Error) Meta(key, value string) *Error {
	if e.meta == nil {
		e.meta = map[string]string{}
	}
	e.meta[key] = value
	return e
}

// RetryAfter says when trying again can help and returns e.
func (e *Error) RetryAfter(d time.Duration) *Error { e.retryAfter = d; return e }

// Is reports whether target is e's kind.
func (e *Error) Is(target error) bool { k, ok := target.(Kind); return ok && k == e.kind }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.cause }

// Kind returns the class of the error.
func (e *Error) Kind() Kind { return e.kind }

// Violations returns what is wrong with which field.
func (e *Error) Violations() []Violation { return e.violations }

// What of an error goes over the wire, in bytes and violations. A status travels in
// headers, of which clients and proxies take 8 KiB or little more; one above that
// would be an error of the connection.
const (
	maxMessage     = 2000
	maxField       = 100
	maxDescription = 500
	maxViolations  = 10
)

// cut shortens a text to n bytes, at most.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n-len("…")], "") + "…"
}

// GRPCStatus is what goes over the wire: code, message, ErrorInfo, BadRequest
// and RetryInfo; never the cause. What is long is cut.
func (e *Error) GRPCStatus() *status.Status {
	st := status.New(codes.Code(e.kind), cut(e.public(), maxMessage))
	details := []protoadapt.MessageV1{&errdetails.ErrorInfo{Domain: Domain, Reason: e.reason, Metadata: e.meta}}
	if len(e.violations) > 0 {
		br := &errdetails.BadRequest{}
		for _, v := range e.violations[:min(len(e.violations), maxViolations)] {
			br.FieldViolations = append(br.FieldViolations, &errdetails.BadRequest_FieldViolation{Field: cut(v.Field, maxField), Description: cut(v.Description, maxDescription)})
		}
		details = append(details, br)
	}
	if e.retryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(e.retryAfter)})
	}
	if d, err := st.WithDetails(details...); err == nil {
		return d
	}
	return st // only for code OK, which no kind is
}

// FromStatus turns the error of an RPC back into an *Error. Errors that are no
// status, and nil, come back as they are.
func FromStatus(err error) error {
	if err == nil {
		return nil
	}
	if e := (*Error)(nil); errors.As(err, &e) {
		return err
	}
	st, ok := status.FromError(err)
	if !ok {
		return err
	}
	e := &Error{kind: Kind(st.Code()), message: st.Message(), complete: true}
	for _, d := range st.Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			e.reason = d.GetReason()
			e.meta = maps.Clone(d.GetMetadata())
		case *errdetails.BadRequest:
			for _, v := range d.GetFieldViolations() {
				e.violations = append(e.violations, Violation{Field: v.GetField(), Description: v.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.retryAfter = d.GetRetryDelay().AsDuration()
		}
	}
	return e
}

// Reason returns the reason of the first Error in err's tree, or "".
func Reason(err error) string {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.reason
	}
	return ""
}

// RetryDelay returns how long to wait before trying again, or 0 when err does
// not say.
func RetryDelay(err error) time.Duration {
	if e := (*Error)(nil); errors.As(err, &e) {
		return e.retryAfter
	}
	return 0
}

// MetaValue returns what Meta set, or "".
func (e *Error) MetaValue(key string) string { return e.meta[key] }
