//! Leases are issued without a pause while the leader is killed again and again. An auditor that does not ask the vault what
//! is at the database compares the two each second: nothing there that no lease accounts for, nothing alive long after its end.
//!
//! `QUORATE_SEED` repeats a run's choices, `QUORATE_ROUNDS` says how many leaders are killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

use quorate_tests::database::login_with;
use quorate_tests::footprint::Footprint;
use quorate_tests::{Cluster, Options, now};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long after its end a credential may live, with the loss of a leader in between.
const OVERRUN: u64 = 7_000;
/// How many callers ask at the same time.
const CALLERS: u64 = 3;
/// Fewer leases than this for each kill is no load.
const LEASES_PER_KILL: usize = 3;
/// How long everything may take to end when the last leader was killed.
const SETTLE: Duration = Duration::from_secs(25);

/// What is compared.
#[derive(Default)]
struct Book {
    /// The end of each lease that a caller was given, by its login: cluster time.
    ends: Mutex<BTreeMap<String, u64>>,
    issued: AtomicUsize,
    failed: AtomicUsize,
    sessions: AtomicUsize,
    stop: AtomicBool,
}

/// What the auditor has found.
#[derive(Debug, Default)]
struct Findings {
    looks: usize,
    /// Logins that were there although the vault had called them revoked before, or has never known them.
    orphans: BTreeSet<String>,
    /// Milliseconds, and whose.
    worst_overrun: (u64, String),
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_are_killed_while_leases_are_issued() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, rounds) = (number("QUORATE_SEED").unwrap_or_else(now), number("QUORATE_ROUNDS").unwrap_or(5));
    println!("QUORATE_SEED={seed} QUORATE_ROUNDS={rounds}");
    let mut random = Random(seed);
    let cluster = Arc::new(Cluster::start(&Options::default()).await.unwrap());
    let book = Arc::new(Book::default());
    let callers: Vec<_> = (0..CALLERS)
        .map(|n| tokio::spawn(call(Arc::clone(&cluster), Arc::clone(&book), Random(seed ^ (n + 1)))))
        .collect();
    let auditor = tokio::spawn(audit(Arc::clone(&cluster), Arc::clone(&book)));

    let mut kills = 0;
    for round in 0..rounds {
        tokio::time::sleep(Duration::from_millis(random.between(3_000, 6_000))).await;
        let leader = cluster.wait_leader(Duration::from_secs(20)).await.unwrap();
        let node = cluster.node(leader).unwrap();
        node.kill().await.unwrap();
        kills += 1;
        tokio::time::sleep(Duration::from_millis(random.between(0, 2_500))).await;
        node.restart(&[]).unwrap();
        let back = cluster.wait_applied(leader, 1, Duration::from_secs(30)).await;
        back.unwrap_or_else(|why| panic!("round {round}, seed {seed}: {why}"));
    }
    book.stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let last = settle(&cluster).await;
    let found = auditor.await.unwrap();

    let issued = book.issued.load(Ordering::Relaxed);
    println!(
        "seed {seed}: {kills} leaders killed, {issued} leases with {} sessions, {} requests failed, {} looks, {} orphans, \
         worst overrun {} ms ({})",
        book.sessions.load(Ordering::Relaxed),
        book.failed.load(Ordering::Relaxed),
        found.looks,
        found.orphans.len(),
        found.worst_overrun.0,
        found.worst_overrun.1,
    );
    assert!(found.orphans.is_empty(), "seed {seed}: at the database without a lease: {found:?}");
    assert!(found.worst_overrun.0 <= OVERRUN, "seed {seed}: alive {OVERRUN} ms after its end: {found:?}");
    assert!(last.is_empty(), "seed {seed}: every lease has ended, and this is left at the database: {last:?}");
    let floor = usize::try_from(rounds).unwrap() * LEASES_PER_KILL;
    assert!(
        issued >= floor && found.looks >= floor,
        "seed {seed}: too little happened to say anything: {issued} leases"
    );
}

/// Issues, logs in, and leaves the session open, until told to stop.
async fn call(cluster: Arc<Cluster>, book: Arc<Book>, mut random: Random) {
    let demo = cluster.client("demo").unwrap().with_timeout(Duration::from_secs(8));
    let mut sessions = Vec::new();
    while !book.stop.load(Ordering::Relaxed) {
        match demo.issue_lease("reader", Some(random.between(2_000, 6_000))).await {
            Ok(lease) => {
                book.ends.lock().unwrap().insert(lease.username.clone(), lease.expires_at);
                book.issued.fetch_add(1, Ordering::Relaxed);
                if let Ok(session) = login_with(&lease).await {
                    book.sessions.fetch_add(1, Ordering::Relaxed);
                    sessions.push(session);
                }
            }
            Err(_) => drop(book.failed.fetch_add(1, Ordering::Relaxed)),
        }
        tokio::time::sleep(Duration::from_millis(random.between(50, 300))).await;
    }
}

/// Looks at the database first and asks the vault second, so that what ends in between is no finding.
async fn audit(cluster: Arc<Cluster>, book: Arc<Book>) -> Findings {
    let (superuser, admin) = (cluster.superuser().await.unwrap(), cluster.admin().unwrap());
    let mut found = Findings::default();
    let (mut revoked, mut ghosts): (BTreeSet<String>, BTreeSet<i32>) = Default::default();
    loop {
        let last = book.stop.load(Ordering::Relaxed);
        let seen = cluster.footprint(&superuser).await.unwrap();
        let at = now();
        found.looks += 1;
        // A role that can neither log in nor has a session is only left to be cleaned up: in the end it is gone, too.
        let here: BTreeSet<&String> = seen.logins.iter().chain(&seen.sessions).collect();
        found.orphans.extend(here.iter().filter(|login| revoked.contains(**login)).map(|login| (*login).clone()));
        let stayed = ghosts.intersection(&seen.ghosts);
        found.orphans.extend(stayed.map(|pid| format!("session {pid} of a role that is gone")));
        ghosts.clone_from(&seen.ghosts);
        {
            let ends = book.ends.lock().unwrap();
            let late = here.iter().filter_map(|login| Some((at.saturating_sub(*ends.get(*login)?), (**login).clone())));
            found.worst_overrun = late.chain([found.worst_overrun.clone()]).max().unwrap();
        }
        // In an outage the vault does not answer: the next look compares with an older answer, which is the milder one.
        if let Ok(leases) = admin.leases("").await {
            let known: BTreeSet<&String> = leases.iter().map(|l| &l.principal).collect();
            found.orphans.extend(here.iter().filter(|login| !known.contains(**login)).map(|login| (*login).clone()));
            revoked = leases.into_iter().filter(|l| l.state == "revoked").map(|l| l.principal).collect();
        }
        if last && seen.is_empty() {
            return found;
        }
        if last && found.worst_overrun.0 > 60_000 {
            return found;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Waits until nothing is left, or long enough.
async fn settle(cluster: &Cluster) -> Footprint {
    let superuser = cluster.superuser().await.unwrap();
    let deadline = Instant::now() + SETTLE;
    loop {
        let seen = cluster.footprint(&superuser).await.unwrap();
        if seen.is_empty() || Instant::now() >= deadline {
            return seen;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// SplitMix64: the same choices for the same seed.
struct Random(u64);

impl Random {
    fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        low + (z ^ (z >> 31)) % (high - low)
    }
}
