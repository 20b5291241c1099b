//! Rolling restarts: two processes behind a balancer that believes readiness, one after the other told to end.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::checker::check;
use crate::ledger::{Cast, Kind, Ledger, Producer, observe};
use crate::support::eventually;
use crate::worker::{Worker, free_port};
use crate::{api_with_queues, by_form};

/// What the service promises for its end.
const END: Duration = Duration::from_secs(30);

/// How often a balancer looks who is ready.
const PROBE: Duration = Duration::from_millis(50);

/// One process, and whether the balancer sends it requests.
struct Backend {
    base: String,
    port: String,
    in_rotation: AtomicBool,
}

impl Backend {
    fn new() -> Self {
        let port = free_port();
        Self { base: format!("http://127.0.0.1:{port}"), port, in_rotation: AtomicBool::new(false) }
    }

    async fn is_ready(&self, client: &reqwest::Client) -> bool {
        client.get(format!("{}/health/ready", self.base)).send().await.is_ok_and(|answer| answer.status() == 200)
    }
}

/// Sends requests to whoever is ready.
struct Balancer {
    client: reqwest::Client,
    backends: [Backend; 2],
    answered: AtomicU64,
    done: AtomicBool,
}

impl Balancer {
    fn is_done(&self) -> bool {
        self.done.load(Ordering::Relaxed)
    }

    async fn watch(&self) {
        while !self.is_done() {
            for backend in &self.backends {
                backend.in_rotation.store(backend.is_ready(&self.client).await, Ordering::Relaxed);
            }
            tokio::time::sleep(PROBE).await;
        }
    }

    /// Asks at a steady pace; an accepted request must be answered, and well.
    async fn ask(&self, token: &str) {
        let mut pace = tokio::time::interval(Duration::from_millis(16));
        for turn in 0.. {
            if self.is_done() {
                return;
            }
            pace.tick().await;
            let mut candidates = (0..2).map(|step| &self.backends[(turn + step) % 2]);
            let Some(backend) = candidates.find(|backend| backend.in_rotation.load(Ordering::Relaxed)) else { continue };
            match self.client.get(format!("{}/api/v1/users/profile/", backend.base)).bearer_auth(token).send().await {
                Ok(answer) => {
                    let status = answer.status();
                    let body: Value = answer.json().await.expect("an answer was cut");
                    assert_eq!(status, 200, "{body}");
                    self.answered.fetch_add(1, Ordering::Relaxed);
                }
                // It was never accepted: the next turn asks the other one.
                Err(error) if error.is_connect() => {}
                Err(error) => panic!("an accepted request was broken: {error:?}"),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rolling_restarts_lose_no_message_and_break_no_accepted_request() {
    let restarts = by_form(6, 50);
    let app = api_with_queues().await;
    let cast = Cast::register(&app).await;
    let mut ledger = Ledger::named("rolling");
    let client = reqwest::Client::builder().pool_max_idle_per_host(0).timeout(Duration::from_secs(10)).build().unwrap();
    let balancer =
        Balancer { client, backends: [Backend::new(), Backend::new()], answered: AtomicU64::new(0), done: AtomicBool::new(false) };
    let (backends, client) = (&balancer.backends, &balancer.client);
    let start = |backend: &Backend| Worker::start_as("both", &app, &[("PORT", &backend.port), ("SHUTDOWN_DELAY_SECONDS", "1")]);
    let mut processes = backends.each_ref().map(start);
    for backend in backends {
        eventually("it is ready", async || backend.is_ready(client).await).await;
    }

    let producing = async {
        let mut producer = Producer::new(app.config.broker.clone());
        let mut pace = tokio::time::interval(Duration::from_millis(by_form(10, 3)));
        for number in 0.. {
            if balancer.is_done() {
                return;
            }
            pace.tick().await;
            producer.publish(&mut ledger, &cast, &format!("m-{number}"), Kind::nth(number)).await;
        }
    };
    let restarting = async {
        let mut longest = Duration::ZERO;
        for restart in 0..restarts {
            let (backend, process) = (&backends[restart % 2], &mut processes[restart % 2]);
            let asked = Instant::now();
            process.terminate().await;
            assert_eq!(process.ended().await.code(), Some(0), "it did not end in order");
            longest = asked.elapsed().max(longest);
            *process = start(backend);
            eventually("it is ready again", async || backend.is_ready(client).await).await;
            // The balancer sees it, too.
            eventually("it is in rotation", async || backend.in_rotation.load(Ordering::Relaxed)).await;
        }
        balancer.done.store(true, Ordering::Relaxed);
        longest
    };
    let requests = futures_util::future::join_all((0..by_form(4, 8)).map(|_| balancer.ask(&cast.ada.access_token)));
    let (longest, (), (), _) = tokio::join!(restarting, balancer.watch(), producing, requests);
    assert!(longest <= END, "one took {longest:?} to end");
    observe(&app, &mut ledger, Duration::from_secs(30)).await;
    println!(
        "rolling: {restarts} restarts, the longest end {longest:.1?}, {} requests answered, none broken",
        balancer.answered.load(Ordering::Relaxed)
    );
    check(&ledger, &cast, 0).assert_clean("rolling restarts", 0);
    for process in processes {
        process.stop().await;
    }
    app.stop().await.unwrap();
}
