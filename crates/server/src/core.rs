//! What every task of a node shares, and how it reads the state.

use crate::absence::Absences;
use crate::attest::Attestor;
use crate::breaker::Breakers;
use crate::certificates::OwnCertificate;
use crate::endorser::Endorser;
use crate::env::Env;
use crate::executor::Executors;
use crate::failpoint;
use crate::issue::Creating;
use crate::keystore::Keystore;
use crate::lane::Heads;
use crate::leftovers::Leftovers;
use crate::peers::Peers;
use crate::room::Room;
use crate::store::Applied;
use crate::trouble::Troubles;
use quorate_api::status::Failure;
use quorate_api::tls::Callers;
use quorate_audit::AuditLog;
use quorate_authz::{Authority, PolicyError, VerifiedChains};
use quorate_crypto::identity::Verified;
use quorate_crypto::threshold::KeyShare;
use quorate_raft::Raft;
use quorate_state::access::{Keyring, policies, policy_epoch};
use quorate_state::clock::{ClusterClock, End, Reading};
use quorate_state::genesis::Roster;
use quorate_state::ids::{ClusterId, MemberIndex, Millis, SessionId};
use quorate_state::outcome::Refusal;
use quorate_state::store::{Store, StoreError};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A node, as its tasks see it.
pub(crate) struct Core {
    pub(crate) env: Env,
    pub(crate) cluster: ClusterId,
    pub(crate) name: String,
    /// This member.
    pub(crate) me: MemberIndex,
    /// The roster of genesis; membership does not change in this version.
    pub(crate) roster: Roster,
    pub(crate) keys: Arc<Keystore>,
    pub(crate) raft: Raft,
    pub(crate) audit: AuditLog,
    pub(crate) room: Room,
    pub(crate) peers: Arc<Peers>,
    pub(crate) attestor: Arc<Attestor>,
    pub(crate) absences: Arc<Absences>,
    pub(crate) executors: Executors,
    /// How many leases are ended together at most.
    pub(crate) together: usize,
    /// What is to be cleaned up after.
    pub(crate) leftovers: Leftovers,
    /// What people are told who ask why something has not ended.
    pub(crate) troubles: Troubles,
    pub(crate) creating: Creating,
    /// What proofs of targets make: no lease's, and no end of this node waits for them, since its successor proves anew.
    pub(crate) proving: Creating,
    pub(crate) heads: Heads,
    pub(crate) breakers: Breakers,
    pub(crate) caches: Caches,
    /// The signatures that this member has met: those of what it decides on, of what others decided, and of what is in the log.
    pub(crate) verified: Arc<Verified>,
    pub(crate) endorser: Endorser,
    pub(crate) certificate: OwnCertificate,
    /// Whom the client port admits.
    pub(crate) callers: Arc<Callers>,
}

/// What is computed from the state and kept until the state says otherwise.
#[derive(Default)]
pub(crate) struct Caches {
    authority: Mutex<Option<(u64, Compiled)>>,
    shares: Mutex<BTreeMap<SessionId, Arc<KeyShare>>>,
    observed: Mutex<Option<Observed>>,
    chains: Mutex<VerifiedChains>,
}

impl Caches {
    /// The chains of callers that were verified.
    pub(crate) fn chains(&self) -> MutexGuard<'_, VerifiedChains> {
        // Whole after every statement.
        self.chains.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The policies of one epoch, or why there is no authority in it.
type Compiled = Result<Arc<Authority>, Arc<PolicyError>>;

/// Cluster time as it was when this member first saw it, by its own clock.
#[derive(Clone, Copy)]
struct Observed {
    now: Millis,
    at: u64,
}

impl Core {
    /// Reads the applied state at one index.
    pub(crate) fn read<R>(&self, f: impl FnOnce(&dyn Store, u64) -> Result<R, StoreError>) -> Result<R, Failure> {
        self.raft.read(|view, applied| f(&Applied(view), applied)).map_err(|error| {
            tracing::error!(%error, "the state cannot be read");
            Failure::new("storage_failed", "this node cannot read its own store")
        })
    }

    /// How many members it takes.
    pub(crate) fn threshold(&self) -> usize {
        usize::from(self.roster.threshold)
    }

    /// The policies of a state, compiled; once for each change. Policies that do not compile allow nothing to anybody.
    pub(crate) fn authority(&self, store: &dyn Store) -> Result<Compiled, StoreError> {
        let epoch = policy_epoch(store)?;
        let mut cached = self.caches.authority.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((of, authority)) = cached.as_ref()
            && *of == epoch
        {
            return Ok(authority.clone());
        }
        #[cfg(feature = "failpoints")]
        if let Some((_, authority)) = cached.as_ref().filter(|_| crate::planted::by_old_rules()) {
            return Ok(authority.clone());
        }
        let texts: Vec<(String, String)> = policies(store)?.into_iter().map(|(name, p)| (name, p.text)).collect();
        let authority = Authority::compile(&texts).map(Arc::new).map_err(|error| {
            tracing::error!(%error, "the policies of the state do not compile: everything is denied");
            Arc::new(error)
        });
        *cached = Some((epoch, authority.clone()));
        Ok(authority)
    }

    /// This member's share of a keyring.
    pub(crate) fn share(&self, ring: &Keyring) -> Result<Arc<KeyShare>, Failure> {
        let mut shares = self.caches.shares.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(share) = shares.get(&ring.session) {
            return Ok(Arc::clone(share));
        }
        let none = |why: String| {
            tracing::error!(session = %ring.session, why, "no usable share");
            Failure::new("no_share", "this node holds no share of the keyring's present epoch")
        };
        let share = self.keys.share(&ring.session).map_err(|e| none(e.to_string()))?;
        let share = share.ok_or_else(|| none("there is none".to_owned()))?;
        // A share that is not the one the certificate names would give wrong partials.
        let named = ring.public_shares.iter().find(|(i, _)| *i == self.me).map(|(_, y)| *y);
        if share.index() != self.me || named != Some(share.public_share()) {
            return Err(none("it is not the one that the certificate names".to_owned()));
        }
        let share = Arc::new(share);
        shares.insert(ring.session, Arc::clone(&share));
        Ok(share)
    }

    /// Cluster time as this member reckons it: the state's, and its own clock since it saw that.
    pub(crate) fn now(&self) -> Result<Millis, Failure> {
        let now = self.read(|store, _| Ok(ClusterClock::load(store)?.now))?;
        Ok(now.saturating_add(self.since_observed(now)))
    }

    fn since_observed(&self, now: Millis) -> Millis {
        let boot = self.env.clock.boot();
        let mut observed = self.caches.observed.lock().unwrap_or_else(PoisonError::into_inner);
        match *observed {
            Some(o) if o.now == now => boot.saturating_sub(o.at),
            _ => {
                *observed = Some(Observed { now, at: boot });
                0
            }
        }
    }

    /// What this member's clock says: the larger of the wall clock and the reckoned cluster time.
    pub(crate) fn clock(&self) -> Result<Millis, Failure> {
        Ok(self.now()?.max(self.env.clock.wall()))
    }

    /// Refuses what is over, in cluster time for more than `grace`, or by this member's own clock for longer than clocks differ.
    pub(crate) fn check_end(&self, not_after: Millis, grace: Millis) -> Result<(), Failure> {
        let now = self.now()?;
        match End::of(not_after, now, grace, self.env.clock.wall()) {
            End::ToCome => Ok(()),
            End::Past => Err(Failure::from(Refusal::TooLate { not_after, now })),
            End::PastHere => Err(Failure::new(
                "clock_ahead",
                "by this member's own clock the request ended more than 30 s ago; in cluster time it has not",
            )),
        }
    }

    /// What this member says its clock is, where it signs it: in readings and endorsements.
    pub(crate) fn said_clock(&self) -> Result<Millis, Failure> {
        let clock = self.clock()?;
        // A test makes a member that lies, now this way and now that way.
        if failpoint::hit("clock.lie").is_err() {
            return Ok(if clock.is_multiple_of(2) { 0 } else { Millis::MAX });
        }
        Ok(clock)
    }

    /// A signed reading that follows the tick `follows`.
    pub(crate) fn reading(&self, follows: u64) -> Result<Reading, Failure> {
        let clock = self.said_clock()?;
        Ok(Reading::sign(&self.cluster, self.roster.number, self.me, follows, clock, self.keys.identity()))
    }

    /// Waits until this member has applied `index`.
    pub(crate) async fn wait_applied(&self, index: u64, timeout: Duration) -> Result<(), Failure> {
        match self.raft.wait_applied(index, timeout).await {
            Ok(_) => Ok(()),
            Err(behind) => Err(behind_failure(behind.applied)),
        }
    }
}

/// The node has not applied what it must have.
pub(crate) fn behind_failure(applied: u64) -> Failure {
    Failure::new("behind", format!("this node has applied index {applied} and is catching up"))
}
