-- The audit log. Each entry's hash is made of its place, the hash before it and its payload; the other columns are what
-- entries are found by, and derived from the payload.

-- +goose Up
CREATE TABLE audit_entries (
    sequence       bigint      PRIMARY KEY CHECK (sequence > 0), -- without gaps
    time           timestamptz NOT NULL,
    call_id        text COLLATE "C" NOT NULL,
    phase          smallint    NOT NULL CHECK (phase BETWEEN 1 AND 4),
    principal_kind smallint    NOT NULL,
    principal      text COLLATE "C" NOT NULL,
    principal_id   text COLLATE "C" NOT NULL,
    service        text COLLATE "C" NOT NULL,
    method         text COLLATE "C" NOT NULL,
    code           integer     NOT NULL,
    reason         text COLLATE "C" NOT NULL,
    payload        bytea       NOT NULL, -- nightshift.audit.v1.Record
    hash           bytea       NOT NULL CHECK (length(hash) = 32),
    UNIQUE (call_id, phase)
);
CREATE INDEX audit_entries_principal ON audit_entries (principal, sequence);
CREATE INDEX audit_entries_method ON audit_entries (method, sequence);
CREATE INDEX audit_entries_denied ON audit_entries (sequence) WHERE phase = 4;

-- Not against whoever owns the table, who can drop the trigger: for that there is the chain.
-- +goose StatementBegin
CREATE FUNCTION keep_audit_entries() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'insufficient_privilege';
END $$;
-- +goose StatementEnd
CREATE TRIGGER audit_entries_kept BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_entries
    FOR EACH STATEMENT EXECUTE FUNCTION keep_audit_entries();

-- Months of the system log, for a service that may not change the schema: these do what the owner may, and take no SQL.
-- +goose StatementBegin
CREATE FUNCTION add_system_log_month(month date) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    name   text := 'system_log_' || to_char(month, 'YYYY_MM');
    begins timestamp := date_trunc('month', month::timestamp);
BEGIN
    IF month IS NULL OR month NOT BETWEEN '2000-01-01' AND '2999-12-31' THEN
        RAISE EXCEPTION '% is no month of the system log', month USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF to_regclass('public.' || name) IS NOT NULL THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE public.%I PARTITION OF public.system_log FOR VALUES FROM (%L) TO (%L)',
        name, begins AT TIME ZONE 'UTC', (begins + interval '1 month') AT TIME ZONE 'UTC');
    RETURN true;
END $$;
-- +goose StatementEnd

-- Drops the oldest month of which all is from before the time, and returns how many entries it had; -1 when there is none.
-- +goose StatementBegin
CREATE FUNCTION drop_system_log_month(before timestamptz) RETURNS bigint LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    oldest  regclass;
    entries bigint;
BEGIN
    SELECT p.part INTO oldest FROM (
        SELECT c.oid::regclass AS part, (regexp_match(pg_get_expr(c.relpartbound, c.oid), 'TO \(''([^'']+)''\)'))[1]::timestamptz AS until
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = 'public.system_log'::regclass
    ) p WHERE p.until <= before ORDER BY p.until LIMIT 1;
    IF oldest IS NULL THEN
        RETURN -1;
    END IF;
    EXECUTE format('SELECT count(*) FROM %s', oldest) INTO entries;
    EXECUTE format('DROP TABLE %s', oldest);
    RETURN entries;
END $$;
-- +goose StatementEnd
REVOKE ALL ON FUNCTION add_system_log_month(date), drop_system_log_month(timestamptz) FROM PUBLIC;

-- +goose Down
DROP FUNCTION drop_system_log_month(timestamptz);
DROP FUNCTION add_system_log_month(date);
DROP TABLE audit_entries;
DROP FUNCTION keep_audit_entries();
