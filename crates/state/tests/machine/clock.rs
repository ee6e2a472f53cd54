//! Cluster time: it comes from t members, follows the least of them, and pauses expiry when it jumps.

use crate::world::*;
use quorate_state::change::Change;
use quorate_state::clock::{ClusterClock, JUMP, JUMP_INTERVAL, JUMP_PAUSE, Reading};
use quorate_state::command::Command;
use quorate_state::ids::ClusterId;
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::request::forgotten;

fn tick(readings: Vec<Reading>) -> Command {
    Command::Tick { readings }
}

#[test]
fn a_tick_needs_t_readings_of_distinct_members() {
    let mut world = World::bare();
    let to = world.now() + SECOND;
    let good = world.reading(1, to);
    let sign = |cluster: &ClusterId, roster, member, follows, key: u8| {
        Reading::sign(cluster, roster, member, follows, to, &node(key))
    };
    let cluster = world.cluster;
    let mut altered = world.reading(2, to);
    altered.clock += 1;
    let cases = [
        ("nobody else", vec![]),
        ("one member twice", vec![world.reading(1, to + 1)]),
        ("a stranger", vec![sign(&cluster, ROSTER, 9, 0, 9)]),
        ("in another's name", vec![sign(&cluster, ROSTER, 2, 0, 3)]),
        ("another roster", vec![sign(&cluster, ROSTER + 1, 2, 0, 2)]),
        ("another cluster", vec![sign(&ClusterId([1; 32]), ROSTER, 2, 0, 2)]),
        ("a tick that is to come", vec![sign(&cluster, ROSTER, 2, 1, 2)]),
        ("an altered clock", vec![altered]),
    ];
    for (what, more) in cases {
        let before = world.store.clone();
        let outcome = world.apply(&tick([vec![good.clone()], more].concat()));
        assert_eq!(outcome, Outcome::Refused(Refusal::NotEndorsed { got: 1, needed: 2 }), "{what}");
        assert!(world.store == before, "{what}");
    }
    assert_eq!(world.tick(to), Outcome::Time { now: to, jumped: false });
}

#[test]
fn readings_serve_once() {
    let mut world = World::bare();
    let now = world.now();
    let old = tick(vec![world.reading(1, now + SECOND), world.reading(2, now + SECOND)]);
    assert_eq!(world.apply(&old), Outcome::Time { now: now + SECOND, jumped: false });
    world.untouched(&old, Refusal::NotEndorsed { got: 0, needed: 2 });
}

#[test]
fn one_clock_far_ahead_moves_nothing_and_one_behind_does_not_turn_it_back() {
    let mut world = World::bare();
    let now = world.now();
    let fast =
        tick(vec![world.reading(1, u64::MAX), world.reading(2, now + SECOND), world.reading(3, now + 2 * SECOND)]);
    assert_eq!(world.apply(&fast), Outcome::Time { now: now + SECOND, jumped: false });
    let slow = tick(vec![world.reading(1, 0), world.reading(2, now + 9 * SECOND)]);
    assert_eq!(world.apply(&slow), Outcome::Time { now: now + SECOND, jumped: false });
    assert_eq!(ClusterClock::load(&world.store).unwrap().tick, 2, "it is a tick all the same");
}

#[test]
fn a_jump_pauses_expiry_once_in_ten_minutes() {
    let mut world = World::with_target();
    world.active(1);
    let expire = |world: &World| Command::Expire { term: world.term, upto: u64::MAX };
    let at = world.now() + 2 * HOUR;
    assert_eq!(world.tick(at), Outcome::Time { now: at, jumped: true });
    let paused = expire(&world);
    world.untouched(&paused, Refusal::ExpiryPaused { until: at + JUMP_PAUSE });
    // A second jump neither prolongs the pause nor begins one.
    let at = at + JUMP + 1;
    assert_eq!(world.tick(at), Outcome::Time { now: at, jumped: false });
    assert!(matches!(world.apply(&expire(&world)), Outcome::Leases { changed } if changed.len() == 1));
    let at = at + JUMP_INTERVAL;
    assert_eq!(world.tick(at), Outcome::Time { now: at, jumped: true });
    let paused = expire(&world);
    world.untouched(&paused, Refusal::ExpiryPaused { until: at + JUMP_PAUSE });
    world.pass(JUMP_PAUSE);
    assert_eq!(world.apply(&expire(&world)), Outcome::Leases { changed: vec![] });
}

#[test]
fn a_minute_is_no_jump() {
    let mut world = World::bare();
    let at = world.now() + JUMP;
    assert_eq!(world.tick(at), Outcome::Time { now: at, jumped: false });
    assert_eq!(world.tick(at + JUMP + 1), Outcome::Time { now: at + JUMP + 1, jumped: true });
}

fn reset(to: u64) -> Change {
    Change::ResetClock { to }
}

#[test]
fn administrators_set_cluster_time_back_and_what_was_said_before_counts_no_more() {
    let mut world = World::with_target();
    let lease = world.active(1);
    let right = world.now() + 2 * MINUTE;
    world.tick(right + 9 * HOUR);
    let (version, wrong) = (world.authority(), world.now());
    // Said before, and carrying clocks that are far ahead.
    let reading = Command::Tick { readings: vec![world.reading(1, wrong + 1), world.reading(2, wrong + 1)] };
    let request = world.request(Change::CreateNamespace { namespace: "late".to_owned() });
    let endorsed = world.command(&World::sign(&request));
    assert_eq!(world.submit(reset(right)), Outcome::Time { now: right, jumped: true });
    assert_eq!((world.now(), world.authority()), (right, version + 1));
    world.untouched(&reading, Refusal::NotEndorsed { got: 0, needed: 2 });
    world.untouched(&endorsed, Refusal::Stale { current: version + 1 });
    let expire = Command::Expire { term: world.term, upto: u64::MAX };
    world.untouched(&expire, Refusal::ExpiryPaused { until: right + JUMP_PAUSE });
    world.pass(2 * JUMP_PAUSE);
    assert_eq!(world.apply(&expire), Outcome::Leases { changed: vec![] }, "lease {lease} has an hour");
    assert_eq!(world.submit(Change::CreateNamespace { namespace: "now".to_owned() }), Outcome::Done);
}

#[test]
fn cluster_time_is_not_set_ahead_nor_to_where_a_request_could_happen_again() {
    let mut world = World::bare();
    for to in [world.now(), world.now() + SECOND, u64::MAX] {
        assert_invalid(&world.submit(reset(to)), "to");
    }
    let request = world.request(Change::CreateNamespace { namespace: "once".to_owned() });
    let (signed, end) = (World::sign(&request), request.not_after);
    assert_eq!(world.send(&signed), Outcome::Done);
    world.tick(end + 9 * HOUR);
    assert_eq!(forgotten(&world.store).unwrap(), end);
    for to in [end - SECOND, end] {
        assert_invalid(&world.submit(reset(to)), "to");
    }
    assert_eq!(world.submit(reset(end + 1)), Outcome::Time { now: end + 1, jumped: true });
    assert_code(&world.send(&signed), "request_too_late");
}
