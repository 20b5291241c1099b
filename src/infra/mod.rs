//! Floor 1: the outside world, without a word of the domain.

pub mod access_token;
pub mod backoff;
pub mod broker;
pub mod cache;
pub mod clock;
pub mod correlation;
pub mod db;
pub mod keys;
pub mod mailer;
pub mod migrations;
pub mod outbox;
pub mod password_hash;
pub mod postgres;
pub mod schema;
pub mod status;
pub mod telemetry;
pub mod throttle;
