//! Writes that may be asked for twice: under a key, the first one's answer is stored in its transaction and given again.
//!
//! A handler declares it by taking [`Idempotency`] and writing through it; a request without a key is a plain transaction.
//! Only successes are stored: what was refused had no effect, and is judged anew.

use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::web::Bytes;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, HttpResponse, Responder, dev::Payload};
use apistos::ApiComponent;
use apistos::paths::Responses;
use apistos::reference_or::ReferenceOr;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Instant;
use uuid::Uuid;

use super::envelope::{Storable, StoredAnswer};
use super::idempotency_store::{self as store, Key};
use crate::app::App;
use crate::error::{Code, Error, Result};
use crate::infra::cause::Cause;
use crate::infra::db::{Connection, Tx};
use crate::infra::fail_point;

static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
static REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The syntax of both headers.
pub(super) const KEY_PATTERN: &str = "^[A-Za-z0-9._~-]{8,128}$";

/// How long a copy waits for the one that runs, and how often it looks.
const WAIT: Duration = Duration::from_secs(3);
const LOOK: Duration = Duration::from_millis(50);

/// A body as it arrived, left by the extractor of bodies for the fingerprint.
#[derive(Clone)]
pub(super) struct RawBody(pub Bytes);

/// Whether a request brings a key, so that its body will be asked for.
pub(super) fn has_key(request: &HttpRequest) -> bool {
    request.headers().contains_key(&IDEMPOTENCY_KEY) || request.headers().contains_key(&REQUEST_ID)
}

/// The key of a request, if it brings one.
#[derive(Debug)]
pub struct Idempotency {
    request: HttpRequest,
    key: Option<Sent>,
}

/// A key under one of its two names.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Sent {
    /// `Idempotency-Key`: another body under it is a mistake.
    Explicit(String),
    /// `X-Request-ID`, which proxies set and forward to several calls: another body under it is another request.
    RequestId(String),
}

/// What a write through [`Idempotency`] answers.
#[derive(Debug)]
pub enum Answer<R> {
    Fresh(R),
    /// The first one's, word for word.
    Replayed(StoredAnswer),
}

/// One look at a key, in a transaction.
enum Attempt<T> {
    Done(T),
    Stored(StoredAnswer),
    /// Another request with this key runs.
    Busy,
}

impl Idempotency {
    /// The answer that is stored under the request's key, for handlers with work to do before they write.
    pub async fn find<R>(&self, app: &App, cause: &Cause) -> Result<Option<Answer<R>>> {
        let Some(key) = self.key(app, cause) else { return Ok(None) };
        let now = cause.at;
        let found = app.db.read(move |conn| async move { store::find_answer(conn, &key, now).await }.boxed()).await?;
        Ok(found.map(Answer::Replayed))
    }

    /// Runs `run` in a transaction, once for its key; what it returns is the answer.
    pub async fn write<R, F>(&self, app: &App, cause: Cause, run: F) -> Result<Answer<R>>
    where
        R: Storable + Send + 'static,
        F: for<'c> FnOnce(&'c mut Tx, &'c Cause) -> BoxFuture<'c, Result<R>> + Clone + Send + 'static,
    {
        self.write_as(app, cause, run, R::stored).await
    }

    /// The same, where what is stored is less than what is answered.
    pub async fn write_as<T, F, S>(&self, app: &App, cause: Cause, run: F, stored: S) -> Result<Answer<T>>
    where
        T: Send + 'static,
        F: for<'c> FnOnce(&'c mut Tx, &'c Cause) -> BoxFuture<'c, Result<T>> + Clone + Send + 'static,
        S: FnOnce(&T) -> Result<StoredAnswer> + Clone + Send + 'static,
    {
        let Some(key) = self.key(app, &cause) else {
            let writing = app.db.write(move |tx| async move { run(tx, &cause).await }.boxed());
            return writing.await.map(Answer::Fresh);
        };
        let deadline = Instant::now() + WAIT;
        let work = (run, stored, cause);
        loop {
            let (key, work) = (key.clone(), work.clone());
            match app.db.write(move |tx| attempt(tx, key, work).boxed()).await? {
                Attempt::Done(done) => {
                    fail_point::reach("answer-committed").await?;
                    return Ok(Answer::Fresh(done));
                }
                Attempt::Stored(answer) => return Ok(Answer::Replayed(answer)),
                Attempt::Busy => {}
            }
            if Instant::now() >= deadline {
                let busy = Error::new(Code::RequestInProgress, "The same request is being worked on; please ask again.");
                return Err(busy.with_retry_after(Duration::from_secs(1)));
            }
            // The connection is given back meanwhile.
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Whose key, and for what: the same key of another caller, method or route is another one.
    fn key(&self, app: &App, cause: &Cause) -> Option<Key> {
        let sent = self.key.as_ref()?;
        let body = self.request.extensions().get::<RawBody>().map(|body| body.0.clone()).unwrap_or_default();
        let parts = [self.request.uri().path(), self.request.query_string()].map(str::as_bytes);
        // An HMAC, because bodies hold passwords.
        let fingerprint = app.keys.derive("idempotency", b"").authenticate(&[parts[0], parts[1], &canonical(&body)]);
        let key = match sent {
            Sent::Explicit(key) => key.clone(),
            // No key has a space in it, so the two never meet.
            Sent::RequestId(key) => format!("{key} {}", BASE64_URL_SAFE_NO_PAD.encode(fingerprint)),
        };
        let route = self.request.match_pattern().unwrap_or_default();
        Some(Key { caller: cause.actor.to_string(), method: self.request.method().to_string(), route, key, fingerprint })
    }
}

/// Deletes answers that are not given any more, at most `limit`; returns how many.
pub async fn delete_old(conn: &mut Connection, now: DateTime<Utc>, limit: i64) -> Result<usize> {
    Ok(store::delete_old(conn, now, limit).await?)
}

/// Deletes what is stored about a user.
pub async fn erase(conn: &mut Connection, user_id: Uuid) -> Result<()> {
    store::delete_of_user(conn, user_id).await?;
    Ok(())
}

async fn attempt<T, F, S>(tx: &mut Tx, key: Key, work: (F, S, Cause)) -> Result<Attempt<T>>
where
    F: for<'c> FnOnce(&'c mut Tx, &'c Cause) -> BoxFuture<'c, Result<T>> + Send,
    S: FnOnce(&T) -> Result<StoredAnswer> + Send,
    T: Send,
{
    if !store::try_lock(tx, &key).await? {
        return Ok(Attempt::Busy);
    }
    fail_point::reach("key-locked").await?;
    let (run, stored, cause) = work;
    // A statement of its own, after the lock: one together would not see what the lock waited for.
    if let Some(answer) = store::find_answer(tx, &key, cause.at).await? {
        return Ok(Attempt::Stored(answer));
    }
    fail_point::reach("key-unknown").await?;
    let done = run(tx, &cause).await?;
    fail_point::reach("effect-done").await?;
    store::upsert_answer(tx, &key, &stored(&done)?, cause.at).await?;
    fail_point::reach("answer-stored").await?;
    Ok(Attempt::Done(done))
}

/// The same JSON in the same words, whatever its white space and the order of its fields.
fn canonical(body: &[u8]) -> Vec<u8> {
    let parsed = serde_json::from_slice::<serde_json::Value>(body).and_then(|value| serde_json::to_vec(&value));
    parsed.unwrap_or_else(|_no_json| body.to_vec())
}

fn read_key(request: &HttpRequest) -> Result<Option<Sent>> {
    let text = |name| {
        let mut values = request.headers().get_all(name);
        let first = values.next()?;
        Some(if values.next().is_some() { None } else { first.to_str().ok().filter(|text| is_key(text)).map(str::to_owned) })
    };
    match (text(&IDEMPOTENCY_KEY), text(&REQUEST_ID)) {
        (Some(Some(key)), _) => Ok(Some(Sent::Explicit(key))),
        (Some(None), _) => {
            Err(Error::new(Code::MalformedRequest, "Idempotency-Key must be one value of 8 to 128 characters out of A-Z a-z 0-9 . _ ~ -"))
        }
        (None, Some(Some(key))) => Ok(Some(Sent::RequestId(key))),
        // Set by proxies, in whatever form they like.
        (None, _) => Ok(None),
    }
}

fn is_key(text: &str) -> bool {
    (8..=128).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._~-".contains(&byte))
}

impl FromRequest for Idempotency {
    type Error = Error;
    type Future = std::future::Ready<Result<Self>>;

    fn from_request(request: &HttpRequest, _payload: &mut Payload) -> Self::Future {
        std::future::ready(read_key(request).map(|key| Self { request: request.clone(), key }))
    }
}

impl<R: Responder<Body = BoxBody>> Responder for Answer<R> {
    type Body = BoxBody;

    fn respond_to(self, request: &HttpRequest) -> HttpResponse {
        match self {
            Self::Fresh(reply) => reply.respond_to(request),
            Self::Replayed(stored) => {
                let mut response = HttpResponse::build(stored.status);
                response.insert_header((header::CONTENT_TYPE, "application/json"));
                response.insert_header((REPLAYED.clone(), HeaderValue::from_static("true"))).body(stored.body)
            }
        }
    }
}

impl<R: ApiComponent> ApiComponent for Answer<R> {
    fn child_schemas() -> Vec<(String, ReferenceOr<apistos::Schema>)> {
        R::child_schemas()
    }

    fn schema() -> Option<(String, ReferenceOr<apistos::Schema>)> {
        R::schema()
    }

    fn responses(content_type: Option<String>) -> Option<Responses> {
        R::responses(content_type)
    }
}

impl<T> Answer<T> {
    /// What is fresh as something else.
    pub fn try_map<R>(self, make: impl FnOnce(T) -> Result<R>) -> Result<Answer<R>> {
        match self {
            Self::Fresh(done) => make(done).map(Answer::Fresh),
            Self::Replayed(stored) => Ok(Answer::Replayed(stored)),
        }
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    fn read(headers: &[(&'static str, &str)]) -> Result<Option<Sent>> {
        let request = headers.iter().fold(TestRequest::default(), |request, header| request.append_header(*header));
        read_key(&request.to_http_request())
    }

    #[test]
    fn an_explicit_key_must_be_one_and_a_proxys_may_be_anything() {
        let (good, long) = ("3f2c-key.1", "k".repeat(129));
        assert_eq!(read(&[("idempotency-key", good), ("x-request-id", "other-id")]).unwrap(), Some(Sent::Explicit(good.into())));
        assert_eq!(read(&[("x-request-id", good)]).unwrap(), Some(Sent::RequestId(good.into())));
        assert_eq!(read(&[]).unwrap(), None);
        for bad in ["", "7-chars", "with space", "ümläuts-", &long] {
            assert_eq!(read(&[("idempotency-key", bad)]).unwrap_err().code, Code::MalformedRequest, "{bad}");
            assert_eq!(read(&[("x-request-id", bad)]).unwrap(), None, "{bad}");
        }
        assert!(read(&[("idempotency-key", good), ("idempotency-key", good)]).is_err());
    }

    #[test]
    fn white_space_and_the_order_of_fields_are_the_same_request() {
        assert_eq!(canonical(br#"{"a":1,"b":{"d":2,"c":3}}"#), canonical(b"{ \"b\": {\"c\":3, \"d\":2}, \"a\": 1 }"));
        assert_ne!(canonical(br#"{"a":1}"#), canonical(br#"{"a":2}"#));
        assert_eq!(canonical(b"not json"), b"not json");
    }
}
