-- A link that works once, for one purpose, one user and one address. The token itself is an HMAC over this row, made as
-- the mail is sent: nothing that rests here can be used.
CREATE TABLE one_time_tokens (
    id uuid PRIMARY KEY,
    purpose text NOT NULL
        CONSTRAINT one_time_tokens_purpose_known CHECK (purpose IN ('email_verification', 'password_reset', 'email_change')),
    user_id uuid NOT NULL CONSTRAINT one_time_tokens_user REFERENCES users ON DELETE CASCADE,
    address text NOT NULL CONSTRAINT one_time_tokens_address_length CHECK (char_length(address) BETWEEN 3 AND 254),
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Used, or made void by a newer one or by a change of password or address.
    used_at timestamptz
);
CREATE INDEX one_time_tokens_live_by_user ON one_time_tokens (user_id, purpose, created_at) WHERE used_at IS NULL;
CREATE INDEX one_time_tokens_by_user ON one_time_tokens (user_id);
CREATE INDEX one_time_tokens_by_expiry ON one_time_tokens (expires_at);

-- The relay writes the token into the payload's link as it sends. No reference: the token may be purged first.
ALTER TABLE outbox ADD COLUMN one_time_token_id uuid;

-- Where an account signed in from lately is never locked out by what others try elsewhere.
ALTER TABLE sessions ADD COLUMN ip_bucket text CONSTRAINT sessions_ip_bucket_length CHECK (char_length(ip_bucket) <= 64);
CREATE INDEX sessions_by_user_and_bucket ON sessions (user_id, ip_bucket, last_used_at);
