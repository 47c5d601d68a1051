package errs_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"nightshift.dev/pkg/errs"
)

func TestSurvivesTheWire(t *testing.T) {
	t.Parallel()
	sent := errs.New(errs.InvalidArgument, "BAD_JOB", "the job cannot be registered").
		Field("job.schedule", "%q is not a cron expression", "x").
		Field("job.name", "must not be empty").
		RetryAfter(3*time.Second).Meta("job", "x").Wrap(io.ErrUnexpectedEOF)
	if !errors.Is(sent, io.ErrUnexpectedEOF) {
		t.Error("the cause is lost on the near side")
	}
	// What grpc-go does with a returned error, and what the client gets.
	st := status.Convert(sent)
	if strings.Contains(st.Message(), "EOF") {
		t.Errorf("the cause leaked: %s", st.Message())
	}
	got := errs.FromStatus(st.Err())
	if !errors.Is(got, errs.InvalidArgument) || errors.Is(got, errs.NotFound) {
		t.Errorf("kind: %v", got)
	}
	if errs.Reason(got) != "BAD_JOB" || errs.RetryDelay(got) != 3*time.Second {
		t.Errorf("reason %q, delay %v", errs.Reason(got), errs.RetryDelay(got))
	}
	want := `the job cannot be registered: job.schedule: "x" is not a cron expression; job.name: must not be empty`
	if got.Error() != want {
		t.Errorf("message %q, want %q", got.Error(), want)
	}
	var e *errs.Error
	if !errors.As(got, &e) || len(e.Violations()) != 2 || e.Violations()[0].Field != "job.schedule" {
		t.Errorf("violations: %+v", e)
	}
	// A relay that returns the error again must not grow it.
	if again := errs.FromStatus(status.Convert(got).Err()); again.Error() != want || errs.Reason(again) != "BAD_JOB" {
		t.Errorf("relayed: %q", again.Error())
	}
}

func TestFromStatusLeavesOthersAlone(t *testing.T) {
	t.Parallel()
	if errs.FromStatus(nil) != nil {
		t.Error("nil became an error")
	}
	if !errors.Is(errs.FromStatus(io.EOF), io.EOF) {
		t.Error("io.EOF, the end of a stream, was changed")
	}
	if got := errs.FromStatus(status.Error(codes.Unavailable, "down")); !errors.Is(got, errs.Unavailable) {
		t.Errorf("plain status: %v", got)
	}
}
