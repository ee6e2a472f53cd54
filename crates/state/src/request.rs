//! Signed requests, endorsements, and the table that makes every request happen at most once.
//!
//! The bytes that the caller signed travel unchanged to every endorser, to the leader, and into the log: a forwarder's
//! word never stands in for the caller's.

use crate::change::Change;
use crate::clock::ClusterClock;
use crate::genesis::{Administrators, Roster};
use crate::ids::{ClusterId, MemberIndex, Millis, RequestId};
use crate::outcome::{Outcome, Refusal};
use crate::store::{Store, StoreError, Table, Tx, Value, key, read};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_crypto::encoding::hash;
use quorate_crypto::identity::{SigningKey, VerifyKey};
use std::collections::BTreeSet;

pub use quorate_crypto::identity::Verified;

/// How far ahead of cluster time a request's end may lie.
pub const MAX_VALIDITY: Millis = 600_000;
/// The same for requests that administrators sign: their signatures are gathered by hand.
pub const MAX_ADMIN_VALIDITY: Millis = 86_400_000;
/// How many requests one endorsement may name.
pub const MAX_ENDORSED: usize = 256;
/// How many old entries of the request table one command forgets.
const FORGET_PER_COMMAND: usize = 64;

/// What a caller signs. Canonical: borsh after one version byte; there is one encoding of each request.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Request {
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// The caller's id for it.
    pub id: RequestId,
    /// What is to change.
    pub change: Change,
    /// A key to seal the answer to, for targets that make the credential themselves. Unused in version 1.
    pub reply_to: Option<[u8; 32]>,
    /// The authority version that the caller saw; mandatory where [`Change::needs_administrators`].
    pub expected_authority_version: Option<u64>,
    /// When it is over, in cluster time.
    pub not_after: Millis,
    /// The caller's SPIFFE id, as its certificate says it.
    pub principal: String,
    /// The caller's certificate chain, DER, the caller's own first. Endorsers verify it; `apply` does not parse it.
    pub chain: Vec<Vec<u8>>,
}

impl Value for Request {}

/// One signature over a request.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Signature {
    /// The Ed25519 key.
    pub key: [u8; 32],
    /// Purpose `request`, over the request's bytes.
    pub signature: [u8; 64],
}

/// A request and its signatures: the caller's first, then the administrators'.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedRequest {
    /// The canonical bytes.
    pub bytes: Vec<u8>,
    /// The caller's signature, then the administrators'.
    pub signatures: Vec<Signature>,
}

impl core::fmt::Debug for SignedRequest {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "SignedRequest({} bytes, {} signatures)", self.bytes.len(), self.signatures.len())
    }
}

impl SignedRequest {
    /// Signs with the caller's key and those of the administrators.
    #[must_use]
    pub fn sign(request: &Request, caller: &SigningKey, administrators: &[&SigningKey]) -> Self {
        let bytes = crate::store::encode(request);
        let signatures = std::iter::once(caller)
            .chain(administrators.iter().copied())
            .map(|key| Signature { key: key.verify_key().0, signature: key.sign("request", &[&bytes]) })
            .collect();
        Self { bytes, signatures }
    }

    /// The request inside.
    ///
    /// # Errors
    /// [`Refusal::Malformed`] when the bytes are not one.
    pub fn request(&self) -> Result<Request, Refusal> {
        crate::store::decode(Table::Request as u8, &self.bytes).map_err(|_| Refusal::Malformed)
    }

    /// The hash that endorsements name: over the request's bytes and every signature.
    #[must_use]
    pub fn hash(&self) -> [u8; 64] {
        let mut signatures = Vec::new();
        // Writing into a vector does not fail.
        let _ = self.signatures.serialize(&mut signatures);
        hash("signed-request", &[&self.bytes, &signatures])
    }

    /// The caller's key.
    #[must_use]
    pub fn caller(&self) -> Option<&[u8; 32]> {
        self.signatures.first().map(|s| &s.key)
    }

    /// Checks the caller's signature, and those of the administrators where the change needs them. `seen` says what it always says.
    ///
    /// # Errors
    /// [`Refusal::BadSignature`] or [`Refusal::NotByAdministrators`].
    pub fn verify(&self, request: &Request, administrators: &Administrators, seen: &Verified) -> Result<(), Refusal> {
        let Some((caller, others)) = self.signatures.split_first() else { return Err(Refusal::BadSignature) };
        let valid = |s: &Signature| seen.verify(&VerifyKey(s.key), "request", &[&self.bytes], &s.signature).is_ok();
        if !valid(caller) {
            return Err(Refusal::BadSignature);
        }
        if !request.change.needs_administrators() {
            return if others.is_empty() { Ok(()) } else { Err(Refusal::BadSignature) };
        }
        let mut signed = BTreeSet::new();
        for signature in others {
            if !administrators.keys.contains(&signature.key) || !valid(signature) || !signed.insert(signature.key) {
                return Err(Refusal::BadSignature);
            }
        }
        if signed.len() < usize::from(administrators.needed) {
            return Err(Refusal::NotByAdministrators {
                got: u8::try_from(signed.len()).unwrap_or(u8::MAX),
                needed: administrators.needed,
            });
        }
        Ok(())
    }
}

/// A member's signed statement that it authenticated, authorised and audited these requests itself.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Endorsement {
    /// The roster that it is a member of.
    pub roster: u64,
    /// The authority version of the state on which it decided.
    pub authority_version: u64,
    /// Who.
    pub member: MemberIndex,
    /// Its clock: counts as a reading.
    pub clock: Millis,
    /// [`SignedRequest::hash`] of each request, at most [`MAX_ENDORSED`].
    pub requests: Vec<[u8; 64]>,
    /// Purpose `endorse`, over cluster and everything above.
    pub signature: [u8; 64],
}

impl Endorsement {
    fn signed(&self) -> Vec<u8> {
        let mut list = Vec::with_capacity(self.requests.len() * 64);
        for hash in &self.requests {
            list.extend_from_slice(hash);
        }
        list
    }

    /// Endorses. Only after the decision is durable in the audit log.
    #[must_use]
    pub fn sign(
        cluster: &ClusterId,
        roster: u64,
        authority_version: u64,
        member: MemberIndex,
        clock: Millis,
        requests: Vec<[u8; 64]>,
        key: &SigningKey,
    ) -> Self {
        let mut endorsement = Self { roster, authority_version, member, clock, requests, signature: [0; 64] };
        let list = endorsement.signed();
        endorsement.signature = key.sign(
            "endorse",
            &[
                &cluster.0,
                &roster.to_be_bytes(),
                &authority_version.to_be_bytes(),
                &[member],
                &clock.to_be_bytes(),
                &list,
            ],
        );
        endorsement
    }

    /// Whether a member of this roster signed it, for this request among others.
    #[must_use]
    pub fn is_valid(&self, cluster: &ClusterId, roster: &Roster, request: &[u8; 64], seen: &Verified) -> bool {
        if self.roster != roster.number || self.requests.len() > MAX_ENDORSED || !self.requests.contains(request) {
            return false;
        }
        let Some(member) = roster.member(self.member) else { return false };
        let list = self.signed();
        let fields: [&[u8]; 6] = [
            &cluster.0,
            &self.roster.to_be_bytes(),
            &self.authority_version.to_be_bytes(),
            &[self.member],
            &self.clock.to_be_bytes(),
            &list,
        ];
        seen.verify(&member.verify_key(), "endorse", &fields, &self.signature).is_ok()
    }
}

/// The authority version: rises with every command that can take something away.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn authority_version(store: &dyn Store) -> Result<u64, StoreError> {
    Ok(read(store, &authority_key())?.unwrap_or(0))
}

impl Value for u64 {}
impl Value for u32 {}

fn authority_key() -> Vec<u8> {
    key(Table::Meta, &[b"authority"])
}

/// Raises the authority version: endorsements made before are stale.
pub(crate) fn tighten(tx: &mut Tx<'_>, index: u64) -> Result<(), StoreError> {
    let version = authority_version(tx)?.saturating_add(1);
    tx.put(authority_key(), &version);
    tx.put(tightened_key(), &index);
    Ok(())
}

/// Where the log last raised the authority version; 0 if it never did.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn tightened_index(store: &dyn Store) -> Result<u64, StoreError> {
    Ok(read(store, &tightened_key())?.unwrap_or(0))
}

fn tightened_key() -> Vec<u8> {
    key(Table::Meta, &[b"tightened"])
}

/// Counts the endorsements of a request: at least t of distinct members, all of the current authority version.
/// Returns the cluster time that they carry: the minimum over the t highest clocks.
pub(crate) fn count_endorsements(
    tx: &Tx<'_>,
    cluster: &ClusterId,
    roster: &Roster,
    request: &[u8; 64],
    endorsements: &[Endorsement],
    seen: &Verified,
) -> Result<Result<Millis, Refusal>, StoreError> {
    let current = authority_version(tx)?;
    let needed = usize::from(roster.threshold);
    let mut members = BTreeSet::new();
    let mut clocks = Vec::new();
    let mut stale = false;
    for endorsement in endorsements.iter().take(16) {
        if !endorsement.is_valid(cluster, roster, request, seen) || members.contains(&endorsement.member) {
            continue;
        }
        if endorsement.authority_version != current {
            stale = true;
            continue;
        }
        members.insert(endorsement.member);
        clocks.push(endorsement.clock);
    }
    if members.len() < needed {
        return Ok(Err(if stale {
            Refusal::Stale { current }
        } else {
            Refusal::NotEndorsed { got: u8::try_from(members.len()).unwrap_or(u8::MAX), needed: roster.threshold }
        }));
    }
    clocks.sort_unstable_by(|a, b| b.cmp(a));
    Ok(Ok(clocks.get(needed.saturating_sub(1)).copied().unwrap_or(0)))
}

/// What the request table remembers.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Remembered {
    /// [`SignedRequest::hash`].
    pub hash: [u8; 64],
    /// What became of it.
    pub outcome: Outcome,
    /// Its place in the log.
    pub index: u64,
}

impl Value for Remembered {}

fn table_key(signer: &[u8; 32], id: &RequestId) -> Vec<u8> {
    key(Table::Request, &[signer, &id.0])
}

/// What became of a request that was sent before.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn remembered(store: &dyn Store, signer: &[u8; 32], id: &RequestId) -> Result<Option<Remembered>, StoreError> {
    read(store, &table_key(signer, id))
}

/// Remembers an outcome until cluster time passes `not_after`.
pub(crate) fn remember(tx: &mut Tx<'_>, signer: &[u8; 32], id: &RequestId, not_after: Millis, entry: &Remembered) {
    tx.put(table_key(signer, id), entry);
    tx.put(key(Table::RequestEnd, &[&not_after.to_be_bytes(), signer, &id.0]), &0u32);
}

/// Forgets some requests whose time is over: a few with each command, so that none takes long. It begins where it stopped: storage
/// keeps what was deleted for a while, and walks over all of it.
pub(crate) fn forget_old(tx: &mut Tx<'_>, now: Millis) -> Result<(), StoreError> {
    let from = key(Table::RequestEnd, &[&forgotten(tx)?.to_be_bytes()]);
    let to = key(Table::RequestEnd, &[&now.to_be_bytes()]);
    for (end, _) in tx.scan(&from, &to, FORGET_PER_COMMAND)? {
        if let Some(rest) = end.get(9..) {
            tx.delete(key(Table::Request, &[rest]));
        }
        if let Some(Ok(not_after)) = end.get(1..9).map(<[u8; 8]>::try_from) {
            tx.put(forgotten_key(), &u64::from_be_bytes(not_after));
        }
        tx.delete(end);
    }
    Ok(())
}

/// The latest end of a request that is forgotten, 0 before there is one: cluster time cannot be set back to before it, or that request
/// could happen again.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn forgotten(store: &dyn Store) -> Result<Millis, StoreError> {
    Ok(read(store, &forgotten_key())?.unwrap_or(0))
}

fn forgotten_key() -> Vec<u8> {
    key(Table::Meta, &[b"forgotten"])
}

/// Checks the times of a request against cluster time.
pub(crate) fn check_time(request: &Request, clock: &ClusterClock) -> Result<(), Refusal> {
    if request.not_after <= clock.now {
        return Err(Refusal::TooLate { not_after: request.not_after, now: clock.now });
    }
    let limit = if request.change.needs_administrators() { MAX_ADMIN_VALIDITY } else { MAX_VALIDITY };
    if request.not_after - clock.now > limit {
        return Err(Refusal::TooFar { limit });
    }
    Ok(())
}
