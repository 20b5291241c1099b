//! Where a request comes from, which becomes the cause of what it changes.

use std::net::IpAddr;

use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, dev::Payload};

use super::middleware::CorrelationId;
use crate::access::Session;
use crate::app::App;
use crate::error::{Error, Result};
use crate::infra::cause::{Actor, Cause};
use crate::infra::correlation;

/// The client, before it is known who it is.
#[derive(Debug)]
pub struct Origin(Cause);

impl Origin {
    /// Somebody signed in.
    pub fn of(self, session: Session) -> Cause {
        self.0.by(Actor::User(session.user_id))
    }

    /// Somebody who did not say who he is.
    pub fn of_anyone(self) -> Cause {
        self.0
    }
}

impl FromRequest for Origin {
    type Error = Error;
    type Future = std::future::Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        let Some(app) = request.app_data::<Data<App>>() else {
            return std::future::ready(Err(Error::internal("the application state is missing")));
        };
        let correlation_id = request.extensions().get::<CorrelationId>().map(|id| id.0.clone());
        let cause = Cause {
            actor: Actor::Anyone,
            ip: client_ip(request, app.config.http.trusted_proxy_count),
            user_agent: user_agent(request),
            correlation_id: correlation_id.unwrap_or_else(|| correlation::accept(None)),
            at: app.clock.now(),
        };
        std::future::ready(Ok(Self(cause)))
    }
}

/// The client's address: the peer, or what the last trusted proxy saw.
///
/// Each trusted proxy appends one entry to `X-Forwarded-For`; what stands further left is the client's own word.
fn client_ip(request: &HttpRequest, trusted_proxy_count: usize) -> Option<IpAddr> {
    let peer = request.peer_addr().map(|address| address.ip());
    if trusted_proxy_count == 0 {
        return peer;
    }
    let entries: Vec<&str> =
        request.headers().get_all("x-forwarded-for").filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(',')).collect();
    let entry = entries.len().checked_sub(trusted_proxy_count).and_then(|at| entries.get(at));
    entry.and_then(|entry| parse_address(entry.trim())).or(peer)
}

/// `1.2.3.4`, `1.2.3.4:567`, `::1`, `[::1]:567`.
fn parse_address(text: &str) -> Option<IpAddr> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<std::net::SocketAddr>().ok().map(|address| address.ip()))
        .or_else(|| text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).and_then(|inner| inner.parse().ok()))
}

/// What a session remembers of the device, cut to what is kept.
fn user_agent(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get(actix_web::http::header::USER_AGENT)?.to_str().ok()?;
    Some(value.chars().take(512).collect())
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn only_trusted_proxies_are_believed() {
        let request = |header: &str| {
            TestRequest::default().peer_addr("10.0.0.9:1".parse().unwrap()).insert_header(("x-forwarded-for", header)).to_http_request()
        };
        for (header, trusted, seen) in [
            ("1.1.1.1, 2.2.2.2", 0, "10.0.0.9"),
            ("1.1.1.1, 2.2.2.2", 1, "2.2.2.2"),
            ("1.1.1.1, 2.2.2.2", 2, "1.1.1.1"),
            ("1.1.1.1", 5, "10.0.0.9"),
            ("[2001:db8::1]:443", 1, "2001:db8::1"),
            ("garbage", 1, "10.0.0.9"),
            ("2.2.2.2:80", 1, "2.2.2.2"),
        ] {
            assert_eq!(client_ip(&request(header), trusted).unwrap().to_string(), seen, "{header} {trusted}");
        }
    }
}
