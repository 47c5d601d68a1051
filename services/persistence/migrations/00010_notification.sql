-- Who hears of what, what waits to be told, and what became of it.

-- +goose Up

-- Changes with each change of receivers, routes, contacts and silences. Whoever changes one changes it first, and so
-- waits for all others who do.
CREATE TABLE notify_config (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    version text COLLATE "C" NOT NULL
);
INSERT INTO notify_config (version) VALUES ('0');

CREATE TABLE receivers (
    name        text COLLATE "C" PRIMARY KEY,
    paused      boolean     NOT NULL,
    version     text COLLATE "C" NOT NULL, -- of notify_config, with its newest change
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    body        bytea       NOT NULL       -- nightshift.notification.v1.Receiver, as people set it
);

CREATE TABLE routes (
    name        text COLLATE "C" PRIMARY KEY,
    position    integer     NOT NULL,
    receivers   text[] COLLATE "C" NOT NULL,
    version     text COLLATE "C" NOT NULL,
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    body        bytea       NOT NULL       -- nightshift.notification.v1.Route, as people set it
);

CREATE TABLE contacts (
    key         text COLLATE "C" PRIMARY KEY, -- the owner in lower case
    owner       text COLLATE "C" NOT NULL,
    receivers   text[] COLLATE "C" NOT NULL,
    version     text COLLATE "C" NOT NULL,
    update_time timestamptz NOT NULL
);

CREATE TABLE silences (
    id          text COLLATE "C" PRIMARY KEY,
    filter      text COLLATE "C" NOT NULL,
    author      text COLLATE "C" NOT NULL,
    comment     text COLLATE "C" NOT NULL,
    start_time  timestamptz NOT NULL,
    expire_time timestamptz NOT NULL,
    create_time timestamptz NOT NULL,
    version     text COLLATE "C" NOT NULL,
    CHECK (start_time <= expire_time)
);
CREATE INDEX silences_expire ON silences (expire_time DESC, id DESC);

-- What is told together. Its row is locked by whoever adds to it, claims it or flushes it.
CREATE TABLE notice_groups (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key               text COLLATE "C" NOT NULL UNIQUE,
    route             text COLLATE "C" NOT NULL,
    receivers         text[] COLLATE "C" NOT NULL,
    labels            jsonb       NOT NULL,          -- what its events share
    spacing           double precision NOT NULL,     -- seconds between two messages, at least
    create_time       timestamptz NOT NULL,
    due_time          timestamptz,                   -- NULL: no event waits
    repeat_time       timestamptz,
    next_time         timestamptz GENERATED ALWAYS AS (coalesce(due_time, repeat_time)) STORED,
    told              bigint      NOT NULL DEFAULT 0, -- seq up to which its events wait no more
    number            bigint      NOT NULL DEFAULT 0, -- messages made
    last_message_time timestamptz,
    lease_id          text COLLATE "C" NOT NULL DEFAULT '',
    lease_time        timestamptz,                   -- until then
    lease_told        bigint      NOT NULL DEFAULT 0, -- what told becomes
    flushed_lease     text COLLATE "C" NOT NULL DEFAULT '',
    flushed_ids       text[] COLLATE "C" NOT NULL DEFAULT '{}'
) WITH (fillfactor = 70);
CREATE INDEX notice_groups_next ON notice_groups (next_time) WHERE next_time IS NOT NULL;
CREATE INDEX notice_groups_route ON notice_groups (route);

-- The events of groups: those that wait, and those that do not, so that they are known when they come again.
CREATE TABLE notices (
    group_id   bigint      NOT NULL REFERENCES notice_groups ON DELETE CASCADE,
    event_id   text COLLATE "C" NOT NULL,
    seq        bigint      GENERATED ALWAYS AS IDENTITY, -- rises within a group as things become visible
    add_time   timestamptz NOT NULL,
    event_time timestamptz NOT NULL,
    due_time   timestamptz NOT NULL,
    urgent     boolean     NOT NULL,
    silence_id text COLLATE "C" NOT NULL,
    event      text COLLATE "C" NOT NULL,
    rank       smallint    NOT NULL, -- the worst has the highest
    finding_id text COLLATE "C" NOT NULL,
    severity   smallint    NOT NULL,
    rule_id    text COLLATE "C" NOT NULL,
    account    text COLLATE "C" NOT NULL,
    waste      boolean     NOT NULL, -- a finding of waste has opened or reopened
    cost_low   double precision, -- NULL: unknown
    cost_high  double precision,
    notice     bytea       NOT NULL, -- nightshift.notification.v1.Notice
    PRIMARY KEY (group_id, event_id)
);
CREATE INDEX notices_queue ON notices (group_id, seq);
CREATE INDEX notices_added ON notices (add_time);

-- The group of a route in which a finding is, and whether it is open there. Closed ones are kept for as long as events
-- from before may come.
CREATE TABLE group_findings (
    route      text COLLATE "C" NOT NULL,
    finding_id text COLLATE "C" NOT NULL,
    group_id   bigint      NOT NULL REFERENCES notice_groups ON DELETE CASCADE,
    open       boolean     NOT NULL,
    time       timestamptz NOT NULL, -- of the event that says so
    PRIMARY KEY (route, finding_id)
) WITH (fillfactor = 80);
CREATE INDEX group_findings_group ON group_findings (group_id, open);
CREATE INDEX group_findings_closed ON group_findings (time) WHERE NOT open;

CREATE TABLE deliveries (
    id                text COLLATE "C" PRIMARY KEY,
    seq               bigint      GENERATED ALWAYS AS IDENTITY, -- order within receiver and group
    receiver          text COLLATE "C" NOT NULL,
    route             text COLLATE "C" NOT NULL,
    group_key         text COLLATE "C" NOT NULL,
    idempotency_key   text COLLATE "C" NOT NULL,
    state             smallint    NOT NULL CHECK (state BETWEEN 1 AND 4),
    message           bytea       NOT NULL, -- nightshift.notification.v1.Message
    summary           text COLLATE "C" NOT NULL,
    create_time       timestamptz NOT NULL,
    next_attempt_time timestamptz,
    end_time          timestamptz,
    attempts          integer     NOT NULL DEFAULT 0,
    log               bytea       NOT NULL DEFAULT '', -- nightshift.notification.v1.Delivery with nothing but its log
    last_error        text COLLATE "C" NOT NULL DEFAULT '',
    resend_of         text COLLATE "C" NOT NULL DEFAULT '',
    silence_id        text COLLATE "C" NOT NULL DEFAULT '',
    lease_id          text COLLATE "C" NOT NULL DEFAULT '',
    lease_time        timestamptz,
    finished_lease    text COLLATE "C" NOT NULL DEFAULT '',
    CHECK ((state = 1) = (next_attempt_time IS NOT NULL)),
    CHECK ((state = 1) = (end_time IS NULL))
) WITH (fillfactor = 80);
CREATE INDEX deliveries_lane ON deliveries (receiver, group_key, seq) WHERE state = 1;
CREATE INDEX deliveries_route ON deliveries (route, create_time);
CREATE INDEX deliveries_receiver ON deliveries (receiver, id);
CREATE INDEX deliveries_dead ON deliveries (id) WHERE state = 3;
CREATE INDEX deliveries_end ON deliveries (end_time) WHERE end_time IS NOT NULL;
CREATE INDEX deliveries_resend ON deliveries (resend_of) WHERE resend_of <> '';

-- How deliveries to receivers go, made-up ones (mailto:…) included.
CREATE TABLE receiver_health (
    receiver          text COLLATE "C" PRIMARY KEY,
    breaker           smallint    NOT NULL CHECK (breaker BETWEEN 1 AND 3),
    failures          integer     NOT NULL, -- in a row
    openings          integer     NOT NULL, -- of the breaker, in a row
    retry_time        timestamptz,          -- unless the breaker is closed: nothing is tried before, and then one
    hold_time         timestamptz,          -- the receiver asks to be left alone until then
    last_success_time timestamptz,
    last_error        text COLLATE "C" NOT NULL,
    update_time       timestamptz NOT NULL,
    CHECK (breaker = 1 OR retry_time IS NOT NULL)
) WITH (fillfactor = 50);

-- +goose Down
DROP TABLE receiver_health, deliveries, group_findings, notices, notice_groups, silences, contacts, routes, receivers, notify_config;
