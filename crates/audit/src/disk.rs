//! The seam to storage: what the reader and the writer need of a directory, and the real one.
//!
//! A file's content past what was written reads as zeros, and its space is reserved, from the moment it is allocated.

use rustix::fs::{FallocateFlags, fallocate};
use std::collections::BTreeMap;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Reading, for everyone.
pub trait Segments {
    /// The names of all files, in any order.
    ///
    /// # Errors
    /// Those of the storage.
    fn list(&self) -> io::Result<Vec<String>>;

    /// The whole of one file, with the zeros behind its content.
    ///
    /// # Errors
    /// Those of the storage.
    fn read(&self, name: &str) -> io::Result<Vec<u8>>;
}

/// Writing, for the one writer.
///
/// After an error of any call but [`Disk::allocate`] the writer stops for good: a failed sync may have dropped the
/// data, and the next one would not say so again.
pub trait Disk: Segments + Send {
    /// Creates or replaces a file of exactly `bytes` zeros with its space reserved. Durable on return; on an error
    /// no file of that name is left.
    ///
    /// # Errors
    /// `StorageFull` or `QuotaExceeded` when there is no room; those of the storage.
    fn allocate(&mut self, name: &str, bytes: u64) -> io::Result<()>;

    /// Writes inside of an allocated file. Durable only after [`Disk::sync`].
    ///
    /// # Errors
    /// Those of the storage.
    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()>;

    /// Makes the writes to a file durable.
    ///
    /// # Errors
    /// Those of the storage; also if the file was deleted by somebody.
    fn sync(&mut self, name: &str) -> io::Result<()>;

    /// Renames a file. Durable on return.
    ///
    /// # Errors
    /// Those of the storage.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;
}

/// A directory, for reading. It takes no lock: the log of a running member can be read.
#[derive(Debug, Clone)]
pub struct Dir(PathBuf);

impl Dir {
    /// The directory at `path`, which is not touched yet.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

impl Segments for Dir {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.0)? {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        std::fs::read(self.0.join(name))
    }
}

/// A directory, for the writer: created with mode 0700, files with mode 0600, locked against a second writer.
#[derive(Debug)]
pub struct RealDisk {
    dir: Dir,
    handle: File,
    files: BTreeMap<String, File>,
    _lock: File,
}

impl RealDisk {
    /// Opens or creates the directory.
    ///
    /// # Errors
    /// `ResourceBusy` if another writer holds it; those of the file system.
    pub fn open(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let lock =
            OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path.join("audit.lock"))?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => io::Error::new(io::ErrorKind::ResourceBusy, "another process has it open"),
            TryLockError::Error(e) => e,
        })?;
        Ok(Self { dir: Dir::new(path), handle: File::open(path)?, files: BTreeMap::new(), _lock: lock })
    }

    fn file(&mut self, name: &str) -> io::Result<&File> {
        if !self.files.contains_key(name) {
            let file = OpenOptions::new().write(true).open(self.dir.0.join(name))?;
            self.files.insert(name.to_owned(), file);
        }
        self.files.get(name).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn create(&mut self, name: &str, bytes: u64) -> io::Result<File> {
        let file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(self.dir.0.join(name))?;
        fallocate(&file, FallocateFlags::empty(), 0, bytes)?;
        file.sync_all()?;
        self.handle.sync_all()?;
        Ok(file)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.files.remove(name);
        match std::fs::remove_file(self.dir.0.join(name)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

impl Segments for RealDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        self.dir.list()
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.dir.read(name)
    }
}

impl Disk for RealDisk {
    fn allocate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.remove(name)?;
        match self.create(name, bytes) {
            Ok(file) => {
                self.files.insert(name.to_owned(), file);
                Ok(())
            }
            Err(e) => {
                // What was allocated before the disk ran full must be given back.
                self.remove(name)?;
                Err(e)
            }
        }
    }

    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file(name)?.write_all_at(data, offset)
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let file = self.file(name)?;
        file.sync_data()?;
        // A log that someone deleted takes writes and syncs for ever without keeping anything.
        if file.metadata()?.nlink() == 0 { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.dir.0.join(from), self.dir.0.join(to))?;
        self.handle.sync_all()?;
        // Files of earlier segments are closed here.
        let file = self.files.remove(from);
        self.files.clear();
        if let Some(file) = file {
            self.files.insert(to.to_owned(), file);
        }
        Ok(())
    }
}
