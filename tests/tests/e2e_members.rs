//! Clusters of every size: what f members down leave standing, and restarts that no client notices.
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
use quorate_state::ids::MemberIndex;
use quorate_tests::{Cluster, Options, database};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

const NAMESPACE: &str = "default";
/// How long an election may take on a busy machine.
const ELECTION: Duration = Duration::from_secs(30);
/// How long a node may take to come back.
const RETURN: Duration = Duration::from_secs(40);
/// The longest that a client may have to wait while members are restarted one after the other. Far more than it is on a machine
/// of its own, and far less than the 30 s in which the SDK gives up.
const PAUSE: Duration = Duration::from_secs(15);

#[tokio::test]
async fn three_members() {
    let cluster = start(3).await;
    stopped_leader(&cluster).await;
    rolling_restart(&cluster).await;
    bears_f_down(&cluster, true).await;
}

#[tokio::test]
async fn five_members() {
    let cluster = start(5).await;
    bears_f_down(&cluster, false).await;
}

#[tokio::test]
async fn seven_members() {
    let cluster = start(7).await;
    bears_f_down(&cluster, false).await;
}

#[tokio::test]
async fn nine_members() {
    let cluster = start(9).await;
    bears_f_down(&cluster, false).await;
}

async fn start(nodes: u8) -> Cluster {
    let begin = Instant::now();
    let cluster = Cluster::start(&Options { nodes, ..Options::default() }).await.unwrap();
    println!("{nodes} members: ready after {:?}", begin.elapsed());
    let t = usize::from(nodes).div_ceil(2);
    assert_eq!(cluster.profile().members.len(), usize::from(nodes), "init made as many as it was told");
    assert_eq!(usize::from(cluster.profile().threshold), t, "the threshold of {nodes} is their majority");
    cluster
}

fn indexes(cluster: &Cluster) -> Vec<MemberIndex> {
    cluster.profile().members.iter().map(|m| m.index).collect()
}

fn refused<T>(what: &str, expected: &[&str], result: Result<T, Failure>) -> Failure {
    let Err(failure) = result else { panic!("{what}: expected {expected:?}, and it went through") };
    assert!(expected.contains(&failure.code), "{what}: expected {expected:?}, got: {failure}");
    failure
}

async fn opens(what: &str, client: &Client, path: &str, expected: &[u8]) {
    let opened = client.get(NAMESPACE, path, None).await.unwrap_or_else(|why| panic!("{what}: {path} opens: {why}"));
    assert_eq!(opened.plaintext.expose(), expected, "{what}: {path} holds what was put");
}

/// f members are killed, the leader among them: everything goes on. One more, and nothing does, with a code that says why. They come
/// back, and what was written without them is theirs too.
async fn bears_f_down(cluster: &Cluster, lease: bool) {
    let demo = cluster.client("demo").unwrap();
    let (members, t) = (indexes(cluster), usize::from(cluster.profile().threshold));
    let (n, f) = (members.len(), members.len() - t);
    demo.put(NAMESPACE, "app/demo/before", b"before", None).await.unwrap();

    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    let mut down: Vec<MemberIndex> = vec![leader];
    down.extend(members.iter().copied().filter(|m| *m != leader).take(f - 1));
    let rest: Vec<MemberIndex> = members.iter().copied().filter(|m| !down.contains(m)).collect();
    for member in &down {
        cluster.node(*member).unwrap().kill().await.unwrap();
    }
    let begin = Instant::now();
    opens(&format!("{f} of {n} down"), &demo, "app/demo/before", b"before").await;
    let opened = begin.elapsed();
    let put = demo.put(NAMESPACE, "app/demo/without", b"without them", None).await;
    let put = put.unwrap_or_else(|why| panic!("{f} of {n} down, the leader among them: a write goes through: {why}"));
    println!("{n} members, {f} killed with the leader: opened after {opened:?}, written after {:?}", begin.elapsed());
    opens(&format!("{f} of {n} down"), &demo, "app/demo/without", b"without them").await;
    if lease {
        let credential = demo.issue_lease("reader", Some(60_000)).await;
        let credential = credential.unwrap_or_else(|why| panic!("{f} of {n} down: a lease is made: {why}"));
        let login = database::login_with(&credential).await.expect("and its login works");
        login.simple_query("SELECT 1").await.expect("and may ask");
        demo.revoke(credential.lease).await.expect("and it can be revoked");
        cluster.admin().unwrap().wait_revoked(credential.lease, Duration::from_secs(20)).await.expect("and ends");
    }

    // One more than a cluster bears.
    let last = rest[0];
    cluster.node(last).unwrap().kill().await.unwrap();
    let impatient = cluster.client("demo").unwrap().with_timeout(Duration::from_secs(2));
    let what = format!("{} of {n} down", f + 1);
    let failure = refused(&what, &["not_enough_members"], impatient.get(NAMESPACE, "app/demo/before", None).await);
    assert!(
        down.iter().any(|m| failure.message.contains(cluster.name(*m))),
        "{what}: the message names members that are down: {failure}"
    );
    let nothing = ["no_leader", "not_enough_members", "unreachable", "deadline"];
    refused(&what, &nothing, impatient.put(NAMESPACE, "app/demo/too-few", b"x", Some(0)).await);

    for member in down.iter().chain([&last]) {
        cluster.node(*member).unwrap().restart(&[]).unwrap();
    }
    for member in down.iter().chain([&last]) {
        cluster.wait_applied(*member, put.index, RETURN).await.unwrap();
    }
    cluster.wait_leader(ELECTION).await.unwrap();
    // By those that were down, and as few others as it takes.
    let mut back = down.clone();
    back.extend(rest.iter().copied().take(t.saturating_sub(f)));
    opens(
        &format!("{n} members, those that were down are back"),
        &cluster.through("demo", &back).unwrap(),
        "app/demo/without",
        b"without them",
    )
    .await;
    let demo = cluster.client("demo").unwrap();
    demo.put(NAMESPACE, "app/demo/too-few", b"y", Some(0)).await.expect("nothing was written by too few");
}

/// A client that knows all members, puts and gets one thing after the other, and counts.
struct Busy {
    stop: Arc<AtomicBool>,
    task: JoinHandle<Seen>,
}

#[derive(Default)]
struct Seen {
    done: u64,
    longest: Duration,
    errors: Vec<String>,
}

impl Busy {
    fn begin(client: Client, path: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let task = tokio::spawn(async move {
            let mut seen = Seen::default();
            while !until.load(Ordering::Acquire) {
                let value = seen.done.to_string();
                let begin = Instant::now();
                let put = client.put(NAMESPACE, path, value.as_bytes(), Some(seen.done)).await;
                let wrote = begin.elapsed();
                let got = client.get(NAMESPACE, path, None).await;
                seen.longest = seen.longest.max(wrote).max(begin.elapsed() - wrote);
                seen.done += 1;
                match put {
                    Ok(put) if put.number == seen.done => {}
                    Ok(put) => seen.errors.push(format!("put {value}: it became version {}", put.number)),
                    Err(why) => seen.errors.push(format!("put {value}, after {wrote:?}: {why}")),
                }
                match got {
                    Ok(got) if got.plaintext.expose() == value.as_bytes() => {}
                    Ok(got) => seen.errors.push(format!("get {value}: got {}", got.number)),
                    Err(why) => seen.errors.push(format!("get {value}: {why}")),
                }
                if seen.errors.len() > 3 {
                    break;
                }
            }
            seen
        });
        Self { stop, task }
    }

    async fn end(self) -> Seen {
        self.stop.store(true, Ordering::Release);
        self.task.await.unwrap()
    }
}

/// Every node is asked to end and started again, one after the other, the leader last: a client that works all the while sees not one
/// error, and every leader has a successor before it goes.
async fn rolling_restart(cluster: &Cluster) {
    let busy = Busy::begin(cluster.client("demo").unwrap(), "app/demo/rolling");
    let first = cluster.wait_leader(ELECTION).await.unwrap();
    let mut order: Vec<MemberIndex> = indexes(cluster).into_iter().filter(|m| *m != first).collect();
    order.push(first);
    let mut handed_over = 0;
    for member in order {
        let (led, node) = (cluster.wait_leader(ELECTION).await.unwrap() == member, cluster.node(member).unwrap());
        let said = node.log().len();
        let begin = Instant::now();
        node.terminate().await.unwrap();
        let ended = begin.elapsed();
        let log = node.log()[said..].to_owned();
        if led {
            handed_over += 1;
            assert!(
                log.contains("leadership handed over"),
                "{} led, and hands over before it goes:\n{log}",
                node.name()
            );
            let next = cluster.wait_leader(ELECTION).await.unwrap();
            let named = format!("to=\"{}\"", cluster.name(next));
            assert!(log.contains(&named), "the successor is {}, which it has seen lead:\n{log}", cluster.name(next));
        }
        node.restart(&[]).unwrap();
        let applied = cluster.status(if member == 1 { 2 } else { 1 }).await.unwrap().map_or(1, |s| s.applied);
        cluster.wait_applied(member, applied, RETURN).await.unwrap();
        println!("restart of {}: ended after {ended:?}, back after {:?}", node.name(), begin.elapsed());
    }
    assert!(handed_over > 0, "the leader was among those that were restarted");
    let seen = busy.end().await;
    println!("rolling restart: {} puts and gets, the longest took {:?}", seen.done, seen.longest);
    assert!(seen.errors.is_empty(), "the client sees no error while every node is restarted: {:#?}", seen.errors);
    assert!(seen.done >= 10, "the client was at work: {} puts and gets", seen.done);
    assert!(seen.longest < PAUSE, "and never waits long: {:?}", seen.longest);
}

/// A leader that answers nothing and keeps its connections: a call to it alone would wait for a time-out.
async fn stopped_leader(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    let leader = cluster.wait_leader(ELECTION).await.unwrap();
    demo.put(NAMESPACE, "app/demo/stopped", b"0", None).await.unwrap();
    let node = cluster.node(leader).unwrap();
    node.stop().unwrap();
    let mut took = Vec::new();
    for n in 1..=4 {
        let begin = Instant::now();
        let put = demo.put(NAMESPACE, "app/demo/stopped", n.to_string().as_bytes(), Some(n)).await;
        took.push(begin.elapsed());
        if put.is_err() {
            node.cont().unwrap();
        }
        put.unwrap_or_else(|why| panic!("write {n} while the leader is stopped: {why}"));
    }
    node.cont().unwrap();
    println!("leader stopped: writes took {took:?}");
    // The first waits for an election. From then on the client knows whom not to wait for.
    let later = took.iter().skip(1).max().unwrap();
    assert!(*later < Duration::from_secs(3), "with a leader again, no write waits for the stopped one: {took:?}");
    opens("after the stopped leader is back", &demo, "app/demo/stopped", b"4").await;
}
