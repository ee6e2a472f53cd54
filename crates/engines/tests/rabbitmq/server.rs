//! A real RabbitMQ with an executor's account in it, and a network that keeps what changes accounts to itself.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Credential, Login, Target, order};
use quorate_engines::http::{Http, HttpConfig, Path, Request};
use quorate_engines::rabbitmq::{self, RabbitMqConfig};
use quorate_engines::scratch::{ADMIN, RabbitMqServer};
use quorate_engines::{Endpoint, Engine, OwnSessions, Tls};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::amqp::{Amqp, CHANNEL_OPEN_OK};

pub(crate) const EXECUTOR: &str = "quorate_executor";
pub(crate) const EXECUTOR_PASSWORD: &str = "executor-canary-password";
pub(crate) const GROUP: &str = "vhost=/ configure=^cf\\. write=^cf\\. read=^cf\\.";

pub(crate) struct Rabbit {
    pub(crate) server: Mutex<RabbitMqServer>,
    pub(crate) port: u16,
    pub(crate) amqp: u16,
    pub(crate) relay: Relay,
    admin: Http,
}

pub(crate) fn verifier(password: &str) -> String {
    let mut salt = [0; 4];
    getrandom::fill(&mut salt).unwrap();
    let hash = Sha256::digest([&salt, password.as_bytes()].concat());
    STANDARD.encode([&salt, &hash[..]].concat())
}

impl Rabbit {
    pub(crate) async fn start(plugins: &'static [&'static str], settings: Vec<String>) -> Arc<Self> {
        let start = move || {
            let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
            RabbitMqServer::start(plugins, &settings).expect("RabbitMQ is not installed: run deploy/build/setup")
        };
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let (port, amqp) = (server.port(), server.amqp_port());
        let admin = Http::new(HttpConfig {
            endpoint: Endpoint { host: "127.0.0.1".into(), port },
            tls: Tls::Disabled,
            connect_timeout: Duration::from_secs(30),
            answer_timeout: Duration::from_secs(30),
            max_answer: 1 << 20,
        });
        let relay = Relay::start(port).await;
        let this = Arc::new(Self { server: Mutex::new(server), port, amqp, relay, admin: admin.unwrap() });
        let body = json!({ "password": EXECUTOR_PASSWORD, "tags": "administrator" });
        assert_eq!(this.put(&["users", EXECUTOR], body).await, 201);
        this
    }

    pub(crate) fn config(&self, term: u64) -> RabbitMqConfig {
        RabbitMqConfig {
            endpoint: Endpoint { host: "127.0.0.1".into(), port: self.relay.port },
            user: EXECUTOR.into(),
            passwords: SecretVec::new(EXECUTOR_PASSWORD.as_bytes().to_vec()).into(),
            own: OwnSessions::default(),
            tls: Tls::Disabled,
            target: "t1".into(),
            term,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
        }
    }

    pub(crate) fn engine(&self, term: u64) -> rabbitmq::RabbitMq {
        rabbitmq::RabbitMq::new(self.config(term)).unwrap()
    }

    /// One that loses patience.
    pub(crate) fn hasty(&self, patience: Duration) -> rabbitmq::RabbitMq {
        rabbitmq::RabbitMq::new(RabbitMqConfig { answer_timeout: patience, ..self.config(1) }).unwrap()
    }

    async fn ask(&self, request: Request) -> (u16, Value) {
        let request = request.basic(ADMIN, &SecretVec::new(ADMIN.as_bytes().to_vec())).unwrap();
        let answer = self.admin.call(&request).await.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    /// What an administrator is answered.
    pub(crate) async fn get(&self, path: &[&str]) -> Value {
        self.ask(Request::get(api(path))).await.1
    }

    pub(crate) async fn put(&self, path: &[&str], body: Value) -> u16 {
        self.ask(Request::put(api(path)).json(SecretVec::new(body.to_string().into_bytes()))).await.0
    }

    pub(crate) async fn delete(&self, path: &[&str]) -> u16 {
        self.ask(Request::delete(api(path))).await.0
    }

    /// The names of all accounts but those of the administrators.
    pub(crate) async fn users(&self) -> Vec<String> {
        let all = self.get(&["users"]).await;
        let all = all.as_array().unwrap().iter().filter(|user| user["tags"] == json!([]));
        all.map(|user| user["name"].as_str().unwrap().to_owned()).collect()
    }

    /// The names of the executor's sessions.
    pub(crate) async fn sessions(&self) -> Vec<String> {
        let all = self.get(&["users"]).await;
        let names = all.as_array().unwrap().iter().map(|user| user["name"].as_str().unwrap().to_owned());
        names.filter(|name| name.starts_with("quorate/")).collect()
    }

    /// Waits until the server has statistics of itself.
    pub(crate) async fn warm(&self) {
        let began = Instant::now();
        while !self.get(&["nodes"]).await[0]["os_pid"].is_string() {
            assert!(began.elapsed() < Duration::from_secs(60), "no statistics");
            sleep(Duration::from_millis(100)).await;
        }
    }

    pub(crate) async fn session(&self, name: &str, password: &str) -> Option<Amqp> {
        Amqp::connect(self.amqp, name, password).await
    }

    pub(crate) async fn restart(self: &Arc<Self>) {
        let this = Arc::clone(self);
        tokio::task::spawn_blocking(move || this.server.lock().unwrap().run().unwrap()).await.unwrap();
    }

    pub(crate) fn freeze(&self, frozen: bool) {
        self.server.lock().unwrap().freeze(frozen);
    }
}

fn api(path: &[&str]) -> Path {
    Path::new(&[&["api"], path].concat()).unwrap()
}

/// Makes a principal and says its password.
pub(crate) async fn lease(rabbit: &Rabbit, engine: &rabbitmq::RabbitMq, name: &str) -> Credential {
    lease_with(rabbit, engine, name, &[GROUP]).await
}

/// The same with other rights.
pub(crate) async fn lease_with(
    rabbit: &Rabbit,
    engine: &rabbitmq::RabbitMq,
    name: &str,
    groups: &[&str],
) -> Credential {
    let credential = rabbit.credential();
    let mut create = order(rabbit, engine, name, &credential).await;
    create.groups = groups.iter().map(|g| (*g).to_owned()).collect();
    engine.create(&create).await.unwrap();
    credential
}

#[async_trait]
impl Target for Rabbit {
    async fn executor(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine(1))
    }

    fn credential(&self) -> Credential {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).unwrap();
        let password: String = random.iter().map(|b| format!("{b:02x}")).collect();
        Credential { verifier: verifier(&password), password }
    }

    fn group(&self) -> String {
        GROUP.to_owned()
    }

    fn unfit_group(&self) -> String {
        "tags=administrator".to_owned()
    }

    async fn login(&self, name: &str, credential: &Credential) -> Option<Box<dyn Login>> {
        let session = self.session(name, &credential.password).await?;
        Some(Box::new(session))
    }

    async fn hold_creates(&self) {
        self.relay.hold("PUT /", Part::All);
    }

    async fn release(&self) {
        self.relay.release();
    }
}

#[async_trait]
impl Login for Amqp {
    /// A channel asks for no right.
    async fn alive(&mut self) -> bool {
        self.channel().await == Some(CHANNEL_OPEN_OK)
    }
}

/// How much of a request a network keeps to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    All,
    /// The server meets its head.
    Body,
}

/// A network that can keep requests to itself for a while, and delivers them late, even when their sender is long gone. That it is gone the
/// server does not hear: it gives up a request whose connection ends while it is at work, or has done it by then, as it happens.
pub(crate) struct Relay {
    pub(crate) port: u16,
    /// The requests that begin so, and how much of them.
    hold: watch::Sender<Option<(&'static str, Part)>>,
    held: watch::Sender<usize>,
}

impl Relay {
    async fn start(to: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let relay = Self { port, hold: watch::Sender::new(None), held: watch::Sender::new(0) };
        let (hold, held) = (relay.hold.subscribe(), relay.held.clone());
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)).await else { continue };
                server.set_nodelay(true).unwrap();
                let (mut client_reads, mut client_writes) = client.into_split();
                let (mut server_reads, mut server_writes) = server.into_split();
                let (mut hold, held) = (hold.clone(), held.clone());
                let answers = tokio::spawn(async move {
                    let _ = tokio::io::copy(&mut server_reads, &mut client_writes).await;
                    // Until the server hangs up, whether anybody listens or not.
                    let _ = tokio::io::copy(&mut server_reads, &mut tokio::io::sink()).await;
                });
                tokio::spawn(async move {
                    let (mut buffer, mut is_late) = (vec![0; 65_536], false);
                    while let Ok(n @ 1..) = client_reads.read(&mut buffer).await {
                        let mut rest = &buffer[..n];
                        let what = *hold.borrow();
                        if let Some((begins, part)) = what
                            && rest.starts_with(begins.as_bytes())
                        {
                            if part == Part::Body {
                                let end = rest.windows(4).position(|w| w == b"\r\n\r\n").unwrap() + 4;
                                assert!(end < n, "head and body leave at once");
                                let _ = server_writes.write_all(&rest[..end]).await;
                                rest = &rest[end..];
                            }
                            is_late = true;
                            held.send_modify(|held| *held += 1);
                            let _ = hold.wait_for(Option::is_none).await;
                        }
                        if server_writes.write_all(rest).await.is_err() {
                            break;
                        }
                    }
                    if is_late {
                        let _ = answers.await;
                    }
                });
            }
        });
        relay
    }

    pub(crate) fn hold(&self, begins: &'static str, part: Part) {
        self.held.send_replace(0);
        self.hold.send_replace(Some((begins, part)));
    }

    pub(crate) fn release(&self) {
        self.hold.send_replace(None);
    }

    /// Waits until it keeps something to itself.
    pub(crate) async fn holds(&self) {
        let mut held = self.held.subscribe();
        let some = held.wait_for(|held| *held > 0);
        timeout(Duration::from_secs(30), some).await.expect("a request that begins so").unwrap();
    }
}
