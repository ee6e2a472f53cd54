//! The payload: padding and XChaCha20-Poly1305 under a key of the data key (`docs/format.md`, section 5).

use super::FormatError;
use super::label::{MAX_PLAINTEXT, padded_len};
use crate::encoding::{hash, transcript};
use crate::kdf::{expand256, xchacha_open, xchacha_seal};
use crate::secret::{Secret, SecretVec};
use zeroize::Zeroizing;

const NONCE: usize = 24;
const TAG: usize = 16;
const TRUE_LEN: usize = 8;

/// The length of a payload whose plaintext was padded to `padded` bytes.
pub(super) fn sealed_len(padded: u64) -> u64 {
    padded.saturating_add((NONCE + TAG) as u64)
}

pub(super) fn payload_hash(payload: &[u8]) -> [u8; 64] {
    hash("payload-hash", &[payload])
}

/// What stands in the header for the data key.
pub(super) fn dek_commitment(dek: &Secret<32>) -> [u8; 32] {
    *expand256::<32>(dek, &transcript("dek", &[])).expose()
}

pub(super) fn seal(
    plaintext: &[u8],
    object: &[u8],
    dek: &Secret<32>,
    nonce: &Secret<24>,
) -> Result<Vec<u8>, FormatError> {
    let too_long = FormatError::PlaintextLength(plaintext.len());
    let padded = usize::try_from(padded_len(plaintext.len())?).map_err(|_| too_long)?;
    let mut buf = Zeroizing::new(Vec::with_capacity(padded + TAG));
    buf.extend_from_slice(&(plaintext.len() as u64).to_be_bytes());
    buf.extend_from_slice(plaintext);
    buf.resize(padded, 0);
    xchacha_seal(&pay_key(dek), nonce.expose(), &aad(object), &mut buf).map_err(|_| too_long)?;
    Ok([nonce.expose().as_slice(), &buf].concat())
}

/// Why a payload with the right hash does not open: whoever sealed it (`writer_id`) sealed it so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PayloadError {
    Tag,
    Padding,
}

pub(super) fn open(payload: &[u8], object: &[u8], dek: &Secret<32>) -> Result<SecretVec, PayloadError> {
    let (nonce, sealed) = payload.split_first_chunk::<NONCE>().ok_or(PayloadError::Tag)?;
    let mut buf = Zeroizing::new(sealed.to_vec());
    xchacha_open(&pay_key(dek), nonce, &aad(object), &mut buf).map_err(|_| PayloadError::Tag)?;
    let (len, rest) = buf.split_first_chunk::<TRUE_LEN>().ok_or(PayloadError::Padding)?;
    let len = usize::try_from(u64::from_be_bytes(*len)).map_err(|_| PayloadError::Padding)?;
    if !(1..=MAX_PLAINTEXT).contains(&len) || padded_len(len).ok() != u64::try_from(buf.len()).ok() {
        return Err(PayloadError::Padding);
    }
    let (plaintext, padding) = rest.split_at_checked(len).ok_or(PayloadError::Padding)?;
    if padding.iter().any(|b| *b != 0) {
        return Err(PayloadError::Padding);
    }
    Ok(SecretVec::new(plaintext.to_vec()))
}

fn pay_key(dek: &Secret<32>) -> Secret<32> {
    expand256(dek, &transcript("pay", &[]))
}

fn aad(object: &[u8]) -> [u8; 64] {
    hash("pay-aad", &[object])
}
