//! Every change to a log is found, and the bytes are those of the golden file.

use super::*;
use crate::record::{Decision, Entry, Kind, RecordId};
use crate::testing::MemDisk;
use crate::text::Detail;
use crate::writer::{Class, Config, MIN_BYTES, Writer};

/// A log of format 1, kept as it was written; a later version must still read it.
const GOLDEN: &str = include_str!("../../tests/golden/v1.jsonl");

fn golden_entries() -> Vec<(Entry, Class)> {
    let id = RecordId::request(&[0xa5; 16]);
    let request = Entry::new(1_700_000_000_000, Kind::Request, id.clone(), "secret.open")
        .principal("spiffe://example.org/pay\u{202e}ments")
        .resource("prod/db \"main\"\\\n");
    let decision = Entry::new(1_700_000_000_001, Kind::Decision, id.clone(), "secret.open")
        .principal("spiffe://example.org/payments")
        .resource("prod/db")
        .decision(Decision::Allow, "permitted")
        .policies(["payments-read", "hours"])
        .index(4096)
        .term(7)
        .detail("version", Detail::number(3))
        .detail("header", Detail::hash(&[0x11; 32]));
    let outcome = Entry::new(1_700_000_000_000, Kind::Outcome, id, "secret.open").decision(Decision::Error, "behind");
    let internal = Entry::new(1_700_000_000_002, Kind::Internal, RecordId::internal("expiry", 9), "lease.expire")
        .resource("lease/zürich")
        .decision(Decision::Deny, "expired")
        .index(4097)
        .detail("lease", Detail::id(&[0x22; 16]));
    vec![(request, Class::Normal), (decision, Class::Normal), (outcome, Class::Normal), (internal, Class::Essential)]
}

fn config() -> Config {
    Config { segment_bytes: MIN_BYTES, reserve_bytes: MIN_BYTES, ..Config::new("node-1", "test", 1_000) }
}

fn golden_disk() -> MemDisk {
    let disk = MemDisk::new(1 << 30);
    let (mut writer, _) = Writer::open(Box::new(disk.clone()), config()).unwrap();
    assert!(writer.append(&golden_entries()).iter().all(Result::is_ok));
    disk
}

/// Segments, without the zeros at their ends.
fn disk_of(segments: &[Vec<u8>]) -> MemDisk {
    let disk = MemDisk::new(1 << 30);
    for (at, bytes) in segments.iter().enumerate() {
        disk.hold().put(&segment_name(at as u64 + 1), bytes.clone());
    }
    disk
}

/// Three segments of some records each, and the head.
fn three() -> (Vec<Vec<u8>>, Head) {
    let disk = MemDisk::new(1 << 30);
    let (mut writer, _) = Writer::open(Box::new(disk.clone()), config()).unwrap();
    for n in 0..250 {
        let entry = Entry::new(n, Kind::Request, RecordId::internal("n", n), "x").resource(&"r".repeat(1000));
        writer.append(&[(entry, Class::Normal)]).remove(0).unwrap();
    }
    let segments: Vec<_> = (1..=3)
        .map(|number| {
            let mut bytes = disk.read(&segment_name(number)).unwrap();
            bytes.truncate(bytes.iter().rposition(|b| *b != 0).unwrap() + 1);
            bytes
        })
        .collect();
    (segments, writer.state().0)
}

fn what(disk: &MemDisk, expected: Expected) -> What {
    match verify_from(disk, expected) {
        Err(VerifyError::Corrupt(corruption)) => corruption.what,
        other => panic!("{other:?}"),
    }
}

#[test]
fn golden_file() {
    let bytes = golden_disk().read(&segment_name(1)).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.trim_end_matches('\0'), GOLDEN);
    let records: Vec<_> = read_from(&disk_of(&[GOLDEN.into()]), None).unwrap().map(Result::unwrap).collect();
    assert_eq!(records.len(), 4);
    assert_eq!(records[0].resource, "prod/db \"main\"\\\\\\u{a}");
    assert_eq!(records[1].policies, ["payments-read", "hours"]);
    assert_eq!(records[3].details["lease"], "22".repeat(16));
}

#[test]
fn any_changed_byte_is_found() {
    let found = |good: &[u8], at: usize| {
        for change in [0x01, 0x20, 0x80, 0xff, good[at]] {
            let mut bytes = good.to_vec();
            bytes[at] ^= change;
            assert!(
                bytes == good || verify_from(&disk_of(&[bytes]), Expected::default()).is_err(),
                "byte {at} changed by {change:#x}"
            );
        }
    };
    let whole = golden_disk().read(&segment_name(1)).unwrap();
    // All of the content and some zeros behind it; then samples of the other zeros.
    let short = &whole[..GOLDEN.len() + 64];
    (0..short.len()).for_each(|at| found(short, at));
    (short.len()..whole.len()).step_by(4999).chain([whole.len() - 1]).for_each(|at| found(&whole, at));
}

#[test]
fn removed_swapped_and_repeated_lines_are_found() {
    let lines: Vec<&str> = GOLDEN.split_inclusive('\n').collect();
    let found = |lines: Vec<&str>| what(&disk_of(&[lines.concat().into_bytes()]), Expected::default());
    let [h, a, b, c, d] = lines[..] else { panic!() };
    assert_eq!(found(vec![h, a, c, d]), What::WrongSeq { expected: 2, found: 3 });
    assert_eq!(found(vec![h, b, a, c, d]), What::WrongSeq { expected: 1, found: 2 });
    assert_eq!(found(vec![h, a, a, b, c, d]), What::WrongSeq { expected: 2, found: 1 });
    assert_eq!(found(vec![a, b, c, d]), What::NotALine);
    assert_eq!(found(vec![h, a, h, b, c, d]), What::NotALine);
    let other = b.replace("payments-read", "payments-root");
    assert_eq!(found(vec![h, a, &other, c, d]), What::WrongHash);
}

#[test]
fn a_line_with_its_own_right_hash_must_still_fit() {
    let mut lines: Vec<String> = GOLDEN.split_inclusive('\n').map(str::to_owned).collect();
    let (mut record, _) = crate::encoding::open::<Record>(lines[2].trim_end().as_bytes()).unwrap();
    let found = |record: &Record, lines: &mut Vec<String>| {
        lines[2] = String::from_utf8(crate::encoding::close(record).unwrap().0).unwrap();
        what(&disk_of(&[lines.concat().into_bytes()]), Expected::default())
    };
    record.reason = Some("other".to_owned());
    assert_eq!(found(&record, &mut lines), What::BrokenChain);
    record.member = "node-2".to_owned();
    assert_eq!(found(&record, &mut lines), What::Foreign);
    record.v = 2;
    assert_eq!(found(&record, &mut lines), What::UnknownFormat(2));
}

#[test]
fn one_record_has_one_encoding() {
    // The hash covers the bytes; another spelling of the same record is refused even with the right hash for it.
    let line = GOLDEN.lines().nth(1).unwrap();
    let spaced = line.replacen("\"seq\":1", "\"seq\": 1", 1);
    let body = format!("{}}}", &spaced[..spaced.len() - 75]);
    let hash = hex::encode(quorate_crypto::encoding::hash32("audit-record", &[body.as_bytes()]));
    let rehashed = format!("{},\"hash\":\"{hash}\"}}", &spaced[..spaced.len() - 75]);
    assert_eq!(crate::encoding::open::<Record>(rehashed.as_bytes()).unwrap_err(), What::NotALine);
    assert_eq!(crate::encoding::open::<Record>(line.as_bytes()).unwrap().0.seq, 1);
}

#[test]
fn a_cut_tail_is_found_with_a_head_and_named_without() {
    let (segments, head) = three();
    let whole = Expected { head: Some(head), start: None };
    assert_eq!(verify_from(&disk_of(&segments), whole).unwrap().head, head);
    // Earlier heads are fine too, wherever they were taken.
    for record in read_from(&disk_of(&segments), None).unwrap() {
        let Record { seq, hash, .. } = record.unwrap();
        let earlier = Expected { head: Some(Head { seq, hash }), start: None };
        assert_eq!(verify_from(&disk_of(&segments), earlier).unwrap().head, head);
    }

    let last = &segments[2];
    let cut = last[..last.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let cut = disk_of(&[segments[0].clone(), segments[1].clone(), last[..cut].to_vec()]);
    let summary = verify_from(&cut, Expected::default()).unwrap();
    assert_eq!(summary.head.seq, head.seq - 1, "without a head it is only told where the log ends");
    assert_eq!(what(&cut, whole), What::EndsEarly { seq: head.seq - 1 });

    let other = Expected { head: Some(Head { seq: 3, hash: head.hash }), start: None };
    assert_eq!(what(&disk_of(&segments), other), What::OtherHead { seq: 3 });
    let torn = disk_of(&[segments[0].clone(), segments[1].clone(), last[..last.len() - 5].to_vec()]);
    assert!(matches!(what(&torn, Expected::default()), What::TornTail { .. }));
}

#[test]
fn missing_cut_and_swapped_segments_are_found() {
    let (segments, head) = three();
    let [a, b, c] = &segments[..] else { panic!() };

    let disk = disk_of(&segments);
    disk.hold().remove(&segment_name(2));
    assert_eq!(what(&disk, Expected::default()), What::WrongSegment { expected: 2, found: 3 });
    disk.hold().remove(&segment_name(1));
    assert_eq!(what(&disk, Expected::default()), What::WrongSegment { expected: 1, found: 3 });
    let swapped = disk_of(&[a.clone(), c.clone(), b.clone()]);
    assert_eq!(what(&swapped, Expected::default()), What::WrongSegment { expected: 2, found: 3 });

    let cut = b[..b.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    let cut = disk_of(&[a.clone(), b[..cut].to_vec(), c.clone()]);
    assert!(matches!(what(&cut, Expected::default()), What::WrongSeq { .. }));

    // An archive: the rest stands alone if it is known where the archived part ended.
    let archived = verify_from(&disk_of(std::slice::from_ref(a)), Expected::default()).unwrap().head;
    let disk = disk_of(&segments);
    disk.hold().remove(&segment_name(1));
    let summary = verify_from(&disk, Expected { head: Some(head), start: Some(archived) }).unwrap();
    assert_eq!((summary.segments, summary.first_seq), (2, Some(archived.seq + 1)));
    let wrong = Head { seq: archived.seq, hash: head.hash };
    assert_eq!(what(&disk, Expected { head: None, start: Some(wrong) }), What::BrokenChain);
}

#[test]
fn another_log_cannot_take_a_segments_place() {
    let (segments, _) = three();
    let disk = MemDisk::new(1 << 30);
    let config = Config { member: "node-2".to_owned(), ..config() };
    let (mut writer, _) = Writer::open(Box::new(disk.clone()), config).unwrap();
    for n in 0..250 {
        let entry = Entry::new(n, Kind::Request, RecordId::internal("n", n), "x").resource(&"r".repeat(1000));
        writer.append(&[(entry, Class::Normal)]).remove(0).unwrap();
    }
    let foreign = disk.read(&segment_name(2)).unwrap();
    assert_eq!(
        what(&disk_of(&[segments[0].clone(), foreign, segments[2].clone()]), Expected::default()),
        What::Foreign
    );
}

#[test]
fn an_empty_directory_is_not_a_good_log() {
    assert!(matches!(verify_from(&MemDisk::new(0), Expected::default()), Err(VerifyError::Empty)));
    assert_eq!(what(&disk_of(&[vec![0; 4096]]), Expected::default()), What::NotALine);
}
