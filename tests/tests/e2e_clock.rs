//! Clocks that are wrong, on real processes: one member an hour ahead and another an hour behind at the same time; one whose clock stands
//! still, is ten years ahead, is not told, or is lied about. Secrets open, changes are endorsed and leases end on time, whoever leads;
//! a member whose clock races calls an election and says so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

use quorate_state::ids::MemberIndex;
use quorate_tests::audit::records;
use quorate_tests::database::login_with;
use quorate_tests::{Cluster, Options};
use std::time::{Duration, Instant};

const ELECTION: Duration = Duration::from_secs(20);
const CLOCK: &str = "QUORATE_TEST_CLOCK";
const FAILPOINTS: &str = "FAILPOINTS";
const AHEAD: Setting = (CLOCK, "3600000");
const BEHIND: Setting = (CLOCK, "-3600000");
const RIGHT: Setting = (CLOCK, "0");
const LIAR: Setting = (FAILPOINTS, "clock.lie=return(fail)");

/// A variable of a member's process.
type Setting = (&'static str, &'static str);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    let right = cluster.wait_leader(ELECTION).await.unwrap();
    let (ahead, behind) = (right % 3 + 1, (right + 1) % 3 + 1);
    let mut stored = 0;
    restart(&cluster, ahead, AHEAD, &mut stored).await;
    restart(&cluster, behind, BEHIND, &mut stored).await;
    alone_it_says_why(&cluster, ahead).await;
    for (leader, moved) in [(ahead, AHEAD), (behind, BEHIND)] {
        have_lead(&cluster, leader).await;
        println!("member {leader} leads, its clock is {} ms off", moved.1);
        all_goes_on(&cluster, &mut stored).await;
        leases_end(&cluster).await;
    }
    restart(&cluster, ahead, RIGHT, &mut stored).await;

    // With no other one beside it: two clocks that are ahead are as many as it takes to move cluster time.
    a_racing_clock_is_said_and_harms_nobody(&cluster, behind, &mut stored).await;
    for (what, setting) in [
        ("its clock stands still", (CLOCK, "0 0")),
        ("its clock is ten years ahead", (CLOCK, "315360000000")),
        ("it does not say what time it is", (FAILPOINTS, "clock.silent=return(fail)")),
        ("it lies about the time, now this way and now that way", LIAR),
    ] {
        println!("member {behind}: {what}");
        restart(&cluster, behind, setting, &mut stored).await;
        all_goes_on(&cluster, &mut stored).await;
    }
    have_lead(&cluster, behind).await;
    println!("member {behind} lies about the time, and leads");
    all_goes_on(&cluster, &mut stored).await;
    leases_end(&cluster).await;
}

async fn restart(cluster: &Cluster, member: MemberIndex, setting: Setting, stored: &mut u64) {
    let node = cluster.node(member).unwrap();
    node.terminate().await.unwrap();
    node.restart(&[setting]).unwrap();
    cluster.wait_leader(ELECTION).await.unwrap();
    let index = put(cluster, stored).await;
    // By its own word, which the others pass on: it may take nobody's certificate for valid.
    let missing = cluster.admin().unwrap().effective(index, ELECTION).await;
    assert_eq!(
        missing,
        Vec::<MemberIndex>::new(),
        "member {member}, with {setting:?}, has applied what the others have"
    );
}

/// Stops whoever else leads, and lets it go on under the next leader, until `wanted` leads.
async fn have_lead(cluster: &Cluster, wanted: MemberIndex) {
    for _ in 0..20 {
        let leader = cluster.wait_leader(ELECTION).await.unwrap();
        if leader == wanted {
            return;
        }
        let node = cluster.node(leader).unwrap();
        node.stop().unwrap();
        let next = cluster.wait_leader(ELECTION).await;
        node.cont().unwrap();
        next.unwrap();
    }
    panic!("member {wanted} does not come to lead");
}

/// Stores one more version; where it stands in the log.
async fn put(cluster: &Cluster, stored: &mut u64) -> u64 {
    *stored += 1;
    let demo = cluster.client("demo").unwrap();
    let put = demo.put("default", "app/demo/clock", &stored.to_be_bytes(), Some(*stored - 1)).await;
    let put = put.unwrap_or_else(|failure| panic!("changes are endorsed, version {stored}: {failure}"));
    assert_eq!(put.number, *stored, "what was stored before is there");
    put.index
}

/// A request that has minutes left is refused by the member that is an hour ahead, and by no other.
async fn alone_it_says_why(cluster: &Cluster, ahead: MemberIndex) {
    let signed = cluster.client("demo").unwrap();
    let signed = signed.sign(
        quorate_state::change::Change::DeleteSecret {
            namespace: "default".to_owned(),
            path: "app/demo/absent".to_owned(),
            numbers: Vec::new(),
        },
        None,
    );
    let through = cluster.through("demo", &[ahead]).unwrap().with_timeout(Duration::from_secs(2));
    let failure = through.submit(&signed).await.unwrap_err();
    assert_eq!(failure.code, "clock_ahead", "the member that is an hour ahead: {failure}");
    let failure = cluster.client("demo").unwrap().submit(&signed).await.unwrap_err();
    assert_eq!(failure.code, "not_found", "the cluster as a whole: {failure}");
}

/// Secrets open, changes are endorsed, and cluster time is what it is, with ticks alone too.
async fn all_goes_on(cluster: &Cluster, stored: &mut u64) {
    let demo = cluster.client("demo").unwrap();
    for _ in 0..6 {
        put(cluster, stored).await;
        let opened = demo.get("default", "app/demo/clock", None).await.unwrap();
        assert_eq!(opened.plaintext.expose(), stored.to_be_bytes(), "secrets open");
    }
    let right = |off: &mut Vec<String>, member: MemberIndex, time: u64| {
        let by = time.abs_diff(quorate_tests::now());
        if by >= 5_000 {
            off.push(format!("as member {member} reckons it, cluster time is {by} ms off"));
        }
    };
    let mut off = Vec::new();
    for member in 1..=3 {
        if let Some(status) = cluster.status(member).await.unwrap() {
            right(&mut off, member, status.cluster_time);
        }
    }
    assert!(off.len() <= 1, "no more than the faulty one is wrong: {off:?}");
}

async fn leases_end(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    let begin = Instant::now();
    let lease = demo.issue_lease("reader", Some(5_000)).await.unwrap();
    let session = login_with(&lease).await.unwrap();
    tokio::time::sleep(Duration::from_millis(3_500).saturating_sub(begin.elapsed())).await;
    let early = session.simple_query("SELECT 1").await;
    assert!(early.is_ok() || begin.elapsed() > Duration::from_secs(4), "it lives until its end: {early:?}");
    while session.simple_query("SELECT 1").await.is_ok() {
        assert!(
            begin.elapsed() < Duration::from_secs(5 + 7),
            "the session ends at most 7 s after its lease has expired"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("expiry after 5 s: the session ended after {:?}", begin.elapsed());
}

/// Its minute is twelve seconds long, so it thinks that time stands still. (Faster, and each pause between two looks were one in which it slept.)
async fn a_racing_clock_is_said_and_harms_nobody(cluster: &Cluster, member: MemberIndex, stored: &mut u64) {
    restart(cluster, member, (CLOCK, "0 5"), stored).await;
    let name = cluster.name(member).to_owned();
    let folder = cluster.audit_folders().find(|(writer, _)| *writer == name).unwrap().1.to_owned();
    let deadline = Instant::now() + Duration::from_secs(60);
    let said = loop {
        let said = records(&folder).unwrap().into_iter().find(|record| record.operation == "time.stalled");
        if let Some(said) = said {
            break said;
        }
        assert!(Instant::now() < deadline, "the alarm stands in the audit log of {name}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let term = said.term.expect("the alarm names the term");
    let deadline = Instant::now() + ELECTION;
    while cluster.status(member).await.unwrap().is_none_or(|status| status.term <= term) {
        assert!(Instant::now() < deadline, "an election follows the alarm of term {term}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    all_goes_on(cluster, stored).await;
}
