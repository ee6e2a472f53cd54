//! A MariaDB, its executor and its clients.

use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};
use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Credential, Login, Target};
use quorate_engines::mariadb::{MariaDb, MariaDbConfig};
use quorate_engines::scratch::MariaDbServer;
use quorate_engines::{Engine, OwnSessions, Tls};

pub(crate) const EXECUTOR: &str = "quorate";
pub(crate) const EXECUTOR_PASSWORD: &str = "exec' \\ pass\"wörd";
/// One that needs quoting.
pub(crate) const GROUP: &str = "read'er`s \\ \"x";

pub(crate) struct My {
    pub(crate) server: Mutex<MariaDbServer>,
    pub(crate) port: u16,
    socket: String,
    holding: tokio::sync::Mutex<Option<Conn>>,
}

impl My {
    pub(crate) async fn start(settings: &[&str]) -> Arc<Self> {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        let server = tokio::task::spawn_blocking(move || {
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            MariaDbServer::start(&settings).unwrap()
        });
        let server = server.await.unwrap();
        let (port, socket) = (server.port(), server.socket().to_str().unwrap().to_owned());
        let my = Self { server: Mutex::new(server), port, socket, holding: tokio::sync::Mutex::new(None) };
        let (group, password) = (GROUP.replace('`', "``"), EXECUTOR_PASSWORD.replace('\'', "''").replace('\\', "\\\\"));
        my.sql(&[
            &format!("CREATE USER {EXECUTOR}@'%' IDENTIFIED BY '{password}'"),
            &format!("GRANT CREATE USER, PROCESS, CONNECTION ADMIN, SHOW VIEW ON *.* TO {EXECUTOR}@'%'"),
            &format!("GRANT SELECT, UPDATE ON mysql.* TO {EXECUTOR}@'%'"),
            "CREATE DATABASE app",
            "CREATE TABLE app.t (a int)",
            "INSERT INTO app.t VALUES (7)",
            &format!("CREATE ROLE `{group}`"),
            &format!("GRANT SELECT ON app.* TO `{group}`"),
            &format!("GRANT `{group}` TO {EXECUTOR}@'%' WITH ADMIN OPTION"),
            "CREATE ROLE makers",
            "GRANT ALL ON app.* TO makers",
            &format!("GRANT makers TO {EXECUTOR}@'%' WITH ADMIN OPTION"),
        ])
        .await;
        Arc::new(my)
    }

    /// One server for all tests of a binary that run at the same time; it ends with the last of them.
    pub(crate) async fn shared() -> Arc<Self> {
        static SHARED: tokio::sync::Mutex<Weak<My>> = tokio::sync::Mutex::const_new(Weak::new());
        let mut shared = SHARED.lock().await;
        if let Some(my) = shared.upgrade() {
            return my;
        }
        let my = Self::start(&[]).await;
        *shared = Arc::downgrade(&my);
        my
    }

    pub(crate) fn config(&self, term: u64) -> MariaDbConfig {
        MariaDbConfig {
            host: "127.0.0.1".into(),
            port: self.port,
            user: EXECUTOR.into(),
            passwords: SecretVec::new(EXECUTOR_PASSWORD.as_bytes().to_vec()).into(),
            own: OwnSessions::default(),
            tls: Tls::Disabled,
            target: "t1".into(),
            term,
            require_tls: false,
            connect_timeout: Duration::from_secs(5),
            statement_timeout: Duration::from_secs(20),
        }
    }

    pub(crate) fn engine(&self, term: u64) -> MariaDb {
        MariaDb::new(self.config(term)).unwrap()
    }

    pub(crate) async fn root(&self) -> Conn {
        let options = OptsBuilder::default().socket(Some(&self.socket)).user(Some("root"));
        Conn::new(options).await.unwrap()
    }

    pub(crate) async fn sql(&self, statements: &[&str]) {
        let mut root = self.root().await;
        for statement in statements {
            root.query_drop(*statement).await.unwrap_or_else(|e| panic!("{statement}: {e}"));
        }
        root.disconnect().await.unwrap();
    }

    pub(crate) async fn rows<T: FromRow + Send + 'static>(&self, sql: &str) -> Vec<T> {
        let mut root = self.root().await;
        let rows = root.query(sql).await.unwrap();
        root.disconnect().await.unwrap();
        rows
    }

    pub(crate) async fn client(&self, name: &str, password: &str) -> Result<Conn, mysql_async::Error> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some(name))
            .pass(Some(password))
            .prefer_socket(false);
        Conn::new(options).await
    }
}

/// As the server computes it: `*` and the SHA-1 of the SHA-1.
pub(crate) fn native(password: &str) -> String {
    use sha1::{Digest, Sha1};
    let hash = Sha1::digest(Sha1::digest(password.as_bytes()));
    format!("*{}", hash.iter().map(|byte| format!("{byte:02X}")).collect::<String>())
}

#[async_trait]
impl Target for My {
    async fn executor(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine(1))
    }

    fn credential(&self) -> Credential {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).unwrap();
        let password = STANDARD.encode(random);
        Credential { verifier: native(&password), password }
    }

    fn group(&self) -> String {
        GROUP.to_owned()
    }

    fn unfit_group(&self) -> String {
        "PUBLIC".to_owned()
    }

    async fn login(&self, name: &str, credential: &Credential) -> Option<Box<dyn Login>> {
        let client = self.client(name, &credential.password).await.ok()?;
        Some(Box::new(Session(client)))
    }

    async fn hold_creates(&self) {
        let mut root = self.root().await;
        root.query_drop("FLUSH TABLES WITH READ LOCK").await.unwrap();
        *self.holding.lock().await = Some(root);
    }

    async fn release(&self) {
        let mut root = self.holding.lock().await.take().unwrap();
        root.query_drop("UNLOCK TABLES").await.unwrap();
    }
}

struct Session(Conn);

#[async_trait]
impl Login for Session {
    async fn alive(&mut self) -> bool {
        self.0.query_drop("SELECT 1").await.is_ok()
    }
}
