//! Certificates that end: members' renew themselves, callers' are renewed, and when all have ended, the CA's own among them, the
//! administrators have a way back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they measured"
)]

use quorate_api::client::{Client, Identity};
use quorate_api::status::Failure;
use quorate_api::tls::client_config;
use quorate_api::vault::ReadStatusReply;
use quorate_authz::root_end;
use quorate_crypto::identity::SigningKey;
use quorate_crypto::secret::Secret;
use quorate_state::change::Change;
use quorate_state::ids::MemberIndex;
use quorate_tests::{Cluster, Options, now};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

const NAMESPACE: &str = "default";
const ALL: [MemberIndex; 3] = [1, 2, 3];
/// How long members' own certificates are valid here, in seconds: what is 90 days elsewhere.
const LIFE: u64 = 6;
/// How long a client may try what cannot succeed.
const SHORT: Duration = Duration::from_secs(3);
/// How long a member may take until it says what it has to: one on a machine with much else to do answers late, or renews late.
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn certificates() {
    let environment = vec![("FAILPOINTS".to_owned(), format!("certificate.life=return({LIFE})"))];
    let cluster = Cluster::start(&Options { environment, ..Options::default() }).await.unwrap();
    cluster.client("demo").unwrap().put(NAMESPACE, "app/demo/lasting", b"lasting", Some(0)).await.unwrap();
    // Both wait for an end: beside each other.
    tokio::join!(members_renew_their_own(&cluster), an_identity_ends_and_is_renewed(&cluster));
    a_client_and_too_few_administrators_change_no_roots(&cluster).await;
    another_client_ca(&cluster).await;
    the_way_back(&cluster).await;
}

fn refused<T>(what: &str, expected: &[&str], result: Result<T, Failure>) -> Failure {
    let Err(failure) = result else { panic!("{what}: expected {expected:?}, and it went through") };
    assert!(expected.contains(&failure.code), "{what}: expected {expected:?}, got: {failure}");
    failure
}

async fn opens(what: &str, client: &Client) {
    let opened = client.get(NAMESPACE, "app/demo/lasting", None).await;
    let opened = opened.unwrap_or_else(|why| panic!("{what}: it opens: {why}"));
    assert_eq!(opened.plaintext.expose(), b"lasting", "{what}");
}

/// Runs the program as the operator.
fn operate(cluster: &Cluster, arguments: &[&str]) -> Output {
    let passphrase = cluster.text("/passphrase_file").unwrap();
    cluster.cli("admin", &[arguments, &["--passphrase-file", passphrase]].concat(), b"").unwrap()
}

fn done(what: &str, output: &Output) -> String {
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{what}: {}\n{said}", output.status);
    said
}

fn operator(cluster: &Cluster) -> String {
    cluster.text("/operator").unwrap().to_owned()
}

/// The certificates that the client ports show in a handshake now.
async fn shown(cluster: &Cluster, who: &Identity) -> BTreeMap<MemberIndex, Vec<u8>> {
    let mut all = BTreeMap::new();
    for member in &cluster.profile().members {
        let config = client_config(who.tls(), member.key).unwrap();
        let tcp = tokio::net::TcpStream::connect(&member.api_address).await.unwrap();
        let name = ServerName::try_from("member.invalid").unwrap();
        let stream = TlsConnector::from(config).connect(name, tcp).await.unwrap();
        let chain = stream.get_ref().1.peer_certificates().unwrap();
        all.insert(member.index, chain[0].to_vec());
    }
    all
}

/// Without a restart, and without a connection that breaks.
async fn members_renew_their_own(cluster: &Cluster) {
    let who = cluster.identity("demo").unwrap();
    let standing = cluster.client("demo").unwrap();
    opens("a connection before the first certificates end", &standing).await;
    let first = shown(cluster, &who).await;
    let ends: Vec<u64> = first.values().map(|der| root_end(der).unwrap()).collect();
    let last = ends.iter().copied().max().unwrap();
    assert!(last < now() + LIFE * 1_000 + 2_000, "they are short-lived here: they end at {ends:?}, it is {}", now());
    while now() < last + 1_000 {
        opens("a connection that stands", &standing).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let second = shown(cluster, &who).await;
    for (member, der) in &second {
        assert_ne!(der, &first[member], "node {member} shows another certificate than before");
        let end = root_end(der).unwrap();
        assert!(end > now(), "node {member} shows a certificate that is valid: it ends at {end}, it is {}", now());
        // A certificate knows whole seconds. Of six that this one lives it is renewed when three are left, and is an alarm when less than two
        // are: a member that was kept from its work for so long says so, rightly, until it has renewed it.
        let fits = |status: &ReadStatusReply| {
            let alarmed = status.alarms.iter().any(|a| a.code == "member_certificate_ends");
            status.certificate_not_after / 1_000 >= end / 1_000 && !alarmed
        };
        let what = "to say when its certificate ends, and alarm nobody";
        cluster.wait_status(*member, what, PATIENCE, fits).await.unwrap();
    }
    opens("a new connection after the first certificates have ended", &cluster.client("demo").unwrap()).await;
    assert_ne!(cluster.wait_leader(Duration::from_secs(20)).await.unwrap(), 0, "the members are together");
}

async fn an_identity_ends_and_is_renewed(cluster: &Cluster) {
    let file = format!("{}/short.pem", cluster.text("/folder").unwrap());
    let issue =
        ["identity", "issue", "--operator", &operator(cluster), "--name", "app/short", "--ttl", "10s", "--out", &file];
    done("an identity for ten seconds", &operate(cluster, &issue));
    let load = || Identity::load(Path::new(&file)).unwrap();
    let (old, policy) = (load(), "action == Quorate::Action::\"secret:open\", resource");
    let (principal, ends) = (old.principal().to_owned(), old.valid().unwrap().1);
    cluster.permit("short", &old, policy).await.unwrap();
    let standing = cluster.client_as(load(), &ALL).unwrap().with_timeout(SHORT);
    opens("while it is valid", &standing).await;
    // To one member only: its connection is made, and is asked again.
    let single = cluster.client_as(load(), &[1]).unwrap().with_timeout(SHORT);
    let asked = || async { single.status().await.into_iter().find(|(member, _)| *member == 1).expect("it is asked").1 };
    asked().await.expect("while it is valid");

    tokio::time::sleep(Duration::from_millis((ends + 1_500).saturating_sub(now()))).await;
    let expired = standing.get(NAMESPACE, "app/demo/lasting", None).await;
    let failure = refused("on connections of which most were made in time", &["unauthenticated"], expired);
    assert!(["expired", "ended"].iter().any(|why| failure.message.contains(why)), "it says why: {failure}");
    let failure = refused("on a connection that was made in time", &["unauthenticated"], asked().await);
    assert!(failure.message.contains("expired"), "the member says why: {failure}");
    let late = cluster.client_as(old, &ALL).unwrap();
    let begin = Instant::now();
    let failure = refused("on a new connection", &["unauthenticated"], late.roles().await);
    assert!(failure.message.contains("ended"), "it says why: {failure}");
    assert!(begin.elapsed() < Duration::from_secs(5), "and at once: trying again cannot help");
    // The program says it too, before anything is refused.
    let profile = cluster.text("/profile").unwrap();
    let said = operate(cluster, &["status", "--identity", &file, "--profile", profile, "--timeout", "3s"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    assert!(said.contains("short.pem: the certificate ended on"), "the program warns:\n{said}");

    let renew = ["identity", "renew", &file, "--operator", &operator(cluster), "--ttl", "1h"];
    done("its renewal", &operate(cluster, &renew));
    assert_eq!(load().principal(), principal, "it is the same identity");
    opens("after its renewal", &cluster.client_as(load(), &ALL).unwrap()).await;
}

/// Roots are the administrators' business, and theirs alone; and nothing else becomes theirs by it.
async fn a_client_and_too_few_administrators_change_no_roots(cluster: &Cluster) {
    let mine = std::fs::read(format!("{}/client-ca.pem", operator(cluster))).unwrap();
    let der = quorate_api::client::certificates(&mine).unwrap();
    let change = Change::SetClientRoots { certificates: der.clone() };
    let admin = cluster.admin().unwrap();
    refused("a client, signed by nobody", &["bad_signature"], admin.change(change.clone()).await);
    let (key, thief) =
        (cluster.administrator().unwrap(), SigningKey::from_seed(&Secret::from_slice(&[7; 32]).unwrap()));
    refused(
        "a client, with the administrator's signature",
        &["bad_signature"],
        admin.set_client_roots(der.clone(), &[&key]).await,
    );

    let as_administrator = |key: &SigningKey| {
        let identity = Identity::administrator(SigningKey::from_seed(&key.seed())).unwrap();
        cluster.client_as(identity, &ALL).unwrap().with_timeout(SHORT)
    };
    let bearer = as_administrator(&key);
    refused("nobody signs", &["not_by_administrators"], bearer.set_client_roots(der.clone(), &[]).await);
    refused("somebody else signs", &["bad_signature"], bearer.set_client_roots(der.clone(), &[&thief]).await);
    let stranger = as_administrator(&thief).set_client_roots(der.clone(), &[&key]).await;
    refused("a key that is no administrator's does not get in", &["unreachable"], stranger);
    for (what, bad) in [("nothing", vec![]), ("no certificate", vec![vec![1, 2, 3]])] {
        refused(what, &["invalid_argument"], bearer.set_client_roots(bad, &[&key]).await);
    }
    let leaf = cluster.identity("demo").unwrap().chain().to_vec();
    refused("a caller's certificate as a root", &["invalid_argument"], bearer.set_client_roots(leaf, &[&key]).await);

    // An administrator's connection is good for nothing else.
    for (member, answer) in bearer.status().await {
        refused(&format!("node {member}, status for an administrator's key"), &["unauthenticated"], answer);
    }
    refused("it opens nothing", &["unauthenticated"], bearer.get(NAMESPACE, "app/demo/lasting", None).await);
    let policy = Change::PutPolicy { name: "all".to_owned(), text: "permit (principal, action, resource);".to_owned() };
    let version = admin.policies().await.unwrap().authority_version;
    let by = quorate_api::client::Administrators { keys: &[&key], authority_version: version };
    refused("it writes no policy", &["unauthenticated"], bearer.administer(policy, &by).await);
    opens("and callers are admitted as before", &cluster.client("demo").unwrap()).await;
}

/// The new CA lives for a short time: members say ahead that it ends, and when it has, nobody is admitted.
async fn another_client_ca(cluster: &Cluster) {
    let before = cluster.client("demo").unwrap();
    opens("by the first CA", &before).await;
    let file = format!("{}/second.pem", cluster.text("/folder").unwrap());
    let operator_folder = operator(cluster);
    done("an addition", &operate(cluster, &["client-ca", "replace", "--operator", &operator_folder, "--keep-old"]));
    let issue = ["identity", "issue", "--operator", &operator_folder, "--name", "app/demo", "--out", &file];
    done("an identity of the second CA", &operate(cluster, &issue));
    opens("the first CA's callers beside", &before).await;
    opens("the first CA's callers on new connections", &cluster.client("demo").unwrap()).await;
    opens("the second CA's", &cluster.client_as(Identity::load(Path::new(&file)).unwrap(), &ALL).unwrap()).await;
    let seconds = 18;
    let replace = ["client-ca", "replace", "--operator", &operator(cluster), "--ttl", &format!("{seconds}s")];
    done("a replacement", &operate(cluster, &replace));
    let begin = Instant::now();
    let shut_out = before.get(NAMESPACE, "app/demo/lasting", None).await;
    refused("the first CA's callers are out at once, on connections that stand too", &["unauthenticated"], shut_out);

    renew_all(cluster, "1h");
    opens("by the third CA", &cluster.client("demo").unwrap()).await;
    let profile = cluster.text("/profile").unwrap();
    let status = || {
        let output = cluster.cli("admin", &["status", "--output", "json", "--profile", profile], b"").unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (serde_json::from_slice::<Value>(&output.stdout).unwrap_or_default(), said)
    };
    // The first member may be the last to admit by the third CA.
    let ends = loop {
        let (document, _) = status();
        if let Some(ends) = document.pointer("/members/0/client_roots_not_after/0").and_then(Value::as_u64) {
            break ends;
        }
        assert!(begin.elapsed() < Duration::from_secs(seconds), "status shows when the CA ends: {document:#}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    };
    // A certificate knows whole seconds, and ends with its last one.
    assert!(ends > now() && ends < now() + (seconds + 1) * 1_000, "it ends at {ends}, it is {}", now());

    // A third of its life ahead; 30 days of what lives longer.
    loop {
        let (document, said) = status();
        let alarms = document.pointer("/members/0/alarms").and_then(Value::as_array).into_iter().flatten();
        if alarms.into_iter().any(|alarm| alarm["code"] == "client_ca_ends") {
            assert!(said.contains("[client_ca_ends]"), "status warns on standard error too:\n{said}");
            break;
        }
        assert!(begin.elapsed() < Duration::from_secs(seconds), "no alarm before the CA has ended: {document:#}");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    println!("CA of {seconds} s: an alarm after {:?}", begin.elapsed());
    // It looks from time to time, and says it then.
    while !cluster.node(1).unwrap().log().contains("alarm=\"client_ca_ends\"") {
        assert!(begin.elapsed() < PATIENCE, "the node's log says it:\n{}", cluster.node(1).unwrap().log());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }

    tokio::time::sleep(Duration::from_millis((ends + 1_500).saturating_sub(now()))).await;
    for name in ["demo", "admin"] {
        let client = cluster.client(name).unwrap();
        let failure = refused("after the CA's end", &["unauthenticated"], client.roles().await);
        assert!(failure.message.contains("client CA"), "it says what has ended: {failure}");
        let identity = cluster.identity(name).unwrap();
        assert!(identity.valid().unwrap().1 > now(), "{name}'s own certificate says that it is valid");
    }
}

/// Nobody is left whom the members admit. The administrators need nobody.
async fn the_way_back(cluster: &Cluster) {
    // What a new certificate of the old CA is worth: nothing, and the program says so.
    let said = renew_all(cluster, "1h");
    assert!(said.contains("has ended"), "issuing from a CA that has ended warns:\n{said}");
    let client = cluster.client("demo").unwrap();
    refused("a fresh certificate of a CA that has ended", &["unauthenticated"], client.roles().await);

    done("the replacement", &operate(cluster, &["client-ca", "replace", "--operator", &operator(cluster)]));
    renew_all(cluster, "24h");
    let demo = cluster.client("demo").unwrap();
    opens("what was stored before", &demo).await;
    demo.put(NAMESPACE, "app/demo/after", b"after", Some(0)).await.expect("and writes go on");
    // What one member has applied, another may not have yet: until then it admits nobody, and is alarmed.
    for member in ALL {
        cluster.wait_status(member, "to have no alarm left", PATIENCE, |s| s.alarms.is_empty()).await.unwrap();
    }
    let change = Change::DeletePolicy { name: "short".to_owned() };
    cluster.administer(change).await.expect("and administration goes on");
    for (member, folder) in cluster.audit_folders().filter(|(name, _)| *name != "custodian") {
        let records = quorate_tests::audit::records(folder).unwrap();
        let decided =
            records.iter().filter(|r| r.operation == "client-roots.set" && r.principal.starts_with("administrator:"));
        let decided = decided.filter(|r| r.decision.is_some()).count();
        println!("{member} recorded {decided} decisions on client roots");
    }
}

fn renew_all(cluster: &Cluster, ttl: &str) -> String {
    ["admin", "demo"]
        .map(|name| {
            let file = cluster.text(&format!("/identities/{name}")).unwrap();
            let renew = ["identity", "renew", file, "--operator", &operator(cluster), "--ttl", ttl];
            done("a renewal", &operate(cluster, &renew))
        })
        .concat()
}
