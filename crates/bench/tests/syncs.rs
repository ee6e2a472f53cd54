//! The guard of syncs on a real cluster: it passes, and it fails when every sync is done twice. Takes root, for perf.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use std::path::Path;
use std::process::{Command, Output};

/// Does everything twice that makes data durable. In the place of libc's own, for a process that is told to load it.
const TWICE: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
int fdatasync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fdatasync");
    int first = real(fd);
    return first ? first : real(fd);
}
int fsync(int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
    int first = real(fd);
    return first ? first : real(fd);
}
"#;

fn guard(preload: Option<&Path>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-bench"));
    command.arg("guard");
    if let Some(library) = preload {
        command.env("LD_PRELOAD", library);
    }
    command.output().expect("the guard runs")
}

#[test]
fn as_many_syncs_as_committed_and_a_planted_one_is_found() {
    let output = guard(None);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("write-1 = "), "{said}");

    let folder = tempfile::tempdir().unwrap();
    let (source, library) = (folder.path().join("twice.c"), folder.path().join("twice.so"));
    std::fs::write(&source, TWICE).unwrap();
    let built = Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").status();
    assert!(built.expect("cc runs: make setup installs it").success());
    let output = guard(Some(&library));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "a cluster that syncs twice passes: {said}");
    assert!(said.contains("write-1: ") && said.contains("syncs per thousand operations"), "{said}");
}
