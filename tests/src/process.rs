//! One process of a cluster: signals, its end, its next beginning.

use crate::LOOK;
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::OpenOptions;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How long a killed process may take to be gone.
const GONE: Duration = Duration::from_secs(15);

/// A process that `quorate dev` started, or that took the place of one.
///
/// Signals go to the process that runs this very command line, and to no other that got its id later.
#[derive(Debug)]
pub struct Process {
    name: String,
    argv: Vec<String>,
    log: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    pid: u32,
    /// Its successor is a child of ours, and ours to wait for.
    child: Option<Child>,
}

impl Process {
    pub(crate) fn new(name: String, argv: Vec<String>, log: PathBuf, pid: u32) -> Self {
        Self { name, argv, log, state: Mutex::new(State { pid, child: None }) }
    }

    /// `n1` to `n9`, `custodian` or `postgres`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the process that runs, or that ran last.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.state().pid
    }

    /// What it has written to its log, of all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        std::fs::read(&self.log).map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default()
    }

    /// Whether it runs; a stopped one does.
    #[must_use]
    pub fn alive(&self) -> bool {
        self.alive_as(&mut self.state())
    }

    fn alive_as(&self, state: &mut State) -> bool {
        if let Some(child) = &mut state.child {
            return matches!(child.try_wait(), Ok(None));
        }
        // A process that has ended and was not waited for has an empty command line.
        let line = std::fs::read(format!("/proc/{}/cmdline", state.pid)).unwrap_or_default();
        line.split(|b| *b == 0).filter(|word| !word.is_empty()).eq(self.argv.iter().map(String::as_bytes))
    }

    /// SIGKILL, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&self) -> anyhow::Result<()> {
        self.signal(Signal::KILL)?;
        self.wait_gone(GONE).await
    }

    /// SIGTERM, and waits until it is gone.
    ///
    /// # Errors
    /// When it does not run, or does not end.
    pub async fn terminate(&self) -> anyhow::Result<()> {
        self.signal(Signal::TERM)?;
        self.wait_gone(GONE).await
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// When it does not run.
    pub fn stop(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT.
    ///
    /// # Errors
    /// When it does not run.
    pub fn cont(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Waits for its end, as after a failpoint that kills it.
    ///
    /// # Errors
    /// When it still runs after `limit`.
    pub async fn wait_gone(&self, limit: Duration) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while self.alive() {
            anyhow::ensure!(Instant::now() < deadline, "{} (pid {}) did not end in {limit:?}", self.name, self.pid());
            tokio::time::sleep(LOOK / 5).await;
        }
        Ok(())
    }

    /// Waits for the end of one that was started again, and returns its exit status: none if a signal ended it.
    ///
    /// # Errors
    /// When it still runs after `limit`, or was not started by [`Process::restart`].
    pub async fn wait_exit(&self, limit: Duration) -> anyhow::Result<Option<i32>> {
        self.wait_gone(limit).await?;
        let mut state = self.state();
        let child = state.child.as_mut().with_context(|| format!("{} is not a child of this test", self.name))?;
        Ok(child.wait()?.code())
    }

    /// Starts it again by its command line, with more variables in its environment, as FAILPOINTS.
    ///
    /// It dies with the thread that calls this: call it on one that lives as long as the test.
    ///
    /// # Errors
    /// When it still runs, or cannot be started.
    pub fn restart(&self, environment: &[(&str, &str)]) -> anyhow::Result<()> {
        let mut state = self.state();
        anyhow::ensure!(!self.alive_as(&mut state), "{} (pid {}) still runs", self.name, state.pid);
        let (program, arguments) = self.argv.split_first().context("an empty command line")?;
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            // As the one before it: a Ctrl-C in the terminal is not for it.
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {} again", self.name))?;
        *state = State { pid: child.id(), child: Some(child) };
        Ok(())
    }

    /// Ends a successor that is a child of ours; `quorate dev` ends the others. Returns at once.
    pub(crate) fn ask_child_to_end(&self) {
        if self.state().child.is_some() && self.signal(Signal::TERM).is_ok() {
            // One that is stopped would never hear it. It may be gone by now.
            let _ = self.signal(Signal::CONT);
        }
    }

    /// Makes sure that it is gone, by force after `deadline`. Blocks.
    pub(crate) fn end_by(&self, deadline: Instant) {
        while self.alive() {
            if Instant::now() >= deadline {
                // It may have ended in this moment. A child of ours is waited for by `alive`.
                let _ = self.signal(Signal::KILL);
            }
            if Instant::now() >= deadline + GONE {
                return;
            }
            std::thread::sleep(LOOK / 5);
        }
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let mut state = self.state();
        anyhow::ensure!(self.alive_as(&mut state), "{} (pid {}) does not run", self.name, state.pid);
        send(state.pid, signal).with_context(|| format!("{signal:?} to {} (pid {})", self.name, state.pid))
    }

    /// Whole after every statement: a panic elsewhere harms nothing.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One signal to one process.
pub(crate) fn send(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process id")?;
    Ok(kill_process(pid, signal)?)
}
