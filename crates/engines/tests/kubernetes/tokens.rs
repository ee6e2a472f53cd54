//! What a token is, how long it lives, and what its end is worth.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use quorate_crypto::secret::SecretVec;
use quorate_engines::conformance::{Target as _, order, principal};
use quorate_engines::kubernetes::{Kubernetes, SETTLING};
use quorate_engines::{Cleaning, Engine, EngineError, Fenced, Refusal};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::server::{Fault, GROUP, Stub, code, lease, token};

const TOKEN: &str = "POST /api/v1/namespaces/leases/serviceaccounts/app/token";

fn claims(token: &str) -> Value {
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_issued_says_what_a_client_needs() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let create = order(&*stub, &engine, "t_all", &stub.credential()).await;
    let created = engine.create(&create).await.unwrap();
    let issued = created.issued.unwrap();
    let all: BTreeMap<&str, &str> =
        issued.iter().map(|(name, value)| (name, core::str::from_utf8(value.expose()).unwrap())).collect();
    assert_eq!((all["namespace"], all["service_account"], all.len()), ("leases", "app", 4));
    let claims = claims(all["token"]);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 3_600, "as the lease's longest life");
    assert!(all["expiration"].ends_with('Z') && all["expiration"].len() == 20);
    // For people, and for whoever looks through the namespace.
    let secret = stub.cluster().stored.secrets["t-all-quorate"].clone();
    assert_eq!((&secret["type"], &secret["immutable"]), (&json!("quorate/lease"), &json!(true)));
    assert_eq!(secret["metadata"]["labels"], json!({ "app.kubernetes.io/managed-by": "quorate" }));
    let annotations = json!({ "quorate/target": "t_1", "quorate/name": "t_all", "quorate/service-account": "app" });
    assert_eq!((&secret["metadata"]["annotations"], &secret["data"]), (&annotations, &Value::Null));
    // Whatever the name ends with.
    lease(&stub, &engine, "t_end_").await;
    assert_eq!(engine.list("t_end").await.unwrap()[0].name, "t_end_");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_lives_as_long_as_it_was_asked_to() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let lived = async |name: &str, seconds: u64| {
        let mut create = order(&*stub, &engine, name, &stub.credential()).await;
        create.max_ttl_seconds = seconds;
        let issued = engine.create(&create).await.unwrap().issued.unwrap();
        let claims = claims(core::str::from_utf8(issued.get("token").unwrap().expose()).unwrap());
        claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap()
    };
    assert_eq!(lived("t_short", 1).await, 600, "the API server has no shorter ones");
    assert_eq!(lived("t_long", u64::from(u32::MAX)).await, i64::from(u32::MAX));
    // A short lease ends with its Secret all the same.
    engine.refuse(&[principal("t_short", None), principal("t_long", None)]).await.unwrap();
    assert!(stub.cluster().alive().is_empty());
    stub.cluster().max_expiration = Some(900);
    assert_eq!(lived("t_cut", 3_600).await, 900, "the server may shorten it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_not_what_was_asked_for_is_not_handed_on() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let lie = async |name: &str, change: &dyn Fn(&mut Value)| {
        let mut create = order(&*stub, &engine, name, &stub.credential()).await;
        create.max_ttl_seconds = 600;
        // As the server would make it, but for one thing.
        let uid = "not known before";
        let mut claims = json!({
            "sub": "system:serviceaccount:leases:app", "aud": ["x"], "iat": 1_000_000, "exp": 1_000_600,
            "kubernetes.io": { "secret": { "name": format!("{}-quorate", name.replace('_', "-")), "uid": uid } },
        });
        change(&mut claims);
        let token = format!("e30.{}.e30", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let body = json!({ "status": { "token": token, "expirationTimestamp": "1970-01-12T13:56:40Z" } });
        stub.plant(TOKEN, Fault::Lied(201, body.to_string()), 1);
        let said = engine.create(&create).await;
        stub.release();
        assert_eq!(engine.look(&[principal(name, None)]).await.unwrap()[0].oid, None, "its Secret is gone");
        assert!(stub.cluster().alive().is_empty());
        assert!(!format!("{said:?}").contains(&token));
        said.unwrap_err()
    };
    for (name, change, why) in [
        ("t_uid", &(|_: &mut Value| ()) as &dyn Fn(&mut Value), "not bound to its Secret"),
        ("t_unbound", &|c: &mut Value| c["kubernetes.io"] = json!({}), "not bound to its Secret"),
        ("t_none", &|c: &mut Value| *c = json!([]), "not a JWT"),
    ] {
        let error = lie(name, change).await;
        assert!(code(&error) == "token" && error.to_string().contains(why), "{error}");
    }
    // Longer than it was asked to, by the server that makes it.
    let mut create = order(&*stub, &engine, "t_longer", &stub.credential()).await;
    create.max_ttl_seconds = 600;
    stub.cluster().min_expiration = Some(86_400);
    let error = engine.create(&create).await.unwrap_err();
    assert!(code(&error) == "token" && error.to_string().contains("longer"), "{error}");
    assert!(stub.cluster().issued.len() > 3 && stub.cluster().alive().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_for_others_is_tried_by_asking_about_it() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let mut create = order(&*stub, &engine, "t_for", &stub.credential()).await;
    create.groups = vec![GROUP.to_owned(), "audience:https://vault.example".to_owned(), "audience:b".to_owned()];
    let issued = engine.create(&create).await.unwrap().issued.unwrap();
    let token = String::from_utf8(issued.get("token").unwrap().expose().to_vec()).unwrap();
    assert_eq!(claims(&token)["aud"], json!(["https://vault.example", "b"]));
    assert!(!stub.cluster().takes(&token), "it is not for the API server");
    let issued = issued.encode();
    assert_eq!(engine.try_out("t_for", &issued).await, Ok(()));
    let error = engine.try_out("t_other", &issued).await.unwrap_err();
    assert!(matches!(error, EngineError::Invalid { field: "secret", .. }), "another lease's: {error}");
    assert!(engine.try_out("t_for", &SecretVec::new(vec![1, 2, 3])).await.is_err());
    engine.refuse(&[principal("t_for", None)]).await.unwrap();
    let error = engine.try_out("t_for", &issued).await.unwrap_err();
    assert!(error.is_login_refused(), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_may_not_ask_who_he_is_was_let_in() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let credential = lease(&stub, &engine, "t_mute").await;
    stub.cluster().rights.retain(|right| right.resource != "selfsubjectreviews");
    let issued = SecretVec::new(STANDARD.decode(&credential.password).unwrap());
    assert_eq!(engine.try_out("t_mute", &issued).await, Ok(()));
    engine.refuse(&[principal("t_mute", None)]).await.unwrap();
    assert!(engine.try_out("t_mute", &issued).await.is_err());
}

/// What a look says when the Secret is gone and a server still remembers the token.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_called_ended_as_long_as_a_server_may_remember_it() {
    let stub = Stub::start().await;
    let mut config = stub.config(1);
    config.settling = SETTLING;
    let engine = Kubernetes::new(config).unwrap();
    let this = [principal("t_cache", None)];
    let used = token(&lease(&stub, &engine, "t_cache").await).unwrap();
    stub.cluster().remembers = Duration::from_secs(3_600);
    assert!(stub.cluster().takes(&used));
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Dropped);
    let seen = engine.look(&this).await.unwrap().remove(0);
    assert!(stub.cluster().takes(&used), "this is why");
    assert_eq!((seen.oid, seen.can_login, seen.login_at.len()), (None, true, 0));
    assert!(seen.behind.len() == 1 && seen.behind[0].reason.contains("may still let in"), "{seen:?}");
    // Whoever comes new does not know since when it is gone.
    let mut config = stub.config(2);
    config.settling = SETTLING;
    let next = Kubernetes::new(config).unwrap();
    assert!(next.look(&this).await.unwrap()[0].can_login);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_called_ended_is_taken_by_no_server_any_more() {
    let stub = Stub::start().await;
    // In the proportions of the real one, and faster.
    let mut config = stub.config(1);
    config.settling = Duration::from_millis(1_500);
    let engine = Kubernetes::new(config).unwrap();
    let this = [principal("t_while", None)];
    let used = token(&lease(&stub, &engine, "t_while").await).unwrap();
    stub.cluster().remembers = Duration::from_millis(1_000);
    assert!(stub.cluster().takes(&used));
    engine.refuse(&this).await.unwrap();
    while engine.look(&this).await.unwrap()[0].can_login {
        sleep(Duration::from_millis(50)).await;
    }
    assert!(!stub.cluster().takes(&used));
}

/// A finalizer that somebody puts on every Secret: the server takes the token for a minute more.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_held_back_is_not_called_ended() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    stub.cluster().finalizer = true;
    let used = token(&lease(&stub, &engine, "t_held").await).unwrap();
    let this = [principal("t_held", None)];
    let outcome = engine.refuse(&this).await.unwrap()[0].outcome.clone();
    assert!(matches!(&outcome, Refusal::Failed(EngineError::Busy { code, .. }) if code == "finalizer"), "{outcome:?}");
    assert!(stub.cluster().takes(&used) && engine.look(&this).await.unwrap()[0].can_login);
    let outcome = engine.clean(&this).await.unwrap()[0].outcome.clone();
    assert!(matches!(outcome, Cleaning::Left { reason: Some(_), .. }), "{outcome:?}");
    {
        let mut cluster = stub.cluster();
        cluster.ahead = 120;
        assert!(!cluster.takes(&used));
        cluster.ahead = 0;
        cluster.stored.secrets.remove("t-held-quorate");
        cluster.write();
    }
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Absent);
    assert!(!engine.look(&this).await.unwrap()[0].can_login);
}

/// A Secret of somebody else's under a name of ours is left alone: no token of a lease is bound to it.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_not_touched() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    {
        let mut cluster = stub.cluster();
        let theirs = json!({ "type": "Opaque", "metadata": { "name": "t-theirs-quorate", "uid": "1" }, "data": { "k": "c2VjcmV0" } });
        cluster.stored.secrets.insert("t-theirs-quorate".to_owned(), theirs);
        cluster.write();
    }
    let create = order(&*stub, &engine, "t_theirs", &stub.credential()).await;
    assert_eq!(engine.create(&create).await, Err(EngineError::Duplicate));
    let this = [principal("t_theirs", None)];
    assert_eq!(engine.look(&this).await.unwrap()[0].oid, None);
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Absent);
    assert_eq!(engine.clean(&this).await.unwrap()[0].outcome, Cleaning::Gone);
    assert_eq!(engine.fence("t_theirs", &create.binding).await, Ok(Fenced::Absent));
    assert_eq!(engine.claim("t_theirs").await, Err(EngineError::Duplicate));
    assert_eq!(engine.disclaim(&["t_theirs".to_owned()]).await.unwrap(), ["t_theirs"]);
    assert_eq!((engine.list("t_").await.unwrap(), engine.claims("t_").await.unwrap()), (vec![], vec![]));
    assert!(stub.secrets().contains(&"t-theirs-quorate".to_owned()));
}

/// A Secret that was made anew under its name is another principal, and does not let in who had the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_made_anew_has_another_number() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let first = token(&lease(&stub, &engine, "t_anew").await).unwrap();
    let oid = engine.look(&[principal("t_anew", None)]).await.unwrap()[0].oid;
    engine.refuse(&[principal("t_anew", oid)]).await.unwrap();
    let second = token(&lease(&stub, &engine, "t_anew").await).unwrap();
    assert!(!stub.cluster().takes(&first) && stub.cluster().takes(&second));
    let refused = engine.refuse(&[principal("t_anew", oid)]).await.unwrap().remove(0);
    assert!(refused.oid.is_some() && refused.oid != oid && refused.outcome == Refusal::Dropped);
    assert!(stub.cluster().alive().is_empty());
}
