//! The loss of whoever leads, with nothing else at work: a majority and the database are there all the time, so what is promised of them is promised here.

use super::cuts::{End, Shape};
use super::execute::{At, Seen};
use super::process::back;
use crate::history::Event;
use crate::lab::Node;
use crate::random::Random;
use rustix::process::Signal;
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long the others may take to elect somebody.
const ELECTED: Duration = Duration::from_secs(10);

/// How a leader is lost.
#[derive(Debug, Clone, Copy)]
enum Way {
    Killed,
    Stopped,
    CutOff,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::Killed => "killed",
            Self::Stopped => "stopped",
            Self::CutOff => "cut off",
        }
    }
}

/// Leaders are lost one after the other, each only when the one before is back. Each time is a fault of its own.
pub(crate) async fn lost(at: &At<'_>) -> anyhow::Result<Seen> {
    let deadline = Instant::now() + Duration::from_millis(at.planned.lasts);
    let mut random = Random::of(at.planned.seed, "leader", 0);
    let mut number = at.planned.number;
    while Instant::now() < deadline && !*at.lab.stop.borrow() {
        let way = random.pick(&[Way::Killed, Way::Stopped, Way::CutOff]).copied().unwrap_or(Way::Killed);
        let (leader, term) = at.lab.leader();
        let node = at.lab.node(leader)?;
        let (fault, kind) = (number, at.planned.kind.name().to_owned());
        at.recorder.note(Event::Fault { fault, kind, what: way.name().to_owned(), victims: vec![leader] });
        take(at, node, way, number).await?;
        let patience = Instant::now() + ELECTED;
        while at.lab.leader().1 == term && Instant::now() < patience {
            sleep(Duration::from_millis(20)).await;
        }
        // The others have it to themselves for a while: one that was stopped comes back to what went on without it.
        sleep(Duration::from_millis(random.between(500, 2_500))).await;
        give_back(at, node, way, number).await?;
        back(at.lab, node).await?;
        let followed = at.lab.leader().1.saturating_sub(term);
        let seen = Seen::from([(format!("terms that followed a leader that was {}", way.name()), followed)]);
        at.recorder.note(Event::Healed { fault, seen, note: String::new() });
        number += 1;
        sleep(Duration::from_millis(random.between(500, 1_500))).await;
    }
    Ok(Seen::new())
}

async fn take(at: &At<'_>, node: &Node, way: Way, number: u32) -> anyhow::Result<()> {
    match way {
        Way::Killed => node.process.kill().await.map(drop),
        Way::Stopped => node.process.signal(Signal::STOP),
        Way::CutOff => {
            let cuts = Shape::Isolated.cuts(&[node.index], at.lab.size());
            at.lab.network.cut(number, &cuts).await
        }
    }
}

async fn give_back(at: &At<'_>, node: &Node, way: Way, number: u32) -> anyhow::Result<()> {
    match way {
        Way::Killed => node.start(),
        Way::Stopped => node.process.signal(Signal::CONT),
        Way::CutOff => {
            let ends: Vec<End> = (1..=at.lab.size()).map(End::Member).collect();
            at.lab.network.mend(number, &ends).await.map(drop)
        }
    }
}
