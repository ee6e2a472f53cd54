//! Which faults both sides meet, and when: a function of the seed, so that it is the same for each.

use crate::nemesis::{Kind, Planned, Victims};
use crate::random::Random;

/// Milliseconds until the first fault, and of a round: one fault or two, and a rest that is long enough for either side to come back.
const FIRST: u64 = 6_000;
const ROUND: u64 = 20_000;
const BUSY: u64 = 9_000;
/// What a deck has: leaders die most often, since that is when a login may come to nobody.
const DECK: [Kind; 8] =
    [Kind::Kill, Kind::Kill, Kind::Kill, Kind::Pause, Kind::Partition, Kind::Power, Kind::TargetDown, Kind::Pause];
/// When the database goes in a part that is about that, and how long before the end of the part it is back.
const GOES: u64 = 20_000;
const BACK: u64 = 20_000;

/// The kinds that are in a plan.
pub(crate) fn kinds() -> Vec<Kind> {
    let mut kinds = DECK.to_vec();
    kinds.sort();
    kinds.dedup();
    kinds
}

/// The faults of a part of `length` milliseconds.
pub(crate) fn faults(seed: u64, part: u64, length: u64) -> Vec<Planned> {
    let mut random = Random::of(seed, "versus", part);
    let (mut all, mut deck): (Vec<Planned>, Vec<Kind>) = (Vec::new(), Vec::new());
    let mut begin = FIRST;
    while begin + ROUND <= length {
        let mut at = begin;
        for _ in 0..random.between(1, 3) {
            if deck.is_empty() {
                deck = DECK.to_vec();
                random.shuffle(&mut deck);
            }
            let Some(kind) = deck.pop() else { break };
            let lasts = random.between(1_000, (begin + BUSY).saturating_sub(at).clamp(1_001, 5_000));
            all.push(planned(&mut random, all.len(), kind, at, lasts));
            at += random.between(1_500, 4_000);
        }
        begin += ROUND;
    }
    all
}

/// The database is away for nearly all of a part, and nothing else happens.
pub(crate) fn outage(seed: u64, length: u64) -> Vec<Planned> {
    let lasts = length.saturating_sub(GOES + BACK);
    vec![planned(&mut Random::of(seed, "outage", 0), 0, Kind::TargetDown, GOES, lasts)]
}

fn planned(random: &mut Random, before: usize, kind: Kind, at: u64, lasts: u64) -> Planned {
    let number = u32::try_from(before).unwrap_or(u32::MAX).saturating_add(1);
    let victims = if kind == Kind::TargetDown { Victims::Members(Vec::new()) } else { Victims::Leader };
    Planned { number, at, lasts, kind, victims, seed: random.next() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_that_of_its_seed_and_part_and_leaves_no_kind_out() {
        for seed in 0..50 {
            let once = faults(seed, 1, 240_000);
            assert_eq!(once, faults(seed, 1, 240_000));
            assert_ne!(once, faults(seed, 2, 240_000));
            for kind in kinds() {
                assert!(once.iter().any(|planned| planned.kind == kind), "seed {seed}: {}", kind.name());
            }
            assert!(once.iter().all(|planned| planned.at + planned.lasts < 240_000), "seed {seed}");
        }
    }

    #[test]
    fn an_outage_is_as_long_as_its_part_allows() {
        let [only] = <[Planned; 1]>::try_from(outage(1, 600_000)).unwrap();
        assert_eq!((only.kind, only.at, only.lasts), (Kind::TargetDown, 20_000, 560_000));
    }
}
