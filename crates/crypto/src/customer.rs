//! The customer's part: a P-256 key, with ML-KEM-768 beside it where the device can, and the values `Kc_j` that its
//! holder gives out (`docs/format.md`, sections 3 and 6).
//!
//! # Security
//! The only thing that leaves this module for a holder's caller is the value of [`derive_kc`]: bound to one label by the KDF. The raw
//! shared secret never does: `R2` can be copied into another header by anybody.

use crate::encoding::{hash, hash32, lp, transcript};
use crate::kdf::{expand256, expand512, extract256};
use crate::secret::Secret;
use core::fmt;
use ml_kem::kem::{Decapsulate, KeyExport};
use ml_kem::ml_kem_768::{DecapsulationKey, EncapsulationKey};
use p256::elliptic_curve::sec1::ToSec1Point;
use rand_core::CryptoRng;
use zeroize::Zeroize;

/// How a customer key encapsulates.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum PartSuite {
    /// P-256 and ML-KEM-768: safe while either holds.
    Hybrid = 1,
    /// P-256 alone, for devices without ML-KEM.
    P256 = 2,
}

impl PartSuite {
    /// The suite with this number.
    #[must_use]
    pub fn from_u8(n: u8) -> Option<Self> {
        match n {
            1 => Some(Self::Hybrid),
            2 => Some(Self::P256),
            _ => None,
        }
    }

    /// The suite's number.
    #[must_use]
    pub fn as_u8(self) -> u8 {
        match self {
            Self::Hybrid => 1,
            Self::P256 => 2,
        }
    }

    /// The length of a ciphertext.
    #[must_use]
    pub fn ct_len(self) -> usize {
        match self {
            Self::Hybrid => POINT_LEN + KEM_CT_LEN,
            Self::P256 => POINT_LEN,
        }
    }
}

mod device;

pub use device::{Challenge, is_x_coordinate};

const POINT_LEN: usize = 65;
const KEM_CT_LEN: usize = 1088;
const KEM_KEY_LEN: usize = 1184;
const KEM_SEED_LEN: usize = 64;

/// What is wrong with a customer key or with what is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CustomerError {
    /// A suite number that this version does not know.
    #[error("unknown part suite {0}")]
    UnknownSuite(u8),
    /// A wrong length, a point off the curve, a scalar out of range, an ML-KEM key that fails its check.
    #[error("the customer key is malformed")]
    BadKey,
    /// The part names another key.
    #[error("the part is for another customer key")]
    OtherKey,
    /// A ciphertext of the wrong length or with a point off the curve.
    #[error("the part is malformed")]
    BadPart,
    /// No usable scalar came from the randomness; does not happen with a working generator.
    #[error("the randomness gave no scalar")]
    Randomness,
}

/// One customer key's encapsulation in a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// How.
    pub suite: PartSuite,
    /// To whom.
    pub cust_key_id: [u8; 32],
    /// `R2`, and the ML-KEM ciphertext in suite 1.
    pub ct: Vec<u8>,
}

impl Part {
    /// The bytes that stand in a slot.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.suite.as_u8());
        out.extend_from_slice(&self.cust_key_id);
        lp(out, &self.ct);
    }

    /// Checks what can be checked without the key: the length, and that `R2` is on the curve.
    ///
    /// # Errors
    /// [`CustomerError::BadPart`].
    pub fn check(&self) -> Result<(), CustomerError> {
        if self.ct.len() != self.suite.ct_len() {
            return Err(CustomerError::BadPart);
        }
        self.split().map(|_| ())
    }

    /// `R2`, 65 bytes uncompressed: what a device multiplies. [`Part::check`] has seen that it is on the curve.
    #[must_use]
    pub fn r2(&self) -> &[u8] {
        self.ct.get(..POINT_LEN).unwrap_or_default()
    }

    fn split(&self) -> Result<(p256::PublicKey, &[u8]), CustomerError> {
        let (point, kem) = self.ct.split_at_checked(POINT_LEN).ok_or(CustomerError::BadPart)?;
        Ok((p256_point(point).ok_or(CustomerError::BadPart)?, kem))
    }
}

/// A customer's public keys.
///
/// # Security
/// Take them from configuration, or compare [`CustomerPublic::id`] with a pinned id.
#[derive(Clone, PartialEq, Eq)]
pub struct CustomerPublic {
    suite: PartSuite,
    keys: Vec<u8>,
    id: [u8; 32],
}

impl CustomerPublic {
    /// Reads `part_suite || public keys`.
    ///
    /// # Errors
    /// [`CustomerError::UnknownSuite`], [`CustomerError::BadKey`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CustomerError> {
        let (suite, keys) = bytes.split_first().ok_or(CustomerError::BadKey)?;
        let suite = PartSuite::from_u8(*suite).ok_or(CustomerError::UnknownSuite(*suite))?;
        let public = Self::from_valid(suite, keys.to_vec());
        public.points()?;
        Ok(public)
    }

    fn from_valid(suite: PartSuite, keys: Vec<u8>) -> Self {
        let id = cust_key_id(suite, &keys);
        Self { suite, keys, id }
    }

    /// `part_suite || public keys`: 1250 bytes for suite 1, 66 for suite 2.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![self.suite.as_u8()];
        out.extend_from_slice(&self.keys);
        out
    }

    /// The suite.
    #[must_use]
    pub fn suite(&self) -> PartSuite {
        self.suite
    }

    /// The pinned id.
    #[must_use]
    pub fn id(&self) -> [u8; 32] {
        self.id
    }

    fn points(&self) -> Result<(p256::PublicKey, Option<EncapsulationKey>), CustomerError> {
        let (point, kem) = self.keys.split_at_checked(POINT_LEN).ok_or(CustomerError::BadKey)?;
        let point = p256_point(point).ok_or(CustomerError::BadKey)?;
        match self.suite {
            PartSuite::P256 if kem.is_empty() => Ok((point, None)),
            PartSuite::Hybrid if kem.len() == KEM_KEY_LEN => {
                let key = kem.try_into().map_err(|_| CustomerError::BadKey)?;
                Ok((point, Some(EncapsulationKey::new(key).map_err(|_| CustomerError::BadKey)?)))
            }
            PartSuite::P256 | PartSuite::Hybrid => Err(CustomerError::BadKey),
        }
    }

    /// A part that belongs to no version, and the `Kc_j` that its holder must give for it under these labels: tells a holder
    /// that gives wrong values from a version that was sealed wrong.
    ///
    /// # Errors
    /// [`CustomerError::BadKey`], [`CustomerError::Randomness`].
    pub fn test_seal(
        &self,
        object: &[u8],
        wrap: &[u8],
        rng: &mut impl CryptoRng,
    ) -> Result<(Part, Secret<32>), CustomerError> {
        let seed = Secret::random(rng);
        self.encapsulate(object, wrap, |purpose, fields| expand512(&seed, &transcript(purpose, fields)))
    }

    /// Makes the part and its `Kc_j` under one label. `draw(purpose, fields)` is the randomness of this seal.
    pub(crate) fn encapsulate(
        &self,
        object: &[u8],
        wrap: &[u8],
        draw: impl Fn(&str, &[&[u8]]) -> Secret<32>,
    ) -> Result<(Part, Secret<32>), CustomerError> {
        let (point, kem_key) = self.points()?;
        let r2 = (0..=u8::MAX)
            .find_map(|c| p256::SecretKey::from_slice(draw("fresh-r2", &[&self.id, &[c]]).expose()).ok())
            .ok_or(CustomerError::Randomness)?;
        let mut shared = ecdh(&r2, &point);
        let mut ct = r2.public_key().to_sec1_point(false).as_bytes().to_vec();
        if let Some(kem_key) = kem_key {
            let mut m = (*draw("fresh-m", &[&self.id]).expose()).into();
            let (kem_ct, mut kem_shared) = kem_key.encapsulate_deterministic(&m);
            shared.append(&kem_shared);
            m.as_mut_slice().zeroize();
            kem_shared.as_mut_slice().zeroize();
            ct.extend_from_slice(&kem_ct);
        }
        let part = Part { suite: self.suite, cust_key_id: self.id, ct };
        let kc = shared.bind(object, wrap, &part, &self.keys);
        Ok((part, kc))
    }
}

impl fmt::Debug for CustomerPublic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CustomerPublic({:?}, ", self.suite)?;
        for b in self.id.iter().take(8) {
            write!(f, "{b:02x}")?;
        }
        f.write_str("..)")
    }
}

/// The id of a customer key: `public_keys` without the suite in front.
#[must_use]
pub fn cust_key_id(suite: PartSuite, public_keys: &[u8]) -> [u8; 32] {
    hash32("cust-key-id", &[&[suite.as_u8()], public_keys])
}

/// A customer's secret key in software.
pub struct CustomerSecret {
    p256: p256::SecretKey,
    /// `d || z`, in suite 1.
    kem_seed: Option<Secret<KEM_SEED_LEN>>,
    public: CustomerPublic,
}

impl CustomerSecret {
    /// A fresh key.
    pub fn generate(suite: PartSuite, rng: &mut impl CryptoRng) -> Self {
        let p256 = loop {
            if let Ok(key) = p256::SecretKey::from_slice(Secret::<32>::random(rng).expose()) {
                break key;
            }
        };
        let kem_seed = match suite {
            PartSuite::Hybrid => Some(Secret::random(rng)),
            PartSuite::P256 => None,
        };
        Self::from_keys(p256, kem_seed)
    }

    /// Reads `part_suite || scalar || seed`.
    ///
    /// # Errors
    /// [`CustomerError::UnknownSuite`], [`CustomerError::BadKey`].
    pub fn decode(bytes: &[u8]) -> Result<Self, CustomerError> {
        let (suite, rest) = bytes.split_first().ok_or(CustomerError::BadKey)?;
        let suite = PartSuite::from_u8(*suite).ok_or(CustomerError::UnknownSuite(*suite))?;
        let (scalar, seed) = rest.split_at_checked(32).ok_or(CustomerError::BadKey)?;
        let p256 = p256::SecretKey::from_slice(scalar).map_err(|_| CustomerError::BadKey)?;
        match suite {
            PartSuite::P256 if seed.is_empty() => Ok(Self::from_keys(p256, None)),
            PartSuite::P256 => Err(CustomerError::BadKey),
            PartSuite::Hybrid => {
                let seed = Secret::from_slice(seed).ok_or(CustomerError::BadKey)?;
                Ok(Self::from_keys(p256, Some(seed)))
            }
        }
    }

    fn from_keys(p256: p256::SecretKey, kem_seed: Option<Secret<KEM_SEED_LEN>>) -> Self {
        let mut keys = p256.public_key().to_sec1_point(false).as_bytes().to_vec();
        let mut suite = PartSuite::P256;
        if let Some(seed) = &kem_seed {
            keys.extend_from_slice(&kem_key(seed).encapsulation_key().to_bytes());
            suite = PartSuite::Hybrid;
        }
        let public = CustomerPublic::from_valid(suite, keys);
        Self { p256, kem_seed, public }
    }

    /// `part_suite || scalar || seed`: 97 bytes for suite 1, 33 for suite 2; the content of a sealed file.
    #[must_use]
    pub fn encode(&self) -> crate::secret::SecretVec {
        let mut out = Vec::with_capacity(1 + 32 + KEM_SEED_LEN);
        out.push(self.public.suite.as_u8());
        let mut scalar = self.p256.to_bytes();
        out.extend_from_slice(&scalar);
        scalar.as_mut_slice().zeroize();
        if let Some(seed) = &self.kem_seed {
            out.extend_from_slice(seed.expose());
        }
        crate::secret::SecretVec::new(out)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> &CustomerPublic {
        &self.public
    }
}

impl fmt::Debug for CustomerSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CustomerSecret({:?})", self.public)
    }
}

/// `Kc_j`: what the holder of a customer key gives to a caller whom it lets open `object` under `wrap`.
///
/// `object` and `wrap` are the encoded labels, as [`crate::sealed::Header::object_bytes`] and
/// [`crate::sealed::Header::wrap_bytes`] give them. The holder decides on exactly these bytes: it decodes them itself.
///
/// # Errors
/// [`CustomerError::OtherKey`], [`CustomerError::BadPart`].
pub fn derive_kc(
    secret: &CustomerSecret,
    object: &[u8],
    wrap: &[u8],
    part: &Part,
) -> Result<Secret<32>, CustomerError> {
    let device = |r2: &p256::PublicKey| ecdh(&secret.p256, r2);
    derive(&secret.public, device, secret.kem_seed.as_ref(), object, wrap, part)
}

/// [`derive_kc`] where the P-256 key lies in a device: `x` is the x coordinate of its product with [`Part::r2`], and
/// `kem_seed` is the ML-KEM seed that lies beside it in suite 1.
///
/// # Security
/// For the process that talks to the device. `x` opens parts under any label; it goes nowhere else.
///
/// # Errors
/// [`CustomerError::OtherKey`], [`CustomerError::BadPart`]; [`CustomerError::BadKey`] when the seed is missing or too much.
pub fn derive_kc_from_x(
    public: &CustomerPublic,
    x: &Secret<32>,
    kem_seed: Option<&Secret<64>>,
    object: &[u8],
    wrap: &[u8],
    part: &Part,
) -> Result<Secret<32>, CustomerError> {
    derive(public, |_| SharedSecret::new(x.expose()), kem_seed, object, wrap, part)
}

fn derive(
    public: &CustomerPublic,
    ecdh: impl FnOnce(&p256::PublicKey) -> SharedSecret,
    kem_seed: Option<&Secret<KEM_SEED_LEN>>,
    object: &[u8],
    wrap: &[u8],
    part: &Part,
) -> Result<Secret<32>, CustomerError> {
    if part.cust_key_id != public.id || part.suite != public.suite {
        return Err(CustomerError::OtherKey);
    }
    part.check()?;
    let (r2, kem_ct) = part.split()?;
    let mut shared = ecdh(&r2);
    match (public.suite, kem_seed) {
        (PartSuite::P256, None) => {}
        (PartSuite::Hybrid, Some(seed)) => {
            let ct = kem_ct.try_into().map_err(|_| CustomerError::BadPart)?;
            let mut kem_shared = kem_key(seed).decapsulate(ct);
            shared.append(&kem_shared);
            kem_shared.as_mut_slice().zeroize();
        }
        (PartSuite::P256, Some(_)) | (PartSuite::Hybrid, None) => return Err(CustomerError::BadKey),
    }
    Ok(shared.bind(object, wrap, part, &public.keys))
}

fn ecdh(secret: &p256::SecretKey, public: &p256::PublicKey) -> SharedSecret {
    let x = p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), public.as_affine());
    SharedSecret::new(x.raw_secret_bytes())
}

/// `SS_j`: never leaves this module.
struct SharedSecret(zeroize::Zeroizing<Vec<u8>>);

impl SharedSecret {
    fn new(x: &[u8]) -> Self {
        let mut bytes = Vec::with_capacity(64);
        bytes.extend_from_slice(x);
        Self(bytes.into())
    }

    fn append(&mut self, kem_shared: &[u8]) {
        self.0.extend_from_slice(kem_shared);
    }

    fn bind(self, object: &[u8], wrap: &[u8], part: &Part, keys: &[u8]) -> Secret<32> {
        let info = hash("cust-info", &[object, wrap, &[part.suite.as_u8()], &part.cust_key_id, keys, &part.ct]);
        expand256(&extract256(&transcript("cust", &[]), &[&self.0]), &info)
    }
}

fn kem_key(seed: &Secret<KEM_SEED_LEN>) -> DecapsulationKey {
    let mut copy = (*seed.expose()).into();
    let key = DecapsulationKey::from_seed(copy);
    copy.as_mut_slice().zeroize();
    key
}

/// An uncompressed point on the curve, in its only accepted form.
fn p256_point(bytes: &[u8]) -> Option<p256::PublicKey> {
    if bytes.len() != POINT_LEN || bytes.first() != Some(&4) {
        return None;
    }
    p256::PublicKey::from_sec1_bytes(bytes).ok()
}
