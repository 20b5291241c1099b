//! Where a request comes from, which becomes the cause of what it changes.

use std::net::IpAddr;

use actix_web::{FromRequest, HttpMessage as _, HttpRequest, dev::Payload};

use super::auth;
use super::doors::Door;
use super::middleware::CorrelationId;
use crate::access::staff::StaffSession;
use crate::access::{Service, Session};
use crate::app::App;
use crate::config::Scope;
use crate::error::{Error, Result};
use crate::infra::cause::{Actor, Cause};
use crate::infra::correlation;
use crate::infra::trace::Trace;

/// The client, before it is known who it is.
#[derive(Debug)]
pub struct Origin(Cause);

impl Origin {
    /// Somebody signed in.
    pub fn of(self, session: Session) -> Cause {
        self.0.by(Actor::User(session.user_id))
    }

    /// A sibling.
    pub fn of_service(self, service: &Service) -> Cause {
        self.0.by(Actor::Service(service.name.clone()))
    }

    /// An operator.
    pub fn of_admin(self, admin: &StaffSession) -> Cause {
        self.0.by(Actor::Admin(admin.user_id))
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
        std::future::ready(auth::state(request).map(|app| Self(cause(request, app))))
    }
}

fn cause(request: &HttpRequest, app: &App) -> Cause {
    let correlation_id = request.extensions().get::<CorrelationId>().map(|id| id.0.clone());
    Cause {
        actor: Actor::Anyone,
        ip: client(request, app).address,
        user_agent: user_agent(request),
        correlation_id: correlation_id.unwrap_or_else(|| correlation::accept(None)),
        trace: request.extensions().get::<Trace>().cloned().unwrap_or_default(),
        at: app.clock.now(),
    }
}

/// Who is taken for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Client {
    pub address: Option<IpAddr>,
    pub told_by: ToldBy,
}

/// Who says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ToldBy {
    Peer,
    TrustedProxy,
    /// One whose key has the scope `forward`.
    Service,
}

impl ToldBy {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::TrustedProxy => "trusted_proxy",
            Self::Service => "service",
        }
    }
}

/// The client's address: the peer, or what the last trusted proxy or a service that may forward saw.
pub(super) fn client(request: &HttpRequest, app: &App) -> Client {
    let peer = request.peer_addr().map(|address| address.ip());
    let entries = forwarded_for(request);
    // Proxies stand before the public port; whoever reaches the other one comes straight.
    let proxies = if Door::of(request) == Door::Internal { 0 } else { app.config.http.trusted_proxy_count };
    let (trusted, told_by) = match proxies {
        _ if entries.is_empty() => (0, ToldBy::Peer),
        0 if may_forward(request, app) => (1, ToldBy::Service),
        0 => {
            if app.status.is_first("untrusted X-Forwarded-For") {
                tracing::warn!(
                    peer = peer.map(|peer| peer.to_string()),
                    "X-Forwarded-For is not believed, so everybody behind this proxy shares one limit: set TRUSTED_PROXY_COUNT, or give it a key with the scope forward"
                );
            }
            (0, ToldBy::Peer)
        }
        count => (count, ToldBy::TrustedProxy),
    };
    match forwarded(&entries, trusted) {
        Some(address) => Client { address: Some(address), told_by },
        None => Client { address: peer, told_by: ToldBy::Peer },
    }
}

fn forwarded_for(request: &HttpRequest) -> Vec<&str> {
    let lines = request.headers().get_all("x-forwarded-for");
    // Each entry by itself: what a client writes before it must not hide what a proxy appended.
    let entries = lines.flat_map(|line| line.as_bytes().split(|byte| *byte == b','));
    entries.map(|entry| std::str::from_utf8(entry).unwrap_or_default()).collect()
}

fn may_forward(request: &HttpRequest, app: &App) -> bool {
    auth::service_of(request, app).flatten().is_some_and(|service| service.require(Scope::Forward).is_ok())
}

/// Each trusted proxy appends one entry to `X-Forwarded-For`; what stands further left is the client's own word.
fn forwarded(entries: &[&str], trusted: usize) -> Option<IpAddr> {
    if trusted == 0 {
        return None;
    }
    let entry = entries.len().checked_sub(trusted).and_then(|at| entries.get(at))?;
    parse_address(entry.trim())
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
    use super::*;

    #[test]
    fn only_what_trusted_proxies_appended_is_believed() {
        for (entries, trusted, seen) in [
            ("1.1.1.1, 2.2.2.2", 0, None),
            ("1.1.1.1, 2.2.2.2", 1, Some("2.2.2.2")),
            ("1.1.1.1, 2.2.2.2", 2, Some("1.1.1.1")),
            ("1.1.1.1", 5, None),
            ("[2001:db8::1]:443", 1, Some("2001:db8::1")),
            ("garbage", 1, None),
            ("2.2.2.2:80", 1, Some("2.2.2.2")),
        ] {
            let entries: Vec<&str> = entries.split(',').collect();
            assert_eq!(forwarded(&entries, trusted).map(|ip| ip.to_string()).as_deref(), seen, "{entries:?} {trusted}");
        }
    }
}
