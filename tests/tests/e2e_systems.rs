//! Targets of other kinds than PostgreSQL, as people meet them: described by the command line, proved with what is missing as commands to
//! paste, and leases whose end is seen there. Each judged by the system's own programs. What befalls them side by side is in `e2e_targets`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "e2e_systems/aws.rs"]
mod aws;
#[path = "e2e_systems/mariadb.rs"]
mod mariadb;
#[path = "e2e_systems/rabbitmq.rs"]
mod rabbitmq;
#[path = "e2e_systems/redis.rs"]
mod redis;
#[path = "e2e_systems/webhook.rs"]
mod webhook;

use quorate_api::client::Credential;
use quorate_state::ids::LeaseId;
use quorate_tests::{Cluster, Options};
use serde_json::Value;
use std::process::{Output, Stdio};
use std::time::Duration;

/// How long a revocation may take, with an election and a pause of the driver in it.
const ENDED: Duration = Duration::from_secs(20);
/// The executor's password everywhere, which a file says.
const PASSWORD: &str = "an executor's password";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn systems() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    std::fs::write(password_file(&cluster), format!("{PASSWORD}\n")).unwrap();
    what_a_kind_has_not(&cluster);
    let my = mariadb::a_life(&cluster).await;
    let redis = redis::a_life(&cluster).await;
    let hook = webhook::a_life(&cluster).await;
    redis::one_that_stands_still_ends_its_lease_later(&cluster, &redis).await;
    webhook::one_that_was_down_ends_what_outlived_it(&cluster, &hook).await;
    mariadb::a_password_that_nobody_knows(&cluster, &my).await;
    redis::a_password_that_nobody_knows(&cluster, &redis).await;
    webhook::a_secret_that_nobody_knows(&cluster, &hook).await;
    webhook::a_secret_of_another(&cluster, &hook).await;
    rabbitmq::a_life(&cluster).await;
    aws::a_life(&cluster).await;
}

fn password_file(cluster: &Cluster) -> String {
    format!("{}/systems.password", cluster.text("/folder").unwrap())
}

/// `target add`, of the kind and with what else is said.
fn add<'a>(name: &'a str, system: &'a str, port: &'a str, file: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    let add = ["target", "add", name, "--system", system, "--host", "127.0.0.1", "--port", port, "--user", "quorate"];
    [&add[..], &["--password-file", file], more].concat()
}

/// What a command of the administrator prints.
fn run(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = cluster.cli("admin", arguments, b"").unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What it says when it refuses with a code.
fn refused(cluster: &Cluster, arguments: &[&str], code: &str) -> String {
    let output = cluster.cli("admin", arguments, b"").unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(&format!("error[{code}]")), "{arguments:?} is {code}: {said}");
    said
}

/// The statements that a refused `target add` or `target check` prints, after the line that says where to run them.
fn script(said: &str) -> String {
    let begin = said.find("run there ").unwrap_or_else(|| panic!("what is missing can be pasted: {said}"));
    let rest = said[begin..].split_once("\n\n").unwrap().1;
    // What is to be done next follows after an empty line, or as a hint.
    rest.lines()
        .take_while(|line| !line.trim().is_empty() && !line.contains("hint"))
        .map(|l| format!("{l}\n"))
        .collect()
}

/// `quorate run` by whoever leases there.
fn run_with(cluster: &Cluster, role: &str, options: &[&str], command: &[&str]) -> Output {
    let arguments = [&["run", "--role", role], options, &["--"], command].concat();
    let mut command = cluster.command("demo", &arguments).unwrap();
    command.stdin(Stdio::null()).output().unwrap()
}

async fn permit(cluster: &Cluster, role: &str) {
    let scope = format!("action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"{role}\"");
    cluster.permit(role, &cluster.identity("demo").unwrap(), &scope).await.unwrap();
}

async fn issue(cluster: &Cluster, role: &str) -> Credential {
    let issued = cluster.client("demo").unwrap().issue_lease(role, None).await;
    issued.unwrap_or_else(|why| panic!("a credential of {role}: {why}"))
}

/// Ends a lease, and waits until that was seen.
async fn end(cluster: &Cluster, lease: LeaseId) -> quorate_api::vault::Lease {
    cluster.client("demo").unwrap().revoke(lease).await.unwrap();
    ended(cluster, lease).await
}

async fn ended(cluster: &Cluster, lease: LeaseId) -> quorate_api::vault::Lease {
    let admin = cluster.admin().unwrap();
    admin.wait_revoked(lease, ENDED).await.unwrap_or_else(|why| panic!("lease {lease} is seen to have ended: {why}"))
}

fn document(cluster: &Cluster, arguments: &[&str]) -> Value {
    serde_json::from_str(&run(cluster, &[arguments, &["--output", "json"]].concat())).unwrap()
}

fn text(credential: &Credential) -> &str {
    std::str::from_utf8(credential.password().unwrap().expose()).unwrap()
}

/// What belongs to one kind of system only is refused of the others, and a system that nobody knows by name.
fn what_a_kind_has_not(cluster: &Cluster) {
    let file = password_file(cluster);
    for (system, more) in [
        ("mariadb", &["--standby", "127.0.0.1:1"][..]),
        ("mariadb", &["--owner", "somebody"]),
        ("redis", &["--also-database", "more"]),
        ("redis", &["--database", "0"]),
        ("redis", &["--remote-apply"]),
    ] {
        let said = refused(cluster, &add("none", system, "1", &file, more), "invalid_argument");
        assert!(said.contains(&format!("a target of {system} has none")), "{system} {more:?}: {said}");
    }
    let output = cluster.cli("admin", &add("none", "oracle", "1", &file, &[]), b"").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("must be one of postgresql, mariadb, redis"), "{said}");
    assert!(!run(cluster, &["target", "list"]).contains("none "), "nothing is described by what was refused");
}
