//! Namespaces, mounts, customer keys, policies, blocked identities.

use crate::world::*;
use quorate_crypto::keyring::KeyringClass;
use quorate_crypto::sealed::MAX_NAMESPACE;
use quorate_state::access::{
    CustomerKey, MAX_POLICY, MAX_ROOT, customer_key, is_blocked, mounts, namespaces, policies, policy_epoch,
};
use quorate_state::change::Change;
use quorate_state::command::Command;
use quorate_state::genesis::client_roots;
use quorate_state::ids::{CustomerKeyId, KeyringId};
use quorate_state::lease::{State, Why, lease};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::SignedRequest;

fn namespace(name: &str) -> Change {
    Change::CreateNamespace { namespace: name.to_owned() }
}

fn put_policy(name: &str, text: &str) -> Change {
    Change::PutPolicy { name: name.to_owned(), text: text.to_owned() }
}

fn block(principal: &str) -> Change {
    Change::BlockIdentity { principal: principal.to_owned() }
}

fn unblock(principal: &str) -> Change {
    Change::UnblockIdentity { principal: principal.to_owned() }
}

#[test]
fn namespaces_are_made_once_and_never_in_the_vault_s_own() {
    let mut world = World::bare();
    for name in ["a", "a/b", "ab", "Über", &"n".repeat(MAX_NAMESPACE), "system"] {
        assert_eq!(world.submit(namespace(name)), Outcome::Done, "{name}");
        assert_eq!(world.submit(namespace(name)), Outcome::Refused(Refusal::exists("namespace")), "{name}");
    }
    for name in ["sys", "sys/x"] {
        assert_eq!(world.submit(namespace(name)), Outcome::Refused(Refusal::exists("namespace")), "{name}");
    }
    // With a colon `a:b:c` would name two secrets.
    for name in ["", "/", "a/", "a//b", ".", "a/..", "a\0", "a:b", ":", &"n".repeat(MAX_NAMESPACE + 1)] {
        assert_invalid(&world.submit(namespace(name)), "namespace");
    }
    let names: Vec<String> = namespaces(&world.store).unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(names, ["a", "a/b", "ab", &"n".repeat(MAX_NAMESPACE), "system", "Über"]);
}

#[test]
fn a_mount_fits_its_keyring() {
    use KeyringClass::{Cluster, Customer};
    let mut world = World::new();
    let in_namespace = |change: Change, to: &str| match change {
        Change::CreateMount { mount, keyring, customer_keys, .. } => {
            Change::CreateMount { namespace: to.to_owned(), mount, keyring, customer_keys }
        }
        other => other,
    };
    for (class, customers) in [(Cluster, &[1][..]), (Customer, &[]), (Customer, &[1, 1])] {
        let change = world.mount("new", class, customers);
        assert_invalid(&world.submit(change), "customer_keys");
    }
    let mut nine = vec![customer_id(1); 9];
    for (n, id) in nine.iter_mut().enumerate() {
        id.0[0] = n as u8;
    }
    let keyring = KeyringId(world.ring(Customer).id());
    let change = Change::CreateMount { namespace: "team".into(), mount: "new".into(), keyring, customer_keys: nine };
    assert_invalid(&world.submit(change), "customer_keys");
    let customer_keys = vec![CustomerKeyId([7; 32])];
    let change = Change::CreateMount { namespace: "team".into(), mount: "new".into(), keyring, customer_keys };
    assert_eq!(world.submit(change), Outcome::Refused(Refusal::not_found("customer key")));
    let keyring = KeyringId([7; 32]);
    let change = Change::CreateMount { namespace: "team".into(), mount: "new".into(), keyring, customer_keys: vec![] };
    assert_eq!(world.submit(change), Outcome::Refused(Refusal::not_found("keyring")));
    let good = world.mount("new", Customer, &[3, 1]);
    for absent in ["nobody", "tea", "team/x", "sys", "sys/x"] {
        let refused = Outcome::Refused(Refusal::not_found("namespace"));
        assert_eq!(world.submit(in_namespace(good.clone(), absent)), refused, "{absent}");
    }
    assert_eq!(world.submit(good.clone()), Outcome::Done);
    assert_eq!(world.submit(good), Outcome::Refused(Refusal::exists("mount")));
    // The same name elsewhere is another mount.
    assert_eq!(world.submit(namespace("other")), Outcome::Done);
    let there = in_namespace(world.mount("app", Cluster, &[]), "other");
    assert_eq!(world.submit(there), Outcome::Done);
    for bad in ["", "App", "a/b", "-a", "a:b", &"m".repeat(65)] {
        let change = world.mount(bad, Cluster, &[]);
        assert_invalid(&world.submit(change), "mount");
    }
    let found: Vec<String> = mounts(&world.store, "team").unwrap().into_iter().map(|(n, _)| n).collect();
    assert_eq!(found, ["app", "new", "safe"]);
    let mut expected = vec![customer_id(1), customer_id(3)];
    expected.sort_unstable();
    assert_eq!(mounts(&world.store, "team").unwrap()[1].1.customer_keys, expected);
}

#[test]
fn a_customer_key_needs_its_customer_s_signature() {
    let mut world = World::bare();
    let good = world.register("acme", 1);
    let altered = |change: &dyn Fn(&mut CustomerKey, &mut [u8; 64])| {
        let Change::RegisterCustomerKey { name, public, owner, mut signature } = good.clone() else { panic!() };
        let mut key = CustomerKey { name, public, owner };
        change(&mut key, &mut signature);
        let CustomerKey { name, public, owner } = key;
        Change::RegisterCustomerKey { name, public, owner, signature }
    };
    let other_key = customer(2).public().encode();
    assert_invalid(&world.submit(altered(&|k, _| k.name = "other".to_owned())), "signature");
    assert_invalid(&world.submit(altered(&|k, _| k.public = other_key.clone())), "signature");
    assert_invalid(&world.submit(altered(&|k, _| k.owner = key("a stranger").verify_key().0)), "signature");
    assert_invalid(&world.submit(altered(&|_, s| s[9] ^= 1)), "signature");
    assert_invalid(&world.submit(altered(&|k, _| k.name = "A".to_owned())), "name");
    assert_invalid(&world.submit(altered(&|k, _| k.public.truncate(100))), "public");
    assert_invalid(&world.submit(altered(&|k, _| k.public[0] = 9)), "public");
    // Signed for another cluster.
    let public = customer(1).public().encode();
    let elsewhere = key("the customer").sign("customer-key", &[&[1; 32], b"acme", &public]);
    assert_invalid(&world.submit(altered(&|_, s| *s = elsewhere)), "signature");
    assert_eq!(customer_key(&world.store, &customer_id(1)).unwrap(), None);
    assert_eq!(world.submit(good.clone()), Outcome::Done);
    assert_eq!(world.submit(good), Outcome::Refused(Refusal::exists("customer key")));
    let found = customer_key(&world.store, &customer_id(1)).unwrap().unwrap();
    assert_eq!((found.name.as_str(), found.owner), ("acme", key("the customer").verify_key().0));
    // One key has one name, whoever signs.
    let again = world.register("other", 1);
    assert_eq!(world.submit(again), Outcome::Refused(Refusal::exists("customer key")));
}

#[test]
fn every_change_of_policy_raises_the_authority_version() {
    let mut world = World::bare();
    assert_eq!((world.authority(), policy_epoch(&world.store).unwrap()), (0, 0));
    assert_eq!(world.submit(put_policy("p", "a")), Outcome::Done);
    assert_eq!((world.authority(), policy_epoch(&world.store).unwrap()), (1, world.index));
    assert_eq!(world.submit(put_policy("p", "b")), Outcome::Done);
    assert_eq!((world.authority(), policy_epoch(&world.store).unwrap()), (2, world.index));
    let delete = |name: &str| Change::DeletePolicy { name: name.to_owned() };
    assert_eq!(world.submit(delete("q")), Outcome::Refused(Refusal::not_found("policy")));
    assert_eq!(world.authority(), 2, "what did not happen takes nothing away");
    assert_eq!(world.submit(delete("first")), Outcome::Done);
    assert_eq!((world.authority(), policy_epoch(&world.store).unwrap()), (3, world.index));
    let found = policies(&world.store).unwrap();
    assert_eq!(found.len(), 1);
    assert_eq!((found[0].0.as_str(), found[0].1.text.as_str(), found[0].1.changed_index), ("p", "b", world.index - 2));
    assert_eq!(world.submit(put_policy("long", &"x".repeat(MAX_POLICY))), Outcome::Done);
    assert_invalid(&world.submit(put_policy("long", &"x".repeat(MAX_POLICY + 1))), "text");
    assert_invalid(&world.submit(put_policy("No", "x")), "name");
    assert_eq!(world.authority(), 4);
}

#[test]
fn additions_leave_the_authority_version_alone() {
    let mut world = World::with_target();
    let before = world.authority();
    world.put("app/x", None);
    assert_eq!(world.submit(namespace("n")), Outcome::Done);
    let lease = world.intent();
    assert_eq!(world.submit(Change::RevokeLease { lease }), Outcome::Leases { changed: vec![lease] });
    assert_eq!(world.submit(unblock(BOB)), Outcome::Refused(Refusal::not_found("block of that identity")));
    assert_eq!(world.authority(), before);
}

#[test]
fn a_blocked_identity_does_nothing_more() {
    let mut world = World::new();
    // Endorsed while it was welcome, and carried by the leader until it was not.
    let request = world.request(namespace("late"));
    let request = quorate_state::request::Request { principal: BOB.to_owned(), ..request };
    let endorsed = world.command(&World::sign(&request));
    assert_eq!(world.submit(block(BOB)), Outcome::Leases { changed: vec![] });
    let current = world.authority();
    world.untouched(&endorsed, Refusal::Stale { current });
    assert_eq!(world.send(&World::sign(&request)), Outcome::Refused(Refusal::Blocked));
    assert!(is_blocked(&world.store, BOB).unwrap());
    // Blocking again changes no right.
    assert_eq!(world.submit(block(BOB)), Outcome::Leases { changed: vec![] });
    assert_eq!(world.authority(), current);
    // Admitted again; what was decided stays decided.
    assert_eq!(world.submit(unblock(BOB)), Outcome::Done);
    assert_eq!(world.send(&World::sign(&request)), Outcome::Refused(Refusal::Blocked));
    assert_eq!(world.submit_as(BOB, namespace("later")), Outcome::Done);
    assert_eq!(world.submit(unblock(BOB)), Outcome::Refused(Refusal::not_found("block of that identity")));
    for bad in ["", "a\nb", &"x".repeat(257)] {
        assert_invalid(&world.submit(block(bad)), "principal");
    }
}

#[test]
fn blocking_an_identity_ends_its_leases_and_nobody_else_s() {
    let mut world = World::with_target();
    let hers = world.active(1);
    let Outcome::Intent { lease: his, .. } = world.submit_as(BOB, issue("reader", None)) else { panic!() };
    let Outcome::Intent { lease: his_second, .. } = world.submit_as(BOB, issue("reader", None)) else { panic!() };
    world.apply(&Command::LeaseActive { term: world.term, lease: his_second, oid: 9, issued: Vec::new() });
    let Outcome::Leases { mut changed } = world.submit(block(BOB)) else { panic!() };
    changed.sort_unstable();
    let mut expected = vec![his, his_second];
    expected.sort_unstable();
    assert_eq!(changed, expected);
    for id in [his, his_second] {
        let ended = lease(&world.store, &id).unwrap().unwrap();
        assert_eq!((ended.state, ended.why), (State::Revoking, Some(Why::IdentityBlocked)));
        assert_eq!((ended.revoking_index, ended.ended_at), (Some(world.index), Some(world.now())));
    }
    assert_eq!(lease(&world.store, &hers).unwrap().unwrap().state, State::Active);
}

#[test]
fn administrators_put_other_client_roots_in_place_and_nothing_but_roots_changes() {
    let mut world = World::bare();
    let trust_domain = client_roots(&world.store).unwrap().trust_domain;
    let set = |names: &[&str]| Change::SetClientRoots {
        certificates: names.iter().map(|name| name.as_bytes().to_vec()).collect(),
    };
    let before = world.authority();
    // Brought by somebody whom no client CA knows: the machine asks for signatures alone.
    assert_eq!(world.submit_as("administrator:00", set(&["new", "old"])), Outcome::Done);
    let roots = client_roots(&world.store).unwrap();
    assert_eq!(roots.certificates, [b"new".to_vec(), b"old".to_vec()]);
    assert_eq!(roots.trust_domain, trust_domain, "policies go on naming the same callers");
    assert_eq!(world.authority(), before + 1, "what was endorsed for callers of the old roots is stale");

    let big = "x".repeat(MAX_ROOT + 1);
    for bad in [vec![], vec!["a", "a"], vec![""], vec!["1", "2", "3", "4", "5"], vec![big.as_str()]] {
        assert_invalid(&world.submit(set(&bad)), "certificates");
    }
    assert_eq!(client_roots(&world.store).unwrap(), roots, "what is refused changes nothing");

    let request = world.request(set(&["mine"]));
    let alone = SignedRequest::sign(&request, &key(ALICE), &[]);
    assert_eq!(world.send(&alone), Outcome::Refused(Refusal::NotByAdministrators { got: 0, needed: 2 }));
    let one = SignedRequest::sign(&request, &key(ALICE), &[&key("admin-2")]);
    assert_eq!(world.send(&one), Outcome::Refused(Refusal::NotByAdministrators { got: 1, needed: 2 }));
    let twice = SignedRequest::sign(&request, &key(ALICE), &[&key("admin-2"), &key("admin-2")]);
    assert_eq!(world.send(&twice), Outcome::Refused(Refusal::BadSignature));
    let signed = World::sign(&request);
    let by_one = world.endorsed(&signed, world.endorse(&signed, &[2]));
    assert_eq!(world.apply(&by_one), Outcome::Refused(Refusal::NotEndorsed { got: 1, needed: 2 }));
    assert_eq!(client_roots(&world.store).unwrap(), roots);
}
