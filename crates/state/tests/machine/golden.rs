//! The bytes of the log and of the state are frozen: `tests/golden/*.txt`, one `name: hexadecimal digits` a line; what is
//! longer than 2 KiB by its length and hash.
//!
//! `QUORATE_WRITE_GOLDEN=1` writes them anew. Whoever needs that owes every cluster that runs a reader of the old form.

use crate::world::*;
use borsh::BorshSerialize;
use quorate_crypto::encoding::hash;
use quorate_crypto::keyring::KeyringClass;
use quorate_crypto::reshare::{Body, Complaint};
use quorate_state::absence::{Absence, Record};
use quorate_state::attest::{Applied, Attestation, Excuses};
use quorate_state::change::{Change, Kind};
use quorate_state::clock::Reading;
use quorate_state::command::{Command, RevocationProof};
use quorate_state::ids::{KeyringId, LeaseId, SecretId, SessionId, VersionId};
use quorate_state::lease::{Form, Selector, Subject};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::{Endorsement, Request};
use quorate_state::store::{MemStore, Table, key as row};
use quorate_state::target::{Endpoint, Finding, Proof, Quarantine, Revision, System, TargetTls, target};
use std::collections::BTreeSet;
use std::path::PathBuf;

fn shown(bytes: &[u8]) -> String {
    if bytes.len() <= 2_048 {
        return hex::encode(bytes);
    }
    format!("{} bytes, {}", bytes.len(), hex::encode(hash("test/golden", &[bytes])))
}

/// The same target, far away.
fn encrypted(mut target: Change) -> Change {
    if let Change::PutTarget { spec, .. } = &mut target {
        spec.databases = vec!["more".to_owned()];
        spec.standbys = vec![Endpoint { host: "standby".to_owned(), port: 5433 }];
        spec.owner = "owner".to_owned();
        spec.clients = Some(Endpoint { host: "pooler".to_owned(), port: 6432 });
        spec.tls = Some(TargetTls { roots: vec![vec![0x30; 8]], server_name: "db".to_owned(), require_binding: true });
    }
    target
}

/// Compares with the file of this name, or writes it.
#[track_caller]
fn frozen(file: &str, now: &[(String, Vec<u8>)]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(file);
    let lines: Vec<String> = now.iter().map(|(name, bytes)| format!("{name}: {}", shown(bytes))).collect();
    if std::env::var_os("QUORATE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, lines.join("\n") + "\n").unwrap();
    }
    let text = std::fs::read_to_string(&path).unwrap();
    let then: Vec<&str> = text.lines().collect();
    for (now, then) in lines.iter().zip(&then) {
        assert_eq!(now, then, "{file}");
    }
    assert_eq!(lines.len(), then.len(), "{file}");
    let names: BTreeSet<&String> = now.iter().map(|(name, _)| name).collect();
    assert_eq!(names.len(), now.len(), "a name stands twice");
}

fn bytes_of(value: &impl BorshSerialize) -> Vec<u8> {
    borsh::to_vec(value).unwrap()
}

/// One change of each kind.
pub(crate) fn changes(world: &mut World) -> Vec<Change> {
    let sealed = world.seal("safe/a/b").make();
    let (namespace, path, numbers) = ("team".to_owned(), "safe/a/b".to_owned(), vec![1, 2]);
    let (name, lease) = ("reader".to_owned(), LeaseId([5; 16]));
    vec![
        put("safe/a/b", sealed, Some(7)),
        Change::DeleteSecret { namespace: namespace.clone(), path: path.clone(), numbers: Vec::new() },
        Change::UndeleteSecret { namespace: namespace.clone(), path: path.clone(), numbers: numbers.clone() },
        Change::DestroySecret { namespace: namespace.clone(), path, numbers },
        Change::CreateNamespace { namespace },
        world.mount("app", KeyringClass::Customer, &[1, 2]),
        world.register("acme", 2),
        Change::PutPolicy { name: "p".to_owned(), text: "permit(principal, action, resource);".to_owned() },
        Change::DeletePolicy { name: "p".to_owned() },
        Change::BlockIdentity { principal: BOB.to_owned() },
        Change::UnblockIdentity { principal: BOB.to_owned() },
        Change::BeginKeyGeneration { session: SessionId([6; 32]), class: KeyringClass::Customer },
        encrypted(world.target("db")),
        role("reader", "db"),
        Change::DeleteRole { name },
        issue("reader", Some(HOUR)),
        Change::RenewLease { lease, ttl: HOUR },
        Change::RevokeLease { lease },
        Change::SetClientRoots { certificates: vec![b"a CA".to_vec(), b"another CA".to_vec()] },
        Change::ResetClock { to: CREATED },
        gone(2, Some(Absence::Destroyed)),
        Change::RevokeLeases { selector: Selector::Below("spiffe://example.org/app".to_owned()) },
        Change::ProveTarget { name: "db".to_owned() },
        Change::DeleteTarget { name: "db".to_owned() },
        Change::SetQuota { subject: Subject::Namespace("team".to_owned()), limit: Some(9) },
        Change::TakeOver { target: "db".to_owned(), counter: 9 },
        Change::ReplacePassword { name: "db".to_owned(), header: vec![1; 9], payload: vec![2; 9] },
        Change::ReviseTarget {
            name: "db".to_owned(),
            revision: Revision {
                host: Some("db2.example.org".to_owned()),
                port: Some(5433),
                database: Some("app".to_owned()),
                tls: Some(TargetTls { roots: vec![vec![9; 3]], server_name: "db".to_owned(), require_binding: true }),
                databases: Some(vec!["more".to_owned()]),
                standbys: Some(vec![Endpoint { host: "standby".to_owned(), port: 5434 }]),
                owner: Some("rightless".to_owned()),
                rotate: Some(false),
                remote_apply: Some(true),
                clients: Some(Some(Endpoint { host: "pooler".to_owned(), port: 6432 })),
            },
        },
    ]
}

#[test]
fn commands_are_frozen() {
    let mut world = World::new();
    let mut all = Vec::new();
    let (lease, term) = (LeaseId([5; 16]), 7);
    let changes = changes(&mut world);
    let kinds: BTreeSet<Kind> = changes.iter().map(Change::kind).collect();
    let reading =
        "OpenSecret ListSecrets ReadVersions ReadMounts ReadPolicies ReadRoles ReadLease ListLeases ReadStatus";
    assert_eq!(kinds.len() + reading.split(' ').count(), Kind::ALL.len(), "a change is missing here");
    for change in changes {
        let kind = change.kind().name();
        let request = Request { reply_to: Some([3; 32]), ..world.request(change) };
        let signed = World::sign(&request);
        all.push((format!("request {kind}"), signed.bytes.clone()));
        if matches!(kind, "lease.issue" | "policy.put") {
            all.push((format!("command endorsed {kind}"), world.command(&signed).encode()));
        }
    }
    // Of other kinds of systems.
    let mut other = world.target("my");
    if let Change::PutTarget { spec, .. } = &mut other {
        (spec.system, spec.database) = (System::MariaDb, String::new());
    }
    let forms = [Form::MySqlNative, Form::MariaDbEd25519, Form::RedisSha256, Form::RabbitMqSha256, Form::Sealed];
    let roles = forms.map(|form| (form.name(), role_with("app", "my", |role| role.form = form)));
    for (what, change) in [("mariadb", other)].into_iter().chain(roles) {
        all.push((format!("request of {what}"), World::sign(&world.request(change)).bytes));
    }
    world.submit(Change::BeginKeyGeneration { session: SessionId([6; 32]), class: KeyringClass::Customer });
    let message = world.say(&SessionId([6; 32])).remove(0);
    let endpoint = "db.example.org:5432".to_owned();
    let applied = Applied { index: 9, log: [1; 32], state: [2; 32] };
    let attestation = Attestation::sign(&world.cluster, ROSTER, 2, applied, &node(2));
    let findings = vec![Finding::Missing("GRANT".to_owned()), Finding::Failed("no".to_owned())];
    let proof =
        Proof { asked: 8, at: CREATED, version: 150_018, timeline: 1, findings, notes: vec!["note".to_owned()] };
    let found = Quarantine { counter: 9, index: 8, unknown: 2, missing: 1, sample: vec!["q_x".to_owned()] };
    let commands = [
        Command::Tick { readings: vec![Reading::sign(&world.cluster, ROSTER, 1, 9, CREATED, &node(1))] },
        Command::Expire { term, upto: CREATED },
        office("db", 2, term),
        Command::LeaseActive { term, lease, oid: 16_400, issued: vec![5; 9] },
        Command::LeaseFailed { term, lease },
        Command::LeaseRevoked {
            term,
            described: 7,
            proofs: vec![RevocationProof { lease, fenced: true, looked_at: CREATED, sessions_ended: 3, endpoint }],
        },
        Command::Adopt { term, target: "db".to_owned(), principal: "q01234567_aa".to_owned(), oid: 16_401 },
        Command::Ceremony { message },
        Command::Returned { attestation: attestation.clone() },
        Command::Sweep { term },
        Command::TargetProved { term, target: "db".to_owned(), proof },
        Command::Quarantine { term, target: "db".to_owned(), found },
        world.rotation("db", 2),
        Command::PasswordRotated { term, target: "db".to_owned(), index: 8 },
        Command::CountOn { term, target: "db".to_owned(), nonce: [7; 8] },
        Command::Remain { term, target: "db".to_owned() },
        Command::Cleared { term, target: "db".to_owned(), upto: 8 },
    ];

    for command in commands {
        assert_eq!(Command::decode(&command.encode()), Ok(command.clone()));
        all.push((format!("command {command}"), command.encode()));
    }
    let list = vec![[1; 64], [2; 64]];
    let endorsement = Endorsement::sign(&world.cluster, ROSTER, 8, 2, CREATED, list, &node(2));
    all.push(("endorsement".to_owned(), bytes_of(&endorsement)));
    all.push(("attestation".to_owned(), bytes_of(&attestation)));
    let record = |absence| Record { absence, reason: "it burned".to_owned(), index: 8, at: CREATED };
    let records = [(1, record(Absence::PoweredOff)), (3, record(Absence::Destroyed))].into();
    let excuses = Excuses::sign(&world.cluster, (ROSTER, 2), 9, &records, &BTreeSet::new(), &node(2));
    all.push(("excuses".to_owned(), bytes_of(&excuses)));
    all.push(("genesis".to_owned(), genesis().to_bytes()));
    all.push(("cluster".to_owned(), genesis().cluster().0.to_vec()));
    frozen("commands.txt", &all);
}

#[test]
fn outcomes_are_frozen() {
    let (lease, text) = (LeaseId([5; 16]), || "text".to_owned());
    let outcomes = [
        ("done", Outcome::Done),
        ("stored", Outcome::Stored { number: 3, secret: SecretId([1; 16]), version: VersionId([2; 16]) }),
        ("versions", Outcome::Versions { changed: vec![1, 2] }),
        ("intent", Outcome::Intent { lease, principal: text(), expires_at: CREATED }),
        ("renewed", Outcome::Renewed { lease, expires_at: CREATED }),
        ("leases", Outcome::Leases { changed: vec![lease] }),
        ("ceremony", Outcome::Ceremony { keyring: Some(KeyringId([4; 32])) }),
        ("time", Outcome::Time { now: CREATED, jumped: true }),
    ];
    let refusals = [
        Refusal::Malformed,
        Refusal::WrongCluster,
        Refusal::BadSignature,
        Refusal::NotEndorsed { got: 1, needed: 2 },
        Refusal::NotByAdministrators { got: 1, needed: 2 },
        Refusal::Stale { current: 7 },
        Refusal::TooLate { not_after: CREATED, now: CREATED + 1 },
        Refusal::TooFar { limit: 5 },
        Refusal::RequestIdReused,
        Refusal::CheckAndSet { current: 3 },
        Refusal::not_found("mount"),
        Refusal::exists("mount"),
        Refusal::invalid("field", "why"),
        Refusal::unacceptable("why"),
        Refusal::LeaseState { state: text() },
        Refusal::Quota { what: text(), limit: 3 },
        Refusal::Blocked,
        Refusal::Unjustified,
        Refusal::Ceremony { why: text() },
        Refusal::ExpiryPaused { until: CREATED },
        Refusal::TargetStanding { standing: text() },
        Refusal::Quarantined { counter: 9 },
    ];
    let mut all: Vec<_> = outcomes.iter().map(|(name, o)| ((*name).to_owned(), bytes_of(o))).collect();
    for (n, refusal) in refusals.into_iter().enumerate() {
        let name = format!("refused {}", refusal.code());
        let bytes = bytes_of(&Outcome::Refused(refusal));
        // The number of the variant: nothing is left out between the first and the last.
        assert_eq!((bytes[0], usize::from(bytes[1])), (8, n), "{name}");
        all.push((name, bytes));
    }
    for (n, (name, bytes)) in all.iter().take(8).enumerate() {
        assert_eq!(usize::from(bytes[0]), n, "{name}");
    }
    let fault = Outcome::Fault { session: SessionId([6; 32]), member: 2, what: text() };
    assert_eq!(bytes_of(&fault)[0], 9);
    all.push(("fault".to_owned(), bytes_of(&fault)));
    // And nothing comes after the last.
    assert!(borsh::from_slice::<Outcome>(&[10]).is_err());
    assert!(borsh::from_slice::<Refusal>(&[22]).is_err());
    frozen("outcomes.txt", &all);
}

#[test]
fn the_state_is_frozen() {
    let mut world = World::with_target();
    world.put("app/a/b", None);
    world.put("app/a/b", None);
    let (namespace, path) = ("team".to_owned(), "app/a/b".to_owned());
    world.submit(Change::DeleteSecret { namespace, path, numbers: vec![1] });
    world.submit(Change::BlockIdentity { principal: BOB.to_owned() });
    let ending = world.active(16_400);
    world.submit(Change::RevokeLease { lease: ending });
    assert_eq!(world.apply(&Command::Remain { term: world.term, target: "db".to_owned() }), Outcome::Done);
    let endpoint = "db.example.org:5432".to_owned();
    let proof = RevocationProof { lease: ending, fenced: false, looked_at: CREATED, sessions_ended: 1, endpoint };
    world.apply(&Command::LeaseRevoked { term: world.term, described: world.described(), proofs: vec![proof] });
    world.active(16_401);
    // Near the end, so that it moves no other row.
    world.submit(Change::BeginKeyGeneration { session: SessionId([6; 32]), class: KeyringClass::Cluster });
    for _ in 0..2 {
        world
            .say(&SessionId([6; 32]))
            .into_iter()
            .for_each(|message| drop(world.apply(&Command::Ceremony { message })));
    }
    let ceremony = quorate_state::ceremony::session(&world.store, &SessionId([6; 32])).unwrap().unwrap().ceremony;
    let lie = Body::Complaint(Complaint { dealer: 1, key_seed: [7; 32] });
    let lie = quorate_crypto::reshare::Message::sign(ceremony.params(), 3, lie, &node(3)).encode();
    world.apply(&Command::Ceremony { message: lie });
    // A target whose password was rotated, and is being rotated again.
    let rotation = world.rotation("db", 1);
    world.apply(&rotation);
    let index = target(&world.store, "db").unwrap().unwrap().next.unwrap().index;
    world.apply(&Command::PasswordRotated { term: world.term, target: "db".to_owned(), index });
    world.term += 1;
    world.apply(&office("db", 1, world.term));
    let rotation = world.rotation("db", 1);
    assert_eq!(world.apply(&rotation), Outcome::Done);
    assert_eq!(world.submit(gone(2, Some(Absence::PoweredOff))), Outcome::Done);
    let rows = |store: &MemStore, table: u8| store.0.iter().filter(|(k, _)| k[0] == table).count();
    for table in Table::Hash as u8..=Table::LeaseOrigin as u8 {
        // It takes a thousand leases to have one: it is frozen in `sweeps.rs`.
        let elsewhere = table == Table::LeaseSweep as u8;
        assert!(elsewhere || rows(&world.store, table) > 0, "no row of table {table:#04x} is frozen");
    }
    // Of the request table, which has a row for each step above, the first ones are enough.
    let few = world.store.0.range(row(Table::Request, &[])..row(Table::Blocked, &[])).map(|(k, _)| k.clone()).skip(2);
    let many: BTreeSet<Vec<u8>> = few.collect();
    let kept = world.store.0.iter().filter(|(k, _)| !many.contains(*k));
    let mut all: Vec<_> = kept.map(|(k, v)| (format!("row {}", hex::encode(k)), v.clone())).collect();
    let whole: Vec<u8> = world.store.0.iter().flat_map(|(k, v)| [k.as_slice(), v].concat()).collect();
    all.push(("the whole state".to_owned(), hash("test/golden", &[&whole]).to_vec()));
    frozen("state.txt", &all);
}
