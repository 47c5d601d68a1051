package main

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/simaws"
)

// program is the program as a process of its own, without AWS credentials.
func program(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, os.Args[0], args...)
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, "AWS_") || strings.HasPrefix(v, "NIGHTSHIFT_") || strings.HasPrefix(v, "DATABASE_URL=") || strings.HasPrefix(v, "NATS_URL=")
	}), asProgram+"=1", "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null", "NIGHTSHIFT_LOG_LEVEL=debug")
	return cmd
}

// home is a data directory that the user of Postgres can reach, too.
func home(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nightshift-up-") //nolint:usetesting // t.TempDir is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "data")
}

// once runs "up --once" in a process and returns the findings it printed.
func once(ctx context.Context, t *testing.T, dir string, args ...string) map[string]*finding {
	t.Helper()
	var out, errs safeBuffer
	cmd := program(ctx, append([]string{"up", "--once", "--data-dir", dir, "-o", "jsonl"}, args...)...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("up --once: %v\n%s\n%s", err, errs.String(), logOf(dir))
	}
	found := map[string]*finding{}
	for line := range strings.Lines(out.String()) {
		var f finding
		if err := json.Unmarshal([]byte(line), &f); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		found[f.RuleID+" "+f.Resource.ARN] = &f
	}
	return found
}

type finding struct {
	ID          string `json:"id"`
	RuleID      string `json:"rule_id"`
	State       string `json:"state"`
	FirstSeen   string `json:"first_seen"`
	LastSeen    string `json:"last_seen"`
	Etag        string `json:"etag"`
	MonthlyCost *struct{ Low, High float64 }
	Resource    struct {
		ARN string `json:"arn"`
	} `json:"resource"`
}

func logOf(dir string) string {
	b, _ := os.ReadFile(filepath.Join(dir, "nightshift.log"))
	return string(b[max(0, len(b)-8000):])
}

// wantTruth compares findings with the truth of the directory's estate.
func wantTruth(t *testing.T, dir string, found map[string]*finding) {
	t.Helper()
	e, err := simaws.Load(filepath.Join(dir, "estate.json"))
	if err != nil {
		t.Fatal(err)
	}
	want, rules := 0, map[string]bool{}
	for _, x := range truth(e) {
		rules[x.RuleID] = true
		if x.Outcome != simaws.Violation {
			continue
		}
		want++
		f := found[x.RuleID+" "+x.ARN]
		if f == nil {
			t.Errorf("%s %s was not found: %s", x.RuleID, x.ARN, x.Why)
		} else if (f.State == "EXEMPT") != x.Exempt {
			t.Errorf("%s %s is %s, want exempt %v: %s", x.RuleID, x.ARN, f.State, x.Exempt, x.Why)
		}
	}
	known := 0 // findings of rules that the estates know
	for key := range found {
		if id, _, _ := strings.Cut(key, " "); rules[id] {
			known++
		}
	}
	if want == 0 || known != want {
		t.Errorf("%d findings, want %d", known, want)
	}
}

// gone waits until no process has dir in its command line.
func gone(ctx context.Context, t *testing.T, dir string) {
	t.Helper()
	for {
		var left []string
		entries, _ := os.ReadDir("/proc")
		for _, e := range entries {
			if _, err := strconv.Atoi(e.Name()); err != nil {
				continue
			}
			if b, err := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline")); err == nil && strings.Contains(string(b), dir) {
				left = append(left, e.Name()+" "+strings.ReplaceAll(string(b), "\x00", " "))
			}
		}
		if len(left) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatalf("processes are left:\n%s", strings.Join(left, "\n"))
		case <-time.After(20 * time.Millisecond):
		}
	}
}

func TestOnceAndOnceMore(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	dir := home(t)
	first := once(ctx, t, dir, "--demo", "--seed", "7")
	wantTruth(t, dir, first)
	gone(ctx, t, dir)

	second := once(ctx, t, dir)
	wantTruth(t, dir, second)
	for key, a := range first {
		b := second[key]
		if b == nil {
			continue // wantTruth has said so
		}
		if a.ID != b.ID || a.FirstSeen != b.FirstSeen || a.Etag != b.Etag || a.LastSeen == b.LastSeen {
			t.Errorf("%s: the second start made %+v of %+v", key, b, a)
		}
	}

	// The directory stays what it is, and belongs to one at a time.
	var errs safeBuffer
	cmd := program(ctx, "up", "--once", "--data-dir", dir, "--seed", "8")
	cmd.Stderr = &errs
	if err := cmd.Run(); exitCode(err) != exitUsage || !strings.Contains(errs.String(), "holds the estate of seed 7") {
		t.Errorf("another seed: %v, %s", err, errs.String())
	}
	gone(ctx, t, dir)

	// And again, in the foreground.
	up := startUp(ctx, t, dir, "--port-base", "0", "--nats-port", "0")
	up.ready(ctx, t)
	errs = safeBuffer{}
	cmd = program(ctx, "up", "--data-dir", dir)
	cmd.Stderr = &errs
	if err := cmd.Run(); exitCode(err) != exitError || !strings.Contains(errs.String(), "is in use by process "+strconv.Itoa(up.cmd.Process.Pid)) {
		t.Errorf("a second one on the same directory: %v, %s", err, errs.String())
	}
	// One transition for each finding after two runs and three starts.
	api := findingv1.NewFindingServiceClient(up.dial(t, "persistence"))
	for key, f := range first {
		r, err := api.ListTransitions(ctx, &findingv1.ListTransitionsRequest{FindingId: f.ID})
		want := findingv1.TransitionKind_TRANSITION_KIND_OPENED
		if f.State == "EXEMPT" {
			want = findingv1.TransitionKind_TRANSITION_KIND_EXEMPTED
		}
		if err != nil || len(r.GetTransitions()) != 1 || r.GetTransitions()[0].GetKind() != want {
			t.Errorf("%s: %v, %v", key, err, r.GetTransitions())
		}
	}
	// The CLI finds it by its directory.
	out, err := program(ctx, "runs", "list", "--data-dir", dir, "-o", "jsonl").Output()
	if n := strings.Count(string(out), "\n"); err != nil || n == 0 || n%2 != 0 || strings.Count(string(out), `"state":"SUCCEEDED"`) != n {
		t.Errorf("%v: %s", err, out)
	}

	pressed := time.Now()
	if err := up.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-up.done
	if took := time.Since(pressed); took > 5*time.Second || up.err != nil {
		t.Errorf("Ctrl-C took %s and ended with %v\n%s", took, up.err, up.stderr.String())
	}
	gone(ctx, t, dir)
	if _, err := os.Stat(filepath.Join(dir, endpointsFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the addresses are left: %v", err)
	}
}

func exitCode(err error) int {
	if e, ok := errors.AsType[*exec.ExitError](err); ok {
		return e.ExitCode()
	}
	return 0
}

// running is an "up" in the foreground.
type running struct {
	cmd            *exec.Cmd
	dir            string
	stdout, stderr safeBuffer
	done           chan struct{}
	err            error
}

func startUp(ctx context.Context, t *testing.T, dir string, args ...string) *running {
	t.Helper()
	u := &running{cmd: program(ctx, append([]string{"up", "--data-dir", dir}, args...)...), dir: dir, done: make(chan struct{})}
	u.cmd.Stdout, u.cmd.Stderr = &u.stdout, &u.stderr
	if err := u.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { u.err = u.cmd.Wait(); close(u.done) }()
	t.Cleanup(func() { _ = u.cmd.Process.Kill(); <-u.done })
	return u
}

// await polls the other process.
func (u *running) await(ctx context.Context, t *testing.T, what string, yes func() bool) {
	t.Helper()
	for !yes() {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-u.done:
			t.Fatalf("it ended before %s: %v\n%s\n%s", what, u.err, u.stderr.String(), logOf(u.dir))
		case <-ctx.Done():
			t.Fatalf("waited in vain for %s\n%s\n%s", what, u.stderr.String(), logOf(u.dir))
		}
	}
}

func (u *running) ready(ctx context.Context, t *testing.T) {
	t.Helper()
	u.await(ctx, t, "everything runs", func() bool { return strings.Contains(u.stderr.String(), "Everything runs.") })
}

func (u *running) dial(t *testing.T, service string) *grpc.ClientConn {
	t.Helper()
	e, err := readEndpoints(u.dir)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := grpc.NewClient(e.Services[service], grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithPerRPCCredentials(tokenIn(u.dir)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// tokenIn is the token that "up" leaves in its directory, once it is there.
type tokenIn string

func (dir tokenIn) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	b, err := os.ReadFile(filepath.Join(string(dir), tokenFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return map[string]string{"authorization": "Bearer " + strings.TrimSpace(string(b))}, err
}

func (tokenIn) RequireTransportSecurity() bool { return false }

// kill -9 in the middle of the first run, then start again: the run finishes,
// nothing is lost and nothing is there twice.
func TestKilledInTheMiddleOfARun(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	dir := home(t)
	up := startUp(ctx, t, dir, "--demo", "--seed", "3", "--resources", "2000", "--port-base", "0", "--nats-port", "0")
	up.await(ctx, t, "its addresses", func() bool { _, err := readEndpoints(dir); return err == nil })
	runs := runv1.NewRunServiceClient(up.dial(t, "persistence"))
	var run *runv1.Run
	up.await(ctx, t, "the middle of a run", func() bool {
		r, err := runs.ListRuns(ctx, &runv1.ListRunsRequest{})
		if err != nil || len(r.GetRuns()) == 0 {
			return false
		}
		run = r.GetRuns()[0]
		return run.GetScopes().GetSucceeded() > 0
	})
	if run.GetState() != runv1.RunState_RUN_STATE_RUNNING {
		t.Fatalf("the run was over too soon: %v", run)
	}
	if err := up.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-up.done
	gone(ctx, t, dir)

	again := startUp(ctx, t, dir, "--port-base", "0", "--nats-port", "0")
	again.ready(ctx, t)
	r, err := runv1.NewRunServiceClient(again.dial(t, "persistence")).ListRuns(ctx, &runv1.ListRunsRequest{})
	jobs := map[string]string{}
	for _, x := range r.GetRuns() {
		if jobs[x.GetJob()] != "" || x.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED {
			t.Errorf("run %s ended %s: %s", x.GetId(), x.GetState(), x.GetError())
		}
		jobs[x.GetJob()] = x.GetId()
	}
	if err != nil || jobs[run.GetJob()] != run.GetId() {
		t.Fatalf("%v: %v", err, r)
	}
	api := findingv1.NewFindingServiceClient(again.dial(t, "persistence"))
	found := map[string]*finding{}
	for token := ""; ; {
		page, err := api.ListFindings(ctx, &findingv1.ListFindingsRequest{PageSize: 1000, PageToken: token})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range page.GetFindings() {
			found[f.GetRuleId()+" "+f.GetResource().GetArn()] = &finding{ID: f.GetId(), State: name(f.GetState())}
			life, err := api.ListTransitions(ctx, &findingv1.ListTransitionsRequest{FindingId: f.GetId()})
			if err != nil || len(life.GetTransitions()) != 1 {
				t.Errorf("%s: %v, %v", f.GetId(), err, life.GetTransitions())
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	wantTruth(t, dir, found)
	if err := again.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-again.done
	if again.err != nil {
		t.Errorf("SIGTERM ended it with %v\n%s", again.err, again.stderr.String())
	}
	gone(ctx, t, dir)
}

// Without --demo and without credentials it says that it is a demo; a signal
// while it starts stops it as well.
func TestStopWhileStarting(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir := home(t)
	up := startUp(ctx, t, dir, "--port-base", "0", "--nats-port", "0")
	up.await(ctx, t, "the demo", func() bool { return strings.Contains(up.stderr.String(), "no AWS credentials were found") })
	pressed := time.Now()
	if err := up.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-up.done
	if took := time.Since(pressed); took > 5*time.Second || up.err != nil {
		t.Errorf("Ctrl-C took %s and ended with %v\n%s", took, up.err, up.stderr.String())
	}
	gone(ctx, t, dir)
}
