//! A member killed, stopped, or told that it failed, at each step of a key ceremony: it comes back, the ceremony ends, and every share of it is
//! right. One of these at each, as `QUORATE_SEED` chooses; `QUORATE_POINTS=all` does all, `QUORATE_POINTS=kill,stop` these.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

use quorate_api::client::{Administrators, Profile};
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_state::ids::{KeyringId, SessionId};
use quorate_tests::points::{ACTIONS, Point};
use quorate_tests::random::Random;
use quorate_tests::{Cluster, Options, now};
use std::path::Path;
use std::time::{Duration, Instant};

/// Where `crates/server/src/ceremony.rs` can be hit: before and after everything that must be on disk, before and after
/// everything that is said.
const POINTS: [&str; 11] = [
    "ceremony.seed.before",
    "ceremony.seed",
    "ceremony.keys",
    "ceremony.keys.after",
    "ceremony.deal",
    "ceremony.deal.after",
    "ceremony.share.before",
    "ceremony.share",
    "ceremony.ready",
    "ceremony.ready.after",
    "ceremony.erase",
];
/// Here the one that is hit has said everything: the others may go on without it.
const SAID_ALL: [&str; 2] = ["ceremony.ready.after", "ceremony.erase"];
const NAMESPACE: &str = "rings";

#[tokio::test]
async fn hit_at_each_step() {
    let said = |name: &str| std::env::var(name).unwrap_or_default();
    let (seed, which) = (said("QUORATE_SEED").parse().unwrap_or_else(|_| now()), said("QUORATE_POINTS"));
    println!("QUORATE_SEED={seed}");
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failpoint");
    let environment = vec![("FAILPOINT_FILE".to_owned(), file.display().to_string())];
    let cluster = Cluster::start(&Options { environment, ..Options::default() }).await.unwrap();
    cluster.admin().unwrap().create_namespace(NAMESPACE).await.unwrap();
    let keeper = cluster.issue("app/keeper").unwrap();
    let all =
        ["mount:read", "secret:versions", "secret:put", "secret:open"].map(|a| format!("Quorate::Action::\"{a}\""));
    let inside = format!("action in [{}], resource in Quorate::Namespace::\"{NAMESPACE}\"", all[1..].join(", "));
    let mounts = format!("action == {}, resource == Quorate::Namespace::\"{NAMESPACE}\"", all[0]);
    cluster.permit("keeper", &keeper, &inside).await.unwrap();
    cluster.permit("keeper-mounts", &keeper, &mounts).await.unwrap();
    for (n, (point, action)) in chosen(seed, &which).into_iter().enumerate() {
        let begin = Instant::now();
        let hit = case(&cluster, &file, (point, action), &format!("m{n}")).await;
        println!("{point:<22} {action} of {hit}: active, and every pair opens, after {:.1?}", begin.elapsed());
    }
}

/// All points with these actions; or each point with one.
fn chosen(seed: u64, which: &str) -> Vec<(&'static str, &'static str)> {
    let mut random = Random(seed);
    let named = |action: &str| which.split(',').any(|word| word == "all" || word == action);
    let actions = |_| match which {
        "" => vec![random.one(&ACTIONS).unwrap()],
        _ => ACTIONS.into_iter().filter(|action| named(action)).collect(),
    };
    let each: Vec<Vec<&str>> = POINTS.into_iter().map(actions).collect();
    POINTS.into_iter().zip(each).flat_map(|(point, each)| each.into_iter().map(move |action| (point, action))).collect()
}

async fn case<'a>(
    cluster: &'a Cluster,
    file: &Path,
    (name, action): (&'static str, &'static str),
    mount: &str,
) -> &'a str {
    let what = format!("{action} at {name}");
    let (admin, key) = (cluster.admin().unwrap(), cluster.administrator().unwrap());
    let authority_version = admin.policies().await.unwrap().authority_version;
    let point = Point::set(file, name, action).unwrap();
    let by = Administrators { keys: &[&key], authority_version };
    let session = admin.begin_key_generation(KeyringClass::Cluster, &by).await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !point.reached() {
        let said = ceremony(cluster, &session).await;
        assert!(Instant::now() < deadline, "{what}: no node got there; the ceremony: {said:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    if action != "fail" {
        // The others cannot do it without this one: every member has to say that its share is on disk.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let alone = ceremony(cluster, &session).await;
        assert!(alone.len() < 3, "{what}: nobody was hit: {alone:?}");
        assert!(
            SAID_ALL.contains(&name) || alone.iter().all(|(phase, _)| phase != "active"),
            "{what}: active without one of them: {alone:?}"
        );
    }
    let hit = point.recover(cluster).await.unwrap_or_else(|why| panic!("{what}: {why}"));
    let keyring = loop {
        let said = ceremony(cluster, &session).await;
        if said.len() == 3 && said.iter().all(|(phase, _)| phase == "active") {
            break said[0].1;
        }
        assert!(Instant::now() < deadline, "{what}: the ceremony ends Active on all members; they say {said:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let profile = pinning(cluster, keyring).await;
    admin.create_mount(NAMESPACE, mount, KeyringId(keyring), &[]).await.unwrap();
    let path = format!("{mount}/sealed");
    let keeper = |members: &[u8]| {
        let mut some = profile.clone();
        some.members.retain(|m| members.contains(&m.index));
        cluster.client_with(some, cluster.identity_file("app/keeper").unwrap()).unwrap()
    };
    keeper(&[1, 2, 3]).put(NAMESPACE, &path, what.as_bytes(), Some(0)).await.unwrap();
    for pair in [[1, 2], [1, 3], [2, 3]] {
        let opened = keeper(&pair).get(NAMESPACE, &path, None).await;
        let opened = opened.unwrap_or_else(|why| panic!("{what}: members {pair:?} open with their new shares: {why}"));
        assert_eq!(opened.plaintext.expose(), what.as_bytes(), "{what}: members {pair:?} open what was sealed");
    }
    hit
}

/// Phase and keyring of a ceremony, by each member that answers.
async fn ceremony(cluster: &Cluster, session: &SessionId) -> Vec<(String, [u8; 32])> {
    let mut said = Vec::new();
    for member in [1, 2, 3] {
        let Some(status) = cluster.status(member).await.unwrap() else { continue };
        let found = status.ceremonies.into_iter().find(|c| c.session == session.0);
        said.extend(found.map(|c| (c.phase, c.keyring_id.try_into().unwrap_or_default())));
    }
    said
}

/// The profile with the new keyring in it, as all members name its public key.
async fn pinning(cluster: &Cluster, keyring: [u8; 32]) -> Profile {
    let mut keys = Vec::new();
    for member in [1, 2, 3] {
        let status = cluster.status(member).await.unwrap().unwrap();
        keys.extend(status.keyrings.into_iter().find(|k| k.id == keyring).map(|k| k.y));
    }
    assert!(keys.len() == 3 && keys.iter().all(|y| *y == keys[0]), "all members name the same key: {keys:?}");
    let mut profile = cluster.profile().clone();
    let y = keys[0].as_slice().try_into().unwrap();
    profile.keyrings.push(KeyringPublic { class: KeyringClass::Cluster, y });
    profile
}
