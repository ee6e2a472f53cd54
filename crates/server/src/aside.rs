//! A log that cannot be relied on is set aside: renamed, never deleted, never repaired, and never begun anew under the same raft id.
//!
//! A member whose log lost entries or a vote has promised what it no longer knows. On an empty log, or a shortened one, it would vote for a
//! leader that lacks what it helped to acknowledge. So it stays out, and keeps what costs more: its identity, its shares, its audit log.
//!
//! ```text
//! <data>/log.begun                       this member has had a log: a store that is not there was lost, and is not new
//! <data>/log.lost                        where its log was set aside, and why; while this is there the member stays out
//! <data>/log.kept/                       the write-ahead log as it was before the store was opened, until it is known to be whole
//! <data>/set-aside/<when>/db, log.witness, log.kept
//! ```

use crate::durable;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

const BEGUN: &str = "log.begun";
const LOST: &str = "log.lost";
const FOLDER: &str = "set-aside";
/// What is set aside: everything that belongs to the log, and nothing else.
const PARTS: [&str; 3] = ["db", "log.witness", KEPT];
const KEPT: &str = "log.kept";

/// A log that was set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lost {
    /// What is wrong with it.
    pub why: String,
    /// Where it is now.
    pub place: PathBuf,
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this member's log is damaged: {}; it was set aside in {}", self.why, self.place.display())
    }
}

/// The log of this member that was set aside before, if it was. What a crash left of setting it aside is finished.
///
/// # Errors
/// The file system's.
pub(crate) fn lost(data: &Path) -> io::Result<Option<Lost>> {
    let note = match fs::read_to_string(data.join(LOST)) {
        Ok(note) => note,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let (when, why) = note.split_once('\n').unwrap_or((&note, ""));
    let place = data.join(FOLDER).join(when.trim());
    move_parts(data, &place)?;
    Ok(Some(Lost { why: why.trim_end().to_owned(), place }))
}

/// Sets the log aside. It must not be open.
///
/// # Errors
/// The file system's; the next start goes on from where this one got to.
pub(crate) fn set_aside(data: &Path, why: &str, now: u64) -> io::Result<Lost> {
    note(data, why, now)?;
    lost(data)?.ok_or_else(|| io::ErrorKind::NotFound.into())
}

/// Makes it certain that the next start sets the log aside, without touching it: for while it is open.
///
/// # Errors
/// The file system's.
pub(crate) fn note(data: &Path, why: &str, now: u64) -> io::Result<()> {
    // The note first, and durable: a log that is gone without a note would look like a member that is new.
    write_durably(data, LOST, &format!("{now}\n{why}\n"))
}

/// Whether this member has ever had a log.
pub(crate) fn begun(data: &Path) -> bool {
    data.join(BEGUN).exists()
}

/// Notes that it has, before the log is used for the first time.
///
/// # Errors
/// The file system's.
pub(crate) fn begin(data: &Path) -> io::Result<()> {
    if begun(data) { Ok(()) } else { write_durably(data, BEGUN, "") }
}

/// Keeps the files of the write-ahead log, by a second name: opening the store replaces them, and what a damaged one held is not to be lost.
///
/// # Errors
/// The file system's.
pub(crate) fn keep(data: &Path) -> io::Result<()> {
    let kept = data.join(KEPT);
    fs::create_dir_all(&kept)?;
    for file in fs::read_dir(data.join("db"))? {
        let file = file?.path();
        let name = file.file_name().filter(|_| file.extension().is_some_and(|end| end == "log"));
        if let Some(to) = name.map(|name| kept.join(name)).filter(|to| !to.exists()) {
            fs::hard_link(&file, to)?;
        }
    }
    Ok(())
}

/// The log is whole.
pub(crate) fn let_go(data: &Path) {
    if let Err(error) = fs::remove_dir_all(data.join(KEPT)) {
        tracing::warn!(%error, "the second names of the write-ahead log are left");
    }
}

fn move_parts(data: &Path, place: &Path) -> io::Result<()> {
    fs::create_dir_all(place)?;
    for part in PARTS {
        let (from, to) = (data.join(part), place.join(part));
        // One that is at its place already is never replaced.
        if from.exists() && !to.exists() {
            fs::rename(from, to)?;
        }
    }
    for folder in [place, &data.join(FOLDER), data] {
        File::open(folder)?.sync_all()?;
    }
    Ok(())
}

fn write_durably(data: &Path, name: &str, text: &str) -> io::Result<()> {
    durable::replace(&data.join(name), text.as_bytes(), durable::PUBLIC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_aside_is_kept_and_the_note_outlives_everything() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        assert_eq!(lost(data).unwrap(), None);
        begin(data).unwrap();
        fs::create_dir(data.join("db")).unwrap();
        fs::write(data.join("db/000001.log"), b"entries").unwrap();
        fs::write(data.join("db/000000.log"), b"replaced by a recovery").unwrap();
        keep(data).unwrap();
        fs::remove_file(data.join("db/000000.log")).unwrap();
        fs::write(data.join("log.witness"), b"end").unwrap();
        fs::create_dir(data.join("slots")).unwrap();
        fs::write(data.join("slots/x.share"), b"share").unwrap();

        let gone = set_aside(data, "entry 7 is missing", 42).unwrap();
        assert_eq!(gone.place, data.join("set-aside/42"));
        assert_eq!(fs::read(gone.place.join("db/000001.log")).unwrap(), b"entries");
        assert_eq!(fs::read(gone.place.join("log.kept/000000.log")).unwrap(), b"replaced by a recovery");
        assert_eq!(fs::read(gone.place.join("log.witness")).unwrap(), b"end");
        assert!(!data.join("db").exists() && begun(data));
        assert_eq!(fs::read(data.join("slots/x.share")).unwrap(), b"share", "a share is no part of the log");
        assert_eq!(lost(data).unwrap(), Some(gone.clone()));

        // A log that turns up again is not mistaken for the one that was set aside.
        fs::create_dir(data.join("db")).unwrap();
        assert_eq!(lost(data).unwrap(), Some(gone.clone()));
        assert_eq!(fs::read(gone.place.join("db/000001.log")).unwrap(), b"entries");
    }

    #[test]
    fn setting_aside_goes_on_after_a_crash() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path();
        fs::create_dir(data.join("db")).unwrap();
        fs::write(data.join("log.witness"), b"end").unwrap();
        note(data, "a reason", 7).unwrap();
        assert!(data.join("db").exists(), "the note alone moves nothing");
        let found = lost(data).unwrap().unwrap();
        assert_eq!(
            (found.why.as_str(), data.join("db").exists(), found.place.join("db").exists()),
            ("a reason", false, true)
        );
        assert!(found.place.join("log.witness").exists());
    }
}
