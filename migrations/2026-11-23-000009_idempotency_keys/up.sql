-- Answers that are given again: one for each key of a caller, method and route. Written in the transaction that they tell of.
CREATE TABLE idempotency_keys (
    caller text NOT NULL,
    method text NOT NULL,
    route text NOT NULL,
    key text NOT NULL,
    -- An HMAC of path, query and body: bodies hold passwords.
    fingerprint bytea NOT NULL,
    status smallint NOT NULL,
    body text NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (caller, method, route, key)
);
CREATE INDEX idempotency_keys_by_age ON idempotency_keys (created_at);
