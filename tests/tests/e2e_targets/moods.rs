//! A leader that is lost while leases live at every kind of target; then targets of every kind that are dead, slow and lying, side by side, beside
//! one that is well. What is broken keeps its own leases, of which none is called ended, and delays nobody else's; when it is well again they
//! end, and are seen to have ended.

use crate::places::{BESIDE, Place};
use quorate_api::client::Credential;
use quorate_engines::conformance::Login;
use quorate_tests::database::login_with;
use quorate_tests::proxy::{Mood, Proxy};
use quorate_tests::{Cluster, Options};
use std::time::{Duration, Instant};

/// How long an election may take, and an end with the longest pause of a lane in it, and what Kubernetes and AWS take to tell all servers.
const ENDED: Duration = Duration::from_secs(90);
/// How long the vault may take to ask one that lies once more.
const ASKED: Duration = Duration::from_secs(40);
/// Longer than a connection may take, and all answers of an end together take longer than that of a target that is well.
const SLOW: Mood = Mood::Slow(Duration::from_secs(8));
/// No protocol begins so.
const GARBAGE: &[u8] = &[0xff; 300];
/// What a web server says that is somebody else's.
const NOT_FOUND: &[u8] = b"HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\ncontent-length: 9\r\n\r\nnot found";
/// That all is well, in the protocol of the target and whatever was asked; and the beginning of an answer that never ends.
const HTTP: [&[u8]; 2] = [
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n\r\n",
];

/// What a liar says, one after the other.
fn lies(kind: &str) -> Vec<Mood> {
    let [well, endless]: [&[u8]; 2] = match kind {
        // Let in, and one row was selected; a row of 2 GB.
        "postgresql" => [b"R\0\0\0\x08\0\0\0\0C\0\0\0\x0dSELECT 1\0Z\0\0\0\x05I", b"D\x7f\xff\xff\xff"],
        // A packet OK; one of 16 MB, of many.
        "mariadb" => [b"\x07\0\0\x02\0\0\0\x02\0\0\0", b"\xff\xff\xff\x01"],
        "redis" => [b"+OK\r\n", b"$2147483647\r\n"],
        _ => HTTP,
    };
    vec![Mood::Says(GARBAGE), Mood::Says(well), Mood::Says(NOT_FOUND), Mood::Floods(endless)]
}

/// How a target is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Broken {
    /// Nobody listens at its port.
    Dead,
    /// Each answer takes seconds.
    Slow,
    /// It says what it should not.
    Lying,
}

const BROKEN: [Broken; 3] = [Broken::Dead, Broken::Slow, Broken::Lying];

/// A target, and what stands between it and the vault.
struct Stage {
    place: Place,
    proxy: Proxy,
}

/// A lease that is there, and an open session of it.
struct Held {
    credential: Credential,
    session: Box<dyn Login>,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_outlives_a_leader_and_delays_no_other() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    let scope = "action in [Quorate::Action::\"lease:issue\", Quorate::Action::\"role:read\"], resource";
    cluster.permit("targets", &cluster.identity("demo").unwrap(), scope).await.unwrap();
    let kinds = std::iter::once("postgresql").chain(BESIDE);
    let places = futures::future::join_all(kinds.map(|kind| Place::start(&cluster, kind))).await;
    let mut stages = Vec::new();
    for place in places {
        let proxy = Proxy::start(([127, 0, 0, 1], place.port).into()).await.unwrap();
        place.describe(&cluster, proxy.port());
        stages.push(Stage { place, proxy });
    }
    let begun = Instant::now();
    who_leads_next_ends_them(&cluster, &stages).await;
    println!("the loss of a leader: {:.1?}", begun.elapsed());
    for turn in 0..BROKEN.len() {
        let begun = Instant::now();
        broken(&cluster, &stages, turn).await;
        println!("round {turn}: {:.1?}", begun.elapsed());
    }
}

async fn issue(cluster: &Cluster, stages: &[Stage]) -> Vec<Held> {
    let one = async |stage: &Stage| {
        let kind = stage.place.kind;
        // Whoever has refused for a while, or was not there, is asked again after a pause.
        let begun = Instant::now();
        let credential = loop {
            match cluster.client("demo").unwrap().issue_lease(kind, None).await {
                Ok(credential) => break credential,
                Err(why) => assert!(begun.elapsed() < ENDED, "a credential of {kind}: {why}"),
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        let session = stage.place.enter(&credential).await;
        Held { credential, session: session.unwrap_or_else(|| panic!("{kind} lets in")) }
    };
    futures::future::join_all(stages.iter().map(one)).await
}

/// All of them end, and that is so as their administrators see it too.
async fn end(cluster: &Cluster, stages: &[Stage], all: Vec<Held>) {
    let client = cluster.client("demo").unwrap();
    for held in &all {
        client.revoke(held.credential.lease).await.unwrap();
    }
    ended(cluster, stages, all).await;
}

async fn ended(cluster: &Cluster, stages: &[Stage], all: Vec<Held>) {
    let admin = cluster.admin().unwrap();
    for (stage, mut held) in stages.iter().zip(all) {
        let kind = stage.place.kind;
        let done = admin.wait_revoked(held.credential.lease, ENDED).await;
        let done = done.unwrap_or_else(|why| panic!("the lease at {kind} is seen to have ended: {why}"));
        assert!(done.state == "revoked" && done.why == "requested", "{kind}: {done:?}");
        assert!(!held.session.alive().await, "its session at {kind} has ended");
        assert!(stage.place.enter(&held.credential).await.is_none(), "its login at {kind} is refused");
        let alive = stage.place.alive().await;
        assert!(alive.is_empty(), "nothing is alive at {kind}: {alive:?}");
    }
}

/// The member that leads is killed while logins live at each.
async fn who_leads_next_ends_them(cluster: &Cluster, stages: &[Stage]) {
    let mut all = issue(cluster, stages).await;
    let leader = cluster.wait_leader(ENDED).await.unwrap();
    let node = cluster.node(leader).unwrap();
    node.kill().await.unwrap();
    let next = cluster.wait_leader(ENDED).await.unwrap();
    assert_ne!(next, leader);
    for (stage, held) in stages.iter().zip(&mut all) {
        let kind = stage.place.kind;
        assert!(held.session.alive().await, "the session at {kind} lives on");
        assert!(stage.place.enter(&held.credential).await.is_some(), "the login at {kind} lives on");
    }
    end(cluster, stages, all).await;
    node.restart(&[]).unwrap();
}

/// Each is broken in another way than the last time, and than its neighbours.
async fn broken(cluster: &Cluster, stages: &[Stage], turn: usize) {
    let all = issue(cluster, stages).await;
    let how: Vec<Broken> = (0..stages.len()).map(|at| BROKEN[(at + turn) % BROKEN.len()]).collect();
    for (stage, how) in stages.iter().zip(&how) {
        match how {
            Broken::Dead => stage.proxy.shut(),
            Broken::Slow => stage.proxy.be(SLOW),
            Broken::Lying => stage.proxy.be(lies(stage.place.kind)[0]),
        }
    }
    let client = cluster.client("demo").unwrap();
    for held in &all {
        client.revoke(held.credential.lease).await.unwrap();
    }
    another_goes_on(cluster).await;
    stand(cluster, stages, &how, &all).await;
    for (stage, _) in stages.iter().zip(&how).filter(|(_, how)| **how == Broken::Lying) {
        for lie in lies(stage.place.kind) {
            let begun = Instant::now();
            stage.proxy.be(lie);
            while stage.proxy.met() == 0 {
                assert!(begun.elapsed() < ASKED, "{} is asked again", stage.place.kind);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
    another_goes_on(cluster).await;
    // Those that are slow may have come to an end by now, and only those.
    let lasting = |how: &Broken| *how != Broken::Slow;
    let admin = cluster.admin().unwrap();
    for ((stage, how), held) in stages.iter().zip(&how).zip(&all).filter(|((_, how), _)| lasting(how)) {
        let waits = admin.lease(held.credential.lease).await.unwrap();
        assert_eq!(
            waits.state, "revoking",
            "{} is {how:?}, and nobody says that it has let go: {waits:?}",
            stage.place.kind
        );
    }
    for (stage, how) in stages.iter().zip(&how) {
        stage.proxy.be(Mood::Honest);
        if *how == Broken::Dead {
            stage.proxy.open().await.unwrap();
        }
    }
    ended(cluster, stages, all).await;
}

/// At the cluster's own database a lease is issued and seen to end.
async fn another_goes_on(cluster: &Cluster) {
    let client = cluster.client("demo").unwrap();
    let credential = client.issue_lease("reader", None).await.unwrap();
    login_with(&credential).await.unwrap();
    client.revoke(credential.lease).await.unwrap();
    let done = cluster.admin().unwrap().wait_revoked(credential.lease, ENDED).await.unwrap();
    assert_eq!(done.state, "revoked", "{done:?}");
    assert!(login_with(&credential).await.is_err(), "its login is refused");
}

/// None of them has ended, while another one has.
async fn stand(cluster: &Cluster, stages: &[Stage], how: &[Broken], all: &[Held]) {
    let admin = cluster.admin().unwrap();
    for ((stage, how), held) in stages.iter().zip(how).zip(all) {
        let waits = admin.lease(held.credential.lease).await.unwrap();
        assert_eq!(
            waits.state, "revoking",
            "{} is {how:?}, and nobody says that it has let go: {waits:?}",
            stage.place.kind
        );
    }
}
