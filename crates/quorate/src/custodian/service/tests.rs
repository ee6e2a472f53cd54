//! A custodian behind real TLS on the loopback, asked with real certificates about really sealed versions.

use super::*;
use crate::connection::open_fragment;
use crate::custodian::{CustomerFolder, Keygen, PinSource};
use crate::failure::Told;
use crate::passphrase::Passphrases;
use quorate_api::client::{Custodian as CustodianClient, Identity, encode_part};
use quorate_api::custodian::custodian_client::CustodianClient as RawClient;
use quorate_api::tls::{CLIENT, connect};
use quorate_crypto::customer::derive_kc;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{Header, ObjectTemplate, WrapTemplate, seal};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::task::JoinHandle;

const DOMAIN: &str = "customer.example";
const CLUSTER: [u8; 32] = [7; 32];

struct Fixture {
    folder: tempfile::TempDir,
    customer: CustomerFolder,
}

/// A running custodian.
struct Running {
    address: String,
    key: [u8; 32],
    end: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("passphrase"), "a passphrase\n").unwrap();
        let customer = keygen(folder.path(), "customer");
        Self { folder, customer }
    }

    fn passphrases(&self) -> Passphrases {
        Passphrases::file(&self.folder.path().join("passphrase"))
    }

    fn config(&self) -> CustodianConfig {
        let text = format!(
            "listen = '127.0.0.1:0'\nfragment = 'fragment.key'\npassphrase_file = '../passphrase'\nserver = 'server.pem'\n\
             client_roots = ['customer-ca.pem']\ntrust_domain = '{DOMAIN}'\ncluster = '{}'\nstate_dir = 'state'\n\
             wardens = ['spiffe://{DOMAIN}/security']\n\
             [[allow]]\ncallers = ['spiffe://{DOMAIN}/app/demo']\nnamespace = 'default'\npaths = ['vault/demo/']\n",
            "07".repeat(32)
        );
        let path = self.customer.file("custodian.toml");
        std::fs::write(&path, text).unwrap();
        CustodianConfig::load(&path).unwrap()
    }

    async fn start(&self) -> Running {
        let config = self.config();
        let (_, key) = load_server_identity(&config.server).unwrap();
        let listener = TcpListener::bind(config.listen).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (end, ended) = oneshot::channel::<()>();
        let until = async { drop(ended.await) };
        let fragment = config.open_home(&PinSource::default()).unwrap();
        let task = tokio::spawn(serve_on(listener, config, fragment, Env::system(), until));
        Running { address, key: key.verify_key().0, end, task }
    }

    fn identity(&self, name: &str) -> Identity {
        issue(&self.customer, name, &self.passphrases())
    }

    fn public(&self) -> quorate_crypto::customer::CustomerPublic {
        self.customer.public().unwrap()
    }

    fn audit(&self) -> Vec<quorate_audit::Record> {
        let folder = self.customer.file("state").join("audit");
        quorate_audit::read(&folder).unwrap().map(Result::unwrap).collect()
    }
}

fn keygen(folder: &Path, name: &str) -> CustomerFolder {
    let keygen = Keygen { out: folder.join(name), suite: 1, trust_domain: DOMAIN.to_owned() };
    keygen.create(&Passphrases::file(&folder.join("passphrase")), &Env::system()).unwrap()
}

fn issue(customer: &CustomerFolder, name: &str, passphrases: &Passphrases) -> Identity {
    let (_, pem) = customer.issue(name, 3_600_000, passphrases, &Env::system()).unwrap();
    Identity::from_pem(pem.as_bytes()).unwrap()
}

impl Running {
    async fn stop(self) {
        drop(self.end);
        tokio::time::timeout(Duration::from_secs(10), self.task).await.unwrap().unwrap().unwrap();
    }

    fn client(&self, identity: &Identity) -> CustodianClient {
        CustodianClient::new(&self.address, self.key, identity.tls()).unwrap()
    }

    async fn ask(&self, identity: &Identity, items: Vec<DeriveItem>) -> Result<Vec<DerivedItem>, Failure> {
        let channel = connect(&self.address, self.key, identity.tls(), "custodian", CLIENT).unwrap();
        let request = DeriveRequest { request_id: vec![9; 16], items };
        let reply = RawClient::new(channel).derive(request).await;
        reply.map(|r| r.into_inner().items).map_err(Failure::from)
    }

    async fn one(&self, identity: &Identity, item: DeriveItem) -> Result<Vec<u8>, String> {
        let mut items = self.ask(identity, vec![item]).await.map_err(|f| f.code.to_owned())?;
        let item = items.pop().unwrap();
        if item.refusal.is_empty() { Ok(item.value) } else { Err(item.refusal) }
    }
}

/// A sealed version of class `customer`.
fn header(path: &str, customer: &quorate_crypto::customer::CustomerPublic) -> Header {
    let rng = &mut Env::system().rng();
    // The base point: somebody's keyring, of no interest to a custodian.
    let y = quorate_state::ids::parse_hex("e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76").unwrap();
    let keyring = KeyringPublic { class: KeyringClass::Customer, y };
    let object = ObjectTemplate {
        cluster: CLUSTER,
        secret_id: [1; 16],
        version_id: [2; 16],
        created: 3,
        writer_id: "w".to_owned(),
    };
    let wrap =
        WrapTemplate { namespace: "default".to_owned(), path: path.to_owned(), wrap_no: 0, wrapped_by: "w".to_owned() };
    let sealed = seal(b"value", &object, &wrap, &keyring, std::slice::from_ref(customer), rng).unwrap();
    Header::decode(&sealed.header).unwrap()
}

fn item(header: &Header) -> DeriveItem {
    let part = encode_part(&header.slot().parts[0]);
    DeriveItem { object_label: header.object_bytes(), wrap_label: header.wrap_bytes(), part }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_gets_what_a_rule_allows_and_nothing_else() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let (demo, other) = (fixture.identity("app/demo"), fixture.identity("app/other"));
    let allowed = header("vault/demo/db", &fixture.public());

    let secret = open_fragment(&fixture.customer.file("fragment.key"), &fixture.passphrases()).unwrap();
    let kc = |h: &Header| {
        derive_kc(&secret, &h.object_bytes(), &h.wrap_bytes(), &h.slot().parts[0]).unwrap().expose().to_vec()
    };
    assert_eq!(running.one(&demo, item(&allowed)).await, Ok(kc(&allowed)));

    assert_eq!(running.one(&other, item(&allowed)).await, Err("custodian_denied".to_owned()));
    let elsewhere = header("vault/other/db", &fixture.public());
    assert_eq!(running.one(&demo, item(&elsewhere)).await, Err("custodian_denied".to_owned()));

    // The part of a secret that is not allowed, under the label of one that is: another value, good for nothing.
    let relabelled = DeriveItem { part: item(&elsewhere).part, ..item(&allowed) };
    let value = running.one(&demo, relabelled).await.unwrap();
    assert!(value != kc(&elsewhere) && value != kc(&allowed));

    // Each item has its own answer, in order.
    let answers = running.ask(&demo, vec![item(&elsewhere), item(&allowed)]).await.unwrap();
    assert_eq!((answers[0].refusal.as_str(), answers[1].value.clone()), ("custodian_denied", kc(&allowed)));
    running.stop().await;

    let records = fixture.audit();
    let decided: Vec<_> = records.iter().map(|r| (r.principal.as_str(), r.reason.as_deref().unwrap())).collect();
    let (demo, other) = (demo.principal(), other.principal());
    assert_eq!(
        decided,
        [
            (demo, "rule"),
            (other, "custodian_denied"),
            (demo, "custodian_denied"),
            (demo, "rule"),
            (demo, "custodian_denied"),
            (demo, "rule")
        ]
    );
    assert!(records.iter().all(|r| r.id == "09".repeat(16) && r.resource.starts_with("secret default:vault/")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_of_other_keys_and_malformed_items_are_refused() {
    let fixture = Fixture::new();
    let other = keygen(fixture.folder.path(), "other");
    let running = fixture.start().await;
    let demo = fixture.identity("app/demo");
    let good = item(&header("vault/demo/db", &fixture.public()));
    let foreign = item(&header("vault/demo/db", &other.public().unwrap()));
    assert_eq!(running.one(&demo, foreign).await, Err("custodian_other_key".to_owned()));
    for bad in [
        DeriveItem { object_label: good.object_label[1..].to_vec(), ..good.clone() },
        DeriveItem { wrap_label: [good.wrap_label.as_slice(), &[0]].concat(), ..good.clone() },
        DeriveItem { part: good.part[..40].to_vec(), ..good.clone() },
    ] {
        assert_eq!(running.one(&demo, bad).await, Err("invalid_argument".to_owned()));
    }
    // A point off the curve: seen by the derivation itself.
    let mut off = good.clone();
    off.part[60] ^= 1;
    assert_eq!(running.one(&demo, off).await, Err("custodian_other_key".to_owned()));
    assert_eq!(running.ask(&demo, Vec::new()).await.unwrap_err().code, "invalid_argument");
    assert_eq!(running.ask(&demo, vec![good.clone(); 257]).await.unwrap_err().code, "invalid_argument");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_of_another_ca_do_not_even_connect() {
    let fixture = Fixture::new();
    let other = keygen(fixture.folder.path(), "other");
    let running = fixture.start().await;
    // The same name, the same trust domain, another CA: such as the cluster's.
    let stranger = issue(&other, "app/demo", &fixture.passphrases());
    let good = item(&header("vault/demo/db", &fixture.public()));
    // In TLS 1.3 a client learns of it only after its side of the handshake: no code says more than that nothing came back.
    let refused = running.one(&stranger, good).await.unwrap_err();
    assert!(["unreachable", "unknown"].contains(&refused.as_str()), "{refused}");
    // And a caller does not talk to a server with another key.
    let demo = fixture.identity("app/demo");
    let wrong = CustodianClient::new(&running.address, [3; 32], demo.tls()).unwrap();
    assert_eq!(wrong.status().await.unwrap_err().code, "unreachable");
    running.stop().await;
    assert!(fixture.audit().is_empty(), "nobody got as far as a decision");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_ends_every_use_and_survives_a_restart() {
    let fixture = Fixture::new();
    let running = fixture.start().await;
    let (demo, warden) = (fixture.identity("app/demo"), fixture.identity("security"));
    let good = item(&header("vault/demo/db", &fixture.public()));
    assert!(running.one(&demo, good.clone()).await.is_ok());

    for refused in [
        running.client(&demo).freeze("x").await,
        running.client(&demo).thaw().await,
        running.client(&demo).status().await,
    ] {
        assert_eq!(refused.unwrap_err().code, "custodian_denied", "callers are no wardens");
    }
    let status = running.client(&warden).status().await.unwrap();
    assert!(!status.frozen && status.home == "file" && status.tokens.is_empty());
    let status = running.client(&warden).freeze("a laptop was stolen").await.unwrap();
    assert!(status.frozen && status.frozen_at > 0 && status.frozen_reason == "a laptop was stolen");
    assert_eq!(running.one(&demo, good.clone()).await, Err("custodian_frozen".to_owned()));
    running.stop().await;

    let running = fixture.start().await;
    assert_eq!(running.one(&demo, good.clone()).await, Err("custodian_frozen".to_owned()));
    assert!(!running.client(&warden).thaw().await.unwrap().frozen);
    assert!(running.one(&demo, good.clone()).await.is_ok());
    running.stop().await;

    let running = fixture.start().await;
    assert!(running.one(&demo, good).await.is_ok(), "a thaw survives as well");
    running.stop().await;
    let acts: Vec<_> = fixture.audit().into_iter().map(|r| r.operation).filter(|o| o != "custodian.derive").collect();
    assert_eq!(acts, ["custodian.freeze", "custodian.thaw"]);
}

#[tokio::test]
async fn a_wrong_passphrase_is_said_so() {
    let fixture = Fixture::new();
    let config = fixture.config();
    let wrong: PathBuf = fixture.folder.path().join("wrong");
    std::fs::write(&wrong, "another\n").unwrap();
    let config = CustodianConfig { passphrase_file: Some(wrong), ..config };
    let told = Told::of(&config.open_home(&PinSource::default()).err().unwrap()).text();
    assert!(told.starts_with("error[wrong_passphrase]:") && told.contains("fragment.key"), "{told}");
}
