//! Members with fixed seeds, a log that delivers everything, and a dealer that can lie.

use curve25519_dalek::constants::RISTRETTO_BASEPOINT_POINT as G;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use hpke::{Deserializable as _, Serializable as _};
use quorate_crypto::identity::{SigningKey, VerifyKey};
use quorate_crypto::reshare::{
    Body, Ceremony, Deal, EpochCertificate, Kind, Member, Message, NewShare, OldEpoch, Params, Proof, RECEIVER_KEY,
};
use quorate_crypto::secret::Secret;
use quorate_crypto::{encoding, group};
use std::collections::BTreeMap;

pub(crate) struct Player {
    pub(crate) index: u8,
    pub(crate) seed: Secret<32>,
    pub(crate) key: SigningKey,
    pub(crate) old_share: Option<Secret<32>>,
}

impl Player {
    pub(crate) fn new(ceremony: u8, index: u8) -> Self {
        let bytes = |what: u8| Secret::from_slice(&encoding::hash32("test", &[&[what, ceremony, index]])).unwrap();
        let identity = Secret::from_slice(&encoding::hash32("test", &[b"identity", &[index]])).unwrap();
        Self { index, seed: bytes(1), key: SigningKey::from_seed(&identity), old_share: None }
    }

    pub(crate) fn holding(mut self, share: Option<&NewShare>) -> Self {
        self.old_share = share.map(|s| Secret::from_slice(s.scalar.expose()).unwrap());
        self
    }

    pub(crate) fn member(&self) -> Member<'_> {
        Member { index: self.index, seed: &self.seed, key: &self.key, old_share: self.old_share.as_ref() }
    }

    pub(crate) fn says(&self, ceremony: &Ceremony) -> Vec<Message> {
        self.member().next(ceremony).unwrap()
    }
}

pub(crate) fn players(ceremony: u8, indices: impl IntoIterator<Item = u8>) -> Vec<Player> {
    indices.into_iter().map(|i| Player::new(ceremony, i)).collect()
}

pub(crate) fn keys(players: &[Player]) -> BTreeMap<u8, VerifyKey> {
    players.iter().map(|p| (p.index, p.key.verify_key())).collect()
}

pub(crate) fn generation(session: u8, threshold: u8, players: &[Player]) -> Params {
    Params { session: [session; 32], kind: Kind::KeyGeneration, epoch: 1, roster: 7, threshold, members: keys(players) }
}

pub(crate) fn reshare(
    session: u8,
    old: &EpochCertificate,
    old_members: BTreeMap<u8, VerifyKey>,
    threshold: u8,
    new: &[Player],
) -> Params {
    let old_epoch = OldEpoch {
        key: old.key,
        threshold: old.threshold,
        members: old_members,
        public_shares: old.public_shares.clone(),
    };
    let kind = Kind::Reshare(old_epoch);
    Params { session: [session; 32], kind, epoch: old.epoch + 1, roster: old.roster, threshold, members: keys(new) }
}

/// Everyone says what is due, in order; everything said is delivered.
pub(crate) fn round(ceremony: &mut Ceremony, players: &[Player]) -> Vec<Message> {
    let said: Vec<Message> = players.iter().flat_map(|p| p.says(ceremony)).collect();
    for message in &said {
        // A deal can come too late in a reshare, a complaint can be decided already: both are refused without blame.
        if let Err(refusal) = ceremony.receive(message) {
            assert_eq!(refusal.culprit, None, "{refusal}");
        }
    }
    said
}

/// Rounds until nobody has anything to say.
pub(crate) fn run(ceremony: &mut Ceremony, players: &[Player]) {
    while !round(ceremony, players).is_empty() {}
}

pub(crate) fn shares(ceremony: &Ceremony, players: &[Player]) -> BTreeMap<u8, NewShare> {
    let receivers = players.iter().filter(|p| ceremony.params().members.contains_key(&p.index));
    receivers.map(|p| (p.index, p.member().finish(ceremony).unwrap())).collect()
}

/// A finished key generation.
pub(crate) struct Epoch {
    pub(crate) certificate: EpochCertificate,
    pub(crate) players: Vec<Player>,
    pub(crate) shares: BTreeMap<u8, NewShare>,
}

pub(crate) fn generated(session: u8, threshold: u8, n: u8) -> Epoch {
    let players = players(session, 1..=n);
    let mut ceremony = Ceremony::begin(generation(session, threshold, &players)).unwrap();
    run(&mut ceremony, &players);
    let shares = shares(&ceremony, &players);
    Epoch { certificate: ceremony.certificate().unwrap().clone(), players, shares }
}

pub(crate) fn lagrange(indices: &[u8], i: u8) -> Scalar {
    let mut out = Scalar::ONE;
    for m in indices.iter().filter(|m| **m != i) {
        out *= Scalar::from(*m) * (Scalar::from(*m) - Scalar::from(i)).invert();
    }
    out
}

/// `Σ λ_i k_i R`: combined in the exponent, as an opening does. The key itself is nowhere.
pub(crate) fn open(shares: &BTreeMap<u8, NewShare>, indices: &[u8], r: &RistrettoPoint) -> RistrettoPoint {
    let partial = |i: &u8| group::scalar(shares[i].scalar.expose()).unwrap() * r;
    indices.iter().map(|i| lagrange(indices, *i) * partial(i)).sum()
}

pub(crate) fn subsets(of: &[u8], size: usize) -> Vec<Vec<u8>> {
    let pick = |mask: u32| (0..).zip(of).filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, i)| *i).collect::<Vec<u8>>();
    (0..1u32 << of.len()).map(pick).filter(|s| s.len() == size).collect()
}

/// What receivers published for `dealer`.
pub(crate) fn keys_for(dealer: u8, said: &[Message]) -> BTreeMap<u8, [u8; RECEIVER_KEY]> {
    let key = |m: &Message| match &m.body {
        Body::Keys(k) => Some((m.member, k.keys[&dealer])),
        _ => None,
    };
    said.iter().filter_map(key).collect()
}

/// A dealing written from `docs/ceremony.md`, with any polynomial, whose sealed plaintexts `bend` may change.
pub(crate) fn craft(
    params: &Params,
    dealer: u8,
    coefficients: &[Scalar],
    to: &BTreeMap<u8, [u8; RECEIVER_KEY]>,
    bend: impl Fn(u8, Scalar) -> [u8; 32],
) -> Deal {
    let commitments: Vec<[u8; 32]> = coefficients.iter().map(|a| group::encode(&(G * a))).collect();
    let fields: Vec<&[u8]> = commitments.iter().map(|c| c.as_slice()).collect();
    let commitment_hash = encoding::hash("ceremony/commitments", &fields);
    let proof = prove(params, dealer, coefficients[0], &commitment_hash);
    let seal = |(j, key): (&u8, &[u8; RECEIVER_KEY])| {
        let value = coefficients.iter().rev().fold(Scalar::ZERO, |acc, a| acc * Scalar::from(*j) + a);
        let info = encoding::transcript("ceremony/share", &[&params.context(), &[dealer], &[*j], &commitment_hash]);
        (*j, hpke_seal(key, &info, &bend(*j, value)))
    };
    Deal { proof, shares: to.iter().map(seal).collect(), commitments }
}

fn prove(params: &Params, dealer: u8, secret: Scalar, commitment_hash: &[u8; 64]) -> Proof {
    let w = Scalar::from(4711u64);
    let commitment = group::encode(&(G * w));
    let fields: [&[u8]; 5] = [&params.context(), &[dealer], &params.epoch.to_be_bytes(), commitment_hash, &commitment];
    let e = group::hash_to_scalar("dkg/pok", &fields);
    Proof { commitment, response: (w + e * secret).to_bytes() }
}

fn hpke_seal(key: &[u8; RECEIVER_KEY], info: &[u8], plaintext: &[u8]) -> [u8; 1168] {
    use hpke::kem::{Kem, XWing};
    let public = <XWing as Kem>::PublicKey::from_bytes(key).unwrap();
    let (enc, ct) = hpke::single_shot_seal::<hpke::aead::ChaCha20Poly1305, hpke::kdf::HkdfSha256, XWing>(
        &hpke::OpModeS::Base,
        &public,
        info,
        plaintext,
        b"",
    )
    .unwrap();
    [enc.to_bytes().as_slice(), &ct].concat().try_into().unwrap()
}

pub(crate) fn scalars(n: u8) -> Vec<Scalar> {
    (0..n).map(|k| group::hash_to_scalar("test", &[&[k]])).collect()
}
