//! Leases at their targets: what the leader does until an end is proved. It decides nothing: the log says what must be
//! so, this makes it so, for ever if need be, and the log takes the proof.
//!
//! ```text
//! P6 Revoking committed   P7 refuse login   P8 kill sessions   P9 look, twice   P10 Revoked committed
//! ```
//! Each target has its own tasks, one for each queue of ends, with connections of its own: a target that does not answer
//! keeps no other waiting, and what somebody asked to end does not wait behind what is due. A lease whose end fails waits by
//! itself, longer each time.

use crate::core::Core;
use crate::executor::engine_failure;
use crate::failpoint::planted;
use crate::gone;
use crate::issue::injected;
use crate::lane::{AtWork, Ending, to_be_fenced};
use crate::trouble::Troubles;
use futures::future::try_join_all;
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail, Entry};
use quorate_engines::{self as engines, Cleaning, Engine, EngineError, Fenced, Principal, Seen};
use quorate_state::clock::ClusterClock;
use quorate_state::command::{Command, RevocationProof};
use quorate_state::ids::LeaseId;
use quorate_state::lease::{self, Lease, Queue, principal_prefix, remains, unrevoked};
use quorate_state::outcome::Outcome;
use quorate_state::store::StoreError;
use quorate_state::target::{executor, quarantine, target, targets};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How often a target is searched for principals that no lease accounts for.
const RECONCILE: Duration = Duration::from_secs(60);
/// How often a search that failed is tried before the next one is due, and the pause between.
const SEARCHES: u32 = 20;
/// See [`SEARCHES`].
const RESEARCH: Duration = Duration::from_secs(1);
/// How often it is tried again where nobody helps and nobody may have a reason to, each time after twice the pause: 15 s in all.
const HELPLESS: u32 = 4;
/// How often a target is asked whether it has failed over. It also shows early that a connection is dead.
const WATCH: Duration = Duration::from_secs(5);
/// How many bytes the places that were looked at may take in a proof.
const MAX_ENDPOINT: usize = 512;

impl Core {
    /// The leader's task: ends intents of earlier terms, expires what is due, and ends what is to end at every target.
    pub(crate) async fn drive_leases(self: Arc<Self>) {
        let mut rounds = Rounds::default();
        let mut status = self.raft.watch();
        loop {
            let now = status.borrow_and_update().clone();
            if !now.is_leader || rounds.term != now.term {
                rounds.stop(now.term);
                self.troubles.forget();
            }
            if !now.is_leader {
                self.leave_offices().await;
                if status.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let more = self.expire_due(now.term).await.unwrap_or_else(|error| {
                tracing::debug!(error = error.message, "expiry waits");
                false
            });
            if let Err(error) = self.sweep(now.term).await {
                tracing::debug!(error = error.message, "the end of many leases goes on later");
            }
            if let Err(error) = self.begin_rounds(&mut rounds) {
                tracing::error!(error = error.message, "leases cannot be driven");
            }
            // When thousands are due, the first are ended while the last are not even told.
            if !more {
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    fn begin_rounds(self: &Arc<Self>, rounds: &mut Rounds) -> Result<(), Failure> {
        let (term, all) = (rounds.term, self.read(|store, _| targets(store))?);
        self.troubles.retain(|name| all.iter().any(|(known, _)| known == name));
        for (name, described) in all {
            let pending = described.asked > described.proof.as_ref().map_or(0, |proof| proof.asked);
            if pending && rounds.proofs.get(&name).is_none_or(JoinHandle::is_finished) {
                let (core, target, asked) = (Arc::clone(self), name.clone(), described.asked);
                let task = tokio::spawn(async move {
                    if let Err(error) = core.prove_target(&target, term, asked).await {
                        tracing::warn!(
                            target,
                            error = error.message,
                            "what was found out about the target is not recorded"
                        );
                        sleep(RESEARCH).await;
                    }
                });
                rounds.proofs.insert(name.clone(), task);
            }
            if rounds.watches.get(&name).is_none_or(JoinHandle::is_finished) {
                let (core, target) = (Arc::clone(self), name.clone());
                rounds.watches.insert(name.clone(), tokio::spawn(async move { core.watch(&target, term).await }));
            }
            if rounds.rotations.get(&name).is_none_or(JoinHandle::is_finished) {
                let (core, target) = (Arc::clone(self), name.clone());
                let task = tokio::spawn(async move { core.keep_rotating(&target, term).await });
                rounds.rotations.insert(name.clone(), task);
            }
            if self.read(|store, _| quarantine(store, &name))?.is_some() {
                // Nothing is touched there. What taking over would end is counted again.
                if rounds.looks.get(&name).is_none_or(|(at, task)| at.elapsed() > RECONCILE && task.is_finished()) {
                    let (core, target) = (Arc::clone(self), name.clone());
                    let task = tokio::spawn(async move { drop(core.look_at_claims(&target, term).await) });
                    rounds.looks.insert(name.clone(), (Instant::now(), task));
                }
                // And it is searched at once when that is over.
                if let Some((_, task)) = rounds.searches.remove(&name) {
                    task.abort();
                }
                for queue in [Queue::Asked, Queue::Due] {
                    if let Some(task) = rounds.lanes.remove(&(name.clone(), queue)) {
                        task.abort();
                    }
                }
                if let Some(task) = rounds.cleanings.remove(&name) {
                    task.abort();
                }
                continue;
            }
            let making = self.read(|store, _| lease::tally(store, &name, Queue::Making))? > 0;
            let intents = if making { self.page(&name, Queue::Making, None)? } else { Vec::new() };
            let abandoned = intents.iter().any(|(id, _)| !self.creating.holds(id));
            let (asked, due, search) = self.read(|store, _| {
                let some = |queue| Ok::<_, StoreError>(lease::tally(store, &name, queue)? > 0);
                // Once a term whatever there is: the leader before may have ended between a lease's proof and its cleaning up.
                let first = !rounds.searches.contains_key(&name) && !lease::leases(store, None, 1)?.is_empty();
                let (asked, due) = (some(Queue::Asked)?, some(Queue::Due)?);
                // Whoever is in office goes on searching when the last lease has ended: what a target brings back, it brings back then too.
                let in_office = executor(store, &name)?.is_some_and(|e| e.member == self.me && e.term == term);
                let left = remains(store, &name)?.is_some();
                let search = first || left || in_office || asked || due || making || some(Queue::Living)?;
                Ok((asked, due || abandoned, search))
            })?;
            for (queue, busy) in [(Queue::Asked, asked), (Queue::Due, due)] {
                let at = (name.clone(), queue);
                if busy && rounds.lanes.get(&at).is_none_or(JoinHandle::is_finished) {
                    let (core, target) = (Arc::clone(self), name.clone());
                    rounds.lanes.insert(at, tokio::spawn(async move { core.work_at(&target, queue, term).await }));
                }
            }
            if self.leftovers.has(&name) && rounds.cleanings.get(&name).is_none_or(JoinHandle::is_finished) {
                let (core, target) = (Arc::clone(self), name.clone());
                rounds.cleanings.insert(name.clone(), tokio::spawn(async move { core.clean_up(&target, term).await }));
            }
            let pause = if planted("reconcile.hurry") { RESEARCH } else { RECONCILE };
            let idle = self.read(|store, _| Ok(unrevoked(store, &name)? == 0 && remains(store, &name)?.is_none()))?;
            let barren = rounds.barren.entry(name.clone()).or_default();
            if !idle {
                barren.store(false, Ordering::Relaxed);
            }
            if search
                && !(idle && barren.load(Ordering::Relaxed))
                && rounds.searches.get(&name).is_none_or(|(at, task)| at.elapsed() > pause && task.is_finished())
            {
                let (core, target, barren) = (Arc::clone(self), name.clone(), Arc::clone(barren));
                let task = tokio::spawn(async move {
                    let mut nobody_helps = idle;
                    for tried in 0..SEARCHES {
                        let Err(error) = core.reconcile(&target, term).await else { return };
                        nobody_helps &= error.code == "not_enough_members";
                        if !nobody_helps {
                            tracing::warn!(target, error = error.message, "the target was not searched for strays");
                            sleep(RESEARCH).await;
                        } else if tried < HELPLESS {
                            sleep(RESEARCH * 2u32.pow(tried)).await;
                        } else {
                            break;
                        }
                    }
                    // No lease is there, none that ended left anything, none has ended of late, and so nobody helps to open its credential:
                    // not until one is. That some were down for a moment looks the same, and so this is not believed at once.
                    if nobody_helps {
                        tracing::info!(target, "no lease is at the target, and it is not searched until one is");
                        barren.store(true, Ordering::Relaxed);
                    }
                });
                rounds.searches.insert(name, (Instant::now(), task));
            }
        }
        Ok(())
    }

    /// Asks a target at which this node is in office, again and again, whether it has failed over: then accounts that were ended can
    /// be back, and it is searched at once.
    async fn watch(self: Arc<Self>, name: &str, term: u64) {
        let mut last = None;
        while self.leads_in(term) {
            if let Some(office) = self.seated(name, term).await {
                match office.engine.timeline().await {
                    Ok(now) => {
                        if let Some(before) = last.filter(|before| *before != now) {
                            tracing::warn!(target = name, before, now, "the target has failed over: it is searched");
                            if let Err(error) = self.reconcile(name, term).await {
                                tracing::warn!(
                                    target = name,
                                    error = error.message,
                                    "the target was not searched for strays"
                                );
                                // As if nothing had been seen: once more.
                                sleep(RESEARCH).await;
                                continue;
                            }
                        }
                        last = Some(now);
                    }
                    Err(error) => tracing::debug!(target = name, %error, "the target does not answer"),
                }
            }
            sleep(WATCH).await;
        }
    }

    /// P7 to P10 for some leases of one target. Returns those that did not end, and why; an error is about all of them.
    pub(crate) async fn end_leases(
        self: &Arc<Self>,
        name: &str,
        office: &AtWork,
        ending: &[Ending],
        first: bool,
    ) -> Result<BTreeMap<LeaseId, String>, Failure> {
        let engine = &office.engine;
        if first {
            let acts = ending.iter().map(|(id, l)| self.record(self.act("lease.end", id, l), Class::Essential));
            try_join_all(acts).await?;
        }
        injected("lease.p6")?;
        let mut failed: BTreeMap<LeaseId, String> = BTreeMap::new();
        let fenced = self.fence_all(name, &**engine, ending).await?;
        let mut principals = Vec::with_capacity(ending.len());
        for (id, lease) in ending {
            let oid = match fenced.get(id) {
                Some(Ok(Fenced::Won { oid })) => Some(*oid),
                Some(Ok(Fenced::Absent)) | None => lease.oid,
                Some(Err(error)) => {
                    failed.insert(*id, error.to_string());
                    continue;
                }
            };
            principals.push(Principal { name: lease.principal.clone(), oid });
        }
        let prefix = principal_prefix(&self.cluster, name);
        let ended = gone::end(&**engine, name, &prefix, principals, injected).await?;
        for (id, lease) in ending {
            if let Some(why) = ended.failed.get(&lease.principal) {
                failed.insert(*id, why.clone());
            }
        }
        let gone: Vec<&Ending> = ending.iter().filter(|(id, _)| !failed.contains_key(id)).collect();
        if !gone.is_empty() {
            // In the log before the first of these ends is: who proves them may be gone in the next moment, and so may all that saw it.
            if !ended.disabled.is_empty() && self.read(|store, _| remains(store, name))?.is_none() {
                self.say(Command::Remain { term: office.term, target: name.to_owned() }).await?;
            }
            let fenced: BTreeSet<LeaseId> = fenced.into_keys().collect();
            self.prove_gone(office, &gone, &fenced, &ended.before).await?;
            if self.read(|store, _| target(store, name))?.is_some() {
                self.leftovers.add(name, ended.disabled);
            } else {
                // It went with its last lease, and nobody comes back there.
                let mut left = self.leftovers.take(name, usize::MAX);
                left.extend(ended.disabled);
                clean(&self.troubles, name, &**engine, &left).await;
            }
        }
        Ok(failed)
    }

    /// P7. The CREATE of some may still be on the way: the name is taken and the connection ended, or the CREATE has won. What came of it,
    /// for each of those.
    async fn fence_all(
        &self,
        name: &str,
        engine: &dyn Engine,
        ending: &[Ending],
    ) -> Result<BTreeMap<LeaseId, Result<Fenced, EngineError>>, Failure> {
        let unsure = || ending.iter().filter(|(_, lease)| to_be_fenced(lease));
        let intents: Vec<(&str, engines::Binding)> = unsure()
            .filter_map(|(_, lease)| {
                let binding = lease.binding?;
                let binding = engines::Binding { pid: binding.pid, backend_start_micros: binding.backend_start };
                Some((lease.principal.as_str(), binding))
            })
            .collect();
        let fenced = if planted("bug.fence") {
            vec![Ok(Fenced::Absent); intents.len()]
        } else if intents.is_empty() {
            Vec::new()
        } else {
            engine.fence_all(&intents).await.map_err(|e| engine_failure(name, &e))?
        };
        Ok(unsure().map(|(id, _)| *id).zip(fenced).collect())
    }

    /// P10.
    async fn prove_gone(
        self: &Arc<Self>,
        office: &AtWork,
        gone: &[&Ending],
        fenced: &BTreeSet<LeaseId>,
        before: &[Seen],
    ) -> Result<(), Failure> {
        let mut endpoint = office.engine.endpoints().join(", ");
        if !endpoint.contains(", ") {
            endpoint.push_str(" (primary only)");
        }
        if endpoint.len() > MAX_ENDPOINT {
            endpoint = format!("all {} endpoints of the target", office.engine.endpoints().len());
        }
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
        let done =
            self.propose(Command::LeaseRevoked { term: office.term, described: office.described, proofs }).await?;
        injected("lease.p10")?;
        match done.outcome {
            Outcome::Refused(refusal) => Err(Failure::from(refusal)),
            _ => Ok(()),
        }
    }

    /// Proposes the end of what is due, after cluster time was moved to where the members' clocks are: of as much as one entry
    /// holds. Whether there may be more.
    async fn expire_due(self: &Arc<Self>, term: u64) -> Result<bool, Failure> {
        #[cfg(feature = "failpoints")]
        if let Some(more) = self.expired_by_own_clock(term).await? {
            return Ok(more);
        }
        let now = self.now()?;
        let (due, clock) = self.read(|store, _| Ok((lease::next_due(store)?, ClusterClock::load(store)?)))?;
        let Some(due) = due.filter(|due| *due <= now) else { return Ok(false) };
        if clock.now < due {
            self.tick().await?;
        }
        let clock = self.read(|store, _| ClusterClock::load(store))?;
        if clock.now < due || clock.paused_until > clock.now {
            return Ok(false);
        }
        injected("lease.p6.before")?;
        let done = self.propose(Command::Expire { term, upto: clock.now }).await?;
        Ok(matches!(done.outcome, Outcome::Leases { changed } if !changed.is_empty()))
    }

    /// Completes ends of many leases that one entry could not hold.
    async fn sweep(self: &Arc<Self>, term: u64) -> Result<(), Failure> {
        while !self.read(|store, _| lease::sweeps(store, 1))?.is_empty() {
            self.propose(Command::Sweep { term }).await?;
        }
        Ok(())
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

/// P11: never a condition of truth. What is left is tried again when the target is searched. Whether the target has said what became
/// of them.
pub(crate) async fn clean(troubles: &Troubles, name: &str, engine: &dyn Engine, principals: &[Principal]) -> bool {
    if principals.is_empty() {
        return true;
    }
    if injected("lease.p11.before").is_err() {
        return false;
    }
    match engine.clean(principals).await {
        // Done, and nobody hears of it.
        Ok(_) if injected("lease.p11").is_err() => false,
        Ok(cleaned) => {
            for c in cleaned {
                let Cleaning::Left { databases, reason } = c.outcome else {
                    troubles.left(name, &c.name, None);
                    continue;
                };
                let why = reason.as_deref().unwrap_or("something depends on it");
                let places =
                    if databases.is_empty() { String::new() } else { format!(", in {}", databases.join(", ")) };
                troubles.left(name, &c.name, Some(&format!("{why}{places}")));
                tracing::warn!(
                    target = name,
                    principal = c.name,
                    ?databases,
                    reason,
                    "objects of an ended lease are left"
                );
            }
            true
        }
        Err(error) => {
            tracing::warn!(target = name, %error, "cleaning up goes on later");
            false
        }
    }
}

/// The tasks of one term.
#[derive(Default)]
struct Rounds {
    term: u64,
    lanes: BTreeMap<(String, Queue), JoinHandle<()>>,
    searches: BTreeMap<String, (Instant, JoinHandle<()>)>,
    looks: BTreeMap<String, (Instant, JoinHandle<()>)>,
    /// Whether nobody helped to open the credential for a search, in this term.
    barren: BTreeMap<String, Arc<AtomicBool>>,
    proofs: BTreeMap<String, JoinHandle<()>>,
    watches: BTreeMap<String, JoinHandle<()>>,
    rotations: BTreeMap<String, JoinHandle<()>>,
    cleanings: BTreeMap<String, JoinHandle<()>>,
}

impl Rounds {
    fn stop(&mut self, next: u64) {
        for task in std::mem::take(&mut self.lanes).into_values() {
            task.abort();
        }
        for (_, task) in
            [&mut self.searches, &mut self.looks].into_iter().flat_map(|all| std::mem::take(all).into_values())
        {
            task.abort();
        }
        let tasks = [&mut self.proofs, &mut self.watches, &mut self.rotations, &mut self.cleanings];
        for task in tasks.into_iter().flat_map(std::mem::take).map(|(_, task)| task) {
            task.abort();
        }
        self.barren.clear();
        self.term = next;
    }
}

impl Drop for Rounds {
    fn drop(&mut self) {
        self.stop(self.term);
    }
}
