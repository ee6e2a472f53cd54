//! Where a token's PIN comes from: a credential of systemd, an inherited descriptor, or a person. Never arguments or the environment.

#[cfg(feature = "pkcs11")]
use crate::failure::Stop;
#[cfg(feature = "pkcs11")]
use crate::passphrase::{first_line, prompt};
#[cfg(feature = "pkcs11")]
use quorate_crypto::secret::SecretVec;
#[cfg(feature = "pkcs11")]
use quorate_fragment::token::{Given, Pin};
#[cfg(feature = "pkcs11")]
use std::path::{Path, PathBuf};

/// The options that say where the PIN comes from.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct PinSource {
    /// Read the token's user PIN from an open descriptor: its first line.
    #[arg(long, value_name = "FD", help_heading = "Secrets")]
    pub(crate) pin_fd: Option<u32>,
    /// Read it from a credential of systemd, by its name.
    #[arg(long, value_name = "NAME", conflicts_with = "pin_fd", help_heading = "Secrets")]
    pub(crate) pin_credential: Option<String>,
}

#[cfg(feature = "pkcs11")]
impl PinSource {
    /// The PIN. `configured` is the credential that a configuration names; an option counts more.
    pub(crate) fn read(&self, configured: Option<&str>, tokens: &[String]) -> anyhow::Result<Pin> {
        let folder = std::env::var_os("CREDENTIALS_DIRECTORY").map(PathBuf::from);
        let (pin, given) = match (self.pin_fd, self.pin_credential.as_deref().or(configured)) {
            (Some(fd), _) => (first_line(Path::new(&format!("/dev/fd/{fd}")))?, Given::ByFile),
            (None, Some(name)) => (credential(folder.as_deref(), name)?, Given::ByFile),
            (None, None) => (prompt(&format!("User PIN of {}: ", tokens.join(", ")))?, Given::ByPerson),
        };
        let hint = "give the PIN as the vendor's tool takes it, in UTF-8";
        Pin::new(&pin, given).ok_or_else(|| Stop::refused("pin", "the PIN is empty or no text", hint))
    }
}

/// A credential, as systemd hands it over.
#[cfg(feature = "pkcs11")]
fn credential(folder: Option<&Path>, name: &str) -> anyhow::Result<SecretVec> {
    if name.is_empty() || name.contains('/') || name == ".." {
        return Err(Stop::configuration(format!("`{name}` is no name of a credential")));
    }
    let Some(folder) = folder else {
        let what = format!(
            "CREDENTIALS_DIRECTORY is not set, so there is no credential `{name}`: start this from a unit \
                            with LoadCredential={name}:FILE, or give --pin-fd"
        );
        return Err(Stop::configuration(what));
    };
    first_line(&folder.join(name))
}

#[cfg(all(test, feature = "pkcs11"))]
mod tests {
    use super::*;
    use crate::failure::Told;

    #[test]
    fn a_credential_is_a_file_of_its_folder_and_of_no_other() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path().join("credentials");
        std::fs::create_dir(&at).unwrap();
        std::fs::write(at.join("pin"), "123456\n").unwrap();
        std::fs::write(folder.path().join("pin"), "654321\n").unwrap();
        assert_eq!(credential(Some(&at), "pin").unwrap().expose(), b"123456");
        for (folder, name) in [(Some(at.as_path()), "../pin"), (Some(at.as_path()), ""), (None, "pin")] {
            let told = Told::of(&credential(folder, name).unwrap_err()).text();
            assert!(told.starts_with("error[configuration]:") && !told.contains("123456"), "{told}");
        }
    }
}
