//! Three bugs that are planted one after the other (`crates/server/src/planted.rs`), each with a story that brings it out. Without the bug the
//! auditor has nothing to say of the same story; with it, it names what is wrong, and whose it is.

use quorate_api::client::{Client, Credential};
use quorate_state::ids::LeaseId;
use quorate_state::lease::{Selector, principal};
use quorate_tests::auditor::{Audit, Auditor, postgres};
use quorate_tests::database::login_with;
use quorate_tests::footprint::TARGET;
use quorate_tests::{Cluster, Options};
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How long a revocation may take: an API server's is 15 s long at least.
pub(crate) const ENDED: Duration = Duration::from_secs(60);
/// How long what a bug does is given to be seen: several looks of the auditor, and answers of the vault.
pub(crate) const SEEN: Duration = Duration::from_millis(1_500);
/// A database may give up on a CREATE before the story comes to its point.
const ATTEMPTS: usize = 4;

/// A cluster whose members break what a file says, for as long as it says so.
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    file: PathBuf,
    _folder: tempfile::TempDir,
}

/// A target of the cluster, and somebody who may have leases there.
pub(crate) struct Scene {
    pub(crate) target: &'static str,
    /// The arguments that lead an auditor to it.
    pub(crate) place: Vec<String>,
    pub(crate) role: &'static str,
    pub(crate) client: Client,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_auditor_catches_planted_bugs() {
    let stage = Stage::set().await;
    let client = stage.cluster.client("demo").unwrap();
    let scene = Scene { target: TARGET, place: postgres(&stage.cluster).unwrap(), role: "reader", client };
    // Connections and the executor's office are up.
    let first = stage.issue(&scene).await;
    stage.revoke(first.lease).await;

    stage.is_clean("an intent is revoked", "", &revoked_while_it_is_made(&stage, &scene, "").await);
    let (orphan, audit) = revoked_while_it_is_made(&stage, &scene, "bug.fence=on").await;
    stage.catches("bug.fence", "orphan", &orphan, &audit);

    stage.is_clean("a session is open", "", &revoked_with_a_session(&stage, &scene, "").await);
    let (ghost, audit) = revoked_with_a_session(&stage, &scene, "bug.number=on").await;
    stage.catches("bug.number", "ghost", &ghost, &audit);

    stage.knows_too_little(&[scene]).await;
}

impl Stage {
    pub(crate) async fn set() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("planted");
        let environment = vec![("FAILPOINT_FILE".to_owned(), file.display().to_string())];
        let cluster = Cluster::start(&Options { environment, ..Options::default() }).await.unwrap();
        Self { cluster, file, _folder: folder }
    }

    pub(crate) fn plant(&self, lines: &str) {
        // In one step: nobody reads half of it.
        let new = self.file.with_extension("new");
        std::fs::write(&new, lines).unwrap();
        std::fs::rename(&new, &self.file).unwrap();
    }

    pub(crate) fn audit(&self, scene: &Scene) -> Auditor {
        let enough = ["--every", "200", "--looks", "8", "--answers", "8"];
        Auditor::begin_at(&self.cluster, scene.target, &scene.place, &enough).unwrap()
    }

    /// A lease of a minute.
    pub(crate) async fn issue(&self, scene: &Scene) -> Credential {
        scene.client.issue_lease(scene.role, Some(60_000)).await.unwrap()
    }

    /// Revokes a lease, and waits for the vault's word that it is.
    pub(crate) async fn revoke(&self, lease: LeaseId) {
        let admin = self.cluster.admin().unwrap();
        admin.revoke(lease).await.unwrap();
        admin.wait_revoked(lease, ENDED).await.unwrap_or_else(|why| panic!("lease {lease}: {why}"));
    }

    pub(crate) fn login(&self, scene: &Scene, lease: &LeaseId) -> String {
        principal(&self.cluster.profile().cluster, scene.target, lease)
    }

    /// The lease that is being issued.
    pub(crate) async fn intent(&self) -> LeaseId {
        let intent = self.cluster.admin().unwrap().leases("intent").await.unwrap().pop().unwrap();
        LeaseId(intent.id.as_slice().try_into().unwrap())
    }

    /// How often the nodes have said something in their logs.
    fn said(&self, what: &str) -> usize {
        (1..=3).map(|m| self.cluster.node(m).unwrap().log().matches(what).count()).sum()
    }

    pub(crate) fn is_clean(&self, story: &str, planted: &str, (_, audit): &(Vec<String>, Audit)) {
        println!("{story}, planted {planted:?}: {}", audit.report["verdict"]);
        assert_eq!(audit.status, Some(0), "{story}, and no bug: {}", audit.text);
    }

    /// The auditor says what is wrong, whose it is, and nothing of what is right.
    pub(crate) fn catches(&self, bug: &str, kind: &str, whose: &[String], audit: &Audit) {
        println!("{bug}: {:?}", audit.report["violations"]);
        assert_eq!(audit.status, Some(1), "{bug} is a violation: {}", audit.text);
        let named = audit.of_kind(kind);
        assert!(
            !named.is_empty() && audit.kinds().iter().all(|found| *found == kind),
            "{bug} is {kind}: {}",
            audit.text
        );
        assert!(named.iter().all(|name| whose.iter().any(|w| w == name)), "{bug} is about {whose:?}: {}", audit.text);
    }

    /// The leader's view is old, at all of these, and does no harm: unless the log is not asked.
    pub(crate) async fn knows_too_little(&self, scenes: &[Scene]) {
        let stale = "reconcile.hurry=on\nreconcile.stale=on\n";
        let before = self.said("a stray principal was not adopted");
        for told in searched_by_a_stale_leader(self, scenes, stale).await {
            self.is_clean("the leader's view is old", stale, &told);
        }
        let refused = self.said("a stray principal was not adopted");
        assert!(refused > before, "the leader took a live login for a stray, and the log did not: {before}, {refused}");
        let planted = format!("{stale}bug.adopt=on\n");
        for (dead, audit) in searched_by_a_stale_leader(self, scenes, &planted).await {
            self.catches("bug.adopt", "early death", &dead, &audit);
        }
    }
}

/// A lease is revoked while its CREATE waits in the database, which goes on when the vault has said *revoked*, or gives up before.
async fn revoked_while_it_is_made(stage: &Stage, scene: &Scene, planted: &str) -> (Vec<String>, Audit) {
    let superuser = stage.cluster.superuser().await.unwrap();
    let admin = stage.cluster.admin().unwrap();
    stage.plant(planted);
    let auditor = stage.audit(scene);
    // Something to see, whatever becomes of the intents.
    let other = stage.issue(scene).await;
    let mut made = Vec::new();
    for _ in 0..ATTEMPTS {
        let holder = stage.cluster.superuser().await.unwrap();
        holder.batch_execute("BEGIN; LOCK TABLE pg_authid IN SHARE MODE").await.unwrap();
        let demo = stage.cluster.client("demo").unwrap();
        let issuing = tokio::spawn(async move { demo.issue_lease("reader", Some(60_000)).await });
        let waiting =
            "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%CREATE ROLE%'";
        let waits = async || superuser.query_one(waiting, &[]).await.unwrap().get::<_, i64>(0) > 0;
        let deadline = Instant::now() + ENDED;
        while !waits().await {
            assert!(Instant::now() < deadline, "the CREATE ROLE waits for the lock");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let lease = stage.intent().await;
        admin.revoke(lease).await.unwrap();
        while admin.lease(lease).await.unwrap().state != "revoked" && waits().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        holder.batch_execute("COMMIT").await.unwrap();
        let answer = issuing.await.unwrap();
        assert!(answer.is_err(), "nobody is given a lease that was revoked before it was active");
        admin.wait_revoked(lease, ENDED).await.unwrap_or_else(|why| panic!("lease {lease}: {why}"));
        tokio::time::sleep(SEEN).await;
        made.push(stage.login(scene, &lease));
        if planted.is_empty() || login_exists(&superuser, &made[made.len() - 1]).await {
            break;
        }
    }
    stage.revoke(other.lease).await;
    let audit = auditor.end().await.unwrap();
    stage.plant("reconcile.hurry=on\n");
    stage.wait_gone(&made).await;
    (made, audit)
}

/// A lease is revoked while a session of it is open.
async fn revoked_with_a_session(stage: &Stage, scene: &Scene, planted: &str) -> (Vec<String>, Audit) {
    stage.plant(planted);
    let auditor = stage.audit(scene);
    let credential = stage.issue(scene).await;
    let session = login_with(&credential).await.unwrap();
    tokio::time::sleep(SEEN).await;
    stage.revoke(credential.lease).await;
    tokio::time::sleep(SEEN).await;
    let alive = session.simple_query("SELECT 1").await.is_ok();
    assert_eq!(alive, !planted.is_empty(), "the session outlives its lease with {planted:?}");
    drop(session);
    let audit = auditor.end().await.unwrap();
    stage.plant("");
    (vec![credential.username], audit)
}

/// Leases are issued while a leader searches the targets that knows of them what was so some time ago. What was issued, and what was seen, at each.
async fn searched_by_a_stale_leader(stage: &Stage, scenes: &[Scene], planted: &str) -> Vec<(Vec<String>, Audit)> {
    stage.plant(planted);
    let auditors: Vec<Auditor> = scenes.iter().map(|scene| stage.audit(scene)).collect();
    let mut issued = vec![Vec::new(); scenes.len()];
    let deadline = Instant::now() + Duration::from_secs(6);
    while Instant::now() < deadline {
        for (scene, issued) in scenes.iter().zip(&mut issued) {
            issued.push(stage.issue(scene).await.username);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    tokio::time::sleep(SEEN).await;
    stage.plant("");
    let admin = stage.cluster.admin().unwrap();
    for scene in scenes {
        let all = Selector::Role(scene.role.to_owned());
        let index = admin.revoke_all(all.clone()).await.unwrap();
        admin.wait_all_revoked(&all, index, ENDED).await.unwrap();
    }
    let mut told = Vec::new();
    for (auditor, issued) in auditors.into_iter().zip(issued) {
        told.push((issued, auditor.end().await.unwrap()));
    }
    told
}

async fn login_exists(superuser: &tokio_postgres::Client, login: &str) -> bool {
    quorate_tests::database::seen(superuser, login).await.unwrap().0
}

impl Stage {
    /// Waits until the vault has found what a bug left behind, and has ended it.
    async fn wait_gone(&self, logins: &[String]) {
        let superuser = self.cluster.superuser().await.unwrap();
        let deadline = Instant::now() + ENDED;
        loop {
            let seen = self.cluster.footprint(&superuser).await.unwrap();
            if logins.iter().all(|login| seen.lacks(login)) {
                return self.plant("");
            }
            assert!(Instant::now() < deadline, "the search of the target ends {logins:?}: {seen:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
