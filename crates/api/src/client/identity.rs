//! A caller's identity: one PEM file with its certificate chain, leaf first, and its Ed25519 key (`docs/wire.md`).

use crate::tls::{TlsError, TlsIdentity};
use quorate_crypto::encoding::{Malformed, Reader};
use quorate_crypto::identity::SigningKey;
use quorate_crypto::secret::Secret;
use quorate_state::ids::Millis;
use rustls::pki_types::pem::{PemObject as _, SectionKind};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};
use zeroize::Zeroizing;

/// Who is calling.
#[derive(Debug)]
pub struct Identity {
    chain: Vec<Vec<u8>>,
    key: SigningKey,
    principal: String,
    tls: TlsIdentity,
}

/// Why there is no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file can't be read.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others could read the private key.
    #[error("{path}: group or others may read it (mode {mode:o}): run chmod 600 on it")]
    Readable {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not PEM.
    #[error("the file is not PEM")]
    Pem,
    /// Not exactly one.
    #[error("{0} private keys instead of one")]
    Keys(usize),
    /// Not PKCS#8 with an Ed25519 key.
    #[error("the private key is not an Ed25519 key in PKCS#8 form")]
    Key,
    /// No SPIFFE id, or several.
    #[error("the first certificate must have exactly one URI name, a SPIFFE id")]
    Principal,
    /// Chain and key do not belong together.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Identity {
    /// From a chain (DER, leaf first) and the leaf's key.
    ///
    /// # Errors
    /// [`IdentityError::Principal`], [`IdentityError::Tls`].
    pub fn new(chain: Vec<Vec<u8>>, key: SigningKey) -> Result<Self, IdentityError> {
        let tls = TlsIdentity::from_chain(chain.clone(), &key)?;
        let principal = chain.first().and_then(|leaf| spiffe_id(leaf)).ok_or(IdentityError::Principal)?;
        Ok(Self { chain, key, principal, tls })
    }

    /// An administrator's own, for the one change that takes no client: a self-signed certificate over its key, made here.
    ///
    /// # Errors
    /// [`IdentityError::Tls`].
    pub fn administrator(key: SigningKey) -> Result<Self, IdentityError> {
        let chain = TlsIdentity::self_signed(&key, "administrator")?.chain();
        let tls = TlsIdentity::from_chain(chain.clone(), &key)?;
        let principal = format!("administrator:{}", quorate_state::ids::hex(&key.verify_key().0));
        Ok(Self { chain, key, principal, tls })
    }

    /// From when to when its own certificate is valid, milliseconds since 1970; nothing when that cannot be read.
    #[must_use]
    pub fn valid(&self) -> Option<(Millis, Millis)> {
        let (_, certificate) = X509Certificate::from_der(self.chain.first()?).ok()?;
        let ms = |seconds: i64| Millis::try_from(seconds).unwrap_or(0).saturating_mul(1_000);
        let validity = certificate.validity();
        Some((ms(validity.not_before.timestamp()), ms(validity.not_after.timestamp())))
    }

    /// From the text of a PEM file.
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn from_pem(pem: &[u8]) -> Result<Self, IdentityError> {
        let (chain, key) = chain_and_key(pem)?;
        Self::new(chain, key)
    }

    /// Reads a PEM file.
    ///
    /// # Errors
    /// [`IdentityError`]; also when group or others may read the file.
    pub fn load(path: &Path) -> Result<Self, IdentityError> {
        Self::from_pem(&read_private(path)?)
    }

    /// The SPIFFE id in the certificate.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.principal
    }

    /// The certificate chain, DER, leaf first.
    #[must_use]
    pub fn chain(&self) -> &[Vec<u8>] {
        &self.chain
    }

    /// The key, which signs requests and opens connections.
    #[must_use]
    pub fn key(&self) -> &SigningKey {
        &self.key
    }

    /// What it shows in handshakes.
    #[must_use]
    pub fn tls(&self) -> &TlsIdentity {
        &self.tls
    }
}

/// Reads the certificate chain and key of a server that is no caller, such as a custodian: the same PEM file, without the
/// demand for a SPIFFE id.
///
/// # Errors
/// [`IdentityError`].
pub fn load_server_identity(path: &Path) -> Result<(TlsIdentity, SigningKey), IdentityError> {
    let (chain, key) = chain_and_key(&read_private(path)?)?;
    Ok((TlsIdentity::from_chain(chain, &key)?, key))
}

/// The certificates of a PEM text, DER, in their order.
///
/// # Errors
/// [`IdentityError::Pem`].
pub fn certificates(pem: &[u8]) -> Result<Vec<Vec<u8>>, IdentityError> {
    sections(pem)?
        .into_iter()
        .filter(|(kind, _)| *kind == SectionKind::Certificate)
        .map(|(_, der)| Ok(der.to_vec()))
        .collect()
}

type Section = (SectionKind, Zeroizing<Vec<u8>>);

fn sections(pem: &[u8]) -> Result<Vec<Section>, IdentityError> {
    <(SectionKind, Vec<u8>)>::pem_slice_iter(pem)
        .map(|section| section.map(|(kind, der)| (kind, Zeroizing::new(der))).map_err(|_| IdentityError::Pem))
        .collect()
}

fn chain_and_key(pem: &[u8]) -> Result<(Vec<Vec<u8>>, SigningKey), IdentityError> {
    let mut chain = Vec::new();
    let mut keys = Vec::new();
    for (kind, der) in sections(pem)? {
        match kind {
            SectionKind::Certificate => chain.push(der.to_vec()),
            SectionKind::PrivateKey => keys.push(der),
            _ => return Err(IdentityError::Key),
        }
    }
    match keys.as_slice() {
        [key] => Ok((chain, ed25519_from_pkcs8(key).ok_or(IdentityError::Key)?)),
        _ => Err(IdentityError::Keys(keys.len())),
    }
}

fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, IdentityError> {
    let failed = |source| IdentityError::File { path: path.to_owned(), source };
    let mut file = File::open(path).map_err(failed)?;
    // Of the open file: what a name stands for can change in between.
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(IdentityError::Readable { path: path.to_owned(), mode });
    }
    let mut text = Zeroizing::new(Vec::new());
    file.read_to_end(&mut text).map_err(failed)?;
    Ok(text)
}

/// The key of PKCS#8 version 1 (RFC 8410 section 7) or 2 (RFC 5958: the public key follows, and must be the right one;
/// attributes are not taken).
///
/// Returns nothing when it is anything else.
#[must_use]
pub fn ed25519_from_pkcs8(der: &[u8]) -> Option<SigningKey> {
    const MIDDLE: [u8; 11] = [0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let read = || -> Result<Option<SigningKey>, Malformed> {
        let mut r = Reader::new(der);
        let [tag, len] = r.array()?;
        let version: [u8; 3] = r.array()?;
        let middle: [u8; 11] = r.array()?;
        let key = Secret::from_slice(r.take(32)?).map(|seed| SigningKey::from_seed(&seed)).ok_or(Malformed)?;
        let whole = usize::from(len) + 2 == der.len() && tag == 0x30 && middle == MIDDLE;
        let rest = der.get(48..).unwrap_or_default();
        let public = key.verify_key().0;
        // [1] IMPLICIT BIT STRING, as RFC 5958 has it, or in the explicit form that some write.
        let tail = rest.strip_prefix(&[0x81, 0x21, 0]).or_else(|| rest.strip_prefix(&[0xa1, 0x23, 3, 0x21, 0]));
        let fits = match version {
            [2, 1, 0] => rest.is_empty(),
            [2, 1, 1] => tail == Some(&public),
            _ => false,
        };
        Ok((whole && fits).then_some(key))
    };
    read().ok().flatten()
}

fn spiffe_id(leaf: &[u8]) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let names = certificate.subject_alternative_name().ok()??;
    let mut uris = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let uri = uris.next()?;
    (uris.next().is_none() && uri.starts_with("spiffe://")).then(|| uri.to_owned())
}
