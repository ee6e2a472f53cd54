//! The administrative password of a target: sealed, so that only t members together open it for the executor; replaced by the
//! executor once in each term of office, where the target's description says so; replaced by people when the target has another.
//!
//! ```text
//! RotatePassword: next is in the log   ->   the executor gives it to the target   ->   PasswordRotated: next is current
//! ```
//! The target has `current` until the executor has sent `next`, and from then on `next`. So a `next` is completed, by whoever is
//! in office. What it had before is kept for a while: a server that was restored, or that failed over to a standby that was
//! behind, has forgotten the change, and somebody may have mistyped what he says it is.

use super::{Standing, Target, executor, quarantine, target};
use crate::access::{SYSTEM_NAMESPACE, keyring};
use crate::change::KeyringClass;
use crate::clock::ClusterClock;
use crate::ids::{ClusterId, KeyringId, MemberIndex, Millis};
use crate::outcome::{Outcome, Refusal};
use crate::secrets::{Sealing, accept};
use crate::store::{Store, StoreError, Table, Tx, key, name};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;
use quorate_crypto::sealed::Header;

/// How many passwords that a target had before are kept.
pub const MAX_FORMER: usize = 3;

/// A sealed password.
#[derive(Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Credential {
    /// The header (`docs/format.md`).
    pub header: Vec<u8>,
    /// The payload.
    pub payload: Vec<u8>,
    /// The log index that brought it: no other has it.
    pub index: u64,
    /// The term of the executor that made it; 0 when people gave it.
    pub term: u64,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}, term {})", self.index, self.term)
    }
}

/// When an executor last completed the replacement of a password.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Rotated {
    /// The log index.
    pub index: u64,
    /// Cluster time.
    pub at: Millis,
}

impl Target {
    /// The sealed password that came with a log index, if the target may have it.
    #[must_use]
    pub fn credential(&self, index: u64) -> Option<&Credential> {
        self.credentials().find(|credential| credential.index == index)
    }

    /// What the target may have: `current`, then `next`, then what it had before.
    pub fn credentials(&self) -> impl Iterator<Item = &Credential> {
        core::iter::once(&self.current).chain(&self.next).chain(&self.former)
    }

    /// Whether the password that came with a log index is one that the target had before.
    #[must_use]
    pub fn had(&self, index: u64) -> bool {
        self.former.iter().any(|former| former.index == index)
    }

    /// Keeps one that the target may go back to, for as long as there is room.
    pub(super) fn keep(&mut self, before: Credential) {
        self.former.insert(0, before);
        self.former.truncate(MAX_FORMER);
    }
}

/// The path under which a target's password is sealed.
#[must_use]
pub fn credential_path(target: &str) -> String {
    format!("target/{target}")
}

/// Who has sealed a password that a member made in office. No caller has such a name: theirs begin with `spiffe://`.
#[must_use]
pub fn executor_author(member: MemberIndex) -> String {
    format!("executor/{member}")
}

/// Whether a password is sealed as the executor of a target needs it.
pub(super) fn sealed(
    store: &dyn Store,
    (cluster, label): (&ClusterId, &str),
    author: &str,
    header: &[u8],
    payload: &[u8],
) -> Result<Result<(), Refusal>, StoreError> {
    // The executor must be able to open it without a customer: revocation waits for nobody.
    let ring = match Header::decode(header) {
        Ok(header) => keyring(store, &KeyringId(header.wrap().keyring_id))?,
        Err(why) => return Ok(Err(Refusal::unacceptable(why))),
    };
    let Some(ring) = ring.filter(|r| r.class == KeyringClass::Cluster) else {
        return Ok(Err(Refusal::unacceptable("a target's password must be sealed to a keyring of class cluster")));
    };
    let path = credential_path(label);
    let sealing = Sealing {
        cluster,
        namespace: SYSTEM_NAMESPACE,
        path: &path,
        author,
        y: &ring.y,
        class: ring.class,
        customers: &[],
    };
    Ok(accept(&sealing, header, payload).map(drop))
}

fn save(tx: &mut Tx<'_>, label: &str, found: &Target) -> Outcome {
    tx.put(key(Table::Target, &[&name(label)]), found);
    Outcome::Done
}

/// People say what the password is now. What an executor was about to put in its place is completed by nobody, but the target
/// may have it.
pub(crate) fn replace_password(
    tx: &mut Tx<'_>,
    cluster: &ClusterId,
    index: u64,
    author: &str,
    (label, header, payload): (&str, &[u8], &[u8]),
) -> Result<Outcome, StoreError> {
    let Some(mut found) = target(tx, label)? else {
        return Ok(Outcome::Refused(Refusal::not_found("target")));
    };
    if let Err(refusal) = sealed(tx, (cluster, label), author, header, payload)? {
        return Ok(Outcome::Refused(refusal));
    }
    let said = Credential { header: header.to_vec(), payload: payload.to_vec(), index, term: 0 };
    let before = core::mem::replace(&mut found.current, said);
    found.keep(before);
    if let Some(next) = found.next.take() {
        found.keep(next);
    }
    Ok(save(tx, label, &found))
}

/// The executor is about to give the target another password: once in a term of office, and only where that is wanted. What an
/// executor of an earlier term was about to give, and nobody can open, keeps nobody from that: but the target may have it.
pub(crate) fn rotate_password(
    tx: &mut Tx<'_>,
    cluster: &ClusterId,
    index: u64,
    term: u64,
    (label, header, payload): (&str, &[u8], &[u8]),
) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    let Some(mut found) = target(tx, label)? else { return refuse(Refusal::not_found("target")) };
    let Some(held) = executor(tx, label)?.filter(|e| e.term == term) else { return refuse(Refusal::Unjustified) };
    let wanted = found.spec.rotate && found.standing != Standing::Removing && quarantine(tx, label)?.is_none();
    if !wanted || found.next.as_ref().is_some_and(|next| next.term >= term) || found.current.term == term {
        return refuse(Refusal::Unjustified);
    }
    let author = executor_author(held.member);
    if let Err(refusal) = sealed(tx, (cluster, label), &author, header, payload)? {
        return refuse(refusal);
    }
    if let Some(unopened) =
        found.next.replace(Credential { header: header.to_vec(), payload: payload.to_vec(), index, term })
    {
        found.keep(unopened);
    }
    Ok(save(tx, label, &found))
}

/// The executor has seen the target let it in with the other password.
pub(crate) fn password_rotated(
    tx: &mut Tx<'_>,
    index: u64,
    term: u64,
    label: &str,
    of: u64,
) -> Result<Outcome, StoreError> {
    let refuse = |refusal| Ok(Outcome::Refused(refusal));
    let Some(mut found) = target(tx, label)? else { return refuse(Refusal::not_found("target")) };
    let in_office = executor(tx, label)?.is_some_and(|e| e.term == term);
    let Some(next) = found.next.take().filter(|next| in_office && next.index == of) else {
        return refuse(Refusal::Unjustified);
    };
    let before = core::mem::replace(&mut found.current, next);
    found.keep(before);
    found.rotated = Some(Rotated { index, at: ClusterClock::load(tx)?.now });
    Ok(save(tx, label, &found))
}
