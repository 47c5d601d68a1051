-- What people say about findings, sums over findings, days of findings, and what is held back.

-- +goose Up
ALTER TABLE findings
    ADD COLUMN resource_owner text COLLATE "C" NOT NULL DEFAULT '', -- as the resource says
    ADD COLUMN assignee       text COLLATE "C" NOT NULL DEFAULT '', -- as a person says
    ADD COLUMN ack            bytea,                                -- nightshift.finding.v1.Acknowledgement
    ADD COLUMN ack_until      timestamptz,                          -- NULL: until the finding changes
    ADD CHECK (ack_until IS NULL OR ack IS NOT NULL),
    ADD CHECK (ack IS NULL OR state <> 2);
-- owner is whoever answers in the end: assignee, resource_owner, or the account's owner.
UPDATE findings SET resource_owner = owner;

CREATE INDEX findings_account ON findings (account, id);
CREATE INDEX findings_region ON findings (region, id);
CREATE INDEX findings_owner ON findings (owner, id);
CREATE INDEX findings_cheapest ON findings (coalesce(cost_high, 'Infinity'), id);
CREATE INDEX findings_mildest ON findings (severity, id);
CREATE INDEX findings_state ON findings (state, id);
CREATE INDEX findings_tags ON findings USING gin (tags jsonb_path_ops);
CREATE INDEX findings_assignee ON findings (assignee, id) WHERE assignee <> '';
CREATE INDEX findings_acknowledged ON findings (id) WHERE ack IS NOT NULL;
CREATE INDEX findings_ack_until ON findings (ack_until) WHERE ack_until IS NOT NULL;
CREATE INDEX findings_resolved ON findings (coalesce(resolve_time, '0001-01-01 00:00:00+00') DESC, id);

ALTER TABLE transitions DROP CONSTRAINT transitions_kind_check;
ALTER TABLE transitions ADD CONSTRAINT transitions_kind_check CHECK (kind BETWEEN 1 AND 50);

-- Findings counted by what tells them apart, kept by the triggers below, whoever writes findings. Money is millionths of
-- a dollar: whole numbers add up, and take away, to the same in any order. A row is of one scope, whose lock its writers
-- hold. Rows of no findings are swept up.
CREATE TABLE finding_sums (
    account      text COLLATE "C" NOT NULL,
    region       text COLLATE "C" NOT NULL,
    service      text COLLATE "C" NOT NULL,
    rule_id      text COLLATE "C" NOT NULL,
    category     smallint NOT NULL,
    state        smallint NOT NULL,
    severity     smallint NOT NULL,
    owner        text COLLATE "C" NOT NULL,
    acknowledged smallint NOT NULL,
    findings     bigint   NOT NULL,
    unpriced     bigint   NOT NULL, -- findings of no known cost
    cost_low     bigint   NOT NULL,
    cost_high    bigint   NOT NULL,
    PRIMARY KEY (account, service, state, region, rule_id, category, severity, owner, acknowledged)
) WITH (fillfactor = 70);

-- A cost beyond a trillion dollars a month is no cost; it is counted as one.
-- +goose StatementBegin
CREATE FUNCTION millionths(usd double precision) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN round(greatest(-1e12, least(1e12, coalesce(usd, 0))) * 1e6)::bigint;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE FUNCTION sum_findings() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        INSERT INTO finding_sums AS t
        SELECT account, region, service, rule_id, category, state, severity, owner, (ack IS NOT NULL)::int,
            count(*), count(*) FILTER (WHERE cost_high IS NULL), sum(millionths(cost_low)), sum(millionths(cost_high))
        FROM added GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
        ON CONFLICT (account, service, state, region, rule_id, category, severity, owner, acknowledged) DO UPDATE SET
            findings = t.findings + EXCLUDED.findings, unpriced = t.unpriced + EXCLUDED.unpriced,
            cost_low = t.cost_low + EXCLUDED.cost_low, cost_high = t.cost_high + EXCLUDED.cost_high;
    ELSIF TG_OP = 'UPDATE' THEN
        INSERT INTO finding_sums AS t
        SELECT account, region, service, rule_id, category, state, severity, owner, acknowledged, sum(n), sum(unpriced), sum(low), sum(high)
        FROM (
            SELECT account, region, service, rule_id, category, state, severity, owner, (ack IS NOT NULL)::int AS acknowledged,
                1 AS n, (cost_high IS NULL)::int AS unpriced, millionths(cost_low) AS low, millionths(cost_high) AS high FROM added
            UNION ALL
            SELECT account, region, service, rule_id, category, state, severity, owner, (ack IS NOT NULL)::int,
                -1, -(cost_high IS NULL)::int, -millionths(cost_low), -millionths(cost_high) FROM removed
        ) d
        GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
        HAVING sum(n) <> 0 OR sum(unpriced) <> 0 OR sum(low) <> 0 OR sum(high) <> 0
        ON CONFLICT (account, service, state, region, rule_id, category, severity, owner, acknowledged) DO UPDATE SET
            findings = t.findings + EXCLUDED.findings, unpriced = t.unpriced + EXCLUDED.unpriced,
            cost_low = t.cost_low + EXCLUDED.cost_low, cost_high = t.cost_high + EXCLUDED.cost_high;
    ELSE
        INSERT INTO finding_sums AS t
        SELECT account, region, service, rule_id, category, state, severity, owner, (ack IS NOT NULL)::int,
            -count(*), -count(*) FILTER (WHERE cost_high IS NULL), -sum(millionths(cost_low)), -sum(millionths(cost_high))
        FROM removed GROUP BY 1, 2, 3, 4, 5, 6, 7, 8, 9
        ON CONFLICT (account, service, state, region, rule_id, category, severity, owner, acknowledged) DO UPDATE SET
            findings = t.findings + EXCLUDED.findings, unpriced = t.unpriced + EXCLUDED.unpriced,
            cost_low = t.cost_low + EXCLUDED.cost_low, cost_high = t.cost_high + EXCLUDED.cost_high;
    END IF;
    RETURN NULL;
END $$;
-- +goose StatementEnd
CREATE TRIGGER findings_added AFTER INSERT ON findings REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION sum_findings();
CREATE TRIGGER findings_changed AFTER UPDATE ON findings REFERENCING OLD TABLE AS removed NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION sum_findings();
CREATE TRIGGER findings_removed AFTER DELETE ON findings REFERENCING OLD TABLE AS removed FOR EACH STATEMENT EXECUTE FUNCTION sum_findings();
INSERT INTO finding_sums
SELECT account, region, service, rule_id, category, state, severity, owner, 0,
    count(*), count(*) FILTER (WHERE cost_high IS NULL), sum(millionths(cost_low)), sum(millionths(cost_high))
FROM findings GROUP BY 1, 2, 3, 4, 5, 6, 7, 8;

-- What became of findings, by the day of the transition, written with the transitions. Open and cost are differences:
-- those of all days up to one add up to what is open at its end. Money is cents: a change of less is no transition.
CREATE TABLE finding_days (
    day           date NOT NULL,
    account       text COLLATE "C" NOT NULL,
    region        text COLLATE "C" NOT NULL,
    rule_id       text COLLATE "C" NOT NULL,
    category      smallint NOT NULL,
    open          bigint NOT NULL DEFAULT 0,
    cost_low      bigint NOT NULL DEFAULT 0,
    cost_high     bigint NOT NULL DEFAULT 0,
    opened        bigint NOT NULL DEFAULT 0,
    reopened      bigint NOT NULL DEFAULT 0,
    resolved      bigint NOT NULL DEFAULT 0,
    exempted      bigint NOT NULL DEFAULT 0,
    saved_low     bigint NOT NULL DEFAULT 0,
    saved_high    bigint NOT NULL DEFAULT 0,
    saved_unknown bigint NOT NULL DEFAULT 0,
    lost_low      bigint NOT NULL DEFAULT 0,
    lost_high     bigint NOT NULL DEFAULT 0,
    PRIMARY KEY (day, account, region, rule_id, category)
) WITH (fillfactor = 70);
-- Of findings from before there were days: as if nothing had happened to them but their beginning and their end.
INSERT INTO finding_days (day, account, region, rule_id, category, open, cost_low, cost_high, opened, resolved)
SELECT day, account, region, rule_id, category, sum(open), sum(open * low), sum(open * high), sum(opened), sum(resolved)
FROM (
    SELECT (first_seen AT TIME ZONE 'UTC')::date AS day, account, region, rule_id, category, (state <> 4)::int AS open,
        round(coalesce(cost_low, 0) * 100)::bigint AS low, round(coalesce(cost_high, 0) * 100)::bigint AS high, 1 AS opened, 0 AS resolved FROM findings
    UNION ALL
    SELECT (resolve_time AT TIME ZONE 'UTC')::date, account, region, rule_id, category, -1,
        round(coalesce(cost_low, 0) * 100)::bigint, round(coalesce(cost_high, 0) * 100)::bigint, 0, 1 FROM findings WHERE state = 2
) d
GROUP BY 1, 2, 3, 4, 5;

-- Owners of accounts as findings have them.
CREATE TABLE account_owners (
    account text COLLATE "C" PRIMARY KEY,
    owner   text COLLATE "C" NOT NULL
);

-- What runs did to findings of a scope, for the brake. Written under the scope's lock.
CREATE TABLE run_changes (
    run_id   text COLLATE "C" NOT NULL,
    service  text COLLATE "C" NOT NULL,
    account  text COLLATE "C" NOT NULL,
    region   text COLLATE "C" NOT NULL,
    time     timestamptz NOT NULL, -- of the last change
    made     bigint NOT NULL,      -- findings that never were before
    returned bigint NOT NULL,      -- findings that were resolved before
    opened   bigint NOT NULL,      -- of those, the ones that are not exempt
    resolved bigint NOT NULL,
    PRIMARY KEY (run_id, service, account, region)
);
CREATE INDEX run_changes_time ON run_changes (time);

-- Runs that were stopped, and what they wanted.
CREATE TABLE holds (
    run_id  text COLLATE "C" NOT NULL,
    service text COLLATE "C" NOT NULL,
    account text COLLATE "C" NOT NULL,
    time    timestamptz NOT NULL,
    before  bigint NOT NULL, -- findings not resolved when the run began
    released boolean NOT NULL DEFAULT false, -- and so the run is stopped no more
    PRIMARY KEY (run_id, service, account)
);
CREATE TABLE held (
    finding_id  text COLLATE "C" PRIMARY KEY,
    run_id      text COLLATE "C" NOT NULL,
    service     text COLLATE "C" NOT NULL,
    account     text COLLATE "C" NOT NULL,
    region      text COLLATE "C" NOT NULL,
    kind        smallint    NOT NULL CHECK (kind IN (1, 3, 4)),
    time        timestamptz NOT NULL, -- of the newest scan that says so
    observation bytea,                -- nightshift.scan.v1.Observation; NULL: not in two complete listings in a row
    CHECK (kind = 3 OR observation IS NOT NULL)
);
CREATE INDEX held_run ON held (run_id, service, account, finding_id);

-- Answers to requests that may come again.
CREATE TABLE finding_requests (
    id       text COLLATE "C" PRIMARY KEY,
    time     timestamptz NOT NULL,
    digest   bytea NOT NULL,
    response bytea
);
CREATE INDEX finding_requests_time ON finding_requests (time);

-- +goose Down
DROP TABLE finding_requests, held, holds, run_changes, account_owners, finding_days;
DROP TRIGGER findings_added ON findings;
DROP TRIGGER findings_changed ON findings;
DROP TRIGGER findings_removed ON findings;
DROP FUNCTION sum_findings();
DROP TABLE finding_sums;
DROP FUNCTION millionths(double precision);
DELETE FROM outbox WHERE transition IN (SELECT seq FROM transitions WHERE kind > 5);
DELETE FROM transitions WHERE kind > 5;
ALTER TABLE transitions DROP CONSTRAINT transitions_kind_check;
ALTER TABLE transitions ADD CONSTRAINT transitions_kind_check CHECK (kind BETWEEN 1 AND 5);
UPDATE findings SET owner = resource_owner WHERE owner <> resource_owner;
ALTER TABLE findings DROP COLUMN resource_owner, DROP COLUMN assignee, DROP COLUMN ack, DROP COLUMN ack_until;
DROP INDEX findings_account, findings_region, findings_owner, findings_cheapest, findings_mildest, findings_state, findings_tags;
DROP INDEX findings_resolved;
