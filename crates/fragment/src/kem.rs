//! The ML-KEM key that lies beside a token: tokens have none of their own yet, so it is a file that only the token opens
//! (`docs/format.md`, section 19).
//!
//! The seed is sealed as every key file is, under a key that is encrypted by an AES key in the token, in CBC without padding: the mode that SoftHSM,
//! small tokens and network HSMs have alike. GCM is not in all of them, and to unwrap with AES-KEY-WRAP some
//! want an object that may be extracted. CBC alone proves nothing; the key file's commitment and the id of the key do.
//!
//! # Security
//! The P-256 key could do the same by a Diffie-Hellman with itself, and whoever breaks P-256 one day would have both. An AES key of 256 bits keeps
//! the two halves of suite 1 apart.

use quorate_crypto::encoding::Reader;
use quorate_crypto::keyfile::{KeyFileError, Protection, open_file, seal_file};
use quorate_crypto::secret::Secret;
use rand_core::CryptoRng;

const MAGIC: &[u8; 7] = b"QUORKEM";
const VERSION: u8 = 1;
/// Purpose of the sealed seed.
const PURPOSE: &str = "customer-kem";

/// Why a file gives no ML-KEM key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KemError {
    /// Not such a file, or cut short.
    #[error("not a wrapped ML-KEM key")]
    Malformed,
    /// Written by a later version.
    #[error("unknown version {0} of a wrapped ML-KEM key")]
    UnknownVersion(u8),
    /// It belongs to another customer key.
    #[error("the wrapped ML-KEM key is of another customer key")]
    OtherKey,
    /// The token's AES key does not open it, or it was changed.
    #[error("the token does not open the wrapped ML-KEM key: {0}")]
    DoesNotOpen(KeyFileError),
}

/// A file, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedKem {
    customer_key: [u8; 32],
    iv: [u8; 16],
    encrypted: [u8; 32],
    sealed: Vec<u8>,
}

impl WrappedKem {
    /// Seals `seed` of the customer key with this id. `encrypt` is AES-256-CBC in the token: initial vector and 32 bytes.
    ///
    /// # Errors
    /// What `encrypt` says.
    pub fn seal<E>(
        seed: &Secret<64>,
        customer_key: [u8; 32],
        rng: &mut impl CryptoRng,
        encrypt: impl FnOnce(&[u8; 16], &Secret<32>) -> Result<[u8; 32], E>,
    ) -> Result<Result<Self, KemError>, E> {
        let mut iv = [0; 16];
        rng.fill_bytes(&mut iv);
        let key = Secret::random(rng);
        let encrypted = encrypt(&iv, &key)?;
        let sealed = seal_file(PURPOSE, seed.expose(), &Protection::RawKey(&key), rng);
        Ok(sealed.map_err(KemError::DoesNotOpen).map(|sealed| Self { customer_key, iv, encrypted, sealed }))
    }

    /// The bytes of the file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let head: [&[u8]; 6] = [MAGIC, &[VERSION], &self.customer_key, &self.iv, &self.encrypted, &self.sealed];
        head.concat()
    }

    /// Reads a file of the customer key with this id.
    ///
    /// # Errors
    /// [`KemError`], all but [`KemError::DoesNotOpen`].
    pub fn decode(bytes: &[u8], customer_key: &[u8; 32]) -> Result<Self, KemError> {
        let malformed = |_| KemError::Malformed;
        let mut r = Reader::new(bytes);
        if r.array().map_err(malformed)? != *MAGIC {
            return Err(KemError::Malformed);
        }
        let [version] = r.array().map_err(malformed)?;
        if version != VERSION {
            return Err(KemError::UnknownVersion(version));
        }
        let named: [u8; 32] = r.array().map_err(malformed)?;
        if named != *customer_key {
            return Err(KemError::OtherKey);
        }
        let (iv, encrypted) = (r.array().map_err(malformed)?, r.array().map_err(malformed)?);
        let sealed = bytes.get(7 + 1 + 32 + 16 + 32..).unwrap_or_default().to_vec();
        Ok(Self { customer_key: named, iv, encrypted, sealed })
    }

    /// The seed. `decrypt` is AES-256-CBC in the token: initial vector and 32 bytes.
    ///
    /// # Errors
    /// What `decrypt` says; [`KemError::DoesNotOpen`].
    pub fn open<E>(
        &self,
        decrypt: impl FnOnce(&[u8; 16], &[u8; 32]) -> Result<Secret<32>, E>,
    ) -> Result<Result<Secret<64>, KemError>, E> {
        let key = decrypt(&self.iv, &self.encrypted)?;
        let opened = open_file(PURPOSE, &self.sealed, &Protection::RawKey(&key)).map_err(KemError::DoesNotOpen);
        Ok(opened.and_then(|seed| Secret::from_slice(seed.expose()).ok_or(KemError::Malformed)))
    }
}
