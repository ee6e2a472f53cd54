//! Opens the fragment where the configuration says that it lives.

use super::config::{CustodianConfig, Home};
use super::pin::PinSource;
use crate::connection::open_fragment;
use crate::failure::Stop;
use crate::passphrase::Passphrases;
use quorate_fragment::Fragment;

#[cfg(feature = "pkcs11")]
use super::config::TokenConfig;

impl CustodianConfig {
    /// The fragment, ready to be asked.
    pub(crate) fn open_home(&self, pins: &PinSource) -> anyhow::Result<Fragment> {
        match self.home().map_err(|(key, why)| Stop::configuration(format!("`{key}`: {why}")))? {
            Home::File { fragment, passphrase_file } => {
                let secret = open_fragment(fragment, &Passphrases::file(passphrase_file))?;
                #[cfg(feature = "failpoints")]
                quorate_server::leak::plant("leak.fragment", secret.encode().expose());
                Ok(Fragment::File(secret))
            }
            #[cfg(feature = "pkcs11")]
            Home::Tokens(tokens) => {
                let settings = tokens.settings()?;
                let pin = pins.read(tokens.pin_credential.as_deref(), &tokens.tokens)?;
                let pool = quorate_fragment::token::Pool::open(settings, pin).map_err(|why| refused(&why))?;
                Ok(Fragment::Token(pool))
            }
            #[cfg(not(feature = "pkcs11"))]
            Home::Tokens(_) => {
                let _ = pins;
                let what = "`pkcs11`: this binary was built without the feature `pkcs11`, and knows key files only";
                Err(Stop::configuration(what))
            }
        }
    }
}

#[cfg(feature = "pkcs11")]
impl TokenConfig {
    /// What the pool of sessions is told.
    pub(crate) fn settings(&self) -> anyhow::Result<quorate_fragment::token::Settings> {
        Ok(quorate_fragment::token::Settings {
            module: self.module.clone(),
            tokens: self.tokens.clone(),
            key: self.key.clone(),
            public: super::keys::read_public(&self.public)?,
            kem: self.kem.as_deref().map(crate::files::read).transpose()?,
            sessions: self.sessions,
            timing: quorate_fragment::token::Timing::default(),
        })
    }
}

/// What a token refuses, with its code; a PIN that must not be given again by itself ends with 77, so that no service manager does.
#[cfg(feature = "pkcs11")]
pub(crate) fn refused(why: &quorate_fragment::token::TokenError) -> anyhow::Error {
    if why.is_final() {
        return Stop::NotAgain { code: why.code(), message: why.to_string(), hint: why.hint() }.into();
    }
    Stop::refused(why.code(), why, why.hint())
}
