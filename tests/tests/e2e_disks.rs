//! Real disks that run full, and real power cuts: XFS on loop devices. Takes root, and fails without it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they measured"
)]

use quorate_api::status::Failure;
use quorate_state::ids::MemberIndex;
use quorate_tests::database::{login_with, seen};
use quorate_tests::disk::Disk;
use quorate_tests::{Cluster, Ledger, Options, audit};
use std::fmt::Write as _;
use std::future::Future;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "default";
/// How long an election, or the return of a node, may take on a busy machine.
const RETURN: Duration = Duration::from_secs(30);
/// How long a revocation may take, with elections and pauses of the driver in it.
const ENDED: Duration = Duration::from_secs(30);
/// How long a state of a disk may take to be noticed.
const NOTICED: Duration = Duration::from_secs(10);

/// `[storage]` and `[audit]` of the members here.
const ALARM: u64 = 300 << 20;
const REFUSE: u64 = 200 << 20;
const RESERVE: u64 = 32 << 20;
const SEGMENT: u64 = 128 << 10;

/// The disk of member 1, that of members 2 and 3, and that of all audit logs. After the cluster: they are unmounted last.
struct Disks {
    one: Disk,
    others: Disk,
    audit: Disk,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn disks() {
    let mut disks = Disks { one: Disk::new().unwrap(), others: Disk::new().unwrap(), audit: Disk::new().unwrap() };
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    move_in(&cluster, &disks).await;
    a_full_data_disk(&cluster, &disks).await;
    full_audit_disks(&cluster, &disks).await;
    a_dead_audit_disk(&cluster, &mut disks).await;
    let ledger = Ledger::default();
    a_power_cut_of_one(&cluster, &mut disks, &ledger).await;
    a_power_cut_of_all(&cluster, &mut disks, &ledger).await;
    acknowledging_before_the_sync_is_found_out(&cluster, &mut disks).await;
}

async fn move_in(cluster: &Cluster, disks: &Disks) {
    for member in [1, 2, 3] {
        cluster.node(member).unwrap().terminate().await.unwrap();
        let (name, data) = (cluster.name(member), cluster.data_folder(member).unwrap());
        let mut config = std::fs::read_to_string(data.join("node.toml")).unwrap();
        write!(
            config,
            "\n[storage]\nalarm_free_bytes = {ALARM}\nrefuse_free_bytes = {REFUSE}\nreserve_bytes = {RESERVE}\n\
             \n[audit]\nsegment_bytes = {SEGMENT}\nreserve_bytes = {SEGMENT}\n"
        )
        .unwrap();
        std::fs::write(data.join("node.toml"), config).unwrap();
        // A log of its own that begins here: the one that is there has segments of megabytes left.
        std::fs::remove_dir_all(data.join("audit")).unwrap();
        std::fs::create_dir(data.join("audit")).unwrap();
        disks.audit.adopt(&data.join("audit"), name).unwrap();
        if member == 1 { &disks.one } else { &disks.others }.adopt(&data, name).unwrap();
    }
    start(cluster, &[1, 2, 3], &[]).await;
}

async fn start(cluster: &Cluster, members: &[MemberIndex], environment: &[(&str, &str)]) {
    for member in members {
        cluster.node(*member).unwrap().restart(environment).unwrap();
    }
    cluster.wait_leader(RETURN).await.unwrap();
    for member in members {
        let up = cluster.wait_applied(*member, 1, RETURN).await;
        up.unwrap_or_else(|why| panic!("node {member} comes up: {why}\n{}", cluster.node(*member).unwrap().log()));
    }
}

/// Waits for something to come true.
async fn until<F: Future<Output = bool>>(what: &str, limit: Duration, mut is: impl FnMut() -> F) -> Duration {
    let begin = Instant::now();
    while !is().await {
        assert!(begin.elapsed() < limit, "not in {limit:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    begin.elapsed()
}

/// Waits until every member calls its disk `disk`.
async fn disk_is(cluster: &Cluster, disk: &str) -> Duration {
    until(&format!("every member calls its disk {disk}"), NOTICED, || async {
        for member in [1, 2, 3] {
            let status = cluster.status(member).await.unwrap();
            if status.is_none_or(|status| status.disk != disk) {
                return false;
            }
        }
        true
    })
    .await
}

fn refused<T>(what: &str, expected: &str, result: Result<T, Failure>) {
    match result {
        Ok(_) => panic!("{what}: expected {expected}, and it went through"),
        Err(failure) => assert_eq!(failure.code, expected, "{what}: expected {expected}, got: {failure}"),
    }
}

async fn a_full_data_disk(cluster: &Cluster, disks: &Disks) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let demo = demo.with_timeout(Duration::from_secs(6));
    let fill = |free| [&disks.one, &disks.others].map(|disk| disk.fill(free).unwrap());
    disk_is(cluster, "ample").await;
    let reserve = |member| cluster.data_folder(member).unwrap().join("disk.reserve");
    assert!([1, 2, 3].iter().all(|m| reserve(*m).exists()), "every member keeps a reserve");

    fill((ALARM + REFUSE) / 2);
    let alarm = disk_is(cluster, "low").await;
    demo.put(NAMESPACE, "app/demo/low", b"an alarm stops nothing", None).await.unwrap();
    let shown = cluster.cli("admin", &["status"], b"").unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("ALARM n1: its data disk is low"), "`quorate status` shows the alarm:\n{shown}");
    let log = cluster.node(2).unwrap().log();
    assert!(log.contains("runs full: make room"), "the alarm is in the member's log");
    let asked_for = demo.issue_lease("reader", Some(600_000)).await.unwrap();
    let squeezed = demo.issue_lease("reader", Some(600_000)).await.unwrap();
    let expiring = demo.issue_lease("reader", Some(8_000)).await.unwrap();

    fill(REFUSE - (20 << 20));
    let full = disk_is(cluster, "full").await;
    refused("a value", "storage_full", demo.put(NAMESPACE, "app/demo/full", b"no", None).await);
    refused("a lease", "storage_full", demo.issue_lease("reader", None).await);
    let low = demo.get(NAMESPACE, "app/demo/low", None).await.unwrap_or_else(|why| panic!("opening goes on: {why}"));
    assert_eq!(low.plaintext.expose(), b"an alarm stops nothing");
    demo.revoke(asked_for.lease).await.unwrap_or_else(|why| panic!("revoking goes on: {why}"));
    demo.wait_revoked(asked_for.lease, ENDED).await.unwrap_or_else(|why| panic!("revocation goes on: {why}"));
    demo.wait_revoked(expiring.lease, ENDED).await.unwrap_or_else(|why| panic!("expiry goes on: {why}"));

    // Somebody else takes all that is left.
    fill(1 << 20);
    // Two share a disk: what one of them gives back is enough for both.
    let given = until("the reserve is given back", NOTICED, || async {
        !(reserve(1).exists() || reserve(2).exists() && reserve(3).exists())
    })
    .await;
    demo.revoke(squeezed.lease).await.unwrap_or_else(|why| panic!("revoking goes on from the reserve: {why}"));
    demo.wait_revoked(squeezed.lease, ENDED).await.unwrap_or_else(|why| panic!("revocation from the reserve: {why}"));
    assert_eq!(seen(&superuser, &squeezed.username).await.unwrap(), (false, 0), "its login is gone at the database");

    let pids = [1, 2, 3].map(|member| cluster.node(member).unwrap().pid());
    disks.one.relieve().unwrap();
    disks.others.relieve().unwrap();
    let ample = disk_is(cluster, "ample").await;
    demo.put(NAMESPACE, "app/demo/full", b"again", None).await.unwrap();
    until("the reserve is back", NOTICED, || async { [1, 2, 3].iter().all(|m| reserve(*m).exists()) }).await;
    let alive = [1, 2, 3].map(|member| cluster.node(member).unwrap()).iter().all(|node| node.alive());
    assert!(alive && pids == [1, 2, 3].map(|m| cluster.node(m).unwrap().pid()), "nobody had to be started again");
    println!(
        "data disk: alarm after {alarm:.1?}, full after {full:.1?}, reserve given back after {given:.1?}, ample {ample:.1?} after there was room"
    );
}

/// Refused by every member for want of a record.
fn unrecorded<T>(what: &str, result: Result<T, Failure>) {
    let Err(failure) = result else { panic!("{what}: expected that no member records it, and it went through") };
    let said = matches!(failure.code, "audit_unavailable" | "not_enough_members" | "deadline");
    assert!(
        said && failure.message.contains("the audit log is full"),
        "{what}: no member can record it, got: {failure}"
    );
}

async fn full_audit_disks(cluster: &Cluster, disks: &Disks) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let demo = demo.with_timeout(Duration::from_secs(4));
    demo.put(NAMESPACE, "app/demo/audited", b"with a record", None).await.unwrap();
    let asked_for = demo.issue_lease("reader", Some(600_000)).await.unwrap();
    let session = login_with(&asked_for).await.unwrap();
    let expiring = demo.issue_lease("reader", Some(20_000)).await.unwrap();
    disks.audit.fill(SEGMENT / 2).unwrap();
    // What is preallocated is used up first.
    let mut answered = 0;
    let begin = Instant::now();
    let why = loop {
        match demo.get(NAMESPACE, "app/demo/audited", None).await {
            Ok(_) => answered += 1,
            Err(why) => break why,
        }
        assert!(begin.elapsed() < RETURN, "the audit logs are not full after {answered} requests");
    };
    assert!(matches!(why.code, "audit_unavailable" | "not_enough_members"), "when there is no room for records: {why}");
    // Nothing is answered without a record: not by all together, not by any one of them.
    until("no member answers without a record", NOTICED, || async {
        let mut refusals = 0;
        for member in [1, 2, 3] {
            let status = cluster.through("admin", &[member]).unwrap().status().await;
            refusals +=
                usize::from(status.iter().all(|(_, said)| said.as_ref().is_err_and(|f| f.code == "audit_unavailable")));
        }
        refusals == 3
    })
    .await;
    unrecorded("opening", demo.get(NAMESPACE, "app/demo/audited", None).await);
    unrecorded("writing", demo.put(NAMESPACE, "app/demo/unaudited", b"no", None).await);
    unrecorded("issuing", demo.issue_lease("reader", None).await);

    // Taking away goes on, from the reserve: the database tells.
    let gone = |login: String| {
        let superuser = &superuser;
        async move { seen(superuser, &login).await.unwrap() == (false, 0) }
    };
    cluster
        .client("demo")
        .unwrap()
        .revoke(asked_for.lease)
        .await
        .unwrap_or_else(|why| panic!("revoking goes on: {why}"));
    let revoked = until("a lease that is revoked ends", ENDED, || gone(asked_for.username.clone())).await;
    assert!(session.simple_query("SELECT 1").await.is_err(), "its session is ended");
    let expired = until("a lease expires", ENDED, || gone(expiring.username.clone())).await;
    let mut from_reserve = 0;
    for (_, folder) in cluster.audit_folders().filter(|(name, _)| *name != "custodian") {
        let some = audit::records(folder).unwrap().into_iter().rev().take(200);
        from_reserve += some.filter(|record| record.operation == "lease.end").count();
    }
    assert!(from_reserve >= 2, "the ends of both leases were recorded before they were made: {from_reserve}");

    disks.audit.relieve().unwrap();
    let back = until("requests are answered again", RETURN, || async {
        demo.get(NAMESPACE, "app/demo/audited", None).await.is_ok()
    })
    .await;
    demo.put(NAMESPACE, "app/demo/audited", b"again", None).await.unwrap();
    refused("what was refused was not done", "not_found", demo.get(NAMESPACE, "app/demo/unaudited", None).await);
    for (name, folder) in cluster.audit_folders() {
        audit::records(folder).unwrap_or_else(|why| panic!("the log of {name} is whole: {why:#}"));
    }
    println!(
        "audit disk: {answered} answered before it was full, revoked {revoked:.1?}, expired {expired:.1?}, back {back:.1?} after there was room"
    );
}

/// The log beside it is sound: a node that can record nothing ends all the same, and says which disk it was.
async fn a_dead_audit_disk(cluster: &Cluster, disks: &mut Disks) {
    disks.audit.cut_power().unwrap();
    for member in [1, 2, 3] {
        // Whatever it is asked has to be recorded.
        let _ = cluster.status(member).await.unwrap();
        let node = cluster.node(member).unwrap();
        let ended = node.wait_exit(RETURN).await.unwrap();
        let said = node.log();
        assert_eq!(ended, Some(74), "a dead audit disk ends the node with 74; it said:\n{said}");
        let end = said.lines().find(|line| line.starts_with("error[device_failed]: the audit log failed: "));
        let named = end
            .is_some_and(|end| end.contains(&format!("/{}/", cluster.name(member))) && end.contains("/audit/audit-"));
        assert!(named, "the node names device_failed and the file; it said:\n{said}");
        assert!(said.contains("hint: look at the disk"), "and what to do:\n{said}");
    }
    disks.audit.power_up().unwrap();
    start(cluster, &[1, 2, 3], &[]).await;
    cluster.client("demo").unwrap().put(NAMESPACE, "app/demo/audited", b"once more", None).await.unwrap();
}

async fn a_power_cut_of_one(cluster: &Cluster, disks: &mut Disks, ledger: &Ledger) {
    let writers = ledger.write(cluster, 4).unwrap();
    ledger.wait_for(20).await.unwrap();
    let node = cluster.node(1).unwrap();
    disks.one.cut_power().unwrap();
    // What it cannot sync it does not acknowledge, and it does not go on as if.
    let ended = node.wait_exit(RETURN).await.unwrap();
    let said = node.log();
    assert_eq!(ended, Some(74), "a device that fails ends the node with 74; it said:\n{said}");
    assert!(said.contains("error[device_failed]"), "the node names device_failed; it said:\n{said}");
    ledger.wait_for(20).await.unwrap_or_else(|why| panic!("the others go on: {why}"));
    disks.one.power_up().unwrap();
    start(cluster, &[1], &[]).await;
    ledger.wait_for(10).await.unwrap();
    ledger.finish(writers).await.unwrap();
    let lost = ledger.lost(cluster).await.unwrap();
    assert!(lost.is_empty(), "of {} acknowledged writes these are lost: {lost:?}", ledger.len());
}

/// The power of all disks, under load; then the nodes, which may not have noticed.
async fn cut_all(cluster: &Cluster, disks: &mut Disks) {
    disks.one.cut_power().unwrap();
    disks.others.cut_power().unwrap();
    for member in [1, 2, 3] {
        let node = cluster.node(member).unwrap();
        if node.wait_gone(Duration::from_secs(5)).await.is_err() {
            // One that has nothing to write does not notice.
            node.kill().await.unwrap();
        }
    }
    disks.one.power_up().unwrap();
    disks.others.power_up().unwrap();
}

async fn a_power_cut_of_all(cluster: &Cluster, disks: &mut Disks, ledger: &Ledger) {
    for round in 1..=2 {
        let writers = ledger.write(cluster, 4).unwrap();
        ledger.wait_for(30).await.unwrap();
        cut_all(cluster, disks).await;
        ledger.finish(writers).await.unwrap();
        start(cluster, &[1, 2, 3], &[]).await;
        let lost = ledger.lost(cluster).await.unwrap();
        assert!(lost.is_empty(), "round {round}: of {} acknowledged writes these are lost: {lost:?}", ledger.len());
    }
    assert!(ledger.len() >= 100, "{} acknowledged writes are too few to say anything", ledger.len());
    println!("power cuts: one of one node, two of all; {} acknowledged writes, none lost", ledger.len());
}

/// The same question to nodes that acknowledge before they sync: it finds what is missing, or the nodes do.
async fn acknowledging_before_the_sync_is_found_out(cluster: &Cluster, disks: &mut Disks) {
    for member in [1, 2, 3] {
        cluster.node(member).unwrap().terminate().await.unwrap();
    }
    start(cluster, &[1, 2, 3], &[("FAILPOINTS", "storage.sync.skip=return(skip)")]).await;
    let ledger = Ledger::default();
    let writers = ledger.write(cluster, 4).unwrap();
    ledger.wait_for(30).await.unwrap();
    cut_all(cluster, disks).await;
    ledger.finish(writers).await.unwrap();
    let mut out = 0;
    for member in [1, 2, 3] {
        let node = cluster.node(member).unwrap();
        node.restart(&[]).unwrap();
        out += usize::from(node.wait_exit(Duration::from_secs(3)).await.is_ok_and(|exit| exit == Some(65)));
    }
    let lost = if out > 1 { Vec::new() } else { ledger.lost(cluster).await.unwrap() };
    assert!(
        out > 1 || !lost.is_empty(),
        "{} writes were acknowledged without a sync, the power was cut, and neither is one missing nor does a majority stay out",
        ledger.len()
    );
    println!(
        "planted bug: of {} acknowledged writes {} are lost, {out} members found their logs damaged",
        ledger.len(),
        lost.len()
    );
}
