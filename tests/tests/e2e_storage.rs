//! Storage faults that any user can make: damaged logs, a failing device, kills of all nodes at once, folders from a backup.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they measured"
)]

use quorate_api::client::Credential;
use quorate_state::ids::MemberIndex;
use quorate_state::target::claim_prefix;
use quorate_tests::database::login_with;
use quorate_tests::footprint::TARGET;
use quorate_tests::{Cluster, Ledger, Options};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "default";
/// How long an election, or the return of a node, may take on a busy machine.
const RETURN: Duration = Duration::from_secs(30);
/// How long a node that does not start may take to say so.
const REFUSAL: Duration = Duration::from_secs(30);
/// How long it may take until a target is looked at: at the latest with the search of each minute.
const SEARCHED: Duration = Duration::from_secs(90);
/// How often anything is looked at that cannot be waited for.
const LOOK: Duration = Duration::from_millis(200);

#[tokio::test]
async fn storage() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    killed_all_at_once_under_load(&cluster).await;
    a_failing_device_has_its_own_exit_status(&cluster).await;
    damaged_logs(&cluster).await;
    all_folders_are_restored(&cluster).await;
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

/// All members go on from a backup of their folders, and the target has seen more of this cluster than they know: nothing is
/// touched there until a person decides, and what they do not know of is ended then.
async fn all_folders_are_restored(cluster: &Cluster) {
    let superuser = cluster.superuser().await.unwrap();
    let (kept, gone) = (issued(cluster).await, issued(cluster).await);
    let before = claims(cluster, &superuser).await;
    assert!(!before.is_empty(), "whoever is in office has a claim at the target");
    kill_all(cluster).await;
    let backup = tempfile::tempdir().unwrap();
    let folders = [1, 2, 3]
        .map(|member: MemberIndex| (cluster.data_folder(member).unwrap(), backup.path().join(cluster.name(member))));
    for (data, copied) in &folders {
        copy(data, copied);
    }

    // What the backup has not: another term of office, the end of a lease, and a lease.
    start_all(cluster).await;
    let admin = cluster.admin().unwrap();
    let newer = issued(cluster).await;
    let session = login_with(&newer).await.unwrap_or_else(|why| panic!("the newer credential logs in: {why}"));
    admin.revoke(gone.lease).await.unwrap();
    let done = admin.wait_revoked(gone.lease, RETURN).await;
    done.unwrap_or_else(|why| panic!("the lease of the backup ends: {why}"));
    let begun = Instant::now();
    while !claims(cluster, &superuser).await.is_disjoint(&before) {
        assert!(begun.elapsed() < RETURN, "the claim of a later term of office takes the place of {before:?}");
        tokio::time::sleep(LOOK).await;
    }
    kill_all(cluster).await;

    for (data, copied) in &folders {
        std::fs::remove_dir_all(data).unwrap();
        copy(copied, data);
    }
    start_all(cluster).await;
    let begun = Instant::now();
    let found = loop {
        let output = cluster.cli("admin", &["--output", "json", "target", "show", TARGET], b"").unwrap();
        // A cluster that has just started may not answer yet.
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        if shown["quarantine"].is_object() {
            break shown["quarantine"].clone();
        }
        assert!(begun.elapsed() < SEARCHED, "the target shows a claim that nobody here knows: {output:?}");
        tokio::time::sleep(LOOK).await;
    };
    let sample: Vec<&str> = found["sample"].as_array().unwrap().iter().filter_map(|login| login.as_str()).collect();
    assert!(sample.contains(&newer.username.as_str()), "what taking over would end is the newer login: {found}");
    assert_eq!(found["missing"], 1, "the lease that ended after the backup is active here: {found}");
    let shown = cluster.cli("admin", &["target", "show", TARGET], b"").unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("QUARANTINED"), "people are told: {shown}");
    let status = cluster.cli("admin", &["--output", "json", "status"], b"").unwrap();
    let status = String::from_utf8(status.stdout).unwrap();
    assert!(status.contains("target_quarantined"), "there is an alarm: {status}");
    let refused = cluster.client("demo").unwrap().issue_lease("reader", None).await.unwrap_err();
    assert_eq!(refused.code, "quarantined", "nothing is issued there: {refused}");
    assert!(session.simple_query("SELECT 1").await.is_ok(), "the session of the newer login lives: nobody has decided");
    login_with(&newer).await.unwrap_or_else(|why| panic!("the newer login lives: nobody has decided: {why}"));

    let counter = found["counter"].to_string();
    let take = ["target", "take-over", TARGET, "--counter", &counter, "--operator", cluster.text("/operator").unwrap()];
    let signed = ["--passphrase-file", cluster.text("/passphrase_file").unwrap()];
    let taken = cluster.cli("admin", &[&take[..], &signed].concat(), b"").unwrap();
    assert!(taken.status.success(), "administrators take over: {taken:?}");
    let begun = Instant::now();
    loop {
        match admin.lease(newer.lease).await {
            Ok(lease) if lease.state == "revoked" => {
                assert_eq!(lease.why, "adopted", "by the log, as everything that ends: {lease:?}");
                break;
            }
            other => assert!(begun.elapsed() < RETURN, "what no lease here knew of is adopted and ended: {other:?}"),
        }
        tokio::time::sleep(LOOK).await;
    }
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session of the newer login is ended");
    assert!(login_with(&newer).await.is_err(), "the newer login is refused");
    login_with(&kept).await.unwrap_or_else(|why| panic!("the lease of the backup goes on: {why}"));
    let again = issued(cluster).await;
    for lease in [kept.lease, gone.lease, again.lease] {
        admin.revoke(lease).await.unwrap();
        let done = admin.wait_revoked(lease, RETURN).await;
        done.unwrap_or_else(|why| panic!("lease {lease} ends, with a login at the target or without: {why}"));
    }
    let output = cluster.cli("admin", &["--output", "json", "target", "show", TARGET], b"").unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(shown["quarantine"].is_null(), "the quarantine is over: {shown}");
}

async fn kill_all(cluster: &Cluster) {
    let nodes = [1, 2, 3].map(|member| cluster.node(member).unwrap());
    futures::future::try_join_all(nodes.iter().map(|node| node.kill())).await.unwrap();
}

/// Starts all members on what their folders hold.
async fn start_all(cluster: &Cluster) {
    for member in [1, 2, 3] {
        cluster.node(member).unwrap().restart(&[]).unwrap();
    }
    for member in [1, 2, 3] {
        back(cluster, member).await;
    }
    cluster.wait_leader(RETURN).await.unwrap();
}

/// A lease that lives on by itself, whoever has begun to lead a moment ago.
async fn issued(cluster: &Cluster) -> Credential {
    let (demo, begun) = (cluster.client("demo").unwrap(), Instant::now());
    loop {
        match demo.issue_lease("reader", Some(600_000)).await {
            Ok(credential) => return credential,
            Err(why) => assert!(begun.elapsed() < RETURN, "a lease is issued: {why}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// The claims of this cluster at its target, as the target tells.
async fn claims(cluster: &Cluster, superuser: &tokio_postgres::Client) -> BTreeSet<String> {
    let sql = "SELECT rolname::text FROM pg_roles WHERE starts_with(rolname::text, $1)";
    let prefix = claim_prefix(&cluster.profile().cluster, TARGET);
    superuser.query(sql, &[&prefix]).await.unwrap().iter().map(|row| row.get(0)).collect()
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
