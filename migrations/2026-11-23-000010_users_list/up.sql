-- What the list of users sorts, filters and searches by; each order ends with the id, so that pages never overlap.
-- Columns and not expressions: the planner knows how often a column begins with something.
ALTER TABLE users
    ADD COLUMN name_key text NOT NULL GENERATED ALWAYS AS (lower(name)) STORED,
    ADD COLUMN last_name_key text NOT NULL GENERATED ALWAYS AS (coalesce(lower(substring(name FROM '[^ ]+$')), '')) STORED;
CREATE INDEX users_by_creation ON users (created_at, id) WHERE erased_at IS NULL;
CREATE INDEX users_by_name ON users (name, id) WHERE erased_at IS NULL;
CREATE INDEX users_inactive ON users (created_at, id) WHERE erased_at IS NULL AND NOT is_active;
CREATE INDEX users_verified ON users (created_at, id) WHERE erased_at IS NULL AND email_verified_at IS NOT NULL;
CREATE INDEX users_unverified ON users (created_at, id) WHERE erased_at IS NULL AND email_verified_at IS NULL;
-- Beginnings of the address, of the name, and of its last word; the operator class is for LIKE in any locale.
CREATE INDEX users_email_search ON users (email_key text_pattern_ops) WHERE erased_at IS NULL;
CREATE INDEX users_name_search ON users (name_key text_pattern_ops) WHERE erased_at IS NULL;
CREATE INDEX users_last_name_search ON users (last_name_key text_pattern_ops) WHERE erased_at IS NULL;
