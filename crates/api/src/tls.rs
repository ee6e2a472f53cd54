//! Who may talk to whom: TLS 1.3 only, mutual on every port, four roots of trust that never mix.
//!
//! | port | server shows | and accepts |
//! |---|---|---|
//! | peer | its member certificate | certificates whose key is a member's, by pin |
//! | client | its member certificate, pinned by clients | chains to the operator's client CA |
//! | custodian | the customer's certificate, pinned by clients | chains to the customer's own CA |
//!
//! A member certificate is self-signed, so it leads to no CA and is never a client; a client's key is no member's, so it
//! is never a peer. The provider is handed to every configuration: nothing is installed for the whole process.
//!
//! Sessions are not resumed: a resumed one would skip the check of the certificate, and so outlive a change of pins.

mod accept;
mod connect;
mod pin;

pub use accept::{Accepted, ClientChain, PeerKey, accept_clients, accept_peers};
pub use connect::{CLIENT, KeepAlive, PEER, connect, connect_over};
pub use pin::{PinnedClient, PinnedServer, Pins, ed25519_key};

use quorate_crypto::identity::SigningKey;
use rustls::client::Resumption;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;
use zeroize::Zeroize as _;

/// Why no TLS configuration came of what was given.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A chain without a certificate.
    #[error("the certificate chain is empty")]
    NoCertificate,
    /// The leaf certificate is not for this key.
    #[error("the first certificate of the chain is not for the private key")]
    OtherKey,
    /// No root certificate, or one that is not a CA's.
    #[error("the client roots are not usable: {0}")]
    Roots(String),
    /// The address is not `host:port`.
    #[error("{0:?} is not an address: expected host:port")]
    Address(String),
    /// The name can't stand in a certificate.
    #[error("the certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// What rustls refused.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// A certificate chain and its key, to be shown to the other side.
#[derive(Debug, Clone)]
pub struct TlsIdentity(Arc<CertifiedKey>);

impl TlsIdentity {
    /// A member's: self-signed over its identity key, without an end, since it is the key that is pinned.
    ///
    /// # Security
    /// The key also signs transcripts. The two never meet: what TLS 1.3 signs begins with 64 spaces (RFC 8446 section
    /// 4.4.3), a transcript with a short length.
    ///
    /// # Errors
    /// [`TlsError::Certificate`] when `name` is no DNS name.
    pub fn self_signed(key: &SigningKey, name: &str) -> Result<Self, TlsError> {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        let mut pkcs8 = pkcs8(key);
        let pair = rcgen::KeyPair::try_from(&pkcs8)?;
        pkcs8.zeroize();
        let certificate = params.self_signed(&pair)?;
        Self::from_chain(vec![certificate.der().to_vec()], key)
    }

    /// A chain that others signed, DER, the leaf first, over an Ed25519 key.
    ///
    /// # Errors
    /// [`TlsError::NoCertificate`], [`TlsError::OtherKey`].
    pub fn from_chain(chain: Vec<Vec<u8>>, key: &SigningKey) -> Result<Self, TlsError> {
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        let leaf = chain.first().ok_or(TlsError::NoCertificate)?;
        if ed25519_key(leaf) != Some(key.verify_key().0) {
            return Err(TlsError::OtherKey);
        }
        let mut pkcs8 = pkcs8(key);
        let signer = aws_lc_rs::sign::any_eddsa_type(&pkcs8);
        pkcs8.zeroize();
        Ok(Self(Arc::new(CertifiedKey::new(chain, signer?))))
    }

    /// The chain, DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> Vec<Vec<u8>> {
        self.0.cert.iter().map(|c| c.to_vec()).collect()
    }

    fn resolver(&self) -> Arc<SingleCertAndKey> {
        Arc::new(SingleCertAndKey::from(Arc::clone(&self.0)))
    }
}

/// RFC 8410 section 7, version 1: a fixed head and the seed.
fn pkcs8(key: &SigningKey) -> PrivatePkcs8KeyDer<'static> {
    const HEAD: [u8; 16] = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let mut der = Vec::with_capacity(HEAD.len() + 32);
    der.extend_from_slice(&HEAD);
    der.extend_from_slice(key.seed().expose());
    der.into()
}

/// The algorithms: aws-lc-rs, with X25519MLKEM768 ahead of X25519, and nothing else.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.kx_groups = vec![aws_lc_rs::kx_group::X25519MLKEM768, aws_lc_rs::kx_group::X25519];
    Arc::new(provider)
}

/// The peer port: only certificates whose key `pins` accepts.
///
/// `pins` is asked in every handshake, so it may change; connections that stand are not closed by it.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn peer_server_config(identity: &TlsIdentity, pins: Pins) -> Result<Arc<ServerConfig>, TlsError> {
    let provider = provider();
    let verifier = Arc::new(PinnedClient::new(pins, Arc::clone(&provider)));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.resolver());
    Ok(finish_server(config))
}

/// The client port of a node, and the port of a custodian: only certificates that lead to one of `client_roots` (DER).
///
/// # Errors
/// [`TlsError::Roots`], [`TlsError::Rustls`].
pub fn api_server_config(identity: &TlsIdentity, client_roots: &[Vec<u8>]) -> Result<Arc<ServerConfig>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in client_roots {
        roots.add(CertificateDer::from(root.clone())).map_err(|why| TlsError::Roots(why.to_string()))?;
    }
    let provider = provider();
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider))
        .build()
        .map_err(|why| TlsError::Roots(why.to_string()))?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(identity.resolver());
    Ok(finish_server(config))
}

fn finish_server(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Arc::new(config)
}

/// A client or peer: accepts exactly the server whose certificate is over `expected`.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn client_config(identity: &TlsIdentity, expected: [u8; 32]) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = provider();
    let verifier = Arc::new(PinnedServer::new(expected, Arc::clone(&provider)));
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_client_cert_resolver(identity.resolver());
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    // The pin is the name; what would be sent is of no use to anybody but an observer.
    config.enable_sni = false;
    Ok(Arc::new(config))
}
