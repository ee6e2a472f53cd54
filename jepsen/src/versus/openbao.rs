//! OpenBao, as its documentation sets it up, and wherever that leaves a choice, with the one that helps it here:
//!
//! - three servers, integrated storage, each told of all others; `performance_multiplier` is 1, the fastest fail-over it has, or on a machine that
//!   is too busy for that, where leaders step down by themselves, a larger one;
//! - TLS; an audit file on every server;
//! - the seal `static`: a server that is started again unseals itself at once, and nobody has to come;
//! - the database's administrator is a superuser, with a certificate to go by, SCRAM, more connections than by default and a limit for connecting;
//! - a role for each time to live, since a caller can ask for none; callers have the root token, which costs nothing to check;
//! - a lease is ended with `sync`, so that the answer says that it was done; asked again where it failed.
//!
//! [`Revocation::Documented`] has the creation statements of the documentation's example, and no revocation statements, which is what it
//! shows. [`Revocation::Hardened`] gives rights by a group, refuses the login first and ends its sessions before it drops it, which the documentation leaves to
//! the reader.

use super::fact::Millis;
use super::https::{Https, trust};
use super::side::{Failed, Left, Login, Vault};
use super::users::{PATIENCE, TTLS};
use crate::cage::{Stop, tool};
use crate::lab::database::{Database, PORT};
use crate::lab::disk::Disk;
use crate::lab::network::{CLIENTS, Network, OBSERVER, TARGET, address, namespace};
use crate::lab::process::Process;
use crate::lab::{HOME, Lab, Node, now};
use crate::nemesis::cuts::End;
use anyhow::Context as _;
use hyper::Method;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustls::ClientConfig;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

const NODES: u8 = 3;
const API: u16 = 8200;
const CLUSTER: u16 = 8201;
/// How long it may take to do what it is asked to while it is set up.
const SET_UP: Duration = Duration::from_secs(240);
/// How long one server may take for an answer: for one that takes the database, and for a write.
const CALL: Duration = Duration::from_secs(4);
const WRITE: Duration = Duration::from_secs(2);
/// Before an operation is tried again.
const AGAIN: Duration = Duration::from_millis(100);
/// Between two questions who leads.
const WATCH: Duration = Duration::from_millis(250);
const LOGIN: &str = "bao_admin";
/// Hexadecimal: nothing to quote. Nobody outside of the cage can reach what it opens.
const PASSWORD: &str = "6f6e6c7920696e207468652063616765";
/// The longest life with all renewals.
const LONGEST: &str = "40s";

/// How a login is made and ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revocation {
    Documented,
    Hardened,
}

impl Revocation {
    fn creation(self) -> &'static str {
        match self {
            Self::Documented => {
                "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}'; \
                 GRANT SELECT ON ALL TABLES IN SCHEMA public TO \"{{name}}\";"
            }
            // A group has the rights: two logins that are given the same table's at once get in each other's way.
            Self::Hardened => {
                "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE readers;"
            }
        }
    }

    fn revocation(self) -> &'static [&'static str] {
        match self {
            Self::Documented => &[],
            Self::Hardened => &[
                "ALTER ROLE \"{{name}}\" NOLOGIN;",
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{{name}}';",
                "DROP ROLE IF EXISTS \"{{name}}\";",
            ],
        }
    }
}

/// How the servers are reached.
#[derive(Clone)]
pub(crate) struct Cluster {
    tls: Arc<ClientConfig>,
    token: Arc<Zeroizing<String>>,
}

fn at(member: u8) -> SocketAddr {
    (address(End::Member(member)), API).into()
}

/// Makes a cluster of three, and a database.
pub(crate) async fn set_up(
    program: &Path,
    logs: &Path,
    revocation: Revocation,
    multiplier: u8,
    stop: Stop,
) -> anyhow::Result<(Lab, Cluster)> {
    let home = PathBuf::from(HOME);
    std::fs::create_dir(&home)?;
    std::fs::create_dir_all(logs)?;
    let network = Network::create(NODES).await?;
    let tls = certify(&home)?;
    let mut key = [0; 32];
    getrandom::fill(&mut key).context("no random numbers")?;
    std::fs::write(home.join("unseal.key"), key)?;
    let mut nodes = Vec::new();
    for index in 1..=NODES {
        nodes.push(member(&home, index, program, logs, multiplier).await?);
    }
    let database = Database::create(logs).await?;
    let lab = Lab::of_others(nodes, network, database, program, stop);
    for node in &lab.nodes {
        node.start()?;
    }
    let mut cluster = Cluster { tls, token: Arc::default() };
    let init = json!({ "recovery_shares": 1, "recovery_threshold": 1 });
    let made = cluster.until_good(Method::PUT, "/v1/sys/init", &init).await?;
    let token = made.get("root_token").and_then(Value::as_str).context("no root token")?;
    cluster.token = Arc::new(Zeroizing::new(token.to_owned()));
    cluster.furnish(&lab, revocation).await?;
    cluster.joined().await?;
    Ok((lab, cluster))
}

/// A root, and a certificate of all servers from it; the root's key is thrown away.
fn certify(home: &Path) -> anyhow::Result<Arc<ClientConfig>> {
    let (authority, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "the root of a run");
    let root = CertifiedIssuer::self_signed(params, authority)?;
    let names: Vec<String> = (1..=NODES).map(|index| address(End::Member(index)).to_string()).collect();
    let own = CertificateParams::new(names)?.signed_by(&key, &root)?;
    std::fs::write(home.join("root.pem"), root.pem())?;
    std::fs::write(home.join("server.pem"), own.pem())?;
    std::fs::write(home.join("server.key"), key.serialize_pem())?;
    trust(root.der())
}

async fn member(home: &Path, index: u8, program: &Path, logs: &Path, multiplier: u8) -> anyhow::Result<Node> {
    let name = format!("n{index}");
    let disk = Disk::create(home, &name).await?;
    std::fs::create_dir(disk.path().join("raft"))?;
    // As an operator would have made it long before a power cut.
    tool("sync", &["--file-system", &disk.path().display().to_string()]).await?;
    let file = home.join(format!("{name}.hcl"));
    std::fs::write(&file, configuration(home, disk.path(), index, multiplier))?;
    let config = format!("-config={}", file.display());
    let space = namespace(End::Member(index)).unwrap_or_default();
    let log = logs.join(format!("{name}.log"));
    // In a folder of its own: audit devices have to be called the same everywhere.
    let (folder, bao) = (disk.path().display().to_string(), program.display().to_string());
    let process = Process::new(&name, &space, "env".into(), &["--chdir", &folder, &bao, "server", &config], log);
    Ok(Node::new(index, &name, process, disk))
}

fn configuration(home: &Path, disk: &Path, index: u8, multiplier: u8) -> String {
    let (own, home, disk) = (address(End::Member(index)), home.display(), disk.display());
    let mut joins = String::new();
    for other in (1..=NODES).filter(|other| *other != index) {
        // Writing into a String cannot fail.
        let _ = write!(
            joins,
            "retry_join {{\n leader_api_addr = \"https://{}\"\n leader_ca_cert_file = \"{home}/root.pem\"\n}}\n",
            at(other)
        );
    }
    format!(
        "api_addr = \"https://{own}:{API}\"\ncluster_addr = \"https://{own}:{CLUSTER}\"\nlog_level = \"info\"\n\
         storage \"raft\" {{\n path = \"{disk}/raft\"\n node_id = \"n{index}\"\n performance_multiplier = {multiplier}\n{joins}}}\n\
         listener \"tcp\" {{\n address = \"{own}:{API}\"\n cluster_address = \"{own}:{CLUSTER}\"\n\
         tls_cert_file = \"{home}/server.pem\"\n tls_key_file = \"{home}/server.key\"\n}}\n\
         seal \"static\" {{\n current_key_id = \"run\"\n current_key = \"file://{home}/unseal.key\"\n}}\n\
         audit \"file\" \"to-file\" {{\n options = {{\n file_path = \"audit.log\"\n }}\n}}\n"
    )
}

impl Cluster {
    async fn furnish(&self, lab: &Lab, revocation: Revocation) -> anyhow::Result<()> {
        let database = lab.database.as_ref().context("no database")?;
        let sql = format!(
            "SET password_encryption = 'scram-sha-256'; CREATE ROLE {LOGIN} SUPERUSER LOGIN PASSWORD '{PASSWORD}';
             CREATE TABLE demo (id integer PRIMARY KEY, note text NOT NULL);
             CREATE ROLE readers NOLOGIN; GRANT SELECT ON demo TO readers;"
        );
        database.superuser().await?.batch_execute(&sql).await?;
        let kv = json!({ "type": "kv", "options": { "version": "2" } });
        self.until_good(Method::POST, "/v1/sys/mounts/secret", &kv).await?;
        self.until_good(Method::POST, "/v1/sys/mounts/database", &json!({ "type": "database" })).await?;
        let url = format!(
            "postgresql://{{{{username}}}}:{{{{password}}}}@{TARGET}:{PORT}/postgres?sslmode=verify-full&sslrootcert={HOME}/pg/ca.pem&connect_timeout=5"
        );
        let connection = json!({
            "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "username": LOGIN, "password": PASSWORD,
            "connection_url": url, "password_authentication": "scram-sha-256", "max_open_connections": 16,
            "max_idle_connections": 16,
        });
        self.until_good(Method::POST, "/v1/database/config/pg", &connection).await?;
        for ttl in TTLS {
            let role = json!({
                "db_name": "pg", "creation_statements": [revocation.creation()], "default_ttl": format!("{ttl}s"),
                "max_ttl": LONGEST, "revocation_statements": revocation.revocation(),
            });
            self.until_good(Method::POST, &format!("/v1/database/roles/t{ttl}"), &role).await?;
        }
        // The mount is ready when it takes something.
        self.until_good(Method::POST, "/v1/secret/data/first", &json!({ "data": { "value": "" } })).await?;
        Ok(())
    }

    /// Waits until all servers vote.
    async fn joined(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SET_UP;
        loop {
            let path = "/v1/sys/storage/raft/configuration";
            let answer = self.until_good(Method::GET, path, &Value::Null).await?;
            let servers = answer.pointer("/data/config/servers").and_then(Value::as_array);
            let votes = |s: &&Value| s.get("voter") == Some(&Value::Bool(true));
            if servers.is_some_and(|servers| servers.iter().filter(votes).count() == usize::from(NODES)) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "not all servers vote: {answer}");
            sleep(Duration::from_millis(500)).await;
        }
    }

    /// Asks the first server, again and again while it is coming up.
    async fn until_good(&self, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let deadline = Instant::now() + SET_UP;
        loop {
            let why = match self.once(1, method.clone(), path, body).await {
                Ok((200..300, answer)) => return Ok(answer),
                Ok((status, answer)) => anyhow::anyhow!("{status} {answer}"),
                Err(why) => why,
            };
            anyhow::ensure!(Instant::now() < deadline, "{path}: {why:#}");
            sleep(Duration::from_millis(300)).await;
        }
    }

    async fn once(&self, member: u8, method: Method, path: &str, body: &Value) -> anyhow::Result<(u16, Value)> {
        let mut https = Https::connect(Arc::clone(&self.tls), OBSERVER, at(member)).await?;
        https.ask(&self.token, method, path, body, Duration::from_secs(15)).await
    }

    /// Watches who is active, until it is aborted.
    pub(crate) async fn watch(self, lab: Arc<Lab>) {
        let mut turns = 0;
        let health = |member: u8| {
            let this = self.clone();
            async move {
                let mut https = Https::connect(Arc::clone(&this.tls), OBSERVER, at(member)).await?;
                https.ask("", Method::GET, "/v1/sys/health", &Value::Null, Duration::from_millis(800)).await
            }
        };
        loop {
            for member in 1..=NODES {
                // The active one answers 200 and any other one does not.
                let active = health(member).await.is_ok_and(|(status, _)| status == 200);
                if active && lab.leader().0 != member {
                    turns += 1;
                    lab.leads(member, turns);
                }
            }
            sleep(WATCH).await;
        }
    }
}

/// A caller: it stays with a server as long as that one answers, as the official client behind a balancer of load would.
pub(crate) struct Caller {
    cluster: Cluster,
    open: Mutex<(u8, Option<Https>)>,
}

impl Caller {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        Self { cluster: cluster.clone(), open: Mutex::new((1, None)) }
    }

    /// Asks until somebody answers it, or [`PATIENCE`] is over. As the official client does: it goes where it is told to, and asks once more where an
    /// answer was lost or none of the caller's doing. So a login may be made of which nobody hears.
    async fn ask(&self, method: Method, path: &str, body: &Value, limit: Duration) -> Result<Value, Failed> {
        let deadline = Instant::now() + PATIENCE;
        let mut open = self.open.lock().await;
        let mut known = true;
        loop {
            let member = open.0;
            let https = match open.1.take() {
                Some(https) => Ok(https),
                None => Https::connect(Arc::clone(&self.cluster.tls), CLIENTS, at(member)).await,
            };
            let mut next = member % NODES + 1;
            let why = match https {
                // Nobody was asked.
                Err(why) => format!("{why:#}"),
                Ok(mut https) => match https.ask(&self.cluster.token, method.clone(), path, body, limit).await {
                    Ok((200..300, answer)) => {
                        open.1 = Some(https);
                        return Ok(answer);
                    }
                    Ok((status @ 400..500, answer)) => {
                        open.1 = Some(https);
                        return Err(Failed { known, why: format!("{status} {answer}") });
                    }
                    Ok((307, Value::String(to))) => {
                        next = (1..=NODES).find(|n| to.contains(&at(*n).to_string())).unwrap_or(next);
                        format!("307 {to}")
                    }
                    // Sealed, or nobody is active.
                    Ok((503, answer)) => format!("503 {answer}"),
                    Ok((status, answer)) => {
                        known = false;
                        format!("{status} {answer}")
                    }
                    Err(why) => {
                        known = false;
                        format!("{why:#}")
                    }
                },
            };
            open.0 = next;
            if Instant::now() >= deadline {
                return Err(Failed { known, why });
            }
            sleep(AGAIN).await;
        }
    }
}

fn missing(why: &Failed) -> bool {
    why.known && (why.why.contains("invalid lease") || why.why.contains("lease not found"))
}

/// The end that follows from what an answer says is left.
fn ends(answer: &Value) -> Millis {
    now() + answer.get("lease_duration").and_then(Value::as_u64).unwrap_or(0) * 1_000
}

#[async_trait::async_trait]
impl Vault for Caller {
    async fn issue(&self, ttl: Millis) -> Result<Login, Failed> {
        let path = format!("/v1/database/creds/t{}", ttl / 1_000);
        let answer = self.ask(Method::GET, &path, &Value::Null, CALL).await?;
        let word = |at: &str| answer.pointer(at).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (lease, name) = (word("/lease_id"), word("/data/username"));
        Ok(Login { lease, name, password: Zeroizing::new(word("/data/password")), ends: ends(&answer) })
    }

    async fn renew(&self, lease: &str, ttl: Millis) -> Result<Millis, Failed> {
        let body = json!({ "lease_id": lease, "increment": ttl / 1_000 });
        Ok(ends(&self.ask(Method::PUT, "/v1/sys/leases/renew", &body, CALL).await?))
    }

    async fn end(&self, lease: &str) -> Result<bool, Failed> {
        let body = json!({ "lease_id": lease, "sync": true });
        match self.ask(Method::PUT, "/v1/sys/leases/revoke", &body, PATIENCE).await {
            Ok(_) => Ok(true),
            Err(why) if missing(&why) => Ok(true),
            Err(why) => Err(why),
        }
    }

    async fn over(&self, lease: &str, ended: bool) -> Result<bool, Failed> {
        if ended {
            return self.end(lease).await;
        }
        match self.ask(Method::PUT, "/v1/sys/leases/lookup", &json!({ "lease_id": lease }), CALL).await {
            Ok(_) => Ok(false),
            Err(why) if missing(&why) => Ok(true),
            Err(why) => Err(why),
        }
    }

    async fn write(&self, number: u64) -> Result<(), Failed> {
        let path = format!("/v1/secret/data/w{}", number % 50);
        let body = json!({ "data": { "value": number.to_string() } });
        self.ask(Method::POST, &path, &body, WRITE).await.map(drop)
    }

    async fn left(&self) -> Result<Left, Failed> {
        let mut left = Left::default();
        for ttl in TTLS {
            let path = format!("/v1/sys/leases/lookup/database/creds/t{ttl}?list=true");
            match self.ask(Method::GET, &path, &Value::Null, CALL).await {
                Ok(answer) => {
                    let keys = answer.pointer("/data/keys").and_then(Value::as_array).cloned().unwrap_or_default();
                    let ids = keys.iter().filter_map(Value::as_str);
                    left.leases.extend(ids.map(|id| format!("database/creds/t{ttl}/{id}")));
                }
                Err(why) if why.known && why.why.starts_with("404") => {}
                Err(why) => return Err(why),
            }
        }
        let answer = self.ask(Method::GET, "/v1/sys/leases/count?type=irrevocable", &Value::Null, CALL).await?;
        left.given_up = answer.pointer("/data/lease_count").and_then(Value::as_u64).unwrap_or(0);
        Ok(left)
    }
}
