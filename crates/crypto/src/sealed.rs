//! Sealed versions: labels, header, payload; sealing, re-wrapping, opening (`docs/format.md`, sections 4 to 12).
//!
//! Sealing needs public keys only; opening needs the point that t members' partials combine to, and the customers'
//! values. What a reader or writer may do, which keys it should trust and which version number this is are not known
//! here: callers compare [`Header::object`] and [`Header::wrap`] with what they asked for and have pinned.

mod header;
mod label;
mod payload;
mod proof;
#[cfg(test)]
mod tests;
mod wrap;

pub use header::{AcceptError, Header, MAX_PARTS, Slot};
pub use label::{
    MAX_NAMESPACE, MAX_PATH, MAX_PLAINTEXT, MAX_PRINCIPAL, ObjectLabel, PAYLOAD_SUITE, WRAP_SUITE, WrapLabel,
    check_namespace, check_path, check_principal, padded_len,
};
pub use proof::{BadProof, verify_batch};

use crate::customer::{CustomerError, CustomerPublic};
use crate::encoding::{Malformed, hash, transcript};
use crate::group::{encode, hash_to_scalar};
use crate::kdf::{expand512, extract512, unwrap_key, wrap_key};
use crate::keyring::{KeyringClass, KeyringPublic, g_bar, keyring_id};
use crate::secret::{Secret, SecretVec};
use crate::threshold::SecretPoint;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use header::{Body, pair};
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

/// Why bytes are not a header, or a value can't stand in one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// Cut short, trailing bytes, a field of the wrong length, text that is not UTF-8.
    #[error("the encoding is malformed")]
    Malformed,
    /// Written by a later version.
    #[error("unknown payload suite {0}")]
    UnknownPayloadSuite(u8),
    /// Written by a later version.
    #[error("unknown wrap suite {0}")]
    UnknownWrapSuite(u8),
    /// Written by a later version.
    #[error("unknown part suite {0}")]
    UnknownPartSuite(u8),
    /// See [`check_path`].
    #[error("the path breaks the rule for paths")]
    Path,
    /// See [`check_namespace`].
    #[error("the namespace breaks the rule for namespaces")]
    Namespace,
    /// See [`check_principal`].
    #[error("the writer's id breaks the rule for ids")]
    Principal,
    /// Not a value of [`padded_len`].
    #[error("a padded length of {0} bytes does not exist")]
    PaddedLength(u64),
    /// Empty, or more than [`MAX_PLAINTEXT`].
    #[error("a plaintext has 1 to {MAX_PLAINTEXT} bytes, not {0}")]
    PlaintextLength(usize),
    /// Wrap suite 1 has exactly one.
    #[error("{0} slots instead of one")]
    SlotCount(u8),
    /// More than [`MAX_PARTS`].
    #[error("{0} parts in a slot, more than {MAX_PARTS}")]
    PartCount(usize),
    /// Not strictly ascending.
    #[error("the parts are not in strictly ascending order")]
    PartOrder,
    /// A ciphertext of the wrong length, or a point off the curve.
    #[error("a customer part is malformed")]
    BadPart,
    /// Not canonical, or the identity.
    #[error("a point is malformed")]
    BadPoint,
    /// Not below the group order.
    #[error("a scalar is malformed")]
    BadScalar,
}

impl From<Malformed> for FormatError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What a writer says of a new version; the rest of [`ObjectLabel`] follows from the plaintext.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectTemplate {
    /// The cluster's id.
    pub cluster: [u8; 32],
    /// The secret's id.
    pub secret_id: [u8; 16],
    /// A fresh id for the version.
    pub version_id: [u8; 16],
    /// The writer's clock, milliseconds since 1970 UTC.
    pub created: u64,
    /// The writer's SPIFFE id.
    pub writer_id: String,
}

/// What a writer says of a wrap; the rest of [`WrapLabel`] follows from the keyring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrapTemplate {
    /// The namespace.
    pub namespace: String,
    /// The path in it.
    pub path: String,
    /// Which wrap of this version this is.
    pub wrap_no: u32,
    /// The SPIFFE id of whoever wraps.
    pub wrapped_by: String,
}

/// A sealed version, ready to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sealed {
    /// See [`Header`].
    pub header: Vec<u8>,
    /// Nonce, ciphertext, tag.
    pub payload: Vec<u8>,
}

/// The random input of one seal: 64 and 32 bytes.
///
/// # Security
/// Everything else is derived from it together with the content, so repeating it (a cloned virtual machine) does no harm
/// by itself. Choosing it is for test vectors only.
#[derive(Debug)]
pub struct Fresh {
    /// `fresh`.
    pub keys: Secret<64>,
    /// `fresh_w`.
    pub proof: Secret<32>,
}

impl Fresh {
    /// Draws both.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self { keys: Secret::random(rng), proof: Secret::random(rng) }
    }
}

/// Why nothing was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A name or a length breaks its rule.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// A customer key is malformed.
    #[error(transparent)]
    Customer(#[from] CustomerError),
    /// `y` is not a point.
    #[error("the keyring's public key is malformed")]
    BadKeyring,
    /// Customer keys for class `cluster`, or none for class `customer`.
    #[error("the customer keys do not fit the class of the keyring")]
    Class,
    /// One customer key twice.
    #[error("a customer key is named twice")]
    DuplicateCustomer,
    /// The randomness gave a zero scalar; does not happen with a working generator.
    #[error("the randomness gave no scalar")]
    Randomness,
}

/// Seals `plaintext` (1 byte to 1 MiB) to a keyring and to all of `customers`, in any order.
///
/// # Security
/// `keyring` and `customers` come from the writer's configuration or are compared with its pins: never from a node's
/// answer alone.
///
/// # Errors
/// [`SealError`].
pub fn seal(
    plaintext: &[u8],
    object: &ObjectTemplate,
    wrap: &WrapTemplate,
    keyring: &KeyringPublic,
    customers: &[CustomerPublic],
    rng: &mut impl CryptoRng,
) -> Result<Sealed, SealError> {
    seal_with(plaintext, object, wrap, keyring, customers, &Fresh::random(rng))
}

/// [`seal`] as a function of its random input: test vectors are made and checked with it.
///
/// # Errors
/// [`SealError`].
pub fn seal_with(
    plaintext: &[u8],
    object: &ObjectTemplate,
    wrap: &WrapTemplate,
    keyring: &KeyringPublic,
    customers: &[CustomerPublic],
    fresh: &Fresh,
) -> Result<Sealed, SealError> {
    let label = ObjectLabel {
        payload_suite: PAYLOAD_SUITE,
        cluster: object.cluster,
        secret_id: object.secret_id,
        version_id: object.version_id,
        created: object.created,
        writer_id: object.writer_id.clone(),
        padded_len: padded_len(plaintext.len())?,
    };
    label.check()?;
    let object = label.encode();
    let seed = extract512(&transcript("fresh", &[]), fresh.keys.expose());
    let content = Secret::<64>::init_with(|o| *o = hash("fresh-obj", &[plaintext, &object]));
    let dek = expand512(&seed, &transcript("fresh-dek", &[content.expose()]));
    let nonce = expand512(&seed, &transcript("fresh-nonce", &[content.expose()]));
    let payload = payload::seal(plaintext, &object, &dek, &nonce)?;
    let version = Version { object: &object, payload_hash: payload::payload_hash(&payload), dek: &dek };
    let header = version.wrap(wrap, keyring, customers, &seed, &fresh.proof)?;
    Ok(Sealed { header, payload })
}

/// What stays the same when a version is wrapped again.
struct Version<'a> {
    object: &'a [u8],
    payload_hash: [u8; 64],
    dek: &'a Secret<32>,
}

impl Version<'_> {
    fn wrap(
        &self,
        template: &WrapTemplate,
        keyring: &KeyringPublic,
        customers: &[CustomerPublic],
        seed: &Secret<64>,
        fresh_w: &Secret<32>,
    ) -> Result<Vec<u8>, SealError> {
        let customers = sorted(keyring.class, customers)?;
        let y = keyring.point().map_err(|_| SealError::BadKeyring)?;
        let keyring_id = keyring.id();
        let label = WrapLabel {
            wrap_suite: WRAP_SUITE,
            keyring_id,
            namespace: template.namespace.clone(),
            path: template.path.clone(),
            wrap_no: template.wrap_no,
            wrapped_by: template.wrapped_by.clone(),
        };
        label.check()?;
        let wrap = label.encode();
        let fields: [&[u8]; 4] = [self.dek.expose(), self.object, &wrap, &self.payload_hash];
        let context = Secret::<64>::init_with(|o| *o = hash("fresh-wrap", &fields));
        let wide: Secret<64> = expand512(seed, &transcript("fresh-r", &[context.expose()]));
        let r = Zeroizing::new(Scalar::from_bytes_mod_order_wide(wide.expose()));
        let g_bar = g_bar(&keyring_id);
        let kem = pair(&encode(&RistrettoPoint::mul_base(&r)), &encode(&(g_bar * *r)));

        let mut parts = Vec::with_capacity(customers.len());
        let mut kcs = Vec::with_capacity(customers.len());
        for customer in customers {
            let (part, kc) = customer.encapsulate(self.object, &wrap, |purpose, fields| {
                let fields: Vec<&[u8]> =
                    core::iter::once(context.expose().as_slice()).chain(fields.iter().copied()).collect();
                expand512(seed, &Zeroizing::new(transcript(purpose, &fields)))
            })?;
            parts.push(part);
            kcs.push(kc);
        }
        let schedule = wrap::Context { object: self.object, wrap: &wrap, y: &keyring.y, kem: &kem };
        let (kek, kc) = schedule.kek(&SecretPoint::new(y * *r), &parts, &kcs);
        let wdek = wrap_key(&kek, &schedule.aad(), self.dek).map_err(|_| SealError::Randomness)?;
        let slot = Slot { parts, kc: *kc.expose(), wdek };
        let header_a = Body {
            object: self.object,
            wrap: &wrap,
            payload_hash: &self.payload_hash,
            dek_commitment: &payload::dek_commitment(self.dek),
            kem: &kem,
            slot: &slot,
        }
        .encode();
        let w = Zeroizing::new(hash_to_scalar("w", &[fresh_w.expose(), r.as_bytes(), &header_a]));
        if *r == Scalar::ZERO || *w == Scalar::ZERO {
            return Err(SealError::Randomness);
        }
        Ok(proof::finish(header_a, &keyring_id, &g_bar, &r, &w))
    }
}

fn sorted(class: KeyringClass, customers: &[CustomerPublic]) -> Result<Vec<&CustomerPublic>, SealError> {
    match (class, customers.len()) {
        (KeyringClass::Cluster, 0) | (KeyringClass::Customer, 1..=MAX_PARTS) => {}
        (KeyringClass::Customer, n) if n > MAX_PARTS => return Err(FormatError::PartCount(n).into()),
        (KeyringClass::Cluster | KeyringClass::Customer, _) => return Err(SealError::Class),
    }
    let mut sorted: Vec<&CustomerPublic> = customers.iter().collect();
    sorted.sort_by_key(|c| c.id());
    if sorted.windows(2).any(|pair| matches!(pair, [a, b] if a.id() == b.id())) {
        return Err(SealError::DuplicateCustomer);
    }
    Ok(sorted)
}

/// Why a version does not open. The cause says who is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// `y` is not the key of the header's keyring.
    #[error("the header is wrapped to another keyring")]
    OtherKeyring,
    /// Not one customer value for each part.
    #[error("{given} customer values for {parts} parts")]
    CustomerValues {
        /// How many there are.
        given: usize,
        /// How many it takes.
        parts: usize,
    },
    /// The payload is not as long as the header says.
    #[error("the payload has not the length the header names")]
    PayloadLength,
    /// The payload is not the header's.
    #[error("the payload is not the one the header names")]
    PayloadHash,
    /// A partial or a customer value is wrong: ask for proofs.
    #[error("the key commitment differs: a partial or a customer value is wrong")]
    KeyCommitment,
    /// The wrapped key does not open under the committed key: `wrapped_by` wrapped it so.
    #[error("the wrapped data key does not open")]
    WrappedKey,
    /// The wrapped key is not the one committed to: `wrapped_by` wrapped it so.
    #[error("the data key is not the one the header commits to")]
    DekCommitment,
    /// The payload does not open under the committed data key: `writer_id` sealed it so.
    #[error("the payload does not open")]
    PayloadTag,
    /// True length and padding contradict each other: `writer_id` sealed it so.
    #[error("the length or padding of the plaintext is wrong")]
    Padding,
}

/// Opens a version with the combined point and the customers' values, one for each part in the order of the slot.
///
/// The proof is not checked again: a header with a wrong one was never accepted, and opens to what it commits to anyway.
///
/// # Security
/// Compare the keyring, the customer keys, cluster, namespace and path with the request and the pins first.
///
/// # Errors
/// [`OpenError`].
pub fn open(
    header: &Header,
    payload: &[u8],
    y: &[u8; 32],
    ss1: &SecretPoint,
    kcs: &[Secret<32>],
) -> Result<SecretVec, OpenError> {
    check_inputs(header, y, kcs)?;
    header.check_payload(payload).map_err(|e| match e {
        AcceptError::PayloadLength => OpenError::PayloadLength,
        _ => OpenError::PayloadHash,
    })?;
    let dek = unwrap_dek(header, y, ss1, kcs)?;
    payload::open(payload, &header.object_bytes(), &dek).map_err(|e| match e {
        payload::PayloadError::Tag => OpenError::PayloadTag,
        payload::PayloadError::Padding => OpenError::Padding,
    })
}

fn check_inputs(header: &Header, y: &[u8; 32], kcs: &[Secret<32>]) -> Result<(), OpenError> {
    if header.wrap().keyring_id != keyring_id(y) {
        return Err(OpenError::OtherKeyring);
    }
    let (given, parts) = (kcs.len(), header.slot().parts.len());
    if given == parts { Ok(()) } else { Err(OpenError::CustomerValues { given, parts }) }
}

fn unwrap_dek(header: &Header, y: &[u8; 32], ss1: &SecretPoint, kcs: &[Secret<32>]) -> Result<Secret<32>, OpenError> {
    let Slot { parts, kc, wdek } = header.slot();
    let (object, wrap) = (header.object_bytes(), header.wrap_bytes());
    let kem = pair(&encode(&header.r), &encode(&header.r_bar));
    let schedule = wrap::Context { object: &object, wrap: &wrap, y, kem: &kem };
    let (kek, expected) = schedule.kek(ss1, parts, kcs);
    if !bool::from(expected.expose().ct_eq(kc)) {
        return Err(OpenError::KeyCommitment);
    }
    let dek = unwrap_key(&kek, &schedule.aad(), wdek).map_err(|_| OpenError::WrappedKey)?;
    if payload::dek_commitment(&dek) != *header.dek_commitment() {
        return Err(OpenError::DekCommitment);
    }
    Ok(dek)
}

/// Why a version was not wrapped again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewrapError {
    /// The old wrap does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The new one can't be made.
    #[error(transparent)]
    Seal(#[from] SealError),
}

/// What the new wrap of [`rewrap`] is made to.
#[derive(Debug, Clone, Copy)]
pub struct NewWrap<'a> {
    /// Namespace, path, number and author.
    pub wrap: &'a WrapTemplate,
    /// The new keyring.
    pub keyring: &'a KeyringPublic,
    /// The new customer keys.
    pub customers: &'a [CustomerPublic],
}

/// Wraps the data key of a version again, to another keyring, other customers or another path. The payload stays.
///
/// # Security
/// Whoever knew the data key still does: to exclude a reader write a new version.
///
/// # Errors
/// [`RewrapError`].
pub fn rewrap(
    header: &Header,
    y: &[u8; 32],
    ss1: &SecretPoint,
    kcs: &[Secret<32>],
    new: &NewWrap<'_>,
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, RewrapError> {
    check_inputs(header, y, kcs)?;
    let dek = unwrap_dek(header, y, ss1, kcs)?;
    let object = header.object_bytes();
    let version = Version { object: &object, payload_hash: *header.payload_hash(), dek: &dek };
    let fresh = Fresh::random(rng);
    let seed = extract512(&transcript("fresh", &[]), fresh.keys.expose());
    Ok(version.wrap(new.wrap, new.keyring, new.customers, &seed, &fresh.proof)?)
}
