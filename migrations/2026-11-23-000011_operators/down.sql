DROP INDEX outbox_failed;
DROP INDEX users_staff;
DELETE FROM one_time_tokens WHERE purpose = 'totp_enrolment';
ALTER TABLE one_time_tokens DROP CONSTRAINT one_time_tokens_purpose_known;
ALTER TABLE one_time_tokens ADD CONSTRAINT one_time_tokens_purpose_known
    CHECK (purpose IN ('email_verification', 'password_reset', 'email_change'));
DROP TABLE key_sightings;
DROP TABLE recovery_codes;
DROP TABLE totp;
DROP TABLE staff_sessions;
