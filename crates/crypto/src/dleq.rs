//! Proof that partials are right: batched equality of discrete logarithms, RFC 9497 section 2.2.
//!
//! The construction is the RFC's, hash for hash, with ristretto255 and SHA-512; only the context string is ours, and it
//! carries whatever the asking protocol binds (`docs/format.md`, section 13).

use crate::encoding::hash32;
use crate::group;
use crate::secret::Secret;
use crate::threshold::KeyShare;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::VartimeMultiscalarMul;
use rand_core::CryptoRng;
use sha2::{Digest, Sha512};
use zeroize::Zeroizing;

/// The most pairs that one proof covers: the size of one request.
pub const MAX_PAIRS: usize = 256;

/// Why a proof is not made or not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DleqError {
    /// No pairs, more than [`MAX_PAIRS`], or lists of different lengths.
    #[error("a proof covers 1 to {MAX_PAIRS} pairs")]
    Pairs,
    /// An input is not a point.
    #[error("a point is malformed")]
    BadPoint,
    /// The two scalars are not those of a proof over these points in this context.
    #[error("the proof does not verify")]
    Invalid,
}

/// Proves that `partials[i] = k · points[i]` for every i, with the `k` of `share`. 64 bytes: `c || s`.
///
/// The nonce is hashed from fresh randomness, the share and the statement, so that a repeated random stream does not
/// publish the share.
///
/// # Errors
/// [`DleqError::Pairs`], [`DleqError::BadPoint`].
pub fn prove(
    share: &KeyShare,
    points: &[[u8; 32]],
    partials: &[[u8; 32]],
    context: &[u8],
    rng: &mut impl CryptoRng,
) -> Result<[u8; 64], DleqError> {
    let public = RistrettoPoint::mul_base(share.scalar());
    let statement = Statement::new(&group::encode(&public), points, partials, &context_string(context))?;
    let (m, _) = statement.composites_of_prover(share.scalar());
    let fresh = Secret::<32>::random(rng);
    let rho = Zeroizing::new(group::hash_to_scalar(
        "dleq-nonce",
        &[fresh.expose(), share.scalar().as_bytes(), &statement.seed, &group::encode(&m)],
    ));
    Ok(statement.prove(share.scalar(), &rho))
}

/// Checks a proof of [`prove`] against the member's public share.
///
/// # Errors
/// [`DleqError`].
pub fn verify(
    public_share: &[u8; 32],
    points: &[[u8; 32]],
    partials: &[[u8; 32]],
    context: &[u8],
    proof: &[u8; 64],
) -> Result<(), DleqError> {
    Statement::new(public_share, points, partials, &context_string(context))?.verify(proof)
}

fn context_string(context: &[u8]) -> Vec<u8> {
    [b"quorate/v1/dleq-".as_slice(), &hash32("dleq-context", &[context])].concat()
}

/// What is proved: `B = kA` and `D_i = kC_i`, under a context string. A is the base point.
struct Statement {
    b: RistrettoPoint,
    b_bytes: [u8; 32],
    c: Vec<RistrettoPoint>,
    d: Vec<RistrettoPoint>,
    /// `d_i` of the RFC: the coefficients of the composites.
    weights: Vec<Scalar>,
    seed: [u8; 64],
    scalar_dst: Vec<u8>,
}

impl Statement {
    fn new(b: &[u8; 32], c: &[[u8; 32]], d: &[[u8; 32]], context_string: &[u8]) -> Result<Self, DleqError> {
        if c.is_empty() || c.len() > MAX_PAIRS || c.len() != d.len() {
            return Err(DleqError::Pairs);
        }
        let decode = |list: &[[u8; 32]]| list.iter().map(group::point).collect::<Result<Vec<_>, _>>();
        let points = (group::point(b), decode(c), decode(d));
        let (Ok(b_point), Ok(c_points), Ok(d_points)) = points else {
            return Err(DleqError::BadPoint);
        };
        let mut seed_input = Vec::new();
        lp2(&mut seed_input, b);
        lp2(&mut seed_input, &[b"Seed-", context_string].concat());
        let seed: [u8; 64] = Sha512::digest(seed_input).into();
        let scalar_dst = [b"HashToScalar-", context_string].concat();
        let weights = (0u16..)
            .zip(c.iter().zip(d))
            .map(|(i, (c, d))| {
                let mut input = Vec::with_capacity(160);
                lp2(&mut input, &seed);
                input.extend_from_slice(&i.to_be_bytes());
                lp2(&mut input, c);
                lp2(&mut input, d);
                input.extend_from_slice(b"Composite");
                hash_to_scalar(&input, &scalar_dst)
            })
            .collect();
        Ok(Self { b: b_point, b_bytes: *b, c: c_points, d: d_points, weights, seed, scalar_dst })
    }

    /// `ComputeCompositesFast`.
    fn composites_of_prover(&self, k: &Scalar) -> (RistrettoPoint, RistrettoPoint) {
        let m = RistrettoPoint::vartime_multiscalar_mul(&self.weights, &self.c);
        (m, m * k)
    }

    /// `GenerateProof` with the nonce `rho`.
    fn prove(&self, k: &Scalar, rho: &Scalar) -> [u8; 64] {
        let (m, z) = self.composites_of_prover(k);
        let c = self.challenge(&m, &z, &RistrettoPoint::mul_base(rho), &(m * rho));
        let s = rho - c * k;
        let mut proof = [0; 64];
        let (left, right) = proof.split_at_mut(32);
        left.copy_from_slice(c.as_bytes());
        right.copy_from_slice(s.as_bytes());
        proof
    }

    /// `VerifyProof`.
    fn verify(&self, proof: &[u8; 64]) -> Result<(), DleqError> {
        let mut reader = crate::encoding::Reader::new(proof);
        let mut scalar = || group::scalar(&reader.array().ok()?).ok();
        let (Some(c), Some(s)) = (scalar(), scalar()) else {
            return Err(DleqError::Invalid);
        };
        let m = RistrettoPoint::vartime_multiscalar_mul(&self.weights, &self.c);
        let z = RistrettoPoint::vartime_multiscalar_mul(&self.weights, &self.d);
        let t2 = RistrettoPoint::vartime_double_scalar_mul_basepoint(&c, &self.b, &s);
        let t3 = RistrettoPoint::vartime_multiscalar_mul([s, c], [m, z]);
        if self.challenge(&m, &z, &t2, &t3) == c { Ok(()) } else { Err(DleqError::Invalid) }
    }

    fn challenge(&self, m: &RistrettoPoint, z: &RistrettoPoint, t2: &RistrettoPoint, t3: &RistrettoPoint) -> Scalar {
        let mut input = Vec::with_capacity(192);
        lp2(&mut input, &self.b_bytes);
        for p in [m, z, t2, t3] {
            lp2(&mut input, &group::encode(p));
        }
        input.extend_from_slice(b"Challenge");
        hash_to_scalar(&input, &self.scalar_dst)
    }
}

/// The RFC's two-byte length prefix. Everything it stands before here is below 120 bytes.
fn lp2(out: &mut Vec<u8>, x: &[u8]) {
    out.extend_from_slice(&u16::try_from(x.len()).unwrap_or(u16::MAX).to_be_bytes());
    out.extend_from_slice(x);
}

/// `expand_message_xmd` of RFC 9380 section 5.3.1 with SHA-512 and 64 bytes of output (one block), reduced.
fn hash_to_scalar(message: &[u8], dst: &[u8]) -> Scalar {
    let dst_len = [u8::try_from(dst.len()).unwrap_or(u8::MAX)];
    let b0 = Sha512::new()
        .chain_update([0u8; 128])
        .chain_update(message)
        .chain_update(64u16.to_be_bytes())
        .chain_update([0])
        .chain_update(dst)
        .chain_update(dst_len)
        .finalize();
    let b1 = Sha512::new().chain_update(b0).chain_update([1]).chain_update(dst).chain_update(dst_len).finalize();
    Scalar::from_bytes_mod_order_wide(&b1.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes<const N: usize>(hex: &str) -> [u8; N] {
        hex::decode(hex).unwrap().try_into().unwrap()
    }

    struct Case {
        c: &'static [&'static str],
        d: &'static [&'static str],
        rho: &'static str,
        proof: &'static str,
    }

    /// RFC 9497, appendix A.1.2: ristretto255-SHA512, VOPRF mode, the last one with a batch of two.
    #[test]
    fn rfc_9497_vectors() {
        const BLINDED: &str = "863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945";
        const EVALUATED: &str = "aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e";
        const RHO: &str = "222a5e897cf59db8145db8d16e597e8facb80ae7d4e26d9881aa6f61d645fc0e";
        let cases = [
            Case {
                c: &[BLINDED],
                d: &[EVALUATED],
                rho: RHO,
                proof: "ddef93772692e535d1a53903db24367355cc2cc78de93b3be5a8ffcc6985dd06\
                        6d4346421d17bf5117a2a1ff0fcb2a759f58a539dfbe857a40bce4cf49ec600d",
            },
            Case {
                c: &["cc0b2a350101881d8a4cba4c80241d74fb7dcbfde4a61fde2f91443c2bf9ef0c"],
                d: &["60a59a57208d48aca71e9e850d22674b611f752bed48b36f7a91b372bd7ad468"],
                rho: RHO,
                proof: "401a0da6264f8cf45bb2f5264bc31e109155600babb3cd4e5af7d181a2c9dc0a\
                        67154fabf031fd936051dec80b0b6ae29c9503493dde7393b722eafdf5a50b02",
            },
            Case {
                c: &[BLINDED, "90a0145ea9da29254c3a56be4fe185465ebb3bf2a1801f7124bbbadac751e654"],
                d: &[EVALUATED, "cc5ac221950a49ceaa73c8db41b82c20372a4c8d63e5dded2db920b7eee36a2a"],
                rho: "419c4f4f5052c53c45f3da494d2b67b220d02118e0857cdbcf037f9ea84bbe0c",
                proof: "cc203910175d786927eeb44ea847328047892ddf8590e723c37205cb74600b0a\
                        5ab5337c8eb4ceae0494c2cf89529dcf94572ed267473d567aeed6ab873dee08",
            },
        ];
        let k = group::scalar(&bytes("e6f73f344b79b379f1a0dd37e07ff62e38d9f71345ce62ae3a9bc60b04ccd909")).unwrap();
        let public = bytes("c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e");
        assert_eq!(group::encode(&RistrettoPoint::mul_base(&k)), public);
        for case in cases {
            let list = |l: &[&str]| l.iter().map(|h| bytes(h)).collect::<Vec<[u8; 32]>>();
            let (c, d) = (list(case.c), list(case.d));
            let statement = Statement::new(&public, &c, &d, b"OPRFV1-\x01-ristretto255-SHA512").unwrap();
            let rho = group::scalar(&bytes(case.rho)).unwrap();
            assert_eq!(statement.prove(&k, &rho), bytes(case.proof));
            assert_eq!(statement.verify(&bytes(case.proof)), Ok(()));
            let other = Statement::new(&public, &c, &d, b"OPRFV1-\x00-ristretto255-SHA512").unwrap();
            assert_eq!(other.verify(&bytes(case.proof)), Err(DleqError::Invalid));
        }
    }
}
