//! One process of a cluster: started in its namespace, signalled by its id, started again.

use super::lock;
use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How often is looked at what cannot be waited for.
const LOOK: Duration = Duration::from_millis(5);

/// A process, and how to start it.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    namespace: String,
    program: PathBuf,
    arguments: Vec<String>,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Process {
    /// One that does not run yet.
    pub(crate) fn new(name: &str, namespace: &str, program: PathBuf, arguments: &[&str], log: PathBuf) -> Self {
        let arguments = arguments.iter().map(|a| (*a).to_owned()).collect();
        let (name, namespace) = (name.to_owned(), namespace.to_owned());
        Self { name, namespace, program, arguments, log, child: Mutex::new(None) }
    }

    /// Starts it, with more in its environment.
    pub(crate) fn start(&self, environment: &BTreeMap<String, String>) -> anyhow::Result<()> {
        self.start_in(environment, Path::new("/dev/null"))
    }

    /// The same in a control group, whose file of processes is named: from its first page on.
    pub(crate) fn start_in(&self, environment: &BTreeMap<String, String>, group: &Path) -> anyhow::Result<()> {
        let mut child = lock(&self.child);
        if let Some(running) = child.as_mut() {
            anyhow::ensure!(running.try_wait()?.is_some(), "{} runs already", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let started = Command::new("sh")
            // Each becomes the next: the id is the program's.
            .args(["-c", "echo $$ > \"$0\" && exec nsenter \"$@\""])
            .arg(group)
            .arg(format!("--net=/run/netns/{}", self.namespace))
            .arg(&self.program)
            .args(&self.arguments)
            .envs(environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", self.name))?;
        *child = Some(started);
        Ok(())
    }

    /// Its id, of the one that runs or ran last.
    pub(crate) fn pid(&self) -> Option<u32> {
        lock(&self.child).as_ref().map(Child::id)
    }

    /// What it has written to its log, in all of its lives.
    pub(crate) fn said(&self) -> anyhow::Result<String> {
        std::fs::read_to_string(&self.log).with_context(|| self.log.display().to_string())
    }

    /// How it has ended, if it has.
    pub(crate) fn ended(&self) -> Option<ExitStatus> {
        lock(&self.child).as_mut().and_then(|child| child.try_wait().ok().flatten())
    }

    /// Whether it runs; a stopped one does.
    pub(crate) fn runs(&self) -> bool {
        lock(&self.child).as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Sends a signal to it.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let mut child = lock(&self.child);
        let child = child.as_mut().with_context(|| format!("{} was never started", self.name))?;
        // One that was not waited for has its id still.
        anyhow::ensure!(child.try_wait()?.is_none(), "{} does not run", self.name);
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process id")?;
        Ok(kill_process(pid, signal)?)
    }

    /// Waits for its end.
    pub(crate) async fn gone(&self, limit: Duration) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended() {
                return Ok(status);
            }
            anyhow::ensure!(Instant::now() < deadline, "{} did not end in {limit:?}", self.name);
            sleep(LOOK).await;
        }
    }

    /// Ends it by force; whether the kernel says that this is what ended it.
    pub(crate) async fn kill(&self) -> anyhow::Result<bool> {
        self.signal(Signal::KILL)?;
        let status = self.gone(Duration::from_secs(15)).await?;
        Ok(status.signal() == Some(Signal::KILL.as_raw()))
    }

    /// Its state as the kernel tells it (`T` for stopped), and the processor time that it has had, in ticks.
    pub(crate) fn look(&self) -> anyhow::Result<(char, u64)> {
        let pid = self.pid().context("it was never started")?;
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The name may have anything in it; what follows the last bracket does not.
        let (_, rest) = stat.rsplit_once(") ").context("/proc: no name")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let state = fields.first().and_then(|s| s.chars().next()).context("/proc: no state")?;
        let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0);
        Ok((state, ticks(11) + ticks(12)))
    }
}
