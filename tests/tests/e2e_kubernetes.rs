//! Kubernetes as a target, as people meet it: described by the command line, proved with its first role, and tokens whose end is seen there.
//! The API server is the one that the engine's tests have, which is written after the real one.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    dead_code,
    reason = "tests fail by panicking, and what the engine's tests share has more than is used here"
)]

#[path = "../../crates/engines/tests/kubernetes/cluster.rs"]
mod cluster;
#[path = "../../crates/engines/tests/kubernetes/jwt.rs"]
mod jwt;
#[path = "../../crates/engines/tests/kubernetes/server.rs"]
mod server;

use quorate_api::client::{Credential, Proof, System};
use quorate_tests::{Cluster, Options};
use server::{EXECUTOR, GROUP, Stub};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

/// How long an end may take: longer than an API server may remember whom it let in.
const ENDED: Duration = Duration::from_secs(60);

fn run(cluster: &Cluster, arguments: &[&str]) -> Output {
    cluster.cli("admin", arguments, b"").unwrap()
}

fn done(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = run(cluster, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{arguments:?}: {said}");
    said
}

fn refused(cluster: &Cluster, arguments: &[&str], code: &str) -> String {
    let output = run(cluster, arguments);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains(&format!("error[{code}]")), "{arguments:?} is {code}: {said}");
    said
}

fn token(credential: &Credential) -> String {
    let Proof::Issued(fields) = &credential.proof else { panic!("a password: {credential:?}") };
    String::from_utf8(fields.get("token").unwrap().expose().to_vec()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_ends_with_its_lease() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    let stub = Stub::start().await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, format!("{text}\n")).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (right, wrong, port) = (file("right", &stub.token), file("wrong", "no.such.token"), stub.port.to_string());
    let place = ["--system", "kubernetes", "--host", "127.0.0.1", "--port", &port, "--user", EXECUTOR];
    let add = |name: &'static str| {
        [&["target", "add", name][..], &place, &["--database", "leases", "--password-file"]].concat()
    };
    let said = refused(&cluster, &[&add("none")[..], &[&right, "--rotate"]].concat(), "invalid_argument");
    assert!(said.contains("rotate"), "its token is not replaced by the vault: {said}");
    let said = refused(&cluster, &[&add("stranger")[..], &[&wrong]].concat(), "target_not_enabled");
    assert!(said.contains("401"), "a token that is not let in is named: {said}");
    // There is no token without a service account.
    let said = refused(&cluster, &[&add("kube")[..], &[&right]].concat(), "target_not_enabled");
    assert!(said.contains("it has no role yet"), "{said}");
    let role = |name: &'static str, group: &'static str| {
        ["role", "add", name, "--target", "kube", "--group", group, "--ttl", "60s", "--max-ttl", "10m"]
    };
    done(&cluster, &role("apps", GROUP));
    let scope = "action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"apps\"";
    cluster.permit("apps", &cluster.identity("demo").unwrap(), scope).await.unwrap();

    let demo = cluster.client("demo").unwrap();
    let credential = demo.issue_lease("apps", None).await.unwrap();
    assert_eq!((credential.system, credential.database.as_str()), (System::Kubernetes, "leases"));
    assert!(stub.cluster().takes(&token(&credential)), "its token lets in");

    // A program of its own, with a token of its own, which ends with it.
    let script = "cat \"$QUORATE_TOKEN_FILE\"; test -z \"$QUORATE_TOKEN\"";
    let mut command = cluster.command("demo", &["run", "--role", "apps", "--", "sh", "-c", script]).unwrap();
    let output = command.stdin(Stdio::null()).output().unwrap();
    let theirs = String::from_utf8(output.stdout).unwrap().trim_end().to_owned();
    assert!(output.status.success() && theirs.split('.').count() == 3 && theirs != token(&credential), "{theirs}");
    assert!(!stub.cluster().takes(&theirs), "it was ended with its program");

    demo.revoke(credential.lease).await.unwrap();
    let begun = Instant::now();
    while stub.cluster().takes(&token(&credential)) {
        assert!(begun.elapsed() < ENDED, "its token is refused");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let admin = cluster.admin().unwrap();
    let ended = admin.wait_revoked(credential.lease, ENDED).await;
    let ended = ended.unwrap_or_else(|why| panic!("it is seen to have ended: {why}"));
    assert_eq!((ended.state.as_str(), ended.why.as_str()), ("revoked", "requested"), "{ended:?}");
    assert!(stub.cluster().alive().is_empty(), "no token that was ever made for a lease is taken");
    done(&cluster, &["target", "remove", "kube"]);
    done(&cluster, &["target", "remove", "stranger"]);
}
