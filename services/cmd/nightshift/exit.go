package main

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/errs"
)

// The exit codes. Of several reasons the one further up in exitHelp's order
// counts: an error before findings, findings before what could not be seen.
const (
	exitOK       = 0
	exitError    = 1
	exitUsage    = 2
	exitFindings = 3
	exitPartial  = 6
)

const exitHelp = `Exit codes:
  0  everything is well
  1  something failed: a call, a service, a run
  2  wrong usage, or a request that is not valid
  3  there are findings at or above --fail-on; counts before 6
  6  not everything could be seen, or not to the end`

// exit ends the program with a code other than an error's own. It is an error
// so that commands return it; its text, if any, goes to stderr.
type exit struct {
	code int
	text string
}

func (e *exit) Error() string { return e.text }

// usage is an error that the person at the keyboard made.
func usage(format string, args ...any) error {
	return &exit{exitUsage, fmt.Sprintf(format, args...)}
}

// hint is an error with advice on what to do now.
type hint struct {
	error
	advice string
}

func (h hint) Unwrap() error { return h.error }

// finish says what went wrong and returns the exit code.
func (c *cli) finish(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	var (
		e      *exit
		served *errs.Error
		cloud  *aws.Error
		code   = exitError
		text   = err.Error()
	)
	switch {
	case errors.As(err, &e):
		code = e.code
		if e.text == "" {
			return code
		}
	case !c.started: // cobra's own: a command or flag that does not exist
		code = exitUsage
		at := hint{advice: "Try \"nightshift --help\"."}
		_ = errors.As(err, &at)
		text = strings.ReplaceAll(text, "\n\n", "\n") + "\n" + at.advice
		err = nil // its advice is said
	case errors.As(err, new(*unanswered)):
	case errors.As(err, &served):
		if served.Kind() == errs.InvalidArgument || served.Kind() == errs.OutOfRange {
			code = exitUsage
		}
		text = violations(served, text)
	case errors.As(err, &cloud):
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		text = "interrupted"
	}
	if e == nil && c.limited != nil && errors.Is(context.Cause(c.limited), errTimeout) {
		text = errTimeout.Error()
	}
	if h := (hint{}); errors.As(err, &h) && h.advice != "" {
		text += "\n" + h.advice
	}
	c.sayError(text)
	return code
}

// violations puts what is wrong with which field on lines of its own.
func violations(e *errs.Error, text string) string {
	vs := e.Violations()
	if len(vs) == 0 {
		return text
	}
	lines := make([]string, len(vs))
	for i, v := range vs {
		lines[i] = v.Field + ": " + v.Description
	}
	head, _, ok := strings.Cut(text, lines[0])
	if !ok {
		head = text
	}
	return strings.TrimRight(head, ": ") + "\n  " + strings.Join(lines, "\n  ")
}

// sayError puts an error on stderr; foreign text in it is made harmless.
func (c *cli) sayError(text string) {
	for i, line := range strings.Split(text, "\n") {
		if i == 0 {
			c.say("%s %s", c.errPaint(red, "nightshift:"), clean(line))
			continue
		}
		c.say("  %s", clean(line))
	}
}

// dialing is how gRPC wraps the error of a connection that failed.
var dialing = regexp.MustCompile(`transport: Error while dialing: (.+?)"?$`)

// unanswered is an error of a call that found nobody, in our words.
type unanswered struct {
	text string
	err  error
}

func (u *unanswered) Error() string { return u.text }
func (u *unanswered) Unwrap() error { return u.err }

// unreachable explains a call that found nobody.
func (c *cli) unreachable(service, addr, source string, err error) error {
	if !errors.Is(err, errs.Unavailable) && !errors.Is(err, errs.DeadlineExceeded) {
		return err
	}
	why := err.Error()
	if m := dialing.FindStringSubmatch(why); m != nil {
		why = m[1]
	}
	return hint{&unanswered{fmt.Sprintf("%s does not answer at %s (%s): %s", service, addr, source, why), err},
		fmt.Sprintf("Is it running? \"nightshift up\" starts everything; --addr %s=HOST:PORT or %s says where it is.",
			service, app.AddrVar(service))}
}
