//! Attestations: members' signed statements of what they have applied.
//!
//! One says three things. To whoever takes over a state without its entries, that t members have this very state at this
//! index, of whom one at least is honest. To whoever waits for a rule to hold everywhere, that this member has applied the
//! index, and durably. And to everybody, when two of one index differ, that somebody lies or is damaged.

use crate::absence::{Absence, Records};
use crate::genesis::Roster;
use crate::ids::{ClusterId, MemberIndex};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_crypto::identity::SigningKey;
use std::collections::{BTreeMap, BTreeSet};

/// How many attestations one proof may hold: more members than there can be.
const MOST: usize = 16;

/// What a member has at one index of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Applied {
    /// The index of the last applied entry.
    pub index: u64,
    /// The hash over all entries up to it and the membership in force.
    pub log: [u8; 32],
    /// The state's own hash: [`crate::hash::StateHash::digest`].
    pub state: [u8; 32],
}

/// A member's word that it has applied this.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Attestation {
    /// [`Roster::number`] that the member goes by.
    pub roster: u64,
    /// Who.
    pub member: MemberIndex,
    /// What.
    pub applied: Applied,
    /// Purpose `attest`, over cluster, roster, member, index, log, state.
    pub signature: [u8; 64],
}

impl Attestation {
    /// Attests. Only to what no crash of the member will take back.
    #[must_use]
    pub fn sign(cluster: &ClusterId, roster: u64, member: MemberIndex, applied: Applied, key: &SigningKey) -> Self {
        let mut attestation = Self { roster, member, applied, signature: [0; 64] };
        let Applied { index, log, state } = &attestation.applied;
        let fields: [&[u8]; 6] = [&cluster.0, &roster.to_be_bytes(), &[member], &index.to_be_bytes(), log, state];
        attestation.signature = key.sign("attest", &fields);
        attestation
    }

    /// Whether a member of this roster signed it, for this cluster.
    #[must_use]
    pub fn is_valid(&self, cluster: &ClusterId, roster: &Roster) -> bool {
        let member = roster.member(self.member).filter(|_| self.roster == roster.number);
        member.is_some_and(|member| self.is_signed(cluster, &member.key))
    }

    /// Whether the holder of `key` signed it, for this cluster. For clients, which pin members and know no roster.
    #[must_use]
    pub fn is_signed(&self, cluster: &ClusterId, key: &[u8; 32]) -> bool {
        let Applied { index, log, state } = &self.applied;
        let fields: [&[u8]; 6] =
            [&cluster.0, &self.roster.to_be_bytes(), &[self.member], &index.to_be_bytes(), log, state];
        quorate_crypto::identity::VerifyKey(*key).verify("attest", &fields, &self.signature).is_ok()
    }
}

/// How many distinct members of the roster attest exactly `applied`.
#[must_use]
pub fn vouchers(cluster: &ClusterId, roster: &Roster, applied: &Applied, attestations: &[Attestation]) -> usize {
    let mut members = BTreeSet::new();
    for attestation in attestations.iter().take(MOST) {
        if attestation.applied == *applied
            && !members.contains(&attestation.member)
            && attestation.is_valid(cluster, roster)
        {
            members.insert(attestation.member);
        }
    }
    members.len()
}

/// A member's word on who is recorded as gone in its state, and has not been heard of since: whose own word nobody need wait for.
///
/// The records are signed by administrators, but whether one still stands only a state can say; so it takes the word of t members.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Excuses {
    /// [`Roster::number`] that the member goes by.
    pub roster: u64,
    /// Who says so.
    pub member: MemberIndex,
    /// What it has applied.
    pub index: u64,
    /// Who is gone, by member.
    pub gone: Vec<(MemberIndex, Absence)>,
    /// Purpose `excuse`, over cluster, roster, member, index, and for each that is gone its index and its absence, one byte each.
    pub signature: [u8; 64],
}

impl Excuses {
    /// Says who is gone: the records that stand at `index`, without the members that were heard of since.
    #[must_use]
    pub fn sign(
        cluster: &ClusterId,
        (roster, member): (u64, MemberIndex),
        index: u64,
        records: &Records,
        heard: &BTreeSet<MemberIndex>,
        key: &SigningKey,
    ) -> Self {
        let silent =
            |(of, r): &(&MemberIndex, &crate::absence::Record)| r.absence == Absence::Destroyed || !heard.contains(*of);
        let gone = records.iter().filter(silent).map(|(of, r)| (*of, r.absence)).collect();
        let mut excuses = Self { roster, member, index, gone, signature: [0; 64] };
        let list = excuses.list();
        excuses.signature =
            key.sign("excuse", &[&cluster.0, &roster.to_be_bytes(), &[member], &index.to_be_bytes(), &list]);
        excuses
    }

    fn list(&self) -> Vec<u8> {
        self.gone.iter().flat_map(|(of, absence)| [*of, *absence as u8]).collect()
    }

    /// Whether the holder of `key` signed it, for this cluster.
    #[must_use]
    pub fn is_signed(&self, cluster: &ClusterId, key: &[u8; 32]) -> bool {
        let (roster, index, list) = (self.roster.to_be_bytes(), self.index.to_be_bytes(), self.list());
        let fields: [&[u8]; 5] = [&cluster.0, &roster, &[self.member], &index, &list];
        quorate_crypto::identity::VerifyKey(*key).verify("excuse", &fields, &self.signature).is_ok()
    }
}

/// Who is gone by the word of t members that have applied `index`: of whom one at least is honest. Destroyed is who t call so.
///
/// # Security
/// Takes the words as they are: [`Excuses::is_signed`] comes first.
#[must_use]
pub fn excused(index: u64, threshold: u8, words: &[Excuses]) -> BTreeMap<MemberIndex, Absence> {
    let mut says: BTreeMap<MemberIndex, BTreeMap<MemberIndex, Absence>> = BTreeMap::new();
    for word in words.iter().filter(|w| w.index >= index) {
        for (of, absence) in word.gone.iter().filter(|(of, _)| *of != word.member) {
            says.entry(*of).or_default().insert(word.member, *absence);
        }
    }
    let needed = usize::from(threshold);
    says.retain(|_, by| by.len() >= needed);
    let sort = |by: BTreeMap<MemberIndex, Absence>| {
        let destroyed = by.values().filter(|a| **a == Absence::Destroyed).count();
        if destroyed >= needed { Absence::Destroyed } else { Absence::PoweredOff }
    };
    says.into_iter().map(|(of, by)| (of, sort(by))).collect()
}
