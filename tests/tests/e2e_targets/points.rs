//! The leader killed, or stopped and continued, or told that it failed, at points of a lease's life at every kind of target but PostgreSQL, which has
//! `e2e_crashpoints.rs`: where account statements commit by themselves, where they overwrite, where a receiver of somebody's own does it, and where the target issues the secret itself, which must not live on when its answer reached nobody. A seeded
//! few are enough here: `QUORATE_SEED` repeats a run's choices, `QUORATE_POINTS=all` goes through all points, `QUORATE_POINTS=kill,stop` with these
//! actions, and `QUORATE_KINDS=aws,redis` has these kinds only.

use crate::places::{BESIDE, Place};
use quorate_api::client::Client;
use quorate_tests::points::{ACTIONS, POINTS, Point, UNMADE};
use quorate_tests::random::Random;
use quorate_tests::{Cluster, Options, now};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TTL: Duration = Duration::from_secs(3);
/// How long the client may take to hear what became of its request.
const ANSWERED: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_hit_leaves_nothing_at_any_kind() {
    let said = |name: &str| std::env::var(name).unwrap_or_default();
    let seed = said("QUORATE_SEED").parse::<u64>().unwrap_or_else(|_| now());
    let (actions, kinds) = (said("QUORATE_POINTS"), said("QUORATE_KINDS"));
    println!("QUORATE_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failpoint");
    let environment = vec![("FAILPOINT_FILE".to_owned(), file.display().to_string())];
    let cluster = Cluster::start(&Options { environment, ..Options::default() }).await.unwrap();
    let scope = "action in [Quorate::Action::\"lease:issue\", Quorate::Action::\"role:read\"], resource";
    cluster.permit("points", &cluster.issue("points").unwrap(), scope).await.unwrap();
    let kinds = BESIDE.into_iter().filter(|kind| kinds.is_empty() || kinds.split(',').any(|one| one == *kind));
    let places = futures::future::join_all(kinds.map(|kind| Place::start(&cluster, kind))).await;
    let places: Vec<Arc<Place>> = places.into_iter().map(Arc::new).collect();
    places.iter().for_each(|place| place.describe(&cluster, place.port));
    println!("{:<16} {:<6} {:<10} {:<22} clean after the end of the lease", "point", "action", "target", "answer");
    for (point, action, place) in chosen(seed, &actions, &places) {
        case(&cluster, place, Point::set(&file, point, action).unwrap(), seed).await;
    }
}

/// The points that a lease passes there. Where nothing of it is left when it has ended, nothing is cleaned up.
fn points(place: &Place) -> Vec<&'static str> {
    let cleaned = |point: &str| place.kind != "kubernetes" || !point.starts_with("lease.p11");
    POINTS.into_iter().filter(|point| cleaned(point)).collect()
}

/// All of these actions; or of each kind one point of the issue and one of the end, and each action as often as any other.
fn chosen<'a>(seed: u64, actions: &str, places: &'a [Arc<Place>]) -> Vec<(&'static str, &'static str, &'a Arc<Place>)> {
    let mut random = Random(seed);
    let mut cases = Vec::new();
    if !actions.is_empty() {
        for place in places {
            for action in ACTIONS.into_iter().filter(|one| actions.split(',').any(|word| word == "all" || word == *one))
            {
                cases.extend(points(place).into_iter().map(|point| (point, action, place)));
            }
        }
        return cases;
    }
    let mut actions = ACTIONS.into_iter().cycle().skip(random.one(&[0, 1, 2]).unwrap());
    for place in places {
        let points = points(place);
        let (begin, end) = points.split_at(POINTS.len() / 2);
        for half in [begin, end] {
            cases.extend(actions.next().map(|action| (random.one(half).unwrap(), action, place)));
        }
    }
    cases
}

/// One lease through one point. Nothing of it is left at the server, as its administrator sees.
async fn case(cluster: &Cluster, place: &Arc<Place>, point: Point, seed: u64) {
    let what = format!("seed {seed}: {} at {} for {}", point.action, point.name, place.kind);
    let admin: Client = cluster.admin().unwrap();
    let caller = cluster.client_as(cluster.identity_file("points").unwrap(), &[1, 2, 3]).unwrap();
    let begin = Instant::now();
    let there = Arc::clone(place);
    let issuing = tokio::spawn(async move {
        let ttl = u64::try_from(TTL.as_millis()).unwrap();
        let credential = caller.issue_lease(there.kind, Some(ttl)).await?;
        // A session, so that there is something to end besides the login.
        let session = there.enter(&credential).await;
        Ok::<_, quorate_api::status::Failure>((credential, session))
    });
    let hit = async {
        point.wait_reached(Duration::from_secs(15) + place.heard).await?;
        point.recover(cluster).await
    };
    let hit = hit.await.unwrap_or_else(|why| panic!("{what}: {why}"));
    let begin = if UNMADE.contains(&point.name) {
        while !issuing.is_finished() {
            assert!(begin.elapsed() < ANSWERED, "{what} of {hit}: the client is not answered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Instant::now()
    } else {
        begin
    };
    let bound = point.bound() + place.heard;
    let deadline = begin + TTL + bound;
    let clean = loop {
        let alive = place.alive().await;
        let open =
            admin.leases("").await.map(|all| all.into_iter().filter(|l| l.state != "revoked").collect::<Vec<_>>());
        if alive.is_empty() && issuing.is_finished() && matches!(&open, Ok(open) if open.is_empty()) {
            break begin.elapsed().saturating_sub(TTL);
        }
        assert!(
            Instant::now() < deadline,
            "{what} of {hit}: {bound:?} after the end of the lease this is alive: {alive:?}; and these leases have not ended: {open:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let answer = match issuing.await.unwrap() {
        Ok((credential, session)) => {
            if let Some(mut session) = session {
                assert!(!session.alive().await, "{what} of {hit}: the session is ended");
            }
            assert!(place.enter(&credential).await.is_none(), "{what} of {hit}: the login is refused");
            "issued".to_owned()
        }
        Err(failure) => failure.code.to_owned(),
    };
    // What the one that was hit had under way would come to light now.
    for _ in 0..10 {
        let alive = place.alive().await;
        assert!(alive.is_empty(), "{what} of {hit}: this came back after all leases were revoked: {alive:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("{:<16} {:<6} {:<10} {answer:<22} {clean:.1?}", point.name, point.action, place.kind);
}
