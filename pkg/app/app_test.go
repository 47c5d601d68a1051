package app_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"
	reflectionv1 "google.golang.org/grpc/reflection/grpc_reflection_v1"

	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// jobs is a service whose answers depend on the job's name.
type jobs struct {
	jobv1.UnimplementedJobServiceServer
	run    func(ctx context.Context) error
	closed chan struct{}
}

func (j *jobs) Close() error {
	if j.closed != nil {
		close(j.closed)
	}
	return nil
}

func (j *jobs) Register(s grpc.ServiceRegistrar) { jobv1.RegisterJobServiceServer(s, j) }

func (j *jobs) Run(ctx context.Context) error {
	if j.run != nil {
		return j.run(ctx)
	}
	<-ctx.Done()
	return nil
}

func (j *jobs) GetJob(ctx context.Context, req *jobv1.GetJobRequest) (*jobv1.GetJobResponse, error) {
	switch req.GetName() {
	case "panic":
		panic("secret of the service")
	case "unknown":
		return nil, errors.New("secret of the service")
	case "missing":
		return nil, errs.New(errs.NotFound, "JOB_NOT_FOUND", "no job %q", req.GetName()).Wrap(errors.New("secret of the service"))
	case "slow":
		<-ctx.Done()
		return nil, ctx.Err()
	}
	_, bounded := ctx.Deadline()
	return &jobv1.GetJobResponse{Job: &jobv1.Job{Name: req.GetName(), Paused: bounded}}, nil
}

type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

func define(name string, s app.Service) app.Definition {
	return app.Definition{Name: name, Summary: "a test", New: func(context.Context, *app.Env) (app.Service, error) { return s, nil }}
}

func options(t *testing.T, defs ...app.Definition) (app.Options, *buffer) {
	t.Helper()
	nats := devtest.NATS(t)
	log := &buffer{}
	return app.Options{
		Definitions: defs,
		Listen:      func(string) string { return "127.0.0.1:0" },
		Bus:         bus.Config{Options: nats.Options()},
		Lookup:      func(string) (string, bool) { return "", false },
		Log:         slog.New(slog.NewJSONHandler(log, nil)),
		StopTimeout: 3 * time.Second,
	}, log
}

// start runs a host until the test ends and wants it to end well.
func start(t *testing.T, opts app.Options) *app.Host {
	t.Helper()
	h, err := app.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("the host ended with %v", err)
		}
	})
	return h
}

func dial(t *testing.T, addr string) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(addr, append(app.ClientOptions(), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestCallsInMemoryAndOverTheNetwork(t *testing.T) {
	t.Parallel()
	opts, log := options(t, define("scheduler", &jobs{}))
	h := start(t, opts)
	for name, conn := range map[string]grpc.ClientConnInterface{"memory": h.Dial("scheduler"), "network": dial(t, h.Addr("scheduler"))} {
		c := jobv1.NewJobServiceClient(conn)
		get := func(job string) (*jobv1.GetJobResponse, error) {
			return c.GetJob(t.Context(), &jobv1.GetJobRequest{Name: job})
		}
		if r, err := get("fine"); err != nil || r.GetJob().GetName() != "fine" || !r.GetJob().GetPaused() {
			t.Errorf("%s: %v %v; and the call must have a deadline", name, r, err)
		}
		if _, err := get("missing"); !errors.Is(err, errs.NotFound) || errs.Reason(err) != "JOB_NOT_FOUND" || err.Error() != `no job "missing"` {
			t.Errorf("%s: %v (%s)", name, err, errs.Reason(err))
		}
		for _, bad := range []string{"panic", "unknown"} {
			_, err := get(bad)
			if !errors.Is(err, errs.Internal) || errs.Reason(err) != "INTERNAL" || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s, %s: %v", name, bad, err)
			}
		}
		_, err := get("")
		var e *errs.Error
		if !errors.As(err, &e) || !errors.Is(err, errs.InvalidArgument) || len(e.Violations()) != 1 || e.Violations()[0].Field != "name" {
			t.Errorf("%s: an empty name: %v", name, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		if _, err := c.GetJob(ctx, &jobv1.GetJobRequest{Name: "slow"}); !errors.Is(err, errs.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
		if _, err := c.ListJobs(t.Context(), &jobv1.ListJobsRequest{}); !errors.Is(err, errs.Unimplemented) {
			t.Errorf("%s: an RPC that is not there: %v", name, err)
		}
		long := metadata.AppendToOutgoingContext(t.Context(), "x", "y")
		if _, err := c.CreateJob(long, &jobv1.CreateJobRequest{Job: &jobv1.Job{Name: "big", Kind: "x", Schedule: "x", Description: strings.Repeat("x", 5<<20)}}); !errors.Is(err, errs.ResourceExhausted) {
			t.Errorf("%s: a message above the limit: %v", name, err)
		}
	}
	if got := strings.Count(log.String(), "secret of the service"); got < 4 {
		t.Errorf("the log names the cause of %d failures of 4:\n%s", got, log.String())
	}
}

func TestHealthAndReflection(t *testing.T) {
	t.Parallel()
	opts, _ := options(t, define("scheduler", &jobs{}))
	h := start(t, opts)
	conn := dial(t, h.Addr("scheduler"))
	health := healthv1.NewHealthClient(conn)
	for _, service := range []string{"", "nightshift.job.v1.JobService"} {
		w, err := health.Watch(t.Context(), &healthv1.HealthCheckRequest{Service: service})
		if err != nil {
			t.Fatal(err)
		}
		for {
			r, err := w.Recv()
			if err != nil {
				t.Fatalf("%q: %v", service, err)
			}
			if r.GetStatus() == healthv1.HealthCheckResponse_SERVING {
				break
			}
		}
	}
	r, err := reflectionv1.NewServerReflectionClient(conn).ServerReflectionInfo(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Send(&reflectionv1.ServerReflectionRequest{MessageRequest: &reflectionv1.ServerReflectionRequest_ListServices{}}); err != nil {
		t.Fatal(err)
	}
	resp, err := r.Recv()
	if err != nil || !strings.Contains(resp.String(), "nightshift.job.v1.JobService") {
		t.Errorf("%v %v", resp, err)
	}
	_ = r.CloseSend()
	if _, err := r.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("%v", err)
	}
}

func TestAFailingServiceStopsAll(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken")
	for name, run := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return broken },
		"panic": func(context.Context) error { panic("broken") },
	} {
		opts, _ := options(t, define("scheduler", &jobs{}), define("waste", &jobs{run: run}))
		h, err := app.Start(t.Context(), opts)
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "waste: ") || !strings.Contains(err.Error(), "broken") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestAFailedStartLeavesNothing(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	_ = l.Close()
	bad := define("waste", nil)
	bad.New = func(context.Context, *app.Env) (app.Service, error) { return nil, errors.New("no database") }
	opts, _ := options(t, define("scheduler", &jobs{}), bad)
	opts.Listen = func(s string) string {
		if s == "scheduler" {
			return addr
		}
		return "127.0.0.1:0"
	}
	if _, err := app.Start(t.Context(), opts); err == nil || err.Error() != "waste: no database" {
		t.Errorf("%v", err)
	}
	again, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("the port is still taken: %v", err)
	}
	_ = again.Close()
}

func TestAServiceIsClosedLast(t *testing.T) {
	t.Parallel()
	s := &jobs{closed: make(chan struct{})}
	opts, _ := options(t, define("scheduler", s))
	h, err := app.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := h.Run(ctx); err != nil {
		t.Errorf("%v", err)
	}
	select {
	case <-s.closed:
	default:
		t.Error("it was not closed")
	}
}

func TestWorkInHandIsCutOff(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	opts, log := options(t, define("scheduler", &jobs{run: func(ctx context.Context) error {
		<-release // deaf to ctx
		return nil
	}}))
	t.Cleanup(func() { close(release) })
	opts.StopTimeout = 50 * time.Millisecond
	h, err := app.Start(t.Context(), opts)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := h.Run(ctx); err != nil {
		t.Errorf("%v", err)
	}
	if !strings.Contains(log.String(), "cut off") {
		t.Errorf("the log does not say so:\n%s", log.String())
	}
}

// A service that is not one of Nightshift's listens at the port of its
// definition, and whoever calls it says where it is.
func TestServiceOfAnotherTeam(t *testing.T) {
	t.Parallel()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := free.Addr().(*net.TCPAddr).Port
	free.Close()
	def := define("certificates", app.Handlers{})
	def.Port = port
	opts, _ := options(t, def)
	opts.Listen = nil
	h := start(t, opts)
	if got, want := h.Addr("certificates"), fmt.Sprintf("127.0.0.1:%d", port); got != want {
		t.Errorf("listens at %s, want %s", got, want)
	}
	get := func(service string) error {
		_, err := healthv1.NewHealthClient(h.Dial(service)).Check(t.Context(), &healthv1.HealthCheckRequest{})
		return err
	}
	if err := get("certificates"); err != nil {
		t.Error(err)
	}
	if err := get("elsewhere"); err == nil || !strings.Contains(err.Error(), "NIGHTSHIFT_ELSEWHERE_ADDR") {
		t.Errorf("a service nobody knows: %v", err)
	}
}

func TestDialSaysWhatIsWrongWithAnAddress(t *testing.T) {
	t.Parallel()
	opts, _ := options(t, define("scheduler", &jobs{}))
	opts.Lookup = func(name string) (string, bool) { return "dns:///:::bad:::", name == "NIGHTSHIFT_PERSISTENCE_ADDR" }
	h := start(t, opts)
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	_, err := jobv1.NewJobServiceClient(h.Dial("persistence")).GetJob(ctx, &jobv1.GetJobRequest{Name: "x"})
	if err == nil {
		t.Fatal("no error")
	}
}
