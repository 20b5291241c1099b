DROP INDEX users_by_creation, users_by_name, users_inactive, users_verified, users_unverified,
    users_email_search, users_name_search, users_last_name_search;
ALTER TABLE users DROP COLUMN name_key, DROP COLUMN last_name_key;
