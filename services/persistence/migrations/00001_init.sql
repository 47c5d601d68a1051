-- The tables of persistence. Enums are stored as the numbers of their protos, which rise with rank, so that
-- "severity >= 4" means HIGH or worse. All text is COLLATE "C": it compares by bytes, the same in every database and
-- in the service.
-- Times are the scans' and the service's, in UTC; money is USD a month as the rules computed it.

-- +goose Up
CREATE TABLE accounts (
    id          text COLLATE "C" PRIMARY KEY,
    name        text COLLATE "C" NOT NULL,
    partition   text COLLATE "C" NOT NULL,
    role_arn    text COLLATE "C" NOT NULL,
    external_id text COLLATE "C" NOT NULL,
    regions     text[]      NOT NULL,
    owner       text COLLATE "C" NOT NULL,
    labels      jsonb       NOT NULL,
    state       smallint    NOT NULL CHECK (state IN (1, 2)),
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL
);

CREATE TABLE runs (
    id           text COLLATE "C" PRIMARY KEY,
    job          text COLLATE "C" NOT NULL,
    kind         text COLLATE "C" NOT NULL,
    state        smallint    NOT NULL CHECK (state BETWEEN 1 AND 4),
    cause        smallint    NOT NULL,
    requested_by text COLLATE "C" NOT NULL,
    planned_time timestamptz,
    start_time   timestamptz NOT NULL,
    end_time     timestamptz,
    parameters   jsonb       NOT NULL,
    max_retries  integer     NOT NULL,
    timeout_ms   bigint,
    planned      boolean     NOT NULL DEFAULT false,
    error        text COLLATE "C" NOT NULL DEFAULT '',
    -- Sums over the scopes as a nightshift.run.v1.Run, set when the run ends; until then they are computed.
    figures      bytea,
    CHECK ((state = 1) = (end_time IS NULL))
);
CREATE INDEX runs_newest ON runs (start_time DESC, id);
CREATE INDEX runs_job ON runs (job, start_time DESC, id);

CREATE TABLE run_scopes (
    run_id         text COLLATE "C" NOT NULL REFERENCES runs ON DELETE CASCADE,
    service        text COLLATE "C" NOT NULL,
    account        text COLLATE "C" NOT NULL,
    region         text COLLATE "C" NOT NULL,
    state          smallint NOT NULL CHECK (state BETWEEN 1 AND 5),
    attempts       integer  NOT NULL DEFAULT 0,
    execution      text COLLATE "C" NOT NULL DEFAULT '', -- the last one begun
    start_time     timestamptz,
    end_time       timestamptz,
    error          text COLLATE "C" NOT NULL DEFAULT '',
    resources      bigint   NOT NULL DEFAULT 0,
    verdicts       bigint   NOT NULL DEFAULT 0,
    violations     bigint   NOT NULL DEFAULT 0,
    monthly_cost   double precision NOT NULL DEFAULT 0,
    calls          bigint   NOT NULL DEFAULT 0,
    retries        bigint   NOT NULL DEFAULT 0,
    throttles      bigint   NOT NULL DEFAULT 0,
    billed_metrics bigint   NOT NULL DEFAULT 0,
    billed_cost    double precision NOT NULL DEFAULT 0,
    opened         bigint   NOT NULL DEFAULT 0,
    changed        bigint   NOT NULL DEFAULT 0,
    resolved       bigint   NOT NULL DEFAULT 0,
    reopened       bigint   NOT NULL DEFAULT 0,
    unchanged      bigint   NOT NULL DEFAULT 0,
    exempted       bigint   NOT NULL DEFAULT 0,
    PRIMARY KEY (run_id, account, region, service),
    CHECK ((state >= 3) = (end_time IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX run_scopes_unfinished ON run_scopes (run_id) WHERE state < 3;

CREATE TABLE coverage (
    run_id        text COLLATE "C" NOT NULL,
    service       text COLLATE "C" NOT NULL,
    account       text COLLATE "C" NOT NULL,
    region        text COLLATE "C" NOT NULL,
    resource_type text COLLATE "C" NOT NULL,
    status        smallint NOT NULL,
    pages         integer  NOT NULL,
    resources     bigint   NOT NULL,
    error         text COLLATE "C" NOT NULL,
    PRIMARY KEY (run_id, account, region, service, resource_type),
    FOREIGN KEY (run_id, account, region, service) REFERENCES run_scopes ON DELETE CASCADE
);

CREATE TABLE tallies (
    run_id            text COLLATE "C" NOT NULL,
    service           text COLLATE "C" NOT NULL,
    account           text COLLATE "C" NOT NULL,
    region            text COLLATE "C" NOT NULL,
    rule_id           text COLLATE "C" NOT NULL,
    rule_version      integer NOT NULL,
    resource_type     text COLLATE "C" NOT NULL,
    violations        bigint  NOT NULL,
    compliant         bigint  NOT NULL,
    not_applicable    bigint  NOT NULL,
    insufficient_data bigint  NOT NULL,
    errors            bigint  NOT NULL,
    PRIMARY KEY (run_id, account, region, service, rule_id, resource_type),
    FOREIGN KEY (run_id, account, region, service) REFERENCES run_scopes ON DELETE CASCADE
);

-- Batches ingested for scopes that have not ended: what makes ingesting twice the same as once. A scope that has
-- ended takes no more batches, so its rows go when it ends.
CREATE TABLE batches (
    run_id    text COLLATE "C" NOT NULL,
    service   text COLLATE "C" NOT NULL,
    account   text COLLATE "C" NOT NULL,
    region    text COLLATE "C" NOT NULL,
    execution text COLLATE "C" NOT NULL,
    sequence  integer NOT NULL,
    refused   integer NOT NULL, -- observations in it that could not be used
    sightings bytea,            -- nightshift.finding.v1.FindingsObserved with its sightings alone, for the end of the scope
    PRIMARY KEY (run_id, account, region, service, execution, sequence),
    FOREIGN KEY (run_id, account, region, service) REFERENCES run_scopes ON DELETE CASCADE
);

-- ScopeFinished messages that came before all of their batches.
CREATE TABLE finishes (
    run_id    text COLLATE "C" NOT NULL,
    service   text COLLATE "C" NOT NULL,
    account   text COLLATE "C" NOT NULL,
    region    text COLLATE "C" NOT NULL,
    execution text COLLATE "C" NOT NULL,
    batches   integer NOT NULL,
    message   bytea   NOT NULL, -- nightshift.scan.v1.ScopeFinished
    PRIMARY KEY (run_id, account, region, service, execution),
    FOREIGN KEY (run_id, account, region, service) REFERENCES run_scopes ON DELETE CASCADE
);

-- The newest listing of each resource type in a scope, over all runs.
CREATE TABLE listings (
    service       text COLLATE "C" NOT NULL,
    account       text COLLATE "C" NOT NULL,
    region        text COLLATE "C" NOT NULL,
    resource_type text COLLATE "C" NOT NULL,
    scan_time     timestamptz NOT NULL, -- of the newest listing, however it ended
    complete_time timestamptz,          -- of the newest complete one
    PRIMARY KEY (service, account, region, resource_type)
);

-- Resources in states that rules follow over time, as the ends of scopes left them.
CREATE TABLE sightings (
    service       text COLLATE "C" NOT NULL,
    account       text COLLATE "C" NOT NULL,
    region        text COLLATE "C" NOT NULL,
    arn           text COLLATE "C" NOT NULL,
    state         text COLLATE "C" NOT NULL,
    resource_type text COLLATE "C" NOT NULL,
    first_seen    timestamptz NOT NULL,
    before        timestamptz,          -- the complete listing before that did not show it so
    scan_time     timestamptz NOT NULL, -- of the newest scan that saw it so
    PRIMARY KEY (service, account, region, arn, state)
) WITH (fillfactor = 80);

-- One row for each rule and resource that ever met, for ever. What every scan writes is in checks, so that a scan that
-- finds things as they were leaves these wide rows and their indexes alone.
CREATE TABLE findings (
    id             text COLLATE "C" PRIMARY KEY CHECK (length(id) = 32),
    service        text COLLATE "C" NOT NULL,
    account        text COLLATE "C" NOT NULL,
    region         text COLLATE "C" NOT NULL,
    rule_id        text COLLATE "C" NOT NULL,
    rule_version   integer  NOT NULL,
    category       smallint NOT NULL,
    state          smallint NOT NULL CHECK (state BETWEEN 1 AND 4),
    severity       smallint NOT NULL,
    -- Names are those of the resource with U+FFFD for NUL, which text cannot hold; detail has them as they came.
    resource_arn   text COLLATE "C" NOT NULL,
    resource_id    text COLLATE "C" NOT NULL,
    resource_type  text COLLATE "C" NOT NULL,
    resource_name  text COLLATE "C" NOT NULL,
    title          text COLLATE "C" NOT NULL,
    owner          text COLLATE "C" NOT NULL,
    cost_low       double precision, -- NULL: unknown, which is never 0
    cost_high      double precision,
    cost           bytea,            -- nightshift.rule.v1.MonthlyCost with basis, source and date
    parameters     jsonb    NOT NULL,
    tags           jsonb    NOT NULL, -- of the resource, to be filtered by; detail has them as they came
    declared       bytea,             -- nightshift.rule.v1.Exemption that the resource itself declares
    exemption      bytea,             -- the one in force, and its id when it is of exemptions
    exemption_id   text COLLATE "C" NOT NULL DEFAULT '',
    detail         bytea    NOT NULL, -- nightshift.finding.v1.Finding: resource, reason, recommendation, evidence
    resource_hash  bigint   NOT NULL, -- of the resource: tells a change of policy from one of the resource
    fingerprint    bigint   NOT NULL, -- of what detail says, without the figures that differ from scan to scan
    since          timestamptz,
    first_seen     timestamptz NOT NULL,
    evidence_time  timestamptz NOT NULL,
    resolve_time   timestamptz,
    reopen_count   integer  NOT NULL DEFAULT 0,
    revision       bigint   NOT NULL DEFAULT 1,
    CHECK ((state = 2) = (resolve_time IS NOT NULL)),
    CHECK ((state = 4) = (exemption IS NOT NULL)),
    CHECK (exemption_id = '' OR exemption IS NOT NULL),
    CHECK ((cost_low IS NULL) = (cost_high IS NULL))
);
-- Orders of ListFindings, newest, dearest and worst first; id breaks ties. Unknown costs come last.
CREATE INDEX findings_newest ON findings (first_seen DESC, id);
CREATE INDEX findings_dearest ON findings (coalesce(cost_high, '-Infinity') DESC, id);
CREATE INDEX findings_worst ON findings (severity DESC, id);
CREATE INDEX findings_scope ON findings (account, region, rule_id, id);
CREATE INDEX findings_rule ON findings (rule_id, id);
CREATE INDEX findings_resource ON findings (resource_id);
CREATE INDEX findings_exempt ON findings (exemption_id) WHERE exemption_id <> '';

-- Violations that somebody accepted. The findings they are in force for point at them.
CREATE TABLE exemptions (
    id          text COLLATE "C" PRIMARY KEY,
    filter      text COLLATE "C" NOT NULL, -- as in the API: what it matches is decided by the service
    by          text COLLATE "C" NOT NULL,
    reason      text COLLATE "C" NOT NULL,
    expire_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    expired     boolean     NOT NULL DEFAULT false, -- and its findings have been told
    revision    bigint      NOT NULL DEFAULT 1
);
CREATE INDEX exemptions_running ON exemptions (expire_time, id) WHERE NOT expired;

-- When each finding was last looked at. Every scan updates every row of its scope in one go: the pages have room for two
-- versions of each row and nothing but the primary key is indexed, so that updates stay on their page (HOT). Filters and
-- orders over last_seen and last_run_id are slower for it.
CREATE TABLE checks (
    id             text COLLATE "C" PRIMARY KEY, -- of the finding
    last_seen      timestamptz NOT NULL,
    last_run_id    text COLLATE "C" NOT NULL,
    checked_time   timestamptz NOT NULL, -- of the newest verdict, whatever its outcome
    checked_run_id text COLLATE "C" NOT NULL,
    absent_runs    smallint NOT NULL DEFAULT 0 -- complete listings in a row that did not show the resource
) WITH (fillfactor = 45);

-- Every step of every finding. seq is drawn and committed under one lock, so that it rises in the order in which rows
-- become visible, and whoever has read up to a seq has missed nothing before it.
CREATE SEQUENCE transitions_seq;
CREATE TABLE transitions (
    seq        bigint PRIMARY KEY,
    finding_id text COLLATE "C" NOT NULL,
    kind       smallint    NOT NULL CHECK (kind BETWEEN 1 AND 5),
    cause      smallint    NOT NULL,
    time       timestamptz NOT NULL,
    run_id     text COLLATE "C" NOT NULL,
    event      bytea       NOT NULL -- the lifecycle event: the finding after the transition, and the transition
);
CREATE INDEX transitions_finding ON transitions (finding_id, seq);

-- What is still to be published, in order. A lifecycle event is not stored twice: its row points at its transition.
CREATE TABLE outbox (
    id         bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY,
    time       timestamptz NOT NULL,
    message    text COLLATE "C" NOT NULL, -- full name of the protobuf message
    body       bytea,
    transition bigint,
    trace      text COLLATE "C" NOT NULL, -- W3C traceparent of what caused it
    error      text COLLATE "C",          -- why it can never be published; it is kept for people and skipped
    CHECK ((body IS NULL) <> (transition IS NULL))
);

CREATE SEQUENCE system_log_seq;
CREATE TABLE system_log (
    id         bigint      NOT NULL DEFAULT nextval('system_log_seq'),
    time       timestamptz NOT NULL,
    level      smallint    NOT NULL CHECK (level BETWEEN 1 AND 3),
    event      text COLLATE "C" NOT NULL,
    message    text COLLATE "C" NOT NULL,
    service    text COLLATE "C" NOT NULL,
    job        text COLLATE "C" NOT NULL,
    run_id     text COLLATE "C" NOT NULL,
    account    text COLLATE "C" NOT NULL,
    region     text COLLATE "C" NOT NULL,
    attributes jsonb       NOT NULL,
    PRIMARY KEY (time, id)
) PARTITION BY RANGE (time);
CREATE INDEX system_log_run ON system_log (run_id, time) WHERE run_id <> '';
-- Months are added as they come; what fits none of them lands here.
CREATE TABLE system_log_default PARTITION OF system_log DEFAULT;

-- +goose Down
DROP TABLE system_log, outbox, transitions, exemptions, checks, findings, sightings, listings, finishes, batches, tallies, coverage,
    run_scopes, runs, accounts;
DROP SEQUENCE system_log_seq, transitions_seq;
