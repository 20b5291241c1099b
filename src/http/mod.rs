//! Floor 3: what every REST door needs, and nothing of any feature.

pub mod auth;
pub mod docs;
pub mod doors;
pub mod envelope;
pub mod error;
pub mod extract;
pub mod form;
pub mod health;
pub mod idempotency;
mod idempotency_headers;
mod idempotency_store;
mod json;
pub mod jwks;
pub mod metrics;
pub mod middleware;
pub mod origin;
pub mod page;
pub mod staff;
pub mod unread;
pub mod user_body;

use actix_web::web::Data;

use crate::app::App;

/// What a handler takes to reach the service's parts.
pub type State = Data<App>;
