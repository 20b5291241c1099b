//! The edge: signed-in reads, logins, and reads while logins take all the hashing there is.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::json;
use user_service::config::Role;

use crate::load::{Ask, p99_at, rate};
use crate::process::Process;
use crate::support::client::TestUser;
use crate::support::{Client, PASSWORD, SECRET, Services, TestApp};
use crate::{Marks, median};

const CLIENTS: usize = 16;
const ROUNDS: usize = 5;
const LOGIN_ROUNDS: usize = 3;
const STARTS: usize = 5;
/// Production's.
const COST: &str = "11";

pub async fn run(marks: &mut Marks) {
    let owner = TestApp::start_with(Role::Api, |_| {}).await.halt().await;
    let never = "1000000000/60"; // so often that it is counted, and never met
    let changes = [
        ("LIMIT_DEFAULT_USER", never),
        ("LIMIT_LOGIN_IP", never),
        ("LIMIT_LOGIN_ACCOUNT", never),
        ("LIMIT_LOGIN_ACCOUNT_NEW", never),
        ("LIMIT_REGISTER_IP", never),
        ("BCRYPT_COST", COST),
        ("TRUSTED_PROXY_COUNT", "0"),
    ];
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        starts.push(Process::service(&owner, &changes).await.1.as_secs_f64() * 1000.0);
    }
    let start = median(starts);
    marks.note(format!("{:<44} {start:>9.0} ms   (asked: 150)", "start to ready, migrated database"), start <= 150.0);

    let (service, _) = Process::service(&owner, &changes).await;
    let client = Client::new(format!("http://127.0.0.1:{}", service.port));
    let users: Vec<TestUser> = futures_util::stream::iter(0..CLIENTS).map(|_| client.register("Ada")).buffer_unordered(2).collect().await;
    // Whose session no login of his own replaces.
    let reader = client.register("Ada").await;
    reads(marks, &owner, &service, &reader).await;
    logins(marks, &service, &users).await;
    reads_beside_logins(marks, &service, &users, &reader).await;
    let resident = service.resident_mib();
    marks.note(format!("{:<44} {resident:>9.0} MiB  (asked: 64)", "resident after all this"), resident <= 64.0);
    drop(service);
    TestApp::drop_database(&Services::from_env(), &owner.database_url).await;
}

/// Against a handler that verifies the token, and one that reads from Redis besides.
async fn reads(marks: &mut Marks, owner: &TestApp, service: &Process, user: &TestUser) {
    let key = format!("{}:bare", owner.config.redis_prefix);
    let redis_url = Services::from_env().redis_url;
    let bare = Process::bare(&[("JWT_SECRET", SECRET), ("REDIS_URL", &redis_url), ("REDIS_KEY", &key)]).await;
    let asks: Vec<(String, Ask)> = [
        (&bare, "/jwt".to_owned()),
        (&bare, "/jwt-redis".to_owned()),
        (service, "/api/v1/users/preferences/".to_owned()),
        (service, "/api/v1/users/profile/".to_owned()),
        (service, format!("/api/v1/users/{}/contact/?type=email", user.id)),
    ]
    .map(|(process, path)| (path.replace(&user.id, "{id}"), Ask::get(process.port, &path, &user.access_token)))
    .into();
    let mut rates = vec![Vec::new(); asks.len()];
    for _ in 0..ROUNDS {
        for (place, (_, ask)) in asks.iter().enumerate() {
            rates[place].push(rate(std::slice::from_ref(ask), CLIENTS, Duration::from_secs(2)).await);
        }
    }
    let bare_rates = rates[1].clone();
    for ((path, _), rates) in asks.iter().zip(rates) {
        let ratio = median(rates.iter().zip(&bare_rates).map(|(rate, bare)| rate / bare).collect());
        let figure = format!("{path:<44} {:>9.0}/s   {ratio:.2} of the bare Redis read (asked: 0.60)", median(rates));
        marks.note(figure, ratio >= 0.6);
    }
}

/// Against hashing and nothing else, on all cores.
async fn logins(marks: &mut Marks, service: &Process, users: &[TestUser]) {
    let asks: Vec<Ask> = users.iter().map(|user| login(service, user)).collect();
    let (mut rates, mut ratios) = (Vec::new(), Vec::new());
    for _ in 0..LOGIN_ROUNDS {
        let bare = tokio::task::spawn_blocking(hashes_a_second).await.unwrap();
        let rate = rate(&asks, 8, Duration::from_secs(10)).await;
        rates.push(rate);
        ratios.push(rate / bare);
    }
    let (rate, ratio) = (median(rates), median(ratios));
    let figure = format!("{:<44} {rate:>9.1}/s   {ratio:.2} of bcrypt on all cores (asked: 0.95)", "POST /auth/login/");
    marks.note(figure, ratio >= 0.95);
}

fn login(service: &Process, user: &TestUser) -> Ask {
    Ask::post(service.port, "/api/v1/auth/login/", &json!({"email": user.email, "password": PASSWORD}).to_string())
}

fn hashes_a_second() -> f64 {
    let cost = COST.parse().unwrap();
    let hash = bcrypt::hash(PASSWORD, cost).unwrap();
    let (cores, started) = (std::thread::available_parallelism().unwrap().get(), Instant::now());
    let counts: u32 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores)
            .map(|_| {
                scope.spawn(|| {
                    let mut count = 0;
                    while started.elapsed() < Duration::from_secs(10) {
                        assert!(bcrypt::verify(PASSWORD, &hash).unwrap());
                        count += 1;
                    }
                    count
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    f64::from(counts) / started.elapsed().as_secs_f64()
}

/// 2,000 reads a second, without and with logins that keep every hashing thread busy.
async fn reads_beside_logins(marks: &mut Marks, service: &Process, users: &[TestUser], reader: &TestUser) {
    const PACE: u32 = 2_000;
    let ask = Ask::get(service.port, "/api/v1/users/profile/", &reader.access_token);
    let asks: Vec<Ask> = users.iter().map(|user| login(service, user)).collect();
    let duration = Duration::from_secs(10);
    let alone = p99_at(&ask, PACE, duration).await;
    let (beside, logins) = tokio::join!(p99_at(&ask, PACE, duration), rate(&asks, CLIENTS, duration));
    let bound = (3 * alone).max(Duration::from_millis(20));
    let figure = format!(
        "{:<44} {beside:>9.1?}   beside {logins:.1} logins/s; {alone:.1?} without (asked: {bound:.1?})",
        "p99 of 2,000 profile reads a second"
    );
    marks.note(figure, beside <= bound);
}
