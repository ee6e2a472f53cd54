//! A server of each kind beside a cluster: those of the engines' own tests, each described to the vault by its command line, as an operator
//! does it. What is there is what its administrator sees, and whoever tries a credential: the vault is not asked.

use crate::aws::Moto;
use crate::kubernetes::{self, Stub};
use crate::mariadb::{self, My};
use crate::rabbitmq::{self, Rabbit};
use crate::redis::{self, Redis};
use crate::webhook::{self, Receiver};
use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_api::client::{Credential, Proof};
use quorate_engines::conformance::{self, Login, Target};
use quorate_state::lease::principal_prefix;
use quorate_tests::Cluster;
use quorate_tests::database::login;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// Kinds that are a server beside the cluster. PostgreSQL is in it.
pub(crate) const BESIDE: [&str; 6] = ["mariadb", "redis", "rabbitmq", "webhook", "aws", "kubernetes"];

/// A server of one kind. The vault calls the target, and the one role there, as the kind.
pub(crate) struct Place {
    pub(crate) kind: &'static str,
    pub(crate) port: u16,
    /// How much longer than elsewhere an end takes here by its nature: until all servers have heard of it.
    pub(crate) heard: Duration,
    prefix: String,
    server: Box<dyn Server>,
    /// What `target add` is told besides kind, port and secret.
    told: Vec<String>,
    secret: String,
    group: String,
}

/// What somebody besides the vault can see there.
#[async_trait]
trait Server: Send + Sync {
    /// Comes in with a name and a password, as conformance tests have them.
    async fn enter(&self, name: &str, password: &str) -> Option<Box<dyn Login>>;

    /// What is alive of all whose names begin so: who is let in, and whose sessions are open.
    async fn alive(&self, prefix: &str) -> Vec<String>;
}

impl Place {
    /// Starts one. It is not described yet.
    pub(crate) async fn start(cluster: &Cluster, kind: &'static str) -> Self {
        let prefix = principal_prefix(&cluster.profile().cluster, kind);
        let text = |pointer: &str| cluster.text(pointer).unwrap().to_owned();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let executor = |name: &str| words(&["--host", "127.0.0.1", "--user", name, "--no-rotate"]);
        let place = |port, server, told, secret: &str, group: String| Self {
            kind,
            port,
            heard: Duration::ZERO,
            prefix,
            server,
            told,
            secret: secret.to_owned(),
            group,
        };
        match kind {
            "postgresql" => {
                let port = cluster.postgres_socket().unwrap().1;
                let told = [executor(&text("/postgres/admin")), words(&["--database", &text("/postgres/database")])];
                let secret = std::fs::read_to_string(text("/postgres/password_file")).unwrap();
                let superuser = cluster.superuser().await.unwrap();
                let server = Postgres { superuser, port, database: text("/postgres/database") };
                place(port, Box::new(server), told.concat(), secret.trim_end(), text("/postgres/group"))
            }
            "mariadb" => {
                let server = My::start(&[]).await;
                let told = executor(mariadb::EXECUTOR);
                place(server.port, Box::new(server), told, mariadb::EXECUTOR_PASSWORD, mariadb::GROUP.to_owned())
            }
            "redis" => {
                let server = Redis::start(&[]).await;
                let told = executor(redis::EXECUTOR);
                place(server.port, Box::new(server), told, redis::EXECUTOR_PASSWORD, redis::GROUP.to_owned())
            }
            "rabbitmq" => {
                let server = Rabbit::start(&[], Vec::new()).await;
                server.warm().await;
                let told = executor(rabbitmq::EXECUTOR);
                place(server.port, Box::new(server), told, rabbitmq::EXECUTOR_PASSWORD, rabbitmq::GROUP.to_owned())
            }
            "webhook" => {
                let server = Receiver::start().await;
                let authority = server.data().with_file_name("ca.pem");
                let told = words(&["--ca-file", authority.to_str().unwrap(), "--no-rotate"]);
                let port = server.endpoint().port;
                place(port, Box::new(server), told, webhook::SECRET, webhook::GROUP.to_owned())
            }
            "aws" => {
                let server = Moto::start().await;
                let told = words(&[
                    "--host",
                    "127.0.0.1",
                    "--user",
                    &crate::aws::executor_arn(),
                    "--database",
                    "eu-central-1",
                ]);
                let (port, secret, group) = (server.port, server.executor.text(), server.group());
                Self { heard: Duration::from_secs(12), ..place(port, Box::new(server), told, &secret, group) }
            }
            "kubernetes" => {
                let server = Stub::start().await;
                let user = ["--host", "127.0.0.1", "--user", kubernetes::EXECUTOR, "--database", "leases"];
                let (port, token, group) = (server.port, server.token.clone(), server.group());
                Self { heard: Duration::from_secs(17), ..place(port, Box::new(server), words(&user), &token, group) }
            }
            other => panic!("no kind of target: {other}"),
        }
    }

    /// Has the cluster prove it, where the vault finds it at this port, and describes a role there that may have leases of some seconds.
    pub(crate) fn describe(&self, cluster: &Cluster, port: u16) {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{}\n", self.secret)).unwrap();
        let run = |arguments: &[&str]| {
            let output = cluster.cli("admin", arguments, b"").unwrap();
            let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
            assert!(output.status.success(), "quorate {arguments:?}: {said}");
        };
        let (url, text) = (format!("https://127.0.0.1:{port}/vault"), port.to_string());
        let at = if self.kind == "webhook" { ["--url", &url] } else { ["--port", &text] };
        let told: Vec<&str> = self.told.iter().map(String::as_str).collect();
        let add = ["target", "add", self.kind, "--system", self.kind, "--unproved", "--password-file"];
        run(&[&add[..], &[file.path().to_str().unwrap()], &at, &told].concat());
        let lives = ["--ttl", "10m", "--max-ttl", "10m", "--group", &self.group];
        run(&[&["role", "add", self.kind, "--target", self.kind, "--unproved"][..], &lives].concat());
        run(&["target", "check", self.kind]);
    }

    /// Comes in with a leased credential; `None` when that is refused.
    pub(crate) async fn enter(&self, credential: &Credential) -> Option<Box<dyn Login>> {
        let password = match &credential.proof {
            Proof::Password(password) => String::from_utf8(password.expose().to_vec()).unwrap(),
            Proof::Issued(fields) => STANDARD.encode(fields.encode().expose()),
        };
        self.server.enter(&credential.username, &password).await
    }

    /// What is alive of all that the vault has ever made there, whether anybody was told of it or not.
    pub(crate) async fn alive(&self) -> Vec<String> {
        self.server.alive(&self.prefix).await
    }
}

async fn enter(target: &dyn Target, name: &str, password: &str) -> Option<Box<dyn Login>> {
    let credential = conformance::Credential { password: password.to_owned(), verifier: String::new() };
    target.login(name, &credential).await
}

/// The cluster's own.
struct Postgres {
    superuser: tokio_postgres::Client,
    port: u16,
    database: String,
}

struct Session(tokio_postgres::Client);

#[async_trait]
impl Login for Session {
    async fn alive(&mut self) -> bool {
        self.0.simple_query("SELECT 1").await.is_ok()
    }
}

#[async_trait]
impl Server for Postgres {
    async fn enter(&self, name: &str, password: &str) -> Option<Box<dyn Login>> {
        let mut config = tokio_postgres::Config::new();
        config.host("127.0.0.1").port(self.port).dbname(&self.database).user(name).password(password);
        let session = login(&config).await.ok()?;
        Some(Box::new(Session(session)))
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let sql = "SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND starts_with(rolname::text, $1)
            UNION ALL SELECT usename::text FROM pg_stat_activity WHERE starts_with(usename::text, $1)";
        let rows = self.superuser.query(sql, &[&prefix]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }
}

#[async_trait]
impl Server for Arc<My> {
    async fn enter(&self, name: &str, password: &str) -> Option<Box<dyn Login>> {
        enter(&**self, name, password).await
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let accounts = "SELECT User FROM mysql.global_priv WHERE Priv NOT LIKE '%\"account_locked\":true%'";
        let sessions = "SELECT USER FROM information_schema.PROCESSLIST WHERE COMMAND <> 'Connect'";
        self.rows(&format!("{accounts} AND User LIKE '{prefix}%' UNION ALL {sessions} AND USER LIKE '{prefix}%'")).await
    }
}

#[async_trait]
impl Server for Arc<Redis> {
    async fn enter(&self, name: &str, password: &str) -> Option<Box<dyn Login>> {
        enter(&**self, name, password).await
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let mut alive = Vec::new();
        for user in self.ask("ACL USERS").await.split(' ').filter(|user| user.starts_with(prefix)) {
            // One that is gone by now is answered with nothing.
            if self.ask(&format!("ACL GETUSER {user}")).await.contains("flags on") {
                alive.push(format!("user {user}"));
            }
        }
        let clients = self.ask("CLIENT LIST").await;
        let session = format!(" user={prefix}");
        alive.extend(clients.lines().filter(|line| line.contains(&session)).map(str::to_owned));
        alive
    }
}

#[async_trait]
impl Server for Arc<Rabbit> {
    async fn enter(&self, name: &str, password: &str) -> Option<Box<dyn Login>> {
        enter(&**self, name, password).await
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let (users, connections) = (self.get(&["users"]).await, self.get(&["connections"]).await);
        let ours = |name: &serde_json::Value| name.as_str().is_some_and(|name| name.starts_with(prefix));
        let users = users.as_array().unwrap().iter().filter(|user| ours(&user["name"]) && user["password_hash"] != "");
        let connections = connections.as_array().unwrap().iter().filter(|connection| ours(&connection["user"]));
        users.chain(connections).map(|seen| format!("{} {}", seen["name"], seen["user"])).collect()
    }
}

#[async_trait]
impl Server for Arc<Receiver> {
    async fn enter(&self, name: &str, password: &str) -> Option<Box<dyn Login>> {
        enter(&**self, name, password).await
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let code = "import sqlite3, sys
there = sqlite3.connect(sys.argv[1])
for sql in ('SELECT name FROM accounts WHERE can_login AND NOT is_claim', 'SELECT name FROM logins'):
    print('\\n'.join(name for name, in there.execute(sql) if name.startswith(sys.argv[2])))";
        let output = Command::new("python3").args(["-c", code]).arg(self.data()).arg(prefix).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap().split_whitespace().map(str::to_owned).collect()
    }
}

#[async_trait]
impl Server for Arc<Moto> {
    async fn enter(&self, name: &str, password: &str) -> Option<Box<dyn Login>> {
        enter(&**self, name, password).await
    }

    /// A key is alive as long as it is there, whoever knows it.
    async fn alive(&self, prefix: &str) -> Vec<String> {
        let mut alive = Vec::new();
        for user in self.users().await.into_iter().filter(|user| user.starts_with(prefix)) {
            if self.has_key(&user).await == Some(true) {
                alive.push(user);
            }
        }
        alive
    }
}

#[async_trait]
impl Server for Arc<Stub> {
    async fn enter(&self, name: &str, password: &str) -> Option<Box<dyn Login>> {
        enter(&**self, name, password).await
    }

    /// Of all tokens that were ever made, whoever was told of them, those that it takes.
    async fn alive(&self, _: &str) -> Vec<String> {
        self.cluster().alive().into_iter().collect()
    }
}
