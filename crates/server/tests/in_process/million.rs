//! A million leases at a target in memory, with everything else as it is in a node: what PostgreSQL would be the limit of.

#![allow(clippy::print_stdout, reason = "it prints what it has measured")]

use crate::found;
use crate::world::{World, host};
use futures::StreamExt as _;
use quorate_api::client::{Client, Form, Role};
use quorate_api::peer::ProposeRequest;
use quorate_api::scram;
use quorate_state::change::Change;
use quorate_state::command::{Command, Stamp};
use quorate_state::outcome::Outcome;
use quorate_state::store::{Table, decode};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::time::sleep;

const ROLE: &str = "t-readers";
/// How many requests are under way at once.
const ABREAST: usize = 128;
/// How many are issued first, to know how long all take.
const SAMPLE: usize = 2_000;
const HOURS: u64 = 3_600_000;

/// Prints what it measures. `LEASES` says how many, `SPARE` how many times as long as the first of them the others may take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement that takes an hour: make million"]
async fn a_million_leases() {
    let leases: usize = std::env::var("LEASES").map_or(1_000_000, |n| n.parse().unwrap());
    let spare: f64 = std::env::var("SPARE").map_or(2.2, |n| n.parse().unwrap());
    let home = tempfile::tempdir().unwrap();
    let world = Arc::new(found(World::begin_at(1, Some(home.path()))).await);
    world.describe("t", &["readers"]).await;
    let role = Role {
        target: "t".to_owned(),
        groups: vec!["readers".to_owned()],
        default_ttl: 60_000,
        max_ttl: 24 * HOURS,
        connection_limit: 4,
        max_leases: u32::try_from(leases + 2 * SAMPLE).unwrap(),
        form: Form::Scram { iterations: 1 },
        ..Role::default()
    };
    world.client("admin/first").put_role(ROLE, &role).await.unwrap();
    let (memory, disk) = (resident(), size(home.path()));

    let sample = issue(&world, SAMPLE, world.now() + 23 * HOURS).await;
    let needed = sample.as_secs_f64() / as_float(SAMPLE) * as_float(leases) * spare + 60.0;
    let end = world.now() + u64::try_from(Duration::from_secs_f64(needed).as_millis()).unwrap();
    println!("{SAMPLE} in {sample:.1?}; the others end in {needed:.0} s");
    let took = issue(&world, leases, end).await;
    let each = |after: u64, before: u64| after.saturating_sub(before) / u64::try_from(leases + SAMPLE).unwrap() / 3;
    println!(
        "{leases} leases in {took:.0?}, {:.0} a second; each takes {} bytes of memory and {} bytes of disk on each member",
        as_float(leases) / took.as_secs_f64(),
        each(resident(), memory),
        each(size(home.path()), disk),
    );
    assert!(world.now() < end, "they were not issued before their end");

    sleep(Duration::from_millis(end - world.now())).await;
    let begun = Instant::now();
    let over = Arc::new(AtomicBool::new(false));
    let asking = tokio::spawn(ask(world.client("app"), Arc::clone(&over)));
    let (mut cut, mut told) = (None, Instant::now());
    loop {
        // A list of a million names is a second's work: only the last of them are named.
        let there = world.target("t").count();
        let there = if there < 2 * SAMPLE { world.logins("t").len() } else { there };
        let left = there.saturating_sub(SAMPLE);
        if told.elapsed() > Duration::from_secs(5) {
            println!("{left} are left after {:.0?}", begun.elapsed());
            told = Instant::now();
        }
        if cut.is_none() && left < leases / 2 {
            let leader = world.leader().await;
            world.hub.cut(host(leader));
            println!("the leader is cut off {:.1?} after their end, with {left} left", begun.elapsed());
            cut = Some((leader, Instant::now()));
        }
        if let Some((leader, at)) = cut
            && at.elapsed() > Duration::from_secs(10)
        {
            world.hub.heal(host(leader));
            cut = Some((0, Instant::now()));
        }
        // But those of whoever asks.
        if left <= 8 {
            break;
        }
        sleep(Duration::from_millis(200)).await;
    }
    let gone = begun.elapsed();
    over.store(true, Ordering::Relaxed);
    let mut waits = asking.await.unwrap();
    waits.sort_unstable();
    println!(
        "the last was gone {gone:.1?} after their end, {:.0} a second; {} requests meanwhile took {} ms (median), {} ms at most",
        as_float(leases) / gone.as_secs_f64(),
        waits.len(),
        waits[waits.len() / 2],
        waits[waits.len() - 1],
    );
}

/// Hands the leader so many requests, with endorsements: what is measured here is not how members decide.
async fn issue(world: &Arc<World>, leases: usize, end: u64) -> Duration {
    let app = Arc::new(world.client("app"));
    let version = world.client("admin/first").policies().await.unwrap().authority_version;
    let verifier = scram::verifier(&[7; 32], &[7; 16], 1);
    // Who looks for another leader looks for all.
    let looking = Arc::new(tokio::sync::Mutex::new(()));
    let leader = world.leader().await;
    let line = world.line(leader % 3 + 1, leader);
    let begun = Instant::now();
    let mut all = futures::stream::iter(0..leases)
        .map(|_| {
            let (app, world, mut line) = (Arc::clone(&app), Arc::clone(world), line.clone());
            let looking = Arc::clone(&looking);
            let ttl = Some(end.saturating_sub(world.now()).max(1_000));
            let change = Change::IssueLease { role: ROLE.to_owned(), verifier: verifier.clone(), ttl };
            tokio::spawn(async move {
                let mut anew = Vec::new();
                // A lease that its request did not bring alive in time is ended: there is none for that request any more.
                'anew: loop {
                    let request = app.sign(change.clone(), None);
                    let endorsements = world.endorse(&request, version, &[1, 2]);
                    let command = Command::Endorsed { request, endorsements, stamp: Stamp::default() }.encode();
                    loop {
                        let command = command.clone();
                        let reply = line.propose(ProposeRequest { command }).await.unwrap().into_inner();
                        if !reply.outcome.is_empty() {
                            return (reply, anew);
                        }
                        if !reply.not_leader && !reply.refusal.starts_with("no_leader") {
                            anew.push(reply.refusal);
                            continue 'anew;
                        }
                        // It may lead no more. The same request has the same lease.
                        let _looking = looking.lock().await;
                        let leader = world.leader().await;
                        line = world.line(leader % 3 + 1, leader);
                    }
                }
            })
        })
        .buffer_unordered(ABREAST);
    let mut done = 0usize;
    let mut failed: BTreeMap<String, usize> = BTreeMap::new();
    while let Some(issued) = all.next().await {
        let (reply, anew) = issued.unwrap();
        for why in anew {
            *failed.entry(why).or_default() += 1;
        }
        let outcome = decode::<Outcome>(Table::Request as u8, &reply.outcome);
        assert!(matches!(outcome, Ok(Outcome::Intent { .. })), "lease {done} is issued: {reply:?}, {outcome:?}");
        done += 1;
        if done.is_multiple_of(10_000) {
            let memory = resident() >> 20;
            println!("{done} leases after {:.0?}, {memory} MB of memory; asked for anew: {failed:?}", begun.elapsed());
        }
    }
    begun.elapsed()
}

/// How long each of some requests took, in milliseconds.
async fn ask(app: Client, over: Arc<AtomicBool>) -> Vec<u128> {
    let mut waits = Vec::new();
    while !over.load(Ordering::Relaxed) {
        let begun = Instant::now();
        // Whoever is told that it failed, with its leader, asks again.
        while app.issue_lease(ROLE, Some(1_000)).await.is_err() {}
        waits.push(begun.elapsed().as_millis());
        sleep(Duration::from_millis(200)).await;
    }
    waits
}

/// The memory of this process, in bytes: three members, their target and their clients.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4_096
}

fn size(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    // Files come and go.
    entries
        .filter_map(|e| Some((e.path(), e.metadata().ok()?)))
        .map(|(path, m)| if m.is_dir() { size(&path) } else { m.len() })
        .sum()
}

fn as_float(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap())
}
