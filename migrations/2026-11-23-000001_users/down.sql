DROP TABLE preferences;
DROP TABLE push_tokens;
DROP TABLE credentials;
DROP TABLE users;
