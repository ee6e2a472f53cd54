//! What a history proves. Nothing here runs anything or believes anybody: a history in, verdicts out.

pub(crate) mod audit;
pub(crate) mod lease;
pub(crate) mod linear;
pub(crate) mod overrun;
pub(crate) mod policy;
pub(crate) mod register;
pub(crate) mod time;

use crate::history::{Answer, Entry, Event, Operation, Outcome, Run, operations};
use crate::nemesis::Kind;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// The most findings that one verdict lists.
const LISTED: usize = 20;

/// What became of one rule.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Verdict {
    /// The rule.
    pub(crate) rule: String,
    pub(crate) outcome: Outcome,
    /// What that rests on.
    pub(crate) on: String,
    /// What was found, if anything; the first of it.
    pub(crate) findings: Vec<String>,
}

/// Faults of one kind.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Tally {
    pub(crate) begun: u64,
    /// Those that were seen to bite.
    pub(crate) effective: u64,
    pub(crate) seen: BTreeMap<String, u64>,
}

/// All that is said of a run.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Judgement {
    pub(crate) outcome: Outcome,
    pub(crate) verdicts: Vec<Verdict>,
    pub(crate) faults: BTreeMap<String, Tally>,
    /// Effective faults of all kinds.
    pub(crate) effective: u64,
    /// Changes of the leader that were seen.
    pub(crate) leaders: u64,
}

/// Judges a history. `out_of_time` ends a search that takes too long, and what it was about is then not decided.
pub(crate) fn judge(entries: &[Entry], mut out_of_time: impl FnMut() -> bool) -> Judgement {
    let all = operations(entries);
    let faults = tally(entries);
    let run = entries.iter().find_map(|entry| match &entry.event {
        Event::Run(run) => Some(run.clone()),
        _ => None,
    });
    let run = run.unwrap_or_default();
    let ran = |name: &str| run.workloads.iter().any(|workload| workload == name);
    let mut verdicts = Vec::new();
    if ran("register") {
        verdicts.push(registers(entries, &all, &mut out_of_time));
    }
    if ran("policy") {
        verdicts.push(policies(&all, &mut out_of_time));
    }
    if ran("lease") {
        verdicts.push(leases(&all));
        // Where nothing but what is promised anyway is broken, the auditor judges them itself.
        if entries.iter().any(|entry| matches!(entry.event, Event::Overruns { .. })) {
            verdicts.push(overruns(entries, &run));
        }
    }
    verdicts.push(times(entries, &all));
    verdicts.extend([answers(&all), agreement(entries, &run), ends(entries), recovery(entries, &all)]);
    if run.nemeses == [Kind::Rolling.name()] {
        verdicts.push(undisturbed(entries, &all));
    }
    verdicts.extend(entries.iter().filter_map(outside));
    verdicts.push(enough(entries, &all, &run, &faults));
    let any = |outcome| verdicts.iter().any(|verdict| verdict.outcome == outcome);
    let outcome = match (any(Outcome::Violated), any(Outcome::Void)) {
        (true, _) => Outcome::Violated,
        (_, true) => Outcome::Void,
        _ => Outcome::Holds,
    };
    let effective = faults.values().map(|tally| tally.effective).sum();
    let leaders = entries.iter().filter(|entry| matches!(entry.event, Event::Leader { .. })).count();
    Judgement { outcome, verdicts, faults, effective, leaders: u64::try_from(leaders).unwrap_or(0).saturating_sub(1) }
}

fn verdict(rule: &str, on: String, violations: Vec<String>, undecided: Vec<String>) -> Verdict {
    let outcome = match (violations.is_empty(), undecided.is_empty()) {
        (false, _) => Outcome::Violated,
        (_, false) => Outcome::Void,
        _ => Outcome::Holds,
    };
    let total = violations.len() + undecided.len();
    let mut findings: Vec<String> = violations.into_iter().chain(undecided).take(LISTED).collect();
    if total > LISTED {
        findings.push(format!("and {} more", total - LISTED));
    }
    Verdict { rule: rule.to_owned(), outcome, on, findings }
}

/// K1, K2, K3.
fn registers(entries: &[Entry], all: &[Operation], out_of_time: impl FnMut() -> bool) -> Verdict {
    let found = register::judge(entries, all, out_of_time);
    let on = format!(
        "{} operations on {} keys put in an order; {} acknowledged versions compared with what is stored",
        found.operations, found.keys, found.versions
    );
    let undecided = if found.operations == 0 { vec!["there is nothing to judge".to_owned()] } else { found.undecided };
    verdict(
        "K1-K3: secrets are linearizable registers, and what was acknowledged lasts",
        on,
        found.violations,
        undecided,
    )
}

/// K4.
fn policies(all: &[Operation], out_of_time: impl FnMut() -> bool) -> Verdict {
    let policy::Findings { rules, allowed, denied, violations, mut undecided } = policy::judge(all, out_of_time);
    if rules == 0 || allowed == 0 || denied == 0 {
        undecided.push("nothing was permitted, opened and denied: there is nothing to judge".to_owned());
    }
    let on = format!("{rules} acknowledged rules, {allowed} opens and {denied} refusals put in an order");
    verdict("K4: nothing is opened on rules that were gone before it was asked", on, violations, undecided)
}

/// L4, L5, and L1 as its users see it.
fn leases(all: &[Operation]) -> Verdict {
    let lease::Findings { leases, tried, violations } = lease::judge(all);
    let undecided = if tried == 0 { vec!["nothing was tried after an end".to_owned()] } else { Vec::new() };
    let on = format!("{leases} leases; {tried} logins, sessions and renewals tried after their ends");
    verdict(
        "L1, L4, L5: an end is final, at the database too, and each login is of one request",
        on,
        violations,
        undecided,
    )
}

/// L1 in time.
fn overruns(entries: &[Entry], run: &Run) -> Verdict {
    let overrun::Findings { undisturbed, overruns, longest, worst, violations, undecided } =
        overrun::judge(entries, run.nodes);
    let on = format!(
        "{undisturbed} s in which a leader, a majority and the database were there; {overruns} logins outlived their leases by a second and \
         more, by {worst} ms at most, of which {longest} ms in one such stretch"
    );
    let promised = overrun::PROMISED / 1_000;
    let rule =
        format!("L1: no login lives on for {promised} s in which a leader, a majority and the database are there");
    verdict(&rule, on, violations, undecided)
}

/// T1, and L6 as its users see it.
fn times(entries: &[Entry], all: &[Operation]) -> Verdict {
    let time::Findings { said, tried, behind, violations, undecided } = time::judge(entries, all);
    let on = format!(
        "{said} times that members said, {behind} ms behind at most; {tried} leases tried before the end that was promised"
    );
    verdict(
        "T1, L6: cluster time is never ahead of a clock that is right, and no lease ends before its time",
        on,
        violations,
        undecided,
    )
}

/// No member lies here: a client has nothing to complain of but that nobody answers.
fn answers(all: &[Operation]) -> Verdict {
    let wrong = all.iter().filter_map(|operation| match &operation.back {
        Some((_, Answer::Wrong { code, message })) => {
            Some(format!("operation {} ({}): {code}: {message}", operation.number, operation.action.name()))
        }
        _ => None,
    });
    let on = format!("{} operations", all.len());
    verdict("answers are never wrong, of another label, or unopenable", on, wrong.collect(), Vec::new())
}

/// The states that were attested at a log index, each as the hash of the log and that of the state, and by which members.
type Attested<'a> = (BTreeSet<(&'a str, &'a str)>, BTreeSet<u8>);

/// K5.
fn agreement(entries: &[Entry], run: &Run) -> Verdict {
    let mut at: BTreeMap<u64, Attested<'_>> = BTreeMap::new();
    for entry in entries {
        if let Event::State { member, index, log, state } = &entry.event {
            let (states, members) = at.entry(*index).or_default();
            states.insert((log, state));
            members.insert(*member);
        }
    }
    let differ = at.iter().filter(|(_, (states, _))| states.len() > 1);
    let differ = differ.map(|(index, (states, _))| format!("at log index {index} there are {} states", states.len()));
    let whole = at.values().filter(|(_, members)| members.len() >= usize::from(run.nodes)).count();
    let compared = at.values().filter(|(_, members)| members.len() > 1).count();
    let mut undecided = Vec::new();
    if whole == 0 {
        undecided.push("there is no log index that every member has attested".to_owned());
    }
    let on = format!("signed attestations compared at {compared} log indexes, at {whole} of them of all members");
    verdict("K5: members that have applied the same entries have the same state", on, differ.collect(), undecided)
}

/// Processes end when they are told to, or by a fault.
fn ends(entries: &[Entry]) -> Verdict {
    let died = entries.iter().filter_map(|entry| match &entry.event {
        Event::Died { member, how } => {
            Some(format!("member {member} ended by itself at {} ms: {how}", entry.at / 1_000_000))
        }
        _ => None,
    });
    verdict("no process ends by itself", "all processes, all the time".to_owned(), died.collect(), Vec::new())
}

/// Once no fault is at work everything comes right: what is asked is answered.
fn recovery(entries: &[Entry], all: &[Operation]) -> Verdict {
    let phase = |wanted: &str| {
        entries.iter().find_map(|entry| match &entry.event {
            Event::Phase { name } if name == wanted => Some(entry.at),
            _ => None,
        })
    };
    let rule = "when all faults have ended, everything is answered again";
    let Some(from) = phase("liveness") else {
        return verdict(rule, "the phase was never reached".to_owned(), Vec::new(), vec!["not reached".to_owned()]);
    };
    let Some(settled) = phase("settled") else {
        let what = "no leader, or not every member, came back in time".to_owned();
        return verdict(rule, "a minute without faults".to_owned(), vec![what], Vec::new());
    };
    let late: Vec<&Operation> = all.iter().filter(|operation| operation.call >= settled).collect();
    let failed = late.iter().filter(|operation| !operation.answered());
    let failed: Vec<String> = failed
        .map(|o| format!("operation {} ({}) was not answered: {:?}", o.number, o.action.name(), o.back))
        .collect();
    let undecided = if late.is_empty() { vec!["nothing was asked".to_owned()] } else { Vec::new() };
    let on = format!(
        "all members back {} ms after the last fault; {} operations then",
        (settled - from) / 1_000_000,
        late.len()
    );
    verdict(rule, on, failed, undecided)
}

/// R1: an operator restarts all members one after the other, and no client notices.
fn undisturbed(entries: &[Entry], all: &[Operation]) -> Verdict {
    let rounds = tally(entries).get(Kind::Rolling.name()).map_or(0, |tally| tally.effective);
    let failed = all.iter().filter(|operation| !operation.answered());
    let failed = failed.map(|o| format!("operation {} ({}): {:?}", o.number, o.action.name(), o.back));
    let on = format!("{rounds} times all members restarted one after the other; {} operations", all.len());
    verdict("R1: restarts of all members one after the other are no client's error", on, failed.collect(), Vec::new())
}

/// What a checker outside of this program has said.
fn outside(entry: &Entry) -> Option<Verdict> {
    let Event::Judged { by, outcome, said, numbers } = &entry.event else { return None };
    let on: Vec<String> = numbers.iter().map(|(name, number)| format!("{number} {name}")).collect();
    let findings = if *outcome == Outcome::Holds { Vec::new() } else { vec![said.clone()] };
    Some(Verdict { rule: by.clone(), outcome: *outcome, on: on.join(", "), findings })
}

/// Whether the run has done enough to prove anything.
fn enough(entries: &[Entry], all: &[Operation], run: &Run, faults: &BTreeMap<String, Tally>) -> Verdict {
    let mut short = Vec::new();
    let answered = u64::try_from(all.iter().filter(|operation| operation.answered()).count()).unwrap_or(0);
    if answered < run.floors.operations {
        short.push(format!("{answered} operations were answered, and {} have to be", run.floors.operations));
    }
    if run.nemeses.is_empty() {
        short.push("no nemesis was at work".to_owned());
    }
    for kind in &run.nemeses {
        let effective = faults.get(kind).map_or(0, |tally| tally.effective);
        if effective < run.floors.each.max(1) {
            short.push(format!(
                "{effective} faults of kind {kind} were seen to bite, and {} have to be",
                run.floors.each
            ));
        }
    }
    for entry in entries {
        if let Event::Broken { why } = &entry.event {
            short.push(format!("the harness itself, at {} ms: {why}", entry.at / 1_000_000));
        }
    }
    let on = format!("{answered} answered operations of {}", all.len());
    verdict("the run has done enough to prove anything", on, Vec::new(), short)
}

/// Counts faults by kind.
pub(crate) fn tally(entries: &[Entry]) -> BTreeMap<String, Tally> {
    let mut all: BTreeMap<String, Tally> = BTreeMap::new();
    let mut kinds: BTreeMap<u32, &str> = BTreeMap::new();
    for entry in entries {
        match &entry.event {
            Event::Fault { fault, kind, .. } => {
                kinds.insert(*fault, kind);
                all.entry(kind.clone()).or_default().begun += 1;
            }
            Event::Healed { fault, seen, .. } => {
                let Some(tally) = kinds.get(fault).and_then(|kind| all.get_mut(*kind)) else { continue };
                tally.effective += u64::from(seen.values().any(|count| *count > 0));
                for (what, count) in seen {
                    // Where it was seen stands in the history.
                    let what = what.split(" at ").next().unwrap_or(what);
                    *tally.seen.entry(what.to_owned()).or_default() += count;
                }
            }
            _ => {}
        }
    }
    debug_assert!(all.keys().all(|kind| Kind::parse(kind).is_ok()), "{:?}", all.keys());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{Action, Floors, Version};

    /// A history of which nothing is to be said against.
    fn good() -> Vec<Event> {
        let key = || "k".to_owned();
        let run = Run {
            nodes: 2,
            workloads: vec!["register".to_owned()],
            nemeses: vec!["kill".to_owned()],
            floors: Floors { operations: 2, each: 1 },
            ..Run::default()
        };
        let state = |member| Event::State { member, index: 9, log: "l".to_owned(), state: "s".to_owned() };
        let phase = |name: &str| Event::Phase { name: name.to_owned() };
        vec![
            Event::Run(run),
            phase("faults"),
            Event::Fault { fault: 1, kind: "kill".to_owned(), what: String::new(), victims: vec![1] },
            Event::Invoke { op: 1, client: 1, action: Action::Put { key: key(), value: 1, cas: None } },
            Event::Return { op: 1, answer: Answer::Stored { number: 1, index: 5 } },
            Event::Healed { fault: 1, seen: BTreeMap::from([("processes ended".to_owned(), 1)]), note: String::new() },
            phase("liveness"),
            phase("settled"),
            Event::Invoke { op: 2, client: 1, action: Action::Get { key: key() } },
            Event::Return { op: 2, answer: Answer::Value { number: 1, value: 1 } },
            Event::Kept { key: key(), versions: vec![Version { number: 1, index: 5, value: Some(1) }] },
            state(1),
            state(2),
        ]
    }

    fn judged(mut events: Vec<Event>) -> Judgement {
        events.push(Event::Time { member: 1, cluster: 1_000, wall: 1_000 });
        let entries: Vec<Entry> = (1..).zip(events).map(|(at, event)| Entry { at, event }).collect();
        judge(&entries, || false)
    }

    fn broken(change: impl FnOnce(&mut Vec<Event>), outcome: Outcome, what: &str) {
        let mut events = good();
        change(&mut events);
        let judgement = judged(events);
        assert_eq!(judgement.outcome, outcome, "{what}: {:?}", judgement.verdicts);
        let found = judgement.verdicts.iter().flat_map(|verdict| &verdict.findings).any(|f| f.contains(what));
        assert!(found, "`{what}` is among: {:?}", judgement.verdicts);
    }

    #[test]
    fn a_good_run_holds() {
        let judgement = judged(good());
        assert_eq!(judgement.outcome, Outcome::Holds, "{:?}", judgement.verdicts);
        assert_eq!(judgement.effective, 1);
    }

    #[test]
    fn a_run_that_did_too_little_is_void() {
        broken(|e| e[0] = Event::Run(Run { nodes: 2, ..Run::default() }), Outcome::Void, "no nemesis was at work");
        broken(
            |e| e[5] = Event::Healed { fault: 1, seen: BTreeMap::from([("x".to_owned(), 0)]), note: String::new() },
            Outcome::Void,
            "0 faults of kind kill were seen to bite",
        );
        broken(|e| drop(e.drain(3..5)), Outcome::Violated, "not linearizable");
        broken(
            |e| {
                let Event::Run(run) = &mut e[0] else { panic!("the run") };
                run.floors.operations = 3;
            },
            Outcome::Void,
            "2 operations were answered, and 3 have to be",
        );
        broken(|e| e.push(Event::Broken { why: "nft refused".to_owned() }), Outcome::Void, "nft refused");
        broken(|e| drop(e.drain(10..11)), Outcome::Void, "what is left of it is not known");
        broken(|e| drop(e.pop()), Outcome::Void, "no log index that every member has attested");
    }

    #[test]
    fn states_that_differ_processes_that_end_and_silence_afterwards_are_violations() {
        broken(
            |e| e[12] = Event::State { member: 2, index: 9, log: "l".to_owned(), state: "other".to_owned() },
            Outcome::Violated,
            "at log index 9 there are 2 states",
        );
        broken(
            |e| e.push(Event::Died { member: 2, how: "exit status: 70".to_owned() }),
            Outcome::Violated,
            "member 2 ended by itself",
        );
        broken(
            |e| e[9] = Event::Return { op: 2, answer: Answer::Unanswered { code: "no_leader".to_owned() } },
            Outcome::Violated,
            "operation 2 (get) was not answered",
        );
        broken(|e| drop(e.drain(7..8)), Outcome::Violated, "came back in time");
        broken(
            |e| {
                e[9] = Event::Return {
                    op: 2,
                    answer: Answer::Wrong { code: "bad_answer".to_owned(), message: "m".to_owned() },
                }
            },
            Outcome::Violated,
            "bad_answer",
        );
    }

    #[test]
    fn one_error_while_members_are_restarted_is_a_violation() {
        let rolling = |e: &mut Vec<Event>| {
            let Event::Run(run) = &mut e[0] else { panic!("the run") };
            run.nemeses = vec!["rolling".to_owned()];
            e[2] = Event::Fault { fault: 1, kind: "rolling".to_owned(), what: String::new(), victims: vec![1, 2] };
        };
        let mut events = good();
        rolling(&mut events);
        assert_eq!(judged(events).outcome, Outcome::Holds);
        let lost = |e: &mut Vec<Event>| {
            rolling(e);
            let asked = Event::Invoke { op: 3, client: 1, action: Action::Get { key: "k".to_owned() } };
            e.insert(5, Event::Return { op: 3, answer: Answer::Unanswered { code: "no_leader".to_owned() } });
            e.insert(5, asked);
        };
        broken(lost, Outcome::Violated, "operation 3 (get)");
        // Where faults are at work that no client is promised anything in, it is none.
        let mut events = good();
        lost(&mut events);
        let Event::Run(run) = &mut events[0] else { panic!("the run") };
        run.nemeses = vec!["kill".to_owned()];
        events[2] = Event::Fault { fault: 1, kind: "kill".to_owned(), what: String::new(), victims: vec![1] };
        assert_eq!(judged(events).outcome, Outcome::Holds);
    }

    #[test]
    fn what_an_outside_checker_says_counts() {
        let said = |outcome| Event::Judged {
            by: "auditor".to_owned(),
            outcome,
            said: "an orphan".to_owned(),
            numbers: BTreeMap::new(),
        };
        broken(|e| e.push(said(Outcome::Violated)), Outcome::Violated, "an orphan");
        broken(|e| e.push(said(Outcome::Void)), Outcome::Void, "an orphan");
        let mut events = good();
        events.push(said(Outcome::Holds));
        assert_eq!(judged(events).outcome, Outcome::Holds);
    }
}
