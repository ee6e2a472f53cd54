//! ristretto255 (RFC 9496) with canonical encodings only.

use curve25519_dalek::ristretto::{CompressedRistretto, RistrettoPoint};
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity;

/// The bytes are not the canonical encoding of a point other than the identity, or of a scalar below the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical encoding of a group element")]
pub struct BadEncoding;

/// Decodes a point; the identity is refused.
///
/// # Errors
/// [`BadEncoding`] for a non-canonical encoding and for the identity.
pub fn point(bytes: &[u8; 32]) -> Result<RistrettoPoint, BadEncoding> {
    let p = CompressedRistretto(*bytes).decompress().ok_or(BadEncoding)?;
    if p.is_identity() { Err(BadEncoding) } else { Ok(p) }
}

/// Decodes a scalar below the group order.
///
/// # Errors
/// [`BadEncoding`] for a value that is not reduced.
pub fn scalar(bytes: &[u8; 32]) -> Result<Scalar, BadEncoding> {
    Option::from(Scalar::from_canonical_bytes(*bytes)).ok_or(BadEncoding)
}

/// SHA-512 of the transcript, reduced: a scalar with negligible bias.
#[must_use]
pub fn hash_to_scalar(purpose: &str, fields: &[&[u8]]) -> Scalar {
    Scalar::from_bytes_mod_order_wide(&crate::encoding::hash(purpose, fields))
}

/// SHA-512 of the transcript through the one-way map of RFC 9496 section 4.3.4: a point whose logarithm nobody knows.
#[must_use]
pub fn hash_to_point(purpose: &str, fields: &[&[u8]]) -> RistrettoPoint {
    RistrettoPoint::from_uniform_bytes(&crate::encoding::hash(purpose, fields))
}

/// `P` as 32 bytes.
#[must_use]
pub fn encode(p: &RistrettoPoint) -> [u8; 32] {
    p.compress().to_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identity_and_garbage_are_refused() {
        assert_eq!(point(&[0; 32]), Err(BadEncoding));
        assert_eq!(point(&[0xff; 32]), Err(BadEncoding));
        assert_eq!(scalar(&[0xff; 32]), Err(BadEncoding));
        assert!(scalar(&[0; 32]).is_ok());
    }
}
