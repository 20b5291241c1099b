ALTER TABLE outbox DROP COLUMN message_type, DROP COLUMN priority;
