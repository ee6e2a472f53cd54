//! Clients that reach one member, and members that pass on what they should not.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking"
)]

mod support;

use quorate_api::client::{Client, CustomerSource, SecretRef};
use quorate_api::relay::{self, Altered, Answer, Asked, Question, SignedQuestion};
use quorate_api::status::*;
use quorate_api::vault::{OpenReply, OpenedItem};
use quorate_crypto::answer::AnswerKey;
use quorate_crypto::customer::{CustomerSecret, PartSuite};
use quorate_state::ids::{ClusterId, RequestId};
use std::time::Duration;
use support::cluster::{CLUSTER, Cluster, Mood, Trick, cluster, rng};
use support::custodian::custodian;
use support::{ca, key};

const PATH: &str = "db/password";

/// A cluster with `team:db/password` = `hunter2`, and a client that reaches member `via` only.
async fn through(via: u8) -> (Cluster, Client) {
    let cluster = cluster(&[]).await;
    let client = cluster.client_via(via, CustomerSource::None);
    client.put("team", PATH, b"hunter2", Some(0)).await.unwrap();
    (cluster, client)
}

async fn opens(client: &Client, what: &str) {
    let opened = client.get("team", PATH, None).await.unwrap_or_else(|why| panic!("{what}: it opens: {why}"));
    assert_eq!(opened.plaintext.expose(), b"hunter2", "{what}: never another value");
}

#[tokio::test]
async fn one_member_that_is_reached_is_enough() {
    for via in 1..=3 {
        let (cluster, client) = through(via).await;
        opens(&client, "through one member").await;
        let item = |path: &str| SecretRef { namespace: "team".into(), path: path.into(), number: None };
        let many = client.get_many(&[item(PATH), item("db/none"), item(PATH)]).await.unwrap();
        assert_eq!(many[1].as_ref().unwrap_err().code, NOT_FOUND, "t members said so");
        assert_eq!(many[2].as_ref().unwrap().plaintext.expose(), b"hunter2");
        assert_eq!(client.list("team", "").await.unwrap().len(), 1, "what one member answers alone");
        assert_eq!(client.status().await.len(), 1, "nobody else is asked directly");
        for down in (1..=3).filter(|m| *m != via) {
            cluster.mood(down, Mood::Down);
            opens(&client, "with another member down").await;
            cluster.mood(down, Mood::Honest);
        }
        assert!(client.suspects().is_empty(), "nobody lied: {:?}", client.suspects());
    }
}

#[tokio::test]
async fn class_customer_opens_through_one_member() {
    let secret = CustomerSecret::generate(PartSuite::Hybrid, &mut rng());
    let cluster = cluster(&[secret.public().clone()]).await;
    let custodian = custodian(secret, &ca("customer")).await;
    let client = cluster.client_via(2, CustomerSource::Custodian(custodian));
    client.put("team", PATH, b"hunter2", None).await.unwrap();
    opens(&client, "class customer").await;
}

/// Everything that passes through the member in between is looked at, and the search is tried where there is something to find.
#[tokio::test]
async fn no_part_passes_in_clear() {
    let (cluster, client) = through(2).await;
    opens(&client, "before looking").await;
    cluster.mood(3, Mood::WrongPart);
    opens(&client, "with proofs asked for").await;
    cluster.mood(3, Mood::Honest);
    let passed = cluster.state.lock().unwrap().passed.clone();
    let answers = passed.iter().filter(|(m, sealed)| *m != 0 && !sealed.is_empty()).count();
    assert!(answers >= 4, "answers passed: {answers}");
    let parts: Vec<[u8; 32]> = (1..=3).map(|m| cluster.part(m, PATH)).collect();
    let holds = |bytes: &[u8]| parts.iter().any(|part| bytes.windows(32).any(|w| w == part));
    let item = OpenedItem { partial: parts[2].to_vec(), ..OpenedItem::default() };
    let Answer::Opened(clear) = Answer::opened(&OpenReply { items: vec![item], ..OpenReply::default() }) else {
        panic!("an answer to Open")
    };
    assert!(holds(&clear), "the search finds a part that is in clear");
    for (member, bytes) in &passed {
        assert!(!holds(bytes), "a part passes in clear in what belongs to member {member}");
        assert!(!bytes.windows(7).any(|w| w == b"hunter2"), "the value passes in clear");
    }
    // What was recorded opens with no other key than that of its own question.
    let other = AnswerKey::generate(&mut rng());
    let (_, asked) = passed.iter().find(|(m, _)| *m == 0).unwrap();
    let hash = SignedQuestion::decode(asked).unwrap().hash();
    for (member, sealed) in passed.iter().filter(|(m, _)| *m != 0) {
        let verify = key(*member).verify_key();
        let opened = relay::open(&ClusterId(CLUSTER), &hash, *member, &verify, &other, sealed);
        assert_eq!(opened, Err(Altered::Seal), "member {member}'s answer with another key");
    }
}

/// One answer spoiled on its way: two others are left, so the value comes, and nobody honest is blamed.
#[tokio::test]
async fn what_is_spoiled_on_its_way_is_routed_around() {
    let (cluster, client) = through(2).await;
    opens(&client, "before").await;
    let tricks = [
        Trick::Drops(1),
        Trick::Drops(2),
        Trick::Drops(3),
        Trick::Flips(1),
        Trick::Flips(2),
        Trick::Flips(3),
        Trick::Replays(1),
        Trick::Forges(1),
        Trick::Forges(3),
    ];
    for trick in tricks {
        cluster.trick(2, trick);
        opens(&client, &format!("{trick:?}")).await;
        assert!(client.suspects().is_empty(), "{trick:?}: nobody lied: {:?}", client.suspects());
    }
}

/// Too many spoiled: an error that names the two that it can lie with, never a value, and no refusal that no member signed.
#[tokio::test]
async fn what_is_spoiled_beyond_that_is_an_error() {
    let (cluster, client) = through(2).await;
    let client = client.with_timeout(Duration::from_millis(600));
    cluster.mood(3, Mood::Down);
    for trick in [Trick::Flips(1), Trick::Forges(1)] {
        cluster.trick(2, trick);
        let failure = client.get("team", PATH, None).await.unwrap_err();
        assert_eq!(failure.code, RELAY_ALTERED, "{trick:?}: {failure}");
        assert!(failure.message.contains("node-2 passed on as the answer of node-1"), "{trick:?}: {failure}");
        assert!(client.suspects().is_empty(), "{trick:?}: a member is blamed: {:?}", client.suspects());
    }
    // Two answers under each other's names, where the two come to one question: which members are asked first is drawn.
    cluster.trick(2, Trick::Swaps(1, 2));
    let mut swapped = 0;
    for _ in 0..20 {
        match client.get("team", PATH, None).await {
            Ok(opened) => assert_eq!(opened.plaintext.expose(), b"hunter2", "never another value"),
            Err(failure) => {
                assert_eq!(failure.code, RELAY_ALTERED, "{failure}");
                swapped += 1;
            }
        }
    }
    assert!(swapped > 0, "no answers were swapped in 20 questions");
    cluster.trick(2, Trick::None);
    cluster.mood(3, Mood::Down);
    cluster.trick(2, Trick::Replays(1));
    let failure = client.get("team", PATH, None).await.unwrap_err();
    assert_eq!(failure.code, RELAY_ALTERED, "an old answer is none to a new question: {failure}");
    // Its own words deny nothing.
    cluster.mood(3, Mood::Honest);
    cluster.trick(2, Trick::Words);
    let failure = client.get("team", PATH, None).await.unwrap_err();
    assert_eq!(failure.code, NOT_ENOUGH_MEMBERS, "{failure}");
    assert!(failure.message.contains("node-2, asked to pass it on, says: you may not"), "{failure}");
}

/// What a member itself signed is judged as if it had come directly.
#[tokio::test]
async fn a_member_that_lies_is_named_through_another() {
    for liar in 1..=3 {
        for mood in [Mood::WrongPart, Mood::TwoParts] {
            let (cluster, client) = through(2).await;
            cluster.mood(liar, mood);
            for _ in 0..20 {
                opens(&client, &format!("{mood:?} of {liar}")).await;
                if !client.suspects().is_empty() {
                    break;
                }
            }
            let named: Vec<u8> = client.suspects().keys().copied().collect();
            assert_eq!(named, [liar], "{mood:?} of {liar}");
        }
    }
    let (cluster, client) = through(2).await;
    cluster.mood(1, Mood::Denies);
    opens(&client, "one member's word denies nothing").await;
    cluster.mood(3, Mood::Denies);
    let failure = client.get("team", PATH, None).await.unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (DENIED, "it is denied"));
}

#[tokio::test]
async fn the_member_to_go_through_must_be_there() {
    let (cluster, client) = through(2).await;
    cluster.mood(2, Mood::Down);
    let failure = client.get("team", PATH, None).await.unwrap_err();
    assert_eq!(failure.code, NOT_ENOUGH_MEMBERS);
    assert!(failure.message.contains("node-2: down"), "{failure}");
}

fn question(epk: [u8; 32]) -> Question {
    let items = vec![relay::Version { namespace: "team".into(), path: "db/x".into(), number: 7 }];
    Question {
        cluster: ClusterId([1; 32]),
        id: RequestId([2; 16]),
        ask: Asked::Open { min_index: 3, prove: true, content: vec![2], items },
        epk,
        members: vec![1, 2],
        not_after: 4,
        principal: "spiffe://a/b".into(),
        chain: vec![vec![7, 8]],
    }
}

#[test]
fn every_byte_of_question_and_answer_is_bound() {
    let own = AnswerKey::generate(&mut rng());
    let question = question(own.public());
    let signed = SignedQuestion::sign(&question, &key(7));
    assert_eq!((signed.verify(), signed.question()), (Ok(()), Ok(question.clone())));
    let bytes = signed.encode();
    assert_eq!(SignedQuestion::decode(&bytes).unwrap(), signed);
    for at in 0..bytes.len() {
        let mut altered = bytes.clone();
        altered[at] ^= 1;
        let refused = SignedQuestion::decode(&altered).and_then(|signed| signed.verify());
        assert!(refused.is_err(), "byte {at} altered, and the signature verifies");
        assert!(SignedQuestion::decode(&bytes[..at]).is_err(), "cut to {at} bytes");
    }
    let answer = Answer::Refused { code: DENIED.into(), reason: "no".into() };
    let sealed = relay::seal(&question, &signed.hash(), 2, &key(2), &answer, &mut rng()).unwrap();
    let open = |cluster: [u8; 32], hash: &[u8; 64], member, by: u8| {
        relay::open(&ClusterId(cluster), hash, member, &key(by).verify_key(), &own, &sealed)
    };
    assert_eq!(open([1; 32], &signed.hash(), 2, 2), Ok(answer));
    assert_eq!(open([9; 32], &signed.hash(), 2, 2), Err(Altered::Seal), "another cluster");
    assert_eq!(open([1; 32], &[0; 64], 2, 2), Err(Altered::Seal), "another question");
    assert_eq!(open([1; 32], &signed.hash(), 1, 1), Err(Altered::Seal), "as another member's");
    assert_eq!(open([1; 32], &signed.hash(), 2, 3), Err(Altered::Signature), "signed by another");
    for members in [vec![], vec![2, 1], vec![1, 1]] {
        let signed = SignedQuestion::sign(&Question { members, ..question.clone() }, &key(7));
        assert!(signed.question().is_err(), "each once, in order");
    }
}
