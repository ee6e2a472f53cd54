//! The seam to the network: where connections come from and go to. TLS, HTTP/2 and everything above run over it unchanged, over
//! [`Tcp`] in the product and over a simulated network in a simulation.

use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};

/// One connection, either end.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// An open port.
#[async_trait::async_trait]
pub trait Listener: Send + 'static {
    /// The next connection, and where it comes from.
    ///
    /// # Errors
    /// The port gave none this time; it may the next.
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)>;

    /// Where it listens, with the port that was chosen.
    ///
    /// # Errors
    /// Those of the network.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

/// A network.
#[async_trait::async_trait]
pub trait Net: Send + Sync + 'static {
    /// Connects to `address`, `host:port`.
    ///
    /// # Errors
    /// Those of the network.
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>>;

    /// Opens a port; port 0 chooses one.
    ///
    /// # Errors
    /// Those of the network.
    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>>;
}

/// The operating system's network.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tcp;

#[async_trait::async_trait]
impl Net for Tcp {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn Stream>> {
        Ok(Box::new(at_once(TcpStream::connect(address).await?)))
    }

    async fn listen(&self, address: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(TcpListener::bind(address).await?))
    }
}

#[async_trait::async_trait]
impl Listener for TcpListener {
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        let (stream, from) = TcpListener::accept(self).await?;
        Ok((Box::new(at_once(stream)), from))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        TcpListener::local_addr(self)
    }
}

#[async_trait::async_trait]
impl Listener for Box<dyn Listener> {
    async fn accept(&mut self) -> io::Result<(Box<dyn Stream>, SocketAddr)> {
        (**self).accept().await
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        (**self).local_addr()
    }
}

fn at_once(stream: TcpStream) -> TcpStream {
    // Without it small messages wait for acknowledgements; a socket that refuses is only slower.
    let _ = stream.set_nodelay(true);
    stream
}
