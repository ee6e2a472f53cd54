//! A short run of `chaos` (`jepsen/README.md`) in every `make test`: the real program, in a cage of its own, with all its checkers; and the same with
//! members that are broken on purpose. A run that is void fails as one does that has found something: what nobody looked at is not known to hold.
//!
//! Takes root, or sudo without a password, and a machine that lets root make namespaces; where it cannot, it fails and says what to do.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they have seen"
)]

use quorate_tests::{as_root, quorate};
use std::process::{Command, Output};

/// The exit statuses of `chaos`: every rule holds, one is broken, nothing is proved.
const HOLDS: i32 = 0;
const VIOLATED: i32 = 1;
const VOID: i32 = 2;

/// One plan for both runs: the seed decides the faults. In it the leader is killed and cut off, and the power of all members cut at once.
const PLAN: &[&str] = &[
    "--seed",
    "29",
    "--minutes",
    "0.4",
    "--nemeses",
    "kill,pause,partition,power",
    // Far below what a machine that is busy with other things answers: the floor is for a run in which hardly anything was asked.
    "--least-operations",
    "40",
];

/// `chaos`, which lies beside the program that it breaks; cargo builds both.
fn chaos() -> Command {
    let program = quorate().unwrap().with_file_name("chaos");
    assert!(program.is_file(), "{} is no file: run `cargo build -p quorate-chaos`", program.display());
    as_root(&program.display().to_string())
}

/// Runs the plan; how it ended, and what it printed. Its folder goes, unless somebody is to look into it.
fn run(more: &[&str], expected: i32) -> String {
    let folder = format!("{}/quorate-chaos-{}-{expected}", std::env::temp_dir().display(), std::process::id());
    let program = quorate().unwrap();
    let output =
        chaos().arg("run").args(PLAN).args(more).args(["--out", &folder]).arg("--program").arg(program).output();
    let (status, text) = told(&output.unwrap());
    assert_eq!(status, Some(expected), "{text}\nwhat is left of it: {folder}");
    assert!(as_root("rm").args(["-r", &folder]).status().unwrap().success());
    text
}

fn told(output: &Output) -> (Option<i32>, String) {
    let [out, err] = [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned());
    (output.status.code(), format!("{out}{err}"))
}

#[test]
fn kills_pauses_partitions_and_power_cuts_break_no_rule() {
    let report = run(&["--workloads", "register,policy,lease"], HOLDS);
    println!("{report}");
}

/// The bug is in a build with failpoints only: what was decided is done, and recorded two seconds later.
#[test]
fn answers_that_come_before_their_records_are_found_out_by_the_same_plan() {
    let report = run(&["--workloads", "register,policy", "--mutant", "answer-before-audit"], VIOLATED);
    let rule = report.lines().find(|line| line.starts_with("| A1, A2:")).unwrap_or_default();
    assert!(rule.contains("VIOLATED"), "it is the audit logs that show it:\n{report}");
    println!("{report}");
}

#[test]
fn without_namespaces_it_says_what_to_do_and_never_that_a_rule_is_broken() {
    let program = quorate().unwrap();
    let chaos = program.with_file_name("chaos");
    let output = as_root("setpriv")
        .args(["--bounding-set", "-sys_admin"])
        .arg(chaos)
        .args(["run", "--program"])
        .arg(program)
        .output()
        .unwrap();
    let (status, text) = told(&output);
    assert_eq!(status, Some(VOID), "{text}");
    assert!(text.contains("CAP_SYS_ADMIN") && text.contains("--privileged"), "{text}");
}
