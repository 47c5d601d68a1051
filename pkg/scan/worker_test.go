package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	rulev1 "nightshift.dev/gen/nightshift/rule/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	"nightshift.dev/pkg/app"
	"nightshift.dev/pkg/aws"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
	"nightshift.dev/pkg/inventory"
	"nightshift.dev/pkg/job"
	"nightshift.dev/pkg/job/jobtest"
	"nightshift.dev/pkg/rule"
	"nightshift.dev/pkg/simaws"
)

// patience bounds every wait for another goroutine: reaching it is a failure.
const patience = 20 * time.Second

// keeper stands for what of persistence a worker asks beside runs.
type keeper struct {
	accountv1.UnimplementedAccountServiceServer
	scanv1.UnimplementedScopeStateServiceServer

	mu        sync.Mutex
	accounts  []*accountv1.Account
	down      error // what every call answers, if set
	open      []string
	sightings []*scanv1.Sighting
}

// ListAccounts answers one account a page.
func (k *keeper) ListAccounts(_ context.Context, req *accountv1.ListAccountsRequest) (*accountv1.ListAccountsResponse, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down != nil {
		return nil, k.down
	}
	if req.GetFilter() != `state = "ACTIVE"` {
		return nil, errs.New(errs.InvalidArgument, "FILTER", "unexpected filter %q", req.GetFilter())
	}
	at := 0
	if req.GetPageToken() != "" {
		_, _ = fmt.Sscan(req.GetPageToken(), &at)
	}
	r := &accountv1.ListAccountsResponse{}
	if at < len(k.accounts) {
		r.Accounts = k.accounts[at : at+1]
	}
	if at+1 < len(k.accounts) {
		r.NextPageToken = fmt.Sprint(at + 1)
	}
	return r, nil
}

func (k *keeper) ListScopeState(req *scanv1.ListScopeStateRequest, s grpc.ServerStreamingServer[scanv1.ListScopeStateResponse]) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.down != nil {
		return k.down
	}
	for _, id := range k.open {
		if err := s.Send(&scanv1.ListScopeStateResponse{OpenFindingIds: []string{id}}); err != nil {
			return err
		}
	}
	return s.Send(&scanv1.ListScopeStateResponse{Sightings: k.sightings})
}

// stage is a worker, a keeper and a bus between them.
type stage struct {
	*keeper
	runs   *jobtest.Runs
	worker *Worker
	bus    *bus.Bus // the worker's
	ears   *bus.Bus
	conn   grpc.ClientConnInterface
	stop   func() // the worker's bus

	observed chan *findingv1.FindingsObserved
	finished chan *scanv1.ScopeFinished
}

func theatre(t *testing.T, set *Set, accounts ...*accountv1.Account) *stage {
	t.Helper()
	nats := devtest.NATS(t)
	log := slog.New(slog.DiscardHandler)
	connect := func(service string) *bus.Bus {
		b, err := bus.Connect(t.Context(), bus.Config{URL: nats.URL(), Options: nats.Options(), Service: service, Log: log, Grace: time.Millisecond})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = b.Close(context.WithoutCancel(t.Context())) })
		return b
	}
	st := &stage{
		bus: connect(set.Service()), ears: connect("persistence"),
		observed: make(chan *findingv1.FindingsObserved, 1000), finished: make(chan *scanv1.ScopeFinished, 1000),
		keeper: &keeper{accounts: accounts},
	}
	st.runs = jobtest.New(st.ears)
	persistence := st.runs.Connect(t, func(r grpc.ServiceRegistrar) {
		accountv1.RegisterAccountServiceServer(r, st.keeper)
		scanv1.RegisterScopeStateServiceServer(r, st.keeper)
	})
	var err error
	st.worker, err = New(t.Context(), &app.Env{
		Name: set.Service(), Log: log, Bus: st.bus, Now: func() time.Time { return testTime.Add(123456789) }, // clocks do not strike whole seconds
		Dial: func(string) grpc.ClientConnInterface { return persistence },
	}, set, Config{Scopes: 2, CloudConfig: CloudConfig{QuotaShare: 1, Endpoint: "http://127.0.0.1:1", AccessKeyID: "AKIATEST", SecretAccessKey: "x"}}, "")
	if err != nil {
		t.Fatal(err)
	}
	st.worker.cloud = nil // test kinds make no calls
	st.conn = jobtest.Serve(t, st.worker.Register)
	bus.On(st.ears, func(_ context.Context, m *bus.Message[*findingv1.FindingsObserved]) error {
		st.observed <- m.Body
		return nil
	})
	bus.On(st.ears, func(_ context.Context, m *bus.Message[*scanv1.ScopeFinished]) error {
		st.finished <- m.Body
		return nil
	}, bus.Group("observer"))
	return st
}

// run runs both buses until the test ends.
func (st *stage) run(t *testing.T) {
	t.Helper()
	ctx := t.Context()
	run := func(b *bus.Bus) (stop func()) {
		ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
		done := make(chan error, 1)
		go func() { done <- b.Run(ctx) }()
		stop = sync.OnceFunc(func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		t.Cleanup(stop)
		return stop
	}
	st.stop = run(st.bus)
	run(st.ears)
	// A consumer of triggers takes only what comes after it was made.
	for deadline := time.Now().Add(patience); ; {
		triggered, err1 := bus.Handled[*jobv1.JobTriggered](ctx, st.ears)
		requested, err2 := bus.Handled[*jobv1.JobRequested](ctx, st.ears)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		if len(triggered) > 0 && len(requested) > 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the worker does not listen")
		}
	}
}

func (st *stage) end(t *testing.T) *scanv1.ScopeFinished {
	t.Helper()
	select {
	case f := <-st.finished:
		return f
	case <-time.After(patience):
		t.Fatal("no scope finished")
		return nil
	}
}

// batchesOf takes so many batches, in any order, and returns them in theirs.
func (st *stage) batchesOf(t *testing.T, n int32) []*findingv1.FindingsObserved {
	t.Helper()
	var all []*findingv1.FindingsObserved
	for range n {
		select {
		case b := <-st.observed:
			all = append(all, b)
		case <-time.After(patience):
			t.Fatal("a batch is missing")
		}
	}
	slices.SortFunc(all, func(a, b *findingv1.FindingsObserved) int { return int(a.Sequence - b.Sequence) })
	return all
}

func account(id string, regions ...string) *accountv1.Account {
	return &accountv1.Account{Id: id, Partition: "aws", Regions: regions}
}

func trigger(id string, parameters map[string]string) *jobv1.Trigger {
	return &jobv1.Trigger{
		RunId: "waste-scan/" + id, Job: "waste-scan", Kind: "waste", PlannedTime: timestamppb.New(testTime), Parameters: parameters,
		Backoff: &jobv1.Backoff{Initial: durationpb.New(time.Millisecond)},
	}
}

// mixed is a rule that finds every other thing in order.
func mixed(pages, size int) Rule[thing] {
	r := aRule("rule-mixed", things(pages, size, nil))
	r.Follow = func(t thing) (string, bool) { return t.State, true }
	r.Judge = func(in In, t thing) rule.Verdict {
		if (t.ID[len(t.ID)-1]-'0')%2 == 0 {
			v := violation(2)
			v.Since = in.Sighting.FirstSeen
			return v
		}
		return compliant()
	}
	r.Examples = []Example[thing]{{Resource: thing{Resource: inventory.Resource{ID: "0"}}, Want: Want{Outcome: rule.Violation, Severity: rule.Low, Cost: "2.00"}}}
	return r
}

func TestRunFromTriggerToEnd(t *testing.T) {
	t.Parallel()
	st := theatre(t, setOf(mixed(6, 200)), account("111111111111", "us-east-1", "eu-west-1"), account("222222222222", "us-east-1"))
	arn := func(id string) string { return "arn:aws:test:us-east-1:222222222222:" + id }
	st.open = []string{FindingID("aws", "222222222222", "us-east-1", "rule-mixed", arn("t-0-1")), "ffffffffffffffffffffffffffffffff"}
	st.sightings = []*scanv1.Sighting{{Arn: arn("t-0-0"), State: "loose", FirstSeen: timestamppb.New(testTime.Add(-Day))}}
	st.run(t)
	if _, err := st.bus.Append(t.Context(), &jobv1.JobTriggered{Kind: "waste", Job: "waste-scan", Trigger: trigger("1", nil)}, 0); err != nil {
		t.Fatal(err)
	}
	scopes := map[string]*scanv1.ScopeFinished{}
	total := int32(0)
	for range 3 {
		f := st.end(t)
		scopes[f.GetScope().GetAccount()+" "+f.GetScope().GetRegion()] = f
		total += f.GetBatches()
		if f.GetError() != "" || f.GetRunId() != "waste-scan/1" || f.GetScope().GetService() != "waste" || f.GetExecution() == "" ||
			f.GetCoverage()[0].GetStatus() != scanv1.CoverageStatus_COVERAGE_STATUS_COMPLETE || f.GetTallies()[0].GetViolations() != 600 ||
			f.GetTallies()[0].GetCompliant() != 600 || f.GetProgress().GetMonthlyCost() != 1200 || f.GetMeter() == nil {
			t.Errorf("finished with %v", f)
		}
	}
	if len(scopes) != 3 || scopes["222222222222 us-east-1"] == nil || scopes["111111111111 eu-west-1"] == nil {
		t.Fatalf("scopes are %v", slices.Collect(maps.Keys(scopes)))
	}
	perScope := map[string][]*findingv1.FindingsObserved{}
	for _, b := range st.batchesOf(t, total) {
		key := b.GetScope().GetAccount() + " " + b.GetScope().GetRegion()
		perScope[key] = append(perScope[key], b)
	}
	for key, batches := range perScope {
		violations, others, sighted := 0, []string{}, 0
		for i, b := range batches {
			if b.GetSequence() != int32(i+1) || b.GetExecution() != scopes[key].GetExecution() {
				t.Errorf("%s: batch %d of %s at place %d of %s", key, b.GetSequence(), b.GetExecution(), i+1, scopes[key].GetExecution())
			}
			sighted += len(b.GetSightings())
			for _, o := range b.GetObservations() {
				// To the end of the scope the verdict is as old as the scan; a difference would make it one of another scan.
				if at, start := o.GetObservedAt().AsTime(), scopes[key].GetStartTime().AsTime(); !at.Equal(start) || at.Nanosecond() == 0 {
					t.Fatalf("%s: observed at %s by the scan of %s", key, at, start)
				}
				if o.GetVerdict().GetOutcome() != rulev1.Outcome_OUTCOME_VIOLATION {
					others = append(others, o.GetResource().GetId())
					continue
				}
				violations++
				remembered := key == "222222222222 us-east-1" && o.GetResource().GetId() == "t-0-0"
				if (o.GetVerdict().GetSince() != nil) != remembered {
					t.Errorf("%s %s: since is %v", key, o.GetResource().GetId(), o.GetVerdict().GetSince())
				}
			}
		}
		// Beside violations only what was open goes out.
		want := 0
		if key == "222222222222 us-east-1" {
			want = 1
		}
		if violations != 600 || len(others) != want || sighted != 1200 {
			t.Errorf("%s: %d violations, others %v, %d sightings", key, violations, others, sighted)
		}
	}
}

func TestPlanning(t *testing.T) {
	t.Parallel()
	accounts := []*accountv1.Account{account("111111111111", "us-east-1", "eu-west-1"), account("222222222222", "eu-west-1")}
	for name, c := range map[string]struct {
		accounts   []*accountv1.Account
		parameters map[string]string
		scopes     []string
		fails      []string
	}{
		"everything":        {accounts, nil, []string{"111111111111 us-east-1", "111111111111 eu-west-1", "222222222222 eu-west-1"}, nil},
		"one account":       {accounts, map[string]string{"accounts": " 222222222222 "}, []string{"222222222222 eu-west-1"}, nil},
		"one region":        {accounts, map[string]string{"regions": "ap-south-1"}, []string{"111111111111 ap-south-1", "222222222222 ap-south-1"}, nil},
		"a rule":            {accounts, map[string]string{"rules": "rule-mixed", "accounts": "222222222222"}, []string{"222222222222 eu-west-1"}, nil},
		"an account lost":   {accounts, map[string]string{"accounts": "222222222222,333333333333"}, []string{"333333333333 - not registered", "222222222222 eu-west-1"}, nil},
		"no accounts":       {nil, nil, nil, []string{"no active account"}},
		"an unknown rule":   {accounts, map[string]string{"rules": "rule-z"}, nil, []string{"rule-z", "rule-mixed"}},
		"an odd account":    {accounts, map[string]string{"accounts": "1234"}, nil, []string{"1234", "12-digit"}},
		"an odd region":     {accounts, map[string]string{"regions": "Europe!"}, nil, []string{"Europe!", "eu-west-1"}},
		"an odd parameter":  {accounts, map[string]string{"rulez": "x"}, nil, []string{"rulez", "accounts, regions, rules"}},
		"several mistakes":  {accounts, map[string]string{"rulez": "x", "regions": "E", "accounts": "1"}, nil, []string{"rulez", "regions", "accounts"}},
		"empty is no limit": {accounts[1:], map[string]string{"rules": "", "accounts": " , "}, []string{"222222222222 eu-west-1"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := theatre(t, setOf(mixed(1, 2)), c.accounts...)
			plan, err := st.worker.planRun(t.Context(), trigger("1", c.parameters))
			var got []string
			for _, p := range plan {
				s := p.GetScope().GetAccount() + " " + p.GetScope().GetRegion()
				if p.GetFailure() != nil {
					s += strings.TrimSuffix(strings.TrimPrefix(p.GetFailure().GetError(), "the account is"), ", or not active")
				}
				got = append(got, s)
			}
			if !slices.Equal(got, c.scopes) {
				t.Errorf("planned %q, want %q", got, c.scopes)
			}
			if (len(c.fails) > 0) != (err != nil) || err != nil && job.MayPass(err) {
				t.Errorf("failed with %v", err)
			}
			for _, want := range c.fails {
				if !strings.Contains(fmt.Sprint(err), want) {
					t.Errorf("failed with %q, which does not say %q", err, want)
				}
			}
		})
	}
}

// Accounts without regions of their own are asked for them. One that cannot be
// entered is a failed scope; when none can, planning is tried again, and in
// the end the run has failed.
func TestPlanningAsksForRegions(t *testing.T) {
	t.Parallel()
	estate := simaws.Generate(simaws.Options{Seed: 1, Accounts: 2, Regions: 3, Resources: 20})
	server := simaws.New(estate, simaws.Config{NoQuotas: true})
	done, err := server.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { <-done })
	open := func(t *testing.T, accounts ...*accountv1.Account) *stage {
		st := theatre(t, setOf(mixed(1, 2)), accounts...)
		st.worker.cloud, err = aws.New(t.Context(), aws.Config{
			Region: "us-east-1", Endpoint: server.URL(), AccessKeyID: simaws.DemoAccessKey, SecretAccessKey: simaws.FakeSecret,
			Backoff: func(int) time.Duration { return time.Millisecond },
		})
		if err != nil {
			t.Fatal(err)
		}
		return st
	}
	entered := func(a *simaws.Account, externalID string) *accountv1.Account {
		return &accountv1.Account{Id: a.ID, Partition: "aws", RoleArn: a.RoleARN(simaws.ReadOnlyRole), ExternalId: externalID}
	}
	good, bad := entered(estate.Accounts[0], estate.Accounts[0].Roles[0].ExternalID), entered(estate.Accounts[1], "wrong")

	st := open(t, good, bad)
	planned, err := st.worker.planRun(t.Context(), trigger("1", nil))
	if err != nil {
		t.Fatal(err)
	}
	if len(planned) != 4 {
		t.Fatalf("planned %v", planned)
	}
	for _, p := range planned[:3] {
		if p.GetFailure() != nil || p.GetScope().GetAccount() != good.GetId() || p.GetRoleArn() != good.GetRoleArn() || p.GetExternalId() != good.GetExternalId() {
			t.Errorf("planned %v", p)
		}
	}
	if p := planned[3]; p.GetScope().GetRegion() != "-" || p.GetFailure().GetStatus() != scanv1.CoverageStatus_COVERAGE_STATUS_DENIED ||
		!strings.Contains(p.GetFailure().GetError(), "sts:AssumeRole") {
		t.Errorf("planned %v", p)
	}

	st = open(t, bad)
	if planned, err := st.worker.planRun(t.Context(), trigger("1", nil)); err != nil || len(planned) != 1 {
		t.Errorf("a denied account alone: %v, planned %v", err, planned)
	}

	st = open(t, good)
	if err := server.SetFaults(simaws.Fault{Kind: "error", Action: "DescribeRegions", Status: 503}); err != nil {
		t.Fatal(err)
	}
	if planned, err := st.worker.planRun(t.Context(), trigger("1", nil)); err == nil || !mayPass(err) || !strings.Contains(err.Error(), "ec2:DescribeRegions") {
		t.Errorf("without an answer: %v, planned %v", err, planned)
	}
}

// ask asks for a run.
func (st *stage) ask(t *testing.T, tr *jobv1.Trigger) {
	t.Helper()
	if err := st.ears.Publish(t.Context(), &jobv1.JobRequested{Trigger: tr}); err != nil {
		t.Fatal(err)
	}
}

func (st *stage) until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !ok(); <-time.After(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s: %+v", what, st.runs.Scopes("waste-scan/1"))
		}
	}
}

func (st *stage) dead(t *testing.T) int {
	t.Helper()
	dead, err := st.bus.DeadLetters().List(t.Context(), "", 0, 10)
	if err != nil {
		t.Fatal(err)
	}
	return len(dead)
}

func TestScopeThatFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err    error
		passes bool
		status scanv1.CoverageStatus
	}{
		"throttled":         {&aws.Error{Class: aws.Throttled}, true, scanv1.CoverageStatus_COVERAGE_STATUS_FAILED},
		"unreachable":       {&aws.Error{Class: aws.Unreachable}, true, scanv1.CoverageStatus_COVERAGE_STATUS_FAILED},
		"otherwise":         {&aws.Error{Class: aws.Failed}, true, scanv1.CoverageStatus_COVERAGE_STATUS_FAILED},
		"denied is no use":  {&aws.Error{Class: aws.Denied}, false, scanv1.CoverageStatus_COVERAGE_STATUS_DENIED},
		"region disabled":   {&aws.Error{Class: aws.RegionDisabled}, false, scanv1.CoverageStatus_COVERAGE_STATUS_REGION_DISABLED},
		"credentials wrong": {&aws.Error{Class: aws.Credentials}, false, scanv1.CoverageStatus_COVERAGE_STATUS_DENIED},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			st := theatre(t, setOf(aRule("rule-a", things(0, 0, c.err))), account("111111111111", "us-east-1"))
			st.run(t)
			tr, attempts := trigger("1", nil), 1
			if tr.MaxRetries = 2; c.passes {
				attempts = 3
			}
			st.ask(t, tr)
			f := st.end(t)
			if f.GetError() == "" || f.GetCoverage()[0].GetStatus() != c.status || f.GetBatches() != 0 {
				t.Errorf("finished with %v", f)
			}
			// A scope that keeps failing ends as a failed scope and as a dead letter.
			if c.passes {
				st.until(t, "there is a dead letter", func() bool { return st.dead(t) == 1 })
			}
			if sc := st.runs.Scopes("waste-scan/1")[0]; sc.Attempts != attempts {
				t.Errorf("%d attempts: %+v", sc.Attempts, sc)
			}
		})
	}
}

// waiting is a kind that shows one page and then waits for the end of time.
func waiting(began chan<- struct{}) inventory.Kind[thing] {
	k := things(1, 3, nil)
	list := k.List
	k.List = func(ctx context.Context, s *aws.Session, page func([]thing) error) error {
		if err := list(ctx, s, page); err != nil {
			return err
		}
		if began != nil {
			close(began)
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}
	return k
}

// What was seen until the time was over counts, once the retries are used up.
func TestScopeTakesTooLong(t *testing.T) {
	t.Parallel()
	st := theatre(t, setOf(aRule("rule-a", waiting(nil))), account("111111111111", "us-east-1"))
	st.run(t)
	tr := trigger("1", nil)
	tr.MaxRetries, tr.Timeout = 1, durationpb.New(30*time.Millisecond)
	st.ask(t, tr)
	f := st.end(t)
	if c := f.GetCoverage()[0]; c.GetStatus() != scanv1.CoverageStatus_COVERAGE_STATUS_PARTIAL || c.GetResources() != 3 || !strings.Contains(c.GetError(), "30ms") {
		t.Errorf("coverage is %v", c)
	}
	if f.GetError() != "" || f.GetTallies()[0].GetViolations() != 3 || f.GetBatches() != 1 || f.GetProgress().GetResources() != 3 {
		t.Errorf("finished with %v", f)
	}
	if sc := st.runs.Scopes("waste-scan/1")[0]; sc.Attempts != 2 || sc.Failures != 2 || st.dead(t) != 0 {
		t.Errorf("scope is %+v, %d dead letters", sc, st.dead(t))
	}
}

func TestStoppingGivesTheScopeBack(t *testing.T) {
	t.Parallel()
	began := make(chan struct{})
	st := theatre(t, setOf(aRule("rule-a", waiting(began))), account("111111111111", "us-east-1"))
	st.run(t)
	st.ask(t, trigger("1", nil))
	<-began
	st.stop()
	if sc := st.runs.Scopes("waste-scan/1")[0]; len(sc.Ends)+len(st.finished) != 0 || sc.Failures != 0 || st.dead(t) != 0 {
		t.Errorf("it said that the scope has ended: %+v", sc)
	}
}

// While persistence is away work waits, and that is nobody's failure.
func TestPersistenceAway(t *testing.T) {
	t.Parallel()
	st := theatre(t, setOf(mixed(1, 2)), account("111111111111", "us-east-1"))
	st.down = errs.New(errs.Unavailable, "DOWN", "the database is away")
	st.run(t)
	if _, err := st.worker.planRun(t.Context(), trigger("1", nil)); !errors.Is(err, errs.Unavailable) || !mayPass(err) {
		t.Errorf("planning failed with %v", err)
	}
}

// volumes is a rule over real listings, which tells when a listing ended.
func volumes(ended chan<- time.Time) *Set {
	k := inventory.Volumes
	list := k.List
	k.List = func(ctx context.Context, s *aws.Session, page func([]inventory.Volume) error) error {
		err := list(ctx, s, page)
		ended <- time.Now()
		return err
	}
	m := acrossMeta("volumes")
	m.Category, m.ResourceType = rule.Waste, k.Type
	return setOf(Rule[inventory.Volume]{
		Meta: m, Kind: k, Judge: func(In, inventory.Volume) rule.Verdict { return compliant() },
		Examples: []Example[inventory.Volume]{{Name: "any", Want: Want{Outcome: rule.Compliant}}},
	})
}

// simulated gives the worker a simulated AWS, and persistence its account.
func (st *stage) simulated(t *testing.T, faults ...simaws.Fault) {
	t.Helper()
	estate := simaws.Generate(simaws.Options{Seed: 1, Accounts: 1, Regions: 1, Resources: 20})
	server := simaws.New(estate, simaws.Config{NoQuotas: true})
	if err := server.SetFaults(faults...); err != nil {
		t.Fatal(err)
	}
	done, err := server.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { <-done })
	st.worker.cloud, err = aws.New(t.Context(), aws.Config{
		Region: "us-east-1", Endpoint: server.URL(), AccessKeyID: simaws.DemoAccessKey, SecretAccessKey: simaws.FakeSecret,
		Backoff: func(int) time.Duration { return time.Second },
	})
	if err != nil {
		t.Fatal(err)
	}
	a := estate.Accounts[0]
	st.accounts = []*accountv1.Account{{
		Id: a.ID, Partition: "aws", RoleArn: a.RoleARN(simaws.ReadOnlyRole), ExternalId: a.Roles[0].ExternalID, Regions: []string{"us-east-1"},
	}}
}

// Cancelling reaches the calls to AWS: a scan that waits for an answer stops
// within 5 seconds, and says nothing more.
func TestCancelStopsAScan(t *testing.T) {
	t.Parallel()
	ended := make(chan time.Time, 10)
	st := theatre(t, volumes(ended))
	st.simulated(t, simaws.Fault{Kind: "latency", Action: "DescribeVolumes", Delay: simaws.Duration(time.Minute)})
	st.run(t)
	st.ask(t, trigger("1", nil))
	st.until(t, "the scope is at work", func() bool {
		sc := st.runs.Scopes("waste-scan/1")
		return len(sc) == 1 && sc[0].Attempts == 1
	})
	begin := time.Now()
	if _, err := st.runs.CancelRun(t.Context(), &runv1.CancelRunRequest{Id: "waste-scan/1"}); err != nil {
		t.Fatal(err)
	}
	if d := (<-ended).Sub(begin); d > 5*time.Second {
		t.Errorf("stopped after %v", d)
	}
	st.stop()
	if sc := st.runs.Scopes("waste-scan/1")[0]; len(sc.Ends)+len(st.finished)+len(st.observed) != 0 || sc.Failures != 0 || st.dead(t) != 0 {
		t.Errorf("it said something: %+v", sc)
	}
}

// A scope that AWS throttles shows life and its figures, before any page is
// there.
func TestThrottledScopeIsAlive(t *testing.T) {
	t.Parallel()
	st := theatre(t, volumes(make(chan time.Time, 10)))
	st.simulated(t, simaws.Fault{Kind: "throttle", Action: "DescribeVolumes", Times: 5})
	st.run(t)
	st.ask(t, trigger("1", nil))
	st.until(t, "a beat tells of throttles", func() bool {
		sc := st.runs.Scopes("waste-scan/1")
		return len(sc) == 1 && sc[0].State == runv1.ScopeState_SCOPE_STATE_RUNNING && sc[0].Progress.GetMeter().GetThrottles() > 0 && sc[0].Progress.GetResources() == 0
	})
	if f := st.end(t); f.GetError() != "" || f.GetMeter().GetThrottles() != 5 {
		t.Errorf("finished with %v", f)
	}
}

func TestServices(t *testing.T) {
	t.Parallel()
	st := theatre(t, setOf(mixed(2, 10)), account("111111111111", "us-east-1", "eu-west-1"), account("222222222222", "us-east-1"))
	rules := rulev1.NewRuleServiceClient(st.conn)
	list, err := rules.ListRules(t.Context(), &rulev1.ListRulesRequest{})
	if err != nil || len(list.GetRules()) != 1 {
		t.Fatalf("rules are %v, %v", list, err)
	}
	one, err := rules.GetRule(t.Context(), &rulev1.GetRuleRequest{Id: "rule-mixed"})
	if err != nil {
		t.Fatal(err)
	}
	r := one.GetRule()
	if p := r.GetParameters()[0]; p.GetDefaultValue().GetNumberValue() != 7 || p.GetValue().GetNumberValue() != 7 || p.GetMin() != 1 || p.GetMax() != 99 || p.GetType() != "an integer" {
		t.Errorf("parameter is %v", p)
	}
	if len(r.GetExamples()) != 1 || r.GetExamples()[0].GetVerdict().GetOutcome() != rulev1.Outcome_OUTCOME_VIOLATION || !slices.Equal(r.GetActions(), []string{"test:DescribeThings"}) {
		t.Errorf("rule is %v", r)
	}
	if _, err := rules.GetRule(t.Context(), &rulev1.GetRuleRequest{Id: "rule-z"}); !errors.Is(err, errs.NotFound) {
		t.Errorf("an unknown rule: %v", err)
	}

	scan := func(req *scanv1.ScanRequest) (map[rulev1.Outcome]int, int, error) {
		stream, err := scanv1.NewScanServiceClient(st.conn).Scan(t.Context(), req)
		if err != nil {
			return nil, 0, err
		}
		outcomes, results := map[rulev1.Outcome]int{}, 0
		for {
			m, err := stream.Recv()
			if errors.Is(err, io.EOF) {
				return outcomes, results, nil
			}
			if err != nil {
				return nil, 0, err
			}
			if o := m.GetObservation(); o != nil {
				outcomes[o.GetVerdict().GetOutcome()]++
			}
			if r := m.GetResult(); r != nil {
				results++
			}
		}
	}
	got, results, err := scan(&scanv1.ScanRequest{})
	if err != nil || results != 3 || len(got) != 1 || got[rulev1.Outcome_OUTCOME_VIOLATION] != 30 {
		t.Errorf("a dry run of everything: %v, %d results, %v", got, results, err)
	}
	got, results, err = scan(&scanv1.ScanRequest{
		Accounts: []string{"222222222222", "333333333333"}, Regions: []string{"eu-west-1"},
		Outcomes: []rulev1.Outcome{rulev1.Outcome_OUTCOME_COMPLIANT, rulev1.Outcome_OUTCOME_VIOLATION},
	})
	if err != nil || results != 2 || got[rulev1.Outcome_OUTCOME_COMPLIANT] != 10 || got[rulev1.Outcome_OUTCOME_VIOLATION] != 10 {
		t.Errorf("a dry run of one account: %v, %d results, %v", got, results, err)
	}
	if _, _, err = scan(&scanv1.ScanRequest{Rules: []string{"rule-z"}}); !errors.Is(err, errs.InvalidArgument) {
		t.Errorf("an unknown rule: %v", err)
	}
}

func TestNewRefusesBadConfiguration(t *testing.T) {
	t.Parallel()
	env := &app.Env{Log: slog.New(slog.DiscardHandler), Now: time.Now}
	set := setOf(mixed(1, 1))
	good := Config{Scopes: 1, CloudConfig: CloudConfig{QuotaShare: 0.5}}
	for name, c := range map[string]struct {
		change func(*Config)
		params string
		says   string
	}{
		"scopes":     {func(c *Config) { c.Scopes = 0 }, "", "NIGHTSHIFT_SCAN_SCOPES"},
		"parameters": {func(*Config) {}, "rule-z.x=1", "rule-z"},
		"prices":     {func(c *Config) { c.PriceFile = "/nonexistent/prices.json" }, "", "/nonexistent/prices.json"},
		"share":      {func(c *Config) { c.QuotaShare = 2 }, "", "quota share"},
		"protocol":   {func(c *Config) { c.CloudWatchProtocol = "soap" }, "", "soap"},
	} {
		cfg := good
		c.change(&cfg)
		if _, err := New(t.Context(), env, set, cfg, c.params); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
}
