DROP INDEX sessions_by_user_and_bucket;
ALTER TABLE sessions DROP COLUMN ip_bucket;
ALTER TABLE outbox DROP COLUMN one_time_token_id;
DROP TABLE one_time_tokens;
