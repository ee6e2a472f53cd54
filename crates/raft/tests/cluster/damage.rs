//! Damaged logs: whatever is done to the files of a store, a node starts on everything that it synced, or it does not start.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use quorate_raft::{
    Config, Damage, OpenError, Raft, Status,
    kv::{Batch, Kv, KvError, RocksKv, Table},
};
use tempfile::TempDir;

use crate::{
    driver::Random,
    durability::alone,
    harness::{CLUSTER, Inverting, node, within},
};

/// The block size of RocksDB's write-ahead log, and the size of a record's header: checksum, length, type.
const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;
const ENTRIES: u32 = 300;

/// The files of a node that was killed: its store and its witness, and what it had acknowledged.
struct Killed {
    folder: TempDir,
    last: u64,
    term: u64,
}

impl Killed {
    /// A node alone that acknowledged some entries and voted once more after them: the vote is the last thing that it synced.
    async fn node() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let raft = start(folder.path()).await.unwrap();
        raft.initialize([(1, node(1))].into()).await.unwrap();
        propose(&raft, "k0=first").await;
        for i in 0..ENTRIES {
            propose(&raft, &format!("k{i}={i:0>200}")).await;
        }
        let status = raft.watch().borrow().clone();
        let copy = tempfile::tempdir().unwrap();
        copy_store(folder.path(), copy.path());
        raft.shutdown().await;
        Self { folder: copy, last: status.last_log_index, term: status.term }
    }

    /// The same files in another place, to be damaged there.
    fn copy(&self) -> TempDir {
        let copy = tempfile::tempdir().unwrap();
        copy_store(self.folder.path(), copy.path());
        copy
    }

    /// The store opens and holds everything, or says that it is damaged. Returns whether it was refused.
    async fn refused_or_whole(&self, what: &str, folder: &Path) -> bool {
        match start(folder).await {
            Err(OpenError::Damaged(_)) => true,
            Err(other) => panic!("{what}: expected that it is called damaged, got {other:?}"),
            Ok(raft) => {
                // It tells a moment after it has read it.
                let whole = |status: &Status| status.last_log_index >= self.last && status.term >= self.term;
                drop(tokio::time::timeout(Duration::from_secs(2), raft.watch().wait_for(whole)).await);
                let status = raft.watch().borrow().clone();
                let held = (status.last_log_index, status.term);
                assert!(
                    held.0 >= self.last && held.1 >= self.term,
                    "{what}: started at (index, term) {held:?}, and {:?} was acknowledged",
                    (self.last, self.term)
                );
                raft.shutdown().await;
                false
            }
        }
    }
}

async fn start(folder: &Path) -> Result<Raft, OpenError> {
    let mut config = Config::new(1, CLUSTER);
    config.witness = Some(folder.join("witness"));
    // Nobody stands for election while the files are looked at.
    config.election_min = Duration::from_millis(400);
    config.election_max = Duration::from_millis(600);
    let kv = RocksKv::open(&folder.join("db"), Arc::new(Inverting)).map_err(OpenError::from)?;
    alone(config, Arc::new(kv)).await
}

async fn propose(raft: &Raft, entry: &str) {
    within("a commit", async {
        while raft.propose(entry.as_bytes().to_vec()).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

fn copy_store(from: &Path, to: &Path) {
    std::fs::create_dir(to.join("db")).unwrap();
    std::fs::copy(from.join("witness"), to.join("witness")).unwrap();
    for file in std::fs::read_dir(from.join("db")).unwrap() {
        let file = file.unwrap().path();
        std::fs::copy(&file, to.join("db").join(file.file_name().unwrap())).unwrap();
    }
}

/// The files of a store whose name ends so, in order.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.join("db")).unwrap().map(|file| file.unwrap().path());
    let mut files: Vec<_> = files.filter(|file| file.to_string_lossy().ends_with(end)).collect();
    files.sort();
    files
}

fn wal(folder: &Path) -> PathBuf {
    files(folder, ".log").pop().unwrap()
}

/// Where each physical record of a write-ahead log begins, and where the last one ends.
fn records(bytes: &[u8]) -> Vec<usize> {
    let (mut at, mut found) = (0, Vec::new());
    loop {
        let left = BLOCK - at % BLOCK;
        if left < HEADER {
            at += left;
        }
        let Some(header) = bytes.get(at..at + HEADER) else { break };
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        if header[6] == 0 || at + HEADER + length > bytes.len() {
            break;
        }
        found.push(at);
        at += HEADER + length;
    }
    found.push(at);
    found
}

fn edit(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).unwrap();
    change(&mut bytes);
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_ahead_log_cut_or_flipped_anywhere_is_refused_or_whole() {
    let killed = Killed::node().await;
    let whole = std::fs::read(wal(killed.folder.path())).unwrap();
    let at = records(&whole);
    assert!(at.len() > 600 && whole.len() > 2 * BLOCK, "{} records in {} bytes are too few", at.len(), whole.len());
    assert!(!killed.refused_or_whole("untouched", killed.copy().path()).await, "what a kill leaves is no damage");

    // At the end of a record nothing is torn: RocksDB takes the log for whole. Most of the last ones were not synced on their own, and go
    // unpunished; a cut before the last synced entry does not.
    let mut refused = 0;
    let (last, early) = (at.len() - 1, at.len() / 3);
    for cut in (last - 8..last).chain([early, 2 * early]) {
        let copy = killed.copy();
        edit(&wal(copy.path()), |bytes| bytes.truncate(at[cut]));
        refused += usize::from(killed.refused_or_whole(&format!("cut at record {cut} of {last}"), copy.path()).await);
    }
    assert!(refused >= 4, "of the cuts at a record's boundary {refused} were noticed");

    // A length in the last block that reaches beyond the file looks like a write that was under way.
    let mut refused = 0;
    let last_block = at.iter().copied().filter(|at| at / BLOCK == whole.len() / BLOCK);
    for record in last_block.step_by(20).filter(|at| *at < whole.len()) {
        let copy = killed.copy();
        edit(&wal(copy.path()), |bytes| bytes[record + 4..record + 6].copy_from_slice(&[0xff, 0x7f]));
        refused += usize::from(killed.refused_or_whole(&format!("a bad length at {record}"), copy.path()).await);
    }
    assert!(refused >= 2, "of the bad lengths in the last block {refused} were noticed");

    // In the middle of the file.
    for place in [whole.len() / 3, whole.len() / 2, at[at.len() / 2] + 4, at[at.len() / 2] + HEADER] {
        let copy = killed.copy();
        edit(&wal(copy.path()), |bytes| bytes[place] ^= 0xff);
        let what = format!("a flipped byte at {place}");
        assert!(killed.refused_or_whole(&what, copy.path()).await, "{what} was not noticed");
    }
    let copy = killed.copy();
    edit(&wal(copy.path()), |bytes| bytes[BLOCK..2 * BLOCK].fill(0));
    assert!(killed.refused_or_whole("a block of zeros", copy.path()).await, "a block of zeros was not noticed");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_that_are_missing_or_empty_are_damage() {
    let killed = Killed::node().await;
    for end in ["CURRENT", ".log"] {
        let copy = killed.copy();
        std::fs::remove_file(files(copy.path(), end).pop().unwrap()).unwrap();
        assert!(killed.refused_or_whole(end, copy.path()).await, "{end} is gone, and the node started");
        let copy = killed.copy();
        edit(&files(copy.path(), end).pop().unwrap(), Vec::clear);
        assert!(killed.refused_or_whole(end, copy.path()).await, "{end} is empty, and the node started");
    }
    let copy = killed.copy();
    let manifest = std::fs::read_dir(copy.path().join("db")).unwrap().map(|file| file.unwrap().path());
    let manifest = manifest.filter(|file| file.to_string_lossy().contains("MANIFEST")).max().unwrap();
    std::fs::remove_file(manifest).unwrap();
    assert!(killed.refused_or_whole("MANIFEST", copy.path()).await, "the manifest is gone, and the node started");
    // All of it: nothing is damaged in an empty folder, but the witness remembers.
    let copy = killed.copy();
    std::fs::remove_dir_all(copy.path().join("db")).unwrap();
    assert!(killed.refused_or_whole("no store", copy.path()).await, "the store is gone, and the node started");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vote_that_was_lost_is_noticed_though_the_log_is_whole() {
    let killed = Killed::node().await;
    let copy = killed.copy();
    let kv = RocksKv::open(&copy.path().join("db"), Arc::new(Inverting)).unwrap();
    let mut gone = Batch::new();
    gone.delete(Table::Meta, b"vote".as_slice());
    kv.write(gone).unwrap();
    drop(kv);
    let refused = start(copy.path()).await.err();
    let lost = matches!(refused, Some(OpenError::Damaged(Damage::VoteLost { witnessed, held: 0 })) if witnessed == killed.term);
    assert!(lost, "expected that the vote of term {} is missed, got {refused:?}", killed.term);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_and_an_entry_that_does_not_open_are_damage() {
    let killed = Killed::node().await;
    let holed = |change: &dyn Fn(&mut Batch)| {
        let copy = killed.copy();
        let kv = RocksKv::open(&copy.path().join("db"), Arc::new(Inverting)).unwrap();
        let mut batch = Batch::new();
        // The state is behind the log by a little: what is not applied yet has to be there.
        batch.delete(Table::Meta, b"applied".as_slice());
        change(&mut batch);
        kv.write(batch).unwrap();
        copy
    };
    let hole = holed(&|batch| batch.delete(Table::Log, 50_u64.to_be_bytes()));
    let refused = start(hole.path()).await.err();
    assert!(matches!(refused, Some(OpenError::Damaged(Damage::Hole { missing: 50 }))), "{refused:?}");
    let garbled = holed(&|batch| batch.put(Table::Log, 50_u64.to_be_bytes(), [1].as_slice()));
    let refused = start(garbled.path()).await.err();
    let unreadable = matches!(refused, Some(OpenError::Damaged(Damage::Unreadable(KvError::Damaged(_)))));
    assert!(unreadable, "expected that the entry cannot be read, got {refused:?}");
    // A log of a newer release is not one that was damaged: it must not be set aside.
    let newer = holed(&|batch| batch.put(Table::Meta, b"vote".as_slice(), [99; 18].as_slice()));
    let refused = start(newer.path()).await.err();
    assert!(matches!(refused, Some(OpenError::Storage(KvError::Engine(_)))), "{refused:?}");
}

/// The end of the log in which a crash leaves its traces.
const TAIL: usize = 64 << 10;
/// How many cuts and flips each `make test` tries; `QUORATE_CASES=all` cuts at each byte of the tail and flips 2,000, `QUORATE_SEED` flips others.
const FEW: usize = 12;
const MANY: usize = 2_000;

/// Every file of the store, and the witness beside it.
fn all_files(folder: &Path) -> Vec<PathBuf> {
    let mut all = files(folder, "");
    // What RocksDB tells a reader, and a lock.
    all.retain(|file| !file.ends_with("LOG") && !file.ends_with("LOCK"));
    all.push(folder.join("witness"));
    all
}

/// What is served after the damage, if anything is, is what was written.
async fn refused_or_true(killed: &Killed, what: &str, folder: &Path) -> bool {
    let refused = killed.refused_or_whole(what, folder).await;
    if let (false, Ok(raft)) = (refused, start(folder).await) {
        for i in [0, 1, ENTRIES / 2, ENTRIES - 1] {
            let (key, wrote) = (format!("k{i}"), format!("{i:0>200}"));
            // An error is the end of the process, and a member that stays out.
            if let Ok(Some(value)) = raft.read(|view, _| view.get(key.as_bytes())) {
                assert_eq!(String::from_utf8_lossy(&value), wrote, "{what}: {key}");
            }
        }
        raft.shutdown().await;
    }
    refused
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_cut_or_flipped_at_any_place_is_refused_or_says_what_was_written() {
    let all = std::env::var("QUORATE_CASES").is_ok_and(|cases| cases == "all");
    let seed = std::env::var("QUORATE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1);
    let mut random = Random(seed);
    let killed = Killed::node().await;
    let whole = std::fs::metadata(wal(killed.folder.path())).unwrap().len();
    let whole = usize::try_from(whole).unwrap();
    let tail = whole.saturating_sub(TAIL);
    let cuts: Vec<usize> =
        if all { (tail..whole).collect() } else { (0..FEW).map(|_| tail + random.below(whole - tail)).collect() };
    let mut refused = 0;
    for at in &cuts {
        let copy = killed.copy();
        edit(&wal(copy.path()), |bytes| bytes.truncate(*at));
        let what = format!("QUORATE_SEED={seed}, the log cut at {at} of {whole}");
        refused += usize::from(refused_or_true(&killed, &what, copy.path()).await);
    }
    assert!(refused * 2 > cuts.len(), "of {} cuts {refused} were noticed", cuts.len());

    // Once more from a store that was opened since, and so has its entries in tables.
    let opened = killed.copy();
    start(opened.path()).await.unwrap().shutdown().await;
    assert!(!files(opened.path(), ".sst").is_empty(), "there are tables");
    let mut refused = 0;
    let flips = if all { MANY } else { 2 * FEW };
    for n in 0..flips {
        let copy = tempfile::tempdir().unwrap();
        copy_store(if n % 2 == 0 { killed.folder.path() } else { opened.path() }, copy.path());
        let files = all_files(copy.path());
        let sizes = files.iter().map(|file| std::fs::metadata(file).unwrap().len());
        let total = usize::try_from(sizes.sum::<u64>()).unwrap();
        // Half of them in the small files, which a byte drawn from all would hardly ever hit.
        let file = if n % 4 < 2 { Some(&files[random.below(files.len())]) } else { None };
        let mut place = random.below(total);
        let mut what = String::new();
        for one in &files {
            let size = usize::try_from(std::fs::metadata(one).unwrap().len()).unwrap();
            if size > 0 && (file == Some(one) || (file.is_none() && place < size)) {
                let at = place % size;
                let bit = random.below(8);
                edit(one, |bytes| bytes[at] ^= 1 << bit);
                what = format!("QUORATE_SEED={seed}, bit {bit} of byte {at} of {}", one.display());
                break;
            }
            place = place.saturating_sub(size);
        }
        refused += usize::from(refused_or_true(&killed, &what, copy.path()).await);
    }
    assert!(refused > 0, "of {flips} flips none was noticed");
    println!("{} cuts and {flips} flips, of which {refused} were refused", cuts.len());
}
