//! The SDK against three members with real shares, some of which lie, lag, swap or are down.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "tests fail by panicking"
)]

mod support;

use quorate_api::client::{Administrators, CustomerSource, PinnedMount, SecretRef};
use quorate_api::status::*;
use quorate_api::vault::{Lease, ListLeasesReply};
use quorate_crypto::customer::{CustomerSecret, PartSuite};
use quorate_crypto::identity::Verified;
use quorate_crypto::keyring::{KeyringClass, KeyringPublic};
use quorate_state::change::Change;
use quorate_state::ids::{KeyringId, LeaseId, hex};
use quorate_state::lease::Selector;
use std::time::{Duration, Instant};
use support::ca;
use support::cluster::{CLUSTER, Cluster, Mood, cluster, rng};
use support::custodian::custodian;

/// A cluster with one secret, `team:db/password` = `hunter2`, in two versions.
async fn with_secret() -> (Cluster, quorate_api::client::Client) {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None);
    assert_eq!(client.put("team", "db/password", b"hunter1", Some(0)).await.unwrap().number, 1);
    assert_eq!(client.put("team", "db/password", b"hunter2", Some(1)).await.unwrap().number, 2);
    (cluster, client)
}

#[tokio::test]
async fn what_is_put_is_got() {
    let (cluster, client) = with_secret().await;
    let newest = client.get("team", "db/password", None).await.unwrap();
    assert_eq!((newest.plaintext.expose(), newest.number, newest.newest), (&b"hunter2"[..], 2, true));
    assert_eq!(newest.writer, "spiffe://example.org/app");
    let first = client.get("team", "db/password", Some(1)).await.unwrap();
    assert_eq!((first.plaintext.expose(), first.newest), (&b"hunter1"[..], false));
    assert_eq!(first.secret, newest.secret, "versions of one secret");

    let item = |path: &str| SecretRef { namespace: "team".into(), path: path.into(), number: None };
    let many = client.get_many(&[item("db/password"), item("db/none"), item("db/password")]).await.unwrap();
    assert_eq!(many[0].as_ref().unwrap().plaintext.expose(), b"hunter2");
    assert_eq!(many[1].as_ref().unwrap_err().code, NOT_FOUND);
    assert_eq!(many[2].as_ref().unwrap().plaintext.expose(), b"hunter2");
    assert!(client.suspects().is_empty());
    assert_eq!(client.get_many(&[]).await.unwrap_err().code, INVALID_ARGUMENT);
    assert_eq!(client.put("team", "db/password", b"x", Some(1)).await.unwrap_err().code, CHECK_AND_SET);
    cluster.plant(CLUSTER, "db/other", "db/other");
    let paths: Vec<_> = client.list("team", "").await.unwrap().into_iter().map(|s| s.path).collect();
    assert_eq!(paths, ["db/other", "db/password"], "page after page");
}

/// Whoever lies, and whether or not it also lies when it has to prove: it is named, and the value comes.
#[tokio::test]
async fn a_wrong_part_is_detected_named_and_routed_around() {
    for mood in [Mood::WrongPart, Mood::TwoParts] {
        for liar in 1..=3 {
            let (cluster, client) = with_secret().await;
            cluster.mood(liar, mood);
            // Which two are asked first is random: until the liar was among them.
            while client.suspects().is_empty() {
                assert_eq!(client.get("team", "db/password", None).await.unwrap().plaintext.expose(), b"hunter2");
            }
            assert_eq!(client.suspects().keys().copied().collect::<Vec<_>>(), [liar], "{mood:?}");
            // From now on the honest ones are asked first.
            for _ in 0..5 {
                client.get("team", "db/password", None).await.unwrap();
            }
        }
    }
}

#[tokio::test]
async fn with_a_liar_among_two_nothing_opens_and_the_liar_is_named() {
    let (cluster, client) = with_secret().await;
    cluster.mood(2, Mood::WrongPart);
    cluster.mood(3, Mood::Down);
    let failure = client.get("team", "db/password", None).await.unwrap_err();
    assert_eq!(failure.code, NOT_ENOUGH_MEMBERS, "{failure}");
    assert_eq!(client.suspects().keys().copied().collect::<Vec<_>>(), [2]);
}

#[tokio::test]
async fn one_member_down_is_not_noticed_and_two_are() {
    for down in 1..=3 {
        let (cluster, client) = with_secret().await;
        cluster.mood(down, Mood::Down);
        for _ in 0..4 {
            assert_eq!(client.get("team", "db/password", None).await.unwrap().plaintext.expose(), b"hunter2");
        }
        cluster.mood(down % 3 + 1, Mood::Down);
        let failure = client.get("team", "db/password", None).await.unwrap_err();
        assert_eq!(failure.code, NOT_ENOUGH_MEMBERS);
        assert!(failure.message.contains(&format!("node-{down}")), "{failure}");
        assert!(client.suspects().is_empty(), "being down is no lie");
    }
}

#[tokio::test]
async fn one_member_behind_or_stale_is_outvoted() {
    for mood in [Mood::Behind, Mood::Stale] {
        for late in 1..=3 {
            let (cluster, client) = with_secret().await;
            cluster.mood(late, mood);
            for _ in 0..4 {
                assert_eq!(client.get("team", "db/password", None).await.unwrap().plaintext.expose(), b"hunter2");
            }
        }
    }
}

/// One is down and one is late: the late one is told what index to wait for.
#[tokio::test]
async fn differing_answers_are_asked_for_again_at_an_index() {
    for mood in [Mood::Behind, Mood::Stale] {
        let (cluster, client) = with_secret().await;
        cluster.mood(1, Mood::Down);
        cluster.mood(2, mood);
        let failure = client.get("team", "db/password", None).await.unwrap_err();
        // The t-th highest of {5, 10} is 5: what one member alone claims is not waited for.
        assert_eq!(failure.code, DISAGREEMENT);
        assert_eq!(cluster.state.lock().unwrap().min_index_seen, 5);
        cluster.mood(1, Mood::Honest);
        assert_eq!(client.get("team", "db/password", None).await.unwrap().plaintext.expose(), b"hunter2");
    }
}

#[tokio::test]
async fn a_swapped_payload_and_a_bad_signature_name_their_member() {
    for mood in [Mood::SwapsPayload, Mood::BadSignature] {
        let (cluster, client) = with_secret().await;
        cluster.mood(2, mood);
        for _ in 0..50 {
            assert_eq!(client.get("team", "db/password", None).await.unwrap().plaintext.expose(), b"hunter2");
            if !client.suspects().is_empty() {
                break;
            }
        }
        assert_eq!(client.suspects().keys().copied().collect::<Vec<_>>(), [2], "{mood:?}");
    }
}

#[tokio::test]
async fn a_denial_takes_t_members() {
    let (cluster, client) = with_secret().await;
    cluster.mood(1, Mood::Denies);
    assert!(client.get("team", "db/password", None).await.is_ok(), "one member's word denies nothing");
    cluster.mood(3, Mood::Denies);
    let failure = client.get("team", "db/password", None).await.unwrap_err();
    assert_eq!((failure.code, failure.message.as_str()), (DENIED, "it is denied"));
}

/// Even all members together cannot pass one thing off as another.
#[tokio::test]
async fn wrong_labels_are_refused() {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None);
    cluster.plant(CLUSTER, "db/right", "db/right");
    assert_eq!(client.get("team", "db/right", None).await.unwrap().plaintext.expose(), b"planted");
    cluster.plant(CLUSTER, "db/a", "db/b");
    assert_eq!(client.get("team", "db/a", None).await.unwrap_err().code, WRONG_LABEL);
    cluster.plant([0; 32], "db/c", "db/c");
    assert_eq!(client.get("team", "db/c", None).await.unwrap_err().code, WRONG_LABEL);
}

#[tokio::test]
async fn what_is_not_pinned_is_neither_read_nor_written() {
    let (cluster, _) = with_secret().await;
    let mut profile = cluster.profile.clone();
    profile.keyrings.clear();
    let client = cluster.client_with(profile, CustomerSource::None);
    assert_eq!(client.get("team", "db/password", None).await.unwrap_err().code, NOT_PINNED);
    assert_eq!(client.put("team", "db/x", b"x", None).await.unwrap_err().code, NOT_PINNED);
}

/// The members name a pinned keyring, but not the one that this mount is pinned to.
#[tokio::test]
async fn members_cannot_lower_the_class_of_a_pinned_mount() {
    let cluster = cluster(&[]).await;
    let secret = CustomerSecret::generate(PartSuite::P256, &mut rng());
    let mut profile = cluster.profile.clone();
    let customer_ring = KeyringPublic { class: KeyringClass::Customer, ..cluster.ring };
    profile.customer_keys.push(secret.public().clone());
    profile.mounts.push(PinnedMount {
        namespace: "team".into(),
        mount: "db".into(),
        keyring: hex(&customer_ring.id()),
        customer_keys: vec![hex(&secret.public().id())],
    });
    let client = cluster.client_with(profile, CustomerSource::None);
    assert_eq!(client.put("team", "db/x", b"x", None).await.unwrap_err().code, NOT_PINNED);
    assert!(cluster.state.lock().unwrap().arrived.is_empty(), "nothing was sent");
}

#[tokio::test]
async fn class_customer_takes_the_custodian() {
    let secret = CustomerSecret::generate(PartSuite::Hybrid, &mut rng());
    let copy = || CustomerSecret::decode(secret.encode().expose()).unwrap();
    let cluster = cluster(&[secret.public().clone()]).await;
    let customer = ca("customer");
    let custodian = custodian(copy(), &customer).await;
    let client = cluster.client(CustomerSource::Custodian(custodian.clone()));
    client.put("team", "db/password", b"hunter2", None).await.unwrap();
    assert_eq!(client.get("team", "db/password", None).await.unwrap().plaintext.expose(), b"hunter2");

    // The kill switch.
    assert!(custodian.freeze("breach").await.unwrap().frozen);
    let failure = client.get("team", "db/password", None).await.unwrap_err();
    assert_eq!(failure.code, CUSTODIAN_FROZEN);
    assert!(failure.message.contains("breach"), "{failure}");
    assert!(!custodian.thaw().await.unwrap().frozen);
    client.get("team", "db/password", None).await.unwrap();
    assert_eq!(custodian.status().await.unwrap().customer_key_id, secret.public().id());

    // A key in this process, no key, another key.
    let client = cluster.client(CustomerSource::InProcess(copy()));
    assert_eq!(client.get("team", "db/password", None).await.unwrap().plaintext.expose(), b"hunter2");
    let client = cluster.client(CustomerSource::None);
    assert_eq!(client.get("team", "db/password", None).await.unwrap_err().code, NO_CUSTOMER_KEY);
    let other = CustomerSecret::generate(PartSuite::Hybrid, &mut rng());
    let client = cluster.client(CustomerSource::InProcess(other));
    assert_eq!(client.get("team", "db/password", None).await.unwrap_err().code, CUSTODIAN_OTHER_KEY);
    assert!(client.suspects().is_empty(), "the customer's key is no member's fault");

    // Wrong parts are found in this class as well.
    let client = cluster.client(CustomerSource::Custodian(custodian));
    cluster.mood(3, Mood::WrongPart);
    while client.suspects().is_empty() {
        assert_eq!(client.get("team", "db/password", None).await.unwrap().plaintext.expose(), b"hunter2");
    }
    assert_eq!(client.suspects().keys().copied().collect::<Vec<_>>(), [3]);
}

/// Another key, an older one, one of the other suite, in this process and at a custodian: the error names the key that is needed
/// and the one that is there, and blames neither members nor writers.
#[tokio::test]
async fn another_customer_key_is_named_and_blames_nobody() {
    let secret = CustomerSecret::generate(PartSuite::Hybrid, &mut rng());
    let cluster = cluster(&[secret.public().clone()]).await;
    let customer = ca("customer");
    cluster.client(CustomerSource::None).put("team", "db/password", b"hunter2", None).await.unwrap();
    for suite in [PartSuite::Hybrid, PartSuite::P256] {
        let other = CustomerSecret::generate(suite, &mut rng());
        let (needed, there) = (hex(&secret.public().id()), hex(&other.public().id()));
        let copy = CustomerSecret::decode(other.encode().expose()).unwrap();
        let sources = [CustomerSource::InProcess(copy), CustomerSource::Custodian(custodian(other, &customer).await)];
        for source in sources {
            let client = cluster.client(source);
            let failure = client.get("team", "db/password", None).await.unwrap_err();
            assert_eq!(failure.code, CUSTODIAN_OTHER_KEY, "{failure}");
            let named = failure.message.find(&needed).zip(failure.message.find(&there));
            assert!(
                named.is_some_and(|(needed, there)| needed < there),
                "expected and found, in this order: {failure}"
            );
            assert!(failure.message.contains(&format!("part suite {}", suite.as_u8())), "{failure}");
            blames_nobody(&client, &failure);
        }
    }
}

/// A device that is broken: its id is right and its values are not. Members are asked for proofs, all are right, and a test
/// seal tells that it is the customer's key.
#[tokio::test]
async fn a_wrong_customer_value_is_told_from_a_wrong_wrap() {
    let secret = CustomerSecret::generate(PartSuite::Hybrid, &mut rng());
    let copy = || CustomerSecret::decode(secret.encode().expose()).unwrap();
    let cluster = cluster(&[secret.public().clone()]).await;
    let customer = ca("customer");
    let broken = support::custodian::broken_custodian(copy(), &customer).await;
    for client in [
        cluster.client(CustomerSource::Custodian(broken.clone())),
        cluster.client_via(2, CustomerSource::Custodian(broken.clone())),
    ] {
        client.put("team", "db/password", b"hunter2", None).await.unwrap();
        let failure = client.get("team", "db/password", None).await.unwrap_err();
        assert_eq!(failure.code, CUSTOMER_VALUE_WRONG, "{failure}");
        assert!(failure.message.contains(&hex(&secret.public().id())), "the key is named: {failure}");
        blames_nobody(&client, &failure);
    }
    // A member that lies as well is named all the same, and the customer's key after that.
    let client = cluster.client(CustomerSource::Custodian(broken));
    cluster.mood(3, Mood::WrongPart);
    let failure = client.get("team", "db/password", None).await.unwrap_err();
    assert_eq!(failure.code, CUSTOMER_VALUE_WRONG, "{failure}");
    assert_eq!(client.suspects().keys().copied().collect::<Vec<_>>(), [3]);
    cluster.mood(3, Mood::Honest);

    // The same from the outside, and the writer's fault: the customer's key opens the test.
    cluster.spoil("db/password");
    for source in [CustomerSource::InProcess(copy()), CustomerSource::Custodian(custodian(copy(), &customer).await)] {
        let client = cluster.client(source);
        let failure = client.get("team", "db/password", None).await.unwrap_err();
        assert_eq!(failure.code, DOES_NOT_OPEN, "{failure}");
        assert!(failure.message.contains("the wrap by spiffe://example.org/app is wrong"), "{failure}");
        assert!(failure.message.contains("the customer's key opened a test"), "{failure}");
        assert!(client.suspects().is_empty(), "every member proved its part");
    }
}

fn blames_nobody(client: &quorate_api::client::Client, failure: &Failure) {
    for other in ["node-", "spiffe://"] {
        assert!(!failure.message.contains(other), "a member or writer is named: {failure}");
    }
    assert!(client.suspects().is_empty(), "a member is blamed: {:?}", client.suspects());
}

#[tokio::test]
async fn a_change_is_sent_again_with_the_same_bytes_until_its_outcome_is_known() {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None);
    cluster.state.lock().unwrap().failures =
        [UNKNOWN_OUTCOME, STALE_AUTHORITY, NO_LEADER].map(|code| Failure::new(code, "x")).to_vec();
    client.create_namespace("team").await.unwrap();
    let arrived = std::mem::take(&mut cluster.state.lock().unwrap().arrived);
    assert_eq!(arrived.len(), 4);
    assert!(arrived.iter().all(|sent| *sent == arrived[0]), "one id, the same bytes");

    cluster.state.lock().unwrap().failures = vec![Failure::new(DENIED, "no")];
    assert_eq!(client.create_namespace("other").await.unwrap_err().code, DENIED);
    assert_eq!(cluster.state.lock().unwrap().arrived.len(), 1, "what is final is not tried again");
}

#[tokio::test]
async fn a_stale_administrators_request_is_not_sent_again() {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None);
    cluster.state.lock().unwrap().failures = vec![Failure::new(STALE_AUTHORITY, "x")];
    let admin = support::key(50);
    let by = Administrators { keys: &[&admin], authority_version: 4 };
    assert_eq!(
        client.put_policy("p", "permit(principal,action,resource);", &by).await.unwrap_err().code,
        STALE_AUTHORITY
    );
    let arrived = cluster.state.lock().unwrap().arrived.clone();
    assert_eq!(arrived.len(), 1);
    let signed: quorate_state::request::SignedRequest = borsh::from_slice(&arrived[0].1).unwrap();
    let request = signed.request().unwrap();
    assert_eq!((request.expected_authority_version, request.principal.as_str()), (Some(4), "spiffe://example.org/app"));
    assert!(matches!(request.change, Change::PutPolicy { .. }));
    let administrators = quorate_state::genesis::Administrators { keys: vec![admin.verify_key().0], needed: 1 };
    assert_eq!(signed.verify(&request, &administrators, &Verified::default()), Ok(()));
}

#[tokio::test]
async fn the_password_of_a_lease_never_leaves() {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None);
    let credential = client.issue_lease("reader", None).await.unwrap();
    assert_eq!(
        (credential.host.as_str(), credential.port, credential.database.as_str()),
        ("db.example.org", 5432, "app")
    );
    {
        let state = cluster.state.lock().unwrap();
        let password = *credential.password().unwrap().expose();
        assert!(password.iter().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(b)));
        assert!(state.arrived.iter().all(|(_, sent)| !sent.windows(32).any(|w| w == password)), "sent in clear");
        assert!(!format!("{credential:?}").contains(std::str::from_utf8(&password).unwrap()));
        // What was sent verifies exactly this password.
        let salt = state.verifier.split([':', '$']).nth(2).unwrap();
        let salt = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, salt).unwrap();
        assert_eq!(quorate_api::scram::verifier(&password, &salt.try_into().unwrap(), 4096), state.verifier);
        assert_eq!(quorate_state::lease::Form::default().check(&state.verifier), Ok(()));
    }
    assert_eq!(client.issue_lease("writer", None).await.unwrap_err().code, NOT_FOUND);
}

/// Sealed to the client and for the one lease, or it is nothing.
#[tokio::test]
async fn what_a_target_issues_reaches_who_asked() {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None);
    let credential = client.issue_lease("cloud", None).await.unwrap();
    assert!(credential.password().is_none());
    let quorate_api::client::Proof::Issued(fields) = &credential.proof else { panic!("{credential:?}") };
    assert_eq!(fields.get("token").unwrap().expose(), b"issued-by-the-target");
    assert!(!format!("{credential:?}").contains("issued-by"));
    let first = cluster.state.lock().unwrap().verifier.clone();
    assert_eq!(quorate_state::lease::Form::Sealed.check(&first), Ok(()));
    client.issue_lease("cloud", None).await.unwrap();
    assert_ne!(cluster.state.lock().unwrap().verifier, first, "each has a key of its own");
    for role in ["swapped", "ended"] {
        assert_eq!(client.issue_lease(role, None).await.unwrap_err().code, BAD_ANSWER, "{role}");
    }
}

#[tokio::test]
async fn waiting_for_a_revocation_ends_with_it_or_in_time() {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None);
    let lease = LeaseId([6; 16]);
    assert_eq!(client.wait_revoked(lease, Duration::from_millis(20)).await.unwrap_err().code, DEADLINE);
    assert_eq!(client.wait_revoked(lease, Duration::from_secs(3)).await.unwrap().state, "revoked");
}

/// Who may end everybody's leases and not see them gets no receipt: what is not shown is not what is not there.
#[tokio::test]
async fn all_have_ended_is_said_only_by_who_can_see_all() {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None);
    let (role, limit) = (Selector::Role("reader".into()), Duration::from_millis(300));
    let listed = |state: &str, everybody| {
        let lease = Lease { id: vec![6; 16], state: state.into(), intent_index: 7, ..Lease::default() };
        let leases = if state.is_empty() { Vec::new() } else { vec![lease] };
        cluster.state.lock().unwrap().listed = ListLeasesReply { leases, more: false, everybody };
    };
    // As a member of an earlier release answers, too.
    for state in ["", "active"] {
        listed(state, false);
        let failure = client.wait_all_revoked(&role, 9, limit).await.unwrap_err();
        assert_eq!(failure.code, DENIED, "only the caller's own are shown, {state:?}: {failure}");
        assert!(failure.message.contains("from log index 9") && failure.message.contains("lease:list"), "{failure}");
    }
    listed("", false);
    let own = Selector::Identity(client.identity().principal().to_owned());
    client.wait_all_revoked(&own, 9, limit).await.expect("the caller's own are all there is to see");
    let other = Selector::Identity("spiffe://example.org/other".to_owned());
    assert_eq!(client.wait_all_revoked(&other, 9, limit).await.unwrap_err().code, DENIED, "somebody else's");
    listed("active", true);
    let failure = client.wait_all_revoked(&role, 9, limit).await.unwrap_err();
    assert_eq!(failure.code, DEADLINE, "one lives: {failure}");
    client.wait_all_revoked(&role, 6, limit).await.expect("it was asked for after the revocation");
    listed("", true);
    client.wait_all_revoked(&role, 9, limit).await.expect("everybody's were looked through");
}

#[tokio::test]
async fn a_target_password_goes_to_class_cluster_only() {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None);
    let target = quorate_api::client::TargetSpec {
        host: "db.example.org".into(),
        port: 5432,
        database: "app".into(),
        user: "vault".into(),
        ..Default::default()
    };
    client.put_target("pg", &target, b"secret", KeyringId(cluster.ring.id())).await.unwrap();
    let mut profile = cluster.profile.clone();
    profile.keyrings[0].class = KeyringClass::Customer;
    let client = cluster.client_with(profile, CustomerSource::None);
    let failure = client.put_target("pg", &target, b"secret", KeyringId(cluster.ring.id())).await.unwrap_err();
    assert_eq!(failure.code, NOT_PINNED);
}

#[tokio::test]
async fn status_tells_who_is_down_and_operations_end_in_time() {
    let cluster = cluster(&[]).await;
    let client = cluster.client(CustomerSource::None).with_timeout(Duration::from_millis(400));
    cluster.mood(2, Mood::Down);
    let status = client.status().await;
    assert_eq!(status.iter().map(|(m, s)| (*m, s.is_ok())).collect::<Vec<_>>(), [(1, true), (2, false), (3, true)]);
    cluster.mood(1, Mood::Down);
    cluster.mood(3, Mood::Down);
    let begun = Instant::now();
    // On a busy machine its time may be over before the last member has refused.
    let failure = client.create_namespace("x").await.unwrap_err();
    assert!([UNREACHABLE, DEADLINE].contains(&failure.code), "{failure}");
    assert!(begun.elapsed() < Duration::from_secs(2));
}

/// The pinned key is what a member is: another server at its address is not asked, and the message says whom it is about.
#[tokio::test]
async fn a_server_with_another_key_is_not_talked_to() {
    let cluster = cluster(&[]).await;
    let mut profile = cluster.profile.clone();
    profile.members[0].key = support::key(99).verify_key().0;
    let client = cluster.client_with(profile, CustomerSource::None);
    let (_, first) = client.status().await.remove(0);
    let failure = first.unwrap_err();
    assert_eq!(failure.code, UNREACHABLE);
    assert!(failure.message.contains("cannot agree on TLS with node-1 at 127.0.0.1"), "{failure}");
}

/// A member without a share says nothing about the version: it neither disagrees nor outvotes, and the error names it.
#[tokio::test]
async fn members_without_a_share_are_named_and_do_not_disagree() {
    let (cluster, client) = with_secret().await;
    let client = client.with_timeout(Duration::from_secs(2));
    cluster.mood(1, Mood::Shareless);
    let opened = client.get("team", "db/password", None).await.unwrap();
    assert_eq!(opened.plaintext.expose(), b"hunter2", "two others are enough");
    for rest in [Mood::Honest, Mood::Behind, Mood::Denies] {
        cluster.mood(2, Mood::Shareless);
        cluster.mood(3, rest);
        let asked = Instant::now();
        let failure = client.get("team", "db/password", None).await.unwrap_err();
        assert_eq!(failure.code, NO_SHARE, "{rest:?}: {failure}");
        assert!(failure.message.contains("members 1, 2 can give no part"), "who: {failure}");
        assert!(asked.elapsed() < Duration::from_secs(1), "that two of three cannot is final: {:?}", asked.elapsed());
    }
    cluster.mood(2, Mood::Down);
    cluster.mood(3, Mood::Honest);
    let failure = client.get("team", "db/password", None).await.unwrap_err();
    assert_eq!(failure.code, NO_SHARE, "one without a share, one down: no disagreement: {failure}");
    assert!(failure.message.contains("members 1 can give no part"), "{failure}");
}

/// That time is up says less than what was answered before.
#[tokio::test]
async fn a_deadline_tells_what_was_answered_before_it() {
    let (cluster, client) = with_secret().await;
    let client = client.with_timeout(Duration::from_millis(1_500));
    cluster.state.lock().unwrap().failures = vec![Failure::new(TARGET_UNAVAILABLE, "db.example.org is down")];
    for member in 1..=3 {
        cluster.mood(member, Mood::Silent);
    }
    let change = Change::RevokeLease { lease: LeaseId([1; 16]) };
    let failure = client.change(change).await.unwrap_err();
    assert_eq!(failure.code, DEADLINE, "{failure}");
    assert!(failure.message.contains("db.example.org is down"), "the cause is told: {failure}");
    assert!(failure.message.contains(TARGET_UNAVAILABLE), "with its code: {failure}");
}
