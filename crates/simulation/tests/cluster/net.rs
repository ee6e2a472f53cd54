//! A network in memory that delays, stalls and breaks: hosts, ports, and what lies between each two of them in each direction.
//!
//! It carries streams, as TCP does: bytes of one connection come in their order or not at all. What is lost comes later, as what is sent anew does;
//! what is reordered are connections against each other. A direction that is blocked holds back what is under way, and neither end is told.

use crate::journal::Journal;
use crate::random::Random;
use crate::world::CLIENT;
use quorate_api::net::{Listener, Net, Stream};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

/// What a connection holds in each direction.
const WINDOW: usize = 1 << 16;
/// After how long what was lost comes all the same.
const SENT_ANEW: u64 = 200;

type Incoming = (DuplexStream, SocketAddr);

/// All hosts; clones are the same network.
#[derive(Clone)]
pub(crate) struct Hub {
    inner: Arc<Mutex<Inner>>,
    changed: watch::Sender<u64>,
    pub(crate) journal: Journal,
}

struct Inner {
    random: Random,
    ports: BTreeMap<SocketAddr, mpsc::UnboundedSender<Incoming>>,
    cut: BTreeSet<IpAddr>,
    blocked: BTreeSet<(IpAddr, IpAddr)>,
    /// How often each host was switched off: what an earlier life of it has begun goes nowhere.
    lives: BTreeMap<IpAddr, u64>,
    /// The longest delay in milliseconds, and how many deliveries of 100 are lost the first time.
    weather: (u64, u64),
    /// How many milliseconds more it takes between two members.
    apart: u64,
}

impl Inner {
    fn life(&self, host: IpAddr) -> u64 {
        self.lives.get(&host).copied().unwrap_or_default()
    }
}

fn number(host: IpAddr) -> u8 {
    match host {
        IpAddr::V4(v4) => v4.octets()[3],
        IpAddr::V6(_) => 0,
    }
}

impl Hub {
    pub(crate) fn new() -> Self {
        let inner = Inner {
            random: Random::new(0),
            ports: BTreeMap::new(),
            cut: BTreeSet::new(),
            blocked: BTreeSet::new(),
            lives: BTreeMap::new(),
            weather: (2, 0),
            apart: 0,
        };
        Self { inner: Arc::new(Mutex::new(inner)), changed: watch::Sender::new(0), journal: Journal::new() }
    }

    /// Draws its delays from here on as this seed says.
    pub(crate) fn seed(&self, seed: u64) {
        self.inner.lock().unwrap().random = Random::new(seed);
    }

    /// The network as one host sees it in this life of it.
    pub(crate) fn host(&self, host: IpAddr) -> Arc<dyn Net> {
        let life = self.inner.lock().unwrap().life(host);
        Arc::new(Host { hub: self.clone(), host, life })
    }

    fn change(&self, change: impl FnOnce(&mut Inner)) {
        change(&mut self.inner.lock().unwrap());
        self.changed.send_modify(|version| *version += 1);
    }

    /// Cuts a host off: its connections break, and none is made until it is healed.
    pub(crate) fn cut(&self, host: IpAddr) {
        self.change(|inner| {
            inner.cut.insert(host);
        });
    }

    /// A host is off: as [`Hub::cut`], and nothing that it has begun reaches anybody when it is on again.
    pub(crate) fn end(&self, host: IpAddr) {
        self.change(|inner| {
            inner.cut.insert(host);
            *inner.lives.entry(host).or_default() += 1;
        });
    }

    pub(crate) fn heal(&self, host: IpAddr) {
        self.change(|inner| {
            inner.cut.remove(&host);
        });
    }

    /// Nothing arrives from one host at another, and neither is told.
    pub(crate) fn block(&self, from: IpAddr, to: IpAddr) {
        self.change(|inner| {
            inner.blocked.insert((from, to));
        });
    }

    /// Everything arrives again, what was held back first.
    pub(crate) fn unblock_all(&self) {
        self.change(|inner| inner.blocked.clear());
    }

    /// Deliveries take up to so many milliseconds, and so many of 100 are lost the first time.
    pub(crate) fn weather(&self, longest: u64, lost: u64) {
        self.change(|inner| inner.weather = (longest, lost));
    }

    /// Members are so many milliseconds apart from each other, and clients beside each of them.
    pub(crate) fn apart(&self, millis: u64) {
        self.change(|inner| inner.apart = millis);
    }

    fn delay(&self, between: [IpAddr; 2]) -> Duration {
        let inner = &mut *self.inner.lock().unwrap();
        let (longest, lost) = inner.weather;
        let again = if inner.random.chance(lost) { SENT_ANEW } else { 0 };
        let apart = if between.iter().all(|host| *host != CLIENT) { inner.apart } else { 0 };
        Duration::from_millis(inner.random.between(1, longest + 1) + again + apart)
    }

    async fn until(&self, so: impl Fn(&Inner) -> bool) {
        let mut changed = self.changed.subscribe();
        while !so(&self.inner.lock().unwrap()) {
            // The sender lives in `self`.
            let _ = changed.changed().await;
        }
    }

    async fn carry(
        self,
        (from, to): (IpAddr, IpAddr),
        mut read: ReadHalf<DuplexStream>,
        mut write: WriteHalf<DuplexStream>,
    ) {
        let mut bytes = vec![0; 16 << 10];
        while let Ok(count @ 1..) = read.read(&mut bytes).await {
            sleep(self.delay([from, to])).await;
            self.until(|inner| !inner.blocked.contains(&(from, to))).await;
            self.journal.delivered(number(from), number(to));
            if write.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
        // The other end is told, or gone.
        let _ = write.shutdown().await;
    }
}

struct Host {
    hub: Hub,
    host: IpAddr,
    life: u64,
}

#[async_trait::async_trait]
impl Net for Host {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let to: SocketAddr = address.parse().map_err(io::Error::other)?;
        let (hub, from) = (&self.hub, self.host);
        sleep(hub.delay([from, to.ip()])).await;
        let open = |inner: &Inner| ![(from, to.ip()), (to.ip(), from)].iter().any(|way| inner.blocked.contains(way));
        hub.until(open).await;
        let (port, there) = {
            let inner = hub.inner.lock().unwrap();
            if inner.life(from) != self.life || inner.cut.contains(&to.ip()) || inner.cut.contains(&from) {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            (inner.ports.get(&to).cloned().ok_or(io::ErrorKind::ConnectionRefused)?, inner.life(to.ip()))
        };
        let ((near, a), (b, far)) = (duplex(WINDOW), duplex(WINDOW));
        port.send((far, SocketAddr::new(from, 1))).map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        let ((a_read, a_write), (b_read, b_write)) = (split(a), split(b));
        let there_way = hub.clone().carry((from, to.ip()), a_read, b_write);
        let back_way = hub.clone().carry((to.ip(), from), b_read, a_write);
        let (hub, life) = (hub.clone(), self.life);
        tokio::spawn(async move {
            let broken = |inner: &Inner| {
                inner.cut.contains(&to.ip())
                    || inner.cut.contains(&from)
                    || (inner.life(from), inner.life(to.ip())) != (life, there)
            };
            tokio::select! {
                biased;
                // Both ends are dropped with this task.
                () = hub.until(broken) => {}
                _ = async { tokio::join!(there_way, back_way) } => {}
            }
        });
        Ok(Box::new(near))
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let (port, incoming) = mpsc::unbounded_channel();
        self.hub.inner.lock().unwrap().ports.insert(address, port);
        Ok(Box::new(Port { address, incoming }))
    }
}

struct Port {
    address: SocketAddr,
    incoming: mpsc::UnboundedReceiver<Incoming>,
}

#[async_trait::async_trait]
impl Listener for Port {
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        match self.incoming.recv().await {
            Some((stream, from)) => Ok((Box::new(stream), from)),
            // Another life of this host has the port.
            None => std::future::pending().await,
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}
