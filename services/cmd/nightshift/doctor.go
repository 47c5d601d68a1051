package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc"
	grpchealthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/metadata"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/auth"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/scan"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services"
	"nightshift.dev/services/persistence"
)

// check is one of the doctor's: what was looked at, what it is like, and how to mend
// it.
type check struct {
	area, name   string
	result       grade
	detail, mend string
}

type grade string

const (
	ok       grade = "OK"
	warn     grade = "WARN"
	fail     grade = "FAIL"
	untested grade = "UNKNOWN"
)

func (r grade) paint() paint {
	switch r {
	case ok:
		return green
	case fail:
		return boldRed
	default:
		return yellow
	}
}

// The doctor's limits.
const (
	// examineWithin bounds what is asked of one part.
	examineWithin = 6 * time.Second
	// skewWarn and skewFail are how far clocks may be apart. AWS refuses requests at
	// five minutes.
	skewWarn = 2 * time.Second
	skewFail = time.Minute
	// little is the free share of a disk below which it is nearly full.
	little = 0.1
	// nearlyFull is the used share of what is allowed at which something is.
	nearlyFull = 0.9
	// manyBehind is how many messages a consumer may be behind.
	manyBehind = 10_000
)

var checkColumns = []column[check]{
	{name: "area", text: func(k check) string { return k.area }},
	{name: "check", text: func(k check) string { return k.name }},
	{name: "result", text: func(k check) string { return string(k.result) }},
	{name: "detail", text: func(k check) string { return k.detail }},
	{name: "mend", text: func(k check) string { return k.mend }},
}

func checkTree(k check) object {
	o := object{{"area", k.area}, {"check", k.name}, {"result", string(k.result)}, {"detail", k.detail}, {"mend", nil}}
	if k.mend != "" {
		o[4].value = k.mend
	}
	return o
}

func (c *cli) doctorCommand() *cobra.Command {
	var monitor string
	cmd := &cobra.Command{
		Use: "doctor", Short: "Look for what is wrong with an installation, and say how to mend it", Args: cobra.NoArgs,
		Long: `Checks configuration, services and their versions, NATS and the durability of its streams, Postgres, clocks, AWS credentials,
accounts, disks and retention. It asks each part by itself and needs none of them, so it is useful when things are broken.
It changes nothing.

The exit code is 1 when a check is FAIL. What cannot be tested is UNKNOWN.`,
		Example: `  nightshift doctor
  nightshift doctor -o json | jq '.[] | select(.result != "OK")'
  NATS_URL=nats://10.0.0.5:4222 nightshift doctor --addr persistence=10.0.0.6:7306`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			checks := c.examine(cmd.Context(), monitor)
			if cmd.Context().Err() != nil {
				return context.Cause(cmd.Context())
			}
			return c.printChecks(checks)
		},
	}
	cmd.Flags().StringVar(&monitor, "nats-monitor", "", "where NATS is monitored (default: port 8222 of the server that answers)")
	return cmd
}

func (c *cli) printChecks(checks []check) error {
	counts := map[grade]int{}
	for _, k := range checks {
		counts[k.result]++
	}
	if c.output != formatTable {
		p := newPrinter(c, checkTree, checkColumns)
		for _, k := range checks {
			if err := p.add(k); err != nil {
				return err
			}
		}
		if err := p.close(); err != nil {
			return err
		}
	} else {
		area := ""
		for _, k := range checks {
			if k.area != area {
				area = k.area
				c.print("%s\n", c.outPaint(bold, area))
			}
			indent := strings.Repeat(" ", 11)
			c.print("  %s  %s\n", c.outPaint(k.result.paint(), fmt.Sprintf("%-7s", k.result)), strings.TrimLeft(wrap(k.name+": "+k.detail, indent, c.width()), " "))
			if k.mend != "" && k.result != ok {
				c.print("%s\n", c.outPaint(faint, wrap("→ "+k.mend, indent, c.width())))
			}
		}
		c.print("\n%d OK, %d WARN, %d FAIL, %d UNKNOWN\n", counts[ok], counts[warn], counts[fail], counts[untested])
	}
	if counts[fail] > 0 {
		return &exit{code: exitError}
	}
	return nil
}

// doctor is one examination.
type doctor struct {
	c   *cli
	end *endpoints // of an "up" that runs here, or nil
	// unread: there is a file that should tell of one, and it cannot be read.
	unread bool
	// monitor is where NATS is monitored; "": where it usually is.
	monitor string

	mu     sync.Mutex
	checks map[string][]check // by area
	clocks []clock
}

// clock is what a clock showed, in the middle of the time it took to ask.
type clock struct {
	of      string
	ahead   time.Duration // of ours
	within  time.Duration // half of the time it took, or its resolution
	unknown string
	mend    string
}

// The areas, in the order in which they are shown.
var areas = []string{"configuration", "services", "nats", "postgres", "clocks", "aws", "accounts", "disk"}

// examine makes all checks, side by side.
func (c *cli) examine(ctx context.Context, monitor string) []check {
	d := &doctor{c: c, monitor: monitor, checks: map[string][]check{}}
	dir, _ := c.dir()
	switch e, err := readEndpoints(dir); {
	case err == nil:
		d.end = e
	case !errors.Is(err, fs.ErrNotExist):
		d.unread = true
		d.say("configuration", "data directory", fail, err.Error(), "Stop what runs on it, remove the file and start it again.")
	}
	var all sync.WaitGroup
	for _, look := range []func(context.Context){d.configuration, d.services, d.nats, d.database, d.cloud, d.accounts, d.disk} {
		all.Go(func() { look(ctx) })
	}
	all.Wait()
	d.compareClocks()
	var out []check
	for _, area := range areas {
		out = append(out, d.checks[area]...)
	}
	return out
}

func (d *doctor) say(area, name string, r grade, detail, mend string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r == ok {
		mend = ""
	}
	d.checks[area] = append(d.checks[area], check{area: area, name: name, result: r, detail: detail, mend: mend})
}

func (d *doctor) clock(k clock) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.clocks = append(d.clocks, k)
}

// measure is what a clock shows that was asked between two times of ours.
func measure(of string, shown, before, after time.Time) clock {
	half := after.Sub(before) / 2
	return clock{of: of, ahead: shown.Sub(before.Add(half)), within: half}
}

// why is the plain text of an error.
func why(err error) string {
	if u := (*unanswered)(nil); errors.As(err, &u) {
		err = u.err
	}
	text := err.Error()
	if m := dialing.FindStringSubmatch(text); m != nil {
		text = m[1]
	}
	return text
}

// configuration reads the variables of every service, as each would here.
func (d *doctor) configuration(context.Context) {
	bad := 0
	for _, def := range append([]app.Definition{{Name: "every service", Config: app.Config{}}}, services.All...) {
		if def.Config == nil {
			continue
		}
		into := reflect.New(reflect.TypeOf(def.Config))
		set := func(name string) (string, bool) {
			if v, ok := d.c.lookup(name); ok && v != "" {
				return v, true
			}
			// What must be set is set where the service runs, which need not be here.
			for _, v := range config.Vars(def.Config) {
				if v.Name == name && v.Required {
					return "set-elsewhere", true
				}
			}
			return "", false
		}
		if err := config.Load(into.Interface(), set); err != nil {
			bad++
			d.say("configuration", def.Name, fail, err.Error(), "Correct the variables; docs/configuration.md, or the service's own \"help\", says what each can be.")
		}
	}
	if bad == 0 {
		d.say("configuration", "variables", ok, "the variables that are set here can be read by all services", "")
	}
	if dir, named := d.c.dir(); named && d.end == nil && !d.unread {
		d.say("configuration", "data directory", warn, "nothing runs on "+dir, "\"nightshift up --data-dir "+dir+"\" starts it; leave out --data-dir and NIGHTSHIFT_DATA_DIR to look at the usual addresses.")
	}
}

// dialQuietly is a connection that fails at once, with the plain error.
func (d *doctor) dialQuietly(service string) (grpc.ClientConnInterface, string, error) {
	d.c.mu.Lock()
	defer d.c.mu.Unlock()
	addr, _, err := d.c.addr(service)
	if err != nil {
		return nil, "", err
	}
	conn, err := d.c.dial(service)
	return conn, addr, err
}

func (d *doctor) services(ctx context.Context) {
	type answer struct {
		addr, version string
		err           error
	}
	answers := make([]answer, len(services.All))
	var all sync.WaitGroup
	for i, def := range services.All {
		all.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, examineWithin)
			defer cancel()
			a := &answers[i]
			conn, addr, err := d.dialQuietly(def.Name)
			if a.addr, a.err = addr, err; err != nil {
				return
			}
			var head metadata.MD
			r, err := grpchealthv1.NewHealthClient(conn).Check(ctx, &grpchealthv1.HealthCheckRequest{}, grpc.Header(&head))
			if a.err = err; err == nil && r.GetStatus() != grpchealthv1.HealthCheckResponse_SERVING {
				a.err = errors.New("it says that it is " + r.GetStatus().String())
			}
			a.version = app.VersionOf(head)
		})
	}
	all.Wait()
	versions := map[string][]string{}
	down := 0
	for i, def := range services.All {
		a := answers[i]
		if a.err != nil {
			down++
			d.say("services", def.Name, fail, "does not serve at "+cmp.Or(a.addr, "its address")+": "+why(a.err), "Start it, look into its log, or say where it is with --addr "+def.Name+"=HOST:PORT or "+def.AddrVar()+".")
			continue
		}
		v := cmp.Or(a.version, "unknown")
		versions[v] = append(versions[v], def.Name)
		d.say("services", def.Name, ok, "serves at "+a.addr+", version "+v, "")
	}
	if down == len(services.All) {
		d.say("services", "all", fail, "no service answers", "\"nightshift up\" starts everything in one process; \"docker compose up\" as separate binaries.")
		return
	}
	if len(versions) == 1 {
		for v := range versions {
			if v == app.Version {
				d.say("services", "versions", ok, "all that answer, and this program, are "+v, "")
			} else {
				d.say("services", "versions", warn, "the services are "+v+", this program is "+app.Version, "Use the program of the same build: it may not know what is new, or ask for what is not there.")
			}
		}
		return
	}
	var parts []string
	for v, names := range versions {
		parts = append(parts, v+": "+strings.Join(names, ", "))
	}
	slices.Sort(parts)
	d.say("services", "versions", warn, strings.Join(parts, "; "), "Finish the update: all services should be of one build.")
}

func (d *doctor) nats(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineWithin)
	defer cancel()
	at := d.c.env("NATS_URL")
	if at == "" && d.end != nil {
		at = d.end.NATS
	}
	at = cmp.Or(at, "nats://127.0.0.1:4222")
	before := d.c.now()
	st, err := d.inspect(ctx, at)
	if err != nil {
		d.say("nats", "connection", fail, "NATS cannot be used: "+why(err), "Start NATS with JetStream, or set NATS_URL to where it is. Until then nothing fires and what the services have to say waits.")
		d.clock(clock{of: "NATS", unknown: "NATS does not answer"})
		return
	}
	d.say("nats", "connection", ok, fmt.Sprintf("%s, version %s, %s away", st.Server, st.Version, st.RTT.Round(10*time.Microsecond)), "")
	if st.Time.IsZero() {
		d.clock(clock{of: "NATS", unknown: "there is no stream that could tell"})
	} else {
		d.clock(measure("NATS", st.Time, before, d.c.now()))
	}
	if len(st.Missing) > 0 {
		d.say("nats", "streams", fail, "there is no "+strings.Join(st.Missing, ", "), "Start a service: each makes the streams that are missing. What was in them is gone.")
	}
	single, lagging, differs, full, behind, idle := 0, []string{}, []string{}, []string{}, []string{}, []string{}
	for _, s := range st.Streams {
		if s.Replicas < 2 {
			single++
		}
		if s.Leaderless || s.Current < s.Replicas {
			lagging = append(lagging, fmt.Sprintf("%s: %d of %d replicas current", s.Name, s.Current, s.Replicas))
		}
		if len(s.Differs) > 0 {
			differs = append(differs, s.Name+": "+strings.Join(s.Differs, ", "))
		}
		if s.MaxBytes > 0 && float64(s.Bytes) > nearlyFull*float64(s.MaxBytes) {
			full = append(full, fmt.Sprintf("%s holds %s of %s", s.Name, size(int64(s.Bytes)), size(s.MaxBytes)))
		}
		for _, k := range s.Consumers {
			if k.Pending > manyBehind {
				behind = append(behind, fmt.Sprintf("%s by %s", k.Name, count(int64(k.Pending))))
			}
			if k.Pending > 0 && k.Waiting == 0 && k.InHand == 0 {
				idle = append(idle, fmt.Sprintf("%s (%s)", k.Name, count(int64(k.Pending))))
			}
		}
	}
	if len(st.Streams) > 0 {
		switch {
		case single > 0:
			d.say("nats", "durability", warn, fmt.Sprintf("%d of %d streams are kept by one server: if its disk is lost, triggers and verdicts under way are.", single, len(st.Streams)),
				"For production run three NATS servers and set the streams' replicas to 3.")
		default:
			d.say("nats", "durability", ok, "every stream is kept by two servers or more", "")
		}
		const always = "Set sync_interval: always in the jetstream block of each server."
		switch every, synced, err := d.natsSync(ctx, st.Server); {
		case err != nil:
			d.say("nats", "sync", untested, "whether it syncs each write, or loses the newest at a power cut, only its monitoring tells: "+why(err),
				always+" Open its monitoring port (http: 8222), or say where it is with --nats-monitor, to have it looked at.")
		case synced:
			d.say("nats", "sync", ok, "what is acknowledged is on the disk", "")
		default:
			d.say("nats", "sync", warn, fmt.Sprintf("it syncs every %s: a power cut loses what came since", every), always)
		}
		problem(d, "replicas", fail, lagging, "all replicas are current", "Bring the NATS servers that are missing back; \"nats stream report\" shows which.")
		problem(d, "limits", warn, differs, "streams are bounded as declared", "Restart a service of the newest version: it sets them right.")
		problem(d, "room", warn, full, "no stream is nearly full", "The oldest messages go first. Find the consumer that is behind.")
		problem(d, "consumers", warn, behind, "no consumer is more than "+count(manyBehind)+" messages behind", "Start more replicas of the service, or look into its log.")
		problem(d, "handlers", warn, idle, "every message has somebody who takes it", "Nobody takes these messages just now. If it stays so, start the service the consumer is named after; remove the consumer if there is none any more.")
	}
	if st.StoreLimit > 0 {
		r := ok
		if float64(st.Stored) > nearlyFull*float64(st.StoreLimit) {
			r = warn
		}
		d.say("disk", "JetStream", r, size(int64(st.Stored))+" of "+size(int64(st.StoreLimit)), "Raise max_file_store, or find what fills it.")
	} else {
		d.say("disk", "JetStream", ok, size(int64(st.Stored))+" stored", "")
	}
}

// inspect looks at NATS as a service would that has the same environment.
func (d *doctor) inspect(ctx context.Context, at string) (*bus.Status, error) {
	log := slog.New(slog.DiscardHandler)
	var security app.Security
	if dir := cmp.Or(d.c.tlsDir, d.c.env("NIGHTSHIFT_TLS_DIR")); dir != "" {
		var err error
		if security.TLS, err = auth.LoadTLS(dir, log); err != nil {
			return nil, err
		}
	}
	cfg, err := app.NATS(at, d.c.env("NATS_URL_FILE"), security)
	if err != nil {
		return nil, err
	}
	cfg.Service, cfg.Log = "nightshift-doctor", log
	return bus.Inspect(ctx, cfg)
}

// natsSync asks a server's monitoring how often it brings what it stores to the
// disk, or whether it does so at each write.
func (d *doctor) natsSync(ctx context.Context, server string) (every time.Duration, always bool, err error) {
	at := d.monitor
	if at == "" {
		u, err := url.Parse(server)
		if err != nil {
			return 0, false, err
		}
		at = "http://" + net.JoinHostPort(u.Hostname(), "8222")
	}
	ctx, cancel := context.WithTimeout(ctx, examineWithin/3)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimRight(at, "/")+"/varz", nil)
	if err != nil {
		return 0, false, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, false, err
	}
	defer resp.Body.Close()
	var v struct {
		JetStream struct {
			Config *struct {
				SyncInterval time.Duration `json:"sync_interval"`
				SyncAlways   bool          `json:"sync_always"`
			} `json:"config"`
		} `json:"jetstream"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, 1<<20)).Decode(&v); err != nil || v.JetStream.Config == nil {
		return 0, false, fmt.Errorf("%s/varz says nothing of JetStream (%s)", at, resp.Status)
	}
	return v.JetStream.Config.SyncInterval, v.JetStream.Config.SyncAlways, nil
}

func problem(d *doctor, name string, r grade, found []string, well, mend string) {
	if len(found) == 0 {
		d.say("nats", name, ok, well, "")
		return
	}
	d.say("nats", name, r, strings.Join(found, "; "), mend)
}

func (d *doctor) database(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineWithin)
	defer cancel()
	conn, _, err := d.dialQuietly("persistence")
	var db *healthv1.GetDatabaseResponse
	before := d.c.now()
	if err == nil {
		db, err = healthv1.NewHealthStateServiceClient(conn).GetDatabase(ctx, &healthv1.GetDatabaseRequest{})
	}
	after := d.c.now()
	asked := "asked through persistence"
	if dsn := d.c.env("DATABASE_URL"); err != nil && dsn != "" {
		direct, cancel := context.WithTimeout(context.WithoutCancel(ctx), examineWithin)
		defer cancel()
		before = d.c.now()
		var e error
		if db, e = persistence.Probe(direct, dsn); e != nil {
			d.say("postgres", "connection", fail, "Postgres cannot be used: "+why(e), "Start it, or correct DATABASE_URL. Until then schedules go on firing, and what is found waits in NATS.")
			d.clock(clock{of: "Postgres", unknown: "Postgres does not answer"})
			return
		}
		after, asked = d.c.now(), "asked at DATABASE_URL"
		err = nil
	}
	switch {
	case errs.Reason(err) == "DATABASE_UNAVAILABLE":
		d.say("postgres", "connection", fail, "persistence says: "+why(err), "Start Postgres, or correct the DATABASE_URL of persistence. Until then schedules go on firing, and what is found waits in NATS.")
	case errors.Is(err, errs.Unimplemented):
		d.say("postgres", "connection", untested, "persistence is too old to tell", "Update persistence.")
	case err != nil:
		d.say("postgres", "connection", untested, "persistence does not answer, and DATABASE_URL is not set here", "Start persistence, or set DATABASE_URL to have Postgres asked directly.")
	}
	if err != nil {
		d.clock(clock{of: "Postgres", unknown: "Postgres could not be asked"})
		return
	}
	d.say("postgres", "connection", ok, fmt.Sprintf("version %s, %d of %d connections, %s", db.GetVersion(), db.GetConnections(), db.GetMaxConnections(), asked), "")
	if m := db.GetMaxConnections(); m > 0 && float64(db.GetConnections()) > nearlyFull*float64(m) {
		d.say("postgres", "connections", warn, fmt.Sprintf("%d of %d connections are taken", db.GetConnections(), m), "Lower NIGHTSHIFT_DATABASE_CONNECTIONS, or raise max_connections.")
	}
	switch {
	case db.GetReadOnly():
		d.say("postgres", "writes", fail, "the server is a standby and takes no writes", "Point DATABASE_URL at the primary.")
	case !db.GetDurable():
		d.say("postgres", "durability", warn, "fsync or synchronous_commit is off: a crash can lose what was committed", "Set both to on, unless this is a test.")
	default:
		d.say("postgres", "durability", ok, "what is committed is on disk", "")
	}
	if db.GetSchemaVersion() > 0 {
		waits := ok
		if db.GetOutboxAge().AsDuration() > 5*time.Minute {
			waits = warn
		}
		d.say("postgres", "outbox", waits, fmt.Sprintf("%s wait to be published%s", many(db.GetOutbox(), "event", "events"), oldest(db)), "Events leave when NATS takes them: see the connection to NATS and the log of persistence.")
	}
	d.clock(measure("Postgres", db.GetServerTime().AsTime(), before, after))
	detail := size(db.GetSizeBytes())
	if t := db.GetOldestLogTime(); t != nil {
		detail += ", system log since " + day(t)
	}
	d.say("disk", "Postgres", ok, detail, "")
}

func oldest(db *healthv1.GetDatabaseResponse) string {
	if db.GetOutboxAge() == nil {
		return ""
	}
	return ", the oldest for " + lasted(db.GetOutboxAge().AsDuration())
}

// size is a number of bytes for people.
func size(n int64) string {
	v, unit := float64(n), "B"
	for _, u := range []string{"kB", "MB", "GB", "TB"} {
		if v < 1000 {
			break
		}
		v, unit = v/1000, u
	}
	if unit == "B" || v >= 100 {
		return fmt.Sprintf("%.0f %s", v, unit)
	}
	return fmt.Sprintf("%.1f %s", v, unit)
}

// cloud asks whose the credentials are that this program has. The services may
// have others: what they can do is told by the accounts.
func (d *doctor) cloud(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineWithin)
	defer cancel()
	set := d.c.lookup
	if d.end != nil && d.end.AWS != "" { // a demo
		set = func(name string) (string, bool) {
			v, given := map[string]string{
				"NIGHTSHIFT_AWS_ENDPOINT": d.end.AWS, "NIGHTSHIFT_AWS_ACCESS_KEY_ID": simaws.DemoAccessKey, "NIGHTSHIFT_AWS_SECRET_ACCESS_KEY": simaws.FakeSecret,
			}[name]
			return v, given
		}
	}
	var cfg scan.Config
	if err := config.Load(&cfg, set); err != nil {
		d.say("aws", "credentials", untested, "the configuration cannot be read", "See the configuration above.")
		d.clock(clock{of: "AWS", unknown: "AWS was not asked"})
		return
	}
	cloud, err := cfg.Cloud(ctx)
	if err != nil {
		d.say("aws", "credentials", fail, why(err), credentialsAdvice)
		d.clock(clock{of: "AWS", unknown: "AWS was not asked"})
		return
	}
	caller, err := cloud.Caller(ctx)
	if err != nil {
		r := fail
		if e := (*aws.Error)(nil); errors.As(err, &e) && e.Class == aws.Credentials && e.Code == "" || ctx.Err() != nil && !d.c.configured() {
			r = untested // there are none here, and need not be where only the CLI runs
			err = errors.New("there are no AWS credentials here; the services may have some")
		}
		d.say("aws", "credentials", r, why(err), credentialsAdvice)
		d.clock(clock{of: "AWS", unknown: "AWS could not be asked"})
		return
	}
	d.say("aws", "credentials", ok, "account "+caller.Account+" as "+clean(caller.ARN), "")
	before := d.c.now()
	shown, err := cloud.Clock(ctx)
	if err != nil {
		d.clock(clock{of: "AWS", unknown: why(err)})
		return
	}
	k := measure("AWS", shown, before, d.c.now())
	k.within += time.Second // its Date header has no fractions
	d.clock(k)
}

// accounts tells how the accounts are, as the health service sees them, which
// has the credentials of the services that scan.
func (d *doctor) accounts(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, examineWithin)
	defer cancel()
	conn, _, err := d.dialQuietly("health")
	var r *healthv1.ListComponentsResponse
	if err == nil {
		r, err = healthv1.NewHealthServiceClient(conn).ListComponents(ctx, &healthv1.ListComponentsRequest{})
	}
	if err != nil {
		d.say("accounts", "all", untested, "the health service, which enters them, does not answer", "Start the health service.")
		return
	}
	n := 0
	for _, x := range r.GetComponents() {
		if x.GetKind() != healthv1.ComponentKind_COMPONENT_KIND_ACCOUNT {
			continue
		}
		n++
		title := strings.TrimPrefix(x.GetName(), "account/")
		if x.GetTitle() != "" {
			title += " " + x.GetTitle()
		}
		switch x.GetState() {
		case healthv1.ComponentState_COMPONENT_STATE_UP:
			d.say("accounts", title, ok, x.GetReason(), "")
		case healthv1.ComponentState_COMPONENT_STATE_DOWN:
			d.say("accounts", title, fail, x.GetReason(), "Check the role, its trust policy and external id, and the policy in deploy/iam/nightshift-readonly.json.")
		case healthv1.ComponentState_COMPONENT_STATE_DEGRADED:
			d.say("accounts", title, warn, x.GetReason(), "\"nightshift runs list\" shows the runs, and \"nightshift runs show\" what each could not see.")
		default:
			d.say("accounts", title, untested, x.GetReason(), "\"nightshift jobs run waste-scan --watch\" scans it now.")
		}
	}
	if n == 0 {
		d.say("accounts", "all", warn, "health has looked at no active account: there is none, or it became so within the last minute",
			"\"nightshift accounts add\" registers one, \"nightshift health --now\" looks at once.")
	}
}

// disk tells how much room is left where "up" keeps its data.
func (d *doctor) disk(context.Context) {
	dir, _ := d.c.dir()
	if _, err := os.Stat(dir); err != nil {
		return // nothing of ours is on this machine
	}
	free, total, err := room(dir)
	switch {
	case err != nil:
		d.say("disk", dir, untested, why(err), "Look at the disk by yourself.")
	case float64(free) < little*float64(total):
		d.say("disk", dir, warn, size(free)+" of "+size(total)+" are free", "Make room: Postgres and NATS stop when the disk is full.")
	default:
		d.say("disk", dir, ok, size(free)+" of "+size(total)+" are free", "")
	}
}

// compareClocks says how far each clock is from ours.
func (d *doctor) compareClocks() {
	slices.SortFunc(d.clocks, func(a, b clock) int { return strings.Compare(a.of, b.of) })
	for _, k := range d.clocks {
		if k.unknown != "" {
			d.say("clocks", k.of, untested, k.unknown, "Mend that first.")
			continue
		}
		off := k.ahead.Abs() - k.within // what cannot be explained by the time it took
		side := "ahead of"
		if k.ahead < 0 {
			side = "behind"
		}
		detail := fmt.Sprintf("%s is %s %s this machine, ± %s", k.of, lasted(k.ahead.Abs()), side, lasted(k.within))
		const mend = "Have one of the two machines set its clock by NTP. AWS refuses requests that are five minutes off; schedules fire by the clocks of the schedulers."
		switch {
		case off > skewFail:
			d.say("clocks", k.of, fail, detail, mend)
		case off > skewWarn:
			d.say("clocks", k.of, warn, detail, mend)
		default:
			d.say("clocks", k.of, ok, detail, "")
		}
	}
}
