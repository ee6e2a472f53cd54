//! The API server of [`crate::cluster`] on a port: what arrives there, what is held, lost or lied about on the way, and its crashes.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_crypto::secret::{SecretFields, SecretVec};
use quorate_engines::conformance::{Credential, Login, Target, order};
use quorate_engines::kubernetes::{Kubernetes, KubernetesConfig};
use quorate_engines::{Endpoint, Engine, EngineError, OwnSessions, Tls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::cluster::{Cluster, NAMESPACE, Said};

pub(crate) const EXECUTOR: &str = "system:serviceaccount:leases:executor";
pub(crate) const GROUP: &str = "serviceaccount:app";
/// Of a caller, before it gives up.
const PATIENCE: Duration = Duration::from_secs(20);

/// What happens to a request.
#[derive(Clone)]
pub(crate) enum Fault {
    /// It arrives when it is released.
    Late,
    /// Whoever sent it was let in before it is held, and it is done when it is released.
    LetIn,
    /// It is done, and answered when it is released.
    Done,
    /// It is done, and never answered.
    Lost,
    /// It is not done, and answered so, with these further headers.
    Said(u16, &'static str, String),
    /// It is done, and answered so.
    Lied(u16, String),
}

struct Plant {
    /// What the method and the path begin with.
    of: String,
    fault: Fault,
    times: usize,
}

#[derive(Default)]
struct Faults {
    plants: Vec<Plant>,
    struck: usize,
    released: usize,
}

/// A stub API server. What it keeps is on disk, in a folder of its own.
pub(crate) struct Stub {
    pub(crate) port: u16,
    folder: TempDir,
    cluster: Arc<Mutex<Cluster>>,
    faults: Arc<Mutex<Faults>>,
    news: watch::Sender<()>,
    listening: Mutex<Option<JoinHandle<()>>>,
    stop: Arc<Notify>,
    tls: Option<TlsAcceptor>,
    pub(crate) roots: Vec<Vec<u8>>,
    pub(crate) token: String,
}

pub(crate) fn authority(name: &str) -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

impl Stub {
    pub(crate) async fn start() -> Arc<Self> {
        Self::start_with(None).await
    }

    /// With a certificate for 127.0.0.1 from that authority.
    pub(crate) async fn start_with(issuer: Option<&CertifiedIssuer<'static, KeyPair>>) -> Arc<Self> {
        let folder = tempfile::tempdir().unwrap();
        let cluster = Cluster::new(folder.path().join("cluster"));
        let token = cluster.token_of("executor", 86_400);
        let tls = issuer.map(|issuer| {
            let key = KeyPair::generate().unwrap();
            let certificate =
                CertificateParams::new(["127.0.0.1".to_owned()]).unwrap().signed_by(&key, issuer).unwrap();
            let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            let server = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
            let server = server.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], key).unwrap();
            TlsAcceptor::from(Arc::new(server))
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stub = Arc::new(Self {
            port: listener.local_addr().unwrap().port(),
            folder,
            cluster: Arc::new(Mutex::new(cluster)),
            faults: Arc::default(),
            news: watch::Sender::new(()),
            listening: Mutex::new(None),
            stop: Arc::default(),
            tls,
            roots: issuer.map(|issuer| issuer.der().to_vec()).into_iter().collect(),
            token,
        });
        stub.listen(listener);
        stub
    }

    fn listen(&self, listener: TcpListener) {
        let (cluster, faults, news) = (Arc::clone(&self.cluster), Arc::clone(&self.faults), self.news.clone());
        let (tls, stop) = (self.tls.clone(), Arc::clone(&self.stop));
        let listening = tokio::spawn(async move {
            let mut all = tokio::task::JoinSet::new();
            loop {
                let stream = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap().0,
                    () = stop.notified() => break,
                };
                let (cluster, faults, news) = (Arc::clone(&cluster), Arc::clone(&faults), news.clone());
                let tls = tls.clone();
                all.spawn(async move {
                    let connection = Connection { cluster, faults, news };
                    match tls {
                        None => connection.serve(stream).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                connection.serve(stream).await;
                            }
                        }
                    }
                });
            }
            // None of them does anything any more.
            all.shutdown().await;
        });
        *self.listening.lock().unwrap() = Some(listening);
    }

    /// Ends it with all that is under way, and starts it with what is on its disk.
    pub(crate) async fn restart(&self) {
        let listening = self.listening.lock().unwrap().take().unwrap();
        self.stop.notify_one();
        listening.await.unwrap();
        *self.cluster.lock().unwrap() = Cluster::load(self.path());
        let mut listener = TcpListener::bind(("127.0.0.1", self.port)).await;
        while listener.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
            listener = TcpListener::bind(("127.0.0.1", self.port)).await;
        }
        self.listen(listener.unwrap());
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("cluster")
    }

    pub(crate) fn backup(&self) -> Vec<u8> {
        std::fs::read(self.path()).unwrap()
    }

    pub(crate) async fn restore(&self, backup: &[u8]) {
        std::fs::write(self.path(), backup).unwrap();
        self.restart().await;
    }

    pub(crate) fn cluster(&self) -> MutexGuard<'_, Cluster> {
        self.cluster.lock().unwrap()
    }

    /// The next requests whose method and path begin so have this happen to them.
    pub(crate) fn plant(&self, of: &str, fault: Fault, times: usize) {
        self.faults.lock().unwrap().plants.push(Plant { of: of.to_owned(), fault, times });
    }

    /// What is held goes on, and nothing happens to requests any more.
    pub(crate) fn release(&self) {
        let mut faults = self.faults.lock().unwrap();
        faults.plants.clear();
        faults.released += 1;
        drop(faults);
        self.news.send_replace(());
    }

    pub(crate) fn struck_so_far(&self) -> usize {
        self.faults.lock().unwrap().struck
    }

    /// So many requests had something happen to them.
    pub(crate) async fn struck(&self, times: usize) {
        let mut news = self.news.subscribe();
        let so = async {
            while self.faults.lock().unwrap().struck < times {
                news.changed().await.unwrap();
            }
        };
        timeout(Duration::from_secs(20), so).await.expect("it comes so");
    }

    pub(crate) fn config(&self, term: u64) -> KubernetesConfig {
        let token = SecretVec::new(self.token.clone().into_bytes());
        KubernetesConfig {
            endpoint: Endpoint { host: "127.0.0.1".to_owned(), port: self.port },
            namespace: NAMESPACE.to_owned(),
            user: EXECUTOR.to_owned(),
            passwords: token.into(),
            own: OwnSessions::default(),
            tls: match self.roots.as_slice() {
                [] => Tls::Disabled,
                roots => Tls::Verified(quorate_engines::Trust::new(roots, None, false).unwrap()),
            },
            target: "t_1".to_owned(),
            term,
            connect_timeout: PATIENCE,
            answer_timeout: PATIENCE,
            // It remembers nobody, unless a test says so.
            settling: Duration::ZERO,
        }
    }

    pub(crate) fn engine(&self, term: u64) -> Kubernetes {
        Kubernetes::new(self.config(term)).unwrap()
    }

    /// The names of all Secrets.
    pub(crate) fn secrets(&self) -> Vec<String> {
        self.cluster().stored.secrets.keys().cloned().collect()
    }
}

struct Connection {
    cluster: Arc<Mutex<Cluster>>,
    faults: Arc<Mutex<Faults>>,
    news: watch::Sender<()>,
}

struct Asked {
    method: String,
    target: String,
    token: Option<String>,
    body: Vec<u8>,
}

impl Connection {
    async fn serve<S: AsyncRead + AsyncWrite + Unpin>(&self, mut stream: S) {
        while let Some(asked) = read(&mut stream).await {
            let Some((status, headers, body)) = self.answer(&asked).await else { return };
            let head = format!(
                "HTTP/1.1 {status} x\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n",
                body.len()
            );
            if stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).await.is_err() {
                return;
            }
        }
    }

    async fn answer(&self, asked: &Asked) -> Option<(u16, String, String)> {
        let fault = self.fault(asked);
        if matches!(fault, Some((Fault::Late, _))) {
            self.held(&fault).await;
        }
        let user = self.cluster.lock().unwrap().authenticate(asked.token.as_deref());
        if matches!(fault, Some((Fault::LetIn, _))) {
            self.held(&fault).await;
        }
        if let Some((Fault::Said(status, headers, body), _)) = fault {
            return Some((status, headers.to_owned(), body));
        }
        let Asked { method, target, body, .. } = asked;
        let (status, said): Said = match user {
            Ok(user) => self.cluster.lock().unwrap().serve(&user, method, target, body),
            Err(refused) => refused,
        };
        match &fault {
            Some((Fault::Lost, _)) => return None,
            Some((Fault::Lied(status, body), _)) => return Some((*status, String::new(), body.clone())),
            Some((Fault::Done, _)) => self.held(&fault).await,
            _ => {}
        }
        Some((status, String::new(), said.to_string()))
    }

    /// What is to happen to it, and how often was released before.
    fn fault(&self, asked: &Asked) -> Option<(Fault, usize)> {
        let line = format!("{} {}", asked.method, asked.target);
        let mut faults = self.faults.lock().unwrap();
        let at = faults.plants.iter().position(|plant| plant.times > 0 && line.starts_with(&plant.of))?;
        faults.plants[at].times -= 1;
        let found = (faults.plants[at].fault.clone(), faults.released);
        // One that is held has come as far as it is to come when it is.
        if !matches!(found.0, Fault::Late | Fault::LetIn | Fault::Done) {
            faults.struck += 1;
        }
        Some(found)
    }

    async fn held(&self, fault: &Option<(Fault, usize)>) {
        let before = fault.as_ref().unwrap().1;
        let mut news = self.news.subscribe();
        self.faults.lock().unwrap().struck += 1;
        self.news.send_replace(());
        while self.faults.lock().unwrap().released == before {
            news.changed().await.unwrap();
        }
    }
}

/// One request: its head, and as much of a body as it says.
async fn read<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Asked> {
    let mut all = Vec::new();
    loop {
        if let Some(end) = all.windows(4).position(|w| w == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&all[..end]).into_owned();
            let header = |name: &str| {
                head.lines().find_map(|line| line.split_once(": ").filter(|(n, _)| n.eq_ignore_ascii_case(name)))
            };
            let length: usize = header("content-length").map_or(0, |(_, v)| v.parse().unwrap());
            if all.len() >= end + 4 + length {
                let mut words = head.split(' ');
                return Some(Asked {
                    method: words.next()?.to_owned(),
                    target: words.next()?.to_owned(),
                    token: header("authorization").and_then(|(_, v)| v.strip_prefix("Bearer ")).map(str::to_owned),
                    body: all[end + 4..].to_vec(),
                });
            }
        }
        let mut buffer = [0; 8192];
        let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
        all.extend_from_slice(&buffer[..n]);
    }
}

/// The token of what was issued.
pub(crate) fn token(credential: &Credential) -> Option<String> {
    let fields = SecretFields::decode(&STANDARD.decode(&credential.password).ok()?)?;
    String::from_utf8(fields.get("token")?.expose().to_vec()).ok()
}

/// Makes a principal and says what was issued to it.
pub(crate) async fn lease(stub: &Stub, engine: &Kubernetes, name: &str) -> Credential {
    let mut credential = stub.credential();
    let create = order(stub, engine, name, &credential).await;
    let issued = engine.create(&create).await.unwrap().issued.unwrap();
    credential.password = STANDARD.encode(issued.encode().expose());
    credential
}

/// An application that asks with its token.
pub(crate) struct Bearer {
    cluster: Arc<Mutex<Cluster>>,
    token: String,
}

#[async_trait]
impl Login for Bearer {
    async fn alive(&mut self) -> bool {
        self.cluster.lock().unwrap().takes(&self.token)
    }
}

#[async_trait]
impl Target for Stub {
    async fn executor(&self) -> Arc<dyn Engine> {
        Arc::new(self.engine(1))
    }

    fn credential(&self) -> Credential {
        let mut random = [0u8; 16];
        getrandom::fill(&mut random).unwrap();
        let password: String = random.iter().map(|b| format!("{b:02x}")).collect();
        Credential { verifier: password.clone(), password }
    }

    fn group(&self) -> String {
        GROUP.to_owned()
    }

    fn unfit_group(&self) -> String {
        "serviceaccount:executor".to_owned()
    }

    async fn login(&self, name: &str, credential: &Credential) -> Option<Box<dyn Login>> {
        let token = token(credential)?;
        // As an application would, and as the engine tries it: both are of one mind.
        let takes = self.cluster().takes(&token);
        let tried = self.engine(1).try_out(name, &SecretVec::new(STANDARD.decode(&credential.password).unwrap())).await;
        assert_eq!(tried.is_ok(), takes, "{tried:?}");
        takes.then(|| Box::new(Bearer { cluster: Arc::clone(&self.cluster), token }) as Box<dyn Login>)
    }

    async fn hold_creates(&self) {
        self.plant(&format!("POST /api/v1/namespaces/{NAMESPACE}/secrets"), Fault::LetIn, usize::MAX);
    }

    async fn release(&self) {
        Stub::release(self);
    }
}

/// What an API server says when it has nothing to say.
pub(crate) fn empty() -> String {
    Value::Object(serde_json::Map::new()).to_string()
}

pub(crate) fn code(error: &EngineError) -> &str {
    match error {
        EngineError::Refused { code, .. } | EngineError::Busy { code, .. } => code,
        _ => "",
    }
}
