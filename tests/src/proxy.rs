//! A proxy between the cluster and a target, its database or another, that is down, silent, slow, cut off, or lies.

use anyhow::Context as _;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// What it does with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Passes everything on.
    Honest,
    /// Closes every connection at once.
    Closes,
    /// Accepts and says nothing.
    Silent,
    /// Holds every answer back for so long.
    Slow(Duration),
    /// Answers with bytes that are no message.
    Garbage,
    /// Announces a message of 2 GB, and sends it as fast as it can.
    Endless,
    /// Says these bytes in place of everything that the server would say.
    Says(&'static [u8]),
    /// Says these bytes in place of what the server would say first, and then zeros for ever.
    Floods(&'static [u8]),
    /// Flips a bit of every 40th byte of an answer.
    Bends,
    /// Says that every statement was carried out, and passes none on that begins to create a role.
    Pretends,
    /// Says that roles were dropped, and has the server drop none.
    KeepsRoles,
    /// Says that sessions were told to end, and has the server tell none.
    KeepsSessions,
    /// Passes so many bytes of answers on, then closes.
    CutAfter(usize),
}

/// Ended when dropped.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    to: SocketAddr,
    mood: Arc<Mutex<Mood>>,
    /// How often somebody has met the mood that it is in.
    met: Arc<AtomicUsize>,
    task: Mutex<JoinHandle<()>>,
}

impl Proxy {
    /// Listens on a port of its own, for the server at `to`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(to: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.context("a port for the proxy")?;
        let port = listener.local_addr()?.port();
        let (mood, met) = (Arc::new(Mutex::new(Mood::Honest)), Arc::<AtomicUsize>::default());
        let task = Mutex::new(listen(listener, to, &mood, &met));
        Ok(Self { port, to, mood, met, task })
    }

    /// Nobody listens at its port any more, and all connections end.
    pub fn shut(&self) {
        self.task.lock().unwrap_or_else(PoisonError::into_inner).abort();
    }

    /// Listens there again.
    ///
    /// # Errors
    /// When somebody else does by now.
    pub async fn open(&self) -> anyhow::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await.context("the port of the proxy")?;
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = listen(listener, self.to, &self.mood, &self.met);
        Ok(())
    }

    /// Where it listens, on the loopback.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From here on, on connections that stand too.
    pub fn be(&self, mood: Mood) {
        *self.mood.lock().unwrap_or_else(PoisonError::into_inner) = mood;
        self.met.store(0, Ordering::Relaxed);
    }

    /// How often it has said something else than its server since it is in this mood.
    #[must_use]
    pub fn met(&self) -> usize {
        self.met.load(Ordering::Relaxed)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.shut();
    }
}

fn listen(listener: TcpListener, to: SocketAddr, mood: &Arc<Mutex<Mood>>, met: &Arc<AtomicUsize>) -> JoinHandle<()> {
    let (mood, met) = (Arc::clone(mood), Arc::clone(met));
    tokio::spawn(async move {
        // They end with it.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (mood, met) = (Arc::clone(&mood), Arc::clone(&met));
            connections.spawn(async move { drop(serve(stream, to, &mood, &met).await) });
            while connections.try_join_next().is_some() {}
        }
    })
}

/// Says what stands in the place of an answer, once or without end.
async fn lie(client: &mut TcpStream, lie: &[u8], endless: bool, met: &AtomicUsize) -> std::io::Result<()> {
    client.write_all(lie).await?;
    met.fetch_add(1, Ordering::Relaxed);
    if !endless {
        return Ok(());
    }
    loop {
        client.write_all(&[0; 1 << 16]).await?;
    }
}

async fn serve(mut client: TcpStream, to: SocketAddr, mood: &Mutex<Mood>, met: &AtomicUsize) -> std::io::Result<()> {
    let now = || *mood.lock().unwrap_or_else(PoisonError::into_inner);
    if now() == Mood::Closes {
        return Ok(());
    }
    let mut server = TcpStream::connect(to).await?;
    let (mut asked, mut told) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    let mut passed = 0;
    loop {
        tokio::select! {
            n = client.read(&mut asked) => {
                let n = n?;
                let Some(bytes) = asked.get_mut(..n).filter(|b| !b.is_empty()) else { return Ok(()) };
                match now() {
                    Mood::Closes => return Ok(()),
                    Mood::Silent => {}
                    Mood::Garbage => client.write_all(&[0xff; 300]).await?,
                    Mood::Endless => {
                        client.write_all(&[b'N', 0x7f, 0xff, 0xff, 0xff]).await?;
                        loop {
                            client.write_all(&told).await?;
                        }
                    }
                    Mood::Says(said) => lie(&mut client, said, false, met).await?,
                    Mood::Floods(said) => lie(&mut client, said, true, met).await?,
                    Mood::Pretends if bytes.windows(11).any(|w| w == b"CREATE ROLE") => {
                        // CommandComplete and ReadyForQuery, as after a simple query.
                        client.write_all(b"C\0\0\0\x10CREATE ROLE\0Z\0\0\0\x05I").await?;
                    }
                    Mood::KeepsRoles => {
                        // What follows is a comment.
                        replace(bytes, b"DROP ROLE ", b"SELECT 1--");
                        server.write_all(bytes).await?;
                    }
                    Mood::KeepsSessions => {
                        replace(bytes, b"pg_terminate_backend(pid)", b"(pid IS NOT NULL)        ");
                        server.write_all(bytes).await?;
                    }
                    _ => server.write_all(bytes).await?,
                }
            }
            n = server.read(&mut told) => {
                let n = n?;
                let Some(bytes) = told.get_mut(..n).filter(|b| !b.is_empty()) else { return Ok(()) };
                match now() {
                    Mood::Closes => return Ok(()),
                    Mood::Silent | Mood::Garbage | Mood::Endless => continue,
                    // One that speaks first.
                    Mood::Says(said) => {
                        lie(&mut client, said, false, met).await?;
                        continue;
                    }
                    Mood::Floods(said) => {
                        lie(&mut client, said, true, met).await?;
                        continue;
                    }
                    Mood::Slow(pause) => {
                        met.fetch_add(1, Ordering::Relaxed);
                        tokio::time::sleep(pause).await;
                    }
                    Mood::Bends => bytes.iter_mut().step_by(40).for_each(|b| *b ^= 1),
                    Mood::CutAfter(limit) if passed + bytes.len() > limit => return Ok(()),
                    Mood::Honest | Mood::Pretends | Mood::KeepsRoles | Mood::KeepsSessions | Mood::CutAfter(_) => {}
                }
                passed += bytes.len();
                client.write_all(bytes).await?;
            }
        }
    }
}

/// Puts something of the same length, so that no length in a message is wrong, in the place of each of these words.
fn replace(bytes: &mut [u8], words: &[u8], by: &[u8]) {
    let end = bytes.len();
    let mut from = 0;
    while let Some(at) = bytes.get(from..end).and_then(|rest| rest.windows(words.len()).position(|w| w == words)) {
        if let Some(place) = bytes.get_mut(from + at..from + at + words.len()) {
            place.copy_from_slice(by);
        }
        from += at + words.len();
    }
}
