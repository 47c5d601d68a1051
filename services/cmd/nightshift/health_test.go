package main

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	grpchealthv1 "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/protobuf/types/known/timestamppb"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	inventoryv1 "nightshift.dev/gen/nightshift/inventory/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/simaws"
)

// patient stands in for health and persistence.
type patient struct {
	healthv1.UnimplementedHealthServiceServer
	healthv1.UnimplementedHealthStateServiceServer
	inventoryv1.UnimplementedInventoryServiceServer

	state     healthv1.ComponentState
	recorded  bool
	postgres  error
	postgresT time.Duration // its clock, ahead
}

func (p *patient) components() []*healthv1.Component {
	return []*healthv1.Component{
		{Name: "account/123456789012", Title: hostile, Kind: healthv1.ComponentKind_COMPONENT_KIND_ACCOUNT, State: p.state, SinceTime: at, CheckTime: at, Reason: hostile},
		{Name: "nats", Kind: healthv1.ComponentKind_COMPONENT_KIND_BUS, State: healthv1.ComponentState_COMPONENT_STATE_UP, SinceTime: at, CheckTime: at, FailingTime: at, Reason: "no answer"},
	}
}

func (p *patient) ListComponents(context.Context, *healthv1.ListComponentsRequest) (*healthv1.ListComponentsResponse, error) {
	return &healthv1.ListComponentsResponse{Components: p.components(), Recorded: p.recorded}, nil
}

func (p *patient) CheckComponents(context.Context, *healthv1.CheckComponentsRequest) (*healthv1.CheckComponentsResponse, error) {
	return &healthv1.CheckComponentsResponse{Components: p.components()[:1], Recorded: true}, nil
}

func (p *patient) ListComponentTransitions(_ context.Context, r *healthv1.ListComponentTransitionsRequest) (*healthv1.ListComponentTransitionsResponse, error) {
	if r.GetFilter() != `component = "nats"` {
		return nil, errs.New(errs.InvalidArgument, "BAD_FILTER", "the filter cannot be used").Field("filter", "is %s", r.GetFilter())
	}
	return &healthv1.ListComponentTransitionsResponse{Transitions: []*healthv1.ComponentTransition{
		{Id: 1, Component: "nats", ToState: healthv1.ComponentState_COMPONENT_STATE_DOWN, Time: at, Reason: hostile},
	}}, nil
}

func (p *patient) GetDatabase(context.Context, *healthv1.GetDatabaseRequest) (*healthv1.GetDatabaseResponse, error) {
	if p.postgres != nil {
		return nil, p.postgres
	}
	return &healthv1.GetDatabaseResponse{
		Version: "17", ServerTime: timestamppb.New(time.Now().Add(p.postgresT)), SchemaVersion: 4, SizeBytes: 12_345_678, Connections: 95, MaxConnections: 100,
	}, nil
}

func (p *patient) GetInstance(_ context.Context, r *inventoryv1.GetInstanceRequest) (*inventoryv1.GetInstanceResponse, error) {
	if r.GetId() != "i-1" {
		return nil, errs.New(errs.NotFound, "INSTANCE_NOT_FOUND", "no instance %s was ever seen", r.GetId())
	}
	return &inventoryv1.GetInstanceResponse{Instance: p.instances()[0]}, nil
}

func (p *patient) instances() []*inventoryv1.Instance {
	return []*inventoryv1.Instance{{
		Id: "i-1", Name: hostile, State: "running", Type: "m5.large", Account: "123456789012", Region: "eu-west-1", LastSeen: at,
		Latest: &inventoryv1.InstanceDay{Day: "2026-08-31", Cpu: &inventoryv1.Gauge{Average: new(0.0), Maximum: new(0.0), P95: new(0.0), Hours: 24}, Memory: &inventoryv1.Gauge{Unknown: "no agent"}},
	}}
}

func (p *patient) ListInstances(_ context.Context, r *inventoryv1.ListInstancesRequest) (*inventoryv1.ListInstancesResponse, error) {
	if strings.Contains(r.GetFilter(), "gone_time") && r.GetFilter() != `(state = "running") AND cpu_average < 5 AND NOT gone_time:*` && r.GetFilter() != "NOT gone_time:*" {
		return nil, errs.New(errs.InvalidArgument, "BAD_FILTER", "the filter cannot be used").Field("filter", "is %s", r.GetFilter())
	}
	return &inventoryv1.ListInstancesResponse{Instances: p.instances()}, nil
}

func (p *patient) ListInstanceDays(context.Context, *inventoryv1.ListInstanceDaysRequest) (*inventoryv1.ListInstanceDaysResponse, error) {
	out := &inventoryv1.ListInstanceDaysResponse{}
	for n := range 4 {
		d := &inventoryv1.InstanceDay{Day: time.Date(2026, 8, 31-n, 0, 0, 0, 0, time.UTC).Format(time.DateOnly), Memory: &inventoryv1.Gauge{Unknown: "no agent\x1b[2J"}}
		if d.Cpu = (&inventoryv1.Gauge{Unknown: "no datapoint"}); n != 2 {
			v := float64(n * 33)
			d.Cpu = &inventoryv1.Gauge{Average: &v, P95: &v, Maximum: new(100.0), Hours: 24, Source: "cloudwatch"}
		}
		out.Days = append(out.Days, d)
	}
	return out, nil
}

// admit serves a patient in place of all services.
func admit(t *testing.T, p *patient) map[string]string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	healthv1.RegisterHealthServiceServer(s, p)
	healthv1.RegisterHealthStateServiceServer(s, p)
	inventoryv1.RegisterInventoryServiceServer(s, p)
	grpchealthv1.RegisterHealthServer(s, health.NewServer())
	go func() { _ = s.Serve(l) }()
	t.Cleanup(s.Stop)
	env := map[string]string{"NIGHTSHIFT_DATA_DIR": ""}
	for _, name := range serviceNames() {
		env["NIGHTSHIFT_"+strings.ToUpper(name)+"_ADDR"] = l.Addr().String()
	}
	return env
}

func TestHealthTellsWhatIsDown(t *testing.T) {
	t.Parallel()
	p := &patient{state: healthv1.ComponentState_COMPONENT_STATE_DEGRADED, recorded: true}
	env := admit(t, p)
	r := execute(t, env, "health")
	if r.code != exitOK || !strings.Contains(r.out, "DEGRADED") || !strings.Contains(r.out, "one more is a verdict: no answer") || strings.ContainsAny(r.out, "\x1b\x00\u202e") {
		t.Errorf("%+v", r)
	}
	p.state, p.recorded = healthv1.ComponentState_COMPONENT_STATE_DOWN, false
	if r := execute(t, env, "health"); r.code != exitError || !strings.Contains(r.err, "account/123456789012 is DOWN") || !strings.Contains(r.err, "one replica of the health service") {
		t.Errorf("%+v", r)
	}
	r = execute(t, env, "health", "--now", "-o", "json")
	var all []map[string]any
	if err := json.Unmarshal([]byte(r.out), &all); err != nil || len(all) != 1 || all[0]["state"] != "DOWN" || r.code != exitError {
		t.Errorf("%v: %+v", err, r)
	}
	if r := execute(t, env, "health", "history", "nats", "-o", "csv"); r.code != exitOK || !strings.Contains(r.out, `2026-09-01T12:30:00Z,nats,,DOWN,"'=HYPERLINK`) {
		t.Errorf("%+v", r)
	}
	if r := execute(t, env, "health", "history", "--filter", "x"); r.code != exitUsage || !strings.Contains(r.err, "filter: is (x)") {
		t.Errorf("%+v", r)
	}
	nobody := map[string]string{"NIGHTSHIFT_HEALTH_ADDR": "127.0.0.1:1"}
	if r := execute(t, nobody, "health"); r.code != exitError || !strings.Contains(r.err, "nightshift doctor") {
		t.Errorf("%+v", r)
	}
}

func TestWatchingHealthWaitsForTheService(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	r := terminal(ctx, 0, admit(t, &patient{state: healthv1.ComponentState_COMPONENT_STATE_UP, recorded: true}), "health", "--watch", "-o", "jsonl")
	if lines := strings.Count(r.out, "\n"); r.code != exitOK || lines != 2 {
		t.Errorf("%d lines: %+v", lines, r)
	}
}

func TestInventoryShowsWhatIsKnown(t *testing.T) {
	t.Parallel()
	env := admit(t, &patient{})
	r := execute(t, env, "inventory", "list", "--state", "running", "--cpu-below", "5")
	if r.code != exitOK || !strings.Contains(r.out, "0.0") || !strings.Contains(r.out, "unknown") || strings.ContainsAny(r.out, "\x1b\x00\u202e") {
		t.Errorf("%+v", r)
	}
	r = execute(t, env, "inventory", "list", "-o", "csv")
	if !strings.Contains(r.out, ",running,m5.large,0,0,,2026-08-31,") {
		t.Errorf("unknown must be empty, and 0 must be 0: %+v", r)
	}
	r = execute(t, env, "inventory", "show", "i-1")
	if r.code != exitOK || !strings.Contains(r.out, "██▁") && !strings.Contains(r.out, "█·▃▁") || !strings.Contains(r.out, "44.0 % on average of 3 days") || strings.Contains(r.out, "\x1b") ||
		!strings.Contains(r.out, "unknown: no agent") {
		t.Errorf("%+v", r)
	}
	r = execute(t, env, "inventory", "show", "i-1", "-o", "json")
	var one struct{ Days []map[string]any }
	if err := json.Unmarshal([]byte(r.out), &one); err != nil || len(one.Days) != 4 {
		t.Errorf("%v: %+v", err, r)
	}
	if r := execute(t, env, "inventory", "show", "i-2"); r.code != exitError || !strings.Contains(r.err, "nightshift inventory list") {
		t.Errorf("%+v", r)
	}
}

func TestSparkline(t *testing.T) {
	t.Parallel()
	if got := sparkline([]*float64{nil, new(0.0), new(12.4), new(50.0), new(99.9), new(100.0), new(250.0), new(-3.0)}, 100); got != "·▁▁▅███▁" {
		t.Errorf("%s", got)
	}
}

// examined is what the doctor said, by area and check.
func examined(t *testing.T, env map[string]string, code int) map[string]map[string]string {
	t.Helper()
	r := execute(t, env, "doctor", "-o", "json")
	var all []map[string]any
	if err := json.Unmarshal([]byte(r.out), &all); err != nil || r.code != code {
		t.Fatalf("%v: %+v", err, r)
	}
	out := map[string]map[string]string{}
	for _, k := range all {
		text := func(name string) string { s, _ := k[name].(string); return s }
		out[text("area")+"/"+text("check")] = map[string]string{"result": text("result"), "detail": text("detail"), "mend": text("mend")}
		if text("result") == "" || text("detail") == "" || text("mend") == "" && text("result") != "OK" {
			t.Errorf("a check says too little: %v", k)
		}
	}
	return out
}

func want(t *testing.T, got map[string]map[string]string, results map[string]string) {
	t.Helper()
	for check, result := range results {
		if got[check]["result"] != result {
			t.Errorf("%s is %s, want %s: %s", check, got[check]["result"], result, got[check]["detail"])
		}
	}
}

func TestDoctorWhereNothingRuns(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"NATS_URL": "nats://127.0.0.1:1", "NIGHTSHIFT_DATA_DIR": "", "DATABASE_URL": "postgres://u:geheim@127.0.0.1:1/x",
		"NIGHTSHIFT_AWS_ENDPOINT": "http://127.0.0.1:1", "NIGHTSHIFT_AWS_ACCESS_KEY_ID": "x", "NIGHTSHIFT_AWS_SECRET_ACCESS_KEY": "geheim",
		"NIGHTSHIFT_SCAN_SCOPES": "many", "NIGHTSHIFT_LOG_LEVEL": "loud",
	}
	for _, name := range serviceNames() {
		env["NIGHTSHIFT_"+strings.ToUpper(name)+"_ADDR"] = "127.0.0.1:1"
	}
	got := examined(t, env, exitError)
	want(t, got, map[string]string{
		"configuration/waste": "FAIL", "configuration/every service": "FAIL", "services/persistence": "FAIL", "services/all": "FAIL", "nats/connection": "FAIL", "postgres/connection": "FAIL",
		"clocks/NATS": "UNKNOWN", "clocks/Postgres": "UNKNOWN", "clocks/AWS": "UNKNOWN", "accounts/all": "UNKNOWN",
	})
	for check, k := range got {
		if strings.Contains(k["detail"]+k["mend"], "geheim") {
			t.Errorf("%s tells a secret: %v", check, k)
		}
	}
	r := execute(t, env, "doctor")
	if r.code != exitError || !strings.Contains(r.out, "→") || !strings.Contains(r.out, "FAIL") {
		t.Errorf("%+v", r)
	}
}

func TestDoctorOfASickInstallation(t *testing.T) {
	t.Parallel()
	nats, err := devstack.NATS(devstack.NATSOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	estate := simaws.Generate(simaws.Options{Seed: 1, Resources: 10, Accounts: 1, Regions: 1})
	cloud := httptest.NewServer(simaws.New(estate, simaws.Config{}))
	t.Cleanup(cloud.Close)
	p := &patient{state: healthv1.ComponentState_COMPONENT_STATE_DOWN, recorded: true, postgresT: -3 * time.Minute}
	env := admit(t, p)
	env["NATS_URL"], env["NIGHTSHIFT_AWS_ENDPOINT"] = nats.URL(), cloud.URL
	env["NIGHTSHIFT_AWS_ACCESS_KEY_ID"], env["NIGHTSHIFT_AWS_SECRET_ACCESS_KEY"] = estate.Accounts[0].AccessKey, simaws.FakeSecret

	// NATS is there, and none of our streams is; Postgres's clock is wrong, and it does not sync.
	got := examined(t, env, exitError)
	want(t, got, map[string]string{
		"configuration/variables": "OK", "services/waste": "OK", "nats/connection": "OK", "nats/streams": "FAIL", "postgres/connection": "OK", "postgres/connections": "WARN",
		"postgres/durability": "WARN", "clocks/Postgres": "FAIL", "clocks/NATS": "UNKNOWN", "clocks/AWS": "OK", "aws/credentials": "OK", "disk/Postgres": "OK",
	})
	if !strings.Contains(got["clocks/Postgres"]["detail"], "3m") || !strings.Contains(got["clocks/Postgres"]["detail"], "behind") {
		t.Errorf("the clock: %v", got["clocks/Postgres"])
	}
	sick := 0
	for check, k := range got {
		if strings.HasPrefix(check, "accounts/123456789012") && k["result"] == "FAIL" {
			sick++
		}
	}
	if sick != 1 {
		t.Errorf("the account that cannot be entered is missing: %v", got)
	}

	// With the streams, and this machine's clock an hour wrong.
	b, err := bus.Connect(t.Context(), bus.Config{URL: nats.URL(), Service: "test"})
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close(t.Context())
	p.postgres = errs.New(errs.Unavailable, "DATABASE_UNAVAILABLE", "the database cannot be reached")
	var out, errors safeBuffer
	c := &cli{out: &out, err: &errors, now: func() time.Time { return time.Now().Add(time.Hour) }, size: func() (int, int) { return 80, 24 },
		lookup: func(name string) (string, bool) { v, ok := env[name]; return v, ok }}
	if code := c.run(t.Context(), []string{"doctor", "-o", "csv"}); code != exitError {
		t.Errorf("code %d: %s", code, errors.String())
	}
	for _, line := range []string{`clocks,NATS,FAIL,"NATS is 1h behind`, `clocks,AWS,FAIL,"AWS is`, `nats,durability,WARN,"5 of 5`, "postgres,connection,FAIL,persistence says: the database cannot be reached"} {
		if !strings.Contains(out.String(), line) {
			t.Errorf("there is no %q in\n%s", line, out.String())
		}
	}
}

// What NATS's monitoring says of syncing, as a server of 2.12 writes it.
func TestDoctorAsksWhetherNATSSyncs(t *testing.T) {
	t.Parallel()
	nats, err := devstack.NATS(devstack.NATSOptions{Listen: "127.0.0.1:0"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nats.Stop)
	b, err := bus.Connect(t.Context(), bus.Config{URL: nats.URL(), Service: "test"})
	if err != nil {
		t.Fatal(err)
	}
	_ = b.Close(t.Context())
	env := admit(t, &patient{state: healthv1.ComponentState_COMPONENT_STATE_UP, recorded: true})
	env["NATS_URL"], env["NIGHTSHIFT_AWS_ENDPOINT"] = nats.URL(), "http://127.0.0.1:1"
	for said, want := range map[string]string{
		`{"server_id": "x", "jetstream": {"config": {"store_dir": "/data", "sync_interval": 120000000000, "strict": true}}}`:      `nats,sync,WARN,it syncs every 2m0s`,
		`{"server_id": "x", "jetstream": {"config": {"store_dir": "/data", "sync_interval": 120000000000, "sync_always": true}}}`: `nats,sync,OK,what is acknowledged is on the disk`,
		`{"server_id": "x", "jetstream": {}}`: `nats,sync,UNKNOWN,`,
		`<html>`:                              `nats,sync,UNKNOWN,`,
	} {
		monitor := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/varz" {
				_, _ = w.Write([]byte(said))
			}
		}))
		t.Cleanup(monitor.Close)
		if r := execute(t, env, "doctor", "-o", "csv", "--nats-monitor", monitor.URL); !strings.Contains(r.out, want) {
			t.Errorf("%s: there is no %s in\n%s", said, want, r.out)
		}
	}
}

func TestDoctorOfADirectoryThatIsBroken(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, endpointsFile), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"NIGHTSHIFT_DATA_DIR": dir, "NATS_URL": "nats://127.0.0.1:1", "NIGHTSHIFT_AWS_ENDPOINT": "http://127.0.0.1:1", "NIGHTSHIFT_AWS_ACCESS_KEY_ID": "x", "NIGHTSHIFT_AWS_SECRET_ACCESS_KEY": "y"}
	want(t, examined(t, env, exitError), map[string]string{"configuration/data directory": "FAIL", "services/all": "FAIL", "disk/" + dir: "OK"})
}
