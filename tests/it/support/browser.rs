//! A browser as far as pages without script need one: a cookie, forms with their hidden fields, and a phone for codes.

use std::time::Duration;

use reqwest::header::{COOKIE, LOCATION, SET_COOKIE};
use user_service::admin::staff;
use user_service::card::email_address::EmailAddress;

use super::client::Answer;
use super::{PASSWORD, TestApp};

pub struct Browser {
    pub base: String,
    http: reqwest::Client,
    /// Name and value, as it is sent back.
    pub cookie: Option<String>,
    pub last: String,
}

impl Browser {
    pub fn new(base: &str) -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().unwrap();
        Self { base: base.to_owned(), http, cookie: None, last: String::new() }
    }

    pub async fn get(&mut self, path: &str) -> Answer {
        let request = self.http.get(format!("{}{path}", self.base));
        self.send(request).await
    }

    /// Sends the fields along with the hidden ones of the page that was shown last.
    pub async fn submit(&mut self, path: &str, fields: &[(&str, &str)]) -> Answer {
        let hidden = hidden_fields(&self.last);
        let hidden = hidden.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: Vec<(&str, &str)> = hidden.chain(fields.iter().copied()).collect();
        self.post(path, &all, &[("origin", &self.base.clone()), ("sec-fetch-site", "same-origin")]).await
    }

    pub async fn post(&mut self, path: &str, fields: &[(&str, &str)], headers: &[(&str, &str)]) -> Answer {
        let body = url::form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let request = self.http.post(format!("{}{path}", self.base)).body(body);
        let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
        self.send(request.header("content-type", "application/x-www-form-urlencoded")).await
    }

    async fn send(&mut self, request: reqwest::RequestBuilder) -> Answer {
        let request = self.cookie.iter().fold(request, |request, cookie| request.header(COOKIE, cookie));
        let response = request.send().await.unwrap();
        if let Some(set) = response.headers().get(SET_COOKIE) {
            let pair = set.to_str().unwrap().split(';').next().unwrap().to_owned();
            self.cookie = Some(pair).filter(|pair| !pair.ends_with('='));
        }
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let text = response.text().await.unwrap();
        if text.contains("<form") {
            self.last.clone_from(&text);
        }
        Answer { status, headers, text }
    }

    /// An admin who enrolled a phone and signed in; and the secret in that phone.
    pub async fn admin(app: &TestApp, email: &str) -> (Self, String) {
        let link = staff::create(&app.app, EmailAddress::parse(email).unwrap(), "Grace Hopper".into(), PASSWORD.into()).await.unwrap();
        let mut browser = Self::new(&app.client.base);
        let secret = browser.enrol(app, &link).await;
        browser.sign_in(app, email, &secret).await;
        (browser, secret)
    }

    /// Follows the command line's link; returns the secret.
    pub async fn enrol(&mut self, app: &TestApp, link: &str) -> String {
        let path = &link[link.find("/admin").unwrap()..];
        let page = self.get(path).await;
        assert_eq!(page.status, 200, "{}", page.text);
        let secret = page.text.split("class=\"typed\">").nth(1).unwrap().split('<').next().unwrap().to_owned();
        let done = self.submit("/admin/enrol", &[("code", &code(&secret, app))]).await;
        assert_eq!(done.status, 200, "{}", done.text);
        assert_eq!(done.text.matches("<li><code>").count(), 10, "recovery codes: {}", done.text);
        self.cookie = None;
        secret
    }

    pub async fn sign_in(&mut self, app: &TestApp, email: &str, secret: &str) {
        self.get("/admin/login").await;
        let halfway = self.submit("/admin/login", &[("email", email), ("password", PASSWORD)]).await;
        assert_eq!(halfway.status, 303, "{}", halfway.text);
        let asked = self.get("/admin/users").await;
        assert_eq!(asked.header("location"), Some("/admin/code"), "the second factor is asked for everywhere");
        self.get("/admin/code").await;
        // The step of the enrolment, or of the sign-in before, is used up.
        app.clock.advance(Duration::from_secs(30));
        let inside = self.submit("/admin/code", &[("code", &code(secret, app))]).await;
        assert_eq!((inside.status, inside.headers.get(LOCATION).unwrap().to_str().unwrap()), (303, "/admin/users"), "{}", inside.text);
    }
}

/// What the phone shows at the service's time.
pub fn code(secret: &str, app: &TestApp) -> String {
    let secret = totp_rs::Secret::try_from_base32(secret).unwrap();
    let totp = totp_rs::Builder::new().with_secret(secret).build().unwrap();
    totp.generate(app.clock.now().timestamp().unsigned_abs()).to_string()
}

/// The hidden fields of a page's last form with fields of its own, names before values as clients read them.
pub fn hidden_fields(page: &str) -> Vec<(String, String)> {
    let form = page.rsplit("<form").find(|form| form.contains("method=\"post\"") && !form.contains("/admin/logout")).unwrap_or(page);
    let fields = form.split("<input type=\"hidden\" name=\"").skip(1);
    let attribute = |text: &str| text.split('"').next().unwrap().replace("&#38;", "&").replace("&#34;", "\"");
    fields.map(|field| (attribute(field), attribute(field.split("value=\"").nth(1).unwrap()))).collect()
}
