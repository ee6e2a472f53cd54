//! Servers of other kinds beside a cluster, described to it by its command line, as an operator does it; and what somebody can do there by hand
//! who administers them.

pub(crate) mod mariadb;
pub(crate) mod redis;

pub(crate) use mariadb::MariaDb;
pub(crate) use redis::Redis;

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

    /// An open session.
    type Session: Send + 'static;

    /// Logs in with a leased credential; `None` when that is refused.
    fn log_in(credential: &Credential) -> impl Future<Output = Option<Self::Session>> + Send;

    /// Whether the server still answers on it.
    async fn answers(session: &mut Self::Session) -> bool;

    /// What is alive of all whose names begin so: who is let in, and whose sessions are open.
    async fn alive(&self, prefix: &str) -> Vec<String>;
}

/// Has the cluster prove the server, and describes a role of one group there.
fn describe<S: Server>(cluster: &Cluster, system: &str, port: u16, group: &str) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), format!("{EXECUTOR_PASSWORD}\n")).unwrap();
    let (port, file) = (port.to_string(), file.path().to_str().unwrap());
    let run = |arguments: &[&str]| {
        let output = cluster.cli("admin", arguments, b"").unwrap();
        let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
        assert!(output.status.success(), "quorate {arguments:?}: {said}");
    };
    let place = ["--host", "127.0.0.1", "--port", &port, "--user", EXECUTOR, "--password-file", file];
    run(&[&["target", "add", S::TARGET, "--system", system][..], &place].concat());
    let lives = ["--ttl", "5s", "--max-ttl", "10m", "--connections", "3"];
    run(&[&["role", "add", S::ROLE, "--target", S::TARGET, "--group", group][..], &lives].concat());
}
