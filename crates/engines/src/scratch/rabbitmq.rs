//! A scratch RabbitMQ, with a port mapper (epmd) of its own.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use rustix::process::Signal;

use super::{Kind, Sandbox, StartError};

/// As whoever asks: Debian's own way to start it is a service's.
const KIND: Kind = Kind {
    prefix: "quorate-rabbitmq",
    package: "rabbitmq-server",
    user: None,
    // As a crash: what it has answered is on its disk.
    stop: Signal::KILL,
    group: true,
};
/// Where the distribution has the programs as they are.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";

/// The name and the password of the server's first administrator.
pub const ADMIN: &str = "admin";

/// A running RabbitMQ.
#[derive(Debug)]
pub struct RabbitMqServer {
    sandbox: Sandbox,
    epmd: Child,
    /// For AMQP, the port mapper, other servers, and a person's tools.
    ports: [u16; 4],
}

impl RabbitMqServer {
    /// Starts one with these plugins beside the management interface, and these further settings of the form `name = value`. Blocks for
    /// some seconds.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(plugins: &[&str], settings: &[&str]) -> Result<Self, StartError> {
        let mut sandbox = Sandbox::new(&KIND)?;
        let [management, amqp, epmd, distribution, tools] = free_ports()?;
        // It stands in the configuration file.
        sandbox.port = management;
        let mut text = format!(
            "listeners.tcp.1 = 127.0.0.1:{amqp}\nmanagement.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {management}\n\
             default_user = {ADMIN}\ndefault_pass = {ADMIN}\n\
             log.console = true\nlog.console.level = debug\nlog.file = false\n"
        );
        settings.iter().for_each(|setting| {
            text.push_str(setting);
            text.push('\n');
        });
        sandbox.put("rabbitmq.conf", &text)?;
        let plugins: String = plugins.iter().map(|plugin| format!(",{plugin}")).collect();
        sandbox.put("enabled_plugins", &format!("[rabbitmq_management{plugins}]."))?;
        let mut command = sandbox.command("epmd");
        command.args(["-port", &epmd.to_string(), "-address", "127.0.0.1"]).stdout(Stdio::null()).stderr(Stdio::null());
        let epmd_process = command.spawn().map_err(|e| sandbox.missing(&command, e))?;
        let mut server = Self { sandbox, epmd: epmd_process, ports: [amqp, epmd, distribution, tools] };
        server.run()?;
        Ok(server)
    }

    /// The port of the management interface on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.sandbox.port
    }

    /// The port on 127.0.0.1 at which it speaks AMQP.
    #[must_use]
    pub fn amqp_port(&self) -> u16 {
        let [amqp, ..] = self.ports;
        amqp
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

    /// Stops it at once, as a crash would, keeping its files and its ports; does nothing when it is stopped.
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
        let (ports, before) = (self.ports, self.log().len());
        let rabbitmq = |sandbox: &Sandbox, _: u16| command(sandbox, ports, &format!("{PROGRAMS}/rabbitmq-server"));
        self.sandbox.start(rabbitmq, |sandbox, _, port| {
            let is_ready = sandbox.log().get(before..).is_some_and(|log| log.contains("Server startup complete"));
            is_ready && TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        })
    }

    /// Runs what a person would type at the server's host: `rabbitmqctl` and its like mean this server. Blocks for some seconds.
    ///
    /// # Errors
    /// When the shell can't be started.
    pub fn shell(&self, line: &str) -> io::Result<Output> {
        command(&self.sandbox, self.ports, "/bin/sh").args(["-c", line]).output()
    }
}

impl Drop for RabbitMqServer {
    fn drop(&mut self) {
        self.stop();
        let _ = self.epmd.kill();
        let _ = self.epmd.wait();
    }
}

/// A program that finds this server, and nothing of another.
fn command(sandbox: &Sandbox, ports: [u16; 4], program: &str) -> Command {
    let mut command = sandbox.command(program);
    let [_, epmd, distribution, tools] = ports;
    command.env("PATH", format!("{PROGRAMS}:/usr/sbin:/usr/bin:/sbin:/bin")).env("LC_ALL", "C.UTF-8");
    // Its cookie, and whatever else Erlang keeps there.
    command.env("HOME", sandbox.folder());
    command.env("RABBITMQ_NODENAME", format!("quorate{distribution}@localhost"));
    for (name, port) in [
        ("ERL_EPMD_PORT", epmd),
        ("RABBITMQ_DIST_PORT", distribution),
        ("RABBITMQ_CTL_DIST_PORT_MIN", tools),
        ("RABBITMQ_CTL_DIST_PORT_MAX", tools),
    ] {
        command.env(name, port.to_string());
    }
    for (name, file) in [
        ("RABBITMQ_BASE", ""),
        ("RABBITMQ_MNESIA_BASE", "mnesia"),
        ("RABBITMQ_LOG_BASE", "logs"),
        // Without its ending, `.conf`.
        ("RABBITMQ_CONFIG_FILE", "rabbitmq"),
        ("RABBITMQ_ADVANCED_CONFIG_FILE", "advanced"),
        ("RABBITMQ_CONF_ENV_FILE", "environment"),
        ("RABBITMQ_GENERATED_CONFIG_DIR", "generated"),
        ("RABBITMQ_SCHEMA_DIR", "schema"),
        ("RABBITMQ_ENABLED_PLUGINS_FILE", "enabled_plugins"),
        ("RABBITMQ_FEATURE_FLAGS_FILE", "feature_flags"),
        ("RABBITMQ_PID_FILE", "pid"),
    ] {
        command.env(name, sandbox.file(file));
    }
    // One thread for the work, which does not spin while it waits for some; and the port for other servers on the loopback only.
    let arguments = "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none -kernel inet_dist_use_interface {127,0,0,1}";
    command.env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", arguments);
    command
}

/// Different ones.
fn free_ports() -> io::Result<[u16; 5]> {
    let mut held = Vec::new();
    let mut ports = [0; 5];
    for port in &mut ports {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}
