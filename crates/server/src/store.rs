//! Between the replicated store and the state: one reads the other's bytes, the node's seal lies over them.

use crate::env::Env;
use quorate_crypto::storage::StorageKey;
use quorate_raft::View;
use quorate_raft::kv::{KvError, Table, ValueSeal};
use quorate_state::store::{Store, StoreError};

/// The applied state, as `state` reads it.
pub(crate) struct Applied<'a>(pub(crate) &'a dyn View);

impl Store for Applied<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.0.get(key).map_err(|e| StoreError::Io(e.to_string()))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>, StoreError> {
        self.0.scan(from, to, limit).map_err(|e| StoreError::Io(e.to_string()))
    }
}

/// The node's storage key over every value on its disk, bound to table and key.
pub(crate) struct Seal {
    key: StorageKey,
    env: Env,
}

impl Seal {
    pub(crate) fn new(key: StorageKey, env: Env) -> Self {
        Self { key, env }
    }
}

fn place(table: Table) -> &'static [u8] {
    match table {
        Table::Log => b"log",
        Table::Meta => b"meta",
        Table::State => b"state",
    }
}

impl ValueSeal for Seal {
    fn seal(&self, table: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
        // Only a value of 256 GiB does not seal; an empty one would be refused when it is read.
        self.key.seal(&[place(table), key], value, self.env.random()).unwrap_or_default()
    }

    fn open(&self, table: Table, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KvError> {
        self.key.open(&[place(table), key], sealed).map_err(|_| KvError::Unsealed)
    }
}

/// The store with faults that tests ask for; a released binary has none of this.
#[cfg(feature = "failpoints")]
pub(crate) struct Faulty(pub(crate) quorate_raft::kv::RocksKv);

#[cfg(feature = "failpoints")]
impl quorate_raft::kv::Kv for Faulty {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.0.get(table, key)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<quorate_raft::kv::Pair>, KvError> {
        self.0.scan(table, from, to, limit)
    }

    fn last(&self, table: Table) -> Result<Option<quorate_raft::kv::Pair>, KvError> {
        self.0.last(table)
    }

    fn walk(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        pinned: Box<dyn FnOnce() + Send>,
        visit: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> bool,
    ) -> Result<(), KvError> {
        self.0.walk(table, from, to, pinned, visit)
    }

    fn write(&self, batch: quorate_raft::kv::Batch) -> Result<(), KvError> {
        self.0.write(batch)
    }

    fn sync(&self) -> Result<(), KvError> {
        use crate::failpoint::hit;
        hit("storage.sync.fail").map_err(|_| KvError::Device("Input/output error, injected".to_owned()))?;
        hit("storage.sync.full").map_err(|_| KvError::NoRoom("No space left on device, injected".to_owned()))?;
        // The planted bug that a checker of durability has to catch: it is acknowledged, and nothing was synced.
        match hit("storage.sync.skip") {
            Ok(()) => self.0.sync(),
            Err(_) => Ok(()),
        }
    }

    fn copies(&self) -> &dyn quorate_raft::kv::Copies {
        self.0.copies()
    }
}
