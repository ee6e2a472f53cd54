//! Targets of other kinds than PostgreSQL into which somebody meddles who administers them, and the planted bugs of `bugs.rs` that matter at a
//! MariaDB and a Redis: the auditor names what is wrong, and whose it is.
//!
//! `bug.number` is none at these two: they know an account by nothing but its name, which its sessions keep. And `bug.fence` takes a create that is
//! on the way for long, which Redis has none of: it does one thing at a time.

use crate::bugs::{ENDED, SEEN, Scene, Stage};
use crate::servers::{Aws, Kubernetes, MariaDb, RabbitMq, Redis, Server, Webhook};
use mysql_async::prelude::Queryable as _;
use quorate_api::client::Credential;
use quorate_state::lease::principal_prefix;
use quorate_tests::auditor::{Audit, Auditor};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_catches_what_is_wrong_at_mariadb_and_redis() {
    let stage = Stage::set().await;
    let (maria, redis) = tokio::join!(MariaDb::beside(&stage.cluster), Redis::beside(&stage.cluster));
    let scenes = [scene(&stage, &maria).await, scene(&stage, &redis).await];
    for scene in &scenes {
        // The executor's office is up, and the first search of the target is over.
        let first = stage.issue(scene).await;
        stage.revoke(first.lease).await;
    }
    let [at_maria, at_redis] = &scenes;

    let ended = two_ended(&stage, at_maria, &maria).await;
    let meddled = meddle(&stage, at_maria, &maria, ended).await;
    maria.make(&meddled.left).await;
    let session = maria.enter(&meddled.left).await;
    maria.unmake(&meddled.left).await;
    // With the account the session does not go.
    meddled.must_be_found(&stage, &maria, Some("ghost")).await;
    session.disconnect().await.unwrap();

    let ended = two_ended(&stage, at_redis, &redis).await;
    let meddled = meddle(&stage, at_redis, &redis, ended).await;
    redis.make(&meddled.left).await;
    let session = redis.enter(&meddled.left).await.hold();
    redis.unmake(&meddled.left).await;
    // Here it does, and so there is no ghost to be found.
    tokio::time::timeout(ENDED, session).await.expect("Redis ends the sessions of a user that is deleted").unwrap();
    meddled.must_be_found(&stage, &redis, None).await;

    let told = revoked_and_asked_for(&stage, at_maria, &maria).await;
    stage.is_clean("somebody asks to be let in with an ended login", "", &told);
    stage.is_clean("an intent is revoked", "", &revoked_while_it_is_made(&stage, at_maria, &maria, "").await);
    let (orphan, audit) = revoked_while_it_is_made(&stage, at_maria, &maria, "bug.fence=on").await;
    stage.catches("bug.fence", "orphan", &orphan, &audit);
    stage.plant("reconcile.hurry=on\n");
    until_gone(&maria, &orphan[0]).await;
    stage.plant("");

    stage.knows_too_little(&scenes).await;
}

/// The same at the others, where nothing is planted: what is there is looked at, and not how it came.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_catches_what_is_wrong_at_four_more() {
    let stage = Stage::set().await;
    let (rabbit, kube, aws, hook) = tokio::join!(
        RabbitMq::beside(&stage.cluster),
        Kubernetes::beside(&stage.cluster),
        Aws::beside(&stage.cluster),
        Webhook::beside(&stage.cluster)
    );
    let at_rabbit = scene(&stage, &rabbit).await;
    let at_kube = scene(&stage, &kube).await;
    let at_aws = scene(&stage, &aws).await;
    let at_hook = scene(&stage, &hook).await;
    // Some of them take their time for it.
    let (in_rabbit, in_kube, in_aws, in_hook) = tokio::join!(
        two_ended(&stage, &at_rabbit, &rabbit),
        two_ended(&stage, &at_kube, &kube),
        two_ended(&stage, &at_aws, &aws),
        two_ended(&stage, &at_hook, &hook)
    );

    let meddled = meddle(&stage, &at_rabbit, &rabbit, in_rabbit).await;
    rabbit.make(&meddled.left).await;
    let session = rabbit.enter_for_good(&meddled.left).await;
    rabbit.unmake(&meddled.left).await;
    // It does not agree that it is closed, and is counted until it does.
    meddled.must_be_found(&stage, &rabbit, Some("ghost")).await;
    drop(session);

    let meddled = meddle(&stage, &at_hook, &hook, in_hook).await;
    hook.make(&meddled.left).await;
    // By its account's number is a session known there, and the auditor knows numbers that it has seen.
    tokio::time::sleep(SEEN).await;
    let session = hook.enter(&meddled.left);
    hook.unmake(&meddled.left).await;
    assert!(session.is_let_in().await, "with the account the session does not go");
    meddled.must_be_found(&stage, &hook, Some("ghost")).await;

    // These know no sessions.
    let meddled = meddle(&stage, &at_kube, &kube, in_kube).await;
    meddled.must_be_found(&stage, &kube, None).await;
    let meddled = meddle(&stage, &at_aws, &aws, in_aws).await;
    meddled.must_be_found(&stage, &aws, None).await;
}

/// Somebody who may have leases at a server.
async fn scene<S: Server>(stage: &Stage, server: &S) -> Scene {
    let who = format!("meddled/{}", S::TARGET);
    let identity = stage.cluster.issue(&who).unwrap();
    let scope = "action in [Quorate::Action::\"lease:issue\", Quorate::Action::\"role:read\"], resource";
    stage.cluster.permit(&who.replace('/', "-"), &identity, scope).await.unwrap();
    let client = stage.cluster.client_as(identity, &[1, 2, 3]).unwrap();
    Scene { target: S::TARGET, place: server.place(), role: S::ROLE, client }
}

/// What somebody has done to a target, with an auditor who watches.
struct Meddled {
    auditor: Auditor,
    /// Logins of which the vault knows nothing.
    strangers: [String; 2],
    /// A login that was revoked, and is made anew.
    anew: String,
    /// A lease that is active, and whose login is gone.
    taken: Credential,
    /// One that was revoked, with which nothing is done yet.
    left: String,
}

/// The logins of two leases that were revoked.
async fn two_ended<S: Server>(stage: &Stage, scene: &Scene, server: &S) -> [String; 2] {
    let (one, other) = (stage.issue(scene).await, stage.issue(scene).await);
    tokio::join!(stage.revoke(one.lease), stage.revoke(other.lease));
    let ended = [one.username, other.username];
    for login in &ended {
        until_gone(server, login).await;
    }
    ended
}

async fn meddle<S: Server>(stage: &Stage, scene: &Scene, server: &S, [anew, left]: [String; 2]) -> Meddled {
    let prefix = principal_prefix(&stage.cluster.profile().cluster, S::TARGET);
    let strangers = [1, 2].map(|n| format!("{prefix}{n:032x}"));
    let auditor = stage.audit(scene);
    server.make(&strangers[0]).await;
    let taken = stage.issue(scene).await;
    // The auditor has heard that those are revoked, and this one active.
    tokio::time::sleep(SEEN).await;
    server.make(&anew).await;
    server.unmake(&taken.username).await;
    // Whatever the vault's own search does with the first, which comes once a minute.
    server.make(&strangers[1]).await;
    tokio::time::sleep(SEEN).await;
    Meddled { auditor, strangers, anew, taken, left }
}

impl Meddled {
    /// The auditor says all of this and nothing else: and of what is left, which was made anew for a moment, this and perhaps that it was.
    async fn must_be_found<S: Server>(self, stage: &Stage, server: &S, left: Option<&str>) {
        tokio::time::sleep(SEEN).await;
        let audit = self.auditor.end().await.unwrap();
        println!("meddled with {}: {:?}", S::TARGET, audit.report["violations"]);
        let found = found(&audit);
        let finding = |kind: &str, whose: &String| (kind.to_owned(), whose.clone());
        let mut must = BTreeSet::from([finding("survivor", &self.anew), finding("early death", &self.taken.username)]);
        must.extend(left.map(|kind| finding(kind, &self.left)));
        let mut may = must.clone();
        may.insert(finding("survivor", &self.left));
        may.extend(self.strangers.iter().map(|stranger| finding("orphan", stranger)));
        assert!(must.is_subset(&found) && found.is_subset(&may), "{must:?} is what was done: {}", audit.text);
        assert!(found.iter().any(|(kind, _)| kind == "orphan"), "{:?} are nobody's: {}", self.strangers, audit.text);
        assert_eq!(audit.status, Some(1), "that is a violation: {}", audit.text);
        for made in self.strangers.iter().chain([&self.anew]) {
            // Unless the vault has ended it.
            if server.has(made).await {
                server.unmake(made).await;
            }
        }
        stage.revoke(self.taken.lease).await;
    }
}

/// Kinds of findings, and whose they are.
fn found(audit: &Audit) -> BTreeSet<(String, String)> {
    let kinds: BTreeSet<&str> = audit.kinds().into_iter().collect();
    let of = |kind: &str| audit.of_kind(kind).into_iter().map(|whose| (kind.to_owned(), whose.to_owned())).collect();
    kinds.into_iter().flat_map(|kind| -> Vec<(String, String)> { of(kind) }).collect()
}

async fn until_gone<S: Server>(server: &S, login: &str) {
    let deadline = Instant::now() + ENDED;
    while server.has(login).await {
        assert!(Instant::now() < deadline, "the vault cleans up {login}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A lease is revoked, and then somebody connects by the name of its login, and waits: he is not let in, and it is no session.
async fn revoked_and_asked_for(stage: &Stage, scene: &Scene, maria: &MariaDb) -> (Vec<String>, Audit) {
    let auditor = stage.audit(scene);
    let ended = stage.issue(scene).await;
    tokio::time::sleep(SEEN).await;
    stage.revoke(ended.lease).await;
    until_gone(maria, &ended.username).await;
    tokio::time::sleep(SEEN).await;
    let knocking = maria.knock(&ended.username).await;
    tokio::time::sleep(SEEN).await;
    drop(knocking);
    (vec![ended.username], auditor.end().await.unwrap())
}

/// A lease is revoked while its CREATE waits for somebody who backs the server up; then that is over.
async fn revoked_while_it_is_made(
    stage: &Stage,
    scene: &Scene,
    maria: &MariaDb,
    planted: &str,
) -> (Vec<String>, Audit) {
    let admin = stage.cluster.admin().unwrap();
    stage.plant(planted);
    let auditor = stage.audit(scene);
    // Something to see, whatever becomes of the intent.
    let other = stage.issue(scene).await;
    let mut holder = maria.root().await;
    holder.query_drop("FLUSH TABLES WITH READ LOCK").await.unwrap();
    let deadline = Instant::now() + ENDED;
    let issuing = async {
        let answer = scene.client.issue_lease(scene.role, Some(60_000)).await;
        assert!(answer.is_err(), "nobody is given a lease that was revoked before it was active");
    };
    let revoking = async {
        let bound = loop {
            if let Some(bound) = maria.making().await.pop() {
                break bound;
            }
            assert!(Instant::now() < deadline, "the CREATE USER waits for the lock");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let lease = stage.intent().await;
        admin.revoke(lease).await.unwrap();
        // With the fence the connection goes first, and whoever takes the name waits for the lock.
        while admin.lease(lease).await.unwrap().state != "revoked" && maria.making().await.contains(&bound) {
            assert!(Instant::now() < deadline, "the CREATE USER is ended, or its lease revoked");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        holder.query_drop("UNLOCK TABLES").await.unwrap();
        lease
    };
    let ((), lease) = tokio::join!(issuing, revoking);
    admin.wait_revoked(lease, ENDED).await.unwrap_or_else(|why| panic!("lease {lease}: {why}"));
    tokio::time::sleep(SEEN).await;
    stage.revoke(other.lease).await;
    let audit = auditor.end().await.unwrap();
    stage.plant("");
    (vec![stage.login(scene, &lease)], audit)
}
