//! The processes of a side: started here, ended by their own ids, and gone when this program is gone.

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a process may take to end by itself.
const GRACE: Duration = Duration::from_secs(20);

/// A server that runs; ended when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts a program that ends with this one, whatever becomes of it; what it says goes to `log`.
    pub(crate) fn start(
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
        log: &Path,
    ) -> anyhow::Result<Self> {
        let file = File::create(log).with_context(|| log.display().to_string())?;
        // It replaces itself by the program, so that the process is the program's.
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "TERM", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, log: log.to_owned() })
    }

    /// Its id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when it has ended, with the end of what it said.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            let last: Vec<&str> = said.lines().rev().take(20).collect();
            let last: Vec<&str> = last.into_iter().rev().collect();
            anyhow::bail!("a server ended: {status}; the end of {}:\n{}", self.log.display(), last.join("\n"));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        signal(&self.child, Signal::TERM);
        let deadline = Instant::now() + GRACE;
        while Instant::now() < deadline {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        // It was asked. Gone is gone, however it went.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Kills a process that a side runs, and returns when it is gone.
pub(crate) fn kill(pid: u32) -> anyhow::Result<()> {
    let id = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process id")?;
    kill_process(id, Signal::KILL)?;
    let deadline = Instant::now() + GRACE;
    // Gone, or waiting for its parent to hear of it.
    while std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z ")) {
        anyhow::ensure!(Instant::now() < deadline, "process {pid} does not end");
        std::thread::sleep(Duration::from_millis(1));
    }
    Ok(())
}

/// Sends a signal to a child that was not waited for.
pub(crate) fn signal(child: &Child, signal: Signal) {
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // One that has just ended hears nothing.
        let _ = kill_process(pid, signal);
    }
}

/// Free ports on the loopback, below those that the kernel gives to outgoing connections. Somebody may take one before a server
/// does: starting then fails, and says so.
pub(crate) fn free_ports(n: usize) -> anyhow::Result<Vec<u16>> {
    let mut random = [0; 2];
    getrandom::fill(&mut random).context("the kernel gives no randomness")?;
    let first = 12_000 + u16::from_be_bytes(random) % 6_000;
    let listeners = (first..20_000).filter_map(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok());
    // Held together, so that none is given twice.
    let listeners: Vec<_> = listeners.take(n).collect();
    anyhow::ensure!(listeners.len() == n, "there are no {n} free ports on the loopback");
    listeners.iter().map(|l| Ok(l.local_addr()?.port())).collect()
}
