//! No secret shows: not in errors, not in `Debug`, not in our log, not in the receiver's.

use std::io;
use std::sync::{Arc, Mutex};

use quorate_crypto::secret::SecretVec;
use quorate_engines::Engine;
use quorate_engines::conformance::{Target as _, order, principal};

use crate::server::{Receiver, SECRET};

const NEXT: &str = "next-canary-next-canary-next-canary-next-ca";

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
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let credential = receiver.credential();
    let mut shown = format!("{:?} {engine:?}", receiver.config(1));
    let mut create = order(&*receiver, &engine, "c_canary", &credential).await;
    engine.create(&create).await.unwrap();
    create.max_ttl_seconds += 1;
    shown += &format!("{create:?} {:?}", engine.create(&create).await);
    create.name = "c_other".into();
    create.groups = vec!["no such group".into()];
    shown += &format!("{:?}", engine.create(&create).await);
    receiver.plant("forge", "look", 2).await;
    shown += &format!("{:?}", engine.look(&[principal("c_canary", None)]).await);
    let password = SecretVec::new(credential.password.as_bytes().to_vec());
    engine.try_out("c_canary", &password).await.unwrap();
    for fault in ["lie", "tell", "drop", "forge", "echo"] {
        receiver.plant(fault, "try-out", 2).await;
        let said = engine.try_out("c_canary", &password).await;
        assert!(said.is_err(), "{fault}");
        shown += &format!("{said:?}");
        receiver.release().await;
    }
    engine.learn_password(7, SecretVec::new(NEXT.as_bytes().to_vec()));
    let binding = engine.bind().await.unwrap();
    receiver.plant("drop", "set-password", 3).await;
    shown += &format!("{:?}", engine.set_password(NEXT, &binding).await);
    engine.set_password(NEXT, &binding).await.unwrap();
    shown += &format!("{engine:?} {:?}", receiver.engine(2).bind().await);

    let log = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    assert!(log.contains("TRACE"), "the log of what is below is not captured, so this proves nothing");
    let told = receiver.log();
    let keys = credential.verifier.rsplit(['$', ':']).take(3);
    let whole = [credential.password.as_str(), &credential.verifier, NEXT, SECRET, &SECRET[6..]];
    for secret in keys.chain(whole) {
        assert!(!shown.contains(secret), "in errors or Debug");
        assert!(!log.contains(secret), "in a log");
        assert!(!told.contains(secret), "in the receiver's log");
    }
}
