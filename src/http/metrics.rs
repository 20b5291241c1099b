//! What the process counted, and what is looked up when it is asked for.

use actix_web::{HttpRequest, HttpResponse};
use futures_util::FutureExt as _;

use super::State;
use super::doors::{Door, Doors, nothing_here};
use crate::error::Result;
use crate::infra::{outbox, telemetry};

/// Prometheus' text format, where it is shown.
pub async fn get_metrics(app: State, request: HttpRequest) -> Result<HttpResponse> {
    // Asked here, where the path has been decoded: `/%6detrics` comes here too.
    if !Doors::of(&request).show_metrics(Door::of(&request)) {
        return Err(nothing_here());
    }
    let (used, open, most) = app.db.usage();
    metrics::gauge!("database_connections_used").set(used as f64);
    metrics::gauge!("database_connections_open").set(open as f64);
    metrics::gauge!("database_connections_max").set(most as f64);
    metrics::gauge!("password_hash_waiting").set(app.hasher.waiting() as f64);
    for lane in [outbox::Lane::Amqp, outbox::Lane::Smtp, outbox::Lane::Cache] {
        let waiting = app.db.read(move |conn| async move { Ok(outbox::count_waiting(conn, lane).await?) }.boxed()).await;
        if let Ok((count, oldest)) = waiting {
            metrics::gauge!("outbox_waiting", "lane" => lane.as_str()).set(count as f64);
            let age = oldest.map_or(0.0, |oldest| (app.clock.now() - oldest).num_milliseconds() as f64 / 1000.0);
            metrics::gauge!("outbox_oldest_age_seconds", "lane" => lane.as_str()).set(age);
        }
    }
    let text = telemetry::metrics().map(metrics_exporter_prometheus::PrometheusHandle::render).unwrap_or_default();
    Ok(HttpResponse::Ok().content_type("text/plain; version=0.0.4").body(text))
}
