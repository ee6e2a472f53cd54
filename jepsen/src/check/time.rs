//! Cluster time against the clock of whoever watches, and the ends of leases with it. The watcher's clock goes on by itself: what the machine's
//! says is looked at once, to know where both stand. Members' clocks may be wrong, fewer than t of them.

use crate::history::{Action, Answer, Entry, Event, Nanos, Operation};
use std::collections::BTreeMap;

/// What reading two clocks one after the other costs, and what a library between adds to it; in milliseconds.
const SLACK: u64 = 250;
/// How far cluster time may be behind once everything is well: a tick comes every ten seconds at least, and between two of them a member
/// that has just begun adds nothing.
const BEHIND: u64 = 30_000;
/// What moves the machine's clock by more has set it, and then nothing is known.
const SET: u64 = 500;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    pub(crate) said: usize,
    /// Leases that were tried before their ends.
    pub(crate) tried: usize,
    /// The furthest behind that a member was, in milliseconds.
    pub(crate) behind: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) undecided: Vec<String>,
}

fn millis(at: Nanos) -> u64 {
    at / 1_000_000
}

/// Judges a history.
pub(crate) fn judge(entries: &[Entry], all: &[Operation]) -> Findings {
    let mut found = Findings::default();
    let mut began = None;
    // What each said last when all was well: the first word may be from before a tick.
    let (mut settled, mut last) = (false, BTreeMap::new());
    let mut ends: BTreeMap<&str, Vec<(Nanos, u64)>> = BTreeMap::new();
    for Entry { at, event } in entries {
        match event {
            Event::Phase { name } => settled |= name == "settled",
            Event::Promised { lease, until } => ends.entry(lease).or_default().push((*at, *until)),
            Event::Time { member, cluster, wall } => {
                let offset = wall.saturating_sub(millis(*at));
                let began = *began.get_or_insert(offset);
                if began.abs_diff(offset) > SET {
                    found.undecided.push(format!("the clock of this machine was set at {} ms", millis(*at)));
                    return found;
                }
                let now = began + millis(*at);
                found.said += 1;
                found.behind = found.behind.max(now.saturating_sub(*cluster));
                if settled {
                    last.insert(*member, (*at, now.saturating_sub(*cluster)));
                }
                let ahead = cluster.saturating_sub(now);
                if ahead > SLACK {
                    let of = format!("member {member} says a cluster time that is {ahead} ms ahead");
                    found.violations.push(format!("{of}, at {} ms", millis(*at)));
                }
            }
            _ => {}
        }
    }
    let Some(began) = began else {
        found.undecided.push("no member has said what time it is".to_owned());
        return found;
    };
    for (member, (at, behind)) in last.into_iter().filter(|(_, (_, behind))| *behind > BEHIND) {
        let of = format!("cluster time is {behind} ms behind at member {member} when all is well");
        found.violations.push(format!("{of}, at {} ms", millis(at)));
    }
    early(&ends, began, all, &mut found);
    found
}

/// Leases that were over before their time, though nobody had asked for their end.
fn early(ends: &BTreeMap<&str, Vec<(Nanos, u64)>>, began: u64, all: &[Operation], found: &mut Findings) {
    // By whom its end was asked for, or moved nobody knows where to: a renewal may shorten a lease.
    let mut asked: BTreeMap<&str, Nanos> = BTreeMap::new();
    for operation in all {
        let moved = match (&operation.action, &operation.back) {
            (Action::Revoke { lease }, _) | (Action::Renew { lease, .. }, None | Some((_, Answer::Unknown { .. }))) => {
                lease
            }
            _ => continue,
        };
        let since = asked.entry(moved).or_insert(operation.call);
        *since = operation.call.min(*since);
    }
    for operation in all {
        let (Action::Renew { lease, .. } | Action::Login { lease } | Action::Gone { lease }) = &operation.action else {
            continue;
        };
        let Some((back, answer)) = &operation.back else { continue };
        // What was promised last before it was tried: a renewal may also shorten a lease.
        let promised = ends.get(lease.as_str()).and_then(|all| all.iter().rfind(|(at, _)| *at <= operation.call));
        let Some((_, until)) = promised else { continue };
        let now = began + millis(*back);
        let over = asked.get(lease.as_str()).is_some_and(|since| since <= back);
        if over || now + SLACK >= *until {
            continue;
        }
        let ended = match (&operation.action, answer) {
            (Action::Renew { .. }, Answer::Refused { code }) => code == "lease_state",
            (Action::Login { .. }, Answer::Refused { code }) => code.starts_with("28"),
            (Action::Gone { .. }, Answer::Done { .. }) => true,
            _ => false,
        };
        found.tried += 1;
        if ended {
            let (name, before) = (operation.action.name(), until - now);
            found.violations.push(format!(
                "lease {lease} was over {before} ms before its time: operation {} ({name})",
                operation.number
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    fn at(ms: u64, event: Event) -> Entry {
        Entry { at: ms * MS, event }
    }

    fn time(ms: u64, cluster: u64) -> Entry {
        at(ms, Event::Time { member: 2, cluster, wall: 1_000_000 + ms })
    }

    fn told(call: u64, action: Action, answer: Answer) -> Operation {
        Operation { number: call, client: 1, action, call: call * MS, back: Some(((call + 5) * MS, answer)) }
    }

    fn refused(code: &str) -> Answer {
        Answer::Refused { code: code.to_owned() }
    }

    #[test]
    fn time_that_is_right_or_a_little_behind_passes_and_time_that_is_ahead_is_caught() {
        let good = judge(&[time(0, 999_900), time(700, 1_000_700), time(800, 1_000_000)], &[]);
        assert_eq!((good.said, good.behind, good.violations.len(), good.undecided.len()), (3, 800, 0, 0), "{good:?}");
        let ahead = judge(&[time(0, 1_000_000), time(700, 1_002_000)], &[]);
        assert!(ahead.violations[0].contains("1300 ms ahead"), "{ahead:?}");
        let settled = || at(10, Event::Phase { name: "settled".to_owned() });
        let late = |cluster| judge(&[time(0, 1_000_000), settled(), time(60_000, cluster)], &[]);
        assert_eq!(late(1_055_000).violations, Vec::<String>::new());
        let caught_up = [time(0, 1_000_000), settled(), time(60_000, 1_000_000), time(61_000, 1_061_000)];
        assert_eq!(judge(&caught_up, &[]).violations, Vec::<String>::new(), "with the next tick");
        assert!(late(1_000_000).violations[0].contains("60000 ms behind"));
    }

    #[test]
    fn a_watcher_whose_own_clock_was_set_knows_nothing() {
        let set = at(500, Event::Time { member: 1, cluster: 1_900_000, wall: 1_900_000 });
        let found = judge(&[time(0, 1_000_000), set], &[]);
        assert!(found.violations.is_empty() && found.undecided.len() == 1, "{found:?}");
        assert_eq!(judge(&[], &[]).undecided.len(), 1);
    }

    #[test]
    fn a_lease_that_is_over_before_its_time_is_caught_unless_somebody_asked() {
        let lease = || "l".to_owned();
        let promised = at(100, Event::Promised { lease: lease(), until: 1_005_000 });
        let entries = [time(0, 1_000_000), promised];
        let (renew, login) = (Action::Renew { lease: lease(), ttl: 5 }, Action::Login { lease: lease() });
        let gone = Action::Gone { lease: lease() };
        let done = || Answer::Done { index: 1, note: String::new() };
        for (action, answer) in [(&renew, refused("lease_state")), (&login, refused("28P01")), (&gone, done())] {
            let found = judge(&entries, &[told(2_000, action.clone(), answer.clone())]);
            assert!(found.violations.iter().any(|v| v.contains("2995 ms before its time")), "{action:?}: {found:?}");
            let late = judge(&entries, &[told(5_000, action.clone(), answer.clone())]);
            assert_eq!((late.tried, late.violations.len()), (0, 0), "its time had come");
            let asked = told(1_000, Action::Revoke { lease: lease() }, Answer::Unknown { code: "deadline".to_owned() });
            let asked = judge(&entries, &[asked, told(2_000, action.clone(), answer)]);
            assert_eq!(asked.violations.len(), 0, "somebody asked for it, whatever came of that");
        }
        let alive = judge(&entries, &[told(2_000, renew, done()), told(2_500, login, refused("57P03"))]);
        assert_eq!((alive.tried, alive.violations.len()), (2, 0), "{alive:?}");
    }
}
