//! What replaces the log: compaction, snapshots for members that are behind, and a state that was lost.

use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::harness::{Cluster, first_index, last_index, purged, within};

/// A cluster that compacts after 50 entries and keeps 10, and a member of it that is down and further behind than that. Returns the
/// member and the last index.
pub(crate) async fn far_behind(cluster: &mut Cluster) -> (u64, u64) {
    cluster.set("gone", "by then").await;
    let leader = cluster.leader().await;
    let behind = leader % 3 + 1;
    cluster.kill(behind);
    let stopped_at = last_index(cluster.memory(behind));
    // More than one chunk of records, so that the stream is one.
    let large = "x".repeat(20_000);
    let mut last = 0;
    for i in 0..120 {
        last = cluster.set(&format!("k{:02}", i % 60), &large).await.index;
    }
    for id in cluster.ids() {
        cluster.node(id).snapshot().await.unwrap();
        purged(cluster.memory(id), stopped_at + 1).await;
    }
    (behind, last)
}

pub(crate) async fn small() -> Cluster {
    Cluster::start(3, false, |config| {
        config.snapshot_every = 50;
        config.keep_entries = 10;
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_behind_the_purged_log_gets_a_snapshot_under_load() {
    let mut cluster = small().await;
    let (behind, last) = far_behind(&mut cluster).await;
    // Nobody holds the entries that it needs next, and the state moves on while it is sent.
    cluster.start_node(behind).await;
    let mut writes = 0;
    while cluster.status(behind).applied < last {
        cluster.set("load", &writes.to_string()).await;
        writes += 1;
        assert!(writes < 5_000, "the snapshot does not arrive: {:?}", cluster.status(behind));
    }
    let last = cluster.set("load", "over").await.index;
    cluster.converge(last).await;
    let leader = cluster.leader().await;
    assert_eq!(
        cluster.node(behind).checkpoint_at(last),
        cluster.node(leader).checkpoint_at(last),
        "the chain of entries goes on over a snapshot, and so does the state"
    );
    assert!(cluster.node(behind).checkpoint_at(last).is_some());
    assert_eq!(cluster.node(behind).membership().voters.len(), 3);

    // The installed state is durable: nothing of it is lost with the power.
    cluster.lose_power(behind);
    cluster.start_node(behind).await;
    cluster.converge(last).await;
    let last = cluster.set("after", "snapshot").await.index;
    cluster.converge(last).await;
    assert_eq!(cluster.get(behind, "after").as_deref(), Some("snapshot"));
    assert_eq!(cluster.get(behind, "k59").map(|v| v.len()), Some(20_000));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_vouchers_the_log_stays_and_nobody_takes_a_state() {
    let mut cluster = small().await;
    cluster.registry.mute.store(true, Ordering::SeqCst);
    let mut last = 0;
    for i in 0..130 {
        last = cluster.set(&format!("k{i}"), "v").await.index;
    }
    cluster.converge(last).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for id in cluster.ids() {
        assert!(first_index(cluster.memory(id)) <= 1, "node {id} purged its log though nobody vouches for its state");
    }
    cluster.registry.mute.store(false, Ordering::SeqCst);
    for id in cluster.ids() {
        purged(cluster.memory(id), 60).await;
    }
    // A member that needs a state gets none while nobody vouches, keeps what it has, and goes on when they do.
    let (behind, last) = far_behind(&mut cluster).await;
    cluster.registry.mute.store(true, Ordering::SeqCst);
    // What its own log holds it may still apply, and nothing beyond.
    let own = last_index(cluster.memory(behind));
    cluster.start_node(behind).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let reached = cluster.node(behind).checkpoint().index;
    assert!(reached <= own, "node {behind} is at {reached} without a voucher, and its own log ends at {own}");
    assert!(reached < last, "nothing was missing: {reached} of {last}");
    cluster.registry.mute.store(false, Ordering::SeqCst);
    cluster.converge(last).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_state_is_rebuilt_from_the_log_or_from_a_member() {
    let mut cluster = small().await;
    let mut last = 0;
    for i in 0..20 {
        last = cluster.set(&format!("k{i}"), "first").await.index;
    }
    cluster.converge(last).await;
    let victim = cluster.leader().await % 3 + 1;
    for (round, purge) in [(1, false), (2, true)] {
        if purge {
            for i in 0..100 {
                last = cluster.set(&format!("k{}", i % 20), &format!("second {i}")).await.index;
            }
            cluster.node(victim).snapshot().await.unwrap();
            purged(cluster.memory(victim), 20).await;
        }
        cluster.kill(victim);
        cluster.wipe_state(victim);
        cluster.start_node(victim).await;
        within("the rebuilt state", async { cluster.converge(last).await }).await;
        last = cluster.set("round", &round.to_string()).await.index;
        cluster.converge(last).await;
        let (ours, theirs) = (cluster.node(victim), cluster.node(cluster.leader().await));
        assert_eq!(ours.checkpoint_at(last), theirs.checkpoint_at(last), "purged: {purge}");
        assert!(ours.checkpoint_at(last).is_some());
        assert_eq!(cluster.get(victim, "\0marker").as_deref(), Some("the beginning"), "purged: {purge}");
    }
    // Once more, without its power in the middle of nowhere.
    cluster.lose_power(victim);
    cluster.start_node(victim).await;
    cluster.converge(last).await;
    assert_eq!(cluster.get(victim, "round").as_deref(), Some("2"));
}
