//! Cluster time: it comes from t members, follows the least of them, and pauses expiry when it jumps.

use crate::world::*;
use quorate_state::clock::{ClusterClock, JUMP, JUMP_INTERVAL, JUMP_PAUSE, Reading};
use quorate_state::command::Command;
use quorate_state::ids::ClusterId;
use quorate_state::outcome::{Outcome, Refusal};

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
