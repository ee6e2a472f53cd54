//! Signed requests that were altered, replayed, or signed by somebody else.

use crate::stage::Stage;
use quorate_state::change::Change;
use quorate_state::ids::{ClusterId, RequestId};
use quorate_state::outcome::Outcome;
use quorate_state::request::{Request, SignedRequest};
use quorate_tests::Cluster;
use quorate_tests::hostile::Draft;
use std::time::{Duration, Instant};

const MINUTE: u64 = 60_000;

pub(crate) async fn section(cluster: &Cluster) {
    let stage = Stage::new(cluster, "requests", 3).await;
    signatures(&stage).await;
    times(&stage).await;
    administrators(&stage).await;
    policies_with_an_error(&stage).await;
    stage.end().await;
    replays(cluster).await;
}

/// What `demo` may do: a version below `app/demo`.
fn put(stage: &Stage<'_>, path: &str) -> Request {
    let draft = Draft::new(stage.cluster, &stage.demo, path).unwrap();
    let sealed = draft.seal().unwrap();
    stage.cluster.request(&stage.demo, draft.change(&sealed.header, &sealed.payload))
}

async fn signatures(stage: &Stage<'_>) {
    let (wire, demo) = (stage.wire(), &stage.demo);
    let request = put(stage, "app/demo/altered");
    let good = SignedRequest::sign(&request, demo.key(), &[]);
    let mut bent = good.clone();
    bent.signatures[0].signature[5] ^= 1;
    stage.refused("a flipped bit in the signature", "bad_signature", "signature", wire.submit(&bent).await).await;
    for (what, byte) in [("id", 40), ("path", 1 + 32 + 16 + 1 + 4 + 7 + 4 + 10), ("end", good.bytes.len() - 800)] {
        let mut altered = good.clone();
        altered.bytes[byte] ^= 1;
        let codes = ["bad_signature", "malformed_command", "not_your_request", "unauthenticated"];
        stage
            .refused_as(&format!("altered under its signature: {what}"), &codes, "", wire.submit(&altered).await)
            .await;
    }
    let mut more = good.clone();
    more.signatures.push(more.signatures[0].clone());
    stage.refused("a signature too many", "bad_signature", "signature", wire.submit(&more).await).await;
    let admin = stage.cluster.identity("admin").unwrap();
    let by_other = SignedRequest::sign(&request, admin.key(), &[]);
    stage.refused("signed with another's key", "not_your_request", "certificate", wire.submit(&by_other).await).await;
    let mut posing = request.clone();
    posing.principal = admin.principal().to_owned();
    let posing = SignedRequest::sign(&posing, demo.key(), &[]);
    stage.refused("in another's name", "not_your_request", "certificate", wire.submit(&posing).await).await;
    let mut borrowed = request.clone();
    borrowed.chain = admin.chain().to_vec();
    borrowed.principal = admin.principal().to_owned();
    let borrowed = SignedRequest::sign(&borrowed, demo.key(), &[]);
    stage.refused("with another's certificate", "not_your_request", "connection", wire.submit(&borrowed).await).await;
    let theirs = stage.cluster.wire(stage.node, admin.tls()).unwrap();
    stage.refused("on another's connection", "not_your_request", "connection", theirs.submit(&good).await).await;
    let mut elsewhere = request.clone();
    elsewhere.cluster = ClusterId([7; 32]);
    let elsewhere = SignedRequest::sign(&elsewhere, demo.key(), &[]);
    stage.refused("for another cluster", "wrong_cluster", "cluster", wire.submit(&elsewhere).await).await;
}

async fn times(stage: &Stage<'_>) {
    let (wire, now) = (stage.wire(), quorate_tests::now());
    for (what, not_after, code) in [
        ("over for a minute", now - MINUTE, "request_too_late"),
        ("over for a second", now - 1_000, "request_too_late"),
        ("over since 1970", 0, "request_too_late"),
        ("valid for an hour", now + 60 * MINUTE, "request_too_long"),
        ("valid for ever", u64::MAX, "request_too_long"),
    ] {
        let mut request = put(stage, "app/demo/timely");
        request.not_after = not_after;
        let signed = SignedRequest::sign(&request, stage.demo.key(), &[]);
        stage.refused(what, code, "clock", wire.submit(&signed).await).await;
    }
}

async fn administrators(stage: &Stage<'_>) {
    let admin = stage.cluster.identity("admin").unwrap();
    let (wire, key) = (stage.cluster.wire(stage.node, admin.tls()).unwrap(), stage.cluster.administrator().unwrap());
    let version = stage.cluster.admin().unwrap().policies().await.unwrap().authority_version;
    let change = Change::PutPolicy { name: "hostile".into(), text: "permit (principal, action, resource);".into() };
    let mut request = stage.cluster.request(&admin, change);
    request.expected_authority_version = Some(version);
    let sign = |request: &Request, keys: &[&_]| SignedRequest::sign(request, admin.key(), keys);
    stage
        .refused("by no administrator", "not_by_administrators", "0 of 1", wire.submit(&sign(&request, &[])).await)
        .await;
    stage.refused("by the caller twice", "bad_signature", "", wire.submit(&sign(&request, &[admin.key()])).await).await;
    stage
        .refused("by one administrator twice", "bad_signature", "", wire.submit(&sign(&request, &[&key, &key])).await)
        .await;
    for (what, expected) in
        [("no version", None), ("an older version", Some(version - 1)), ("a later version", Some(version + 1))]
    {
        request.expected_authority_version = expected;
        request.id = RequestId(quorate_tests::hostile::random());
        let answer = wire.submit(&sign(&request, &[&key])).await;
        stage.refused(&format!("an administrator who saw {what}"), "stale_authority", "", answer).await;
    }
}

async fn policies_with_an_error(stage: &Stage<'_>) {
    for (what, name, text, words) in [
        ("no Cedar", "hostile", "permit everything to everybody", "hostile"),
        (
            "an unknown action",
            "hostile",
            "permit (principal, action == Quorate::Action::\"sekret:open\", resource);",
            "sekret",
        ),
        ("an unknown attribute", "hostile", "permit (principal, action, resource) when { context.nwo > 1 };", "nwo"),
        ("a template", "hostile", "permit (principal == ?principal, action, resource);", ""),
        ("nothing", "hostile", "", ""),
        (
            "a thousand brackets",
            "hostile",
            &format!("permit (principal, action, resource) when {{ {}true{} }};", "(".repeat(1_000), ")".repeat(1_000)),
            "nested",
        ),
    ] {
        let change = Change::PutPolicy { name: name.into(), text: text.into() };
        let answer = stage.cluster.administer(change).await.map_err(|why| why.downcast().unwrap());
        stage.refused(&format!("a policy with {what}"), "policy_invalid", words, answer).await;
    }
    for name in ["", "Hostile", "../x", "a\u{0}b", "x'; --", &"x".repeat(65)] {
        let change = Change::PutPolicy { name: name.into(), text: "permit (principal, action, resource);".into() };
        let answer = stage.cluster.administer(change).await.map_err(|why| why.downcast().unwrap());
        stage
            .refused_as(&format!("a policy named {name:?}"), &["invalid_argument", "policy_invalid"], "", answer)
            .await;
    }
}

/// Sent again, a request has the outcome that it had; sent again when it was forgotten, it is too late.
async fn replays(cluster: &Cluster) {
    let stage = Stage::new(cluster, "replays", 2).await;
    let (wire, demo, path) = (stage.wire(), cluster.client("demo").unwrap(), "app/demo/replayed");
    let mut request = put(&stage, path);
    request.not_after = quorate_tests::now() + 4_000;
    let signed = SignedRequest::sign(&request, stage.demo.key(), &[]);
    let first = wire.submit(&signed).await.unwrap();
    assert_eq!(wire.submit(&signed).await.unwrap(), first, "the same request has the same outcome");
    let mut other = request.clone();
    other.change = Change::DeleteSecret { namespace: "default".into(), path: path.into(), numbers: vec![] };
    let other = SignedRequest::sign(&other, stage.demo.key(), &[]);
    stage.refused("the id of another request", "request_id_reused", "id", wire.submit(&other).await).await;
    // Cluster time has to pass its end, and some command to come after: then its row is gone.
    let deadline = Instant::now() + Duration::from_secs(30);
    let forgotten = loop {
        demo.put("default", "app/demo/well", b"time goes on", None).await.unwrap();
        match wire.submit(&signed).await {
            Ok(again) => assert_eq!(again, first, "until it is forgotten the outcome is the first"),
            Err(failure) => break failure,
        }
        assert!(Instant::now() < deadline, "a request that was over 26 s ago is forgotten");
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    stage
        .refused("replayed after its id was forgotten", "request_too_late", "valid until", Err::<Outcome, _>(forgotten))
        .await;
    let versions = demo.versions("default", path).await.unwrap().versions;
    assert_eq!(versions.len(), 1, "one request has made one version: {versions:?}");
    demo.delete("default", path, &[]).await.unwrap();
}
