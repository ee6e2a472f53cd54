//! Wycheproof for the customer's part, through the functions that a custodian calls: P-256 points and ML-KEM-768.

use hkdf::Hkdf;
use p256::elliptic_curve::sec1::ToSec1Point as _;
use quorate_crypto::customer::{
    CustomerError, CustomerPublic, CustomerSecret, Part, PartSuite, derive_kc, derive_kc_from_x,
};
use quorate_crypto::encoding::{hash, transcript};
use quorate_crypto::secret::Secret;
use wycheproof::TestResult;
use wycheproof::{ecdh, mlkem};

const OBJECT: &[u8] = b"an object";
const WRAP: &[u8] = b"a wrap";

/// `Kc_j` from its shared secret, as section 6 of `docs/format.md` has it.
fn kc(shared: &[u8], public: &CustomerPublic, ct: &[u8]) -> [u8; 32] {
    let suite = [public.suite().as_u8()];
    let info = hash("cust-info", &[OBJECT, WRAP, &suite, &public.id(), &public.encode()[1..], ct]);
    let mut out = [0; 32];
    Hkdf::<sha2::Sha256>::new(Some(&transcript("cust", &[])), shared).expand(&info, &mut out).unwrap();
    out
}

/// A private key of the tests, which may have a sign byte or lack leading zeros, in 32 bytes.
fn scalar(bytes: &[u8]) -> [u8; 32] {
    let significant = &bytes[bytes.iter().take_while(|b| **b == 0).count()..];
    let mut out = [0; 32];
    out[32 - significant.len()..].copy_from_slice(significant);
    out
}

#[test]
fn p256_points() {
    let (mut agreed, mut refused) = (0, 0);
    for group in ecdh::TestSet::load(ecdh::TestName::EcdhSecp256r1Ecpoint).unwrap().test_groups {
        for t in &group.tests {
            let what = format!("P-256 {}: {}", t.tc_id, t.comment);
            let secret = CustomerSecret::decode(&[&[2], &scalar(&t.private_key)[..]].concat()).unwrap();
            let public = secret.public();
            let part = Part { suite: PartSuite::P256, cust_key_id: public.id(), ct: t.public_key.to_vec() };
            let derived = derive_kc(&secret, OBJECT, WRAP, &part);
            // Compressed points are well-formed elsewhere; here a point has one encoding.
            let uncompressed = t.public_key.len() == 65 && t.public_key[0] == 4;
            if t.result == TestResult::Invalid || !uncompressed {
                assert_eq!(derived.err(), Some(CustomerError::BadPart), "{what}");
                assert_eq!(part.check(), Err(CustomerError::BadPart), "{what}");
                let mut key = vec![2];
                key.extend_from_slice(&t.public_key);
                assert_eq!(CustomerPublic::decode(&key).err(), Some(CustomerError::BadKey), "{what}");
                refused += 1;
                continue;
            }
            let derived = derived.unwrap();
            assert_eq!(*derived.expose(), kc(&t.shared_secret, public, &part.ct), "{what}");
            // And where a device multiplies.
            let x = Secret::from_slice(&t.shared_secret).unwrap();
            let device = derive_kc_from_x(public, &x, None, OBJECT, WRAP, &part).unwrap();
            assert_eq!(device.expose(), derived.expose(), "{what}");
            agreed += 1;
        }
    }
    assert!(agreed > 200 && refused > 10, "{agreed} agreed, {refused} were refused");
}

/// The P-256 half of a hybrid key: its contribution is known, so that what is left is ML-KEM's.
fn half() -> (p256::SecretKey, [u8; 65]) {
    let secret = p256::SecretKey::from_slice(&[7; 32]).unwrap();
    let point = secret.public_key().to_sec1_point(false).as_bytes().try_into().unwrap();
    (secret, point)
}

fn hybrid(seed: &[u8]) -> Result<CustomerSecret, CustomerError> {
    CustomerSecret::decode(&[&[1], &[7; 32][..], seed].concat())
}

fn mlkem_tests(name: mlkem::TestName) -> Vec<mlkem::Test> {
    mlkem::TestSet::load(name).unwrap().test_groups.into_iter().flat_map(|group| group.tests).collect()
}

#[test]
fn ml_kem_keys_of_seeds() {
    let tests = mlkem_tests(mlkem::TestName::MlKem768KeyGenSeed);
    assert!(tests.len() >= 100, "{} tests", tests.len());
    for t in tests {
        let secret = hybrid(t.seed.as_deref().unwrap()).unwrap();
        assert_eq!(secret.public().encode()[66..], t.encaps_key.unwrap()[..], "ML-KEM-768 key of a seed {}", t.tc_id);
    }
}

#[test]
fn ml_kem_decapsulation() {
    let (secret, point) = half();
    let x = p256::ecdh::diffie_hellman(secret.to_nonzero_scalar(), secret.public_key().as_affine());
    let (mut agreed, mut refused) = (0, 0);
    for t in mlkem_tests(mlkem::TestName::MlKem768) {
        let what = format!("ML-KEM-768 {}: {}", t.tc_id, t.comment);
        let key = hybrid(t.seed.as_deref().unwrap());
        let ct = [&point[..], t.ct.as_deref().unwrap()].concat();
        if t.result == TestResult::Invalid {
            let derived = key.and_then(|key| {
                let part = Part { suite: PartSuite::Hybrid, cust_key_id: key.public().id(), ct };
                derive_kc(&key, OBJECT, WRAP, &part)
            });
            assert!(derived.is_err(), "{what}");
            refused += 1;
            continue;
        }
        let key = key.unwrap();
        if let Some(ek) = &t.encaps_key {
            assert_eq!(key.public().encode()[66..], ek[..], "{what}");
        }
        let part = Part { suite: PartSuite::Hybrid, cust_key_id: key.public().id(), ct };
        // Implicit rejection is no error: the tests give the value that comes of it.
        let shared = [&x.raw_secret_bytes()[..], t.shared_secret.as_deref().unwrap()].concat();
        let derived = derive_kc(&key, OBJECT, WRAP, &part).unwrap();
        assert_eq!(*derived.expose(), kc(&shared, key.public(), &part.ct), "{what}");
        agreed += 1;
    }
    assert!(agreed > 100 && refused > 0, "{agreed} agreed, {refused} were refused");
}

/// A key with a coefficient of the modulus or more is refused where it is read (FIPS 203, section 7.2); with a good one the
/// randomness gives ciphertext and secret.
#[test]
fn ml_kem_encapsulation() {
    use ml_kem::ml_kem_768::EncapsulationKey;
    let (_, point) = half();
    let (mut agreed, mut refused) = (0, 0);
    for t in mlkem_tests(mlkem::TestName::MlKem768Encaps) {
        let what = format!("ML-KEM-768 encapsulation {}: {}", t.tc_id, t.comment);
        let ek = t.encaps_key.as_deref().unwrap();
        let public = CustomerPublic::decode(&[&[1], &point[..], ek].concat());
        if t.result == TestResult::Invalid {
            assert_eq!(public.err(), Some(CustomerError::BadKey), "{what}");
            refused += 1;
            continue;
        }
        public.unwrap();
        let key = EncapsulationKey::new(ek[..].try_into().unwrap()).unwrap();
        let m = <[u8; 32]>::try_from(&t.msg.as_deref().unwrap()[..]).unwrap().into();
        let (ct, shared) = key.encapsulate_deterministic(&m);
        assert_eq!(ct[..], t.ct.unwrap()[..], "{what}");
        assert_eq!(shared[..], t.shared_secret.unwrap()[..], "{what}");
        agreed += 1;
    }
    assert!(agreed > 100 && refused > 100, "{agreed} agreed, {refused} were refused");
}
