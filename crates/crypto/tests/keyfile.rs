//! Sealed key files from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod vector;

use quorate_crypto::keyfile::{KeyFileError, PassphraseCost, Protection, open_file, seal_file};
use quorate_crypto::secret::{Secret, SecretVec};
use vector::Counting;

const CHEAP: PassphraseCost = PassphraseCost { memory_kib: 8, passes: 1, lanes: 1 };

fn words(text: &str) -> SecretVec {
    SecretVec::new(text.as_bytes().to_vec())
}

#[test]
fn each_failure_has_its_own_error() {
    let (right, wrong) = (words("right"), words("wrong"));
    let (key, other_key) = (Secret::init_with(|o| o.fill(1)), Secret::init_with(|o| o.fill(2)));
    let sealed_with = [
        (Protection::Passphrase(&right, CHEAP), Protection::Passphrase(&wrong, CHEAP), Protection::RawKey(&key)),
        (Protection::RawKey(&key), Protection::RawKey(&other_key), Protection::Passphrase(&right, CHEAP)),
    ];
    for (good, bad, otherwise) in sealed_with {
        let file = seal_file("share", b"secret", &good, &mut Counting(1)).unwrap();
        assert_eq!(open_file("share", &file, &good).unwrap().expose(), b"secret");
        assert_eq!(open_file("share", &file, &bad).unwrap_err(), KeyFileError::WrongKey);
        assert_eq!(open_file("share", &file, &otherwise).unwrap_err(), KeyFileError::OtherProtection);
        assert_eq!(open_file("identity", &file, &good).unwrap_err(), KeyFileError::OtherPurpose);
        assert_eq!(open_file("share", b"QUORKEX\x01\x02", &good).unwrap_err(), KeyFileError::Malformed);

        let mut later = file.clone();
        later[7] = 2;
        assert_eq!(open_file("share", &later, &good).unwrap_err(), KeyFileError::UnknownVersion(2));
        let mut damaged = file.clone();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(open_file("share", &damaged, &good).unwrap_err(), KeyFileError::Damaged);
        for at in 0..file.len() {
            let mut changed = file.clone();
            changed[at] ^= 1;
            assert!(open_file("share", &changed, &good).is_err(), "byte {at}");
        }
        for len in 0..file.len() {
            assert!(open_file("share", &file[..len], &good).is_err(), "cut to {len}");
        }
    }
}

/// A file is sealed under its purpose, not only labelled with it.
#[test]
fn a_relabelled_file_does_not_open() {
    let key = Secret::init_with(|o| o.fill(1));
    let mut file = seal_file("share", b"secret", &Protection::RawKey(&key), &mut Counting(1)).unwrap();
    file[13..18].copy_from_slice(b"other");
    assert_eq!(open_file("other", &file, &Protection::RawKey(&key)).unwrap_err(), KeyFileError::WrongKey);
}

/// The parameters of a file come from whoever can write it: they must not cost more than the bounds.
#[test]
fn parameters_are_bounded_on_both_ways() {
    let passphrase = words("p");
    let good = Protection::Passphrase(&passphrase, CHEAP);
    let file = seal_file("share", b"secret", &good, &mut Counting(1)).unwrap();
    let bad =
        [(7, 1, 1), ((1 << 20) + 1, 1, 1), (u32::MAX, 1, 1), (8, 0, 1), (8, 17, 1), (8, 1, 0), (136, 1, 17), (8, 1, 2)];
    for (memory_kib, passes, lanes) in bad {
        let mut changed = file.clone();
        changed[9..13].copy_from_slice(&u32::to_be_bytes(memory_kib));
        changed[13..17].copy_from_slice(&u32::to_be_bytes(passes));
        changed[17..21].copy_from_slice(&u32::to_be_bytes(lanes));
        assert_eq!(open_file("share", &changed, &good).unwrap_err(), KeyFileError::Cost);
        let costly = Protection::Passphrase(&passphrase, PassphraseCost { memory_kib, passes, lanes });
        assert_eq!(seal_file("share", b"s", &costly, &mut Counting(1)).unwrap_err(), KeyFileError::Cost);
    }
    assert_eq!(PassphraseCost::default(), PassphraseCost { memory_kib: 65_536, passes: 3, lanes: 1 });
}

#[test]
fn inputs_are_bounded() {
    let (key, empty, long) = (Secret::init_with(|o| o.fill(1)), words(""), words(&"p".repeat(1025)));
    let seal = |purpose: &str, secret: &[u8], protection: &Protection<'_>| {
        seal_file(purpose, secret, protection, &mut Counting(1)).map(|file| file.len())
    };
    let raw = Protection::RawKey(&key);
    let refused = Err(KeyFileError::Input);
    assert_eq!(seal("", b"s", &raw), refused);
    assert_eq!(seal("a b", b"s", &raw), refused);
    assert_eq!(seal(&"p".repeat(65), b"s", &raw), refused);
    assert_eq!(seal("p", b"", &raw), refused);
    assert_eq!(seal("p", &vec![0; (1 << 20) + 1], &raw), refused);
    assert_eq!(seal("p", b"s", &Protection::Passphrase(&empty, CHEAP)), refused);
    assert_eq!(seal("p", b"s", &Protection::Passphrase(&long, CHEAP)), refused);
    assert_eq!(seal("p", b"s", &raw), Ok(9 + 5 + 32 + 24 + 1 + 16));
}
