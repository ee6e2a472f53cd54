//! Targets, roles, and who is in office.

use crate::world::*;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::Sealed;
use quorate_state::change::Change;
use quorate_state::command::Command;
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::target::{TargetTls, executor, role as role_of, roles, target, targets};

/// `change` with some of its fields changed.
fn described(change: &Change, alter: impl Fn(&mut String, &mut String, &mut u16, &mut String, &mut String)) -> Change {
    let Change::PutTarget { mut name, mut host, mut port, mut database, mut user, header, payload, tls } =
        change.clone()
    else {
        panic!("{change:?}")
    };
    alter(&mut name, &mut host, &mut port, &mut database, &mut user);
    Change::PutTarget { name, host, port, database, user, header, payload, tls }
}

fn sealed_as(world: &mut World, alter: impl Fn(&World, &mut Seal)) -> Outcome {
    let mut seal = world.seal("app/none");
    seal.namespace = "sys".to_owned();
    seal.path = "target/db".to_owned();
    alter(world, &mut seal);
    let Sealed { header: h, payload: p } = seal.make();
    let Change::PutTarget { name, host, port, database, user, .. } = world.target("db") else { panic!() };
    world.submit(Change::PutTarget { name, host, port, database, user, header: h, payload: p, tls: None })
}

#[test]
fn a_target_is_described_once() {
    let mut world = World::new();
    let good = world.target("db");
    for name in ["", "Db", "a/b", "a b", &"d".repeat(33)] {
        assert_invalid(&world.submit(described(&good, |n, _, _, _, _| *n = name.to_owned())), "name");
    }
    for bad in ["", "a\nb", &"x".repeat(254)] {
        assert_invalid(&world.submit(described(&good, |_, h, _, _, _| *h = bad.to_owned())), "host");
        assert_invalid(&world.submit(described(&good, |_, _, _, d, _| *d = bad.to_owned())), "database");
        assert_invalid(&world.submit(described(&good, |_, _, _, _, u| *u = bad.to_owned())), "user");
    }
    assert_invalid(&world.submit(described(&good, |_, _, p, _, _| *p = 0)), "port");
    // What leaves the machine would leave it unencrypted.
    for host in
        ["db.example.org", "10.0.0.1", "0.0.0.0", "::", "127.0.0.1.example.org", "localhost.example.org", " localhost"]
    {
        assert_invalid(&world.submit(described(&good, |_, h, _, _, _| *h = host.to_owned())), "host");
    }
    assert_eq!(targets(&world.store).unwrap(), []);
    assert_eq!(world.submit(good.clone()), Outcome::Done);
    let other = described(&good, |_, h, _, _, _| *h = "localhost".to_owned());
    assert_eq!(world.submit(other), Outcome::Refused(Refusal::exists("target")));
    assert_eq!(target(&world.store, "db").unwrap().unwrap().host, "127.0.0.1");
    for (n, host) in ["localhost", "127.3.2.1", "::1", "/run/postgresql"].into_iter().enumerate() {
        let more = world.target(&format!("db{n}"));
        let more = described(&more, |_, h, _, _, _| *h = host.to_owned());
        assert_eq!(world.submit(more), Outcome::Done, "{host}");
    }
}

#[test]
fn what_leaves_the_machine_is_encrypted_and_its_server_verified() {
    let mut world = World::new();
    let good = world.target("db");
    let with = |host: &str, alter: fn(&mut TargetTls)| {
        let mut described = TargetTls { roots: vec![vec![1; 300]], server_name: String::new(), require_binding: true };
        alter(&mut described);
        let Change::PutTarget { name, port, database, user, header, payload, .. } = good.clone() else { panic!() };
        Change::PutTarget { name, host: host.to_owned(), port, database, user, header, payload, tls: Some(described) }
    };
    let far = "db.example.org";
    type Alter = fn(&mut TargetTls);
    let cases: [(&str, Alter); 7] = [
        ("roots", |t| t.roots.clear()),
        ("roots", |t| t.roots = (0..9).map(|n| vec![n]).collect()),
        ("roots", |t| t.roots.push(t.roots[0].clone())),
        ("roots", |t| t.roots.push(vec![])),
        ("roots", |t| t.roots[0] = vec![1; 16 * 1024 + 1]),
        ("server_name", |t| t.server_name = "a".repeat(254)),
        ("server_name", |t| t.server_name = "a\nb".to_owned()),
    ];
    for (field, alter) in cases {
        assert_invalid(&world.submit(with(far, alter)), field);
    }
    for host in ["/run/postgresql", "a,b", "a b", "a=b", "a/b", "a'b", "\u{e9}"] {
        assert_invalid(&world.submit(with(host, |_| ())), "host");
    }
    assert_eq!(world.submit(with(far, |t| t.server_name = "db".to_owned())), Outcome::Done);
    let kept = target(&world.store, "db").unwrap().unwrap();
    assert_eq!((kept.host.as_str(), kept.tls.unwrap().server_name.as_str()), (far, "db"));
}

#[test]
fn a_target_s_password_is_sealed_to_its_place_in_class_cluster() {
    let mut world = World::new();
    let good = world.target("db");
    // The password of another target.
    assert_code(&world.submit(described(&good, |n, _, _, _, _| *n = "other".to_owned())), "unacceptable_seal");
    let public = |n: u8| customer(n).public().clone();
    let customer_y = world.ring(KeyringClass::Customer).y;
    let refused = |outcome: Outcome| assert_code(&outcome, "unacceptable_seal");
    refused(sealed_as(&mut world, |_, s| s.namespace = "team".to_owned()));
    refused(sealed_as(&mut world, |_, s| s.path = "target/db/x".to_owned()));
    refused(sealed_as(&mut world, |_, s| s.writer = BOB.to_owned()));
    refused(sealed_as(&mut world, |_, s| s.cluster = [1; 32]));
    refused(sealed_as(&mut world, |_, s| s.wrap_no = 1));
    // To customers: the executor could not open it without them.
    let class = "a target's password must be sealed to a keyring of class cluster";
    let to_customers = sealed_as(&mut world, |w, s| {
        s.ring = w.ring(KeyringClass::Customer);
        s.customers = vec![public(1)];
    });
    assert_eq!(to_customers, Outcome::Refused(Refusal::unacceptable(class)));
    refused(sealed_as(&mut world, |w, s| {
        s.ring = KeyringPublic { class: KeyringClass::Customer, y: w.ring(KeyringClass::Cluster).y };
        s.customers = vec![public(1)];
    }));
    // Of class customer, sealed around its customers.
    refused(sealed_as(&mut world, |_, s| s.ring = KeyringPublic { class: KeyringClass::Cluster, y: customer_y }));
    // To a keyring that is not the cluster's.
    refused(sealed_as(&mut world, |w, s| {
        let y = quorate_state::access::keyrings(&w.store).unwrap()[0].1.public_shares[0].1;
        s.ring = KeyringPublic { class: KeyringClass::Cluster, y };
    }));
    let Change::PutTarget { name, host, port, database, user, header, mut payload, tls } = good.clone() else {
        panic!()
    };
    payload[40] ^= 1;
    refused(world.submit(Change::PutTarget { name, host, port, database, user, header, payload, tls }));
    assert_eq!(world.submit(good), Outcome::Done);
}

#[test]
fn a_role_is_within_bounds() {
    let mut world = World::with_target();
    type Alter = fn(&mut Role);
    let cases: [(&str, Alter); 14] = [
        ("name", |r| r.0 = "No".to_owned()),
        ("ttl", |r| r.1.default_ttl = 999),
        ("ttl", |r| r.1.default_ttl = r.1.max_ttl + 1),
        ("ttl", |r| r.1.max_ttl = 366 * 24 * HOUR + 1),
        ("ttl", |r| r.1.max_ttl = u64::MAX),
        ("groups", |r| r.1.groups = vec!["g".to_owned(); 17]),
        ("groups", |r| r.1.groups = vec![String::new()]),
        ("groups", |r| r.1.groups = vec!["g".repeat(64)]),
        ("groups", |r| r.1.groups = vec!["a\u{7}".to_owned()]),
        ("connection_limit, max_leases", |r| r.1.connection_limit = 0),
        ("connection_limit, max_leases", |r| r.1.max_leases = 0),
        ("scram_iterations", |r| r.1.scram_iterations = 0),
        ("scram_iterations", |r| r.1.scram_iterations = 100_001),
        ("scram_iterations", |r| r.1.scram_iterations = u32::MAX),
    ];
    let authority = world.authority();
    for (field, alter) in cases {
        let change = altered(alter);
        assert_invalid(&world.submit(change), field);
    }
    let nowhere = altered(|r| r.1.target = "nowhere".to_owned());
    assert_eq!(world.submit(nowhere), Outcome::Refused(Refusal::not_found("target")));
    assert_eq!((world.authority(), roles(&world.store).unwrap().len()), (authority, 1));
    let widest: Alter = |r| {
        r.1.default_ttl = SECOND;
        r.1.max_ttl = 366 * 24 * HOUR;
        r.1.groups = vec!["g".repeat(63); 16];
        r.1.scram_iterations = 100_000;
    };
    assert_eq!(world.submit(altered(widest)), Outcome::Done);
    assert_eq!(role_of(&world.store, "new").unwrap().unwrap().groups.len(), 16);
    // A role that is written again may be narrower.
    assert_eq!(world.authority(), authority + 1);
}

/// A name and the rest.
type Role = (String, quorate_state::target::Role);

fn altered(alter: fn(&mut Role)) -> Change {
    let Change::PutRole {
        target, groups, default_ttl, max_ttl, connection_limit, max_leases, scram_iterations, ..
    } = role("new", "db")
    else {
        panic!()
    };
    let role = quorate_state::target::Role {
        target,
        groups,
        default_ttl,
        max_ttl,
        connection_limit,
        max_leases,
        scram_iterations,
    };
    let mut named = ("new".to_owned(), role);
    alter(&mut named);
    let (name, r) = named;
    Change::PutRole {
        name,
        target: r.target,
        groups: r.groups,
        default_ttl: r.default_ttl,
        max_ttl: r.max_ttl,
        connection_limit: r.connection_limit,
        max_leases: r.max_leases,
        scram_iterations: r.scram_iterations,
    }
}

#[test]
fn offices_follow_the_terms_of_the_log() {
    let mut world = World::with_target();
    let first = executor(&world.store, "db").unwrap().unwrap();
    assert_eq!((first.member, first.term, first.epoch), (1, world.term, 1));
    let term = world.term;
    world.untouched(&office("db", 2, term), Refusal::Unjustified);
    world.untouched(&office("db", 2, term + 1), Refusal::Unjustified);
    world.untouched(&office("nowhere", 1, term), Refusal::not_found("target"));
    world.term += 2;
    world.untouched(&office("db", 2, term), Refusal::Unjustified);
    world.untouched(&office("db", 2, term + 1), Refusal::Unjustified);
    world.untouched(&office("db", 4, term + 2), Refusal::Unjustified);
    assert_eq!(world.apply(&office("db", 2, term + 2)), Outcome::Done);
    let second = executor(&world.store, "db").unwrap().unwrap();
    assert_eq!((second.member, second.term, second.epoch), (2, term + 2, 2));
}

#[test]
fn a_target_has_no_executor_until_one_takes_office() {
    let mut world = World::new();
    let target = world.target("db");
    assert_eq!(world.submit(target), Outcome::Done);
    assert_eq!(world.submit(role("reader", "db")), Outcome::Done);
    let term = world.term;
    assert_eq!(world.submit(issue("reader", None)), Outcome::Refused(Refusal::Unjustified));
    let principal = quorate_state::lease::principal(&world.cluster, "db", &quorate_state::ids::LeaseId([1; 16]));
    let adopt = Command::Adopt { term, target: "db".to_owned(), principal, oid: 7 };
    world.untouched(&adopt, Refusal::Unjustified);
}
