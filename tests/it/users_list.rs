use std::collections::HashSet;

use serde_json::Value;

use crate::support::{Client, FULL_SERVICE_KEY, SERVICE_KEY, TestApp, users};

async fn list(client: &Client, query: &str) -> (Vec<Value>, Value) {
    let answer = client.get(&format!("/api/v1/users/?{query}")).await;
    assert_eq!(answer.status, 200, "{query}: {}", answer.text);
    let body = answer.json();
    (body["data"].as_array().unwrap().clone(), body["meta"].clone())
}

fn names(users: &[Value]) -> Vec<&str> {
    users.iter().map(|user| user["email"].as_str().unwrap().split('@').next().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn services_page_filter_sort_and_search_users() {
    let app = TestApp::api().await;
    app.sql(&users(250)).await;
    let client = app.client.with("x-internal-api-key", FULL_SERVICE_KEY);
    let (first, meta) = list(&client, "").await;
    assert_eq!((first.len(), names(&first)[0]), (20, "user250"), "the newest first");
    assert_eq!(
        (meta["total"].as_u64(), meta["total_pages"].as_u64(), meta["total_is_estimate"].as_bool()),
        (Some(250), Some(13), Some(false))
    );
    assert_eq!((meta["has_next"].as_bool(), meta["has_previous"].as_bool()), (Some(true), Some(false)));
    assert!(first[0]["is_active"].is_boolean());
    let (last, meta) = list(&client, "page=13&limit=20").await;
    assert_eq!((last.len(), meta["has_next"].as_bool(), meta["has_previous"].as_bool()), (10, Some(false), Some(true)));
    assert_eq!(list(&client, "is_active=false&limit=100").await.1["total"], 25);
    assert_eq!(list(&client, "email_verified=true&is_active=true").await.1["total"], 50);
    assert_eq!(names(&list(&client, "ordering=email&limit=2").await.0), ["user100", "user101"]);
    for (search, total) in
        [("user24", 11), ("NAME25%20sur", 1), ("surname77", 1), ("surname7", 11), ("%25", 0), ("_ser1", 0), ("user1%5C", 0)]
    {
        assert_eq!(list(&client, &format!("search={search}")).await.1["total"], total, "{search}");
    }
    // By cursor, everybody comes once, whatever the order.
    for ordering in ["created_at", "-created_at", "email", "-email", "name", "-name"] {
        let (mut seen, mut cursor, mut pages) = (HashSet::new(), String::new(), 0);
        loop {
            let (users, meta) = list(&client, &format!("ordering={ordering}&limit=60{cursor}")).await;
            pages += 1;
            seen.extend(users.iter().map(|user| user["id"].to_string()));
            let Some(next) = meta["next_cursor"].as_str() else { break };
            cursor = format!("&cursor={next}");
        }
        assert_eq!((seen.len(), pages), (250, 5), "{ordering}");
    }
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_search_that_most_users_fit_filters_and_sorts_them_all() {
    let app = TestApp::api().await;
    app.sql(&users(30_000)).await;
    let client = app.client.with("x-internal-api-key", FULL_SERVICE_KEY);
    let (newest, meta) = list(&client, "search=user&ordering=-created_at").await;
    assert_eq!((names(&newest)[0], meta["has_next"].as_bool(), meta["total_is_estimate"].as_bool()), ("user30000", Some(true), Some(true)));
    assert!((25_000..35_000).contains(&meta["total"].as_u64().unwrap()), "{meta}");
    // The last of them, by page and by cursor.
    let (found, _) = list(&client, "search=user&is_active=false&email_verified=true&limit=100").await;
    assert_eq!((found.len(), names(&found)[0]), (100, "user30000"));
    let (mut seen, mut cursor) = (HashSet::new(), String::new());
    loop {
        let (users, meta) = list(&client, &format!("search=user&is_active=false&limit=100{cursor}")).await;
        seen.extend(users.iter().map(|user| user["id"].to_string()));
        let Some(next) = meta["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert_eq!(seen.len(), 3_000);
    // What fewer fit is counted.
    let (found, meta) = list(&client, "search=user2&is_active=false&ordering=email").await;
    assert_eq!((names(&found)[0], meta["total"].as_u64(), meta["total_is_estimate"].as_bool()), ("user20000", Some(1_111), Some(false)));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_listed_is_named() {
    let app = TestApp::api().await;
    app.sql(&users(3)).await;
    let client = app.client.with("x-internal-api-key", FULL_SERVICE_KEY);
    let cursor = list(&client, "limit=1").await.1["next_cursor"].as_str().unwrap().to_owned();
    let long = "x".repeat(255);
    for (query, field) in [
        ("page=0".to_owned(), "page"),
        ("page=1000000000".to_owned(), "page"),
        ("page=18446744073709551615&limit=100".to_owned(), "page"),
        ("limit=0".to_owned(), "limit"),
        ("limit=101".to_owned(), "limit"),
        ("ordering=;drop".to_owned(), "ordering"),
        (format!("search={long}"), "search"),
        ("cursor=forged".to_owned(), "cursor"),
        (format!("cursor={cursor}&ordering=name"), "cursor"),
        (format!("cursor={cursor}&page=2"), "cursor"),
    ] {
        let answer = client.get(&format!("/api/v1/users/?{query}")).await;
        assert_eq!(answer.refusal().0, 400, "{query}");
        assert!(answer.json()["errors"][field].is_array(), "{query}: {}", answer.text);
    }
    for query in ["page=-1", "is_active=maybe", "surprise=1", "limit=1&limit=2"] {
        assert_eq!(client.get(&format!("/api/v1/users/?{query}")).await.refusal().0, 400, "{query}");
    }
    let user = app.client.register("Ada").await;
    assert_eq!(app.client.get("/api/v1/users/").await.refusal().0, 401);
    for client in [app.client.as_user(&user), app.client.with("x-internal-api-key", SERVICE_KEY)] {
        assert_eq!(client.get("/api/v1/users/").await.refusal().0, 403);
    }
    app.stop().await.unwrap();
}
