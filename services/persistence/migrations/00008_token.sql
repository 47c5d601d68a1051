-- API tokens. Only hashes: nobody can make a token of what is here.

-- +goose Up
CREATE TABLE auth_tokens (
    id             text COLLATE "C" PRIMARY KEY,
    hash           bytea NOT NULL UNIQUE CHECK (length(hash) = 32), -- SHA-256
    name           text COLLATE "C" NOT NULL CHECK (name <> ''),
    role           smallint NOT NULL CHECK (role BETWEEN 1 AND 3),
    accounts       text[] COLLATE "C" NOT NULL,                     -- empty: all
    created_by     text COLLATE "C" NOT NULL,
    create_time    timestamptz NOT NULL,
    expire_time    timestamptz NOT NULL,
    last_used_time timestamptz,                                     -- to the minute
    revoke_time    timestamptz,
    revoked_by     text COLLATE "C" NOT NULL DEFAULT ''
);
CREATE INDEX auth_tokens_newest ON auth_tokens (create_time DESC, id);

-- +goose Down
DROP TABLE auth_tokens;
