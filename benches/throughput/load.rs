//! Asking again and again over connections that stay open, at so little cost that the server is what is measured.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One request, as bytes.
#[derive(Clone)]
pub struct Ask {
    pub port: u16,
    bytes: Vec<u8>,
}

impl Ask {
    pub fn get(port: u16, path: &str, token: &str) -> Self {
        let bytes = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n").into_bytes();
        Self { port, bytes }
    }

    pub fn post(port: u16, path: &str, body: &str) -> Self {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}", body.len());
        Self { port, bytes: format!("{head}\r\n\r\n{body}").into_bytes() }
    }
}

struct Connection {
    stream: TcpStream,
    ask: Ask,
    buffer: Vec<u8>,
}

impl Connection {
    async fn open(ask: &Ask) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", ask.port)).await.unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, ask: ask.clone(), buffer: Vec::with_capacity(8192) }
    }

    /// Asks, and reads the answer to its end; it must be a 200.
    async fn ask(&mut self) {
        self.stream.write_all(&self.ask.bytes).await.unwrap();
        self.buffer.clear();
        loop {
            assert_ne!(self.stream.read_buf(&mut self.buffer).await.unwrap(), 0, "the server hung up");
            let mut headers = [httparse::EMPTY_HEADER; 32];
            let mut response = httparse::Response::new(&mut headers);
            let httparse::Status::Complete(head) = response.parse(&self.buffer).unwrap() else { continue };
            assert_eq!(response.code, Some(200), "{}", String::from_utf8_lossy(&self.buffer));
            let length = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case("content-length")).unwrap();
            let length: usize = std::str::from_utf8(length.value).unwrap().parse().unwrap();
            if self.buffer.len() >= head + length {
                return;
            }
        }
    }
}

/// Requests a second of so many clients, each asking as soon as it was answered.
pub async fn rate(asks: &[Ask], clients: usize, duration: Duration) -> f64 {
    let mut connections = join_all((0..clients).map(|n| Connection::open(&asks[n % asks.len()]))).await;
    let started = Instant::now();
    let counts = connections.iter_mut().map(|connection| async {
        let mut count = 0;
        while started.elapsed() < duration {
            connection.ask().await;
            count += 1;
        }
        count
    });
    let count: u32 = join_all(counts).await.into_iter().sum();
    f64::from(count) / started.elapsed().as_secs_f64()
}

/// The 99th percentile of the time to an answer at a fixed pace, counted from when each request was due: a server that falls
/// behind is not asked less (coordinated omission).
pub async fn p99_at(ask: &Ask, requests_a_second: u32, duration: Duration) -> Duration {
    const CLIENTS: u32 = 32;
    let connections = join_all((0..CLIENTS).map(|_| Connection::open(ask))).await;
    let (started, period) = (tokio::time::Instant::now(), Duration::from_secs(1) * CLIENTS / requests_a_second);
    let asking = connections.into_iter().zip(0..).map(|(mut connection, n)| async move {
        let mut due = tokio::time::interval_at(started + period * n / CLIENTS, period);
        due.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Burst);
        let mut times = Vec::new();
        while started.elapsed() < duration {
            let due = due.tick().await;
            connection.ask().await;
            times.push(due.elapsed());
        }
        times
    });
    let mut times: Vec<Duration> = join_all(asking).await.into_iter().flatten().collect();
    times.sort();
    times[times.len() * 99 / 100]
}
