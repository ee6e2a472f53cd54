//! The freeze: a file, so that it survives restarts. While it is there, nothing is derived.

use crate::files;
use anyhow::Context as _;
use quorate_state::ids::Millis;
use serde::{Deserialize, Serialize};
use std::io;
use std::path::{Path, PathBuf};

/// What a freeze says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Frozen {
    /// Who froze it.
    pub(crate) by: String,
    /// Why.
    pub(crate) reason: String,
    /// When.
    pub(crate) at: Millis,
}

/// The file and what it says. The file is changed first.
#[derive(Debug)]
pub(crate) struct Freeze {
    path: PathBuf,
    state: Option<Frozen>,
}

impl Freeze {
    /// Reads the state.
    ///
    /// # Errors
    /// A file that cannot be read or understood: the custodian then does not start, since it may be frozen.
    pub(crate) fn open(folder: &Path) -> anyhow::Result<Self> {
        let path = folder.join("frozen.toml");
        let state = match std::fs::read_to_string(&path) {
            Ok(text) => Some(toml::from_str(&text).with_context(|| path.display().to_string())?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| path.display().to_string()),
        };
        Ok(Self { path, state })
    }

    /// The freeze, if there is one.
    pub(crate) fn state(&self) -> Option<&Frozen> {
        self.state.as_ref()
    }

    /// Begins a freeze: durable when this returns. One that stands keeps its first words.
    pub(crate) fn begin(&mut self, frozen: Frozen) -> io::Result<()> {
        if self.state.is_none() {
            let text = toml::to_string(&frozen).map_err(io::Error::other)?;
            // Refused from here on, even if the file cannot be written: whoever asks for a freeze errs on the safe side.
            self.state = Some(frozen);
            files::replace(&self.path, text.as_bytes(), files::PRIVATE)?;
        } else if !self.path.exists() {
            // The file of an earlier try could not be written.
            let text = toml::to_string(&self.state).map_err(io::Error::other)?;
            files::replace(&self.path, text.as_bytes(), files::PRIVATE)?;
        }
        Ok(())
    }

    /// Ends a freeze: durable when this returns.
    pub(crate) fn end(&mut self) -> io::Result<()> {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => files::sync_folder_of(&self.path)?,
        }
        self.state = None;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freeze_survives_and_a_damaged_one_is_not_taken_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let frozen = Frozen { by: "a".to_owned(), reason: "r\"\n".to_owned(), at: 5 };
        let mut freeze = Freeze::open(folder.path()).unwrap();
        assert_eq!(freeze.state(), None);
        freeze.begin(frozen.clone()).unwrap();
        freeze.begin(Frozen { reason: "second".to_owned(), ..frozen.clone() }).unwrap();
        let mut again = Freeze::open(folder.path()).unwrap();
        assert_eq!(again.state(), Some(&frozen));
        again.end().unwrap();
        assert_eq!(Freeze::open(folder.path()).unwrap().state(), None);
        std::fs::write(folder.path().join("frozen.toml"), "by = ").unwrap();
        assert!(Freeze::open(folder.path()).is_err());
    }

    #[test]
    fn a_freeze_with_a_changed_byte_is_one_or_nothing_starts() {
        let folder = tempfile::tempdir().unwrap();
        let frozen = Frozen { by: "a".to_owned(), reason: "r\"\n".to_owned(), at: 5 };
        Freeze::open(folder.path()).unwrap().begin(frozen).unwrap();
        let file = folder.path().join("frozen.toml");
        let text = std::fs::read(&file).unwrap();
        let mut refused = 0;
        for at in 0..text.len() {
            for flip in [1 << (at % 8), 0xff] {
                let mut changed = text.clone();
                changed[at] ^= flip;
                std::fs::write(&file, changed).unwrap();
                match Freeze::open(folder.path()) {
                    Ok(freeze) => assert!(freeze.state().is_some(), "byte {at}: it was frozen"),
                    Err(_) => refused += 1,
                }
            }
        }
        assert!(refused > text.len(), "{refused} refused");
    }

    #[test]
    fn a_freeze_that_cannot_be_written_holds_until_the_end_of_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        let mut freeze = Freeze::open(&gone).unwrap();
        assert!(freeze.begin(Frozen { by: "a".to_owned(), reason: String::new(), at: 5 }).is_err());
        assert!(freeze.state().is_some());
        std::fs::create_dir(&gone).unwrap();
        freeze.begin(Frozen { by: "b".to_owned(), reason: String::new(), at: 6 }).unwrap();
        assert_eq!(Freeze::open(&gone).unwrap().state(), freeze.state());
    }
}
