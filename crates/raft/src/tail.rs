//! What this node's own log holds, accepted but perhaps not yet committed: the basis of reads that need no leader.
//!
//! A write that was acknowledged anywhere is in the logs of a majority. A node that notes, when a request arrives, the last index of its
//! **own** log, and answers when it has applied up to there, is as fresh as every write that it could have helped to acknowledge. Of more
//! than half of the nodes answering so, at least one helped.
//!
//! When the tail is truncated after `p`, noted indexes above `p` fall to `p`: committed entries are never truncated, so nothing noted is
//! lost, and without this rule a reader could wait for an entry that no longer exists.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::entry::{LogId, StoredMembership};

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
    pub(crate) fn of(stored: &StoredMembership) -> Self {
        Self {
            voters: stored.voter_ids().collect(),
            joint: stored.get_joint_config().len() > 1,
            index: stored.log_id().as_ref().map_or(0, |id| id.index),
        }
    }
}

#[derive(Default)]
struct Inner {
    /// The last entry, or what was purged or installed in its place.
    end: Option<LogId>,
    /// As of the applied state or a snapshot.
    settled: AcceptedMembership,
    /// In the log and perhaps not settled yet, by index.
    pending: BTreeMap<u64, AcceptedMembership>,
    noted: BTreeMap<u64, u64>,
    next_ticket: u64,
}

/// The end of the log, and who waits for it.
pub(crate) struct Tail {
    inner: Mutex<Inner>,
    truncations: watch::Sender<()>,
}

impl Tail {
    pub(crate) fn new(
        end: Option<LogId>,
        settled: AcceptedMembership,
        pending: impl IntoIterator<Item = AcceptedMembership>,
    ) -> Self {
        let pending = pending.into_iter().map(|membership| (membership.index, membership)).collect();
        let inner = Inner { end, settled, pending, ..Inner::default() };
        Self { inner: Mutex::new(inner), truncations: watch::Sender::new(()) }
    }

    /// The last entry that was appended or installed.
    pub(crate) fn end(&self) -> Option<LogId> {
        self.lock().end
    }

    /// Entries up to `end` were appended, among them these memberships.
    pub(crate) fn appended(&self, end: LogId, memberships: impl IntoIterator<Item = AcceptedMembership>) {
        let mut inner = self.lock();
        inner.end = Some(end);
        inner.pending.extend(memberships.into_iter().map(|membership| (membership.index, membership)));
    }

    /// Entries after `end` are going.
    pub(crate) fn truncated(&self, end: Option<LogId>) {
        let mut inner = self.lock();
        if last(inner.end) > last(end) || end.is_none() {
            inner.end = end;
        }
        inner.pending.retain(|index, _| end.is_some_and(|end| *index <= end.index));
        for noted in inner.noted.values_mut() {
            *noted = last(end).min(*noted);
        }
        drop(inner);
        self.truncations.send_replace(());
    }

    /// The state is at `applied` and its membership is this one.
    pub(crate) fn settled(&self, applied: Option<LogId>, membership: AcceptedMembership) {
        let mut inner = self.lock();
        if last(applied) > last(inner.end) {
            inner.end = applied;
        }
        inner.pending.retain(|pending, _| *pending > membership.index);
        inner.settled = membership;
    }

    pub(crate) fn membership(&self) -> AcceptedMembership {
        let inner = self.lock();
        inner.pending.last_key_value().map_or(&inner.settled, |(_, membership)| membership).clone()
    }

    /// Notes the last index of the log as it is now.
    pub(crate) fn note(&self) -> Note<'_> {
        let mut inner = self.lock();
        let ticket = inner.next_ticket;
        inner.next_ticket += 1;
        let noted = last(inner.end);
        inner.noted.insert(ticket, noted);
        Note { tail: self, ticket, truncations: self.truncations.subscribe() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An empty log counts as 0: index 0 holds the first membership, which every log begins with and which no reader waits for.
fn last(end: Option<LogId>) -> u64 {
    end.map_or(0, |id| id.index)
}

/// A noted index; it falls with truncations for as long as this lives.
pub(crate) struct Note<'a> {
    tail: &'a Tail,
    ticket: u64,
    truncations: watch::Receiver<()>,
}

impl Note<'_> {
    pub(crate) fn index(&self) -> u64 {
        self.tail.lock().noted.get(&self.ticket).copied().unwrap_or_default()
    }

    /// Waits until `applied` has reached the noted index. The wait itself is not bounded.
    pub(crate) async fn reached(&mut self, applied: &mut watch::Receiver<u64>) -> u64 {
        loop {
            let at = *applied.borrow_and_update();
            if at >= self.index() {
                return at;
            }
            tokio::select! {
                biased;
                changed = applied.changed() => if changed.is_err() {
                    // The machine is gone and nothing will be applied any more; the caller's deadline ends this.
                    std::future::pending::<()>().await;
                },
                _ = self.truncations.changed() => {}
            }
        }
    }
}

impl Drop for Note<'_> {
    fn drop(&mut self) {
        self.tail.lock().noted.remove(&self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(index: u64) -> Option<LogId> {
        Some(LogId::new_term_index(1, index))
    }

    fn membership(index: u64) -> AcceptedMembership {
        AcceptedMembership { voters: BTreeSet::from([index]), joint: false, index }
    }

    #[tokio::test(start_paused = true)]
    async fn a_note_waits_for_what_the_log_held_at_arrival_and_no_more() {
        let tail = Tail::new(at(5), AcceptedMembership::default(), []);
        let (applied, mut watching) = watch::channel(3);
        let mut note = tail.note();
        tail.appended(LogId::new_term_index(1, 9), []);
        let wait = Duration::from_millis(10);
        tokio::time::timeout(wait, note.reached(&mut watching)).await.expect_err("5 is not applied yet");
        applied.send_replace(5);
        assert_eq!(tokio::time::timeout(wait, note.reached(&mut watching)).await, Ok(5));
    }

    #[tokio::test(start_paused = true)]
    async fn truncation_lowers_a_note_and_wakes_its_waiter() {
        let tail = Tail::new(at(9), AcceptedMembership::default(), []);
        let (_applied, mut watching) = watch::channel(6);
        let mut note = tail.note();
        let truncate = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tail.truncated(at(6));
            tail.appended(LogId::new_term_index(1, 12), []);
        };
        let (at, ()) =
            tokio::join!(tokio::time::timeout(Duration::from_secs(1), note.reached(&mut watching)), truncate);
        assert_eq!(at, Ok(6), "a later regrowth of the log must not raise it again");
        assert_eq!(note.index(), 6);
    }

    #[test]
    fn a_truncation_above_the_note_leaves_it() {
        let tail = Tail::new(at(4), AcceptedMembership::default(), []);
        let note = tail.note();
        tail.appended(LogId::new_term_index(1, 9), []);
        tail.truncated(at(6));
        assert_eq!(note.index(), 4);
        drop(note);
        assert!(tail.lock().noted.is_empty());
    }

    #[test]
    fn the_accepted_membership_follows_appends_truncations_and_snapshots() {
        let tail = Tail::new(at(3), membership(1), [membership(2)]);
        assert_eq!(tail.membership(), membership(2));
        tail.appended(LogId::new_term_index(1, 6), [membership(5)]);
        assert_eq!(tail.membership(), membership(5));
        tail.truncated(at(4));
        assert_eq!(tail.membership(), membership(2));
        tail.settled(at(20), membership(11));
        assert_eq!(tail.membership(), membership(11));
        assert_eq!(tail.note().index(), 20);
    }
}
