package persistence

import (
	"context"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	healthv1 "nightshift.dev/gen/nightshift/health/v1"
	"nightshift.dev/pkg/errs"
)

// GetDatabase implements HealthStateService.
func (s *Service) GetDatabase(ctx context.Context, _ *healthv1.GetDatabaseRequest) (*healthv1.GetDatabaseResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	resp, err := askServer(ctx, db)
	if err != nil {
		return nil, fault(err)
	}
	var (
		waiting struct {
			Outbox int64
			Oldest *time.Time
		}
		logged []time.Time
	)
	if err := db.NewRaw("SELECT max(version_id) FROM goose_db_version WHERE is_applied").Scan(ctx, &resp.SchemaVersion); err != nil {
		return nil, fault(err)
	}
	err = db.NewRaw("SELECT count(*) AS outbox, min(time) AS oldest FROM (SELECT time FROM outbox WHERE error IS NULL ORDER BY id LIMIT 100000) o").Scan(ctx, &waiting)
	if err != nil {
		return nil, fault(err)
	}
	if err := db.NewRaw("SELECT time FROM system_log ORDER BY time LIMIT 1").Scan(ctx, &logged); err != nil {
		return nil, fault(err)
	}
	resp.Outbox = waiting.Outbox
	if waiting.Oldest != nil {
		resp.OutboxAge = durationpb.New(max(0, s.now().Sub(*waiting.Oldest)))
	}
	if len(logged) > 0 {
		resp.OldestLogTime = timestamppb.New(logged[0])
	}
	return resp, nil
}

// askServer asks a server what every server can tell.
func askServer(ctx context.Context, db bun.IDB) (*healthv1.GetDatabaseResponse, error) {
	var row struct {
		Version        string
		Now            time.Time
		Size           int64
		Connections    int32
		MaxConnections int32
		ReadOnly       bool
		Durable        bool
	}
	err := db.NewRaw(`
		SELECT current_setting('server_version') AS version, clock_timestamp() AS now, pg_database_size(current_database()) AS size,
			(SELECT count(*)::int FROM pg_stat_activity WHERE backend_type = 'client backend') AS connections,
			current_setting('max_connections')::int AS max_connections, pg_is_in_recovery() AS read_only,
			current_setting('fsync') = 'on' AND current_setting('synchronous_commit') <> 'off' AS durable`).Scan(ctx, &row)
	if err != nil {
		return nil, err
	}
	return &healthv1.GetDatabaseResponse{
		Version: row.Version, ServerTime: timestamppb.New(row.Now), SizeBytes: row.Size, Connections: row.Connections,
		MaxConnections: row.MaxConnections, ReadOnly: row.ReadOnly, Durable: row.Durable,
	}, nil
}

// Probe asks a Postgres how it is without a service in between, for when
// there is none. Figures of our schema are left out. The error never holds a
// password.
func Probe(ctx context.Context, dsn string) (*healthv1.GetDatabaseResponse, error) {
	cc, err := pgx.ParseConfig(dsn)
	if err != nil {
		// The parser's error can quote the URL, and with it a password.
		return nil, errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "DATABASE_URL is not a Postgres URL or DSN")
	}
	cc.ConnectTimeout = 5 * time.Second
	cc.DefaultQueryExecMode = pgx.QueryExecModeExec
	db := bun.NewDB(stdlib.OpenDB(*cc), pgdialect.New())
	defer db.Close()
	return askServer(ctx, db)
}

// ListAccountScans implements HealthStateService.
func (s *Service) ListAccountScans(ctx context.Context, _ *healthv1.ListAccountScansRequest) (*healthv1.ListAccountScansResponse, error) {
	db, err := s.db(ctx)
	if err != nil {
		return nil, err
	}
	var rows []*struct {
		ID, Name, RoleARN, ExternalID, Partition string
		ScanTime, CompleteTime                   *time.Time
		Regions, Incomplete, Failed, Scopes      int32
		Error                                    string
	}
	err = db.NewRaw(`
		WITH newest AS (
			SELECT account, max(scan_time) AS scan_time FROM listings GROUP BY account
		), listed AS (
			SELECT l.account, n.scan_time, CASE WHEN bool_and(l.complete_time IS NOT NULL) THEN min(l.complete_time) END AS complete_time,
				count(DISTINCT l.region)::int AS regions,
				(count(DISTINCT l.region) FILTER (WHERE l.complete_time IS DISTINCT FROM l.scan_time))::int AS incomplete
			FROM listings l JOIN newest n ON n.account = l.account
			WHERE l.scan_time > n.scan_time - interval '7 days' GROUP BY l.account, n.scan_time
		), last_runs AS (
			SELECT DISTINCT ON (job) id FROM runs WHERE state IN (2, 3, 4) AND start_time > ?::timestamptz - interval '3 days'
			ORDER BY job, start_time DESC, id
		), done AS (
			SELECT account, count(*)::int AS scopes, (count(*) FILTER (WHERE state IN (4, 5)))::int AS failed,
				coalesce(max(nullif(error, '')) FILTER (WHERE state IN (4, 5)), '') AS error
			FROM run_scopes WHERE run_id IN (SELECT id FROM last_runs) GROUP BY account
		)
		SELECT a.id, a.name, a.role_arn, a.external_id, a.partition, l.scan_time, l.complete_time, coalesce(l.regions, 0) AS regions,
			coalesce(l.incomplete, 0) AS incomplete, coalesce(d.failed, 0) AS failed, coalesce(d.scopes, 0) AS scopes, coalesce(d.error, '') AS error
		FROM accounts a LEFT JOIN listed l ON l.account = a.id LEFT JOIN done d ON d.account = a.id
		WHERE a.state = 1 ORDER BY a.id`, s.now()).Scan(ctx, &rows)
	if err != nil {
		return nil, fault(err)
	}
	resp := &healthv1.ListAccountScansResponse{}
	for _, r := range rows {
		resp.Accounts = append(resp.Accounts, &healthv1.AccountScan{
			Account: r.ID, Name: r.Name, RoleArn: r.RoleARN, ExternalId: r.ExternalID, Partition: r.Partition,
			ScanTime: timestamp(r.ScanTime), CompleteTime: timestamp(r.CompleteTime), Regions: r.Regions, IncompleteRegions: r.Incomplete,
			FailedScopes: r.Failed, Scopes: r.Scopes, Error: r.Error,
		})
	}
	return resp, nil
}
