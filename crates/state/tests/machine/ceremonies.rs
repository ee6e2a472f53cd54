//! Key generation through the log: a keyring comes of it once everybody has signed, and not after the deadline.

use crate::world::*;
use quorate_crypto::keyring::KeyringClass;
use quorate_crypto::reshare::{Abort, Body, Complaint, Message, Phase};
use quorate_state::access::keyrings;
use quorate_state::ceremony::{DEADLINE, Fault, Session, faults, session, sessions};
use quorate_state::change::Change;
use quorate_state::command::Command;
use quorate_state::ids::SessionId;
use quorate_state::outcome::{Outcome, Refusal};

const ID: SessionId = SessionId([7; 32]);

fn begin(session: SessionId) -> Change {
    Change::BeginKeyGeneration { session, class: KeyringClass::Cluster }
}

fn begun() -> World {
    let mut world = World::bare();
    assert_eq!(world.submit(begin(ID)), Outcome::Ceremony { keyring: None });
    world
}

fn found(world: &World) -> Session {
    session(&world.store, &ID).unwrap().unwrap()
}

fn deliver(world: &mut World, messages: Vec<Vec<u8>>) {
    for message in messages {
        let outcome = world.apply(&Command::Ceremony { message });
        assert!(matches!(outcome, Outcome::Ceremony { .. }), "{outcome:?}");
    }
}

#[test]
fn a_keyring_comes_of_a_ceremony_that_everybody_signed() {
    let mut world = begun();
    for phase in [Phase::Keys, Phase::Deal] {
        assert_eq!(found(&world).ceremony.phase(), phase);
        let said = world.say(&ID);
        deliver(&mut world, said);
    }
    let mut ready = world.say(&ID);
    let last = ready.pop().unwrap();
    deliver(&mut world, ready);
    assert!(found(&world).is_open());
    assert_eq!(keyrings(&world.store).unwrap().len(), 0, "one signature is missing");
    let Outcome::Ceremony { keyring: Some(id) } = world.apply(&Command::Ceremony { message: last }) else { panic!() };
    let made = keyrings(&world.store).unwrap();
    let (found_id, ring) = &made[0];
    let session = found(&world);
    let certificate = session.ceremony.certificate().unwrap();
    assert_eq!((*found_id, made.len(), ring.y), (id, 1, certificate.key));
    assert_eq!((ring.class, ring.epoch, ring.threshold), (KeyringClass::Cluster, 1, 2));
    assert_eq!((ring.roster, certificate.roster, session.ceremony.params().roster), (ROSTER, ROSTER, ROSTER));
    assert_eq!(ring.public_shares.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(!session.is_open());
}

#[test]
fn a_session_is_held_once() {
    let mut world = begun();
    assert_eq!(world.submit(begin(ID)), Outcome::Refused(Refusal::exists("ceremony")));
    assert_eq!(world.submit(begin(SessionId([8; 32]))), Outcome::Ceremony { keyring: None });
    assert_eq!(sessions(&world.store).unwrap().len(), 2);
}

#[test]
fn what_the_ceremony_does_not_admit_changes_nothing() {
    let mut world = begun();
    let said = world.say(&ID);
    let mut forged = Message::decode(&said[0]).unwrap();
    forged.member = 2;
    let messages = [forged.encode(), Vec::new(), said[0][1..].to_vec()];
    for message in messages {
        let before = world.store.clone();
        assert_code(&world.apply(&Command::Ceremony { message }), "ceremony");
        assert!(world.store == before);
    }
    let mut elsewhere = Message::decode(&said[0]).unwrap();
    elsewhere.session = [9; 32];
    world.untouched(&Command::Ceremony { message: elsewhere.encode() }, Refusal::not_found("ceremony"));
    // Once more, byte for byte, is no harm.
    deliver(&mut world, said[..1].to_vec());
    deliver(&mut world, said[..1].to_vec());
    assert_eq!((found(&world).is_open(), faults(&world.store, &ID).unwrap()), (true, Vec::new()));
}

/// What member 1 says with another seed than it has: signed by it, and different.
fn otherwise(world: &World) -> Vec<u8> {
    let (seed, own) = (ceremony_seed(&SessionId([1; 32]), 1), node(1));
    let member = quorate_crypto::reshare::Member { index: 1, seed: &seed, key: &own, old_share: None };
    member.next(&found(world).ceremony).unwrap().remove(0).encode()
}

#[test]
fn what_a_member_signs_against_the_rules_is_kept_and_ends_the_making_of_a_key() {
    let mut world = begun();
    let (said, other) = (world.say(&ID), otherwise(&begun()));
    deliver(&mut world, said[..1].to_vec());
    let Outcome::Fault { session, member, what } = world.apply(&Command::Ceremony { message: other.clone() }) else {
        panic!("a second, different message of one member is a fault")
    };
    assert_eq!((session, member), (ID, 1));
    let fault = Fault { proven: true, what, index: world.index };
    assert_eq!(faults(&world.store, &ID).unwrap(), [(1, fault.clone())]);
    assert_eq!(
        found(&world).ceremony.phase(),
        Phase::Aborted(Abort::Ordered),
        "nothing can come of it without member 1"
    );
    // Again, it is the same fault; and the others are too late.
    assert!(matches!(world.apply(&Command::Ceremony { message: other }), Outcome::Fault { member: 1, .. }));
    assert_code(&world.apply(&Command::Ceremony { message: said[1].clone() }), "ceremony");
    assert_eq!(faults(&world.store, &ID).unwrap(), [(1, fault)]);
    assert_eq!(quorate_state::machine::check(&world.store), Ok(()));
    // A key that stands goes on standing; who lies afterwards is named all the same.
    let mut world = begun();
    let mut said = Vec::new();
    while found(&world).is_open() {
        said = world.say(&ID);
        deliver(&mut world, said.clone());
    }
    assert!(!said.is_empty());
    assert!(matches!(
        world.apply(&Command::Ceremony { message: otherwise(&begun()) }),
        Outcome::Fault { member: 1, .. }
    ));
    assert_eq!((found(&world).ceremony.phase(), keyrings(&world.store).unwrap().len()), (Phase::Active, 1));
    assert_eq!(faults(&world.store, &ID).unwrap().len(), 1);
}

#[test]
fn a_ruling_is_kept_too() {
    let mut world = begun();
    for _ in 0..2 {
        let said = world.say(&ID);
        deliver(&mut world, said);
    }
    let complaint = Body::Complaint(Complaint { dealer: 1, key_seed: [7; 32] });
    let complaint = Message::sign(found(&world).ceremony.params(), 3, complaint, &node(3)).encode();
    let outcome = world.apply(&Command::Ceremony { message: complaint });
    assert!(matches!(outcome, Outcome::Fault { member: 3, .. }), "{outcome:?}");
    assert!(matches!(faults(&world.store, &ID).unwrap()[..], [(3, Fault { proven: true, .. })]));
    assert!(matches!(found(&world).ceremony.phase(), Phase::Aborted(Abort::Ruled(_))));
}

#[test]
fn a_ceremony_is_given_up_at_its_deadline() {
    let mut world = begun();
    let deadline = found(&world).deadline;
    assert_eq!(deadline, world.now() + DEADLINE);
    let said = world.say(&ID);
    deliver(&mut world, said[..2].to_vec());
    world.pass(DEADLINE);
    assert!(found(&world).is_open(), "its last moment belongs to it");
    world.pass(1);
    assert!(!found(&world).is_open());
    let silent = faults(&world.store, &ID).unwrap();
    assert!(matches!(silent[..], [(3, Fault { proven: false, .. })]), "who was waited for is named: {silent:?}");
    assert_code(&world.apply(&Command::Ceremony { message: said[2].clone() }), "ceremony");
    // One that is complete stays.
    let mut world = World::bare();
    world.generate(7, KeyringClass::Customer);
    world.pass(DEADLINE + 1);
    assert_eq!(found(&world).ceremony.phase(), Phase::Active);
    assert_eq!(keyrings(&world.store).unwrap().len(), 1);
}
