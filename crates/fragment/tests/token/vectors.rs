//! Wycheproof's P-256 points, multiplied by SoftHSM.

use crate::lab::{ask, bring_in, created_of, lab, open, own_session, settings};
use quorate_crypto::customer::{CustomerError, Part, PartSuite, derive_kc_from_x};
use quorate_crypto::secret::Secret;
use quorate_fragment::{DeriveError, Fragment, Question};
use std::collections::BTreeMap;
use wycheproof::TestResult;
use wycheproof::ecdh::{Test, TestName, TestSet};

/// A private key of the tests, which may have a sign byte or lack leading zeros, in 32 bytes.
fn scalar(bytes: &[u8]) -> [u8; 32] {
    let significant = &bytes[bytes.iter().take_while(|b| **b == 0).count()..];
    let mut out = [0; 32];
    out[32 - significant.len()..].copy_from_slice(significant);
    out
}

#[test]
fn p256_points_of_wycheproof() {
    lab("vectors::p256_points_of_wycheproof", |lab| {
        lab.init("one");
        let tests = TestSet::load(TestName::EcdhSecp256r1Ecpoint).unwrap();
        let mut by_key: BTreeMap<[u8; 32], Vec<Test>> = BTreeMap::new();
        for test in tests.test_groups.into_iter().flat_map(|group| group.tests) {
            by_key.entry(scalar(&test.private_key)).or_default().push(test);
        }
        let session = own_session("one");
        let (mut agreed, mut refused) = (0, 0);
        for (scalar, tests) in by_key {
            let created = created_of(&scalar);
            let key = bring_in(&session, "customer", &scalar, &[]);
            let mut one = settings(&["one"], &created);
            one.sessions = 1;
            // The module stays up meanwhile, and the session of this test with it.
            let fragment = Fragment::Token(open(one).unwrap());
            for t in tests {
                let what = format!("P-256 {}: {}", t.tc_id, t.comment);
                let part = Part { suite: PartSuite::P256, cust_key_id: created.public.id(), ct: t.public_key.to_vec() };
                let asked = Question { object: b"o".to_vec(), wrap: b"w".to_vec(), part: part.clone() };
                let answer = ask(&fragment, vec![asked]).pop().unwrap();
                let uncompressed = t.public_key.len() == 65 && t.public_key[0] == 4;
                if t.result == TestResult::Invalid || !uncompressed {
                    assert_eq!(answer.unwrap_err(), DeriveError::Part(CustomerError::BadPart), "{what}");
                    refused += 1;
                    continue;
                }
                let x = Secret::from_slice(&t.shared_secret).unwrap();
                let value = derive_kc_from_x(&created.public, &x, None, b"o", b"w", &part).unwrap();
                assert_eq!(answer.unwrap().expose(), value.expose(), "{what}");
                agreed += 1;
            }
            assert_eq!(fragment.health()[0].failed, 0);
            std::mem::drop(fragment);
            session.destroy_object(key).unwrap();
        }
        assert!(agreed > 200 && refused > 10, "{agreed} agreed, {refused} were refused");
    });
}
