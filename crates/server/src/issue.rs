//! From an endorsed request for a lease to a credential that can be used.
//!
//! ```text
//! P1 Intent committed   P2 CREATE in the target   P3 Active committed
//! ```
//! Whatever stops here in between leaves an intent that nobody is bringing alive; the driver ends it.

use crate::core::Core;
use crate::executor::engine_failure;
use crate::failpoint;
use crate::submit::{Done, no_leader};
use quorate_api::issued;
use quorate_api::status::Failure;
use quorate_api::vault as wire;
use quorate_audit::{Class, Detail};
use quorate_engines::postgres::template::{self, Statement, Template, TemplateError};
use quorate_engines::{self as engines, Create, EngineError};
use quorate_state::command::{Binding, Command, Stamp};
use quorate_state::ids::LeaseId;
use quorate_state::lease::{self, Lease, State};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::target::{Role, role};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a client's request waits for its lease.
pub(crate) const ISSUE: Duration = Duration::from_secs(7);

/// Principals whose CREATE this node is about to send or has just sent: nobody else touches them meanwhile.
#[derive(Default)]
pub(crate) struct Creating(Arc<Mutex<BTreeSet<LeaseId>>>, AtomicBool);

/// What came of the wish to create one.
pub(crate) enum Begun {
    /// It is this task's, until the guard is dropped.
    Ours(CreatingGuard),
    /// Another task creates it.
    UnderWay,
    /// This node begins no more of them.
    Over,
}

impl Creating {
    /// From before the intent is proposed, so that no task takes it for an abandoned one.
    pub(crate) fn begin(&self, id: LeaseId) -> Begun {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Under the lock: whoever finishes either sees it among them, or has it see that this is over.
        if self.over() {
            return Begun::Over;
        }
        match all.insert(id) {
            true => Begun::Ours(CreatingGuard { all: Arc::clone(&self.0), id }),
            false => Begun::UnderWay,
        }
    }

    /// All of them.
    pub(crate) fn all(&self) -> BTreeSet<LeaseId> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn holds(&self, id: &LeaseId) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(id)
    }

    /// Whether this node, which is about to end, begins no more of them: they are its successor's.
    pub(crate) fn over(&self) -> bool {
        self.1.load(Ordering::Acquire)
    }

    /// Begins no more, and waits for those under way: one whose leader goes half-way is lost to its caller.
    pub(crate) async fn finish(&self) {
        self.1.store(true, Ordering::Release);
        while !self.0.lock().unwrap_or_else(PoisonError::into_inner).is_empty() {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

pub(crate) struct CreatingGuard {
    all: Arc<Mutex<BTreeSet<LeaseId>>>,
    id: LeaseId,
}

impl Drop for CreatingGuard {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.id);
    }
}

impl Core {
    /// P1 to P3 for one stamped request. Returns when the lease is active; an intent that cannot become active ends.
    pub(crate) async fn issue(self: &Arc<Self>, id: LeaseId, command: Command) -> Result<Done, Failure> {
        #[cfg(feature = "failpoints")]
        self.created_early(id, &command).await?;
        let guard = match self.creating.begin(id) {
            Begun::Ours(guard) => guard,
            Begun::UnderWay => {
                // Whichever is committed first is the intent.
                let done = self.propose(command).await?;
                return self.followed(done).await;
            }
            // Since it was stamped, which takes as long as its target does.
            Begun::Over => return Err(no_leader()),
        };
        // A detached task: a client that goes away does not leave an intent half done.
        let core = Arc::clone(self);
        let issued = tokio::spawn(async move {
            let _guard = guard;
            let done = core.propose(command).await?;
            if let Outcome::Intent { lease, .. } = done.outcome {
                injected("lease.p1")?;
                core.create(lease, done.term).await?;
            }
            Ok(done)
        });
        match tokio::time::timeout(ISSUE, issued).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Failure::new("internal", "the issue of the lease was cut off; it will be ended")),
            Err(_) => Err(Failure::new("target_unavailable", format!("lease {id}: the target has not answered yet"))),
        }
    }

    /// An outcome of a request for a lease, once the lease is active.
    pub(crate) async fn followed(&self, done: Done) -> Result<Done, Failure> {
        if let Outcome::Intent { lease, .. } = &done.outcome {
            self.wait_active(lease).await?;
        }
        Ok(done)
    }

    /// P4: that a login is handed out stands in the audit log of the node that answers, before the answer leaves it.
    pub(crate) async fn record_answer(&self, id: &LeaseId, shown: &wire::Lease) -> Result<(), Failure> {
        injected("lease.p4.before")?;
        let entry = self
            .internal_entry("lease.answer", shown.active_index)
            .principal(&shown.owner)
            .resource(&format!("lease {id}"))
            .index(shown.active_index)
            .detail("login", Detail::text(&shown.principal));
        self.record(entry, Class::Normal).await?;
        injected("lease.p4")
    }

    async fn create(self: &Arc<Self>, id: LeaseId, term: u64) -> Result<(), Failure> {
        let found = self.read(|store, _| lease::lease(store, &id))?;
        let Some(found) = found.filter(|l| l.state == State::Intent) else { return self.wait_active(&id).await };
        self.executors.note_made(&found.target);
        match self.create_at_target(&id, &found, term).await {
            Ok((oid, issued)) => {
                self.breakers.made(&found.role);
                injected("lease.p2")?;
                let done = self.propose(Command::LeaseActive { term, lease: id, oid, issued }).await?;
                injected("lease.p3")?;
                match done.outcome {
                    Outcome::Leases { changed } if changed.contains(&id) => Ok(()),
                    _ => Err(lease_failed(&id, "it ended before it became active")),
                }
            }
            Err(error) => {
                if let (EngineError::Refused { .. }, Some(role)) =
                    (&error, self.read(|store, _| role(store, &found.role))?)
                {
                    self.breakers.refused(&found.role, &role, &error.to_string(), Instant::now());
                }
                // Whatever happened at the target, the fence will find out; what must not be is a client that waits.
                let _ = self.propose(Command::LeaseFailed { term, lease: id }).await;
                Err(lease_failed(&id, &format!("target {}: {error}", found.target)))
            }
        }
    }

    /// P2. Returns the number of what was made, and what the target issued, sealed to who asked: nothing of it is kept in clear.
    pub(crate) async fn create_at_target(
        self: &Arc<Self>,
        id: &LeaseId,
        found: &Lease,
        term: u64,
    ) -> Result<(u32, Vec<u8>), EngineError> {
        let unavailable = |reason: String| EngineError::Unavailable { reason };
        let office = self.office(&found.target).await.map_err(|f| unavailable(f.message))?;
        let Some(binding) = found.binding.filter(|_| office.term == term) else {
            return Err(EngineError::StaleBinding);
        };
        let now = self.now().map_err(|f| unavailable(f.message))?;
        if found.expires_at <= now {
            return Err(unavailable("its time is over".to_owned()));
        }
        let create = Create {
            name: found.principal.clone(),
            verifier: found.verifier.clone(),
            groups: found.groups.clone(),
            connection_limit: i32::from(found.connection_limit),
            max_ttl_seconds: found.max_expires_at.saturating_sub(now).div_ceil(1_000).max(1),
            statements: statements(&found.statements, id).map_err(|_| EngineError::Invalid {
                field: "statements",
                reason: "of a form that this version does not know",
            })?,
            binding: engines::Binding { pid: binding.pid, backend_start_micros: binding.backend_start },
        };
        injected("lease.p2.before").map_err(|f| unavailable(f.message))?;
        self.record(self.act("lease.create", id, found), Class::Essential).await.map_err(|f| unavailable(f.message))?;
        let created = office.engine.create(&create).await?;
        let sealed = created.issued.map(|issued| issued::seal(&found.verifier, id, &issued, &mut self.env.rng()));
        // It exists, and nobody is told its secret: it is ended as every other.
        let sealed = sealed.transpose().map_err(|why| EngineError::Unknown { reason: why.to_string() })?;
        Ok((created.oid, sealed.unwrap_or_default()))
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
            if !matches!(tokio::time::timeout_at(deadline, status.changed()).await, Ok(Ok(()))) {
                return Err(Failure::new("target_unavailable", format!("lease {id}: the target has not answered yet")));
            }
        }
    }

    /// What the leader adds to a request for a lease: the connection that its CREATE will use.
    pub(crate) async fn stamp_issue(self: &Arc<Self>, role_name: &str) -> Result<Stamp, Failure> {
        let found = self.read(|store, _| role(store, role_name))?;
        let found = found.ok_or_else(|| Failure::from(Refusal::not_found("role")))?;
        self.read(|store, _| lease::open_to_leases(store, &found.target))?.map_err(Failure::from)?;
        self.breakers.admit(role_name, &found, Instant::now())?;
        let bound = async {
            let office = self.office(&found.target).await?;
            let binding = office.engine.bind().await.map_err(|e| engine_failure(&found.target, &e))?;
            Ok::<_, Failure>((office, binding))
        };
        let late = |_| Failure::new("target_unavailable", format!("target {}: no connection in time", found.target));
        let bound = tokio::time::timeout(ISSUE, bound).await.map_err(late)?;
        // The vault's own login, or what it connects to: no request can mend that either.
        if let Err(failure) = bound.as_ref()
            && failure.code == "target_refused"
        {
            self.breakers.refused(role_name, &found, &failure.message, Instant::now());
        }
        let (office, binding) = bound?;
        injected("lease.bound")?;
        Ok(Stamp {
            binding: Some(Binding { pid: binding.pid, backend_start: binding.backend_start_micros }),
            executor_term: office.term,
        })
    }
}

/// What else is said of a lease's login when it is made. Endorsers ask too, before they sign.
pub(crate) fn statements(text: &str, id: &LeaseId) -> Result<Vec<Statement>, Failure> {
    Ok(understood(text)?.map_or_else(Vec::new, |template| template.for_lease(&id.to_string())))
}

/// Every group of which a role's logins become members, by its statements too.
pub(crate) fn groups_of(role: &Role) -> Result<Vec<String>, Failure> {
    let by_statements = understood(&role.statements)?.map_or_else(Vec::new, |template| template.groups());
    Ok(role.groups.iter().cloned().chain(by_statements).collect())
}

fn understood(text: &str) -> Result<Option<Template>, Failure> {
    let bad = |why: TemplateError| Failure::from(Refusal::invalid("statements", why));
    if text.trim().is_empty() {
        return Ok(None);
    }
    template::parse(text).map(Some).map_err(bad)
}

pub(crate) fn injected(point: &str) -> Result<(), Failure> {
    failpoint::hit(point).map_err(|e| Failure::new("internal", e.to_string()))
}

fn lease_failed(id: &LeaseId, why: &str) -> Failure {
    Failure::new("lease_failed", format!("lease {id} is not usable: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_begins_no_more_waits_for_those_that_have_begun() {
        let (creating, id) = (Creating::default(), LeaseId([7; 16]));
        let Begun::Ours(guard) = creating.begin(id) else { panic!("nobody else has begun it") };
        assert!(matches!(creating.begin(id), Begun::UnderWay));
        let mut finish = Box::pin(creating.finish());
        assert!(tokio::time::timeout(Duration::from_millis(50), &mut finish).await.is_err(), "it is under way");
        // Whoever asked for leave before, and begins only now, is nobody that it could wait for.
        assert!(matches!(creating.begin(LeaseId([8; 16])), Begun::Over));
        drop(guard);
        finish.await;
        assert!(matches!(creating.begin(id), Begun::Over));
    }
}
