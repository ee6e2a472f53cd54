//! Ed25519 signatures (RFC 8032) over transcripts, verified strictly.

use crate::encoding::transcript;
use crate::secret::Secret;
use core::fmt;
use ed25519_dalek::{Signature as DalekSignature, Signer as _, SigningKey as DalekKey, VerifyingKey as DalekVerify};
use rand_core::CryptoRng;
use sha2::{Digest, Sha512_256};
use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

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
        self.verify_transcript(&transcript(purpose, fields), signature)
    }

    fn verify_transcript(&self, signed: &[u8], signature: &[u8; 64]) -> Result<(), BadSignature> {
        let key = DalekVerify::from_bytes(&self.0).map_err(|_| BadSignature)?;
        key.verify_strict(signed, &DalekSignature::from_bytes(signature)).map_err(|_| BadSignature)
    }
}

/// How many signatures are remembered at least, once as many were verified; at most twice as many.
const REMEMBERED: usize = 8_192;

/// Signatures that this process has verified, so that it need not verify them again: a member meets the same ones when it decides,
/// when it gathers the decisions of others, and when it applies what they have led to.
///
/// At most a megabyte.
///
/// # Security
/// Only what [`VerifyKey::verify`] has found right here is remembered, under a hash of the key, the signature and all that is signed:
/// the verdict is the same with it and without. Nothing is remembered of what was found wrong, and nothing is put in by anyone else.
#[derive(Default)]
pub struct Verified(Mutex<Generations>);

/// The newer one is filled, and takes the place of the older one when it is full.
#[derive(Default)]
struct Generations {
    newer: BTreeSet<[u8; 32]>,
    older: BTreeSet<[u8; 32]>,
}

impl fmt::Debug for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verified")
    }
}

impl Verified {
    /// As [`VerifyKey::verify`].
    ///
    /// # Errors
    /// [`BadSignature`].
    pub fn verify(
        &self,
        key: &VerifyKey,
        purpose: &str,
        fields: &[&[u8]],
        signature: &[u8; 64],
    ) -> Result<(), BadSignature> {
        let signed = transcript(purpose, fields);
        // Two of fixed length, and the rest.
        let hash =
            Sha512_256::new().chain_update(key.0).chain_update(signature).chain_update(&signed).finalize().into();
        if self.knows(&hash) {
            return Ok(());
        }
        key.verify_transcript(&signed, signature)?;
        self.remember(hash);
        Ok(())
    }

    fn knows(&self, hash: &[u8; 32]) -> bool {
        // Whole after every statement.
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.newer.contains(hash) || all.older.contains(hash)
    }

    fn remember(&self, hash: [u8; 32]) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.newer.len() >= REMEMBERED {
            all.older = core::mem::take(&mut all.newer);
        }
        all.newer.insert(hash);
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

    #[test]
    fn what_was_verified_is_remembered_with_all_that_was_signed_and_nothing_else() {
        let (key, other) = ([1, 2].map(|n| SigningKey::from_seed(&Secret::from_slice(&[n; 32]).unwrap()))).into();
        let (public, seen) = (key.verify_key(), Verified::default());
        let known = |seen: &Verified| {
            let all = seen.0.lock().unwrap();
            all.newer.len() + all.older.len()
        };
        let good = key.sign("test", &[b"a", b"b"]);
        let mut bad = good;
        bad[0] ^= 1;
        for _ in 0..2 {
            assert_eq!(seen.verify(&public, "test", &[b"a", b"b"], &bad), Err(BadSignature));
            assert_eq!(known(&seen), 0, "nothing is remembered of what is wrong");
        }
        for _ in 0..2 {
            assert_eq!(seen.verify(&public, "test", &[b"a", b"b"], &good), Ok(()));
            assert_eq!(known(&seen), 1);
        }
        // Whatever differs, in one place.
        assert_eq!(seen.verify(&other.verify_key(), "test", &[b"a", b"b"], &good), Err(BadSignature));
        assert_eq!(seen.verify(&public, "tess", &[b"a", b"b"], &good), Err(BadSignature));
        assert_eq!(seen.verify(&public, "test", &[b"ab"], &good), Err(BadSignature));
        assert_eq!(seen.verify(&public, "test", &[b"a", b"b"], &bad), Err(BadSignature));
        assert_eq!(known(&seen), 1);
        // It is asked for again and again, and stays as long as it promises; and the whole is bounded.
        for n in 0..3 * REMEMBERED {
            let mut hash = [7; 32];
            hash[..8].copy_from_slice(&n.to_be_bytes());
            seen.remember(hash);
            assert!(n >= REMEMBERED || known(&seen) == n + 2);
            assert!(known(&seen) <= 2 * REMEMBERED);
        }
        assert_eq!(seen.verify(&public, "test", &[b"a", b"b"], &good), Ok(()), "forgotten, and verified again");
    }
}
