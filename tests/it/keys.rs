use std::path::{Path, PathBuf};
use std::process::Stdio;

use base64::Engine as _;
use serde_json::json;
use tokio::io::AsyncWriteExt as _;
use tokio::process::Command;
use user_service::config::{Config, Role};

use crate::support::{PASSWORD, Services, TestApp};

fn with_key_file(file: PathBuf) -> impl FnOnce(&mut Config) {
    move |config| {
        config.identity.app_secret = Some("pD1sF4hJ6gC0ekZ9vQm3xT7wB2nR5yL8".into());
        config.identity.jwt_private_key_file = Some(file);
    }
}

async fn keys(arguments: &[&str], file: &Path) {
    let run = Command::new(env!("CARGO_BIN_EXE_user-service")).env_clear().args(arguments).arg(file).output().await.unwrap();
    assert!(run.status.success(), "{run:?}");
    let shown = String::from_utf8(run.stdout).unwrap();
    assert!(!shown.contains("PRIVATE KEY"), "{shown}");
}

/// What a gateway in a process of its own makes of tokens, by the published keys only.
async fn ask_gateway(base: &str, tokens: &[&str]) -> Vec<String> {
    let gateway = std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/gateway");
    let mut gateway = Command::new(gateway);
    gateway.arg(base).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut process = gateway.spawn().expect("examples/gateway is not built: run the tests by `make test` or `cargo test`");
    process.stdin.take().unwrap().write_all(tokens.join("\n").as_bytes()).await.unwrap();
    let output = process.wait_with_output().await.unwrap();
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_verifies_offline_and_a_rotation_loses_no_session() {
    for algorithm in ["es256", "eddsa"] {
        let folder = std::env::temp_dir().join(format!("user-service-keys-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let file = folder.join("jwt.pem");
        keys(&["keys", "generate", "--algorithm", algorithm], &file).await;
        let app = TestApp::start_with(Role::Api, with_key_file(file.clone())).await;
        let user = app.client.register("Ada").await;
        let (old, mine) = (user.access_token.as_str(), format!("user {}", user.id));
        let shared_secret = TestApp::api().await;
        let foreign = shared_secret.client.register("Eve").await.access_token;
        let (head, signature) = old.rsplit_once('.').unwrap();
        let claims = head.split_once('.').unwrap().1;
        let none = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"JWT"}"#);
        let tampered = format!("{head}.{}", signature.chars().rev().collect::<String>());
        let forged = format!("{none}.{claims}.");
        let verdicts = ask_gateway(&app.client.base, &[old, &foreign, &tampered, &forged]).await;
        assert_eq!((verdicts[0].as_str(), verdicts[1].as_str()), ("2 keys", mine.as_str()), "{verdicts:#?}");
        assert!(verdicts.len() == 5 && verdicts[2..].iter().all(|verdict| verdict.starts_with("refused")), "{verdicts:#?}");
        for refused in [&foreign, &tampered, &forged] {
            assert_eq!(app.client.bearer(refused).get("/api/v1/auth/validate").await.status, 401);
        }

        keys(&["keys", "rotate"], &file).await;
        let stopped = app.halt().await;
        let app = TestApp::start_on(Services::from_env(), stopped.database_url.clone(), Role::Api, with_key_file(file.clone())).await;
        assert_eq!(app.client.bearer(old).get("/api/v1/auth/validate").await.status, 200, "a rotation ended a session");
        let login = app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.data();
        let verdicts = ask_gateway(&app.client.base, &[old, login["access_token"].as_str().unwrap()]).await;
        assert_eq!(verdicts, ["3 keys", &mine, &mine]);
        shared_secret.stop().await.unwrap();
        app.stop().await.unwrap();
        std::fs::remove_dir_all(folder).unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_shared_secret_is_not_published() {
    let app = TestApp::api().await;
    let answer = app.client.get("/.well-known/jwks.json").await;
    assert_eq!((answer.status, answer.json()), (200, json!({"keys": []})));
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_app_secret_logs_nobody_out_while_the_old_one_is_named() {
    let app = TestApp::api().await;
    let user = app.client.register("Ada").await;
    let login = app.client.post("/api/v1/auth/login", json!({"email": user.email, "password": PASSWORD})).await.data();
    let stopped = app.halt().await;
    let database = stopped.database_url.clone();
    let rotated = |previous: bool| {
        move |config: &mut Config| {
            config.identity.app_secret = Some("pD1sF4hJ6gC0ekZ9vQm3xT7wB2nR5yL8".into());
            config.identity.app_secret_previous = config.identity.jwt_secret.clone().filter(|_| previous);
        }
    };
    let app = TestApp::start_on(Services::from_env(), database.clone(), Role::Api, rotated(true)).await;
    let refreshed = app.client.post("/api/v1/auth/refresh", json!({"refresh_token": login["refresh_token"]})).await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text);
    app.halt().await;
    let app = TestApp::start_on(Services::from_env(), database, Role::Api, rotated(false)).await;
    let next = refreshed.data()["refresh_token"].clone();
    assert_eq!(
        app.client.post("/api/v1/auth/refresh", json!({"refresh_token": login["refresh_token"]})).await.refusal().1,
        "invalid_refresh_token"
    );
    assert_eq!(app.client.post("/api/v1/auth/refresh", json!({"refresh_token": next})).await.status, 200);
    app.stop().await.unwrap();
}
