//! Accepting: handshakes run beside each other, and none of them can hold up or end the server.

use super::ed25519_key;
use crate::net::{Listener, Stream as Connection};
use rustls::ServerConfig;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;

/// How long a handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many may be under way on one port; further connections wait in the kernel's queue.
const HANDSHAKES: usize = 256;
/// How long to wait after the kernel gave no connection: it has run out of something.
const PAUSE: Duration = Duration::from_millis(100);

/// In the extensions of each request on the peer port: the Ed25519 key of the member that is calling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerKey(pub [u8; 32]);

/// In the extensions of each request on the client port: the caller's certificate chain, DER, leaf first. It leads to a
/// client root and was valid at the handshake; whether it still is, and whose it is, the server decides per request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientChain(pub Arc<Vec<Vec<u8>>>);

/// A connection after its handshake, and what tonic puts into the extensions of its requests.
pub struct Accepted<I> {
    stream: TlsStream<Box<dyn Connection>>,
    info: I,
}

impl<I: std::fmt::Debug> std::fmt::Debug for Accepted<I> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted").field("info", &self.info).finish_non_exhaustive()
    }
}

/// Accepts members, for [`super::peer_server_config`]. Give the stream to tonic's `serve_with_incoming_shutdown`;
/// dropping it ends the accepting. Never yields an error.
pub fn accept_peers(
    listener: impl Listener,
    config: Arc<ServerConfig>,
) -> impl Stream<Item = io::Result<Accepted<PeerKey>>> + Send + Unpin {
    accept(listener, config, |chain| chain.first().and_then(ed25519_key).map(PeerKey))
}

/// Accepts clients, for [`super::api_server_config`]; otherwise as [`accept_peers`].
pub fn accept_clients(
    listener: impl Listener,
    config: Arc<ServerConfig>,
) -> impl Stream<Item = io::Result<Accepted<ClientChain>>> + Send + Unpin {
    accept(listener, config, |chain| Some(ClientChain(Arc::new(chain.iter().map(|c| c.to_vec()).collect()))))
}

type Certificates<'a> = &'a [rustls::pki_types::CertificateDer<'a>];

fn accept<I: Send + 'static>(
    mut listener: impl Listener,
    config: Arc<ServerConfig>,
    info: fn(Certificates<'_>) -> Option<I>,
) -> ReceiverStream<io::Result<Accepted<I>>> {
    let (ready, stream) = mpsc::channel(64);
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = ready.closed() => {}
            () = accept_all(&mut listener, TlsAcceptor::from(config), info, &ready) => {}
        }
    });
    ReceiverStream::new(stream)
}

async fn accept_all<I: Send + 'static>(
    listener: &mut dyn Listener,
    acceptor: TlsAcceptor,
    info: fn(Certificates<'_>) -> Option<I>,
    ready: &mpsc::Sender<io::Result<Accepted<I>>>,
) {
    let permits = Arc::new(Semaphore::new(HANDSHAKES));
    // The semaphore is never closed.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(why) => {
                tracing::warn!(%why, "no connection could be accepted; trying again");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, ready) = (acceptor.clone(), ready.clone());
        tokio::spawn(async move {
            let _permit = permit;
            if let Some(accepted) = handshake(stream, from, &acceptor, info).await {
                // The server has ended: so has the connection.
                let _ = ready.send(Ok(accepted)).await;
            }
        });
    }
}

async fn handshake<I>(
    stream: Box<dyn Connection>,
    from: SocketAddr,
    acceptor: &TlsAcceptor,
    info: fn(Certificates<'_>) -> Option<I>,
) -> Option<Accepted<I>> {
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let info = info(stream.get_ref().1.peer_certificates().unwrap_or_default())?;
            Some(Accepted { stream, info })
        }
        Ok(Err(why)) => {
            tracing::debug!(%from, %why, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%from, "TLS handshake took too long");
            None
        }
    }
}

impl<I: Clone + Send + Sync + 'static> Connected for Accepted<I> {
    type ConnectInfo = I;

    fn connect_info(&self) -> I {
        self.info.clone()
    }
}

impl<I: Unpin> AsyncRead for Accepted<I> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<I: Unpin> AsyncWrite for Accepted<I> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
