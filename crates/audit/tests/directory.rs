//! The log in a real directory: files, modes, locks, and a writer that is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use quorate_audit::{
    AuditError, AuditLog, Class, Config, Entry, Expected, Head, Kind, MIN_BYTES, OpenError, RecordId, read, verify,
};
use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

fn open(dir: &Path) -> AuditLog {
    let config = Config { segment_bytes: MIN_BYTES, reserve_bytes: MIN_BYTES, ..Config::new("node-1", "test", 0) };
    AuditLog::open(dir, config).unwrap().0
}

fn entry(n: u64) -> Entry {
    Entry::new(n, Kind::Decision, RecordId::request(&[1; 16]), "secret.open").resource(&"r".repeat(1000)).index(n)
}

#[test]
fn written_read_and_verified() {
    let temp = tempfile::tempdir().unwrap();
    let dir = temp.path().join("audit");
    let log = open(&dir);
    let receipts: Vec<_> = (0..300).map(|n| log.append(entry(n), Class::Normal)).collect();
    let last = receipts.into_iter().map(|r| r.wait().unwrap()).last().unwrap();
    let head = Head { seq: last.seq, hash: last.hash };
    // While the log is open, too.
    let summary = verify(&dir, Expected { head: Some(head), start: None }).unwrap();
    assert_eq!((summary.records, summary.head), (300, head));
    let found: Vec<u64> =
        read(&dir).unwrap().map(Result::unwrap).filter(|r| r.index == Some(250)).map(|r| r.seq).collect();
    assert_eq!(found, [251]);
    for file in std::fs::read_dir(&dir).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{:?}", file.path());
    }
    assert_eq!(dir.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(dir.join("audit.reserve").metadata().unwrap().len(), MIN_BYTES);
}

#[test]
fn one_writer_at_a_time() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path());
    let second = AuditLog::open(temp.path(), Config::new("node-1", "test", 0));
    assert!(matches!(second, Err(OpenError::Io(e)) if e.kind() == ErrorKind::ResourceBusy));
    drop(log);
    open(temp.path());
}

#[test]
fn a_deleted_log_is_noticed() {
    let temp = tempfile::tempdir().unwrap();
    let log = open(temp.path());
    log.append(entry(0), Class::Normal).wait().unwrap();
    std::fs::remove_file(temp.path().join("audit-00000001.jsonl")).unwrap();
    let noticed = log.append(entry(1), Class::Essential).wait().unwrap_err();
    assert!(matches!(&noticed, AuditError::Failed(broken) if broken.kind == ErrorKind::NotFound), "{noticed:?}");
    assert!(
        noticed.to_string().starts_with("the audit log failed: audit-00000001.jsonl cannot be synced: "),
        "{noticed}"
    );
}

/// The writer of the next test, when that runs this program again.
#[test]
fn writer_to_be_killed() {
    let Some(dir) = std::env::var_os("AUDIT_TEST_DIR") else { return };
    let log = open(Path::new(&dir));
    let mut out = std::io::stderr();
    for n in 0.. {
        let receipts: Vec<_> = (0..10).map(|_| log.append(entry(n), Class::Normal)).collect();
        for receipt in receipts {
            writeln!(out, "{}", receipt.wait().unwrap().seq).unwrap();
        }
    }
}

#[test]
fn what_was_answered_survives_a_kill() {
    let temp = tempfile::tempdir().unwrap();
    let mut answered = 0;
    for round in 0..4 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_to_be_killed", "--nocapture"])
            .env("AUDIT_TEST_DIR", temp.path())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        for _ in 0..100 + round * 7 {
            answered = lines.next().unwrap().unwrap().parse().unwrap();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        for line in lines {
            answered = line.unwrap().parse().unwrap_or(answered);
        }
        drop(open(temp.path()));
        let summary = verify(temp.path(), Expected::default()).unwrap();
        assert!(summary.head.seq >= answered, "{} < {answered}", summary.head.seq);
    }
    assert!(answered >= 400);
}
