//! A run in a process of its own, whose randomness is replaced as a whole: so that it is the same, to the byte, wherever and whenever it is run.
//!
//! What nodes draw comes through their seam. What is left are choices of libraries: tokio draws in which order it wakes those who wait on one
//! `watch`, from a number that no stable interface sets, and every map of the standard library has an order of its own. Both come from the
//! operating system, so `entropy.c` answers in its place, in that process only.

use crate::sabotage::Sabotage;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// What a run in another process left.
pub(crate) struct Left {
    pub(crate) journal: String,
    /// The line by which it says what it saw; none if it did not hold.
    pub(crate) seen: Option<String>,
    pub(crate) said: String,
}

impl Left {
    /// Which rule did not hold.
    pub(crate) fn broken(&self) -> Option<&str> {
        self.said.lines().find_map(|line| line.split_once(BROKEN)).map(|(_, why)| why.trim())
    }
}

/// What the line begins with by which a run says what it saw, or what did not hold.
pub(crate) const SEEN: &str = "seen:";
pub(crate) const BROKEN: &str = "broken:";

/// What is wrong in a run from its beginning, so that whoever judges is seen to find it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Amiss {
    /// What members stand on.
    Under(Sabotage),
    /// All members themselves, by a bug of `crates/server/src/planted.rs`.
    Within(&'static str),
}

/// The compiled `entropy.c`.
fn entropy() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/entropy.c");
        let made = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("entropy-{}.so", std::process::id()));
        let compiled = Command::new("cc").args(["-shared", "-fPIC", "-O2", "-o"]).arg(&made).arg(source).status();
        assert!(compiled.unwrap().success(), "a C compiler is there: the build needs one too");
        made
    })
}

/// Plants the bug that this process was told of, if it was: once what a run begins with is made, by members as they are.
pub(crate) fn plant() {
    if let (Some(file), Ok(bug)) = (std::env::var_os("FAILPOINT_FILE"), std::env::var("PLANT")) {
        std::fs::write(file, format!("{bug}=on\n")).unwrap();
    }
}

/// Runs one seed.
pub(crate) fn run(members: u8, seed: u64) -> Left {
    run_with(members, seed, None)
}

/// Runs one seed in which something is amiss.
pub(crate) fn run_with(members: u8, seed: u64, amiss: Option<Amiss>) -> Left {
    let name = format!("journal-{}-{members}-{seed}-{:?}", std::process::id(), std::thread::current().id());
    let journal = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let planted = journal.with_extension("bug");
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env_remove("FAILPOINT_FILE").env_remove("PLANT").env_remove("SABOTAGE");
    match amiss {
        None => {}
        Some(Amiss::Under(sabotage)) => {
            command.env("SABOTAGE", format!("{sabotage:?}"));
        }
        Some(Amiss::Within(bug)) => {
            command.env("FAILPOINT_FILE", &planted).env("PLANT", bug);
        }
    }
    let done = command
        .args(["--ignored", "--exact", "one_seed", "--nocapture", "--test-threads=1"])
        .env("LD_PRELOAD", entropy())
        .env("JOURNAL", &journal)
        .env("SEED", seed.to_string())
        .env("MEMBERS", members.to_string())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = [done.stdout, done.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    let seen = said.lines().find_map(|line| line.split_once(SEEN)).map(|(_, seen)| seen.trim().to_owned());
    let text = std::fs::read_to_string(&journal).unwrap_or_default();
    let _ = (std::fs::remove_file(&journal), std::fs::remove_file(&planted));
    Left { journal: text, seen: seen.filter(|_| done.status.success()), said }
}
