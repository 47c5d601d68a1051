package chaos

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	deadletterv1 "nightshift.dev/gen/nightshift/deadletter/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services"
)

// options say what a stack is made of.
type options struct {
	nats       int  // servers: 1, or 3 that keep everything three times
	syncAlways bool // what is acknowledged is on the disk
	schedulers int  // replicas; with skew, of a scheduler whose clock is wrong
	skew       []time.Duration
	only       []string       // services; nil: all, two of each
	estate     simaws.Options // what there is to scan; zero: nothing
	cuts       bool           // proxies before NATS and Postgres
	logLevel   string
}

// stack is a deployment of Nightshift on this machine.
type stack struct {
	t        *testing.T
	o        options
	dir      string
	begun    time.Time
	nats     []*process
	pg       *postgres
	replicas map[string][]*process // by service
	cuts     []*cut
	estate   *simaws.Estate
	cloud    string // URL of simaws

	nc      *nats.Conn
	js      jetstream.JetStream
	front   map[string]*relay // by service
	jobs    jobv1.JobServiceClient
	letters deadletterv1.DeadLetterServiceClient
	runs    runv1.RunServiceClient
	finds   findingv1.FindingServiceClient

	over    atomic.Bool // the test ends: what ends now ends unasked and may
	mu      sync.Mutex
	crashes []string
}

// deploy starts everything and returns when it serves. What it started is gone at the end of the test.
func deploy(t *testing.T, o options) *stack {
	t.Helper()
	if err := build(); err != nil { // which takes its time on a busy machine, and no part of anybody else's
		t.Fatal(err)
	}
	s := &stack{t: t, o: o, dir: t.TempDir(), begun: time.Now(), replicas: map[string][]*process{}, front: map[string]*relay{}}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	t.Cleanup(s.report)

	natsURL := s.startNATS(ctx)
	env := append(os.Environ(), "NATS_URL="+natsURL, "NIGHTSHIFT_LOG_FORMAT=json", "NIGHTSHIFT_LOG_LEVEL="+cmp.Or(o.logLevel, "info"),
		"AWS_EC2_METADATA_DISABLED=true", "AWS_CONFIG_FILE=/dev/null", "AWS_SHARED_CREDENTIALS_FILE=/dev/null")
	wanted := func(name string) bool { return o.only == nil || slices.Contains(o.only, name) }
	if wanted("persistence") {
		env = append(env, "DATABASE_URL="+s.startPostgres())
	}
	if o.estate != (simaws.Options{}) {
		env = append(env, s.startCloud()...)
	}
	// All replicas are known before the first relay asks for them, and all relays stand before the first process dials.
	for _, def := range services.All {
		n := 2
		if def.Name == "scheduler" && o.schedulers > 0 {
			n = o.schedulers
		}
		for i := range n {
			if !wanted(def.Name) {
				continue
			}
			p := s.process(def.Name+"-"+strconv.Itoa(i), "")
			p.addr = local(freePort(t))
			s.replicas[def.Name] = append(s.replicas[def.Name], p)
		}
	}
	for _, def := range services.All {
		name := def.Name
		s.front[name] = newRelay(t, func() []endpoint { return s.serving(name) })
		env = append(env, def.AddrVar()+"="+s.front[name].addr())
	}
	for _, def := range services.All {
		for i, p := range s.replicas[def.Name] {
			p.env = append(slices.Clip(env), "NIGHTSHIFT_LISTEN="+p.addr)
			if def.Name == "scheduler" && len(o.skew) > 0 {
				p.path = os.Args[0]
				p.env = append(p.env, roleVar+"="+roleScheduler, skewVar+"="+o.skew[i%len(o.skew)].String())
			} else {
				p.path = binary(def.Name)
			}
			s.launch(p)
		}
	}
	s.jobs = jobv1.NewJobServiceClient(s.dial("scheduler"))
	s.letters = deadletterv1.NewDeadLetterServiceClient(s.dial("scheduler"))
	s.runs = runv1.NewRunServiceClient(s.dial("persistence"))
	s.finds = findingv1.NewFindingServiceClient(s.dial("persistence"))
	if s.estate != nil && wanted("persistence") {
		s.register(ctx)
	}
	return s
}

func (s *stack) process(name, path string, args ...string) *process {
	return &process{name: name, path: path, args: args, logPath: filepath.Join(s.dir, name+".log"), ended: s.ended}
}

// launch starts a process for as long as the test takes.
func (s *stack) launch(p *process) {
	s.t.Helper()
	if err := p.start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		s.over.Store(true)
		_ = p.kill()
	})
}

// ended notes a process that ended by itself and, as an orchestrator would, brings it back.
func (s *stack) ended(p *process, err error) {
	if s.over.Load() {
		return
	}
	s.mu.Lock()
	s.crashes = append(s.crashes, fmt.Sprintf("%s ended by itself: %v", p.name, err))
	s.mu.Unlock()
	time.AfterFunc(time.Second, func() {
		if !s.over.Load() {
			_ = p.start()
		}
	})
}

// report ends every test: a service never ends by itself, and after a failure the logs are wanted.
func (s *stack) report() {
	s.over.Store(true)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.crashes {
		s.t.Error(c)
	}
	if !s.t.Failed() {
		return
	}
	logs, _ := filepath.Glob(filepath.Join(s.dir, "*.log"))
	for _, path := range logs {
		s.t.Logf("the end of %s:\n%s", filepath.Base(path), tailOf(path, 40))
	}
	if keep := os.Getenv("CHAOS_KEEP"); keep != "" {
		_ = os.MkdirAll(keep, 0o700)
		for _, path := range logs {
			if text, err := os.ReadFile(path); err == nil {
				_ = os.WriteFile(filepath.Join(keep, s.t.Name()+"-"+filepath.Base(path)), text, 0o600)
			}
		}
	}
}

// serving are the replicas that take connections, each first in its turn.
func (s *stack) serving(service string) []endpoint {
	var up []endpoint
	for _, p := range s.replicas[service] {
		if p.serving.Load() {
			up = append(up, endpoint{"tcp", p.addr})
		}
	}
	if len(up) > 1 {
		k := int(turn.Add(1)) % len(up)
		up = append(up[k:], up[:k]...)
	}
	return up
}

var turn atomic.Uint32

func (s *stack) dial(service string) *grpc.ClientConn {
	s.t.Helper()
	c, err := grpc.NewClient(s.front[service].addr(), append(app.ClientOptions(),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.WaitForReady(true)))...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = c.Close() })
	return c
}

// startNATS starts the servers, makes the streams, and returns where services find them.
func (s *stack) startNATS(ctx context.Context) string {
	s.t.Helper()
	n := max(s.o.nats, 1)
	configs := make([]natsConfig, n)
	for i := range configs {
		configs[i] = natsConfig{
			Name: "n" + strconv.Itoa(i), Port: freePort(s.t), Dir: filepath.Join(s.dir, "nats-"+strconv.Itoa(i)), SyncAlways: s.o.syncAlways,
		}
		if n > 1 {
			configs[i].Cluster = freePort(s.t)
		}
	}
	var direct, urls []string
	for i, c := range configs {
		for k, peer := range configs {
			if k != i {
				c.Routes = append(c.Routes, "nats://"+local(peer.Cluster))
			}
		}
		text, err := json.Marshal(c)
		if err != nil {
			s.t.Fatal(err)
		}
		p := s.process("nats-"+strconv.Itoa(i), os.Args[0])
		p.env = append(os.Environ(), roleVar+"="+roleNATS, natsVar+"="+string(text))
		s.nats = append(s.nats, p)
		s.launch(p)
		direct = append(direct, "nats://"+local(c.Port))
		at := local(c.Port)
		if s.o.cuts {
			at = s.cut("nats-"+strconv.Itoa(i), at).addr()
		}
		urls = append(urls, "nats://"+at)
	}
	var err error
	s.await(ctx, "NATS", func() error {
		s.nc, err = nats.Connect(strings.Join(direct, ","), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond), nats.ReconnectBufSize(-1))
		return err
	})
	s.t.Cleanup(s.nc.Close)
	if s.js, err = jetstream.New(s.nc); err != nil {
		s.t.Fatal(err)
	}
	// How many servers keep a stream is decided by whoever makes it.
	s.await(ctx, "the streams", func() error {
		b, err := bus.Connect(ctx, bus.Config{URL: strings.Join(direct, ","), Service: "operator", Replicas: n})
		if err != nil {
			return err
		}
		defer func() { _ = b.Close(ctx) }()
		_, err = bus.OpenKV[*jobv1.Job](ctx, b, "NIGHTSHIFT_JOBS")
		return err
	})
	return strings.Join(urls, ",")
}

// startPostgres starts it and returns its DSN, which leads to whichever is there.
func (s *stack) startPostgres() string {
	s.t.Helper()
	// Not below the directory of the test: Postgres runs as another user than root, and the path of its socket is short.
	dir, err := os.MkdirTemp("", "chaos-pg-")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s.pg = &postgres{dir: dir}
	if err := s.pg.start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { s.pg.server.Stop() })
	at := newRelay(s.t, func() []endpoint { return []endpoint{{"unix", *s.pg.socket.Load()}} }).addr()
	if s.o.cuts {
		at = s.cut("postgres", at).addr()
	}
	return "postgres://postgres@" + at + "/postgres?sslmode=disable"
}

// startCloud starts simaws and returns what points AWS's SDK at it.
func (s *stack) startCloud() []string {
	s.t.Helper()
	o := s.o.estate
	o.Now = s.begun.Truncate(time.Hour)
	s.estate = simaws.Generate(o)
	addr := local(freePort(s.t))
	s.cloud = "http://" + addr
	p := s.process("simaws", binary("simaws"), "serve", "--listen", addr, "--now", o.Now.UTC().Format(time.RFC3339),
		"--seed", strconv.FormatUint(o.Seed, 10), "--accounts", strconv.Itoa(o.Accounts), "--regions", strconv.Itoa(o.Regions), "--resources", strconv.Itoa(o.Resources))
	p.env = os.Environ()
	s.launch(p)
	return []string{
		"AWS_ENDPOINT_URL=" + s.cloud, "AWS_ACCESS_KEY_ID=" + simaws.DemoAccessKey, "AWS_SECRET_ACCESS_KEY=" + simaws.FakeSecret, "AWS_REGION=us-east-1",
	}
}

// faults makes AWS go wrong from now on.
func (s *stack) faults(list ...simaws.Fault) {
	s.t.Helper()
	if list == nil {
		list = []simaws.Fault{}
	}
	body, err := json.Marshal(list)
	if err != nil {
		s.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPut, s.cloud+"/_simaws/faults", bytes.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		text, _ := io.ReadAll(resp.Body)
		s.t.Fatalf("faults: %s: %s", resp.Status, text)
	}
}

// accounts are those of the estate that can be scanned.
func (s *stack) accounts() []*simaws.Account {
	var out []*simaws.Account
	for _, a := range s.estate.Accounts {
		if a.State == "" || a.State == "ACTIVE" {
			out = append(out, a)
		}
	}
	return out
}

// register makes the accounts known and waits for the default jobs, after which everything serves.
func (s *stack) register(ctx context.Context) {
	s.t.Helper()
	accounts := accountv1.NewAccountServiceClient(s.dial("persistence"))
	for _, a := range s.accounts() {
		role := a.Roles[0]
		s.await(ctx, "account "+a.ID, func() error {
			_, err := accounts.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: &accountv1.Account{
				Id: a.ID, Name: a.Name, RoleArn: a.RoleARN(role.Name), ExternalId: role.ExternalID,
			}})
			return err
		})
	}
	for _, job := range []string{"waste-scan", "security-scan"} {
		s.await(ctx, "the default job "+job, func() error {
			_, err := s.jobs.GetJob(ctx, &jobv1.GetJobRequest{Name: job})
			return err
		})
	}
}

// await asks again and again until do has no error.
func (s *stack) await(ctx context.Context, what string, do func() error) {
	s.t.Helper()
	for {
		err := do()
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			s.t.Fatalf("waited in vain for %s: %v", what, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// victims are the replicas of services, in one order.
func (s *stack) victims(names ...string) []victim {
	var out []victim
	for _, def := range services.All {
		if len(names) > 0 && !slices.Contains(names, def.Name) {
			continue
		}
		for _, p := range s.replicas[def.Name] {
			out = append(out, p)
		}
	}
	return out
}
