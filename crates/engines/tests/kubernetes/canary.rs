//! No token shows: not in errors, not in `Debug`, not in a log.

use std::io;
use std::sync::{Arc, Mutex};

use quorate_engines::Engine;
use quorate_engines::conformance::{Target as _, order, principal};
use serde_json::json;

use crate::server::{Fault, Stub, authority};

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
async fn no_token_shows() {
    let captured = Captured::default();
    let writer = captured.clone();
    tracing_subscriber::fmt()
        .with_max_level(tracing_subscriber::filter::LevelFilter::TRACE)
        .with_writer(move || writer.clone())
        .init();
    // With TLS, which says a lot at that level.
    let stub = Stub::start_with(Some(&authority("ours"))).await;
    let engine = stub.engine(1);
    let mut shown = format!("{:?} {engine:?}", stub.config(1));
    let mut create = order(&*stub, &engine, "c_one", &stub.credential()).await;
    create.groups.push("audience:x".to_owned());
    let created = engine.create(&create).await.unwrap();
    shown += &format!("{created:?} {create:?} {:?}", engine.create(&create).await);
    let issued = created.issued.unwrap().encode();
    shown += &format!("{:?} {:?}", engine.try_out("c_one", &issued).await, engine.try_out("c_two", &issued).await);
    // One that is issued and not handed on.
    create.name = "c_two".to_owned();
    stub.cluster().min_expiration = Some(1 << 31);
    shown += &format!("{:?}", engine.create(&create).await);
    // A server that says what it was told: the executor's token, and the lease's.
    let issued = stub.cluster().issued.clone();
    for told in issued.iter().chain([&stub.token]) {
        let message = format!("I was told {told}");
        for status in [200, 201, 400, 401, 403, 429, 500] {
            let said = if status < 300 { json!({ "token": told }) } else { json!("Failure") };
            let body = json!({ "kind": "Status", "message": message, "status": said }).to_string();
            stub.plant("", Fault::Said(status, "", body.clone()), usize::MAX);
            let this = [principal("c_one", None)];
            shown += &format!("{:?} {:?}", engine.look(&this).await, engine.refuse(&this).await);
            shown += &format!("{:?} {:?}", engine.check(&[]).await, engine.bind().await);
            shown += &format!("{:?} {:?}", engine.login_refused(), engine.list("c_").await);
            stub.release();
            create.name = format!("c_{status}");
            create.binding = engine.bind().await.unwrap();
            stub.plant("POST", Fault::Said(status, "", body.clone()), usize::MAX);
            shown += &format!("{:?}", engine.create(&create).await);
            stub.release();
        }
    }
    let log = String::from_utf8_lossy(&captured.0.lock().unwrap()).into_owned();
    assert!(log.contains("TRACE"), "the log of what is below is not captured, so this proves nothing");
    assert!(shown.contains("words with a token in them"), "nothing was said that had to be kept back");
    assert_eq!(issued.len(), 2);
    for token in issued.iter().chain([&stub.token]) {
        // The signature by itself, too: the rest says nothing that is secret.
        for part in [token.as_str(), token.rsplit('.').next().unwrap()] {
            assert!(!shown.contains(part), "in errors or Debug");
            assert!(!log.contains(part), "in a log");
        }
    }
}
