//! The application's side: a deterministic machine over opaque keys and values.

use crate::{
    freshness::Footprint,
    kv::{KvError, Pair},
};

/// A committed proposal, as handed to the machine.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    /// Position in the log; strictly increasing from one call to the next.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// The proposed bytes.
    pub payload: &'a [u8],
}

impl std::fmt::Debug for Entry<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Entry({}.{}, {} bytes)", self.term, self.index, self.payload.len())
    }
}

/// What applying an entry does.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// Keys with their new values, `None` to remove. Written in one batch with the fact that the entry was applied.
    pub writes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// The answer to whoever proposed it.
    pub reply: Vec<u8>,
}

impl std::fmt::Debug for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Effect({} writes, reply of {} bytes)", self.writes.len(), self.reply.len())
    }
}

/// The machine can't go on. A rejected proposal is not that: it is an effect with a reply that says so.
///
/// The text goes to the log of the process: it must hold no payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("state machine: {0}")]
pub struct MachineError(pub String);

/// Reads of the applied state at one index.
pub trait View {
    /// The value of `key`.
    ///
    /// # Errors
    /// The store failed.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Up to `limit` pairs with keys in `from..to`, ascending. An empty `to` means no upper bound.
    ///
    /// # Errors
    /// The store failed.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError>;
}

/// The replicated state machine.
pub trait Machine: Send + Sync + 'static {
    /// The effect of `entry` on the state in `view`.
    ///
    /// Must be a function of its arguments and of nothing else, no clock, randomness or configuration: every node computes it for itself and
    /// all must come to the same writes. It may be called again for the same entry after a crash, with the same view.
    ///
    /// # Errors
    /// [`MachineError`] stops this node for good: it is for states that can't be, not for proposals that are refused.
    fn apply(&self, view: &dyn View, entry: Entry<'_>) -> Result<Effect, MachineError>;

    /// The hash of the state in `view`, as the state keeps it of itself: of every row but its own. Called after every entry that wrote, so
    /// it should cost little.
    ///
    /// # Errors
    /// [`MachineError`] if the state has none.
    fn digest(&self, view: &dyn View) -> Result<[u8; 32], MachineError>;

    /// Begins to recount a state that comes row by row, in the order of keys, against a digest that enough members vouch for.
    fn recount(&self, digest: [u8; 32]) -> Box<dyn Recount>;

    /// What applying the entry with this payload can change, for [`Raft::tail_barrier`](crate::Raft::tail_barrier). Called when it is appended
    /// to the log, committed or not; it must not block.
    fn footprint(&self, payload: &[u8]) -> Footprint {
        let _ = payload;
        Footprint::Everything
    }

    /// All entries up to `index` are applied and readable. Called in order, after the writes are in the store, also after a snapshot was
    /// installed. For waking those who wait; it must not block.
    fn committed(&self, index: u64) {
        let _ = index;
    }
}

/// A state being recounted: see [`Machine::recount`].
pub trait Recount: Send {
    /// The next row.
    ///
    /// # Errors
    /// Nothing that may follow can make this the expected state.
    fn row(&mut self, key: &[u8], value: &[u8]) -> Result<(), WrongState>;

    /// There are no more rows.
    ///
    /// # Errors
    /// This is not the expected state.
    fn finish(self: Box<Self>) -> Result<(), WrongState>;
}

/// A state that does not have the hash that members vouch for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct WrongState(pub String);
