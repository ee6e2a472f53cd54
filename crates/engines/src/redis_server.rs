//! A scratch Redis for development clusters and tests.
//!
//! Started from the binary of the distribution in a temporary folder, on a free port of the loopback. It is stopped and its folder
//! removed when the value is dropped, also by a panic.
//!
//! # Security
//! Nothing that is stored is kept but its users. The folder's mode is 0700. Never for data that matters.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// How long a server may take to start or to stop.
const PATIENCE: Duration = Duration::from_secs(30);

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Redis is not installed.
    #[error("redis-check-rdb could not be run: is the package redis-tools installed?")]
    NotInstalled(#[source] io::Error),
    /// It did not come up.
    #[error("the server did not start: {0}")]
    Server(String),
    /// The operating system said no.
    #[error("starting Redis")]
    Io(#[from] io::Error),
}

/// Where the server keeps its users.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Users {
    /// In an `aclfile`.
    AclFile,
    /// In its configuration file.
    ConfigFile,
    /// Nowhere.
    Memory,
}

/// A running server.
#[derive(Debug)]
pub struct RedisServer {
    folder: TempDir,
    users: Users,
    settings: Vec<String>,
    port: u16,
    process: Option<Child>,
}

impl RedisServer {
    /// Starts one with these users, each as `ACL SETUSER` takes it, name first, and these further settings of the form
    /// `name value`. Blocks for a moment.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(kept: Users, users: &[&str], settings: &[&str]) -> Result<Self, StartError> {
        let folder = tempfile::Builder::new().prefix("quorate-redis").tempdir()?;
        let mut server = Self {
            folder,
            users: kept,
            settings: settings.iter().map(|s| (*s).to_owned()).collect(),
            port: free_port()?,
            process: None,
        };
        let lines: String = users.iter().map(|user| format!("user {user}\n")).collect();
        match kept {
            Users::AclFile => {
                fs::write(server.file("users.acl"), lines)?;
                fs::write(server.file("redis.conf"), server.configuration() + "aclfile users.acl\n")?;
            }
            Users::ConfigFile => fs::write(server.file("redis.conf"), server.configuration() + &lines)?,
            Users::Memory => {
                server.settings.extend(users.iter().map(|user| format!("user {user}")));
            }
        }
        server.run()?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The number of its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().map(Child::id)
    }

    /// A file of the server's.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.file("log")).map(|l| String::from_utf8_lossy(&l).into_owned()).unwrap_or_default()
    }

    /// Stops it at once, keeping its files and its port; does nothing when it is stopped.
    pub fn stop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let _ = process.kill();
        let _ = process.wait();
    }

    /// It does nothing any more, with its connections open; or goes on.
    pub fn freeze(&self, frozen: bool) {
        let pid = self.pid().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            let _ = kill_process(pid, if frozen { Signal::STOP } else { Signal::CONT });
        }
    }

    /// Starts it again on its files, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn run(&mut self) -> Result<(), StartError> {
        self.stop();
        let log = fs::OpenOptions::new().create(true).append(true).open(self.file("log"))?;
        // One program under several names, which does what it is called. Debian has it without a service in redis-tools.
        let mut command = Command::new("redis-check-rdb");
        command.arg0("redis-server");
        if self.users == Users::Memory {
            for setting in self.configuration().lines() {
                let (name, value) = setting.split_once(' ').unwrap_or((setting, ""));
                command.arg(format!("--{name}"));
                // A value of several words is several arguments, but one that is empty is one.
                let words: Vec<&str> = value.split(' ').map(|word| word.trim_matches('"')).collect();
                command.args(words);
            }
        } else {
            command.arg(self.file("redis.conf"));
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).current_dir(self.folder.path());
        let mut process = command.env_clear().env("LC_ALL", "C").spawn().map_err(StartError::NotInstalled)?;
        let deadline = Instant::now() + PATIENCE;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        while Instant::now() < deadline && process.try_wait()?.is_none() {
            if self.log_since_start(process.id()) && TcpStream::connect(address).is_ok() {
                self.process = Some(process);
                return Ok(());
            }
            sleep(Duration::from_millis(10));
        }
        let _ = process.kill();
        let _ = process.wait();
        Err(StartError::Server(self.log()))
    }

    /// Whether this process has said that it is ready: another could listen on the port.
    fn log_since_start(&self, pid: u32) -> bool {
        let ready = format!("{pid}:");
        self.log().lines().any(|line| line.starts_with(&ready) && line.contains("Ready to accept connections"))
    }

    fn configuration(&self) -> String {
        let (port, folder) = (self.port, self.folder.path());
        let mut text = format!("port {port}\nbind 127.0.0.1\ndir {}\nsave \"\"\nappendonly no\n", folder.display());
        self.settings.iter().for_each(|setting| {
            text.push_str(setting);
            text.push('\n');
        });
        text
    }

    /// The folder of its files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> io::Result<u16> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr().map(|address| address.port())
}
