-- What was never tried is due by the one clock that all processes share, however wrong their own are.
ALTER TABLE outbox ALTER COLUMN next_attempt_at SET DEFAULT now();
