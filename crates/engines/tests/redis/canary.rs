//! No secret shows: not in errors, not in `Debug`, not in our log nor the driver's at any level, and not in the server's.

use std::io;
use std::sync::{Arc, Mutex};

use quorate_crypto::secret::SecretVec;
use quorate_engines::Engine;
use quorate_engines::conformance::{Target, order, principal};

use crate::server::{EXECUTOR_PASSWORD, Redis, sha256};

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

    let redis = Redis::start(&["loglevel debug"]).await;
    let engine = redis.engine(1);
    let credential = redis.credential();
    let mut shown = format!("{:?} {engine:?}", redis.config(1));
    let mut create = order(&*redis, &engine, "c_canary", &credential).await;
    shown += &format!("{create:?}");
    engine.create(&create).await.unwrap();
    // An error that a server illustrates with the command: a rule that there is not.
    create.name = "c_other".into();
    create.groups = vec!["+no_such_command".into()];
    create.binding = engine.bind().await.unwrap();
    let error = engine.create(&create).await.unwrap_err();
    shown += &format!("{error:?} {error}");
    shown += &format!("{:?}", engine.refuse(&[principal("c_canary", None)]).await);
    // Its own password, and who comes with the one of before.
    let own = redis.credential();
    engine.learn_password(7, SecretVec::new(own.password.clone().into_bytes()));
    engine.set_password(&format!("#{}", sha256(&own.password)), &engine.bind().await.unwrap()).await.unwrap();
    let late = redis.engine(2);
    shown += &format!("{:?} {:?}", late.bind().await.unwrap_err(), late.login_refused());
    late.learn_password(7, SecretVec::new(own.password.clone().into_bytes()));
    late.bind().await.unwrap();
    shown += &format!("{late:?}");
    tracing::trace!("the log is captured");

    let log = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    assert!(log.contains("the log is captured"), "it is not, so this proves nothing");
    assert!(shown.contains("no_such_command"), "the errors say nothing of what was sent: {shown}");
    let server = redis.server.lock().unwrap().log();
    assert!(!server.is_empty(), "the server says nothing, so this proves nothing");
    for secret in [&credential, &own]
        .into_iter()
        .flat_map(|c| [c.password.as_str(), c.verifier.as_str()])
        .chain([EXECUTOR_PASSWORD])
    {
        assert!(!shown.contains(secret), "in errors or Debug");
        assert!(!log.contains(secret), "in the log");
        assert!(!server.contains(secret), "in the server's");
    }
}
