//! What a page's form sends.

use std::future::Future;
use std::pin::Pin;

use actix_web::http::header;
use actix_web::{FromRequest, HttpRequest, dev::Payload};
use serde::de::DeserializeOwned;

use super::error::malformed;
use super::extract::receive;
use crate::error::{Code, Error, Result};

/// An `application/x-www-form-urlencoded` body.
#[derive(Debug)]
pub struct Form<T>(pub T);

impl<T: DeserializeOwned + 'static> FromRequest for Form<T> {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let content_type = request.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let is_form = content_type.split(';').next().is_some_and(|essence| essence.trim() == "application/x-www-form-urlencoded");
        let payload = payload.take();
        Box::pin(async move {
            if !is_form {
                return Err(Error::new(Code::UnsupportedMediaType, "Send the form as a browser does."));
            }
            let bytes = receive(payload).await?;
            let text = std::str::from_utf8(&bytes).map_err(|error| malformed("The form is not UTF-8.").with_source(error))?;
            if text.contains("%00") || text.contains('\0') {
                return Err(malformed("The form contains a NUL character."));
            }
            // The form's syntax is that of a query string.
            let parsed = actix_web::web::Query::<T>::from_query(text);
            parsed.map(|form| Self(form.into_inner())).map_err(|error| malformed("The form lacks a field.").with_source(error))
        })
    }
}
