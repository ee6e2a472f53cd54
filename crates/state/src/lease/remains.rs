//! What ended leases may have left at a target: accounts that are refused and could not be removed at once, because they were in use or
//! own something. It takes nothing from what *revoked* means, and nothing waits for it. But the log knows that there is some, from before
//! the first of its ends is proved until a search has found none: whoever leads next searches the target, and every member has a reason
//! to help with its password, however long all of them were away.

use super::{Queue, in_office, tally};
use crate::outcome::{Outcome, Refusal};
use crate::store::{Store, StoreError, Table, Tx, key, read};

fn remains_key(target: &str) -> Vec<u8> {
    key(Table::Meta, &[b"remains/", target.as_bytes()])
}

/// Whether ended leases may have left anything at a target: the log index of the last end there since that is so, or of what said so.
///
/// # Errors
/// [`StoreError`] when the store cannot answer.
pub fn remains(store: &dyn Store, target: &str) -> Result<Option<u64>, StoreError> {
    read(store, &remains_key(target))
}

/// Whether leases are ending at a target.
fn are_ending(tx: &Tx<'_>, label: &str) -> Result<bool, StoreError> {
    Ok(tally(tx, label, Queue::Due)? > 0 || tally(tx, label, Queue::Asked)? > 0)
}

/// Whoever is in office has refused accounts that are still there, and is about to prove the ends of their leases.
///
/// # Security
/// Members help whoever leads with the target's password for as long as this stands. A leader that lies gains nothing by it: where no
/// lease is ending it is refused, and where one is, they help anyway.
pub(crate) fn remain(tx: &mut Tx<'_>, index: u64, term: u64, label: &str) -> Result<Outcome, StoreError> {
    if !in_office(tx, label, term)? || !are_ending(tx, label)? {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    tx.put(remains_key(label), &index);
    Ok(Outcome::Done)
}

/// Leases were proved to have ended at a target: a search that began before has not seen what they leave.
pub(super) fn more(tx: &mut Tx<'_>, index: u64, label: &str) -> Result<(), StoreError> {
    if remains(tx, label)?.is_some() {
        tx.put(remains_key(label), &index);
    }
    Ok(())
}

/// Whoever is in office has searched the target once everything up to `upto` was applied, and found nothing that ended leases left.
///
/// Refused while leases are ending there: what is refused already, and not proved yet, was not taken for a rest by that search, and
/// whoever proves it relies on what the log says now.
pub(crate) fn cleared(tx: &mut Tx<'_>, term: u64, label: &str, upto: u64) -> Result<Outcome, StoreError> {
    let seen = remains(tx, label)?.is_some_and(|last| last <= upto);
    if !in_office(tx, label, term)? || !seen || are_ending(tx, label)? {
        return Ok(Outcome::Refused(Refusal::Unjustified));
    }
    forget(tx, label);
    Ok(Outcome::Done)
}

/// A target is no more.
pub(crate) fn forget(tx: &mut Tx<'_>, label: &str) {
    tx.delete(remains_key(label));
}
