package persistence

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
)

// The roles of Postgres. The owner changes the schema and is needed for
// nothing else; the app is what persistence works as; the reader is for
// dashboards.
const (
	RoleOwner  = "nightshift_owner"
	RoleApp    = "nightshift_app"
	RoleReader = "nightshift_reader"
)

const (
	dml        = "SELECT, INSERT, UPDATE, DELETE"
	appendOnly = "SELECT, INSERT"
	kept       = "SELECT, INSERT, DELETE" // never changed, and removed when it is old
	readOnly   = "SELECT"
)

// decision is what the roles may do with a table. Whatever is not said is not
// allowed. Partitions have no rights of their own: they are reached through
// their table.
type decision struct {
	app    string
	reader string // SELECT, SELECT of some columns, or nothing
}

// decisions are those about all tables. A new table without one fails a test;
// the reader gets nothing that could be a secret, and no columns that come later
// of a table that has such.
var decisions = map[string]decision{
	"goose_db_version": {readOnly, ""},

	"accounts":              {dml, "SELECT (id, name, partition, role_arn, regions, owner, labels, state, create_time, update_time, verify_time)"},
	"account_owners":        {dml, readOnly},
	"onboardings":           {dml, "SELECT (id, account, state, source, create_time, update_time)"},
	"runs":                  {dml, readOnly},
	"run_scopes":            {dml, "SELECT (run_id, service, account, region, state, attempts, start_time, end_time, error, resources, verdicts, violations, monthly_cost, calls, retries, throttles, billed_metrics, billed_cost, opened, changed, resolved, reopened, unchanged, exempted, failures)"},
	"run_changes":           {dml, readOnly},
	"coverage":              {dml, readOnly},
	"tallies":               {dml, readOnly},
	"batches":               {dml, ""},
	"finishes":              {dml, ""},
	"listings":              {dml, readOnly},
	"sightings":             {dml, readOnly},
	"findings":              {dml, readOnly},
	"finding_sums":          {dml, readOnly},
	"finding_days":          {dml, readOnly},
	"finding_requests":      {dml, ""},
	"checks":                {dml, readOnly},
	"transitions":           {kept, readOnly},
	"holds":                 {dml, readOnly},
	"held":                  {dml, readOnly},
	"orphans":               {dml, readOnly},
	"exemptions":            {dml, readOnly},
	"outbox":                {dml, ""},
	"system_log":            {kept, readOnly},
	"instances":             {dml, readOnly},
	"instance_days":         {dml, readOnly},
	"components":            {dml, readOnly},
	"component_transitions": {kept, readOnly},
	"auth_tokens":           {dml, ""},
	"notify_config":         {dml, ""},
	"receivers":             {dml, ""},
	"receiver_health":       {dml, ""},
	"contacts":              {dml, ""},
	"routes":                {dml, "SELECT (name, position, create_time, update_time)"},
	"silences":              {dml, readOnly},
	"notice_groups":         {dml, "SELECT (id, route, labels, create_time, due_time, repeat_time, next_time, number, last_message_time)"},
	"notices":               {dml, "SELECT (group_id, event_id, seq, add_time, event_time, due_time, urgent, silence_id, event, rank, finding_id, severity, rule_id, account)"},
	"group_findings":        {dml, readOnly},
	"deliveries":            {dml, "SELECT (id, route, state, create_time, next_attempt_time, end_time, attempts, silence_id)"},
	"audit_entries":         {appendOnly, "SELECT (sequence, time, call_id, phase, principal_kind, principal, principal_id, service, method, code, reason)"},
}

// sequences the app draws from by itself; those of identity columns need no right.
var sequences = []string{"transitions_seq", "system_log_seq"}

// functions the app may call: what the triggers of its statements call, and
// what does for it what only the owner may.
var functions = []string{"millionths(double precision)", "add_system_log_month(date)", "drop_system_log_month(timestamptz)"}

// grants is a statement that makes the rights on what there is what they are
// stated to be, whatever they were. It does nothing where there are no roles.
func grants() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("DO $grants$")
	line("DECLARE")
	line("    object record;")
	line("BEGIN")
	line("    IF to_regrole('%s') IS NULL OR to_regrole('%s') IS NULL THEN", RoleApp, RoleReader)
	line("        RETURN;")
	line("    END IF;")
	line("    -- Replicas that start at once would be in each other's way.")
	line("    PERFORM pg_advisory_xact_lock(%d);", grantLock)
	line("    FOR object IN")
	line("        SELECT CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END AS kind, c.oid, c.oid::regclass::text AS name, c.relowner AS owner")
	line("        FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'S')")
	line("        UNION ALL SELECT 'FUNCTION', p.oid, p.oid::regprocedure::text, p.proowner FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace")
	line("    LOOP")
	line("        -- What others have put there, such as extensions, is theirs.")
	line("        IF pg_has_role(object.owner, 'USAGE') AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = object.oid AND d.deptype = 'e') THEN")
	line("            EXECUTE format('REVOKE ALL ON %%s %%s FROM PUBLIC, %s, %s', object.kind, object.name);", RoleApp, RoleReader)
	line("        END IF;")
	line("    END LOOP;")
	line("    FOR object IN SELECT * FROM (VALUES")
	var rows []string
	tables := make([]string, 0, len(decisions))
	for table := range decisions {
		tables = append(tables, table)
	}
	slices.Sort(tables)
	for _, table := range tables {
		for _, g := range []struct{ role, rights string }{{RoleApp, decisions[table].app}, {RoleReader, decisions[table].reader}} {
			if g.rights != "" {
				rows = append(rows, fmt.Sprintf("        ('TABLE', '%s', '%s', '%s')", table, g.role, g.rights))
			}
		}
	}
	for _, s := range sequences {
		rows = append(rows, fmt.Sprintf("        ('SEQUENCE', '%s', '%s', 'USAGE')", s, RoleApp))
	}
	for _, f := range functions {
		rows = append(rows, fmt.Sprintf("        ('FUNCTION', '%s', '%s', 'EXECUTE')", f, RoleApp))
	}
	line("%s", strings.Join(rows, ",\n"))
	line("    ) AS stated (kind, name, role, rights)")
	line("    LOOP")
	line("        -- What a later version brings is granted by that version's migration.")
	line("        IF object.kind = 'FUNCTION' AND to_regprocedure('public.' || object.name) IS NOT NULL")
	line("            OR object.kind <> 'FUNCTION' AND to_regclass('public.' || object.name) IS NOT NULL")
	line("        THEN")
	line("            EXECUTE format('GRANT %%s ON %%s public.%%s TO %%I', object.rights, object.kind, object.name, object.role);")
	line("        END IF;")
	line("    END LOOP;")
	b.WriteString("END $grants$")
	return b.String()
}

// RolesSQL is a script for psql, to be run once by a superuser in the database
// of Nightshift: it makes the roles, hands them what there is, and changes
// nothing when it is run again.
func RolesSQL() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line(`-- The roles of Nightshift in Postgres. Generated by "nightshift deploy postgres"; do not edit.
--
-- Run it as a superuser in the database of Nightshift, as often as you like:
--     psql --set ON_ERROR_STOP=1 --single-transaction --dbname nightshift --file roles.sql
-- and give the roles passwords, or whatever pg_hba.conf asks for:
--     ALTER ROLE %[1]s PASSWORD '…'; ALTER ROLE %[2]s PASSWORD '…'; ALTER ROLE %[3]s PASSWORD '…';
--
-- %[1]s changes the schema and is needed for nothing else: NIGHTSHIFT_MIGRATE_DATABASE_URL.
-- %[2]s is what persistence works as: DATABASE_URL.
-- %[3]s is for dashboards: no external ids, tokens, receivers, and nothing of the audit log but who, what and when.
`, RoleOwner, RoleApp, RoleReader)
	line("DO $roles$")
	line("DECLARE")
	line("    object record;")
	line("BEGIN")
	for _, role := range []string{RoleOwner, RoleApp, RoleReader} {
		line("    IF to_regrole('%[1]s') IS NULL THEN", role)
		line("        CREATE ROLE %s LOGIN;", role)
		line("    END IF;")
		line("    ALTER ROLE %s NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;", role)
	}
	line("    EXECUTE format('REVOKE ALL ON DATABASE %%I FROM PUBLIC', current_database());")
	line("    EXECUTE format('GRANT CONNECT ON DATABASE %%I TO %s, %s, %s', current_database());", RoleOwner, RoleApp, RoleReader)
	line("    -- Persistence stages what it writes in temporary tables.")
	line("    EXECUTE format('GRANT TEMPORARY ON DATABASE %%I TO %s', current_database());", RoleApp)
	line("    ALTER SCHEMA public OWNER TO %s;", RoleOwner)
	line("    REVOKE ALL ON SCHEMA public FROM PUBLIC, %s, %s;", RoleApp, RoleReader)
	line("    GRANT USAGE ON SCHEMA public TO %s, %s;", RoleApp, RoleReader)
	line("    -- What is there already, of an installation without roles, becomes the owner's.")
	line("    FOR object IN SELECT c.oid::regclass AS name, c.relkind FROM pg_class c")
	line("        WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'S') AND c.relowner <> '%s'::regrole", RoleOwner)
	line("            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.deptype IN ('e', 'i', 'a') AND (d.deptype = 'e' OR c.relkind = 'S'))")
	line("    LOOP")
	line("        EXECUTE format('ALTER %%s %%s OWNER TO %s', CASE object.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, object.name);", RoleOwner)
	line("    END LOOP;")
	line("    FOR object IN SELECT p.oid::regprocedure AS name FROM pg_proc p")
	line("        WHERE p.pronamespace = 'public'::regnamespace AND p.proowner <> '%s'::regrole", RoleOwner)
	line("            AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.deptype = 'e')")
	line("    LOOP")
	line("        EXECUTE format('ALTER FUNCTION %%s OWNER TO %s', object.name);", RoleOwner)
	line("    END LOOP;")
	line("END $roles$;")
	line("")
	line("-- The rights on what is there. Every migration ends with the same, so that a new table has its rights at once.")
	line("%s;", grants())
	return b.String()
}

// applyGrants states the rights anew, if whoever is connected may.
func applyGrants(ctx context.Context, conn *pgx.Conn) error {
	var may bool
	err := conn.QueryRow(ctx, "SELECT coalesce(pg_has_role(to_regrole($1), 'USAGE'), false)", RoleOwner).Scan(&may)
	if err != nil || !may {
		return err
	}
	_, err = conn.Exec(ctx, grants())
	return err
}
