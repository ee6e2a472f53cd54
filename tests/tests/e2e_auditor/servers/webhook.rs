//! The sample of a receiver of webhooks (`examples/webhook-receiver`) beside a cluster, as it is. Who administers it writes to its database.

use super::{Server, describe_at};
use quorate_api::client::Credential;
use quorate_tests::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rusqlite::{Connection, ToSql, params};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SECRET: &str = "whsec_Y2FuYXJ5IG9mIHRoZSBleGVjdXRvcidzIG93bg==";
const GROUP: &str = "readers";
const BUSY: Duration = Duration::from_secs(20);

/// It.
pub(crate) struct Webhook {
    folder: TempDir,
    process: Child,
    /// Of the application, where people log in.
    port: u16,
}

impl Drop for Webhook {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Webhook {
    pub(crate) async fn beside(cluster: &Cluster) -> Self {
        let mut authority = CertificateParams::default();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
        put("cert.pem", certificate.pem());
        put("key.pem", key.serialize_pem());
        put("ca.pem", authority.pem());
        put("secret", format!("{SECRET}\n"));
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/webhook-receiver/receiver.py");
        let mut command = Command::new("python3");
        command.arg("-B").arg(script).args(["--group", GROUP, "--port", "0", "--app-port", "0"]);
        for (option, name) in
            [("--data", "data"), ("--secret-file", "secret"), ("--certificate", "cert.pem"), ("--key", "key.pem")]
        {
            command.arg(option).arg(folder.path().join(name));
        }
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("python3: run deploy/build/setup");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ports: Value = serde_json::from_str(&line).unwrap();
        let [vault, port] = ["port", "app_port"].map(|name| u16::try_from(ports[name].as_u64().unwrap()).unwrap());
        let hook = Self { folder, process, port };
        let (url, ca) = (format!("https://127.0.0.1:{vault}/vault"), hook.file("ca.pem").display().to_string());
        let application = format!("127.0.0.1:{port}");
        let place = ["--url", url.as_str(), "--ca-file", ca.as_str(), "--clients-at", application.as_str()];
        describe_at::<Self>(cluster, &place, SECRET, &["--group", GROUP, "--connections", "3"]);
        hook
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn database(&self) -> Connection {
        let database = Connection::open(self.file("data")).unwrap();
        database.busy_timeout(BUSY).unwrap();
        database
    }

    fn write(&self, sql: &str, values: &[&dyn ToSql]) -> usize {
        self.database().execute(sql, values).unwrap()
    }

    /// A session of a login that was made by hand.
    pub(crate) fn enter(&self, login: &str) -> Caller {
        let token = format!("a token of {login}");
        let digest: String = Sha256::digest(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        let made = self.write(
            "INSERT INTO logins (token, number, name) SELECT ?1, number, name FROM accounts WHERE name = ?2",
            params![digest, login],
        );
        assert_eq!(made, 1, "{login} is there");
        Caller { port: self.port, token }
    }
}

/// How somebody logs in.
#[derive(Clone)]
pub(crate) struct Again {
    port: u16,
    asked: String,
}

impl Again {
    /// With a leased credential.
    pub(crate) fn of(credential: &Credential) -> Self {
        let password = std::str::from_utf8(credential.password().unwrap().expose()).unwrap();
        let asked = json!({ "name": credential.username, "password": password }).to_string();
        Self { port: credential.port, asked }
    }

    pub(crate) async fn login(&self) -> Option<Caller> {
        let (status, said) = ask(self.port, "POST", "/login", "", &self.asked).await;
        let token = || said["token"].as_str().unwrap().to_owned();
        (status == 200).then(|| Caller { port: self.port, token: token() })
    }
}

/// Who has logged in.
#[derive(Clone)]
pub(crate) struct Caller {
    port: u16,
    token: String,
}

impl Caller {
    /// Whether its session is open.
    pub(crate) async fn is_let_in(&self) -> bool {
        ask(self.port, "GET", "/whoami", &self.token, "").await.0 == 200
    }
}

async fn ask(port: u16, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let length = body.len();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n"
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    let (head, body) = said.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
}

impl Server for Webhook {
    const TARGET: &'static str = "hook";
    const ROLE: &'static str = "hook-users";

    fn place(&self) -> Vec<String> {
        vec!["--webhook".to_owned(), self.file("data").display().to_string()]
    }

    async fn has(&self, login: &str) -> bool {
        let found = "SELECT count(*) FROM accounts WHERE name = ?1";
        self.database().query_row(found, [login], |row| row.get::<_, i64>(0)).unwrap() > 0
    }

    async fn make(&self, login: &str) {
        // Somebody's verifier: whoever administers it needs no password.
        let verifier = format!("SCRAM-SHA-256$4096:{0}${0}:{0}", "QUFBQUFBQUFBQUFBQUFBQUFBQUFBQUFB");
        let sql = "INSERT INTO accounts (name, is_claim, can_login, verifier, groups, connection_limit, expires)
          VALUES (?1, 0, 1, ?2, '[]', 3, unixepoch() + 3600)";
        self.write(sql, params![login, verifier]);
    }

    async fn unmake(&self, login: &str) {
        self.write("DELETE FROM accounts WHERE name = ?1", params![login]);
    }

    async fn lets_in(credential: &Credential) -> bool {
        Again::of(credential).login().await.is_some()
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let alive = "SELECT name FROM accounts WHERE can_login = 1 AND is_claim = 0 UNION ALL SELECT name FROM logins";
        let database = self.database();
        let mut names = database.prepare(alive).unwrap();
        let names = names.query_map([], |row| row.get::<_, String>(0)).unwrap().map(Result::unwrap);
        names.filter(|name| name.starts_with(prefix)).collect()
    }
}
