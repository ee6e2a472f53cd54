//! What is kept and what travels, with each byte changed: refused, or something else than was meant, never the same by other bytes.
//!
//! Formats whose readers no other crate sees have their test beside them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_api::client::Profile;
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::KeyShare;
use quorate_state::attest::{Attestation, Excuses};
use quorate_state::command::Command;
use quorate_state::genesis::Genesis;
use quorate_state::outcome::Outcome;
use quorate_state::request::{Endorsement, Remembered, Request, SignedRequest};
use quorate_state::store::{Table, Value, decode, encode};
use quorate_state::{access, ceremony, clock, genesis, hash, lease, secrets, target};
use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    std::fs::read_to_string(root.join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

fn golden(file: &str) -> String {
    read(&format!("crates/state/tests/golden/{file}"))
}

/// The names and the bytes of the lines that begin so. What is too long to stand there has no digits alone.
fn lines(text: &str, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let values = text.lines().filter(|line| line.starts_with(prefix)).filter_map(|line| line.split_once(": "));
    let hex = values.filter(|(_, digits)| digits.bytes().all(|b| b.is_ascii_hexdigit()));
    hex.map(|(name, digits)| (name.to_owned(), hex::decode(digits).unwrap())).collect()
}

/// `bytes` with one of them changed: each once in one bit, and once in all.
fn flipped(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len()).flat_map(move |at| {
        [1 << (at % 8), 0xff].map(|flip| {
            let mut changed = bytes.to_vec();
            changed[at] ^= flip;
            (at, changed)
        })
    })
}

/// Whatever still decodes is what its own bytes say: a value that was meant has no second form. How many flips were refused at once.
fn has_one_encoding<T>(
    name: &str,
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Option<T>,
    encode: impl Fn(&T) -> Vec<u8>,
) -> usize {
    let whole = decode(bytes).unwrap_or_else(|| panic!("{name}: the golden bytes are read"));
    assert_eq!(encode(&whole), bytes, "{name}");
    let mut refused = 0;
    for (at, changed) in flipped(bytes) {
        match decode(&changed) {
            None => refused += 1,
            Some(other) => assert_eq!(encode(&other), changed, "{name}: byte {at} is read, and not as it stands there"),
        }
    }
    for length in 0..bytes.len() {
        assert!(decode(&bytes[..length]).is_none(), "{name}: cut to {length} bytes, and read");
    }
    refused
}

fn borsh<T: BorshSerialize + BorshDeserialize>(name: &str, bytes: &[u8]) -> usize {
    has_one_encoding(name, bytes, |b| borsh::from_slice::<T>(b).ok(), |value| borsh::to_vec(value).unwrap())
}

fn value<T: Value>(name: &str, bytes: &[u8]) -> usize {
    has_one_encoding(name, bytes, |b| decode::<T>(1, b).ok(), encode)
}

#[test]
fn a_changed_byte_of_a_genesis_is_another_cluster() {
    for (name, bytes) in lines(&golden("commands.txt"), "genesis") {
        let cluster = Genesis::from_bytes(&bytes).unwrap().cluster();
        has_one_encoding(&name, &bytes, |b| Genesis::from_bytes(b).ok(), Genesis::to_bytes);
        for (at, changed) in flipped(&bytes) {
            let other = Genesis::from_bytes(&changed).map(|genesis| genesis.cluster());
            assert!(other != Ok(cluster), "byte {at}: every member pins the cluster by its genesis");
        }
    }
}

#[test]
fn a_changed_byte_of_a_command_or_a_request_is_another_one() {
    let text = golden("commands.txt");
    let (mut commands, mut requests) = (0, 0);
    for (name, bytes) in lines(&text, "command") {
        has_one_encoding(&name, &bytes, |b| Command::decode(b).ok(), Command::encode);
        commands += 1;
    }
    for (name, bytes) in lines(&text, "request") {
        value::<Request>(&name, &bytes);
        // What members endorse is the hash of it and of its signatures.
        let hash = |bytes: &[u8]| SignedRequest { bytes: bytes.to_vec(), signatures: Vec::new() }.hash();
        let bound = flipped(&bytes).all(|(_, changed)| hash(&changed) != hash(&bytes));
        assert!(bound, "{name}: a byte is not bound");
        requests += 1;
    }
    for (name, bytes) in lines(&text, "endorsement") {
        borsh::<Endorsement>(&name, &bytes);
    }
    for (name, bytes) in lines(&text, "attestation") {
        borsh::<Attestation>(&name, &bytes);
    }
    for (name, bytes) in lines(&text, "excuses") {
        borsh::<Excuses>(&name, &bytes);
    }
    assert!(commands > 10 && requests > 20, "the golden lines are found: {commands}, {requests}");
}

#[test]
fn a_changed_byte_of_an_outcome_is_another_one() {
    let outcomes = lines(&golden("outcomes.txt"), "");
    assert!(outcomes.len() > 20, "the golden lines are found: {}", outcomes.len());
    for (name, bytes) in outcomes {
        has_one_encoding(&name, &bytes, |b| borsh::from_slice::<Outcome>(b).ok(), |o| borsh::to_vec(o).unwrap());
    }
}

#[test]
fn a_changed_byte_of_a_share_is_another_share() {
    let share = KeyShare::new(3, &Secret::init_with(|s| s[0] = 5)).unwrap().to_secret();
    let decode = |b: &[u8]| KeyShare::from_secret(b).ok();
    has_one_encoding("share", share.expose(), decode, |share| share.to_secret().expose().to_vec());
}

/// Flips every byte of a row of the state; nothing where it is read elsewhere.
fn row(key: &[u8], bytes: &[u8]) -> Option<usize> {
    let name = hex::encode(key);
    let of = |table: Table| key[0] == table as u8;
    let one: fn(&str, &[u8]) -> usize = match () {
        () if of(Table::Hash) => value::<hash::StateHash>,
        () if of(Table::Meta) => match &key[1..] {
            b"genesis" => value::<Genesis>,
            b"roster" => value::<genesis::Roster>,
            b"administrators" => value::<genesis::Administrators>,
            b"client-roots" => value::<genesis::ClientRoots>,
            b"clock" => value::<clock::ClusterClock>,
            b"absent" => value::<quorate_state::absence::Records>,
            other if other.starts_with(b"executor") => value::<target::Executor>,
            _ => value::<u64>,
        },
        () if of(Table::Secret) => value::<secrets::Secret>,
        () if of(Table::Version) => value::<secrets::SealedHeader>,
        () if of(Table::Payload) => value::<secrets::SealedPayload>,
        () if of(Table::Namespace) => value::<access::Namespace>,
        () if of(Table::Mount) => value::<access::Mount>,
        () if of(Table::Policy) => value::<access::Policy>,
        () if of(Table::Keyring) => value::<access::Keyring>,
        () if of(Table::CustomerKey) => value::<access::CustomerKey>,
        () if of(Table::Ceremony) => value::<ceremony::Session>,
        () if of(Table::CeremonyFault) => value::<ceremony::Fault>,
        () if of(Table::Target) => value::<target::Target>,
        () if of(Table::Role) => value::<target::Role>,
        () if of(Table::Lease) => value::<lease::Lease>,
        () if of(Table::Request) => value::<Remembered>,
        () if of(Table::Quarantine) => value::<target::Quarantine>,
        () if of(Table::LeaseSweep) => value::<lease::Sweep>,
        // Sets, counts and times.
        () if bytes.len() == 1 => value::<()>,
        () if bytes.len() == 5 => value::<u32>,
        () if bytes.len() == 9 => value::<u64>,
        () => return None,
    };
    Some(one(&name, bytes))
}

#[test]
fn a_changed_byte_of_a_row_of_the_state_is_another_row() {
    let rows = lines(&golden("state.txt"), "row");
    let mut flipped = 0;
    for (name, bytes) in &rows {
        let key = hex::decode(name.trim_start_matches("row ")).unwrap();
        let refused = row(&key, bytes).unwrap_or_else(|| panic!("{name}: of which type are its values?"));
        // The version at least.
        assert!(refused >= 2, "{name}: nothing was refused");
        flipped += 1;
    }
    assert!(flipped > 40, "the golden rows are found: {flipped}");
}

/// Of a text a space more says the same. A key that is misspelt never does.
#[test]
fn a_changed_byte_of_a_cluster_file_is_refused_or_said() {
    let text = read("tests/tests/golden/cluster.toml");
    let whole = Profile::parse(&text).unwrap();
    let mut refused = 0;
    for (at, changed) in flipped(text.as_bytes()) {
        let parsed = std::str::from_utf8(&changed).ok().and_then(|text| Profile::parse(text).ok());
        let Some(parsed) = parsed else {
            refused += 1;
            continue;
        };
        let again = Profile::parse(&parsed.to_toml()).unwrap();
        assert_eq!(again.to_toml(), parsed.to_toml(), "byte {at}: what is read is written alike");
        let line = text[..at].rfind('\n').map_or(0, |end| end + 1);
        let in_key = text[line..].split('\n').next().unwrap().find(" = ").is_some_and(|end| at < line + end);
        assert!(!in_key || parsed.to_toml() == whole.to_toml(), "byte {at}: a key that nobody knows is not left out");
    }
    assert!(refused > text.len() / 2, "{refused} refused");
}
