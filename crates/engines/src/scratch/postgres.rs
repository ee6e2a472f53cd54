//! A scratch PostgreSQL.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Signal;

use super::{Kind, Sandbox, StartError};

/// SIGQUIT is the immediate shutdown: nothing here is worth a checkpoint. The postmaster takes its children along, which SIGKILL would
/// leave behind for a while.
const KIND: Kind =
    Kind { prefix: "quorate-pg", package: "postgresql", user: Some(SUPERUSER), stop: Signal::QUIT, group: false };
/// The superuser, on the Unix socket only.
const SUPERUSER: &str = "postgres";

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

    /// The one of a major version, the distribution's where there are two.
    ///
    /// # Errors
    /// [`StartError::NoVersion`], with those that there are.
    pub fn of(version: u32) -> Result<Self, StartError> {
        let (mut found, mut others) = (None, Vec::new());
        for one in Self::all() {
            others.push(one.version.to_string());
            found = found.or(Some(one).filter(|one| one.version == version));
        }
        found.ok_or_else(|| StartError::NoVersion { version, installed: others.join(", ") })
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

/// A running PostgreSQL, on a Unix socket in its folder as well.
#[derive(Debug)]
pub struct PostgresServer {
    sandbox: Sandbox,
    installed: Installed,
    settings: Vec<String>,
    encrypted: bool,
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
        let newest = Installed::packaged().pop().ok_or_else(|| StartError::NotInstalled {
            program: "initdb".to_owned(),
            package: KIND.package,
            source: io::ErrorKind::NotFound.into(),
        })?;
        Self::start_on(&newest, settings)
    }

    /// The same with that version.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start_on(installed: &Installed, settings: &[&str]) -> Result<Self, StartError> {
        let mut server = Self::prepare(installed, settings)?;
        let mut initdb = server.command("initdb");
        initdb
            .args(["--auth-local=trust", "--auth-host=scram-sha-256", "--no-sync", "--no-locale", "--encoding=UTF8"])
            .args(["--username", SUPERUSER, "--pgdata"])
            .arg(server.data());
        server.sandbox.make_data("initdb", &mut initdb)?;
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
        let mut copy = server.command("pg_basebackup");
        copy.args(["--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast", "--no-sync", "--host"])
            .arg(self.socket_folder())
            .args(["--port", &self.port().to_string(), "--username", SUPERUSER, "--pgdata"])
            .arg(server.data());
        server.sandbox.make_data("pg_basebackup", &mut copy)?;
        server.run()?;
        Ok(server)
    }

    fn prepare(installed: &Installed, settings: &[&str]) -> Result<Self, StartError> {
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        Ok(Self { sandbox: Sandbox::new(&KIND)?, installed: installed.clone(), settings, encrypted: false })
    }

    /// Gives it a certificate and its key, both in PEM, and has it speak TLS with them from now on.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn certify(&mut self, certificate: &str, key: &str) -> Result<(), StartError> {
        for (name, text) in [("data/server.crt", certificate), ("data/server.key", key)] {
            self.sandbox.put(name, text)?;
        }
        self.encrypted = true;
        self.run()
    }

    /// The port on 127.0.0.1, where passwords are asked for (SCRAM-SHA-256).
    #[must_use]
    pub fn port(&self) -> u16 {
        self.sandbox.port
    }

    /// The folder of the Unix socket, where [`superuser`](Self::superuser) is let in without one.
    #[must_use]
    pub fn socket_folder(&self) -> &Path {
        self.sandbox.folder()
    }

    /// How to connect as the superuser.
    #[must_use]
    pub fn superuser(&self, dbname: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(self.socket_folder()).port(self.port()).user(SUPERUSER).dbname(dbname);
        config
    }

    /// Stops it, keeping its data and its port; does nothing when it is stopped.
    pub fn stop(&mut self) {
        self.sandbox.stop();
    }

    /// Starts it again on its data, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn run(&mut self) -> Result<(), StartError> {
        let (data, installed) = (self.data(), &self.installed);
        let defaults = ["listen_addresses=127.0.0.1", "fsync=off", "full_page_writes=off", "shared_buffers=16MB"];
        let tls = self.encrypted.then_some("ssl=on");
        let settings = defaults.into_iter().chain(tls).chain(self.settings.iter().map(String::as_str));
        let settings: Vec<&str> = settings.flat_map(|setting| ["-c", setting]).collect();
        let postgres = |sandbox: &Sandbox, port: u16| {
            let mut command = sandbox.command(installed.binaries.join("postgres"));
            command.arg("-D").arg(&data).arg("-k").arg(sandbox.folder()).arg("-p").arg(port.to_string());
            command.args(&settings);
            command
        };
        self.sandbox.start(postgres, |_, pid, _| {
            // The eighth line of this file is the server's own word on its state.
            let state = fs::read_to_string(data.join("postmaster.pid")).unwrap_or_default();
            let ours = state.lines().next().and_then(|pid| pid.trim().parse().ok()) == Some(pid);
            ours && state.lines().nth(7).is_some_and(|line| matches!(line.trim(), "ready" | "standby"))
        })
    }

    /// What the server has logged, for tests that look for secrets in it and for errors.
    #[must_use]
    pub fn log(&self) -> String {
        self.sandbox.log()
    }

    fn data(&self) -> PathBuf {
        self.sandbox.file("data")
    }

    fn command(&self, program: &str) -> Command {
        self.sandbox.command(self.installed.binaries.join(program))
    }
}
