//! Signatures, endorsements, times, and the request table.

use crate::world::*;
use quorate_state::change::Change;
use quorate_state::command::Command;
use quorate_state::ids::{ClusterId, RequestId};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::{
    Endorsement, MAX_ADMIN_VALIDITY, MAX_ENDORSED, MAX_VALIDITY, Request, Signature, SignedRequest, remembered,
};
use quorate_state::store::{Table, key as row};

fn namespace(name: &str) -> Change {
    Change::CreateNamespace { namespace: name.to_owned() }
}

fn policy(text: &str) -> Change {
    Change::PutPolicy { name: "p".to_owned(), text: text.to_owned() }
}

fn is_remembered(world: &World, request: &Request) -> bool {
    remembered(&world.store, &key(&request.principal).verify_key().0, &request.id).unwrap().is_some()
}

#[test]
fn the_same_request_again_has_the_same_outcome_and_no_second_effect() {
    let mut world = World::new();
    let sealed = world.seal("app/db").make();
    let request = world.request(put("app/db", sealed, None));
    let signed = World::sign(&request);
    let first = world.send(&signed);
    assert!(matches!(first, Outcome::Stored { number: 1, .. }), "{first:?}");
    let before = world.store.clone();
    assert_eq!(world.send(&signed), first);
    assert!(world.store == before);
    // Whoever is told the outcome needs no endorsement for it: it is decided.
    assert_eq!(world.apply(&world.endorsed(&signed, Vec::new())), first);
}

#[test]
fn a_refusal_of_the_change_is_final_too() {
    let mut world = World::new();
    let request = world.request(namespace("team"));
    let signed = World::sign(&request);
    let refused = Outcome::Refused(Refusal::exists("namespace"));
    assert_eq!(world.send(&signed), refused);
    assert!(is_remembered(&world, &request));
    assert_eq!(world.send(&signed), refused);
}

#[test]
fn an_id_belongs_to_one_request_of_one_signer() {
    let mut world = World::new();
    let first = world.request(namespace("one"));
    assert_eq!(world.send(&World::sign(&first)), Outcome::Done);
    let other = Request { change: namespace("two"), ..first.clone() };
    let command = world.command(&World::sign(&other));
    world.untouched(&command, Refusal::RequestIdReused);
    let bob = Request { principal: BOB.to_owned(), ..other };
    assert_eq!(world.send(&World::sign(&bob)), Outcome::Done);
}

#[test]
fn what_is_not_decided_consumes_nothing() {
    let mut world = World::new();
    let request = world.request(namespace("later"));
    let signed = World::sign(&request);
    let early = world.command(&signed);
    let few = world.endorsed(&signed, world.endorse(&signed, &[2]));
    world.untouched(&few, Refusal::NotEndorsed { got: 1, needed: 2 });
    assert_eq!(world.submit(policy("")), Outcome::Done);
    let current = world.authority();
    world.untouched(&early, Refusal::Stale { current });
    assert_eq!(world.send(&signed), Outcome::Done);
    assert!(is_remembered(&world, &request));
}

#[test]
fn a_request_is_remembered_until_its_time_is_over() {
    let mut world = World::new();
    let request = world.request(namespace("once"));
    let signed = World::sign(&request);
    assert_eq!(world.send(&signed), Outcome::Done);
    assert_eq!(world.tick(request.not_after), Outcome::Time { now: request.not_after, jumped: false });
    assert_eq!(world.send(&signed), Outcome::Done, "not_after itself still belongs to it");
    assert_eq!(world.tick(request.not_after + 1), Outcome::Time { now: request.not_after + 1, jumped: false });
    assert!(!is_remembered(&world, &request));
    let late = Refusal::TooLate { not_after: request.not_after, now: request.not_after + 1 };
    let command = world.command(&signed);
    world.untouched(&command, late);
}

#[test]
fn old_requests_are_forgotten_a_few_at_a_time() {
    let mut world = World::bare();
    for i in 0..70 {
        assert_eq!(world.submit(namespace(&format!("n{i}"))), Outcome::Done);
    }
    let known = |world: &World| world.store.0.range(row(Table::Request, &[])..row(Table::RequestEnd, &[])).count();
    assert_eq!(known(&world), 70);
    let later = world.now() + 2 * MINUTE;
    world.tick(later);
    assert_eq!(known(&world), 6);
    world.tick(later + 1);
    assert_eq!(known(&world), 0);
}

#[test]
fn the_caller_signs_what_is_applied() {
    let mut world = World::new();
    let request = world.request(namespace("x"));
    let signed = World::sign(&request);
    let mut refused = |signed: SignedRequest| {
        let command = world.command(&signed);
        world.untouched(&command, Refusal::BadSignature);
    };
    refused(SignedRequest { signatures: Vec::new(), ..signed.clone() });
    let mut altered = signed.clone();
    altered.signatures[0].signature[7] ^= 1;
    refused(altered);
    let other = World::sign(&Request { change: namespace("y"), ..request.clone() });
    refused(SignedRequest { bytes: other.bytes, signatures: signed.signatures.clone() });
    // A signature that nothing calls for would be a second form of the same request.
    refused(SignedRequest::sign(&request, &key(ALICE), &[&key("admin-1")]));
    // Signed for another purpose.
    let wrong = Signature { key: key(ALICE).verify_key().0, signature: key(ALICE).sign("endorse", &[&signed.bytes]) };
    refused(SignedRequest { bytes: signed.bytes, signatures: vec![wrong] });
}

#[test]
fn a_request_is_for_one_cluster() {
    let mut world = World::new();
    let request = Request { cluster: ClusterId([9; 32]), ..world.request(namespace("x")) };
    let command = world.command(&World::sign(&request));
    world.untouched(&command, Refusal::WrongCluster);
}

#[test]
fn bytes_that_are_no_request_are_refused() {
    let mut world = World::new();
    let good = World::sign(&world.request(namespace("x")));
    for bytes in [Vec::new(), vec![1], vec![2; 40], [&good.bytes[..], &[0]].concat(), good.bytes[1..].to_vec()] {
        let signature = key(ALICE).sign("request", &[&bytes]);
        let signatures = vec![Signature { key: key(ALICE).verify_key().0, signature }];
        let command = world.command(&SignedRequest { bytes, signatures });
        world.untouched(&command, Refusal::Malformed);
    }
}

#[test]
fn t_distinct_members_endorse() {
    let mut world = World::new();
    let signed = World::sign(&world.request(namespace("x")));
    let by = |world: &World, members: &[u8]| world.endorse(&signed, members);
    let good = by(&world, &[1, 2]);
    let one = |e: Endorsement| vec![good[0].clone(), e];
    let (cluster, now, authority) = (world.cluster, world.now(), world.authority());
    let make = |roster, version, member, key: u8, list: Vec<[u8; 64]>| {
        Endorsement::sign(&cluster, roster, version, member, now, list, &node(key))
    };
    let list = vec![signed.hash()];
    let altered = |change: &dyn Fn(&mut Endorsement)| {
        let mut e = good[1].clone();
        change(&mut e);
        e
    };
    let cases = [
        ("one member", by(&world, &[1])),
        ("one member twice", by(&world, &[1, 1, 1])),
        (
            "one member at two clocks",
            one(Endorsement::sign(&cluster, ROSTER, authority, 1, now + 1, list.clone(), &node(1))),
        ),
        ("another roster", one(make(ROSTER + 1, authority, 2, 2, list.clone()))),
        ("no such member", one(make(ROSTER, authority, 4, 4, list.clone()))),
        ("in another's name", one(make(ROSTER, authority, 2, 3, list.clone()))),
        (
            "another cluster",
            one(Endorsement::sign(&ClusterId([9; 32]), ROSTER, authority, 2, now, list.clone(), &node(2))),
        ),
        ("another request", one(make(ROSTER, authority, 2, 2, vec![[7; 64]]))),
        ("no request", one(make(ROSTER, authority, 2, 2, Vec::new()))),
        ("too long a list", one(make(ROSTER, authority, 2, 2, vec![signed.hash(); MAX_ENDORSED + 1]))),
        ("the signature altered", one(altered(&|e| e.signature[0] ^= 1))),
        ("the clock altered", one(altered(&|e| e.clock += 1))),
        ("the list altered", one(altered(&|e| e.requests.push([0; 64])))),
        ("the member altered", one(altered(&|e| e.member = 3))),
    ];
    for (what, endorsements) in cases {
        let before = world.store.clone();
        let outcome = world.apply(&world.endorsed(&signed, endorsements));
        assert_eq!(outcome, Outcome::Refused(Refusal::NotEndorsed { got: 1, needed: 2 }), "{what}");
        assert!(world.store == before, "{what}");
    }
    // One endorsement may name many requests; the others do not matter.
    let mut long = vec![[3; 64]; MAX_ENDORSED - 1];
    long.push(signed.hash());
    let both = vec![make(ROSTER, authority, 2, 2, long.clone()), make(ROSTER, authority, 3, 3, long)];
    assert_eq!(world.apply(&world.endorsed(&signed, both)), Outcome::Done);
}

#[test]
fn an_endorsement_covers_the_signatures_too() {
    let mut world = World::new();
    let request = world.request(policy("x"));
    let signed = World::sign(&request);
    let other = SignedRequest::sign(&request, &key(ALICE), &[&key("admin-1"), &key("admin-2")]);
    assert_ne!(signed.hash(), other.hash());
    let command = world.endorsed(&signed, world.endorse(&other, &[1, 2]));
    world.untouched(&command, Refusal::NotEndorsed { got: 0, needed: 2 });
}

#[test]
fn only_the_first_sixteen_endorsements_are_looked_at() {
    let mut world = World::new();
    let signed = World::sign(&world.request(namespace("x")));
    let good = world.endorse(&signed, &[1, 2]);
    let noise = vec![good[0].clone(); 15];
    let late = world.endorsed(&signed, [&noise[..], &good[1..]].concat());
    assert_eq!(world.apply(&late), Outcome::Done, "fifteen and one");
    let signed = World::sign(&world.request(namespace("y")));
    let good = world.endorse(&signed, &[1, 2]);
    let noise = vec![good[0].clone(); 16];
    let late = world.endorsed(&signed, [&noise[..], &good[1..]].concat());
    world.untouched(&late, Refusal::NotEndorsed { got: 1, needed: 2 });
}

#[test]
fn an_endorsement_of_another_authority_version_is_stale() {
    let mut world = World::new();
    let signed = World::sign(&world.request(namespace("x")));
    let (cluster, now, current) = (world.cluster, world.now(), world.authority());
    for version in [current.wrapping_sub(1), current + 1] {
        let make = |i| Endorsement::sign(&cluster, ROSTER, version, i, now, vec![signed.hash()], &node(i));
        let command = world.endorsed(&signed, vec![make(1), make(2)]);
        world.untouched(&command, Refusal::Stale { current });
        // One good one does not carry a stale one.
        let mixed = [vec![make(1)], world.endorse(&signed, &[2])].concat();
        let command = world.endorsed(&signed, mixed);
        world.untouched(&command, Refusal::Stale { current });
    }
}

#[test]
fn what_takes_away_needs_m_administrators() {
    let mut world = World::new();
    let request = world.request(policy("x"));
    let admin = [key("admin-1"), key("admin-2"), key("admin-3")];
    let caller = key(ALICE);
    let mut refused = |admins: &[&quorate_crypto::identity::SigningKey], refusal: Refusal| {
        let command = world.command(&SignedRequest::sign(&request, &caller, admins));
        world.untouched(&command, refusal);
    };
    refused(&[], Refusal::NotByAdministrators { got: 0, needed: 2 });
    refused(&[&admin[0]], Refusal::NotByAdministrators { got: 1, needed: 2 });
    refused(&[&admin[0], &admin[0]], Refusal::BadSignature);
    refused(&[&admin[0], &key("stranger")], Refusal::BadSignature);
    refused(&[&admin[0], &admin[1], &key("stranger")], Refusal::BadSignature);
    let mut altered = SignedRequest::sign(&request, &caller, &[&admin[0], &admin[1]]);
    altered.signatures[2].signature[3] ^= 1;
    let command = world.command(&altered);
    world.untouched(&command, Refusal::BadSignature);
    let all = SignedRequest::sign(&request, &caller, &[&admin[2], &admin[0], &admin[1]]);
    assert_eq!(world.send(&all), Outcome::Done);
}

#[test]
fn an_administrator_does_not_count_by_being_the_caller() {
    let mut world = World::new();
    let request = Request { principal: "admin-1".to_owned(), ..world.request(policy("x")) };
    let signed = SignedRequest::sign(&request, &key("admin-1"), &[&key("admin-2")]);
    let command = world.command(&signed);
    world.untouched(&command, Refusal::NotByAdministrators { got: 1, needed: 2 });
}

#[test]
fn administrators_say_which_authority_they_saw() {
    let mut world = World::new();
    let current = world.authority();
    let changes = [
        policy("x"),
        Change::DeletePolicy { name: "first".to_owned() },
        Change::BlockIdentity { principal: BOB.to_owned() },
        Change::UnblockIdentity { principal: BOB.to_owned() },
        Change::BeginKeyGeneration {
            session: quorate_state::ids::SessionId([8; 32]),
            class: quorate_crypto::keyring::KeyringClass::Cluster,
        },
        Change::ResetClock { to: CREATED },
    ];
    for change in changes {
        for expected in [None, Some(current + 1), current.checked_sub(1)] {
            let request = world.request(change.clone());
            let command = world.command(&World::sign(&Request { expected_authority_version: expected, ..request }));
            world.untouched(&command, Refusal::Stale { current });
        }
    }
    // Anybody else may say it, and is then held to it.
    let request = Request { expected_authority_version: Some(current + 1), ..world.request(namespace("x")) };
    let command = world.command(&World::sign(&request));
    world.untouched(&command, Refusal::Stale { current });
    let request = Request { expected_authority_version: Some(current), ..world.request(namespace("x")) };
    assert_eq!(world.send(&World::sign(&request)), Outcome::Done);
}

#[test]
fn a_request_is_short_lived() {
    let mut world = World::new();
    let now = world.now();
    for (change, limit) in [(namespace("x"), MAX_VALIDITY), (policy("x"), MAX_ADMIN_VALIDITY)] {
        for over in [0, now - 1, now] {
            let request = Request { not_after: over, ..world.request(change.clone()) };
            let command = world.command(&World::sign(&request));
            world.untouched(&command, Refusal::TooLate { not_after: over, now });
        }
        for far in [now + limit + 1, u64::MAX] {
            let request = Request { not_after: far, ..world.request(change.clone()) };
            let command = world.command(&World::sign(&request));
            world.untouched(&command, Refusal::TooFar { limit });
        }
        let request = Request { not_after: now + limit, ..world.request(change) };
        assert_eq!(world.send(&World::sign(&request)), Outcome::Done);
    }
    assert_eq!((MAX_VALIDITY, MAX_ADMIN_VALIDITY), (10 * MINUTE, 24 * HOUR));
}

#[test]
fn endorsements_move_time_to_the_least_of_the_t_highest() {
    let mut world = World::new();
    let now = world.now();
    let signed = World::sign(&world.request(namespace("x")));
    let at = |i: u8, clock| {
        Endorsement::sign(&world.cluster, ROSTER, world.authority(), i, clock, vec![signed.hash()], &node(i))
    };
    // The slow clock of member 1 does not hold time back, the fast one of member 3 does not move it.
    let command = world.endorsed(&signed, vec![at(1, 0), at(2, now + SECOND), at(3, now + 50 * SECOND)]);
    assert_eq!(world.apply(&command), Outcome::Done);
    assert_eq!(world.now(), now + SECOND);
    let signed = World::sign(&world.request(namespace("y")));
    let back =
        |i: u8| Endorsement::sign(&world.cluster, ROSTER, world.authority(), i, now, vec![signed.hash()], &node(i));
    let command = world.endorsed(&signed, vec![back(1), back(2)]);
    assert_eq!(world.apply(&command), Outcome::Done);
    assert_eq!(world.now(), now + SECOND, "time never goes back");
}

#[test]
fn a_request_that_the_endorsers_clocks_have_outlived_is_too_late() {
    let mut world = World::new();
    let request = world.request(namespace("x"));
    let signed = World::sign(&request);
    let late = |i: u8| {
        let hashes = vec![signed.hash()];
        Endorsement::sign(&world.cluster, ROSTER, world.authority(), i, request.not_after, hashes, &node(i))
    };
    let command = world.endorsed(&signed, vec![late(1), late(2)]);
    world.untouched(&command, Refusal::TooLate { not_after: request.not_after, now: request.not_after });
}

#[test]
fn time_moves_with_a_refused_change_and_nothing_else_does() {
    let mut world = World::new();
    let now = world.now();
    assert!(matches!(world.put("app/x", None), Outcome::Stored { number: 1, .. }));
    // The first version is erased before the second turns out to be missing.
    let (namespace, path) = ("team".to_owned(), "app/x".to_owned());
    let signed = World::sign(&world.request(Change::DestroySecret { namespace, path, numbers: vec![1, 2] }));
    let at = |i: u8| {
        let hashes = vec![signed.hash()];
        Endorsement::sign(&world.cluster, ROSTER, world.authority(), i, now + SECOND, hashes, &node(i))
    };
    let command = world.endorsed(&signed, vec![at(1), at(2)]);
    let before = world.store.clone();
    assert_eq!(world.apply(&command), Outcome::Refused(Refusal::not_found("version")));
    assert_eq!(world.now(), now + SECOND);
    assert!(before.0.keys().all(|k| world.store.0.contains_key(k)), "a row is gone");
    let changed: Vec<u8> =
        (world.store.0.iter().filter(|(k, v)| before.0.get(*k) != Some(*v))).map(|(k, _)| k[0]).collect();
    assert_eq!(changed, [Table::Hash as u8, Table::Meta as u8, Table::Request as u8, Table::RequestEnd as u8]);
}

#[test]
fn a_command_of_another_version_does_nothing() {
    let mut world = World::new();
    let mut entry = Command::Tick { readings: vec![world.reading(1, CREATED), world.reading(2, CREATED)] }.encode();
    let before = world.store.clone();
    entry.push(0);
    assert_eq!(world.apply_bytes(&entry), Outcome::Refused(Refusal::Malformed));
    entry.pop();
    entry[0] = 2;
    assert_eq!(world.apply_bytes(&entry), Outcome::Refused(Refusal::Malformed));
    assert_eq!(world.apply_bytes(&[]), Outcome::Refused(Refusal::Malformed));
    assert!(world.store == before);
}

#[test]
fn a_lost_id_is_not_taken_for_another() {
    // Two ids of one signer, and one id of two signers, are four requests.
    let mut world = World::bare();
    let mut made = 0;
    for id in [[1; 16], [2; 16]] {
        for who in [ALICE, BOB] {
            made += 1;
            let request = world.request(namespace(&format!("n{made}")));
            let request = Request { id: RequestId(id), principal: who.to_owned(), ..request };
            assert_eq!(world.send(&World::sign(&request)), Outcome::Done);
            assert!(is_remembered(&world, &request));
        }
    }
}
