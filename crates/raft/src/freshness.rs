//! The rule of reads that need no leader, as plain data: what a node's own log holds that its state does not yet, and how
//! far a question has to wait for it. No clock, no task, no I/O: [`Raft`](crate::Raft) runs it, and so does the simulation.
//!
//! A write that was acknowledged anywhere is in the logs of a majority. A node that notes, when a question arrives, the last
//! entry of its **own** log that could change the answer, and answers when it has applied up to there, is as fresh as every
//! write that it could have helped to acknowledge. Of more than half of the voters answering so, at least one helped.
//!
//! When the tail is truncated after `p`, noted indexes above `p` fall to `p`: committed entries are never truncated, so nothing
//! noted is lost, and without this rule a reader could wait for an entry that no longer exists.

use std::collections::{BTreeMap, BTreeSet};

/// The membership that a node goes by: the latest in its log, committed or not.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AcceptedMembership {
    /// Raft ids that vote, in either configuration while a change is under way.
    pub voters: BTreeSet<u64>,
    /// Two configurations are in force at once: a majority of each is needed.
    pub joint: bool,
    /// Log index at which it was accepted; 0 before there is any.
    pub index: u64,
}

impl AcceptedMembership {
    /// Whether the answer of node `me` may count as one of `threshold`. If not, t answers need not contain one of a voter that
    /// helped to acknowledge the latest write, and the leader has to be asked for an index (see [`Raft::read_index`](crate::Raft::read_index)).
    #[must_use]
    pub fn suffices(&self, me: u64, threshold: usize) -> bool {
        !self.joint && self.voters.contains(&me) && 2 * threshold > self.voters.len()
    }
}

/// What an entry can change, or what a question is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Footprint {
    /// No answer to any question.
    Nothing,
    /// These items. Numbers may collide: that costs a wait, never a stale answer.
    Items(Vec<u64>),
    /// All there is.
    Everything,
}

impl Footprint {
    /// Whether an entry with this footprint can change the answer to `question`.
    #[must_use]
    pub fn meets(&self, question: &Self) -> bool {
        match (self, question) {
            (Self::Nothing, _) => false,
            (Self::Everything, _) | (Self::Items(_), Self::Everything) => true,
            (Self::Items(changed), Self::Items(asked)) => changed.iter().any(|item| asked.contains(item)),
            (Self::Items(_), Self::Nothing) => false,
        }
    }
}

/// An entry, as far as readers are concerned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its index.
    pub index: u64,
    /// What it can change.
    pub footprint: Footprint,
    /// The membership in it, if it is one. It then meets every question.
    pub membership: Option<AcceptedMembership>,
}

/// A question that waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a node's log holds that its state does not, and who waits for it.
#[derive(Debug, Default)]
pub struct Ledger {
    /// As of the applied state or a snapshot.
    settled: AcceptedMembership,
    /// In the log and perhaps not settled yet, by index.
    pending: BTreeMap<u64, AcceptedMembership>,
    /// Entries in the log that are not applied and can change an answer, by index.
    unapplied: BTreeMap<u64, Footprint>,
    noted: BTreeMap<Ticket, u64>,
    next: u64,
}

impl Ledger {
    /// For a log whose entries up to some index are applied, with the membership of that state, and `held` after it.
    #[must_use]
    pub fn new(settled: AcceptedMembership, held: impl IntoIterator<Item = Held>) -> Self {
        let mut ledger = Self { settled, ..Self::default() };
        ledger.appended(held);
        ledger
    }

    /// These entries are in the log now. To be called before anybody can count on that.
    pub fn appended(&mut self, entries: impl IntoIterator<Item = Held>) {
        for Held { index, footprint, membership } in entries {
            if let Some(membership) = membership {
                self.pending.insert(index, membership);
                self.unapplied.insert(index, Footprint::Everything);
            } else if footprint != Footprint::Nothing {
                self.unapplied.insert(index, footprint);
            }
        }
    }

    /// Entries after `end` are going; all of them with `None`.
    pub fn truncated(&mut self, end: Option<u64>) {
        let stays = |index: &u64| end.is_some_and(|end| *index <= end);
        self.pending.retain(|index, _| stays(index));
        self.unapplied.retain(|index, _| stays(index));
        for noted in self.noted.values_mut() {
            *noted = end.unwrap_or_default().min(*noted);
        }
    }

    /// The state is at `index`, by entries or by a snapshot. To be called when readers see it, or cannot see anything before it any more.
    pub fn applied(&mut self, index: u64) {
        self.unapplied = self.unapplied.split_off(&index.saturating_add(1));
    }

    /// The membership of the applied state is this one.
    pub fn settled(&mut self, membership: AcceptedMembership) {
        self.pending.retain(|pending, _| *pending > membership.index);
        self.settled = membership;
    }

    /// The membership to go by.
    #[must_use]
    pub fn membership(&self) -> &AcceptedMembership {
        self.pending.last_key_value().map_or(&self.settled, |(_, membership)| membership)
    }

    /// Notes what `question`, which arrives now, has to wait for.
    pub fn note(&mut self, question: &Footprint) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        let last = self.unapplied.iter().rev().find(|(_, footprint)| footprint.meets(question));
        self.noted.insert(ticket, last.map_or(0, |(index, _)| *index));
        ticket
    }

    /// The index that must be applied before the question may be answered; 0 for nothing. It only falls.
    #[must_use]
    pub fn awaited(&self, ticket: Ticket) -> u64 {
        self.noted.get(&ticket).copied().unwrap_or_default()
    }

    /// The question is answered, or given up.
    pub fn forget(&mut self, ticket: Ticket) {
        self.noted.remove(&ticket);
    }

    /// How many questions wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.noted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(index: u64, footprint: Footprint) -> Held {
        Held { index, footprint, membership: None }
    }

    fn item(number: u64) -> Footprint {
        Footprint::Items(vec![number])
    }

    fn membership(index: u64) -> AcceptedMembership {
        AcceptedMembership { voters: BTreeSet::from([index]), joint: false, index }
    }

    fn voters(count: u64, joint: bool) -> AcceptedMembership {
        AcceptedMembership { voters: (1..=count).collect(), joint, index: 1 }
    }

    #[test]
    fn a_question_waits_for_what_meets_it_and_no_more() {
        let mut ledger = Ledger::default();
        ledger.appended([
            held(4, item(1)),
            held(5, Footprint::Everything),
            held(6, item(2)),
            held(7, Footprint::Nothing),
        ]);
        let awaited = |ledger: &mut Ledger, question| {
            let ticket = ledger.note(&question);
            let index = ledger.awaited(ticket);
            ledger.forget(ticket);
            index
        };
        assert_eq!(awaited(&mut ledger, item(2)), 6);
        assert_eq!(awaited(&mut ledger, item(1)), 5, "what meets everything meets item 1 as well");
        assert_eq!(awaited(&mut ledger, Footprint::Items(vec![9, 2])), 6, "any item of a batch");
        assert_eq!(awaited(&mut ledger, Footprint::Everything), 6);
        assert_eq!(awaited(&mut ledger, Footprint::Nothing), 5);
        ledger.applied(5);
        assert_eq!(awaited(&mut ledger, item(1)), 0, "what is applied is not waited for");
        assert_eq!(awaited(&mut ledger, item(2)), 6);
        ledger.applied(100);
        assert_eq!(awaited(&mut ledger, Footprint::Everything), 0);
        assert_eq!(ledger.waiting(), 0);
    }

    #[test]
    fn truncation_lowers_what_is_noted_and_regrowth_does_not_raise_it() {
        let mut ledger = Ledger::new(membership(1), (2..=9).map(|index| held(index, item(1))));
        let (high, low) = (ledger.note(&item(1)), {
            ledger.truncated(Some(8));
            ledger.note(&item(1))
        });
        assert_eq!((ledger.awaited(high), ledger.awaited(low)), (8, 8));
        ledger.truncated(Some(6));
        ledger.appended((7..=12).map(|index| held(index, item(1))));
        assert_eq!((ledger.awaited(high), ledger.awaited(low)), (6, 6));
        let fresh = ledger.note(&item(1));
        ledger.truncated(Some(20));
        assert_eq!(ledger.awaited(fresh), 12, "a truncation above leaves it");
        ledger.truncated(None);
        assert_eq!(ledger.awaited(fresh), 0);
    }

    #[test]
    fn the_accepted_membership_follows_appends_truncations_and_snapshots() {
        let accepted = |index| Held { index, footprint: Footprint::Nothing, membership: Some(membership(index)) };
        let mut ledger = Ledger::new(membership(1), [accepted(2)]);
        assert_eq!(*ledger.membership(), membership(2));
        ledger.appended([accepted(5)]);
        assert_eq!(*ledger.membership(), membership(5));
        let ticket = ledger.note(&item(1));
        assert_eq!(ledger.awaited(ticket), 5, "a membership meets everything");
        ledger.truncated(Some(4));
        assert_eq!(*ledger.membership(), membership(2));
        ledger.settled(membership(11));
        assert_eq!(*ledger.membership(), membership(11));
    }

    #[test]
    fn only_a_majority_of_the_latest_voters_needs_no_leader() {
        for (count, threshold, suffices) in
            [(3, 2, true), (5, 3, true), (5, 2, false), (4, 2, false), (4, 3, true), (1, 1, true), (2, 1, false)]
        {
            assert_eq!(voters(count, false).suffices(1, threshold), suffices, "{threshold} of {count}");
            assert!(!voters(count, true).suffices(1, threshold), "joint: a majority of each is needed");
            assert!(!voters(count, false).suffices(count + 1, threshold), "not a voter");
        }
        assert!(!AcceptedMembership::default().suffices(0, 1), "no membership, no vote");
    }
}
