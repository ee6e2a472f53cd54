//! `quorate custodian key backup` and `restore`: a fragment in a file, kept k of m.

use super::keys::CustomerFolder;
use crate::connection::{FRAGMENT, open_fragment};
use crate::failure::Stop;
use crate::files;
use crate::output::Format;
use crate::passphrase::Passphrases;
use anyhow::Context as _;
use quorate_crypto::backup::{BackupError, BackupShare, backup, restore};
use quorate_crypto::customer::CustomerSecret;
use quorate_server::env::Env;
use quorate_state::ids::hex;
use serde_json::json;
use std::path::{Path, PathBuf};
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

/// `quorate custodian key backup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Backup {
    /// The customer's folder, whose fragment.key is backed up.
    #[arg(long, value_name = "FOLDER")]
    customer: PathBuf,
    /// How many shares to make.
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..))]
    shares: u8,
    /// How many of them restore the key.
    #[arg(long, value_parser = clap::value_parser!(u8).range(2..))]
    threshold: u8,
    /// The folder for the shares: each is to go somewhere else from there.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// `quorate custodian key restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct Restore {
    /// A share; once for each.
    #[arg(long = "share", value_name = "FILE", required = true)]
    shares: Vec<PathBuf>,
    /// The key file to make, sealed by a new passphrase: fragment.key of the customer's folder.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Backup {
    /// Makes the shares, reads them again, and restores the key from each before it says that there is a backup.
    pub(crate) fn run(&self, passphrases: &Passphrases, output: Format) -> anyhow::Result<()> {
        let fragment = CustomerFolder(self.customer.clone()).file("fragment.key");
        let secret = open_fragment(&fragment, passphrases)?;
        let shares = backup(&secret, self.threshold, self.shares, &mut Env::system().rng());
        let shares = shares.map_err(|why| refused(&why, None))?;
        files::private_folder(&self.out)?;
        let mut made = Vec::new();
        for share in &shares {
            let path = self.out.join(format!("share-{}-of-{}.key", share.index(), share.shares()));
            files::make(&path, &share.encode(), files::PRIVATE)?;
            made.push(path);
        }
        let read = made.iter().map(|path| read_share(path)).collect::<anyhow::Result<Vec<_>>>()?;
        self.try_out(read, &secret)?;
        let (id, set) = (hex(&secret.public().id()), shares.first().map(|s| hex(&s.set())).unwrap_or_default());
        let document = json!({
            "customer_key_id": id,
            "backup": set,
            "shares": made,
            "threshold": self.threshold,
        });
        output.show(&document, || {
            let list: String = made.iter().map(|path| format!("  {}\n", path.display())).collect();
            format!(
                "customer key {id}, backup {set}: any {} of these restore it, which was tried with each\n{list}\
                 next: take each to another place and another person, and remove it here. {} of them are the key: \
                 nothing else is needed\n",
                self.threshold, self.threshold
            )
        })
    }

    /// Restores from as many as it takes, until each share was among them.
    fn try_out(&self, mut read: Vec<BackupShare>, secret: &CustomerSecret) -> anyhow::Result<()> {
        let (expected, needed) = (secret.encode(), usize::from(self.threshold));
        for _ in 0..read.len() {
            let tried = read.get(..needed).unwrap_or_default();
            let restored = restore(tried).map_err(|why| refused(&why, None))?;
            anyhow::ensure!(
                bool::from(restored.encode().expose().ct_eq(expected.expose())),
                "the shares do not give the key back: do not rely on them"
            );
            read.rotate_left(1);
        }
        Ok(())
    }
}

impl Restore {
    /// Puts the key together and seals it anew.
    pub(crate) fn run(&self, passphrases: &Passphrases, output: Format) -> anyhow::Result<()> {
        let shares = self.shares.iter().map(|path| read_share(path)).collect::<anyhow::Result<Vec<_>>>()?;
        let named = |why: &BackupError| {
            let index = match why {
                BackupError::OtherKey { index } | BackupError::OtherBackup { index } | BackupError::Twice { index } => {
                    index
                }
                _ => return None,
            };
            let mut with = shares.iter().zip(&self.shares).filter(|(share, _)| share.index() == *index);
            with.next_back().map(|(_, path)| path.as_path())
        };
        let secret = restore(&shares).map_err(|why| refused(&why, named(&why)))?;
        let sealed =
            passphrases.seal(FRAGMENT, "the restored key", secret.encode().expose(), &mut Env::system().rng())?;
        files::make(&self.out, &sealed, files::PRIVATE)?;
        let id = hex(&secret.public().id());
        output.show(&json!({ "customer_key_id": id, "fragment": self.out }), || {
            format!(
                "{} holds customer key {id} again\nnext: compare the id with fragment.toml, then start the custodian with it\n",
                self.out.display()
            )
        })
    }
}

fn read_share(path: &Path) -> anyhow::Result<BackupShare> {
    let bytes = Zeroizing::new(std::fs::read(path).with_context(|| path.display().to_string())?);
    BackupShare::decode(&bytes).map_err(|why| refused(&why, Some(path)))
}

fn refused(why: &BackupError, path: Option<&Path>) -> anyhow::Error {
    let (code, hint) = match why {
        BackupError::Bounds { .. } => ("backup_bounds", "choose --threshold 2 or more, and not more than --shares"),
        BackupError::NotAShare | BackupError::UnknownVersion(_) => (
            "wrong_key_file",
            "name files that `quorate custodian key backup` of this release or an older one has made",
        ),
        BackupError::Damaged => {
            ("share_damaged", "leave it out and give another share; take a fresh backup afterwards")
        }
        BackupError::OtherKey { .. } | BackupError::OtherBackup { .. } => {
            ("shares_mixed", "give shares that were made together: the first one counts")
        }
        BackupError::Twice { .. } => ("shares_mixed", "give each share once"),
        BackupError::TooFew { .. } => ("shares_too_few", "give more shares of the same backup"),
        BackupError::DoNotFit => ("shares_do_not_fit", "try other shares of the same backup: one of these was changed"),
        BackupError::Randomness => ("failed", "try again"),
    };
    let message = path.map_or_else(|| why.to_string(), |path| format!("{}: {why}", path.display()));
    Stop::refused(code, message, hint)
}
