//! The worker alone, as a process that can be killed.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::process::{Child, Command};

use crate::support::{Client, TestApp, eventually};

pub struct Worker(Child);

impl Worker {
    /// Works on the app's database, cache and queues; `changes` come on top of its variables.
    pub fn start(app: &TestApp, changes: &[(&str, &str)]) -> Self {
        Self::start_as("worker", app, changes)
    }

    /// The same in another role.
    pub fn start_as(role: &str, app: &TestApp, changes: &[(&str, &str)]) -> Self {
        Self::start_version(env!("CARGO_BIN_EXE_user-service"), role, app, changes)
    }

    /// The same of another version.
    pub fn start_version(binary: &str, role: &str, app: &TestApp, changes: &[(&str, &str)]) -> Self {
        Self::spawn(binary, role, app, changes, log)
    }

    fn spawn(binary: &str, role: &str, app: &TestApp, changes: &[(&str, &str)], log: impl Fn() -> Stdio) -> Self {
        let mut command = Command::new(binary);
        command.env_clear().args(["--role", role]).kill_on_drop(true).stdout(log()).stderr(log()).envs(app.variables());
        command.envs([("PORT", "0"), ("BREAKER_OPEN_SECONDS", "3")]).envs(changes.iter().copied());
        Self(command.spawn().unwrap())
    }

    /// As a crash would.
    pub async fn kill(&mut self) {
        self.0.kill().await.unwrap();
    }

    /// Asks it to end.
    pub async fn terminate(&self) {
        self.signal("TERM").await;
    }

    /// Stops it where it stands.
    pub async fn pause(&self) {
        self.signal("STOP").await;
    }

    pub async fn resume(&self) {
        self.signal("CONT").await;
    }

    async fn signal(&self, name: &str) {
        let id = self.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().await.unwrap().success());
    }

    fn id(&self) -> u32 {
        self.0.id().expect("the worker has ended")
    }

    /// Resident memory.
    pub fn resident_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// How it ended.
    pub async fn ended(&mut self) -> ExitStatus {
        tokio::time::timeout(Duration::from_secs(30), self.0.wait()).await.expect("the worker did not end within 30 seconds").unwrap()
    }

    /// Asks it to end, and expects it to have done so in order.
    pub async fn stop(mut self) {
        self.terminate().await;
        assert_eq!(self.ended().await.code(), Some(0), "the worker did not drain in order");
    }
}

/// The same with a port of its own, and somebody to ask it.
pub struct Server {
    pub process: Worker,
    pub client: Client,
}

impl Server {
    pub fn start(role: &str, app: &TestApp, changes: &[(&str, &str)]) -> Self {
        Self::listen(|port| Worker::start_as(role, app, &[changes, &[("PORT", port)]].concat()))
    }

    /// With a log that has no room.
    pub fn start_without_a_log(role: &str, app: &TestApp) -> Self {
        let full = || Stdio::from(std::fs::File::options().write(true).open("/dev/full").unwrap());
        Self::listen(|port| Worker::spawn(env!("CARGO_BIN_EXE_user-service"), role, app, &[("PORT", port)], full))
    }

    fn listen(start: impl FnOnce(&str) -> Worker) -> Self {
        let port = free_port();
        Self { process: start(&port), client: Client::new(format!("http://127.0.0.1:{port}")) }
    }

    /// Zero while it does not answer.
    pub async fn readiness(&self) -> u16 {
        self.client.try_send("GET", "/health/ready", None).await.map_or(0, |answer| answer.status)
    }

    /// The same once it is ready.
    pub async fn ready(self) -> Self {
        eventually("it is ready", async || self.readiness().await == 200).await;
        self
    }
}

/// For a process that is to listen where it is known.
pub fn free_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// `TEST_LOG=1` shows what it says.
#[expect(clippy::disallowed_methods, reason = "tests are told whether to log")]
fn log() -> Stdio {
    if std::env::var_os("TEST_LOG").is_some() { Stdio::inherit() } else { Stdio::null() }
}
