//! Random histories of the versions of two secrets against a model of some lines: numbers, what is checked and set, what lives.

use crate::world::*;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use quorate_state::change::Change;
use quorate_state::outcome::{Outcome, Refusal};
use quorate_state::secrets::{self, VersionState, secret};
use std::collections::BTreeSet;

const PATHS: [&str; 2] = ["app/x", "app/x/y"];

#[derive(Debug, Clone)]
enum Step {
    /// As the newest is this one, whatever it is.
    Put(Option<u64>),
    Delete(BTreeSet<u64>),
    Undelete(BTreeSet<u64>),
    Destroy(BTreeSet<u64>),
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let numbers = || prop::collection::btree_set(1u64..6, 1..3);
    let step = prop_oneof![
        4 => option::of(0u64..6).prop_map(Step::Put),
        2 => numbers().prop_map(Step::Delete),
        1 => numbers().prop_map(Step::Undelete),
        1 => numbers().prop_map(Step::Destroy),
    ];
    (0..PATHS.len(), step)
}

/// What it answers, and what becomes of the versions, of which the first has the number 1.
fn expected(versions: &mut Vec<VersionState>, step: &Step) -> Result<Vec<u64>, Refusal> {
    use VersionState::{Deleted, Destroyed, Live};
    let newest = versions.len() as u64;
    let (numbers, from, to): (_, &[_], _) = match step {
        Step::Put(Some(wanted)) if *wanted != newest => return Err(Refusal::CheckAndSet { current: newest }),
        Step::Put(_) => {
            versions.push(Live);
            return Ok(vec![newest + 1]);
        }
        Step::Delete(numbers) => (numbers, &[Live], Deleted),
        Step::Undelete(numbers) => (numbers, &[Deleted], Live),
        Step::Destroy(numbers) => (numbers, &[Live, Deleted], Destroyed),
    };
    if versions.is_empty() {
        return Err(Refusal::not_found("secret"));
    }
    if numbers.iter().any(|number| *number > newest) {
        return Err(Refusal::not_found("version"));
    }
    let changed = numbers.iter().copied().filter(|number| from.contains(&versions[*number as usize - 1]));
    let changed: Vec<u64> = changed.collect();
    changed.iter().for_each(|number| versions[*number as usize - 1] = to);
    Ok(changed)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn versions_do_what_the_model_does(steps in vec(step(), 1..25)) {
        let mut world = World::new();
        let mut model = [Vec::new(), Vec::new()];
        for (which, step) in &steps {
            let (namespace, path) = ("team".to_owned(), PATHS[*which].to_owned());
            let list = |numbers: &BTreeSet<u64>| numbers.iter().copied().collect();
            let outcome = match step {
                Step::Put(expected) => world.put(&path, *expected),
                Step::Delete(n) => world.submit(Change::DeleteSecret { namespace, path, numbers: list(n) }),
                Step::Undelete(n) => world.submit(Change::UndeleteSecret { namespace, path, numbers: list(n) }),
                Step::Destroy(n) => world.submit(Change::DestroySecret { namespace, path, numbers: list(n) }),
            };
            let said = match outcome {
                Outcome::Stored { number, .. } => Ok(vec![number]),
                Outcome::Versions { changed } => Ok(changed),
                Outcome::Refused(refusal) => Err(refusal),
                other => panic!("{other:?}"),
            };
            prop_assert_eq!(said, expected(&mut model[*which], step), "{:?}", step);
            for (path, versions) in PATHS.iter().zip(&model) {
                let Some(found) = secret(&world.store, "team", path).unwrap() else {
                    prop_assert!(versions.is_empty());
                    continue;
                };
                for (number, state) in (1..).zip(versions) {
                    prop_assert_eq!(found.version(number).unwrap().state, *state, "{} {}", path, number);
                    // Nothing is erased but what was destroyed, and that is.
                    let kept = secrets::payload(&world.store, &found.id, number).unwrap().is_some();
                    prop_assert_eq!(kept, *state != VersionState::Destroyed);
                }
                prop_assert_eq!(found.version(versions.len() as u64 + 1), None);
            }
        }
    }
}
