//! The main path of leases on the newest PostgreSQL that is installed, where rights are given in other words than before 16: from the
//! description of a target to the end of its logins, with a leader killed in between. Everything else runs on the distribution's;
//! `QUORATE_POSTGRES=18` runs any whole-process test on this one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

use quorate_api::client::Credential;
use quorate_engines::scratch::Installed;
use quorate_state::ids::LeaseId;
use quorate_tests::database::{login, login_config, login_with};
use quorate_tests::footprint::TARGET;
use quorate_tests::{Cluster, Options};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Config};

/// The first version of which this is to be shown.
const AT_LEAST: u32 = 18;
/// How long an end may take, with an election and a pause of the driver in it.
const ENDED: Duration = Duration::from_secs(30);
/// How long a password may take that a new leader makes.
const ROTATED: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(200);
/// A target beside the one that dev has described, whose rights are given as the vault says.
const OTHER: &str = "newest";
/// Its group.
const GROUP: &str = "makers";
/// Who gets what its logins own.
const HEIR: &str = "heir";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_main_path() {
    let newest = Installed::all().pop().filter(|newest| newest.version >= AT_LEAST);
    let newest = newest.expect("PostgreSQL 18 is not installed beside the distribution's: run deploy/build/setup");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failpoint");
    let environment = vec![("FAILPOINT_FILE".to_owned(), file.display().to_string())];
    let options = Options { rotate: true, environment, postgres: Some(newest.version), ..Options::default() };
    let cluster = &Cluster::start(&options).await.unwrap();
    let superuser = cluster.superuser().await.unwrap();
    let version: String = superuser.query_one("SHOW server_version_num", &[]).await.unwrap().get(0);
    assert_eq!(version.parse::<u32>().unwrap() / 10_000, newest.version, "the server is the newest: {version}");

    connections_are_encrypted(cluster, &superuser, newest.version).await;
    the_first_password_is_replaced(cluster, &superuser).await;
    a_target_is_given_what_it_lacks(cluster, &superuser).await;
    a_role_at_which_nobody_asked_to_look(cluster, &superuser).await;
    a_life(cluster, &superuser).await;
    expiry(cluster).await;
    an_account_that_was_put_back(cluster, &superuser, &file).await;
    a_leader_that_is_killed(cluster, &superuser, &file).await;

    run(cluster, &["target", "remove", OTHER]);
    let seen = cluster.footprint(&superuser).await.unwrap();
    assert!(seen.is_empty(), "every lease has ended, and this is left at the database: {seen:?}");
}

/// Nobody is given another server than the one that was asked for, nor a cluster without any.
#[tokio::test]
async fn a_version_that_is_not_installed_is_refused() {
    let why = Cluster::start(&Options { postgres: Some(1), ..Options::default() }).await.unwrap_err().to_string();
    assert!(why.contains("error[invalid_argument]") && why.contains("PostgreSQL 1 is neither in"), "{why}");
}

/// What a command of the administrator prints.
fn run(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.cli("admin", arguments, b"").unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

async fn ended(cluster: &Cluster, lease: LeaseId) -> quorate_api::vault::Lease {
    let admin = cluster.admin().unwrap();
    admin.wait_revoked(lease, ENDED).await.unwrap_or_else(|why| panic!("lease {lease} is seen to have ended: {why}"))
}

/// The one field of the one row that a statement gives.
async fn one<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> T {
    client.query_one(sql, &[]).await.unwrap_or_else(|why| panic!("{sql}: {why}")).get(0)
}

/// Dev has described the target with the roots of its certificate, and has had it proved.
async fn connections_are_encrypted(cluster: &Cluster, superuser: &Client, version: u32) {
    let shown = run(cluster, &["target", "show", TARGET]);
    assert!(shown.contains("enabled") && shown.contains("verified, bound"), "{shown}");
    assert!(shown.contains(&format!("version {version}")), "the proof is of this server: {shown}");
    let sql = "SELECT count(*), count(*) FILTER (WHERE s.ssl AND s.version IN ('TLSv1.3', 'TLSv1.2'))
        FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.usename = $1";
    let row = superuser.query_one(sql, &[&cluster.text("/postgres/admin").unwrap()]).await.unwrap();
    let (all, encrypted): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 1 && all == encrypted, "{encrypted} of the executor's {all} connections are encrypted");
}

/// By one that is in the vault only.
async fn the_first_password_is_replaced(cluster: &Cluster, superuser: &Client) {
    let first = std::fs::read_to_string(cluster.text("/postgres/password_file").unwrap()).unwrap();
    let port: String = one(superuser, "SHOW port").await;
    let mut config = Config::new();
    config.host("127.0.0.1").port(port.parse().unwrap()).dbname("postgres");
    config.user(cluster.text("/postgres/admin").unwrap()).password(first.trim_end());
    let begun = Instant::now();
    let why = loop {
        match login(&config).await {
            Err(why) => break why,
            Ok(_) => assert!(begun.elapsed() < ROTATED, "the first password is replaced"),
        }
        tokio::time::sleep(LOOK).await;
    };
    assert_eq!(why.code().map(|code| code.code()), Some("28P01"), "the server refuses the first password: {why}");
}

/// Of each right that is missing the command prints the statement for this version, and with all of them it is enough.
async fn a_target_is_given_what_it_lacks(cluster: &Cluster, superuser: &Client) {
    let script = format!(
        "CREATE ROLE other_vault LOGIN PASSWORD 'of this test'; CREATE ROLE {GROUP} NOLOGIN;
         GRANT CREATE ON SCHEMA public TO {GROUP}"
    );
    superuser.batch_execute(&script).await.unwrap();
    let password = format!("{}/other.password", cluster.text("/folder").unwrap());
    std::fs::write(&password, "of this test\n").unwrap();
    let port: String = one(superuser, "SHOW port").await;
    let add = [
        &["target", "add", OTHER, "--host", "127.0.0.1", "--port", &port, "--user", "other_vault"][..],
        &["--database", "postgres", "--owner", HEIR, "--password-file", &password],
        &["--ca-file", cluster.text("/postgres/ca_file").unwrap()],
    ];
    let role = ["role", "add", OTHER, "--target", OTHER, "--group", GROUP, "--ttl", "1m", "--max-ttl", "5m"];
    let output = cluster.cli("admin", &add.concat(), b"").unwrap();
    assert!(!output.status.success(), "it lacks everything: {output:?}");
    // Described before anything is issued there, so that its group is one of those that are looked at.
    run(cluster, &[&role[..], &["--unproved"]].concat());
    let mut given = String::new();
    for round in 0.. {
        let output = cluster.cli("admin", &["target", "check", OTHER], b"").unwrap();
        if output.status.success() {
            break;
        }
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(round < 4, "what is said to be missing was given: {said}");
        given.push_str(&psql(cluster, &said));
    }
    for right in ["CREATEROLE", "pg_read_all_stats", "pg_signal_backend", "\"heir\" TO \"other_vault\""] {
        assert!(given.contains(right), "{right} was asked for: {given}");
    }
    assert!(given.contains("GRANT \"makers\" TO \"other_vault\" WITH ADMIN OPTION"), "as from 16 on: {given}");
    assert!(!given.contains("REVOKE CREATE"), "no login acts as its group there, so it may keep its rights: {given}");
    assert!(run(cluster, &["target", "show", OTHER]).contains("enabled"));
    let scope = format!("action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"{OTHER}\"");
    cluster.permit(OTHER, &cluster.identity("demo").unwrap(), &scope).await.unwrap();
}

/// Pastes what is printed into psql as it is; returns it.
fn psql(cluster: &Cluster, said: &str) -> String {
    let (_, script) =
        said.split_once("run there in psql, as its administrator:\n\n").unwrap_or_else(|| panic!("{said}"));
    let (script, _) = script.split_once("\n\n").or_else(|| script.split_once("\n  hint: ")).unwrap_or((script, ""));
    let (folder, port) = cluster.postgres_socket().unwrap();
    let mut psql = Command::new("psql");
    psql.args(["--no-psqlrc", "--set", "ON_ERROR_STOP=1", "--username", "postgres", "--dbname", "postgres"]);
    psql.args(["--host", folder, "--port", &port.to_string()]);
    psql.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = psql.spawn().expect("psql of the package postgresql runs");
    child.stdin.take().unwrap().write_all(format!("{script}\n").as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "psql takes\n{script}\nand says {done:?}");
    script.to_owned()
}

/// Its group leads to power. Whoever has described it did not wait for a proof, and is told all the same.
async fn a_role_at_which_nobody_asked_to_look(cluster: &Cluster, superuser: &Client) {
    superuser.batch_execute("CREATE ROLE strong NOLOGIN CREATEROLE").await.unwrap();
    let add = ["role", "add", "strong", "--target", OTHER, "--group", "strong", "--ttl", "1m", "--max-ttl", "5m"];
    run(cluster, &[&add[..], &["--unproved"]].concat());
    let begun = Instant::now();
    loop {
        let shown = run(cluster, &["target", "show", OTHER]);
        if shown.contains("ALTER ROLE \"strong\"") && shown.contains("NOCREATEROLE") {
            break;
        }
        assert!(begun.elapsed() < ENDED, "what it may do is found by itself: {shown}");
        tokio::time::sleep(LOOK).await;
    }
    run(cluster, &["role", "delete", "strong"]);
    let said = run(cluster, &["target", "check", OTHER]);
    assert!(said.contains("is enabled"), "without it all is well: {said}");
}

/// Used, renewed, and revoked under open sessions, with something of its own and something of its group's.
async fn a_life(cluster: &Cluster, superuser: &Client) {
    let demo = cluster.client("demo").unwrap();
    let lease = demo.issue_lease(OTHER, None).await.unwrap();
    let session = login_with(&lease).await.unwrap_or_else(|why| panic!("the credential logs in: {why}"));
    // The rights of its group, and not the right to act as it.
    let sql = format!(
        "SELECT array_agg(ARRAY[inherit_option, set_option, admin_option]::text) FROM pg_auth_members
         WHERE member = '{}'::regrole AND roleid = '{GROUP}'::regrole",
        lease.username
    );
    assert_eq!(one::<Vec<String>>(superuser, &sql).await, ["{t,f,f}"], "WITH INHERIT TRUE, SET FALSE, ADMIN FALSE");
    let set_role = format!("SET ROLE {GROUP}");
    let why = session.batch_execute(&set_role).await.unwrap_err();
    assert_eq!(why.code().map(|code| code.code()), Some("42501"), "a login does not act as its group: {why}");
    session.batch_execute("CREATE TABLE its_own (n integer); SELECT lo_create(4711)").await.unwrap();
    // Somebody gives it that right beside the vault.
    let beside = format!("GRANT {GROUP} TO {} WITH SET TRUE", lease.username);
    superuser.batch_execute(&beside).await.unwrap();
    let acting = login_with(&lease).await.unwrap();
    acting.batch_execute(&format!("{set_role}; CREATE TABLE the_groups (n integer)")).await.unwrap();
    let owner = async |table: &str| {
        one::<String>(superuser, &format!("SELECT tableowner::text FROM pg_tables WHERE tablename = '{table}'")).await
    };
    assert_eq!((owner("its_own").await, owner("the_groups").await), (lease.username.clone(), GROUP.to_owned()));

    let until = format!("SELECT rolvaliduntil::text FROM pg_roles WHERE rolname = '{}'", lease.username);
    let before: String = one(superuser, &until).await;
    let renewed = demo.renew(lease.lease, 120_000).await.unwrap();
    let later = renewed.saturating_sub(lease.expires_at);
    assert!((55_000..=90_000).contains(&later), "the lease ends about 60 s later than before: {later} ms");
    assert_eq!(one::<String>(superuser, &until).await, before, "a renewal leaves VALID UNTIL as it was made");

    session.batch_execute("BEGIN; INSERT INTO its_own VALUES (1)").await.unwrap();
    demo.revoke(lease.lease).await.unwrap();
    let done = ended(cluster, lease.lease).await;
    assert_eq!((done.why.as_str(), done.sessions_ended), ("requested", 2), "the proof says what was seen: {done:?}");
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session in a transaction is ended");
    assert!(acting.simple_query("SELECT 1").await.is_err(), "the session that acts as its group is ended");
    assert!(login_with(&lease).await.is_err(), "the login is refused");
    gone(superuser, &lease).await;
    let large = "SELECT lomowner::regrole::text FROM pg_largeobject_metadata WHERE oid = 4711";
    let owners = [owner("its_own").await, one::<String>(superuser, large).await, owner("the_groups").await];
    assert_eq!(owners, [HEIR, HEIR, GROUP], "what it owned is the heir's, and what its group owned stays");
    superuser.batch_execute("DROP TABLE its_own, the_groups; SELECT lo_unlink(4711)").await.unwrap();
}

/// Waits until nothing of a login is left: what it owned was cleaned up.
async fn gone(superuser: &Client, lease: &Credential) {
    let sql = format!("SELECT count(*) FROM pg_roles WHERE rolname = '{}'", lease.username);
    let begun = Instant::now();
    while one::<i64>(superuser, &sql).await > 0 {
        assert!(begun.elapsed() < ENDED, "nothing of {} is left", lease.username);
        tokio::time::sleep(LOOK).await;
    }
}

async fn expiry(cluster: &Cluster) {
    let begun = Instant::now();
    let lease = cluster.client("demo").unwrap().issue_lease("reader", Some(4_000)).await.unwrap();
    let session = login_with(&lease).await.unwrap();
    let note: String = one(&session, "SELECT note FROM demo").await;
    assert_eq!(note, "a row that leased logins may read", "it has the rights of its group");
    while session.simple_query("SELECT 1").await.is_ok() {
        assert!(begun.elapsed() < Duration::from_secs(4 + 7), "the session ends at most 7 s after its lease");
        tokio::time::sleep(LOOK / 2).await;
    }
    println!("expiry after 4 s: the session ended after {:?}", begun.elapsed());
    assert_eq!(ended(cluster, lease.lease).await.why, "expired");
    assert!(login_with(&lease).await.is_err(), "the login is refused after the end");
}

/// As from a backup: what has ended is there again with its password, and is found, adopted and ended once more.
async fn an_account_that_was_put_back(cluster: &Cluster, superuser: &Client, hurry: &Path) {
    let demo = cluster.client("demo").unwrap();
    let lease = demo.issue_lease("reader", Some(600_000)).await.unwrap();
    let stored: String =
        one(superuser, &format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{}'", lease.username)).await;
    demo.revoke(lease.lease).await.unwrap();
    let first = ended(cluster, lease.lease).await;
    assert_eq!(first.why, "requested");
    let (name, group) = (&lease.username, cluster.text("/postgres/group").unwrap());
    // From 16 on who has made a role may end it, by a membership that a backup has too.
    let executor = cluster.text("/postgres/admin").unwrap();
    let back = format!(
        "CREATE ROLE {name} LOGIN PASSWORD '{stored}'; GRANT {group} TO {name};
         GRANT {name} TO {executor} WITH ADMIN TRUE, INHERIT FALSE, SET FALSE"
    );
    superuser.batch_execute(&back).await.unwrap();
    let session = login_with(&lease).await.unwrap_or_else(|why| panic!("its password works again: {why}"));
    // Each target is searched every second, instead of every minute.
    std::fs::write(hurry, "reconcile.hurry=on\n").unwrap();
    let begun = Instant::now();
    let again = loop {
        let now = cluster.admin().unwrap().lease(lease.lease).await.unwrap();
        if now.state == "revoked" && now.why == "adopted" {
            break now;
        }
        assert!(begun.elapsed() < ENDED, "what was put back is found and ended: {now:?}");
        tokio::time::sleep(LOOK).await;
    };
    std::fs::remove_file(hurry).unwrap();
    assert!(again.revoked_index > first.revoked_index, "its second end has a place in the log: {again:?}");
    assert!(session.simple_query("SELECT 1").await.is_err(), "its session is ended");
    assert!(login_with(&lease).await.is_err(), "its login is refused");
    gone(superuser, &lease).await;
}

/// SIGKILL for the leader, behind the CREATE and before its answer: nothing of it stays, another leads, has another password, and all
/// goes on.
async fn a_leader_that_is_killed(cluster: &Cluster, superuser: &Client, file: &Path) {
    let demo = cluster.client("demo").unwrap();
    // While a lease is there, whoever leads next takes office at once.
    let kept = demo.issue_lease("reader", Some(300_000)).await.unwrap();
    let session = login_with(&kept).await.unwrap();
    let executor = cluster.text("/postgres/admin").unwrap();
    let stored = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{executor}'");
    let before: String = one(superuser, &stored).await;
    std::fs::write(file, "lease.p2=kill").unwrap();
    let asker = cluster.client("demo").unwrap();
    let asking = tokio::spawn(async move { asker.issue_lease("reader", Some(3_000)).await });
    let begun = Instant::now();
    let nodes = [1, 2, 3].map(|member| cluster.node(member).unwrap());
    let killed = loop {
        if let Some(killed) = nodes.iter().find(|node| !node.alive()) {
            break killed;
        }
        assert!(begun.elapsed() < ENDED, "the leader is killed behind the CREATE");
        tokio::time::sleep(LOOK / 10).await;
    };
    killed.restart(&[("FAILPOINT_FILE", &file.display().to_string())]).unwrap();
    // The client is told that it failed, or has another login by another leader; either has ended soon.
    let answer = asking.await.unwrap();
    println!(
        "{} was killed; the client: {:?}",
        killed.name(),
        answer.as_ref().map(|_| ()).map_err(ToString::to_string)
    );
    let begun = Instant::now();
    loop {
        let open = cluster.admin().unwrap().leases("").await.map(|all| {
            all.into_iter().filter(|lease| lease.state != "revoked" && lease.id != kept.lease.0).collect::<Vec<_>>()
        });
        let seen = cluster.footprint(superuser).await.unwrap();
        let only_kept = seen.roles.iter().all(|role| *role == kept.username) && seen.ghosts.is_empty();
        if only_kept && matches!(&open, Ok(open) if open.is_empty()) {
            break;
        }
        assert!(begun.elapsed() < ROTATED, "what the leader has made is ended: {seen:?}, {open:?}");
        tokio::time::sleep(LOOK).await;
    }
    if let Ok(credential) = answer {
        assert!(login(&login_config(&credential)).await.is_err(), "what was handed out in between has ended too");
    }
    assert!(session.simple_query("SELECT 1").await.is_ok(), "the lease that nobody ends goes on");
    while one::<String>(superuser, &stored).await == before {
        assert!(begun.elapsed() < ROTATED, "whoever leads now has given the executor another password");
        tokio::time::sleep(LOOK).await;
    }
    demo.revoke(kept.lease).await.unwrap();
    ended(cluster, kept.lease).await;
    assert!(session.simple_query("SELECT 1").await.is_err(), "and its session ends when somebody asks for it");
    gone(superuser, &kept).await;
}
