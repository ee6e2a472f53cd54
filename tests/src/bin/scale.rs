//! Leases in numbers, at a real cluster and a real PostgreSQL: how many are issued in a second, what each costs in memory and on disk, how
//! long a member takes to come back, and how long after their common end the last of them is gone, with somebody asking for a
//! new one all the while.
//!
//! `make scale LEASES=100000`; it prints one JSON document, and a line for each step as it goes. `KILL=1` kills the leader in the middle.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it has measured")]

use anyhow::Context as _;
use futures::StreamExt as _;
use quorate_api::client::{Client, Role};
use quorate_state::ids::MemberIndex;
use quorate_tests::footprint::TARGET;
use quorate_tests::{Cluster, Options, now};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const ROLE: &str = "scale";
/// How many requests are under way at once.
const ABREAST: usize = 64;
/// How many are issued first, to know how long all take.
const SAMPLE: usize = 500;
/// How long the last may take to be gone.
const PATIENCE: Duration = Duration::from_secs(1_800);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let leases: usize = std::env::args().nth(1).context("usage: scale LEASES")?.parse().context("LEASES")?;
    anyhow::ensure!(leases > SAMPLE, "at least {} leases", SAMPLE + 1);
    let kill = std::env::var_os("KILL").is_some();
    let cluster = Cluster::start(&Options::default()).await?;
    describe(&cluster, leases).await?;
    let empty = footprint(&cluster)?;
    let restart_empty = restart(&cluster).await?;

    let sample = issue(&cluster, SAMPLE, now() + 3_600_000).await?;
    let needed = sample.as_secs_f64() / count(SAMPLE) * count(leases - SAMPLE) * 1.5 + 60.0;
    let end = now() + Duration::from_secs_f64(needed).as_millis().try_into().unwrap_or(u64::MAX);
    eprintln!("{SAMPLE} leases in {sample:.1?}; all end in {needed:.0} s");
    let rest = issue(&cluster, leases - SAMPLE, end).await?;
    let rate = count(leases - SAMPLE) / rest.as_secs_f64();
    eprintln!("{} leases in {rest:.1?}: {rate:.0} a second", leases - SAMPLE);
    let full = footprint(&cluster)?;
    let restart_full = restart(&cluster).await?;
    eprintln!("a member comes back in {restart_full:.1?}, and did in {restart_empty:.1?} without leases");
    anyhow::ensure!(now() < end, "they were not issued before their end: the sample was too quick");

    sleep(Duration::from_millis(end.saturating_sub(now()))).await;
    let over = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(ask(cluster.client("demo")?, Arc::clone(&over)));
    let begun = Instant::now();
    let superuser = cluster.superuser().await?;
    let mut left = Vec::new();
    let mut killed = !kill;
    let gone = loop {
        let logins = cluster.footprint(&superuser).await?.logins.len();
        left.push(json!([begun.elapsed().as_millis(), logins]));
        eprint!("\r{logins} logins are left after {:.0?}   ", begun.elapsed());
        if logins < leases / 2 && !killed {
            killed = true;
            let leader = cluster.wait_leader(PATIENCE).await?;
            cluster.node(leader)?.kill().await?;
            cluster.node(leader)?.restart(&[])?;
            eprintln!("\nthe leader, {}, is killed and started again", cluster.name(leader));
        }
        // All but the sample's, which end in an hour, and the few of whoever asks.
        if logins <= SAMPLE + 8 {
            break begun.elapsed();
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{logins} logins are left after {PATIENCE:?}");
        sleep(Duration::from_millis(500)).await;
    };
    over.store(true, Ordering::Relaxed);
    let mut waits = asking.await??;
    waits.sort_unstable();
    let at = |hundredths: usize| waits.get((waits.len().saturating_sub(1)) * hundredths / 100).copied().unwrap_or(0);
    let per =
        |after: u64, before: u64| count(usize::try_from(after.saturating_sub(before)).unwrap_or(0)) / count(leases);
    eprintln!("\nthe last is gone {gone:.1?} after their end");
    let document = json!({
        "leases": leases, "killed_leader": kill, "issued_per_second": rate,
        "gone_after_seconds": gone.as_secs_f64(), "left": left,
        "issue_meanwhile_ms": { "count": waits.len(), "p50": at(50), "p99": at(99), "max": at(100) },
        "memory_bytes_per_lease_and_member": per(full.0, empty.0) / 3.0,
        "disk_bytes_per_lease_and_member": per(full.1, empty.1) / 3.0,
        "restart_seconds": { "empty": restart_empty.as_secs_f64(), "full": restart_full.as_secs_f64() },
    });
    println!("{}", serde_json::to_string_pretty(&document)?);
    Ok(())
}

async fn describe(cluster: &Cluster, leases: usize) -> anyhow::Result<()> {
    let role = Role {
        target: TARGET.to_owned(),
        groups: vec![cluster.text("/postgres/group")?.to_owned()],
        default_ttl: 60_000,
        max_ttl: 4 * 3_600_000,
        connection_limit: 1,
        max_leases: u32::try_from(leases)? + 100,
        // What the database spends on a verifier is not what is measured.
        scram_iterations: 1,
        ..Role::default()
    };
    cluster.admin()?.put_role(ROLE, &role).await?;
    let scope = format!("action == Quorate::Action::\"lease:issue\", resource == Quorate::Role::\"{ROLE}\"");
    cluster.permit("scale", &cluster.identity("demo")?, &scope).await?;
    Ok(())
}

/// Issues so many leases that end at `end`.
async fn issue(cluster: &Cluster, leases: usize, end: u64) -> anyhow::Result<Duration> {
    let client = Arc::new(cluster.client("demo")?.with_timeout(Duration::from_secs(60)));
    let begun = Instant::now();
    let mut done = 0usize;
    let mut all = futures::stream::iter(0..leases)
        .map(|_| {
            let client = Arc::clone(&client);
            async move {
                let ttl = end.saturating_sub(now()).max(1_000);
                client.issue_lease(ROLE, Some(ttl)).await.map(drop)
            }
        })
        .buffer_unordered(ABREAST);
    while let Some(issued) = all.next().await {
        issued?;
        done += 1;
        if done.is_multiple_of(1_000) {
            eprint!("\r{done} leases after {:.0?}   ", begun.elapsed());
        }
    }
    Ok(begun.elapsed())
}

/// Asks for one lease after the other until it is over; how long each took, in milliseconds.
async fn ask(client: Client, over: Arc<AtomicBool>) -> anyhow::Result<Vec<u64>> {
    let client = client.with_timeout(Duration::from_secs(60));
    let mut waits = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        let issued = client.issue_lease("reader", Some(1_000)).await;
        waits.push(u64::try_from(begun.elapsed().as_millis())?);
        issued.context("a request while others expire")?;
        sleep(Duration::from_millis(200)).await;
    }
    Ok(waits)
}

/// How long a follower takes from its start until it has applied what the others have.
async fn restart(cluster: &Cluster) -> anyhow::Result<Duration> {
    let leader = cluster.wait_leader(PATIENCE).await?;
    let follower: MemberIndex = leader % 3 + 1;
    let index = cluster.status(leader).await?.context("the leader answers")?.applied;
    cluster.node(follower)?.kill().await?;
    let begun = Instant::now();
    cluster.node(follower)?.restart(&[])?;
    cluster.wait_applied(follower, index, PATIENCE).await?;
    Ok(begun.elapsed())
}

/// Memory and disk of all members, in bytes.
fn footprint(cluster: &Cluster) -> anyhow::Result<(u64, u64)> {
    let (mut memory, mut disk) = (0, 0);
    for member in 1..=3 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.node(member)?.pid()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("VmRSS")?;
        memory += line.trim().trim_end_matches(" kB").parse::<u64>()? * 1_024;
        disk += size(&cluster.data_folder(member)?)?;
    }
    Ok((memory, disk))
}

fn size(folder: &Path) -> anyhow::Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        // Files come and go.
        let Ok(kind) = entry.metadata() else { continue };
        bytes += if kind.is_dir() { size(&entry.path())? } else { kind.len() };
    }
    Ok(bytes)
}

fn count(n: usize) -> f64 {
    // Far below what a float counts exactly.
    u32::try_from(n).map_or(f64::MAX, f64::from)
}
