//! One pure path of the vault, so many times, for `tests/guards.rs` to count its instructions: `paths PATH TIMES`.
//!
//! What is set up before is the same for any number of times, so the difference of two counts is the path's alone. A path whose
//! name begins with `planted-` does what the one behind it does, and something slow besides: it must be found.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stderr,
    reason = "a test's program"
)]

mod disk;
#[path = "../../../authz/tests/support/mod.rs"]
mod people;
#[allow(dead_code, reason = "what other tests use of it")]
#[path = "../../../state/tests/machine/world.rs"]
mod world;

/// What `world` asks of the tests around it: there it is checked, here it would be counted.
mod footprints {
    pub(crate) fn covers(_: &[u8], _: &quorate_state::store::Writes) {}
}

use core::hint::black_box;
use disk::Memory;
use quorate_audit::{AuditLog, Class, Config, Decision, Entry, Kind as RecordKind, RecordId};
use quorate_authz::{Authority, Facts};
use quorate_crypto::identity::Verified;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{Header, open};
use quorate_crypto::secret::Secret;
use quorate_crypto::threshold::{KeyShare, combine, partial};
use quorate_state::change::{Kind, Resource};
use quorate_state::machine::{Position, apply};
use world::World;

/// Values as they are in the customary benchmark.
const VALUE: usize = 1024;

fn main() {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_default();
    let times = arguments.next().and_then(|n| n.parse().ok()).unwrap_or(1);
    let (path, planted) = path.strip_prefix("planted-").map_or((path.as_str(), false), |path| (path, true));
    let again = || {
        if planted {
            slow();
        }
    };
    match path {
        "partial" => repeat(times, again, partial_of()),
        "combine" => repeat(times, again, combination()),
        "accept" => repeat(times, again, acceptance()),
        "open" => repeat(times, again, opening()),
        "decide" => repeat(times, again, decision()),
        "apply" => repeat(times, again, application(times, false)),
        "apply-met" => repeat(times, again, application(times, true)),
        "encode" => repeat(times, again, encoding()),
        _ => {
            eprintln!("there is no path `{path}`");
            std::process::exit(2);
        }
    }
}

fn repeat(times: usize, again: impl Fn(), mut work: impl FnMut()) {
    for _ in 0..times {
        work();
        again();
    }
}

/// What must be found: some thousands of instructions that somebody added without need.
fn slow() {
    let mut sum = 0_u64;
    for n in 0..2_000_u64 {
        sum = black_box(sum.rotate_left(5) ^ n);
    }
}

fn share(index: u8) -> KeyShare {
    KeyShare::new(index, &Secret::from_slice(&[0x0a; 32]).unwrap()).unwrap()
}

/// A keyring's public point, and a version that is sealed to it.
fn sealed() -> ([u8; 32], Vec<u8>, Vec<u8>) {
    let y = share(3).public_share();
    let seal = world::Seal {
        cluster: [1; 32],
        namespace: "team".to_owned(),
        path: "app/a".to_owned(),
        secret_id: [2; 16],
        version_id: [3; 16],
        writer: world::ALICE.to_owned(),
        wrapped_by: world::ALICE.to_owned(),
        wrap_no: 0,
        ring: KeyringPublic { class: KeyringClass::Cluster, y },
        customers: Vec::new(),
        plaintext: vec![b'x'; VALUE],
    };
    let sealed = seal.make();
    (y, sealed.header, sealed.payload)
}

/// A member's part.
fn partial_of() -> impl FnMut() {
    let (_, header, _) = sealed();
    let r = Header::decode(&header).unwrap().r();
    let share = share(1);
    move || _ = black_box(partial(&share, black_box(&r)).unwrap())
}

/// A client's combination of two parts.
fn combination() -> impl FnMut() {
    let (_, header, _) = sealed();
    let r = Header::decode(&header).unwrap().r();
    let parts = [1, 2].map(|index| (index, partial(&share(index), &r).unwrap()));
    move || _ = black_box(combine(black_box(&parts)).unwrap())
}

/// What a member looks at before a version is stored.
fn acceptance() -> impl FnMut() {
    let (_, header, payload) = sealed();
    move || {
        let header = Header::decode(black_box(&header)).unwrap();
        header.verify_proof().unwrap();
        header.check_payload(black_box(&payload)).unwrap();
    }
}

/// A client's opening, to the key commitment, which refuses the parts of shares that are no keyring's.
fn opening() -> impl FnMut() {
    let (y, header, payload) = sealed();
    let header = Header::decode(&header).unwrap();
    let parts = [1, 2].map(|index| (index, partial(&share(index), &header.r()).unwrap()));
    let point = combine(&parts).unwrap();
    move || _ = black_box(open(black_box(&header), &payload, &y, &point, &[]))
}

/// A decision about opening a secret, by ten policies.
fn decision() -> impl FnMut() {
    let who = people::principal("spiffe://td/app/billing");
    let policy = |n: usize| {
        let folder = if n == 7 { "default:app/billing".to_owned() } else { format!("default:app/other-{n}") };
        let text = format!(
            "permit (principal in Quorate::Group::\"spiffe://td/app\", action == Quorate::Action::\"secret:open\", \
             resource in Quorate::Folder::\"{folder}\");"
        );
        (format!("p{n}"), text)
    };
    let policies: Vec<_> = (0..10).map(policy).collect();
    let authority = Authority::compile(&policies).unwrap();
    let resource = Resource::Secret { namespace: "default".to_owned(), path: "app/billing/db".to_owned() };
    let facts = Facts { now: people::NOW, lease: None };
    move || _ = black_box(authority.authorize(&who, Kind::OpenSecret, black_box(&resource), &facts).unwrap())
}

/// Entries of the log that store a version each, applied; made before. `met` by a member that has verified their signatures before, as one
/// has that decided on them.
fn application(times: usize, met: bool) -> impl FnMut() {
    let mut world = World::new();
    let commands: Vec<Vec<u8>> = (0..MOST)
        .map(|n| {
            let mut seal = world.seal(&format!("app/{n}"));
            seal.plaintext = vec![b'x'; VALUE];
            let change = world::put(&format!("app/{n}"), seal.make(), None);
            let request = world.request(change);
            world.command(&World::sign(&request)).encode()
        })
        .collect();
    assert!(times <= MOST, "at most {MOST} entries");
    let seen = Verified::default();
    if met {
        let at = Position { index: world.index + 1, term: world.term };
        commands.iter().for_each(|entry| drop(apply(&world.store, &world.cluster, at, entry, &seen).unwrap()));
    }
    let mut entries = commands.into_iter();
    move || {
        let entry = entries.next().unwrap();
        world.index += 1;
        let at = Position { index: world.index, term: world.term };
        let (writes, outcome) = apply(&world.store, &world.cluster, at, &entry, &seen).unwrap();
        assert!(matches!(outcome, quorate_state::outcome::Outcome::Stored { .. }), "{outcome:?}");
        world.store.commit(writes);
    }
}

/// How many entries are made, however many are applied: what is set up must be the same.
const MOST: usize = 40;

/// A record of the audit log: made, closed by its hash, written to a disk in memory.
fn encoding() -> impl FnMut() {
    let config = Config::new("n1", "c0ffee", 1_800_000_000_000);
    let (log, _) = AuditLog::open_in_place(Box::new(Memory::default()), config).unwrap();
    move || {
        let entry = Entry::new(1_800_000_000_000, RecordKind::Decision, RecordId::request(&[7; 16]), "secret.open")
            .principal("spiffe://td/app/billing")
            .resource("default:app/billing/db")
            .decision(Decision::Allow, "allowed")
            .policies(["p7"])
            .index(4_711)
            .term(5);
        drop(black_box(log.append(entry, Class::Normal)));
    }
}
