//! An executor that is stopped at each of its steps and goes on when it is over; answers that are lost; sessions.

use std::sync::Arc;
use std::time::Duration;

use quorate_engines::conformance::{Target, order, principal};
use quorate_engines::kubernetes::Kubernetes;
use quorate_engines::{Create, Created, Engine, EngineError, Fenced, Refusal};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use crate::server::{Fault, Stub, lease, token};

const SECRETS: &str = "/api/v1/namespaces/leases/secrets";
/// All that a create asks for, in its order.
fn steps() -> [String; 3] {
    [
        format!("POST {SECRETS}"),
        format!("GET {SECRETS}/quorate."),
        "POST /api/v1/namespaces/leases/serviceaccounts/app/token".to_owned(),
    ]
}

type Creating = JoinHandle<Result<Created, EngineError>>;

/// A create that is stopped at that step, and the create itself.
async fn stopped(stub: &Stub, engine: &Arc<Kubernetes>, name: &str, step: &str, fault: &Fault) -> (Creating, Create) {
    let credential = stub.credential();
    let create = order(stub, &**engine, name, &credential).await;
    let again = order(stub, &**engine, name, &credential).await;
    assert_eq!(create.binding, again.binding, "one session for all");
    let before = stub.struck_so_far();
    stub.plant(step, fault.clone(), 1);
    let engine = Arc::clone(engine);
    let creating = tokio::spawn(async move { engine.create(&again).await });
    stub.struck(before + 1).await;
    (creating, create)
}

/// A server that remembers for long whom it let in, and whose watch has stopped: neither helps who comes too late.
async fn slow_to_learn() -> Arc<Stub> {
    let stub = Stub::start().await;
    stub.cluster().remembers = Duration::from_secs(3_600);
    stub.cluster().watch_lags = true;
    stub
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_on_after_the_fence_gets_no_token() {
    for make in [true, false] {
        for (at, step) in steps().iter().enumerate() {
            for (when, fault) in [Fault::Late, Fault::LetIn, Fault::Done].iter().enumerate() {
                let stub = if make { Stub::start().await } else { slow_to_learn().await };
                let (paused, next) = (Arc::new(stub.engine(1)), stub.engine(2));
                let (creating, create) = stopped(&stub, &paused, "f_stop", step, fault).await;
                let fenced = next.fence("f_stop", &create.binding).await.unwrap();
                // The Secret is there from the moment in which it was made.
                let made = at > 0 || when == 2;
                assert_eq!(fenced != Fenced::Absent, made, "{step} {when}");
                stub.release();
                let created = creating.await.unwrap();
                // Only what had asked after its session already can have come to something.
                let asked = at == 2 || (at == 1 && when == 2);
                assert_eq!(created.is_ok(), asked, "{step} {when}: {created:?}");
                assert_eq!(
                    paused.create(&create).await,
                    Err(if asked { EngineError::Duplicate } else { EngineError::StaleBinding })
                );
                if fenced == Fenced::Absent {
                    assert_eq!(created, Err(EngineError::StaleBinding), "{step} {when}");
                    assert_eq!(next.list("f_").await.unwrap(), [], "{step} {when}: nothing is left");
                    assert_eq!(stub.cluster().issued, Vec::<String>::new(), "{step} {when}: nor was there a token");
                    continue;
                }
                let this = [principal("f_stop", None)];
                let refused = next.refuse(&this).await.unwrap()[0].outcome.clone();
                assert_eq!(refused, if asked { Refusal::Dropped } else { Refusal::Absent }, "{step} {when}");
                let mut cluster = stub.cluster();
                (cluster.watch_lags, cluster.remembers) = (false, Duration::ZERO);
                cluster.write();
                assert!(cluster.alive().is_empty(), "{step} {when}");
            }
        }
    }
}

/// The lease was fenced, found and ended while its create stood still.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_on_after_the_end_gets_no_token() {
    for step in &steps() {
        for fault in [Fault::Late, Fault::LetIn, Fault::Done] {
            let stub = Stub::start().await;
            let (paused, next) = (Arc::new(stub.engine(1)), stub.engine(2));
            let (creating, create) = stopped(&stub, &paused, "f_end", step, &fault).await;
            next.fence("f_end", &create.binding).await.unwrap();
            let this = [principal("f_end", None)];
            next.refuse(&this).await.unwrap();
            assert!(!next.look(&this).await.unwrap()[0].can_login);
            stub.release();
            let created = creating.await.unwrap();
            assert!(stub.cluster().alive().is_empty(), "{step}: {created:?}");
            assert!(!next.look(&this).await.unwrap()[0].can_login && next.list("f_").await.unwrap().is_empty());
            if let Ok(created) = created {
                // It was made before its Secret was removed, and its answer came late.
                let token = created.issued.unwrap().get("token").unwrap().expose().to_vec();
                assert!(!stub.cluster().takes(&String::from_utf8(token).unwrap()));
            }
        }
    }
}

/// The other way round: a create is done, from its first step to its last, while the fence stands still.
#[tokio::test(flavor = "multi_thread")]
async fn a_fence_that_is_overtaken_finds_what_was_made() {
    let steps = [
        format!("GET {SECRETS}/quorate."),
        format!("DELETE {SECRETS}/quorate."),
        format!("GET {SECRETS}/f-over-quorate"),
    ];
    for step in &steps {
        for fault in [Fault::Late, Fault::LetIn, Fault::Done] {
            let stub = Stub::start().await;
            let (issuer, next) = (stub.engine(1), Arc::new(stub.engine(2)));
            let create = order(&*stub, &issuer, "f_over", &stub.credential()).await;
            stub.plant(step, fault, 1);
            let (fencer, binding) = (Arc::clone(&next), create.binding);
            let fencing = tokio::spawn(async move { fencer.fence("f_over", &binding).await });
            stub.struck(1).await;
            let created = issuer.create(&create).await;
            stub.release();
            let fenced = fencing.await.unwrap().unwrap();
            match &created {
                Ok(created) => assert_eq!(fenced, Fenced::Won { oid: created.oid }, "{step}"),
                Err(error) => assert_eq!((error, fenced), (&EngineError::StaleBinding, Fenced::Absent), "{step}"),
            }
            assert_eq!(stub.cluster().alive().len(), usize::from(created.is_ok()), "{step}");
        }
    }
}

/// A removal that is delivered late removes what was looked at, and nothing that has the name by then.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_made_since_is_not_removed() {
    let stub = Stub::start().await;
    let (slow, next) = (Arc::new(stub.engine(1)), stub.engine(2));
    let first = token(&lease(&stub, &slow, "f_since").await).unwrap();
    stub.plant(&format!("DELETE {SECRETS}/f-since-quorate"), Fault::Late, 1);
    let this = [principal("f_since", None)];
    let (refuser, asked) = (Arc::clone(&slow), this.clone());
    let refusing = tokio::spawn(async move { refuser.refuse(&asked).await });
    stub.struck(1).await;
    assert_eq!(next.refuse(&this).await.unwrap()[0].outcome, Refusal::Dropped);
    let second = token(&lease(&stub, &next, "f_since").await).unwrap();
    stub.release();
    assert_eq!(refusing.await.unwrap().unwrap()[0].outcome, Refusal::Dropped, "what it looked at is gone");
    assert!(!stub.cluster().takes(&first) && stub.cluster().takes(&second));
}

/// It never goes on: what it had sent arrives all the same.
#[tokio::test(flavor = "multi_thread")]
async fn an_executor_that_died_leaves_at_most_what_lets_nobody_in() {
    for step in &steps() {
        for fault in [Fault::Late, Fault::LetIn, Fault::Done] {
            let stub = Stub::start().await;
            let (dying, next) = (Arc::new(stub.engine(1)), stub.engine(2));
            let (creating, create) = stopped(&stub, &dying, "f_died", step, &fault).await;
            creating.abort();
            assert!(creating.await.is_err());
            let fenced = next.fence("f_died", &create.binding).await.unwrap();
            stub.release();
            // Until what was held has been done, whatever it was.
            sleep(Duration::from_millis(300)).await;
            let left = next.list("f_").await.unwrap();
            if fenced == Fenced::Absent {
                assert!(stub.cluster().issued.is_empty(), "{step}");
            }
            assert!(left.len() <= 1);
            next.refuse(&left).await.unwrap();
            assert_eq!(next.list("f_").await.unwrap(), []);
            assert!(stub.cluster().alive().is_empty(), "{step}");
        }
    }
}

/// Every answer of a create can be lost: nobody knows what came of it, and the fence finds out.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_was_told_of_ends_with_its_secret() {
    for (at, step) in steps().iter().enumerate() {
        let stub = Stub::start().await;
        let engine = stub.engine(1);
        let credential = stub.credential();
        let create = order(&*stub, &engine, "f_lost", &credential).await;
        // What asks may be asked once more.
        stub.plant(step, Fault::Lost, 2);
        let lost = engine.create(&create).await;
        assert!(matches!(lost, Err(EngineError::Unknown { .. })), "{step}: {lost:?}");
        stub.release();
        let fenced = engine.fence("f_lost", &create.binding).await.unwrap();
        assert!(matches!(fenced, Fenced::Won { .. }), "{step}");
        assert_eq!(stub.cluster().alive().len(), usize::from(at == 2), "{step}: a token that nobody has");
        assert_eq!(engine.refuse(&[principal("f_lost", None)]).await.unwrap()[0].outcome, Refusal::Dropped);
        assert!(stub.cluster().alive().is_empty());
        assert_eq!(engine.create(&create).await, Err(EngineError::StaleBinding));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_counted_and_those_of_others_end() {
    let stub = Stub::start().await;
    let (older, newer) = (stub.engine(4), stub.engine(5));
    let create = order(&*stub, &older, "f_term", &stub.credential()).await;
    let binding = newer.bind().await.unwrap();
    assert_eq!((create.binding.backend_start_micros, binding.backend_start_micros), (4, 5));
    assert_eq!(newer.bind().await, Ok(binding), "one that is known is kept");
    assert_eq!(newer.take_over().await, Ok(1));
    assert_eq!(older.create(&create).await, Err(EngineError::StaleBinding));
    assert_eq!((older.take_over().await, newer.take_over().await), (Ok(0), Ok(0)));
    assert_eq!(newer.bind().await, Ok(binding));
    older.bind().await.unwrap();
    assert_eq!(newer.end_strangers().await, Ok(1), "all but its own");
    assert_eq!(newer.bind().await, Ok(binding));
    // Of another target in the same namespace nothing is touched.
    let mut config = stub.config(9);
    config.target = "t-1".to_owned();
    let other = Kubernetes::new(config).unwrap();
    let theirs = other.bind().await.unwrap();
    assert_eq!((stub.engine(10).take_over().await, other.bind().await), (Ok(1), Ok(theirs)));
    // A session that somebody removed is replaced, and not taken for the one of the same name.
    let Ok(first) = newer.bind().await else { panic!("no session") };
    assert_ne!(first, binding);
    assert!(stub.secrets().iter().all(|name| name.starts_with("quorate.")), "{:?}", stub.secrets());
}

/// A session that a finalizer holds back is over all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_held_back_is_over() {
    let stub = Stub::start().await;
    stub.cluster().finalizer = true;
    let (paused, next) = (stub.engine(1), stub.engine(2));
    let create = order(&*stub, &paused, "f_held", &stub.credential()).await;
    assert_eq!(next.fence("f_held", &create.binding).await, Ok(Fenced::Absent));
    let late = paused.create(&create).await;
    // Its own Secret is held back too, and so it can't say that nothing is left.
    assert!(matches!(late, Err(EngineError::Unknown { .. })), "{late:?}");
    assert!(stub.cluster().issued.is_empty());
}

/// Two executors that are asked for the same name at once: one makes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_made_once() {
    let stub = Stub::start().await;
    let mut all = Vec::new();
    for term in 0..4 {
        let engine = stub.engine(term);
        let create = order(&*stub, &engine, "f_once", &stub.credential()).await;
        all.push(tokio::spawn(async move { engine.create(&create).await }));
    }
    let mut made = 0;
    for one in all {
        match one.await.unwrap() {
            Ok(_) => made += 1,
            Err(error) => assert_eq!(error, EngineError::Duplicate),
        }
    }
    assert_eq!((made, stub.cluster().alive().len()), (1, 1));
}
