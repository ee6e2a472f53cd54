//! Secrets as registers: each key by itself is linearizable, and what was acknowledged is there when all is over.

use super::linear::{self, Interval, Model, Verdict};
use crate::history::{Action, Answer, Entry, Event, Nanos, Operation, Version};
use std::collections::{BTreeMap, BTreeSet};

/// A secret with numbered versions.
pub(crate) struct Register;

/// The number and the value of the newest version; both 0 for none.
pub(crate) type Newest = (u64, u64);

/// What was asked of a register, and what it answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// A version was stored; its number is known if an answer came, or if the version was found when all was over.
    Stored { value: u64, cas: Option<u64>, number: Option<u64> },
    /// Refused because the newest version is another.
    Conflict { cas: u64 },
    /// The newest version, or 0 and 0.
    Read(Newest),
}

impl Model for Register {
    type State = Newest;
    type Step = Step;

    fn begin(&self) -> Newest {
        (0, 0)
    }

    fn step(&self, (newest, value): &Newest, step: &Step, _: usize) -> Option<Newest> {
        match step {
            Step::Stored { value, cas, number } => {
                let next = newest + 1;
                let fits = cas.is_none_or(|cas| cas == *newest) && number.is_none_or(|number| number == next);
                fits.then_some((next, *value))
            }
            Step::Conflict { cas } => (cas != newest).then_some((*newest, *value)),
            Step::Read(read) => (*read == (*newest, *value)).then_some(*read),
        }
    }
}

/// What was found of all keys.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    /// How many keys there were, and how many operations on them entered the search.
    pub(crate) keys: usize,
    pub(crate) operations: usize,
    /// Versions that were compared with what was acknowledged of them.
    pub(crate) versions: usize,
    pub(crate) violations: Vec<String>,
    /// Keys of which it was not found out in time.
    pub(crate) undecided: Vec<String>,
}

/// Judges all keys of a history.
pub(crate) fn judge(entries: &[Entry], operations: &[Operation], mut out_of_time: impl FnMut() -> bool) -> Findings {
    let mut found = Findings::default();
    let kept: BTreeMap<&str, (Nanos, &[Version])> = entries
        .iter()
        .filter_map(|entry| match &entry.event {
            Event::Kept { key, versions } => Some((key.as_str(), (entry.at, versions.as_slice()))),
            _ => None,
        })
        .collect();
    let mut keys: BTreeMap<&str, Vec<&Operation>> = BTreeMap::new();
    for operation in operations {
        if let Action::Put { key, .. } | Action::Get { key } = &operation.action {
            // Nobody forbids anything here: whoever is denied finds a vault that has forgotten its rules.
            if let Some((_, Answer::Refused { code })) = &operation.back
                && code == "denied"
            {
                found.violations.push(format!("operation {} on {key} was denied", operation.number));
            }
            keys.entry(key).or_default().push(operation);
        }
    }
    found.keys = keys.len();
    for (key, operations) in &keys {
        let kept = kept.get(key).copied();
        if kept.is_none() {
            found.undecided.push(format!("{key}: what is left of it is not known"));
        }
        durable(key, operations, kept, &mut found);
        let steps: Vec<(u64, Interval<Step>)> =
            operations.iter().filter_map(|o| Some((o.number, interval(o, kept)?))).collect();
        found.operations += steps.len();
        let (numbers, steps): (Vec<u64>, Vec<Interval<Step>>) = steps.into_iter().unzip();
        match linear::check(&Register, &steps, &mut out_of_time) {
            Verdict::Linearizable => {}
            Verdict::OutOfTime => found.undecided.push(format!("{key}: the search took too long")),
            Verdict::Violation { stuck } => {
                let what = steps.get(stuck).map(|s| format!("{:?}", s.step)).unwrap_or_default();
                let number = numbers.get(stuck).copied().unwrap_or_default();
                found.violations.push(format!("{key} is not linearizable: operation {number} cannot be: {what}"));
            }
        }
    }
    indexes(operations, &mut found);
    found
}

/// An operation as a step, if it can say anything. One whose outcome the client was not told is looked for in what is stored in the end:
/// what is there has happened, and with which number is known; what is not either has not, or was lost without anybody having been
/// promised anything, and whoever has read it says so.
fn interval(operation: &Operation, kept: Option<(Nanos, &[Version])>) -> Option<Interval<Step>> {
    let call = operation.call;
    let told = |at: Nanos, step: Step| Some(Interval { call, back: Some(at), step });
    match (&operation.action, &operation.back) {
        (Action::Put { value, cas, .. }, Some((at, Answer::Stored { number, .. }))) => {
            told(*at, Step::Stored { value: *value, cas: *cas, number: Some(*number) })
        }
        (Action::Put { cas: Some(cas), .. }, Some((at, Answer::Refused { code }))) if code == "check_and_set" => {
            told(*at, Step::Conflict { cas: *cas })
        }
        (Action::Put { .. }, Some((_, Answer::Refused { .. }))) => None,
        (Action::Put { value, cas, .. }, _) => {
            let step = |number| Step::Stored { value: *value, cas: *cas, number };
            let Some((at, versions)) = kept else { return Some(Interval { call, back: None, step: step(None) }) };
            let version = versions.iter().find(|version| version.value == Some(*value))?;
            told(at, step(Some(version.number)))
        }
        (Action::Get { .. }, Some((at, Answer::Value { number, value }))) => told(*at, Step::Read((*number, *value))),
        (Action::Get { .. }, Some((at, Answer::Absent))) => told(*at, Step::Read((0, 0))),
        _ => None,
    }
}

/// What was acknowledged is there, where it was said to be, and once; what was refused is not.
fn durable(key: &str, operations: &[&Operation], kept: Option<(Nanos, &[Version])>, found: &mut Findings) {
    let Some((_, versions)) = kept else { return };
    let mut values = BTreeSet::new();
    for (at, version) in (1..).zip(versions) {
        if version.number != at {
            found.violations.push(format!("{key}: version {} stands where {at} should", version.number));
        }
        match version.value {
            None => found.violations.push(format!("{key}: version {} does not open", version.number)),
            Some(value) if !values.insert(value) => {
                found.violations.push(format!("{key}: value {value} was stored twice, again as {}", version.number));
            }
            Some(_) => {}
        }
    }
    for (one, next) in versions.iter().zip(versions.iter().skip(1)) {
        if next.index <= one.index {
            found.violations.push(format!("{key}: version {} stands in the log before {}", next.number, one.number));
        }
    }
    for operation in operations {
        let Action::Put { value, .. } = &operation.action else { continue };
        match &operation.back {
            Some((_, Answer::Stored { number, index })) => {
                found.versions += 1;
                let there = versions.iter().find(|version| version.number == *number);
                // A request that was tried again may stand in the log twice, and is acknowledged where it was seen last; it took effect
                // where it stands first.
                if there.is_none_or(|there| there.value != Some(*value) || there.index > *index) {
                    found.violations.push(format!(
                        "{key}: value {value} was acknowledged as version {number} at log index {index}, and there is {there:?}"
                    ));
                }
            }
            Some((_, Answer::Refused { code })) if values.contains(value) => {
                found.violations.push(format!("{key}: value {value} was refused ({code}), and is stored"));
            }
            _ => {}
        }
    }
}

/// One place of the log has one change, and a change that began after another had come back stands behind it.
fn indexes(operations: &[Operation], found: &mut Findings) {
    let mut places: BTreeMap<u64, u64> = BTreeMap::new();
    let mut stored: Vec<(Nanos, Nanos, u64)> = Vec::new();
    for operation in operations {
        if let Some((at, Answer::Stored { index, .. })) = &operation.back {
            stored.push((operation.call, *at, *index));
            if let Some(other) = places.insert(*index, operation.number) {
                let both = format!("operations {other} and {}", operation.number);
                found.violations.push(format!("{both} were both acknowledged at log index {index}"));
            }
        }
    }
    let mut by_end = stored.clone();
    by_end.sort_by_key(|(_, back, _)| *back);
    stored.sort_by_key(|(call, ..)| *call);
    let mut ended = by_end.into_iter().peekable();
    let mut highest = 0;
    for (call, _, index) in stored {
        while let Some((_, _, before)) = ended.next_if(|(_, back, _)| *back < call) {
            highest = highest.max(before);
        }
        if index < highest {
            let what = format!("a change at log index {index} began after one at {highest} had been acknowledged");
            found.violations.push(what);
        }
    }
}

#[cfg(test)]
mod tests;
