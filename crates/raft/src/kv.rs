//! The store under the log and the state: three ordered tables that share one write-ahead log.
//!
//! [`Kv`] is the seam between consensus and the disk. [`RocksKv`] is what nodes run on; [`MemKv`] is the same contract in memory with a
//! model of what a crash loses, for simulation and tests. The contract is deliberately that of a write-ahead log:
//!
//! * a [`Batch`] is atomic and readable when [`Kv::write`] returns, and durable only after a later [`Kv::sync`];
//! * what a crash leaves is a **prefix** of the batches in the order in which they were written, and at least all up to the last sync.
//!
//! Everything above relies on that prefix: a purge of the log can never survive a crash that lost the applies it depends on, because it
//! was written after them.
//!
//! Beside a store lies at most one copy of it as it once was: see [`Copies`].

use std::sync::Arc;

mod mem;
mod rocks;

pub use mem::MemKv;
pub use rocks::{RocksKv, ValueSeal};

use crate::CodecError;

/// One of the three key spaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Log entries, keyed by index (big endian).
    Log,
    /// Vote, committed and applied log ids, identity of the store.
    Meta,
    /// The replicated state.
    State,
}

impl Table {
    /// All tables, in a fixed order.
    pub const ALL: [Self; 3] = [Self::Log, Self::Meta, Self::State];

    /// The table's name on disk.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Meta => "meta",
            Self::State => "state",
        }
    }
}

/// A change to one key or key range.
#[derive(Clone)]
pub(crate) enum Change {
    Put(Table, Vec<u8>, Vec<u8>),
    Delete(Table, Vec<u8>),
    DeleteRange(Table, Vec<u8>, Vec<u8>),
}

/// Changes that become visible, and survive or vanish, together. They take effect in the order in which they were added.
#[derive(Clone, Default)]
pub struct Batch {
    changes: Vec<Change>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `key` to `value`.
    pub fn put(&mut self, table: Table, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.changes.push(Change::Put(table, key.into(), value.into()));
    }

    /// Removes `key`, if it is there.
    pub fn delete(&mut self, table: Table, key: impl Into<Vec<u8>>) {
        self.changes.push(Change::Delete(table, key.into()));
    }

    /// Removes the keys in `from..to`. An empty or reversed range removes nothing.
    pub fn delete_range(&mut self, table: Table, from: impl Into<Vec<u8>>, to: impl Into<Vec<u8>>) {
        let (from, to) = (from.into(), to.into());
        if from < to {
            self.changes.push(Change::DeleteRange(table, from, to));
        }
    }

    /// Whether nothing was added.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    pub(crate) fn into_changes(self) -> Vec<Change> {
        self.changes
    }
}

/// Why a store could not do what it was asked. Never carries keys or values.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KvError {
    /// What lies on the disk is not what was written; the text is the engine's own, about files and not about contents.
    #[error("the stored data is damaged: {0}")]
    Damaged(String),
    /// The device, or the file system on it, failed.
    #[error("the device failed: {0}")]
    Device(String),
    /// There is no room left on the device.
    #[error("no room is left on the device: {0}")]
    NoRoom(String),
    /// The engine refused for another reason.
    #[error("storage engine: {0}")]
    Engine(String),
    /// A stored value did not open under the node's storage key: damage, or another node's disk.
    #[error("a stored value does not open under this node's storage key")]
    Unsealed,
    /// The store was closed, or lost its disk in a simulated crash.
    #[error("store is closed")]
    Closed,
    /// A fault that a test asked for.
    #[error("injected storage fault")]
    Injected,
}

impl From<KvError> for std::io::Error {
    fn from(error: KvError) -> Self {
        Self::other(error)
    }
}

impl From<&std::io::Error> for KvError {
    /// What an error of a file, or one that was a [`KvError`] before, says of the store.
    fn from(error: &std::io::Error) -> Self {
        if let Some(known) = error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            return known.clone();
        }
        if let Some(codec) = error.get_ref().and_then(|inner| inner.downcast_ref::<CodecError>()) {
            return codec.into();
        }
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::NoRoom(error.to_string()),
            _ => Self::of_words(error.to_string()),
        }
    }
}

impl From<&CodecError> for KvError {
    /// What a newer release wrote is not damaged.
    fn from(error: &CodecError) -> Self {
        match error {
            CodecError::Malformed(_) => Self::Damaged(error.to_string()),
            CodecError::Version(_) | CodecError::Kind(_) => Self::Engine(error.to_string()),
        }
    }
}

impl KvError {
    /// The kind of an error of which only the words of the operating system are left.
    pub(crate) fn of_words(words: String) -> Self {
        const NO_ROOM: &[&str] = &["No space left on device", "Disk quota exceeded"];
        const DEVICE: &[&str] = &[
            "Input/output error",
            "Read-only file system",
            "Structure needs cleaning",
            "No such device",
            "Transport endpoint is not connected",
        ];
        let any = |some: &[&str]| some.iter().any(|part| words.contains(part));
        if any(NO_ROOM) {
            Self::NoRoom(words)
        } else if any(DEVICE) {
            Self::Device(words)
        } else {
            Self::Engine(words)
        }
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// An ordered store of three tables over one write-ahead log; the module page states the contract.
pub trait Kv: Send + Sync + 'static {
    /// The value of `key`.
    ///
    /// # Errors
    /// The engine failed, or the value does not open.
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError>;

    /// Up to `limit` pairs with keys in `from..to`, ascending. An empty `to` means no upper bound.
    ///
    /// # Errors
    /// The engine failed, or a value does not open.
    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError>;

    /// The pair with the greatest key.
    ///
    /// # Errors
    /// The engine failed, or the value does not open.
    fn last(&self, table: Table) -> Result<Option<Pair>, KvError>;

    /// Visits the pairs in `from..to` (an empty `to`: no bound), ascending, as they are at the moment at which `pinned` is called; later
    /// writes are not seen. Ends early when `visit` returns `false`. May run for long: call it off the async threads if
    /// [`Kv::blocks`].
    ///
    /// # Errors
    /// The engine failed, or a value does not open. `pinned` may then not have been called.
    fn walk(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        pinned: Box<dyn FnOnce() + Send>,
        visit: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> bool,
    ) -> Result<(), KvError>;

    /// Applies `batch` atomically. Readable at return, durable after the next [`Kv::sync`].
    ///
    /// # Errors
    /// The engine failed. Whether the batch took effect is then unknown; the caller stops the node.
    fn write(&self, batch: Batch) -> Result<(), KvError>;

    /// Makes all batches that were written before the call durable.
    ///
    /// # Errors
    /// The device failed. What is durable is then unknown for good: a later success says nothing about these batches.
    fn sync(&self) -> Result<(), KvError>;

    /// Whether calls may block on a device, so that syncs and walks belong on threads of their own. A store that never blocks says
    /// `false`, and everything runs on the caller's runtime, in a deterministic order.
    fn blocks(&self) -> bool {
        true
    }

    /// The copies beside this store.
    fn copies(&self) -> &dyn Copies;
}

/// A copy of a store, and the note that it was kept with.
pub type KeptCopy = (Arc<dyn Kv>, Vec<u8>);

/// What lies beside a store: a copy of all of it as it was between two batches, and perhaps the draft of the next one.
///
/// A crash leaves the copy that was kept last, and no draft. Copies are for reading only. Calls may block, as the store's do.
pub trait Copies: Send + Sync {
    /// Copies the store as it is at some moment during the call, in place of an earlier draft. Writes go on meanwhile.
    ///
    /// # Errors
    /// There is no room, or the engine failed; the store itself is as it was.
    fn draft(&self) -> Result<Arc<dyn Kv>, KvError>;

    /// Makes the draft the copy that is kept, with a note about it, and removes the one before. Durable at return.
    ///
    /// # Errors
    /// There is no draft, or the device failed; the copy before is kept then.
    fn keep(&self, note: &[u8]) -> Result<(), KvError>;

    /// The copy that is kept.
    ///
    /// # Errors
    /// It does not open.
    fn kept(&self) -> Result<Option<KeptCopy>, KvError>;

    /// Removes the copy that is kept, and the draft.
    ///
    /// # Errors
    /// The device failed.
    fn forget(&self) -> Result<(), KvError>;
}
