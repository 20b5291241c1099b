-- What became of each push request, so that its copies have one effect. A request is a message id and a user, because a
-- broadcast shares one id over many users; one that names no user that can be read is filed under the nil UUID.
CREATE TABLE push_inbox (
    message_id text NOT NULL CONSTRAINT push_inbox_message_id_length CHECK (char_length(message_id) BETWEEN 1 AND 320),
    user_id uuid NOT NULL,
    -- SHA-256 of the request as it was understood: another body under the same id is another request.
    fingerprint bytea NOT NULL CONSTRAINT push_inbox_fingerprint_length CHECK (octet_length(fingerprint) = 32),
    -- 'queue', or 'rest'.
    source text NOT NULL,
    outcome text NOT NULL CONSTRAINT push_inbox_outcome_known CHECK (outcome IN ('delivered', 'skipped', 'dead', 'retry')),
    reason text,
    detail text,
    attempts integer NOT NULL DEFAULT 0,
    next_attempt_at timestamptz,
    -- Only while it waits or is dead.
    body bytea,
    -- What of the message besides its body decides how it is read.
    properties jsonb NOT NULL DEFAULT '{}',
    correlation_id text,
    received_at timestamptz NOT NULL,
    decided_at timestamptz NOT NULL,
    PRIMARY KEY (message_id, user_id),
    CONSTRAINT push_inbox_body_while_needed CHECK ((body IS NOT NULL) = (outcome IN ('dead', 'retry'))),
    CONSTRAINT push_inbox_retry_has_a_time CHECK ((next_attempt_at IS NOT NULL) = (outcome = 'retry'))
);
CREATE INDEX push_inbox_by_user ON push_inbox (user_id, decided_at);
CREATE INDEX push_inbox_due ON push_inbox (next_attempt_at) WHERE outcome = 'retry';
CREATE INDEX push_inbox_by_outcome ON push_inbox (outcome, decided_at);

-- Messages that were in hand when the process ended. A run is counted before it begins, so that one that kills the process
-- leaves its trace.
CREATE TABLE push_suspects (
    -- SHA-256 of the message as it came, id and body.
    fingerprint bytea PRIMARY KEY CONSTRAINT push_suspects_fingerprint_length CHECK (octet_length(fingerprint) = 32),
    runs integer NOT NULL,
    updated_at timestamptz NOT NULL
);
