//! A build that leaks on purpose: every kind of secret, in every kind of place, is found where it was planted.
//!
//! What processes have, they leak themselves (`crates/server/src/leak.rs`). What no server ever has is handed to one by a client, in
//! the name of a secret, and leaked from there.

use crate::lab::{Lab, MEMBERS, NAMESPACE, STEP, Scene};
use crate::{put, random};
use quorate_api::client::Administrators;
use quorate_crypto::keyring::KeyringClass;
use quorate_state::ids::hex;
use quorate_tests::canary::{Canary, Found, Searcher};
use std::time::Instant;

/// What is told to leak, and in which ways; `told` is what a client hands over.
const PLANTED: &str = "leak.credential=return(log+file+memory+argv+env+panic+audit+status+error+peer);\
    leak.share=return(log+file+argv+env+audit+status+error+peer);\
    leak.seed=return(log+file+memory+argv+env+audit+status+error+peer);\
    leak.told=return(log+file+memory+argv+env+panic+audit+status+error+peer);\
    leak.fragment=return(log+file+argv+env+panic)";

/// A place where the search looks, and how the names of its places look.
type Place = (&'static str, fn(&str) -> bool);

/// All of them but panics, which go where the log goes, and are looked for by themselves.
const PLACES: [Place; 11] = [
    ("log", |p| p.starts_with("logs/")),
    ("file", |p| p.ends_with("/leaked")),
    ("store", |p| p.contains("/db/")),
    ("audit", |p| p.contains("/audit/")),
    ("memory", |p| p.starts_with("memory of ")),
    ("core", |p| p.starts_with("core of ")),
    ("arguments", |p| p.starts_with("arguments of ")),
    ("environment", |p| p.starts_with("environment of ")),
    ("frames", |p| p == "decrypted frames"),
    ("status", |p| p == "status"),
    ("errors", |p| p == "errors"),
];

/// Of each kind, the places in which it was planted, in the order of [`PLACES`].
///
/// The credential and the fragment are in some memory by right, a share in its own member's: what is looked for there is another's.
const KINDS: [(&str, [bool; 11]); 8] = [
    //                log   file  store  audit  memory core  args  env   frames status errors
    ("plaintext", [true, true, true, true, true, true, true, true, true, true, true]),
    ("data key", [true, true, true, true, true, true, true, true, true, true, true]),
    ("password", [true, true, true, true, true, true, true, true, true, true, true]),
    ("s", [true, true, true, true, true, true, true, true, true, true, true]),
    ("credential", [true, true, false, true, true, true, true, true, true, true, true]),
    ("share", [true, true, false, true, true, true, true, true, true, true, true]),
    ("ceremony seed", [true, true, false, true, true, true, true, true, true, true, true]),
    ("fragment", [true, true, false, false, false, false, true, true, false, false, false]),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_leaks_is_caught() {
    let scene = Scene::new();
    let lab = Lab { cluster: scene.start(PLANTED).ready().await.unwrap(), scene };
    let disks = lab.cluster.disks().unwrap();
    // A seed is erased at the end; this one is caught before.
    lab.scene.order("ceremony.ready=stop");
    let (admin, key) = (lab.cluster.admin().unwrap(), lab.cluster.administrator().unwrap());
    let authority_version = admin.policies().await.unwrap().authority_version;
    let by = Administrators { keys: &[&key], authority_version };
    let session = admin.begin_key_generation(KeyringClass::Cluster, &by).await.unwrap();
    let stopped = lab.scene.stopped(lab.cluster.processes()).await;
    let seeds = disks.dealings(&session).unwrap().into_iter().map(|k| k.canary);
    let mut canaries: Vec<Canary> = seeds.filter(|c| c.name().starts_with("ceremony seed")).collect();
    stopped.cont().unwrap();
    let end = Instant::now() + STEP;
    while !disks.seeds(&session).is_empty() {
        assert!(Instant::now() < end, "all members erase their seeds: {:?}", disks.seeds(&session));
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }

    let demo = lab.cluster.client("demo").unwrap();
    let lease = demo.issue_lease("reader", Some(60_000)).await.unwrap();
    let (plaintext, text) = (random::<64>(), hex(&random::<16>()));
    let key = put(&lab, &demo, &format!("app/demo/{text}"), &plaintext).await;
    // What the keyrings' shares add up to, which nobody has.
    let mut s = None;
    for session in disks.sessions(1, "share").unwrap() {
        for kept in disks.key_of(&session).unwrap() {
            if kept.canary.name().starts_with("s of") {
                s = kept.canary.forms().next().map(|(_, raw)| raw.to_vec());
            } else {
                canaries.push(kept.canary);
            }
        }
    }
    let s = s.unwrap();
    let password = lease.password().unwrap().expose();
    for name in [hex(&plaintext[..32]), hex(&key), hex(&s), String::from_utf8(password.to_vec()).unwrap()] {
        demo.put(NAMESPACE, &format!("app/demo/leak-{name}"), b"x", Some(0)).await.unwrap();
    }
    canaries.extend([
        lab.credential(),
        lab.fragment(),
        Canary::new("plaintext", &plaintext),
        Canary::new("data key", &key),
        Canary::new("password", password),
        Canary::scalar("s", &s.try_into().unwrap()),
    ]);
    let searcher = Searcher::new(&canaries);
    let (former, _) = lab.depose().await;
    let mut found = lab.processes(&searcher);
    found.extend(lab.cores(&searcher).await);
    found.extend(lab.told(&searcher).await);
    lab.scene.order("leak.blurt=now");
    searcher.search("errors", lab.errors().await.as_bytes(), &mut found);
    let panics: Vec<String> = lab.cluster.processes().iter().flat_map(|p| panics(&p.log())).collect();
    searcher.search("panics", panics.join("\n").as_bytes(), &mut found);
    found.extend(lab.frames(&searcher));

    let mut missed = Vec::new();
    println!("{:14} {}", "", PLACES.map(|(name, _)| format!("{name:>11}")).concat());
    for (kind, planted) in KINDS {
        let cells = PLACES.iter().zip(planted).map(|((place, is), planted)| {
            let seen = seen(&found, kind, &format!("n{former}"), *is);
            if planted && seen == 0 {
                missed.push(format!("{kind} in {place}"));
            }
            format!("{:>11}", if planted { seen.to_string() } else { "-".to_owned() })
        });
        println!("{kind:14} {}", cells.collect::<String>());
    }
    for kind in ["credential", "fragment", "plaintext", "data key", "password", "s"] {
        if seen(&found, kind, "", |place| place == "panics") == 0 {
            missed.push(format!("{kind} in a panic"));
        }
    }
    // Each member's shares, in the memory of each other member.
    for member in MEMBERS {
        for other in MEMBERS.into_iter().filter(|other| *other != member) {
            let memory = format!("memory of n{other}");
            let share = format!("share {member} of ");
            if !found.hits.keys().any(|hit| hit.canary.starts_with(&share) && hit.place.starts_with(&memory)) {
                missed.push(format!("share {member} in the {memory}"));
            }
        }
    }
    assert!(missed.is_empty(), "each planted leak is found; these are not: {missed:#?}; found: {found}");
}

/// In how many places of a sort a kind was found, where it has no right to be: `former` is the member that was in office.
fn seen(found: &Found, kind: &str, former: &str, is: impl Fn(&str) -> bool) -> usize {
    let of_kind = |canary: &str| canary == kind || canary.strip_prefix(kind).is_some_and(|rest| rest.starts_with(' '));
    let by_right = |canary: &str, place: &str| {
        let of = |member: &str| {
            ["memory of", "core of"].iter().any(|what| {
                place.strip_prefix(what).is_some_and(|rest| rest.trim_start().split([',', ' ']).next() == Some(member))
            })
        };
        let held = place.starts_with("memory of ") || place.starts_with("core of ");
        match kind {
            "credential" => held && !of(former),
            "share" => canary.split(' ').nth(1).is_some_and(|member| of(&format!("n{member}"))),
            _ => false,
        }
    };
    let hits =
        found.hits.keys().filter(|hit| of_kind(&hit.canary) && is(&hit.place) && !by_right(&hit.canary, &hit.place));
    hits.map(|hit| &hit.place).collect::<std::collections::BTreeSet<_>>().len()
}

/// What panics have said: the line after the one that says where.
fn panics(log: &str) -> Vec<String> {
    let lines: Vec<&str> = log.lines().collect();
    lines.windows(2).filter(|two| two[0].contains("panicked at")).map(|two| two[1].to_owned()).collect()
}
