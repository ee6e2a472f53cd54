//! A network in memory: hosts, ports, and hosts that are cut off.

use quorate_api::net::{Listener, Net, Stream};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::DuplexStream;
use tokio::sync::{mpsc, watch};

type Incoming = (DuplexStream, SocketAddr);

/// All hosts; clones are the same network.
#[derive(Clone)]
pub(crate) struct Hub {
    ports: Arc<Mutex<BTreeMap<SocketAddr, mpsc::UnboundedSender<Incoming>>>>,
    cut: watch::Sender<BTreeSet<IpAddr>>,
}

impl Hub {
    pub(crate) fn new() -> Self {
        Self { ports: Arc::default(), cut: watch::Sender::new(BTreeSet::new()) }
    }

    /// The network as one host sees it.
    pub(crate) fn host(&self, host: IpAddr) -> Arc<dyn Net> {
        Arc::new(Host { hub: self.clone(), host })
    }

    /// Cuts a host off: its connections break, and none is made until it is healed.
    pub(crate) fn cut(&self, host: IpAddr) {
        self.cut.send_modify(|cut| {
            cut.insert(host);
        });
    }

    /// A host is off: here the same, though what it had begun is not told from what its next life begins.
    pub(crate) fn end(&self, host: IpAddr) {
        self.cut(host);
    }

    pub(crate) fn heal(&self, host: IpAddr) {
        self.cut.send_modify(|cut| {
            cut.remove(&host);
        });
    }
}

struct Host {
    hub: Hub,
    host: IpAddr,
}

#[async_trait::async_trait]
impl Net for Host {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        let to: SocketAddr = address.parse().map_err(io::Error::other)?;
        let broken = |cut: &BTreeSet<IpAddr>| cut.contains(&to.ip()) || cut.contains(&self.host);
        if broken(&self.hub.cut.borrow()) {
            return Err(io::ErrorKind::HostUnreachable.into());
        }
        let (near, mut a) = tokio::io::duplex(1 << 16);
        let (mut b, far) = tokio::io::duplex(1 << 16);
        let port = self.hub.ports.lock().unwrap().get(&to).cloned().ok_or(io::ErrorKind::ConnectionRefused)?;
        port.send((far, SocketAddr::new(self.host, 1)))
            .map_err(|_| io::Error::from(io::ErrorKind::ConnectionRefused))?;
        let (mut cut, from) = (self.hub.cut.subscribe(), self.host);
        tokio::spawn(async move {
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut a, &mut b) => {}
                // Both ends are dropped with this task.
                _ = cut.wait_for(|cut| cut.contains(&to.ip()) || cut.contains(&from)) => {}
            }
        });
        Ok(Box::new(near))
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        let (port, incoming) = mpsc::unbounded_channel();
        self.hub.ports.lock().unwrap().insert(address, port);
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
