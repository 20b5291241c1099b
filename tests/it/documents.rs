use serde_json::Value;

use crate::support::TestApp;

/// What the running service serves is what is committed, so that a change of the interface is seen in review.
#[tokio::test(flavor = "multi_thread")]
async fn the_served_document_is_the_committed_one() {
    let app = TestApp::api().await;
    let served = app.client.get("/openapi.json").await;
    assert_eq!(served.status, 200);
    insta::assert_json_snapshot!(served.json(), { ".info.version" => "[version]" });
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_is_complete() {
    let app = TestApp::api().await;
    let document = app.client.get("/openapi.json").await.json();
    let mut ids = std::collections::HashSet::new();
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap().iter().filter(|(name, _)| *name != "parameters") {
            let at = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap_or_else(|| panic!("{at} has no id")).to_owned()), "{at}: id twice");
            assert!(operation["summary"].is_string() && operation["tags"][0].is_string(), "{at}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.keys().any(|status| status.starts_with('2')), "{at}");
            for (status, response) in responses {
                assert_ne!(response["description"], Value::from(""), "{at} {status}");
                let schema = response["content"]["application/json"]["schema"]["$ref"]
                    .as_str()
                    .unwrap_or_else(|| panic!("{at} {status} has no schema"));
                assert!(
                    !document.pointer(schema.trim_start_matches('#')).unwrap_or(&Value::Null).is_null(),
                    "{at} {status}: {schema} dangles"
                );
            }
            if !path.ends_with("health") {
                assert!(responses.contains_key("503"), "{at}");
            }
            let open = ["/health", "/login", "/refresh", "/password-reset", "/confirm", "/verify-email", "/resend"];
            let open = open.iter().any(|end| path.ends_with(end)) || (path.ends_with("/users") && method == "post");
            assert_eq!(operation["security"].is_array(), !open, "{at}: security");
        }
    }
    assert!(ids.len() >= 13, "{ids:?}");
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_error_code_can_be_linked_to() {
    let app = TestApp::api().await;
    let page = app.client.get("/docs/errors").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    for code in user_service::error::Code::ALL {
        assert!(page.text.contains(&format!("id=\"{}\"", code.as_str())), "{} is missing", code.as_str());
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pages_take_nothing_from_elsewhere() {
    let app = TestApp::api().await;
    for (page, assets) in [
        ("/swagger/", ["/swagger/swagger-ui-bundle.js", "/swagger/swagger-ui.css", "/swagger/start.js"].as_slice()),
        ("/redoc/", &["/redoc/redoc.standalone.js", "/redoc/start.js"]),
    ] {
        let html = app.client.get(page).await;
        assert_eq!(html.status, 200);
        assert!(!html.text.contains("http:") && !html.text.contains("https:"), "{page} names another host");
        assert!(html.header("content-security-policy").unwrap().contains("script-src 'self';"));
        for asset in assets {
            assert!(html.text.contains(asset), "{page} does not use {asset}");
            let answer = app.client.get(asset).await;
            assert_eq!((answer.status, answer.header("x-content-type-options")), (200, Some("nosniff")), "{asset}");
        }
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn docs_can_be_switched_off() {
    let app = TestApp::start_with(user_service::config::Role::Api, |config| config.http.docs = false).await;
    for path in ["/openapi.json", "/swagger", "/redoc"] {
        assert_eq!(app.client.get(path).await.status, 404, "{path}");
    }
    app.stop().await.unwrap();
}
