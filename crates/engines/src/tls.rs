//! How a connection to a target is protected: its certificate is verified against the roots that the target's description
//! names, and against nothing else.

use core::error::Error;
use core::fmt;
use std::io;
use std::sync::Arc;

use rustls::pki_types::{CertificateDer, InvalidDnsNameError, ServerName};
use rustls::{ClientConfig, RootCertStore};
#[cfg(any(feature = "http", feature = "redis"))]
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
#[cfg(any(feature = "http", feature = "redis"))]
use tokio_rustls::client::TlsStream;

use crate::EngineError;

/// Encryption of the connection to a target.
#[derive(Clone, Debug)]
pub enum Tls {
    /// None: for a server on the same host, and for nothing else.
    Disabled,
    /// TLS 1.2 or 1.3 with a server whose certificate is verified.
    Verified(Trust),
}

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

    /// What makes a connection, and the name that the certificate of a server which is reached at `host` must be for.
    pub(crate) fn connector(&self, host: &str) -> Result<(TlsConnector, ServerName<'static>), InvalidDnsNameError> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => ServerName::try_from(host.to_owned())?,
        };
        Ok((TlsConnector::from(Arc::clone(&self.config)), name))
    }

    /// TLS from the first byte on.
    #[cfg(any(feature = "http", feature = "redis"))]
    pub(crate) async fn connect<S>(&self, host: &str, stream: S) -> Result<TlsStream<S>, EngineError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (connector, name) = self
            .connector(host)
            .map_err(|_| EngineError::Invalid { field: "host", reason: "neither a DNS name nor an address" })?;
        connector.connect(name, stream).await.map_err(|error| match distrust(&error) {
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

/// What of an error while connecting is about trust, at whatever depth: the server's certificate, or TLS that it does not speak. The
/// same again will be refused again.
pub(crate) fn distrust(error: &(dyn Error + 'static)) -> Option<String> {
    let mut source = Some(error);
    while let Some(this) = source {
        let inner = this.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if let Some(why) = inner.and_then(|e| e.downcast_ref::<rustls::Error>()) {
            return match why {
                rustls::Error::InvalidCertificate(why) => Some(format!("its certificate is not trusted: {why}")),
                why @ rustls::Error::PeerIncompatible(_) => Some(why.to_string()),
                _ => None,
            };
        }
        source = this.source();
    }
    None
}
