//! System calls of a running member that fail or take long: strace in its way, without any change to the program.

use crate::lab::Node;
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// The calls by which a member makes things durable.
const SYNCS: &str = "fsync,fdatasync";

/// The mutant that the checkers have to catch: syncs of a member that do nothing, and say that they have, for as long as it runs.
pub(crate) fn pretend(node: &Node) -> anyhow::Result<()> {
    let pid = node.process.pid().context("it was never started")?;
    // It ends with the process that it is about.
    strace(pid, "retval=0", &[], Path::new("/dev/null"))?;
    Ok(())
}

/// Where no file is named, all are meant.
fn strace(pid: u32, how: &str, files: &[PathBuf], log: &Path) -> anyhow::Result<Child> {
    Command::new("strace")
        .args(["-f", "-qq", "-e", "signal=none", "-e", &format!("trace={SYNCS}")])
        .args(["-e", &format!("inject={SYNCS}:{how}")])
        .args(files.iter().flat_map(|file| [OsStr::new("-P"), file.as_os_str()]))
        .arg("-o")
        .arg(log)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("cannot run strace: see deploy/build/setup")
}

/// A tracer at work on one process.
pub(crate) struct Trace {
    child: Child,
    log: PathBuf,
}

impl Trace {
    /// Has syncs of a member's process do something else: `error=EIO`, `delay_enter=400000` (microseconds). Those of these files, if any are named.
    pub(crate) fn begin(node: &Node, fault: u32, how: &str, files: &[PathBuf]) -> anyhow::Result<Self> {
        let pid = node.process.pid().context("it was never started")?;
        let log = PathBuf::from(format!("/run/trace-{fault}-{}", node.name));
        let child = strace(pid, how, files, &log)?;
        Ok(Self { child, log })
    }

    /// Takes it out of the way; how many calls it has changed.
    pub(crate) async fn end(mut self) -> anyhow::Result<u64> {
        // It lets go of the process when it is told to end; it has ended with the process otherwise.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        if timeout(Duration::from_secs(10), self.child.wait()).await.is_err() {
            self.child.kill().await?;
        }
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        let changed = said.lines().filter(|line| line.contains("(INJECTED)") || line.contains("(DELAYED)")).count();
        Ok(u64::try_from(changed)?)
    }
}
