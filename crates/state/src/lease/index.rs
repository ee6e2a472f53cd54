//! The indexes over leases, and the only place that writes a lease: what is due, what an executor has to do and in which
//! order, and how many there are. Nobody reads leases one by one to find out.

use super::{Lease, State, Why};
use crate::clock::ClusterClock;
use crate::ids::{LeaseId, Millis};
use crate::store::{Store, StoreError, Table, Tx, after_prefix, decode, key, name, read};
use crate::target::{quarantine, targets};
use std::collections::BTreeSet;

/// How long a lease is remembered after its end was proved, in milliseconds of cluster time: a week, which is longer than any
/// request for it can be valid.
pub const REMEMBERED: Millis = 7 * 86_400_000;

/// What an executor has to do with a lease that is not revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Queue {
    /// An intent, to be brought alive.
    Making = 0,
    /// Alive: nothing.
    Living = 1,
    /// To be ended, because of something that nobody asked for: its time, a failure, a stray found at the target.
    Due = 2,
    /// To be ended, because somebody asked for it.
    Asked = 3,
}

impl Queue {
    /// All of them, in the order of the index.
    pub const ALL: [Self; 4] = [Self::Making, Self::Living, Self::Due, Self::Asked];

    /// The queue of a lease; none for one that is revoked.
    #[must_use]
    pub fn of(lease: &Lease) -> Option<Self> {
        match lease.state {
            State::Intent => Some(Self::Making),
            State::Active => Some(Self::Living),
            State::Revoking => Some(match lease.why {
                Some(Why::Requested | Why::RoleDeleted | Why::IdentityBlocked | Why::TargetDeleted) => Self::Asked,
                Some(Why::Expired | Why::Failed | Why::Adopted) | None => Self::Due,
            }),
            State::Revoked => None,
        }
    }
}

/// A place in a queue: the log index at which the lease came to its end or, before, was asked for; then its id. Whoever
/// came first stands first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The log index.
    pub since: u64,
    /// The lease.
    pub id: LeaseId,
}

impl Place {
    /// Where a lease stands in its queue.
    #[must_use]
    pub fn of(id: LeaseId, lease: &Lease) -> Self {
        let since = match lease.state {
            State::Intent | State::Active => lease.intent_index,
            State::Revoking | State::Revoked => lease.revoking_index.unwrap_or(lease.intent_index),
        };
        Self { since, id }
    }
}

impl Place {
    /// Where the places of a log index end and those of the next begin.
    #[must_use]
    pub fn behind(index: u64) -> Self {
        Self { since: index, id: LeaseId([u8::MAX; 16]) }
    }
}

/// At most `limit` leases of a queue of a target behind `after`, in order. What joins a queue later stands behind the log index that
/// `store` has applied.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn work(
    store: &dyn Store,
    target: &str,
    queue: Queue,
    after: Option<Place>,
    limit: usize,
) -> Result<Vec<(LeaseId, Lease)>, StoreError> {
    let prefix = queue_at(target, queue);
    let mut from = prefix.clone();
    if let Some(place) = after {
        from.extend_from_slice(&place.since.to_be_bytes());
        from.extend_from_slice(&place.id.0);
        from.push(0);
    }
    let rows = store.scan(&from, &after_prefix(&prefix), limit)?;
    let mut out = Vec::with_capacity(rows.len());
    for (key, _) in rows {
        let id = id_at(&key, prefix.len() + 8)?;
        let found = super::lease(store, &id)?.ok_or(StoreError::Corrupt { table: Table::LeaseWork as u8 })?;
        out.push((id, found));
    }
    Ok(out)
}

/// How many leases stand in a queue of a target.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn tally(store: &dyn Store, target: &str, queue: Queue) -> Result<u32, StoreError> {
    Ok(read(store, &tally_key(target, queue))?.unwrap_or(0))
}

fn tally_key(target: &str, queue: Queue) -> Vec<u8> {
    key(Table::LeaseTally, &[&name(target), &[queue as u8]])
}

/// How many leases of a target are not revoked.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn unrevoked(store: &dyn Store, target: &str) -> Result<u32, StoreError> {
    count(store, Kind::Target, target)
}

/// What stands before the leases of a target that are to end, in the order of their ends.
fn due_at(target: &str) -> Vec<u8> {
    key(Table::LeaseDue, &[&name(target)])
}

/// The rows of a target's leases that end in `from..=upto`.
pub(super) fn due_rows(target: &str, from: Millis, upto: Millis) -> (Vec<u8>, Vec<u8>) {
    let at = |end: Millis| [due_at(target).as_slice(), &end.to_be_bytes()].concat();
    (at(from), at(upto.saturating_add(1)))
}

fn due_from_key(target: &str) -> Vec<u8> {
    key(Table::Meta, &[b"due/", target.as_bytes()])
}

/// Before which time no lease of a target ends any more, though some did: storage keeps what was deleted for a while, and whoever
/// began at the first row each time would walk over all of it.
pub(crate) fn due_from(store: &dyn Store, target: &str) -> Result<Millis, StoreError> {
    Ok(read(store, &due_from_key(target))?.unwrap_or(0))
}

/// All leases of a target that end before `at` were told to end.
pub(super) fn due_begins(tx: &mut Tx<'_>, target: &str, at: Millis) {
    tx.put(due_from_key(target), &at);
}

/// A target is no more.
pub(crate) fn forget_due(tx: &mut Tx<'_>, target: &str) {
    tx.delete(due_from_key(target));
}

/// The end in a row of [`Table::LeaseDue`].
pub(super) fn end_at(row: &[u8]) -> Option<Millis> {
    let at = row.len().checked_sub(24)?;
    row.get(at..at + 8)?.try_into().ok().map(Millis::from_be_bytes)
}

/// When the next lease is due, of those that may be ended.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn next_due(store: &dyn Store) -> Result<Option<Millis>, StoreError> {
    let mut next: Option<Millis> = None;
    for (target, _) in targets(store)? {
        if quarantine(store, &target)?.is_some() {
            continue;
        }
        let (from, _) = due_rows(&target, due_from(store, &target)?, 0);
        let first = store.scan(&from, &after_prefix(&due_at(&target)), 1)?;
        let due = first.first().and_then(|(row, _)| end_at(row));
        next = next.into_iter().chain(due).min();
    }
    Ok(next)
}

/// How many leases of a role, target, owner or namespace are not revoked; of a namespace, those of all below it too.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn count(store: &dyn Store, kind: Kind, of: &str) -> Result<u32, StoreError> {
    Ok(read(store, &count_key(kind, of))?.unwrap_or(0))
}

fn count_key(kind: Kind, of: &str) -> Vec<u8> {
    key(Table::LeaseCount, &[&[kind as u8], &name(of)])
}

/// A namespace and all above it.
pub(crate) fn with_parents(namespace: &str) -> impl Iterator<Item = &str> {
    let cuts = namespace.match_indices('/').map(|(at, _)| at).chain([namespace.len()]);
    cuts.filter_map(|at| namespace.get(..at)).filter(|name| !name.is_empty())
}

/// Whose leases a lease is one of.
pub(crate) fn counted(lease: &Lease) -> Vec<(Kind, &str)> {
    let own = [(Kind::Role, &*lease.role), (Kind::Target, &*lease.target), (Kind::Owner, &*lease.owner)];
    own.into_iter().chain(with_parents(&lease.namespace).map(|name| (Kind::Namespace, name))).collect()
}

/// At most `limit` leases with ids above `after`, revoked ones too.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn leases(store: &dyn Store, after: Option<&LeaseId>, limit: usize) -> Result<Vec<(LeaseId, Lease)>, StoreError> {
    let mut from = key(Table::Lease, &[]);
    if let Some(id) = after {
        from = lease_key(id);
        from.push(0);
    }
    let to = after_prefix(&key(Table::Lease, &[]));
    store
        .scan(&from, &to, limit)?
        .into_iter()
        .map(|(key, bytes)| Ok((id_at(&key, 1)?, decode(Table::Lease as u8, &bytes)?)))
        .collect()
}

pub(super) fn lease_key(id: &LeaseId) -> Vec<u8> {
    key(Table::Lease, &[&id.0])
}

pub(super) fn id_at(key: &[u8], at: usize) -> Result<LeaseId, StoreError> {
    key.get(at..at + 16)
        .and_then(|id| <[u8; 16]>::try_from(id).ok())
        .map(LeaseId)
        .ok_or(StoreError::Corrupt { table: Table::Lease as u8 })
}

/// By what leases are counted, and found when they are to be ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Kind {
    /// Of a role.
    Role = 0,
    /// At a target.
    Target = 1,
    /// Of an identity.
    Owner = 2,
    /// Of the roles of a namespace.
    Namespace = 3,
}

/// What begins the rows of the leases of a role, an owner or a namespace.
pub(super) fn first_of(kind: Kind, of: &str) -> Vec<u8> {
    key(Table::LeaseOf, &[&[kind as u8], &name(of)])
}

/// What begins the rows of a target's leases that can be ended.
pub(super) fn living_at(target: &str) -> [Vec<u8>; 2] {
    [Queue::Making, Queue::Living].map(|queue| queue_at(target, queue))
}

/// What begins the rows of a queue.
fn queue_at(target: &str, queue: Queue) -> Vec<u8> {
    key(Table::LeaseWork, &[&name(target), &[queue as u8]])
}

/// The log index in a row of [`Table::LeaseOf`] or [`Table::LeaseWork`].
pub(super) fn since_at(row: &[u8]) -> Result<u64, StoreError> {
    let at = row.len().checked_sub(24).and_then(|at| row.get(at..at + 8)).and_then(|since| since.try_into().ok());
    at.map(u64::from_be_bytes).ok_or(StoreError::Corrupt { table: Table::LeaseOf as u8 })
}

/// The rows of a lease in the indexes that are sets of keys.
pub(crate) fn rows(id: &LeaseId, lease: &Lease) -> BTreeSet<Vec<u8>> {
    let mut rows = BTreeSet::new();
    if matches!(lease.state, State::Intent | State::Active) {
        rows.insert([due_at(&lease.target).as_slice(), &lease.expires_at.to_be_bytes(), &id.0].concat());
        let since = lease.intent_index.to_be_bytes();
        let by = [(Kind::Role, &lease.role), (Kind::Owner, &lease.owner), (Kind::Namespace, &lease.namespace)];
        for (kind, of) in by.into_iter().filter(|(_, of)| !of.is_empty()) {
            rows.insert([first_of(kind, of).as_slice(), &since, &id.0].concat());
        }
    }
    if let Some(origin) = lease.origin {
        rows.insert(key(Table::LeaseOrigin, &[&origin]));
    }
    if let Some(queue) = Queue::of(lease) {
        let since = Place::of(*id, lease).since.to_be_bytes();
        rows.insert([queue_at(&lease.target, queue).as_slice(), &since, &id.0].concat());
    }
    rows
}

/// The row of a lease that is revoked, in the order in which they are forgotten.
pub(crate) fn gone_row(id: &LeaseId, lease: &Lease) -> Option<Vec<u8>> {
    let index = lease.revoked_index.filter(|_| lease.state == State::Revoked)?;
    Some([gone_at(index).as_slice(), &id.0].concat())
}

/// Writes a lease and every index over it: the only place that does.
pub(super) fn save(tx: &mut Tx<'_>, id: &LeaseId, before: Option<&Lease>, after: &Lease) -> Result<(), StoreError> {
    let (were, are) = (before.map(|before| rows(id, before)).unwrap_or_default(), rows(id, after));
    for stale in were.difference(&are) {
        tx.take_out(stale.clone());
    }
    for fresh in are.difference(&were) {
        tx.add(fresh.clone());
    }
    if let Some(row) = before.and_then(|before| gone_row(id, before)) {
        tx.delete(row);
    }
    if let Some(row) = gone_row(id, after) {
        let now = ClusterClock::load(tx)?.now;
        tx.put(row, &now);
    }
    // Where people have set cluster time back.
    if matches!(after.state, State::Intent | State::Active) && after.expires_at < due_from(tx, &after.target)? {
        due_begins(tx, &after.target, after.expires_at);
    }
    let (was, is) = (before.and_then(Queue::of), Queue::of(after));
    if was != is {
        for (queue, step) in [(was, Step::Less), (is, Step::More)] {
            let Some(queue) = queue else { continue };
            step.count(tx, tally_key(&after.target, queue))?;
        }
    }
    if was.is_some() != is.is_some() {
        let step = if is.is_some() { Step::More } else { Step::Less };
        for (kind, of) in counted(after) {
            step.count(tx, count_key(kind, of))?;
        }
    }
    tx.put(lease_key(id), after);
    Ok(())
}

/// Whether a request has a lease that is still remembered.
pub(super) fn has_lease(store: &dyn Store, origin: &[u8; 16]) -> Result<bool, StoreError> {
    Ok(store.get(&key(Table::LeaseOrigin, &[origin]))?.is_some())
}

fn gone_at(index: u64) -> Vec<u8> {
    key(Table::LeaseGone, &[&index.to_be_bytes()])
}

fn gone_from_key() -> Vec<u8> {
    key(Table::Meta, &[b"leases-forgotten"])
}

/// The log index that brought the end of the last lease that is forgotten; 0 before there is one.
pub(crate) fn gone_from(store: &dyn Store) -> Result<u64, StoreError> {
    Ok(read(store, &gone_from_key())?.unwrap_or(0))
}

/// Forgets leases whose ends were proved long ago: at most `limit`, so that no command takes long.
pub(crate) fn forget(tx: &mut Tx<'_>, limit: usize) -> Result<(), StoreError> {
    let now = ClusterClock::load(tx)?.now;
    let is_over = |at: &[u8]| Ok(decode::<Millis>(Table::LeaseGone as u8, at)?.saturating_add(REMEMBERED) <= now);
    // As with what is due.
    let (from, to) = (gone_at(gone_from(tx)?), after_prefix(&key(Table::LeaseGone, &[])));
    // Mostly there is none, and to know that takes one row.
    match tx.scan(&from, &to, 1)?.first() {
        Some((_, at)) if is_over(at)? => {}
        _ => return Ok(()),
    }
    for (row, at) in tx.scan(&from, &to, limit)? {
        // In the order of the log, and so of time.
        if !is_over(&at)? {
            break;
        }
        if let Some(index) = row.get(1..9).and_then(|index| index.try_into().ok()) {
            tx.put(gone_from_key(), &u64::from_be_bytes(index));
        }
        let id = id_at(&row, 9)?;
        let gone = super::lease(tx, &id)?.ok_or(StoreError::Corrupt { table: Table::LeaseGone as u8 })?;
        for row in rows(&id, &gone) {
            tx.take_out(row);
        }
        tx.delete(row);
        tx.delete(lease_key(&id));
    }
    Ok(())
}

/// One lease more or less; what counts none is no row.
#[derive(Clone, Copy)]
enum Step {
    More,
    Less,
}

impl Step {
    fn count(self, tx: &mut Tx<'_>, at: Vec<u8>) -> Result<(), StoreError> {
        let now = read::<u32>(tx, &at)?.unwrap_or(0);
        match self {
            Self::More => tx.put(at, &now.saturating_add(1)),
            Self::Less if now > 1 => tx.put(at, &(now - 1)),
            Self::Less => tx.delete(at),
        }
        Ok(())
    }
}
