//! Who is in office at a target, and how a cluster notices that it is not the only one of its kind.
//!
//! Each term of office is counted in the log first, and again while logins are made in it, and then stands at the target as the name of a role that cannot log in: the
//! *claim*. A cluster that was rolled back, or whose folders were copied, does not know the last that the target has seen. It touches nothing there then: leases are neither honoured nor ended, until
//! administrators have looked and told it to take over. At other targets all goes on: whoever holds one target cannot
//! stop the ends of leases at another.

use super::target;
use crate::genesis::Roster;
use crate::ids::{ClusterId, MemberIndex, hex};
use crate::lease::principal_prefix;
use crate::outcome::{Outcome, Refusal};
use crate::store::{Store, StoreError, Table, Tx, Value, key, name, read, read_prefix};
use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::BTreeMap;

/// How many counts at a target are remembered. A claim that is older than all of them is taken for one of ours.
pub const MAX_PAST: usize = 64;

/// No cluster is in office more often. A claim that says so is somebody's joke: whoever took it over could count no further.
pub const MAX_COUNT: u64 = 1 << 48;

/// How many logins a quarantine names at most.
pub const MAX_SAMPLE: usize = 20;

/// Who is in office at a target: a leader in one term. Only it may say what became of leases there.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Executor {
    /// The member.
    pub member: MemberIndex,
    /// Its term; 0 once somebody took over, so that nobody is in office.
    pub term: u64,
    /// Counts terms of office at this target, and how often whoever was in office counted on.
    pub epoch: u64,
    /// Random: two clusters that count alike are told apart.
    pub nonce: [u8; 8],
    /// The counts before, with their random numbers: at most [`MAX_PAST`], oldest first.
    pub past: Vec<(u64, [u8; 8])>,
    /// Up to which count administrators have taken over what others left.
    pub taken_over: u64,
}

impl Value for Executor {}

/// Why a cluster touches nothing at a target.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Quarantine {
    /// The highest term of office at the target that this cluster does not know.
    pub counter: u64,
    /// The log index at which it was first seen.
    pub index: u64,
    /// How many logins are at the target of which no lease here knows: they end when the cluster takes over.
    pub unknown: u32,
    /// How many leases are active here whose login is not at the target.
    pub missing: u32,
    /// Some of the unknown logins.
    pub sample: Vec<String>,
}

impl Value for Quarantine {}

/// What stands before the names of all claims of a cluster at one target. No login begins so.
#[must_use]
pub fn claim_prefix(cluster: &ClusterId, target: &str) -> String {
    let logins = principal_prefix(cluster, target);
    format!("{}c_", logins.trim_end_matches('_'))
}

/// The name of the claim of a term of office: 44 bytes.
#[must_use]
pub fn claim(cluster: &ClusterId, target: &str, held: &Executor) -> String {
    format!("{}{:016x}_{}", claim_prefix(cluster, target), held.epoch, hex(&held.nonce))
}

/// What the claims at a target say to whoever is in office.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// All are older: the own one may be made.
    Older,
    /// The own one stands, and no other that is as high. These are older.
    Mine {
        /// To be removed.
        older: Vec<String>,
    },
    /// One was made that this cluster knows nothing of.
    Foreign {
        /// The highest count of such.
        counter: u64,
    },
}

/// Judges the claims at a target, by the executor's own.
#[must_use]
pub fn judge(cluster: &ClusterId, target: &str, held: &Executor, found: &[String]) -> Judged {
    let (own, prefix) = (claim(cluster, target, held), claim_prefix(cluster, target));
    let forgotten = if held.past.len() < MAX_PAST { 0 } else { held.past.first().map_or(0, |(epoch, _)| *epoch) };
    let (mut mine, mut older, mut foreign) = (false, Vec::new(), None::<u64>);
    for name in found {
        let Some((counter, nonce)) = name.strip_prefix(&prefix).and_then(|rest| rest.split_once('_')) else { continue };
        let Some(counter) = u64::from_str_radix(counter, 16).ok().filter(|n| *n <= MAX_COUNT) else { continue };
        let known = held.past.iter().any(|(epoch, random)| *epoch == counter && hex(random) == nonce);
        if *name == own {
            mine = true;
        } else if known || counter <= held.taken_over || counter < forgotten {
            older.push(name.clone());
        } else {
            foreign = foreign.max(Some(counter));
        }
    }
    match foreign {
        Some(counter) => Judged::Foreign { counter },
        None if mine => Judged::Mine { older },
        None => Judged::Older,
    }
}

fn executor_key(target: &str) -> Vec<u8> {
    key(Table::Meta, &[b"executor/", target.as_bytes()])
}

fn quarantine_key(target: &str) -> Vec<u8> {
    key(Table::Quarantine, &[&name(target)])
}

/// Who is in office at a target.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn executor(store: &dyn Store, target: &str) -> Result<Option<Executor>, StoreError> {
    read(store, &executor_key(target))
}

/// The targets that show that this cluster is not the only one of its kind, by name. It touches nothing there.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn quarantines(store: &dyn Store) -> Result<BTreeMap<String, Quarantine>, StoreError> {
    Ok(crate::access::named(read_prefix(store, &key(Table::Quarantine, &[]), usize::MAX)?)?.into_iter().collect())
}

/// What one target shows.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn quarantine(store: &dyn Store, target: &str) -> Result<Option<Quarantine>, StoreError> {
    read(store, &quarantine_key(target))
}

/// A leader takes office. Terms of the log only grow, so a leader of an earlier term never comes back into it.
pub(crate) fn take_office(
    tx: &mut Tx<'_>,
    roster: &Roster,
    label: &str,
    (member, term, nonce): (MemberIndex, u64, [u8; 8]),
) -> Result<Outcome, StoreError> {
    if target(tx, label)?.is_none() {
        return Ok(Outcome::Refused(Refusal::not_found("target")));
    }
    let before = executor(tx, label)?;
    let later = before.as_ref().is_none_or(|e| e.term < term);
    if roster.member(member).is_none() || !later {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    tx.put(executor_key(label), &counted(before, member, term, nonce));
    Ok(Outcome::Done)
}

/// Whoever is in office has made logins since it claimed the target last. A cluster that is rolled back to before knows nothing of the
/// next claim, also when that is in the same term.
pub(crate) fn count_on(tx: &mut Tx<'_>, term: u64, label: &str, nonce: [u8; 8]) -> Result<Outcome, StoreError> {
    let held = executor(tx, label)?.filter(|e| e.term == term);
    let Some(held) = held.filter(|_| term > 0) else { return Ok(Outcome::Refused(Refusal::Unjustified)) };
    if target(tx, label)?.is_none() || quarantine(tx, label)?.is_some() {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    let member = held.member;
    tx.put(executor_key(label), &counted(Some(held), member, term, nonce));
    Ok(Outcome::Done)
}

/// The next count at a target.
fn counted(before: Option<Executor>, member: MemberIndex, term: u64, nonce: [u8; 8]) -> Executor {
    let (mut past, mut epoch, mut taken_over) = (Vec::new(), 0, 0);
    if let Some(before) = before {
        (past, epoch, taken_over) = (before.past, before.epoch, before.taken_over);
        past.push((epoch, before.nonce));
        past.drain(..past.len().saturating_sub(MAX_PAST));
    }
    Executor { member, term, epoch: epoch.saturating_add(1), nonce, past, taken_over }
}

/// Whoever is in office says that the target has seen a term of office that this cluster does not know.
pub(crate) fn quarantine_at(
    tx: &mut Tx<'_>,
    index: u64,
    term: u64,
    label: &str,
    found: &Quarantine,
) -> Result<Outcome, StoreError> {
    let held = executor(tx, label)?.filter(|e| e.term == term);
    let bounded = found.sample.len() <= MAX_SAMPLE && found.sample.iter().all(|login| login.len() <= 63);
    let bounded = bounded && found.counter <= MAX_COUNT && target(tx, label)?.is_some();
    if !bounded || held.is_none_or(|e| found.counter <= e.taken_over) {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    let before = quarantine(tx, label)?;
    let counter = before.as_ref().map_or(found.counter, |before| before.counter.max(found.counter));
    let index = before.map_or(index, |before| before.index);
    tx.put(quarantine_key(label), &Quarantine { index, counter, ..found.clone() });
    Ok(Outcome::Done)
}

/// Administrators say that this cluster is the one that counts at a target: it goes on from there.
pub(crate) fn take_over(tx: &mut Tx<'_>, label: &str, counter: u64) -> Result<Outcome, StoreError> {
    let Some(found) = quarantine(tx, label)? else {
        return Ok(Outcome::Refused(Refusal::not_found("quarantine")));
    };
    // What they were shown is what is there.
    if found.counter != counter {
        let why = "is not the count that is quarantined now: look again";
        return Ok(Outcome::Refused(Refusal::invalid("counter", why)));
    }
    if let Some(held) = executor(tx, label)? {
        let epoch = held.epoch.max(counter);
        tx.put(executor_key(label), &Executor { epoch, term: 0, taken_over: counter, ..held });
    }
    tx.delete(quarantine_key(label));
    Ok(Outcome::Done)
}

/// A target is no more: nothing it shows counts.
pub(super) fn forget(tx: &mut Tx<'_>, label: &str) {
    tx.delete(quarantine_key(label));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(epoch: u64, nonce: u8) -> Executor {
        let past = (1..epoch).map(|e| (e, [1; 8])).collect();
        Executor { member: 1, term: 9, epoch, nonce: [nonce; 8], past, taken_over: 0 }
    }

    #[test]
    fn claims_fit_and_are_no_logins() {
        let held = held(3, 7);
        let (cluster, name) = (ClusterId([1; 32]), claim(&ClusterId([1; 32]), "app", &held));
        assert_eq!(name.len(), 44, "{name}");
        assert!(!name.starts_with(&principal_prefix(&cluster, "app")), "{name} would be taken for a login");
        assert!(!name.starts_with(&claim_prefix(&cluster, "other")));
        assert!(!name.starts_with(&claim_prefix(&ClusterId([2; 32]), "app")));
    }

    #[test]
    fn who_does_not_know_a_claim_stops() {
        let cluster = ClusterId([1; 32]);
        let name = |epoch, nonce| claim(&cluster, "app", &held(epoch, nonce));
        let judged = |found: &[String]| judge(&cluster, "app", &held(5, 1), found);
        assert_eq!(judged(&[]), Judged::Older);
        assert_eq!(judged(&[name(4, 1)]), Judged::Older);
        assert_eq!(judged(&[name(4, 1), name(5, 1)]), Judged::Mine { older: vec![name(4, 1)] });
        assert_eq!(judged(&[name(5, 2)]), Judged::Foreign { counter: 5 }, "a copy that counted alike");
        assert_eq!(judged(&[name(5, 1), name(5, 2)]), Judged::Foreign { counter: 5 }, "both at once");
        assert_eq!(judged(&[name(5, 1), name(6, 1), name(0x1f, 3)]), Judged::Foreign { counter: 0x1f });
        assert_eq!(judged(&[name(4, 2)]), Judged::Foreign { counter: 4 }, "a copy that has meanwhile been overtaken");
        assert_eq!(judged(&[claim(&cluster, "app", &Executor { epoch: u64::MAX, ..held(5, 2) })]), Judged::Older);
        let foreign = claim(&ClusterId([2; 32]), "app", &held(99, 1));
        assert_eq!(judged(&[foreign, "something".to_owned()]), Judged::Older, "of another cluster, or no claim");
    }

    #[test]
    fn a_count_within_a_term_is_a_claim_that_an_earlier_state_does_not_know() {
        let cluster = ClusterId([1; 32]);
        let before = held(5, 1);
        let later = counted(Some(before.clone()), 1, 9, [2; 8]);
        let found = [claim(&cluster, "app", &later)];
        assert_eq!((later.epoch, later.term, later.past.last()), (6, 9, Some(&(5, [1; 8]))));
        assert_eq!(judge(&cluster, "app", &later, &found), Judged::Mine { older: Vec::new() });
        let own = [claim(&cluster, "app", &before), found[0].clone()];
        assert_eq!(judge(&cluster, "app", &later, &own), Judged::Mine { older: vec![own[0].clone()] });
        // Rolled back to before, it is taken into office again, and counts alike.
        let again = counted(Some(before), 2, 11, [3; 8]);
        assert_eq!(judge(&cluster, "app", &again, &found), Judged::Foreign { counter: 6 });
    }

    #[test]
    fn what_was_taken_over_and_what_is_forgotten_is_old() {
        let cluster = ClusterId([1; 32]);
        let name = |epoch, nonce| claim(&cluster, "app", &held(epoch, nonce));
        let after = Executor { taken_over: 9, ..held(10, 1) };
        assert_eq!(judge(&cluster, "app", &after, &[name(9, 2), name(8, 3)]), Judged::Older);
        assert_eq!(judge(&cluster, "app", &after, &[name(10, 2)]), Judged::Foreign { counter: 10 });
        let mut long = held(100, 1);
        long.past.drain(..long.past.len() - MAX_PAST);
        assert_eq!(judge(&cluster, "app", &long, &[name(35, 2)]), Judged::Older, "older than what is remembered");
        assert_eq!(judge(&cluster, "app", &long, &[name(36, 2)]), Judged::Foreign { counter: 36 });
    }
}
