//! Leases in numbers, at a real cluster and a real PostgreSQL: how many are issued in a second, what each costs in memory and on disk, how
//! long a member takes to come back, and how long after their common end the last of them is gone, with somebody asking for a
//! new one all the while, beside a target that is slow and one that says nothing at all.
//!
//! `make scale LEASES=100000`; it prints one JSON document, and a line for each step as it goes. `KILL=1` kills the leader in the middle;
//! with `AT_MOST=60` the run fails, after it has printed, when any of `gone_after_seconds` is more.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program that prints what it has measured")]

use anyhow::Context as _;
use futures::StreamExt as _;
use quorate_api::client::{Client, Form, Role, TargetSpec};
use quorate_crypto::keyring::KeyringClass;
use quorate_state::ids::{KeyringId, MemberIndex};
use quorate_state::lease::principal_prefix;
use quorate_tests::footprint::TARGET;
use quorate_tests::proxy::{Mood, Proxy};
use quorate_tests::{Cluster, Options, now};
use serde_json::json;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// The targets, each with a role of its name: the database itself, and what stands for two more.
const ALL: [&str; 3] = [TARGET, "slow", "dead"];
/// How many requests are under way at once.
const ABREAST: usize = 64;
/// How many are issued first, to know how long all take.
const SAMPLE: usize = 2_000;
/// How many are at the slow one, and at the dead one.
const ASIDE: usize = 500;
/// How much longer than the sample says all may take.
const SPARE: f64 = 1.25;
/// How often one is asked for.
const TRIES: usize = 10;
/// How long the last may take to be gone.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// How late each answer of the slow one is.
const LATE: Duration = Duration::from_millis(100);

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> anyhow::Result<()> {
    let leases: usize = std::env::args().nth(1).context("usage: scale LEASES")?.parse().context("LEASES")?;
    anyhow::ensure!(leases > SAMPLE, "at least {} leases", SAMPLE + 1);
    let kill = std::env::var_os("KILL").is_some();
    let seconds = std::env::var_os("AT_MOST").map(|text| text.to_string_lossy().parse::<u64>().context("AT_MOST"));
    let at_most = seconds.transpose()?.map(Duration::from_secs);
    let cluster = Cluster::start(&Options::default()).await?;
    let (_, port) = cluster.postgres_socket()?;
    let (slow, dead) =
        (Proxy::start(([127, 0, 0, 1], port).into()).await?, Proxy::start(([127, 0, 0, 1], port).into()).await?);
    for (name, port) in [("slow", slow.port()), ("dead", dead.port())] {
        describe(&cluster, name, port).await?;
    }
    permit(&cluster, leases).await?;
    let empty = footprint(&cluster)?;
    let restart_empty = restart(&cluster).await?;

    // These live on while the others end.
    let sample = issue(&cluster, TARGET, SAMPLE, now() + 4 * 3_600_000).await?;
    let needed = sample.as_secs_f64() / count(SAMPLE) * count(leases + 2 * ASIDE) * SPARE + 60.0;
    let end = now() + Duration::from_secs_f64(needed).as_millis().try_into().unwrap_or(u64::MAX);
    eprintln!("{SAMPLE} leases in {sample:.1?}; all others end in {needed:.0} s");
    for name in ["slow", "dead"] {
        issue(&cluster, name, ASIDE, end).await?;
    }
    let before = cpu(&cluster)?;
    let all = issue(&cluster, TARGET, leases, end).await?;
    let spent = (cpu(&cluster)? - before) / count(leases);
    let rate = count(leases) / all.as_secs_f64();
    eprintln!("\n{leases} leases in {all:.1?}: {rate:.0} a second, {spent:.1} ms of the members' time for each");
    let full = footprint(&cluster)?;
    let restart_full = restart(&cluster).await?;
    eprintln!("a member comes back in {restart_full:.1?}, and did in {restart_empty:.1?} without leases");
    anyhow::ensure!(now() < end, "they were not issued before their end: the sample was too quick");

    slow.be(Mood::Slow(LATE));
    dead.be(Mood::Silent);
    sleep(Duration::from_millis(end.saturating_sub(now()))).await;
    let over = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(ask(cluster.client("demo")?, Arc::clone(&over)));
    let begun = Instant::now();
    let superuser = cluster.superuser().await?;
    let (mut course, mut gone, mut killed) = (Vec::new(), [None; ALL.len()], None);
    while gone.iter().any(Option::is_none) {
        let mut left = [0; ALL.len()];
        for (n, name) in left.iter_mut().zip(ALL) {
            *n = logins(&cluster, &superuser, name).await?;
        }
        // Neither the sample's nor the few of whoever asks.
        left[0] = left[0].saturating_sub(SAMPLE + 8);
        course.push(json!([begun.elapsed().as_millis(), left]));
        eprint!("\r{left:?} logins are left after {:.0?}   ", begun.elapsed());
        for (at, n) in gone.iter_mut().zip(left) {
            if n == 0 && at.is_none() {
                *at = Some(begun.elapsed());
            }
        }
        if kill && killed.is_none() && left[0] < leases / 2 {
            let leader = cluster.wait_leader(PATIENCE).await?;
            cluster.node(leader)?.kill().await?;
            killed = Some(begun.elapsed());
            cluster.node(leader)?.restart(&[])?;
            eprintln!("\nthe leader, {}, is killed and started again", cluster.name(leader));
        }
        if let [Some(_), Some(_), None] = gone {
            anyhow::ensure!(left[2] == ASIDE, "what says nothing has ended nothing: {left:?}");
            eprintln!("\nwhat said nothing answers again");
            dead.be(Mood::Honest);
            gone[2] = None;
            let begun = Instant::now();
            while logins(&cluster, &superuser, "dead").await? > 0 {
                anyhow::ensure!(begun.elapsed() < PATIENCE, "the leases at what was dead do not end");
                sleep(Duration::from_millis(100)).await;
            }
            gone[2] = Some(begun.elapsed());
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "{left:?} logins are left after {PATIENCE:?}");
        sleep(Duration::from_millis(500)).await;
    }
    over.store(true, Ordering::Relaxed);
    let mut waits = asking.await??;
    // Until now as the database tells; and when the log has it.
    loop {
        let leader = cluster.wait_leader(PATIENCE).await?;
        if cluster.status(leader).await?.is_some_and(|s| s.leases_intent + s.leases_revoking == 0) {
            break;
        }
        anyhow::ensure!(begun.elapsed() < PATIENCE, "the ends are not all proved");
        sleep(Duration::from_millis(100)).await;
    }
    let proved = begun.elapsed();
    waits.sort_unstable();
    let at = |hundredths: usize| waits.get((waits.len().saturating_sub(1)) * hundredths / 100).copied().unwrap_or(0);
    let per = |after: u64, before: u64| {
        count(usize::try_from(after.saturating_sub(before)).unwrap_or(0)) / count(leases + SAMPLE + 2 * ASIDE)
    };
    let seconds = |n: usize| gone.get(n).copied().flatten().map(|d| d.as_secs_f64());
    eprintln!("\ngone after their end: {gone:.1?} at {ALL:?} (the last since it answers again)");
    let document = json!({
        "leases": leases, "killed_leader_after_seconds": killed.map(|d| d.as_secs_f64()), "issued_per_second": rate,
        "members_cpu_ms_per_issue": spent,
        "gone_after_seconds": { "healthy": seconds(0), "slow": seconds(1), "dead_since_it_answers": seconds(2) },
        "all_proved_after_seconds": proved.as_secs_f64(), "left": course,
        "issue_meanwhile_ms": { "count": waits.len(), "p50": at(50), "p99": at(99), "max": at(100) },
        "memory_bytes_per_lease_and_member": per(full.0, empty.0) / 3.0,
        "disk_bytes_per_lease_and_member": per(full.1, empty.1) / 3.0,
        "restart_seconds": { "empty": restart_empty.as_secs_f64(), "full": restart_full.as_secs_f64() },
    });
    println!("{}", serde_json::to_string_pretty(&document)?);
    for (name, gone) in ALL.into_iter().zip(gone.into_iter().flatten()) {
        let late = at_most.is_some_and(|most| gone > most);
        anyhow::ensure!(!late, "the last at {name} was gone after {gone:.1?}, and {at_most:?} is the most");
    }
    Ok(())
}

/// A further target in front of the database.
async fn describe(cluster: &Cluster, name: &str, port: u16) -> anyhow::Result<()> {
    let password = std::fs::read_to_string(cluster.text("/postgres/password_file")?)?;
    let target = TargetSpec {
        host: "127.0.0.1".into(),
        port,
        database: cluster.text("/postgres/database")?.into(),
        user: cluster.text("/postgres/admin")?.into(),
        ..TargetSpec::default()
    };
    let ring = KeyringId(cluster.ring(KeyringClass::Cluster)?.id());
    let admin = cluster.admin()?;
    admin.put_target(name, &target, password.trim_end().as_bytes(), ring).await?;
    put_role(cluster, name, 2 * ASIDE).await?;
    let proof = admin.prove_target(name, Duration::from_secs(30)).await?;
    anyhow::ensure!(proof.missing.is_empty() && proof.failed.is_empty(), "{proof:?}");
    Ok(())
}

async fn put_role(cluster: &Cluster, name: &str, leases: usize) -> anyhow::Result<()> {
    let role = Role {
        target: name.to_owned(),
        groups: vec![cluster.text("/postgres/group")?.to_owned()],
        default_ttl: 60_000,
        max_ttl: 4 * 3_600_000,
        connection_limit: 1,
        max_leases: u32::try_from(leases)? + 100,
        // What the database spends on a verifier is not what is measured.
        form: Form::Scram { iterations: 1 },
        ..Role::default()
    };
    cluster.admin()?.put_role(&role_at(name), &role).await?;
    Ok(())
}

fn role_at(target: &str) -> String {
    format!("scale-{target}")
}

async fn permit(cluster: &Cluster, leases: usize) -> anyhow::Result<()> {
    put_role(cluster, TARGET, leases + SAMPLE).await?;
    // The role asks for a proof: what that takes is not measured.
    cluster.admin()?.prove_target(TARGET, Duration::from_secs(60)).await?;
    let scope = "action == Quorate::Action::\"lease:issue\", resource";
    cluster.permit("scale", &cluster.identity("demo")?, scope).await?;
    Ok(())
}

async fn logins(cluster: &Cluster, superuser: &tokio_postgres::Client, target: &str) -> anyhow::Result<usize> {
    let prefix = principal_prefix(&cluster.profile().cluster, target);
    let sql = "SELECT count(*) FROM pg_roles WHERE starts_with(rolname::text, $1) AND rolcanlogin";
    let row = superuser.query_one(sql, &[&prefix]).await.context("pg_roles")?;
    Ok(usize::try_from(row.try_get::<_, i64>(0)?)?)
}

/// Issues so many leases that end at `end`.
async fn issue(cluster: &Cluster, target: &str, leases: usize, end: u64) -> anyhow::Result<Duration> {
    let client = Arc::new(cluster.client("demo")?.with_timeout(Duration::from_secs(60)));
    let role = role_at(target);
    let begun = Instant::now();
    let mut done = 0usize;
    let mut all = futures::stream::iter(0..leases)
        .map(|_| {
            let (client, role) = (Arc::clone(&client), role.clone());
            async move {
                // Whoever is told that it failed, because its leader is one no more, asks again.
                let mut last = None;
                for _ in 0..TRIES {
                    let ttl = end.saturating_sub(now()).max(1_000);
                    match client.issue_lease(&role, Some(ttl)).await {
                        Ok(_) => return Ok(()),
                        Err(failure) => last = Some(failure),
                    }
                }
                last.map_or(Ok(()), Err)
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
        // Whoever is told that it failed, with its leader, asks again.
        while let Err(failure) = client.issue_lease("reader", Some(1_000)).await {
            anyhow::ensure!(begun.elapsed() < PATIENCE, "a request while others expire: {failure}");
        }
        waits.push(u64::try_from(begun.elapsed().as_millis())?);
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

/// What all members have spent of the processors' time, in milliseconds.
fn cpu(cluster: &Cluster) -> anyhow::Result<f64> {
    let mut ticks = 0;
    for member in 1..=3 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", cluster.node(member)?.pid()))?;
        // Behind the name, which may hold anything; 100 to a second.
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
        ticks += fields.map(|n| n.parse::<usize>().unwrap_or(0)).sum::<usize>();
    }
    Ok(count(ticks) * 10.0)
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
