//! What a cluster still does, and what it refuses, when parts of it are frozen, down, stopped, behind or told to refuse.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they measured"
)]

use futures::future::join_all;
use quorate_api::client::Client;
use quorate_api::status::Failure;
use quorate_api::tls::{CLIENT, connect};
use quorate_api::vault::ReadStatusRequest;
use quorate_api::vault::vault_client::VaultClient;
use quorate_audit::Decision;
use quorate_state::change::Change;
use quorate_state::ids::MemberIndex;
use quorate_tests::{Cluster, Options, audit};
use std::time::{Duration, Instant};
use tokio::time::timeout;

const NAMESPACE: &str = "default";
/// How long an election may take on a busy machine.
const ELECTION: Duration = Duration::from_secs(20);
/// How long a node may take to come back.
const RETURN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn quorum() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    let demo = cluster.client("demo").unwrap();
    demo.put(NAMESPACE, "app/demo/lasting", b"lasting", Some(0)).await.unwrap();
    a_frozen_custodian(&cluster).await;
    a_member_that_is_behind(&cluster).await;
    a_blocked_identity(&cluster).await;
    a_stopped_leader(&cluster).await;
    who_gave_up_on_a_stopped_member(&cluster).await;
    a_leader_that_is_asked_to_end(&cluster).await;
    one_node_left(&cluster).await;
    restarts(&cluster).await;
}

fn refused<T>(what: &str, expected: &[&str], result: Result<T, Failure>) -> Failure {
    let Err(failure) = result else { panic!("{what}: expected {expected:?}, and it went through") };
    assert!(expected.contains(&failure.code), "{what}: expected {expected:?}, got: {failure}");
    failure
}

async fn opens(what: &str, client: &Client, path: &str, expected: &[u8]) {
    let opened = client.get(NAMESPACE, path, None).await.unwrap_or_else(|why| panic!("{what}: {path} opens: {why}"));
    assert_eq!(opened.plaintext.expose(), expected, "{what}: {path} holds what was put");
}

fn others(member: MemberIndex) -> Vec<MemberIndex> {
    [1, 2, 3].into_iter().filter(|m| *m != member).collect()
}

async fn a_frozen_custodian(cluster: &Cluster) {
    let (demo, warden) = (cluster.client("demo").unwrap(), cluster.warden().unwrap());
    demo.put(NAMESPACE, "vault/demo/frozen", b"two keys", Some(0)).await.unwrap();
    opens("before the freeze", &demo, "vault/demo/frozen", b"two keys").await;
    warden.freeze("a drill").await.unwrap();
    refused("while frozen", &["custodian_frozen"], demo.get(NAMESPACE, "vault/demo/frozen", None).await);
    opens("the other class does not need the custodian", &demo, "app/demo/lasting", b"lasting").await;

    let custodian = cluster.custodian().unwrap();
    custodian.kill().await.unwrap();
    let failure = demo.get(NAMESPACE, "vault/demo/frozen", None).await.unwrap_err();
    assert_ne!(failure.code, "does_not_open", "without a custodian the error says what is missing: {failure}");
    custodian.restart(&[]).unwrap();
    let deadline = Instant::now() + RETURN;
    let status = loop {
        match warden.status().await {
            Ok(status) => break status,
            Err(why) => assert!(Instant::now() < deadline, "the custodian comes back: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    assert!(status.frozen && status.frozen_reason == "a drill", "the freeze outlives a restart: {status:?}");
    refused("frozen after a restart", &["custodian_frozen"], demo.get(NAMESPACE, "vault/demo/frozen", None).await);
    warden.thaw().await.unwrap();
    opens("after the thaw", &demo, "vault/demo/frozen", b"two keys").await;
}

/// The log's links to node 3 are cut, all others are up: it does not know that it is behind, and decides on old rules.
/// Its word alone hurts nobody: two others allow, and it is their word that counts.
async fn a_member_that_is_behind(cluster: &Cluster) {
    for member in [2, 1] {
        let node = cluster.node(member).unwrap();
        node.terminate().await.unwrap();
        node.restart(&[("FAILPOINTS", "raft.dial.3=return(fail)")]).unwrap();
        cluster.wait_applied(member, 1, RETURN).await.unwrap();
        cluster.wait_leader(ELECTION).await.unwrap();
    }
    if cluster.wait_leader(ELECTION).await.unwrap() == 3 {
        let third = cluster.node(3).unwrap();
        third.stop().unwrap();
        let elected = cluster.wait_leader(ELECTION).await;
        third.cont().unwrap();
        assert_ne!(elected.unwrap(), 3, "a stopped node does not lead");
    }
    let late = cluster.issue("app/late").unwrap();
    let late_id = late.principal().to_owned();
    let scope = "action == Quorate::Action::\"secret:open\", resource == Quorate::Secret::\"default:app/demo/lasting\"";
    let policy = cluster.permit("late", &late, scope).await.unwrap();
    let applied = cluster.status(3).await.unwrap().map(|s| s.applied);
    assert!(
        applied.is_some_and(|a| a < policy.index),
        "node 3 is to be behind {}, it has applied {applied:?}",
        policy.index
    );

    let through = |members: &[MemberIndex]| {
        let client = cluster.client_as(cluster.identity_file("app/late").unwrap(), members).unwrap();
        client.with_timeout(Duration::from_secs(4))
    };
    opens("two that know the new policy", &through(&[1, 2]), "app/demo/lasting", b"lasting").await;
    opens("all three, one of which refuses", &through(&[1, 2, 3]), "app/demo/lasting", b"lasting").await;
    for pair in [[1, 3], [2, 3]] {
        let opened = through(&pair).get(NAMESPACE, "app/demo/lasting", None).await;
        refused("one that knows and one that does not", &["denied", "disagreement", "not_enough_members"], opened);
    }
    let (_, folder) = cluster.audit_folders().find(|(name, _)| *name == cluster.name(3)).unwrap();
    let records = audit::records(folder).unwrap();
    let denied = records.iter().filter(|r| r.principal == late_id && r.operation == "secret.open");
    let denied: Vec<_> = denied.filter(|r| r.decision == Some(Decision::Deny)).collect();
    assert!(!denied.is_empty(), "node 3's audit log says that it refused {late_id}");
    assert!(denied.iter().all(|r| r.policies.is_empty()), "no policy that node 3 knows decided it: {denied:?}");
    assert!(denied.iter().all(|r| r.index.is_some_and(|i| i < policy.index)), "and on which state: {denied:?}");

    for member in [1, 2] {
        let node = cluster.node(member).unwrap();
        node.terminate().await.unwrap();
        node.restart(&[]).unwrap();
        cluster.wait_applied(member, 1, RETURN).await.unwrap();
        cluster.wait_leader(ELECTION).await.unwrap();
    }
    cluster.wait_applied(3, policy.index, RETURN).await.unwrap();
    opens("once node 3 has caught up", &through(&[1, 3]), "app/demo/lasting", b"lasting").await;
}

async fn a_blocked_identity(cluster: &Cluster) {
    let late = cluster.identity_file("app/late").unwrap();
    let principal = late.principal().to_owned();
    cluster
        .permit(
            "late-lease",
            &late,
            "action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"reader\"",
        )
        .await
        .unwrap();
    cluster.permit("late-roles", &late, "action == Quorate::Action::\"role:read\", resource").await.unwrap();
    let client = cluster.client_as(late, &[1, 2, 3]).unwrap();
    let lease = client.issue_lease("reader", Some(600_000)).await.unwrap();
    let session = quorate_tests::database::login_with(&lease).await.unwrap();
    opens("before the block", &client, "app/demo/lasting", b"lasting").await;

    cluster.administer(Change::BlockIdentity { principal: principal.clone() }).await.unwrap();
    for member in [1, 2, 3] {
        let one = cluster
            .client_as(cluster.identity_file("app/late").unwrap(), &[member])
            .unwrap()
            .with_timeout(Duration::from_secs(4));
        refused(&format!("node {member} asked by a blocked identity"), &["identity_blocked"], one.roles().await);
    }
    for pair in [[1, 2], [1, 3], [2, 3]] {
        let two = cluster
            .client_as(cluster.identity_file("app/late").unwrap(), &pair)
            .unwrap()
            .with_timeout(Duration::from_secs(4));
        let opened = two.get(NAMESPACE, "app/demo/lasting", None).await;
        refused(&format!("nodes {pair:?} opening for a blocked identity"), &["identity_blocked"], opened);
    }
    refused("a blocked identity asks for a lease", &["identity_blocked"], client.issue_lease("reader", None).await);
    let ended = cluster.admin().unwrap().wait_revoked(lease.lease, Duration::from_secs(15)).await.unwrap();
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session of the blocked identity is ended: {ended:?}");
    assert!(quorate_tests::database::login_with(&lease).await.is_err(), "its login is refused: {ended:?}");
    cluster.administer(Change::UnblockIdentity { principal }).await.unwrap();
    opens("after the block", &client, "app/demo/lasting", b"lasting").await;
}

/// A leader that answers nothing and keeps its connections: reads do not need it, writes wait for its successor.
async fn a_stopped_leader(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    // Connections are up: what is measured is not their making.
    opens("before", &demo, "app/demo/lasting", b"lasting").await;
    let node = cluster.node(leader).unwrap();
    node.stop().unwrap();
    let begin = Instant::now();
    let read = demo.get(NAMESPACE, "app/demo/lasting", None).await;
    let read_after = begin.elapsed();
    let write = demo.put(NAMESPACE, "app/demo/while-stopped", b"written", Some(0)).await;
    let write_after = begin.elapsed();
    let next = cluster.wait_leader(ELECTION).await;
    node.cont().unwrap();
    println!("leader stopped: opened after {read_after:?}, written after {write_after:?}");
    assert_eq!(read.unwrap().plaintext.expose(), b"lasting", "it opens while the leader is stopped");
    assert!(read_after < Duration::from_secs(4), "opening does not wait for an election: it took {read_after:?}");
    let put = write.unwrap_or_else(|why| panic!("a write goes through after the election: {why}"));
    assert_ne!(next.unwrap(), leader, "another node leads while {leader} is stopped");
    cluster.wait_applied(leader, put.index, RETURN).await.unwrap();
    opens(
        "the old leader catches up",
        &cluster.through("demo", &[leader, others(leader)[0]]).unwrap(),
        "app/demo/while-stopped",
        b"written",
    )
    .await;
}

/// Many calls that were given up while a member answered nothing cost nobody the connection: what it is asked behind them, it answers.
async fn who_gave_up_on_a_stopped_member(cluster: &Cluster) {
    const CALLS: usize = 200;
    let caller = cluster.identity("demo").unwrap();
    let pinned = cluster.profile().member(1).unwrap();
    let channel = connect(&pinned.api_address, pinned.key, caller.tls(), &pinned.name, CLIENT).unwrap();
    let mut vault = VaultClient::new(channel);
    vault.read_status(ReadStatusRequest::default()).await.expect("the connection is made");
    let node = cluster.node(1).unwrap();
    node.stop().unwrap();
    let given_up = join_all((0..CALLS).map(|_| {
        let mut vault = vault.clone();
        async move { timeout(Duration::from_millis(200), vault.read_status(ReadStatusRequest::default())).await }
    }))
    .await;
    let behind = tokio::spawn(async move { vault.read_status(ReadStatusRequest::default()).await });
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.cont().unwrap();
    assert!(given_up.iter().all(Result::is_err), "a stopped member answers nothing");
    behind.await.unwrap().unwrap_or_else(|why| panic!("it is answered on the connection of those who gave up: {why}"));
}

async fn a_leader_that_is_asked_to_end(cluster: &Cluster) {
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    let rest = cluster.through("demo", &others(leader)).unwrap();
    rest.put(NAMESPACE, "app/demo/handover", b"before", None).await.unwrap();
    let node = cluster.node(leader).unwrap();
    let begin = Instant::now();
    let (ended, put) =
        tokio::join!(node.terminate(), async { rest.put(NAMESPACE, "app/demo/handover", b"after", None).await });
    println!("leader asked to end: a write went through after {:?}", begin.elapsed());
    ended.unwrap();
    put.unwrap_or_else(|why| panic!("a write goes through while the leader hands over: {why}"));
    let next = cluster.wait_leader(ELECTION).await.unwrap();
    assert_ne!(next, leader, "another node leads");
    let log = node.log();
    assert!(log.contains("handing over"), "the leader says that it hands over:\n{log}");
    node.restart(&[]).unwrap();
    cluster.wait_applied(leader, 1, RETURN).await.unwrap();
    opens("after", &cluster.through("demo", &[leader, next]).unwrap(), "app/demo/handover", b"after").await;
}

async fn one_node_left(cluster: &Cluster) {
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    for member in others(leader) {
        cluster.node(member).unwrap().kill().await.unwrap();
    }
    let demo = cluster.client("demo").unwrap().with_timeout(Duration::from_secs(5));
    let failure = refused(
        "opening with one node up",
        &["not_enough_members"],
        demo.get(NAMESPACE, "app/demo/lasting", None).await,
    );
    for member in others(leader) {
        let name = cluster.name(member);
        assert!(failure.message.contains(name), "the message names {name}, which is down: {failure}");
    }
    let nothing = ["no_leader", "not_enough_members", "unreachable", "deadline"];
    refused("writing with one node up", &nothing, demo.put(NAMESPACE, "app/demo/alone", b"x", None).await);
    for member in others(leader) {
        cluster.node(member).unwrap().restart(&[]).unwrap();
    }
    for member in others(leader) {
        cluster.wait_applied(member, 1, RETURN).await.unwrap();
    }
    cluster.wait_leader(ELECTION).await.unwrap();
    let demo = cluster.client("demo").unwrap();
    opens("with all nodes again", &demo, "app/demo/lasting", b"lasting").await;
    demo.put(NAMESPACE, "app/demo/alone", b"y", Some(0)).await.expect("nothing was written by one node alone");
}

/// No human, no passphrase: a killed node comes back by itself, and so does a whole cluster.
async fn restarts(cluster: &Cluster) {
    for member in [1, 2, 3] {
        let node = cluster.node(member).unwrap();
        node.kill().await.unwrap();
        node.restart(&[]).unwrap();
        cluster.wait_applied(member, 1, RETURN).await.unwrap();
        cluster.wait_leader(ELECTION).await.unwrap();
        let pair = cluster.through("demo", &[member, others(member)[0]]).unwrap();
        opens(&format!("through node {member} after its restart"), &pair, "app/demo/lasting", b"lasting").await;
    }
    for member in [1, 2, 3] {
        cluster.node(member).unwrap().kill().await.unwrap();
    }
    for member in [1, 2, 3] {
        cluster.node(member).unwrap().restart(&[]).unwrap();
    }
    cluster.wait_leader(RETURN).await.unwrap();
    let demo = cluster.client("demo").unwrap();
    demo.put(NAMESPACE, "app/demo/after-all", b"written", Some(0)).await.unwrap();
    for pair in [[1, 2], [1, 3], [2, 3]] {
        let two = cluster.through("demo", &pair).unwrap();
        opens(&format!("through {pair:?} after all three were killed"), &two, "app/demo/lasting", b"lasting").await;
        opens(&format!("through {pair:?} after all three were killed"), &two, "app/demo/after-all", b"written").await;
    }
}
