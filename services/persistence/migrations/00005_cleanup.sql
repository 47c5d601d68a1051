-- Findings that no scan looks at any more, and what finds what has been kept for its time.

-- +goose Up
CREATE TABLE orphans (
    finding_id text COLLATE "C" PRIMARY KEY REFERENCES findings,
    service    text COLLATE "C" NOT NULL, -- the finding's scope
    account    text COLLATE "C" NOT NULL,
    region     text COLLATE "C" NOT NULL,
    reason     smallint    NOT NULL CHECK (reason IN (1, 2)),
    time       timestamptz NOT NULL
);
CREATE INDEX orphans_scope ON orphans (account, region, service);
CREATE INDEX instance_days_day ON instance_days (day);

-- +goose Down
DROP INDEX instance_days_day;
DROP TABLE orphans;
