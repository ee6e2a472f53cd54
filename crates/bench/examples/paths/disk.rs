//! A disk in memory that costs next to nothing.

use quorate_audit::disk::{Disk, Segments};
use std::collections::BTreeMap;
use std::io;

/// Files by their names.
#[derive(Debug, Default)]
pub(crate) struct Memory(BTreeMap<String, Vec<u8>>);

impl Segments for Memory {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.keys().cloned().collect())
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        self.0.get(name).cloned().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Disk for Memory {
    fn allocate(&mut self, name: &str, bytes: u64) -> io::Result<()> {
        self.0.insert(name.to_owned(), vec![0; usize::try_from(bytes).unwrap()]);
        Ok(())
    }

    fn write_at(&mut self, name: &str, offset: u64, data: &[u8]) -> io::Result<()> {
        let file = self.0.get_mut(name).ok_or(io::ErrorKind::NotFound)?;
        let offset = usize::try_from(offset).unwrap();
        file[offset..offset + data.len()].copy_from_slice(data);
        Ok(())
    }

    fn sync(&mut self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let file = self.0.remove(from).ok_or(io::ErrorKind::NotFound)?;
        self.0.insert(to.to_owned(), file);
        Ok(())
    }
}
