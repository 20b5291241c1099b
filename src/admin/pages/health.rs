//! How the service is, for those who are asked about it.

use actix_web::web::Data;
use askama::Template;
use futures_util::FutureExt as _;
use sha2::{Digest as _, Sha256};

use super::guard::Admin;
use super::{Frame, Shown, show, when, when_known};
use crate::app::App;
use crate::config::Role;
use crate::http::State;
use crate::http::health::{Asked, HealthData, look};
use crate::infra::key_sighting::{self, Configured, Sighting};
use crate::infra::{migrations, telemetry};

#[derive(Template)]
#[template(path = "admin/pages/html/health.html")]
struct HealthPage {
    frame: Frame,
    health: HealthData,
    schema: &'static str,
    migration: String,
    /// In use, open, the most there may be.
    pool: (usize, usize, usize),
    hits: String,
    keys: Vec<Sighting>,
}

pub async fn show_health(app: State, role: Data<Role>, admin: Admin, asked: Asked) -> Shown {
    let health = look(&app, **role, asked).await;
    let is_current = app.db.schema_is_current().await.unwrap_or(false);
    let (configured, now) = (configured_keys(&app), app.clock.now());
    let keys = app.db.read(move |conn| async move { Ok(key_sighting::list_configured(conn, &configured, now).await?) }.boxed()).await?;
    Ok(show(&HealthPage {
        frame: admin.frame("health"),
        health,
        schema: if is_current { "current" } else { "older than this version: run user-service migrate" },
        migration: migrations::newest(),
        pool: app.db.usage(),
        hits: hits(),
        keys,
    }))
}

/// Every key that the environment gives, by a hash of it.
pub fn configured_keys(app: &App) -> Vec<Configured> {
    let services = app.config.service_keys.iter();
    let mut keys: Vec<Configured> =
        services.map(|key| Configured { fingerprint: key.sha256, kind: "service", name: key.name.clone() }).collect();
    for jwk in app.access_tokens.published().keys {
        let name = jwk.common.key_id.unwrap_or_default();
        keys.push(Configured { fingerprint: Sha256::digest(name.as_bytes()).into(), kind: "signing", name });
    }
    let root = app.keys.derive("sighting", b"").authenticate(&[]);
    keys.push(Configured { fingerprint: root, kind: "secret", name: "what all other keys are derived from".to_owned() });
    keys
}

/// How many cards came from the cache, of all that this process read.
fn hits() -> String {
    let text = telemetry::metrics().map(|metrics| metrics.render()).unwrap_or_default();
    let count = |from: &str| -> f64 {
        let begins = format!("card_reads_total{{from=\"{from}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&begins)).and_then(|count| count.parse().ok()).unwrap_or_default()
    };
    let (cache, database) = (count("cache"), count("database"));
    if cache + database == 0.0 { "none read yet".to_owned() } else { format!("{:.1} %", 100.0 * cache / (cache + database)) }
}
