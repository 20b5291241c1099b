//! One trace from a request to what it leaves behind, as a collector sees it.

use std::sync::{Arc, Mutex};

use actix_web::{App, HttpResponse, HttpServer, web};
use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldTable, LongString};
use opentelemetry_proto::tonic::collector::trace::v1::ExportTraceServiceRequest;
use opentelemetry_proto::tonic::common::v1::any_value::Value as AnyValue;
use opentelemetry_proto::tonic::trace::v1::Span;
use opentelemetry_proto::tonic::trace::v1::span::SpanKind;
use prost::Message as _;
use serde_json::json;
use sha2::Digest as _;
use tokio::task::JoinSet;

use crate::command_line::serve;
use crate::support::broker::Received;
use crate::support::{FULL_SERVICE_KEY, PASSWORD, Services, TestApp, TestBroker, eventually};

const PARENT: &str = "00f067aa0ba902b7";

/// Takes what is exported.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Its address; it ends when the server is dropped.
    fn start(&self) -> (String, JoinSet<std::io::Result<()>>) {
        async fn take(collector: web::Data<Collector>, body: web::Bytes) -> HttpResponse {
            let request = ExportTraceServiceRequest::decode(body).unwrap();
            let spans = request.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans);
            collector.0.lock().unwrap().extend(spans);
            HttpResponse::Ok().finish()
        }
        let collector = web::Data::new(self.clone());
        let server = HttpServer::new(move || App::new().app_data(collector.clone()).route("/v1/traces", web::post().to(take)));
        let server = server.workers(1).disable_signals().bind("127.0.0.1:0").unwrap();
        let address = server.addrs()[0];
        (format!("http://{address}"), JoinSet::from_iter([server.run()]))
    }

    /// The one span of this name in a trace.
    async fn span(&self, name: &str, trace: &str) -> Span {
        let find = || self.0.lock().unwrap().iter().find(|span| span.name == name && hex(&span.trace_id) == trace).cloned();
        eventually("the span is exported", async || find().is_some()).await;
        find().unwrap()
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn place(trace: &str) -> String {
    format!("00-{trace}-{PARENT}-01")
}

/// Trace and span of what sent a message.
fn place_of(message: &Received) -> (String, String) {
    let header = message.header("traceparent").expect("no traceparent");
    let parts: Vec<&str> = header.split('-').collect();
    (parts[1].to_owned(), parts[2].to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trace_goes_from_http_through_the_outbox_and_rabbitmq_to_the_delivery() {
    let names = TestApp::start().await.halt().await;
    let broker: TestBroker = names.broker().await;
    let collector = Collector::default();
    let (collecting, _server) = collector.start();
    let key = hex(&sha2::Sha256::digest(FULL_SERVICE_KEY));
    let serving = serve(
        &names,
        &[
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collecting.as_str()),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
            ("SERVICE_API_KEYS", &format!("gateway:{key}:push:write")),
            ("RUST_LOG", "error"),
        ],
    )
    .await;
    let client = serving.client.clone();

    let registering = "4bf92f3577b34da6a3ce929d0e0e4736";
    let user = client.with("traceparent", &place(registering)).register("Ada").await;
    let request = collector.span("POST /api/v1/users", registering).await;
    assert_eq!((hex(&request.parent_span_id).as_str(), request.kind()), (PARENT, SpanKind::Server));
    let mail = broker.mail("email_verification").await;
    assert_eq!(place_of(&mail), (registering.to_owned(), hex(&request.span_id)));

    let submitting = "0af7651916cd43dd8448eb211c80319c";
    let gateway = client.with("x-internal-api-key", FULL_SERVICE_KEY).with("traceparent", &place(submitting));
    let body = json!({"user_id": user.id, "template_code": "X", "request_id": "rest"});
    assert_eq!(gateway.post("/api/v1/push-requests", body).await.status, 202);
    let request = collector.span("POST /api/v1/push-requests", submitting).await;
    assert_eq!(place_of(&broker.delivered().await), (submitting.to_owned(), hex(&request.span_id)));

    let publishing = "a3ce929d0e0e47364bf92f3577b34da6";
    let mut headers = FieldTable::default();
    headers.insert("traceparent".into(), AMQPValue::LongString(LongString::from(place(publishing))));
    let body = json!({"user_id": user.id, "template_code": "X", "request_id": "queue"}).to_string();
    broker.publish(body.as_bytes(), BasicProperties::default().with_headers(headers)).await;
    let delivered = place_of(&broker.delivered().await);
    let settled = collector.span("push_request", publishing).await;
    assert_eq!((hex(&settled.parent_span_id).as_str(), settled.kind()), (PARENT, SpanKind::Consumer));
    assert_eq!(delivered, (publishing.to_owned(), hex(&settled.span_id)));

    // What begins with us, or with a place that cannot be read, is a trace of its own.
    let mut seen = std::collections::HashSet::new();
    for traceparent in ["", "garbage", "00-00000000000000000000000000000000-00f067aa0ba902b7-01"] {
        broker.request_push(&user.id, &format!("new {}", seen.len())).await;
        assert!(seen.insert(place_of(&broker.delivered().await).0));
        assert_eq!(client.with("traceparent", traceparent).get("/api/v1/users/profile").await.status, 401);
    }
    serving.terminate().await;
    let spans = collector.0.lock().unwrap().clone();
    let refused = spans.iter().filter(|span| span.name == "GET /api/v1/users/profile" && span.parent_span_id.is_empty());
    assert_eq!(refused.count(), 3, "the last spans are sent as the process ends");
    for attribute in spans.iter().flat_map(|span| &span.attributes) {
        let Some(AnyValue::StringValue(text)) = attribute.value.as_ref().and_then(|value| value.value.as_ref()) else { continue };
        assert!(![PASSWORD, &user.email, &user.access_token, FULL_SERVICE_KEY].contains(&text.as_str()), "{} tells {text}", attribute.key);
    }
    broker.delete_all().await;
    TestApp::drop_database(&Services::from_env(), &names.database_url).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_nothing_but_its_spans() {
    let names = TestApp::api().await.halt().await;
    let serving = serve(&names, &[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")]).await;
    serving.client.register("Ada").await;
    let started = std::time::Instant::now();
    let output = serving.terminate().await;
    assert_eq!(output.status.code(), Some(0));
    assert!(started.elapsed() < std::time::Duration::from_secs(10), "{:?}", started.elapsed());
    names.stop().await.unwrap();
}
