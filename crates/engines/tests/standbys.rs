//! Hot standbys: sessions live there, and what the server forgot is known there for a while longer.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use quorate_engines::conformance::{Credential, Target, assert_ended, order, principal};
use quorate_engines::postgres::{Postgres, PostgresConfig};
use quorate_engines::scratch::PostgresServer;
use quorate_engines::{Endpoint, Engine, EngineError, Fault, Refusal};
use support::{GROUP, Pg, connect};
use tokio::net::TcpListener;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::sleep;
use tokio_postgres::{Client, Config};

/// A server, its standby, and an engine that knows both.
struct Pair {
    pg: Arc<Pg>,
    standby: PostgresServer,
    engine: Postgres,
}

impl Pair {
    async fn start() -> Self {
        let pg = Pg::start(&[]).await;
        let copied = Arc::clone(&pg);
        let standby = spawn_blocking(move || copied.server.lock().unwrap().standby().unwrap()).await.unwrap();
        let engine =
            Postgres::new(PostgresConfig { standbys: vec![endpoint(standby.port())], ..pg.config(1) }).unwrap();
        Self { pg, standby, engine }
    }

    async fn lease(&self, name: &str) -> (Credential, u32) {
        let credential = self.pg.credential();
        let oid = self.engine.create(&order(&*self.pg, &self.engine, name, &credential).await).await.unwrap().oid;
        (credential, oid)
    }

    async fn at_standby(&self, name: &str, credential: &Credential) -> Option<Client> {
        let mut config = Config::new();
        config.host("127.0.0.1").port(self.standby.port()).user(name).password(&credential.password).dbname("postgres");
        connect(&config).await.ok()
    }

    async fn on_standby(&self, sql: &str) {
        let client = connect(&self.standby.superuser("postgres")).await.unwrap();
        client.batch_execute(sql).await.unwrap();
    }

    /// Waits until the standby knows whatever the server knows now.
    async fn caught_up(&self) {
        let lsn: String = self
            .pg
            .superuser("postgres")
            .await
            .query_one("SELECT pg_current_wal_flush_lsn()::text", &[])
            .await
            .unwrap()
            .get(0);
        let client = connect(&self.standby.superuser("postgres")).await.unwrap();
        let sql = format!("SELECT coalesce(pg_last_wal_replay_lsn() >= '{lsn}'::pg_lsn, false)");
        for _ in 0..400 {
            if client.query_one(&sql, &[]).await.unwrap().get(0) {
                return;
            }
            sleep(Duration::from_millis(25)).await;
        }
        panic!("the standby does not follow");
    }
}

fn endpoint(port: u16) -> Endpoint {
    Endpoint { host: "127.0.0.1".into(), port }
}

async fn alive(client: &Client) -> bool {
    client.simple_query("SELECT 1").await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_a_standby_is_seen_and_killed() {
    let pair = Pair::start().await;
    let engine = &pair.engine;
    let (server, standby) = (format!("127.0.0.1:{}", pair.pg.port), format!("127.0.0.1:{}", pair.standby.port()));
    assert_eq!(engine.endpoints(), [server.clone(), standby.clone()]);
    engine.warm().await.unwrap();
    let (credential, oid) = pair.lease("s_there").await;
    pair.caught_up().await;
    let there = pair.at_standby("s_there", &credential).await.unwrap();
    let this = [principal("s_there", Some(oid))];
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert_eq!((seen.sessions, seen.login_at), (1, vec![server.clone(), standby.clone()]));
    let blind = pair.pg.engine(1).look(&this).await.unwrap().remove(0);
    assert_eq!((blind.sessions, blind.login_at), (0, vec![server]), "without the endpoint nothing is seen there");

    // No session is at the server, so the account goes at once; the session at the standby is a ghost then.
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Dropped);
    pair.caught_up().await;
    assert!(alive(&there).await, "only a kill ends it");
    assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 1);
    let (ghosts, unseen) = engine.ghosts().await.unwrap();
    assert_eq!(ghosts.iter().map(|g| (g.endpoint.as_str(), g.oid)).collect::<Vec<_>>(), [(standby.as_str(), oid)]);
    assert_eq!(unseen, []);
    assert_eq!(engine.kill(&this).await.unwrap(), 1);
    assert_ended(engine, &this).await;
    assert!(!alive(&there).await && pair.at_standby("s_there", &credential).await.is_none());

    let checked = engine.check(&[GROUP.to_owned()]).await.unwrap();
    let states: Vec<_> = checked.standbys.iter().map(|s| (s.application_name.as_str(), s.state.as_str())).collect();
    assert_eq!((states, &checked.unseen), (vec![("walreceiver", "streaming")], &vec![]));
}

/// Where that is asked for, a synchronous standby refuses whom the server refuses before anybody says so.
#[tokio::test(flavor = "multi_thread")]
async fn statements_wait_until_a_synchronous_standby_has_applied_them_where_that_is_asked_for() {
    let pair = Pair::start().await;
    pair.pg.sql("ALTER SYSTEM SET synchronous_standby_names = '*'; SELECT pg_reload_conf()").await;
    let standbys = vec![endpoint(pair.standby.port())];
    let patient = Postgres::new(PostgresConfig { standbys, remote_apply: true, ..pair.pg.config(1) }).unwrap();
    let (_, refused) = pair.lease("s_refused").await;
    let credential = pair.pg.credential();
    let create = order(&*pair.pg, &patient, "s_patient", &credential).await;
    pair.caught_up().await;
    pair.on_standby("SELECT pg_wal_replay_pause()").await;
    pair.lease("s_hasty").await;
    let creating = tokio::spawn(async move { (patient.create(&create).await, patient) });
    sleep(Duration::from_millis(1_500)).await;
    assert!(!creating.is_finished(), "it is written there, and not applied");
    pair.on_standby("SELECT pg_wal_replay_resume()").await;
    let (created, patient) = creating.await.unwrap();
    created.unwrap();
    assert!(pair.at_standby("s_patient", &credential).await.is_some(), "it is known there when it is said to be made");
    patient.refuse(&[principal("s_refused", Some(refused))]).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_proved_while_a_standby_has_not_replayed_it() {
    let pair = Pair::start().await;
    let engine = &pair.engine;
    let (credential, oid) = pair.lease("s_old").await;
    pair.caught_up().await;
    pair.on_standby("SELECT pg_wal_replay_pause()").await;
    let (late, late_oid) = pair.lease("s_late").await;
    let these = [principal("s_old", Some(oid)), principal("s_late", Some(late_oid))];
    let refused = engine.refuse(&these).await.unwrap();
    assert!(refused.iter().all(|r| r.outcome == Refusal::Dropped), "{refused:?}");
    engine.kill(&these).await.unwrap();

    let standby = format!("127.0.0.1:{}", pair.standby.port());
    let seen = engine.look(&these).await.unwrap();
    assert_eq!((seen[0].can_login, &seen[0].login_at), (true, &vec![standby.clone()]), "it still lets in");
    assert_eq!(
        (seen[1].can_login, &seen[1].login_at),
        (true, &vec![]),
        "an account that the standby does not know yet comes to life there before it is dropped there"
    );
    let behind = &seen[1].behind[0];
    assert!(behind.name == standby && behind.reason.contains("paused"), "{behind:?}");
    let unseen = engine.check(&[]).await.unwrap().unseen;
    assert_eq!(unseen.iter().map(|fault| &fault.name).collect::<Vec<_>>(), [&standby]);
    let again = pair.at_standby("s_old", &credential).await.expect("this is why nothing is proved");
    assert!(pair.at_standby("s_late", &late).await.is_none());

    pair.on_standby("SELECT pg_wal_replay_resume()").await;
    pair.caught_up().await;
    let seen = engine.look(&these).await.unwrap();
    assert_eq!((seen[0].can_login, seen[0].sessions, &seen[0].behind), (false, 1, &vec![]), "{seen:?}");
    assert_eq!(engine.kill(&these).await.unwrap(), 1);
    assert_ended(engine, &these).await;
    assert!(!alive(&again).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_is_gone_or_promoted_is_no_proof() {
    let mut pair = Pair::start().await;
    let standby = format!("127.0.0.1:{}", pair.standby.port());
    let (credential, oid) = pair.lease("s_dark").await;
    let (_, kept) = pair.lease("s_kept").await;
    pair.caught_up().await;
    let here = pair.pg.client("s_dark", &credential.password, "postgres").await.unwrap();
    let this = [principal("s_dark", Some(oid))];
    pair.standby.stop();
    pair.engine.take_over().await.expect("a standby that is gone is no reason not to issue");
    pair.lease("s_new").await;
    let named = |faults: &[Fault]| assert_eq!(faults.iter().map(|f| &f.name).collect::<Vec<_>>(), [&standby]);
    let seen = pair.engine.look(&this).await.unwrap().remove(0);
    assert_eq!((seen.sessions, seen.login_at.len()), (1, 1), "what the server shows is shown");
    named(&seen.behind);
    pair.engine.refuse(&this).await.unwrap();
    assert_eq!(pair.engine.kill(&this).await.unwrap(), 1);
    assert!(!alive(&here).await, "it was killed where it could be");
    // Its client knows a moment before the server's list does.
    let begun = Instant::now();
    let seen = loop {
        let seen = pair.engine.look(&this).await.unwrap().remove(0);
        if seen.sessions == 0 || begun.elapsed() > Duration::from_secs(10) {
            break seen;
        }
    };
    assert_eq!((seen.can_login, seen.sessions, seen.login_at.len()), (true, 0, 0), "nobody knows what lives there");
    named(&seen.behind);
    named(&pair.engine.ghosts().await.unwrap().1);
    named(&pair.engine.check(&[]).await.unwrap().unseen);

    // It comes back, and catches up by itself.
    let mut back = pair.standby;
    pair.standby = spawn_blocking(move || back.run().map(|()| back).unwrap()).await.unwrap();
    pair.caught_up().await;
    assert_ended(&pair.engine, &this).await;

    // An engine on the standby alone would prove what it can't know.
    let misled = Postgres::new(PostgresConfig { port: pair.standby.port(), ..pair.pg.config(1) }).unwrap();
    for refused in [
        misled.look(&this).await.unwrap_err(),
        misled.timeline().await.unwrap_err(),
        misled.claims("q_").await.unwrap_err(),
        misled.check(&[]).await.unwrap_err(),
    ] {
        assert!(matches!(&refused, EngineError::Refused { code, .. } if code == "25006"), "{refused:?}");
    }
    // Another server is no standby of this one, whatever it is.
    let stranger = Pg::start(&[]).await;
    let config = PostgresConfig { standbys: vec![endpoint(stranger.port)], ..pair.pg.config(1) };
    let mistaken = Postgres::new(config).unwrap().look(&this).await.unwrap().remove(0);
    assert!(mistaken.can_login && mistaken.behind[0].reason.contains("no copy"), "{mistaken:?}");

    // A fail-over: what was ended at the old server after it is alive at the new one.
    pair.on_standby("SELECT pg_promote()").await;
    let promoted = pair.engine.look(&this).await.unwrap().remove(0);
    named(&promoted.behind);
    assert!(promoted.can_login && promoted.behind[0].reason.contains("promoted"), "{promoted:?}");
    let kept = [principal("s_kept", Some(kept))];
    assert_eq!(pair.engine.refuse(&kept).await.unwrap()[0].outcome, Refusal::Dropped);
    assert_eq!(pair.engine.timeline().await, Ok(1));
    assert_eq!(misled.timeline().await, Ok(2), "it grew, and that is how a fail-over is noticed");
    let back = misled.look(&kept).await.unwrap();
    assert!(back[0].can_login, "{back:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_standby_that_gives_no_answer_is_not_waited_for_by_everybody() {
    let pg = Pg::start(&[]).await;
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((stream, _)) = silent.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            kept.push(stream);
        }
    });
    let connect_timeout = Duration::from_secs(1);
    let config = PostgresConfig { standbys: vec![endpoint(port)], connect_timeout, ..pg.config(1) };
    let engine = Arc::new(Postgres::new(config).unwrap());
    let mut rounds = JoinSet::new();
    for _ in 0..20 {
        let engine = Arc::clone(&engine);
        rounds.spawn(async move {
            let this = [principal("s_any", None)];
            engine.kill(&this).await.unwrap();
            engine.look(&this).await.unwrap().remove(0)
        });
    }
    let seen = rounds.join_all().await;
    assert!(seen.iter().all(|s| s.can_login && s.behind.len() == 1), "nobody takes silence for an answer: {seen:?}");
    let asked = asked.load(Ordering::SeqCst);
    assert!((1..=3).contains(&asked), "40 calls at a silent standby wait for {asked} of its answers");
}
