-- Runs that wait, are cancelled, skipped and done again; scopes that give signs of life and are tried again.

-- +goose Up
ALTER TABLE runs
    DROP CONSTRAINT runs_state_check,
    DROP CONSTRAINT runs_check,
    ADD CONSTRAINT runs_state_check CHECK (state BETWEEN 1 AND 7),
    ADD CONSTRAINT runs_end_check CHECK ((state IN (1, 5)) = (end_time IS NULL)),
    ADD COLUMN trigger        bytea, -- nightshift.job.v1.Trigger; NULL in runs of versions that kept none
    ADD COLUMN run_timeout_ms bigint  NOT NULL DEFAULT 86400000,
    ADD COLUMN retry_of       text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN cancelled_by   text COLLATE "C" NOT NULL DEFAULT '',
    -- Scopes a retry is to do, as a nightshift.run.v1.RetryRunRequest; NULL: all that are planned.
    ADD COLUMN wanted         bytea,
    ADD COLUMN releases       integer NOT NULL DEFAULT 0,
    ADD COLUMN release_time   timestamptz; -- of the newest release; NULL before the first
-- What is at work or waits: few rows of many. Overlap, the queue and the reaper look here and nowhere else.
CREATE INDEX runs_unended ON runs (job, state) WHERE state IN (1, 5);
CREATE INDEX runs_retries ON runs (retry_of) WHERE retry_of <> '';

-- Beats write the times and the figures every few seconds: none of them may be indexed, so that updates stay on their
-- page (HOT). The reaper goes through run_scopes_unfinished.
ALTER TABLE run_scopes
    DROP CONSTRAINT run_scopes_state_check,
    ADD CONSTRAINT run_scopes_state_check CHECK (state BETWEEN 1 AND 6),
    ADD COLUMN failures       integer NOT NULL DEFAULT 0,
    ADD COLUMN heartbeat_time timestamptz,
    ADD COLUMN retry_time     timestamptz,
    ADD COLUMN request_time   timestamptz, -- when it was last requested
    ADD COLUMN counts         jsonb   NOT NULL DEFAULT '{}',
    -- What a request holds beside what the run knows.
    ADD COLUMN role_arn       text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN external_id    text COLLATE "C" NOT NULL DEFAULT '',
    ADD COLUMN partition      text COLLATE "C" NOT NULL DEFAULT '';

-- A page of the log is a range of one of these, newest first. The watch reads on from an id.
CREATE INDEX system_log_id ON system_log (id);
CREATE INDEX system_log_job ON system_log (job, time, id) WHERE job <> '';
CREATE INDEX system_log_account ON system_log (account, time, id) WHERE account <> '';
CREATE INDEX system_log_warnings ON system_log (time, id) WHERE level >= 2;

-- +goose Down
DROP INDEX system_log_warnings, system_log_account, system_log_job, system_log_id;
UPDATE run_scopes SET state = 5 WHERE state = 6;
ALTER TABLE run_scopes
    DROP CONSTRAINT run_scopes_state_check,
    ADD CONSTRAINT run_scopes_state_check CHECK (state BETWEEN 1 AND 5),
    DROP COLUMN failures, DROP COLUMN heartbeat_time, DROP COLUMN retry_time, DROP COLUMN request_time, DROP COLUMN counts,
    DROP COLUMN role_arn, DROP COLUMN external_id, DROP COLUMN partition;
DROP INDEX runs_retries, runs_unended;
UPDATE runs SET state = 4, end_time = coalesce(end_time, start_time) WHERE state > 4;
ALTER TABLE runs
    DROP CONSTRAINT runs_state_check,
    DROP CONSTRAINT runs_end_check,
    ADD CONSTRAINT runs_state_check CHECK (state BETWEEN 1 AND 4),
    ADD CONSTRAINT runs_check CHECK ((state = 1) = (end_time IS NULL)),
    DROP COLUMN trigger, DROP COLUMN run_timeout_ms, DROP COLUMN retry_of, DROP COLUMN cancelled_by, DROP COLUMN wanted,
    DROP COLUMN releases, DROP COLUMN release_time;
