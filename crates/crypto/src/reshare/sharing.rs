//! Polynomials, their commitments, sealed shares and the proof of knowledge.

use super::message::{Deal, Proof, RECEIVER_KEY, SEALED_SHARE, hash_commitments};
use crate::encoding::transcript;
use crate::group;
use crate::secret::Secret;
use core::convert::Infallible;
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_TABLE as G;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use hkdf::Hkdf;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, XWing};
use hpke::{Deserializable, OpModeR, OpModeS, Serializable, single_shot_open, single_shot_seal_with_rng};
use rand_core::{TryCryptoRng, TryRng};
use sha2::Sha256;
use vsss_rs::{
    FeldmanVerifierSet, IdentifierPrimeField, Polynomial as _, PrimeFieldShare, Share as _, ShareVerifierGroup,
    ValueGroup,
};
use zeroize::{Zeroize, Zeroizing};

type FieldShare = PrimeFieldShare<Scalar>;
type Commitment = ShareVerifierGroup<RistrettoPoint>;

/// Everything random in a ceremony, derived from one member's seed: the same again after a crash.
///
/// HKDF-SHA256 with the ceremony's context as salt, so that one seed used by mistake in two ceremonies still gives
/// independent values.
pub(super) struct Derivation(Hkdf<Sha256>);

impl Derivation {
    pub(super) fn new(seed: &Secret<32>, context: &[u8; 64]) -> Self {
        Self(Hkdf::new(Some(context), seed.expose()))
    }

    fn expand<const N: usize>(&self, purpose: &str, fields: &[&[u8]]) -> Secret<N> {
        const { assert!(N <= 255 * 32, "HKDF-SHA256 gives no more, so the expansion below can't fail") };
        Secret::init_with(|out| _ = self.0.expand(&transcript(purpose, fields), out))
    }

    fn scalar(&self, purpose: &str, fields: &[&[u8]]) -> Zeroizing<Scalar> {
        Zeroizing::new(Scalar::from_bytes_mod_order_wide(self.expand::<64>(purpose, fields).expose()))
    }

    /// What the receiver's key pair for `dealer` is made of, and what a complaint reveals.
    pub(super) fn key_seed(&self, dealer: u8) -> Secret<32> {
        self.expand("ceremony/receiver-key", &[&[dealer]])
    }
}

/// The public half of the X-Wing key pair derived from `key_seed` (`DeriveKeyPair` of draft-ietf-hpke-pq).
pub(super) fn receiver_key(key_seed: &[u8; 32]) -> [u8; RECEIVER_KEY] {
    let mut out = [0; RECEIVER_KEY];
    for (o, b) in out.iter_mut().zip(XWing::derive_keypair(key_seed).1.to_bytes()) {
        *o = b;
    }
    out
}

/// Whether a sender can encapsulate to this key: the check of FIPS 203 section 7.2 on its ML-KEM part.
pub(super) fn is_receiver_key(bytes: &[u8; RECEIVER_KEY]) -> bool {
    <XWing as Kem>::PublicKey::from_bytes(bytes).is_ok()
}

/// Who deals to whom under which commitments: the `info` of HPKE.
fn share_info(context: &[u8; 64], dealer: u8, receiver: u8, commitment_hash: &[u8; 64]) -> Vec<u8> {
    transcript("ceremony/share", &[context, &[dealer], &[receiver], commitment_hash])
}

/// A dealer's polynomial. Its coefficients are wiped on drop.
struct Dealing(Vec<FieldShare>);

impl Dealing {
    /// The constant term is `secret`, or random where there is none; the other coefficients are random.
    fn new(derivation: &Derivation, threshold: u8, secret: Option<&Scalar>) -> Self {
        let mut polynomial = Vec::<FieldShare>::create(usize::from(threshold));
        for (k, share) in (0u8..).zip(polynomial.coefficients_mut()) {
            let random = derivation.scalar("ceremony/coefficient", &[&[k]]);
            let coefficient = secret.filter(|_| k == 0).unwrap_or(&random);
            // vsss-rs keeps the constant term among the values and all others among the identifiers.
            if k == 0 {
                share.value_mut().0 = *coefficient;
            } else {
                share.identifier_mut().0 = *coefficient;
            }
        }
        Self(polynomial)
    }

    fn commitments(&self) -> Vec<[u8; 32]> {
        let points = (0..).zip(&self.0).map(|(k, c)| G * if k == 0 { &c.value().0 } else { &c.identifier().0 });
        points.map(|p| group::encode(&p)).collect()
    }

    fn constant(&self) -> Zeroizing<Scalar> {
        Zeroizing::new(self.0.first().map(|c| c.value().0).unwrap_or_default())
    }

    fn share_of(&self, receiver: u8) -> Secret<32> {
        let mut value = self.0.evaluate(&IdentifierPrimeField(Scalar::from(receiver)), self.0.len());
        let share = Secret::init_with(|out| *out = value.0.to_bytes());
        value.0.zeroize();
        share
    }
}

impl Drop for Dealing {
    fn drop(&mut self) {
        for c in &mut self.0 {
            c.value_mut().0.zeroize();
            c.identifier_mut().0.zeroize();
        }
    }
}

/// Deals `secret`, or a random one where there is none, to the receivers. `None` if a receiver's key is no key.
pub(super) fn deal<'a>(
    derivation: &Derivation,
    params: &super::Params,
    dealer: u8,
    secret: Option<&Scalar>,
    receivers: impl Iterator<Item = (u8, &'a [u8; RECEIVER_KEY])>,
) -> Option<Deal> {
    let context = params.context();
    let dealing = Dealing::new(derivation, params.threshold, secret);
    let commitments = dealing.commitments();
    let commitment_hash = hash_commitments(&commitments);

    let nonce = derivation.scalar("dkg/pok-nonce", &[&commitment_hash]);
    let commitment = group::encode(&(G * &*nonce));
    let e = challenge(&context, dealer, params.epoch, &commitments, &commitment);
    let response = (*nonce + e * *dealing.constant()).to_bytes();

    let seal = |(j, key): (u8, &[u8; RECEIVER_KEY])| {
        let public = <XWing as Kem>::PublicKey::from_bytes(key).ok()?;
        let mut rng = Encapsulation { derivation, fields: [&[j], key, &commitment_hash], block: 0 };
        let info = share_info(&context, dealer, j, &commitment_hash);
        let (enc, ct) = single_shot_seal_with_rng::<ChaCha20Poly1305, HkdfSha256, XWing>(
            &OpModeS::Base,
            &public,
            &info,
            dealing.share_of(j).expose(),
            &[],
            &mut rng,
        )
        .ok()?;
        let sealed: Vec<u8> = enc.to_bytes().iter().copied().chain(ct).collect();
        Some((j, sealed.try_into().ok()?))
    };
    let shares = receivers.map(seal).collect::<Option<_>>()?;
    Some(Deal { commitments, proof: Proof { commitment, response }, shares })
}

/// Checks the proof of knowledge.
pub(super) fn verify_proof(context: &[u8; 64], dealer: u8, epoch: u64, deal: &Deal) -> bool {
    let check = || {
        let constant = group::point(deal.commitments.first()?).ok()?;
        let commitment = group::point(&deal.proof.commitment).ok()?;
        let response = group::scalar(&deal.proof.response).ok()?;
        let e = challenge(context, dealer, epoch, &deal.commitments, &deal.proof.commitment);
        Some(RistrettoPoint::vartime_double_scalar_mul_basepoint(&-e, &constant, &response) == commitment)
    };
    check().unwrap_or(false)
}

fn challenge(context: &[u8; 64], dealer: u8, epoch: u64, commitments: &[[u8; 32]], commitment: &[u8; 32]) -> Scalar {
    let c = hash_commitments(commitments);
    group::hash_to_scalar("dkg/pok", &[context, &[dealer], &epoch.to_be_bytes(), &c, commitment])
}

/// Opens the share that `dealer` sent to `receiver` and checks it against the commitments.
///
/// `None` if it does not open, is no scalar below the order, or does not fit: in each case the dealer is at fault,
/// provided that `key_seed` gives the key that the receiver published.
pub(super) fn open_share(
    context: &[u8; 64],
    dealer: u8,
    receiver: u8,
    deal: &Deal,
    key_seed: &[u8; 32],
) -> Option<Zeroizing<Scalar>> {
    let sealed: &[u8; SEALED_SHARE] = deal.shares.get(&receiver)?;
    let (enc, ct) = sealed.split_at_checked(1120)?;
    let (private, _) = XWing::derive_keypair(key_seed);
    let enc = <XWing as Kem>::EncappedKey::from_bytes(enc).ok()?;
    let info = share_info(context, dealer, receiver, &deal.commitment_hash());
    let plaintext =
        single_shot_open::<ChaCha20Poly1305, HkdfSha256, XWing>(&OpModeR::Base, &private, &enc, &info, ct, &[]).ok()?;
    let plaintext = Zeroizing::new(plaintext);
    let bytes = Zeroizing::new(<[u8; 32]>::try_from(plaintext.as_slice()).ok()?);
    let share = Zeroizing::new(group::scalar(&bytes).ok()?);
    let expected = evaluate_commitments(&deal.commitments, receiver)?;
    (G * &*share == expected).then_some(share)
}

/// `Σ j^k C[k]`: what the dealer's share for `j`, times G, must be. `None` for a point that is not canonical.
pub(super) fn evaluate_commitments(commitments: &[[u8; 32]], j: u8) -> Option<RistrettoPoint> {
    let points = commitments.iter().map(|c| group::point(c).ok().map(ValueGroup));
    let points = points.collect::<Option<Vec<Commitment>>>()?;
    let generator = ValueGroup(curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT);
    let set = <Vec<Commitment> as FeldmanVerifierSet<FieldShare, Commitment>>::with_generator_and_verifiers(
        generator, &points,
    );
    let at = IdentifierPrimeField(Scalar::from(j));
    FeldmanVerifierSet::<FieldShare, Commitment>::evaluate_verifier_at(&set, &at).ok().map(|p| p.0)
}

/// The Lagrange coefficient of index `i` among `indices`, at the point `at`. `None` if an index stands there twice.
pub(super) fn lagrange(indices: &[u8], i: u8, at: u8) -> Option<Scalar> {
    let (at, x) = (Scalar::from(at), Scalar::from(i));
    if indices.iter().filter(|m| **m == i).count() != 1 {
        return None;
    }
    let others = indices.iter().filter(|m| **m != i).map(|m| Scalar::from(*m));
    let (numerator, denominator) = others.fold((Scalar::ONE, Scalar::ONE), |(n, d), m| (n * (at - m), d * (x - m)));
    Some(numerator * denominator.invert())
}

/// `Σ weight · point`; `None` as soon as a term is.
pub(super) fn weighted_sum(terms: impl Iterator<Item = Option<(Scalar, RistrettoPoint)>>) -> Option<RistrettoPoint> {
    terms.map(|term| term.map(|(weight, p)| weight * p)).sum()
}

/// The randomness of one encapsulation: HKDF output in blocks of 64 bytes, of which X-Wing takes one.
struct Encapsulation<'a> {
    derivation: &'a Derivation,
    fields: [&'a [u8]; 3],
    block: u32,
}

impl TryRng for Encapsulation<'_> {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut out = [0; 4];
        self.try_fill_bytes(&mut out)?;
        Ok(u32::from_le_bytes(out))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut out = [0; 8];
        self.try_fill_bytes(&mut out)?;
        Ok(u64::from_le_bytes(out))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let [j, key, commitment_hash] = self.fields;
        for chunk in out.chunks_mut(64) {
            let fields: [&[u8]; 4] = [j, key, commitment_hash, &self.block.to_be_bytes()];
            let block = self.derivation.expand::<64>("ceremony/encapsulation", &fields);
            for (o, b) in chunk.iter_mut().zip(block.expose()) {
                *o = *b;
            }
            self.block = self.block.wrapping_add(1);
        }
        Ok(())
    }
}

impl TryCryptoRng for Encapsulation<'_> {}
