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
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Config, NoTls};

/// What it is called in the vault.
pub(crate) const TARGET: &str = "pg";
/// Roles of leases.
pub(crate) const ROLES: [&str; 2] = ["reader", "auditor"];
pub(crate) const PORT: u16 = 5432;
/// As whom it runs.
const OWNER: &[&str] = &["--reuid", "postgres", "--regid", "postgres", "--init-groups"];
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
    log: PathBuf,
    frozen: Mutex<Vec<u32>>,
}

impl Database {
    /// Makes and starts one.
    pub(crate) async fn create(logs: &Path) -> anyhow::Result<Self> {
        let folder = Path::new(HOME).join("pg");
        // A name for whichever is the primary's.
        let (first, data) = (folder.join("data-0"), folder.join("data"));
        fs::create_dir(&folder)?;
        symlink(&first, &data)?;
        let programs = programs()?;
        tool("chown", &["postgres:postgres", &folder.display().to_string()]).await?;
        let initdb = programs.join("initdb").display().to_string();
        let at = first.display().to_string();
        let how = [initdb.as_str(), "--pgdata", &at, "--username", "postgres", "--auth-local", "trust"];
        let more = ["--auth-host", "scram-sha-256", "--no-sync", "--encoding", "UTF8", "--locale", "C"];
        tool("setpriv", &[OWNER, &how, &more].concat()).await?;
        certify(&folder, &data).await?;
        let rules = format!(
            "local all all trust\nlocal replication all trust\nhost all all {}/24 scram-sha-256\n",
            network::TARGET
        );
        fs::write(data.join("pg_hba.conf"), rules)?;
        let address = format!("listen_addresses={}", network::TARGET);
        let arguments = arguments(&programs, &data, &folder, &address);
        let space = namespace(End::Target).unwrap_or_default();
        let log = logs.join("postgres.log");
        let process = Process::new("postgres", &space, "setpriv".into(), &borrowed(&arguments), log.clone());
        let database = Self { process, folder, log, frozen: Mutex::default() };
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
        Self::at_socket(&self.folder).await
    }

    async fn at_socket(folder: &Path) -> anyhow::Result<Client> {
        let mut config = Config::new();
        config.host_path(folder).port(PORT).user("postgres").dbname("postgres");
        let (client, connection) = config.connect(NoTls).await?;
        // Its end shows in the next query.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    }

    /// What time it is there, in microseconds since 1970.
    pub(crate) async fn time(superuser: &Client) -> anyhow::Result<i64> {
        Ok(superuser.query_one(&format!("SELECT {}", micros("clock_timestamp()")), &[]).await?.try_get(0)?)
    }

    /// How many statements of these were done since then, each the last of its connection.
    pub(crate) async fn done_since(superuser: &Client, since: i64, of: &[End]) -> anyhow::Result<u64> {
        let of: Vec<String> = of.iter().map(|end| format!("'{}'", network::address(*end))).collect();
        let query = format!(
            "SELECT count(*) FROM pg_stat_activity
             WHERE host(client_addr) IN ({}) AND state <> 'active' AND {} > $1",
            of.join(", "),
            micros("state_change")
        );
        Ok(u64::try_from(superuser.query_one(&query, &[&since]).await?.try_get::<_, i64>(0)?)?)
    }

    /// Makes a standby, and waits until nothing is acknowledged any more that it has not replayed. It can be reached by nobody yet.
    pub(crate) async fn standby(&self, number: u32) -> anyhow::Result<Standby> {
        let (folder, data) =
            (self.folder.join(format!("standby-{number}")), self.folder.join(format!("data-{number}")));
        fs::create_dir(&folder)?;
        tool("chown", &["postgres:postgres", &folder.display().to_string()]).await?;
        let programs = programs()?;
        let (copy, from) = (programs.join("pg_basebackup").display().to_string(), self.folder.display().to_string());
        let (to, port) = (data.display().to_string(), PORT.to_string());
        let how = [copy.as_str(), "--host", &from, "--port", &port, "--username", "postgres", "--pgdata", &to];
        let more = ["--write-recovery-conf", "--checkpoint", "fast", "--no-sync"];
        tool("setpriv", &[OWNER, &how, &more].concat()).await?;
        let arguments = arguments(&programs, &data, &folder, "listen_addresses=");
        let space = namespace(End::Target).unwrap_or_default();
        let process = Process::new("standby", &space, "setpriv".into(), &borrowed(&arguments), self.log.clone());
        process.start(&BTreeMap::new())?;
        let superuser = self.superuser().await?;
        // It is in no copy of the folder: who takes over waits for nobody.
        superuser.batch_execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await?;
        superuser.batch_execute("ALTER SYSTEM SET synchronous_commit = remote_apply").await?;
        superuser.batch_execute("SELECT pg_reload_conf()").await?;
        let follows = "SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming' AND sync_state = 'sync'";
        let deadline = Instant::now() + PATIENCE;
        while superuser.query_one(follows, &[]).await?.try_get::<_, i64>(0)? == 0 {
            anyhow::ensure!(Instant::now() < deadline && process.runs(), "the standby does not follow");
            sleep(Duration::from_millis(50)).await;
        }
        // What was acknowledged before it followed.
        let here: String = superuser.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?.try_get(0)?;
        let there = format!("SELECT count(*) FROM pg_stat_replication WHERE replay_lsn >= '{here}'");
        while superuser.query_one(&there, &[]).await?.try_get::<_, i64>(0)? == 0 {
            anyhow::ensure!(Instant::now() < deadline && process.runs(), "the standby does not catch up");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(Standby { process, data, timeline: timeline(&superuser).await? })
    }

    /// Puts a standby in the place of the primary, which must have ended; how many timelines have begun with that.
    pub(crate) async fn take_over(&self, standby: Standby) -> anyhow::Result<u64> {
        standby.process.signal(Signal::INT)?;
        standby.process.gone(Duration::from_secs(20)).await?;
        let (new, name) = (self.folder.join("data.new"), self.folder.join("data"));
        symlink(&standby.data, &new)?;
        fs::rename(&new, &name)?;
        self.start().await?;
        let superuser = self.superuser().await?;
        superuser.query_one("SELECT pg_promote(true, 30)", &[]).await?;
        Ok(u64::try_from(timeline(&superuser).await? - standby.timeline)?)
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
            let more = ["--max-leases", "2000", "--scram-iterations", "4096"];
            operator.run(&[add.as_slice(), &more].concat()).await?;
        }
        Ok(())
    }
}

/// A server that follows another one.
#[derive(Debug)]
pub(crate) struct Standby {
    process: Process,
    data: PathBuf,
    /// That of the one which it follows.
    timeline: i64,
}

/// What a server is started with: what follows `setpriv`.
fn arguments(programs: &Path, data: &Path, socket: &Path, address: &str) -> Vec<String> {
    let server = [programs.join("postgres").display().to_string(), "-D".to_owned(), data.display().to_string()];
    let sockets = format!("unix_socket_directories={}", socket.display());
    let port = format!("port={PORT}");
    // What it loses in a power cut is not what is tested: its own is never cut.
    let settings = [address, &port, &sockets, "ssl=on", "fsync=off", "max_connections=300", "log_connections=on"];
    let settings = settings.into_iter().flat_map(|setting| ["-c".to_owned(), setting.to_owned()]);
    OWNER.iter().map(|word| (*word).to_owned()).chain(server).chain(settings).collect()
}

fn borrowed(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

/// A time of the server in microseconds since 1970, in its own words.
fn micros(time: &str) -> String {
    format!("(extract(epoch FROM {time}) * 1000000)::bigint")
}

/// The timeline that a primary writes.
async fn timeline(superuser: &Client) -> anyhow::Result<i64> {
    let query = "SELECT ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint";
    Ok(superuser.query_one(query, &[]).await?.try_get(0)?)
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
