//! A customer key that comes back from k of m shares, and from nothing less.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod vector;

use quorate_crypto::backup::{BackupError, BackupShare, backup, restore};
use quorate_crypto::customer::{CustomerSecret, PartSuite, derive_kc};
use vector::Counting;

const GOLDEN: &str = include_str!("golden/backup.txt");

fn again(shares: &[BackupShare], which: &[usize]) -> Vec<BackupShare> {
    which.iter().map(|at| BackupShare::decode(&shares[*at].encode()).unwrap()).collect()
}

#[test]
fn any_k_of_m_restore_and_the_restored_key_opens_what_was_sealed_before() {
    for suite in [PartSuite::Hybrid, PartSuite::P256] {
        let rng = &mut Counting(7);
        let secret = CustomerSecret::generate(suite, rng);
        let (part, kc) = secret.public().test_seal(b"object", b"wrap", rng).unwrap();
        let shares = backup(&secret, 3, 5, rng).unwrap();
        for a in 0..5 {
            for b in 0..5 {
                for c in 0..5 {
                    let which: std::collections::BTreeSet<_> = [a, b, c].into();
                    let which: Vec<_> = which.into_iter().collect();
                    let restored = restore(&again(&shares, &which));
                    if which.len() < 3 {
                        assert_eq!(restored.unwrap_err(), BackupError::TooFew { have: which.len(), need: 3 });
                        continue;
                    }
                    let restored = restored.unwrap();
                    assert_eq!(restored.encode().expose(), secret.encode().expose(), "{which:?}");
                    let opened = derive_kc(&restored, b"object", b"wrap", &part).unwrap();
                    assert_eq!(opened.expose(), kc.expose(), "{which:?}");
                }
            }
        }
        assert!(restore(&again(&shares, &[4, 3, 2, 1, 0])).is_ok(), "more than it takes, in any order");
    }
}

#[test]
fn mixed_repeated_and_too_few_shares_are_refused() {
    let rng = &mut Counting(8);
    let (one, two) = (CustomerSecret::generate(PartSuite::P256, rng), CustomerSecret::generate(PartSuite::P256, rng));
    let (first, again_made, other) =
        (backup(&one, 2, 3, rng).unwrap(), backup(&one, 2, 3, rng).unwrap(), backup(&two, 2, 3, rng).unwrap());
    let mix = |a: &BackupShare, b: &BackupShare| {
        restore(&[BackupShare::decode(&a.encode()).unwrap(), BackupShare::decode(&b.encode()).unwrap()]).err()
    };
    assert_eq!(mix(&first[0], &first[2]), None);
    assert_eq!(mix(&first[0], &again_made[1]), Some(BackupError::OtherBackup { index: 2 }));
    assert_eq!(mix(&first[0], &other[1]), Some(BackupError::OtherKey { index: 2 }));
    assert_eq!(mix(&first[1], &first[1]), Some(BackupError::Twice { index: 2 }));
    assert_eq!(restore(&[]).unwrap_err(), BackupError::TooFew { have: 0, need: 2 });
    for (threshold, shares) in [(1, 3), (0, 0), (4, 3)] {
        let refused = backup(&one, threshold, shares, rng).unwrap_err();
        assert_eq!(refused, BackupError::Bounds { threshold, shares });
    }
}

#[test]
fn every_damaged_byte_is_noticed() {
    let rng = &mut Counting(9);
    let share = &backup(&CustomerSecret::generate(PartSuite::P256, rng), 2, 2, rng).unwrap()[0];
    let bytes = share.encode();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let expected = match at {
            0..7 => BackupError::NotAShare,
            7 => BackupError::UnknownVersion(0),
            _ => BackupError::Damaged,
        };
        assert_eq!(BackupShare::decode(&changed).err(), Some(expected), "byte {at}");
        assert!(BackupShare::decode(&bytes[..at]).is_err(), "cut to {at}");
    }
    assert_eq!(BackupShare::decode(&[&bytes[..], &[0]].concat()).err(), Some(BackupError::Damaged));
    assert_eq!(format!("{share:?}"), "BackupShare(1 of 2, any 2, redacted)");
}

/// Somebody who can compute a checksum changes a share: it is well-formed, and still opens nothing.
#[test]
fn a_forged_share_does_not_restore_another_key() {
    let rng = &mut Counting(10);
    let shares = backup(&CustomerSecret::generate(PartSuite::P256, rng), 2, 3, rng).unwrap();
    let bytes = shares[0].encode();
    let value = 7 + 1 + 32 + 16 + 3;
    let mut body = bytes[..bytes.len() - 32].to_vec();
    body[value] ^= 1;
    let check = quorate_crypto::encoding::hash32("backup-share", &[&body]);
    let forged = BackupShare::decode(&[&body[..], &check].concat()).unwrap();
    let other = BackupShare::decode(&shares[1].encode()).unwrap();
    assert_eq!(restore(&[forged, other]).unwrap_err(), BackupError::DoNotFit);
}

/// Shares lie in safes for years: these bytes never change, and are always read.
#[test]
fn backup_shares_are_what_they_were() {
    let digits = GOLDEN.lines().map(|line| line.split_once(": ").unwrap().1);
    let lines: Vec<Vec<u8>> = digits.map(|digits| hex::decode(digits).unwrap()).collect();
    let shares: Vec<_> = lines[1..].iter().map(|bytes| BackupShare::decode(bytes).unwrap()).collect();
    assert_eq!((shares.len(), shares[0].threshold(), shares[0].shares()), (3, 2, 3));
    for (share, bytes) in shares.iter().zip(&lines[1..]) {
        assert_eq!(share.encode()[..], bytes[..]);
    }
    for pair in shares.windows(2) {
        let pair: Vec<_> = pair.iter().map(|s| BackupShare::decode(&s.encode()).unwrap()).collect();
        assert_eq!(restore(&pair).unwrap().encode().expose(), &lines[0][..]);
    }
}

/// Prints the golden file, for the day on which there is a version 2.
#[test]
fn golden_shares_can_be_made() {
    let rng = &mut Counting(11);
    let secret = CustomerSecret::generate(PartSuite::Hybrid, rng);
    let shares = backup(&secret, 2, 3, rng).unwrap();
    let mut text = format!("secret: {}\n", hex::encode(secret.encode().expose()));
    for share in &shares {
        text += &format!("share: {}\n", hex::encode(&share.encode()[..]));
    }
    assert_eq!(text, GOLDEN);
}
