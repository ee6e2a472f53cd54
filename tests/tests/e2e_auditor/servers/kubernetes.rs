//! A Kubernetes beside a cluster: the API server that the engine's tests have, which is written after the real one. Who administers it has a token
//! of a service account with rights, like everybody there, and so has the auditor, who may list Secrets and nothing else.

use super::{Server, describe_at};
use crate::api_server::{EXECUTOR, GROUP, Stub};
use crate::cluster::{NAMESPACE, Right};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use quorate_api::client::{Credential, Proof};
use quorate_tests::Cluster;
use serde_json::{Value, json};
use std::sync::Arc;
use tempfile::NamedTempFile;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const SECRETS: &str = "/api/v1/namespaces/leases/secrets";
const TOKENS: &str = "/api/v1/namespaces/leases/serviceaccounts/app/token";
const REVIEW: &str = "/apis/authentication.k8s.io/v1/selfsubjectreviews";

/// It.
pub(crate) struct Kubernetes {
    stub: Arc<Stub>,
    /// The auditor's token.
    file: NamedTempFile,
    operator: String,
}

impl Kubernetes {
    pub(crate) async fn beside(cluster: &Cluster) -> Self {
        let stub = Stub::start().await;
        let [auditor, operator] = [("auditor", "list"), ("operator", "*")].map(|(name, verb)| {
            let mut there = stub.cluster();
            there.stored.accounts.insert(name.to_owned(), format!("the uid of the {name}"));
            let user = format!("system:serviceaccount:{NAMESPACE}:{name}");
            for resource in ["secrets", "serviceaccounts/token"].into_iter().take(if verb == "*" { 2 } else { 1 }) {
                there.rights.push(Right { user: user.clone(), verb, resource, name: String::new() });
            }
            there.token_of(name, 86_400)
        });
        let file = NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("{auditor}\n")).unwrap();
        let port = stub.port.to_string();
        let place = ["--system", "kubernetes", "--host", "127.0.0.1", "--port", &port, "--user", EXECUTOR];
        // It is proved with its first role: there is no token without a service account.
        let place = [&place[..], &["--database", NAMESPACE, "--unproved"]].concat();
        describe_at::<Self>(cluster, &place, &stub.token, &["--group", GROUP]);
        Self { stub, file, operator }
    }

    /// What somebody is answered who may do that.
    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let caller = Caller { port: self.stub.port, token: self.operator.clone() };
        caller.ask(method, path, &body.to_string()).await
    }
}

/// Who has a token.
#[derive(Clone)]
pub(crate) struct Caller {
    port: u16,
    token: String,
}

impl Caller {
    pub(crate) fn of(credential: &Credential) -> Self {
        let Proof::Issued(fields) = &credential.proof else { panic!("a password: {credential:?}") };
        let token = String::from_utf8(fields.get("token").unwrap().expose().to_vec()).unwrap();
        Self { port: credential.port, token }
    }

    /// Whether it is let in.
    pub(crate) async fn is_let_in(&self) -> bool {
        let (status, said) = self.ask("POST", REVIEW, "{}").await;
        assert!([201, 401].contains(&status), "{status} {said}");
        status == 201
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let Self { port, token } = self;
        let mut stream = TcpStream::connect(("127.0.0.1", *port)).await.unwrap();
        let length = body.len();
        let head =
            format!("{method} {path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n");
        stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        // It goes on listening: what comes next is nobody's.
        stream.shutdown().await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        let (head, body) = said.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), serde_json::from_str(body).unwrap())
    }
}

/// The name of a login's Secret, as docs/kubernetes.md has it.
fn secret_of(login: &str) -> String {
    format!("{}-quorate", login.replace('_', "-"))
}

/// The login to whose Secret a token is bound, by the token's own word.
fn bound(token: &str) -> String {
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let secret = claims["kubernetes.io"]["secret"]["name"].as_str().unwrap_or_default();
    secret.trim_end_matches("-quorate").replace('-', "_")
}

impl Server for Kubernetes {
    const TARGET: &'static str = "kube";
    const ROLE: &'static str = "kube-users";

    fn place(&self) -> Vec<String> {
        let (address, file) = (format!("127.0.0.1:{}", self.stub.port), self.file.path().display().to_string());
        let words = ["--kubernetes", &address, "--kubernetes-namespace", NAMESPACE, "--kubernetes-token-file", &file];
        words.map(str::to_owned).to_vec()
    }

    async fn has(&self, login: &str) -> bool {
        self.ask("GET", &format!("{SECRETS}/{}", secret_of(login)), Value::Null).await.0 == 200
    }

    async fn make(&self, login: &str) {
        let name = secret_of(login);
        let (status, secret) =
            self.ask("POST", SECRETS, json!({ "type": "quorate/lease", "metadata": { "name": name } })).await;
        assert_eq!(status, 201, "{secret}");
        let bound = json!({ "kind": "Secret", "name": name, "uid": secret["metadata"]["uid"] });
        let spec = json!({ "expirationSeconds": 600, "boundObjectRef": bound });
        let (status, issued) = self.ask("POST", TOKENS, json!({ "spec": spec })).await;
        assert_eq!(status, 201, "{issued}");
        let token = issued["status"]["token"].as_str().unwrap().to_owned();
        assert!(Caller { port: self.stub.port, token }.is_let_in().await, "a token of {login} lets in");
    }

    async fn unmake(&self, login: &str) {
        self.ask("DELETE", &format!("{SECRETS}/{}", secret_of(login)), json!({})).await;
    }

    async fn lets_in(credential: &Credential) -> bool {
        Caller::of(credential).is_let_in().await
    }

    async fn alive(&self, prefix: &str) -> Vec<String> {
        let alive = self.stub.cluster().alive();
        alive.iter().map(|token| bound(token)).filter(|login| login.starts_with(prefix)).collect()
    }
}
