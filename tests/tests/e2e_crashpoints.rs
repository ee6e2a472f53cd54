//! The leader killed, or stopped and continued, or told that it failed, at each point of a lease's life: whatever it was doing, nothing
//! stays.
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
use quorate_tests::{Cluster, Options, Process};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Before, between and after the steps of `crates/server/src/issue.rs` and `driver.rs`, in their order.
const POINTS: [&str; 18] = [
    "submit.p0",
    "lease.bound",
    "lease.p1.before",
    "lease.p1",
    "lease.p2.before",
    "lease.p2",
    "lease.p3",
    "lease.p4.before",
    "lease.p4",
    "lease.p5",
    "lease.p6.before",
    "lease.p6",
    "lease.p7",
    "lease.p8",
    "lease.p9",
    "lease.p10",
    "lease.p11.before",
    "lease.p11",
];
/// Those at which the log has no intent: what the client sends again may become a lease much later.
const UNMADE: [&str; 3] = ["submit.p0", "lease.bound", "lease.p1.before"];
/// How long the client may take to hear what became of its request.
const ANSWERED: Duration = Duration::from_secs(60);
/// Between the steps of `crates/server/src/rotation.rs`.
const ROTATION: [&str; 4] = ["rotate.committed", "rotate.allowed", "rotate.altered", "rotate.proved"];
const TTL: Duration = Duration::from_secs(3);
/// How long after its end nothing of a lease is left, with the loss of a leader in between.
const BOUND: Duration = Duration::from_secs(12);
/// The same where nobody leads anew, and the next search finds what was left behind: one is made each minute.
const SEARCHED: Duration = Duration::from_secs(75);
/// How long a stopped leader stays stopped: longer than an election takes, so that it wakes up as an old one.
const STOPPED: Duration = Duration::from_secs(4);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_point() {
    let table = run("kill").await;
    println!("{table}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_and_continued_at_each_point() {
    let table = run("stop").await;
    println!("{table}");
}

/// Whoever it happens to goes on, and does not know whether the step before has taken effect.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn failing_at_each_point() {
    let table = run("fail").await;
    println!("{table}");
}

async fn run(action: &str) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failpoint");
    let environment = vec![("FAILPOINT_FILE".to_owned(), file.display().to_string())];
    let cluster = Cluster::start(&Options { environment, rotate: true, ..Options::default() }).await.unwrap();
    let mut table = format!("{:<16} {action:<6} {:<14} clean after the end of the lease\n", "point", "answer");
    for point in POINTS {
        let (answer, clean) = case(&cluster, &file, point, action).await;
        writeln!(table, "{point:<16} {action:<6} {answer:<14} {clean:.1?}").unwrap();
    }
    for point in ROTATION {
        let completed = rotation(&cluster, &file, point, action).await;
        writeln!(table, "{point:<16} {action:<6} {:<14} {completed:.1?}", "rotated").unwrap();
    }
    table
}

/// What the server stores of the executor's password.
async fn stored(superuser: &tokio_postgres::Client) -> String {
    let sql = "SELECT rolpassword FROM pg_authid WHERE rolname = 'quorate_admin'";
    superuser.query_one(sql, &[]).await.unwrap().get(0)
}

/// One change of the executor's password through one point, in a new term of office. Returns how long it took.
async fn rotation(cluster: &Cluster, file: &PathBuf, point: &str, action: &str) -> Duration {
    let what = format!("{action} at {point}");
    let superuser = cluster.superuser().await.unwrap();
    let admin = cluster.admin().unwrap();
    let demo = cluster.client("demo").unwrap().with_timeout(Duration::from_secs(10));
    let credential = demo.issue_lease("reader", Some(120_000)).await.unwrap();
    let session = login_with(&credential).await.unwrap();
    settled(&admin, &what).await;
    let before = stored(&superuser).await;
    std::fs::write(file, format!("{point}={action}")).unwrap();
    let begin = Instant::now();
    // A lease is there, so whoever leads next takes office, and has another password.
    let leader = cluster.leader().await.unwrap().unwrap();
    cluster.node(leader).unwrap().stop().unwrap();
    wait(&what, "the point is reached", Duration::from_secs(30), || {
        if begin.elapsed() > STOPPED {
            cluster.node(leader).unwrap().cont().unwrap();
        }
        !file.exists()
    })
    .await;
    cluster.node(leader).unwrap().cont().unwrap();
    recover(cluster, file, &what, action).await;
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
async fn case(cluster: &Cluster, file: &PathBuf, point: &str, action: &str) -> (String, Duration) {
    let what = format!("{action} at {point}");
    let superuser = cluster.superuser().await.unwrap();
    let (demo, admin) = (cluster.client("demo").unwrap(), cluster.admin().unwrap());
    // Connections and the executor's office are up: the lease meets the point, not a cold start.
    demo.roles().await.unwrap_or_else(|why| panic!("{what}: the cluster is up before: {why}"));
    std::fs::write(file, format!("{point}={action}")).unwrap();
    let begin = Instant::now();
    let issuing = tokio::spawn(async move {
        let ttl = u64::try_from(TTL.as_millis()).unwrap();
        let credential = demo.issue_lease("reader", Some(ttl)).await?;
        // A session, so that there is something to end besides the login.
        let session = login_with(&credential).await.ok();
        Ok::<_, quorate_api::status::Failure>((credential, session))
    });
    wait(&what, "the point is reached", Duration::from_secs(12), || !file.exists()).await;
    let hit = recover(cluster, file, &what, action).await;

    let begin = if UNMADE.contains(&point) {
        wait(&what, "the client is answered", ANSWERED, || issuing.is_finished()).await;
        Instant::now()
    } else {
        begin
    };
    let bound = if (point, action) == ("lease.p10", "fail") { SEARCHED } else { BOUND };
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

/// Brings the node back that was hit: starts it again, or lets it go on when it has been stopped long enough. Where a step failed, nobody
/// is to end or stand still.
async fn recover<'a>(cluster: &'a Cluster, file: &Path, what: &str, action: &str) -> &'a str {
    let nodes: Vec<&Process> = [1, 2, 3].map(|m| cluster.node(m).unwrap()).into();
    if action == "fail" {
        for node in &nodes {
            assert!(node.alive() && !stopped(node.pid()), "{what}: {} goes on:\n{}", node.name(), node.log());
        }
        return "nobody";
    }
    let hit = |p: &&&Process| if action == "kill" { !p.alive() } else { stopped(p.pid()) };
    wait(what, "a node is hit", Duration::from_secs(5), || nodes.iter().any(|p| hit(&p))).await;
    let node = nodes.iter().find(hit).unwrap();
    if action == "kill" {
        node.wait_gone(Duration::from_secs(5)).await.unwrap();
        node.restart(&[("FAILPOINT_FILE", &file.display().to_string())]).unwrap();
    } else {
        tokio::time::sleep(STOPPED).await;
        node.cont().unwrap();
    }
    node.name()
}

async fn wait(what: &str, until: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < deadline, "{what}: not in {limit:?}: {until}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
