//! No secret shows: not in errors, not in `Debug`, not in our log nor the driver's, not in the target's.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use std::io;
use std::sync::{Arc, Mutex};

use quorate_crypto::secret::SecretVec;
use quorate_engines::Engine;
use quorate_engines::conformance::{Target, order, principal};
use support::{EXECUTOR_PASSWORD, Pg};

#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_secret_shows() {
    let captured = Captured::default();
    let writer = captured.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();

    let pg = Pg::start(&[]).await;
    let engine = pg.engine(1);
    let credential = pg.credential();
    let mut shown = format!("{:?} {engine:?}", pg.config(1));
    let mut create = order(&*pg, &engine, "c_canary", &credential).await;
    shown += &format!("{create:?}");
    let oid = engine.create(&create).await.unwrap().oid;
    // Errors that PostgreSQL illustrates with the statement: a duplicate, a missing group, a lock that is not had.
    shown += &format!("{:?}", engine.create(&create).await.unwrap_err());
    create.name = "c_other".into();
    create.groups = vec!["no_such_group".into()];
    let error = engine.create(&create).await.unwrap_err();
    shown += &format!("{error:?} {error}");
    let this = [principal("c_canary", Some(oid))];
    shown += &format!("{:?}", engine.refuse(&this).await);
    // Its own password, and errors about it: a lock that is not had, one that the server refuses.
    let own = pg.credential();
    let superuser = pg.superuser("postgres").await;
    superuser.batch_execute("BEGIN; LOCK TABLE pg_authid IN SHARE MODE").await.unwrap();
    let binding = engine.bind().await.unwrap();
    shown += &format!("{:?}", engine.set_password(&own.verifier, &binding).await.unwrap_err());
    superuser.batch_execute("ROLLBACK").await.unwrap();
    engine.set_password(&own.verifier, &engine.bind().await.unwrap()).await.unwrap();
    let late = pg.engine(2);
    shown += &format!("{:?} {:?}", late.bind().await.unwrap_err(), late.login_refused());
    late.learn_password(7, SecretVec::new(own.password.clone().into_bytes()));
    late.bind().await.unwrap();
    shown += &format!("{late:?}");

    let log = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    assert!(log.contains("executing statement batch"), "the driver's log is not captured, so this proves nothing");
    let server_log = pg.server.lock().unwrap().log();
    assert!(server_log.contains("no_such_group"), "the server's log is not read, so this proves nothing");
    assert!(server_log.contains("lock timeout"), "the refused change of the own password is in it");
    let keys = [&credential, &own].into_iter().flat_map(|c| c.verifier.rsplit(['$', ':']).take(3));
    let whole = [&credential, &own].into_iter().flat_map(|c| [c.password.as_str(), c.verifier.as_str()]);
    for secret in keys.chain(whole).chain([EXECUTOR_PASSWORD]) {
        assert!(!shown.contains(secret), "in errors or Debug");
        assert!(!server_log.contains(secret), "in the target's log");
        // What this test itself sends as the superuser holds the executor's password.
        assert!(secret == EXECUTOR_PASSWORD || !log.contains(secret), "in the log");
    }
}
