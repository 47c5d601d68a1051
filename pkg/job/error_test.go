package job_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/job"
)

// The table of the package's comment.
func TestMayPass(t *testing.T) {
	t.Parallel()
	plain := errors.New("connection reset")
	for _, c := range []struct {
		err  error
		want bool
	}{
		{nil, false},
		{plain, true},
		{context.DeadlineExceeded, true},
		{context.Canceled, true},
		{job.Permanent(plain), false},
		{fmt.Errorf("wrapped: %w", job.Permanent(plain)), false},
		{job.Permanent(errs.New(errs.Unavailable, "X", "x")), false},
		{job.Permanent(nil), false},
		{errs.New(errs.InvalidArgument, "X", "x"), false},
		{errs.New(errs.NotFound, "X", "x"), false},
		{errs.New(errs.AlreadyExists, "X", "x"), false},
		{errs.New(errs.PermissionDenied, "X", "x"), false},
		{errs.New(errs.Unauthenticated, "X", "x"), false},
		{errs.New(errs.FailedPrecondition, "X", "x"), false},
		{errs.New(errs.OutOfRange, "X", "x"), false},
		{errs.New(errs.Unimplemented, "X", "x"), false},
		{errs.New(errs.Unavailable, "X", "x"), true},
		{errs.New(errs.DeadlineExceeded, "X", "x"), true},
		{errs.New(errs.ResourceExhausted, "X", "x"), true},
		{errs.New(errs.Aborted, "X", "x"), true},
		{errs.New(errs.Canceled, "X", "x"), true},
		{errs.New(errs.Internal, "X", "x"), true},
		{errs.New(errs.Kind(codes.Unknown), "X", "x"), true},
		{errs.New(errs.Kind(codes.DataLoss), "X", "x"), true},
		{fmt.Errorf("wrapped: %w", errs.New(errs.NotFound, "X", "x")), false},
		{errs.New(errs.Unavailable, "X", "x").Wrap(errs.New(errs.NotFound, "X", "x")), true},
		{status.Error(codes.PermissionDenied, "x"), false},
		{fmt.Errorf("wrapped: %w", status.Error(codes.NotFound, "x")), false},
		{status.Error(codes.Unavailable, "x"), true},
		{&aws.Error{Class: aws.Denied}, false},
		{&aws.Error{Class: aws.RegionDisabled}, false},
		{&aws.Error{Class: aws.Credentials}, false},
		{&aws.Error{Class: aws.Throttled}, true},
		{&aws.Error{Class: aws.Unreachable}, true},
		{&aws.Error{Class: aws.Canceled}, true},
		{&aws.Error{Class: aws.Failed}, true},
	} {
		if got := job.MayPass(c.err); got != c.want {
			t.Errorf("%v may pass: %v, want %v", c.err, got, c.want)
		}
	}
}

func TestAwaitKeepsOtherErrors(t *testing.T) {
	t.Parallel()
	for _, err := range []error{nil, errors.New("x"), errs.New(errs.NotFound, "X", "x"), errs.New(errs.Internal, "X", "x")} {
		if got := job.Await(err); got != err {
			t.Errorf("of %v it made %v", err, got)
		}
	}
	away := errs.New(errs.Unavailable, "X", "x")
	if got := job.Await(away); got == error(away) || !errors.Is(got, errs.Unavailable) {
		t.Errorf("of %v it made %v", away, got)
	}
}

func TestPartsHaveNamesOfTheirOwn(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, name := range []string{"a", "-", "eu-west-1", "example.com", "example-com", "Example.com", "", "ünïcode", "../..", strings.Repeat("x", 63), strings.Repeat("x", 64), strings.Repeat("x", 65), "a\x00b"} {
		r := job.Part(name).GetScope().GetRegion()
		if other, taken := seen[r]; taken {
			t.Errorf("%q and %q are both %q", name, other, r)
		}
		seen[r] = name
		if len(r) < 1 || len(r) > 63 || strings.Trim(r, "abcdefghijklmnopqrstuvwxyz0123456789-") != "" {
			t.Errorf("%q became %q", name, r)
		}
		if task := (&job.Task{Scope: job.Part(name).GetScope()}); !task.IsPart(name) || task.IsPart(name+"x") {
			t.Errorf("%q is not known again", name)
		}
	}
}
