//! The search of a target for principals of this cluster that no lease accounts for: after the target's own fail-over, or from
//! a backup of it, an ended one can be back.
//!
//! Nothing is dropped here that has no place in the log: whatever nobody accounts for is proposed to it, becomes a lease that
//! is ending, and is ended as any other. So a leader that is one no more can end nothing.

use crate::core::Core;
use crate::driver::clean;
use crate::executor::engine_failure;
use quorate_api::status::Failure;
use quorate_engines::{EngineError, Principal, Seen};
use quorate_state::command::Command;
use quorate_state::ids::LeaseId;
use quorate_state::lease::{self, State, principal_prefix};
use quorate_state::outcome::Outcome;
use quorate_state::store::{Store, StoreError};
use std::sync::Arc;

/// How many principals are looked at together.
const ROUND: usize = 256;

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
    fn of(store: &dyn Store, prefix: &str, principal: &Principal) -> Result<Self, StoreError> {
        let id = principal.name.strip_prefix(prefix).and_then(|id| id.parse::<LeaseId>().ok());
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
        // First the target, then the leases: whatever was listed has its intent in what is read afterwards.
        let listed = office.engine.list(&prefix).await.map_err(at_target)?;
        self.linearize().await?;
        for some in listed.chunks(ROUND) {
            let standing = |p: &Principal, store: &dyn Store| Standing::of(store, &prefix, p);
            let known = self.read(|store, _| some.iter().map(|p| standing(p, store)).collect::<Result<Vec<_>, _>>())?;
            let of = |wanted| some.iter().zip(&known).filter(move |(_, s)| **s == wanted).map(|(p, _)| p.clone());
            let unknown: Vec<Principal> = of(Standing::Unknown).collect();
            let ended: Vec<Principal> = of(Standing::Ended).collect();
            let seen =
                if ended.is_empty() { Vec::new() } else { office.engine.look(&ended).await.map_err(at_target)? };
            let (alive, left): (Vec<Seen>, Vec<Seen>) = seen.into_iter().partition(|s| s.can_login || s.sessions > 0);
            let alive = alive.into_iter().map(|s| Principal { name: s.name, oid: s.oid });
            for stray in alive.chain(unknown) {
                self.adopt(name, term, stray).await?;
            }
            // Their ends have a place in the log; this is what was left of them then.
            let left: Vec<Principal> = left.into_iter().map(|s| Principal { name: s.name, oid: s.oid }).collect();
            clean(name, &*office.engine, &left).await;
        }
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
