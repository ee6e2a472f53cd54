//! The search of a target for principals of this cluster that no lease accounts for: after the target's own fail-over, or from
//! a backup of it, an ended one can be back.
//!
//! Nothing is dropped here that has no place in the log: whatever nobody accounts for is proposed to it, becomes a lease that
//! is ending, and is ended as any other. So a leader that is one no more can end nothing.

use crate::core::Core;
use crate::executor::{Office, engine_failure};
use quorate_api::status::Failure;
use quorate_engines::{EngineError, Ghost, Principal, Seen};
use quorate_state::command::Command;
use quorate_state::ids::ClusterId;
use quorate_state::lease::{self, Place, Queue, State, principal_prefix};
use quorate_state::outcome::Outcome;
use quorate_state::store::{Store, StoreError};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// How many principals are looked at together.
const ROUND: usize = 256;
/// Between the two looks for sessions without an account.
const GHOSTS_AGAIN: Duration = Duration::from_secs(2);

/// What the log says of a principal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Standing {
    /// A lease that is not revoked is its own.
    Accounted,
    /// Its lease is revoked: at most what it left behind may be there.
    Ended,
    /// Nothing.
    Unknown,
}

impl Standing {
    fn of(store: &dyn Store, cluster: &ClusterId, target: &str, principal: &Principal) -> Result<Self, StoreError> {
        let id = lease::lease_of(cluster, target, &principal.name);
        let found = id.map(|id| lease::lease(store, &id)).transpose()?.flatten();
        Ok(match found.filter(|lease| lease.principal == principal.name).map(|lease| lease.state) {
            None => Self::Unknown,
            Some(State::Revoked) => Self::Ended,
            Some(State::Intent | State::Active | State::Revoking) => Self::Accounted,
        })
    }
}

impl Core {
    /// Searches a target once.
    pub(crate) async fn reconcile(self: &Arc<Self>, name: &str, term: u64) -> Result<(), Failure> {
        let office = self.office(name).await?;
        let at_target = |e: EngineError| engine_failure(name, &e);
        let prefix = principal_prefix(&self.cluster, name);
        // A copy of this cluster may have come since the office was taken.
        self.stake(name, &office).await?;
        self.count_on(name, &office).await?;
        #[cfg(feature = "failpoints")]
        let stale = self.stale().await;
        let (left_before, begun) = self.read(|store, applied| Ok((lease::remains(store, name)?, applied)))?;
        // First the target, then the leases: whatever was listed has its intent in what is read afterwards.
        let listed = office.engine.list(&prefix).await.map_err(at_target)?;
        // What this node makes just now, to prove the target.
        let proving = self.proving.all();
        self.linearize().await?;
        let (mut trouble, mut all_left) = (None, BTreeSet::new());
        for some in listed.chunks(ROUND) {
            // There may be a million, and others have something to do too.
            tokio::task::yield_now().await;
            let id = |p: &Principal| lease::lease_of(&self.cluster, name, &p.name);
            let is_lease = |p: &&Principal| id(p).is_none_or(|id| !proving.contains(&id));
            let some: Vec<Principal> = some.iter().filter(is_lease).cloned().collect();
            let standing = |p: &Principal, store: &dyn Store| Standing::of(store, &self.cluster, name, p);
            let known = self.read(|store, _| some.iter().map(|p| standing(p, store)).collect::<Result<Vec<_>, _>>())?;
            let of = |wanted| some.iter().zip(&known).filter(move |(_, s)| **s == wanted).map(|(p, _)| p.clone());
            let unknown: Vec<Principal> = of(Standing::Unknown).collect();
            let ended: Vec<Principal> = of(Standing::Ended).collect();
            let seen = if ended.is_empty() { Ok(Vec::new()) } else { office.engine.look(&ended).await };
            let (seen, fault) = seen.map_or_else(|error| (Vec::new(), Some(error)), |seen| (seen, None));
            let (alive, left): (Vec<Seen>, Vec<Seen>) =
                seen.into_iter().partition(|s| !s.login_at.is_empty() || s.sessions > 0);
            let alive = alive.into_iter().map(|s| Principal { name: s.name, oid: s.oid });
            #[cfg(feature = "failpoints")]
            let unknown = crate::planted::strays(stale.as_ref(), &some, unknown);
            for stray in alive.chain(unknown) {
                #[cfg(feature = "failpoints")]
                if self.dropped_at_once(&*office.engine, &stray).await {
                    continue;
                }
                self.adopt(name, term, stray).await?;
            }
            // Their ends have a place in the log; this is what was left of them then.
            let left: Vec<Principal> = left.into_iter().map(|s| Principal { name: s.name, oid: s.oid }).collect();
            all_left.extend(left.iter().map(|p| p.name.clone()));
            self.leftovers.add(name, left);
            match fault {
                Some(error @ EngineError::Unavailable { .. }) => return Err(at_target(error)),
                // What it says of some, it need not say of the next.
                Some(error) => trouble = trouble.or(Some(at_target(error))),
                None => {}
            }
        }
        if trouble.is_none() {
            self.troubles.left_by(name, &all_left);
            if left_before.is_some() && all_left.is_empty() {
                let cleared = Command::Cleared { term, target: name.to_owned(), upto: begun };
                if let Err(error) = self.say(cleared).await {
                    tracing::debug!(target = name, error = error.message, "more may have been left meanwhile");
                }
            }
        }
        self.look_for_ghosts(name, &office).await?;
        trouble.map_or(Ok(()), Err)
    }

    /// Sessions whose account is gone, and which no end under way explains: seen twice, they are an alarm. They are nobody's that
    /// this cluster knows of, so a person has to look.
    async fn look_for_ghosts(self: &Arc<Self>, name: &str, office: &Office) -> Result<(), Failure> {
        let at_target = |e: EngineError| engine_failure(name, &e);
        let (first, unseen) = office.engine.ghosts().await.map_err(at_target)?;
        for fault in unseen {
            tracing::warn!(target = name, %fault, "sessions whose account is gone are not seen there");
        }
        let first: BTreeSet<Ghost> = first.into_iter().collect();
        if first.is_empty() {
            self.troubles.ghosts(name, Vec::new());
            return Ok(());
        }
        let mut explained = BTreeSet::new();
        for queue in [Queue::Due, Queue::Asked] {
            let mut after = None;
            loop {
                let page = self.read(|store, _| lease::work(store, name, queue, after, 1_000))?;
                let Some((last, found)) = page.last() else { break };
                after = Some(Place::of(*last, found));
                explained.extend(page.iter().filter_map(|(_, found)| found.oid));
            }
        }
        sleep(GHOSTS_AGAIN).await;
        let mut found = Vec::new();
        for ghost in office.engine.ghosts().await.map_err(at_target)?.0 {
            if first.contains(&ghost) && !explained.contains(&ghost.oid) {
                let Ghost { endpoint, pid, oid } = ghost;
                found.push(format!("process {pid} at {endpoint}, whose account had number {oid}"));
                tracing::error!(
                    target = name,
                    endpoint,
                    pid,
                    oid,
                    "a session has no account, and no lease explains it: a person has to look"
                );
            }
        }
        self.troubles.ghosts(name, found);
        Ok(())
    }

    async fn adopt(self: &Arc<Self>, name: &str, term: u64, stray: Principal) -> Result<(), Failure> {
        let Principal { name: principal, oid: Some(oid) } = stray else { return Ok(()) };
        tracing::error!(
            target = name,
            principal,
            "a principal that no lease accounts for is at the target: it is ended"
        );
        let adopt = Command::Adopt { term, target: name.to_owned(), principal, oid };
        if let Outcome::Refused(refusal) = self.propose(adopt).await?.outcome {
            tracing::warn!(target = name, %refusal, "a stray principal was not adopted");
        }
        Ok(())
    }
}
