//! A real Redis with an executor's user in it, a client that says everything by hand, and what stands between.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Credential, Login, Target, order};
use quorate_engines::redis::{self, RedisConfig};
use quorate_engines::scratch::{RedisServer, Users};
use quorate_engines::{Endpoint, Engine, OwnSessions, Tls};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite};
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

pub(crate) const EXECUTOR: &str = "quorate_executor";
pub(crate) const EXECUTOR_PASSWORD: &str = "executor-canary-password";
pub(crate) const RIGHTS: &str = "+acl|setuser +acl|deluser +acl|getuser +acl|users +acl|save +acl|dryrun +client|list \
    +client|kill +client|id +client|setname +config|get +config|rewrite +info +ping +multi +exec +script|kill +function|kill";
pub(crate) const GROUP: &str = "~cf:* &cf.* +@read +@write +@blocking +@pubsub +@transaction";

pub(crate) fn sha256(password: &str) -> String {
    Sha256::digest(password.as_bytes()).iter().map(|b| format!("{b:02x}")).collect()
}

pub(crate) struct Redis {
    pub(crate) server: Mutex<RedisServer>,
    pub(crate) port: u16,
    pub(crate) relay: Relay,
}

impl Redis {
    pub(crate) async fn start(settings: &[&str]) -> Arc<Self> {
        Self::start_with(Users::AclFile, settings).await
    }

    pub(crate) async fn start_with(kept: Users, settings: &[&str]) -> Arc<Self> {
        Self::start_as(kept, settings, RIGHTS).await
    }

    /// With an executor that may do so much.
    pub(crate) async fn start_as(kept: Users, settings: &[&str], rights: &str) -> Arc<Self> {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        let users = [
            "default off".to_owned(),
            format!("admin on #{} ~* &* +@all", sha256("admin")),
            format!("{EXECUTOR} on #{} resetchannels -@all {rights}", sha256(EXECUTOR_PASSWORD)),
        ];
        let start = move || {
            let users: Vec<&str> = users.iter().map(String::as_str).collect();
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            RedisServer::start(kept, &users, &settings).expect("Redis is not installed: run deploy/build/setup")
        };
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let port = server.port();
        Arc::new(Self { server: Mutex::new(server), port, relay: Relay::start(port).await })
    }

    pub(crate) fn config(&self, term: u64) -> RedisConfig {
        RedisConfig {
            endpoint: Endpoint { host: "127.0.0.1".into(), port: self.relay.port },
            user: EXECUTOR.into(),
            passwords: SecretVec::new(EXECUTOR_PASSWORD.as_bytes().to_vec()).into(),
            own: OwnSessions::default(),
            tls: Tls::Disabled,
            target: "t1".into(),
            term,
            end_scripts: true,
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(15),
        }
    }

    pub(crate) fn engine(&self, term: u64) -> redis::Redis {
        redis::Redis::new(self.config(term)).unwrap()
    }

    /// One that loses patience.
    pub(crate) fn hasty(&self, patience: Duration) -> redis::Redis {
        redis::Redis::new(RedisConfig { answer_timeout: patience, ..self.config(1) }).unwrap()
    }

    pub(crate) async fn raw(&self) -> Raw<TcpStream> {
        Raw::new(TcpStream::connect(("127.0.0.1", self.port)).await.unwrap())
    }

    pub(crate) async fn admin(&self) -> Raw<TcpStream> {
        let mut raw = self.raw().await;
        assert_eq!(raw.call("AUTH admin admin").await.unwrap(), "OK");
        raw
    }

    /// What an administrator is answered.
    pub(crate) async fn ask(&self, command: &str) -> String {
        self.admin().await.call(command).await.unwrap()
    }

    pub(crate) async fn session(&self, name: &str, password: &str) -> Result<Raw<TcpStream>, String> {
        let mut raw = self.raw().await;
        match raw.call(&format!("AUTH {name} {password}")).await {
            Some(ok) if ok == "OK" => Ok(raw),
            other => Err(other.unwrap_or_default()),
        }
    }

    pub(crate) async fn restart(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.server.lock().unwrap().run().unwrap()).await.unwrap();
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        self.server.lock().unwrap().freeze(frozen);
    }
}

/// Makes a principal and says its password.
pub(crate) async fn lease(redis: &Redis, engine: &redis::Redis, name: &str) -> Credential {
    let credential = redis.credential();
    engine.create(&order(redis, engine, name, &credential).await).await.unwrap();
    credential
}

/// The same with other rights.
pub(crate) async fn lease_with(redis: &Redis, engine: &redis::Redis, name: &str, groups: &[&str]) -> Credential {
    let credential = redis.credential();
    let mut create = order(redis, engine, name, &credential).await;
    create.groups = groups.iter().map(|g| (*g).to_owned()).collect();
    engine.create(&create).await.unwrap();
    credential
}

#[async_trait]
impl Target for Redis {
    async fn executor(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine(1))
    }

    fn credential(&self) -> Credential {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).unwrap();
        let password: String = random.iter().map(|b| format!("{b:02x}")).collect();
        Credential { verifier: format!("#{}", sha256(&password)), password }
    }

    fn group(&self) -> String {
        GROUP.to_owned()
    }

    fn unfit_group(&self) -> String {
        "+client|kill".to_owned()
    }

    async fn login(&self, name: &str, credential: &Credential) -> Option<Box<dyn Login>> {
        let session = self.session(name, &credential.password).await.ok()?;
        Some(Box::new(session))
    }

    async fn hold_creates(&self) {
        self.relay.hold();
    }

    async fn release(&self) {
        self.relay.release();
    }
}

/// A connection on which every byte is ours.
pub(crate) struct Raw<S>(pub(crate) BufReader<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) fn new(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// Sends words, separated by spaces, as one command.
    pub(crate) async fn send(&mut self, command: &str) -> bool {
        self.0.get_mut().write_all(&encode(command)).await.is_ok()
    }

    pub(crate) async fn send_bytes(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).await.unwrap();
    }

    /// The next reply in one line; `None` when the server hung up.
    pub(crate) async fn reply(&mut self) -> Option<String> {
        let mut line = String::new();
        self.0.read_line(&mut line).await.ok().filter(|n| *n > 0)?;
        let line = line.trim_end();
        let rest = line.get(1..)?;
        match line.as_bytes()[0] {
            b'$' if rest == "-1" => Some("(nil)".to_owned()),
            b'*' if rest == "-1" => Some("(nil)".to_owned()),
            b'$' => {
                let mut bytes = vec![0; rest.parse::<usize>().ok()? + 2];
                self.0.read_exact(&mut bytes).await.ok()?;
                bytes.truncate(bytes.len() - 2);
                Some(String::from_utf8_lossy(&bytes).into_owned())
            }
            b'*' => {
                let mut all = Vec::new();
                for _ in 0..rest.parse::<usize>().ok()? {
                    all.push(Box::pin(self.reply()).await?);
                }
                Some(all.join(" "))
            }
            _ => Some(rest.to_owned()),
        }
    }

    pub(crate) async fn call(&mut self, command: &str) -> Option<String> {
        if !self.send(command).await {
            return None;
        }
        timeout(Duration::from_secs(20), self.reply()).await.expect("an answer or an end")
    }

    /// Whether the server hangs up, sooner or later, whatever it says before.
    pub(crate) async fn ends(&mut self) -> bool {
        timeout(Duration::from_secs(10), async { while self.reply().await.is_some() {} }).await.is_ok()
    }
}

pub(crate) fn encode(command: &str) -> Vec<u8> {
    let words: Vec<&str> = command.split(' ').collect();
    let mut bytes = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| bytes.push_str(&format!("${}\r\n{word}\r\n", word.len())));
    bytes.into_bytes()
}

#[async_trait]
impl Login for Raw<TcpStream> {
    /// That it may do nothing any more is an answer too.
    async fn alive(&mut self) -> bool {
        self.call("PING").await.is_some()
    }
}

/// A network that can keep what changes users to itself for a while, and delivers it late, even when its sender is long gone.
pub(crate) struct Relay {
    pub(crate) port: u16,
    holding: watch::Sender<bool>,
}

impl Relay {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let holding = watch::Sender::new(false);
        let held = holding.subscribe();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                let (mut client_reads, mut client_writes) = client.into_split();
                let (mut server_reads, mut server_writes) = server.into_split();
                let mut held = held.clone();
                tokio::spawn(async move {
                    let mut buffer = vec![0; 65_536];
                    while let Ok(n @ 1..) = client_reads.read(&mut buffer).await {
                        if buffer[..n].windows(7).any(|window| window == b"SETUSER") {
                            let _ = held.wait_for(|holding| !holding).await;
                        }
                        if server_writes.write_all(&buffer[..n]).await.is_err() {
                            break;
                        }
                    }
                });
                tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut server_reads, &mut client_writes).await;
                });
            }
        });
        Self { port, holding }
    }

    pub(crate) fn hold(&self) {
        self.holding.send_replace(true);
    }

    pub(crate) fn release(&self) {
        self.holding.send_replace(false);
    }
}

/// Waits for what an administrator is answered to be so.
pub(crate) async fn wait_until(redis: &Redis, command: &str, is: impl Fn(&str) -> bool) {
    let mut admin = redis.admin().await;
    for _ in 0..400 {
        if is(&admin.call(command).await.unwrap()) {
            return;
        }
        sleep(Duration::from_millis(25)).await;
    }
    panic!("never so: {command}");
}
