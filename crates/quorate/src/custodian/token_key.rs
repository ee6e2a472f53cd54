//! `quorate custodian key create`: a customer's folder whose key is made inside a token, and stays there.

use super::home::refused;
use super::keys::CustomerFolder;
use super::pin::PinSource;
use crate::failure::Stop;
use crate::files;
use crate::passphrase::Passphrases;
use anyhow::Context as _;
use quorate_crypto::customer::PartSuite;
use quorate_fragment::token::create;
use quorate_server::env::Env;
use std::path::PathBuf;

/// `quorate custodian key create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// The vendor's PKCS#11 library, by its whole path.
    #[arg(long, value_name = "MODULE")]
    pub(crate) pkcs11: PathBuf,
    /// The token: its serial number, or its label.
    #[arg(long)]
    pub(crate) token: String,
    /// The label of the key to make.
    #[arg(long, value_name = "LABEL", default_value = "quorate-customer")]
    pub(crate) key: String,
    /// The customer's folder to make.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
    /// 1: P-256 in the token and ML-KEM-768 in a file that the token opens; 2: P-256 alone.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=2))]
    suite: u8,
    /// The trust domain of the custodian's callers: the customer's own.
    #[arg(long)]
    trust_domain: String,
    #[command(flatten)]
    pin: PinSource,
}

impl Create {
    /// Makes the folder, and the key last: what is asked for on the way has been answered by then.
    pub(crate) fn run(&self, passphrases: &Passphrases, env: &Env) -> anyhow::Result<CustomerFolder> {
        let suite = PartSuite::from_u8(self.suite).context("--suite")?;
        if self.key.is_empty() || self.token.is_empty() {
            return Err(Stop::configuration("--token and --key must not be empty"));
        }
        let pin = self.pin.read(None, std::slice::from_ref(&self.token))?;
        CustomerFolder::make(&self.out, &self.trust_domain, passphrases, env, |folder| {
            let made = create(&self.pkcs11, &self.token, &self.key, suite, &pin, &mut env.rng());
            let made = made.map_err(|why| refused(&why))?;
            if let Some(kem) = &made.kem {
                files::make(&folder.file("fragment.kem"), kem, files::PRIVATE)?;
            }
            Ok(made.public)
        })
    }
}
