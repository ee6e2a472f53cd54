//! What observations prove together. Neither the target nor the vault stands still while it is asked, so nothing is concluded from
//! two answers alone unless their order in time makes the conclusion certain, whatever happened in between.
//!
//! Everything rests on three facts: an answer was true at some moment of its [`Span`]; a lease only goes forward (intent, active,
//! revoking, revoked; back from revoked only when its principal is found alive, which is a finding by itself); and the intent of a
//! lease is on record before its principal is made.
//!
//! | finding | order of looks at the target (T) and answers of the vault (V) | why no race can feign it |
//! |---|---|---|
//! | orphan, nobody's | T sees a principal, a later V does not know it | its intent would have been on record before T |
//! | orphan, of a lease that never was active | V says *revoked*, a later T sees it alive | *revoked* is final |
//! | survivor | V says *revoked*, a later T sees a login or a session | the same |
//! | survivor, overdue | T sees it alive, a later V tells its end before T; the next T that does not is long after it | an end that has passed is moved by nothing |
//! | ghost | V says *revoked*, a later T sees a session whose role is gone | the same |
//! | ghost, nobody's | T sees such a session, of a role that no T has seen, for longer than a bound | |
//! | early death | V says *active*, a later T sees no login, a still later V says *active* | it was active at T |

use crate::report::{Overrun, Report, Violation};
use std::collections::{BTreeMap, BTreeSet};

/// A moment in microseconds since 1970, by a clock that never goes back.
pub(crate) type Moment = u64;

/// When somebody was asked, and when the answer was there: what it says was so at some moment in between.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Span {
    pub(crate) from: Moment,
    pub(crate) to: Moment,
}

impl Span {
    /// Whether all of it was over before any of the other began.
    fn is_before(&self, other: &Self) -> bool {
        self.to < other.from
    }
}

/// What the target knows a role by, whatever becomes of it: its sessions tell it too, also when it is gone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Identity {
    /// It numbers its roles.
    Number(u32),
    /// It does not: a session keeps the name.
    Name(String),
}

/// A role at the target that has the prefix.
#[derive(Debug, Clone)]
pub(crate) struct Role {
    pub(crate) identity: Identity,
    /// It may log in, and its own time limit is not over.
    pub(crate) can_login: bool,
}

/// A session of a role that has the prefix, or of none that exists.
#[derive(Debug, Clone)]
pub(crate) struct Session {
    /// The target's number for it.
    pub(crate) id: i64,
    /// What tells it from another of that number: when it began, or in which life of the server.
    pub(crate) began: i64,
    /// Whose it is.
    pub(crate) of: Identity,
    /// None if there is no such role.
    pub(crate) role: Option<String>,
}

/// What the target has.
#[derive(Debug, Clone, Default)]
pub(crate) struct Look {
    pub(crate) roles: BTreeMap<String, Role>,
    pub(crate) sessions: Vec<Session>,
}

/// Where the vault says that a lease stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Intent,
    Active,
    Revoking,
    Revoked,
}

/// What the vault says of a lease. Times in milliseconds since 1970.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) state: State,
    pub(crate) was_active: bool,
    pub(crate) expires_at: u64,
    /// 0 while it has not ended.
    pub(crate) ended_at: u64,
    pub(crate) why: String,
}

/// What is too long, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Between the end of a lease and the end of its login and sessions.
    pub(crate) calm: u64,
    /// The same where the vault lost its leader in between.
    pub(crate) failover: u64,
    /// For how long a session of a role that is gone and was never seen may be there.
    pub(crate) stranger: u64,
    /// The first two are for somebody else to judge, who knows what was broken meanwhile.
    pub(crate) elsewhere: bool,
}

/// How long something has to have lived after its end, in milliseconds, to be listed.
const LISTED: u64 = 1_000;

/// Everything about one principal.
#[derive(Debug, Default)]
struct Record {
    /// The vault's newest word.
    said: Option<(Span, Lease)>,
    /// When the vault was asked for the last answer in which it had not ended.
    living: Moment,
    /// Since when the vault's word is that it is revoked.
    revoked: Option<Moment>,
    /// Looks that saw a login or a session, and that no later answer has judged yet.
    alive: Vec<Span>,
    /// Looks that saw anything of it, before the vault has said a word about it.
    nameless: Vec<Span>,
    /// Looks after an answer that called it active, in which it could not log in.
    dead: Vec<Span>,
    /// It was seen alive at least once.
    watched: bool,
    /// Sessions that were seen.
    sessions: BTreeSet<(i64, i64)>,
    /// From its end to the last moment at which it was seen alive.
    overrun: Option<Span>,
    /// When the last look began that saw it alive, and when the first after that one was over, which did not.
    last: Option<(Moment, Option<Moment>)>,
    /// What that look saw: whether it could log in, and how many sessions it had.
    last_with: (bool, usize),
}

/// Takes observations in the order of their ends, and keeps what follows from them.
pub(crate) struct Judge {
    bounds: Bounds,
    records: BTreeMap<String, Record>,
    /// The principals of identities that were seen at the target.
    known: BTreeMap<Identity, String>,
    /// Sessions of nobody known, and when they were first seen.
    strangers: BTreeMap<(i64, i64), Moment>,
    /// Roles that can do nothing any more, and since when that was seen.
    leftovers: BTreeMap<String, Moment>,
    most_leftovers: usize,
    terms: Vec<(Span, u64)>,
    up: BTreeMap<String, bool>,
    outages: usize,
    violations: BTreeMap<(&'static str, String), Violation>,
    looks: Pace,
    answers: Pace,
    unanswered: usize,
}

/// How often something succeeded, and the longest time in which it did not.
#[derive(Debug, Default, Clone, Copy)]
struct Pace {
    count: usize,
    last: Option<Moment>,
    longest: u64,
}

impl Pace {
    fn beat(&mut self, at: Span) {
        // From the beginning of one to the end of the next: for all of that time nothing newer was known.
        self.longest = self.longest.max(at.to.saturating_sub(self.last.unwrap_or(at.from)));
        self.last = Some(at.from);
        self.count += 1;
    }

    fn longest_until(&self, end: Moment) -> u64 {
        self.last.map_or(u64::MAX, |last| self.longest.max(end.saturating_sub(last)))
    }
}

impl Judge {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            records: BTreeMap::new(),
            known: BTreeMap::new(),
            strangers: BTreeMap::new(),
            leftovers: BTreeMap::new(),
            most_leftovers: 0,
            terms: Vec::new(),
            up: BTreeMap::new(),
            outages: 0,
            violations: BTreeMap::new(),
            looks: Pace::default(),
            answers: Pace::default(),
            unanswered: 0,
        }
    }

    fn finds(&mut self, kind: &'static str, whose: &str, at: Moment, what: impl FnOnce() -> String) {
        let found = self.violations.entry((kind, whose.to_owned()));
        let found =
            found.or_insert_with(|| Violation { kind, principal: whose.to_owned(), what: what(), first: at, last: at });
        found.last = found.last.max(at);
    }

    /// What the target had.
    pub(crate) fn look(&mut self, at: Span, seen: &Look) {
        self.looks.beat(at);
        // Whether it can log in, and how many of its sessions are those of a role that is gone.
        let mut alive: BTreeMap<String, (bool, usize, usize)> = BTreeMap::new();
        for (name, role) in &seen.roles {
            self.known.insert(role.identity.clone(), name.clone());
            alive.entry(name.clone()).or_default().0 = role.can_login;
        }
        let mut strangers = BTreeMap::new();
        for session in &seen.sessions {
            let key = (session.id, session.began);
            let Some(name) = self.whose(session) else {
                // A role that was made while this look went on is not in it, though its session is: the next look has it.
                let since = self.strangers.get(&key).copied().unwrap_or(at.from);
                strangers.insert(key, since);
                continue;
            };
            let entry = alive.entry(name.clone()).or_default();
            entry.1 += 1;
            entry.2 += usize::from(session.role.is_none());
            self.records.entry(name).or_default().sessions.insert(key);
        }
        self.strangers = strangers;
        let bound = self.bounds.stranger * 1_000;
        let old = |(key, since): (&(i64, i64), &Moment)| (at.from.saturating_sub(*since) > bound).then_some(*key);
        let old: Vec<_> = self.strangers.iter().filter_map(old).collect();
        for (id, _) in old {
            self.finds("ghost", &format!("session {id}"), at.from, || {
                "a session of a role that is gone and was never seen".to_owned()
            });
        }
        self.note_leftovers(at, &alive);
        for (name, (can_login, sessions, ghosts)) in &alive {
            let record = self.records.entry(name.clone()).or_default();
            if record.said.is_none() {
                record.nameless.push(at);
            }
            if *can_login || *sessions > 0 {
                self.sees_alive(at, name, *can_login, *sessions, *ghosts);
            }
        }
        for (name, record) in &mut self.records {
            if let Some((_, gone)) = &mut record.last
                && !alive.get(name).is_some_and(|(can, sessions, _)| *can || *sessions > 0)
            {
                gone.get_or_insert(at.to);
            }
            let active = |(said, lease): &&(Span, Lease)| {
                lease.state == State::Active && said.is_before(&at) && lease.expires_at * 1_000 > at.to
            };
            if record.said.as_ref().filter(active).is_some() && !alive.get(name).is_some_and(|(can, ..)| *can) {
                record.dead.push(at);
            }
        }
    }

    fn whose(&self, session: &Session) -> Option<String> {
        let told = || match &session.of {
            Identity::Number(_) => self.known.get(&session.of).cloned(),
            Identity::Name(name) => Some(name.clone()),
        };
        session.role.clone().or_else(told)
    }

    fn sees_alive(&mut self, at: Span, name: &str, can_login: bool, sessions: usize, ghosts: usize) {
        let record = self.records.entry(name.to_owned()).or_default();
        record.watched = true;
        record.alive.push(at);
        record.last = Some((at.from, None));
        record.last_with = (can_login, sessions);
        if record.revoked.is_none_or(|since| since >= at.from) {
            return;
        }
        let was_active = record.said.as_ref().is_some_and(|(_, lease)| lease.was_active);
        let kind = match () {
            () if !was_active => "orphan",
            () if ghosts > 0 && ghosts == sessions && !can_login => "ghost",
            () => "survivor",
        };
        self.finds(kind, name, at.from, || {
            let login = if can_login { "it can log in" } else { "it cannot log in" };
            let gone = if ghosts > 0 { ", of a role that is gone" } else { "" };
            let given = if was_active { "" } else { ", a lease that never was active" };
            format!("revoked by the vault's word{given}; then it was seen: {login}, and has {sessions} sessions{gone}")
        });
    }

    /// Never a condition of *revoked*, but it has to become fewer.
    fn note_leftovers(&mut self, at: Span, alive: &BTreeMap<String, (bool, usize, usize)>) {
        let revoked =
            |name: &String| self.records.get(name).is_some_and(|r| r.revoked.is_some_and(|since| since < at.from));
        let left = alive.iter().filter(|(name, (can, sessions, _))| !can && *sessions == 0 && revoked(name));
        let since = |name: &String| self.leftovers.get(name).copied().unwrap_or(at.from);
        let left: BTreeMap<String, Moment> = left.map(|(name, _)| (name.clone(), since(name))).collect();
        self.most_leftovers = self.most_leftovers.max(left.len());
        self.leftovers = left;
    }

    /// What the vault said of all leases, by principal.
    pub(crate) fn answer(&mut self, at: Span, leases: &BTreeMap<String, Lease>) {
        self.answers.beat(at);
        let mut unknown = Vec::new();
        let mut died = Vec::new();
        for (name, lease) in leases {
            let record = self.records.entry(name.clone()).or_default();
            if matches!(lease.state, State::Intent | State::Active) {
                record.living = at.from;
            }
            // From a moment at which the target was last seen to have it alive, and after which the vault told its end.
            if let Some(last) = record.alive.iter().rfind(|look| look.is_before(&at)) {
                let due = due(lease, record.living);
                if last.from > due && record.overrun.is_none_or(|o| last.from > o.to) {
                    // Its end may have been moved; whatever it overran before was judged by the end of then.
                    record.overrun = Some(Span { from: due, to: last.from });
                }
            }
            record.alive.retain(|look| !look.is_before(&at));
            if lease.state == State::Active {
                died.extend(
                    record
                        .dead
                        .iter()
                        .find(|look| look.is_before(&at))
                        .map(|look| (name.clone(), *look, lease.expires_at)),
                );
                record.dead.retain(|look| !look.is_before(&at));
            } else {
                record.dead.clear();
            }
            match lease.state {
                State::Revoked => drop(record.revoked.get_or_insert(at.to)),
                State::Intent | State::Active | State::Revoking => record.revoked = None,
            }
            record.nameless.clear();
            record.said = Some((at, lease.clone()));
        }
        for (name, record) in self.records.iter_mut().filter(|(name, _)| !leases.contains_key(*name)) {
            // One that was known is forgotten a week after its end; of a new one the intent should have been there.
            unknown.extend(record.nameless.iter().find(|look| look.is_before(&at)).map(|look| (name.clone(), *look)));
            record.nameless.retain(|look| !look.is_before(&at));
            record.alive.retain(|look| !look.is_before(&at));
        }
        for (name, look) in unknown {
            self.finds("orphan", &name, look.from, || "no lease of the vault accounts for it".to_owned());
        }
        for (name, look, expires_at) in died {
            self.finds("early death", &name, look.from, || {
                let left = expires_at.saturating_sub(look.from / 1_000);
                format!("active before and after, with {left} ms left to live: it could not log in")
            });
        }
    }

    /// The vault did not answer.
    pub(crate) fn no_answer(&mut self) {
        self.unanswered += 1;
    }

    /// Which members answered, and the newest term among them.
    pub(crate) fn members(&mut self, at: Span, answered: &BTreeMap<String, bool>, term: Option<u64>) {
        for (name, up) in answered {
            if self.up.insert(name.clone(), *up) == Some(true) && !up {
                self.outages += 1;
            }
        }
        self.terms.extend(term.map(|term| (at, term)));
    }

    /// When the vault had another leader than before: from the last answer of the old term to the first of the new one.
    fn failovers(&self) -> Vec<Span> {
        let pairs = self.terms.iter().zip(self.terms.iter().skip(1));
        pairs.filter(|((_, old), (_, new))| new > old).map(|((a, _), (b, _))| Span { from: a.from, to: b.to }).collect()
    }

    /// All of it, when nothing more was looked at after `end`.
    pub(crate) fn report(mut self, end: Moment) -> Report {
        let failovers = self.failovers();
        let mut worst = [None::<Overrun>, None];
        let (mut overdue, mut overruns) = (Vec::new(), Vec::new());
        for (name, record) in &self.records {
            let Some(over) = record.overrun else { continue };
            // Between the last look that saw it and the next it may have lived on: it is not given the benefit of that.
            let until = record.last.filter(|(seen, _)| *seen == over.to).and_then(|(_, gone)| gone).unwrap_or(over.to);
            let failover = failovers.iter().any(|f| f.from <= until && over.from <= f.to);
            let bound = if failover { self.bounds.failover } else { self.bounds.calm };
            let (seen, millis) = ((over.to - over.from) / 1_000, (until - over.from) / 1_000);
            let overrun = Overrun { millis, seen, principal: name.clone(), ended_at: over.from / 1_000 };
            if let Some(slot) = worst.get_mut(usize::from(failover))
                && slot.as_ref().is_none_or(|worst| millis > worst.millis)
            {
                *slot = Some(overrun.clone());
            }
            if seen >= LISTED {
                overruns.push(overrun);
            }
            // What the vault called revoked, and was seen alive, is told already.
            if millis > bound && !self.bounds.elsewhere && !self.violations.keys().any(|(_, whose)| whose == name) {
                overdue.push((name.clone(), over, seen, millis, bound, record.last_with));
            }
        }
        for (name, over, seen, millis, bound, (can_login, sessions)) in overdue {
            self.finds("survivor", &name, over.to, || {
                let (ended_at, login) = (over.from / 1_000, if can_login { "a login" } else { "no login" });
                format!(
                    "alive {seen} to {millis} ms after its end at {ended_at}, and {bound} ms is the bound; \
                     seen last with {login} and {sessions} sessions"
                )
            });
        }
        let watched = || self.records.values().filter(|r| r.watched);
        let ended = |expired: bool| {
            let ended =
                watched().filter_map(|r| r.said.as_ref()).filter(|(_, l)| l.state == State::Revoked && l.was_active);
            ended.filter(|(_, l)| (l.why == "expired") == expired).count()
        };
        let [calm, failover] = worst;
        Report {
            leases: watched().filter(|r| r.said.is_some()).count(),
            sessions: watched().map(|r| r.sessions.len()).sum(),
            expiries: ended(true),
            revocations: ended(false),
            looks: self.looks.count,
            answers: self.answers.count,
            unanswered: self.unanswered,
            longest_pause: self.looks.longest_until(end) / 1_000,
            longest_silence: self.answers.longest_until(end) / 1_000,
            outages: self.outages,
            failovers: failovers.iter().map(|f| format!("{}..{}", f.from / 1_000, f.to / 1_000)).collect(),
            worst_calm: calm,
            worst_failover: failover,
            overruns,
            leftovers: self.leftovers.keys().cloned().collect(),
            most_leftovers: self.most_leftovers,
            violations: self.violations.into_values().collect(),
        }
    }
}

/// When a lease is over: at its end, or when it was ended before that. The vault's clock stands still between entries of its log, so that
/// it may date an end before the moment at which the vault was asked and still called it alive: not before that.
fn due(lease: &Lease, living: Moment) -> Moment {
    let expiry = lease.expires_at * 1_000;
    if lease.ended_at == 0 { expiry } else { expiry.min((lease.ended_at * 1_000).max(living)) }
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
