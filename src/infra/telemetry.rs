//! Logs and metrics: the only two global things in the process.

use std::io::IsTerminal as _;
use std::sync::OnceLock;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::config::{Log, LogFormat};

/// Seconds; from a cached read to a hash on a busy core.
const DURATION_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// Starts writing logs to standard error; a second call (tests) changes nothing.
pub fn start_logging(log: &Log) {
    let mut filter = EnvFilter::try_new(&log.filter).unwrap_or_else(|_invalid| EnvFilter::new("info"));
    // At debug it writes the parameters of every statement, hashes and tokens among them, whatever RUST_LOG asks for.
    if let Ok(quiet) = "tokio_postgres=info".parse() {
        filter = filter.add_directive(quiet);
    }
    let registry = tracing_subscriber::registry().with(filter);
    let started = match log.format {
        LogFormat::Json => {
            let layer = tracing_subscriber::fmt::layer().json().flatten_event(true).with_current_span(true).with_span_list(false);
            registry.with(layer.with_writer(std::io::stderr)).try_init()
        }
        LogFormat::Pretty => registry
            .with(tracing_subscriber::fmt::layer().compact().with_ansi(std::io::stderr().is_terminal()).with_writer(std::io::stderr))
            .try_init(),
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
    }
}

/// The recorder of this process, installed on first use.
pub fn metrics() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER
        .get_or_init(|| {
            let builder =
                PrometheusBuilder::new().set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), &DURATION_BUCKETS).ok()?;
            let builder =
                builder.set_buckets_for_metric(Matcher::Full("consumer_batch_size".to_owned()), &[1.0, 4.0, 16.0, 64.0, 256.0]).ok()?;
            builder.install_recorder().ok()
        })
        .as_ref()
}
