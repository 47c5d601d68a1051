package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/scan"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services"
)

// upOptions are the flags of "up".
type upOptions struct {
	demo, once         bool
	seed               uint64
	resources          int
	portBase, natsPort int
	failOn             string
	// What was given, as opposed to its default.
	seedGiven, portsGiven, natsGiven bool
}

const (
	// stopWithin is how long a stop may take before it is forced. Five seconds
	// is what people are promised.
	stopWithin = 4800 * time.Millisecond
	// finishWithin is how much of it work in hand gets.
	finishWithin = 2500 * time.Millisecond
	// firstPort is the lowest of the well-known ports.
	firstPort = 7301
	natsPort  = 4222
	// cloudPort is where emulators of AWS are usually looked for.
	cloudPort = 4566
)

func (c *cli) upCommand() *cobra.Command {
	var o upOptions
	cmd := &cobra.Command{
		Use: "up", Short: "Run everything in one process, with a demo estate when there are no AWS credentials", Args: cobra.NoArgs,
		Long: `Runs all services, NATS and a private Postgres in one process, on this machine only, and keeps everything in the data
directory. At the first start it registers the account of the AWS credentials it finds, runs every job once and shows what
was found. Without credentials, or with --demo, it simulates an AWS organization; nothing leaves the machine then.

DATABASE_URL and NATS_URL point at a Postgres and a NATS of your own. Ctrl-C stops everything within five seconds, a second
one at once; what was being done goes on at the next start.

` + exitHelp,
		Example: `  nightshift up
  nightshift up --demo --seed 7 --data-dir /tmp/nightshift
  nightshift up --once --demo -o json --fail-on high`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.seedGiven, o.portsGiven, o.natsGiven = cmd.Flags().Changed("seed"), cmd.Flags().Changed("port-base"), cmd.Flags().Changed("nats-port")
			return c.up(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.demo, "demo", false, "simulate an AWS organization, whatever credentials there are")
	f.Uint64Var(&o.seed, "seed", 1, "which estate to simulate; decides everything about it")
	f.IntVar(&o.resources, "resources", 400, "how many resources to simulate")
	f.BoolVar(&o.once, "once", false, "run every job once, show what was found, and end")
	f.IntVar(&o.portBase, "port-base", firstPort, "first port of the services, 0 for free ones (default with --once)")
	f.IntVar(&o.natsPort, "nats-port", natsPort, "port of NATS, 0 for a free one (default with --once)")
	addFailOn(cmd, &o.failOn)
	return cmd
}

// upState is what "up" remembers from start to start.
type upState struct {
	// Mode is demo or aws, decided at the first start.
	Mode string `json:"mode"`
	// Started is set once every job has run to its end.
	Started bool `json:"started"`
	// Asked are the runs asked for and not known to have ended: the request
	// id by job, so that asking again asks for the same run.
	Asked map[string]string `json:"asked,omitempty"`
}

const (
	modeDemo = "demo"
	modeAWS  = "aws"
)

// everything is what one "up" has started, in one data directory.
type everything struct {
	c     *cli
	o     upOptions
	dir   string
	start time.Time
	state upState
	log   *slog.Logger
	stops []func() // in order of starting

	nats     *devstack.NATSServer
	postgres *devstack.PostgresServer
	cloud    *simaws.Server // nil without a demo
	caller   aws.Caller     // of a real account
	host     *app.Host
	failed   chan error // something that must not end has ended
	fresh    bool       // this is the directory's first start
}

func (c *cli) up(ctx context.Context, o upOptions) (err error) {
	failAt, err := parseFailOn(o.failOn)
	if err != nil {
		return err
	}
	if o.portBase < 0 || o.portBase > 65000 || o.natsPort < 0 || o.natsPort > 65535 {
		return usage("--port-base and --nats-port are ports, or 0 for free ones")
	}
	if o.resources < 1 {
		return usage("--resources must be 1 or more")
	}
	dir, _ := c.dir()
	u := &everything{c: c, o: o, dir: dir, start: c.now(), failed: make(chan error, 8)}
	context.AfterFunc(ctx, func() {
		if c.giveUp != nil {
			time.AfterFunc(stopWithin, c.giveUp)
		}
	})
	defer func() {
		for _, stop := range slices.Backward(u.stops) {
			stop()
		}
		if ctx.Err() != nil && !o.once && !errors.Is(context.Cause(ctx), errTimeout) {
			c.say("stopped")
			err = nil
		}
	}()
	if err := u.open(ctx); err != nil {
		return err
	}
	c.say("%s %s · data in %s\n", c.errPaint(bold, "Nightshift"), app.Version, u.dir)
	if err := u.stand(ctx); err != nil {
		return err
	}

	// The host outlives ctx by nothing: it is stopped by ctx, or by the end
	// of --once.
	hosted, stop := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- u.host.Run(hosted) }()
	u.stops = append(u.stops, func() {
		stop()
		if err := <-ended; err != nil {
			u.log.Warn("the services did not end cleanly", "error", err)
		}
		_ = os.Remove(filepath.Join(u.dir, endpointsFile))
	})
	var (
		worked  = make(chan struct{})
		workErr error
	)
	working, giveUp := context.WithCancelCause(ctx)
	go func() { defer close(worked); workErr = u.work(working, failAt) }()
	defer func() { giveUp(nil); <-worked }()
	select {
	case <-worked:
		if workErr != nil || o.once {
			return workErr
		}
	case err := <-ended:
		return u.broken(ctx, ended, err)
	case err := <-u.failed:
		return err
	}
	select {
	case err := <-ended:
		return u.broken(ctx, ended, err)
	case err := <-u.failed:
		return err
	}
}

// broken is the error of services that ended; the channel is left as the stop
// expects it.
func (u *everything) broken(ctx context.Context, ended chan<- error, err error) error {
	ended <- nil
	if err == nil && ctx.Err() == nil {
		err = errors.New("the services ended by themselves")
	}
	return err
}

// open takes the directory and reads what is remembered there.
func (u *everything) open(ctx context.Context) error {
	if err := os.MkdirAll(u.dir, 0o755); err != nil {
		return hint{fmt.Errorf("the data directory: %w", err), "--data-dir DIR chooses another one."}
	}
	lock, err := lockDir(u.dir)
	if err != nil {
		return err
	}
	u.stops = append(u.stops, func() { _ = lock.Close() })

	path := filepath.Join(u.dir, "nightshift.log")
	if i, err := os.Stat(path); err == nil && i.Size() > 16<<20 {
		_ = os.Rename(path, path+".1")
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	u.stops = append(u.stops, func() { _ = file.Close() })
	var cfg app.Config
	if err := config.Load(&cfg, u.c.lookup); err != nil {
		return err
	}
	screen := slog.LevelWarn
	if u.c.verbose {
		screen = cfg.LogLevel
	}
	u.log = slog.New(slog.NewMultiHandler(slog.NewJSONHandler(file, &slog.HandlerOptions{Level: cfg.LogLevel}), quietAtStop{u.c.screenHandler(screen), ctx}))

	flush, err := app.Telemetry(ctx, "nightshift")
	if err != nil {
		return fmt.Errorf("telemetry: %w", err)
	}
	u.stops = append(u.stops, func() {
		ctx, cancel := context.WithTimeout(context.Background(), 500*time.Millisecond)
		defer cancel()
		_ = flush(ctx)
	})
	switch err := readJSON(filepath.Join(u.dir, "state.json"), &u.state); {
	case errors.Is(err, fs.ErrNotExist):
		u.fresh = true
	case err != nil:
		return err
	}
	if u.state.Asked == nil {
		u.state.Asked = map[string]string{}
	}
	return nil
}

// quietAtStop keeps what is only a consequence of stopping off the screen; the
// file has it.
type quietAtStop struct {
	slog.Handler
	ctx context.Context
}

func (q quietAtStop) Enabled(ctx context.Context, l slog.Level) bool {
	return q.ctx.Err() == nil && q.Handler.Enabled(ctx, l)
}

func (q quietAtStop) WithAttrs(a []slog.Attr) slog.Handler {
	return quietAtStop{q.Handler.WithAttrs(a), q.ctx}
}

func (q quietAtStop) WithGroup(name string) slog.Handler {
	return quietAtStop{q.Handler.WithGroup(name), q.ctx}
}

// lockDir takes the directory for this process, until the file is closed or
// the process ends.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		pid := make([]byte, 20)
		n, _ := f.Read(pid)
		_ = f.Close()
		return nil, hint{fmt.Errorf("%s is in use by process %s", dir, strings.TrimSpace(string(pid[:n]))),
			"Stop that one first, or choose another directory with --data-dir."}
	}
	_ = f.Truncate(0)
	_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return f, nil
}

func readJSON(path string, into any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, into); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// writeJSON replaces a file as a whole: whoever reads it, also after a crash,
// finds the old or the new.
func writeJSON(path string, v any) error {
	b, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(path+".new", append(b, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func (u *everything) remember() error { return writeJSON(filepath.Join(u.dir, "state.json"), u.state) }

// step says that something stands.
func (u *everything) step(since time.Time, what, detail string) {
	u.c.say("  %s %-9s %s  %s", u.c.errPaint(green, "✓"), what, u.c.errPaint(faint, fmt.Sprintf("%5s", lasted(u.c.now().Sub(since)))), detail)
}

// stand starts everything, what can be at the same time, and leaves the host
// ready to run.
func (u *everything) stand(ctx context.Context) error {
	all, starting := errgroup.WithContext(ctx)
	url, dsn := u.c.env("NATS_URL"), u.c.env("DATABASE_URL")
	if url == "" {
		all.Go(func() error { return u.startNATS(starting) })
	}
	if dsn == "" {
		all.Go(func() error { return u.startPostgres(starting) })
	}
	all.Go(func() error { return u.choose(starting) })
	if err := all.Wait(); err != nil {
		u.collect()
		return err
	}
	u.collect()
	if u.state.Mode == modeDemo {
		// Nothing of the machine's own configuration may lead the SDK anywhere
		// else: not its profile, nor an endpoint of a single service.
		for _, v := range os.Environ() {
			if name, _, _ := strings.Cut(v, "="); strings.HasPrefix(name, "AWS_") {
				_ = os.Unsetenv(name)
			}
		}
		if err := u.startCloud(ctx); err != nil {
			return err
		}
	}
	if err := u.remember(); err != nil {
		return err
	}
	return u.startServices(ctx, url, dsn)
}

// collect makes sure that what was started side by side is stopped.
func (u *everything) collect() {
	if u.nats != nil {
		u.stops = append(u.stops, u.nats.Stop)
	}
	if u.postgres != nil {
		u.stops = append(u.stops, u.postgres.Stop)
		go func() {
			if err := u.postgres.Wait(); err != nil {
				u.failed <- err
			}
		}()
	}
}

func (u *everything) startNATS(ctx context.Context) (err error) {
	since := u.c.now()
	addr := u.port(ctx, "NATS", u.o.natsPort, u.o.natsGiven)
	u.nats, err = devstack.NATS(devstack.NATSOptions{Dir: filepath.Join(u.dir, "nats"), Listen: addr, Logger: u.log})
	if err != nil {
		return hint{err, "--nats-port 0 takes a free port."}
	}
	u.step(since, "NATS", u.nats.URL())
	return nil
}

func (u *everything) startPostgres(ctx context.Context) (err error) {
	since := u.c.now()
	dir := filepath.Join(u.dir, "postgres")
	u.postgres, err = devstack.Postgres(ctx, devstack.PostgresOptions{Dir: dir, Install: true, Logger: slog.New(u.c.screenHandler(slog.LevelInfo))})
	if err != nil {
		return hint{err, "DATABASE_URL points at a Postgres of your own instead."}
	}
	u.step(since, "Postgres", dir)
	return nil
}

// port is the address for a port. One of the usual ones that is taken makes
// way for a free one: the data directory tells the CLI where everything is.
func (u *everything) port(ctx context.Context, what string, port int, given bool) string {
	free := "127.0.0.1:0"
	if u.o.once && !given {
		return free
	}
	addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	if given || port == 0 {
		return addr
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	if err != nil {
		u.c.say("  %s %s: port %d is taken, so a free one is used", u.c.errPaint(yellow, "!"), what, port)
		return free
	}
	_ = l.Close()
	return addr
}

// identifyWithin is how long credentials are looked for: a machine that is
// none of AWS's can take long to say so.
const identifyWithin = 5 * time.Second

// choose decides between the demo and the real thing. What a directory was at
// its first start, it stays.
func (u *everything) choose(ctx context.Context) error {
	c := u.c
	switch {
	case u.state.Mode == modeDemo:
		if !u.o.demo {
			c.say("  %s the data directory holds a demo, which goes on; AWS is not asked", c.errPaint(cyan, "i"))
		}
		return nil
	case u.state.Mode == modeAWS && u.o.demo:
		return usage("%s looks after real accounts: a demo needs another --data-dir", u.dir)
	case u.o.demo:
		u.state.Mode = modeDemo
		return nil
	}
	since := c.now()
	var cfg scan.Config
	if err := config.Load(&cfg, c.lookup); err != nil {
		return err
	}
	cloud, err := cfg.Cloud(ctx)
	if err != nil {
		return hint{err, "--demo leaves the AWS configuration aside and simulates an organization."}
	}
	asking, cancel := context.WithTimeout(ctx, identifyWithin)
	defer cancel()
	u.caller, err = cloud.Caller(asking)
	var e *aws.Error
	switch {
	case err == nil:
		u.state.Mode = modeAWS
		u.step(since, "AWS", "account "+u.caller.Account+" as "+clean(u.caller.ARN))
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case u.state.Mode == modeAWS:
		return hint{fmt.Errorf("%s looks after real accounts: %w", u.dir, err), credentialsAdvice}
	case errors.As(err, &e) && (e.Class == aws.Credentials && e.Code == "" || e.Class == aws.Canceled && !c.configured()):
		c.say("  %s no AWS credentials were found, so this is a demo: a simulated organization; nothing leaves this machine", c.errPaint(cyan, "i"))
		u.state.Mode = modeDemo
		return nil
	}
	return hint{fmt.Errorf("AWS credentials are configured, and do not work: %w", err), "--demo leaves them aside and simulates an organization.\n" + credentialsAdvice}
}

// configured tells whether the machine seems to have AWS credentials.
func (c *cli) configured() bool {
	for _, v := range []string{"AWS_PROFILE", "AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"} {
		if c.env(v) != "" {
			return true
		}
	}
	home, _ := os.UserHomeDir()
	for _, path := range []string{
		cmp.Or(c.env("AWS_SHARED_CREDENTIALS_FILE"), filepath.Join(home, ".aws", "credentials")),
		cmp.Or(c.env("AWS_CONFIG_FILE"), filepath.Join(home, ".aws", "config")),
	} {
		if i, err := os.Stat(path); err == nil && i.Mode().IsRegular() && i.Size() > 0 {
			return true
		}
	}
	return false
}

// startCloud simulates AWS. The estate is made at the first start and kept, so
// that resources keep their identity and dates.
func (u *everything) startCloud(ctx context.Context) error {
	since := u.c.now()
	path := filepath.Join(u.dir, "estate.json")
	estate, err := simaws.Load(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		estate = simaws.Generate(simaws.Options{Seed: u.o.seed, Resources: u.o.resources, Now: u.c.now().Truncate(time.Hour)})
		if err := estate.Save(path + ".new"); err != nil {
			return err
		}
		if err := os.Rename(path+".new", path); err != nil {
			return err
		}
	case err != nil:
		return err
	case u.o.seedGiven && estate.Seed != u.o.seed:
		return usage("%s holds the estate of seed %d: seed %d needs another --data-dir", u.dir, estate.Seed, u.o.seed)
	}
	u.cloud = simaws.New(estate, simaws.Config{Clock: u.c.now, Log: u.log.With("service", "simaws")})
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	done, err := u.cloud.Listen(serving, u.port(ctx, "AWS", cloudPort, false))
	if err != nil {
		stop()
		return err
	}
	u.stops = append(u.stops, func() {
		stop()
		if err := <-done; err != nil {
			u.log.Warn("the simulated AWS did not end cleanly", "error", err)
		}
	})
	u.step(since, "AWS", fmt.Sprintf("simulated at %s: seed %d, %s", u.cloud.URL(), estate.Seed, many(int64(estate.Resources()), "resource", "resources")))
	return nil
}

func (u *everything) startServices(ctx context.Context, url, dsn string) (err error) {
	since := u.c.now()
	set := map[string]string{}
	cfg := bus.Config{URL: url}
	if u.nats != nil {
		cfg.Options = u.nats.Options()
	}
	if u.postgres != nil {
		set["DATABASE_URL"] = u.postgres.DSN()
	}
	if u.cloud != nil {
		set["NIGHTSHIFT_AWS_ENDPOINT"] = u.cloud.URL()
		set["NIGHTSHIFT_AWS_ACCESS_KEY_ID"] = u.cloud.Estate().Accounts[0].AccessKey
		set["NIGHTSHIFT_AWS_SECRET_ACCESS_KEY"] = simaws.FakeSecret
	}
	u.host, err = app.Start(ctx, app.Options{
		Definitions: services.All,
		Listen: func(service string) string {
			port := 0
			for _, d := range services.All {
				if d.Name == service && u.o.portBase > 0 {
					port = u.o.portBase + d.Port - firstPort
				}
			}
			return u.port(ctx, service, port, u.o.portsGiven)
		},
		Bus: cfg, Security: app.Security{Tokens: true},
		Lookup: func(name string) (string, bool) {
			if v, ok := set[name]; ok {
				return v, true
			}
			return u.c.lookup(name)
		},
		Log: u.log, StopTimeout: finishWithin, Now: u.c.now,
	})
	if err != nil {
		advice := filepath.Join(u.dir, "nightshift.log") + " says more."
		if errors.Is(err, syscall.EADDRINUSE) {
			advice = "--port-base 0 takes free ports."
		}
		return hint{err, advice}
	}
	where := endpoints{PID: os.Getpid(), Services: map[string]string{}}
	var list []string
	for _, d := range services.All {
		where.Services[d.Name] = u.host.Addr(d.Name)
		_, port, _ := net.SplitHostPort(where.Services[d.Name])
		list = append(list, d.Name+" :"+port)
	}
	if u.nats != nil {
		where.NATS = u.nats.URL()
	}
	if u.cloud != nil {
		where.AWS = u.cloud.URL()
	}
	if err := writeJSON(filepath.Join(u.dir, endpointsFile), where); err != nil {
		return err
	}
	u.step(since, "services", strings.Join(list, ", "))
	return nil
}

// me is how to call this program again on the same data.
func (u *everything) me() string {
	self := "nightshift"
	if path, err := exec.LookPath("nightshift"); err != nil || !sameFile(path) {
		self = os.Args[0]
	}
	if u.c.dataDir != "" && u.c.dataDir != defaultDataDir {
		self += " --data-dir " + u.c.dataDir
	}
	return self
}

func sameFile(path string) bool {
	self, err := os.Executable()
	if err != nil {
		return false
	}
	a, err1 := os.Stat(path)
	b, err2 := os.Stat(self)
	return err1 == nil && err2 == nil && os.SameFile(a, b)
}

// severityRow is a line of the summary.
type severityRow struct {
	severity       rulev1.Severity
	count, unknown int64
	low, high      float64
}

var severityColumns = []column[severityRow]{
	{head: "Severity", text: func(r severityRow) string { return name(r.severity) }, paint: func(r severityRow) paint { return severityPaint(r.severity) }},
	{head: "Findings", number: true, text: func(r severityRow) string { return count(r.count) }},
	{head: "Monthly cost", number: true, text: func(r severityRow) string {
		switch {
		case r.high > 0:
			return dollars(r.low, r.high)
		case r.unknown > 0:
			return "unknown"
		default:
			return ""
		}
	}},
	{head: "Of unknown cost", number: true, text: func(r severityRow) string { return strings.TrimPrefix(count(r.unknown), "0") }},
}
