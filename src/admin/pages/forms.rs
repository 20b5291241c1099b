//! Forms that only our own pages can have sent.

use std::future::Future;
use std::pin::Pin;

use actix_web::dev::Payload;
use actix_web::web::Data;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::Fault;
use super::guard::Visit;
use crate::app::App;
use crate::error::{Code, Error, Result};
use crate::http::form::Form;

/// A form whose token belongs to the cookie that came with it.
#[derive(Debug)]
pub struct OwnForm<T>(pub T);

#[derive(Deserialize)]
struct WithToken<T> {
    #[serde(default)]
    csrf: String,
    #[serde(flatten)]
    rest: T,
}

/// A form that holds nothing but its token.
#[derive(Debug, Deserialize)]
pub struct Empty {}

/// Why something is done, where that must be said.
#[derive(Debug, Deserialize)]
pub struct Reason {
    #[serde(default)]
    pub reason: String,
}

impl Reason {
    /// For the audit log: something, and not a novel.
    pub fn checked(&self, is_needed: bool) -> Result<String> {
        let reason = self.reason.trim().to_owned();
        let length = reason.chars().count();
        if is_needed && length < 3 {
            return Err(Error::field("reason", "must say why, in 3 characters or more"));
        }
        if length > 500 || reason.chars().any(char::is_control) {
            return Err(Error::field("reason", "must be one line of at most 500 characters"));
        }
        Ok(reason)
    }
}

impl<T: DeserializeOwned + 'static> FromRequest for OwnForm<T> {
    type Error = Fault;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Fault>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let visit = request.extensions().get::<Visit>().cloned().unwrap_or_default();
        let app = request.app_data::<Data<App>>().cloned();
        let form = Form::<WithToken<T>>::from_request(request, payload);
        Box::pin(async move {
            let Form(form) = form.await?;
            let is_own = app.zip(visit.token).is_some_and(|(app, token)| token.fits_csrf(&app.keys, &form.csrf));
            if is_own {
                return Ok(Self(form.rest));
            }
            Err(Fault(Error::new(
                Code::Forbidden,
                "This form is not of this session. Go back, load the page again, and send it once more.",
            )))
        })
    }
}
