//! A small cluster: three members, three administrators, two keyrings from real ceremonies, all from fixed seeds.

use quorate_crypto::customer::{CustomerPublic, CustomerSecret};
use quorate_crypto::encoding::hash;
use quorate_crypto::identity::{SigningKey, Verified};
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::reshare;
use quorate_crypto::sealed::{Fresh, ObjectTemplate, Sealed, WrapTemplate, seal_with};
use quorate_crypto::secret::Secret;
use quorate_state::absence::Absence;
use quorate_state::ceremony::session;
use quorate_state::change::Change;
use quorate_state::clock::{ClusterClock, Reading};
use quorate_state::command::{Binding, Command, RevocationProof, Stamp};
use quorate_state::genesis::{Administrators, ClientRoots, Genesis, Member, Roster};
use quorate_state::ids::{ClusterId, CustomerKeyId, KeyringId, LeaseId, Millis, RequestId, SessionId};
use quorate_state::lease::Form;
use quorate_state::machine::{Position, apply, check};
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::{Endorsement, Request, SignedRequest, authority_version};
use quorate_state::secrets::secret;
use quorate_state::store::MemStore;
use quorate_state::target::{Finding, Proof, Role, System, TargetSpec, target};
use std::sync::{Arc, OnceLock};

pub(crate) const ALICE: &str = "spiffe://example.org/app/alice";
pub(crate) const BOB: &str = "spiffe://example.org/app/bob";
pub(crate) const CREATED: Millis = 1_800_000_000_000;
pub(crate) const ROSTER: u64 = 4;
pub(crate) const SECOND: Millis = 1_000;
pub(crate) const MINUTE: Millis = 60_000;
pub(crate) const HOUR: Millis = 3_600_000;
pub(crate) const VERIFIER: &str = "SCRAM-SHA-256$4096:AAAAAAAAAAAAAAAAAAAAAA==\
                                   $AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\
                                   :AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI=";

/// Bytes that depend on `what` alone.
pub(crate) fn bytes<const N: usize>(what: &str) -> [u8; N] {
    hash("test", &[what.as_bytes()])[..N].try_into().unwrap()
}

/// The key of a person, a node or a program, by its name.
pub(crate) fn key(who: &str) -> SigningKey {
    SigningKey::from_seed(&Secret::from_slice(&bytes::<32>(who)).unwrap())
}

pub(crate) fn node(index: u8) -> SigningKey {
    key(&format!("node-{index}"))
}

/// Customer 1 has both keys, the others P-256 alone.
pub(crate) fn customer(n: u8) -> CustomerSecret {
    let scalar = bytes::<32>(&format!("customer {n}"));
    let kem = bytes::<64>(&format!("customer {n} kem"));
    let encoded = if n == 1 { [&[1][..], &scalar, &kem].concat() } else { [&[2][..], &scalar].concat() };
    CustomerSecret::decode(&encoded).unwrap()
}

pub(crate) fn customer_id(n: u8) -> CustomerKeyId {
    CustomerKeyId(customer(n).public().id())
}

pub(crate) fn genesis() -> Genesis {
    let member = |index: u8| Member {
        name: format!("node-{index}"),
        index,
        key: node(index).verify_key().0,
        raft_id: 100 + u64::from(index),
        peer_address: format!("node-{index}.example.org:7000"),
        api_address: format!("node-{index}.example.org:7001"),
    };
    Genesis {
        name: "test".to_owned(),
        nonce: bytes("nonce"),
        created: CREATED,
        roster: Roster { number: ROSTER, members: (1..=3).map(member).collect(), threshold: 2 },
        administrators: Administrators {
            keys: (1..=3).map(|i| key(&format!("admin-{i}")).verify_key().0).collect(),
            needed: 2,
        },
        client_roots: ClientRoots {
            certificates: vec![b"a certificate".to_vec()],
            trust_domain: "example.org".to_owned(),
        },
        policies: vec![("first".to_owned(), "permit(principal, action, resource);".to_owned())],
    }
}

#[derive(Clone)]
pub(crate) struct World {
    pub(crate) store: MemStore,
    pub(crate) cluster: ClusterId,
    pub(crate) term: u64,
    pub(crate) index: u64,
    pub(crate) log: Vec<(Position, Vec<u8>)>,
    serial: u64,
    in_bulk: bool,
    /// All that any of them has met, as a member has that was there all the time.
    seen: Arc<Verified>,
}

impl World {
    /// Nothing but the genesis.
    pub(crate) fn bare() -> Self {
        let genesis = genesis();
        let mut store = MemStore::default();
        store.commit(genesis.initial_state());
        let (cluster, seen) = (genesis.cluster(), Arc::default());
        Self { store, cluster, term: 5, index: 10, log: Vec::new(), serial: 0, in_bulk: false, seen }
    }

    /// Keyrings of both classes; namespace `team` with mounts `app` (class cluster) and `safe` (customers 1 and 2).
    pub(crate) fn new() -> Self {
        static MADE: OnceLock<World> = OnceLock::new();
        MADE.get_or_init(|| {
            let mut world = Self::bare();
            world.generate(1, KeyringClass::Cluster);
            world.generate(2, KeyringClass::Customer);
            for n in 1..=3 {
                let registered = world.register(&format!("customer-{n}"), n);
                assert_eq!(world.submit(registered), Outcome::Done);
            }
            assert_eq!(world.submit(Change::CreateNamespace { namespace: "team".to_owned() }), Outcome::Done);
            let app = world.mount("app", KeyringClass::Cluster, &[]);
            assert_eq!(world.submit(app), Outcome::Done);
            let safe = world.mount("safe", KeyringClass::Customer, &[1, 2]);
            assert_eq!(world.submit(safe), Outcome::Done);
            world
        })
        .clone()
    }

    /// Also target `db` with role `reader`, and member 1 in office.
    pub(crate) fn with_target() -> Self {
        static MADE: OnceLock<World> = OnceLock::new();
        MADE.get_or_init(|| {
            let mut world = Self::new();
            let target = world.target("db");
            assert_eq!(world.submit(target), Outcome::Done);
            assert_eq!(world.submit(role("reader", "db")), Outcome::Done);
            assert_eq!(world.apply(&office("db", 1, world.term)), Outcome::Done);
            world.prove("db");
            world
        })
        .clone()
    }

    // ---- the log

    /// Applies one entry and checks the state behind it.
    pub(crate) fn apply_bytes(&mut self, entry: &[u8]) -> Outcome {
        self.index += 1;
        let at = Position { index: self.index, term: self.term };
        let (writes, outcome) = apply(&self.store, &self.cluster, at, entry, &self.seen).unwrap();
        crate::footprints::covers(entry, &writes);
        self.store.commit(writes);
        if !self.in_bulk {
            check(&self.store).unwrap();
        }
        self.log.push((at, entry.to_vec()));
        outcome
    }

    /// Many entries, behind the last of which the state is checked: it is read whole for that.
    pub(crate) fn in_bulk(&mut self, many: impl FnOnce(&mut Self)) {
        self.in_bulk = true;
        many(self);
        self.in_bulk = false;
        check(&self.store).unwrap();
    }

    pub(crate) fn apply(&mut self, command: &Command) -> Outcome {
        self.apply_bytes(&command.encode())
    }

    /// Asserts that a command is refused so, and that not one byte of the state changes.
    #[track_caller]
    pub(crate) fn untouched(&mut self, command: &Command, refusal: Refusal) {
        let before = self.store.clone();
        assert_eq!(self.apply(command), Outcome::Refused(refusal));
        assert!(self.store == before, "a refused command changed the state");
    }

    // ---- time

    pub(crate) fn now(&self) -> Millis {
        ClusterClock::load(&self.store).unwrap().now
    }

    pub(crate) fn reading(&self, member: u8, clock: Millis) -> Reading {
        let follows = ClusterClock::load(&self.store).unwrap().tick;
        Reading::sign(&self.cluster, ROSTER, member, follows, clock, &node(member))
    }

    pub(crate) fn tick(&mut self, to: Millis) -> Outcome {
        let readings = vec![self.reading(1, to), self.reading(2, to)];
        self.apply(&Command::Tick { readings })
    }

    /// Moves time on without ever jumping far enough to pause expiry.
    pub(crate) fn pass(&mut self, by: Millis) {
        let end = self.now() + by;
        while self.now() < end {
            let to = end.min(self.now() + MINUTE);
            assert_eq!(self.tick(to), Outcome::Time { now: to, jumped: false });
        }
    }

    // ---- requests

    pub(crate) fn authority(&self) -> u64 {
        authority_version(&self.store).unwrap()
    }

    pub(crate) fn request(&mut self, change: Change) -> Request {
        self.serial += 1;
        Request {
            cluster: self.cluster,
            id: RequestId(bytes(&format!("request {}", self.serial))),
            expected_authority_version: change.names_authority_version().then(|| self.authority()),
            change,
            reply_to: None,
            not_after: self.now() + MINUTE,
            principal: ALICE.to_owned(),
            chain: vec![b"a leaf".to_vec()],
        }
    }

    /// The signatures that a request needs: its principal's and, where they must, two administrators'.
    pub(crate) fn sign(request: &Request) -> SignedRequest {
        let admins = [key("admin-1"), key("admin-3")];
        let admins: Vec<_> = admins.iter().filter(|_| request.change.needs_administrators()).collect();
        SignedRequest::sign(request, &key(&request.principal), &admins)
    }

    pub(crate) fn endorse(&self, signed: &SignedRequest, members: &[u8]) -> Vec<Endorsement> {
        let (version, now) = (self.authority(), self.now());
        let by = |i: &u8| Endorsement::sign(&self.cluster, ROSTER, version, *i, now, vec![signed.hash()], &node(*i));
        members.iter().map(by).collect()
    }

    pub(crate) fn stamp(&self) -> Stamp {
        Stamp { binding: Some(Binding { pid: 4711, backend_start: 1_700_000_000_000_000 }), executor_term: self.term }
    }

    pub(crate) fn endorsed(&self, signed: &SignedRequest, endorsements: Vec<Endorsement>) -> Command {
        Command::Endorsed { request: signed.clone(), endorsements, stamp: self.stamp() }
    }

    /// Endorsed by two members.
    pub(crate) fn command(&self, signed: &SignedRequest) -> Command {
        self.endorsed(signed, self.endorse(signed, &[1, 3]))
    }

    pub(crate) fn send(&mut self, signed: &SignedRequest) -> Outcome {
        let command = self.command(signed);
        self.apply(&command)
    }

    pub(crate) fn submit(&mut self, change: Change) -> Outcome {
        self.submit_as(ALICE, change)
    }

    pub(crate) fn submit_as(&mut self, principal: &str, change: Change) -> Outcome {
        let request = Request { principal: principal.to_owned(), ..self.request(change) };
        self.send(&Self::sign(&request))
    }

    // ---- keys and places

    pub(crate) fn generate(&mut self, session_byte: u8, class: KeyringClass) -> KeyringPublic {
        let id = SessionId([session_byte; 32]);
        let begun = self.submit(Change::BeginKeyGeneration { session: id, class });
        assert_eq!(begun, Outcome::Ceremony { keyring: None });
        let mut last = begun;
        loop {
            let messages = self.say(&id);
            if messages.is_empty() {
                break;
            }
            for message in messages {
                last = self.apply(&Command::Ceremony { message });
                assert!(matches!(last, Outcome::Ceremony { .. }), "{last:?}");
            }
        }
        let Outcome::Ceremony { keyring: Some(ring) } = last else { panic!("{last:?}") };
        let made = quorate_state::access::keyring(&self.store, &ring).unwrap().unwrap();
        KeyringPublic { class, y: made.y }
    }

    /// What the members say now.
    pub(crate) fn say(&self, id: &SessionId) -> Vec<Vec<u8>> {
        let session = session(&self.store, id).unwrap().unwrap();
        let says = |i: u8| {
            let (seed, key) = (ceremony_seed(id, i), node(i));
            let member = reshare::Member { index: i, seed: &seed, key: &key, old_share: None };
            member.next(&session.ceremony).unwrap()
        };
        (1..=3).flat_map(says).map(|m| m.encode()).collect()
    }

    pub(crate) fn ring(&self, class: KeyringClass) -> KeyringPublic {
        let rings = quorate_state::access::keyrings(&self.store).unwrap();
        let ring = rings.into_iter().find(|(_, r)| r.class == class).unwrap().1;
        KeyringPublic { class, y: ring.y }
    }

    pub(crate) fn mount(&self, mount: &str, class: KeyringClass, customers: &[u8]) -> Change {
        Change::CreateMount {
            namespace: "team".to_owned(),
            mount: mount.to_owned(),
            keyring: KeyringId(self.ring(class).id()),
            customer_keys: customers.iter().map(|n| customer_id(*n)).collect(),
        }
    }

    pub(crate) fn register(&self, name: &str, n: u8) -> Change {
        let (public, owner) = (customer(n).public().encode(), key("the customer"));
        let signature = owner.sign("customer-key", &[&self.cluster.0, name.as_bytes(), &public]);
        Change::RegisterCustomerKey { name: name.to_owned(), public, owner: owner.verify_key().0, signature }
    }

    // ---- secrets

    /// A seal for a path of `team`, as its mount wants it.
    pub(crate) fn seal(&mut self, path: &str) -> Seal {
        self.serial += 1;
        let customers: &[u8] = if path.starts_with("safe") { &[1, 2] } else { &[] };
        let class = if customers.is_empty() { KeyringClass::Cluster } else { KeyringClass::Customer };
        let known = secret(&self.store, "team", path).unwrap().map(|s| s.id.0);
        Seal {
            cluster: self.cluster.0,
            namespace: "team".to_owned(),
            path: path.to_owned(),
            secret_id: known.unwrap_or_else(|| bytes(&format!("secret {} {path}", self.serial))),
            version_id: bytes(&format!("version {}", self.serial)),
            writer: ALICE.to_owned(),
            wrapped_by: ALICE.to_owned(),
            wrap_no: 0,
            ring: self.ring(class),
            customers: customers.iter().map(|n| customer(*n).public().clone()).collect(),
            plaintext: b"the value".to_vec(),
        }
    }

    /// Seals and stores.
    pub(crate) fn put(&mut self, path: &str, expected: Option<u64>) -> Outcome {
        let sealed = self.seal(path).make();
        self.submit(put(path, sealed, expected))
    }

    pub(crate) fn target(&mut self, name: &str) -> Change {
        let mut seal = self.seal("app/none");
        seal.namespace = "sys".to_owned();
        seal.path = format!("target/{name}");
        let Sealed { header, payload } = seal.make();
        Change::PutTarget {
            name: name.to_owned(),
            spec: TargetSpec {
                system: System::PostgreSql,
                host: "127.0.0.1".to_owned(),
                port: 5432,
                database: "postgres".to_owned(),
                user: "quorate".to_owned(),
                tls: None,
                databases: Vec::new(),
                standbys: Vec::new(),
                owner: String::new(),
                rotate: true,
                remote_apply: false,
                clients: None,
            },
            header,
            payload,
        }
    }

    /// A password of a target, sealed by `writer`.
    pub(crate) fn password(&mut self, target: &str, writer: &str) -> Sealed {
        let mut seal = self.seal("app/none");
        seal.namespace = "sys".to_owned();
        seal.path = format!("target/{target}");
        seal.writer = writer.to_owned();
        seal.wrapped_by = writer.to_owned();
        seal.make()
    }

    /// The member in office is about to give a target another password.
    pub(crate) fn rotation(&mut self, target: &str, member: u8) -> Command {
        let Sealed { header, payload } = self.password(target, &format!("executor/{member}"));
        Command::RotatePassword { term: self.term, target: target.to_owned(), header, payload }
    }

    /// Asks for a proof of a target, and whoever is in office finds nothing wrong.
    pub(crate) fn prove(&mut self, target: &str) {
        assert_eq!(self.submit(Change::ProveTarget { name: target.to_owned() }), Outcome::Done);
        let good = self.proof(target, Vec::new());
        assert_eq!(self.apply(&good), Outcome::Done);
    }

    /// What the executor says of a target.
    pub(crate) fn proof(&self, label: &str, findings: Vec<Finding>) -> Command {
        let asked = target(&self.store, label).unwrap().unwrap().asked;
        let proof = Proof { asked, at: CREATED, version: 150_018, timeline: 1, findings, notes: Vec::new() };
        Command::TargetProved { term: self.term, target: label.to_owned(), proof }
    }

    // ---- leases

    /// An intent of `reader`.
    pub(crate) fn intent(&mut self) -> LeaseId {
        match self.submit(issue("reader", None)) {
            Outcome::Intent { lease, .. } => lease,
            other => panic!("{other:?}"),
        }
    }

    /// The log index of the description of `db`.
    pub(crate) fn described(&self) -> u64 {
        target(&self.store, "db").unwrap().map_or(0, |target| target.index)
    }

    /// Its end is proved.
    pub(crate) fn end(&mut self, lease: LeaseId) {
        let endpoint = "db.example.org:5432".to_owned();
        let proof = RevocationProof { lease, fenced: true, looked_at: CREATED, sessions_ended: 0, endpoint };
        let proved =
            self.apply(&Command::LeaseRevoked { term: self.term, described: self.described(), proofs: vec![proof] });
        assert_eq!(proved, Outcome::Leases { changed: vec![lease] });
    }

    pub(crate) fn active(&mut self, oid: u32) -> LeaseId {
        let lease = self.intent();
        let moved = Outcome::Leases { changed: vec![lease] };
        assert_eq!(self.apply(&Command::LeaseActive { term: self.term, lease, oid, issued: Vec::new() }), moved);
        lease
    }
}

/// The ceremony seed of a member.
pub(crate) fn ceremony_seed(session: &SessionId, member: u8) -> Secret<32> {
    Secret::from_slice(&bytes::<32>(&format!("seed {session} {member}"))).unwrap()
}

/// Everything that goes into a seal, each to be falsified.
#[derive(Clone)]
pub(crate) struct Seal {
    pub(crate) cluster: [u8; 32],
    pub(crate) namespace: String,
    pub(crate) path: String,
    pub(crate) secret_id: [u8; 16],
    pub(crate) version_id: [u8; 16],
    pub(crate) writer: String,
    pub(crate) wrapped_by: String,
    pub(crate) wrap_no: u32,
    pub(crate) ring: KeyringPublic,
    pub(crate) customers: Vec<CustomerPublic>,
    pub(crate) plaintext: Vec<u8>,
}

impl Seal {
    pub(crate) fn make(&self) -> Sealed {
        let object = ObjectTemplate {
            cluster: self.cluster,
            secret_id: self.secret_id,
            version_id: self.version_id,
            created: CREATED,
            writer_id: self.writer.clone(),
        };
        let wrap = WrapTemplate {
            namespace: self.namespace.clone(),
            path: self.path.clone(),
            wrap_no: self.wrap_no,
            wrapped_by: self.wrapped_by.clone(),
        };
        let fresh = Fresh {
            keys: Secret::from_slice(&bytes::<64>("fresh")).unwrap(),
            proof: Secret::from_slice(&bytes::<32>("fresh w")).unwrap(),
        };
        seal_with(&self.plaintext, &object, &wrap, &self.ring, &self.customers, &fresh).unwrap()
    }
}

pub(crate) fn put(path: &str, sealed: Sealed, expected: Option<u64>) -> Change {
    let Sealed { header, payload } = sealed;
    Change::PutSecret { namespace: "team".to_owned(), path: path.to_owned(), header, payload, expected }
}

pub(crate) fn role(name: &str, target: &str) -> Change {
    let role = Role {
        target: target.to_owned(),
        namespace: String::new(),
        groups: vec!["app_read".to_owned()],
        default_ttl: HOUR,
        max_ttl: 4 * HOUR,
        connection_limit: 5,
        max_leases: 3,
        form: Form::Scram { iterations: 4096 },
        statements: String::new(),
        username: String::new(),
    };
    Change::PutRole { name: name.to_owned(), role }
}

/// The same role, altered.
pub(crate) fn role_with(name: &str, target: &str, alter: impl FnOnce(&mut Role)) -> Change {
    let Change::PutRole { name, mut role } = role(name, target) else { panic!() };
    alter(&mut role);
    Change::PutRole { name, role }
}

pub(crate) fn issue(role: &str, ttl: Option<Millis>) -> Change {
    Change::IssueLease { role: role.to_owned(), verifier: VERIFIER.to_owned(), ttl }
}

pub(crate) fn office(target: &str, member: u8, term: u64) -> Command {
    Command::Executor { target: target.to_owned(), member, term, nonce: [member; 8] }
}

/// Whether an outcome is a refusal with this code.
#[track_caller]
pub(crate) fn assert_code(outcome: &Outcome, code: &str) {
    match outcome {
        Outcome::Refused(refusal) => assert_eq!(refusal.code(), code, "{refusal}"),
        other => panic!("not refused: {other:?}"),
    }
}

/// The administrators' record of a member.
pub(crate) fn gone(member: u8, absence: Option<Absence>) -> Change {
    Change::RecordMember { member, name: format!("node-{member}"), absence, reason: "it burned".to_owned() }
}

/// Whether an outcome says that an argument cannot be.
#[track_caller]
pub(crate) fn assert_invalid(outcome: &Outcome, field: &str) {
    match outcome {
        Outcome::Refused(Refusal::Invalid { field: found, .. }) => assert_eq!(found, field),
        other => panic!("not invalid: {other:?}"),
    }
}
