//! Each step of a lease at a real PostgreSQL, when its statement or its answer is cut off, never comes or comes late: the engine claims
//! no more than it knows, the step can be made again, and what comes late changes nothing. What the vault makes of that is in
//! `e2e_answers.rs`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use futures::future::join_all;
use quorate_api::scram;
use quorate_crypto::secret::SecretVec;
use quorate_engines::postgres::{OwnedObjects, Postgres, PostgresConfig};
use quorate_engines::scratch::{Installed, PostgresServer};
use quorate_engines::{Cleaning, Create, Engine as _, EngineError, Fenced, OwnSessions, Principal, Refusal, Tls};
use quorate_tests::database::login;
use quorate_tests::relay::{Fate, Relay, Step};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, Config};

/// How long a statement may take, of which the engine waits five seconds longer for an answer.
const STATEMENT: Duration = Duration::from_secs(3);
/// How long what was cut off may hold a role: PostgreSQL ends a transaction that says nothing after 30 s.
const ENDED: Duration = Duration::from_secs(60);
const PASSWORD: &str = "a password of this test";

/// The distribution's PostgreSQL, or the version that `QUORATE_POSTGRES` names.
fn installed() -> Installed {
    match std::env::var("QUORATE_POSTGRES") {
        Ok(version) => Installed::of(version.parse().unwrap()).unwrap_or_else(|why| panic!("{why}")),
        Err(_) => Installed::packaged().pop().expect("PostgreSQL is not installed: run deploy/build/setup"),
    }
}

fn engine(port: u16, term: u64) -> Postgres {
    let config = PostgresConfig {
        host: "127.0.0.1".into(),
        port,
        dbname: "postgres".into(),
        databases: Vec::new(),
        standbys: Vec::new(),
        user: "vault".into(),
        own: OwnSessions::default(),
        passwords: SecretVec::new(PASSWORD.as_bytes().to_vec()).into(),
        tls: Tls::Disabled,
        target: "t".into(),
        term,
        owned: OwnedObjects::Drop,
        remote_apply: false,
        connect_timeout: Duration::from_secs(5),
        statement_timeout: STATEMENT,
        create_lock_timeout: STATEMENT,
    };
    Postgres::new(config).unwrap()
}

/// One step at a server of all steps.
struct Case {
    step: Step,
    fate: Fate,
    login: String,
    server: u16,
    relay: Relay,
    engine: Postgres,
}

impl Case {
    async fn new(step: Step, fate: Fate, server: u16) -> Self {
        let relay = Relay::start(([127, 0, 0, 1], server).into()).await.unwrap();
        let login = format!("t_{step:?}_{fate:?}").to_lowercase();
        let engine = engine(relay.port(), 1);
        Self { step, fate, login, server, relay, engine }
    }

    fn what(&self) -> String {
        format!("{:?} of {:?}", self.fate, self.step)
    }

    fn user(&self) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.server).dbname("postgres").user(&self.login).password(PASSWORD);
        config
    }

    async fn order(&self) -> Create {
        Create {
            name: self.login.clone(),
            verifier: scram::verifier(PASSWORD.as_bytes(), &[7; 16], 4_096),
            groups: vec!["readers".into()],
            statements: Vec::new(),
            connection_limit: 2,
            max_ttl_seconds: 600,
            binding: self.engine.bind().await.unwrap(),
        }
    }

    /// Whether nothing is known of it, as is said when nothing was heard.
    fn unheard<T: std::fmt::Debug>(&self, result: Result<T, EngineError>) {
        let heard = !matches!(result, Err(EngineError::Unavailable { .. }));
        assert!(!heard, "{}: whoever has heard nothing claims nothing: {result:?}", self.what());
    }

    async fn run(self, superuser: &Client) {
        if self.step == Step::Create {
            self.create().await;
        } else {
            self.end().await;
        }
        self.relay.let_go();
        // What was kept arrives now, if anywhere.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let sql = "SELECT count(*) FROM pg_roles WHERE rolname = $1";
        let left: i64 = superuser.query_one(sql, &[&self.login]).await.unwrap().get(0);
        assert_eq!(left, 0, "{}: {} is gone, and nothing that comes late brings it back", self.what(), self.login);
        assert!(login(&self.user()).await.is_err(), "{}: nobody logs in", self.what());
    }

    /// Nobody knows whether it was made, and the fence finds it out.
    async fn create(&self) {
        let order = self.order().await;
        self.relay.lay(self.step, &self.login, self.fate);
        let made = self.engine.create(&order).await;
        assert!(matches!(made, Err(EngineError::Unknown { .. })), "{}: {made:?}", self.what());
        self.relay.met(ENDED).await.unwrap();
        let carried_out = matches!(self.fate, Fate::AnswerCut | Fate::AnswerKept);
        assert_eq!(login(&self.user()).await.is_ok(), carried_out, "{}: or this proves nothing", self.what());
        match self.engine.fence(&self.login, &order.binding).await {
            Ok(Fenced::Won { oid }) if carried_out => {
                let this = [Principal { name: self.login.clone(), oid: Some(oid) }];
                let refused = self.engine.refuse(&this).await.unwrap();
                assert!(!matches!(refused[0].outcome, Refusal::Failed(_)), "{}: {refused:?}", self.what());
                self.engine.kill(&this).await.unwrap();
                self.engine.clean(&this).await.unwrap();
            }
            Ok(Fenced::Absent) if !carried_out => {}
            other => panic!("{}: the fence finds out whether it was made: {other:?}", self.what()),
        }
    }

    async fn end(&self) {
        let order = self.order().await;
        let oid = self.engine.create(&order).await.unwrap_or_else(|why| panic!("{}: {why}", self.what())).oid;
        let session = if self.step.needs_session() {
            let session = login(&self.user()).await.unwrap();
            // Something of its own, for which nobody has to give it a right.
            session.batch_execute("SELECT lo_create(0)").await.unwrap();
            Some(session)
        } else {
            None
        };
        let this = [Principal { name: self.login.clone(), oid: Some(oid) }];
        self.relay.lay(self.step, &self.login, self.fate);
        let first = self.refuse_kill_and_look(&this).await;
        if self.step.is_behind_the_end() {
            assert_eq!(first, Ok(true), "{}: its end waits for no cleaning up", self.what());
            self.unheard(self.engine.clean(&this).await);
        } else {
            self.unheard(first);
        }
        self.relay.met(ENDED).await.unwrap();
        if (self.step, self.fate) == (Step::Commit, Fate::StatementKept) {
            // The role is held by who said no more, and is not claimed to be gone.
            assert_eq!(self.refuse_kill_and_look(&this).await, Ok(false), "{}", self.what());
            self.relay.let_go();
        }
        let begun = Instant::now();
        while self.refuse_kill_and_look(&this).await != Ok(true) {
            assert!(begun.elapsed() < ENDED, "{}: made again, it comes to its end", self.what());
        }
        assert!(login(&self.user()).await.is_err(), "{}: nobody logs in", self.what());
        if let Some(session) = session {
            assert!(session.simple_query("SELECT 1").await.is_err(), "{}: its session is ended", self.what());
        }
        loop {
            let cleaned = self.engine.clean(&this).await.unwrap_or_else(|why| panic!("{}: {why}", self.what()));
            if cleaned[0].outcome == Cleaning::Gone {
                break;
            }
            assert!(begun.elapsed() < ENDED, "{}: what it left behind goes: {cleaned:?}", self.what());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// As the vault ends a login: whether two looks, a second apart, have shown nothing.
    async fn refuse_kill_and_look(&self, this: &[Principal]) -> Result<bool, EngineError> {
        let refused = self.engine.refuse(this).await?;
        let held = matches!(refused[0].outcome, Refusal::Failed(_));
        self.engine.kill(this).await?;
        let gone = async || {
            let seen = self.engine.look(this).await?;
            Ok::<_, EngineError>(seen.iter().all(|seen| !seen.can_login && seen.sessions == 0))
        };
        let begun = Instant::now();
        while !gone().await? && begun.elapsed() < Duration::from_secs(1) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        Ok(gone().await? && !held)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_statement_or_answer_is_lost_can_be_made_again() {
    let server = tokio::task::spawn_blocking(|| PostgresServer::start_on(&installed(), &[]).unwrap()).await.unwrap();
    let superuser = login(&server.superuser("postgres")).await.unwrap();
    let version: String = superuser.query_one("SHOW server_version_num", &[]).await.unwrap().get(0);
    let admin =
        if version.parse::<u32>().unwrap() >= 160_000 { "GRANT readers TO vault WITH ADMIN OPTION" } else { "" };
    let setup = format!(
        "CREATE ROLE vault LOGIN CREATEROLE PASSWORD '{PASSWORD}'; CREATE ROLE readers NOLOGIN;
         GRANT pg_read_all_stats, pg_signal_backend TO vault; {admin}"
    );
    superuser.batch_execute(&setup).await.unwrap();
    // All steps beside each other: most of the time is that for which somebody waits for an answer.
    for fate in Fate::ALL {
        let (port, superuser) = (server.port(), &superuser);
        let cases = Step::ALL.map(|step| async move {
            let case = Case::new(step, fate, port).await;
            case.run(superuser).await;
        });
        join_all(cases).await;
    }
    // What comes late and is refused is no harm; what is there after all of it would be.
    let sql = "SELECT (SELECT count(*) FROM pg_roles WHERE rolname LIKE 't\\_%') + (SELECT count(*) FROM pg_largeobject_metadata)";
    let left: i64 = superuser.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(left, 0, "nothing is left");
}
