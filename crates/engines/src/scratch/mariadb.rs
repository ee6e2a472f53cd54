//! A scratch MariaDB.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};

use rustix::process::Signal;

use super::{Kind, Sandbox, StartError};

const KIND: Kind =
    Kind { prefix: "quorate-my", package: "mariadb-server", user: Some("mysql"), stop: Signal::TERM, group: false };

/// A running MariaDB.
#[derive(Debug)]
pub struct MariaDbServer {
    sandbox: Sandbox,
    settings: Vec<String>,
}

impl MariaDbServer {
    /// Makes a new server and starts it, with settings of the form `name=value`. Blocks for some seconds.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(settings: &[&str]) -> Result<Self, StartError> {
        let sandbox = Sandbox::new(&KIND)?;
        // A server that starts deletes what it takes for its own in its folder of temporary files.
        let temporary = sandbox.file("tmp");
        fs::create_dir(&temporary)?;
        sandbox.hand_over(&temporary)?;
        let mut install = sandbox.command("mariadb-install-db");
        install
            .args([
                "--no-defaults",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ])
            .args(folders(&sandbox));
        sandbox.make_data("mariadb-install-db", &mut install)?;
        let mut server = Self { sandbox, settings: settings.iter().map(|s| (*s).to_owned()).collect() };
        server.run()?;
        Ok(server)
    }

    /// The port on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.sandbox.port
    }

    /// The Unix socket, where `root` is let in without a password.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.sandbox.file("socket")
    }

    /// Where files for its settings can be put: it can read them there.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn put(&self, name: &str, content: &str) -> io::Result<PathBuf> {
        self.sandbox.put(name, content)
    }

    /// Further settings, from the next [`run`](Self::run) on.
    pub fn set(&mut self, setting: &str) {
        self.settings.push(setting.to_owned());
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
        let settings = &self.settings;
        let mariadbd = |sandbox: &Sandbox, port: u16| {
            let _ = fs::remove_file(sandbox.file("pid"));
            let mut command = sandbox.command(daemon());
            command
                .arg("--no-defaults")
                .args(folders(sandbox))
                .arg(argument("--socket", &sandbox.file("socket")))
                .arg(argument("--pid-file", &sandbox.file("pid")))
                .args([&format!("--port={port}"), "--bind-address=127.0.0.1", "--skip-name-resolve"])
                .args([
                    "--innodb-flush-method=nosync",
                    "--innodb-buffer-pool-size=16M",
                    "--innodb-flush-log-at-trx-commit=0",
                ])
                .args(settings.iter().map(|setting| format!("--{setting}")));
            command
        };
        self.sandbox.start(mariadbd, |sandbox, process, port| {
            // Written when it has opened its ports.
            let ours = fs::read_to_string(sandbox.file("pid")).is_ok_and(|pid| pid.trim().parse() == Ok(process));
            ours && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.sandbox.log()
    }
}

fn folders(sandbox: &Sandbox) -> [OsString; 2] {
    [argument("--datadir", &sandbox.file("data")), argument("--tmpdir", &sandbox.file("tmp"))]
}

fn argument(name: &str, path: &Path) -> OsString {
    let mut argument = OsString::from(format!("{name}="));
    argument.push(path);
    argument
}

/// Where Debian has it is in the path of the administrator only.
fn daemon() -> &'static Path {
    let packaged = Path::new("/usr/sbin/mariadbd");
    if packaged.exists() { packaged } else { Path::new("mariadbd") }
}
