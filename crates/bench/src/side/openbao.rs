//! OpenBao, as its documentation sets it up: integrated storage (Raft), TLS, an audit file, KV version 2.

use super::quorate::Database;
use super::{Connection, Facts, Side};
use crate::failover::Leads;
use crate::https::{Answer, Certificates, Https};
use crate::process::{Server, free_ports};
use crate::work::{LISTED, Operation, READABLE, Work, value};
use anyhow::Context as _;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use hyper::Method;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Mutex;
use tokio::time::sleep;

/// How long it may take to do what it was asked to while it is set up.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long one server may take for a write while leaders are killed.
const CALL: Duration = Duration::from_secs(2);
/// The policy of the clients' token.
const POLICY: &str = r#"
path "secret/*" { capabilities = ["create", "read", "update", "list"] }
path "database/creds/*" { capabilities = ["read"] }
path "sys/leases/renew" { capabilities = ["update"] }
"#;
/// How the vault's own role makes a login, in OpenBao's words.
const CREATION: &str =
    "CREATE ROLE \"{{name}}\" WITH LOGIN PASSWORD '{{password}}' VALID UNTIL '{{expiration}}' IN ROLE readers;";

/// One server, or three.
pub(crate) struct OpenBao {
    name: &'static str,
    program: PathBuf,
    servers: std::sync::Mutex<Vec<Server>>,
    /// The servers' folders and ports.
    homes: Vec<PathBuf>,
    apis: Vec<u16>,
    /// What unseals them.
    key: String,
    certificates: Certificates,
    /// The active server's.
    port: u16,
    /// Of a client, and the root's.
    token: String,
    root: String,
}

impl OpenBao {
    /// Starts one or three servers in a new folder below `folder`, with a client's token, and a role at `database`, if any.
    pub(crate) async fn start(
        program: &Path,
        folder: &Path,
        nodes: usize,
        database: Option<&Database>,
    ) -> anyhow::Result<Self> {
        let name = if nodes == 1 { "openbao-1" } else { "openbao-3" };
        let folder = folder.join(name);
        std::fs::create_dir(&folder)?;
        let folder = std::fs::canonicalize(folder)?;
        let certificates = Certificates::make(&folder)?;
        let ports = free_ports(2 * nodes)?;
        let first = *ports.first().context("a port")?;
        let (mut servers, mut homes) = (Vec::new(), Vec::new());
        for (n, pair) in ports.chunks_exact(2).enumerate() {
            let &[api, cluster] = pair else { continue };
            let home = folder.join(format!("b{n}"));
            std::fs::create_dir_all(home.join("raft"))?;
            let join = if n == 0 { String::new() } else { joining(first, &certificates) };
            let config = configuration(&home, n, (api, cluster), &join, &certificates);
            std::fs::write(home.join("server.hcl"), config)?;
            servers.push(serve(program, &home)?);
            homes.push(home);
        }
        let apis: Vec<u16> = ports.iter().copied().step_by(2).collect();
        let (servers, program, port) = (std::sync::Mutex::new(servers), program.to_owned(), first);
        let (key, token, root) = (String::new(), String::new(), String::new());
        let mut this = Self { name, program, servers, homes, apis, key, certificates, port, token, root };
        this.set_up(database).await.with_context(|| format!("setting {name} up"))?;
        Ok(this)
    }

    async fn set_up(&mut self, database: Option<&Database>) -> anyhow::Result<()> {
        let init = json!({ "secret_shares": 1, "secret_threshold": 1 });
        let answer = self.until_good(self.port, Method::PUT, "/v1/sys/init", &init).await?;
        let word = |at: &str| answer.pointer(at).and_then(Value::as_str).map(str::to_owned).context("init");
        self.key = word("/keys/0")?;
        self.root = word("/root_token")?;
        for api in &self.apis {
            self.unseal(*api).await?;
        }
        let kv = json!({ "type": "kv", "options": { "version": "2" } });
        self.until_good(self.port, Method::POST, "/v1/sys/mounts/secret", &kv).await?;
        let policy = json!({ "policy": POLICY });
        self.until_good(self.port, Method::PUT, "/v1/sys/policies/acl/bench", &policy).await?;
        let wanted = json!({ "policies": ["bench"], "ttl": "24h", "no_parent": true });
        let made = self.until_good(self.port, Method::POST, "/v1/auth/token/create", &wanted).await?;
        let token = made.pointer("/auth/client_token").and_then(Value::as_str);
        self.token = token.context("a client's token")?.to_owned();
        if let Some(database) = database {
            self.add_database(database).await.context("the database")?;
        }
        // The mount is ready when it takes something.
        let first = json!({ "data": { "value": "" } });
        self.until_good(self.port, Method::POST, "/v1/secret/data/first", &first).await?;
        self.joined(self.apis.len()).await
    }

    async fn unseal(&self, api: u16) -> anyhow::Result<()> {
        let key = json!({ "key": self.key });
        let deadline = Instant::now() + PATIENCE;
        loop {
            // A server that has not joined yet has nothing to unseal.
            let answer = self.until_good(api, Method::PUT, "/v1/sys/unseal", &key).await?;
            if answer.get("sealed") == Some(&Value::Bool(false)) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "it stays sealed: {answer}");
            sleep(Duration::from_millis(200)).await;
        }
    }

    fn servers(&self) -> std::sync::MutexGuard<'_, Vec<Server>> {
        self.servers.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The place of the active server, once there is one.
    async fn active(&self) -> anyhow::Result<usize> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            for (at, api) in self.apis.iter().enumerate() {
                // The active one answers 200 and any other one does not: sys/health.
                let answer = self.once(*api, Method::GET, "/v1/sys/health", Bytes::new()).await;
                if answer.is_ok_and(|answer| answer.status == 200) {
                    return Ok(at);
                }
            }
            anyhow::ensure!(Instant::now() < deadline, "no server is active");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until all servers vote.
    async fn joined(&self, nodes: usize) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let path = "/v1/sys/storage/raft/configuration";
            let answer = self.until_good(self.port, Method::GET, path, &Value::Null).await?;
            let servers = answer.pointer("/data/config/servers").and_then(Value::as_array);
            let votes = |s: &Value| s.get("voter") == Some(&Value::Bool(true));
            if servers.is_some_and(|servers| servers.iter().filter(|s| votes(s)).count() == nodes) {
                return Ok(());
            }
            anyhow::ensure!(Instant::now() < deadline, "not all servers vote: {answer}");
            sleep(Duration::from_millis(500)).await;
        }
    }

    async fn add_database(&self, database: &Database) -> anyhow::Result<()> {
        // Of its own, with the same rights as the vault's; the database is the same.
        let login = self.name.replace('-', "_");
        let sql = format!(
            "CREATE ROLE {login} LOGIN CREATEROLE PASSWORD '{login}';
             GRANT pg_read_all_stats, pg_signal_backend TO {login};"
        );
        let grant = format!("GRANT readers TO {login} WITH ADMIN OPTION;");
        for sql in [sql, grant] {
            database.execute(&sql)?;
        }
        let connection = json!({
            "plugin_name": "postgresql-database-plugin", "allowed_roles": "*", "username": login, "password": login,
            "connection_url": format!("postgresql://{{{{username}}}}:{{{{password}}}}@127.0.0.1:{}/postgres?sslmode=require", database.port),
        });
        let enable = json!({ "type": "database" });
        self.until_good(self.port, Method::POST, "/v1/sys/mounts/database", &enable).await?;
        self.until_good(self.port, Method::POST, "/v1/database/config/pg", &connection).await?;
        let role = json!({
            "db_name": "pg", "creation_statements": [CREATION], "default_ttl": "4h", "max_ttl": "4h",
        });
        self.until_good(self.port, Method::POST, "/v1/database/roles/reader", &role).await?;
        Ok(())
    }

    /// Asks as root, again and again while it is coming up; the last answer says why it did not.
    async fn until_good(&self, port: u16, method: Method, path: &str, body: &Value) -> anyhow::Result<Value> {
        let body = if body.is_null() { Bytes::new() } else { Bytes::from(body.to_string()) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.once(port, method.clone(), path, body.clone()).await.and_then(|answer| answer.json());
            match answer {
                Ok(answer) => return Ok(answer),
                Err(why) if Instant::now() > deadline => return Err(why.context(path.to_owned())),
                Err(_) => sleep(Duration::from_millis(200)).await,
            }
        }
    }

    async fn once(&self, port: u16, method: Method, path: &str, body: Bytes) -> anyhow::Result<Answer> {
        Https::connect(self.certificates.client(&[b"http/1.1"])?, port, &self.root).await?.ask(method, path, body).await
    }

    async fn caller(&self, work: &Work) -> anyhow::Result<Caller> {
        let https = Https::connect(self.certificates.client(&[b"http/1.1"])?, self.port, &self.token).await?;
        let body = Bytes::from(json!({ "data": { "value": value(work.size) } }).to_string());
        Ok(Caller { https, body, lease: Mutex::default() })
    }
}

/// Starts a server in its folder: an audit device has to be called the same on every server, or those that stand by do not take part.
fn serve(program: &Path, home: &Path) -> anyhow::Result<Server> {
    let (program, folder) = (std::fs::canonicalize(program)?.display().to_string(), home.display().to_string());
    let file = format!("-config={}", home.join("server.hcl").display());
    Server::start(Path::new("env"), ["--chdir", &folder, &program, "server", &file], &home.join("server.log"))
}

/// How a further server finds the first.
fn joining(first: u16, certificates: &Certificates) -> String {
    let root = certificates.root_file.display();
    format!("retry_join {{\n leader_api_addr = \"https://127.0.0.1:{first}\"\n leader_ca_cert_file = \"{root}\"\n }}")
}

/// A server's file. What is not said is OpenBao's default.
fn configuration(home: &Path, n: usize, (api, cluster): (u16, u16), join: &str, certificates: &Certificates) -> String {
    let home = home.display();
    format!(
        "api_addr = \"https://127.0.0.1:{api}\"\ncluster_addr = \"https://127.0.0.1:{cluster}\"\nlog_level = \"warn\"\n\
         storage \"raft\" {{\n path = \"{home}/raft\"\n node_id = \"b{n}\"\n {join}\n}}\n\
         listener \"tcp\" {{\n address = \"127.0.0.1:{api}\"\n cluster_address = \"127.0.0.1:{cluster}\"\n \
         tls_cert_file = \"{}\"\n tls_key_file = \"{}\"\n}}\n\
         audit \"file\" \"to-file\" {{\n options = {{\n file_path = \"audit.log\"\n }}\n}}\n",
        certificates.certificate_file.display(),
        certificates.key_file.display(),
    )
}

impl Database {
    /// Runs SQL as the superuser.
    pub(crate) fn execute(&self, sql: &str) -> anyhow::Result<String> {
        let output = Command::new("psql")
            .args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", "postgres", "-c", sql, "-h"])
            .arg(&self.socket)
            .args(["-p", &self.port.to_string()])
            .output()
            .context("psql")?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "psql: {}", said.trim());
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }
}

#[async_trait::async_trait]
impl Side for OpenBao {
    fn name(&self) -> &'static str {
        self.name
    }

    fn facts(&self) -> Facts {
        let version = Command::new(&self.program).arg("version").output();
        let version = version.map(|o| String::from_utf8_lossy(&o.stdout).trim().to_owned()).unwrap_or_default();
        Facts {
            what: version,
            processes: format!("{} on this machine; all clients ask the active one", self.apis.len()),
            connection: "HTTP/1.1 over TLS 1.3, kept open".into(),
            caller: "a service token and an ACL policy, decided by 1 server".into(),
            durability: format!(
                "Raft (bbolt) of {} synced",
                if self.apis.len() == 1 { "the 1 server" } else { "2 servers" }
            ),
            audit:
                "a request and a response record on the active server, written to a file before the answer, not synced"
                    .into(),
            database: "CREATE ROLE with group and validity, the password in clear: PostgreSQL makes 4,096 iterations"
                .into(),
        }
    }

    fn knows(&self, operation: Operation) -> bool {
        !matches!(operation, Operation::OpenCustomer | Operation::OpenRelayed)
    }

    fn servers(&self, _: Operation) -> Vec<u32> {
        self.servers().iter().map(Server::pid).collect()
    }

    fn audit_files(&self) -> Vec<PathBuf> {
        self.homes.iter().map(|home| home.join("audit.log")).collect()
    }

    async fn prepare(&self, work: &Work) -> anyhow::Result<()> {
        let (name, count) = match work.operation {
            Operation::Open => (work.size.to_string(), READABLE),
            Operation::List => ("list".to_owned(), LISTED),
            Operation::OpenRelayed
            | Operation::OpenCustomer
            | Operation::Write
            | Operation::Issue
            | Operation::Renew => return Ok(()),
        };
        let size = if work.operation == Operation::List { 100 } else { work.size };
        let caller = self.caller(&Work { size, ..*work }).await?;
        let puts = (0..count).map(|n| {
            let (caller, path) = (&caller, format!("/v1/secret/data/{name}/{n}"));
            async move { caller.https.ask(Method::POST, &path, caller.body.clone()).await?.good() }
        });
        futures::stream::iter(puts).buffer_unordered(4).try_collect::<Vec<_>>().await?;
        Ok(())
    }

    async fn end_all(&self) -> anyhow::Result<()> {
        let path = "/v1/sys/leases/revoke-prefix/database/creds/reader";
        self.once(self.port, Method::PUT, path, Bytes::new()).await?.good()
    }

    async fn connect(&self, work: &Work) -> anyhow::Result<Arc<dyn Connection>> {
        Ok(Arc::new(self.caller(work).await?))
    }
}

#[async_trait::async_trait]
impl Leads for OpenBao {
    async fn kill_leader(&self) -> anyhow::Result<usize> {
        let at = self.active().await?;
        let pid = self.servers().get(at).map(Server::pid).context("a server")?;
        crate::process::kill(pid)?;
        Ok(at)
    }

    async fn write_somewhere(&self, n: u64) -> anyhow::Result<()> {
        let (path, body) = (format!("/v1/secret/data/failover/{n}"), json!({ "data": { "value": value(1024) } }));
        let body = Bytes::from(body.to_string());
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut said = Vec::new();
            for api in &self.apis {
                // One that stands by passes it on.
                let one = self.once(*api, Method::POST, &path, body.clone());
                match tokio::time::timeout(CALL, one).await {
                    Ok(Ok(answer)) if answer.good().is_ok() => return Ok(()),
                    Ok(Ok(answer)) => {
                        said.push(format!("{} {}", answer.status, String::from_utf8_lossy(&answer.body).trim()))
                    }
                    Ok(Err(why)) => said.push(format!("{why:#}")),
                    Err(_) => said.push("no answer".to_owned()),
                }
            }
            anyhow::ensure!(Instant::now() < deadline, "nobody takes a write: {}", said.join("; "));
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn revive(&self, which: usize) -> anyhow::Result<()> {
        let (home, api) = (self.homes.get(which).context("a server")?, *self.apis.get(which).context("a server")?);
        let server = serve(&self.program, home)?;
        if let Some(slot) = self.servers().get_mut(which) {
            *slot = server;
        }
        self.unseal(api).await?;
        self.active().await.map(drop)
    }
}

/// One client.
struct Caller {
    https: Https,
    /// What a write sends.
    body: Bytes,
    /// The one to renew.
    lease: Mutex<Option<String>>,
}

#[async_trait::async_trait]
impl Connection for Caller {
    async fn call(&self, work: &Work, n: u64) -> anyhow::Result<()> {
        for at in 0..work.weight() {
            match work.operation {
                Operation::Open => {
                    let path = format!("/v1/secret/data/{}/{}", work.size, (n * work.weight() + at) % READABLE);
                    let answer = self.https.ask(Method::GET, &path, Bytes::new()).await?;
                    answer.good()?;
                    anyhow::ensure!(answer.body.len() > work.size, "{} bytes are too few", answer.body.len());
                }
                Operation::Write => {
                    let path = format!("/v1/secret/data/w/{n}-{at}");
                    self.https.ask(Method::POST, &path, self.body.clone()).await?.good()?;
                }
                Operation::List => {
                    let answer =
                        self.https.ask(Method::GET, "/v1/secret/metadata/list?list=true", Bytes::new()).await?;
                    let answer = answer.json()?;
                    let listed = answer.pointer("/data/keys").and_then(Value::as_array).map_or(0, Vec::len);
                    anyhow::ensure!(u64::try_from(listed)? == LISTED, "{listed} secrets are listed");
                }
                Operation::Issue => drop(self.issue().await?),
                Operation::Renew => {
                    let mut held = self.lease.lock().await;
                    let lease = match held.take() {
                        Some(lease) => lease,
                        None => self.issue().await?,
                    };
                    let body = Bytes::from(json!({ "lease_id": lease, "increment": 14_400 }).to_string());
                    self.https.ask(Method::PUT, "/v1/sys/leases/renew", body).await?.good()?;
                    *held = Some(lease);
                }
                Operation::OpenRelayed | Operation::OpenCustomer => {
                    anyhow::bail!("OpenBao has no {}", work.operation.name())
                }
            }
        }
        Ok(())
    }
}

impl Caller {
    async fn issue(&self) -> anyhow::Result<String> {
        let answer = self.https.ask(Method::GET, "/v1/database/creds/reader", Bytes::new()).await?.json()?;
        let lease = answer.get("lease_id").and_then(Value::as_str);
        Ok(lease.context("no lease_id in the answer")?.to_owned())
    }
}
