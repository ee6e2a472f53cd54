//! Files that the CLI makes: never over an existing one, durable before the next step relies on them.

use crate::failure::Stop;
use anyhow::Context as _;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

/// Mode of what only its owner may read.
pub(crate) const PRIVATE: u32 = 0o600;
/// Mode of what everybody may read.
pub(crate) const PUBLIC: u32 = 0o644;

/// Makes a file; refuses to write over one.
pub(crate) fn make(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    match write_new(path, bytes, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Stop::refused(
            "exists",
            format!("{} is there already", path.display()),
            "name a new file, or move it away",
        )),
        done => done.with_context(|| format!("cannot make {}", path.display())),
    }
}

/// Puts a file in the place of another in one step: after a crash it is the old one or the new one.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let fresh = path.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    write_new(&fresh, bytes, mode)?;
    fs::rename(&fresh, path)?;
    sync_folder_of(path)
}

/// Makes a folder that only its owner may enter.
pub(crate) fn private_folder(path: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Makes the last change of a name in a file's folder durable.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    File::open(folder)?.sync_all()
}

/// A file's content.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// A text file's content.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    sync_folder_of(path)
}
