//! A member that lies, for tests against real processes: what it says instead of what it should.
//!
//! `ceremony.hostile.2=wrong-share 3` in `FAILPOINT_FILE` has member 2 cheat member 3, for as long as the line stands
//! there. Everything is made here from `docs/ceremony.md`, with the member's own keys: nothing honest is asked for help.

use crate::failpoint::told;
use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::scalar::Scalar;
use hpke::aead::ChaCha20Poly1305;
use hpke::kdf::HkdfSha256;
use hpke::kem::{Kem, XWing};
use hpke::{Deserializable as _, OpModeS, Serializable as _, single_shot_seal};
use quorate_crypto::reshare::{Body, Ceremony, Complaint, Deal, Member, Message, Params, Phase, Proof, RECEIVER_KEY};
use quorate_crypto::{encoding, group};
use std::collections::BTreeMap;

/// What the member says now, if it was told to lie; otherwise what it would have said.
pub(super) fn instead(member: &Member<'_>, ceremony: &Ceremony, honest: Vec<Message>) -> Vec<Message> {
    let Some(lie) = told(&format!("ceremony.hostile.{}", member.index)) else { return honest };
    tracing::warn!(lie, phase = ?ceremony.phase(), "this member lies");
    let (lie, about) = lie.split_once(' ').unwrap_or((&lie, ""));
    let about = about.parse().unwrap_or(0);
    let threshold = ceremony.params().threshold;
    let said = match (lie, ceremony.phase()) {
        ("wrong-share", Phase::Deal) => craft(member, ceremony, threshold, about).map(Body::Deal).into_iter().collect(),
        ("wrong-degree", Phase::Deal) => {
            craft(member, ceremony, threshold + 1, 0).map(Body::Deal).into_iter().collect()
        }
        ("silent", _) | ("dealt-then-silent", Phase::Ready) => Vec::new(),
        // Both are well made; they say different things.
        ("equivocate", Phase::Deal) => {
            let second = craft(member, ceremony, threshold, 0).map(Body::Deal);
            return honest.into_iter().chain(second.map(|body| sign(member, ceremony, body))).collect();
        }
        ("deal-again", Phase::Deal | Phase::Ready) => {
            craft(member, ceremony, threshold, 0).map(Body::Deal).into_iter().collect()
        }
        ("false-complaint", Phase::Ready) => vec![complaint(about, key_seed(member, ceremony, about))],
        ("complaint-with-other-key", Phase::Ready) => vec![complaint(about, [7; 32])],
        ("bad-receiver-key", Phase::Keys) => bad_keys(&honest).into_iter().collect(),
        _ => return honest,
    };
    said.into_iter().map(|body| sign(member, ceremony, body)).collect()
}

fn sign(member: &Member<'_>, ceremony: &Ceremony, body: Body) -> Message {
    Message::sign(ceremony.params(), member.index, body, member.key)
}

fn complaint(dealer: u8, key_seed: [u8; 32]) -> Body {
    Body::Complaint(Complaint { dealer, key_seed })
}

/// Coefficients of an ML-KEM key are below 3329 (FIPS 203 section 7.2): these are not.
fn bad_keys(honest: &[Message]) -> Option<Body> {
    let Body::Keys(mut keys) = honest.first()?.body.clone() else { return None };
    for key in keys.keys.values_mut() {
        key.iter_mut().take(2).for_each(|byte| *byte = 0xff);
    }
    Some(Body::Keys(keys))
}

/// A dealing of another polynomial than the member's own. `victim` is sent one more than its value; 0 is nobody.
fn craft(member: &Member<'_>, ceremony: &Ceremony, terms: u8, victim: u8) -> Option<Deal> {
    let params = ceremony.params();
    let coefficients: Vec<Scalar> = (0..terms).map(|k| Scalar::from(4711 + 13 * u64::from(k))).collect();
    let commitments: Vec<[u8; 32]> = coefficients.iter().map(|a| group::encode(&(G * a))).collect();
    let fields: Vec<&[u8]> = commitments.iter().map(<[u8; 32]>::as_slice).collect();
    let commitment_hash = encoding::hash("ceremony/commitments", &fields);
    let mut shares = BTreeMap::new();
    for (j, key) in receivers(ceremony, member.index)? {
        let at = Scalar::from(j);
        let value = coefficients.iter().rev().fold(Scalar::ZERO, |sum, a| sum * at + a);
        let value = if j == victim { value + Scalar::ONE } else { value };
        let info =
            encoding::transcript("ceremony/share", &[&params.context(), &[member.index], &[j], &commitment_hash]);
        shares.insert(j, seal(&key, &info, &value.to_bytes())?);
    }
    let proof = prove(params, member.index, coefficients.first()?, &commitment_hash);
    Some(Deal { commitments, proof, shares })
}

/// What the receivers published for `dealer`.
fn receivers(ceremony: &Ceremony, dealer: u8) -> Option<BTreeMap<u8, [u8; RECEIVER_KEY]>> {
    let members = ceremony.params().members.keys();
    members.map(|j| Some((*j, *ceremony.keys_of(*j)?.keys.get(&dealer)?))).collect()
}

fn prove(params: &Params, dealer: u8, secret: &Scalar, commitment_hash: &[u8; 64]) -> Proof {
    let nonce = Scalar::from(815u64);
    let commitment = group::encode(&(G * nonce));
    let epoch = params.epoch.to_be_bytes();
    let fields: [&[u8]; 5] = [&params.context(), &[dealer], &epoch, commitment_hash, &commitment];
    let e = group::hash_to_scalar("dkg/pok", &fields);
    Proof { commitment, response: (nonce + e * secret).to_bytes() }
}

fn seal(key: &[u8; RECEIVER_KEY], info: &[u8], share: &[u8; 32]) -> Option<[u8; 1168]> {
    let public = <XWing as Kem>::PublicKey::from_bytes(key).ok()?;
    let sealed = single_shot_seal::<ChaCha20Poly1305, HkdfSha256, XWing>(&OpModeS::Base, &public, info, share, &[]);
    let (enc, ciphertext) = sealed.ok()?;
    enc.to_bytes().iter().copied().chain(ciphertext).collect::<Vec<u8>>().try_into().ok()
}

/// The true seed of this member's key for `dealer`: a complaint with it reveals a share that fits.
fn key_seed(member: &Member<'_>, ceremony: &Ceremony, dealer: u8) -> [u8; 32] {
    let kdf = hkdf::Hkdf::<sha2::Sha256>::new(Some(&ceremony.params().context()), member.seed.expose());
    let mut seed = [0; 32];
    // 32 bytes are always there.
    let _ = kdf.expand(&encoding::transcript("ceremony/receiver-key", &[&[dealer]]), &mut seed);
    seed
}
