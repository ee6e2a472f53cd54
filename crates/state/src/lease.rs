//! Leases: the one home of their transitions.
//!
//! ```text
//! Intent -> Active -> Revoking -> Revoked
//! Intent -> Revoking            Revoked -> Revoking by Adopt only
//! ```
//! *Revoked* means: the target refuses the login, no session of it is alive there, and every node refuses it. Whoever
//! cannot show all of that leaves the lease in Revoking, visible with its age, for ever if need be.

mod ending;
mod index;
mod quota;
mod remains;
mod username;
mod verifier;

pub use ending::{Selector, Sweep, sweeps, swept};
pub(crate) use ending::{end_all, revoke_all, sweep};
pub use index::{Kind, Place, Queue, REMEMBERED, count, leases, next_due, tally, unrevoked, work};
pub(crate) use index::{counted, due_from, forget, forget_due, gone_from, gone_row, rows};
pub use quota::{Subject, quotas};
pub(crate) use quota::{forget as forget_quota, set as set_quota};
pub use remains::remains;
pub(crate) use remains::{cleared, forget as forget_remains, remain};
pub use username::{BadUsername, Facts, MAX_LABEL, MAX_TEMPLATE, Username, lease_of};
pub use verifier::Form;

use self::index::{due_begins, due_rows, end_at, has_lease, id_at, lease_key, save};
use crate::clock::ClusterClock;
use crate::command::{Binding, RevocationProof, Stamp};
use crate::ids::{ClusterId, LeaseId, MemberIndex, Millis, RequestId};
use crate::outcome::{Outcome, Refusal};
use crate::store::{Store, StoreError, Table, Tx, Value, read};
use crate::target::{Role, Standing, executor, quarantine, remove_when_over, role, target, targets};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use quorate_crypto::encoding::hash32;
use std::collections::BTreeSet;

/// How many leases one command moves at most.
pub const MAX_PER_COMMAND: usize = 1_000;

/// How many bytes the sealed secret of one lease has at most.
pub const MAX_ISSUED: usize = 16 * 1024;

/// Where a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum State {
    /// In the log; the credential may or may not exist at the target.
    Intent,
    /// The credential exists, and may be used.
    Active,
    /// No node honours it; the executor is ending it at the target.
    Revoking,
    /// Seen to be gone.
    Revoked,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intent => "intent",
            Self::Active => "active",
            Self::Revoking => "revoking",
            Self::Revoked => "revoked",
        })
    }
}

/// Why a lease ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Why {
    /// Its time was over.
    Expired,
    /// Somebody asked for it.
    Requested,
    /// Its role was deleted.
    RoleDeleted,
    /// Its owner was blocked.
    IdentityBlocked,
    /// Found at the target without a lease that accounts for it.
    Adopted,
    /// The target refused to make the credential, or its answer was lost.
    Failed,
    /// Its target was deleted.
    TargetDeleted,
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "expired",
            Self::Requested => "requested",
            Self::RoleDeleted => "role deleted",
            Self::IdentityBlocked => "identity blocked",
            Self::Adopted => "adopted",
            Self::Failed => "failed",
            Self::TargetDeleted => "target deleted",
        })
    }
}

/// A lease. What its revocation needs is copied into it: nothing that is deleted later can be missing then.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Lease {
    /// The role it was issued under.
    pub role: String,
    /// The namespace of the role when it was issued; empty for none.
    pub namespace: String,
    /// The target where its credential lives.
    pub target: String,
    /// Its login there.
    pub principal: String,
    /// Who asked for it.
    pub owner: String,
    /// What the target stores instead of the password, or to whom what it issues is sealed.
    pub verifier: String,
    /// What the target issued, sealed to who asked; nothing at targets that issue nothing, and nothing once the lease is to end.
    pub issued: Vec<u8>,
    /// The groups of the role when it was issued.
    pub groups: Vec<String>,
    /// The connection limit of the role when it was issued.
    pub connection_limit: u16,
    /// The further statements of the role when it was issued.
    pub statements: String,
    /// Where it stands.
    pub state: State,
    /// When it ends.
    pub expires_at: Millis,
    /// When it ends with every renewal; the target knows this one.
    pub max_expires_at: Millis,
    /// The connection that its CREATE uses.
    pub binding: Option<Binding>,
    /// Its oid at the target, once known.
    pub oid: Option<u32>,
    /// Whether it ever was active.
    pub was_active: bool,
    /// Why it ended.
    pub why: Option<Why>,
    /// Cluster time when it began to end.
    pub ended_at: Option<Millis>,
    /// Log index of the intent.
    pub intent_index: u64,
    /// Log index at which it became active.
    pub active_index: Option<u64>,
    /// Log index from which no node honours it.
    pub revoking_index: Option<u64>,
    /// Log index at which its end was proved.
    pub revoked_index: Option<u64>,
    /// The proof.
    pub proof: Option<RevocationProof>,
    /// Who proved it: the member in office, and its term.
    pub proved_by: Option<(MemberIndex, u64)>,
    /// The digest of who signed the request for it, and its id: one request has one lease. None for an adopted one.
    pub origin: Option<[u8; 16]>,
}

impl Value for Lease {}

/// Without the verifier, which is worth guarding though it opens nothing.
impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({} on {}, {}, ends {})", self.principal, self.target, self.state, self.expires_at)
    }
}

/// What stands before the names of all principals of a cluster at one target.
///
/// `q`, 8 hexadecimal digits of a hash over cluster and target, `_`. Another cluster has another id, and so owns no principal of
/// this one; a copy of this one has the same, and is told by its claims ([`crate::target::claim`]).
#[must_use]
pub fn principal_prefix(cluster: &ClusterId, target: &str) -> String {
    let hash = hash32("principal-prefix", &[&cluster.0, target.as_bytes()]);
    let mut out = String::from("q");
    out.push_str(&crate::ids::hex(hash.get(..4).unwrap_or_default()));
    out.push('_');
    out
}

/// The login of a lease: the prefix and the lease's id; 42 bytes, so that PostgreSQL (63) does not cut it. Where the role has a template
/// of usernames, [`Username::label`] follows after `_`.
#[must_use]
pub fn principal(cluster: &ClusterId, target: &str, lease: &LeaseId) -> String {
    format!("{}{lease}", principal_prefix(cluster, target))
}

/// The lease of an id.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn lease(store: &dyn Store, id: &LeaseId) -> Result<Option<Lease>, StoreError> {
    read(store, &lease_key(id))
}

/// Everything that an intent is made of.
pub(crate) struct Asked<'a> {
    pub(crate) cluster: &'a ClusterId,
    pub(crate) index: u64,
    pub(crate) term: u64,
    pub(crate) stamp: &'a Stamp,
    pub(crate) signer: &'a [u8; 32],
    pub(crate) request: &'a RequestId,
    pub(crate) not_after: Millis,
    pub(crate) owner: &'a str,
    pub(crate) role: &'a str,
    pub(crate) verifier: &'a str,
    pub(crate) ttl: Option<Millis>,
}

/// Whether a role's lease may have this verifier. Endorsers ask too, before they sign.
///
/// # Errors
/// [`Refusal::Invalid`]
pub fn admits(role: &Role, verifier: &str) -> Result<(), Refusal> {
    role.form.check(verifier).map_err(|why| Refusal::invalid("verifier", why))
}

/// P1: the intent.
pub(crate) fn issue(tx: &mut Tx<'_>, asked: &Asked<'_>) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    let Some(role) = role(tx, asked.role)? else { return refuse(Refusal::not_found("role")) };
    let Role { target, namespace, groups, default_ttl, max_ttl, connection_limit, statements, username, .. } =
        role.clone();
    if let Err(refusal) = open_to_leases(tx, &target)? {
        return refuse(refusal);
    }
    if let Err(refusal) = admits(&role, asked.verifier) {
        return refuse(refusal);
    }
    let ttl = asked.ttl.unwrap_or(default_ttl);
    if ttl < 1_000 || ttl > max_ttl {
        return refuse(Refusal::invalid("ttl", format_args!("must be 1 s to {} s", max_ttl / 1_000)));
    }
    if let Err(refusal) = quota::check(tx, asked.role, &role, asked.owner)? {
        return refuse(refusal);
    }
    // The connection stands in the log before the CREATE is sent on it, and its owner is in office in this very term.
    let in_office = executor(tx, &target)?.is_some_and(|e| e.term == asked.term && e.term == asked.stamp.executor_term);
    let Some(binding) = asked.stamp.binding.filter(|_| in_office) else { return refuse(Refusal::Unjustified) };
    let id = LeaseId::of(asked.cluster, asked.signer, asked.request, asked.not_after);
    let origin = LeaseId::origin(asked.cluster, asked.signer, asked.request);
    if has_lease(tx, &origin)? || lease(tx, &id)?.is_some() {
        return refuse(Refusal::RequestIdReused);
    }
    let facts = Facts { role: asked.role, owner: asked.owner, namespace: &namespace };
    // A role's template was read when it was put there.
    let label = Username::parse(&username).map(|template| template.label(&facts)).unwrap_or_default();
    let now = ClusterClock::load(tx)?.now;
    let lease = Lease {
        role: asked.role.to_owned(),
        principal: username::labelled(&principal(asked.cluster, &target, &id), &label),
        target,
        namespace,
        owner: asked.owner.to_owned(),
        verifier: asked.verifier.to_owned(),
        issued: Vec::new(),
        groups,
        connection_limit,
        statements,
        state: State::Intent,
        expires_at: now.saturating_add(ttl),
        max_expires_at: now.saturating_add(max_ttl),
        binding: Some(binding),
        oid: None,
        was_active: false,
        why: None,
        ended_at: None,
        intent_index: asked.index,
        active_index: None,
        revoking_index: None,
        revoked_index: None,
        proof: None,
        proved_by: None,
        origin: Some(origin),
    };
    save(tx, &id, None, &lease)?;
    Ok(Outcome::Intent { lease: id, principal: lease.principal, expires_at: lease.expires_at })
}

/// Whether leases are issued at a target.
///
/// # Errors
/// [`StoreError`] when the store cannot answer; inside, why they are not.
pub fn open_to_leases(store: &dyn Store, label: &str) -> Result<Result<(), Refusal>, StoreError> {
    if let Some(found) = quarantine(store, label)? {
        return Ok(Err(Refusal::Quarantined { counter: found.counter }));
    }
    Ok(match target(store, label)?.map(|t| t.standing) {
        Some(Standing::Enabled) => Ok(()),
        Some(standing) => Err(Refusal::TargetStanding { standing: standing.to_string() }),
        None => Err(Refusal::not_found("target")),
    })
}

/// P3: the credential exists. For a lease that ended meanwhile only the oid is noted, so that it is killed by oid.
pub(crate) fn activate(
    tx: &mut Tx<'_>,
    index: u64,
    term: u64,
    id: &LeaseId,
    (oid, issued): (u32, &[u8]),
) -> Result<Outcome, StoreError> {
    if issued.len() > MAX_ISSUED {
        return Ok(Outcome::Refused(Refusal::invalid("issued", "must have at most 16 KiB")));
    }
    let Some(before) = lease(tx, id)? else { return Ok(Outcome::Refused(Refusal::not_found("lease"))) };
    if !in_office(tx, &before.target, term)? {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    let mut after = before.clone();
    match before.state {
        // It ended with many others, and its own row is not reached yet.
        State::Intent if swept(tx, &before)?.is_some() => {
            after.state = State::Revoking;
            after.why = swept(tx, &before)?;
            after.ended_at = Some(ClusterClock::load(tx)?.now);
            after.revoking_index = Some(index);
            after.oid = Some(oid);
            save(tx, id, Some(&before), &after)?;
            return Ok(Outcome::Leases { changed: Vec::new() });
        }
        State::Intent => {
            after.state = State::Active;
            after.was_active = true;
            after.active_index = Some(index);
            after.oid = Some(oid);
            after.issued = issued.to_vec();
        }
        State::Revoking if before.oid.is_none() => after.oid = Some(oid),
        State::Active | State::Revoking | State::Revoked => {
            return Ok(Outcome::Refused(Refusal::LeaseState { state: before.state.to_string() }));
        }
    }
    save(tx, id, Some(&before), &after)?;
    let changed = if after.state == before.state { Vec::new() } else { vec![*id] };
    Ok(Outcome::Leases { changed })
}

/// Moves the end of an active lease; the target is not touched, it knows the longest end only.
pub(crate) fn renew(tx: &mut Tx<'_>, id: &LeaseId, ttl: Millis) -> Result<Outcome, StoreError> {
    let Some(before) = lease(tx, id)? else { return Ok(Outcome::Refused(Refusal::not_found("lease"))) };
    let now = ClusterClock::load(tx)?.now;
    if before.state != State::Active || before.expires_at <= now {
        let state = if before.state == State::Active { "expired".to_owned() } else { before.state.to_string() };
        return Ok(Outcome::Refused(Refusal::LeaseState { state }));
    }
    if swept(tx, &before)?.is_some() {
        return Ok(Outcome::Refused(Refusal::LeaseState { state: State::Revoking.to_string() }));
    }
    if ttl < 1_000 {
        return Ok(Outcome::Refused(Refusal::invalid("ttl", "must be at least 1 s")));
    }
    if let Some(found) = quarantine(tx, &before.target)? {
        return Ok(Outcome::Refused(Refusal::Quarantined { counter: found.counter }));
    }
    let mut after = before.clone();
    after.expires_at = now.saturating_add(ttl).min(before.max_expires_at);
    save(tx, id, Some(&before), &after)?;
    Ok(Outcome::Renewed { lease: *id, expires_at: after.expires_at })
}

/// P6: from this index on no node honours the lease.
fn end(tx: &mut Tx<'_>, index: u64, id: &LeaseId, before: &Lease, why: Why, now: Millis) -> Result<(), StoreError> {
    let mut after = before.clone();
    after.state = State::Revoking;
    after.why = Some(why);
    after.ended_at = Some(now);
    after.revoking_index = Some(index);
    after.issued = Vec::new();
    save(tx, id, Some(before), &after)
}

/// Ends one lease because somebody asked. Asked again, it says that it is ending already.
pub(crate) fn revoke(tx: &mut Tx<'_>, index: u64, id: &LeaseId) -> Result<Outcome, StoreError> {
    let Some(before) = lease(tx, id)? else { return Ok(Outcome::Refused(Refusal::not_found("lease"))) };
    let now = ClusterClock::load(tx)?.now;
    match before.state {
        State::Intent | State::Active => {
            end(tx, index, id, &before, Why::Requested, now)?;
            Ok(Outcome::Leases { changed: vec![*id] })
        }
        State::Revoking | State::Revoked => Ok(Outcome::Leases { changed: Vec::new() }),
    }
}

/// Ends an intent that will not become active: its principal may exist all the same, so it is fenced and looked for.
pub(crate) fn fail(tx: &mut Tx<'_>, index: u64, term: u64, id: &LeaseId) -> Result<Outcome, StoreError> {
    let Some(before) = lease(tx, id)? else { return Ok(Outcome::Refused(Refusal::not_found("lease"))) };
    if !in_office(tx, &before.target, term)? || before.state != State::Intent {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    let now = ClusterClock::load(tx)?.now;
    end(tx, index, id, &before, Why::Failed, now)?;
    Ok(Outcome::Leases { changed: vec![*id] })
}

/// Ends what is due at `upto`, which cluster time must have reached: of each target a share of what one command moves, so that what
/// is due at one waits for no thousands at another.
pub(crate) fn expire(tx: &mut Tx<'_>, index: u64, upto: Millis) -> Result<Outcome, StoreError> {
    let clock = ClusterClock::load(tx)?;
    if clock.paused_until > clock.now {
        return Ok(Outcome::Refused(Refusal::ExpiryPaused { until: clock.paused_until }));
    }
    let upto = upto.min(clock.now);
    let mut due = Vec::new();
    for (label, _) in targets(tx)? {
        let (from, to) = due_rows(&label, due_from(tx, &label)?, upto);
        // A cluster that is not the only one of its kind ends nothing.
        if quarantine(tx, &label)?.is_none() && !tx.scan(&from, &to, 1)?.is_empty() {
            due.push((label, from, to));
        }
    }
    let share = MAX_PER_COMMAND.checked_div(due.len()).unwrap_or(0).max(1);
    let mut changed = Vec::new();
    for (label, from, to) in due {
        let rows = tx.scan(&from, &to, share.min(MAX_PER_COMMAND.saturating_sub(changed.len())))?;
        if let Some(last) = rows.last().and_then(|(due, _)| end_at(due)) {
            due_begins(tx, &label, last);
        }
        for (due, _) in rows {
            let id = id_at(&due, due.len().saturating_sub(16))?;
            let before = lease(tx, &id)?.ok_or(StoreError::Corrupt { table: Table::LeaseDue as u8 })?;
            end(tx, index, &id, &before, Why::Expired, clock.now)?;
            changed.push(id);
        }
    }
    Ok(Outcome::Leases { changed })
}

/// P10: takes the proofs for leases that are ending, of who is in office in a term and has looked wherever the description of a log
/// index says. An endpoint that was described since was not looked at.
pub(crate) fn revoked(
    tx: &mut Tx<'_>,
    index: u64,
    (term, described): (u64, u64),
    proofs: &[RevocationProof],
) -> Result<Outcome, StoreError> {
    let (mut changed, mut targets) = (Vec::new(), BTreeSet::new());
    for proof in proofs.iter().take(MAX_PER_COMMAND) {
        let Some(before) = lease(tx, &proof.lease)? else { continue };
        // A lease that never was active may have a CREATE on its way: only the fence shows that it cannot arrive.
        let proved = before.was_active || proof.fenced;
        let prover = executor(tx, &before.target)?.filter(|held| held.term == term);
        let looked = target(tx, &before.target)?.is_some_and(|target| target.index == described);
        let Some(prover) = prover.filter(|_| before.state == State::Revoking && proved && looked) else { continue };
        let mut after = before.clone();
        after.state = State::Revoked;
        after.revoked_index = Some(index);
        after.proof = Some(proof.clone());
        after.proved_by = Some((prover.member, term));
        // Nobody needs them any more, and a week of leases is remembered.
        (after.verifier, after.statements) = (String::new(), String::new());
        save(tx, &proof.lease, Some(&before), &after)?;
        changed.push(proof.lease);
        targets.insert(after.target);
    }
    for target in targets {
        remains::more(tx, index, &target)?;
        remove_when_over(tx, &target)?;
    }
    if changed.is_empty() {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    // Twice as many as come, so that what is remembered does not grow.
    forget(tx, changed.len() * 2)?;
    Ok(Outcome::Leases { changed })
}

/// A principal that no lease accounts for becomes a lease that is ending, so that its drop has a log index too.
pub(crate) fn adopt(
    tx: &mut Tx<'_>,
    cluster: &ClusterId,
    index: u64,
    term: u64,
    target: &str,
    login: &str,
    oid: u32,
) -> Result<Outcome, StoreError> {
    let Some(id) = lease_of(cluster, target, login) else {
        return Ok(Outcome::Refused(Refusal::invalid("principal", "is not one of this cluster")));
    };
    if !in_office(tx, target, term)? {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    let now = ClusterClock::load(tx)?.now;
    let before = lease(tx, &id)?;
    let mut after = match &before {
        Some(lease) if lease.state != State::Revoked || lease.target != target => {
            return Ok(Outcome::Refused(Refusal::LeaseState { state: lease.state.to_string() }));
        }
        // Another login, whose oid must not stand in this lease.
        Some(lease) if lease.principal != login => {
            return Ok(Outcome::Refused(Refusal::invalid("principal", "is not the login of its lease")));
        }
        Some(lease) => lease.clone(),
        None => Lease {
            role: "-".to_owned(),
            namespace: String::new(),
            target: target.to_owned(),
            principal: login.to_owned(),
            owner: "-".to_owned(),
            verifier: String::new(),
            issued: Vec::new(),
            groups: Vec::new(),
            connection_limit: 0,
            statements: String::new(),
            state: State::Revoking,
            expires_at: now,
            max_expires_at: now,
            binding: None,
            oid: None,
            was_active: true,
            why: None,
            ended_at: None,
            intent_index: index,
            active_index: None,
            revoking_index: None,
            revoked_index: None,
            proof: None,
            proved_by: None,
            origin: None,
        },
    };
    after.state = State::Revoking;
    after.why = Some(Why::Adopted);
    after.ended_at = Some(now);
    after.oid = Some(oid);
    after.was_active = true;
    after.revoking_index = Some(index);
    after.revoked_index = None;
    (after.proof, after.proved_by) = (None, None);
    save(tx, &id, before.as_ref(), &after)?;
    Ok(Outcome::Leases { changed: vec![id] })
}

fn in_office(tx: &Tx<'_>, target: &str, term: u64) -> Result<bool, StoreError> {
    Ok(executor(tx, target)?.is_some_and(|e| e.term == term))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_tell_clusters_apart() {
        let name = principal(&ClusterId([1; 32]), "app", &LeaseId([2; 16]));
        assert_eq!(name.len(), 42);
        assert!(!name.starts_with(&principal_prefix(&ClusterId([3; 32]), "app")));
        assert!(!name.starts_with(&principal_prefix(&ClusterId([1; 32]), "other")));
    }
}
