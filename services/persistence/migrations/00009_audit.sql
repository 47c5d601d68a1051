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

-- +goose Down
DROP TABLE audit_entries;
DROP FUNCTION keep_audit_entries();
