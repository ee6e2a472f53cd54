//! Ending many leases at one log index, however many they are: what one entry may do is bounded, so the rest follows in
//! entries of its own, and until then counts as ended all the same.

use super::index::{Kind, first_of, id_at, living_at, since_at};
use super::{Lease, MAX_PER_COMMAND, State, Why, end, lease};
use crate::clock::ClusterClock;
use crate::ids::LeaseId;
use crate::outcome::{Outcome, Refusal};
use crate::store::{Store, StoreError, Table, Tx, Value, after_prefix, key, read_prefix};
use borsh::{BorshDeserialize, BorshSerialize};
use core::fmt;

/// Which leases: all that one of these names, of those that were asked for before.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Selector {
    /// Of a role.
    Role(String),
    /// At a target.
    Target(String),
    /// Of an identity, and of nobody else.
    Identity(String),
    /// Of every identity below a prefix of SPIFFE ids, by whole segments, and of the prefix itself.
    Below(String),
    /// Of the roles of a namespace, and of those below it.
    Namespace(String),
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Role(name) => write!(f, "role {name}"),
            Self::Target(name) => write!(f, "target {name}"),
            Self::Identity(id) => write!(f, "identity {id}"),
            Self::Below(prefix) => write!(f, "identities below {prefix}"),
            Self::Namespace(name) => write!(f, "namespace {name}"),
        }
    }
}

impl Selector {
    /// Whether it names a lease.
    #[must_use]
    pub fn names(&self, lease: &Lease) -> bool {
        match self {
            Self::Role(role) => lease.role == *role,
            Self::Target(target) => lease.target == *target,
            Self::Identity(id) => lease.owner == *id,
            Self::Below(prefix) => is_in(&lease.owner, prefix),
            Self::Namespace(namespace) => is_in(&lease.namespace, namespace),
        }
    }

    /// The rows of [`Table::LeaseOf`] or [`Table::LeaseWork`] that it is about: one range of keys, or two in their order. A lease that comes
    /// alive behind the place that is reached is told to end by [`super::activate`].
    fn ranges(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let whole = |prefix: Vec<u8>| (prefix.clone(), after_prefix(&prefix));
        match self {
            Self::Role(role) => vec![whole(first_of(Kind::Role, role))],
            Self::Target(target) => living_at(target).map(whole).to_vec(),
            Self::Identity(id) => vec![whole(first_of(Kind::Owner, id))],
            Self::Below(top) | Self::Namespace(top) => {
                let kind = if matches!(self, Self::Below(_)) { Kind::Owner } else { Kind::Namespace };
                let below = key(Table::LeaseOf, &[&[kind as u8], top.as_bytes(), b"/"]);
                vec![whole(first_of(kind, top)), whole(below)]
            }
        }
    }

    /// Whether it can name anything.
    ///
    /// # Errors
    /// [`Refusal::Invalid`].
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        let (Self::Role(text) | Self::Target(text) | Self::Identity(text) | Self::Below(text) | Self::Namespace(text)) =
            self;
        if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
            return Err(Refusal::invalid("selector", "must have 1 to 256 bytes and no control characters"));
        }
        match self {
            Self::Below(prefix) if !prefix.starts_with("spiffe://") || prefix.ends_with('/') => Err(Refusal::invalid(
                "selector",
                "must be a SPIFFE id or the beginning of one, without a slash at its end",
            )),
            _ => Ok(()),
        }
    }
}

/// Whether a name is `top` or below it, by whole segments.
fn is_in(name: &str, top: &str) -> bool {
    name.strip_prefix(top).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// An end of many leases that has been begun, under the log index at which it was.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Sweep {
    /// Which.
    pub selector: Selector,
    /// Why they end.
    pub why: Why,
    /// Up to which row of the index it is done.
    done: Vec<u8>,
}

impl Value for Sweep {}

fn sweep_key(begun: u64) -> Vec<u8> {
    key(Table::LeaseSweep, &[&begun.to_be_bytes()])
}

/// The ends of many leases that are not complete, in the order in which they were begun.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn sweeps(store: &dyn Store, limit: usize) -> Result<Vec<(u64, Sweep)>, StoreError> {
    let begun = |at: &[u8]| at.get(1..9).and_then(|b| b.try_into().ok()).map(u64::from_be_bytes);
    read_prefix::<Sweep>(store, &key(Table::LeaseSweep, &[]), limit)?
        .into_iter()
        .map(|(at, sweep)| Ok((begun(&at).ok_or(StoreError::Corrupt { table: Table::LeaseSweep as u8 })?, sweep)))
        .collect()
}

/// Why a lease counts as ended though its own row does not say so yet.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn swept(store: &dyn Store, lease: &Lease) -> Result<Option<Why>, StoreError> {
    if !matches!(lease.state, State::Intent | State::Active) {
        return Ok(None);
    }
    let found = sweeps(store, usize::MAX)?;
    let found = found.into_iter().find(|(begun, sweep)| lease.intent_index <= *begun && sweep.selector.names(lease));
    Ok(found.map(|(_, sweep)| sweep.why))
}

/// Ends every lease that was asked for before and that `selector` names: as many as one entry may, and the others soon.
/// Returns those that this entry has ended.
pub(crate) fn end_all(tx: &mut Tx<'_>, index: u64, why: Why, selector: Selector) -> Result<Vec<LeaseId>, StoreError> {
    advance(tx, index, index, Sweep { selector, why, done: Vec::new() })
}

/// Somebody asks for it.
pub(crate) fn revoke_all(tx: &mut Tx<'_>, index: u64, selector: &Selector) -> Result<Outcome, StoreError> {
    if let Err(refusal) = selector.check() {
        return Ok(Outcome::Refused(refusal));
    }
    Ok(Outcome::Leases { changed: end_all(tx, index, Why::Requested, selector.clone())? })
}

/// The next step of the oldest end that is not complete.
pub(crate) fn sweep(tx: &mut Tx<'_>, index: u64) -> Result<Outcome, StoreError> {
    match sweeps(tx, 1)?.pop() {
        Some((begun, sweep)) => Ok(Outcome::Leases { changed: advance(tx, index, begun, sweep)? }),
        None => Ok(Outcome::Refused(Refusal::Unjustified)),
    }
}

/// One step: so many rows of the index and no more.
fn advance(tx: &mut Tx<'_>, index: u64, begun: u64, mut sweep: Sweep) -> Result<Vec<LeaseId>, StoreError> {
    let now = ClusterClock::load(tx)?.now;
    let (mut changed, mut left) = (Vec::new(), MAX_PER_COMMAND);
    for (from, to) in sweep.selector.ranges() {
        let from = if sweep.done < from { from } else { [sweep.done.as_slice(), &[0]].concat() };
        for (row, _) in tx.scan(&from, &to, left)? {
            left = left.saturating_sub(1);
            sweep.done.clone_from(&row);
            let id = id_at(&row, row.len().saturating_sub(16))?;
            // What was asked for later is another matter.
            if since_at(&row)? > begun {
                continue;
            }
            let before = lease(tx, &id)?.ok_or(StoreError::Corrupt { table: Table::LeaseOf as u8 })?;
            end(tx, index, &id, &before, sweep.why, now)?;
            changed.push(id);
        }
    }
    match left {
        0 => tx.put(sweep_key(begun), &sweep),
        _ => tx.delete(sweep_key(begun)),
    }
    Ok(changed)
}
