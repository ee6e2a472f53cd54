//! Redis: a create overwrites, a login has neither a number nor an end of its own.

use super::{
    ENDED, PASSWORD, add, document, end, ended, issue, password_file, permit, refused, run, run_with, script, text,
};
use quorate_api::client::{Credential, System};
use quorate_engines::scratch::{RedisServer, Users};
use quorate_tests::Cluster;
use sha2::{Digest as _, Sha256};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// All that docs/redis.md asks for, but one.
const RIGHTS: &str = "+acl|setuser +acl|deluser +acl|getuser +acl|users +acl|save +acl|dryrun +client|list +client|id \
    +client|setname +config|get +config|rewrite +info +ping +multi +exec +script|kill +function|kill";
const GROUP: &str = "~app:* &app.* +@read +@write +@pubsub";

/// A server, as its administrator and as anybody who has a login there.
pub(crate) struct Redis {
    server: RedisServer,
}

/// A session.
struct Session(BufReader<TcpStream>);

impl Session {
    /// The first line of an answer, or the whole of a text; nothing when the session is over.
    fn ask(&mut self, command: &str) -> Option<String> {
        writeln!(self.0.get_mut(), "{command}\r").ok()?;
        let line = self.line()?;
        let length = line.strip_prefix('$').and_then(|length| length.parse::<usize>().ok());
        if length.is_none() { Some(line) } else { self.line() }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.0.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }
}

fn hash(password: &str) -> String {
    Sha256::digest(password.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

impl Redis {
    async fn start() -> Self {
        let users = [
            "default off".to_owned(),
            format!("admin on #{} ~* &* +@all", hash("admin")),
            format!("quorate on #{} resetchannels -@all {RIGHTS}", hash(PASSWORD)),
        ];
        let start = move || RedisServer::start(Users::AclFile, &users.each_ref().map(String::as_str), &[]);
        let server = spawn_blocking(start).await.unwrap();
        Self { server: server.unwrap_or_else(|why| panic!("{why}: run deploy/build/setup")) }
    }

    fn session(&self, user: &str, password: &str) -> Result<Session, String> {
        let stream = TcpStream::connect(("127.0.0.1", self.server.port())).unwrap();
        stream.set_read_timeout(Some(ENDED)).unwrap();
        let mut session = Session(BufReader::new(stream));
        match session.ask(&format!("AUTH {user} \"{password}\"")).as_deref() {
            Some("+OK") => Ok(session),
            other => Err(other.unwrap_or_default().to_owned()),
        }
    }

    fn admin(&self) -> Session {
        self.session("admin", "admin").unwrap()
    }

    fn open(&self, credential: &Credential) -> Session {
        self.session(&credential.username, text(credential)).unwrap()
    }

    fn lets_in(&self, credential: &Credential) -> bool {
        self.session(&credential.username, text(credential)).is_ok()
    }
}

pub(crate) async fn a_life(cluster: &Cluster) -> Redis {
    let redis = Redis::start().await;
    let (port, file) = (redis.server.port().to_string(), password_file(cluster));

    // It lacks a right, and what is printed mends that.
    let said = refused(cluster, &add("cache", "redis", &port, &file, &["--no-rotate"]), "target_not_enabled");
    assert!(said.contains("in redis-cli, as its administrator"), "{said}");
    let script = script(&said);
    assert!(script.contains("client|kill") && !script.contains(';'), "{script}");
    let mut admin = redis.admin();
    for line in script.lines() {
        assert_eq!(admin.ask(line).as_deref(), Some("+OK"), "{line}");
    }
    let said = run(cluster, &["target", "check", "cache"]);
    assert!(said.contains("is enabled"), "{said}");
    let shown = run(cluster, &["target", "show", "cache"]);
    assert!(shown.contains("redis") && !shown.contains("standbys"), "nothing of PostgreSQL: {shown}");

    let role = ["role", "add", "cache", "--target", "cache", "--ttl", "10m", "--max-ttl", "10m"];
    for (bad, says) in [
        (&["--statements", "COMMENT ON ROLE {{name}} IS 'x'"][..], "there are none for redis"),
        (&["--verifier", "mysql_native_password"], "redis takes none of the form mysql_native_password"),
    ] {
        let said = refused(cluster, &[&role[..], bad].concat(), "invalid_argument");
        assert!(said.contains(says), "{bad:?}: {said}");
    }
    let said = run(cluster, &[&role[..], &["--group", GROUP]].concat());
    assert!(said.contains("next: quorate lease issue"), "{said}");
    permit(cluster, "cache").await;

    let credential = issue(cluster, "cache").await;
    assert_eq!((credential.system, credential.database.as_str()), (System::Redis, ""));
    let mut session = redis.open(&credential);
    assert_eq!(session.ask("SET app:a 7").as_deref(), Some("+OK"), "its rights are the group's");
    assert!(session.ask("SET other 7").unwrap().starts_with("-NOPERM"), "and no others");
    assert!(session.ask("ACL USERS").unwrap().starts_with("-NOPERM"), "and no others");
    let mut listening = redis.open(&credential);
    assert_eq!(listening.ask("SUBSCRIBE app.news").as_deref(), Some("*3"), "a session that only listens");
    let done = end(cluster, credential.lease).await;
    assert_eq!(done.proof_endpoint, format!("127.0.0.1:{port} (primary only)"), "{done:?}");
    // The server ends by itself those that listen where they no longer may.
    assert!(done.sessions_ended >= 1, "its sessions were ended: {done:?}");
    assert_eq!(session.ask("GET app:a"), None, "the open session is gone");
    while listening.line().is_some() {}
    assert!(!redis.lets_in(&credential), "its login is refused");
    let shown = document(cluster, &["lease", "show", &credential.lease.to_string()]);
    assert_eq!((shown["state"].as_str(), shown["system"].as_str()), (Some("revoked"), Some("redis")));

    // A program with a login of its own.
    let script = "test -z \"$REDISCLI_AUTH\" && echo \"$QUORATE_USERNAME $QUORATE_HOST:$QUORATE_PORT $(cat \"$QUORATE_PASSWORD_FILE\")\"";
    let output = run_with(cluster, "cache", &[], &["sh", "-c", script]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let told: Vec<&str> = said.split_whitespace().collect();
    assert!(output.status.success() && told[1] == format!("127.0.0.1:{port}"), "{output:?}");
    assert!(redis.session(told[0], told[2]).is_err(), "its login has ended with it");
    let script = "redis-cli -h $QUORATE_HOST -p $QUORATE_PORT --user $QUORATE_USERNAME GET app:a";
    let output = run_with(cluster, "cache", &["--password-in-environment"], &["sh", "-c", script]);
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "7", "{output:?}");
    redis
}

/// A server that answers nothing, on connections that stand: nobody says that it has let go.
pub(crate) async fn one_that_stands_still_ends_its_lease_later(cluster: &Cluster, redis: &Redis) {
    let credential = issue(cluster, "cache").await;
    redis.server.freeze(true);
    cluster.client("demo").unwrap().revoke(credential.lease).await.unwrap();
    // Another target ends one meanwhile.
    let there = issue(cluster, "my").await;
    end(cluster, there.lease).await;
    let waits = cluster.admin().unwrap().lease(credential.lease).await.unwrap();
    assert_eq!(waits.state, "revoking", "{waits:?}");
    redis.server.freeze(false);
    assert_eq!(ended(cluster, credential.lease).await.state, "revoked");
    assert!(!redis.lets_in(&credential), "its login is refused");
}

/// The vault gives the user a password of its own.
pub(crate) async fn a_password_that_nobody_knows(cluster: &Cluster, redis: &Redis) {
    assert!(redis.session("quorate", PASSWORD).is_ok(), "people know it");
    let change = ["target", "change", "cache", "--rotate", "--operator", cluster.text("/operator").unwrap()];
    let signed = ["--passphrase-file", cluster.text("/passphrase_file").unwrap()];
    run(cluster, &[&change[..], &signed].concat());
    let begun = Instant::now();
    while redis.session("quorate", PASSWORD).is_ok() {
        assert!(begun.elapsed() < ENDED, "the password is replaced");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let credential = issue(cluster, "cache").await;
    assert!(redis.lets_in(&credential), "the vault goes on with the new one");
    end(cluster, credential.lease).await;
    assert!(!redis.lets_in(&credential));
}
