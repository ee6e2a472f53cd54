//! The folder of copies beside a RocksDB store.
//!
//! ```text
//! <store>.image/draft/db          a copy that nobody relies on; removed when the store is opened
//! <store>.image/<number>/db       the copy that is kept: that of the greatest number
//! <store>.image/<number>/note     what it was kept with
//! ```
//! A draft becomes the copy by one rename, when all of it is on the disk. Whatever a crash leaves of that is a draft, or a copy with
//! an older one beside it, which is removed.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{KvError, engine};

const DRAFT: &str = "draft";
const STORE: &str = "db";
const NOTE: &str = "note";

pub(super) struct Beside {
    folder: PathBuf,
    /// One call at a time.
    turn: Mutex<()>,
}

impl Beside {
    pub(super) fn of(store: &Path) -> Self {
        let mut folder = store.as_os_str().to_owned();
        folder.push(".image");
        Self { folder: folder.into(), turn: Mutex::default() }
    }

    fn turn(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that are free where the copies are.
    pub(super) fn free(&self) -> Result<u64, KvError> {
        let place = self.folder.parent().filter(|place| !place.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let disk = rustix::fs::statvfs(place).map_err(|error| KvError::from(&io::Error::from(error)))?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Removes what is not the copy that is kept. What cannot be removed is in nobody's way but for its room.
    pub(super) fn tidy(&self) {
        let _turn = self.turn();
        let tidied = self.drop_draft().and_then(|()| self.drop_but(self.newest()?.map(|(number, _)| number)));
        if let Err(error) = tidied {
            tracing::warn!(%error, folder = %self.folder.display(), "an old image of the state is left");
        }
    }

    /// Makes a draft by `copy`, which is given a path that is not there yet.
    pub(super) fn draft(&self, copy: impl FnOnce(&Path) -> Result<(), rocksdb::Error>) -> Result<PathBuf, KvError> {
        let _turn = self.turn();
        let place = self.make_place().map_err(|error| KvError::from(&error))?;
        copy(&place).map_err(engine)?;
        Ok(place)
    }

    fn make_place(&self) -> io::Result<PathBuf> {
        self.drop_draft()?;
        let draft = self.folder.join(DRAFT);
        fs::create_dir_all(&draft)?;
        if let Some(parent) = self.folder.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            sync_folder(parent)?;
        }
        Ok(draft.join(STORE))
    }

    /// Makes the draft the copy.
    pub(super) fn keep(&self, note: &[u8]) -> io::Result<()> {
        let _turn = self.turn();
        let number = self.newest()?.map_or(1, |(number, _)| number.saturating_add(1));
        let draft = self.folder.join(DRAFT);
        let mut file = File::create(draft.join(NOTE))?;
        file.write_all(note)?;
        file.sync_all()?;
        sync_folder(&draft)?;
        fs::rename(&draft, self.folder.join(number.to_string()))?;
        sync_folder(&self.folder)?;
        // It is kept, whatever becomes of the one before.
        if let Err(error) = self.drop_but(Some(number)) {
            tracing::warn!(%error, folder = %self.folder.display(), "an old image of the state is left");
        }
        Ok(())
    }

    /// The copy and its note.
    pub(super) fn kept(&self) -> io::Result<Option<(PathBuf, Vec<u8>)>> {
        let _turn = self.turn();
        let Some((_, path)) = self.newest()? else { return Ok(None) };
        Ok(Some((path.join(STORE), fs::read(path.join(NOTE))?)))
    }

    pub(super) fn forget(&self) -> io::Result<()> {
        let _turn = self.turn();
        self.drop_draft()?;
        self.drop_but(None)
    }

    fn numbered(&self) -> io::Result<Vec<(u64, PathBuf)>> {
        let entries = match fs::read_dir(&self.folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let path = entry?.path();
            let number = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse().ok());
            found.extend(number.map(|number| (number, path)));
        }
        Ok(found)
    }

    fn newest(&self) -> io::Result<Option<(u64, PathBuf)>> {
        Ok(self.numbered()?.into_iter().max())
    }

    fn drop_draft(&self) -> io::Result<()> {
        match fs::remove_dir_all(self.folder.join(DRAFT)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Removes every copy but one; the older first, so that a crash leaves no older one as the newest.
    fn drop_but(&self, kept: Option<u64>) -> io::Result<()> {
        let mut copies = self.numbered()?;
        copies.sort();
        for (number, path) in copies {
            if Some(number) != kept {
                fs::remove_dir_all(path)?;
            }
        }
        Ok(())
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
