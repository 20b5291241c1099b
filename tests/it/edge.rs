use serde_json::json;

use crate::support::TestApp;

#[tokio::test(flavor = "multi_thread")]
async fn every_refusal_has_the_envelope() {
    let app = TestApp::api().await;
    assert_eq!(app.client.get("/nowhere").await.refusal(), (404, "not_found".to_owned()));
    assert_eq!(app.client.get("/api/v1/users/profile/%2F..%2Fadmin").await.status, 404);
    let method = app.client.delete("/api/v1/users/preferences").await;
    assert_eq!(method.refusal(), (405, "method_not_allowed".to_owned()));
    let mut allowed: Vec<_> = method.header("allow").unwrap().split(", ").collect();
    allowed.sort_unstable();
    assert_eq!(allowed, ["GET", "PATCH"]);
    for method in ["TRACE", "FOO"] {
        let answer = app.client.send(method, "/api/v1/users/profile", None).await;
        assert!([404, 405, 400].contains(&answer.status), "{method} {}", answer.status);
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_correlation_id_is_echoed_or_replaced_on_every_answer() {
    let app = TestApp::api().await;
    for path in ["/health", "/nowhere", "/api/v1/users/profile"] {
        assert_eq!(
            app.client.with("x-correlation-id", "order-7_A.b~").get(path).await.header("x-correlation-id"),
            Some("order-7_A.b~"),
            "{path}"
        );
        for bad in ["a b", &"x".repeat(129), "<script>"] {
            let echoed = app.client.with("x-correlation-id", bad).get(path).await.header("x-correlation-id").unwrap().to_owned();
            assert!(uuid::Uuid::parse_str(&echoed).is_ok(), "{echoed}");
        }
        // Without one the request's own id ties together.
        let requested = app.client.with("x-request-id", "request-7");
        assert_eq!(requested.get(path).await.header("x-correlation-id"), Some("request-7"));
        assert_eq!(requested.with("x-correlation-id", "order-7").get(path).await.header("x-correlation-id"), Some("order-7"));
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn another_method_is_405_wherever_it_stands_and_monitors_may_ask_by_head() {
    let app = TestApp::api().await;
    for path in ["/health", "/health/live", "/health/ready", "/metrics", "/swagger/", "/redoc/", "/docs/errors", "/api/v1/auth/login"] {
        let answer = app.client.send("PUT", path, None).await;
        assert_eq!(answer.refusal(), (405, "method_not_allowed".to_owned()), "{path}");
        assert!(answer.header("allow").is_some(), "{path}");
    }
    for path in ["/health", "/health/live", "/health/ready"] {
        let answer = app.client.send("HEAD", path, None).await;
        assert_eq!((answer.status, answer.text.as_str()), (200, ""), "{path}");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_writes_into_a_forwarding_header_does_not_hide_him() {
    let app = TestApp::api().await;
    let address = app.client.base.strip_prefix("http://").unwrap().to_owned();
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = b"GET /health HTTP/1.1\r\nHost: h\r\nConnection: close\r\nX-Forwarded-For: \xe9, 192.0.2.7\r\n\r\n";
    tokio::io::AsyncWriteExt::write_all(&mut stream, request).await.unwrap();
    let mut answer = String::new();
    tokio::io::AsyncReadExt::read_to_string(&mut stream, &mut answer).await.unwrap();
    assert!(answer.contains(r#""address":"192.0.2.7""#), "{answer}");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_where_none_is_read_is_a_mistake_that_is_told() {
    let app = TestApp::api().await;
    let me = app.client.as_user(&app.client.register("Ada").await);
    const PATH: &str = "/api/v1/users/profile";
    assert_eq!(me.send("DELETE", PATH, Some("{\"everywhere\": true}")).await.refusal(), (400, "validation_failed".to_owned()));
    assert_eq!(me.send("DELETE", PATH, Some("{")).await.status, 400);
    let text = me.with("content-type", "text/plain").send("DELETE", PATH, Some("{}")).await;
    assert_eq!(text.refusal(), (415, "unsupported_media_type".to_owned()));
    assert_eq!(me.send("DELETE", PATH, Some(&" ".repeat(70_000))).await.status, 413);
    assert_eq!(me.send("DELETE", PATH, Some("{}")).await.status, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_carry_security_headers_and_personal_ones_are_not_stored() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let answer = app.client.as_user(&user).get("/api/v1/users/profile").await;
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert!(answer.header("content-security-policy").unwrap().contains("default-src 'none'"));
    assert!(answer.header("server").is_none());
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn only_listed_origins_are_allowed_and_exactly() {
    let app = TestApp::api().await;
    let from = |origin: &str| app.client.with("origin", origin);
    let good = from("https://app.example.com").get("/api/v1/users/profile").await;
    assert_eq!(good.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(good.header("vary").unwrap().to_lowercase().contains("origin"));
    for origin in
        ["null", "https://app.example.com.evil.io", "https://evil-app.example.com", "http://app.example.com", "https://app.example.com:444"]
    {
        let answer = from(origin).get("/api/v1/users/profile").await;
        assert_eq!(answer.status, 401, "{origin}");
        let allowed: Vec<_> = answer.headers.keys().filter(|name| name.as_str().starts_with("access-control-allow")).collect();
        assert!(allowed.is_empty(), "{origin}: {allowed:?}");
    }
    let preflight = |method: &str| {
        from("https://app.example.com")
            .with("access-control-request-method", method)
            .with("access-control-request-headers", "authorization,content-type")
    };
    let allowed = preflight("PATCH").send("OPTIONS", "/api/v1/users/profile", None).await;
    assert_eq!((allowed.status, allowed.header("access-control-allow-origin")), (200, Some("https://app.example.com")));
    let refused = preflight("TRACE").send("OPTIONS", "/api/v1/users/profile", None).await;
    assert!(refused.header("access-control-allow-methods").is_none(), "{refused:?}");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_is_served_with_and_without_its_slash_never_by_redirect() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let me = app.client.as_user(&user);
    for path in ["/api/v1/users/profile", "/api/v1/users/preferences", "/api/v1/auth/validate", "/swagger", "/redoc", "/health/live"] {
        let (bare, slashed) = (me.get(path).await, me.get(&format!("{path}/")).await);
        assert_eq!((bare.status, slashed.status), (200, 200), "{path}");
    }
    let login = json!({"email": user.email, "password": crate::support::PASSWORD});
    assert_eq!(app.client.post("/api/v1/auth/login/", login).await.status, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_arrive_is_408_within_its_deadline() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let app = TestApp::api().await;
    let address = app.client.base.trim_start_matches("http://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
    let head = format!(
        "POST /api/v1/users HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{{\"name\":"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let started = std::time::Instant::now();
    let mut answer = [0; 12];
    tokio::time::timeout(std::time::Duration::from_secs(17), stream.read_exact(&mut answer)).await.expect("no answer").unwrap();
    assert_eq!(&answer, b"HTTP/1.1 408");
    assert!(started.elapsed() >= std::time::Duration::from_secs(14), "cut too early: {:?}", started.elapsed());
    app.stop().await.unwrap();
}
