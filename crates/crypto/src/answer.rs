//! Answers that pass through somebody else: sealed to a key that the asker made for one question (`docs/wire.md`, section 6).
//!
//! HPKE (RFC 9180) in base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, ChaCha20-Poly1305, one message for each context.
//!
//! # Security
//! Base mode says nothing about the sender: what is inside is signed by whoever answers. X25519 and no hybrid, because what it
//! protects are points of the group of the header that they belong to: whoever breaks the one breaks the other.

use crate::secret::{Secret, SecretVec};
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, X25519HkdfSha256};
use hpke::{Deserializable, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal_with_rng};
use rand_core::CryptoRng;

/// The length of the encapsulated key ahead of the ciphertext.
const ENC_LEN: usize = 32;

/// The bytes are no public key that can be sealed to: a point of small order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the key to answer to is no usable X25519 key")]
pub struct BadAnswerKey;

/// The asker's half: lives as long as the question.
#[derive(Debug)]
pub struct AnswerKey(Secret<32>);

impl AnswerKey {
    /// A fresh one.
    pub fn generate(rng: &mut impl CryptoRng) -> Self {
        Self::from_seed(Secret::random(rng))
    }

    /// The key pair of `DeriveKeyPair` (RFC 9180, section 7.1.3) with `seed` as keying material.
    #[must_use]
    pub fn from_seed(seed: Secret<32>) -> Self {
        Self(seed)
    }

    /// What answers are sealed to.
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        let (_, public) = X25519HkdfSha256::derive_keypair(self.0.expose());
        public.to_bytes().into()
    }

    /// Opens an answer; `None` if it was not sealed to this key under this `info`, or was altered.
    #[must_use]
    pub fn open(&self, info: &[u8], sealed: &[u8]) -> Option<SecretVec> {
        let (enc, ciphertext) = sealed.split_at_checked(ENC_LEN)?;
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(enc).ok()?;
        let (private, _) = X25519HkdfSha256::derive_keypair(self.0.expose());
        single_shot_open::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
            &OpModeR::Base,
            &private,
            &enc,
            info,
            ciphertext,
            &[],
        )
        .ok()
        .map(SecretVec::new)
    }
}

/// Seals an answer to the asker's key: `enc (32) || ciphertext || tag (16)`.
///
/// # Errors
/// [`BadAnswerKey`].
pub fn seal_answer(
    to: &[u8; 32],
    info: &[u8],
    answer: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, BadAnswerKey> {
    let to = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(to).map_err(|_| BadAnswerKey)?;
    let (enc, ciphertext) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, X25519HkdfSha256>(
        &OpModeS::Base,
        &to,
        info,
        answer,
        &[],
        rng,
    )
    .map_err(|_| BadAnswerKey)?;
    Ok([enc.to_bytes().as_slice(), &ciphertext].concat())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand_core::UnwrapErr;

    fn rng() -> UnwrapErr<getrandom::SysRng> {
        UnwrapErr(getrandom::SysRng)
    }

    #[test]
    fn only_the_asker_opens_it_and_only_as_it_was_sealed() {
        let (key, other) = (AnswerKey::generate(&mut rng()), AnswerKey::generate(&mut rng()));
        let sealed = seal_answer(&key.public(), b"info", b"part", &mut rng()).unwrap();
        assert_eq!(sealed.len(), 32 + 4 + 16);
        assert_eq!(key.open(b"info", &sealed).unwrap().expose(), b"part");
        assert!(key.open(b"other", &sealed).is_none() && other.open(b"info", &sealed).is_none());
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            assert!(key.open(b"info", &altered).is_none(), "byte {at} altered");
            assert!(key.open(b"info", &sealed[..at]).is_none(), "cut to {at} bytes");
        }
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let mut one = [0; 32];
        one[0] = 1;
        for to in [[0; 32], one] {
            assert_eq!(seal_answer(&to, b"", b"part", &mut rng()), Err(BadAnswerKey));
        }
    }

    /// RFC 9180, appendix A.2.1: pkRm of ikmR.
    #[test]
    fn the_key_pair_is_that_of_the_rfc() {
        let seed = hex::decode("1ac01f181fdf9f352797655161c58b75c656a6cc2716dcb66372da835542e1df").unwrap();
        let key = AnswerKey::from_seed(Secret::from_slice(&seed).unwrap());
        let public = "4310ee97d88cc1f088a5576c77ab0cf5c3ac797f3d95139c6c84b5429c59662a";
        assert_eq!(hex::encode(key.public()), public);
    }
}
