//! Chains that make a principal, and the ways in which others do not.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use quorate_authz::AuthenticationError as E;
use quorate_authz::identity::{MAX_CERTIFICATE, MAX_CHAIN};
use quorate_authz::spiffe::BadSpiffeId;
use quorate_authz::{Principal, VerifiedChains, authenticate, root_begin, root_end, told_ahead};
use quorate_state::genesis::ClientRoots;
use quorate_state::ids::Millis;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, KeyPair,
    KeyUsagePurpose, NameConstraints, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
    PublicKeyData, SanType, SignatureAlgorithm, date_time_ymd,
};
use support::{Ca, NOW, ca_params, ed25519, issue, leaf_params, root, root_with, roots};

const ALICE: &str = "spiffe://td/app/alice";

/// 2026-06-01 and 2026-07-01, both at 00:00:00Z.
const BEGIN: Millis = 1_780_272_000_000;
const END: Millis = 1_782_864_000_000;

/// What becomes of a caller whose certificate was changed in one respect.
fn with(change: impl FnOnce(&mut CertificateParams)) -> Result<Principal, E> {
    let ca = root();
    let mut params = leaf_params(&[ALICE]);
    change(&mut params);
    authenticate(&[issue(&ca, &params)], &roots(&ca), NOW)
}

fn with_uris(uris: &[&str]) -> Result<Principal, E> {
    with(|p| p.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect())
}

fn intermediate(ca: &Ca, change: impl FnOnce(&mut CertificateParams)) -> Ca {
    let mut params = ca_params("client intermediate");
    change(&mut params);
    CertifiedIssuer::signed_by(params, KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap(), ca).unwrap()
}

fn via(intermediate: &Ca) -> Vec<Vec<u8>> {
    vec![issue(intermediate, &leaf_params(&[ALICE])), intermediate.der().to_vec()]
}

#[test]
fn a_good_certificate_is_its_principal() {
    for algorithm in [&PKCS_ECDSA_P256_SHA256, &PKCS_ED25519] {
        let ca = root_with(algorithm);
        let key = ed25519();
        let leaf = leaf_params(&[ALICE]).signed_by(&key, &ca).unwrap().der().to_vec();
        let principal = authenticate(&[leaf], &roots(&ca), NOW).unwrap();
        assert_eq!(principal.id().as_str(), ALICE);
        assert_eq!(principal.key(), key.der_bytes());
        assert_eq!(principal.not_after(), END + 999);
    }
}

#[test]
fn other_names_beside_the_id_do_not_matter() {
    let principal = with(|p| p.subject_alt_names.push(SanType::DnsName("alice.example".try_into().unwrap())));
    assert_eq!(principal.unwrap().id().as_str(), ALICE);
}

#[test]
fn an_intermediate_bounds_the_time() {
    let ca = root();
    let middle = intermediate(&ca, |p| p.not_after = date_time_ymd(2026, 6, 20));
    let principal = authenticate(&via(&middle), &roots(&ca), NOW).unwrap();
    assert_eq!(principal.not_after(), BEGIN + 19 * 86_400_000 + 999);
    assert_eq!(authenticate(&via(&middle)[..1], &roots(&ca), NOW), Err(E::UnknownIssuer));
    let late = END - 1_000;
    assert_eq!(authenticate(&via(&middle), &roots(&ca), late), Err(E::Expired { not_after: BEGIN + 19 * 86_400_000 }));
}

#[test]
fn valid_from_the_first_to_the_last_second() {
    let ca = root();
    let chain = [issue(&ca, &leaf_params(&[ALICE]))];
    let at = |now| authenticate(&chain, &roots(&ca), now).map(|p| p.not_after());
    assert_eq!(at(BEGIN - 1), Err(E::NotYetValid { not_before: BEGIN }));
    assert_eq!(at(BEGIN), Ok(END + 999));
    assert_eq!(at(END + 999), Ok(END + 999));
    assert_eq!(at(END + 1_000), Err(E::Expired { not_after: END }));
    assert_eq!(at(Millis::MAX), Err(E::Expired { not_after: END }));
    assert_eq!(at(0), Err(E::NotYetValid { not_before: BEGIN }));
}

#[test]
fn what_is_known_of_a_chain_is_what_verifying_it_again_would_say() {
    let (ca, other) = (root(), root());
    let chain = vec![issue(&ca, &leaf_params(&[ALICE]))];
    let principal = authenticate(&chain, &roots(&ca), NOW).unwrap();
    let mut known = VerifiedChains::default();
    assert_eq!(known.principal(&chain, &roots(&ca), NOW), None);
    known.learn(&chain, &roots(&ca), NOW, &principal);
    let end = principal.not_after();
    for now in [NOW, end] {
        assert_eq!(known.principal(&chain, &roots(&ca), now).as_ref(), Some(&principal), "at {now}");
    }
    assert_eq!(known.principal(&chain, &roots(&ca), end + 1), None, "it has ended");
    assert_eq!(known.principal(&chain, &roots(&ca), NOW - 1), None, "nobody has looked whether it had begun");
    assert_eq!(known.principal(&chain, &roots(&other), NOW), None, "of these roots nobody has looked");
    let mut both = roots(&ca);
    both.certificates.extend(roots(&other).certificates);
    assert_eq!(known.principal(&chain, &both, NOW), None, "nor of these");
    for at in 0..chain[0].len() {
        let mut changed = chain.clone();
        changed[0][at] ^= 1;
        assert_eq!(known.principal(&changed, &roots(&ca), NOW), None, "byte {at}");
    }
    let twice = [chain[0].clone(), chain[0].clone()];
    assert_eq!(known.principal(&twice, &roots(&ca), NOW), None, "another chain");
    // What was learned by other roots is of no use any more, and the oldest of too many goes.
    let theirs = vec![issue(&other, &leaf_params(&[ALICE]))];
    known.learn(&theirs, &roots(&other), NOW, &principal);
    assert_eq!(known.principal(&chain, &roots(&ca), NOW), None);
    (0..300u32).for_each(|n| known.learn(&[n.to_be_bytes().to_vec()], &roots(&other), NOW, &principal));
    assert_eq!(known.principal(&theirs, &roots(&other), NOW), None);
    assert!(known.principal(&[299u32.to_be_bytes().to_vec()], &roots(&other), NOW).is_some());
}

#[test]
fn only_the_cluster_s_own_roots_count() {
    let ca = root();
    let chain = [issue(&ca, &leaf_params(&[ALICE]))];
    // The other root has the same name: the key decides.
    assert_eq!(authenticate(&chain, &roots(&root()), NOW), Err(E::Signature));
    let named = CertifiedIssuer::self_signed(ca_params("other"), ed25519()).unwrap();
    assert_eq!(authenticate(&chain, &roots(&named), NOW), Err(E::UnknownIssuer));
    // A chain brings no root of its own.
    let with_root = [chain[0].clone(), ca.der().to_vec()];
    assert_eq!(authenticate(&with_root, &roots(&named), NOW), Err(E::UnknownIssuer));
    assert!(authenticate(&with_root, &roots(&ca), NOW).is_ok());
    let none = ClientRoots { certificates: Vec::new(), trust_domain: "td".to_owned() };
    assert_eq!(authenticate(&chain, &none, NOW), Err(E::UnknownIssuer));
    // Either of two roots will do.
    let both = ClientRoots { certificates: vec![named.der().to_vec(), ca.der().to_vec()], ..none };
    assert!(authenticate(&chain, &both, NOW).is_ok());
}

#[test]
fn a_self_signed_certificate_is_nobody_s() {
    let ca = root();
    let own = leaf_params(&[ALICE]).self_signed(&ed25519()).unwrap().der().to_vec();
    assert_eq!(authenticate(std::slice::from_ref(&own), &roots(&ca), NOW), Err(E::UnknownIssuer));
    assert_eq!(authenticate(&[own.clone(), own], &roots(&ca), NOW), Err(E::UnknownIssuer));
}

#[test]
fn only_ed25519_callers() {
    let ca = root();
    let with_key = |algorithm: &'static SignatureAlgorithm| {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let leaf = leaf_params(&[ALICE]).signed_by(&key, &ca).unwrap();
        authenticate(&[leaf.der().to_vec()], &roots(&ca), NOW)
    };
    assert!(with_key(&PKCS_ED25519).is_ok());
    assert_eq!(with_key(&PKCS_ECDSA_P256_SHA256), Err(E::KeyType));
    assert_eq!(with_key(&PKCS_RSA_SHA256), Err(E::KeyType));
}

#[test]
fn only_known_signatures_of_cas() {
    for algorithm in [&PKCS_ECDSA_P384_SHA384, &PKCS_RSA_SHA256] {
        let ca = root_with(algorithm);
        let chain = [issue(&ca, &leaf_params(&[ALICE]))];
        assert_eq!(authenticate(&chain, &roots(&ca), NOW), Err(E::SignatureAlgorithm));
    }
}

#[test]
fn exactly_one_spiffe_id() {
    assert_eq!(with_uris(&[]), Err(E::SpiffeIds(0)));
    assert_eq!(with_uris(&[ALICE, "spiffe://td/app/bob"]), Err(E::SpiffeIds(2)));
    assert_eq!(with_uris(&[ALICE, "https://td/"]), Err(E::SpiffeIds(2)));
    assert_eq!(with_uris(&[ALICE, ALICE]), Err(E::SpiffeIds(2)));
    assert_eq!(with_uris(&["https://td/app/alice"]), Err(E::SpiffeId(BadSpiffeId::Scheme)));
    assert_eq!(with_uris(&["spiffe://td"]), Err(E::SpiffeId(BadSpiffeId::NoPath)));
    assert_eq!(with_uris(&["spiffe://td/*"]), Err(E::SpiffeId(BadSpiffeId::Path)));
    let dns =
        with(|p| p.subject_alt_names = vec![SanType::DnsName(ALICE.replace("spiffe://", "").try_into().unwrap())]);
    assert_eq!(dns, Err(E::SpiffeIds(0)));
}

#[test]
fn only_the_cluster_s_trust_domain() {
    for other in ["other", "td.evil", "tdx", "evil.td"] {
        let found = other.to_owned();
        let expected = "td".to_owned();
        assert_eq!(with_uris(&[&format!("spiffe://{other}/app/alice")]), Err(E::TrustDomain { found, expected }));
    }
}

#[test]
fn only_certificates_for_clients() {
    assert_eq!(with(|p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]), Err(E::Usage));
    assert!(with(|p| p.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth)).is_ok());
    assert!(with(|p| p.extended_key_usages.clear()).is_ok(), "no extension is no restriction");
    assert!(with(|p| p.key_usages.clear()).is_ok(), "no extension is no restriction");
    assert_eq!(with(|p| p.key_usages = vec![KeyUsagePurpose::KeyAgreement]), Err(E::Usage));
    assert_eq!(with(|p| p.key_usages.push(KeyUsagePurpose::KeyCertSign)), Err(E::Usage));
    assert_eq!(with(|p| p.key_usages.push(KeyUsagePurpose::CrlSign)), Err(E::Usage));
}

#[test]
fn a_ca_is_no_caller_and_a_caller_no_ca() {
    assert_eq!(with(|p| p.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), Err(E::CaAsCaller));
    let ca = root();
    assert_eq!(authenticate(&[ca.der().to_vec()], &roots(&ca), NOW), Err(E::CaAsCaller));
    // Alice's certificate signs one for an administrator.
    let alice = CertifiedIssuer::signed_by(leaf_params(&[ALICE]), ed25519(), &ca).unwrap();
    let chain = [issue(&alice, &leaf_params(&["spiffe://td/admin/eve"])), alice.der().to_vec()];
    assert!(matches!(authenticate(&chain, &roots(&ca), NOW), Err(E::Chain(_))));
}

#[test]
fn an_intermediate_must_be_one() {
    let ca = root();
    let not_for_signing = intermediate(&ca, |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature]);
    assert_eq!(authenticate(&via(&not_for_signing), &roots(&ca), NOW), Err(E::Usage));
    let for_servers = intermediate(&ca, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    assert_eq!(authenticate(&via(&for_servers), &roots(&ca), NOW), Err(E::Usage));
}

#[test]
fn chains_and_certificates_have_a_size() {
    let ca = root();
    let leaf = issue(&ca, &leaf_params(&[ALICE]));
    assert_eq!(authenticate(&[], &roots(&ca), NOW), Err(E::ChainLength(0)));
    assert!(authenticate(&vec![leaf.clone(); MAX_CHAIN], &roots(&ca), NOW).is_ok());
    assert_eq!(authenticate(&vec![leaf; MAX_CHAIN + 1], &roots(&ca), NOW), Err(E::ChainLength(MAX_CHAIN + 1)));
    assert_eq!(authenticate(&[vec![0x30; MAX_CERTIFICATE + 1]], &roots(&ca), NOW), Err(E::Malformed));
}

#[test]
fn garbage_is_refused() {
    let ca = root();
    let leaf = issue(&ca, &leaf_params(&[ALICE]));
    for garbage in [&b""[..], b"\0", b"\x30", b"\x30\x80", b"-----BEGIN CERTIFICATE-----", &[0xff; 300]] {
        assert_eq!(authenticate(&[garbage.to_vec()], &roots(&ca), NOW), Err(E::Malformed));
    }
    let longer = [&leaf[..], &[0]].concat();
    assert_eq!(authenticate(&[longer], &roots(&ca), NOW), Err(E::Malformed));
    for len in 0..leaf.len() {
        assert!(authenticate(&[leaf[..len].to_vec()], &roots(&ca), NOW).is_err(), "cut at {len}");
    }
    let bad_root = ClientRoots { certificates: vec![ca.der().to_vec(), vec![1, 2, 3]], trust_domain: "td".to_owned() };
    assert_eq!(authenticate(&[leaf], &bad_root, NOW), Err(E::Root(1)));
}

#[test]
fn no_changed_byte_passes() {
    let ca = root();
    let chain = via(&intermediate(&ca, |_| {}));
    let roots = roots(&ca);
    assert!(authenticate(&chain, &roots, NOW).is_ok());
    for certificate in 0..chain.len() {
        for at in 0..chain[certificate].len() {
            for mask in [0x01, 0x20, 0x80, 0xff] {
                let mut changed = chain.clone();
                changed[certificate][at] ^= mask;
                let result = authenticate(&changed, &roots, NOW);
                assert!(result.is_err(), "certificate {certificate}, byte {at} ^ {mask:#04x}: {result:?}");
            }
        }
    }
}

#[test]
fn codes_are_distinct_labels() {
    let all = [
        E::ChainLength(0),
        E::Malformed,
        E::NotYetValid { not_before: 0 },
        E::Expired { not_after: 0 },
        E::UnknownIssuer,
        E::Signature,
        E::SignatureAlgorithm,
        E::Usage,
        E::CaAsCaller,
        E::KeyType,
        E::SpiffeIds(0),
        E::SpiffeId(BadSpiffeId::Path),
        E::TrustDomain { found: String::new(), expected: String::new() },
        E::Root(0),
    ];
    let codes: std::collections::BTreeSet<_> = all.iter().map(E::code).collect();
    assert_eq!(codes.len(), all.len());
    for code in codes {
        assert_eq!(quorate_state::ids::check_label(code), Ok(()), "{code}");
        assert!(code.starts_with("unauthenticated_"), "{code}: clients know the family, not the cause");
    }
}

#[test]
fn a_root_that_has_ended_admits_nobody() {
    let mut params = ca_params("client root");
    params.not_after = date_time_ymd(2026, 6, 20);
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let ca = CertifiedIssuer::self_signed(params, key).unwrap();
    let chain = [issue(&ca, &leaf_params(&[ALICE]))];
    let roots = roots(&ca);
    let end = BEGIN + 19 * 86_400_000;
    assert_eq!(root_end(ca.der()), Some(end + 999));
    assert_eq!(root_begin(ca.der()), Some(BEGIN));
    let principal = authenticate(&chain, &roots, end + 999).unwrap();
    assert_eq!(principal.not_after(), end + 999, "nobody is admitted beyond the end of the root");
    assert_eq!(authenticate(&chain, &roots, end + 1_000), Err(E::RootExpired { not_after: end + 999 }));
    assert_eq!(E::RootExpired { not_after: 0 }.code(), "unauthenticated_client_ca_expired");

    // The same CA with a certificate that was renewed: a chain leads to either, and the later end counts.
    let mut renewed = ca_params("client root");
    renewed.not_after = date_time_ymd(2027, 6, 20);
    let renewed = renewed.self_signed(ca.key()).unwrap().der().to_vec();
    for certificates in [[renewed.clone(), roots.certificates[0].clone()], [roots.certificates[0].clone(), renewed]] {
        let both = ClientRoots { certificates: certificates.to_vec(), ..roots.clone() };
        assert!(authenticate(&chain, &both, end + 1_000).is_ok());
    }
}

#[test]
fn an_end_is_told_a_month_ahead() {
    const DAY: Millis = 86_400_000;
    assert_eq!(told_ahead(0, 3_650 * DAY), 30 * DAY);
    assert_eq!(told_ahead(0, 90 * DAY), 30 * DAY);
    assert_eq!(told_ahead(0, 9 * DAY), 3 * DAY);
    assert_eq!(told_ahead(9, 0), 0);
}

#[test]
fn a_principal_stands_for_the_root_it_came_from() {
    let ca = root();
    let principal = authenticate(&[issue(&ca, &leaf_params(&[ALICE]))], &roots(&ca), NOW).unwrap();
    let renewed = ca_params("client root").self_signed(ca.key()).unwrap().der().to_vec();
    let (other, own) = (root().der().to_vec(), ca.der().to_vec());
    let by = |certificates: &[&Vec<u8>], domain: &str| {
        let certificates = certificates.iter().map(|der| der.to_vec()).collect();
        principal.is_vouched_for(&ClientRoots { certificates, trust_domain: domain.to_owned() })
    };
    assert!(by(&[&own], "td") && by(&[&other, &own], "td") && by(&[&renewed], "td"));
    assert!(!by(&[&other], "td"), "another CA of the same name");
    assert!(!by(&[], "td") && !by(&[&own], "example"), "no roots, or another domain");
    assert!(!by(&[&own, &vec![1, 2, 3]], "td"), "roots that can't be read admit nobody");
    let mut narrow = ca_params("client root");
    narrow.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("example".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    assert!(!by(&[&narrow.self_signed(ca.key()).unwrap().der().to_vec()], "td"), "the same CA, constrained");
}
