package persistence

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"embed"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/lock"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"
	"google.golang.org/protobuf/proto"

	"nightshift.dev/pkg/errs"
)

// statementTimeout ends a statement that takes too long, and frozenTimeout a
// transaction whose process has stopped in the middle and holds its locks.
const (
	statementTimeout = 30 * time.Second
	frozenTimeout    = 30 * time.Second
)

// readyTimeout is how long a call waits for the schema before it is UNAVAILABLE.
const readyTimeout = 5 * time.Second

//go:embed migrations/*.sql
var migrations embed.FS

// connect sets up the pool. It opens no connection yet.
func (s *Service) connect(cfg Config) error {
	pc, err := pgxpool.ParseConfig(cfg.DatabaseURL)
	if err != nil {
		// The parser's error can quote the URL, and with it a password.
		return errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used").
			Field("DATABASE_URL", "is not a Postgres URL or DSN, such as postgres://user:password@host:5432/nightshift or host=/run/postgresql dbname=nightshift")
	}
	pc.MaxConns = cfg.Connections
	pc.ConnConfig.ConnectTimeout = 5 * time.Second
	// bun writes values into the text, so no two texts are alike and preparing them would only fill caches.
	pc.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeExec
	params := pc.ConnConfig.RuntimeParams
	params["application_name"] = "nightshift-persistence"
	params["timezone"] = "UTC"
	// A page is a few rows of one index and their checks, one by one. A merge join would read all checks up to them, which
	// the planner, who does not know how far that is, likes for pages far from the first.
	params["enable_mergejoin"] = "off"
	params["work_mem"] = "32MB"
	params["statement_timeout"] = fmt.Sprint(statementTimeout.Milliseconds())
	params["idle_in_transaction_session_timeout"] = fmt.Sprint(frozenTimeout.Milliseconds())
	s.owner = pc.ConnConfig
	if cfg.MigrateURL != "" {
		if s.owner, err = pgx.ParseConfig(cfg.MigrateURL); err != nil {
			return errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "the configuration cannot be used").
				Field("NIGHTSHIFT_MIGRATE_DATABASE_URL", "is not a Postgres URL or DSN")
		}
		s.owner.ConnectTimeout = pc.ConnConfig.ConnectTimeout
	}
	if s.pool, err = pgxpool.NewWithConfig(context.Background(), pc); err != nil {
		return errs.New(errs.InvalidArgument, "BAD_CONFIGURATION", "Postgres cannot be used").Wrap(err)
	}
	s.bun = bun.NewDB(stdlib.OpenDBFromPool(s.pool), pgdialect.New())
	return nil
}

// prepare brings the schema up to date once Postgres can be reached. It
// returns nil when ctx ends first.
func (s *Service) prepare(ctx context.Context) error {
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, 5*time.Second) {
		err := migrate(ctx, s.owner)
		if err == nil {
			err = s.addPartitions(ctx)
		}
		if err == nil || ctx.Err() != nil {
			return nil
		}
		if err = fault(err); !errors.Is(err, errs.Unavailable) {
			return err
		}
		s.log.WarnContext(ctx, "Postgres cannot be reached; trying again", "error", err, "after", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

// Migrate brings the schema of a database up to date. Of several processes
// that do so at once one works and the others wait for it.
func Migrate(ctx context.Context, dsn string) error {
	cc, err := pgx.ParseConfig(dsn)
	if err != nil {
		return err
	}
	return migrate(ctx, cc)
}

func migrate(ctx context.Context, cc *pgx.ConnConfig) error {
	cc = cc.Copy()
	cc.RuntimeParams["statement_timeout"] = "0" // an index on a big table takes its time
	cc.RuntimeParams["idle_in_transaction_session_timeout"] = "0"
	db := stdlib.OpenDB(*cc)
	defer db.Close()
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return err
	}
	// Asked every second, for five minutes.
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockTimeout(1, 300))
	if err != nil {
		return err
	}
	p, err := goose.NewProvider(goose.DialectPostgres, db, files, goose.WithSessionLocker(locker), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	if _, err := p.Up(ctx); err != nil {
		if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) && pg.Code == "42501" {
			return errs.New(errs.FailedPrecondition, "SCHEMA_OUTDATED",
				"the schema is not up to date, and role %s may not change it: set NIGHTSHIFT_MIGRATE_DATABASE_URL, or run \"nightshift deploy postgres --migrate\"", cc.User).Wrap(err)
		}
		return fmt.Errorf("migrate: %w", err)
	}
	conn, err := pgx.ConnectConfig(ctx, cc)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if err := applyGrants(ctx, conn); err != nil {
		return fmt.Errorf("rights of roles: %w", err)
	}
	return nil
}

// db returns the database once its schema is in place.
func (s *Service) db(ctx context.Context) (*bun.DB, error) {
	select {
	case <-s.ready:
		return s.bun, nil
	default:
	}
	timeout := time.NewTimer(readyTimeout)
	defer timeout.Stop()
	select {
	case <-s.ready:
		return s.bun, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-timeout.C:
		return nil, unavailable(errors.New("the schema is not in place yet"))
	}
}

// transaction is a bun transaction that collects what is to be said about its
// changes and writes it down last: see flush.
type transaction struct {
	bun.Tx
	s *Service
	// conn is the connection the transaction is on, for COPY.
	conn bun.Conn
	// now is when it began.
	now time.Time
	// actor is who has it done, where somebody has.
	actor string
	// unbraked lets any number of findings change: somebody has released them.
	unbraked bool

	changes []change
	events  []proto.Message
	entries []entry
	topics  map[string]bool
}

// attempts is how often a transaction is tried that Postgres ended in favour
// of another.
const attempts = 6

// inTx runs f in a transaction, commits it with what f had to say, or rolls
// it back when f or the commit fails. Errors are those of errs. f runs again
// when Postgres ended the transaction in favour of another.
func (s *Service) inTx(ctx context.Context, f func(ctx context.Context, tx *transaction) error) error {
	for n := 1; ; n++ {
		err := s.inTxOnce(ctx, f)
		if err == nil || !lost(err) || n == attempts {
			return fault(err)
		}
		s.log.WarnContext(ctx, "Postgres ended a transaction in favour of another; trying again", "error", err, "attempt", n)
		select {
		case <-ctx.Done():
			return fault(err)
		case <-time.After(time.Duration(rand.Int64N(int64(n) * int64(20*time.Millisecond)))):
		}
	}
}

func (s *Service) inTxOnce(ctx context.Context, f func(ctx context.Context, tx *transaction) error) error {
	db, err := s.db(ctx)
	if err != nil {
		return err
	}
	conn, err := db.Conn(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	btx, err := conn.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer btx.Rollback()
	tx := &transaction{Tx: btx, s: s, conn: conn, now: s.now().UTC(), topics: map[string]bool{}}
	if err := f(ctx, tx); err != nil {
		return err
	}
	if err := tx.flush(ctx); err != nil {
		return err
	}
	return btx.Commit()
}

// lost says that Postgres ended a transaction because another needed what it
// had: a deadlock, a serialization failure, or a lock it was not to wait for.
func lost(err error) bool {
	pg := (*pgconn.PgError)(nil)
	return errors.As(err, &pg) && (pg.Code == "40P01" || pg.Code == "40001" || pg.Code == "55P03")
}

// copyInto copies rows into a table.
func (tx *transaction) copyInto(ctx context.Context, table string, columns []string, n int, row func(i int) ([]any, error)) error {
	return tx.conn.Raw(func(c any) error {
		_, err := c.(*stdlib.Conn).Conn().CopyFrom(ctx, pgx.Identifier{table}, columns, pgx.CopyFromSlice(n, row))
		return err
	})
}

// The locks, in the order in which a transaction takes them. Whoever keeps to
// it cannot deadlock.
//
//  1. exemptionLock, which whoever changes findings shares, and whoever changes
//     exemptions, and with them findings of any scope, has for itself.
//  2. Scopes over all runs, in rising order (lockScopes): findings, sightings and
//     listings of a scope belong to whoever has it.
//  3. Rows of run_scopes, in rising order of run, account, region and service
//     (runScopes, lockScopesOf): a scope of a run, its batches and its finishes.
//  4. Jobs, in rising order (lockRuns, lockJobs): all runs of a job, ended or not,
//     belong to whoever has it. No row of runs is changed without it, and with it
//     no row of run_scopes is waited for. Whoever is to end scopes together with
//     runs locks the scopes first, before it knows for sure which runs these are.
//  5. stepLock, for the rest of the transaction: what is committed after it has
//     been taken becomes visible in the order of its numbers.
//
// auditLock is taken by transactions that take no other.
//
// A beat takes one row of run_scopes by itself, and does not wait for it.
const (
	stepLock      = 7306_0001 // sequence numbers of transitions and of the system log
	relayLock     = 7306_0002 // the outbox's publisher
	partitionLock = 7306_0003 // the system log's partitions
	exemptionLock = 7306_0004 // what exemptions there are
	auditLock     = 7306_0009 // the end of the audit log
	grantLock     = 7306_0010 // the rights of roles
)

// fault turns an error of the database into one of errs. Others stay as they are.
func fault(err error) error {
	if err == nil {
		return nil
	}
	if e := (*errs.Error)(nil); errors.As(err, &e) {
		return err
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if pg := (*pgconn.PgError)(nil); errors.As(err, &pg) {
		switch {
		case strings.HasPrefix(pg.Code, "08"), // connection exceptions
			strings.HasPrefix(pg.Code, "53"),                           // out of connections, memory or disk
			pg.Code == "57P01", pg.Code == "57P02", pg.Code == "57P03", // shutting down or starting up
			pg.Code == "57P05", pg.Code == "25P03", // idle for too long
			pg.Code == "25006",                     // read only: a standby
			pg.Code == "40001", pg.Code == "40P01", // lost against another transaction
			pg.Code == "55P03": // lock not available at once
			return unavailable(err)
		case pg.Code == "57014":
			return errs.New(errs.DeadlineExceeded, "DATABASE_TOO_SLOW", "the database took longer than %s; a narrower filter may help", statementTimeout).Wrap(err)
		}
		return err
	}
	var (
		dial *pgconn.ConnectError
		nerr net.Error
	)
	if errors.As(err, &dial) || errors.As(err, &nerr) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, net.ErrClosed) || errors.Is(err, sql.ErrConnDone) || errors.Is(err, driver.ErrBadConn) || pgconn.SafeToRetry(err) ||
		strings.Contains(err.Error(), "conn closed") || strings.Contains(err.Error(), "closed pool") {
		return unavailable(err)
	}
	return err
}

func unavailable(cause error) error {
	return errs.New(errs.Unavailable, "DATABASE_UNAVAILABLE", "the database cannot be reached").RetryAfter(time.Second).Wrap(cause)
}
