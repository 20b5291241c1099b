-- Who is at the operators' pages. The cookie's text is kept as a hash; the epoch is the user's, so that whatever ends his
-- sessions ends this one.
CREATE TABLE staff_sessions (
    token_sha256 bytea PRIMARY KEY CONSTRAINT staff_sessions_token_length CHECK (octet_length(token_sha256) = 32),
    user_id uuid NOT NULL CONSTRAINT staff_sessions_user REFERENCES users ON DELETE CASCADE,
    epoch integer NOT NULL,
    ip text,
    user_agent text,
    created_at timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    second_factor_at timestamptz
);
CREATE INDEX staff_sessions_by_user ON staff_sessions (user_id);
CREATE INDEX staff_sessions_by_expiry ON staff_sessions (expires_at);

-- The second factor. The secret is sealed under a server key, and a time step is accepted once.
CREATE TABLE totp (
    user_id uuid PRIMARY KEY CONSTRAINT totp_user REFERENCES users ON DELETE CASCADE,
    secret_sealed bytea NOT NULL,
    last_step bigint NOT NULL,
    enrolled_at timestamptz NOT NULL
);
CREATE TABLE recovery_codes (
    user_id uuid NOT NULL CONSTRAINT recovery_codes_user REFERENCES users ON DELETE CASCADE,
    code_hmac bytea NOT NULL CONSTRAINT recovery_codes_hmac_length CHECK (octet_length(code_hmac) = 32),
    used_at timestamptz,
    PRIMARY KEY (user_id, code_hmac)
);

-- Keys that come from the environment, by a hash: since when they are seen, and when a service last showed one.
CREATE TABLE key_sightings (
    fingerprint bytea PRIMARY KEY CONSTRAINT key_sightings_fingerprint_length CHECK (octet_length(fingerprint) = 32),
    kind text NOT NULL CONSTRAINT key_sightings_kind_known CHECK (kind IN ('service', 'signing', 'secret')),
    name text NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_used_at timestamptz
);

ALTER TABLE one_time_tokens DROP CONSTRAINT one_time_tokens_purpose_known;
ALTER TABLE one_time_tokens ADD CONSTRAINT one_time_tokens_purpose_known
    CHECK (purpose IN ('email_verification', 'password_reset', 'email_change', 'totp_enrolment'));

CREATE INDEX users_staff ON users (created_at, id) WHERE erased_at IS NULL AND is_staff;
CREATE INDEX outbox_failed ON outbox (failed_at) WHERE failed_at IS NOT NULL;
