//! openraft's own suite for stores, run on both engines.

use std::sync::Arc;

use openraft::{
    StorageError,
    testing::log::{StoreBuilder, Suite},
};
use tokio::sync::watch;

use crate::{
    checkpoint::{Checkpoint, Notary, Unattested},
    entry::Types,
    flush::Flusher,
    kv::{Kv, KvError, MemKv, RocksKv, Table, ValueSeal},
    log::LogStore,
    machine::{Effect, Entry, Machine, MachineError, Recount, View, WrongState},
    state::{Current, StateStore},
};

struct Inert;

impl Machine for Inert {
    fn apply(&self, _: &dyn View, _: Entry<'_>) -> Result<Effect, MachineError> {
        Ok(Effect::default())
    }

    fn digest(&self, _: &dyn View) -> Result<[u8; 32], MachineError> {
        Ok([0; 32])
    }

    fn recount(&self, _: [u8; 32]) -> Box<dyn Recount> {
        Box::new(Nothing)
    }
}

struct Nothing;

impl Recount for Nothing {
    fn row(&mut self, _: &[u8], _: &[u8]) -> Result<(), WrongState> {
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<(), WrongState> {
        Ok(())
    }
}

struct Trusting;

#[async_trait::async_trait]
impl Notary for Trusting {
    async fn attest(&self, _: &Checkpoint) -> Result<Vec<u8>, Unattested> {
        Ok(Vec::new())
    }

    fn verify(&self, _: &Checkpoint, _: &[u8]) -> Result<(), Unattested> {
        Ok(())
    }
}

struct Unsealed;

impl ValueSeal for Unsealed {
    fn seal(&self, _: Table, _: &[u8], value: &[u8]) -> Vec<u8> {
        value.to_vec()
    }

    fn open(&self, _: Table, _: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KvError> {
        Ok(sealed.to_vec())
    }
}

fn stores(kv: Arc<dyn Kv>) -> (LogStore, StateStore) {
    let fatal = watch::Sender::new(None);
    let current = Current::load(&*kv).unwrap();
    let tail = Arc::new(LogStore::load_tail(&*kv, &Inert, current.applied, &current.membership).unwrap());
    let flusher = Flusher::start(kv.clone(), tail.clone(), None, fatal.clone());
    let (machine, notary) = (Arc::new(Inert), Arc::new(Trusting));
    let state =
        StateStore::open(kv.clone(), machine.clone(), notary, flusher.clone(), tail.clone(), current, fatal).unwrap();
    // The suite installs what it is given, so it is given images.
    state.run();
    (LogStore::new(kv, flusher, tail, machine, 1 << 20), state)
}

struct OnMemory;

impl StoreBuilder<Types, LogStore, StateStore> for OnMemory {
    async fn build(&self) -> Result<((), LogStore, StateStore), StorageError<Types>> {
        let (log, state) = stores(Arc::new(MemKv::new()));
        Ok(((), log, state))
    }
}

struct OnRocks;

impl StoreBuilder<Types, LogStore, StateStore, tempfile::TempDir> for OnRocks {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateStore), StorageError<Types>> {
        let directory = tempfile::tempdir().unwrap();
        let (log, state) = stores(Arc::new(RocksKv::open(directory.path(), Arc::new(Unsealed)).unwrap()));
        Ok((directory, log, state))
    }
}

#[tokio::test]
async fn the_store_in_memory_conforms() {
    Suite::test_all(OnMemory).await.unwrap();
}

#[tokio::test]
async fn the_store_on_rocksdb_conforms() {
    Suite::test_all(OnRocks).await.unwrap();
}
