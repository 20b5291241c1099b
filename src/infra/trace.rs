//! Where a request or message stands in a distributed trace ([W3C Trace Context]), and how its place is handed on: in a header
//! of the request, of the outbox row, of the AMQP message.
//!
//! Without an exporter (`OTEL_EXPORTER_OTLP_ENDPOINT`) no span of ours is recorded, and what came in is handed on as it is.
//!
//! [W3C Trace Context]: https://www.w3.org/TR/trace-context/

use std::collections::HashMap;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::{Status, TraceContextExt as _};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use serde_json::{Map, Value};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// A place in a trace, or in none.
#[derive(Clone, Debug, Default)]
pub struct Trace(Option<Context>);

impl Trace {
    /// What the sender says; a place that is malformed is none.
    pub fn read<'a>(header: impl Fn(&str) -> Option<&'a str>) -> Self {
        let sent = |name: &str| Some((name.to_owned(), header(name).filter(|value| is_printable(value))?.to_owned()));
        let Some(place) = sent("traceparent").filter(|(_, value)| is_place(value)) else { return Self::default() };
        let headers: HashMap<String, String> = [place].into_iter().chain(sent("tracestate")).collect();
        Self::in_trace(TraceContextPropagator::new().extract_with_context(&Context::new(), &headers))
    }

    /// What `span` does is the next place, if spans are recorded.
    #[must_use]
    pub fn within(self, span: &Span) -> Self {
        if let Some(context) = &self.0 {
            // Fails where no span is recorded.
            let _ = span.set_parent(context.clone());
        }
        let own = Self::in_trace(span.context());
        if own.0.is_some() { own } else { self }
    }

    /// As headers of what follows.
    pub fn headers(&self) -> Map<String, Value> {
        let mut headers = HashMap::new();
        if let Some(context) = &self.0 {
            TraceContextPropagator::new().inject_context(context, &mut headers);
        }
        headers.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| (name, value.into())).collect()
    }

    fn in_trace(context: Context) -> Self {
        let is_one = context.span().span_context().is_valid();
        Self(is_one.then_some(context))
    }
}

/// Fit for a header, a log line and a PostgreSQL text; twice as long as others must be able to carry (Trace Context, 3.3.1.5).
fn is_printable(value: &str) -> bool {
    value.len() <= 1024 && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
}

/// Trace Context, 3.2.2; the SDK also takes ids that are too short.
fn is_place(value: &str) -> bool {
    let lengths: Vec<usize> = value.split('-').map(str::len).collect();
    lengths.starts_with(&[2, 32, 16, 2]) && (lengths.len() == 4 || !value.starts_with("00"))
}

/// Notes the outcome of a request, which was not known when its span began.
pub fn tell(span: &Span, route: &str, status: u16) {
    span.set_attribute("http.route", route.to_owned());
    span.set_attribute("http.response.status_code", i64::from(status));
    if status >= 500 {
        span.set_status(Status::error(""));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn handed_on(traceparent: &str, tracestate: Option<&str>) -> Map<String, Value> {
        let trace = Trace::read(|name| match name {
            "traceparent" => Some(traceparent),
            "tracestate" => tracestate,
            _ => None,
        });
        trace.within(&Span::none()).headers()
    }

    #[test]
    fn without_an_exporter_a_place_is_handed_on_as_it_came() {
        let place = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(handed_on(place, Some("vendor=1"))["traceparent"], place);
        assert_eq!(handed_on(place, Some("vendor=1"))["tracestate"], "vendor=1");
        assert_eq!(handed_on(place, None).len(), 1);
    }

    #[test]
    fn a_malformed_place_is_none() {
        for malformed in [
            "",
            "garbage",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01\r\nx: y",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf-e47-01",
        ] {
            assert_eq!(handed_on(malformed, None), Map::new(), "{malformed:?}");
        }
        for state in ["vendor=a\0b", "vendor=\u{e9}", &"a=1,".repeat(300)] {
            let headers = handed_on("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", Some(state));
            assert!(!headers.contains_key("tracestate"), "{state:?}");
        }
    }
}
