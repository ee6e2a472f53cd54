//! Members that are gone: powered off or destroyed, as m of the k administrators have recorded it.
//!
//! A change is *effective* once no honest member can act on the rules before it. A member that is gone cannot, and cannot say so either:
//! people say it for it. Their word is dangerous when it is untrue, because a member that runs after all, in the dark, then acts on
//! old rules while everybody relies on the new ones. So it takes m signatures, names the member twice and a reason, never covers more
//! members than may be corrupt, and ends by itself when the member is heard of.

use crate::attest::Attestation;
use crate::genesis::{Roster, roster};
use crate::ids::{ClusterId, MemberIndex, Millis};
use crate::outcome::{Outcome, Refusal};
use crate::request::tighten;
use crate::store::{Store, StoreError, Table, Tx, Value, key, read};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use std::collections::BTreeMap;

/// The longest reason, in bytes.
pub const MAX_REASON: usize = 512;

/// How a member is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum Absence {
    /// It does not run, and is not started where it could be kept from hearing what has changed. Over when it attests again.
    PoweredOff,
    /// Nobody has its identity, its shares and its state any more. For ever: whatever is signed by it counts nowhere from then on.
    Destroyed,
}

impl fmt::Display for Absence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PoweredOff => "powered off",
            Self::Destroyed => "destroyed",
        })
    }
}

/// What administrators have recorded of a member.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Record {
    /// How it is gone.
    pub absence: Absence,
    /// Why that is known, as somebody typed it.
    pub reason: String,
    /// The log index of the record.
    pub index: u64,
    /// Cluster time of the record.
    pub at: Millis,
}

/// The records that stand, by member.
pub type Records = BTreeMap<MemberIndex, Record>;

impl Value for Records {}

fn at() -> Vec<u8> {
    key(Table::Meta, &[b"absent"])
}

/// The records that stand.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn records(store: &dyn Store) -> Result<Records, StoreError> {
    Ok(read(store, &at())?.unwrap_or_default())
}

/// The roster without the members that are destroyed: whose signatures count. Number and threshold stay what they are.
///
/// # Errors
/// [`StoreError`] when the store cannot answer or holds no genesis.
pub fn contributors(store: &dyn Store) -> Result<Roster, StoreError> {
    let mut roster = roster(store)?;
    let records = records(store)?;
    roster.members.retain(|m| records.get(&m.index).is_none_or(|r| r.absence != Absence::Destroyed));
    Ok(roster)
}

/// What administrators ask to have recorded.
pub(crate) struct Asked<'a> {
    pub(crate) member: MemberIndex,
    pub(crate) name: &'a str,
    pub(crate) absence: Option<Absence>,
    pub(crate) reason: &'a str,
}

pub(crate) fn record(tx: &mut Tx<'_>, index: u64, now: Millis, asked: &Asked<'_>) -> Result<Outcome, StoreError> {
    let refuse = |field, why: &str| Ok(Outcome::Refused(Refusal::invalid(field, why)));
    let roster = roster(tx)?;
    // Said twice, so that no slip of a finger declares another one dead.
    if roster.member(asked.member).is_none_or(|m| m.name != asked.name) {
        return Ok(Outcome::Refused(Refusal::not_found("member of that index and name")));
    }
    if asked.reason.trim().is_empty() || asked.reason.len() > MAX_REASON || asked.reason.chars().any(char::is_control) {
        return refuse("reason", "must say in 1 to 512 bytes, on one line, how that is known");
    }
    let mut records = records(tx)?;
    match (records.get(&asked.member).map(|r| r.absence), asked.absence) {
        (Some(Absence::Destroyed), _) => return refuse("member", "it is recorded as destroyed, which is for ever"),
        (None, None) => return Ok(Outcome::Refused(Refusal::not_found("record of the member"))),
        (had, wanted) if had == wanted => return Ok(Outcome::Refused(Refusal::exists("record of the member"))),
        _ => {}
    }
    match asked.absence {
        None => drop(records.remove(&asked.member)),
        Some(absence) => {
            let reason = asked.reason.to_owned();
            records.insert(asked.member, Record { absence, reason, index, at: now });
            if roster.members.len().saturating_sub(records.len()) < usize::from(roster.threshold) {
                return refuse("member", "fewer members would be left than it takes for anything");
            }
            if absence == Absence::Destroyed {
                // What it endorsed a moment ago does not count either.
                tighten(tx, index)?;
            }
        }
    }
    tx.put(at(), &records);
    Ok(Outcome::Done)
}

/// A member that was recorded as powered off has attested an index at or past the record: it is back, and knows what has changed.
pub(crate) fn returned(
    tx: &mut Tx<'_>,
    cluster: &ClusterId,
    roster: &Roster,
    word: &Attestation,
) -> Result<Outcome, StoreError> {
    let mut records = records(tx)?;
    let off = records.get(&word.member).filter(|r| r.absence == Absence::PoweredOff);
    if off.is_none_or(|r| word.applied.index < r.index) || !word.is_valid(cluster, roster) {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    records.remove(&word.member);
    tx.put(at(), &records);
    Ok(Outcome::Done)
}
