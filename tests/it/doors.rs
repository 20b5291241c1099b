use serde_json::json;
use user_service::config::{Rate, Role};

use crate::support::{FULL_SERVICE_KEY, SERVICE_KEY, TestApp};

#[tokio::test(flavor = "multi_thread")]
async fn with_an_internal_port_services_aliases_and_metrics_are_there_and_only_there() {
    let app = TestApp::start_with(Role::Api, |config| config.http.internal_port = Some(0)).await;
    let inside = app.internal.clone().unwrap();
    let user = app.client.register("Ada").await;
    let user_path = |rest: &str| format!("/api/v1/users/{}{rest}", user.id);
    let alias = format!("/api/users/{}", user.id);
    for path in
        [user_path("/push-token"), "/api/v1/users/".to_owned(), alias.clone(), format!("{alias}/preferences/"), "/metrics".to_owned()]
    {
        let key = |client: &crate::support::Client| client.with("x-internal-api-key", FULL_SERVICE_KEY);
        assert_eq!(key(&app.client).get(&path).await.refusal(), (404, "not_found".to_owned()), "{path}");
        assert_eq!(key(&inside).get(&path).await.status, 200, "{path}");
    }
    for path in ["/api/v1/push-requests/", "/api/v1/users/lookup/", &user_path("/push-token/retire")] {
        assert_eq!(app.client.with("x-internal-api-key", FULL_SERVICE_KEY).post(path, json!({})).await.status, 404, "{path}");
        assert_eq!(inside.with("x-internal-api-key", FULL_SERVICE_KEY).post(path, json!({})).await.status, 400, "{path}");
    }
    // A key is no credential where people are; a user is one at both.
    for path in ["", "/preferences", "/contact?type=email"] {
        assert_eq!(app.client.with("x-internal-api-key", SERVICE_KEY).get(&user_path(path)).await.refusal().0, 401);
        assert_eq!(app.client.bearer(SERVICE_KEY).get(&user_path(path)).await.refusal().0, 401);
        for client in [&app.client, &inside] {
            assert_eq!(client.as_user(&user).get(&user_path(path)).await.status, 200);
        }
    }
    for client in [&app.client, &inside] {
        assert_eq!(client.get("/health").await.status, 200);
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_encoded_path_opens_no_door_that_is_closed() {
    let app = TestApp::start_with(Role::Api, |config| {
        config.http.internal_port = Some(0);
        config.http.metrics_port = Some(0);
    })
    .await;
    let (inside, metrics) = (app.internal.clone().unwrap(), app.metrics.clone().unwrap());
    for path in ["/metrics", "/%6detrics", "/metric%73/", "/%61dmin", "/ap%69/users/validate", "/api/v1/%75sers"] {
        assert_eq!(app.client.get(path).await.refusal(), (404, "not_found".to_owned()), "{path}");
    }
    assert_eq!(inside.get("/%6detrics").await.status, 404);
    assert_eq!(metrics.get("/api/v1/%75sers/profile").await.status, 404);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_may_show_its_key_beside_the_users_token() {
    let app = TestApp::api().await;
    let (user, other) = (app.client.register("Ada").await, app.client.register("Bob").await);
    let gateway = app.client.as_user(&user).with("x-internal-api-key", FULL_SERVICE_KEY);
    assert_eq!(gateway.get("/api/v1/users/profile").await.data()["email"], user.email);
    assert_eq!(gateway.patch("/api/v1/users/preferences", json!({"email": false})).await.status, 200);
    assert_eq!(gateway.get("/api/v1/auth/validate").await.data()["user_id"], user.id);
    // Where services may be, it is the service that asks.
    assert_eq!(gateway.get(&format!("/api/v1/users/{}", other.id)).await.status, 200);
    // The key alone, or beside a token that is none, opens nothing of a user's.
    let key_alone = app.client.with("x-internal-api-key", FULL_SERVICE_KEY);
    assert_eq!(key_alone.get("/api/v1/users/profile").await.refusal().0, 403);
    assert_eq!(key_alone.bearer("a.b.c").get("/api/v1/users/profile").await.refusal().0, 401);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_metrics_port_shows_metrics_and_health_and_nothing_else() {
    let app = TestApp::start_with(Role::Api, |config| config.http.metrics_port = Some(0)).await;
    let metrics = app.metrics.clone().unwrap();
    assert!(metrics.get("/metrics").await.text.contains("http_requests_total"));
    assert_eq!(metrics.get("/health/ready").await.status, 200);
    for path in ["/api/v1/users/profile/", "/swagger/", "/openapi.json", "/.well-known/jwks.json"] {
        assert_eq!(metrics.get(path).await.refusal(), (404, "not_found".to_owned()), "{path}");
    }
    assert_eq!(app.client.get("/metrics").await.refusal().0, 404);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_service_auth_three_reads_are_open_inside_and_nothing_more() {
    let open = TestApp::start_with(Role::Api, |config| {
        config.http.internal_port = Some(0);
        config.http.service_auth = false;
    })
    .await;
    let inside = open.internal.clone().unwrap();
    let user = open.client.register("Ada").await;
    let path = |rest: &str| format!("/api/v1/users/{}{rest}", user.id);
    for rest in ["/preferences/", "/contact/?type=push", "/push-token/"] {
        assert_eq!(inside.get(&path(rest)).await.status, 200, "{rest}");
        assert!([401, 404].contains(&open.client.get(&path(rest)).await.refusal().0), "{rest}");
        // Whoever shows something must show something right.
        assert_eq!(inside.with("x-internal-api-key", "usk_wrong").get(&path(rest)).await.refusal().0, 401, "{rest}");
        assert_eq!(inside.bearer("nonsense").get(&path(rest)).await.refusal().0, 401, "{rest}");
    }
    for rest in ["", "/push-token/retire"] {
        assert_eq!(inside.get(&path(rest)).await.status, if rest.is_empty() { 401 } else { 405 });
    }
    assert_eq!(inside.post("/api/v1/users/lookup/", json!({"user_ids": []})).await.refusal().0, 401);
    assert_eq!(inside.post(&path("/push-token/retire/"), json!({"push_token": "x"})).await.refusal().0, 401);
    assert_eq!(inside.get("/api/v1/users/").await.refusal().0, 401);
    open.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_proxies_nobody_tells_an_address_at_the_internal_port_but_a_service_that_may() {
    let app = TestApp::start_with(Role::Api, |config| {
        config.http.internal_port = Some(0);
        config.http.trusted_proxy_count = 1;
    })
    .await;
    let told_by = async |client: &crate::support::Client| {
        client.with("x-forwarded-for", "203.0.113.9").get("/health").await.data()["client"]["told_by"].clone()
    };
    let inside = app.internal.clone().unwrap();
    assert_eq!(told_by(&app.client).await, "trusted_proxy");
    assert_eq!(told_by(&inside).await, "peer");
    assert_eq!(told_by(&inside.with("x-internal-api-key", FULL_SERVICE_KEY)).await, "service");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_says_whom_it_takes_the_client_for_and_a_service_may_say_for_whom_it_asks() {
    let app = TestApp::start_with(Role::Api, |config| {
        config.http.trusted_proxy_count = 0;
        config.limits.login_ip = Some(Rate { count: 1, window: std::time::Duration::from_secs(60) });
    })
    .await;
    let client = async |client: &crate::support::Client| client.get("/health").await.data()["client"].clone();
    let told = |address: &str, by: &str| json!({"address": address, "told_by": by});
    assert_eq!(client(&app.client).await, told("127.0.0.1", "peer"));
    let forwarded = app.client.with("x-forwarded-for", "6.6.6.6, 203.0.113.9");
    assert_eq!(client(&forwarded).await, told("127.0.0.1", "peer"), "anybody could say so");
    let gateway = forwarded.with("x-internal-api-key", FULL_SERVICE_KEY);
    assert_eq!(client(&gateway).await, told("203.0.113.9", "service"));
    assert_eq!(client(&forwarded.with("x-internal-api-key", SERVICE_KEY)).await, told("127.0.0.1", "peer"), "it lacks the scope");
    // So each of a gateway's users has a limit of his own.
    let login = json!({"email": "nobody@example.com", "password": "Wrong-password1"});
    let from = |address: &str| app.client.with("x-internal-api-key", FULL_SERVICE_KEY).with("x-forwarded-for", address);
    assert_eq!(from("203.0.113.1").post("/api/v1/auth/login/", login.clone()).await.status, 401);
    let refused = from("203.0.113.1").post("/api/v1/auth/login/", login.clone()).await;
    assert_eq!((refused.status, refused.header("ratelimit-policy")), (429, Some("\"login_ip\";q=1;w=60")));
    assert_eq!(from("203.0.113.2").post("/api/v1/auth/login/", login).await.status, 401);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_and_an_address_have_their_share_and_services_stand_outside() {
    let rate = |count| Some(Rate { count, window: std::time::Duration::from_secs(3600) });
    let app = TestApp::start_with(Role::Api, |config| {
        config.limits.default_user = rate(3);
        config.limits.default_ip = rate(12);
        config.http.cors_allowed_origins = vec!["https://app.example.com".to_owned()];
    })
    .await;
    let (ada, bob) = (app.client.register("Ada").await, app.client.register("Bob").await);
    let from = |address: &str| app.client.with("x-forwarded-for", address);
    let as_ada = from("198.51.100.1").as_user(&ada);
    for left in ["2", "1", "0"] {
        let answer = as_ada.get("/api/v1/users/profile/").await;
        assert_eq!((answer.status, answer.header("ratelimit-policy")), (200, Some("\"default_user\";q=3;w=3600")));
        assert!(answer.header("ratelimit").unwrap().starts_with(&format!("\"default_user\";r={left};t=")), "{answer:?}");
    }
    let refused = as_ada.get("/api/v1/users/profile/").await;
    assert_eq!(refused.refusal(), (429, "rate_limited".to_owned()));
    assert!(refused.header("retry-after").unwrap().parse::<u64>().unwrap() <= 3600);
    assert!(refused.header("ratelimit").unwrap().starts_with("\"default_user\";r=0;"));
    assert_eq!(from("198.51.100.1").as_user(&bob).get("/api/v1/users/profile/").await.status, 200, "one user's share is not another's");
    // The address has used five by now.
    let crowd = from("198.51.100.1");
    let statuses = futures_util::future::join_all((0..20).map(|_| crowd.get("/.well-known/jwks.json"))).await;
    assert_eq!(statuses.iter().filter(|answer| answer.status == 200).count(), 7);
    let refused = crowd.with("origin", "https://app.example.com").get("/.well-known/jwks.json").await;
    assert_eq!((refused.status, refused.header("access-control-allow-origin")), (429, Some("https://app.example.com")));
    assert!(refused.header("ratelimit-policy").is_some() && refused.header("x-correlation-id").is_some(), "{refused:?}");
    assert_eq!(crowd.get("/health/ready").await.status, 200, "probes are not counted");
    assert_eq!(from("2001:db8:7::1").get("/.well-known/jwks.json").await.status, 200);
    for _ in 0..20 {
        let service = crowd.with("x-internal-api-key", SERVICE_KEY).get(&format!("/api/v1/users/{}/", ada.id)).await;
        assert_eq!((service.status, service.header("ratelimit")), (200, None));
    }
    app.stop().await.unwrap();
}
