//! Planted histories: each is caught, and the honest one beside it is not.

use super::*;
use crate::history;

/// A history that is written down as a table.
#[derive(Default)]
struct Story(Vec<Entry>, u64);

impl Story {
    /// An operation from `call` to `back`, with its answer.
    fn tells(mut self, call: Nanos, back: Nanos, action: Action, answer: Answer) -> Self {
        self.1 += 1;
        self.0.push(Entry { at: call, event: Event::Invoke { op: self.1, client: 0, action } });
        self.0.push(Entry { at: back, event: Event::Return { op: self.1, answer } });
        self
    }

    fn put(self, call: Nanos, back: Nanos, value: u64, number: u64) -> Self {
        self.tells(call, back, put(value, None), stored(number))
    }

    fn get(self, call: Nanos, back: Nanos, number: u64, value: u64) -> Self {
        self.tells(call, back, get(), Answer::Value { number, value })
    }

    /// What is left in the end: values in the order of their numbers.
    fn leaves(mut self, values: &[u64]) -> Self {
        let version = |(number, value): (u64, &u64)| Version { number, index: number * 10, value: Some(*value) };
        let versions = (1..).zip(values).map(version).collect();
        self.0.push(Entry { at: 1_000_000, event: Event::Kept { key: "k".to_owned(), versions } });
        self
    }

    fn violations(&self) -> Vec<String> {
        let found = judge(&self.0, &history::operations(&self.0), || false);
        assert_eq!(found.undecided, Vec::<String>::new());
        found.violations
    }

    fn is_clean(&self) {
        assert_eq!(self.violations(), Vec::<String>::new());
    }

    fn is_caught(&self, what: &str) {
        let found = self.violations();
        assert!(found.iter().any(|one| one.contains(what)), "`{what}` is among: {found:?}");
    }
}

fn put(value: u64, cas: Option<u64>) -> Action {
    Action::Put { key: "k".to_owned(), value, cas }
}

fn get() -> Action {
    Action::Get { key: "k".to_owned() }
}

fn stored(number: u64) -> Answer {
    Answer::Stored { number, index: number * 10 }
}

fn unknown() -> Answer {
    Answer::Unknown { code: "deadline".to_owned() }
}

fn conflict() -> Answer {
    Answer::Refused { code: "check_and_set".to_owned() }
}

#[test]
fn an_honest_history_passes() {
    let story = Story::default().put(0, 5, 1, 1).get(6, 8, 1, 1).put(6, 12, 2, 2).get(7, 14, 2, 2).get(9, 10, 1, 1);
    story.leaves(&[1, 2]).is_clean();
}

#[test]
fn a_stale_read_is_caught() {
    let story = Story::default().put(0, 5, 1, 1).put(6, 8, 2, 2).get(9, 10, 1, 1);
    story.leaves(&[1, 2]).is_caught("not linearizable: operation 3");
}

#[test]
fn a_read_of_what_another_has_seen_replaced_is_caught() {
    let story = Story::default().put(0, 5, 1, 1).put(6, 30, 2, 2).get(8, 10, 2, 2).get(12, 14, 1, 1);
    story.leaves(&[1, 2]).is_caught("not linearizable");
}

#[test]
fn a_lost_write_is_caught() {
    Story::default().put(0, 5, 1, 1).put(6, 8, 2, 2).leaves(&[1]).is_caught("value 2 was acknowledged as version 2");
    // Another one has taken its number.
    let story = Story::default().put(0, 5, 1, 1).put(6, 8, 2, 1);
    story.leaves(&[2]).is_caught("value 1 was acknowledged as version 1");
}

#[test]
fn a_write_that_was_read_and_is_gone_is_caught_though_nobody_was_promised_it() {
    let story = Story::default().tells(0, 5, put(1, None), unknown()).get(6, 8, 1, 1);
    Story(story.0.clone(), story.1).leaves(&[1]).is_clean();
    story.leaves(&[]).is_caught("not linearizable: operation 2");
}

#[test]
fn a_dirty_check_and_set_is_caught() {
    let two = |second| {
        let story = Story::default().put(0, 5, 1, 1).tells(6, 20, put(2, Some(1)), stored(2));
        story.tells(7, 21, put(3, Some(1)), second)
    };
    two(conflict()).leaves(&[1, 2]).is_clean();
    two(stored(3)).leaves(&[1, 2, 3]).is_caught("not linearizable");
    two(conflict()).leaves(&[1, 2, 3]).is_caught("value 3 was refused (check_and_set), and is stored");
    // Refused although nobody was in between.
    let story = Story::default().put(0, 5, 1, 1).tells(6, 20, put(2, Some(1)), conflict());
    story.leaves(&[1]).is_caught("not linearizable: operation 2");
}

#[test]
fn a_check_and_set_that_was_not_answered_counts_for_what_it_left() {
    let story = |kept: &[u64]| {
        let story = Story::default().put(0, 5, 1, 1).tells(6, 20, put(2, Some(1)), unknown());
        story.put(30, 35, 3, kept.len().try_into().unwrap()).leaves(kept)
    };
    story(&[1, 2, 3]).is_clean();
    story(&[1, 3]).is_clean();
    // It took effect on something else than what it named.
    let late = Story::default().put(0, 5, 1, 1).tells(6, 20, put(2, Some(1)), unknown()).put(30, 35, 3, 2);
    late.leaves(&[1, 3, 2]).is_caught("not linearizable");
}

#[test]
fn a_vault_that_has_forgotten_who_may_read_is_caught() {
    let denied = Answer::Refused { code: "denied".to_owned() };
    Story::default().put(0, 5, 1, 1).tells(6, 8, get(), denied).leaves(&[1]).is_caught("operation 2 on k was denied");
}

#[test]
fn what_takes_effect_twice_is_caught() {
    let story = Story::default().tells(0, 5, put(1, None), stored(1)).put(6, 8, 2, 2);
    story.leaves(&[1, 2, 1]).is_caught("value 1 was stored twice");
}

#[test]
fn a_request_that_stands_in_the_log_twice_took_effect_at_the_first_place_and_versions_stand_in_their_order() {
    let story = |index| {
        let answer = Answer::Stored { number: 1, index };
        Story::default().tells(0, 5, put(1, None), answer).leaves(&[1])
    };
    story(10).is_clean();
    story(17).is_clean();
    story(9).is_caught("value 1 was acknowledged as version 1 at log index 9");
    let mut swapped = Story::default().put(0, 5, 1, 1).put(6, 8, 2, 2).leaves(&[1, 2]);
    if let Some(Entry { event: Event::Kept { versions, .. }, .. }) = swapped.0.last_mut() {
        versions[1].index = 10;
    }
    swapped.is_caught("version 2 stands in the log before 1");
}

#[test]
fn a_place_of_the_log_that_was_given_twice_or_back_in_time_is_caught() {
    let at = |index| Answer::Stored { number: 1, index };
    let other = |key: &str| Action::Put { key: key.to_owned(), value: 7, cas: None };
    let story = Story::default().tells(0, 5, other("a"), at(50)).tells(6, 8, other("b"), at(50));
    let found = judge(&story.0, &history::operations(&story.0), || false);
    assert!(found.violations.iter().any(|v| v.contains("both acknowledged at log index 50")), "{found:?}");
    let story = Story::default().tells(0, 5, other("a"), at(50)).tells(6, 8, other("b"), at(49));
    let found = judge(&story.0, &history::operations(&story.0), || false);
    assert!(found.violations.iter().any(|v| v.contains("began after one at 50")), "{found:?}");
    assert_eq!(found.undecided.len(), 2, "nobody has looked at what is left");
}

#[test]
fn a_search_that_is_cut_off_is_no_pass() {
    let mut story = Story::default();
    for value in 1..60 {
        story = story.tells(0, 2_000, put(value, None), unknown());
    }
    story = story.tells(3_000, 3_001, get(), Answer::Value { number: 30, value: 999 });
    let found = judge(&story.0, &history::operations(&story.0), || true);
    assert!(found.undecided.iter().any(|one| one.contains("took too long")), "{found:?}");
}
