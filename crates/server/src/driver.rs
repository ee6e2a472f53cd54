//! Leases at their targets: what the leader does between an intent and its end. It decides nothing: the log says what
//! must be so, this makes it so, for ever if need be, and the log takes the proof.
//!
//! ```text
//! P1 Intent committed   P2 CREATE in the target   P3 Active committed
//! P6 Revoking committed   P7 refuse login   P8 kill sessions   P9 look, twice   P10 Revoked committed   P11 clean up
//! ```

use crate::core::Core;
use crate::executor::{Office, engine_failure};
use crate::failpoint;
use quorate_api::status::Failure;
use quorate_audit::{Class, Detail};
use quorate_engines::{self as engines, Cleaning, Create, EngineError, Fenced, Principal, Refusal as Login};
use quorate_state::clock::ClusterClock;
use quorate_state::command::{Command, RevocationProof};
use quorate_state::ids::LeaseId;
use quorate_state::lease::{self, Lease, State};
use quorate_state::outcome::Outcome;
use quorate_state::target::{target, targets};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How many leases one round ends together.
const ROUND: usize = 256;
/// Between the two looks.
const BETWEEN_LOOKS: Duration = Duration::from_secs(1);
/// The longest pause between attempts at a target that does not answer.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// How long a client's request waits for its lease.
const ISSUE: Duration = Duration::from_secs(7);

/// Leases whose CREATE this node is about to send or has just sent: nobody else touches them meanwhile.
#[derive(Default)]
pub(crate) struct Creating(Mutex<BTreeSet<LeaseId>>);

impl Creating {
    fn begin(&self, id: LeaseId) -> Option<CreatingGuard<'_>> {
        let fresh = self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(id);
        fresh.then_some(CreatingGuard { all: self, id })
    }

    fn holds(&self, id: &LeaseId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }
}

struct CreatingGuard<'a> {
    all: &'a Creating,
    id: LeaseId,
}

impl Drop for CreatingGuard<'_> {
    fn drop(&mut self) {
        self.all.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Core {
    /// P1 to P3 for one intent of this term. Returns when the lease is active; an intent that cannot become active ends.
    pub(crate) async fn bring_alive(self: &Arc<Self>, id: LeaseId, term: u64) -> Result<(), Failure> {
        // A detached task: a client that goes away does not leave an intent half done.
        let core = Arc::clone(self);
        let done = tokio::spawn(async move { core.create(id, term).await });
        match tokio::time::timeout(ISSUE, done).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Failure::new("internal", "the issue of the lease was cut off; it will be ended")),
            Err(_) => Err(Failure::new(
                "target_unavailable",
                format!("lease {id}: the target has not answered in time; the lease will be ended, ask for another"),
            )),
        }
    }

    async fn create(self: &Arc<Self>, id: LeaseId, term: u64) -> Result<(), Failure> {
        let Some(_mine) = self.creating.begin(id) else { return self.wait_active(&id).await };
        let found = self.read(|store, _| lease::lease(store, &id))?;
        let Some(found) = found.filter(|l| l.state == State::Intent) else { return self.wait_active(&id).await };
        match self.create_at_target(&id, &found, term).await {
            Ok(oid) => {
                failpoint::hit("lease.p2").map_err(|e| Failure::new("injected", e.to_string()))?;
                let done = self.propose(Command::LeaseActive { term, lease: id, oid }).await?;
                failpoint::hit("lease.p3").map_err(|e| Failure::new("injected", e.to_string()))?;
                match done.outcome {
                    Outcome::Leases { changed } if changed.contains(&id) => Ok(()),
                    _ => Err(lease_failed(&id, "it ended before it became active")),
                }
            }
            Err(error) => {
                // Whatever happened at the target, the fence will find out; what must not be is a client that waits.
                let failure = engine_failure(&found.target, &error);
                let _ = self.propose(Command::LeaseFailed { term, lease: id }).await;
                Err(lease_failed(&id, &failure.message))
            }
        }
    }

    async fn create_at_target(self: &Arc<Self>, id: &LeaseId, found: &Lease, term: u64) -> Result<u32, EngineError> {
        let unavailable = |reason: String| EngineError::Unavailable { reason };
        let office = self.office(&found.target).await.map_err(|f| unavailable(f.message.to_owned()))?;
        let Some(binding) = found.binding.filter(|_| office.term == term) else { return Err(EngineError::StaleBinding) };
        let now = self.now().map_err(|f| unavailable(f.message.to_owned()))?;
        if found.expires_at <= now {
            return Err(unavailable("its time is over".to_owned()));
        }
        let create = Create {
            name: found.principal.clone(),
            verifier: found.verifier.clone(),
            groups: found.groups.clone(),
            connection_limit: i32::from(found.connection_limit),
            max_ttl_seconds: found.max_expires_at.saturating_sub(now).div_ceil(1_000).max(1),
            binding: engines::Binding { pid: binding.pid, backend_start_micros: binding.backend_start },
        };
        failpoint::hit("lease.p2.before").map_err(|e| unavailable(e.to_string()))?;
        self.act("lease.create", id, found).await.map_err(|f| unavailable(f.message.to_owned()))?;
        office.engine.create(&create).await.map(|created| created.oid)
    }

    /// Waits until a lease that another task or an earlier request brings alive is active.
    pub(crate) async fn wait_active(&self, id: &LeaseId) -> Result<(), Failure> {
        let deadline = Instant::now() + ISSUE;
        let mut status = self.raft.watch();
        loop {
            match self.read(|store, _| lease::lease(store, id))?.map(|l| l.state) {
                Some(State::Active) => return Ok(()),
                Some(State::Intent) => {}
                Some(State::Revoking | State::Revoked) => return Err(lease_failed(id, "it has ended")),
                None => return Err(lease_failed(id, "it is not known here")),
            }
            if tokio::time::timeout_at(deadline, status.changed()).await.is_err() {
                return Err(lease_failed(id, "the target has not made it in time"));
            }
        }
    }

    /// The leader's task: ends intents of earlier terms, expires what is due, and ends what is to end at every target.
    pub(crate) async fn drive_leases(self: Arc<Self>) {
        let mut rounds: BTreeMap<String, Round> = BTreeMap::new();
        let mut status = self.raft.watch();
        loop {
            let now = status.borrow_and_update().clone();
            if !now.is_leader {
                for (_, round) in std::mem::take(&mut rounds) {
                    round.task.abort();
                }
                self.leave_offices().await;
                if status.changed().await.is_err() {
                    return;
                }
                continue;
            }
            if let Err(error) = self.expire_due(now.term).await {
                tracing::debug!(error = error.message, "expiry waits");
            }
            self.begin_rounds(&mut rounds, now.term);
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// One task for each target that has work: a target that does not answer keeps nobody else waiting.
    fn begin_rounds(self: &Arc<Self>, rounds: &mut BTreeMap<String, Round>, term: u64) {
        rounds.retain(|_, round| round.term == term && !round.task.is_finished());
        let Ok(names) = self.read(|store, _| targets(store)) else { return };
        for (name, _) in names {
            let busy = self.read(|store, _| {
                let ending = !lease::work(store, &name, State::Revoking, 1)?.is_empty();
                let intents = lease::work(store, &name, State::Intent, ROUND)?;
                Ok(ending || intents.iter().any(|(id, _)| !self.creating.holds(id)))
            });
            if busy.unwrap_or(false) && !rounds.contains_key(&name) {
                let (core, target) = (Arc::clone(self), name.clone());
                let task = tokio::spawn(async move { core.work_at(&target, term).await });
                rounds.insert(name, Round { term, task });
            }
        }
    }

    /// Works at one target until nothing is left to do there. It never gives up; it only pauses longer.
    async fn work_at(self: Arc<Self>, target: &str, term: u64) {
        let mut pause = Duration::from_millis(200);
        loop {
            match self.work_once(target, term).await {
                Ok(false) => return,
                Ok(true) => pause = Duration::from_millis(200),
                Err(error) => {
                    tracing::warn!(target, error = error.message, "revocation goes on later");
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    if matches!(error.code, "target_unavailable") {
                        // Its connections may be dead: the next attempt makes new ones.
                        self.leave_offices().await;
                    }
                }
            }
            if self.raft.watch().borrow().term != term {
                return;
            }
        }
    }

    async fn work_once(self: &Arc<Self>, name: &str, term: u64) -> Result<bool, Failure> {
        let (intents, ending) = self.read(|store, _| {
            Ok((lease::work(store, name, State::Intent, ROUND)?, lease::work(store, name, State::Revoking, ROUND)?))
        })?;
        // An intent that this node is not bringing alive belongs to a leader that is gone: whoever asked has to ask again.
        let mut abandoned = 0;
        for (id, _) in intents.iter().filter(|(id, _)| !self.creating.holds(id)) {
            self.propose(Command::LeaseFailed { term, lease: *id }).await?;
            abandoned += 1;
        }
        let ending: Vec<_> = ending.into_iter().filter(|(id, _)| !self.creating.holds(id)).collect();
        if ending.is_empty() {
            return Ok(abandoned > 0);
        }
        let office = self.office(name).await?;
        self.end_leases(name, &office, ending).await?;
        Ok(true)
    }

    /// P7 to P11 for some leases of one target.
    async fn end_leases(self: &Arc<Self>, name: &str, office: &Office, ending: Vec<(LeaseId, Lease)>) -> Result<(), Failure> {
        let engine = &office.engine;
        let at_target = |e: EngineError| engine_failure(name, &e);
        let mut fenced: BTreeSet<LeaseId> = BTreeSet::new();
        let mut principals = Vec::with_capacity(ending.len());
        for (id, lease) in &ending {
            let mut oid = lease.oid;
            if !lease.was_active {
                // Its CREATE may still be on the way: the name is taken and the connection ended, or the CREATE has won.
                if let Some(binding) = lease.binding {
                    let binding = engines::Binding { pid: binding.pid, backend_start_micros: binding.backend_start };
                    if let Fenced::Won { oid: won } = engine.fence(&lease.principal, &binding).await.map_err(at_target)? {
                        oid = Some(won);
                    }
                    fenced.insert(*id);
                }
            }
            principals.push(Principal { name: lease.principal.clone(), oid });
        }
        for (id, lease) in &ending {
            self.act("lease.end", id, lease).await?;
        }
        injected("lease.p6")?;
        let refused = engine.refuse(&principals).await.map_err(at_target)?;
        injected("lease.p7")?;
        // By number: the recorded one, and the one that the name had when it was refused.
        let mut to_kill = principals.clone();
        let mut failed: BTreeMap<String, EngineError> = BTreeMap::new();
        for outcome in refused {
            if let Login::Failed(error) = outcome.outcome {
                failed.insert(outcome.name.clone(), error);
            }
            to_kill.push(Principal { name: outcome.name, oid: outcome.oid });
        }
        let killed = engine.kill(&to_kill).await.map_err(at_target)?;
        injected("lease.p8")?;
        let first = engine.look(&to_kill).await.map_err(at_target)?;
        sleep(BETWEEN_LOOKS).await;
        let second = engine.look(&to_kill).await.map_err(at_target)?;
        injected("lease.p9")?;
        let alive: BTreeSet<String> = first
            .into_iter()
            .chain(second)
            .filter(|seen| seen.can_login || seen.sessions > 0)
            .map(|seen| seen.name)
            .collect();
        let gone: Vec<&(LeaseId, Lease)> = ending
            .iter()
            .filter(|(_, l)| !alive.contains(&l.principal) && !failed.contains_key(&l.principal))
            .collect();
        if !gone.is_empty() {
            self.prove_gone(name, office, &gone, &fenced, killed).await?;
        }
        if let Some((_, error)) = failed.into_iter().next() {
            return Err(at_target(error));
        }
        if gone.len() < ending.len() {
            return Err(Failure::new("still_alive", "sessions or logins were still seen; they are ended again"));
        }
        Ok(())
    }

    /// P10 and P11.
    async fn prove_gone(
        self: &Arc<Self>,
        name: &str,
        office: &Office,
        gone: &[&(LeaseId, Lease)],
        fenced: &BTreeSet<LeaseId>,
        killed: usize,
    ) -> Result<(), Failure> {
        let endpoint = self.read(|store, _| target(store, name))?.map_or_else(String::new, |t| format!("{}:{}", t.host, t.port));
        let looked_at = self.clock()?;
        let proofs: Vec<RevocationProof> = gone
            .iter()
            .map(|(id, _)| RevocationProof {
                lease: *id,
                fenced: fenced.contains(id),
                looked_at,
                sessions_ended: u32::try_from(killed).unwrap_or(u32::MAX),
                endpoint: endpoint.clone(),
            })
            .collect();
        let done = self.propose(Command::LeaseRevoked { term: office.term, proofs }).await?;
        injected("lease.p10")?;
        if let Outcome::Refused(refusal) = done.outcome {
            return Err(Failure::from(refusal));
        }
        let principals: Vec<Principal> =
            gone.iter().map(|(_, l)| Principal { name: l.principal.clone(), oid: l.oid }).collect();
        match office.engine.clean(&principals).await {
            Ok(cleaned) => {
                for c in cleaned {
                    if let Cleaning::Left { databases, reason } = c.outcome {
                        tracing::warn!(principal = c.name, ?databases, reason, "objects of an ended lease are left");
                    }
                }
            }
            Err(error) => tracing::warn!(target = name, %error, "cleaning up goes on with the next lease"),
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

    /// Records an act of this node at a target before it is done: never refused for want of room.
    async fn act(&self, what: &'static str, id: &LeaseId, found: &Lease) -> Result<(), Failure> {
        let entry = self
            .internal_entry(what, found.intent_index)
            .resource(&format!("lease {id}"))
            .index(found.revoking_index.unwrap_or(found.intent_index))
            .detail("target", Detail::text(&found.target))
            .detail("login", Detail::text(&found.principal));
        self.record(entry, Class::Essential).await
    }
}

struct Round {
    term: u64,
    task: tokio::task::JoinHandle<()>,
}

fn injected(point: &str) -> Result<(), Failure> {
    failpoint::hit(point).map_err(|e| Failure::new("injected", e.to_string()))
}

fn lease_failed(id: &LeaseId, why: &str) -> Failure {
    Failure::new("lease_failed", format!("lease {id} did not become usable: {why}; ask for a new one"))
}
