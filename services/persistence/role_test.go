package persistence

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/pgdialect"

	accountv1 "nightshift.dev/gen/nightshift/account/v1"
	"nightshift.dev/pkg/devstack/devtest"
	"nightshift.dev/pkg/errs"
)

var rewrite = flag.Bool("update", false, "write what is generated instead of comparing it")

// as is a database as another role sees it.
func as(role, dsn string) string { return dsn + "&user=" + role }

// migrated fills a database as an operator does: the roles by a superuser, and
// all else by the owner.
func migrated(ctx context.Context, dsn string) error {
	if err := makeRoles(ctx, dsn); err != nil {
		return err
	}
	return Migrate(ctx, as(RoleOwner, dsn))
}

// Roles are of the whole server, and Postgres refuses to change one twice at once.
var rolesLock sync.Mutex

func makeRoles(ctx context.Context, dsn string) error {
	rolesLock.Lock()
	defer rolesLock.Unlock()
	return runSQL(ctx, dsn, RolesSQL())
}

func runSQL(ctx context.Context, dsn, sql string) error {
	db, err := pgx.Connect(ctx, dsn)
	if err != nil {
		return err
	}
	defer db.Close(ctx)
	_, err = db.Exec(ctx, sql)
	return err
}

func connectAs(t testing.TB, role, dsn string) *pgx.Conn {
	t.Helper()
	db, err := pgx.Connect(t.Context(), as(role, dsn))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close(context.Background()) })
	return db
}

// operator is a connection that may do everything.
func operator(t testing.TB, dsn string) *pgx.Conn {
	t.Helper()
	return connectAs(t, "postgres", dsn)
}

// superuser is the database of a service in the hands of somebody who may do
// everything, for what tests do to it that the service may not.
func superuser(t testing.TB, s *Service) *bun.DB {
	t.Helper()
	cc := s.pool.Config().ConnConfig.Copy()
	cc.User = "postgres"
	db := bun.NewDB(stdlib.OpenDB(*cc), pgdialect.New())
	t.Cleanup(func() { db.Close() })
	return db
}

const rolesFile = "../../deploy/postgres/roles.sql"

func TestRolesFileCurrent(t *testing.T) {
	t.Parallel()
	if *rewrite {
		if err := os.MkdirAll("../../deploy/postgres", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(rolesFile, []byte(RolesSQL()), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	have, err := os.ReadFile(rolesFile)
	if err != nil || string(have) != RolesSQL() {
		t.Errorf("%s is not what the code says, run go test ./services/persistence -run RolesFile -update: %v", rolesFile, err)
	}
}

// tablesOf are the tables there are, without partitions.
func tablesOf(t *testing.T, db *pgx.Conn, partitions bool) []string {
	t.Helper()
	rows, err := db.Query(t.Context(), "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v', 'm') AND relispartition = $1 ORDER BY 1", partitions)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// Each role can do with each table what is stated and nothing else, tried out
// one by one.
func TestRoleMatrix(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dsn := devtest.DB(t, migrated)
	if err := makeRoles(ctx, dsn); err != nil { // rights on the database itself are not in the template
		t.Fatal(err)
	}
	root := operator(t, dsn)
	if err := runSQL(ctx, as(RoleApp, dsn), "SELECT add_system_log_month('2026-02-01')"); err != nil {
		t.Fatal(err)
	}
	tables, partitions := tablesOf(t, root, false), tablesOf(t, root, true)
	if stated := slices.Sorted(maps.Keys(decisions)); !slices.Equal(stated, tables) {
		t.Fatalf("rights are stated for\n%v, and there are\n%v: say in decisions what the roles may do with a new table", stated, tables)
	}
	if !slices.Equal(partitions, []string{"system_log_2026_02", "system_log_default"}) {
		t.Errorf("partitions are %v", partitions)
	}
	rights := func(table, role string) string {
		if role == RoleApp {
			return decisions[table].app
		}
		return decisions[table].reader
	}
	columns := func(table string) []string {
		rows, err := root.Query(ctx, "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped", table)
		if err != nil {
			t.Fatal(err)
		}
		names, err := pgx.CollectRows(rows, pgx.RowTo[string])
		if err != nil {
			t.Fatal(err)
		}
		return names
	}
	whole := regexp.MustCompile(`\bSELECT\b($|,)`)
	for _, role := range []string{RoleApp, RoleReader} {
		db := connectAs(t, role, dsn)
		try := func(what, sql string, want bool) {
			t.Helper()
			tx, err := db.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer tx.Rollback(ctx)
			_, err = tx.Exec(ctx, sql)
			pg := (*pgconn.PgError)(nil)
			if denied := errors.As(err, &pg) && pg.Code == "42501"; denied == want {
				t.Errorf("%s: %s: allowed is %v, want %v (%v)", role, what, !denied, want, err)
			}
		}
		for _, table := range slices.Concat(tables, partitions) {
			may := rights(table, role)
			all := columns(table)
			try(table+" SELECT", "SELECT * FROM "+table+" LIMIT 1", whole.MatchString(may))
			for _, c := range all {
				want := whole.MatchString(may) || regexp.MustCompile(`SELECT \(([^)]*, )?`+c+`(,|\))`).MatchString(may)
				try(table+"."+c+" SELECT", fmt.Sprintf("SELECT %q FROM %s LIMIT 1", c, table), want)
			}
			try(table+" INSERT", "INSERT INTO "+table+" DEFAULT VALUES", strings.Contains(may, "INSERT"))
			try(table+" UPDATE", fmt.Sprintf("UPDATE %s SET %[2]q = DEFAULT", table, all[0]), strings.Contains(may, "UPDATE"))
			try(table+" DELETE", "DELETE FROM "+table, strings.Contains(may, "DELETE"))
			for _, ddl := range []string{
				"TRUNCATE %s", "DROP TABLE %s", "ALTER TABLE %s ADD COLUMN mine int", "ALTER TABLE %s DISABLE TRIGGER ALL", "CREATE INDEX ON %s ((1))",
				"CREATE TRIGGER mine BEFORE INSERT ON %s FOR EACH STATEMENT EXECUTE FUNCTION keep_audit_entries()", "ALTER TABLE %s OWNER TO CURRENT_USER",
				"CREATE TABLE mine (LIKE %s)",
			} {
				try(table, fmt.Sprintf(ddl, table), false)
			}
		}
		for _, sql := range []string{
			"CREATE TABLE mine (i int)", "CREATE VIEW mine AS SELECT 1", "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1", "CREATE SCHEMA mine", "CREATE ROLE mine",
			"SET ROLE " + RoleOwner, "SET SESSION AUTHORIZATION " + RoleOwner, "GRANT " + RoleOwner + " TO CURRENT_USER", "ALTER ROLE CURRENT_USER SUPERUSER", "SET session_replication_role = replica",
			"DROP FUNCTION keep_audit_entries()", "ALTER FUNCTION add_system_log_month(date) SECURITY INVOKER", "SELECT setval('transitions_seq', 1)", "ALTER SEQUENCE transitions_seq RESTART",
			"COPY (SELECT 1) TO PROGRAM 'true'", "SELECT pg_read_file('/etc/passwd')", "SELECT keep_audit_entries()", "SELECT last_value FROM transitions_seq",
		} {
			try(sql, sql, false)
		}
		for _, sql := range []string{"CREATE TEMP TABLE mine (i int)", "SELECT nextval('transitions_seq')", "SELECT nextval('system_log_seq')", "SELECT millionths(1)", "SELECT add_system_log_month('2030-01-01')", "SELECT drop_system_log_month('1999-01-01')"} {
			try(sql, sql, role == RoleApp)
		}
	}
	for _, column := range []string{"accounts.external_id", "run_scopes.external_id", "onboardings.detail", "audit_entries.payload", "audit_entries.hash"} {
		table, name, _ := strings.Cut(column, ".")
		var may bool
		if err := root.QueryRow(ctx, "SELECT has_column_privilege($1, $2, $3, 'SELECT')", RoleReader, table, name).Scan(&may); err != nil || may {
			t.Errorf("the reader sees %s (%v)", column, err)
		}
	}
	// Rights cannot be handed on; Postgres warns and does nothing.
	_ = runSQL(ctx, as(RoleApp, dsn), "GRANT SELECT ON findings TO PUBLIC")
	var public int
	if err := root.QueryRow(ctx, "SELECT count(*) FROM information_schema.role_table_grants WHERE grantee = 'PUBLIC' AND table_schema = 'public'").Scan(&public); err != nil || public > 0 {
		t.Errorf("everybody has %d rights (%v)", public, err)
	}
	// What a function of the owner does cannot be turned by names put in its way.
	try := "CREATE TEMP TABLE system_log (i int); CREATE TEMP TABLE pg_class (i int); SELECT add_system_log_month('2031-01-01')"
	if err := runSQL(ctx, as(RoleApp, dsn), try); err != nil {
		t.Error(err)
	}
	if got := tablesOf(t, root, true); !slices.Contains(got, "system_log_2031_01") {
		t.Errorf("partitions are %v", got)
	}
	if err := runSQL(ctx, as(RoleApp, dsn), "SELECT add_system_log_month('1980-01-01')"); err == nil {
		t.Error("a month of long ago was added")
	}
}

// An installation that did everything as one role is taken over, and goes on;
// the script can be run again at any time.
func TestRolesForWhatIsThere(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	dsn := devtest.DB(t, Migrate)
	s, err := open(Config{DatabaseURL: dsn, Connections: 4}, quiet(), &taken{}, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	close(s.ready)
	if err := s.addPartitions(ctx); err != nil {
		t.Fatal(err)
	}
	writeAudit(t, s, auditRecord("c1", callAttempted))
	startRun(t, s, "job/1", here)
	s.Close()
	for range 2 {
		if err := makeRoles(ctx, dsn); err != nil {
			t.Fatal(err)
		}
	}
	// As one role, as two, and as the app where there is nothing to migrate.
	for name, cfg := range map[string]Config{
		"owner": {DatabaseURL: as(RoleOwner, dsn)}, "both": {DatabaseURL: as(RoleApp, dsn), MigrateURL: as(RoleOwner, dsn)}, "app": {DatabaseURL: as(RoleApp, dsn)},
	} {
		cfg.Connections = 4
		s, err := open(cfg, quiet(), &taken{}, time.Now)
		if err != nil {
			t.Fatal(name, err)
		}
		running, stop := context.WithCancel(ctx)
		ran := make(chan error, 1)
		go func() { ran <- s.Run(running) }()
		select {
		case <-s.ready:
		case err := <-ran:
			t.Fatal(name, err)
		}
		startRun(t, s, "job/"+name, here)
		writeAudit(t, s, auditRecord(name, callAttempted))
		if _, err := s.ListAccounts(ctx, &accountv1.ListAccountsRequest{}); err != nil {
			t.Error(name, err)
		}
		stop()
		if err := <-ran; err != nil {
			t.Error(name, err)
		}
		if said := verifyAudit(t, s); len(said) > 0 {
			t.Error(name, said)
		}
		s.Close()
	}
	var owners []string
	if err := operator(t, dsn).QueryRow(ctx, `SELECT array_agg(DISTINCT pg_get_userbyid(relowner)::text) FROM pg_class WHERE relnamespace = 'public'::regnamespace`).Scan(&owners); err != nil || !slices.Equal(owners, []string{RoleOwner}) {
		t.Errorf("owners are %v (%v)", owners, err)
	}
}

// The app alone cannot bring a schema up to date, and says what to do.
func TestAppDoesNotMigrate(t *testing.T) {
	t.Parallel()
	dsn := devtest.DB(t, nil)
	if err := makeRoles(t.Context(), dsn); err != nil {
		t.Fatal(err)
	}
	err := Migrate(t.Context(), as(RoleApp, dsn))
	if errs.Reason(err) != "SCHEMA_OUTDATED" || !strings.Contains(err.Error(), "NIGHTSHIFT_MIGRATE_DATABASE_URL") {
		t.Error(err)
	}
	if err := Migrate(t.Context(), as(RoleOwner, dsn)); err != nil {
		t.Error(err)
	}
	if err := Migrate(t.Context(), as(RoleApp, dsn)); err != nil {
		t.Error("with nothing to migrate:", err)
	}
}
