//! Thousands of runs hold, and every broken rule is found.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "tests fail by panicking, and these say what they have seen"
)]

use quorate_simulation::{FIVE, GROWING, Mutant, SHRINKING, Seen, Setup, THREE, TOO_FEW, run};

/// How many seeds are tried until a mutant must have shown.
const ENOUGH: u64 = 4_000;

fn hold(setup: Setup, seeds: u64) -> Seen {
    let mut all = Seen::default();
    for seed in 0..seeds {
        let seen = run(&setup, seed, None);
        let seen = seen.unwrap_or_else(|why| {
            panic!("{}: `quorate-simulation 1 {seed}` repeats it: {why}", setup.name);
        });
        all.add(&seen);
    }
    println!("{}: {seeds} runs: {all}", setup.name);
    // A run in which nothing happened proves nothing.
    let least = [
        ("questions", all.opens, 60 * seeds),
        ("refusals", all.denied, 20 * seeds),
        ("power cuts", all.power_cuts, seeds),
        ("partitions", all.partitions, 2 * seeds),
        ("leaders", all.leaders, 2 * seeds),
        ("lies", all.lies, 3 * seeds),
        ("entries", all.committed, 20 * seeds),
    ];
    for (what, seen, floor) in least {
        assert!(seen >= floor, "{}: {seen} {what} in {seeds} runs, at least {floor} were expected: {all}", setup.name);
    }
    all
}

#[test]
fn two_of_three_answers_are_never_stale_and_come() {
    let seen = hold(THREE, 2_000);
    let rare = (seen.waits, seen.passed, seen.lowered, seen.behind);
    assert!(seen.waits > 20_000 && seen.passed > 10_000, "footprints hold some up, and let others pass: {rare:?}");
    assert!(seen.lowered > 1_000 && seen.behind > 500, "tails are cut under those who wait: {rare:?}");
    assert_eq!(seen.leader_asked, 0, "2 of 3 need no leader");
}

#[test]
fn three_of_five_answers_are_never_stale_and_come() {
    let seen = hold(FIVE, 1_500);
    assert!(seen.waits > 20_000 && seen.lowered > 1_000, "{seen}");
    assert_eq!(seen.leader_asked, 0, "3 of 5 need no leader");
}

#[test]
fn two_of_five_ask_the_leader() {
    let seen = hold(TOO_FEW, 300);
    assert!(seen.leader_asked > 10_000 && seen.waits == 0, "2 of 5 say nothing by themselves: {seen}");
}

#[test]
fn a_change_of_voters_is_no_gap() {
    for setup in [GROWING, SHRINKING] {
        let seen = hold(setup, 400);
        assert!(seen.changes > 200 && seen.leader_asked > 1_000 && seen.waits > 1_000, "{}: {seen}", setup.name);
    }
}

#[test]
fn a_seed_repeats_its_run() {
    for seed in 0..20 {
        assert_eq!(run(&GROWING, seed, None), run(&GROWING, seed, None), "seed {seed}");
        let mutant = Some(Mutant::NothingNoted);
        assert_eq!(run(&FIVE, seed, mutant), run(&FIVE, seed, mutant), "seed {seed}, with a mutant");
    }
}

#[test]
fn every_broken_rule_is_found() {
    let found =
        |mutant: Mutant| (0..ENOUGH).find_map(|seed| Some((seed, run(&mutant.setup(), seed, Some(mutant)).err()?)));
    let mut missed = Vec::new();
    for mutant in Mutant::ALL {
        match found(*mutant) {
            Some((seed, why)) => println!("{mutant:?}: seed {seed}: {why}"),
            None => missed.push(mutant),
        }
    }
    assert!(missed.is_empty(), "not found in {ENOUGH} runs: {missed:?}");
}
