//! What members attest, and what rests on it: snapshots instead of a purged log, a state that was lost, and when a rule is effective.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they measured"
)]

use quorate_api::client::Client;
use quorate_api::status::Failure;
use quorate_state::change::Change;
use quorate_state::ids::MemberIndex;
use quorate_tests::{Cluster, Options};
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "default";
/// What a client says that t members do not open for: by all, or by some of those it asked.
const NOT_OPENED: [&str; 4] = ["identity_blocked", "disagreement", "denied", "not_enough_members"];
const ELECTION: Duration = Duration::from_secs(20);
const RETURN: Duration = Duration::from_secs(45);

#[tokio::test]
async fn snapshots_and_attestations() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    for member in [1, 2, 3] {
        configure(&cluster, member);
        restart(&cluster, member, &[]).await;
    }
    let demo = cluster.client("demo").unwrap();
    demo.put(NAMESPACE, "app/demo/lasting", b"lasting", Some(0)).await.unwrap();
    a_member_behind_the_log(&cluster).await;
    one_member_has_everything(&cluster).await;
    a_state_that_is_gone(&cluster).await;
    a_rule_is_effective(&cluster).await;
    one_that_lies_and_one_that_is_silent(&cluster).await;
    a_laggard_in_the_dark(&cluster).await;
    a_member_that_is_off_is_not_waited_for_until_it_is_back(&cluster).await;
    a_member_that_is_destroyed_counts_for_nothing(&cluster).await;
}

/// Small numbers, so that a test sees what takes a day elsewhere.
fn configure(cluster: &Cluster, member: MemberIndex) {
    let path = cluster.text(&format!("/members/{}/config", cluster.name(member))).unwrap();
    let mut file = std::fs::OpenOptions::new().append(true).open(path).unwrap();
    // The file ends in `[raft]`.
    file.write_all(b"snapshot_every = 40\nkeep_entries = 10\nattest_every = 16\n").unwrap();
}

async fn restart(cluster: &Cluster, member: MemberIndex, environment: &[(&str, &str)]) {
    let node = cluster.node(member).unwrap();
    node.terminate().await.unwrap();
    node.restart(environment).unwrap();
    cluster.wait_applied(member, 1, RETURN).await.unwrap();
    cluster.wait_leader(ELECTION).await.unwrap();
}

async fn opens(what: &str, client: &Client, path: &str, expected: &[u8]) {
    let opened = client.get(NAMESPACE, path, None).await.unwrap_or_else(|why| panic!("{what}: {path} opens: {why}"));
    assert_eq!(opened.plaintext.expose(), expected, "{what}: {path} holds what was put");
}

fn refused<T>(what: &str, expected: &[&str], result: Result<T, Failure>) -> Failure {
    let Err(failure) = result else { panic!("{what}: expected {expected:?}, and it went through") };
    assert!(expected.contains(&failure.code), "{what}: expected {expected:?}, got: {failure}");
    failure
}

/// Writes until every other member has purged its log past `index`.
async fn compact_past(cluster: &Cluster, index: u64, members: &[MemberIndex]) {
    let demo = cluster.through("demo", members).unwrap();
    let deadline = Instant::now() + Duration::from_secs(90);
    let mut written = 0u32;
    loop {
        for _ in 0..10 {
            demo.put(NAMESPACE, "app/demo/filler", &written.to_be_bytes(), None).await.unwrap();
            written += 1;
        }
        let mut purged = Vec::new();
        for member in members {
            purged.push(cluster.status(*member).await.unwrap().map_or(0, |s| s.purged));
        }
        if purged.iter().all(|purged| *purged > index) {
            println!("{written} writes until the logs of {members:?} are compacted past {index}: {purged:?}");
            return;
        }
        assert!(Instant::now() < deadline, "after {written} writes the logs are compacted to {purged:?}, not {index}");
    }
}

/// Killed while the log is compacted; comes back under load; takes a snapshot by itself; opens secrets.
async fn a_member_behind_the_log(cluster: &Cluster) {
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    let behind = leader % 3 + 1;
    let rest: Vec<MemberIndex> = [1, 2, 3].into_iter().filter(|m| *m != behind).collect();
    let node = cluster.node(behind).unwrap();
    node.kill().await.unwrap();
    let stopped_at = cluster.status(leader).await.unwrap().unwrap().applied;
    compact_past(cluster, stopped_at + 1, &rest).await;

    let (stop, writes) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let load = {
        let (stop, writes, client) = (stop.clone(), writes.clone(), cluster.through("demo", &rest).unwrap());
        tokio::spawn(async move {
            while !stop.load(Ordering::SeqCst) {
                let value = writes.fetch_add(1, Ordering::SeqCst).to_be_bytes();
                client.put(NAMESPACE, "app/demo/load", &value, None).await.unwrap();
            }
        })
    };
    // The first transfer is cut short by a kill; the second has to do.
    node.restart(&[]).unwrap();
    let taken = "a snapshot that members vouch for is taken over";
    let first = Instant::now() + RETURN;
    while !node.log().contains(taken) {
        assert!(Instant::now() < first, "node {behind} takes a snapshot:\n{}", tail(&node.log()));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.kill().await.unwrap();
    node.restart(&[]).unwrap();
    let target = cluster.status(rest[0]).await.unwrap().unwrap().applied;
    cluster.wait_applied(behind, target, RETURN).await.unwrap();
    stop.store(true, Ordering::SeqCst);
    load.await.unwrap();
    let done = writes.load(Ordering::SeqCst);
    println!("node {behind} came back by snapshot while {done} writes went through");
    assert!(done > 3, "the others went on writing: {done}");
    let pair = cluster.through("demo", &[behind, rest[0]]).unwrap();
    opens("with the member that took a snapshot", &pair, "app/demo/lasting", b"lasting").await;
    opens("and what was written meanwhile", &pair, "app/demo/load", &(done - 1).to_be_bytes()).await;
}

/// One lacks entries, another is dead, and the third has been restarted: it has everything, and brings the first one up, although nobody else
/// can vouch for its state as it is now.
async fn one_member_has_everything(cluster: &Cluster) {
    let has = cluster.wait_leader(ELECTION).await.unwrap();
    let (behind, dead) = (has % 3 + 1, (has + 1) % 3 + 1);
    let nodes = [has, behind, dead].map(|member| cluster.node(member).unwrap());
    nodes[1].kill().await.unwrap();
    let stopped_at = cluster.status(has).await.unwrap().unwrap().applied;
    compact_past(cluster, stopped_at + 1, &[has, dead]).await;
    let demo = cluster.through("demo", &[has, dead]).unwrap();
    let put = demo.put(NAMESPACE, "app/demo/last", b"the last that two acknowledged", None).await.unwrap();
    cluster.wait_applied(has, put.index, RETURN).await.unwrap();
    nodes[2].kill().await.unwrap();
    nodes[0].kill().await.unwrap();
    for node in &nodes[..2] {
        node.restart(&[]).unwrap();
    }
    cluster.wait_applied(behind, put.index, RETURN).await.unwrap_or_else(|why| {
        panic!("{behind} is brought up by {has}: {why}\n{}", tail(&nodes[0].log()));
    });
    let pair = cluster.through("demo", &[has, behind]).unwrap();
    pair.put(NAMESPACE, "app/demo/on", b"and on", None).await.unwrap();
    for (path, value) in [("app/demo/last", &b"the last that two acknowledged"[..]), ("app/demo/on", b"and on")] {
        opens("with one dead and one brought up", &pair, path, value).await;
    }
    let log = nodes[1].log();
    assert!(log.contains("a snapshot that members vouch for is taken over"), "{}", tail(&log));
    nodes[2].restart(&[]).unwrap();
    cluster.wait_applied(dead, put.index, RETURN).await.unwrap();
}

/// A member's state is damaged: it finds out by what the others attest, and ends. The state is thrown away; keys, log and votes stay. It
/// comes back under the same raft id.
async fn a_state_that_is_gone(cluster: &Cluster) {
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    let victim = leader % 3 + 1;
    let node = cluster.node(victim).unwrap();
    restart(cluster, victim, &[("FAILPOINTS", "machine.damage=1*return(fail)")]).await;
    let demo = cluster.client("demo").unwrap();
    let deadline = Instant::now() + RETURN;
    while node.alive() {
        demo.put(NAMESPACE, "app/demo/filler", b"on", None).await.unwrap();
        assert!(Instant::now() < deadline, "node {victim} notices that its state is damaged:\n{}", tail(&node.log()));
    }
    let log = node.log();
    assert!(log.contains("t members attest another state") && log.contains("forget-state"), "{}", tail(&log));
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    let config = cluster.text(&format!("/members/{}/config", cluster.name(victim))).unwrap();
    let forgotten = cluster.cli("admin", &["member", "forget-state", "--config", config], b"").unwrap();
    assert!(forgotten.status.success(), "{}", String::from_utf8_lossy(&forgotten.stderr));
    node.restart(&[]).unwrap();
    let target = cluster.status(leader).await.unwrap().unwrap().applied;
    cluster.wait_applied(victim, target, RETURN).await.unwrap();
    let log = node.log();
    assert!(log.contains("the state is gone") && log.contains("the state is rebuilt"), "{}", tail(&log));
    let put = demo.put(NAMESPACE, "app/demo/rebuilt", b"again", None).await.unwrap();
    cluster.wait_applied(victim, put.index, RETURN).await.unwrap();
    for path in [("app/demo/lasting", &b"lasting"[..]), ("app/demo/rebuilt", b"again")] {
        opens("with the rebuilt member", &cluster.through("demo", &[victim, leader]).unwrap(), path.0, path.1).await;
    }
    // It attests the same state as the others: they would complain.
    let missing = cluster.admin().unwrap().effective(put.index, Duration::from_secs(20)).await;
    assert_eq!(missing, Vec::<MemberIndex>::new(), "every member attests index {}", put.index);
    for member in [1, 2, 3] {
        let status = cluster.status(member).await.unwrap().unwrap();
        for confirmation in status.confirmations {
            assert_eq!(confirmation.complaint, "", "{member} about {}", confirmation.member);
        }
    }
}

/// A rule is effective when all have it; with one down it says who is missing, on the command line too.
async fn a_rule_is_effective(cluster: &Cluster) {
    let principal = cluster.issue("app/gone").unwrap().principal().to_owned();
    let done = cluster.administer(Change::BlockIdentity { principal: principal.clone() }).await.unwrap();
    let admin = cluster.admin().unwrap();
    assert_eq!(admin.effective(done.index, Duration::from_secs(20)).await, Vec::<MemberIndex>::new());

    let down = cluster.wait_leader(ELECTION).await.unwrap() % 3 + 1;
    cluster.node(down).unwrap().kill().await.unwrap();
    cluster.wait_leader(ELECTION).await.unwrap();
    let unblocked = cluster.administer(Change::UnblockIdentity { principal: principal.clone() }).await.unwrap();
    let done = cluster.administer(Change::BlockIdentity { principal: principal.clone() }).await.unwrap();
    assert!(done.index > unblocked.index);
    assert_eq!(done.unconfirmed, [down], "the answer names the member that is down");
    assert_eq!(admin.effective(done.index, Duration::from_secs(3)).await, [down]);
    let (operator, passphrase) = (cluster.text("/operator").unwrap(), cluster.text("/passphrase_file").unwrap());
    let arguments = ["identity", "block", principal.as_str(), "--operator", operator, "--passphrase-file", passphrase];
    let waiting = [&arguments[..], &["--wait-effective", "2s"]].concat();
    let output = cluster.cli("admin", &waiting, b"").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let name = cluster.name(down).to_owned();
    assert!(!output.status.success() && said.contains("not_effective") && said.contains(&name), "{said}");
    let output = cluster.cli("admin", &arguments, b"").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains(&format!("not yet confirmed by {name}")), "{said}");
    let status = cluster.cli("admin", &["status"], b"").unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    assert!(said.contains(&format!("not yet confirmed by {name}")), "{said}");

    cluster.node(down).unwrap().restart(&[]).unwrap();
    let output = cluster.cli("admin", &[&arguments[..], &["--wait-effective", "45s"]].concat(), b"").unwrap();
    let (said, why) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let confirmed = said.contains("effective: every member has confirmed it");
    assert!(output.status.success() && confirmed, "with the member that was down: {said}{why}");
}

/// No liar stops the others, and none is believed: each is named.
async fn one_that_lies_and_one_that_is_silent(cluster: &Cluster) {
    let complaint = async |about: MemberIndex, word: &str| {
        let deadline = Instant::now() + RETURN;
        loop {
            let demo = cluster.client("demo").unwrap();
            let put = demo.put(NAMESPACE, "app/demo/filler", b"x", None).await.unwrap();
            let _ = cluster.admin().unwrap().effective(put.index, Duration::from_millis(500)).await;
            let mut said = Vec::new();
            for member in [1, 2, 3].into_iter().filter(|m| *m != about) {
                let status = cluster.status(member).await.unwrap();
                let about = status.and_then(|s| s.confirmations.into_iter().find(|c| c.member == u32::from(about)));
                said.push(about.map_or_else(String::new, |c| c.complaint));
            }
            if said.iter().all(|s| s.contains(word)) {
                return;
            }
            assert!(Instant::now() < deadline, "both others say of {about}: {word}; they say {said:?}");
        }
    };
    let liar = cluster.wait_leader(ELECTION).await.unwrap() % 3 + 1;
    for (point, word) in [("attest.lie", "another state"), ("attest.ahead", "no entry")] {
        restart(cluster, liar, &[("FAILPOINTS", &format!("{point}=return(fail)"))]).await;
        complaint(liar, word).await;
    }
    // With one that says nothing at all, nothing is effective, and everything else goes on; t still vouch for the state.
    restart(cluster, liar, &[("FAILPOINTS", "attest.silent=return(fail)")]).await;
    let demo = cluster.client("demo").unwrap();
    let put = demo.put(NAMESPACE, "app/demo/silent", b"said", None).await.unwrap();
    let others: Vec<MemberIndex> = [1, 2, 3].into_iter().filter(|m| *m != liar).collect();
    let missing = cluster.admin().unwrap().effective(put.index, Duration::from_secs(2)).await;
    assert_eq!(missing, [liar], "the silent one is named, and nobody else");
    compact_past(cluster, put.index, &others).await;
    opens("with a silent member", &demo, "app/demo/silent", b"said").await;
    restart(cluster, liar, &[]).await;
    assert_eq!(cluster.admin().unwrap().effective(put.index, Duration::from_secs(20)).await, Vec::<MemberIndex>::new());
}

/// A corrupt leader goes on allowing a blocked identity, and keeps one member from hearing of the block. Together they open for it, until
/// that member has heard: and not before is the block reported as effective.
async fn a_laggard_in_the_dark(cluster: &Cluster) {
    let victim = cluster.issue("app/victim").unwrap();
    let principal = victim.principal().to_owned();
    let scope = "action == Quorate::Action::\"secret:open\", resource == Quorate::Secret::\"default:app/demo/lasting\"";
    cluster.permit("victim", &victim, scope).await.unwrap();
    // Nobody sends the log to node 3, and node 1 is corrupt: whoever leads keeps it in the dark.
    restart(cluster, 2, &[("FAILPOINTS", "raft.dial.3=return(fail)")]).await;
    restart(cluster, 1, &[("FAILPOINTS", "raft.dial.3=return(fail);pipeline.corrupt=return(fail)")]).await;
    if cluster.wait_leader(ELECTION).await.unwrap() == 3 {
        let third = cluster.node(3).unwrap();
        third.stop().unwrap();
        let elected = cluster.wait_leader(ELECTION).await;
        third.cont().unwrap();
        assert_ne!(elected.unwrap(), 3, "a stopped node does not lead");
    }
    let through = |members: &[MemberIndex]| {
        let client = cluster.client_as(cluster.identity_file("app/victim").unwrap(), members).unwrap();
        client.with_timeout(Duration::from_secs(4))
    };
    let done = cluster.administer(Change::BlockIdentity { principal: principal.clone() }).await.unwrap();
    assert!(done.unconfirmed.contains(&3), "the answer names the one that cannot know: {:?}", done.unconfirmed);
    let admin = cluster.admin().unwrap();
    assert_eq!(
        admin.effective(done.index, Duration::from_secs(3)).await,
        [3],
        "not effective while node 3 is in the dark"
    );
    refused(
        "an honest member that knows",
        &NOT_OPENED,
        through(&[1, 2]).get(NAMESPACE, "app/demo/lasting", None).await,
    );
    opens("one corrupt, one in the dark: what `effective` is for", &through(&[1, 3]), "app/demo/lasting", b"lasting")
        .await;

    // The dark ends, on node 2's side; node 1 stays what it is. Ask, all the time, and open, all the time.
    restart(cluster, 2, &[]).await;
    let deadline = Instant::now() + Duration::from_secs(60);
    let mut before = 0;
    loop {
        let effective = admin.effective(done.index, Duration::from_millis(300)).await.is_empty();
        let opened = through(&[1, 3]).get(NAMESPACE, "app/demo/lasting", None).await;
        if effective {
            refused("after the block was reported as effective", &NOT_OPENED, opened);
            break;
        }
        before += u32::from(opened.is_ok());
        if cluster.wait_leader(ELECTION).await.unwrap() != 2 {
            // Only node 2 tells node 3. Node 1 steps aside when it is asked to end.
            restart(cluster, 1, &[("FAILPOINTS", "raft.dial.3=return(fail);pipeline.corrupt=return(fail)")]).await;
        }
        assert!(Instant::now() < deadline, "the block becomes effective when node 3 hears of it");
    }
    println!("{before} opens by a blocked identity went through before the block was effective, none after");
    for pair in [[1, 2], [1, 3], [2, 3]] {
        for _ in 0..5 {
            let opened = through(&pair).get(NAMESPACE, "app/demo/lasting", None).await;
            refused("afterwards", &NOT_OPENED, opened);
        }
    }
}

/// `quorate member record`, with its standard output and standard error.
fn record(cluster: &Cluster, how: &str, name: &str, more: &[&str]) -> (bool, String) {
    let (operator, passphrase) = (cluster.text("/operator").unwrap(), cluster.text("/passphrase_file").unwrap());
    let arguments = ["member", "record", how, name, "--reason", "the rack burned down", "--operator", operator];
    let output =
        cluster.cli("admin", &[&arguments[..], &["--passphrase-file", passphrase], more].concat(), b"").unwrap();
    let said = [output.stdout, output.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    (output.status.success(), said)
}

async fn absences(cluster: &Cluster, member: MemberIndex) -> Vec<(u32, String, bool)> {
    let status = cluster.status(member).await.unwrap().unwrap();
    status.absences.into_iter().map(|a| (a.member, a.how, a.heard)).collect()
}

/// Killed for good: nothing is effective, until administrators record it; nothing is waited for then, but by word of t members. It comes
/// back, and the record ends by itself.
async fn a_member_that_is_off_is_not_waited_for_until_it_is_back(cluster: &Cluster) {
    let admin = cluster.admin().unwrap();
    let down = cluster.wait_leader(ELECTION).await.unwrap() % 3 + 1;
    let (name, node) = (cluster.name(down).to_owned(), cluster.node(down).unwrap());
    let rest: Vec<MemberIndex> = [1, 2, 3].into_iter().filter(|m| *m != down).collect();
    node.kill().await.unwrap();
    cluster.wait_leader(ELECTION).await.unwrap();
    let demo = cluster.client("demo").unwrap();
    let put = demo.put(NAMESPACE, "app/demo/leaked", b"leaked", None).await.unwrap();
    let destroy = ["destroy", "default:app/demo/leaked", "--number", "1", "--wait-effective"];
    let arguments = |patience: &'static str| [&destroy[..], &[patience]].concat();
    let output = cluster.cli("admin", &arguments("2s"), b"").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let named = said.contains("not_effective") && said.contains(&name);
    assert!(!output.status.success() && named, "not effective while {name} is away, and it is named: {said}");

    let (done, said) = record(cluster, "--powered-off", "nobody", &[]);
    assert!(!done && said.contains("not_found"), "a member that there is not: {said}");
    let (done, said) = record(cluster, "--powered-off", &name, &["--wait-effective", "20s"]);
    let expected = format!("every member has confirmed it but {name}, recorded as gone");
    assert!(done && said.contains(&expected), "the record itself is effective without {name}: {said}");
    let reached = admin.effect(put.index, Duration::from_secs(20)).await;
    assert_eq!((reached.missing, reached.gone.into_keys().collect::<Vec<_>>()), (Vec::new(), vec![down]));
    let via = cluster.name(rest[0]).to_owned();
    let output = cluster.cli("admin", &[&arguments("20s")[..], &["--via", &via]].concat(), b"").unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && said.contains(&expected), "through one member too: {said}");
    for member in &rest {
        assert_eq!(absences(cluster, *member).await, [(u32::from(down), "powered off".to_owned(), false)]);
    }
    let status = cluster.cli("admin", &["status"], b"").unwrap();
    let said = String::from_utf8_lossy(&status.stdout).into_owned();
    let line = format!("{name} is recorded as powered off");
    assert!(said.contains(&line) && said.contains("the rack burned down"), "status shows who, and why: {said}");
    let (done, said) = record(cluster, "--destroyed", &via, &[]);
    assert!(!done && said.contains("fewer members would be left"), "not one more than may be corrupt: {said}");

    node.restart(&[]).unwrap();
    let deadline = Instant::now() + RETURN;
    while !absences(cluster, rest[0]).await.is_empty() {
        assert!(Instant::now() < deadline, "{name} is back, and its record ends by itself");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let put = demo.put(NAMESPACE, "app/demo/back", b"back", None).await.unwrap();
    let reached = admin.effect(put.index, Duration::from_secs(20)).await;
    assert_eq!((reached.missing, reached.gone.len()), (Vec::new(), 0), "{name} confirms by itself again");
}

/// Recorded as destroyed, and it comes back: the others refuse it and say so, and it ends. Changes are effective without it.
async fn a_member_that_is_destroyed_counts_for_nothing(cluster: &Cluster) {
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    let lost = leader % 3 + 1;
    let (name, node) = (cluster.name(lost).to_owned(), cluster.node(lost).unwrap());
    let rest: Vec<MemberIndex> = [1, 2, 3].into_iter().filter(|m| *m != lost).collect();
    node.kill().await.unwrap();
    cluster.wait_leader(ELECTION).await.unwrap();
    let (done, said) = record(cluster, "--destroyed", &name, &["--wait-effective", "20s"]);
    assert!(done && said.contains(&format!("but {name}, recorded as gone")), "{said}");
    let (done, said) = record(cluster, "--present", &name, &[]);
    assert!(!done && said.contains("for ever"), "nobody takes that back: {said}");

    node.restart(&[]).unwrap();
    let deadline = Instant::now() + RETURN;
    while node.alive() {
        assert!(Instant::now() < deadline, "{name} learns that it is destroyed, and ends:\n{}", tail(&node.log()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let log = node.log();
    assert!(log.contains("member_destroyed") && log.contains("recorded this member as destroyed"), "{}", tail(&log));
    for member in &rest {
        let status = cluster.status(*member).await.unwrap().unwrap();
        let alarms: Vec<String> = status.alarms.into_iter().map(|alarm| alarm.code).collect();
        assert!(alarms.contains(&"destroyed_member_there".to_owned()), "{member} raises the alarm: {alarms:?}");
    }
    let pair = cluster.through("demo", &[lost, rest[0]]).unwrap().with_timeout(Duration::from_secs(4));
    refused("with a destroyed member", &NOT_OPENED, pair.get(NAMESPACE, "app/demo/lasting", None).await);
    let demo = cluster.client("demo").unwrap();
    let put = demo.put(NAMESPACE, "app/demo/after", b"after", None).await.unwrap();
    opens("without the destroyed member", &cluster.through("demo", &rest).unwrap(), "app/demo/after", b"after").await;
    assert_eq!(cluster.admin().unwrap().effective(put.index, Duration::from_secs(20)).await, Vec::<MemberIndex>::new());
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}
