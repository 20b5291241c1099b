//! The service on real PostgreSQL, Redis and RabbitMQ; one file a feature.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

mod support;

mod addresses;
mod admin;
mod audit;
mod clocks;
mod command_line;
mod demo;
mod directory;
mod documents;
mod doors;
mod edge;
mod framing;
mod health;
mod idempotency;
mod inbox;
mod keys;
mod locks;
mod mail;
mod metrics;
mod operators;
mod operators_attacked;
mod passwords;
mod preferences;
mod profile;
mod push;
mod push_requests;
mod push_volume;
mod queues;
mod refresh;
mod registration;
mod resets;
mod sessions;
mod stopping;
mod throttles;
mod traces;
mod transactions;
mod users_list;
