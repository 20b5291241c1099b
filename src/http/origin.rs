//! Where a request comes from: the client's address and its bucket for limits.

use std::net::{IpAddr, Ipv6Addr};

use actix_web::HttpRequest;

/// The client's address: the peer, or what the last trusted proxy saw.
///
/// Each trusted proxy appends one entry to `X-Forwarded-For`; what stands further left is the client's own word.
pub fn client_ip(request: &HttpRequest, trusted_proxy_count: usize) -> Option<IpAddr> {
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

/// The bucket of an address: itself for IPv4, its /64 for IPv6, which is what one customer gets.
pub fn bucket(address: Option<IpAddr>) -> String {
    match address.map(|address| address.to_canonical()) {
        None => "unknown".to_owned(),
        Some(IpAddr::V4(address)) => address.to_string(),
        Some(IpAddr::V6(address)) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{}/64", Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0))
        }
    }
}

/// What a session remembers of the device, cut to what is kept.
pub fn user_agent(request: &HttpRequest) -> Option<String> {
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

    #[test]
    fn a_rotating_ipv6_customer_is_one_bucket() {
        let at = |text: &str| bucket(Some(text.parse().unwrap()));
        assert_eq!(at("2001:db8:1:2:3::4"), at("2001:db8:1:2:ffff::9"));
        assert_ne!(at("2001:db8:1:2::1"), at("2001:db8:1:3::1"));
        assert_eq!(at("::ffff:1.2.3.4"), "1.2.3.4");
    }
}
