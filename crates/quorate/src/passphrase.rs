//! Passphrases: from a file, from an inherited descriptor, or typed. Never from arguments or the environment.

use crate::failure::Stop;
use anyhow::Context as _;
use quorate_crypto::keyfile::{KeyFileError, PassphraseCost, Protection, open_file, seal_file};
use quorate_crypto::secret::SecretVec;
use rand_core::CryptoRng;
use std::fs::File;
use std::io::{ErrorKind, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use tokio::signal::unix::{SignalKind, signal};
use zeroize::Zeroizing;

/// The exit status of what SIGINT has ended, as shells have it.
const INTERRUPTED: i32 = 130;

/// Where passphrases come from when they are not to be typed.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Passphrases {
    /// Read passphrases from this file: one line, used for every key that the command opens or makes.
    #[arg(long, global = true, value_name = "FILE", help_heading = "Secrets")]
    passphrase_file: Option<PathBuf>,
    /// The same from an open descriptor.
    #[arg(long, global = true, value_name = "FD", conflicts_with = "passphrase_file", help_heading = "Secrets")]
    passphrase_fd: Option<u32>,
    /// What was read: a descriptor gives it once, and a command may need it for several keys.
    #[arg(skip)]
    read: Arc<OnceLock<SecretVec>>,
}

impl Passphrases {
    /// From a file.
    pub(crate) fn file(path: &Path) -> Self {
        Self { passphrase_file: Some(path.to_owned()), ..Self::default() }
    }

    /// The passphrase of a key that exists.
    fn of(&self, what: &str) -> anyhow::Result<SecretVec> {
        if let Some(given) = self.given()? {
            return Ok(given);
        }
        prompt(&format!("Passphrase of {what}: "))
    }

    /// The passphrase for a new key: typed twice.
    fn new_for(&self, what: &str) -> anyhow::Result<SecretVec> {
        if let Some(given) = self.given()? {
            return Ok(given);
        }
        let first = prompt(&format!("New passphrase for {what}: "))?;
        let second = prompt("Once more: ")?;
        if first.expose() != second.expose() {
            return Err(Stop::refused("passphrase", "the two passphrases differ", "type the same one twice"));
        }
        Ok(first)
    }

    fn given(&self) -> anyhow::Result<Option<SecretVec>> {
        let path = match (&self.passphrase_file, self.passphrase_fd) {
            (Some(path), _) => path.clone(),
            (None, Some(fd)) => PathBuf::from(format!("/dev/fd/{fd}")),
            (None, None) => return Ok(None),
        };
        if self.read.get().is_none() {
            // Another thread's reading, if there were one, would be the same.
            let _ = self.read.set(first_line(&path)?);
        }
        Ok(self.read.get().map(|read| SecretVec::new(read.expose().to_vec())))
    }

    /// Seals a new key under a passphrase.
    pub(crate) fn seal(
        &self,
        purpose: &str,
        what: &str,
        secret: &[u8],
        rng: &mut impl CryptoRng,
    ) -> anyhow::Result<Vec<u8>> {
        let passphrase = self.new_for(what)?;
        let protection = Protection::Passphrase(&passphrase, PassphraseCost::default());
        seal_file(purpose, secret, &protection, rng).with_context(|| format!("cannot seal {what}"))
    }

    /// Opens a sealed key file.
    pub(crate) fn open(&self, purpose: &str, path: &Path) -> anyhow::Result<SecretVec> {
        let bytes = std::fs::read(path).with_context(|| path.display().to_string())?;
        let passphrase = self.of(&path.display().to_string())?;
        open_file(purpose, &bytes, &Protection::Passphrase(&passphrase, PassphraseCost::default())).map_err(|why| {
            let (code, hint) = match why {
                KeyFileError::WrongKey => ("wrong_passphrase", "type the passphrase that the key was made with"),
                KeyFileError::OtherPurpose => ("wrong_key_file", "name the file of the right kind of key"),
                _ => ("key_file", "restore the file from its backup"),
            };
            Stop::refused(code, format!("{}: {why}", path.display()), hint)
        })
    }
}

/// The first line of a file, or all of it without one.
pub(crate) fn first_line(path: &Path) -> anyhow::Result<SecretVec> {
    let name = || path.display().to_string();
    let mut bytes = Zeroizing::new(Vec::with_capacity(2048));
    File::open(path).and_then(|file| file.take(2048).read_to_end(&mut bytes)).with_context(name)?;
    let line = bytes.split(|b| *b == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.is_empty() {
        return Err(Stop::refused("passphrase", format!("{}: the first line is empty", name()), "write it there"));
    }
    Ok(SecretVec::new(line.to_vec()))
}

/// Asks on the terminal, without echo.
pub(crate) fn prompt(question: &str) -> anyhow::Result<SecretVec> {
    if !std::io::stdin().is_terminal() {
        let hint = "give a file (--passphrase-file, --password-file), or run it in a terminal";
        return Err(Stop::refused("no_terminal", "there is no terminal to ask for a passphrase or password", hint));
    }
    // Without a handler, ^C ends the process inside the prompt, and leaves a terminal that shows nothing that is typed.
    let mut interrupted = signal(SignalKind::interrupt()).context("cannot wait for SIGINT")?;
    let typed = rpassword::prompt_password(question).map(|typed| SecretVec::new(typed.into_bytes()));
    if typed.as_ref().is_err_and(|why| why.kind() == ErrorKind::Interrupted) {
        std::process::exit(INTERRUPTED);
    }
    // The handler stays, and so from here on this is what ^C does.
    tokio::spawn(async move {
        interrupted.recv().await;
        std::process::exit(INTERRUPTED);
    });
    typed.context("cannot read from the terminal")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Told;
    use quorate_server::env::Env;

    #[test]
    fn a_wrong_passphrase_is_told_from_a_wrong_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("right"), "correct horse\n").unwrap();
        std::fs::write(path("wrong"), "battery staple\n").unwrap();
        let (right, wrong) = (Passphrases::file(&path("right")), Passphrases::file(&path("wrong")));
        let sealed = right.seal("administrator", "a key", &[7; 32], &mut Env::system().rng()).unwrap();
        std::fs::write(path("a.key"), sealed).unwrap();

        assert_eq!(right.open("administrator", &path("a.key")).unwrap().expose(), [7; 32]);
        let code = |result: anyhow::Result<SecretVec>| Told::of(&result.unwrap_err()).text();
        let told = code(wrong.open("administrator", &path("a.key")));
        assert!(told.starts_with("error[wrong_passphrase]:") && told.contains("a.key"), "{told}");
        assert!(code(right.open("client-ca", &path("a.key"))).starts_with("error[wrong_key_file]:"));
    }

    #[test]
    fn only_the_first_line_counts() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("p");
        std::fs::write(&path, "one\r\ntwo\n").unwrap();
        assert_eq!(first_line(&path).unwrap().expose(), b"one");
        std::fs::write(&path, "\ntwo\n").unwrap();
        assert!(first_line(&path).is_err());
    }
}
