//! Cluster time: the one clock of leases and requests. It never goes back, and comes only from the log.
//!
//! A reading is a member's signed statement of its clock. From at least t readings apply takes the *minimum* of the t
//! it is given: with at most t-1 corrupt members one of them is honest, so time never runs ahead of every honest clock;
//! and since the proposer hands in the highest that answered, one slow clock does not stop it.

use crate::genesis::Roster;
use crate::ids::{ClusterId, MemberIndex, Millis};
use crate::outcome::{Outcome, Refusal};
use crate::store::{Store, StoreError, Table, Tx, Value, key, read};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_crypto::identity::SigningKey;
use std::collections::BTreeSet;

/// A forward step of more than this is a jump.
pub const JUMP: Millis = 60_000;
/// How long expiry pauses after a jump.
pub const JUMP_PAUSE: Millis = 30_000;
/// After one pause, how long until a jump may cause the next.
pub const JUMP_INTERVAL: Millis = 600_000;

/// The state of cluster time.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ClusterClock {
    /// Cluster time.
    pub now: Millis,
    /// Counts ticks: a reading names the tick it follows, so an old reading is worthless.
    pub tick: u64,
    /// Expiry pauses until then.
    pub paused_until: Millis,
    /// When the last pause began.
    pub last_jump: Millis,
}

impl Value for ClusterClock {}

impl ClusterClock {
    /// Time at the beginning. `last_jump` is 0: the first real step may be a jump.
    #[must_use]
    pub fn genesis(created: Millis) -> Self {
        Self { now: created, tick: 0, paused_until: 0, last_jump: 0 }
    }

    fn key() -> Vec<u8> {
        key(Table::Meta, &[b"clock"])
    }

    /// Reads it.
    ///
    /// # Errors
    /// [`StoreError`] when the store cannot answer or was never begun.
    pub fn load(store: &dyn Store) -> Result<Self, StoreError> {
        read(store, &Self::key())?.ok_or(StoreError::Corrupt { table: Table::Meta as u8 })
    }

    /// Writes it.
    pub fn save(&self, tx: &mut Tx<'_>) {
        tx.put(Self::key(), self);
    }

    /// Moves time to `to`, never back. Returns whether that was a jump which pauses expiry.
    pub fn advance(&mut self, to: Millis) -> bool {
        if to <= self.now {
            return false;
        }
        let jumped = to - self.now > JUMP && to.saturating_sub(self.last_jump) > JUMP_INTERVAL;
        self.now = to;
        if jumped {
            self.last_jump = to;
            self.paused_until = to.saturating_add(JUMP_PAUSE);
        }
        jumped
    }
}

/// A member's signed statement of its clock.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Reading {
    /// Who.
    pub member: MemberIndex,
    /// The tick that it follows.
    pub follows: u64,
    /// The larger of the member's wall clock and the last cluster time plus its own clock since.
    pub clock: Millis,
    /// Purpose `reading`, over cluster, roster number, member, follows, clock.
    pub signature: [u8; 64],
}

impl Reading {
    /// Signs a reading.
    #[must_use]
    pub fn sign(
        cluster: &ClusterId,
        roster: u64,
        member: MemberIndex,
        follows: u64,
        clock: Millis,
        key: &SigningKey,
    ) -> Self {
        let signature = key.sign(
            "reading",
            &[&cluster.0, &roster.to_be_bytes(), &[member], &follows.to_be_bytes(), &clock.to_be_bytes()],
        );
        Self { member, follows, clock, signature }
    }

    /// Whether a member of the roster signed it.
    #[must_use]
    pub fn is_valid(&self, cluster: &ClusterId, roster: &Roster) -> bool {
        let Some(member) = roster.member(self.member) else { return false };
        let fields: [&[u8]; 5] = [
            &cluster.0,
            &roster.number.to_be_bytes(),
            &[self.member],
            &self.follows.to_be_bytes(),
            &self.clock.to_be_bytes(),
        ];
        member.verify_key().verify("reading", &fields, &self.signature).is_ok()
    }
}

/// Applies a tick: at least t valid readings of distinct members that follow the last tick.
///
/// # Errors
/// [`StoreError`] only.
pub fn apply_tick(
    tx: &mut Tx<'_>,
    cluster: &ClusterId,
    roster: &Roster,
    readings: &[Reading],
) -> Result<Outcome, StoreError> {
    let mut clock = ClusterClock::load(tx)?;
    let mut seen = BTreeSet::new();
    let mut lowest = Millis::MAX;
    for reading in readings {
        if reading.follows == clock.tick && reading.is_valid(cluster, roster) && seen.insert(reading.member) {
            lowest = lowest.min(reading.clock);
        }
    }
    if seen.len() < usize::from(roster.threshold) {
        return Ok(Outcome::Refused(Refusal::NotEndorsed {
            got: u8::try_from(seen.len()).unwrap_or(u8::MAX),
            needed: roster.threshold,
        }));
    }
    clock.tick = clock.tick.saturating_add(1);
    let jumped = clock.advance(lowest);
    clock.save(tx);
    Ok(Outcome::Time { now: clock.now, jumped })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_jump_pauses_expiry_once_in_ten_minutes() {
        let mut clock = ClusterClock::genesis(1_000_000_000);
        assert!(!clock.advance(1_000_000_000 + JUMP));
        let at = clock.now + JUMP + 1;
        assert!(clock.advance(at));
        assert_eq!(clock.paused_until, at + JUMP_PAUSE);
        let again = at + JUMP + 1;
        assert!(!clock.advance(again), "a leader cannot pause expiry for ever by jumping");
        assert_eq!(clock.paused_until, at + JUMP_PAUSE);
    }

    proptest! {
        #[test]
        fn time_never_goes_back(steps in proptest::collection::vec(0u64..2_000_000, 1..50)) {
            let mut clock = ClusterClock::genesis(1_000_000);
            for to in steps {
                let before = clock.now;
                clock.advance(to);
                prop_assert!(clock.now >= before);
            }
        }
    }
}
