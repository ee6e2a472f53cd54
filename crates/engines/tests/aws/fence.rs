//! A create that was given up, wherever it is, and what its fence makes of it.

use std::sync::Arc;
use std::time::Duration;

use quorate_engines::aws::{Aws, AwsConfig};
use quorate_engines::conformance::{Target as _, assert_ended, order, principal};
use quorate_engines::{Cleaning, Create, Engine, EngineError, Fenced, Refusal};
use tokio::time::sleep;

use crate::network::Fault;
use crate::server::{GROUP, Key, Moto, POLICY, ROLE, USER_PATH, user};

/// What each request of a create has in its body, in their order.
const STEPS: [&str; 4] = [USER_PATH, "Action=AddUserToGroup", "Action=AttachUserPolicy", "Action=CreateAccessKey"];

async fn a_create(moto: &Moto, engine: &dyn Engine, name: &str, groups: &[&str]) -> Create {
    let mut create = order(moto, engine, name, &moto.credential()).await;
    create.groups = groups.iter().map(|g| (*g).to_owned()).collect();
    create
}

/// Between any two of its requests, and with each of them under way or its answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_goes_on_after_its_fence_has_no_effect() {
    let moto = Moto::start().await;
    for (n, step) in STEPS.iter().enumerate() {
        for fault in [Fault::HoldRequest, Fault::HoldAnswer] {
            for cleaned in [false, true] {
                let name = format!("f_{n}_{}_{cleaned}", fault == Fault::HoldAnswer);
                let (paused, next) = (moto.engine(1), moto.engine(2));
                let create = a_create(&moto, &paused, &name, &[GROUP, POLICY]).await;
                let binding = create.binding;
                moto.network.plan(step, fault.clone(), 1);
                let flying = tokio::spawn(async move { paused.create(&create).await });
                moto.network.holds().await;

                let this = [principal(&name, None)];
                let fenced = next.fence(&name, &binding).await.unwrap();
                let first_is_under_way = n == 0 && fault == Fault::HoldRequest;
                assert_eq!(fenced == Fenced::Absent, first_is_under_way, "{name}: {fenced:?}");
                assert_eq!(next.fence(&name, &binding).await, Ok(fenced), "it can be repeated");
                next.refuse(&this).await.unwrap();
                assert_ended(&next, &this).await;
                if cleaned {
                    let left = next.clean(&this).await.unwrap().remove(0).outcome;
                    assert_eq!(left == Cleaning::Gone, !first_is_under_way, "a fence is kept: {left:?}");
                }
                moto.network.release();
                let flown = flying.await.unwrap();
                assert!(flown.is_err(), "nobody is given what was fenced: {name}: {flown:?}");
                // What came of it is found, and ended like any other.
                next.refuse(&this).await.unwrap();
                assert_ended(&next, &this).await;
                assert_ne!(moto.has_key(&name).await, Some(true), "{name}");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_keeps_the_name_as_long_as_a_create_may_arrive() {
    let moto = Moto::start().await;
    let (paused, next) = (moto.engine(1), moto.engine(2));
    let create = a_create(&moto, &paused, "f_kept", &[GROUP]).await;
    assert_eq!(next.fence("f_kept", &create.binding).await, Ok(Fenced::Absent));
    let this = [principal("f_kept", None)];
    assert_eq!(next.refuse(&this).await.unwrap()[0].outcome, Refusal::Absent, "a fence is no principal");
    let Cleaning::Left { reason: Some(why), .. } = next.clean(&this).await.unwrap().remove(0).outcome else { panic!() };
    assert!(why.contains("a create may arrive yet"), "{why}");
    assert_eq!(next.list("f_").await.unwrap().len(), 1, "the search finds it, so that it goes one day");
    assert_eq!(paused.create(&create).await, Err(EngineError::Duplicate), "by any of its requests");

    // Of one that was long ago the services take nothing, and the name is free at once.
    let mut old = create.binding;
    old.backend_start_micros -= 20 * 60 * 1_000_000;
    assert_eq!(next.fence("f_old", &old).await, Ok(Fenced::Absent));
    assert_eq!(next.clean(&[principal("f_old", None)]).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_eq!(moto.users().await, ["f_kept"]);
}

/// This is AWS' own rule, which moto does not have: the network keeps it here.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_delivered_long_after_its_binding_is_refused_by_the_service() {
    let moto = Moto::start().await;
    let (paused, next) = (moto.engine(1), moto.engine(2));
    let create = a_create(&moto, &paused, "f_late", &[GROUP]).await;
    sleep(Duration::from_secs(3)).await;
    moto.network.refuse_older(Some(Duration::from_secs(2)));
    let late = paused.create(&create).await;
    assert!(matches!(&late, Err(EngineError::Refused { code, .. }) if code == "RequestExpired"), "{late:?}");
    assert_eq!(moto.users().await, [""; 0], "all of a create is signed for the instant of its binding");

    // The same in the middle: what was made by then is taken back, by requests that are signed for their own instant.
    moto.network.refuse_older(None);
    let create = a_create(&moto, &paused, "f_middle", &[GROUP]).await;
    moto.network.plan("Action=AddUserToGroup", Fault::HoldRequest, 1);
    let flying = tokio::spawn(async move { paused.create(&create).await });
    moto.network.holds().await;
    sleep(Duration::from_secs(3)).await;
    moto.network.refuse_older(Some(Duration::from_secs(2)));
    moto.network.release();
    let late = flying.await.unwrap();
    let expired = matches!(&late, Err(EngineError::Refused { code, .. }) if code == "RequestExpired");
    assert!(expired || matches!(late, Err(EngineError::Unknown { .. })), "{late:?}");
    moto.network.refuse_older(None);
    next.refuse(&[principal("f_middle", None)]).await.unwrap();
    assert_ended(&next, &[principal("f_middle", None)]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_paused_sends_nothing_more() {
    let moto = Moto::start().await;
    let engine = Aws::new(moto.config(1)).unwrap().with_patience(Duration::from_secs(2));
    let create = a_create(&moto, &engine, "f_slow", &[GROUP]).await;
    sleep(Duration::from_secs(3)).await;
    moto.network.seen();
    assert_eq!(engine.create(&create).await, Err(EngineError::StaleBinding));
    assert_eq!(moto.network.seen(), [""; 0], "not one request");

    let create = a_create(&moto, &engine, "f_slow", &[GROUP]).await;
    moto.network.plan(USER_PATH, Fault::HoldAnswer, 1);
    let flying = tokio::spawn(async move { engine.create(&create).await });
    moto.network.holds().await;
    sleep(Duration::from_secs(3)).await;
    moto.network.seen();
    moto.network.release();
    assert!(matches!(flying.await.unwrap(), Err(EngineError::Unknown { .. })));
    assert_eq!(moto.network.seen(), [""; 0], "nor any after the one that took too long");
    assert_eq!(moto.has_key("f_slow").await, Some(false));
}

/// Nobody has the key, and its fence finds the user.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_whose_answer_is_lost_is_ended() {
    let moto = Moto::start().await;
    for (n, step) in STEPS.iter().enumerate() {
        let (engine, next) = (moto.engine(1), moto.engine(2));
        let name = format!("f_lost_{n}");
        let create = a_create(&moto, &engine, &name, &[GROUP, POLICY]).await;
        moto.network.plan(step, Fault::LoseAnswer, 1);
        let lost = engine.create(&create).await;
        assert!(matches!(lost, Err(EngineError::Unknown { .. })), "{step}: {lost:?}");
        moto.network.release();
        assert_eq!(moto.has_key(&name).await, Some(n == 3), "{step}: it was not sent twice, nor anything after it");
        let Ok(Fenced::Won { oid }) = next.fence(&name, &create.binding).await else { panic!("{step}: it was done") };
        let this = [principal(&name, Some(oid))];
        next.refuse(&this).await.unwrap();
        assert_ended(&next, &this).await;
        assert_eq!(moto.has_key(&name).await, Some(false));
        assert_eq!(next.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    }
    assert_eq!(moto.users().await, [""; 0]);
}

/// Servers of the service that do not know it yet are asked again, as long as others may need to be told.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_new_may_not_be_known_yet() {
    let moto = Moto::start().await;
    let config = AwsConfig { propagation: Duration::from_secs(60), ..moto.config(1) };
    let engine = Aws::new(config).unwrap();
    let unknown = crate::network::answer(404, &crate::network::error("NoSuchEntity", "The user cannot be found."));
    for part in [STEPS[1], STEPS[3], "Action=GetUser&"] {
        moto.network.plan(part, Fault::Answer(unknown.clone()), 2);
    }
    let create = a_create(&moto, &engine, "f_new", &[GROUP]).await;
    let made = engine.create(&create).await.unwrap();
    assert!(moto.who(&Key::of(made.issued.as_ref().unwrap())).await.is_some());
}

/// Where it is refused in the middle, nothing stays.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_half_way_is_taken_back() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    let create = a_create(&moto, &engine, "f_half", &[GROUP, "group:nobodys"]).await;
    let refused = engine.create(&create).await;
    assert!(matches!(&refused, Err(EngineError::Refused { code, .. }) if code == "NoSuchEntity"), "{refused:?}");
    assert_eq!(moto.users().await, [""; 0]);
    // The service is busy in the middle.
    let create = a_create(&moto, &engine, "f_half", &[GROUP]).await;
    let busy = crate::network::answer(400, &crate::network::error("Throttling", "Rate exceeded"));
    moto.network.plan("Action=CreateAccessKey", Fault::Answer(busy), 1);
    let refused = engine.create(&create).await;
    assert!(matches!(&refused, Err(EngineError::Busy { code, .. }) if code == "Throttling"), "{refused:?}");
    assert_eq!(moto.users().await, [""; 0]);
    // And it could not be undone.
    let create = a_create(&moto, &engine, "f_half", &[GROUP]).await;
    let denied = crate::network::answer(403, &crate::network::error("AccessDenied", "no"));
    moto.network.release();
    moto.network.plan("Action=CreateAccessKey", Fault::Answer(denied.clone()), 1);
    moto.network.plan("Action=DeleteUser&", Fault::Answer(denied), 1);
    let refused = engine.create(&create).await;
    assert!(matches!(refused, Err(EngineError::Unknown { .. })), "{refused:?}");
    assert_eq!(moto.has_key("f_half").await, Some(false));
}

/// An assumption whose outcome nobody knows: its session may live, and is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_answer_is_lost_counts_as_one() {
    let moto = Moto::start().await;
    let (engine, next) = (moto.engine(1), moto.engine(2));
    for (step, name) in [("Action=AssumeRole", "f_session"), ("Path=%2Fquorate%2Ft1%2Fsession", "f_before")] {
        let create = a_create(&moto, &engine, name, &[ROLE]).await;
        moto.network.plan(step, Fault::LoseAnswer, 1);
        assert!(matches!(engine.create(&create).await, Err(EngineError::Unknown { .. })), "{step}");
        let Ok(Fenced::Won { oid }) = next.fence(name, &create.binding).await else { panic!("{step}") };
        let this = [principal(name, Some(oid))];
        next.refuse(&this).await.unwrap();
        let seen = next.look(&this).await.unwrap().remove(0);
        assert!(seen.can_login && seen.behind[0].reason.starts_with("can not be revoked; dies at 20"), "{seen:?}");
    }
    // One that is fenced before it has taken its name is none, and there is nothing to be waited for.
    let create = a_create(&moto, &engine, "f_none", &[ROLE]).await;
    assert_eq!(next.fence("f_none", &create.binding).await, Ok(Fenced::Absent));
    assert_eq!(engine.create(&create).await, Err(EngineError::Duplicate));
    moto.network.seen();
    assert!(!next.look(&[principal("f_none", None)]).await.unwrap()[0].can_login);
}

/// What others have of that name is not touched.
#[tokio::test(flavor = "multi_thread")]
async fn a_user_that_is_not_ours_is_left_alone() {
    let moto = Moto::start().await;
    let engine = moto.engine(1);
    moto.iam(&[("Action", "CreateUser"), ("UserName", "f_other"), ("Path", "/quorate/t2/user/")]).await;
    let key = moto.new_key("f_other").await;
    let create = a_create(&moto, &engine, "f_other", &[GROUP]).await;
    assert_eq!(engine.create(&create).await, Err(EngineError::Duplicate));
    let this = [principal("f_other", None)];
    assert!(matches!(engine.fence("f_other", &create.binding).await, Err(EngineError::Refused { .. })));
    assert!(matches!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Failed(_)));
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert!(seen.can_login && seen.behind[0].reason.contains("/quorate/t2/user/"), "{seen:?}");
    assert!(matches!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Left { .. }));
    assert_eq!(engine.disclaim(&["f_other".to_owned()]).await.unwrap(), ["f_other"]);
    assert_eq!((engine.list("f_").await, engine.claims("f_").await), (Ok(vec![]), Ok(vec![])));
    assert!(moto.who(&key).await.is_some());
}

/// Many creates at once, each of its own binding.
#[tokio::test(flavor = "multi_thread")]
async fn creates_run_side_by_side() {
    let moto = Moto::start().await;
    let engine = Arc::new(moto.engine(1));
    let creates = (0..8).map(|n| {
        let (moto, engine) = (moto.clone(), engine.clone());
        tokio::spawn(async move { user(&moto, &engine, &format!("f_many_{n}")).await })
    });
    let creates: Vec<_> = creates.collect();
    for create in creates {
        assert!(moto.who(&create.await.unwrap()).await.is_some());
    }
    let all: Vec<_> = engine.list("f_many_").await.unwrap();
    assert_eq!(all.len(), 8);
    engine.refuse(&all).await.unwrap();
    assert_ended(&*engine, &all).await;
    assert!(engine.clean(&all).await.unwrap().iter().all(|c| c.outcome == Cleaning::Gone));
    assert_eq!(moto.users().await, [""; 0]);
}
