//! A second opinion on where the log ends.
//!
//! RocksDB's recovery takes a write-ahead log that was cut at a record's boundary, or whose last block holds a bad length, for the torn tail of
//! a crash, and opens without a word. A node that lost synced entries that way would vote as if it had never held them. So the end of the log
//! after each sync is also noted in a small file beside the store. It is written **after** the sync and not synced itself: it may be behind the
//! log, never ahead of it. Before entries are truncated it is lowered, durably. A log that ends before its witness is damaged.
//!
//! The file is `version:u8 | term:u64 | index:u64 | checksum:8 bytes`, integers little endian, the checksum the head of a SHA-256.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
    path::Path,
    sync::{Mutex, PoisonError},
};

use sha2::{Digest, Sha256};

use crate::entry::LogId;

const VERSION: u8 = 1;
const BODY: usize = 1 + 8 + 8;
const SIZE: usize = BODY + 8;

/// The witness of one log.
pub(crate) struct Witness {
    /// The file, and what it says.
    file: Mutex<(File, Option<LogId>)>,
}

impl Witness {
    /// Opens the witness, or starts a new one.
    ///
    /// A file that does not check out counts as none: it is written in place and without a sync, so a crash may tear it, and then the log has
    /// only its own word.
    ///
    /// # Errors
    /// The file can't be opened.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let mut bytes = [0; SIZE];
        let known = file.read_exact_at(&mut bytes, 0).ok().and_then(|()| decode(&bytes));
        Ok(Self { file: Mutex::new((file, known)) })
    }

    /// Where the log ended at the last sync.
    pub(crate) fn end(&self) -> Option<LogId> {
        self.file.lock().unwrap_or_else(PoisonError::into_inner).1
    }

    /// Runs `sync`, and if it succeeds notes `end`, the end of the log before it. No truncation comes between.
    pub(crate) fn over<E>(
        &self,
        end: impl FnOnce() -> Option<LogId>,
        sync: impl FnOnce() -> Result<(), E>,
    ) -> Result<(), E> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let end = end();
        sync()?;
        // A witness that can't be written stays behind, which is safe.
        if end != held.1 && held.0.write_all_at(&encode(end), 0).is_ok() {
            held.1 = end;
        }
        Ok(())
    }

    /// Notes that the log is about to end at `end`, if it did not end before already.
    ///
    /// # Errors
    /// The file can't be written or synced; the log must not be truncated then.
    pub(crate) fn lower(&self, end: Option<LogId>) -> io::Result<()> {
        let mut held = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if held.1.map(|known| known.index) > end.map(|id| id.index) {
            held.0.write_all_at(&encode(end), 0)?;
            held.0.sync_data()?;
            held.1 = end;
        }
        Ok(())
    }
}

fn encode(end: Option<LogId>) -> [u8; SIZE] {
    let mut bytes = [0; SIZE];
    if let Some(id) = end {
        let body = [&[VERSION], id.leader_id.term.to_le_bytes().as_slice(), &id.index.to_le_bytes()].concat();
        let checksum = Sha256::digest(&body);
        for (to, from) in bytes.iter_mut().zip(body.iter().chain(&checksum)) {
            *to = *from;
        }
    }
    bytes
}

fn decode(bytes: &[u8; SIZE]) -> Option<LogId> {
    let (_, rest) = bytes.split_first()?;
    let (term, rest) = rest.split_first_chunk::<8>()?;
    let index = rest.first_chunk::<8>()?;
    let id = LogId::new_term_index(u64::from_le_bytes(*term), u64::from_le_bytes(*index));
    (encode(Some(id)) == *bytes).then_some(id)
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
        assert_eq!(witness.end(), None);
        witness.over(|| at(1, 9), || Ok::<_, ()>(())).unwrap();
        witness.over(|| at(1, 12), || Err(())).unwrap_err();
        assert_eq!(Witness::open(&path).unwrap().end(), at(1, 9), "a failed sync is no witness");
        witness.lower(at(1, 10)).unwrap();
        assert_eq!(witness.end(), at(1, 9), "never raised by a truncation");
        witness.lower(at(1, 6)).unwrap();
        assert_eq!(Witness::open(&path).unwrap().end(), at(1, 6));
        witness.lower(None).unwrap();
        assert_eq!(Witness::open(&path).unwrap().end(), None);
    }

    #[test]
    fn a_torn_file_counts_as_none() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("witness");
        Witness::open(&path).unwrap().over(|| at(3, 9), || Ok::<_, ()>(())).unwrap();
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[10] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Witness::open(&path).unwrap().end(), None);
    }
}
