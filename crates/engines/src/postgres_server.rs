//! A scratch PostgreSQL for development clusters and tests.
//!
//! Started from the binaries of the distribution, or of another installation, in a temporary folder, on a free port of the loopback and on a Unix
//! socket in the folder, as an unprivileged user: `initdb` refuses root. It is stopped and its folder removed when the
//! value is dropped, also by a panic.
//!
//! # Security
//! Durability is off and everyone who reaches the socket is a superuser; the folder's mode is 0700. Never for data that
//! matters.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// The superuser, on the Unix socket only.
const SUPERUSER: &str = "postgres";

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// PostgreSQL is not installed.
    #[error("no initdb under /usr/lib/postgresql: is the package postgresql installed?")]
    NotInstalled,
    /// The server that was to be copied does not run, or could not be copied.
    #[error("pg_basebackup failed: {0}")]
    Copy(String),
    /// We are root, and there is no user to run it as.
    #[error("neither `postgres` nor `nobody` is in /etc/passwd")]
    NoUser,
    /// `initdb` said no.
    #[error("initdb failed: {0}")]
    Initdb(String),
    /// It did not come up.
    #[error("the server did not start: {0}")]
    Server(String),
    /// The operating system said no.
    #[error("starting PostgreSQL")]
    Io(#[from] io::Error),
}

/// One version of PostgreSQL on this machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Installed {
    /// The major version, for example 15.
    pub version: u32,
    binaries: PathBuf,
}

impl Installed {
    /// Those of the distribution, oldest first.
    #[must_use]
    pub fn packaged() -> Vec<Self> {
        Self::under("/usr/lib/postgresql")
    }

    /// All, oldest first: those of the distribution, and what an administrator put beside them.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let mut all = Self::packaged();
        all.extend(Self::under("/usr/local/lib/postgresql"));
        all.sort();
        all
    }

    /// One folder for each version, as Debian lays them out.
    fn under(folder: &str) -> Vec<Self> {
        let Ok(versions) = fs::read_dir(folder) else { return Vec::new() };
        let installed = |entry: fs::DirEntry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some(Self { version, binaries: entry.path().join("bin") })
        };
        let mut all: Vec<Self> = versions.filter_map(Result::ok).filter_map(installed).collect();
        all.retain(|one| one.binaries.join("initdb").exists());
        all.sort();
        all
    }
}

/// A running server.
#[derive(Debug)]
pub struct PostgresServer {
    folder: TempDir,
    installed: Installed,
    user: Option<(u32, u32)>,
    port: u16,
    settings: Vec<String>,
    encrypted: bool,
    process: Option<Child>,
}

impl PostgresServer {
    /// Makes a new cluster and starts it. Blocks for some seconds.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start() -> Result<Self, StartError> {
        Self::start_with(&[])
    }

    /// The same with settings of the form `name=value`.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_with(settings: &[&str]) -> Result<Self, StartError> {
        let newest = Installed::packaged().pop().ok_or(StartError::NotInstalled)?;
        Self::start_on(&newest, settings)
    }

    /// The same with that version.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_on(installed: &Installed, settings: &[&str]) -> Result<Self, StartError> {
        let mut server = Self::prepare(installed, settings)?;
        server.initdb()?;
        server.run()?;
        Ok(server)
    }

    /// A hot standby of this server: a copy of it that follows its log, with a port of its own.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn standby(&self) -> Result<Self, StartError> {
        let settings: Vec<&str> = self.settings.iter().map(String::as_str).collect();
        let mut server = Self::prepare(&self.installed, &settings)?;
        server.encrypted = self.encrypted;
        let output = server
            .command("pg_basebackup")
            .args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--host"])
            .arg(self.socket_folder())
            .args(["--port", &self.port.to_string(), "--username", SUPERUSER, "--pgdata"])
            .arg(server.data())
            .output()?;
        if !output.status.success() {
            return Err(StartError::Copy(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        server.run()?;
        Ok(server)
    }

    fn prepare(installed: &Installed, settings: &[&str]) -> Result<Self, StartError> {
        let user =
            if geteuid().is_root() { Some(unprivileged_user(SUPERUSER).ok_or(StartError::NoUser)?) } else { None };
        let folder = tempfile::Builder::new().prefix("quorate-pg").tempdir()?;
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        Ok(Self {
            folder,
            installed: installed.clone(),
            user,
            port: 0,
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            encrypted: false,
            process: None,
        })
    }

    /// Gives it a certificate and its key, both in PEM, and has it speak TLS with them from now on.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn certify(&mut self, certificate: &str, key: &str) -> Result<(), StartError> {
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = self.data().join(name);
            fs::write(&path, text)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
            if let Some((uid, gid)) = self.user {
                chown(&path, Some(uid), Some(gid))?;
            }
        }
        self.encrypted = true;
        self.run()
    }

    /// The port on 127.0.0.1, where passwords are asked for (SCRAM-SHA-256).
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of the Unix socket, where [`superuser`](Self::superuser) is let in without one.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        self.folder.path()
    }

    /// How to connect as the superuser.
    #[must_use]
    pub fn superuser(&self, dbname: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket_folder()).port(self.port).user(SUPERUSER).dbname(dbname);
        config
    }

    /// Stops it, keeping its data and its port; does nothing when it is stopped.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        // SIGQUIT is the immediate shutdown: nothing here is worth a checkpoint. The postmaster takes its children along,
        // which SIGKILL would leave behind for a while.
        if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::QUIT);
        }
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline {
            if !matches!(process.try_wait(), Ok(None)) {
                return;
            }
            sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        let _ = process.wait();
    }

    /// Starts it again on its data, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn run(&mut self) -> Result<(), StartError> {
        self.stop();
        let mut last = StartError::Server("no free port".into());
        // The first port may be taken between our look and the server's bind; later starts keep theirs.
        for _ in 0..if self.port == 0 { 5 } else { 1 } {
            let port = if self.port == 0 { free_port()? } else { self.port };
            match self.run_on(port) {
                Ok(process) => {
                    self.port = port;
                    self.process = Some(process);
                    return Ok(());
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn initdb(&self) -> Result<(), StartError> {
        let output = self
            .command("initdb")
            .args(["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-locale", "--encoding=UTF8"])
            .args(["--username", SUPERUSER, "--pgdata"])
            .arg(self.data())
            .output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(StartError::Initdb(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn run_on(&self, port: u16) -> Result<Child, StartError> {
        let log = self.folder.path().join("log");
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data()).arg("-k").arg(self.folder.path()).arg("-p").arg(port.to_string());
        let defaults = ["listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", "shared_buffers=16MB"];
        if self.encrypted {
            command.args(["-c", "ssl=on"]);
        }
        for setting in defaults.into_iter().chain(self.settings.iter().map(String::as_str)) {
            command.arg("-c").arg(setting);
        }
        let mut process = command
            .stdout(Stdio::null())
            .stderr(fs::OpenOptions::new().create(true).append(true).open(&log)?)
            .spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // The eighth line of this file is the server's own word on its state.
            let state = fs::read_to_string(self.data().join("postmaster.pid")).unwrap_or_default();
            let ours = state.lines().next().and_then(|pid| pid.trim().parse().ok()) == Some(process.id());
            if ours && state.lines().nth(7).is_some_and(|line| matches!(line.trim(), "ready" | "standby")) {
                return Ok(process);
            }
            if process.try_wait()?.is_some() {
                break;
            }
            sleep(Duration::from_millis(20));
        }
        let _ = process.kill();
        let _ = process.wait();
        Err(StartError::Server(self.log()))
    }

    /// What the server has logged, for tests that look for secrets in it and for errors.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("log")).map(|l| String::from_utf8_lossy(&l).into_owned()).unwrap_or_default()
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.installed.binaries.join(program));
        command.stdin(Stdio::null()).current_dir(self.folder.path()).env_clear().env("LC_ALL", "C").env("TZ", "UTC");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Numbers of a user that is not root.
pub(crate) fn unprivileged_user(preferred: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let numbers = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    numbers(preferred).or_else(|| numbers("nobody"))
}

pub(crate) fn free_port() -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().map(|address| address.port())
}
