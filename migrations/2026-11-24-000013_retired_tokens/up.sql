-- What the purge looks for.
CREATE INDEX push_tokens_retired ON push_tokens (retired_at) WHERE retired_at IS NOT NULL;
