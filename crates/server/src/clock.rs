//! Cluster time: the leader gathers the members' readings, and the log moves it; every member watches that it moves.

use crate::core::Core;
use quorate_api::peer::ReadClockRequest;
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail};
use quorate_state::clock::{ClusterClock, Reading, highest};
use quorate_state::command::Command;
use quorate_state::ids::Millis;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

/// How long members may take to answer.
const READING: Duration = Duration::from_millis(500);
/// Without any other command, cluster time moves at least so often.
const IDLE: u64 = 10_000;

/// How often a member looks whether time moves.
const LOOK: Duration = Duration::from_secs(1);
/// Over how long it looks, by its own clock, which is right about durations.
const WINDOW: u64 = 60_000;
/// How far cluster time may fall behind in that time.
const BEHIND: u64 = 30_000;
/// A member that did not look for so long has stood still itself.
const ASLEEP: u64 = 10_000;

/// Whether cluster time moves as this member's own clock does, whoever leads.
///
/// What the wall clock says has no part in it: the clock that is wrong may be this member's, and it would call elections for ever.
#[derive(Default)]
struct Pace {
    /// This member's boot clock, and cluster time then.
    seen: VecDeque<(u64, Millis)>,
}

impl Pace {
    /// Takes a look; how far cluster time fell behind, if that is too far. Says so once, and begins anew.
    fn look(&mut self, boot: u64, cluster: Millis) -> Option<u64> {
        if let Some((at, then)) = self.seen.back()
            && (boot.saturating_sub(*at) > ASLEEP || cluster < *then)
        {
            self.seen.clear();
        }
        self.seen.push_back((boot, cluster));
        // The first is the last that is a whole window ago.
        while self.seen.get(1).is_some_and(|(at, _)| boot.saturating_sub(*at) >= WINDOW) {
            self.seen.pop_front();
        }
        let (at, then) = *self.seen.front()?;
        let (own, moved) = (boot.saturating_sub(at), cluster.saturating_sub(then));
        let behind = own.saturating_sub(moved);
        if own < WINDOW || behind < BEHIND {
            return None;
        }
        self.seen.clear();
        Some(behind)
    }
}

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
        let readings = highest(readings, self.roster.threshold);
        self.say(Command::Tick { readings }).await
    }

    /// Every member's task: looks at cluster time, and calls an election when it stands still under a leader.
    pub(crate) async fn watch_time(self: Arc<Self>) {
        let mut pace = Pace::default();
        loop {
            sleep(LOOK).await;
            // Between ticks a member adds its own clock from when it first saw one: it must see each soon.
            let seen = self.now().and_then(|_| self.read(|store, _| Ok(ClusterClock::load(store)?.now)));
            let Ok(cluster) = seen else { continue };
            if let Some(behind) = pace.look(self.env.clock.boot(), cluster) {
                self.time_stalled(cluster, behind).await;
            }
        }
    }

    async fn time_stalled(&self, cluster: Millis, behind: u64) {
        let status = self.raft.watch().borrow().clone();
        tracing::error!(
            cluster,
            behind,
            leader = status.leader,
            "cluster time stands still: another member has to lead"
        );
        let entry = self.internal_entry("time.stalled", status.term).term(status.term);
        let entry = entry.detail("cluster_time", Detail::number(cluster)).detail("behind_ms", Detail::number(behind));
        if let Err(error) = self.record(entry, Class::Essential).await {
            tracing::warn!(error = error.message, "the alarm could not be recorded");
        }
        if status.is_leader {
            self.raft.hand_over().await;
        } else if status.leader.is_some() {
            // Without a leader there is an election anyway.
            self.raft.stand().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Looks once a second of an own clock at a cluster time that runs at `percent` of it, in steps of `step` ms; when it first falls behind.
    fn falls_behind(percent: u64, step: u64, seconds: u64) -> Option<u64> {
        let mut pace = Pace::default();
        (0..seconds).find(|second| pace.look(second * 1_000, second * 10 * percent / step * step).is_some())
    }

    #[test]
    fn time_that_stands_still_is_noticed_and_time_that_is_ticked_seldom_is_not() {
        assert_eq!(falls_behind(0, 1, 300), Some(60), "30 s ahead for 30 s");
        assert_eq!(falls_behind(30, 1, 300), Some(60), "a leader that lets it creep");
        assert_eq!(falls_behind(100, 1, 300), None);
        assert_eq!(falls_behind(100, 10_000, 3_600), None, "a tick in ten seconds");
        assert_eq!(falls_behind(99, 10_000, 36_000), None, "clocks that differ by a hundredth");
        assert_eq!(falls_behind(200, 1, 300), None, "nor is time that hurries: that is apply's to prevent");
    }

    #[test]
    fn it_is_said_once_and_a_member_that_slept_begins_anew() {
        let mut pace = Pace::default();
        let alarms: Vec<u64> = (0..=200).filter(|second| pace.look(second * 1_000, 7).is_some()).collect();
        assert_eq!(alarms, [60, 121, 182]);
        let mut pace = Pace::default();
        assert!((0..59).all(|second| pace.look(second * 1_000, 7).is_none()));
        assert_eq!(pace.look(3_600_000, 7), None, "it was this member that stood still");
        assert!((3_601..3_659).all(|second| pace.look(second * 1_000, 7).is_none()));
        assert!(pace.look(3_660_000, 7).is_some(), "and now it is the cluster");
    }

    #[test]
    fn a_lowered_cluster_time_is_no_stall() {
        let mut pace = Pace::default();
        assert!((0..55).all(|second| pace.look(second * 1_000, 10_000_000 + second * 1_000).is_none()));
        assert!((55..200).all(|second| pace.look(second * 1_000, 5_000_000 + second * 1_000).is_none()));
    }
}
