//! The fault laboratory: the service while what it depends on fails, with books that must add up afterwards.
//!
//! `make chaos-short`, `make chaos`: what kills services has a set of them to itself (`alone::`); what kills only our own
//! process or puts a network of ours in between shares another (`beside::`). `make upgrade` runs the rest.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the figures are worth seeing")]
#![expect(clippy::large_futures, reason = "a test is awaited once")]
#![expect(clippy::disallowed_methods, reason = "a laboratory starts what it needs")]

mod alone {
    mod kills;
    mod outages;
    mod writes;
}
mod beside {
    mod backlog;
    mod cache_refuses;
    mod crash_points;
    mod deaf;
    mod degradation;
    mod flaws;
    mod hang_ups;
    mod keys;
    mod mails;
    mod network;
    mod opt_outs;
    mod poison;
    mod redrive;
    mod rights;
    mod rolling;
    mod silence;
    mod standstill;
    mod surroundings;
}
mod checker;
mod ledger;
mod proxy;
#[path = "../it/support/mod.rs"]
#[expect(dead_code, reason = "shared with tests/it, which uses more of it")]
mod support;
mod upgrade;
mod worker;

use std::process::Stdio;

use support::{Services, TestApp};
use tokio::process::Command;
use user_service::config::Role;

/// Kills or starts one service of this set.
async fn services(arguments: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
    let done = Command::new(script).args(arguments).stdout(Stdio::null()).stderr(Stdio::inherit()).status().await.unwrap();
    assert!(done.success(), "scripts/services {arguments:?}");
}

/// Refuses to run against the set that developers use.
fn only_on_a_set_of_its_own() {
    let set = std::env::var("SERVICES_SET").unwrap_or_default();
    assert!(set.starts_with("chaos"), "these tests kill services: run `make chaos-short`");
}

/// `short` in the form that CI runs, `long` in the other: `make chaos`.
fn by_form<T>(short: T, long: T) -> T {
    if std::env::var("CHAOS").as_deref() == Ok("long") { long } else { short }
}

/// The API alone, whose queues are to be served by a worker that is a process of its own.
async fn api_with_queues() -> TestApp {
    only_on_a_set_of_its_own();
    let url = Services::from_env().rabbitmq_url;
    TestApp::start_with(Role::Api, |config| config.broker.url = Some(url.into())).await
}
