//! A target with a live standby: nothing is called revoked while a session lives there. And a fail-over to one that has not
//! heard of an end: what that brings back is noticed by the server's timeline, and ended once more.

use super::{ENDED, ended, run};
use quorate_api::client::Credential;
use quorate_engines::scratch::PostgresServer;
use quorate_tests::Cluster;
use quorate_tests::database::{login, login_with};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_postgres::{Client, Config};

/// The target, and its role.
const NAME: &str = "paired";
/// How long what a fail-over brings back may live: the timeline is asked for every 5 s, and a target that did not answer is
/// tried again after 15 s at most.
const FOUND: Duration = Duration::from_secs(45);
const LOOK: Duration = Duration::from_millis(100);

/// Where clients reach the primary: the address moves with it, and stays the same.
struct Address {
    port: u16,
    leads_to: Arc<AtomicU16>,
    task: JoinHandle<()>,
}

impl Address {
    async fn of(server: &PostgresServer) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let leads_to = Arc::new(AtomicU16::new(server.port()));
        let now = Arc::clone(&leads_to);
        let task = tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let to = now.load(Ordering::SeqCst);
                tokio::spawn(async move {
                    // Nobody is there while it moves.
                    if let Ok(mut server) = TcpStream::connect(("127.0.0.1", to)).await {
                        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
                    }
                });
            }
        });
        Self { port, leads_to, task }
    }

    fn move_to(&self, server: &PostgresServer) {
        self.leads_to.store(server.port(), Ordering::SeqCst);
    }
}

impl Drop for Address {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// How a credential connects to one server, whoever is the primary.
fn at(server: &PostgresServer, credential: &Credential) -> Config {
    let mut config = Config::new();
    config.host("127.0.0.1").port(server.port()).dbname(&credential.database);
    config.user(&credential.username).password(credential.password().unwrap().expose());
    config
}

/// A session of a lease at the standby, as soon as that has heard of it.
async fn session_at(standby: &PostgresServer, credential: &Credential) -> Client {
    let begun = Instant::now();
    loop {
        match login(&at(standby, credential)).await {
            Ok(session) => return session,
            Err(why) => assert!(begun.elapsed() < ENDED, "the standby hears of the lease, and lets it in: {why}"),
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// One signal to one backend of a server, by the shell's own `kill`.
fn signal(sign: &str, pid: i32) {
    let sent = Command::new("sh").args(["-c", &format!("kill -{sign} {pid}")]).status().unwrap();
    assert!(sent.success(), "SIG{sign} reaches backend {pid}");
}

pub(crate) async fn lives_and_takes_over(cluster: &Cluster) {
    let (mut primary, standby) = spawn_blocking(|| {
        let primary = PostgresServer::start().unwrap();
        let standby = primary.standby().unwrap();
        (primary, standby)
    })
    .await
    .unwrap();
    let superuser = login(&primary.superuser("postgres")).await.unwrap();
    let vault = "CREATE ROLE vault LOGIN CREATEROLE PASSWORD 'a password of the vault';
        GRANT pg_read_all_stats, pg_signal_backend TO vault";
    superuser.batch_execute(vault).await.unwrap();
    let address = Address::of(&primary).await;
    let password = format!("{}/vault.password", cluster.text("/folder").unwrap());
    std::fs::write(&password, "a password of the vault\n").unwrap();
    let (port, other) = (address.port.to_string(), format!("127.0.0.1:{}", standby.port()));
    let add = ["target", "add", NAME, "--host", "127.0.0.1", "--port", &port, "--database", "postgres"];
    let with = ["--user", "vault", "--standby", &other, "--password-file", &password];
    let said = run(cluster, &[&add[..], &with].concat());
    assert!(
        said.contains("is enabled") && !said.contains("stream from it"),
        "proved, and no standby streams that is not described: {said}"
    );
    let shown = run(cluster, &["target", "show", NAME]);
    assert!(shown.contains(&other), "the standby stands in the description: {shown}");
    run(cluster, &["role", "add", NAME, "--target", NAME, "--ttl", "10m", "--max-ttl", "10m", "--unproved"]);
    let scope = format!("action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"{NAME}\"");
    cluster.permit(NAME, &cluster.identity("demo").unwrap(), &scope).await.unwrap();

    a_session_there(cluster, &standby, &[format!("127.0.0.1:{port}"), other]).await;

    // As where nobody has told the vault of the standby, since nothing else forgets an end that was proved.
    let change = ["target", "change", NAME, "--no-standbys", "--operator", cluster.text("/operator").unwrap()];
    let signed = ["--passphrase-file", cluster.text("/passphrase_file").unwrap()];
    let said = run(cluster, &[&change[..], &signed].concat());
    assert!(
        said.contains("is enabled") && said.contains("0 standbys are described"),
        "the proof notes a standby that is not described: {said}"
    );
    let (demo, admin) = (cluster.client("demo").unwrap(), cluster.admin().unwrap());
    let stays = demo.issue_lease(NAME, None).await.unwrap();
    let back = demo.issue_lease(NAME, None).await.unwrap();
    for credential in [&stays, &back] {
        drop(session_at(&standby, credential).await);
    }
    // From here on the standby hears of nothing.
    let there = login(&standby.superuser("postgres")).await.unwrap();
    there.batch_execute("ALTER SYSTEM SET primary_conninfo = ''").await.unwrap();
    there.batch_execute("SELECT pg_reload_conf()").await.unwrap();
    let begun = Instant::now();
    let streams = "SELECT count(*) FROM pg_stat_replication";
    while superuser.query_one(streams, &[]).await.unwrap().get::<_, i64>(0) > 0 {
        assert!(begun.elapsed() < ENDED, "nothing streams to the standby any more");
        tokio::time::sleep(LOOK).await;
    }
    demo.revoke(back.lease).await.unwrap();
    let first = ended(cluster, back.lease).await;
    assert!(
        first.why == "requested" && first.proof_endpoint.ends_with(" (primary only)"),
        "its end was seen at the primary, and says so: {first:?}"
    );
    assert!(login_with(&back).await.is_err(), "the login is refused at the primary");

    primary.stop();
    let promoted: bool = there.query_one("SELECT pg_promote()", &[]).await.unwrap().get(0);
    assert!(promoted, "the standby is the primary now");
    let again = login(&at(&standby, &back)).await;
    let again = again.unwrap_or_else(|why| panic!("the login that was ended is back at the new primary: {why}"));
    address.move_to(&standby);
    let begun = Instant::now();
    loop {
        match admin.lease(back.lease).await {
            Ok(lease) if lease.state == "revoked" && lease.why == "adopted" => break,
            other => assert!(begun.elapsed() < FOUND, "what the fail-over brought back is ended: {other:?}"),
        }
        tokio::time::sleep(LOOK).await;
    }
    println!("what a fail-over brought back was ended {:?} after the address had moved", begun.elapsed());
    // The search of each minute would find it, too; the timeline tells at once.
    let noticed = || (1..=3).any(|m| cluster.node(m).unwrap().log().contains("the target has failed over"));
    while !noticed() {
        assert!(begun.elapsed() < FOUND, "whoever is in office notices that the server's timeline has grown");
        tokio::time::sleep(LOOK).await;
    }
    assert!(again.simple_query("SELECT 1").await.is_err(), "the session at the new primary is ended");
    assert!(login_with(&back).await.is_err(), "and the login is refused there");
    login_with(&stays).await.unwrap_or_else(|why| panic!("the other lease goes on at the new primary: {why}"));

    run(cluster, &["lease", "revoke", "--target", NAME, "--wait"]);
    assert!(login_with(&stays).await.is_err(), "an end that is asked for is carried out at the new primary");
    run(cluster, &["role", "delete", NAME]);
    run(cluster, &["target", "remove", NAME]);
    let listed = run(cluster, &["target", "list"]);
    assert!(!listed.contains(NAME), "without a lease it goes at once: {listed}");
}

/// A session at the standby that does not listen keeps its lease *revoking*. When it ends, the proof names both servers.
async fn a_session_there(cluster: &Cluster, standby: &PostgresServer, endpoints: &[String; 2]) {
    let (demo, admin) = (cluster.client("demo").unwrap(), cluster.admin().unwrap());
    let held = demo.issue_lease(NAME, None).await.unwrap();
    let session = session_at(standby, &held).await;
    let pid: i32 = session.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    // Told to end, and does not.
    signal("STOP", pid);
    demo.revoke(held.lease).await.unwrap();
    let begun = Instant::now();
    let waiting = loop {
        let now = admin.explained_lease(held.lease).await.unwrap();
        assert_ne!(now.state, "revoked", "nothing is called revoked while a session lives at the standby: {now:?}");
        if now.trouble.contains("sessions are alive") {
            break now;
        }
        assert!(begun.elapsed() < ENDED, "the session at the standby is seen, and people are told: {now:?}");
        tokio::time::sleep(LOOK).await;
    };
    assert_eq!(waiting.state, "revoking", "its session at the standby lives: {waiting:?}");
    assert!(login_with(&held).await.is_err(), "the login is refused at the primary all the same");
    signal("CONT", pid);
    let done = ended(cluster, held.lease).await;
    assert_eq!(done.proof_endpoint, endpoints.join(", "), "the proof names both servers: {done:?}");
    assert!(session.simple_query("SELECT 1").await.is_err(), "the session at the standby is ended");
    assert!(login(&at(standby, &held)).await.is_err(), "the login is refused at the standby");
}
