-- What must follow a commit is a row of that commit; the worker's relay sends it.
CREATE TABLE outbox (
    id uuid PRIMARY KEY,
    lane text NOT NULL CONSTRAINT outbox_lane_known CHECK (lane IN ('amqp', 'smtp', 'cache')),
    user_id uuid,
    exchange text,
    routing_key text,
    message_id text,
    correlation_id text,
    headers jsonb NOT NULL DEFAULT '{}',
    payload bytea NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    next_attempt_at timestamptz NOT NULL,
    done_at timestamptz,
    failed_at timestamptz,
    last_error text
);
CREATE INDEX outbox_due ON outbox (lane, next_attempt_at) WHERE done_at IS NULL AND failed_at IS NULL;
CREATE INDEX outbox_by_user ON outbox (user_id) WHERE user_id IS NOT NULL;
CREATE INDEX outbox_done ON outbox (done_at) WHERE done_at IS NOT NULL;
