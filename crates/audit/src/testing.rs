//! A disk in memory that runs full, fails and loses what was not synced.

use crate::disk::{Disk, Segments};
use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// A call of [`Disk`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Call {
    /// `allocate`
    Allocate,
    /// `write_at`
    Write,
    /// `sync`
    Sync,
    /// `rename`
    Rename,
}

/// The disk; clones share the files.
#[derive(Debug, Clone)]
pub struct MemDisk(Arc<Mutex<Inner>>);

/// The state of a [`MemDisk`]; as long as somebody holds it, the disk stalls.
#[derive(Debug)]
pub struct Inner {
    files: BTreeMap<String, MemFile>,
    /// How many bytes all files together may have.
    pub capacity: u64,
    /// How many more calls of a kind go well before all of them fail.
    pub failing: BTreeMap<Call, u64>,
    /// How long a sync takes.
    pub sync_time: Duration,
    /// How many calls of a kind were made.
    pub calls: BTreeMap<Call, u64>,
}

#[derive(Debug, Clone, Default)]
struct MemFile {
    durable: Vec<u8>,
    visible: Vec<u8>,
    /// Where the two may differ: a sync copies no more, for segments are large and syncs many.
    unsynced: Vec<Range<usize>>,
}

impl MemFile {
    fn made(bytes: Vec<u8>) -> Self {
        Self { durable: bytes.clone(), visible: bytes, unsynced: Vec::new() }
    }
}

impl MemDisk {
    /// An empty disk with room for `capacity` bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            files: BTreeMap::new(),
            capacity,
            failing: BTreeMap::new(),
            sync_time: Duration::ZERO,
            calls: BTreeMap::new(),
        })))
    }

    /// The state, to set faults and read counts.
    pub fn hold(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is found after a power cut: all that was synced and, of what was not, the bytes that survive. The faults are gone.
    #[must_use]
    pub fn crashed(&self, survives: impl Fn(usize) -> bool) -> Self {
        let inner = self.hold();
        let after = Self::new(inner.capacity);
        for (name, file) in &inner.files {
            let mut bytes = file.durable.clone();
            for at in file.unsynced.iter().cloned().flatten().filter(|at| survives(*at)) {
                if let (Some(byte), Some(visible)) = (bytes.get_mut(at), file.visible.get(at)) {
                    *byte = *visible;
                }
            }
            after.hold().put(name, bytes);
        }
        drop(inner);
        after
    }
}

impl Inner {
    /// Puts a durable file there, or replaces one.
    pub fn put(&mut self, name: &str, bytes: Vec<u8>) {
        self.files.insert(name.to_owned(), MemFile::made(bytes));
    }

    /// Removes a file.
    pub fn remove(&mut self, name: &str) {
        self.files.remove(name);
    }

    fn call(&mut self, call: Call) -> io::Result<()> {
        *self.calls.entry(call).or_default() += 1;
        match self.failing.get_mut(&call) {
            Some(0) => Err(io::Error::from(rustix::io::Errno::IO)),
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn file(&mut self, name: &str) -> io::Result<&mut MemFile> {
        self.files.get_mut(name).ok_or_else(|| ErrorKind::NotFound.into())
    }
}

impl Segments for MemDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.hold().files.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        Ok(self.hold().file(name)?.visible.clone())
    }
}

impl Disk for MemDisk {
    fn allocate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        let mut inner = self.hold();
        inner.call(Call::Allocate)?;
        inner.remove(name);
        let used: u64 = inner.files.values().map(|f| f.visible.len() as u64).sum();
        if used + bytes > inner.capacity {
            return Err(ErrorKind::StorageFull.into());
        }
        let size = usize::try_from(bytes).map_err(|_| ErrorKind::StorageFull)?;
        inner.put(name, vec![0; size]);
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.hold();
        // A failing write leaves half of what it was to write.
        let (result, data) = match inner.call(Call::Write) {
            Ok(()) => (Ok(()), data),
            Err(e) => (Err(e), data.split_at(data.len() / 2).0),
        };
        let from = usize::try_from(offset).map_err(|_| ErrorKind::InvalidInput)?;
        let file = inner.file(name)?;
        let range = from..from + data.len();
        let place = file.visible.get_mut(range.clone()).ok_or(ErrorKind::InvalidInput)?;
        place.copy_from_slice(data);
        file.unsynced.push(range);
        result
    }

    fn sync(&mut self, name: &str) -> io::Result<()> {
        let mut inner = self.hold();
        inner.call(Call::Sync)?;
        let file = inner.file(name)?;
        for range in std::mem::take(&mut file.unsynced) {
            if let (Some(to), Some(from)) = (file.durable.get_mut(range.clone()), file.visible.get(range)) {
                to.copy_from_slice(from);
            }
        }
        let time = inner.sync_time;
        drop(inner);
        std::thread::sleep(time);
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let mut inner = self.hold();
        inner.call(Call::Rename)?;
        let file = inner.files.remove(from).ok_or(ErrorKind::NotFound)?;
        inner.files.insert(to.to_owned(), file);
        Ok(())
    }
}
