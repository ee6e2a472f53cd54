//! The threshold part: a member's share, its partial for one ciphertext, and the combination of t partials.
//!
//! Shares meet only in the exponent of one point. Nothing here, or elsewhere, adds shares up to a key. Which ciphertexts
//! a member answers for is not known here: that is the policy of the caller. The proof that a partial is right is in
//! [`crate::dleq`].

use crate::group::{self, BadEncoding};
use crate::secret::Secret;
use core::fmt;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;
use vsss_rs::{DefaultShare, GroupShare, IdentifierPrimeField, ReadableShareSet, ValueGroup};
use zeroize::{Zeroize, Zeroizing};

/// Member `index`'s value of the keyring's polynomial, in one epoch.
///
/// # Security
/// t shares of one epoch are the key. Wiped on drop, no `Clone`.
pub struct KeyShare {
    index: u8,
    secret: Box<Zeroizing<Scalar>>,
}

/// What is wrong with a share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ShareError {
    /// Index 0 is where the key itself lies.
    #[error("the share index is 0")]
    ZeroIndex,
    /// Not 33 bytes, or a scalar that is 0 or not below the group order.
    #[error("the share is malformed")]
    Malformed,
}

impl KeyShare {
    /// A share from its index and its scalar (little-endian).
    ///
    /// # Errors
    /// [`ShareError`]; a zero scalar is refused, because its partial would be the identity.
    pub fn new(index: u8, secret: &Secret<32>) -> Result<Self, ShareError> {
        if index == 0 {
            return Err(ShareError::ZeroIndex);
        }
        let secret = group::scalar(secret.expose()).map_err(|_| ShareError::Malformed)?;
        if secret == Scalar::ZERO {
            return Err(ShareError::Malformed);
        }
        Ok(Self { index, secret: Box::new(Zeroizing::new(secret)) })
    }

    /// The member's slot, 1..=255.
    #[must_use]
    pub fn index(&self) -> u8 {
        self.index
    }

    /// `Y_i = k_i G`, which the epoch's certificate names.
    #[must_use]
    pub fn public_share(&self) -> [u8; 32] {
        group::encode(&RistrettoPoint::mul_base(&self.secret))
    }

    /// `index || scalar`: the content of a sealed file.
    #[must_use]
    pub fn to_secret(&self) -> Secret<33> {
        Secret::init_with(|out| {
            let (index, scalar) = out.split_at_mut(1);
            index.fill(self.index);
            scalar.copy_from_slice(self.secret.as_bytes());
        })
    }

    /// The inverse of [`KeyShare::to_secret`].
    ///
    /// # Errors
    /// [`ShareError`].
    pub fn from_secret(bytes: &[u8]) -> Result<Self, ShareError> {
        let (index, scalar) = bytes.split_first().ok_or(ShareError::Malformed)?;
        Self::new(*index, &Secret::from_slice(scalar).ok_or(ShareError::Malformed)?)
    }

    pub(crate) fn scalar(&self) -> &Scalar {
        &self.secret
    }
}

impl fmt::Debug for KeyShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyShare({}, redacted)", self.index)
    }
}

/// A point that opens something: `SS1`, 32 bytes.
#[derive(Debug)]
pub struct SecretPoint(Secret<32>);

impl SecretPoint {
    /// Takes a point over.
    pub(crate) fn new(mut p: RistrettoPoint) -> Self {
        let out = Self(Secret::init_with(|o| *o = group::encode(&p)));
        p.zeroize();
        out
    }

    /// The canonical encoding.
    #[must_use]
    pub fn expose(&self) -> &[u8; 32] {
        self.0.expose()
    }
}

/// `k_i R`: this member's part in opening the ciphertext whose header holds `r`.
///
/// # Security
/// Take `r` from a header of the node's own state whose proof was verified, never from a request: a partial for
/// `R' = R + ρG` of an attacker's choice opens `R`.
///
/// # Errors
/// [`BadEncoding`] when `r` is not a point, or is the identity.
pub fn partial(share: &KeyShare, r: &[u8; 32]) -> Result<[u8; 32], BadEncoding> {
    Ok(group::encode(&(group::point(r)? * share.scalar())))
}

/// Why partials do not combine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CombineError {
    /// Fewer than two partials; t is at least 2.
    #[error("fewer than two partials")]
    TooFew,
    /// Index 0 is where the key itself lies.
    #[error("a partial has index 0")]
    ZeroIndex,
    /// Two partials of one member.
    #[error("two partials of member {index}")]
    Duplicate {
        /// The member.
        index: u8,
    },
    /// Not a point, or the identity.
    #[error("the partial of member {index} is not a point")]
    BadPoint {
        /// The member.
        index: u8,
    },
    /// The sum is the identity, which no honest set of partials gives.
    #[error("the partials combine to the identity")]
    Identity,
}

/// `SS1 = Σ λ_i P_i`: Lagrange interpolation at 0, in the exponent.
///
/// All partials that are given are used. Give exactly t, of one epoch. A wrong one is not seen here but in the key
/// commitment when the header is opened.
///
/// # Errors
/// [`CombineError`].
pub fn combine(partials: &[(u8, [u8; 32])]) -> Result<SecretPoint, CombineError> {
    let mut shares: Vec<GroupShare<RistrettoPoint>> = Vec::with_capacity(partials.len());
    let mut seen = std::collections::BTreeSet::new();
    for (index, bytes) in partials {
        let index = *index;
        if index == 0 {
            return Err(CombineError::ZeroIndex);
        }
        if !seen.insert(index) {
            return Err(CombineError::Duplicate { index });
        }
        let point = group::point(bytes).map_err(|_| CombineError::BadPoint { index })?;
        let identifier = IdentifierPrimeField(Scalar::from(index));
        shares.push(DefaultShare { identifier, value: ValueGroup(point) });
    }
    #[expect(clippy::disallowed_methods, reason = "points, not scalars: the result opens one ciphertext")]
    let combined = shares.combine();
    for share in &mut shares {
        share.value.0.zeroize();
    }
    let point = combined.map_err(|_| CombineError::TooFew)?.0;
    if point.is_identity() {
        return Err(CombineError::Identity);
    }
    Ok(SecretPoint::new(point))
}
