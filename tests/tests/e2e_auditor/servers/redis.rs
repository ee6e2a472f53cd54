//! A Redis beside a cluster, and the little of its protocol that its users speak.

use super::{EXECUTOR, EXECUTOR_PASSWORD, PASSWORD, Server, describe};
use anyhow::Context as _;
use quorate_api::client::Credential;
use quorate_engines::scratch::{RedisServer, Users};
use quorate_tests::Cluster;
use sha2::{Digest as _, Sha256};
use std::pin::Pin;
use tempfile::NamedTempFile;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

const ADMINISTRATOR: &str = "administrator";
/// What docs/redis.md says that an executor needs.
const RIGHTS: &str = "+acl|setuser +acl|deluser +acl|getuser +acl|users +acl|save +acl|dryrun +client|list \
    +client|kill +client|id +client|setname +config|get +config|rewrite +info +ping +multi +exec +script|kill +function|kill";
/// What all leased logins have.
const GROUP: &str = "~cf:* &cf.* +@read +@write +@blocking +@pubsub +@transaction";

/// It.
pub(crate) struct Redis {
    server: RedisServer,
    /// The administrator's password.
    file: NamedTempFile,
}

impl Redis {
    pub(crate) async fn beside(cluster: &Cluster) -> Self {
        let hash = |password: &str| -> String {
            Sha256::digest(password.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        let users = [
            "default off".to_owned(),
            format!("{ADMINISTRATOR} on #{} ~* &* +@all", hash(PASSWORD)),
            format!("{EXECUTOR} on #{} resetchannels -@all {RIGHTS}", hash(EXECUTOR_PASSWORD)),
        ];
        let start = move || {
            let users: Vec<&str> = users.iter().map(String::as_str).collect();
            RedisServer::start(Users::AclFile, &users, &[]).expect("Redis is not installed: run deploy/build/setup")
        };
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{PASSWORD}\n")).unwrap();
        let redis = Self { server, file };
        describe::<Self>(cluster, "redis", redis.server.port(), GROUP);
        redis
    }

    /// What the administrator is answered, the parts of a list in lines.
    pub(crate) async fn ask(&self, words: &[&str]) -> String {
        let mut wire = self.enter(ADMINISTRATOR).await;
        wire.call(words).await.unwrap_or_else(|why| panic!("{words:?}: {why}"))
    }

    /// A session of a login that was made by hand.
    pub(crate) async fn enter(&self, login: &str) -> Wire {
        let again = Again::new("127.0.0.1", self.server.port(), login, PASSWORD);
        again.login().await.unwrap()
    }
}

impl Server for Redis {
    const TARGET: &'static str = "cache";
    const ROLE: &'static str = "cache-users";

    fn place(&self) -> Vec<String> {
        let address = format!("127.0.0.1:{}", self.server.port());
        let file = self.file.path().display().to_string();
        let words = ["--redis", &address, "--redis-user", ADMINISTRATOR, "--redis-password-file", &file];
        words.map(str::to_owned).to_vec()
    }

    async fn has(&self, login: &str) -> bool {
        self.ask(&["ACL", "USERS"]).await.lines().any(|line| line == login)
    }

    async fn make(&self, login: &str) {
        self.ask(&["ACL", "SETUSER", login, "on", &format!(">{PASSWORD}"), "~cf:*", "+@read"]).await;
    }

    async fn unmake(&self, login: &str) {
        self.ask(&["ACL", "DELUSER", login]).await;
    }

    async fn lets_in(credential: &Credential) -> bool {
        Wire::login(credential).await.is_ok()
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let (user, session) = (format!("user {prefix}"), format!(" user={prefix}"));
        let users = self.ask(&["ACL", "LIST"]).await;
        let users = users.lines().filter(|line| line.starts_with(&user) && line.contains(" on "));
        let clients = self.ask(&["CLIENT", "LIST"]).await;
        users.chain(clients.lines().filter(|line| line.contains(&session))).map(str::to_owned).collect()
    }
}

/// How somebody logs in.
#[derive(Clone)]
pub(crate) struct Again {
    address: (String, u16),
    user: String,
    password: String,
}

impl Again {
    fn new(host: &str, port: u16, user: &str, password: &str) -> Self {
        let [host, user, password] = [host, user, password].map(str::to_owned);
        Self { address: (host, port), user, password }
    }

    pub(crate) async fn login(&self) -> anyhow::Result<Wire> {
        let stream = TcpStream::connect((self.address.0.as_str(), self.address.1)).await?;
        let mut wire = Wire(BufReader::new(stream));
        wire.call(&["AUTH", &self.user, &self.password]).await?;
        Ok(wire)
    }
}

/// A connection.
pub(crate) struct Wire(BufReader<TcpStream>);

impl Wire {
    /// How somebody logs in with a leased credential.
    pub(crate) fn again(credential: &Credential) -> Again {
        let password = std::str::from_utf8(credential.password().unwrap().expose()).unwrap();
        Again::new(&credential.host, credential.port, &credential.username, password)
    }

    /// Logs in with a leased credential.
    pub(crate) async fn login(credential: &Credential) -> anyhow::Result<Self> {
        Self::again(credential).login().await
    }

    /// Says something. It may be over by now.
    pub(crate) async fn send(&mut self, words: &[&str]) {
        let mut bytes = format!("*{}\r\n", words.len());
        words.iter().for_each(|word| bytes.push_str(&format!("${}\r\n{word}\r\n", word.len())));
        let _ = self.0.get_mut().write_all(bytes.as_bytes()).await;
    }

    pub(crate) async fn call(&mut self, words: &[&str]) -> anyhow::Result<String> {
        self.send(words).await;
        self.answer().await
    }

    fn answer(&mut self) -> Pin<Box<dyn Future<Output = anyhow::Result<String>> + Send + '_>> {
        Box::pin(async move {
            let mut line = String::new();
            self.0.read_line(&mut line).await?;
            let (kind, rest) = line.trim_end().split_at_checked(1).context("the server has hung up")?;
            match kind {
                "-" => anyhow::bail!("{rest}"),
                "$" | "*" if rest == "-1" => Ok(String::new()),
                "$" => {
                    let mut bytes = vec![0; rest.parse::<usize>()? + 2];
                    self.0.read_exact(&mut bytes).await?;
                    Ok(String::from_utf8_lossy(&bytes).trim_end_matches("\r\n").to_owned())
                }
                "*" => {
                    let mut parts = Vec::new();
                    for _ in 0..rest.parse::<usize>()? {
                        parts.push(self.answer().await?);
                    }
                    Ok(parts.join("\n"))
                }
                _ => Ok(rest.to_owned()),
            }
        })
    }

    /// Reads whatever comes, until the server hangs up.
    pub(crate) fn hold(mut self) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut rest = [0; 1_024];
            while self.0.read(&mut rest).await.is_ok_and(|read| read > 0) {}
        })
    }
}
