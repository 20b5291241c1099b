//! Logs, traces and metrics: the only global things in the process.

use std::io::IsTerminal as _;
use std::sync::OnceLock;
use std::time::Duration;

use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use opentelemetry::trace::{SpanKind, TracerProvider as _};
use opentelemetry_otlp::{Protocol, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};
use secrecy::ExposeSecret as _;
use tracing_subscriber::filter::filter_fn;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _};

use crate::config::{Log, LogFormat};

/// The span of a request, and that of a push request from a queue; what is exported is named after them.
pub const REQUEST_SPAN: &str = "request";
pub const MESSAGE_SPAN: &str = "push_request";

/// Seconds; from a cached read to a hash on a busy core.
const DURATION_BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// How long the last spans may take to get to the collector as the process ends.
const FLUSH_DEADLINE: Duration = Duration::from_secs(2);

/// What still has to be sent when the process ends.
#[derive(Debug, Default)]
#[must_use = "spans that are not flushed are lost"]
pub struct Telemetry {
    spans: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Sends the last spans, within two seconds. Blocks.
    pub fn flush(&self) {
        if let Some(Err(error)) = self.spans.as_ref().map(|spans| spans.shutdown_with_timeout(FLUSH_DEADLINE)) {
            tracing::warn!(%error, "the last spans did not get to the collector");
        }
    }
}

/// Starts writing logs to standard error and, where there is a collector, sending spans to it; a second call (tests)
/// changes nothing.
pub fn start(log: &Log) -> Telemetry {
    let filter = filter(&log.filter);
    let spans = log.otlp_endpoint.as_ref().and_then(|endpoint| span_provider(endpoint.expose_secret()));
    // Spans only: what is logged within them is in the log, by the same trace id.
    let traces = spans.as_ref().map(|spans| {
        let ours = filter_fn(|metadata| metadata.is_span() && metadata.target().starts_with("user_service"));
        tracing_opentelemetry::layer().with_tracer(spans.tracer("user-service")).with_location(false).with_threads(false).with_filter(ours)
    });
    let registry = tracing_subscriber::registry().with(traces);
    let started = match log.format {
        LogFormat::Json => {
            let layer = json_subscriber::layer().flatten_event(true).with_current_span(true).with_span_list(false);
            registry.with(layer.with_writer(std::io::stderr).with_opentelemetry_ids(spans.is_some()).with_filter(filter)).try_init()
        }
        LogFormat::Pretty => {
            let layer = tracing_subscriber::fmt::layer().compact().with_ansi(std::io::stderr().is_terminal());
            registry.with(layer.with_writer(std::io::stderr).with_filter(filter)).try_init()
        }
    };
    if started.is_err() {
        tracing::debug!("logging was started before");
        return Telemetry::default();
    }
    Telemetry { spans }
}

fn filter(directives: &str) -> EnvFilter {
    let filter = EnvFilter::try_new(directives).unwrap_or_else(|_invalid| EnvFilter::new("info"));
    let mut always = Vec::from([
        // At debug it writes the parameters of every statement, hashes and tokens among them, whatever RUST_LOG asks for.
        "tokio_postgres=info",
    ]);
    if !directives.contains("lapin") {
        // Reports each lost connection as an error of its own; the supervisor says it once.
        always.push("lapin=off");
    }
    always.into_iter().filter_map(|directive| directive.parse().ok()).fold(filter, EnvFilter::add_directive)
}

/// Sends spans in batches from a thread of its own; a collector that is away costs spans, never a request.
fn span_provider(endpoint: &str) -> Option<SdkTracerProvider> {
    let exporter = opentelemetry_otlp::SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(format!("{}/v1/traces", endpoint.trim_end_matches('/')))
        .build();
    match exporter {
        Ok(exporter) => {
            // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, which the resource reads by itself, come before this.
            let resource = Resource::builder().with_attributes([service_version()]).build();
            Some(SdkTracerProvider::builder().with_resource(resource).with_batch_exporter(Named(exporter)).build())
        }
        Err(error) => {
            tracing::error!(%error, "no spans are sent");
            None
        }
    }
}

fn service_version() -> opentelemetry::KeyValue {
    opentelemetry::KeyValue::new("service.version", env!("CARGO_PKG_VERSION"))
}

/// Names spans and tells their kinds as OpenTelemetry's conventions for HTTP and messaging have it.
#[derive(Debug)]
struct Named<E>(E);

impl<E: SpanExporter> SpanExporter for Named<E> {
    async fn export(&self, mut batch: Vec<SpanData>) -> OTelSdkResult {
        for span in &mut batch {
            name(span);
        }
        self.0.export(batch).await
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.0.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.0.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.0.set_resource(resource);
    }
}

fn name(span: &mut SpanData) {
    let attribute =
        |name: &str| span.attributes.iter().find(|attribute| attribute.key.as_str() == name).map(|found| found.value.to_string());
    match span.name.as_ref() {
        REQUEST_SPAN => {
            let name = format!("{} {}", attribute("method").unwrap_or_default(), attribute("http.route").unwrap_or_default());
            (span.span_kind, span.name) = (SpanKind::Server, name.trim_end().to_owned().into());
        }
        MESSAGE_SPAN => span.span_kind = SpanKind::Consumer,
        _ => {}
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
