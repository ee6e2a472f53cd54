//! Secrets: what is taken, how versions live, and what a falsified seal meets.

use crate::world::*;
use quorate_crypto::customer::{PartSuite, derive_kc};
use quorate_crypto::identity::Verified;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::reshare;
use quorate_crypto::sealed::{Header, MAX_NAMESPACE, MAX_PATH, MAX_PLAINTEXT, Sealed, open};
use quorate_crypto::threshold::{KeyShare, combine, partial};
use quorate_state::change::Change;
use quorate_state::ids::{SecretId, SessionId, VersionId};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::secrets::{self, MAX_VERSIONS, Secret, VersionInfo, VersionState, list, secret};
use quorate_state::store::{Store, Table, encode, key as row, name};

/// The refusal of a seal, by the words that say why.
#[track_caller]
fn assert_unacceptable(outcome: &Outcome, why: &str) {
    match outcome {
        Outcome::Refused(Refusal::Unacceptable { why: found }) => {
            assert!(found.contains(why), "{found:?}, not {why:?}")
        }
        other => panic!("not unacceptable: {other:?}"),
    }
}

fn states(world: &World, path: &str) -> Vec<VersionState> {
    secret(&world.store, "team", path).unwrap().unwrap().versions.iter().map(|v| v.state).collect()
}

fn place(path: &str) -> (String, String) {
    ("team".to_owned(), path.to_owned())
}

fn delete(path: &str, numbers: &[u64]) -> Change {
    let (namespace, path) = place(path);
    Change::DeleteSecret { namespace, path, numbers: numbers.to_vec() }
}

fn undelete(path: &str, numbers: &[u64]) -> Change {
    let (namespace, path) = place(path);
    Change::UndeleteSecret { namespace, path, numbers: numbers.to_vec() }
}

fn destroy(path: &str, numbers: &[u64]) -> Change {
    let (namespace, path) = place(path);
    Change::DestroySecret { namespace, path, numbers: numbers.to_vec() }
}

fn changed(numbers: &[u64]) -> Outcome {
    Outcome::Versions { changed: numbers.to_vec() }
}

#[test]
fn t_members_and_the_customers_open_what_was_stored() {
    let mut world = World::new();
    let seal = world.seal("safe/db");
    let sealed = seal.make();
    assert!(matches!(world.submit(put("safe/db", sealed, Some(0))), Outcome::Stored { number: 1, .. }));
    let header = secrets::header(&world.store, &SecretId(seal.secret_id), 1).unwrap().unwrap();
    let payload = secrets::payload(&world.store, &SecretId(seal.secret_id), 1).unwrap().unwrap();
    let header = Header::decode(&header).unwrap();
    let session = SessionId([2; 32]);
    let ceremony = quorate_state::ceremony::session(&world.store, &session).unwrap().unwrap().ceremony;
    let of = |i: u8| {
        let (seed, key) = (ceremony_seed(&session, i), node(i));
        let member = reshare::Member { index: i, seed: &seed, key: &key, old_share: None };
        let share = KeyShare::new(i, &member.finish(&ceremony).unwrap().scalar).unwrap();
        (i, partial(&share, &header.r()).unwrap())
    };
    let mut parts = header.slot().parts.iter();
    let mut kc = || {
        let part = parts.next().unwrap();
        let holder = [1, 2].map(customer).into_iter().find(|c| c.public().id() == part.cust_key_id).unwrap();
        derive_kc(&holder, &header.object_bytes(), &header.wrap_bytes(), part).unwrap()
    };
    let kcs = [kc(), kc()];
    let ss1 = combine(&[of(1), of(3)]).unwrap();
    assert_eq!(open(&header, &payload, &seal.ring.y, &ss1, &kcs).unwrap().expose(), b"the value");
}

#[test]
fn versions_count_up_and_check_and_set_sees_the_newest() {
    let mut world = World::new();
    assert_eq!(world.put("app/x", Some(1)), Outcome::Refused(Refusal::CheckAndSet { current: 0 }));
    for (expected, number) in [(Some(0), 1), (Some(1), 2), (None, 3)] {
        assert!(matches!(world.put("app/x", expected), Outcome::Stored { number: n, .. } if n == number));
    }
    for wrong in [0, 1, 2, 4] {
        assert_eq!(world.put("app/x", Some(wrong)), Outcome::Refused(Refusal::CheckAndSet { current: 3 }));
    }
    // Deleted and destroyed versions keep their numbers.
    assert_eq!(world.submit(destroy("app/x", &[3])), changed(&[3]));
    assert_eq!(world.put("app/x", Some(2)), Outcome::Refused(Refusal::CheckAndSet { current: 3 }));
    let Outcome::Stored { number: 4, secret: id, version } = world.put("app/x", Some(3)) else { panic!() };
    let found = secret(&world.store, "team", "app/x").unwrap().unwrap();
    let newest = found.newest().unwrap();
    assert_eq!((found.id, newest.id, newest.writer.as_str()), (id, version, ALICE));
    assert_eq!((newest.stored_at, newest.index), (world.now(), world.index));
    assert_eq!(found.version(4), Some(newest));
    assert_eq!((found.version(0), found.version(5)), (None, None));
}

#[test]
fn a_version_lives_is_hidden_comes_back_and_is_erased() {
    use VersionState::{Deleted, Destroyed, Live};
    let mut world = World::new();
    for _ in 0..3 {
        world.put("app/x", None);
    }
    assert_eq!(world.submit(delete("app/x", &[])), changed(&[3]));
    assert_eq!(world.submit(delete("app/x", &[1, 3, 1])), changed(&[1]));
    assert_eq!(states(&world, "app/x"), [Deleted, Live, Deleted]);
    assert_eq!(world.submit(undelete("app/x", &[])), changed(&[3]));
    assert_eq!(world.submit(undelete("app/x", &[1, 2])), changed(&[1]));
    assert_eq!(states(&world, "app/x"), [Live, Live, Live]);
    assert_invalid(&world.submit(destroy("app/x", &[])), "numbers");
    assert_eq!(world.submit(destroy("app/x", &[2])), changed(&[2]));
    let id = secret(&world.store, "team", "app/x").unwrap().unwrap().id;
    assert_eq!(secrets::header(&world.store, &id, 2).unwrap(), None);
    assert_eq!(secrets::payload(&world.store, &id, 2).unwrap(), None);
    // For ever.
    assert_eq!(world.submit(undelete("app/x", &[2])), changed(&[]));
    assert_eq!(world.submit(delete("app/x", &[2])), changed(&[]));
    assert_eq!(states(&world, "app/x"), [Live, Destroyed, Live]);
    for bad in [0, 4, u64::MAX] {
        let whole = world.submit(destroy("app/x", &[1, bad]));
        assert_eq!(whole, Outcome::Refused(Refusal::not_found("version")), "{bad}");
    }
    assert_eq!(states(&world, "app/x"), [Live, Destroyed, Live], "all of it or nothing");
    assert_eq!(world.submit(delete("app/y", &[])), Outcome::Refused(Refusal::not_found("secret")));
}

#[test]
fn lists_are_by_whole_segments() {
    let mut world = World::new();
    for path in ["app/a", "app/a/b", "app/a/c/d", "app/ab", "app/a.b", "safe/a"] {
        assert!(matches!(world.put(path, None), Outcome::Stored { .. }), "{path}");
    }
    assert_eq!(world.submit(Change::CreateNamespace { namespace: "team/a".to_owned() }), Outcome::Done);
    let paths = |prefix: &str, after: Option<&str>, limit| {
        list(&world.store, "team", prefix, after, limit).unwrap().into_iter().map(|(p, _)| p).collect::<Vec<_>>()
    };
    assert_eq!(paths("", None, 99), ["app/a", "app/a.b", "app/a/b", "app/a/c/d", "app/ab", "safe/a"]);
    assert_eq!(paths("app/a", None, 99), ["app/a/b", "app/a/c/d"]);
    assert_eq!(paths("app", None, 2), ["app/a", "app/a.b"]);
    assert_eq!(paths("app", Some("app/a.b"), 2), ["app/a/b", "app/a/c/d"]);
    assert_eq!(paths("app", Some("aaa"), 1), ["app/a"], "what stands before the prefix is no place in it");
    assert_eq!(paths("app/a", Some("app/a/c/d"), 99), Vec::<String>::new());
    assert!(paths("ap", None, 99).is_empty());
    assert!(list(&world.store, "tea", "", None, 99).unwrap().is_empty());
    assert!(list(&world.store, "team/a", "", None, 99).unwrap().is_empty());
}

#[test]
fn a_header_says_what_the_request_says() {
    type Falsify = fn(&mut Seal);
    let mut world = World::new();
    let cases: [(&str, Falsify); 6] = [
        ("cluster", |s| s.cluster[0] ^= 1),
        ("writer", |s| s.writer = BOB.to_owned()),
        ("namespace", |s| s.namespace = "other".to_owned()),
        ("path", |s| s.path = "app/other".to_owned()),
        ("wrap number", |s| s.wrap_no = 1),
        ("wrapped by", |s| s.wrapped_by = BOB.to_owned()),
    ];
    for (field, falsify) in cases {
        let mut seal = world.seal("app/x");
        falsify(&mut seal);
        let outcome = world.submit(put("app/x", seal.make(), None));
        assert_unacceptable(&outcome, &format!("its {field} is not that of the request"));
    }
    // Alice's seal in Bob's request.
    let sealed = world.seal("app/x").make();
    let outcome = world.submit_as(BOB, put("app/x", sealed, None));
    assert_unacceptable(&outcome, "its writer");
    assert_eq!(secret(&world.store, "team", "app/x").unwrap(), None);
}

#[test]
fn the_slot_names_exactly_the_customers_of_the_mount() {
    let mut world = World::new();
    let public = |n: u8| customer(n).public().clone();
    let (of_cluster, of_customer) = (world.ring(KeyringClass::Cluster).y, world.ring(KeyringClass::Customer).y);
    let ring = |class, y| KeyringPublic { class, y };
    let exactly = "exactly the customer keys";
    let cases = [
        ("no customer", "safe/x", ring(KeyringClass::Cluster, of_customer), vec![], exactly),
        ("one left out", "safe/x", ring(KeyringClass::Customer, of_customer), vec![public(1)], exactly),
        ("one exchanged", "safe/x", ring(KeyringClass::Customer, of_customer), vec![public(1), public(3)], exactly),
        ("one too many", "safe/x", ring(KeyringClass::Customer, of_customer), [1, 2, 3].map(public).to_vec(), exactly),
        ("class cluster with a customer", "app/x", ring(KeyringClass::Customer, of_cluster), vec![public(1)], exactly),
        ("the other keyring", "app/x", ring(KeyringClass::Cluster, of_customer), vec![], "another keyring"),
        (
            "the other keyring",
            "safe/x",
            ring(KeyringClass::Customer, of_cluster),
            [1, 2].map(public).to_vec(),
            "another keyring",
        ),
        ("the writer's own keyring", "app/x", ring(KeyringClass::Cluster, G), vec![], "another keyring"),
    ];
    for (what, path, ring, customers, why) in cases {
        let seal = Seal { ring, customers, ..world.seal(path) };
        let outcome = world.submit(put(path, seal.make(), None));
        assert_unacceptable(&outcome, why);
        assert_eq!(secret(&world.store, "team", path).unwrap(), None, "{what}");
    }
    // The order in which the writer names them is not a matter of taste: the seal sorts.
    let seal = Seal { customers: [2, 1].map(public).to_vec(), ..world.seal("safe/x") };
    assert!(matches!(world.submit(put("safe/x", seal.make(), None)), Outcome::Stored { .. }));
    assert_eq!((customer(1).public().suite(), customer(2).public().suite()), (PartSuite::Hybrid, PartSuite::P256));
}

/// The base point: a public key whose secret, 1, everybody knows.
const G: [u8; 32] = [
    0xe2, 0xf2, 0xae, 0x0a, 0x6a, 0xbc, 0x4e, 0x71, 0xa8, 0x84, 0xa9, 0x61, 0xc5, 0x00, 0x51, 0x5f, 0x58, 0xe3, 0x0b,
    0x6a, 0xa5, 0x82, 0xdd, 0x8d, 0xb6, 0xa6, 0x59, 0x45, 0xe0, 0x8d, 0x2d, 0x76,
];

#[test]
fn header_and_payload_belong_together() {
    let mut world = World::new();
    let (one, two) = (world.seal("app/x").make(), world.seal("app/x").make());
    let swapped = Sealed { header: one.header.clone(), payload: two.payload };
    assert_unacceptable(&world.submit(put("app/x", swapped, None)), "payload is not the one");
    let long = Sealed { payload: [&one.payload[..], &[0]].concat(), ..one.clone() };
    assert_unacceptable(&world.submit(put("app/x", long, None)), "length");
    let none = Sealed { payload: Vec::new(), ..one };
    assert_unacceptable(&world.submit(put("app/x", none, None)), "length");
}

#[test]
fn a_header_is_taken_only_with_its_proof() {
    let mut world = World::new();
    let good = world.seal("app/x").make();
    let end = good.header.len();
    // The response, one of its middle bytes.
    let mut broken = good.clone();
    broken.header[end - 20] ^= 1;
    assert_unacceptable(&world.submit(put("app/x", broken, None)), "proof");
    // The wrapped key: nothing else would notice before somebody opens it. It ends before `LP(A || Ā) LP(f)`.
    let mut broken = good.clone();
    broken.header[end - 36 - 68 - 1] ^= 1;
    assert_unacceptable(&world.submit(put("app/x", broken, None)), "proof");
    for cut in [0, 1, end - 1] {
        let short = Sealed { header: good.header[..cut].to_vec(), ..good.clone() };
        assert_unacceptable(&world.submit(put("app/x", short, None)), "malformed");
    }
    assert!(matches!(world.submit(put("app/x", good, None)), Outcome::Stored { .. }));
}

/// Every third byte of one class, every seventeenth of the other (which is mostly ML-KEM): that no byte at all may change is shown
/// in `crates/crypto/tests/sealed.rs`, and here that `apply` asks, and keeps nothing.
#[test]
fn a_flipped_bit_anywhere_in_a_header_is_refused() {
    let mut world = World::new();
    for (path, step) in [("app/x", 3), ("safe/x", 17)] {
        let good = world.seal(path).make();
        for at in (0..good.header.len()).step_by(step) {
            let mut broken = good.clone();
            broken.header[at] ^= 1 << (at % 8);
            let outcome = world.submit(put(path, broken, None));
            assert!(
                matches!(&outcome, Outcome::Refused(Refusal::Unacceptable { .. })),
                "{path}, byte {at} of {}: {outcome:?}",
                good.header.len()
            );
        }
        assert_eq!(secret(&world.store, "team", path).unwrap(), None, "{path}: nothing is stored");
        assert!(
            matches!(world.submit(put(path, good, None)), Outcome::Stored { number: 1, .. }),
            "{path}: no id is used up"
        );
    }
}

#[test]
fn a_ciphertext_serves_in_one_place() {
    let mut world = World::new();
    let seal = world.seal("app/x");
    assert!(matches!(world.submit(put("app/x", seal.make(), None)), Outcome::Stored { .. }));
    // Its id at another path, honestly sealed for that.
    let moved = Seal { path: "app/y".to_owned(), version_id: [9; 16], ..seal.clone() };
    assert_unacceptable(&world.submit(put("app/y", moved.make(), None)), "secret id was used before");
    // Another id at its path.
    let other = Seal { secret_id: [9; 16], version_id: [9; 16], ..seal.clone() };
    assert_unacceptable(&world.submit(put("app/x", other.make(), None)), "not that of the path");
    // Its version again, as it is and with another value.
    assert_unacceptable(&world.submit(put("app/x", seal.make(), None)), "version id was used before");
    let again = Seal { plaintext: b"another".to_vec(), ..seal.clone() };
    assert_unacceptable(&world.submit(put("app/x", again.make(), Some(1))), "version id was used before");
    // Destroying it frees nothing.
    assert_eq!(world.submit(destroy("app/x", &[1])), changed(&[1]));
    assert_unacceptable(&world.submit(put("app/x", seal.make(), None)), "version id was used before");
    // A version id belongs to one secret.
    let elsewhere = Seal { version_id: seal.version_id, ..world.seal("app/z") };
    assert!(matches!(world.submit(put("app/z", elsewhere.make(), None)), Outcome::Stored { .. }));
}

#[test]
fn a_refused_version_uses_up_no_id() {
    let mut world = World::new();
    let seal = world.seal("app/x");
    let mut broken = seal.make();
    broken.payload[30] ^= 1;
    assert_code(&world.submit(put("app/x", broken, None)), "unacceptable_seal");
    assert!(matches!(world.submit(put("app/x", seal.make(), None)), Outcome::Stored { number: 1, .. }));
}

#[test]
fn secrets_stand_below_a_mount() {
    let mut world = World::new();
    let mut try_at = |namespace: &str, path: &str| {
        let sealed = world.seal("app/x").make();
        let Sealed { header, payload } = sealed;
        let (namespace, path) = (namespace.to_owned(), path.to_owned());
        world.submit(Change::PutSecret { namespace, path, header, payload, expected: None })
    };
    let no_mount = Outcome::Refused(Refusal::not_found("mount"));
    assert_eq!(try_at("team", "nothing/x"), no_mount);
    assert_eq!(try_at("team", "ap/x"), no_mount);
    assert_eq!(try_at("nobody", "app/x"), no_mount);
    for path in ["", "/", "app", "app/", "/app/x", "app//x", "app/../safe/x", "app/.", "app/\u{0}x", "app/a\nb"] {
        assert_invalid(&try_at("team", path), "path");
    }
    assert_invalid(&try_at("team", &format!("app/{}", "p".repeat(MAX_PATH - 3))), "path");
    for namespace in ["", "a//b", "..", &"n".repeat(MAX_NAMESPACE + 1)] {
        assert_invalid(&try_at(namespace, "app/x"), "namespace");
    }
    for namespace in ["sys", "sys/below"] {
        assert_invalid(&try_at(namespace, "app/x"), "namespace");
    }
}

#[test]
fn the_vault_s_own_namespace_is_closed_to_every_change_of_secrets() {
    let mut world = World::with_target();
    let (namespace, path) = ("sys".to_owned(), "target/db".to_owned());
    let at = || (namespace.clone(), path.clone());
    let changes = [
        {
            let (namespace, path) = at();
            Change::DeleteSecret { namespace, path, numbers: vec![1] }
        },
        {
            let (namespace, path) = at();
            Change::UndeleteSecret { namespace, path, numbers: vec![1] }
        },
        {
            let (namespace, path) = at();
            Change::DestroySecret { namespace, path, numbers: vec![1] }
        },
    ];
    for change in changes {
        assert_invalid(&world.submit(change), "namespace");
    }
}

#[test]
fn the_largest_of_everything_is_taken() {
    let mut world = World::new();
    let path = format!("app/{}", "p".repeat(MAX_PATH - 4));
    let mut seal = world.seal(&path);
    seal.plaintext = vec![7; MAX_PLAINTEXT];
    assert!(matches!(world.submit(put(&path, seal.make(), Some(0))), Outcome::Stored { .. }));
    assert_eq!(list(&world.store, "team", "app", None, 9).unwrap()[0].0, path);
}

#[test]
fn a_secret_has_a_thousand_and_twenty_four_versions_at_most() {
    let mut world = World::new();
    world.put("app/x", None);
    let at = row(Table::Secret, &[&name("team"), &name("app/x")]);
    let mut many = secret(&world.store, "team", "app/x").unwrap().unwrap();
    let first = many.versions[0].clone();
    let version = |n: u64| VersionInfo { number: n, id: VersionId(bytes(&format!("v{n}"))), ..first.clone() };
    many.versions.extend((2..=MAX_VERSIONS as u64).map(version));
    // Written by hand: sealing a thousand takes long. So the state is not checked, and only `put` is asked.
    let ask = |world: &mut World, many: &Secret| {
        world.store.0.insert(at.clone(), encode(many));
        let sealed = world.seal("app/x").make();
        let signed = World::sign(&world.request(put("app/x", sealed, None)));
        let position = quorate_state::machine::Position { index: 99, term: 5 };
        let entry = world.command(&signed).encode();
        quorate_state::machine::apply(&world.store, &world.cluster, position, &entry, &Verified::default()).unwrap().1
    };
    assert_invalid(&ask(&mut world, &many), "path");
    many.versions[5].state = VersionState::Destroyed;
    assert!(matches!(ask(&mut world, &many), Outcome::Stored { number, .. } if number == MAX_VERSIONS as u64 + 1));
    assert!(world.store.get(&at).unwrap().is_some());
}
