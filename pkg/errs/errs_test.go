package errs_test

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

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

// A status travels in headers, which hold little.
func TestLongErrorsAreCut(t *testing.T) {
	t.Parallel()
	e := errs.New(errs.InvalidArgument, "BAD", "it cannot be: %s", strings.Repeat("ä", 1000))
	for range 1000 {
		e = e.Field(strings.Repeat("ä", 9000), "%s", strings.Repeat("ä", 9000))
	}
	st := status.Convert(e)
	b, err := proto.Marshal(st.Proto())
	if err != nil || len(b) > 9000 || !utf8.ValidString(st.Message()) || !strings.HasSuffix(st.Message(), "ä…") {
		t.Errorf("%d bytes, %q (%v)", len(b), st.Message(), err)
	}
	var got *errs.Error
	if !errors.As(errs.FromStatus(st.Err()), &got) || errs.Reason(got) != "BAD" || len(got.Violations()) == 0 || !strings.HasPrefix(got.Violations()[0].Field, "ää") {
		t.Errorf("the far side has %v", got)
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
