//! What others do at the server while leases live there, and what it does itself: it loses a role, holds one, stands still.

use super::{ENDED, assert_no_orphan, ended, hold_creates, run, search_each_second, wait_intent, wait_waiting};
use futures::StreamExt as _;
use quorate_api::client::Credential;
use quorate_api::vault::ListLeasesRequest;
use quorate_engines::scratch::PostgresServer;
use quorate_state::ids::LeaseId;
use quorate_tests::Cluster;
use quorate_tests::database::{FrozenDatabase, login, login_with};
use quorate_tests::footprint::TARGET;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A superuser drops the role of an active lease under its session: the lease knows the number by which that is found.
pub(crate) async fn a_role_that_was_dropped_by_hand(cluster: &Cluster) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let lease = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    let session = login_with(&lease).await.unwrap();
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    superuser.batch_execute(&format!("DROP ROLE {}", lease.username)).await.unwrap();
    assert!(session.simple_query("SELECT 1").await.is_ok(), "a session goes on without its role");
    let seen = cluster.footprint(&superuser).await.unwrap();
    assert!(seen.ghosts.contains(&pid), "process {pid} is a session of nobody: {seen:?}");
    demo.revoke(lease.lease).await.unwrap();
    let done = ended(cluster, lease.lease).await;
    assert_eq!(done.sessions_ended, 1, "it was seen before it was ended: {done:?}");
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session without a role is ended: {done:?}");
    let seen = cluster.footprint(&superuser).await.unwrap();
    assert!(!seen.ghosts.contains(&pid), "process {pid} is gone when the lease is called revoked: {seen:?}");
}

async fn until(client: &tokio_postgres::Client, sql: &str, what: &str) {
    let begun = Instant::now();
    while !client.query_one(sql, &[]).await.unwrap().get::<_, bool>(0) {
        assert!(begun.elapsed() < ENDED, "{what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A standby writes what it is sent and applies none of it: who asked for no more than the first goes on, who asked for the second waits.
pub(crate) async fn commits_that_a_standby_has_applied(cluster: &Cluster) {
    let servers = tokio::task::spawn_blocking(|| {
        let primary = PostgresServer::start().unwrap();
        let standby = primary.standby().unwrap();
        (primary, standby)
    });
    let (primary, standby) = servers.await.unwrap();
    let here = login(&primary.superuser("postgres")).await.unwrap();
    let there = login(&standby.superuser("postgres")).await.unwrap();
    here.batch_execute("CREATE ROLE vault LOGIN CREATEROLE PASSWORD 'of this test'").await.unwrap();
    here.batch_execute("GRANT pg_read_all_stats, pg_signal_backend TO vault").await.unwrap();
    here.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await.unwrap();
    here.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let sql = "SELECT count(*) = 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
    until(&here, sql, "the standby is synchronous").await;
    there.batch_execute("SELECT pg_wal_replay_pause()").await.unwrap();
    until(&there, "SELECT pg_get_wal_replay_pause_state() = 'paused'", "the standby applies nothing").await;

    let file = format!("{}/vault.password", cluster.text("/folder").unwrap());
    std::fs::write(&file, "of this test\n").unwrap();
    let port = primary.port().to_string();
    let described = ["--host", "127.0.0.1", "--port", &port, "--database", "postgres", "--user", "vault"];
    let add = |name: &'static str| [&["target", "add", name][..], &described, &["--password-file", &file]].concat();
    let said = run(cluster, &add("written"));
    assert!(said.contains("target written is enabled"), "what the standby has written is enough for it: {said}");
    run(cluster, &["target", "remove", "written"]);

    let mut adding = cluster.command("admin", &[&add("applied")[..], &["--remote-apply"]].concat()).unwrap();
    let adding = adding.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let sql = "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'vault' AND application_name LIKE 'quorate/applied/%'
        AND wait_event = 'SyncRep' AND state_change < clock_timestamp() - interval '1 s'";
    until(&here, sql, "a statement of the vault waits until the standby has applied it").await;
    there.batch_execute("SELECT pg_wal_replay_resume()").await.unwrap();
    let added = adding.wait_with_output().unwrap();
    let said = run(cluster, &["target", "check", "applied"]);
    assert!(said.contains("target applied is enabled"), "it goes on with the standby: {said}, before: {added:?}");
    let shown = run(cluster, &["target", "show", "applied"]);
    assert!(shown.contains("synchronous standbys have applied them"), "and that is what people see: {shown}");
    run(cluster, &["target", "remove", "applied"]);
}

/// Somebody's own session whose role was dropped: no lease explains it, so a person is told, for as long as it is there.
pub(crate) async fn a_session_that_nobody_explains(cluster: &Cluster, hurry: &Path) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let alarms = || run(cluster, &["--output", "json", "status"]);
    // What is searched is a target with leases.
    let lease = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    superuser.batch_execute("CREATE ROLE by_hand LOGIN").await.unwrap();
    let (folder, port) = cluster.postgres_socket().unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host_path(folder).port(port).user("by_hand").dbname("postgres");
    let session = login(&config).await.unwrap();
    let sql = "SELECT pg_backend_pid(), (SELECT oid FROM pg_roles WHERE rolname = 'by_hand')";
    let row = session.query_one(sql, &[]).await.unwrap();
    let (pid, oid): (i32, u32) = (row.get(0), row.get(1));
    superuser.batch_execute("DROP ROLE by_hand").await.unwrap();
    search_each_second(hurry);
    let (what, begun) = (format!("process {pid} at 127.0.0.1:{port}, whose account had number {oid}"), Instant::now());
    loop {
        let (said, shown) = (alarms(), run(cluster, &["target", "show", TARGET]));
        if said.contains("target_ghost_session") && shown.contains(&what) {
            break;
        }
        assert!(begun.elapsed() < ENDED, "there is an alarm, and who asks is told of {what}: {said}, {shown}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let told = demo.explained_roles().await.unwrap();
    assert!(!told.explained, "who may not list everybody's leases is not told what others do there");
    assert!(told.targets.iter().all(|t| t.ghosts.is_empty() && t.leftovers.is_empty()), "{told:?}");
    assert!(session.simple_query("SELECT 1").await.is_ok(), "whose it is nobody here knows, so nobody here ends it");
    drop(session);
    let begun = Instant::now();
    loop {
        let said = alarms();
        if !said.contains("target_ghost_session") {
            break;
        }
        assert!(begun.elapsed() < ENDED, "the alarm is over with the session: {said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    std::fs::remove_file(hurry).unwrap();
    demo.revoke(lease.lease).await.unwrap();
    ended(cluster, lease.lease).await;
}

/// A role's group is not there: a few of many requests reach the server, one after another and less and less often; the others are
/// answered here.
pub(crate) async fn a_role_that_the_server_refuses(cluster: &Cluster) {
    const REQUESTS: usize = 40;
    let (demo, admin) = (cluster.client("demo").unwrap(), cluster.admin().unwrap());
    let role = ["role", "add", "groupless", "--target", TARGET, "--group", "not_there", "--unproved"];
    run(cluster, &[&role[..], &["--ttl", "1m", "--max-ttl", "5m"]].concat());
    let scope = "action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"groupless\"";
    cluster.permit("groupless", &cluster.identity("demo").unwrap(), scope).await.unwrap();
    let (log, begun) = (format!("{}/log", cluster.postgres_socket().unwrap().0), Instant::now());
    let mut answers = Vec::new();
    for _ in 0..REQUESTS {
        let failure = demo.issue_lease("groupless", None).await.unwrap_err();
        let here = failure.code == "target_refused";
        assert!(!here || failure.message.contains("not_there"), "who is refused here is told why: {failure}");
        answers.push(failure.code);
    }
    let took = begun.elapsed();
    let said = String::from_utf8_lossy(&std::fs::read(log).unwrap()).into_owned();
    let errors = said.lines().filter(|line| line.contains("ERROR:") && line.contains("\"not_there\"")).count();
    println!("{REQUESTS} requests for what the server refuses: {errors} reached it in {took:?}");
    // After a pause of 1 s, of 2 s, of 4 s and so on.
    let most = 1 + (1..u32::BITS).take_while(|n| Duration::from_secs(2_u64.pow(*n) - 1) <= took).count();
    assert!((1..=most).contains(&errors), "{errors} of {REQUESTS} requests in {took:?} reached the server, not {most}");
    let here = answers.iter().filter(|code| **code == "target_refused").count();
    assert!(here + errors >= REQUESTS, "all others are refused before: {answers:?}");
    let wanted = ListLeasesRequest { role: "groupless".to_owned(), ..ListLeasesRequest::default() };
    let leases = admin.leases_that(wanted).await.unwrap();
    assert!(leases.len() <= errors, "nothing of the others is in the log: {leases:?}");
    run(cluster, &["role", "delete", "groupless"]);
}

/// Somebody holds the roles of hundreds of leases that are due: neither a request nor another's end waits for that, and they end when
/// he lets go.
pub(crate) async fn roles_that_somebody_holds(cluster: &Cluster) {
    const HELD: usize = 200;
    const ABREAST: usize = 16;
    let (demo, admin) = (&cluster.client("demo").unwrap(), cluster.admin().unwrap());
    let (superuser, holder) = (cluster.superuser().await.unwrap(), cluster.superuser().await.unwrap());
    let issued = futures::stream::iter(0..HELD)
        .map(|_| async move { demo.issue_lease("reader", Some(600_000)).await.unwrap() })
        .buffer_unordered(ABREAST);
    let issued: Vec<Credential> = issued.collect().await;
    let alter = |lease: &Credential| format!("ALTER ROLE {} CONNECTION LIMIT 4;", lease.username);
    let held: String = issued.iter().map(alter).collect();
    holder.batch_execute(&format!("BEGIN; {held}")).await.unwrap();
    let ids: Vec<LeaseId> = issued.iter().map(|lease| lease.lease).collect();
    let renewed = futures::stream::iter(ids.clone())
        .map(|id| async move { demo.renew(id, 1_000).await.unwrap() })
        .buffer_unordered(ABREAST);
    let ends: Vec<u64> = renewed.collect().await;
    assert_eq!(ends.len(), HELD, "all of them are due in a second");
    let revoking = async || {
        let found = admin.leases("revoking").await.unwrap();
        ids.iter().filter(|id| found.iter().any(|lease| lease.id == id.0)).count()
    };
    let begun = Instant::now();
    loop {
        let waiting = revoking().await;
        if waiting == HELD {
            break;
        }
        assert!(begun.elapsed() < ENDED, "all that are due are to end, and none has: {waiting} of {HELD}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let sql = "SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = 'quorate_admin' AND wait_event_type = 'Lock'
        AND query LIKE 'DROP ROLE %'";
    until(&superuser, sql, "the vault waits for who holds them").await;

    let begun = Instant::now();
    let lease = demo.issue_lease("reader", Some(60_000)).await.unwrap_or_else(|why| panic!("a request passes: {why}"));
    let session = login_with(&lease).await.unwrap();
    demo.revoke(lease.lease).await.unwrap();
    ended(cluster, lease.lease).await;
    assert!(session.simple_query("SELECT 1").await.is_err(), "what somebody asked to end has ended");
    assert_eq!(revoking().await, HELD, "and those that are held wait all the time");
    println!("{HELD} due roles are held: a lease was issued, used and revoked in {:?} meanwhile", begun.elapsed());

    holder.batch_execute("ROLLBACK").await.unwrap();
    let begun = Instant::now();
    loop {
        let (waiting, seen) = (revoking().await, cluster.footprint(&superuser).await.unwrap());
        let left = issued.iter().filter(|lease| !seen.lacks(&lease.username)).count();
        if waiting == 0 && left == 0 {
            break;
        }
        let limit = ENDED * 2;
        assert!(begun.elapsed() < limit, "nobody holds them: {waiting} of {HELD} have not ended, {left} are there");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    println!("they had ended {:?} after that", begun.elapsed());
}

/// Every process of the server stands still, for longer than the vault waits for an answer, while one lease is made, one was asked to
/// end before, one meanwhile, and one is due meanwhile: none is called revoked before the server goes on, and then all end.
pub(crate) async fn a_server_that_stands_still(cluster: &Cluster) {
    const STILL: Duration = Duration::from_secs(22);
    let (demo, admin, superuser) =
        (cluster.client("demo").unwrap(), cluster.admin().unwrap(), cluster.superuser().await.unwrap());
    let (mut issued, mut sessions) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let lease = demo.issue_lease("reader", Some(600_000)).await.unwrap();
        sessions.push(login_with(&lease).await.unwrap());
        issued.push(lease);
    }
    let [before, meanwhile, due] = [0, 1, 2].map(|n: usize| issued[n].lease);
    let holder = hold_creates(cluster).await;
    let asking = cluster.client("demo").unwrap().with_timeout(Duration::from_secs(12));
    let issuing = tokio::spawn(async move { asking.issue_lease("reader", Some(60_000)).await });
    let made = wait_intent(cluster).await;
    wait_waiting(&superuser).await;
    demo.revoke(before).await.unwrap();
    let (frozen, begun) = (FrozenDatabase::freeze(cluster).unwrap(), Instant::now());
    // Who kept it from being made goes, so that nothing keeps it when the server goes on.
    drop(holder);
    demo.revoke(meanwhile).await.unwrap();
    demo.renew(due, 1_000).await.unwrap();
    while begun.elapsed() < STILL {
        for lease in [made, meanwhile, due] {
            let now = admin.lease(lease).await.unwrap();
            assert_ne!(now.state, "revoked", "nobody has seen it end after {:?}: {now:?}", begun.elapsed());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    drop(frozen);
    for lease in [made, before, meanwhile, due] {
        let done = admin.wait_revoked(lease, ENDED * 2).await;
        done.unwrap_or_else(|why| panic!("lease {lease} has ended when the server goes on: {why}"));
    }
    for (credential, session) in issued.iter().zip(&sessions) {
        assert!(session.simple_query("SELECT 1").await.is_err(), "the session of {} is ended", credential.username);
        assert!(login_with(credential).await.is_err(), "the login of {} is refused", credential.username);
    }
    assert_eq!(admin.lease(due).await.unwrap().why, "expired", "it was due while nothing answered");
    assert_no_orphan(cluster, "the server stood still while it was made", made).await;
    // Whoever asked was told that it failed, or was given another one.
    if let Ok(credential) = issuing.await.unwrap() {
        assert_ne!(credential.lease, made, "a revoked lease is given to nobody");
        admin.revoke(credential.lease).await.unwrap();
        ended(cluster, credential.lease).await;
    }
}
