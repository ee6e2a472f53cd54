//! Ed25519 signatures (RFC 8032) over transcripts, verified strictly.

use crate::encoding::transcript;
use crate::secret::Secret;
use core::fmt;
use ed25519_dalek::{Signature as DalekSignature, Signer as _, SigningKey as DalekKey, VerifyingKey as DalekVerify};
use rand_core::CryptoRng;

/// The public half of a signing key: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyKey(pub [u8; 32]);

impl fmt::Debug for VerifyKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("VerifyKey(")?;
        for b in self.0.iter().take(8) {
            write!(f, "{b:02x}")?;
        }
        f.write_str("..)")
    }
}

/// A signature does not verify under the key it was checked with, or the key is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct BadSignature;

impl VerifyKey {
    /// Checks `signature` over `LP("quorate/v1/<purpose>") LP(fields)...`.
    ///
    /// Strict: small-order keys and non-canonical signatures are refused, so one message has one verdict on every node.
    ///
    /// # Errors
    /// [`BadSignature`] in every other case.
    pub fn verify(&self, purpose: &str, fields: &[&[u8]], signature: &[u8; 64]) -> Result<(), BadSignature> {
        let key = DalekVerify::from_bytes(&self.0).map_err(|_| BadSignature)?;
        key.verify_strict(&transcript(purpose, fields), &DalekSignature::from_bytes(signature))
            .map_err(|_| BadSignature)
    }
}

/// An Ed25519 signing key. Its seed is 32 bytes, on the heap: moving the key moves a pointer, and leaves no copy behind.
///
/// # Security
/// Signs transcripts with a purpose only: a signature made for one purpose is worthless for another.
pub struct SigningKey(Box<DalekKey>);

impl SigningKey {
    /// A fresh key.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self::from_seed(&Secret::random(rng))
    }

    /// The key of a seed (RFC 8032 section 5.1.5).
    #[must_use]
    pub fn from_seed(seed: &Secret<32>) -> Self {
        let (mut key, mut made) = (Box::new(DalekKey::from_bytes(&[0; 32])), DalekKey::from_bytes(seed.expose()));
        // What changes places with it is wiped when it is dropped; what is moved stays where it was.
        core::mem::swap(&mut *key, &mut made);
        Self(key)
    }

    /// The seed, to be written into a sealed file.
    #[must_use]
    pub fn seed(&self) -> Secret<32> {
        Secret::init_with(|out| *out = *self.0.as_bytes())
    }

    /// The public half.
    #[must_use]
    pub fn verify_key(&self) -> VerifyKey {
        VerifyKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `LP("quorate/v1/<purpose>") LP(fields)...`.
    #[must_use]
    pub fn sign(&self, purpose: &str, fields: &[&[u8]]) -> [u8; 64] {
        self.0.sign(&transcript(purpose, fields)).to_bytes()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({:?})", self.verify_key())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn purpose_and_fields_are_bound() {
        let key = SigningKey::from_seed(&Secret::init_with(|s| s.fill(7)));
        let sig = key.sign("test", &[b"a", b"b"]);
        let public = key.verify_key();
        assert_eq!(public.verify("test", &[b"a", b"b"], &sig), Ok(()));
        assert_eq!(public.verify("other", &[b"a", b"b"], &sig), Err(BadSignature));
        assert_eq!(public.verify("test", &[b"ab"], &sig), Err(BadSignature));
        assert_eq!(VerifyKey([0; 32]).verify("test", &[b"a", b"b"], &sig), Err(BadSignature));
    }
}
