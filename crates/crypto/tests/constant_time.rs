//! What this crate does with secrets executes the same number of instructions whatever they are.
//!
//! Counted by callgrind, not timed: the same on every machine, however busy. It sees branches, early exits and loops; it does
//! not see which memory is touched, nor instructions whose own time varies.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::path::PathBuf;
use std::process::Command;

/// `examples/constant_time.rs`, built beside this test.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.parent().unwrap().parent().unwrap().join("examples/constant_time");
    assert!(program.is_file(), "{} is missing: cargo build -p quorate-crypto --examples", program.display());
    program
}

/// How many instructions a variant of a case takes, start and end of the process included.
fn instructions(case: &str, variant: usize) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program());
    // The environment lies on the stack, and its size moves what is there.
    command.args([case, &variant.to_string()]).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = command.output().expect("valgrind runs: make setup installs it");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{case} {variant}: {said}");
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1));
    collected.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{case} {variant}: {said}"))
}

fn counts(case: &str) -> [u64; 4] {
    let variants: Vec<_> = (0..4).map(|v| (case.to_owned(), v)).collect();
    let run = |(case, v): (String, usize)| std::thread::spawn(move || instructions(&case, v));
    let threads: Vec<_> = variants.into_iter().map(run).collect();
    let counted: Vec<u64> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    counted.try_into().unwrap()
}

fn alike(counts: &[u64; 4]) -> bool {
    counts.iter().all(|n| *n == counts[0])
}

#[test]
fn what_depends_on_a_secret_takes_the_same_instructions() {
    for case in ["compare", "key-file", "key-commitment", "share", "partial", "sign"] {
        let counts = counts(case);
        assert!(alike(&counts), "{case}: instructions of four secrets: {counts:?}");
    }
}

/// That the count sees what it is there for.
#[test]
fn an_early_exit_and_a_secret_branch_are_found() {
    for case in ["planted-early-exit", "planted-lookup"] {
        let counts = counts(case);
        assert!(!alike(&counts), "{case}: a planted leak is found: {counts:?}");
    }
}
