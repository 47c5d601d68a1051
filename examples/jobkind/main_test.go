package main

import (
	"context"
	"log/slog"
	"net"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/job"
	"nightshift.dev/pkg/job/jobtest"
)

// A good host, one that refuses connections and one that cannot be a host: a
// run of all of them, through a real bus.
func TestRun(t *testing.T) {
	t.Parallel()
	nats := devtest.NATS(t)
	connect := func(service string) *bus.Bus {
		b, err := bus.Connect(t.Context(), bus.Config{Service: service, Options: nats.Options(), Log: slog.New(slog.DiscardHandler), Grace: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
		return b
	}
	worker, persistence := connect("certificates"), connect("persistence")
	runs := jobtest.New(persistence)
	conn := runs.Connect(t)
	job.Handle(&app.Env{Bus: worker, Log: slog.New(slog.DiscardHandler), Dial: func(string) grpc.ClientConnInterface { return conn }}, certificates)
	for _, b := range []*bus.Bus{worker, persistence} {
		done := make(chan error, 1)
		ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
		go func() { done <- b.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
	until(t, "the kind is handled", func() bool {
		kinds, err := bus.Handled[*jobv1.JobRequested](t.Context(), persistence)
		return err == nil && len(kinds) == 1
	})

	good := httptest.NewTLSServer(nil)
	defer good.Close()
	refusing, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	refusing.Close()
	hosts := []string{strings.TrimPrefix(good.URL, "https://"), refusing.Addr().String(), "no_host!"}
	if err := persistence.Publish(t.Context(), &jobv1.JobRequested{Trigger: &jobv1.Trigger{
		RunId: "certs/manual-1", Job: "certs", Kind: "certificates", Parameters: map[string]string{"hosts": strings.Join(hosts, ", ")}, MaxRetries: 2,
		Backoff: &jobv1.Backoff{Initial: durationpb.New(time.Millisecond)},
	}}); err != nil {
		t.Fatal(err)
	}
	until(t, "the run has ended", func() bool { return runs.Run("certs/manual-1").GetState() == runv1.RunState_RUN_STATE_PARTIAL })
	for i, want := range []struct {
		state    runv1.ScopeState
		attempts int
		says     string
	}{
		{runv1.ScopeState_SCOPE_STATE_SUCCEEDED, 1, ""},
		{runv1.ScopeState_SCOPE_STATE_FAILED, 3, "refused"},
		{runv1.ScopeState_SCOPE_STATE_FAILED, 1, "not the name of a host"},
	} {
		for _, s := range runs.Scopes("certs/manual-1") {
			if !(&job.Task{Scope: s.Planned.GetScope()}).IsPart(hosts[i]) {
				continue
			}
			if s.State != want.state || s.Attempts != want.attempts || !strings.Contains(s.Error, want.says) {
				t.Errorf("%s: %+v", hosts[i], s)
			}
			if i == 0 && (s.Progress.GetCounts()["checked"] != 1 || s.Progress.GetCounts()["expiring"] != 0) {
				t.Errorf("counts are %v", s.Progress.GetCounts())
			}
		}
	}
}

func TestParametersThatCannotBe(t *testing.T) {
	t.Parallel()
	for _, p := range []map[string]string{nil, {"hosts": " , "}, {"hosts": "a", "days": "x"}, {"hosts": "a", "days": "0"}} {
		if _, err := plan(t.Context(), &jobv1.Trigger{Parameters: p}); err == nil || job.MayPass(err) {
			t.Errorf("%v: error is %v", p, err)
		}
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
