//! The service and its bare counterpart as processes, as they run in production.

use std::process::Stdio;
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::TestApp;

/// Killed when it is dropped.
pub struct Process {
    child: Child,
    pub port: u16,
}

impl Process {
    /// The API on an app's database, logging into a file as into a container's log; and how long it took until it was ready.
    pub async fn service(app: &TestApp, changes: &[(&str, &str)]) -> (Self, Duration) {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let log = std::fs::File::create(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("bench.log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_user-service"));
        command.env_clear().args(["--role", "api"]).kill_on_drop(true).stdout(Stdio::null()).stderr(log);
        command.envs(app.variables()).envs(changes.iter().copied()).env("PORT", port.to_string());
        let (client, url) = (reqwest::Client::new(), format!("http://127.0.0.1:{port}/health/ready"));
        let started = Instant::now();
        let child = command.spawn().unwrap();
        while !client.get(&url).send().await.is_ok_and(|answer| answer.status().is_success()) {
            assert!(started.elapsed() < Duration::from_secs(30), "the service is not ready after 30 seconds");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        (Self { child, port }, started.elapsed())
    }

    /// See [`crate::bare`].
    pub async fn bare(variables: &[(&str, &str)]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg("bare").env_clear().envs(variables.iter().copied()).kill_on_drop(true).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        let port = said.next_line().await.unwrap().expect("the bare server ended").parse().unwrap();
        Self { child, port }
    }

    /// Resident memory, now.
    pub fn resident_mib(&self) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id().unwrap())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<f64>().unwrap() / 1024.0
    }
}
