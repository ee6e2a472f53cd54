//! Clients that reach one node, the examples that show them, the customer's kill switch measured, and a customer's key that is
//! not the right one: on a real cluster.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and tell what they measured"
)]

use futures::stream::TryStreamExt as _;
use quorate_api::client::{Client, CustomerSource, Identity, Profile};
use quorate_api::relay::{self, Altered, Answer, Asked, Question, SignedQuestion, Version};
use quorate_api::status::Failure;
use quorate_api::tls::{CLIENT, connect};
use quorate_api::transcript::verify_open_reply;
use quorate_api::vault::vault_client::VaultClient;
use quorate_api::vault::{OpenReply, RelayRequest};
use quorate_crypto::answer::AnswerKey;
use quorate_crypto::customer::{CustomerSecret, PartSuite};
use quorate_crypto::identity::VerifyKey;
use quorate_state::ids::{MemberIndex, RequestId, hex};
use quorate_tests::{Cluster, Options, Sought};
use rand_core::UnwrapErr;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const NAMESPACE: &str = "default";
/// One of each class.
const SECRETS: [(&str, &[u8]); 2] =
    [("app/demo/relayed", b"the members'"), ("vault/demo/relayed", b"the customer's too")];
/// How long a process may take to come back.
const RETURN: Duration = Duration::from_secs(30);

#[tokio::test]
async fn one_node_reached() {
    let cluster = Cluster::start(&Options::default()).await.unwrap();
    let demo = cluster.client("demo").unwrap();
    for (path, value) in SECRETS {
        demo.put(NAMESPACE, path, value, Some(0)).await.unwrap();
    }
    through_each_node(&cluster).await;
    every_node_answers_for_itself(&cluster).await;
    a_question_in_another_name(&cluster).await;
    the_command_line(&cluster);
    the_examples(&cluster);
    a_freeze_measured(&cluster).await;
    another_customer_key(&cluster).await;
    a_node_is_down(&cluster).await;
}

fn rng() -> UnwrapErr<getrandom::SysRng> {
    UnwrapErr(getrandom::SysRng)
}

/// What a client pins that reaches one node: at the others' addresses there is nobody.
fn reaching(cluster: &Cluster, via: MemberIndex) -> Profile {
    let mut profile = cluster.profile().clone();
    for other in profile.members.iter_mut().filter(|m| m.index != via) {
        other.api_address = "127.0.0.1:1".to_owned();
    }
    profile.via = Some(cluster.name(via).to_owned());
    profile
}

async fn opens(what: &str, client: &Client) {
    for (path, value) in SECRETS {
        let opened = client.get(NAMESPACE, path, None).await;
        let opened = opened.unwrap_or_else(|why| panic!("{what}: {path} opens: {why}"));
        assert_eq!(opened.plaintext.expose(), value, "{what}: {path} holds what was put");
    }
    assert!(client.suspects().is_empty(), "{what}: nobody lied: {:?}", client.suspects());
}

fn refused<T>(what: &str, expected: &str, result: Result<T, Failure>) -> Failure {
    let Err(failure) = result else { panic!("{what}: expected {expected}, and it went through") };
    assert_eq!(failure.code, expected, "{what}: {failure}");
    failure
}

/// Everything that a client does, and each node in turn as the only one that is reached.
async fn through_each_node(cluster: &Cluster) {
    for via in [1, 2, 3] {
        let what = format!("through {} alone", cluster.name(via));
        let demo = cluster.client_to(reaching(cluster, via), "demo").unwrap();
        opens(&what, &demo).await;
        let path = format!("vault/demo/by-{via}");
        demo.put(NAMESPACE, &path, b"written", Some(0))
            .await
            .unwrap_or_else(|why| panic!("{what}: it is stored: {why}"));
        assert_eq!(demo.get(NAMESPACE, &path, None).await.unwrap().plaintext.expose(), b"written", "{what}");
        let listed: Vec<String> =
            demo.list(NAMESPACE, "vault/demo").await.unwrap().into_iter().map(|s| s.path).collect();
        assert!(listed.contains(&path), "{what}: {listed:?}");
        assert_eq!(demo.versions(NAMESPACE, &path).await.unwrap().versions.len(), 1, "{what}");
        assert_eq!(demo.delete(NAMESPACE, &path, &[1]).await.unwrap(), [1], "{what}");
        refused(&what, "not_found", demo.get(NAMESPACE, &path, None).await);
        refused(&what, "denied", demo.get(NAMESPACE, "app/other/x", None).await);
        let views = demo.status().await;
        assert!(matches!(views.as_slice(), [(m, Ok(_))] if *m == via), "{what}: one view: {views:?}");
    }
    let demo = cluster.client_to(reaching(cluster, 1), "demo").unwrap();
    let credential = demo.issue_lease("reader", None).await.unwrap();
    demo.revoke(credential.lease).await.unwrap();
}

/// A question, as its asker has it.
struct Asker {
    question: Question,
    signed: SignedQuestion,
    key: AnswerKey,
}

fn ask(cluster: &Cluster, caller: &Identity, change: impl FnOnce(&mut Question)) -> Asker {
    let key = AnswerKey::generate(&mut rng());
    let (path, _) = SECRETS[0];
    let items = vec![Version { namespace: NAMESPACE.to_owned(), path: path.to_owned(), number: 0 }];
    let mut question = Question {
        cluster: cluster.profile().cluster,
        id: RequestId(std::array::from_fn(|_| rand_core::Rng::next_u32(&mut rng()).to_le_bytes()[0])),
        ask: Asked::Open { min_index: 0, prove: false, content: vec![1], items },
        epk: key.public(),
        members: vec![1, 2, 3],
        not_after: quorate_tests::now() + 15_000,
        principal: caller.principal().to_owned(),
        chain: caller.chain().to_vec(),
    };
    change(&mut question);
    Asker { signed: SignedQuestion::sign(&question, caller.key()), question, key }
}

/// The sealed answers that node 1 passes on to the connection of `caller`.
async fn passed_on(
    cluster: &Cluster,
    caller: &Identity,
    signed: &SignedQuestion,
) -> Result<BTreeMap<MemberIndex, Vec<u8>>, Failure> {
    let member = cluster.profile().member(1).unwrap();
    let channel = connect(&member.api_address, member.key, caller.tls(), &member.name, CLIENT).unwrap();
    let mut vault = VaultClient::new(channel);
    let answers = vault.relay(RelayRequest { signed_question: signed.encode() }).await.map_err(Failure::from)?;
    let answers = answers.into_inner().map_ok(|answer| {
        assert_eq!(answer.refusal, "", "node 1 has an answer of node {}: {}", answer.member, answer.reason);
        (MemberIndex::try_from(answer.member).unwrap(), answer.sealed)
    });
    answers.map_err(Failure::from).try_collect().await
}

fn open(cluster: &Cluster, asker: &Asker, member: MemberIndex, sealed: &[u8]) -> Result<Answer, Altered> {
    let key = VerifyKey(cluster.profile().member(member).unwrap().key);
    relay::open(&cluster.profile().cluster, &asker.signed.hash(), member, &key, &asker.key, sealed)
}

fn opened(cluster: &Cluster, asker: &Asker, member: MemberIndex, sealed: &[u8]) -> OpenReply {
    let answer = open(cluster, asker, member, sealed).ok().and_then(|answer| answer.as_opened());
    answer.unwrap_or_else(|| panic!("node {member} answers with its part"))
}

/// One question as it goes over the wire: three sealed answers, three decisions in three audit logs, nothing for a listener.
async fn every_node_answers_for_itself(cluster: &Cluster) {
    let demo = cluster.identity("demo").unwrap();
    let asker = ask(cluster, &demo, |_| {});
    let first = passed_on(cluster, &demo, &asker.signed).await.unwrap();
    assert_eq!(first.keys().copied().collect::<Vec<_>>(), [1, 2, 3]);
    for (member, sealed) in &first {
        let reply = opened(cluster, &asker, *member, sealed);
        let key = VerifyKey(cluster.profile().member(*member).unwrap().key);
        let signed = verify_open_reply(&key, &cluster.profile().cluster.0, &asker.question.id.0, &reply);
        assert!(signed.is_ok() && reply.items[0].refusal.is_empty(), "node {member}: {reply:?}");
        assert_eq!(reply.items[0].payload.is_empty(), *member != 1, "content comes from whom it was asked of");
        let part = &reply.items[0].partial;
        assert_eq!(part.len(), 32);
        for passed in first.values() {
            assert!(!passed.windows(32).any(|w| w == part), "the part of node {member} passes node 1 in clear");
        }
        let stranger = Asker { key: AnswerKey::generate(&mut rng()), ..ask(cluster, &demo, |_| {}) };
        assert_eq!(open(cluster, &stranger, *member, sealed), Err(Altered::Seal), "for the asker alone");
    }
    // Sent again, word for word: other bytes, for the same asker alone, and one more record.
    let again = passed_on(cluster, &demo, &asker.signed).await.unwrap();
    assert!(again.iter().all(|(m, sealed)| first[m] != *sealed), "no answer is given twice in the same bytes");
    assert!(again.iter().all(|(m, sealed)| open(cluster, &asker, *m, sealed).is_ok()));
    let lines = cluster.wait_audit_lines(&Sought::Request(hex(&asker.question.id.0)), 3, RETURN).await.unwrap();
    for name in ["n1", "n2", "n3"] {
        let said: Vec<_> = lines.iter().filter(|l| l.member == name).map(|l| &l.record).collect();
        assert_eq!(said.len(), 2, "{name} has recorded both: {said:?}");
        let via = |r: &&quorate_audit::Record| r.details.iter().any(|(key, by)| key == "passed_on_by" && by == "n1");
        assert!(said.iter().all(via), "{name} says who passed it on: {said:?}");
        assert!(said.iter().all(|r| r.principal == demo.principal()), "{name} decides on the caller, not on n1");
    }
}

/// Node 1 checks nothing but whose connection it is, so whatever is refused below, each node has refused by itself.
async fn a_question_in_another_name(cluster: &Cluster) {
    let (demo, nobody) = (cluster.identity("demo").unwrap(), cluster.issue("app/nobody").unwrap());
    let others = ask(cluster, &demo, |_| {});
    refused("another's question", "not_your_request", passed_on(cluster, &nobody, &others.signed).await);
    let strangers = ask(cluster, &demo, |q| q.members = vec![1, 4]);
    refused("a member that is none", "invalid_argument", passed_on(cluster, &demo, &strangers.signed).await);

    let mut altered = ask(cluster, &demo, |_| {});
    let other_id = Question { id: RequestId([9; 16]), ..altered.question.clone() };
    altered.signed.bytes = SignedQuestion::sign(&other_id, demo.key()).bytes;
    let mut forged = ask(cluster, &demo, |_| {});
    forged.signed = SignedQuestion::sign(&forged.question, nobody.key());
    let cases = [
        ("a question that was altered", altered, "bad_signature"),
        ("demo's question with another's signature", forged, "not_your_request"),
        ("another's name", ask(cluster, &demo, |q| q.principal = nobody.principal().to_owned()), "not_your_request"),
        ("another cluster", ask(cluster, &demo, |q| q.cluster.0 = [7; 32]), "wrong_cluster"),
        ("its time is over", ask(cluster, &demo, |q| q.not_after = quorate_tests::now() - 1), "request_too_late"),
        ("a minute ahead", ask(cluster, &demo, |q| q.not_after += 60_000), "request_too_long"),
    ];
    for (what, asker, expected) in cases {
        let answers = passed_on(cluster, &demo, &asker.signed).await.unwrap();
        assert_eq!(answers.len(), 3, "{what}: each node answers");
        for (member, sealed) in answers {
            let cluster_id = asker.question.cluster;
            let key = VerifyKey(cluster.profile().member(member).unwrap().key);
            let answer = relay::open(&cluster_id, &asker.signed.hash(), member, &key, &asker.key, &sealed).unwrap();
            let Answer::Refused { code, reason } = answer else { panic!("{what}: node {member} does not refuse") };
            assert_eq!(code, expected, "{what}, node {member}: {reason}");
        }
    }
    // Who has no policy is denied by each node, for the item.
    let asker = ask(cluster, &nobody, |_| {});
    for (member, sealed) in passed_on(cluster, &nobody, &asker.signed).await.unwrap() {
        let reply = opened(cluster, &asker, member, &sealed);
        assert_eq!(reply.items[0].refusal, "denied", "node {member}: {reply:?}");
    }
}

fn succeeded(what: &str, output: &Output, expected: &[u8]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what} ended with {}: {said}", output.status);
    assert_eq!(output.stdout, expected, "{what} writes the value: {said}");
}

fn the_command_line(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, Profile { via: None, ..reaching(cluster, 2) }.to_toml()).unwrap();
    for (name, value) in SECRETS {
        let arguments = ["get", name, "--via", "n2", "--profile", path.to_str().unwrap()];
        succeeded("`quorate get --via n2`", &cluster.cli("demo", &arguments, b"").unwrap(), value);
    }
    let arguments = ["get", SECRETS[0].0, "--via", "n7"];
    let output = cluster.cli("demo", &arguments, b"").unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("error[client_setup]") && said.contains("n7"), "a member that is none is named: {said}");
}

fn program(name: &str) -> PathBuf {
    quorate_tests::quorate().unwrap().with_file_name("examples").join(name)
}

/// Both examples, in the words of their own pages, as people run them.
fn the_examples(cluster: &Cluster) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster.toml");
    std::fs::write(&path, Profile { via: None, ..reaching(cluster, 3) }.to_toml()).unwrap();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let python = python();
    let run = |command: &mut Command, name: &str| {
        command
            .args(["n3", name])
            .env("QUORATE_PROFILE", &path)
            .env("QUORATE_IDENTITY", cluster.text("/identities/demo").unwrap())
            .env("QUORATE_CUSTODIAN", cluster.text("/custodian/address").unwrap())
            .env("QUORATE_CUSTODIAN_KEY", cluster.text("/custodian/key").unwrap())
            .env("QUORATE_CUSTODIAN_IDENTITY", cluster.text("/custodian/identities/demo").unwrap())
            .output()
            .unwrap_or_else(|why| panic!("{command:?}: {why}"))
    };
    let script = || {
        let mut command = Command::new(&python);
        command.arg(root.join("examples/python/open_secret.py"));
        command
    };
    for (name, value) in SECRETS {
        succeeded("the Rust example", &run(&mut Command::new(program("one_member")), name), value);
        let begun = Instant::now();
        succeeded("the Python example", &run(&mut script(), name), value);
        println!("Python opened {name} in {:?}", begun.elapsed());
    }
    let output = run(&mut script(), "app/other/x");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("denied"), "the Python example says why not: {said}");
    // Another key under the same name: nothing is sent, not even to a server that answers.
    let text = std::fs::read_to_string(&path).unwrap();
    let (right, wrong) =
        (hex(&cluster.profile().member(3).unwrap().key), hex(&cluster.profile().member(2).unwrap().key));
    std::fs::write(&path, text.replace(&right, &wrong)).unwrap();
    let output = run(&mut script(), SECRETS[0].0);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("is not the one that is pinned"), "{said}");
    let frozen = Command::new(&python).arg(root.join("examples/python/selftest.py")).output().unwrap();
    succeeded("the frozen bytes, read in Python,", &frozen, b"ok\n");
}

/// The interpreter that `deploy/build/setup` made, with what `examples/python/requirements.txt` names.
fn python() -> PathBuf {
    let cache = std::env::var_os("QUORATE_PYTHON").map(PathBuf::from).unwrap_or_else(|| {
        let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let base = base.unwrap_or_else(|| PathBuf::from(std::env::var_os("HOME").unwrap()).join(".cache"));
        base.join("quorate/python/bin/python")
    });
    assert!(cache.is_file(), "{} is missing: run `make setup`", cache.display());
    cache
}

/// When an open began and ended after the start of the test, and whether it went through.
struct Open {
    begun: Duration,
    ended: Duration,
    result: Result<(), Failure>,
}

/// Several clients open without a pause, directly and through one node, while the custodian is frozen.
async fn a_freeze_measured(cluster: &Cluster) {
    let (start, stop) = (Instant::now(), Arc::new(AtomicBool::new(false)));
    let mut clients: Vec<Client> = (0..3).map(|_| cluster.client("demo").unwrap()).collect();
    clients.push(cluster.client_to(reaching(cluster, 1), "demo").unwrap());
    let opening: Vec<_> = clients
        .into_iter()
        .map(|client| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut opens = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let begun = start.elapsed();
                    let result = client.get(NAMESPACE, SECRETS[1].0, None).await.map(drop);
                    opens.push(Open { begun, ended: start.elapsed(), result });
                }
                opens
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    let warden = cluster.warden().unwrap();
    let asked = start.elapsed();
    warden.freeze("measured").await.unwrap();
    let returned = start.elapsed();
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    // The worst moment to lose the process: the promise was given, and nothing but the file says so.
    let custodian = cluster.custodian().unwrap();
    custodian.kill().await.unwrap();
    custodian.restart(&[]).unwrap();
    let status = up(cluster).await;
    assert!(status.frozen && status.frozen_reason == "measured", "the freeze outlives SIGKILL: {status:?}");
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    stop.store(true, Ordering::Relaxed);
    let mut opens = Vec::new();
    for task in opening {
        opens.extend(task.await.unwrap());
    }
    let good: Vec<&Open> = opens.iter().filter(|o| o.result.is_ok()).collect();
    assert!(good.iter().filter(|o| o.ended < asked).count() > 3, "clients were opening before: {}", good.len());
    let late = good.iter().filter(|o| o.begun >= returned).count();
    assert_eq!(late, 0, "opens that began after the freeze had returned went through");
    let frozen = opens.iter().filter(|o| matches!(&o.result, Err(f) if f.code == "custodian_frozen"));
    assert!(frozen.filter(|o| o.begun >= returned).count() > 3, "clients went on trying, and were told why not");
    let last = good.iter().map(|o| o.ended).max().unwrap();
    println!(
        "freeze: returned {:?} after it was asked for; the last open ended {:?} after that; {} opens before, {} refused",
        returned - asked,
        last.saturating_sub(returned),
        good.len(),
        opens.len() - good.len()
    );
    assert!(last.saturating_sub(returned) < Duration::from_secs(5), "what was under way ended soon: {last:?}");
    warden.thaw().await.unwrap();
    opens_again(cluster, "after the thaw").await;
}

async fn opens_again(cluster: &Cluster, what: &str) {
    opens(what, &cluster.client("demo").unwrap()).await;
}

async fn up(cluster: &Cluster) -> quorate_api::custodian::StatusReply {
    let (warden, deadline) = (cluster.warden().unwrap(), Instant::now() + RETURN);
    loop {
        match warden.status().await {
            Ok(status) => return status,
            Err(why) => assert!(Instant::now() < deadline, "the custodian comes back: {why}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Another fragment at the custodian, and in the client: both name the key that is needed and the one that is there.
async fn another_customer_key(cluster: &Cluster) {
    let needed = cluster.text("/custodian/customer_key_id").unwrap();
    let blames_nobody = |client: &Client, failure: &Failure| {
        for other in ["n1", "n2", "n3", "spiffe://"] {
            assert!(!failure.message.contains(other), "a member or writer is named: {failure}");
        }
        assert!(client.suspects().is_empty(), "a member is blamed: {:?}", client.suspects());
    };
    for suite in [PartSuite::Hybrid, PartSuite::P256] {
        let other = CustomerSecret::generate(suite, &mut rng());
        let there = hex(&other.public().id());
        let client = cluster.client_by(cluster.profile().clone(), "demo", CustomerSource::InProcess(other)).unwrap();
        let failure = refused(
            "a key file of another key",
            "custodian_other_key",
            client.get(NAMESPACE, SECRETS[1].0, None).await,
        );
        assert!(failure.message.contains(needed) && failure.message.contains(&there), "both are named: {failure}");
        blames_nobody(&client, &failure);
    }
    // The custodian after somebody put an older fragment in its place.
    let customer = PathBuf::from(cluster.text("/custodian/customer").unwrap());
    let (fragment, kept) = (customer.join("fragment.key"), customer.join("fragment.kept"));
    let elsewhere = tempfile::tempdir().unwrap();
    let old = elsewhere.path().join("old");
    let passphrase = cluster.text("/passphrase_file").unwrap();
    let arguments = [
        "custodian",
        "keygen",
        "--out",
        old.to_str().unwrap(),
        "--suite",
        "2",
        "--trust-domain",
        "customer.example",
        "--passphrase-file",
        passphrase,
        "--output",
        "json",
    ];
    let output = cluster.cli("demo", &arguments, b"").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let made: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let there = made["customer_key_id"].as_str().unwrap().to_owned();
    let custodian = cluster.custodian().unwrap();
    custodian.kill().await.unwrap();
    std::fs::rename(&fragment, &kept).unwrap();
    std::fs::copy(old.join("fragment.key"), &fragment).unwrap();
    custodian.restart(&[]).unwrap();
    up(cluster).await;
    for client in [cluster.client("demo").unwrap(), cluster.client_to(reaching(cluster, 2), "demo").unwrap()] {
        let failure =
            refused("an older fragment", "custodian_other_key", client.get(NAMESPACE, SECRETS[1].0, None).await);
        assert!(failure.message.contains(needed) && failure.message.contains(&there), "both are named: {failure}");
        assert!(failure.message.contains("part suite 2"), "{failure}");
        blames_nobody(&client, &failure);
    }
    // A damaged one: the custodian does not start on it, and neither does a client that is to hold it itself.
    custodian.kill().await.unwrap();
    let mut bytes = std::fs::read(&kept).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    std::fs::write(&fragment, bytes).unwrap();
    custodian.restart(&[]).unwrap();
    custodian.wait_gone(RETURN).await.unwrap();
    let said = custodian.log();
    assert!(said.contains("error[key_file]") && said.contains("fragment.key: the key file is damaged"), "{said}");
    let fragment_is = |path: &Path| {
        let path = path.to_str().unwrap();
        let arguments = ["get", SECRETS[1].0, "--fragment", path, "--fragment-passphrase-file", passphrase];
        cluster.cli_without_custodian("demo", &arguments).unwrap()
    };
    let output = fragment_is(&fragment);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("error[key_file]") && said.contains("fragment.key"), "a damaged key file: {said}");
    let output = fragment_is(&old.join("fragment.key"));
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("error[custodian_other_key]") && said.contains(needed) && said.contains(&there), "{said}");
    succeeded("the right key file", &fragment_is(&kept), SECRETS[1].1);

    std::fs::rename(&kept, &fragment).unwrap();
    custodian.restart(&[]).unwrap();
    up(cluster).await;
    opens_again(cluster, "the right fragment is back").await;
}

async fn a_node_is_down(cluster: &Cluster) {
    cluster.node(3).unwrap().kill().await.unwrap();
    cluster.wait_leader(RETURN).await.unwrap();
    for via in [1, 2] {
        let demo = cluster.client_to(reaching(cluster, via), "demo").unwrap();
        let begun = Instant::now();
        opens("with node 3 down", &demo).await;
        println!("with a node down, two secrets through one node took {:?}", begun.elapsed());
    }
    let through_it = cluster.client_to(reaching(cluster, 3), "demo").unwrap().with_timeout(Duration::from_secs(1));
    let failure = refused(
        "through a node that is down",
        "not_enough_members",
        through_it.get(NAMESPACE, SECRETS[0].0, None).await,
    );
    assert!(failure.message.contains("n3"), "it is named: {failure}");
    cluster.node(2).unwrap().kill().await.unwrap();
    let demo = cluster.client_to(reaching(cluster, 1), "demo").unwrap().with_timeout(Duration::from_secs(2));
    let failure = refused("one node left", "not_enough_members", demo.get(NAMESPACE, SECRETS[0].0, None).await);
    assert!(failure.message.contains("n2") && failure.message.contains("n3"), "who is missing is named: {failure}");
}
