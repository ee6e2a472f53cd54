//! Secrets through a running cluster: what goes in comes out, by any node, and nobody else gets it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

use quorate_api::client::{Client, Identity};
use quorate_api::status::Failure;
use quorate_api::tls::{CLIENT, TlsIdentity, connect};
use quorate_api::vault::ReadStatusRequest;
use quorate_api::vault::vault_client::VaultClient;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::keyring::KeyringClass;
use quorate_crypto::sealed::{ObjectTemplate, WrapTemplate, seal};
use quorate_crypto::secret::Secret;
use quorate_state::change::Change;
use quorate_state::ids::KeyringId;
use quorate_tests::{Cluster, Options};
use rand_core::UnwrapErr;
use std::time::Duration;

const NAMESPACE: &str = "default";

#[tokio::test]
async fn secrets() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    values(&cluster).await;
    versions(&cluster).await;
    namespaces(&cluster).await;
    one_request_one_version(&cluster).await;
    every_node_and_every_pair(&cluster).await;
    refusals(&cluster).await;
    strangers(&cluster).await;
}

fn code<T>(what: &str, expected: &str, result: Result<T, Failure>) -> Failure {
    match result {
        Ok(_) => panic!("{what}: expected {expected}, and it went through"),
        Err(failure) => {
            assert_eq!(failure.code, expected, "{what}: expected {expected}, got: {failure}");
            failure
        }
    }
}

async fn assert_value(client: &Client, path: &str, number: Option<u64>, expected: &[u8]) {
    let opened = client.get(NAMESPACE, path, number).await;
    let opened = opened.unwrap_or_else(|why| panic!("{path} version {number:?} opens: {why}"));
    let (got, wanted) = (opened.plaintext.expose(), expected);
    assert!(got == wanted, "{path} version {number:?}: {} bytes are not the {} that were put", got.len(), wanted.len());
}

async fn values(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    let large: Vec<u8> = (0..1_048_576u32).map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    let all_bytes: Vec<u8> = (0..=255).collect();
    let values: [(&str, &[u8]); 4] = [
        ("app/demo/one-byte", b"\0"),
        ("app/demo/one-mebibyte", &large),
        ("app/demo/all-bytes", &all_bytes),
        ("app/demo/schlüssel/鍵 🔑", "größer".as_bytes()),
    ];
    for (path, value) in values {
        let put =
            demo.put(NAMESPACE, path, value, Some(0)).await.unwrap_or_else(|why| panic!("{path} is stored: {why}"));
        assert_eq!(put.number, 1, "{path} is new");
        assert_value(&demo, path, None, value).await;
    }
    for (what, value) in [("nothing", Vec::new()), ("a byte more than a mebibyte", vec![7; 1_048_577])] {
        code(what, "invalid_argument", demo.put(NAMESPACE, "app/demo/length", &value, None).await);
    }
    // Two keys: the members' and the customer's. Without the customer's part the members' are worth nothing.
    demo.put(NAMESPACE, "vault/demo/two-keys", b"the customer's", None).await.unwrap();
    assert_value(&demo, "vault/demo/two-keys", None, b"the customer's").await;
    let alone = cluster.through("demo", &[1, 2, 3]).unwrap();
    code("without a custodian", "no_customer_key", alone.get(NAMESPACE, "vault/demo/two-keys", None).await);
}

async fn versions(cluster: &Cluster) {
    let (demo, admin, path) = (cluster.client("demo").unwrap(), cluster.admin().unwrap(), "app/demo/versions");
    for (number, value) in [(1, b"first"), (2, b"secnd"), (3, b"third")] {
        let put = demo.put(NAMESPACE, path, value, Some(number - 1)).await.unwrap();
        assert_eq!(put.number, number, "versions count from 1 without a gap");
    }
    code("check-and-set on 2 when 3 is the newest", "check_and_set", demo.put(NAMESPACE, path, b"lost", Some(2)).await);
    code(
        "check-and-set on none when 3 is the newest",
        "check_and_set",
        demo.put(NAMESPACE, path, b"lost", Some(0)).await,
    );
    assert_value(&demo, path, Some(1), b"first").await;
    assert_value(&demo, path, None, b"third").await;
    code("a version that never was", "not_found", demo.get(NAMESPACE, path, Some(4)).await);

    assert_eq!(demo.delete(NAMESPACE, path, &[2]).await.unwrap(), [2], "version 2 is deleted");
    let failure = code("a deleted version", "not_found", demo.get(NAMESPACE, path, Some(2)).await);
    assert!(failure.message.contains("deleted"), "the message says that it is deleted: {failure}");
    assert_eq!(demo.undelete(NAMESPACE, path, &[2]).await.unwrap(), [2], "version 2 is back");
    assert_value(&demo, path, Some(2), b"secnd").await;

    code("app/demo may not destroy", "denied", demo.destroy(NAMESPACE, path, &[1]).await);
    assert_eq!(admin.destroy(NAMESPACE, path, &[1]).await.unwrap(), [1], "version 1 is destroyed");
    let failure = code("a destroyed version", "not_found", demo.get(NAMESPACE, path, Some(1)).await);
    assert!(failure.message.contains("destroyed"), "the message says that it is destroyed: {failure}");
    let undeleted = demo.undelete(NAMESPACE, path, &[1]).await;
    assert!(!matches!(&undeleted, Ok(back) if back.contains(&1)), "a destroyed version is back: {undeleted:?}");
    code("still destroyed", "not_found", demo.get(NAMESPACE, path, Some(1)).await);
    let states: Vec<String> =
        demo.versions(NAMESPACE, path).await.unwrap().versions.into_iter().map(|v| v.state).collect();
    assert_eq!(states, ["destroyed", "live", "live"]);
}

async fn namespaces(cluster: &Cluster) {
    let (demo, admin) = (cluster.client("demo").unwrap(), cluster.admin().unwrap());
    let ring = admin.profile().keyrings.iter().find(|k| k.class == KeyringClass::Cluster).unwrap();
    let keyring = KeyringId(ring.id());
    admin.create_namespace("team").await.unwrap();
    code("a namespace twice", "exists", admin.create_namespace("team").await);
    admin.create_mount("team", "app", keyring, &[]).await.unwrap();
    code("demo in a namespace that no policy names", "denied", demo.put("team", "app/demo/x", b"1", None).await);
    let scope = "action in [Quorate::Action::\"read\", Quorate::Action::\"write\", Quorate::Action::\"secret:open\"], \
                 resource in Quorate::Namespace::\"team\"";
    cluster.permit("team", &cluster.identity("demo").unwrap(), scope).await.unwrap();
    let mount = "action == Quorate::Action::\"mount:read\", resource == Quorate::Namespace::\"team\"";
    cluster.permit("team-mounts", &cluster.identity("demo").unwrap(), mount).await.unwrap();
    demo.put("team", "app/demo/same", b"of the team", Some(0)).await.unwrap();
    demo.put(NAMESPACE, "app/demo/same", b"of default", Some(0)).await.unwrap();
    assert_eq!(demo.get("team", "app/demo/same", None).await.unwrap().plaintext.expose(), b"of the team");
    assert_eq!(demo.get(NAMESPACE, "app/demo/same", None).await.unwrap().plaintext.expose(), b"of default");
    let listed: Vec<String> = demo.list("team", "app/demo").await.unwrap().into_iter().map(|s| s.path).collect();
    assert_eq!(listed, ["app/demo/same"], "a list shows its own namespace only");
}

/// The same signed bytes at each node: one outcome, one version.
async fn one_request_one_version(cluster: &Cluster) {
    let demo = cluster.client("demo").unwrap();
    let path = "app/demo/once";
    let profile = demo.profile();
    let ring = profile.keyrings.iter().find(|k| k.class == KeyringClass::Cluster).unwrap();
    let writer_id = demo.identity().principal().to_owned();
    let object = ObjectTemplate {
        cluster: profile.cluster.0,
        secret_id: [1; 16],
        version_id: [2; 16],
        created: quorate_tests::now(),
        writer_id: writer_id.clone(),
    };
    let wrap = WrapTemplate { namespace: NAMESPACE.into(), path: path.into(), wrap_no: 0, wrapped_by: writer_id };
    let sealed = seal(b"once", &object, &wrap, ring, &[], &mut UnwrapErr(getrandom::SysRng)).unwrap();
    let change = Change::PutSecret {
        namespace: NAMESPACE.into(),
        path: path.into(),
        header: sealed.header,
        payload: sealed.payload,
        expected: None,
    };
    let signed = demo.sign(change, None);
    let first = cluster.through("demo", &[1]).unwrap().submit(&signed).await.unwrap();
    for member in [2, 3] {
        let again = cluster.through("demo", &[member]).unwrap().submit(&signed).await.unwrap();
        assert_eq!(again.outcome, first.outcome, "node {member} says what became of the request the first time");
    }
    let stored = demo.versions(NAMESPACE, path).await.unwrap().versions;
    assert_eq!(stored.len(), 1, "one request has made one version: {stored:?}");
    assert_value(&demo, path, None, b"once").await;

    let mut other = signed.request().unwrap();
    other.change = Change::DeleteSecret { namespace: NAMESPACE.into(), path: path.into(), numbers: vec![1] };
    let other = quorate_state::request::SignedRequest::sign(&other, demo.identity().key(), &[]);
    code("another request under the same id", "request_id_reused", demo.submit(&other).await);
    assert_value(&demo, path, None, b"once").await;
}

async fn every_node_and_every_pair(cluster: &Cluster) {
    for member in [1, 2, 3] {
        let one = cluster.through("demo", &[member]).unwrap();
        let (path, value) = (format!("app/demo/by-node-{member}"), [member; 40]);
        one.put(NAMESPACE, &path, &value, Some(0))
            .await
            .unwrap_or_else(|why| panic!("node {member} takes a write: {why}"));
        for pair in [[1, 2], [1, 3], [2, 3]] {
            let two = cluster.through("demo", &pair).unwrap();
            assert_value(&two, &path, None, &value).await;
        }
        let one = one.with_timeout(Duration::from_secs(2));
        code("one node alone opens nothing", "not_enough_members", one.get(NAMESPACE, &path, None).await);
    }
}

async fn refusals(cluster: &Cluster) {
    let (demo, admin) = (cluster.client("demo").unwrap(), cluster.admin().unwrap());
    let failure = code("a path with a typo", "not_found", demo.get(NAMESPACE, "app/demo/one-bite", None).await);
    assert!(failure.message.contains("check the name"), "the message says what to do: {failure}");
    let failure = code("a mount with a typo", "not_found", demo.put(NAMESPACE, "ap/demo/x", b"1", None).await);
    assert!(failure.message.contains("no mount ap"), "the message names the mount: {failure}");
    let failure = code("another's folder", "denied", demo.get(NAMESPACE, "app/other/x", None).await);
    for word in ["app/demo", "secret:open", "default:app/other/x"] {
        assert!(failure.message.contains(word), "the message names who, what and where ({word}): {failure}");
    }
    code("writing into another's folder", "denied", demo.put(NAMESPACE, "app/other/x", b"1", None).await);
    code("a path that is none", "invalid_argument", demo.get(NAMESPACE, "app/demo/../x", None).await);
    // Administration does not imply reading.
    code("an administrator who reads", "denied", admin.get(NAMESPACE, "app/demo/one-byte", None).await);
    let by_demo =
        demo.change(Change::PutPolicy { name: "mine".into(), text: "permit (principal, action, resource);".into() });
    code("demo writes a policy", "not_by_administrators", by_demo.await);
    let nobody = cluster.client_as(cluster.issue("app/nobody").unwrap(), &[1, 2, 3]).unwrap();
    code("a caller without any policy", "denied", nobody.get(NAMESPACE, "app/demo/one-byte", None).await);
    // The signature is the caller's, the connection another's.
    let signed = demo.sign(Change::CreateNamespace { namespace: "stolen".into() }, None);
    let stolen = nobody.submit(&signed).await;
    assert!(stolen.is_err(), "a request that another's connection brings is refused");
}

/// Callers whose certificate is not of the cluster's CA do not get as far as a question.
async fn strangers(cluster: &Cluster) {
    let principal = cluster.identity("demo").unwrap().principal().to_owned();
    let foreign = cluster.client_as(forged(&principal), &[1, 2, 3]).unwrap().with_timeout(Duration::from_secs(3));
    for (member, answer) in foreign.status().await {
        code(&format!("node {member}, a certificate of another CA"), "unreachable", answer);
    }
    let opened = foreign.get(NAMESPACE, "app/demo/one-byte", None).await;
    code("opening with a certificate of another CA", "not_enough_members", opened);

    for name in ["n1", "n2", "n3"] {
        let member = cluster.profile().members.iter().find(|m| m.name == name).unwrap();
        let node =
            TlsIdentity::self_signed(&SigningKey::from_seed(&Secret::from_slice(&[9; 32]).unwrap()), name).unwrap();
        let channel = connect(&member.api_address, member.key, &node, name, CLIENT).unwrap();
        let answer = VaultClient::new(channel).read_status(ReadStatusRequest::default()).await;
        assert!(answer.is_err(), "{name} answers a client that shows a node's kind of certificate");
    }
}

/// A certificate for `principal`, by a CA that the cluster does not know.
fn forged(principal: &str) -> Identity {
    let ca_key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let mut leaf = rcgen::CertificateParams::default();
    leaf.subject_alt_names = vec![rcgen::SanType::URI(principal.try_into().unwrap())];
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
    let certificate = leaf.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    Identity::from_pem(format!("{}{}", certificate.pem(), key.serialize_pem()).as_bytes()).unwrap()
}
