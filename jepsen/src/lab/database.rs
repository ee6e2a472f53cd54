//! A real PostgreSQL in a namespace of its own: the target of leases.

use super::network::{self, namespace};
use super::process::Process;
use super::setup::Operator;
use super::{HOME, lock};
use crate::cage::tool;
use crate::nemesis::cuts::End;
use anyhow::Context as _;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Config, NoTls};

/// What it is called in the vault.
pub(crate) const TARGET: &str = "pg";
/// Roles of leases.
pub(crate) const ROLES: [&str; 2] = ["reader", "auditor"];
const PORT: u16 = 5432;
const GROUP: &str = "readers";
const ADMIN: &str = "quorate_admin";
/// Hexadecimal: nothing to quote. Nobody outside of the cage can reach what it opens.
const PASSWORD: &str = "6f6e6c7920696e207468652063616765";
/// How long it may take to come up.
const PATIENCE: Duration = Duration::from_secs(60);

/// The server.
#[derive(Debug)]
pub(crate) struct Database {
    pub(crate) process: Process,
    folder: PathBuf,
    frozen: Mutex<Vec<u32>>,
}

impl Database {
    /// Makes and starts one.
    pub(crate) async fn create(logs: &Path) -> anyhow::Result<Self> {
        let folder = Path::new(HOME).join("pg");
        let data = folder.join("data");
        fs::create_dir(&folder)?;
        let programs = programs()?;
        let owner = ["--reuid", "postgres", "--regid", "postgres", "--init-groups"];
        tool("chown", &["postgres:postgres", &folder.display().to_string()]).await?;
        let initdb = programs.join("initdb").display().to_string();
        let at = data.display().to_string();
        let how = [initdb.as_str(), "--pgdata", &at, "--username", "postgres", "--auth-local", "trust"];
        let more = ["--auth-host", "scram-sha-256", "--no-sync", "--encoding", "UTF8", "--locale", "C"];
        tool("setpriv", &[owner.as_slice(), &how, &more].concat()).await?;
        certify(&folder, &data).await?;
        let rules = format!("local all all trust\nhost all all {}/24 scram-sha-256\n", network::TARGET);
        fs::write(data.join("pg_hba.conf"), rules)?;
        let settings = [
            format!("listen_addresses={}", network::TARGET),
            format!("port={PORT}"),
            format!("unix_socket_directories={}", folder.display()),
            "ssl=on".to_owned(),
            // What it loses in a power cut is not what is tested: its own is never cut.
            "fsync=off".to_owned(),
            "max_connections=300".to_owned(),
            "log_connections=on".to_owned(),
        ];
        let postgres = programs.join("postgres").display().to_string();
        let mut arguments: Vec<&str> = owner.to_vec();
        arguments.extend([postgres.as_str(), "-D", &at]);
        for setting in &settings {
            arguments.extend(["-c", setting.as_str()]);
        }
        let space = namespace(End::Target).unwrap_or_default();
        let process = Process::new("postgres", &space, "setpriv".into(), &arguments, logs.join("postgres.log"));
        let database = Self { process, folder, frozen: Mutex::default() };
        database.start().await?;
        Ok(database)
    }

    /// Starts it, and waits until it lets somebody in.
    pub(crate) async fn start(&self) -> anyhow::Result<()> {
        self.process.start(&BTreeMap::new())?;
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = self.superuser().await {
            anyhow::ensure!(Instant::now() < deadline && self.process.runs(), "PostgreSQL does not come up: {why:#}");
            sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Ends it at once, as a crash of its machine would: sessions and all.
    pub(crate) async fn stop(&self) -> anyhow::Result<()> {
        // The immediate shutdown: it takes its children along, which SIGKILL would leave behind for a while.
        self.process.signal(Signal::QUIT)?;
        self.process.gone(Duration::from_secs(20)).await?;
        Ok(())
    }

    /// Connects as the superuser, by the socket: no fault of the network is in the way.
    pub(crate) async fn superuser(&self) -> anyhow::Result<Client> {
        let mut config = Config::new();
        config.host_path(&self.folder).port(PORT).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        // Its end shows in the next query.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    /// How the auditor reaches it.
    pub(crate) fn reached(&self) -> String {
        format!("host={} port={PORT} user=postgres dbname=postgres", self.folder.display())
    }

    /// Stops all of its processes; how many are stopped now.
    pub(crate) fn freeze(&self) -> anyhow::Result<u64> {
        let parent = self.process.pid().context("it was never started")?;
        let mut all = vec![parent];
        for entry in fs::read_dir("/proc")? {
            let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            if ancestor(pid) == Some(parent) {
                all.push(pid);
            }
        }
        let stopped = all.iter().filter(|pid| signal(**pid, Signal::STOP)).count();
        *lock(&self.frozen) = all;
        Ok(u64::try_from(stopped)?)
    }

    /// Has them go on.
    pub(crate) fn thaw(&self) {
        for pid in lock(&self.frozen).drain(..) {
            signal(pid, Signal::CONT);
        }
    }

    /// Describes it to the vault, which proves it.
    pub(crate) async fn describe(&self, operator: &Operator) -> anyhow::Result<()> {
        let superuser = self.superuser().await?;
        superuser
            .batch_execute(&format!(
                "CREATE ROLE {ADMIN} LOGIN CREATEROLE PASSWORD '{PASSWORD}';
                 GRANT pg_read_all_stats, pg_signal_backend TO {ADMIN};
                 CREATE ROLE {GROUP} NOLOGIN;
                 CREATE TABLE demo (id integer PRIMARY KEY, note text NOT NULL);
                 GRANT SELECT ON demo TO {GROUP};"
            ))
            .await?;
        let password = self.folder.join("password");
        fs::write(&password, format!("{PASSWORD}\n"))?;
        fs::set_permissions(&password, fs::Permissions::from_mode(0o600))?;
        let (host, port) = (network::TARGET.to_string(), PORT.to_string());
        let (ca, password) = (self.folder.join("ca.pem").display().to_string(), password.display().to_string());
        let add = ["target", "add", TARGET, "--host", &host, "--port", &port, "--database", "postgres"];
        let who = ["--user", ADMIN, "--ca-file", &ca, "--password-file", &password, "--no-rotate"];
        operator.run(&[add.as_slice(), &who].concat()).await?;
        for role in ROLES {
            let add = ["role", "add", role, "--target", TARGET, "--group", GROUP, "--ttl", "8s", "--max-ttl", "40s"];
            let more = ["--max-leases", "400", "--scram-iterations", "4096"];
            operator.run(&[add.as_slice(), &more].concat()).await?;
        }
        Ok(())
    }
}

fn signal(pid: u32, sign: Signal) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, sign).is_ok())
}

/// The parent of a process.
fn ancestor(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// The newest version that Debian has.
fn programs() -> anyhow::Result<PathBuf> {
    let installed =
        fs::read_dir("/usr/lib/postgresql").context("PostgreSQL is not installed: see deploy/build/setup")?;
    let mut all: Vec<(u32, PathBuf)> = Vec::new();
    for entry in installed {
        let entry = entry?;
        let version = entry.file_name().to_str().and_then(|name| name.parse().ok());
        all.extend(version.map(|version| (version, entry.path().join("bin"))));
    }
    all.sort();
    Ok(all.pop().context("there is no PostgreSQL in /usr/lib/postgresql")?.1)
}

/// A root, and from it a certificate for the server's address. The root's key is thrown away.
async fn certify(folder: &Path, data: &Path) -> anyhow::Result<()> {
    // ECDSA: PostgreSQL binds no login to an Ed25519 signature.
    let (authority, key) = (KeyPair::generate()?, KeyPair::generate()?);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.distinguished_name.push(DnType::CommonName, "the root of a run");
    let root = CertifiedIssuer::self_signed(params, authority)?;
    let own = CertificateParams::new([network::TARGET.to_string()])?.signed_by(&key, &root)?;
    fs::write(folder.join("ca.pem"), root.pem())?;
    for (name, text) in [("server.crt", own.pem()), ("server.key", key.serialize_pem())] {
        let path = data.join(name);
        fs::write(&path, text)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        tool("chown", &["postgres:postgres", &path.display().to_string()]).await?;
    }
    Ok(())
}
