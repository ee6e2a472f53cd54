//! The program itself, where no node is needed: exit codes, errors for programs, and the steps before a cluster runs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use serde_json::Value;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

/// Runs the program in a folder, with a passphrase on descriptor 0 and nothing of our environment.
fn quorate(folder: &Path, arguments: &[&str]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_quorate"))
        .args(arguments)
        .current_dir(folder)
        .env_clear()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // It may end without reading.
    let _ = child.stdin.take().unwrap().write_all(b"a passphrase\n");
    child.wait_with_output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn member(folder: &Path, n: usize) -> Output {
    let (name, data, card) = (format!("n{n}"), format!("data{n}"), format!("n{n}.toml"));
    let (seal, peer, api) =
        (format!("data{n}/seal.key"), format!("127.0.0.1:{}", 7000 + n), format!("127.0.0.1:{}", 7100 + n));
    let arguments = [
        "member",
        "create",
        "--data-dir",
        &data,
        "--seal-key",
        &seal,
        "--name",
        &name,
        "--peer-address",
        &peer,
        "--api-address",
        &api,
        "--card",
        &card,
    ];
    quorate(folder, &arguments)
}

#[test]
fn exit_codes_tell_usage_from_configuration_from_refusal() {
    let folder = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| {
        let output = quorate(folder.path(), arguments);
        (output.status.code().unwrap(), text(&output.stderr))
    };
    assert_eq!(run(&[]).0, 2);
    assert_eq!(run(&["get"]).0, 2);
    assert_eq!(run(&["get", "/app"]).0, 2);
    assert_eq!(run(&["put", "app/x", "--password", "x"]).0, 2);

    let (code, said) = run(&["node", "--config", "node.toml"]);
    assert!(code == 64 && said.contains("cannot read node.toml"), "{code} {said}");
    std::fs::write(folder.path().join("node.toml"), "data_dri = 'x'").unwrap();
    let (code, said) = run(&["node", "--config", "node.toml"]);
    assert!(code == 64 && said.contains("unknown field `data_dri`"), "{code} {said}");
    std::fs::write(folder.path().join("custodian.toml"), "listen = 'x'").unwrap();
    let (code, said) = run(&["custodian", "run", "--config", "custodian.toml"]);
    assert!(code == 64 && said.contains("custodian.toml"), "{code} {said}");
    let (code, said) = run(&["get", "app/x"]);
    assert!(code == 64 && said.contains("QUORATE_PROFILE"), "{code} {said}");

    let (code, said) = run(&["audit", "verify", "nothing", "--output", "json"]);
    let document: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, document["error"]["code"].as_str()), (1, Some("io")));
}

#[test]
fn the_steps_before_a_cluster_runs() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for n in 1..=3 {
        assert!(member(at, n).status.success());
    }
    let again = text(&member(at, 1).stderr);
    assert!(again.starts_with("error[exists]:"), "an identity is made once: {again}");

    let init = [
        "init",
        "--name",
        "demo",
        "--trust-domain",
        "example.org",
        "--member",
        "n1.toml",
        "--member",
        "n2.toml",
        "--member",
        "n3.toml",
        "--out",
        "operator",
        "--passphrase-fd",
        "0",
        "--output",
        "json",
    ];
    let made = quorate(at, &init);
    assert!(made.status.success(), "{}", text(&made.stderr));
    let document: Value = serde_json::from_slice(&made.stdout).unwrap();
    assert_eq!((document["threshold"].as_u64(), document["needed"].as_u64()), (Some(2), Some(2)));
    let profile = std::fs::read_to_string(at.join("operator/cluster.toml")).unwrap();
    assert!(profile.contains(document["cluster"].as_str().unwrap()));

    let issue = |out: &str| {
        quorate(
            at,
            &["identity", "issue", "--operator", "operator", "--name", "app/x", "--out", out, "--passphrase-fd", "0"],
        )
    };
    assert!(issue("x.pem").status.success());
    assert!(text(&issue("x.pem").stderr).starts_with("error[exists]:"), "no file is written over");
    let keygen =
        ["custodian", "keygen", "--out", "customer", "--trust-domain", "customer.example", "--passphrase-fd", "0"];
    assert!(quorate(at, &keygen).status.success());
    assert!(text(&quorate(at, &keygen).stderr).starts_with("error[exists]:"));

    let private = [
        "operator/admin.pem",
        "operator/client-ca.key",
        "operator/administrator-1.key",
        "x.pem",
        "data1/seal.key",
        "customer/fragment.key",
        "customer/owner.key",
        "customer/server.pem",
    ];
    for file in private {
        let mode = std::fs::metadata(at.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{file}");
    }

    // One administrator alone is possible, and said to be for trying.
    let alone: Vec<&str> = init
        .iter()
        .map(|a| if *a == "operator" { "alone" } else { a })
        .chain(["--administrators", "1", "--needed", "1"])
        .collect();
    let made = quorate(at, &alone);
    assert!(
        made.status.success() && text(&made.stderr).contains("warning: one administrator"),
        "{}",
        text(&made.stderr)
    );
}

#[test]
fn no_passphrase_is_asked_for_without_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let made = quorate(folder.path(), &["custodian", "keygen", "--out", "c", "--trust-domain", "customer.example"]);
    assert!(text(&made.stderr).starts_with("error[no_terminal]:"), "{}", text(&made.stderr));
}
