//! Who leads, who says so, and what happens when it dies.

use std::{collections::BTreeSet, time::Duration};

use quorate_raft::{InitError, ProposeError};

use crate::harness::{Cluster, node, within};

#[tokio::test(flavor = "multi_thread")]
async fn a_proposal_reaches_every_node() {
    let cluster = Cluster::start(3, false, |_| ()).await;
    assert_eq!(cluster.set("colour", "red").await.reply, b"");
    let done = cluster.set("colour", "blue").await;
    assert_eq!(done.reply, b"red", "the reply is the machine's");
    cluster.converge(done.index).await;
    let digests: BTreeSet<_> = cluster.ids().iter().map(|id| cluster.node(*id).checkpoint().state).collect();
    assert_eq!(digests.len(), 1);
    for id in cluster.ids() {
        assert_eq!(cluster.get(id, "colour").as_deref(), Some("blue"));
        let membership = cluster.node(id).membership();
        assert_eq!((membership.voters, membership.joint), (BTreeSet::from([1, 2, 3]), false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_follower_refuses_and_names_the_leader() {
    let cluster = Cluster::start(3, false, |_| ()).await;
    let leader = cluster.leader().await;
    let follower = cluster.ids().into_iter().find(|id| *id != leader).unwrap();
    let refused = cluster.node(follower).propose(b"a=1".to_vec()).await.unwrap_err();
    assert_eq!(refused, ProposeError::NotLeader { leader: Some((leader, node(leader))) });
    let again = cluster.node(leader).initialize([(leader, node(leader))].into()).await;
    assert_eq!(again, Err(InitError::Initialized));
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_are_enforced_before_anything_is_proposed() {
    let cluster = Cluster::start(1, false, |config| {
        config.max_proposal = 100;
        config.in_flight_bytes = 50;
    })
    .await;
    let raft = cluster.node(1);
    let before = cluster.set("a", "1").await.index;
    assert_eq!(raft.propose(vec![b'x'; 101]).await, Err(ProposeError::TooLarge { size: 101, limit: 100 }));
    assert_eq!(raft.propose(vec![b'x'; 51]).await, Err(ProposeError::Busy));
    assert_eq!(cluster.set("a", "2").await.index, before + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_leader_takes_over_and_writes_go_on() {
    let mut cluster = Cluster::start(3, false, |_| ()).await;
    cluster.set("before", "1").await;
    let old = cluster.leader().await;
    cluster.kill(old);
    let new = within("a new leader", async {
        loop {
            let leader = cluster.leader().await;
            if leader != old {
                return leader;
            }
        }
    })
    .await;
    assert_ne!(new, old);
    let done = cluster.set("after", "2").await;
    cluster.converge(done.index).await;
    cluster.start_node(old).await;
    cluster.converge(done.index).await;
    assert_eq!(cluster.get(old, "before").as_deref(), Some("1"));
    assert_eq!(cluster.get(old, "after").as_deref(), Some("2"));
}

#[tokio::test(flavor = "multi_thread")]
async fn shutting_down_the_leader_hands_over_first() {
    let cluster = Cluster::start(3, false, |config| {
        // Too long for an election by timeout: if there is a new leader soon, it was asked to take over.
        config.election_min = Duration::from_secs(4);
        config.election_max = Duration::from_secs(5);
    })
    .await;
    cluster.set("a", "1").await;
    let old = cluster.leader().await;
    let started = std::time::Instant::now();
    cluster.node(old).shutdown().await;
    assert!(started.elapsed() < Duration::from_secs(4), "took {:?}", started.elapsed());
    let rest: Vec<u64> = cluster.ids().into_iter().filter(|id| *id != old).collect();
    let new = cluster.leader_among(&rest).await;
    assert!(started.elapsed() < Duration::from_secs(4), "took {:?}", started.elapsed());
    assert_ne!(new, old);
    assert_eq!(cluster.node(old).propose(b"a=2".to_vec()).await, Err(ProposeError::Stopped));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_can_be_removed() {
    let cluster = Cluster::start(3, false, |_| ()).await;
    cluster.set("a", "1").await;
    let leader = cluster.leader().await;
    let voters: BTreeSet<u64> = cluster.ids().into_iter().filter(|id| *id == leader || *id == leader % 3 + 1).collect();
    cluster.node(leader).change_voters(voters.clone()).await.unwrap();
    assert_eq!(cluster.node(leader).membership().voters, voters);
    assert!(!cluster.node(leader).membership().joint);
}
