//! The program with a fragment in SoftHSM, and with one that is backed up: real processes, a real PKCS#11 module, real TLS.
#![cfg(feature = "pkcs11")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use quorate_api::client::{Identity, encode_part};
use quorate_api::custodian::custodian_client::CustodianClient;
use quorate_api::custodian::{DeriveItem, DeriveRequest};
use quorate_api::status::Failure;
use quorate_api::tls::{CLIENT, connect};
use quorate_crypto::customer::CustomerPublic;
use quorate_crypto::sealed::{ObjectLabel, WrapLabel};
use quorate_server::env::Env;
use quorate_state::ids::parse_hex;
use serde_json::Value;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const MODULE: &str = "/usr/lib/softhsm/libsofthsm2.so";
const PIN: &str = "24681357";

/// A folder with tokens, a customer and passphrases.
struct Lab {
    folder: tempfile::TempDir,
}

impl Lab {
    fn new() -> Self {
        let lab = Self { folder: tempfile::tempdir().unwrap() };
        std::fs::create_dir(lab.at("tokens")).unwrap();
        let text = format!("directories.tokendir = {}\nobjectstore.backend = file\n", lab.at("tokens").display());
        std::fs::write(lab.at("softhsm2.conf"), text).unwrap();
        std::fs::write(lab.at("passphrase"), "a passphrase\n").unwrap();
        lab
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.at(name).display().to_string()
    }

    fn command(&self, program: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("SOFTHSM2_CONF", self.at("softhsm2.conf")).env("CREDENTIALS_DIRECTORY", self.at("credentials"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs something to its end, with the PIN on descriptor 0.
    fn run(&self, program: &str, arguments: &[&str]) -> Output {
        let started = self.command(program, arguments).spawn();
        let mut child =
            started.unwrap_or_else(|why| panic!("{program}: {why}; `make setup` installs softhsm2 and opensc"));
        // It may end without reading.
        let _ = child.stdin.take().unwrap().write_all(format!("{PIN}\n").as_bytes());
        child.wait_with_output().unwrap()
    }

    /// Runs the program under test.
    fn quorate(&self, arguments: &[&str]) -> Output {
        let common = ["--passphrase-file", "passphrase", "--output", "json"];
        self.run(env!("CARGO_BIN_EXE_quorate"), &[arguments, &common[..]].concat())
    }

    fn done(&self, arguments: &[&str]) -> Value {
        let output = self.quorate(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// Exit status and code of something that is refused.
    fn refused(&self, arguments: &[&str]) -> (i32, String) {
        let output = self.quorate(arguments);
        assert!(!output.status.success(), "{arguments:?} was done");
        // A custodian logs before it ends.
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        let told = told.find("{\n").map_or("", |at| &told[at..]).to_owned();
        let error: Value = serde_json::from_str(&told).unwrap_or_else(|_| panic!("{}", said(&output)));
        assert!(!error["error"]["hint"].as_str().unwrap().is_empty(), "{error} says what to do next");
        (output.status.code().unwrap(), error["error"]["code"].as_str().unwrap().to_owned())
    }

    fn token(&self) -> PathBuf {
        let made = self
            .run("softhsm2-util", &["--init-token", "--free", "--label", "one", "--so-pin", "12345678", "--pin", PIN]);
        assert!(made.status.success(), "{}", said(&made));
        std::fs::read_dir(self.at("tokens")).unwrap().next().unwrap().unwrap().path()
    }

    fn configure(&self, home: &str) -> u16 {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let text = format!(
            "listen = '127.0.0.1:{port}'\nserver = 'server.pem'\nclient_roots = ['customer-ca.pem']\n\
             trust_domain = 'customer.example'\ncluster = '{}'\nstate_dir = 'state'\n\
             wardens = ['spiffe://customer.example/security']\n{home}\n\
             [[allow]]\ncallers = ['spiffe://customer.example/app/demo']\nnamespace = 'default'\n\
             paths = ['vault/demo/']\n",
            "07".repeat(32)
        );
        std::fs::write(self.at("customer/custodian.toml"), text).unwrap();
        port
    }

    fn identity(&self, name: &str, file: &str) -> Identity {
        self.done(&["custodian", "caller", "--customer", "customer", "--name", name, "--out", file]);
        Identity::from_pem(&std::fs::read(self.at(file)).unwrap()).unwrap()
    }
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// A custodian, ended when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

const RUN: [&str; 4] = ["custodian", "run", "--config", "customer/custodian.toml"];

impl Running {
    fn start(lab: &Lab) -> Self {
        let log = std::fs::File::create(lab.at("log")).unwrap();
        let mut command = lab.command(env!("CARGO_BIN_EXE_quorate"), &RUN);
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap())
    }
}

/// One value, right or refused by its code.
async fn derive(address: &str, key: [u8; 32], caller: &Identity, public: &CustomerPublic) -> Result<bool, String> {
    let object = ObjectLabel {
        payload_suite: 1,
        cluster: [7; 32],
        secret_id: [1; 16],
        version_id: [2; 16],
        created: 3,
        writer_id: "w".to_owned(),
        padded_len: 64,
    };
    let wrap = WrapLabel {
        wrap_suite: 1,
        keyring_id: [4; 32],
        namespace: "default".to_owned(),
        path: "vault/demo/db".to_owned(),
        wrap_no: 0,
        wrapped_by: "w".to_owned(),
    };
    let (object_label, wrap_label) = (object.encode(), wrap.encode());
    let (part, kc) = public.test_seal(&object_label, &wrap_label, &mut Env::system().rng()).unwrap();
    let items = vec![DeriveItem { object_label, wrap_label, part: encode_part(&part) }];
    let channel = connect(address, key, caller.tls(), "custodian", CLIENT).unwrap();
    let reply = CustodianClient::new(channel).derive(DeriveRequest { request_id: vec![9; 16], items }).await;
    let item = reply.map_err(|status| Failure::from(status).code.to_owned())?.into_inner().items.pop().unwrap();
    if item.refusal.is_empty() { Ok(item.value == kc.expose()) } else { Err(item.refusal) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_custodian_with_its_key_in_an_hsm() {
    let lab = Lab::new();
    let folder = lab.token();
    let create = [
        "custodian",
        "key",
        "create",
        "--pkcs11",
        MODULE,
        "--token",
        "one",
        "--out",
        "customer",
        "--trust-domain",
        "customer.example",
        "--pin-fd",
        "0",
    ];
    let made = lab.done(&create);
    assert!(!lab.at("customer/fragment.key").exists() && lab.at("customer/fragment.kem").exists());
    let listed = lab.run(
        "pkcs11-tool",
        &["--module", MODULE, "--token-label", "one", "--login", "--pin", PIN, "--list-objects", "--type", "privkey"],
    );
    assert!(said(&listed).contains("sensitive, always sensitive, never extractable, local"), "{}", said(&listed));
    let other: Vec<&str> = create.iter().map(|a| if *a == "customer" { "other" } else { a }).collect();
    assert_eq!(lab.refused(&other).1, "exists", "a key is not made over another one");

    let port = lab.configure(&format!(
        "[pkcs11]\nmodule = '{MODULE}'\ntokens = ['one']\nkey = 'quorate-customer'\n\
         public = 'fragment.toml'\nkem = 'fragment.kem'\n\
         pin_credential = 'pin'\n"
    ));
    std::fs::create_dir(lab.at("credentials")).unwrap();
    std::fs::write(lab.at("credentials/pin"), format!("{PIN}\n")).unwrap();
    let doctor = ["custodian", "doctor", "--config", "customer/custodian.toml"];
    let found = lab.done(&doctor);
    assert!(found["well"] == true && found["tokens"][0]["never_extractable"] == true, "{found}");

    let (demo, _warden) = (lab.identity("app/demo", "demo.pem"), lab.identity("security", "warden.pem"));
    let key: [u8; 32] = parse_hex(made["custodian_key"].as_str().unwrap()).unwrap();
    let public = std::fs::read_to_string(lab.at("customer/fragment.toml")).unwrap();
    let public = public.lines().find_map(|line| line.strip_prefix("public = ")).unwrap().trim_matches('"').to_owned();
    let public =
        CustomerPublic::decode(&base64::Engine::decode(&base64::engine::general_purpose::STANDARD, public).unwrap());
    let public = public.unwrap();
    let address = format!("127.0.0.1:{port}");
    let custodian = ["--custodian", &address, "--custodian-key", made["custodian_key"].as_str().unwrap()];
    let status =
        || lab.done(&[&["custodian", "status", "--custodian-identity", "warden.pem"][..], &custodian[..]].concat());

    let running = Running::start(&lab);
    until(&lab, "it gives values", Ok(true), || derive(&address, key, &demo, &public)).await;
    let seen = status();
    assert!(seen["home"] == "tokens" && seen["tokens"][0]["ready"].as_u64().unwrap() > 0, "{seen}");

    // Unplugged, and plugged in again.
    let away = lab.at("away");
    std::fs::rename(&folder, &away).unwrap();
    let gone = Err("custodian_unavailable".to_owned());
    until(&lab, "its token is gone", gone, || derive(&address, key, &demo, &public)).await;
    let seen = status();
    assert!(seen["tokens"][0]["ready"] == 0 && !seen["tokens"][0]["code"].as_str().unwrap().is_empty(), "{seen}");
    std::fs::rename(&away, &folder).unwrap();
    until(&lab, "its token is back", Ok(true), || derive(&address, key, &demo, &public)).await;

    // A freeze is the custodian's, whatever holds the key.
    let freeze = |what: &'static str| {
        lab.done(&[&["custodian", what, "--custodian-identity", "warden.pem"][..], &custodian[..]].concat())
    };
    assert_eq!(freeze("freeze")["frozen"], true);
    assert_eq!(derive(&address, key, &demo, &public).await, Err("custodian_frozen".to_owned()));
    assert_eq!(freeze("thaw")["frozen"], false);
    assert_eq!(derive(&address, key, &demo, &public).await, Ok(true));
    drop(running);
    let log = std::fs::read_to_string(lab.at("log")).unwrap();
    assert!(log.contains("token_") && !log.contains(PIN), "the log has what was wrong, and no PIN: {log}");

    // A wrong PIN, as a service manager would give it: one try, and an end that is not started again.
    std::fs::write(lab.at("credentials/pin"), "11112222\n").unwrap();
    assert_eq!(lab.refused(&RUN), (77, "pin_wrong".to_owned()));
    assert_eq!(lab.refused(&RUN), (77, "pin_doubtful".to_owned()));
    assert_eq!(lab.refused(&doctor), (77, "pin_doubtful".to_owned()));
    std::fs::remove_file(lab.at("credentials/pin")).unwrap();
    assert_eq!(lab.quorate(&RUN).status.code(), Some(1), "a credential that is not there");
}

/// Waits until a question has this answer.
async fn until<F: Future<Output = Result<bool, String>>>(
    lab: &Lab,
    what: &str,
    wanted: Result<bool, String>,
    ask: impl Fn() -> F,
) {
    let end = Instant::now() + Duration::from_secs(60);
    loop {
        let now = ask().await;
        assert_ne!(now, Ok(false), "a wrong value");
        if now == wanted {
            return;
        }
        let log = std::fs::read_to_string(lab.at("log")).unwrap_or_default();
        assert!(Instant::now() < end, "{what}: {now:?}; its log:\n{log}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn a_lost_key_file_comes_back_from_its_shares() {
    let lab = Lab::new();
    let keygen = |out: &str| lab.done(&["custodian", "keygen", "--out", out, "--trust-domain", "customer.example"]);
    let id = keygen("customer")["customer_key_id"].clone();
    keygen("other");
    let backup = |customer: &str, out: &str| {
        lab.done(&[
            "custodian",
            "key",
            "backup",
            "--customer",
            customer,
            "--shares",
            "5",
            "--threshold",
            "3",
            "--out",
            out,
        ])
    };
    let made = backup("customer", "shares");
    assert!(made["customer_key_id"] == id && made["shares"].as_array().unwrap().len() == 5, "{made}");
    backup("customer", "again");
    backup("other", "others");
    let share = |folder: &str, n: u8| lab.text(&format!("{folder}/share-{n}-of-5.key"));
    for n in 1..=5 {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(std::fs::metadata(share("shares", n)).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let restore = |shares: &[String]| -> Vec<String> {
        let named = shares.iter().flat_map(|share| ["--share".to_owned(), share.clone()]);
        ["custodian", "key", "restore", "--out", "customer/fragment.key"]
            .map(str::to_owned)
            .into_iter()
            .chain(named)
            .collect()
    };
    let strings = |all: &[String]| -> Vec<String> { all.to_vec() };
    let refused = |shares: &[String]| {
        let arguments = restore(shares);
        lab.refused(&arguments.iter().map(String::as_str).collect::<Vec<_>>()).1
    };

    // The drill: the host is lost, and three people come together.
    std::fs::rename(lab.at("customer/fragment.key"), lab.at("lost.key")).unwrap();
    let (one, three, five) = (share("shares", 1), share("shares", 3), share("shares", 5));
    assert_eq!(refused(&[one.clone(), three.clone()]), "shares_too_few");
    assert_eq!(refused(&[one.clone(), three.clone(), three.clone()]), "shares_mixed");
    assert_eq!(refused(&[one.clone(), three.clone(), share("again", 5)]), "shares_mixed");
    assert_eq!(refused(&[one.clone(), three.clone(), share("others", 5)]), "shares_mixed");
    assert_eq!(refused(&[one.clone(), three.clone(), lab.text("lost.key")]), "wrong_key_file");
    let damaged = share("shares", 2);
    let mut bytes = std::fs::read(&damaged).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&damaged, bytes).unwrap();
    assert_eq!(refused(&[one.clone(), three.clone(), damaged]), "share_damaged");
    assert!(!lab.at("customer/fragment.key").exists(), "nothing was restored of those");

    let arguments = restore(&strings(&[five, one, three]));
    let restored = lab.done(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(restored["customer_key_id"], id);
    lab.configure("fragment = 'fragment.key'\npassphrase_file = '../passphrase'\n");
    let found = lab.done(&["custodian", "doctor", "--config", "customer/custodian.toml"]);
    assert!(found["home"] == "file" && found["customer_key_id"] == id, "{found}");
    assert_eq!(
        refused(&[share("shares", 1), share("shares", 3), share("shares", 4)]),
        "exists",
        "no file is written over"
    );
}

#[test]
fn a_share_is_refused_where_k_of_m_is_none() {
    let lab = Lab::new();
    lab.done(&["custodian", "keygen", "--out", "customer", "--trust-domain", "customer.example"]);
    let backup =
        ["custodian", "key", "backup", "--customer", "customer", "--shares", "2", "--threshold", "3", "--out", "s"];
    assert_eq!(lab.refused(&backup).1, "backup_bounds");
    assert!(!Path::new(&lab.at("s")).exists());
    let one = backup.map(|a| if a == "3" { "1" } else { a });
    assert_eq!(lab.quorate(&one).status.code(), Some(2), "one share that is enough is a copy");
}
