//! Act 7: the audit logs, verified where no node can help or hinder.

use crate::{Break, Demo, THRESHOLD};
use anyhow::Context as _;
use futures::future::try_join_all;
use quorate_tests::audit::Line;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

impl Demo {
    /// Act 7.
    pub(crate) async fn logs_verified(&mut self) -> anyhow::Result<()> {
        self.story.act(7, "Every audit log verified offline, and everything shown above found in it")?;
        let mut heads = BTreeMap::new();
        for member in &self.cluster.profile().members {
            let status =
                self.cluster.status(member.index).await?.with_context(|| format!("{} does not answer", member.name))?;
            heads.insert(member.name.clone(), format!("{}:{}", status.audit_seq, status.audit_head));
        }
        let ending = heads.keys().map(String::as_str).chain(["custodian"]);
        try_join_all(ending.map(async |name| self.cluster.process(name)?.terminate().await)).await?;
        self.story
            .fact("each node has told the head of its log; now all nodes and the custodian are ended (SIGTERM)")?;

        let changed = tempfile::tempdir()?;
        let folders: Vec<(String, PathBuf)> =
            self.cluster.audit_folders().map(|(name, folder)| (name.to_owned(), folder.to_owned())).collect();
        for (at, (name, folder)) in folders.into_iter().enumerate() {
            let folder = if self.broken == Break::Audit && at == 0 {
                with_a_changed_byte(&folder, changed.path())?
            } else {
                folder
            };
            self.verify(&name, &folder, heads.get(&name))?;
        }
        let mut found = 0;
        for sought in self.story.shown() {
            let lines = self.cluster.audit_lines(sought)?;
            let members: BTreeSet<&str> =
                lines.iter().map(|l: &Line| l.member.as_str()).filter(|m| *m != "custodian").collect();
            anyhow::ensure!(
                members.len() >= THRESHOLD,
                "expected {sought} in {THRESHOLD} logs, but it is in {members:?}"
            );
            found += lines.len();
        }
        let shown = self.story.shown().len();
        self.story.fact(&format!(
            "all {shown} ids shown above stand in the logs of {THRESHOLD} nodes or more: {found} records"
        ))
    }

    fn verify(&self, name: &str, folder: &Path, head: Option<&String>) -> anyhow::Result<()> {
        let path = folder.to_str().context("the folder's name is not text")?;
        let mut arguments = vec!["--output", "json", "audit", "verify", path];
        if let Some(head) = head {
            arguments.extend(["--expect", head]);
        }
        let output = self.cluster.cli("demo", &arguments, &[])?;
        if !output.status.success() {
            let said: Value = serde_json::from_slice(&output.stderr)?;
            let word = |key| said.pointer(key).and_then(Value::as_str).unwrap_or("?");
            anyhow::bail!(
                "expected the log of {name} to verify, but: {}: {}",
                word("/error/code"),
                word("/error/message")
            );
        }
        let summary: Value = serde_json::from_slice(&output.stdout)?;
        let text = |key: &str| summary.get(key).and_then(Value::as_str).unwrap_or_default();
        let records = summary.get("records").and_then(Value::as_u64).unwrap_or(0);
        anyhow::ensure!(text("member") == name && records > 0, "expected the log of {name}, but it is {summary}");
        let through = if head.is_some() { ", through the head it told" } else { "" };
        let end: String = text("head").chars().take(24).collect();
        self.story.fact(&format!("{name:<9} {records} records, every link whole{through}, head {end}.."))
    }
}

/// A copy of a log in which one byte of one record is another.
fn with_a_changed_byte(folder: &Path, to: &Path) -> anyhow::Result<PathBuf> {
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let mut bytes = std::fs::read(entry.path())?;
        let name = entry.file_name();
        if name == "audit-00000001.jsonl" {
            let principal = bytes.windows(7).position(|w| w == b"spiffe:").context("no record of a caller")?;
            let byte = bytes.get_mut(principal).context("no such byte")?;
            *byte ^= 1;
        }
        std::fs::write(to.join(name), bytes)?;
    }
    Ok(to.to_owned())
}
