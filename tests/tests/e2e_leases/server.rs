//! What others do at the server while leases live there, and what it does itself: it loses a role, holds one, stands still.

use super::{ENDED, ended, run, search_each_second};
use quorate_engines::postgres_server::PostgresServer;
use quorate_tests::Cluster;
use quorate_tests::database::{login, login_with};
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
        let said = alarms();
        if said.contains("target_ghost_session") && said.contains(&what) {
            break;
        }
        assert!(begun.elapsed() < ENDED, "there is an alarm about {what}: {said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(session.simple_query("SELECT 1").await.is_ok(), "whose it is nobody here knows, so nobody here ends it");
    drop(session);
    let begun = Instant::now();
    loop {
        let said = alarms();
        if !said.contains(&what) {
            break;
        }
        assert!(begun.elapsed() < ENDED, "the alarm is over with the session: {said}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    std::fs::remove_file(hurry).unwrap();
    demo.revoke(lease.lease).await.unwrap();
    ended(cluster, lease.lease).await;
}
