//! One queue of one target: which leases are ended together, what is begun beside what is under way, and when what failed is tried
//! again. What ending them takes is in `driver.rs`.

use crate::core::Core;
use crate::failpoint::planted;
use futures::future::try_join_all;
use quorate_api::status::Failure;
use quorate_engines::Engine;
use quorate_state::command::Command;
use quorate_state::ids::{LeaseId, Millis};
use quorate_state::lease::{self, Lease, Place, Queue};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How many leases are read, and at most ended, together: hundreds in one statement, and one pause between two looks.
pub(crate) const ROUND: usize = 500;
/// How many such rounds are under way at once, each at another step.
const ABREAST: usize = 8;
/// How many logins are fenced together of which nobody knows whether they were made: at some targets each takes statements of its own, and
/// none of them is proved before the last is fenced. A leader that is lost in the middle leaves few to be fenced anew.
const FENCED: usize = 32;
/// How many such rounds are under way at once.
const FENCING: usize = 4;
/// How many intents that nobody is bringing alive any more are given up with one sync.
const ABANDONED: usize = 64;
/// How many of those that failed before are tried again together: each may take seconds. Twice as many as the last time when all of
/// those have ended: what held thousands up, a standby that stood still say, may be over.
const STUCK_ROUND: usize = 4;
/// How soon what comes while rounds are under way is begun beside them.
const MEANWHILE: Duration = Duration::from_millis(100);
/// The shortest pause after a failure.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between attempts at a target that does not answer, or at a lease that does not end.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Leases whose end failed, and when they are tried again.
#[derive(Default)]
struct Stuck(BTreeMap<LeaseId, (Duration, Instant)>);

impl Stuck {
    fn add(&mut self, id: LeaseId, now: Instant) {
        let pause = self.0.get(&id).map_or(SHORTEST_PAUSE, |(pause, _)| (*pause * 2).min(LONGEST_PAUSE));
        self.0.insert(id, (pause, now + pause));
    }

    fn holds(&self, id: &LeaseId) -> bool {
        self.0.contains_key(id)
    }

    /// Notes what became of some leases.
    fn settle(&mut self, target: &str, ending: &[Ending], failed: &BTreeMap<LeaseId, String>) {
        let mut told: BTreeMap<&str, (&Ending, usize)> = BTreeMap::new();
        for ending in ending {
            let (id, _) = ending;
            match failed.get(id) {
                Some(why) => {
                    told.entry(why).or_insert((ending, 0)).1 += 1;
                    self.add(*id, Instant::now());
                }
                None => drop(self.0.remove(id)),
            }
        }
        // Thousands can have one reason.
        for (why, ((id, lease), leases)) in told {
            tracing::warn!(target, leases, first = %id, login = lease.principal, why, "leases do not end yet");
        }
    }

    /// The few that have waited longest past their time.
    fn ready(&self, now: Instant, few: usize) -> Vec<LeaseId> {
        let mut ready: Vec<_> =
            self.0.iter().filter(|(_, (_, at))| *at <= now).map(|(id, (_, at))| (*at, *id)).collect();
        ready.sort();
        ready.into_iter().take(few).map(|(_, id)| id).collect()
    }
}

/// A lease that is to end.
pub(crate) type Ending = (LeaseId, Lease);

/// What one task does in one queue.
#[derive(Default)]
struct Lane {
    stuck: Stuck,
    /// Those that a round is about.
    in_hand: BTreeSet<LeaseId>,
    /// Whether a round is about some that failed before.
    retrying: bool,
    /// How many rounds are about some that may still be being made.
    fencing: usize,
    /// How many times two: see [`STUCK_ROUND`].
    doubled: u32,
}

/// What the leases of a round have in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Their logins are there, or it is known that they are not.
    Made,
    /// Their logins may still be being made: see [`to_be_fenced`].
    Unsure,
    /// They have failed before.
    Again,
}

/// Leases that are ended together.
struct Round {
    ending: Vec<Ending>,
    kind: Kind,
}

/// Whether the login of a lease may still be being made: its CREATE was sent, or was about to be, and nobody has seen what came of it.
pub(crate) fn to_be_fenced(lease: &Lease) -> bool {
    lease.binding.is_some() && !lease.was_active
}

impl Lane {
    fn take(&mut self, round: &Round) {
        self.in_hand.extend(round.ending.iter().map(|(id, _)| *id));
        self.retrying |= round.kind == Kind::Again;
        self.fencing += usize::from(round.kind == Kind::Unsure);
    }

    fn give_back(&mut self, round: &Round) {
        round.ending.iter().for_each(|(id, _)| {
            self.in_hand.remove(id);
        });
        self.retrying &= round.kind != Kind::Again;
        self.fencing = self.fencing.saturating_sub(usize::from(round.kind == Kind::Unsure));
    }

    /// How many that failed before are tried again together.
    fn few(&self) -> usize {
        STUCK_ROUND.checked_shl(self.doubled).unwrap_or(ROUND).min(ROUND)
    }

    fn settle(&mut self, target: &str, round: &Round, failed: &BTreeMap<LeaseId, String>) {
        if round.kind == Kind::Again {
            self.doubled = if failed.is_empty() { (self.doubled + 1).min(ROUND.ilog2()) } else { 0 };
        }
        self.give_back(round);
        self.stuck.settle(target, &round.ending, failed);
    }
}

/// Behind which log index each queue begins: what stood before is gone for good, since whatever joins a queue joins at its end.
/// Storage keeps what was deleted for a while, and whoever began at the front each time would walk over all of it.
#[derive(Default)]
pub(crate) struct Heads(Mutex<BTreeMap<(String, Queue), u64>>);

/// A term of office, and the connections of one queue.
#[derive(Clone)]
pub(crate) struct AtWork {
    pub(crate) term: u64,
    /// The log index of the description by which they connect.
    pub(crate) described: u64,
    pub(crate) engine: Arc<dyn Engine>,
}

impl Core {
    /// Works in one queue of one target until nothing is left to do there. It never gives up; it only pauses longer.
    pub(crate) async fn work_at(self: Arc<Self>, target: &str, queue: Queue, term: u64) {
        let (mut pause, mut failure) = (SHORTEST_PAUSE, None::<Failure>);
        let (mut lane, mut rounds) = (Lane::default(), JoinSet::new());
        while self.leads_in(term) {
            let looked = Instant::now();
            if failure.is_none() {
                match self.next_rounds(target, queue, term, &mut lane, rounds.len()).await {
                    Ok(begun) if begun.is_empty() && rounds.is_empty() && lane.stuck.0.is_empty() => {
                        self.troubles.held_up(target, queue, None);
                        return;
                    }
                    Ok(begun) => {
                        for round in begun {
                            let (core, target) = (Arc::clone(&self), target.to_owned());
                            rounds.spawn(async move { core.end_round(&target, queue, round).await });
                        }
                    }
                    Err(error) => failure = Some(error),
                }
            }
            // Looking through thousands that do not end yet is not all that this node does.
            let meanwhile = MEANWHILE.max(looked.elapsed() * 4);
            tokio::select! {
                biased;
                Some(ended) = rounds.join_next() => match ended {
                    Ok((round, Ok(failed))) => {
                        pause = SHORTEST_PAUSE;
                        lane.settle(target, &round, &failed);
                        self.troubles.held_up(target, queue, None);
                        for (id, _) in &round.ending {
                            self.troubles.lease(target, *id, failed.get(id).map(String::as_str));
                        }
                    }
                    Ok((round, Err(error))) => {
                        lane.give_back(&round);
                        failure = failure.or(Some(error));
                    }
                    Err(_) => failure = failure.or_else(|| Some(Failure::new("internal", "a round was cut off"))),
                },
                // What comes meanwhile does not wait for those that wait for their second look.
                () = sleep(meanwhile), if failure.is_none() || rounds.is_empty() => {}
            }
            if rounds.is_empty()
                && let Some(error) = failure.take()
            {
                lane = Lane { stuck: lane.stuck, ..Lane::default() };
                tracing::warn!(target, ?queue, error = error.message, "revocation goes on later");
                self.troubles.held_up(target, queue, Some(&error.message));
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }

    /// What is to be begun now beside the rounds that are under way, of which there are never too many. From the head of the queue each
    /// time, so that nothing is passed by for good: neither what was being made when it was asked to end, nor what failed before.
    async fn next_rounds(
        self: &Arc<Self>,
        name: &str,
        queue: Queue,
        term: u64,
        lane: &mut Lane,
        under_way: usize,
    ) -> Result<Vec<Round>, Failure> {
        if queue == Queue::Due {
            self.end_abandoned(name, term).await?;
        }
        let ready: BTreeSet<LeaseId> = lane.stuck.ready(Instant::now(), lane.few()).into_iter().collect();
        let (mut begun, mut again, mut known, mut after) = (Vec::new(), Vec::new(), BTreeSet::new(), None);
        let mut fencing = lane.fencing;
        while under_way + begun.len() < ABREAST {
            let page = self.page(name, queue, after)?;
            let Some(last) = page.last().map(|(id, lease)| Place::of(*id, lease)) else {
                lane.stuck.0.retain(|id, _| known.contains(id));
                break;
            };
            after = Some(last);
            known.extend(page.iter().map(|(id, _)| *id));
            let mine = |id: &LeaseId| !lane.in_hand.contains(id) && (!self.creating.holds(id) || planted("bug.fence"));
            let mine = page.into_iter().filter(|(id, _)| mine(id));
            let (old, ending): (Vec<Ending>, Vec<Ending>) = mine.partition(|(id, _)| lane.stuck.holds(id));
            again.extend(old.into_iter().filter(|(id, _)| ready.contains(id)));
            // Hundreds can have been left half-made by a leader that is gone: what people have in their hands does not wait for those.
            let (unsure, ending): (Vec<Ending>, Vec<Ending>) =
                ending.into_iter().partition(|(_, lease)| to_be_fenced(lease));
            if !ending.is_empty() {
                begun.push(Round { ending, kind: Kind::Made });
            }
            let mut unsure = unsure.into_iter();
            while fencing < FENCING {
                let ending: Vec<Ending> = unsure.by_ref().take(FENCED).collect();
                if ending.is_empty() {
                    break;
                }
                fencing += 1;
                begun.push(Round { ending, kind: Kind::Unsure });
            }
        }
        if !again.is_empty() && !lane.retrying {
            begun.push(Round { ending: again, kind: Kind::Again });
        }
        begun.iter().for_each(|round| lane.take(round));
        Ok(begun)
    }

    /// The next leases of a queue behind a place, or the first ones.
    pub(crate) fn page(&self, name: &str, queue: Queue, after: Option<Place>) -> Result<Vec<Ending>, Failure> {
        match after {
            Some(_) => self.read(|store, _| lease::work(store, name, queue, after, self.together)),
            None => self.first(name, queue, self.together),
        }
    }

    /// When the end came that is the oldest at a target which is not proved; cluster time.
    pub(crate) fn oldest_ending(&self, name: &str) -> Result<Option<Millis>, Failure> {
        let first = [self.first(name, Queue::Due, 1)?, self.first(name, Queue::Asked, 1)?];
        Ok(first.iter().flatten().filter_map(|(_, lease)| lease.ended_at).min())
    }

    /// The first leases of a queue, at most `limit`.
    fn first(&self, name: &str, queue: Queue, limit: usize) -> Result<Vec<Ending>, Failure> {
        let lock = || self.heads.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = (name.to_owned(), queue);
        let begins = lock().get(&at).copied().map(Place::behind);
        let (page, applied) =
            self.read(|store, applied| Ok((lease::work(store, name, queue, begins, limit)?, applied)))?;
        let first = page.first().map(|(id, lease)| Place::of(*id, lease).since.saturating_sub(1));
        lock().insert(at, first.unwrap_or(applied));
        Ok(page)
    }

    async fn end_round(
        self: &Arc<Self>,
        name: &str,
        queue: Queue,
        round: Round,
    ) -> (Round, Result<BTreeMap<LeaseId, String>, Failure>) {
        let ended = match self.at_work(name, queue).await {
            Ok(at) => self.end_leases(name, &at, &round.ending, round.kind != Kind::Again).await,
            Err(error) => Err(error),
        };
        (round, ended)
    }

    /// This node's office, with the connections of a queue.
    async fn at_work(self: &Arc<Self>, name: &str, queue: Queue) -> Result<AtWork, Failure> {
        let office = self.office(name).await?;
        Ok(AtWork { term: office.term, described: office.described, engine: office.engine_for(queue).await })
    }

    /// An intent that this node is not bringing alive belongs to a task or a leader that is gone: whoever asked for it
    /// has to ask again.
    async fn end_abandoned(self: &Arc<Self>, name: &str, term: u64) -> Result<(), Failure> {
        let mut after = None;
        loop {
            let page = self.page(name, Queue::Making, after)?;
            let Some((last, lease)) = page.last() else { return Ok(()) };
            after = Some(Place::of(*last, lease));
            let abandoned: Vec<LeaseId> =
                page.iter().map(|(id, _)| *id).filter(|id| !self.creating.holds(id)).collect();
            for some in abandoned.chunks(ABANDONED) {
                // Only whoever is in office may say so, and to be in office the target need not answer.
                self.claim_office(name, term).await?;
                try_join_all(some.iter().map(|id| self.propose(Command::LeaseFailed { term, lease: *id }))).await?;
            }
        }
    }

    pub(crate) fn leads_in(&self, term: u64) -> bool {
        let status = self.raft.watch();
        let status = status.borrow();
        status.is_leader && status.term == term
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_state::lease::{State, Why};

    fn lease(why: Why) -> Lease {
        Lease {
            role: "r".into(),
            target: "t".into(),
            principal: "q1_a".into(),
            owner: "o".into(),
            namespace: "default".into(),
            statements: String::new(),
            verifier: String::new(),
            issued: Vec::new(),
            groups: Vec::new(),
            connection_limit: 1,
            state: State::Revoking,
            expires_at: 1,
            max_expires_at: 1,
            binding: None,
            oid: None,
            was_active: true,
            why: Some(why),
            ended_at: None,
            intent_index: 1,
            active_index: Some(2),
            revoking_index: Some(3),
            revoked_index: None,
            proof: None,
            proved_by: None,
            origin: None,
        }
    }

    #[test]
    fn what_a_round_is_about_is_begun_by_no_other_until_it_is_settled() {
        let mut lane = Lane::default();
        let ids = [1, 2].map(|n| LeaseId([n; 16]));
        let round = |kind| Round { ending: ids.map(|id| (id, lease(Why::Expired))).to_vec(), kind };
        lane.take(&round(Kind::Made));
        assert!(ids.iter().all(|id| lane.in_hand.contains(id)) && !lane.retrying);
        lane.settle("t", &round(Kind::Made), &BTreeMap::from([(ids[1], "why".to_owned())]));
        assert!(lane.in_hand.is_empty(), "it can be begun again");
        assert_eq!(ids.map(|id| lane.stuck.holds(&id)), [false, true], "the one that failed waits by itself");
        lane.take(&round(Kind::Again));
        assert!(lane.retrying, "one round of those that failed at a time");
        lane.take(&Round { ending: Vec::new(), kind: Kind::Unsure });
        assert_eq!(lane.fencing, 1);
        lane.give_back(&Round { ending: Vec::new(), kind: Kind::Unsure });
        assert_eq!(lane.fencing, 0);
        assert!(lane.retrying, "whatever else begins and ends beside it");
        lane.give_back(&round(Kind::Again));
        assert!(!lane.retrying && lane.in_hand.is_empty() && lane.stuck.holds(&ids[1]), "an outage settles nothing");
    }

    #[test]
    fn when_what_held_thousands_up_is_over_they_do_not_go_four_by_four() {
        let (mut lane, again) = (Lane::default(), |ids: &[LeaseId]| Round {
            ending: ids.iter().map(|id| (*id, lease(Why::Expired))).collect(),
            kind: Kind::Again,
        });
        let ids: Vec<LeaseId> = (0..=255).map(|n| LeaseId([n; 16])).collect();
        let start = Instant::now();
        ids.iter().for_each(|id| lane.stuck.add(*id, start));
        let mut rounds = 0;
        while !lane.stuck.0.is_empty() {
            let round = again(&lane.stuck.ready(start + SHORTEST_PAUSE, lane.few()));
            lane.take(&round);
            lane.settle("t", &round, &BTreeMap::new());
            rounds += 1;
        }
        assert_eq!(rounds, 7, "4, 8, 16, 32, 64, 128 and what is left");
        assert!(lane.few() <= ROUND);
        lane.stuck.add(ids[0], start);
        let round = again(&ids[..1]);
        lane.take(&round);
        lane.settle("t", &round, &BTreeMap::from([(ids[0], "why".to_owned())]));
        assert_eq!(lane.few(), STUCK_ROUND, "one that fails does not hold many up");
    }

    #[test]
    fn a_stuck_lease_waits_longer_each_time_and_alone() {
        let mut stuck = Stuck::default();
        let start = Instant::now();
        let (one, two) = (LeaseId([1; 16]), LeaseId([2; 16]));
        stuck.add(one, start);
        assert!(stuck.ready(start, STUCK_ROUND).is_empty());
        assert_eq!(stuck.ready(start + SHORTEST_PAUSE, STUCK_ROUND), [one]);
        for _ in 0..20 {
            stuck.add(one, start);
        }
        stuck.add(two, start);
        assert_eq!(stuck.ready(start + SHORTEST_PAUSE, STUCK_ROUND), [two], "one's failures do not delay two");
        assert_eq!(stuck.ready(start + LONGEST_PAUSE, STUCK_ROUND), [two, one], "and one is never given up");
        for n in 3..20 {
            stuck.add(LeaseId([n; 16]), start);
        }
        assert_eq!(stuck.ready(start + LONGEST_PAUSE, STUCK_ROUND).len(), STUCK_ROUND);
    }
}
