//! Partials, their combination and their proofs from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod vector;

use quorate_crypto::dleq::{self, DleqError, MAX_PAIRS};
use quorate_crypto::keyring::g_bar;
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{CombineError, KeyShare, ShareError, combine, partial};
use vector::{Counting, deal};

fn shares(t: u8, n: u8) -> (Vec<KeyShare>, [u8; 32]) {
    let (shares, y) = deal(t, n, &mut Counting(1));
    (shares.iter().map(|(i, s)| KeyShare::new(*i, &Secret::init_with(|o| *o = *s)).unwrap()).collect(), y)
}

fn point(n: u8) -> [u8; 32] {
    g_bar(&[n; 32]).compress().to_bytes()
}

const BASE: [u8; 32] = curve25519_dalek::constants::RISTRETTO_BASEPOINT_COMPRESSED.0;

#[test]
fn public_shares_combine_to_the_public_key() {
    let (shares, y) = shares(3, 5);
    let partials: Vec<_> = shares.iter().map(|s| (s.index(), partial(s, &BASE).unwrap())).collect();
    for chosen in [&partials[..3], &partials[1..4], &partials[2..], &partials[..]] {
        assert_eq!(combine(chosen).unwrap().expose(), &y);
    }
    assert_ne!(combine(&partials[..2]).unwrap().expose(), &y);
    assert_eq!(partials[4].1, shares[4].public_share());
}

#[test]
fn combine_refuses_what_would_cancel_or_divide_by_zero() {
    let p = point(1);
    assert_eq!(combine(&[]).unwrap_err(), CombineError::TooFew);
    assert_eq!(combine(&[(1, p)]).unwrap_err(), CombineError::TooFew);
    assert_eq!(combine(&[(0, p), (1, p)]).unwrap_err(), CombineError::ZeroIndex);
    assert_eq!(combine(&[(2, p), (1, p), (2, p)]).unwrap_err(), CombineError::Duplicate { index: 2 });
    for bad in [[0; 32], [0xff; 32]] {
        assert_eq!(combine(&[(1, p), (3, bad)]).unwrap_err(), CombineError::BadPoint { index: 3 });
    }
    // λ_1 = 2 and λ_2 = -1: P_2 = 2 P_1 gives the identity.
    let two = curve25519_dalek::Scalar::from(2u8);
    let double = (g_bar(&[1; 32]) * two).compress().to_bytes();
    assert_eq!(combine(&[(1, p), (2, double)]).unwrap_err(), CombineError::Identity);
}

#[test]
fn shares_and_points_are_checked() {
    let one = Secret::init_with(|o: &mut [u8; 32]| o[0] = 1);
    assert_eq!(KeyShare::new(0, &one).unwrap_err(), ShareError::ZeroIndex);
    assert_eq!(KeyShare::new(1, &Secret::init_with(|_| {})).unwrap_err(), ShareError::Malformed);
    assert_eq!(KeyShare::new(1, &Secret::init_with(|o| o.fill(0xff))).unwrap_err(), ShareError::Malformed);
    let share = KeyShare::new(255, &one).unwrap();
    assert_eq!(partial(&share, &point(1)), Ok(point(1)));
    assert!(partial(&share, &[0; 32]).is_err());
    assert!(partial(&share, &[0xff; 32]).is_err());

    let bytes = share.to_secret();
    assert_eq!(KeyShare::from_secret(bytes.expose()).unwrap().public_share(), BASE);
    assert_eq!(KeyShare::from_secret(&bytes.expose()[..32]).unwrap_err(), ShareError::Malformed);
    assert_eq!(KeyShare::from_secret(&[]).unwrap_err(), ShareError::Malformed);
    assert_eq!(format!("{share:?}"), "KeyShare(255, redacted)");
}

#[test]
fn a_proof_holds_for_its_points_its_member_and_its_context_only() {
    let (shares, _) = shares(2, 3);
    let points: Vec<_> = (0..5).map(point).collect();
    let partials: Vec<_> = points.iter().map(|r| partial(&shares[0], r).unwrap()).collect();
    let public = shares[0].public_share();
    let proof = dleq::prove(&shares[0], &points, &partials, b"context", &mut Counting(2)).unwrap();
    assert_eq!(dleq::verify(&public, &points, &partials, b"context", &proof), Ok(()));

    let invalid = Err(DleqError::Invalid);
    assert_eq!(dleq::verify(&public, &points, &partials, b"other", &proof), invalid);
    assert_eq!(dleq::verify(&shares[1].public_share(), &points, &partials, b"context", &proof), invalid);
    for i in 0..points.len() {
        let mut wrong = partials.clone();
        wrong[i] = partial(&shares[1], &points[i]).unwrap();
        assert_eq!(dleq::verify(&public, &points, &wrong, b"context", &proof), invalid);
        // Nor can the member prove a wrong partial.
        let lie = dleq::prove(&shares[0], &points, &wrong, b"context", &mut Counting(3)).unwrap();
        assert_eq!(dleq::verify(&public, &points, &wrong, b"context", &lie), invalid);
    }
    let (mut swapped_r, mut swapped_p) = (points.clone(), partials.clone());
    swapped_r.swap(0, 1);
    assert_eq!(dleq::verify(&public, &swapped_r, &partials, b"context", &proof), invalid);
    swapped_p.swap(0, 1);
    assert_eq!(dleq::verify(&public, &swapped_r, &swapped_p, b"context", &proof), invalid, "order counts");
    for at in 0..64 {
        let mut changed = proof;
        changed[at] ^= 1;
        assert_eq!(dleq::verify(&public, &points, &partials, b"context", &changed), invalid);
    }
    assert_eq!(dleq::verify(&public, &points, &partials, b"context", &[0xff; 64]), invalid);
}

#[test]
fn errors_that_cancel_in_a_sum_are_found() {
    let (shares, _) = shares(2, 3);
    let points = [point(1), point(2)];
    let shift = g_bar(&[9; 32]);
    let moved = |r, shift: curve25519_dalek::RistrettoPoint| {
        let p = curve25519_dalek::ristretto::CompressedRistretto(partial(&shares[0], r).unwrap()).decompress().unwrap();
        (p + shift).compress().to_bytes()
    };
    let wrong = [moved(&points[0], shift), moved(&points[1], -shift)];
    let proof = dleq::prove(&shares[0], &points, &wrong, b"", &mut Counting(4)).unwrap();
    assert_eq!(dleq::verify(&shares[0].public_share(), &points, &wrong, b"", &proof), Err(DleqError::Invalid));
}

#[test]
fn sizes_and_encodings_of_a_statement_are_checked() {
    let (shares, _) = shares(2, 3);
    let r = point(1);
    let p = partial(&shares[0], &r).unwrap();
    let prove = |r: &[[u8; 32]], p: &[[u8; 32]]| dleq::prove(&shares[0], r, p, b"", &mut Counting(5));
    assert_eq!(prove(&[], &[]), Err(DleqError::Pairs));
    assert_eq!(prove(&[r], &[p, p]), Err(DleqError::Pairs));
    assert_eq!(prove(&vec![r; MAX_PAIRS + 1], &vec![p; MAX_PAIRS + 1]), Err(DleqError::Pairs));
    assert!(prove(&vec![r; MAX_PAIRS], &vec![p; MAX_PAIRS]).is_ok());
    for bad in [[0; 32], [0xff; 32]] {
        assert_eq!(prove(&[bad], &[p]), Err(DleqError::BadPoint));
        assert_eq!(prove(&[r], &[bad]), Err(DleqError::BadPoint));
        assert_eq!(dleq::verify(&bad, &[r], &[p], b"", &[0; 64]), Err(DleqError::BadPoint));
    }
}

/// s = ρ - ck: two proofs with one ρ and different challenges would give k away.
#[test]
fn repeated_randomness_repeats_no_nonce() {
    let (shares, _) = shares(2, 3);
    let (r1, r2) = (point(1), point(2));
    let k = curve25519_dalek::Scalar::from_bytes_mod_order(shares[0].to_secret().expose()[1..].try_into().unwrap());
    let rho = |r: [u8; 32], context: &[u8]| {
        let p = partial(&shares[0], &r).unwrap();
        let proof = dleq::prove(&shares[0], &[r], &[p], context, &mut Counting(6)).unwrap();
        let scalar = |half: &[u8]| curve25519_dalek::Scalar::from_bytes_mod_order(half.try_into().unwrap());
        scalar(&proof[32..]) + scalar(&proof[..32]) * k
    };
    assert_eq!(rho(r1, b"a"), rho(r1, b"a"));
    assert_ne!(rho(r1, b"a"), rho(r1, b"b"));
    assert_ne!(rho(r1, b"a"), rho(r2, b"a"));
}
