//! The independent auditor of `tests/auditor`, as the process that it is: it shares no code with the vault, and all that it is given is how
//! to reach the database, how to run the command line, and what the logins of the cluster begin with.

use crate::history::{Event, Outcome, Overrun, Recorder};
use crate::lab::database::TARGET;
use crate::lab::{HOME, Lab};
use anyhow::Context as _;
use quorate_state::lease::principal_prefix;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long it may take to come to its end.
const END: Duration = Duration::from_secs(90);
/// How long a login may outlive its lease, in milliseconds: with and without a change of the leader meanwhile. That is promised while a
/// majority and the database are there; where they may not be, `check::overrun` judges. Orphans, ghosts, survivors of *revoked* and early
/// deaths have no such tolerance.
const BOUND: &str = "5000";
const FAILOVER_BOUND: &str = "7000";
/// How long a session may be there whose role was made and dropped between two looks: as long as a round of faults may keep anybody from
/// ending it.
const STRANGER: &str = "30000";

/// How long nothing may be heard of the database and of the vault, which faults silence.
const PAUSE: &str = "20000";
const SILENCE: &str = "45000";

/// At work.
pub(crate) struct Auditor {
    child: Child,
    report: PathBuf,
    said: PathBuf,
    always: bool,
}

impl Auditor {
    /// Begins. `least` is how many leases it has to have seen alive; `always` says that a majority and the database are always there.
    pub(crate) fn begin(lab: &Lab, logs: &Path, always: bool, least: u64) -> anyhow::Result<Self> {
        let database = lab.database.as_ref().context("there is no database")?;
        let program = lab.program.with_file_name("quorate-auditor");
        anyhow::ensure!(program.is_file(), "{} is no file: build `quorate-auditor`", program.display());
        let (report, said) = (logs.join("auditor.json"), logs.join("auditor.log"));
        let file = File::create(&said)?;
        let operator = Path::new(HOME).join("operator");
        let child = Command::new(&program)
            .args(["--target", &database.reached(), "--target-name", TARGET])
            .args(["--prefix", &principal_prefix(&lab.profile.cluster, TARGET)])
            .arg("--program")
            .arg(&lab.program)
            .arg("--json")
            .arg(&report)
            .args(["--bound", BOUND, "--failover-bound", FAILOVER_BOUND])
            .args(if always { &[][..] } else { &["--unjudged", "--stranger-bound", STRANGER] })
            .args(["--leases", &least.to_string()])
            .args(["--longest-pause", PAUSE, "--longest-silence", SILENCE])
            .env("QUORATE_PROFILE", operator.join("cluster.toml"))
            .env("QUORATE_IDENTITY", operator.join("admin.pem"))
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, report, said, always })
    }

    /// Tells it to come to its end, and notes what it says.
    pub(crate) async fn end(mut self, recorder: &Recorder) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        let status = timeout(END, self.child.wait()).await.context("the auditor does not end")??;
        let said = std::fs::read_to_string(&self.said)?;
        let report: Value = match std::fs::read(&self.report) {
            Ok(bytes) => serde_json::from_slice(&bytes)?,
            Err(why) => anyhow::bail!("the auditor ended with {status}, without a report ({why}): {said}"),
        };
        let number = |pointer: &str| report.pointer(pointer).and_then(Value::as_u64).unwrap_or(0);
        let numbers = [
            ("leases seen alive", "/leases"),
            ("sessions", "/sessions"),
            ("ended by their time", "/expiries"),
            ("ended by request", "/revocations"),
            ("looks", "/looks"),
            ("answers of the vault", "/answers"),
            ("ms: the worst overrun", "/worst_overrun/calm/ms"),
            ("ms: the worst overrun with a fail-over", "/worst_overrun/failover/ms"),
        ];
        let numbers: BTreeMap<String, u64> =
            numbers.iter().map(|(what, at)| ((*what).to_owned(), number(at))).collect();
        if !self.always {
            let all = report.get("overruns").and_then(Value::as_array).context("the auditor lists no overruns")?;
            let all = all.iter().map(overrun).collect::<Option<_>>().context("an overrun of the auditor's is none")?;
            recorder.note(Event::Overruns { all });
        }
        let outcome = match status.code() {
            Some(0) => Outcome::Holds,
            Some(1) => Outcome::Violated,
            _ => Outcome::Void,
        };
        let found = ["violations", "lacks"].map(|key| report.get(key).cloned().unwrap_or_default().to_string());
        let by = "L1, L2, L6: what the auditor of leases has seen at the database".to_owned();
        recorder.note(Event::Judged { by, outcome, said: found.join(" "), numbers });
        Ok(())
    }
}

fn overrun(told: &Value) -> Option<Overrun> {
    let number = |key| told.get(key).and_then(Value::as_u64);
    let principal = told.get("principal")?.as_str()?.to_owned();
    Some(Overrun { principal, ended_at: number("ended_at")?, seen: number("seen_ms")? })
}
