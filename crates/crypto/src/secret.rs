//! Types that hold secret bytes.

mod fields;

pub use fields::SecretFields;

use core::fmt;
use rand_core::CryptoRng;
use subtle::{Choice, ConstantTimeEq};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// `N` secret bytes on the heap: wiped on drop, never printed, never copied.
///
/// The bytes are boxed so that moving the value moves a pointer, and no copy is left on the stack behind it.
///
/// # Security
/// There is no `Clone`, `PartialEq` or `Display`. Compare with [`ConstantTimeEq`]. Whoever calls [`Secret::expose`]
/// answers for what becomes of the bytes.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct Secret<const N: usize>(Box<[u8; N]>);

impl<const N: usize> Secret<N> {
    /// Fills a new secret in place.
    pub fn init_with(fill: impl FnOnce(&mut [u8; N])) -> Self {
        let mut bytes = Box::new([0u8; N]);
        fill(&mut bytes);
        Self(bytes)
    }

    /// `N` fresh random bytes.
    pub fn random(rng: &mut impl CryptoRng) -> Self {
        Self::init_with(|bytes| rng.fill_bytes(bytes))
    }

    /// Takes `bytes` over; `None` when the length is not `N`. The caller's buffer stays the caller's to wipe.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        if bytes.len() != N {
            return None;
        }
        Some(Self::init_with(|out| out.copy_from_slice(bytes)))
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8; N] {
        &self.0
    }
}

impl<const N: usize> ConstantTimeEq for Secret<N> {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.0.as_slice().ct_eq(other.0.as_slice())
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{N}>(redacted)")
    }
}

/// Secret bytes whose length is known only at run time: a plaintext, a password, the content of a sealed file.
#[derive(Zeroize, ZeroizeOnDrop)]
pub struct SecretVec(Zeroizing<Vec<u8>>);

impl SecretVec {
    /// Takes the vector over; its allocation is wiped when the secret is dropped.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// The bytes themselves.
    #[must_use]
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for SecretVec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretVec(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::<4>::init_with(|b| b.copy_from_slice(b"abcd"));
        assert_eq!(format!("{secret:?}"), "Secret<4>(redacted)");
        assert_eq!(format!("{:?}", SecretVec::new(b"abcd".to_vec())), "SecretVec(redacted)");
    }

    #[test]
    fn length_is_checked() {
        assert!(Secret::<4>::from_slice(b"abc").is_none());
        assert!(Secret::<3>::from_slice(b"abc").is_some());
    }
}
