//! `apply`: every replica, in log order. `check`: what holds after each of them.

mod check;

pub use check::{Violation, check};

use crate::change::Change;
use crate::clock::{self, ClusterClock, apply_tick};
use crate::command::{Command, Stamp};
use crate::genesis::{Roster, administrators};
use crate::ids::ClusterId;
use crate::lease::{self, Asked};
use crate::outcome::{Outcome, Refusal};
use crate::request::{
    Endorsement, Remembered, SignedRequest, authority_version, check_time, count_endorsements, forget_old, remember,
    remembered,
};
use crate::secrets::{self, Put, VersionState};
use crate::store::{Store, StoreError, Tx, Writes};
use crate::target::{self, Described};
use crate::{absence, access, ceremony, hash};
use quorate_crypto::identity::Verified;

/// How many leases that ended long ago one tick forgets at most.
const FORGET_PER_TICK: usize = 64;

/// Where a command stands in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// Its index.
    pub index: u64,
    /// The term of the leader that proposed it.
    pub term: u64,
}

/// Applies one log entry: what to write, and what became of it. The same on every replica, whatever signatures `seen` has met before.
///
/// # Errors
/// [`StoreError`] when the state cannot be read; the replica must stop.
pub fn apply(
    store: &dyn Store,
    cluster: &ClusterId,
    at: Position,
    entry: &[u8],
    seen: &Verified,
) -> Result<(Writes, Outcome), StoreError> {
    let mut tx = Tx::new(store);
    let command = match Command::decode(entry) {
        Ok(command) => command,
        Err(refusal) => return Ok((Writes::new(), Outcome::Refused(refusal))),
    };
    // Whoever is destroyed signs nothing that counts.
    let roster = absence::contributors(&tx)?;
    let outcome = match &command {
        Command::Endorsed { request, endorsements, stamp } => {
            endorsed(&mut tx, cluster, &roster, at, (request, endorsements, stamp), seen)?
        }
        Command::Tick { readings } => {
            let outcome = apply_tick(&mut tx, cluster, &roster, readings)?;
            if matches!(outcome, Outcome::Time { .. }) {
                ceremony::give_up_old(&mut tx)?;
                let now = ClusterClock::load(&tx)?.now;
                forget_old(&mut tx, now)?;
                lease::forget(&mut tx, FORGET_PER_TICK)?;
            }
            outcome
        }
        // What a leader says on its own account counts in its own term only: entries of a deposed leader's queue that
        // a later one happens to carry must do nothing.
        Command::Expire { term, upto } if *term == at.term => lease::expire(&mut tx, at.index, *upto)?,
        Command::Executor { target, member, term, nonce } if *term == at.term => {
            target::take_office(&mut tx, &roster, target, (*member, *term, *nonce))?
        }
        Command::LeaseActive { term, lease, oid, issued } if *term == at.term => {
            lease::activate(&mut tx, at.index, *term, lease, (*oid, issued))?
        }
        Command::LeaseFailed { term, lease } if *term == at.term => lease::fail(&mut tx, at.index, *term, lease)?,
        Command::LeaseRevoked { term, described, proofs } if *term == at.term => {
            lease::revoked(&mut tx, at.index, (*term, *described), proofs)?
        }
        Command::Adopt { term, target, principal, oid } if *term == at.term => {
            lease::adopt(&mut tx, cluster, at.index, *term, target, principal, *oid)?
        }
        Command::Remain { term, target } if *term == at.term => lease::remain(&mut tx, at.index, *term, target)?,
        Command::Cleared { term, target, upto } if *term == at.term => lease::cleared(&mut tx, *term, target, *upto)?,
        Command::Sweep { term } if *term == at.term => lease::sweep(&mut tx, at.index)?,
        Command::TargetProved { term, target, proof } if *term == at.term => {
            target::proved(&mut tx, *term, target, proof)?
        }
        Command::Quarantine { term, target, found } if *term == at.term => {
            target::quarantine_at(&mut tx, at.index, *term, target, found)?
        }
        Command::RotatePassword { term, target, header, payload } if *term == at.term => {
            target::rotate_password(&mut tx, cluster, at.index, *term, (target, header, payload))?
        }
        Command::PasswordRotated { term, target, index } if *term == at.term => {
            target::password_rotated(&mut tx, at.index, *term, target, *index)?
        }
        Command::CountOn { term, target, nonce } if *term == at.term => {
            target::count_on(&mut tx, *term, target, *nonce)?
        }
        Command::Expire { .. }
        | Command::CountOn { .. }
        | Command::Remain { .. }
        | Command::Cleared { .. }
        | Command::TargetProved { .. }
        | Command::Quarantine { .. }
        | Command::RotatePassword { .. }
        | Command::PasswordRotated { .. }
        | Command::Sweep { .. }
        | Command::Executor { .. }
        | Command::LeaseActive { .. }
        | Command::LeaseFailed { .. }
        | Command::LeaseRevoked { .. }
        | Command::Adopt { .. } => Outcome::Refused(Refusal::Unjustified),
        Command::Ceremony { message } => ceremony::receive(&mut tx, at.index, &roster, message)?,
        Command::Returned { attestation } => absence::returned(&mut tx, cluster, &roster, attestation)?,
    };
    if matches!(outcome, Outcome::Refused(_)) && !matches!(command, Command::Endorsed { .. }) {
        tx.rollback();
    }
    let (mut writes, known) = tx.into_parts();
    hash::follow(store, &mut writes, &known)?;
    Ok((writes, outcome))
}

/// A client's request: the deterministic checks, the request table, then the change.
fn endorsed(
    tx: &mut Tx<'_>,
    cluster: &ClusterId,
    roster: &Roster,
    at: Position,
    (signed, endorsements, stamp): (&SignedRequest, &[Endorsement], &Stamp),
    seen: &Verified,
) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    let request = match signed.request() {
        Ok(request) => request,
        Err(refusal) => return refuse(refusal),
    };
    if request.cluster != *cluster {
        return refuse(Refusal::WrongCluster);
    }
    let Some(signer) = signed.caller().copied() else { return refuse(Refusal::BadSignature) };
    if let Err(refusal) = signed.verify(&request, &administrators(tx)?, seen) {
        return refuse(refusal);
    }
    let hash = signed.hash();
    if let Some(before) = remembered(tx, &signer, &request.id)? {
        return Ok(if before.hash == hash { before.outcome } else { Outcome::Refused(Refusal::RequestIdReused) });
    }
    let carried = match count_endorsements(tx, cluster, roster, &hash, endorsements, seen)? {
        Ok(carried) => carried,
        Err(refusal) => return refuse(refusal),
    };
    let mut clock = ClusterClock::load(tx)?;
    clock.advance(carried);
    if let Err(refusal) = check_time(&request, &clock) {
        return refuse(refusal);
    }
    let current = authority_version(tx)?;
    let expected = request.expected_authority_version;
    if expected.is_some_and(|v| v != current) || (expected.is_none() && request.change.names_authority_version()) {
        return refuse(Refusal::Stale { current });
    }
    clock.save(tx);
    let outcome = if access::is_blocked(tx, &request.principal)? {
        Outcome::Refused(Refusal::Blocked)
    } else {
        let who = Caller { cluster, roster, at, stamp, signer: &signer, now: clock.now };
        change(tx, &who, &request)?
    };
    if let Outcome::Refused(refusal) = &outcome {
        // Whatever the change wrote before it was refused is gone; time has moved all the same.
        tx.rollback();
        clock.save(tx);
        if refusal.consumes_nothing() {
            return Ok(outcome);
        }
    }
    remember(
        tx,
        &signer,
        &request.id,
        request.not_after,
        &Remembered { hash, outcome: outcome.clone(), index: at.index },
    );
    // The command may have set it back.
    let now = ClusterClock::load(tx)?.now;
    forget_old(tx, now)?;
    Ok(outcome)
}

struct Caller<'a> {
    cluster: &'a ClusterId,
    roster: &'a Roster,
    at: Position,
    stamp: &'a Stamp,
    signer: &'a [u8; 32],
    now: crate::ids::Millis,
}

fn change(tx: &mut Tx<'_>, who: &Caller<'_>, request: &crate::request::Request) -> Result<Outcome, StoreError> {
    let index = who.at.index;
    match &request.change {
        Change::PutSecret { namespace, path, header, payload, expected } => {
            let put = Put { namespace, path, header, payload, expected: *expected };
            secrets::put(tx, who.cluster, index, who.now, &request.principal, &put)
        }
        Change::DeleteSecret { namespace, path, numbers } => {
            secrets::set_state(tx, namespace, path, numbers, VersionState::Deleted)
        }
        Change::UndeleteSecret { namespace, path, numbers } => {
            secrets::set_state(tx, namespace, path, numbers, VersionState::Live)
        }
        Change::DestroySecret { namespace, path, numbers } => {
            secrets::set_state(tx, namespace, path, numbers, VersionState::Destroyed)
        }
        Change::CreateNamespace { namespace } => access::create_namespace(tx, index, namespace),
        Change::CreateMount { namespace, mount, keyring, customer_keys } => {
            access::create_mount(tx, namespace, mount, keyring, customer_keys)
        }
        Change::RegisterCustomerKey { name, public, owner, signature } => {
            access::register_customer_key(tx, who.cluster, name, public, owner, signature)
        }
        Change::PutPolicy { name, text } => access::put_policy(tx, index, name, text),
        Change::DeletePolicy { name } => access::delete_policy(tx, index, name),
        Change::BlockIdentity { principal } => access::block(tx, index, principal),
        Change::UnblockIdentity { principal } => access::unblock(tx, principal),
        Change::BeginKeyGeneration { session, class } => ceremony::begin(tx, index, who.roster, session, *class),
        Change::PutTarget { name, spec, header, payload } => {
            let described = Described { label: name, spec, header, payload };
            target::put_target(tx, who.cluster, index, &request.principal, &described)
        }
        Change::ReviseTarget { name, revision } => target::revise(tx, index, name, revision),
        Change::ReplacePassword { name, header, payload } => {
            target::replace_password(tx, who.cluster, index, &request.principal, (name, header, payload))
        }
        Change::ProveTarget { name } => target::ask(tx, index, name),
        Change::DeleteTarget { name } => target::delete_target(tx, index, name),
        Change::TakeOver { target, counter } => target::take_over(tx, target, *counter),
        Change::SetQuota { subject, limit } => lease::set_quota(tx, subject, *limit),
        Change::PutRole { name, role } => target::put_role(tx, index, name, role),
        Change::DeleteRole { name } => target::delete_role(tx, index, name),
        Change::IssueLease { role, verifier, ttl } => lease::issue(
            tx,
            &Asked {
                cluster: who.cluster,
                index,
                term: who.at.term,
                stamp: who.stamp,
                signer: who.signer,
                request: &request.id,
                not_after: request.not_after,
                owner: &request.principal,
                role,
                verifier,
                ttl: *ttl,
            },
        ),
        Change::RenewLease { lease, ttl } => lease::renew(tx, lease, *ttl),
        Change::RevokeLease { lease } => lease::revoke(tx, index, lease),
        Change::RevokeLeases { selector } => lease::revoke_all(tx, index, selector),
        Change::SetClientRoots { certificates } => access::set_client_roots(tx, index, certificates),
        Change::ResetClock { to } => clock::reset(tx, index, *to),
        Change::RecordMember { member, name, absence, reason } => {
            absence::record(tx, index, who.now, &absence::Asked { member: *member, name, absence: *absence, reason })
        }
    }
}
