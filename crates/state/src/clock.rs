//! Cluster time: the one clock of leases and requests. It comes only from the log, and goes back only when administrators set it back.
//!
//! A reading is a member's signed statement of its clock. From at least t readings apply takes the *minimum* of the t
//! it is given: with at most t-1 corrupt members one of them is honest, so time never runs ahead of every honest clock;
//! and since the proposer hands in the highest that answered, one slow clock does not stop it.

use crate::genesis::Roster;
use crate::ids::{ClusterId, MemberIndex, Millis};
use crate::outcome::{Outcome, Refusal};
use crate::request::{forgotten, tighten};
use crate::store::{Store, StoreError, Table, Tx, Value, Writes, decode, key, read};
use borsh::{BorshDeserialize, BorshSerialize};
use quorate_crypto::identity::SigningKey;
use std::collections::BTreeSet;

/// A forward step of more than this is a jump.
pub const JUMP: Millis = 60_000;
/// How long expiry pauses after a jump.
pub const JUMP_PAUSE: Millis = 30_000;
/// After one pause, how long until a jump may cause the next.
pub const JUMP_INTERVAL: Millis = 600_000;

/// A member's own clock refuses what ended longer ago than this: no honest clocks differ by more.
pub const GRACE: Millis = 30_000;

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

/// Which readings to hand in: the `threshold` highest. Of these one is honest, so their minimum is no later than an honest clock; and one
/// that is behind does not stop time while enough others answer.
#[must_use]
pub fn highest(mut readings: Vec<Reading>, threshold: u8) -> Vec<Reading> {
    readings.sort_by_key(|reading| core::cmp::Reverse(reading.clock));
    readings.truncate(usize::from(threshold));
    readings
}

/// Whether a request that ends at `not_after` is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// Not yet.
    ToCome,
    /// In cluster time, for more than the grace: nobody will take it any more.
    Past,
    /// By the member's own clock alone, for more than [`GRACE`]: one of the two is wrong, and this member does not take it.
    PastHere,
}

impl End {
    /// Of a request, by cluster time as the member reckons it and by its own wall clock.
    #[must_use]
    pub fn of(not_after: Millis, cluster: Millis, grace: Millis, own: Millis) -> Self {
        if not_after.saturating_add(grace) <= cluster {
            Self::Past
        } else if not_after.saturating_add(GRACE) < own {
            Self::PastHere
        } else {
            Self::ToCome
        }
    }
}

/// Cluster time after a command, if the command moved it so far that expiry pauses.
///
/// # Errors
/// [`StoreError`] when the state before cannot be read.
pub fn jumped(before: &dyn Store, writes: &Writes) -> Result<Option<Millis>, StoreError> {
    let Some(Some(bytes)) = writes.get(&ClusterClock::key()) else { return Ok(None) };
    let after: ClusterClock = decode(Table::Meta as u8, bytes)?;
    Ok((after.last_jump != ClusterClock::load(before)?.last_jump).then_some(after.now))
}

/// Sets cluster time back. What was endorsed or read before counts no more, since it would move time ahead again.
///
/// Not to before the end of a request that is forgotten already: sent again, it would happen a second time. Those end soon, by clocks that
/// are right.
pub(crate) fn reset(tx: &mut Tx<'_>, index: u64, to: Millis) -> Result<Outcome, StoreError> {
    let clock = ClusterClock::load(tx)?;
    if to >= clock.now {
        return Ok(Outcome::Refused(Refusal::invalid(
            "to",
            "must be before cluster time, which moves ahead by itself",
        )));
    }
    let forgotten = forgotten(tx)?;
    if to <= forgotten {
        let why = format_args!(
            "must be after {forgotten}: requests that end up to then are forgotten, and could happen again"
        )
        .to_string();
        return Ok(Outcome::Refused(Refusal::invalid("to", why)));
    }
    tighten(tx, index)?;
    let back = ClusterClock {
        now: to,
        tick: clock.tick.saturating_add(1),
        paused_until: to.saturating_add(JUMP_PAUSE),
        last_jump: to,
    };
    back.save(tx);
    Ok(Outcome::Time { now: to, jumped: true })
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

    #[test]
    fn a_request_is_over_in_cluster_time_and_refused_by_one_clock() {
        let (end, late) = (1_000_000, 1_000_000 + GRACE);
        assert_eq!(End::of(end, end - 1, 0, end), End::ToCome);
        assert_eq!(End::of(end, end, 0, end), End::Past);
        assert_eq!(End::of(end, end, GRACE, end), End::ToCome, "a grace for what the log decides later");
        assert_eq!(End::of(end, late, GRACE, 0), End::Past, "a slow clock does not bring it back");
        assert_eq!(End::of(end, 0, 0, late), End::ToCome, "clocks differ");
        assert_eq!(End::of(end, 0, 0, late + 1), End::PastHere);
    }

    #[derive(Debug, Clone, Copy)]
    enum Clock {
        Silent,
        Far(Millis),
        Behind(Millis),
    }

    fn faulty() -> impl Strategy<Value = Clock> {
        prop_oneof![
            Just(Clock::Silent),
            (0..=Millis::MAX).prop_map(Clock::Far),
            (0..3_600_000u64).prop_map(Clock::Behind),
        ]
    }

    fn reading(member: MemberIndex, clock: Millis) -> Reading {
        Reading { member, follows: 0, clock, signature: [0; 64] }
    }

    /// What apply makes of them, signatures aside.
    fn least(readings: &[Reading]) -> Millis {
        readings.iter().map(|r| r.clock).min().unwrap()
    }

    proptest! {
        #[test]
        fn f_wrong_clocks_neither_hurry_time_nor_stop_it(
            honest in proptest::collection::vec(0u64..1_000, 3),
            wrong in proptest::collection::vec(faulty(), 2),
            five: bool,
        ) {
            const NOW: Millis = 1_900_000_000_000;
            // 3 of 5 with two wrong ones, or 2 of 3 with one.
            let (threshold, honest, wrong) = if five { (3, &honest[..], &wrong[..]) } else { (2, &honest[..2], &wrong[..1]) };
            let clocks = honest.iter().map(|skew| NOW + skew).chain(wrong.iter().filter_map(|clock| match clock {
                Clock::Silent => None,
                Clock::Far(to) => Some(NOW.saturating_add(*to)),
                Clock::Behind(by) => Some(NOW - by),
            }));
            let readings: Vec<Reading> = (1..).zip(clocks).map(|(member, clock)| reading(member, clock)).collect();
            let chosen = highest(readings, threshold);
            prop_assert_eq!(chosen.len(), usize::from(threshold), "there are enough honest ones");
            let time = least(&chosen);
            let (first, last) = (honest.iter().min().unwrap(), honest.iter().max().unwrap());
            prop_assert!(time <= NOW + last, "{} is later than every honest clock", time);
            prop_assert!(time >= NOW + first, "{} is earlier than every honest clock", time);
        }

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
