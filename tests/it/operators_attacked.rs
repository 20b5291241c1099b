//! The operators' pages against somebody who knows a password, saw a link, or owns an origin nearby.

use std::time::Duration;

use serde_json::json;
use user_service::admin::{self, staff};
use user_service::card::email_address::EmailAddress;
use user_service::config::{Rate, Role};
use user_service::error::Code;
use user_service::infra::one_time_token::Purpose;

use crate::support::browser::{Browser, code};
use crate::support::{PASSWORD, Services, TestApp};

const ADMIN: &str = "grace@example.com";
/// Allowed by CORS, and of the same site.
const NEARBY: &str = "https://app.example.com";

async fn invite(app: &TestApp) -> String {
    let link = staff::create(&app.app, EmailAddress::parse(ADMIN).unwrap(), "Grace".into(), PASSWORD.into()).await.unwrap();
    link[link.find("/admin").unwrap()..].to_owned()
}

fn secret_of(page: &str) -> String {
    page.split("class=\"typed\">").nth(1).unwrap().split('<').next().unwrap().to_owned()
}

async fn halfway(app: &TestApp) -> Browser {
    let mut browser = Browser::new(&app.client.base);
    browser.get("/admin/login").await;
    assert_eq!(browser.submit("/admin/login", &[("email", ADMIN), ("password", PASSWORD)]).await.status, 303);
    browser.get("/admin/code").await;
    browser
}

async fn user_id(app: &TestApp) -> String {
    let login = app.client.post("/api/v1/auth/login/", json!({"email": ADMIN, "password": PASSWORD})).await.data();
    login["user"]["user_id"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_script_of_another_origin_reads_nothing_with_an_admins_cookie() {
    let app = TestApp::start_with(Role::Api, |config| config.http.cors_allowed_origins = vec![NEARBY.into()]).await;
    let (browser, _secret) = Browser::admin(&app, ADMIN).await;
    let with_cookie = app.client.with("cookie", browser.cookie.as_ref().unwrap());
    for headers in [("origin", NEARBY), ("sec-fetch-site", "same-site")] {
        let list = with_cookie.with(headers.0, headers.1).get("/api/v1/users/").await;
        assert_eq!(list.status, 401, "{headers:?}");
    }
    for origin in [NEARBY, "https://elsewhere.example.org"] {
        let refused = with_cookie.with("origin", origin).get("/admin/users").await;
        assert_eq!((refused.status, refused.header("x-content-type-options")), (403, Some("nosniff")), "{refused:?}");
        assert!(refused.header("x-correlation-id").is_some() && refused.header("cache-control") == Some("no-store"), "{refused:?}");
        let may_read = refused.header("access-control-allow-credentials").is_some();
        assert!(origin == NEARBY || !may_read, "{refused:?}");
    }
    assert!(app.client.get("/metrics").await.text.contains("status=\"403\""), "refusals are not counted");
    assert_eq!(with_cookie.with("origin", &app.client.base).get("/admin/users").await.status, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_follows_a_link_from_elsewhere_keeps_his_session() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    // A browser keeps the cookie back there.
    let navigating = app.client.with("sec-fetch-mode", "navigate").with("sec-fetch-site", "cross-site");
    for path in ["/admin/users?q=%3Cb%3E", "/admin/login", "/admin/enrol?token=x"] {
        let again = navigating.get(path).await;
        assert_eq!((again.status, again.header("set-cookie")), (200, None), "{path}");
        assert!(again.text.contains(&format!("content=\"0;url={path}\"")), "{}", again.text);
    }
    assert_eq!(browser.get("/admin/users").await.status, 200);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_within_a_path_is_no_session() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    let (user, other) = (app.client.register("Ada").await, app.client.register("Bob").await);
    for within in [format!("..%2F..%2F{}%2Fverify", other.id), "..%2F..%2F..%2Fmessages%2Fredrive".to_owned()] {
        let page = browser.get(&format!("/admin/users/{}/sessions/{within}", user.id)).await;
        assert_eq!(page.status, 404, "{}", page.text);
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_is_not_locked_out_by_guesses_from_elsewhere() {
    let few = Some(Rate { count: 3, window: Duration::from_secs(3600) });
    let app = TestApp::start_with(Role::Api, |config| config.limits.login_account_new = few).await;
    let (_browser, secret) = Browser::admin(&app, ADMIN).await;
    let guess = json!({"email": ADMIN, "password": "WrongPass123!"});
    let mut statuses = Vec::new();
    for host in 1..=5 {
        let from = app.client.with("x-forwarded-for", &format!("198.51.100.{host}"));
        statuses.push(from.post("/api/v1/auth/login/", guess.clone()).await.status);
    }
    // Three an hour from places that are not known, of which her own first sign-in was one.
    assert_eq!(statuses, [401, 401, 429, 429, 429]);
    let mut again = Browser::new(&app.client.base);
    again.sign_in(&app, ADMIN, &secret).await;
    // That memory ends, too.
    app.clock.advance(Duration::from_secs(31 * 86_400));
    assert!(!exists_origin_after_purge(&app).await);
    app.stop().await.unwrap();
}

async fn exists_origin_after_purge(app: &TestApp) -> bool {
    let now = app.clock.now();
    let purging = app.app.db.write(move |tx| Box::pin(async move { user_service::access::staff::delete_old(tx, now, 10).await }));
    purging.await.unwrap();
    app.count("SELECT count(*) AS n FROM staff_origins").await > 0
}

#[tokio::test(flavor = "multi_thread")]
async fn who_saw_the_enrolment_link_does_not_have_the_secret() {
    let app = TestApp::api().await;
    let path = invite(&app).await;
    let mut onlooker = Browser::new(&app.client.base);
    let seen = secret_of(&onlooker.get(&path).await.text);
    let mut owner = Browser::new(&app.client.base);
    let own = secret_of(&owner.get(&path).await.text);
    assert_ne!(seen, own);
    assert_eq!(secret_of(&owner.get(&path).await.text), own, "the same browser is shown the same one");
    assert_eq!(owner.submit("/admin/enrol", &[("code", &code(&own, &app))]).await.status, 200);
    app.clock.advance(Duration::from_secs(30));
    let mut intruder = halfway(&app).await;
    assert_eq!(intruder.submit("/admin/code", &[("code", &code(&seen, &app))]).await.status, 401);
    assert_eq!(intruder.submit("/admin/code", &[("code", &code(&own, &app))]).await.status, 303);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_guesses_codes_is_told_on_and_has_thirty_tries_a_day() {
    let app = TestApp::api().await;
    let (_browser, secret) = Browser::admin(&app, ADMIN).await;
    let mut guesser = halfway(&app).await;
    let told = "SELECT count(*) AS n FROM outbox WHERE convert_from(payload, 'UTF8') LIKE '%second_factor_failures%'";
    let mut refused = 0;
    for attempt in 1..=30 {
        if attempt % 5 == 1 {
            app.clock.advance(Duration::from_secs(301));
        }
        let answer = guesser.submit("/admin/code", &[("code", "000000")]).await;
        refused += usize::from(answer.status == 401);
        let mails = app.count(told).await;
        assert_eq!(mails, i64::from(attempt >= 10), "after {attempt}");
    }
    assert_eq!(refused, 30);
    app.clock.advance(Duration::from_secs(301));
    assert_eq!(guesser.submit("/admin/code", &[("code", &code(&secret, &app))]).await.status, 429);
    app.clock.advance(Duration::from_secs(86_400));
    let mut owner = Browser::new(&app.client.base);
    owner.sign_in(&app, ADMIN, &secret).await;
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_outlives_a_change_of_the_root_secret() {
    let app = TestApp::api().await;
    let path = invite(&app).await;
    let mut browser = Browser::new(&app.client.base);
    let secret = secret_of(&browser.get(&path).await.text);
    let done = browser.submit("/admin/enrol", &[("code", &code(&secret, &app))]).await;
    let recovery = done.text.split("<li><code>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let stopped = app.halt().await;
    let app = TestApp::start_on(Services::from_env(), stopped.database_url.clone(), Role::Api, |config| {
        config.identity.app_secret_previous = config.identity.app_secret.take().or_else(|| config.identity.jwt_secret.clone());
        config.identity.app_secret = Some("another root secret, long enough to be one".to_owned().into());
    })
    .await;
    let mut browser = halfway(&app).await;
    assert_eq!(browser.submit("/admin/code", &[("code", &recovery)]).await.status, 303);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_by_the_command_line_leaves_nothing_of_an_intruder() {
    let app = TestApp::api().await;
    Browser::admin(&app, ADMIN).await;
    let login = app.client.post("/api/v1/auth/login/", json!({"email": ADMIN, "password": PASSWORD})).await.data();
    let intruder = app.client.bearer(login["access_token"].as_str().unwrap());
    let asked = intruder.post("/api/v1/users/email/", json!({"email": "mallory@example.com", "current_password": PASSWORD})).await;
    assert_eq!(asked.status, 200, "{}", asked.text);
    assert_eq!(intruder.patch("/api/v1/users/profile/", json!({"push_token": "mallorys-phone"})).await.status, 200);
    let link = app.newest_link(login["user"]["user_id"].as_str().unwrap(), Purpose::EmailChange).await;

    let name = ADMIN.to_owned();
    let user = app.app.db.read(move |conn| Box::pin(async move { admin::find(conn, &name).await })).await.unwrap();
    staff::reset(&app.app, user, Some("Another Horse 8".into())).await.unwrap();
    assert_eq!(app.client.post("/api/v1/users/email/confirm/", json!({"token": link})).await.refusal().1, "invalid_token");
    assert_eq!(app.count("SELECT count(*) AS n FROM push_tokens WHERE retired_at IS NULL").await, 0);
    let told = "SELECT count(*) AS n FROM outbox WHERE convert_from(payload, 'UTF8') LIKE '%password_changed%'";
    assert_eq!(app.count(told).await, 1);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn coming_in_vain_and_going_out_are_in_the_audit_log() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    let plain = app.client.register("Ada").await;
    let mut other = Browser::new(&app.client.base);
    other.get("/admin/login").await;
    assert_eq!(other.submit("/admin/login", &[("email", &plain.email), ("password", PASSWORD)]).await.status, 401);
    browser.get("/admin/decision").await;
    assert_eq!(browser.submit("/admin/logout", &[]).await.status, 303);
    let noted = "SELECT count(*) AS n FROM audit_log WHERE (action, reason) IN
        (('sign_in_failed', 'not_staff'), ('signed_out', 'operators_pages'))";
    assert_eq!(app.count(noted).await, 2);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_is_for_tls_where_people_were_told_to_come_by_tls() {
    let app = TestApp::start_with(Role::Api, |config| {
        config.http.trusted_proxy_count = 0;
        config.mail.public_base_url = "https://accounts.example.com".into();
    })
    .await;
    let at_host = app.client.with("host", "accounts.example.com");
    assert!(at_host.get("/admin/login").await.header("set-cookie").unwrap().starts_with("__Host-admin="));
    let forged = app.client.with("x-forwarded-proto", "https");
    assert!(forged.get("/admin/login").await.header("set-cookie").unwrap().starts_with("admin="));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_cannot_be_erased() {
    let app = TestApp::api().await;
    Browser::admin(&app, ADMIN).await;
    let (id, now) = (user_id(&app).await.parse().unwrap(), app.clock.now());
    let erase = async || app.app.db.write(move |tx| Box::pin(admin::erase(tx, id, now))).await;
    assert_eq!(erase().await.unwrap_err().code, Code::LastAdmin);
    Browser::admin(&app, "joan@example.com").await;
    assert!(erase().await.unwrap());
    assert_eq!(app.count(&format!("SELECT count(*) AS n FROM staff_origins WHERE user_id = '{id}'")).await, 0);
    app.stop().await.unwrap();
}
