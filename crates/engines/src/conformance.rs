//! The suite that every engine passes, the fake among them.
//!
//! It drives an [`Engine`] and observes its target through a [`Target`] handle, which uses another connection than the
//! engine: what an engine says of itself proves nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test suite fails by panicking"
)]

use core::time::Duration;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_crypto::secret::SecretVec;
use tokio::time::{sleep, timeout};

use crate::postgres::template::parse;
use crate::{Binding, Class, Cleaning, Create, Created, Engine, EngineError, Fenced, Principal, Refusal};

/// A target under test, seen from outside.
#[async_trait]
pub trait Target: Send + Sync {
    /// A new executor of this target, with connections of its own: another node, or a later term.
    async fn executor(&self) -> Arc<dyn Engine>;
    /// A fresh password and its verifier. Where the target issues the secret, whatever is sealed with; see [`made`].
    fn credential(&self) -> Credential;
    /// A group that may be granted.
    fn group(&self) -> String;
    /// A group that is refused unseen: it gives power, or is none.
    fn unfit_group(&self) -> String {
        "pg_signal_backend".to_owned()
    }
    /// Logs in as a client would; `None` when the target refuses.
    async fn login(&self, name: &str, credential: &Credential) -> Option<Box<dyn Login>>;
    /// Holds what every create needs, so that one stays in flight until [`release`](Target::release).
    async fn hold_creates(&self);
    /// Lets held creates go on.
    async fn release(&self);
}

/// What a client keeps, and what it sends.
pub struct Credential {
    /// The password; of what a target has issued itself, base64 of its encoding, once it was issued.
    pub password: String,
    /// Its verifier.
    pub verifier: String,
}

/// An open session of a leased principal.
#[async_trait]
pub trait Login: Send {
    /// Whether the target still answers on it.
    async fn alive(&mut self) -> bool;
}

/// Runs every case, each with names of its own.
pub async fn run(target: &dyn Target) {
    a_created_principal_logs_in(target).await;
    a_second_create_is_a_duplicate(target).await;
    nothing_is_sent_on_a_stale_binding(target).await;
    what_is_invalid_is_never_sent(target).await;
    refusing_does_not_end_a_session_and_killing_does(target).await;
    every_step_can_be_repeated(target).await;
    a_fenced_intent_never_comes_to_life(target).await;
    a_fence_finds_that_the_create_won(target).await;
    a_fence_of_many_is_that_of_each(target).await;
    a_fence_beats_a_create_in_flight(target).await;
    the_list_shows_ours_only(target).await;
    a_claim_is_seen_by_all_and_taken_back(target).await;
    what_is_no_claim_is_not_taken_back(target).await;
    a_claim_that_is_given_up_is_there_or_not(target).await;
    what_is_looked_at_is_named(target).await;
}

async fn a_created_principal_logs_in(target: &dyn Target) {
    let engine = target.executor().await;
    let credential = target.credential();
    let create = order(target, &*engine, "cf_login", &credential).await;
    let (oid, credential) = made(&*engine, &create, credential).await;
    assert!(target.login("cf_login", &credential).await.unwrap().alive().await);
    if engine.class() == Class::IssuedByTarget {
        let secret = SecretVec::new(STANDARD.decode(&credential.password).unwrap());
        assert_eq!(engine.try_out("cf_login", &secret).await, Ok(()));
        assert!(engine.try_out("cf_other", &secret).await.is_err(), "it is nobody else's");
        assert!(engine.try_out("cf_login", &SecretVec::new(b"garbage".to_vec())).await.is_err());
    }
    assert!(target.login("cf_login", &target.credential()).await.is_none(), "another password");
    let seen = engine.look(&[principal("cf_login", None)]).await.unwrap();
    assert_eq!((seen[0].oid, seen[0].can_login), (Some(oid), true));
}

async fn a_second_create_is_a_duplicate(target: &dyn Target) {
    let engine = target.executor().await;
    let (first, second) = (target.credential(), target.credential());
    let create = order(target, &*engine, "cf_twice", &first).await;
    let (_, first) = made(&*engine, &create, first).await;
    let again = engine.create(&order(target, &*engine, "cf_twice", &second).await).await;
    if engine.class() == Class::Upsert {
        assert!(again.is_ok() && target.login("cf_twice", &second).await.is_some());
        assert!(target.login("cf_twice", &first).await.is_none(), "at most one verifier of a name");
        return;
    }
    assert_eq!(again, Err(EngineError::Duplicate));
    assert!(target.login("cf_twice", &first).await.is_some() && target.login("cf_twice", &second).await.is_none());
}

async fn nothing_is_sent_on_a_stale_binding(target: &dyn Target) {
    let (engine, other) = (target.executor().await, target.executor().await);
    let credential = target.credential();
    let mut create = order(target, &*other, "cf_stale", &credential).await;
    engine.bind().await.unwrap();
    assert_eq!(engine.create(&create).await, Err(EngineError::StaleBinding), "the connection of another executor");
    create.binding.backend_start_micros += 1;
    assert_eq!(other.create(&create).await, Err(EngineError::StaleBinding), "an earlier process of the same number");
    assert_absent(&*engine, "cf_stale").await;
}

async fn what_is_invalid_is_never_sent(target: &dyn Target) {
    let engine = target.executor().await;
    let credential = target.credential();
    for name in ["", "Cf", "cf\"; DROP ROLE x; --", "cf'", "cf\\", "cf\0", "pg_cf", &"c".repeat(64)] {
        let mut create = order(target, &*engine, "cf_valid", &credential).await;
        create.name = name.to_owned();
        assert!(matches!(engine.create(&create).await, Err(EngineError::Invalid { .. })), "{name:?}");
        let this = [principal(name, Some(1))];
        assert!(matches!(engine.fence(name, &create.binding).await, Err(EngineError::Invalid { .. })), "{name:?}");
        assert!(matches!(engine.refuse(&this).await, Err(EngineError::Invalid { .. })), "{name:?}");
        assert!(matches!(engine.kill(&this).await, Err(EngineError::Invalid { .. })), "{name:?}");
        assert!(matches!(engine.look(&this).await, Err(EngineError::Invalid { .. })), "{name:?}");
        assert!(matches!(engine.clean(&this).await, Err(EngineError::Invalid { .. })), "{name:?}");
    }
    assert!(matches!(engine.list("").await, Err(EngineError::Invalid { .. })), "the empty prefix is everybody");
    // Of what the target issues there is no verifier that could be wrong.
    if engine.class() != Class::IssuedByTarget {
        let mut create = order(target, &*engine, "cf_valid", &credential).await;
        create.verifier.truncate(create.verifier.len() - 1);
        assert!(matches!(engine.create(&create).await, Err(EngineError::Invalid { field: "verifier", .. })));
    }
    let mut create = order(target, &*engine, "cf_valid", &credential).await;
    create.groups = vec![target.unfit_group()];
    assert!(matches!(engine.create(&create).await, Err(EngineError::Invalid { field: "groups", .. })));
    let mut create = order(target, &*engine, "cf_valid", &credential).await;
    create.statements = parse("COMMENT ON ROLE {{name}} IS {{lease}}").unwrap().for_lease("a\0b");
    assert!(matches!(engine.create(&create).await, Err(EngineError::Invalid { field: "statements", .. })));
    assert_absent(&*engine, "cf_valid").await;
}

async fn refusing_does_not_end_a_session_and_killing_does(target: &dyn Target) {
    let engine = target.executor().await;
    let credential = target.credential();
    let create = order(target, &*engine, "cf_steps", &credential).await;
    let (oid, credential) = made(&*engine, &create, credential).await;
    if engine.class() == Class::IssuedByTarget {
        return refusing_is_the_end(target, &*engine, oid, &credential).await;
    }
    let mut session = target.login("cf_steps", &credential).await.unwrap();
    let this = [principal("cf_steps", Some(oid))];

    let refused = engine.refuse(&this).await.unwrap();
    assert_eq!((refused[0].oid, matches!(refused[0].outcome, Refusal::Failed(_))), (Some(oid), false));
    assert!(target.login("cf_steps", &credential).await.is_none(), "refused in the target");
    let seen = engine.look(&this).await.unwrap();
    if engine.class() == Class::IssuedByTarget {
        // What was issued is presented each time: there is no session that anybody sees or ends.
        assert_eq!((seen[0].can_login, seen[0].sessions), (false, 0));
        assert_eq!(engine.kill(&this).await.unwrap(), 0);
    } else {
        assert!(session.alive().await, "only a kill ends a session, and a caller may die before it");
        assert_eq!((seen[0].can_login, seen[0].sessions), (false, 1), "a look is not fooled");
        assert_eq!(engine.kill(&this).await.unwrap(), 1);
    }
    assert_ended(&*engine, &this).await;
    assert!(!session.alive().await);
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_absent(&*engine, "cf_steps").await;
}

/// Where each request is let in by itself, there is no session that could outlive that.
async fn refusing_is_the_end(target: &dyn Target, engine: &dyn Engine, oid: u32, credential: &Credential) {
    let this = [principal("cf_steps", Some(oid))];
    assert!(engine.look(&this).await.unwrap()[0].can_login, "it is not ended before it is refused");
    let mut session = target.login("cf_steps", credential).await.unwrap();
    let refused = engine.refuse(&this).await.unwrap();
    assert_eq!((refused[0].oid, matches!(refused[0].outcome, Refusal::Failed(_))), (Some(oid), false));
    assert!(target.login("cf_steps", credential).await.is_none() && !session.alive().await, "refused in the target");
    assert_eq!(engine.kill(&this).await, Ok(0));
    assert_ended(engine, &this).await;
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_absent(engine, "cf_steps").await;
}

async fn every_step_can_be_repeated(target: &dyn Target) {
    let engine = target.executor().await;
    let credential = target.credential();
    let oid = engine.create(&order(target, &*engine, "cf_again", &credential).await).await.unwrap().oid;
    // One that never was among them.
    let these = [principal("cf_never", None), principal("cf_again", Some(oid))];
    for round in 0..2 {
        let refused = engine.refuse(&these).await.unwrap();
        assert_eq!((refused[0].name.as_str(), &refused[0].outcome), ("cf_never", &Refusal::Absent));
        assert_eq!(refused[1].outcome == Refusal::Absent, round == 1);
        assert_eq!(engine.kill(&these).await.unwrap(), 0);
        assert_ended(&*engine, &these).await;
        assert!(engine.clean(&these).await.unwrap().iter().all(|c| c.outcome == Cleaning::Gone));
    }
}

async fn a_fenced_intent_never_comes_to_life(target: &dyn Target) {
    let (paused, next) = (target.executor().await, target.executor().await);
    let credential = target.credential();
    let create = order(target, &*paused, "cf_fence", &credential).await;
    assert_eq!(next.fence("cf_fence", &create.binding).await, Ok(Fenced::Absent));
    assert_eq!(next.fence("cf_fence", &create.binding).await, Ok(Fenced::Absent), "it can be repeated");
    // The paused leader goes on and sends it.
    let late = paused.create(&create).await;
    let kept = next.class() == Class::IssuedByTarget && late == Err(EngineError::Duplicate);
    assert!(kept || matches!(late, Err(EngineError::StaleBinding | EngineError::Unknown { .. })), "{late:?}");
    assert_absent(&*next, "cf_fence").await;
    // With a new binding it works again. What is issued comes to life under its name, which the fence may keep.
    let name = if next.class() == Class::IssuedByTarget { "cf_fence_next" } else { "cf_fence" };
    let create = order(target, &*paused, name, &credential).await;
    paused.create(&create).await.unwrap();
}

async fn a_fence_finds_that_the_create_won(target: &dyn Target) {
    let engine = target.executor().await;
    let credential = target.credential();
    let create = order(target, &*engine, "cf_won", &credential).await;
    let oid = engine.create(&create).await.unwrap().oid;
    assert_eq!(engine.fence("cf_won", &create.binding).await, Ok(Fenced::Won { oid }));
    assert_eq!(engine.fence("cf_won", &create.binding).await, Ok(Fenced::Won { oid }), "it can be repeated");
}

async fn a_fence_of_many_is_that_of_each(target: &dyn Target) {
    let (issuer, older, ender) = (target.executor().await, target.executor().await, target.executor().await);
    assert_eq!(ender.fence_all(&[]).await, Ok(vec![]));
    let credential = target.credential();
    let was_made = order(target, &*issuer, "cfm_made", &credential).await;
    let oid = issuer.create(&was_made).await.unwrap().oid;
    // Bound to the same connection or to another one, fenced before or not.
    let was_sent = order(target, &*issuer, "cfm_sent", &credential).await;
    let was_bound = order(target, &*older, "cfm_bound", &credential).await;
    assert_eq!(ender.fence("cfm_bound", &was_bound.binding).await, Ok(Fenced::Absent));
    let intents = [
        ("cfm_sent", was_sent.binding),
        ("cfm_made", was_made.binding),
        ("cfm_bound", was_bound.binding),
        ("cfm_none", was_sent.binding),
    ];
    let fenced = vec![Ok(Fenced::Absent), Ok(Fenced::Won { oid }), Ok(Fenced::Absent), Ok(Fenced::Absent)];
    for round in 0..2 {
        assert_eq!(ender.fence_all(&intents).await, Ok(fenced.clone()), "it can be repeated: {round}");
    }
    for (executor, create) in [(&issuer, &was_sent), (&older, &was_bound)] {
        assert!(executor.create(create).await.is_err(), "{} came to life", create.name);
        assert_absent(&*ender, &create.name).await;
    }
    let wrong = ender.fence_all(&[("cfm_none", was_sent.binding), ("no\0name", was_sent.binding)]).await;
    assert!(matches!(wrong, Err(EngineError::Invalid { .. })), "{wrong:?}");
}

async fn a_fence_beats_a_create_in_flight(target: &dyn Target) {
    let (issuer, ender) = (target.executor().await, target.executor().await);
    let mut credential = target.credential();
    let create = order(target, &*issuer, "cf_flight", &credential).await;
    let binding: Binding = create.binding;
    ender.look(&[]).await.unwrap();
    target.hold_creates().await;
    let flying = tokio::spawn(async move { issuer.create(&create).await });
    sleep(Duration::from_millis(200)).await;
    assert!(!flying.is_finished(), "the create must be in flight for this case to mean anything");

    // While the target holds creates, the name may be out of reach too: "busy", and another try.
    let first = ender.fence("cf_flight", &binding).await;
    assert!(matches!(first, Err(EngineError::Busy { .. }) | Ok(_)), "{first:?}");
    target.release().await;
    let fenced = match first {
        Ok(fenced) => fenced,
        Err(_) => fence_at_last(&*ender, "cf_flight", &binding).await,
    };
    let flown = timeout(Duration::from_secs(10), flying).await.expect("the create ends").unwrap();
    match fenced {
        Fenced::Absent => {
            assert!(flown.is_err(), "{flown:?}");
            sleep(Duration::from_millis(300)).await;
            assert_absent(&*ender, "cf_flight").await;
        }
        Fenced::Won { oid } => {
            if let Ok(created) = flown {
                (_, credential) = taken(&*ender, created, credential);
            }
            let this = [principal("cf_flight", Some(oid))];
            ender.refuse(&this).await.unwrap();
            ender.kill(&this).await.unwrap();
            assert_ended(&*ender, &this).await;
        }
    }
    assert!(target.login("cf_flight", &credential).await.is_none(), "an orphan");
}

async fn the_list_shows_ours_only(target: &dyn Target) {
    let engine = target.executor().await;
    let mut expected = Vec::new();
    for name in ["cfl_a", "cfl_b", "cfx_c"] {
        let create = order(target, &*engine, name, &target.credential()).await;
        expected.push(principal(name, Some(engine.create(&create).await.unwrap().oid)));
    }
    let mut list = engine.list("cfl_").await.unwrap();
    list.sort();
    assert_eq!(list, expected[..2]);
}

async fn a_claim_is_seen_by_all_and_taken_back(target: &dyn Target) {
    let (ours, others) = (target.executor().await, target.executor().await);
    for name in ["cfc_02", "cfc_01", "cfd_01"] {
        ours.claim(name).await.unwrap();
    }
    assert_eq!(others.claims("cfc_").await.unwrap(), ["cfc_01", "cfc_02"], "in order, and no other prefix");
    assert_eq!(others.claim("cfc_01").await, Err(EngineError::Duplicate), "whoever comes second sees it");
    let seen = ours.look(&[principal("cfc_01", None)]).await.unwrap();
    assert!(seen[0].oid.is_some() && !seen[0].can_login, "a claim is an account that can't log in: {seen:?}");
    let names = ["cfc_01".to_owned(), "cfc_02".to_owned(), "cfc_never".to_owned()];
    for _ in 0..2 {
        assert_eq!(others.disclaim(&names).await, Ok(vec![]), "it can be repeated");
        assert_eq!(ours.claims("cfc_").await, Ok(vec![]));
    }
    assert_eq!(ours.claims("cfd_").await.unwrap(), ["cfd_01"]);
    ours.claim("cfc_01").await.unwrap();
}

async fn what_is_no_claim_is_not_taken_back(target: &dyn Target) {
    let engine = target.executor().await;
    let credential = target.credential();
    let create = order(target, &*engine, "cfe_live", &credential).await;
    let (_, credential) = made(&*engine, &create, credential).await;
    assert_eq!(engine.claim("cfe_live").await, Err(EngineError::Duplicate));
    assert_eq!(engine.disclaim(&["cfe_live".to_owned()]).await.unwrap(), ["cfe_live"], "it stays, and that is said");
    assert!(target.login("cfe_live", &credential).await.is_some(), "a claim and its end touch no principal");
    assert_eq!(engine.claims("cfe_").await.unwrap(), ["cfe_live"], "whatever has such a name is shown");
    for name in ["", "Cf", "cf\"; DROP ROLE x; --", "pg_cf", &"c".repeat(64)] {
        let names = [name.to_owned()];
        assert!(matches!(engine.claim(name).await, Err(EngineError::Invalid { .. })), "{name:?}");
        assert!(matches!(engine.claims(name).await, Err(EngineError::Invalid { .. })), "{name:?}");
        assert!(matches!(engine.disclaim(&names).await, Err(EngineError::Invalid { .. })), "{name:?}");
    }
}

/// Whenever its executor dies, the next one's claim of the same name ends in one account of that name.
async fn a_claim_that_is_given_up_is_there_or_not(target: &dyn Target) {
    for micros in [0, 100, 300, 1000, 3000] {
        let (dying, next) = (target.executor().await, target.executor().await);
        dying.timeline().await.unwrap();
        let _ = timeout(Duration::from_micros(micros), dying.claim("cfg_up")).await;
        drop(dying);
        let again = next.claim("cfg_up").await;
        assert!(matches!(again, Ok(()) | Err(EngineError::Duplicate)), "{again:?}");
        assert_eq!(next.claims("cfg_").await.unwrap(), ["cfg_up"]);
        assert_eq!(next.disclaim(&["cfg_up".to_owned()]).await, Ok(vec![]));
    }
}

async fn what_is_looked_at_is_named(target: &dyn Target) {
    let engine = target.executor().await;
    let endpoints = engine.endpoints();
    assert!(!endpoints.is_empty());
    let checked = engine.check(&[target.group()]).await.unwrap();
    assert_eq!(checked.endpoints, endpoints, "a proof and a check name the same");
    assert_eq!(checked.timeline, engine.timeline().await.unwrap());
    let credential = target.credential();
    engine.create(&order(target, &*engine, "cf_where", &credential).await).await.unwrap();
    let seen = engine.look(&[principal("cf_where", None)]).await.unwrap();
    assert_eq!(seen[0].login_at, endpoints, "it may log in at each");
}

/// An order for a principal, bound to the engine's connection.
pub async fn order(target: &dyn Target, engine: &dyn Engine, name: &str, credential: &Credential) -> Create {
    Create {
        name: name.to_owned(),
        verifier: credential.verifier.clone(),
        groups: vec![target.group()],
        statements: Vec::new(),
        connection_limit: 5,
        max_ttl_seconds: 3600,
        binding: engine.bind().await.unwrap(),
    }
}

/// Makes a principal: its number, and what logs in as it. Where the target issues that, it is in place of the password, encoded and in base64.
pub async fn made(engine: &dyn Engine, create: &Create, asked: Credential) -> (u32, Credential) {
    taken(engine, engine.create(create).await.unwrap(), asked)
}

/// The same of what was made.
fn taken(engine: &dyn Engine, created: Created, asked: Credential) -> (u32, Credential) {
    assert_eq!(created.issued.is_some(), engine.class() == Class::IssuedByTarget, "who makes the secret");
    let issued = created.issued.map(|fields| STANDARD.encode(fields.encode().expose()));
    (created.oid, Credential { password: issued.unwrap_or(asked.password), verifier: asked.verifier })
}

/// A name and perhaps a number.
#[must_use]
pub fn principal(name: &str, oid: Option<u32>) -> Principal {
    Principal { name: name.to_owned(), oid }
}

/// A fence is repeated for as long as the target is busy.
async fn fence_at_last(engine: &dyn Engine, name: &str, binding: &Binding) -> Fenced {
    for _ in 0..100 {
        match engine.fence(name, binding).await {
            Err(EngineError::Busy { .. }) => sleep(Duration::from_millis(20)).await,
            other => return other.unwrap(),
        }
    }
    panic!("the target stays busy");
}

/// No login and no session, within the time a terminated session takes to go.
pub async fn assert_ended(engine: &dyn Engine, principals: &[Principal]) {
    for _ in 0..100 {
        let seen = engine.look(principals).await.unwrap();
        assert!(seen.iter().all(|s| !s.can_login), "{seen:?}");
        if seen.iter().all(|s| s.sessions == 0) {
            return;
        }
        sleep(Duration::from_millis(20)).await;
    }
    panic!("sessions stay alive: {principals:?}");
}

async fn assert_absent(engine: &dyn Engine, name: &str) {
    let seen = engine.look(&[principal(name, None)]).await.unwrap();
    assert_eq!((seen[0].oid, seen[0].can_login), (None, false), "{name}");
}
