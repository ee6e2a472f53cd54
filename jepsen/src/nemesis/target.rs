//! Faults of what members and clients call: the database and the custodian.

use super::cuts::End;
use super::execute::{At, Seen};
use crate::random::Random;
use anyhow::Context as _;
use std::collections::BTreeMap;
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
    let holder = at.lab.network.hold(End::Target, delay, jitter, random.next()).await?;
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
