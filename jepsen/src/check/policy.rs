//! Policies as registers of one bit: whether a subject may open something. An open that was answered, with the secret or with `denied`, is a
//! read of it; what was forbidden and acknowledged before an open began, that open is not answered with the secret.

use super::linear::{self, Interval, Model, Verdict};
use crate::history::{Action, Answer, Nanos, Operation};
use std::collections::BTreeMap;

/// Whether it is allowed.
struct Bit;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Set(bool),
    /// Set, or not: nobody was told.
    Perhaps(bool),
    Seen(bool),
}

impl Model for Bit {
    type State = bool;
    type Step = Step;

    fn begin(&self) -> bool {
        false
    }

    fn step(&self, state: &bool, step: &Step, which: usize) -> Option<bool> {
        match step {
            Step::Set(allowed) => Some(*allowed),
            Step::Perhaps(allowed) => Some(if which == 0 { *state } else { *allowed }),
            Step::Seen(allowed) => (allowed == state).then_some(*state),
        }
    }

    fn outcomes(&self, step: &Step) -> usize {
        if matches!(step, Step::Perhaps(_)) { 2 } else { 1 }
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) rules: usize,
    pub(crate) allowed: usize,
    pub(crate) denied: usize,
    pub(crate) violations: Vec<String>,
    pub(crate) undecided: Vec<String>,
}

/// Judges all subjects of a history.
pub(crate) fn judge(all: &[Operation], mut out_of_time: impl FnMut() -> bool) -> Findings {
    let mut found = Findings::default();
    let mut subjects: BTreeMap<u8, Vec<(u64, Interval<Step>)>> = BTreeMap::new();
    let settled: Vec<(Nanos, Nanos)> = all
        .iter()
        .filter_map(|operation| match (&operation.action, &operation.back) {
            (Action::Permit { .. }, Some((at, Answer::Done { .. }))) => Some((operation.call, *at)),
            _ => None,
        })
        .collect();
    for operation in all {
        let call = operation.call;
        let (subject, interval) = match (&operation.action, &operation.back) {
            (Action::Permit { .. }, Some((_, Answer::Refused { .. }))) => continue,
            (Action::Permit { subject, allowed }, Some((at, Answer::Done { .. }))) => {
                found.rules += 1;
                (*subject, Interval { call, back: Some(*at), step: Step::Set(*allowed) })
            }
            (Action::Permit { subject, allowed }, _) => {
                // It names the version of the rules that its administrator saw: with the next one that was acknowledged it is too late.
                let until = settled.iter().find(|(began, _)| *began > call).map(|(_, ended)| *ended);
                (*subject, Interval { call, back: until, step: Step::Perhaps(*allowed) })
            }
            (Action::Try { subject }, Some((at, Answer::Value { .. }))) => {
                found.allowed += 1;
                (*subject, Interval { call, back: Some(*at), step: Step::Seen(true) })
            }
            (Action::Try { subject }, Some((at, Answer::Refused { code }))) if code == "denied" => {
                found.denied += 1;
                (*subject, Interval { call, back: Some(*at), step: Step::Seen(false) })
            }
            _ => continue,
        };
        subjects.entry(subject).or_default().push((operation.number, interval));
    }
    for (subject, steps) in subjects {
        let (numbers, steps): (Vec<u64>, Vec<Interval<Step>>) = steps.into_iter().unzip();
        match linear::check(&Bit, &steps, &mut out_of_time) {
            Verdict::Linearizable => {}
            Verdict::OutOfTime => found.undecided.push(format!("subject {subject}: the search took too long")),
            Verdict::Violation { stuck } => {
                let what = steps.get(stuck).map(|s| s.step);
                let number = numbers.get(stuck).copied().unwrap_or_default();
                found.violations.push(format!("subject {subject}: operation {number} cannot be: {what:?}"));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(call: Nanos, back: Nanos, action: Action, answer: Answer) -> Operation {
        Operation { number: call, client: 1, action, call, back: Some((back, answer)) }
    }

    fn permit(call: Nanos, back: Nanos, allowed: bool) -> Operation {
        told(call, back, Action::Permit { subject: 1, allowed }, Answer::Done { index: 1, note: String::new() })
    }

    fn opened(call: Nanos, back: Nanos) -> Operation {
        told(call, back, Action::Try { subject: 1 }, Answer::Value { number: 1, value: 0 })
    }

    fn denied(call: Nanos, back: Nanos) -> Operation {
        told(call, back, Action::Try { subject: 1 }, Answer::Refused { code: "denied".to_owned() })
    }

    #[test]
    fn an_open_on_rules_that_were_gone_before_it_was_asked_is_caught() {
        let begin = [denied(0, 1), permit(2, 4, true), opened(5, 6), permit(7, 20, false)];
        let with = |more: &[Operation]| judge(&[&begin, more].concat(), || false).violations;
        assert_eq!(with(&[opened(8, 9), denied(12, 13), denied(21, 22)]), Vec::<String>::new());
        assert_eq!(with(&[opened(21, 22)]).len(), 1, "after it was acknowledged");
        assert_eq!(with(&[denied(8, 9), opened(12, 13)]).len(), 1, "after somebody else was denied");
    }

    #[test]
    fn a_rule_that_was_not_acknowledged_may_come_late_or_never() {
        let lost = Operation { back: None, ..permit(7, 0, false) };
        let all = [permit(2, 4, true), lost, opened(10, 11), opened(50, 51), denied(60, 61)];
        assert_eq!(judge(&all, || false).violations, Vec::<String>::new());
        let back_again = [all.as_slice(), &[opened(70, 71)]].concat();
        assert_eq!(judge(&back_again, || false).violations.len(), 1, "once it has come, it stays");
        let lost = Operation { back: None, ..permit(7, 0, false) };
        let too_late = [permit(2, 4, true), lost, opened(10, 11), permit(12, 14, true), opened(15, 16), denied(20, 21)];
        assert_eq!(judge(&too_late, || false).violations.len(), 1, "another rule has come before it");
    }
}
