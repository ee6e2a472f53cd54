//! What is deleted is not gone: storage keeps it until it has time, and whoever reads in order walks over it. So no command, and nothing
//! that is asked many times in a second, may begin where everything was deleted long ago.

use crate::world::*;
use quorate_crypto::identity::Verified;
use quorate_state::command::Command;
use quorate_state::lease::{REMEMBERED, leases, next_due};
use quorate_state::machine::apply;
use quorate_state::outcome::Outcome;
use quorate_state::store::{MemStore, Pair, Store, StoreError, Writes};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::ops::Bound;

/// A store that never forgets what was deleted, and counts how much of it is walked over, and how many rows are read one by one.
#[derive(Default)]
struct Graveyard {
    store: MemStore,
    graves: BTreeSet<Vec<u8>>,
    walked: Cell<usize>,
    read: Cell<usize>,
}

impl Graveyard {
    fn commit(&mut self, writes: Writes) {
        for (key, value) in &writes {
            match value {
                Some(_) => self.graves.remove(key),
                None => self.graves.insert(key.clone()),
            };
        }
        self.store.commit(writes);
    }
}

impl Store for Graveyard {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        self.read.set(self.read.get() + 1);
        self.store.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Pair>, StoreError> {
        let rows = self.store.scan(from, to, limit)?;
        let full = rows.last().filter(|_| rows.len() == limit).map(|(key, _)| key.clone());
        if from < to {
            let upto = full.unwrap_or_else(|| to.to_vec());
            let passed = self.graves.range((Bound::Included(from.to_vec()), Bound::Excluded(upto))).count();
            self.walked.set(self.walked.get() + passed);
        }
        Ok(rows)
    }
}

#[test]
fn no_command_walks_over_what_was_deleted_long_ago() {
    const ROUNDS: usize = 12;
    const LEASES: u32 = 60;
    let mut world = World::with_target();
    let role = role_with("reader", "db", |role| (role.max_leases, role.default_ttl) = (LEASES, 10 * 60_000));
    assert_eq!(world.submit(role), Outcome::Done);
    world.in_bulk(|world| {
        for round in 0..ROUNDS {
            let made: Vec<_> = (0..LEASES).map(|n| world.active(20_000 + n)).collect();
            world.pass(20 * 60_000);
            let due = Command::Expire { term: world.term, upto: world.now() };
            while !matches!(world.apply(&due), Outcome::Leases { changed } if changed.is_empty()) {}
            made.into_iter().for_each(|lease| world.end(lease));
            if round % 4 == 3 {
                world.tick(world.now() + REMEMBERED);
                // A few are forgotten with each, and nothing ends for a while after such a leap.
                world.pass(60 * 60_000);
            }
        }
    });
    let left = leases(&world.store, None, usize::MAX).unwrap().len();
    assert!(left < 200, "the leases of long ago are forgotten, or this tests nothing: {left}");
    let mut yard = Graveyard::default();
    yard.commit(genesis().initial_state());
    let (mut most, mut dearest) = ((0, 0), (0, 0));
    for (n, (at, entry)) in world.log.iter().enumerate() {
        yard.walked.set(0);
        yard.read.set(0);
        let (writes, outcome) = apply(&yard, &world.cluster, *at, entry, &Verified::default()).unwrap();
        most = most.max((yard.walked.get(), n));
        if let Outcome::Leases { changed } = outcome
            && changed.len() > 16
        {
            dearest = dearest.max((yard.read.get().saturating_sub(changed.len()), changed.len()));
        }
        yard.commit(writes);
    }
    assert!(yard.store == world.store, "it is the same history");
    let (graves, entries) = (yard.graves.len(), world.log.len());
    assert!(graves > 5_000, "only {graves} rows were deleted, so this tests nothing");
    // What one command deletes itself, and what is of the same moment as the last that another one deleted.
    assert!(most.0 <= 256, "entry {} of {entries} walked over {} of {graves} deleted rows", most.1, most.0);
    // Each lease is read, and nothing else for each: what its rows in the indexes are is known from that.
    assert!(dearest.1 > 16 && dearest.0 <= 48, "to change {} leases {} rows were read besides", dearest.1, dearest.0);
    yard.walked.set(0);
    next_due(&yard).unwrap();
    assert!(yard.walked.get() <= 64, "what is due next: {}", yard.walked.get());
}
