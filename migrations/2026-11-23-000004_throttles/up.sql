-- Fixed windows: how often a name (what is limited) happened for a key (an HMAC, so that no address rests here).
CREATE TABLE throttles (
    name text NOT NULL,
    key_hmac bytea NOT NULL,
    window_start timestamptz NOT NULL,
    count bigint NOT NULL,
    PRIMARY KEY (name, key_hmac)
);
CREATE INDEX throttles_by_window ON throttles (window_start);
