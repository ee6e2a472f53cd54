//! `vectors emit N` prints random vectors of `docs/format.md`, section 17; `vectors check` reads vectors and checks them;
//! `vectors golden` and `vectors golden-keyfiles` print the frozen ones.

#[path = "../tests/vector/mod.rs"]
mod vector;

use quorate_crypto::customer::{CustomerSecret, PartSuite};
use quorate_crypto::keyfile::{PassphraseCost, Protection, seal_file};
use quorate_crypto::keyring::KeyringClass;
use quorate_crypto::sealed::Fresh;
use quorate_crypto::secret::{Secret, SecretVec};
use rand_core::CryptoRng;
use std::io::{Read, Write};
use std::process::ExitCode;
use vector::{Check, Counting, Inputs, Vector};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let result = match *args {
        ["emit", n] => n.parse().map_err(|e| format!("{n}: {e}")).and_then(emit),
        ["check"] => check(),
        ["golden"] => golden(),
        ["golden-keyfiles"] => golden_key_files(),
        _ => Err("usage: vectors emit N | check | golden | golden-keyfiles".into()),
    };
    match result {
        Ok(text) => match writeln!(std::io::stdout().lock(), "{text}") {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(e) => {
            let _ = writeln!(std::io::stderr().lock(), "{e}");
            ExitCode::FAILURE
        }
    }
}

fn emit(count: usize) -> Check<String> {
    let mut rng = getrandom::rand_core::UnwrapErr(getrandom::SysRng);
    let vectors: Vec<Vector> = (0..count).map(|i| random(i, &mut rng)).collect::<Check<_>>()?;
    serde_json::to_string_pretty(&vectors).map_err(|e| e.to_string())
}

/// The i-th vector: classes, suites, numbers of parts and lengths in turn.
fn random(i: usize, rng: &mut impl CryptoRng) -> Check<Vector> {
    use PartSuite::{Hybrid, P256};
    let (class, suites): (_, &[PartSuite]) = match i % 4 {
        0 => (KeyringClass::Cluster, &[]),
        1 => (KeyringClass::Customer, &[Hybrid]),
        2 => (KeyringClass::Customer, &[P256]),
        _ => (KeyringClass::Customer, &[P256, Hybrid, P256]),
    };
    let lengths = [1, 20, 56, 57, 300, 4096];
    let len = lengths.get(i % lengths.len()).copied().unwrap_or(1);
    Inputs::random(class, suites, len, rng).vector(rng)
}

fn check() -> Check<String> {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).map_err(|e| e.to_string())?;
    let vectors: Vec<Vector> = serde_json::from_str(&text).map_err(|e| e.to_string())?;
    let failures: Vec<String> =
        vectors.iter().enumerate().filter_map(|(i, v)| v.check().err().map(|e| format!("vector {i}: {e}"))).collect();
    if failures.is_empty() && !vectors.is_empty() {
        Ok(format!("ok {}", vectors.len()))
    } else {
        Err(failures.into_iter().take(10).collect::<Vec<_>>().join("\n"))
    }
}

/// Vectors whose inputs are counted up, one for each way a slot can look.
fn golden() -> Check<String> {
    let customer = |suite: u8, n: u8| {
        let mut bytes = vec![suite];
        bytes.extend((0..if suite == 1 { 96 } else { 32 }).map(|i: u8| i.wrapping_mul(3).wrapping_add(n)));
        CustomerSecret::decode(&bytes).map_err(|e| e.to_string())
    };
    let cases = [
        (KeyringClass::Cluster, vec![]),
        (KeyringClass::Customer, vec![customer(1, 1)?]),
        (KeyringClass::Customer, vec![customer(2, 2)?]),
        (KeyringClass::Customer, vec![customer(1, 3)?, customer(2, 4)?]),
    ];
    let mut rng = Counting(0);
    let mut vectors = Vec::new();
    for (class, customers) in cases {
        let mut inputs = Inputs::random(class, &[], 24, &mut rng);
        inputs.customers = customers;
        inputs.plaintext = b"correct horse battery staple".to_vec();
        inputs.fresh = Fresh { keys: Secret::random(&mut rng), proof: Secret::random(&mut rng) };
        vectors.push(inputs.vector(&mut rng)?);
    }
    serde_json::to_string_pretty(&vectors).map_err(|e| e.to_string())
}

/// One sealed key file for each protection.
fn golden_key_files() -> Check<String> {
    let passphrase = "correct horse battery staple";
    let raw = Secret::init_with(|o: &mut [u8; 32]| o.fill(0x42));
    let words = SecretVec::new(passphrase.as_bytes().to_vec());
    let cost = PassphraseCost { memory_kib: 64, passes: 2, lanes: 1 };
    let seal = |protection: &Protection<'_>| {
        seal_file("share", b"the secret", protection, &mut Counting(1)).map(hex::encode).map_err(|e| e.to_string())
    };
    let file = |name: &str, value: String, file: String| serde_json::json!({ "purpose": "share", "secret": hex::encode("the secret"), name: value, "file": file });
    let files = [
        file("passphrase", passphrase.into(), seal(&Protection::Passphrase(&words, cost))?),
        file("raw_key", hex::encode(raw.expose()), seal(&Protection::RawKey(&raw))?),
    ];
    serde_json::to_string_pretty(&files).map_err(|e| e.to_string())
}
