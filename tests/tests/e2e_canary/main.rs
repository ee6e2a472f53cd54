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

mod ceremony;
mod lab;
mod leaks;

use lab::{ELECTION, Lab, MEMBERS, NAMESPACE, Scene};
use quorate_api::client::{Client, Credential};
use quorate_crypto::keyring::KeyringClass;
use quorate_crypto::sealed::{Fresh, Header, ObjectTemplate, WrapTemplate, seal_with};
use quorate_crypto::secret::Secret;
use quorate_state::change::Change;
use quorate_state::ids::{MemberIndex, hex};
use quorate_tests::canary::{Canary, Found, Hit, Searcher};
use quorate_tests::database::login_with;
use quorate_tests::shares::{Kept, data_key};
use std::time::{Duration, Instant};

/// How long a node may take to leave its office, and to wipe what it had.
const WIPED: Duration = Duration::from_secs(10);

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
    let scene = Scene::new();
    scene.order("ceremony.seed=stop");
    let starting = scene.start("");
    let begin = Instant::now();
    let session = ceremony::first_key(&scene, &starting).await;
    println!("a key made under watch: {:.1?}", begin.elapsed());
    let lab = Lab { cluster: starting.ready().await.unwrap(), scene };
    ceremony::commands_end_with_nothing(&lab.cluster).await;

    let disks = lab.cluster.disks().unwrap();
    let mut kept = disks.own_keys().unwrap();
    let sessions = disks.sessions(1, "share").unwrap();
    assert!(sessions.len() == 2 && sessions.contains(&session), "the keyrings of the start: {sessions:?}");
    for session in &sessions {
        kept.extend(disks.key_of(session).unwrap());
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
    canaries.push(Canary::new("password", lease.password().unwrap().expose()));
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
