//! A server of which every byte is said by the test.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

pub(crate) const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello";

/// What it does when it has a whole request.
#[derive(Clone, Copy)]
pub(crate) enum Does {
    Answer(&'static str),
    AnswerAndClose(&'static str),
    AnswerLate(&'static str),
    Nothing,
    /// Says the first, and then the second again and again, slowly.
    Drip(&'static str, &'static str),
    /// Says this, and then more than anybody wants.
    Flood(&'static str),
}

#[derive(Default)]
struct Seen {
    connections: usize,
    ended: usize,
    requests: Vec<String>,
}

pub(crate) struct Server {
    pub(crate) port: u16,
    seen: Arc<Mutex<Seen>>,
    news: watch::Sender<()>,
}

impl Server {
    /// `does` is told how many requests there were, and how many on this connection, this one among them.
    pub(crate) async fn start(does: impl Fn(usize, usize) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (seen, news) = (Arc::new(Mutex::new(Seen::default())), watch::Sender::new(()));
        let (does, all, tell) = (Arc::new(does), Arc::clone(&seen), news.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                all.lock().unwrap().connections += 1;
                let (does, all, tell) = (Arc::clone(&does), Arc::clone(&all), tell.clone());
                tokio::spawn(async move {
                    serve(stream, &*does, &all, &tell).await;
                    all.lock().unwrap().ended += 1;
                    tell.send_replace(());
                });
            }
        });
        Self { port, seen, news }
    }

    pub(crate) fn connections(&self) -> usize {
        self.seen.lock().unwrap().connections
    }

    pub(crate) fn requests(&self) -> Vec<String> {
        self.seen.lock().unwrap().requests.clone()
    }

    async fn wait(&self, is: impl Fn(&Seen) -> bool) {
        let mut news = self.news.subscribe();
        let so = async {
            while !is(&self.seen.lock().unwrap()) {
                news.changed().await.unwrap();
            }
        };
        timeout(Duration::from_secs(10), so).await.expect("it comes so");
    }

    /// So many requests have come.
    pub(crate) async fn heard(&self, requests: usize) {
        self.wait(|seen| seen.requests.len() >= requests).await;
    }

    /// So many connections have ended, and their other end has had time to see it.
    pub(crate) async fn settled(&self, ended: usize) {
        self.wait(|seen| seen.ended >= ended).await;
        sleep(Duration::from_millis(50)).await;
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    does: &(impl Fn(usize, usize) -> Does + Send + Sync),
    seen: &Mutex<Seen>,
    tell: &watch::Sender<()>,
) {
    for nth in 1.. {
        let Some(request) = read(&mut stream).await else { return };
        let total = {
            let mut seen = seen.lock().unwrap();
            seen.requests.push(request);
            seen.requests.len()
        };
        tell.send_replace(());
        let said = match does(total, nth) {
            Does::Answer(answer) => stream.write_all(answer.as_bytes()).await,
            Does::AnswerAndClose(answer) => {
                let _ = stream.write_all(answer.as_bytes()).await;
                let _ = stream.shutdown().await;
                return;
            }
            Does::AnswerLate(answer) => {
                sleep(Duration::from_millis(500)).await;
                stream.write_all(answer.as_bytes()).await
            }
            Does::Nothing => {
                // Until the other end has had enough.
                let _ = stream.read(&mut [0]).await;
                return;
            }
            Does::Drip(first, then) => {
                let _ = stream.write_all(first.as_bytes()).await;
                while stream.write_all(then.as_bytes()).await.is_ok() {
                    sleep(Duration::from_millis(20)).await;
                }
                return;
            }
            Does::Flood(first) => {
                let _ = stream.write_all(first.as_bytes()).await;
                let much = [b'a'; 65_536];
                while stream.write_all(&much).await.is_ok() {}
                return;
            }
        };
        if said.is_err() {
            return;
        }
    }
}

/// One request: its head, and as much of a body as it says.
async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut all = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&all).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
            if body.len() >= length.parse().unwrap() {
                return Some(text);
            }
        }
        let mut buffer = [0; 4096];
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&buffer[..n]);
    }
}
