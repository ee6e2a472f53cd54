//! What happened in a run, in the order in which this program saw it: one JSON object on a line. Everything that a checker or the report
//! says follows from it, so that `chaos check` says the same again.

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Nanoseconds since the run began, by a clock that never goes back.
pub(crate) type Nanos = u64;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Entry {
    /// When it was seen.
    pub(crate) at: Nanos,
    /// What.
    #[serde(flatten)]
    pub(crate) event: Event,
}

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub(crate) enum Event {
    /// What was run: always the first line.
    Run(Run),
    /// A phase begins: `faults`, `liveness`, `end`.
    Phase { name: String },
    /// A client asks.
    Invoke { op: u64, client: u32, action: Action },
    /// It was told something.
    Return { op: u64, answer: Answer },
    /// What is stored of a key when all is over: each version that can be opened.
    Kept { key: String, versions: Vec<Version> },
    /// A member says what time it is in the cluster, in milliseconds since 1970; by the clock of this program it is `wall`.
    Time { member: u8, cluster: u64, wall: u64 },
    /// Somebody was told that a lease does not end before that, in milliseconds since 1970.
    Promised { lease: String, until: u64 },
    /// Logins that were seen alive a second and more after their leases were over, where faults may have been why.
    Overruns { all: Vec<Overrun> },
    /// A member is seen to lead.
    Leader { member: u8, term: u64 },
    /// A fault begins.
    Fault { fault: u32, kind: String, what: String, victims: Vec<u8> },
    /// It is over. What was seen of it at its victims is counted by name; with nothing counted it had no effect.
    Healed { fault: u32, seen: BTreeMap<String, u64>, note: String },
    /// A member's process has ended, and no fault had ended it.
    Died { member: u8, how: String },
    /// What a member says of itself when all is over.
    State { member: u8, index: u64, log: String, state: String },
    /// A checker outside of this program, and what it said.
    Judged { by: String, outcome: Outcome, said: String, numbers: BTreeMap<String, u64> },
    /// Something went wrong in this program itself: the run proves nothing.
    Broken { why: String },
}

/// What was run.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) seed: u64,
    pub(crate) nodes: u8,
    pub(crate) seconds: u64,
    pub(crate) nemeses: Vec<String>,
    pub(crate) workloads: Vec<String>,
    pub(crate) clients: u32,
    /// Of leases. Older histories have one number for both.
    #[serde(default)]
    pub(crate) users: u32,
    /// What the program was built from, if that was said.
    #[serde(default)]
    pub(crate) commit: Option<String>,
    pub(crate) program: String,
    /// The command that runs it again.
    pub(crate) again: String,
    /// The least that has to be seen.
    pub(crate) floors: Floors,
}

/// The least that a run has to have done; below it, it is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub(crate) struct Floors {
    /// Operations that were answered.
    pub(crate) operations: u64,
    /// Faults, of each kind that was asked for, that were seen to bite.
    pub(crate) each: u64,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Action {
    /// A new version; with `cas` only if the newest has that number.
    Put { key: String, value: u64, cas: Option<u64> },
    /// The newest version.
    Get { key: String },
    /// A login, for so many milliseconds.
    Issue { role: String, ttl: u64 },
    /// Another end of it.
    Renew { lease: String, ttl: u64 },
    /// Its end.
    Revoke { lease: String },
    /// The word that its end was seen at the database.
    Gone { lease: String },
    /// A login with it, at the database.
    Login { lease: String },
    /// A query of a session that was opened with it.
    Use { lease: String },
    /// Permits (or no longer permits) the subject to open a key.
    Permit { subject: u8, allowed: bool },
    /// The subject opens a key, which only a policy permits.
    Try { subject: u8 },
}

impl Action {
    /// Whether it leaves something behind.
    pub(crate) fn changes(&self) -> bool {
        matches!(
            self,
            Self::Put { .. } | Self::Issue { .. } | Self::Renew { .. } | Self::Revoke { .. } | Self::Permit { .. }
        )
    }

    /// Its name, for reports.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Put { cas: None, .. } => "put",
            Self::Put { cas: Some(_), .. } => "cas",
            Self::Get { .. } => "get",
            Self::Issue { .. } => "issue",
            Self::Renew { .. } => "renew",
            Self::Revoke { .. } => "revoke",
            Self::Gone { .. } => "gone",
            Self::Login { .. } => "login",
            Self::Use { .. } => "use",
            Self::Permit { .. } => "permit",
            Self::Try { .. } => "try",
        }
    }
}

/// What it was told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// It happened, once, at that place of the log.
    Stored { number: u64, index: u64 },
    /// The newest version.
    Value { number: u64, value: u64 },
    /// There is none.
    Absent,
    /// It happened; what of it is worth noting.
    Done { index: u64, note: String },
    /// Refused by a rule: it did not happen.
    Refused { code: String },
    /// It may have happened, and may still.
    Unknown { code: String },
    /// A question without an answer.
    Unanswered { code: String },
    /// Something that nobody should be told where no member lies.
    Wrong { code: String, message: String },
}

/// A version that is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Version {
    pub(crate) number: u64,
    pub(crate) index: u64,
    /// What it opened to; none when it did not open.
    pub(crate) value: Option<u64>,
}

/// A login that has outlived its lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overrun {
    pub(crate) principal: String,
    /// When the lease was over, in milliseconds since 1970.
    pub(crate) ended_at: u64,
    /// For how many milliseconds after that the login was seen alive.
    pub(crate) seen: u64,
}

/// How a checker found it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Outcome {
    /// Nothing to say against it.
    Holds,
    /// Broken.
    Violated,
    /// It could not tell: too little was seen, or it took too long.
    Void,
}

/// Writes a history.
#[derive(Debug, Clone)]
pub(crate) struct Recorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    began: Instant,
    next: AtomicU64,
    kept: Mutex<Kept>,
}

#[derive(Debug)]
struct Kept {
    file: BufWriter<File>,
    /// Why a line could not be written, if one could not: then the history is none.
    lost: Option<std::io::Error>,
}

impl Recorder {
    /// Begins one in a new file.
    pub(crate) fn create(path: &Path) -> anyhow::Result<Self> {
        let file = File::create_new(path).with_context(|| path.display().to_string())?;
        let kept = Mutex::new(Kept { file: BufWriter::new(file), lost: None });
        Ok(Self(Arc::new(Inner { began: Instant::now(), next: AtomicU64::new(1), kept })))
    }

    /// The time of the run.
    pub(crate) fn now(&self) -> Nanos {
        u64::try_from(self.0.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// A number that no operation has had.
    pub(crate) fn number(&self) -> u64 {
        self.0.next.fetch_add(1, Ordering::Relaxed)
    }

    /// Notes what happens now. The time is taken under the lock, so that lines are in their order.
    pub(crate) fn note(&self, event: Event) {
        // Whole after every statement: a panic elsewhere harms nothing.
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = Entry { at: self.now(), event };
        let written = serde_json::to_string(&entry).map_err(Into::into).and_then(|line| writeln!(kept.file, "{line}"));
        if let Err(why) = written {
            kept.lost.get_or_insert(why);
        }
    }

    /// Everything so far is in the file.
    pub(crate) fn flush(&self) -> anyhow::Result<()> {
        let mut kept = self.0.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.lost.take().map_or(Ok(()), Err)?;
        Ok(kept.file.flush()?)
    }
}

/// Reads a history again.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<Entry>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let lines = BufReader::new(file).lines().enumerate();
    lines
        .map(|(at, line)| {
            let place = || format!("{}:{}", path.display(), at + 1);
            serde_json::from_str(&line.with_context(place)?).with_context(place)
        })
        .collect()
}

/// An operation from its beginning to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Operation {
    pub(crate) number: u64,
    pub(crate) client: u32,
    pub(crate) action: Action,
    pub(crate) call: Nanos,
    /// None when nothing came back.
    pub(crate) back: Option<(Nanos, Answer)>,
}

impl Operation {
    /// Whether it got an answer that says what became of it.
    pub(crate) fn answered(&self) -> bool {
        match &self.back {
            Some((_, Answer::Unknown { .. } | Answer::Unanswered { .. } | Answer::Wrong { .. })) | None => false,
            Some(_) => true,
        }
    }
}

/// The operations of a history, in the order of their beginnings.
pub(crate) fn operations(entries: &[Entry]) -> Vec<Operation> {
    let mut all: BTreeMap<u64, Operation> = BTreeMap::new();
    for Entry { at, event } in entries {
        match event {
            Event::Invoke { op, client, action } => {
                let begun = Operation { number: *op, client: *client, action: action.clone(), call: *at, back: None };
                all.insert(*op, begun);
            }
            Event::Return { op, answer } => {
                if let Some(operation) = all.get_mut(op) {
                    operation.back = Some((*at, answer.clone()));
                }
            }
            _ => {}
        }
    }
    let mut all: Vec<Operation> = all.into_values().collect();
    all.sort_by_key(|operation| operation.call);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_noted_is_read_again() {
        let folder = std::env::temp_dir().join(format!("quorate-chaos-history-{}", std::process::id()));
        let _ = std::fs::remove_file(&folder);
        let recorder = Recorder::create(&folder).unwrap();
        let put = Action::Put { key: "k".to_owned(), value: 1, cas: Some(0) };
        recorder.note(Event::Run(Run { seed: 7, ..Run::default() }));
        recorder.note(Event::Invoke { op: 1, client: 2, action: put.clone() });
        recorder.note(Event::Return { op: 1, answer: Answer::Stored { number: 1, index: 9 } });
        recorder.note(Event::Invoke { op: 2, client: 2, action: Action::Get { key: "k".to_owned() } });
        recorder.flush().unwrap();
        let entries = read(&folder).unwrap();
        assert!(entries.is_sorted_by_key(|entry| entry.at) && entries.len() == 4);
        assert_eq!(entries[1].event, Event::Invoke { op: 1, client: 2, action: put.clone() });
        std::fs::remove_file(&folder).unwrap();
        let all = operations(&entries);
        assert_eq!((all.len(), &all[0].action), (2, &put));
        assert!(all[0].answered() && !all[1].answered());
    }
}
