//! Sealed key files: how shares, identity keys and customer keys lie on a disk (`docs/format.md`, section 14).
//!
//! Bytes in, bytes out. Where the file lies, who may read it and where the passphrase comes from is the caller's.

use crate::encoding::{Reader, lp, transcript};
use crate::kdf::{expand256, xchacha_open, xchacha_seal};
use crate::secret::{Secret, SecretVec};
use argon2::{Algorithm, Argon2, Params, Version};
use rand_core::CryptoRng;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

const MAGIC: &[u8; 7] = b"QUORKEY";
const VERSION: u8 = 1;
const PASSPHRASE: u8 = 1;
const RAW_KEY: u8 = 2;
const MAX_SECRET: usize = 1 << 20;
const MAX_PASSPHRASE: usize = 1024;
const MAX_PURPOSE: usize = 64;

/// How much work one guess at a passphrase costs (Argon2id, RFC 9106).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassphraseCost {
    /// Memory in KiB, from 8 for each lane to 1 GiB.
    pub memory_kib: u32,
    /// Passes, 1..=16.
    pub passes: u32,
    /// Lanes, 1..=16.
    pub lanes: u32,
}

impl Default for PassphraseCost {
    /// 64 MiB, 3 passes, 1 lane.
    fn default() -> Self {
        Self { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

impl PassphraseCost {
    fn check(self) -> Result<Self, KeyFileError> {
        let ok = (1..=16).contains(&self.lanes)
            && (1..=16).contains(&self.passes)
            && (8 * self.lanes..=1 << 20).contains(&self.memory_kib);
        if ok { Ok(self) } else { Err(KeyFileError::Cost) }
    }
}

/// What a file is sealed with.
#[derive(Debug)]
pub enum Protection<'a> {
    /// A passphrase of 1..=1024 bytes. The cost counts when sealing; a file brings its own.
    Passphrase(&'a SecretVec, PassphraseCost),
    /// 32 uniform bytes that lie elsewhere.
    RawKey(&'a Secret<32>),
}

/// Why a file is not sealed or does not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// Not a key file, or cut short ahead of its ciphertext.
    #[error("not a key file")]
    Malformed,
    /// Written by a later version.
    #[error("unknown key file version {0}")]
    UnknownVersion(u8),
    /// Sealed the other way: the file has a passphrase, or it has none.
    #[error("the file is not protected in this way")]
    OtherProtection,
    /// A file for something else.
    #[error("the key file is for another purpose")]
    OtherPurpose,
    /// Argon2 parameters out of bounds.
    #[error("the passphrase parameters are out of bounds")]
    Cost,
    /// The passphrase or the key is wrong, or the head was changed.
    #[error("wrong passphrase or key")]
    WrongKey,
    /// The key is right and the content was changed.
    #[error("the key file is damaged")]
    Damaged,
    /// An empty or too long secret, passphrase or purpose was given.
    #[error("a length or a purpose is out of bounds")]
    Input,
    /// No memory for Argon2.
    #[error("not enough memory for the passphrase parameters")]
    OutOfMemory,
}

/// Seals `secret` (1 byte to 1 MiB) under `purpose`, for example `share`: 1..=64 printable characters without space.
///
/// # Errors
/// [`KeyFileError::Input`], [`KeyFileError::Cost`], [`KeyFileError::OutOfMemory`].
pub fn seal_file(
    purpose: &str,
    secret: &[u8],
    protection: &Protection<'_>,
    rng: &mut impl CryptoRng,
) -> Result<Vec<u8>, KeyFileError> {
    if !is_purpose(purpose.as_bytes()) || !(1..=MAX_SECRET).contains(&secret.len()) {
        return Err(KeyFileError::Input);
    }
    let mut head = Vec::with_capacity(64 + purpose.len());
    head.extend_from_slice(MAGIC);
    head.push(VERSION);
    let base = match protection {
        Protection::Passphrase(passphrase, cost) => {
            let mut salt = [0; 16];
            rng.fill_bytes(&mut salt);
            head.push(PASSPHRASE);
            for n in [cost.memory_kib, cost.passes, cost.lanes] {
                head.extend_from_slice(&n.to_be_bytes());
            }
            head.extend_from_slice(&salt);
            &stretch(passphrase, cost.check()?, &salt)?
        }
        Protection::RawKey(key) => {
            head.push(RAW_KEY);
            *key
        }
    };
    lp(&mut head, purpose.as_bytes());
    let (key, check) = keys(base, &head);
    let mut nonce = [0; 24];
    rng.fill_bytes(&mut nonce);
    let mut buf = Zeroizing::new(Vec::with_capacity(secret.len() + 16));
    buf.extend_from_slice(secret);
    xchacha_seal(&key, &nonce, &transcript("keyfile", &[&head]), &mut buf).map_err(|_| KeyFileError::Input)?;
    Ok([head.as_slice(), check.expose(), &nonce, &buf].concat())
}

/// Opens a file of [`seal_file`].
///
/// # Errors
/// [`KeyFileError`].
pub fn open_file(purpose: &str, bytes: &[u8], protection: &Protection<'_>) -> Result<SecretVec, KeyFileError> {
    let mut r = Reader::new(bytes);
    let malformed = |_| KeyFileError::Malformed;
    if r.array().map_err(malformed)? != *MAGIC {
        return Err(KeyFileError::Malformed);
    }
    let [version] = r.array().map_err(malformed)?;
    if version != VERSION {
        return Err(KeyFileError::UnknownVersion(version));
    }
    let [kind] = r.array().map_err(malformed)?;
    let parameters = match kind {
        PASSPHRASE => {
            let mut number = || r.array().map(u32::from_be_bytes).map_err(malformed);
            let cost = PassphraseCost { memory_kib: number()?, passes: number()?, lanes: number()? }.check()?;
            Some((cost, r.array::<16>().map_err(malformed)?))
        }
        RAW_KEY => None,
        _ => return Err(KeyFileError::Malformed),
    };
    let found = r.lp().map_err(malformed)?;
    let head_len = 9 + if parameters.is_some() { 28 } else { 0 } + 4 + found.len();
    let head = bytes.get(..head_len).ok_or(KeyFileError::Malformed)?;
    let check: [u8; 32] = r.array().map_err(malformed)?;
    let nonce: [u8; 24] = r.array().map_err(malformed)?;
    if found != purpose.as_bytes() {
        return Err(KeyFileError::OtherPurpose);
    }
    let base = match (protection, parameters) {
        (Protection::Passphrase(passphrase, _), Some((cost, salt))) => &stretch(passphrase, cost, &salt)?,
        (Protection::RawKey(key), None) => *key,
        (Protection::Passphrase(..), None) | (Protection::RawKey(_), Some(_)) => {
            return Err(KeyFileError::OtherProtection);
        }
    };
    let (key, expected) = keys(base, head);
    if !bool::from(expected.expose().ct_eq(&check)) {
        return Err(KeyFileError::WrongKey);
    }
    let sealed = bytes.get(head_len + 56..).ok_or(KeyFileError::Malformed)?;
    let mut buf = Zeroizing::new(sealed.to_vec());
    xchacha_open(&key, &nonce, &transcript("keyfile", &[head]), &mut buf).map_err(|_| KeyFileError::Damaged)?;
    Ok(SecretVec::new(core::mem::take(&mut *buf)))
}

fn is_purpose(purpose: &[u8]) -> bool {
    (1..=MAX_PURPOSE).contains(&purpose.len()) && purpose.iter().all(u8::is_ascii_graphic)
}

fn stretch(passphrase: &SecretVec, cost: PassphraseCost, salt: &[u8; 16]) -> Result<Secret<32>, KeyFileError> {
    if !(1..=MAX_PASSPHRASE).contains(&passphrase.len()) {
        return Err(KeyFileError::Input);
    }
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(|_| KeyFileError::Cost)?;
    let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let mut result = Ok(());
    let base = Secret::init_with(|out| result = argon2.hash_password_into(passphrase.expose(), salt, out));
    result.map_err(|_| KeyFileError::OutOfMemory)?;
    Ok(base)
}

/// The AEAD key, and the value that tells a wrong key from a damaged file.
fn keys(base: &Secret<32>, head: &[u8]) -> (Secret<32>, Secret<32>) {
    let both: Secret<64> = expand256(base, &transcript("keyfile-key", &[head]));
    let (key, check) = both.expose().split_at(32);
    (Secret::init_with(|o| o.copy_from_slice(key)), Secret::init_with(|o| o.copy_from_slice(check)))
}
