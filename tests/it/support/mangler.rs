//! A TCP relay to the broker that writes what no client library would: every `@` that a producer sends becomes a byte that
//! is no UTF-8.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// Carries one connection, as long as it lives.
pub struct Mangler {
    pub url: String,
    _carrying: JoinSet<()>,
}

pub async fn mangler(url: &str) -> Mangler {
    let mut url = url::Url::parse(url).unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    let mut carrying = JoinSet::new();
    carrying.spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let server = TcpStream::connect(target).await.unwrap();
        let ((mut from_client, mut to_client), (mut from_server, mut to_server)) = (client.into_split(), server.into_split());
        let answering = tokio::io::copy(&mut from_server, &mut to_client);
        let mangling = async {
            let mut buffer = vec![0; 4096];
            while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
                for byte in buffer[..length].iter_mut().filter(|byte| **byte == b'@') {
                    *byte = 0xe9;
                }
                to_server.write_all(&buffer[..length]).await.unwrap();
            }
        };
        let _ = tokio::join!(answering, mangling);
    });
    Mangler { url: url.into(), _carrying: carrying }
}
