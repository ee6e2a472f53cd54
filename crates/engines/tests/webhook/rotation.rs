//! The secret is replaced as the password of any target is, and every session of whoever had the one before ends.

use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Target as _, order};
use quorate_engines::webhook::{Webhook, WebhookConfig};
use quorate_engines::{Binding, Engine, EngineError, OwnSessions};

use crate::server::Receiver;

/// As the vault draws it: 32 random bytes in 43 digits.
const NEXT: &str = "n0Zc-kqJ_8gq5Y2H2m1nM8k1yW5Vn1k0c3vJ0vK3pQE";
/// As people write it.
const WRITTEN: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";

fn secret(text: &str) -> SecretVec {
    SecretVec::new(text.as_bytes().to_vec())
}

fn with(receiver: &Receiver, own: &OwnSessions, text: &str) -> Webhook {
    let config = WebhookConfig { passwords: secret(text).into(), own: own.clone(), ..receiver.config(1) };
    Webhook::new(config).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn its_own_secret_is_replaced_and_strangers_end() {
    let receiver = Receiver::start().await;
    let own = OwnSessions::default();
    let engine = Webhook::new(WebhookConfig { own: own.clone(), ..receiver.config(1) }).unwrap();
    let binding = engine.bind().await.unwrap();
    let stranger = receiver.engine(1);
    let theirs = order(&*receiver, &stranger, "r_theirs", &receiver.credential()).await;

    engine.learn_password(7, secret(NEXT));
    for bad in ["", &NEXT[..23], &NEXT.repeat(2)] {
        let said = engine.set_password(bad, &binding).await;
        assert!(matches!(said, Err(EngineError::Invalid { field: "password", .. })), "{said:?}");
    }
    let other = Binding { backend_start_micros: binding.backend_start_micros + 1, ..binding };
    assert_eq!(engine.set_password(NEXT, &other).await, Err(EngineError::StaleBinding));
    assert!(with(&receiver, &own, NEXT).visit().await.unwrap_err().is_login_refused(), "not yet");

    engine.set_password(NEXT, &binding).await.unwrap();
    assert_eq!(engine.bind().await, Ok(binding), "sessions go on");
    assert_eq!(engine.let_in_with(), Some(7), "under the secret that there is now");
    let fresh = with(&receiver, &own, NEXT);
    let second = fresh.bind().await.unwrap();
    assert!(stranger.bind().await.unwrap_err().is_login_refused(), "the one before counts no more");
    assert!(stranger.login_refused().is_some());

    with(&receiver, &own, NEXT).visit().await.unwrap();
    assert_eq!(engine.end_strangers().await, Ok(1), "who only looks whether the secret is right opens no session");
    stranger.learn_password(7, secret(NEXT));
    assert_eq!(stranger.create(&theirs).await, Err(EngineError::StaleBinding));
    assert_eq!((engine.bind().await, fresh.bind().await), (Ok(binding), Ok(second)), "ours are open");
    receiver.restart().await;
    engine.bind().await.unwrap();
    assert!(receiver.engine(1).bind().await.unwrap_err().is_login_refused(), "after a restart too");
    let binding = engine.bind().await.unwrap();
    engine.learn_password(8, secret(WRITTEN));
    engine.set_password(WRITTEN, &binding).await.unwrap();
    with(&receiver, &own, WRITTEN).visit().await.unwrap();
    assert!(with(&receiver, &own, NEXT).visit().await.unwrap_err().is_login_refused());
}

/// Whoever was allowed to send it is allowed no more once a later term has taken over, on whatever connection it comes.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_of_an_earlier_term_comes_too_late() {
    let receiver = Receiver::start().await;
    let (paused, next) = (receiver.engine(1), receiver.engine(2));
    paused.learn_password(7, secret(NEXT));
    let binding = paused.bind().await.unwrap();
    receiver.plant("hold-before", "set-password", 1).await;
    let flying = tokio::spawn(async move { paused.set_password(NEXT, &binding).await });
    receiver.struck().await;
    assert!(!flying.is_finished(), "it must be in flight for this case to mean anything");
    assert_eq!(next.take_over().await, Ok(1));
    receiver.release().await;
    assert_eq!(flying.await.unwrap(), Err(EngineError::StaleBinding));
    next.bind().await.unwrap();
}

/// The target has one of two, and both are tried.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_cut_off_is_had_again() {
    let receiver = Receiver::start().await;
    for (moment, next) in [("die-before", NEXT), ("die-after", "m1Yb-jpI_7fp4X1G1l0mL7j0xV4Um0j9b2uI9uJ2oPD")] {
        let engine = receiver.engine(1);
        engine.learn_password(6, secret(NEXT));
        engine.learn_password(7, secret(next));
        let binding = engine.bind().await.unwrap();
        receiver.plant(moment, "set-password", 1).await;
        let said = engine.set_password(next, &binding).await;
        assert!(matches!(said, Err(EngineError::Unavailable { .. })), "{moment}: {said:?}");
        receiver.revive().await;
        let binding = engine.bind().await.unwrap();
        let known = engine.let_in_with();
        assert_eq!(known == Some(7), moment == "die-after", "{moment}: {known:?}");
        engine.set_password(next, &binding).await.unwrap();
        assert!(with(&receiver, &OwnSessions::default(), next).bind().await.is_ok());
    }
}
