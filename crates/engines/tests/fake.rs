//! The suite against the fake, and what the fake does when it is told to fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod support;

use std::sync::Arc;

use async_trait::async_trait;
use quorate_engines::conformance::{self, Credential, Login, Target, order};
use quorate_engines::fake::{FakeTarget, Fault, Step};
use quorate_engines::{Class, Cleaning, Engine, EngineError};

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite() {
    conformance::run(&Memory(FakeTarget::new(Class::Transactional))).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_overwrites_passes_it_too() {
    conformance::run(&Memory(FakeTarget::new(Class::Upsert))).await;
}

struct Memory(FakeTarget);

#[async_trait]
impl Target for Memory {
    async fn executor(&self) -> Arc<dyn Engine> {
        Arc::new(self.0.executor())
    }

    fn credential(&self) -> Credential {
        let verifier = support::scram("any", 1);
        Credential { password: String::new(), verifier }
    }

    fn group(&self) -> String {
        "readers".to_owned()
    }

    async fn login(&self, name: &str, credential: &Credential) -> Option<Box<dyn Login>> {
        let session = self.0.login(name, &credential.verifier)?;
        Some(Box::new(Session(self.0.clone(), session)))
    }

    async fn hold_creates(&self) {
        self.0.hold(Step::Create);
    }

    async fn release(&self) {
        self.0.release(Step::Create);
    }
}

struct Session(FakeTarget, u64);

#[async_trait]
impl Login for Session {
    async fn alive(&mut self) -> bool {
        self.0.alive(self.1)
    }
}

#[tokio::test]
async fn the_fake_fails_before_and_after_its_effect() {
    let target = FakeTarget::new(Class::Transactional);
    let memory = Memory(target.clone());
    let engine = target.executor();
    let credential = memory.credential();
    for (fault, exists) in [(Fault::Before, false), (Fault::After, true)] {
        let create = order(&memory, &engine, "x", &credential).await;
        target.fail(Step::Create, fault);
        assert!(matches!(engine.create(&create).await, Err(EngineError::Unknown { .. })));
        assert_eq!(engine.list("x").await.unwrap().len(), usize::from(exists), "{fault:?}");
    }
    let session = target.login("x", &credential.verifier).unwrap();
    let this = engine.list("x").await.unwrap();
    target.fail(Step::Refuse, Fault::Before);
    assert!(engine.refuse(&this).await.is_err() && target.exposure() == (vec!["x".to_owned()], 1));
    target.fail(Step::Refuse, Fault::After);
    assert!(engine.refuse(&this).await.is_err() && target.exposure() == (vec![], 1));
    assert!(target.alive(session));
    engine.kill(&this).await.unwrap();
    target.own("x", &["other"]);
    assert!(matches!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Left { .. }));
    target.own("x", &[]);
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);

    for (fault, claims) in [(Fault::Before, 0), (Fault::After, 1)] {
        target.fail(Step::Claim, fault);
        assert!(matches!(engine.claim("claim_1").await, Err(EngineError::Unavailable { .. })));
        assert_eq!(engine.claims("claim_").await.unwrap().len(), claims, "{fault:?}");
    }
    assert_eq!(engine.claim("claim_1").await, Err(EngineError::Duplicate));
    target.fail(Step::Disclaim, Fault::After);
    assert!(
        engine.disclaim(&["claim_1".to_owned()]).await.is_err() && engine.claims("claim_").await.unwrap().is_empty()
    );

    assert!(target.resurrect("x") && target.login("x", &credential.verifier).is_some());
    target.stop();
    assert!(matches!(engine.look(&this).await, Err(EngineError::Unavailable { .. })));
    target.start();
    assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 0);
    assert!(engine.look(&this).await.unwrap()[0].can_login);
}

#[tokio::test]
async fn who_arrives_late_is_shown_behind_a_kill_and_a_look() {
    let target = FakeTarget::new(Class::Transactional);
    let memory = Memory(target.clone());
    let engine = target.executor();
    engine.create(&order(&memory, &engine, "x", &memory.credential()).await).await.unwrap();
    let this = engine.list("x").await.unwrap();
    let late = target.arrive_late("x").unwrap();
    engine.refuse(&this).await.unwrap();
    assert!(target.arrive_late("x").is_none(), "it is refused");
    assert_eq!((engine.look(&this).await.unwrap()[0].sessions, engine.kill(&this).await), (0, Ok(0)));
    assert!(engine.look(&this).await.unwrap()[0].sessions == 0 && target.alive(late), "it appears behind this look");
    assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 1);
    assert_eq!((engine.kill(&this).await, target.alive(late)), (Ok(1), false));
}

#[tokio::test]
async fn the_fakes_standbys_lag_and_fail() {
    let target = FakeTarget::new(Class::Transactional);
    let memory = Memory(target.clone());
    target.add_standby("standby");
    let engine = target.executor();
    assert_eq!(engine.endpoints(), ["memory", "standby"]);
    let credential = memory.credential();
    engine.create(&order(&memory, &engine, "x", &credential).await).await.unwrap();
    let this = engine.list("x").await.unwrap();
    let session = target.login_at(Some("standby"), "x", &credential.verifier).unwrap();
    target.pause("standby");
    engine.refuse(&this).await.unwrap();
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert_eq!((seen.can_login, seen.login_at, seen.sessions), (true, vec!["standby".to_owned()], 1));
    assert_eq!(seen.behind.len(), 1);
    assert!(target.login_at(Some("standby"), "x", &credential.verifier).is_some(), "it does not know yet");
    assert_eq!(engine.kill(&this).await.unwrap(), 2);
    assert!(!target.alive(session));
    target.resume("standby");
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert_eq!((seen.can_login, seen.sessions, seen.behind), (false, 0, vec![]));

    target.turn("standby", false);
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert_eq!((seen.can_login, seen.login_at, seen.behind[0].name.as_str()), (true, vec![], "standby"), "it is dark");
    engine.create(&order(&memory, &engine, "y", &credential).await).await.unwrap();
    let (here, these) = (target.login("y", &credential.verifier).unwrap(), engine.list("y").await.unwrap());
    assert_eq!((engine.kill(&these).await, target.alive(here)), (Ok(1), false), "the dark one keeps nobody alive here");
    assert_eq!(engine.ghosts().await.unwrap().1.len(), 1, "nobody knows whose sessions are there");
    target.turn("standby", true);
    assert!(engine.look(&these).await.unwrap()[0].behind.is_empty());
    assert_eq!(engine.timeline().await, Ok(1));
    target.fail_over();
    assert_eq!(engine.timeline().await, Ok(2));
}
