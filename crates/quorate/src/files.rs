//! Files that the CLI makes: never over an existing one, durable before the next step relies on them. How is the business of
//! [`quorate_server::durable`]; here are the words.

use crate::failure::Stop;
use anyhow::Context as _;
use quorate_server::durable;
use std::fs;
use std::io;
use std::path::Path;

pub(crate) use quorate_server::durable::{PRIVATE, PUBLIC, replace, sync_folder_of};

/// Makes a file; refuses to write over one.
pub(crate) fn make(path: &Path, bytes: &[u8], mode: u32) -> anyhow::Result<()> {
    match durable::make(path, bytes, mode) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Stop::refused(
            "exists",
            format!("{} is there already", path.display()),
            "name a new file, or move it away",
        )),
        done => done.with_context(|| format!("cannot make {}", path.display())),
    }
}

/// Makes a folder that only its owner may enter.
pub(crate) fn private_folder(path: &Path) -> anyhow::Result<()> {
    durable::private_folder(path).with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Moves a file.
pub(crate) fn rename(from: &Path, to: &Path) -> anyhow::Result<()> {
    durable::rename(from, to).with_context(|| from.display().to_string())
}

/// A file's content.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| path.display().to_string())
}

/// A text file's content.
pub(crate) fn read_text(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| path.display().to_string())
}
