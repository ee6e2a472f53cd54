//! Three members in one process and one thread, in virtual time: real TLS, gRPC, Raft, ceremonies and leases over a network, disks,
//! clocks, randomness and a target in memory. `crates/simulation/tests/cluster` runs the same world under a network of its own.

use crate::net::Hub;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_api::client::{
    Administrators, Client, CustomerSource, Form, Identity, Member as Pinned, Profile, Role, Seams, Submitted, System,
    TargetSpec,
};
use quorate_api::peer::peer_client::PeerClient;
use quorate_api::scram;
use quorate_api::status::Failure;
use quorate_api::tls::{PEER, TlsIdentity, connect_over};
use quorate_api::vault::ReadStatusReply;
use quorate_api::vault::vault_client::VaultClient;
use quorate_audit::AuditLog;
use quorate_audit::testing::MemDisk;
use quorate_authz::initial::initial_policies;
use quorate_crypto::encoding::hash32;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::secret::Secret;
use quorate_engines::Class;
use quorate_engines::fake::FakeTarget;
use quorate_raft::Config;
use quorate_raft::kv::{Batch, Kv, KvError, MemKv, RocksKv, Table, ValueSeal};
use quorate_server::env::{Clock, Entropy, Env, Waiting};
use quorate_server::keystore::{Folder, Keystore};
use quorate_server::{Parts, serve};
use quorate_state::change::Change;
use quorate_state::genesis::{Administrators as Needed, ClientRoots, Genesis, Member, Roster};
use quorate_state::ids::KeyringId;
use quorate_state::request::{Endorsement, SignedRequest, Verified};
use quorate_state::target::claim_prefix;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType, date_time_ymd};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;

const SEAL: [u8; 32] = [42; 32];
pub(crate) const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 100));
/// How many leases are ended together at most, where nothing is measured.
pub(crate) const TOGETHER: usize = 8;
/// The simulation begins at this wall time.
const BEGINNING: u64 = 1_900_000_000_000;

pub(crate) fn host(index: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(127, 0, 0, index))
}

fn peer_port(index: u8) -> SocketAddr {
    SocketAddr::new(host(index), 7_000)
}

fn api_port(index: u8) -> SocketAddr {
    SocketAddr::new(host(index), 7_100)
}

/// What a target stores of a password.
pub(crate) fn verifier(password: &[u8]) -> String {
    scram::verifier(password, &[5; 16], 1)
}

/// Whether a password is that of a verifier.
pub(crate) fn matches(password: &[u8], verifier: &str) -> bool {
    let (iterations, rest) = verifier.strip_prefix("SCRAM-SHA-256$").unwrap().split_once(':').unwrap();
    let salt = STANDARD.decode(rest.split_once('$').unwrap().0).unwrap().try_into().unwrap();
    scram::verifier(password, &salt, iterations.parse().unwrap()) == verifier
}

/// A CA of callers, and its certificate.
fn client_ca(env: &Env) -> (Vec<u8>, Issuer<'static, KeyPair>) {
    let pair = pair(&SigningKey::generate(&mut env.rng()));
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let certificate = params.self_signed(&pair).unwrap().der().to_vec();
    (certificate, Issuer::new(params, pair))
}

/// Virtual time: the runtime's, or what a test makes of it.
pub(crate) struct Virtual {
    began: Instant,
    /// Milliseconds of virtual time before that.
    before: u64,
    now: Mutex<Pace>,
}

#[derive(Clone, Copy)]
struct Pace {
    /// Of the wall clock.
    offset: i64,
    /// Of real time.
    percent: u64,
    /// The boot clock at that moment of real time.
    from: (u64, u64),
}

impl Virtual {
    fn new((began, before): (Instant, u64)) -> Arc<Self> {
        Arc::new(Self { began, before, now: Mutex::new(Pace { offset: 0, percent: 100, from: (0, 0) }) })
    }

    /// Virtual time since the simulation began.
    fn real(&self) -> u64 {
        self.before + u64::try_from(self.began.elapsed().as_millis()).unwrap()
    }

    /// Both clocks run as fast as real time again, and the wall clock is right.
    pub(crate) fn put_right(&self) {
        self.run_at(100);
        let (real, boot) = (i64::try_from(self.real()).unwrap(), i64::try_from(self.boot()).unwrap());
        self.shift(real - boot);
    }

    /// Sets the wall clock wrong by so many milliseconds.
    pub(crate) fn shift(&self, offset: i64) {
        self.now.lock().unwrap().offset = offset;
    }

    /// Has both clocks run at so many percent of real time from here on.
    pub(crate) fn run_at(&self, percent: u64) {
        let from = (self.boot(), self.real());
        let mut now = self.now.lock().unwrap();
        *now = Pace { percent, from, ..*now };
    }
}

impl Clock for Virtual {
    fn wall(&self) -> u64 {
        let offset = self.now.lock().unwrap().offset;
        (BEGINNING + self.boot()).checked_add_signed(offset).unwrap()
    }

    fn boot(&self) -> u64 {
        let now = *self.now.lock().unwrap();
        now.from.0 + (self.real() - now.from.1) * now.percent / 100
    }
}

/// All randomness of the world, from one seed.
struct Seeded(Mutex<(u64, u64)>);

impl Entropy for Seeded {
    fn fill(&self, out: &mut [u8]) {
        let mut at = self.0.lock().unwrap();
        for chunk in out.chunks_mut(32) {
            at.1 += 1;
            let block = hash32("simulated-entropy", &[&at.0.to_be_bytes(), &at.1.to_be_bytes()]);
            chunk.copy_from_slice(&block[..chunk.len()]);
        }
    }
}

/// A folder in memory; clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct MemFolder(Arc<Mutex<BTreeMap<String, Vec<u8>>>>);

impl MemFolder {
    pub(crate) fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }

    fn copy(&self) -> Self {
        Self(Arc::new(Mutex::new(self.0.lock().unwrap().clone())))
    }
}

impl Folder for MemFolder {
    fn read(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        Ok(self.0.lock().unwrap().get(name).cloned())
    }

    fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        self.0.lock().unwrap().insert(name.to_owned(), bytes.to_vec());
        Ok(())
    }

    fn erase(&self, name: &str) -> io::Result<()> {
        self.0.lock().unwrap().remove(name);
        Ok(())
    }
}

/// Values as they are: what is measured on a real disk is not their encryption.
struct Plain;

impl ValueSeal for Plain {
    fn seal(&self, _: Table, _: &[u8], value: &[u8]) -> Vec<u8> {
        value.to_vec()
    }

    fn open(&self, _: Table, _: &[u8], sealed: &[u8]) -> Result<Vec<u8>, KvError> {
        Ok(sealed.to_vec())
    }
}

/// What a member keeps over its lives.
struct Place {
    folder: MemFolder,
    disk: MemDisk,
    kv: Arc<MemKv>,
    /// Where its log and its audit log are instead, when they are on a real disk.
    home: Option<PathBuf>,
    clock: Arc<Virtual>,
    identity: SigningKey,
    life: Option<(JoinHandle<()>, oneshot::Sender<()>)>,
    /// What its last life said when it ended by itself.
    fate: Arc<Mutex<Option<String>>>,
}

/// What members and targets hold while all members are off.
pub(crate) struct Image {
    founded: (u64, u8),
    before: u64,
    kept: BTreeMap<u8, (MemFolder, MemDisk, Arc<MemKv>)>,
    targets: BTreeMap<String, FakeTarget>,
    keyrings: Vec<KeyringPublic>,
}

/// Another store that holds the same.
fn copy(kv: &MemKv) -> Arc<MemKv> {
    let (to, mut batch) = (MemKv::new(), Batch::new());
    for table in Table::ALL {
        for (key, value) in kv.scan(table, &[], &[], usize::MAX).unwrap() {
            batch.put(table, key, value);
        }
    }
    to.write(batch).unwrap();
    to.sync().unwrap();
    Arc::new(to)
}

/// PKCS#8 of an Ed25519 key, RFC 8410 section 7.
fn pair(key: &SigningKey) -> KeyPair {
    let mut pkcs8 = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    pkcs8.extend_from_slice(key.seed().expose());
    KeyPair::try_from(pkcs8.as_slice()).unwrap()
}

pub(crate) struct World {
    pub(crate) hub: Hub,
    targets: BTreeMap<String, FakeTarget>,
    pub(crate) profile: Profile,
    founded: (u64, u8),
    env: Env,
    genesis: Genesis,
    places: BTreeMap<u8, Place>,
    administrator: SigningKey,
    authority: Issuer<'static, KeyPair>,
}

impl World {
    /// Three members that have just been founded.
    pub(crate) fn begin(seed: u64) -> Self {
        Self::begin_at(seed, None)
    }

    /// As many members as are wanted, of which more than half make the threshold.
    pub(crate) fn begin_with(seed: u64, members: u8) -> Self {
        Self::begin_in((seed, members), None, 0)
    }

    /// The world of an image, later: all members off, all randomness from `seed`.
    pub(crate) fn again(image: &Image, seed: u64) -> Self {
        let mut world = Self::begin_in(image.founded, None, image.before);
        world.env.entropy = Arc::new(Seeded(Mutex::new((!seed, 0))));
        for (index, (folder, disk, kv)) in &image.kept {
            let place = world.places.get_mut(index).unwrap();
            (place.folder, place.disk, place.kv) = (folder.copy(), disk.crashed(|_| true), copy(kv));
        }
        world.targets = image.targets.iter().map(|(name, target)| (name.clone(), target.copy())).collect();
        world.profile.keyrings.clone_from(&image.keyrings);
        world
    }

    /// Switches all members off, and keeps what they hold.
    pub(crate) fn image(mut self) -> Image {
        let before = self.env.clock.boot();
        let on: Vec<u8> = self.places.keys().copied().filter(|index| self.is_on(*index)).collect();
        on.into_iter().for_each(|index| self.power_off(index));
        let kept = self.places.into_iter().map(|(index, place)| (index, (place.folder, place.disk, place.kv)));
        let keyrings = self.profile.keyrings;
        Image { founded: self.founded, before, kept: kept.collect(), targets: self.targets, keyrings }
    }

    /// The same with logs and audit logs below `home`, on the real disk, and threads that wait for it.
    pub(crate) fn begin_at(seed: u64, home: Option<&Path>) -> Self {
        Self::begin_in((seed, 3), home, 0)
    }

    fn begin_in(founded: (u64, u8), home: Option<&Path>, before: u64) -> Self {
        let ((seed, size), hub, began) = (founded, Hub::new(), (Instant::now(), before));
        let env = Env {
            clock: Virtual::new(began),
            entropy: Arc::new(Seeded(Mutex::new((seed, 0)))),
            net: hub.host(CLIENT),
            waiting: if home.is_some() { Waiting::Threads } else { Waiting::InPlace },
        };
        let mut places = BTreeMap::new();
        let members = (1..=size).map(|index| {
            let folder = MemFolder::default();
            let seal = Secret::init_with(|out| *out = SEAL);
            let identity = Keystore::create_in(&folder, &seal, &env).unwrap();
            let (clock, key) = (Virtual::new(began), identity.verify_key().0);
            places.insert(
                index,
                Place {
                    folder,
                    disk: MemDisk::new(64 << 20),
                    kv: Arc::default(),
                    home: home.map(|home| home.join(index.to_string())),
                    clock,
                    identity,
                    life: None,
                    fate: Arc::default(),
                },
            );
            Member {
                name: format!("n{index}"),
                index,
                key,
                raft_id: u64::from(index),
                peer_address: peer_port(index).to_string(),
                api_address: api_port(index).to_string(),
            }
        });
        let roster = Roster { number: 1, members: members.collect(), threshold: size / 2 + 1 };
        let administrator = SigningKey::generate(&mut env.rng());
        let (root, authority) = client_ca(&env);
        let genesis = Genesis {
            name: "simulated".to_owned(),
            nonce: env.random(),
            created: BEGINNING,
            roster,
            administrators: Needed { keys: vec![administrator.verify_key().0], needed: 1 },
            client_roots: ClientRoots { certificates: vec![root], trust_domain: "example.org".to_owned() },
            policies: initial_policies("example.org").unwrap(),
        };
        let pinned = genesis.roster.members.iter().map(|m| Pinned {
            index: m.index,
            name: m.name.clone(),
            key: m.key,
            api_address: m.api_address.clone(),
        });
        let profile = Profile {
            cluster: genesis.cluster(),
            threshold: genesis.roster.threshold,
            members: pinned.collect(),
            keyrings: Vec::new(),
            customer_keys: Vec::new(),
            mounts: Vec::new(),
            via: None,
        };
        let classes = [
            ("t", Class::Transactional),
            ("other", Class::Transactional),
            ("auto", Class::Autocommit),
            ("over", Class::Upsert),
            ("made", Class::IssuedByTarget),
        ];
        let targets = classes.map(|(name, class)| (name.to_owned(), FakeTarget::new(class))).into();
        Self { hub, targets, profile, founded, env, genesis, places, administrator, authority }
    }

    /// A system in which leases make logins: `t` or `other`.
    pub(crate) fn target(&self, name: &str) -> &FakeTarget {
        &self.targets[name]
    }

    /// Every account at a target but the claims of the cluster.
    pub(crate) fn logins(&self, name: &str) -> Vec<String> {
        let claims = claim_prefix(&self.profile.cluster, name);
        self.target(name).names().into_iter().filter(|account| !account.starts_with(&claims)).collect()
    }

    /// Describes a target, and a role of its name for each group, and has it proved.
    pub(crate) async fn describe(&self, name: &str, groups: &[&str]) {
        self.describe_unproved(name, groups).await;
        let proof = self.client("admin/first").prove_target(name, Duration::from_secs(40)).await.unwrap();
        assert!(proof.missing.is_empty() && proof.failed.is_empty(), "{proof:?}");
    }

    /// The same, with a password that the target asks for, and that is rotated.
    pub(crate) async fn describe_rotating(&self, name: &str, groups: &[&str], password: &[u8]) {
        self.target(name).guard(&verifier(password), matches);
        self.describe_as(name, groups, password, true).await;
        let proof = self.client("admin/first").prove_target(name, Duration::from_secs(40)).await.unwrap();
        assert!(proof.missing.is_empty() && proof.failed.is_empty(), "{proof:?}");
    }

    pub(crate) async fn describe_unproved(&self, name: &str, groups: &[&str]) {
        self.describe_as(name, groups, b"a password", false).await;
    }

    pub(crate) async fn replace_password(&self, name: &str, password: &[u8]) -> Result<Submitted, Failure> {
        let ring = KeyringId(self.profile.keyrings[0].id());
        self.client("admin/first").replace_password(name, password, ring).await
    }

    async fn describe_as(&self, name: &str, groups: &[&str], password: &[u8], rotate: bool) {
        let admin = self.client("admin/first");
        // What issues its secrets itself is a system of its own to the members.
        let (system, form) = match self.target(name).class() {
            Class::IssuedByTarget => (System::Aws, Form::Sealed),
            _ => (System::PostgreSql, Form::Scram { iterations: 1 }),
        };
        let target = TargetSpec {
            system,
            rotate,
            host: "127.0.0.1".to_owned(),
            port: 5_432,
            database: "d".to_owned(),
            user: "u".to_owned(),
            ..TargetSpec::default()
        };
        admin.put_target(name, &target, password, KeyringId(self.profile.keyrings[0].id())).await.unwrap();
        for group in groups {
            let role = Role {
                target: name.to_owned(),
                groups: vec![(*group).to_owned()],
                default_ttl: 60_000,
                max_ttl: 600_000,
                connection_limit: 4,
                max_leases: 1_000,
                form,
                ..Role::default()
            };
            admin.put_role(&format!("{name}-{group}"), &role).await.unwrap();
        }
    }

    /// Starts a member, or starts it again.
    pub(crate) async fn start(&mut self, index: u8) {
        let place = self.places.get_mut(&index).unwrap();
        let env = Env { net: self.hub.host(host(index)), clock: Arc::clone(&place.clock) as _, ..self.env.clone() };
        assert!(place.life.is_none(), "member {index} runs already");
        let mut settings =
            quorate_audit::Config::new(&format!("n{index}"), &self.genesis.cluster().to_string(), env.clock.wall());
        if place.home.is_none() {
            // A disk in memory is copied with each power cut; and so a run comes to the end of a segment.
            (settings.segment_bytes, settings.reserve_bytes) = (2 * quorate_audit::MIN_BYTES, quorate_audit::MIN_BYTES);
        }
        let mut raft = Config::new(0, [0; 32]);
        raft.heartbeat = Duration::from_millis(100);
        let targets = self.targets.clone();
        let (audit, kv): (_, Arc<dyn Kv>) = match &place.home {
            None => {
                (AuditLog::open_in_place(Box::new(place.disk.clone()), settings).unwrap().0, Arc::clone(&place.kv) as _)
            }
            Some(home) => {
                std::fs::create_dir_all(home).unwrap();
                let kv = RocksKv::open(&home.join("db"), Arc::new(Plain)).unwrap();
                (AuditLog::open(&home.join("audit"), settings).unwrap().0, Arc::new(kv))
            }
        };
        let parts = Parts {
            room: quorate_server::Room::boundless(),
            genesis: self.genesis.clone(),
            keys: Keystore::open_in(Box::new(place.folder.clone()), Secret::init_with(|out| *out = SEAL)).unwrap(),
            audit,
            kv,
            raft,
            peer_listener: env.net.listen(peer_port(index)).await.unwrap(),
            api_listener: env.net.listen(api_port(index)).await.unwrap(),
            engines: Box::new(move |config| {
                let target = &targets[&config.target];
                Ok(Arc::new(match config.user.as_str() {
                    "u" => target.executor_in(config.term, config.passwords),
                    login => target.as_login(login),
                }))
            }),
            attest_every: 16,
            together: if place.home.is_some() { 500 } else { TOGETHER },
            env,
        };
        let (stop, stopped) = oneshot::channel();
        let fate = Arc::clone(&place.fate);
        let life = tokio::spawn(async move {
            let stopped = async move { drop(stopped.await) };
            // How a life ends is seen from outside.
            let ended = serve(parts, &PathBuf::from(format!("n{index}")), stopped).await;
            *fate.lock().unwrap() = ended.err().map(|why| why.to_string());
        });
        place.life = Some((life, stop));
    }

    /// Asks a member to end, and waits until it has.
    pub(crate) async fn stop(&mut self, index: u8) {
        let (life, stop) = self.places.get_mut(&index).unwrap().life.take().unwrap();
        stop.send(()).unwrap();
        life.await.unwrap();
    }

    /// How many rows of its state a member has read since the last power cut.
    pub(crate) fn rows_read(&self, index: u8) -> u64 {
        self.places[&index].kv.state_rows_read()
    }

    /// A power cut: what was not synced is lost, connections break, and nothing of that life reaches anybody any more.
    pub(crate) fn power_off(&mut self, index: u8) {
        self.power_off_keeping(index, 0);
    }

    /// The same, by a device that had kept the first `kept` writes after the last sync.
    pub(crate) fn power_off_keeping(&mut self, index: u8, kept: usize) {
        self.hub.end(host(index));
        let place = self.places.get_mut(&index).unwrap();
        place.kv = Arc::new(place.kv.crash_keeping(kept));
        place.disk = place.disk.crashed(|_| false);
        place.life.take().unwrap().0.abort();
    }

    /// What a member's log and state lie in, until its next power cut.
    pub(crate) fn store(&self, index: u8) -> Arc<MemKv> {
        Arc::clone(&self.places[&index].kv)
    }

    /// Why a member has ended without being asked to.
    pub(crate) fn fate(&self, index: u8) -> Option<String> {
        self.places[&index].fate.lock().unwrap().clone()
    }

    /// All members.
    pub(crate) fn members(&self) -> impl Iterator<Item = u8> + use<> {
        self.places.keys().copied().collect::<Vec<_>>().into_iter()
    }

    /// Whether a member is on.
    pub(crate) fn is_on(&self, index: u8) -> bool {
        self.places[&index].life.is_some()
    }

    /// Starts it again on what it had synced.
    pub(crate) async fn power_on(&mut self, index: u8) {
        self.hub.heal(host(index));
        self.start(index).await;
    }

    /// What members keep, as text: their logs, states, keys and, as numbers, audit logs.
    pub(crate) fn kept(&self) -> String {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut all = String::new();
        for place in self.places.values() {
            for (key, value) in
                Table::ALL.into_iter().flat_map(|t| place.kv.scan(t, &[], &[255; 64], usize::MAX).unwrap())
            {
                all += &text(&key);
                all += &text(&value);
            }
            place.folder.0.lock().unwrap().values().for_each(|file| all += &text(file));
            all += &format!("{:?}", place.disk.hold());
        }
        all
    }

    /// A member's clocks.
    pub(crate) fn clock(&self, index: u8) -> &Virtual {
        &self.places[&index].clock
    }

    /// What the time is, by clocks that are right.
    pub(crate) fn now(&self) -> u64 {
        self.env.clock.wall()
    }

    /// Cuts off whoever else leads until this member does.
    pub(crate) async fn have_lead(&self, index: u8) {
        for _ in 0..20 {
            let leader = self.leader().await;
            if leader == index {
                return;
            }
            self.hub.cut(host(leader));
            self.until("another leader", |all| {
                all.iter().flatten().any(|s| s.leader == s.member && s.member != u32::from(leader))
            })
            .await;
            self.hub.heal(host(leader));
            self.until("three members", |all| all.iter().flatten().count() == 3).await;
        }
        panic!("member {index} never leads");
    }

    pub(crate) fn slots(&self, index: u8) -> Vec<String> {
        self.places[&index].folder.names()
    }

    /// A caller's own client.
    pub(crate) fn client(&self, path: &str) -> Client {
        self.client_of(self.identity_of(path))
    }

    fn client_of(&self, identity: Identity) -> Client {
        let clock = Arc::clone(&self.env.clock);
        let seams = Seams {
            rng: Box::new(self.env.rng()),
            clock: Arc::new(move || clock.wall()),
            net: Arc::clone(&self.env.net),
        };
        Client::new(self.profile.clone(), identity, CustomerSource::None, seams).unwrap()
    }

    /// A new key, and a certificate of the client CA for it.
    pub(crate) fn identity_of(&self, path: &str) -> Identity {
        let key = SigningKey::generate(&mut self.env.rng());
        let pair = pair(&key);
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(format!("spiffe://example.org/{path}").try_into().unwrap())];
        // By right clocks just issued: a clock that is behind must not find it too early.
        let now = date_time_ymd(1970, 1, 1) + Duration::from_millis(self.now());
        (params.not_before, params.not_after) =
            (now - Duration::from_secs(60), now + Duration::from_secs(300 * 86_400));
        let leaf = params.signed_by(&pair, &self.authority).unwrap().der().to_vec();
        Identity::new(vec![leaf], key).unwrap()
    }

    /// A line of a caller to one member.
    pub(crate) fn door(&self, who: &Identity, to: u8) -> VaultClient<Channel> {
        let member = self.genesis.roster.member(to).unwrap();
        let channel = connect_over(&self.env.net, &member.api_address, member.key, who.tls(), &member.name, PEER);
        VaultClient::new(channel.unwrap())
    }

    /// Puts another client CA in the place of the one that there is: only its callers are admitted.
    pub(crate) async fn replace_client_ca(&mut self) -> Submitted {
        let (certificate, authority) = client_ca(&self.env);
        self.authority = authority;
        let bearer = Identity::administrator(SigningKey::from_seed(&self.administrator.seed())).unwrap();
        self.client_of(bearer).set_client_roots(vec![certificate], &[&self.administrator]).await.unwrap()
    }

    /// What members endorse, without asking them.
    pub(crate) fn endorse(&self, signed: &SignedRequest, authority_version: u64, members: &[u8]) -> Vec<Endorsement> {
        let (cluster, roster) = (&self.profile.cluster, self.genesis.roster.number);
        let sign = |member: &u8| {
            let key = self.identity(*member);
            Endorsement::sign(cluster, roster, authority_version, *member, self.now(), vec![signed.hash()], key)
        };
        members.iter().map(sign).collect()
    }

    /// Whether a member's endorsement is one of a request.
    pub(crate) fn is_endorsed(&self, signed: &SignedRequest, by: &Endorsement) -> bool {
        by.is_valid(&self.profile.cluster, &self.genesis.roster, &signed.hash(), &Verified::default())
    }

    fn identity(&self, index: u8) -> &SigningKey {
        &self.places[&index].identity
    }

    /// A line to a member that is another member's.
    pub(crate) fn line(&self, from: u8, to: u8) -> PeerClient<Channel> {
        let member = self.genesis.roster.member(to).unwrap();
        let identity = TlsIdentity::self_signed(self.identity(from), "line").unwrap();
        let (address, name) = (&member.peer_address, &member.name);
        PeerClient::new(connect_over(&self.env.net, address, member.key, &identity, name, PEER).unwrap())
    }

    pub(crate) fn administrator(&self) -> &SigningKey {
        &self.administrator
    }

    pub(crate) async fn administer(&self, change: Change) {
        self.try_administer(change).await.unwrap();
    }

    pub(crate) async fn try_administer(&self, change: Change) -> Result<Submitted, Failure> {
        self.client("admin/first").administer_now(change, &[&self.administrator]).await
    }

    /// Has the members make a keyring of class `cluster`, and pins it.
    pub(crate) async fn make_keyring(&mut self) {
        let client = self.client("admin/first");
        self.until("a leader", |all| all.iter().flatten().any(|s| s.leader == s.member)).await;
        let authority_version = client.policies().await.unwrap().authority_version;
        let by = Administrators { keys: &[&self.administrator], authority_version };
        client.begin_key_generation(KeyringClass::Cluster, &by).await.unwrap();
        let size = self.places.len();
        let has_one = |all: &[Option<ReadStatusReply>]| all.iter().flatten().filter(|s| s.keyrings.len() == 1).count();
        let all = self.until("a keyring", |all| has_one(all) == size).await;
        let ring = &all[0].as_ref().unwrap().keyrings[0];
        let y = <[u8; 32]>::try_from(ring.y.as_slice()).unwrap();
        self.profile.keyrings.push(KeyringPublic { class: KeyringClass::Cluster, y });
    }

    /// Waits until the members' statuses are as wanted; two minutes of virtual time at most.
    pub(crate) async fn until(
        &self,
        what: &str,
        wanted: impl Fn(&[Option<ReadStatusReply>]) -> bool,
    ) -> Vec<Option<ReadStatusReply>> {
        let client = self.client("admin/first");
        let begun = Instant::now();
        loop {
            let answers: Vec<_> = client.status().await.into_iter().map(|(_, answer)| answer).collect();
            let all: Vec<_> = answers.iter().map(|answer| answer.clone().ok()).collect();
            if wanted(&all) {
                return all;
            }
            assert!(begun.elapsed() < Duration::from_secs(120), "no {what} in two minutes: {answers:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// The member that leads.
    pub(crate) async fn leader(&self) -> u8 {
        let leads =
            |all: &[Option<ReadStatusReply>]| all.iter().flatten().filter(|s| s.leader == s.member).count() == 1;
        let all = self.until("leader", leads).await;
        let found = all.iter().flatten().find(|s| s.leader == s.member).unwrap();
        u8::try_from(found.member).unwrap()
    }
}
