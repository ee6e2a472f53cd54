//! A real receiver, `examples/webhook-receiver`, with its faults to plant; and who logs in there.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Credential, Login, Target, order};
use quorate_engines::webhook::{Webhook, WebhookConfig};
use quorate_engines::{Endpoint, Engine, OwnSessions, Tls, Trust};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use sha2::{Digest, Sha256};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::sleep;

pub(crate) const GROUP: &str = "Readers \"of\" it's \\ 100%";
pub(crate) const SECRET: &str = "whsec_Y2FuYXJ5IG9mIHRoZSBleGVjdXRvcidzIG93bg==";

/// Where a held create waits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Before its transaction.
    Before,
    /// In it, with the database in its hands.
    Within,
}

pub(crate) struct Receiver {
    folder: TempDir,
    process: Mutex<Option<Child>>,
    ports: (u16, u16),
    root: Vec<u8>,
    hold: Hold,
}

impl Receiver {
    pub(crate) async fn start() -> Arc<Self> {
        Self::start_with(Hold::Before).await
    }

    pub(crate) async fn start_with(hold: Hold) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let issuer = authority("ours");
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        std::fs::write(folder.path().join("cert.pem"), certificate.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).unwrap();
        // For those who are told where it is.
        std::fs::write(folder.path().join("ca.pem"), issuer.pem()).unwrap();
        std::fs::write(folder.path().join("secret"), SECRET).unwrap();
        let root = issuer.der().to_vec();
        let mut this = Self { folder, process: Mutex::new(None), ports: (0, 0), root, hold };
        this.ports = this.run();
        Arc::new(this)
    }

    /// Starts it on its data, and on its ports, if it has any; returns those.
    pub(crate) fn run(&self) -> (u16, u16) {
        // Tests of whole processes share this file, from another folder.
        let folders = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors();
        let mut scripts = folders.map(|folder| folder.join("examples/webhook-receiver/planted.py"));
        let script = scripts.find(|script| script.is_file()).unwrap();
        let file = |name: &str| self.folder.path().join(name);
        let log = std::fs::OpenOptions::new().create(true).append(true).open(file("log")).unwrap();
        let mut process = Command::new("python3")
            .arg("-B")
            .arg(script)
            .arg("--data")
            .arg(self.data())
            .arg("--secret-file")
            .arg(file("secret"))
            .arg("--certificate")
            .arg(file("cert.pem"))
            .arg("--key")
            .arg(file("key.pem"))
            .args(["--group", GROUP])
            .args(["--port", &self.ports.0.to_string(), "--app-port", &self.ports.1.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("python3 is not installed: run deploy/build/setup");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        *self.process.lock().unwrap() = Some(process);
        let ports: serde_json::Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{}", self.log()));
        let port = |name: &str| u16::try_from(ports[name].as_u64().unwrap()).unwrap();
        (port("port"), port("app_port"))
    }

    /// As `kill -9`.
    pub(crate) fn kill(&self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Waits until it has killed itself, and starts it again on its data.
    pub(crate) async fn revive(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let work = move || {
            let mut process = this.process.lock().unwrap().take().unwrap();
            assert!(!process.wait().unwrap().success(), "it was to die");
            assert_eq!(this.run(), this.ports);
        };
        tokio::task::spawn_blocking(work).await.unwrap();
    }

    /// Kills it and starts it again on its data.
    pub(crate) async fn restart(self: &Arc<Self>) {
        let this = Arc::clone(self);
        let work = move || {
            this.kill();
            assert_eq!(this.run(), this.ports);
        };
        tokio::task::spawn_blocking(work).await.unwrap();
    }

    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data.sqlite")
    }

    /// What it has said of its own.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap()
    }

    pub(crate) fn tls(&self) -> Tls {
        Tls::Verified(Trust::new(std::slice::from_ref(&self.root), None, false).unwrap())
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        Endpoint { host: "127.0.0.1".into(), port: self.ports.0 }
    }

    pub(crate) fn config(&self, term: u64) -> WebhookConfig {
        WebhookConfig {
            endpoint: self.endpoint(),
            path: vec!["vault".into()],
            passwords: SecretVec::new(SECRET.as_bytes().to_vec()).into(),
            own: OwnSessions::default(),
            tls: self.tls(),
            target: "t1".into(),
            term,
            connect_timeout: Duration::from_secs(5),
            answer_timeout: Duration::from_secs(15),
        }
    }

    pub(crate) fn engine(&self, term: u64) -> Webhook {
        Webhook::new(self.config(term)).unwrap()
    }

    /// One that loses patience.
    pub(crate) fn hasty(&self, patience: Duration) -> Webhook {
        Webhook::new(WebhookConfig { answer_timeout: patience, ..self.config(1) }).unwrap()
    }

    /// Has the receiver do wrong, so many times in this act.
    pub(crate) async fn plant(&self, fault: &str, act: &str, times: u32) {
        let asked = serde_json::json!({"fault": fault, "act": act, "times": times});
        assert_eq!(self.ask("POST", "/planted", None, &asked.to_string()).await.0, 200);
    }

    /// Waits until what was planted has happened.
    pub(crate) async fn struck(&self) {
        while self.ask("POST", "/planted", None, "{}").await.1["left"] != 0 {
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its clock is wrong by so many seconds.
    pub(crate) async fn set_clock(&self, offset: i64) {
        let asked = serde_json::json!({"offset": offset});
        assert_eq!(self.ask("POST", "/planted", None, &asked.to_string()).await.0, 200);
    }

    /// One request to the application, on a connection of its own: status and body.
    async fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, serde_json::Value) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.1)).await.unwrap();
        let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\n{token}content-length: {length}\r\n\r\n"
        );
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap())
    }

    pub(crate) async fn token(&self, name: &str, password: &str) -> Option<String> {
        let asked = serde_json::json!({"name": name, "password": password});
        let (status, said) = self.ask("POST", "/login", None, &asked.to_string()).await;
        (status == 200).then(|| said["token"].as_str().unwrap().to_owned())
    }

    pub(crate) async fn session(&self, name: &str, password: &str) -> Option<User> {
        let token = self.token(name, password).await?;
        Some(User { port: self.ports.1, token, name: name.to_owned() })
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Somebody who has logged in.
pub(crate) struct User {
    port: u16,
    token: String,
    name: String,
}

#[async_trait]
impl Login for User {
    async fn alive(&mut self) -> bool {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        let head = format!(
            "GET /whoami HTTP/1.1\r\nhost: app\r\nconnection: close\r\nauthorization: Bearer {}\r\n\r\n",
            self.token
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        let alive = said.starts_with("HTTP/1.1 200 ");
        assert_eq!(alive, said.ends_with(&format!("{{\"name\": \"{}\"}}", self.name)), "{said}");
        alive
    }
}

pub(crate) fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A verifier as a client makes it (RFC 5803).
pub(crate) fn scram(password: &str) -> String {
    let mut salt = [0u8; 16];
    getrandom::fill(&mut salt).unwrap();
    let salted: [u8; 32] = pbkdf2::pbkdf2_array::<Hmac<Sha256>, 32>(password.as_bytes(), &salt, 4096).unwrap();
    let keyed = |label: &[u8]| Hmac::<Sha256>::new_from_slice(&salted).unwrap().chain_update(label).finalize();
    let stored = Sha256::digest(keyed(b"Client Key").into_bytes());
    let b64 = |bytes: &[u8]| STANDARD.encode(bytes);
    format!("SCRAM-SHA-256$4096:{}${}:{}", b64(&salt), b64(&stored), b64(&keyed(b"Server Key").into_bytes()))
}

/// Makes a principal and says its password.
pub(crate) async fn lease(receiver: &Receiver, engine: &Webhook, name: &str) -> Credential {
    let credential = receiver.credential();
    engine.create(&order(receiver, engine, name, &credential).await).await.unwrap();
    credential
}

#[async_trait]
impl Target for Receiver {
    async fn executor(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine(1))
    }

    fn credential(&self) -> Credential {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).unwrap();
        let password = STANDARD.encode(random);
        Credential { verifier: scram(&password), password }
    }

    fn group(&self) -> String {
        GROUP.to_owned()
    }

    async fn login(&self, name: &str, credential: &Credential) -> Option<Box<dyn Login>> {
        let session = self.session(name, &credential.password).await?;
        Some(Box::new(session))
    }

    async fn hold_creates(&self) {
        let fault = if self.hold == Hold::Before { "hold-before" } else { "hold-within" };
        self.plant(fault, "create", 1).await;
    }

    async fn release(&self) {
        assert_eq!(self.ask("POST", "/planted", None, r#"{"release": true}"#).await.0, 200);
    }
}
