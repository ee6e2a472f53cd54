//! The kept image: one member that has everything brings up any other, whoever is dead.

use std::time::Duration;

use quorate_raft::kv::{Batch, Kv as _, Table};

use crate::harness::{Cluster, first_index, last_index, purged, within};

/// A cluster of three that compacts after 50 entries and keeps 10, of which only one member has everything: another lacks more than it keeps of its log,
/// and the third is dead. Returns the one that has everything, and the one that lacks.
async fn one_has_everything(on_disk: bool) -> (Cluster, u64, u64) {
    let tune = |config: &mut quorate_raft::Config| {
        config.snapshot_every = 50;
        config.keep_entries = 10;
    };
    let mut cluster = Cluster::start(3, on_disk, tune).await;
    cluster.set("first", "1").await;
    let leader = cluster.leader().await;
    let (behind, dead) = (leader % 3 + 1, (leader + 1) % 3 + 1);
    cluster.kill(behind);
    let large = "x".repeat(20_000);
    let mut last = 0;
    for i in 0..120 {
        last = cluster.set(&format!("k{:02}", i % 60), &large).await.index;
    }
    let mut last = cluster.set("compacted", "with a proof").await.index.max(last);
    for id in [leader, dead] {
        cluster.node(id).snapshot().await.unwrap();
        within("the purge", async {
            while cluster.status(id).purged < 60 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
    // No state after this one is vouched for by anybody else.
    for i in 0..5 {
        last = cluster.set("later", &i.to_string()).await.index.max(last);
    }
    cluster.converge(last).await;
    cluster.kill(dead);
    (cluster, leader, behind)
}

async fn brought_up(cluster: &Cluster, has: u64, behind: u64) {
    let last = cluster.set("again", "a majority").await.index;
    cluster.converge(last).await;
    assert_eq!(cluster.get(behind, "k59").map(|value| value.len()), Some(20_000));
    assert_eq!(cluster.get(behind, "later").as_deref(), Some("4"));
    let (ours, theirs) = (cluster.node(behind).checkpoint_at(last), cluster.node(has).checkpoint_at(last));
    assert!(ours.is_some() && ours == theirs, "the chain of entries goes on over the image, and so does the state");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_that_has_everything_brings_another_up_in_memory() {
    let (mut cluster, has, behind) = one_has_everything(false).await;
    cluster.start_node(behind).await;
    brought_up(&cluster, has, behind).await;
    // Who was brought up can do the same, at once: it kept what it was given.
    assert!(cluster.memory(behind).copies().kept().unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn one_member_that_has_everything_brings_another_up_from_disk_after_a_restart() {
    let (mut cluster, has, behind) = one_has_everything(true).await;
    cluster.kill(has);
    cluster.start_node(has).await;
    cluster.start_node(behind).await;
    brought_up(&cluster, has, behind).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_with_one_row_changed_goes_to_nobody_and_is_removed() {
    let (mut cluster, has, behind) = one_has_everything(false).await;
    let dead = 6 - has - behind;
    // A compaction that was asked for before may still be waiting for its proof, and put another image in the place of the one that is changed here.
    let note = || cluster.memory(has).copies().kept().unwrap().unwrap().1;
    let (mut before, mut now) = (Vec::new(), note());
    while before != now {
        tokio::time::sleep(Duration::from_secs(2)).await;
        (before, now) = (now, note());
    }
    let (image, _) = cluster.memory(has).copies().kept().unwrap().unwrap();
    let (key, mut value) = image.last(Table::State).unwrap().unwrap();
    value[0] ^= 1;
    let mut change = Batch::new();
    change.put(Table::State, key, value);
    image.write(change).unwrap();
    // What its own log holds it may still apply.
    let own = last_index(cluster.memory(behind));
    cluster.start_node(behind).await;
    within("the image to be removed", async {
        while cluster.memory(has).copies().kept().unwrap().is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    // What is left is the state as it is now, for which nobody else vouches yet.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(cluster.node(behind).checkpoint().index <= own, "a state was taken for which nobody vouches");
    cluster.start_node(dead).await;
    brought_up(&cluster, has, behind).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_log_is_purged_without_an_image() {
    for step in ["drafted", "kept"] {
        let mut cluster = Cluster::start(3, false, |config| {
            config.snapshot_every = 0;
            config.keep_entries = 10;
        })
        .await;
        let mut last = 0;
        for i in 0..60 {
            last = cluster.set(&format!("k{i}"), "v").await.index;
        }
        cluster.converge(last).await;
        let victim = cluster.leader().await;
        match step {
            "drafted" => cluster.memory(victim).fail_next_draft(),
            _ => cluster.memory(victim).fail_next_keep(),
        }
        cluster.node(victim).snapshot().await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(first_index(cluster.memory(victim)) <= 1, "purged, and no image was {step}");
        cluster.lose_power(victim);
        assert!(cluster.memory(victim).copies().kept().unwrap().is_none());
        cluster.start_node(victim).await;
        cluster.converge(last).await;
        cluster.node(victim).snapshot().await.unwrap();
        purged(cluster.memory(victim), 20).await;
        assert!(cluster.memory(victim).copies().kept().unwrap().is_some());
        // The image is there after the power went, whatever became of the purge.
        cluster.lose_power(victim);
        assert!(cluster.memory(victim).copies().kept().unwrap().is_some());
    }
}
