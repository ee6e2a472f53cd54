//! The receiver is killed in the middle: what it has answered is so, and what it has not is known in the end.

use quorate_engines::conformance::{Login as _, Target as _, assert_ended, order, principal};
use quorate_engines::{Engine, EngineError, Fenced, Refusal};

use crate::server::{Receiver, lease};

const MOMENTS: [&str; 2] = ["die-before", "die-after"];

#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_was_cut_off_is_there_or_never_will_be() {
    let receiver = Receiver::start().await;
    for moment in MOMENTS {
        let (engine, next) = (receiver.engine(1), receiver.engine(2));
        let name = format!("k_{}", moment.replace('-', "_"));
        let credential = receiver.credential();
        let create = order(&*receiver, &engine, &name, &credential).await;
        receiver.plant(moment, "create", 1).await;
        let said = engine.create(&create).await;
        assert!(matches!(said, Err(EngineError::Unknown { .. })), "{moment}: {said:?}");
        receiver.revive().await;
        let fenced = next.fence(&name, &create.binding).await.unwrap();
        let late = engine.create(&create).await;
        if moment == "die-before" {
            assert_eq!((fenced, late), (Fenced::Absent, Err(EngineError::StaleBinding)));
            assert!(receiver.token(&name, &credential.password).await.is_none());
        } else {
            let Fenced::Won { oid } = fenced else { panic!("it was made") };
            assert_eq!(late.unwrap().oid, oid, "the answer that was lost");
            let mut session = receiver.session(&name, &credential.password).await.unwrap();
            let this = [principal(&name, Some(oid))];
            next.refuse(&this).await.unwrap();
            assert_eq!((next.kill(&this).await, session.alive().await), (Ok(1), false));
            assert_ended(&next, &this).await;
        }
        let again = order(&*receiver, &engine, &format!("{name}_2"), &credential).await;
        assert_ne!(again.binding, create.binding);
        engine.create(&again).await.unwrap();
    }
}

/// No session of an executor outlives the process, and its number never comes back.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_of_before_a_restart_is_refused() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let before = engine.timeline().await.unwrap();
    let create = order(&*receiver, &engine, "k_stale", &receiver.credential()).await;
    receiver.restart().await;
    assert_ne!(engine.timeline().await.unwrap(), before, "it is searched for what it may have forgotten");
    assert_eq!(engine.create(&create).await, Err(EngineError::StaleBinding));
    let binding = receiver.engine(1).bind().await.unwrap();
    assert!(binding.backend_start_micros > create.binding.backend_start_micros);
    assert_eq!(engine.fence("k_stale", &create.binding).await, Ok(Fenced::Absent));
    assert_eq!(receiver.engine(1).fence("k_stale", &binding).await, Ok(Fenced::Absent));
}

/// Whatever was answered is so after it, and the rest is had by asking again.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_that_was_cut_off_is_gone_on_with() {
    let receiver = Receiver::start().await;
    for moment in MOMENTS {
        let engine = receiver.engine(1);
        let name = format!("k_end_{}", moment.replace('-', "_"));
        let credential = lease(&receiver, &engine, &name).await;
        let oid = engine.look(&[principal(&name, None)]).await.unwrap()[0].oid;
        let this = [principal(&name, oid)];
        let mut session = receiver.session(&name, &credential.password).await.unwrap();

        receiver.plant(moment, "refuse", 1).await;
        assert!(matches!(engine.refuse(&this).await, Err(EngineError::Unavailable { .. })));
        receiver.revive().await;
        assert!(session.alive().await, "a session is a row, too");
        let lets_in = receiver.token(&name, &credential.password).await.is_some();
        assert_eq!(lets_in, moment == "die-before");
        assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Disabled { groups_left: vec![] });

        receiver.plant(moment, "kill", 1).await;
        assert!(matches!(engine.kill(&this).await, Err(EngineError::Unavailable { .. })));
        receiver.revive().await;
        assert_eq!(session.alive().await, moment == "die-before");
        engine.kill(&this).await.unwrap();
        // Not what is remembered, but what is on disk.
        receiver.restart().await;
        assert!(!session.alive().await);
        assert_ended(&engine, &this).await;

        receiver.plant(moment, "clean", 1).await;
        assert!(engine.clean(&this).await.is_err());
        receiver.revive().await;
        engine.clean(&this).await.unwrap();
        assert!(engine.list(&name).await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_was_cut_off_is_asked_for_again() {
    let receiver = Receiver::start().await;
    for moment in MOMENTS {
        let (engine, next) = (receiver.engine(1), receiver.engine(2));
        let create = order(&*receiver, &engine, "k_fence", &receiver.credential()).await;
        receiver.plant(moment, "fence", 1).await;
        assert!(matches!(next.fence("k_fence", &create.binding).await, Err(EngineError::Unavailable { .. })));
        receiver.revive().await;
        assert_eq!(next.fence("k_fence", &create.binding).await, Ok(Fenced::Absent));
        assert_eq!(engine.create(&create).await, Err(EngineError::StaleBinding));
    }
    for moment in MOMENTS {
        let engine = receiver.engine(1);
        receiver.plant(moment, "claim", 1).await;
        assert!(engine.claim("k_claim").await.is_err());
        receiver.revive().await;
        let again = engine.claim("k_claim").await;
        assert_eq!(again, if moment == "die-before" { Ok(()) } else { Err(EngineError::Duplicate) });
        assert_eq!(engine.disclaim(&["k_claim".to_owned()]).await, Ok(vec![]));
    }
}
