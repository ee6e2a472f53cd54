//! The same log gives the same bytes; a log with a byte changed gives nothing that its authors did not sign.

use crate::world::*;
use borsh::BorshSerialize;
use quorate_crypto::identity::Verified;
use quorate_crypto::keyring::KeyringClass;
use quorate_state::change::Change;
use quorate_state::command::{Command, RevocationProof};
use quorate_state::ids::{LeaseId, SessionId};
use quorate_state::lease::principal;
use quorate_state::machine::{Position, apply, check};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::store::MemStore;

/// A history with something of everything, refusals too.
fn history() -> World {
    let mut world = World::with_target();
    for _ in 0..2 {
        world.put("app/a/b", None);
        world.put("safe/x", None);
    }
    world.put("app/a/b", Some(1));
    let (namespace, path, numbers) = ("team".to_owned(), "app/a/b".to_owned(), vec![1]);
    world.submit(Change::DeleteSecret { namespace: namespace.clone(), path: path.clone(), numbers: numbers.clone() });
    world.submit(Change::UndeleteSecret { namespace: namespace.clone(), path: path.clone(), numbers: numbers.clone() });
    world.submit(Change::DestroySecret { namespace, path, numbers });
    let (one, two) = (world.active(1), world.intent());
    world.submit(Change::RenewLease { lease: one, ttl: 2 * HOUR });
    world.submit(Change::RevokeLease { lease: one });
    world.apply(&proved(&world, one));
    world.apply(&Command::LeaseFailed { term: world.term, lease: two });
    world.submit(Change::PutPolicy { name: "p".to_owned(), text: "x".to_owned() });
    world.submit(Change::DeletePolicy { name: "p".to_owned() });
    world.submit(Change::BlockIdentity { principal: BOB.to_owned() });
    world.submit(Change::UnblockIdentity { principal: BOB.to_owned() });
    let login = principal(&world.cluster, "db", &LeaseId([3; 16]));
    world.apply(&Command::Adopt { term: world.term, target: "db".to_owned(), principal: login, oid: 7 });
    world.pass(11 * MINUTE);
    world.apply(&Command::Expire { term: world.term, upto: world.now() });
    world.term += 1;
    world.apply(&office("db", 2, world.term));
    world.submit(Change::DeleteRole { name: "reader".to_owned() });
    world.apply_bytes(b"nonsense");
    world
}

fn proved(world: &World, lease: LeaseId) -> Command {
    let endpoint = "db.example.org:5432".to_owned();
    let proof = RevocationProof { lease, fenced: true, looked_at: CREATED, sessions_ended: 1, endpoint };
    Command::LeaseRevoked { term: world.term, described: world.described(), proofs: vec![proof] }
}

#[test]
fn the_same_log_gives_the_same_bytes() {
    let world = history();
    let mut store = MemStore::default();
    store.commit(genesis().initial_state());
    assert!(world.log.len() > 60);
    let mut outcomes = Vec::new();
    for (at, entry) in &world.log {
        let (writes, outcome) = apply(&store, &world.cluster, *at, entry, &Verified::default()).unwrap();
        store.commit(writes);
        outcomes.push(outcome);
    }
    assert!(store == world.store);
    // Entry by entry, against a third replica that begins from a snapshot in the middle.
    let half = world.log.len() / 2;
    let mut late = MemStore::default();
    late.commit(genesis().initial_state());
    for (at, entry) in &world.log[..half] {
        late.commit(apply(&late, &world.cluster, *at, entry, &Verified::default()).unwrap().0);
    }
    let mut snapshot = MemStore(late.0.into_iter().collect());
    for ((at, entry), outcome) in world.log[half..].iter().zip(&outcomes[half..]) {
        let (writes, again) = apply(&snapshot, &world.cluster, *at, entry, &Verified::default()).unwrap();
        snapshot.commit(writes);
        assert_eq!(again, *outcome);
    }
    assert!(snapshot == world.store);
}

/// One command of each kind, each of which does something in this state.
fn commands(world: &mut World) -> Vec<Command> {
    let (intent, other, ending) = (world.intent(), world.intent(), world.active(1));
    world.submit(Change::RevokeLease { lease: ending });
    world.submit(Change::BeginKeyGeneration { session: SessionId([9; 32]), class: KeyringClass::Cluster });
    let sealed = world.seal("app/x").make();
    let put = World::sign(&world.request(put("app/x", sealed, None)));
    let block = World::sign(&world.request(Change::BlockIdentity { principal: ALICE.to_owned() }));
    let readings = vec![world.reading(1, world.now() + 9), world.reading(2, world.now() + 8)];
    let message = world.say(&SessionId([9; 32])).remove(0);
    let login = principal(&world.cluster, "db", &LeaseId([3; 16]));
    let term = world.term;
    vec![
        world.command(&put),
        world.command(&block),
        Command::Tick { readings },
        Command::Ceremony { message },
        Command::Expire { term, upto: world.now() },
        Command::LeaseActive { term, lease: intent, oid: 3, issued: Vec::new() },
        Command::LeaseFailed { term, lease: other },
        proved(world, ending),
        Command::Adopt { term, target: "db".to_owned(), principal: login, oid: 7 },
    ]
}

#[test]
fn a_command_with_a_byte_flipped_does_nothing_that_was_not_signed() {
    let mut world = World::with_target();
    let commands = commands(&mut world);
    let at = Position { index: world.index + 1, term: world.term };
    for command in commands {
        let entry = command.encode();
        let (done, outcome) = apply(&world.store, &world.cluster, at, &entry, &Verified::default()).unwrap();
        assert!(!matches!(outcome, Outcome::Refused(_)), "{command}: {outcome:?}");
        // The stamp is the leader's own word, and so is what the last five say: their terms and the state bound them.
        let signed = match &command {
            Command::Endorsed { stamp, .. } => {
                let mut own = Vec::new();
                stamp.serialize(&mut own).unwrap();
                entry.len() - own.len()
            }
            Command::Tick { .. } | Command::Ceremony { .. } => entry.len(),
            _ => 0,
        };
        for i in 0..entry.len() {
            let mut flipped = entry.clone();
            flipped[i] ^= 1 << (i % 8);
            let (writes, outcome) = apply(&world.store, &world.cluster, at, &flipped, &Verified::default()).unwrap();
            if i < signed {
                assert!(
                    matches!(outcome, Outcome::Refused(_)) && writes.is_empty(),
                    "{command}, byte {i}: {outcome:?}"
                );
            } else if !writes.is_empty() && writes != done {
                let mut store = world.store.clone();
                store.commit(writes);
                assert_eq!(check(&store), Ok(()), "{command}, byte {i}");
            }
        }
        for cut in (0..entry.len()).step_by(7) {
            let (writes, outcome) =
                apply(&world.store, &world.cluster, at, &entry[..cut], &Verified::default()).unwrap();
            assert_eq!((writes.len(), outcome), (0, Outcome::Refused(Refusal::Malformed)), "{command} cut at {cut}");
        }
    }
}
