//! Every format has a version rule, golden bytes and a row in `docs/formats.md`.
//!
//! `QUORATE_WRITE_GOLDEN=1` writes the golden files of this folder anew. Whoever needs that owes every cluster that runs a reader
//! of the old form.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use quorate_api::client::Profile;
use quorate_audit::disk::Segments;
use quorate_audit::{Corruption, VerifyError, What};
use quorate_crypto::keyfile::{KeyFileError, Protection, open_file};
use quorate_crypto::reshare::{Message, MessageError};
use quorate_crypto::secret::Secret;
use quorate_crypto::storage::StorageKey;
use quorate_crypto::threshold::KeyShare;
use quorate_state::command::Command;
use quorate_state::genesis::{BadGenesis, Genesis};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::store::{StoreError, decode, encode};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

/// Compares with a golden file of this folder, or writes it.
#[track_caller]
fn frozen(file: &str, now: &str) {
    let path = format!("tests/tests/golden/{file}");
    if std::env::var_os("QUORATE_WRITE_GOLDEN").is_some() {
        std::fs::write(root().join(&path), now).unwrap();
    }
    for (at, (now, then)) in now.lines().zip(read(&path).lines()).enumerate() {
        assert_eq!(now, then, "{path}, line {}", at + 1);
    }
    assert_eq!(now, read(&path), "{path}");
}

fn hex(bytes: &[u8]) -> String {
    quorate_state::ids::hex(bytes)
}

fn bytes(digits: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(digit).collect()
}

/// The cells of each row of the table.
fn rows() -> Vec<Vec<String>> {
    let page = read("docs/formats.md");
    let rows = page.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| format"));
    rows.map(|row| row.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
}

/// Every text of a Rust source, by its path.
fn sources() -> Vec<(String, String)> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, found);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join("crates"), &mut found);
    walk(&root().join("tests/tests"), &mut found);
    let named = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
        (name, std::fs::read_to_string(path).unwrap())
    };
    found.into_iter().map(named).collect()
}

#[test]
fn the_table_is_true() {
    let (rows, sources) = (rows(), sources());
    assert!(rows.len() > 15, "the rows are found: {}", rows.len());
    for row in &rows {
        let [format, version, newer, frozen, shown, changed] = &row[..] else { panic!("six cells: {row:?}") };
        let own = version.starts_with("that of");
        assert!(!version.is_empty() && (own || !newer.is_empty()), "{format}: has a rule for versions");
        let file = frozen.trim_matches('`');
        assert!(root().join(file).is_file(), "{format}: {file} is there");
        for (what, test) in [("its version", shown), ("each of its bytes", changed)] {
            let test = format!("fn {}()", test.trim_matches('`'));
            let used = sources.iter().any(|(_, text)| text.contains(&test));
            assert!(used, "{format}: {what} is tried by a test, and `{test}` is none");
        }
    }
}

/// A format whose version is a constant of the code is in one of these files; each is in a row above.
#[test]
fn no_versioned_format_is_left_out() {
    let known = [
        ("crates/api/src/relay.rs", "relayed question"),
        ("crates/audit/src/encoding.rs", "audit log"),
        ("crates/crypto/src/backup.rs", "share of a backup"),
        ("crates/crypto/src/keyfile.rs", "key file"),
        ("crates/crypto/src/secret/fields.rs", "what a target issues"),
        ("crates/fragment/src/kem.rs", "wrapped ML-KEM key"),
        ("crates/crypto/src/reshare/ceremony.rs", "ceremony in the state"),
        ("crates/crypto/src/reshare/message.rs", "ceremony message"),
        ("crates/crypto/src/storage.rs", "value in a node's store"),
        ("crates/raft/src/codec.rs", "log entry"),
        ("crates/raft/src/snapshot.rs", "image of the state"),
        ("crates/raft/src/witness.rs", "log witness"),
        ("crates/server/src/format.rs", "data folder"),
        ("crates/state/src/command.rs", "signed request"),
        ("crates/state/src/store.rs", "tables, keys and values"),
    ];
    let marks = ["const VERSION", "struct Version1", "const FORMAT"];
    let versioned: BTreeSet<String> = sources()
        .into_iter()
        .filter(|(name, text)| name.contains("/src/") && marks.iter().any(|mark| text.contains(mark)))
        .map(|(name, _)| name)
        .collect();
    let rows = rows();
    for file in &versioned {
        let (_, row) = known.iter().find(|(known, _)| known == file).unwrap_or_else(|| {
            panic!("{file} has a version: name its format here, and in docs/formats.md");
        });
        assert!(rows.iter().any(|cells| cells[0].starts_with(row)), "docs/formats.md has a row of `{row}`");
    }
    assert_eq!(versioned.len(), known.len(), "each is still there: {versioned:?}");
}

fn storage() -> StorageKey {
    StorageKey::new(&Secret::init_with(|k| k.fill(0x42)))
}

#[test]
fn stored_bytes_are_frozen() {
    let share = KeyShare::new(3, &Secret::init_with(|s| s[0] = 5)).unwrap();
    let sealed = storage().seal(&[b"state", b"key"], b"value", [7; 24]).unwrap();
    frozen("stored.txt", &format!("share: {}\nvalue: {}\n", hex(share.to_secret().expose()), hex(&sealed)));
    let value = read("tests/tests/golden/stored.txt").lines().nth(1).unwrap().replace("value: ", "");
    assert_eq!(storage().open(&[b"state", b"key"], &bytes(&value)), Ok(b"value".to_vec()));
}

const CLUSTER: &str = include_str!("golden/cluster.toml");

#[test]
fn text_formats_are_frozen() {
    let profile = Profile::parse(CLUSTER).unwrap();
    assert_eq!(profile.to_toml(), CLUSTER, "what is read is written alike");
    let newer = format!("later = 1\n{CLUSTER}");
    let why = Profile::parse(&newer).unwrap_err().to_string();
    assert!(why.contains("later"), "an unknown key is refused by its name: {why}");
}

struct OneSegment(Vec<u8>);

impl Segments for OneSegment {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(vec!["audit-00000001.jsonl".to_owned()])
    }

    fn read(&self, _: &str) -> io::Result<Vec<u8>> {
        Ok(self.0.clone())
    }
}

/// The first line of a golden text that begins so, as bytes.
fn golden_line(file: &str, prefix: &str) -> Vec<u8> {
    let text = read(file);
    let line = text.lines().find(|l| l.starts_with(prefix)).unwrap_or_else(|| panic!("{file}: no {prefix}"));
    bytes(line.split_once(": ").unwrap().1)
}

fn newer(mut bytes: Vec<u8>, at: usize) -> Vec<u8> {
    bytes[at] = 2;
    bytes
}

#[test]
fn what_is_newer_is_refused() {
    // Key files, by their number.
    let files: serde_json::Value = serde_json::from_str(&read("crates/crypto/tests/golden/keyfile.json")).unwrap();
    let raw = bytes(files[1]["file"].as_str().unwrap());
    let key = Secret::init_with(|k| k.fill(0x42));
    let opened = |file: &[u8]| open_file("share", file, &Protection::RawKey(&key)).map(drop);
    assert_eq!((opened(&raw), opened(&newer(raw.clone(), 7))), (Ok(()), Err(KeyFileError::UnknownVersion(2))));

    // Values of a node's store: as foreign as a damaged one.
    let sealed = golden_line("tests/tests/golden/stored.txt", "value");
    assert!(storage().open(&[b"state", b"key"], &newer(sealed, 0)).is_err());

    // Ceremony messages, by their number.
    let ceremony: serde_json::Value = serde_json::from_str(&read("crates/crypto/tests/golden/ceremony.json")).unwrap();
    let message = bytes(ceremony["key generation"]["keys of 1"].as_str().unwrap());
    assert!(Message::decode(&message).is_ok());
    assert_eq!(Message::decode(&newer(message, 0)).err(), Some(MessageError::Version(2)));

    let commands = "crates/state/tests/golden/commands.txt";
    let genesis = golden_line(commands, "genesis");
    assert!(Genesis::from_bytes(&genesis).is_ok());
    let refused = Genesis::from_bytes(&newer(genesis, 0)).unwrap_err();
    assert_eq!(refused, BadGenesis::Format);
    assert!(refused.to_string().contains("newer version"), "{refused}");

    let command = golden_line(commands, "command expire");
    assert!(Command::decode(&command).is_ok());
    assert_eq!(Command::decode(&newer(command, 0)), Err(Refusal::Malformed));

    // Outcomes, and with them every value of the state.
    let outcome = encode(&Outcome::Done);
    assert_eq!(decode::<Outcome>(0x12, &outcome), Ok(Outcome::Done));
    assert_eq!(decode::<Outcome>(0x12, &newer(outcome, 0)), Err(StoreError::Corrupt { table: 0x12 }));

    // The audit log, by the number of the segment and of the record. Each line is closed by the hash of its body.
    let log = read("crates/audit/tests/golden/v1.jsonl");
    let reclosed = |line: &str, from: &str, to: &str| {
        let body = line.split(",\"hash\":").next().unwrap().replacen(from, to, 1) + "}";
        let hash = hex(&quorate_crypto::encoding::hash32("audit-segment", &[body.as_bytes()]));
        format!("{},\"hash\":\"{hash}\"}}\n", &body[..body.len() - 1])
    };
    let first = log.lines().next().unwrap();
    assert_eq!(reclosed(first, "", "").trim_end(), first, "the golden line is closed so");
    let segment = OneSegment(reclosed(first, "\"format\":1", "\"format\":2").into_bytes());
    let found = quorate_audit::read_from(&segment, None).and_then(|mut records| records.next().transpose());
    let Err(VerifyError::Corrupt(Corruption { what: What::UnknownFormat(2), .. })) = found else {
        panic!("a newer segment is refused by its number: {found:?}")
    };
}

/// `file message.field = number: type` for each field, in the order of the files.
fn proto_fields() -> Vec<String> {
    let mut found = Vec::new();
    for file in ["custodian", "peer", "raft", "vault"] {
        let text = read(&format!("proto/{file}.proto"));
        let mut stack: Vec<String> = Vec::new();
        for line in text.lines().map(|line| line.split("//").next().unwrap_or_default().trim()) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["message" | "enum" | "oneof" | "service", name, "{", ..] => {
                    stack.push(name.to_owned());
                    if line.ends_with('}') {
                        stack.pop();
                    }
                }
                ["rpc", ..] => found.push(format!("{file} {}: {}", stack.join("."), line.trim_end_matches(" {}"))),
                ["}"] => drop(stack.pop()),
                [.., name, "=", number] if !stack.is_empty() => {
                    let kind = words[..words.len() - 3].join(" ");
                    found.push(format!("{file} {}.{name} = {}: {kind}", stack.join("."), number.trim_end_matches(';')));
                }
                _ => {}
            }
        }
    }
    found
}

/// A field that was there keeps its number, its type and its name; a new one is added to the golden file too.
#[test]
fn protobuf_fields_keep_their_numbers() {
    let now = proto_fields();
    assert!(now.len() > 150 && now.iter().any(|l| l == "vault Ceremony.keyring_id = 6: bytes"), "{} fields", now.len());
    let then = read("tests/tests/golden/proto.txt");
    let gone: Vec<&str> = then.lines().filter(|line| !now.iter().any(|n| n == line)).collect();
    assert!(gone.is_empty(), "these are frozen, and neither change nor go: {gone:?}");
    let new: Vec<&String> = now.iter().filter(|n| !then.lines().any(|line| line == *n)).collect();
    assert!(new.is_empty(), "add these lines to tests/tests/golden/proto.txt, each after the one before it: {new:?}");
    frozen("proto.txt", &(now.join("\n") + "\n"));
}

/// Of two encodings one would be signed or hashed and the other be stored. (Found by fuzzing a stored ceremony.)
#[test]
fn maps_and_sets_have_one_encoding() {
    let map = |bytes: &[u8]| borsh::from_slice::<BTreeMap<u8, u8>>(bytes).is_ok();
    assert!(map(&[2, 0, 0, 0, 1, 7, 2, 7]), "in order");
    assert!(!map(&[2, 0, 0, 0, 2, 7, 1, 7]), "out of order");
    assert!(!map(&[2, 0, 0, 0, 1, 7, 1, 7]), "a key twice");
    let set = |bytes: &[u8]| borsh::from_slice::<BTreeSet<u8>>(bytes).is_ok();
    assert!(set(&[2, 0, 0, 0, 1, 2]), "in order");
    assert!(!set(&[2, 0, 0, 0, 2, 1]) && !set(&[2, 0, 0, 0, 1, 1]), "out of order, and one twice");
}
