//! Members that lie in a key ceremony: each lie is told by a real member of a real cluster, every other member names the liar
//! alike, in its status and in its audit log, and no keyring comes of it. Once everybody is honest again, a good one does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

use quorate_api::client::Administrators;
use quorate_api::vault::Ceremony;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_state::ids::{KeyringId, SessionId, hex};
use quorate_tests::audit::records;
use quorate_tests::{Cluster, Options};
use std::path::Path;
use std::time::{Duration, Instant};

const NAMESPACE: &str = "rings";

/// Who lies, how (`crates/server/src/ceremony/hostile.rs`), and a part of what the others find. The victim, where there is one,
/// is never the liar.
const LIES: [(u8, &str, &str); 6] = [
    (1, "wrong-share 3", "its share for member 3 does not open or fit"),
    (2, "wrong-degree", "3 commitments where 2 are needed"),
    (3, "equivocate", "differs from what its author sent before"),
    (1, "false-complaint 2", "complained of member 2, whose share fits"),
    (2, "complaint-with-other-key 1", "complained of member 1 with another key"),
    (3, "bad-receiver-key", "is no valid key"),
];

#[tokio::test]
async fn a_member_that_lies_is_named_by_every_other_and_no_key_comes_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("failpoint");
    let environment = vec![("FAILPOINT_FILE".to_owned(), file.display().to_string())];
    let cluster = Cluster::start(&Options { environment, ..Options::default() }).await.unwrap();
    let before = keyrings(&cluster).await;
    for (liar, lie, found) in LIES {
        let begin = Instant::now();
        std::fs::write(&file, format!("ceremony.hostile.{liar}={lie}")).unwrap();
        let session = begin_ceremony(&cluster).await;
        named(&cluster, &session, liar, lie, found).await;
        println!("{lie:<28} of member {liar}: named by all, no keyring, after {:.1?}", begin.elapsed());
    }
    deals_again_after_a_crash(&cluster, &file).await;
    assert_eq!(keyrings(&cluster).await, before, "no keyring comes of a ceremony in which a member lied");
    let ring = silent_until_it_speaks(&cluster, &file).await;
    opens(&cluster, ring).await;
}

async fn begin_ceremony(cluster: &Cluster) -> SessionId {
    let (admin, key) = (cluster.admin().unwrap(), cluster.administrator().unwrap());
    let authority_version = admin.policies().await.unwrap().authority_version;
    let by = Administrators { keys: &[&key], authority_version };
    admin.begin_key_generation(KeyringClass::Cluster, &by).await.unwrap()
}

/// The ceremony as each member that answers sees it.
async fn seen(cluster: &Cluster, session: &SessionId) -> Vec<(u8, Ceremony)> {
    let mut seen = Vec::new();
    for member in [1, 2, 3] {
        let Some(status) = cluster.status(member).await.unwrap() else { continue };
        seen.extend(status.ceremonies.into_iter().find(|c| c.session == session.0).map(|c| (member, c)));
    }
    seen
}

/// Waits until every member sees the ceremony so.
async fn all_see(cluster: &Cluster, session: &SessionId, what: &str, so: impl Fn(&Ceremony) -> bool) -> Ceremony {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let mut seen = seen(cluster, session).await;
        if seen.len() == 3 && seen.iter().all(|(_, c)| so(c)) {
            let (_, first) = seen.remove(0);
            assert!(seen.iter().all(|(_, c)| *c == first), "{what}: all members say the same: {first:?}, {seen:?}");
            return first;
        }
        assert!(Instant::now() < deadline, "expected of every member: {what}; they say {seen:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The ceremony is over without a keyring, and everybody names the liar and nobody else.
async fn named(cluster: &Cluster, session: &SessionId, liar: u8, lie: &str, found: &str) {
    let over = all_see(cluster, session, &format!("{lie}: ended, with a culprit"), |c| c.phase == "aborted").await;
    assert_eq!(over.culprits, [u32::from(liar)], "{lie}: member {liar} is the only culprit: {over:?}");
    let [fault] = &over.faults[..] else { panic!("{lie}: one fault is kept: {over:?}") };
    assert!(fault.proven && fault.what.contains(found), "{lie}: what was found is {found:?}: {fault:?}");
    assert!(over.keyring_id.is_empty(), "{lie}: no keyring: {over:?}");
    let name = cluster.name(liar);
    let shown = cluster.cli("admin", &["status"], b"").unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let line = format!("{name} (proven): {}", fault.what);
    let of_it = shown.split("ceremony ").find(|part| part.starts_with(&hex(&session.0))).unwrap_or_default();
    assert!(of_it.contains(&line), "{lie}: `quorate status` shows {line:?}:\n{shown}");
    in_every_audit_log(cluster, session, name, &fault.what).await;
}

/// Each member records what it saw applied: the honest ones' logs do not depend on the liar's.
async fn in_every_audit_log(cluster: &Cluster, session: &SessionId, culprit: &str, what: &str) {
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        let has = |folder: &Path| {
            records(folder).unwrap().iter().any(|record| {
                let detail = |key: &str| record.details.get(key).map(String::as_str);
                detail("session") == Some(hex(&session.0).as_str())
                    && detail("culprit") == Some(culprit)
                    && detail("fault") == Some(what)
            })
        };
        let members = cluster.audit_folders().filter(|(name, _)| *name != "custodian");
        let without: Vec<&str> = members.filter(|(_, folder)| !has(folder)).map(|(name, _)| name).collect();
        if without.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{culprit} ({what}) is not named in the audit logs of {without:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A dealer that is killed after its deal and comes back with another one, as if its seed had been a lie.
async fn deals_again_after_a_crash(cluster: &Cluster, file: &Path) {
    let (liar, lie) = (2, "deal-again");
    std::fs::write(file, format!("ceremony.hostile.{liar}=dealt-then-silent")).unwrap();
    let session = begin_ceremony(cluster).await;
    all_see(cluster, &session, "everybody but member 2 is ready", |c| c.phase == "ready" && c.awaited == [2]).await;
    let node = cluster.node(liar).unwrap();
    node.kill().await.unwrap();
    std::fs::write(file, format!("ceremony.hostile.{liar}={lie}")).unwrap();
    node.restart(&[("FAILPOINT_FILE", &file.display().to_string())]).unwrap();
    named(cluster, &session, liar, lie, "differs from what its author sent before").await;
    println!("{lie:<28} of member {liar}: after a crash, named by all");
}

/// Silence proves nothing, so nobody is blamed; but who is waited for is named, and nothing comes about without him.
async fn silent_until_it_speaks(cluster: &Cluster, file: &Path) -> KeyringId {
    std::fs::write(file, "ceremony.hostile.3=silent").unwrap();
    let session = begin_ceremony(cluster).await;
    let waiting = |c: &Ceremony| c.phase == "keys" && c.awaited == [3];
    let waits = all_see(cluster, &session, "everybody waits for member 3", waiting).await;
    assert!(
        waits.culprits.is_empty() && waits.keyring_id.is_empty(),
        "silence is no proof, and makes no key: {waits:?}"
    );
    let shown = String::from_utf8(cluster.cli("admin", &["status"], b"").unwrap().stdout).unwrap();
    let line = format!("{} class cluster is in phase keys, waiting for {}", hex(&session.0), cluster.name(3));
    assert!(shown.contains(&line), "`quorate status` shows whom it waits for, {line:?}:\n{shown}");
    // The same member, honest: what it says then is what it would have said before.
    std::fs::remove_file(file).unwrap();
    let node = cluster.node(3).unwrap();
    node.kill().await.unwrap();
    node.restart(&[]).unwrap();
    let done = all_see(cluster, &session, "active", |c| c.phase == "active").await;
    assert!(done.faults.is_empty(), "nobody is blamed: {done:?}");
    KeyringId(done.keyring_id.try_into().unwrap())
}

async fn keyrings(cluster: &Cluster) -> Vec<Vec<u8>> {
    let status = cluster.status(1).await.unwrap().expect("member 1 answers");
    status.keyrings.into_iter().map(|k| k.id).collect()
}

/// Every pair of members opens what is sealed to the keyring.
async fn opens(cluster: &Cluster, ring: KeyringId) {
    let status = cluster.status(1).await.unwrap().unwrap();
    let y = status.keyrings.into_iter().find(|k| k.id == ring.0).unwrap().y.try_into().unwrap();
    let mut profile = cluster.profile().clone();
    profile.keyrings.push(KeyringPublic { class: KeyringClass::Cluster, y });
    let keeper = cluster.issue("app/keeper").unwrap();
    let admin = cluster.admin().unwrap();
    admin.create_namespace(NAMESPACE).await.unwrap();
    admin.create_mount(NAMESPACE, "app", ring, &[]).await.unwrap();
    let all = ["secret:versions", "secret:put", "secret:open"].map(|a| format!("Quorate::Action::\"{a}\"")).join(", ");
    let scope = format!("action in [{all}], resource in Quorate::Namespace::\"{NAMESPACE}\"");
    cluster.permit("keeper", &keeper, &scope).await.unwrap();
    let mounts = format!("action == Quorate::Action::\"mount:read\", resource == Quorate::Namespace::\"{NAMESPACE}\"");
    cluster.permit("keeper-mounts", &keeper, &mounts).await.unwrap();
    let through = |members: &[u8]| {
        let mut some = profile.clone();
        some.members.retain(|m| members.contains(&m.index));
        cluster.client_with(some, cluster.identity_file("app/keeper").unwrap()).unwrap()
    };
    through(&[1, 2, 3]).put(NAMESPACE, "app/sealed", b"good", Some(0)).await.unwrap();
    for pair in [[1, 2], [1, 3], [2, 3]] {
        let opened = through(&pair).get(NAMESPACE, "app/sealed", None).await;
        let opened =
            opened.unwrap_or_else(|why| panic!("members {pair:?} open with the keyring that came about: {why}"));
        assert_eq!(opened.plaintext.expose(), b"good", "members {pair:?} open what was sealed");
    }
}
