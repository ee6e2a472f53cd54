//! HKDF (RFC 5869) with fixed output sizes, and the two AEADs, over our secret types.

use crate::secret::Secret;
use chacha20poly1305::aead::AeadInOut;
use chacha20poly1305::{ChaCha20Poly1305, KeyInit, XChaCha20Poly1305};
use hkdf::Hkdf;
use sha2::{Sha256, Sha512};
use zeroize::Zeroize;

/// `HKDF-Extract` with SHA-256; the input keying material comes in pieces that are concatenated.
pub(crate) fn extract256(salt: &[u8], ikm: &[&[u8]]) -> Secret<32> {
    let mut extract = hkdf::HkdfExtract::<Sha256>::new(Some(salt));
    for piece in ikm {
        extract.input_ikm(piece);
    }
    let (mut prk, _) = extract.finalize();
    let out = Secret::init_with(|o| o.copy_from_slice(&prk));
    prk.as_mut_slice().zeroize();
    out
}

/// `HKDF-Expand` with SHA-256.
pub(crate) fn expand256<const N: usize>(prk: &Secret<32>, info: &[u8]) -> Secret<N> {
    const { assert!(N <= 255 * 32) };
    Secret::init_with(|out| {
        #[expect(clippy::expect_used, reason = "both lengths are fixed by the types: no input reaches this")]
        Hkdf::<Sha256>::from_prk(prk.expose())
            .expect("a PRK of the hash's size")
            .expand(info, out)
            .expect("N is in range");
    })
}

/// `HKDF-Extract` with SHA-512.
pub(crate) fn extract512(salt: &[u8], ikm: &[u8]) -> Secret<64> {
    let (mut prk, _) = Hkdf::<Sha512>::extract(Some(salt), ikm);
    let out = Secret::init_with(|o| o.copy_from_slice(&prk));
    prk.as_mut_slice().zeroize();
    out
}

/// `HKDF-Expand` with SHA-512.
pub(crate) fn expand512<const N: usize>(prk: &Secret<64>, info: &[u8]) -> Secret<N> {
    const { assert!(N <= 255 * 64) };
    Secret::init_with(|out| {
        #[expect(clippy::expect_used, reason = "both lengths are fixed by the types: no input reaches this")]
        Hkdf::<Sha512>::from_prk(prk.expose())
            .expect("a PRK of the hash's size")
            .expand(info, out)
            .expect("N is in range");
    })
}

/// An AEAD refused: sealing something too long, or opening something that was not sealed so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct AeadFailed;

/// XChaCha20-Poly1305 in place; the tag is appended.
pub(crate) fn xchacha_seal(
    key: &Secret<32>,
    nonce: &[u8; 24],
    aad: &[u8],
    buf: &mut Vec<u8>,
) -> Result<(), AeadFailed> {
    buf.reserve_exact(16);
    XChaCha20Poly1305::new(key.expose().into()).encrypt_in_place(nonce.into(), aad, buf).map_err(|_| AeadFailed)
}

/// The inverse of [`xchacha_seal`]; the tag is cut off.
pub(crate) fn xchacha_open(
    key: &Secret<32>,
    nonce: &[u8; 24],
    aad: &[u8],
    buf: &mut Vec<u8>,
) -> Result<(), AeadFailed> {
    XChaCha20Poly1305::new(key.expose().into()).decrypt_in_place(nonce.into(), aad, buf).map_err(|_| AeadFailed)
}

/// ChaCha20-Poly1305 over 32 bytes under a key that is used once, hence the zero nonce.
pub(crate) fn wrap_key(kek: &Secret<32>, aad: &[u8], key: &Secret<32>) -> Result<[u8; 48], AeadFailed> {
    let mut buf = Vec::with_capacity(48);
    buf.extend_from_slice(key.expose());
    ChaCha20Poly1305::new(kek.expose().into())
        .encrypt_in_place(&[0u8; 12].into(), aad, &mut buf)
        .map_err(|_| AeadFailed)?;
    buf.try_into().map_err(|_| AeadFailed)
}

/// The inverse of [`wrap_key`].
pub(crate) fn unwrap_key(kek: &Secret<32>, aad: &[u8], wrapped: &[u8; 48]) -> Result<Secret<32>, AeadFailed> {
    let mut buf = wrapped.to_vec();
    ChaCha20Poly1305::new(kek.expose().into())
        .decrypt_in_place(&[0u8; 12].into(), aad, &mut buf)
        .map_err(|_| AeadFailed)?;
    let key = Secret::from_slice(&buf).ok_or(AeadFailed);
    buf.zeroize();
    key
}
