//! Leases at a real PostgreSQL of which one statement, or the answer to it, is cut off, never comes, or comes when everybody has given
//! up: at every step. Each lease ends once, is called revoked when that is so and not before, and nobody logs in afterwards.
//!
//! An answer that never comes stands for one of an hour: the vault waits 15 s for either. That the engine speaks the words for which the
//! relay waits is tested in `answers.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have measured"
)]

use futures::future::join_all;
use quorate_api::client::{Client, Form, Role, Submitted, TargetSpec};
use quorate_api::scram;
use quorate_api::status::Failure;
use quorate_api::vault::{Lease, ListLeasesRequest};
use quorate_crypto::keyring::KeyringClass;
use quorate_state::change::Change;
use quorate_state::ids::{KeyringId, LeaseId};
use quorate_tests::database::login;
use quorate_tests::relay::{Fate, Relay, Step};
use quorate_tests::{Cluster, Options};
use std::time::{Duration, Instant};
use tokio::task::JoinHandle;
use tokio_postgres::Config;

/// How long an end may take: an answer is waited for 15 s, what was cut off holds a role for 30 s, and what failed is tried again after
/// 15 s at most, on a machine that does eight other things.
const ENDED: Duration = Duration::from_secs(120);
/// How long is looked at what the vault says while it waits.
const WATCHED: Duration = Duration::from_secs(6);
const LOOK: Duration = Duration::from_millis(200);

/// A target of its own for one step, behind a relay.
struct Lab<'a> {
    cluster: &'a Cluster,
    step: Step,
    name: String,
    relay: Relay,
    admin: Client,
    demo: Client,
}

/// A lease of which a statement or an answer was lost.
struct Lost {
    id: LeaseId,
    /// Its login, of which the test knows the password.
    login: Config,
    session: Option<tokio_postgres::Client>,
    /// Whoever has asked for it, and has no answer yet.
    asking: Option<JoinHandle<Result<Submitted, Failure>>>,
    /// Since when.
    since: Instant,
}

/// A lease that has ended.
struct Taken {
    id: LeaseId,
    fate: Fate,
    login: Config,
    end: Lease,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_statement_or_answer_of_any_step_leaves_no_login() {
    let folder = tempfile::tempdir().unwrap();
    let hurry = folder.path().join("hurry");
    let environment = vec![("FAILPOINT_FILE".to_owned(), hurry.display().to_string())];
    let cluster = &Cluster::start(&Options { environment, ..Options::default() }).await.unwrap();
    let scope = "action == Quorate::Action::\"lease:issue\", resource";
    cluster.permit("answers", &cluster.identity("demo").unwrap(), scope).await.unwrap();
    // All steps beside each other: most of the time is that for which somebody waits for an answer.
    let taken = join_all(Step::ALL.map(|step| async move {
        let lab = Lab::describe(cluster, step).await;
        let mut taken = Vec::new();
        for fate in Fate::ALL {
            let begun = Instant::now();
            taken.push(lab.run(fate).await);
            println!("{fate:?} of {step:?}: all was over after {:?}", begun.elapsed());
        }
        (lab, taken)
    }))
    .await;
    // Searched again and again, the targets show nothing that the log does not account for.
    std::fs::write(&hurry, "reconcile.hurry=on\n").unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    for (lab, all) in &taken {
        for one in all {
            let (what, now) = (lab.what(one.fate), lab.admin.lease(one.id).await.unwrap());
            let ends =
                |lease: &Lease| (lease.state.clone(), lease.why.clone(), lease.revoking_index, lease.revoked_index);
            assert_eq!(ends(&now), ends(&one.end), "{what}: it has ended once");
            assert!(login(&one.login).await.is_err(), "{what}: nobody logs in");
            lab.nothing_is_left(one).await;
        }
    }
    let seen = cluster.superuser().await.unwrap();
    let sql = "SELECT count(*) FROM pg_roles WHERE rolname ~ '^q[0-9a-f]{8}_' AND rolcanlogin";
    let logins: i64 = seen.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(logins, 0, "no login of any target is left");
}

impl<'a> Lab<'a> {
    async fn describe(cluster: &'a Cluster, step: Step) -> Self {
        let port = cluster.postgres_socket().unwrap().1;
        let relay = Relay::start(([127, 0, 0, 1], port).into()).await.unwrap();
        let name = format!("lost-{step:?}").to_lowercase();
        let (admin, demo) = (cluster.admin().unwrap(), cluster.client("demo").unwrap());
        let password = std::fs::read_to_string(cluster.text("/postgres/password_file").unwrap()).unwrap();
        let target = TargetSpec {
            host: "127.0.0.1".into(),
            port: relay.port(),
            database: cluster.text("/postgres/database").unwrap().into(),
            user: cluster.text("/postgres/admin").unwrap().into(),
            ..TargetSpec::default()
        };
        let ring = KeyringId(cluster.ring(KeyringClass::Cluster).unwrap().id());
        admin.put_target(&name, &target, password.trim_end().as_bytes(), ring).await.unwrap();
        let role = Role {
            target: name.clone(),
            groups: vec![cluster.text("/postgres/group").unwrap().into()],
            default_ttl: 600_000,
            max_ttl: 600_000,
            connection_limit: 2,
            max_leases: 100,
            form: Form::Scram { iterations: 4_096 },
            ..Role::default()
        };
        admin.put_role(&name, &role).await.unwrap();
        let proof = admin.prove_target(&name, ENDED).await.unwrap();
        assert!(proof.missing.is_empty() && proof.failed.is_empty(), "{name}: {proof:?}");
        Self { cluster, step, name, relay, admin, demo }
    }

    fn what(&self, fate: Fate) -> String {
        format!("{fate:?} of {:?}", self.step)
    }

    /// How a login connects, past the relay.
    fn login(&self, principal: &str, password: &str) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.cluster.postgres_socket().unwrap().1);
        config.dbname(self.cluster.text("/postgres/database").unwrap()).user(principal).password(password);
        config
    }

    /// One lease, with the whole of its life, of which one step meets its fate.
    async fn run(&self, fate: Fate) -> Taken {
        let what = self.what(fate);
        let lost = if self.step == Step::Create {
            self.lost_in_the_making(fate).await
        } else {
            self.lost_at_its_end(fate).await
        };
        let Lost { id, login: login_of, session, asking, since: begun } = lost;
        let silent = Fate::SILENT.contains(&fate);
        if self.step.is_behind_the_end() {
            let now = self.admin.lease(id).await.unwrap_or_else(|why| panic!("{what}: {why}"));
            assert_eq!(now.state, "revoked", "{what}: its end waits for no cleaning up: {now:?}");
        }
        // Proved or not, whoever says that it is gone is right.
        let end = loop {
            let now = self.admin.lease(id).await.unwrap_or_else(|why| panic!("{what}: {why}"));
            let early = silent && !self.step.is_behind_the_end() && begun.elapsed() < WATCHED;
            if now.state == "revoked" {
                assert!(!early, "{what}: the vault has heard of nothing, and calls it revoked: {now:?}");
                break now;
            }
            assert_ne!(now.state, "active", "{what}: nobody calls it active: {now:?}");
            assert!(begun.elapsed() < ENDED, "{what}: it ends: {:?}", self.admin.explained_lease(id).await);
            tokio::time::sleep(LOOK).await;
        };
        assert!(login(&login_of).await.is_err(), "{what}: it is called revoked, and its login is refused");
        if let Some(asking) = asking {
            let answer = asking.await.unwrap();
            assert!(answer.is_err(), "{what}: nobody is given what nobody has seen made: {answer:?}");
        }
        if let Some(session) = session {
            let alive = session.simple_query("SELECT 1").await.is_ok();
            assert!(!alive, "{what}: it is called revoked, and its session is ended: {end:?}");
        }
        assert!(end.revoking_index < end.revoked_index, "{what}: in this order in the log: {end:?}");
        let made = if self.step == Step::Create { 0 } else { 1 };
        assert_eq!(u64::from(end.active_index > 0), made, "{what}: whether it ever was active: {end:?}");
        if self.step != Step::Create {
            assert_eq!(end.why, "requested", "{what}: why it ended: {end:?}");
        }
        let taken = Taken { id, fate, login: login_of, end };
        self.nothing_is_left(&taken).await;
        // What was kept arrives when all is over.
        self.relay.let_go();
        for _ in 0..5 {
            assert!(login(&taken.login).await.is_err(), "{what}: what comes late brings nobody back");
            tokio::time::sleep(LOOK).await;
        }
        taken
    }

    /// Somebody asks for a login, and the vault does not hear what becomes of it.
    async fn lost_in_the_making(&self, fate: Fate) -> Lost {
        let what = self.what(fate);
        let password = format!("a password of {what}");
        let verifier = scram::verifier(password.as_bytes(), &[7; 16], 4_096);
        let change = Change::IssueLease { role: self.name.clone(), verifier, ttl: None };
        let signed = self.demo.sign(change, None);
        self.relay.lay(self.step, "", fate);
        let (asker, asked) = (self.cluster.client("demo").unwrap(), self.open().await);
        let asking = tokio::spawn(async move { asker.submit(&signed).await });
        let begun = Instant::now();
        let made = loop {
            let fresh = |lease: &Lease| asked.iter().all(|known| known.id != lease.id);
            if let Some(lease) = self.open().await.into_iter().find(fresh) {
                break lease;
            }
            assert!(begun.elapsed() < ENDED, "{what}: its intent stands in the log");
            tokio::time::sleep(LOOK / 4).await;
        };
        self.relay.met(ENDED).await.unwrap_or_else(|why| panic!("{what}: {why}"));
        let (id, login) = (LeaseId(made.id.as_slice().try_into().unwrap()), self.login(&made.principal, &password));
        Lost { id, login, session: None, asking: Some(asking), since: Instant::now() }
    }

    /// All leases of this target.
    async fn open(&self) -> Vec<Lease> {
        let wanted = ListLeasesRequest { role: self.name.clone(), ..ListLeasesRequest::default() };
        self.admin.leases_that(wanted).await.unwrap()
    }

    /// Somebody asks for the end of a lease, and the vault does not hear what becomes of it.
    async fn lost_at_its_end(&self, fate: Fate) -> Lost {
        let what = self.what(fate);
        let lease = self.demo.issue_lease(&self.name, None).await.unwrap_or_else(|why| panic!("{what}: {why}"));
        let password = String::from_utf8(lease.password().unwrap().expose().to_vec()).unwrap();
        let login_of = self.login(&lease.username, &password);
        let session = login(&login_of).await.unwrap_or_else(|why| panic!("{what}: it logs in before: {why}"));
        let session = if self.step.needs_session() {
            // Something of its own, for which nobody has to give it a right: it is cleaned up after its end.
            session.batch_execute("SELECT lo_create(0)").await.unwrap();
            Some(session)
        } else {
            drop(session);
            self.unused(&lease.username).await;
            None
        };
        self.relay.lay(self.step, &lease.username, fate);
        self.demo.revoke(lease.lease).await.unwrap();
        self.relay.met(ENDED).await.unwrap_or_else(|why| panic!("{what}: {why}"));
        Lost { id: lease.lease, login: login_of, session, asking: None, since: Instant::now() }
    }

    /// Waits until the server knows of no session of a login: only then it is dropped at once.
    async fn unused(&self, login: &str) {
        let (superuser, begun) = (self.cluster.superuser().await.unwrap(), Instant::now());
        while quorate_tests::database::seen(&superuser, login).await.unwrap().1 > 0 {
            assert!(begun.elapsed() < ENDED, "{login} has hung up");
            tokio::time::sleep(LOOK / 4).await;
        }
    }

    /// Neither a role nor a session, once what it owned is cleaned up.
    async fn nothing_is_left(&self, taken: &Taken) {
        let (superuser, begun) = (self.cluster.superuser().await.unwrap(), Instant::now());
        let sql = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname = $1)
            + (SELECT count(*) FROM pg_stat_activity WHERE usename = $1)";
        let login = taken.login.get_user().unwrap();
        while superuser.query_one(sql, &[&login]).await.unwrap().get::<_, i64>(0) > 0 {
            assert!(begun.elapsed() < ENDED, "{}: nothing of {login} is left", self.what(taken.fate));
            tokio::time::sleep(LOOK).await;
        }
    }
}
