//! The points of a lease's life at which a node can be killed, be stopped or be told that a step failed, and how that is done to a real
//! node: the one that next comes to the point that stands in a file (the failpoints of `crates/server/src/failpoint.rs`).

use crate::{Cluster, Process};
use anyhow::{Context as _, ensure};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Before, between and after the steps of `crates/server/src/issue.rs` and `driver.rs`, in their order.
pub const POINTS: [&str; 18] = [
    "submit.p0",
    "lease.bound",
    "lease.p1.before",
    "lease.p1",
    "lease.p2.before",
    "lease.p2",
    "lease.p3",
    "lease.p4.before",
    "lease.p4",
    "lease.p5",
    "lease.p6.before",
    "lease.p6",
    "lease.p7",
    "lease.p8",
    "lease.p9",
    "lease.p10",
    "lease.p11.before",
    "lease.p11",
];

/// Those at which the log has no intent: what the client sends again may become a lease much later.
pub const UNMADE: [&str; 3] = ["submit.p0", "lease.bound", "lease.p1.before"];

/// What can be done to a node at a point.
pub const ACTIONS: [&str; 3] = ["kill", "stop", "fail"];

/// How long a stopped leader stays stopped: longer than an election takes, so that it wakes up as an old one.
pub const STOPPED: Duration = Duration::from_secs(4);

/// How long after its end nothing of a lease is left, with the loss of a leader in between.
const BOUND: Duration = Duration::from_secs(12);
/// The same where nobody leads anew, and the next search finds what was left behind: one is made each minute.
const SEARCHED: Duration = Duration::from_secs(75);

/// The one point that is set.
#[derive(Debug)]
pub struct Point {
    /// Its name.
    pub name: &'static str,
    /// What happens there: one of [`ACTIONS`].
    pub action: &'static str,
    file: PathBuf,
}

impl Point {
    /// Sets it for all nodes that read `file`: the variable `FAILPOINT_FILE` names it to them.
    ///
    /// # Errors
    /// The file system's.
    pub fn set(file: &Path, name: &'static str, action: &'static str) -> anyhow::Result<Self> {
        std::fs::write(file, format!("{name}={action}"))?;
        Ok(Self { name, action, file: file.to_owned() })
    }

    /// Whether somebody has come to it.
    #[must_use]
    pub fn reached(&self) -> bool {
        !self.file.exists()
    }

    /// Waits until somebody has.
    ///
    /// # Errors
    /// Nobody has in time.
    pub async fn wait_reached(&self, limit: Duration) -> anyhow::Result<()> {
        wait("the point is reached", limit, || self.reached()).await
    }

    /// How long after the end of its lease something of it may be left.
    #[must_use]
    pub fn bound(&self) -> Duration {
        if (self.name, self.action) == ("lease.p10", "fail") { SEARCHED } else { BOUND }
    }

    /// Brings the node back that was hit: starts it again, or lets it go on when it has been stopped long enough. Where a step failed,
    /// nobody is to end or stand still. Returns who was hit.
    ///
    /// # Errors
    /// Nobody was hit, or it does not come back.
    pub async fn recover<'a>(&self, cluster: &'a Cluster) -> anyhow::Result<&'a str> {
        let nodes: Vec<&Process> =
            [1, 2, 3].into_iter().map(|member| cluster.node(member)).collect::<Result<_, _>>()?;
        if self.action == "fail" {
            for node in &nodes {
                ensure!(node.alive() && !stopped(node.pid()), "{} does not go on:\n{}", node.name(), node.log());
            }
            return Ok("nobody");
        }
        let hit = |p: &&&Process| if self.action == "kill" { !p.alive() } else { stopped(p.pid()) };
        wait("a node is hit", Duration::from_secs(5), || nodes.iter().any(|p| hit(&p))).await?;
        let node = nodes.iter().find(hit).context("the node that was hit is there no more")?;
        if self.action == "kill" {
            node.wait_gone(Duration::from_secs(5)).await?;
            node.restart(&[("FAILPOINT_FILE", &self.file.display().to_string())])?;
        } else {
            tokio::time::sleep(STOPPED).await;
            node.cont()?;
        }
        Ok(node.name())
    }
}

async fn wait(until: &str, limit: Duration, mut done: impl FnMut() -> bool) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    while !done() {
        ensure!(Instant::now() < deadline, "not in {limit:?}: {until}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}
