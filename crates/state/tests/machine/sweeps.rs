//! Ends of many leases at one log index, and leases that are forgotten: nothing grows for ever, and no entry takes for ever.

use crate::world::*;
use quorate_crypto::identity::Verified;
use quorate_state::change::Change;
use quorate_state::command::{Command, RevocationProof};
use quorate_state::ids::LeaseId;
use quorate_state::lease::{
    Lease, MAX_PER_COMMAND, REMEMBERED, Selector, State, Subject, Why, lease, principal, quotas, sweeps, swept,
};
use quorate_state::machine::{Position, apply, check};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::Request;
use quorate_state::store::{Table, key as row};
use std::collections::BTreeSet;

fn get(world: &World, id: &LeaseId) -> Lease {
    lease(&world.store, id).unwrap().unwrap()
}

fn revoke_all(selector: Selector) -> Change {
    Change::RevokeLeases { selector }
}

fn changed(outcome: Outcome) -> Vec<LeaseId> {
    match outcome {
        Outcome::Leases { changed } => changed,
        other => panic!("{other:?}"),
    }
}

/// A role with room for all of them.
fn wide(name: &str) -> Change {
    role_with(name, "db", |role| role.max_leases = 5_000)
}

fn issued(world: &mut World, role: &str, owner: &str) -> LeaseId {
    match world.submit_as(owner, issue(role, None)) {
        Outcome::Intent { lease, .. } => lease,
        other => panic!("{other:?}"),
    }
}

#[test]
fn one_entry_ends_so_many_and_the_others_count_as_ended() {
    // Each with what begins its rows.
    so_many_at_once(&Selector::Role("many".to_owned()), &row(Table::LeaseOf, &[&[0], b"many\0"]));
    so_many_at_once(&Selector::Target("db".to_owned()), &row(Table::LeaseWork, &[b"db\0", &[0]]));
}

fn so_many_at_once(selector: &Selector, rows: &[u8]) {
    let mut world = World::with_target();
    assert_eq!(world.submit(wide("many")), Outcome::Done);
    // Without looking at the whole state after each.
    for _ in 0..MAX_PER_COMMAND {
        let request = world.request(issue("many", None));
        let entry = world.command(&World::sign(&request)).encode();
        world.index += 1;
        let at = Position { index: world.index, term: world.term };
        let (writes, outcome) = apply(&world.store, &world.cluster, at, &entry, &Verified::default()).unwrap();
        assert!(matches!(outcome, Outcome::Intent { .. }), "{outcome:?}");
        world.store.commit(writes);
    }
    let (making, living) = (issued(&mut world, "many", ALICE), issued(&mut world, "many", ALICE));
    world.apply(&Command::LeaseActive { term: world.term, lease: living, oid: 1, issued: Vec::new() });

    let first = changed(world.submit(revoke_all(selector.clone())));
    let begun = world.index;
    assert_eq!(first.len(), MAX_PER_COMMAND, "as many as one entry may");
    let there = get(&world, &first[0]);
    assert_eq!((there.state, there.why, there.revoking_index), (State::Revoking, Some(Why::Requested), Some(begun)));
    // The two that are left are ended from that index on, whatever their rows say.
    assert_eq!((get(&world, &making).state, get(&world, &living).state), (State::Intent, State::Active));
    for id in [making, living] {
        assert_eq!(swept(&world.store, &get(&world, &id)).unwrap(), Some(Why::Requested));
    }
    let refused = Outcome::Refused(Refusal::LeaseState { state: "revoking".to_owned() });
    assert_eq!(world.submit(Change::RenewLease { lease: living, ttl: HOUR }), refused);
    let arrived = Command::LeaseActive { term: world.term, lease: making, oid: 2, issued: Vec::new() };
    assert_eq!(world.apply(&arrived), Outcome::Leases { changed: Vec::new() }, "nobody is given it");
    let ended = get(&world, &making);
    assert_eq!((ended.state, ended.oid, ended.was_active), (State::Revoking, Some(2), false));
    // What is asked for after that index is another matter.
    let later = issued(&mut world, "many", ALICE);
    assert_eq!(swept(&world.store, &get(&world, &later)).unwrap(), None);

    // The row of an end that is not complete is frozen here.
    let stored = &world.store.0[&row(Table::LeaseSweep, &[&begun.to_be_bytes()])];
    let last = get(&world, first.last().unwrap());
    let done = [rows, &last.intent_index.to_be_bytes(), &first.last().unwrap().0].concat();
    let length = u32::try_from(done.len()).unwrap().to_le_bytes();
    let named: &[u8] = match selector {
        Selector::Role(_) => &[0, 4, 0, 0, 0, b'm', b'a', b'n', b'y'],
        _ => &[1, 2, 0, 0, 0, b'd', b'b'],
    };
    assert_eq!(*stored, [&[1], named, &[1], &length, &done].concat());

    world.untouched(&Command::Sweep { term: world.term - 1 }, Refusal::Unjustified);
    assert_eq!(changed(world.apply(&Command::Sweep { term: world.term })), [living]);
    assert_eq!(get(&world, &living).revoking_index, Some(world.index));
    assert_eq!((get(&world, &later).state, sweeps(&world.store, 9).unwrap()), (State::Intent, Vec::new()));
    world.untouched(&Command::Sweep { term: world.term }, Refusal::Unjustified);
}

#[test]
fn a_selector_names_what_it_says_and_nothing_else() {
    const ALICES: &str = "spiffe://example.org/app/alice/job";
    let take = |world: &mut World| -> [LeaseId; 4] {
        [("one", ALICE), ("one", ALICES), ("two", ALICE), ("two", BOB)].map(|(role, owner)| issued(world, role, owner))
    };
    for (selector, named) in [
        (Selector::Role("one".to_owned()), vec![0, 1]),
        (Selector::Target("db".to_owned()), vec![0, 1, 2, 3]),
        (Selector::Target("d".to_owned()), vec![]),
        (Selector::Identity(ALICE.to_owned()), vec![0, 2]),
        (Selector::Below(ALICE.to_owned()), vec![0, 1, 2]),
        (Selector::Below("spiffe://example.org/app".to_owned()), vec![0, 1, 2, 3]),
        (Selector::Below("spiffe://example.org/app/ali".to_owned()), vec![]),
    ] {
        let mut world = World::with_target();
        for name in ["one", "two"] {
            assert_eq!(world.submit(wide(name)), Outcome::Done);
        }
        let all = take(&mut world);
        for (at, id) in all.iter().enumerate() {
            assert_eq!(selector.names(&get(&world, id)), named.contains(&at), "{selector} and lease {at}");
        }
        let ended: BTreeSet<LeaseId> = changed(world.submit(revoke_all(selector.clone()))).into_iter().collect();
        assert_eq!(ended, named.iter().map(|at| all[*at]).collect(), "{selector}");
        assert!(sweeps(&world.store, 9).unwrap().is_empty(), "{selector}: it is complete");
        assert!(changed(world.submit(revoke_all(selector))).is_empty(), "all of them are ending");
    }
    let mut world = World::with_target();
    let long = "x".repeat(257);
    for bad in [
        Selector::Role(String::new()),
        Selector::Target(long),
        Selector::Identity("a\0b".to_owned()),
        Selector::Below("app".to_owned()),
        Selector::Below("spiffe://example.org/".to_owned()),
    ] {
        assert_invalid(&world.submit(revoke_all(bad)), "selector");
    }
}

#[test]
fn a_lease_is_forgotten_long_after_its_end_and_never_comes_again() {
    let mut world = World::with_target();
    let request = world.request(issue("reader", None));
    let Outcome::Intent { lease: id, .. } = world.send(&World::sign(&request)) else { panic!() };
    let login = get(&world, &id).principal;
    let ending = world.active(1);
    for lease in [id, ending] {
        world.submit(Change::RevokeLease { lease });
    }
    let (looked_at, endpoint) = (CREATED, String::new());
    let proof = RevocationProof { lease: id, fenced: true, looked_at, sessions_ended: 0, endpoint };
    world.apply(&Command::LeaseRevoked { term: world.term, described: world.described(), proofs: vec![proof] });
    let end = world.now() + REMEMBERED;
    world.tick(end - 1);
    assert_eq!(get(&world, &id).state, State::Revoked, "for a week its end can be looked at");
    let again = Request { not_after: world.now() + MINUTE, ..request.clone() };
    let command = world.command(&World::sign(&again));
    world.untouched(&command, Refusal::RequestIdReused);
    world.tick(end);
    assert_eq!(lease(&world.store, &id).unwrap(), None);
    assert_eq!(get(&world, &ending).state, State::Revoking, "what has not ended is never forgotten");

    // The request itself is too late, and the same id under another end is another lease.
    let command = world.command(&World::sign(&request));
    world.untouched(&command, Refusal::TooLate { not_after: request.not_after, now: world.now() });
    let again = Request { not_after: world.now() + MINUTE, ..request };
    let Outcome::Intent { lease: other, .. } = world.send(&World::sign(&again)) else { panic!() };
    assert_ne!(other, id);
    // And what comes back at the target is a stray that nobody knows.
    assert_eq!(login, principal(&world.cluster, "db", &id));
    let adopt = Command::Adopt { term: world.term, target: "db".to_owned(), principal: login, oid: 9 };
    assert_eq!(changed(world.apply(&adopt)), [id]);
    check(&world.store).unwrap();
}

#[test]
fn as_many_are_forgotten_as_come() {
    let mut world = World::with_target();
    let gone = |world: &World| world.store.0.keys().filter(|k| k[0] == Table::LeaseGone as u8).count();
    let prove = |world: &mut World, id: LeaseId| {
        world.submit(Change::RevokeLease { lease: id });
        let (looked_at, endpoint) = (CREATED, String::new());
        let proof = RevocationProof { lease: id, fenced: true, looked_at, sessions_ended: 0, endpoint };
        changed(world.apply(&Command::LeaseRevoked {
            term: world.term,
            described: world.described(),
            proofs: vec![proof],
        }))
    };
    for _ in 0..3 {
        let id = world.active(1);
        assert_eq!(prove(&mut world, id), [id]);
    }
    // Time moves with an endorsement, which forgets nothing by itself.
    let id = world.active(1);
    assert_eq!(gone(&world), 3);
    world.tick(world.now() + REMEMBERED / 2);
    assert_eq!(prove(&mut world, id), [id]);
    world.tick(world.now() + REMEMBERED / 2 + 1);
    assert_eq!(gone(&world), 1, "those of long ago");
}

#[test]
fn a_namespace_ends_with_all_below_it() {
    let mut world = World::with_target();
    for (namespace, label) in [("team/a", "one"), ("team/ab", "two"), ("team/a/x", "three")] {
        assert_eq!(world.submit(Change::CreateNamespace { namespace: namespace.to_owned() }), Outcome::Done);
        let inside = role_with(label, "db", |role| role.namespace = namespace.to_owned());
        assert_eq!(world.submit(inside), Outcome::Done);
    }
    let outside = issued(&mut world, "reader", ALICE);
    let (one, two, three) =
        (issued(&mut world, "one", ALICE), issued(&mut world, "two", ALICE), issued(&mut world, "three", BOB));
    let revoke = |of: &str| Change::RevokeLeases { selector: Selector::Namespace(of.to_owned()) };
    assert_eq!(changed(world.submit(revoke("team/nobody"))), []);
    assert_eq!(changed(world.submit(revoke("team/a"))), [one, three], "by whole segments");
    assert_eq!(changed(world.submit(revoke("team"))), [two]);
    assert_eq!(changed(world.submit(revoke("team"))), []);
    assert_eq!(lease(&world.store, &outside).unwrap().unwrap().state, State::Intent);
}

#[test]
fn quotas_bound_what_is_not_revoked() {
    let mut world = World::with_target();
    for namespace in ["team/a", "team/a/x"] {
        assert_eq!(world.submit(Change::CreateNamespace { namespace: namespace.to_owned() }), Outcome::Done);
    }
    let inside = role_with("inside", "db", |role| (role.namespace, role.max_leases) = ("team/a/x".to_owned(), 100));
    assert_eq!(world.submit(inside), Outcome::Done);
    assert_eq!(world.submit(wide("wide")), Outcome::Done);
    let set = |world: &mut World, subject: &Subject, limit| {
        assert_eq!(world.submit(Change::SetQuota { subject: subject.clone(), limit }), Outcome::Done, "{subject}");
    };
    let full = |what: &Subject, limit| Outcome::Refused(Refusal::Quota { what: what.to_string(), limit });
    let (alice, each) = (Subject::Identity(ALICE.to_owned()), Subject::EachIdentity);
    let (target, team) = (Subject::Target("db".to_owned()), Subject::Namespace("team/a".to_owned()));
    // Each identity, and one that has its own.
    set(&mut world, &each, Some(1));
    let first = issued(&mut world, "wide", ALICE);
    assert_eq!(world.submit_as(ALICE, issue("inside", None)), full(&alice, 1), "whichever the role is");
    issued(&mut world, "wide", BOB);
    set(&mut world, &alice, Some(2));
    issued(&mut world, "wide", ALICE);
    assert_eq!(world.submit_as(ALICE, issue("wide", None)), full(&alice, 2));
    // One that is ending counts until it is proved to be gone.
    assert_eq!(changed(world.submit(Change::RevokeLease { lease: first })), [first]);
    assert_eq!(world.submit_as(ALICE, issue("wide", None)), full(&alice, 2));
    world.end(first);
    issued(&mut world, "wide", ALICE);
    set(&mut world, &alice, None);
    set(&mut world, &each, None);
    // The target: three are there.
    set(&mut world, &target, Some(3));
    assert_eq!(world.submit(issue("wide", None)), full(&target, 3));
    set(&mut world, &target, None);
    // A namespace bounds those below it.
    set(&mut world, &team, Some(1));
    issued(&mut world, "inside", ALICE);
    assert_eq!(world.submit(issue("inside", None)), full(&team, 1));
    issued(&mut world, "wide", ALICE);
    assert_eq!(quotas(&world.store).unwrap(), [(team.clone(), 1)]);
    set(&mut world, &team, Some(0));
    assert_eq!(world.submit(issue("inside", None)), full(&team, 0));
    // Nothing that is not there.
    for (subject, what) in
        [(Subject::Target("no".to_owned()), "target"), (Subject::Namespace("no".to_owned()), "namespace")]
    {
        let refused = world.submit(Change::SetQuota { subject, limit: Some(1) });
        assert_eq!(refused, Outcome::Refused(Refusal::not_found(what)));
    }
    let odd = Change::SetQuota { subject: Subject::Identity("alice".to_owned()), limit: Some(1) };
    assert_invalid(&world.submit(odd), "identity");
}
