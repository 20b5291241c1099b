CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL CONSTRAINT sessions_user REFERENCES users ON DELETE CASCADE,
    -- The user's session_epoch when the session was opened or kept.
    epoch integer NOT NULL,
    -- The counter of the newest refresh token; each rotation raises it by one.
    counter bigint NOT NULL DEFAULT 0 CONSTRAINT sessions_counter_not_negative CHECK (counter >= 0),
    ip text CONSTRAINT sessions_ip_length CHECK (char_length(ip) <= 45),
    user_agent text CONSTRAINT sessions_user_agent_length CHECK (char_length(user_agent) <= 512),
    created_at timestamptz NOT NULL,
    rotated_at timestamptz,
    last_used_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    ended_at timestamptz,
    end_reason text,
    CONSTRAINT sessions_ended_with_reason CHECK ((ended_at IS NULL) = (end_reason IS NULL))
);
CREATE INDEX sessions_live_by_user ON sessions (user_id, last_used_at) WHERE ended_at IS NULL;
CREATE INDEX sessions_by_expiry ON sessions (expires_at);
