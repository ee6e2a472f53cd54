//! The seal over the values of a node's own store: XChaCha20-Poly1305 under a key that never leaves the node.
//!
//! It protects a disk that is lost or returned without the node's seal key. It is no part of the threshold: what is
//! stored is ciphertext already wherever it is a secret of a client.

use crate::encoding::transcript;
use crate::secret::Secret;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use core::fmt;

/// A sealed value that does not open: damaged, moved to another key, or of another node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a stored value does not open under this node's storage key")]
pub struct NotOurs;

/// The version byte in front of every sealed value.
const VERSION: u8 = 1;
const NONCE: usize = 24;

/// A node's storage key.
pub struct StorageKey(XChaCha20Poly1305);

impl fmt::Debug for StorageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StorageKey(redacted)")
    }
}

impl StorageKey {
    /// The cipher of a 32-byte key.
    #[must_use]
    pub fn new(key: &Secret<32>) -> Self {
        Self(XChaCha20Poly1305::new(key.expose().into()))
    }

    /// Seals `value` to its place: version, nonce, ciphertext and tag, 41 bytes longer than `value`.
    ///
    /// # Errors
    /// [`NotOurs`] for a value beyond the cipher's limit of 256 GiB.
    pub fn seal(&self, place: &[&[u8]], value: &[u8], nonce: [u8; NONCE]) -> Result<Vec<u8>, NotOurs> {
        let aad = transcript("storage", place);
        let sealed = self.0.encrypt(&XNonce::from(nonce), Payload { msg: value, aad: &aad }).map_err(|_| NotOurs)?;
        let mut out = Vec::with_capacity(1 + NONCE + sealed.len());
        out.push(VERSION);
        out.extend_from_slice(&nonce);
        out.extend_from_slice(&sealed);
        Ok(out)
    }

    /// Opens what [`StorageKey::seal`] made for the same place.
    ///
    /// # Errors
    /// [`NotOurs`].
    pub fn open(&self, place: &[&[u8]], sealed: &[u8]) -> Result<Vec<u8>, NotOurs> {
        let (&version, rest) = sealed.split_first().ok_or(NotOurs)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE>().ok_or(NotOurs)?;
        if version != VERSION {
            return Err(NotOurs);
        }
        let aad = transcript("storage", place);
        self.0.decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad: &aad }).map_err(|_| NotOurs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_in_its_place_only() {
        let key = StorageKey::new(&Secret::init_with(|k| k.fill(1)));
        let sealed = key.seal(&[b"s", b"a"], b"value", [7; NONCE]).unwrap();
        assert_eq!(key.open(&[b"s", b"a"], &sealed), Ok(b"value".to_vec()));
        assert_eq!(key.open(&[b"s", b"b"], &sealed), Err(NotOurs));
        assert_eq!(key.open(&[b"sa"], &sealed), Err(NotOurs));
        for i in 0..sealed.len() {
            let mut bad = sealed.clone();
            bad[i] ^= 1;
            assert_eq!(key.open(&[b"s", b"a"], &bad), Err(NotOurs), "byte {i}");
            assert_eq!(key.open(&[b"s", b"a"], &sealed[..i]), Err(NotOurs), "cut at {i}");
        }
    }
}
