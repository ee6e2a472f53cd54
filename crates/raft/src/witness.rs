//! A second opinion on where the log ends, and on the last vote.
//!
//! RocksDB's recovery takes a write-ahead log that was cut at a record's boundary, or whose last block holds a bad length, for the torn tail of
//! a crash, and opens without a word. A node that lost synced entries, or a vote, that way would vote as if it had never held them. So the end of
//! the log after each sync, and each vote, are also noted in a small file beside the store. It is written **after** the sync and not synced
//! itself: it may be behind the log, never ahead of it. Before entries are truncated it is lowered, durably. A log that ends before its witness
//! is damaged.
//!
//! The file is `version:u8 = 2 | has:u8 | end term:u64 | end index:u64 | vote term:u64 | vote node:u64 | checksum:8 bytes`, integers little
//! endian, the checksum the head of a SHA-256. Bits of `has`: 0 an end, 1 a vote, 2 the vote is that of a leader. Version 1, which is still
//! read, is `version:u8 = 1 | end term:u64 | end index:u64 | checksum:8 bytes`.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

use crate::entry::{LogId, Vote};

const VERSION: u8 = 2;
pub(crate) const CHECKSUM: usize = 8;
const SIZE: usize = 1 + 1 + 4 * 8 + CHECKSUM;
const SIZE_V1: usize = 1 + 2 * 8 + CHECKSUM;

const HAS_END: u8 = 1;
const HAS_VOTE: u8 = 2;
const OF_LEADER: u8 = 4;

/// What was synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen {
    /// Where the log ended.
    pub(crate) end: Option<LogId>,
    /// The last vote.
    pub(crate) vote: Option<Vote>,
}

/// The witness of one log.
pub(crate) struct Witness {
    /// The file, and what it says.
    file: Mutex<(File, Seen)>,
}

impl Witness {
    /// Opens the witness, or starts a new one.
    ///
    /// A file that does not check out counts as none: it is written in place and without a sync, so a crash may tear it, and then the log has
    /// only its own word.
    ///
    /// # Errors
    /// The file can't be opened or read.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; SIZE];
        let read = file.read_at(&mut bytes, 0)?;
        let known = decode(bytes.get(..read).unwrap_or_default()).unwrap_or_default();
        Ok(Self { file: Mutex::new((file, known)) })
    }

    /// What was noted last.
    pub(crate) fn seen(&self) -> Seen {
        self.lock().1
    }

    /// Runs `sync`, and if it succeeds notes `end`, the end of the log before it. No truncation comes between.
    pub(crate) fn over<E>(
        &self,
        end: impl FnOnce() -> Option<LogId>,
        sync: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut held = self.lock();
        let end = end();
        sync()?;
        let seen = Seen { end, ..held.1 };
        note(&mut held, seen);
        Ok(())
    }

    /// Notes a vote that is durable.
    pub(crate) fn voted(&self, vote: &Vote) {
        let mut held = self.lock();
        let seen = Seen { vote: Some(*vote), ..held.1 };
        note(&mut held, seen);
    }

    /// Notes that the log is about to end at `end`, if it did not end before already.
    ///
    /// # Errors
    /// The file can't be written or synced; the log must not be truncated then.
    pub(crate) fn lower(&self, end: Option<LogId>) -> io::Result<()> {
        let mut held = self.lock();
        if held.1.end.map(|known| known.index) > end.map(|id| id.index) {
            let seen = Seen { end, ..held.1 };
            held.0.write_all_at(&encode(seen), 0)?;
            held.0.sync_data()?;
            held.1 = seen;
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, (File, Seen)> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A witness that can't be written stays behind, which is safe.
fn note(held: &mut (File, Seen), seen: Seen) {
    if seen != held.1 && held.0.write_all_at(&encode(seen), 0).is_ok() {
        held.1 = seen;
    }
}

pub(crate) fn encode(seen: Seen) -> Vec<u8> {
    let mut has = 0;
    let (mut end, mut vote) = ([0; 2], [0; 2]);
    if let Some(id) = seen.end {
        has |= HAS_END;
        end = [id.leader_id.term, id.index];
    }
    if let Some(seen) = seen.vote {
        has |= HAS_VOTE | if seen.committed { OF_LEADER } else { 0 };
        vote = [seen.leader_id.term, seen.leader_id.voted_for];
    }
    let body: Vec<u8> =
        [VERSION, has].into_iter().chain(end.into_iter().chain(vote).flat_map(u64::to_le_bytes)).collect();
    checked(body)
}

/// `body` with the checksum over it.
pub(crate) fn checked(mut body: Vec<u8>) -> Vec<u8> {
    let checksum = Sha256::digest(&body);
    body.extend(checksum.iter().take(CHECKSUM));
    body
}

pub(crate) fn decode(bytes: &[u8]) -> Option<Seen> {
    let size = match bytes.first()? {
        1 => SIZE_V1,
        &VERSION => SIZE,
        _ => return None,
    };
    let bytes = bytes.get(..size)?;
    let body = bytes.get(..size - CHECKSUM)?;
    if checked(body.to_vec()) != bytes {
        return None;
    }
    let numbers = |from: usize| -> Option<Vec<u64>> {
        Some(body.get(from..)?.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight)).collect())
    };
    if size == SIZE_V1 {
        let [term, index] = numbers(1)?.try_into().ok()?;
        return Some(Seen { end: Some(LogId::new_term_index(term, index)), vote: None });
    }
    let has = *body.get(1)?;
    let [term, index, vote_term, node] = numbers(2)?.try_into().ok()?;
    let vote = if has & OF_LEADER != 0 { Vote::new_committed(vote_term, node) } else { Vote::new(vote_term, node) };
    Some(Seen {
        end: (has & HAS_END != 0).then(|| LogId::new_term_index(term, index)),
        vote: (has & HAS_VOTE != 0).then_some(vote),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new_term_index(term, index))
    }

    #[test]
    fn it_follows_syncs_and_truncations_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("witness");
        let witness = Witness::open(&path).unwrap();
        assert_eq!(witness.seen().end, None);
        witness.over(|| at(1, 9), || Ok::<_, ()>(())).unwrap();
        witness.over(|| at(1, 12), || Err(())).unwrap_err();
        assert_eq!(Witness::open(&path).unwrap().seen().end, at(1, 9), "a failed sync is no witness");
        witness.lower(at(1, 10)).unwrap();
        assert_eq!(witness.seen().end, at(1, 9), "never raised by a truncation");
        witness.lower(at(1, 6)).unwrap();
        assert_eq!(Witness::open(&path).unwrap().seen().end, at(1, 6));
        witness.lower(None).unwrap();
        assert_eq!(Witness::open(&path).unwrap().seen().end, None);
        witness.voted(&Vote::new(4, 2));
        witness.over(|| at(4, 7), || Ok::<_, ()>(())).unwrap();
        let seen = Seen { end: at(4, 7), vote: Some(Vote::new(4, 2)) };
        assert_eq!(Witness::open(&path).unwrap().seen(), seen, "an end and a vote do not replace each other");
        witness.voted(&Vote::new_committed(4, 2));
        assert_eq!(Witness::open(&path).unwrap().seen().vote, Some(Vote::new_committed(4, 2)));
    }

    /// Frozen: both versions lie on disks.
    #[test]
    fn the_file_is_frozen_and_version_1_is_read() {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let seen = Seen { end: at(3, 9), vote: Some(Vote::new_committed(4, 2)) };
        let golden = include_str!("../tests/golden/witness.hex");
        let v1 = checked([1].into_iter().chain([3_u64, 9].into_iter().flat_map(u64::to_le_bytes)).collect());
        assert_eq!(format!("v1 {}\nv2 {}\n", hex(&v1), hex(&encode(seen))), golden);
        assert_eq!(decode(&v1), Some(Seen { end: at(3, 9), vote: None }));
        assert_eq!(decode(&encode(seen)), Some(seen));
        assert_eq!(decode(&encode(Seen::default())), Some(Seen::default()));
    }

    #[test]
    fn a_torn_file_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("witness");
        Witness::open(&path).unwrap().over(|| at(3, 9), || Ok::<_, ()>(())).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[10] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Witness::open(&path).unwrap().seen().end, None);
    }
}
