//! The demonstration holds, and each of its acts can fail: a check that cannot is none.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::process::{Command, Output};

fn demo(broken: Option<&str>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
    // Colours and back traces are for people.
    command.env_remove("BREAK").env_remove("RUST_BACKTRACE");
    if let Some(broken) = broken {
        command.env("BREAK", broken);
    }
    command.output().unwrap()
}

/// Runs it with something left out; the act that needs it must be the first that fails, and say what it expected.
fn fails(broken: &str, act: &str) {
    let output = demo(Some(broken));
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{out}\n{err}");
    let said = err.trim().lines().last().unwrap_or_default();
    assert!(said.starts_with(act), "expected `{act}`, but it was `{said}`\n{out}");
}

#[test]
fn everything_in_it_holds() {
    let output = demo(None);
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}");
    let acts = out.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit()));
    assert_eq!(acts.count(), 8, "{out}");
    assert!(!out.contains('\x1b'), "no colour where there is no terminal");
}

#[test]
fn without_the_freeze_act_2_fails() {
    fails("custodian", "act 2 failed: expected refusal custodian_frozen, but");
}

#[test]
fn with_two_nodes_up_act_3_fails() {
    fails("one-node", "act 3 failed: expected refusal not_enough_members, but");
}

#[test]
fn without_the_revocation_act_5_fails() {
    fails("revoke", "act 5 failed: expected refusal of the session");
}

#[test]
fn with_a_changed_byte_act_7_fails() {
    fails("audit", "act 7 failed: expected the log of n1 to verify, but: audit_corrupt: ");
}

#[test]
fn what_cannot_be_left_out_is_an_error() {
    let output = demo(Some("everything"));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty() && String::from_utf8_lossy(&output.stderr).contains("BREAK must be"));
}
