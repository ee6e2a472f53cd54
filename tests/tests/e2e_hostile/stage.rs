//! What each case asserts besides its own code.

use futures::FutureExt as _;
use quorate_api::client::{Client, Identity};
use quorate_api::status::{Failure, TABLE};
use quorate_state::ids::MemberIndex;
use quorate_tests::Cluster;
use quorate_tests::hostile::Wire;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What there is before anybody is hostile.
pub(crate) async fn prepare(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    demo.put("default", "app/demo/lasting", b"lasting", Some(0)).await.unwrap();
    demo.put("default", "app/demo/mebibyte", &vec![7; 1 << 20], Some(0)).await.unwrap();
    demo.put("default", "vault/demo/lasting", b"the customer's", Some(0)).await.unwrap();
}

/// One node that is sent hostile input, and everything that must be as it was afterwards.
pub(crate) struct Stage<'a> {
    pub(crate) cluster: &'a Cluster,
    pub(crate) node: MemberIndex,
    pub(crate) demo: Identity,
    name: &'static str,
    facts: String,
    pid: u32,
    pair: Client,
    begun: Instant,
    cases: std::cell::Cell<u32>,
}

impl<'a> Stage<'a> {
    pub(crate) async fn new(cluster: &'a Cluster, name: &'static str, node: MemberIndex) -> Self {
        let other = if node == 1 { 2 } else { 1 };
        Self {
            cluster,
            node,
            demo: cluster.identity("demo").unwrap(),
            name,
            facts: cluster.facts().await.unwrap(),
            pid: cluster.node(node).unwrap().pid(),
            pair: cluster.through("demo", &[node, other]).unwrap().with_timeout(Duration::from_secs(10)),
            begun: Instant::now(),
            cases: std::cell::Cell::new(0),
        }
    }

    /// A connection of `app/demo` to the node.
    pub(crate) fn wire(&self) -> Wire {
        self.cluster.wire(self.node, self.demo.tls()).unwrap()
    }

    /// The case ended with this code and a message that has these words, and the node still answers.
    pub(crate) async fn refused<T>(&self, what: &str, code: &str, words: &str, result: Result<T, Failure>) {
        self.refused_as(what, &[code], words, result).await;
    }

    /// The same where which of several codes depends on how far the input gets.
    pub(crate) async fn refused_as<T>(&self, what: &str, codes: &[&str], words: &str, result: Result<T, Failure>) {
        let what = format!("{}: {what}", self.name);
        let failure = match result {
            Ok(_) => return complain(format!("{what}: expected {codes:?}, and it went through")),
            Err(failure) => failure,
        };
        let told = [
            (codes.contains(&failure.code), format!("expected {codes:?}, got {}", failure.code)),
            (TABLE.iter().any(|row| row.code == failure.code), format!("{} is in docs/errors.md", failure.code)),
            (failure.message.contains(words), format!("the message says {words:?}")),
            (failure.message.len() > 20, "the message says what happened and what to do".to_owned()),
        ];
        for (_, expected) in told.iter().filter(|(true_so, _)| !true_so) {
            complain(format!("{what}: {expected}: {failure}"));
        }
        self.well(&what).await;
    }

    /// The node is the process that it was, and gives its part of a good answer.
    pub(crate) async fn well(&self, what: &str) {
        self.cases.set(self.cases.get() + 1);
        let node = self.cluster.node(self.node).unwrap();
        assert!(node.alive() && node.pid() == self.pid, "{what}: the node lives:\n{}", tail(&node.log()));
        let opened = self.pair.get("default", "app/demo/lasting", None).await;
        let opened = opened.unwrap_or_else(|why| panic!("{what}: the node answers a good request afterwards: {why}"));
        assert_eq!(opened.plaintext.expose(), b"lasting", "{what}: a good request has its answer afterwards");
    }

    /// What has changed up to here is the test's own doing.
    pub(crate) async fn forget(&mut self) {
        self.facts = self.cluster.facts().await.unwrap();
    }

    /// Nothing has changed, the node takes a write, and every process is the one it was.
    pub(crate) async fn end(self) {
        let name = self.name;
        let facts = self.cluster.facts().await.unwrap();
        if facts != self.facts {
            complain(format!("{name}: nothing has changed: before\n{}\nafter\n{facts}", self.facts));
        }
        let one = self.cluster.through("demo", &[self.node]).unwrap();
        let put = one.put("default", "app/demo/well", name.as_bytes(), None).await;
        put.unwrap_or_else(|why| panic!("{name}: node {} takes a write afterwards: {why}", self.node));
        for process in self.cluster.processes() {
            assert!(process.alive(), "{name}: {} lives:\n{}", process.name(), tail(&process.log()));
            let log = process.log();
            assert!(!log.contains("panicked at"), "{name}: {} has not panicked:\n{}", process.name(), tail(&log));
        }
        eprintln!("{name}: {} cases in {:?}", self.cases.get(), self.begun.elapsed());
    }
}

/// What was not as expected, of every case: one run tells all.
static COMPLAINTS: Mutex<Vec<String>> = Mutex::new(Vec::new());

fn complain(what: String) {
    eprintln!("FAILED: {what}");
    COMPLAINTS.lock().unwrap().push(what);
}

/// Runs one section to its end, whatever becomes of it.
pub(crate) async fn run(name: &str, section: impl Future<Output = ()>) {
    if let Err(why) = AssertUnwindSafe(section).catch_unwind().await {
        let why = why.downcast_ref::<String>().cloned().unwrap_or_else(|| "it panicked".to_owned());
        complain(format!("section {name}: {why}"));
    }
}

/// Fails the test if anything was not as expected.
pub(crate) fn judge() {
    let complaints = COMPLAINTS.lock().unwrap();
    assert!(complaints.is_empty(), "{} expectations failed:\n{}", complaints.len(), complaints.join("\n"));
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
