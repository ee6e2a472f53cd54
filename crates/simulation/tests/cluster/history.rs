//! What clients were told, and whether one history of the log explains it: judged as it is told, each event once.
//!
//! Each write of a path gets a number from the log, so there is no search for an order: the numbers are one. It has to agree with what was over
//! before something else began, and every value read has to be the one that was written under its number. That is linearizability of each path.

use std::collections::{BTreeMap, BTreeSet};

/// Of all clients. Its moments are those of a counter that every event draws from: none are equal.
#[derive(Default)]
pub(crate) struct History {
    clock: u64,
    of: BTreeMap<u64, Path>,
    /// Since when a caller has no right: from the answer that it was taken to the question that it be given again.
    forbidden: Option<u64>,
}

/// What is known of one path.
#[derive(Default)]
struct Path {
    /// What somebody began to write there, and was not told a number of.
    tried: BTreeSet<u64>,
    values: BTreeMap<u64, Written>,
    /// Under which number each value is there.
    numbers: BTreeMap<u64, u64>,
    /// The largest number that anybody knew of, and since which moment.
    known: Vec<(u64, u64)>,
}

#[derive(Clone, Copy)]
struct Written {
    value: u64,
    /// Whether who wrote it was told so.
    acknowledged: bool,
}

impl History {
    /// A moment.
    pub(crate) fn moment(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    fn at(&mut self, path: u64) -> &mut Path {
        self.of.entry(path).or_default()
    }

    /// Somebody begins to write a value, which nobody else ever does.
    pub(crate) fn begin(&mut self, path: u64, value: u64) -> u64 {
        self.at(path).tried.insert(value);
        self.moment()
    }

    /// It was answered that the value is not written, and never will be.
    pub(crate) fn refused(&mut self, path: u64, value: u64) -> Result<(), String> {
        let at = self.at(path);
        at.tried.remove(&value);
        match at.numbers.get(&value) {
            None => Ok(()),
            Some(number) => Err(format!("K3: path {path}: {value} was refused, and was read as number {number}")),
        }
    }

    /// It was answered that the value is written under this number.
    ///
    /// # Errors
    /// What no history explains.
    pub(crate) fn wrote(&mut self, path: u64, began: u64, value: u64, number: u64) -> Result<(), String> {
        let now = self.moment();
        self.at(path).wrote((began, now), value, number).map_err(|why| format!("{why}, at path {path}"))
    }

    /// Somebody read a number and its value, or that there is nothing.
    ///
    /// # Errors
    /// What no history explains.
    pub(crate) fn read(&mut self, path: u64, began: u64, found: Option<(u64, u64)>) -> Result<(), String> {
        let now = self.moment();
        self.at(path).read((began, now), found).map_err(|why| format!("{why}, at path {path}"))
    }

    /// Numbers that were acknowledged, and their values.
    pub(crate) fn acknowledged(&self, path: u64) -> Vec<(u64, u64)> {
        let all = self.of.get(&path).into_iter().flat_map(|at| &at.values);
        all.filter(|(_, written)| written.acknowledged).map(|(number, written)| (*number, written.value)).collect()
    }

    /// A caller's right is taken: that was answered.
    pub(crate) fn forbid(&mut self) {
        self.forbidden = Some(self.moment());
    }

    /// It may be given again from now on.
    pub(crate) fn permit(&mut self) {
        self.forbidden = None;
    }

    /// That caller opened something.
    ///
    /// # Errors
    /// Its right was gone before it asked, and until it was answered.
    pub(crate) fn opened(&mut self, began: u64) -> Result<(), String> {
        let now = self.moment();
        match self.forbidden.filter(|since| *since < began) {
            None => Ok(()),
            Some(since) => Err(format!("K4: opened from {began} to {now} by rules that were gone since {since}")),
        }
    }
}

impl Path {
    /// What was known before a moment.
    fn before(&self, moment: u64) -> u64 {
        let until = self.known.partition_point(|(since, _)| *since < moment);
        until.checked_sub(1).map_or(0, |at| self.known[at].1)
    }

    fn know(&mut self, now: u64, number: u64) {
        if self.known.last().is_none_or(|(_, most)| *most < number) {
            self.known.push((now, number));
        }
    }

    /// A value is there under a number.
    fn put(&mut self, value: u64, number: u64) -> Result<(), String> {
        match self.numbers.insert(value, number) {
            Some(other) if other != number => {
                Err(format!("L5: {value} was written once, and is there as {other} and as {number}"))
            }
            _ => Ok(()),
        }
    }

    fn wrote(&mut self, (began, now): (u64, u64), value: u64, number: u64) -> Result<(), String> {
        self.tried.remove(&value);
        match self.values.insert(number, Written { value, acknowledged: true }) {
            Some(Written { value: other, acknowledged: true }) => {
                return Err(format!("K1: {other} and {value} were both acknowledged as number {number}"));
            }
            Some(Written { value: other, .. }) if other != value => {
                return Err(format!("K2: {value} was acknowledged as number {number}, and {other} was read as that"));
            }
            _ => {}
        }
        self.put(value, number)?;
        let known = self.before(began);
        self.know(now, number);
        // A write is behind everything known before it.
        if number > known {
            return Ok(());
        }
        Err(format!("K2: {value} was written as number {number}, and {known} was known before"))
    }

    fn read(&mut self, (began, now): (u64, u64), found: Option<(u64, u64)>) -> Result<(), String> {
        let number = found.map_or(0, |(number, _)| number);
        if let Some((number, value)) = found {
            match self.values.get(&number) {
                Some(written) if written.value == value => {}
                Some(Written { value: written, .. }) => {
                    return Err(format!("K2: number {number} is {written}, and {value} was read"));
                }
                None if self.tried.contains(&value) || self.numbers.contains_key(&value) => {
                    self.values.insert(number, Written { value, acknowledged: false });
                    self.put(value, number)?;
                }
                None => return Err(format!("K2: {value} was read as number {number}, and nobody wrote it there")),
            }
        }
        let known = self.before(began);
        self.know(now, number);
        // A read is not before it.
        if number >= known {
            return Ok(());
        }
        Err(format!("K2: number {number} was read, and {known} was known before"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What somebody was told: of one path, between two moments.
    enum Did {
        Wrote { value: u64, number: u64 },
        Refused { value: u64 },
        Read { found: Option<(u64, u64)> },
    }

    /// Judges events in the order of their ends, after somebody has begun to write each value and 9, of which he hears no more.
    fn judged(mut events: Vec<(u64, u64, Did)>) -> Result<(), String> {
        let mut path = History::default();
        for value in 7..=9 {
            path.begin(0, value);
        }
        events.sort_unstable_by_key(|(_, ended, _)| *ended);
        events.into_iter().try_for_each(|(began, ended, did)| {
            let (began, before) = (10 + began, 10 + ended - 1);
            path.clock = before;
            match did {
                Did::Wrote { value, number } => path.wrote(0, began, value, number),
                Did::Refused { value } => path.refused(0, value),
                Did::Read { found } => path.read(0, began, found),
            }
        })
    }

    #[test]
    fn what_one_order_explains_holds_and_nothing_else() {
        let wrote = |value, number| Did::Wrote { value, number };
        let read = |number, value| Did::Read { found: Some((number, value)) };
        let nothing = || Did::Read { found: None };
        for (what, right) in [
            (
                "reads of two, by turns",
                vec![(1, 2, wrote(7, 1)), (3, 6, wrote(8, 2)), (4, 5, read(1, 7)), (7, 8, read(2, 8))],
            ),
            ("a read before the answer", vec![(1, 9, wrote(7, 1)), (2, 3, read(1, 7))]),
            ("a write without an answer", vec![(2, 3, read(1, 9)), (4, 5, read(1, 9)), (6, 7, wrote(7, 2))]),
            ("an older read that began before", vec![(1, 4, wrote(7, 1)), (3, 6, nothing())]),
            ("a refusal", vec![(1, 2, wrote(7, 1)), (3, 4, Did::Refused { value: 8 })]),
        ] {
            assert_eq!(judged(right), Ok(()), "{what}");
        }
        for (what, rule, wrong) in [
            ("a read that is older than an answer", "K2", vec![(1, 2, wrote(7, 1)), (3, 4, nothing())]),
            ("a read that is older than a read", "K2", vec![(1, 2, read(2, 9)), (3, 4, read(1, 7))]),
            ("a value that nobody wrote", "K2", vec![(1, 2, read(1, 6))]),
            ("two firsts", "K1", vec![(1, 3, wrote(7, 1)), (2, 4, wrote(8, 1))]),
            ("a write before what was over", "K2", vec![(1, 2, wrote(7, 2)), (3, 4, wrote(8, 1))]),
            ("another value under a number", "K2", vec![(1, 2, wrote(7, 1)), (3, 4, read(1, 8))]),
            ("another value under a number that was read", "K2", vec![(1, 2, read(1, 8)), (1, 4, wrote(7, 1))]),
            ("one write twice", "L5", vec![(2, 3, read(1, 9)), (4, 5, read(2, 9))]),
            ("one write twice, and acknowledged", "L5", vec![(1, 3, wrote(7, 1)), (4, 5, read(2, 7))]),
            ("a refusal of what was read", "K3", vec![(2, 3, read(1, 8)), (1, 4, Did::Refused { value: 8 })]),
            ("what was refused", "K2", vec![(1, 2, Did::Refused { value: 8 }), (3, 4, read(1, 8))]),
        ] {
            let found = judged(wrong).unwrap_err();
            assert!(found.starts_with(rule), "{what}: {found}");
        }
    }

    #[test]
    fn what_is_opened_by_rules_that_are_gone_is_found() {
        let mut history = History::default();
        let early = history.moment();
        history.forbid();
        history.opened(early).unwrap();
        let began = history.moment();
        assert!(history.opened(began).unwrap_err().starts_with("K4"));
        history.permit();
        history.opened(began).unwrap();
    }
}
