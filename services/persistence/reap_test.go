package persistence

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/pressly/goose/v3"
	"golang.org/x/sync/errgroup"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	authv1 "nightshift.dev/gen/nightshift/auth/v1"
	jobv1 "nightshift.dev/gen/nightshift/job/v1"
	runv1 "nightshift.dev/gen/nightshift/run/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

func reap(t testing.TB, s *Service) {
	t.Helper()
	if err := s.reapOnce(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestRunTimesOut(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	begin(t, s, "waste-scan/1", skip, func(t *jobv1.Trigger) { t.RunTimeout = durationpb.New(time.Hour) })
	plan(t, s, "waste-scan/1", here)
	startScope(t, s, "waste-scan/1", here, "1.1")
	retryScope(t, s, "waste-scan/1", here, "1.1")
	begin(t, s, "waste-scan/2", queueOne)
	c.advance(time.Hour - time.Second)
	reap(t, s)
	if r := getRun(t, s, "waste-scan/1"); r.GetState() != running {
		t.Errorf("a second before its time the run is %v", r)
	}
	c.advance(time.Second)
	reap(t, s)
	reap(t, s)
	if r := getRun(t, s, "waste-scan/1"); r.GetState() != failed || r.GetError() != "it took longer than the 1h0m0s a run of the job may take" || r.GetScopes().GetFailed() != 1 {
		t.Errorf("run is %v", r)
	}
	if sc := scopeOf(t, s, "waste-scan/1"); !strings.HasSuffix(sc.GetError(), "; its last attempt: throttled by 1.1") || sc.GetRetryTime() != nil {
		t.Errorf("scope is %v", sc)
	}
	if r := getRun(t, s, "waste-scan/2"); r.GetState() != running {
		t.Errorf("the run that waited is %v", r)
	}
	if n := len(outgoing[runv1.RunAlertRaised](t, s)); n != 1 {
		t.Errorf("%d alerts", n)
	}
	// One that does not say may take a day.
	c.advance(24*time.Hour - time.Second)
	reap(t, s)
	if r := getRun(t, s, "waste-scan/2"); r.GetState() != running {
		t.Errorf("a second before a day the run is %v", r)
	}
	c.advance(time.Second)
	reap(t, s)
	if r := getRun(t, s, "waste-scan/2"); r.GetState() != failed {
		t.Errorf("after a day the run is %v", r)
	}
}

// A run whose worker is lost before it has planned it is offered again, less
// and less often.
func TestUnplannedRunIsReleased(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	begin(t, s, "waste-scan/1", skip)
	var at []string
	for range 60 {
		c.advance(time.Minute)
		before := len(outgoing[runv1.RunReleased](t, s))
		reap(t, s)
		reap(t, s)
		if r := outgoing[runv1.RunReleased](t, s); len(r) > before {
			if r[len(r)-1].GetRelease() != int32(len(r)) || len(r) > before+1 {
				t.Errorf("release %v after %d", r[before:], before)
			}
			at = append(at, fmt.Sprint(c.now().Sub(epoch).Minutes()))
		}
	}
	if got := strings.Join(at, " "); got != "2 4 8 14 22 32 44 58" {
		t.Errorf("released after minutes %s", got)
	}
	if e := entriesOf(t, s, "run_released"); len(e) != 8 || e[0].GetLevel() != systemlogv1.Level_LEVEL_WARN || e[0].GetAttributes()["waited"] != "2m0s" {
		t.Errorf("log %v", e)
	}
	plan(t, s, "waste-scan/1", here)
	c.advance(14 * time.Minute)
	reap(t, s)
	if n := len(outgoing[runv1.RunReleased](t, s)); n != 8 {
		t.Errorf("a planned run was released")
	}
}

func TestSilentScopesAreRequestedAgain(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	alive, pending := &scanv1.Scope{Service: "waste", Account: "111122223333", Region: "us-east-1"}, &scanv1.Scope{Service: "waste", Account: "444455556666", Region: "eu-west-1"}
	begin(t, s, "job/1", allow)
	if _, err := s.PlanRun(t.Context(), &runv1.PlanRunRequest{RunId: "job/1", Scopes: []*runv1.PlannedScope{{Scope: here, RoleArn: "arn:x", ExternalId: "e", Partition: "aws"}, {Scope: alive}, {Scope: pending}}}); err != nil {
		t.Fatal(err)
	}
	startScope(t, s, "job/1", here, "1.1")
	startScope(t, s, "job/1", alive, "2.1")
	requested := func(want int) {
		t.Helper()
		reap(t, s)
		reap(t, s)
		if n := len(outgoing[scanv1.ScopeRequested](t, s)); n != want {
			t.Errorf("%d requests, want %d", n, want)
		}
	}
	c.advance(10 * time.Minute)
	beatScope(t, s, "job/1", alive, "2.1", nil)
	requested(3)
	c.advance(5 * time.Minute)
	requested(4) // the one whose worker is lost; the other waits its turn
	asked := outgoing[scanv1.ScopeRequested](t, s)
	if !proto.Equal(asked[0], asked[3]) {
		t.Errorf("asked again for %v, first for %v", asked[3], asked[0])
	}
	finishScope(t, s, finished("job/1", "2.1", 0, at(0), complete, func(f *scanv1.ScopeFinished) { f.Scope = alive }))
	c.advance(15 * time.Minute)
	requested(6) // nothing of the run is at work
	// A row that somebody holds is left to him.
	tx, err := s.bun.BeginTx(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := tx.Exec("SELECT FROM run_scopes WHERE state < 3 FOR UPDATE"); err != nil {
		t.Fatal(err)
	}
	c.advance(15 * time.Minute)
	requested(6)
	tx.Rollback()
	requested(8)
	if e := entriesOf(t, s, "scopes_requested_again"); len(e) != 3 || e[1].GetAttributes()["scopes"] != "2" {
		t.Errorf("log %v", e)
	}
}

// Of replicas that look after the same runs at once, each run is seen to by one.
func TestReapersAtOnce(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	c := &clock{}
	var replicas []*Service
	for range 3 {
		s, _ := replica(t, dsn)
		s.now = c.now
		replicas = append(replicas, s)
	}
	s := replicas[0]
	for n := range 10 {
		begin(t, s, fmt.Sprint("late/", n), allow, func(t *jobv1.Trigger) { t.RunTimeout = durationpb.New(time.Minute) })
		begin(t, s, fmt.Sprint("lost/", n), allow)
		startRun(t, s, fmt.Sprint("silent/", n), here)
	}
	c.advance(20 * time.Minute)
	var g errgroup.Group
	for _, s := range replicas {
		g.Go(func() error { return s.reapOnce(t.Context()) })
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if ends, releases, requests := len(outgoing[runv1.RunFinished](t, s)), len(outgoing[runv1.RunReleased](t, s)), len(outgoing[scanv1.ScopeRequested](t, s)); ends != 10 || releases != 10 || requests != 20 {
		t.Errorf("%d ends, %d releases, %d requests; want 10, 10 and 20", ends, releases, requests)
	}
}

// An operator does a cleanup again, but not by parameters that only an admin
// may give.
func TestWhoDoesACleanupAgain(t *testing.T) {
	t.Parallel()
	s, _ := clocked(t)
	for id, parameters := range map[string]map[string]string{"cleanup/1": nil, "cleanup/2": {"findings": "1d"}} {
		begin(t, s, id, jobv1.OverlapPolicy_OVERLAP_POLICY_ALLOW, func(t *jobv1.Trigger) { t.Job, t.Kind, t.Parameters = "cleanup", "cleanup", parameters })
		if _, err := s.FailRun(t.Context(), &runv1.FailRunRequest{RunId: id, Error: "no"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct {
		id   string
		role authv1.Role
		may  bool
	}{{"cleanup/1", authv1.Role_ROLE_OPERATOR, true}, {"cleanup/2", authv1.Role_ROLE_OPERATOR, false}, {"cleanup/2", authv1.Role_ROLE_ADMIN, true}} {
		if _, err := s.RetryRun(bearing(t.Context(), c.role), &runv1.RetryRunRequest{Id: c.id}); (err == nil) != c.may || err != nil && errs.Reason(err) != "ROLE_TOO_LOW" {
			t.Errorf("%s does %s again: %v", c.role, c.id, err)
		}
	}
}

func TestRetryRun(t *testing.T) {
	t.Parallel()
	s, c := clocked(t)
	ctx := t.Context()
	retry := func(id, request string, scopes ...*scanv1.Scope) (*runv1.Run, error) {
		resp, err := s.RetryRun(ctx, &runv1.RetryRunRequest{Id: id, Scopes: scopes, RequestId: request, RequestedBy: "ann"})
		return resp.GetRun(), err
	}
	if _, err := retry("none", ""); !errors.Is(err, errs.NotFound) {
		t.Errorf("a run that is none: %v", err)
	}
	other := &scanv1.Scope{Service: "waste", Account: "111122223333", Region: "us-east-1"}
	third := &scanv1.Scope{Service: "waste", Account: "444455556666", Region: "us-east-1"}
	begin(t, s, "waste-scan/1", skip, func(t *jobv1.Trigger) {
		t.Missed = &jobv1.MissedTimes{Count: 1, FirstTime: timestamppb.New(at(0)), LastTime: timestamppb.New(at(0))}
	})
	plan(t, s, "waste-scan/1", here, other, third)
	if _, err := retry("waste-scan/1", ""); errs.Reason(err) != "RUN_AT_WORK" {
		t.Errorf("a run at work: %v", err)
	}
	for sc, status := range map[*scanv1.Scope]scanv1.CoverageStatus{here: complete, other: denied, third: partial} {
		finishScope(t, s, finished("waste-scan/1", "1.1", 0, at(0), status, func(f *scanv1.ScopeFinished) { f.Scope = sc }))
	}
	c.advance(time.Hour)
	begin(t, s, "waste-scan/2", skip) // a retry begins beside it
	first, err := retry("waste-scan/1", "r1")
	if err != nil {
		t.Fatal(err)
	}
	again, err := retry("waste-scan/1", "r1", third)
	if err != nil || again.GetId() != first.GetId() {
		t.Errorf("asked again: %v, %v", again, err)
	}
	if first.GetId() != "waste-scan/retry-r1" || first.GetState() != running || first.GetRetryOf() != "waste-scan/1" || first.GetCause() != jobv1.Cause_CAUSE_RETRY ||
		first.GetRequestedBy() != "ann" || !first.GetPlannedTime().AsTime().Equal(epoch) || first.GetParameters()["rules"] != "ebs-unattached" {
		t.Errorf("retry is %v", first)
	}
	if _, err := retry("waste-scan/2", "r1"); !errors.Is(err, errs.AlreadyExists) {
		t.Errorf("the request id of another run: %v", err)
	}
	released := outgoing[runv1.RunReleased](t, s)
	if len(released) != 1 || released[0].GetRelease() != 1 || released[0].GetTrigger().GetRunId() != "waste-scan/retry-r1" || released[0].GetTrigger().GetRetryOf() != "waste-scan/1" {
		t.Errorf("released %v", released)
	}
	// The worker plans all the job does now; of that, what is wanted is done.
	if a, err := s.StartRun(ctx, &runv1.StartRunRequest{Trigger: released[0].GetTrigger()}); err != nil || a.GetRun().GetState() != running || a.GetPlanned() {
		t.Errorf("taking it up: %v, %v", a, err)
	}
	plan(t, s, first.GetId(), here, other)
	run := getRun(t, s, first.GetId())
	if want := (&runv1.ScopeCounts{Total: 2, Pending: 1, Failed: 1}); !proto.Equal(run.GetScopes(), want) {
		t.Errorf("scopes of the retry %v, want %v", run.GetScopes(), want)
	}
	finishScope(t, s, finished(first.GetId(), "1.1", 0, at(0), complete, func(f *scanv1.ScopeFinished) { f.Scope = other }))
	if run := getRun(t, s, first.GetId()); run.GetState() != runv1.RunState_RUN_STATE_PARTIAL || !strings.Contains(run.GetError(), "does not do this any more") {
		t.Errorf("the retry ended as %v", run)
	}
	// Scopes by name.
	if _, err := retry("waste-scan/1", "", here); errs.Reason(err) != "NOTHING_TO_RETRY" {
		t.Errorf("a scope that succeeded: %v", err)
	}
	if _, err := retry("waste-scan/1", "", &scanv1.Scope{Service: "waste", Account: "999999999999", Region: "-"}); errs.Reason(err) != "BAD_SCOPES" {
		t.Errorf("a scope of another run: %v", err)
	}
	if run, err := retry("waste-scan/1", "", &scanv1.Scope{Service: "waste", Account: "111122223333", Region: "-"}); err != nil || !strings.HasPrefix(run.GetId(), "waste-scan/retry-") {
		t.Errorf("an account: %v, %v", run, err)
	}
	// A run that never had a plan is done again as a whole.
	cancel(t, s, "waste-scan/2")
	whole, err := retry("waste-scan/2", "r2")
	if err != nil {
		t.Fatal(err)
	}
	plan(t, s, whole.GetId(), here, other)
	if run := getRun(t, s, whole.GetId()); run.GetScopes().GetPending() != 2 {
		t.Errorf("the whole again is %v", run)
	}
	if resp, err := s.ListRuns(ctx, &runv1.ListRunsRequest{Filter: `retry_of = "waste-scan/1" AND requested_by = "ann"`}); err != nil || len(resp.GetRuns()) != 2 {
		t.Errorf("%v, %v", resp, err)
	}
	if e := entriesOf(t, s, "run_retried"); len(e) != 3 || e[0].GetRunId() != "waste-scan/1" || e[0].GetAttributes()["retry"] != "waste-scan/retry-r1" {
		t.Errorf("log %v", e)
	}
	if n := len(entriesOf(t, s, "run_missed")); n != 1 {
		t.Errorf("%d entries of missed times", n)
	}
}

func TestNarrow(t *testing.T) {
	t.Parallel()
	sc := func(name string) *scanv1.Scope {
		account, region, _ := strings.Cut(name, "/")
		return &scanv1.Scope{Service: "waste", Account: account, Region: region}
	}
	for _, c := range []struct{ plan, wanted, want string }{
		{"a/x a/y b/x", "a/y", "a/y"},
		{"a/x a/y b/x", "a/-", "a/x a/y"},
		{"a/x a/y b/x", "a/x a/-", "a/x a/y"},
		{"a/x b/x", "a/x c/x", "a/x c/x!gone"},
		{"b/x", "a/-", "a/-!gone"},
		{"b/x a/-!denied", "a/x a/y", "a/x!denied a/y!denied"},
		{"b/x a/-!denied", "a/-", "a/-!denied"},
		{"-/-", "-/-", "-/-"},
		{"-/p1 -/p2", "-/p2", "-/p2"},
		{"", "a/x", "a/x!gone"},
	} {
		var planned []*runv1.PlannedScope
		for _, name := range strings.Fields(c.plan) {
			name, failure, fails := strings.Cut(name, "!")
			p := &runv1.PlannedScope{Scope: sc(name)}
			if fails {
				p.Failure = &scanv1.Coverage{Error: failure}
			}
			planned = append(planned, p)
		}
		var wanted []*scanv1.Scope
		for _, name := range strings.Fields(c.wanted) {
			wanted = append(wanted, sc(name))
		}
		var got []string
		for _, p := range narrow(planned, wanted) {
			name := p.GetScope().GetAccount() + "/" + p.GetScope().GetRegion()
			switch f := p.GetFailure(); {
			case f == nil:
			case strings.HasPrefix(f.GetError(), "the job does not"):
				name += "!gone"
			default:
				name += "!" + f.GetError()
			}
			got = append(got, name)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("of %q wanted %q: %q, want %q", c.plan, c.wanted, strings.Join(got, " "), c.want)
		}
	}
}

// A watch of the log gets every entry once, in order, while replicas write at
// once and transactions that began earlier are committed later.
func TestWatchEntries(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, migrated)
	watched, _ := replica(t, dsn)
	ctx, stop := context.WithTimeout(t.Context(), 2*time.Minute)
	defer stop()
	go watched.listen(ctx)
	before := time.Now().Add(-time.Second)
	begin(t, watched, "old/1", skip, func(t *jobv1.Trigger) { t.Job = "old" })
	watch := func(req *systemlogv1.WatchEntriesRequest) (<-chan *systemlogv1.WatchEntriesResponse, <-chan error) {
		stream := &following[systemlogv1.WatchEntriesResponse]{streamed[systemlogv1.WatchEntriesResponse]{ctx: ctx}, make(chan *systemlogv1.WatchEntriesResponse)}
		ended := make(chan error, 1)
		go func() { ended <- watched.WatchEntries(req, stream) }()
		if m := <-stream.c; len(m.GetEntries()) > 0 {
			t.Errorf("the first response is %v", m)
		}
		return stream.c, ended
	}
	all, _ := watch(&systemlogv1.WatchEntriesRequest{SinceTime: timestamppb.New(before)})
	some, ended := watch(&systemlogv1.WatchEntriesRequest{Filter: `event = "run_queued" AND message : "waits for"`})
	const writers, runs = 4, 40
	var g errgroup.Group
	for w := range writers {
		s, _ := replica(t, dsn)
		g.Go(func() error {
			for n := range runs {
				// Ids are drawn late: the times of entries are not in their order.
				req := trigger(fmt.Sprintf("j%d/%d", w, n))
				req.Trigger.Job, req.Trigger.OverlapPolicy = fmt.Sprint("j", w), queueAll
				if _, err := s.StartRun(ctx, req); err != nil {
					return err
				}
			}
			return nil
		})
	}
	var ids []int64
	seen := map[string]bool{}
	for len(ids) < writers*runs+1 {
		select {
		case m := <-all:
			for _, e := range m.GetEntries() {
				if len(ids) > 0 && e.GetId() <= ids[len(ids)-1] || seen[e.GetRunId()] {
					t.Fatalf("%v comes after %d, or twice", e, ids[len(ids)-1])
				}
				ids, seen[e.GetRunId()] = append(ids, e.GetId()), true
			}
		case <-ctx.Done():
			t.Fatalf("got %d entries of %d", len(ids), writers*runs+1)
		}
		if len(ids) == 1 && !seen["old/1"] {
			t.Error("the entry from before is missing")
		}
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	for n := 0; n < writers*(runs-1); {
		m := <-some
		for _, e := range m.GetEntries() {
			if n++; e.GetEvent() != "run_queued" {
				t.Errorf("got %v", e)
			}
		}
	}
	close(watched.stopping)
	if err := <-ended; !errors.Is(err, errs.Unavailable) {
		t.Errorf("a service that stops ends the watch with %v", err)
	}
}

// Pages of the log by what people ask for come from an index, whatever the
// size of the log.
func TestEntriesByIndex(t *testing.T) {
	t.Parallel()
	s := service(t)
	if err := s.addPartitions(t.Context()); err != nil {
		t.Fatal(err)
	}
	_, err := s.bun.ExecContext(t.Context(), `
		INSERT INTO system_log (time, level, event, message, service, job, run_id, account, region, attributes)
		SELECT now() - n * interval '1 second', CASE WHEN n % 100 = 0 THEN 2 ELSE 1 END, 'e', 'm', 's', 'job-' || n % 50, 'run-' || n % 1000, CASE WHEN n % 3 = 0 THEN '' ELSE 'acct-' || n % 70 END, '', '{}'
		FROM generate_series(1, 30000) n`)
	if err == nil {
		_, err = superuser(t, s).ExecContext(t.Context(), "ANALYZE system_log")
	}
	if err != nil {
		t.Fatal(err)
	}
	for filter, index := range map[string]string{
		`job = "job-7"`:      "job",
		`run_id = "run-7"`:   "run",
		`account = "acct-7"`: "account",
		`level >= "WARN"`:    "time_id",
	} {
		where, err := entryFields.parse(filter)
		if err != nil {
			t.Fatal(err)
		}
		var lines []string
		q := where.apply(s.bun.NewSelect().Model((*entry)(nil))).Order("l.time DESC", "l.id DESC").Limit(51)
		if err := s.bun.NewRaw("EXPLAIN "+q.String()).Scan(t.Context(), &lines); err != nil {
			t.Fatal(err)
		}
		text := strings.Join(lines, "\n")
		for _, scan := range regexp.MustCompile(`Seq Scan .*rows=(\d+)`).FindAllStringSubmatch(text, -1) {
			if len(scan[1]) > 2 { // partitions that are empty have no use for an index
				text = "all of it: " + text
			}
		}
		if strings.HasPrefix(text, "all") || !strings.Contains(text, index) {
			t.Errorf("%s is read by\n%s", filter, text)
		}
	}
}

// The schema grows around runs of the version before, which go on, and shrinks
// again.
func TestMigrateRuns(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, nil)
	db, err := sql.Open("pgx", dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	p, err := goose.NewProvider(goose.DialectPostgres, db, migrationFiles(t), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		t.Fatal(err)
	}
	ctx := t.Context()
	if _, err := p.UpTo(ctx, 1); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		"INSERT INTO runs (id, job, kind, state, cause, requested_by, start_time, parameters, max_retries) VALUES ('old/1', 'old', 'waste', 1, 1, '', '2026-01-01Z', '{}', 2), ('old/2', 'old', 'waste', 1, 1, '', '2026-01-01Z', '{}', 2)",
		"UPDATE runs SET planned = true WHERE id = 'old/1'",
		"INSERT INTO run_scopes (run_id, service, account, region, state) VALUES ('old/1', 'waste', '111122223333', 'eu-west-1', 1)",
	} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			t.Fatal(err)
		}
	}
	if err := Migrate(ctx, dsn); err != nil {
		t.Fatal(err)
	}
	s, _ := replica(t, dsn)
	c := &clock{}
	s.now = c.now
	startScope(t, s, "old/1", here, "1.1")
	retryScope(t, s, "old/1", here, "1.1")
	c.advance(20 * time.Minute)
	reap(t, s)
	if r := outgoing[runv1.RunReleased](t, s); len(r) != 1 || r[0].GetTrigger().GetRunId() != "old/2" || r[0].GetTrigger().GetKind() != "waste" {
		t.Errorf("released %v", r)
	}
	cancel(t, s, "old/1")
	c.advance(25 * time.Hour)
	reap(t, s)
	if r := getRun(t, s, "old/2"); r.GetState() != failed {
		t.Errorf("run is %v", r)
	}
	begin(t, s, "new/1", skip)
	begin(t, s, "new/2", queueAll)
	if _, err := p.DownTo(ctx, 1); err != nil {
		t.Fatal(err)
	}
}

func migrationFiles(t testing.TB) fs.FS {
	t.Helper()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	return files
}
