//! A client that puts through one member and, as soon as it was told that it is done, reads through the others: of all reads the ones that a
//! member's own state answers worst. Whoever led has applied the write by then, and the others have it in their logs, not yet in their states.

use super::register::{Paths, ask};
use crate::history::{Action, Answer, Event, Recorder};
use crate::lab::Lab;
use crate::random::Random;
use anyhow::Context as _;
use quorate_api::client::Client;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::sleep;

/// How many there are of these.
pub(crate) const CLIENTS: u32 = 3;
/// How long one operation may take: shorter than elsewhere, since there is nobody else to turn to.
const PATIENCE: Duration = Duration::from_millis(2_500);

/// One client, until it is told that it is over.
pub(crate) async fn work(
    lab: Arc<Lab>,
    recorder: Recorder,
    paths: Arc<Paths>,
    number: u32,
    seed: u64,
) -> anyhow::Result<()> {
    let mut random = Random::of(seed, "apart", u64::from(number));
    // By the member to put through: that one's client, and one of all others.
    let mut pairs: BTreeMap<u8, (Client, Client)> = BTreeMap::new();
    for member in 1..=lab.size() {
        pairs.insert(member, (lab.through(member, PATIENCE)?, lab.past(member, PATIENCE)?));
    }
    while !paths.over.load(Ordering::Relaxed) {
        // Mostly whoever leads: then all that are read from have to hear of it first.
        let any = u8::try_from(random.between(1, u64::from(lab.size()) + 1)).unwrap_or(1);
        let member = if random.chance(70) { lab.leader().0.max(1) } else { any };
        let (writer, reader) = pairs.get(&member).context("a member that is none")?;
        let key = paths.choose(&mut random);
        let value = paths.serial();
        let told = |action: Action| {
            let op = recorder.number();
            recorder.note(Event::Invoke { op, client: number, action: action.clone() });
            (op, action)
        };
        let (op, put) = told(Action::Put { key: key.clone(), value, cas: None });
        let answer = ask(writer, &put).await;
        let stored = matches!(answer, Answer::Stored { .. });
        recorder.note(Event::Return { op, answer });
        if !stored {
            sleep(Duration::from_millis(random.between(100, 400))).await;
            continue;
        }
        let (op, get) = told(Action::Get { key });
        let answer = ask(reader, &get).await;
        recorder.note(Event::Return { op, answer });
        sleep(Duration::from_millis(random.between(20, 150))).await;
    }
    Ok(())
}
