//! Freshness: with the leader, and without one.

use std::time::Duration;

use quorate_raft::{Behind, ReadIndexError, freshness::Footprint};

use crate::harness::{Cluster, PATIENCE, within};

#[tokio::test(flavor = "multi_thread")]
async fn every_node_can_read_its_writes_by_read_index() {
    let cluster = Cluster::start(3, false, |_| ()).await;
    for round in 0..5 {
        let done = cluster.set("a", &round.to_string()).await;
        for id in cluster.ids() {
            let index = cluster.node(id).read_index(PATIENCE).await.unwrap();
            assert!(index >= done.index);
            assert_eq!(cluster.get(id, "a"), Some(round.to_string()), "node {id}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_there_is_no_read_index_but_a_quiet_tail_is_still_fresh() {
    let mut cluster = Cluster::start(3, false, |_| ()).await;
    let done = cluster.set("a", "1").await;
    cluster.converge(done.index).await;
    let leader = cluster.leader().await;
    let other = leader % 3 + 1;
    cluster.kill(leader);
    // Two of three agree at once, without waiting for the election.
    for id in cluster.ids() {
        assert!(
            cluster.node(id).tail_barrier(&Footprint::Everything, Duration::from_secs(1)).await.unwrap() >= done.index
        );
    }
    cluster.kill(other);
    let last = cluster.ids()[0];
    assert!(
        cluster.node(last).tail_barrier(&Footprint::Everything, Duration::from_secs(1)).await.unwrap() >= done.index
    );
    let refused = cluster.node(last).read_index(Duration::from_secs(3)).await.unwrap_err();
    assert!(
        matches!(refused, ReadIndexError::NoLeader | ReadIndexError::Unconfirmed | ReadIndexError::Timeout),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_tail_does_not_hold_a_reader_for_ever() {
    let mut cluster = Cluster::start(3, false, |config| config.propose_timeout = Duration::from_millis(200)).await;
    let settled = cluster.set("a", "1").await;
    cluster.converge(settled.index).await;
    let old = cluster.leader().await;
    let others: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old).collect();

    // The leader accepts entries that nobody else will ever see.
    for id in &others {
        cluster.kill(*id);
    }
    // What was under way to them when they died may still be answered.
    tokio::time::sleep(Duration::from_millis(100)).await;
    for i in 0..3 {
        cluster.node(old).propose(format!("lost{i}=1").into_bytes()).await.unwrap_err();
    }
    let behind = cluster.node(old).tail_barrier(&Footprint::Everything, Duration::from_millis(200)).await.unwrap_err();
    assert!(behind.applied < cluster.status(old).last_log_index, "{behind}");
    let raft = cluster.node(old).clone();
    let reader = tokio::spawn(async move { raft.tail_barrier(&Footprint::Everything, PATIENCE).await });
    tokio::time::sleep(Duration::from_millis(50)).await;

    // The others go on without it; their log is shorter than the one it noted.
    cluster.cut(old);
    for id in &others {
        cluster.start_node(*id).await;
    }
    let new = cluster.leader_among(&others).await;
    assert!(!reader.is_finished());
    assert!(others.contains(&new));
    cluster.heal();
    let at: Result<u64, Behind> = within("the reader", reader).await.unwrap();
    assert!(at.unwrap() >= settled.index);
    let done = cluster.set("a", "2").await;
    cluster.converge(done.index).await;
    assert_eq!(cluster.get(old, "lost0"), None);
    assert_eq!(cluster.get(old, "a").as_deref(), Some("2"));
}
