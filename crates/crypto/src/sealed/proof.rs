//! The proof of a header: TDH2 (Shoup and Gennaro, "Securing Threshold Cryptosystems against Chosen Ciphertext Attack",
//! Journal of Cryptology 2002), alone and in batches (`docs/format.md`, sections 8 and 11).

use super::header::{Header, pair};
use crate::encoding::{hash, lp};
use crate::group::{encode, hash_to_scalar};
use crate::keyring::g_bar;
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use std::collections::BTreeMap;

/// The writer did not know `r`, or a byte of the header was changed since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the proof of the header does not verify")]
pub struct BadProof;

/// Appends the proof to the bytes ahead of it.
pub(super) fn finish(
    mut header_a: Vec<u8>,
    keyring_id: &[u8; 32],
    g_bar: &RistrettoPoint,
    r: &Scalar,
    w: &Scalar,
) -> Vec<u8> {
    lp(&mut header_a, &pair(&encode(&RistrettoPoint::mul_base(w)), &encode(&(g_bar * w))));
    let e = challenge(keyring_id, &header_a);
    lp(&mut header_a, (w + r * e).as_bytes());
    header_a
}

fn challenge(keyring_id: &[u8; 32], without_f: &[u8]) -> Scalar {
    hash_to_scalar("tdh2", &[keyring_id, without_f])
}

impl Header {
    /// Checks the proof: the writer knew `r`, and no byte of the header is anyone else's.
    ///
    /// The verdict depends on the bytes alone and may be remembered under [`Header::hash`].
    ///
    /// # Errors
    /// [`BadProof`].
    pub fn verify_proof(&self) -> Result<(), BadProof> {
        let e = challenge(&self.wrap().keyring_id, self.without_f());
        let bar = g_bar(&self.wrap().keyring_id);
        let first = RistrettoPoint::vartime_double_scalar_mul_basepoint(&-e, &self.r, &self.f);
        let second = RistrettoPoint::vartime_multiscalar_mul([self.f, -e], [bar, self.r_bar]);
        if first == self.a && second == self.a_bar { Ok(()) } else { Err(BadProof) }
    }
}

/// Checks the proofs of many headers at once, about twice as fast as one by one.
///
/// Each equation gets its own 128-bit weight, hashed from all bytes of all headers: with one weight for both equations of
/// a header, or weights known before, a forged header passes that opens a victim's.
///
/// # Errors
/// [`BadProof`] when at least one does not verify; ask each alone which.
pub fn verify_batch(headers: &[&Header]) -> Result<(), BadProof> {
    let all: Vec<&[u8]> = headers.iter().map(|h| h.as_bytes()).collect();
    let seed = hash("batch", &all);
    let mut base = Scalar::ZERO;
    let mut bars: BTreeMap<[u8; 32], Scalar> = BTreeMap::new();
    let mut scalars = Vec::with_capacity(4 * headers.len() + 2);
    let mut points = Vec::with_capacity(4 * headers.len() + 2);
    for (i, h) in (0u32..).zip(headers) {
        let keyring_id = h.wrap().keyring_id;
        let e = challenge(&keyring_id, h.without_f());
        let (z, z_bar) = weights(&seed, i);
        base += z * h.f;
        *bars.entry(keyring_id).or_insert(Scalar::ZERO) += z_bar * h.f;
        scalars.extend([-z, -(z * e), -z_bar, -(z_bar * e)]);
        points.extend([h.a, h.r, h.a_bar, h.r_bar]);
    }
    scalars.push(base);
    points.push(RISTRETTO_BASEPOINT_POINT);
    for (keyring_id, scalar) in bars {
        scalars.push(scalar);
        points.push(g_bar(&keyring_id));
    }
    if RistrettoPoint::vartime_multiscalar_mul(scalars, points).is_identity() { Ok(()) } else { Err(BadProof) }
}

fn weights(seed: &[u8; 64], i: u32) -> (Scalar, Scalar) {
    let wide = hash("batch-weight", &[seed, &i.to_be_bytes()]);
    let mut halves = wide.chunks_exact(16).map(|half| half.iter().rev().fold(0u128, |n, b| n << 8 | u128::from(*b)));
    (Scalar::from(halves.next().unwrap_or(0)), Scalar::from(halves.next().unwrap_or(0)))
}
