//! A real PostgreSQL with an executor's role in it, and a client's side of SCRAM.
#![allow(dead_code, reason = "each test binary uses a part")]

pub(crate) mod exchange;

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Credential, Login, Target};
use quorate_engines::postgres::{OwnedObjects, Postgres, PostgresConfig};
use quorate_engines::scratch::{Installed, PostgresServer};
use quorate_engines::{Engine, OwnSessions, Tls};
use sha2::{Digest, Sha256};
use tokio_postgres::{Client, Config, NoTls};

pub(crate) const EXECUTOR: &str = "quorate_executor";
pub(crate) const EXECUTOR_PASSWORD: &str = "executor-canary-password";
pub(crate) const GROUP: &str = "Readers \"of\" it's \\ 100%";

/// A verifier as a client makes it (RFC 5803).
pub(crate) fn scram(password: &str, iterations: u32) -> String {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).unwrap();
    let salted: [u8; 32] = pbkdf2::pbkdf2_array::<Hmac<Sha256>, 32>(password.as_bytes(), &salt, iterations).unwrap();
    let keyed = |label: &[u8]| Hmac::<Sha256>::new_from_slice(&salted).unwrap().chain_update(label).finalize();
    let stored = Sha256::digest(keyed(b"Client Key").into_bytes());
    let server = keyed(b"Server Key").into_bytes();
    let b64 = |bytes: &[u8]| STANDARD.encode(bytes);
    format!("SCRAM-SHA-256${iterations}:{}${}:{}", b64(&salt), b64(&stored), b64(&server))
}

/// The server of the distribution; the newest there is in the binary that runs all tests once more; or the version that
/// `QUORATE_POSTGRES` names.
pub(crate) fn installed() -> Installed {
    if let Ok(wanted) = std::env::var("QUORATE_POSTGRES") {
        return Installed::of(wanted.parse().unwrap()).unwrap_or_else(|why| panic!("{why}"));
    }
    if env!("CARGO_CRATE_NAME") != "newest" {
        return Installed::packaged().pop().expect("PostgreSQL is not installed: run deploy/build/setup");
    }
    let newest = Installed::all().pop().filter(|newest| newest.version >= 18);
    newest.expect("PostgreSQL 18 is not installed beside the distribution's: run deploy/build/setup")
}

pub(crate) struct Pg {
    pub(crate) server: Mutex<PostgresServer>,
    pub(crate) port: u16,
    holding: tokio::sync::Mutex<Option<Client>>,
}

impl Pg {
    pub(crate) async fn start(settings: &[&str]) -> Arc<Self> {
        let owned: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        let server = tokio::task::spawn_blocking(move || {
            PostgresServer::start_on(&installed(), &owned.iter().map(String::as_str).collect::<Vec<_>>()).unwrap()
        })
        .await
        .unwrap();
        let port = server.port();
        let pg = Self { server: Mutex::new(server), port, holding: tokio::sync::Mutex::new(None) };
        let group = GROUP.replace('"', "\"\"");
        pg.sql(&format!(
            "CREATE ROLE {EXECUTOR} LOGIN CREATEROLE PASSWORD '{EXECUTOR_PASSWORD}';
             GRANT pg_read_all_stats, pg_signal_backend TO {EXECUTOR};
             CREATE ROLE \"{group}\" NOLOGIN; CREATE ROLE quorate_owner NOLOGIN; GRANT quorate_owner TO {EXECUTOR};
             GRANT USAGE, CREATE ON SCHEMA public TO quorate_owner; CREATE DATABASE other;
             CREATE ROLE makers NOLOGIN; GRANT CREATE ON SCHEMA public TO makers"
        ))
        .await;
        let other = pg.superuser("other").await;
        other.batch_execute("GRANT CREATE ON SCHEMA public TO makers").await.unwrap();
        if pg.version().await >= 160_000 {
            pg.sql(&format!("GRANT \"{group}\", makers TO {EXECUTOR} WITH ADMIN OPTION")).await;
        }
        Arc::new(pg)
    }

    /// One server for all tests of a binary that run at the same time; it ends with the last of them.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::Mutex<Weak<Pg>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(pg) = shared.upgrade() {
            return pg;
        }
        let pg = Self::start(&[]).await;
        *shared = Arc::downgrade(&pg);
        pg
    }

    pub(crate) async fn version(&self) -> i32 {
        let client = self.superuser("postgres").await;
        client.query_one("SELECT current_setting('server_version_num')::int", &[]).await.unwrap().get(0)
    }

    pub(crate) fn config(&self, term: u64) -> PostgresConfig {
        PostgresConfig {
            host: "127.0.0.1".into(),
            port: self.port,
            dbname: "postgres".into(),
            databases: Vec::new(),
            standbys: Vec::new(),
            user: EXECUTOR.into(),
            own: OwnSessions::default(),
            passwords: SecretVec::new(EXECUTOR_PASSWORD.as_bytes().to_vec()).into(),
            tls: Tls::Disabled,
            target: "t1".into(),
            term,
            owned: OwnedObjects::ReassignTo("quorate_owner".into()),
            remote_apply: false,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(20),
            create_lock_timeout: Duration::from_secs(15),
        }
    }

    pub(crate) fn engine(&self, term: u64) -> Postgres {
        Postgres::new(self.config(term)).unwrap()
    }

    pub(crate) async fn superuser(&self, dbname: &str) -> Client {
        let config = self.server.lock().unwrap().superuser(dbname);
        connect(&config).await.unwrap()
    }

    pub(crate) async fn sql(&self, sql: &str) {
        let client = self.superuser("postgres").await;
        for statement in sql.split(';') {
            client.batch_execute(statement).await.unwrap();
        }
    }

    pub(crate) async fn client(
        &self,
        name: &str,
        password: &str,
        dbname: &str,
    ) -> Result<Client, tokio_postgres::Error> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.port).user(name).password(password).dbname(dbname);
        connect(&config).await
    }
}

pub(crate) async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[async_trait]
impl Target for Pg {
    async fn executor(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine(1))
    }

    fn credential(&self) -> Credential {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).unwrap();
        let password = STANDARD.encode(random);
        Credential { verifier: scram(&password, 4096), password }
    }

    fn group(&self) -> String {
        GROUP.to_owned()
    }

    async fn login(&self, name: &str, credential: &Credential) -> Option<Box<dyn Login>> {
        let client = self.client(name, &credential.password, "postgres").await.ok()?;
        Some(Box::new(Session(client)))
    }

    async fn hold_creates(&self) {
        let client = self.superuser("postgres").await;
        client.batch_execute("BEGIN; LOCK TABLE pg_authid IN SHARE MODE").await.unwrap();
        *self.holding.lock().await = Some(client);
    }

    async fn release(&self) {
        let client = self.holding.lock().await.take().unwrap();
        client.batch_execute("COMMIT").await.unwrap();
    }
}

struct Session(Client);

#[async_trait]
impl Login for Session {
    async fn alive(&mut self) -> bool {
        self.0.simple_query("SELECT 1").await.is_ok()
    }
}
