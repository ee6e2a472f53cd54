//! A system of somebody's own, by webhooks: the sample of `examples/webhook-receiver` as a process, over TLS, with faults to plant.

use super::{ENDED, document, end, ended, issue, permit, refused, run, run_with, text};
use quorate_api::client::{Credential, System};
use quorate_crypto::secret::SecretVec;
use quorate_engines::webhook::{Webhook, WebhookConfig};
use quorate_engines::{Endpoint, Engine as _, OwnSessions, Tls, Trust};
use quorate_tests::Cluster;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::{Value, json};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::task::spawn_blocking;

const SECRET: &str = "whsec_Y2FuYXJ5IG9mIHRoZSBleGVjdXRvcidzIG93bg==";
const GROUP: &str = "readers";

/// A receiver, and the application behind it.
pub(crate) struct Hook {
    folder: TempDir,
    process: Mutex<Option<Child>>,
    /// Of the vault, and of those who log in.
    ports: (u16, u16),
    root: Vec<u8>,
}

impl Drop for Hook {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Hook {
    async fn start() -> Self {
        spawn_blocking(|| {
            let mut authority = CertificateParams::default();
            authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
            let key = KeyPair::generate().unwrap();
            let names = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
            let folder = tempfile::tempdir().unwrap();
            let put = |name: &str, text: String| std::fs::write(folder.path().join(name), text).unwrap();
            put("cert.pem", names.signed_by(&key, &authority).unwrap().pem());
            put("key.pem", key.serialize_pem());
            put("ca.pem", authority.pem());
            put("secret", format!("{SECRET}\n"));
            let root = authority.der().to_vec();
            let mut hook = Self { folder, process: Mutex::default(), ports: (0, 0), root };
            hook.ports = hook.run();
            hook
        })
        .await
        .unwrap()
    }

    /// Starts it, on its data and its ports if it has any.
    fn run(&self) -> (u16, u16) {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/webhook-receiver/planted.py");
        let mut command = Command::new("python3");
        command.arg("-B").arg(script).args(["--group", GROUP]);
        for (option, name) in
            [("--data", "data"), ("--secret-file", "secret"), ("--certificate", "cert.pem"), ("--key", "key.pem")]
        {
            command.arg(option).arg(self.file(name));
        }
        command.args(["--port", &self.ports.0.to_string(), "--app-port", &self.ports.1.to_string()]);
        let mut process =
            command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("python3: run deploy/build/setup");
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        *self.process.lock().unwrap() = Some(process);
        let said: Value = serde_json::from_str(&line).unwrap();
        let port = |name: &str| u16::try_from(said[name].as_u64().unwrap()).unwrap();
        (port("port"), port("app_port"))
    }

    /// As `kill -9`.
    fn kill(&self) {
        if let Some(mut process) = self.process.lock().unwrap().take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn path(&self, name: &str) -> String {
        self.file(name).to_str().unwrap().to_owned()
    }

    fn url(&self) -> String {
        format!("https://127.0.0.1:{}/vault", self.ports.0)
    }

    /// `target add`, with what else is said.
    fn add(&self, cluster: &Cluster, name: &str, more: &[&str], code: &str) -> String {
        let (url, ca) = (self.url(), self.path("ca.pem"));
        let add = ["target", "add", name, "--url", url.as_str(), "--ca-file", ca.as_str()];
        refused(cluster, &[&add[..], more].concat(), code)
    }

    /// What the application answers.
    fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, Value) {
        let mut stream = TcpStream::connect(("127.0.0.1", self.ports.1)).unwrap();
        stream.set_read_timeout(Some(ENDED)).unwrap();
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: app\r\nconnection: close\r\nauthorization: Bearer {token}\r\ncontent-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }

    /// What a session is known by, if the application lets in.
    fn session(&self, name: &str, password: &str) -> Option<String> {
        let asked = json!({"name": name, "password": password}).to_string();
        let (status, said) = self.ask("POST", "/login", "", &asked);
        (status == 200).then(|| said["token"].as_str().unwrap().to_owned())
    }

    fn open(&self, credential: &Credential) -> Option<String> {
        self.session(&credential.username, text(credential))
    }

    fn lets_in(&self, credential: &Credential) -> bool {
        self.open(credential).is_some()
    }

    /// Whose session it is; nobody's when it is over.
    fn whose(&self, token: &str) -> Option<String> {
        let (status, said) = self.ask("GET", "/whoami", token, "");
        (status == 200).then(|| said["name"].as_str().unwrap().to_owned())
    }

    fn plant(&self, asked: &Value) {
        assert_eq!(self.ask("POST", "/planted", "", &asked.to_string()).0, 200);
    }

    /// Every login that the vault has made and that is there.
    fn logins(&self) -> Vec<String> {
        let code = "import sqlite3, sys; print('\\n'.join(n for n, in sqlite3.connect(sys.argv[1]).execute('SELECT name FROM accounts')))";
        let output = Command::new("python3").args(["-c", code]).arg(self.file("data")).output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let names = String::from_utf8(output.stdout).unwrap();
        // The name of a claim goes on with another letter there.
        names.lines().filter(|name| name.starts_with('q') && name.find('_') == Some(9)).map(str::to_owned).collect()
    }

    /// Whether it obeys whoever has this secret.
    async fn obeys(&self, secret: &str) -> bool {
        let config = WebhookConfig {
            endpoint: Endpoint { host: "127.0.0.1".to_owned(), port: self.ports.0 },
            path: vec!["vault".to_owned()],
            passwords: SecretVec::new(secret.as_bytes().to_vec()).into(),
            own: OwnSessions::default(),
            tls: Tls::Verified(Trust::new(std::slice::from_ref(&self.root), None, false).unwrap()),
            target: "somebody".to_owned(),
            term: 1,
            connect_timeout: ENDED,
            answer_timeout: ENDED,
        };
        match Webhook::new(config).unwrap().visit().await {
            Ok(()) => true,
            Err(why) if why.is_login_refused() => false,
            Err(why) => panic!("{why}"),
        }
    }
}

pub(crate) async fn a_life(cluster: &Cluster) -> Hook {
    let hook = Hook::start().await;
    what_it_has_not(cluster, &hook);

    // It breaks a rule, and is enabled when it does so no more.
    hook.plant(&json!({"fault": "stale", "act": "timeline", "times": 1000}));
    let secret = hook.path("secret");
    let said = hook.add(cluster, "hook", &["--password-file", &secret, "--no-rotate"], "target_not_enabled");
    assert!(said.contains("its receiver is to") && said.contains("what was signed more than 300 s ago"), "{said}");
    hook.plant(&json!({"release": true}));
    // One that says of a login what is not so.
    for times in [1, 2] {
        // Of two questions the first is whether it lets in, the second whether it does so yet when it has ended.
        let acts = if times == 1 { "does not log in" } else { "a revoked credential still logs in" };
        hook.plant(&json!({"fault": "lie", "act": "try-out", "times": times}));
        let said = refused(cluster, &["target", "check", "hook"], "target_not_enabled");
        assert!(said.contains(acts), "{said}");
        hook.plant(&json!({"release": true}));
    }
    let said = run(cluster, &["target", "check", "hook"]);
    assert!(said.contains("is enabled"), "{said}");
    let shown = run(cluster, &["target", "show", "hook"]);
    let place = format!("127.0.0.1:{}/vault", hook.ports.0);
    assert!(shown.contains("webhook") && shown.contains(&place), "{shown}");
    assert!(!shown.contains("standbys") && !shown.contains(" as "), "nothing that it has not: {shown}");

    let role = ["role", "add", "hook", "--target", "hook", "--ttl", "10m", "--max-ttl", "10m"];
    for (bad, says) in [
        (&["--statements", "COMMENT ON ROLE {{name}} IS 'x'"][..], "there are none for webhook"),
        (&["--verifier", "redis-sha256"], "webhook takes none of the form redis-sha256"),
    ] {
        let said = refused(cluster, &[&role[..], bad].concat(), "invalid_argument");
        assert!(said.contains(says), "{bad:?}: {said}");
    }
    let said = run(cluster, &[&role[..], &["--group", "nobody knows it"]].concat());
    assert!(said.contains("is described, but") && said.contains("there is no such group"), "{said}");
    let said = run(cluster, &[&role[..], &["--group", GROUP]].concat());
    assert!(said.contains("next: quorate lease issue"), "{said}");
    permit(cluster, "hook").await;

    let credential = issue(cluster, "hook").await;
    assert_eq!((credential.system, credential.database.as_str()), (System::Webhook, "/vault"));
    let session = hook.open(&credential).unwrap();
    assert_eq!(hook.whose(&session).as_ref(), Some(&credential.username));
    let done = end(cluster, credential.lease).await;
    assert!(done.proof_endpoint.starts_with(&hook.url()), "{done:?}");
    assert!(done.sessions_ended >= 1, "its session was ended: {done:?}");
    assert_eq!(hook.whose(&session), None, "the open session is gone");
    assert!(!hook.lets_in(&credential), "its login is refused");
    let shown = document(cluster, &["lease", "show", &credential.lease.to_string()]);
    assert_eq!((shown["state"].as_str(), shown["system"].as_str()), (Some("revoked"), Some("webhook")));

    a_program(cluster, &hook);
    let begun = Instant::now();
    while !hook.logins().is_empty() {
        assert!(begun.elapsed() < ENDED, "what has ended is cleaned up: {:?}", hook.logins());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    hook
}

/// What other kinds have, and this one not; and what it alone has.
fn what_it_has_not(cluster: &Cluster, hook: &Hook) {
    let (ca, secret) = (hook.path("ca.pem"), hook.path("secret"));
    let file = ["--password-file", secret.as_str()];
    for more in [
        &["--user", "quorate"][..],
        &["--standby", "127.0.0.1:1"],
        &["--also-database", "more"],
        &["--owner", "somebody"],
        &["--channel-binding", "require"],
    ] {
        let said = hook.add(cluster, "none", &[&file[..], more].concat(), "invalid_argument");
        assert!(said.contains("a target of webhook has none"), "{more:?}: {said}");
    }
    let said = hook.add(cluster, "none", &[&file[..], &["--system", "redis"]].concat(), "invalid_argument");
    assert!(said.contains("--url: a target of redis has none"), "{said}");
    let at = |url: &str, more: &[&str]| {
        refused(cluster, &[&["target", "add", "none", "--url", url][..], &file, more].concat(), "invalid_argument")
    };
    let said = at("https://127.0.0.1:1/vault", &[]);
    assert!(said.contains("--ca-file FILE"), "never in clear, also on this machine: {said}");
    let said = at("https://127.0.0.1/a/../b", &["--ca-file", &ca]);
    assert!(said.contains("must be empty, or a path"), "{said}");
    let there = document(cluster, &["target", "list"]);
    let is_there = there["targets"].as_array().unwrap().iter().any(|target| target["name"] == "none");
    assert!(!is_there, "nothing is described by what was refused");
}

/// It has a login of its own, as any program that was written for this application.
fn a_program(cluster: &Cluster, hook: &Hook) {
    let code = "import json, os, sys, urllib.request as u
said = os.environ
password = said.get('QUORATE_PASSWORD') or open(said['QUORATE_PASSWORD_FILE']).readline().strip()
body = json.dumps({'name': said['QUORATE_USERNAME'], 'password': password}).encode()
direct = u.build_opener(u.ProxyHandler({}))
token = json.load(direct.open('http://127.0.0.1:' + sys.argv[1] + '/login', body))['token']
print(said['QUORATE_SYSTEM'], said['QUORATE_HOST'] + ':' + said['QUORATE_PORT'] + said['QUORATE_DATABASE'], said['QUORATE_USERNAME'], password, token)";
    let port = hook.ports.1.to_string();
    for options in [&[][..], &["--password-in-environment"]] {
        let output = run_with(cluster, "hook", options, &["python3", "-c", code, &port]);
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let told: Vec<&str> = said.split_whitespace().collect();
        assert!(output.status.success() && told.len() == 5, "{output:?}");
        assert_eq!((told[0], told[1]), ("webhook", format!("127.0.0.1:{}/vault", hook.ports.0).as_str()));
        assert_eq!(hook.whose(told[4]), None, "its session has ended with it");
        assert_eq!(hook.session(told[2], told[3]), None, "and its login");
    }
}

/// Another secret than its receiver's, and none at all: said, mended, and nobody else's business.
pub(crate) async fn a_secret_of_another(cluster: &Cluster, hook: &Hook) {
    let other = Hook::start().await;
    let file = other.path("wrong");
    std::fs::write(&file, "too short\n").unwrap();
    let said = other.add(cluster, "other", &["--password-file", &file, "--no-rotate"], "target_not_enabled");
    assert!(said.contains("not a signing secret"), "{said}");
    std::fs::write(&file, "whsec_YW5vdGhlciBzZWNyZXQgdGhhbiB0aGUgcmVjZWl2ZXIncw==\n").unwrap();
    let say = |file: &str| ["target", "password", "other", "--password-file", file].map(str::to_owned);
    let said = say(&file);
    let said = refused(cluster, &said.each_ref().map(String::as_str), "target_not_enabled");
    assert!(said.contains("none of the signatures is of the secret that is known here"), "{said}");
    let credential = issue(cluster, "hook").await;
    assert!(hook.lets_in(&credential), "the other one is not in its way");
    assert_eq!(end(cluster, credential.lease).await.why, "requested");
    let said = say(&other.path("secret"));
    let said = run(cluster, &said.each_ref().map(String::as_str));
    assert!(said.contains("is enabled"), "{said}");
    let said = run(cluster, &["target", "remove", "other"]);
    assert!(said.contains("is removed"), "{said}");
}

/// One that is down keeps its leases: and ends them when it is back.
pub(crate) async fn one_that_was_down_ends_what_outlived_it(cluster: &Cluster, hook: &Hook) {
    let credential = issue(cluster, "hook").await;
    let session = hook.open(&credential).unwrap();
    hook.kill();
    cluster.client("demo").unwrap().revoke(credential.lease).await.unwrap();
    assert_eq!(hook.run(), hook.ports);
    let done = ended(cluster, credential.lease).await;
    assert_eq!(done.state, "revoked", "{done:?}");
    assert_eq!((hook.whose(&session), hook.open(&credential)), (None, None), "what outlived its restart has ended");
}

/// The vault gives it a secret of its own.
pub(crate) async fn a_secret_that_nobody_knows(cluster: &Cluster, hook: &Hook) {
    assert!(hook.obeys(SECRET).await, "people know it");
    let change = ["target", "change", "hook", "--rotate", "--operator", cluster.text("/operator").unwrap()];
    let signed = ["--passphrase-file", cluster.text("/passphrase_file").unwrap()];
    run(cluster, &[&change[..], &signed].concat());
    let begun = Instant::now();
    while hook.obeys(SECRET).await {
        assert!(begun.elapsed() < ENDED, "the secret is replaced");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let credential = issue(cluster, "hook").await;
    assert!(hook.lets_in(&credential), "the vault goes on with the new one");
    end(cluster, credential.lease).await;
    assert!(!hook.lets_in(&credential));
    let begun = Instant::now();
    while document(cluster, &["target", "show", "hook"])["rotated"]["index"] == 0 {
        assert!(begun.elapsed() < ENDED, "it was seen to be let in with it");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}
