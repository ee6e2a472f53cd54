//! Whatever can hold a secret prints without it; and whatever can hold one is in this test.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use quorate_api::client::{
    Administrators, Client, Credential, CustomerSource, Identity, Opened, Profile, Proof, Seams, System, TargetSpec,
};
use quorate_api::net::Tcp;
use quorate_api::tls::TlsIdentity;
use quorate_crypto::answer::AnswerKey;
use quorate_crypto::backup::backup;
use quorate_crypto::customer::{CustomerSecret, PartSuite};
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyfile::{PassphraseCost, Protection, open_file, seal_file};
use quorate_crypto::reshare::{Member, NewShare};
use quorate_crypto::sealed::Fresh;
use quorate_crypto::secret::{Secret, SecretFields, SecretVec};
use quorate_crypto::storage::StorageKey;
use quorate_crypto::threshold::{KeyShare, combine, partial};
use quorate_engines::{Endpoint, OwnSessions, Tls};
use quorate_state::ids::{ClusterId, LeaseId, SecretId, VersionId};
use quorate_tests::canary::{Canary, Found, Searcher};
use rand_core::UnwrapErr;
use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;
use std::time::Duration;

/// Public types with a field that can hold a secret. Those without `Debug` print nothing.
const HOLDERS: [(&str, bool); 36] = [
    ("Access", false),
    ("Administrators", true),
    ("AnswerKey", true),
    ("AwsConfig", true),
    ("BackupShare", true),
    ("Challenge", true),
    ("Client", true),
    ("Created", true),
    ("CustomerSecret", true),
    ("CustomerSource", true),
    // A target in memory, for tests: it prints its passwords as those below.
    ("Fake", true),
    ("Fragment", false),
    ("Fresh", true),
    ("Identity", true),
    ("KeyShare", true),
    ("Keystore", false),
    ("KubernetesConfig", true),
    ("MariaDbConfig", true),
    ("Member", true),
    ("NewShare", true),
    ("Opened", true),
    ("Passwords", true),
    // A token's.
    ("Pin", false),
    // With what it becomes part of, in `crates/engines/tests/canary.rs`.
    ("PostgresConfig", true),
    ("Proof", true),
    ("Protection", true),
    ("RabbitMqConfig", true),
    ("RedisConfig", true),
    ("Seams", false),
    ("SecretFields", true),
    ("SecretPoint", true),
    ("SecretVec", true),
    ("SigningKey", true),
    ("StorageKey", true),
    ("TlsIdentity", true),
    ("WebhookConfig", true),
];

/// What the body of such a type names.
const NAMES: [&str; 17] = [
    "Secret<",
    "SecretVec",
    "SecretFields",
    "Passwords",
    // PKCS#11's.
    "AuthPin",
    // Those tried, in it.
    "Mutex<Tried>",
    "SigningKey",
    "DalekKey",
    "KeyShare",
    "Zeroizing<",
    "CustomerSecret",
    "SecretKey",
    "XChaCha20Poly1305",
    "TlsIdentity",
    "CertifiedKey",
    // Of TLS: what a handle shows now.
    "Arc<Shown>",
    "dyn CryptoRng",
];

#[test]
fn every_type_that_holds_a_secret_is_known_here() {
    let mut found = BTreeSet::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().join("crates")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() && !path.ends_with("tests") {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") && path.components().any(|c| c.as_os_str() == "src") {
                let text = std::fs::read_to_string(&path).unwrap();
                found.extend(holders(&text));
            }
        }
    }
    let known: BTreeSet<String> = HOLDERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(found, known, "a public type with a secret in it is printed by the test below, or has no Debug");
}

/// The public types of a source whose body names one of [`NAMES`].
fn holders(source: &str) -> Vec<String> {
    let lines: Vec<&str> = source.lines().collect();
    let mut found = Vec::new();
    for (n, line) in lines.iter().enumerate() {
        let Some(rest) = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum ")) else { continue };
        let name: String = rest.chars().take_while(|c| c.is_alphanumeric()).collect();
        let end = lines[n..].iter().position(|l| l.ends_with(';') || *l == "}").unwrap_or(0);
        let body = lines[n..=n + end].join("\n")[line.find(&name).unwrap() + name.len()..].to_owned();
        // A field, not a comment.
        let body: String = body.lines().filter(|l| !l.trim_start().starts_with("//")).collect();
        if NAMES.iter().any(|named| body.contains(named)) {
            found.push(name);
        }
    }
    found
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// What is printed, and the secrets that must not be in it.
#[derive(Default)]
struct Printed {
    text: String,
    canaries: Vec<Canary>,
}

impl Printed {
    fn show(&mut self, value: &impl Debug) {
        self.text += &format!("{value:?}\n{value:#?}\n");
    }

    fn hide(&mut self, name: &str, secret: &[u8]) {
        self.canaries.push(Canary::new(name, secret));
    }

    /// The text without line breaks too: `{:#?}` gives each number of a list a line of its own.
    fn found(&self) -> Found {
        let flat = self.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let (searcher, mut found) = (Searcher::new(&self.canaries), Found::default());
        searcher.search("what is printed", self.text.as_bytes(), &mut found);
        searcher.search("what is printed, in one line", flat.as_bytes(), &mut found);
        found
    }
}

#[test]
fn the_test_sees_what_is_printed() {
    let secret = random::<32>();
    for shown in [format!("{secret:?}"), format!("{secret:#?}"), format!("{}", secret.escape_ascii())] {
        let mut printed = Printed { text: shown, ..Printed::default() };
        printed.hide("secret", &secret);
        assert!(!printed.found().hits.is_empty(), "it is found in {}", printed.text);
    }
}

fn key(printed: &mut Printed, name: &str) -> SigningKey {
    let seed = Secret::<32>::random(&mut UnwrapErr(getrandom::SysRng));
    printed.hide(name, seed.expose());
    SigningKey::from_seed(&seed)
}

fn caller(printed: &mut Printed) -> Identity {
    let key = key(printed, "a caller's key");
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend_from_slice(key.seed().expose());
    let pair = rcgen::KeyPair::try_from(der).unwrap();
    let mut params = rcgen::CertificateParams::default();
    params.subject_alt_names = vec![rcgen::SanType::URI("spiffe://x.test/app".try_into().unwrap())];
    Identity::new(vec![params.self_signed(&pair).unwrap().der().to_vec()], key).unwrap()
}

#[test]
fn nothing_that_holds_a_secret_prints_it() {
    let mut rng = UnwrapErr(getrandom::SysRng);
    let mut printed = Printed::default();
    // The types of `crypto`.
    let (bytes, passphrase) = (random::<32>(), random::<40>());
    printed.hide("secret bytes", &bytes);
    printed.hide("a passphrase", &passphrase);
    let secret = Secret::from_slice(&bytes).unwrap();
    let vec = SecretVec::new(passphrase.to_vec());
    printed.show(&(&secret, &vec, StorageKey::new(&secret)));
    let passwords = quorate_engines::Passwords::one(1, SecretVec::new(passphrase.to_vec()));
    passwords.learn(2, SecretVec::new(bytes.to_vec()));
    printed.show(&passwords);
    let known = || quorate_engines::Passwords::one(1, SecretVec::new(passphrase.to_vec()));
    let redis = quorate_engines::redis::RedisConfig {
        endpoint: Endpoint { host: "h".into(), port: 1 },
        user: "u".into(),
        passwords: known(),
        own: OwnSessions::default(),
        tls: Tls::Disabled,
        target: "t".into(),
        term: 1,
        end_scripts: true,
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(1),
    };
    printed.show(&redis);
    printed.show(&quorate_engines::redis::Redis::new(redis).unwrap());
    let rabbitmq = quorate_engines::rabbitmq::RabbitMqConfig {
        endpoint: Endpoint { host: "h".into(), port: 1 },
        user: "u".into(),
        passwords: known(),
        own: OwnSessions::default(),
        tls: Tls::Disabled,
        target: "t".into(),
        term: 1,
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(1),
    };
    printed.show(&rabbitmq);
    printed.show(&quorate_engines::rabbitmq::RabbitMq::new(rabbitmq).unwrap());
    let mariadb = quorate_engines::mariadb::MariaDbConfig {
        host: "h".into(),
        port: 1,
        user: "u".into(),
        passwords: known(),
        own: OwnSessions::default(),
        tls: Tls::Disabled,
        target: "t".into(),
        term: 1,
        require_tls: true,
        connect_timeout: Duration::from_secs(1),
        statement_timeout: Duration::from_secs(1),
    };
    printed.show(&mariadb);
    printed.show(&quorate_engines::mariadb::MariaDb::new(mariadb).unwrap());
    printed.show(&quorate_engines::aws::AwsConfig {
        sts: Endpoint { host: "h".into(), port: 1 },
        iam: Endpoint { host: "h".into(), port: 1 },
        region: "r".into(),
        user: "arn:aws:iam::123456789012:user/a".into(),
        passwords: known(),
        tls: Tls::Disabled,
        target: "t".into(),
        term: 1,
        propagation: Duration::from_secs(1),
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(1),
    });
    printed.show(&quorate_engines::kubernetes::KubernetesConfig {
        endpoint: Endpoint { host: "h".into(), port: 1 },
        namespace: "n".into(),
        user: "u".into(),
        passwords: known(),
        own: OwnSessions::default(),
        tls: Tls::Disabled,
        target: "t".into(),
        term: 1,
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(1),
        settling: Duration::from_secs(1),
    });
    printed.show(&quorate_engines::webhook::WebhookConfig {
        endpoint: Endpoint { host: "h".into(), port: 1 },
        path: vec![],
        passwords: known(),
        own: OwnSessions::default(),
        tls: Tls::Disabled,
        target: "t".into(),
        term: 1,
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(1),
    });
    printed.show(&(Protection::RawKey(&secret), Protection::Passphrase(&vec, PassphraseCost::default())));
    let sealed = seal_file("x", &bytes, &Protection::RawKey(&secret), &mut rng).unwrap();
    printed.show(&(
        open_file("y", &sealed, &Protection::RawKey(&secret)),
        open_file("x", &bytes, &Protection::RawKey(&secret)),
    ));
    let mut shares = Vec::new();
    for index in [1, 2] {
        let mut scalar = random::<32>();
        scalar[31] &= 0x0f;
        printed.hide("a share", &scalar);
        shares.push(KeyShare::new(index, &Secret::from_slice(&scalar).unwrap()).unwrap());
    }
    let r = shares[0].public_share();
    let partials: Vec<_> = shares.iter().map(|s| (s.index(), partial(s, &r).unwrap())).collect();
    let point = combine(&partials).unwrap();
    printed.hide("a point that opens", point.expose());
    printed.show(&(&shares, &point));
    let customer = CustomerSecret::generate(PartSuite::Hybrid, &mut rng);
    printed.hide("a fragment", customer.encode().expose());
    printed.show(&customer);
    let challenge = customer.public().challenge(&mut rng).unwrap();
    printed.hide("the answer to a challenge", challenge.x.expose());
    printed.show(&challenge);
    for share in backup(&customer, 2, 2, &mut rng).unwrap() {
        // Behind seven bytes, a version, two ids and three numbers.
        printed.hide("a share of a backup", &share.encode()[59..91]);
        printed.show(&share);
    }
    printed.show(&AnswerKey::from_seed(Secret::from_slice(&bytes).unwrap()));
    let fresh = Fresh::random(&mut rng);
    printed.hide("random input", fresh.keys.expose());
    printed.hide("random input of the proof", fresh.proof.expose());
    printed.show(&fresh);
    let identity = key(&mut printed, "a member's key");
    printed.show(&Member { index: 1, seed: &secret, key: &identity, old_share: Some(&secret) });
    printed.show(&(NewShare { index: 1, scalar: Secret::from_slice(&bytes).unwrap() }, &identity));

    // The types of `api`.
    let caller = caller(&mut printed);
    printed.show(&(TlsIdentity::self_signed(&identity, "n1").unwrap(), &caller));
    printed.show(&Administrators { keys: &[&identity], authority_version: 1 });
    let password = random::<32>();
    printed.hide("a password", &password);
    let fields = || SecretFields::new(vec![("token".into(), SecretVec::new(password.to_vec()))]).unwrap();
    for proof in [Proof::Password(Secret::from_slice(&password).unwrap()), Proof::Issued(fields())] {
        printed.show(&Credential {
            system: System::PostgreSql,
            lease: LeaseId([1; 16]),
            username: "login".into(),
            proof,
            host: "host".into(),
            port: 1,
            database: "db".into(),
            expires_at: 1,
            dies_at: None,
        });
    }
    printed.show(&(Proof::Issued(fields()), fields()));
    printed.show(&quorate_engines::Created { oid: 1, issued: Some(fields()) });
    printed.show(&Opened {
        plaintext: SecretVec::new(passphrase.to_vec()),
        secret: SecretId([1; 16]),
        version: VersionId([1; 16]),
        number: 1,
        newest: true,
        writer: "w".into(),
        created: 1,
    });
    printed.show(&TargetSpec {
        host: "h".into(),
        port: 1,
        database: "d".into(),
        user: "u".into(),
        ..TargetSpec::default()
    });
    let profile = Profile {
        cluster: ClusterId([1; 32]),
        threshold: 2,
        members: Vec::new(),
        keyrings: Vec::new(),
        customer_keys: Vec::new(),
        mounts: Vec::new(),
        via: None,
    };
    let source = CustomerSource::InProcess(customer);
    printed.show(&source);
    let seams = Seams {
        rng: Box::new(UnwrapErr(getrandom::SysRng)),
        clock: std::sync::Arc::new(|| 0),
        net: std::sync::Arc::new(Tcp),
    };
    printed.show(&Client::new(profile, caller, source, seams).unwrap());

    let found = printed.found();
    assert!(found.hits.is_empty(), "{found}; printed:\n{}", printed.text);
    assert_eq!(HOLDERS.iter().filter(|(_, prints)| *prints).count(), 31, "each of them is printed above");
}
