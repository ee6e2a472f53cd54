//! A receiver of the contract of docs/webhook.md as a target: the one of `examples/webhook-receiver`, as a process.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

mod canary;
mod contract;
mod hostile;
mod killed;
mod rotation;
mod server;

use std::process::Command;
use std::time::Duration;

use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{self, Login as _, Target as _, order, principal};
use quorate_engines::{Engine, EngineError, Refusal};
use server::{GROUP, Hold, Receiver, lease};
use tokio::time::sleep;

#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite() {
    conformance::run(&*Receiver::start().await).await;
}

/// A create in flight has the database to itself: a fence is told to come back.
#[tokio::test(flavor = "multi_thread")]
async fn it_passes_the_suite_where_creates_block_fences() {
    conformance::run(&*Receiver::start_with(Hold::Within).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_has_its_groups_its_limits_and_its_end() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let credential = receiver.credential();
    let mut create = order(&*receiver, &engine, "h_limits", &credential).await;
    create.groups = vec![GROUP.into(), "no such group".into()];
    let refused = engine.create(&create).await;
    assert!(matches!(&refused, Err(EngineError::Refused { code, .. }) if code == "unknown_group"), "{refused:?}");
    create.groups.pop();
    (create.connection_limit, create.max_ttl_seconds) = (2, 6);
    engine.create(&create).await.unwrap();
    let mut first = receiver.session("h_limits", &credential.password).await.unwrap();
    assert!(receiver.token("h_limits", &credential.password).await.is_some());
    assert!(receiver.token("h_limits", &credential.password).await.is_none(), "a third session");
    // Nobody tells it to end.
    for _ in 0..150 {
        if !first.alive().await {
            break;
        }
        sleep(Duration::from_millis(100)).await;
    }
    assert!(!first.alive().await && receiver.token("h_limits", &credential.password).await.is_none());
    assert!(!engine.look(&[principal("h_limits", None)]).await.unwrap()[0].can_login);
}

/// By the door at which applications come, with what it asks of them, and out again.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_tried_as_applications_use_it() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let credential = receiver.credential();
    let mut create = order(&*receiver, &engine, "h_tried", &credential).await;
    create.connection_limit = 1;
    engine.create(&create).await.unwrap();
    let (password, wrong) = (secret(&credential.password), secret("another"));
    let not_let_in = |said: Result<(), EngineError>| match said {
        Err(EngineError::Refused { code, .. }) => assert_eq!(code, "not_let_in"),
        other => panic!("{other:?}"),
    };
    for _ in 0..2 {
        // The one session that it may have is free again.
        assert_eq!(engine.try_out("h_tried", &password).await, Ok(()));
    }
    let this = [principal("h_tried", None)];
    assert_eq!(engine.look(&this).await.unwrap()[0].sessions, 0);
    not_let_in(engine.try_out("h_tried", &wrong).await);
    not_let_in(engine.try_out("h_nobody", &password).await);
    let mut session = receiver.session("h_tried", &credential.password).await.unwrap();
    not_let_in(engine.try_out("h_tried", &password).await);
    assert!(session.alive().await, "nobody else's session ends by it");
    engine.refuse(&this).await.unwrap();
    engine.kill(&this).await.unwrap();
    not_let_in(engine.try_out("h_tried", &password).await);
    for bad in [secret(""), secret(&"p".repeat(513)), SecretVec::new(vec![0xff])] {
        let said = engine.try_out("h_tried", &bad).await;
        assert!(matches!(said, Err(EngineError::Invalid { field: "secret", .. })), "{said:?}");
    }
    assert!(matches!(engine.try_out("h'", &password).await, Err(EngineError::Invalid { field: "name", .. })));
    // Nothing that it is written with is taken for anything else.
    not_let_in(engine.try_out("h_tried", &secret("\"}\\\u{1}")).await);
}

fn secret(text: &str) -> SecretVec {
    SecretVec::new(text.as_bytes().to_vec())
}

/// The number is the account's, not the name's: whoever has either is ended, and a stranger with the number is left
/// alone.
#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_by_number() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let credential = lease(&receiver, &engine, "h_number").await;
    let oid = engine.look(&[principal("h_number", None)]).await.unwrap()[0].oid;
    let mut session = receiver.session("h_number", &credential.password).await.unwrap();
    sql(&receiver, "DELETE FROM accounts WHERE name = 'h_number'");
    let ghosts = engine.ghosts().await.unwrap().0;
    assert_eq!(ghosts.iter().map(|ghost| Some(ghost.oid)).collect::<Vec<_>>(), [oid], "a session without its account");
    let this = [principal("h_number", oid)];
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert_eq!((seen.oid, seen.can_login, seen.sessions), (None, false, 1));
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Absent);
    assert_eq!((engine.kill(&this).await, session.alive().await), (Ok(1), false));

    let credential = lease(&receiver, &engine, "h_other").await;
    let other = engine.look(&[principal("h_other", None)]).await.unwrap()[0].oid;
    let mut session = receiver.session("h_other", &credential.password).await.unwrap();
    let mistaken = [principal("h_number", other)];
    assert_eq!(engine.kill(&mistaken).await, Ok(0));
    assert!(session.alive().await);
    let seen = engine.look(&mistaken).await.unwrap().remove(0);
    assert_eq!((seen.held_by.as_deref(), seen.sessions), (Some("h_other"), 0));
}

/// More than a page of either.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_has_as_many_pages_as_it_takes() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    sql(
        &receiver,
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 2500) \
         INSERT INTO accounts (name, is_claim, can_login) SELECT printf('p_%05d', i), 1, 0 FROM n",
    );
    let names: Vec<String> = (1..=2500).map(|i| format!("p_{i:05}")).collect();
    let listed = engine.list("p_").await.unwrap();
    assert_eq!(listed.iter().map(|p| p.name.clone()).collect::<Vec<_>>(), names);
    assert_eq!(engine.claims("p_").await.unwrap(), names);
    assert_eq!(engine.claims("p_024").await.unwrap().len(), 100);
    // And more than one request of each that names principals.
    let all = engine.look(&listed).await.unwrap();
    assert!(all.iter().zip(&listed).all(|(seen, p)| seen.name == p.name && seen.oid == p.oid) && all.len() == 2500);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_finds_what_is_missing() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let checked = engine.check(&[GROUP.to_owned(), "nobody knows it".to_owned()]).await.unwrap();
    assert_eq!(checked.unfit.iter().map(|unfit| unfit.name.as_str()).collect::<Vec<_>>(), ["nobody knows it"]);
    assert_eq!((checked.missing, checked.endpoints), (vec![], engine.endpoints()));
    assert!(engine.list("quorate_check").await.unwrap().is_empty(), "a check leaves nothing");
    for (fault, act, rule) in [
        ("deaf", "timeline", "another secret"),
        ("stale", "timeline", "300 s ago"),
        ("forgetful", "timeline", "used before"),
        ("astray", "ghosts", "the act of the path"),
        ("anyway", "create", "ended by a fence"),
    ] {
        receiver.plant(fault, act, 100).await;
        let missing = engine.check(&[]).await.unwrap().missing;
        assert!(missing.len() == 1 && missing[0].statement.contains(rule), "{fault}: {missing:?}");
        receiver.release().await;
        assert!(engine.list("quorate_check").await.unwrap().is_empty(), "{fault}: a check leaves nothing");
    }
    assert_eq!(engine.check(&[]).await.unwrap().missing, []);
}

/// An executor that comes into office ends what those before may yet send.
#[tokio::test(flavor = "multi_thread")]
async fn a_later_term_ends_the_sessions_of_earlier_ones() {
    let receiver = Receiver::start().await;
    let (older, newer) = (receiver.engine(4), receiver.engine(5));
    let create = order(&*receiver, &older, "h_term", &receiver.credential()).await;
    newer.bind().await.unwrap();
    assert_eq!(newer.take_over().await, Ok(1));
    assert_eq!(older.create(&create).await, Err(EngineError::StaleBinding));
    assert_eq!(older.take_over().await, Ok(0));
    let binding = newer.bind().await.unwrap();
    assert_eq!(newer.bind().await, Ok(binding), "its own is open still");
    assert_ne!(older.bind().await, Ok(create.binding));
}

/// What the sample's database says when it is asked by hand.
fn sql(receiver: &Receiver, statement: &str) {
    let script = "import sqlite3, sys; db = sqlite3.connect(sys.argv[1]); db.execute(sys.argv[2]); db.commit()";
    let done = Command::new("python3").args(["-c", script]).arg(receiver.data()).arg(statement).status().unwrap();
    assert!(done.success());
}
