//! Storage faults that any user can make: damaged logs, a failing device, kills of all nodes at once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they measured"
)]

use quorate_state::ids::MemberIndex;
use quorate_tests::{Cluster, Ledger, Options};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "default";
/// How long an election, or the return of a node, may take on a busy machine.
const RETURN: Duration = Duration::from_secs(30);
/// How long a node that does not start may take to say so.
const REFUSAL: Duration = Duration::from_secs(30);

#[tokio::test]
async fn storage() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    killed_all_at_once_under_load(&cluster).await;
    a_failing_device_has_its_own_exit_status(&cluster).await;
    damaged_logs(&cluster).await;
}

async fn back(cluster: &Cluster, member: MemberIndex) {
    let up = cluster.wait_applied(member, 1, RETURN).await;
    up.unwrap_or_else(|why| panic!("node {member} comes back: {why}\n{}", cluster.node(member).unwrap().log()));
}

async fn killed_all_at_once_under_load(cluster: &Cluster) {
    let ledger = Ledger::default();
    for round in 1..=2 {
        let writers = ledger.write(cluster, 4).unwrap();
        ledger.wait_for(40).await.unwrap();
        let nodes = [1, 2, 3].map(|member| cluster.node(member).unwrap());
        let begin = Instant::now();
        futures::future::try_join_all(nodes.iter().map(|node| node.kill())).await.unwrap();
        let acknowledged = ledger.len();
        for node in nodes {
            node.restart(&[]).unwrap();
        }
        ledger.wait_for(1).await.unwrap_or_else(|why| panic!("round {round}: writing goes on after the kill: {why}"));
        println!("round {round}: {acknowledged} acknowledged, writing again {:.1?} after the kill", begin.elapsed());
        ledger.finish(writers).await.unwrap();
        let lost = ledger.lost(cluster).await.unwrap();
        assert!(lost.is_empty(), "round {round}: of {} acknowledged writes these are lost: {lost:?}", ledger.len());
    }
    assert!(ledger.len() > 80, "{} acknowledged writes are too few to say anything", ledger.len());
}

/// A device that fails, and one without room, as the store sees them: the process ends at once, and each end has its own number.
async fn a_failing_device_has_its_own_exit_status(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    let node = cluster.node(2).unwrap();
    let faults = [("storage.sync.fail", "device_failed", 74), ("storage.sync.full", "disk_full", 73)];
    for (point, code, exit) in faults {
        node.terminate().await.unwrap();
        node.restart(&[("FAILPOINTS", &format!("{point}=return(fail)"))]).unwrap();
        let ended = node.wait_exit(REFUSAL).await.unwrap();
        let said = node.log();
        assert_eq!(ended, Some(exit), "{point}: the node ends with {exit}; it said:\n{said}");
        assert!(said.contains(&format!("error[{code}]")), "{point}: the node names {code}; it said:\n{said}");
        demo.put(NAMESPACE, &format!("app/demo/{code}"), b"two are enough", None).await.unwrap();
        node.restart(&[]).unwrap();
        back(cluster, 2).await;
    }
    let data = cluster.data_folder(2).unwrap();
    assert!(!data.join("log.lost").exists(), "a device that failed says nothing about the log: it is not set aside");
}

/// Each kind of damage on the log of node 3, from the same state: set aside whole, the node stays out and says why, nothing else of it is touched, and
/// the others go on.
async fn damaged_logs(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    for n in 0..20 {
        demo.put(NAMESPACE, &format!("app/demo/before/{n}"), b"before the damage", Some(0)).await.unwrap();
    }
    let (node, data) = (cluster.node(3).unwrap(), cluster.data_folder(3).unwrap());
    let leader = cluster.wait_leader(RETURN).await.unwrap();
    let applied = cluster.status(leader).await.unwrap().unwrap().applied;
    cluster.wait_applied(3, applied, RETURN).await.unwrap();
    node.kill().await.unwrap();
    let kept = tempfile::tempdir().unwrap();
    copy(&data, &kept.path().join("data"));

    type Harm<'a> = (&'a str, &'a dyn Fn(&Path));
    let kinds: [Harm<'_>; 5] = [
        ("a flipped byte in the middle", &|data| {
            edit(&wal(data), |bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
            })
        }),
        ("a bad length in the last block", &|data| {
            edit(&wal(data), |bytes| {
                // Far enough from the end that what follows was synced.
                let records = records(bytes);
                let record = records[records.len() - 12];
                bytes[record + 4..record + 6].copy_from_slice(&[0xff, 0x7f]);
            })
        }),
        ("cut at the end of a record", &|data| {
            edit(&wal(data), |bytes| {
                let records = records(bytes);
                bytes.truncate(records[records.len() - 12]);
            })
        }),
        ("a write-ahead log that is gone", &|data| std::fs::remove_file(wal(data)).unwrap()),
        ("a store that is gone, with its witness", &|data| {
            std::fs::remove_dir_all(data.join("db")).unwrap();
            std::fs::remove_file(data.join("log.witness")).unwrap();
        }),
    ];
    for (what, damage) in kinds {
        std::fs::remove_dir_all(&data).unwrap();
        copy(&kept.path().join("data"), &data);
        damage(&data);
        let found = contents(&data.join("db"));
        node.restart(&[]).unwrap();
        stays_out(cluster, what).await;

        let aside: Vec<PathBuf> =
            std::fs::read_dir(data.join("set-aside")).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(aside.len(), 1, "{what}: one log was set aside");
        let there = [contents(&aside[0].join("db")), contents(&aside[0].join("log.kept"))].concat();
        let damaged = found.iter().filter(|(name, _)| name.ends_with(".log"));
        let missing: Vec<_> = damaged.filter(|file| !there.contains(file)).map(|(name, _)| name).collect();
        assert!(missing.is_empty(), "{what}: the damaged log is kept as it was found: {missing:?}");
        assert!(!data.join("db").exists(), "{what}: nothing is begun in its place");

        // It does not begin anew either, however often it is started.
        node.restart(&[]).unwrap();
        stays_out(cluster, what).await;
        for part in ["identity", "slots"] {
            let (was, is) = (contents(&kept.path().join("data").join(part)), contents(&data.join(part)));
            assert!(!was.is_empty() && was == is, "{what}: {part} is untouched");
        }
        demo.put(NAMESPACE, "app/demo/meanwhile", what.as_bytes(), None)
            .await
            .unwrap_or_else(|why| panic!("{what}: the others go on: {why}"));
        let opened = demo.get(NAMESPACE, "app/demo/meanwhile", None).await;
        let opened = opened.unwrap_or_else(|why| panic!("{what}: the others open: {why}"));
        assert_eq!(opened.plaintext.expose(), what.as_bytes());
    }

    // The log as the kill has left it is no damage, and has lost nothing.
    std::fs::remove_dir_all(&data).unwrap();
    copy(&kept.path().join("data"), &data);
    node.restart(&[]).unwrap();
    back(cluster, 3).await;
    // With its share: it makes up a pair that opens.
    for pair in [[1, 3], [2, 3]] {
        let opened = cluster.through("demo", &pair).unwrap().get(NAMESPACE, "app/demo/before/7", None).await;
        let opened = opened.unwrap_or_else(|why| panic!("{pair:?} open: {why}"));
        assert_eq!(opened.plaintext.expose(), b"before the damage", "{pair:?}");
    }
}

async fn stays_out(cluster: &Cluster, what: &str) {
    let node = cluster.node(3).unwrap();
    let ended = node.wait_exit(REFUSAL).await.unwrap_or_else(|why| panic!("{what}: {why}"));
    let log = node.log();
    let said = log.rsplit_once("error[").map_or(log.as_str(), |(_, last)| last);
    assert_eq!(ended, Some(65), "{what}: the node stays out with 65; it said:\n{said}");
    let words = ["log_damaged]", "set aside in", "stays out", "shares and audit log are untouched", "hint:"];
    let missing: Vec<_> = words.into_iter().filter(|word| !said.contains(word)).collect();
    assert!(missing.is_empty(), "{what}: the node says {missing:?}; it said:\n{said}");
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success(), "cp -a {} {}", from.display(), to.display());
}

/// The names and bytes of the files in a folder, in order; none where there is no folder.
fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let files = files.map(|file| file.unwrap().path()).filter(|file| file.is_file());
    let mut files: Vec<_> = files
        .map(|file| (file.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(&file).unwrap()))
        .collect();
    files.sort();
    files
}

fn wal(data: &Path) -> PathBuf {
    let files = std::fs::read_dir(data.join("db")).unwrap().map(|file| file.unwrap().path());
    files.filter(|file| file.extension().is_some_and(|e| e == "log")).max().unwrap()
}

fn edit(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).unwrap();
    change(&mut bytes);
    std::fs::write(file, bytes).unwrap();
}

/// Where each physical record of RocksDB's write-ahead log begins: blocks of 32 KiB, headers of checksum, length and type.
fn records(bytes: &[u8]) -> Vec<usize> {
    const BLOCK: usize = 32 << 10;
    const HEADER: usize = 7;
    let (mut at, mut found) = (0, Vec::new());
    loop {
        if BLOCK - at % BLOCK < HEADER {
            at += BLOCK - at % BLOCK;
        }
        let Some(header) = bytes.get(at..at + HEADER) else { return found };
        let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
        if header[6] == 0 || at + HEADER + length > bytes.len() {
            return found;
        }
        found.push(at);
        at += HEADER + length;
    }
}
