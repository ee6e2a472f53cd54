//! Receivers that lie, are late, or are not the receiver; and what between them and the executor answers in their
//! place.

use std::time::Duration;

use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Login as _, Target as _, assert_ended, order, principal};
use quorate_engines::webhook::{Webhook, WebhookConfig};
use quorate_engines::{Engine, EngineError, Fenced, Refusal, Tls, Trust};
use tokio::io::AsyncReadExt;
use tokio::time::timeout;

use crate::server::{Receiver, SECRET, authority, lease};

/// What is not the answer to this request, in one way or another.
const UNBELIEVED: [&str; 6] = ["forge", "unsigned", "echo", "replay", "rename", "huge"];

#[tokio::test(flavor = "multi_thread")]
async fn who_says_that_it_is_done_is_looked_at() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let credential = lease(&receiver, &engine, "l_done").await;
    let oid = engine.look(&[principal("l_done", None)]).await.unwrap()[0].oid;
    let this = [principal("l_done", oid)];
    let mut session = receiver.session("l_done", &credential.password).await.unwrap();
    receiver.plant("pretend", "refuse", 1).await;
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Disabled { groups_left: vec![] });
    assert!(engine.look(&this).await.unwrap()[0].can_login, "it is not");
    receiver.plant("pretend", "kill", 1).await;
    assert_eq!(engine.kill(&this).await, Ok(1));
    assert_eq!((engine.look(&this).await.unwrap()[0].sessions, session.alive().await), (1, true), "nor this");
    receiver.plant("pretend", "clean", 1).await;
    engine.refuse(&this).await.unwrap();
    engine.clean(&this).await.unwrap();
    assert_eq!(engine.look(&this).await.unwrap()[0].oid, oid, "nor this");
    engine.kill(&this).await.unwrap();
    assert_ended(&engine, &this).await;
}

/// Half a login is none: whoever was refused meanwhile is not let in, and is not seen later either.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_under_way_ends_with_its_account() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let credential = lease(&receiver, &engine, "l_half").await;
    receiver.plant("hold-login", "login", 1).await;
    let (asked, password) = (std::sync::Arc::clone(&receiver), credential.password.clone());
    let half = tokio::spawn(async move { asked.token("l_half", &password).await });
    receiver.struck().await;
    assert!(!half.is_finished(), "it must be under way for this case to mean anything");
    let this = [principal("l_half", None)];
    engine.refuse(&this).await.unwrap();
    engine.kill(&this).await.unwrap();
    assert_ended(&engine, &this).await;
    receiver.release().await;
    assert_eq!(half.await.unwrap(), None);
    assert_ended(&engine, &this).await;
}

/// Of whom nothing is said, nothing is proved.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_is_of_all_that_were_asked_for() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let these = [principal("l_one", None), principal("l_two", None)];
    for fault in ["short", "swap"] {
        for act in ["look", "refuse", "clean"] {
            receiver.plant(fault, act, 1).await;
            let said = match act {
                "look" => engine.look(&these).await.err(),
                "refuse" => engine.refuse(&these).await.err(),
                _ => engine.clean(&these).await.err(),
            };
            assert!(matches!(said, Some(EngineError::Unavailable { .. })), "{fault} {act}: {said:?}");
        }
    }
    assert_eq!(engine.look(&these).await.unwrap().len(), 2);
}

/// It is signed, and the answer to this very request, or it is nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_not_signed_for_this_request_is_none() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    let credential = lease(&receiver, &engine, "l_signed").await;
    let this = [principal("l_signed", None)];
    let before = engine.look(&this).await.unwrap();
    for fault in UNBELIEVED {
        // Once: it is asked again, and believed then.
        receiver.plant(fault, "look", 1).await;
        assert_eq!(engine.look(&this).await.as_ref(), Ok(&before), "{fault}");
        receiver.plant(fault, "look", 2).await;
        let said = engine.look(&this).await;
        assert!(matches!(said, Err(EngineError::Unavailable { .. })), "{fault}: {said:?}");
    }
    assert!(receiver.token("l_signed", &credential.password).await.is_some());
}

/// Whether a login is let in is what a signed answer to this question says, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_login_is_let_in_when_a_believed_answer_says_so() {
    let receiver = Receiver::start().await;
    let engine = receiver.hasty(Duration::from_secs(2));
    let credential = lease(&receiver, &engine, "l_tried").await;
    let password = SecretVec::new(credential.password.clone().into_bytes());
    for fault in UNBELIEVED.into_iter().chain(["drop", "late"]) {
        receiver.plant(fault, "try-out", 2).await;
        let said = engine.try_out("l_tried", &password).await;
        assert!(matches!(said, Err(EngineError::Unavailable { .. })), "{fault}: {said:?}");
        assert_eq!(engine.try_out("l_tried", &password).await, Ok(()), "{fault}");
    }
    receiver.plant("lie", "try-out", 1).await;
    let said = engine.try_out("l_tried", &password).await;
    assert!(matches!(&said, Err(EngineError::Refused { code, .. }) if code == "not_let_in"), "{said:?}");
    // What it says goes into logs.
    receiver.plant("tell", "try-out", 1).await;
    let said = engine.try_out("l_tried", &password).await.unwrap_err().to_string();
    assert!(said.contains("not_let_in") && !said.contains(&credential.password), "{said}");
    // One that lets in nobody in truth, and says that it does, says so of a login that has ended too: that is what a proof finds.
    engine.refuse(&[principal("l_tried", None)]).await.unwrap();
    assert!(engine.try_out("l_tried", &password).await.is_err());
    receiver.plant("lie", "try-out", 1).await;
    assert_eq!(engine.try_out("l_tried", &password).await, Ok(()));
}

/// A create whose answer is not to be believed may have been done, whatever it says.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_without_an_answer_is_unknown_until_its_fence() {
    let receiver = Receiver::start().await;
    let engine = receiver.hasty(Duration::from_secs(2));
    let next = receiver.engine(1);
    for fault in UNBELIEVED.into_iter().chain(["drop", "late"]) {
        let name = format!("l_create_{fault}");
        let credential = receiver.credential();
        let create = order(&*receiver, &engine, &name, &credential).await;
        receiver.plant(fault, "create", 2).await;
        let said = engine.create(&create).await;
        assert!(matches!(said, Err(EngineError::Unknown { .. })), "{fault}: {said:?}");
        let Ok(Fenced::Won { oid }) = next.fence(&name, &create.binding).await else {
            panic!("{fault}: it was made");
        };
        assert_eq!(
            engine.create(&create).await,
            Ok(quorate_engines::Created { oid, issued: None }),
            "{fault}: the same order again"
        );
        let this = [principal(&name, Some(oid))];
        next.refuse(&this).await.unwrap();
        assert_ended(&next, &this).await;
        assert!(receiver.token(&name, &credential.password).await.is_none());
        receiver.release().await;
    }
}

/// The same order again has the answer that was lost: one account, and its number.
#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_had_with_the_same_key() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    for fault in UNBELIEVED.into_iter().chain(["drop"]) {
        let name = format!("l_key_{fault}");
        let credential = receiver.credential();
        let create = order(&*receiver, &engine, &name, &credential).await;
        receiver.plant(fault, "create", 1).await;
        let oid = engine.create(&create).await.unwrap().oid;
        assert_eq!(engine.list(&name).await.unwrap(), [principal(&name, Some(oid))], "{fault}");
        assert!(receiver.token(&name, &credential.password).await.is_some());
        let mut other = order(&*receiver, &engine, &name, &credential).await;
        other.max_ttl_seconds += 1;
        assert_eq!(engine.create(&other).await, Err(EngineError::Duplicate), "not quite the same order");
        // Nor does the key bring back who was refused.
        engine.refuse(&[principal(&name, Some(oid))]).await.unwrap();
        assert_eq!(engine.create(&create).await, Err(EngineError::Duplicate));
        assert!(receiver.token(&name, &credential.password).await.is_none());
    }
}

/// What is said of the second try is nothing of the first, which is at work yet.
#[tokio::test(flavor = "multi_thread")]
async fn a_create_that_is_busy_with_itself_is_unknown() {
    let receiver = Receiver::start().await;
    // The receiver waits 2 s for its database.
    let engine = receiver.hasty(Duration::from_secs(4));
    let credential = receiver.credential();
    let create = order(&*receiver, &engine, "l_busy", &credential).await;
    receiver.plant("hold-within", "create", 1).await;
    let said = engine.create(&create).await;
    assert!(matches!(said, Err(EngineError::Unknown { .. })), "{said:?}");
    let busy = engine.look(&[principal("l_busy", None)]).await;
    assert!(matches!(busy, Err(EngineError::Busy { .. })), "{busy:?}");
    receiver.release().await;
    let fenced = receiver.engine(1).fence("l_busy", &create.binding).await;
    assert!(matches!(fenced, Ok(Fenced::Won { .. })), "{fenced:?}");
    assert!(receiver.token("l_busy", &credential.password).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn clocks_that_differ_are_named() {
    let receiver = Receiver::start().await;
    let engine = receiver.engine(1);
    for offset in [-1000, 1000] {
        receiver.set_clock(offset).await;
        match engine.bind().await {
            Err(EngineError::Refused { code, message }) => {
                assert!(code == "timestamp" && message.contains("set the clocks"), "{code}: {message}");
            }
            other => panic!("{other:?}"),
        }
    }
    receiver.set_clock(100).await;
    engine.bind().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_without_the_secret_lets_nobody_in() {
    let receiver = Receiver::start().await;
    let other = SECRET.replace("Y2Fu", "Y2Fx");
    let passwords = SecretVec::new(other.into_bytes()).into();
    let engine = Webhook::new(WebhookConfig { passwords, ..receiver.config(1) }).unwrap();
    let refused = engine.bind().await.unwrap_err();
    assert!(refused.is_login_refused(), "{refused:?}");
    assert_eq!(engine.login_refused(), Some(refused.to_string()));
    let passwords = SecretVec::new(b"too short".to_vec()).into();
    let engine = Webhook::new(WebhookConfig { passwords, ..receiver.config(1) }).unwrap();
    assert!(matches!(engine.bind().await, Err(EngineError::Invalid { field: "password", .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verified_receiver_is_worked_with_and_any_other_told_nothing() {
    let receiver = Receiver::start().await;
    let others = authority("others");
    let trusting = |tls| Webhook::new(WebhookConfig { tls, ..receiver.config(1) });
    let disabled = trusting(Tls::Disabled).map(drop);
    assert!(matches!(disabled, Err(EngineError::Invalid { field: "tls", .. })), "{disabled:?}");
    let strange = || Tls::Verified(Trust::new(&[others.der().to_vec()], None, false).unwrap());
    let said = trusting(strange()).unwrap().bind().await;
    assert!(matches!(&said, Err(EngineError::Refused { code, .. }) if code == "TLS"), "{said:?}");
    let bound = Tls::Verified(Trust::new(&[others.der().to_vec()], None, true).unwrap());
    assert!(matches!(trusting(bound).map(drop), Err(EngineError::Invalid { field: "tls", .. })));

    // Whoever listens in its place hears the beginning of a handshake.
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config = WebhookConfig { tls: strange(), ..receiver.config(1) };
    config.endpoint.port = listener.local_addr().unwrap().port();
    config.connect_timeout = Duration::from_secs(1);
    let engine = Webhook::new(config).unwrap();
    let listening = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut heard = Vec::new();
        let _ = timeout(Duration::from_secs(2), stream.read_to_end(&mut heard)).await;
        heard
    });
    assert!(engine.bind().await.is_err());
    let heard = listening.await.unwrap();
    let has = |text: &str| heard.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(!heard.is_empty() && !has("webhook-") && !has("POST") && !has("quorate"));
}
