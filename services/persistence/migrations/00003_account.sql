-- Accounts are onboarded: registered as PENDING until a verification of their role has passed.

-- +goose Up
ALTER TABLE accounts
    DROP CONSTRAINT accounts_state_check,
    ADD CONSTRAINT accounts_state_check CHECK (state IN (1, 2, 3)),
    ADD COLUMN verify_time timestamptz; -- of the last verification that passed, of this role and external id

CREATE TABLE onboardings (
    id          text COLLATE "C" PRIMARY KEY,
    account     text COLLATE "C" NOT NULL,
    state       smallint    NOT NULL CHECK (state BETWEEN 1 AND 5),
    source      smallint    NOT NULL CHECK (source IN (1, 2)),
    create_time timestamptz NOT NULL,
    update_time timestamptz NOT NULL,
    detail      bytea       NOT NULL -- nightshift.account.v1.Onboarding: all of it
);
-- An account has one that is under way at most: PENDING, VERIFYING or FAILED.
CREATE UNIQUE INDEX onboardings_under_way ON onboardings (account) WHERE state IN (1, 2, 4);
CREATE INDEX onboardings_newest ON onboardings (create_time DESC, id);
CREATE INDEX onboardings_account ON onboardings (account, create_time DESC);

-- +goose Down
DROP TABLE onboardings;
UPDATE accounts SET state = 2 WHERE state = 3;
ALTER TABLE accounts
    DROP COLUMN verify_time,
    DROP CONSTRAINT accounts_state_check,
    ADD CONSTRAINT accounts_state_check CHECK (state IN (1, 2));
