//! What members can compare, and vouch for: how a node came to where it is in the log, and what its state is there.
//!
//! The entries up to an index are summed up in a hash chain, the membership in force goes into the hash with them, and the state brings a hash
//! of its own. Two nodes that followed the protocol have equal checkpoints at equal indexes. A node remembers those of its last entries, so
//! that it can still say what it had when somebody asks about an index that it has passed.

use std::collections::VecDeque;

use sha2::{Digest, Sha256};

use crate::{
    codec,
    entry::{LogEntry, LogId, StoredMembership},
};

/// How many checkpoints a node remembers: some 300 KiB.
const REMEMBERED: usize = 4_096;

/// The chain before the first entry.
pub(crate) const START: [u8; 32] = [0; 32];

/// A node at one index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The last applied entry.
    pub index: u64,
    /// SHA-256 over the hash chain of all entries up to it, its log id and the membership in force.
    pub log: [u8; 32],
    /// The hash that the state has of itself: [`crate::Machine::digest`].
    pub state: [u8; 32],
}

impl Checkpoint {
    pub(crate) fn of(
        applied: Option<&LogId>,
        membership: &StoredMembership,
        chain: &[u8; 32],
        state: [u8; 32],
    ) -> Self {
        let mut log = Sha256::new_with_prefix(b"quorate/v1/log-checkpoint");
        log.update(chain);
        log.update(codec::encode_applied(applied, membership));
        Self { index: applied.map_or(0, |id| id.index), log: log.finalize().into(), state }
    }
}

/// The chain after `entry`.
pub(crate) fn link(chain: &[u8; 32], entry: &LogEntry) -> [u8; 32] {
    let mut next = Sha256::new_with_prefix(b"quorate/v1/log-chain");
    next.update(chain);
    next.update(codec::encode_entry(entry));
    next.finalize().into()
}

/// The checkpoints of the last applied entries, oldest first.
#[derive(Default)]
pub(crate) struct History(VecDeque<Checkpoint>);

impl History {
    pub(crate) fn push(&mut self, checkpoint: Checkpoint) {
        if self.0.len() == REMEMBERED {
            self.0.pop_front();
        }
        self.0.push_back(checkpoint);
    }

    pub(crate) fn at(&self, index: u64) -> Option<Checkpoint> {
        let found = self.0.binary_search_by_key(&index, |checkpoint| checkpoint.index).ok()?;
        self.0.get(found).copied()
    }
}

/// Gathers what other members say about a checkpoint, and judges what was gathered.
#[async_trait::async_trait]
pub trait Notary: Send + Sync + 'static {
    /// A proof that enough members have this very checkpoint. Asks them.
    ///
    /// # Errors
    /// Too few say so. They may a moment later.
    async fn attest(&self, checkpoint: &Checkpoint) -> Result<Vec<u8>, Unattested>;

    /// Whether `proof` is one for this very checkpoint.
    ///
    /// # Security
    /// A state that passes becomes this node's own without the entries that made it.
    ///
    /// # Errors
    /// It is not.
    fn verify(&self, checkpoint: &Checkpoint, proof: &[u8]) -> Result<(), Unattested>;
}

/// Too few members vouch for a checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{got} of {needed} members vouch for the state at index {index}")]
pub struct Unattested {
    /// The index.
    pub index: u64,
    /// How many do.
    pub got: usize,
    /// How many it takes.
    pub needed: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entry::{EntryPayload, Payload};

    fn entry(term: u64, index: u64, payload: &'static [u8]) -> LogEntry {
        let payload = EntryPayload::Normal(Payload(bytes::Bytes::from_static(payload)));
        LogEntry { log_id: LogId::new_term_index(term, index), payload }
    }

    #[test]
    fn a_checkpoint_binds_all_that_led_to_it() {
        let chain = |entries: &[LogEntry]| entries.iter().fold(START, |chain, entry| link(&chain, entry));
        let one = chain(&[entry(1, 1, b"a"), entry(1, 2, b"b")]);
        for other in [
            [entry(1, 1, b"b"), entry(1, 2, b"a")],
            [entry(1, 1, b"a"), entry(2, 2, b"b")],
            [entry(1, 1, b"x"), entry(1, 2, b"b")],
        ] {
            assert_ne!(chain(&other), one);
        }
        let none = StoredMembership::default();
        let nodes = std::collections::BTreeMap::from([(1, crate::Node::default())]);
        let members = crate::entry::Membership::new(vec![[1].into()], nodes).unwrap();
        let some = StoredMembership::new(Some(LogId::new_term_index(1, 1)), members);
        let at = LogId::new_term_index(1, 2);
        let checkpoint = Checkpoint::of(Some(&at), &none, &one, [7; 32]);
        assert_ne!(Checkpoint::of(Some(&at), &some, &one, [7; 32]).log, checkpoint.log, "the membership is in it");
        assert_ne!(Checkpoint::of(Some(&at), &none, &START, [7; 32]).log, checkpoint.log, "the chain is in it");
        let later = LogId::new_term_index(2, 2);
        assert_ne!(Checkpoint::of(Some(&later), &none, &one, [7; 32]).log, checkpoint.log, "the term is in it");
    }

    #[test]
    fn old_checkpoints_are_forgotten_and_gaps_are_gaps() {
        let mut history = History::default();
        let at = |index| Checkpoint { index, log: [0; 32], state: [0; 32] };
        for index in (1..=3).chain(10..10 + REMEMBERED as u64) {
            history.push(at(index));
        }
        assert_eq!(history.at(3), None);
        assert_eq!(history.at(5), None);
        assert_eq!(history.at(10), Some(at(10)));
        assert_eq!(history.at(9 + REMEMBERED as u64), Some(at(9 + REMEMBERED as u64)));
        assert_eq!(history.0.len(), REMEMBERED);
    }
}
