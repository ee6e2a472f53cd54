//! A MariaDB beside a cluster.

use super::{EXECUTOR, EXECUTOR_PASSWORD, PASSWORD, Server, describe};
use mysql_async::prelude::{FromRow, Queryable as _};
use mysql_async::{Conn, Error, OptsBuilder};
use quorate_api::client::Credential;
use quorate_engines::scratch::MariaDbServer;
use quorate_tests::Cluster;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// What all leased logins have.
const GROUP: &str = "app_users";

/// It.
pub(crate) struct MariaDb {
    server: MariaDbServer,
}

impl MariaDb {
    pub(crate) async fn beside(cluster: &Cluster) -> Self {
        let start = || MariaDbServer::start(&[]).expect("MariaDB is not installed: run deploy/build/setup");
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let maria = Self { server };
        let statements: [&str; 8] = [
            &format!("CREATE USER {EXECUTOR}@'%' IDENTIFIED BY '{EXECUTOR_PASSWORD}'"),
            &format!("GRANT CREATE USER, PROCESS, CONNECTION ADMIN, SHOW VIEW ON *.* TO {EXECUTOR}@'%'"),
            &format!("GRANT SELECT, UPDATE ON mysql.* TO {EXECUTOR}@'%'"),
            "CREATE DATABASE app",
            "CREATE TABLE app.t (a int)",
            &format!("CREATE ROLE {GROUP}"),
            &format!("GRANT SELECT, INSERT, CREATE TEMPORARY TABLES ON app.* TO {GROUP}"),
            &format!("GRANT {GROUP} TO {EXECUTOR}@'%' WITH ADMIN OPTION"),
        ];
        for statement in statements {
            maria.run(statement).await;
        }
        describe::<Self>(cluster, "mariadb", maria.server.port(), GROUP);
        maria
    }

    /// As `root`, by the Unix socket.
    pub(crate) async fn root(&self) -> Conn {
        let socket = self.server.socket().to_str().unwrap().to_owned();
        let options = OptsBuilder::default().socket(Some(socket)).user(Some("root")).prefer_socket(false);
        Conn::new(options).await.unwrap()
    }

    async fn run(&self, sql: &str) {
        let mut root = self.root().await;
        root.query_drop(sql).await.unwrap_or_else(|why| panic!("{sql}: {why}"));
        root.disconnect().await.unwrap();
    }

    pub(crate) async fn rows<T: FromRow + Send + 'static>(&self, sql: &str) -> Vec<T> {
        let mut root = self.root().await;
        let rows = root.query(sql).await.unwrap_or_else(|why| panic!("{sql}: {why}"));
        root.disconnect().await.unwrap();
        rows
    }

    /// A session of a login that was made by hand.
    pub(crate) async fn enter(&self, login: &str) -> Conn {
        Conn::new(by_tcp("127.0.0.1", self.server.port(), login, PASSWORD)).await.unwrap()
    }

    /// Somebody who has said a name and proves nothing (MariaDB's client/server protocol, connection phase). For as long as that is kept, and for
    /// ten seconds at most, the server shows a connection of that name.
    pub(crate) async fn knock(&self, name: &str) -> TcpStream {
        let mut stream = TcpStream::connect(("127.0.0.1", self.server.port())).await.unwrap();
        assert!(stream.read(&mut [0; 1_024]).await.unwrap() > 0, "it greets");
        // CLIENT_MYSQL, PROTOCOL_41, SECURE_CONNECTION, PLUGIN_AUTH; then the longest packet, the collation, and 23 bytes of nothing.
        let capabilities = 1_u32 | 0x200 | 0x8000 | 0x8_0000;
        let mut body = [&capabilities.to_le_bytes()[..], &(1_u32 << 24).to_le_bytes(), &[33], &[0; 23]].concat();
        // Not the plugin that the account would have, so that the server asks for more.
        body.extend(format!("{name}\0\0mysql_clear_password\0").bytes());
        let length = u8::try_from(body.len()).unwrap();
        stream.write_all(&[&[length, 0, 0, 1], &body[..]].concat()).await.unwrap();
        let asked = stream.read(&mut [0; 1_024]).await.unwrap();
        let sql = format!("SELECT COMMAND FROM information_schema.PROCESSLIST WHERE USER = '{name}'");
        assert_eq!((asked > 0, self.rows::<String>(&sql).await), (true, vec!["Connect".to_owned()]));
        stream
    }

    /// The numbers of connections that wait in the statement which makes a login for a lease.
    pub(crate) async fn making(&self) -> Vec<u64> {
        let sql = "SELECT ID FROM information_schema.PROCESSLIST WHERE INFO LIKE 'CREATE USER%' AND USER = ";
        self.rows(&format!("{sql}'{EXECUTOR}'")).await
    }
}

impl Server for MariaDb {
    const TARGET: &'static str = "maria";
    const ROLE: &'static str = "maria-users";

    fn place(&self) -> Vec<String> {
        vec!["--mariadb".to_owned(), format!("socket={}", self.server.socket().display())]
    }

    async fn has(&self, login: &str) -> bool {
        let sql = format!("SELECT COUNT(*) FROM mysql.global_priv WHERE User = '{login}'");
        self.rows::<u64>(&sql).await != [0]
    }

    async fn make(&self, login: &str) {
        self.run(&format!("CREATE USER {login}@'%' IDENTIFIED BY '{PASSWORD}'")).await;
    }

    async fn unmake(&self, login: &str) {
        self.run(&format!("DROP USER {login}@'%'")).await;
    }

    async fn lets_in(credential: &Credential) -> bool {
        login(credential).await.is_ok()
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let accounts = "SELECT User FROM mysql.global_priv WHERE Priv NOT LIKE '%\"account_locked\":true%'";
        let sessions = "SELECT USER FROM information_schema.PROCESSLIST WHERE COMMAND <> 'Connect'";
        self.rows(&format!("{accounts} AND User LIKE '{prefix}%' UNION ALL {sessions} AND USER LIKE '{prefix}%'")).await
    }
}

fn by_tcp(host: &str, port: u16, user: &str, password: &str) -> OptsBuilder {
    let options = OptsBuilder::default().ip_or_hostname(host).tcp_port(port).user(Some(user)).pass(Some(password));
    options.prefer_socket(false)
}

/// How somebody logs in with a leased credential.
pub(crate) fn options(credential: &Credential) -> OptsBuilder {
    let password = std::str::from_utf8(credential.password().unwrap().expose()).unwrap();
    by_tcp(&credential.host, credential.port, &credential.username, password)
}

/// Logs in with a leased credential.
pub(crate) async fn login(credential: &Credential) -> Result<Conn, Error> {
    Conn::new(options(credential)).await
}
