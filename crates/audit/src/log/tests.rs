//! Order, batches and bounds with many callers.

use super::*;
use crate::record::{Kind, RecordId};
use crate::testing::{Call, MemDisk};
use crate::verify::{Expected, read_from, verify_from};
use crate::writer::MIN_BYTES;
use std::time::Duration;

fn open(disk: &MemDisk) -> AuditLog {
    let config = Config { segment_bytes: MIN_BYTES, reserve_bytes: MIN_BYTES, ..Config::new("node-1", "test", 0) };
    AuditLog::open_on(Box::new(disk.clone()), config).unwrap().0
}

fn entry(caller: u64, n: u64) -> Entry {
    Entry::new(n, Kind::Request, RecordId::internal("test", n), "x").resource(&format!("caller-{caller}"))
}

#[test]
fn callers_share_syncs_and_each_keeps_its_order() {
    const CALLERS: u64 = 64;
    const EACH: u64 = 20;
    let disk = MemDisk::new(1 << 30);
    disk.hold().sync_time = Duration::from_millis(1);
    let log = open(&disk);
    thread::scope(|scope| {
        for caller in 0..CALLERS {
            let log = &log;
            scope.spawn(move || {
                let mut last = 0;
                for n in 0..EACH {
                    let durable = log.append(entry(caller, n), Class::Normal).wait().unwrap();
                    assert!(durable.seq > last);
                    assert!(log.head().seq >= durable.seq, "the head is there before the receipt");
                    last = durable.seq;
                }
            });
        }
    });
    let head = log.head();
    drop(log);
    let summary = verify_from(&disk, Expected { head: Some(head), start: None }).unwrap();
    assert_eq!(summary.records, CALLERS * EACH);
    let mut next = [0; CALLERS as usize];
    for record in read_from(&disk, None).unwrap() {
        let record = record.unwrap();
        let caller: usize = record.resource.strip_prefix("caller-").unwrap().parse().unwrap();
        assert_eq!(record.id, format!("test-{}", next[caller]));
        next[caller] += 1;
    }
    let syncs = disk.hold().calls[&Call::Sync];
    assert!(syncs < CALLERS * EACH / 2, "{syncs} syncs for {} records", CALLERS * EACH);
}

#[test]
fn no_receipt_before_the_sync() {
    let disk = MemDisk::new(1 << 30);
    let log = open(&disk);
    let stalled = disk.hold();
    let mut receipt = log.append(entry(0, 0), Class::Normal);
    thread::sleep(Duration::from_millis(50));
    let waker = Waker::noop();
    assert!(Pin::new(&mut receipt).poll(&mut Context::from_waker(waker)).is_pending());
    drop(stalled);
    assert_eq!(receipt.wait().unwrap().seq, 1);
}

#[test]
fn a_flood_leaves_the_essential_share_of_the_queue() {
    let disk = MemDisk::new(1 << 30);
    let log = open(&disk);
    let stalled = disk.hold();
    let mut waiting = Vec::new();
    // One batch may already be with the writer, so the queue takes up to twice its bound.
    let refused = (0..2 * NORMAL_QUEUE as u64 + 1).find_map(|n| {
        let mut receipt = log.append(entry(0, n), Class::Normal);
        match Pin::new(&mut receipt).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => {
                waiting.push(receipt);
                None
            }
        }
    });
    assert_eq!(refused, Some(Err(AuditError::Busy)));
    // The same for what is essential: the writer may take one batch of it, too, before it stalls.
    let mut taken = 0;
    let refused = (0..2 * ESSENTIAL_QUEUE as u64 + 1).find_map(|n| {
        let mut receipt = log.append(entry(1, n), Class::Essential);
        match Pin::new(&mut receipt).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Some(answer),
            Poll::Pending => {
                taken += 1;
                waiting.push(receipt);
                None
            }
        }
    });
    assert_eq!(refused, Some(Err(AuditError::Busy)));
    assert!(taken >= ESSENTIAL_QUEUE, "the flood took from the essential share: {taken}");
    drop(stalled);
    for receipt in waiting {
        receipt.wait().unwrap();
    }
    log.append(entry(0, 0), Class::Normal).wait().unwrap();
}

#[test]
fn a_failed_disk_answers_at_once_and_for_good() {
    let disk = MemDisk::new(1 << 30);
    let log = open(&disk);
    log.append(entry(0, 0), Class::Normal).wait().unwrap();
    disk.hold().failing.insert(Call::Sync, 0);
    let error = log.append(entry(0, 1), Class::Normal).wait().unwrap_err();
    assert!(matches!(error, AuditError::Failed(_)));
    disk.hold().failing.clear();
    assert_eq!(log.append(entry(0, 2), Class::Essential).wait(), Err(error));
    assert!(matches!(log.status(), Status::Failed(_)));
    assert_eq!(log.head().seq, 1);
}

#[test]
fn closing_writes_what_waits() {
    let disk = MemDisk::new(1 << 30);
    let log = open(&disk);
    let receipts: Vec<_> = (0..100).map(|n| log.append(entry(0, n), Class::Normal)).collect();
    drop(log);
    for (n, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.wait().unwrap().seq, n as u64 + 1);
    }
    assert_eq!(verify_from(&disk, Expected::default()).unwrap().records, 100);
}
