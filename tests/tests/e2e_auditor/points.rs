//! The leader killed, or stopped and continued, or told that it failed, at points of a lease's life at targets where account statements
//! commit by themselves, and where they overwrite. At PostgreSQL `e2e_crashpoints.rs` goes through all of them. A seeded few are enough here:
//! `QUORATE_SEED` repeats a run's choices, and `QUORATE_POINTS=all` goes through all of them too.

use crate::Random;
use crate::servers::{MariaDb, Redis, Server};
use quorate_api::client::Client;
use quorate_state::lease::principal_prefix;
use quorate_tests::points::{ACTIONS, POINTS, Point, UNMADE};
use quorate_tests::{Cluster, Options, now};
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(3);
/// How many points of each action at each kind of target, when nobody asks for all.
const FEW: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_hit_leaves_nothing_at_mariadb_and_redis() {
    let seed = std::env::var("QUORATE_SEED").ok().and_then(|text| text.parse::<u64>().ok()).unwrap_or_else(now);
    let all = std::env::var("QUORATE_POINTS").is_ok_and(|which| which == "all");
    println!("QUORATE_SEED={seed}");
    let mut random = Random(seed);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failpoint");
    let environment = vec![("FAILPOINT_FILE".to_owned(), file.display().to_string())];
    let cluster = Cluster::start(&Options { environment, ..Options::default() }).await.unwrap();
    let (maria, redis) = tokio::join!(MariaDb::beside(&cluster), Redis::beside(&cluster));
    let scope = "action in [Quorate::Action::\"lease:issue\", Quorate::Action::\"role:read\"], resource";
    cluster.permit("points", &cluster.issue("points").unwrap(), scope).await.unwrap();
    println!("{:<16} {:<6} {:<6} {:<22} clean after the end of the lease", "point", "action", "target", "answer");
    for action in ACTIONS {
        for point in chosen(&mut random, all) {
            case(&cluster, &maria, Point::set(&file, point, action).unwrap(), seed).await;
        }
        for point in chosen(&mut random, all) {
            case(&cluster, &redis, Point::set(&file, point, action).unwrap(), seed).await;
        }
    }
}

/// Points of the issue and of the end alike.
fn chosen(random: &mut Random, all: bool) -> Vec<&'static str> {
    if all {
        return POINTS.to_vec();
    }
    let (begin, end) = POINTS.split_at(POINTS.len() / 2);
    let one = |random: &mut Random, of: &[&'static str]| {
        of[usize::try_from(random.between(0, u64::try_from(of.len()).unwrap())).unwrap()]
    };
    (0..FEW).map(|n| one(random, if n % 2 == 0 { begin } else { end })).collect()
}

/// One lease through one point. Nothing of it is left at the server, as the server tells.
async fn case<S: Server>(cluster: &Cluster, server: &S, point: Point, seed: u64) {
    let what = format!("seed {seed}: {} at {} for {}", point.action, point.name, S::TARGET);
    let admin: Client = cluster.admin().unwrap();
    let caller = cluster.client_as(cluster.identity_file("points").unwrap(), &[1, 2, 3]).unwrap();
    let begin = Instant::now();
    let issuing = tokio::spawn(async move {
        let ttl = u64::try_from(TTL.as_millis()).unwrap();
        let credential = caller.issue_lease(S::ROLE, Some(ttl)).await?;
        // A session, so that there is something to end besides the login.
        let session = S::log_in(&credential).await;
        Ok::<_, quorate_api::status::Failure>((credential, session))
    });
    let hit = async {
        point.wait_reached(Duration::from_secs(15)).await?;
        point.recover(cluster).await
    };
    let hit = hit.await.unwrap_or_else(|why| panic!("{what}: {why}"));
    let begin = if UNMADE.contains(&point.name) {
        while !issuing.is_finished() {
            assert!(begin.elapsed() < Duration::from_secs(60), "{what} of {hit}: the client is not answered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Instant::now()
    } else {
        begin
    };
    let prefix = principal_prefix(&cluster.profile().cluster, S::TARGET);
    let deadline = begin + TTL + point.bound();
    let clean = loop {
        let alive = server.alive(&prefix).await;
        let open =
            admin.leases("").await.map(|all| all.into_iter().filter(|l| l.state != "revoked").collect::<Vec<_>>());
        if alive.is_empty() && issuing.is_finished() && matches!(&open, Ok(open) if open.is_empty()) {
            break begin.elapsed().saturating_sub(TTL);
        }
        assert!(
            Instant::now() < deadline,
            "{what} of {hit}: {:?} after the end of the lease this is alive: {alive:?}; and these leases have not ended: {open:?}",
            point.bound()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let answer = match issuing.await.unwrap() {
        Ok((credential, session)) => {
            if let Some(mut session) = session {
                assert!(!S::answers(&mut session).await, "{what} of {hit}: the session is ended");
            }
            assert!(S::log_in(&credential).await.is_none(), "{what} of {hit}: the login is refused");
            "issued".to_owned()
        }
        Err(failure) => failure.code.to_owned(),
    };
    // What the one that was hit had under way would come to light now.
    for _ in 0..10 {
        let alive = server.alive(&prefix).await;
        assert!(alive.is_empty(), "{what} of {hit}: this came back after all leases were revoked: {alive:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{:<16} {:<6} {:<6} {answer:<22} {clean:.1?}", point.name, point.action, S::TARGET);
}
