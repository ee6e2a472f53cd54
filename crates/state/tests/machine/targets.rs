//! Targets, roles, and who is in office.

use crate::world::*;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::Sealed;
use quorate_state::change::Change;
use quorate_state::command::Command;
use quorate_state::ids::LeaseId;
use quorate_state::lease::{Form, MAX_PER_COMMAND, Subject};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::target::{
    Endpoint, Finding, MAX_FORMER, Proof, Quarantine, Revision, Role, Standing, System, Target, TargetSpec, TargetTls,
    executor, quarantine, role as role_of, roles, target, targets,
};

/// `change` with some of its fields changed.
fn described(change: &Change, alter: impl Fn(&mut String, &mut TargetSpec)) -> Change {
    let Change::PutTarget { mut name, mut spec, header, payload } = change.clone() else { panic!("{change:?}") };
    alter(&mut name, &mut spec);
    Change::PutTarget { name, spec, header, payload }
}

fn sealed_as(world: &mut World, alter: impl Fn(&World, &mut Seal)) -> Outcome {
    let mut seal = world.seal("app/none");
    seal.namespace = "sys".to_owned();
    seal.path = "target/db".to_owned();
    alter(world, &mut seal);
    let Sealed { header: h, payload: p } = seal.make();
    let Change::PutTarget { name, spec, .. } = world.target("db") else { panic!() };
    world.submit(Change::PutTarget { name, spec, header: h, payload: p })
}

#[test]
fn a_target_is_described_once() {
    let mut world = World::new();
    let good = world.target("db");
    for name in ["", "Db", "a/b", "a b", &"d".repeat(33)] {
        assert_invalid(&world.submit(described(&good, |n, _| *n = name.to_owned())), "name");
    }
    for bad in ["", "a\nb", &"x".repeat(254)] {
        assert_invalid(&world.submit(described(&good, |_, s| s.host = bad.to_owned())), "host");
    }
    // One byte more, and PostgreSQL means the database or login of the 63 bytes before.
    for bad in ["", "a\nb", &"x".repeat(64)] {
        assert_invalid(&world.submit(described(&good, |_, s| s.database = bad.to_owned())), "database");
        assert_invalid(&world.submit(described(&good, |_, s| s.user = bad.to_owned())), "user");
        assert_invalid(&world.submit(described(&good, |_, s| s.databases = vec![bad.to_owned()])), "databases");
    }
    assert_invalid(&world.submit(described(&good, |_, s| s.port = 0)), "port");
    // What leaves the machine would leave it unencrypted.
    for host in
        ["db.example.org", "10.0.0.1", "0.0.0.0", "::", "127.0.0.1.example.org", "localhost.example.org", " localhost"]
    {
        assert_invalid(&world.submit(described(&good, |_, s| s.host = host.to_owned())), "host");
    }
    assert_eq!(targets(&world.store).unwrap(), []);
    assert_eq!(world.submit(good.clone()), Outcome::Done);
    let other = described(&good, |_, s| s.host = "localhost".to_owned());
    assert_eq!(world.submit(other), Outcome::Refused(Refusal::exists("target")));
    assert_eq!(target(&world.store, "db").unwrap().unwrap().spec.host, "127.0.0.1");
    for (n, host) in ["localhost", "127.3.2.1", "::1", "/run/postgresql"].into_iter().enumerate() {
        let more = world.target(&format!("db{n}"));
        let more = described(&more, |_, s| s.host = host.to_owned());
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
        let Change::PutTarget { name, mut spec, header, payload } = good.clone() else { panic!() };
        spec.host = host.to_owned();
        spec.tls = Some(described);
        Change::PutTarget { name, spec, header, payload }
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
    let kept = target(&world.store, "db").unwrap().unwrap().spec;
    assert_eq!((kept.host.as_str(), kept.tls.unwrap().server_name.as_str()), (far, "db"));
}

#[test]
fn a_target_s_password_is_sealed_to_its_place_in_class_cluster() {
    let mut world = World::new();
    let good = world.target("db");
    // The password of another target.
    assert_code(&world.submit(described(&good, |n, _| *n = "other".to_owned())), "unacceptable_seal");
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
    let Change::PutTarget { name, spec, header, mut payload } = good.clone() else { panic!() };
    payload[40] ^= 1;
    refused(world.submit(Change::PutTarget { name, spec, header, payload }));
    assert_eq!(world.submit(good), Outcome::Done);
}

#[test]
fn a_role_is_within_bounds() {
    let mut world = World::with_target();
    type Alter = fn(&mut Named);
    let cases: [(&str, Alter); 18] = [
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
        ("scram_iterations", |r| r.1.form = Form::Scram { iterations: 0 }),
        ("scram_iterations", |r| r.1.form = Form::Scram { iterations: 100_001 }),
        ("scram_iterations", |r| r.1.form = Form::Scram { iterations: u32::MAX }),
        ("statements", |r| r.1.statements = "s".repeat(4_097)),
        ("username", |r| r.1.username = "{{name}}".to_owned()),
        ("username", |r| r.1.username = "a\"; DROP ROLE postgres; --".to_owned()),
        ("username", |r| r.1.username = "a".repeat(21)),
    ];
    let authority = world.authority();
    for (field, alter) in cases {
        let change = altered(alter);
        assert_invalid(&world.submit(change), field);
    }
    let nowhere = altered(|r| r.1.target = "nowhere".to_owned());
    assert_eq!(world.submit(nowhere), Outcome::Refused(Refusal::not_found("target")));
    assert_eq!((world.authority(), roles(&world.store).unwrap().len()), (authority, 1));
    let nobody_s = altered(|r| r.1.namespace = "nobody".to_owned());
    assert_eq!(world.submit(nobody_s), Outcome::Refused(Refusal::not_found("namespace")));
    let widest: Alter = |r| {
        r.1.default_ttl = SECOND;
        r.1.max_ttl = 366 * 24 * HOUR;
        r.1.groups = vec!["g".repeat(63); 16];
        r.1.form = Form::Scram { iterations: 100_000 };
        r.1.username = format!("{}{}", "a".repeat(20), "{{role}}".repeat(13));
    };
    assert_eq!(world.submit(altered(widest)), Outcome::Done);
    assert_eq!(role_of(&world.store, "new").unwrap().unwrap().groups.len(), 16);
    // A role that is written again may be narrower.
    assert_eq!(world.authority(), authority + 1);
}

#[test]
fn a_target_of_another_kind_has_only_what_its_kind_has() {
    let mut world = World::new();
    let good = world.target("db");
    let plain = |system| {
        described(&good, move |_, s| {
            *s = TargetSpec {
                system,
                host: "127.0.0.1".to_owned(),
                port: 1,
                user: if system.has_login() { "u".to_owned() } else { String::new() },
                // A region, a namespace.
                database: if system.issues() { "eu-central-1".to_owned() } else { String::new() },
                ..TargetSpec::default()
            };
        })
    };
    let with = |system, alter: fn(&mut TargetSpec)| described(&plain(system), move |_, s| alter(s));
    type Alter = fn(&mut TargetSpec);
    let postgresql_s: [(&str, Alter); 5] = [
        ("databases", |s| s.databases = vec!["d".to_owned()]),
        ("standbys", |s| s.standbys = vec![Endpoint { host: "::1".to_owned(), port: 1 }]),
        ("owner", |s| s.owner = "o".to_owned()),
        ("remote_apply", |s| s.remote_apply = true),
        ("channel_binding", |s| {
            s.tls = Some(TargetTls { roots: vec![vec![0x30]], server_name: String::new(), require_binding: true });
        }),
    ];
    assert_invalid(&world.submit(plain(System::PostgreSql)), "database");
    for system in System::ALL.into_iter().filter(|system| *system != System::PostgreSql) {
        for (field, alter) in postgresql_s {
            assert_invalid(&world.submit(with(system, alter)), field);
        }
        if system.issues() {
            for bad in ["", "-a", "a-", "A", "a.b", &"a".repeat(64)] {
                let bad = described(&plain(system), |_, s| s.database = bad.to_owned());
                assert_invalid(&world.submit(bad), "database");
            }
            assert_invalid(&world.submit(with(system, |s| s.rotate = true)), "rotate");
        }
        let users = if system.has_login() { ["", "a\nb", &"u".repeat(254)] } else { ["u", "a\nb", " "] };
        for user in users {
            assert_invalid(&world.submit(described(&plain(system), |_, s| s.user = user.to_owned())), "user");
        }
        if !matches!(system, System::MariaDb) {
            assert_invalid(&world.submit(with(system, |s| s.host = "/run".to_owned())), "host");
        }
    }
    assert_invalid(&world.submit(with(System::Redis, |s| s.database = "d".to_owned())), "database");
    assert_invalid(&world.submit(plain(System::Webhook)), "roots");
    assert_eq!(world.submit(with(System::MariaDb, |s| s.database = "app".to_owned())), Outcome::Done);
    let found = target(&world.store, "db").unwrap().unwrap();
    assert_eq!((found.spec.system, found.spec.database.as_str()), (System::MariaDb, "app"));
    let to_postgresql_s = Change::ReviseTarget {
        name: "db".to_owned(),
        revision: Revision {
            standbys: Some(vec![Endpoint { host: "::1".to_owned(), port: 9 }]),
            ..Revision::default()
        },
    };
    assert_invalid(&world.submit(to_postgresql_s), "standbys");

    // Its roles.
    let of = |alter: fn(&mut Role)| role_with("app", "db", alter);
    assert_invalid(&world.submit(of(|_| ())), "verifier");
    assert_invalid(&world.submit(of(|r| r.form = Form::RedisSha256)), "verifier");
    let native: fn(&mut Role) = |r| r.form = Form::MySqlNative;
    assert_invalid(&world.submit(of(|r| (r.form, r.groups) = (Form::MySqlNative, vec!["g".to_owned(); 2]))), "groups");
    assert_invalid(
        &world.submit(of(|r| (r.form, r.statements) = (Form::MySqlNative, "SELECT 1".to_owned()))),
        "statements",
    );
    assert_eq!(world.submit(of(native)), Outcome::Done);
    assert_eq!(world.submit(of(|r| r.form = Form::MariaDbEd25519)), Outcome::Done);
}

/// No two texts mean the same one, and none leaves the path. Where leases are it stays: at another one is another receiver.
#[test]
fn a_path_leads_to_one_receiver() {
    let mut world = World::new();
    let good = world.target("hook");
    let at = |path: &str| {
        described(&good, |_, s| {
            let tls = TargetTls { roots: vec![vec![0x30]], server_name: String::new(), require_binding: false };
            let (host, database) = ("127.0.0.1".to_owned(), path.to_owned());
            *s = TargetSpec {
                system: System::Webhook,
                host,
                port: 1,
                database,
                tls: Some(tls),
                ..TargetSpec::default()
            };
        })
    };
    let longest = format!("/{}", "p".repeat(254));
    for bad in ["vault", "/", "/vault/", "//vault", "/a//b", "/.", "/a/../b", "/a b", "/%61", "/a?b", "/ä", "/a\n"] {
        assert_invalid(&world.submit(at(bad)), "database");
    }
    assert_invalid(&world.submit(at(&format!("{longest}p"))), "database");
    assert_eq!(world.submit(at(&longest)), Outcome::Done);
    let to = |path: &str| Change::ReviseTarget {
        name: "hook".to_owned(),
        revision: Revision { database: Some(path.to_owned()), ..Revision::default() },
    };
    assert_invalid(&world.submit(to("vault")), "database");
    assert_eq!(world.submit(to("/vault/~a-b_c.d/0")), Outcome::Done);
    assert_eq!(world.submit(to("")), Outcome::Done);

    assert_eq!(world.submit(role("shop", "hook")), Outcome::Done);
    assert_eq!(world.apply(&office("hook", 1, world.term)), Outcome::Done);
    world.prove("hook");
    assert!(matches!(world.submit(issue("shop", None)), Outcome::Intent { .. }));
    assert_invalid(&world.submit(to("/vault")), "database");
    assert_eq!(world.submit(to("")), Outcome::Done, "what is said again is no other");
}

/// A name and the rest.
type Named = (String, Role);

fn altered(alter: fn(&mut Named)) -> Change {
    let Change::PutRole { role, .. } = role("new", "db") else { panic!() };
    let mut named = ("new".to_owned(), role);
    alter(&mut named);
    Change::PutRole { name: named.0, role: named.1 }
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
    let principal = quorate_state::lease::principal(&world.cluster, "db", &LeaseId([1; 16]));
    let adopt = Command::Adopt { term, target: "db".to_owned(), principal, oid: 7 };
    world.untouched(&adopt, Refusal::Unjustified);
    assert_eq!(world.apply(&office("db", 1, term)), Outcome::Done);
    world.prove("db");
    world.term += 1;
    assert_eq!(world.submit(issue("reader", None)), Outcome::Refused(Refusal::Unjustified));
}

#[test]
fn a_target_is_enabled_by_a_good_proof_that_somebody_asked_for() {
    let mut world = World::new();
    let described = world.target("db");
    assert_eq!(world.submit(described), Outcome::Done);
    assert_eq!(world.submit(role("reader", "db")), Outcome::Done);
    assert_eq!(world.apply(&office("db", 1, world.term)), Outcome::Done);
    let not_enabled = Outcome::Refused(Refusal::TargetStanding { standing: "not proved yet".to_owned() });
    assert_eq!(world.submit(issue("reader", None)), not_enabled);
    let ask = || Change::ProveTarget { name: "db".to_owned() };
    let nowhere = Change::ProveTarget { name: "nowhere".to_owned() };
    assert_eq!(world.submit(nowhere), Outcome::Refused(Refusal::not_found("target")));
    // Nobody asked.
    world.untouched(&world.proof("db", Vec::new()), Refusal::Unjustified);
    assert_eq!(world.submit(ask()), Outcome::Done);
    let early = world.proof("db", Vec::new());
    assert_eq!(world.submit(ask()), Outcome::Done);
    world.untouched(&early, Refusal::Unjustified);
    let missing = vec![Finding::Missing("GRANT x TO y".to_owned()), Finding::Failed("no".to_owned())];
    assert_eq!(world.apply(&world.proof("db", missing.clone())), Outcome::Done);
    assert_eq!(world.submit(issue("reader", None)), not_enabled, "something is wrong");
    // Too much to keep.
    let long = || vec![Finding::Failed("x".repeat(1_025))];
    for findings in [long(), vec![Finding::Missing(String::new()); 65]] {
        world.untouched(&world.proof("db", findings), Refusal::Unjustified);
    }
    let Command::TargetProved { term, target: name, proof } = world.proof("db", Vec::new()) else { panic!() };
    let noted = Proof { notes: vec!["x".repeat(1_025)], ..proof.clone() };
    world.untouched(&Command::TargetProved { term, target: name.clone(), proof: noted }, Refusal::Unjustified);
    // Whoever is not in office.
    world.term += 1;
    world.untouched(&Command::TargetProved { term, target: name, proof }, Refusal::Unjustified);
    world.untouched(&world.proof("db", Vec::new()), Refusal::Unjustified);
    assert_eq!(world.apply(&office("db", 2, world.term)), Outcome::Done);
    assert_eq!(world.apply(&world.proof("db", Vec::new())), Outcome::Done);
    world.intent();
    // What is found wrong later is shown; leases go on, and end.
    assert_eq!(world.submit(ask()), Outcome::Done);
    assert_eq!(world.apply(&world.proof("db", missing.clone())), Outcome::Done);
    let found = target(&world.store, "db").unwrap().unwrap();
    assert_eq!((found.standing, found.proof.unwrap().findings), (Standing::Enabled, missing));
    world.intent();
}

#[test]
fn a_role_that_is_described_at_an_enabled_target_asks_for_a_proof() {
    let mut world = World::new();
    let described = world.target("db");
    assert_eq!(world.submit(described), Outcome::Done);
    let found = |world: &World| target(&world.store, "db").unwrap().unwrap();
    assert_eq!(world.submit(role("reader", "db")), Outcome::Done);
    assert_eq!(found(&world).asked, 0, "before leases are issued there the first proof looks at every role");
    assert_eq!(world.apply(&office("db", 1, world.term)), Outcome::Done);
    world.prove("db");
    let pending = |world: &World| found(world).asked > found(world).proof.unwrap().asked;
    assert!(!pending(&world));
    // What is under way then has not looked at it.
    assert_eq!(world.submit(Change::ProveTarget { name: "db".to_owned() }), Outcome::Done);
    let early = world.proof("db", Vec::new());
    for change in [role("writer", "db"), role_with("reader", "db", |r| r.groups.push("more".to_owned()))] {
        assert_eq!(world.submit(change), Outcome::Done);
        assert!(pending(&world), "nobody has looked at what it needs: {:?}", found(&world));
        assert_eq!(found(&world).standing, Standing::Enabled, "leases go on");
        world.untouched(&early, Refusal::Unjustified);
        let found_out = world.proof("db", vec![Finding::Failed("more leads to power".to_owned())]);
        assert_eq!(world.apply(&found_out), Outcome::Done);
        assert!(!pending(&world));
    }
    // What changes nothing asks for nothing.
    assert_invalid(
        &world.submit(role_with("reader", "db", |r| r.connection_limit = 0)),
        "connection_limit, max_leases",
    );
    assert_eq!(world.submit(Change::DeleteRole { name: "writer".to_owned() }), Outcome::Leases { changed: Vec::new() });
    assert!(!pending(&world));
}

#[test]
fn a_target_s_places_are_distinct_and_bounded() {
    let mut world = World::new();
    let good = world.target("db");
    type Alter = fn(&mut TargetSpec);
    let at = |host: &str, port| Endpoint { host: host.to_owned(), port };
    let cases: [(&str, Alter); 12] = [
        ("databases", |s| s.databases = vec!["postgres".to_owned()]),
        ("databases", |s| s.databases = vec!["a".to_owned(); 2]),
        ("databases", |s| s.databases = (0..17).map(|n| format!("d{n}")).collect()),
        ("databases", |s| s.databases = vec!["a\nb".to_owned()]),
        ("standbys", |s| s.standbys = vec![Endpoint { host: "127.0.0.1".to_owned(), port: 5432 }]),
        ("standbys", |s| s.standbys = vec![Endpoint { host: "127.0.0.1".to_owned(), port: 0 }]),
        ("standbys", |s| s.standbys = (1..18).map(|port| Endpoint { host: "::1".to_owned(), port }).collect()),
        ("host", |s| s.standbys = vec![Endpoint { host: "db.example.org".to_owned(), port: 1 }]),
        ("clients", |s| s.clients = Some(Endpoint { host: "a b".to_owned(), port: 1 })),
        ("clients", |s| s.clients = Some(Endpoint { host: "a".to_owned(), port: 0 })),
        ("owner", |s| s.owner.clone_from(&s.user)),
        ("owner", |s| s.owner = "o".repeat(64)),
    ];
    for (field, alter) in cases {
        assert_invalid(&world.submit(described(&good, |_, s| alter(s))), field);
    }
    let wide = described(&good, |_, s| {
        s.databases = (0..16).map(|n| format!("d{n}")).collect();
        s.standbys = (1..17).map(|port| at("::1", port)).collect();
        s.owner = "o".repeat(63);
        s.user = "u".repeat(63);
        s.database = "d".repeat(63);
    });
    assert_eq!(world.submit(wide), Outcome::Done);
}

#[test]
fn a_target_goes_with_its_last_lease_and_comes_back_counting_on() {
    let mut world = World::with_target();
    assert_eq!(world.submit(role("writer", "db")), Outcome::Done);
    let (first, second) = (world.active(16_400), world.active(16_401));
    let bound = Change::SetQuota { subject: Subject::Target("db".to_owned()), limit: Some(9) };
    assert_eq!(world.submit(bound), Outcome::Done);
    let authority = world.authority();
    let gone = || Change::DeleteTarget { name: "db".to_owned() };
    assert_eq!(world.submit(gone()), Outcome::Leases { changed: vec![first, second] });
    assert!(world.authority() > authority, "whoever decides on older rules is waited for");
    assert_eq!(roles(&world.store).unwrap(), [], "its roles go at once");
    assert_eq!(target(&world.store, "db").unwrap().unwrap().standing, Standing::Removing);
    let why = quorate_state::lease::lease(&world.store, &first).unwrap().unwrap().why;
    assert_eq!(why, Some(quorate_state::lease::Why::TargetDeleted));
    assert_eq!(world.submit(gone()), Outcome::Refused(Refusal::not_found("target")));
    let removing = Outcome::Refused(Refusal::TargetStanding { standing: "being removed".to_owned() });
    assert_eq!(world.submit(role("late", "db")), removing);
    assert_eq!(world.submit(Change::ProveTarget { name: "db".to_owned() }), removing);
    let again = world.target("db");
    assert_eq!(world.submit(again.clone()), Outcome::Refused(Refusal::exists("target")));
    world.end(first);
    assert!(target(&world.store, "db").unwrap().is_some(), "one lease is not proved to be revoked");
    let late = Command::Quarantine { term: world.term, target: "db".to_owned(), found: found(9) };
    world.end(second);
    world.untouched(&late, Refusal::Unjustified);
    assert_eq!(quorate_state::lease::quotas(&world.store).unwrap(), [], "its bound goes with it");
    assert_eq!(targets(&world.store).unwrap(), []);
    // The same name again: what was there is not confused with it.
    assert_eq!(world.submit(again), Outcome::Done);
    world.term += 1;
    assert_eq!(world.apply(&office("db", 2, world.term)), Outcome::Done);
    let held = executor(&world.store, "db").unwrap().unwrap();
    assert_eq!((held.epoch, held.past), (2, vec![(1, [1; 8])]));
    assert_eq!(target(&world.store, "db").unwrap().unwrap().standing, Standing::Unproved);
    // Without leases it goes at once.
    assert_eq!(world.submit(gone()), Outcome::Leases { changed: Vec::new() });
    assert_eq!(targets(&world.store).unwrap(), []);
}

fn found(counter: u64) -> Quarantine {
    Quarantine { counter, index: 0, unknown: 2, missing: 1, sample: vec!["q_x".to_owned()] }
}

#[test]
fn a_cluster_that_knows_less_than_a_target_touches_nothing_there() {
    let mut world = World::with_target();
    let other = world.target("other");
    assert_eq!(world.submit(other), Outcome::Done);
    assert_eq!(world.submit(role("elsewhere", "other")), Outcome::Done);
    assert_eq!(world.apply(&office("other", 1, world.term)), Outcome::Done);
    world.prove("other");
    let lease = world.active(16_400);
    let term = world.term;
    let say = |term, counter| Command::Quarantine { term, target: "db".to_owned(), found: found(counter) };
    world.untouched(&say(term, 0), Refusal::Unjustified);
    let executor_of = |world: &World| executor(&world.store, "db").unwrap().unwrap();
    world.untouched(&say(term - 1, 9), Refusal::Unjustified);
    let many = Quarantine { sample: vec!["q".to_owned(); 21], ..found(9) };
    world.untouched(&Command::Quarantine { term, target: "db".to_owned(), found: many }, Refusal::Unjustified);
    world.untouched(&say(term, u64::MAX), Refusal::Unjustified);
    assert_eq!(world.apply(&say(term, 9)), Outcome::Done);
    let first = quarantine(&world.store, "db").unwrap().unwrap();
    assert_eq!(world.apply(&say(term, 10)), Outcome::Done);
    let now = quarantine(&world.store, "db").unwrap().unwrap();
    assert_eq!((now.index, now.counter), (first.index, 10), "since when it is, and what is known now");
    let quarantined = Outcome::Refused(Refusal::Quarantined { counter: 10 });
    assert_eq!(world.submit(issue("reader", None)), quarantined);
    assert_eq!(world.submit(Change::RenewLease { lease, ttl: HOUR }), quarantined);
    // What is due there is not ended; elsewhere all goes on.
    let elsewhere = match world.submit(issue("elsewhere", Some(SECOND))) {
        Outcome::Intent { lease, .. } => lease,
        other => panic!("{other:?}"),
    };
    world.pass(5 * HOUR);
    let due = Command::Expire { term, upto: world.now() };
    assert_eq!(world.apply(&due), Outcome::Leases { changed: vec![elsewhere] });
    assert_eq!(quorate_state::lease::next_due(&world.store).unwrap(), None);
    // Only what administrators have seen is taken over.
    let take = |target: &str, counter| Change::TakeOver { target: target.to_owned(), counter };
    assert_invalid(&world.submit(take("db", 9)), "counter");
    assert_eq!(world.submit(take("other", 9)), Outcome::Refused(Refusal::not_found("quarantine")));
    assert_eq!(world.submit(take("db", 10)), Outcome::Done);
    // Nobody is in office until it was claimed anew, with a count that the target has not seen.
    assert_eq!(world.submit(issue("reader", None)), Outcome::Refused(Refusal::Unjustified));
    assert_eq!(world.apply(&office("db", 1, term)), Outcome::Done);
    assert_eq!((executor_of(&world).epoch, executor_of(&world).taken_over), (11, 10));
    world.untouched(&say(term, 10), Refusal::Unjustified);
    assert_eq!(world.apply(&due), Outcome::Leases { changed: vec![lease] });
}

#[test]
fn what_is_due_at_a_target_waits_for_no_thousands_at_another() {
    let mut world = World::with_target();
    let other = world.target("other");
    assert_eq!(world.submit(other), Outcome::Done);
    for (name, target) in [("many", "db"), ("elsewhere", "other")] {
        assert_eq!(world.submit(role_with(name, target, |role| role.max_leases = 2_000)), Outcome::Done);
    }
    assert_eq!(world.apply(&office("other", 1, world.term)), Outcome::Done);
    world.prove("other");
    let issued = |world: &mut World, role| match world.submit(issue(role, Some(SECOND))) {
        Outcome::Intent { lease, .. } => lease,
        other => panic!("{other:?}"),
    };
    world.in_bulk(|world| {
        for _ in 0..MAX_PER_COMMAND {
            issued(world, "many");
        }
    });
    let last = issued(&mut world, "elsewhere");
    world.pass(SECOND);
    let due = Command::Expire { term: world.term, upto: world.now() };
    let Outcome::Leases { changed } = world.apply(&due) else { panic!("they end") };
    assert!(changed.contains(&last), "it comes with the first of the others: {} moved", changed.len());
    assert_eq!(changed.len(), MAX_PER_COMMAND / 2 + 1, "and half of what one entry moves are the others'");
    let Outcome::Leases { changed } = world.apply(&due) else { panic!("they end") };
    assert_eq!(changed.len(), MAX_PER_COMMAND / 2, "alone, they have it for themselves");
    assert_eq!(quorate_state::lease::next_due(&world.store).unwrap(), None);
}

#[test]
fn a_password_is_rotated_once_in_a_term_and_what_is_under_way_is_only_completed() {
    let mut world = World::with_target();
    let of = |world: &World| target(&world.store, "db").unwrap().unwrap();
    let first = of(&world).current;
    assert_eq!(first.term, 0, "people gave it");
    let done = |world: &World, index| Command::PasswordRotated { term: world.term, target: "db".to_owned(), index };
    // Not in office, or not in this term, or sealed by anybody but the member in office, or for something else.
    let good = world.rotation("db", 1);
    let Command::RotatePassword { header, payload, .. } = good.clone() else { panic!() };
    let early = Command::RotatePassword { term: world.term - 1, target: "db".to_owned(), header, payload };
    world.untouched(&early, Refusal::Unjustified);
    let nowhere = world.rotation("nowhere", 1);
    world.untouched(&nowhere, Refusal::not_found("target"));
    let refused = |world: &mut World, command: Command, why: &str| match world.apply(&command) {
        Outcome::Refused(Refusal::Unacceptable { why: found }) => assert!(found.contains(why), "{found}"),
        other => panic!("{why}: {other:?}"),
    };
    let foreign = world.rotation("db", 2);
    refused(&mut world, foreign, "writer");
    let relabelled = |world: &mut World, alter: &dyn Fn(&World, &mut Seal)| {
        let mut seal = world.seal("app/none");
        (seal.namespace, seal.path) = ("sys".to_owned(), "target/db".to_owned());
        (seal.writer, seal.wrapped_by) = ("executor/1".to_owned(), "executor/1".to_owned());
        alter(world, &mut seal);
        let Sealed { header, payload } = seal.make();
        Command::RotatePassword { term: world.term, target: "db".to_owned(), header, payload }
    };
    let bad = relabelled(&mut world, &|_, seal| seal.path = "target/other".to_owned());
    refused(&mut world, bad, "path");
    let bad = relabelled(&mut world, &|_, seal| seal.wrapped_by = ALICE.to_owned());
    refused(&mut world, bad, "wrapped by");
    let bad = relabelled(&mut world, &|world, seal| {
        seal.ring = world.ring(KeyringClass::Customer);
        seal.customers = vec![customer(1).public().clone()];
    });
    refused(&mut world, bad, "class cluster");
    let Command::RotatePassword { term, target: name, header, mut payload } = world.rotation("db", 1) else { panic!() };
    payload[0] ^= 1;
    let bad = Command::RotatePassword { term, target: name, header, payload };
    refused(&mut world, bad, "payload");
    assert_eq!(of(&world).next, None);
    // Nothing is under way yet.
    let none = done(&world, first.index);
    world.untouched(&none, Refusal::Unjustified);

    assert_eq!(world.apply(&good), Outcome::Done);
    let under_way = of(&world).next.unwrap();
    assert_eq!((of(&world).current, under_way.term), (first.clone(), world.term));
    assert_eq!(of(&world).credential(under_way.index), Some(&under_way), "members give parts of both");
    // This executor puts no other in its place.
    let another = world.rotation("db", 1);
    world.untouched(&another, Refusal::Unjustified);
    let wrong = done(&world, first.index);
    world.untouched(&wrong, Refusal::Unjustified);
    let late = done(&world, under_way.index);
    world.term += 1;
    world.untouched(&late, Refusal::Unjustified);
    let not_yet = done(&world, under_way.index);
    world.untouched(&not_yet, Refusal::Unjustified);
    assert_eq!(world.apply(&office("db", 2, world.term)), Outcome::Done);
    let completed = done(&world, under_way.index);
    assert_eq!(world.apply(&completed), Outcome::Done);
    let found = of(&world);
    assert_eq!((&found.current, &found.next, &found.former), (&under_way, &None, &vec![first.clone()]));
    assert!(found.rotated.is_some_and(|r| r.index > under_way.index && r.at == world.now()), "{:?}", found.rotated);
    world.untouched(&completed, Refusal::Unjustified);
    // The successor has its own, once.
    let own = world.rotation("db", 2);
    assert_eq!(world.apply(&own), Outcome::Done);
    let index = of(&world).next.unwrap().index;
    let completed = done(&world, index);
    assert_eq!(world.apply(&completed), Outcome::Done);
    let again = world.rotation("db", 2);
    world.untouched(&again, Refusal::Unjustified);
}

#[test]
fn what_a_target_may_go_back_to_is_kept_for_a_while_and_what_nobody_can_open_stops_nothing() {
    let mut world = World::with_target();
    let of = |world: &World| target(&world.store, "db").unwrap().unwrap();
    let indexes = |found: &Target| found.former.iter().map(|c| c.index).collect::<Vec<_>>();
    let first = of(&world).current;
    let rotation = world.rotation("db", 1);
    assert_eq!(world.apply(&rotation), Outcome::Done);
    let unopened = of(&world).next.unwrap();
    // Whoever comes next puts its own in the place of what cannot be completed: the target may have that one all the same.
    world.term += 1;
    assert_eq!(world.apply(&office("db", 1, world.term)), Outcome::Done);
    let rotation = world.rotation("db", 1);
    assert_eq!(world.apply(&rotation), Outcome::Done);
    let found = of(&world);
    assert_eq!((&found.current, indexes(&found)), (&first, vec![unopened.index]));
    let next = found.next.unwrap();
    let rotated = Command::PasswordRotated { term: world.term, target: "db".to_owned(), index: next.index };
    assert_eq!(world.apply(&rotated), Outcome::Done);
    assert_eq!(indexes(&of(&world)), [first.index, unopened.index], "the newest first");
    assert_eq!(of(&world).credential(unopened.index), Some(&unopened), "members give parts of it");
    // Never more than a few.
    for _ in 0..MAX_FORMER {
        let before = of(&world);
        let Sealed { header, payload } = world.password("db", ALICE);
        let change = Change::ReplacePassword { name: "db".to_owned(), header, payload };
        assert_eq!(world.submit(change), Outcome::Done);
        let (found, kept) = (of(&world), [vec![before.current.index], indexes(&before)].concat());
        assert_eq!(indexes(&found), kept.into_iter().take(MAX_FORMER).collect::<Vec<_>>());
    }
    assert_eq!(of(&world).credential(first.index), None);
}

#[test]
fn nothing_is_rotated_where_nobody_wants_it() {
    let mut world = World::with_target();
    let plain = described(&world.target("plain"), |_, spec| spec.rotate = false);
    assert_eq!(world.submit(plain), Outcome::Done);
    assert_eq!(world.apply(&office("plain", 1, world.term)), Outcome::Done);
    let unwanted = world.rotation("plain", 1);
    world.untouched(&unwanted, Refusal::Unjustified);
    // In quarantine nothing is touched, and what is being removed only ends.
    let wanted = world.rotation("db", 1);
    let term = world.term;
    let quarantined = Command::Quarantine { term, target: "db".to_owned(), found: found(9) };
    assert_eq!(world.apply(&quarantined), Outcome::Done);
    world.untouched(&wanted, Refusal::Unjustified);
    assert_eq!(world.submit(Change::TakeOver { target: "db".to_owned(), counter: 9 }), Outcome::Done);
    assert_eq!(world.apply(&office("db", 1, term)), Outcome::Done);
    world.active(16_400);
    world.submit(Change::DeleteTarget { name: "db".to_owned() });
    world.untouched(&wanted, Refusal::Unjustified);
}

#[test]
fn a_description_is_revised_and_the_server_stays_where_leases_are() {
    let mut world = World::with_target();
    let of = |world: &World| target(&world.store, "db").unwrap().unwrap();
    let revise = |revision: &Revision| Change::ReviseTarget { name: "db".to_owned(), revision: revision.clone() };
    let before = of(&world);
    assert_eq!(before.standing, Standing::Enabled);
    let lease = world.active(16_400);
    let tls = TargetTls { roots: vec![vec![7; 9]], server_name: String::new(), require_binding: true };
    let renewed = Revision { tls: Some(tls.clone()), ..Revision::default() };
    assert_eq!(world.submit(revise(&renewed)), Outcome::Done);
    let found = of(&world);
    assert_eq!(found.spec, TargetSpec { tls: Some(tls), ..before.spec.clone() }, "and the rest stays");
    assert_eq!((&found.current, found.standing), (&before.current, Standing::Unproved), "nothing is issued meanwhile");
    assert!(found.index > before.index && found.asked == found.index, "a proof is asked for: {found:?}");
    assert_code(&world.submit(issue("reader", None)), "target_not_enabled");
    let good = world.proof("db", Vec::new());
    assert_eq!(world.apply(&good), Outcome::Done);
    assert_eq!(of(&world).standing, Standing::Enabled);
    // Another server would know nothing of the lease.
    for elsewhere in [
        Revision { host: Some("127.0.0.2".to_owned()), ..Revision::default() },
        Revision { port: Some(9), ..Revision::default() },
    ] {
        assert_invalid(&world.submit(revise(&elsewhere)), "host, port");
    }
    let same = Revision { host: Some(before.spec.host.clone()), owner: Some("o".to_owned()), ..Revision::default() };
    assert_eq!(world.submit(revise(&same)), Outcome::Done);
    // What no description may say, no revision may.
    let bad = Revision { databases: Some(vec![before.spec.database.clone()]), ..Revision::default() };
    assert_invalid(&world.submit(revise(&bad)), "databases");
    let nowhere = Change::ReviseTarget { name: "nowhere".to_owned(), revision: renewed.clone() };
    assert_eq!(world.submit(nowhere), Outcome::Refused(Refusal::not_found("target")));
    // What is under way may be there when nobody goes on with it.
    let rotation = world.rotation("db", 1);
    assert_eq!(world.apply(&rotation), Outcome::Done);
    let under_way = of(&world).next.unwrap();
    let still = Revision { rotate: Some(false), ..Revision::default() };
    assert_eq!(world.submit(revise(&still)), Outcome::Done);
    assert_eq!((of(&world).next, of(&world).former), (None, vec![under_way]));
    // What is being removed still has leases to end, and is not enabled by that.
    world.submit(Change::DeleteTarget { name: "db".to_owned() });
    assert_eq!(world.submit(revise(&renewed)), Outcome::Done);
    assert_eq!(of(&world).standing, Standing::Removing);
    world.end(lease);
    assert_eq!(target(&world.store, "db").unwrap(), None);
    // Elsewhere once nothing is there.
    let again = world.target("db");
    assert_eq!(world.submit(again), Outcome::Done);
    let moved = Revision { port: Some(9), ..Revision::default() };
    assert_eq!(world.submit(revise(&moved)), Outcome::Done);
    assert_eq!(of(&world).spec.port, 9);
}

#[test]
fn people_say_what_the_password_is() {
    let mut world = World::with_target();
    let of = |world: &World| target(&world.store, "db").unwrap().unwrap();
    let say = |world: &mut World, name: &str, writer: &str| {
        let Sealed { header, payload } = world.password("db", writer);
        Change::ReplacePassword { name: name.to_owned(), header, payload }
    };
    let rotation = world.rotation("db", 1);
    assert_eq!(world.apply(&rotation), Outcome::Done);
    let (before, under_way) = (of(&world), of(&world).next.unwrap());
    let change = say(&mut world, "nowhere", ALICE);
    assert_eq!(world.submit(change), Outcome::Refused(Refusal::not_found("target")));
    let change = say(&mut world, "db", "executor/1");
    assert!(matches!(world.submit(change), Outcome::Refused(Refusal::Unacceptable { .. })), "an executor's name");
    assert_eq!(of(&world), before);
    let lease = world.active(16_400);
    world.submit(Change::DeleteTarget { name: "db".to_owned() });
    let change = say(&mut world, "db", ALICE);
    assert_eq!(world.submit(change), Outcome::Done, "what is being removed has leases to end");
    let now = of(&world);
    assert!(now.current.index > under_way.index && now.current.term == 0 && now.next.is_none(), "{now:?}");
    assert_eq!(now.former, [under_way.clone(), before.current], "the target may have either");
    let late = Command::PasswordRotated { term: world.term, target: "db".to_owned(), index: under_way.index };
    world.untouched(&late, Refusal::Unjustified);
    world.end(lease);
}

/// At another namespace all tokens would seem to be gone, while they live.
#[test]
fn a_namespace_stays_while_leases_are_there() {
    let mut world = World::new();
    let good = world.target("kube");
    let in_leases = described(&good, |_, s| {
        let [host, user, database] =
            ["127.0.0.1", "system:serviceaccount:leases:executor", "leases"].map(str::to_owned);
        *s = TargetSpec { system: System::Kubernetes, host, port: 1, user, database, ..TargetSpec::default() };
    });
    assert_eq!(world.submit(in_leases), Outcome::Done);
    let to = |namespace: &str| Change::ReviseTarget {
        name: "kube".to_owned(),
        revision: Revision { database: Some(namespace.to_owned()), ..Revision::default() },
    };
    assert_eq!(world.submit(to("others")), Outcome::Done);
    assert_eq!(world.submit(role_with("apps", "kube", |role| role.form = Form::Sealed)), Outcome::Done);
    assert_eq!(world.apply(&office("kube", 1, world.term)), Outcome::Done);
    world.prove("kube");
    let verifier = format!("x25519:{}=", "A".repeat(43));
    let issued = world.submit(Change::IssueLease { role: "apps".to_owned(), verifier, ttl: None });
    assert!(matches!(issued, Outcome::Intent { .. }), "{issued:?}");
    assert_invalid(&world.submit(to("leases")), "database");
    assert_eq!(world.submit(to("others")), Outcome::Done, "what is said again is no other");
}
