//! Several runs as one table: what they have done together, and each with what repeats it. Made from `report.json` alone.

use super::parts;
use crate::history::Outcome;
use anyhow::Context as _;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

#[derive(Debug, Default, Deserialize)]
struct Ran {
    seed: u64,
    nodes: u8,
    seconds: u64,
    workloads: Vec<String>,
    nemeses: Vec<String>,
    #[serde(default)]
    commit: Option<String>,
    again: String,
}

#[derive(Debug, Deserialize)]
struct Verdict {
    rule: String,
    outcome: Outcome,
    findings: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Tally {
    effective: u64,
}

#[derive(Debug, Deserialize)]
struct Count {
    ok: u64,
    refused: u64,
    unknown: u64,
}

#[derive(Debug, Default, Deserialize)]
struct Gaps {
    changes: Vec<u64>,
    questions: Vec<u64>,
}

#[derive(Debug, Deserialize)]
struct Report {
    run: Ran,
    outcome: Outcome,
    verdicts: Vec<Verdict>,
    faults: BTreeMap<String, Tally>,
    operations: BTreeMap<String, Count>,
    #[serde(default)]
    failovers: BTreeMap<String, Gaps>,
}

impl Report {
    fn answered(&self) -> u64 {
        self.operations.values().map(|count| count.ok + count.refused).sum()
    }

    fn credentials(&self) -> u64 {
        self.operations.get("issue").map_or(0, |count| count.ok)
    }

    fn faults(&self) -> u64 {
        self.faults.values().map(|tally| tally.effective).sum()
    }
}

/// The table of runs, by their folders, and whether each of them holds.
///
/// # Errors
/// If a folder has no `report.json`, or one that no run has written.
pub(crate) fn table(folders: &[PathBuf]) -> anyhow::Result<(String, Outcome)> {
    let mut reports = Vec::new();
    for folder in folders {
        let file = folder.join("report.json");
        let bytes = std::fs::read(&file).with_context(|| file.display().to_string())?;
        let report: Report = serde_json::from_slice(&bytes).with_context(|| file.display().to_string())?;
        reports.push(report);
    }
    Ok(of(&reports))
}

fn of(reports: &[Report]) -> (String, Outcome) {
    let mut text = String::new();
    let sum = |of: &dyn Fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
    let unknown = sum(&|report| report.operations.values().map(|count| count.unknown).sum());
    let mut kinds: BTreeMap<&str, u64> = BTreeMap::new();
    let mut ways: BTreeMap<&str, Gaps> = BTreeMap::new();
    for report in reports {
        for (kind, tally) in &report.faults {
            *kinds.entry(kind).or_default() += tally.effective;
        }
        for (way, gaps) in &report.failovers {
            let all = ways.entry(way).or_default();
            all.changes.extend(&gaps.changes);
            all.questions.extend(&gaps.questions);
        }
    }
    let kinds: Vec<String> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
    let red = reports.iter().filter(|report| report.outcome == Outcome::Violated).count();
    let void = reports.iter().filter(|report| report.outcome == Outcome::Void).count();
    // Writing into a String cannot fail.
    let _ = write!(
        text,
        "| together | |\n|---|---|\n| runs, seconds with faults | {}, {} |\n| answered operations, all judged | {} |\n| operations whose outcome nobody was told | {unknown} |\n\
         | credentials issued | {} |\n| faults seen to bite | {} |\n| of which | {} |\n| runs that broke a rule | {red} |\n| runs that prove nothing | {void} |\n",
        reports.len(),
        sum(&|report| report.run.seconds),
        sum(&Report::answered),
        sum(&Report::credentials),
        sum(&Report::faults),
        kinds.join(", "),
    );
    for (way, gaps) in &mut ways {
        gaps.changes.sort_unstable();
        gaps.questions.sort_unstable();
        let ([a, b, c], [d, e, f]) = (parts(&gaps.changes), parts(&gaps.questions));
        let _ = writeln!(
            text,
            "| leaders that were {way}: {} | no change answered for {a} ms (median), {b} ms (p99), {c} ms (longest); no question for {d}, {e}, {f} ms |",
            gaps.changes.len()
        );
    }
    text.push_str("\n| commit | seed | members | s | nemeses | workloads | answered | credentials | faults | |\n|---|---|---|---|---|---|---|---|---|---|\n");
    for report in reports {
        let Ran { seed, nodes, seconds, workloads, nemeses, commit, .. } = &report.run;
        let nemeses = if nemeses.len() > 3 { format!("{} kinds", nemeses.len()) } else { nemeses.join(", ") };
        let said = match report.outcome {
            Outcome::Holds => "holds".to_owned(),
            other => {
                let first = report.verdicts.iter().find(|verdict| verdict.outcome == other);
                let (rule, finding) = first.map_or(("", ""), |v| (&v.rule, v.findings.first().map_or("", |f| f)));
                let finding: String = finding.replace(['\n', '|'], " ").chars().take(160).collect();
                format!("**{other:?}**: {rule}: {finding}")
            }
        };
        let commit = commit.as_deref().unwrap_or("");
        let (answered, credentials, faults) = (report.answered(), report.credentials(), report.faults());
        let _ = writeln!(
            text,
            "| {commit} | {seed} | {nodes} | {seconds} | {nemeses} | {} | {answered} | {credentials} | {faults} | {said} |",
            workloads.join(", "),
        );
    }
    text.push_str("\nAgain:\n\n```sh\n");
    for report in reports {
        let _ = writeln!(text, "{}", report.run.again);
    }
    text.push_str("```\n");
    let outcome = match (red, void) {
        (0, 0) => Outcome::Holds,
        (0, _) => Outcome::Void,
        _ => Outcome::Violated,
    };
    (text, outcome)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn report(seed: u64, outcome: &str) -> Report {
        serde_json::from_value(json!({
            "run": {"seed": seed, "nodes": 3, "seconds": 60, "workloads": ["register"], "nemeses": ["kill"], "again": format!("chaos run --seed {seed}")},
            "outcome": outcome,
            "verdicts": [{"rule": "K1-K3: secrets", "outcome": outcome, "findings": ["version 3 | is gone"]}],
            "faults": {"kill": {"effective": 2}},
            "operations": {"put": {"ok": 10, "refused": 3, "unknown": 1}, "issue": {"ok": 4, "refused": 0, "unknown": 0}},
            "failovers": {"killed": {"changes": [seed], "questions": [1]}},
        }))
        .unwrap()
    }

    #[test]
    fn runs_are_added_up_and_none_that_is_not_green_is_left_out() {
        let (text, outcome) = of(&[report(7, "holds"), report(9, "holds")]);
        assert_eq!(outcome, Outcome::Holds);
        for line in [
            "| answered operations, all judged | 34 |",
            "| credentials issued | 8 |",
            "| faults seen to bite | 4 |",
            "| leaders that were killed: 2 | no change answered for 9 ms (median), 9 ms (p99), 9 ms (longest)",
            "chaos run --seed 7\n",
        ] {
            assert!(text.contains(line), "`{line}` is in:\n{text}");
        }
        let (text, outcome) = of(&[report(7, "holds"), report(9, "violated")]);
        assert_eq!(outcome, Outcome::Violated);
        assert!(text.contains("**Violated**: K1-K3: secrets: version 3   is gone"), "{text}");
        assert_eq!(of(&[report(9, "void")]).1, Outcome::Void);
    }
}
