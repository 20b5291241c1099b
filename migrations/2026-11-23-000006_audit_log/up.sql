-- Who did what to whom, and from where. It holds no secret and no address of mail.
CREATE TABLE audit_log (
    id uuid PRIMARY KEY,
    at timestamptz NOT NULL,
    actor_kind text NOT NULL,
    actor_id text,
    subject_id uuid,
    action text NOT NULL,
    reason text,
    ip text,
    correlation_id text,
    detail jsonb NOT NULL DEFAULT '{}'
);
CREATE INDEX audit_log_by_subject ON audit_log (subject_id, at) WHERE subject_id IS NOT NULL;
CREATE INDEX audit_log_by_time ON audit_log (at);

-- Append-only. The one change there is: the erasure of a person takes the address of origin. What is older than a year
-- may be purged.
CREATE FUNCTION audit_log_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        IF OLD.at < now() - interval '1 year' THEN
            RETURN OLD;
        END IF;
    ELSIF TG_OP = 'UPDATE' AND NEW.ip IS NULL THEN
        OLD.ip := NULL;
        IF NEW IS NOT DISTINCT FROM OLD THEN
            RETURN NEW;
        END IF;
    END IF;
    RAISE EXCEPTION 'the audit log is append-only' USING ERRCODE = 'restrict_violation';
END
$$;
CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE ON audit_log FOR EACH ROW EXECUTE FUNCTION audit_log_guard();
CREATE TRIGGER audit_log_keep BEFORE TRUNCATE ON audit_log EXECUTE FUNCTION audit_log_guard();
