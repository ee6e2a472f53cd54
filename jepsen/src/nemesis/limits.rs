//! Limits of processor and memory, by control groups of their own.

use super::execute::{At, Seen};
use crate::cage::{GROUP, GROUPS};
use crate::lab::Node;
use crate::random::Random;
use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// A tenth of one processor.
const PERIOD: u64 = 100_000;
const QUOTA: u64 = 10_000;

/// A control group with one process in it.
struct Group {
    folder: PathBuf,
    root: PathBuf,
}

impl Group {
    fn create(controller: &str, at: &At<'_>, node: &Node) -> anyhow::Result<Self> {
        let root = Path::new(GROUPS).join(controller);
        let seed = at.planned.seed;
        let folder = root.join(format!("{GROUP}-{seed:x}-{}-{}", at.planned.number, node.name));
        fs::create_dir(&folder)
            .with_context(|| format!("control groups of version 1 are needed: {}", folder.display()))?;
        Ok(Self { folder, root })
    }

    fn set(&self, name: &str, value: u64) -> anyhow::Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, value.to_string()).with_context(|| path.display().to_string())
    }

    fn takes(&self, node: &Node) -> anyhow::Result<()> {
        let pid = node.process.pid().context("it was never started")?;
        // Nobody in there: the id is that of this namespace of processes, and so is whoever writes it.
        self.set("cgroup.procs", u64::from(pid))
    }

    /// The number behind a word in one of its files, or alone in it.
    fn reads(&self, name: &str, word: &str) -> u64 {
        let text = fs::read_to_string(self.folder.join(name)).unwrap_or_default();
        let number = |line: &str| line.strip_prefix(word).and_then(|rest| rest.trim().parse().ok());
        text.lines().find_map(number).unwrap_or(0)
    }

    /// Lets its processes go, and removes it.
    async fn end(self) -> anyhow::Result<()> {
        for _ in 0..50 {
            let inside = fs::read_to_string(self.folder.join("cgroup.procs"))?;
            for pid in inside.lines() {
                // One that has ended meanwhile is in none.
                let _ = fs::write(self.root.join("cgroup.procs"), pid);
            }
            if fs::remove_dir(&self.folder).is_ok() {
                return Ok(());
            }
            sleep(Duration::from_millis(100)).await;
        }
        anyhow::bail!("{} cannot be removed", self.folder.display())
    }
}

/// Hardly any processor.
pub(crate) async fn cpu(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("a tenth of a processor");
    let mut groups = Vec::new();
    for victim in at.victims {
        let node = at.lab.node(*victim)?;
        let group = Group::create("cpu", at, node)?;
        group.set("cpu.cfs_period_us", PERIOD)?;
        group.set("cpu.cfs_quota_us", QUOTA)?;
        group.takes(node)?;
        groups.push(group);
    }
    at.lasts().await;
    let mut throttled = 0;
    for group in groups {
        throttled += group.reads("cpu.stat", "nr_throttled ");
        group.end().await?;
    }
    Ok(Seen::from([("periods without processor".to_owned(), throttled)]))
}

/// Members start anew with little memory: the kernel takes back what it can, and kills the process when that is not enough.
pub(crate) async fn memory(at: &At<'_>) -> anyhow::Result<Seen> {
    let most = Random::of(at.planned.seed, "memory", 0).between(12, 32);
    at.begins(format!("{most} MiB of memory"));
    let mut groups = Vec::new();
    for victim in at.victims {
        let node = at.lab.node(*victim)?;
        let group = Group::create("memory", at, node)?;
        group.set("memory.limit_in_bytes", most << 20)?;
        node.process.kill().await?;
        node.start_in(&group.folder.join("cgroup.procs"))?;
        groups.push(group);
    }
    at.lasts().await;
    let (mut refused, mut killed) = (0, 0);
    for (victim, group) in at.victims.iter().zip(groups) {
        refused += group.reads("memory.failcnt", "");
        killed += group.reads("memory.oom_control", "oom_kill ");
        group.end().await?;
        let node = at.lab.node(*victim)?;
        if !node.process.runs() {
            node.start()?;
        }
    }
    Ok(Seen::from([("refusals of memory".to_owned(), refused), ("processes killed for memory".to_owned(), killed)]))
}
