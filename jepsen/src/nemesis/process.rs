//! Faults of processes.

use super::Grip;
use super::execute::{At, Seen};
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
                let next = Instant::now() + Duration::from_millis(2_500);
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
