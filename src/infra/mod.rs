//! Floor 1: the outside world, without a word of the domain.

pub mod access_token;
pub mod audit;
pub mod backoff;
pub mod broker;
pub mod cache;
pub mod cause;
pub mod clock;
pub mod correlation;
pub mod db;
pub mod django_password;
pub mod even_time;
pub mod events;
pub mod keys;
pub mod mail_text;
pub mod mailer;
pub mod migrations;
pub mod one_time_token;
pub mod outbox;
pub mod password_hash;
pub mod postgres;
pub mod schema;
pub mod signing_keys;
pub mod smtp;
pub mod status;
pub mod telemetry;
pub mod throttle;
