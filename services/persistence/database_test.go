package persistence

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sync/errgroup"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	findingv1 "nightshift.dev/gen/nightshift/finding/v1"
	scanv1 "nightshift.dev/gen/nightshift/scan/v1"
	systemlogv1 "nightshift.dev/gen/nightshift/systemlog/v1"
	"nightshift.dev/pkg/bus"
	"nightshift.dev/pkg/devstack"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

// Replicas that start together on an empty database all come up.
func TestReplicasMigrateAtOnce(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	var g errgroup.Group
	defer g.Wait()
	defer cancel()
	for range 2 {
		s, err := open(Config{DatabaseURL: dsn, Connections: 4}, quiet(), &taken{}, time.Now)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		g.Go(func() error { return s.Run(ctx) })
		<-s.ready
		if _, err := s.ListAccounts(ctx, &accountv1.ListAccountsRequest{}); err != nil {
			t.Error(err)
		}
	}
	cancel()
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
}

// Postgres comes late, goes away and comes back; the service stays.
func TestPostgresGoesAway(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	start := func() *devstack.PostgresServer {
		t.Helper()
		pg, err := devstack.Postgres(t.Context(), devstack.PostgresOptions{Dir: dir, Logger: quiet()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pg.Stop)
		return pg
	}
	pg := start()
	dsn := pg.DSN()
	pg.Stop()

	s, err := open(Config{DatabaseURL: dsn, Connections: 4}, quiet(), &taken{}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ran := make(chan error, 1)
	go func() { ran <- s.Run(ctx) }()
	impatient, stop := context.WithTimeout(ctx, 10*time.Millisecond)
	if _, err := s.ListAccounts(impatient, &accountv1.ListAccountsRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("before Postgres is there: %v", err)
	}
	stop()
	pg = start()
	select {
	case <-s.ready:
	case err := <-ran:
		t.Fatal("the service gave up: ", err)
	}
	startRun(t, s, "job/1", here)

	pg.Stop()
	_, err = s.ListAccounts(ctx, &accountv1.ListAccountsRequest{})
	if !errors.Is(err, errs.Unavailable) || errs.Reason(err) != "DATABASE_UNAVAILABLE" || errs.RetryDelay(err) == 0 {
		t.Errorf("while Postgres is away: %v", err)
	}
	if _, err := s.CreateAccount(ctx, &accountv1.CreateAccountRequest{Account: &accountv1.Account{Id: "111122223333"}}); !errors.Is(err, errs.Unavailable) {
		t.Errorf("while Postgres is away: %v", err)
	}
	m := message(&findingv1.FindingsObserved{RunId: "job/1", Scope: here, Execution: "1.1", Sequence: 1, Observations: []*scanv1.Observation{violation("vol-1", at(0))}})
	for _, err := range s.onFindingsObserved(ctx, []*bus.Message[*findingv1.FindingsObserved]{m}) {
		if err == nil || !strings.Contains(err.Error(), "again in") {
			t.Errorf("a message while Postgres is away: %v, want it later", err)
		}
	}

	start()
	// A connection that has not noticed yet that its server is gone fails once more: the bus brings the message again.
	for {
		err := s.onFindingsObserved(ctx, []*bus.Message[*findingv1.FindingsObserved]{m})[0]
		if err == nil {
			break
		}
		if !strings.Contains(err.Error(), "again in") || t.Context().Err() != nil {
			t.Fatalf("a message after Postgres came back: %v", err)
		}
	}
	scanned := getFinding(t, s, m.Body.GetObservations()[0].GetFindingId())
	if scanned.GetState() != findingv1.State_STATE_OPEN {
		t.Errorf("after Postgres came back: %v", scanned)
	}
	cancel()
	if err := <-ran; err != nil {
		t.Errorf("a service that was asked to stop: %v", err)
	}
	s.Close()
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	for name, cfg := range map[string]Config{
		"DATABASE_URL":                    {DatabaseURL: "postgres://user:secret@host:port/x", Connections: 4},
		"NIGHTSHIFT_DATABASE_CONNECTIONS": {DatabaseURL: "postgres://host/x", Connections: 1},
	} {
		_, err := open(cfg, quiet(), nil, time.Now)
		if err == nil || !strings.Contains(err.Error(), name) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A database that can be reached and not be used is an error at once.
	dsn := devtest.DB(t, nil)
	cc, err := pgx.ParseConfig(dsn)
	if err != nil {
		t.Fatal(err)
	}
	s, err := open(Config{DatabaseURL: strings.ReplaceAll(dsn, cc.Database, "nowhere"), Connections: 4}, quiet(), nil, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if err := s.Run(t.Context()); err == nil {
		t.Error("a database that does not exist was waited for")
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		err  error
		want error
	}{
		"nothing":       {nil, nil},
		"shutting down": {&pgconn.PgError{Code: "57P01"}, errs.Unavailable},
		"connections":   {&pgconn.PgError{Code: "53300"}, errs.Unavailable},
		"deadlock":      {fmt.Errorf("x: %w", &pgconn.PgError{Code: "40P01"}), errs.Unavailable},
		"slow":          {&pgconn.PgError{Code: "57014"}, errs.DeadlineExceeded},
		"reset":         {&net.OpError{Op: "read", Err: errors.New("reset")}, errs.Unavailable},
		"ours":          {errs.New(errs.NotFound, "X", "x"), errs.NotFound},
		"canceled":      {context.Canceled, context.Canceled},
	} {
		if got := fault(c.err); !errors.Is(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestSystemLog(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	for n := range 3 {
		scanOnce(t, s, n, []scanv1.CoverageStatus{complete, partial, denied}[n], violation("vol-1", at(n)))
	}
	want := "run_started run_planned run_finished run_started run_planned scope_partial run_finished run_started run_planned scope_failed run_failed"
	if got := strings.Join(logged(t, s), " "); got != want {
		t.Errorf("log is\n%s, want\n%s", got, want)
	}
	for filter, want := range map[string]int{
		`level >= "WARN"`: 4,
		`level = ERROR`:   2,
		`run_id = "waste-scan/1" AND event = "run_finished"`: 1,
		`time > "2000-01-01T00:00:00Z" AND id > 0`:           11,
		`account = "111122223333" AND region:"eu"`:           2,
		`service = "waste" AND job = "waste-scan"`:           11,
		`message:"throttled"`:                                4,
	} {
		req, n, last := &systemlogv1.ListEntriesRequest{Filter: filter, PageSize: 2}, 0, int64(1<<62)
		for {
			resp, err := s.ListEntries(ctx, req)
			if err != nil {
				t.Fatal(filter, err)
			}
			for _, e := range resp.GetEntries() {
				if n++; e.GetId() >= last {
					t.Errorf("%s: %d after %d", filter, e.GetId(), last)
				}
				last = e.GetId()
			}
			if req.PageToken = resp.GetNextPageToken(); req.PageToken == "" {
				break
			}
		}
		if n != want {
			t.Errorf("%s: %d entries, want %d", filter, n, want)
		}
	}
	resp, err := s.ListEntries(ctx, &systemlogv1.ListEntriesRequest{Filter: `event = "run_finished" AND run_id = "waste-scan/0"`})
	if err != nil {
		t.Fatal(err)
	}
	a := resp.GetEntries()[0].GetAttributes()
	if a["opened"] != "1" || a["evaluated"] != "1" || a["state"] != "succeeded" || a["errors"] != "0" || a["duration"] == "" {
		t.Errorf("figures of the run are %v", a)
	}
}

func TestSystemLogPartitions(t *testing.T) {
	t.Parallel()
	s := service(t)
	ctx := t.Context()
	now := time.Date(2026, 11, 30, 23, 0, 0, 0, time.UTC)
	s.now = func() time.Time { return now }
	if _, err := s.bun.ExecContext(ctx, `INSERT INTO system_log (time, level, event, message, service, job, run_id, account, region, attributes)
		VALUES ('2027-01-05', 1, 'early', '', '', '', '', '', '', '{}')`); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.addPartitions(ctx); err != nil {
			t.Fatal(err)
		}
	}
	startRun(t, s, "job/1", here)
	var in []string
	if err := s.bun.NewRaw("SELECT DISTINCT tableoid::regclass::text FROM system_log ORDER BY 1").Scan(ctx, &in); err != nil || strings.Join(in, " ") != "system_log_2026_11 system_log_default" {
		t.Errorf("entries are in %v (%v)", in, err)
	}
	var there bool
	if err := s.bun.NewRaw("SELECT to_regclass('system_log_2026_12') IS NOT NULL").Scan(ctx, &there); err != nil || !there {
		t.Errorf("the next month is not there (%v)", err)
	}
	if got := logged(t, s); len(got) != 3 {
		t.Errorf("log is %v", got)
	}
}
