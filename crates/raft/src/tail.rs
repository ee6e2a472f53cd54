//! The end of this node's log and who waits for it: [`Ledger`], shared between the tasks that write the log, apply it, and read.

use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::{
    entry::{LogId, StoredMembership},
    freshness::{AcceptedMembership, Footprint, Held, Ledger, Ticket},
};

impl AcceptedMembership {
    pub(crate) fn of(stored: &StoredMembership) -> Self {
        Self {
            voters: stored.voter_ids().collect(),
            joint: stored.get_joint_config().len() > 1,
            index: stored.log_id().as_ref().map_or(0, |id| id.index),
        }
    }
}

struct Inner {
    /// The last entry, or what was purged or installed in its place.
    end: Option<LogId>,
    ledger: Ledger,
}

/// The end of the log, and who waits for it.
pub(crate) struct Tail {
    inner: Mutex<Inner>,
    truncations: watch::Sender<()>,
}

impl Tail {
    pub(crate) fn new(end: Option<LogId>, ledger: Ledger) -> Self {
        Self { inner: Mutex::new(Inner { end, ledger }), truncations: watch::Sender::new(()) }
    }

    /// The last entry that was appended or installed.
    pub(crate) fn end(&self) -> Option<LogId> {
        self.lock().end
    }

    /// These entries were appended, up to `end`.
    pub(crate) fn appended(&self, end: LogId, entries: impl IntoIterator<Item = Held>) {
        let mut inner = self.lock();
        inner.end = Some(end);
        inner.ledger.appended(entries);
    }

    /// Entries after `end` are going.
    pub(crate) fn truncated(&self, end: Option<LogId>) {
        let mut inner = self.lock();
        if last(inner.end) > last(end) || end.is_none() {
            inner.end = end;
        }
        inner.ledger.truncated(end.map(|id| id.index));
        drop(inner);
        self.truncations.send_replace(());
    }

    /// The state is at `applied`, and its membership is this one if it changed.
    pub(crate) fn applied(&self, applied: Option<LogId>, membership: Option<AcceptedMembership>) {
        let mut inner = self.lock();
        if last(applied) > last(inner.end) {
            inner.end = applied;
        }
        inner.ledger.applied(last(applied));
        if let Some(membership) = membership {
            inner.ledger.settled(membership);
        }
    }

    pub(crate) fn membership(&self) -> AcceptedMembership {
        self.lock().ledger.membership().clone()
    }

    /// Notes what a question that arrives now has to wait for.
    pub(crate) fn note(&self, question: &Footprint) -> Note<'_> {
        let ticket = self.lock().ledger.note(question);
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

/// A question that waits; what it waits for falls with truncations for as long as this lives.
pub(crate) struct Note<'a> {
    tail: &'a Tail,
    ticket: Ticket,
    truncations: watch::Receiver<()>,
}

impl Note<'_> {
    pub(crate) fn index(&self) -> u64 {
        self.tail.lock().ledger.awaited(self.ticket)
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
        self.tail.lock().ledger.forget(self.ticket);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(index: u64) -> Option<LogId> {
        Some(LogId::new_term_index(1, index))
    }

    fn entries(from: u64, to: u64) -> impl Iterator<Item = Held> {
        (from..=to).map(|index| Held { index, footprint: Footprint::Everything, membership: None })
    }

    fn tail(applied: u64, end: u64) -> Tail {
        Tail::new(at(end), Ledger::new(AcceptedMembership::default(), entries(applied + 1, end)))
    }

    #[tokio::test(start_paused = true)]
    async fn a_note_waits_for_what_the_log_held_at_arrival_and_no_more() {
        let tail = tail(3, 5);
        let (applied, mut watching) = watch::channel(3);
        let mut note = tail.note(&Footprint::Everything);
        tail.appended(LogId::new_term_index(1, 9), entries(6, 9));
        let wait = Duration::from_millis(10);
        tokio::time::timeout(wait, note.reached(&mut watching)).await.expect_err("5 is not applied yet");
        tail.applied(at(5), None);
        applied.send_replace(5);
        assert_eq!(tokio::time::timeout(wait, note.reached(&mut watching)).await, Ok(5));
    }

    #[tokio::test(start_paused = true)]
    async fn truncation_lowers_a_note_and_wakes_its_waiter() {
        let tail = tail(6, 9);
        let (_applied, mut watching) = watch::channel(6);
        let mut note = tail.note(&Footprint::Everything);
        let truncate = async {
            tokio::time::sleep(Duration::from_millis(1)).await;
            tail.truncated(at(6));
            tail.appended(LogId::new_term_index(1, 12), entries(7, 12));
        };
        let (at, ()) =
            tokio::join!(tokio::time::timeout(Duration::from_secs(1), note.reached(&mut watching)), truncate);
        assert_eq!(at, Ok(6), "a later regrowth of the log must not raise it again");
        assert_eq!(note.index(), 6);
    }

    #[test]
    fn a_dropped_note_is_forgotten() {
        let tail = tail(3, 4);
        let note = tail.note(&Footprint::Everything);
        assert_eq!((note.index(), tail.lock().ledger.waiting()), (4, 1));
        drop(note);
        assert_eq!(tail.lock().ledger.waiting(), 0);
    }

    #[test]
    fn the_end_follows_a_snapshot() {
        let tail = tail(3, 4);
        tail.applied(at(20), Some(AcceptedMembership { index: 11, ..AcceptedMembership::default() }));
        assert_eq!((tail.end(), tail.membership().index), (at(20), 11));
        assert_eq!(tail.note(&Footprint::Everything).index(), 0, "all that it held is applied");
    }
}
