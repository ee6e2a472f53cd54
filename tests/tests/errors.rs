//! Every code of docs/errors.md is produced by some test, or says here why none produces it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use quorate_api::status::TABLE;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// Codes that no test produces, and why.
const UNPRODUCED: &[(&str, &str)] = &[
    (
        "engine_missing",
        "takes a program without an engine, and tests are built with all of them; crates/server/src/access.rs has the rule",
    ),
    (
        "expiry_paused",
        "a refusal of a leader's own command, which no client sends: crates/state/tests/machine/clock.rs has the refusal",
    ),
    ("overloaded", "takes more requests under way than a test machine sends; crates/raft/tests has the busy leader"),
    ("shutting_down", "a moment of a process that ends, after which the connection is gone: clients see unreachable"),
    ("storage_failed", "takes a store that fails under a running node; crates/raft/tests has the failing store"),
    ("version_mismatch", "takes a node of another release, and there is one release"),
];

/// What only lists codes, and so proves nothing.
const LISTS: [&str; 2] = ["tests/tests/errors.rs", "crates/api/src/status/tests.rs"];

#[test]
fn every_code_is_produced_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut tests = Vec::new();
    rust_files(&root.join("tests"), &mut tests);
    rust_files(&root.join("crates"), &mut tests);
    let texts: BTreeMap<String, String> = tests
        .into_iter()
        .filter_map(|path| {
            let name = path.strip_prefix(root).unwrap().display().to_string();
            let text = fs::read_to_string(&path).unwrap();
            let is_test = name.contains("/tests/") || name.ends_with("/tests.rs");
            let tested = if is_test { Some(text) } else { text.split_once("#[cfg(test)]").map(|(_, t)| t.to_owned()) };
            tested.filter(|_| !LISTS.contains(&name.as_str())).map(|text| (name, text))
        })
        .collect();
    assert!(texts.len() > 50, "the tests are found: {:?}", texts.keys());
    let mut missing = Vec::new();
    for row in TABLE {
        // As a literal, or by the constant of that name.
        let (literal, constant) = (format!("\"{}\"", row.code), row.code.to_uppercase());
        let family = format!("\"{}_", row.code);
        let produced = texts.values().any(|t| t.contains(&literal) || word(t, &constant) || t.contains(&family));
        let explained = UNPRODUCED.iter().any(|(code, _)| *code == row.code);
        assert!(!(produced && explained), "{} is produced by a test, and explained here all the same", row.code);
        if !produced && !explained {
            missing.push(row.code);
        }
    }
    assert!(missing.is_empty(), "these codes of docs/errors.md are produced by no test: {missing:?}");
}

fn word(text: &str, word: &str) -> bool {
    text.match_indices(word).any(|(at, _)| {
        let part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part)
    })
}

fn rust_files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}
