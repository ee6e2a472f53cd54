//! The file of the ML-KEM key: frozen, and refused for each thing that can be wrong with it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "../../../fuzz/driver.rs"]
mod driver;

use quorate_crypto::keyfile::KeyFileError;
use quorate_crypto::secret::Secret;
use quorate_fragment::kem::{KemError, WrappedKem};
use std::convert::Infallible;

/// The customer key's id, the seed, the key of the seed as the token encrypts it here, the file: hexadecimal.
const GOLDEN: &str = include_str!("golden/kem.txt");

/// A token that does no more than change each byte: what AES does there is SoftHSM's affair, in `token`.
fn flip(iv: &[u8; 16], bytes: &[u8; 32]) -> [u8; 32] {
    std::array::from_fn(|at| bytes[at] ^ iv[at % 16] ^ 0x5a)
}

fn decrypt(iv: &[u8; 16], bytes: &[u8; 32]) -> Result<Secret<32>, Infallible> {
    Ok(Secret::from_slice(&flip(iv, bytes)).unwrap())
}

fn hex(digits: &str) -> Vec<u8> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
}

fn golden() -> Vec<Vec<u8>> {
    GOLDEN.lines().map(hex).collect()
}

/// Bytes that count up: what a golden file is made with.
struct Counting(u8);

impl rand_core::TryRng for Counting {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_be_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_be_bytes(bytes))
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for byte in out {
            self.0 = self.0.wrapping_add(1);
            *byte = self.0;
        }
        Ok(())
    }
}

impl rand_core::TryCryptoRng for Counting {}

#[test]
fn wrapped_ml_kem_keys_are_what_they_were() {
    let lines = golden();
    let [id, seed, file] = &lines[..] else { panic!("three lines") };
    let id: [u8; 32] = id[..].try_into().unwrap();
    let wrapped = WrappedKem::decode(file, &id).unwrap();
    assert_eq!(wrapped.encode(), *file);
    assert_eq!(wrapped.open(decrypt).unwrap().unwrap().expose()[..], seed[..]);
    let made = WrappedKem::seal(&Secret::from_slice(seed).unwrap(), id, &mut Counting(0), |iv, key| {
        Ok::<_, Infallible>(flip(iv, key.expose()))
    });
    let text: String = made.unwrap().unwrap().encode().iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(text, GOLDEN.lines().nth(2).unwrap());
}

#[test]
fn each_failure_has_its_own_error() {
    let lines = golden();
    let [id, _, file] = &lines[..] else { panic!("three lines") };
    let id: [u8; 32] = id[..].try_into().unwrap();
    let read = |bytes: &[u8]| WrappedKem::decode(bytes, &id).and_then(|wrapped| wrapped.open(decrypt).unwrap()).err();
    let changed = |at: usize| {
        let mut bytes = file.clone();
        bytes[at] ^= 3;
        read(&bytes)
    };
    assert_eq!(changed(0), Some(KemError::Malformed));
    assert_eq!(changed(7), Some(KemError::UnknownVersion(2)));
    assert_eq!(changed(8), Some(KemError::OtherKey));
    for at in 40..88 {
        assert_eq!(changed(at), Some(KemError::DoesNotOpen(KeyFileError::WrongKey)), "byte {at}");
    }
    assert_eq!(changed(file.len() - 1), Some(KemError::DoesNotOpen(KeyFileError::Damaged)));
    for length in 0..file.len() {
        assert!(read(&file[..length]).is_some(), "cut to {length}");
    }
}

#[test]
fn a_changed_byte_anywhere_is_refused() {
    let lines = golden();
    let id: [u8; 32] = lines[0][..].try_into().unwrap();
    for at in 0..lines[2].len() {
        for bit in 0..8 {
            let mut file = lines[2].clone();
            file[at] ^= 1 << bit;
            let read = WrappedKem::decode(&file, &id).and_then(|wrapped| wrapped.open(decrypt).unwrap());
            assert!(read.is_err(), "byte {at}, bit {bit}");
        }
    }
}

/// Mutations of a good file: read as what they are, or refused, never a panic.
#[test]
fn every_file_for_a_moment() {
    let lines = golden();
    let id: [u8; 32] = lines[0][..].try_into().unwrap();
    let tried = driver::fuzz("wrapped-kem", vec![lines[2].clone()], |input| {
        let Ok(wrapped) = WrappedKem::decode(input, &id) else { return };
        assert_eq!(wrapped.encode(), input, "a file has one encoding");
        let _ = wrapped.open(decrypt).unwrap();
    });
    assert!(tried > 0);
}
