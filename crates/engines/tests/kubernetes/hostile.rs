//! Servers that lie, say nothing, or say what nobody can read; and those that are somebody else.

use std::time::Duration;

use quorate_engines::conformance::{Target as _, order, principal};
use quorate_engines::kubernetes::Kubernetes;
use quorate_engines::{Engine, EngineError, Refusal, Tls, Trust};
use serde_json::json;

use crate::server::{Fault, Stub, authority, code, empty, lease, token};

const SECRETS: &str = "/api/v1/namespaces/leases/secrets";
const TOKEN: &str = "POST /api/v1/namespaces/leases/serviceaccounts/app/token";

/// What is no answer to anything.
fn garbage() -> [String; 8] {
    [
        String::new(),
        "<html>not yet</html>".to_owned(),
        empty(),
        "[]".to_owned(),
        "null".to_owned(),
        json!({ "metadata": { "name": 7, "uid": [] }, "items": {}, "status": "x" }).to_string(),
        json!({ "metadata": { "name": "another", "uid": "u" }, "type": "quorate/lease", "status": { "token": 1 } })
            .to_string(),
        format!("{{\"metadata\":{}", "[".repeat(100_000)),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_never_an_end_nor_a_credential() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let used = token(&lease(&stub, &engine, "h_live").await).unwrap();
    let this = [principal("h_live", None)];
    for body in garbage() {
        let lies = |of: &str| stub.plant(of, Fault::Said(200, "", body.clone()), usize::MAX);
        lies("GET");
        let looked = engine.look(&this).await;
        assert!(matches!(looked, Err(EngineError::Unavailable { .. })), "{body:.60}: {looked:?}");
        assert!(engine.refuse(&this).await.is_err() && engine.timeline().await.is_err());
        let listed = engine.list("h_").await;
        assert!(listed.is_err() || body.contains("quorate/lease"), "{body:.60}: {listed:?}");
        stub.release();

        let mut create = order(&*stub, &engine, "h_made", &stub.credential()).await;
        lies(&format!("POST {SECRETS}"));
        let made = engine.create(&create).await;
        assert!(matches!(made, Err(EngineError::Unknown { .. })), "{body:.60}: {made:?}");
        stub.release();
        lies(TOKEN);
        create.name = "h_token".to_owned();
        let made = engine.create(&create).await;
        assert!(matches!(made, Err(EngineError::Unknown { .. })), "{body:.60}: {made:?}");
        stub.release();
        engine.refuse(&[principal("h_token", None)]).await.unwrap();
    }
    assert_eq!(stub.cluster().alive().len(), 1);
    assert!(stub.cluster().takes(&used));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_it_was_done_is_looked_at() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let used = token(&lease(&stub, &engine, "h_lied").await).unwrap();
    let this = [principal("h_lied", None)];
    let success = json!({ "kind": "Status", "status": "Success" }).to_string();
    stub.plant("DELETE", Fault::Said(200, "", success), 1);
    assert_eq!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Dropped);
    assert!(engine.look(&this).await.unwrap()[0].can_login && stub.cluster().takes(&used), "it is not");
    // Nor is it told by a status alone.
    stub.plant("DELETE", Fault::Said(200, "", empty()), 1);
    assert!(matches!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Failed(_)));
    stub.plant("DELETE", Fault::Said(404, "", empty()), 1);
    assert!(matches!(engine.refuse(&this).await.unwrap()[0].outcome, Refusal::Failed(_)));
    engine.refuse(&this).await.unwrap();
    assert!(!stub.cluster().takes(&used));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_status_says_of_the_effect_is_believed_and_no_more() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let said = |message: &str| json!({ "kind": "Status", "status": "Failure", "message": message }).to_string();
    let created = async |of: &str, name: &str, status: u16, headers: &'static str| {
        let mut create = order(&*stub, &engine, "h_x", &stub.credential()).await;
        create.name = name.to_owned();
        stub.plant(of, Fault::Said(status, headers, said("too many")), 1);
        let said = engine.create(&create).await.unwrap_err();
        stub.release();
        said
    };
    let secrets = format!("POST {SECRETS}");
    let busy = created(&secrets, "h_429", 429, "Retry-After: 7\r\n").await;
    assert!(code(&busy) == "429" && busy.to_string().contains("too many; it asks to wait 7 s"), "{busy}");
    for status in [500, 502, 503, 504] {
        let unknown = created(&secrets, "h_5xx", status, "").await;
        assert!(matches!(unknown, EngineError::Unknown { .. }), "{status}: {unknown}");
    }
    let refused = created(&secrets, "h_403", 403, "").await;
    assert!(code(&refused) == "403" && refused.to_string().contains("too many"), "{refused}");
    // What was made for a token that is refused is taken back.
    for (status, wanted) in [(403, "403"), (404, "404"), (422, "422"), (429, "429"), (503, "503"), (401, "401")] {
        assert_eq!(code(&created(TOKEN, "h_back", status, "").await), wanted);
        assert!(engine.list("h_back").await.unwrap().is_empty());
    }
    let unknown = created(TOKEN, "h_500", 500, "").await;
    assert!(matches!(unknown, EngineError::Unknown { .. }), "{unknown}");
    assert_eq!(engine.list("h_500").await.unwrap().len(), 1, "it is found");
    for (status, wanted) in [(429, "429"), (503, "503"), (403, "403")] {
        stub.plant("GET", Fault::Said(status, "", said("no")), 1);
        assert_eq!(code(&engine.look(&[principal("h_500", None)]).await.unwrap_err()), wanted);
    }
    stub.plant("GET", Fault::Said(500, "", said("no")), 1);
    let lost = engine.look(&[principal("h_500", None)]).await;
    assert!(matches!(lost, Err(EngineError::Unavailable { .. })), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_anybody_wants_is_not_read() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    stub.plant("GET", Fault::Said(200, "", format!("\"{}\"", "a".repeat(9 << 20))), usize::MAX);
    let said = engine.look(&[principal("h_huge", None)]).await;
    assert!(matches!(&said, Err(EngineError::Unavailable { reason }) if reason.contains("more than")), "{said:?}");
    stub.release();
    // A list that goes on for ever, or in a circle.
    let page = json!({ "metadata": { "continue": "again", "resourceVersion": "1" }, "items": [] });
    stub.plant("GET", Fault::Said(200, "", page.to_string()), usize::MAX);
    let said = engine.list("h_").await;
    assert!(matches!(said, Err(EngineError::Unavailable { .. })), "{said:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_answer_is_given_up() {
    let stub = Stub::start().await;
    let mut config = stub.config(1);
    config.answer_timeout = Duration::from_secs(3);
    let engine = Kubernetes::new(config).unwrap();
    let create = order(&*stub, &engine, "h_late", &stub.credential()).await;
    stub.plant(TOKEN, Fault::Late, 1);
    let late = engine.create(&create).await;
    assert!(matches!(&late, Err(EngineError::Unknown { reason }) if reason.contains("no answer in time")), "{late:?}");
    // The next is not given the answer that was for this one.
    stub.release();
    assert_eq!(engine.look(&[principal("h_never", None)]).await.unwrap()[0].oid, None);
    assert_eq!(engine.bind().await, Ok(create.binding));
    assert_eq!(engine.refuse(&[principal("h_late", None)]).await.unwrap()[0].outcome, Refusal::Dropped);
}

/// More than a page, and a server that forgets what it has begun to say.
#[tokio::test(flavor = "multi_thread")]
async fn a_search_has_as_many_pages_as_it_takes() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    {
        let mut cluster = stub.cluster();
        for n in 0..1_200 {
            let name = format!("h-{n:05}-quorate");
            let kind = if n % 100 == 0 { "Opaque" } else { "quorate/lease" };
            let secret = json!({ "type": kind, "metadata": { "name": name, "uid": format!("u{n}") } });
            cluster.stored.secrets.insert(name, secret);
        }
        cluster.write();
    }
    let listed = engine.list("h_").await.unwrap();
    assert_eq!(listed.len(), 1_188, "those that are ours");
    assert!(listed.is_sorted() && engine.list("h_001").await.unwrap().len() == 99);
    let seen = engine.look(&listed).await.unwrap();
    assert!(seen.iter().zip(&listed).all(|(seen, p)| seen.name == p.name && seen.oid == p.oid && seen.can_login));
    let gone = json!({ "kind": "Status", "status": "Failure", "reason": "Expired", "code": 410 }).to_string();
    let page = format!("GET {SECRETS}?fieldSelector=type%3Dquorate%2Flease&limit=500&continue=");
    stub.plant(&page, Fault::Said(410, "", gone.clone()), 2);
    assert_eq!(engine.list("h_").await.unwrap(), listed, "it is begun anew");
    stub.plant(&page, Fault::Said(410, "", gone), 3);
    let error = engine.list("h_").await.unwrap_err();
    assert!(matches!(error, EngineError::Busy { .. }), "{error}");
    // Many are ended at once.
    let refused = engine.refuse(&listed).await.unwrap();
    assert!(refused.iter().zip(&listed).all(|(r, p)| r.oid == p.oid && r.outcome == Refusal::Dropped));
    assert_eq!(stub.secrets().len(), 12, "those that are somebody else's");
}

/// Names that mean something to a path, a selector or a shell are names, or not sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_rule_is_never_sent() {
    let stub = Stub::start().await;
    let engine = stub.engine(1);
    let mut create = order(&*stub, &engine, "h_rule", &stub.credential()).await;
    for groups in [
        vec![],
        vec!["serviceaccount:app/token?dryRun=All"],
        vec!["serviceaccount:../../../kube-system/serviceaccounts/admin"],
        vec!["serviceaccount:app", "serviceaccount:other"],
        vec!["serviceaccount:app", "audience:\u{0}"],
        vec!["serviceaccount:executor"],
    ] {
        create.groups = groups.iter().map(|g| (*g).to_owned()).collect();
        let said = engine.create(&create).await;
        assert!(matches!(said, Err(EngineError::Invalid { field: "groups", .. })), "{groups:?}: {said:?}");
    }
    create.groups = vec!["serviceaccount:app".to_owned(), "audience:\"}},{\"x\":{\"".to_owned()];
    assert!(engine.create(&create).await.is_ok(), "a value stays a value");
    assert_eq!(stub.secrets().iter().filter(|name| !name.starts_with("quorate.")).count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_token_is_sent_to_whom_nobody_vouches_for() {
    let (ours, others) = (authority("ours"), authority("others"));
    let stub = Stub::start_with(Some(&ours)).await;
    let engine = stub.engine(1);
    lease(&stub, &engine, "h_tls").await;
    for (root, name) in [(&others, None), (&ours, Some("elsewhere.example"))] {
        let mut config = stub.config(1);
        config.tls = Tls::Verified(Trust::new(&[root.der().to_vec()], name, false).unwrap());
        let engine = Kubernetes::new(config).unwrap();
        stub.plant("", Fault::Said(200, "", empty()), 1);
        let error = engine.bind().await.unwrap_err();
        assert!(code(&error) == "TLS" && error.to_string().contains("not trusted"), "{error}");
        assert!(engine.login_refused().unwrap().contains("not trusted"));
        assert_eq!(stub.struck_so_far(), 0, "nothing arrived");
        stub.release();
    }
    let mut config = stub.config(1);
    config.tls = Tls::Verified(Trust::new(&stub.roots, None, true).unwrap());
    assert!(matches!(Kubernetes::new(config), Err(EngineError::Invalid { field: "tls", .. })));
}
