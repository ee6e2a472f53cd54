//! A whole cluster in one process, on one thread, in virtual time: every seam of a node replaced at once. What the tests on real
//! processes cannot do cheaply is done here: power cuts that lose what was not synced, and minutes that pass in no time.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests fail by panicking"
)]

#[path = "in_process/million.rs"]
mod million;
#[path = "in_process/net.rs"]
mod net;
#[path = "in_process/targets.rs"]
mod targets;
#[path = "in_process/world.rs"]
#[allow(dead_code, reason = "the simulation of crates/simulation uses another part of it")]
mod world;

use futures::future::join_all;
use quorate_api::client::{Client, Credential};
use quorate_api::peer::EndorseRequest;
use quorate_api::vault::{OpenRequest, ReadStatusReply, SecretVersion};
use quorate_engines::fake::{Fault, Step};
use quorate_state::change::Change;
use quorate_state::ids::{ClusterId, KeyringId, LeaseId};
use quorate_state::lease::principal;
use quorate_state::request::{Endorsement, SignedRequest};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use world::{World, host};

const HOUR: u64 = 3_600_000;
const YEAR: u64 = 365 * 24 * HOUR;

const POLICY: &str = r#"
permit (principal == Quorate::Workload::"spiffe://example.org/app", action, resource);
"#;

/// A cluster with a keyring, a mount, and a caller that may use it.
async fn founded(seed: u64) -> World {
    found(World::begin(seed)).await
}

async fn found(mut world: World) -> World {
    for index in 1..=3 {
        world.start(index).await;
    }
    world.make_keyring().await;
    let keyring = KeyringId(world.profile.keyrings[0].id());
    let admin = world.client("admin/first");
    admin.create_namespace("default").await.unwrap();
    admin.create_mount("default", "app", keyring, &[]).await.unwrap();
    world.administer(Change::PutPolicy { name: "app".to_owned(), text: POLICY.to_owned() }).await;
    world
}

/// What member 2 says when another one asks it to endorse a request.
async fn ask_to_endorse(world: &World, signed: &SignedRequest) -> Result<Endorsement, String> {
    let ask = EndorseRequest { signed_request: borsh::to_vec(signed).unwrap(), min_index: 0 };
    let reply = world.line(1, 2).endorse(ask).await.unwrap().into_inner();
    if !reply.refusal.is_empty() {
        return Err(reply.refusal);
    }
    let endorsement = borsh::from_slice::<Endorsement>(&reply.endorsement).unwrap();
    assert!(endorsement.member == 2 && world.is_endorsed(signed, &endorsement));
    Ok(endorsement)
}

/// Each decision is one of its own, and what is refused stands in nobody's endorsement.
#[tokio::test(start_paused = true)]
async fn what_a_member_decides_at_one_time_it_signs_once() {
    let world = founded(51).await;
    let sign = |client: &Client, n: u32| {
        let (namespace, path) = ("default".to_owned(), format!("app/{n}"));
        client.sign(Change::DeleteSecret { namespace, path, numbers: vec![1] }, None)
    };
    let (app, stranger) = (world.client("app"), world.client("stranger"));
    let alone = sign(&app, 0);
    let endorsed = ask_to_endorse(&world, &alone).await.unwrap();
    assert_eq!(endorsed.requests, [alone.hash()], "who is alone waits for nobody");
    let requests: Vec<_> = (1..=60).map(|n| sign(if n % 10 == 0 { &stranger } else { &app }, n)).collect();
    let answers = join_all(requests.iter().map(|signed| ask_to_endorse(&world, signed))).await;
    let mut signatures = BTreeSet::new();
    for (n, answer) in (1..=60).zip(answers) {
        match answer {
            Ok(endorsement) => {
                assert!(endorsement.requests.len() <= 16, "{}", endorsement.requests.len());
                let refused = |n: usize| endorsement.requests.contains(&requests[n - 1].hash());
                assert!(
                    n % 10 != 0 && !(10..=60).step_by(10).any(refused),
                    "what is refused is endorsed by nobody: {n}"
                );
                signatures.insert(endorsement.signature);
            }
            Err(code) => assert_eq!((n % 10, code.as_str()), (0, "denied")),
        }
    }
    assert!((4..=27).contains(&signatures.len()), "54 requests have {} signatures", signatures.len());
}

#[tokio::test(start_paused = true)]
async fn secrets_outlive_a_power_cut_of_each_member_and_of_all() {
    let mut world = founded(1).await;
    for index in 1..=3 {
        let slots = world.slots(index);
        assert!(slots.iter().any(|name| name.ends_with(".share")), "member {index} holds its share: {slots:?}");
        assert!(!slots.iter().any(|name| name.ends_with(".seed")), "and no seed any more: {slots:?}");
    }
    let app = world.client("app");
    let mut stored = 0u64;
    for round in 0..4u8 {
        // One member after the other, the leader among them; then all at once.
        let off: Vec<u8> = if round < 3 { vec![round + 1] } else { vec![1, 2, 3] };
        stored += 1;
        let put = app.put("default", "app/x", &stored.to_be_bytes(), Some(stored - 1)).await.unwrap();
        assert_eq!(put.number, stored);
        off.iter().for_each(|index| world.power_off(*index));
        if off.len() == 1 {
            let opened = app.get("default", "app/x", None).await.unwrap();
            assert_eq!(opened.plaintext.expose(), stored.to_be_bytes(), "with member {} off", off[0]);
            stored += 1;
            app.put("default", "app/x", &stored.to_be_bytes(), Some(stored - 1)).await.unwrap();
        }
        for index in off {
            world.power_on(index).await;
        }
        let level = |all: &[Option<_>]| all.iter().flatten().count() == 3;
        world.until("three members", level).await;
        let opened = app.get("default", "app/x", None).await.unwrap();
        assert_eq!(opened.plaintext.expose(), stored.to_be_bytes(), "after round {round}");
    }
}

#[tokio::test(start_paused = true)]
async fn leases_end_on_time_though_their_executor_is_cut_off() {
    let world = founded(2).await;
    world.describe("t", &["readers"]).await;
    let app = world.client("app");
    let begun = Instant::now();
    let mut leases = Vec::new();
    for _ in 0..3 {
        leases.push(app.issue_lease("t-readers", Some(60_000)).await.unwrap());
    }
    assert_eq!(world.target("t").exposure().0.len(), 3, "three logins");
    // The target makes the next login and its answer is lost: nobody is given that one, and it goes.
    world.target("t").fail(Step::Create, Fault::After);
    let failure = app.issue_lease("t-readers", Some(60_000)).await.unwrap_err();
    assert_eq!(failure.code, "lease_failed", "{failure}");
    let handed: Vec<&str> = leases.iter().map(|l| l.username.as_str()).collect();
    let lost = Instant::now();
    while world.target("t").exposure().0.iter().any(|name| !handed.contains(&name.as_str())) {
        assert!(
            lost.elapsed() < Duration::from_secs(20),
            "the lost login is still there: {:?}",
            world.target("t").exposure()
        );
        sleep(Duration::from_secs(1)).await;
    }
    let executor = world.leader().await;
    world.hub.cut(host(executor));
    // The rest of a minute, in virtual time.
    while !world.target("t").exposure().0.is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(80), "still there: {:?}", world.target("t").exposure());
        sleep(Duration::from_secs(1)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(58), "they end at their end, not before: {:?}", begun.elapsed());
    for credential in leases {
        let ended = app.wait_revoked(credential.lease, Duration::from_secs(30)).await.unwrap();
        assert_eq!(ended.state, "revoked");
    }
    world.hub.heal(host(executor));
    let level = |all: &[Option<_>]| all.iter().flatten().count() == 3;
    world.until("three members", level).await;
    assert!(world.target("t").exposure().0.is_empty(), "the one that was cut off brings none back");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_sent_again_is_answered_as_it_was_the_first_time() {
    let mut world = founded(51).await;
    let (app, admin) = (world.client("app"), world.client("admin/first"));
    let signed = admin.sign(Change::CreateNamespace { namespace: "once".to_owned() }, None);
    let first = admin.submit(&signed).await.unwrap();
    app.put("default", "app/x", b"between", None).await.unwrap();
    let again = admin.submit(&signed).await.unwrap();
    assert_eq!((again.index, &again.outcome), (first.index, &first.outcome), "by the same leader");
    // Whoever leads next has the answer from the log alone.
    let led = world.leader().await;
    world.power_off(led);
    let later = admin.submit(&signed).await.unwrap();
    assert_eq!((later.index, &later.outcome), (first.index, &first.outcome), "by the next one");
    world.power_on(led).await;

    // A lease too, whose answer comes long after its intent is in the log.
    world.describe("t", &["readers"]).await;
    let verifier = world::verifier(b"a password that is sent again");
    let signed = app.sign(Change::IssueLease { role: "t-readers".to_owned(), verifier, ttl: Some(60_000) }, None);
    let first = app.submit(&signed).await.unwrap();
    let again = app.submit(&signed).await.unwrap();
    assert_eq!((again.index, &again.outcome), (first.index, &first.outcome));
    assert_eq!(world.logins("t").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn two_who_begin_a_path_at_once_get_what_each_asked_for() {
    let world = founded(52).await;
    let (one, two) = (world.client("app"), world.client("app"));
    // Both learn that there is nothing, and draw an id for what is to be there.
    let stored = tokio::join!(
        one.put("default", "app/unconditional", b"one", None),
        two.put("default", "app/unconditional", b"two", None),
    );
    let mut stored = [stored.0.unwrap(), stored.1.unwrap()];
    stored.sort_by_key(|put| put.number);
    assert_eq!(stored.each_ref().map(|put| put.number), [1, 2], "neither asked whether it is the first");
    assert!(stored[0].index < stored[1].index);
    for number in [1, 2] {
        let opened = one.get("default", "app/unconditional", Some(number)).await.unwrap();
        assert!([&b"one"[..], b"two"].contains(&opened.plaintext.expose()), "both are there");
    }

    let stored = tokio::join!(
        one.put("default", "app/conditional", b"one", Some(0)),
        two.put("default", "app/conditional", b"two", Some(0)),
    );
    let (first, second) = match stored {
        (Ok(first), Err(second)) | (Err(second), Ok(first)) => (first, second),
        both => panic!("one of them is the first: {both:?}"),
    };
    assert_eq!((first.number, second.code), (1, "check_and_set"), "{second}");
}

/// Leases of a role, as many as are wanted.
async fn take(app: &Client, role: &str, count: usize, ttl: u64) -> Vec<Credential> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(app.issue_lease(role, Some(ttl)).await.unwrap());
    }
    taken
}

/// At one time: a target that is off, one that sits on a mass expiry, and a role whose credentials are refused.
#[tokio::test(start_paused = true)]
async fn nothing_at_a_target_waits_for_what_it_need_not() {
    let world = founded(3).await;
    world.describe("t", &["readers", "writers"]).await;
    world.describe("other", &["readers"]).await;
    let (app, target, dead) = (world.client("app"), world.target("t"), world.target("other"));
    let begun = Instant::now();
    let strays = [true, false].map(|can_login| {
        let id = LeaseId([u8::from(can_login) + 1; 16]);
        target.plant(&principal(&world.profile.cluster, "t", &id), can_login);
        id
    });
    let foreign = principal(&ClusterId([7; 32]), "t", &strays[0]);
    target.plant(&foreign, true);
    let asked = take(&app, "t-readers", 1, 600_000).await.remove(0);
    what_no_lease_accounts_for_is_ended_by_the_log(&world, &strays).await;
    assert_eq!(
        world.logins("t").into_iter().collect::<BTreeSet<_>>(),
        BTreeSet::from([foreign.clone(), asked.username.clone()]),
        "another cluster's is not ours"
    );
    target.forget(&foreign);
    a_definite_refusal_is_no_storm(&world, &app).await;
    let parked = take(&app, "other-readers", 3, 10_000).await;
    let due = take(&app, "t-readers", 8, 10_000).await;
    dead.stop();
    target.hold_names(due.into_iter().map(|credential| credential.username));

    let leader = usize::from(world.leader().await) - 1;
    let revoking =
        |n| move |all: &[Option<ReadStatusReply>]| all[leader].as_ref().is_some_and(|s| s.leases_revoking == n);
    world.until("both expiries under way", revoking(11)).await;
    assert_eq!(target.exposure().0.len(), 10, "the target sits on all that is due");
    app.revoke(asked.lease).await.unwrap();
    let ended = app.wait_revoked(asked.lease, Duration::from_secs(5)).await;
    ended.unwrap_or_else(|why| panic!("an end that was asked for does not wait for those that are due: {why}"));
    take(&app, "t-readers", 1, 600_000).await;
    assert_eq!(target.exposure().0.len(), 10, "eight that are due, a new one, and the writer");
    target.release_names();
    world.until("the end of what was due, with the other target still off", revoking(3)).await;
    assert_eq!(target.exposure().0.len(), 2);

    dead.start();
    for credential in &parked {
        let ended = app.wait_revoked(credential.lease, Duration::from_secs(40)).await;
        ended.unwrap_or_else(|why| panic!("the target is back, and its leases end: {why}"));
    }
    assert!(dead.exposure().0.is_empty(), "after {:?}", begun.elapsed());
}

/// What a target definitely refuses is not asked of it by every request; other roles of it are not concerned.
async fn a_definite_refusal_is_no_storm(world: &World, app: &Client) {
    let target = world.target("t");
    target.lack("writers");
    let (begun, mut codes) = (Instant::now(), BTreeMap::new());
    while begun.elapsed() < Duration::from_secs(12) {
        let failure = app.issue_lease("t-writers", None).await.unwrap_err();
        *codes.entry(failure.code).or_insert(0) += 1;
        sleep(Duration::from_millis(250)).await;
    }
    let asked = target.refusals();
    assert!((2..=6).contains(&asked), "requests ask the target now and then, not each: {asked}, {codes:?}");
    assert!(codes.get("target_refused").is_some_and(|n| *n > 20), "the others are told at once, and why: {codes:?}");
    target.supply("writers");
    while app.issue_lease("t-writers", None).await.is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60), "the role is tried again by itself");
        sleep(Duration::from_secs(1)).await;
    }
}

/// Whether or not it can log in: every end has a place in the log.
async fn what_no_lease_accounts_for_is_ended_by_the_log(world: &World, strays: &[LeaseId]) {
    let admin = world.client("admin/first");
    for id in strays {
        let begun = Instant::now();
        let ended = loop {
            match admin.lease(*id).await {
                Ok(lease) if lease.state == "revoked" => break lease,
                other => assert!(begun.elapsed() < Duration::from_secs(90), "a stray is adopted and ended: {other:?}"),
            }
            sleep(Duration::from_millis(200)).await;
        };
        assert_eq!((ended.why.as_str(), ended.revoking_index > 0), ("adopted", true), "{ended:?}");
    }
}

async fn wait_gone(world: &World, limit: Duration) {
    let begun = Instant::now();
    while !world.target("t").exposure().0.is_empty() {
        assert!(begun.elapsed() < limit, "still there after {limit:?}: {:?}", world.target("t").exposure());
        sleep(Duration::from_millis(500)).await;
    }
}

/// One clock an hour ahead, another an hour behind, whoever of the three leads.
/// Whoever is authenticated waits until the member's state is new enough to be decided on. What is applied meanwhile counts.
#[tokio::test(start_paused = true)]
async fn a_caller_of_a_ca_that_is_replaced_while_it_waits_is_admitted_no_more() {
    const AHEAD: u64 = 12;
    let mut world = founded(61).await;
    let before = world.client("app").put("default", "app/x", b"x", Some(0)).await.unwrap();
    let who = world.identity_of("app");
    let question = |min_index: u64| OpenRequest {
        request_id: vec![7; 16],
        not_after: world.now() + 20_000,
        min_index,
        content: true,
        items: vec![SecretVersion { namespace: "default".to_owned(), path: "app/x".to_owned(), number: 0 }],
        ..OpenRequest::default()
    };
    let mut doors = [1, 2, 3].map(|member| world.door(&who, member));
    for door in &mut doors {
        let reply = door.open(question(0)).await.unwrap().into_inner();
        assert_eq!(reply.items[0].refusal, "", "{}", reply.items[0].reason);
    }
    let waits = question(before.index + AHEAD);
    let asked = doors.map(|mut door| {
        let question = waits.clone();
        tokio::spawn(async move { door.open(question).await.unwrap().into_inner() })
    });
    sleep(Duration::from_millis(20)).await;

    let replaced = world.replace_client_ca().await;
    assert!(
        replaced.index <= before.index + AHEAD,
        "the questions wait for it: {} to {}",
        before.index,
        replaced.index
    );
    let app = world.client("app");
    let mut version = 1;
    while app.put("default", "app/x", b"x", Some(version)).await.unwrap().index < before.index + AHEAD {
        version += 1;
    }
    for asked in asked {
        let reply = asked.await.unwrap();
        let item = &reply.items[0];
        assert!(reply.applied >= replaced.index, "member {} waited: {}", reply.member, item.reason);
        assert_eq!(item.refusal, "unauthenticated_unknown_issuer", "member {}: {}", reply.member, item.reason);
        assert!(item.partial.is_empty() && item.payload.is_empty(), "member {} gives nothing", reply.member);
    }
}

#[tokio::test(start_paused = true)]
async fn clocks_that_are_an_hour_off_change_nothing() {
    let world = founded(3).await;
    world.describe("t", &["readers"]).await;
    world.clock(2).shift(3_600_000);
    world.clock(3).shift(-3_600_000);
    let app = world.client("app");
    let mut stored = 0u64;
    for leader in 1..=3 {
        world.have_lead(leader).await;
        // Whichever member the client begins with: one of them will not take it, and another does.
        for _ in 0..8 {
            stored += 1;
            let put = app.put("default", "app/x", &stored.to_be_bytes(), Some(stored - 1)).await;
            assert_eq!(put.map(|put| put.number), Ok(stored), "member {leader} leads");
            let opened = app.get("default", "app/x", None).await.unwrap();
            assert_eq!(opened.plaintext.expose(), stored.to_be_bytes(), "member {leader} leads");
        }
        app.issue_lease("t-readers", Some(30_000)).await.unwrap();
        let begun = Instant::now();
        sleep(Duration::from_secs(28)).await;
        assert_eq!(world.target("t").exposure().0.len(), 1, "member {leader} leads: the lease lives until its end");
        wait_gone(&world, Duration::from_secs(9)).await;
        assert!(begun.elapsed() >= Duration::from_secs(29), "member {leader} leads: {:?}", begun.elapsed());
        for idle in 0..4 {
            // Also between ticks.
            sleep(Duration::from_millis(2_700)).await;
            let all = world.until("three members", |all| all.iter().flatten().count() == 3).await;
            for status in all.iter().flatten() {
                let off = status.cluster_time.abs_diff(world.now());
                assert!(off < 2_500, "member {leader} leads, look {idle}: {} is {off} ms off", status.member);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_clock_stands_still_loses_office() {
    let world = founded(4).await;
    let leader = world.leader().await;
    world.clock(leader).run_at(0);
    let begun = Instant::now();
    sleep(Duration::from_secs(45)).await;
    assert_eq!(world.leader().await, leader, "not for less than a minute");
    while world.leader().await == leader {
        // It hands over each minute; on a busy machine the others may miss their turn, and it is elected once more.
        assert!(begun.elapsed() < Duration::from_secs(300), "member {leader} leads, and time stands still");
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_whose_clock_stands_still_or_races_hurts_nobody() {
    let world = founded(5).await;
    world.describe("t", &["readers"]).await;
    let follower = world.leader().await % 3 + 1;
    let app = world.client("app");
    for percent in [0, 300] {
        world.clock(follower).run_at(percent);
        app.issue_lease("t-readers", Some(30_000)).await.unwrap();
        let begun = Instant::now();
        sleep(Duration::from_secs(28)).await;
        assert_eq!(world.target("t").exposure().0.len(), 1, "at {percent} %: the lease lives until its end");
        wait_gone(&world, Duration::from_secs(12)).await;
        assert!(begun.elapsed() >= Duration::from_secs(29), "at {percent} %: {:?}", begun.elapsed());
    }
}

/// Everybody was asleep for two hours: what is due ends, but not before people could renew it.
#[tokio::test(start_paused = true)]
async fn a_jump_of_all_clocks_pauses_expiry() {
    let world = founded(6).await;
    world.describe("t", &["readers"]).await;
    let app = world.client("app");
    app.issue_lease("t-readers", Some(600_000)).await.unwrap();
    for member in 1..=3 {
        world.clock(member).shift(7_200_000);
    }
    sleep(Duration::from_secs(29)).await;
    assert_eq!(world.target("t").exposure().0.len(), 1, "expiry pauses for 30 s after a jump");
    wait_gone(&world, Duration::from_secs(40)).await;
}

/// Two clocks were wrong for a while: cluster time went with them. Honest callers' requests are over before they arrive, and when it is
/// years, so are their certificates: those who can set it back get in all the same, and nobody else.
#[tokio::test(start_paused = true)]
async fn cluster_time_that_ran_away_is_set_back() {
    let mut world = founded(7).await;
    let app = world.client("app").with_timeout(Duration::from_secs(5));
    app.put("default", "app/x", b"before", Some(0)).await.unwrap();
    for (ahead, reading) in [(HOUR, None), (2 * YEAR, Some("unauthenticated"))] {
        for member in [1, 2] {
            world.clock(member).shift(i64::try_from(ahead).unwrap());
        }
        let away = |s: &ReadStatusReply| s.cluster_time > world.now() + ahead / 2;
        world.until("a jump", |all| all.iter().flatten().any(away)).await;
        for member in [1, 2] {
            world.clock(member).shift(0);
        }
        world.until("the jump everywhere", |all| all.iter().flatten().filter(|s| away(s)).count() == 3).await;
        let late = app.put("default", "app/x", b"meanwhile", Some(1)).await.map(|put| put.number);
        assert_eq!(late.unwrap_err().code, "request_too_late", "{ahead} ms behind cluster time");
        let read = app.versions("default", "app/x").await;
        assert_eq!(read.err().map(|failure| failure.code), reading, "{ahead} ms behind cluster time");
    }
    // What ended since the jumps and is forgotten must have ended by clocks that are right: in minutes, which pass more quickly without
    // power. Nor does a start bring time back.
    for member in 1..=3 {
        world.power_off(member);
    }
    sleep(Duration::from_secs(305)).await;
    for member in 1..=3 {
        world.power_on(member).await;
    }
    world
        .until("three members", |all| all.iter().flatten().filter(|s| s.cluster_time > world.now() + YEAR).count() == 3)
        .await;
    let admin = world.client("admin/first");
    admin.reset_clock(world.now(), &[world.administrator()]).await.unwrap();
    let put = app.put("default", "app/x", b"after", Some(1)).await;
    assert_eq!(put.map(|put| put.number), Ok(2), "cluster time is right again");
    sleep(Duration::from_secs(30)).await;
    let all = world.until("three members", |all| all.iter().flatten().count() == 3).await;
    for status in all.iter().flatten() {
        let off = status.cluster_time.abs_diff(world.now());
        assert!(off < 2_500, "{} is {off} ms off", status.member);
    }
}
