//! Wycheproof: XChaCha20-Poly1305, ChaCha20-Poly1305, HKDF with SHA-256 and SHA-512, Ed25519, X25519.

use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{ChaCha20Poly1305, XChaCha20Poly1305};
use ed25519_dalek::{Signature, VerifyingKey};
use hkdf::Hkdf;
use hkdf::hmac::EagerHash;
use sha2::{Sha256, Sha512};
use wycheproof::TestResult;
use wycheproof::{aead, eddsa, hkdf as hkdf_tests, xdh};

/// Every test with a key and a nonce of the cipher's size, in both directions.
fn check_aead<C: Aead + KeyInit>(name: aead::TestName, at_least: usize) {
    let mut ran = 0;
    for group in aead::TestSet::load(name).unwrap().test_groups {
        for t in &group.tests {
            let Ok(nonce) = t.nonce.as_slice().try_into() else {
                // The type of the nonce is its size: another is not admitted anywhere.
                assert_eq!(t.result, TestResult::Invalid, "{name:?} {}", t.tc_id);
                continue;
            };
            let cipher = C::new_from_slice(&t.key).unwrap();
            let sealed = [t.ct.as_slice(), &t.tag].concat();
            let opened = cipher.decrypt(nonce, Payload { msg: &sealed, aad: &t.aad });
            if t.result == TestResult::Invalid {
                assert!(opened.is_err(), "{name:?} {} opens: {}", t.tc_id, t.comment);
            } else {
                assert_eq!(opened.as_deref(), Ok(t.pt.as_slice()), "{name:?} {}: {}", t.tc_id, t.comment);
                let again = cipher.encrypt(nonce, Payload { msg: &t.pt, aad: &t.aad });
                assert_eq!(again.as_ref(), Ok(&sealed), "{name:?} {}: {}", t.tc_id, t.comment);
            }
            ran += 1;
        }
    }
    assert!(ran >= at_least, "{name:?}: {ran} tests ran");
}

#[test]
fn aeads() {
    check_aead::<XChaCha20Poly1305>(aead::TestName::XChaCha20Poly1305, 250);
    check_aead::<ChaCha20Poly1305>(aead::TestName::ChaCha20Poly1305, 250);
}

fn check_hkdf<H: EagerHash>(name: hkdf_tests::TestName) {
    let mut ran = 0;
    for group in hkdf_tests::TestSet::load(name).unwrap().test_groups {
        for t in &group.tests {
            let mut out = vec![0; t.size];
            let expanded = Hkdf::<H>::new(Some(&t.salt), &t.ikm).expand(&t.info, &mut out);
            assert_eq!(expanded.is_ok(), t.result != TestResult::Invalid, "{name:?} {}: {}", t.tc_id, t.comment);
            if expanded.is_ok() {
                assert_eq!(out, t.okm.as_slice(), "{name:?} {}: {}", t.tc_id, t.comment);
            }
            ran += 1;
        }
    }
    assert!(ran > 50, "{name:?}: {ran} tests ran");
}

#[test]
fn hkdf() {
    check_hkdf::<Sha256>(hkdf_tests::TestName::HkdfSha256);
    check_hkdf::<Sha512>(hkdf_tests::TestName::HkdfSha512);
}

/// Strict verification refuses what the tests call invalid, and nothing that they call valid.
#[test]
fn ed25519() {
    let mut ran = 0;
    for group in eddsa::TestSet::load(eddsa::TestName::Ed25519).unwrap().test_groups {
        let key = VerifyingKey::from_bytes(group.key.pk.as_slice().try_into().unwrap()).unwrap();
        for t in &group.tests {
            // A signature is [u8; 64] wherever it is read here.
            let signature = <[u8; 64]>::try_from(t.sig.as_slice()).map(|s| Signature::from_bytes(&s));
            let good = signature.is_ok_and(|s| key.verify_strict(&t.msg, &s).is_ok());
            assert_eq!(good, t.result == TestResult::Valid, "Ed25519 {}: {}", t.tc_id, t.comment);
            ran += 1;
        }
    }
    assert!(ran > 140, "{ran} tests ran");
}

/// The classical half of X-Wing.
#[test]
fn x25519() {
    let mut ran = 0;
    for group in xdh::TestSet::load(xdh::TestName::X25519).unwrap().test_groups {
        for t in &group.tests {
            let Ok(public) = t.public_key.as_slice().try_into() else { continue };
            let shared = x25519_dalek::x25519(t.private_key.as_slice().try_into().unwrap(), public);
            // "Acceptable" are points of small order and on the twist: the function is defined there too.
            assert_eq!(shared, t.shared_secret.as_slice(), "X25519 {}: {}", t.tc_id, t.comment);
            ran += 1;
        }
    }
    assert!(ran > 500, "{ran} tests ran");
}
