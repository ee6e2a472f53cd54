//! Leases: every edge of their life, and every edge that there is not.

use crate::world::*;
use quorate_state::change::Change;
use quorate_state::command::{Command, RevocationProof, Stamp};
use quorate_state::ids::{LeaseId, Millis};
use quorate_state::lease::{
    Kind, Lease, MAX_ISSUED, MAX_PER_COMMAND, Place, Queue, State, Why, count, lease, lease_of, leases, next_due,
    principal, principal_prefix, remains, tally, work,
};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::Request;
use quorate_state::target::target;

fn get(world: &World, id: &LeaseId) -> Lease {
    lease(&world.store, id).unwrap().unwrap()
}

fn moved(ids: &[LeaseId]) -> Outcome {
    Outcome::Leases { changed: ids.to_vec() }
}

fn proof(lease: LeaseId, fenced: bool) -> RevocationProof {
    RevocationProof { lease, fenced, looked_at: CREATED, sessions_ended: 1, endpoint: "db.example.org:5432".to_owned() }
}

fn revoked(world: &World, proofs: Vec<RevocationProof>) -> Command {
    Command::LeaseRevoked { term: world.term, described: world.described(), proofs }
}

fn active(world: &World, lease: LeaseId, oid: u32) -> Command {
    Command::LeaseActive { term: world.term, lease, oid, issued: Vec::new() }
}

fn expire(world: &World, upto: Millis) -> Command {
    Command::Expire { term: world.term, upto }
}

fn adopt(world: &World, principal: &str, oid: u32) -> Command {
    Command::Adopt { term: world.term, target: "db".to_owned(), principal: principal.to_owned(), oid }
}

fn revoke(world: &mut World, lease: LeaseId) -> Outcome {
    world.submit(Change::RevokeLease { lease })
}

fn lease_state(state: &str) -> Refusal {
    Refusal::LeaseState { state: state.to_owned() }
}

#[test]
fn the_whole_life() {
    let mut world = World::with_target();
    let request = world.request(issue("reader", Some(2 * HOUR)));
    let id = LeaseId::of(&world.cluster, &key(ALICE).verify_key().0, &request.id, request.not_after);
    let login = principal(&world.cluster, "db", &id);
    let expires_at = world.now() + 2 * HOUR;
    let outcome = world.send(&World::sign(&request));
    assert_eq!(outcome, Outcome::Intent { lease: id, principal: login.clone(), expires_at });
    let intent = get(&world, &id);
    assert_eq!((intent.state, intent.intent_index, intent.was_active), (State::Intent, world.index, false));
    assert_eq!((intent.owner.as_str(), intent.verifier.as_str(), intent.principal), (ALICE, VERIFIER, login));
    assert_eq!((intent.groups, intent.connection_limit), (vec!["app_read".to_owned()], 5));
    assert_eq!((intent.expires_at, intent.max_expires_at), (expires_at, world.now() + 4 * HOUR));
    assert_eq!((intent.binding, intent.oid), (world.stamp().binding, None));

    assert_eq!(world.apply(&active(&world, id, 16_400)), moved(&[id]));
    let there = get(&world, &id);
    assert_eq!((there.state, there.active_index, there.oid), (State::Active, Some(world.index), Some(16_400)));
    assert_eq!(work(&world.store, "db", Queue::Living, None, 9).unwrap(), [(id, there)]);
    assert_eq!(next_due(&world.store).unwrap(), Some(expires_at));

    assert_eq!(revoke(&mut world, id), moved(&[id]));
    let ending = get(&world, &id);
    assert_eq!(
        (ending.state, ending.why, ending.revoking_index),
        (State::Revoking, Some(Why::Requested), Some(world.index))
    );
    assert_eq!((next_due(&world.store).unwrap(), count(&world.store, Kind::Role, "reader").unwrap()), (None, 1));
    assert_eq!(revoke(&mut world, id), moved(&[]), "it is ending already");

    assert_eq!(world.apply(&revoked(&world, vec![proof(id, false)])), moved(&[id]));
    let gone = get(&world, &id);
    assert_eq!(
        (gone.state, gone.revoked_index, gone.proof),
        (State::Revoked, Some(world.index), Some(proof(id, false)))
    );
    assert_eq!(count(&world.store, Kind::Role, "reader").unwrap(), 0);
    assert_eq!(revoke(&mut world, id), moved(&[]));
    assert_eq!(leases(&world.store, Some(&id), 9).unwrap(), []);
}

/// It stands there as long as who asked may ask again, and no longer.
#[test]
fn what_was_issued_stays_until_the_lease_is_to_end() {
    let mut world = World::with_target();
    let intend = |world: &mut World| match world.submit(issue("reader", Some(HOUR))) {
        Outcome::Intent { lease, .. } => lease,
        other => panic!("{other:?}"),
    };
    let issued =
        |world: &World, lease, bytes: Vec<u8>| Command::LeaseActive { term: world.term, lease, oid: 1, issued: bytes };
    let id = intend(&mut world);
    let long = issued(&world, id, vec![7; MAX_ISSUED + 1]);
    world.untouched(&long, Refusal::invalid("issued", "must have at most 16 KiB"));
    assert_eq!(world.apply(&issued(&world, id, vec![7; MAX_ISSUED])), moved(&[id]));
    assert_eq!(get(&world, &id).issued, vec![7; MAX_ISSUED]);
    assert_eq!(revoke(&mut world, id), moved(&[id]));
    assert_eq!(get(&world, &id).issued, []);

    // One that ended before it was there: nobody is told what was issued for it.
    let late = intend(&mut world);
    assert_eq!(revoke(&mut world, late), moved(&[late]));
    assert_eq!(world.apply(&issued(&world, late, vec![7])), moved(&[]));
    assert_eq!((get(&world, &late).oid, get(&world, &late).issued), (Some(1), vec![]));
}

#[test]
fn an_intent_needs_its_executor_in_office_in_this_term() {
    let mut world = World::with_target();
    let request = world.request(issue("reader", None));
    let signed = World::sign(&request);
    let with = |world: &World, stamp: Stamp| Command::Endorsed {
        request: signed.clone(),
        endorsements: world.endorse(&signed, &[1, 2]),
        stamp,
    };
    let good = world.stamp();
    for bad in [
        Stamp { binding: None, ..good.clone() },
        Stamp { executor_term: good.executor_term - 1, ..good.clone() },
        Stamp { executor_term: good.executor_term + 1, ..good.clone() },
        Stamp::default(),
    ] {
        let command = with(&world, bad);
        world.untouched(&command, Refusal::Unjustified);
    }
    // A new leader that has not taken office yet; and the old one's stamp, carried by it.
    world.term += 1;
    let command = with(&world, world.stamp());
    world.untouched(&command, Refusal::Unjustified);
    let command = with(&world, good.clone());
    world.untouched(&command, Refusal::Unjustified);
    assert_eq!(world.apply(&office("db", 2, world.term)), Outcome::Done);
    let command = with(&world, good);
    world.untouched(&command, Refusal::Unjustified);
    // It consumed nothing: the same request is answered now.
    assert!(matches!(world.send(&signed), Outcome::Intent { .. }));
}

#[test]
fn an_intent_is_what_its_role_allows() {
    let mut world = World::with_target();
    assert_eq!(world.submit(issue("nobody", None)), Outcome::Refused(Refusal::not_found("role")));
    for ttl in [0, SECOND - 1, 4 * HOUR + 1, u64::MAX] {
        assert_invalid(&world.submit(issue("reader", Some(ttl))), "ttl");
    }
    for verifier in
        ["", "secret", &VERIFIER.replace("4096", "4095"), &format!("{VERIFIER} "), &VERIFIER[..VERIFIER.len() - 4]]
    {
        let verifier = (*verifier).to_owned();
        assert_invalid(
            &world.submit(Change::IssueLease { role: "reader".to_owned(), verifier, ttl: None }),
            "verifier",
        );
    }
    assert_eq!(count(&world.store, Kind::Role, "reader").unwrap(), 0);
    for (ttl, lives) in [(None, HOUR), (Some(SECOND), SECOND), (Some(4 * HOUR), 4 * HOUR)] {
        let Outcome::Intent { expires_at, .. } = world.submit(issue("reader", ttl)) else { panic!("{ttl:?}") };
        assert_eq!(expires_at, world.now() + lives);
    }
}

#[test]
fn one_request_is_one_lease_for_ever() {
    let mut world = World::with_target();
    let request = world.request(issue("reader", None));
    let Outcome::Intent { lease: id, .. } = world.send(&World::sign(&request)) else { panic!() };
    world.pass(2 * MINUTE);
    // The table has forgotten the request by now; the lease remembers it.
    let again = Request { not_after: world.now() + MINUTE, ..request };
    let command = world.command(&World::sign(&again));
    world.untouched(&command, Refusal::RequestIdReused);
    assert_eq!(get(&world, &id).state, State::Intent);
}

#[test]
fn a_role_has_a_quota_that_only_proven_ends_give_back() {
    let mut world = World::with_target();
    let ids = [world.active(1), world.active(2), world.intent()];
    let full = Outcome::Refused(Refusal::Quota { what: "role reader".to_owned(), limit: 3 });
    assert_eq!(world.submit(issue("reader", None)), full);
    assert_eq!(revoke(&mut world, ids[0]), moved(&[ids[0]]));
    assert_eq!(world.submit(issue("reader", None)), full, "it may still be alive at the target");
    assert_eq!(world.apply(&revoked(&world, vec![proof(ids[0], false)])), moved(&[ids[0]]));
    assert!(matches!(world.submit(issue("reader", None)), Outcome::Intent { .. }));
    assert_eq!(world.submit(issue("reader", None)), full);
}

#[test]
fn only_an_intent_becomes_active() {
    let mut world = World::with_target();
    let id = world.active(1);
    world.untouched(&active(&world, id, 1), lease_state("active"));
    world.untouched(&active(&world, LeaseId([9; 16]), 1), Refusal::not_found("lease"));
    revoke(&mut world, id);
    world.untouched(&active(&world, id, 2), lease_state("revoking"));
    world.apply(&revoked(&world, vec![proof(id, true)]));
    world.untouched(&active(&world, id, 2), lease_state("revoked"));
    assert_eq!(get(&world, &id).oid, Some(1));
}

#[test]
fn a_credential_that_arrives_after_its_end_is_noted_and_not_honoured() {
    let mut world = World::with_target();
    let id = world.intent();
    revoke(&mut world, id);
    assert_eq!(world.apply(&active(&world, id, 16_401)), moved(&[]));
    let late = get(&world, &id);
    assert_eq!((late.state, late.oid, late.was_active), (State::Revoking, Some(16_401), false));
    world.untouched(&active(&world, id, 16_402), lease_state("revoking"));
    world.untouched(&revoked(&world, vec![proof(id, false)]), Refusal::Unjustified);
}

#[test]
fn what_never_was_active_is_gone_only_behind_a_fence() {
    let mut world = World::with_target();
    let (one, two) = (world.intent(), world.intent());
    revoke(&mut world, one);
    let failed = Command::LeaseFailed { term: world.term, lease: two };
    assert_eq!(world.apply(&failed), moved(&[two]));
    assert_eq!((get(&world, &two).state, get(&world, &two).why), (State::Revoking, Some(Why::Failed)));
    world.untouched(&failed, Refusal::Unjustified);
    world.untouched(&revoked(&world, vec![proof(one, false), proof(two, false)]), Refusal::Unjustified);
    // Of several proofs each counts for itself, once.
    let mixed =
        revoked(&world, vec![proof(one, true), proof(two, false), proof(one, true), proof(LeaseId([1; 16]), true)]);
    assert_eq!(world.apply(&mixed), moved(&[one]));
    world.untouched(&mixed, Refusal::Unjustified);
    assert_eq!(world.apply(&revoked(&world, vec![proof(two, true)])), moved(&[two]));
}

#[test]
fn only_what_is_ending_can_be_gone() {
    let mut world = World::with_target();
    let (intent, active) = (world.intent(), world.active(1));
    world.untouched(&revoked(&world, vec![proof(intent, true), proof(active, true)]), Refusal::Unjustified);
    world.untouched(&revoked(&world, Vec::new()), Refusal::Unjustified);
    world.untouched(&Command::LeaseFailed { term: world.term, lease: active }, Refusal::Unjustified);
    world.untouched(&Command::LeaseFailed { term: world.term, lease: LeaseId([9; 16]) }, Refusal::not_found("lease"));
}

#[test]
fn one_command_takes_so_many_proofs_and_no_more() {
    let mut world = World::with_target();
    let id = world.active(1);
    revoke(&mut world, id);
    let mut proofs = vec![proof(LeaseId([1; 16]), true); MAX_PER_COMMAND];
    proofs.push(proof(id, true));
    world.untouched(&revoked(&world, proofs.clone()), Refusal::Unjustified);
    proofs.remove(0);
    assert_eq!(world.apply(&revoked(&world, proofs)), moved(&[id]));
}

#[test]
fn renewal_moves_the_end_within_the_role_s_maximum() {
    let mut world = World::with_target();
    let renew = |world: &mut World, lease, ttl| world.submit(Change::RenewLease { lease, ttl });
    let id = world.intent();
    assert_eq!(renew(&mut world, id, HOUR), Outcome::Refused(lease_state("intent")));
    world.apply(&active(&world, id, 1));
    let begun = world.now();
    world.pass(HOUR / 2);
    let expires_at = world.now() + HOUR;
    assert_eq!(renew(&mut world, id, HOUR), Outcome::Renewed { lease: id, expires_at });
    assert_eq!(next_due(&world.store).unwrap(), Some(expires_at));
    for far in [4 * HOUR, u64::MAX] {
        assert_eq!(renew(&mut world, id, far), Outcome::Renewed { lease: id, expires_at: begun + 4 * HOUR });
    }
    assert_invalid(&renew(&mut world, id, SECOND - 1), "ttl");
    assert_eq!(renew(&mut world, LeaseId([9; 16]), HOUR), Outcome::Refused(Refusal::not_found("lease")));
    // Its time being over it is over, though no Expire has said so yet.
    assert_eq!(renew(&mut world, id, SECOND), Outcome::Renewed { lease: id, expires_at: world.now() + SECOND });
    world.pass(SECOND);
    assert_eq!(get(&world, &id).state, State::Active);
    assert_eq!(renew(&mut world, id, HOUR), Outcome::Refused(lease_state("expired")));
    revoke(&mut world, id);
    assert_eq!(renew(&mut world, id, HOUR), Outcome::Refused(lease_state("revoking")));
}

#[test]
fn leases_expire_by_the_time_of_the_log_alone() {
    let mut world = World::with_target();
    let first = world.active(1);
    let due = world.now() + HOUR;
    world.pass(SECOND);
    let second = world.intent();
    // Whatever a leader claims the time to be.
    for upto in [due, u64::MAX] {
        assert_eq!(world.apply(&expire(&world, upto)), moved(&[]));
    }
    world.pass(HOUR - SECOND - 1);
    assert_eq!(world.apply(&expire(&world, u64::MAX)), moved(&[]));
    world.pass(1);
    assert_eq!(world.apply(&expire(&world, due - 1)), moved(&[]), "no more than it asks for");
    assert_eq!(world.apply(&expire(&world, u64::MAX)), moved(&[first]));
    let ended = get(&world, &first);
    assert_eq!((ended.state, ended.why, ended.ended_at), (State::Revoking, Some(Why::Expired), Some(due)));
    world.pass(SECOND);
    assert_eq!(world.apply(&expire(&world, world.now())), moved(&[second]), "an intent ends too");
    assert_eq!(next_due(&world.store).unwrap(), None);
}

#[test]
fn a_deposed_leader_s_commands_do_nothing() {
    let mut world = World::with_target();
    let (one, two, three) = (world.intent(), world.active(1), world.active(2));
    revoke(&mut world, three);
    world.pass(HOUR);
    let login = principal(&world.cluster, "db", &LeaseId([3; 16]));
    let old = [
        active(&world, one, 3),
        Command::LeaseFailed { term: world.term, lease: one },
        revoked(&world, vec![proof(three, true)]),
        expire(&world, world.now()),
        adopt(&world, &login, 3),
        office("db", 3, world.term),
    ];
    // Carried by a later leader, whether or not that one is in office already.
    world.term += 1;
    for command in &old {
        world.untouched(command, Refusal::Unjustified);
    }
    assert_eq!(world.apply(&office("db", 2, world.term)), Outcome::Done);
    for command in &old {
        world.untouched(command, Refusal::Unjustified);
    }
    // The new leader itself, out of office, may expire and nothing else.
    world.term += 1;
    let term = world.term;
    for command in [
        active(&world, one, 3),
        Command::LeaseFailed { term, lease: one },
        revoked(&world, vec![proof(three, true)]),
        adopt(&world, &login, 3),
    ] {
        world.untouched(&command, Refusal::Unjustified);
    }
    let Outcome::Leases { changed } = world.apply(&expire(&world, world.now())) else { panic!() };
    assert_eq!(changed.len(), 2);
    assert_eq!(get(&world, &two).state, State::Revoking);
}

#[test]
fn deleting_a_role_ends_its_leases_and_no_other_s() {
    let mut world = World::with_target();
    assert_eq!(world.submit(role("writer", "db")), Outcome::Done);
    let (intent, live) = (world.intent(), world.active(1));
    let Outcome::Intent { lease: other, .. } = world.submit(issue("writer", None)) else { panic!() };
    let authority = world.authority();
    let Outcome::Leases { mut changed } = world.submit(Change::DeleteRole { name: "reader".to_owned() }) else {
        panic!()
    };
    changed.sort_unstable();
    let mut expected = vec![intent, live];
    expected.sort_unstable();
    assert_eq!((changed, world.authority()), (expected, authority + 1));
    assert_eq!(get(&world, &live).why, Some(Why::RoleDeleted));
    assert_eq!(get(&world, &other).state, State::Intent);
    let gone = Outcome::Refused(Refusal::not_found("role"));
    assert_eq!(world.submit(Change::DeleteRole { name: "reader".to_owned() }), gone);
    // What its leases need to be ended stands in them, and they count against a role of the same name.
    assert_eq!(world.submit(role("reader", "db")), Outcome::Done);
    assert_eq!(count(&world.store, Kind::Role, "reader").unwrap(), 2);
    assert_eq!(world.apply(&revoked(&world, vec![proof(live, false)])), moved(&[live]));
}

#[test]
fn a_lease_keeps_what_its_role_was() {
    let mut world = World::with_target();
    let id = world.intent();
    let wider = role_with("reader", "db", |role| {
        role.groups = vec!["everything".to_owned()];
        role.connection_limit = 9;
    });
    assert_eq!(world.submit(wider), Outcome::Done);
    let old = get(&world, &id);
    assert_eq!((old.groups, old.connection_limit), (vec!["app_read".to_owned()], 5));
}

#[test]
fn nobody_adopts_what_a_lease_accounts_for() {
    let mut world = World::with_target();
    let id = world.intent();
    let login = get(&world, &id).principal;
    world.untouched(&adopt(&world, &login, 7), lease_state("intent"));
    world.apply(&active(&world, id, 7));
    world.untouched(&adopt(&world, &login, 7), lease_state("active"));
    revoke(&mut world, id);
    world.untouched(&adopt(&world, &login, 7), lease_state("revoking"));
    world.apply(&revoked(&world, vec![proof(id, true)]));
    assert_eq!(count(&world.store, Kind::Role, "reader").unwrap(), 0);
    // A fail-over of the target has brought it back, under another oid.
    assert_eq!(world.apply(&adopt(&world, &login, 8)), moved(&[id]));
    let again = get(&world, &id);
    assert_eq!((again.state, again.why, again.oid), (State::Revoking, Some(Why::Adopted), Some(8)));
    assert_eq!((again.revoked_index, again.proof, again.owner.as_str()), (None, None, ALICE));
    assert_eq!((count(&world.store, Kind::Role, "reader").unwrap(), next_due(&world.store).unwrap()), (1, None));
    assert_eq!(world.apply(&revoked(&world, vec![proof(id, false)])), moved(&[id]));
}

#[test]
fn an_orphan_is_adopted_to_be_ended() {
    let mut world = World::with_target();
    let id = LeaseId([7; 16]);
    let login = principal(&world.cluster, "db", &id);
    assert_eq!(world.apply(&adopt(&world, &login, 7)), moved(&[id]));
    let found = get(&world, &id);
    assert_eq!((found.state, found.principal, found.oid), (State::Revoking, login, Some(7)));
    assert_eq!(work(&world.store, "db", Queue::Due, None, 9).unwrap().len(), 1);
    assert_eq!(world.apply(&revoked(&world, vec![proof(id, false)])), moved(&[id]));
}

#[test]
fn a_login_says_whose_it_is_where_its_role_has_a_template() {
    let mut world = World::with_target();
    let put = |world: &mut World, username: &str| {
        let change = role_with("reader", "db", |r| r.username = username.to_owned());
        assert_eq!(world.submit(change), Outcome::Done);
    };
    put(&mut world, "{{role}}_{{identity}}");
    let id = world.active(7);
    let found = get(&world, &id);
    let bare = principal(&world.cluster, "db", &id);
    assert_eq!(found.principal, format!("{bare}_reader_alice"));
    assert_eq!(lease_of(&world.cluster, "db", &found.principal), Some(id));
    // What the role says later changes no lease.
    put(&mut world, "");
    assert_eq!(get(&world, &id).principal, found.principal);
    let next = world.intent();
    assert_eq!(get(&world, &next).principal, principal(&world.cluster, "db", &next), "without a template, as ever");
    // Another login that bears the lease's id is not the lease's, whether it is over or not.
    let forged = format!("{bare}_reader_bob");
    world.untouched(&adopt(&world, &forged, 8), lease_state("active"));
    revoke(&mut world, id);
    world.apply(&revoked(&world, vec![proof(id, false)]));
    for other in [&forged, &bare] {
        let before = world.store.clone();
        assert_invalid(&world.apply(&adopt(&world, other, 8)), "principal");
        assert!(world.store == before, "{other}: its number does not stand in the lease");
    }
    // Its own may be back; and one of which nothing is known here is adopted whatever its label says.
    assert_eq!(world.apply(&adopt(&world, &found.principal, 8)), moved(&[id]));
    let (unknown, stray) = (LeaseId([9; 16]), format!("{}_x", principal(&world.cluster, "db", &LeaseId([9; 16]))));
    assert_eq!(world.apply(&adopt(&world, &stray, 9)), moved(&[unknown]));
    assert_eq!(get(&world, &unknown).principal, stray);
}

#[test]
fn only_this_cluster_s_principals_at_this_target_are_adopted() {
    let mut world = World::with_target();
    let id = LeaseId([0xab; 16]);
    let ours = principal(&world.cluster, "db", &id);
    let other_cluster = quorate_state::ids::ClusterId([9; 32]);
    let upper = format!("{}{}", principal_prefix(&world.cluster, "db"), id.to_string().to_uppercase());
    for foreign in [
        "postgres".to_owned(),
        principal(&other_cluster, "db", &id),
        principal(&world.cluster, "other", &id),
        principal_prefix(&world.cluster, "db"),
        ours[..ours.len() - 1].to_owned(),
        format!("{ours}0"),
        format!("{ours} "),
        upper,
    ] {
        let before = world.store.clone();
        assert_invalid(&world.apply(&adopt(&world, &foreign, 7)), "principal");
        assert!(world.store == before, "{foreign}");
    }
    let elsewhere = Command::Adopt { term: world.term, target: "other".to_owned(), principal: ours, oid: 7 };
    assert_invalid(&world.apply(&elsewhere), "principal");
}

#[test]
fn that_ended_leases_left_something_is_known_until_a_search_of_later_has_found_nothing() {
    let mut world = World::with_target();
    let left = |world: &World| remains(&world.store, "db").unwrap();
    let remain = |term| Command::Remain { term, target: "db".to_owned() };
    let cleared = |term, upto| Command::Cleared { term, target: "db".to_owned(), upto };
    let [first, second, third] = [1, 2, 3].map(|n| world.active(n));
    let term = world.term;
    world.untouched(&remain(term), Refusal::Unjustified);
    revoke(&mut world, first);
    world.untouched(&cleared(term, u64::MAX), Refusal::Unjustified);
    world.untouched(&remain(term - 1), Refusal::Unjustified);
    assert_eq!(world.apply(&revoked(&world, vec![proof(first, false)])), moved(&[first]));
    assert_eq!(left(&world), None, "nothing was left, as far as the log knows");
    revoke(&mut world, second);
    assert_eq!(world.apply(&remain(term)), Outcome::Done);
    let said = left(&world).unwrap();
    world.untouched(&cleared(term, u64::MAX), Refusal::Unjustified);
    assert_eq!(world.apply(&revoked(&world, vec![proof(second, false)])), moved(&[second]));
    let ended = left(&world).unwrap();
    assert!(ended > said, "a search that began between the two has not seen what the end left");
    world.untouched(&cleared(term, ended - 1), Refusal::Unjustified);
    // It stands however much time passes, and whoever leads.
    world.pass(10 * MINUTE);
    world.term += 1;
    assert_eq!(world.apply(&office("db", 3, world.term)), Outcome::Done);
    assert_eq!(left(&world), Some(ended));
    world.untouched(&cleared(term, ended), Refusal::Unjustified);
    assert_eq!(world.apply(&cleared(world.term, ended)), Outcome::Done);
    assert_eq!(left(&world), None);
    // And it goes with the target.
    world.submit(Change::DeleteTarget { name: "db".to_owned() });
    assert_eq!(world.apply(&remain(world.term)), Outcome::Done);
    assert_eq!(world.apply(&revoked(&world, vec![proof(third, false)])), moved(&[third]));
    assert_eq!((left(&world), target(&world.store, "db").unwrap().is_none()), (None, true));
}

#[test]
fn work_is_in_the_order_of_the_log_and_kept_apart_by_target_and_queue() {
    let mut world = World::with_target();
    let (intent, live) = (world.intent(), [world.active(1), world.active(2)]);
    let page = |world: &World, target: &str, queue, after: Option<LeaseId>, limit| -> Vec<LeaseId> {
        let after = after.map(|id| Place::of(id, &get(world, &id)));
        work(&world.store, target, queue, after, limit).unwrap().into_iter().map(|(id, _)| id).collect()
    };
    assert_eq!(page(&world, "db", Queue::Living, None, 9), live);
    assert_eq!(page(&world, "db", Queue::Living, None, 1), live[..1]);
    assert_eq!(page(&world, "db", Queue::Living, Some(live[0]), 9), live[1..]);
    assert!(page(&world, "db", Queue::Living, Some(live[1]), 9).is_empty());
    assert_eq!(page(&world, "db", Queue::Making, None, 9), [intent]);
    assert!(page(&world, "d", Queue::Living, None, 9).is_empty());
    let tallies = |world: &World| Queue::ALL.map(|queue| tally(&world.store, "db", queue).unwrap());
    assert_eq!(tallies(&world), [1, 2, 0, 0]);
    // What was asked for first is done first, whatever its id; and what is due stands apart from it.
    let asked = [live[1], live[0]];
    for id in asked {
        revoke(&mut world, id);
    }
    world.pass(HOUR);
    world.apply(&expire(&world, world.now()));
    assert_eq!(page(&world, "db", Queue::Asked, None, 9), asked);
    assert_eq!(page(&world, "db", Queue::Asked, Some(asked[0]), 9), asked[1..]);
    assert_eq!(page(&world, "db", Queue::Due, None, 9), [intent]);
    assert_eq!(tallies(&world), [0, 0, 1, 2]);
    world.apply(&revoked(&world, vec![proof(asked[0], false), proof(intent, true)]));
    assert_eq!((page(&world, "db", Queue::Asked, None, 9), tallies(&world)), (asked[1..].to_vec(), [0, 0, 0, 1]));
}
