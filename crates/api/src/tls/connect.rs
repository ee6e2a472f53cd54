//! Connecting: channels that connect on first use and again after every loss.

use super::{TlsError, TlsIdentity, client_config};
use crate::net::{Net, Stream, Tcp};
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::{DnsName, ServerName};
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::transport::{Channel, Endpoint};

/// How a channel notices that the other side is gone: without it a half-open connection swallows calls for minutes.
#[derive(Debug, Clone, Copy)]
pub struct KeepAlive {
    /// How often to ping, also without calls under way.
    pub interval: Duration,
    /// How long to wait for the answer before the connection is given up.
    pub timeout: Duration,
    /// How long connecting, the handshake included, may take.
    pub connect: Duration,
}

/// Between members, where every lost connection is an election or a stalled write.
pub const PEER: KeepAlive = KeepAlive {
    interval: Duration::from_millis(200),
    timeout: Duration::from_millis(400),
    connect: Duration::from_secs(1),
};

/// From clients.
pub const CLIENT: KeepAlive =
    KeepAlive { interval: Duration::from_secs(1), timeout: Duration::from_secs(2), connect: Duration::from_secs(2) };

/// A channel to the server at `address` (`host:port`) whose key is `expected`. `name` is for errors only.
///
/// Connects lazily: a server that is down makes calls fail, with `unavailable`, until it is back.
///
/// # Errors
/// [`TlsError::Address`], [`TlsError::Rustls`].
pub fn connect(
    address: &str,
    expected: [u8; 32],
    identity: &TlsIdentity,
    name: &str,
    keep_alive: KeepAlive,
) -> Result<Channel, TlsError> {
    connect_over(&(Arc::new(Tcp) as Arc<dyn Net>), address, expected, identity, name, keep_alive)
}

/// [`connect`], over any network.
///
/// # Errors
/// As [`connect`].
pub fn connect_over(
    net: &Arc<dyn Net>,
    address: &str,
    expected: [u8; 32],
    identity: &TlsIdentity,
    name: &str,
    keep_alive: KeepAlive,
) -> Result<Channel, TlsError> {
    let bad = || TlsError::Address(address.to_owned());
    // The scheme is never dialled: the connector below is the only way out, and it speaks TLS.
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| bad())?;
    if endpoint.uri().port_u16().is_none() {
        return Err(bad());
    }
    let endpoint = endpoint
        .http2_keep_alive_interval(keep_alive.interval)
        .keep_alive_timeout(keep_alive.timeout)
        .keep_alive_while_idle(true)
        .connect_timeout(keep_alive.connect);
    let dial = Arc::new(Dial {
        net: Arc::clone(net),
        address: address.to_owned(),
        name: name.to_owned(),
        config: client_config(identity, expected)?,
    });
    Ok(endpoint.connect_with_connector_lazy(tower::service_fn(move |_| {
        let dial = Arc::clone(&dial);
        async move { dial.dial().await.map(TokioIo::new) }
    })))
}

struct Dial {
    net: Arc<dyn Net>,
    address: String,
    name: String,
    config: Arc<ClientConfig>,
}

impl Dial {
    async fn dial(&self) -> io::Result<TlsStream<Box<dyn Stream>>> {
        let stream = self.net.connect(&self.address).await.map_err(|why| self.failed("connect to", why))?;
        // rustls wants a name; the verifier looks at the key alone, and no name is sent.
        let name = DnsName::try_from("member.invalid").map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.config))
            .connect(ServerName::DnsName(name), stream)
            .await
            .map_err(|why| self.failed("agree on TLS with", why))
    }

    fn failed(&self, what: &str, why: io::Error) -> io::Error {
        io::Error::new(why.kind(), format!("cannot {what} {} at {}: {why}", self.name, self.address))
    }
}
