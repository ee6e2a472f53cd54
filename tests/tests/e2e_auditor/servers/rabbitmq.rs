//! A RabbitMQ beside a cluster. Nobody types there: each of its own programs takes seconds to begin, and its management interface does the same.

use super::{EXECUTOR, EXECUTOR_PASSWORD, PASSWORD, Server, describe_at};
use crate::amqp::{Amqp, CLOSE, Said};
use quorate_api::client::Credential;
use quorate_crypto::secret::SecretVec;
use quorate_engines::http::{Http, HttpConfig, Path, Request};
use quorate_engines::scratch::{ADMIN, RabbitMqServer};
use quorate_engines::{Endpoint, Tls};
use quorate_tests::Cluster;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tempfile::NamedTempFile;
use tokio::task::JoinHandle;

/// What all leased logins have.
const GROUP: &str = "vhost=/ configure=^cf\\. write=^cf\\. read=^cf\\.";
const PATIENCE: Duration = Duration::from_secs(60);

/// It.
pub(crate) struct RabbitMq {
    server: RabbitMqServer,
    http: Http,
    /// The administrator's password.
    file: NamedTempFile,
}

impl RabbitMq {
    pub(crate) async fn beside(cluster: &Cluster) -> Self {
        let start = || RabbitMqServer::start(&[], &[]).expect("RabbitMQ is not installed: run deploy/build/setup");
        let server = tokio::task::spawn_blocking(start).await.unwrap();
        let http = Http::new(HttpConfig {
            endpoint: Endpoint { host: "127.0.0.1".into(), port: server.port() },
            tls: Tls::Disabled,
            connect_timeout: PATIENCE,
            answer_timeout: PATIENCE,
            max_answer: 1 << 20,
        });
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{ADMIN}\n")).unwrap();
        let rabbit = Self { server, http: http.unwrap(), file };
        rabbit.put(&["users", EXECUTOR], json!({ "password": EXECUTOR_PASSWORD, "tags": "administrator" })).await;
        // It is not called good before it has statistics of itself.
        let begun = Instant::now();
        while !rabbit.get(&["nodes"]).await[0]["os_pid"].is_string() {
            assert!(begun.elapsed() < PATIENCE, "it has statistics of itself");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let (port, amqp) = (rabbit.server.port().to_string(), format!("127.0.0.1:{}", rabbit.server.amqp_port()));
        let place = ["--system", "rabbitmq", "--host", "127.0.0.1", "--port", &port, "--user", EXECUTOR];
        let place = [&place[..], &["--clients-at", &amqp]].concat();
        describe_at::<Self>(cluster, &place, EXECUTOR_PASSWORD, &["--group", GROUP, "--connections", "3"]);
        rabbit
    }

    async fn ask(&self, request: Request) -> (u16, Value) {
        let request = request.basic(ADMIN, &SecretVec::new(ADMIN.as_bytes().to_vec())).unwrap();
        let answer = self.http.call(&request).await.unwrap();
        (answer.status, serde_json::from_slice(&answer.body).unwrap_or(Value::Null))
    }

    async fn get(&self, path: &[&str]) -> Value {
        self.ask(Request::get(api(path))).await.1
    }

    async fn put(&self, path: &[&str], body: Value) {
        let body = SecretVec::new(body.to_string().into_bytes());
        let (status, said) = self.ask(Request::put(api(path)).json(body)).await;
        assert!((200..300).contains(&status), "{path:?}: {status} {said}");
    }

    /// A session of a login that was made by hand, of a client that does not agree when it is told that it is closed.
    pub(crate) async fn enter_for_good(&self, login: &str) -> Amqp {
        Amqp::stubborn(self.server.amqp_port(), login, PASSWORD).await.expect("it is let in")
    }
}

fn api(path: &[&str]) -> Path {
    Path::new(&[&["api"], path].concat()).unwrap()
}

/// How somebody logs in.
#[derive(Clone)]
pub(crate) struct Again {
    port: u16,
    user: String,
    password: String,
}

impl Again {
    /// With a leased credential.
    pub(crate) fn of(credential: &Credential) -> Self {
        let password = std::str::from_utf8(credential.password().unwrap().expose()).unwrap();
        Self { port: credential.port, user: credential.username.clone(), password: password.to_owned() }
    }

    /// A session with a channel.
    pub(crate) async fn login(&self) -> Option<Amqp> {
        let mut session = Amqp::connect(self.port, &self.user, &self.password).await?;
        session.channel().await?;
        Some(session)
    }
}

/// Reads whatever comes, until the server hangs up.
pub(crate) fn hold(mut session: Amqp) -> JoinHandle<()> {
    tokio::spawn(async move { while !matches!(session.next().await, None | Some(Said::Method(CLOSE))) {} })
}

impl Server for RabbitMq {
    const TARGET: &'static str = "queue";
    const ROLE: &'static str = "queue-users";

    fn place(&self) -> Vec<String> {
        let address = format!("127.0.0.1:{}", self.server.port());
        let file = self.file.path().display().to_string();
        let words = ["--rabbitmq", &address, "--rabbitmq-user", ADMIN, "--rabbitmq-password-file", &file];
        words.map(str::to_owned).to_vec()
    }

    async fn has(&self, login: &str) -> bool {
        self.get(&["users", login]).await["name"] == login
    }

    async fn make(&self, login: &str) {
        self.put(&["users", login], json!({ "password": PASSWORD, "tags": "" })).await;
        self.put(&["permissions", "/", login], json!({ "configure": "^$", "write": "^cf", "read": "^cf" })).await;
    }

    async fn unmake(&self, login: &str) {
        self.ask(Request::delete(api(&["users", login]))).await;
    }

    async fn lets_in(credential: &Credential) -> bool {
        Again::of(credential).login().await.is_some()
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let counted = Path::new(&["api", "connections"]).unwrap();
        let counted = counted.with("disable_stats", "true").with("enable_queue_totals", "true");
        let (users, open) = (self.get(&["users"]).await, self.ask(Request::get(counted)).await.1);
        let users = users.as_array().unwrap().iter().filter(|user| user["password_hash"] != "");
        let users = users.map(|user| ("a login", &user["name"]));
        let open = open.as_array().unwrap().iter().map(|connection| ("a session", &connection["user"]));
        let ours = users.chain(open).filter(|(_, name)| name.as_str().is_some_and(|name| name.starts_with(prefix)));
        ours.map(|(what, name)| format!("{what} of {name}")).collect()
    }
}
