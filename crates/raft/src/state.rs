//! The state store: openraft's `RaftStateMachine` over the state table.
//!
//! All state keys carry a generation before them. One generation is in force; a snapshot is received into a new one, and a single batch
//! with the pointer, the applied id, the membership and the chain makes it the state. A crash at any point leaves one whole state in force, and the
//! next start removes what is left of others.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::StreamExt;
use openraft::{
    OptionalSend, RaftSnapshotBuilder, alias,
    storage::{EntryResponder, RaftStateMachine},
};
use tokio::sync::watch;

use crate::{
    checkpoint::{self, Checkpoint, History, Notary, Unattested},
    codec,
    entry::{EntryPayload, LogEntry, LogId, Reply, StoredMembership, Types},
    errors::Fatal,
    flush::Flusher,
    freshness::AcceptedMembership,
    kept::Keeper,
    kv::{Batch, Kv, KvError, Pair, Table},
    log,
    machine::{Effect, Entry, Machine, View},
    snapshot::{self, Image, Outgoing, Part, Point, Staged, Staging, drop_generation, state_key},
    tail::Tail,
};

const APPLIED: &[u8] = b"applied";
const GENERATION: &[u8] = b"generation";
/// The hash chain of the entries up to the applied one.
const CHAIN: &[u8] = b"chain";
/// As [`APPLIED`], where the state was last vouched for: the log may be purged up to some way before it.
const ATTESTED: &[u8] = b"attested";
/// As [`APPLIED`], of a state that is no longer there: until another is in its place.
const LOST: &[u8] = b"lost";

/// How long to wait before members are asked again to vouch for the state.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long before an image is tried again that could not be made.
const TRY_AGAIN: Duration = Duration::from_secs(30);

type SnapshotMeta = alias::SnapshotMetaOf<Types>;
type Snapshot = alias::SnapshotOf<Types, Image>;

/// What the state is now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Current {
    pub(crate) generation: u64,
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    chain: [u8; 32],
    /// The state's own hash; of no meaning before the state is opened.
    digest: [u8; 32],
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
        let chain = match kv.get(Table::Meta, CHAIN)? {
            Some(bytes) => bytes.try_into().map_err(|_| codec::CodecError::Malformed("chain"))?,
            None if applied.is_none() => checkpoint::START,
            None => return Err(codec::CodecError::Malformed("chain").into()),
        };
        Ok(Self { generation, applied, membership, chain, digest: [0; 32] })
    }

    /// The same, with the state's own hash.
    pub(crate) fn at(self, digest: [u8; 32]) -> Self {
        Self { digest, ..self }
    }

    fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |id| id.index)
    }

    fn checkpoint(&self) -> Checkpoint {
        Checkpoint::of(self.applied.as_ref(), &self.membership, &self.chain, self.digest)
    }

    pub(crate) fn point(&self) -> Point {
        let Self { applied, membership, chain, digest, .. } = self.clone();
        Point { applied, membership, chain, state: digest }
    }
}

/// Puts `initial`, the state before the first entry, into a store that has none, and returns `None`; where the store has a state, changes
/// nothing and returns the value of `marker` in it. To be called before the node is opened, with the same pairs on every node.
///
/// A store that has applied entries and yet no state has lost it: it begins again, and the node rebuilds it when it is opened.
///
/// # Errors
/// The store failed, or holds what does not decode.
pub fn begin(kv: &dyn Kv, initial: Vec<Pair>, marker: &[u8]) -> io::Result<Option<Vec<u8>>> {
    let Current { generation, applied, membership, .. } = Current::load(kv)?;
    if let Some(found) = kv.get(Table::State, &state_key(generation, marker))? {
        return Ok(Some(found));
    }
    let mut batch = drop_generation(generation);
    if applied.is_some() {
        tracing::warn!(applied = applied.map(|id| id.index), "the state is gone: it will be rebuilt");
        batch.put(Table::Meta, LOST, codec::encode_applied(applied.as_ref(), &membership));
        for key in [APPLIED, CHAIN, ATTESTED] {
            batch.delete(Table::Meta, key);
        }
    }
    for (key, value) in initial {
        batch.put(Table::State, state_key(generation, &key), value);
    }
    kv.write(batch)?;
    kv.sync()?;
    Ok(None)
}

/// The membership of a state that was lost, if it was.
///
/// # Errors
/// The store failed, or holds what does not decode.
pub(crate) fn lost(kv: &dyn Kv) -> io::Result<Option<StoredMembership>> {
    let stored = kv.get(Table::Meta, LOST)?;
    Ok(stored.map(|bytes| codec::decode_applied(&bytes)).transpose()?.map(|(_, membership)| membership))
}

/// A lost state has another in its place: the one before the log, from which all entries follow.
///
/// # Errors
/// The store failed.
pub(crate) fn found(kv: &dyn Kv) -> io::Result<()> {
    let mut batch = Batch::new();
    batch.delete(Table::Meta, LOST);
    Ok(kv.write(batch)?)
}

/// What makes a staged state the one in force, all at once.
pub(crate) fn switch(staged: &Staged) -> Batch {
    let Staged { generation, point, .. } = staged;
    let applied = codec::encode_applied(point.applied.as_ref(), &point.membership);
    let mut batch = Batch::new();
    batch.put(Table::Meta, GENERATION, generation.to_be_bytes());
    batch.put(Table::Meta, APPLIED, applied.clone());
    batch.put(Table::Meta, ATTESTED, applied);
    batch.put(Table::Meta, CHAIN, point.chain);
    batch.delete(Table::Meta, LOST);
    batch
}

struct Shared {
    kv: Arc<dyn Kv>,
    machine: Arc<dyn Machine>,
    notary: Arc<dyn Notary>,
    keeper: Keeper,
    flusher: Flusher,
    tail: Arc<Tail>,
    /// Held for writing only while a batch becomes visible: readers see the state between two entries, never in one.
    current: RwLock<Current>,
    history: Mutex<History>,
    next_generation: AtomicU64,
    applied: watch::Sender<u64>,
    fatal: watch::Sender<Option<Fatal>>,
    /// Consensus runs: before, it only asks what there is.
    running: AtomicBool,
    stopped: watch::Sender<bool>,
}

/// The applied state of one node.
#[derive(Clone)]
pub(crate) struct StateStore(Arc<Shared>);

impl StateStore {
    /// # Errors
    /// The store failed, or the state has no hash.
    pub(crate) fn open(
        kv: Arc<dyn Kv>,
        machine: Arc<dyn Machine>,
        notary: Arc<dyn Notary>,
        flusher: Flusher,
        tail: Arc<Tail>,
        mut current: Current,
        fatal: watch::Sender<Option<Fatal>>,
    ) -> io::Result<Self> {
        let generation = current.generation;
        let mut leftovers = Batch::new();
        leftovers.delete_range(Table::State, Vec::new(), generation.to_be_bytes());
        leftovers.delete_range(Table::State, (generation + 1).to_be_bytes(), [0xff; 9]);
        kv.write(leftovers)?;
        current.digest = machine.digest(&StateView { kv: &*kv, generation }).map_err(io::Error::other)?;
        let mut history = History::default();
        history.push(current.checkpoint());
        Ok(Self(Arc::new(Shared {
            keeper: Keeper::new(kv.clone(), machine.clone()),
            kv,
            machine,
            notary,
            flusher,
            tail,
            applied: watch::Sender::new(current.applied_index()),
            history: Mutex::new(history),
            next_generation: AtomicU64::new(generation + 1),
            current: RwLock::new(current),
            fatal,
            running: AtomicBool::new(false),
            stopped: watch::Sender::new(false),
        })))
    }

    /// Consensus runs.
    pub(crate) fn run(&self) {
        self.0.running.store(true, Ordering::Release);
    }

    /// Consensus is about to end.
    pub(crate) fn stop(&self) {
        self.0.stopped.send_replace(true);
    }

    pub(crate) fn notary(&self) -> &dyn Notary {
        &*self.0.notary
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

    /// The checkpoint at an index, or the newest; `None` if it is not remembered.
    pub(crate) fn checkpoint(&self, index: Option<u64>) -> Option<Checkpoint> {
        match index {
            Some(index) => self.0.history.lock().unwrap_or_else(PoisonError::into_inner).at(index),
            None => Some(self.current().checkpoint()),
        }
    }

    /// A place beside the state in which to gather the state at `point`.
    pub(crate) fn stage(&self, point: Point) -> Staging {
        let generation = self.0.next_generation.fetch_add(1, Ordering::Relaxed);
        Staging::new(self.0.kv.clone(), generation, &*self.0.machine, point)
    }

    fn current(&self) -> RwLockReadGuard<'_, Current> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Applies one entry: its writes, the applied id and the membership become visible and durable together.
    fn apply_one(&self, entry: LogEntry) -> io::Result<Reply> {
        let shared = &self.0;
        // This is the only writer, so the state can't move between computing the effect and writing it.
        let Current { generation, mut membership, chain, digest, .. } = self.current().clone();
        let chain = checkpoint::link(&chain, &entry);
        let mut effect = Effect::default();
        match &entry.payload {
            EntryPayload::Blank => {}
            EntryPayload::Normal(payload) => {
                let view = StateView { kv: &*shared.kv, generation };
                let committed =
                    Entry { index: entry.log_id.index, term: entry.log_id.leader_id.term, payload: &payload.0 };
                effect = shared.machine.apply(&view, committed).map_err(|error| self.give_up(error))?;
            }
            EntryPayload::Membership(new) => membership = StoredMembership::new(Some(entry.log_id), new.clone()),
        }
        let mut batch = Batch::new();
        let writes = !effect.writes.is_empty();
        for (key, value) in effect.writes {
            let key = state_key(generation, &key);
            match value {
                Some(value) => batch.put(Table::State, key, value),
                None => batch.delete(Table::State, key),
            }
        }
        batch.put(Table::Meta, APPLIED, codec::encode_applied(Some(&entry.log_id), &membership));
        batch.put(Table::Meta, CHAIN, chain);
        let is_membership = matches!(entry.payload, EntryPayload::Membership(_));
        let new = Current { generation, applied: Some(entry.log_id), membership, chain, digest };
        self.commit(batch, new, is_membership, writes)?;
        Ok(Reply(effect.reply))
    }

    /// Makes a batch and what it leads to visible at once. `rewritten` says that rows of the state are in it.
    fn commit(&self, batch: Batch, mut new: Current, membership_changed: bool, rewritten: bool) -> io::Result<()> {
        let shared = &self.0;
        let index = new.applied_index();
        {
            let mut current = shared.current.write().unwrap_or_else(PoisonError::into_inner);
            shared.flusher.check()?;
            shared.kv.write(batch).map_err(|error| shared.flusher.fail(error))?;
            if rewritten {
                let view = StateView { kv: &*shared.kv, generation: new.generation };
                new.digest = shared.machine.digest(&view).map_err(|error| self.give_up(error))?;
            }
            // Readers that find nothing to wait for from here on read after this lock is released.
            shared.tail.applied(new.applied, membership_changed.then(|| AcceptedMembership::of(&new.membership)));
            shared.history.lock().unwrap_or_else(PoisonError::into_inner).push(new.checkpoint());
            *current = new;
        }
        shared.applied.send_replace(index);
        shared.machine.committed(index);
        Ok(())
    }

    fn give_up(&self, error: crate::machine::MachineError) -> io::Error {
        // A view that could not be read is the store's failure, and was noted as such.
        self.0.fatal.send_if_modified(|known| known.is_none().then(|| *known = Some(error.clone().into())).is_some());
        io::Error::other(error)
    }

    /// Begins to read the state as it is now. To be called in turn with applying: nothing may be applied between the two steps.
    pub(crate) async fn pin(&self) -> io::Result<Outgoing> {
        let (generation, point) = {
            let current = self.current();
            (current.generation, current.point())
        };
        Ok(snapshot::read_image(self.0.kv.clone(), generation, point).await?)
    }

    /// The kept image, if there is one that others would take.
    async fn kept(&self) -> io::Result<Option<Outgoing>> {
        let Some(kept) = self.0.keeper.kept().await else { return Ok(None) };
        // A member whose word counted then may since be recorded as destroyed.
        if let Err(unattested) = self.0.notary.verify(&kept.point.checkpoint(), &kept.proof) {
            tracing::warn!(%unattested, "the kept image of the state is not sent: its proof is not good any more");
            return Ok(None);
        }
        // Where it turns out to be damaged, it is gone when it is asked for again.
        Ok(self.0.keeper.read(kept).await.ok())
    }

    /// What can be sent to a member that lacks entries: the kept image, from which the log goes on, or else the state as it is now. Nobody need
    /// be there for the first; for the second enough members have yet to vouch. To be called in turn with applying.
    pub(crate) async fn image(&self, min_index: u64) -> io::Result<Outgoing> {
        match self.kept().await? {
            Some(kept) if kept.point.applied.is_some_and(|id| id.index >= min_index) => Ok(kept),
            _ => self.pin().await,
        }
    }

    /// Where the state was last vouched for, without its records.
    fn attested(&self) -> io::Result<Option<Snapshot>> {
        let kv = &*self.0.kv;
        let stored = match kv.get(Table::Meta, ATTESTED)? {
            None if log::purged(kv)?.is_some() => kv.get(Table::Meta, APPLIED)?,
            stored => stored,
        };
        let stored = stored.map(|bytes| codec::decode_applied(&bytes)).transpose()?;
        Ok(stored.map(|(last_log_id, last_membership)| Snapshot {
            meta: SnapshotMeta { last_log_id, last_membership },
            snapshot: Image::Absent,
        }))
    }
}

impl RaftStateMachine<Types> for StateStore {
    type SnapshotData = Image;
    type SnapshotBuilder = Compaction;

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

    async fn get_snapshot_builder(&mut self) -> Compaction {
        Compaction { state: self.clone() }
    }

    async fn install_snapshot(&mut self, _: &SnapshotMeta, snapshot: Image) -> Result<(), io::Error> {
        let mut staged = match snapshot {
            Image::Incoming(staged) => staged,
            // Of this node itself, for openraft's suite: nothing that came from elsewhere gets here unproved.
            Image::Outgoing(Outgoing { point, mut parts, .. }) => {
                let mut staging = self.stage(point);
                loop {
                    match parts.recv().await.ok_or(KvError::Closed)?? {
                        Part::Records(chunk) => staging.write(&chunk)?,
                        Part::End => break staging.finish()?,
                    }
                }
            }
            Image::Absent => return Err(io::ErrorKind::InvalidInput.into()),
        };
        let old = self.current().generation;
        let Point { applied, membership, chain, state } = staged.point.clone();
        let new = Current { generation: staged.generation, applied, membership, chain, digest: state };
        self.commit(switch(&staged), new, true, false)?;
        staged.installed = true;
        // The leader will count on this state: it must be durable before it hears of it.
        self.0.flusher.sync().await?;
        self.0.kv.write(drop_generation(old)).map_err(|error| self.0.flusher.fail(error))?;
        if let Some(proof) = staged.proof.take() {
            self.0.keeper.keep_taken(&staged.point, &proof).await;
        }
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, io::Error> {
        if !self.0.running.load(Ordering::Acquire) {
            return self.attested();
        }
        if self.current().applied.is_none() {
            return Ok(None);
        }
        Ok(Some(described(self.image(0).await?)))
    }
}

fn described(image: Outgoing) -> Snapshot {
    let Point { applied, membership, .. } = image.point.clone();
    let meta = SnapshotMeta { last_log_id: applied, last_membership: membership };
    Snapshot { meta, snapshot: Image::Outgoing(image) }
}

/// A snapshot to be taken, in openraft's words: the log may be purged up to some way before it.
///
/// The log must not go before enough members vouch for a state that replaces it, and an image of that state is kept with their word. So this waits
/// until they do, as long as it takes, at an index that moves with the state.
pub(crate) struct Compaction {
    state: StateStore,
}

/// Why the log is not compacted yet.
#[derive(Debug, thiserror::Error)]
enum NotYet {
    #[error(transparent)]
    Unattested(#[from] Unattested),
    #[error("no image of the state could be kept: {0}")]
    NoImage(#[from] io::Error),
}

impl RaftSnapshotBuilder<Types> for Compaction {
    type SnapshotData = Image;

    async fn build_snapshot(&mut self) -> Result<Snapshot, io::Error> {
        let shared = self.state.0.clone();
        let mut stopped = shared.stopped.subscribe();
        let mut refused = 0_u32;
        loop {
            let pause = match self.attempt().await {
                Ok(point) => {
                    let mut batch = Batch::new();
                    let at = codec::encode_applied(point.applied.as_ref(), &point.membership);
                    batch.put(Table::Meta, ATTESTED, at);
                    shared.flusher.check()?;
                    shared.kv.write(batch).map_err(|error| shared.flusher.fail(error))?;
                    return self.described(point).await;
                }
                Err(why) => {
                    if refused.is_multiple_of(60) {
                        tracing::warn!(%why, "the log is not compacted");
                    }
                    refused = refused.saturating_add(1);
                    if matches!(why, NotYet::NoImage(_)) { TRY_AGAIN } else { ASK_AGAIN }
                }
            };
            if tokio::time::timeout(pause, stopped.wait_for(|stopped| *stopped)).await.is_ok() {
                return Err(KvError::Closed.into());
            }
        }
    }
}

impl Compaction {
    /// Keeps an image of a state that enough members vouch for, and returns which it is.
    async fn attempt(&self) -> Result<Point, NotYet> {
        let Shared { notary, keeper, .. } = &*self.state.0;
        // Those who would not vouch now will not in a moment, and an image costs more than to ask.
        let now = self.state.current().checkpoint();
        notary.attest(&now).await?;
        let draft = keeper.draft().await?;
        let proof = notary.attest(&draft.point.checkpoint()).await?;
        draft.keep(&proof).await?;
        Ok(draft.point)
    }

    async fn described(&self, point: Point) -> io::Result<Snapshot> {
        let kept = self.state.kept().await?.filter(|image| image.point == point);
        Ok(kept.map_or_else(
            || {
                let Point { applied, membership, .. } = point;
                let meta = SnapshotMeta { last_log_id: applied, last_membership: membership };
                Snapshot { meta, snapshot: Image::Absent }
            },
            described,
        ))
    }
}

pub(crate) struct StateView<'a> {
    pub(crate) kv: &'a dyn Kv,
    pub(crate) generation: u64,
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
