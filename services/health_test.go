package services_test

import (
	"context"
	"errors"
	"log/slog"
	"math"
	"net/http/httptest"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	inventoryv1 "nightshift.dev/gen/nightshift/inventory/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/config"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/simaws"
	"nightshift.dev/services"
	"nightshift.dev/services/health"
	"nightshift.dev/services/persistence"
	"nightshift.dev/services/scheduler"
)

// The health service looks at every service there is.
func TestHealthLooksAtAllServices(t *testing.T) {
	t.Parallel()
	var c health.Config
	if err := config.Load(&c, func(string) (string, bool) { return "", false }); err != nil {
		t.Fatal(err)
	}
	for _, def := range services.All {
		if !slices.Contains(c.Services, def.Name) {
			t.Errorf("the default of NIGHTSHIFT_HEALTH_SERVICES leaves out %s", def.Name)
		}
	}
	if len(c.Services) != len(services.All) {
		t.Errorf("the default of NIGHTSHIFT_HEALTH_SERVICES has %v", c.Services)
	}
}

// ward is a health service with what it needs, on a simulated AWS.
type ward struct {
	ahead  atomic.Int64 // of the real clock
	server *simaws.Server
	host   *app.Host
}

func (w *ward) now() time.Time { return time.Now().Add(time.Duration(w.ahead.Load())) }

func admit(t *testing.T, o simaws.Options, looksAt string, defs ...app.Definition) *ward {
	t.Helper()
	w := &ward{}
	// Three in the morning, some time ahead: the day before has settled.
	morning := time.Now().UTC().Truncate(24 * time.Hour).Add(27 * time.Hour)
	w.ahead.Store(int64(time.Until(morning)))
	o.Now = morning
	estate := simaws.Generate(o)
	w.server = simaws.New(estate, simaws.Config{Clock: w.now, NoQuotas: true})
	endpoint := httptest.NewServer(w.server)
	t.Cleanup(endpoint.Close)
	set := map[string]string{
		"DATABASE_URL": devtest.DB(t, persistence.Migrate), "NIGHTSHIFT_AWS_ENDPOINT": endpoint.URL, "NIGHTSHIFT_AWS_ACCESS_KEY_ID": estate.Accounts[0].AccessKey,
		"NIGHTSHIFT_AWS_SECRET_ACCESS_KEY": simaws.FakeSecret, "NIGHTSHIFT_HEALTH_SERVICES": looksAt, "NIGHTSHIFT_HEALTH_INTERVAL": "1h",
	}
	var err error
	w.host, err = app.Start(t.Context(), app.Options{
		Definitions: defs, Listen: func(string) string { return "127.0.0.1:0" }, Bus: bus.Config{Options: devtest.NATS(t).Options()},
		Lookup: func(name string) (string, bool) { v, ok := set[name]; return v, ok }, Log: slog.New(slog.DiscardHandler), Now: w.now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.host.Run(ctx) }()
	t.Cleanup(func() { stop(); <-ended })
	return w
}

// check runs the job and returns the run as it ended.
func (w *ward) check(ctx context.Context, t *testing.T) *runv1.Run {
	t.Helper()
	jobs := jobv1.NewJobServiceClient(w.host.Dial("scheduler"))
	for {
		if _, err := jobs.GetJob(ctx, &jobv1.GetJobRequest{Name: "health-check"}); err == nil {
			break
		} else if !errors.Is(err, errs.NotFound) {
			t.Fatal(err)
		}
		await(ctx, t, "the default job")
	}
	r, err := jobs.RunJob(ctx, &jobv1.RunJobRequest{Name: "health-check", RequestedBy: "test"})
	if err != nil {
		t.Fatal(err)
	}
	watch, err := runv1.NewRunServiceClient(w.host.Dial("persistence")).WatchRun(ctx, &runv1.WatchRunRequest{Id: r.GetRunId()})
	if err != nil {
		t.Fatal(err)
	}
	for {
		m, err := watch.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if m.GetRun().GetEndTime() != nil {
			return m.GetRun()
		}
	}
}

// From AWS to the API: every instance with the figures of its days, and the next
// day only what is new.
func TestInventoryOfAnEstate(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	w := admit(t, simaws.Options{Seed: 9, Accounts: 1, Regions: 1, Resources: 300}, "health", persistence.Definition, health.Definition, scheduler.Definition)
	account := w.server.Estate().Accounts[0]
	region := account.Regions[0]
	accounts := accountv1.NewAccountServiceClient(w.host.Dial("persistence"))
	if _, err := accounts.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: account.ID, Name: "one", Regions: []string{region.Name}}}); err != nil {
		t.Fatal(err)
	}
	first := w.check(ctx, t)
	if first.GetState() != runv1.RunState_RUN_STATE_SUCCEEDED || first.GetProgress().GetResources() != int64(len(region.Instances)) {
		t.Fatalf("the run ended %s: %s; it saw %d of %d instances", first.GetState(), first.GetError(), first.GetProgress().GetResources(), len(region.Instances))
	}
	api := inventoryv1.NewInventoryServiceClient(w.host.Dial("persistence"))
	listed := map[string]*inventoryv1.Instance{}
	req := &inventoryv1.ListInstancesRequest{PageSize: 50}
	for {
		r, err := api.ListInstances(ctx, req)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range r.GetInstances() {
			listed[i.GetId()] = i
		}
		if req.PageToken = r.GetNextPageToken(); req.PageToken == "" {
			break
		}
	}
	if len(listed) != len(region.Instances) {
		t.Errorf("%d of %d instances are listed", len(listed), len(region.Instances))
	}
	midnight := w.now().UTC().Truncate(24 * time.Hour)
	var known, silent, remembered int
	for n := range region.Instances {
		in := &region.Instances[n]
		days, err := api.ListInstanceDays(ctx, &inventoryv1.ListInstanceDaysRequest{Id: in.ID})
		if err != nil {
			t.Fatal(err)
		}
		if in.MetricStatus != "" {
			for _, d := range days.GetDays() {
				if d.GetCpu().Average != nil || d.GetMemory().Average != nil {
					t.Errorf("%s has no metrics that can be read, and a day %v", in.ID, d)
				}
			}
			continue
		}
		cpu := w.server.HoursTruth(account, region, in, false, midnight.AddDate(0, 0, -30), midnight)
		memory := w.server.HoursTruth(account, region, in, true, midnight.AddDate(0, 0, -30), midnight)
		for _, d := range days.GetDays() {
			day, _ := time.Parse(time.DateOnly, d.GetDay())
			for _, x := range []struct {
				got   *inventoryv1.Gauge
				truth map[time.Time]simaws.HourTruth
			}{{d.GetCpu(), cpu}, {d.GetMemory(), memory}} {
				hours, sum, top := 0, 0.0, 0.0
				for h, v := range x.truth {
					if !h.Before(day) && h.Before(day.AddDate(0, 0, 1)) {
						hours, sum, top = hours+1, sum+v.Average, max(top, v.Maximum)
					}
				}
				switch {
				case x.got.Average == nil:
					if silent++; x.got.GetUnknown() == "" || x.got.GetHours() != 0 {
						t.Errorf("%s on %s: %v does not say why it is unknown", in.ID, d.GetDay(), x.got)
					}
					if hours > 0 && x.got == d.GetCpu() {
						t.Errorf("%s on %s: CPU is unknown (%s), and has %d hours", in.ID, d.GetDay(), x.got.GetUnknown(), hours)
					}
				case int(x.got.GetHours()) != hours || math.Abs(x.got.GetAverage()-sum/float64(hours)) > 1e-5 || math.Abs(x.got.GetMaximum()-top) > 1e-5 || x.got.GetSource() == "":
					t.Errorf("%s on %s: %v, want %d hours of %.3f, at most %.3f", in.ID, d.GetDay(), x.got, hours, sum/float64(hours), top)
				default:
					if known++; x.got == d.GetMemory() {
						remembered++
					}
				}
			}
		}
	}
	if known < 500 || silent < 100 || remembered < 100 {
		t.Errorf("%d figures are known, %d unknown and %d of memory: the estate tests nothing", known, silent, remembered)
	}

	// Nothing is new on the same day. What could not be read is asked for again.
	all := w.days(ctx, t, api)
	again := w.check(ctx, t)
	before := w.days(ctx, t, api)
	if before != all {
		t.Errorf("the same day again brought %d days", before-all)
	}
	billed := first.GetProgress().GetMeter().GetBilledMetrics()
	if n := again.GetProgress().GetMeter().GetBilledMetrics(); n > billed/4 {
		t.Errorf("the same day again was billed %d metrics, the first time %d", n, billed)
	}
	// A day later there is one day to read of each.
	w.ahead.Add(int64(24 * time.Hour))
	next := w.check(ctx, t)
	if n := w.days(ctx, t, api) - before; n == 0 || n > len(region.Instances) {
		t.Errorf("the next day brought %d days of %d instances", n, len(region.Instances))
	}
	t.Logf("%d instances, %d figures known, %d unknown, %d of memory; billed %d, %d, %d", len(region.Instances), known, silent, remembered,
		billed, again.GetProgress().GetMeter().GetBilledMetrics(), next.GetProgress().GetMeter().GetBilledMetrics())
}

// days counts the days of all instances.
func (w *ward) days(ctx context.Context, t *testing.T, api inventoryv1.InventoryServiceClient) (n int) {
	t.Helper()
	for _, in := range w.server.Estate().Accounts[0].Regions[0].Instances {
		r, err := api.ListInstanceDays(ctx, &inventoryv1.ListInstanceDaysRequest{Id: in.ID})
		if err != nil {
			t.Fatal(err)
		}
		n += len(r.GetDays())
	}
	return n
}

// The components of an installation in which one service is not there, and one
// account cannot be entered.
func TestComponentsOfAnInstallation(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w := admit(t, simaws.Options{Seed: 9, Accounts: 2, Regions: 1, Resources: 60}, "health,persistence,scheduler,notification", persistence.Definition, health.Definition, scheduler.Definition)
	accounts := accountv1.NewAccountServiceClient(w.host.Dial("persistence"))
	for n, a := range w.server.Estate().Accounts {
		role := "arn:aws:iam::" + a.ID + ":role/Nobody"
		if n == 0 {
			role = ""
		}
		if _, err := accounts.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: a.ID, Name: a.Name, RoleArn: role}}); err != nil {
			t.Fatal(err)
		}
	}
	api := healthv1.NewHealthServiceClient(w.host.Dial("health"))
	look := func() map[string]*healthv1.Component {
		t.Helper()
		r, err := api.CheckComponents(ctx, &healthv1.CheckComponentsRequest{})
		if err != nil {
			t.Fatal(err)
		}
		if !r.GetRecorded() {
			t.Error("the look is not recorded")
		}
		out := map[string]*healthv1.Component{}
		for _, c := range r.GetComponents() {
			out[c.GetName()] = c
		}
		return out
	}
	// What changed is told before time passes, or it would have waited for so long.
	later := func(d time.Duration) {
		t.Helper()
		for {
			r, err := healthv1.NewHealthStateServiceClient(w.host.Dial("persistence")).GetDatabase(ctx, &healthv1.GetDatabaseRequest{})
			if err != nil {
				t.Fatal(err)
			}
			if r.GetOutbox() == 0 {
				break
			}
			time.Sleep(5 * time.Millisecond)
		}
		w.ahead.Add(int64(d))
	}
	look()
	later(30 * time.Minute) // half of the interval: another look
	got := look()
	well, ill := w.server.Estate().Accounts[0], w.server.Estate().Accounts[1]
	for name, want := range map[string]healthv1.ComponentState{
		"service/health": healthv1.ComponentState_COMPONENT_STATE_UP, "service/persistence": healthv1.ComponentState_COMPONENT_STATE_UP,
		"service/scheduler": healthv1.ComponentState_COMPONENT_STATE_UP, "service/notification": healthv1.ComponentState_COMPONENT_STATE_DOWN,
		"nats": healthv1.ComponentState_COMPONENT_STATE_UP, "postgres": healthv1.ComponentState_COMPONENT_STATE_UP,
		"account/" + well.ID: healthv1.ComponentState_COMPONENT_STATE_UNKNOWN, // never scanned
		"account/" + ill.ID:  healthv1.ComponentState_COMPONENT_STATE_DOWN,
	} {
		if c := got[name]; c.GetState() != want || c.GetReason() == "" {
			t.Errorf("%s is %s because %q, want %s", name, c.GetState(), c.GetReason(), want)
		}
	}
	if len(got) != 8 || got["service/health"].GetAttributes()["version"] != app.Version {
		t.Errorf("%d components; the version of health is %q", len(got), got["service/health"].GetAttributes()["version"])
	}
	// An account that is removed is none any more, and its history stays.
	if _, err := accounts.DeleteAccount(ctx, &accountv1.DeleteAccountRequest{Id: ill.ID}); err != nil {
		t.Fatal(err)
	}
	later(30 * time.Minute)
	if _, there := look()["account/"+ill.ID]; there {
		t.Error("an account that was removed is still a component")
	}
	r, err := api.ListComponentTransitions(ctx, &healthv1.ListComponentTransitionsRequest{Filter: `component = "account/` + ill.ID + `"`})
	if err != nil || len(r.GetTransitions()) != 2 || r.GetTransitions()[0].GetToState() != healthv1.ComponentState_COMPONENT_STATE_DOWN {
		t.Errorf("%v %v", r, err)
	}
	if _, err := api.ListComponentTransitions(ctx, &healthv1.ListComponentTransitionsRequest{Filter: "bogus = 1"}); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("a bad filter: %v", err)
	}
}
