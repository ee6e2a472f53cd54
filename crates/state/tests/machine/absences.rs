//! Members that administrators record as powered off or destroyed: who may say so, of whom, what follows, and how it ends.

use crate::world::*;
use Absence::{Destroyed, PoweredOff};
use quorate_crypto::keyring::KeyringClass;
use quorate_state::absence::{Absence, MAX_REASON, Record, contributors, records};
use quorate_state::access::keyrings;
use quorate_state::attest::{Applied, Attestation, Excuses, excused};
use quorate_state::change::Change;
use quorate_state::command::Command;
use quorate_state::ids::{ClusterId, SessionId};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::SignedRequest;
use std::collections::BTreeSet;

fn namespace(name: &str) -> Change {
    Change::CreateNamespace { namespace: name.to_owned() }
}

fn recorded(world: &World) -> Vec<(u8, Absence)> {
    records(&world.store).unwrap().into_iter().map(|(member, record)| (member, record.absence)).collect()
}

/// A member's word that it has applied `index`.
fn word(world: &World, member: u8, index: u64) -> Attestation {
    let applied = Applied { index, log: [1; 32], state: [2; 32] };
    Attestation::sign(&world.cluster, ROSTER, member, applied, &node(member))
}

#[test]
fn m_administrators_record_it_and_no_fewer() {
    let mut world = World::new();
    let request = world.request(gone(2, Some(PoweredOff)));
    let (alice, first, third) = (key(ALICE), key("admin-1"), key("admin-3"));
    let cases: [(&[_], u8); 4] = [(&[], 0), (&[&first], 1), (&[&first, &first], 1), (&[&first, &alice], 1)];
    for (signers, got) in cases {
        let signed = SignedRequest::sign(&request, &alice, signers);
        let command = world.command(&signed);
        let before = world.store.clone();
        let outcome = world.apply(&command);
        let Outcome::Refused(refusal) = &outcome else { panic!("{got} of 2 administrators were enough: {outcome:?}") };
        assert!(["not_by_administrators", "bad_signature"].contains(&refusal.code()), "{got} signatures: {refusal}");
        assert!(world.store == before, "a refused record changed the state");
    }
    assert_eq!(world.send(&SignedRequest::sign(&request, &alice, &[&first, &third])), Outcome::Done);
    let record = records(&world.store).unwrap().remove(&2).unwrap();
    let expected = Record { absence: PoweredOff, reason: "it burned".to_owned(), index: world.index, at: world.now() };
    assert_eq!(record, expected, "who, why and when stand in the state");
}

#[test]
fn the_member_and_the_reason_are_typed_out() {
    let mut world = World::new();
    let typed = |member, name: &str, reason: &str| Change::RecordMember {
        member,
        name: name.to_owned(),
        absence: Some(Destroyed),
        reason: reason.to_owned(),
    };
    for (member, name) in [(2, "node-3"), (2, ""), (9, "node-9"), (0, "node-0")] {
        assert_code(&world.submit(typed(member, name, "why")), "not_found");
    }
    for reason in ["", "  ", "a\nb", &"x".repeat(MAX_REASON + 1)] {
        assert_invalid(&world.submit(typed(2, "node-2", reason)), "reason");
    }
    assert_eq!(recorded(&world), [], "nothing of it was recorded");
    assert_eq!(world.submit(typed(2, "node-2", &"x".repeat(MAX_REASON))), Outcome::Done);
}

#[test]
fn no_more_are_gone_than_may_be_corrupt() {
    let mut world = World::new();
    assert_eq!(world.submit(gone(2, Some(PoweredOff))), Outcome::Done);
    for absence in [PoweredOff, Destroyed] {
        assert_invalid(&world.submit(gone(3, Some(absence))), "member");
    }
    assert_eq!(recorded(&world), [(2, PoweredOff)], "with two of three gone nobody could decide anything");
    assert_code(&world.submit(gone(2, Some(PoweredOff))), "exists");
    assert_code(&world.submit(gone(3, None)), "not_found");
    assert_eq!(world.submit(gone(2, None)), Outcome::Done, "administrators take it back");
    assert_eq!(world.submit(gone(3, Some(PoweredOff))), Outcome::Done, "and then another one may be");
    assert_eq!(world.submit(gone(3, Some(Destroyed))), Outcome::Done, "what is off can turn out to be destroyed");
}

#[test]
fn whoever_is_off_counts_as_before_and_its_own_word_ends_the_record() {
    let mut world = World::new();
    let before = world.authority();
    assert_eq!(world.submit(gone(2, Some(PoweredOff))), Outcome::Done);
    assert_eq!(world.authority(), before, "nobody lost a right");
    assert_eq!(contributors(&world.store).unwrap().members.len(), 3);
    let at = world.index;
    let returned = |attestation| Command::Returned { attestation };
    let early = returned(word(&world, 2, at - 1));
    world.untouched(&early, Refusal::Unjustified);
    let of_another = returned(word(&world, 3, at + 1));
    world.untouched(&of_another, Refusal::Unjustified);
    let forged = returned(Attestation { member: 2, ..word(&world, 3, at + 1) });
    world.untouched(&forged, Refusal::Unjustified);
    let elsewhere = Applied { index: at, log: [1; 32], state: [2; 32] };
    let elsewhere = returned(Attestation::sign(&ClusterId([9; 32]), ROSTER, 2, elsewhere, &node(2)));
    world.untouched(&elsewhere, Refusal::Unjustified);
    let back = returned(word(&world, 2, at));
    assert_eq!(world.apply(&back), Outcome::Done, "it has applied the record itself: it is back");
    assert_eq!(recorded(&world), []);
    world.untouched(&back, Refusal::Unjustified);
}

#[test]
fn whoever_is_destroyed_contributes_nothing_for_ever() {
    let mut world = World::new();
    let request = world.request(namespace("early"));
    let signed = World::sign(&request);
    let endorsed_before = world.endorsed(&signed, world.endorse(&signed, &[2, 3]));
    let before = world.authority();
    assert_eq!(world.submit(gone(2, Some(Destroyed))), Outcome::Done);
    let current = world.authority();
    assert!(current > before, "what it endorsed before is stale");
    world.untouched(&endorsed_before, Refusal::Stale { current });

    let request = world.request(namespace("later"));
    let signed = World::sign(&request);
    for with in [[2, 1], [2, 3]] {
        let command = world.endorsed(&signed, world.endorse(&signed, &with));
        world.untouched(&command, Refusal::NotEndorsed { got: 1, needed: 2 });
    }
    let readings = vec![world.reading(2, CREATED + SECOND), world.reading(1, CREATED + SECOND)];
    assert_code(&world.apply(&Command::Tick { readings }), "not_endorsed");
    let late = Command::Returned { attestation: word(&world, 2, world.index) };
    world.untouched(&late, Refusal::Unjustified);
    for absence in [None, Some(PoweredOff), Some(Destroyed)] {
        assert_invalid(&world.submit(gone(2, absence)), "member");
    }
    assert_eq!(world.send(&signed), Outcome::Done, "the others go on: members 1 and 3");
    assert_eq!(recorded(&world), [(2, Destroyed)]);
}

#[test]
fn no_executor_and_no_holder_of_a_new_share_is_destroyed() {
    let mut world = World::with_target();
    assert_eq!(world.submit(gone(2, Some(Destroyed))), Outcome::Done);
    world.term += 1;
    let office_of_2 = office("db", 2, world.term);
    assert!(matches!(world.apply(&office_of_2), Outcome::Refused(_)), "a destroyed member takes no office");
    assert_eq!(world.apply(&office("db", 3, world.term)), Outcome::Done);
    let id = SessionId([9; 32]);
    world.submit(Change::BeginKeyGeneration { session: id, class: KeyringClass::Cluster });
    loop {
        let session = quorate_state::ceremony::session(&world.store, &id).unwrap().unwrap();
        assert_eq!(session.ceremony.params().members.keys().copied().collect::<Vec<_>>(), [1, 3]);
        let says = |i: u8| {
            let (seed, key) = (ceremony_seed(&id, i), node(i));
            let member = quorate_crypto::reshare::Member { index: i, seed: &seed, key: &key, old_share: None };
            member.next(&session.ceremony).unwrap()
        };
        let messages: Vec<_> = [1, 3].into_iter().flat_map(says).collect();
        if messages.is_empty() {
            break;
        }
        for message in messages {
            let outcome = world.apply(&Command::Ceremony { message: message.encode() });
            assert!(matches!(outcome, Outcome::Ceremony { .. }), "{outcome:?}");
        }
    }
    let made = keyrings(&world.store).unwrap().into_iter().find(|(_, ring)| ring.session == id).unwrap().1;
    assert_eq!(made.public_shares.iter().map(|(i, _)| *i).collect::<Vec<_>>(), [1, 3], "no share for who is gone");
}

#[test]
fn a_ceremony_takes_nothing_from_a_member_that_was_destroyed_meanwhile() {
    let mut world = World::new();
    let id = SessionId([9; 32]);
    world.submit(Change::BeginKeyGeneration { session: id, class: KeyringClass::Cluster });
    let messages = world.say(&id);
    assert_eq!(world.submit(gone(2, Some(Destroyed))), Outcome::Done);
    let outcomes: Vec<Outcome> = messages.into_iter().map(|m| world.apply(&Command::Ceremony { message: m })).collect();
    assert_eq!(outcomes.iter().filter(|o| matches!(o, Outcome::Refused(Refusal::Ceremony { .. }))).count(), 1);
    assert!(matches!(outcomes.get(1), Some(Outcome::Refused(_))), "member 2's: {outcomes:?}");
}

#[test]
fn t_members_that_have_applied_the_change_excuse_and_no_fewer() {
    let world = World::new();
    let record = |absence| Record { absence, reason: "why".to_owned(), index: 20, at: CREATED };
    let says = |by: u8, index: u64, heard: &[u8], absence| {
        let records = [(2, record(absence))].into();
        let heard: BTreeSet<u8> = heard.iter().copied().collect();
        Excuses::sign(&world.cluster, (ROSTER, by), index, &records, &heard, &node(by))
    };
    let off = |by, index, heard: &[u8]| says(by, index, heard, PoweredOff);
    assert_eq!(excused(30, 2, &[off(1, 30, &[]), off(3, 31, &[])]), [(2, PoweredOff)].into());
    assert_eq!(excused(30, 2, &[off(1, 30, &[])]), [].into(), "one member's word");
    assert_eq!(excused(30, 2, &[off(1, 30, &[]), off(1, 31, &[])]), [].into(), "one member's word, twice");
    assert_eq!(excused(30, 2, &[off(1, 30, &[]), off(2, 31, &[])]), [].into(), "nobody excuses itself");
    assert_eq!(excused(30, 2, &[off(1, 30, &[]), off(3, 29, &[])]), [].into(), "one has not applied the change");
    assert_eq!(excused(30, 2, &[off(1, 30, &[]), off(3, 31, &[2])]), [].into(), "one has heard of it since");
    let destroyed = |by| says(by, 30, &[2], Destroyed);
    assert_eq!(excused(30, 2, &[destroyed(1), destroyed(3)]), [(2, Destroyed)].into(), "whoever is heard of");
    assert_eq!(excused(30, 2, &[destroyed(1), off(3, 30, &[])]), [(2, PoweredOff)].into(), "only one says destroyed");

    let word = off(1, 30, &[]);
    let (own, other) = (node(1).verify_key().0, node(3).verify_key().0);
    assert!(word.is_signed(&world.cluster, &own) && !word.is_signed(&world.cluster, &other));
    assert!(!word.is_signed(&ClusterId([9; 32]), &own), "of another cluster");
    for changed in [
        Excuses { roster: ROSTER + 1, ..word.clone() },
        Excuses { member: 3, ..word.clone() },
        Excuses { index: 31, ..word.clone() },
        Excuses { gone: vec![(2, Destroyed)], ..word.clone() },
        Excuses { gone: vec![(3, PoweredOff)], ..word.clone() },
        Excuses { gone: Vec::new(), ..word.clone() },
    ] {
        assert!(!changed.is_signed(&world.cluster, &own), "{changed:?}");
    }
}
