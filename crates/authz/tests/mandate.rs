//! What administrators decide by themselves, and what not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use quorate_authz::{Mandate, bearer_name, check_client_roots};
use quorate_crypto::identity::{SigningKey, Verified};
use quorate_crypto::secret::Secret;
use quorate_state::change::{Change, Kind};
use quorate_state::genesis::Administrators;
use quorate_state::ids::{ClusterId, RequestId};
use quorate_state::outcome::Refusal;
use quorate_state::request::{Request, SignedRequest};
use rcgen::{IsCa, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256};
use support::{NOW, ca_params, ed25519, issue, leaf_params, root, root_with};

fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&[seed; 32]).unwrap())
}

fn administrators() -> Administrators {
    Administrators { keys: (1..=3).map(|seed| key(seed).verify_key().0).collect(), needed: 2 }
}

fn request(change: Change, bearer: &SigningKey) -> Request {
    Request {
        cluster: ClusterId([1; 32]),
        id: RequestId([2; 16]),
        change,
        reply_to: None,
        expected_authority_version: None,
        not_after: NOW,
        principal: bearer_name(&bearer.verify_key().0),
        chain: vec![b"whatever".to_vec()],
    }
}

fn roots() -> Change {
    Change::SetClientRoots { certificates: vec![b"a CA".to_vec()] }
}

fn of(request: &Request, bearer: &SigningKey, signers: &[&SigningKey]) -> Result<Mandate, Refusal> {
    Mandate::of(&SignedRequest::sign(request, bearer, signers), request, &administrators(), &Verified::default())
}

#[test]
fn m_administrators_may_set_client_roots() {
    let made = of(&request(roots(), &key(1)), &key(1), &[&key(1), &key(3)]).unwrap();
    assert_eq!((made.kind(), made.bearer()), (Kind::SetClientRoots, bearer_name(&key(1).verify_key().0).as_str()));
}

#[test]
fn nobody_else_may_and_nothing_else() {
    let (first, second, stranger) = (key(1), key(2), key(9));
    let good = request(roots(), &first);
    let few = Refusal::NotByAdministrators { got: 1, needed: 2 };
    assert_eq!(of(&good, &first, &[&first]), Err(few), "the bearer's own signature does not count twice");
    assert_eq!(of(&good, &first, &[&first, &stranger]), Err(Refusal::BadSignature));
    assert_eq!(of(&good, &first, &[&first, &first]), Err(Refusal::BadSignature));
    assert_eq!(of(&request(roots(), &stranger), &stranger, &[&first, &second]), Err(Refusal::BadSignature));
    // Under the name of another administrator, or of a client.
    assert_eq!(of(&good, &second, &[&first, &second]), Err(Refusal::BadSignature));
    let posing = Request { principal: "spiffe://td/admin/first".to_owned(), ..good.clone() };
    assert_eq!(of(&posing, &first, &[&first, &second]), Err(Refusal::BadSignature));
    let altered = Request { not_after: NOW + 1, ..good.clone() };
    let mut signed = SignedRequest::sign(&good, &first, &[&first, &second]);
    signed.bytes = SignedRequest::sign(&altered, &first, &[]).bytes;
    assert_eq!(Mandate::of(&signed, &altered, &administrators(), &Verified::default()), Err(Refusal::BadSignature));
    for change in [
        Change::PutPolicy { name: "p".to_owned(), text: String::new() },
        Change::UnblockIdentity { principal: "spiffe://td/a".to_owned() },
        Change::CreateNamespace { namespace: "n".to_owned() },
    ] {
        assert_eq!(of(&request(change, &first), &first, &[&first, &second]), Err(Refusal::BadSignature));
    }
}

#[test]
fn roots_are_certificates_of_cas_that_have_not_ended() {
    let check = |der: Vec<u8>| check_client_roots(&[der], NOW).map_err(|why| why.to_string());
    for algorithm in [&PKCS_ED25519, &PKCS_ECDSA_P256_SHA256] {
        assert_eq!(check(root_with(algorithm).der().to_vec()), Ok(()));
    }
    let ca = |change: &dyn Fn(&mut rcgen::CertificateParams)| {
        let mut params = ca_params("client root");
        change(&mut params);
        params.self_signed(&ed25519()).unwrap().der().to_vec()
    };
    for (what, der) in [
        ("no certificate", vec![0x30, 0]),
        ("a caller's", issue(&root(), &leaf_params(&["spiffe://td/a"]))),
        ("of no CA", ca(&|p| p.is_ca = IsCa::NoCa)),
        ("a CA that may not sign certificates", ca(&|p| p.key_usages = vec![KeyUsagePurpose::CrlSign])),
        ("P-384", root_with(&PKCS_ECDSA_P384_SHA384).der().to_vec()),
        ("RSA", root_with(&PKCS_RSA_SHA256).der().to_vec()),
    ] {
        assert!(check(der).is_err_and(|why| why.contains("not the certificate of a CA")), "{what}");
    }
    let ended = ca(&|p| p.not_after = rcgen::date_time_ymd(2026, 6, 14));
    assert!(check(ended).is_err_and(|why| why.contains("ended")), "one that ended yesterday");
}
