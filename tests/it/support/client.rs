//! HTTP as an app or sibling service speaks it; redirects are not followed, because their clients do not either.

use std::time::Duration;

use reqwest::header::HeaderMap;
use serde_json::{Value, json};

use super::PASSWORD;

#[derive(Clone)]
pub struct Client {
    pub base: String,
    http: reqwest::Client,
    headers: Vec<(String, String)>,
}

/// An answer with its body read.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub text: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("no JSON ({error}): {}", self.text))
    }

    pub fn data(&self) -> Value {
        self.json()["data"].clone()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// Status and error code; panics unless it is a well-formed failure.
    pub fn refusal(&self) -> (u16, String) {
        let body = self.json();
        assert_eq!(body["success"], json!(false), "{body}");
        assert!(body["message"].is_string(), "{body}");
        (self.status, body["error"].as_str().unwrap().to_owned())
    }
}

/// A registered user.
#[derive(Clone, Debug)]
pub struct TestUser {
    pub id: String,
    pub email: String,
    pub access_token: String,
    pub push_token: String,
}

impl Client {
    pub fn new(base: String) -> Self {
        let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).timeout(Duration::from_secs(60)).build().unwrap();
        Self { base, http, headers: Vec::new() }
    }

    /// The same with another header.
    pub fn with(&self, name: &str, value: &str) -> Self {
        let mut other = self.clone();
        other.headers.push((name.to_owned(), value.to_owned()));
        other
    }

    pub fn bearer(&self, token: &str) -> Self {
        self.with("authorization", &format!("Bearer {token}"))
    }

    pub fn as_user(&self, user: &TestUser) -> Self {
        self.bearer(&user.access_token)
    }

    pub async fn send(&self, method: &str, path: &str, body: Option<&str>) -> Answer {
        self.try_send(method, path, body).await.unwrap()
    }

    /// The same of somebody who may not be there.
    pub async fn try_send(&self, method: &str, path: &str, body: Option<&str>) -> reqwest::Result<Answer> {
        let mut request = self.http.request(method.parse().unwrap(), format!("{}{path}", self.base));
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        if let Some(body) = body {
            if !self.headers.iter().any(|(name, _)| name == "content-type") {
                request = request.header("content-type", "application/json");
            }
            request = request.body(body.to_owned());
        }
        let response = request.send().await?;
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send("POST", path, Some(&body.to_string())).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send("PATCH", path, Some(&body.to_string())).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send("PUT", path, Some(&body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send("DELETE", path, None).await
    }

    /// Registers somebody with a push token, who wants everything.
    pub async fn register(&self, name: &str) -> TestUser {
        let (email, push_token) = (format!("{}@example.com", uuid::Uuid::new_v4().simple()), format!("token-{}", uuid::Uuid::new_v4()));
        let answer =
            self.post("/api/v1/users/", json!({"name": name, "email": email, "password": PASSWORD, "push_token": push_token})).await;
        assert_eq!(answer.status, 201, "{}", answer.text);
        let data = answer.data();
        TestUser {
            id: data["user"]["id"].as_str().unwrap().to_owned(),
            email,
            access_token: data["access_token"].as_str().unwrap().to_owned(),
            push_token,
        }
    }
}
