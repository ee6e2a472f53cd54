//! A slow network, a server that sleeps, and an executor that dies: what was given up, and what becomes of it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_engines::conformance::{Target, order, principal};
use quorate_engines::{Engine, EngineError, Fenced};
use tokio::time::sleep;

use crate::server::{Part, Rabbit};

/// Long enough for what was delivered late to be done.
const LATE: Duration = Duration::from_millis(1500);
/// Within this the server makes what it has let pass.
const MADE: Duration = Duration::from_secs(30);
/// Of a caller, before it gives up.
const PATIENCE: Duration = Duration::from_secs(2);

/// One server for all, since it takes a while to start.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_given_up_does_no_harm() {
    let rabbit = Rabbit::start(&[], vec![]).await;
    a_create_that_is_delivered_late_finds_its_session_gone(&rabbit).await;
    what_the_server_had_let_pass_makes_an_account_that_gets_nowhere(&rabbit).await;
    permissions_that_come_late_let_nobody_in(&rabbit).await;
    a_call_that_was_given_up_is_over_before_the_next(&rabbit).await;
    a_create_given_up_on_a_server_that_sleeps_gets_nowhere(&rabbit).await;
}

async fn a_create_that_is_delivered_late_finds_its_session_gone(rabbit: &Arc<Rabbit>) {
    let (dying, next) = (rabbit.hasty(PATIENCE), rabbit.engine(2));
    let credential = rabbit.credential();
    let create = order(&**rabbit, &dying, "f_late", &credential).await;
    rabbit.relay.hold("PUT /api/users/f_late ", Part::All);
    let given_up = dying.create(&create).await;
    assert!(matches!(given_up, Err(EngineError::Unknown { .. })), "{given_up:?}");
    drop(dying);
    assert_eq!(next.fence("f_late", &create.binding).await, Ok(Fenced::Absent));
    rabbit.relay.release();
    sleep(LATE).await;
    assert_eq!(next.list("f_").await.unwrap(), [], "an orphan");
    assert!(rabbit.session("f_late", &credential.password).await.is_none());
}

/// The head of the create has arrived, and with it who asks; its body comes when the session is gone. The server makes the account all the same.
async fn what_the_server_had_let_pass_makes_an_account_that_gets_nowhere(rabbit: &Arc<Rabbit>) {
    let (dying, next) = (rabbit.hasty(PATIENCE), rabbit.engine(2));
    let credential = rabbit.credential();
    let create = order(&**rabbit, &dying, "f_half", &credential).await;
    rabbit.relay.hold("PUT /api/users/f_half ", Part::Body);
    let given_up = dying.create(&create).await;
    assert!(matches!(given_up, Err(EngineError::Unknown { .. })), "{given_up:?}");
    drop(dying);
    assert_eq!(next.fence("f_half", &create.binding).await, Ok(Fenced::Absent));
    rabbit.relay.release();
    // This is what the fence can't prevent, and why permissions come last.
    let mut found = Vec::new();
    let began = Instant::now();
    while found.is_empty() {
        assert!(began.elapsed() < MADE, "whom the server has let pass it makes an account for");
        found = next.list("f_half").await.unwrap();
    }
    assert_eq!(found.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["f_half"]);
    assert!(rabbit.session("f_half", &credential.password).await.is_none(), "it gets nowhere");
    assert!(next.look(&found).await.unwrap()[0].can_login, "and is not called harmless");
    next.refuse(&found).await.unwrap();
    next.clean(&found).await.unwrap();
    assert_eq!(next.list("f_half").await.unwrap(), []);
}

/// The account was made; what lets it in is on its way while its lease is ended.
async fn permissions_that_come_late_let_nobody_in(rabbit: &Arc<Rabbit>) {
    for (part, is_cleaned) in [(Part::All, true), (Part::All, false), (Part::Body, true), (Part::Body, false)] {
        let (issuer, next) = (Arc::new(rabbit.engine(1)), rabbit.engine(2));
        let credential = rabbit.credential();
        let create = order(&**rabbit, &*issuer, "f_rest", &credential).await;
        let binding = create.binding;
        rabbit.relay.hold("PUT /api/permissions/", part);
        let making = tokio::spawn(async move { issuer.create(&create).await });
        rabbit.relay.holds().await;
        let fenced = next.fence("f_rest", &binding).await.unwrap();
        assert!(matches!(fenced, Fenced::Won { .. }), "{fenced:?}");
        let this = [principal("f_rest", None)];
        next.refuse(&this).await.unwrap();
        next.kill(&this).await.unwrap();
        if is_cleaned {
            next.clean(&this).await.unwrap();
        }
        rabbit.relay.release();
        let made = making.await.unwrap();
        let late = part == Part::Body && !is_cleaned;
        assert_eq!(made.is_ok(), late, "{part:?}, cleaned: {is_cleaned}: {made:?}");
        assert!(late || matches!(made, Err(EngineError::Unknown { .. })), "the account was there: {made:?}");
        assert!(rabbit.session("f_rest", &credential.password).await.is_none(), "{part:?}, cleaned: {is_cleaned}");
        assert!(!next.look(&this).await.unwrap()[0].can_login, "{part:?}, cleaned: {is_cleaned}");
        next.clean(&this).await.unwrap();
        assert_eq!(next.list("f_rest").await.unwrap(), []);
    }
}

/// The same executor: what it gave up can't take effect after its next call.
async fn a_call_that_was_given_up_is_over_before_the_next(rabbit: &Arc<Rabbit>) {
    let engine = rabbit.hasty(PATIENCE);
    engine.bind().await.unwrap();
    rabbit.relay.hold("PUT /api/users/g_mark ", Part::All);
    let given_up = engine.claim("g_mark").await;
    assert!(matches!(given_up, Err(EngineError::Unavailable { .. })), "{given_up:?}");
    assert_eq!(engine.claims("g_").await.unwrap(), Vec::<String>::new());
    rabbit.relay.release();
    sleep(LATE).await;
    assert_eq!(engine.claims("g_").await.unwrap(), Vec::<String>::new(), "it was given up, and came back");

    // The caller itself is gone, not only its patience.
    let engine = Arc::new(rabbit.engine(1));
    engine.bind().await.unwrap();
    rabbit.relay.hold("PUT /api/users/g_mark ", Part::All);
    let calling = tokio::spawn({
        let engine = Arc::clone(&engine);
        async move { engine.claim("g_mark").await }
    });
    rabbit.relay.holds().await;
    calling.abort();
    assert!(calling.await.unwrap_err().is_cancelled());
    assert_eq!(engine.claims("g_").await.unwrap(), Vec::<String>::new());
    rabbit.relay.release();
    sleep(LATE).await;
    assert_eq!(engine.claims("g_").await.unwrap(), Vec::<String>::new());

    // And of what makes principals, before there is another session for that.
    let hasty = rabbit.hasty(PATIENCE);
    let create = order(&**rabbit, &hasty, "g_user", &rabbit.credential()).await;
    rabbit.relay.hold("PUT /api/users/g_user ", Part::All);
    assert!(matches!(hasty.create(&create).await, Err(EngineError::Unknown { .. })));
    assert_ne!(hasty.bind().await.unwrap(), create.binding);
    rabbit.relay.release();
    sleep(LATE).await;
    assert_eq!(hasty.list("g_").await.unwrap(), []);

    // A session whose making was given up is not left behind.
    let hasty = rabbit.hasty(PATIENCE);
    let before = rabbit.sessions().await.len();
    rabbit.relay.hold("PUT /api/users/quorate", Part::Body);
    assert!(matches!(hasty.bind().await, Err(EngineError::Unavailable { .. })));
    rabbit.relay.release();
    let began = Instant::now();
    while rabbit.sessions().await.len() == before {
        assert!(began.elapsed() < MADE, "the session is made, late and for nobody");
    }
    assert_eq!(rabbit.sessions().await.len(), before + 1);
    hasty.bind().await.unwrap();
    assert_eq!(rabbit.sessions().await.len(), before + 1, "the next one is there, and it is gone");
}

/// The server does nothing while the call is given up, and then everything at once.
async fn a_create_given_up_on_a_server_that_sleeps_gets_nowhere(rabbit: &Arc<Rabbit>) {
    for round in 0..5 {
        let name = format!("f_sleep{round}");
        let (dying, next) = (rabbit.hasty(PATIENCE), rabbit.engine(2));
        let credential = rabbit.credential();
        let create = order(&**rabbit, &dying, &name, &credential).await;
        next.timeline().await.unwrap();
        rabbit.freeze(true);
        let given_up = dying.create(&create).await;
        assert!(matches!(given_up, Err(EngineError::Unknown { .. })), "{given_up:?}");
        drop(dying);
        rabbit.freeze(false);
        let fenced = next.fence(&name, &create.binding).await.unwrap();
        sleep(LATE).await;
        assert!(rabbit.session(&name, &credential.password).await.is_none(), "{fenced:?}");
        let this = [principal(&name, None)];
        next.refuse(&this).await.unwrap();
        next.clean(&this).await.unwrap();
        assert_eq!(next.list("f_sleep").await.unwrap(), []);
    }
}
