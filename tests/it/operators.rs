//! The operators' pages, as a browser and as an attacker meet them.

use std::time::{Duration, Instant};

use serde_json::json;
use user_service::admin::staff;
use user_service::card::email_address::EmailAddress;
use user_service::config::{Mail, MailTransport, Role};
use user_service::infra::one_time_token::Purpose;

use crate::support::browser::{Browser, code, hidden_fields};
use crate::support::{Client, PASSWORD, TestApp};

const ADMIN: &str = "grace@example.com";

#[tokio::test(flavor = "multi_thread")]
async fn an_admin_signs_in_with_password_and_code_and_no_page_opens_before() {
    let app = TestApp::api().await;
    let mut browser = Browser::new(&app.client.base);
    for path in ["/admin/", "/admin/users", "/admin/messages/", "/admin/health", "/admin/nothing"] {
        let answer = browser.get(path).await;
        assert_eq!((answer.status, answer.header("location")), (303, Some("/admin/login")), "{path}");
    }
    let link = staff::create(&app.app, EmailAddress::parse(ADMIN).unwrap(), "Grace".into(), PASSWORD.into()).await.unwrap();

    // Without a second factor every page tells how to get one.
    browser.get("/admin/login").await;
    let anonymous = browser.cookie.clone().unwrap();
    assert_eq!(browser.submit("/admin/login", &[("email", ADMIN), ("password", PASSWORD)]).await.status, 303);
    assert_ne!(browser.cookie.as_ref(), Some(&anonymous), "the cookie is another after signing in");
    for path in ["/admin/", "/admin/users", "/admin/code"] {
        let answer = browser.get(path).await;
        assert!(answer.status == 200 && answer.text.contains("user-service admin reset"), "{path}: {}", answer.text);
    }
    let halfway = browser.cookie.clone().unwrap();

    let secret = browser.enrol(&app, &link).await;
    let again = browser.get(&link[link.find("/admin").unwrap()..]).await;
    assert_eq!(again.status, 400, "the link works once");
    browser.sign_in(&app, ADMIN, &secret).await;
    let page = browser.get("/admin/users").await;
    assert!(page.status == 200 && page.text.contains(ADMIN), "{}", page.text);
    assert_ne!(browser.cookie.as_ref(), Some(&halfway));

    let mut other = Browser::new(&app.client.base);
    other.cookie = Some(halfway);
    assert_eq!(other.get("/admin/users").await.header("location"), Some("/admin/code"), "the cookie from before the code is not enough");
    let signed_in = browser.cookie.clone();
    browser.get("/admin/users").await;
    assert_eq!(browser.submit("/admin/logout", &[]).await.status, 303);
    assert_eq!(browser.cookie, None);
    other.cookie = signed_in;
    assert_eq!(other.get("/admin/users").await.header("location"), Some("/admin/login?ended=yes"), "what was signed out is dead");
    app.stop().await.unwrap();
}

fn csrf_of(page: &str) -> String {
    page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_code_is_accepted_once_however_many_show_it_and_five_wrong_ones_are_enough() {
    let app = TestApp::api().await;
    let (_browser, secret) = Browser::admin(&app, ADMIN).await;
    app.clock.advance(Duration::from_secs(30));
    let right = code(&secret, &app);
    let mut browsers = Vec::new();
    for _ in 0..4 {
        let mut browser = Browser::new(&app.client.base);
        browser.get("/admin/login").await;
        browser.submit("/admin/login", &[("email", ADMIN), ("password", PASSWORD)]).await;
        browser.get("/admin/code").await;
        browsers.push(browser);
    }
    let fields = [("code", right.as_str())];
    let tries = browsers.iter_mut().map(|browser| browser.submit("/admin/code", &fields));
    let statuses: Vec<u16> = futures_util::future::join_all(tries).await.iter().map(|answer| answer.status).collect();
    assert_eq!(statuses.iter().filter(|status| **status == 303).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 401).count(), 3, "{statuses:?}");

    // A success forgot the failures that came before it, not those that came after: within five more it is enough.
    let loser = browsers.iter_mut().zip(&statuses).find(|(_, status)| **status == 401).unwrap().0;
    let mut last = 0;
    for _ in 0..6 {
        last = loser.submit("/admin/code", &[("code", "000000")]).await.status;
    }
    assert_eq!(last, 429);
    app.clock.advance(Duration::from_secs(301));
    loser.get("/admin/code").await;
    assert_eq!(loser.submit("/admin/code", &[("code", &code(&secret, &app))]).await.status, 303, "time opens it again");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_works_once_and_nothing_of_it_rests_in_the_clear() {
    let app = TestApp::api().await;
    let link = staff::create(&app.app, EmailAddress::parse(ADMIN).unwrap(), "Grace".into(), PASSWORD.into()).await.unwrap();
    let mut browser = Browser::new(&app.client.base);
    let page = browser.get(&link[link.find("/admin").unwrap()..]).await;
    let secret = page.text.split("class=\"typed\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let wrong = browser.submit("/admin/enrol", &[("code", "000000")]).await;
    assert!(wrong.status == 400 && wrong.text.contains(&secret), "a wrong code leaves the link and its secret as they are");
    let done = browser.submit("/admin/enrol", &[("code", &code(&secret, &app))]).await;
    let recovery = done.text.split("<li><code>").nth(3).unwrap().split('<').next().unwrap().to_owned();

    for (expected, typed) in [(303, recovery.to_uppercase().replace('-', " ")), (401, recovery.clone())] {
        let mut browser = Browser::new(&app.client.base);
        browser.get("/admin/login").await;
        browser.submit("/admin/login", &[("email", ADMIN), ("password", PASSWORD)]).await;
        browser.get("/admin/code").await;
        assert_eq!(browser.submit("/admin/code", &[("code", &typed)]).await.status, expected, "{typed}");
    }
    let bytes = totp_rs::Secret::try_from_base32(&secret).unwrap();
    let hex: String = bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let kept = format!("SELECT count(*) AS n FROM totp WHERE position('\\x{hex}'::bytea in secret_sealed) > 0");
    assert_eq!(app.count(&kept).await, 0, "the secret is sealed");
    assert_eq!(app.count("SELECT count(*) AS n FROM recovery_codes WHERE used_at IS NOT NULL").await, 1);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_user_gets_the_answer_of_a_wrong_password_and_his_token_opens_nothing() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let mut browser = Browser::new(&app.client.base);
    browser.get("/admin/login").await;
    let plain = browser.submit("/admin/login", &[("email", &user.email), ("password", PASSWORD)]).await;
    let wrong = browser.submit("/admin/login", &[("email", &user.email), ("password", "WrongPass123!")]).await;
    assert_eq!((plain.status, wrong.status), (401, 401));
    assert_eq!(plain.text, wrong.text);
    for value in [user.access_token.as_str(), "x", "' OR 1=1 --"] {
        let mut forged = Browser::new(&app.client.base);
        forged.cookie = Some(format!("admin={value}"));
        assert_eq!(forged.get("/admin/users").await.status, 303, "{value}");
        let list = app.client.with("cookie", &format!("admin={value}")).get("/api/v1/users/").await;
        assert_eq!(list.refusal(), (401, "unauthenticated".into()));
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_from_elsewhere_or_without_its_token_does_nothing() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    let user = app.client.register("Ada").await;
    let path = format!("/admin/users/{}/deactivate", user.id);
    let page = browser.get(&path).await;
    let csrf = csrf_of(&page.text);
    let own = browser.base.clone();
    let fields = [("csrf", csrf.as_str()), ("reason", "asked for it")];
    for headers in [
        [("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")],
        [("origin", own.as_str()), ("sec-fetch-site", "cross-site")],
        [("origin", own.as_str()), ("sec-fetch-site", "same-site")],
        [("origin", "null"), ("sec-fetch-site", "same-origin")],
    ] {
        assert_eq!(browser.post(&path, &fields, &headers).await.status, 403, "{headers:?}");
    }
    for csrf in ["", "x", &csrf[1..], &format!("{csrf}A")] {
        assert_eq!(browser.post(&path, &[("csrf", csrf), ("reason", "asked for it")], &[]).await.status, 403, "{csrf}");
    }
    assert_eq!(browser.post(&path, &[("reason", "asked for it")], &[]).await.status, 403);
    // A token of another session is none of this one.
    let (mut other, _secret) = Browser::admin(&app, "joan@example.com").await;
    assert_eq!(other.post(&path, &fields, &[("origin", &own)]).await.status, 403);
    // And no GET changes anything.
    assert_eq!(browser.get(&format!("{path}?reason=asked+for+it&csrf={csrf}")).await.status, 200);
    assert_eq!(app.count(&format!("SELECT count(*) AS n FROM users WHERE id = '{}' AND is_active", user.id)).await, 1);

    assert_eq!(browser.post(&path, &fields, &[]).await.status, 303, "the token alone is enough where a browser says nothing");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn deactivating_needs_a_reason_ends_the_sessions_at_once_and_names_the_admin() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    let user = app.client.register("Ada <b>Lovelace</b>").await;
    assert_eq!(app.client.as_user(&user).get("/api/v1/users/profile/").await.status, 200);
    let page = browser.get(&format!("/admin/users/{}", user.id)).await;
    assert!(page.text.contains("Ada &#60;b&#62;Lovelace"), "HTML in a name is text: {}", page.text);
    assert!(!page.text.contains(&user.push_token), "a push token is masked");

    let path = format!("/admin/users/{}/deactivate", user.id);
    browser.get(&path).await;
    let unreasoned = browser.submit(&path, &[("reason", "  ")]).await;
    assert!(unreasoned.status == 400 && unreasoned.text.contains("reason must say why"), "{}", unreasoned.text);
    assert_eq!(browser.submit(&path, &[("reason", "Asked by mail, ticket 4711")]).await.status, 303);
    assert_eq!(app.client.as_user(&user).get("/api/v1/users/profile/").await.refusal().0, 401, "the session died");
    let page = browser.get(&format!("/admin/users/{}?done=deactivate", user.id)).await;
    for told in ["sessions have ended", "Asked by mail, ticket 4711", "deactivated"] {
        assert!(page.text.contains(told), "{told}: {}", page.text);
    }
    let by_admin = "SELECT count(*) AS n FROM audit_log WHERE action = 'deactivated' AND actor_kind = 'admin' AND actor_id =
        (SELECT id::text FROM users WHERE email = 'grace@example.com') AND ip IS NOT NULL AND correlation_id IS NOT NULL";
    assert_eq!(app.count(by_admin).await, 1);
    let twice = browser.submit(&path, &[("reason", "Asked by mail, ticket 4711")]).await;
    assert_eq!(twice.status, 400, "what is done already is said");

    let path = format!("/admin/users/{}/reactivate", user.id);
    browser.get(&path).await;
    assert_eq!(browser.submit(&path, &[("reason", "A mistake")]).await.status, 303);
    let login = app.client.post("/api/v1/auth/login/", json!({"email": user.email, "password": PASSWORD})).await;
    assert_eq!(login.status, 200, "{}", login.text);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn each_action_does_what_it_says() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    let user = app.client.register("Ada").await;
    let mut act = async |action: &str, reason: &str| {
        let path = format!("/admin/users/{}/{action}", user.id);
        assert_eq!(browser.get(&path).await.status, 200, "{action}");
        let done = browser.submit(&path, &[("reason", reason)]).await;
        assert_eq!(done.status, 303, "{action}: {}", done.text);
    };
    let mails = |template: &str| format!("SELECT count(*) AS n FROM outbox WHERE convert_from(payload, 'UTF8') LIKE '%{template}%'");
    act("resend-verification", "").await;
    assert_eq!(app.count(&mails("email_verification")).await, 2);
    act("verify", "").await;
    assert_eq!(app.count("SELECT count(*) AS n FROM users WHERE email_verified_at IS NOT NULL AND NOT is_staff").await, 1);
    let hash = "SELECT count(*) AS n FROM credentials c JOIN users u ON u.id = c.user_id WHERE NOT is_staff AND changed_at > u.created_at";
    act("reset-password", "").await;
    assert_eq!((app.count(&mails("password_reset")).await, app.count(hash).await), (1, 0), "a link is mailed, no password is set");
    app.newest_link(&user.id, Purpose::PasswordReset).await;
    act("end-sessions", "").await;
    assert_eq!(app.client.as_user(&user).get("/api/v1/users/profile/").await.status, 401);
    act("grant-staff", "New colleague").await;
    assert_eq!(app.count("SELECT count(*) AS n FROM users WHERE is_staff").await, 2);
    act("withdraw-staff", "Left the team").await;
    assert_eq!(app.count("SELECT count(*) AS n FROM users WHERE is_staff").await, 1);
    assert_eq!(browser.get(&format!("/admin/users/{}/set-password", user.id)).await.status, 404);
    assert_eq!(browser.get("/admin/users/not-an-id").await.status, 404);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_session_is_ended_and_the_others_stay() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    let user = app.client.register("Ada").await;
    let login = app.client.post("/api/v1/auth/login/", json!({"email": user.email, "password": PASSWORD})).await.data();
    let second = login["access_token"].as_str().unwrap().to_owned();
    let page = browser.get(&format!("/admin/users/{}", user.id)).await;
    let newest = page.text.split("/sessions/").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let path = format!("/admin/users/{}/sessions/{newest}", user.id);
    assert_eq!(browser.get(&path).await.status, 200);
    assert_eq!(browser.submit(&path, &[]).await.status, 303);
    let alive = [user.access_token.as_str(), second.as_str()].map(|token| app.client.bearer(token));
    let mut statuses = Vec::new();
    for client in alive {
        statuses.push(client.get("/api/v1/users/profile/").await.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_admin_can_neither_be_demoted_nor_leave() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    let login = app.client.post("/api/v1/auth/login/", json!({"email": ADMIN, "password": PASSWORD})).await.data();
    let (id, token) = (login["user"]["user_id"].as_str().unwrap().to_owned(), login["access_token"].as_str().unwrap().to_owned());
    for action in ["withdraw-staff", "deactivate"] {
        let path = format!("/admin/users/{id}/{action}");
        browser.get(&path).await;
        let refused = browser.submit(&path, &[("reason", "I am tired")]).await;
        assert!(refused.status == 409 && refused.text.contains("last active admin"), "{action}: {}", refused.text);
    }
    // One more, who has no second factor yet, could not sign in.
    let heir = app.client.register("Heir").await;
    app.sql(&format!("UPDATE users SET is_staff = true WHERE id = '{}'", heir.id)).await;
    assert_eq!(app.client.bearer(&token).delete("/api/v1/users/profile/").await.refusal(), (409, "last_admin".into()));
    app.sql(&format!("UPDATE users SET is_staff = false WHERE id = '{}'", heir.id)).await;
    let leaving = app.client.bearer(&token).delete("/api/v1/users/profile/").await;
    assert_eq!(leaving.refusal(), (409, "last_admin".into()));
    // Of two who demote each other at once one stays.
    let (mut other, _secret) = Browser::admin(&app, "joan@example.com").await;
    let other_id = app.client.post("/api/v1/auth/login/", json!({"email": "joan@example.com", "password": PASSWORD})).await.data();
    let other_id = other_id["user"]["user_id"].as_str().unwrap().to_owned();
    let (one, two) = (format!("/admin/users/{other_id}/withdraw-staff"), format!("/admin/users/{id}/withdraw-staff"));
    // Joan's sign-in moved the clock, and nobody's session is older than that.
    browser.get(&one).await;
    other.get(&two).await;
    let reason = [("reason", "A quarrel")];
    tokio::join!(browser.submit(&one, &reason), other.submit(&two, &reason));
    assert_eq!(app.count("SELECT count(*) AS n FROM users WHERE is_staff AND is_active").await, 1);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_when_it_is_idle_when_it_is_old_and_when_its_user_is_staff_no_more() {
    let app = TestApp::api().await;
    let (mut browser, secret) = Browser::admin(&app, ADMIN).await;
    app.clock.advance(Duration::from_secs(29 * 60));
    assert_eq!(browser.get("/admin/users").await.status, 200);
    app.clock.advance(Duration::from_secs(29 * 60));
    assert_eq!(browser.get("/admin/users").await.status, 200, "each use begins the idle time anew");
    app.clock.advance(Duration::from_secs(31 * 60));
    assert_eq!(browser.get("/admin/users").await.header("location"), Some("/admin/login?ended=yes"));
    browser.sign_in(&app, ADMIN, &secret).await;
    for _ in 0..25 {
        app.clock.advance(Duration::from_secs(29 * 60));
        browser.get("/admin/users").await;
    }
    assert_eq!(browser.get("/admin/users").await.status, 303, "twelve hours are enough for anybody");
    browser.sign_in(&app, ADMIN, &secret).await;
    app.sql("UPDATE users SET is_staff = false").await;
    assert_eq!(browser.get("/admin/users").await.status, 303);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_follows_the_connection() {
    let app = TestApp::api().await;
    let http = reqwest::Client::new();
    let login = format!("{}/admin/login", app.client.base);
    let plain = http.get(&login).send().await.unwrap();
    let cookie = plain.headers()["set-cookie"].to_str().unwrap().to_owned();
    assert!(cookie.starts_with("admin=") && cookie.contains("HttpOnly; SameSite=Strict") && !cookie.contains("Secure"), "{cookie}");
    assert!(plain.text().await.unwrap().contains("not encrypted"));
    let tls = http.get(&login).header("x-forwarded-proto", "https").header("x-forwarded-for", "192.0.2.1").send().await.unwrap();
    let cookie = tls.headers()["set-cookie"].to_str().unwrap().to_owned();
    let parts: Vec<&str> = cookie.split("; ").skip(1).collect();
    assert!(cookie.starts_with("__Host-admin="), "{cookie}");
    for part in ["Secure", "HttpOnly", "SameSite=Strict", "Path=/"] {
        assert!(parts.contains(&part), "{part}: {cookie}");
    }
    assert!(!cookie.contains("Domain"), "{cookie}");
    // The path of the enrolment holds its token.
    assert_eq!(tls.headers()["referrer-policy"], "strict-origin");
    let policy = tls.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(!tls.text().await.unwrap().contains("not encrypted"));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_admins_session_reads_what_a_service_reads_over_rest() {
    let app = TestApp::api().await;
    let (browser, _secret) = Browser::admin(&app, ADMIN).await;
    let user = app.client.register("Ada").await;
    let admin = app.client.with("cookie", browser.cookie.as_ref().unwrap());
    let list = admin.get("/api/v1/users/?search=ada").await;
    assert_eq!((list.status, list.json()["meta"]["total"].as_u64()), (200, Some(1)), "{}", list.text);
    for path in ["", "preferences/", "contact/?type=email"] {
        let answer = admin.get(&format!("/api/v1/users/{}/{path}", user.id)).await;
        assert_eq!(answer.status, 200, "{path}: {}", answer.text);
    }
    assert_eq!(admin.get("/api/v1/users/profile/").await.status, 403, "he is no user of the API");
    assert_eq!(admin.post("/api/v1/push-requests/", json!({"user_id": user.id})).await.status, 403);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_explanation_names_every_rule_and_the_one_that_decides() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    let user = app.client.register("Ada").await;
    let page = browser.get(&format!("/admin/decision?user={}", user.email)).await;
    assert!(page.text.contains("It would be delivered"), "{}", page.text);
    app.client.as_user(&user).patch("/api/v1/users/preferences/", json!({"push": false})).await;
    let page = browser.get(&format!("/admin/decision?user={}", user.id)).await;
    assert!(page.text.contains("It would be skipped: push_disabled"), "{}", page.text);
    for rule in ["user_inactive", "expired", "push_disabled", "no_push_token"] {
        assert!(page.text.contains(&format!("<code>{rule}</code>")), "{rule}");
    }
    assert_eq!(page.text.matches("and decides").count(), 1);
    let page = browser.get(&format!("/admin/decision?user={}&expires_at=2020-01-31T12:00", user.id)).await;
    assert!(page.text.contains("skipped: expired"), "{}", page.text);
    assert!(browser.get("/admin/decision?user=nobody").await.text.contains("There is no user"));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_letters_are_shown_masked_and_redriven_and_stuck_rows_tried_again() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    let user = app.client.register("Ada").await;
    app.sql(&format!(
        "INSERT INTO push_inbox (message_id, user_id, fingerprint, source, outcome, reason, body, received_at, decided_at)
           VALUES ('m-1 <b>', '{0}', decode(repeat('00', 32), 'hex'), 'queue', 'dead', 'internal_error', '{{\"title\":\"a secret\"}}', now(), now()),
                  ('m-2', '{0}', decode(repeat('01', 32), 'hex'), 'queue', 'dead', 'unknown_user', '{{}}', now(), now());
         UPDATE outbox SET failed_at = now(), attempts = 6, last_error = '550 <no> such mailbox' WHERE routing_key = 'email'",
        user.id
    ))
    .await;
    let page = browser.get("/admin/messages").await;
    assert_eq!(page.status, 200, "{}", page.text);
    for told in ["m-1 &#60;b&#62;", "(8 characters)", "550 &#60;no&#62; such mailbox", "class=\"dead\"", "internal_error"] {
        assert!(page.text.contains(told), "{told}: {}", page.text);
    }
    assert!(!page.text.contains("a secret"));

    assert!(browser.get("/admin/messages/redrive?message_id=m-1+%3Cb%3E").await.text.contains("m-1 &#60;b&#62;"));
    assert_eq!(hidden_fields(&browser.last).len(), 4);
    // The browser reads the entities of an attribute.
    browser.last = browser.last.replace("m-1 &#60;b&#62;", "m-1 <b>");
    assert_eq!(browser.submit("/admin/messages/redrive", &[]).await.status, 303);
    assert_eq!(app.count("SELECT count(*) AS n FROM push_inbox WHERE outcome = 'retry' AND message_id = 'm-1 <b>'").await, 1);
    assert_eq!(app.count("SELECT count(*) AS n FROM push_inbox WHERE outcome = 'dead'").await, 1, "only the one that was named");

    let row = page.text.split("/admin/messages/retry/").nth(1).unwrap().split('"').next().unwrap().to_owned();
    browser.get(&format!("/admin/messages/retry/{row}")).await;
    assert_eq!(browser.submit(&format!("/admin/messages/retry/{row}"), &[]).await.status, 303);
    assert_eq!(app.count(&format!("SELECT count(*) AS n FROM outbox WHERE id = '{row}' AND failed_at IS NULL")).await, 1);
    let audited =
        "SELECT count(*) AS n FROM audit_log WHERE actor_kind = 'admin' AND action IN ('dead_letters_redriven', 'outbox_retried')";
    assert_eq!(app.count(audited).await, 2);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_key_is_seen_since_its_first_use() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    assert_eq!(app.count("SELECT count(*) AS n FROM key_sightings WHERE last_used_at IS NOT NULL").await, 0);
    let service = app.client.with("x-internal-api-key", crate::support::SERVICE_KEY);
    service.get("/api/v1/users/00000000-0000-0000-0000-000000000001/").await;
    assert_eq!(app.count("SELECT count(*) AS n FROM key_sightings WHERE last_used_at IS NOT NULL").await, 1);
    let page = browser.get("/admin/health").await;
    for told in ["reader", "what all other keys are derived from", "current"] {
        assert!(page.text.contains(told), "{told}: {}", page.text);
    }
    assert!(!page.text.contains(crate::support::SERVICE_KEY));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn in_development_the_start_page_has_the_mails_and_only_this_machine_sees_their_links() {
    let app = TestApp::start_with(Role::Api, |config| {
        config.mail = Mail { transport: MailTransport::Log, public_base_url: "http://localhost:8000".into() };
    })
    .await;
    let user = app.client.register("Ada").await;
    let link = app.newest_link(&user.id, Purpose::EmailVerification).await;
    let page = app.client.get("/").await.text;
    assert!(
        page.contains(&format!("email_verification to {}", user.email)) && page.contains(&format!("/verify-email?token={link}")),
        "{page}"
    );
    for (name, value) in [("host", "rebound.example.com"), ("x-forwarded-for", "192.0.2.1")] {
        let page = app.client.with(name, value).get("/").await.text;
        assert!(page.contains("email_verification to") && !page.contains("token="), "{name}");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_stand_where_services_do() {
    let app = TestApp::start_with(Role::Api, |config| config.http.internal_port = Some(0)).await;
    assert_eq!(app.client.get("/admin/").await.refusal(), (404, "not_found".into()));
    assert_eq!(app.client.get("/admin/login").await.status, 404);
    let inside: &Client = app.internal.as_ref().unwrap();
    assert_eq!(inside.get("/admin/login").await.status, 200);
    assert!(!app.client.get("/").await.text.contains("admin/") && inside.get("/").await.text.contains("admin/"));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nul_and_an_id_that_is_none_are_refused_and_never_500() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    for path in ["/admin/messages?reason=%00", "/admin/messages?message_id=a%00b", "/admin/users?search=%00", "/admin/messages/retry/x"] {
        let answer = browser.get(path).await;
        assert_eq!(answer.status, 400, "{path}: {}", answer.text);
    }
    browser.get("/admin/messages").await;
    let redrive = browser.submit("/admin/messages/redrive", &[("reason", "\0")]).await;
    assert_eq!(redrive.status, 400, "{}", redrive.text);
    app.stop().await.unwrap();
}

/// Asked: each page in under 100 ms with 100,000 users. The median of five, in a build that is not optimised.
#[tokio::test(flavor = "multi_thread")]
async fn every_page_is_quick_among_a_hundred_thousand_users() {
    let app = TestApp::api().await;
    let (mut browser, _secret) = Browser::admin(&app, ADMIN).await;
    app.sql(&crate::support::users(100_000)).await;
    let user = app.client.register("Ada").await;
    // A day's messages, of which most are delivered.
    app.sql(
        "INSERT INTO push_inbox (message_id, user_id, fingerprint, source, outcome, reason, body, received_at, decided_at)
         SELECT 'm-' || n, gen_random_uuid(), sha256('x'), 'queue', outcome, CASE outcome WHEN 'dead' THEN 'unknown_user' END,
                CASE outcome WHEN 'dead' THEN 'x'::bytea END, now(), now()
         FROM (SELECT n, CASE WHEN n % 1000 = 0 THEN 'dead' ELSE 'delivered' END AS outcome FROM generate_series(1, 400000) n) AS rows",
    )
    .await;
    app.sql("ANALYZE push_inbox").await;
    let messages = browser.get("/admin/messages").await.text;
    assert!(messages.contains("Requests, about") && messages.contains(">400<"), "the dead are counted, the rest is estimated: {messages}");
    let mut slow = Vec::new();
    for path in [
        "/admin/users",
        "/admin/users?search=user77",
        "/admin/users?search=surname5&sort=name",
        "/admin/users?active=no&verified=yes&sort=-email&page=20",
        "/admin/users?staff=yes",
        "/admin/users?created_from=2026-01-01&created_to=2026-01-01&sort=email",
        &format!("/admin/users/{}", user.id),
        &format!("/admin/decision?user={}", user.id),
        "/admin/messages",
        "/admin/health",
    ] {
        let mut times = Vec::new();
        for _ in 0..5 {
            let begun = Instant::now();
            let answer = browser.get(path).await;
            times.push(begun.elapsed());
            assert_eq!(answer.status, 200, "{path}: {}", answer.text);
        }
        times.sort_unstable();
        if times[2] > Duration::from_millis(100) {
            slow.push(format!("{path}: {times:?}"));
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
    app.stop().await.unwrap();
}
