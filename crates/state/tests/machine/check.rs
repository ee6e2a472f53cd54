//! `check` sees what no history leads to: rows lost, rows added, rows exchanged.

use crate::world::*;
use quorate_state::machine::{Violation, check};
use quorate_state::store::{MemStore, Table};

/// A state in which every row that is looked at has others that depend on it.
fn world() -> World {
    let mut world = World::with_target();
    for path in ["app/x", "app/x", "safe/x"] {
        world.put(path, None);
    }
    world.intent();
    world.active(1);
    world
}

fn rows(store: &MemStore, table: Table) -> Vec<Vec<u8>> {
    store.0.keys().filter(|k| k[0] == table as u8).cloned().collect()
}

#[test]
fn a_lost_row_is_seen() {
    let world = world();
    assert_eq!(check(&world.store), Ok(()));
    let tables = [
        Table::Secret,
        Table::Version,
        Table::Payload,
        Table::UsedSecret,
        Table::UsedVersion,
        Table::Namespace,
        Table::Mount,
        Table::Keyring,
        Table::Ceremony,
        Table::Target,
        Table::Lease,
        Table::LeaseDue,
        Table::LeaseWork,
        Table::LeaseCount,
        Table::LeaseTally,
        Table::LeaseOf,
        Table::LeaseOrigin,
        Table::Request,
        Table::RequestEnd,
    ];
    for table in tables {
        let rows = rows(&world.store, table);
        assert!(!rows.is_empty(), "{table:?}");
        for row in rows {
            let mut store = world.store.clone();
            store.0.remove(&row);
            // By the rows that miss it, not only by the hash, which sees every change.
            assert!(!matches!(check(&store), Ok(()) | Err(Violation::Hash)), "{table:?} {row:?}");
        }
    }
}

#[test]
fn a_row_too_many_is_seen() {
    let world = world();
    let tables = [
        Table::Version,
        Table::Payload,
        Table::UsedSecret,
        Table::UsedVersion,
        Table::Keyring,
        Table::CustomerKey,
        Table::LeaseDue,
        Table::LeaseWork,
        Table::LeaseCount,
        Table::LeaseTally,
        Table::LeaseOf,
        Table::LeaseOrigin,
        Table::Request,
        Table::RequestEnd,
    ];
    for table in tables {
        let row = rows(&world.store, table).remove(0);
        let mut store = world.store.clone();
        let value = store.0[&row].clone();
        let mut other = row.clone();
        // The second byte, so that names stay names.
        other[1] ^= 1;
        store.0.insert(other, value);
        assert!(matches!(check(&store), Err(Violation::Row { .. })), "{table:?}");
    }
}

#[test]
fn exchanged_and_unreadable_rows_are_seen() {
    let world = world();
    for table in [Table::Version, Table::Payload, Table::Secret, Table::Lease, Table::Keyring] {
        let rows = rows(&world.store, table);
        let mut store = world.store.clone();
        let (a, b) = (store.0[&rows[0]].clone(), store.0[&rows[1]].clone());
        store.0.insert(rows[0].clone(), b);
        store.0.insert(rows[1].clone(), a);
        assert!(matches!(check(&store), Err(Violation::Row { .. })), "{table:?}");
        let mut store = world.store.clone();
        store.0.insert(rows[0].clone(), vec![9]);
        assert!(!matches!(check(&store), Ok(()) | Err(Violation::Hash)), "{table:?}");
    }
}

/// What no other row depends on is still in the hash: a policy, a name, the clock.
#[test]
fn any_changed_byte_is_seen() {
    let world = world();
    for (row, value) in &world.store.0 {
        for at in [0, value.len() / 2, value.len() - 1] {
            let mut store = world.store.clone();
            store.0.get_mut(row).unwrap()[at] ^= 1;
            assert!(check(&store).is_err(), "byte {at} of row {row:?}");
        }
    }
    let mut store = world.store.clone();
    store.0.insert(vec![Table::Policy as u8, b'q', 0], world.store.0[&quorate_state::hash::hash_key()].clone());
    assert!(check(&store).is_err(), "a row that was added");
}
