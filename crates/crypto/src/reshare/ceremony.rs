//! The public half: what has been said, what follows from it, and who is to blame.

use super::certificate::EpochCertificate;
use super::message::{Body, Complaint, Deal, Message, RECEIVER_KEY, Ready, ReceiverKeys};
use super::params::{BadParams, Kind, Params};
use super::sharing::{
    evaluate_commitments, is_receiver_key, lagrange, open_share, receiver_key, verify_proof, weighted_sum,
};
use crate::encoding;
use crate::group;
use borsh::io::{Error, ErrorKind, Read, Write};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use curve25519_dalek::ristretto::RistrettoPoint;
use curve25519_dalek::scalar::Scalar;
use curve25519_dalek::traits::IsIdentity as _;
use std::collections::{BTreeMap, BTreeSet};

/// One ceremony, as every node sees it. A function of its parameters and of the messages in log order.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Ceremony {
    version: Version1,
    #[borsh(deserialize_with = "possible_params")]
    params: Params,
    phase: Phase,
    keys: BTreeMap<u8, ReceiverKeys>,
    deals: BTreeMap<u8, Deal>,
    /// Dealers in log order.
    order: Vec<u8>,
    complaints: BTreeMap<(u8, u8), [u8; 32]>,
    rulings: Vec<Ruling>,
    transcript: [u8; 64],
    /// Set in `Ready` and `Active`; its signatures grow until everyone has signed.
    epoch: Option<EpochCertificate>,
}

/// Where a ceremony stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Phase {
    /// Receivers publish their keys.
    Keys,
    /// Dealers deal.
    Deal,
    /// The dealers are named and the new public shares computed; receivers check, and complain or sign.
    Ready,
    /// Everyone has signed: the certificate is complete.
    Active,
    /// Ended without a result. Nothing secret that was dealt is used again.
    Aborted(Abort),
}

/// Why a ceremony ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Abort {
    /// The caller ended it: its deadline passed, or administrators said so.
    Ordered,
    /// A ruling left it without someone it can't do without. [`Ruling::culprit`] names him.
    Ruled(Ruling),
    /// The sum of the dealings is no usable key. Corrupt dealers alone can bring that about, by chance nobody will.
    Degenerate,
}

/// What became of a complaint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Ruling {
    /// Who was accused.
    pub dealer: u8,
    /// Who accused.
    pub accuser: u8,
    /// Who is out.
    pub verdict: Verdict,
}

/// Who is out, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Verdict {
    /// The dealer: what it sent does not open, or does not fit its commitments.
    DealerOut,
    /// The accuser: the share opens and fits.
    AccuserOut,
    /// The receiver: the revealed seed does not give the key that it had published.
    ReceiverOut,
}

impl Ruling {
    /// Who is out.
    #[must_use]
    pub const fn culprit(&self) -> u8 {
        match self.verdict {
            Verdict::DealerOut => self.dealer,
            Verdict::AccuserOut | Verdict::ReceiverOut => self.accuser,
        }
    }
}

/// What a message that was not refused has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It counts; see [`Ceremony::phase`].
    Accepted,
    /// It was known already, byte for byte: nothing changed.
    Repeated,
    /// It was a complaint, and is decided.
    Ruled(Ruling),
}

/// A message that changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("refused: {cause}")]
pub struct Refusal {
    /// Who provably misbehaved: the member whose signature is on the message. `None` where an honest member can send
    /// such a message late, or somebody else in its name.
    pub culprit: Option<u8>,
    /// Why.
    #[source]
    pub cause: Cause,
}

/// Why a message was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Cause {
    /// It belongs to another ceremony.
    #[error("the message belongs to another session")]
    Session,
    /// Its author has no such role here.
    #[error("member {0} has no such role in this ceremony")]
    Role(u8),
    /// Its signature does not verify under the author's identity key and this ceremony's parameters.
    #[error("the signature does not verify")]
    Signature,
    /// The phase for it has passed, or has not come.
    #[error("not in this phase")]
    Phase,
    /// Its author has said something else in its place before.
    #[error("differs from what its author sent before")]
    Different,
    /// There is not one key for each dealer.
    #[error("the receiver's keys are not one for each dealer")]
    KeySet,
    /// A receiver key is no X-Wing key.
    #[error("the key for dealer {0} is no valid key")]
    ReceiverKey(u8),
    /// The polynomial has the wrong degree.
    #[error("{given} commitments where {expected} are needed")]
    Degree {
        /// t'.
        expected: u8,
        /// How many there were.
        given: usize,
    },
    /// A commitment is not the canonical encoding of a point other than the identity.
    #[error("commitment {0} is no canonical point")]
    Commitment(usize),
    /// The dealt constant is not the dealer's share of the old epoch.
    #[error("the dealt constant is not the dealer's share of the old epoch")]
    Constant,
    /// The proof of knowledge does not verify.
    #[error("the proof of knowledge does not verify")]
    Proof,
    /// There is not one sealed share for each receiver.
    #[error("the sealed shares are not one for each receiver")]
    ShareSet,
    /// A complaint names a dealer whose deal is not there, or is out already.
    #[error("dealer {0} has no deal to complain about")]
    NoDeal(u8),
    /// A ready message signs another result: an older one after a ruling, or none that ever was.
    #[error("signs another result")]
    Result,
}

impl Ceremony {
    /// Begins a ceremony.
    ///
    /// # Errors
    /// [`BadParams`] if the sets, thresholds or old public shares can't be.
    pub fn begin(params: Params) -> Result<Self, BadParams> {
        params.check()?;
        Ok(Self {
            version: Version1,
            transcript: params.context(),
            params,
            phase: Phase::Keys,
            keys: BTreeMap::new(),
            deals: BTreeMap::new(),
            order: Vec::new(),
            complaints: BTreeMap::new(),
            rulings: Vec::new(),
            epoch: None,
        })
    }

    /// Takes the next message of the log.
    ///
    /// # Errors
    /// [`Refusal`]: the ceremony is as it was before, and the culprit is named where the message proves one.
    pub fn receive(&mut self, message: &Message) -> Result<Outcome, Refusal> {
        let member = message.member;
        self.authenticate(message).map_err(|cause| Refusal { culprit: None, cause })?;
        let refuse = |cause| match cause {
            Cause::Phase | Cause::NoDeal(_) | Cause::Result => Refusal { culprit: None, cause },
            _ => Refusal { culprit: Some(member), cause },
        };
        match &message.body {
            Body::Keys(keys) => self.on_keys(message, keys),
            Body::Deal(deal) => self.on_deal(message, deal),
            Body::Complaint(complaint) => self.on_complaint(message, complaint),
            Body::Ready(ready) => self.on_ready(message, ready),
        }
        .map_err(refuse)
    }

    /// Ends the ceremony without a result; a second call changes nothing.
    ///
    /// # Errors
    /// [`Cause::Phase`] once it is active.
    pub fn abort(&mut self) -> Result<(), Refusal> {
        match self.phase {
            Phase::Active => Err(Refusal { culprit: None, cause: Cause::Phase }),
            Phase::Aborted(_) => Ok(()),
            Phase::Keys | Phase::Deal | Phase::Ready => {
                self.end(Abort::Ordered);
                Ok(())
            }
        }
    }

    /// Where it stands.
    #[must_use]
    pub const fn phase(&self) -> Phase {
        self.phase
    }

    /// What it was begun with.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// Whose message the current phase waits for. In the deal phase of a reshare any `dealings_needed` of them will do.
    #[must_use]
    pub fn awaited(&self) -> BTreeSet<u8> {
        let (wanted, done): (_, Vec<u8>) = match self.phase {
            Phase::Keys => (&self.params.members, self.keys.keys().copied().collect()),
            Phase::Deal => (self.params.dealers(), self.deals.keys().copied().collect()),
            Phase::Ready => (&self.params.members, self.epoch.iter().flat_map(|e| e.ready.keys()).copied().collect()),
            Phase::Active | Phase::Aborted(_) => return BTreeSet::new(),
        };
        wanted.keys().copied().filter(|i| !done.contains(i)).collect()
    }

    /// Every complaint so far and what became of it, in log order.
    #[must_use]
    pub fn rulings(&self) -> &[Ruling] {
        &self.rulings
    }

    /// Who is out after the rulings.
    #[must_use]
    pub fn culprits(&self) -> BTreeSet<u8> {
        self.rulings.iter().map(Ruling::culprit).collect()
    }

    /// Hash over the parameters, every accepted message but `ready`, and every ruling, in order.
    #[must_use]
    pub const fn transcript(&self) -> &[u8; 64] {
        &self.transcript
    }

    /// The dealers whose dealings make the new shares, in ascending order; empty until they are named.
    #[must_use]
    pub fn qualified(&self) -> Vec<u8> {
        if self.epoch.is_some() { self.candidates().unwrap_or_default() } else { Vec::new() }
    }

    /// The new public shares, once the dealers are named.
    #[must_use]
    pub fn public_shares(&self) -> Option<&BTreeMap<u8, [u8; 32]>> {
        self.epoch.as_ref().map(|e| &e.public_shares)
    }

    /// What [`Ready`] signs, once the dealers are named.
    #[must_use]
    pub fn result_hash(&self) -> Option<[u8; 64]> {
        self.epoch.as_ref().map(EpochCertificate::result_hash)
    }

    /// The certificate, once the ceremony is active.
    #[must_use]
    pub fn certificate(&self) -> Option<&EpochCertificate> {
        self.epoch.as_ref().filter(|_| self.phase == Phase::Active)
    }

    /// What a receiver has published, once it has.
    #[must_use]
    pub fn keys_of(&self, receiver: u8) -> Option<&ReceiverKeys> {
        self.keys.get(&receiver)
    }

    pub(super) fn receiver_keys(&self, dealer: u8) -> impl Iterator<Item = (u8, &[u8; RECEIVER_KEY])> {
        self.keys.iter().filter_map(move |(j, keys)| Some((*j, keys.keys.get(&dealer)?)))
    }

    pub(super) fn deal_of(&self, dealer: u8) -> Option<&Deal> {
        self.deals.get(&dealer)
    }

    pub(super) fn is_ready(&self, member: u8) -> bool {
        self.epoch.as_ref().is_some_and(|e| e.ready.contains_key(&member))
    }

    /// Deals that are not ruled out, in log order.
    pub(super) fn standing(&self) -> impl Iterator<Item = (u8, &Deal)> {
        let out = self.dealers_out();
        self.order.iter().filter(move |i| !out.contains(*i)).filter_map(|i| Some((*i, self.deals.get(i)?)))
    }

    /// By what a qualified dealer's dealing is multiplied: 1 where the key is the sum of all, else Lagrange.
    pub(super) fn weight(&self, qualified: &[u8], dealer: u8) -> Option<Scalar> {
        match self.params.kind {
            Kind::KeyGeneration => Some(Scalar::ONE),
            Kind::Reshare(_) => lagrange(qualified, dealer, 0),
        }
    }

    fn authenticate(&self, message: &Message) -> Result<(), Cause> {
        if message.session != self.params.session {
            return Err(Cause::Session);
        }
        let role = match message.body {
            Body::Deal(_) => self.params.dealers(),
            Body::Keys(_) | Body::Complaint(_) | Body::Ready(_) => &self.params.members,
        };
        let key = role.get(&message.member).ok_or(Cause::Role(message.member))?;
        message.verify(&self.params.context(), key).map_err(|_| Cause::Signature)
    }

    fn on_keys(&mut self, message: &Message, keys: &ReceiverKeys) -> Result<Outcome, Cause> {
        let member = message.member;
        if let Some(known) = self.keys.get(&member) {
            return repeated(known == keys);
        }
        during(self.phase == Phase::Keys)?;
        if !keys.keys.keys().eq(self.params.dealers().keys()) {
            return Err(Cause::KeySet);
        }
        if let Some((dealer, _)) = keys.keys.iter().find(|(_, key)| !is_receiver_key(key)) {
            return Err(Cause::ReceiverKey(*dealer));
        }
        self.note(message);
        self.keys.insert(member, keys.clone());
        if self.keys.len() == self.params.members.len() {
            self.phase = Phase::Deal;
        }
        Ok(Outcome::Accepted)
    }

    fn on_deal(&mut self, message: &Message, deal: &Deal) -> Result<Outcome, Cause> {
        let member = message.member;
        if let Some(known) = self.deals.get(&member) {
            return repeated(known == deal);
        }
        during(self.phase == Phase::Deal)?;
        self.check_deal(member, deal)?;
        self.note(message);
        self.deals.insert(member, deal.clone());
        self.order.push(member);
        self.qualify();
        Ok(Outcome::Accepted)
    }

    fn check_deal(&self, dealer: u8, deal: &Deal) -> Result<(), Cause> {
        let expected = self.params.threshold;
        if deal.commitments.len() != usize::from(expected) {
            return Err(Cause::Degree { expected, given: deal.commitments.len() });
        }
        if let Some(k) = deal.commitments.iter().position(|c| group::point(c).is_err()) {
            return Err(Cause::Commitment(k));
        }
        if let Kind::Reshare(old) = &self.params.kind
            && deal.commitments.first() != old.public_shares.get(&dealer)
        {
            return Err(Cause::Constant);
        }
        if !verify_proof(&self.params.context(), dealer, self.params.epoch, deal) {
            return Err(Cause::Proof);
        }
        if !deal.shares.keys().eq(self.params.members.keys()) {
            return Err(Cause::ShareSet);
        }
        Ok(())
    }

    fn on_complaint(&mut self, message: &Message, complaint: &Complaint) -> Result<Outcome, Cause> {
        let (accuser, dealer) = (message.member, complaint.dealer);
        if let Some(known) = self.complaints.get(&(accuser, dealer)) {
            return repeated(*known == complaint.key_seed);
        }
        during(matches!(self.phase, Phase::Deal | Phase::Ready))?;
        let (_, deal) = self.standing().find(|(i, _)| *i == dealer).ok_or(Cause::NoDeal(dealer))?;
        let published = self.keys.get(&accuser).and_then(|keys| keys.keys.get(&dealer));
        let verdict = if published != Some(&receiver_key(&complaint.key_seed)) {
            Verdict::ReceiverOut
        } else if open_share(&self.params.context(), dealer, accuser, deal, &complaint.key_seed).is_some() {
            Verdict::AccuserOut
        } else {
            Verdict::DealerOut
        };
        let ruling = Ruling { dealer, accuser, verdict };
        self.note(message);
        self.complaints.insert((accuser, dealer), complaint.key_seed);
        self.rulings.push(ruling);
        self.after(ruling);
        Ok(Outcome::Ruled(ruling))
    }

    /// A dealer out is replaced by another where that is possible. A receiver out is never: every member of the new set
    /// must hold a share, and his sub-share is public now. The next ceremony is begun without him.
    fn after(&mut self, ruling: Ruling) {
        let out = self.dealers_out();
        let left = self.params.dealers().keys().filter(|i| !out.contains(*i)).count();
        if ruling.verdict != Verdict::DealerOut || left < self.params.dealings_needed() {
            self.end(Abort::Ruled(ruling));
            return;
        }
        // Signatures given for the result before the ruling are void.
        self.epoch = None;
        self.phase = Phase::Deal;
    }

    fn on_ready(&mut self, message: &Message, ready: &Ready) -> Result<Outcome, Cause> {
        let all = self.params.members.len();
        let epoch = self.epoch.as_mut().ok_or(Cause::Phase)?;
        if epoch.result_hash() != ready.result {
            return Err(Cause::Result);
        }
        if epoch.ready.contains_key(&message.member) {
            return Ok(Outcome::Repeated);
        }
        epoch.ready.insert(message.member, message.signature);
        if epoch.ready.len() == all {
            self.phase = Phase::Active;
        }
        Ok(Outcome::Accepted)
    }

    /// Names the dealers as soon as there are enough: all of them, or the first t in log order that stand.
    fn qualify(&mut self) {
        let Some(qualified) = self.candidates() else { return };
        let combined = |point: &dyn Fn(&Deal) -> Option<RistrettoPoint>| {
            let terms = qualified.iter().map(|i| Some((self.weight(&qualified, *i)?, point(self.deals.get(i)?)?)));
            weighted_sum(terms).filter(|p| !p.is_identity()).map(|p| group::encode(&p))
        };
        let key = combined(&|deal| group::point(deal.commitments.first()?).ok());
        let shares = self.params.members.keys();
        let shares = shares.map(|j| Some((*j, combined(&|deal| evaluate_commitments(&deal.commitments, *j))?)));
        let shares: Option<BTreeMap<u8, [u8; 32]>> = shares.collect();
        let unchanged = match &self.params.kind {
            Kind::KeyGeneration => true,
            Kind::Reshare(old) => key == Some(old.key),
        };
        let (Some(key), Some(public_shares), true) = (key, shares, unchanged) else {
            self.end(Abort::Degenerate);
            return;
        };
        self.epoch = Some(EpochCertificate {
            session: self.params.session,
            key,
            epoch: self.params.epoch,
            roster: self.params.roster,
            threshold: self.params.threshold,
            public_shares,
            transcript: self.transcript,
            ready: BTreeMap::new(),
        });
        self.phase = Phase::Ready;
    }

    fn candidates(&self) -> Option<Vec<u8>> {
        let needed = self.params.dealings_needed();
        let mut first: Vec<u8> = self.standing().map(|(i, _)| i).take(needed).collect();
        first.sort_unstable();
        (first.len() == needed).then_some(first)
    }

    fn dealers_out(&self) -> BTreeSet<u8> {
        self.rulings.iter().filter(|r| r.verdict == Verdict::DealerOut).map(|r| r.dealer).collect()
    }

    fn end(&mut self, why: Abort) {
        self.epoch = None;
        self.phase = Phase::Aborted(why);
    }

    fn note(&mut self, message: &Message) {
        let fields: [&[u8]; 3] = [&self.transcript, &[message.member], &message.body.to_bytes()];
        self.transcript = encoding::hash("ceremony/message", &fields);
    }
}

const fn during(now: bool) -> Result<(), Cause> {
    if now { Ok(()) } else { Err(Cause::Phase) }
}

const fn repeated(same: bool) -> Result<Outcome, Cause> {
    if same { Ok(Outcome::Repeated) } else { Err(Cause::Different) }
}

impl fmt::Debug for Ceremony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ceremony").field("params", &self.params).field("phase", &self.phase).finish_non_exhaustive()
    }
}

/// Nothing after this checks the terms again, so a stored form with impossible ones is refused like a `begin`.
fn possible_params<R: Read>(input: &mut R) -> Result<Params, Error> {
    let params = Params::deserialize_reader(input)?;
    params.check().map_err(|bad| Error::new(ErrorKind::InvalidData, bad))?;
    Ok(params)
}

/// The version of the stored form: one byte, refused if it is another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Version1;

impl BorshSerialize for Version1 {
    fn serialize<W: Write>(&self, out: &mut W) -> Result<(), Error> {
        1u8.serialize(out)
    }
}

impl BorshDeserialize for Version1 {
    fn deserialize_reader<R: Read>(input: &mut R) -> Result<Self, Error> {
        match u8::deserialize_reader(input)? {
            1 => Ok(Self),
            _ => Err(Error::new(ErrorKind::InvalidData, "unknown version of a ceremony")),
        }
    }
}
