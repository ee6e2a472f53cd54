//! A server that crashes, is put back from a backup, or is another one.

use quorate_engines::conformance::{Target as _, order, principal};
use quorate_engines::{Engine, EngineError, Fenced, Refusal};

use crate::server::{Fault, Stub, lease, token};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_starts_anew_knows_what_it_had_done() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let timeline = engine.timeline().await.unwrap();
    let used = token(&lease(&stub, &engine, "r_one").await).unwrap();
    let binding = engine.bind().await.unwrap();
    stub.restart().await;
    assert!(stub.cluster().takes(&used));
    assert_eq!((engine.bind().await, engine.timeline().await), (Ok(binding), Ok(timeline)));
    assert_eq!(engine.refuse(&[principal("r_one", None)]).await.unwrap()[0].outcome, Refusal::Dropped);
    stub.restart().await;
    assert!(!stub.cluster().takes(&used));
    assert_eq!(engine.timeline().await, Ok(timeline), "all the while it was the same cluster");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_in_the_middle_of_a_crash_is_known_afterwards() {
    for step in ["POST /api/v1/namespaces/leases/secrets", "POST /api/v1/namespaces/leases/serviceaccounts/app/token"] {
        for fault in [Fault::LetIn, Fault::Done] {
            let stub = Stub::start().await;
            let (engine, next) = (stub.engine(1), stub.engine(2));
            let create = order(&*stub, &engine, "r_crash", &stub.credential()).await;
            stub.plant(step, fault.clone(), 1);
            let creating = tokio::spawn(async move { (engine.create(&create).await, create) });
            stub.struck(1).await;
            stub.restart().await;
            stub.release();
            let (lost, create) = creating.await.unwrap();
            assert!(matches!(lost, Err(EngineError::Unknown { .. })), "{lost:?}");
            let made = step.ends_with("token") || matches!(fault, Fault::Done);
            let fenced = next.fence("r_crash", &create.binding).await.unwrap();
            assert_eq!(fenced != Fenced::Absent, made, "{step}");
            next.refuse(&[principal("r_crash", None)]).await.unwrap();
            assert!(next.list("r_").await.unwrap().is_empty() && stub.cluster().alive().is_empty());
        }
    }
}

/// What was ended is back, and so is its token: the timeline says that somebody has to look.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_backup_brings_back_is_noticed_and_ended_again() {
    let stub = Stub::start().await;
    let (engine, other) = (stub.engine(1), stub.engine(1));
    let used = token(&lease(&stub, &engine, "r_back").await).unwrap();
    let backup = stub.backup();
    let this = [principal("r_back", None)];
    engine.refuse(&this).await.unwrap();
    assert!(!engine.look(&this).await.unwrap()[0].can_login);
    let timeline = engine.timeline().await.unwrap();
    assert_ne!(other.timeline().await, Ok(timeline), "each hold counts for itself");
    stub.restore(&backup).await;
    assert!(stub.cluster().takes(&used), "this is why");
    let after = engine.timeline().await.unwrap();
    assert_ne!(after, timeline);
    assert_eq!(engine.timeline().await, Ok(after));
    let found = engine.list("r_").await.unwrap();
    assert_eq!(found.len(), 1);
    assert!(engine.look(&found).await.unwrap()[0].can_login);
    assert_eq!(engine.refuse(&found).await.unwrap()[0].outcome, Refusal::Dropped);
    assert!(!stub.cluster().takes(&used));
    // As etcd's own instructions have it, so that no watch is deceived.
    stub.cluster().stored.revision += 1_000_000_000;
    stub.cluster().write();
    assert_ne!(engine.timeline().await, Ok(after));
    let again = engine.timeline().await.unwrap();
    stub.cluster().stored.namespace_uid = "another".to_owned();
    assert_ne!(engine.timeline().await, Ok(again), "the namespace of another cluster, or one that was made anew");
}
