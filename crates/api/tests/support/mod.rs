//! Keys, certificates, members and a custodian for tests.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses its part of it")]

pub mod cluster;
pub mod custodian;

use quorate_api::client::Identity;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::secret::Secret;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, PKCS_ED25519, SanType};

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(&Secret::init_with(|s| s.fill(seed)))
}

/// A certificate authority.
pub struct Ca {
    pub issuer: Issuer<'static, KeyPair>,
    pub der: Vec<u8>,
}

pub fn ca(name: &str) -> Ca {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    let pair = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let der = params.self_signed(&pair).unwrap().der().to_vec();
    Ca { issuer: Issuer::new(params, pair), der }
}

/// The PKCS#8 (version 1) form of a key.
pub fn pkcs8(key: &SigningKey) -> Vec<u8> {
    let mut der = vec![0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    der.extend_from_slice(key.seed().expose());
    der
}

/// A certificate of `ca` over `key`, with a SPIFFE id.
pub fn certificate(ca: &Ca, key: &SigningKey, spiffe: &str) -> Vec<u8> {
    let pair = KeyPair::try_from(pkcs8(key)).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.subject_alt_names.push(SanType::URI(spiffe.try_into().unwrap()));
    params.signed_by(&pair, &ca.issuer).unwrap().der().to_vec()
}

pub fn identity(ca: &Ca, seed: u8) -> Identity {
    let chain = vec![certificate(ca, &key(seed), "spiffe://example.org/app")];
    Identity::new(chain, key(seed)).unwrap()
}
