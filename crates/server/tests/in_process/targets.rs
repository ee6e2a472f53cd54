//! What becomes of targets: proved, failed over, quarantined, taken over, removed.

use crate::world::{TOGETHER, World, matches, verifier};
use crate::{founded, take};
use quorate_api::client::{Client, Form, Role};
use quorate_api::peer::OpenTargetRequest;
use quorate_api::vault::{Lease, ReadStatusReply, Target};
use quorate_engines::Engine as _;
use quorate_engines::fake::{FakeTarget, Fault, Step};
use quorate_state::change::Change;
use quorate_state::ids::LeaseId;
use quorate_state::lease::{Selector, principal};
use quorate_state::target::{Endpoint, Executor, Revision, claim, claim_prefix};
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

const LONG: Duration = Duration::from_secs(40);

async fn shown(client: &Client, name: &str) -> Target {
    client.roles().await.unwrap().targets.into_iter().find(|t| t.name == name).unwrap()
}

async fn lease_in(client: &Client, id: LeaseId, state: &str, within: Duration) -> Lease {
    let begun = Instant::now();
    loop {
        match client.lease(id).await {
            Ok(lease) if lease.state == state => return lease,
            other => assert!(begun.elapsed() < within, "lease {id} is {state} within {within:?}: {other:?}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
}

fn stray(world: &World, n: u8) -> LeaseId {
    let id = LeaseId([n; 16]);
    world.target("t").plant(&principal(&world.profile.cluster, "t", &id), true);
    id
}

#[tokio::test(start_paused = true)]
async fn nothing_is_issued_before_the_target_has_shown_that_it_can_be_ended() {
    let world = founded(21).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    world.describe_unproved("t", &["readers"]).await;
    let refused = app.issue_lease("t-readers", None).await.unwrap_err();
    assert_eq!(refused.code, "target_not_enabled", "{refused}");
    // What the role needs is not there.
    target.lack("readers");
    let proof = admin.prove_target("t", LONG).await.unwrap();
    assert!(proof.failed.iter().any(|why| why.contains("readers")), "{proof:?}");
    assert_eq!(app.issue_lease("t-readers", None).await.unwrap_err().code, "target_not_enabled");
    target.supply("readers");
    // It does not answer.
    target.stop();
    let proof = admin.prove_target("t", LONG).await.unwrap();
    assert!(!proof.failed.is_empty(), "{proof:?}");
    target.start();
    let proof = admin.prove_target("t", LONG).await.unwrap();
    assert!(proof.failed.is_empty() && proof.missing.is_empty(), "{proof:?}");
    assert_eq!(shown(&admin, "t").await.standing, "enabled");
    assert_eq!(world.logins("t"), Vec::<String>::new(), "nothing of the proof is left");
    // Whichever way a login comes to a group.
    target.distrust("strong");
    let role = Role {
        target: "t".to_owned(),
        statements: "GRANT strong TO {{name}}".to_owned(),
        default_ttl: 60_000,
        max_ttl: 600_000,
        connection_limit: 4,
        max_leases: 1_000,
        form: Form::Scram { iterations: 1 },
        ..Role::default()
    };
    admin.put_role("t-strong", &role).await.unwrap();
    let proof = admin.prove_target("t", LONG).await.unwrap();
    assert!(proof.failed.iter().any(|why| why.contains("strong")), "a group that statements grant: {proof:?}");
    take(&app, "t-readers", 1, 60_000).await;
}

/// It was described by the SDK, or with `--unproved`.
#[tokio::test(start_paused = true)]
async fn what_a_role_needs_is_looked_at_though_nobody_asks() {
    let world = founded(48).await;
    world.describe("t", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    target.distrust("strong");
    let role = |group: &str| Role {
        target: "t".to_owned(),
        groups: vec![group.to_owned()],
        default_ttl: 60_000,
        max_ttl: 600_000,
        connection_limit: 4,
        max_leases: 1_000,
        form: Form::Scram { iterations: 1 },
        ..Role::default()
    };
    for (group, good) in [("strong", false), ("readers", true)] {
        let described = admin.put_role("t-other", &role(group)).await.unwrap().index;
        let proof = admin.found_out("t", described, LONG).await.unwrap();
        assert_eq!(proof.asked, described, "the description has asked for it: {proof:?}");
        let found = proof.failed.iter().any(|why| why.contains(group));
        assert_eq!((found, proof.failed.is_empty()), (!good, good), "{group}: {proof:?}");
        assert_eq!(shown(&admin, "t").await.standing, "enabled", "{group}: leases go on, and end");
    }
    assert_eq!(world.logins("t"), Vec::<String>::new(), "nothing of the proofs is left");
    take(&app, "t-readers", 1, 60_000).await;
}

/// As where a line of `pg_hba.conf` lets the executor in, and nobody that it makes.
#[tokio::test(start_paused = true)]
async fn nothing_is_issued_where_no_leased_login_is_let_in() {
    let world = founded(47).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    target.bar_logins(true);
    world.describe_unproved("t", &["readers"]).await;
    let proof = admin.prove_target("t", LONG).await.unwrap();
    let why = "role t-readers: the credential does not log in: ";
    assert!(proof.failed.iter().any(|finding| finding.starts_with(why)), "a login is used too: {proof:?}");
    assert_eq!(shown(&admin, "t").await.standing, "not proved yet");
    assert_eq!(app.issue_lease("t-readers", None).await.unwrap_err().code, "target_not_enabled");
    assert_eq!(world.logins("t"), Vec::<String>::new(), "nothing of the proof is left");
    target.bar_logins(false);
    let proof = admin.prove_target("t", LONG).await.unwrap();
    assert!(proof.failed.is_empty() && proof.missing.is_empty(), "{proof:?}");
    take(&app, "t-readers", 1, 60_000).await;
}

/// Whoever stops a member waits for what it hands out, and not for what its successor does anew.
#[tokio::test(start_paused = true)]
async fn a_slow_proof_keeps_no_member_from_ending_and_leaves_nothing() {
    let mut world = founded(26).await;
    world.describe_unproved("t", &["readers"]).await;
    let (admin, target) = (world.client("admin/first"), world.target("t").clone());
    target.hold(Step::Refuse);
    let asked = tokio::spawn(async move { admin.prove_target("t", Duration::from_secs(120)).await });
    let begun = Instant::now();
    while target.exposure().0.is_empty() {
        assert!(begun.elapsed() < LONG, "the proof makes a login");
        sleep(Duration::from_millis(100)).await;
    }
    let half_done = world.logins("t");
    let (leader, begun) = (world.leader().await, Instant::now());
    world.stop(leader).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(1_500), "it ends at once: {took:?}");
    target.release(Step::Refuse);
    let proof = asked.await.unwrap().unwrap();
    assert!(proof.failed.is_empty() && proof.missing.is_empty(), "its successor has proved the target: {proof:?}");
    let begun = Instant::now();
    while !world.logins("t").is_empty() {
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "what was half done is ended: {half_done:?}, {:?}",
            world.logins("t")
        );
        sleep(Duration::from_secs(1)).await;
    }
}

/// Whoever is looking has not seen what is described meanwhile.
#[tokio::test(start_paused = true)]
async fn what_is_described_while_a_lease_is_ended_is_looked_at_before_its_end_is_proved() {
    let world = founded(41).await;
    world.describe("t", &["readers"]).await;
    let (app, target) = (world.client("app"), world.target("t"));
    let held = take(&app, "t-readers", 1, 600_000).await.remove(0);
    target.hold(Step::Look);
    app.revoke(held.lease).await.unwrap();
    let begun = Instant::now();
    while !target.exposure().0.is_empty() {
        assert!(begun.elapsed() < LONG, "its login is refused");
        sleep(Duration::from_millis(100)).await;
    }
    let standbys = Some(vec![Endpoint { host: "127.0.0.2".to_owned(), port: 5_432 }]);
    let revision = Revision { standbys, ..Revision::default() };
    world.administer(Change::ReviseTarget { name: "t".to_owned(), revision }).await;
    // What looks by the new description begins with this.
    target.hold_names([held.username.clone()]);
    target.release(Step::Look);
    sleep(Duration::from_secs(6)).await;
    assert_eq!(app.lease(held.lease).await.unwrap().state, "revoking", "nobody has looked at the standby");
    target.release_names();
    lease_in(&app, held.lease, "revoked", LONG).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_notices_that_a_role_it_knows_wants_other_verifiers() {
    let world = founded(29).await;
    world.describe("t", &["readers"]).await;
    let (admin, app) = (world.client("admin/first"), world.client("app"));
    take(&app, "t-readers", 1, 60_000).await;
    let role = Role {
        target: "t".to_owned(),
        groups: vec!["readers".to_owned()],
        default_ttl: 60_000,
        max_ttl: 600_000,
        connection_limit: 4,
        max_leases: 1_000,
        form: Form::Scram { iterations: 2 },
        ..Role::default()
    };
    admin.put_role("t-readers", &role).await.unwrap();
    let fresh = take(&app, "t-readers", 1, 60_000).await;
    assert_eq!(fresh.len(), 1, "issued with two iterations");
    let refused = app.issue_lease("t-readers", Some(1)).await.unwrap_err();
    assert_eq!(refused.code, "invalid_argument", "what no other verifier mends is told: {refused}");
    let refused = app.issue_lease("t-writers", None).await.unwrap_err();
    assert_eq!(refused.code, "not_found", "{refused}");
    // What is no verifier is endorsed by nobody: with it nobody gets as far as to the target, which is off.
    world.target("t").stop();
    for bad in ["hunter2".to_owned(), verifier(b"of another count of iterations")] {
        let change = Change::IssueLease { role: "t-readers".to_owned(), verifier: bad, ttl: None };
        let refused = app.submit(&app.sign(change, None)).await.unwrap_err();
        assert_eq!(refused.code, "invalid_argument", "{refused}");
        assert!(refused.message.contains("verifier"), "{refused}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_fail_over_brings_back_ends_within_seconds() {
    let world = founded(22).await;
    world.describe("t", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    let ended = take(&app, "t-readers", 1, 600_000).await.remove(0);
    app.revoke(ended.lease).await.unwrap();
    lease_in(&app, ended.lease, "revoked", LONG).await;
    take(&app, "t-readers", 1, 600_000).await;
    // Past the search that each term begins with, and far before the next.
    sleep(Duration::from_secs(8)).await;
    assert!(target.resurrect(&ended.username), "the account is back, as on a standby that had not heard of its end");
    target.fail_over();
    let begun = Instant::now();
    lease_in(&admin, ended.lease, "revoking", Duration::from_secs(9)).await;
    let again = lease_in(&admin, ended.lease, "revoked", LONG).await;
    assert_eq!(again.why, "adopted", "after {:?}", begun.elapsed());
    assert_eq!(world.logins("t").len(), 1, "the other lease lives");
}

/// As behind an address that moves with the primary, with the former one still described.
#[tokio::test(start_paused = true)]
async fn what_a_fail_over_brings_back_ends_at_the_primary_whatever_a_standby_does_not_say() {
    let world = founded(37).await;
    world.describe("t", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    target.add_standby("former");
    let ended = take(&app, "t-readers", 1, 600_000).await.remove(0);
    app.revoke(ended.lease).await.unwrap();
    lease_in(&app, ended.lease, "revoked", LONG).await;
    sleep(Duration::from_secs(8)).await;
    target.turn("former", false);
    assert!(target.resurrect(&ended.username));
    target.fail_over();
    let (begun, session) = (Instant::now(), target.enter(None, &ended.username).unwrap());
    lease_in(&admin, ended.lease, "revoking", Duration::from_secs(9)).await;
    while target.exposure() != (Vec::new(), 0) {
        assert!(begun.elapsed() < Duration::from_secs(15), "{:?} at the primary", target.exposure());
        sleep(Duration::from_millis(200)).await;
    }
    assert!(!target.alive(session));
    sleep(Duration::from_secs(8)).await;
    assert_eq!(app.lease(ended.lease).await.unwrap().state, "revoking", "nobody knows what lives at the other");
    target.turn("former", true);
    lease_in(&admin, ended.lease, "revoked", Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn no_proof_comes_of_a_target_that_only_says_so() {
    let world = founded(39).await;
    world.describe("t", &["readers"]).await;
    let (app, target) = (world.client("app"), world.target("t"));
    for step in [Step::Refuse, Step::Kill] {
        let held = take(&app, "t-readers", 1, 600_000).await.remove(0);
        let session = target.enter(None, &held.username).unwrap();
        target.lie(step, true);
        app.revoke(held.lease).await.unwrap();
        sleep(Duration::from_secs(10)).await;
        let now = app.lease(held.lease).await.unwrap().state;
        assert_eq!(now, "revoking", "{step:?} has done nothing: {:?}", target.exposure());
        assert!(!target.exposure().0.is_empty() || target.alive(session), "this would prove nothing");
        target.lie(step, false);
        lease_in(&app, held.lease, "revoked", LONG).await;
        assert_eq!((target.exposure(), target.alive(session)), ((Vec::new(), 0), false));
    }
}

/// The target does what it is asked or does not, and in neither case anybody hears of it.
#[tokio::test(start_paused = true)]
async fn a_step_of_an_end_whose_answer_is_lost_is_made_again() {
    let world = founded(43).await;
    world.describe("t", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    for step in [Step::Fence, Step::Refuse, Step::Kill, Step::Look, Step::Clean] {
        for fault in [Fault::Before, Fault::After] {
            let what = format!("{step:?} fails {fault:?} its effect");
            // Nobody comes to a fence but a login of which nobody knows whether it was made.
            let (id, login) = if step == Step::Fence {
                target.hold(Step::Fence);
                target.fail(Step::Create, Fault::After);
                let failure = app.issue_lease("t-readers", Some(600_000)).await.unwrap_err();
                assert_eq!(failure.code, "lease_failed", "{what}: {failure}");
                let begun = Instant::now();
                while in_state(&admin, "revoking").await == 0 {
                    assert!(begun.elapsed() < LONG, "{what}: what nobody was handed out is to end");
                    sleep(Duration::from_millis(100)).await;
                }
                let made = admin.leases("revoking").await.unwrap().remove(0);
                (LeaseId(made.id.try_into().unwrap()), made.principal)
            } else {
                let held = take(&app, "t-readers", 1, 600_000).await.remove(0);
                (held.lease, held.username)
            };
            // In use, so that it is disabled and killed, and cleaned up after its end.
            let session = target.enter(None, &login).unwrap_or_else(|| panic!("{what}: {login} logs in before"));
            target.fail(step, fault);
            target.release(Step::Fence);
            if step != Step::Fence {
                app.revoke(id).await.unwrap();
            }
            lease_in(&admin, id, "revoked", LONG).await;
            assert_eq!(target.exposure(), (Vec::new(), 0), "{what}: what is proved to have ended has ended");
            assert!(!target.alive(session), "{what}: its session is ended");
            let begun = Instant::now();
            while !(world.logins("t").is_empty() && target.failures_left(step) == 0) {
                let (left, due) = (world.logins("t"), target.failures_left(step));
                assert!(begun.elapsed() < LONG, "{what}: it came to that, and nothing is left: {left:?}, {due} due");
                sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// A leader that goes can leave hundreds half-made. Nothing says what became of them while the target does not answer that: whoever has a
/// login in hand is rid of it in time all the same.
#[tokio::test(start_paused = true)]
async fn what_may_still_be_being_made_holds_up_no_end_of_what_was() {
    let world = founded(53).await;
    world.describe("t", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    let held = take(&app, "t-readers", 1, 20_000).await.remove(0);
    (0..10_000).for_each(|_| target.fail(Step::Fence, Fault::Before));
    target.fail(Step::Create, Fault::After);
    app.issue_lease("t-readers", Some(600_000)).await.unwrap_err();
    lease_in(&admin, held.lease, "revoked", LONG).await;
    assert!(target.failures_left(Step::Fence) < 10_000, "somebody has tried to fence the other one");
    assert_eq!(in_state(&admin, "revoking").await, 1, "and nothing is said of that one before it is fenced");
}

/// For an hour it answers nothing and closes nothing: neither what is being made comes to life after it, nor is an end forgotten.
#[tokio::test(start_paused = true)]
async fn a_target_that_is_frozen_for_longer_than_its_leases_keeps_no_login() {
    const FROZEN: Duration = Duration::from_secs(720);
    let world = founded(44).await;
    world.describe("t", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    let asked = take(&app, "t-readers", 1, 600_000).await.remove(0);
    let due = take(&app, "t-readers", 1, 20_000).await.remove(0);
    let sessions = [&asked, &due].map(|held| target.enter(None, &held.username).unwrap());
    target.hold(Step::Create);
    let maker = world.client("app");
    let making = tokio::spawn(async move { maker.issue_lease("t-readers", Some(60_000)).await });
    let begun = Instant::now();
    while in_state(&admin, "intent").await == 0 {
        assert!(begun.elapsed() < LONG, "an issue is under way");
        sleep(Duration::from_millis(100)).await;
    }
    let steps = [Step::Bind, Step::Fence, Step::Refuse, Step::Kill, Step::Look, Step::Clean, Step::Read];
    steps.into_iter().for_each(|step| target.hold(step));
    app.revoke(asked.lease).await.unwrap();
    lease_in(&admin, due.lease, "revoking", LONG).await;
    sleep(FROZEN).await;
    assert_eq!(in_state(&admin, "revoked").await, 0, "nothing is proved at a target that says nothing");
    assert_eq!(target.exposure().1, 2, "both sessions live: nothing has reached it");
    let issued = making.await.unwrap().map(|credential| credential.username);
    assert!(issued.is_err(), "nobody was handed out a login that was not made: {issued:?}");

    steps.into_iter().chain([Step::Create]).for_each(|step| target.release(step));
    for lease in admin.leases("").await.unwrap() {
        lease_in(&admin, LeaseId(lease.id.try_into().unwrap()), "revoked", Duration::from_secs(60)).await;
    }
    assert!(sessions.iter().all(|session| !target.alive(*session)), "the sessions are ended");
    // Past the next search: what was being made does not come to life behind it.
    sleep(Duration::from_secs(70)).await;
    assert_eq!((target.exposure(), world.logins("t").len()), ((Vec::new(), 0), 0), "no login is left, and none comes");
    assert_eq!(in_state(&admin, "revoked").await, 3, "one was asked for, one was due, and one was in the making");
    take(&app, "t-readers", 1, 60_000).await;
}

/// As of one who was let in before his login was refused, and whom a server shows only once he is served.
#[tokio::test(start_paused = true)]
async fn a_session_that_appears_behind_the_first_look_keeps_the_end_open() {
    let world = founded(45).await;
    world.describe("t", &["readers"]).await;
    let (app, target) = (world.client("app"), world.target("t"));
    // What is in use is disabled, what is not is dropped: then the session has no account.
    for in_use in [true, false] {
        let held = take(&app, "t-readers", 1, 600_000).await.remove(0);
        let open = in_use.then(|| target.enter(None, &held.username).unwrap());
        let late = target.arrive_late(&held.username).unwrap();
        app.revoke(held.lease).await.unwrap();
        let begun = Instant::now();
        while !target.alive(late) {
            assert!(begun.elapsed() < LONG, "it appears behind a look that has shown nothing");
            sleep(Duration::from_millis(50)).await;
        }
        assert!(open.is_none_or(|session| !target.alive(session)), "the other one was killed before");
        // From here on it is seen, and not ended.
        target.lie(Step::Kill, true);
        sleep(Duration::from_secs(10)).await;
        let shown = app.explained_lease(held.lease).await.unwrap();
        assert_eq!(shown.state, "revoking", "in use {in_use}: the second look sees it: {shown:?}");
        assert!(shown.trouble.contains("1 sessions are alive"), "in use {in_use}: people are told: {shown:?}");
        target.lie(Step::Kill, false);
        lease_in(&app, held.lease, "revoked", LONG).await;
        assert!(!target.alive(late), "in use {in_use}: it is ended first");
        assert_eq!(target.exposure(), (Vec::new(), 0), "in use {in_use}: nothing is left");
    }
}

/// What a member answers to the leader, in its office, who asks for its part of the target's password: a part, or why not.
async fn part_for_leader(world: &World) -> Result<Vec<u8>, (String, String)> {
    let leader = world.leader().await;
    let all = world.until("the leader's status", |all| all.iter().flatten().any(|s| s.leader == s.member)).await;
    let status = all.into_iter().flatten().find(|s| s.member == u32::from(leader)).unwrap();
    let credential = shown(&world.client("admin/first"), "t").await.password_index;
    let (target, request_id) = ("t".to_owned(), vec![7; 16]);
    let ask = OpenTargetRequest { target, term: status.term, request_id, min_index: 0, credential };
    let reply = world.line(leader, leader % 3 + 1).open_target(ask).await.unwrap().into_inner();
    if reply.refusal.is_empty() { Ok(reply.partial) } else { Err((reply.refusal, reply.reason)) }
}

/// Waits until the leader is given a part.
async fn part_is_given(world: &World, because: &str) {
    let begun = Instant::now();
    loop {
        match part_for_leader(world).await {
            Ok(part) => return assert_eq!(part.len(), 32, "a part is a point of the group"),
            Err(why) => assert!(begun.elapsed() < LONG, "a part is given, because {because}: {why:?}"),
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// Waits until the leader is in office, and is refused all the same.
async fn nobody_has_a_use(world: &World) {
    let begun = Instant::now();
    loop {
        // Until the log says that the leader is in office, that is what it is told.
        let (refusal, reason) = part_for_leader(world).await.expect_err("nobody has a use for the password");
        assert_eq!(refusal, "not_in_office", "{reason}");
        if reason.contains("no lease is there") {
            return;
        }
        assert!(begun.elapsed() < LONG, "the leader takes office, and is refused all the same: {reason}");
        sleep(Duration::from_millis(200)).await;
    }
}

/// Nobody has a use for its password then, and so nobody gets it.
#[tokio::test(start_paused = true)]
async fn a_new_leader_is_given_no_password_of_a_target_without_leases() {
    let world = founded(46).await;
    world.describe("t", &["readers"]).await;
    let app = world.client("app");
    let held = take(&app, "t-readers", 1, 600_000).await.remove(0);
    part_is_given(&world, "a lease is there").await;
    app.revoke(held.lease).await.unwrap();
    lease_in(&app, held.lease, "revoked", LONG).await;
    world.have_lead(world.leader().await % 3 + 1).await;
    part_is_given(&world, "whoever leads next may have to clean up after the last end").await;
    sleep(Duration::from_secs(65)).await;
    world.have_lead(world.leader().await % 3 + 1).await;
    nobody_has_a_use(&world).await;
    // With a request for one there is a use again.
    take(&app, "t-readers", 1, 60_000).await;
    part_is_given(&world, "a lease is there again").await;
}

/// However long it takes, and whoever leads then: the log knows that something is left, until nothing is.
#[tokio::test(start_paused = true)]
async fn what_ended_leases_leave_is_searched_for_until_it_is_gone() {
    let mut world = founded(49).await;
    world.describe("t", &["readers"]).await;
    let app = world.client("app");
    let held = take(&app, "t-readers", 1, 600_000).await.remove(0);
    world.target("t").own(&held.username, &["elsewhere"]);
    app.revoke(held.lease).await.unwrap();
    lease_in(&app, held.lease, "revoked", LONG).await;
    // Longer than any member remembers the end, also by the clock of the log, which stands still unless somebody asks for something.
    sleep(Duration::from_secs(600)).await;
    world.describe("other", &["readers"]).await;
    let other = take(&app, "other-readers", 1, 600_000).await.remove(0);
    app.revoke(other.lease).await.unwrap();
    lease_in(&app, other.lease, "revoked", LONG).await;
    world.describe("over", &["readers"]).await;
    assert_eq!(world.logins("t"), [&*held.username]);
    for member in [1, 2, 3] {
        world.power_off(member);
    }
    world.target("t").own(&held.username, &[]);
    for member in [1, 2, 3] {
        world.power_on(member).await;
    }
    let begun = Instant::now();
    while !world.logins("t").is_empty() {
        assert!(begun.elapsed() < Duration::from_secs(90), "it is cleaned up: {:?}", world.logins("t"));
        sleep(Duration::from_secs(1)).await;
    }
    // And the next search finds none, so that nobody has a reason any more to help a leader with the password.
    sleep(Duration::from_secs(65)).await;
    world.have_lead(world.leader().await % 3 + 1).await;
    nobody_has_a_use(&world).await;
}

/// As when leased logins have taken every slot of the server.
#[tokio::test(start_paused = true)]
async fn what_is_due_ends_on_the_first_connection_where_there_is_no_other() {
    let world = founded(40).await;
    world.describe("t", &["readers"]).await;
    let (app, target) = (world.client("app"), world.target("t"));
    let due = take(&app, "t-readers", 1, 20_000).await.remove(0);
    // Entering office was before; what comes beside the connection of the office is not let in.
    target.deny(Step::Read);
    lease_in(&app, due.lease, "revoked", LONG).await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_no_lease_explains_is_told_of() {
    let said = Said::default();
    let _listening = tracing::subscriber::set_default(said.clone());
    let world = founded(41).await;
    world.describe("t", &["readers"]).await;
    let (app, target) = (world.client("app"), world.target("t"));
    take(&app, "t-readers", 1, 600_000).await;
    target.add_standby("standby");
    target.plant("stranger", true);
    let session = target.enter(Some("standby"), "stranger").unwrap();
    let alarm = "a session has no account";
    // Each time it is searched at once.
    target.fail_over();
    sleep(Duration::from_secs(12)).await;
    assert!(!said.0.lock().unwrap().contains(alarm), "it has an account");
    target.forget("stranger");
    target.fail_over();
    let begun = Instant::now();
    while !said.0.lock().unwrap().contains(alarm) {
        assert!(begun.elapsed() < Duration::from_secs(20), "a search later nobody has said so");
        sleep(Duration::from_secs(1)).await;
    }
    let said = said.0.lock().unwrap().clone();
    let (_, told) = said.split_at(said.find(alarm).unwrap());
    assert!(told.contains("endpoint=\"standby\"") && told.contains(&format!("pid={session}")), "{:.200}", told);
    assert!(target.alive(session), "it is nobody's that this cluster knows of");
    let shows = |all: &[Option<ReadStatusReply>]| {
        let mut alarms = all.iter().flatten().flat_map(|s| &s.alarms);
        alarms.any(|a| a.code == "target_ghost_session" && a.message.contains("(1)"))
    };
    world.until("alarm", shows).await;
    let told = world.client("admin/first").explained_roles().await.unwrap().targets.remove(0).ghosts;
    assert!(told.len() == 1 && told[0].contains(&format!("process {session} at standby")), "{told:?}");
}

/// It goes with its last lease, and so does everybody who would come back there.
#[tokio::test(start_paused = true)]
async fn what_the_last_lease_of_a_removed_target_leaves_behind_is_cleaned_up() {
    let world = founded(42).await;
    world.describe("t", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    let all = take(&app, "t-readers", 2, 600_000).await;
    // Whoever is in use is disabled, and dropped when it is cleaned up.
    assert!(all.iter().all(|credential| target.enter(None, &credential.username).is_some()));
    admin.change(Change::DeleteTarget { name: "t".to_owned() }).await.unwrap();
    let begun = Instant::now();
    while !(world.logins("t").is_empty() && admin.roles().await.unwrap().targets.iter().all(|t| t.name != "t")) {
        assert!(begun.elapsed() < LONG, "nothing is left there: {:?}", world.logins("t"));
        sleep(Duration::from_millis(200)).await;
    }
}

/// What others left behind is cleaned up after everything else.
#[tokio::test(start_paused = true)]
async fn cleaning_up_delays_no_end() {
    let world = founded(38).await;
    world.describe("t", &["readers"]).await;
    let (app, target) = (world.client("app"), world.target("t"));
    let mut leases = take(&app, "t-readers", 4, 600_000).await;
    for owner in &leases[..2] {
        target.own(&owner.username, &["elsewhere"]);
    }
    let owner = leases[0].lease;
    target.hold(Step::Clean);
    // Held up: first what an end leads to, then what a search does.
    for search in [false, true] {
        if search {
            target.fail_over();
            sleep(Duration::from_secs(10)).await;
        }
        for credential in leases.drain(..2) {
            app.revoke(credential.lease).await.unwrap();
            let ended = app.wait_revoked(credential.lease, Duration::from_secs(6)).await;
            let ended = ended.unwrap_or_else(|why| panic!("an end waits for what another left behind: {why}"));
            assert!(ended.proof_endpoint.ends_with(" (primary only)"), "{ended:?}");
            assert_eq!(u64::from(ended.proof_member), u64::from(world.leader().await));
            assert!(ended.proof_term > 0 && ended.trouble.is_empty(), "{ended:?}");
        }
        let due = take(&app, "t-readers", 1, 5_000).await.remove(0);
        lease_in(&app, due.lease, "revoked", Duration::from_secs(12)).await;
    }
    let left = world.logins("t");
    assert_eq!(left.len(), 2, "nothing is cleaned up yet: {left:?}");
    target.release(Step::Clean);
    let admin = world.client("admin/first");
    let leftovers = async || admin.explained_roles().await.unwrap().targets.remove(0).leftovers;
    let begun = Instant::now();
    while leftovers().await.len() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(70), "who asks is told what is left: {:?}", leftovers().await);
        sleep(Duration::from_secs(1)).await;
    }
    let said = leftovers().await;
    assert!(said.iter().all(|l| left.contains(&l.login) && l.why.contains("elsewhere")), "{said:?}");
    let shown = app.explained_lease(owner).await.unwrap();
    assert!(shown.state == "revoked" && shown.trouble.contains("elsewhere"), "its lease says so too: {shown:?}");
    left.iter().for_each(|name| target.own(name, &[]));
    let begun = Instant::now();
    while !(world.logins("t").is_empty() && leftovers().await.is_empty()) {
        assert!(begun.elapsed() < Duration::from_secs(130), "a search or two later: {:?}", world.logins("t"));
        sleep(Duration::from_secs(1)).await;
    }
    assert_eq!(app.explained_lease(owner).await.unwrap().trouble, "", "and nothing any more when nothing is left");
}

#[tokio::test(start_paused = true)]
async fn a_copy_of_the_cluster_stops_both_from_ending_what_they_do_not_know() {
    let world = founded(23).await;
    world.describe("t", &["readers"]).await;
    world.describe("other", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    let kept = take(&app, "t-readers", 1, 600_000).await.remove(0);
    let due = take(&app, "t-readers", 1, 90_000).await.remove(0);
    let elsewhere = take(&app, "other-readers", 1, 90_000).await.remove(0);
    // The copy has been in office more often, and has issued.
    let copy = Executor { member: 1, term: 1, epoch: 9, nonce: [9; 8], past: Vec::new(), taken_over: 0 };
    target.executor().claim(&claim(&world.profile.cluster, "t", &copy)).await.unwrap();
    let unknown = stray(&world, 7);
    target.forget(&kept.username);
    let begun = Instant::now();
    let seen = loop {
        if let Some(found) = shown(&admin, "t").await.quarantine {
            break found;
        }
        assert!(begun.elapsed() < Duration::from_secs(70), "the claim is seen within a search or two");
        sleep(Duration::from_millis(500)).await;
    };
    assert_eq!((seen.counter, seen.unknown, seen.missing), (9, 1, 1), "{seen:?}");
    assert_eq!(seen.sample, [principal(&world.profile.cluster, "t", &unknown)]);
    assert_eq!(app.issue_lease("t-readers", None).await.unwrap_err().code, "quarantined");
    assert_eq!(app.renew(kept.lease, 60_000).await.unwrap_err().code, "quarantined");
    // Nothing is ended there, by whoever leads; elsewhere all goes on.
    world.have_lead(world.leader().await % 3 + 1).await;
    lease_in(&app, elsewhere.lease, "revoked", Duration::from_secs(120)).await;
    sleep(Duration::from_secs(70)).await;
    assert_eq!(app.lease(due.lease).await.unwrap().state, "active", "its time is over, and nobody ends it");
    assert_eq!(world.logins("t").len(), 2, "the stray and the lease that is due are there");
    assert_eq!(world.target("other").exposure().0.len(), 0);
    // What was not looked at is not taken over.
    let take_over = |counter| Change::TakeOver { target: "t".to_owned(), counter };
    let wrong = world.try_administer(take_over(8)).await.unwrap_err();
    assert_eq!(wrong.code, "invalid_argument", "{wrong}");
    world.administer(take_over(9)).await;
    lease_in(&app, due.lease, "revoked", LONG).await;
    let ended = lease_in(&admin, unknown, "revoked", Duration::from_secs(120)).await;
    assert_eq!(ended.why, "adopted");
    take(&app, "t-readers", 1, 60_000).await;
    let prefix = claim_prefix(&world.profile.cluster, "t");
    let claims: Vec<String> = target.names().into_iter().filter(|name| name.starts_with(&prefix)).collect();
    assert_eq!(claims.len(), 1, "one claim stands, the newest: {claims:?}");
    assert!(shown(&admin, "t").await.quarantine.is_none());
}

#[tokio::test(start_paused = true)]
async fn whoever_makes_logins_counts_on_so_that_an_earlier_state_of_the_same_term_is_noticed() {
    let world = founded(43).await;
    world.describe("t", &["readers"]).await;
    let (app, target) = (world.client("app"), world.target("t"));
    let prefix = claim_prefix(&world.profile.cluster, "t");
    let claims = || target.names().into_iter().filter(|name| name.starts_with(&prefix)).collect::<Vec<_>>();
    take(&app, "t-readers", 1, 600_000).await;
    let (mut seen, leader) = (claims(), world.leader().await);
    for _ in 0..2 {
        take(&app, "t-readers", 1, 600_000).await;
        let begun = Instant::now();
        while claims() == seen || claims().len() != 1 {
            assert!(begun.elapsed() < Duration::from_secs(130), "a search later there is another claim: {seen:?}");
            sleep(Duration::from_secs(1)).await;
        }
        assert!(claims() > seen, "it counts up: {seen:?}, {:?}", claims());
        seen = claims();
    }
    assert_eq!(world.leader().await, leader, "in the same term of office");
    sleep(Duration::from_secs(200)).await;
    assert_eq!(claims(), seen, "where nothing was made since, there is nothing to count");
}

#[tokio::test(start_paused = true)]
async fn a_member_that_starts_reads_no_leases_one_by_one() {
    let mut world = founded(44).await;
    world.describe("t", &["readers"]).await;
    let app = world.client("app");
    let mut reads = Vec::new();
    for leases in [2, 98] {
        take(&app, "t-readers", leases, 600_000).await;
        let other = world.leader().await % 3 + 1;
        world.stop(other).await;
        let before = world.rows_read(other);
        world.start(other).await;
        // It answers, and has done for a while.
        world.until("member", |all| all.iter().flatten().count() == 3).await;
        sleep(Duration::from_secs(2)).await;
        reads.push(world.rows_read(other) - before);
    }
    assert!(reads[1] < reads[0] + 50, "with 2 leases and with 100 it has read so many rows: {reads:?}");
}

#[tokio::test(start_paused = true)]
async fn a_standby_that_does_not_answer_keeps_an_end_open_and_nobody_alive() {
    let world = founded(25).await;
    world.describe("t", &["readers"]).await;
    let (app, target) = (world.client("app"), world.target("t"));
    let held = take(&app, "t-readers", 1, 600_000).await.remove(0);
    target.add_standby("standby");
    let (here, there) = (target.enter(None, &held.username), target.enter(Some("standby"), &held.username));
    let alive = |session: Option<u64>| target.alive(session.unwrap());
    assert!(alive(here) && alive(there));
    target.pause("standby");
    app.revoke(held.lease).await.unwrap();
    let begun = Instant::now();
    while alive(here) || alive(there) {
        assert!(begun.elapsed() < LONG, "sessions are killed wherever they can be");
        sleep(Duration::from_millis(200)).await;
    }
    sleep(Duration::from_secs(8)).await;
    assert_eq!(app.lease(held.lease).await.unwrap().state, "revoking", "the standby still lets it in");
    target.resume("standby");
    lease_in(&app, held.lease, "revoked", Duration::from_secs(90)).await;

    let held = take(&app, "t-readers", 1, 600_000).await.remove(0);
    let here = target.enter(None, &held.username);
    target.own(&held.username, &["elsewhere"]);
    target.turn("standby", false);
    app.revoke(held.lease).await.unwrap();
    let begun = Instant::now();
    while alive(here) {
        assert!(begun.elapsed() < LONG, "one endpoint that is dark keeps nobody alive at another");
        sleep(Duration::from_millis(200)).await;
    }
    sleep(Duration::from_secs(8)).await;
    let waiting = app.explained_lease(held.lease).await.unwrap();
    assert_eq!(waiting.state, "revoking", "nobody knows what lives at the standby");
    assert!(waiting.trouble.contains("standby"), "and that is what people are told: {waiting:?}");
    target.turn("standby", true);
    lease_in(&app, held.lease, "revoked", Duration::from_secs(90)).await;

    // What it left behind keeps the account, which can log in nowhere. A standby that lags brings nothing back.
    assert!(target.names().contains(&held.username));
    target.pause("standby");
    target.fail_over();
    sleep(Duration::from_secs(12)).await;
    assert_eq!(
        app.lease(held.lease).await.unwrap().state,
        "revoked",
        "a proof holds, whatever a standby does not know"
    );
    target.resume("standby");
}

/// More than are ended together at once: what the first of them wait for, nobody behind them waits for.
#[tokio::test(start_paused = true)]
async fn a_standby_that_is_dark_keeps_no_lease_behind_the_first_thousands_alive() {
    // Four rounds are abreast.
    const LEASES: usize = TOGETHER * 5;
    let world = founded(36).await;
    world.describe("t", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    take(&app, "t-readers", LEASES, 600_000).await;
    let sessions: Vec<u64> = target.exposure().0.iter().map(|name| target.enter(None, name).unwrap()).collect();
    target.add_standby("standby");
    target.turn("standby", false);
    admin.revoke_all(Selector::Target("t".to_owned())).await.unwrap();
    exposed(target, 0, "a standby is dark").await;
    assert!(sessions.iter().all(|session| !target.alive(*session)), "sessions are killed where they can be");
    sleep(Duration::from_secs(8)).await;
    assert_eq!(in_state(&admin, "revoked").await, 0, "of none it is known what lives at the standby");
    target.turn("standby", true);
    all_end(&admin).await;

    // The same when the executor may look no more, or kill no more.
    for (n, step) in [Step::Look, Step::Kill].into_iter().enumerate() {
        take(&app, "t-readers", LEASES, 600_000).await;
        target.deny(step);
        admin.revoke_all(Selector::Target("t".to_owned())).await.unwrap();
        exposed(target, 0, "the executor lost a right").await;
        sleep(Duration::from_secs(5)).await;
        assert_eq!(in_state(&admin, "revoked").await, LEASES * (n + 1), "nothing is proved without {step:?}");
        target.allow(step);
        all_end(&admin).await;
    }
}

/// Waits until so many accounts can log in.
async fn exposed(target: &FakeTarget, logins: usize, because: &str) {
    let begun = Instant::now();
    while target.exposure().0.len() != logins {
        let now = target.exposure().0.len();
        assert!(begun.elapsed() < LONG, "{now} and not {logins} can log in, because {because}");
        sleep(Duration::from_millis(200)).await;
    }
}

async fn in_state(client: &Client, state: &str) -> usize {
    client.leases(state).await.unwrap().len()
}

async fn all_end(client: &Client) {
    let begun = Instant::now();
    while in_state(client, "revoking").await > 0 {
        let left = in_state(client, "revoking").await;
        assert!(begun.elapsed() < Duration::from_secs(90), "{left} leases do not end though nothing hinders it");
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_target_is_removed_with_its_last_lease() {
    let world = founded(24).await;
    world.describe("t", &["readers"]).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    let all = take(&app, "t-readers", 3, 600_000).await;
    target.stop();
    admin.change(Change::DeleteTarget { name: "t".to_owned() }).await.unwrap();
    assert_eq!(shown(&admin, "t").await.standing, "being removed");
    assert_eq!(app.issue_lease("t-readers", None).await.unwrap_err().code, "not_found", "its roles go at once");
    sleep(Duration::from_secs(60)).await;
    assert_eq!(shown(&admin, "t").await.leases_asked, 3, "a target that does not answer is not forgotten");
    target.start();
    for credential in &all {
        let ended = lease_in(&admin, credential.lease, "revoked", LONG).await;
        assert_eq!(ended.why, "target deleted");
    }
    assert!(admin.roles().await.unwrap().targets.iter().all(|t| t.name != "t"));
    assert_eq!(target.exposure().0.len(), 0);
    // The same name again.
    world.describe("t", &["readers"]).await;
    take(&app, "t-readers", 1, 60_000).await;
}

/// Waits until the target's password is another one than the verifier's, and nothing is under way.
async fn rotated(admin: &Client, target: &FakeTarget, before: &str) -> (Target, String) {
    let begun = Instant::now();
    loop {
        let (found, now) = (shown(admin, "t").await, target.administrator().unwrap());
        if now != before && !found.rotating && found.rotated_index > 0 {
            return (found, now);
        }
        assert!(begun.elapsed() < Duration::from_secs(130), "the password is rotated: {found:?}");
        sleep(Duration::from_millis(500)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_password_is_rotated_once_in_a_term_and_the_former_executor_is_locked_out() {
    let world = founded(31).await;
    world.describe_rotating("t", &["readers"], b"a password").await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    let (first, by_first) = rotated(&admin, target, &verifier(b"a password")).await;
    let kept = take(&app, "t-readers", 1, 600_000).await.remove(0);
    sleep(Duration::from_secs(30)).await;
    assert_eq!(target.administrator().unwrap(), by_first, "not twice in one term");
    assert_eq!(target.turned_away(), 0, "nobody tries what is not the password");
    let due = take(&app, "t-readers", 1, 20_000).await.remove(0);
    world.have_lead(world.leader().await % 3 + 1).await;
    let (second, by_second) = rotated(&admin, target, &by_first).await;
    assert!(second.rotated_index > first.rotated_index && second.rotated_at > first.rotated_at, "{second:?}");
    lease_in(&app, due.lease, "revoked", LONG).await;
    assert!(target.enter(None, &kept.username).is_some(), "leases go on");
    // The connections that it has now are lost: those that come instead know the password.
    target.part();
    take(&app, "t-readers", 1, 60_000).await;
    assert_eq!(target.administrator().unwrap(), by_second);
    assert_eq!(target.turned_away(), 0);
}

/// Everything that is said at any level, by anybody.
#[derive(Clone, Default)]
struct Said(Arc<Mutex<String>>);

impl Visit for Said {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0.lock().unwrap(), "{field}={value:?} ").unwrap();
    }
}

impl Subscriber for Said {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, span: &Attributes<'_>) -> Id {
        span.record(&mut self.clone());
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, values: &Record<'_>) {
        values.record(&mut self.clone());
    }

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut self.clone());
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

#[tokio::test(start_paused = true)]
async fn a_rotated_password_is_kept_and_said_by_nobody() {
    let said = Said::default();
    let _listening = tracing::subscriber::set_default(said.clone());
    let world = founded(35).await;
    let (admin, target) = (world.client("admin/first"), world.target("t"));
    world.describe_rotating("t", &["readers"], b"a password").await;
    let (_, now) = rotated(&admin, target, &verifier(b"a password")).await;
    let secret = target.let_in_with();
    assert!(matches(&secret, &now) && secret.len() == 43, "what is looked for is what the target asks for");
    let text = String::from_utf8(secret).unwrap();
    let said = said.0.lock().unwrap().clone();
    assert!(said.contains("the target's password is rotated"), "what is said is not heard, so this proves nothing");
    assert!(!said.contains(&text), "it was said");
    let (kept, numbers) = (world.kept(), |text: &str| format!("{:?}", text.as_bytes()));
    let keeps = |text: &str| kept.contains(text) || kept.contains(numbers(text).trim_matches(['[', ']']));
    assert!(keeps("executor.rotate") && keeps("executor/"), "what is kept is not seen, so this proves nothing");
    assert!(!keeps(&text), "it was kept in clear");
    let stored = now.rsplit(':').next().unwrap();
    assert!(!said.contains(stored) && !keeps(stored), "nor is its verifier anybody's business");
}

#[tokio::test(start_paused = true)]
async fn a_rotation_that_is_cut_off_is_completed_with_the_same_password() {
    let world = founded(32).await;
    let target = world.target("t");
    // The target gets it and nobody hears of that; then it gets nothing.
    for (fault, changed) in [(Fault::After, true), (Fault::Before, false)] {
        for _ in 0..2 {
            target.fail(Step::SetPassword, fault);
        }
        if changed {
            world.describe_rotating("t", &["readers"], b"a password").await;
        }
        let (admin, app) = (world.client("admin/first"), world.client("app"));
        let before = target.administrator().unwrap();
        // Whatever the target has, all goes on, with new connections too.
        target.part();
        take(&app, "t-readers", 1, 60_000).await;
        world.have_lead(world.leader().await % 3 + 1).await;
        take(&app, "t-readers", 1, 60_000).await;
        rotated(&admin, target, &before).await;
        target.part();
        take(&app, "t-readers", 1, 60_000).await;
    }
}

#[tokio::test(start_paused = true)]
async fn who_changes_the_password_by_hand_is_alarmed_and_says_what_it_is() {
    let world = founded(33).await;
    world.describe_rotating("t", &["readers"], b"a password").await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    rotated(&admin, target, &verifier(b"a password")).await;
    let due = take(&app, "t-readers", 1, 20_000).await.remove(0);
    target.guard(&verifier(b"by hand"), target.matcher().unwrap());
    target.part();
    let alarm = "target_credential_refused";
    let alarmed =
        |all: &[Option<ReadStatusReply>]| all.iter().flatten().any(|s| s.alarms.iter().any(|a| a.code == alarm));
    let all = world.until("alarm", alarmed).await;
    let said = all.iter().flatten().flat_map(|s| &s.alarms).find(|a| a.code == alarm).unwrap();
    assert!(said.message.contains("quorate target password t") && said.message.contains("28P01"), "{said:?}");
    sleep(Duration::from_secs(25)).await;
    assert_eq!(app.lease(due.lease).await.unwrap().state, "revoking", "its time is over, and nobody can end it");
    // What is wrong changes nothing.
    world.replace_password("t", b"something else").await.unwrap();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(app.lease(due.lease).await.unwrap().state, "revoking");
    let by_hand = target.administrator().unwrap();
    world.replace_password("t", b"by hand").await.unwrap();
    lease_in(&app, due.lease, "revoked", LONG).await;
    world.until("end of the alarm", |all| !alarmed(all)).await;
    // Nobody is to know it.
    rotated(&admin, target, &by_hand).await;
    take(&app, "t-readers", 1, 60_000).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_forgets_its_password_gets_it_again() {
    let world = founded(36).await;
    world.describe_rotating("t", &["readers"], b"a password").await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    let (_, by_first) = rotated(&admin, target, &verifier(b"a password")).await;
    let due = take(&app, "t-readers", 1, 30_000).await.remove(0);
    // It is restored, or fails over to a standby that was behind: in the same term, and in the next one.
    for before in [verifier(b"a password"), by_first] {
        let (known, index) = (target.administrator().unwrap(), shown(&admin, "t").await.rotated_index);
        target.guard(&before, target.matcher().unwrap());
        target.part();
        take(&app, "t-readers", 1, 60_000).await;
        let begun = Instant::now();
        while target.administrator().unwrap() == before {
            assert!(begun.elapsed() < Duration::from_secs(130), "it gets its password again");
            sleep(Duration::from_millis(500)).await;
        }
        target.part();
        let refused = target.turned_away();
        take(&app, "t-readers", 1, 60_000).await;
        assert_eq!(target.turned_away(), refused, "it is let in with what the log says");
        let secret = target.let_in_with();
        assert!(matches(&secret, &known), "and that is what it had, whatever its verifier is");
        assert_eq!(shown(&admin, "t").await.rotated_index, index, "the log has it already");
        world.have_lead(world.leader().await % 3 + 1).await;
        rotated(&admin, target, &target.administrator().unwrap()).await;
    }
    lease_in(&app, due.lease, "revoked", LONG).await;
}

#[tokio::test(start_paused = true)]
async fn who_mistypes_the_password_is_told_and_nothing_stands_still() {
    let world = founded(37).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    target.guard(&verifier(b"a password"), matches);
    world.describe("t", &["readers"]).await;
    let due = take(&app, "t-readers", 1, 20_000).await.remove(0);
    world.replace_password("t", b"a passwort").await.unwrap();
    target.part();
    lease_in(&app, due.lease, "revoked", LONG).await;
    let former = "target_credential_former";
    let alarmed =
        |all: &[Option<ReadStatusReply>]| all.iter().flatten().any(|s| s.alarms.iter().any(|a| a.code == former));
    world.until("alarm", alarmed).await;
    let proof = admin.prove_target("t", Duration::from_secs(40)).await.unwrap();
    assert!(proof.failed.iter().any(|why| why.contains("quorate target password t")), "{proof:?}");
    assert_eq!(target.administrator().unwrap(), verifier(b"a password"), "nobody wants it rotated");
    world.replace_password("t", b"a password").await.unwrap();
    let proof = admin.prove_target("t", Duration::from_secs(40)).await.unwrap();
    assert!(proof.failed.is_empty(), "{proof:?}");
    world.until("end of the alarm", |all| !alarmed(all)).await;
}

#[tokio::test(start_paused = true)]
async fn a_rotation_ends_whoever_has_a_session_of_the_login() {
    let world = founded(38).await;
    let (admin, target) = (world.client("admin/first"), world.target("t"));
    target.intrude();
    world.describe_rotating("t", &["readers"], b"a password").await;
    let (_, by_first) = rotated(&admin, target, &verifier(b"a password")).await;
    assert_eq!(target.strangers(), 0);
    target.intrude();
    sleep(Duration::from_secs(20)).await;
    assert_eq!(target.strangers(), 1, "once in a term");
    world.have_lead(world.leader().await % 3 + 1).await;
    let app = world.client("app");
    take(&app, "t-readers", 1, 60_000).await;
    rotated(&admin, target, &by_first).await;
    assert_eq!(target.strangers(), 0);
}

#[cfg(feature = "failpoints")]
#[tokio::test(start_paused = true)]
async fn what_a_corrupt_executor_has_sealed_for_nobody_stops_no_rotation_and_locks_nobody_out() {
    let world = founded(39).await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    // Its password is under way, and never reaches the target.
    target.fail(Step::SetPassword, Fault::Before);
    world.describe_rotating("t", &["readers"], b"a password").await;
    let begun = Instant::now();
    while !shown(&admin, "t").await.rotating {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is begun");
        sleep(Duration::from_millis(100)).await;
    }
    fail::cfg("credential.made", "return(fail)").unwrap();
    world.have_lead(world.leader().await % 3 + 1).await;
    take(&app, "t-readers", 1, 60_000).await;
    let (_, by_second) = rotated(&admin, target, &verifier(b"a password")).await;
    world.have_lead(world.leader().await % 3 + 1).await;
    let refused = app.issue_lease("t-readers", Some(60_000)).await.unwrap_err();
    assert_eq!(refused.code, "target_refused", "what people said opens, and it is not what the target has: {refused}");
    let alarm = "target_credential_unopenable";
    let alarmed =
        |all: &[Option<ReadStatusReply>]| all.iter().flatten().any(|s| s.alarms.iter().any(|a| a.code == alarm));
    world.until("alarm", alarmed).await;
    fail::cfg("credential.said", "return(fail)").unwrap();
    world.have_lead(world.leader().await % 3 + 1).await;
    sleep(Duration::from_secs(5)).await;
    let refused = app.issue_lease("t-readers", Some(60_000)).await.unwrap_err();
    assert_eq!(refused.code, "credential_unopenable", "all members have given their parts of all of them: {refused}");
    // What did not open for a moment is opened again.
    fail::remove("credential.said");
    fail::remove("credential.made");
    let begun = Instant::now();
    while let Err(refused) = app.issue_lease("t-readers", Some(60_000)).await {
        assert!(begun.elapsed() < LONG, "it opens now: {refused}");
        sleep(Duration::from_secs(1)).await;
    }
    world.until("end of the alarm", |all| !alarmed(all)).await;
    rotated(&admin, target, &by_second).await;
}

#[cfg(feature = "failpoints")]
#[tokio::test(start_paused = true)]
async fn what_a_corrupt_executor_has_the_log_call_the_password_is_passed_over() {
    let world = founded(40).await;
    world.describe_rotating("t", &["readers"], b"a password").await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    let said = verifier(b"a password");
    rotated(&admin, target, &said).await;
    let due = take(&app, "t-readers", 1, 30_000).await.remove(0);
    // It never gave the target the one that it had the log name.
    target.guard(&said, target.matcher().unwrap());
    target.part();
    fail::cfg("credential.made", "return(fail)").unwrap();
    world.have_lead(world.leader().await % 3 + 1).await;
    take(&app, "t-readers", 1, 60_000).await;
    rotated(&admin, target, &said).await;
    fail::remove("credential.made");
    lease_in(&app, due.lease, "revoked", LONG).await;
}

#[tokio::test(start_paused = true)]
async fn a_target_that_is_described_anew_is_spoken_to_as_it_is_now() {
    let world = founded(34).await;
    world.describe_rotating("t", &["readers"], b"a password").await;
    let (admin, app, target) = (world.client("admin/first"), world.client("app"), world.target("t"));
    rotated(&admin, target, &verifier(b"a password")).await;
    admin.change(Change::DeleteTarget { name: "t".to_owned() }).await.unwrap();
    target.part();
    // In the same term of office.
    world.describe_rotating("t", &["readers"], b"another password").await;
    take(&app, "t-readers", 1, 60_000).await;
}
