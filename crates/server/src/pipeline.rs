//! The security story on one page: authenticate, authorise, record, and only then contribute.
//!
//! Each arrow consumes the last type: bytes become a `Principal` only by a verified chain, a `Principal` becomes a
//! `Grant` only by Cedar on this node's own state, and a `Grant` becomes [`Recorded`] only when its audit record is on
//! disk. Whatever leaves the node (a partial, an endorsement, an answer) takes a `Recorded` grant as an argument: in the
//! wrong order it does not compile.

use crate::core::Core;
use crate::failpoint;
use crate::room::lessens;
use futures::future::try_join_all;
use quorate_api::status::Failure;
use quorate_audit::{AuditError, Class, Decision, Detail, Entry, Kind as RecordKind, RecordId};
use quorate_authz::{AuthenticationError, Denial, Facts, Grant, LeaseFacts, Mandate, Principal, authenticate};
use quorate_state::access::is_blocked;
use quorate_state::change::{Kind, Resource};
use quorate_state::genesis::client_roots;
use quorate_state::ids::{Millis, RequestId};
use quorate_state::lease::{State, lease};
use quorate_state::request::authority_version;
use quorate_state::secrets::{Secret, VersionState, secret};
use quorate_state::store::{Store, StoreError};
use quorate_state::target::role;
use std::future::Future;
use std::time::Duration;
use tokio::time::timeout;

/// How long a record may take to reach the disk.
const RECEIPT: Duration = Duration::from_secs(1);

/// What somebody wants, before anybody has decided.
pub(crate) struct Ask {
    pub(crate) request: RequestId,
    pub(crate) kind: Kind,
    pub(crate) resource: Resource,
    /// Of a secret: the versions that it would hide or erase; none for the newest.
    pub(crate) numbers: Vec<u64>,
    /// More facts for the record: the hash of a signed request, a version number, who passed the question on.
    pub(crate) details: Vec<(&'static str, Detail)>,
}

/// A grant, or the administrators' mandate, whose record is on disk. Made here and nowhere else.
pub(crate) struct Recorded {
    kind: Kind,
    /// The index of the state on which it was decided.
    index: u64,
    authority_version: u64,
}

impl Recorded {
    pub(crate) fn kind(&self) -> Kind {
        self.kind
    }

    pub(crate) fn index(&self) -> u64 {
        self.index
    }

    pub(crate) fn authority_version(&self) -> u64 {
        self.authority_version
    }
}

/// One decision, not yet recorded.
struct Decided {
    verdict: Result<Grant, Refused>,
    class: Class,
    index: u64,
    authority_version: u64,
}

impl Decided {
    /// Refused whatever else speaks for it. A refusal can wait for room.
    fn refused(self, why: Refused) -> Self {
        Self { verdict: Err(why), class: Class::Normal, ..self }
    }
}

enum Refused {
    Denied(Denial),
    Blocked,
    /// Authenticated on an earlier state, by a root that is none in this one.
    NotVouchedFor,
    NoAuthority,
}

/// What also goes by a member's own clock: setting cluster time back, and seeing that it has to be. In a time that is far ahead every
/// certificate has ended, and every policy with a date.
fn mends_time(kind: Kind) -> bool {
    matches!(kind, Kind::ResetClock | Kind::ReadStatus)
}

impl Core {
    /// Who a certificate chain belongs to, by this node's own roots and clock.
    pub(crate) fn authenticate(&self, chain: &[Vec<u8>]) -> Result<Principal, Failure> {
        self.authenticate_at(chain, self.clock()?)
    }

    /// The same for one operation. What mends time is also open to those whose certificates have ended in cluster time alone.
    pub(crate) fn authenticate_for(&self, kind: Kind, chain: &[Vec<u8>]) -> Result<Principal, Failure> {
        match self.authenticate(chain) {
            Err(first) if mends_time(kind) => self.authenticate_at(chain, self.env.clock.wall()).map_err(|_| first),
            decided => decided,
        }
    }

    fn authenticate_at(&self, chain: &[Vec<u8>], now: Millis) -> Result<Principal, Failure> {
        let roots = self.read(|store, _| client_roots(store))?;
        if let Some(principal) = self.caches.chains().principal(chain, &roots, now) {
            return Ok(principal);
        }
        let principal = authenticate(chain, &roots, now).map_err(|error| unauthenticated(&error))?;
        self.caches.chains().learn(chain, &roots, now, &principal);
        Ok(principal)
    }

    /// Decides on one request, and records it.
    pub(crate) async fn allow(&self, principal: &Principal, ask: Ask) -> Result<Recorded, Failure> {
        let (mut all, ()) = self.allow_each(principal, vec![ask], |_, _| Ok(())).await?;
        all.pop().unwrap_or_else(|| Err(Failure::new("internal", "a decision was lost; ask again")))
    }

    /// Decides on several at one index of this node's own state, and records them all before any is returned. What they
    /// are about is read by `found` at the same index: nothing comes between a decision and what it is a decision on.
    pub(crate) async fn allow_each<R>(
        &self,
        principal: &Principal,
        asks: Vec<Ask>,
        found: impl FnOnce(&dyn Store, u64) -> Result<R, StoreError>,
    ) -> Result<(Vec<Result<Recorded, Failure>>, R), Failure> {
        let cluster = self.now()?;
        let (decided, found) = self.read(|store, index| {
            // It was authenticated before this state was waited for: what has been applied since may be another client CA.
            let vouched_for = principal.is_vouched_for(&client_roots(store)?);
            let decided = asks.iter().map(|ask| {
                let now = if mends_time(ask.kind) { cluster.min(self.env.clock.wall()) } else { cluster };
                let decided = self.decide(store, index, now, principal, ask)?;
                Ok(if vouched_for { decided } else { decided.refused(Refused::NotVouchedFor) })
            });
            Ok((decided.collect::<Result<Vec<_>, _>>()?, found(store, index)?))
        })?;
        let entries = decided.iter().zip(&asks).map(|(d, ask)| (self.decision_record(principal, ask, d), d.class));
        self.record_all(entries.collect()).await?;
        let recorded = decided.into_iter().zip(asks).map(|(d, ask)| match d.verdict {
            Ok(grant) => Ok(Recorded { kind: grant.kind(), index: d.index, authority_version: d.authority_version }),
            Err(refused) => Err(refusal(&ask, principal, &refused)),
        });
        Ok((recorded.collect(), found))
    }

    /// Records what administrators decide by themselves: no client stands behind it, and no policy is asked.
    pub(crate) async fn mandated(&self, mandate: Mandate, ask: Ask) -> Result<Recorded, Failure> {
        let (index, authority_version) = self.read(|store, index| Ok((index, authority_version(store)?)))?;
        let entry = self.decision_entry(mandate.bearer(), &ask, index).decision(Decision::Allow, "administrators");
        // It may be what keeps thieves of a CA's key out: it must not wait for room.
        let class = if lessens(mandate.kind()) { Class::Essential } else { Class::Normal };
        self.record_all(vec![(entry, class)]).await?;
        Ok(Recorded { kind: mandate.kind(), index, authority_version })
    }

    /// Records decisions, and waits until all of them are on disk.
    async fn record_all(&self, entries: Vec<(Entry, Class)>) -> Result<(), Failure> {
        #[cfg(feature = "failpoints")]
        let entries = crate::planted::kept_back(entries);
        let receipts = entries.into_iter().map(|(entry, class)| self.audit.append(entry, class));
        on_disk(try_join_all(receipts)).await.map(drop)
    }

    fn decide(
        &self,
        store: &dyn Store,
        index: u64,
        now: u64,
        principal: &Principal,
        ask: &Ask,
    ) -> Result<Decided, StoreError> {
        let authority_version = authority_version(store)?;
        // A test makes a member that lies: it goes on allowing what it knows to be forbidden.
        if is_blocked(store, principal.id().as_str())? && failpoint::hit("pipeline.corrupt").is_ok() {
            let verdict = Err(Refused::Blocked);
            return Ok(Decided { verdict, class: Class::Normal, index, authority_version });
        }
        let lease = match &ask.resource {
            Resource::Lease(id) => lease(store, id)?,
            _ => None,
        };
        // What is there to be taken away, is so once: asking again and again does not empty the reserve.
        let there = match &ask.resource {
            Resource::Lease(_) => lease.as_ref().is_some_and(|l| matches!(l.state, State::Intent | State::Active)),
            Resource::Role(name) => role(store, name)?.is_some(),
            Resource::Secret { namespace, path } if lessens(ask.kind) => {
                secret(store, namespace, path)?.is_some_and(|s| takes_any(&s, ask.kind, &ask.numbers))
            }
            _ => true,
        };
        let lease = lease.map(|l| LeaseFacts { owner: l.owner, role: l.role, target: l.target });
        let facts = Facts { now, lease };
        let verdict = match self.authority(store)? {
            Ok(authority) => authority.authorize(principal, ask.kind, &ask.resource, &facts).map_err(Refused::Denied),
            Err(_) => Err(Refused::NoAuthority),
        };
        // A revocation must not wait for room; a refusal can.
        let class = if verdict.is_ok() && there && lessens(ask.kind) { Class::Essential } else { Class::Normal };
        Ok(Decided { verdict, class, index, authority_version })
    }

    fn decision_record(&self, principal: &Principal, ask: &Ask, decided: &Decided) -> Entry {
        let entry = self.decision_entry(principal.id().as_str(), ask, decided.index);
        match &decided.verdict {
            Ok(grant) => entry.decision(Decision::Allow, "policy").policies(grant.policies()),
            Err(Refused::Denied(denial)) => {
                let code = if denial.policies.is_empty() { "no_policy_allows" } else { "forbidden" };
                entry.decision(Decision::Deny, code).policies(&denial.policies)
            }
            Err(Refused::Blocked) => entry.decision(Decision::Deny, "identity_blocked"),
            Err(Refused::NotVouchedFor) => entry.decision(Decision::Deny, AuthenticationError::UnknownIssuer.code()),
            Err(Refused::NoAuthority) => entry.decision(Decision::Deny, "policies_unreadable"),
        }
    }

    fn decision_entry(&self, who: &str, ask: &Ask, index: u64) -> Entry {
        let entry =
            Entry::new(self.env.clock.wall(), RecordKind::Decision, RecordId::request(&ask.request.0), ask.kind.name())
                .principal(who)
                .resource(&ask.resource.to_string())
                .index(index);
        ask.details.iter().fold(entry, |entry, (key, value)| entry.detail(key, value.clone()))
    }

    /// Records what this node did or learned by itself, and waits until the record is on disk.
    pub(crate) async fn record(&self, entry: Entry, class: Class) -> Result<(), Failure> {
        on_disk(self.audit.append(entry, class)).await.map(drop)
    }

    /// An entry about an internal act of this node.
    pub(crate) fn internal_entry(&self, what: &'static str, number: u64) -> Entry {
        Entry::new(self.env.clock.wall(), RecordKind::Internal, RecordId::internal(what, number), what)
    }
}

/// Whether hiding or erasing these versions, or the newest, would change any.
fn takes_any(secret: &Secret, kind: Kind, numbers: &[u64]) -> bool {
    let newest = secret.newest().map_or(0, |v| v.number);
    secret.versions.iter().filter(|v| numbers.contains(&v.number) || (numbers.is_empty() && v.number == newest)).any(
        |v| match v.state {
            VersionState::Live => true,
            VersionState::Deleted => kind == Kind::DestroySecret,
            VersionState::Destroyed => false,
        },
    )
}

fn unauthenticated(error: &AuthenticationError) -> Failure {
    Failure::new(error.code(), error.to_string())
}

fn refusal(ask: &Ask, principal: &Principal, refused: &Refused) -> Failure {
    match refused {
        Refused::Blocked => Failure::new("identity_blocked", format!("{} is blocked", principal.id())),
        Refused::NotVouchedFor => unauthenticated(&AuthenticationError::UnknownIssuer),
        Refused::NoAuthority => Failure::new("denied", "this node cannot read its policies, so it allows nothing"),
        Refused::Denied(denial) => {
            let why = if denial.policies.is_empty() {
                "no policy allows it".to_owned()
            } else {
                format!("forbidden by {}", denial.policies.join(", "))
            };
            Failure::new(
                "denied",
                format!("{} may not {} on {}: {why}", principal.id(), ask.kind.action(), ask.resource),
            )
        }
    }
}

/// Waits for receipts, but not for ever: a disk that hangs is an audit log that cannot be written.
async fn on_disk<R>(receipts: impl Future<Output = Result<R, AuditError>>) -> Result<R, Failure> {
    let failure = |why: &dyn core::fmt::Display| {
        Failure::new("audit_unavailable", format!("this node cannot record the request ({why}), so it does nothing"))
    };
    match timeout(RECEIPT, receipts).await {
        Ok(done) => done.map_err(|error| failure(&error)),
        Err(_) => Err(failure(&"the disk does not answer")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_hanging_audit_disk_is_an_answer() {
        let never = on_disk(std::future::pending::<Result<(), AuditError>>()).await;
        assert_eq!(never.unwrap_err().code, "audit_unavailable");
        let full = on_disk(std::future::ready(Err::<(), _>(AuditError::Full))).await;
        assert_eq!(full.unwrap_err().code, "audit_unavailable");
        assert!(on_disk(std::future::ready(Ok(()))).await.is_ok());
    }
}
