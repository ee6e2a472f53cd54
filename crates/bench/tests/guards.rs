//! What the pure paths cost, in instructions, against the committed figures: a path that became slower fails, and so does one that
//! became quicker, so that the figure is lowered with it.
//!
//! Counted by callgrind, not timed: the same on every machine of one kind, however busy. It does not see caches, nor what an
//! instruction costs. `QUORATE_GUARDS=print` prints what to commit.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking"
)]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Figures of `guards.toml`, by profile.
const FIGURES: &str = include_str!("../guards.toml");
/// By how much a count may differ from its figure.
const TOLERANCE: f64 = 0.03;
/// Few and many repetitions; more where keys are made afresh before, whose cost differs.
const TIMES: (u32, u32) = (5, 35);
const TIMES_OF_DECIDE: (u32, u32) = (20, 220);

const PATHS: [&str; 8] = ["partial", "combine", "accept", "open", "decide", "apply", "apply-met", "encode"];

/// `examples/paths`, built beside this test.
fn program() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    let program = here.parent().unwrap().parent().unwrap().join("examples/paths");
    assert!(program.is_file(), "{} is missing: cargo build -p quorate-bench --examples", program.display());
    program
}

fn profile(program: &Path) -> String {
    let folder = program.parent().unwrap().parent().unwrap();
    folder.file_name().unwrap().to_string_lossy().into_owned()
}

/// How many instructions so many repetitions take, with the start and the end of the process.
fn instructions(path: &str, times: u32) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program());
    // The environment lies on the stack, and its size moves what is there.
    command.args([path, &times.to_string()]).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    let output = command.output().expect("valgrind runs: make setup installs it");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{path} {times}: {said}");
    let collected = said.lines().find_map(|line| line.split("Collected : ").nth(1));
    collected.and_then(|n| n.trim().parse().ok()).unwrap_or_else(|| panic!("{path} {times}: {said}"))
}

/// Instructions of one repetition.
fn cost(path: &str) -> f64 {
    let (few, many) = if path == "decide" { TIMES_OF_DECIDE } else { TIMES };
    let other = path.to_owned();
    let less = std::thread::spawn(move || instructions(&other, few));
    let more = instructions(path, many);
    (more as f64 - less.join().unwrap() as f64) / f64::from(many - few)
}

/// The committed figure.
fn figure(profile: &str, path: &str) -> f64 {
    let file: toml::Table = toml::from_str(FIGURES).unwrap();
    let value = file.get(profile).and_then(|figures| figures.get(path));
    let value = value.unwrap_or_else(|| panic!("guards.toml has no {profile}.{path}"));
    value.as_integer().unwrap() as f64
}

/// What is wrong with a count, if anything.
fn judge(path: &str, cost: f64, figure: f64) -> Result<(), String> {
    let change = cost / figure - 1.0;
    if change.abs() <= TOLERANCE {
        return Ok(());
    }
    let (percent, what) = (change * 100.0, if change > 0.0 { "slower" } else { "quicker: lower the figure" });
    Err(format!("{path} takes {cost:.0} instructions, and {figure:.0} are committed: {percent:+.1} %, {what}"))
}

#[test]
fn the_pure_paths_cost_what_is_committed() {
    let profile = profile(&program());
    let print = std::env::var("QUORATE_GUARDS").is_ok_and(|value| value == "print");
    let mut wrong = Vec::new();
    for path in PATHS {
        let cost = cost(path);
        if print {
            println!("{path} = {cost:.0}");
        } else {
            wrong.extend(judge(path, cost, figure(&profile, path)).err());
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// That the guard sees what it is there for: some thousands of instructions too many on the shortest of the paths.
#[test]
fn a_planted_slow_path_is_found() {
    let figure = figure(&profile(&program()), "encode");
    assert_eq!(judge("encode", cost("encode"), figure), Ok(()));
    let found = judge("encode", cost("planted-encode"), figure).unwrap_err();
    assert!(found.contains("slower"), "{found}");
}

#[test]
fn a_count_is_judged_both_ways() {
    assert_eq!(judge("p", 1_029.0, 1_000.0), Ok(()));
    assert!(judge("p", 1_031.0, 1_000.0).unwrap_err().contains("slower"));
    assert!(judge("p", 969.0, 1_000.0).unwrap_err().contains("quicker"));
}
