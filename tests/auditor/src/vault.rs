//! The vault, by its public command line and nothing else. It finds the cluster as any caller does, by `QUORATE_PROFILE` and
//! `QUORATE_IDENTITY` in the environment.

use crate::judge::{Lease, State};
use anyhow::Context as _;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::process::Command;
use tokio::time::timeout;

/// How long an answer may take. In an outage there is none.
const PATIENCE: Duration = Duration::from_secs(6);

pub(crate) struct Vault {
    pub(crate) program: PathBuf,
    /// Its name for the target.
    pub(crate) target: String,
}

/// Who answered, and the newest term among them.
pub(crate) type Members = (BTreeMap<String, bool>, Option<u64>);

impl Vault {
    /// All leases at the target, the revoked ones too, by principal.
    pub(crate) async fn leases(&self) -> anyhow::Result<BTreeMap<String, Lease>> {
        let output = self.run(&["lease", "list", "--target", &self.target, "--output", "json"]).await?;
        anyhow::ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
        let document: Value = serde_json::from_slice(&output.stdout).context("`lease list`")?;
        let leases = document.get("leases").and_then(Value::as_array).context("`lease list`: leases")?;
        leases.iter().map(lease).collect()
    }

    /// The members as they are now: those that do not answer too.
    pub(crate) async fn members(&self) -> anyhow::Result<Members> {
        // It fails where few answer, and says so all the same.
        let output = self.run(&["status", "--output", "json"]).await?;
        let document: Value = serde_json::from_slice(&output.stdout).context("`status`")?;
        let members = document.get("members").and_then(Value::as_array).context("`status`: members")?;
        let name = |m: &Value| m.get("name").and_then(Value::as_str).unwrap_or("?").to_owned();
        let answered = members.iter().map(|m| (name(m), m.get("error").is_none())).collect();
        let term = members.iter().filter_map(|m| m.get("term").and_then(Value::as_u64)).max();
        Ok((answered, term))
    }

    async fn run(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let mut command = Command::new(&self.program);
        command.args(arguments).stdin(Stdio::null()).kill_on_drop(true);
        let output = timeout(PATIENCE, command.output()).await.context("no answer in time")?;
        output.with_context(|| format!("cannot run {}", self.program.display()))
    }
}

fn lease(document: &Value) -> anyhow::Result<(String, Lease)> {
    let text = |key: &str| document.get(key).and_then(Value::as_str).with_context(|| format!("a lease without {key}"));
    let number =
        |key: &str| document.get(key).and_then(Value::as_u64).with_context(|| format!("a lease without {key}"));
    let state = match text("state")? {
        "intent" => State::Intent,
        "active" => State::Active,
        "revoking" => State::Revoking,
        "revoked" => State::Revoked,
        other => anyhow::bail!("a lease in the state {other}"),
    };
    let lease = Lease {
        state,
        was_active: number("active_index")? > 0,
        expires_at: number("expires_at")?,
        ended_at: number("ended_at")?,
        why: text("why")?.to_owned(),
    };
    Ok((text("username")?.to_owned(), lease))
}
