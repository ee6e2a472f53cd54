//! How long logins outlived their leases, where faults leave no leader, no majority or no database for a while: then nothing can be ended, and
//! nobody promises it. What is promised is counted in stretches in which all three were there. The auditor tells when a lease was over and until
//! when it was seen alive; this tells what was broken meanwhile.

use crate::history::{Entry, Event, Nanos, Overrun};
use crate::nemesis::Kind;
use std::collections::{BTreeMap, BTreeSet};

/// How much of one undisturbed stretch a login may live on in, in milliseconds: what is promised with a change of the leader.
pub(crate) const PROMISED: u64 = 7_000;
/// How long what a fault had hold of takes to be itself again: a process to start, a database to let somebody in.
const AFTERMATH: Nanos = 3_000_000_000;
/// A leader that was disturbed, and that no other follows, is one again after so long.
const UNFOLLOWED: Nanos = 10_000_000_000;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Findings {
    /// Seconds in which nothing kept leases from ending.
    pub(crate) undisturbed: u64,
    /// Overruns of a second or more, however disturbed.
    pub(crate) overruns: usize,
    /// The most of an undisturbed stretch that a login lived on in, in milliseconds.
    pub(crate) longest: u64,
    /// The longest overrun, disturbed or not, in milliseconds.
    pub(crate) worst: u64,
    pub(crate) violations: Vec<String>,
    pub(crate) undecided: Vec<String>,
}

/// From when until when.
type Stretch = (Nanos, Nanos);

/// Judges a history.
pub(crate) fn judge(entries: &[Entry], nodes: u8) -> Findings {
    let stretches = undisturbed(entries, nodes);
    let sum: Nanos = stretches.iter().map(|(from, to)| to - from).sum();
    let mut found = Findings { undisturbed: sum / 1_000_000_000, ..Findings::default() };
    let began = entries.iter().find_map(|entry| match entry.event {
        Event::Time { wall, .. } => Some(wall.saturating_sub(entry.at / 1_000_000)),
        _ => None,
    });
    let Some(began) = began else {
        found.undecided.push("no member has said what time it is".to_owned());
        return found;
    };
    if found.undisturbed == 0 {
        found.undecided.push("nothing was ever undisturbed".to_owned());
    }
    let told = entries.iter().filter_map(|entry| match &entry.event {
        Event::Overruns { all } => Some(all),
        _ => None,
    });
    for Overrun { principal, ended_at, seen } in told.flatten() {
        found.overruns += 1;
        found.worst = found.worst.max(*seen);
        let from = ended_at.saturating_sub(began) * 1_000_000;
        let to = from + seen * 1_000_000;
        // Within one stretch: two halves of a promise are none.
        let longest = stretches.iter().map(|(begin, end)| to.min(*end).saturating_sub(from.max(*begin))).max();
        let longest = longest.unwrap_or(0) / 1_000_000;
        found.longest = found.longest.max(longest);
        if longest > PROMISED {
            found.violations.push(format!(
                "{principal} was alive for {seen} ms after its end at {} ms, {longest} ms of them in one stretch in which a leader, a \
                 majority and the database were there",
                from / 1_000_000
            ));
        }
    }
    found
}

/// What a fault has hold of.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Hold {
    /// Of members that nobody knows beforehand, or of what is between them.
    Anybody,
    /// Of the database.
    Database,
    /// Of these.
    Members(BTreeSet<u8>),
}

/// A fault, from its beginning until it has left no trace.
#[derive(Debug)]
struct Fault {
    from: Nanos,
    to: Nanos,
    hold: Hold,
}

impl Fault {
    fn shakes(&self, leader: u8) -> bool {
        match &self.hold {
            Hold::Anybody => true,
            Hold::Database => false,
            Hold::Members(members) => members.contains(&leader),
        }
    }
}

fn faults(entries: &[Entry]) -> Vec<Fault> {
    let mut all: BTreeMap<u32, Fault> = BTreeMap::new();
    for Entry { at, event } in entries {
        match event {
            Event::Fault { fault, kind, victims, .. } => {
                let hold = match Kind::parse(kind) {
                    Ok(Kind::Custodian) => Hold::Members(BTreeSet::new()),
                    Ok(Kind::Flap | Kind::Partition | Kind::TargetLate | Kind::Rolling | Kind::LostLeader) | Err(_) => {
                        Hold::Anybody
                    }
                    Ok(kind) if kind.is_of_target() => Hold::Database,
                    Ok(_) => Hold::Members(victims.iter().copied().collect()),
                };
                all.insert(*fault, Fault { from: *at, to: Nanos::MAX, hold });
            }
            Event::Healed { fault, .. } => {
                if let Some(fault) = all.get_mut(fault) {
                    fault.to = at.saturating_add(AFTERMATH);
                }
            }
            _ => {}
        }
    }
    all.into_values().collect()
}

/// The stretches in which one leader led, the database was there, and no fault had hold of the leader or of so many members that without them
/// there is no majority.
fn undisturbed(entries: &[Entry], nodes: u8) -> Vec<Stretch> {
    let end = entries.last().map_or(0, |entry| entry.at);
    let faults = faults(entries);
    let leader = |entry: &Entry| match entry.event {
        Event::Leader { member, .. } => Some((entry.at, member)),
        _ => None,
    };
    let leaders: BTreeMap<Nanos, u8> = entries.iter().filter_map(leader).collect();
    // A member whose files have rotted may find out at any time.
    let rotten = |entry: &Entry| match &entry.event {
        Event::Fault { kind, victims, .. } if kind == Kind::Rot.name() => Some((entry.at, victims.clone())),
        _ => None,
    };
    let rotten: Vec<(Nanos, Vec<u8>)> = entries.iter().filter_map(rotten).collect();
    let minority = usize::from(nodes.saturating_sub(1) / 2);
    let calm = |at: Nanos| {
        let Some((since, leader)) = leaders.range(..=at).next_back() else { return false };
        let mut down: BTreeSet<u8> = BTreeSet::new();
        down.extend(rotten.iter().filter(|(from, _)| *from <= at).flat_map(|(_, victims)| victims));
        for fault in faults.iter().filter(|fault| fault.from <= at && at < fault.to) {
            let Hold::Members(members) = &fault.hold else { return false };
            down.extend(members);
        }
        // It may have lost its office by that, and nobody has seen yet who has it.
        let shaken = |fault: &Fault| {
            fault.shakes(*leader) && fault.from > *since && fault.from <= at && at < fault.to.saturating_add(UNFOLLOWED)
        };
        !faults.iter().any(shaken) && !down.contains(leader) && down.len() <= minority
    };
    // Between two of these nothing changes.
    let mut edges: BTreeSet<Nanos> = leaders.keys().copied().collect();
    edges.extend(faults.iter().flat_map(|fault| [fault.from, fault.to, fault.to.saturating_add(UNFOLLOWED)]));
    edges.retain(|edge| *edge < end);
    edges.insert(end);
    let mut stretches: Vec<Stretch> = Vec::new();
    for (from, to) in edges.iter().zip(edges.iter().skip(1)).filter(|(from, _)| calm(**from)) {
        match stretches.last_mut().filter(|last| last.1 == *from && !leaders.contains_key(from)) {
            Some(last) => last.1 = *to,
            None => stretches.push((*from, *to)),
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Nanos = 1_000_000_000;

    fn at(seconds: u64, event: Event) -> Entry {
        Entry { at: seconds * S, event }
    }

    fn leader(seconds: u64, member: u8) -> Entry {
        at(seconds, Event::Leader { member, term: seconds })
    }

    /// A fault that lasts a second.
    fn fault(seconds: u64, kind: &str, victims: &[u8]) -> [Entry; 2] {
        let (number, kind) = (u32::try_from(seconds).unwrap(), kind.to_owned());
        let begun = Event::Fault { fault: number, kind, what: String::new(), victims: victims.to_vec() };
        let healed = Event::Healed { fault: number, seen: BTreeMap::new(), note: String::new() };
        [at(seconds, begun), at(seconds + 1, healed)]
    }

    /// The stretches of three members in a minute of which the first leads from the beginning, in seconds.
    fn stretches(between: impl IntoIterator<Item = Entry>) -> Vec<(u64, u64)> {
        let mut entries = vec![leader(0, 1)];
        entries.extend(between);
        entries.push(at(60, Event::Phase { name: "end".to_owned() }));
        undisturbed(&entries, 3).into_iter().map(|(from, to)| (from / S, to / S)).collect()
    }

    #[test]
    fn nothing_disturbs_but_the_loss_of_the_leader_of_a_majority_or_of_the_database() {
        assert_eq!(stretches([]), [(0, 60)]);
        assert_eq!(
            stretches(fault(20, "kill", &[2])).iter().map(|(from, to)| to - from).sum::<u64>(),
            60,
            "a follower"
        );
        assert_eq!(stretches(fault(20, "custodian", &[])).iter().map(|(from, to)| to - from).sum::<u64>(), 60);
        assert_eq!(stretches(fault(20, "target-down", &[])), [(0, 20), (24, 60)], "with its aftermath");
        assert_eq!(stretches(fault(20, "pause", &[2, 3])), [(0, 20), (24, 60)]);
        assert_eq!(stretches(fault(20, "pause", &[1])), [(0, 20), (34, 60)], "when it is sure that nobody followed");
        assert_eq!(stretches(fault(20, "partition", &[2])), [(0, 20), (34, 60)], "of whichever shape");
        let followed = fault(20, "kill", &[1]).into_iter().chain([leader(22, 2)]);
        assert_eq!(stretches(followed), [(0, 20), (22, 60)], "one of three is missing, and another one leads");
        assert_eq!(stretches([leader(30, 2)]), [(0, 30), (30, 60)], "a new leader begins anew");
        let rotten = fault(10, "rot", &[3]).into_iter().chain(fault(20, "kill", &[2]));
        assert_eq!(stretches(rotten).iter().map(|(from, to)| to - from).sum::<u64>(), 56, "two of three, for a while");
    }

    fn overrun(ended_at: u64, seen: u64, between: impl IntoIterator<Item = Entry>) -> Findings {
        let mut entries = vec![leader(0, 1), at(1, Event::Time { member: 1, cluster: 1_001_000, wall: 1_001_000 })];
        entries.extend(between);
        let all = vec![Overrun { principal: "q1_a".to_owned(), ended_at: 1_000_000 + ended_at, seen }];
        entries.push(at(60, Event::Overruns { all }));
        judge(&entries, 3)
    }

    #[test]
    fn an_overrun_counts_by_the_longest_undisturbed_stretch_of_it() {
        let down = || fault(20, "target-down", &[]);
        let excused = overrun(15_000, 15_000, down());
        assert_eq!((excused.longest, excused.worst, excused.violations.len()), (6_000, 15_000, 0), "{excused:?}");
        let late = overrun(15_000, 17_000, down());
        assert!(late.violations.len() == 1 && late.longest == 8_000, "{late:?}");
        assert_eq!(overrun(15_000, 7_000, []).violations.len(), 0);
        assert_eq!(overrun(15_000, 7_001, []).violations.len(), 1);
    }

    #[test]
    fn what_was_always_disturbed_or_has_no_clock_proves_nothing() {
        let mut always = fault(0, "target-down", &[]);
        always[1].at = 59 * S;
        assert_eq!(overrun(15_000, 20_000, always).undecided, ["nothing was ever undisturbed"]);
        assert_eq!(judge(&[leader(0, 1), leader(60, 1)], 3).undecided, ["no member has said what time it is"]);
    }
}
