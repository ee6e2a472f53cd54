//! Nodes that are killed, and come back.

use quorate_state::ids::MemberIndex;
use quorate_tests::Cluster;
use quorate_tests::random::Random;
use std::time::{Duration, Instant};

/// How many were killed.
#[derive(Debug, Default)]
pub(crate) struct Kills {
    pub(crate) leaders: usize,
    pub(crate) others: usize,
}

/// Kills one node of three every few seconds, the leader first and then two times of three, and starts it again, for so long.
pub(crate) async fn kill(cluster: &Cluster, duration: Duration, random: &mut Random) -> Kills {
    let (end, mut kills, seed) = (Instant::now() + duration, Kills::default(), random.0);
    while Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(random.between(3_000, 7_000))).await;
        let leader = cluster.wait_leader(Duration::from_secs(20)).await.unwrap();
        let others: Vec<MemberIndex> = (1..=3).filter(|m| *m != leader).collect();
        let leads = random.between(0, 3) > 0 || kills.leaders == 0;
        let victim = if leads { leader } else { others[usize::try_from(random.between(0, 2)).unwrap()] };
        let node = cluster.node(victim).unwrap();
        node.kill().await.unwrap();
        *(if leads { &mut kills.leaders } else { &mut kills.others }) += 1;
        tokio::time::sleep(Duration::from_millis(random.between(1_500, 4_000))).await;
        node.restart(&[]).unwrap();
        let back = cluster.wait_applied(victim, 1, Duration::from_secs(30)).await;
        back.unwrap_or_else(|why| panic!("seed {seed}: {why}"));
    }
    kills
}
