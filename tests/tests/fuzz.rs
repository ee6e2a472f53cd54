//! A short run of every fuzz target in every build. The long one: `make fuzz`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking, and these say how often they tried"
)]

#[path = "../../fuzz/driver.rs"]
mod driver;
#[path = "../../fuzz/engines.rs"]
mod engines;
#[path = "../../fuzz/replay.rs"]
mod replay;
#[path = "../../fuzz/targets.rs"]
mod targets;

use driver::fuzz;
use quorate_state::request::{Signature, SignedRequest};
use replay::{Chunk, Script};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use targets::{TARGETS, hex};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// Every text of hexadecimal digits in a golden document, as bytes, longest first.
fn hex_texts(value: &Value, found: &mut Vec<Vec<u8>>) {
    match value {
        Value::String(text) if text.len() > 16 && text.bytes().all(|b| b.is_ascii_hexdigit()) => found.push(hex(text)),
        Value::Array(all) => all.iter().for_each(|v| hex_texts(v, found)),
        Value::Object(all) => all.values().for_each(|v| hex_texts(v, found)),
        _ => {}
    }
}

fn json_seeds(path: &str) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    hex_texts(&serde_json::from_str(&read(path)).unwrap(), &mut found);
    found.sort();
    found.dedup();
    found
}

/// The values of `name: hexadecimal digits` whose name begins so. What is too long to stand there has no digits alone.
fn line_seeds(path: &str, prefix: &str) -> Vec<Vec<u8>> {
    let text = read(path);
    let values = text.lines().filter(|l| l.starts_with(prefix)).filter_map(|l| l.split_once(": "));
    values.map(|(_, v)| v).filter(|v| v.bytes().all(|b| b.is_ascii_hexdigit())).map(hex).collect()
}

/// What each target begins with, besides what is kept for it.
fn seeds() -> BTreeMap<&'static str, Vec<Vec<u8>>> {
    let crypto = |file: &str| json_seeds(&format!("crates/crypto/tests/golden/{file}"));
    let state = |file: &str, prefix: &str| line_seeds(&format!("crates/state/tests/golden/{file}"), prefix);
    let sealed = crypto("sealed.json");
    let ceremony = crypto("ceremony.json");
    let text = |text: &str| vec![text.as_bytes().to_vec()];
    let mut values = state("state.txt", "row");
    values.extend(state("outcomes.txt", "").into_iter().map(|o| [&[1], o.as_slice()].concat()));
    let signature = || Signature { key: [7; 32], signature: [9; 64] };
    let sign = |bytes| borsh::to_vec(&SignedRequest { bytes, signatures: vec![signature()] }).unwrap();
    let mut signed: Vec<Vec<u8>> = state("commands.txt", "request").into_iter().map(sign).collect();
    signed.extend(state("commands.txt", "endorsement"));
    let names = ["team/app/db-1", "spiffe://example.org/app/worker", "a..b/%2e%2e/ü", "ffffffff"];
    let verifier = "SCRAM-SHA-256$4096:MDEyMzQ1Njc4OWFiY2RlZg==$0Y0GJxU0BMvxfcEDlYjMXJmDIl2XQzKWYqCVJYsQ5iU=:T3G3rEX3qJuxvGCPTYJ0NSGn7E1gWhmWqpPjXIbAtqo=";
    let policy = "permit (principal in Quorate::Group::\"app\", action == Quorate::Action::\"secret:open\", resource) when { context.a > 1 };";
    let template = "ALTER ROLE {{name}} IN DATABASE \"a\" SET app.x TO {{lease}}, 'it''s', 1.5;\nGRANT g TO {{name}};\nCOMMENT ON ROLE {{name}} IS {{expires}}";
    BTreeMap::from([
        ("header", sealed.clone()),
        ("labels", sealed.iter().filter_map(|h| Some(h.get(4..200)?.to_vec())).collect()),
        ("customer-keys", sealed.clone()),
        ("points", sealed.clone()),
        ("key-file", crypto("keyfile.json")),
        ("backup-share", line_seeds("crates/crypto/tests/golden/backup.txt", "share")),
        ("storage-value", vec![[&[1][..], &[7; 60]].concat()]),
        ("ceremony-message", ceremony.clone()),
        ("ceremony-state", ceremony),
        ("command", state("commands.txt", "command")),
        ("signed-request", signed),
        ("genesis", state("commands.txt", "genesis")),
        ("state-values", values),
        ("audit-log", text(&read("crates/audit/tests/golden/v1.jsonl"))),
        (
            "cluster-toml",
            text(
                "cluster = \"ff\"\nthreshold = 2\n[[members]]\nindex = 1\nname = \"n1\"\nkey = \"00\"\napi_address = \"a:1\"\n",
            ),
        ),
        ("identity-pem", text("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n")),
        ("certificates", vec![certificate()]),
        ("policy", text(policy)),
        ("names", names.iter().flat_map(|n| text(n)).collect()),
        ("scram-verifier", text(verifier)),
        ("role-template", text(template)),
        ("protobuf", vec![protobuf()]),
        ("relayed", line_seeds("crates/api/tests/golden/relay.txt", "")),
        ("issued", vec![b"\x01\x02ab\x00\x03xyz\x01_\x00\x00".to_vec()]),
        ("username", text("{{identity:8}}_{{role}}_{{namespace}}\nteam/App-\u{e4}")),
        ("missing-rights", text("GRANT a TO b -- in database app")),
        // What real servers said lies in `fuzz/corpus`; `hostile_bytes` leaves it there.
        ("engine-postgres", says(b"R\0\0\0\x08\0\0\0\0Z\0\0\0\x05I")),
        ("engine-mariadb", says(b"\x07\0\0\x02\0\0\0\x02\0\0\0")),
        ("engine-redis", says(b"+OK\r\n")),
        ("engine-rabbitmq", says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]")),
        ("engine-kubernetes", says(b"HTTP/1.1 200 OK\r\nContent-Length: 12\r\n\r\n{\"items\":[]}")),
        ("engine-aws", says(b"HTTP/1.1 403 x\r\nContent-Length: 24\r\n\r\n<Error><Code>A</Code></Error>")),
    ])
}

/// A server that says the same to everything, on its first two connections.
fn says(answer: &[u8]) -> Vec<Vec<u8>> {
    let chunk = |n: u8| Chunk { connection: n % 2, bytes: answer.to_vec() };
    vec![Script((0..60).map(chunk).collect()).encode()]
}

/// `QUORATE_WRITE_CORPUS=1` leaves the seeds in `fuzz/corpus`, where libFuzzer begins.
fn leave(seeds: &BTreeMap<&'static str, Vec<Vec<u8>>>) {
    for (target, all) in seeds {
        let folder = root().join("fuzz/corpus").join(target);
        std::fs::create_dir_all(&folder).unwrap();
        let small = all.iter().filter(|seed| seed.len() <= 8 << 10).take(16);
        small.enumerate().for_each(|(n, seed)| std::fs::write(folder.join(format!("seed-{n:02}")), seed).unwrap());
    }
}

fn certificate() -> Vec<u8> {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut params = rcgen::CertificateParams::default();
    let id = "spiffe://example.org/app/worker".try_into().unwrap();
    params.subject_alt_names = vec![rcgen::SanType::URI(id)];
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    params.self_signed(&key).unwrap().der().to_vec()
}

fn protobuf() -> Vec<u8> {
    use prost::Message as _;
    let item = quorate_api::vault::OpenedItem { number: 300, refusal: "denied".to_owned(), ..Default::default() };
    quorate_api::vault::OpenReply { items: vec![item], ..Default::default() }.encode_to_vec()
}

#[test]
fn every_target_for_a_moment() {
    let mut seeds = seeds();
    if std::env::var_os("QUORATE_WRITE_CORPUS").is_some() {
        leave(&seeds);
    }
    assert_eq!(seeds.len(), TARGETS.len(), "a target has no seeds, or seeds have no target");
    for target in TARGETS {
        let own = seeds.remove(target.name).unwrap_or_else(|| panic!("{}: no seeds", target.name));
        assert!(!own.is_empty(), "{}: no seeds", target.name);
        let tries = fuzz(target.name, own, target.run);
        println!("{:<18} {tries} inputs", target.name);
        assert!(tries > 0, "{}: nothing was tried", target.name);
    }
}

/// What a decoder must never do is noticed: here it does it.
#[test]
fn a_decoder_that_panics_is_found() {
    let broken = |input: &[u8]| assert!(input.first() != Some(&b'q') || input.len() < 5 || input[4] != 0xff);
    let found = std::panic::catch_unwind(|| fuzz("planted", vec![b"quorate".to_vec()], broken));
    let _ = std::fs::remove_file(root().join("fuzz/crashes/planted-1"));
    assert!(found.is_err(), "a decoder that panics on a byte is found in a second");
}
