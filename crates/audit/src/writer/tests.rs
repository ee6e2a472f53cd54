//! What must hold when the disk runs full, fails, or loses what was not synced.

use super::*;
use crate::disk::Segments as _;
use crate::testing::{Call, MemDisk};
use crate::verify::{Expected, What, read_from, verify_from};

const PLENTY: u64 = 64 << 20;

fn config() -> Config {
    Config { segment_bytes: MIN_BYTES, reserve_bytes: MIN_BYTES, ..Config::new("node-1", "test", 1_000) }
}

fn open(disk: &MemDisk) -> (Writer, Recovered) {
    Writer::open(Box::new(disk.clone()), config()).unwrap()
}

/// About 1.4 KiB in the log.
fn entry(n: u64) -> Entry {
    Entry::new(10_000 * n, Kind::Request, RecordId::internal("test", n), "secret.open").resource(&"r".repeat(1000))
}

fn put(writer: &mut Writer, n: u64, class: Class) -> Result<Durable, AuditError> {
    writer.append(&[(entry(n), class)]).remove(0)
}

fn fill(writer: &mut Writer, class: Class) -> (u64, AuditError) {
    for n in 1..10_000 {
        if let Err(e) = put(writer, n, class) {
            return (n - 1, e);
        }
    }
    panic!("the disk never runs full");
}

fn seqs(disk: &MemDisk) -> Vec<u64> {
    read_from(disk, None).unwrap().map(|r| r.unwrap().seq).collect()
}

#[test]
fn the_chain_goes_on_across_segments_and_openings() {
    let disk = MemDisk::new(PLENTY);
    let mut last = None;
    for round in 0..5 {
        let (mut writer, recovered) = open(&disk);
        assert_eq!(recovered, Recovered { seq: round * 60, torn_bytes: 0 });
        let batch: Vec<_> = (0..60).map(|n| (entry(n), Class::Normal)).collect();
        last = writer.append(&batch).pop();
    }
    let Durable { seq, hash } = last.unwrap().unwrap();
    let head = Some(Head { seq, hash });
    let summary = verify_from(&disk, Expected { head, start: None }).unwrap();
    assert_eq!((summary.records, summary.first_seq, Some(summary.head)), (300, Some(1), head));
    assert!(summary.segments >= 3, "{summary:?}");
}

#[test]
fn one_batch_is_one_sync_and_answers_in_order() {
    let disk = MemDisk::new(PLENTY);
    let (mut writer, _) = open(&disk);
    let before = disk.hold().calls[&Call::Sync];
    let batch: Vec<_> = (0..50).map(|n| (entry(n), Class::Normal)).collect();
    let answers: Vec<u64> = writer.append(&batch).into_iter().map(|a| a.unwrap().seq).collect();
    assert_eq!(answers, (1..=50).collect::<Vec<_>>());
    assert_eq!(disk.hold().calls[&Call::Sync], before + 1);
}

#[test]
fn what_was_answered_survives_any_power_cut() {
    let disk = MemDisk::new(PLENTY);
    let (mut writer, _) = open(&disk);
    let mut answered = 0;
    for n in 0..5 {
        answered = put(&mut writer, n, Class::Normal).unwrap().seq;
    }
    // A batch that is written and never synced.
    disk.hold().failing.insert(Call::Sync, 0);
    let batch: Vec<_> = (5..9).map(|n| (entry(n), Class::Normal)).collect();
    let error = io::Error::from_raw_os_error(5);
    let (file, kind, os) = (writer.segment.name.clone(), error.kind(), error.raw_os_error());
    let failed = Err(AuditError::Failed(Arc::new(Broken { file, call: "synced", kind, os })));
    assert!(writer.append(&batch).iter().all(|answer| *answer == failed));
    let end = usize::try_from(writer.segment.end).unwrap();

    // Cut at every 97th byte: nothing behind it, or a hole of 512 bytes there and all the rest.
    for cut in (end.saturating_sub(100)..end + 6000).step_by(97) {
        for hole in [false, true] {
            let after = disk.crashed(|at| at < cut || (hole && at >= cut + 512));
            let (mut writer, recovered) = open(&after);
            assert!(recovered.seq >= answered, "cut {cut}: record {answered} was answered, {} is left", recovered.seq);
            let torn: Vec<_> = read_from(&after, None)
                .unwrap()
                .map(Result::unwrap)
                .filter(|r| r.operation == "audit.recover")
                .collect();
            assert_eq!(torn.len(), usize::from(recovered.torn_bytes > 0));
            for record in torn {
                assert_eq!(record.seq, recovered.seq + 1);
                assert_eq!(record.details["torn_bytes"], recovered.torn_bytes.to_string());
                let aside = after.list().unwrap().into_iter().find(|n| n.starts_with("audit-torn-")).unwrap();
                assert_eq!(after.read(&aside).unwrap().len() as u64, recovered.torn_bytes);
            }
            put(&mut writer, 100, Class::Normal).unwrap();
            verify_from(&after, Expected::default()).unwrap();
        }
    }
}

#[test]
fn a_failed_write_or_sync_stops_the_log_for_good() {
    for (call, left) in [(Call::Write, 0), (Call::Write, 2), (Call::Sync, 0), (Call::Sync, 1)] {
        let disk = MemDisk::new(PLENTY);
        let (mut writer, _) = open(&disk);
        disk.hold().failing.insert(call, left);
        let mut n = 0;
        let error = loop {
            n += 1;
            if let Err(e) = put(&mut writer, n, Class::Normal) {
                break e;
            }
        };
        assert!(matches!(error, AuditError::Failed(_)), "{error:?}");
        assert_eq!(n, left + 1);
        // The disk says that all is well again; what was lost on the way is not known.
        disk.hold().failing.clear();
        let before = disk.hold().calls.clone();
        assert_eq!(put(&mut writer, n, Class::Normal), Err(error.clone()));
        assert_eq!(put(&mut writer, n, Class::Essential), Err(error));
        assert_eq!(disk.hold().calls, before, "a failed log touches nothing");
        assert!(matches!(writer.state().1, Status::Failed(_)));
        let (mut writer, recovered) = open(&disk.crashed(|_| false));
        assert_eq!(recovered.seq, left);
        put(&mut writer, 1, Class::Normal).unwrap();
    }
}

#[test]
fn a_batch_that_failed_is_not_written_again() {
    let disk = MemDisk::new(PLENTY);
    let (mut writer, _) = open(&disk);
    let before = disk.hold().calls[&Call::Write];
    disk.hold().failing.insert(Call::Sync, 0);
    // More than the segment holds: the first part fails before the batch is through.
    let batch: Vec<_> = (0..200).map(|n| (entry(n), Class::Normal)).collect();
    assert!(writer.append(&batch).iter().all(|a| matches!(a, Err(AuditError::Failed(_)))));
    assert_eq!(disk.hold().calls[&Call::Write], before + 1);
}

#[test]
fn what_is_found_at_opening_is_made_durable() {
    let disk = MemDisk::new(PLENTY);
    let (mut writer, _) = open(&disk);
    disk.hold().failing.insert(Call::Sync, 0);
    put(&mut writer, 1, Class::Normal).unwrap_err();
    disk.hold().failing.clear();
    // The process was killed, the machine was not: the record is there, and on no disk yet.
    let (writer, recovered) = open(&disk);
    assert_eq!((recovered, writer.state().0.seq), (Recovered { seq: 1, torn_bytes: 0 }, 1));
    assert_eq!(open(&disk.crashed(|_| false)).1.seq, 1);
}

#[test]
fn a_failed_turn_stops_the_log() {
    let next = |what| format!("the audit log failed: {what}: Input/output error (os error 5)");
    for (call, what) in
        [(Call::Allocate, "audit.next cannot be allocated"), (Call::Rename, "audit-00000002.jsonl cannot be named so")]
    {
        let disk = MemDisk::new(PLENTY);
        let (mut writer, _) = open(&disk);
        disk.hold().failing.insert(call, 0);
        let (written, error) = fill(&mut writer, Class::Essential);
        assert!(written > 50, "{written}");
        assert_eq!(error.to_string(), next(what));
        let after = disk.crashed(|_| false);
        assert_eq!(open(&after).1.seq, written);
    }
}

#[test]
fn the_answers_before_a_failure_in_the_same_batch_stand() {
    let disk = MemDisk::new(PLENTY);
    let (mut writer, _) = open(&disk);
    // The first part of the batch is synced because the segment ends; the rest fails.
    disk.hold().failing.insert(Call::Rename, 0);
    let batch: Vec<_> = (0..200).map(|n| (entry(n), Class::Normal)).collect();
    let answers = writer.append(&batch);
    let good = answers.iter().take_while(|a| a.is_ok()).count();
    assert!(good > 50 && good < 150);
    assert!(answers[good..].iter().all(|a| matches!(a, Err(AuditError::Failed(_)))));
    assert_eq!(seqs(&disk.crashed(|_| false)), (1..=good as u64).collect::<Vec<_>>());
}

#[test]
fn only_essential_records_use_the_reserve() {
    // Room for one segment and the reserve.
    let disk = MemDisk::new(2 * MIN_BYTES);
    let (mut writer, _) = open(&disk);
    assert_eq!(writer.state().1, Status::Ready { reserve: true });
    let (normal, error) = fill(&mut writer, Class::Normal);
    assert_eq!(error, AuditError::Full);
    assert_eq!(writer.state().1, Status::Full { reserve: true });
    for n in 0..10 {
        put(&mut writer, n, Class::Essential).unwrap();
        assert_eq!(
            put(&mut writer, n + 1, Class::Normal),
            Err(AuditError::Full),
            "the reserve has room, but not for this"
        );
    }
    assert_eq!(writer.state().1, Status::Full { reserve: false });

    // The same after a restart: a full disk keeps nobody from starting, and the reserve stays a reserve.
    drop(writer);
    let (mut writer, _) = open(&disk);
    assert_eq!(put(&mut writer, 20, Class::Normal), Err(AuditError::Full));
    put(&mut writer, 21, Class::Essential).unwrap();
    let (more, error) = fill(&mut writer, Class::Essential);
    assert_eq!(error, AuditError::Full);
    assert_eq!(verify_from(&disk, Expected::default()).unwrap().records, normal + 11 + more);

    // Room for the reserve alone: it comes back before any normal record gets through.
    disk.hold().capacity = 3 * MIN_BYTES;
    assert_eq!(put(&mut writer, 50_000, Class::Normal), Err(AuditError::Full));
    assert_eq!(writer.state().1, Status::Full { reserve: true });
    disk.hold().capacity = PLENTY;
    put(&mut writer, 50_001, Class::Normal).unwrap();
    assert_eq!(writer.state().1, Status::Ready { reserve: true });
    verify_from(&disk, Expected::default()).unwrap();
}

#[test]
fn a_flood_on_a_full_disk_does_not_try_to_allocate_each_time() {
    let disk = MemDisk::new(2 * MIN_BYTES);
    let (mut writer, _) = open(&disk);
    fill(&mut writer, Class::Normal);
    let before = disk.hold().calls[&Call::Allocate];
    let at = writer.full_since.unwrap();
    for late in 0..RETRY_MS {
        let entry =
            Entry::new(at + late, Kind::Request, RecordId::internal("flood", late), "x").resource(&"r".repeat(1000));
        assert_eq!(writer.append(&[(entry, Class::Normal)]), [Err(AuditError::Full)]);
    }
    assert_eq!(disk.hold().calls[&Call::Allocate], before);
    let entry =
        Entry::new(at + RETRY_MS, Kind::Request, RecordId::internal("flood", 0), "x").resource(&"r".repeat(1000));
    writer.append(&[(entry, Class::Normal)]);
    assert_eq!(disk.hold().calls[&Call::Allocate], before + 1);
}

#[test]
fn a_head_left_in_the_reserve_by_a_crash_does_not_show_through() {
    let disk = MemDisk::new(2 * MIN_BYTES);
    let (mut writer, _) = open(&disk);
    fill(&mut writer, Class::Normal);
    let mut stale = vec![0; usize::try_from(MIN_BYTES).unwrap()];
    stale[..HEAD_ROOM].fill(b'x');
    disk.hold().put(RESERVE, stale);
    put(&mut writer, 1, Class::Essential).unwrap();
    verify_from(&disk, Expected::default()).unwrap();
}

#[test]
fn damage_larger_than_a_crash_can_tear_is_not_trimmed() {
    let disk = MemDisk::new(PLENTY);
    let large = Config { segment_bytes: 4 << 20, ..config() };
    let (mut writer, _) = Writer::open(Box::new(disk.clone()), large.clone()).unwrap();
    let batch: Vec<_> = (0..1000).map(|n| (entry(n), Class::Normal)).collect();
    assert!(writer.append(&batch).iter().all(Result::is_ok));
    let name = segment_name(1);
    let mut bytes = disk.read(&name).unwrap();
    bytes[2000] ^= 1;
    disk.hold().put(&name, bytes.clone());
    let before = disk.list().unwrap();
    assert!(matches!(Writer::open(Box::new(disk.clone()), large), Err(OpenError::Corrupt(_))));
    assert_eq!((disk.read(&name).unwrap(), disk.list().unwrap()), (bytes, before), "it must be left as found");
}

#[test]
fn damage_that_was_trimmed_is_seen_by_whoever_knows_a_later_head() {
    let disk = MemDisk::new(PLENTY);
    let (mut writer, _) = open(&disk);
    let batch: Vec<_> = (0..9).map(|n| (entry(n), Class::Normal)).collect();
    let Durable { seq, hash } = writer.append(&batch).pop().unwrap().unwrap();
    let name = segment_name(1);
    let mut bytes = disk.read(&name).unwrap();
    bytes[4000] ^= 1;
    disk.hold().put(&name, bytes);
    let (mut writer, recovered) = open(&disk);
    assert!(recovered.torn_bytes > 0 && recovered.seq < 9);
    put(&mut writer, 1, Class::Normal).unwrap();
    let expected = Expected { head: Some(Head { seq, hash }), start: None };
    let error = verify_from(&disk, expected).unwrap_err();
    assert!(matches!(
        error,
        VerifyError::Corrupt(Corruption { what: What::EndsEarly { .. } | What::OtherHead { .. }, .. })
    ));
}

#[test]
fn another_member_and_bad_sizes_are_refused() {
    let disk = MemDisk::new(PLENTY);
    drop(open(&disk));
    let refused = |config| Writer::open(Box::new(disk.clone()), config).err().unwrap();
    assert!(
        matches!(refused(Config { member: "node-2".into(), ..config() }), OpenError::Foreign { member, .. } if member == "node-1")
    );
    assert!(matches!(refused(Config { cluster: "prod".into(), ..config() }), OpenError::Foreign { .. }));
    assert!(matches!(refused(Config { segment_bytes: MIN_BYTES - 1, ..config() }), OpenError::Config));
    assert!(matches!(refused(Config { reserve_bytes: 0, ..config() }), OpenError::Config));
    assert!(matches!(refused(Config { member: "a\nb".into(), ..config() }), OpenError::Config));
    assert!(matches!(refused(Config { member: String::new(), ..config() }), OpenError::Config));
    let error = Writer::open(Box::new(MemDisk::new(MIN_BYTES)), config()).err().unwrap();
    assert!(matches!(error, OpenError::Io(e) if e.kind() == ErrorKind::StorageFull), "no log without its reserve");
}

#[test]
fn the_largest_entry_fits_into_a_line() {
    let disk = MemDisk::new(PLENTY);
    let (mut writer, _) = open(&disk);
    // A quotation mark is the worst: its escape in JSON doubles it, and ours leaves it alone.
    let worst = "\"".repeat(5000);
    let keys: Vec<&'static str> = (0..40).map(|n| &*format!("{n:03}{}", "\"".repeat(100)).leak()).collect();
    let mut entry = Entry::new(u64::MAX, Kind::Outcome, RecordId::internal("x", u64::MAX), keys[0])
        .principal(&worst)
        .resource(&worst)
        .decision(Decision::Error, keys[1])
        .policies((0..40).map(|_| &worst))
        .index(u64::MAX)
        .term(u64::MAX);
    for key in &keys {
        entry = entry.detail(key, Detail::text(&worst));
    }
    writer.append(&[(entry, Class::Normal)]).remove(0).unwrap();
    let record = read_from(&disk, None).unwrap().next().unwrap().unwrap();
    assert_eq!(record.policies.len(), 33);
    assert_eq!(record.policies[32], "\\+8");
    assert_eq!(record.details["\\+"], "8");
}
