//! What an entry can change is no less than what it does change: asserted of every entry that any test here applies.

use crate::golden::changes;
use crate::world::*;
use quorate_state::change::{Change, Kind};
use quorate_state::command::Command;
use quorate_state::footprint::{Footprint, of_entry, secret};
use quorate_state::outcome::Outcome;
use quorate_state::store::{Table, Writes, key as row};
use std::collections::BTreeSet;

/// Fails if an entry wrote more than its footprint admits. To be called with the writes of every entry.
pub(crate) fn covers(entry: &[u8], writes: &Writes) {
    let footprint = of_entry(entry);
    // Every request is remembered, lets older ones be forgotten, moves time, and changes the hash of the whole: no answer about a secret says any of it.
    let always = [Table::Hash, Table::Request, Table::RequestEnd].map(|t| t as u8);
    let bookkeeping = [&b"clock"[..], b"forgotten", b"absent"].map(|name| row(Table::Meta, &[name]));
    let of_secrets =
        [Table::Secret, Table::Version, Table::Payload, Table::UsedSecret, Table::UsedVersion].map(|t| t as u8);
    let of_leases = [
        Table::Lease,
        Table::LeaseDue,
        Table::LeaseWork,
        Table::LeaseCount,
        Table::LeaseTally,
        Table::LeaseOf,
        Table::LeaseGone,
        Table::LeaseOrigin,
    ];
    let of_leases = of_leases.map(|t| t as u8);
    let of_targets = [&b"executor/"[..], b"remains/"].map(|name| row(Table::Meta, &[name]));
    for at in writes.keys() {
        let fits = match footprint {
            Footprint::Everything => true,
            Footprint::Secret(_) => of_secrets.contains(&at[0]),
            Footprint::Nothing => of_leases.contains(&at[0]) || of_targets.iter().any(|name| at.starts_with(name)),
        };
        assert!(fits || always.contains(&at[0]) || bookkeeping.contains(at), "{footprint:?} writes {at:02x?}");
        if let (Footprint::Secret(number), true) = (footprint, at[0] == Table::Secret as u8) {
            let mut names = at[1..].split(|byte| *byte == 0).map(|name| std::str::from_utf8(name).unwrap());
            let (namespace, path) = (names.next().unwrap(), names.next().unwrap());
            assert_eq!(secret(namespace, path), number, "it writes {namespace}:{path}");
        }
    }
}

#[test]
fn every_operation_has_a_footprint() {
    let mut world = World::new();
    let mut kinds = BTreeSet::new();
    for change in changes(&mut world) {
        let kind = change.kind();
        let expected = match kind {
            Kind::PutSecret | Kind::DeleteSecret | Kind::UndeleteSecret | Kind::DestroySecret => {
                Footprint::Secret(secret("team", "safe/a/b"))
            }
            Kind::IssueLease | Kind::RenewLease => Footprint::Nothing,
            // What changes who may do what, keys, and ends.
            _ => Footprint::Everything,
        };
        let signed = World::sign(&world.request(change));
        assert_eq!(of_entry(&world.command(&signed).encode()), expected, "{kind:?}");
        kinds.insert(kind);
    }
    let all: BTreeSet<Kind> = Kind::ALL.iter().copied().filter(|kind| kind.rpc() == "Submit").collect();
    assert_eq!(kinds, all, "a change without a sample");
}

#[test]
fn what_raises_the_authority_version_meets_everything() {
    let mut world = World::with_target();
    for change in changes(&mut world) {
        let (before, kind) = (world.authority(), change.kind());
        let signed = World::sign(&world.request(change));
        let entry = world.command(&signed).encode();
        world.apply_bytes(&entry);
        let raised = world.authority() != before;
        assert!(!raised || of_entry(&entry) == Footprint::Everything, "{kind:?}");
    }
}

#[test]
fn secrets_differ_and_what_is_not_understood_meets_everything() {
    assert_ne!(secret("team", "app/a"), secret("team", "app/b"));
    assert_ne!(secret("team/app", "a"), secret("team", "app/a"), "where the namespace ends counts");
    let mut world = World::new();
    let tick = Command::Tick { readings: vec![world.reading(1, CREATED)] }.encode();
    assert_eq!(of_entry(&tick), Footprint::Everything);
    let sealed = world.seal("app/x").make();
    let signed = World::sign(&world.request(put("app/x", sealed, None)));
    let mut entry = world.command(&signed).encode();
    assert!(matches!(of_entry(&entry), Footprint::Secret(_)));
    entry.push(0);
    for unknown in [&entry[..], &[], &[9, 0, 0]] {
        assert_eq!(of_entry(unknown), Footprint::Everything);
    }
}

#[test]
fn the_small_footprints_are_those_of_changes_that_happen() {
    let mut world = World::with_target();
    assert!(matches!(world.put("app/x", None), Outcome::Stored { .. }));
    let numbers = vec![1];
    let (namespace, path) = ("team".to_owned(), "app/x".to_owned());
    for change in [
        Change::DeleteSecret { namespace: namespace.clone(), path: path.clone(), numbers: numbers.clone() },
        Change::UndeleteSecret { namespace: namespace.clone(), path: path.clone(), numbers: numbers.clone() },
        Change::DestroySecret { namespace, path, numbers },
    ] {
        assert_eq!(world.submit(change), Outcome::Versions { changed: vec![1] });
    }
    let lease = world.active(7);
    assert!(matches!(world.submit(Change::RenewLease { lease, ttl: HOUR }), Outcome::Renewed { .. }));
}
