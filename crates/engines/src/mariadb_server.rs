//! A scratch MariaDB for development clusters and tests: see [`PostgresServer`](crate::postgres_server::PostgresServer).
//!
//! # Security
//! Durability is off and `root` has no password on the Unix socket; the folder's mode is 0700. Never for data that matters.

use std::fs;
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process};
use tempfile::TempDir;

use crate::postgres_server::{free_port, unprivileged_user};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// We are root, and there is no user to run it as.
    #[error("neither `mysql` nor `nobody` is in /etc/passwd")]
    NoUser,
    /// Its tables were not made.
    #[error("mariadb-install-db failed: is the package mariadb-server installed? {0}")]
    Install(String),
    /// It did not come up.
    #[error("the server did not start: {0}")]
    Server(String),
    /// The operating system said no.
    #[error("starting MariaDB: is the package mariadb-server installed?")]
    Io(#[from] io::Error),
}

/// A running server.
#[derive(Debug)]
pub struct MariaDbServer {
    folder: TempDir,
    user: Option<(u32, u32)>,
    port: u16,
    settings: Vec<String>,
    process: Option<Child>,
}

impl MariaDbServer {
    /// Makes a new server and starts it, with settings of the form `name=value`. Blocks for some seconds.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(settings: &[&str]) -> Result<Self, StartError> {
        let user = match geteuid().is_root() {
            true => Some(unprivileged_user("mysql").ok_or(StartError::NoUser)?),
            false => None,
        };
        let folder = tempfile::Builder::new().prefix("quorate-my").tempdir()?;
        if let Some((uid, gid)) = user {
            chown(folder.path(), Some(uid), Some(gid))?;
        }
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        // A server that starts deletes what it takes for its own in its folder of temporary files.
        let temporary = folder.path().join("tmp");
        fs::create_dir(&temporary)?;
        if let Some((uid, gid)) = user {
            chown(&temporary, Some(uid), Some(gid))?;
        }
        let mut server = Self { folder, user, port: 0, settings, process: None };
        server.install()?;
        server.run()?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The Unix socket, where `root` is let in without a password.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// Where files for its settings can be put: it can read them there.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn put(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.folder.path().join(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        if let Some((uid, gid)) = self.user {
            chown(&path, Some(uid), Some(gid))?;
        }
        Ok(path)
    }

    /// Further settings, from the next [`run`](Self::run) on.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
    }

    /// Stops it, keeping its data and its port; does nothing when it is stopped.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
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

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.folder.path().join("log")).map(|l| String::from_utf8_lossy(&l).into_owned()).unwrap_or_default()
    }

    fn install(&self) -> Result<(), StartError> {
        let mut command = Command::new("mariadb-install-db");
        command
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ])
            .args([argument("--datadir", &self.data()), argument("--tmpdir", &self.folder.path().join("tmp"))]);
        let output = self.confine(&mut command).output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(StartError::Install(String::from_utf8_lossy(&output.stderr).into_owned()))
    }

    fn run_on(&self, port: u16) -> Result<Child, StartError> {
        let (pid_file, socket) = (self.folder.path().join("pid"), self.socket());
        let _ = fs::remove_file(&pid_file);
        let mut command = Command::new(daemon());
        command
            .arg("--no-defaults")
            .args([argument("--datadir", &self.data()), argument("--tmpdir", &self.folder.path().join("tmp"))])
            .arg(argument("--socket", &socket))
            .arg(argument("--pid-file", &pid_file))
            .args([&format!("--port={port}"), "--bind-address=127.0.0.1", "--skip-name-resolve"])
            .args([
                "--innodb-flush-method=nosync",
                "--innodb-buffer-pool-size=16M",
                "--innodb-flush-log-at-trx-commit=0",
            ])
            .args(self.settings.iter().map(|setting| format!("--{setting}")));
        let log = fs::OpenOptions::new().create(true).append(true).open(self.folder.path().join("log"))?;
        let mut process = self.confine(&mut command).stdout(Stdio::null()).stderr(log).spawn()?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            // Written when it has opened its ports.
            let ours = fs::read_to_string(&pid_file).is_ok_and(|pid| pid.trim().parse() == Ok(process.id()));
            if ours && std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
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

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn confine<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.stdin(Stdio::null()).current_dir(self.folder.path()).env("LC_ALL", "C").env("TZ", "UTC");
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        command
    }
}

fn argument(name: &str, path: &Path) -> std::ffi::OsString {
    let mut argument = std::ffi::OsString::from(format!("{name}="));
    argument.push(path);
    argument
}

/// Where Debian has it is in the path of the administrator only.
fn daemon() -> &'static Path {
    let packaged = Path::new("/usr/sbin/mariadbd");
    if packaged.exists() { packaged } else { Path::new("mariadbd") }
}

impl Drop for MariaDbServer {
    fn drop(&mut self) {
        self.stop();
    }
}
