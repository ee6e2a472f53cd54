//! What users were told of their leases, against what the database did: an end is final, and what has ended opens nothing.

use crate::history::{Action, Answer, Nanos, Operation};
use std::collections::{BTreeMap, BTreeSet};

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) leases: usize,
    /// Logins, sessions and renewals that were tried after an end.
    pub(crate) tried: usize,
    pub(crate) violations: Vec<String>,
}

/// Judges all leases of a history.
pub(crate) fn judge(all: &[Operation]) -> Findings {
    let mut found = Findings::default();
    // From when on nothing honours a lease by a member's word, and from when on its end was seen at the database.
    let mut ended: BTreeMap<&str, Nanos> = BTreeMap::new();
    let mut gone: BTreeMap<&str, Nanos> = BTreeMap::new();
    let mut names = BTreeSet::new();
    for operation in all {
        let Some((at, Answer::Done { note, .. })) = &operation.back else { continue };
        match &operation.action {
            Action::Issue { .. } => {
                found.leases += 1;
                if !names.insert(note.as_str()) {
                    found.violations.push(format!("two requests were given the same login: {note}"));
                }
            }
            Action::Revoke { lease } => {
                ended.entry(lease).or_insert(*at);
            }
            Action::Gone { lease } => {
                ended.entry(lease).or_insert(*at);
                gone.entry(lease).or_insert(*at);
            }
            _ => {}
        }
    }
    for operation in all {
        let (since, lease, what) = match &operation.action {
            Action::Renew { lease, .. } => (ended.get(lease.as_str()), lease, "was renewed after its end"),
            Action::Login { lease } => (gone.get(lease.as_str()), lease, "let somebody in after its end was seen"),
            Action::Use { lease } => (gone.get(lease.as_str()), lease, "had a session after its end was seen"),
            _ => continue,
        };
        if since.is_none_or(|since| operation.call <= *since) {
            continue;
        }
        found.tried += 1;
        if matches!(operation.back, Some((_, Answer::Done { .. }))) {
            found.violations.push(format!("lease {lease} {what}: operation {}", operation.number));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(call: Nanos, action: Action, answer: Answer) -> Operation {
        Operation { number: call, client: 1, action, call, back: Some((call + 1, answer)) }
    }

    fn done(note: &str) -> Answer {
        Answer::Done { index: 1, note: note.to_owned() }
    }

    fn refused() -> Answer {
        Answer::Refused { code: "28P01".to_owned() }
    }

    fn story(after: Vec<Operation>) -> Findings {
        let lease = || "l".to_owned();
        let mut all = vec![
            told(0, Action::Issue { role: "r".to_owned(), ttl: 5 }, done("l q_1")),
            told(2, Action::Login { lease: lease() }, done("")),
            told(4, Action::Renew { lease: lease(), ttl: 5 }, done("")),
            told(6, Action::Revoke { lease: lease() }, done("")),
            // Between the two it may still let somebody in.
            told(8, Action::Login { lease: lease() }, done("")),
            told(10, Action::Gone { lease: lease() }, done("")),
        ];
        all.extend(after);
        judge(&all)
    }

    #[test]
    fn an_end_that_is_one_passes_and_each_that_is_none_is_caught() {
        let lease = || "l".to_owned();
        let honest = story(vec![
            told(20, Action::Login { lease: lease() }, refused()),
            told(22, Action::Use { lease: lease() }, refused()),
            told(24, Action::Renew { lease: lease(), ttl: 5 }, refused()),
        ]);
        assert_eq!((honest.leases, honest.tried, honest.violations.len()), (1, 3, 0), "{honest:?}");
        for (action, what) in [
            (Action::Login { lease: lease() }, "let somebody in"),
            (Action::Use { lease: lease() }, "had a session"),
            (Action::Renew { lease: lease(), ttl: 5 }, "was renewed"),
        ] {
            let found = story(vec![told(20, action, done(""))]);
            assert!(found.violations.iter().any(|v| v.contains(what)), "{what}: {found:?}");
        }
        let found = story(vec![told(20, Action::Issue { role: "r".to_owned(), ttl: 5 }, done("l q_1"))]);
        assert!(found.violations.iter().any(|v| v.contains("the same login")), "{found:?}");
    }
}
