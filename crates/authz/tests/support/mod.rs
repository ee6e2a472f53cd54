//! Client CAs and callers, made afresh for each test.

#![allow(dead_code, reason = "each test binary uses a part")]

use quorate_authz::{Principal, authenticate};
use quorate_state::genesis::ClientRoots;
use quorate_state::ids::Millis;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, SanType, SignatureAlgorithm, date_time_ymd,
};

pub(crate) const TRUST_DOMAIN: &str = "td";

/// 2026-06-15T00:00:00Z; certificates here are valid from 2026-06-01 to 2026-07-01.
pub(crate) const NOW: Millis = 1_781_481_600_000;

pub(crate) type Ca = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn ca_params(name: &str) -> CertificateParams {
    let mut params = dated();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

pub(crate) fn root() -> Ca {
    root_with(&PKCS_ECDSA_P256_SHA256)
}

pub(crate) fn root_with(algorithm: &'static SignatureAlgorithm) -> Ca {
    CertifiedIssuer::self_signed(ca_params("client root"), KeyPair::generate_for(algorithm).unwrap()).unwrap()
}

pub(crate) fn roots(ca: &Ca) -> ClientRoots {
    ClientRoots { certificates: vec![ca.der().to_vec()], trust_domain: TRUST_DOMAIN.to_owned() }
}

/// What a good caller's certificate holds.
pub(crate) fn leaf_params(uris: &[&str]) -> CertificateParams {
    let mut params = dated();
    params.distinguished_name.push(DnType::CommonName, "caller");
    params.subject_alt_names = uris.iter().map(|uri| SanType::URI((*uri).try_into().unwrap())).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

fn dated() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.not_before = date_time_ymd(2026, 6, 1);
    params.not_after = date_time_ymd(2026, 7, 1);
    params
}

pub(crate) fn ed25519() -> KeyPair {
    KeyPair::generate_for(&PKCS_ED25519).unwrap()
}

/// A certificate of `params` for a fresh Ed25519 key, DER.
pub(crate) fn issue(ca: &Ca, params: &CertificateParams) -> Vec<u8> {
    params.signed_by(&ed25519(), ca).unwrap().der().to_vec()
}

pub(crate) fn principal(id: &str) -> Principal {
    let ca = root();
    let chain = [issue(&ca, &leaf_params(&[id]))];
    authenticate(&chain, &roots(&ca), NOW).unwrap()
}
