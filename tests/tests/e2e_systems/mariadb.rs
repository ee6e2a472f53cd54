//! MariaDB: account statements commit by themselves, so a login is there before it lets anybody in.

use super::{ENDED, PASSWORD, add, document, end, issue, password_file, permit, refused, run, run_with, script, text};
use quorate_api::client::{Credential, System};
use quorate_engines::scratch::MariaDbServer;
use quorate_tests::Cluster;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tokio::task::spawn_blocking;

/// A group whose name has to be quoted wherever it is written.
const GROUP: &str = "read'ers `x";

/// A server, as its administrator and as anybody who has a login there.
pub(crate) struct My {
    server: MariaDbServer,
}

impl My {
    async fn start() -> Self {
        let server = spawn_blocking(|| MariaDbServer::start(&["plugin-load-add=auth_ed25519"])).await.unwrap();
        Self { server: server.unwrap_or_else(|why| panic!("{why}: run deploy/build/setup")) }
    }

    /// As the server's administrator.
    fn root(&self, sql: &str) -> Output {
        let mut command = Command::new("mariadb");
        command.args(["--no-defaults", "--batch", "--skip-column-names", "--user", "root", "--socket"]);
        let mut child = command
            .arg(self.server.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(sql.as_bytes()).unwrap();
        child.wait_with_output().unwrap()
    }

    fn sql(&self, sql: &str) -> Vec<String> {
        let output = self.root(sql);
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
    }

    fn login(&self, user: &str, password: &str) -> Command {
        let mut command = Command::new("mariadb");
        command
            .args(["--no-defaults", "--batch", "--skip-column-names", "--unbuffered", "--host", "127.0.0.1"])
            .args(["--port", &self.server.port().to_string(), "--user", user])
            .env("MYSQL_PWD", password);
        command
    }

    /// One statement by somebody with a login.
    fn by(&self, user: &str, password: &str, sql: &str) -> Output {
        self.login(user, password).args(["--execute", sql]).stdin(Stdio::null()).output().unwrap()
    }

    fn lets_in(&self, credential: &Credential) -> bool {
        self.by(&credential.username, text(credential), "SELECT 1").status.success()
    }

    /// Every login that the vault has made and that is there.
    fn logins(&self) -> Vec<String> {
        self.sql("SELECT User FROM mysql.global_priv WHERE User RLIKE '^q[0-9a-f]{8}_'")
    }

    fn sessions(&self, credential: &Credential) -> usize {
        let of = "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER =";
        self.sql(&format!("{of} '{}'", credential.username))[0].parse().unwrap()
    }

    fn open(&self, credential: &Credential) -> Session {
        let mut command = self.login(&credential.username, text(credential));
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut session = Session { child, to, from };
        assert_eq!(session.ask("SELECT a FROM app.t").as_deref(), Some("7"), "a session that may read");
        session
    }
}

/// A session that stays open.
struct Session {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
}

impl Session {
    /// One line of an answer; nothing when the session is over.
    fn ask(&mut self, sql: &str) -> Option<String> {
        writeln!(self.to, "{sql};").and_then(|()| self.to.flush()).ok()?;
        let mut line = String::new();
        let read = self.from.read_line(&mut line).ok()?;
        (read > 0).then(|| line.trim_end().to_owned())
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) async fn a_life(cluster: &Cluster) -> My {
    let my = My::start().await;
    let (group, password) = (GROUP.replace('`', "``"), PASSWORD.replace('\'', "''"));
    my.sql(&format!(
        "CREATE USER quorate@'%' IDENTIFIED BY '{password}'; GRANT CREATE USER, PROCESS, CONNECTION ADMIN ON *.* TO quorate@'%';
         GRANT SELECT, UPDATE ON mysql.* TO quorate@'%';
         CREATE DATABASE app; CREATE TABLE app.t (a int); INSERT INTO app.t VALUES (7);
         CREATE ROLE `{group}`; GRANT SELECT ON app.* TO `{group}`;"
    ));
    let (port, file) = (my.server.port().to_string(), password_file(cluster));

    // It lacks a right, and what is printed mends that.
    let more = ["--database", "app", "--no-rotate"];
    let said = refused(cluster, &add("my", "mariadb", &port, &file, &more), "target_not_enabled");
    assert!(said.contains("in mariadb, as its administrator") && said.contains("SHOW VIEW"), "{said}");
    my.sql(&script(&said));
    let said = run(cluster, &["target", "check", "my"]);
    assert!(said.contains("is enabled"), "{said}");
    let shown = run(cluster, &["target", "show", "my"]);
    assert!(shown.contains("mariadb") && !shown.contains("standbys"), "nothing of PostgreSQL: {shown}");

    // A role, and what it cannot have here.
    let role = ["role", "add", "my", "--target", "my", "--group", GROUP, "--ttl", "10m", "--max-ttl", "10m"];
    for (bad, says) in [
        (&["--group", "another"][..], "at most 1 at mariadb"),
        (&["--statements", "COMMENT ON ROLE {{name}} IS 'x'"], "there are none for mariadb"),
        (&["--scram-iterations", "5000"], "mysql_native_password has none"),
        (&["--verifier", "scram-sha-256"], "mariadb takes none of the form scram-sha-256"),
        (&["--verifier", "md5"], "there is no such form"),
    ] {
        let said = refused(cluster, &[&role[..], bad].concat(), "invalid_argument");
        assert!(said.contains(says), "{bad:?}: {said}");
    }
    // The executor may not grant it yet.
    let said = run(cluster, &role);
    assert!(said.contains("is described, but") && said.contains("ADMIN OPTION"), "{said}");
    my.sql(&script(&said));
    assert!(run(cluster, &["target", "check", "my"]).contains("is enabled"));
    permit(cluster, "my").await;

    let credential = issue(cluster, "my").await;
    assert_eq!((credential.system, credential.database.as_str()), (System::MariaDb, "app"));
    let mut session = my.open(&credential);
    let by = |sql| my.by(&credential.username, text(&credential), sql);
    assert!(!by("INSERT INTO app.t VALUES (8)").status.success(), "its rights are the group's");
    assert!(!by("SELECT * FROM mysql.global_priv").status.success(), "and no others");
    let done = end(cluster, credential.lease).await;
    assert_eq!(done.proof_endpoint, format!("127.0.0.1:{port} (primary only)"), "{done:?}");
    assert!(done.sessions_ended >= 1, "its session was ended: {done:?}");
    assert_eq!(session.ask("SELECT 1"), None, "the open session is gone");
    assert!(!my.lets_in(&credential) && my.sessions(&credential) == 0, "its login is refused, and no session lives");
    let shown = document(cluster, &["lease", "show", &credential.lease.to_string()]);
    assert_eq!((shown["state"].as_str(), shown["system"].as_str()), (Some("revoked"), Some("mariadb")));

    // The strongest verifier that it takes.
    let strong = ["role", "add", "strong", "--target", "my", "--group", GROUP, "--ttl", "10m", "--max-ttl", "10m"];
    let said = run(cluster, &[&strong[..], &["--verifier", "ed25519"]].concat());
    assert!(said.contains("next: quorate lease issue"), "{said}");
    permit(cluster, "strong").await;
    let credential = issue(cluster, "strong").await;
    let how =
        format!("SELECT JSON_VALUE(Priv, '$.plugin') FROM mysql.global_priv WHERE User = '{}'", credential.username);
    assert_eq!(my.sql(&how), ["ed25519"]);
    drop(my.open(&credential));
    end(cluster, credential.lease).await;
    assert!(!my.lets_in(&credential));

    // A program with a login of its own, in MariaDB's own words.
    let script = "mariadb --batch --skip-column-names -e 'SELECT a, USER() LIKE CONCAT(@@hostname, 1) FROM app.t' && echo $QUORATE_USERNAME $QUORATE_SYSTEM";
    for options in [&[][..], &["--password-in-environment"]] {
        let user = if options.is_empty() { "" } else { " --user=\"$QUORATE_USERNAME\"" };
        let script = script.replace("mariadb ", &format!("mariadb{user} "));
        let output = run_with(cluster, "my", options, &["sh", "-c", &script]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let lines: Vec<&str> = said.lines().collect();
        assert!(output.status.success() && lines[0].starts_with("7\t"), "{options:?}: {output:?}");
        let (login, system) = lines[1].split_once(' ').unwrap();
        assert_eq!(system, "mariadb");
        let there = format!(
            "SELECT COUNT(*) FROM mysql.global_priv WHERE User = '{login}' AND JSON_VALUE(Priv, '$.account_locked') IS NULL"
        );
        assert_eq!(my.sql(&there), ["0"], "its login has ended with it");
    }

    let begun = Instant::now();
    while !my.logins().is_empty() {
        assert!(begun.elapsed() < ENDED, "what has ended is cleaned up: {:?}", my.logins());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    my
}

/// The vault gives the account a password of its own.
pub(crate) async fn a_password_that_nobody_knows(cluster: &Cluster, my: &My) {
    assert!(my.by("quorate", PASSWORD, "SELECT 1").status.success(), "people know it");
    let change = ["target", "change", "my", "--rotate", "--operator", cluster.text("/operator").unwrap()];
    let signed = ["--passphrase-file", cluster.text("/passphrase_file").unwrap()];
    run(cluster, &[&change[..], &signed].concat());
    let begun = Instant::now();
    while my.by("quorate", PASSWORD, "SELECT 1").status.success() {
        assert!(begun.elapsed() < ENDED, "the password is replaced");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let credential = issue(cluster, "my").await;
    assert!(my.lets_in(&credential), "the vault goes on with the new one");
    end(cluster, credential.lease).await;
    assert!(!my.lets_in(&credential));
}
