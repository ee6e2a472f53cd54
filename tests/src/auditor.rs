//! The independent auditor of `tests/auditor`, as the process that it is: all that a test gives it is how to reach the target, how to
//! run the command line, and what the logins of the cluster begin with.

use crate::footprint::TARGET;
use crate::process::send;
use crate::{Cluster, LOOK, quorate};
use anyhow::Context as _;
use quorate_state::lease::principal_prefix;
use rustix::process::Signal;
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How long it may take to come to its end: it waits for two last answers of the vault.
const END: Duration = Duration::from_secs(60);

/// The arguments that lead an auditor to the cluster's own PostgreSQL.
///
/// # Errors
/// When there is no database.
pub fn postgres(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    let (socket, port) = cluster.postgres_socket()?;
    Ok(vec!["--target".to_owned(), format!("host={socket} port={port} user=postgres dbname=postgres")])
}

/// An audit under way; cut off when dropped.
#[derive(Debug)]
pub struct Auditor {
    child: Child,
    folder: TempDir,
}

/// What it has said.
#[derive(Debug)]
pub struct Audit {
    /// Its exit status: 0 clean, 1 violated, 2 saw too little.
    pub status: Option<i32>,
    /// Its report for programs.
    pub report: Value,
    /// Its report for people, and what else it said.
    pub text: String,
}

impl Audit {
    /// A number of its report.
    #[must_use]
    pub fn number(&self, key: &str) -> u64 {
        self.report.pointer(key).and_then(Value::as_u64).unwrap_or(0)
    }

    /// The kinds of what it found.
    #[must_use]
    pub fn kinds(&self) -> Vec<&str> {
        let found = self.report.get("violations").and_then(Value::as_array);
        found.into_iter().flatten().filter_map(|v| v.get("kind")?.as_str()).collect()
    }

    /// The principals of what it found of a kind.
    #[must_use]
    pub fn of_kind(&self, kind: &str) -> Vec<&str> {
        let found = self.report.get("violations").and_then(Value::as_array);
        let found = found.into_iter().flatten().filter(|v| v.get("kind").and_then(Value::as_str) == Some(kind));
        found.filter_map(|v| v.get("principal")?.as_str()).collect()
    }
}

impl Auditor {
    /// Begins at the cluster's own PostgreSQL, with more arguments.
    ///
    /// # Errors
    /// When there is no program or no database.
    pub fn begin(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<Self> {
        Self::begin_at(cluster, TARGET, &postgres(cluster)?, arguments)
    }

    /// Begins at a target of the cluster, which the arguments `place` lead to.
    ///
    /// # Errors
    /// When there is no program.
    pub fn begin_at(cluster: &Cluster, target: &str, place: &[String], arguments: &[&str]) -> anyhow::Result<Self> {
        let program = quorate()?.with_file_name("quorate-auditor");
        let folder = tempfile::Builder::new().prefix("quorate-audit").tempdir()?;
        let said = std::fs::File::create(folder.path().join("said"))?;
        let mut command = std::process::Command::new(&program);
        command
            .args(place)
            .args(["--prefix", &principal_prefix(&cluster.profile().cluster, target)])
            .args(["--target-name", target, "--program"])
            .arg(quorate()?)
            .arg("--json")
            .arg(folder.path().join("report.json"))
            .args(arguments)
            .env("QUORATE_PROFILE", cluster.text("/profile")?)
            .env("QUORATE_IDENTITY", cluster.text("/identities/admin")?)
            .stdin(Stdio::null())
            .stdout(said.try_clone()?)
            .stderr(said);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self { child, folder })
    }

    /// Tells it to come to its end, and waits for what it says.
    ///
    /// # Errors
    /// When it does not end, or leaves no report.
    pub async fn end(mut self) -> anyhow::Result<Audit> {
        // It may have ended by itself, which shows in its report.
        let _ = send(self.child.id(), Signal::TERM);
        let deadline = Instant::now() + END;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status.code();
            }
            anyhow::ensure!(Instant::now() < deadline, "the auditor did not end in {END:?}");
            tokio::time::sleep(LOOK).await;
        };
        let text = std::fs::read_to_string(self.folder.path().join("said"))?;
        let report = std::fs::read(self.folder.path().join("report.json"));
        let report = report.with_context(|| format!("the auditor ended with {status:?} and said:\n{text}"))?;
        Ok(Audit { status, report: serde_json::from_slice(&report)?, text })
    }
}

impl Drop for Auditor {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
