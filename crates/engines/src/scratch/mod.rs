//! Scratch servers for development clusters and tests.
//!
//! Each is started from the binaries of the distribution, or of another installation, in a temporary folder, on a free port of the
//! loopback; those that refuse root run as an unprivileged user. It is stopped and its folder removed when the
//! value is dropped, also by a panic.
//!
//! # Security
//! Durability is off, and whoever reaches a server's socket may be its administrator; the folder's mode is 0700. Never for data that
//! matters.

#[cfg(feature = "mariadb")]
mod mariadb;
mod postgres;
#[cfg(feature = "rabbitmq")]
mod rabbitmq;
#[cfg(feature = "redis")]
mod redis;

use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, geteuid, kill_process, kill_process_group};
use tempfile::TempDir;

#[cfg(feature = "mariadb")]
pub use self::mariadb::MariaDbServer;
pub use self::postgres::{Installed, PostgresServer};
#[cfg(feature = "rabbitmq")]
pub use self::rabbitmq::{ADMIN, RabbitMqServer};
#[cfg(feature = "redis")]
pub use self::redis::{RedisServer, Users};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(150);
/// How long it may take to stop, before it is killed.
const GRACE: Duration = Duration::from_secs(10);
/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);
/// How many free ports are tried: one may be taken between our look and the server's bind.
const PORTS: usize = 5;

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// This version of PostgreSQL is not installed.
    #[error(
        "PostgreSQL {version} is neither in /usr/lib/postgresql nor in /usr/local/lib/postgresql; there are: {installed}"
    )]
    NoVersion {
        /// The major version.
        version: u32,
        /// Those that are, with commas between; may be empty.
        installed: String,
    },
    /// A program is not there, or can't be run.
    #[error("`{program}` could not be run: is the package {package} installed?")]
    NotInstalled {
        /// Which.
        program: String,
        /// Debian's package that has it.
        package: &'static str,
        /// What the operating system says.
        #[source]
        source: io::Error,
    },
    /// We are root, and there is no user to run it as.
    #[error("neither `{0}` nor `nobody` is in /etc/passwd")]
    NoUser(&'static str),
    /// Its data was not made.
    #[error("{program} failed: {said}")]
    Data {
        /// What was to make it.
        program: &'static str,
        /// What that said.
        said: String,
    },
    /// It did not come up.
    #[error("the server did not start: {0}")]
    Server(String),
    /// The operating system said no.
    #[error("starting a scratch server")]
    Io(#[from] io::Error),
}

/// What one sort of server is like.
#[derive(Debug)]
struct Kind {
    /// What its folder's name begins with.
    prefix: &'static str,
    /// Debian's package that has it.
    package: &'static str,
    /// The user whom it runs as where we are root, if there is one, and `nobody` otherwise. Without it runs as who we are.
    user: Option<&'static str>,
    /// What stops it.
    stop: Signal,
    /// Whether it is a script with a server behind it: all that it starts gets its signals too.
    group: bool,
}

/// A folder, a user and a port for one server, and its process while it runs.
#[derive(Debug)]
struct Sandbox {
    folder: TempDir,
    /// Numbers of the user and the group that it runs as, where that is not who we are.
    user: Option<(u32, u32)>,
    /// 0 until it was first started.
    port: u16,
    kind: &'static Kind,
    process: Option<Child>,
}

impl Sandbox {
    /// An empty folder that belongs to whom the server will run as.
    fn new(kind: &'static Kind) -> Result<Self, StartError> {
        let user = match kind.user {
            Some(name) if geteuid().is_root() => Some(unprivileged_user(name).ok_or(StartError::NoUser(name))?),
            _ => None,
        };
        let folder = tempfile::Builder::new().prefix(kind.prefix).tempdir()?;
        let sandbox = Self { folder, user, port: 0, kind, process: None };
        sandbox.hand_over(sandbox.folder())?;
        Ok(sandbox)
    }

    fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder().join(name)
    }

    /// Writes a file that only the server can read; where it is.
    fn put(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        let path = self.file(name);
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        self.hand_over(&path)?;
        Ok(path)
    }

    /// Makes it the server's own.
    fn hand_over(&self, path: &Path) -> io::Result<()> {
        self.user.map_or(Ok(()), |(uid, gid)| chown(path, Some(uid), Some(gid)))
    }

    /// What a program runs in: the folder, the user, and nothing of our environment but where programs are.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.stdin(Stdio::null()).current_dir(self.folder()).env_clear().env("LC_ALL", "C").env("TZ", "UTC");
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        if self.kind.group {
            command.process_group(0);
        }
        command
    }

    /// Runs a program that makes the server's data to its end. `program` is its name in errors.
    fn make_data(&self, program: &'static str, command: &mut Command) -> Result<(), StartError> {
        let output = command.output().map_err(|e| self.missing(command, e))?;
        if output.status.success() {
            return Ok(());
        }
        Err(StartError::Data { program, said: String::from_utf8_lossy(&output.stderr).into_owned() })
    }

    fn missing(&self, command: &Command, source: io::Error) -> StartError {
        let program = command.get_program().to_string_lossy().into_owned();
        StartError::NotInstalled { program, package: self.kind.package, source }
    }

    /// Starts the server, after [`stop`](Self::stop), on the port that it had or on a free one, and waits until `is_up` says so of its
    /// process' number and its port.
    fn start(
        &mut self,
        command: impl Fn(&Self, u16) -> Command,
        is_up: impl Fn(&Self, u32, u16) -> bool,
    ) -> Result<(), StartError> {
        self.stop();
        let mut last = StartError::Server("no free port".into());
        for _ in 0..if self.port == 0 { PORTS } else { 1 } {
            let port = if self.port == 0 { free_port()? } else { self.port };
            match self.start_once(command(self, port), |pid| is_up(self, pid, port)) {
                Ok(process) => {
                    self.port = port;
                    self.process = Some(process);
                    return Ok(());
                }
                Err(error @ StartError::Server(_)) => last = error,
                Err(error) => return Err(error),
            }
        }
        Err(last)
    }

    fn start_once(&self, mut command: Command, is_up: impl Fn(u32) -> bool) -> Result<Child, StartError> {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.file("log"))?;
        let mut process =
            command.stdout(log.try_clone()?).stderr(log).spawn().map_err(|e| self.missing(&command, e))?;
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline && matches!(process.try_wait(), Ok(None)) {
            if is_up(process.id()) {
                return Ok(process);
            }
            sleep(LOOK);
        }
        self.send(&process, Signal::KILL);
        let _ = process.wait();
        Err(StartError::Server(self.log()))
    }

    /// Stops it, keeping its files and its port; does nothing when it is stopped.
    fn stop(&mut self) {
        self.signal(self.kind.stop);
        let Some(mut process) = self.process.take() else { return };
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if !matches!(process.try_wait(), Ok(None)) {
                return;
            }
            sleep(LOOK);
        }
        self.send(&process, Signal::KILL);
        let _ = process.wait();
    }

    /// Sends it a signal, if it runs.
    fn signal(&self, signal: Signal) {
        if let Some(process) = &self.process {
            self.send(process, signal);
        }
    }

    fn send(&self, process: &Child, signal: Signal) {
        if let Some(pid) = i32::try_from(process.id()).ok().and_then(Pid::from_raw) {
            let _ = if self.kind.group { kill_process_group(pid, signal) } else { kill_process(pid, signal) };
        }
    }

    /// What the server has said since it was made.
    fn log(&self) -> String {
        fs::read(self.file("log")).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Numbers of a user that is not root.
fn unprivileged_user(preferred: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    let numbers = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    numbers(preferred).or_else(|| numbers("nobody"))
}

fn free_port() -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().map(|address| address.port())
}
