//! Faults of processes.

use super::Grip;
use super::execute::{At, Seen};
use crate::cage::tool;
use crate::history::Event;
use crate::lab::{Lab, Node};
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// Members' processes are killed, and started again after a while.
pub(crate) async fn kill(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("killed");
    let mut killed = 0;
    for victim in at.victims {
        killed += u64::from(at.lab.node(*victim)?.process.kill().await?);
    }
    at.lasts().await;
    for victim in at.victims {
        at.lab.node(*victim)?.start()?;
    }
    Ok(Seen::from([("processes ended by SIGKILL".to_owned(), killed)]))
}

/// Members' processes are stopped, with their connections open, and go on after a while as if nothing had been.
pub(crate) async fn pause(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("stopped");
    for victim in at.victims {
        at.lab.node(*victim)?.process.signal(Signal::STOP)?;
    }
    // The kernel stops its threads one after the other.
    sleep(Duration::from_millis(50)).await;
    let mut before = Vec::new();
    for victim in at.victims {
        before.push(at.lab.node(*victim)?.process.look()?);
    }
    at.lasts().await;
    let mut stood = 0;
    for (victim, before) in at.victims.iter().zip(before) {
        let process = &at.lab.node(*victim)?.process;
        let after = process.look()?;
        stood += u64::from(before.0 == 'T' && after == before);
        process.signal(Signal::CONT)?;
    }
    Ok(Seen::from([("processes that stood still".to_owned(), stood)]))
}

/// How long the others may take to elect somebody, on a machine that does much else.
const ELECTED: Duration = Duration::from_secs(6);

/// Whoever leads is stopped until another one does, and then the other one, and so on.
pub(crate) async fn flap(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("whoever leads is stopped, one after the other");
    let (_, first) = at.lab.leader();
    let deadline = Instant::now() + Duration::from_millis(at.planned.lasts.max(4_000));
    let mut stopped = 0;
    while Instant::now() < deadline && !*at.lab.stop.borrow() {
        let (leader, term) = at.lab.leader();
        let Ok(node) = at.lab.node(leader) else { break };
        // The first victim is held already; another one may be in the hands of another fault.
        let held = at.victims.contains(&leader);
        if held || node.seize(Grip::Process) {
            if node.process.runs() {
                node.process.signal(Signal::STOP)?;
                let next = Instant::now() + ELECTED;
                while at.lab.leader().1 == term && Instant::now() < next {
                    sleep(Duration::from_millis(50)).await;
                }
                node.process.signal(Signal::CONT)?;
                stopped += 1;
            }
            if !held {
                node.release(Grip::Process);
            }
        }
        sleep(Duration::from_millis(200)).await;
    }
    let terms = at.lab.leader().1.saturating_sub(first);
    Ok(Seen::from([("terms that followed".to_owned(), terms.min(stopped))]))
}

/// How long a member that is asked to end may take for it, and to be back with all that the others have.
const ENDS: Duration = Duration::from_secs(60);
const BACK: Duration = Duration::from_secs(60);

/// All members are asked to end and started again, one after the other, whoever leads last, and each only when the one before is back: as an
/// operator does with a new release. Again and again; each time is a fault of its own.
pub(crate) async fn rolling(at: &At<'_>) -> anyhow::Result<Seen> {
    let deadline = Instant::now() + Duration::from_millis(at.planned.lasts);
    let mut number = at.planned.number;
    while Instant::now() < deadline && !*at.lab.stop.borrow() {
        let (fault, kind) = (number, at.planned.kind.name().to_owned());
        let what = "restarted one after the other".to_owned();
        at.recorder.note(Event::Fault { fault, kind, what, victims: at.victims.to_vec() });
        let (leader, term) = at.lab.leader();
        let mut order = at.victims.to_vec();
        order.sort_by_key(|member| *member == leader);
        let mut restarted = 0;
        for member in order {
            let node = at.lab.node(member)?;
            node.process.signal(Signal::TERM)?;
            let status = node.process.gone(ENDS).await?;
            if !status.success() {
                at.recorder.note(Event::Died { member, how: format!("asked to end, it ended with {status}") });
            }
            node.start()?;
            back(at.lab, node).await?;
            restarted += 1;
        }
        let terms = at.lab.leader().1.saturating_sub(term);
        let seen = Seen::from([
            ("members that ended when asked to, and came back".to_owned(), restarted),
            ("terms that followed".to_owned(), terms),
        ]);
        at.recorder.note(Event::Healed { fault, seen, note: String::new() });
        number += 1;
    }
    Ok(Seen::new())
}

/// Waits until a member has applied all that any of the others has.
pub(super) async fn back(lab: &Lab, node: &Node) -> anyhow::Result<()> {
    let observer = lab.observer()?;
    let deadline = Instant::now() + BACK;
    loop {
        let all = observer.status().await;
        let applied = |own: bool| {
            let of = all.iter().filter(|(member, _)| (*member == node.index) == own);
            of.filter_map(|(_, status)| status.as_ref().ok()).filter(|s| s.leader != 0).map(|s| s.applied).max()
        };
        if let (Some(own), Some(others)) = (applied(true), applied(false))
            && own >= others
        {
            return Ok(());
        }
        anyhow::ensure!(Instant::now() < deadline, "{} does not come back", node.name);
        sleep(Duration::from_millis(100)).await;
    }
}

/// What a member's log says when it has taken a state over from another one: while it runs, and before it does anything else.
const TAKEN_OVER: [&str; 2] = ["a snapshot that members vouch for is taken over", "the state is rebuilt index="];

/// What that is counted as.
const TAKEN: &str = "states taken over from another member";

/// The state of members is dropped, and they start without: it comes back under the same identity from their logs, or from the others. Only where
/// all others have theirs: t have to vouch for it.
pub(crate) async fn forget(at: &At<'_>) -> anyhow::Result<Seen> {
    if (1..=at.lab.size()).any(|member| at.lab.is_lost(member)) || !at.lab.seize(Grip::State) {
        return Ok(Seen::new());
    }
    at.begins("the applied state is dropped");
    let mut before = Vec::new();
    for victim in at.victims {
        let node = at.lab.node(*victim)?;
        node.process.kill().await?;
        let config = node.disk.path().join("data/node.toml").display().to_string();
        tool(&at.lab.program.display().to_string(), &["member", "forget-state", "--config", &config]).await?;
        before.push(taken_over(node)?);
    }
    at.lasts().await;
    for victim in at.victims {
        at.lab.node(*victim)?.start()?;
    }
    let mut seen = Seen::from([("states dropped".to_owned(), u64::try_from(at.victims.len())?)]);
    for (victim, before) in at.victims.iter().zip(before) {
        let node = at.lab.node(*victim)?;
        back(at.lab, node).await?;
        let taken = taken_over(node)? > before;
        *seen.entry(TAKEN.to_owned()).or_default() += u64::from(taken);
    }
    at.lab.release(Grip::State);
    Ok(seen)
}

fn taken_over(node: &Node) -> anyhow::Result<usize> {
    let said = node.process.said()?;
    Ok(TAKEN_OVER.iter().map(|words| said.matches(words).count()).sum())
}

/// How long a member may take until its log has been compacted.
const COMPACTED: Duration = Duration::from_secs(15);

/// The state of a member is dropped whose log no longer has all that led to it: only another member can give it one.
pub(crate) async fn snapshot(at: &At<'_>) -> anyhow::Result<Seen> {
    let Some(victim) = at.victims.first().copied() else { return Ok(Seen::new()) };
    let watcher = at.lab.watcher(victim)?;
    let deadline = Instant::now() + COMPACTED;
    while !watcher.status().await.iter().any(|(_, status)| status.as_ref().is_ok_and(|status| status.purged > 0)) {
        if Instant::now() >= deadline || *at.lab.stop.borrow() {
            return Ok(Seen::new());
        }
        sleep(Duration::from_millis(200)).await;
    }
    let mut seen = forget(at).await?;
    // Where it came from its own log that was not what was asked for.
    seen.retain(|what, _| what == TAKEN);
    Ok(seen)
}
