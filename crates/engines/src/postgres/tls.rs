//! TLS to a PostgreSQL server: its certificate is verified against the roots that the target's description names, and the
//! login is bound to it.
//!
//! The adapter between the driver and rustls is our own: it is small, and it decides by itself what the channel binding is
//! and when there is none.

use core::fmt;
use core::future::Future;
use core::pin::Pin;
use core::task::{Context, Poll};
use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::EngineError;

/// Whom a target's certificate must be from, and for which name.
#[derive(Clone)]
pub struct Trust {
    config: Arc<ClientConfig>,
    /// For drivers that make their own configuration of them.
    #[cfg(feature = "mariadb")]
    roots: Vec<Vec<u8>>,
    /// In place of the host's name, for what is reached through a tunnel.
    name: Option<ServerName<'static>>,
    require_binding: bool,
}

impl Trust {
    /// `roots` are certificates in DER, the only ones that count: not those of the operating system. `name` is what the
    /// server's certificate must be for when that is not the host that is connected to. With `require_binding` a server
    /// that does not prove the password together with its certificate (SCRAM-SHA-256-PLUS, RFC 5929 section 4) is refused.
    ///
    /// # Errors
    /// [`EngineError::Invalid`] for a root that is none, for no root, and for a name that is none.
    ///
    /// # Security
    /// Without `require_binding` whoever has a certificate for that name from one of these roots can stand between.
    pub fn new(roots: &[Vec<u8>], name: Option<&str>, require_binding: bool) -> Result<Self, EngineError> {
        let invalid = |field, reason| EngineError::Invalid { field, reason };
        let mut store = RootCertStore::empty();
        for root in roots {
            let root = CertificateDer::from(root.clone());
            store.add(root).map_err(|_| invalid("roots", "not certificates that can be trusted (X.509, DER)"))?;
        }
        if store.is_empty() {
            return Err(invalid("roots", "none"));
        }
        let name = match name {
            Some(name) => Some(
                ServerName::try_from(name.to_owned())
                    .map_err(|_| invalid("server_name", "neither a DNS name nor an address"))?,
            ),
            None => None,
        };
        let mut config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| invalid("tls", "not available"))?
            .with_root_certificates(store)
            .with_no_client_auth();
        // A session that goes on would be one whose certificate nobody looked at.
        config.resumption = rustls::client::Resumption::disabled();
        Ok(Self {
            config: Arc::new(config),
            #[cfg(feature = "mariadb")]
            roots: roots.to_vec(),
            name,
            require_binding,
        })
    }

    #[cfg(feature = "mariadb")]
    pub(crate) fn roots(&self) -> &[Vec<u8>] {
        &self.roots
    }

    #[cfg(feature = "mariadb")]
    pub(crate) fn name(&self) -> Option<String> {
        self.name.as_ref().map(|name| name.to_str().into_owned())
    }

    pub(crate) fn requires_binding(&self) -> bool {
        self.require_binding
    }

    /// TLS from the first byte on, as other targets speak it.
    #[cfg(feature = "redis")]
    pub(crate) async fn connect<S>(&self, host: &str, stream: S) -> Result<client::TlsStream<S>, EngineError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())
                .map_err(|_| EngineError::Invalid { field: "host", reason: "neither a DNS name nor an address" })?,
        };
        let connected = TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await;
        connected.map_err(|error| match distrust_of(&error) {
            Some(message) => EngineError::Refused { code: "TLS".to_owned(), message },
            None => EngineError::Unavailable { reason: error.to_string() },
        })
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust")
            .field("name", &self.name)
            .field("require_binding", &self.require_binding)
            .finish_non_exhaustive()
    }
}

/// What of an error while connecting is about trust: the server's certificate, TLS that it does not speak, a binding that
/// it does not give. The same again will be refused again.
pub(super) fn distrust(error: &tokio_postgres::Error) -> Option<String> {
    let source = core::error::Error::source(error)?;
    let Some(io) = source.downcast_ref::<io::Error>() else {
        // Of the driver's own words, those on TLS and on the server's proof of the password.
        return Some(format!("{error}: {source}"));
    };
    distrust_of(io)
}

fn distrust_of(io: &io::Error) -> Option<String> {
    match io.get_ref()?.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(why) => Some(format!("its certificate is not trusted: {why}")),
        why @ rustls::Error::PeerIncompatible(_) => Some(why.to_string()),
        _ => None,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for Trust {
    type Stream = Encrypted<S>;
    type TlsConnect = Connect;
    type Error = InvalidDnsNameError;

    fn make_tls_connect(&mut self, host: &str) -> Result<Connect, InvalidDnsNameError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())?,
        };
        Ok(Connect { connector: TlsConnector::from(Arc::clone(&self.config)), name })
    }
}

/// One handshake to be made.
pub struct Connect {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Connect {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Encrypted<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move { Ok(Encrypted(self.connector.connect(self.name, stream).await?)) })
    }
}

/// A connection after its handshake.
pub struct Encrypted<S>(client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        let certificate = self.0.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        certificate
            .and_then(|der| end_point(der))
            .map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

/// `tls-server-end-point` (RFC 5929 section 4.1): the certificate under the hash of its signature. None where that is not
/// defined, as for Ed25519. What is signed with MD5 or SHA-1 is not trusted in the first place.
fn end_point(der: &[u8]) -> Option<Vec<u8>> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    match certificate.signature_algorithm.algorithm.to_id_string().as_str() {
        // sha256WithRSAEncryption, ecdsa-with-SHA256, and so on.
        "1.2.840.113549.1.1.11" | "1.2.840.10045.4.3.2" => Some(Sha256::digest(der).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Sha384::digest(der).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Sha512::digest(der).to_vec()),
        _ => None,
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
