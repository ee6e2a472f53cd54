//! A real moto (PyPI `moto[server]`, which lets in nobody whose signature is not right), with an executor in it; who logs in there, with a signature
//! of our own making; and a network between.

use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener as Listener, TcpStream as Stream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use quorate_crypto::secret::{SecretFields, SecretVec};
use quorate_engines::aws::{Aws, AwsConfig};
use quorate_engines::conformance::{Credential, Login, Target, made, order};
use quorate_engines::{Created, Endpoint, Engine, Tls};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::network::{Fault, Network, request};

/// What moto calls the one account that there is.
pub(crate) const ACCOUNT: &str = "123456789012";
pub(crate) const EXECUTOR: &str = "quorate_executor";
pub(crate) const GROUP: &str = "group:readers";
pub(crate) const POLICY: &str = "policy:arn:aws:iam::123456789012:policy/app";
/// What a role's groups say of a session.
pub(crate) const ROLE: &str = "assume:arn:aws:iam::123456789012:role/app";
/// As the body of a request has it.
pub(crate) const USER_PATH: &str = "Path=%2Fquorate%2Ft1%2Fuser%2F";

/// An access key, and perhaps the token of a session.
#[derive(Clone)]
pub(crate) struct Key {
    pub(crate) id: String,
    pub(crate) secret: String,
    pub(crate) token: Option<String>,
}

impl Key {
    pub(crate) fn of(fields: &SecretFields) -> Self {
        let text = |name| fields.get(name).map(|value| String::from_utf8(value.expose().to_vec()).unwrap());
        let token = text("session_token");
        Self { id: text("access_key_id").unwrap(), secret: text("secret_access_key").unwrap(), token }
    }

    /// As an executor is given it.
    pub(crate) fn text(&self) -> String {
        format!("{}\t{}", self.id, self.secret)
    }

    /// As an executor has it.
    pub(crate) fn password(&self) -> SecretVec {
        SecretVec::new(self.text().into_bytes())
    }

    fn decode(password: &str) -> Option<Self> {
        Some(Self::of(&SecretFields::decode(&STANDARD.decode(password).ok()?)?))
    }
}

pub(crate) fn executor_arn() -> String {
    format!("arn:aws:iam::{ACCOUNT}:user/{EXECUTOR}")
}

pub(crate) struct Moto {
    process: Child,
    pub(crate) port: u16,
    pub(crate) admin: Key,
    pub(crate) executor: Key,
    pub(crate) network: Network,
}

impl Drop for Moto {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The interpreter that `deploy/build/setup` made.
fn python() -> PathBuf {
    let python = std::env::var_os("QUORATE_MOTO").map(PathBuf::from).unwrap_or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
        base.join("quorate/moto/bin/python")
    });
    assert!(python.is_file(), "{} is missing: run deploy/build/setup", python.display());
    python
}

/// What docs/aws.md gives an executor. moto knows no resources but roles, so that only the actions are what is shown to be enough.
fn executor_policy() -> String {
    let docs = include_str!("../../../../docs/aws.md");
    let text =
        docs.split("```json\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a policy in docs/aws.md");
    let mut policy: Value = serde_json::from_str(text).unwrap();
    for statement in policy["Statement"].as_array_mut().unwrap() {
        statement["Resource"] = "*".into();
        statement.as_object_mut().unwrap().remove("Condition");
    }
    policy.to_string()
}

impl Moto {
    pub(crate) async fn start() -> Arc<Self> {
        let (process, port) = tokio::task::spawn_blocking(run).await.unwrap();
        let network = Network::start(port).await;
        let nobody = Key { id: "AKIAIOSFODNN7EXAMPLE".into(), secret: "none".into(), token: None };
        let mut this = Self { process, port, admin: nobody.clone(), executor: nobody, network };
        // The first three are let in whoever asks; from then on nobody is without the right.
        this.iam(&[("Action", "CreateUser"), ("UserName", "admin")]).await;
        let all = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"*","Resource":"*"}]}"#;
        let put = [("Action", "PutUserPolicy"), ("UserName", "admin"), ("PolicyName", "all"), ("PolicyDocument", all)];
        this.iam(&put).await;
        this.admin = this.new_key("admin").await;
        this.iam(&[("Action", "CreateUser"), ("UserName", EXECUTOR)]).await;
        let policy = executor_policy();
        let put = [
            ("Action", "PutUserPolicy"),
            ("UserName", EXECUTOR),
            ("PolicyName", "executor"),
            ("PolicyDocument", &policy),
        ];
        this.iam(&put).await;
        this.executor = this.new_key(EXECUTOR).await;
        this.iam(&[("Action", "CreateGroup"), ("GroupName", "readers")]).await;
        let read =
            r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iam:ListGroups","Resource":"*"}]}"#;
        this.iam(&[("Action", "CreatePolicy"), ("PolicyName", "app"), ("PolicyDocument", read)]).await;
        let trust = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Principal":{{"AWS":"{}"}},"Action":"sts:AssumeRole"}}]}}"#,
            executor_arn()
        );
        this.iam(&[("Action", "CreateRole"), ("RoleName", "app"), ("AssumeRolePolicyDocument", &trust)]).await;
        this.iam(&[("Action", "PutRolePolicy"), ("RoleName", "app"), ("PolicyName", "read"), ("PolicyDocument", read)])
            .await;
        Arc::new(this)
    }

    pub(crate) async fn new_key(&self, user: &str) -> Key {
        let said = self.iam(&[("Action", "CreateAccessKey"), ("UserName", user)]).await;
        let [id, secret] = ["AccessKeyId", "SecretAccessKey"].map(|name| element(&said, name).unwrap());
        Key { id, secret, token: None }
    }

    /// What an administrator is answered, who must not be refused.
    pub(crate) async fn iam(&self, parameters: &[(&str, &str)]) -> String {
        let (status, said) = self.ask(&self.admin, "iam", parameters).await;
        assert_eq!(status, 200, "{parameters:?}: {said}");
        said
    }

    /// One signed request, past the network: status and body.
    pub(crate) async fn ask(&self, key: &Key, service: &str, parameters: &[(&str, &str)]) -> (u16, String) {
        let version = if service == "iam" { "2010-05-08" } else { "2011-06-15" };
        let mut body = format!("Version={version}");
        for (name, value) in parameters {
            body.push_str(&format!("&{name}={}", encoded(value)));
        }
        let host = format!("127.0.0.1:{}", self.port);
        let answer = request(self.port, &signed(key, service, &host, &body)).await;
        let text = String::from_utf8(answer.unwrap()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// Who the services say that this is, if they let it in.
    pub(crate) async fn who(&self, key: &Key) -> Option<String> {
        let (status, said) = self.ask(key, "sts", &[("Action", "GetCallerIdentity")]).await;
        if status != 200 {
            assert!(said.contains("InvalidClientTokenId"), "{said}");
            return None;
        }
        element(&said, "Arn")
    }

    /// The names of all users but the administrators.
    pub(crate) async fn users(&self) -> Vec<String> {
        let said = self.iam(&[("Action", "ListUsers")]).await;
        let names = said.split("<UserName>").skip(1).map(|rest| rest.split('<').next().unwrap().to_owned());
        names.filter(|name| name != "admin" && name != EXECUTOR).collect()
    }

    /// Whether a user has a key; nothing when there is no such user.
    pub(crate) async fn has_key(&self, name: &str) -> Option<bool> {
        let (status, said) = self.ask(&self.admin, "iam", &[("Action", "ListAccessKeys"), ("UserName", name)]).await;
        (status == 200).then(|| said.contains("<AccessKeyId>"))
    }

    pub(crate) fn config(&self, term: u64) -> AwsConfig {
        let endpoint = Endpoint { host: "127.0.0.1".into(), port: self.network.port };
        AwsConfig {
            sts: endpoint.clone(),
            iam: endpoint,
            region: "eu-central-1".into(),
            user: executor_arn(),
            passwords: self.executor.password().into(),
            tls: Tls::Disabled,
            target: "t1".into(),
            term,
            propagation: Duration::ZERO,
            connect_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
        }
    }

    pub(crate) fn engine(&self, term: u64) -> Aws {
        Aws::new(self.config(term)).unwrap()
    }

    /// One that loses patience.
    pub(crate) fn hasty(&self, patience: Duration) -> Aws {
        Aws::new(AwsConfig { answer_timeout: patience, ..self.config(1) }).unwrap()
    }
}

/// Starts moto on a free port.
fn run() -> (Child, u16) {
    for _ in 0..5 {
        let port = Listener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let mut process = Command::new(python())
            .args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &port.to_string()])
            .env("INITIAL_NO_AUTH_ACTION_COUNT", "3")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // What it says of each request must not fill the pipe.
        let mut said = process.stderr.take().unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while said.read(&mut buffer).is_ok_and(|n| n > 0) {}
        });
        let began = Instant::now();
        while process.try_wait().unwrap().is_none() {
            if Stream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return (process, port);
            }
            assert!(began.elapsed() < Duration::from_secs(150), "moto does not start");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
    panic!("moto ends at once");
}

/// The text of the first element of this name.
pub(crate) fn element(xml: &str, name: &str) -> Option<String> {
    let (_, rest) = xml.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</")?.0.to_owned())
}

fn encoded(value: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
    value.bytes().map(|b| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") }).collect()
}

/// A request with Signature Version 4, as AWS documents it, and by no code of the engine's.
pub(crate) fn signed(key: &Key, service: &str, host: &str, body: &str) -> Vec<u8> {
    const FORM: &str = "application/x-www-form-urlencoded";
    let mac = |key: &[u8], text: &str| {
        Hmac::<Sha256>::new_from_slice(key).unwrap().chain_update(text).finalize().into_bytes().to_vec()
    };
    let at = stamp(SystemTime::now());
    let (day, region) = (&at[..8], "us-east-1");
    let token = key.token.iter().map(|token| format!("x-amz-security-token:{token}\n")).collect::<String>();
    let names = if key.token.is_some() {
        "content-type;host;x-amz-date;x-amz-security-token"
    } else {
        "content-type;host;x-amz-date"
    };
    let hash = |text: &str| hex::encode(Sha256::digest(text));
    let canonical =
        format!("POST\n/\n\ncontent-type:{FORM}\nhost:{host}\nx-amz-date:{at}\n{token}\n{names}\n{}", hash(body));
    let scope = format!("{day}/{region}/{service}/aws4_request");
    let to_sign = format!("AWS4-HMAC-SHA256\n{at}\n{scope}\n{}", hash(&canonical));
    let parts = [day, region, service, "aws4_request"];
    let signing = parts.iter().fold(format!("AWS4{}", key.secret).into_bytes(), |key, part| mac(&key, part));
    let signature = hex::encode(mac(&signing, &to_sign));
    let id = &key.id;
    let token = key.token.iter().map(|token| format!("x-amz-security-token: {token}\r\n")).collect::<String>();
    format!(
        "POST / HTTP/1.1\r\nhost: {host}\r\ncontent-type: {FORM}\r\nx-amz-date: {at}\r\n{token}authorization: AWS4-HMAC-SHA256 \
         Credential={id}/{scope}, SignedHeaders={names}, Signature={signature}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// `20261123T140500Z`.
fn stamp(at: SystemTime) -> String {
    let seconds = i64::try_from(at.duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap();
    // Days to a date, as Howard Hinnant has it.
    let (days, rest) = (seconds.div_euclid(86_400) + 719_468, seconds.rem_euclid(86_400));
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let (m, d) = ((5 * of_year + 2) / 153, of_year - (153 * ((5 * of_year + 2) / 153) + 2) / 5 + 1);
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    format!("{year:04}{month:02}{d:02}T{:02}{:02}{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Makes a principal with these rights: its number, and its key.
pub(crate) async fn lease(moto: &Moto, engine: &Aws, name: &str, groups: &[&str]) -> (Created, Key) {
    let mut create = order(moto, engine, name, &moto.credential()).await;
    create.groups = groups.iter().map(|g| (*g).to_owned()).collect();
    let created = engine.create(&create).await.unwrap();
    let key = Key::of(created.issued.as_ref().unwrap());
    (created, key)
}

/// The same of the suite's group.
pub(crate) async fn user(moto: &Moto, engine: &Aws, name: &str) -> Key {
    let create = order(moto, engine, name, &moto.credential()).await;
    Key::decode(&made(engine, &create, moto.credential()).await.1.password).unwrap()
}

/// Somebody who has a key.
struct User {
    key: Key,
    port: u16,
    name: String,
}

#[async_trait]
impl Login for User {
    async fn alive(&mut self) -> bool {
        let host = format!("127.0.0.1:{}", self.port);
        let body = "Version=2011-06-15&Action=GetCallerIdentity";
        let answer = request(self.port, &signed(&self.key, "sts", &host, body)).await.unwrap();
        let text = String::from_utf8(answer).unwrap();
        let alive = text.starts_with("HTTP/1.1 200");
        assert_eq!(alive, text.contains(&format!("/{}</Arn>", self.name)), "{text}");
        alive
    }
}

#[async_trait]
impl Target for Moto {
    async fn executor(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine(1))
    }

    fn credential(&self) -> Credential {
        Credential { verifier: "what the secret is sealed with".into(), password: "none".into() }
    }

    fn group(&self) -> String {
        GROUP.to_owned()
    }

    fn unfit_group(&self) -> String {
        "policy:arn:aws:iam::aws:policy/AdministratorAccess".to_owned()
    }

    async fn login(&self, name: &str, credential: &Credential) -> Option<Box<dyn Login>> {
        let mut user = User { key: Key::decode(&credential.password)?, port: self.port, name: name.to_owned() };
        if user.alive().await { Some(Box::new(user)) } else { None }
    }

    async fn hold_creates(&self) {
        self.network.plan(USER_PATH, Fault::HoldRequest, usize::MAX);
    }

    async fn release(&self) {
        self.network.release();
    }
}

#[test]
fn a_stamp_is_a_date() {
    assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(1_795_442_700)), "20261123T140500Z");
    assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(951_782_400)), "20000229T000000Z");
}
