//! Requests as no client library sends them, byte by byte.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::TestApp;

/// What comes back before the server closes, and whether it did: falling silent for as long as a request may take to arrive is
/// the other end.
async fn ask(address: &str, bytes: &[u8]) -> (String, bool) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may answer and close before it has read all.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(7), stream.read_to_end(&mut answer)).await;
    (String::from_utf8_lossy(&answer).into_owned(), ended.is_ok())
}

fn statuses(answers: &str) -> Vec<u16> {
    answers.split("HTTP/1.1 ").skip(1).map(|answer| answer[..3].parse().unwrap()).collect()
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";
const VALIDATE: &str = "/api/v1/auth/validate";

/// What, the request, and what it may be answered; 0 is a closed connection without an answer.
fn corpus() -> Vec<(&'static str, Vec<u8>, &'static [u16])> {
    // Kept open, so that what is hidden in a body would be answered.
    let post = |headers: &str, body: &str| {
        let headers = format!("POST /api/v1/auth/login HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\n{headers}");
        format!("{headers}\r\n{body}").into_bytes()
    };
    let get = |headers: &str| format!("GET {VALIDATE} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n{headers}\r\n").into_bytes();
    let chunked = |chunks: &str| post("Transfer-Encoding: chunked\r\n", chunks);
    let line = |line: &str| format!("{line}\r\nHost: h\r\nConnection: close\r\n\r\n").into_bytes();
    let mut bytes_in_header = get("X-A: b\r\n");
    let at = bytes_in_header.windows(3).position(|window| window == b": b").unwrap() + 2;
    bytes_in_header[at] = 0xff;
    vec![
        ("length and chunks", post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{SMUGGLED}")), &[400]),
        ("two lengths", post("Content-Length: 0\r\nContent-Length: 30\r\n", SMUGGLED), &[400]),
        ("a list of lengths", post("Content-Length: 5 , 5\r\n", "{\"a\":"), &[400]),
        ("a length with a plus", post("Content-Length: +2\r\n", "{}"), &[400]),
        ("a negative length", post("Content-Length: -1\r\n", "{}"), &[400]),
        ("a hexadecimal length", post("Content-Length: 0x2\r\n", "{}"), &[400]),
        ("a length beyond 64 bits", post("Content-Length: 99999999999999999999\r\n", "{}"), &[400]),
        ("a chunk beyond 64 bits", chunked("FFFFFFFFFFFFFFFFF\r\n{}"), &[0, 400]),
        ("a negative chunk", chunked("-1\r\n{}\r\n0\r\n\r\n"), &[0, 400]),
        ("a chunk without a size", chunked("\r\n{}\r\n0\r\n\r\n"), &[0, 400]),
        ("a chunk that goes on", chunked("2\r\n{}XX0\r\n\r\n"), &[0, 400]),
        ("an unknown transfer coding", post("Transfer-Encoding: xchunked\r\n", "2\r\n{}\r\n0\r\n\r\n"), &[400]),
        ("a header that goes on in the next line", get("X-A: b\r\n c\r\n"), &[400]),
        ("a space before the colon", get("X-A : b\r\n"), &[400]),
        ("a NUL in a header", get("X-A: b\0c\r\n"), &[400]),
        ("a NUL in a header's name", get("X\0A: b\r\n"), &[400]),
        ("a bare CR in a header", get("X-A: b\rc\r\n"), &[400]),
        ("a byte that is no text in a header", bytes_in_header, &[401]),
        ("a target of 70 KB", line(&format!("GET /{} HTTP/1.1", "a".repeat(70_000))), &[0, 400, 414, 431]),
        ("a header of 200 KB", get(&format!("X-A: {}\r\n", "a".repeat(200_000))), &[0, 400, 431]),
        ("a thousand headers", get(&"X-A: b\r\n".repeat(1_000)), &[400, 431]),
        ("no request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[0, 400]),
        ("no version", b"GET /health/live\r\n\r\n".to_vec(), &[0, 400]),
        ("HTTP/9", line("GET /health/live HTTP/9.9"), &[0, 400, 505]),
        ("TRACE", line(&format!("TRACE {VALIDATE} HTTP/1.1")), &[404, 405]),
        ("CONNECT", line("CONNECT example.com:443 HTTP/1.1"), &[400, 404, 405]),
        ("a method nobody knows", line(&format!("FOO {VALIDATE} HTTP/1.1")), &[404, 405]),
        ("OPTIONS without an origin", line(&format!("OPTIONS {VALIDATE} HTTP/1.1")), &[404, 405]),
        ("HEAD", line(&format!("HEAD {VALIDATE} HTTP/1.1")), &[401, 404, 405]),
        ("a GET with a body", [get("Content-Length: 2\r\n"), b"{}".to_vec()].concat(), &[401]),
        ("an absolute target of another host", line("GET http://evil.com/health/live HTTP/1.1"), &[200, 400]),
        ("a path that climbs", line("GET /api/v1/users/profile/%2F..%2Fadmin HTTP/1.1"), &[404]),
        ("a NUL in a path", line("GET /api/v1/users/%00 HTTP/1.1"), &[400, 401, 404]),
        ("bytes that are no text in a path", line("GET /api/v1/users/%ff%fe HTTP/1.1"), &[400, 401, 404]),
        ("a compressed body", post("Content-Encoding: gzip\r\nContent-Length: 4\r\n", "\u{1f}xx"), &[415]),
        ("no host", b"GET /api/v1/auth/validate HTTP/1.1\r\nConnection: close\r\n\r\n".to_vec(), &[400, 401]),
        ("two hosts", get("Host: evil.com\r\n"), &[400, 401]),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_and_hides_none() {
    let app = TestApp::api().await;
    let address = app.client.base.strip_prefix("http://").unwrap().to_owned();
    let asking = corpus().into_iter().map(|(what, bytes, expected)| {
        let address = &address;
        async move {
            let (answer, closed) = ask(address, &bytes).await;
            let statuses = statuses(&answer);
            assert!(statuses.len() <= 1, "{what}: what was hidden in it was answered too: {answer}");
            let status = statuses.first().copied().unwrap_or_default();
            assert!(expected.contains(&status), "{what}: {status} instead of {expected:?}: {answer}");
            assert!(closed || ![0, 400].contains(&status), "{what}: the connection is kept after what cannot be understood");
            assert!(!answer.contains("smuggled") && !answer.contains("panicked"), "{what}: {answer}");
        }
    });
    futures_util::future::join_all(asking).await;
    assert_eq!(app.client.get("/health/live").await.status, 200);
    app.stop().await.unwrap();
}

/// Sends what is due at once, and the rest a byte a second, until the server has enough; what came back, and how long it took.
async fn trickle(address: &str, at_once: &[u8], rest: impl Iterator<Item = &u8>) -> (Vec<u16>, Duration) {
    let (mut reading, mut writing) = TcpStream::connect(address).await.unwrap().into_split();
    writing.write_all(at_once).await.unwrap();
    let (started, mut answer) = (std::time::Instant::now(), Vec::new());
    let writing = async {
        let mut second = tokio::time::interval(Duration::from_secs(1));
        for byte in rest {
            second.tick().await;
            if writing.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        () = writing => {}
        _ended = reading.read_to_end(&mut answer) => {}
    }
    (statuses(&String::from_utf8_lossy(&answer)), started.elapsed())
}

/// The request never comes to its end, and the connection is not kept for it.
#[tokio::test(flavor = "multi_thread")]
async fn headers_that_trickle_in_cost_a_connection_for_six_seconds_at_most() {
    let app = TestApp::api().await;
    let address = app.client.base.strip_prefix("http://").unwrap();
    let (statuses, elapsed) = trickle(address, b"", b"GET /health/live HTTP/1.1\r\n".iter().cycle()).await;
    assert!(elapsed < Duration::from_millis(6_500), "{elapsed:?}");
    assert!(matches!(statuses[..], [] | [400 | 408]), "{statuses:?}");
    app.stop().await.unwrap();
}

/// actix gives only the first head of a connection its five seconds.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_head_that_trickles_in_ends_its_connection_after_a_minute() {
    let app = TestApp::api().await;
    let address = app.client.base.strip_prefix("http://").unwrap();
    let later = b"GET /health/live HTTP/1.1\r\nX-A: ".iter().chain(b"b".iter().cycle());
    let (statuses, elapsed) = trickle(address, b"GET /health/live HTTP/1.1\r\nHost: h\r\n\r\n", later).await;
    assert!((30..70).contains(&elapsed.as_secs()), "{elapsed:?}");
    assert_eq!(statuses, [200]);
    app.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_without_an_end_keeps_no_connection_behind_its_answer() {
    let app = TestApp::api().await;
    let address = app.client.base.strip_prefix("http://").unwrap().to_owned();
    // What reads a body gives it its 15 seconds.
    let asking = [("/nowhere", 404, 4), ("/health", 405, 4), ("/api/v1/auth/logout", 401, 4), ("/api/v1/auth/login", 408, 19)];
    let asking = asking.map(|(path, expected, seconds)| {
        let address = &address;
        async move {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("POST {path} HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n");
            stream.write_all(format!("{head}5\r\n").as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            let ended = tokio::time::timeout(Duration::from_secs(seconds), stream.read_to_end(&mut answer)).await;
            assert_eq!(statuses(&String::from_utf8_lossy(&answer)), [expected], "{path}");
            assert!(ended.is_ok(), "{path}: the connection is kept");
        }
    });
    futures_util::future::join_all(asking).await;
    // One that is read to its end keeps its connection.
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let whole = "POST /api/v1/auth/login HTTP/1.1\r\nHost: h\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n";
    let last = "GET /health/live HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    stream.write_all(format!("{whole}{last}").as_bytes()).await.unwrap();
    let mut answers = Vec::new();
    stream.read_to_end(&mut answers).await.unwrap();
    assert_eq!(statuses(&String::from_utf8_lossy(&answers)), [400, 200]);
    app.stop().await.unwrap();
}
