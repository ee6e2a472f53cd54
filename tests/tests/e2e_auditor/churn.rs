//! Two minutes of leases that are issued, renewed, revoked and used, some of them by users who resist, while nodes are killed and come
//! back: `QUORATE_MINUTES` makes it longer (`make churn MINUTES=30`), `QUORATE_SEED` repeats a run's choices.

use crate::kills::kill;
use crate::users::{Book, Postgres, purge, take};
use quorate_api::client::{Form, Role};
use quorate_state::lease::Selector;
use quorate_tests::auditor::Auditor;
use quorate_tests::database::login_with;
use quorate_tests::footprint::TARGET;
use quorate_tests::random::Random;
use quorate_tests::{Cluster, Options, now};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// How long after its end a credential may live, in milliseconds, and how long with the loss of a leader in between.
const BOUND: &str = "5000";
const FAILOVER_BOUND: &str = "7000";
/// The roles of the users; their logins' own time at the database is over soon after the longest lease.
const ROLES: [&str; 2] = ["churn-a", "churn-b"];
/// How long a request may wait for a cluster without a leader.
const REQUEST: Duration = Duration::from_secs(8);
/// How long everything may take to end; and how long until the next search of the target has cleaned up.
const SETTLE: Duration = Duration::from_secs(25);
const CLEAN: Duration = Duration::from_secs(90);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_finds_nothing_wrong() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let (seed, minutes) = (number("QUORATE_SEED").unwrap_or_else(now), number("QUORATE_MINUTES").unwrap_or(2));
    println!("QUORATE_SEED={seed} QUORATE_MINUTES={minutes}");
    let cluster = Cluster::start(&Options { rotate: true, ..Options::default() }).await.unwrap();
    let (users, purges) = people(&cluster).await;
    let book = Arc::new(Book::default());
    // Floors that a slow machine reaches too.
    let floor = |each: u64| (each * minutes).to_string();
    let [leases, sessions, ended, looks, kills, failovers] = [60, 80, 15, 50, 4, 2].map(floor);
    let arguments = [
        ["--bound", BOUND],
        ["--failover-bound", FAILOVER_BOUND],
        ["--leases", &leases],
        ["--sessions", &sessions],
        ["--expiries", &ended],
        ["--revocations", &ended],
        ["--looks", &looks],
        ["--kills", &kills],
        ["--failovers", &failovers],
        ["--longest-pause", "2000"],
        ["--longest-silence", "20000"],
    ];
    let auditor = Auditor::begin(&cluster, arguments.as_flattened()).unwrap();
    let mut tasks = Vec::new();
    for (n, (client, role)) in users.into_iter().enumerate() {
        tasks.push(tokio::spawn(take::<Postgres>(client, role, Arc::clone(&book), Random(seed ^ (n as u64 + 1)))));
    }
    let admin = cluster.admin().unwrap().with_timeout(REQUEST);
    tasks.push(tokio::spawn(purge(admin, purges, Arc::clone(&book), Random(!seed))));

    let kills = kill(&cluster, Duration::from_secs(60 * minutes), &mut Random(seed)).await;
    book.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        let ended = tokio::time::timeout(SETTLE, task).await;
        ended.unwrap_or_else(|_| panic!("seed {seed}: sessions are open {SETTLE:?} after the last lease")).unwrap();
    }
    let left = settle(&cluster).await;
    let audit = auditor.end().await.unwrap();

    let count = |n: &std::sync::atomic::AtomicUsize| n.load(Ordering::Relaxed);
    println!(
        "seed {seed}: {} leaders and {} others killed, {} leases issued, {} renewed, {} revoked by id, sessions by manner {:?}, \
         {} requests failed\n{}",
        kills.leaders,
        kills.others,
        count(&book.issued),
        count(&book.renewed),
        count(&book.revoked),
        book.opened.iter().map(count).collect::<Vec<_>>(),
        count(&book.failed),
        audit.text,
    );
    assert_eq!(audit.status, Some(0), "seed {seed}: the auditor is content: {}", audit.text);
    for key in ["/orphans", "/survivors", "/ghosts", "/early_deaths"] {
        assert_eq!(audit.report.pointer(key).and_then(serde_json::Value::as_u64), Some(0), "seed {seed}: {key}");
    }
    assert!(audit.number("/worst_overrun/calm/ms") <= 5_000 && audit.number("/worst_overrun/failover/ms") <= 7_000);
    assert!(left.is_none(), "seed {seed}: every lease has ended, and this is left at the database: {left:?}");
    let targets = cluster.admin().unwrap().roles().await.unwrap().targets;
    let target = targets.iter().find(|t| t.name == TARGET).expect("the target");
    assert!(target.rotated_index > 0, "seed {seed}: the executors' password was rotated meanwhile: {target:?}");
    assert!(book.opened.iter().all(|n| count(n) > 0), "seed {seed}: users of every manner: {:?}", book.opened);
    let credentials = std::mem::take(&mut *book.credentials.lock().unwrap());
    for credential in &credentials {
        assert!(login_with(credential).await.is_err(), "seed {seed}: {} is refused", credential.username);
    }
}

/// Four users of two roles and three identities, and by what their leases are ended.
async fn people(cluster: &Cluster) -> (Vec<(quorate_api::client::Client, String)>, Vec<Selector>) {
    let admin = cluster.admin().unwrap();
    for name in ROLES {
        let role = Role {
            target: TARGET.to_owned(),
            groups: vec![cluster.text("/postgres/group").unwrap().to_owned()],
            default_ttl: 5_000,
            max_ttl: 20_000,
            connection_limit: 3,
            max_leases: 200,
            form: Form::Scram { iterations: 4_096 },
            // The auditor knows nothing of how logins are named but what they begin with.
            username: "{{identity}}_{{role:4}}".to_owned(),
            ..Role::default()
        };
        admin.put_role(name, &role).await.unwrap();
    }
    // Before anybody watches: a proof makes logins that are no leases, and a role asks for one.
    admin.prove_target(TARGET, Duration::from_secs(60)).await.unwrap();
    let scope = "action in [Quorate::Action::\"lease:issue\", Quorate::Action::\"role:read\"], resource";
    let mut users = Vec::new();
    for path in ["churn/one", "churn/two", "other/three"] {
        let identity = cluster.issue(path).unwrap();
        cluster.permit(&path.replace('/', "-"), &identity, scope).await.unwrap();
        for role in ROLES.iter().take(if path == "other/three" { 1 } else { 2 }) {
            let identity = cluster.identity_file(path).unwrap();
            let client = cluster.client_as(identity, &[1, 2, 3]).unwrap().with_timeout(REQUEST);
            users.push((client, (*role).to_owned()));
        }
    }
    let domain = cluster.text("/trust_domain").unwrap();
    let purges = vec![
        Selector::Role(ROLES[0].to_owned()),
        Selector::Identity(format!("spiffe://{domain}/churn/two")),
        Selector::Below(format!("spiffe://{domain}/churn")),
        Selector::Target(TARGET.to_owned()),
    ];
    (users, purges)
}

/// Waits until nothing is left at the database; what is, otherwise. Roles that can do nothing any more wait for the next search.
async fn settle(cluster: &Cluster) -> Option<quorate_tests::footprint::Footprint> {
    let superuser = cluster.superuser().await.unwrap();
    let begin = Instant::now();
    loop {
        let seen = cluster.footprint(&superuser).await.unwrap();
        let alive = !seen.logins.is_empty() || !seen.sessions.is_empty() || !seen.ghosts.is_empty();
        let limit = if alive { SETTLE } else { CLEAN };
        if seen.is_empty() || begin.elapsed() > limit {
            return (!seen.is_empty()).then_some(seen);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}
