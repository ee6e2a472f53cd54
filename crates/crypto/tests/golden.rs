//! The frozen formats: these files never change. A failure here means that stored secrets would no longer open.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod vector;

use quorate_crypto::keyfile::{PassphraseCost, Protection, open_file, seal_file};
use quorate_crypto::sealed::Header;
use quorate_crypto::secret::{Secret, SecretVec};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use vector::{Counting, Vector};

const SEALED: &str = include_str!("golden/sealed.json");
const KEY_FILES: &str = include_str!("golden/keyfile.json");

#[test]
fn sealed_versions_are_what_they_were() {
    let vectors: Vec<Vector> = serde_json::from_str(SEALED).unwrap();
    let kinds: Vec<Vec<u8>> = vectors
        .iter()
        .map(|v| {
            let header = Header::decode(&hex::decode(&v.header).unwrap()).unwrap();
            header.slot().parts.iter().map(|p| p.suite.as_u8()).collect()
        })
        .collect();
    assert_eq!(kinds[..3], [vec![], vec![1], vec![2]], "cluster, hybrid, P-256 only");
    assert_eq!(kinds[3].len(), 2);
    for (i, vector) in vectors.iter().enumerate() {
        vector.check().unwrap_or_else(|e| panic!("vector {i}: {e}"));
    }
}

#[test]
fn a_changed_vector_is_noticed() {
    let vectors: Vec<Vector> = serde_json::from_str(SEALED).unwrap();
    let changed = |change: fn(&mut Vector)| {
        let mut vector = vectors[1].clone();
        change(&mut vector);
        vector.check().unwrap_err()
    };
    changed(|v| v.wrap.path.push('x'));
    changed(|v| v.obj.created += 1);
    changed(|v| v.ss1 = v.y.clone());
    changed(|v| v.kcs[0].kc = v.y.clone());
    changed(|v| v.fresh_w = v.y.clone());
    changed(|v| v.plaintext.push_str("00"));
    changed(|v| v.class = "cluster".into());
    changed(|v| v.dleq.context.push_str("00"));
}

#[derive(Deserialize)]
struct KeyFile {
    purpose: String,
    secret: String,
    passphrase: Option<String>,
    raw_key: Option<String>,
    file: String,
}

#[test]
fn key_files_are_what_they_were() {
    let files: Vec<KeyFile> = serde_json::from_str(KEY_FILES).unwrap();
    assert_eq!(files.len(), 2);
    for file in &files {
        let passphrase = file.passphrase.as_ref().map(|p| SecretVec::new(p.clone().into_bytes()));
        let raw = file.raw_key.as_ref().map(|k| Secret::from_slice(&hex::decode(k).unwrap()).unwrap());
        let cost = PassphraseCost { memory_kib: 64, passes: 2, lanes: 1 };
        let protection = match (&passphrase, &raw) {
            (Some(p), None) => Protection::Passphrase(p, cost),
            (None, Some(k)) => Protection::RawKey(k),
            _ => panic!("one of the two"),
        };
        let secret = hex::decode(&file.secret).unwrap();
        let bytes = hex::decode(&file.file).unwrap();
        assert_eq!(open_file(&file.purpose, &bytes, &protection).unwrap().expose(), secret);
        let again = seal_file(&file.purpose, &secret, &protection, &mut Counting(1)).unwrap();
        assert_eq!(hex::encode(again), file.file);
    }
}

/// Whoever regenerates the golden file to make the tests pass has to change this line too, and to answer for it.
#[test]
fn golden_files_are_untouched() {
    assert_eq!(hex::encode(Sha256::digest(SEALED)), "975bfd6233993ae8d1614222d8fbe34f7c178adb26fc8ca2cb428b3b45fea132");
    assert_eq!(
        hex::encode(Sha256::digest(KEY_FILES)),
        "c272d90c56faccfc16c95e41cf32e12539c634fe5390ee4ab4d3a496f818cf54"
    );
}
