package job

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime/debug"
	"strings"
	"time"
	"unicode/utf8"

	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/errs"
)

// Permanent marks an error that trying again does not help against. Nil stays
// nil.
func Permanent(err error) error {
	if err == nil {
		return nil
	}
	return permanent{err}
}

type permanent struct{ error }

func (p permanent) Unwrap() error   { return p.error }
func (p permanent) Permanent() bool { return true }

// Await is for the errors of other services that the work asks: of one that is
// away, slow or overloaded it makes an error that has the work done again in 5
// to 15 seconds, which counts as no failure of it. Other errors come back as
// they are. Persistence gives a scope up that began 10 times in vain.
func Await(err error) error {
	for _, away := range []error{
		errs.Unavailable, errs.DeadlineExceeded, errs.ResourceExhausted, errs.Canceled, context.DeadlineExceeded, context.Canceled,
	} {
		if errors.Is(err, away) {
			return awaited{err}
		}
	}
	return err
}

type awaited struct{ error }

func (a awaited) Unwrap() error { return a.error }

// await is the verdict on an error of persistence.
func await(err error) error {
	if err = Await(err); errors.As(err, new(awaited)) {
		return later(awaitDelay(), err)
	}
	if errors.Is(err, errs.InvalidArgument) || errors.Is(err, errs.NotFound) {
		return bus.Drop(err)
	}
	return later(time.Minute, err)
}

func awaitDelay() time.Duration { return 5*time.Second + rand.N(10*time.Second) }

// later has the message come back, with the reason in the log.
func later(d time.Duration, why error) error { return fmt.Errorf("%w: %w", bus.Later(d), why) }

// MayPass tells whether trying again can help against an error, by the table in
// the package's comment. Nil cannot pass.
func MayPass(err error) bool {
	if err == nil {
		return false
	}
	var says interface{ Permanent() bool }
	if errors.As(err, &says) {
		return !says.Permanent()
	}
	if e := (*errs.Error)(nil); errors.As(errs.FromStatus(err), &e) {
		switch e.Kind() {
		case errs.InvalidArgument, errs.NotFound, errs.AlreadyExists, errs.PermissionDenied, errs.Unauthenticated,
			errs.FailedPrecondition, errs.OutOfRange, errs.Unimplemented:
			return false
		}
	}
	return true
}

// mayPass is MayPass as the kind sees it. Panics and the time limit are ours.
func (w *worker) mayPass(err error) bool {
	switch {
	case err == nil, errors.As(err, new(permanent)):
		return false
	case errors.As(err, new(*panicked)), errs.Reason(err) == reasonTimeout:
		return true
	}
	return w.kind.MayPass(err)
}

// panicked is a panic as an error. The value is for the log only.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return "internal error, see the log" }

// Causes for which a handler's context ends.
var (
	errUnwanted = errors.New("the scope is not wanted any more")
	errStalled  = errors.New("the handler has shown no progress")
)

const reasonTimeout = "TIME_LIMIT"

func timeLimit(allowed time.Duration) error {
	return errs.New(errs.DeadlineExceeded, reasonTimeout, "not done within the %s allowed", allowed)
}

// guarded calls f, which must not be trusted to return: when its context has
// ended and it does not within patience, it is left alone, and the cause is
// returned with false. A panic is an error.
func guarded(ctx context.Context, patience func() time.Duration, f func(context.Context) error) (err error, returned bool) {
	done := make(chan error, 1)
	go func() {
		err := errors.New("the handler ended its goroutine")
		defer func() {
			if v := recover(); v != nil {
				err = &panicked{v, debug.Stack()}
			}
			done <- err
		}()
		err = f(ctx)
	}()
	select {
	case err := <-done:
		return err, true
	case <-ctx.Done():
	}
	t := time.NewTimer(patience())
	defer t.Stop()
	select {
	case err := <-done:
		return err, true
	case <-t.C:
		return context.Cause(ctx), false
	}
}

// maxText bounds an error that is stored, in bytes.
const maxText = 4096

// text makes an error fit for protobuf and Postgres: valid UTF-8 without NUL,
// bounded, and not empty.
func text(err error) string {
	s := strings.ReplaceAll(strings.ToValidUTF8(err.Error(), "\uFFFD"), "\x00", "\uFFFD")
	if s == "" {
		return "failed without saying why"
	}
	if len(s) <= maxText {
		return s
	}
	n := maxText - len("…")
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n] + "…"
}
