//! What the edge is measured against, as a process of its own: handlers that do the least that a signed-in read must do.

use actix_web::{App, HttpRequest, HttpResponse, HttpServer, web};
use deadpool_redis::redis;
use deadpool_redis::redis::aio::MultiplexedConnection;
use jsonwebtoken::{DecodingKey, Validation};
use serde::Deserialize;

#[derive(Deserialize)]
struct Claims {
    sub: String,
}

/// About as long as the service's own.
const CARD_BYTES: usize = 300;

/// The Redis key that is read.
struct Card(String);

/// Serves until it is killed; says its port on standard output. `JWT_SECRET`, `REDIS_URL` and `REDIS_KEY` tell what to read.
pub fn serve() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    actix_rt::System::with_tokio_rt(runtime).block_on(async {
        let client = redis::Client::open(variable("REDIS_URL")).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let card = web::Data::new(Card(variable("REDIS_KEY")));
        let value = serde_json::json!({"card": "x".repeat(CARD_BYTES)}).to_string();
        redis::cmd("SET").arg(&card.0).arg(value).arg("EX").arg(600).exec_async(&mut connection).await.unwrap();
        let connection = web::Data::new(connection);
        let key = web::Data::new(DecodingKey::from_secret(variable("JWT_SECRET").as_bytes()));
        let server = HttpServer::new(move || {
            let app = App::new().app_data(connection.clone()).app_data(key.clone()).app_data(card.clone());
            app.route("/jwt", web::get().to(verified)).route("/jwt-redis", web::get().to(read))
        });
        let server = server.disable_signals().bind("127.0.0.1:0").unwrap();
        println!("{}", server.addrs()[0].port());
        server.run().await.unwrap();
    });
}

async fn verified(request: HttpRequest, key: web::Data<DecodingKey>) -> HttpResponse {
    HttpResponse::Ok().json(subject(&request, &key))
}

async fn read(
    request: HttpRequest,
    key: web::Data<DecodingKey>,
    card: web::Data<Card>,
    redis: web::Data<MultiplexedConnection>,
) -> HttpResponse {
    let _subject = subject(&request, &key);
    let mut connection = redis.get_ref().clone();
    let card: String = redis::cmd("GET").arg(&card.0).query_async(&mut connection).await.unwrap();
    HttpResponse::Ok().content_type("application/json").body(card)
}

fn subject(request: &HttpRequest, key: &DecodingKey) -> String {
    let token = request.headers().get("authorization").unwrap().to_str().unwrap().strip_prefix("Bearer ").unwrap();
    jsonwebtoken::decode::<Claims>(token, key, &Validation::default()).unwrap().claims.sub
}

#[expect(clippy::disallowed_methods, reason = "this process is told what to read")]
fn variable(name: &str) -> String {
    std::env::var(name).unwrap()
}
