//! Leases at their targets: what the leader does until an end is proved. It decides nothing: the log says what must be
//! so, this makes it so, for ever if need be, and the log takes the proof.
//!
//! ```text
//! P6 Revoking committed   P7 refuse login   P8 kill sessions   P9 look, twice   P10 Revoked committed   P11 clean up
//! ```
//! Each target has its own tasks, one for each [`Lane`]: a target that does not answer keeps no other waiting, and what
//! somebody asked to end does not wait behind what is due. A lease whose end fails waits by itself, longer each time.

use crate::core::Core;
use crate::executor::{Office, engine_failure};
use crate::issue::injected;
use futures::future::try_join_all;
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail, Entry};
use quorate_engines::{self as engines, Cleaning, EngineError, Fenced, Principal, Refusal as Login, Seen};
use quorate_state::clock::ClusterClock;
use quorate_state::command::{Command, RevocationProof};
use quorate_state::ids::LeaseId;
use quorate_state::lease::{self, Lease, State, Why, principal_prefix};
use quorate_state::outcome::Outcome;
use quorate_state::store::{Store, StoreError};
use quorate_state::target::{target, targets};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How many leases are read, and at most ended, together.
const ROUND: usize = 256;
/// How many of those that failed before are tried again together: each may take seconds.
const STUCK_ROUND: usize = 4;
/// Between the two looks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// The shortest pause after a failure.
const SHORTEST_PAUSE: Duration = Duration::from_millis(200);
/// The longest pause between attempts at a target that does not answer, or at a lease that does not end.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How often a target is searched for principals that no lease accounts for.
const RECONCILE: Duration = Duration::from_secs(60);
/// How often a search that failed is tried before the next one is due, and the pause between.
const SEARCHES: usize = 20;
/// See [`SEARCHES`].
const RESEARCH: Duration = Duration::from_secs(1);

/// What waits for what at one target: nothing in one of them waits for another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Lane {
    /// Ends that somebody asked for.
    Asked,
    /// Ends that came by themselves, and intents that nobody brings alive.
    Due,
}

impl Lane {
    fn of(lease: &Lease) -> Self {
        match lease.why {
            Some(Why::Expired | Why::Failed) | None => Self::Due,
            Some(Why::Requested | Why::RoleDeleted | Why::IdentityBlocked | Why::Adopted) => Self::Asked,
        }
    }
}

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

    /// The few that have waited longest past their time.
    fn ready(&self, now: Instant) -> Vec<LeaseId> {
        let mut ready: Vec<_> =
            self.0.iter().filter(|(_, (_, at))| *at <= now).map(|(id, (_, at))| (*at, *id)).collect();
        ready.sort();
        ready.into_iter().take(STUCK_ROUND).map(|(_, id)| id).collect()
    }
}

/// A lease that is to end.
type Ending = (LeaseId, Lease);

impl Core {
    /// The leader's task: ends intents of earlier terms, expires what is due, and ends what is to end at every target.
    pub(crate) async fn drive_leases(self: Arc<Self>) {
        let mut rounds = Rounds::default();
        let mut status = self.raft.watch();
        loop {
            let now = status.borrow_and_update().clone();
            if !now.is_leader || rounds.term != now.term {
                rounds.stop(now.term);
            }
            if !now.is_leader {
                self.leave_offices().await;
                if status.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if let Err(error) = self.expire_due(now.term).await {
                tracing::debug!(error = error.message, "expiry waits");
            }
            if let Err(error) = self.begin_rounds(&mut rounds) {
                tracing::error!(error = error.message, "leases cannot be driven");
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    fn begin_rounds(self: &Arc<Self>, rounds: &mut Rounds) -> Result<(), Failure> {
        let term = rounds.term;
        for (name, _) in self.read(|store, _| targets(store))? {
            let (ending, abandoned, any) = self.read(|store, _| {
                let some = |state, limit| lease::work(store, &name, state, None, limit);
                let (ending, intents) = (!some(State::Revoking, 1)?.is_empty(), some(State::Intent, ROUND)?);
                let abandoned = intents.iter().any(|(id, _)| !self.creating.holds(id));
                // Once a term whatever there is: the leader before may have ended between a lease's proof and its cleaning up.
                let first = !rounds.searches.contains_key(&name) && !lease::leases(store, None, 1)?.is_empty();
                let any = first || ending || !intents.is_empty() || !some(State::Active, 1)?.is_empty();
                Ok((ending, abandoned, any))
            })?;
            for (lane, busy) in [(Lane::Asked, ending), (Lane::Due, ending || abandoned)] {
                let at = (name.clone(), lane);
                if busy && rounds.lanes.get(&at).is_none_or(JoinHandle::is_finished) {
                    let (core, target) = (Arc::clone(self), name.clone());
                    rounds.lanes.insert(at, tokio::spawn(async move { core.work_at(&target, lane, term).await }));
                }
            }
            if any && rounds.searches.get(&name).is_none_or(|(at, task)| at.elapsed() > RECONCILE && task.is_finished())
            {
                let (core, target) = (Arc::clone(self), name.clone());
                let task = tokio::spawn(async move {
                    for _ in 0..SEARCHES {
                        let Err(error) = core.reconcile(&target, term).await else { return };
                        tracing::warn!(target, error = error.message, "the target was not searched for strays");
                        sleep(RESEARCH).await;
                    }
                });
                rounds.searches.insert(name, (Instant::now(), task));
            }
        }
        Ok(())
    }

    /// Works in one lane of one target until nothing is left to do there. It never gives up; it only pauses longer.
    async fn work_at(self: Arc<Self>, target: &str, lane: Lane, term: u64) {
        let mut pause = SHORTEST_PAUSE;
        let mut stuck = Stuck::default();
        while self.leads_in(term) {
            match self.work_once(target, lane, term, &mut stuck).await {
                Ok(0) if stuck.0.is_empty() => return,
                Ok(done) => {
                    pause = SHORTEST_PAUSE;
                    if done == 0 {
                        sleep(SHORTEST_PAUSE).await;
                    }
                }
                Err(error) => {
                    tracing::warn!(target, ?lane, error = error.message, "revocation goes on later");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
            }
        }
    }

    fn leads_in(&self, term: u64) -> bool {
        let status = self.raft.watch();
        let status = status.borrow();
        status.is_leader && status.term == term
    }

    /// Once over everything that waits in a lane; how many leases were worked on.
    async fn work_once(
        self: &Arc<Self>,
        name: &str,
        lane: Lane,
        term: u64,
        stuck: &mut Stuck,
    ) -> Result<usize, Failure> {
        let mut done = 0;
        if lane == Lane::Due {
            done += self.end_abandoned(name, term).await?;
        }
        let ready: BTreeSet<LeaseId> = stuck.ready(Instant::now()).into_iter().collect();
        let (mut again, mut known, mut after) = (Vec::new(), BTreeSet::new(), None);
        loop {
            let page = self.read(|store, _| lease::work(store, name, State::Revoking, after.as_ref(), ROUND))?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let mine = page.into_iter().filter(|(id, l)| Lane::of(l) == lane && !self.creating.holds(id));
            let (old, fresh): (Vec<Ending>, Vec<Ending>) = mine.partition(|(id, _)| stuck.holds(id));
            known.extend(old.iter().map(|(id, _)| *id));
            again.extend(old.into_iter().filter(|(id, _)| ready.contains(id)));
            done += self.end_some(name, &fresh, true, stuck, &mut known).await?;
        }
        stuck.0.retain(|id, _| known.contains(id));
        Ok(done + self.end_some(name, &again, false, stuck, &mut known).await?)
    }

    async fn end_some(
        self: &Arc<Self>,
        name: &str,
        ending: &[Ending],
        first: bool,
        stuck: &mut Stuck,
        known: &mut BTreeSet<LeaseId>,
    ) -> Result<usize, Failure> {
        if ending.is_empty() {
            return Ok(0);
        }
        let office = self.office(name).await?;
        let failed = self.end_leases(name, &office, ending, first).await?;
        for (id, lease) in ending {
            match failed.get(id) {
                Some(why) => {
                    tracing::warn!(target = name, lease = %id, login = lease.principal, why, "a lease does not end yet");
                    stuck.add(*id, Instant::now());
                    known.insert(*id);
                }
                None => drop(stuck.0.remove(id)),
            }
        }
        Ok(ending.len())
    }

    /// An intent that this node is not bringing alive belongs to a task or a leader that is gone: whoever asked for it
    /// has to ask again.
    async fn end_abandoned(self: &Arc<Self>, name: &str, term: u64) -> Result<usize, Failure> {
        let (mut ended, mut after) = (0, None);
        loop {
            let page = self.read(|store, _| lease::work(store, name, State::Intent, after.as_ref(), ROUND))?;
            let Some((last, _)) = page.last() else { return Ok(ended) };
            after = Some(*last);
            for (id, _) in page.iter().filter(|(id, _)| !self.creating.holds(id)) {
                // Only whoever is in office may say so, and to be in office the target need not answer.
                self.claim_office(name, term).await?;
                let failed = self.propose(Command::LeaseFailed { term, lease: *id }).await?;
                ended += usize::from(!matches!(failed.outcome, Outcome::Refused(_)));
            }
        }
    }

    /// P7 to P11 for some leases of one target. Returns those that did not end, and why; an error is about all of them.
    async fn end_leases(
        self: &Arc<Self>,
        name: &str,
        office: &Office,
        ending: &[Ending],
        first: bool,
    ) -> Result<BTreeMap<LeaseId, String>, Failure> {
        let engine = &office.engine;
        let at_target = |e: EngineError| engine_failure(name, &e);
        if first {
            let acts = ending.iter().map(|(id, l)| self.record(self.act("lease.end", id, l), Class::Essential));
            try_join_all(acts).await?;
        }
        injected("lease.p6")?;
        let mut failed: BTreeMap<LeaseId, String> = BTreeMap::new();
        let mut fenced: BTreeSet<LeaseId> = BTreeSet::new();
        let mut principals = Vec::with_capacity(ending.len());
        for (id, lease) in ending {
            let mut oid = lease.oid;
            if let Some(binding) = lease.binding.filter(|_| !lease.was_active) {
                // Its CREATE may still be on the way: the name is taken and the connection ended, or the CREATE has won.
                let binding = engines::Binding { pid: binding.pid, backend_start_micros: binding.backend_start };
                match engine.fence(&lease.principal, &binding).await {
                    Ok(Fenced::Won { oid: won }) => oid = Some(won),
                    Ok(Fenced::Absent) => {}
                    Err(error @ EngineError::Unavailable { .. }) => return Err(at_target(error)),
                    Err(error) => {
                        failed.insert(*id, error.to_string());
                        continue;
                    }
                }
                fenced.insert(*id);
            }
            principals.push(Principal { name: lease.principal.clone(), oid });
        }
        let refused = engine.refuse(&principals).await.map_err(at_target)?;
        injected("lease.p7")?;
        // By number: the recorded one, and the one that the name had when it was refused.
        let mut to_kill = principals;
        let mut not_refused: BTreeMap<String, String> = BTreeMap::new();
        let mut disabled = Vec::new();
        for outcome in refused {
            let principal = Principal { name: outcome.name, oid: outcome.oid };
            match outcome.outcome {
                Login::Failed(error) => drop(not_refused.insert(principal.name.clone(), error.to_string())),
                Login::Disabled { .. } => disabled.push(principal.clone()),
                Login::Dropped | Login::Absent => {}
            }
            to_kill.push(principal);
        }
        let before = engine.look(&to_kill).await.map_err(at_target)?;
        engine.kill(&to_kill).await.map_err(at_target)?;
        injected("lease.p8")?;
        let mut looks = engine.look(&to_kill).await.map_err(at_target)?;
        sleep(BETWEEN_LOOKS).await;
        looks.extend(engine.look(&to_kill).await.map_err(at_target)?);
        injected("lease.p9")?;
        let prefix = principal_prefix(&self.cluster, name);
        for (id, lease) in ending {
            let theirs = looks.iter().filter(|seen| seen.name == lease.principal);
            let why = theirs.filter_map(|seen| not_gone(seen, &prefix)).next();
            if let Some(why) = not_refused.remove(&lease.principal).or(why) {
                failed.insert(*id, why);
            }
        }
        let gone: Vec<&Ending> = ending.iter().filter(|(id, _)| !failed.contains_key(id)).collect();
        if !gone.is_empty() {
            self.prove_gone(name, office, &gone, &fenced, &before).await?;
            disabled.retain(|p| gone.iter().any(|(_, l)| l.principal == p.name));
            clean(name, office, &disabled).await;
        }
        Ok(failed)
    }

    /// P10.
    async fn prove_gone(
        self: &Arc<Self>,
        name: &str,
        office: &Office,
        gone: &[&Ending],
        fenced: &BTreeSet<LeaseId>,
        before: &[Seen],
    ) -> Result<(), Failure> {
        let endpoint =
            self.read(|store, _| target(store, name))?.map_or_else(String::new, |t| format!("{}:{}", t.host, t.port));
        let looked_at = self.clock()?;
        let sessions = |login: &str| before.iter().filter(|s| s.name == login).map(|s| s.sessions).max().unwrap_or(0);
        let proofs: Vec<RevocationProof> = gone
            .iter()
            .map(|(id, lease)| RevocationProof {
                lease: *id,
                fenced: fenced.contains(id),
                looked_at,
                sessions_ended: u32::try_from(sessions(&lease.principal)).unwrap_or(u32::MAX),
                endpoint: endpoint.clone(),
            })
            .collect();
        let done = self.propose(Command::LeaseRevoked { term: office.term, proofs }).await?;
        injected("lease.p10")?;
        match done.outcome {
            Outcome::Refused(refusal) => Err(Failure::from(refusal)),
            _ => Ok(()),
        }
    }

    /// Searches a target for principals of this cluster that no lease accounts for: after the target's own fail-over an
    /// ended one can be back. Who can log in or has a session becomes a lease that is ending; of the others, what they
    /// left behind is cleaned up once more.
    async fn reconcile(self: &Arc<Self>, name: &str, term: u64) -> Result<(), Failure> {
        let office = self.office(name).await?;
        let at_target = |e: EngineError| engine_failure(name, &e);
        let prefix = principal_prefix(&self.cluster, name);
        // First the target, then the leases: whatever was listed has its intent in what is read afterwards.
        let listed = office.engine.list(&prefix).await.map_err(at_target)?;
        let mut strays = Vec::new();
        for some in listed.chunks(ROUND) {
            let accounted = |store: &dyn Store, principal: &Principal| -> Result<bool, StoreError> {
                let id = principal.name.strip_prefix(&prefix).and_then(|id| id.parse::<LeaseId>().ok());
                let found = id.map(|id| lease::lease(store, &id)).transpose()?.flatten();
                Ok(found.is_some_and(|l| l.state != State::Revoked))
            };
            let known =
                self.read(|store, _| some.iter().map(|p| accounted(store, p)).collect::<Result<Vec<_>, _>>())?;
            strays.extend(some.iter().zip(known).filter(|(_, known)| !known).map(|(p, _)| p.clone()));
        }
        for some in strays.chunks(ROUND) {
            let seen = office.engine.look(some).await.map_err(at_target)?;
            let (alive, ended): (Vec<Seen>, Vec<Seen>) = seen.into_iter().partition(|s| s.can_login || s.sessions > 0);
            for Seen { name: principal, oid, .. } in alive {
                tracing::error!(
                    target = name,
                    principal,
                    "an ended principal is alive at the target: it is ended again"
                );
                let Some(oid) = oid else { continue };
                let adopt = Command::Adopt { term, target: name.to_owned(), principal, oid };
                if let Outcome::Refused(refusal) = self.propose(adopt).await?.outcome {
                    tracing::warn!(target = name, %refusal, "a stray principal was not adopted");
                }
            }
            let ended: Vec<Principal> = ended.into_iter().map(|s| Principal { name: s.name, oid: s.oid }).collect();
            clean(name, &office, &ended).await;
        }
        Ok(())
    }

    /// Proposes the end of what is due, after cluster time was moved to where the members' clocks are.
    async fn expire_due(self: &Arc<Self>, term: u64) -> Result<(), Failure> {
        let now = self.now()?;
        let (due, clock) = self.read(|store, _| Ok((lease::next_due(store)?, ClusterClock::load(store)?)))?;
        let Some(due) = due.filter(|due| *due <= now) else { return Ok(()) };
        if clock.now < due {
            self.tick().await?;
        }
        let clock = self.read(|store, _| ClusterClock::load(store))?;
        if clock.now < due || clock.paused_until > clock.now {
            return Ok(());
        }
        self.propose(Command::Expire { term, upto: clock.now }).await.map(|_| ())
    }

    /// The record of an act of this node at a target, which is made before the act.
    pub(crate) fn act(&self, what: &'static str, id: &LeaseId, found: &Lease) -> Entry {
        self.internal_entry(what, found.intent_index)
            .resource(&format!("lease {id}"))
            .index(found.revoking_index.unwrap_or(found.intent_index))
            .detail("target", Detail::text(&found.target))
            .detail("login", Detail::text(&found.principal))
    }
}

/// Why what was seen is no proof of an end.
fn not_gone(seen: &Seen, prefix: &str) -> Option<String> {
    if seen.can_login {
        return Some("it can log in".to_owned());
    }
    if seen.sessions > 0 {
        return Some(format!("{} sessions are alive", seen.sessions));
    }
    // A restored target gives numbers anew, also to other principals of ours. Any other holder may be this very account
    // under a new name, with the same password: only a person can tell.
    let holder = seen.held_by.as_ref().filter(|holder| !holder.starts_with(prefix))?;
    Some(format!(
        "its number belongs to {holder} now: if that is the same account renamed, drop it; a person has to look"
    ))
}

/// P11: never a condition of truth. What is left is tried again when the target is searched.
async fn clean(name: &str, office: &Office, principals: &[Principal]) {
    if principals.is_empty() {
        return;
    }
    if injected("lease.p11").is_err() {
        return;
    }
    match office.engine.clean(principals).await {
        Ok(cleaned) => {
            for c in cleaned {
                if let Cleaning::Left { databases, reason } = c.outcome {
                    tracing::warn!(
                        target = name,
                        principal = c.name,
                        ?databases,
                        reason,
                        "objects of an ended lease are left"
                    );
                }
            }
        }
        Err(error) => tracing::warn!(target = name, %error, "cleaning up goes on later"),
    }
}

/// The tasks of one term.
#[derive(Default)]
struct Rounds {
    term: u64,
    lanes: BTreeMap<(String, Lane), JoinHandle<()>>,
    searches: BTreeMap<String, (Instant, JoinHandle<()>)>,
}

impl Rounds {
    fn stop(&mut self, next: u64) {
        for task in std::mem::take(&mut self.lanes).into_values() {
            task.abort();
        }
        for (_, task) in std::mem::take(&mut self.searches).into_values() {
            task.abort();
        }
        self.term = next;
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.stop(self.term);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(can_login: bool, sessions: u64, held_by: Option<&str>) -> Seen {
        Seen { name: "q1_a".into(), oid: None, can_login, sessions, held_by: held_by.map(str::to_owned) }
    }

    #[test]
    fn nothing_less_than_gone_is_gone() {
        assert_eq!(not_gone(&seen(false, 0, None), "q1_"), None);
        assert_eq!(not_gone(&seen(false, 0, Some("q1_b")), "q1_"), None, "another lease's account has the number");
        assert!(not_gone(&seen(true, 0, None), "q1_").is_some());
        assert!(not_gone(&seen(false, 1, None), "q1_").is_some());
        assert!(not_gone(&seen(false, 0, Some("renamed")), "q1_").is_some(), "it may be the same account");
    }

    #[test]
    fn a_stuck_lease_waits_longer_each_time_and_alone() {
        let mut stuck = Stuck::default();
        let start = Instant::now();
        let (one, two) = (LeaseId([1; 16]), LeaseId([2; 16]));
        stuck.add(one, start);
        assert!(stuck.ready(start).is_empty());
        assert_eq!(stuck.ready(start + SHORTEST_PAUSE), [one]);
        for _ in 0..20 {
            stuck.add(one, start);
        }
        stuck.add(two, start);
        assert_eq!(stuck.ready(start + SHORTEST_PAUSE), [two], "one's failures do not delay two");
        assert_eq!(stuck.ready(start + LONGEST_PAUSE), [two, one], "and one is never given up");
        for n in 3..20 {
            stuck.add(LeaseId([n; 16]), start);
        }
        assert_eq!(stuck.ready(start + LONGEST_PAUSE).len(), STUCK_ROUND);
    }
}
