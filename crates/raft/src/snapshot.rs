//! Images of the state: a canonical stream of its records, and who vouches for it.
//!
//! An image is read from the store as it was at one applied index, in key order, and framed as `key length:u32 | key | value length:u32 |
//! value` (big endian). Equal states have equal images, on every node and engine. An image is produced while it is sent, from the state or from
//! the one that is kept (`kept.rs`), and a received one is written beside the state it is to replace. Before the first record comes a proof that enough members have the
//! checkpoint that the image is of; the records are recounted against the state's hash in it as they arrive.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{Stream, TryStreamExt as _};
use tokio::sync::mpsc;
use tonic::Status;

use crate::{
    checkpoint::{Checkpoint, Notary},
    codec,
    entry::{LogId, StoredMembership},
    kv::{Batch, Kv, KvError, Pair, Table},
    machine::{Machine, Recount},
    wire::{self, snapshot_chunk::Part as WirePart},
};

/// The version of an image: of its beginning and of the framing of its records. A member takes no other.
pub(crate) const VERSION: u32 = 1;
/// Bytes of records to gather before they are sent; a chunk exceeds it by at most one record.
const CHUNK: usize = 512 << 10;
/// Chunks that wait for a slow receiver.
const QUEUE: usize = 4;
/// A sender that is silent for so long has gone.
const SILENCE: Duration = Duration::from_secs(20);

/// All of an image but its records.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Point {
    pub(crate) applied: Option<LogId>,
    pub(crate) membership: StoredMembership,
    /// Of the entries up to `applied`.
    pub(crate) chain: [u8; 32],
    /// What the state says its hash is.
    pub(crate) state: [u8; 32],
}

impl Point {
    pub(crate) fn checkpoint(&self) -> Checkpoint {
        Checkpoint::of(self.applied.as_ref(), &self.membership, &self.chain, self.state)
    }

    /// How an image of this begins on its way to another node.
    pub(crate) fn begin(&self, vote: Option<wire::Vote>, proof: Vec<u8>) -> wire::SnapshotChunk {
        let begin = wire::SnapshotBegin {
            vote,
            last: wire::log_id(self.applied.as_ref()),
            membership: codec::encode_applied(self.applied.as_ref(), &self.membership).into(),
            chain: Bytes::copy_from_slice(&self.chain),
            state: Bytes::copy_from_slice(&self.state),
            proof: proof.into(),
            version: VERSION,
        };
        wire::SnapshotChunk { part: Some(WirePart::Begin(begin)) }
    }

    fn received(begin: &wire::SnapshotBegin) -> Result<Self, Status> {
        if begin.version != VERSION {
            let found = begin.version;
            let why = format!("snapshot is of version {found}, and this release reads version {VERSION}");
            return Err(Status::invalid_argument(why));
        }
        let hash = |bytes: &[u8]| <[u8; 32]>::try_from(bytes).map_err(invalid);
        let (applied, membership) = codec::decode_applied(&begin.membership).map_err(invalid)?;
        if applied != begin.last.map(LogId::from) {
            return Err(Status::invalid_argument("snapshot contradicts itself"));
        }
        Ok(Self { applied, membership, chain: hash(&begin.chain)?, state: hash(&begin.state)? })
    }
}

/// A piece of an image.
pub(crate) enum Part {
    Records(Bytes),
    End,
}

impl From<Part> for wire::SnapshotChunk {
    fn from(part: Part) -> Self {
        let part = match part {
            Part::Records(records) => WirePart::Records(records),
            Part::End => WirePart::End(wire::SnapshotEnd {}),
        };
        Self { part: Some(part) }
    }
}

/// An image on its way out; a closed channel without an [`Part::End`] is a broken one.
pub(crate) struct Outgoing {
    pub(crate) point: Point,
    /// Who vouches for it, where that is known already: it is the kept image.
    pub(crate) proof: Option<Vec<u8>>,
    pub(crate) parts: mpsc::Receiver<Result<Part, KvError>>,
}

/// What openraft calls the data of a snapshot.
pub(crate) enum Image {
    /// Being read.
    Outgoing(Outgoing),
    /// Received, counted, and waiting to become the state.
    Incoming(Staged),
    /// Nobody asked for the records: openraft wants to know up to where the log may be purged.
    Absent,
}

/// Gathers records into chunks.
#[derive(Default)]
struct Framer {
    buffer: Vec<u8>,
}

impl Framer {
    /// Adds a record; hands out a chunk when one is full.
    fn push(&mut self, key: &[u8], value: &[u8]) -> Option<Bytes> {
        for field in [key, value] {
            // Keys and values are far below 4 GiB: a proposal is at most a few MiB.
            self.buffer.extend_from_slice(&u32::try_from(field.len()).unwrap_or(u32::MAX).to_be_bytes());
            self.buffer.extend_from_slice(field);
        }
        (self.buffer.len() >= CHUNK).then(|| std::mem::take(&mut self.buffer).into())
    }

    fn rest(self) -> Option<Bytes> {
        (!self.buffer.is_empty()).then(|| self.buffer.into())
    }
}

/// How records are checked while they are read.
pub(crate) struct Check {
    pub(crate) recount: Box<dyn Recount>,
    /// Called when they are not what they should be.
    pub(crate) broken: Box<dyn FnOnce(&KvError) + Send>,
}

/// Starts reading the records of one generation of the state; returns when the store's state is pinned, so that later writes are not in them.
/// The generation is not part of the image.
pub(crate) async fn read_image(kv: Arc<dyn Kv>, generation: u64, point: Point) -> Result<Outgoing, KvError> {
    Ok(Outgoing { point, proof: None, parts: read(kv, generation, None).await? })
}

/// The same of a kept image.
pub(crate) async fn read_kept(
    copy: Arc<dyn Kv>,
    generation: u64,
    point: Point,
    proof: Vec<u8>,
    check: Check,
) -> Result<Outgoing, KvError> {
    Ok(Outgoing { point, proof: Some(proof), parts: read(copy, generation, Some(check)).await? })
}

async fn read(
    kv: Arc<dyn Kv>,
    generation: u64,
    check: Option<Check>,
) -> Result<mpsc::Receiver<Result<Part, KvError>>, KvError> {
    let (parts, outgoing) = mpsc::channel(QUEUE);
    if !kv.blocks() {
        // For simulation, whose stores lie in memory anyway.
        let mut ready = Vec::new();
        walk(&*kv, generation, check, Box::new(|| ()), |part| {
            ready.push(part);
            true
        })?;
        tokio::spawn(async move {
            for part in ready {
                if parts.send(Ok(part)).await.is_err() {
                    return;
                }
            }
        });
        return Ok(outgoing);
    }
    let (pinned, is_pinned) = tokio::sync::oneshot::channel();
    tokio::task::spawn_blocking(move || {
        let pin = Box::new(move || {
            let _ = pinned.send(());
        });
        // A receiver that hung up ends the walk; the channel is then closed and the result of no interest.
        if let Err(error) = walk(&*kv, generation, check, pin, |part| parts.blocking_send(Ok(part)).is_ok()) {
            drop(parts.blocking_send(Err(error)));
        }
    });
    is_pinned.await.map_err(|_| KvError::Closed)?;
    Ok(outgoing)
}

fn walk(
    kv: &dyn Kv,
    generation: u64,
    check: Option<Check>,
    pinned: Box<dyn FnOnce() + Send>,
    emit: impl FnMut(Part) -> bool,
) -> Result<(), KvError> {
    let (recount, broken) = check.map(|check| (check.recount, check.broken)).unzip();
    let walked = frame(kv, generation, recount, pinned, emit);
    if let (Err(error), Some(broken)) = (&walked, broken) {
        broken(error);
    }
    walked
}

fn frame(
    kv: &dyn Kv,
    generation: u64,
    mut recount: Option<Box<dyn Recount>>,
    pinned: Box<dyn FnOnce() + Send>,
    mut emit: impl FnMut(Part) -> bool,
) -> Result<(), KvError> {
    let mut framer = Framer::default();
    let (mut wanted, mut right) = (true, Ok(()));
    let (prefix, end) = (generation.to_be_bytes(), (generation + 1).to_be_bytes());
    kv.walk(Table::State, &prefix, &end, pinned, &mut |key, value| {
        let key = key.get(prefix.len()..).unwrap_or_default();
        if let Some(recount) = &mut recount {
            right = recount.row(key, &value);
        }
        if let Some(chunk) = framer.push(key, &value) {
            wanted = emit(Part::Records(chunk));
        }
        wanted && right.is_ok()
    })?;
    if !wanted {
        return Ok(());
    }
    let right = right.and_then(|()| recount.map_or(Ok(()), Recount::finish));
    right.map_err(|wrong| KvError::Damaged(wrong.to_string()))?;
    if framer.rest().is_none_or(|chunk| emit(Part::Records(chunk))) {
        emit(Part::End);
    }
    Ok(())
}

/// Takes records apart as they arrive.
#[derive(Default)]
pub(crate) struct Unframer {
    last_key: Option<Vec<u8>>,
}

/// A received image that is not one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImageError {
    #[error("snapshot records are cut or misframed")]
    Framing,
    #[error("snapshot records are not in ascending order")]
    Order,
}

impl Unframer {
    /// The records of one chunk.
    pub(crate) fn records(&mut self, mut chunk: &[u8]) -> Result<Vec<Pair>, ImageError> {
        let mut pairs = Vec::new();
        while !chunk.is_empty() {
            let key = field(&mut chunk)?;
            let value = field(&mut chunk)?;
            if self.last_key.as_ref().is_some_and(|last| last.as_slice() >= key) {
                return Err(ImageError::Order);
            }
            self.last_key = Some(key.to_vec());
            pairs.push((key.to_vec(), value.to_vec()));
        }
        Ok(pairs)
    }
}

fn field<'a>(chunk: &mut &'a [u8]) -> Result<&'a [u8], ImageError> {
    let (len, rest) = chunk.split_first_chunk::<4>().ok_or(ImageError::Framing)?;
    let len = usize::try_from(u32::from_be_bytes(*len)).map_err(|_| ImageError::Framing)?;
    let (field, rest) = rest.split_at_checked(len).ok_or(ImageError::Framing)?;
    *chunk = rest;
    Ok(field)
}

/// A received state beside the one in force. Removed when dropped without having become the state.
pub(crate) struct Staged {
    kv: Arc<dyn Kv>,
    pub(crate) generation: u64,
    pub(crate) point: Point,
    /// Who vouches for it; nothing while that is not known.
    pub(crate) proof: Option<Vec<u8>>,
    pub(crate) installed: bool,
}

impl Drop for Staged {
    fn drop(&mut self) {
        if !self.installed {
            // What can't be removed now is removed at the next start.
            drop(self.kv.write(drop_generation(self.generation)));
        }
    }
}

/// The key of a row in its generation.
pub(crate) fn state_key(generation: u64, key: &[u8]) -> Vec<u8> {
    [&generation.to_be_bytes(), key].concat()
}

/// Removes every row of a generation.
pub(crate) fn drop_generation(generation: u64) -> Batch {
    let mut batch = Batch::new();
    batch.delete_range(Table::State, generation.to_be_bytes(), (generation + 1).to_be_bytes());
    batch
}

/// A snapshot being received.
pub(crate) struct Staging {
    staged: Staged,
    recount: Box<dyn Recount>,
    unframer: Unframer,
}

impl Staging {
    pub(crate) fn new(kv: Arc<dyn Kv>, generation: u64, machine: &dyn Machine, point: Point) -> Self {
        let recount = machine.recount(point.state);
        let staged = Staged { kv, generation, point, proof: None, installed: false };
        Self { staged, recount, unframer: Unframer::default() }
    }

    /// Adds a chunk of records.
    ///
    /// # Errors
    /// The chunk is misframed, out of order or not of the expected state, or the store failed.
    pub(crate) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        let wrong = |error: &dyn std::fmt::Display| io::Error::new(io::ErrorKind::InvalidData, error.to_string());
        let mut batch = Batch::new();
        for (key, value) in self.unframer.records(chunk).map_err(|error| wrong(&error))? {
            self.recount.row(&key, &value).map_err(|error| wrong(&error))?;
            batch.put(Table::State, state_key(self.staged.generation, &key), value);
        }
        Ok(self.staged.kv.write(batch)?)
    }

    /// The snapshot, if it is the expected state.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn finish(self) -> io::Result<Staged> {
        self.recount.finish().map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))?;
        Ok(self.staged)
    }
}

/// Receives a snapshot: first the proof, then the rows that it is about. `stage` makes the place beside the state, once the proof is good.
///
/// # Errors
/// The snapshot is not what enough members vouch for, or did not arrive whole. Nothing is left of it.
pub(crate) async fn receive(
    begin: &wire::SnapshotBegin,
    chunks: &mut (impl Stream<Item = Result<wire::SnapshotChunk, Status>> + Unpin + Send),
    notary: &dyn Notary,
    stage: impl FnOnce(Point) -> Staging + Send,
) -> Result<Staged, Status> {
    let point = Point::received(begin)?;
    notary.verify(&point.checkpoint(), &begin.proof).map_err(|error| Status::permission_denied(error.to_string()))?;
    let mut staging = stage(point);
    loop {
        match next(chunks).await? {
            Some(WirePart::Records(chunk)) => staging.write(&chunk).map_err(invalid)?,
            Some(WirePart::End(_)) => {
                let mut staged = staging.finish().map_err(invalid)?;
                staged.proof = Some(begin.proof.to_vec());
                return Ok(staged);
            }
            Some(WirePart::Begin(_)) => return Err(Status::invalid_argument("snapshot begins twice")),
            None => return Err(Status::data_loss("snapshot ends before it is complete")),
        }
    }
}

/// The next part of a snapshot.
///
/// # Errors
/// The sender failed, or has fallen silent.
pub(crate) async fn next(
    chunks: &mut (impl Stream<Item = Result<wire::SnapshotChunk, Status>> + Unpin + Send),
) -> Result<Option<WirePart>, Status> {
    let chunk = tokio::time::timeout(SILENCE, chunks.try_next()).await;
    let chunk = chunk.map_err(|_| Status::deadline_exceeded("the sender of a snapshot has fallen silent"))??;
    chunk.map(|chunk| chunk.part.ok_or_else(|| wire::missing("part"))).transpose()
}

fn invalid(error: impl std::fmt::Display) -> Status {
    Status::invalid_argument(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(pairs: &[(&[u8], &[u8])]) -> Vec<u8> {
        let mut framer = Framer::default();
        for (key, value) in pairs {
            assert!(framer.push(key, value).is_none());
        }
        framer.rest().unwrap_or_default().to_vec()
    }

    #[test]
    fn records_come_out_as_they_went_in() {
        let bytes = framed(&[(b"a", b"1"), (b"b", b"")]);
        let pairs = [(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), vec![])];
        assert_eq!(Unframer::default().records(&bytes).unwrap(), pairs);
        assert_eq!(Unframer::default().records(&bytes[..bytes.len() - 1]), Err(ImageError::Framing));
    }

    #[test]
    fn records_out_of_order_or_twice_are_refused() {
        for pairs in [[(b"b".as_slice(), b"".as_slice()), (b"a", b"")], [(b"a", b"1"), (b"a", b"2")]] {
            assert_eq!(Unframer::default().records(&framed(&pairs)), Err(ImageError::Order));
        }
    }
}
