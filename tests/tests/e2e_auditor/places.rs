//! The churn of `churn.rs` at several targets of one cluster, each with users and an auditor of its own.

use crate::kills::kill;
use crate::servers::Server;
use crate::users::{Book, Users, purge, take};
use quorate_api::client::{Client, Credential};
use quorate_state::lease::{Selector, principal_prefix};
use quorate_tests::auditor::{Audit, Auditor};
use quorate_tests::random::Random;
use quorate_tests::{Cluster, now};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;

/// How long it lasts, in seconds, when nobody says.
const SECONDS: u64 = 45;
/// How long a request may wait for a cluster without a leader.
const REQUEST: Duration = Duration::from_secs(8);
/// How long everything may take to end.
const SETTLE: Duration = Duration::from_secs(60);

/// One of the targets: what is done there, and who watches.
pub(crate) struct Place {
    target: &'static str,
    bounds: [u64; 2],
    book: Arc<Book>,
    auditor: Auditor,
    tasks: Vec<JoinHandle<()>>,
}

/// What the auditor of a target has to have seen: floors that a slow machine reaches too, in the time that nobody asked to be longer.
pub(crate) struct Least {
    pub(crate) leases: u64,
    /// None where requests are let in one by one.
    pub(crate) sessions: u64,
    /// The longest time without a look at the target, in milliseconds.
    pub(crate) pause: u64,
    /// How long after its end a lease may live, in milliseconds, and how long with the loss of a leader in between.
    pub(crate) bounds: [u64; 2],
}

/// What is the same everywhere.
pub(crate) struct Churn<'a> {
    cluster: &'a Cluster,
    /// Identities that may have leases of every role.
    people: Vec<String>,
    seed: u64,
    seconds: u64,
}

impl<'a> Churn<'a> {
    pub(crate) async fn of(cluster: &'a Cluster) -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let seed = number("QUORATE_SEED").unwrap_or_else(now);
        let seconds = number("QUORATE_MINUTES").map_or(SECONDS, |minutes| minutes * 60);
        println!("QUORATE_SEED={seed}, for {seconds} s");
        Self { cluster, people: people(cluster).await, seed, seconds }
    }

    /// Has everybody take leases at a target, and somebody end all of them now and then, and an auditor look.
    pub(crate) fn begin<U: Users + 'static>(
        &self,
        target: &'static str,
        role: &str,
        place: &[String],
        least: &Least,
    ) -> Place {
        let floor = |each: u64| (each * self.seconds / SECONDS).to_string();
        let [leases, sessions, ended, looks, kills, failovers] = [least.leases, least.sessions, 3, 35, 2, 1].map(floor);
        let pause = least.pause.to_string();
        let bounds = least.bounds.map(|bound| bound.to_string());
        let arguments = [
            ["--bound", &bounds[0]],
            ["--failover-bound", &bounds[1]],
            ["--leases", &leases],
            ["--sessions", &sessions],
            ["--expiries", &ended],
            ["--revocations", &ended],
            ["--looks", &looks],
            ["--kills", &kills],
            ["--failovers", &failovers],
            ["--longest-pause", &pause],
            ["--longest-silence", "20000"],
        ];
        let auditor = Auditor::begin_at(self.cluster, target, place, arguments.as_flattened()).unwrap();
        let book = Arc::new(Book::default());
        // Nobody makes the same choices as another, here or at another target.
        let random = |n: usize| Random(self.seed ^ hash(target) ^ (n as u64 + 1));
        let mut tasks = Vec::new();
        for (n, who) in self.people.iter().enumerate() {
            let user = take::<U>(self.client(who), role.to_owned(), Arc::clone(&book), random(n));
            tasks.push(tokio::spawn(user));
        }
        let admin = self.cluster.admin().unwrap().with_timeout(REQUEST);
        let which = vec![Selector::Role(role.to_owned()), Selector::Target(target.to_owned())];
        tasks.push(tokio::spawn(purge(admin, which, Arc::clone(&book), random(self.people.len()))));
        Place { target, bounds: least.bounds, book, auditor, tasks }
    }

    /// Kills members for as long as all of this lasts, and has nobody at these places take leases after that.
    pub(crate) async fn kill(&self, places: &[&Place]) -> u64 {
        let kills = kill(self.cluster, Duration::from_secs(self.seconds), &mut Random(self.seed)).await;
        places.iter().for_each(|place| place.book.stop.store(true, Ordering::Relaxed));
        println!("seed {}: {kills:?}", self.seed);
        self.seed
    }

    fn client(&self, who: &str) -> Client {
        let identity = self.cluster.identity_file(who).unwrap();
        self.cluster.client_as(identity, &[1, 2, 3]).unwrap().with_timeout(REQUEST)
    }
}

/// A target at which nobody does anything any more.
pub(crate) struct Ended {
    target: &'static str,
    bounds: [u64; 2],
    book: Arc<Book>,
    auditor: Auditor,
}

impl Place {
    /// Waits for everybody, and for the sessions that they have kept open.
    pub(crate) async fn ends(self, seed: u64) -> Ended {
        let Self { target, bounds, book, auditor, tasks } = self;
        for task in tasks {
            let ended = tokio::time::timeout(SETTLE, task).await;
            ended
                .unwrap_or_else(|_| {
                    panic!("seed {seed}: sessions at {target} are open {SETTLE:?} after the last lease")
                })
                .unwrap();
        }
        Ended { target, bounds, book, auditor }
    }
}

impl Ended {
    /// What the auditor says is right; all credentials that there were.
    pub(crate) async fn judged<U: Users>(self, seed: u64) -> Vec<Credential> {
        let Self { target, bounds, book, auditor } = self;
        let audit: Audit = auditor.end().await.unwrap();
        let count = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let opened: Vec<usize> = book.opened.iter().take(usize::try_from(U::MANNERS).unwrap()).map(count).collect();
        println!(
            "seed {seed}, {target}: {} leases issued, {} renewed, {} revoked by id, sessions by manner {opened:?}, \
             {} requests failed\n{}",
            count(&book.issued),
            count(&book.renewed),
            count(&book.revoked),
            count(&book.failed),
            audit.text,
        );
        assert_eq!(audit.status, Some(0), "seed {seed}: the auditor at {target} is content: {}", audit.text);
        for key in ["/orphans", "/survivors", "/ghosts", "/early_deaths"] {
            let found = audit.report.pointer(key).and_then(serde_json::Value::as_u64);
            assert_eq!(found, Some(0), "seed {seed}, {target}: {key}");
        }
        let overrun = ["/worst_overrun/calm/ms", "/worst_overrun/failover/ms"].map(|key| audit.number(key));
        assert!(overrun[0] <= bounds[0] && overrun[1] <= bounds[1], "seed {seed}, {target}: {overrun:?}");
        let missing = opened.iter().filter(|opened| **opened == 0).count();
        assert!(
            missing <= 2 && missing < opened.len(),
            "seed {seed}: users at {target} of nearly every manner: {opened:?}"
        );
        std::mem::take(&mut *book.credentials.lock().unwrap())
    }
}

/// Two callers who may have leases of every role.
async fn people(cluster: &Cluster) -> Vec<String> {
    let scope = "action in [Quorate::Action::\"lease:issue\", Quorate::Action::\"role:read\"], resource";
    let names = ["churn/one", "churn/two"];
    for name in names {
        let identity = cluster.issue(name).unwrap();
        cluster.permit(&name.replace('/', "-"), &identity, scope).await.unwrap();
    }
    names.map(str::to_owned).to_vec()
}

/// Ends what there is, and waits for the vault's word that it has ended, and until nothing is alive at a server. What can do nothing any more may
/// wait to be cleaned up. Each new leader looks anew for as long as an API server may remember whom it let in, so that some leases are called
/// revoked only now.
pub(crate) async fn settle<S: Server>(cluster: &Cluster, server: &S, seed: u64) {
    let (admin, all) = (cluster.admin().unwrap(), Selector::Target(S::TARGET.to_owned()));
    let index = admin.revoke_all(all.clone()).await.unwrap();
    let ended = admin.wait_all_revoked(&all, index, SETTLE).await;
    ended.unwrap_or_else(|why| panic!("seed {seed}: the leases at {}: {why}", S::TARGET));
    let prefix = principal_prefix(&cluster.profile().cluster, S::TARGET);
    let deadline = Instant::now() + SETTLE;
    loop {
        let alive = server.alive(&prefix).await;
        if alive.is_empty() {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "seed {seed}: every lease has ended, and alive at {} is {alive:?}",
            S::TARGET
        );
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// A number of a text.
fn hash(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}
