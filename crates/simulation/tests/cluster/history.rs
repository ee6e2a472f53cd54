//! What clients were told, and whether one history of the log explains it.
//!
//! Each write of a path gets a number from the log, so there is no search for an order: the numbers are one. It has to agree with what was over
//! before something else began, and every value read has to be the one that was written under its number. That is linearizability of each path.

use std::collections::BTreeMap;

/// Between two moments, by a counter that every event draws from: none are equal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// What a client did to one path.
#[derive(Debug, Clone)]
pub(crate) enum Did {
    /// Wrote, and was told the number.
    Wrote { value: u64, number: u64 },
    /// Wrote, if nobody had since this number; no answer, or none that says that it was not done.
    Tried { value: u64 },
    /// Read: a number and its value, or that there is nothing.
    Read { found: Option<(u64, u64)> },
}

/// Of all clients.
#[derive(Default)]
pub(crate) struct History {
    clock: u64,
    of: BTreeMap<u64, Vec<(Span, Did)>>,
    /// When a caller had no right: from the answer that it was taken to the question that it be given again.
    pub(crate) forbidden: Vec<Span>,
    /// What it opened.
    pub(crate) opened: Vec<Span>,
}

impl History {
    /// A moment.
    pub(crate) fn moment(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub(crate) fn note(&mut self, path: u64, began: u64, did: Did) {
        let span = Span { began, ended: self.moment() };
        self.of.entry(path).or_default().push((span, did));
    }

    /// Numbers that were acknowledged, and their values.
    pub(crate) fn acknowledged(&self, path: u64) -> Vec<(u64, u64)> {
        let all = self.of.get(&path).into_iter().flatten();
        all.filter_map(|(_, did)| match did {
            Did::Wrote { value, number } => Some((*number, *value)),
            Did::Tried { .. } | Did::Read { .. } => None,
        })
        .collect()
    }

    /// # Errors
    /// What no history explains.
    pub(crate) fn check(&self) -> Result<(), String> {
        for (path, all) in &self.of {
            check_path(all).map_err(|why| format!("path {path}: {why}"))?;
        }
        for opened in &self.opened {
            let stale = |f: &&Span| f.began < opened.began && opened.ended < f.ended;
            if let Some(forbidden) = self.forbidden.iter().find(stale) {
                return Err(format!("K4: opened at {opened:?} by rules that were gone at {forbidden:?}"));
            }
        }
        Ok(())
    }
}

fn check_path(all: &[(Span, Did)]) -> Result<(), String> {
    let mut values = BTreeMap::new();
    for (_, did) in all {
        if let Did::Wrote { value, number } = did
            && let Some(other) = values.insert(*number, *value)
        {
            return Err(format!("K1: {other} and {value} were both acknowledged as number {number}"));
        }
    }
    for (span, did) in all {
        let Did::Read { found: Some((number, value)) } = did else { continue };
        match values.get(number) {
            Some(written) if written == value => {}
            Some(written) => return Err(format!("K2: number {number} is {written}, and {value} was read")),
            None => {
                let tried =
                    |(s, d): &(Span, Did)| matches!(d, Did::Tried { value: v } if v == value) && s.began < span.ended;
                if !all.iter().any(tried) {
                    return Err(format!("K2: {value} was read as number {number}, and nobody wrote it there"));
                }
                values.insert(*number, *value);
            }
        }
    }
    let mut seen = BTreeMap::new();
    if let Some((value, numbers)) =
        values.iter().find_map(|(number, value)| Some((*value, [seen.insert(*value, *number)?, *number])))
    {
        return Err(format!("L5: {value} was written once, and is there as {numbers:?}"));
    }
    let at = |did: &Did| match did {
        Did::Wrote { number, .. } => Some(*number),
        Did::Read { found } => Some(found.map_or(0, |(number, _)| number)),
        Did::Tried { .. } => None,
    };
    for (later, did) in all {
        let Some(number) = at(did) else { continue };
        for (earlier, before) in all.iter().filter(|(span, _)| span.ended < later.began) {
            let Some(known) = at(before) else { continue };
            // A write is behind everything known before it; a read is not before it.
            let wrong = if matches!(did, Did::Wrote { .. }) { number <= known } else { number < known };
            if wrong {
                return Err(format!("K2: {did:?} at {later:?} came after {before:?} at {earlier:?}"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(events: &[(u64, u64, Did)]) -> Result<(), String> {
        check_path(
            &events
                .iter()
                .map(|(began, ended, did)| (Span { began: *began, ended: *ended }, did.clone()))
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn what_one_order_explains_holds_and_nothing_else() {
        let wrote = |value, number| Did::Wrote { value, number };
        let read = |number, value| Did::Read { found: Some((number, value)) };
        judged(&[(1, 2, wrote(7, 1)), (3, 6, wrote(8, 2)), (4, 5, read(1, 7)), (7, 8, read(2, 8))]).unwrap();
        judged(&[(1, 9, Did::Tried { value: 7 }), (2, 3, read(1, 7))]).unwrap();
        for (what, wrong) in [
            ("a read that is older than an answer", vec![(1, 2, wrote(7, 1)), (3, 4, Did::Read { found: None })]),
            ("a value that nobody wrote", vec![(1, 2, read(1, 7))]),
            ("two firsts", vec![(1, 3, wrote(7, 1)), (2, 4, wrote(8, 1))]),
            ("a write before what was over", vec![(1, 2, wrote(7, 2)), (3, 4, wrote(8, 1))]),
            ("another value under a number", vec![(1, 2, wrote(7, 1)), (3, 4, read(1, 8))]),
            ("one write twice", vec![(1, 9, Did::Tried { value: 7 }), (2, 3, read(1, 7)), (4, 5, read(2, 7))]),
        ] {
            assert!(judged(&wrong).is_err(), "{what}");
        }
    }

    #[test]
    fn what_is_opened_by_rules_that_are_gone_is_found() {
        let mut history = History { forbidden: vec![Span { began: 3, ended: 9 }], ..History::default() };
        history.opened = vec![Span { began: 1, ended: 5 }, Span { began: 8, ended: 12 }];
        history.check().unwrap();
        history.opened.push(Span { began: 4, ended: 6 });
        assert!(history.check().is_err());
    }
}
