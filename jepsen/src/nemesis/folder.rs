//! A member's store as it was a while ago, put back: by somebody who takes a backup for a remedy. What it had promised since it has forgotten, so
//! no cluster can bear it at any time (`docs/storage.md`). Here all others have what it forgets, and none votes: then it must do no harm.

use super::Grip;
use super::execute::{At, Seen};
use super::process::back;
use crate::cage::tool;
use crate::lab::{HOME, Lab, Node};
use quorate_api::vault::ReadStatusReply;
use std::path::Path;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// All that a store is; the audit log may lie elsewhere, and is not put back.
const PARTS: [&str; 2] = ["db", "log.witness"];
/// How long all others may take to be there and to have everything.
const ALL: Duration = Duration::from_secs(8);
const LOOK: Duration = Duration::from_millis(50);

/// Copies a member's store while it is down, lets it go on for a while, and puts the copy in its place.
pub(crate) async fn old(at: &At<'_>) -> anyhow::Result<Seen> {
    let Some(victim) = at.victims.first().copied() else { return Ok(Seen::new()) };
    if (1..=at.lab.size()).any(|member| at.lab.is_lost(member)) || !at.lab.seize(Grip::State) {
        return Ok(Seen::new());
    }
    let done = put_back(at, at.lab.node(victim)?).await;
    at.lab.release(Grip::State);
    done
}

async fn put_back(at: &At<'_>, node: &Node) -> anyhow::Result<Seen> {
    let (data, kept) = (node.disk.path().join("data"), Path::new(HOME).join(format!("{}.old", node.name)));
    node.process.kill().await?;
    copy(&data, &kept).await?;
    node.start()?;
    back(at.lab, node).await?;
    // More than the copy has: what is counted as forgotten was.
    let copied = status(at.lab, node.index).await.map_or(u64::MAX, |status| status.applied);
    at.lasts().await;
    // From here on nobody else goes, until it has caught up.
    let mut held: Vec<&Node> = Vec::new();
    let deadline = Instant::now() + ALL;
    for other in at.lab.nodes.iter().filter(|other| other.index != node.index) {
        while Instant::now() < deadline && !*at.lab.stop.borrow() && !held.iter().any(|h| h.index == other.index) {
            if other.seize(Grip::Process) {
                held.push(other);
            } else {
                sleep(LOOK).await;
            }
        }
    }
    let all = held.len() + 1 == at.lab.nodes.len();
    let done = if all { swap(at, node, &data, &kept, copied).await } else { Ok(Seen::new()) };
    held.into_iter().for_each(|other| other.release(Grip::Process));
    tool("rm", &["-r", &kept.display().to_string()]).await?;
    done
}

async fn swap(at: &At<'_>, node: &Node, data: &Path, kept: &Path, copied: u64) -> anyhow::Result<Seen> {
    let had = status(at.lab, node.index).await.map_or(0, |status| status.applied);
    node.process.kill().await?;
    if !have_all(at.lab, node.index, had).await {
        node.start()?;
        return Ok(Seen::new());
    }
    at.begins("its store is that of a while ago");
    for part in PARTS {
        tool("rm", &["-r", &data.join(part).display().to_string()]).await?;
    }
    copy(kept, data).await?;
    node.start()?;
    back(at.lab, node).await?;
    Ok(Seen::from([("entries that it had forgotten".to_owned(), had.saturating_sub(copied))]))
}

async fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::create_dir_all(to)?;
    let to = to.display().to_string();
    for part in PARTS {
        tool("cp", &["-a", &from.join(part).display().to_string(), &to]).await?;
    }
    Ok(())
}

/// What a member says of itself.
async fn status(lab: &Lab, member: u8) -> Option<ReadStatusReply> {
    lab.watcher(member).ok()?.status().await.into_iter().find_map(|(_, status)| status.ok())
}

/// Waits until all others have applied up to `index`, and are of one term, in which one of them leads: no vote that is forgotten is asked for again.
async fn have_all(lab: &Lab, but: u8, index: u64) -> bool {
    let deadline = Instant::now() + ALL;
    while Instant::now() < deadline && !*lab.stop.borrow() {
        let mut all = Vec::new();
        for member in (1..=lab.size()).filter(|member| *member != but) {
            all.extend(status(lab, member).await);
        }
        let leads = all.iter().any(|status| status.leader == status.member);
        let one = all.windows(2).all(|two| matches!(two, [a, b] if (a.term, a.leader) == (b.term, b.leader)));
        let there = all.len() + 1 == lab.nodes.len() && all.iter().all(|status| status.applied >= index);
        if leads && one && there {
            return true;
        }
        sleep(LOOK).await;
    }
    false
}
