//! `cluster.toml` and identity files: what is read, and what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use base64::Engine as _;
use quorate_api::client::{
    Identity, IdentityError, Member, PinnedMount, Profile, ProfileError, certificates, ed25519_from_pkcs8,
};
use quorate_crypto::customer::{CustomerSecret, PartSuite};
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_state::ids::{ClusterId, hex};
use std::os::unix::fs::PermissionsExt as _;
use support::{ca, certificate, key, pkcs8};

fn profile() -> Profile {
    let member = |index: u8| Member {
        index,
        name: format!("node-{index}"),
        key: [index; 32],
        api_address: format!("127.0.0.1:900{index}"),
    };
    let ring = KeyringPublic { class: KeyringClass::Customer, y: [0xab; 32] };
    let customer = CustomerSecret::generate(PartSuite::Hybrid, &mut support::cluster::rng()).public().clone();
    Profile {
        cluster: ClusterId([0xc1; 32]),
        threshold: 2,
        members: (1..=3).map(member).collect(),
        keyrings: vec![ring],
        mounts: vec![PinnedMount {
            namespace: "team".into(),
            mount: "db".into(),
            keyring: hex(&ring.id()),
            customer_keys: vec![hex(&customer.id())],
        }],
        customer_keys: vec![customer],
        via: None,
    }
}

#[test]
fn a_profile_reads_back() {
    let mut profile = profile();
    let text = profile.to_toml();
    assert_eq!(Profile::parse(&text).unwrap(), profile);
    profile.via = Some("node-2".into());
    assert_eq!(Profile::parse(&profile.to_toml()).unwrap(), profile);
    assert!(text.contains("threshold = 2") && text.contains("class = \"customer\""), "{text}");
}

#[test]
fn profiles_that_break_a_rule_are_refused() {
    let text = profile().to_toml();
    let ring_id = hex(&profile().keyrings[0].id());
    let cases = [
        (text.replace("threshold = 2", "threshold = 2\nlimit = 1"), "limit"),
        (text.replace("threshold = 2", "threshold = 1"), "threshold"),
        (text.replace("threshold = 2", "threshold = 2\nvia = \"node-4\""), "via"),
        (text.replace("threshold = 2", "threshold = 4"), "threshold"),
        (text.replace(&"c1".repeat(32), "c1"), "cluster"),
        (text.replace("index = 2", "index = 1"), "index and key"),
        (text.replace("index = 2", "index = 0"), "index and key"),
        (text.replace(&"02".repeat(32), &"01".repeat(32)), "index and key"),
        (text.replace(&"02".repeat(32), &"zz".repeat(32)), "members.node-2.key"),
        (text.replace(&"ab".repeat(32), &"ac".repeat(32)), "the id is not that of y"),
        (text.replacen(&format!("id = \"{ring_id}\""), &format!("id = \"{}\"", "00".repeat(32)), 1), "the id is not"),
        (text.replace("public = \"A", "public = \"B"), "public is no customer key"),
        (text.replace("public = \"", "public = \"!"), "base64"),
        (text.replace("class = \"customer\"", "class = \"both\""), "class"),
    ];
    for (bad, says) in cases {
        assert_ne!(bad, text, "{says}: the case changes nothing");
        let why = Profile::parse(&bad).unwrap_err();
        assert!(why.to_string().contains(says), "{why} instead of {says}");
        assert!(matches!(why, ProfileError::Toml(_) | ProfileError::Invalid { .. }));
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    let body = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = body.as_bytes().chunks(64).map(|l| std::str::from_utf8(l).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// Version 2 of PKCS#8, as RFC 5958 has it.
fn pkcs8_v2(of: u8, public: u8) -> Vec<u8> {
    let mut der = pkcs8(&key(of));
    der[1] += 35;
    der[4] = 1;
    der.extend([0x81, 0x21, 0]);
    der.extend(key(public).verify_key().0);
    der
}

#[test]
fn an_identity_is_one_file() {
    let ca = ca("clients");
    let leaf = certificate(&ca, &key(9), "spiffe://example.org/app");
    for der in [pkcs8(&key(9)), pkcs8_v2(9, 9)] {
        let text = [pem("PRIVATE KEY", &der), pem("CERTIFICATE", &leaf), pem("CERTIFICATE", &ca.der)].concat();
        let identity = Identity::from_pem(text.as_bytes()).unwrap();
        assert_eq!(identity.principal(), "spiffe://example.org/app");
        assert_eq!(identity.chain(), [leaf.clone(), ca.der.clone()]);
        assert_eq!(identity.key().verify_key(), key(9).verify_key());
        assert_eq!(certificates(text.as_bytes()).unwrap().len(), 2);
    }
    let from = |parts: &[String]| Identity::from_pem(parts.concat().as_bytes()).unwrap_err();
    let (cert, private) = (pem("CERTIFICATE", &leaf), pem("PRIVATE KEY", &pkcs8(&key(9))));
    assert!(matches!(from(std::slice::from_ref(&cert)), IdentityError::Keys(0)));
    assert!(matches!(from(&[cert.clone(), private.clone(), private.clone()]), IdentityError::Keys(2)));
    assert!(matches!(from(std::slice::from_ref(&private)), IdentityError::Tls(_)));
    assert!(matches!(from(&[cert.clone(), pem("PRIVATE KEY", &pkcs8(&key(8)))]), IdentityError::Tls(_)), "another key");
    assert!(matches!(from(&[cert.clone(), pem("EC PRIVATE KEY", &pkcs8(&key(9)))]), IdentityError::Key));
    assert!(matches!(from(&[cert, "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n".into()]), IdentityError::Pem));
    let nameless = certificate(&ca, &key(9), "https://example.org");
    assert!(matches!(from(&[pem("CERTIFICATE", &nameless), private]), IdentityError::Principal));
}

/// Damage is refused, or shows at the first handshake: nobody becomes somebody else by it.
#[test]
fn an_identity_with_a_changed_byte_is_refused_or_the_same_key() {
    let ca = ca("clients");
    let leaf = certificate(&ca, &key(9), "spiffe://example.org/app");
    let text = [pem("PRIVATE KEY", &pkcs8(&key(9))), pem("CERTIFICATE", &leaf)].concat();
    let mut refused = 0;
    for at in 0..text.len() {
        let mut changed = text.as_bytes().to_vec();
        changed[at] ^= 1 << (at % 8);
        match Identity::from_pem(&changed) {
            Ok(identity) => {
                assert_eq!(identity.key().verify_key(), key(9).verify_key(), "byte {at}");
                // What its CA has signed is another text.
                let altered = identity.principal() != "spiffe://example.org/app";
                assert!(!altered || identity.chain()[0] != leaf, "byte {at}");
            }
            Err(_) => refused += 1,
        }
    }
    assert!(refused > text.len() / 4, "{refused} of {} refused", text.len());
}

#[test]
fn other_private_keys_are_refused() {
    let good = pkcs8(&key(9));
    assert!(ed25519_from_pkcs8(&good).is_some());
    for at in 0..16 {
        let mut bad = good.clone();
        bad[at] ^= 1;
        assert!(ed25519_from_pkcs8(&bad).is_none(), "byte {at}");
    }
    assert!(ed25519_from_pkcs8(&good[..47]).is_none());
    assert!(ed25519_from_pkcs8(&[good.clone(), vec![0]].concat()).is_none());
    assert!(ed25519_from_pkcs8(&pkcs8_v2(9, 8)).is_none(), "the public key of another");
    assert!(ed25519_from_pkcs8(&[]).is_none());
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("app.pem");
    let leaf = certificate(&ca("clients"), &key(9), "spiffe://example.org/app");
    std::fs::write(&path, [pem("CERTIFICATE", &leaf), pem("PRIVATE KEY", &pkcs8(&key(9)))].concat()).unwrap();
    for mode in [0o644, 0o640, 0o604, 0o620] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let why = Identity::load(&path).unwrap_err();
        assert!(why.to_string().contains("chmod 600") && why.to_string().contains(&format!("{mode:o}")), "{why}");
    }
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(Identity::load(&path).unwrap().principal(), "spiffe://example.org/app");
    assert!(matches!(Identity::load(&dir.path().join("none")), Err(IdentityError::File { .. })));
}
