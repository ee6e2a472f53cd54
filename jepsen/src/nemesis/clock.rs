//! Wrong wall clocks: libfaketime between a member and the C library, told by a file. Monotonic clocks stay as they are: an asynchronous
//! runtime hangs when they go back, and no machine's do.

use super::Grip;
use super::execute::{At, Seen};
use crate::lab::{self, HOME, Lab, Node, now};
use crate::random::Random;
use anyhow::Context as _;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Where Debian has it.
const LIBRARIES: &[&str] = &["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];
/// A clock that is right. The rate is always said: the library keeps the one that it was told before, and a clock that was to race for seconds
/// would race for ever.
const RIGHT: &str = "+0 x1";
/// A clock that is off by less was not seen to be wrong, in milliseconds.
const OFF: u64 = 2_000;
/// How long a clock goes on being wrong.
const BELIEVED: Duration = Duration::from_millis(1_500);
/// How long it may take until a record shows it.
const SHOWN: Duration = Duration::from_secs(4);

/// Has all members start with a clock that can be moved later.
pub(crate) fn prepare(nodes: &[Node]) -> anyhow::Result<()> {
    let library = LIBRARIES.iter().map(|folder| Path::new(folder).join("faketime/libfaketimeMT.so.1"));
    let library = library.into_iter().find(|path| path.is_file());
    let library = library.context("libfaketime is not installed: see deploy/build/setup")?;
    for node in nodes {
        set(node, RIGHT)?;
        let mut environment = lab::lock(&node.environment);
        environment.extend(BTreeMap::from([
            ("LD_PRELOAD".to_owned(), library.display().to_string()),
            ("FAKETIME_TIMESTAMP_FILE".to_owned(), file(node).display().to_string()),
            // How long what the file says is believed, in seconds.
            ("FAKETIME_CACHE_DURATION".to_owned(), "1".to_owned()),
            ("FAKETIME_DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
            ("DONT_FAKE_MONOTONIC".to_owned(), "1".to_owned()),
            ("NO_FAKE_STAT".to_owned(), "1".to_owned()),
        ]));
    }
    Ok(())
}

fn file(node: &Node) -> PathBuf {
    Path::new(HOME).join(format!("{}.clock", node.name))
}

fn set(node: &Node, how: &str) -> anyhow::Result<()> {
    // In one step: it is read at any time.
    let (new, path) = (file(node).with_extension("new"), file(node));
    fs::write(&new, format!("{how}\n"))?;
    Ok(fs::rename(new, path)?)
}

/// Clocks of a minority jump, or race.
pub(crate) async fn wrong(at: &At<'_>) -> anyhow::Result<Seen> {
    // Those of another fault are wrong still: together they could be more than a minority.
    if !at.lab.seize(Grip::Clock) {
        return Ok(Seen::new());
    }
    let done = moved(at).await;
    // What the file said before is believed for a second.
    sleep(BELIEVED).await;
    at.lab.release(Grip::Clock);
    done
}

async fn moved(at: &At<'_>) -> anyhow::Result<Seen> {
    let mut random = Random::of(at.planned.seed, "clock", 0);
    let seconds = random.between(5, 3_600);
    let how = match random.between(0, 10) {
        0..4 => format!("+{seconds} x1"),
        4..8 => format!("-{seconds} x1"),
        _ => "+0 x5".to_owned(),
    };
    at.begins(how.clone());
    let victims = minority(at.lab, at.victims);
    for victim in &victims {
        set(at.lab.node(*victim)?, &how)?;
    }
    at.lasts().await;
    // Its clock is believed for a second, and it writes no record while another fault has it down.
    let deadline = Instant::now() + SHOWN;
    let mut off = 0;
    while off == 0 && Instant::now() < deadline && !*at.lab.stop.borrow() {
        for victim in &victims {
            let node = at.lab.node(*victim)?;
            let said = last_record(&node.disk.path().join("data/audit")).unwrap_or(0);
            off += u64::from(said != 0 && said.abs_diff(now()) > OFF);
        }
        sleep(Duration::from_millis(100)).await;
    }
    for victim in &victims {
        set(at.lab.node(*victim)?, RIGHT)?;
    }
    Ok(Seen::from([("members whose records show a wrong clock".to_owned(), off)]))
}

fn minority(lab: &Lab, victims: &[u8]) -> Vec<u8> {
    victims.iter().copied().take(usize::from(lab.size().saturating_sub(1) / 2)).collect()
}

/// The time in the last record of an audit log, by the member's own clock.
fn last_record(folder: &Path) -> Option<u64> {
    let mut segments: Vec<PathBuf> = fs::read_dir(folder).ok()?.filter_map(|e| Some(e.ok()?.path())).collect();
    segments.retain(|path| path.extension().is_some_and(|e| e == "jsonl"));
    segments.sort();
    let bytes = fs::read(segments.pop()?).ok()?;
    let end = bytes.iter().rposition(|byte| *byte != 0)?;
    let text = String::from_utf8_lossy(bytes.get(..=end)?).into_owned();
    let record: serde_json::Value = serde_json::from_str(text.lines().last()?).ok()?;
    record.get("at")?.as_u64()
}
