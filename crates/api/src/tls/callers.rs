//! Who may connect to a client port, which may change while it is open.

use super::pin::ed25519_key;
use super::{TlsError, provider};
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, RootCertStore, SignatureScheme,
};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

/// Whoever a client CA vouches for; and administrators, by a certificate of their own over their key, for the one request that they
/// may bring themselves. Asked in every handshake; connections that stand are not closed by a change.
///
/// # Security
/// A connection says only that the other side has a key. Whether that is a client's, and what it may, is decided for each request:
/// an administrator's chain leads to no CA, so it is never taken for a client's.
pub struct Callers {
    admitted: RwLock<Admitted>,
    second_clock: Option<Arc<dyn TimeProvider>>,
}

struct Admitted {
    by_ca: Arc<dyn ClientCertVerifier>,
    administrators: Vec<[u8; 32]>,
}

impl Callers {
    /// CA certificates, DER, and the administrators' Ed25519 keys.
    ///
    /// # Errors
    /// [`TlsError::Roots`].
    pub fn new(client_roots: &[Vec<u8>], administrators: Vec<[u8; 32]>) -> Result<Self, TlsError> {
        let admitted = RwLock::new(Admitted { by_ca: by_ca(client_roots)?, administrators });
        Ok(Self { admitted, second_clock: None })
    }

    /// Admits also those whose certificates have ended by the time of the handshake, and not by this clock. Time that has run away
    /// is not to shut out those who can set it back; what they may do meanwhile is decided for each request.
    #[must_use]
    pub fn or_by(self, clock: Arc<dyn TimeProvider>) -> Self {
        Self { second_clock: Some(clock), ..self }
    }

    /// Others from the next handshake on. When the roots are not usable, everything stays as it was.
    ///
    /// # Errors
    /// [`TlsError::Roots`].
    pub fn replace(&self, client_roots: &[Vec<u8>], administrators: Vec<[u8; 32]>) -> Result<(), TlsError> {
        let by_ca = by_ca(client_roots)?;
        *self.admitted.write().unwrap_or_else(PoisonError::into_inner) = Admitted { by_ca, administrators };
        Ok(())
    }

    fn by_ca(&self) -> Arc<dyn ClientCertVerifier> {
        Arc::clone(&self.admitted.read().unwrap_or_else(PoisonError::into_inner).by_ca)
    }

    fn is_administrator(&self, key: &[u8; 32]) -> bool {
        self.admitted.read().unwrap_or_else(PoisonError::into_inner).administrators.contains(key)
    }
}

fn by_ca(client_roots: &[Vec<u8>]) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in client_roots {
        roots.add(CertificateDer::from(root.clone())).map_err(|why| TlsError::Roots(why.to_string()))?;
    }
    WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider())
        .build()
        .map_err(|why| TlsError::Roots(why.to_string()))
}

impl fmt::Debug for Callers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Callers")
    }
}

impl ClientCertVerifier for Callers {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        if intermediates.is_empty() && ed25519_key(end_entity).is_some_and(|key| self.is_administrator(&key)) {
            return Ok(ClientCertVerified::assertion());
        }
        let by_ca = self.by_ca();
        match by_ca.verify_client_cert(end_entity, intermediates, now) {
            Err(Error::InvalidCertificate(CertificateError::Expired | CertificateError::ExpiredContext { .. })) => {
                let second = self.second_clock.as_ref().and_then(|clock| clock.current_time());
                by_ca.verify_client_cert(end_entity, intermediates, second.unwrap_or(now))
            }
            looked_at => looked_at,
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOffered.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.by_ca().verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.by_ca().supported_verify_schemes()
    }
}
