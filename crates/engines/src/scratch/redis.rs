//! A scratch Redis. Nothing that is stored in it is kept but its users.

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;

use rustix::process::Signal;

use super::{Kind, Sandbox, StartError, free_port};

const KIND: Kind =
    Kind { prefix: "quorate-redis", package: "redis-tools", user: None, stop: Signal::KILL, group: false };

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

/// A running Redis.
#[derive(Debug)]
pub struct RedisServer {
    sandbox: Sandbox,
    users: Users,
    settings: Vec<String>,
}

impl RedisServer {
    /// Starts one with these users, each as `ACL SETUSER` takes it, name first, and these further settings of the form
    /// `name value`. Blocks for a moment.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(kept: Users, users: &[&str], settings: &[&str]) -> Result<Self, StartError> {
        let mut sandbox = Sandbox::new(&KIND)?;
        // It stands in the configuration file, which the server writes too.
        sandbox.port = free_port()?;
        let settings = settings.iter().map(|s| (*s).to_owned()).collect();
        let mut server = Self { sandbox, users: kept, settings };
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
        self.sandbox.port
    }

    /// The number of its process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.sandbox.process.as_ref().map(Child::id)
    }

    /// A file of the server's.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.sandbox.file(name)
    }

    /// What the server has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.sandbox.log()
    }

    /// Stops it at once, keeping its files and its port; does nothing when it is stopped.
    pub fn stop(&mut self) {
        self.sandbox.stop();
    }

    /// It does nothing any more, with its connections open; or goes on.
    pub fn freeze(&self, frozen: bool) {
        self.sandbox.signal(if frozen { Signal::STOP } else { Signal::CONT });
    }

    /// Starts it again on its files, after [`stop`](Self::stop).
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn run(&mut self) -> Result<(), StartError> {
        let (users, configuration) = (self.users, self.configuration());
        let redis = |sandbox: &Sandbox, _: u16| {
            // One program under several names, which does what it is called. Debian has it without a service in redis-tools.
            let mut command = sandbox.command("redis-check-rdb");
            command.arg0("redis-server");
            if users == Users::Memory {
                for setting in configuration.lines() {
                    let (name, value) = setting.split_once(' ').unwrap_or((setting, ""));
                    command.arg(format!("--{name}"));
                    // A value of several words is several arguments, but one that is empty is one.
                    command.args(value.split(' ').map(|word| word.trim_matches('"')));
                }
            } else {
                command.arg(sandbox.file("redis.conf"));
            }
            command
        };
        self.sandbox.start(redis, |sandbox, process, port| {
            // Whether this process has said that it is ready: another could listen on the port.
            let ours = format!("{process}:");
            let is_ready = |line: &str| line.starts_with(&ours) && line.contains("Ready to accept connections");
            sandbox.log().lines().any(is_ready) && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })
    }

    fn configuration(&self) -> String {
        let (port, folder) = (self.port(), self.folder());
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
        self.sandbox.folder()
    }
}
