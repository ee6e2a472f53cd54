//! No plaintext on a server. Secrets that the test knows are looked for in everything that a server leaves behind: files, logs,
//! answers, arguments, environment, frames of the loopback with TLS taken off, memory and core dumps; while it works, while
//! members make a key, and afterwards. A build that leaks on purpose shows that the search finds.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

use quorate_api::client::{Administrators, Client, Credential};
use quorate_crypto::keyfile::{PassphraseCost, Protection, open_file};
use quorate_crypto::keyring::KeyringClass;
use quorate_crypto::sealed::{Fresh, Header, ObjectTemplate, WrapTemplate, seal_with};
use quorate_crypto::secret::{Secret, SecretVec};
use quorate_state::change::Change;
use quorate_state::ids::{MemberIndex, SessionId, hex};
use quorate_tests::canary::{Canary, Found, Hit, Searcher};
use quorate_tests::capture::Capture;
use quorate_tests::database::login_with;
use quorate_tests::shares::{Kept, data_key};
use quorate_tests::{Cluster, Options, memory};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tempfile::TempDir;

const NAMESPACE: &str = "default";
const MEMBERS: [MemberIndex; 3] = [1, 2, 3];
const ELECTION: Duration = Duration::from_secs(20);
/// How long a step of a ceremony may take, with an election in it.
const STEP: Duration = Duration::from_secs(30);
/// How long a node may take to leave its office, and to wipe what it had.
const WIPED: Duration = Duration::from_secs(10);

/// A cluster whose every word is written down.
struct Lab {
    cluster: Cluster,
    capture: Capture,
    failpoint: PathBuf,
    keys: PathBuf,
    folder: TempDir,
}

impl Lab {
    async fn start(failpoints: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (failpoint, keys) = (folder.path().join("failpoint"), folder.path().join("tls-keys"));
        let capture = Capture::start(folder.path()).unwrap();
        let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let environment = vec![
            set("SSLKEYLOGFILE", &keys.display().to_string()),
            set("FAILPOINT_FILE", &failpoint.display().to_string()),
            set("FAILPOINTS", failpoints),
            set("QUORATE_DUMPABLE", "1"),
        ];
        let cluster = Cluster::start(&Options { environment, ..Options::default() }).await.unwrap();
        Self { cluster, capture, failpoint, keys, folder }
    }

    fn home(&self) -> &Path {
        Path::new(self.cluster.text("/folder").unwrap())
    }

    /// The memory of every node and of the custodian, and the arguments and environment of everything that runs.
    fn processes(&self, searcher: &Searcher) -> Found {
        let mut found = Found::default();
        for process in self.cluster.processes() {
            let (name, pid) = (process.name(), process.pid());
            if name != "postgres" {
                found.extend(memory::search(searcher, &format!("memory of {name}"), pid).unwrap());
            }
            found.extend(memory::search_arguments(searcher, name, pid).unwrap());
        }
        found
    }

    /// All files of all nodes, of the custodian, of the operator and of the customer, logs included; and what anybody is told.
    async fn told(&self, searcher: &Searcher) -> Found {
        let mut found = searcher.files("", self.home(), &|_| false).unwrap();
        for member in MEMBERS {
            let status = format!("{:?}", self.cluster.status(member).await.unwrap());
            searcher.search("status", status.as_bytes(), &mut found);
        }
        for (who, command) in [("admin", vec!["status"]), ("admin", vec!["status", "--output", "json"])] {
            let output = self.cluster.cli(who, &command, b"").unwrap();
            searcher.search("the CLI", &[output.stdout, output.stderr].concat(), &mut found);
        }
        found
    }

    /// A core of each process. A node stands still meanwhile, so another one may lead afterwards: the place says who did.
    async fn cores(&self, searcher: &Searcher) -> Found {
        let mut found = Found::default();
        for process in self.cluster.processes().iter().filter(|p| p.name() != "postgres") {
            let leader = self.cluster.wait_leader(ELECTION).await.unwrap();
            let in_office = if process.name() == format!("n{leader}") { " in office" } else { "" };
            let place = format!("core of {}{in_office}", process.name());
            found.extend(memory::search_core(searcher, &place, process.pid(), self.folder.path()).unwrap());
        }
        found
    }

    /// Ends the cluster and searches what it said to itself and to its clients.
    fn frames(self, searcher: &Searcher) -> Found {
        let (raw, plain) = self.capture.finish(&self.keys).unwrap();
        drop(self.cluster);
        let mut found = Found::default();
        searcher.search("frames", &raw, &mut found);
        searcher.search("decrypted frames", &plain, &mut found);
        println!("{} MiB of frames, {} MiB decrypted", raw.len() >> 20, plain.len() >> 20);
        found
    }

    /// Another node leads; the one that did goes on as a follower.
    async fn depose(&self) -> (MemberIndex, MemberIndex) {
        let before = self.cluster.wait_leader(ELECTION).await.unwrap();
        let node = self.cluster.node(before).unwrap();
        node.stop().unwrap();
        let after = self.cluster.wait_leader(ELECTION).await;
        node.cont().unwrap();
        let after = after.unwrap();
        assert_ne!(before, after, "another node leads");
        let deadline = Instant::now() + ELECTION;
        while self.cluster.status(before).await.unwrap().is_none_or(|s| s.leader != u32::from(after)) {
            assert!(Instant::now() < deadline, "member {before} follows member {after}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        (before, after)
    }

    fn fragment(&self) -> Canary {
        let customer = PathBuf::from(self.cluster.text("/custodian/customer").unwrap());
        let bytes = std::fs::read(customer.join("fragment.key")).unwrap();
        let passphrase = SecretVec::new(self.passphrase().into_bytes());
        let protection = Protection::Passphrase(&passphrase, PassphraseCost::default());
        Canary::new("fragment", open_file("customer-fragment", &bytes, &protection).unwrap().expose())
    }

    fn passphrase(&self) -> String {
        std::fs::read_to_string(self.cluster.text("/passphrase_file").unwrap()).unwrap().trim_end().to_owned()
    }

    fn credential(&self) -> Canary {
        let file = self.cluster.text("/postgres/password_file").unwrap();
        Canary::new("credential", std::fs::read_to_string(file).unwrap().trim_end().as_bytes())
    }

    /// The keys that each node has to itself.
    fn own_keys(&self) -> Vec<Kept> {
        let mut kept = Vec::new();
        for member in MEMBERS {
            let data = self.cluster.data_folder(member).unwrap();
            let seal = std::fs::read(data.join("seal.key")).unwrap();
            let key = Secret::from_slice(&seal).unwrap();
            let mut own = |name: String, secret: &[u8]| {
                kept.push(Kept { canary: Canary::new(name, secret), during: vec![member], after: vec![member] });
            };
            own(format!("seal key of {member}"), &seal);
            for (file, purpose) in [("member.key", "member-identity"), ("storage.key", "storage-key")] {
                let bytes = std::fs::read(data.join("identity").join(file)).unwrap();
                let secret = open_file(purpose, &bytes, &Protection::RawKey(&key)).unwrap();
                own(format!("{purpose} of {member}"), secret.expose());
            }
        }
        kept
    }
}

/// Where a key that a member has to itself may be: in its memory, and, for its seal key, in that file.
fn is_own(kept: &[Kept], hit: &Hit, holders: impl Fn(&Kept) -> &[MemberIndex]) -> bool {
    kept.iter().filter(|k| k.canary.name() == hit.canary).flat_map(holders).any(|member| {
        hit.place.starts_with(&format!("memory of n{member},"))
            || hit.place.starts_with(&format!("core of n{member}"))
            || hit.place == format!("n{member}/seal.key")
    })
}

fn assert_nothing(what: &str, found: &Found) {
    assert!(found.hits.is_empty(), "{what}: nothing secret is found where it must not be: {found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_plaintext_on_a_server() {
    let lab = Lab::start("").await;
    let begin = Instant::now();
    let session = ceremony(&lab).await;
    println!("a key made under watch: {:.1?}", begin.elapsed());

    let mut kept = lab.own_keys();
    let mut sessions = lab.cluster.sessions(1).unwrap();
    assert!(
        sessions.len() == 3 && sessions.contains(&session),
        "the keyrings of the start, and one more: {sessions:?}"
    );
    for session in sessions.drain(..) {
        kept.extend(lab.cluster.key_of(&session).unwrap());
    }
    let work = work(&lab).await;
    let mut canaries = work.canaries.clone();
    canaries.extend(kept.iter().map(|k| k.canary.clone()));
    let searcher = Searcher::new(&canaries);
    let leader = lab.cluster.wait_leader(ELECTION).await.unwrap();
    let allowed = |hit: &Hit, leader: MemberIndex| {
        let in_office = hit.place.starts_with(&format!("memory of n{leader},")) || hit.place.ends_with(" in office");
        let with_custodian = hit.place.starts_with("memory of custodian") || hit.place == "core of custodian";
        match hit.canary.as_str() {
            "marker" => true,
            "credential" => in_office || hit.place == "postgres.password",
            "fragment" => with_custodian,
            "passphrase" => with_custodian || hit.place == "passphrase",
            _ => is_own(&kept, hit, |k| &k.after),
        }
    };
    let mut during = lab.processes(&searcher);
    during.extend(lab.told(&searcher).await);
    println!("while it works: {during}");
    // The searcher sees: what SECURITY.md admits is there, and so is what is no secret.
    for (canary, place) in [
        ("credential", format!("memory of n{leader}")),
        ("credential", "postgres.password".to_owned()),
        ("fragment", "memory of custodian".to_owned()),
    ] {
        assert!(during.has(canary, &place), "{canary} is found in {place}: {during}");
    }
    for member in MEMBERS {
        for place in [format!("memory of n{member}"), format!("n{member}/db/"), format!("n{member}/audit/")] {
            assert!(during.has("marker", &place), "the path, which is no secret, is found in {place}: {during}");
        }
    }
    assert_nothing("while it works", &during.except(|hit| allowed(hit, leader)));

    // The executor changes; the former one has nothing left.
    let (former, leader) = lab.depose().await;
    let demo = lab.cluster.client("demo").unwrap();
    let second = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    drop(login_with(&second).await.unwrap());
    let deadline = Instant::now() + WIPED;
    let after = loop {
        let found = lab.processes(&searcher);
        let left = found.clone().except(|hit| allowed(hit, leader));
        if left.hits.is_empty() || Instant::now() > deadline {
            break found;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    println!("after member {former} left office to member {leader}: {after}");
    assert!(after.has("credential", &format!("memory of n{leader}")), "it is with the new executor: {after}");
    assert_nothing("after a change of the executor", &after.except(|hit| allowed(hit, leader)));
    for lease in [&work.lease, &second] {
        demo.revoke(lease.lease).await.unwrap();
        lab.cluster.admin().unwrap().wait_revoked(lease.lease, ELECTION).await.unwrap();
    }

    let mut last = lab.cores(&searcher).await;
    last.extend(lab.told(&searcher).await);
    println!("at the end: {last}");
    for member in MEMBERS {
        assert!(last.has("marker", &format!("core of n{member}")), "the path is found in a core of n{member}: {last}");
    }
    let seen = last.hits.keys().any(|hit| hit.canary == "credential" && hit.place.ends_with(" in office"));
    assert!(seen, "the core of an executor in office has the credential: {last}");
    assert_nothing("at the end", &last.except(|hit| allowed(hit, leader)));
    let frames = lab.frames(&searcher);
    assert!(frames.has("marker", "decrypted frames"), "TLS was taken off: the path is found in the streams: {frames}");
    assert!(!frames.has("marker", "frames"), "and with TLS on it is not: {frames}");
    assert_nothing("on the loopback", &frames.except(|hit| hit.canary == "marker"));
}

/// A key generation, with a member stopped at each of its steps up to its share and all memory searched there, for the key, and
/// for what a member may not know of the others. Afterwards nobody has more than its share.
async fn ceremony(lab: &Lab) -> SessionId {
    let (cluster, admin, key) = (&lab.cluster, lab.cluster.admin().unwrap(), lab.cluster.administrator().unwrap());
    let authority_version = admin.policies().await.unwrap().authority_version;
    let stop = |point: &str| std::fs::write(&lab.failpoint, format!("{point}=stop")).unwrap();
    stop("ceremony.seed");
    let by = Administrators { keys: &[&key], authority_version };
    let session = admin.begin_key_generation(KeyringClass::Cluster, &by).await.unwrap();
    let mut stopped = wait_stopped(lab, "ceremony.seed").await;
    let deadline = Instant::now() + STEP;
    // The others go on to their seeds without it.
    while MEMBERS.iter().any(|m| cluster.slot(*m, &session, "seed").unwrap().is_none()) {
        assert!(Instant::now() < deadline, "all members make a seed");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let kept = cluster.dealings(&session).unwrap();
    let searcher = Searcher::new(&kept.iter().map(|k| k.canary.clone()).collect::<Vec<_>>());
    let steps = ["keys", "deal", "share.before", "share"].map(|step| format!("ceremony.{step}"));
    for next in steps.iter().map(Some).chain([None]) {
        let found = lab.processes(&searcher);
        println!("n{stopped} stopped: {found}");
        let seed = format!("ceremony seed of {stopped}");
        assert!(
            found.has(&seed, &format!("memory of n{stopped},")),
            "a member at work has its seed in memory: {found}"
        );
        assert_nothing("in a ceremony", &found.except(|hit| is_own(&kept, hit, |k| &k.during)));
        if let Some(next) = next {
            stop(next);
            cluster.node(stopped).unwrap().cont().unwrap();
            stopped = wait_stopped(lab, next).await;
        }
    }
    cluster.node(stopped).unwrap().cont().unwrap();
    wait_erased(cluster, &session).await;
    let mut found = lab.processes(&searcher);
    found.extend(searcher.files("", lab.home(), &|_| false).unwrap());
    println!("after the ceremony: {found}");
    assert_nothing("after a ceremony", &found.except(|hit| is_own(&kept, hit, |k| &k.after)));
    session
}

/// Until the ceremony has ended for all members.
async fn wait_erased(cluster: &Cluster, session: &SessionId) {
    let seed = |m: &MemberIndex| cluster.data_folder(*m).unwrap().join("slots").join(format!("{session}.seed"));
    let deadline = Instant::now() + STEP;
    while MEMBERS.iter().any(|m| seed(m).exists()) {
        assert!(Instant::now() < deadline, "the ceremony ends, and all members erase their seeds");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The member that was stopped at a point: it took the order away first, which tells its stop from one that is just ending.
async fn wait_stopped(lab: &Lab, point: &str) -> MemberIndex {
    let is_stopped = |member: &MemberIndex| {
        let pid = lab.cluster.node(*member).unwrap().pid();
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let deadline = Instant::now() + STEP;
    loop {
        let found = MEMBERS.into_iter().find(is_stopped).filter(|_| !lab.failpoint.exists());
        tokio::time::sleep(Duration::from_millis(20)).await;
        if let Some(member) = found.filter(is_stopped) {
            return member;
        }
        assert!(Instant::now() < deadline, "a member gets to {point}");
    }
}

/// What the work left behind.
struct Work {
    canaries: Vec<Canary>,
    lease: Credential,
}

/// Secrets of both classes put and opened, by the SDK and by the CLI; a lease issued and used.
async fn work(lab: &Lab) -> Work {
    let demo = lab.cluster.client("demo").unwrap();
    let marker = hex(&random::<16>());
    let mut canaries = vec![
        Canary::new("marker", marker.as_bytes()),
        lab.fragment(),
        lab.credential(),
        Canary::new("passphrase", lab.passphrase().as_bytes()),
    ];
    for mount in ["app", "vault"] {
        let (path, plaintext) = (format!("{mount}/demo/{marker}"), random::<64>());
        let key = put(lab, &demo, &path, &plaintext).await;
        for _ in 0..3 {
            let opened = demo.get(NAMESPACE, &path, None).await.unwrap();
            assert_eq!(opened.plaintext.expose(), plaintext, "{path} opens");
        }
        canaries.push(Canary::new(format!("plaintext in {mount}"), &plaintext));
        canaries.push(Canary::new(format!("data key in {mount}"), &key));
    }
    let text = hex(&random::<24>());
    let path = format!("app/demo/{marker}-cli");
    let put = lab.cluster.cli("demo", &["put", &path], text.as_bytes()).unwrap();
    assert!(put.status.success(), "`quorate put`: {}", String::from_utf8_lossy(&put.stderr));
    let got = lab.cluster.cli("demo", &["get", &path], b"").unwrap();
    assert!(got.stdout.starts_with(text.as_bytes()), "`quorate get`: {}", String::from_utf8_lossy(&got.stderr));
    canaries.push(Canary::new("plaintext by the CLI", text.as_bytes()));

    let lease = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    drop(login_with(&lease).await.unwrap());
    demo.renew(lease.lease, 90_000).await.unwrap();
    canaries.push(Canary::new("password", lease.password.expose()));
    Work { canaries, lease }
}

/// Seals as the SDK does, with random input that the test keeps, and returns the data key.
async fn put(lab: &Lab, client: &Client, path: &str, plaintext: &[u8]) -> [u8; 32] {
    let profile = lab.cluster.profile();
    let class = if path.starts_with("vault/") { KeyringClass::Customer } else { KeyringClass::Cluster };
    let ring = profile.keyrings.iter().find(|k| k.class == class).unwrap();
    let customers = if class == KeyringClass::Customer { profile.customer_keys.as_slice() } else { &[] };
    let author = client.identity().principal().to_owned();
    let object = ObjectTemplate {
        cluster: profile.cluster.0,
        secret_id: random(),
        version_id: random(),
        created: quorate_tests::now(),
        writer_id: author.clone(),
    };
    let wrap = WrapTemplate { namespace: NAMESPACE.into(), path: path.into(), wrap_no: 0, wrapped_by: author };
    let fresh =
        Fresh { keys: Secret::init_with(|out| *out = random()), proof: Secret::init_with(|out| *out = random()) };
    let sealed = seal_with(plaintext, &object, &wrap, ring, customers, &fresh).unwrap();
    let key = data_key(&fresh.keys, plaintext, &Header::decode(&sealed.header).unwrap()).unwrap();
    let change = Change::PutSecret {
        namespace: NAMESPACE.into(),
        path: path.into(),
        header: sealed.header,
        payload: sealed.payload,
        expected: Some(0),
    };
    client.change(change).await.unwrap();
    key
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).unwrap();
    bytes
}

/// What servers have is leaked by a build that does so on purpose; what they never have, by a client that hands it to them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_leaks_is_caught() {
    let lab = Lab::start(
        "leak.credential=return(log+file+memory+argv+env+peer);leak.share=return(peer);leak.seed=return(memory);\
         leak.fragment=return(log+file+argv+env)",
    )
    .await;
    let mut kept = Vec::new();
    for session in lab.cluster.sessions(1).unwrap() {
        kept.extend(lab.cluster.key_of(&session).unwrap());
    }
    // A seed is erased at the end; this one is caught before.
    std::fs::write(&lab.failpoint, "ceremony.ready=stop").unwrap();
    let (admin, key) = (lab.cluster.admin().unwrap(), lab.cluster.administrator().unwrap());
    let authority_version = admin.policies().await.unwrap().authority_version;
    let by = Administrators { keys: &[&key], authority_version };
    let session = admin.begin_key_generation(KeyringClass::Cluster, &by).await.unwrap();
    let stopped = wait_stopped(&lab, "ceremony.ready").await;
    let seeds = lab.cluster.dealings(&session).unwrap();
    kept.extend(seeds.into_iter().filter(|k| k.canary.name().starts_with("ceremony seed")));
    lab.cluster.node(stopped).unwrap().cont().unwrap();
    wait_erased(&lab.cluster, &session).await;

    let demo = lab.cluster.client("demo").unwrap();
    let lease = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    // The names of secrets are no secrets: whoever makes one of a secret has told everybody.
    let (plaintext, text) = (random::<64>(), hex(&random::<16>()));
    let key = put(&lab, &demo, &format!("app/demo/{text}"), &plaintext).await;
    let password = String::from_utf8(lease.password.expose().to_vec()).unwrap();
    for name in [hex(&plaintext[..32]), hex(&key), password.clone()] {
        demo.put(NAMESPACE, &format!("app/demo/{name}"), b"x", Some(0)).await.unwrap();
    }
    let mut canaries = vec![
        lab.credential(),
        lab.fragment(),
        Canary::new("plaintext", &plaintext),
        Canary::new("data key", &key),
        Canary::new("password", password.as_bytes()),
    ];
    canaries.extend(kept.iter().map(|k| k.canary.clone()));
    let searcher = Searcher::new(&canaries);
    let (former, _) = lab.depose().await;
    let mut found = lab.processes(&searcher);
    found.extend(lab.told(&searcher).await);
    let told: Vec<String> = kept.iter().map(|k| k.canary.name().to_owned()).collect();
    found.extend(lab.frames(&searcher));
    println!("a build that leaks: {found}");

    let n = |member: MemberIndex| format!("n{member}");
    let mut expected: Vec<(String, String)> = [
        ("credential", format!("logs/{}.log", n(former))),
        ("credential", format!("{}/leaked", n(former))),
        ("credential", format!("memory of {}", n(former))),
        ("credential", format!("arguments of {}", n(former))),
        ("credential", format!("environment of {}", n(former))),
        ("credential", "decrypted frames".to_owned()),
        ("fragment", "logs/custodian.log".to_owned()),
        ("fragment", "customer/leaked".to_owned()),
        ("fragment", "arguments of custodian".to_owned()),
        ("fragment", "environment of custodian".to_owned()),
    ]
    .map(|(canary, place)| (canary.to_owned(), place))
    .to_vec();
    for canary in ["plaintext", "data key", "password"] {
        expected.push((canary.to_owned(), "decrypted frames".to_owned()));
        for member in MEMBERS.map(n) {
            let places = [format!("{member}/db/"), format!("{member}/audit/"), format!("memory of {member}")];
            expected.extend(places.map(|place| (canary.to_owned(), place)));
        }
    }
    for member in MEMBERS {
        expected.push((format!("ceremony seed of {member}"), format!("memory of n{member}")));
        // The shares of the start and of the ceremony, each in the memory of the other two.
        for share in told.iter().filter(|name| name.starts_with(&format!("share {member} of "))) {
            expected.push((share.clone(), "decrypted frames".to_owned()));
            let others = MEMBERS.into_iter().filter(|other| *other != member);
            expected.extend(others.map(|other| (share.clone(), format!("memory of n{other}"))));
        }
    }
    let missed: Vec<_> = expected.iter().filter(|(canary, place)| !found.has(canary, place)).collect();
    assert!(missed.is_empty(), "each planted leak is found; these are not: {missed:#?}; found: {found}");
}
