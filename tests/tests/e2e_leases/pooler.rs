//! A pooler between the vault and a server is no target, and whoever describes one is told so.

use super::{ENDED, refused, run};
use quorate_tests::Cluster;
use std::fs::{Permissions, set_permissions, write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::net::TcpStream;

/// Debian's.
const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// pgbouncer in front of a server, a connection to it for each transaction; ended when dropped.
struct Pooler {
    child: Child,
    port: u16,
    _folder: TempDir,
}

impl Pooler {
    /// It lets in `weak`, whom the server knows.
    async fn start(server: u16, further: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("quorate-pooler").tempdir().unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let (users, config, log) =
            (folder.path().join("users"), folder.path().join("pgbouncer.ini"), folder.path().join("log"));
        write(&users, "\"weak\" \"a weak password\"\n").unwrap();
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={server}\n\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = {}\n\
             pool_mode = transaction\n{further}",
            users.display()
        );
        write(&config, text).unwrap();
        let mut command = Command::new(PGBOUNCER);
        if rustix::process::geteuid().is_root() {
            // As root it does not run; as whoever it becomes it reads these.
            for (path, mode) in [(folder.path(), 0o755), (users.as_path(), 0o644), (config.as_path(), 0o644)] {
                set_permissions(path, Permissions::from_mode(mode)).unwrap();
            }
            command.args(["-u", "postgres"]);
        }
        let said = std::fs::File::create(&log).unwrap();
        let child = command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said).spawn();
        let pooler = Self { child: child.expect("pgbouncer of the package pgbouncer runs"), port, _folder: folder };
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            let said = std::fs::read_to_string(&log).unwrap_or_default();
            assert!(begun.elapsed() < ENDED, "the pooler listens on port {port}: {said}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        pooler
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// As it comes, and told to swallow what it does not know: then it hands statements on, without what makes them safe.
pub(crate) async fn is_refused_by_name(cluster: &Cluster) {
    let (_, server) = cluster.postgres_socket().unwrap();
    let password = format!("{}/weak.password", cluster.text("/folder").unwrap());
    for (further, why) in [
        ("", "unsupported startup parameter"),
        ("ignore_startup_parameters = options\n", "does not get what a connection begins with"),
    ] {
        let pooler = Pooler::start(server, further).await;
        let port = pooler.port.to_string();
        let add = ["target", "add", "pooled", "--host", "127.0.0.1", "--port", &port, "--database", "postgres"];
        let with = ["--user", "weak", "--password-file", &password];
        let said = refused(cluster, &[&add[..], &with].concat(), "target_not_enabled");
        assert!(
            said.contains(why) && said.contains("a connection pooler is between"),
            "with {further:?} the pooler is named: {said}"
        );
        run(cluster, &["target", "remove", "pooled"]);
    }
}
