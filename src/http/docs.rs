//! The document's frame and the pages that show it; their assets are in the binary.

use actix_web::http::{StatusCode, header};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpResponse, Responder};
use apistos::info::Info;
use apistos::spec::Spec;
use apistos::tag::Tag;
use askama::Template;

use super::page;
use crate::error::Code;

/// Where the document is served.
pub const OPENAPI_PATH: &str = "/openapi.json";

/// Swagger UI and ReDoc set styles by script; everything else comes from here, and nothing inline runs.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; \
     worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Title, version, tags and the table of error codes.
pub fn spec() -> Spec {
    let codes: Vec<_> = Code::ALL.iter().map(|code| format!("| `{}` | {} |", code.as_str(), code.meaning())).collect();
    let description = format!(
        "The source of truth for people in a distributed notification system.\n\nEvery path is served with and without its trailing slash. \
         Every answer carries `X-Correlation-ID`.\n\n| error | meaning |\n|---|---|\n{}",
        codes.join("\n")
    );
    let tag = |name: &str, description: &str| Tag { name: name.into(), description: Some(description.into()), ..Tag::default() };
    Spec {
        info: Info {
            title: "user-service".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            description: Some(description),
            ..Info::default()
        },
        tags: vec![
            tag("users", "Accounts and profiles"),
            tag("sessions", "Sign in"),
            tag("preferences", "Which channels a user wants to hear on"),
            tag("directory", "What sibling services ask"),
            tag("health", "Is it well?"),
        ],
        ..Spec::default()
    }
}

/// The pages' routes.
pub fn configure(config: &mut ServiceConfig) {
    for (path, content_type, encoding, body) in ASSETS {
        config.service(web::resource(path).route(web::get().to(move || asset(content_type, encoding, body))));
    }
    config.service(web::resource("/docs/errors").route(web::get().to(errors)));
}

/// The table of codes, to link to.
#[derive(Template)]
#[template(path = "http/page_errors.html")]
struct Errors {
    app_name: &'static str,
    codes: &'static [Code],
}

async fn errors() -> HttpResponse {
    page::show(StatusCode::OK, &Errors { app_name: "user-service", codes: Code::ALL })
}

type Asset = (&'static str, &'static str, &'static str, &'static [u8]);

// Without trailing slashes: the router sees no path with one.
const ASSETS: [Asset; 7] = [
    ("/swagger", "text/html; charset=utf-8", "identity", include_bytes!("assets/swagger.html")),
    ("/swagger/start.js", "text/javascript", "identity", include_bytes!("assets/swagger-start.js")),
    ("/swagger/swagger-ui-bundle.js", "text/javascript", "gzip", include_bytes!("assets/swagger-ui-bundle.js.gz")),
    ("/swagger/swagger-ui.css", "text/css", "gzip", include_bytes!("assets/swagger-ui.css.gz")),
    ("/redoc", "text/html; charset=utf-8", "identity", include_bytes!("assets/redoc.html")),
    ("/redoc/start.js", "text/javascript", "identity", include_bytes!("assets/redoc-start.js")),
    ("/redoc/redoc.standalone.js", "text/javascript", "gzip", include_bytes!("assets/redoc.standalone.js.gz")),
];

async fn asset(content_type: &'static str, encoding: &'static str, body: &'static [u8]) -> impl Responder {
    let mut response = HttpResponse::Ok();
    response
        .content_type(content_type)
        .insert_header((header::CACHE_CONTROL, "max-age=3600"))
        .insert_header((header::CONTENT_SECURITY_POLICY, PAGE_POLICY));
    if encoding != "identity" {
        response.insert_header((header::CONTENT_ENCODING, encoding));
    }
    response.body(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_written_table_of_codes_is_the_one_in_use() {
        let rows = |code: &Code| format!("| `{}` | {} | {} |\n", code.as_str(), code.status().as_u16(), code.meaning());
        let expected: String = Code::ALL.iter().map(rows).collect();
        let written = include_str!("../../docs/errors.md");
        assert!(written.contains(&expected), "docs/errors.md must have:\n{expected}");
    }
}
