//! A mail server (RFC 5321) that takes what it is sent, or does what a bad day brings.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

/// What it answers to a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Accept,
    /// 451: later, please.
    Defer,
    /// 550: never.
    Refuse,
    /// Takes the mail and closes without an answer.
    Drop,
    /// Closes each connection at once.
    Away,
}

/// A mail as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mail {
    pub recipients: Vec<String>,
    pub text: String,
}

impl Mail {
    pub fn header(&self, name: &str) -> Option<&str> {
        let (headers, _) = self.text.split_once("\r\n\r\n")?;
        headers.split("\r\n").find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
    }

    /// The text, its soft line breaks joined.
    pub fn body(&self) -> String {
        self.text.split_once("\r\n\r\n").unwrap().1.replace("=\r\n", "").replace("=3D", "=")
    }
}

#[derive(Clone)]
pub struct MailServer {
    pub address: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    /// Whose mail it takes and closes upon, whatever its mood.
    trap: Arc<Mutex<Option<String>>>,
    mails: Arc<Mutex<Vec<Mail>>>,
    refused: Arc<AtomicUsize>,
    talks: TaskTracker,
}

impl MailServer {
    pub async fn start(mood: Mood) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), mood)
    }

    pub fn listen(listener: TcpListener, mood: Mood) -> Self {
        let server = Self {
            address: listener.local_addr().unwrap(),
            mood: Arc::new(Mutex::new(mood)),
            trap: Arc::default(),
            mails: Arc::default(),
            refused: Arc::default(),
            talks: TaskTracker::new(),
        };
        let accepting = server.clone();
        server.talks.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if accepting.mood() == Mood::Away {
                    accepting.refused.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let server = accepting.clone();
                accepting.talks.spawn(async move {
                    let _ = server.talk(stream).await;
                });
            }
        });
        server
    }

    pub fn set(&self, mood: Mood) {
        *self.mood.lock().unwrap() = mood;
    }

    /// From now on every mail to this address breaks off.
    pub fn trap(&self, address: &str) {
        *self.trap.lock().unwrap() = Some(address.to_owned());
    }

    /// How many connections it turned away.
    pub fn refused(&self) -> usize {
        self.refused.load(Ordering::Relaxed)
    }

    fn mood(&self) -> Mood {
        *self.mood.lock().unwrap()
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.mails.lock().unwrap().clone()
    }

    async fn talk(&self, stream: TcpStream) -> std::io::Result<()> {
        let (read, mut write) = stream.into_split();
        let mut lines = BufReader::new(read).split(b'\n');
        write.write_all(b"220 test ESMTP\r\n").await?;
        let (mut recipients, mut text) = (Vec::new(), None::<String>);
        while let Some(line) = lines.next_segment().await? {
            let line = String::from_utf8_lossy(&line).into_owned();
            if let Some(received) = &mut text {
                // Only CR LF . CR LF ends a mail; a dot too many was put before each line that begins with one.
                if line != ".\r" {
                    received.push_str(line.strip_prefix('.').unwrap_or(&line));
                    received.push('\n');
                    continue;
                }
                let is_trapped =
                    self.trap.lock().unwrap().as_ref().is_some_and(|trap| recipients.iter().any(|to: &String| to.contains(trap)));
                let mood = if is_trapped { Mood::Drop } else { self.mood() };
                let mail = Mail { recipients: std::mem::take(&mut recipients), text: text.take().unwrap() };
                if matches!(mood, Mood::Accept | Mood::Drop) {
                    self.mails.lock().unwrap().push(mail);
                }
                match mood {
                    Mood::Accept => write.write_all(b"250 taken\r\n").await?,
                    Mood::Defer => write.write_all(b"451 later\r\n").await?,
                    Mood::Refuse => write.write_all(b"550 never\r\n").await?,
                    Mood::Drop | Mood::Away => return Ok(()),
                }
                continue;
            }
            let command = line.trim_end().to_owned();
            let answer: &[u8] = match command.split([' ', ':']).next().unwrap_or_default().to_uppercase().as_str() {
                "EHLO" => b"250-test\r\n250 8BITMIME\r\n",
                "RCPT" => {
                    recipients.push(command);
                    b"250 ok\r\n"
                }
                "DATA" => {
                    text = Some(String::new());
                    b"354 go on\r\n"
                }
                "QUIT" => {
                    write.write_all(b"221 bye\r\n").await?;
                    return Ok(());
                }
                "MAIL" | "RSET" | "NOOP" => b"250 ok\r\n",
                _ => b"502 what?\r\n",
            };
            write.write_all(answer).await?;
        }
        Ok(())
    }
}
