package services_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"net"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services"
)

// The services as separate processes, two of each, on one NATS and one
// Postgres: what a deployment is. Each has a NATS user of its own, and none may
// do more there than it has to.
func TestSeparateBinaries(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	d := deploy(ctx, t)

	// One every-minute job: each planned time must make one run, although two
	// schedulers stand ready to fire it.
	jobs := jobv1.NewJobServiceClient(d.dial(t, "scheduler", 0))
	_, err := jobs.CreateJob(ctx, &jobv1.CreateJobRequest{Job: &jobv1.Job{
		Name: "every-minute", Kind: "waste", Schedule: "* * * * *", Parameters: map[string]string{"regions": "us-east-1", "rules": "ebs-unattached"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, job := range []string{"waste-scan", "security-scan"} {
		resp, err := jobs.RunJob(ctx, &jobv1.RunJobRequest{Name: job, RequestedBy: "test"})
		if err != nil {
			t.Fatal(err)
		}
		if run := d.await(ctx, t, resp.GetRunId()); run.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED {
			t.Fatalf("%s ended %s: %s", run.GetId(), run.GetState(), run.GetError())
		}
	}
	d.wantTruth(ctx, t)

	// A worker that is killed in the middle of its work loses it to the other.
	second, err := jobs.RunJob(ctx, &jobv1.RunJobRequest{Name: "waste-scan", RequestedBy: "test"})
	if err != nil {
		t.Fatal(err)
	}
	d.kill(t, "persistence", 1)
	if run := d.await(ctx, t, second.GetRunId()); run.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED || run.GetFindings().GetOpened() != 0 {
		t.Errorf("the second run ended %s and opened %d findings: %s", run.GetState(), run.GetFindings().GetOpened(), run.GetError())
	}
	d.wantTruth(ctx, t)

	// By now or soon the every-minute job has fired.
	runs := runv1.NewRunServiceClient(d.dial(t, "persistence", 0))
	var fired []*runv1.Run
	for len(fired) == 0 {
		list, err := runs.ListRuns(ctx, &runv1.ListRunsRequest{Filter: `job = "every-minute"`})
		if err != nil {
			t.Fatal(err)
		}
		fired = list.GetRuns()
		await(ctx, t, "the every-minute job to fire")
	}
	seen := map[string]bool{}
	for _, r := range fired {
		planned := r.GetPlannedTime().AsTime()
		if seen[r.GetId()] || planned.Second() != 0 || r.GetId() != "every-minute/"+planned.Format(time.RFC3339) {
			t.Errorf("run %s planned for %s", r.GetId(), planned)
		}
		seen[r.GetId()] = true
	}
	d.stop(t)
}

// await lets a poll of another process breathe and gives up with ctx.
func await(ctx context.Context, t *testing.T, what string) {
	t.Helper()
	select {
	case <-time.After(100 * time.Millisecond):
	case <-ctx.Done():
		t.Fatalf("waited in vain for %s", what)
	}
}

type deployment struct {
	estate *simaws.Estate
	begun  time.Time
	procs  map[string][]*process
}

type process struct {
	cmd  *exec.Cmd
	addr string
	log  *lockedBuffer
	done chan struct{}
	err  error
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}
func (l *lockedBuffer) String() string { l.mu.Lock(); defer l.mu.Unlock(); return l.b.String() }

// deploy builds the binaries and starts two of each.
func deploy(ctx context.Context, t *testing.T) *deployment {
	t.Helper()
	bin := t.TempDir()
	build := exec.CommandContext(ctx, "go", "build", "-o", bin+"/")
	for _, def := range services.All {
		build.Args = append(build.Args, "./cmd/"+def.Name)
	}
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}

	d := &deployment{begun: time.Now(), estate: simaws.Generate(simaws.Options{Seed: 11, Accounts: 2, Regions: 2, Resources: 400}), procs: map[string][]*process{}}
	cloud := httptest.NewServer(simaws.New(d.estate, simaws.Config{}))
	t.Cleanup(cloud.Close)
	passwords := map[string]string{}
	for _, u := range bus.Users() {
		passwords[u.Name] = rand.Text()
	}
	users, err := bus.ServerConfig(passwords)
	if err != nil {
		t.Fatal(err)
	}
	nats, err := devstack.NATS(devstack.NATSOptions{Listen: "127.0.0.1:0", Include: users})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	env := append(os.Environ(),
		"DATABASE_URL="+devtest.DB(t, nil), "NIGHTSHIFT_LOG_LEVEL=debug",
		"AWS_ENDPOINT_URL="+cloud.URL, "AWS_ACCESS_KEY_ID="+simaws.DemoAccessKey, "AWS_SECRET_ACCESS_KEY="+simaws.FakeSecret,
		"AWS_REGION=us-east-1", "AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	addrs := map[string][2]string{}
	for _, def := range services.All {
		addrs[def.Name] = [2]string{freeAddr(t), freeAddr(t)}
		env = append(env, def.AddrVar()+"="+addrs[def.Name][0])
	}
	for _, def := range services.All {
		for i := range 2 {
			p := &process{addr: addrs[def.Name][i], log: &lockedBuffer{}, done: make(chan struct{})}
			p.cmd = exec.Command(filepath.Join(bin, def.Name))
			p.cmd.Env = append(env[:len(env):len(env)], "NIGHTSHIFT_LISTEN="+p.addr, "NATS_URL="+strings.Replace(nats.URL(), "://", "://"+def.Name+":"+passwords[def.Name]+"@", 1))
			p.cmd.Stderr = p.log
			if err := p.cmd.Start(); err != nil {
				t.Fatal(err)
			}
			go func() { p.err = p.cmd.Wait(); close(p.done) }()
			t.Cleanup(func() {
				_ = p.cmd.Process.Kill()
				<-p.done
				for _, never := range []string{passwords[def.Name], "ermissions violation", "_REFUSED"} {
					if said := p.log.String(); strings.Contains(said, never) {
						t.Errorf("the log of %s %d has %q", def.Name, i, never)
					}
				}
				if t.Failed() {
					t.Logf("%s %d:\n%s", def.Name, i, tail(p.log.String(), 60))
				}
			})
			d.procs[def.Name] = append(d.procs[def.Name], p)
		}
	}
	accounts := accountv1.NewAccountServiceClient(d.dial(t, "persistence", 0))
	for _, a := range d.estate.Accounts {
		if a.State != "" && a.State != "ACTIVE" {
			continue
		}
		role := a.Roles[0]
		if _, err := accounts.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: &accountv1.Account{
			Id: a.ID, Name: a.Name, RoleArn: a.RoleARN(role.Name), ExternalId: role.ExternalID,
		}}, grpc.WaitForReady(true)); err != nil {
			t.Fatal(err)
		}
	}
	// A default job is there once a scheduler has seen who handles it.
	jobs := jobv1.NewJobServiceClient(d.dial(t, "scheduler", 0))
	for _, job := range []string{"waste-scan", "security-scan"} {
		for {
			if _, err := jobs.GetJob(ctx, &jobv1.GetJobRequest{Name: job}); err == nil {
				break
			}
			await(ctx, t, "the default job "+job)
		}
	}
	return d
}

func tail(s string, lines int) string {
	all := strings.Split(s, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

func freeAddr(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (d *deployment) dial(t *testing.T, service string, i int) *grpc.ClientConn {
	t.Helper()
	c, err := grpc.NewClient(d.procs[service][i].addr, append(app.ClientOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func (d *deployment) await(ctx context.Context, t *testing.T, run string) *runv1.Run {
	t.Helper()
	w, err := runv1.NewRunServiceClient(d.dial(t, "persistence", 0)).WatchRun(ctx, &runv1.WatchRunRequest{Id: run})
	if err != nil {
		t.Fatal(err)
	}
	for {
		r, err := w.Recv()
		if err != nil {
			t.Fatalf("watching %s: %v", run, err)
		}
		if r.GetRun().GetEndTime() != nil {
			return r.GetRun()
		}
	}
}

// wantTruth compares the open findings with what the estate holds.
func (d *deployment) wantTruth(ctx context.Context, t *testing.T) {
	t.Helper()
	// The youngest resources outgrow their grace period at some minute of the
	// hour; what becomes true while the test runs may be found or not.
	want, rules, turning := map[string]bool{}, map[string]bool{}, map[string]bool{}
	for _, tr := range d.estate.TruthAt(time.Now()) {
		rules[tr.RuleID] = true
		want[tr.RuleID+" "+tr.ARN] = tr.Outcome == simaws.Violation
	}
	for _, tr := range d.estate.TruthAt(d.begun) {
		key := tr.RuleID + " " + tr.ARN
		turning[key] = want[key] != (tr.Outcome == simaws.Violation)
	}
	for key, violation := range want {
		if !violation || turning[key] {
			delete(want, key)
		}
	}
	if len(want) < 10 {
		t.Fatalf("the estate has only %d violations", len(want))
	}
	client := findingv1.NewFindingServiceClient(d.dial(t, "persistence", 0))
	got, token := map[string]bool{}, ""
	for {
		page, err := client.ListFindings(ctx, &findingv1.ListFindingsRequest{
			PageSize: 20, PageToken: token, Filter: `state != "RESOLVED"`,
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range page.GetFindings() {
			if !rules[f.GetRuleId()] {
				continue // a rule that the estates do not know yet
			}
			key := f.GetRuleId() + " " + f.GetResource().GetArn()
			if got[key] {
				t.Errorf("%s was listed twice", key)
			}
			got[key] = true
			if !want[key] && !turning[key] {
				t.Errorf("%s was found and is none: %s", key, f.GetReason())
			}
		}
		if token = page.GetNextPageToken(); token == "" {
			break
		}
	}
	for key := range want {
		if !got[key] {
			t.Errorf("%s was not found", key)
		}
	}
}

func (d *deployment) kill(t *testing.T, service string, i int) {
	t.Helper()
	p := d.procs[service][i]
	if err := p.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-p.done
	d.procs[service] = append(d.procs[service][:i:i], d.procs[service][i+1:]...)
}

// stop asks every process to end, as an orchestrator does.
func (d *deployment) stop(t *testing.T) {
	t.Helper()
	start := time.Now()
	for _, ps := range d.procs {
		for _, p := range ps {
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
		}
	}
	for name, ps := range d.procs {
		for _, p := range ps {
			<-p.done
			if p.err != nil {
				t.Errorf("%s ended with %v", name, p.err)
			}
		}
	}
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("stopping took %s", fmt.Sprint(took))
	}
}
