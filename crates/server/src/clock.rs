//! Ticks: the leader gathers the members' readings, and the log moves cluster time.

use crate::core::Core;
use quorate_api::peer::ReadClockRequest;
use quorate_api::status::Failure;
use quorate_state::clock::{ClusterClock, Reading};
use quorate_state::command::Command;
use quorate_state::outcome::Outcome;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

/// How long members may take to answer.
const READING: Duration = Duration::from_millis(500);
/// Without any other command, cluster time moves at least so often.
const IDLE: u64 = 10_000;

impl Core {
    /// Moves cluster time once: the t highest of the readings that arrive in time.
    pub(crate) async fn tick(self: &Arc<Self>) -> Result<(), Failure> {
        let follows = self.read(|store, _| ClusterClock::load(store))?.tick;
        let mut readings = vec![self.reading(follows)?];
        let mut asked = JoinSet::new();
        for (member, mut peer) in self.peers.all() {
            asked.spawn(async move { (member, peer.read_clock(ReadClockRequest { follows }).await) });
        }
        let deadline = Instant::now() + READING;
        // All that answer, not the first: a slow clock among the first must not hold time back.
        while let Ok(Some(answer)) = timeout_at(deadline, asked.join_next()).await {
            let Ok((member, Ok(reply))) = answer else { continue };
            if let Ok(reading) = borsh::from_slice::<Reading>(&reply.into_inner().reading)
                && reading.member == member
                && reading.follows == follows
                && reading.is_valid(&self.cluster, &self.roster)
            {
                readings.push(reading);
            }
            if readings.len() == self.roster.members.len() {
                break;
            }
        }
        readings.sort_by_key(|reading| std::cmp::Reverse(reading.clock));
        readings.truncate(self.threshold());
        match self.propose(Command::Tick { readings }).await?.outcome {
            Outcome::Refused(refusal) => Err(Failure::from(refusal)),
            Outcome::Time { now, jumped: true } => {
                tracing::warn!(now, "cluster time jumped by more than a minute: expiry pauses for 30 s");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The leader's task: a tick at the beginning of its term, and one whenever time has not moved for a while.
    pub(crate) async fn drive_clock(self: Arc<Self>) {
        let mut ticked_in = 0;
        let mut status = self.raft.watch();
        loop {
            let now = status.borrow_and_update().clone();
            if !now.is_leader {
                if status.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let idle = match (self.now(), self.read(|store, _| ClusterClock::load(store))) {
                (Ok(now), Ok(clock)) => now.saturating_sub(clock.now) >= IDLE,
                _ => false,
            };
            if ticked_in != now.term || idle {
                match self.tick().await {
                    Ok(()) => ticked_in = now.term,
                    Err(error) => tracing::debug!(error = error.message, "cluster time could not be moved"),
                }
            }
            sleep(Duration::from_millis(250)).await;
        }
    }
}
