//! Faults of disks.

use super::Grip;
use super::execute::{At, Seen};
use super::trace::Trace;
use crate::cage::tool;
use crate::lab::Node;
use crate::random::Random;
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::sleep;

/// How long a member may take to end whose disk has failed.
const NOTICED: Duration = Duration::from_secs(20);
/// The exit statuses of a member whose disk has failed, is full, or has lost what was synced.
const FAILED: i32 = 74;
const FULL: i32 = 73;
pub(crate) const DAMAGED: i32 = 65;

/// The power of members is cut: of one, of several, of all at once.
pub(crate) async fn power(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("the power is cut");
    // Stopped first: nothing of them runs on after their disks are dead.
    for victim in at.victims {
        at.lab.node(*victim)?.process.signal(Signal::STOP)?;
    }
    let mut dead = 0;
    for victim in at.victims {
        let node = at.lab.node(*victim)?;
        node.disk.cut_power().await?;
        dead += u64::from(node.disk.is_dead());
    }
    for victim in at.victims {
        at.lab.node(*victim)?.process.kill().await?;
    }
    at.lasts().await;
    for victim in at.victims {
        let node = at.lab.node(*victim)?;
        node.disk.power_up().await?;
        node.start()?;
    }
    Ok(Seen::from([("disks that lost their power".to_owned(), dead)]))
}

/// Disks fail under running members: these end by themselves, and say why.
pub(crate) async fn dead(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("the disk fails every access");
    for victim in at.victims {
        at.lab.node(*victim)?.disk.cut_power().await?;
    }
    at.lasts().await;
    let mut seen = Seen::new();
    for victim in at.victims {
        let node = at.lab.node(*victim)?;
        ended(node, FAILED, &mut seen).await?;
        node.disk.power_up().await?;
        node.start()?;
    }
    Ok(seen)
}

/// Syncs fail, all of them or those of the audit log alone. A member that goes on calls durable what is not: its power is cut, and that is gone.
pub(crate) async fn sync_error(at: &At<'_>) -> anyhow::Result<Seen> {
    let audit = Random::of(at.planned.seed, "files", 0).chance(60);
    at.begins(if audit { "syncs of the audit log return EIO" } else { "syncs return EIO" });
    let mut traces = Vec::new();
    for victim in at.victims {
        let node = at.lab.node(*victim)?;
        let files = if audit { segments(node)? } else { Vec::new() };
        traces.push(Trace::begin(node, at.planned.number, "error=EIO", &files)?);
    }
    at.lasts().await;
    let mut seen = Seen::new();
    for (victim, trace) in at.victims.iter().zip(traces) {
        let node = at.lab.node(*victim)?;
        // It writes what it is asked for, so it has met one by now, or does within a moment.
        let met = ended(node, FAILED, &mut seen).await;
        *seen.entry("syncs that returned EIO".to_owned()).or_default() += trace.end().await?;
        met?;
        node.start()?;
    }
    Ok(seen)
}

/// The files of a member's audit log.
fn segments(node: &Node) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(node.disk.path().join("data/audit"))? {
        files.push(entry?.path());
    }
    files.retain(|path| path.extension().is_some_and(|end| end == "jsonl"));
    Ok(files)
}

/// Waits until a member has ended by itself, and counts how. One that goes on has its power cut, and is counted as that.
async fn ended(node: &Node, expected: i32, seen: &mut Seen) -> anyhow::Result<()> {
    let how = match node.process.gone(NOTICED).await {
        Ok(status) if status.code() == Some(expected) => format!("members that ended with {expected}"),
        Ok(status) => format!("members that ended otherwise ({status})"),
        Err(_) => {
            // A mere folder has no power to be cut.
            let cut = node.disk.cut_power().await.is_ok();
            node.process.kill().await?;
            if cut {
                node.disk.power_up().await?;
            }
            "members that went on, and lost their power".to_owned()
        }
    };
    *seen.entry(how).or_default() += 1;
    Ok(())
}

/// Each sync takes long.
pub(crate) async fn gray(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("syncs take 400 ms longer");
    let mut traces = Vec::new();
    for victim in at.victims {
        traces.push(Trace::begin(at.lab.node(*victim)?, at.planned.number, "delay_enter=400000", &[])?);
    }
    at.lasts().await;
    let mut held = 0;
    for trace in traces {
        held += trace.end().await?;
    }
    Ok(Seen::from([("syncs that were held back".to_owned(), held)]))
}

/// Disks run full.
pub(crate) async fn full(at: &At<'_>) -> anyhow::Result<Seen> {
    // Either past the watermark only, or down to what the member's own reserve has to serve.
    let free = if Random::of(at.planned.seed, "free", 0).chance(50) { 150 << 20 } else { 1 << 20 };
    at.begins(format!("{} MiB left", free >> 20));
    for victim in at.victims {
        at.lab.node(*victim)?.disk.fill(free)?;
    }
    at.lasts().await;
    let mut seen = Seen::new();
    for victim in at.victims {
        let node = at.lab.node(*victim)?;
        let said = at.lab.watcher(*victim)?.status().await;
        let full = said.iter().any(|(_, status)| status.as_ref().is_ok_and(|status| status.disk == "full"));
        *seen.entry("members that call their disks full".to_owned()).or_default() += u64::from(full);
        node.disk.relieve()?;
        if !node.process.runs() {
            ended(node, FULL, &mut seen).await?;
            node.start()?;
        }
    }
    Ok(seen)
}

/// Files of one member rot while it is down. It starts and comes right, or refuses to start and says why. Once in a run: who has lost its
/// log stays out, and nothing brings a member back yet.
pub(crate) async fn rot(at: &At<'_>) -> anyhow::Result<Seen> {
    let Some(victim) = at.victims.first().copied() else { return Ok(Seen::new()) };
    if at.lab.rotten().is_some() || !at.lab.seize(Grip::State) {
        return Ok(Seen::new());
    }
    at.lab.rots(victim);
    let node = at.lab.node(victim)?;
    node.process.kill().await?;
    let data = node.disk.path().join("data");
    let mut random = Random::of(at.planned.seed, "rot", 0);
    let (what, changed) = damage(&mut random, &data)?;
    at.begins(what);
    at.lasts().await;
    node.start()?;
    let mut seen = Seen::from([("bytes that rotted".to_owned(), changed)]);
    // What refuses to start does so at once; what is found later is found by reading.
    sleep(Duration::from_secs(4)).await;
    let how = match node.process.ended() {
        None => "members that started on it".to_owned(),
        Some(status) if status.code() == Some(DAMAGED) => {
            at.lab.lose(victim);
            "members that set their logs aside, and stay out".to_owned()
        }
        Some(status) => rebuilt(at, node, &data.join("node.toml"), status.code()).await?,
    };
    seen.insert(how, 1);
    at.lab.release(Grip::State);
    Ok(seen)
}

/// What is documented for a member that ends because its applied state cannot be read: it is dropped, and comes back from the others.
async fn rebuilt(at: &At<'_>, node: &Node, config: &Path, code: Option<i32>) -> anyhow::Result<String> {
    let program = at.lab.program.display().to_string();
    tool(&program, &["member", "forget-state", "--config", &config.display().to_string()]).await?;
    node.start()?;
    sleep(Duration::from_secs(4)).await;
    let code = code.map_or_else(|| "a signal".to_owned(), |code| code.to_string());
    if node.process.runs() {
        return Ok(format!("members that ended with {code}, and rebuilt their states"));
    }
    at.lab.lose(node.index);
    Ok(format!("members that ended with {code}, and could not rebuild their states"))
}

/// Flips bits, or cuts off the end, of one file of a member's store; what was done, and how many bytes differ.
fn damage(random: &mut Random, data: &Path) -> anyhow::Result<(String, u64)> {
    let mut files: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(data.join("db"))? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
        let stored = [".log", ".sst"].iter().any(|end| name.ends_with(end)) || name.starts_with("MANIFEST");
        if stored && path.metadata()?.len() > 64 {
            files.push(path);
        }
    }
    files.push(data.join("log.witness"));
    files.sort();
    let Some(path) = random.pick(&files) else { return Ok(("nothing to rot".to_owned(), 0)) };
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
    let file = fs::File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    if random.chance(30) {
        let cut = random.between(1, length.min(4_096));
        file.set_len(length - cut)?;
        return Ok((format!("the last {cut} bytes of {name} are cut off"), cut));
    }
    let place = random.between(0, length);
    let mut byte = [0];
    file.read_exact_at(&mut byte, place)?;
    let flipped = byte.map(|byte| byte ^ (1 << (place % 8)));
    file.write_all_at(&flipped, place)?;
    file.sync_all()?;
    Ok((format!("one bit of {name} at {place} of {length}"), 1))
}
