//! Files and folders that survive a power cut: the one home of how a node, a custodian and the CLI write theirs.
//!
//! A file is written beside its place, synced, put in its place in one step, and the step is synced in the folder. Whenever the power goes, the
//! file is there whole or is as it was before; when a call has returned, it is there. A folder is there when its name is synced in the one
//! above it.

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

/// Mode of what only its owner may read.
pub const PRIVATE: u32 = 0o600;
/// Mode of what everybody may read.
pub const PUBLIC: u32 = 0o644;

/// Makes a file that is not there yet.
///
/// # Errors
/// `AlreadyExists`: the one that is there is untouched. The file system's.
pub fn make(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    if path.symlink_metadata().is_ok() {
        return Err(ErrorKind::AlreadyExists.into());
    }
    let fresh = beside(path, bytes, mode)?;
    let placed = match renameat_with(CWD, &fresh, CWD, path, RenameFlags::NOREPLACE) {
        // A file system that knows no such step: there, of two who make one at the same time, the second wins.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => fs::rename(&fresh, path),
        placed => placed.map_err(Into::into),
    };
    if let Err(error) = placed {
        // It holds what was to be kept; the reason is told all the same.
        let _ = fs::remove_file(&fresh);
        return Err(error);
    }
    sync_folder_of(path)
}

/// Puts a file in the place of another, or where there is none.
///
/// # Errors
/// The file system's.
pub fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    fs::rename(beside(path, bytes, mode)?, path)?;
    sync_folder_of(path)
}

/// Moves a file, and makes both ends of it durable.
///
/// # Errors
/// The file system's.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    sync_folder_of(to)?;
    sync_folder_of(from)
}

/// Makes a folder, and those above it that are missing.
///
/// # Errors
/// The file system's.
pub fn folder(path: &Path) -> io::Result<()> {
    let missing = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.exists();
    let made: Vec<&Path> = path.ancestors().take_while(missing).collect();
    fs::create_dir_all(path)?;
    made.into_iter().rev().try_for_each(sync_folder_of)
}

/// The same, one that only its owner may enter.
///
/// # Errors
/// The file system's.
pub fn private_folder(path: &Path) -> io::Result<()> {
    folder(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o700))?;
    File::open(path)?.sync_all()
}

/// Makes the last change of a name in a file's folder durable.
///
/// # Errors
/// The file system's.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

/// Writes a file's content under another name, where a crash may leave it and the next try takes it away.
fn beside(path: &Path, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let mut name = path.file_name().ok_or(ErrorKind::InvalidInput)?.to_owned();
    name.push(".new");
    let fresh = path.with_file_name(name);
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    Ok(fresh)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_made_once_and_what_a_crash_left_beside_it_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.key");
        fs::write(folder.path().join("a.key.new"), b"half").unwrap();
        make(&path, b"first", PRIVATE).unwrap();
        assert_eq!(make(&path, b"second", PRIVATE).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, PRIVATE);
        replace(&path, b"third", PUBLIC).unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"third");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, PUBLIC);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
        // A name that leads nowhere is a name.
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(folder.path().join("gone"), &link).unwrap();
        assert_eq!(make(&link, b"x", PRIVATE).unwrap_err().kind(), ErrorKind::AlreadyExists);
    }

    #[test]
    fn folders_are_made_as_deep_as_they_have_to_be_and_private_where_they_have_to_be() {
        let home = tempfile::tempdir().unwrap();
        let deep = home.path().join("a/b/c");
        private_folder(&deep).unwrap();
        private_folder(&deep).unwrap();
        assert_eq!(deep.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        make(&deep.join("x"), b"x", PRIVATE).unwrap();
        rename(&deep.join("x"), &home.path().join("a/y")).unwrap();
        assert_eq!(fs::read(home.path().join("a/y")).unwrap(), b"x");
    }
}
