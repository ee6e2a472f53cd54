//! Faults of the network.

use super::cuts::{End, Shape};
use super::execute::{At, Seen};
use crate::random::Random;
use std::collections::BTreeSet;

/// Packets are dropped between some, one way or both.
pub(crate) async fn partition(at: &At<'_>) -> anyhow::Result<Seen> {
    let mut random = Random::of(at.planned.seed, "shape", 0);
    let shape = Shape::choose(&mut random, at.lab.size());
    let cuts = shape.cuts(at.victims, at.lab.size());
    at.begins(shape.name());
    let ends: BTreeSet<End> = cuts.iter().map(|(_, to)| *to).collect();
    let ends: Vec<End> = ends.into_iter().collect();
    let cut = at.lab.network.cut(at.planned.number, &cuts).await;
    if cut.is_ok() {
        at.lasts().await;
    }
    // What was cut before it failed is mended too.
    let seen = at.lab.network.mend(at.planned.number, &ends).await?;
    cut?;
    Ok(seen)
}

/// A part of all packets to a member is lost.
pub(crate) async fn loss(at: &At<'_>) -> anyhow::Result<Seen> {
    let percent = Random::of(at.planned.seed, "percent", 0).between(5, 40);
    at.begins(format!("{percent} % of packets lost"));
    let lost = at.lab.network.lose(at.planned.number, at.victims, percent).await;
    if lost.is_ok() {
        at.lasts().await;
    }
    let ends: Vec<End> = at.victims.iter().map(|victim| End::Member(*victim)).collect();
    let seen = at.lab.network.mend(at.planned.number, &ends).await?;
    lost?;
    Ok(seen)
}

/// Packets to a member come late, and in another order.
pub(crate) async fn delay(at: &At<'_>) -> anyhow::Result<Seen> {
    let mut random = Random::of(at.planned.seed, "delay", 0);
    let (delay, jitter) = (random.between(5, 120), random.between(0, 150));
    at.begins(format!("packets come {delay} to {} ms late", delay + jitter));
    let mut holders = Vec::new();
    for victim in at.victims {
        holders.push(at.lab.network.hold(End::Member(*victim), None, (delay, jitter), random.next()).await?);
    }
    at.lasts().await;
    let (mut held, mut overtaken) = (0, 0);
    for holder in holders {
        let (more, late) = at.lab.network.let_go(holder).await?;
        held += more;
        overtaken += late;
    }
    Ok(Seen::from([("packets held back".to_owned(), held), ("packets overtaken".to_owned(), overtaken)]))
}

/// A member's interface is slow.
pub(crate) async fn slow(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("256 kbit/s");
    for victim in at.victims {
        at.lab.network.slow(*victim).await?;
    }
    at.lasts().await;
    let mut seen = Seen::new();
    for victim in at.victims {
        seen.extend(at.lab.network.quicken(*victim).await?);
    }
    Ok(seen)
}

/// All connections of a member are reset.
pub(crate) async fn reset(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("connections are reset");
    let mut destroyed = 0;
    for victim in at.victims {
        destroyed += at.lab.network.reset(End::Member(*victim)).await?;
    }
    Ok(Seen::from([("sockets that were destroyed".to_owned(), destroyed)]))
}
