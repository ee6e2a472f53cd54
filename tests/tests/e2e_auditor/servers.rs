//! Servers of other kinds beside a cluster, described to it by its command line, as an operator does it; and what somebody can do there by hand
//! who administers them.

pub(crate) mod aws;
pub(crate) mod kubernetes;
pub(crate) mod mariadb;
pub(crate) mod rabbitmq;
pub(crate) mod redis;
pub(crate) mod webhook;

pub(crate) use aws::Aws;
pub(crate) use kubernetes::Kubernetes;
pub(crate) use mariadb::MariaDb;
pub(crate) use rabbitmq::RabbitMq;
pub(crate) use redis::Redis;
pub(crate) use webhook::Webhook;

use quorate_api::client::Credential;
use quorate_tests::Cluster;

/// The vault's own login there.
const EXECUTOR: &str = "quorate_executor";
const EXECUTOR_PASSWORD: &str = "of-the-executor-for-a-test";
/// Of what is made there by hand.
const PASSWORD: &str = "made-by-hand";

/// A server that is a target.
pub(crate) trait Server {
    /// What the cluster calls it.
    const TARGET: &'static str;
    /// The one role of the cluster there.
    const ROLE: &'static str;

    /// The arguments that lead an auditor to it.
    fn place(&self) -> Vec<String>;

    /// Whether there is such a login, of whatever worth.
    async fn has(&self, login: &str) -> bool;

    /// Makes a login that lets in with [`PASSWORD`].
    async fn make(&self, login: &str);

    /// Takes a login away, and nothing else.
    async fn unmake(&self, login: &str);

    /// Whether a leased credential is let in.
    async fn lets_in(credential: &Credential) -> bool;

    /// What is alive of all whose names begin so: who is let in, and whose sessions are open.
    async fn alive(&self, prefix: &str) -> Vec<String>;
}

/// Has the cluster prove the server, and describes a role of one group there.
fn describe<S: Server>(cluster: &Cluster, system: &str, port: u16, group: &str) {
    let port = port.to_string();
    let place = ["--system", system, "--host", "127.0.0.1", "--port", &port, "--user", EXECUTOR];
    describe_at::<S>(cluster, &place, EXECUTOR_PASSWORD, &["--group", group, "--connections", "3"]);
}

/// The same, where it is reached as `place` says, and of a role of this form.
fn describe_at<S: Server>(cluster: &Cluster, place: &[&str], secret: &str, role: &[&str]) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{secret}\n")).unwrap();
    let run = |arguments: &[&str]| {
        let output = cluster.cli("admin", arguments, b"").unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(output.status.success(), "quorate {arguments:?}: {said}");
    };
    let file = ["--password-file", file.path().to_str().unwrap()];
    run(&[&["target", "add", S::TARGET], place, &file].concat());
    let lives = ["--ttl", "5s", "--max-ttl", "10m"];
    run(&[&["role", "add", S::ROLE, "--target", S::TARGET], &lives[..], role].concat());
}
