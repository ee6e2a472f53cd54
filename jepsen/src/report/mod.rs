//! What a run was, for people and for programs: `report.md`, `report.json`, `latency.svg`, all from its history.

mod plot;
pub(crate) mod sum;

use crate::check::{Judgement, Verdict};
use crate::history::{Answer, Entry, Event, Nanos, Operation, Outcome, Run, operations};
use crate::nemesis::Kind;
use anyhow::Context as _;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

/// Nothing was answered for so long: an outage, in nanoseconds.
const OUTAGE: Nanos = 1_000_000_000;

/// Operations of one kind.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Count {
    pub(crate) ok: u64,
    pub(crate) refused: u64,
    pub(crate) unknown: u64,
    pub(crate) wrong: u64,
    /// Of those that were answered, in microseconds: the middle, the 99th of a hundred, the longest.
    pub(crate) micros: [u64; 3],
}

/// A time without an answer to any operation of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Outage {
    pub(crate) from_ms: u64,
    pub(crate) ms: u64,
}

/// How long nothing of a kind was answered around each loss of a leader, in milliseconds, shortest first.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Gaps {
    pub(crate) changes: Vec<u64>,
    pub(crate) questions: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Report<'a> {
    run: &'a Run,
    #[serde(flatten)]
    judgement: &'a Judgement,
    operations: BTreeMap<&'static str, Count>,
    outages: BTreeMap<&'static str, Vec<Outage>>,
    /// By how the leader was lost.
    failovers: BTreeMap<String, Gaps>,
}

/// Writes all three into a folder.
pub(crate) fn write(folder: &Path, entries: &[Entry], judgement: &Judgement) -> anyhow::Result<String> {
    let run = entries.iter().find_map(|entry| match &entry.event {
        Event::Run(run) => Some(run),
        _ => None,
    });
    let run = run.context("the history does not say what was run")?;
    let all = operations(entries);
    let (outages, failovers) = (outages(entries, &all), failovers(entries, &all));
    let report = Report { run, judgement, operations: counts(&all), outages, failovers };
    let text = markdown(&report);
    std::fs::write(folder.join("report.json"), serde_json::to_string_pretty(&report)?)?;
    std::fs::write(folder.join("report.md"), &text)?;
    std::fs::write(folder.join("latency.svg"), plot::draw(entries, &all, &report.outages))?;
    Ok(text)
}

fn counts(all: &[Operation]) -> BTreeMap<&'static str, Count> {
    let mut counts: BTreeMap<&'static str, (Count, Vec<u64>)> = BTreeMap::new();
    for operation in all {
        let (count, times) = counts.entry(operation.action.name()).or_default();
        let Some((at, answer)) = &operation.back else {
            count.unknown += 1;
            continue;
        };
        match answer {
            Answer::Unknown { .. } | Answer::Unanswered { .. } => count.unknown += 1,
            Answer::Wrong { .. } => count.wrong += 1,
            Answer::Refused { .. } => count.refused += 1,
            _ => count.ok += 1,
        }
        if operation.answered() {
            times.push(at.saturating_sub(operation.call) / 1_000);
        }
    }
    let finished = counts.into_iter().map(|(name, (mut count, mut times))| {
        times.sort_unstable();
        count.micros = parts(&times);
        (name, count)
    });
    finished.collect()
}

/// Times in the phase of faults in which no change, or no question, was answered.
fn outages(entries: &[Entry], all: &[Operation]) -> BTreeMap<&'static str, Vec<Outage>> {
    let phase = |wanted: &str| {
        entries.iter().find_map(|entry| match &entry.event {
            Event::Phase { name } if name == wanted => Some(entry.at),
            _ => None,
        })
    };
    let (Some(from), to) = (phase("faults"), phase("liveness")) else { return BTreeMap::new() };
    let to = to.or_else(|| entries.last().map(|entry| entry.at)).unwrap_or(from);
    let of = |changes: bool| {
        let mut ends = answers(all, changes);
        ends.retain(|at| (from..to).contains(at));
        ends.push(to);
        let mut last = from;
        let mut found = Vec::new();
        for end in ends {
            if end - last > OUTAGE {
                found.push(Outage { from_ms: last / 1_000_000, ms: (end - last) / 1_000_000 });
            }
            last = end;
        }
        found
    };
    BTreeMap::from([("changes", of(true)), ("questions", of(false))])
}

/// When changes, or questions, were answered, in order.
fn answers(all: &[Operation], changes: bool) -> Vec<Nanos> {
    let answered = all.iter().filter(|o| o.answered() && o.action.changes() == changes);
    let mut ends: Vec<Nanos> = answered.filter_map(|o| o.back.as_ref().map(|(at, _)| *at)).collect();
    ends.sort_unstable();
    ends
}

/// The longest time without an answer that begins or goes on after a leader was lost, and before all was well again.
fn failovers(entries: &[Entry], all: &[Operation]) -> BTreeMap<String, Gaps> {
    let mut found: BTreeMap<String, Gaps> = BTreeMap::new();
    let ends = [true, false].map(|changes| answers(all, changes));
    let mut lost: Option<(Nanos, &str)> = None;
    for entry in entries {
        match &entry.event {
            Event::Fault { kind, what, .. } if kind == Kind::LostLeader.name() => lost = Some((entry.at, what)),
            Event::Healed { .. } => {
                let Some((from, what)) = lost.take() else { continue };
                let gap = |ends: &[Nanos]| {
                    // From the last answer before it on.
                    let first = ends.partition_point(|at| *at < from).saturating_sub(1);
                    let during = ends.iter().skip(first).take_while(|at| **at < entry.at);
                    let pairs = during.clone().zip(during.skip(1).chain([&entry.at]));
                    pairs.map(|(one, next)| next.saturating_sub(*one)).max().unwrap_or(entry.at - from) / 1_000_000
                };
                let gaps = found.entry(what.to_owned()).or_default();
                gaps.changes.push(gap(&ends[0]));
                gaps.questions.push(gap(&ends[1]));
            }
            _ => {}
        }
    }
    for gaps in found.values_mut() {
        gaps.changes.sort_unstable();
        gaps.questions.sort_unstable();
    }
    found
}

/// The middle, the 99th of a hundred and the last of what is sorted.
fn parts(sorted: &[u64]) -> [u64; 3] {
    let part = |hundredths: usize| sorted.get((sorted.len() * hundredths / 100).min(sorted.len().saturating_sub(1)));
    [part(50), part(99), sorted.last()].map(|value| value.copied().unwrap_or(0))
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Holds => "holds",
        Outcome::Violated => "**VIOLATED**",
        Outcome::Void => "**void**",
    }
}

fn markdown(report: &Report<'_>) -> String {
    let Report { run, judgement, .. } = report;
    let mut text = String::new();
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "# chaos, seed {}: {}\n\n{} members, {} clients, {} s of faults; {}. {} faults were seen to bite; the leader changed {} times.\n\n\
         Again: `{}`\n\n## Rules\n\n| rule | | what it rests on |\n|---|---|---|\n",
        run.seed,
        word(judgement.outcome),
        run.nodes,
        run.clients,
        run.seconds,
        run.program,
        judgement.effective,
        judgement.leaders,
        run.again,
    );
    for Verdict { rule, outcome, on, .. } in &judgement.verdicts {
        let _ = writeln!(text, "| {rule} | {} | {on} |", word(*outcome));
    }
    for Verdict { rule, findings, .. } in judgement.verdicts.iter().filter(|verdict| !verdict.findings.is_empty()) {
        let _ = writeln!(text, "\n{rule}:");
        for finding in findings {
            let _ = writeln!(text, "- {}", finding.replace('\n', " "));
        }
    }
    text.push_str("\n## Operations\n\n| | ok | refused by rule | unknown | wrong | median ms | p99 ms | longest ms |\n|---|---|---|---|---|---|---|---|\n");
    for (name, count) in &report.operations {
        let [median, p99, longest] = count.micros.map(millis);
        let Count { ok, refused, unknown, wrong, .. } = count;
        let _ = writeln!(text, "| {name} | {ok} | {refused} | {unknown} | {wrong} | {median} | {p99} | {longest} |");
    }
    text.push_str("\n## Faults\n\n| kind | begun | seen to bite | what was seen |\n|---|---|---|---|\n");
    for (kind, tally) in &judgement.faults {
        let seen: Vec<String> = tally.seen.iter().map(|(what, count)| format!("{count} {what}")).collect();
        let _ = writeln!(text, "| {kind} | {} | {} | {} |", tally.begun, tally.effective, seen.join(", "));
    }
    text.push_str("\n## Outages\n\nTimes of more than a second in which nothing of a kind was answered, while faults were at work.\n\n");
    for (what, outages) in &report.outages {
        let longest = outages.iter().map(|outage| outage.ms).max().unwrap_or(0);
        let total: u64 = outages.iter().map(|outage| outage.ms).sum();
        let _ = writeln!(text, "- {what}: {}, {total} ms together, the longest {longest} ms", outages.len());
    }
    if !report.failovers.is_empty() {
        text.push_str("\n## Leaders that were lost\n\nHow long nothing was answered then, in milliseconds.\n\n| | times | changes: median | p99 | longest | questions: median | p99 | longest |\n|---|---|---|---|---|---|---|---|\n");
    }
    for (way, Gaps { changes, questions }) in &report.failovers {
        let ([a, b, c], [d, e, f]) = (parts(changes), parts(questions));
        let _ = writeln!(text, "| {way} | {} | {a} | {b} | {c} | {d} | {e} | {f} |", changes.len());
    }
    text.push_str("\n![latency](latency.svg)\n");
    text
}

fn millis(micros: u64) -> String {
    format!("{}.{}", micros / 1_000, micros % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Action;

    #[test]
    fn a_lost_leader_is_charged_for_the_time_without_answers() {
        let milli = 1_000_000;
        let lost = |fault, what: &str| Event::Fault {
            fault,
            kind: "lost-leader".to_owned(),
            what: what.to_owned(),
            victims: vec![1],
        };
        let healed = |fault| Event::Healed { fault, seen: BTreeMap::new(), note: String::new() };
        let entry = |at: u64, event| Entry { at: at * milli, event };
        let entries = [
            entry(1_000, lost(1, "killed")),
            entry(3_000, healed(1)),
            entry(5_000, lost(2, "killed")),
            entry(8_000, healed(2)),
            entry(9_000, lost(3, "stopped")),
            entry(9_500, healed(3)),
        ];
        let put = |at: u64| Operation {
            number: at,
            client: 1,
            action: Action::Put { key: "k".to_owned(), value: at, cas: None },
            call: 0,
            back: Some((at * milli, Answer::Stored { number: 1, index: 1 })),
        };
        // 100 ms before until 700 ms after; the second time nothing from 4,900 until it was over; the third time always something.
        let all: Vec<Operation> = [900, 1_700, 1_710, 2_900, 4_900, 8_900, 9_100, 9_300, 9_480].map(put).into();
        let found = failovers(&entries, &all);
        assert_eq!(found["killed"].changes, [1_190, 3_100]);
        assert_eq!(found["killed"].questions, [2_000, 3_000], "no question was ever answered");
        assert_eq!(found["stopped"].changes, [200]);
    }
}
