//! The state store: openraft's `RaftStateMachine` over the state table.
//!
//! All state keys carry a generation before them. One generation is in force; a snapshot is received into a new one, and a single batch
//! with the pointer, the applied id and the membership makes it the state. A crash at any point leaves one whole state in force, and the
//! next start removes what is left of others.

use std::{
    io,
    sync::{
        Arc, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use futures::StreamExt;
use openraft::{
    OptionalSend, RaftSnapshotBuilder, alias,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::watch;

use crate::{
    codec,
    entry::{EntryPayload, LogEntry, LogId, Reply, StoredMembership, Types},
    flush::Flusher,
    kv::{Batch, Kv, KvError, Pair, Table},
    machine::{Effect, Entry, Machine, View},
    snapshot::{self, Image, Part, Verifier},
    tail::{AcceptedMembership, Tail},
};

const APPLIED: &[u8] = b"applied";
const GENERATION: &[u8] = b"generation";

type SnapshotMeta = alias::SnapshotMetaOf<Types>;
type Snapshot = alias::SnapshotOf<Types, Image>;

/// What the state is now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
}

impl Current {
    /// # Errors
    /// The store failed, or holds what does not decode.
    pub(crate) fn load(kv: &dyn Kv) -> io::Result<Self> {
        let stored = kv.get(Table::Meta, APPLIED)?;
        let (applied, membership) = stored.map(|bytes| codec::decode_applied(&bytes)).transpose()?.unwrap_or_default();
        let generation = match kv.get(Table::Meta, GENERATION)? {
            Some(bytes) => {
                let bytes = bytes.try_into().map_err(|_| codec::CodecError::Malformed("generation"))?;
                u64::from_be_bytes(bytes)
            }
            None => 0,
        };
        Ok(Self { generation, applied, membership })
    }

    fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index)
    }
}

/// Puts `initial`, the state before the first entry, into a store that has none, and returns `None`; where the store has a state, changes
/// nothing and returns the value of `marker` in it. To be called before the node is opened, with the same pairs on every node.
///
/// # Errors
/// The store failed, or holds what does not decode.
pub fn begin(kv: &dyn Kv, initial: Vec<Pair>, marker: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let generation = Current::load(kv)?.generation;
    if let Some(found) = kv.get(Table::State, &state_key(generation, marker))? {
        return Ok(Some(found));
    }
    let mut batch = Batch::new();
    for (key, value) in initial {
        batch.put(Table::State, state_key(generation, &key), value);
    }
    kv.write(batch)?;
    kv.sync()?;
    Ok(None)
}

struct Shared {
    kv: Arc<dyn Kv>,
    machine: Arc<dyn Machine>,
    flusher: Flusher,
    tail: Arc<Tail>,
    /// Held for writing only while a batch becomes visible: readers see the state between two entries, never in one.
    current: RwLock<Current>,
    next_generation: AtomicU64,
    applied: watch::Sender<u64>,
    fatal: watch::Sender<Option<String>>,
}

/// The applied state of one node.
#[derive(Clone)]
pub(crate) struct StateStore(Arc<Shared>);

impl StateStore {
    /// # Errors
    /// The store failed.
    pub(crate) fn open(
        kv: Arc<dyn Kv>,
        machine: Arc<dyn Machine>,
        flusher: Flusher,
        tail: Arc<Tail>,
        current: Current,
        fatal: watch::Sender<Option<String>>,
    ) -> io::Result<Self> {
        let generation = current.generation;
        let mut leftovers = Batch::new();
        leftovers.delete_range(Table::State, Vec::new(), generation.to_be_bytes());
        leftovers.delete_range(Table::State, (generation + 1).to_be_bytes(), [0xff; 9]);
        kv.write(leftovers)?;
        let applied = watch::Sender::new(current.applied_index());
        let next_generation = AtomicU64::new(generation + 1);
        let current = RwLock::new(current);
        Ok(Self(Arc::new(Shared { kv, machine, flusher, tail, current, next_generation, applied, fatal })))
    }

    /// Runs `f` on the state as it is after some entry; nothing is applied meanwhile.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&dyn View, u64) -> R) -> R {
        let current = self.current();
        f(&StateView { kv: &*self.0.kv, generation: current.generation }, current.applied_index())
    }

    /// The index up to which the state is applied, as it moves.
    pub(crate) fn applied(&self) -> watch::Receiver<u64> {
        self.0.applied.subscribe()
    }

    /// The applied index and the hash of the state there.
    pub(crate) fn digest(&self) -> Result<(u64, [u8; 32]), KvError> {
        let current = self.current();
        let sha256 = snapshot::digest(&*self.0.kv, current.generation.to_be_bytes())?;
        Ok((current.applied_index(), sha256))
    }

    /// A place beside the state in which to gather a snapshot.
    pub(crate) fn stage(&self) -> Staging {
        let generation = self.0.next_generation.fetch_add(1, Ordering::Relaxed);
        Staging { staged: Staged { state: self.clone(), generation, installed: false }, verifier: Verifier::default() }
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies one entry: its writes, the applied id and the membership become visible and durable together.
    fn apply_one(&self, entry: LogEntry) -> io::Result<Reply> {
        let shared = &self.0;
        // This is the only writer, so the state can't move between computing the effect and writing it.
        let Current { generation, mut membership, .. } = self.current().clone();
        let mut effect = Effect::default();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(payload) => {
                let view = StateView { kv: &*shared.kv, generation };
                let committed =
                    Entry { index: entry.log_id.index, term: entry.log_id.leader_id.term, payload: &payload.0 };
                effect = shared.machine.apply(&view, committed).map_err(|error| {
                    shared.fatal.send_replace(Some(error.to_string()));
                    io::Error::other(error)
                })?;
            }
            EntryPayload::Membership(new) => membership = StoredMembership::new(Some(entry.log_id), new.clone()),
        }
        let mut batch = Batch::new();
        for (key, value) in effect.writes {
            let key = state_key(generation, &key);
            match value {
                Some(value) => batch.put(Table::State, key, value),
                None => batch.delete(Table::State, key),
            }
        }
        batch.put(Table::Meta, APPLIED, codec::encode_applied(Some(&entry.log_id), &membership));
        let is_membership = matches!(entry.payload, EntryPayload::Membership(_));
        self.commit(batch, Current { generation, applied: Some(entry.log_id), membership }, is_membership)?;
        Ok(Reply(effect.reply))
    }

    fn commit(&self, batch: Batch, new: Current, membership_changed: bool) -> io::Result<()> {
        let shared = &self.0;
        let index = new.applied_index();
        {
            let mut current = shared.current.write().unwrap_or_else(PoisonError::into_inner);
            shared.flusher.check()?;
            shared.kv.write(batch).map_err(|error| shared.flusher.fail(error))?;
            if membership_changed {
                shared.tail.settled(new.applied, AcceptedMembership::of(&new.membership));
            }
            *current = new;
        }
        shared.applied.send_replace(index);
        shared.machine.committed(index);
        Ok(())
    }

    async fn pin(&self) -> io::Result<Snapshot> {
        // The callers run in turn with `apply`, so nothing is applied between reading `current` and pinning the image.
        let current = self.current().clone();
        let meta = SnapshotMeta { last_log_id: current.applied, last_membership: current.membership };
        let image = snapshot::read_image(self.0.kv.clone(), current.generation.to_be_bytes()).await?;
        Ok(Snapshot { meta, snapshot: image })
    }
}

impl RaftStateMachine<Types> for StateStore {
    type SnapshotData = Image;
    type SnapshotBuilder = PinnedImage;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), io::Error> {
        let current = self.current().clone();
        Ok((current.applied, current.membership))
    }

    async fn apply<S>(&mut self, mut entries: S) -> Result<(), io::Error>
    where
        S: futures::Stream<Item = Result<EntryResponder<Types>, io::Error>> + Unpin + OptionalSend,
    {
        while let Some(item) = entries.next().await {
            let (entry, responder) = item?;
            let reply = self.apply_one(entry)?;
            if let Some(responder) = responder {
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> PinnedImage {
        PinnedImage(self.pin().await)
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: Image) -> Result<(), io::Error> {
        let mut staged = match snapshot {
            Image::Incoming(staged) => staged,
            Image::Outgoing(mut parts) => {
                let mut staging = self.stage();
                loop {
                    match parts.recv().await.ok_or(KvError::Closed)?? {
                        Part::Records(chunk) => staging.write(&chunk)?,
                        Part::End(seal) => break staging.finish(&seal)?,
                    }
                }
            }
        };
        let old = self.current().generation;
        let new = Current {
            generation: staged.generation,
            applied: meta.last_log_id,
            membership: meta.last_membership.clone(),
        };
        let mut batch = Batch::new();
        batch.put(Table::Meta, GENERATION, new.generation.to_be_bytes());
        batch.put(Table::Meta, APPLIED, codec::encode_applied(new.applied.as_ref(), &new.membership));
        self.commit(batch, new, true)?;
        staged.installed = true;
        // The leader will count on this state: it must be durable before it hears of it.
        self.0.flusher.sync().await?;
        Ok(self.0.kv.write(drop_generation(old))?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if self.current().applied.is_none() {
            return Ok(None);
        }
        self.pin().await.map(Some)
    }
}

/// The image of the state at the moment at which openraft decided to take a snapshot.
///
/// Nothing is stored: the state itself is durable, and a follower that needs a snapshot is sent a fresh image. What openraft takes from this
/// is the id up to which the log may be purged.
pub(crate) struct PinnedImage(io::Result<Snapshot>);

impl RaftSnapshotBuilder<Types> for PinnedImage {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        std::mem::replace(&mut self.0, Err(KvError::Closed.into()))
    }
}

/// A snapshot being received.
pub(crate) struct Staging {
    staged: Staged,
    verifier: Verifier,
}

impl Staging {
    /// Adds a chunk of records.
    ///
    /// # Errors
    /// The chunk is misframed or out of order, or the store failed.
    pub(crate) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let pairs = self.verifier.records(chunk).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        let mut batch = Batch::new();
        for (key, value) in pairs {
            batch.put(Table::State, state_key(self.staged.generation, &key), value);
        }
        Ok(self.staged.state.0.kv.write(batch)?)
    }

    /// The snapshot, if it is whole and what its hash says.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn finish(self, seal: &snapshot::Seal) -> io::Result<Staged> {
        self.verifier.finish(seal).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        Ok(self.staged)
    }
}

/// A received snapshot beside the state. Removed when dropped without having become the state.
pub(crate) struct Staged {
    state: StateStore,
    generation: u64,
    installed: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.installed {
            // What can't be removed now is removed at the next start.
            drop(self.state.0.kv.write(drop_generation(self.generation)));
        }
    }
}

struct StateView<'a> {
    kv: &'a dyn Kv,
    generation: u64,
}

impl View for StateView<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        self.kv.get(Table::State, &state_key(self.generation, key))
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        let end =
            if to.is_empty() { (self.generation + 1).to_be_bytes().to_vec() } else { state_key(self.generation, to) };
        let mut pairs = self.kv.scan(Table::State, &state_key(self.generation, from), &end, limit)?;
        for (key, _) in &mut pairs {
            key.drain(..size_of::<u64>());
        }
        Ok(pairs)
    }
}

fn state_key(generation: u64, key: &[u8]) -> Vec<u8> {
    [&generation.to_be_bytes(), key].concat()
}

fn drop_generation(generation: u64) -> Batch {
    let mut batch = Batch::new();
    batch.delete_range(Table::State, generation.to_be_bytes(), (generation + 1).to_be_bytes());
    batch
}
