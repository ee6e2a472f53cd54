//! What was seen of one side, in milliseconds since 1970 by the one clock of the machine: all that the judge goes by, one JSON object on a line.

use crate::lab::lock;
use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex};

/// Milliseconds since 1970.
pub(crate) type Millis = u64;

/// One thing that was seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "fact", rename_all = "kebab-case")]
pub(crate) enum Fact {
    /// What this is about: the first line.
    Part { side: String, version: String, seed: u64, number: u64, seconds: u64, outage: bool },
    /// A login was handed out, with the end that it was said to have.
    Issued { lease: String, login: String, asked: Millis, at: Millis, ends: Millis },
    /// None was: refused, or nobody knows.
    NotIssued { asked: Millis, at: Millis, known: bool, why: String },
    /// Another end was asked for. Without `ends` it was refused, or, with `unknown`, may have come about up to `latest`.
    Renewed { lease: String, asked: Millis, at: Millis, ends: Option<Millis>, unknown: bool, latest: Millis },
    /// Its end is asked for.
    Ending { lease: String, at: Millis },
    /// The vault says that it is over: that it was ended at the database, or that there is no such lease any more.
    Over { lease: String, at: Millis },
    /// A user tried to log in at the database, with a session from then on if `let_in`.
    Login { lease: String, asked: Millis, let_in: bool },
    /// The database, as its superuser sees it.
    Look { from: Millis, to: Millis, roles: BTreeMap<String, bool>, sessions: Vec<String> },
    /// It showed nothing.
    Blind { from: Millis, to: Millis },
    /// A secret was written, or not.
    Write { asked: Millis, at: Millis, done: bool },
    /// A fault, and how much of it was seen at its victim.
    Fault { kind: String, what: String, at: Millis, until: Millis, seen: u64 },
    /// No fault is at work from here on, and nobody asks for anything new.
    Quiet { at: Millis },
    /// What the vault lists in the end: leases that are not over, those that it has given up, and the logins of those whose login it says.
    Left { leases: Vec<String>, given_up: u64, logins: Vec<String> },
}

/// Where facts are put down.
#[derive(Debug, Clone, Default)]
pub(crate) struct Story(Arc<Mutex<Vec<Fact>>>);

impl Story {
    /// Puts one down.
    pub(crate) fn note(&self, fact: Fact) {
        lock(&self.0).push(fact);
    }

    /// The roles that the newest look saw.
    pub(crate) fn newest(&self) -> Option<BTreeMap<String, bool>> {
        lock(&self.0).iter().rev().find_map(|fact| match fact {
            Fact::Look { roles, .. } => Some(roles.clone()),
            _ => None,
        })
    }

    /// Writes all of them.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let mut file = std::io::BufWriter::new(std::fs::File::create_new(path)?);
        for fact in lock(&self.0).iter() {
            writeln!(file, "{}", serde_json::to_string(fact)?)?;
        }
        Ok(file.flush()?)
    }
}

/// Reads them again.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Fact>> {
    let file = std::fs::File::open(path).with_context(|| path.display().to_string())?;
    std::io::BufReader::new(file)
        .lines()
        .map(|line| serde_json::from_str(&line?).with_context(|| path.display().to_string()))
        .collect()
}
