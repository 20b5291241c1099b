-- Where an admin's sign-ins were proven by a second factor: from there, guesses from elsewhere do not lock him out. Sessions of the
-- pages are deleted as they end, so they cannot tell.
CREATE TABLE staff_origins (
    user_id uuid NOT NULL CONSTRAINT staff_origins_user REFERENCES users ON DELETE CASCADE,
    ip_bucket text NOT NULL,
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, ip_bucket)
);
CREATE INDEX staff_origins_by_age ON staff_origins (last_seen_at);
