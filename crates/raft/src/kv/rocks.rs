//! The store on RocksDB.

mod beside;

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use rocksdb::{
    BoundColumnFamily, ColumnFamilyDescriptor, DBRecoveryMode, DBWithThreadMode, ErrorKind, IteratorMode,
    MultiThreaded, Options, ReadOptions, WriteBatch, checkpoint::Checkpoint, properties,
};

use super::{Batch, Change, Copies, KeptCopy, Kv, KvError, Pair, Table};
use beside::Beside;

/// Seals values before they reach the disk and opens them after. Keys stay in clear, because ranges are scanned by them.
///
/// # Security
/// `table` and `key` must be bound into the sealed value (as associated data), or a value could be moved to another key by whoever can
/// write the disk.
pub trait ValueSeal: Send + Sync + 'static {
    /// The sealed form of `value`.
    fn seal(&self, table: Table, key: &[u8], value: &[u8]) -> Vec<u8>;

    /// The value that was sealed for this table and key.
    ///
    /// # Errors
    /// [`KvError::Unsealed`] if it was not sealed by this node's key for this place.
    fn open(&self, table: Table, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KvError>;
}

type Db = DBWithThreadMode<MultiThreaded>;

/// Memory for one table's fresh writes, in bytes. The log is rewritten fast and read near its end: a small buffer is enough.
const LOG_BUFFER: usize = 32 << 20;
const STATE_BUFFER: usize = 64 << 20;

/// A [`Kv`] in one RocksDB directory: a column family per table, all over the same write-ahead log.
pub struct RocksKv {
    db: Db,
    seal: Arc<dyn ValueSeal>,
    /// Whether it was for want of room that something could not be written.
    full: AtomicBool,
    /// Where copies are; a copy has none.
    beside: Option<Beside>,
}

/// What stays free on the device when a copy is made.
const ROOM: u64 = 16 << 20;

impl RocksKv {
    /// Opens the store in `path`, or creates it where there is nothing: a directory that holds files but no store is one that lost a part.
    ///
    /// # Errors
    /// [`KvError::Damaged`] if files are missing or shorter than they were, or if the write-ahead log is damaged anywhere but in its torn
    /// tail. Such a directory is to be set aside, never to be opened in a laxer way: a log that silently lost its end lets a node vote for
    /// what it has promised not to. [`KvError::Device`], [`KvError::NoRoom`] and [`KvError::Engine`] say nothing about the data.
    pub fn open(path: &Path, seal: Arc<dyn ValueSeal>) -> Result<Self, KvError> {
        let families = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(table)));
        let db = Db::open_cf_descriptors(&Self::options(path)?, path, families).map_err(lost_part)?;
        let beside = Beside::of(path);
        beside.tidy();
        Ok(Self { db, seal, full: AtomicBool::new(false), beside: Some(beside) })
    }

    /// Opens a copy of a store, for reading.
    fn open_copy(path: &Path, seal: Arc<dyn ValueSeal>) -> Result<Self, KvError> {
        let families = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(table)));
        let mut options = Options::default();
        options.set_keep_log_file_num(1);
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        // As the store has it. Without it RocksDB ends the process when it opens such files for reading only.
        options.set_track_and_verify_wals_in_manifest(true);
        let db = Db::open_cf_descriptors_read_only(&options, path, families, false).map_err(lost_part)?;
        Ok(Self { db, seal, full: AtomicBool::new(false), beside: None })
    }

    fn beside(&self) -> Result<&Beside, KvError> {
        self.beside.as_ref().ok_or(KvError::Closed)
    }

    /// Bytes that are only in memory and in the write-ahead log: a copy writes them out, and no more.
    fn in_memory(&self) -> Result<u64, KvError> {
        let mut bytes = 0_u64;
        for table in Table::ALL {
            let held = self.db.property_int_value_cf(&self.family(table)?, properties::CUR_SIZE_ALL_MEM_TABLES);
            bytes = bytes.saturating_add(held.map_err(engine)?.unwrap_or(0));
        }
        Ok(bytes)
    }

    fn options(path: &Path) -> Result<Options, KvError> {
        let mut options = Options::default();
        let nothing_there = match std::fs::read_dir(path) {
            Ok(mut files) => files.next().is_none(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => true,
            Err(error) => return Err(KvError::from(&error)),
        };
        options.create_if_missing(nothing_there);
        options.create_missing_column_families(true);
        // The default recovery stops silently at the first damaged record and drops all that follows. This one accepts only what a crash
        // during a write leaves.
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        // A missing or shortened log file is noticed at open.
        options.set_track_and_verify_wals_in_manifest(true);
        // One thread syncs, when it decides to; no syncing by volume behind its back.
        options.set_wal_bytes_per_sync(0);
        options.set_max_total_wal_size(256 << 20);
        options.set_keep_log_file_num(4);
        Ok(options)
    }

    /// Drops the replicated state of the store in `path`, and nothing else: log, votes and what was promised stay. The node rebuilds the
    /// state when it is opened next.
    ///
    /// # Errors
    /// As [`RocksKv::open`]; [`KvError::Engine`] if it is in use.
    pub fn drop_state(path: &Path) -> Result<(), KvError> {
        let mut options = Self::options(path)?;
        options.create_if_missing(false);
        let families = Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), table_options(table)));
        let db = Db::open_cf_descriptors(&options, path, families).map_err(lost_part)?;
        db.drop_cf(Table::State.name()).map_err(engine)
    }

    fn family(&self, table: Table) -> Result<Arc<BoundColumnFamily<'_>>, KvError> {
        self.db.cf_handle(table.name()).ok_or(KvError::Closed)
    }

    fn read_options(to: &[u8]) -> ReadOptions {
        let mut options = ReadOptions::default();
        if !to.is_empty() {
            options.set_iterate_upper_bound(to);
        }
        options
    }
}

/// What opening says when the directory is not empty, and what makes it a store is not there, or a file that it names is not.
fn lost_part(error: rocksdb::Error) -> KvError {
    match error.kind() {
        ErrorKind::InvalidArgument | ErrorKind::NotFound => KvError::Damaged(error.into_string()),
        ErrorKind::IOError if error.as_ref().contains("No such file or directory") => {
            KvError::Damaged(error.into_string())
        }
        _ => engine(error),
    }
}

impl Kv for RocksKv {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, KvError> {
        let family = self.family(table)?;
        let Some(sealed) = self.db.get_pinned_cf(&family, key).map_err(engine)? else { return Ok(None) };
        self.seal.open(table, key, &sealed).map(Some)
    }

    fn scan(&self, table: Table, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, KvError> {
        let mut pairs = Vec::new();
        if limit > 0 {
            self.walk(table, from, to, Box::new(|| ()), &mut |key, value| {
                pairs.push((key, value));
                pairs.len() < limit
            })?;
        }
        Ok(pairs)
    }

    fn last(&self, table: Table) -> Result<Option<Pair>, KvError> {
        let family = self.family(table)?;
        let Some(pair) = self.db.iterator_cf(&family, IteratorMode::End).next() else { return Ok(None) };
        let (key, sealed) = pair.map_err(engine)?;
        let value = self.seal.open(table, &key, &sealed)?;
        Ok(Some((key.into(), value)))
    }

    fn walk(
        &self,
        table: Table,
        from: &[u8],
        to: &[u8],
        pinned: Box<dyn FnOnce() + Send>,
        visit: &mut dyn FnMut(Vec<u8>, Vec<u8>) -> bool,
    ) -> Result<(), KvError> {
        let family = self.family(table)?;
        // An iterator reads the state of the database as it was when the iterator was made.
        let mut rows = self.db.raw_iterator_cf_opt(&family, Self::read_options(to));
        pinned();
        rows.seek(from);
        while let Some((key, sealed)) = rows.item() {
            let value = self.seal.open(table, key, sealed)?;
            if !visit(key.to_vec(), value) {
                return Ok(());
            }
            rows.next();
        }
        rows.status().map_err(engine)
    }

    fn write(&self, batch: Batch) -> Result<(), KvError> {
        let mut out = WriteBatch::default();
        for change in batch.into_changes() {
            match change {
                Change::Put(table, key, value) => {
                    let sealed = self.seal.seal(table, &key, &value);
                    out.put_cf(&self.family(table)?, key, sealed);
                }
                Change::Delete(table, key) => out.delete_cf(&self.family(table)?, key),
                Change::DeleteRange(table, from, to) => out.delete_range_cf(&self.family(table)?, from, to),
            }
        }
        // Not synced: a `write(2)` to the write-ahead log, made durable by the next `sync`.
        self.db.write(out).map_err(|error| first(engine(error), &self.full))
    }

    fn sync(&self) -> Result<(), KvError> {
        self.db.flush_wal(true).map_err(|error| first(engine(error), &self.full))
    }

    fn copies(&self) -> &dyn Copies {
        self
    }
}

/// A copy is a checkpoint: hard links to the files of the store, which are never changed, after what is in memory was written to such files too.
/// Those that the store replaces later stay on the disk for as long as the copy does.
impl Copies for RocksKv {
    fn draft(&self) -> Result<Arc<dyn Kv>, KvError> {
        let beside = self.beside()?;
        // A store that could not write out what is in memory would end the node; without a copy it goes on.
        let (free, wanted) = (beside.free()?, self.in_memory()?.saturating_add(ROOM));
        if free < wanted {
            return Err(KvError::NoRoom(format!("{free} bytes are free, and a copy takes {wanted}")));
        }
        let copy = beside.draft(|path| Checkpoint::new(&self.db)?.create_checkpoint(path))?;
        Ok(Arc::new(Self::open_copy(&copy, self.seal.clone())?))
    }

    fn keep(&self, note: &[u8]) -> Result<(), KvError> {
        self.beside()?.keep(note).map_err(|error| KvError::from(&error))
    }

    fn kept(&self) -> Result<Option<KeptCopy>, KvError> {
        let Some((path, note)) = self.beside()?.kept().map_err(|error| KvError::from(&error))? else { return Ok(None) };
        Ok(Some((Arc::new(Self::open_copy(&path, self.seal.clone())?), note)))
    }

    fn forget(&self) -> Result<(), KvError> {
        self.beside()?.forget().map_err(|error| KvError::from(&error))
    }
}

fn table_options(table: Table) -> Options {
    let mut options = Options::default();
    match table {
        Table::Log => {
            options.set_write_buffer_size(LOG_BUFFER);
            options.set_compression_type(rocksdb::DBCompressionType::None);
        }
        Table::Meta => options.set_compression_type(rocksdb::DBCompressionType::None),
        Table::State => {
            options.set_write_buffer_size(STATE_BUFFER);
            options.set_compression_type(rocksdb::DBCompressionType::Lz4);
        }
    }
    options
}

fn engine(error: rocksdb::Error) -> KvError {
    match error.kind() {
        ErrorKind::Corruption => KvError::Damaged(error.into_string()),
        _ => KvError::of_words(error.into_string()),
    }
}

/// What RocksDB says of every write to a file after one that failed, whatever that one failed for.
const AFTERWARDS: &str = "Seen error. Skip writing buffer";

/// What a failed write or sync failed for. One that only says that there was another before means the same as that: who wrote meanwhile may hear
/// of it sooner than who was told why.
fn first(error: KvError, full: &AtomicBool) -> KvError {
    match error {
        KvError::Engine(words) if words.contains(AFTERWARDS) => {
            if full.load(Ordering::Relaxed) {
                KvError::NoRoom(words)
            } else {
                KvError::Device(words)
            }
        }
        KvError::NoRoom(words) => {
            full.store(true, Ordering::Relaxed);
            KvError::NoRoom(words)
        }
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_write_after_one_that_failed_means_the_same_as_that() {
        let full = AtomicBool::new(false);
        let said = |words: &str| first(KvError::of_words(words.to_owned()), &full);
        let after = "IO error: Seen error. Skip writing buffer.";
        assert_eq!(
            said(after),
            KvError::Device(after.to_owned()),
            "a sync failed, and whoever waits for it was not told yet"
        );
        assert_eq!(said("Busy: "), KvError::Engine("Busy: ".to_owned()));
        let room = "IO error: No space left on device: While appending to file: 000009.log";
        assert_eq!(said(room), KvError::NoRoom(room.to_owned()));
        assert_eq!(said(after), KvError::NoRoom(after.to_owned()));
    }

    struct Marked;

    impl ValueSeal for Marked {
        fn seal(&self, _: Table, key: &[u8], value: &[u8]) -> Vec<u8> {
            [key, &value.iter().map(|b| !b).collect::<Vec<_>>()].concat()
        }

        fn open(&self, _: Table, key: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KvError> {
            Ok(sealed.strip_prefix(key).ok_or(KvError::Unsealed)?.iter().map(|b| !b).collect())
        }
    }

    fn open(path: &Path) -> Result<RocksKv, KvError> {
        RocksKv::open(path, Arc::new(Marked))
    }

    fn put(kv: &RocksKv, key: &[u8], value: &[u8]) {
        let mut batch = Batch::new();
        batch.put(Table::State, key, value);
        kv.write(batch).unwrap();
    }

    /// The write-ahead log in `path`; there is one, since little was written.
    fn wal(path: &Path) -> std::path::PathBuf {
        let files = std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path());
        files.filter(|file| file.extension().is_some_and(|e| e == "log")).max().unwrap()
    }

    #[test]
    fn values_are_sealed_on_disk_and_open_only_in_their_place() {
        let directory = tempfile::tempdir().unwrap();
        let kv = open(directory.path()).unwrap();
        put(&kv, b"key", b"a value to be found");
        kv.sync().unwrap();
        let raw = std::fs::read(wal(directory.path())).unwrap();
        assert!(!raw.windows(19).any(|window| window == b"a value to be found"));
        assert_eq!(kv.get(Table::State, b"key").unwrap().unwrap(), b"a value to be found");

        let family = kv.family(Table::State).unwrap();
        let sealed = kv.db.get_cf(&family, b"key").unwrap().unwrap();
        kv.db.put_cf(&family, b"moved", sealed).unwrap();
        assert_eq!(kv.get(Table::State, b"moved"), Err(KvError::Unsealed));
        assert_eq!(kv.scan(Table::State, b"", b"", 9), Err(KvError::Unsealed));
    }

    #[test]
    fn scans_and_range_deletions_honour_their_bounds() {
        let directory = tempfile::tempdir().unwrap();
        let kv = open(directory.path()).unwrap();
        for key in [b"a", b"b", b"c", b"d"] {
            put(&kv, key, b"v");
        }
        let keys = |from: &[u8], to: &[u8], limit| -> Vec<Vec<u8>> {
            kv.scan(Table::State, from, to, limit).unwrap().into_iter().map(|pair| pair.0).collect()
        };
        assert_eq!(keys(b"b", b"d", 9), [b"b", b"c"]);
        assert_eq!(keys(b"c", b"", 9), [b"c", b"d"]);
        assert_eq!(keys(b"", b"", 1), [b"a"]);
        assert_eq!(keys(b"", b"", 0), Vec::<Vec<u8>>::new());
        let mut batch = Batch::new();
        batch.delete_range(Table::State, b"c".as_slice(), b"d".as_slice());
        batch.delete_range(Table::State, b"z".as_slice(), b"a".as_slice());
        kv.write(batch).unwrap();
        assert_eq!(keys(b"", b"", 9), [b"a", b"b", b"d"]);
        assert_eq!(kv.last(Table::State).unwrap().unwrap().0, b"d");
        assert_eq!(kv.last(Table::Log).unwrap(), None);
    }

    fn noted(kv: &RocksKv) -> Option<Vec<u8>> {
        kv.copies().kept().unwrap().map(|(_, note)| note)
    }

    #[test]
    fn a_copy_is_of_one_moment_while_writes_go_on() {
        let directory = tempfile::tempdir().unwrap();
        let kv = open(&directory.path().join("db")).unwrap();
        let count = |kv: &dyn Kv, table| kv.get(table, b"count").unwrap();
        let writing = AtomicBool::new(true);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in 0_u64.. {
                    let mut batch = Batch::new();
                    for table in [Table::Meta, Table::State] {
                        batch.put(table, b"count".as_slice(), round.to_be_bytes());
                    }
                    batch.put(Table::Log, round.to_be_bytes(), [7; 300]);
                    kv.write(batch).unwrap();
                    if !writing.load(Ordering::Relaxed) {
                        return;
                    }
                }
            });
            let mut before = None;
            for _ in 0..5 {
                while count(&kv, Table::State) == before {
                    std::thread::yield_now();
                }
                let copy = kv.copies().draft().unwrap();
                let at = count(&*copy, Table::State);
                assert!(at > before && at == count(&*copy, Table::Meta), "half a batch is in the copy");
                before = at;
            }
            writing.store(false, Ordering::Relaxed);
        });
    }

    #[test]
    fn what_is_kept_is_neither_changed_nor_written_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("db");
        let kv = open(&path).unwrap();
        assert_eq!(noted(&kv), None);
        put(&kv, b"a", b"first");
        kv.copies().draft().unwrap();
        kv.copies().keep(b"one").unwrap();
        put(&kv, b"a", b"second");
        let family = kv.family(Table::State).unwrap();
        kv.db.compact_range_cf(&family, None::<&[u8]>, None::<&[u8]>);
        drop(family);
        drop(kv);
        let kv = open(&path).unwrap();
        let (copy, note) = kv.copies().kept().unwrap().unwrap();
        assert_eq!(
            (note.as_slice(), copy.get(Table::State, b"a").unwrap().unwrap().as_slice()),
            (&b"one"[..], &b"first"[..])
        );
        let mut batch = Batch::new();
        batch.put(Table::State, b"a".as_slice(), b"third".as_slice());
        copy.write(batch).unwrap_err();
        assert_eq!(copy.copies().keep(b""), Err(KvError::Closed));
        kv.copies().forget().unwrap();
        assert_eq!(noted(&kv), None);
        assert_eq!(copy.get(Table::State, b"a").unwrap().unwrap(), b"first", "who reads it, reads it to the end");
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_copy_before_or_the_new_one() {
        let directory = tempfile::tempdir().unwrap();
        let (path, beside) = (directory.path().join("db"), directory.path().join("db.image"));
        let names =
            || -> Vec<_> { std::fs::read_dir(&beside).unwrap().map(|entry| entry.unwrap().file_name()).collect() };
        let kv = open(&path).unwrap();
        kv.copies().draft().unwrap();
        kv.copies().keep(b"one").unwrap();
        assert_eq!(names(), ["1"]);

        // A draft; one that was never finished; one with its note.
        kv.copies().draft().unwrap();
        assert_eq!(names().len(), 2);
        for step in ["made", "half made", "noted"] {
            match step {
                "half made" => std::fs::create_dir_all(beside.join("draft/db.tmp")).unwrap(),
                "noted" => {
                    std::fs::create_dir(beside.join("draft")).unwrap();
                    std::fs::write(beside.join("draft/note"), b"two").unwrap();
                }
                _ => {}
            }
            assert_eq!(noted(&kv).unwrap(), b"one", "{step}");
            kv.beside().unwrap().tidy();
            assert_eq!((noted(&kv).unwrap().as_slice(), names()), (&b"one"[..], vec!["1".into()]), "{step}");
        }

        // The new one is in its place, and the one before is still there, or half of it.
        kv.copies().draft().unwrap();
        kv.copies().keep(b"two").unwrap();
        assert_eq!(names(), ["2"]);
        std::fs::create_dir_all(beside.join("1/db")).unwrap();
        assert_eq!(noted(&kv).unwrap(), b"two");
        drop(kv);
        let kv = open(&path).unwrap();
        assert_eq!((noted(&kv).unwrap().as_slice(), names()), (&b"two"[..], vec!["2".into()]));

        // One that is damaged does not open, and can be removed.
        std::fs::remove_file(beside.join("2/db/CURRENT")).unwrap();
        assert!(kv.copies().kept().is_err(), "a copy without its files opens");
        kv.copies().forget().unwrap();
        assert_eq!(noted(&kv), None);
        assert_eq!(kv.copies().keep(b"three").err().map(|_| ()), Some(()), "there is no draft to keep");
    }

    /// A closed store with 2,000 synced batches, and its write-ahead log.
    fn filled() -> (tempfile::TempDir, std::path::PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let kv = open(directory.path()).unwrap();
        for i in 0..2000_u32 {
            put(&kv, &i.to_be_bytes(), &[7; 100]);
        }
        kv.sync().unwrap();
        drop(kv);
        let file = wal(directory.path());
        (directory, file)
    }

    #[test]
    fn a_torn_tail_opens_and_damage_before_it_does_not() {
        let (directory, file) = filled();
        let whole = std::fs::read(&file).unwrap();
        std::fs::write(&file, &whole[..whole.len() - 37]).unwrap();
        let kv = open(directory.path()).unwrap();
        assert!(kv.get(Table::State, &1998_u32.to_be_bytes()).unwrap().is_some());
        assert!(kv.get(Table::State, &1999_u32.to_be_bytes()).unwrap().is_none());

        let (directory, file) = filled();
        let mut damaged = std::fs::read(&file).unwrap();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0xff;
        std::fs::write(&file, damaged).unwrap();
        let refused = open(directory.path()).err();
        assert!(matches!(refused, Some(KvError::Damaged(_))), "{refused:?}");
    }
}
