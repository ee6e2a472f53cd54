//! From a certificate chain to a [`Principal`]: X.509 (RFC 5280) with one SPIFFE id (X509-SVID specification).
//!
//! The leaf's key is Ed25519 and nothing else, because the same key signs the caller's requests. CA keys may be Ed25519
//! or ECDSA on P-256.
//!
//! What is not checked, and why: revocation lists, because certificates are short-lived and
//! [`quorate_state::change::Change::BlockIdentity`] ends an identity at one log index on every node.
//!
//! The end of a *root* certificate counts, though RFC 5280 (section 6.1.1) would let a trust anchor be a name and a key for ever: a
//! CA that was forgotten is not to admit callers for ever. It locks everybody out at once, so members say it a month ahead, and the
//! way back needs no client ([`crate::mandate`]).

use crate::spiffe::{BadSpiffeId, SpiffeId};
use core::time::Duration;
use quorate_state::genesis::ClientRoots;
use quorate_state::ids::Millis;
use rustls_pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use std::collections::VecDeque;
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, aws_lc_rs};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

/// The longest chain: the leaf and its intermediates. The root need not be in it.
pub const MAX_CHAIN: usize = 4;

/// The largest certificate, in bytes.
pub const MAX_CERTIFICATE: usize = 16 * 1024;

/// How certificates may be signed.
static SIGNATURES: &[&dyn SignatureVerificationAlgorithm] = &[aws_lc_rs::ED25519, aws_lc_rs::ECDSA_P256_SHA256];

/// An Ed25519 SubjectPublicKeyInfo up to its 32-byte key (RFC 8410 section 4): the only DER encoding there is.
const ED25519_SPKI: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A caller that the client CA vouches for.
///
/// # Security
/// Only [`authenticate`] makes one, and it stands for the time and the roots it was made by: [`Principal::not_after`] bounds how
/// long it may be kept, and whoever decides on a later state asks [`Principal::is_vouched_for`] by the roots of that state. It does
/// not say that the caller holds the key; the signature of the request, or of the TLS handshake, does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    id: SpiffeId,
    key: [u8; 32],
    not_after: Millis,
    root: TrustAnchor<'static>,
}

impl Principal {
    /// Its SPIFFE id.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// Its Ed25519 public key.
    #[must_use]
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The last millisecond at which every certificate of its chain, the root's among them, is valid.
    #[must_use]
    pub fn not_after(&self) -> Millis {
        self.not_after
    }

    /// Whether the root that its chain led to is still one of these: of its name, key and constraints. Another certificate of the same CA
    /// is the same root.
    #[must_use]
    pub fn is_vouched_for(&self, roots: &ClientRoots) -> bool {
        let certificates = ders(roots);
        self.id.trust_domain() == roots.trust_domain
            && anchors(&certificates).is_ok_and(|anchors| anchors.contains(&self.root))
    }
}

/// Why a chain makes no principal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthenticationError {
    /// No certificate, or too many.
    #[error("a chain has 1 to {MAX_CHAIN} certificates, not {0}")]
    ChainLength(usize),
    /// Not a DER certificate, or a form of one that is not accepted.
    #[error("a certificate of the chain is malformed")]
    Malformed,
    /// Its time has not come.
    #[error("the certificate is not valid before {not_before} ms since 1970")]
    NotYetValid {
        /// When it begins.
        not_before: Millis,
    },
    /// Its time is over.
    #[error("the certificate expired at {not_after} ms since 1970")]
    Expired {
        /// When it ended.
        not_after: Millis,
    },
    /// It does not lead to a root of this cluster.
    #[error("no client CA of this cluster issued the certificate")]
    UnknownIssuer,
    /// A signature in the chain does not verify.
    #[error("a signature in the certificate chain does not verify")]
    Signature,
    /// A CA key or signature that is neither Ed25519 nor ECDSA on P-256 with SHA-256.
    #[error("the certificate chain is signed with neither Ed25519 nor ECDSA P-256 with SHA-256")]
    SignatureAlgorithm,
    /// Extended key usages without `clientAuth`, or key usages that do not fit the certificate's place in the chain.
    #[error("the certificate is not for client authentication")]
    Usage,
    /// A CA certificate in the place of a caller's.
    #[error("a CA certificate cannot be a caller's")]
    CaAsCaller,
    /// A rule of RFC 5280 that has no variant of its own: path length, name constraints, critical extensions.
    #[error("the certificate chain breaks a rule of X.509")]
    Chain(#[source] webpki::Error),
    /// The leaf's key has another type.
    #[error("the caller's key must be Ed25519: it also signs requests")]
    KeyType,
    /// Not exactly one URI among the subject alternative names.
    #[error("the certificate must have exactly one URI name, a SPIFFE id; it has {0}")]
    SpiffeIds(usize),
    /// The URI is not the SPIFFE id of a workload.
    #[error("the URI name is not a SPIFFE id")]
    SpiffeId(#[source] BadSpiffeId),
    /// Another trust domain.
    #[error("trust domain `{found}` is not `{expected}`")]
    TrustDomain {
        /// The caller's.
        found: String,
        /// The cluster's.
        expected: String,
    },
    /// The certificate of the client CA has ended, and with it whatever it issued.
    #[error("the client CA's own certificate ended at {not_after} ms since 1970")]
    RootExpired {
        /// When it ended.
        not_after: Millis,
    },
    /// The cluster's own roots cannot be used: nobody is admitted until they are mended.
    #[error("client CA certificate {0} of the cluster is malformed")]
    Root(usize),
}

impl AuthenticationError {
    /// The code that the caller is told: of the family `unauthenticated`, with the cause. Stable.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::ChainLength(_) => "unauthenticated_chain_length",
            Self::Malformed => "unauthenticated_certificate_malformed",
            Self::NotYetValid { .. } => "unauthenticated_certificate_not_yet_valid",
            Self::Expired { .. } => "unauthenticated_certificate_expired",
            Self::UnknownIssuer => "unauthenticated_unknown_issuer",
            Self::Signature => "unauthenticated_certificate_signature",
            Self::SignatureAlgorithm => "unauthenticated_certificate_signature_algorithm",
            Self::Usage => "unauthenticated_certificate_usage",
            Self::CaAsCaller => "unauthenticated_ca_as_caller",
            Self::Chain(_) => "unauthenticated_certificate_chain",
            Self::KeyType => "unauthenticated_key_type",
            Self::SpiffeIds(_) => "unauthenticated_spiffe_id_count",
            Self::SpiffeId(_) => "unauthenticated_spiffe_id_malformed",
            Self::TrustDomain { .. } => "unauthenticated_trust_domain",
            Self::RootExpired { .. } => "unauthenticated_client_ca_expired",
            Self::Root(_) => "unauthenticated_client_root_malformed",
        }
    }
}

/// Verifies a chain of DER certificates, the caller's own first, against the cluster's roots at cluster time `now`.
///
/// Certificates that the path to a root does not need are ignored, whatever they hold.
///
/// # Errors
/// [`AuthenticationError`].
pub fn authenticate(chain: &[Vec<u8>], roots: &ClientRoots, now: Millis) -> Result<Principal, AuthenticationError> {
    let (leaf, intermediates) = match chain.split_first() {
        Some(parts) if chain.len() <= MAX_CHAIN => parts,
        _ => return Err(AuthenticationError::ChainLength(chain.len())),
    };
    if chain.iter().any(|der| der.len() > MAX_CERTIFICATE) {
        return Err(AuthenticationError::Malformed);
    }
    let roots_der = ders(roots);
    let anchors = anchors(&roots_der)?;
    let leaf_der = CertificateDer::from(leaf.as_slice());
    let intermediates: Vec<_> = intermediates.iter().map(|der| CertificateDer::from(der.as_slice())).collect();
    let time = UnixTime::since_unix_epoch(Duration::from_millis(now));

    let verified = EndEntityCert::try_from(&leaf_der).map_err(from_webpki)?;
    let path = verified
        .verify_for_usage(SIGNATURES, &anchors, &intermediates, time, KeyUsage::client_auth(), None, None)
        .map_err(from_webpki)?;

    let mut not_after = end_of_anchor(path.anchor(), &anchors, &roots.certificates);
    if not_after < now {
        return Err(AuthenticationError::RootExpired { not_after });
    }
    for issuer in path.intermediate_certificates() {
        let der = issuer.der();
        let issuer = parse(&der)?;
        check_key_usage(&issuer, Place::Issuer)?;
        not_after = not_after.min(end_of(&issuer));
    }
    let leaf = parse(&leaf_der)?;
    check_key_usage(&leaf, Place::Leaf)?;
    not_after = not_after.min(end_of(&leaf));

    let key = ed25519_key(&verified).ok_or(AuthenticationError::KeyType)?;
    let id = spiffe_id(&leaf, &verified)?;
    if id.trust_domain() != roots.trust_domain {
        let found = id.trust_domain().to_owned();
        return Err(AuthenticationError::TrustDomain { found, expected: roots.trust_domain.clone() });
    }
    Ok(Principal { id, key, not_after, root: path.anchor().to_owned() })
}

/// How many chains [`VerifiedChains`] keeps.
const KNOWN: usize = 256;

/// Chains that were verified before: a service asks with the same certificate for hours, and two signatures a request are most of what it
/// takes to know who it is.
///
/// # Security
/// It says what [`authenticate`] would: of the same bytes and the same roots, at a time from when they were verified to when the first
/// certificate of the chain or its root ends. Of anything else it knows nothing, and verifies.
#[derive(Debug, Default)]
pub struct VerifiedChains(VecDeque<Verified>);

#[derive(Debug)]
struct Verified {
    chain: Vec<Vec<u8>>,
    roots: ClientRoots,
    from: Millis,
    principal: Principal,
}

impl VerifiedChains {
    /// As [`authenticate`], if it is known already.
    #[must_use]
    pub fn principal(&self, chain: &[Vec<u8>], roots: &ClientRoots, now: Millis) -> Option<Principal> {
        let fits = |v: &&Verified| {
            v.from <= now && now <= v.principal.not_after && v.chain.as_slice() == chain && v.roots == *roots
        };
        self.0.iter().find(fits).map(|verified| verified.principal.clone())
    }

    /// What [`authenticate`] has said of a chain at `now`. The oldest of too many is forgotten.
    pub fn learn(&mut self, chain: &[Vec<u8>], roots: &ClientRoots, now: Millis, principal: &Principal) {
        self.0.retain(|verified| verified.chain.as_slice() != chain && verified.roots == *roots);
        self.0.truncate(KNOWN - 1);
        let (chain, roots, principal) = (chain.to_vec(), roots.clone(), principal.clone());
        self.0.push_front(Verified { chain, roots, from: now, principal });
    }
}

fn ders(roots: &ClientRoots) -> Vec<CertificateDer<'_>> {
    roots.certificates.iter().map(|der| CertificateDer::from(der.as_slice())).collect()
}

fn anchors<'a>(roots: &'a [CertificateDer<'a>]) -> Result<Vec<TrustAnchor<'a>>, AuthenticationError> {
    let anchor = |(at, root)| anchor_from_trusted_cert(root).map_err(|_| AuthenticationError::Root(at));
    roots.iter().enumerate().map(anchor).collect()
}

/// When the root that a path leads to ends: the last of those of its name and key, so that a CA can have its certificate renewed.
fn end_of_anchor(anchor: &TrustAnchor<'_>, anchors: &[TrustAnchor<'_>], roots: &[Vec<u8>]) -> Millis {
    let same = |(other, _): &(&TrustAnchor<'_>, _)| {
        other.subject == anchor.subject && other.subject_public_key_info == anchor.subject_public_key_info
    };
    anchors.iter().zip(roots).filter(same).filter_map(|(_, der)| root_end(der)).max().unwrap_or(0)
}

/// How long ahead the end of what is valid from `from` to `to` is told: 30 days, or a third of what lives shorter than three times as
/// long, so that nobody is told of what is young.
#[must_use]
pub fn told_ahead(from: Millis, to: Millis) -> Millis {
    const AHEAD: Millis = 30 * 86_400_000;
    AHEAD.min(to.saturating_sub(from) / 3)
}

/// The last millisecond of a CA certificate, DER; nothing when it is none.
#[must_use]
pub fn root_end(der: &[u8]) -> Option<Millis> {
    parse(der).ok().map(|root| end_of(&root))
}

/// The first second of a CA certificate, DER, in milliseconds; nothing when it is none.
#[must_use]
pub fn root_begin(der: &[u8]) -> Option<Millis> {
    let root = parse(der).ok()?;
    Some(Millis::try_from(root.validity().not_before.timestamp()).unwrap_or(0).saturating_mul(1_000))
}

/// Whether a certificate can be a root: a CA's, for signing certificates, with a key that chains may be signed with.
pub(crate) fn root_is_usable(der: &[u8]) -> bool {
    /// The algorithm of an ECDSA key on P-256 (RFC 5480 section 2.1.1), as a key info begins.
    const P256: [u8; 23] =
        [0x30, 0x59, 0x30, 0x13, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
    if der.len() > MAX_CERTIFICATE || anchor_from_trusted_cert(&CertificateDer::from(der)).is_err() {
        return false;
    }
    let Ok(root) = parse(der) else { return false };
    let key = root.public_key().raw;
    root.is_ca()
        && check_key_usage(&root, Place::Issuer).is_ok()
        && (key.starts_with(&ED25519_SPKI) || key.starts_with(&P256))
}

/// What only the second parser shows. It sees bytes whose signature the first one has verified.
fn parse(der: &[u8]) -> Result<X509Certificate<'_>, AuthenticationError> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(AuthenticationError::Malformed),
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Leaf,
    Issuer,
}

/// Key usage, which webpki leaves out: RFC 5280 section 4.2.1.3, X509-SVID section 4.3. A certificate without the extension
/// is not restricted by it.
fn check_key_usage(certificate: &X509Certificate<'_>, place: Place) -> Result<(), AuthenticationError> {
    let usage = certificate.key_usage().map_err(|_| AuthenticationError::Malformed)?;
    let fits = usage.is_none_or(|usage| match place {
        Place::Leaf => usage.value.digital_signature() && !usage.value.key_cert_sign() && !usage.value.crl_sign(),
        Place::Issuer => usage.value.key_cert_sign(),
    });
    if fits { Ok(()) } else { Err(AuthenticationError::Usage) }
}

/// The end of the certificate's last second.
fn end_of(certificate: &X509Certificate<'_>) -> Millis {
    let seconds = certificate.validity().not_after.timestamp();
    Millis::try_from(seconds).unwrap_or(0).saturating_mul(1_000).saturating_add(999)
}

fn ed25519_key(leaf: &EndEntityCert<'_>) -> Option<[u8; 32]> {
    leaf.subject_public_key_info().strip_prefix(&ED25519_SPKI)?.try_into().ok()
}

/// The one SPIFFE id. Both parsers must see the same one: neither alone says who is calling.
fn spiffe_id(leaf: &X509Certificate<'_>, verified: &EndEntityCert<'_>) -> Result<SpiffeId, AuthenticationError> {
    let names = leaf.subject_alternative_name().map_err(|_| AuthenticationError::Malformed)?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let mut uris = Vec::new();
    for name in names {
        match name {
            GeneralName::URI(uri) => uris.push(*uri),
            GeneralName::Invalid(..) => return Err(AuthenticationError::Malformed),
            _ => {}
        }
    }
    let [uri] = uris.as_slice() else { return Err(AuthenticationError::SpiffeIds(uris.len())) };
    if !verified.valid_uri_names().eq([*uri]) {
        return Err(AuthenticationError::Malformed);
    }
    SpiffeId::parse(uri).map_err(AuthenticationError::SpiffeId)
}

fn from_webpki(error: webpki::Error) -> AuthenticationError {
    use webpki::Error as E;
    let millis = |time: UnixTime| time.as_secs().saturating_mul(1_000);
    match error {
        E::CertExpired { not_after, .. } => AuthenticationError::Expired { not_after: millis(not_after) },
        E::CertNotValidYet { not_before, .. } => AuthenticationError::NotYetValid { not_before: millis(not_before) },
        E::UnknownIssuer => AuthenticationError::UnknownIssuer,
        E::InvalidSignatureForPublicKey => AuthenticationError::Signature,
        E::UnsupportedSignatureAlgorithmContext(_) | E::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            AuthenticationError::SignatureAlgorithm
        }
        E::RequiredEkuNotFoundContext(_) | E::EmptyEkuExtension => AuthenticationError::Usage,
        E::CaUsedAsEndEntity => AuthenticationError::CaAsCaller,
        E::BadDer | E::BadDerTime | E::TrailingData(_) => AuthenticationError::Malformed,
        other => AuthenticationError::Chain(other),
    }
}
