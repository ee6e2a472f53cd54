//! The leader killed, or stopped and continued, or told that it failed, at points of a lease's life, and of the rotation of an executor's
//! password: whatever it was doing, nothing stays. A seeded few; `QUORATE_SEED` repeats a run's choices, `QUORATE_POINTS=all` goes through all,
//! `QUORATE_POINTS=kill,stop` through those with these actions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

use quorate_api::client::Client;
use quorate_tests::database::login_with;
use quorate_tests::footprint::{Footprint, TARGET};
use quorate_tests::points::{ACTIONS, POINTS, Point, STOPPED, UNMADE};
use quorate_tests::random::Random;
use quorate_tests::{Cluster, Options, now};
use std::path::Path;
use std::time::{Duration, Instant};

/// How long the client may take to hear what became of its request.
const ANSWERED: Duration = Duration::from_secs(60);
/// Between the steps of `crates/server/src/rotation.rs`.
const ROTATION: [&str; 4] = ["rotate.committed", "rotate.allowed", "rotate.altered", "rotate.proved"];
const TTL: Duration = Duration::from_secs(3);

/// Of each action so many points of the issue and of the end of a lease, and of a rotation half as many.
const FEW: usize = 2;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_hit_leaves_nothing() {
    let said = |name: &str| std::env::var(name).unwrap_or_default();
    let (seed, which) = (said("QUORATE_SEED").parse().unwrap_or_else(|_| now()), said("QUORATE_POINTS"));
    println!("QUORATE_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failpoint");
    let environment = vec![("FAILPOINT_FILE".to_owned(), file.display().to_string())];
    let cluster = Cluster::start(&Options { environment, rotate: true, ..Options::default() }).await.unwrap();
    println!("{:<16} {:<6} {:<14} clean after the end of the lease", "point", "action", "answer");
    for (point, action) in chosen(seed, &which) {
        let (answer, clean) = if ROTATION.contains(&point) {
            ("rotated".to_owned(), rotation(&cluster, &file, point, action).await)
        } else {
            case(&cluster, &file, point, action).await
        };
        println!("{point:<16} {action:<6} {answer:<14} {clean:.1?}");
    }
}

/// All points of these actions; or of each action a few.
fn chosen(seed: u64, which: &str) -> Vec<(&'static str, &'static str)> {
    let mut random = Random(seed);
    let (begin, end) = POINTS.split_at(POINTS.len() / 2);
    let mut cases = Vec::new();
    for action in ACTIONS {
        if which.is_empty() {
            for half in [begin, end] {
                cases.extend((0..FEW).map(|_| (random.one(half).unwrap(), action)));
            }
            cases.extend((0..FEW / 2).map(|_| (random.one(&ROTATION).unwrap(), action)));
        } else if which.split(',').any(|word| word == "all" || word == action) {
            cases.extend(POINTS.into_iter().chain(ROTATION).map(|point| (point, action)));
        }
    }
    cases
}

/// What the server stores of the executor's password.
async fn stored(superuser: &tokio_postgres::Client) -> String {
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'quorate_admin'";
    superuser.query_one(sql, &[]).await.unwrap().get(0)
}

/// One change of the executor's password through one point, in a new term of office. Returns how long it took.
async fn rotation(cluster: &Cluster, file: &Path, point: &'static str, action: &'static str) -> Duration {
    let what = format!("{action} at {point}");
    let superuser = cluster.superuser().await.unwrap();
    let admin = cluster.admin().unwrap();
    let demo = cluster.client("demo").unwrap().with_timeout(Duration::from_secs(10));
    let credential = demo.issue_lease("reader", Some(120_000)).await.unwrap();
    let session = login_with(&credential).await.unwrap();
    settled(&admin, &what).await;
    let before = stored(&superuser).await;
    let point = Point::set(file, point, action).unwrap();
    let begin = Instant::now();
    // A lease is there, so whoever leads next takes office, and has another password.
    let leader = cluster.leader().await.unwrap().unwrap();
    cluster.node(leader).unwrap().stop().unwrap();
    while !point.reached() {
        if begin.elapsed() > STOPPED {
            cluster.node(leader).unwrap().cont().unwrap();
        }
        assert!(begin.elapsed() < Duration::from_secs(30), "{what}: the point is not reached");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cluster.node(leader).unwrap().cont().unwrap();
    point.recover(cluster).await.unwrap_or_else(|why| panic!("{what}: {why}"));
    // The successor takes office for the lease, completes what was begun, and rotates on its own account.
    loop {
        let after = stored(&superuser).await;
        let shown = admin.roles().await.map(|r| r.targets.into_iter().find(|t| t.name == TARGET).unwrap());
        if after != before && shown.as_ref().is_ok_and(|t| !t.rotating && t.rotated_at > 0) {
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "{what}: the password is rotated: {shown:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let took = begin.elapsed();
    settled(&admin, &what).await;
    // All its sessions are new ones now: they know the password.
    let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'quorate_admin'";
    superuser.query(sql, &[]).await.unwrap();
    demo.revoke(credential.lease).await.unwrap();
    let done = admin.wait_revoked(credential.lease, Duration::from_secs(30)).await;
    done.unwrap_or_else(|why| panic!("{what}: the lease ends: {why}"));
    assert!(session.simple_query("SELECT 1").await.is_err(), "{what}: its session is ended");
    took
}

/// Waits until the password of the target is that of the present term of office.
async fn settled(admin: &Client, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut last = (0, Instant::now());
    loop {
        let shown = admin.roles().await.map(|r| r.targets.into_iter().find(|t| t.name == TARGET).unwrap());
        match &shown {
            Ok(t) if t.rotating || t.password_index != last.0 => last = (t.password_index, Instant::now()),
            Ok(_) if last.1.elapsed() > Duration::from_secs(4) => return,
            _ => {}
        }
        assert!(Instant::now() < deadline, "{what}: no more rotations: {shown:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

/// One lease through one point. Returns what the client was told, and when nothing was left of it.
async fn case(cluster: &Cluster, file: &Path, point: &'static str, action: &'static str) -> (String, Duration) {
    let what = format!("{action} at {point}");
    let superuser = cluster.superuser().await.unwrap();
    let (demo, admin) = (cluster.client("demo").unwrap(), cluster.admin().unwrap());
    // Connections and the executor's office are up: the lease meets the point, not a cold start.
    demo.roles().await.unwrap_or_else(|why| panic!("{what}: the cluster is up before: {why}"));
    let point = Point::set(file, point, action).unwrap();
    let begin = Instant::now();
    let issuing = tokio::spawn(async move {
        let ttl = u64::try_from(TTL.as_millis()).unwrap();
        let credential = demo.issue_lease("reader", Some(ttl)).await?;
        // A session, so that there is something to end besides the login.
        let session = login_with(&credential).await.ok();
        Ok::<_, quorate_api::status::Failure>((credential, session))
    });
    let hit = async {
        point.wait_reached(Duration::from_secs(12)).await?;
        point.recover(cluster).await
    };
    let hit = hit.await.unwrap_or_else(|why| panic!("{what}: {why}"));

    let begin = if UNMADE.contains(&point.name) {
        while !issuing.is_finished() {
            assert!(begin.elapsed() < ANSWERED, "{what}: the client is not answered");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Instant::now()
    } else {
        begin
    };
    let bound = point.bound();
    let deadline = begin + TTL + bound;
    let clean = loop {
        let seen = cluster.footprint(&superuser).await.unwrap();
        let open =
            admin.leases("").await.map(|all| all.into_iter().filter(|l| l.state != "revoked").collect::<Vec<_>>());
        if seen.is_empty() && matches!(&open, Ok(open) if open.is_empty()) {
            break begin.elapsed();
        }
        assert!(
            Instant::now() < deadline,
            "{what} of {hit}: {bound:?} after the end of the lease this is at the database: {seen:?}; and these leases \
             have not ended: {open:?}"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    let answer = match issuing.await.unwrap() {
        Ok((credential, session)) => {
            if let Some(session) = session {
                assert!(session.simple_query("SELECT 1").await.is_err(), "{what} of {hit}: the session is ended");
            }
            assert!(login_with(&credential).await.is_err(), "{what} of {hit}: the login is refused");
            "issued".to_owned()
        }
        Err(failure) => failure.code.to_owned(),
    };
    // What the one that was hit had under way would come to light now.
    for _ in 0..10 {
        let seen = cluster.footprint(&superuser).await.unwrap();
        assert_eq!(seen, Footprint::default(), "{what} of {hit}: something came back after all leases were revoked");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    (answer, clean.saturating_sub(TTL))
}
