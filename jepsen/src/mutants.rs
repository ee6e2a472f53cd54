//! Members that are broken on purpose, to see that it is found out: which there are, what finds each, and the command that tries them all.
//!
//! One breaks what the kernel does for members. The others are bugs of the vault itself that only a build with `failpoints` has
//! (`crates/server/src/planted.rs`); a member is told of its bug by a file.

use crate::history::Outcome;
use crate::lab::HOME;
use anyhow::Context as _;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Where members look for what is planted.
const FILE: &str = "planted";

/// One of them.
#[derive(Debug)]
pub(crate) struct Mutant {
    pub(crate) name: &'static str,
    /// What is broken in it.
    about: &'static str,
    /// The line that plants it; none for syncs that do nothing, which strace sees to.
    planted: Option<&'static str>,
    /// The run that finds it, and how the rule begins that finds it.
    run: [&'static str; 3],
    rule: &'static str,
}

/// All of them.
pub(crate) const ALL: &[Mutant] = &[
    Mutant {
        name: "no-sync",
        about: "syncs do nothing, and say that they have",
        planted: None,
        run: ["kill,power", "register,policy", "0.4"],
        rule: "A1, A2",
    },
    Mutant {
        name: "no-request-table",
        about: "a request that comes again takes effect again",
        planted: Some("bug.twice=on"),
        run: ["kill,pause,partition", "register,policy", "0.5"],
        rule: "K1-K3",
    },
    Mutant {
        name: "answer-before-audit",
        about: "what was decided is done, and recorded two seconds later",
        planted: Some("bug.unrecorded=on"),
        run: ["kill,pause,partition", "register,policy", "0.5"],
        rule: "A1, A2",
    },
    Mutant {
        name: "no-session-kill",
        about: "the end of a lease leaves its sessions alone, and does not look for them",
        planted: Some("bug.sessions=on"),
        run: ["kill,pause,partition", "register,lease", "0.5"],
        rule: "L1, L4, L5",
    },
    Mutant {
        name: "create-before-intent",
        about: "the login is made two seconds before its intent is in the log",
        planted: Some("bug.early=on"),
        run: ["kill,pause,partition", "register,lease", "0.5"],
        rule: "L1, L2, L6",
    },
    Mutant {
        name: "stale-read",
        about: "a member answers a read without waiting for what its own log holds",
        planted: Some("bug.stale=on"),
        run: ["delay,pause,partition", "register", "0.5"],
        rule: "K1-K3",
    },
    Mutant {
        name: "old-rules",
        about: "decisions go by the rules of two seconds ago",
        planted: Some("bug.rules=on"),
        run: ["kill,pause,partition", "register,policy", "0.5"],
        rule: "K4",
    },
    Mutant {
        name: "honoured-after-end",
        about: "a lease that is being ended is renewed as if it were not",
        planted: Some("bug.honoured=on"),
        run: ["kill,pause,partition", "register,lease", "0.5"],
        rule: "L1, L4, L5",
    },
    Mutant {
        name: "own-clock",
        about: "leases expire by the wall clock of whoever leads",
        planted: Some("bug.clock=on"),
        run: ["clock,kill", "register,lease", "0.6"],
        rule: "T1",
    },
    Mutant {
        name: "sync-again",
        about: "a sync of the audit log that failed is tried again, and then taken for one that did not",
        planted: Some("bug.again=on"),
        run: ["sync-error", "register,policy", "0.5"],
        rule: "A1, A2",
    },
];

/// Bugs that another test finds better than a run of this program does, what is broken, and the test, which plants it too.
const ELSEWHERE: &[[&str; 3]] = &[
    ["bug.fence", "an intent is proved revoked while its CREATE may be on the way", "tests/tests/e2e_auditor/bugs.rs"],
    ["bug.number", "sessions of a role that was dropped are looked for by its name", "tests/tests/e2e_auditor/bugs.rs"],
    [
        "bug.adopt",
        "a stray is dropped at the target by a leader that knows too little",
        "tests/tests/e2e_auditor/bugs.rs",
    ],
];

impl Mutant {
    /// The one of a name.
    pub(crate) fn named(name: &str) -> Option<&'static Self> {
        ALL.iter().find(|mutant| mutant.name == name)
    }

    /// Whether its syncs do nothing.
    pub(crate) fn pretends(&self) -> bool {
        self.planted.is_none()
    }

    /// The variable that tells members of the file that plants it, which is not there yet.
    pub(crate) fn told(&self) -> Option<(String, String)> {
        self.planted.map(|_| ("FAILPOINT_FILE".to_owned(), Path::new(HOME).join(FILE).display().to_string()))
    }

    /// Plants it: in a cluster that is set up, since some could not be.
    pub(crate) fn plant(&self) -> anyhow::Result<()> {
        let Some(line) = self.planted else { return Ok(()) };
        Ok(std::fs::write(Path::new(HOME).join(FILE), format!("{line}\n"))?)
    }

    /// What follows `chaos run` for the run that finds it; `planted` or not.
    pub(crate) fn arguments(&self, seed: u64, out: &Path, planted: bool) -> Vec<String> {
        let [nemeses, workloads, minutes] = self.run;
        let (seed, out) = (seed.to_string(), out.display().to_string());
        let pairs = [
            ("--seed", seed.as_str()),
            ("--nemeses", nemeses),
            ("--workloads", workloads),
            ("--minutes", minutes),
            ("--out", out.as_str()),
        ];
        let mutant = planted.then_some(("--mutant", self.name));
        pairs.into_iter().chain(mutant).flat_map(|(name, value)| [name.to_owned(), value.to_owned()]).collect()
    }
}

/// What `chaos mutants` is told.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// Where all choices come from, of every run.
    #[arg(long, default_value_t = 29)]
    seed: u64,
    /// Only these, by commas.
    #[arg(long, value_name = "MUTANTS", value_delimiter = ',', value_parser = names())]
    only: Vec<String>,
    /// The program to break, built with `--features failpoints`; `quorate` beside this one otherwise.
    #[arg(long, env = "QUORATE_BIN", value_name = "FILE")]
    program: Option<PathBuf>,
    /// The folder to make for all runs.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// What may be named on the command line.
pub(crate) fn names() -> clap::builder::PossibleValuesParser {
    ALL.iter().map(|mutant| mutant.name).collect::<Vec<_>>().into()
}

/// Runs each twice with the same seed, with the bug and without: the first has to break its rule, the second none. The table of it, and
/// whether all went so.
pub(crate) fn all(options: &Options) -> anyhow::Result<(String, Outcome)> {
    std::fs::create_dir(&options.out).with_context(|| options.out.display().to_string())?;
    let mut table = format!(
        "# Mutants, seed {}\n\n| mutant | | found by | first finding | without it |\n|---|---|---|---|---|\n",
        options.seed
    );
    let mut outcome = Outcome::Holds;
    for mutant in ALL.iter().filter(|m| options.only.is_empty() || options.only.iter().any(|name| name == m.name)) {
        let with = run(mutant, options, true)?;
        let without = run(mutant, options, false)?;
        let found = finding(&with, mutant.rule);
        let green = without.get("outcome").and_then(Value::as_str) == Some("holds");
        if found.is_none() || !green {
            outcome = Outcome::Violated;
        }
        let without = if green { "green" } else { "**not green**" };
        let what = found.as_deref().unwrap_or("**not found**");
        // Writing into a String cannot fail.
        let _ = writeln!(table, "| `{}` | {} | {} | {what} | {without} |", mutant.name, mutant.about, mutant.rule);
        std::fs::write(options.out.join("mutants.md"), &table)?;
    }
    for [name, about, test] in ELSEWHERE {
        let _ = writeln!(table, "| `{name}` | {about} | {test} | not run here | not run here |");
    }
    std::fs::write(options.out.join("mutants.md"), &table)?;
    Ok((table, outcome))
}

/// One run, as a process of its own; its report.
fn run(mutant: &Mutant, options: &Options, planted: bool) -> anyhow::Result<Value> {
    let out = options.out.join(if planted { mutant.name.to_owned() } else { format!("{}-without", mutant.name) });
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("run").args(mutant.arguments(options.seed, &out, planted)).stdout(std::process::Stdio::null());
    if let Some(program) = &options.program {
        command.arg("--program").arg(program);
    }
    let status = command.status()?;
    let report = out.join("report.json");
    let bytes = std::fs::read(&report).with_context(|| format!("a run ended with {status}, without a report"))?;
    Ok(serde_json::from_slice(&bytes)?)
}

/// What the rule of that beginning was found to be broken by.
fn finding(report: &Value, rule: &str) -> Option<String> {
    let verdicts = report.get("verdicts").and_then(Value::as_array)?;
    let broken = |verdict: &&Value| {
        let named = verdict.get("rule").and_then(Value::as_str).is_some_and(|name| name.starts_with(rule));
        named && verdict.get("outcome").and_then(Value::as_str) == Some("violated")
    };
    let said = verdicts.iter().find(broken)?.pointer("/findings/0").and_then(Value::as_str)?;
    Some(said.replace(['\n', '|'], " ").chars().take(160).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_its_own_rule_finds_a_mutant() {
        let verdict = |rule: &str, outcome: &str| json!({"rule": rule, "outcome": outcome, "findings": ["a | b"]});
        let report = json!({"verdicts": [verdict("K1-K3: x", "holds"), verdict("A1: y", "violated")]});
        assert_eq!(finding(&report, "A1").as_deref(), Some("a   b"));
        assert_eq!(finding(&report, "K1-K3"), None, "it holds");
        assert_eq!(finding(&report, "L1"), None, "it was not judged");
    }
}
