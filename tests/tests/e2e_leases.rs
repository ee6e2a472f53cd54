//! Leases against a real PostgreSQL: revoked means that the login is refused and every session of it is gone, whatever the
//! session was doing, whoever led, and whether or not the database answered at the time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

#[path = "e2e_leases/pooler.rs"]
mod pooler;
#[path = "e2e_leases/programs.rs"]
mod programs;
#[path = "e2e_leases/server.rs"]
mod server;
#[path = "e2e_leases/standby.rs"]
mod standby;

use quorate_api::client::{Client, Credential, Role, Submitted};
use quorate_api::scram;
use quorate_api::status::Failure;
use quorate_state::change::Change;
use quorate_state::ids::LeaseId;
use quorate_state::lease::{Selector, principal};
use quorate_state::outcome::Outcome;
use quorate_state::request::SignedRequest;
use quorate_state::target::{Executor, claim};
use quorate_tests::database::{FrozenDatabase, login_config, login_with};
use quorate_tests::footprint::TARGET;
use quorate_tests::terminal::Answer;
use quorate_tests::{Cluster, Options, Sought};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a revocation may take, with an election and a pause of the driver in it.
const ENDED: Duration = Duration::from_secs(20);
const ELECTION: Duration = Duration::from_secs(20);
/// A database whose name has to be quoted wherever it is written.
const MORE: &str = "More of it=that's";

/// A cluster, and the file by which it is told to search its targets each second.
async fn start(folder: &Path) -> (Cluster, PathBuf) {
    let hurry = folder.join("hurry");
    let environment = vec![("FAILPOINT_FILE".to_owned(), hurry.display().to_string())];
    (Cluster::start(&Options { rotate: true, environment, ..Options::default() }).await.unwrap(), hurry)
}

async fn nothing_is_left(cluster: &Cluster) {
    let superuser = cluster.superuser().await.unwrap();
    let left = cluster.footprint(&superuser).await.unwrap();
    assert!(left.is_empty(), "every lease has ended, and this is left at the database: {left:?}");
}

/// What the server, or what stands before or beside it, does to leases.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, hurry) = start(folder.path()).await;
    server::commits_that_a_standby_has_applied(&cluster).await;
    standby::lives_and_takes_over(&cluster).await;
    server::a_role_that_was_dropped_by_hand(&cluster).await;
    server::a_role_that_the_server_refuses(&cluster).await;
    server::roles_that_somebody_holds(&cluster).await;
    server::a_session_that_nobody_explains(&cluster, &hurry).await;
    server::a_server_that_stands_still(&cluster).await;
    nothing_is_left(&cluster).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases() {
    let folder = tempfile::tempdir().unwrap();
    let (cluster, hurry) = start(folder.path()).await;
    nobody_knows_the_password(&cluster).await;
    a_life(&cluster).await;
    a_life_by_commands(&cluster).await;
    the_server_s_own_log(&cluster).await;
    the_executor_s_connections(&cluster).await;
    a_target_that_lacks_something(&cluster, &hurry).await;
    a_target_that_is_typed(&cluster).await;
    pooler::is_refused_by_name(&cluster).await;
    a_server_elsewhere_is_typed(&cluster);
    a_copy_of_the_cluster(&cluster).await;
    every_session_ends(&cluster).await;
    expiry(&cluster).await;
    one_request_one_lease(&cluster).await;
    revoked_while_it_is_being_created(&cluster).await;
    a_paused_leader_creates_nothing_afterwards(&cluster).await;
    let restored = a_backup_is_restored(&cluster).await;
    all_leases_of_one_kind(&cluster).await;
    programs::end_with_their_logins(&cluster).await;
    programs::without_a_majority(&cluster).await;
    it_ends_again(&cluster, &restored).await;
    a_database_that_does_not_answer(&cluster).await;
    a_password_that_was_changed_by_hand(&cluster).await;
    a_certificate_that_was_replaced(&cluster).await;
    nothing_is_left(&cluster).await;
}

async fn ended(cluster: &Cluster, lease: LeaseId) -> quorate_api::vault::Lease {
    let admin = cluster.admin().unwrap();
    admin.wait_revoked(lease, ENDED).await.unwrap_or_else(|why| panic!("lease {lease} is seen to have ended: {why}"))
}

/// What a command of the administrator prints.
fn run(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.cli("admin", arguments, b"").unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What it says when it refuses with a code.
fn refused(cluster: &Cluster, arguments: &[&str], code: &str) -> String {
    let output = cluster.cli("admin", arguments, b"").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(&format!("error[{code}]")), "{arguments:?} is {code}: {said}");
    said
}

/// That a login is handed out stands in the audit log of the node that answers when the answer is here, whether it leads or not.
async fn recorded_before_it_is_answered(cluster: &Cluster) {
    let (owner, mut issued) = (cluster.identity("demo").unwrap(), Vec::new());
    for member in 1..=3 {
        let lease = cluster.through("demo", &[member]).unwrap().issue_lease("reader", Some(60_000)).await.unwrap();
        let (lines, name) = (cluster.audit_lines(&Sought::Lease(lease.lease)).unwrap(), cluster.name(member));
        let answers: Vec<_> = lines.iter().filter(|l| l.record.operation == "lease.answer").collect();
        assert!(!answers.is_empty(), "{name}, which has answered, has recorded it by then: {lines:?}");
        for answer in answers {
            assert_eq!(answer.member, name, "nobody else has answered: {answer:?}");
            assert_eq!(answer.record.principal, owner.principal(), "for whom: {answer:?}");
            assert_eq!(answer.record.details.get("login"), Some(&lease.username), "which login: {answer:?}");
        }
        cluster.admin().unwrap().revoke(lease.lease).await.unwrap();
        issued.push(lease.lease);
    }
    for lease in issued {
        ended(cluster, lease).await;
    }
}

async fn a_life(cluster: &Cluster) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    recorded_before_it_is_answered(cluster).await;
    let lease = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    let session = login_with(&lease).await.unwrap_or_else(|why| panic!("the credential logs in: {why}"));
    let note: String = session.query_one("SELECT note FROM demo", &[]).await.unwrap().get(0);
    assert_eq!(note, "a row that leased logins may read", "it has the rights of its group");
    let write = session.execute("INSERT INTO demo VALUES (2, 'x')", &[]).await;
    assert!(write.is_err(), "it has no right beyond its group's");
    // The target's own limit is the longest that the lease may live with every renewal: 600 s from its issue.
    let sql = "SELECT extract(epoch FROM rolvaliduntil - now())::float8, rolconnlimit, rolvaliduntil::text, xmin::text
        FROM pg_authid WHERE rolname = $1";
    let row = superuser.query_one(sql, &[&lease.username]).await.unwrap();
    let (left, connections): (Option<f64>, i32) = (row.get(0), row.get(1));
    let before: (Option<String>, String) = (row.get(2), row.get(3));
    assert!(
        left.is_some_and(|left| (580.0..=601.0).contains(&left)),
        "VALID UNTIL is 600 s after the issue: {left:?} s"
    );
    assert_eq!(connections, 4, "the role's limit of connections");

    let renewed = demo.renew(lease.lease, 120_000).await.unwrap();
    let later = renewed.saturating_sub(lease.expires_at);
    assert!((55_000..=90_000).contains(&later), "the lease ends about 60 s later than before: {later} ms");
    let capped = demo.renew(lease.lease, 3_600_000).await.unwrap();
    let life = capped.saturating_sub(lease.expires_at) + 60_000;
    assert!(life <= 600_000, "no renewal goes beyond the role's limit: {life} ms");
    let row = superuser.query_one(sql, &[&lease.username]).await.unwrap();
    let after: (Option<String>, String) = (row.get(2), row.get(3));
    assert_eq!(after, before, "renewals leave VALID UNTIL, and the role's whole row, as the CREATE has written them");

    demo.revoke(lease.lease).await.unwrap();
    let done = ended(cluster, lease.lease).await;
    assert!(
        done.sessions_ended >= 1 && done.proof_looked_at > 0 && done.proof_endpoint.ends_with(" (primary only)"),
        "the proof says what was seen: {done:?}"
    );
    assert!(
        done.revoking_index > done.active_index && done.revoked_index > done.revoking_index,
        "in this order in the log: {done:?}"
    );
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session is ended");
    assert!(login_with(&lease).await.is_err(), "the login is refused");
    let failure = demo.renew(lease.lease, 10_000).await.unwrap_err();
    assert_eq!(failure.code, "lease_state", "an ended lease is not renewed: {failure}");
    let failure = demo.issue_lease("raeder", None).await.unwrap_err();
    assert_eq!(failure.code, "not_found", "a role with a typo: {failure}");
    let failure = demo.issue_lease("reader", Some(601_000)).await.unwrap_err();
    assert_eq!(failure.code, "invalid_argument", "longer than the role allows: {failure}");
}

/// The same by the command line, and all leases of a namespace.
async fn a_life_by_commands(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    let document = |arguments: &[&str]| -> serde_json::Value {
        serde_json::from_str(&run(cluster, &[&["--output", "json", "lease"], arguments].concat())).unwrap()
    };
    let kept = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    let id = kept.lease.to_string();
    let shown = document(&["show", &id]);
    assert_eq!((&shown["state"], &shown["username"]), (&"active".into(), &kept.username.as_str().into()), "{shown}");
    let renewed = document(&["renew", &id, "--ttl", "2m"]);
    let later = renewed["expires_at"].as_u64().unwrap().saturating_sub(kept.expires_at);
    assert!((55_000..=90_000).contains(&later), "it ends about 60 s later than before: {renewed}");
    assert_eq!(document(&["show", &id])["expires_at"], renewed["expires_at"], "and everybody sees that");

    run(cluster, &["namespace", "create", "spaced"]);
    let group = cluster.text("/postgres/group").unwrap();
    let role = ["role", "add", "spaced", "--target", TARGET, "--group", group, "--ttl", "1m", "--max-ttl", "5m"];
    run(cluster, &[&role[..], &["--namespace", "spaced", "--unproved"]].concat());
    let scope = "action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"spaced\"";
    cluster.permit("spaced", &cluster.identity("demo").unwrap(), scope).await.unwrap();
    let spaced = demo.issue_lease("spaced", None).await.unwrap();
    let session = login_with(&spaced).await.unwrap();
    let done = document(&["revoke", "--namespace", "space", "--wait"]);
    assert_eq!((done["state"].as_str(), &document(&["show", &id])["state"]), (Some("revoked"), &"active".into()));
    assert!(session.simple_query("SELECT 1").await.is_ok(), "a namespace is no beginning of a name");
    let done = document(&["revoke", "--namespace", "spaced", "--wait"]);
    let ended = document(&["show", &spaced.lease.to_string()]);
    assert_eq!((&ended["state"], &ended["revoking_index"]), (&"revoked".into(), &done["index"]), "{ended}");
    assert!(session.simple_query("SELECT 1").await.is_err(), "its session is ended");

    // With its role a lease ends; a role of that name that is described while it does is another, and its leases stay.
    let deleted = demo.issue_lease("spaced", None).await.unwrap();
    let session = login_with(&deleted).await.unwrap();
    run(cluster, &["role", "delete", "spaced"]);
    run(cluster, &[&role[..], &["--namespace", "spaced", "--unproved"]].concat());
    let again = demo.issue_lease("spaced", None).await.unwrap();
    let other = login_with(&again).await.unwrap();
    let done = self::ended(cluster, deleted.lease).await;
    assert_eq!(done.why, "role deleted", "why it ended: {done:?}");
    assert!(session.simple_query("SELECT 1").await.is_err(), "its session is ended with its role");
    assert!(login_with(&deleted).await.is_err(), "its login is refused");
    assert_eq!(document(&["show", &again.lease.to_string()])["state"], "active", "the later role's lease goes on");
    assert!(other.simple_query("SELECT 1").await.is_ok(), "and its session with it");
    run(cluster, &["role", "delete", "spaced"]);
    let done = self::ended(cluster, again.lease).await;
    assert_eq!(done.why, "role deleted", "the later role ends its own: {done:?}");
    assert!(other.simple_query("SELECT 1").await.is_err(), "its session is ended too");

    let session = login_with(&kept).await.unwrap_or_else(|why| panic!("the other namespace's goes on: {why}"));
    let done = document(&["revoke", &id, "--wait"]);
    let seen = (done["state"].as_str(), done["why"].as_str(), done["sessions_ended"].as_u64());
    assert_eq!(seen, (Some("revoked"), Some("requested"), Some(1)), "the proof of its end: {done}");
    assert!(session.simple_query("SELECT 1").await.is_err(), "its session is ended");
    let shown = run(cluster, &["lease", "show", &id]);
    assert!(shown.contains("its end was seen") && shown.contains("1 sessions ended"), "{shown}");
    // The roles of this test have asked for proofs, which make logins: they are gone when a later one is there.
    run(cluster, &["target", "check", TARGET]);
}

/// From a line of the server's own log to who asked for that login, by an audit log alone: the cluster forgets it in a week.
async fn the_server_s_own_log(cluster: &Cluster) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    for setting in ["log_connections = on", "log_line_prefix = '%m login=%u '"] {
        superuser.batch_execute(&format!("ALTER SYSTEM SET {setting}")).await.unwrap();
    }
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let credential = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    let (log, begun) = (format!("{}/log", cluster.postgres_socket().unwrap().0), Instant::now());
    let login = loop {
        login_with(&credential).await.unwrap();
        let said = String::from_utf8_lossy(&std::fs::read(&log).unwrap()).into_owned();
        let authorized = said.lines().filter(|line| line.contains("connection authorized"));
        let mut logins =
            authorized.filter_map(|line| line.split_once(" login=")?.1.split(' ').next().map(str::to_owned));
        if let Some(login) = logins.rfind(|login| login.len() >= 42) {
            break login;
        }
        assert!(begun.elapsed() < ENDED, "the server logs who logs in: {said}");
    };
    let begun = Instant::now();
    loop {
        let folder = cluster.text(&format!("/members/{}/audit_dir", cluster.name(1))).unwrap();
        let output =
            cluster.cli("admin", &["--output", "json", "audit", "show", folder, "--lease", &login], b"").unwrap();
        // A member that runs may be in the middle of a line.
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let mut issued = found["records"].as_array().into_iter().flatten().filter(|r| r["operation"] == "lease.issue");
        if let Some(issue) = issued.find(|record| record["details"]["login"] == login.as_str()) {
            assert_eq!(issue["principal"], cluster.identity("demo").unwrap().principal(), "who asked for it: {issue}");
            assert_eq!(issue["details"]["lease"], credential.lease.to_string(), "and which lease it is: {issue}");
            break;
        }
        assert!(begun.elapsed() < ENDED, "the audit log names {login}: {output:?}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for setting in ["log_connections", "log_line_prefix"] {
        superuser.batch_execute(&format!("ALTER SYSTEM RESET {setting}")).await.unwrap();
    }
    superuser.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    demo.revoke(credential.lease).await.unwrap();
    ended(cluster, credential.lease).await;
}

/// How the administrative login of the target connects.
fn administrative(cluster: &Cluster, port: u16, password: &str) -> tokio_postgres::Config {
    let mut config = tokio_postgres::Config::new();
    config.host("127.0.0.1").port(port).dbname("postgres").user(cluster.text("/postgres/admin").unwrap());
    config.password(password);
    config
}

async fn port(superuser: &tokio_postgres::Client) -> u16 {
    let port: String = superuser.query_one("SELECT current_setting('port')", &[]).await.unwrap().get(0);
    port.parse().unwrap()
}

/// The one with which the target was described was replaced at once, by one that is in the vault only.
async fn nobody_knows_the_password(cluster: &Cluster) {
    let superuser = cluster.superuser().await.unwrap();
    let first = std::fs::read_to_string(cluster.text("/postgres/password_file").unwrap()).unwrap();
    let config = administrative(cluster, port(&superuser).await, first.trim_end());
    let begun = Instant::now();
    let why = loop {
        match quorate_tests::database::login(&config).await {
            Err(why) => break why,
            Ok(_) => assert!(begun.elapsed() < ENDED, "the first password is replaced"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    assert_eq!(why.code().map(|code| code.code()), Some("28P01"), "the server refuses the first password: {why}");
    let begun = Instant::now();
    loop {
        let shown = run(cluster, &["target", "show", TARGET]);
        if shown.contains("last rotated") && !shown.contains("being rotated") {
            break;
        }
        assert!(begun.elapsed() < ENDED, "people see that: {shown}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let listed = run(cluster, &["target", "list"]);
    assert!(listed.contains("ROTATED") && !listed.contains("never yet"), "{listed}");
}

/// Somebody has changed it at the server: the vault says so, and is told.
async fn a_password_that_was_changed_by_hand(cluster: &Cluster) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let due = demo.issue_lease("reader", Some(8_000)).await.unwrap();
    let session = login_with(&due).await.unwrap();
    let sql = "ALTER ROLE quorate_admin PASSWORD 'by hand';
        SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'quorate_admin'";
    superuser.batch_execute(sql).await.unwrap();
    let begun = Instant::now();
    loop {
        let status = run(cluster, &["--output", "json", "status"]);
        if status.contains("target_credential_refused") {
            assert!(status.contains(&format!("quorate target password {TARGET}")), "what to do: {status}");
            break;
        }
        assert!(begun.elapsed() < ENDED, "there is an alarm: {status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(begun.elapsed())).await;
    assert!(session.simple_query("SELECT 1").await.is_ok(), "its time is over, and nobody gets in to end it");
    let file = format!("{}/by-hand", cluster.text("/folder").unwrap());
    std::fs::write(&file, "by hand\n").unwrap();
    let said = run(cluster, &["target", "password", TARGET, "--password-file", &file]);
    assert!(said.contains("is enabled"), "the target is proved with it: {said}");
    assert_eq!(ended(cluster, due.lease).await.why, "expired");
    assert!(session.simple_query("SELECT 1").await.is_err(), "its session is ended");
    // Nobody is to know this one either.
    let (config, begun) = (administrative(cluster, port(&superuser).await, "by hand"), Instant::now());
    while quorate_tests::database::login(&config).await.is_ok() {
        assert!(begun.elapsed() < ENDED, "the password that was given by hand is replaced");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let status = run(cluster, &["--output", "json", "status"]);
    assert!(!status.contains("target_credential_refused"), "the alarm is over: {status}");
    let last = demo.issue_lease("reader", None).await.unwrap();
    demo.revoke(last.lease).await.unwrap();
    ended(cluster, last.lease).await;
}

/// A certificate for this machine from an authority of its own: that, the certificate and its key, in PEM.
fn certificate() -> (String, String, String) {
    let mut params = rcgen::CertificateParams::default();
    params.distinguished_name.push(rcgen::DnType::CommonName, "another authority");
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let authority = rcgen::CertifiedIssuer::self_signed(params, rcgen::KeyPair::generate().unwrap()).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let own = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    (authority.pem(), own.pem(), key.serialize_pem())
}

/// A server gets a certificate from another authority before the vault is told, and nothing is lost by that.
async fn a_certificate_that_was_replaced(cluster: &Cluster) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let due = demo.issue_lease("reader", Some(8_000)).await.unwrap();
    let session = login_with(&due).await.unwrap();
    let folder: String = superuser.query_one("SELECT current_setting('data_directory')", &[]).await.unwrap().get(0);
    let files = ["server.crt", "server.key"].map(|file| Path::new(&folder).join(file));
    let before = files.clone().map(|file| std::fs::read_to_string(file).unwrap());
    let serve = async |texts: &[String; 2]| {
        // Written in place: the server's user keeps them.
        for (file, text) in files.iter().zip(texts) {
            std::fs::write(file, text).unwrap();
        }
        let sql = "SELECT pg_reload_conf();
            SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'quorate_admin'";
        superuser.batch_execute(sql).await.unwrap();
    };
    let (authority, own, key) = certificate();
    serve(&[own, key]).await;
    let begun = Instant::now();
    loop {
        let status = run(cluster, &["--output", "json", "status"]);
        if status.contains("target_credential_refused") {
            let what = format!("quorate target change {TARGET}");
            assert!(status.contains("certificate is not trusted") && status.contains(&what), "what to do: {status}");
            break;
        }
        assert!(begun.elapsed() < ENDED, "there is an alarm: {status}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    tokio::time::sleep(Duration::from_secs(10).saturating_sub(begun.elapsed())).await;
    assert!(session.simple_query("SELECT 1").await.is_ok(), "its time is over, and nobody gets in to end it");
    let old = cluster.text("/postgres/ca_file").unwrap();
    let both = format!("{}/both.pem", cluster.text("/folder").unwrap());
    std::fs::write(&both, std::fs::read_to_string(old).unwrap() + &authority).unwrap();
    let operator = ["--operator", cluster.text("/operator").unwrap()];
    let signed = [&operator[..], &["--passphrase-file", cluster.text("/passphrase_file").unwrap()]].concat();
    let said = run(cluster, &[&["target", "change", TARGET, "--ca-file", &both][..], &signed].concat());
    assert!(said.contains("is enabled"), "the target is proved with it: {said}");
    assert_eq!(ended(cluster, due.lease).await.why, "expired");
    assert!(session.simple_query("SELECT 1").await.is_err(), "its session is ended");
    // Both count while they are exchanged, and then one.
    serve(&before).await;
    let last = demo.issue_lease("reader", None).await.unwrap();
    let why =
        refused(cluster, &[&["target", "change", TARGET, "--port", "9"][..], &signed].concat(), "invalid_argument");
    assert!(why.contains("leases are there"), "it stays the same server: {why}");
    demo.revoke(last.lease).await.unwrap();
    ended(cluster, last.lease).await;
    let said = run(cluster, &[&["target", "change", TARGET, "--ca-file", old][..], &signed].concat());
    assert!(said.contains("is enabled"), "{said}");
    refused(cluster, &[&["target", "change", TARGET][..], &signed].concat(), "invalid_argument");
}

/// Encrypted, with a server that has proved who it is: one that has not gets no login made, and the password neither.
async fn the_executor_s_connections(cluster: &Cluster) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let sql = "SELECT count(*), count(*) FILTER (WHERE s.ssl) FROM pg_stat_activity a JOIN pg_stat_ssl s USING (pid) WHERE a.usename = $1";
    let row = superuser.query_one(sql, &[&cluster.text("/postgres/admin").unwrap()]).await.unwrap();
    let (all, encrypted): (i64, i64) = (row.get(0), row.get(1));
    assert!(all >= 1 && all == encrypted, "{encrypted} of the executor's {all} connections are encrypted");

    let port: String = superuser.query_one("SELECT current_setting('port')", &[]).await.unwrap().get(0);
    let (ca, password) = (cluster.text("/postgres/ca_file").unwrap(), cluster.text("/postgres/password_file").unwrap());
    let described = ["--host", "127.0.0.1", "--port", &port, "--user", cluster.text("/postgres/admin").unwrap()];
    let (ca, password) = (["--ca-file", ca], ["--password-file", password]);
    let misnamed =
        [&["target", "add", "misnamed", "--server-name", "db.example"][..], &described, &ca, &password].concat();
    let why = refused(cluster, &misnamed, "target_not_enabled");
    assert!(why.contains("certificate is not trusted"), "a server whose certificate is for another name: {why}");
    let listed = run(cluster, &["target", "list"]);
    assert!(
        listed.lines().any(|l| l.trim_start().starts_with("misnamed") && l.contains("verified, bound")),
        "{listed}"
    );
    run(cluster, &["role", "add", "misnamed", "--target", "misnamed", "--ttl", "1m", "--max-ttl", "5m", "--unproved"]);
    let scope = "action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"misnamed\"";
    cluster.permit("misnamed", &cluster.identity("demo").unwrap(), scope).await.unwrap();
    let failure = demo.issue_lease("misnamed", None).await.unwrap_err();
    assert_eq!(failure.code, "target_not_enabled", "nothing is issued there: {failure}");
    run(cluster, &["target", "remove", "misnamed"]);
    let listed = run(cluster, &["target", "list"]);
    assert!(!listed.contains("misnamed"), "without a lease it goes at once: {listed}");

    let folder = cluster.text("/folder").unwrap();
    for (file, text) in
        [("none.pem", ""), ("bad.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n")]
    {
        let file = format!("{folder}/{file}");
        std::fs::write(&file, text).unwrap();
        let arguments = [&["target", "add", "broken", "--ca-file", &file][..], &described, &password].concat();
        let output = cluster.cli("admin", &arguments, b"").unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains("invalid_argument"), "{file}: {said}");
    }
}

/// What is printed to be pasted into psql, pasted there as it is.
fn paste(cluster: &Cluster, said: &str) {
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
}

async fn superuser_in(cluster: &Cluster, database: &str) -> tokio_postgres::Client {
    let (folder, port) = cluster.postgres_socket().unwrap();
    let mut config = tokio_postgres::Config::new();
    config.host_path(folder).port(port).user("postgres").dbname(database);
    quorate_tests::database::login(&config).await.unwrap()
}

/// Has each target searched every second, instead of every minute, as long as the file is there.
fn search_each_second(hurry: &Path) {
    std::fs::write(hurry, "reconcile.hurry=on\n").unwrap();
}

/// What others granted an ended login, in two databases, only they can take back: who looks at its target or its lease is told
/// where it is, until they have.
async fn what_others_granted_it(cluster: &Cluster, target: &str, lease: &Credential, hurry: &Path) {
    let (superuser, id) = (cluster.superuser().await.unwrap(), lease.lease.to_string());
    let told = || {
        let shown = run(cluster, &["--output", "json", "target", "show", target]);
        let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
        let mut left = shown["leftovers"].as_array().into_iter().flatten();
        let left = left.find(|left| left["login"] == lease.username.as_str());
        let why = left.and_then(|left| left["why"].as_str()).unwrap_or_default().to_owned();
        (why, run(cluster, &["lease", "show", &id]))
    };
    search_each_second(hurry);
    let begun = Instant::now();
    loop {
        let (at_target, shown) = told();
        if at_target.contains(MORE) && shown.contains("not cleaned up") && shown.contains(MORE) {
            break;
        }
        assert!(begun.elapsed() < ENDED, "people see what is left, and where: at the target {at_target:?}; {shown}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    for database in [cluster.text("/postgres/database").unwrap(), MORE] {
        let revoke = format!("REVOKE CREATE ON SCHEMA public FROM \"{}\"", lease.username);
        superuser_in(cluster, database).await.batch_execute(&revoke).await.unwrap();
    }
    let (sql, begun) = ("SELECT count(*) FROM pg_roles WHERE rolname = $1", Instant::now());
    loop {
        let roles: i64 = superuser.query_one(sql, &[&lease.username]).await.unwrap().get(0);
        let (at_target, shown) = told();
        if roles == 0 && at_target.is_empty() && !shown.contains("not cleaned up") {
            break;
        }
        assert!(begun.elapsed() < ENDED, "nothing is left, and so it is shown: {roles} roles, {at_target:?}; {shown}");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    std::fs::remove_file(hurry).unwrap();
}

/// A new administrator follows what the commands say, and nothing else.
async fn a_target_that_lacks_something(cluster: &Cluster, hurry: &Path) {
    let superuser = cluster.superuser().await.unwrap();
    superuser
        .batch_execute("CREATE ROLE weak LOGIN PASSWORD 'a weak password'; CREATE ROLE strong NOLOGIN CREATEROLE")
        .await
        .unwrap();
    superuser.batch_execute(&format!("CREATE DATABASE \"{MORE}\"")).await.unwrap();
    let port: String = superuser.query_one("SELECT current_setting('port')", &[]).await.unwrap().get(0);
    let password = format!("{}/weak.password", cluster.text("/folder").unwrap());
    std::fs::write(&password, "a weak password\n").unwrap();
    let database = cluster.text("/postgres/database").unwrap();
    let add = [
        &["target", "add", "weak", "--host", "127.0.0.1", "--port", &port, "--user", "weak", "--database", database][..],
        &["--also-database", MORE, "--owner", "heir", "--password-file", &password],
        &["--ca-file", cluster.text("/postgres/ca_file").unwrap()],
    ];
    let missing = refused(cluster, &add.concat(), "target_not_enabled");
    assert!(missing.contains("ALTER ROLE \"weak\" CREATEROLE;"), "the SQL that is missing: {missing}");
    // As often as it takes: what is missing shows when what was missing before is there.
    let mut rounds = 0;
    loop {
        let output = cluster.cli("admin", &["target", "check", "weak"], b"").unwrap();
        if output.status.success() {
            break;
        }
        rounds += 1;
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(rounds <= 3, "what is said to be missing was given: {said}");
        paste(cluster, &said);
    }
    let shown = run(cluster, &["target", "show", "weak"]);
    assert!(shown.contains("enabled") && shown.contains(MORE) && shown.contains("goes to heir"), "{shown}");
    // A role that asks for too much is said to, and what its statements are is understood before anything is written.
    let base = ["role", "add", "weak", "--target", "weak", "--ttl", "1m", "--max-ttl", "5m"];
    let said = run(cluster, &[&base[..], &["--group", "strong"]].concat());
    assert!(said.contains("does not do what leases need"), "a group with power of its own: {said}");
    let second = "ALTER ROLE {{name}} SET work_mem = '1MB'; CREATE ROLE other";
    let why = refused(cluster, &[&base[..], &["--statements", second]].concat(), "invalid_argument");
    assert!(why.contains("line 1, column"), "where it is not acceptable: {why}");
    let good = "ALTER ROLE {{name}} SET work_mem = '1MB'; COMMENT ON ROLE {{name}} IS {{lease}}";
    // Nor is a name made of what PostgreSQL would take for something else, or would cut.
    for username in ["", "a\"; DROP ROLE postgres; --", "{{name}}", "d\u{e9}mo", "aaaaaaaaaaaaaaaaaaaaa"] {
        let output = cluster.cli("admin", &[&base[..], &["--username", username]].concat(), b"").unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(
            !output.status.success() && said.contains("--username"),
            "{username:?} is refused before it is sent: {said}"
        );
        if !username.is_empty() {
            let role = Role { target: "weak".into(), username: username.into(), ..Role::default() };
            let why = cluster.admin().unwrap().put_role("weak", &role).await.unwrap_err();
            assert!(why.code == "invalid_argument" && why.message.contains("username"), "and by the members: {why}");
        }
    }
    let whose = "{{identity:4}}_{{role}}_{{identity}}_{{identity}}";
    run(cluster, &[&base[..], &["--statements", good, "--username", whose]].concat());
    let scope = "action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"weak\"";
    cluster.permit("weak", &cluster.identity("demo").unwrap(), scope).await.unwrap();
    let demo = cluster.client("demo").unwrap();
    let lease = demo.issue_lease("weak", None).await.unwrap();
    let ours = principal(&cluster.profile().cluster, "weak", &lease.lease);
    assert_eq!(lease.username, format!("{ours}_demo_weak_demo_demo"), "whose login it is can be read in its name");
    let session = login_with(&lease).await.unwrap();
    let seen = "SELECT count(*) FROM pg_stat_activity WHERE usename = $1";
    let seen: i64 = superuser.query_one(seen, &[&lease.username]).await.unwrap().get(0);
    assert_eq!(seen, 1, "and that is what an administrator sees");
    let set: String = session.query_one("SELECT current_setting('work_mem')", &[]).await.unwrap().get(0);
    let comment = "SELECT shobj_description(oid, 'pg_authid') FROM pg_roles WHERE rolname = $1";
    let comment: String = superuser.query_one(comment, &[&lease.username]).await.unwrap().get(0);
    assert_eq!((set.as_str(), comment), ("1MB", lease.lease.to_string()), "what the role's statements say");
    // What it owns, in both databases, is the heir's afterwards.
    let group = format!("GRANT CREATE ON SCHEMA public TO \"{}\"", lease.username);
    superuser.batch_execute(&group).await.unwrap();
    superuser_in(cluster, MORE).await.batch_execute(&group).await.unwrap();
    session.batch_execute("CREATE TABLE kept (n integer)").await.unwrap();
    let mut there = login_config(&lease);
    let there = quorate_tests::database::login(there.dbname(MORE)).await.unwrap();
    there.batch_execute("CREATE TABLE kept (n integer)").await.unwrap();
    run(cluster, &["lease", "revoke", "--target", "weak", "--wait"]);
    assert!(session.simple_query("SELECT 1").await.is_err(), "its session is ended");
    assert!(there.simple_query("SELECT 1").await.is_err(), "and that in the other database");
    let (owner, begun) = ("SELECT tableowner::text FROM pg_tables WHERE tablename = 'kept'", Instant::now());
    for database in [database, MORE] {
        let there = superuser_in(cluster, database).await;
        loop {
            let owned_by: String = there.query_one(owner, &[]).await.unwrap().get(0);
            if owned_by == "heir" {
                break;
            }
            assert!(begun.elapsed() < ENDED, "what an ended lease owned in {database} is the heir's, not {owned_by}'s");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
    what_others_granted_it(cluster, "weak", &lease, hurry).await;
    // What people look at.
    let metrics = run(cluster, &["metrics"]);
    assert!(metrics.lines().any(|l| l == "quorate_target_enabled{target=\"weak\"} 1"), "{metrics}");
    let live = run(cluster, &["--output", "json", "lease", "watch", "--times", "2", "--every", "100ms"]);
    assert_eq!(live.lines().filter(|l| l.contains("\"oldest_unconfirmed_seconds\"")).count(), 2, "{live}");
    let tree = run(cluster, &["lease", "tree", "--state", "revoked"]);
    assert!(tree.contains("  app  ") && tree.contains(&lease.lease.to_string()), "{tree}");
    // Bounds: one lease at this target, and then none.
    run(cluster, &["quota", "set", "--target", "weak", "--limit", "1"]);
    let one = demo.issue_lease("weak", None).await.unwrap();
    let full = demo.issue_lease("weak", None).await.unwrap_err();
    assert_eq!(full.code, "quota", "{full}");
    let mut leases = vec![one];
    removed(cluster, "weak", &leases).await;
    // Described again: nothing of the one before is in the way, and its bound went with it.
    let said = run(cluster, &add.concat());
    assert!(said.contains("target weak is enabled"), "a target of that name is proved as if it were the first: {said}");
    run(cluster, &[&base[..], &["--unproved"]].concat());
    leases.clear();
    for _ in 0..2 {
        leases.push(demo.issue_lease("weak", None).await.unwrap());
    }
    removed(cluster, "weak", &leases).await;
}

/// A target with leases whose sessions are open is removed: they end, and with the last of them it goes.
async fn removed(cluster: &Cluster, target: &str, leases: &[Credential]) {
    let mut sessions = Vec::new();
    for lease in leases {
        sessions.push(login_with(lease).await.unwrap_or_else(|why| panic!("{} logs in: {why}", lease.username)));
    }
    run(cluster, &["target", "remove", target]);
    for (lease, session) in leases.iter().zip(&sessions) {
        let done = ended(cluster, lease.lease).await;
        assert_eq!(done.why, "target deleted", "why it ended: {done:?}");
        assert!(session.simple_query("SELECT 1").await.is_err(), "the session of {} is ended", lease.username);
        assert!(login_with(lease).await.is_err(), "the login of {} is refused", lease.username);
    }
    let listed = run(cluster, &["--output", "json", "target", "list"]);
    assert!(!listed.contains(&format!("\"{target}\"")), "with its last lease it goes: {listed}");
}

/// Described at a terminal, by somebody who mistypes, thinks better of it, and then gets it right.
async fn a_target_that_is_typed(cluster: &Cluster) {
    let superuser = cluster.superuser().await.unwrap();
    let port: String = superuser.query_one("SELECT current_setting('port')", &[]).await.unwrap().get(0);
    let wait = |wait, typed| Answer { wait, hidden: false, typed };
    let hide = |typed| Answer { wait: "Password of weak at 127.0.0.1:", hidden: true, typed };
    let add = ["target", "add", "--ca-file", cluster.text("/postgres/ca_file").unwrap()];
    let given =
        [&add[..], &["typed", "--host", "127.0.0.1", "--user", "weak", "--port", &port, "--database", "more"]].concat();
    // ^C at a question and at the password, hanging up at both, and no password: nothing is described.
    let at = |what: &str, arguments: &[&str], answers: &[Answer<'_>], status: i64| {
        let left = cluster.dialogue("admin", arguments, answers).unwrap();
        assert_eq!(left.status, status, "{what}: {left:?}");
        assert!(left.echoes, "{what}: the terminal shows again what is typed: {left:?}");
        left.shown
    };
    at(
        "^C at a question",
        &add,
        &[wait("Name of the target: ", "typed\n"), wait("What kind of system it is [postgresql]: ", "\u{3}")],
        -2,
    );
    at("^C at the password", &given, &[hide("half a pass\u{3}")], 130);
    let said = at("the end at a question", &add, &[wait("Name of the target: ", "\u{4}")], 1);
    assert!(said.contains("Name of the target: the input has ended"), "{said}");
    at("the end at the password", &given, &[hide("\u{4}")], 1);
    let said = at("no password", &given, &[hide("\n"), hide("\n"), hide("\n")], 1);
    assert!(said.contains("no password was given"), "{said}");
    assert!(!run(cluster, &["target", "list"]).contains("typed"), "nothing is half described");

    let typed = format!("{port}\n");
    let answers = [
        wait("Name of the target: ", "Typed By Hand\n"),
        wait("Name of the target: ", "typed\n"),
        wait("What kind of system it is [postgresql]: ", "oracle\n"),
        wait("What kind of system it is [postgresql]: ", "\n"),
        wait("Host of the postgresql server: ", "\n"),
        wait("Host of the postgresql server: ", " 127.0.0.1 \n"),
        wait("Port [5432]: ", "70000\n"),
        wait("Port [5432]: ", "0\n"),
        wait("Port [5432]: ", &typed),
        wait("Database to connect to [postgres]: ", "\n"),
        wait("Administrative login: ", "weak\n"),
        hide("\n"),
        hide("a weak password\n"),
        wait("the vault's own [yes]: ", "perhaps\n"),
        wait("the vault's own [yes]: ", "no\n"),
    ];
    let shown = at("a whole description", &add, &answers, 0);
    assert!(
        shown.contains("nothing was given") && shown.contains("70000: is no port"),
        "why it is asked again: {shown}"
    );
    assert!(!shown.contains("a weak password"), "the password is shown to nobody: {shown}");
    let described: serde_json::Value =
        serde_json::from_str(&run(cluster, &["--output", "json", "target", "show", "typed"])).unwrap();
    let text = |key: &str| described[key].to_string().trim_matches('"').to_owned();
    let found = ["name", "host", "port", "database", "user"].map(text);
    assert_eq!(found, ["typed", "127.0.0.1", &port, "postgres", "weak"], "{described}");
    assert_eq!(described["rotate"], false, "as was answered: {described}");
    assert_eq!(text("standing"), "enabled", "with the password that was typed: {described}");
    run(cluster, &["target", "remove", "typed"]);
}

/// To a server elsewhere goes nothing in clear, so what vouches for it is asked for, until it does.
fn a_server_elsewhere_is_typed(cluster: &Cluster) {
    let wait = |wait, typed| Answer { wait, hidden: false, typed };
    let certificates = "of which one has issued the server's: ";
    let empty = format!("{}/none.pem", cluster.text("/folder").unwrap());
    std::fs::write(&empty, "").unwrap();
    let (empty, ca) = (format!("{empty}\n"), format!("{}\n", cluster.text("/postgres/ca_file").unwrap()));
    let answers = [
        wait("What kind of system it is [postgresql]: ", "\n"),
        wait("Host of the postgresql server: ", "db.example.invalid\n"),
        wait("Port [5432]: ", "\n"),
        wait("Database to connect to [postgres]: ", "\n"),
        wait("Administrative login: ", "vault\n"),
        wait(certificates, "\n"),
        wait(certificates, "/there/is/none.pem\n"),
        wait(certificates, &empty),
        wait(certificates, &ca),
        Answer { wait: "Password of vault at db.example.invalid:5432: ", hidden: true, typed: "a password\n" },
        wait("the vault's own [yes]: ", "no\n"),
    ];
    let typed = cluster.dialogue("admin", &["target", "add", "elsewhere", "--unproved"], &answers).unwrap();
    assert_eq!(typed.status, 0, "it is described: {typed:?}");
    let shown = run(cluster, &["target", "show", "elsewhere"]);
    assert!(
        shown.contains("db.example.invalid:5432/postgres as vault") && shown.contains("verified, bound"),
        "{shown}"
    );
    run(cluster, &["target", "remove", "elsewhere"]);
    // Where nobody can be asked, it says what to give.
    let add = ["target", "add", "elsewhere", "--host", "db.example.invalid", "--port", "5432", "--database", "app"];
    let said = refused(cluster, &[&add[..], &["--user", "vault", "--unproved"]].concat(), "invalid_argument");
    assert!(said.contains("--ca-file"), "{said}");
}

/// Somebody has started a copy of this cluster's folders, and it has been in office: this one stops, until a person decides.
async fn a_copy_of_the_cluster(cluster: &Cluster) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let kept = demo.issue_lease("reader", Some(30_000)).await.unwrap();
    let issued = Instant::now();
    let id = cluster.profile().cluster;
    let copy = Executor { member: 1, term: 1, epoch: 99, nonce: [9; 8], past: Vec::new(), taken_over: 0 };
    let foreign = principal(&id, TARGET, &LeaseId([9; 16]));
    superuser
        .batch_execute(&format!(
            "CREATE ROLE {} NOLOGIN CONNECTION LIMIT 0; CREATE ROLE {foreign} LOGIN",
            claim(&id, TARGET, &copy)
        ))
        .await
        .unwrap();
    // A new leader looks at once, before it touches anything.
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    cluster.node(leader).unwrap().stop().unwrap();
    let begun = Instant::now();
    while !matches!(cluster.leader().await, Ok(Some(new)) if new != leader) {
        assert!(begun.elapsed() < ELECTION, "another member leads");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    cluster.node(leader).unwrap().cont().unwrap();
    let begun = Instant::now();
    let said = loop {
        let said = run(cluster, &["target", "show", TARGET]);
        if said.contains("QUARANTINED") {
            break said;
        }
        assert!(begun.elapsed() < Duration::from_secs(90), "the other claim is seen: {said}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    assert!(said.contains("end 1 logins that no lease here") && said.contains(&foreign), "what it would end: {said}");
    let failure = demo.issue_lease("reader", None).await.unwrap_err();
    assert_eq!(failure.code, "quarantined", "{failure}");
    tokio::time::sleep(Duration::from_secs(33).saturating_sub(issued.elapsed())).await;
    assert!(login_with(&kept).await.is_ok(), "its time is over, and nothing is ended there");
    let operator = cluster.text("/operator").unwrap();
    let take = ["target", "take-over", TARGET, "--counter", "99", "--operator", operator];
    let passphrase = cluster.text("/passphrase_file").unwrap();
    run(cluster, &[&take[..], &["--passphrase-file", passphrase]].concat());
    assert_eq!(ended(cluster, kept.lease).await.why, "expired");
    let (admin, begun) = (cluster.admin().unwrap(), Instant::now());
    while admin.lease(LeaseId([9; 16])).await.is_err() {
        assert!(begun.elapsed() < ENDED, "a search follows at once");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(ended(cluster, LeaseId([9; 16])).await.why, "adopted", "by the log, as everything that ends");
    demo.issue_lease("reader", Some(1_000)).await.unwrap();
}

/// Idle, in a transaction, in a statement: none outlives the revocation.
async fn every_session_ends(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    let lease = demo.issue_lease("reader", None).await.unwrap();
    let idle = login_with(&lease).await.unwrap();
    let open = login_with(&lease).await.unwrap();
    open.batch_execute("BEGIN; SELECT * FROM demo").await.unwrap();
    let busy = login_with(&lease).await.unwrap();
    let asleep = tokio::spawn(async move { busy.simple_query("SELECT pg_sleep(600)").await.is_err() });
    // A session that holds its own role: DROP has to wait for it, and must not.
    let holding = login_with(&lease).await.unwrap();
    holding.batch_execute(&format!("BEGIN; ALTER ROLE {} SET work_mem = '1MB'", lease.username)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(300)).await;
    demo.revoke(lease.lease).await.unwrap();
    let begin = Instant::now();
    let done = ended(cluster, lease.lease).await;
    println!("four sessions: their end was seen {:?} after the revocation was committed", begin.elapsed());
    assert!(idle.simple_query("SELECT 1").await.is_err(), "the idle session is ended: {done:?}");
    assert!(open.simple_query("SELECT 1").await.is_err(), "the session in a transaction is ended: {done:?}");
    assert!(holding.simple_query("SELECT 1").await.is_err(), "the session that holds its role is ended: {done:?}");
    let woken = tokio::time::timeout(Duration::from_secs(1), asleep).await;
    assert!(matches!(woken, Ok(Ok(true))), "the session in pg_sleep is ended: {woken:?}, {done:?}");
}

async fn expiry(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    let begin = Instant::now();
    let lease = demo.issue_lease("reader", Some(4_000)).await.unwrap();
    let session = login_with(&lease).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_500).saturating_sub(begin.elapsed())).await;
    let early = session.simple_query("SELECT 1").await;
    assert!(early.is_ok() || begin.elapsed() > Duration::from_secs(3), "it lives until its end: {early:?}");
    let deadline = begin + Duration::from_secs(4 + 7);
    while session.simple_query("SELECT 1").await.is_ok() {
        assert!(Instant::now() < deadline, "the session is ended at most 7 s after its lease has expired");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    println!("expiry after 4 s: the session ended after {:?}", begin.elapsed());
    let done = ended(cluster, lease.lease).await;
    assert_eq!(done.why, "expired", "why it ended: {done:?}");
    assert!(login_with(&lease).await.is_err(), "the login is refused after the end");
}

/// By what they have in common, at one log index, with a receipt that is waited for; and nobody else's.
async fn all_leases_of_one_kind(cluster: &Cluster) {
    let (demo, admin) = (cluster.client("demo").unwrap(), cluster.client("admin").unwrap());
    let identity = demo.leases("").await.unwrap().remove(0).owner;
    let (below, _) = identity.rsplit_once('/').unwrap();
    for which in [["--role", "reader"], ["--target", TARGET], ["--owner", &identity], ["--below", below]] {
        let (mut taken, mut sessions) = (Vec::new(), Vec::new());
        for _ in 0..3 {
            taken.push(demo.issue_lease("reader", Some(60_000)).await.unwrap());
            sessions.push(login_with(taken.last().unwrap()).await.unwrap());
        }
        let arguments = ["lease", "revoke", which[0], which[1], "--wait", "--wait-at-most", "20s", "--output", "json"];
        let done = cluster.cli("admin", &arguments, b"").unwrap();
        assert!(done.status.success(), "{which:?}: {done:?}");
        let receipt: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
        assert_eq!(receipt["state"], "revoked", "{which:?}: {receipt}");
        for (credential, session) in taken.iter().zip(&sessions) {
            let lease = admin.lease(credential.lease).await.unwrap();
            let (state, why, at) = (lease.state.as_str(), lease.why.as_str(), lease.revoking_index);
            assert_eq!((state, why, Some(at)), ("revoked", "requested", receipt["index"].as_u64()), "{which:?}");
            assert!(session.simple_query("SELECT 1").await.is_err(), "{which:?}: the session is ended");
            assert!(login_with(credential).await.is_err(), "{which:?}: the login is refused");
        }
    }
    let spared = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    for which in [["--role", "other"], ["--target", "other"], ["--owner", below], ["--below", "spiffe://nobody"]] {
        let done = cluster.cli("admin", &["lease", "revoke", which[0], which[1], "--wait"], b"").unwrap();
        assert!(done.status.success(), "{which:?} names none: {done:?}");
    }
    assert_eq!(admin.lease(spared.lease).await.unwrap().state, "active", "nobody has named it");
    let failure = demo.revoke_all(Selector::Role("reader".to_owned())).await.unwrap_err();
    assert_eq!(failure.code, "denied", "who may take a lease may not end everybody's: {failure}");
    a_right_to_end_and_not_to_see(cluster, &spared).await;
    let spared = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    let targets = admin.roles().await.unwrap().targets;
    let counts = targets
        .iter()
        .filter(|t| t.name == TARGET)
        .map(|t| (t.leases_intent, t.leases_active, t.leases_due + t.leases_asked));
    assert_eq!(counts.collect::<Vec<_>>(), [(0, 1, 0)], "the leases of each target are counted");
    demo.revoke(spared.lease).await.unwrap();
    ended(cluster, spared.lease).await;
}

/// It ends them, and says that it cannot tell whether they have ended: no receipt for what was not looked at.
async fn a_right_to_end_and_not_to_see(cluster: &Cluster, lease: &Credential) {
    let ender = cluster.issue("app/ender").unwrap();
    let scope = "action == Quorate::Action::\"lease:revoke-all\", resource";
    cluster.permit("ender", &ender, scope).await.unwrap();
    let file = cluster.issued("app/ender").unwrap();
    let revoke = |which: &[&str]| {
        let arguments = [&["--identity", &file, "lease", "revoke"], which, &["--wait", "--output", "json"]].concat();
        cluster.cli("admin", &arguments, b"").unwrap()
    };
    let (domain, _) = ender.principal().split_once("/app/").unwrap();
    for which in [["--role", "reader"], ["--target", TARGET], ["--below", domain]] {
        let done = revoke(&which);
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && done.stdout.is_empty(), "{which:?}: there is no receipt: {done:?}");
        assert!(said.contains("\"denied\"") && said.contains("lease:list"), "{which:?}: it says why: {said}");
    }
    assert_eq!(ended(cluster, lease.lease).await.why, "requested", "they are ended all the same");
    let own = revoke(&["--owner", ender.principal()]);
    assert!(own.status.success(), "its own leases it can see, and there is none: {own:?}");
}

fn request(client: &Client, password: &[u8]) -> SignedRequest {
    let verifier = scram::verifier(password, &[7; 16], 4_096);
    client.sign(Change::IssueLease { role: "reader".into(), verifier, ttl: Some(60_000) }, None)
}

fn lease_of(done: &Submitted) -> LeaseId {
    let Outcome::Intent { lease, .. } = &done.outcome else { panic!("an issue's outcome: {:?}", done.outcome) };
    *lease
}

/// The answer was lost: the same request again, at other nodes, at the same time and later, is the same lease.
async fn one_request_one_lease(cluster: &Cluster) {
    let (demo, superuser) = (cluster.client("demo").unwrap(), cluster.superuser().await.unwrap());
    let before = cluster.footprint(&superuser).await.unwrap();
    let signed = request(&demo, b"a password of one request only");
    let through = |member| cluster.through("demo", &[member]).unwrap();
    let (one, two, three) = (through(1), through(2), through(3));
    let (a, b, c) = tokio::join!(one.submit(&signed), two.submit(&signed), three.submit(&signed));
    let again = demo.submit(&signed).await;
    let ids: Vec<LeaseId> = [a, b, c, again].into_iter().map(|r| lease_of(&r.unwrap())).collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "one request has one lease: {ids:?}");
    let after = cluster.footprint(&superuser).await.unwrap();
    assert_eq!(after.roles.len(), before.roles.len() + 1, "one request has made one role: {before:?}, {after:?}");
    demo.revoke(ids[0]).await.unwrap();
    ended(cluster, ids[0]).await;
    let failure = demo.submit(&signed).await.unwrap_err();
    assert_eq!(failure.code, "lease_failed", "the request does not make a second one: {failure}");
    assert_eq!(cluster.footprint(&superuser).await.unwrap(), before, "nothing of it is left");
}

/// Nobody can create a role while this is held; logins go on.
async fn hold_creates(cluster: &Cluster) -> tokio_postgres::Client {
    let holder = cluster.superuser().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE pg_authid IN SHARE MODE").await.unwrap();
    holder
}

async fn wait_intent(cluster: &Cluster) -> LeaseId {
    let admin = cluster.admin().unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        if let Some(lease) = admin.leases("intent").await.unwrap().pop() {
            return LeaseId(lease.id.as_slice().try_into().unwrap());
        }
        assert!(Instant::now() < deadline, "an issue that waits for the database is an intent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn wait_waiting(superuser: &tokio_postgres::Client) {
    let sql = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%CREATE ROLE%'";
    let deadline = Instant::now() + Duration::from_secs(5);
    while superuser.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) == 0 {
        assert!(Instant::now() < deadline, "the CREATE ROLE waits for the lock");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn assert_no_orphan(cluster: &Cluster, what: &str, lease: LeaseId) {
    let superuser = cluster.superuser().await.unwrap();
    let login = quorate_state::lease::principal(&cluster.profile().cluster, quorate_tests::footprint::TARGET, &lease);
    // A CREATE that was under way would come to light now.
    for _ in 0..20 {
        let seen = cluster.footprint(&superuser).await.unwrap();
        assert!(seen.lacks(&login), "{what}: lease {lease} is revoked, and {login} is at the database: {seen:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// In one term, while the CREATE waits in the database: the revocation neither overtakes it nor leaves it behind.
async fn revoked_while_it_is_being_created(cluster: &Cluster) {
    let superuser = cluster.superuser().await.unwrap();
    for (what, hold) in
        [("the lock is released", Duration::from_millis(300)), ("the CREATE gives up", Duration::from_secs(4))]
    {
        let holder = hold_creates(cluster).await;
        let demo = cluster.client("demo").unwrap();
        let issuing = tokio::spawn(async move { demo.issue_lease("reader", Some(60_000)).await });
        let lease = wait_intent(cluster).await;
        wait_waiting(&superuser).await;
        cluster.admin().unwrap().revoke(lease).await.unwrap();
        tokio::time::sleep(hold).await;
        holder.batch_execute("COMMIT").await.unwrap();
        let answer: Result<_, Failure> = issuing.await.unwrap();
        assert!(answer.is_err(), "{what}: nobody is given a lease that was revoked before it was active: {answer:?}");
        ended(cluster, lease).await;
        assert_no_orphan(cluster, what, lease).await;
    }
}

/// The leader is stopped while its CREATE waits in the database; another one revokes; then the first goes on.
async fn a_paused_leader_creates_nothing_afterwards(cluster: &Cluster) {
    let superuser = cluster.superuser().await.unwrap();
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    let holder = hold_creates(cluster).await;
    let demo = cluster.client("demo").unwrap().with_timeout(Duration::from_secs(12));
    let issuing = tokio::spawn(async move { demo.issue_lease("reader", Some(60_000)).await });
    let lease = wait_intent(cluster).await;
    wait_waiting(&superuser).await;
    let node = cluster.node(leader).unwrap();
    node.stop().unwrap();
    let next = cluster.wait_leader(ELECTION).await;
    holder.batch_execute("COMMIT").await.unwrap();
    let done = cluster.admin().unwrap().wait_revoked(lease, ENDED).await;
    node.cont().unwrap();
    assert_ne!(next.unwrap(), leader, "another node leads");
    done.unwrap_or_else(|why| panic!("the new leader ends the intent of the old one: {why}"));
    assert_no_orphan(cluster, "after the old leader went on", lease).await;
    // The client may have been told that it failed, or have been given a new lease for a new request: not this one.
    if let Ok(credential) = issuing.await.unwrap() {
        assert_ne!(credential.lease, lease, "a revoked lease is given to nobody");
        cluster.admin().unwrap().revoke(credential.lease).await.unwrap();
        ended(cluster, credential.lease).await;
    }
}

/// Somebody restores the roles from a backup: a login that has ended is back, and its password works.
async fn a_backup_is_restored(cluster: &Cluster) -> Credential {
    let demo = cluster.client("demo").unwrap();
    let credential = demo.issue_lease("reader", Some(600_000)).await.unwrap();
    let (folder, port) = cluster.postgres_socket().unwrap();
    let mut dump = Command::new("pg_dumpall");
    dump.args(["--roles-only", "--username", "postgres", "--host", folder, "--port", &port.to_string()]);
    let dump = dump.output().expect("pg_dumpall of the package postgresql runs");
    assert!(dump.status.success(), "{}", String::from_utf8_lossy(&dump.stderr));
    demo.revoke(credential.lease).await.unwrap();
    ended(cluster, credential.lease).await;
    login_with(&credential).await.map(drop).expect_err("its login is refused");
    let superuser = cluster.superuser().await.unwrap();
    let dump = String::from_utf8(dump.stdout).unwrap();
    for line in dump.lines().filter(|line| line.contains(&credential.username)) {
        superuser.batch_execute(line).await.unwrap_or_else(|why| panic!("{line}: {why}"));
    }
    login_with(&credential).await.map(drop).expect("the backup has brought it back");
    credential
}

/// Within the minute in which each target is searched.
async fn it_ends_again(cluster: &Cluster, restored: &Credential) {
    let begun = Instant::now();
    while login_with(restored).await.is_ok() {
        let waited = begun.elapsed();
        assert!(waited < Duration::from_secs(90), "what a backup brought back still logs in after {waited:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let lease = ended(cluster, restored.lease).await;
    assert_eq!(lease.why, "adopted", "its second end has a place in the log: {lease:?}");
    println!("what a backup brought back was ended {:?} after the last of the others", begun.elapsed());
}

/// While the database is frozen nothing is called revoked; when it answers again everything ends by itself.
async fn a_database_that_does_not_answer(cluster: &Cluster) {
    let (demo, admin) = (cluster.client("demo").unwrap(), cluster.admin().unwrap());
    let mut credentials = Vec::new();
    for _ in 0..3 {
        credentials.push(demo.issue_lease("reader", Some(5_000)).await.unwrap());
    }
    let asked = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    let session = login_with(&credentials[0]).await.unwrap();
    let frozen = FrozenDatabase::freeze(cluster).unwrap();
    demo.revoke(asked.lease).await.unwrap();
    credentials.push(asked);
    tokio::time::sleep(Duration::from_secs(10)).await;
    for credential in &credentials {
        let now = admin.lease(credential.lease).await.unwrap();
        assert_eq!(now.state, "revoking", "nothing is revoked before it was seen: {now:?}");
    }
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    let status = cluster.status(leader).await.unwrap().unwrap();
    assert_eq!(status.leases_revoking, 4, "the status counts what is not ended yet: {status:?}");
    let age = status.cluster_time.saturating_sub(status.oldest_revoking);
    assert!(status.oldest_revoking > 0, "and says since when: {status:?}");
    let metrics = run(cluster, &["metrics"]);
    let target = format!("target=\"{TARGET}\"");
    let counted = [("intent", 0), ("active", 0), ("due", 3), ("asked", 1)];
    let counted = counted.map(|(state, count)| format!("quorate_leases{{{target},state=\"{state}\"}} {count}"));
    let exposed = format!("quorate_leases_exposed{{{target}}} 4");
    let known = format!("quorate_member_leases_revoking{{member=\"{}\"}} 4", cluster.name(leader));
    for line in counted.into_iter().chain([exposed, known]) {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing in:\n{metrics}");
    }
    let oldest = format!("quorate_oldest_unconfirmed_revocation_seconds{{{target}}} ");
    let oldest = metrics.lines().find_map(|line| line.strip_prefix(&oldest)?.parse::<u64>().ok());
    assert!(oldest.is_some_and(|seconds| seconds > 0), "and how old the oldest is:\n{metrics}");
    let watched = run(cluster, &["lease", "watch", "--times", "1"]);
    let row = watched.lines().find(|line| line.trim_start().starts_with(TARGET)).map(str::split_whitespace);
    let row: Vec<&str> = row.unwrap_or_else(|| panic!("{watched}")).collect();
    assert_eq!(row.get(2..6), Some(&["0", "0", "3", "1"][..]), "by state: {watched}");
    assert!(watched.contains("exposure: 4 logins") && !watched.contains("the oldest for 0 s"), "{watched}");
    // An answer is waited for, for some 15 s.
    let (id, begun) = (credentials[0].lease.to_string(), Instant::now());
    loop {
        let shown = [run(cluster, &["lease", "show", &id]), run(cluster, &["target", "show", TARGET])];
        if shown[0].contains("not yet because") && shown[1].contains("ends wait because") {
            break;
        }
        assert!(begun.elapsed() < ENDED * 2, "people are told why nothing ends: {shown:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("database frozen: the oldest revocation is {age} ms old in cluster time");
    drop(frozen);
    for credential in &credentials {
        ended(cluster, credential.lease).await;
        assert!(login_with(credential).await.is_err(), "the login of {} is refused", credential.username);
    }
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session is ended");
}
