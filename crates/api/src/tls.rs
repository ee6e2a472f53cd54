//! Who may talk to whom: TLS 1.3 only, mutual on every port, four roots of trust that never mix.
//!
//! | port | server shows | and accepts |
//! |---|---|---|
//! | peer | its member certificate | certificates whose key is a member's, by pin |
//! | client | its member certificate, pinned by clients | chains to the operator's client CA |
//! | custodian | the customer's certificate, pinned by clients | chains to the customer's own CA |
//!
//! A member certificate is self-signed, so it leads to no CA and is never a client; a client's key is no member's, so it
//! is never a peer. An administrator's key is admitted on the client port too, by pin, for the one request that no client can
//! bring any more when all their certificates have ended ([`Callers`]); it is no client's. The provider is handed to every configuration: nothing is installed for the whole process.
//!
//! Sessions are not resumed: a resumed one would skip the check of the certificate, and so outlive a change of pins.

mod accept;
mod callers;
mod connect;
mod pin;

pub use accept::{Accepted, ClientChain, PeerKey, accept_clients, accept_peers};
pub use callers::Callers;
pub use connect::{CLIENT, KeepAlive, PEER, connect, connect_over};
pub use pin::{PinnedClient, PinnedServer, Pins, ed25519_key};

use quorate_crypto::identity::SigningKey;
use quorate_state::ids::Millis;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls::version::TLS13;
use rustls::{ClientConfig, ServerConfig, SignatureScheme};
use std::sync::{Arc, PoisonError, RwLock};
use time::OffsetDateTime;
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
    /// A time that can't stand in a certificate.
    #[error("a certificate cannot be valid beyond the year 9999")]
    Time,
    /// The name can't stand in a certificate.
    #[error("the certificate could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// What rustls refused.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// A certificate chain and its key, to be shown to the other side. Clones are handles to the same: what [`TlsIdentity::renew`] puts
/// in its place, all of them show in their next handshake.
#[derive(Debug, Clone)]
pub struct TlsIdentity(Arc<Shown>);

#[derive(Debug)]
struct Shown(RwLock<Arc<CertifiedKey>>);

impl Shown {
    fn now(&self) -> Arc<CertifiedKey> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(self.now())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl TlsIdentity {
    /// A self-signed one over a key that the other side pins, without an end.
    ///
    /// # Security
    /// The key also signs transcripts. The two never meet: what TLS 1.3 signs begins with 64 spaces (RFC 8446 section
    /// 4.4.3), a transcript with a short length.
    ///
    /// # Errors
    /// [`TlsError::Certificate`] when `name` is no DNS name.
    pub fn self_signed(key: &SigningKey, name: &str) -> Result<Self, TlsError> {
        Self::wrap(key, name, rcgen::CertificateParams::new(vec![name.to_owned()])?)
    }

    /// A member's: the same, with a beginning and an end, in milliseconds since 1970.
    ///
    /// Whoever pins the key does not look at them, and must not: they prove nothing that the handshake does not prove, and a member
    /// whose clock is wrong is not to be cut off. They are for what stands between, which may look at dates.
    ///
    /// # Security
    /// As [`TlsIdentity::self_signed`].
    ///
    /// # Errors
    /// [`TlsError::Certificate`] when `name` is no DNS name, [`TlsError::Time`] when a time is beyond the year 9999.
    pub fn self_signed_for(key: &SigningKey, name: &str, (from, to): (Millis, Millis)) -> Result<Self, TlsError> {
        let mut params = rcgen::CertificateParams::new(vec![name.to_owned()])?;
        (params.not_before, params.not_after) = (moment(from)?, moment(to)?);
        Self::wrap(key, name, params)
    }

    /// Shows what `fresh` shows from the next handshake on; connections that stand are not touched.
    pub fn renew(&self, fresh: &Self) {
        *self.0.0.write().unwrap_or_else(PoisonError::into_inner) = fresh.0.now();
    }

    fn wrap(key: &SigningKey, name: &str, mut params: rcgen::CertificateParams) -> Result<Self, TlsError> {
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
        Ok(Self(Arc::new(Shown(RwLock::new(Arc::new(CertifiedKey::new(chain, signer?)))))))
    }

    /// The chain, DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> Vec<Vec<u8>> {
        self.0.now().cert.iter().map(|c| c.to_vec()).collect()
    }

    fn resolver(&self) -> Arc<Shown> {
        Arc::clone(&self.0)
    }
}

fn moment(ms: Millis) -> Result<OffsetDateTime, TlsError> {
    let seconds = i64::try_from(ms / 1_000).map_err(|_| TlsError::Time)?;
    OffsetDateTime::from_unix_timestamp(seconds).map_err(|_| TlsError::Time)
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

/// The port of a custodian: only certificates that lead to one of `client_roots` (DER).
///
/// # Errors
/// [`TlsError::Roots`], [`TlsError::Rustls`].
pub fn api_server_config(identity: &TlsIdentity, client_roots: &[Vec<u8>]) -> Result<Arc<ServerConfig>, TlsError> {
    callers_server_config(identity, Arc::new(Callers::new(client_roots, Vec::new())?), Arc::new(DefaultTimeProvider))
}

/// The client port of a node: whom `callers` admit in the moment of the handshake, at the time at which certificates must be
/// valid: a node's is cluster time, whatever its own clock shows.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn callers_server_config(
    identity: &TlsIdentity,
    callers: Arc<Callers>,
    time: Arc<dyn TimeProvider>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_details(provider(), time)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(callers)
        .with_cert_resolver(identity.resolver());
    Ok(finish_server(config))
}

/// Has a test read what our own processes say to each other: the keys of every connection go to the file that
/// `SSLKEYLOGFILE` names. No other build can be asked to.
#[cfg(feature = "failpoints")]
fn key_log() -> Arc<dyn rustls::KeyLog> {
    Arc::new(rustls::KeyLogFile::new())
}

fn finish_server(mut config: ServerConfig) -> Arc<ServerConfig> {
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    #[cfg(feature = "failpoints")]
    {
        config.key_log = key_log();
    }
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
    #[cfg(feature = "failpoints")]
    {
        config.key_log = key_log();
    }
    Ok(Arc::new(config))
}
