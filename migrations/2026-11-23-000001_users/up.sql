CREATE TABLE users (
    id uuid PRIMARY KEY,
    email text NOT NULL CONSTRAINT users_email_length CHECK (char_length(email) BETWEEN 3 AND 254),
    -- The case-folded address: one account, however it is typed.
    email_key text NOT NULL CONSTRAINT users_email_key_unique UNIQUE,
    email_verified_at timestamptz,
    name text NOT NULL CONSTRAINT users_name_length CHECK (char_length(name) BETWEEN 1 AND 255),
    locale text,
    time_zone text,
    is_active boolean NOT NULL DEFAULT true,
    is_staff boolean NOT NULL DEFAULT false,
    -- Sessions opened under an older epoch are dead.
    session_epoch integer NOT NULL DEFAULT 0,
    -- Raised by every change that the cached card shows; a card of another version is not believed.
    version bigint NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deactivated_at timestamptz,
    erased_at timestamptz
);

CREATE TABLE credentials (
    user_id uuid PRIMARY KEY CONSTRAINT credentials_user REFERENCES users ON DELETE CASCADE,
    password_hash text NOT NULL,
    changed_at timestamptz NOT NULL
);

CREATE TABLE push_tokens (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT push_tokens_user REFERENCES users ON DELETE CASCADE,
    token text NOT NULL CONSTRAINT push_tokens_token_length CHECK (octet_length(token) BETWEEN 1 AND 4096),
    token_sha256 bytea NOT NULL CONSTRAINT push_tokens_token_sha256_length CHECK (octet_length(token_sha256) = 32),
    platform text,
    last_seen_at timestamptz NOT NULL,
    retired_at timestamptz,
    reason text,
    CONSTRAINT push_tokens_retired_with_reason CHECK ((retired_at IS NULL) = (reason IS NULL))
);
-- A token belongs to one account while it lives, and an account has one live token.
CREATE UNIQUE INDEX push_tokens_live_token_unique ON push_tokens (token_sha256) WHERE retired_at IS NULL;
CREATE UNIQUE INDEX push_tokens_live_user_unique ON push_tokens (user_id) WHERE retired_at IS NULL;

CREATE TABLE preferences (
    user_id uuid NOT NULL CONSTRAINT preferences_user REFERENCES users ON DELETE CASCADE,
    category text NOT NULL DEFAULT '' CONSTRAINT preferences_category_length CHECK (char_length(category) <= 64),
    channel text NOT NULL CONSTRAINT preferences_channel_known CHECK (channel IN ('email', 'push')),
    enabled boolean NOT NULL,
    updated_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, category, channel)
);
