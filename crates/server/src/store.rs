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
