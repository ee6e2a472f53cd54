//! The children of a development cluster: started, watched, stopped. By their own ids, never by name.

use crate::files;
use crate::output::progress;
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use std::fs::OpenOptions;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::{Instant, sleep};

/// How long a child may take to end by itself.
const GRACE: Duration = Duration::from_secs(10);
/// How often to look at the children.
const LOOK: Duration = Duration::from_millis(200);
/// How much of a log is shown when a child has died.
const TAIL: usize = 20;

/// A running child.
struct Running {
    name: String,
    argv: Vec<String>,
    log: PathBuf,
    pid: Option<u32>,
    child: Child,
    reported: bool,
}

/// All children, in the order of their start.
pub(crate) struct Children {
    program: PathBuf,
    logs: PathBuf,
    running: Vec<Running>,
}

impl Children {
    /// None yet.
    pub(crate) fn new(logs: PathBuf) -> anyhow::Result<Self> {
        files::private_folder(&logs)?;
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        Ok(Self { program, logs, running: Vec::new() })
    }

    /// Starts this program with other arguments.
    ///
    /// Called on the main thread: `--die-with-parent` is about the thread that starts a child.
    pub(crate) fn start(&mut self, name: &str, arguments: &[String]) -> anyhow::Result<()> {
        let log = self.logs.join(format!("{name}.log"));
        let file = OpenOptions::new().create(true).append(true).open(&log)?;
        let child = Command::new(&self.program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::from(file.try_clone()?))
            .stderr(Stdio::from(file))
            // A Ctrl-C in the terminal is for us alone; we then end the children in order.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let argv = std::iter::once(self.program.display().to_string()).chain(arguments.iter().cloned()).collect();
        let pid = child.id();
        self.running.push(Running { name: name.to_owned(), argv, log, pid, child, reported: false });
        Ok(())
    }

    /// What `dev.json` says of them.
    pub(crate) fn document(&self) -> Value {
        let entry = |r: &Running| (r.name.clone(), json!({ "pid": r.pid, "argv": r.argv, "log": r.log }));
        self.running.iter().map(entry).collect::<serde_json::Map<_, _>>().into()
    }

    /// Reports every child that died since the last look. Returns whether all are alive.
    pub(crate) fn look(&mut self) -> bool {
        let mut alive = true;
        for r in &mut self.running {
            let Ok(Some(status)) = r.child.try_wait() else { continue };
            alive = false;
            if !r.reported {
                r.reported = true;
                let tail = tail(&r.log);
                progress(format_args!(
                    "{} (pid {}) ended: {status}; the end of {}:\n{tail}",
                    r.name,
                    r.pid.unwrap_or(0),
                    r.log.display()
                ));
            }
        }
        alive
    }

    /// Whether a child is alive.
    pub(crate) fn alive(&mut self, name: &str) -> bool {
        self.running.iter_mut().any(|r| r.name == name && matches!(r.child.try_wait(), Ok(None)))
    }

    /// Waits until one of some children ends, and says which.
    pub(crate) async fn first_to_end(&mut self, names: &[&str]) -> String {
        loop {
            self.look();
            if let Some(name) = names.iter().find(|name| !self.alive(name)) {
                return (*name).to_owned();
            }
            sleep(LOOK).await;
        }
    }

    /// Reports children that die, and does nothing else about it, for ever.
    pub(crate) async fn watch(&mut self) {
        loop {
            self.look();
            sleep(LOOK).await;
        }
    }

    /// Ends all of them: asks, waits, insists.
    pub(crate) async fn stop(&mut self) {
        self.stop_within(GRACE).await;
    }

    async fn stop_within(&mut self, grace: Duration) {
        for r in self.running.iter_mut() {
            // Only what was not waited for: the id of a child that was may be somebody else's by now.
            if matches!(r.child.try_wait(), Ok(None)) {
                signal(r.pid, Signal::TERM);
                // One that a test has stopped would never hear it.
                signal(r.pid, Signal::CONT);
            }
        }
        let deadline = Instant::now() + grace;
        for r in &mut self.running {
            if tokio::time::timeout_at(deadline, r.child.wait()).await.is_err() {
                progress(format_args!("{} does not end; it is killed", r.name));
                // Gone is gone, however it went.
                let _ = r.child.kill().await;
            }
        }
    }
}

fn signal(pid: Option<u32>, sign: Signal) {
    let pid = pid.and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // It may have ended in this moment, and not been waited for: then it hears nothing.
        let _ = kill_process(pid, sign);
    }
}

fn tail(log: &std::path::Path) -> String {
    let bytes = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(TAIL);
    lines.get(from..).unwrap_or_default().iter().map(|line| format!("  | {line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_that_dies_is_noticed_and_one_that_does_not_end_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let mut children = Children::new(folder.path().join("logs")).unwrap();
        children.program = PathBuf::from("/bin/sh");
        let sh = |script: &str| ["-c".to_owned(), script.to_owned()];
        children.start("stubborn", &sh("trap '' TERM; echo up; sleep 600 & wait")).unwrap();
        assert!(children.look());
        children.start("mortal", &sh("echo last words; exit 3")).unwrap();
        while children.look() {
            sleep(Duration::from_millis(10)).await;
        }
        assert!(tail(&children.logs.join("mortal.log")).contains("last words"));
        let pid = children.running[0].pid.unwrap();
        children.stop_within(Duration::from_millis(200)).await;
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    }
}
