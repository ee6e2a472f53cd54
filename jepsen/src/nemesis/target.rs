//! Faults of what members and clients call: the database and the custodian.

use super::Grip;
use super::cuts::{Cut, End};
use super::execute::{At, Seen};
use crate::lab::Lab;
use crate::lab::database::Database;
use crate::random::Random;
use anyhow::Context as _;
use rustix::process::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};

const NONE: &str = "there is no database: a run with faults of it needs the workload `lease`";

/// The custodian is killed, and started again.
pub(crate) async fn custodian(at: &At<'_>) -> anyhow::Result<Seen> {
    at.begins("the custodian is killed");
    let killed = u64::from(at.lab.custodian.kill().await?);
    at.lasts().await;
    at.lab.custodian.start(&BTreeMap::new())?;
    Ok(Seen::from([("processes ended by SIGKILL".to_owned(), killed)]))
}

/// The database is down.
pub(crate) async fn down(at: &At<'_>) -> anyhow::Result<Seen> {
    let database = at.lab.database.as_ref().context(NONE)?;
    at.begins("the database is down");
    database.stop().await?;
    let gone = u64::from(database.superuser().await.is_err());
    at.lasts().await;
    database.start().await?;
    Ok(Seen::from([("logins that found nobody".to_owned(), gone)]))
}

/// The database keeps its connections, and says nothing.
pub(crate) async fn pause(at: &At<'_>) -> anyhow::Result<Seen> {
    let database = at.lab.database.as_ref().context(NONE)?;
    at.begins("the database is stopped");
    let stopped = database.freeze()?;
    at.lasts().await;
    database.thaw();
    Ok(Seen::from([("processes that stood still".to_owned(), stopped)]))
}

/// The database hears everything late.
pub(crate) async fn slow(at: &At<'_>) -> anyhow::Result<Seen> {
    at.lab.database.as_ref().context(NONE)?;
    let mut random = Random::of(at.planned.seed, "delay", 0);
    let (delay, jitter) = (random.between(100, 600), random.between(0, 400));
    at.begins(format!("packets come to the database {delay} to {} ms late", delay + jitter));
    let holder = at.lab.network.hold(End::Target, None, (delay, jitter), random.next()).await?;
    at.lasts().await;
    let (held, _) = at.lab.network.let_go(holder).await?;
    Ok(Seen::from([("packets held back".to_owned(), held)]))
}

/// Connections to the database are reset, many times: some of them after a commit and before its answer.
pub(crate) async fn reset(at: &At<'_>) -> anyhow::Result<Seen> {
    at.lab.database.as_ref().context(NONE)?;
    at.begins("connections to the database are reset");
    let deadline = Instant::now() + Duration::from_millis(at.planned.lasts);
    let mut destroyed = 0;
    while Instant::now() < deadline && !*at.lab.stop.borrow() {
        destroyed += at.lab.network.reset(End::Target).await?;
        sleep(Duration::from_millis(150)).await;
    }
    Ok(Seen::from([("sockets that were destroyed".to_owned(), destroyed)]))
}

/// How long answers are lost in one go, and how long all is well between two of them, in milliseconds.
const LOST: (u64, u64) = (400, 1_200);
const WELL: Duration = Duration::from_millis(700);

/// What the database answers is lost, and then its connections are reset, again and again: what it was told has happened, and nobody knows.
pub(crate) async fn unknown(at: &At<'_>) -> anyhow::Result<Seen> {
    let database = at.lab.database.as_ref().context(NONE)?;
    let mut random = Random::of(at.planned.seed, "lost", 0);
    at.begins("answers of the database are lost, and their connections reset");
    let members: Vec<End> = (1..=at.lab.size()).map(End::Member).collect();
    let cuts: BTreeSet<Cut> = members.iter().map(|member| (End::Target, *member)).collect();
    let deadline = Instant::now() + Duration::from_millis(at.planned.lasts.max(3_000));
    let mut unheard = 0;
    while Instant::now() < deadline && !*at.lab.stop.borrow() {
        let superuser = database.superuser().await?;
        let cut = at.lab.network.cut(at.planned.number, &cuts).await;
        let since = Database::time(&superuser).await;
        sleep(Duration::from_millis(random.between(LOST.0, LOST.1))).await;
        let done = match since {
            Ok(since) => Database::done_since(&superuser, since, &members).await,
            Err(why) => Err(why),
        };
        // While answers are lost still: nothing comes after all.
        let reset = at.lab.network.reset(End::Target).await;
        at.lab.network.mend(at.planned.number, &members).await?;
        cut?;
        reset?;
        unheard += done?;
        sleep(WELL).await;
    }
    Ok(Seen::from([("statements that were done, and whose answers were lost".to_owned(), unheard)]))
}

/// How late the packets of whoever leads come to the database, in milliseconds: later than the next leader needs to end what was begun.
const LATE: (u64, u64) = (5_500, 300);
/// How long it may take until it has been answered the first of them, and how long it has to say more then.
const ANSWERED: Duration = Duration::from_secs(9);
const SAYS: Duration = Duration::from_millis(900);
/// How long it stands still.
const STANDS: Duration = Duration::from_secs(7);

/// Whoever leads stands still, and what it has said to the database is on its way for longer than its successor needs.
pub(crate) async fn late(at: &At<'_>) -> anyhow::Result<Seen> {
    let database = at.lab.database.as_ref().context(NONE)?;
    let Some(victim) = at.victims.first().copied() else { return Ok(Seen::new()) };
    if !at.lab.seize(Grip::Target) {
        return Ok(Seen::new());
    }
    let done = stood(at, database, victim).await;
    at.lab.release(Grip::Target);
    done
}

async fn stood(at: &At<'_>, database: &Database, victim: u8) -> anyhow::Result<Seen> {
    let (_, term) = at.lab.leader();
    at.begins("what it says to the database comes seconds late, and meanwhile it stands still");
    let holder = at.lab.network.hold(End::Target, Some(End::Member(victim)), LATE, at.planned.seed).await?;
    let done = stand(at, database, victim).await;
    let (held, _) = at.lab.network.let_go(holder).await?;
    done?;
    // With nobody else in office there was nothing to come too late for.
    let held = if at.lab.leader().1 > term { held } else { 0 };
    Ok(Seen::from([("packets that came after another member led".to_owned(), held)]))
}

async fn stand(at: &At<'_>, database: &Database, victim: u8) -> anyhow::Result<()> {
    let superuser = database.superuser().await?;
    let since = Database::time(&superuser).await?;
    let deadline = Instant::now() + ANSWERED;
    while Database::done_since(&superuser, since, &[End::Member(victim)]).await? == 0 && Instant::now() < deadline {
        sleep(Duration::from_millis(50)).await;
    }
    // What it says now that it is answered is on its way when it stops.
    rest(at.lab, SAYS).await;
    let process = &at.lab.node(victim)?.process;
    process.signal(Signal::STOP)?;
    rest(at.lab, STANDS).await;
    process.signal(Signal::CONT)
}

async fn rest(lab: &Lab, time: Duration) {
    let deadline = Instant::now() + time;
    while Instant::now() < deadline && !*lab.stop.borrow() {
        sleep(Duration::from_millis(100)).await;
    }
}

/// The database is gone for good, and a standby that has heard of all that was acknowledged takes its place and its address.
pub(crate) async fn failover(at: &At<'_>) -> anyhow::Result<Seen> {
    let database = at.lab.database.as_ref().context(NONE)?;
    let standby = database.standby(at.planned.number).await?;
    at.begins("a standby that has heard of all takes its place");
    database.stop().await?;
    at.lasts().await;
    let timelines = database.take_over(standby).await?;
    Ok(Seen::from([("timelines that began".to_owned(), timelines)]))
}
