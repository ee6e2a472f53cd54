//! The log store: openraft's `RaftLogStorage` over the log and meta tables.

use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use openraft::{
    OptionalSend, RaftLogReader,
    storage::{IOFlushed, LogState, RaftLogStorage},
};

use crate::{
    codec::{self, CodecError},
    entry::{EntryPayload, LogEntry, LogId, StoredMembership, Types, Vote},
    errors::{Damage, OpenError},
    flush::Flusher,
    freshness::{AcceptedMembership, Footprint, Held, Ledger},
    kv::{Batch, Kv, KvError, Table},
    machine::Machine,
    tail::Tail,
    witness::Seen,
};

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Beyond every key of the log table: keys are eight bytes.
const END_OF_LOG: [u8; 9] = [0xff; 9];
/// Entries read from the store at a time.
const READ_CHUNK: usize = 256;

/// Log, vote and committed id of one node.
#[derive(Clone)]
pub(crate) struct LogStore {
    kv: Arc<dyn Kv>,
    flusher: Flusher,
    tail: Arc<Tail>,
    machine: Arc<dyn Machine>,
    /// A read for one append message stops after this many bytes of payload (after the first entry).
    max_read: usize,
}

impl LogStore {
    pub(crate) fn new(
        kv: Arc<dyn Kv>,
        flusher: Flusher,
        tail: Arc<Tail>,
        machine: Arc<dyn Machine>,
        max_read: usize,
    ) -> Self {
        Self { kv, flusher, tail, machine, max_read }
    }

    /// What the log's end is and what it holds beyond the applied state.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if an entry that is not applied yet is missing or does not decode; the store failed.
    pub(crate) fn load_tail(
        kv: &dyn Kv,
        machine: &dyn Machine,
        applied: Option<LogId>,
        settled: &StoredMembership,
    ) -> Result<Tail, OpenError> {
        let ends = [last_log_id(kv)?, purged(kv)?, applied];
        let end = ends.into_iter().flatten().max_by_key(|id| id.index);
        let mut unapplied = Vec::new();
        let mut failure = None;
        let mut next = applied.map_or(0, |id| id.index + 1);
        kv.walk(Table::Log, &key(next), &END_OF_LOG, Box::new(|| ()), &mut |_, value| {
            match codec::decode_entry(value) {
                Ok(entry) if entry.log_id.index == next => unapplied.push(held(machine, &entry)),
                Ok(_) => failure = Some(Damage::Hole { missing: next }.into()),
                Err(error) => failure = Some(unreadable(error)),
            }
            next += 1;
            failure.is_none()
        })?;
        failure.map_or(Ok(Tail::new(end, Ledger::new(AcceptedMembership::of(settled), unapplied))), Err)
    }

    /// Whether the log still holds what its witness saw. Entries that were purged, or replaced by a snapshot, were applied.
    ///
    /// # Errors
    /// [`OpenError::Damaged`] if it does not; the store failed, or holds what does not decode.
    pub(crate) fn compare(kv: &dyn Kv, tail: &Tail, seen: Seen) -> Result<(), OpenError> {
        if let Some(seen) = seen.end {
            let held =
                kv.get(Table::Log, &key(seen.index))?.map(codec::decode_entry).transpose().map_err(unreadable)?;
            let end = tail.end().map(|id| id.index);
            if !held.map_or(end.is_some_and(|end| end >= seen.index), |entry| entry.log_id == seen) {
                return Err(Damage::Short { witnessed: seen.index, end: end.unwrap_or(0) }.into());
            }
        }
        if let Some(seen) = seen.vote {
            let held = kv.get(Table::Meta, VOTE)?.map(|bytes| codec::decode_vote(&bytes)).transpose();
            let held = held.map_err(unreadable)?;
            let known = held.as_ref().is_some_and(|held| {
                let (theirs, ours) = (held.leader_id, seen.leader_id);
                theirs.term > ours.term || (theirs == ours && held.committed >= seen.committed)
            });
            if !known {
                let held = held.map_or(0, |held| held.leader_id.term);
                return Err(Damage::VoteLost { witnessed: seen.leader_id.term, held }.into());
            }
        }
        Ok(())
    }

    /// Whether the log holds another entry in the place of `id`.
    ///
    /// # Errors
    /// The store failed, or holds what does not decode.
    pub(crate) fn contradicts(kv: &dyn Kv, id: &LogId) -> io::Result<bool> {
        let held = kv.get(Table::Log, &key(id.index))?.map(codec::decode_entry).transpose()?;
        Ok(held.is_some_and(|entry| entry.log_id != *id))
    }

    fn meta<T>(&self, key: &[u8], decode: impl FnOnce(&[u8]) -> Result<T, CodecError>) -> io::Result<Option<T>> {
        let stored = self.kv.get(Table::Meta, key).map_err(|error| self.flusher.fail(error))?;
        stored.map(|bytes| decode(&bytes)).transpose().map_err(|error| self.undecodable(&error))
    }

    /// What was written here and does not decode is damage: it ends the node, as a failed write does.
    fn undecodable(&self, error: &CodecError) -> io::Error {
        self.flusher.fail(error.into())
    }

    fn write(&self, batch: Batch) -> io::Result<()> {
        self.flusher.check()?;
        self.kv.write(batch).map_err(|error| self.flusher.fail(error))
    }

    /// Entries in `from..to`, in order, until the byte budget is spent; at least one if there is one.
    fn read(&self, mut from: u64, to: Bound<u64>, max_bytes: usize) -> io::Result<Vec<LogEntry>> {
        let end = match to {
            Bound::Excluded(end) => key(end).to_vec(),
            Bound::Included(last) if last < u64::MAX => key(last + 1).to_vec(),
            Bound::Included(_) | Bound::Unbounded => END_OF_LOG.to_vec(),
        };
        let mut entries: Vec<LogEntry> = Vec::new();
        let mut bytes = 0;
        loop {
            let chunk = self.kv.scan(Table::Log, &key(from), &end, READ_CHUNK);
            let chunk = chunk.map_err(|error| self.flusher.fail(error))?;
            let full = chunk.len() == READ_CHUNK;
            for (_, value) in chunk {
                bytes += value.len();
                if bytes > max_bytes && !entries.is_empty() {
                    return Ok(entries);
                }
                let entry = codec::decode_entry(value).map_err(|error| self.undecodable(&error))?;
                if !entries.is_empty() && entry.log_id.index != from {
                    return Err(self.flusher.fail(KvError::Damaged(Damage::Hole { missing: from }.to_string())));
                }
                from = entry.log_id.index.saturating_add(1);
                entries.push(entry);
            }
            if !full {
                return Ok(entries);
            }
        }
    }
}

impl RaftLogReader<Types> for LogStore {
    async fn try_get_log_entries<RB>(&mut self, range: RB) -> Result<Vec<LogEntry>, io::Error>
    where
        RB: RangeBounds<u64> + Clone + Debug + OptionalSend,
    {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before.saturating_add(1),
            Bound::Unbounded => 0,
        };
        self.read(from, range.end_bound().cloned(), usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<LogEntry>, io::Error> {
        self.read(start, Bound::Excluded(end), self.max_read)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        self.meta(VOTE, codec::decode_vote)
    }
}

impl RaftLogStorage<Types> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<Types>, io::Error> {
        let last_purged_log_id = purged(&*self.kv)?;
        let last_log_id = last_log_id(&*self.kv)?.or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        batch.put(Table::Meta, VOTE, codec::encode_vote(vote));
        self.write(batch)?;
        self.flusher.sync_vote(vote).await
    }

    /// Not synced: a hint for the next start, in the same write-ahead log as the applies that it makes possible to repeat.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        batch.put(Table::Meta, COMMITTED, codec::encode_log_id(committed.as_ref()));
        self.write(batch)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        let committed = self.meta(COMMITTED, codec::decode_log_id)?.flatten();
        // A crash can keep this hint and lose nothing before it, so that an entry beyond the log would be damage; claim only what is there.
        let last = self.get_log_state().await?.last_log_id;
        Ok(committed.min(last))
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<Types>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = LogEntry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut batch = Batch::new();
        let mut last = None;
        let mut appended = Vec::new();
        for entry in entries {
            last = Some(entry.log_id);
            appended.push(held(&*self.machine, &entry));
            batch.put(Table::Log, key(entry.log_id.index), codec::encode_entry(&entry));
        }
        if let Some(last) = last {
            self.write(batch)?;
            // Before the callback: nobody may count on an entry that the tail does not know of.
            self.tail.appended(last, appended);
        }
        self.flusher.append(callback)
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        let first_gone = last_log_id.map_or(0, |id| id.index.saturating_add(1));
        let mut batch = Batch::new();
        batch.delete_range(Table::Log, key(first_gone), END_OF_LOG);
        // In this order: no sync that ends later can put the witness back to where the log ended before.
        self.tail.truncated(last_log_id);
        self.flusher.lower_witness(last_log_id)?;
        self.write(batch)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        let mut batch = Batch::new();
        batch.put(Table::Meta, PURGED, codec::encode_log_id(Some(&log_id)));
        batch.delete_range(Table::Log, key(0), key(log_id.index.saturating_add(1)));
        self.write(batch)
    }
}

fn key(index: u64) -> [u8; 8] {
    index.to_be_bytes()
}

/// Up to where the log was purged.
///
/// # Errors
/// The store failed, or holds what does not decode.
pub(crate) fn purged(kv: &dyn Kv) -> io::Result<Option<LogId>> {
    let stored = kv.get(Table::Meta, PURGED)?;
    Ok(stored.map(|bytes| codec::decode_log_id(&bytes)).transpose()?.flatten())
}

fn last_log_id(kv: &dyn Kv) -> io::Result<Option<LogId>> {
    let last = kv.last(Table::Log)?;
    Ok(last.map(|(_, value)| codec::decode_entry(value)).transpose()?.map(|entry| entry.log_id))
}

fn unreadable(error: CodecError) -> OpenError {
    KvError::from(&error).into()
}

fn held(machine: &dyn Machine, entry: &LogEntry) -> Held {
    let (footprint, membership) = match &entry.payload {
        EntryPayload::Blank => (Footprint::Nothing, None),
        EntryPayload::Normal(payload) => (machine.footprint(&payload.0), None),
        EntryPayload::Membership(new) => {
            let stored = StoredMembership::new(Some(entry.log_id), new.clone());
            (Footprint::Everything, Some(AcceptedMembership::of(&stored)))
        }
    };
    Held { index: entry.log_id.index, footprint, membership }
}
