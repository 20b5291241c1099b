//! A TCP proxy that behaves as badly as a network can.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// What the network does to every connection, those that stand and those to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    None,
    /// Each piece comes late.
    Latency(Duration),
    /// Nothing comes through, and nobody is told; it comes when the fault is over.
    BlackHole,
    /// Connections are reset.
    Reset,
    /// Bytes come one by one.
    Slice,
    /// The server's side is gone; the client is not told before the fault is over.
    HalfOpen,
}

pub struct FaultProxy {
    pub address: SocketAddr,
    fault: watch::Sender<Fault>,
    open: Arc<AtomicUsize>,
    accepted: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl FaultProxy {
    /// A port of its own in front of `host:port`.
    pub async fn start(target: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, target) = (listener.local_addr().unwrap(), target.to_owned());
        let (fault, seen) = watch::channel(Fault::None);
        let open = Arc::new(AtomicUsize::new(0));
        let accepted = Arc::new(AtomicUsize::new(0));
        let (counted, ever) = (Arc::clone(&open), Arc::clone(&accepted));
        let accepting = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((client, _)) = accepted else { return };
                        counted.fetch_add(1, Ordering::Relaxed);
                        ever.fetch_add(1, Ordering::Relaxed);
                        connections.spawn(carry(client, target.clone(), seen.clone()));
                    }
                    Some(_) = connections.join_next() => { counted.fetch_sub(1, Ordering::Relaxed); }
                }
            }
        });
        Self { address, fault, open, accepted, accepting }
    }

    pub fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Connections that stand.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that were ever asked for.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::Relaxed)
    }

    /// The same address, through here.
    pub fn url(&self, url: &str) -> String {
        let mut url = url::Url::parse(url).unwrap();
        url.set_host(Some("127.0.0.1")).unwrap();
        url.set_port(Some(self.address.port())).unwrap();
        url.into()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn carry(mut client: TcpStream, target: String, mut fault: watch::Receiver<Fault>) {
    let _ = client.set_nodelay(true);
    // Whoever comes while nothing comes through waits with the others.
    let now = *fault.wait_for(|fault| *fault != Fault::BlackHole).await.unwrap();
    if breaks(&now) {
        return end(client, now, fault).await;
    }
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    let _ = server.set_nodelay(true);
    let mut watched = fault.clone();
    let broken = {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::select! {
            // One side's end is the other's.
            _ = pump(from_client, to_server, fault.clone()) => None,
            _ = pump(from_server, to_client, fault.clone()) => None,
            broken = watched.wait_for(breaks) => broken.ok().map(|fault| *fault),
        }
    };
    if let Some(now) = broken {
        let _ = server.set_zero_linger();
        drop(server);
        end(client, now, fault).await;
    }
}

/// Whether a connection does not survive it.
fn breaks(fault: &Fault) -> bool {
    matches!(fault, Fault::Reset | Fault::HalfOpen)
}

async fn end(client: TcpStream, now: Fault, mut fault: watch::Receiver<Fault>) {
    if now == Fault::HalfOpen {
        let _ = fault.wait_for(|fault| *fault != Fault::HalfOpen).await;
    }
    let _ = client.set_zero_linger();
}

async fn pump(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, mut fault: watch::Receiver<Fault>) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(());
        }
        let now = fault.wait_for(|fault| *fault != Fault::BlackHole).await.map_err(std::io::Error::other).map(|fault| *fault)?;
        match now {
            Fault::Latency(delay) => tokio::time::sleep(delay).await,
            Fault::Slice => {
                for byte in &buffer[..length] {
                    to.write_all(std::slice::from_ref(byte)).await?;
                    tokio::task::yield_now().await;
                }
                continue;
            }
            _ => {}
        }
        to.write_all(&buffer[..length]).await?;
    }
}
