//! What a device is asked before it is used, and what of its answers is believed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod vector;

use quorate_crypto::customer::{CustomerError, CustomerPublic, CustomerSecret, PartSuite, is_x_coordinate};
use quorate_crypto::secret::Secret;
use vector::Counting;

/// The scalar and the seed of a key: what a device and the file beside it hold.
fn halves(secret: &CustomerSecret) -> (p256::SecretKey, Option<Secret<64>>) {
    let bytes = secret.encode();
    let (scalar, seed) = bytes.expose()[1..].split_at(32);
    (p256::SecretKey::from_slice(scalar).unwrap(), Secret::from_slice(seed))
}

#[test]
fn the_public_half_is_that_of_a_key_in_software() {
    for suite in [PartSuite::Hybrid, PartSuite::P256] {
        let secret = CustomerSecret::generate(suite, &mut Counting(1));
        let (_, seed) = halves(&secret);
        let public = CustomerPublic::of_device(secret.public().point(), seed.as_ref()).unwrap();
        assert_eq!(public, *secret.public());
        assert_eq!(seed.is_some_and(|seed| public.is_of_seed(&seed)), suite == PartSuite::Hybrid);
    }
    let other = CustomerSecret::generate(PartSuite::Hybrid, &mut Counting(2));
    let one = CustomerSecret::generate(PartSuite::Hybrid, &mut Counting(1));
    assert!(!one.public().is_of_seed(&halves(&other).1.unwrap()), "another ML-KEM key is told");
    let mut off = one.public().point().to_vec();
    off[64] ^= 1;
    for bad in [&off[..], &off[..64], &[], &[0; 65]] {
        assert_eq!(CustomerPublic::of_device(bad, None), Err(CustomerError::BadKey));
    }
}

#[test]
fn only_the_holder_of_the_key_answers_a_challenge() {
    let rng = &mut Counting(3);
    let (one, other) = (CustomerSecret::generate(PartSuite::P256, rng), CustomerSecret::generate(PartSuite::P256, rng));
    let challenge = one.public().challenge(rng).unwrap();
    let answer = |secret: &CustomerSecret| {
        let point = p256::PublicKey::from_sec1_bytes(&challenge.point).unwrap();
        let x = p256::ecdh::diffie_hellman(halves(secret).0.to_nonzero_scalar(), point.as_affine());
        x.raw_secret_bytes().to_vec()
    };
    assert_eq!(answer(&one), challenge.x.expose());
    assert_ne!(answer(&other), challenge.x.expose());
    assert_ne!(one.public().challenge(rng).unwrap().point, challenge.point, "none comes twice");
    assert!(is_x_coordinate(&challenge.x));
    // p - 1 is below the field's order and no x coordinate; the order itself is no element.
    for not in ["ffffffff00000001000000000000000000000000ffffffffffffffffffffffff", &"ff".repeat(32)] {
        assert!(!is_x_coordinate(&Secret::from_slice(&hex::decode(not).unwrap()).unwrap()), "{not}");
    }
}
