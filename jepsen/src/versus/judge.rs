//! What follows from the facts of one part on one side: counted the same way whoever is judged, without a clock or a connection.
//!
//! Each number is a lower bound: a login or a session is alive from the beginning of the first look that saw it to the beginning of the last one that
//! did, and an end is the latest that its user could have thought of. What a vault has said counts from the moment at which its user had heard it.

use super::fact::{Fact, Millis};
use super::plan;
use crate::nemesis::Kind;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// How much an end that is told in whole seconds may be off.
const ROUNDED: Millis = 1_000;

/// A login at the database of which the vault has no lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Orphan {
    pub(crate) login: String,
    /// How long it has been there.
    pub(crate) ms: Millis,
    /// Whether it still lets somebody in.
    pub(crate) lets_in: bool,
}

/// What was seen of a side, of one part or of several.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Sum {
    pub(crate) side: String,
    pub(crate) version: String,
    pub(crate) outage: bool,
    pub(crate) parts: u64,
    pub(crate) seconds: u64,
    pub(crate) looks: u64,
    pub(crate) issued: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) renewed: u64,
    pub(crate) asked_to_end: u64,
    pub(crate) expired: u64,
    /// Leases of which a session was seen.
    pub(crate) sessions: u64,
    pub(crate) orphans: Vec<Orphan>,
    /// For each lease that ended while it was looked at, by how much its login and its sessions outlived the end; 0 for not at all.
    pub(crate) login_overruns: Vec<Millis>,
    pub(crate) session_overruns: Vec<Millis>,
    /// The same from the vault's word that it is over, of those that outlived it.
    pub(crate) logins_after_word: Vec<Millis>,
    pub(crate) sessions_after_word: Vec<Millis>,
    /// Logins that did not let in before their end, and that nobody had asked to end.
    pub(crate) early: Vec<String>,
    /// Logins or leases that were handed out twice.
    pub(crate) twice: Vec<String>,
    /// How long each login was there that was handed to nobody.
    pub(crate) to_nobody: Vec<Millis>,
    /// Leases that the vault has given up, and others that are still not over.
    pub(crate) given_up: u64,
    pub(crate) waiting: u64,
    /// From each end of a leader to the first write after it that was answered.
    pub(crate) write_outages: Vec<Millis>,
    /// Faults by kind: how many began, and of how many something was seen.
    pub(crate) faults: BTreeMap<String, (u64, u64)>,
    /// Parts that came to no end, and why.
    pub(crate) broken: Vec<String>,
}

impl Sum {
    /// Of a part that came to no end.
    pub(crate) fn broken(side: String, why: String) -> Self {
        Self { side, broken: vec![why], ..Self::default() }
    }

    /// Adds another part.
    pub(crate) fn add(&mut self, mut part: Self) {
        self.side = part.side;
        if !part.version.is_empty() {
            self.version = part.version;
        }
        self.outage |= part.outage;
        let counts = [
            (&mut self.parts, part.parts),
            (&mut self.seconds, part.seconds),
            (&mut self.looks, part.looks),
            (&mut self.issued, part.issued),
            (&mut self.refused, part.refused),
            (&mut self.unknown, part.unknown),
            (&mut self.renewed, part.renewed),
            (&mut self.asked_to_end, part.asked_to_end),
            (&mut self.expired, part.expired),
            (&mut self.sessions, part.sessions),
            (&mut self.given_up, part.given_up),
            (&mut self.waiting, part.waiting),
        ];
        for (sum, more) in counts {
            *sum += more;
        }
        self.orphans.append(&mut part.orphans);
        self.login_overruns.append(&mut part.login_overruns);
        self.session_overruns.append(&mut part.session_overruns);
        self.logins_after_word.append(&mut part.logins_after_word);
        self.sessions_after_word.append(&mut part.sessions_after_word);
        self.early.append(&mut part.early);
        self.twice.append(&mut part.twice);
        self.to_nobody.append(&mut part.to_nobody);
        self.write_outages.append(&mut part.write_outages);
        self.broken.append(&mut part.broken);
        for (kind, (begun, seen)) in part.faults {
            let sum = self.faults.entry(kind).or_default();
            *sum = (sum.0 + begun, sum.1 + seen);
        }
    }

    /// What is too little for a word about this side; nothing if it is enough.
    pub(crate) fn lacks(&self) -> Vec<String> {
        let mut lacks = self.broken.clone();
        let wanted = if self.outage { vec![Kind::TargetDown] } else { plan::kinds() };
        for kind in wanted {
            if self.faults.get(kind.name()).is_none_or(|(_, seen)| *seen == 0) {
                lacks.push(format!("no {} was seen to bite", kind.name()));
            }
        }
        let mut floors = vec![("logins handed out", self.issued, 20), ("looks", self.looks, 20)];
        if !self.outage {
            floors = vec![
                ("logins handed out", self.issued, self.seconds),
                ("looks at the database", self.looks, self.seconds),
                ("leases with a session", self.sessions, self.seconds / 12),
                ("leases that were asked to end", self.asked_to_end, self.seconds / 12),
                ("leases that expired", self.expired, self.seconds / 12),
                ("ends of a leader", self.write_outages.len().try_into().unwrap_or(u64::MAX), self.seconds / 60),
            ];
        }
        let few = floors.into_iter().filter(|(_, seen, least)| seen < least);
        lacks.extend(few.map(|(what, seen, least)| format!("{seen} {what}, and {least} are the least")));
        lacks
    }
}

/// What is known of a lease that was handed out.
#[derive(Debug, Default)]
struct Lease {
    login: String,
    /// From when its user has it, and how long the answer took.
    at: Millis,
    took: Millis,
    /// The latest end that it can have, and the earliest at which it may be gone.
    end: Millis,
    earliest: Millis,
    asked_to_end: bool,
    over: Option<Millis>,
}

/// What the eyes saw of a login.
#[derive(Debug)]
struct Seen {
    first: Millis,
    last: Millis,
    let_in: Option<Millis>,
    session: Option<Millis>,
}

/// The facts of a part, added up.
pub(crate) fn judge(facts: &[Fact]) -> Sum {
    let mut sum = Sum { parts: 1, ..Sum::default() };
    let mut leases: BTreeMap<String, Lease> = BTreeMap::new();
    let mut logins: BTreeMap<String, String> = BTreeMap::new();
    for fact in facts {
        match fact {
            Fact::Part { side, version, seconds, outage, .. } => {
                (sum.side, sum.version) = (side.clone(), version.clone());
                (sum.seconds, sum.outage) = (*seconds, *outage);
            }
            Fact::Issued { lease, login, asked, at, ends } => {
                sum.issued += 1;
                if leases.contains_key(lease) || logins.contains_key(login) {
                    sum.twice.push(login.clone());
                }
                logins.insert(login.clone(), lease.clone());
                let took = at.saturating_sub(*asked);
                let (login, end, earliest) = (login.clone(), *ends, *ends);
                leases.insert(lease.clone(), Lease { login, at: *at, took, end, earliest, ..Lease::default() });
            }
            Fact::NotIssued { known, .. } => *(if *known { &mut sum.refused } else { &mut sum.unknown }) += 1,
            Fact::Renewed { lease, asked, at, ends, unknown, latest } => {
                let Some(lease) = leases.get_mut(lease) else { continue };
                let ttl = latest.saturating_sub(*at);
                match ends {
                    Some(ends) => {
                        sum.renewed += 1;
                        lease.end = *ends;
                        lease.took = lease.took.max(at.saturating_sub(*asked));
                        lease.earliest = lease.earliest.min(*ends);
                    }
                    None if *unknown => {
                        lease.end = lease.end.max(*latest);
                        lease.earliest = lease.earliest.min(*asked + ttl);
                    }
                    None => {}
                }
            }
            Fact::Ending { lease, at } => {
                if let Some(lease) = leases.get_mut(lease) {
                    lease.asked_to_end = true;
                    lease.earliest = lease.earliest.min(*at);
                }
            }
            Fact::Over { lease, at } => {
                if let Some(lease) = leases.get_mut(lease) {
                    lease.over.get_or_insert(*at);
                    lease.end = lease.end.min(*at);
                }
            }
            Fact::Fault { kind, seen, .. } => {
                let (begun, bit) = sum.faults.entry(kind.clone()).or_default();
                *begun += 1;
                *bit += u64::from(*seen > 0);
            }
            _ => {}
        }
    }
    let (seen, newest) = watched(facts, &leases, &logins, &mut sum);
    outlived(&leases, &seen, newest, &mut sum);
    for (login, seen) in &seen {
        if !logins.contains_key(login) && !login.starts_with("role ") {
            sum.to_nobody.push(seen.last.saturating_sub(seen.first));
        }
    }
    remains(facts, &logins, &seen, &mut sum);
    sum.write_outages = write_outages(facts);
    sum
}

/// Goes through all looks: what they saw, by login, and when the newest began.
fn watched(
    facts: &[Fact],
    leases: &BTreeMap<String, Lease>,
    logins: &BTreeMap<String, String>,
    sum: &mut Sum,
) -> (BTreeMap<String, Seen>, Millis) {
    let mut all: BTreeMap<String, Seen> = BTreeMap::new();
    let (mut newest, mut early) = (0, BTreeSet::new());
    for fact in facts {
        let Fact::Look { from, to, roles, sessions } = fact else { continue };
        sum.looks += 1;
        newest = *from;
        let mut note = |login: &String, lets_in: bool, session: bool| {
            let new = || Seen { first: *from, last: *from, let_in: None, session: None };
            let seen = all.entry(login.clone()).or_insert_with(new);
            seen.last = *from;
            seen.let_in = if lets_in { Some(*from) } else { seen.let_in };
            seen.session = if session { Some(*from) } else { seen.session };
        };
        for (login, lets_in) in roles {
            note(login, *lets_in, false);
        }
        for login in sessions {
            note(login, false, true);
        }
        for lease in leases.values() {
            let certain = lease.earliest.saturating_sub(lease.took + ROUNDED);
            let dead = roles.get(&lease.login) != Some(&true);
            if dead && *from > lease.at && *to < certain && early.insert(lease.login.clone()) {
                sum.early.push(lease.login.clone());
            }
        }
    }
    let with_session = all.iter().filter(|(login, seen)| seen.session.is_some() && logins.contains_key(*login));
    sum.sessions = u64::try_from(with_session.count()).unwrap_or(u64::MAX);
    (all, newest)
}

/// By how much logins and sessions outlived their ends, and the vault's word.
fn outlived(leases: &BTreeMap<String, Lease>, seen: &BTreeMap<String, Seen>, newest: Millis, sum: &mut Sum) {
    for lease in leases.values().filter(|lease| lease.end < newest) {
        *(if lease.asked_to_end { &mut sum.asked_to_end } else { &mut sum.expired }) += 1;
        let seen = seen.get(&lease.login);
        let (let_in, session) = (seen.and_then(|seen| seen.let_in), seen.and_then(|seen| seen.session));
        sum.login_overruns.push(let_in.map_or(0, |at| at.saturating_sub(lease.end)));
        sum.session_overruns.push(session.map_or(0, |at| at.saturating_sub(lease.end)));
        let Some(over) = lease.over else { continue };
        let after = |at: Option<Millis>| at.and_then(|at| at.checked_sub(over)).filter(|ms| *ms > 0);
        sum.logins_after_word.extend(after(let_in));
        sum.sessions_after_word.extend(after(session));
    }
}

/// What is left at the database and in the vault when all is over.
fn remains(facts: &[Fact], logins: &BTreeMap<String, String>, seen: &BTreeMap<String, Seen>, sum: &mut Sum) {
    let said = facts.iter().position(|fact| matches!(fact, Fact::Left { .. }));
    let Some((said, Fact::Left { leases, given_up, logins: named })) = said.and_then(|at| Some((at, facts.get(at)?)))
    else {
        sum.broken.push("the vault has not said what is left".to_owned());
        return;
    };
    sum.given_up = *given_up;
    sum.waiting = u64::try_from(leases.len()).unwrap_or(u64::MAX).saturating_sub(*given_up);
    let last = facts.iter().skip(said).rev().find_map(|fact| match fact {
        Fact::Look { roles, .. } => Some(roles),
        _ => None,
    });
    let Some(roles) = last else {
        sum.broken.push("nobody has looked after the vault's last word".to_owned());
        return;
    };
    let living: BTreeSet<&String> = leases.iter().collect();
    let named: BTreeSet<&String> = named.iter().collect();
    let accounted =
        |login: &String| named.contains(login) || logins.get(login).is_some_and(|lease| living.contains(lease));
    let mut orphans: Vec<Orphan> = roles
        .iter()
        .filter(|(login, _)| !accounted(login))
        .map(|(login, lets_in)| {
            let ms = seen.get(login).map_or(0, |seen| seen.last.saturating_sub(seen.first));
            Orphan { login: login.clone(), ms, lets_in: *lets_in }
        })
        .collect();
    // Leases whose login nobody was told and the vault does not say: each of them may account for one, so that one is not counted.
    let held: BTreeSet<&String> = logins.values().collect();
    let nameless = if named.is_empty() { leases.iter().filter(|lease| !held.contains(lease)).count() } else { 0 };
    orphans.sort_by_key(|orphan| std::cmp::Reverse(orphan.ms));
    orphans.truncate(orphans.len().saturating_sub(nameless));
    sum.orphans = orphans;
}

/// From each end of a leader to the answer of the first write that was asked for after it.
fn write_outages(facts: &[Fact]) -> Vec<Millis> {
    let ends = facts.iter().filter_map(|fact| match fact {
        Fact::Fault { kind, at, seen, .. }
            if *seen > 0 && (kind == Kind::Kill.name() || kind == Kind::Power.name()) =>
        {
            Some(*at)
        }
        _ => None,
    });
    let first = |end: Millis| {
        facts.iter().find_map(|fact| match fact {
            Fact::Write { asked, at, done: true } if *asked >= end => Some(at.saturating_sub(end)),
            _ => None,
        })
    };
    ends.filter_map(first).collect()
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
