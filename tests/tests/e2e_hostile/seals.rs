//! Sealed versions that lie: about their place, their keys, their payload, or their proof.

use crate::stage::Stage;
use quorate_api::status::Failure;
use quorate_crypto::customer::{CustomerSecret, PartSuite};
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_crypto::sealed::{Header, Sealed};
use quorate_state::change::Change;
use quorate_state::outcome::Outcome;
use quorate_state::request::SignedRequest;
use quorate_tests::Cluster;
use quorate_tests::hostile::{Draft, fields, random};
use rand_core::UnwrapErr;
use std::ops::Range;

const UNACCEPTABLE: &str = "unacceptable_seal";

pub(crate) async fn section(cluster: &Cluster) {
    let stage = Stage::new(cluster, "seals", 1).await;
    every_field(&stage).await;
    relabelled(&stage).await;
    points(&stage).await;
    slots(&stage).await;
    ids(&stage).await;
    payloads(&stage).await;
    relabelled_at_the_custodian(&stage).await;
    stage.end().await;
    one_forged_among_many(cluster).await;
}

async fn submit(stage: &Stage<'_>, change: Change) -> Result<Outcome, Failure> {
    let request = stage.cluster.request(&stage.demo, change);
    stage.wire().submit(&SignedRequest::sign(&request, stage.demo.key(), &[])).await
}

async fn put(stage: &Stage<'_>, draft: &Draft) -> Result<Outcome, Failure> {
    let sealed = draft.seal().unwrap();
    submit(stage, draft.change(&sealed.header, &sealed.payload)).await
}

fn field(header: &[u8], name: &str) -> Range<usize> {
    fields(header).unwrap().into_iter().find(|(n, _)| *n == name).unwrap_or_else(|| panic!("no field {name}")).1
}

/// One flipped bit in each field, at a place and of a weight that differ from field to field.
async fn every_field(stage: &Stage<'_>) {
    for path in ["app/demo/bits", "vault/demo/bits"] {
        let draft = Draft::new(stage.cluster, &stage.demo, path).unwrap();
        let sealed = draft.seal().unwrap();
        let all = fields(&sealed.header).unwrap();
        assert!(all.len() >= 36, "every field has a name: {all:?}");
        for (number, (name, range)) in all.into_iter().enumerate() {
            let mut header = sealed.header.clone();
            header[range.start + number * 7 % range.len()] ^= 1 << (number % 8);
            let answer = submit(stage, draft.change(&header, &sealed.payload)).await;
            stage.refused(&format!("{path}: a flipped bit in {name}"), UNACCEPTABLE, "", answer).await;
        }
    }
}

/// A victim's points under the thief's own label: whoever could would have members apply their shares to them.
async fn relabelled(stage: &Stage<'_>) {
    let cluster = stage.cluster;
    for (victim, own) in [("app/demo/victim", "app/demo/thief"), ("vault/demo/victim", "vault/demo/thief")] {
        let victim = Draft::new(cluster, &stage.demo, victim).unwrap().seal().unwrap();
        let draft = Draft::new(cluster, &stage.demo, own).unwrap();
        let sealed = draft.seal().unwrap();
        let answer = submit(stage, draft.change(&victim.header, &victim.payload)).await;
        stage.refused("another path's header as it is", UNACCEPTABLE, "path", answer).await;
        // The label with the same length, so that nothing else has to change.
        let relabel = |header: &[u8]| {
            let (mut header, path) = (header.to_vec(), field(header, "path"));
            let name = format!("{own:<width$}", width = path.len()).replace(' ', "x");
            header[path].copy_from_slice(&name.as_bytes()[..name.len()]);
            (header, name)
        };
        let (header, path) = relabel(&victim.header);
        let there = Draft { path, ..draft.clone() };
        let answer = submit(stage, there.change(&header, &victim.payload)).await;
        stage.refused("a victim's header with the thief's label", UNACCEPTABLE, "proof", answer).await;
        for name in ["R", "second R"] {
            let mut header = sealed.header.clone();
            header[field(&sealed.header, name)].copy_from_slice(&victim.header[field(&victim.header, name)]);
            let answer = submit(stage, draft.change(&header, &sealed.payload)).await;
            stage.refused(&format!("a victim's {name} alone"), UNACCEPTABLE, "proof", answer).await;
        }
        // R, its proof, everything of the victim's but the label.
        let mut header = sealed.header.clone();
        for name in
            ["R", "second R", "A", "second A", "f", "key commitment", "wrapped data key", "commitment to the data key"]
        {
            header[field(&sealed.header, name)].copy_from_slice(&victim.header[field(&victim.header, name)]);
        }
        let answer = submit(stage, draft.change(&header, &sealed.payload)).await;
        stage.refused("a victim's points and proof", UNACCEPTABLE, "proof", answer).await;
        if own.starts_with("vault/") {
            for name in ["R2", "ML-KEM ciphertext"] {
                let mut header = sealed.header.clone();
                header[field(&sealed.header, name)].copy_from_slice(&victim.header[field(&victim.header, name)]);
                let answer = submit(stage, draft.change(&header, &sealed.payload)).await;
                stage.refused(&format!("a victim's {name}"), UNACCEPTABLE, "proof", answer).await;
            }
        }
    }
}

/// Points that are none, or the one that makes every share the same (RFC 9496, appendix A.3), and numbers above the order.
async fn points(stage: &Stage<'_>) {
    let draft = Draft::new(stage.cluster, &stage.demo, "vault/demo/points").unwrap();
    let sealed = draft.seal().unwrap();
    let mut negative = [0; 32];
    negative[0] = 1;
    let mut above = [0xff; 32];
    above[31] = 0x7f;
    for name in ["R", "second R", "A", "second A"] {
        for (what, point) in [
            ("the identity", [0; 32]),
            ("a negative encoding", negative),
            ("a number above the field", above),
            ("all ones", [0xff; 32]),
        ] {
            let mut header = sealed.header.clone();
            header[field(&sealed.header, name)].copy_from_slice(&point);
            let answer = submit(stage, draft.change(&header, &sealed.payload)).await;
            stage.refused(&format!("{name} is {what}"), UNACCEPTABLE, "", answer).await;
        }
    }
    let mut header = sealed.header.clone();
    header[field(&sealed.header, "f")].copy_from_slice(&[0xff; 32]);
    stage
        .refused("f above the order", UNACCEPTABLE, "", submit(stage, draft.change(&header, &sealed.payload)).await)
        .await;
    for (what, head) in [("compressed", 2u8), ("hybrid", 6), ("at infinity", 0)] {
        let mut header = sealed.header.clone();
        header[field(&sealed.header, "R2").start] = head;
        let answer = submit(stage, draft.change(&header, &sealed.payload)).await;
        stage.refused(&format!("R2 is {what}"), UNACCEPTABLE, "", answer).await;
    }
    let mut header = sealed.header.clone();
    let r2 = field(&sealed.header, "R2");
    header[r2.start + 1..r2.end].fill(3);
    stage
        .refused(
            "R2 is not on the curve",
            UNACCEPTABLE,
            "",
            submit(stage, draft.change(&header, &sealed.payload)).await,
        )
        .await;
}

async fn slots(stage: &Stage<'_>) {
    let cluster = stage.cluster;
    let other = CustomerSecret::generate(PartSuite::from_u8(1).unwrap(), &mut UnwrapErr(getrandom::SysRng));
    let p256 = CustomerSecret::generate(PartSuite::from_u8(2).unwrap(), &mut UnwrapErr(getrandom::SysRng));
    let good = Draft::new(cluster, &stage.demo, "vault/demo/slots").unwrap();
    let without = KeyringPublic { class: KeyringClass::Cluster, y: good.ring.y };
    let customers = good.customers.clone();
    let both = customers.iter().cloned().chain([other.public().clone()]).collect();
    for (what, draft) in [
        ("without the customer's slot", Draft { ring: without, customers: vec![], ..good.clone() }),
        ("with another's key", Draft { customers: vec![other.public().clone()], ..good.clone() }),
        ("with another's key of another suite", Draft { customers: vec![p256.public().clone()], ..good.clone() }),
        ("with another's key beside the customer's", Draft { customers: both, ..good.clone() }),
    ] {
        stage
            .refused(
                &format!("class customer {what}"),
                UNACCEPTABLE,
                "customer keys of the mount",
                put(stage, &draft).await,
            )
            .await;
    }
    let app = Draft::new(cluster, &stage.demo, "app/demo/slots").unwrap();
    let ring = cluster.ring(KeyringClass::Customer).unwrap();
    let draft = Draft { ring: KeyringPublic { class: KeyringClass::Cluster, ..ring }, ..app.clone() };
    stage.refused("class cluster to the other keyring", UNACCEPTABLE, "keyring", put(stage, &draft).await).await;
    let draft = Draft { ring: KeyringPublic { class: KeyringClass::Customer, ..app.ring }, customers, ..app.clone() };
    stage.refused("class cluster with a customer's slot", UNACCEPTABLE, "", put(stage, &draft).await).await;
    let draft = Draft {
        ring: KeyringPublic { class: KeyringClass::Cluster, ..cluster.ring(KeyringClass::Cluster).unwrap() },
        customers: vec![],
        ..good
    };
    stage.refused("class customer to the cluster's keyring", UNACCEPTABLE, "keyring", put(stage, &draft).await).await;
}

async fn ids(stage: &Stage<'_>) {
    let (cluster, demo) = (stage.cluster, stage.cluster.client("demo").unwrap());
    let known = demo.versions("default", "app/demo/lasting").await.unwrap();
    let secret_id: [u8; 16] = known.secret_id.try_into().unwrap();
    let version_id: [u8; 16] = known.versions[0].version_id.clone().try_into().unwrap();
    let (there, elsewhere) = ("app/demo/lasting", "app/demo/elsewhere");
    let at = |path| Draft::new(cluster, &stage.demo, path).unwrap();
    for (what, words, draft) in [
        ("the id of another path's secret", "secret id was used", Draft { secret_id, ..at(elsewhere) }),
        ("another secret id", "not that of the path", at(there)),
        ("a version id of before", "version id was used", Draft { secret_id, version_id, ..at(there) }),
        ("another cluster", "cluster", Draft { cluster: [7; 32], ..at(elsewhere) }),
        ("another writer", "writer", Draft { writer: "spiffe://dev.quorate/app/other".to_owned(), ..at(elsewhere) }),
        ("the second wrap", "wrap number", Draft { wrap_no: 1, ..at(elsewhere) }),
        ("another path", "path", Draft { label: Some(("default".to_owned(), there.to_owned())), ..at(elsewhere) }),
        (
            "another namespace",
            "namespace",
            Draft { label: Some(("team".to_owned(), elsewhere.to_owned())), ..at(elsewhere) },
        ),
    ] {
        stage.refused(&format!("a header with {what}"), UNACCEPTABLE, words, put(stage, &draft).await).await;
    }
}

async fn payloads(stage: &Stage<'_>) {
    let draft = Draft::new(stage.cluster, &stage.demo, "app/demo/payload").unwrap();
    let (one, other) = (draft.seal().unwrap(), Draft { value: b"another".to_vec(), ..draft.clone() }.seal().unwrap());
    let mut bent = one.payload.clone();
    bent[30] ^= 1;
    let (short, long) = (one.payload[1..].to_vec(), [one.payload.as_slice(), &[0]].concat());
    for (what, words, payload) in [
        ("another version's payload", "payload", other.payload),
        ("a flipped bit in the payload", "payload", bent),
        ("a payload cut short", "length", short),
        ("a payload made longer", "length", long),
        ("no payload", "length", vec![]),
    ] {
        stage.refused(what, UNACCEPTABLE, words, submit(stage, draft.change(&one.header, &payload)).await).await;
    }
    for (what, header) in [
        ("no header", vec![]),
        ("half a header", one.header[..200].to_vec()),
        ("a header twice", [one.header.clone(), one.header.clone()].concat()),
        ("a mebibyte of header", vec![0; 1 << 20]),
    ] {
        stage.refused(what, UNACCEPTABLE, "", submit(stage, draft.change(&header, &one.payload)).await).await;
    }
}

/// The custodian gives a value bound to the label that it is asked for: a victim's part under one's own label is worth nothing.
async fn relabelled_at_the_custodian(stage: &Stage<'_>) {
    let caller = quorate_api::client::Identity::load(std::path::Path::new(
        stage.cluster.text("/custodian/identities/demo").unwrap(),
    ))
    .unwrap();
    let key = quorate_state::ids::parse_hex(stage.cluster.text("/custodian/key").unwrap()).unwrap();
    let custodian =
        quorate_api::client::Custodian::new(stage.cluster.text("/custodian/address").unwrap(), key, caller.tls())
            .unwrap();
    let Sealed { header: victim, .. } =
        Draft::new(stage.cluster, &stage.demo, "vault/demo/victim").unwrap().seal().unwrap();
    let Sealed { header: own, .. } =
        Draft::new(stage.cluster, &stage.demo, "vault/demo/itsown").unwrap().seal().unwrap();
    // The thief's labels, and the victim's part: never stored, only asked about.
    let (from, to) =
        (field(&victim, "part suite").start..field(&victim, "ML-KEM ciphertext").end, field(&own, "part suite").start);
    let mut relabelled = own.clone();
    relabelled[to..to + from.len()].copy_from_slice(&victim[from]);
    let value = async |header: &[u8]| {
        let header = Header::decode(header).unwrap();
        let mut all = custodian.derive(&random(), &[&header]).await.unwrap();
        all.pop().unwrap().unwrap().pop().unwrap().expose().to_vec()
    };
    let (theirs, again, stolen) = (value(&victim).await, value(&victim).await, value(&relabelled).await);
    assert_eq!(theirs, again, "the same label and part have the same value");
    assert_ne!(theirs, stolen, "a victim's part under another label has another value");
    let Sealed { header: far, .. } = Draft::new(stage.cluster, &stage.demo, "vault/other/x").unwrap().seal().unwrap();
    let far = Header::decode(&far).unwrap();
    let answer = custodian.derive(&random(), &[&far]).await.unwrap().pop().unwrap();
    stage.refused("a label that no rule of the custodian allows", "custodian_denied", "vault/other/x", answer).await;
    let other = CustomerSecret::generate(PartSuite::from_u8(1).unwrap(), &mut UnwrapErr(getrandom::SysRng));
    let wrong = Draft {
        customers: vec![other.public().clone()],
        ..Draft::new(stage.cluster, &stage.demo, "vault/demo/x").unwrap()
    };
    let wrong = Header::decode(&wrong.seal().unwrap().header).unwrap();
    let answer = custodian.derive(&random(), &[&wrong]).await.unwrap().pop().unwrap();
    stage.refused("a part for another key", "custodian_other_key", "the one that this custodian holds", answer).await;
}

/// Sent at once, so that they meet in one batch wherever there is one: the forged one alone is refused.
async fn one_forged_among_many(cluster: &Cluster) {
    let stage = Stage::new(cluster, "a batch", 2).await;
    let drafts: Vec<Draft> =
        (0..12).map(|n| Draft::new(cluster, &stage.demo, &format!("app/demo/batch-{n}")).unwrap()).collect();
    let sent = drafts.iter().enumerate().map(|(n, draft)| {
        let mut sealed = draft.seal().unwrap();
        if n == 7 {
            let f = field(&sealed.header, "f");
            sealed.header[f.start] ^= 1;
        }
        submit(&stage, draft.change(&sealed.header, &sealed.payload))
    });
    let answers = futures::future::join_all(sent).await;
    for (n, answer) in answers.into_iter().enumerate() {
        if n == 7 {
            stage.refused("the forged one of twelve", UNACCEPTABLE, "proof", answer).await;
        } else {
            answer.unwrap_or_else(|why| panic!("number {n}, sent beside a forged one, is stored: {why}"));
        }
    }
    // Asked for together, the one that is missing is missing alone.
    let request = quorate_api::vault::OpenRequest {
        request_id: random::<16>().to_vec(),
        not_after: quorate_tests::now() + 20_000,
        min_index: 0,
        prove: true,
        content: true,
        items: drafts
            .iter()
            .map(|d| quorate_api::vault::SecretVersion {
                namespace: d.namespace.clone(),
                path: d.path.clone(),
                number: 0,
            })
            .collect(),
    };
    let reply = stage.wire().vault().open(request).await.unwrap().into_inner();
    for (n, item) in reply.items.iter().enumerate() {
        let expected = if n == 7 { "not_found" } else { "" };
        assert_eq!(item.refusal, expected, "number {n} of a question about twelve: {}", item.reason);
    }
}
